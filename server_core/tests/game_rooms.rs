//! A game whose rooms have threads of their own, over real sockets. By seed: `TEST_SEED=7` runs only seed 7.

use server_core::testing::{DEADLINE, RawClient, RawPacket, packet, wait_until};
use server_core::tick::Tick;
use server_core::{DisconnectReason, Game, GameContext, GameLoop, Kick, Packet, Server, SessionId};
use std::any::Any;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

const ROOMS: usize = 3;
const PLAYERS: usize = 8;
const PACKETS: usize = 150;

const C_SAY: u16 = 1;
/// With the number of a room.
const C_MOVE: u16 = 2;
const C_PANIC: u16 = 3;

server_core::packets! {
    server 10 => SSaid { room: u32 } + bytes;
    server 11 => SArrived { room: u32 };
}

#[derive(Debug, PartialEq, Eq)]
struct Left {
    player: SessionId,
    room: usize,
    reason: DisconnectReason,
}

struct Room {
    leaves: Sender<Left>,
    thread: Option<thread::ThreadId>,
}

impl Game for Room {
    fn on_packet(
        &mut self,
        ctx: &mut GameContext<'_>,
        player: SessionId,
        packet: Packet<'_>,
    ) -> Result<(), Kick> {
        let room = (ctx.room() as u32).into();
        match (packet.id(), packet.payload()) {
            (C_SAY, text) => ctx.send(player, &SSaid { room }, text),
            (C_MOVE, [to]) => ctx.move_player(player, (*to).into(), "a state"),
            // Silent for the hook: the panic is not the news here.
            (C_PANIC, _) => std::panic::resume_unwind(Box::new("a bug in the game")),
            _ => return Err(Kick::BadPayload),
        }
        Ok(())
    }

    fn on_arrive(
        &mut self,
        ctx: &mut GameContext<'_>,
        player: SessionId,
        state: Box<dyn Any + Send>,
    ) {
        assert_eq!(*state.downcast::<&str>().unwrap(), "a state");
        let room = (ctx.room() as u32).into();
        ctx.send(player, &SArrived { room }, "");
    }

    fn on_leave(&mut self, ctx: &mut GameContext<'_>, player: SessionId, reason: DisconnectReason) {
        let room = ctx.room();
        let _ = self.leaves.send(Left {
            player,
            room,
            reason,
        });
    }

    fn on_tick(&mut self, _: &mut GameContext<'_>, _: Tick) {
        let here = thread::current().id();
        assert_eq!(*self.thread.get_or_insert(here), here);
    }
}

fn seeds() -> impl Iterator<Item = u64> {
    let one = std::env::var("TEST_SEED")
        .ok()
        .map(|seed| seed.parse().unwrap());
    (0..10).filter(move |seed| one.is_none_or(|one: u64| one == *seed))
}

fn start() -> (
    Server,
    thread::JoinHandle<()>,
    std::sync::mpsc::Receiver<Left>,
) {
    let game = GameLoop::new(Duration::from_millis(2))
        .packets_per_tick(20)
        .rooms(ROOMS);
    let server = Server::builder()
        .workers(2)
        .start("127.0.0.1:0", game.players())
        .unwrap();
    let (leaves, told) = channel();
    let handle = server.handle();
    let game = thread::spawn(move || {
        let room = |_| Room {
            leaves: leaves.clone(),
            thread: None,
        };
        game.run_rooms(&handle, room).unwrap();
    });
    (server, game, told)
}

/// The session of a client.
fn player_of(server: &Server, client: &RawClient) -> SessionId {
    let addr = client.sender().local_addr().unwrap();
    let mut snapshot = server.handle().snapshot().unwrap();
    let mut sessions = None;
    wait_until("the workers answer", || {
        sessions = snapshot.poll().unwrap();
        sessions.is_some()
    });
    let mut sessions = sessions.unwrap().into_iter();
    sessions.find(|session| session.addr == addr).unwrap().id
}

#[test]
fn players_move_between_rooms_and_each_packet_is_handled_once_in_order() {
    for seed in seeds() {
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let (server, game, left) = start();
        let mut players = Vec::new();
        for _ in 0..PLAYERS {
            let mut client = RawClient::connect(server.local_addr());
            let (mut sent, mut expected, mut room) = (Vec::new(), Vec::new(), 0_u8);
            for number in 0..PACKETS as u32 {
                if rng.u8(..5) == 0 {
                    // Also to the room where it is, and to a room that does not exist.
                    let to = rng.u8(..=ROOMS as u8);
                    sent.extend(packet(C_MOVE, [to]));
                    if usize::from(to) < ROOMS {
                        room = to;
                        expected.push(RawPacket::new(SArrived::ID, u32::from(room).to_le_bytes()));
                    }
                } else {
                    sent.extend(packet(C_SAY, number.to_le_bytes()));
                    let said = [u32::from(room).to_le_bytes(), number.to_le_bytes()].concat();
                    expected.push(RawPacket::new(SSaid::ID, said));
                }
            }
            client.send(&sent);
            players.push((client, expected, room));
        }
        for (client, expected, _) in &mut players {
            for packet in expected {
                assert_eq!(client.next_packet(), *packet);
            }
        }
        let rooms: HashMap<SessionId, usize> = (players.iter())
            .map(|(client, _, room)| (player_of(&server, client), (*room).into()))
            .collect();
        // Half of them close, and the others are there at the end.
        players.truncate(PLAYERS / 2);
        let mut leaves: Vec<Left> = (players.len()..PLAYERS)
            .map(|_| left.recv_timeout(DEADLINE).unwrap())
            .collect();
        server.handle().shutdown(DEADLINE);
        game.join().unwrap();
        leaves.extend(left.try_iter());
        assert_eq!(leaves.len(), PLAYERS, "one end for each");
        let left_in: HashMap<SessionId, usize> = (leaves.iter())
            .map(|left| (left.player, left.room))
            .collect();
        assert_eq!(left_in, rooms);
    }
}

/// A loop of several rooms, run as one room: a move stays without effect, and the loop ends with the server.
#[test]
fn loop_of_one_game_has_one_room_and_ends() {
    let game = GameLoop::new(Duration::from_millis(2)).rooms(ROOMS);
    let server = Server::builder()
        .workers(2)
        .start("127.0.0.1:0", game.players())
        .unwrap();
    let (leaves, left) = channel();
    let (ended, has_ended) = channel();
    let handle = server.handle();
    let room = Room {
        leaves,
        thread: None,
    };
    thread::spawn(move || {
        game.run(&handle, room);
        let _ = ended.send(());
    });
    let mut client = RawClient::connect(server.local_addr());
    client.send(&[packet(C_MOVE, [1]), packet(C_SAY, b"here")].concat());
    let said = [&0_u32.to_le_bytes()[..], b"here"].concat();
    assert_eq!(client.next_packet(), RawPacket::new(SSaid::ID, said));
    server.handle().shutdown(DEADLINE);
    has_ended.recv_timeout(DEADLINE).unwrap();
    let left: Vec<Left> = left.try_iter().collect();
    assert_eq!((left.len(), left[0].room), (1, 0));
}

/// A game whose tick waits for the test in room 0, and whose end the test sees.
struct Held {
    hold: Option<Receiver<()>>,
    holds: Sender<usize>,
    room: usize,
}

impl Game for Held {
    fn on_packet(
        &mut self,
        _: &mut GameContext<'_>,
        _: SessionId,
        _: Packet<'_>,
    ) -> Result<(), Kick> {
        Ok(())
    }

    fn on_tick(&mut self, _: &mut GameContext<'_>, _: Tick) {
        if let Some(hold) = self.hold.take() {
            let _ = self.holds.send(0);
            let _ = hold.recv();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.holds.send(self.room);
    }
}

/// Rooms 1 and 2 are stopped before the server ends, and room 0 sees its end.
#[test]
fn stop_before_a_shutdown_ends_each_room() {
    let game = GameLoop::new(Duration::from_millis(2)).rooms(ROOMS);
    let stopper = game.stopper();
    let server = Server::builder()
        .workers(1)
        .start("127.0.0.1:0", game.players())
        .unwrap();
    let (holds, held) = channel();
    let (release, hold) = channel();
    let hold = Mutex::new(Some(hold));
    let handle = server.handle();
    thread::spawn(move || {
        let room = |room| Held {
            hold: (room == 0).then(|| hold.lock().unwrap().take().unwrap()),
            holds: holds.clone(),
            room,
        };
        game.run_rooms(&handle, room).unwrap();
    });
    assert_eq!(held.recv_timeout(DEADLINE), Ok(0));
    stopper.stop();
    let mut ended = [(); 2].map(|()| held.recv_timeout(DEADLINE).unwrap());
    ended.sort_unstable();
    assert_eq!(ended, [1, 2]);
    server.handle().shutdown(DEADLINE);
    drop(release);
    assert_eq!(held.recv_timeout(DEADLINE), Ok(0), "room 0 ends");
    server.join().unwrap();
}

/// Moves each player to room 1 at its join, and admits it at its first packet. Room 1 waits for the test at the first
/// arrival.
struct Door {
    hold: Option<Receiver<()>>,
    arrivals: Sender<()>,
}

impl Game for Door {
    fn on_join(&mut self, ctx: &mut GameContext<'_>, player: SessionId) {
        ctx.move_player(player, 1, ());
    }

    fn on_arrive(&mut self, _: &mut GameContext<'_>, _: SessionId, _: Box<dyn Any + Send>) {
        if let Some(hold) = self.hold.take() {
            let _ = self.arrivals.send(());
            let _ = hold.recv();
        }
    }

    fn on_packet(
        &mut self,
        ctx: &mut GameContext<'_>,
        player: SessionId,
        packet: Packet<'_>,
    ) -> Result<(), Kick> {
        ctx.admit(player);
        let room = (ctx.room() as u32).into();
        ctx.send(player, &SSaid { room }, packet.payload());
        Ok(())
    }

    fn on_tick(&mut self, _: &mut GameContext<'_>, _: Tick) {}
}

/// Room 0 has its turns meanwhile.
#[test]
fn login_timeout_waits_for_the_room_of_the_first_packet() {
    let game = GameLoop::new(Duration::from_millis(2))
        .rooms(2)
        .requires_login(true);
    let server = Server::builder()
        .workers(1)
        .login_timeout(Some(Duration::from_secs(3)))
        .start("127.0.0.1:0", game.players())
        .unwrap();
    let (arrivals, arrived) = channel();
    let (release, hold) = channel();
    let hold = Mutex::new(Some(hold));
    let handle = server.handle();
    let game = thread::spawn(move || {
        let room = |room| Door {
            hold: (room == 1).then(|| hold.lock().unwrap().take()).flatten(),
            arrivals: arrivals.clone(),
        };
        game.run_rooms(&handle, room).unwrap();
    });
    let mut player = RawClient::connect(server.local_addr());
    arrived.recv_timeout(DEADLINE).unwrap();
    player.send_packet(C_SAY, b"ada");
    // Its login timeout is over later.
    RawClient::connect(server.local_addr()).expect_eof();
    drop(release);
    let said = [&1_u32.to_le_bytes()[..], b"ada"].concat();
    assert_eq!(player.next_packet(), RawPacket::new(SSaid::ID, said));
    server.handle().shutdown(Duration::ZERO);
    game.join().unwrap();
}

#[test]
fn panic_of_the_maker_ends_the_server_and_the_rooms_before_it() {
    let game = GameLoop::new(Duration::from_millis(2)).rooms(ROOMS);
    let server = Server::builder()
        .start("127.0.0.1:0", game.players())
        .unwrap();
    let handle = server.handle();
    let (ended, has_ended) = channel::<()>();
    thread::spawn(move || {
        let _ended = ended;
        let make_game = |room| {
            if room == 2 {
                // Silent for the hook: the panic is not the news here.
                std::panic::resume_unwind(Box::new("a bug in the maker"));
            }
            Room {
                leaves: channel().0,
                thread: None,
            }
        };
        game.run_rooms(&handle, make_game)
    });
    assert_eq!(
        has_ended.recv_timeout(DEADLINE),
        Err(RecvTimeoutError::Disconnected)
    );
    server.join().unwrap();
}

#[test]
fn panic_in_one_room_ends_the_server_and_all_rooms() {
    let (server, game, _left) = start();
    let mut client = RawClient::connect(server.local_addr());
    let packets = [packet(C_MOVE, [2]), packet(C_PANIC, b"")].concat();
    client.send(&packets);
    assert_eq!(
        client.next_packet(),
        RawPacket::new(SArrived::ID, 2_u32.to_le_bytes())
    );
    client.expect_eof();
    assert!(game.join().is_err());
    server.join().unwrap();
}
