//! The cost of a packet that only some sessions get: 10,000 sessions in 100 groups of 100.
//!
//! The sockets of this bench take everything and cost nothing, so a row is the work of the library, from the
//! call on another thread to the write to the last socket. Compare the rows of one run.

use bytemuck::{Pod, Zeroable};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use server_core::buffer::SendBufferManager;
use server_core::connection::admission::Admission;
use server_core::metrics::Metrics;
use server_core::routing::router::{NewConnection, Router};
use server_core::shard::{Shard, Shared};
use server_core::testing::FakeStream;
use server_core::wire::U64Le;
use server_core::{Config, Context, GroupId, Kick, Packet, PacketHead, Session, SessionId};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

const SESSIONS: usize = 10_000;
const MEMBERS: usize = 100;
const GROUPS: usize = SESSIONS / MEMBERS;

fn main() {
    divan::main();
}

/// A packet to a group of 100 sessions: it is written once, and posted as one command.
#[divan::bench]
fn to_a_group(bencher: Bencher<'_, '_>) {
    let mut rig = Rig::new();
    let mut group = 0;
    bencher.counter(ItemsCount::new(MEMBERS)).bench_local(|| {
        group = (group + 1) % GROUPS;
        let packet = rig
            .buffers
            .encode(&Hello { tick: 7.into() }, b"Hello World");
        rig.router
            .broadcast_to(group_of(group), None, &packet.expect("the packet is small"));
        rig.turn(MEMBERS);
    });
}

/// A packet to the same 100 sessions, one after the other: it is written and posted 100 times.
#[divan::bench]
fn to_each_member(bencher: Bencher<'_, '_>) {
    let mut rig = Rig::new();
    let mut group = 0;
    bencher.counter(ItemsCount::new(MEMBERS)).bench_local(|| {
        group = (group + 1) % GROUPS;
        for id in members_of(group) {
            let packet = rig
                .buffers
                .encode(&Hello { tick: 7.into() }, b"Hello World");
            rig.router.send(id, packet.expect("the packet is small"));
        }
        rig.turn(MEMBERS);
    });
}

/// A packet to all 10,000 sessions: the cost if each client had to find out which packets are for it.
#[divan::bench]
fn to_all(bencher: Bencher<'_, '_>) {
    let mut rig = Rig::new();
    bencher.counter(ItemsCount::new(SESSIONS)).bench_local(|| {
        let packet = rig
            .buffers
            .encode(&Hello { tick: 7.into() }, b"Hello World");
        rig.router.broadcast(&packet.expect("the packet is small"));
        rig.turn(SESSIONS);
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

fn session(slot: usize) -> SessionId {
    SessionId::new(1, 0, slot as u32)
}

/// The members of a group. Neighbours in a group are not neighbours in memory, because sessions do not
/// connect in the order of groups.
fn members_of(group: usize) -> impl Iterator<Item = SessionId> {
    (0..MEMBERS).map(move |n| session(n * GROUPS + group))
}

/// The share of one worker of a server, on this thread.
struct Rig {
    shard: Shard<FakeStream, Silent>,
    router: Arc<Router<FakeStream>>,
    buffers: SendBufferManager,
    metrics: Arc<Metrics>,
    now: Instant,
    packets: u64,
}

impl Rig {
    fn new() -> Self {
        let shared = Arc::new(Shared::for_tests(&Config::default(), 1, |_| Silent));
        let mut rig = Self {
            router: Arc::clone(&shared.router),
            buffers: shared.buffers.clone(),
            metrics: Arc::clone(&shared.metrics),
            shard: Shard::new(0, shared),
            now: Instant::now(),
            packets: 0,
        };
        let admission = Arc::new(Admission::new(1, None, None));
        for port in 0..SESSIONS {
            let permit = admission.admit(SocketAddr::from(([127, 0, 0, 1], port as u16)));
            rig.router.adopt(NewConnection {
                stream: FakeStream::sink(),
                permit: permit.expect("the admission has no limit"),
                tag: None,
                is_connecting: false,
            });
        }
        for group in 0..GROUPS {
            members_of(group).for_each(|id| rig.router.join(id, group_of(group)));
        }
        rig.turn(0);
        rig
    }

    /// Runs a turn, as a worker does. The turn has to send `packets` packets.
    fn turn(&mut self, packets: usize) {
        let (router, shard, now) = (&self.router, &mut self.shard, self.now);
        router.mailbox(0).take_some(|command| {
            shard.handle_command(command, now, |_, _| Ok(()));
            ControlFlow::Continue(())
        });
        shard.run(now);
        self.packets += packets as u64;
        assert_eq!(self.metrics.worker(0).packets_sent.get(), self.packets);
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
