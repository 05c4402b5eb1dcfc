//! The cost of a packet that only some sessions get: 10,000 sessions in 100 groups of 100.
//!
//! The sockets of this bench take everything and cost nothing, so a row is the work of the library, from the
//! call on another thread to the write to the last socket. Compare the rows of one run.

use bytemuck::{Pod, Zeroable};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use rig::{Rig, session};
use server_core::wire::U64Le;
use server_core::{Context, GroupId, Kick, Packet, PacketHead, SendBuffer, Session, SessionId};
use std::sync::Arc;

#[path = "util/rig.rs"]
mod rig;

const SESSIONS: usize = 10_000;
const MEMBERS: usize = 100;
const GROUPS: usize = SESSIONS / MEMBERS;

fn main() {
    divan::main();
}

/// A packet to a group of 100 sessions: it is written once, and posted as one command.
#[divan::bench]
fn to_a_group(bencher: Bencher<'_, '_>) {
    let mut members = Members::new();
    let mut group = 0;
    bencher.counter(ItemsCount::new(MEMBERS)).bench_local(|| {
        group = (group + 1) % GROUPS;
        let router = &members.rig.shared.router;
        router.broadcast_to(group_of(group), None, &members.hello());
        members.turn(MEMBERS);
    });
}

/// A packet to the same 100 sessions, one after the other: it is written and posted 100 times.
#[divan::bench]
fn to_each_member(bencher: Bencher<'_, '_>) {
    let mut members = Members::new();
    let mut group = 0;
    bencher.counter(ItemsCount::new(MEMBERS)).bench_local(|| {
        group = (group + 1) % GROUPS;
        for id in members_of(group) {
            members.rig.shared.router.send(id, members.hello());
        }
        members.turn(MEMBERS);
    });
}

/// A packet to all 10,000 sessions: the cost if each client had to find out which packets are for it.
#[divan::bench]
fn to_all(bencher: Bencher<'_, '_>) {
    let mut members = Members::new();
    bencher.counter(ItemsCount::new(SESSIONS)).bench_local(|| {
        members.rig.shared.router.broadcast(&members.hello());
        members.turn(SESSIONS);
    });
}

/// A join of a second group and a leave, on the session's own worker. The group has other members.
#[divan::bench]
fn join_and_leave(bencher: Bencher<'_, '_>) {
    let directory = Arc::default();
    let mut groups = server_core::groups::members::Groups::new(0, directory, 64);
    for n in 0..SESSIONS {
        let joined = groups.join(session(n), group_of(n / MEMBERS));
        joined.expect("the session is in no other group");
    }
    let mut n = 0;
    bencher.bench_local(|| {
        n = (n + 1) % SESSIONS;
        let other = group_of((n / MEMBERS + 1) % GROUPS);
        let joined = groups.join(black_box(session(n)), other);
        joined.expect("the session is in one other group");
        assert!(groups.leave(session(n), other));
    });
}

fn group_of(number: usize) -> GroupId {
    GroupId::new(1, number as u32)
}

/// The members of a group. Neighbours in a group are not neighbours in memory, because sessions do not
/// connect in the order of groups.
fn members_of(group: usize) -> impl Iterator<Item = SessionId> {
    (0..MEMBERS).map(move |n| session(n * GROUPS + group))
}

/// The sessions, in their groups.
struct Members {
    rig: Rig<Silent>,
    packets: u64,
}

impl Members {
    fn new() -> Self {
        let rig = Rig::new(SESSIONS, |_| Silent);
        for group in 0..GROUPS {
            members_of(group).for_each(|id| rig.shared.router.join(id, group_of(group)));
        }
        let mut members = Self { rig, packets: 0 };
        members.turn(0);
        members
    }

    fn hello(&self) -> SendBuffer {
        let hello = Hello { tick: 7.into() };
        let packet = self.rig.shared.buffers.encode(&hello, b"Hello World");
        packet.expect("the packet is small")
    }

    /// Runs a turn. It has to send `packets` packets.
    fn turn(&mut self, packets: usize) {
        self.rig.turn();
        self.packets += packets as u64;
        let sent = self.rig.shared.metrics.worker(0).packets_sent.get();
        assert_eq!(sent, self.packets);
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Hello {
    tick: U64Le,
}
impl PacketHead for Hello {
    const ID: u16 = 1;
}

struct Silent;

impl Session for Silent {
    fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
        Ok(())
    }
}
