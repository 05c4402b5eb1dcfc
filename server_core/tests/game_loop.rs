//! A game on a thread of its own, over real sockets.

use server_core::testing::{DEADLINE, RawClient, RawPacket, packet, wait_until};
use server_core::tick::Tick;
use server_core::{
    DisconnectReason, Game, GameContext, GameLoop, GroupId, Kick, Message, Packet, Server,
    ServerHandle, SessionId, TickMetrics,
};
use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const C_ECHO: u16 = 1;
const C_BAD: u16 = 2;
const C_PANIC: u16 = 3;
const C_LOGIN: u16 = 4;
const C_ROOM: u16 = 5;
const C_OTHERS: u16 = 6;
const ROOM: GroupId = GroupId::new(1, 1);

server_core::packets! {
    server 10 => SEcho + bytes;
    server 11 => STick { number: u64 } + bytes;
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Joined(SessionId),
    Packet(SessionId, Vec<u8>),
    Message(SessionId, u32),
    Left(SessionId, DisconnectReason),
}

/// A message that says it has 1,000 bytes.
struct Rank {
    number: u32,
    hold: Option<Receiver<()>>,
}

impl Message for Rank {
    fn bytes(&self) -> usize {
        1_000
    }
}

struct Recorder {
    events: Sender<Event>,
    thread: thread::ThreadId,
    sends_ticks: bool,
}

impl Recorder {
    fn note(&self, event: Event) {
        assert_eq!(thread::current().id(), self.thread);
        let _ = self.events.send(event);
    }
}

impl Game for Recorder {
    fn on_join(&mut self, _: &mut GameContext<'_>, player: SessionId) {
        self.note(Event::Joined(player));
    }

    fn on_packet(
        &mut self,
        ctx: &mut GameContext<'_>,
        player: SessionId,
        packet: Packet<'_>,
    ) -> Result<(), Kick> {
        match packet.id() {
            C_ECHO => ctx.send(player, &SEcho, packet.payload()),
            // Silent for the hook: the panic is not the news here.
            C_PANIC => std::panic::resume_unwind(Box::new("a bug in the game")),
            C_LOGIN => ctx.admit(player),
            C_ROOM => {
                ctx.join(player, ROOM);
                ctx.broadcast_built_to(ROOM, &SEcho, |tail| tail.extend(packet.payload()));
            }
            C_OTHERS => {
                let build = |tail: &mut Vec<u8>| tail.extend(packet.payload());
                ctx.broadcast_built_to_others(ROOM, player, &SEcho, build);
            }
            _ => return Err(Kick::BadPayload),
        }
        self.note(Event::Packet(player, packet.payload().to_vec()));
        Ok(())
    }

    fn on_message(
        &mut self,
        _: &mut GameContext<'_>,
        player: SessionId,
        message: Box<dyn Any + Send>,
    ) {
        let rank = message.downcast::<Rank>().unwrap();
        if let Some(hold) = rank.hold {
            // The game stands still until the test drops the other end.
            let _ = hold.recv();
        }
        self.note(Event::Message(player, rank.number));
    }

    fn on_leave(&mut self, _: &mut GameContext<'_>, player: SessionId, reason: DisconnectReason) {
        self.note(Event::Left(player, reason));
    }

    fn on_tick(&mut self, ctx: &mut GameContext<'_>, tick: Tick) {
        if self.sends_ticks {
            let number = tick.number.into();
            ctx.broadcast_built(&STick { number }, |tail| {
                assert!(tail.is_empty());
                tail.extend(b"to all");
            });
        }
    }
}

struct Running {
    server: Server,
    game: Option<JoinHandle<()>>,
    events: Receiver<Event>,
    metrics: Arc<TickMetrics>,
}

impl Running {
    fn start(game: GameLoop) -> Self {
        Self::start_with(game, false)
    }

    fn start_with(game: GameLoop, sends_ticks: bool) -> Self {
        let (sender, events) = channel();
        let builder = Server::builder()
            .workers(2)
            .login_timeout(Some(Duration::from_secs(3)));
        let server = builder.start("127.0.0.1:0", game.players()).unwrap();
        let (handle, metrics) = (server.handle(), game.metrics());
        let game = thread::spawn(move || {
            let recorder = Recorder {
                events: sender,
                thread: thread::current().id(),
                sends_ticks,
            };
            game.run(&handle, recorder);
        });
        Self {
            server,
            game: Some(game),
            events,
            metrics,
        }
    }

    fn next(&self) -> Event {
        self.events.recv_timeout(DEADLINE).unwrap()
    }

    fn join(&self) -> (RawClient, SessionId) {
        let client = RawClient::connect(self.server.local_addr());
        match self.next() {
            Event::Joined(id) => (client, id),
            other => panic!("{other:?}"),
        }
    }

    fn handle(&self) -> ServerHandle {
        self.server.handle()
    }
}

fn fast() -> GameLoop {
    GameLoop::new(Duration::from_millis(5))
}

#[test]
fn players_join_play_and_leave_in_order_on_one_thread() {
    const PACKETS: u32 = 200;
    let running = Running::start(fast());
    let (mut client, id) = running.join();
    let packets = (0..PACKETS).map(|number| packet(C_ECHO, number.to_le_bytes()));
    client.send(&packets.collect::<Vec<_>>().concat());
    // The packets before the FIN are handled, and then the player leaves.
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    for number in 0..PACKETS {
        assert_eq!(
            running.next(),
            Event::Packet(id, number.to_le_bytes().to_vec())
        );
    }
    assert_eq!(
        running.next(),
        Event::Left(id, DisconnectReason::PeerClosed)
    );
}

/// 40 players send ten seconds of input while the game stands still, as it does when a process is stopped. Each
/// may keep 32 of its 200 packets waiting.
#[test]
fn stall_of_the_game_kicks_no_honest_player_and_loses_no_packet() {
    const PLAYERS: usize = 40;
    const PACKETS: u32 = 200;
    const SHARE: u32 = 32;
    let charge = SHARE as usize * (4 + 32);
    let game = fast().max_total_waiting_bytes((PLAYERS + 1) * charge);
    let running = Running::start(game);
    let handle = running.handle();
    let (_witness, witness) = running.join();
    let mut players: Vec<_> = (0..PLAYERS).map(|_| running.join()).collect();
    let (release, hold) = channel();
    let stall = Rank {
        number: 0,
        hold: Some(hold),
    };
    assert!(handle.post(witness, stall).is_ok());
    for (client, _) in &mut players {
        let packets = (0..PACKETS).map(|number| packet(C_ECHO, number.to_le_bytes()));
        client.send(&packets.collect::<Vec<_>>().concat());
    }
    let totals = || handle.metrics().totals();
    wait_until("the shares are full", || {
        let totals = totals();
        let ends: u64 = totals.disconnects_by_label().map(|(_, count)| count).sum();
        ends > 0 || totals.packets_received >= u64::from(SHARE) * PLAYERS as u64
    });
    drop(release);
    let mut next: HashMap<SessionId, u32> = players.iter().map(|(_, id)| (*id, 0)).collect();
    while next.values().any(|number| *number < PACKETS) {
        match running.next() {
            Event::Packet(id, payload) => {
                let number = next.get_mut(&id).unwrap();
                assert_eq!(payload, number.to_le_bytes());
                *number += 1;
            }
            Event::Message(id, 0) => assert_eq!(id, witness),
            other => panic!("{other:?}"),
        }
    }
    let ends = totals();
    assert!(ends.disconnects_by_label().all(|(_, count)| count == 0));
}

/// Packets of `player_that_floods_costs_itself` that may wait: 4,000 bytes, and one read beyond.
const MOST_WAITING: u64 = 4_000 / 37 + 256 / 9 + 2;

#[test]
fn player_that_floods_costs_itself() {
    let running = Running::start(fast().packets_per_tick(1).max_waiting_bytes(4_000));
    let (mut other, other_id) = running.join();
    let (flooder, id) = running.join();
    let flood = packet(C_ECHO, b"flood").repeat(1_000_000);
    let flooding = thread::spawn({
        let mut stream = flooder.sender();
        move || std::io::Write::write_all(&mut stream, &flood)
    });
    for number in 0..20_u32 {
        other.send_packet(C_ECHO, number.to_le_bytes());
        assert_eq!(
            other.next_packet(),
            RawPacket::new(SEcho::ID, number.to_le_bytes())
        );
    }
    let mut handled = 0;
    let mut count = |event| match event {
        Event::Packet(of, payload) if of == id => {
            assert_eq!(payload, b"flood");
            handled += 1;
            handled
        }
        Event::Packet(of, _) if of == other_id => 0,
        other => panic!("{other:?}"),
    };
    // It is read on after its pauses, in order.
    while count(running.next()) < 3 * MOST_WAITING {}
    let received = running.handle().metrics().totals().packets_received - 20;
    for event in running.events.try_iter() {
        count(event);
    }
    // The game handles one a tick. The rest waits, most of it in the flooder's socket.
    assert!(
        received <= handled + MOST_WAITING,
        "{received} of {handled}"
    );
    let totals = running.handle().metrics().totals();
    assert!(totals.disconnects_by_label().all(|(_, count)| count == 0));
    flooder.reset();
    let _ = flooding.join().unwrap();
}

#[test]
fn kick_of_the_game_ends_its_player_with_the_reason() {
    let running = Running::start(fast());
    let (mut client, id) = running.join();
    let packets = [packet(C_BAD, b""), packet(C_ECHO, b"behind")].concat();
    client.send(&packets);
    client.expect_eof();
    assert_eq!(running.next(), Event::Left(id, Kick::BadPayload.into()));
    let (mut other, _) = running.join();
    other.send_packet(C_ECHO, b"here");
    assert_eq!(other.next_packet(), RawPacket::new(SEcho::ID, b"here"));
}

#[test]
fn messages_reach_the_game_in_order_and_while_it_is_behind_a_post_is_refused() {
    let running = Running::start(fast());
    let (_client, id) = running.join();
    let handle = running.handle();
    let rank = |number, hold| Rank { number, hold };
    let (release, hold) = channel();
    assert!(handle.post(id, rank(0, Some(hold))).is_ok());
    let mut posted = 1;
    while handle.post(id, rank(posted, None)).is_ok() {
        posted += 1;
        assert!(posted < 100_000, "no post is refused");
    }
    drop(release);
    for number in 0..posted {
        assert_eq!(running.next(), Event::Message(id, number));
    }
    wait_until("room for a message", || {
        handle.post(id, rank(posted, None)).is_ok()
    });
    assert_eq!(running.next(), Event::Message(id, posted));
}

#[test]
fn player_that_the_game_does_not_admit_ends_by_its_login_timeout() {
    let running = Running::start(fast().requires_login(true));
    let (mut guest, guest_id) = running.join();
    let (mut member, member_id) = running.join();
    member.send_packet(C_LOGIN, b"");
    assert_eq!(running.next(), Event::Packet(member_id, Vec::new()));
    guest.expect_eof();
    assert_eq!(
        running.next(),
        Event::Left(guest_id, DisconnectReason::LoginTimeout)
    );
    member.send_packet(C_ECHO, b"still here");
    assert_eq!(
        member.next_packet(),
        RawPacket::new(SEcho::ID, b"still here")
    );
}

#[test]
fn ticks_are_built_once_sent_to_all_and_measured() {
    let mut running = Running::start_with(fast(), true);
    let (mut one, _) = running.join();
    let first = one.next_packet();
    assert_eq!((first.id, &first.payload[8..]), (STick::ID, &b"to all"[..]));
    let second = one.next_packet();
    let number = |packet: &RawPacket| u64::from_le_bytes(packet.payload[..8].try_into().unwrap());
    assert_eq!(number(&second), number(&first) + 1);
    running.handle().shutdown(Duration::from_secs(1));
    running.game.take().unwrap().join().unwrap();
    let ticks = running.metrics.ticks.get();
    assert!(ticks > number(&first));
    assert_eq!(running.metrics.duration.count(), ticks);
}

#[test]
fn game_builds_packets_for_a_group_and_for_the_others() {
    let running = Running::start(fast());
    let ((mut one, _), (mut two, _), (mut outside, _)) =
        (running.join(), running.join(), running.join());
    let echo = |bytes: &[u8]| RawPacket::new(SEcho::ID, bytes);
    one.send_packet(C_ROOM, b"first");
    assert_eq!(one.next_packet(), echo(b"first"));
    two.send_packet(C_ROOM, b"second");
    assert_eq!(two.next_packet(), echo(b"second"));
    assert_eq!(one.next_packet(), echo(b"second"));
    two.send_packet(C_OTHERS, b"third");
    assert_eq!(one.next_packet(), echo(b"third"));
    for client in [&mut one, &mut two, &mut outside] {
        client.send_packet(C_ECHO, b"alone");
        assert_eq!(client.next_packet(), echo(b"alone"));
    }
}

#[test]
fn each_player_leaves_before_the_loop_returns() {
    const PACKETS: usize = 50;
    let mut running = Running::start(fast().packets_per_tick(1));
    let (_stays, stays_id) = running.join();
    let (closes, closes_id) = running.join();
    let mut closes = closes;
    closes.send(&packet(C_ECHO, b"last words").repeat(PACKETS));
    closes.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let first = Event::Packet(closes_id, b"last words".to_vec());
    assert_eq!(running.next(), first);
    running.handle().shutdown(DEADLINE);
    running.game.take().unwrap().join().unwrap();
    let events: Vec<Event> = running.events.try_iter().collect();
    let place = |event: Event| events.iter().position(|one| *one == event);
    assert!(place(Event::Left(stays_id, DisconnectReason::Shutdown)).is_some());
    let left = place(Event::Left(closes_id, DisconnectReason::PeerClosed));
    let packets = events.iter().filter(|one| **one == first).count();
    // The FIN may lose the race against the shutdown.
    match left {
        Some(left) => assert_eq!(
            (packets, events[left + 1..].contains(&first)),
            (PACKETS - 1, false)
        ),
        None => assert!(place(Event::Left(closes_id, DisconnectReason::Shutdown)).is_some()),
    }
    let leaves = events
        .iter()
        .filter(|one| matches!(one, Event::Left(..)))
        .count();
    assert_eq!(leaves, 2);
}

#[test]
fn panic_of_the_game_ends_the_server() {
    let mut running = Running::start(fast());
    let (mut client, _) = running.join();
    client.send_packet(C_PANIC, b"");
    client.expect_eof();
    assert!(running.game.take().unwrap().join().is_err());
    let handle = running.handle();
    wait_until("the end of the server", || handle.has_ended());
}
