//! Whole servers in virtual time: what a test of a game relies on.

use server_core::testing::{RawPacket, SimClient, SimServer, for_each_seed};
use server_core::tick::Tick;
use server_core::{
    Context, DisconnectReason, Game, GameContext, GameLoop, GamePlayer, Kick, Packet, SendBuffer,
    Server, ServerBuilder, Session, SessionId, TraceTarget,
};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const PERIOD: Duration = Duration::from_millis(50);

server_core::packets! {
    client 1 => CSay + bytes;
    server 2 => SSaid { who: u64 } + bytes;
    server 3 => STick { number: u64, said: u32 };
    server 4 => SBye { code: u16 };
    server 5 => SPiece + bytes;
}

/// Tells all what each says.
struct Talker;

impl Session for Talker {
    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        let bytes = packet.decode::<CSay>()?;
        let who = ctx.id().into();
        ctx.broadcast(&SSaid { who }, bytes);
        Ok(())
    }
}

/// The same on a game thread, and what has happened to it.
#[derive(Default)]
struct Talk {
    said: u32,
    events: Rc<RefCell<Vec<String>>>,
    tick_bytes: usize,
    /// The number and the size of the pieces that each player gets at its join.
    pieces: (u8, usize),
}

impl Game for Talk {
    fn on_join(&mut self, ctx: &mut GameContext<'_>, player: SessionId) {
        self.events.borrow_mut().push("join".into());
        let (count, bytes) = self.pieces;
        let pieces = (0..count).map(|piece| ctx.encode(&SPiece, vec![piece; bytes]));
        let pieces: Arc<[SendBuffer]> = pieces.map(Result::unwrap).collect();
        for half in [0, 1] {
            let middle = pieces.len() / 2;
            let half = [&pieces[..middle], &pieces[middle..]][half];
            ctx.send_paced(player, &half.into()).unwrap();
        }
    }

    fn on_packet(
        &mut self,
        ctx: &mut GameContext<'_>,
        player: SessionId,
        packet: Packet<'_>,
    ) -> Result<(), Kick> {
        let bytes = packet.decode::<CSay>()?;
        self.said += 1;
        let who = player.into();
        ctx.server().broadcast(&SSaid { who }, bytes);
        Ok(())
    }

    fn on_leave(&mut self, _: &mut GameContext<'_>, _: SessionId, reason: DisconnectReason) {
        self.events.borrow_mut().push(reason.label().into());
    }

    fn on_tick(&mut self, ctx: &mut GameContext<'_>, tick: Tick) {
        assert_eq!((tick.lag, tick.skipped), (Duration::ZERO, 0));
        let number = tick.number.into();
        for at in (0..self.tick_bytes).step_by(60_000) {
            let bytes = vec![1; 60_000.min(self.tick_bytes - at)];
            ctx.server().broadcast(&SSaid { who: 0.into() }, bytes);
        }
        let said = self.said.into();
        ctx.broadcast_packet(&STick { number, said });
    }
}

fn builder() -> ServerBuilder {
    let close = |reason: DisconnectReason| {
        Some((
            SBye {
                code: reason.code()?.into(),
            },
            "",
        ))
    };
    Server::builder().workers(3).close_message(close)
}

/// Everything that four clients get who talk for a second.
fn talk(seed: u64) -> Vec<Vec<RawPacket>> {
    let mut server = SimServer::start(seed, builder(), |_| Talker).cut_bytes();
    let mut clients: Vec<SimClient> = (0..4).map(|_| server.connect()).collect();
    for round in 0..20_u8 {
        for (client, number) in clients.iter().zip(0..) {
            client.send(&CSay, vec![number; usize::from(round) * 40]);
        }
        server.advance(PERIOD);
    }
    clients.iter_mut().map(SimClient::packets).collect()
}

#[test]
fn same_seed_gives_the_same_bytes_and_other_seeds_another_order() {
    let mut orders = Vec::new();
    for seed in 0..10 {
        let got = talk(seed);
        assert!(got == talk(seed), "seed {seed}");
        // Whatever the order and the cuts: each hears each line once.
        for packets in &got {
            assert_eq!(packets.len(), 4 * 20, "seed {seed}");
        }
        orders.push(got);
    }
    orders.dedup();
    assert!(orders.len() > 1, "the seeds make no difference");
}

#[test]
fn ticks_come_at_their_instants_and_players_leave_at_the_end() {
    for_each_seed(30, |seed| {
        let game = Talk::default();
        let events = Rc::clone(&game.events);
        let game_loop = GameLoop::new(PERIOD);
        let metrics = game_loop.metrics();
        let mut server = SimServer::start_game(seed, builder(), game_loop, game).cut_bytes();
        let (mut one, two) = (server.connect(), server.connect());
        server.advance(PERIOD - Duration::from_millis(1));
        assert_eq!((one.next_packet(), metrics.ticks.get()), (None, 0));
        two.send(&CSay, b"hello");
        server.advance(Duration::from_millis(1));
        let who = two.id().unwrap().to_u64().to_le_bytes();
        let said = RawPacket::new(SSaid::ID, [&who[..], b"hello"].concat());
        assert_eq!(one.next_of(SSaid::ID), Some(said));
        server.advance(PERIOD * 20 - server.elapsed());
        assert_eq!((metrics.ticks.get(), metrics.skipped.get()), (20, 0));
        drop(two);
        server.advance(PERIOD);
        server.handle().shutdown(Duration::from_secs(1));
        server.advance(Duration::from_secs(2));
        assert!(server.handle().has_ended() && one.is_closed());
        let bye = one.next_of(SBye::ID).expect("the close message");
        let code = DisconnectReason::Shutdown.code().unwrap();
        assert_eq!(bye.decode::<SBye>().unwrap().code.get(), code);
        let mut events = events.borrow().clone();
        assert_eq!(events.split_off(2), ["peer_closed", "shutdown"]);
        assert_eq!(events, ["join", "join"]);
        assert_eq!(metrics.ticks.get(), 21);
    });
}

#[test]
fn game_that_sends_more_than_a_mailbox_holds_does_not_wait() {
    let game = Talk {
        tick_bytes: 8 << 20,
        ..Talk::default()
    };
    let mut server = SimServer::start_game(1, builder(), GameLoop::new(PERIOD), game);
    let mut client = server.connect();
    server.advance(PERIOD * 2);
    let bytes: usize = client.packets().iter().map(RawPacket::size).sum();
    assert!(bytes > 8 << 20, "{bytes}");
}

#[test]
fn reader_that_stops_is_a_slow_consumer_after_its_time_and_costs_no_other() {
    for_each_seed(10, |seed| {
        let game = Talk {
            tick_bytes: 100_000,
            ..Talk::default()
        };
        let mut server = SimServer::start_game(seed, builder(), GameLoop::new(PERIOD), game);
        let (mut reads, stops) = (server.connect(), server.connect());
        stops.stop_reading();
        server.advance(Duration::from_secs(10));
        assert!(stops.is_closed() && !reads.is_closed());
        let totals = server.handle().metrics().totals();
        assert_eq!(totals.disconnects_for(Kick::SlowConsumer), 1);
        let ticks = reads
            .packets()
            .iter()
            .filter(|packet| packet.id == STick::ID)
            .count();
        assert_eq!(ticks, 200);
    });
}

#[test]
fn paced_packets_come_whole_and_in_order_with_ticks_between_them() {
    for_each_seed(20, |seed| {
        let game = Talk {
            pieces: (100, 10_000),
            ..Talk::default()
        };
        let mut server = SimServer::start_game(seed, builder(), GameLoop::new(PERIOD), game);
        server = server.cut_bytes();
        let mut client = server.connect();
        client.stop_reading();
        server.advance(PERIOD * 10);
        client.read_on();
        server.advance(PERIOD);
        let ids: Vec<_> = (client.packets().into_iter())
            .map(|packet| (packet.id, packet.payload[0]))
            .collect();
        let pieces = ids.iter().filter(|(id, _)| *id == SPiece::ID);
        assert!(pieces.map(|(_, piece)| *piece).eq(0..100), "{ids:?}");
        let ticks = ids.iter().filter(|(id, _)| *id == STick::ID).count();
        assert_eq!(ticks, 11, "{ids:?}");
        // The socket has taken 64 KiB, and 64 KiB wait: each tick that follows goes before the rest.
        let tenth = ids.iter().position(|at| *at == (STick::ID, 10));
        let fifteenth_piece = ids.iter().position(|at| *at == (SPiece::ID, 15));
        assert!(tenth < fifteenth_piece, "{ids:?}");
    });
}

/// A longer queue would pause the player's input.
#[test]
fn player_with_a_full_window_of_paced_packets_is_read() {
    for_each_seed(5, |seed| {
        let game = Talk {
            pieces: (100, 10_000),
            ..Talk::default()
        };
        let mut server = SimServer::start_game(seed, builder(), GameLoop::new(PERIOD), game);
        let (mut other, player) = (server.connect(), server.connect());
        player.stop_reading();
        server.advance(PERIOD * 2);
        player.send(&CSay, b"hello");
        server.advance(PERIOD);
        assert!(other.next_of(SSaid::ID).is_some());
    });
}

#[test]
fn download_of_large_packets_makes_no_server_congested() {
    for_each_seed(5, |seed| {
        let game = Talk {
            pieces: (40, 65_000),
            tick_bytes: 2_000,
            ..Talk::default()
        };
        let mut server = SimServer::start_game(seed, builder(), GameLoop::new(PERIOD), game);
        let mut player = server.connect();
        let mut pieces = 0;
        while pieces < 40 {
            // Takes 64 KiB more: 1.3 MB/s.
            player.stop_reading();
            server.advance(PERIOD);
            assert!(!server.handle().is_congested(), "{pieces} pieces");
            let came = player.packets();
            pieces += came.iter().filter(|packet| packet.id == SPiece::ID).count();
            assert!(server.elapsed() < PERIOD * 100, "{pieces} pieces");
        }
    });
}

#[test]
fn paced_packets_leave_room_in_a_small_send_queue() {
    for_each_seed(5, |seed| {
        let game = Talk {
            pieces: (100, 10_000),
            ..Talk::default()
        };
        let builder = builder().max_send_queue_bytes(64 << 10);
        let mut server = SimServer::start_game(seed, builder, GameLoop::new(PERIOD), game);
        let player = server.connect();
        player.stop_reading();
        // Twice the time for which a queue may be longer than its limit.
        server.advance(Duration::from_secs(2));
        assert!(!player.is_closed());
    });
}

/// Sends each player pieces of 10,000 bytes in each tick, each by a call.
struct Streams {
    pieces_per_tick: usize,
    players: Vec<SessionId>,
}

impl Streams {
    fn start(seed: u64, builder: ServerBuilder, pieces_per_tick: usize) -> SimServer<GamePlayer> {
        let game = Self {
            pieces_per_tick,
            players: Vec::new(),
        };
        SimServer::start_game(seed, builder, GameLoop::new(PERIOD), game)
    }
}

impl Game for Streams {
    fn on_join(&mut self, _: &mut GameContext<'_>, player: SessionId) {
        self.players.push(player);
    }

    fn on_packet(
        &mut self,
        _: &mut GameContext<'_>,
        _: SessionId,
        _: Packet<'_>,
    ) -> Result<(), Kick> {
        Ok(())
    }

    fn on_tick(&mut self, ctx: &mut GameContext<'_>, _: Tick) {
        let piece: Arc<[SendBuffer]> = [ctx.encode(&SPiece, [1; 10_000]).unwrap()].into();
        for player in &self.players {
            for _ in 0..self.pieces_per_tick {
                ctx.send_paced(*player, &piece).unwrap();
            }
        }
    }
}

/// The game gives 2 MB/s.
#[test]
fn player_that_reads_its_paced_packets_too_slowly_is_a_slow_consumer() {
    for_each_seed(5, |seed| {
        let mut server = Streams::start(seed, builder(), 10);
        let (mut reads, slow) = (server.connect(), server.connect());
        let mut pieces = 0;
        let mut is_closed_after = |time| {
            while server.elapsed() < time {
                // Takes 64 KiB more: 1.3 MB/s, which no other limit ends.
                slow.stop_reading();
                server.advance(PERIOD);
                pieces += reads.packets().len();
            }
            slow.is_closed()
        };
        assert!(!is_closed_after(Duration::from_secs(5)));
        assert!(is_closed_after(Duration::from_secs(7)));
        assert!(!reads.is_closed() && pieces == 10 * 20 * 7, "{pieces}");
        let totals = server.handle().metrics().totals();
        assert_eq!(totals.disconnects_for(Kick::SlowConsumer), 1);
    });
}

#[test]
fn paced_packets_of_more_than_64_calls_wait_for_a_reader_that_pauses() {
    for_each_seed(5, |seed| {
        let mut server = Streams::start(seed, builder(), 10);
        let mut client = server.connect();
        client.stop_reading();
        server.advance(PERIOD * 80);
        client.read_on();
        server.advance(PERIOD);
        assert!(!client.is_closed());
        assert_eq!(client.packets().len(), 10 * 81);
    });
}

/// As after a stall of the worker.
#[test]
fn more_than_64_calls_in_one_turn_close_no_reader_that_keeps_up() {
    for_each_seed(5, |seed| {
        let mut server = Streams::start(seed, builder(), 100);
        let mut client = server.connect();
        server.advance(PERIOD * 3);
        assert!(!client.is_closed());
        assert_eq!(client.packets().len(), 100 * 3);
    });
}

#[test]
fn paced_packets_of_a_reader_that_stops_are_bounded_without_a_max_send_lag() {
    for_each_seed(5, |seed| {
        let mut server = Streams::start(seed, builder().max_send_lag(None), 10);
        let client = server.connect();
        client.stop_reading();
        // 12 or 13 pieces are in the connection and in the queue.
        server.advance(PERIOD * 101);
        assert!(!client.is_closed());
        server.advance(PERIOD);
        assert!(client.is_closed());
        let totals = server.handle().metrics().totals();
        assert_eq!(totals.disconnects_for(Kick::SlowConsumer), 1);
    });
}

/// Admits each player at its first packet, or no player. Kicks the player that says `bad` or `worse`.
struct Door {
    is_open: bool,
    handled: Rc<RefCell<u32>>,
}

const BAD_WORD: Kick = Kick::custom(1000, "bad_word");

impl Game for Door {
    fn on_packet(
        &mut self,
        ctx: &mut GameContext<'_>,
        player: SessionId,
        packet: Packet<'_>,
    ) -> Result<(), Kick> {
        *self.handled.borrow_mut() += 1;
        match packet.payload() {
            b"bad" => {
                (ctx.server()).close_with(player, BAD_WORD, "you said bad");
                return Err(BAD_WORD);
            }
            b"worse" => return Err(BAD_WORD.with_text("you said worse")),
            _ => {}
        }
        if self.is_open {
            ctx.admit(player);
        }
        Ok(())
    }

    fn on_tick(&mut self, _: &mut GameContext<'_>, _: Tick) {}
}

fn door(seed: u64, period: Duration, is_open: bool) -> (SimServer<GamePlayer>, Rc<RefCell<u32>>) {
    let game_loop = GameLoop::new(period).requires_login(true);
    let handled = Rc::<RefCell<u32>>::default();
    let of_test = Rc::clone(&handled);
    let builder = (builder()).close_message_with_text(|reason, text| {
        let code = reason.code()?.into();
        Some((SBye { code }, text.to_owned()))
    });
    let game = Door { is_open, handled };
    (
        SimServer::start_game(seed, builder, game_loop, game),
        of_test,
    )
}

#[test]
fn login_timeout_waits_for_a_game_that_does_not_run() {
    for_each_seed(5, |seed| {
        for is_open in [true, false] {
            // Longer than the login timeout of 10 s.
            let period = Duration::from_secs(12);
            let (mut server, _) = door(seed, period, is_open);
            let (silent, logs_in) = (server.connect(), server.connect());
            logs_in.send(&CSay, b"ada");
            server.advance(Duration::from_secs(11));
            assert!(silent.is_closed() && !logs_in.is_closed());
            // The third turn is at 36 s.
            server.advance(Duration::from_secs(24));
            assert!(!logs_in.is_closed());
            server.advance(Duration::from_secs(2));
            assert_eq!(logs_in.is_closed(), !is_open);
        }
    });
}

#[test]
fn slow_consumer_ends_while_its_login_timeout_waits_for_the_game() {
    for_each_seed(5, |seed| {
        let (mut server, _) = door(seed, Duration::from_secs(12), false);
        let player = server.connect();
        player.send(&CSay, b"ada");
        player.stop_reading();
        server.advance(Duration::from_secs(8));
        for _ in 0..3 {
            server
                .handle()
                .broadcast(&SSaid { who: 0.into() }, [1; 60_000]);
        }
        // The login timeout of 10 s waits for the turn at 36 s.
        server.advance(Duration::from_secs(4));
        assert!(!player.is_closed());
        server.advance(Duration::from_secs(2));
        assert!(player.is_closed());
        let totals = server.handle().metrics().totals();
        assert_eq!(totals.disconnects_for(Kick::SlowConsumer), 1);
    });
}

#[test]
fn packets_without_a_login_put_off_no_login_timeout() {
    for_each_seed(5, |seed| {
        let (mut server, handled) = door(seed, PERIOD, false);
        let talks = server.connect();
        for _ in 0..99 {
            talks.send(&CSay, b"ada");
            server.advance(PERIOD * 2);
        }
        assert!(!talks.is_closed() && *handled.borrow() == 99);
        server.advance(PERIOD * 2);
        assert!(talks.is_closed());
    });
}

#[test]
fn kick_of_a_game_carries_its_text_or_the_text_of_a_close_before() {
    for_each_seed(5, |seed| {
        for word in ["bad", "worse"] {
            let (mut server, handled) = door(seed, PERIOD, true);
            let mut client = server.connect();
            client.send(&CSay, word.as_bytes());
            client.send(&CSay, b"dropped");
            server.advance(PERIOD);
            let text = format!("you said {word}");
            let bye = [&1000_u16.to_le_bytes()[..], text.as_bytes()].concat();
            assert_eq!(client.packets(), [RawPacket::new(SBye::ID, bye)]);
            assert!(client.is_closed() && *handled.borrow() == 1);
            let totals = server.handle().metrics().totals();
            assert_eq!(totals.disconnects_for(BAD_WORD), 1);
        }
    });
}

#[test]
fn traces_run_in_the_time_of_the_test() {
    let mut server = SimServer::start(7, builder(), |_| Talker);
    server.advance(Duration::from_secs(3600));
    let target = TraceTarget::Address([127, 0, 0, 1].into());
    let trace = server.handle().trace(target, Duration::from_secs(10));
    let trace = trace.unwrap();
    let client = server.connect();
    server.advance(Duration::from_secs(9));
    assert!(trace.is_running() && trace.events().len() == 1);
    server.advance(Duration::from_secs(2));
    drop(client);
    server.advance(Duration::from_secs(1));
    assert!(!trace.is_running() && trace.events().len() == 1);
}

#[test]
fn full_server_turns_a_client_away_with_its_reason() {
    let builder = builder().max_sessions(Some(2)).max_sessions_per_ip(Some(1));
    let mut server = SimServer::start(7, builder, |_| Talker);
    let one = server.connect();
    let same_address = server.connect();
    let two = server.connect_from([127, 0, 0, 2]);
    let mut three = server.connect_from([127, 0, 0, 3]);
    server.advance(Duration::ZERO);
    let closed = [&one, &same_address, &two, &three].map(SimClient::is_closed);
    assert_eq!(closed, [false, true, false, true]);
    let code = DisconnectReason::ServerFull.code().unwrap().to_le_bytes();
    assert_eq!(three.packets(), [RawPacket::new(SBye::ID, code)]);
    drop(one);
    server.advance(Duration::from_secs(1));
    assert!(!server.connect().is_closed(), "the place is free again");
}

#[test]
fn end_of_a_client_is_seen_by_its_session_as_over_a_socket() {
    let mut server = SimServer::start(3, builder(), |_| Talker);
    let (finishes, resets, mut stays) = (server.connect(), server.connect(), server.connect());
    server.advance(Duration::ZERO);
    finishes.send(&CSay, b"last words");
    finishes.finish();
    resets.reset();
    server.advance(Duration::from_millis(1));
    let totals = server.handle().metrics().totals();
    assert_eq!(totals.disconnects_for(DisconnectReason::PeerClosed), 1);
    assert_eq!(totals.disconnects_for(DisconnectReason::PeerReset), 1);
    assert!(
        stays
            .next_of(SSaid::ID)
            .is_some_and(|said| said.payload.ends_with(b"last words"))
    );
    server.handle().shutdown(Duration::ZERO);
    server.advance(Duration::from_secs(1));
    assert!(
        server.connect().is_closed(),
        "a server that has ended takes no client"
    );
}
