//! Tests of slow consumers and of pacing, over one worker or several with a fake clock. Readers of known speeds
//! are connected beside senders that send as fast as the server reads them.
//!
//! The oracle checks three promises:
//!
//! - A reader that takes 1 MiB/s on average over 250 ms, with pauses of up to 100 ms, is never ended, and gets
//!   every tick in the time that its own queue takes.
//! - A reader that takes nothing is ended in time.
//! - A reader that is too slow for pacing does not slow down other sessions.
//!
//! `SIM_SEEDS=100000` runs 200 seeds. `TEST_SEED=7` runs only seed 7.
#![allow(clippy::unwrap_used)] // In a test, a panic is the report.

mod util;

use server_core::buffer::SendBufferManager;
use server_core::connection::admission::Admission;
use server_core::metrics::Metrics;
use server_core::routing::router::{Command, NewConnection, Router};
use server_core::shard::{Shard, Shared};
use server_core::testing::{FakeClock, FakePeer, FakeStream};
use server_core::{
    Config, Context, DisconnectReason, Kick, Packet, PacketHead, Session, SessionId,
};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use util::chat::{SChat, STick, chat_bytes};

const TICK: Duration = Duration::from_millis(50);
const STEP: Duration = Duration::from_millis(2);
/// The bytes of a connection that the kernels of both ends hold.
const SOCKET_BYTES: usize = 80 << 10;
const MIB: u64 = 1 << 20;

/// The way in which a peer reads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reader {
    /// Takes this number of bytes a second, in one read each `every`.
    Steady { bytes_per_sec: u64, every: Duration },
    /// Takes nothing.
    Deaf,
    /// Takes 768 KiB/s for a second, then nothing for a second.
    Liar,
}

/// A session that broadcasts the chat of its peer, and broadcasts packets when it leaves.
struct Player {
    packets_on_leave: usize,
}

impl Session for Player {
    fn on_disconnected(&mut self, ctx: &mut Context<'_>, _: DisconnectReason) {
        for _ in 0..self.packets_on_leave {
            ctx.broadcast(&SChat([]), [b'x'; 1000]);
        }
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        ctx.broadcast(&SChat([]), packet.payload());
        Ok(())
    }
}

struct Peer {
    id: SessionId,
    end: FakePeer,
    reader: Reader,
    next_read_at: Instant,
    /// The bytes of a packet that the peer has read in part.
    rest: Vec<u8>,
    ticks: u64,
    chat_bytes: u64,
    /// The longest time between the broadcast of a tick and its read.
    latest_tick: Duration,
    ended_at: Option<Instant>,
}

struct Sim {
    clock: FakeClock,
    shards: Vec<Shard<FakeStream, Player>>,
    router: Arc<Router<FakeStream>>,
    metrics: Arc<Metrics>,
    buffers: SendBufferManager,
    admission: Arc<Admission>,
    peers: Vec<Peer>,
    /// The bytes that a sender repeats.
    chats: Arc<[u8]>,
    ticks: u64,
    config: Config,
}

impl Sim {
    fn new(config: Config) -> Self {
        Self::with_packets_on_leave(config, 0)
    }

    fn with_packets_on_leave(config: Config, packets_on_leave: usize) -> Self {
        let player = move |_| Player { packets_on_leave };
        let shared = Arc::new(Shared::for_tests(&config, config.workers, player));
        Self {
            clock: FakeClock::new(),
            shards: (0..config.workers)
                .map(|worker| Shard::new(worker, Arc::clone(&shared)))
                .collect(),
            router: Arc::clone(&shared.router),
            metrics: Arc::clone(&shared.metrics),
            buffers: shared.buffers.clone(),
            admission: Arc::new(Admission::new(config.workers, None, None)),
            peers: Vec::new(),
            chats: chat_bytes().repeat(64).into(),
            ticks: 0,
            config,
        }
    }

    /// Connects a peer. A sender sends chats as long as the server reads from it.
    fn connect(&mut self, reader: Reader, sends_on: bool) -> usize {
        let (stream, end) = FakeStream::pair();
        end.state().room = SOCKET_BYTES;
        if sends_on {
            end.send_endlessly(Arc::clone(&self.chats));
        }
        let addr = ([127, 0, 0, 1], self.peers.len() as u16).into();
        let permit = self.admission.admit(addr).unwrap();
        let (worker, mut id) = (permit.worker(), None);
        let arrival = NewConnection {
            stream,
            permit,
            tag: None,
            is_connecting: false,
        };
        let shard = &mut self.shards[worker];
        shard.handle_command(Command::Adopt(arrival), self.clock.now(), |_, new| {
            id = Some(new);
            Ok(())
        });
        let id = id.unwrap();
        let _ = end.take_edges();
        shard.handle_readiness(id, true, true, self.clock.now());
        self.peers.push(Peer {
            id,
            end,
            reader,
            next_read_at: self.clock.now(),
            rest: Vec::new(),
            ticks: 0,
            chat_bytes: 0,
            latest_tick: Duration::ZERO,
            ended_at: None,
        });
        self.peers.len() - 1
    }

    fn run(&mut self, time: Duration) {
        let end = self.clock.elapsed() + time;
        while self.clock.elapsed() < end {
            self.clock.advance(STEP);
            if self.clock.elapsed() >= TICK * (self.ticks as u32 + 1) {
                self.ticks += 1;
                let tick = self
                    .buffers
                    .encode(&STick(self.ticks.into()), b"Hello World");
                self.router.broadcast(&tick.unwrap());
            }
            for peer in &mut self.peers {
                peer.read(&self.clock);
            }
            for worker in 0..self.shards.len() {
                // A worker has one turn in this time, and a second turn if it has more work.
                for _ in 0..2 {
                    self.turn(worker);
                    if !self.shards[worker].has_work() {
                        break;
                    }
                }
            }
        }
    }

    fn turn(&mut self, worker: usize) {
        let (shard, now) = (&mut self.shards[worker], self.clock.now());
        self.router.mailbox(worker).take_some(|command| {
            shard.handle_command(command, now, |_, _| Ok(()));
            if shard.has_enough_output() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        for peer in self.peers.iter().filter(|peer| peer.id.worker() == worker) {
            if peer.end.take_edges().writable {
                shard.handle_readiness(peer.id, false, true, now);
            }
        }
        shard.run(now);
        shard.end_turn(now, now);
    }

    /// Sends a peer packets of 60 kB. Returns their bytes.
    fn send_pieces(&self, peer: usize, count: u64) -> u64 {
        let piece = self.buffers.encode(&SChat([]), &[b'x'; 60_000]).unwrap();
        for _ in 0..count {
            self.router.send(self.peers[peer].id, piece.clone());
        }
        count * piece.len() as u64
    }

    fn slow_consumers(&self) -> u64 {
        self.metrics.totals().disconnects_for(Kick::SlowConsumer)
    }
}

impl Peer {
    fn read(&mut self, clock: &FakeClock) {
        let now = clock.now();
        if self.end.state().is_dropped {
            self.ended_at.get_or_insert(now);
            return;
        }
        if now < self.next_read_at {
            return;
        }
        let (bytes_per_sec, every) = match self.reader {
            Reader::Deaf => return,
            Reader::Steady {
                bytes_per_sec,
                every,
            } => (bytes_per_sec, every),
            Reader::Liar if clock.elapsed().as_secs().is_multiple_of(2) => (768 << 10, STEP),
            Reader::Liar => return,
        };
        self.next_read_at += every;
        if self.next_read_at <= now {
            self.next_read_at = now + every;
        }
        let most = (u128::from(bytes_per_sec) * every.as_micros() / 1_000_000) as usize;
        let taken = self.end.take_output(most);
        self.end.add_room(taken.len());
        self.rest.extend(taken);
        let mut bytes = &self.rest[..];
        while let [low, high, id, ..] = *bytes {
            let size = usize::from(u16::from_le_bytes([low, high]));
            let Some((packet, after)) = bytes.split_at_checked(size) else {
                break;
            };
            if u16::from(id) == STick::ID {
                let tick = u64::from_le_bytes(packet[4..12].try_into().unwrap());
                let is_next = self.ticks == 0 || tick == self.ticks + 1;
                assert!(is_next, "{}: tick {tick} after {}", self.id, self.ticks);
                self.ticks = tick;
                self.latest_tick = self.latest_tick.max(clock.elapsed() - TICK * tick as u32);
            } else {
                self.chat_bytes += size as u64;
            }
            bytes = after;
        }
        self.rest = bytes.to_vec();
    }
}

const FAST: Reader = Reader::Steady {
    bytes_per_sec: 16 * MIB,
    every: STEP,
};

/// The slowest reader that the server promises to keep, with the given pause between its reads.
fn keeps_up(pause_ms: u64) -> Reader {
    Reader::Steady {
        bytes_per_sec: MIB,
        every: Duration::from_millis(pause_ms),
    }
}

fn slow(bytes_per_sec: u64) -> Reader {
    Reader::Steady {
        bytes_per_sec,
        every: STEP,
    }
}

fn config(workers: usize) -> Config {
    let mut config = Config::default();
    config.workers = workers;
    config
}

#[test]
fn reader_that_keeps_up_is_never_kicked_whatever_others_send() {
    let seeds = match std::env::var("TEST_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("TEST_SEED is a number");
            seed..seed + 1
        }
        Err(_) => {
            let seeds = std::env::var("SIM_SEEDS").map_or(1, |count| {
                count
                    .parse::<u64>()
                    .expect("SIM_SEEDS is a number")
                    .div_ceil(500)
            });
            let first = fastrand::u64(..1 << 40);
            first..first + seeds
        }
    };
    for seed in seeds {
        let mut rng = fastrand::Rng::with_seed(seed);
        println!("TEST_SEED={seed}");
        let mut config = config(rng.usize(1..=3));
        config.max_send_queue_bytes = *rng.choice(&[64 << 10, 256 << 10, 1 << 20]).unwrap();
        let mut sim = Sim::new(config);
        let readers: Vec<usize> = (0..rng.usize(1..4))
            .map(|_| {
                let reader = keeps_up(*rng.choice(&[2, 10, 20, 33, 50, 76]).unwrap());
                sim.connect(reader, false)
            })
            .collect();
        for _ in 0..rng.usize(1..20) {
            sim.connect(FAST, true);
        }
        for _ in 0..rng.usize(..4) {
            let slow = slow(rng.u64(1_000..400_000));
            let reader = *rng.choice(&[Reader::Deaf, Reader::Liar, slow]).unwrap();
            sim.connect(reader, rng.bool());
        }
        for _ in 0..rng.usize(1..6) {
            // Other sessions connect and leave meanwhile.
            sim.connect(FAST, true);
            sim.run(Duration::from_millis(rng.u64(100..1_500)));
        }
        sim.run(Duration::from_secs(1));
        for index in readers {
            let peer = &sim.peers[index];
            assert_eq!(
                peer.ended_at, None,
                "seed {seed}: {:?} was ended",
                peer.reader
            );
            // The bytes before a tick wait in the queue that paces, in the mailbox, and in the sockets.
            let most = Duration::from_millis(800);
            assert!(
                peer.latest_tick < most,
                "seed {seed}: {:?} got a tick after {:?}",
                peer.reader,
                peer.latest_tick
            );
            assert!(
                peer.ticks + 20 > sim.ticks,
                "seed {seed}: {} of {}",
                peer.ticks,
                sim.ticks
            );
            assert!(peer.chat_bytes > 0);
        }
    }
}

#[test]
fn fast_reader_gets_ticks_on_time_beside_a_pacing_session() {
    let mut sim = Sim::new(config(2));
    let fast = sim.connect(FAST, false);
    sim.connect(keeps_up(50), false);
    for _ in 0..10 {
        sim.connect(FAST, true);
    }
    sim.run(Duration::from_secs(2));
    assert!(
        sim.peers[fast].latest_tick <= Duration::from_millis(20),
        "{:?}",
        sim.peers[fast].latest_tick
    );
    assert_eq!(sim.slow_consumers(), 0);
}

#[test]
fn packets_of_leaving_sessions_kick_no_reader() {
    let mut sim = Sim::with_packets_on_leave(config(2), 60);
    let readers = [2, 20, 50].map(|pause_ms| sim.connect(keeps_up(pause_ms), false));
    let leaving: Vec<usize> = (0..40).map(|_| sim.connect(FAST, false)).collect();
    sim.run(Duration::from_millis(200));
    for index in leaving {
        let peer = &sim.peers[index];
        peer.end.finish();
        sim.shards[peer.id.worker()].handle_readiness(peer.id, true, false, sim.clock.now());
    }
    // Each reader gets 2.4 MB.
    sim.run(Duration::from_secs(5));
    for index in readers {
        let peer = &sim.peers[index];
        assert_eq!(peer.ended_at, None, "{:?}", peer.reader);
        assert_eq!(peer.chat_bytes, 40 * 60 * 1004);
        assert!(
            peer.latest_tick < Duration::from_millis(800),
            "{:?}",
            peer.latest_tick
        );
    }
}

/// The bytes of chat a second that a fast reader gets, beside the readers `others`.
fn chat_rate(others: &[Reader]) -> u64 {
    let mut sim = Sim::new(config(2));
    let fast = sim.connect(FAST, false);
    for _ in 0..10 {
        sim.connect(FAST, true);
    }
    for reader in others {
        sim.connect(*reader, false);
    }
    sim.run(Duration::from_millis(500));
    let before = sim.peers[fast].chat_bytes;
    sim.run(Duration::from_secs(2));
    assert_eq!(sim.peers[fast].ended_at, None);
    (sim.peers[fast].chat_bytes - before) / 2
}

#[test]
fn readers_that_do_not_keep_up_pace_no_session_and_a_liar_keeps_the_least_rate() {
    let alone = chat_rate(&[]);
    assert!(alone > 4 * MIB, "{alone}");
    let beside_slow = chat_rate(&[slow(16 << 10); 20]);
    assert!(beside_slow * 10 >= alone * 9, "{beside_slow} of {alone}");
    let beside_deaf = chat_rate(&[Reader::Deaf; 20]);
    assert!(beside_deaf * 10 >= alone * 9, "{beside_deaf} of {alone}");
    for reader in [Reader::Liar, keeps_up(50)] {
        let paced = chat_rate(&[reader]);
        assert!(paced * 10 >= 6 * MIB, "{paced} beside {reader:?}");
    }
    assert!(
        chat_rate(&[keeps_up(50)]) < 2 * MIB,
        "a reader that keeps up paces"
    );
}

#[test]
fn session_that_reads_nothing_is_kicked_by_bytes_within_the_grace_and_by_age_within_the_lag() {
    for (sends, most) in [
        (true, Duration::from_millis(2_500)),
        (false, Duration::from_secs(60)),
    ] {
        let mut sim = Sim::new(config(1));
        let deaf = sim.connect(Reader::Deaf, false);
        sim.connect(FAST, sends);
        sim.run(most);
        let ended_at = sim.peers[deaf].ended_at;
        if sends {
            assert!(ended_at.is_some(), "after {most:?}");
            assert_eq!(sim.slow_consumers(), 1);
        } else {
            // Ticks of 23 bytes do not fill the sockets in that time.
            assert_eq!(ended_at, None);
        }
    }
    let mut sim = Sim::new(config(1));
    let deaf = sim.connect(Reader::Deaf, false);
    let chat = sim.buffers.encode(&SChat([]), &[b'x'; 1000]).unwrap();
    let filled = SOCKET_BYTES / chat.len() + 1;
    (0..filled).for_each(|_| sim.router.broadcast(&chat));
    sim.run(sim.config.max_send_lag.unwrap() - Duration::from_millis(100));
    assert_eq!(sim.peers[deaf].ended_at, None);
    sim.run(Duration::from_millis(300));
    assert!(sim.peers[deaf].ended_at.is_some());
}

/// A socket takes a peer's bytes in bursts: a window of 250 ms has two of these bursts, or three.
#[test]
fn reader_of_512_kib_a_second_over_the_grace_is_exempt_from_the_limit_of_its_queue() {
    for (kib_per_sec, stays) in [(560, true), (300, false)] {
        let mut sim = Sim::new(config(1));
        let reader = Reader::Steady {
            bytes_per_sec: kib_per_sec << 10,
            every: Duration::from_millis(110),
        };
        let reader = sim.connect(reader, false);
        let all = sim.send_pieces(reader, 66);
        sim.run(Duration::from_secs(8));
        let peer = &sim.peers[reader];
        assert_eq!(peer.ended_at.is_none(), stays, "{kib_per_sec} KiB/s");
        assert_eq!(peer.chat_bytes == all, stays, "{kib_per_sec} KiB/s");
    }
}

/// Less than the average that exempts, with the pause. The last window counts as well.
#[test]
fn reader_that_keeps_up_stays_after_a_pause_of_the_process() {
    let mut sim = Sim::new(config(1));
    let reader = sim.connect(keeps_up(20), false);
    let all = sim.send_pieces(reader, 66);
    sim.run(Duration::from_millis(100));
    sim.clock.advance(Duration::from_secs(2));
    sim.run(Duration::from_secs(8));
    let peer = &sim.peers[reader];
    assert_eq!((peer.ended_at, peer.chat_bytes), (None, all));
}

#[test]
fn slow_steady_reader_receives_a_long_queue_and_stays() {
    let mut sim = Sim::new(config(1));
    let reader = sim.connect(slow(125_000), false);
    sim.send_pieces(reader, 12);
    sim.run(Duration::from_secs(8));
    assert_eq!(sim.peers[reader].ended_at, None);
    assert_eq!(sim.peers[reader].chat_bytes, 12 * 60_004);
    // The same queue without a reader ends by its age.
    sim.peers[reader].reader = Reader::Deaf;
    sim.send_pieces(reader, 12);
    sim.run(Duration::from_millis(5_500));
    assert!(sim.peers[reader].ended_at.is_some());
}

#[test]
fn queue_over_eight_times_the_limit_kicks_at_once() {
    let mut config = config(1);
    config.max_send_queue_bytes = 64 << 10;
    let mut sim = Sim::new(config);
    let reader = sim.connect(Reader::Deaf, false);
    let piece = sim.buffers.encode(&SChat([]), &[b'x'; 60_000]).unwrap();
    let most = 8 * (64 << 10) + SOCKET_BYTES;
    for count in 1..20 {
        sim.router.send(sim.peers[reader].id, piece.clone());
        sim.turn(0);
        let is_over = count * piece.len() > most;
        assert_eq!(sim.slow_consumers(), u64::from(is_over), "{count} pieces");
        if is_over {
            return;
        }
    }
    panic!("the cap was never reached");
}

#[test]
fn total_queue_limit_kicks_the_longest_queues_first() {
    for workers in [1, 3] {
        let mut config = config(workers);
        config.max_total_queue_bytes = Some(4 << 20);
        let mut sim = Sim::new(config);
        let fast = sim.connect(FAST, false);
        let chat = sim.buffers.encode(&SChat([]), &[b'x'; 1000]).unwrap();
        let deaf: Vec<usize> = (0..60).map(|_| sim.connect(Reader::Deaf, false)).collect();
        let longest = deaf[7];
        let longest_id = sim.peers[longest].id;
        for _ in 0..300 {
            sim.router.broadcast(&chat);
            sim.router.send(longest_id, chat.clone());
            sim.run(STEP);
            let waiting = sim.metrics.totals().send_queue_bytes;
            assert!(waiting <= (4 << 20) + (1 << 20), "{waiting} bytes wait");
        }
        assert!(sim.slow_consumers() > 0, "with {workers} workers");
        assert!(sim.peers[longest].ended_at.is_some());
        let ended = |index: &usize| sim.peers[*index].ended_at;
        let first = deaf.iter().filter_map(ended).min();
        assert!(sim.peers[longest].ended_at <= first.map(|at| at + STEP));
        assert_eq!(sim.peers[fast].ended_at, None);
        // The bytes of a session that has left are not counted any more.
        deaf.iter().for_each(|index| {
            let id = sim.peers[*index].id;
            sim.router.close(id, DisconnectReason::Closed);
        });
        sim.run(Duration::from_secs(4));
        assert_eq!(sim.metrics.totals().send_queue_bytes, 0);
    }
}
