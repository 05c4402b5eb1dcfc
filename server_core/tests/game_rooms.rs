//! A game whose rooms have threads of their own, over real sockets. By seed: `TEST_SEED=7` runs only seed 7.

use server_core::testing::{DEADLINE, RawClient, RawPacket, packet};
use server_core::tick::Tick;
use server_core::{DisconnectReason, Game, GameContext, GameLoop, Kick, Packet, Server, SessionId};
use std::any::Any;
use std::sync::mpsc::{Sender, channel};
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
        let mut rooms: Vec<usize> = Vec::new();
        for (client, expected, room) in &mut players {
            for packet in expected {
                assert_eq!(client.next_packet(), *packet);
            }
            rooms.push((*room).into());
        }
        // Half of them close, and the others are there at the end.
        players.truncate(PLAYERS / 2);
        let mut leaves: Vec<Left> = (players.len()..PLAYERS)
            .map(|_| left.recv_timeout(DEADLINE).unwrap())
            .collect();
        server.handle().shutdown(DEADLINE);
        game.join().unwrap();
        leaves.extend(left.try_iter());
        assert_eq!(leaves.len(), PLAYERS, "one end for each");
        let mut left_in: Vec<usize> = leaves.iter().map(|left| left.room).collect();
        left_in.sort_unstable();
        rooms.sort_unstable();
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
