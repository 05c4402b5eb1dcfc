//! Groups over real sockets, on several workers. The peers are raw `std::net` clients.

use server_core::testing::{DEADLINE, RawClient, RawPacket};
use server_core::{
    Context, DisconnectReason, GroupId, Kick, Packet, Peer, Server, ServerBuilder, ServerHandle,
    Session, SessionId,
};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

const WORKERS: usize = 3;

const ROOM: GroupId = GroupId::new(1, 7);
const ZONE: GroupId = GroupId::new(2, 7);
const NOBODY: GroupId = GroupId::new(3, 7);

server_core::packets! {
    client 10 => CJoin { group: u64 };
    client 11 => CLeave { group: u64 };
    /// To all members, from the sender's own callback.
    client 12 => CSay { group: u64 } + bytes;
    client 13 => CSayToOthers { group: u64 } + bytes;
    /// Joins, sends, leaves and answers, in one callback.
    client 14 => CPass { group: u64 } + bytes;
    server 1 => SSaid { who: u64 } + bytes;
    /// Whether a join or a leave has changed anything.
    server 2 => SDone { was_done: u8 };
    server 3 => SGone { who: u64, group: u64 };
}

/// In place of a session.
const OUTSIDE: u64 = 0;

struct Member {
    ids: Sender<(SessionId, bool)>,
}

impl Session for Member {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        let _ = self.ids.send((ctx.id(), true));
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        let who = ctx.id().to_u64().into();
        let done = |was_done: bool| SDone {
            was_done: was_done.into(),
        };
        match packet.id() {
            CJoin::ID => {
                let group = GroupId::from_u64(packet.decode::<CJoin>()?.group.get());
                let joined = ctx.join(group).is_ok();
                assert_eq!(
                    (joined, joined),
                    (ctx.is_in(group), ctx.groups().contains(&group))
                );
                ctx.send_packet(&done(joined));
            }
            CLeave::ID => {
                let group = GroupId::from_u64(packet.decode::<CLeave>()?.group.get());
                let left = ctx.leave(group);
                assert!(!ctx.is_in(group));
                ctx.send_packet(&done(left));
            }
            CSay::ID => {
                let (say, bytes) = packet.decode::<CSay>()?;
                ctx.broadcast_to(GroupId::from_u64(say.group.get()), &SSaid { who }, bytes);
            }
            CSayToOthers::ID => {
                let (say, bytes) = packet.decode::<CSayToOthers>()?;
                let group = GroupId::from_u64(say.group.get());
                ctx.broadcast_to_others(group, &SSaid { who }, bytes);
            }
            CPass::ID => {
                let (pass, bytes) = packet.decode::<CPass>()?;
                let group = GroupId::from_u64(pass.group.get());
                ctx.join(group).map_err(|_| Kick::BadPayload)?;
                ctx.broadcast_to(group, &SSaid { who }, bytes);
                ctx.leave(group);
                ctx.send_packet(&done(true));
            }
            _ => return Err(Kick::UnknownId),
        }
        Ok(())
    }

    fn on_disconnected(&mut self, ctx: &mut Context<'_>, _: DisconnectReason) {
        for group in ctx.groups() {
            let gone = SGone {
                who: ctx.id().to_u64().into(),
                group: group.to_u64().into(),
            };
            ctx.broadcast_packet_to(group, &gone);
        }
        // Too late: it must not be a member of anything afterwards.
        let _ = ctx.join(NOBODY);
        let _ = self.ids.send((ctx.id(), false));
    }
}

struct Running {
    server: Server,
    handle: ServerHandle,
    /// A session id, with `true` at its connect and `false` at its disconnect.
    ids: Receiver<(SessionId, bool)>,
}

fn builder() -> ServerBuilder {
    Server::builder().workers(WORKERS)
}

fn start(builder: ServerBuilder) -> Running {
    let (sender, ids) = channel();
    let sender = Mutex::new(sender);
    let factory = move |_: Peer| Member {
        ids: sender.lock().unwrap().clone(),
    };
    let server = builder
        .workers(WORKERS)
        .start("127.0.0.1:0", factory)
        .unwrap();
    Running {
        handle: server.handle(),
        server,
        ids,
    }
}

impl Running {
    fn connect(&self) -> Client {
        let raw = RawClient::connect(self.server.local_addr());
        let (id, has_come) = self.ids.recv_timeout(DEADLINE).unwrap();
        assert!(has_come);
        Client { raw, id }
    }

    /// The least loaded worker is next, so this is an equal number on each.
    fn connect_on_each(&self, per_worker: usize) -> Vec<Client> {
        let clients: Vec<Client> = (0..per_worker * WORKERS).map(|_| self.connect()).collect();
        for worker in 0..WORKERS {
            let its = clients.iter().filter(|client| client.id.worker() == worker);
            assert_eq!(its.count(), per_worker);
        }
        clients
    }

    fn wait_for_departure(&self, id: SessionId) {
        assert_eq!(self.ids.recv_timeout(DEADLINE).unwrap(), (id, false));
    }

    fn say(&self, group: GroupId, bytes: &[u8]) {
        self.handle.broadcast_to(group, &said(OUTSIDE), bytes);
    }
}

fn said(who: u64) -> SSaid {
    SSaid { who: who.into() }
}

struct Client {
    raw: RawClient,
    id: SessionId,
}

impl Client {
    fn send(&mut self, packet_id: u16, group: GroupId, bytes: &[u8]) {
        let payload = [&group.to_u64().to_le_bytes()[..], bytes].concat();
        self.raw.send_packet(packet_id, payload);
    }

    fn ask(&mut self, packet_id: u16, group: GroupId) -> bool {
        self.send(packet_id, group, b"");
        let done = self.raw.next_packet();
        assert_eq!(done.id, SDone::ID);
        done.payload == [1]
    }

    fn join(&mut self, group: GroupId) -> bool {
        self.ask(CJoin::ID, group)
    }

    fn leave(&mut self, group: GroupId) -> bool {
        self.ask(CLeave::ID, group)
    }

    fn hears(&mut self, who: u64, bytes: &[u8]) {
        let expected = [&who.to_le_bytes()[..], bytes].concat();
        let expected = RawPacket::new(SSaid::ID, expected);
        assert_eq!(self.raw.next_packet(), expected, "{}", self.id);
    }

    /// Expects the departure of `who` from each of its groups, in any order.
    fn hears_of_departure(&mut self, who: SessionId, groups: &[GroupId]) {
        let told = |group: &GroupId| {
            let payload = [who.to_u64().to_le_bytes(), group.to_u64().to_le_bytes()].concat();
            RawPacket::new(SGone::ID, payload)
        };
        let mut expected: Vec<_> = groups.iter().map(told).collect();
        let mut heard: Vec<_> = groups.iter().map(|_| self.raw.next_packet()).collect();
        expected.sort();
        heard.sort();
        assert_eq!(heard, expected);
    }
}

/// Ends the input of every client: a broadcast of a thread arrives behind all that the same thread has
/// posted before. What a client received before the end is all that it was sent.
fn all_hear_the_end(running: &Running, clients: &mut [Client]) {
    running.handle.broadcast(&said(OUTSIDE), b"the end");
    for client in clients {
        client.hears(OUTSIDE, b"the end");
    }
}

#[test]
fn packet_to_a_group_reaches_its_members_on_all_workers_only() {
    let running = start(builder());
    let mut clients = running.connect_on_each(4);
    // Of the four on each worker: none, one group, the other, both.
    for (n, client) in clients.iter_mut().enumerate() {
        assert!((n / WORKERS) & 1 == 0 || client.join(ROOM));
        assert!((n / WORKERS) & 2 == 0 || client.join(ZONE));
    }
    running.say(ROOM, b"room");
    running.say(ZONE, b"zone");
    running.say(ROOM, b"room again");
    running.say(NOBODY, b"nobody");
    for (n, client) in clients.iter_mut().enumerate() {
        let (in_room, in_zone) = ((n / WORKERS) & 1 > 0, (n / WORKERS) & 2 > 0);
        in_room.then(|| client.hears(OUTSIDE, b"room"));
        in_zone.then(|| client.hears(OUTSIDE, b"zone"));
        in_room.then(|| client.hears(OUTSIDE, b"room again"));
    }
    all_hear_the_end(&running, &mut clients);
}

#[test]
fn member_broadcasts_to_all_members_or_to_the_others() {
    let running = start(builder());
    let mut clients = running.connect_on_each(2);
    for client in &mut clients {
        assert!(client.join(ROOM));
    }
    let speaker = clients[0].id;
    clients[0].send(CSay::ID, ROOM, b"to all");
    for client in &mut clients {
        client.hears(speaker.to_u64(), b"to all");
    }
    clients[0].send(CSayToOthers::ID, ROOM, b"to the others");
    for client in &mut clients[1..] {
        client.hears(speaker.to_u64(), b"to the others");
    }
    let handle = &running.handle;
    handle.broadcast_to_others(ROOM, clients[1].id, &said(OUTSIDE), b"except one");
    for (n, client) in clients.iter_mut().enumerate() {
        (n != 1).then(|| client.hears(OUTSIDE, b"except one"));
    }
    // A session that is not a member may send to the group, and receives nothing.
    assert!(clients[0].leave(ROOM));
    clients[0].send(CSay::ID, ROOM, b"from the door");
    for client in &mut clients[1..] {
        client.hears(speaker.to_u64(), b"from the door");
    }
    all_hear_the_end(&running, &mut clients);
}

#[test]
fn built_packet_reaches_one_or_all_or_a_group_and_each_begins_empty() {
    let running = start(builder());
    let mut clients = running.connect_on_each(1);
    for client in &mut clients[1..] {
        assert!(client.join(ROOM));
    }
    let (handle, head) = (&running.handle, said(OUTSIDE));
    let write = |text: &'static [u8]| {
        move |tail: &mut Vec<u8>| {
            assert!(tail.is_empty());
            tail.extend(text);
        }
    };
    handle.broadcast_built(&head, |tail| {
        tail.extend(b"to ");
        handle.broadcast_built_to(ROOM, &head, write(b"to the room, meanwhile"));
        tail.extend(b"all");
    });
    handle.broadcast_built_to_others(ROOM, clients[1].id, &head, write(b"except one"));
    handle.broadcast_built_to(ROOM, &head, |tail| tail.resize(1 << 20, 0)); // not sent
    handle.send_built(clients[0].id, &head, write(b"to one"));
    for client in &mut clients[1..] {
        client.hears(OUTSIDE, b"to the room, meanwhile");
    }
    for client in &mut clients {
        client.hears(OUTSIDE, b"to all");
    }
    for client in &mut clients[2..] {
        client.hears(OUTSIDE, b"except one");
    }
    clients[0].hears(OUTSIDE, b"to one");
    all_hear_the_end(&running, &mut clients);
}

#[test]
fn joins_and_leaves_through_the_handle_are_ordered_with_sends() {
    let running = start(builder());
    let mut clients = running.connect_on_each(2);
    for round in 0..200_u32 {
        let group = GroupId::new(round % 3, 1);
        for client in &clients {
            running.handle.join(client.id, group);
        }
        running.say(group, &round.to_le_bytes());
        for client in &clients {
            running.handle.leave(client.id, group);
        }
        running.say(group, b"too late");
    }
    for client in &mut clients {
        for round in 0..200_u32 {
            client.hears(OUTSIDE, &round.to_le_bytes());
        }
    }
    all_hear_the_end(&running, &mut clients);
}

#[test]
fn broadcast_after_a_reported_join_reaches_the_member() {
    let running = start(builder());
    let mut clients = running.connect_on_each(1);
    for round in 0..100_u32 {
        let group = GroupId::new(9, round);
        for n in 0..WORKERS {
            assert!(clients[n].join(group));
            // The answer reports the join, so another thread reaches all members that have joined so far.
            running.say(group, &[n as u8]);
            for member in &mut clients[..=n] {
                member.hears(OUTSIDE, &[n as u8]);
            }
        }
        // In one callback: a member at the time of the call, but none any more when it has returned.
        clients[0].send(CPass::ID, NOBODY, b"unheard");
        let done = clients[0].raw.next_packet();
        assert_eq!(done, RawPacket::new(SDone::ID, [1]));
        for client in &mut clients {
            assert!(client.leave(group));
            assert!(!client.leave(group));
        }
    }
    all_hear_the_end(&running, &mut clients);
}

#[test]
fn session_that_disconnects_leaves_its_groups() {
    let running = start(builder());
    let mut clients = running.connect_on_each(2);
    for client in &mut clients {
        assert!(client.join(ROOM) && client.join(ZONE));
    }
    let gone = clients.remove(0);
    let id = gone.id;
    drop(gone);
    running.wait_for_departure(id);
    for client in &mut clients {
        client.hears_of_departure(id, &[ROOM, ZONE]);
    }
    // Or is made to.
    let kicked = clients.remove(0);
    running.handle.close(kicked.id);
    running.wait_for_departure(kicked.id);
    for client in &mut clients {
        client.hears_of_departure(kicked.id, &[ROOM, ZONE]);
    }
    all_hear_the_end(&running, &mut clients);
}

#[test]
fn session_in_a_reused_slot_is_in_no_group() {
    // One worker, so that the next one comes to the same one: a place becomes free before the worker
    // counts as less loaded.
    let running = start(builder().workers(1));
    let mut witnesses: Vec<Client> = (0..3).map(|_| running.connect()).collect();
    for client in &mut witnesses {
        assert!(client.join(ZONE));
    }
    for round in 0..30 {
        let mut first = running.connect();
        assert!(first.join(ROOM));
        let id = first.id;
        drop(first);
        running.wait_for_departure(id);
        let mut second = running.connect();
        assert_eq!(second.id.slot(), id.slot());
        assert_ne!(second.id, id);
        // The id of a session that has left joins no group, neither for the session in its slot.
        running.handle.join(id, ZONE);
        running.say(ROOM, b"not for you");
        running.say(ZONE, &[round]);
        running
            .handle
            .send_to(second.id, &said(OUTSIDE), b"for you alone");
        second.hears(OUTSIDE, b"for you alone");
        for client in &mut witnesses {
            client.hears(OUTSIDE, &[round]);
        }
        let id = second.id;
        drop(second);
        running.wait_for_departure(id);
    }
    all_hear_the_end(&running, &mut witnesses);
}

#[test]
fn max_groups_per_session_reached_refuses_a_join() {
    let running = start(builder().max_groups_per_session(2));
    let mut clients = running.connect_on_each(1);
    let client = &mut clients[0];
    assert!(client.join(ROOM) && client.join(ZONE));
    assert!(client.join(ROOM), "in there it is already");
    assert!(!client.join(NOBODY), "the third is refused");
    running.handle.join(client.id, NOBODY);
    running.say(NOBODY, b"not for you");
    running.say(ZONE, b"for you");
    client.hears(OUTSIDE, b"for you");
    assert_eq!(running.handle.metrics().totals().joins_refused, 1);
    assert!(client.leave(ROOM));
    assert!(client.join(NOBODY), "there is room again");
    running.say(NOBODY, b"now for you");
    client.hears(OUTSIDE, b"now for you");
    all_hear_the_end(&running, &mut clients);
}
