//! The counts by packet id, and traces, beside what the clients have sent and received.

use server_core::testing::{
    DEADLINE, RawClient, RawPacket, SimClient, SimServer, for_each_seed, packet, wait_until,
};
use server_core::{
    Context, DisconnectReason, GroupId, Kick, Packet, PacketDirection, Server, ServerBuilder,
    Session, Trace, TraceEvent, TraceKind, TraceTarget,
};
use std::net::Ipv4Addr;
use std::time::Duration;

server_core::packets! {
    /// All packets.
    const PACKETS;
    client 1 => CAll + bytes;
    client 2 => CGroup;
    client 3 => CMe { code: u16 };
    server 4 => SAll + bytes;
    server 5 => SGroup;
    server 6 => SMe;
    server 7 => SBye;
    part Unused { x: u8 };
}

const GROUP: GroupId = GroupId::new(1, 1);
const MINUTE: Duration = Duration::from_secs(60);

/// Sends each kind of packet in each way.
struct Player;

impl Session for Player {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        ctx.join(GROUP).unwrap();
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        match packet.id() {
            CAll::ID => {
                // A packet before the broadcast, and one behind it.
                ctx.send_packet(&SMe);
                ctx.broadcast(&SAll, packet.payload());
                ctx.send_packet(&SMe);
            }
            CGroup::ID => ctx.broadcast_packet_to_others(GROUP, &SGroup),
            CMe::ID => ctx.send_packet(&SMe),
            _ => return Err(Kick::UnknownId),
        }
        Ok(())
    }
}

fn builder(workers: usize) -> ServerBuilder {
    (Server::builder().workers(workers).packets(PACKETS)).close_message(|_| Some((SBye, [])))
}

fn start(workers: usize) -> Server {
    builder(workers).start("127.0.0.1:0", |_| Player).unwrap()
}

fn connect(server: &Server) -> RawClient {
    let mut client = RawClient::connect(server.local_addr()).with_deadline(DEADLINE);
    // The session is there when it has answered.
    client.send(&packet(CMe::ID, [0, 0]));
    assert_eq!(client.next_packet(), RawPacket::new(SMe::ID, b""));
    client
}

/// Packets and bytes of an id, or of the ids without a name.
fn count(server: &Server, direction: PacketDirection, id: Option<u16>) -> (u64, u64) {
    let counts = server.handle().metrics().packets_by_id();
    let mut counts = counts
        .iter()
        .filter(|count| count.direction == direction && count.packet.map(|packet| packet.id) == id);
    let count = counts.next().unwrap();
    assert!(counts.next().is_none());
    (count.packets, count.bytes)
}

/// Sessions come, end and get packets of their own between the broadcasts of a turn.
#[test]
fn counts_of_a_turn_are_those_of_the_clients_in_any_order() {
    for_each_seed(50, |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut server = SimServer::start(seed, builder(2), |_| Player);
        let mut clients = vec![server.connect()];
        for _ in 0..300 {
            let to = rng.choice(&clients).and_then(SimClient::id);
            let handle = server.handle().clone();
            match (rng.u8(0..12), to) {
                (0, _) => clients.push(server.connect()),
                (1, Some(to)) => handle.close(to),
                (2 | 3, Some(to)) => handle.send_packet_to(to, &SMe),
                (4, _) => handle.broadcast_to(GROUP, &SGroup, []),
                (5, _) => server.advance(Duration::ZERO),
                _ => handle.broadcast(&SAll, b"abc"),
            }
        }
        server.advance(Duration::from_secs(1));
        let packets: Vec<_> = clients.iter_mut().flat_map(SimClient::packets).collect();
        for count in server.handle().metrics().packets_by_id() {
            let Some(packet) = count.packet else { continue };
            if count.direction == PacketDirection::Sent {
                let came = packets.iter().filter(|came| came.id == packet.id).count();
                assert!(came > 0, "{}", packet.name);
                assert_eq!(count.packets, came as u64, "{}", packet.name);
            }
        }
    });
}

#[test]
fn counts_by_id_are_those_of_the_clients() {
    use PacketDirection::{Received, Sent};
    for workers in [1, 3] {
        let server = start(workers);
        let mut clients: Vec<RawClient> = (0..5).map(|_| connect(&server)).collect();
        for _ in 0..20 {
            clients[0].send(&packet(CAll::ID, b"abc"));
            clients[1].send(&packet(CGroup::ID, b""));
        }
        // Of the packets of one client, all have arrived when the last one has its answer.
        let mut seen = [0; 8];
        for (index, client) in clients.iter_mut().enumerate() {
            let wanted = 20 + if index == 0 { 40 } else { 0 } + if index == 1 { 0 } else { 20 };
            for _ in 0..wanted {
                seen[usize::from(client.next_packet().id)] += 1;
            }
        }
        assert_eq!(seen, [0, 0, 0, 0, 100, 80, 40, 0]);
        // A broadcast is counted when it has been written to all.
        wait_until("the broadcasts are counted", || {
            count(&server, Sent, Some(SAll::ID)).0 == 100
        });
        assert_eq!(count(&server, Sent, Some(SAll::ID)), (100, 700));
        assert_eq!(count(&server, Sent, Some(SGroup::ID)), (80, 320));
        assert_eq!(count(&server, Sent, Some(SMe::ID)), (45, 180));
        assert_eq!(count(&server, Received, Some(CAll::ID)), (20, 140));
        assert_eq!(count(&server, Received, Some(CGroup::ID)), (20, 80));
        assert_eq!(count(&server, Received, Some(CMe::ID)), (5, 30));

        // An id that no client may send, and one that no packet has: each ends its session with a close message.
        for id in [SAll::ID, 999] {
            let mut client = clients.pop().unwrap();
            client.send(&packet(id, b"12"));
            assert_eq!(client.next_packet(), RawPacket::new(SBye::ID, b""));
        }
        assert_eq!(count(&server, Received, None), (2, 12));
        assert_eq!(count(&server, Sent, Some(SBye::ID)), (2, 8));
        assert_eq!(count(&server, Sent, None), (0, 0));

        let counts = server.handle().metrics().packets_by_id();
        let sum = |direction: PacketDirection| -> u64 {
            let of_direction = counts.iter().filter(|count| count.direction == direction);
            of_direction.map(|count| count.packets).sum()
        };
        let totals = server.handle().metrics().totals();
        assert_eq!(sum(Received), totals.packets_received);
        wait_until("the close messages are sent", || {
            server.handle().metrics().totals().packets_sent == sum(Sent)
        });
    }
}

#[test]
fn packet_above_the_rate_counts_by_its_id() {
    let server = (Server::builder().workers(1).packets(PACKETS))
        .max_packets_per_sec(Some(1))
        .start("127.0.0.1:0", |_| Player)
        .unwrap();
    let mut client = RawClient::connect(server.local_addr()).with_deadline(DEADLINE);
    client.send(&packet(CMe::ID, [0, 0]).repeat(9));
    wait_until("the kick", || {
        let totals = server.handle().metrics().totals();
        totals.disconnects_for(Kick::RateLimit) == 1
    });
    let received = server.handle().metrics().totals().packets_received;
    assert_eq!(
        count(&server, PacketDirection::Received, Some(CMe::ID)).0,
        received
    );
}

#[test]
fn without_declared_packets_nothing_is_counted_by_id() {
    let server = Server::builder().start("127.0.0.1:0", |_| Player).unwrap();
    let _client = connect(&server);
    assert!(server.handle().metrics().packets_by_id().is_empty());
}

fn kinds(trace: &Trace) -> Vec<TraceKind> {
    trace.events().iter().map(|event| event.kind).collect()
}

fn traced(direction: PacketDirection, id: u16, name: &'static str, bytes: usize) -> TraceKind {
    TraceKind::Packet {
        direction,
        id,
        name: Some(name),
        bytes,
    }
}

#[test]
fn trace_of_a_session_has_its_packets_and_its_end_alone() {
    let server = start(1);
    let (mut one, mut other) = (connect(&server), connect(&server));
    let sessions = server_sessions(&server);
    let one_addr = one.sender().local_addr().unwrap();
    let id = sessions
        .iter()
        .find(|info| info.addr == one_addr)
        .unwrap()
        .id;
    let handle = server.handle();
    let trace = handle.trace(TraceTarget::Session(id), MINUTE).unwrap();
    other.send(&packet(CMe::ID, [0, 0]));
    assert_eq!(other.next_packet().id, SMe::ID);
    assert!(trace.events().is_empty() && trace.is_running());

    one.send(&packet(CAll::ID, b"abc"));
    for id in [SMe::ID, SAll::ID, SMe::ID] {
        assert_eq!(one.next_packet().id, id);
    }
    other.send(&packet(CAll::ID, b"x"));
    other.send(&packet(CGroup::ID, b""));
    for id in [SAll::ID, SGroup::ID] {
        assert_eq!(one.next_packet().id, id);
    }
    one.send(&packet(999, b"1"));
    assert_eq!(one.next_packet().id, SBye::ID);
    wait_until("the trace is over", || !trace.is_running());
    use PacketDirection::{Received, Sent};
    let unknown = TraceKind::Packet {
        direction: Received,
        id: 999,
        name: None,
        bytes: 5,
    };
    let expected = [
        traced(Received, CAll::ID, "CAll", 7),
        traced(Sent, SMe::ID, "SMe", 4),
        traced(Sent, SAll::ID, "SAll", 7),
        traced(Sent, SMe::ID, "SMe", 4),
        traced(Sent, SAll::ID, "SAll", 5),
        traced(Sent, SGroup::ID, "SGroup", 4),
        unknown,
        traced(Sent, SBye::ID, "SBye", 4),
        TraceKind::Disconnected(Kick::UnknownId.into()),
    ];
    assert_eq!(kinds(&trace), expected);
    assert_eq!(trace.dropped(), 0);
    assert!(
        trace
            .events()
            .iter()
            .all(|event: &TraceEvent| event.session == id)
    );
}

/// The statistics of all sessions.
fn server_sessions(server: &Server) -> Vec<server_core::snapshot::SessionInfo> {
    let mut snapshot = server.handle().snapshot().unwrap();
    let mut sessions = None;
    wait_until("the workers answer", || {
        sessions = snapshot.poll().unwrap();
        sessions.is_some()
    });
    sessions.unwrap()
}

#[test]
fn trace_of_an_address_has_later_sessions_and_a_bound() {
    let server = start(2);
    let handle = server.handle();
    let target = TraceTarget::Address(Ipv4Addr::LOCALHOST.into());
    let trace = handle.trace(target, MINUTE).unwrap();
    let elsewhere = TraceTarget::Address(Ipv4Addr::new(127, 9, 9, 9).into());
    let empty = handle.trace(elsewhere, MINUTE).unwrap();
    drop(connect(&server));
    let left = TraceKind::Disconnected(DisconnectReason::PeerClosed);
    wait_until("the session has left", || kinds(&trace).contains(&left));
    assert_eq!(kinds(&trace)[0], TraceKind::Connected);
    // Its connect, a packet and the answer, the close message, its end.
    assert_eq!(kinds(&trace).len(), 5);
    assert!(trace.is_running() && empty.events().is_empty());

    let mut client = connect(&server);
    for _ in 0..2_000 {
        client.send(&packet(CMe::ID, [0, 0]));
        assert_eq!(client.next_packet().id, SMe::ID);
    }
    assert_eq!(trace.events().len(), 1024);
    // Those of the first session, of the second's connect and first packet, and of 2,000 packets and answers.
    assert_eq!(trace.dropped() + 1024, 5 + 3 + 4_000);
}

#[test]
fn traces_end_by_time_and_by_their_drop_and_are_few() {
    let server = start(1);
    let mut client = connect(&server);
    let handle = server.handle();
    let target = TraceTarget::Address(Ipv4Addr::LOCALHOST.into());
    let short = handle.trace(target, Duration::ZERO).unwrap();
    assert!(!short.is_running());
    let mut traces: Vec<Trace> = (0..8)
        .map(|_| handle.trace(target, MINUTE).unwrap())
        .collect();
    assert!(handle.trace(target, MINUTE).is_none());
    traces.pop();
    traces.push(handle.trace(target, MINUTE).unwrap());
    client.send(&packet(CMe::ID, [0, 0]));
    assert_eq!(client.next_packet().id, SMe::ID);
    assert!(traces.iter().all(|trace| trace.events().len() == 2));
    assert!(short.events().is_empty());
}
