//! Several workers' shards over fake connections and a fake clock, driven by one seed.
//!
//! `SIM_SEEDS=100000` runs more seeds than usual, `TEST_SEED=7` that one alone.
#![allow(clippy::unwrap_used)] // In a test, a panic is the report.

#[path = "simulation/groups.rs"]
mod groups;
#[path = "simulation/link.rs"]
mod link;
#[path = "simulation/listener.rs"]
mod listener;
#[path = "simulation/wire.rs"]
mod wire;
#[path = "simulation/world.rs"]
mod world;

use bytemuck::from_bytes;
use groups::Verdict;
use link::FakeLink;
use listener::FakeListener;
use server_core::base::disconnect_log::DisconnectLog;
use server_core::buffer::{ChunkPool, SendBufferManager};
use server_core::connection::admission::Admission;
use server_core::metrics::Metrics;
use server_core::routing::mailbox::Mailbox;
use server_core::routing::outbox;
use server_core::routing::router::{Command, NewConnection, Router};
use server_core::runtime::acceptor::RETRY;
use server_core::shard::{Shard, Shared};
use server_core::{Config, DisconnectReason, Kick, PacketHead, SessionId};
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use wire::{FakeStream, PeerEnd, Stand};
use world::{C_BAD_PAYLOAD, C_ECHO, OUTSIDE, SBroadcast, SBye, SCast, SDirect, SEcho, SharedWorld};
use world::{Record, SimSession, Stamp, World, filler_byte};

const DEFAULT_SEEDS: u64 = 2_500;
const THREADS: u64 = 2;
const MAX_PACKET_BYTES: usize = 8_192;
/// Connections of one run.
const MOST_PEERS: usize = 14;
/// Turns within one instant, after which it is said to go round and round.
const TURNS_TO_REST: usize = 30_000;

/// A look that a full mailbox or a used-up budget put off is taken again a little later, so a
/// timer that is overdue when a worker rests has until then.
const TIMER_PATIENCE: Duration = Duration::from_secs(1);

#[test]
fn any_seed() {
    if let Ok(seed) = std::env::var("TEST_SEED") {
        let seed = seed.parse().expect("TEST_SEED is a number");
        let (offences, tally) = simulate(seed);
        println!("{tally:?}");
        assert!(offences.is_empty(), "seed {seed}:\n{}", offences.join("\n"));
        return;
    }
    let seeds = std::env::var("SIM_SEEDS").map_or(DEFAULT_SEEDS, |count| {
        count.parse().expect("SIM_SEEDS is a number")
    });
    let first = fastrand::u64(..1 << 40);
    println!("seeds {first} to {}", first + seeds);
    let next = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    let total = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= seeds {
                        break;
                    }
                    let seed = first + n;
                    let (offences, tally) = std::panic::catch_unwind(|| simulate(seed))
                        .unwrap_or_else(|panic| (vec![name_panic(&*panic)], Tally::default()));
                    total.lock().unwrap().absorb(tally);
                    if !offences.is_empty() {
                        failures.lock().unwrap().push((seed, offences));
                    }
                }
            });
        }
    });
    let mut total = total.into_inner().unwrap();
    println!("{total:?}");
    let failures = failures.into_inner().unwrap();
    let report: Vec<String> = failures
        .iter()
        .take(5)
        .map(|(seed, offences)| {
            let replay = "cargo test -p server_core --test simulation";
            format!("TEST_SEED={seed} {replay}\n  {}", offences.join("\n  "))
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {seeds} seeds failed, among them:\n{}",
        failures.len(),
        report.join("\n")
    );
    assert!(
        seeds < 1_000 || total.has_everything(),
        "something never happens any more: {total:?}"
    );
}

#[test]
fn a_seed_gives_the_same_run_twice() {
    for seed in 0..20 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
}

fn name_panic(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or(panic.downcast_ref::<String>().map(String::as_str));
    format!("a panic outside of the handlers: {}", text.unwrap_or("?"))
}

/// What the peers of one run have seen.
fn trace(seed: u64) -> Vec<Vec<u8>> {
    let mut sim = Sim::new(seed);
    sim.run();
    let outputs = sim.peers.iter().map(|peer| peer.end.pipe().output.clone());
    outputs.collect()
}

fn simulate(seed: u64) -> (Vec<String>, Tally) {
    let mut sim = Sim::new(seed);
    sim.run();
    sim.finish()
}

/// How often things happened: a simulation in which they do not would find nothing either.
#[derive(Debug, Default)]
struct Tally {
    turns: u64,
    sessions: u64,
    packets_to_peers: u64,
    packets_from_peers: u64,
    /// A call of the server met a reset in the middle of a turn.
    resets: u64,
    lost_edges: u64,
    /// Accepts without a descriptor.
    failed_accepts: u64,
    clock_jumps: u64,
    /// Shutdowns in the middle of everything.
    early_shutdowns: u64,
    handler_panics: u64,
    slow_consumers: u64,
    /// Packets to groups that peers got, had to get, and must not get.
    casts: u64,
    casts_owed: u64,
    casts_denied: u64,
    joins_refused: u64,
    /// Calls of `on_drained`, and those among them whose request had to wait for the peer.
    drained: u64,
    drained_later: u64,
    logins: u64,
    /// Sessions that had their time for a login, and those that had to go before.
    login_timeouts: u64,
    evictions: u64,
    /// Packets from the link, and packets for it.
    from_link: u64,
    to_link: u64,
}

impl Tally {
    fn fields(&mut self) -> [&mut u64; 22] {
        [
            &mut self.turns,
            &mut self.sessions,
            &mut self.packets_to_peers,
            &mut self.packets_from_peers,
            &mut self.resets,
            &mut self.lost_edges,
            &mut self.failed_accepts,
            &mut self.clock_jumps,
            &mut self.early_shutdowns,
            &mut self.handler_panics,
            &mut self.slow_consumers,
            &mut self.casts,
            &mut self.casts_owed,
            &mut self.casts_denied,
            &mut self.joins_refused,
            &mut self.drained,
            &mut self.drained_later,
            &mut self.logins,
            &mut self.login_timeouts,
            &mut self.evictions,
            &mut self.from_link,
            &mut self.to_link,
        ]
    }

    fn absorb(&mut self, mut other: Self) {
        for (sum, part) in self.fields().into_iter().zip(other.fields()) {
            *sum += *part;
        }
    }

    fn has_everything(&mut self) -> bool {
        self.fields().iter().all(|count| **count > 0)
    }
}

// ---- peers --------------------------------------------------------------------------------------

/// What is the matter with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Healthy,
    BadSize,
    TooLarge,
    UnknownId,
    BadPayload,
    /// Begins a packet and never ends it.
    Stall,
    /// Sends nothing at all.
    Silent,
    /// Sends, and reads little or nothing.
    NoRead,
    /// Ends its write side, reads on.
    HalfClose,
    /// Ends its write side, reads no more.
    Leaver,
    /// Meets an error.
    Breaks(ErrorKind),
    /// Healthy, until one of the server's calls meets an error: any call, in any step of a turn.
    Resets,
    /// Healthy, but never answers a FIN.
    Ghost,
}

const TROUBLE: &[Kind] = &[
    Kind::BadSize,
    Kind::TooLarge,
    Kind::UnknownId,
    Kind::BadPayload,
    Kind::Stall,
    Kind::Silent,
    Kind::NoRead,
    Kind::HalfClose,
    Kind::Leaver,
    Kind::Breaks(ErrorKind::ConnectionReset),
    Kind::Breaks(ErrorKind::BrokenPipe),
    Kind::Breaks(ErrorKind::TimedOut),
    Kind::Breaks(ErrorKind::HostUnreachable),
    Kind::Ghost,
    Kind::Resets,
    Kind::Resets,
];

struct PeerSide {
    end: PeerEnd,
    kind: Kind,
    is_outgoing: bool,
    /// Will stand, be refused, or stay away for good.
    fate: Option<Stand>,
    to_send: Vec<u8>,
    /// Echoes wholly sent before any offence.
    echoes: u64,
    has_offended: bool,
    /// What does not fit into `to_send` and `echoes` any more: the offence ends it.
    sent_at: Instant,
    read_at: Instant,
    /// Its last bytes may be missing: the clock jumped over its flush deadline.
    may_be_cut: bool,
    /// What it has read so far.
    seen: Seen,
}

impl PeerSide {
    fn reads(&self) -> bool {
        match self.kind {
            Kind::NoRead => false,
            Kind::Leaver => !self.has_offended,
            _ => true,
        }
    }

    fn is_well_behaved(&self) -> bool {
        matches!(self.kind, Kind::Healthy | Kind::Ghost | Kind::Resets)
    }

    fn put_echo(&mut self, rng: &mut fastrand::Rng) {
        // A fickle stream gives a few bytes at a time: what is large would really be late.
        let large = if self.end.pipe().is_fickle {
            300
        } else {
            3_000
        };
        let bytes = if rng.u32(..30) == 0 { large } else { 60 };
        let payload = vec![7_u8; rng.usize(..bytes)];
        self.put_packet(C_ECHO, &payload);
        self.echoes += 1;
    }

    fn put_packet(&mut self, id: u16, payload: &[u8]) {
        let size = (payload.len() + 4) as u16;
        self.to_send.extend(size.to_le_bytes());
        self.to_send.extend(id.to_le_bytes());
        self.to_send.extend(payload);
    }

    /// Puts what its kind does wrong behind all that it did right.
    fn offend(&mut self, rng: &mut fastrand::Rng) {
        self.has_offended = true;
        match self.kind {
            Kind::BadSize => self.to_send.extend([rng.u8(..4), 0, 10, 0]),
            Kind::TooLarge => {
                let size = rng.u16(MAX_PACKET_BYTES as u16 + 1..);
                self.to_send.extend(size.to_le_bytes());
                self.to_send.extend([10, 0]);
            }
            Kind::UnknownId => self.put_packet(*rng.choice(&[0, 1, 9, 12, 65_535]).unwrap(), b"x"),
            Kind::BadPayload => self.put_packet(C_BAD_PAYLOAD, b"x"),
            Kind::Stall => self
                .to_send
                .extend_from_slice(&[100, 0, 10, 0, 1][..rng.usize(1..=5)]),
            _ => {}
        }
        if matches!(
            self.kind,
            Kind::BadSize | Kind::TooLarge | Kind::UnknownId | Kind::BadPayload
        ) {
            // Nobody must handle what stands behind an offence.
            let behind = rng.usize(..3);
            for _ in 0..behind {
                self.put_packet(C_ECHO, b"never");
            }
        }
        self.transmit(self.to_send.len());
        let mut pipe = self.end.pipe();
        match self.kind {
            Kind::HalfClose => pipe.peer_sent_fin = true,
            Kind::Leaver => (pipe.peer_sent_fin, pipe.window) = (true, 0),
            Kind::Breaks(kind) => pipe.broken = Some(kind),
            _ => {}
        }
    }

    fn transmit(&mut self, count: usize) {
        let mut pipe = self.end.pipe();
        if !pipe.peer_sent_fin {
            pipe.input.extend(self.to_send.drain(..count));
        }
    }

    fn step(&mut self, now: Instant, rng: &mut fastrand::Rng) {
        let (is_dropped, stand) = {
            let pipe = self.end.pipe();
            (pipe.is_dropped, pipe.stand)
        };
        if is_dropped || stand == Stand::Refused {
            return;
        }
        if stand == Stand::Pending {
            if rng.u32(..4) == 0 {
                self.stand_as_fated(now);
            }
            return;
        }
        let late = Duration::from_millis(300);
        if self.reads() && (rng.bool() || now >= self.read_at + late) {
            self.end.pipe().window = if rng.bool() {
                1 << 20
            } else {
                rng.usize(..4_000)
            };
            self.read_at = now;
        }
        if !self.has_offended && self.kind != Kind::Silent {
            let due = now >= self.sent_at + late;
            if due || rng.u32(..3) == 0 {
                self.put_echo(rng);
            }
            if !self.is_well_behaved() && self.kind != Kind::NoRead && rng.u32(..15) == 0 {
                self.offend(rng);
            }
            let count = if due {
                self.to_send.len()
            } else {
                rng.usize(..=self.to_send.len())
            };
            if count == self.to_send.len() {
                self.sent_at = now;
            }
            self.transmit(count);
        }
        self.answer_fin();
        if rng.u32(..10) < 7 {
            self.end.raise_edges();
        }
    }

    /// All that a healthy peer would have done in the meantime.
    fn catch_up(&mut self, now: Instant, rng: &mut fastrand::Rng) {
        {
            let mut pipe = self.end.pipe();
            pipe.is_fickle = false;
            if self.reads() && pipe.stand == Stand::Standing {
                pipe.window = 16 << 20;
                self.read_at = now;
            }
        }
        let stands = self.end.pipe().stand == Stand::Standing;
        if stands && !self.has_offended && self.kind != Kind::Silent {
            self.put_echo(rng);
            self.transmit(self.to_send.len());
            self.sent_at = now;
        }
        self.answer_fin();
        self.end.raise_edges();
    }

    fn stand_as_fated(&mut self, now: Instant) {
        let is_pending = self.end.pipe().stand == Stand::Pending;
        if let Some(fate) = self.fate.filter(|_| is_pending) {
            // It may become readable first and writable later: mio promises no order.
            self.end.pipe().stand = fate;
            (self.sent_at, self.read_at) = (now, now);
            self.end.raise_edges();
        }
    }

    fn answer_fin(&mut self) {
        let mut pipe = self.end.pipe();
        if pipe.server_sent_fin && self.kind != Kind::Ghost && self.reads() {
            pipe.peer_sent_fin = true;
        }
    }
}

// ---- the simulation -----------------------------------------------------------------------------

type SimShard = Shard<FakeStream, SimSession>;

struct Sim {
    rng: fastrand::Rng,
    now: Instant,
    shards: Vec<Option<SimShard>>,
    has_mail: Vec<bool>,
    listener: FakeListener,
    /// Connections that the process may have at a time.
    descriptors: usize,
    /// When all rested since the last accept, somebody waited and there was room, from then on.
    may_accept_since: Option<Instant>,
    tally: Tally,
    /// Events may be lost for good in this turn.
    may_lose_edges: bool,
    woken: Vec<Arc<AtomicBool>>,
    config: Config,
    router: Arc<Router<FakeStream>>,
    link: FakeLink,
    buffers: SendBufferManager,
    pool: Arc<ChunkPool>,
    admission: Arc<Admission>,
    metrics: Arc<Metrics>,
    world: SharedWorld,
    peers: Vec<PeerSide>,
    flush_by: Option<Instant>,
    /// Longer than no time at all: the process is stopped in the middle of each turn.
    turn_takes: Duration,
    failed_incoming: u64,
    /// Queue limits so low that healthy peers meet them too.
    is_tight: bool,
    is_fickle: bool,
    is_restless: bool,
    /// Timers that were due when everything rested, and since when that is known.
    overdue: HashMap<(SessionId, Instant), Instant>,
    offences: Vec<String>,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let workers = rng.usize(1..=3);
        let is_tight = rng.u32(..5) == 0;
        let mut config = Config::default();
        config.workers = workers;
        config.max_packet_bytes = MAX_PACKET_BYTES;
        config.max_send_queue_bytes = if is_tight { 2_000 } else { 4 << 20 };
        config.max_send_lag = Some(Duration::from_secs(3));
        config.packet_timeout = Some(Duration::from_secs(2));
        config.idle_timeout = rng.bool().then_some(Duration::from_secs(3));
        config.connect_timeout = Some(Duration::from_secs(2));
        config.flush_timeout = Duration::from_millis(2_500);
        config.linger = Duration::from_millis(200);
        config.chunk_bytes = *rng.choice(&[1 << 10, 4 << 10, 64 << 10]).unwrap();
        config.pooled_chunks = rng.usize(1..8);
        config.mailbox_bytes = *rng.choice(&[1, 300, 5_000, 1 << 20]).unwrap();
        config.recv_buffer_bytes = *rng.choice(&[16, 1_000, 64 << 10]).unwrap();
        config.read_budget_bytes = *rng.choice(&[200, 2_000, 128 << 10]).unwrap();
        config.write_budget_bytes = *rng.choice(&[500, 4_000, 64 << 10]).unwrap();
        config.turn_input_bytes = *rng.choice(&[200, 20_000, 256 << 10]).unwrap();
        config.turn_output_bytes = *rng.choice(&[2_000, 20_000, 8 << 20]).unwrap();
        config.login_timeout = rng.bool().then_some(Duration::from_millis(2_500));
        config.max_unadmitted = *rng
            .choice(&[None, None, Some(0), Some(3), Some(6)])
            .unwrap();
        config.max_sessions = rng.bool().then_some(MOST_PEERS);
        config.max_groups_per_session = *rng.choice(&[1, 2, 64]).unwrap();

        let mut world = World::new(rng.fork());
        world.panics_one_in = *rng.choice(&[u32::MAX, 300, 40]).unwrap();
        world.actions_one_in = rng.u32(1..6);
        world.handlers_close = rng.bool();
        world.logins = *rng.choice(&[0, 50, 100]).unwrap();
        world.groups.max_per_session = config.max_groups_per_session;
        let world = SharedWorld(Arc::new(Mutex::new(world)));

        let pool = ChunkPool::new(config.chunk_bytes, config.pooled_chunks);
        let buffers = SendBufferManager::new(Arc::clone(&pool));
        let woken: Vec<_> = (0..workers)
            .map(|_| Arc::new(AtomicBool::new(false)))
            .collect();
        let router = Arc::new(Router::new(woken.iter().map(|woken| {
            let woken = Arc::clone(woken);
            Mailbox::new(config.mailbox_bytes, move || {
                woken.store(true, Ordering::SeqCst)
            })
        })));
        // All in here is one thread: it must not wait for a mailbox that it itself empties.
        router.enter_worker_thread();
        let metrics = Arc::new(Metrics::new(workers));
        let shared = Arc::new(Shared {
            config: config.clone(),
            router: Arc::clone(&router),
            buffers: buffers.clone(),
            metrics: Arc::clone(&metrics),
            departures: DisconnectLog::default(),
            factory: Box::new({
                let world = world.clone();
                move |peer| SimSession::new(peer, &world)
            }),
            close_message: Arc::new(|reason, buffers| {
                buffers.encode(&SBye(reason.code()?.into()), b"bye").ok()
            }),
        });
        let shards = (0..workers).map(|worker| Some(Shard::new(worker, Arc::clone(&shared))));
        Self {
            now: Instant::now(),
            shards: shards.collect(),
            has_mail: vec![false; workers],
            listener: FakeListener::default(),
            descriptors: *rng.choice(&[2, 3, 6, 1_000, 1_000]).unwrap(),
            may_accept_since: None,
            tally: Tally::default(),
            may_lose_edges: false,
            woken,
            admission: Arc::new(Admission::new(workers, config.max_sessions, None)),
            link: FakeLink::attach(&router),
            router,
            buffers,
            pool,
            metrics,
            world,
            peers: Vec::new(),
            flush_by: None,
            turn_takes: Duration::ZERO,
            failed_incoming: 0,
            is_tight,
            is_fickle: rng.bool(),
            is_restless: false,
            overdue: HashMap::new(),
            offences: Vec::new(),
            config,
            rng,
        }
    }

    fn run(&mut self) {
        let steps = self.rng.usize(20..90);
        let quiesces = self.rng.bool();
        let shutdown_at = if quiesces {
            usize::MAX
        } else {
            self.rng.usize(..steps)
        };
        let jumps = self.rng.bool();
        for _ in 0..self.rng.usize(1..6) {
            self.connect();
        }
        for step in 0..steps {
            if step == shutdown_at {
                self.tally.early_shutdowns += 1;
                self.shut_down();
            }
            self.outside();
            for peer in &mut self.peers {
                peer.step(self.now, &mut self.rng);
            }
            self.now += Duration::from_millis(self.rng.u64(..60));
            if jumps && self.rng.u32(..25) == 0 {
                self.jump();
            } else if step % 5 == 0 {
                // A worker does not sleep while it has work: nobody is late because of us.
                self.turn_until_rest();
            } else {
                self.may_lose_edges = true;
                for _ in 0..self.rng.usize(..4) {
                    // Also without need: a poll may return for nothing.
                    match self.rng.usize(..=self.shards.len()) {
                        0 => self.listener_turn(),
                        worker => self.turn(worker - 1),
                    }
                }
                self.may_lose_edges = false;
            }
        }
        if quiesces {
            self.quiesce();
        }
        if self.flush_by.is_none() {
            self.shut_down();
        }
        self.end();
    }

    // ---- what happens outside ---------------------------------------------------------------

    fn outside(&mut self) {
        if self.rng.u32(..6) == 0 && self.peers.len() < MOST_PEERS {
            self.connect();
        }
        if self.rng.u32(..4) == 0 {
            broadcast_from_outside(&self.world, &self.buffers, &self.router);
        }
        if self.rng.u32(..6) == 0 {
            self.link.deliver(&self.world, &self.buffers, &self.router);
        }
        if self.rng.u32(..4) == 0 {
            self.group_from_outside();
        }
        let mut world = self.world.lock();
        let some_id = world.some_id();
        if let Some(to) = some_id
            && self.rng.u32(..4) == 0
            && world.budget > 0
        {
            let (head, tail) = world.direct(OUTSIDE, to);
            self.router
                .send(to, self.buffers.encode(&head, &tail).unwrap());
        }
        if let Some(id) = some_id
            && self.rng.u32(..40) == 0
        {
            world.sessions.get_mut(&id).unwrap().close_was_asked = true;
            self.router.close(id, DisconnectReason::Closed);
        }
        if self.rng.u32(..20) == 0 {
            // Ids of nobody.
            let nobody = SessionId::new(self.rng.u32(..), self.rng.u8(..4), 1_000_000);
            self.router.close(nobody, DisconnectReason::Closed);
            self.router
                .send(nobody, self.buffers.encode(&SEcho(0.into()), b"").unwrap());
        }
    }

    /// Any other thread puts somebody into a group or takes it out, or sends something to one.
    fn group_from_outside(&mut self) {
        let mut world = self.world.lock();
        let group = world.groups.some(&mut self.rng);
        let some_id = world.some_id();
        match (self.rng.u32(..4), some_id) {
            (0, Some(id)) => {
                world.groups.asked_from_outside(id, group, true);
                self.router.join(id, group);
            }
            (1, Some(id)) => {
                world.groups.asked_from_outside(id, group, false);
                self.router.leave(id, group);
            }
            _ if world.budget > 0 && !world.quiet => {
                let except = some_id.filter(|_| self.rng.bool());
                let (head, tail) = world.cast(OUTSIDE, group, except);
                let buffer = self.buffers.encode(&head, &tail).unwrap();
                self.router.broadcast_to(group, except, &buffer);
            }
            _ => {}
        }
    }

    fn connect(&mut self) {
        let is_outgoing = self.rng.u32(..4) == 0;
        // The listener has ended before the workers are told to.
        if self.flush_by.is_some() && !is_outgoing {
            return;
        }
        let kind = match self.rng.bool() {
            true => Kind::Healthy,
            false => *self.rng.choice(TROUBLE).unwrap(),
        };
        let fate = match self.rng.u32(..6) {
            0 => None,
            1 => Some(Stand::Refused),
            _ => Some(Stand::Standing),
        };
        let stand = if is_outgoing {
            Stand::Pending
        } else {
            Stand::Standing
        };
        let (stream, end) = wire::pair(self.rng.fork(), stand);
        {
            let mut pipe = end.pipe();
            pipe.is_fickle = self.is_fickle;
            // On top of being fickle that would be a peer that really is slow.
            if !self.is_fickle && self.rng.bool() {
                pipe.largest_write = 600;
            }
            pipe.window = self.rng.usize(..8_000) * usize::from(self.rng.bool());
            if kind == Kind::Resets {
                let how = [
                    ErrorKind::ConnectionReset,
                    ErrorKind::BrokenPipe,
                    ErrorKind::TimedOut,
                ];
                let call = self.rng.u32(..40);
                pipe.breaks_at_call = self.rng.choice(how).map(|kind| (call, kind));
            }
        }
        let addr = SocketAddr::from(([127, 0, 0, 1], self.peers.len() as u16));
        self.peers.push(PeerSide {
            end,
            kind,
            is_outgoing,
            fate,
            to_send: Vec::new(),
            echoes: 0,
            has_offended: false,
            sent_at: self.now,
            read_at: self.now,
            may_be_cut: false,
            seen: Seen::default(),
        });
        if is_outgoing {
            self.router.adopt(NewConnection {
                stream,
                permit: self.admission.admit_outgoing(addr),
                tag: Some(u64::from(addr.port())),
                is_connecting: true,
            });
        } else {
            self.listener.arrive(stream, addr);
        }
    }

    /// What the loop of `listener.rs` does once.
    fn listener_turn(&mut self) {
        let free = self.free_descriptors();
        let batch = self.rng.usize(1..4);
        let failures = self.listener.failures;
        let accepted = (self.listener).turn(batch, free, &mut self.rng, self.now);
        if !accepted.is_empty() || self.listener.failures > failures {
            self.may_accept_since = None;
        }
        for (stream, addr) in accepted {
            self.router.adopt(NewConnection {
                stream,
                permit: self.admission.admit(addr).unwrap(),
                tag: None,
                is_connecting: false,
            });
        }
    }

    /// Each permit that is out is a connection that has a descriptor.
    fn free_descriptors(&self) -> usize {
        self.descriptors.saturating_sub(self.admission.total())
    }

    /// The process was stopped, or the machine was, while the peers went on.
    fn jump(&mut self) {
        self.tally.clock_jumps += 1;
        if self.rng.bool() {
            self.settle_down();
        }
        for peer in &mut self.peers {
            peer.catch_up(self.now, &mut self.rng);
        }
        let stop = Duration::from_millis(self.rng.u64(1_000..20_000));
        if self.rng.bool() {
            // It is stopped in the middle of a turn: what that reads bears the time of its beginning.
            self.turn_takes = stop;
            (0..self.shards.len()).for_each(|worker| self.turn(worker));
            self.turn_takes = Duration::ZERO;
        }
        for peer in &mut self.peers {
            let pipe = peer.end.pipe();
            let record = pipe
                .id
                .map(|id| self.world.lock().sessions[&id].disconnected);
            peer.may_be_cut |= record == Some(1) && !pipe.is_dropped;
        }
        self.now += stop;
        self.overdue.clear();
        // What is over because of the jump itself may be decided now; what leaves in here has
        // its full time from here on.
        self.turn_until_rest();
        for peer in &mut self.peers {
            peer.end.pipe().is_fickle = self.is_fickle;
            (peer.sent_at, peer.read_at) = (self.now, self.now);
        }
    }

    fn shut_down(&mut self) {
        let drain = Duration::from_millis(self.rng.u64(..1_000));
        self.flush_by = Some(self.now + drain);
        self.listener.close();
        self.router.shutdown(self.now + drain);
    }

    // ---- turns ------------------------------------------------------------------------------

    /// What the loop of `worker.rs` does once.
    fn turn(&mut self, worker: usize) {
        let Some(shard) = &mut self.shards[worker] else {
            return;
        };
        let now = self.now;
        self.world.lock().groups.begin_turn();
        let mut events = Vec::new();
        for peer in &self.peers {
            let mut pipe = peer.end.pipe();
            let Some(id) = pipe.id.filter(|id| id.worker() == worker) else {
                continue;
            };
            // Some events come with a later poll, some for nothing.
            match self.rng.u32(..10) {
                0 => continue,
                1 if self.may_lose_edges => {
                    self.tally.lost_edges += u64::from(pipe.lose_edges());
                    continue;
                }
                _ => {}
            }
            let is_spurious = self.rng.u32(..20) == 0;
            let readable =
                std::mem::take(&mut pipe.readable_edge) || is_spurious && self.rng.bool();
            let writable =
                std::mem::take(&mut pipe.writable_edge) || is_spurious && self.rng.bool();
            if readable || writable {
                events.push((id, readable, writable));
            }
        }
        self.rng.shuffle(&mut events);
        self.woken[worker].store(false, Ordering::SeqCst);
        let (rng, failed_incoming) = (&mut self.rng, &mut self.failed_incoming);
        let (router, buffers, world) = (&self.router, &self.buffers, &self.world);
        self.has_mail[worker] = self.router.mailbox(worker).take_some(|command| {
            let is_incoming = matches!(&command, Command::Adopt(new) if !new.is_connecting);
            shard.handle_command(command, now, |stream, id| {
                if rng.u32(..100) == 0 {
                    *failed_incoming += u64::from(is_incoming);
                    return Err(io::Error::other("no room in the poll"));
                }
                stream.register(id);
                Ok(())
            });
            // Another thread posts just while this one takes.
            if rng.u32(..10) == 0 {
                broadcast_from_outside(world, buffers, router);
            }
            match shard.has_enough_output() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        for (id, readable, writable) in events {
            shard.handle_readiness(id, readable, writable, now);
        }
        shard.run(now);
        shard.end_turn(now, now + self.turn_takes);
        if shard.is_finished() {
            self.router.mailbox(worker).close();
            self.shards[worker] = None;
        }
        self.tally.turns += 1;
        self.check_turn();
    }

    /// What holds after each turn: every peer has whole packets so far, each once and in order,
    /// and the counts are right.
    fn check_turn(&mut self) {
        let world = self.world.lock();
        for peer in &mut self.peers {
            let pipe = peer.end.pipe();
            let Some(id) = pipe.id else { continue };
            let read = (peer.seen).read_on(&pipe.output, world.sessions[&id].own_seq_at_start, id);
            if let Err(offence) = read {
                self.offences.push(format!(
                    "after turn {}: {id} {:?}: {offence}; {:?}",
                    self.tally.turns, peer.kind, world.sessions[&id]
                ));
            }
        }
        let live = world.live() as u64;
        drop(world);
        let gauge = self.metrics.totals().sessions;
        if gauge != live {
            self.offences
                .push(format!("{live} live sessions, the gauge says {gauge}"));
        }
    }

    fn needs_turn(&self, worker: usize) -> bool {
        let Some(shard) = &self.shards[worker] else {
            return false;
        };
        let has_edge = || {
            self.peers.iter().any(|peer| {
                let pipe = peer.end.pipe();
                let is_its = pipe.id.is_some_and(|id| id.worker() == worker);
                is_its && !pipe.is_dropped && (pipe.readable_edge || pipe.writable_edge)
            })
        };
        self.has_mail[worker]
            || self.woken[worker].load(Ordering::SeqCst)
            || shard.has_work()
            || shard.next_deadline().is_some_and(|at| at <= self.now)
            || has_edge()
    }

    fn turn_until_rest(&mut self) {
        if self.is_restless {
            return; // Said already, and each time would take long.
        }
        for _ in 0..TURNS_TO_REST {
            let mut busy: Vec<Option<usize>> = (0..self.shards.len())
                .filter(|worker| self.needs_turn(*worker))
                .map(Some)
                .collect();
            busy.extend(self.listener.needs_turn(self.now).then_some(None));
            if busy.is_empty() && !outbox::is_empty() && !self.router.is_congested() {
                // What a full mailbox had no room for is tried again within milliseconds.
                busy.extend(
                    (0..self.shards.len())
                        .filter(|worker| self.shards[*worker].is_some())
                        .map(Some),
                );
            }
            match self.rng.choice(busy) {
                Some(Some(worker)) => self.turn(worker),
                Some(None) => self.listener_turn(),
                None => {
                    self.check_rest();
                    return;
                }
            }
        }
        let state: Vec<_> = self
            .shards
            .iter()
            .flatten()
            .map(|shard| {
                (
                    shard.has_work(),
                    shard
                        .next_deadline()
                        .map(|at| at.saturating_duration_since(self.now)),
                )
            })
            .collect();
        self.offences
            .push(format!("it does not come to rest: {state:?}"));
        self.is_restless = true;
    }

    /// Nothing is left undone that no event would announce.
    fn check_rest(&mut self) {
        for (worker, shard) in self.shards.iter().enumerate() {
            let waiting = self.router.mailbox(worker).queued_bytes();
            if shard.is_some() && waiting > 0 {
                self.offences
                    .push(format!("worker {worker} sleeps on {waiting} bytes of mail"));
            }
        }
        if self.listener.waiting() == 0 || self.free_descriptors() == 0 {
            self.may_accept_since = None;
        } else if *self.may_accept_since.get_or_insert(self.now) + RETRY.1 <= self.now {
            self.offences
                .push("the listener sleeps on waiting connections and free descriptors".into());
        }
        // What is paced waits for time to pass, and what it holds up waits with it.
        let is_paced = self.shards.iter().flatten().any(SimShard::is_paced);
        if is_paced || !outbox::is_empty() {
            self.overdue.clear();
            return;
        }
        self.check_groups();
        self.check_drained();
        self.check_unadmitted();
        // One is what this thread writes into.
        let live = self.pool.stats().live;
        if live > 1 {
            self.offences
                .push(format!("{live} chunks are held while everybody rests"));
        }
        let mut overdue = HashMap::new();
        for (id, record) in &self.world.lock().sessions {
            let is_live = record.connected > record.disconnected;
            if let Some(at) = record.timer_at.filter(|at| is_live && *at <= self.now) {
                let noticed = self.overdue.get(&(*id, at)).copied();
                let noticed = noticed.unwrap_or(self.now);
                overdue.insert((*id, at), noticed);
                if noticed + TIMER_PATIENCE <= self.now {
                    self.offences
                        .push(format!("{id}: its timer was slept through"));
                }
            }
            let began = record.unadmitted_since();
            let login_by = began
                .zip(self.config.login_timeout)
                .map(|(at, time)| at + time);
            if let Some(at) = login_by.filter(|at| *at <= self.now) {
                let noticed = self.overdue.get(&(*id, at)).copied();
                let noticed = noticed.unwrap_or(self.now);
                overdue.insert((*id, at), noticed);
                if noticed + TIMER_PATIENCE <= self.now {
                    self.offences
                        .push(format!("{id}: is unadmitted beyond its time: {record:?}"));
                }
            }
        }
        self.overdue = overdue;
    }

    /// Every open request for `on_drained` is of a session whose queue is longer than that.
    fn check_drained(&mut self) {
        for (id, record) in &self.world.lock().sessions {
            let Some(below) = record.drained_below else {
                continue;
            };
            let shard = self.shards[id.worker()].as_mut();
            let queued_bytes = shard.and_then(|shard| shard.queued_bytes(*id));
            if queued_bytes.is_some_and(|bytes| bytes <= below) {
                self.offences.push(format!(
                    "{id}: {queued_bytes:?} are not above {below}, and it was not called"
                ));
            }
        }
    }

    /// No worker has more sessions without a login than its share of the cap.
    fn check_unadmitted(&mut self) {
        let half = self.config.max_sessions.map(|sessions| sessions / 2);
        let Some(cap) = self.config.max_unadmitted.or(half) else {
            return;
        };
        let share = cap.div_ceil(self.config.workers).max(1);
        for worker in 0..self.shards.len() {
            let world = self.world.lock();
            let its = world.sessions.iter().filter(|(id, record)| {
                id.worker() == worker && record.unadmitted_since().is_some()
            });
            let count = its.count();
            if count > share {
                self.offences.push(format!(
                    "{count} sessions of worker {worker} wait for a login, its share is {share}"
                ));
            }
        }
    }

    /// Whether a session may have to go before its time for a login is up.
    fn evicts(&self) -> bool {
        self.config
            .max_unadmitted
            .or(self.config.max_sessions)
            .is_some()
    }

    /// Everybody is where it should be, and a worker is in the directory if it has members.
    fn check_groups(&mut self) {
        let shards = &self.shards;
        let members = |worker: usize, group| {
            let shard = shards[worker].as_ref();
            shard.map_or(&[][..], |shard| shard.groups().members(group))
        };
        let is_in = |id: SessionId, group| members(id.worker(), group).contains(&id);
        let mut world = self.world.lock();
        let mut offences = world.groups.rest(is_in);
        for group in groups::all() {
            let count: usize = (0..shards.len())
                .map(|worker| members(worker, group).len())
                .sum();
            let should_be = world.groups.members(group);
            if count != should_be {
                offences.push(format!("{count} members of {group}, and not {should_be}"));
            }
            let told: Vec<usize> = self.router.groups().workers(group).iter().collect();
            let has_members = |worker: &usize| !members(*worker, group).is_empty();
            let should_be: Vec<usize> = (0..shards.len()).filter(has_members).collect();
            if told != should_be {
                offences.push(format!("{group}: {told:?} are told, and not {should_be:?}"));
            }
        }
        drop(world);
        self.offences.extend(offences);
    }

    /// Lets everybody finish what it is at, without any time passing.
    fn settle_down(&mut self) {
        for _ in 0..4 {
            for peer in &mut self.peers {
                peer.catch_up(self.now, &mut self.rng);
            }
            self.turn_until_rest();
        }
    }

    // ---- the end ----------------------------------------------------------------------------

    /// Everybody reads, nobody does anything new: all that was sent has to arrive, and all that
    /// are in the way have to go.
    fn quiesce(&mut self) {
        self.world.lock().quiet = true;
        for peer in &mut self.peers {
            peer.stand_as_fated(self.now);
        }
        self.settle_down();
        let here: HashSet<SessionId> = (self.peers.iter())
            .filter_map(|peer| peer.end.pipe().id)
            .collect();
        let (head, tail) = self.world.lock().broadcast(OUTSIDE);
        self.router
            .broadcast(&self.buffers.encode(&head, &tail).unwrap());
        for _ in 0..80 {
            self.now += Duration::from_millis(100);
            for peer in &mut self.peers {
                peer.catch_up(self.now, &mut self.rng);
            }
            self.turn_until_rest();
        }
        let world = self.world.lock();
        (self.offences).extend(self.link.check_complete(&world.broadcasts));
        for peer in &self.peers {
            let pipe = peer.end.pipe();
            let Some(id) = pipe.id else { continue };
            let record = &world.sessions[&id];
            let told = |what: &str| format!("{id} {:?}: {what}; {record:?}", peer.kind);
            // Who was accepted later than that may have some time left.
            let is_overdue = here.contains(&id);
            // After a stall of the process, a peer that takes nothing gets as much time as that took, and
            // is not read meanwhile.
            let is_excused = !peer.reads() && self.tally.clock_jumps > 0;
            if record.disconnected > 0 {
                if is_overdue && !pipe.is_dropped && !is_excused {
                    self.offences
                        .push(told("has left, and its stream is still here"));
                }
                // No shutdown so far: whoever read was told all there was to tell.
                drop(pipe);
                let verdict = self.judge(peer, id, &world);
                self.tally.casts_owed += verdict.owed;
                self.offences.extend(verdict.offences);
                continue;
            }
            if record.connected == 0 {
                self.offences.push(told("neither connected nor given up"));
                continue;
            }
            if is_overdue && peer.has_offended && !is_excused {
                self.offences.push(told("has offended, and is still here"));
            }
            if is_overdue && peer.kind == Kind::Silent && self.config.idle_timeout.is_some() {
                self.offences.push(told("was silent, and is still here"));
            }
            let seen = &peer.seen;
            if seen.is_wrong {
                continue; // Said already.
            }
            if !peer.reads() {
                continue; // It has some time left until it is kicked for that.
            }
            for (source, sent) in &world.broadcasts {
                let began = if *source == id.worker() {
                    record.own_seq_at_start
                } else {
                    0
                };
                let last = seen.broadcasts.get(source).copied();
                // Whoever saw none of another source's may have come behind them all.
                let from_outside = *source == OUTSIDE && is_overdue;
                let must_have_seen = last.is_some() || from_outside || began > 0;
                if must_have_seen && last.unwrap_or(began) != *sent {
                    let text = format!("saw {last:?} of the {sent} broadcasts of {source}");
                    self.offences.push(told(&text));
                }
            }
            let verdict = world.groups.judge(id, &seen.casts, true);
            self.tally.casts_owed += verdict.owed;
            self.offences.extend(verdict.offences);
            if record.echoes != peer.echoes || seen.echoes != peer.echoes {
                let text = format!("sent {} echoes, got {}", peer.echoes, seen.echoes);
                self.offences.push(told(&text));
            }
        }
    }

    /// All shards have to end in time, with peers that go on as they are.
    fn end(&mut self) {
        let flush_by = self.flush_by.unwrap();
        while self.now < flush_by + self.config.linger {
            self.now += Duration::from_millis(self.rng.u64(1..100));
            for peer in &mut self.peers {
                peer.step(self.now, &mut self.rng);
            }
            self.turn_until_rest();
        }
        // A jump over the deadline gives one more linger to who was flushed only then.
        self.now += self.config.linger;
        self.turn_until_rest();
        for (worker, shard) in self.shards.iter().enumerate() {
            if let Some(shard) = shard {
                let late = self.now - flush_by;
                let here = shard.sessions();
                let text = format!(
                    "worker {worker} goes on {late:?} after its flush deadline, with {here} sessions"
                );
                self.offences.push(text);
            }
        }
    }

    fn finish(mut self) -> (Vec<String>, Tally) {
        let mut offences = std::mem::take(&mut self.offences);
        offences.append(&mut self.listener.offences);
        offences.append(&mut self.link.take_offences());
        (self.tally.from_link, self.tally.to_link) = self.link.counts();
        self.shards.clear();
        // What other threads still wanted to post when the last worker had ended.
        outbox::open();
        let totals = self.metrics.totals();
        let world = self.world.lock();
        offences.extend(world.offences.iter().cloned());
        let mut expect = |what: &str, is: u64, should_be: u64| {
            if is != should_be {
                offences.push(format!("{what}: {is}, and not {should_be}"));
            }
        };
        expect("sessions gauge", totals.sessions, 0);
        expect("send_queue_bytes gauge", totals.send_queue_bytes, 0);
        let partial_bytes = |worker| self.metrics.worker(worker).partial_packet_bytes.get();
        let partial_bytes = (0..self.config.workers).map(partial_bytes).sum();
        expect("partial_packet_bytes gauge", partial_bytes, 0);
        expect("admission", self.admission.total() as u64, 0);
        expect(
            "packets_received",
            totals.packets_received,
            world.packets_handled,
        );
        let left = world
            .sessions
            .values()
            .map(|record| u64::from(record.disconnected))
            .sum();
        let disconnects: u64 = totals.disconnects.iter().sum();
        expect("disconnects", disconnects, left);
        let live = self.pool.stats().live;
        expect(
            "chunks besides this thread's own",
            live.saturating_sub(1),
            0,
        );
        self.buffers.release();
        expect("chunks", self.pool.stats().live, 0);

        let (mut bytes, mut packets, mut accepted) = (0, 0, 0);
        let (mut casts, mut casts_denied) = (0, 0);
        for peer in &self.peers {
            let pipe = peer.end.pipe();
            bytes += pipe.output.len() as u64;
            offences.extend(
                pipe.offences
                    .iter()
                    .map(|offence| format!("{:?}: {offence}", pipe.id)),
            );
            if !pipe.is_dropped {
                offences.push(format!(
                    "{:?} {:?}: its stream was never dropped",
                    pipe.id, peer.kind
                ));
            }
            let Some(id) = pipe.id else { continue };
            let record = &world.sessions[&id];
            accepted += u64::from(record.connected) * u64::from(!peer.is_outgoing);
            drop(pipe);
            packets += peer.seen.packets;
            casts += peer.seen.casts.len() as u64;
            let verdict = self.judge(peer, id, &world);
            casts_denied += verdict.denied;
            offences.extend(verdict.offences);
        }
        let mut expect = |what: &str, is: u64, should_be: u64| {
            if is != should_be {
                offences.push(format!("{what}: {is}, and not {should_be}"));
            }
        };
        expect("accepted", totals.accepted, accepted + self.failed_incoming);
        expect("bytes_sent", totals.bytes_sent, bytes);
        expect("packets_sent", totals.packets_sent, packets);
        offences.dedup();
        offences.truncate(12);
        let resets =
            |peer: &&PeerSide| peer.kind == Kind::Resets && peer.end.pipe().broken.is_some();
        let login_timeouts = |had_time: bool| {
            let ended = world.sessions.values().filter(|record| {
                record.reason == Some(DisconnectReason::LoginTimeout)
                    && self.had_time_for_login(record) == had_time
            });
            ended.count() as u64
        };
        let tally = Tally {
            sessions: world.sessions.len() as u64,
            packets_to_peers: packets,
            packets_from_peers: world.packets_handled,
            resets: self.peers.iter().filter(resets).count() as u64,
            failed_accepts: self.listener.failures,
            handler_panics: totals.disconnects_for(DisconnectReason::HandlerPanicked),
            slow_consumers: totals.disconnects_for(Kick::SlowConsumer),
            casts,
            casts_denied,
            joins_refused: world.groups.refused + totals.joins_refused,
            drained: world.drained,
            drained_later: world.drained_later,
            logins: (world.sessions.values())
                .filter(|record| record.requires_login && record.admitted_at.is_some())
                .count() as u64,
            login_timeouts: login_timeouts(true),
            evictions: login_timeouts(false),
            ..self.tally
        };
        (offences, tally)
    }

    fn had_time_for_login(&self, record: &Record) -> bool {
        let had = (record.connected_at.zip(record.disconnected_at))
            .map(|(began, ended)| ended.saturating_duration_since(began));
        had.zip(self.config.login_timeout)
            .is_some_and(|(had, time)| had >= time)
    }

    /// One session's whole life against what its peer did.
    fn judge(&self, peer: &PeerSide, id: SessionId, world: &World) -> Verdict {
        let (seen, record) = (&peer.seen, &world.sessions[&id]);
        if seen.is_wrong {
            return Verdict::default(); // Said already.
        }
        let mut offences = Vec::new();
        let mut offence = |what: &str| {
            offences.push(format!(
                "{id} {:?}: {what}; {record:?}; {seen:?}",
                peer.kind
            ));
        };
        if record.disconnected != 1 || record.connected > 1 {
            offence("not connected and disconnected once each");
        }
        if record.connected == 0 && !peer.is_outgoing {
            offence("was never connected");
        }
        let Some(reason) = record.reason else {
            return Verdict {
                offences,
                ..Verdict::default()
            };
        };
        let pipe = peer.end.pipe();
        use DisconnectReason as Why;
        let is_explained = match reason {
            Why::Closed => record.close_was_asked,
            Why::LoginTimeout => {
                record.requires_login
                    && record.admitted_at.is_none()
                    && (self.evicts() || self.had_time_for_login(record))
            }
            Why::HandlerPanicked => record.has_panicked,
            Why::Shutdown => self.flush_by.is_some(),
            Why::PeerClosed => pipe.peer_sent_fin,
            Why::PeerReset => matches!(
                pipe.broken,
                Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
            ),
            Why::IoError(kind) => pipe.broken == Some(kind),
            Why::Idle => self.config.idle_timeout.is_some() && !peer.is_well_behaved(),
            Why::ConnectFailed(ErrorKind::TimedOut) => peer.is_outgoing && record.connected == 0,
            Why::ConnectFailed(_) => pipe.stand == Stand::Refused,
            Why::Kicked(Kick::SlowConsumer) => {
                self.is_tight || !peer.reads() || pipe.broken == Some(ErrorKind::TimedOut)
            }
            Why::Kicked(Kick::PacketTimeout) => peer.kind == Kind::Stall,
            Why::Kicked(Kick::BadSize) => peer.kind == Kind::BadSize,
            Why::Kicked(Kick::TooLarge) => peer.kind == Kind::TooLarge,
            Why::Kicked(Kick::UnknownId) => peer.kind == Kind::UnknownId,
            Why::Kicked(Kick::BadPayload) => peer.kind == Kind::BadPayload,
            _ => false,
        };
        if !is_explained {
            offence("left for no reason of its own");
        }
        let arrives = reason.flushes() && pipe.broken.is_none() && peer.reads() && !peer.may_be_cut;
        // At a shutdown, the deadline may have come before the peer has read.
        let arrives = arrives && self.flush_by.is_none();
        // Who goes for the next peer gets one write, and no time.
        let arrives = arrives && !(reason == Why::LoginTimeout && self.evicts());
        if arrives && record.connected > 0 && !seen.is_complete() {
            offence("lost the rest of a packet");
        }
        if arrives && record.connected > 0 {
            if reason.code().is_some() && !seen.has_bye {
                offence("was not told why");
            }
            // What a handler sends after a close of its own is sent to nobody.
            if seen.echoes != record.echoes && reason != Why::Closed {
                offence("lost answers");
            }
            let is_by_offence = matches!(reason, Why::Kicked(kick) if kick != Kick::PacketTimeout);
            if (is_by_offence || reason == Why::PeerClosed && peer.has_offended)
                && record.echoes != peer.echoes
            {
                offence(&format!("sent {} good packets first", peer.echoes));
            }
        }
        if seen.has_bye && reason.code().is_none() {
            offence("was told what is not so");
        }
        let mut verdict = (world.groups).judge(id, &seen.casts, arrives && record.connected > 0);
        verdict.offences.append(&mut offences);
        verdict
    }
}

/// Any other thread, at any time.
fn broadcast_from_outside(
    world: &SharedWorld,
    buffers: &SendBufferManager,
    router: &Arc<Router<FakeStream>>,
) {
    let mut world = world.lock();
    if !world.quiet && world.budget > 0 {
        let (head, tail) = world.broadcast(OUTSIDE);
        router.broadcast(&buffers.encode(&head, &tail).unwrap());
    }
}

// ---- what a peer has seen -----------------------------------------------------------------------

#[derive(Debug, Default)]
struct Seen {
    packets: u64,
    /// Bytes of whole packets, and what came behind them.
    read_bytes: usize,
    torn_bytes: usize,
    /// Something was wrong with what came, and was said.
    is_wrong: bool,
    has_bye: bool,
    echoes: u64,
    /// The last number of each source.
    broadcasts: HashMap<usize, u64>,
    directs: HashMap<usize, u64>,
    stamps: HashMap<usize, u64>,
    /// What was sent to groups, by number.
    casts: Vec<u64>,
}

impl Seen {
    fn is_complete(&self) -> bool {
        self.torn_bytes == 0
    }

    /// Reads on in all that one peer was sent, and finds what is wrong with it, once.
    fn read_on(
        &mut self,
        output: &[u8],
        own_seq_at_start: u64,
        id: SessionId,
    ) -> Result<(), String> {
        if self.is_wrong || output.len() == self.read_bytes + self.torn_bytes {
            return Ok(());
        }
        let mut bytes = &output[self.read_bytes..];
        let outcome = loop {
            let [low, high, id_low, id_high, ..] = *bytes else {
                break Ok(());
            };
            let size = usize::from(u16::from_le_bytes([low, high]));
            if size < 4 {
                break Err(format!("no packet: size {size} after {self:?}"));
            }
            let Some((packet, after)) = bytes.split_at_checked(size) else {
                break Ok(());
            };
            if self.has_bye {
                break Err("something follows the goodbye".into());
            }
            self.packets += 1;
            let packet_id = u16::from_le_bytes([id_low, id_high]);
            if let Err(offence) = self.packet(packet_id, &packet[4..], own_seq_at_start, id) {
                break Err(offence);
            }
            bytes = after;
        };
        self.is_wrong = outcome.is_err();
        self.read_bytes = output.len() - bytes.len();
        self.torn_bytes = bytes.len();
        outcome
    }

    fn packet(
        &mut self,
        packet_id: u16,
        payload: &[u8],
        own_start: u64,
        id: SessionId,
    ) -> Result<(), String> {
        match packet_id {
            SBroadcast::ID => {
                let stamp = self.stamp(payload)?;
                let (source, seq) = (usize::from(stamp.source.get()), stamp.seq.get());
                let before = self.broadcasts.insert(source, seq);
                // What its own worker sent after it came, it gets from the first on; and before
                // that, what an earlier turn had no room for.
                let is_first_own = before.is_none() && source == id.worker();
                let is_next = match before {
                    Some(before) => seq == before + 1,
                    None => !is_first_own || seq <= own_start + 1,
                };
                if !is_next {
                    return Err(format!("broadcast {seq} of {source} after {before:?}"));
                }
            }
            SDirect::ID => {
                let stamp = self.stamp(payload)?;
                let (source, seq) = (usize::from(stamp.source.get()), stamp.seq.get());
                let before = self.directs.insert(source, seq).unwrap_or_default();
                if seq != before + 1 {
                    return Err(format!(
                        "packet {seq} of {source} to it alone after {before}"
                    ));
                }
            }
            // That each comes but once, and in order, their stamps tell.
            SCast::ID => {
                let stamp = self.stamp(payload)?;
                self.casts.push(stamp.seq.get());
            }
            SEcho::ID => {
                let seq = u64::from_le_bytes(payload[..8].try_into().unwrap());
                self.echoes += 1;
                if seq != self.echoes {
                    return Err(format!("echo {seq} in place of {}", self.echoes));
                }
            }
            SBye::ID => self.has_bye = true,
            _ => return Err(format!("a packet {packet_id} that nobody sent")),
        }
        Ok(())
    }

    fn stamp(&mut self, payload: &[u8]) -> Result<Stamp, String> {
        let (stamp, filler) = payload.split_at(size_of::<Stamp>());
        let stamp: Stamp = *from_bytes(stamp);
        if filler.iter().any(|byte| *byte != filler_byte(stamp)) {
            return Err(format!("other bytes than were sent in {stamp:?}"));
        }
        let before = self
            .stamps
            .insert(usize::from(stamp.source.get()), stamp.stamp.get());
        if before >= Some(stamp.stamp.get()) {
            return Err(format!("{stamp:?} was overtaken by {before:?}"));
        }
        Ok(stamp)
    }
}
