//! The driver: workers, listener, peers and clock of one run, step by step.

use crate::coverage::Coverage;
use crate::link::FakeLink;
use crate::listener::FakeListener;
use crate::peers::{Kind, MAX_PACKET_BYTES, PeerSide, TROUBLE};
use crate::proxy::{self, PROXY, WaitingForHeader};
use crate::seen::Seen;
use crate::transport::{Accepted, HandshakeKind, Layers, PeerLayers, SimStream};
use crate::wire::PeerEnd;
use crate::world::{OUTSIDE, SBye, SEcho, SharedWorld, SimSession, World};
use server_core::base::disconnect_log::DisconnectLog;
use server_core::buffer::{ChunkPool, SendBufferManager};
use server_core::connection::admission::Admission;
use server_core::connection::proxied::is_trusted;
use server_core::metrics::Metrics;
use server_core::routing::mailbox::Mailbox;
use server_core::routing::outbox;
use server_core::routing::router::{Command, NewConnection, Router};
use server_core::shard::{Shard, Shared};
use server_core::testing::{Connect, Edges, SimRng};
use server_core::{Config, DisconnectReason, SessionId};
use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The most connections of one run.
pub const MOST_PEERS: usize = 14;
/// Turns at one instant of the clock. A run that takes more does not come to rest.
const TURNS_TO_REST: usize = 30_000;
/// Several times as long as a healthy peer takes for its part of a handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

pub type SimShard = Shard<SimStream, SimSession>;

pub struct Sim {
    pub rng: fastrand::Rng,
    pub now: Instant,
    pub shards: Vec<Option<SimShard>>,
    pub has_mail: Vec<bool>,
    pub listener: FakeListener,
    /// Accepted connections of the proxy whose header has not come.
    pub proxied: Vec<WaitingForHeader>,
    /// The most connections that the process may have at a time.
    pub descriptors: usize,
    /// Since when the listener can accept: all rest, a connection waits and a descriptor is free. `None`:
    /// one of these is not so, or the listener has accepted since.
    pub may_accept_since: Option<Instant>,
    pub coverage: Coverage,
    /// Whether this turn may lose events for good.
    pub may_lose_edges: bool,
    pub woken: Vec<Arc<AtomicBool>>,
    pub config: Config,
    pub router: Arc<Router<SimStream>>,
    pub link: FakeLink,
    pub buffers: SendBufferManager,
    pub pool: Arc<ChunkPool>,
    pub admission: Arc<Admission>,
    pub metrics: Arc<Metrics>,
    pub world: SharedWorld,
    pub peers: Vec<PeerSide>,
    pub flush_by: Option<Instant>,
    /// Until when a stop of the process may put off the login timeout of a session that has sent a packet, or
    /// whose peer has bytes to take.
    pub login_grace_until: Option<Instant>,
    /// How long the process is stopped in the middle of each turn. Zero: not at all.
    pub turn_takes: Duration,
    pub failed_incoming: u64,
    /// The queue limits are so low that healthy peers reach them too.
    pub is_tight: bool,
    pub is_fickle: bool,
    pub is_restless: bool,
    /// Each connection has its layers: records, frames, both or none.
    pub has_layers: bool,
    /// Timers that were due when all rested, and when the oracle first saw that.
    pub overdue: HashMap<(SessionId, Instant), Instant>,
    pub offences: Vec<String>,
}

impl Sim {
    pub fn new(seed: u64) -> Self {
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
        config.handshake_timeout = Some(HANDSHAKE_TIMEOUT);
        config.max_handshakes = *rng.choice(&[1, 3, 1_024, 1_024]).unwrap();
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
        if rng.u32(..3) == 0 {
            config.trusted_proxies = vec![PROXY.into()];
        }
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
        // The whole simulation is one thread: it must not wait for a mailbox that it itself empties.
        router.enter_worker_thread();
        let metrics = Arc::new(Metrics::new(workers));
        let shared = Arc::new(Shared {
            tracer: Arc::default(),
            config: config.clone(),
            router: Arc::clone(&router),
            buffers: buffers.clone(),
            metrics: Arc::clone(&metrics),
            disconnect_log: DisconnectLog::default(),
            login_rules: None,
            factory: Box::new({
                let world = world.clone();
                move |peer| SimSession::new(peer, &world)
            }),
            close_message: Arc::new(|reason, _, buffers| {
                buffers.encode(&SBye(reason.code()?.into()), b"bye").ok()
            }),
        });
        let shards = (0..workers).map(|worker| Some(Shard::new(worker, Arc::clone(&shared))));
        Self {
            now: Instant::now(),
            shards: shards.collect(),
            has_mail: vec![false; workers],
            listener: FakeListener::default(),
            proxied: Vec::new(),
            descriptors: *rng.choice(&[2, 3, 6, 1_000, 1_000]).unwrap(),
            may_accept_since: None,
            coverage: Coverage::default(),
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
            login_grace_until: None,
            turn_takes: Duration::ZERO,
            failed_incoming: 0,
            is_tight,
            is_fickle: rng.bool(),
            is_restless: false,
            has_layers: rng.u32(..5) < 2,
            overdue: HashMap::new(),
            offences: Vec::new(),
            config,
            rng,
        }
    }

    pub fn run(&mut self) {
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
                self.coverage.early_shutdowns += 1;
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
                // A worker does not sleep while it has work: the driver makes no session late.
                self.turn_until_rest();
            } else {
                self.may_lose_edges = true;
                for _ in 0..self.rng.usize(..4) {
                    // A worker may have a turn without work: a poll may return without an event.
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

    pub fn outside(&mut self) {
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
            // No session has this id.
            let unknown = SessionId::new(self.rng.u32(..), self.rng.u8(..4), 1_000_000);
            self.router.close(unknown, DisconnectReason::Closed);
            self.router
                .send(unknown, self.buffers.encode(&SEcho(0.into()), b"").unwrap());
        }
    }

    /// Another thread adds a session to a group, removes a session from a group, or sends to a group.
    pub fn group_from_outside(&mut self) {
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

    pub fn connect(&mut self) {
        let is_outgoing = self.rng.u32(..4) == 0;
        // A shutdown ends the listener before it tells the workers.
        if self.flush_by.is_some() && !is_outgoing {
            return;
        }
        let kind = if self.rng.bool() {
            Kind::Healthy
        } else {
            *self.rng.choice(TROUBLE).unwrap()
        };
        let fate = match self.rng.u32(..6) {
            0 => None,
            1 => Some(Connect::Refused),
            _ => Some(Connect::Connected),
        };
        let (stream, end) = PeerEnd::pair();
        {
            let mut state = end.state();
            if is_outgoing {
                state.connect = Connect::Pending;
            }
            state.cuts = self.cuts();
            // A stream that is fickle as well would make its peer really slow.
            if !self.is_fickle && self.rng.bool() {
                state.largest_write = 600;
            }
            state.room = self.rng.usize(..8_000) * usize::from(self.rng.bool());
            if kind == Kind::Resets {
                let how = [
                    ErrorKind::ConnectionReset,
                    ErrorKind::BrokenPipe,
                    ErrorKind::TimedOut,
                ];
                let call = self.rng.u32(..40);
                state.breaks_at_call = self.rng.choice(how).map(|kind| (call, kind));
            }
        }
        // The time of a packet begins behind its header there: a peer that stalls in a header has no time.
        let is_translated = self.rng.u32(..3) == 0 && kind != Kind::Stall;
        let layers = Layers {
            is_sealed: self.has_layers && self.rng.bool(),
            is_framed: self.has_layers && self.rng.bool(),
            is_translated,
        };
        let handshake = match self.rng.u32(..8) {
            0 if self.has_layers => HandshakeKind::Stalls,
            1 if self.has_layers => HandshakeKind::Garbage,
            _ => HandshakeKind::Healthy,
        };
        let accepted = Accepted {
            peer: self.peers.len(),
            stream,
            end: end.clone(),
            layers,
        };
        let own = SocketAddr::from(([127, 0, 0, 1], self.peers.len() as u16));
        let has_proxy =
            !is_outgoing && !self.config.trusted_proxies.is_empty() && self.rng.u32(..3) > 0;
        let (addr, header) = if has_proxy {
            let addr = SocketAddr::from((PROXY, own.port()));
            (addr, proxy::header(addr, &mut self.rng))
        } else {
            (own, proxy::Header::none(own))
        };
        self.peers.push(PeerSide {
            end,
            header,
            kind,
            is_outgoing,
            fate,
            to_send: Vec::new(),
            echoes: 0,
            has_offended: false,
            arrived_at: self.now,
            sent_at: self.now,
            read_at: self.now,
            may_be_cut: false,
            seen: Seen::default(),
            layers: layers.any().then(|| PeerLayers::new(layers, handshake)),
            is_translated: layers.is_translated && !layers.is_framed,
        });
        if is_outgoing {
            self.router.adopt(NewConnection {
                stream: accepted.into(),
                permit: self.admission.admit_outgoing(addr),
                tag: Some(u64::from(addr.port())),
                is_connecting: true,
            });
        } else {
            self.listener.arrive(accepted, addr);
        }
    }

    /// One round of the loop of `listener.rs`.
    pub fn listener_turn(&mut self) {
        let free = self.free_descriptors();
        let batch = self.rng.usize(1..4);
        let failures = self.listener.failures;
        let accepted = (self.listener).turn(batch, free, &mut self.rng, self.now);
        if !accepted.is_empty() || self.listener.failures > failures {
            self.may_accept_since = None;
        }
        for (accepted, addr) in accepted {
            if is_trusted(&self.config.trusted_proxies, addr) {
                self.await_header(accepted, addr);
            } else {
                self.receive(accepted.into(), addr);
            }
        }
        self.advance_proxied();
    }

    /// A connection whose peer is known.
    pub fn receive(&mut self, stream: SimStream, peer: SocketAddr) {
        self.router.adopt(NewConnection {
            stream,
            permit: self.admission.admit(peer).unwrap(),
            tag: None,
            is_connecting: false,
        });
    }

    /// Each permit in use is a connection that has a descriptor. A connection has one before its header has come.
    pub fn free_descriptors(&self) -> usize {
        let used = self.admission.total() + self.proxied.len();
        self.descriptors.saturating_sub(used)
    }

    /// The process or its machine is stopped for 1 to 20 seconds, while the peers go on.
    pub fn jump(&mut self) {
        self.coverage.clock_jumps += 1;
        if self.rng.bool() {
            self.settle_down();
        }
        for peer in &mut self.peers {
            peer.catch_up(self.now, &mut self.rng);
        }
        let stop = Duration::from_millis(self.rng.u64(1_000..20_000));
        if self.rng.bool() {
            // The stop is in the middle of a turn: what the turn reads bears the time of its beginning.
            self.turn_takes = stop;
            (0..self.shards.len()).for_each(|worker| self.turn(worker));
            self.turn_takes = Duration::ZERO;
        }
        for peer in &mut self.peers {
            let record = (peer.end.id()).map(|id| self.world.lock().sessions[&id].disconnected);
            peer.may_be_cut |= record == Some(1) && !peer.end.state().is_dropped;
        }
        self.now += stop;
        self.login_grace_until = self.login_grace_until.max(Some(self.now + stop));
        self.overdue.clear();
        // The jump itself may end sessions, and these turns decide that. A session that leaves in these
        // turns has its full time from here on.
        self.turn_until_rest();
        for at in 0..self.peers.len() {
            let cuts = self.cuts();
            let peer = &mut self.peers[at];
            peer.end.state().cuts = cuts;
            (peer.sent_at, peer.read_at) = (self.now, self.now);
        }
    }

    /// What makes a connection fickle, if those of this run are.
    fn cuts(&mut self) -> Option<SimRng> {
        (self.is_fickle).then(|| SimRng::new(self.rng.u64(..)))
    }

    pub fn shut_down(&mut self) {
        let drain = Duration::from_millis(self.rng.u64(..1_000));
        self.flush_by = Some(self.now + drain);
        self.listener.close();
        self.proxied.clear();
        self.router.shutdown(self.now + drain);
    }

    // ---- turns ------------------------------------------------------------------------------

    /// One round of the loop of `worker.rs`.
    pub fn turn(&mut self, worker: usize) {
        let Some(shard) = &mut self.shards[worker] else {
            return;
        };
        let now = self.now;
        self.world.lock().groups.begin_turn();
        let mut events = Vec::new();
        for peer in &self.peers {
            let Some(id) = peer.end.id().filter(|id| id.worker() == worker) else {
                continue;
            };
            // Some events come with a later poll, and some events are spurious.
            match self.rng.u32(..10) {
                0 => continue,
                1 if self.may_lose_edges => {
                    self.coverage.lost_edges += u64::from(peer.end.lose_edges());
                    continue;
                }
                _ => {}
            }
            let is_spurious = self.rng.u32(..20) == 0;
            let edges = std::mem::take(&mut peer.end.notes().edges);
            let readable = edges.readable || is_spurious && self.rng.bool();
            let writable = edges.writable || is_spurious && self.rng.bool();
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
            // Another thread posts while this thread takes mail.
            if rng.u32(..10) == 0 {
                broadcast_from_outside(world, buffers, router);
            }
            if shard.has_enough_output() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
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
        self.coverage.turns += 1;
        self.check_turn();
    }

    pub fn needs_turn(&self, worker: usize) -> bool {
        let Some(shard) = &self.shards[worker] else {
            return false;
        };
        let has_edge = || {
            self.peers.iter().any(|peer| {
                let notes = peer.end.notes();
                let is_its = notes.id.is_some_and(|id| id.worker() == worker);
                is_its && notes.edges != Edges::default() && !peer.end.state().is_dropped
            })
        };
        self.has_mail[worker]
            || self.woken[worker].load(Ordering::SeqCst)
            || shard.has_work()
            || shard.next_deadline().is_some_and(|at| at <= self.now)
            || has_edge()
    }

    pub fn turn_until_rest(&mut self) {
        if self.is_restless {
            return; // Reported already, and each repetition would take long.
        }
        for _ in 0..TURNS_TO_REST {
            let mut busy: Vec<Option<usize>> = (0..self.shards.len())
                .filter(|worker| self.needs_turn(*worker))
                .map(Some)
                .collect();
            let has_listener = self.listener.needs_turn(self.now) || self.has_proxied_due();
            busy.extend(has_listener.then_some(None));
            if busy.is_empty() && !outbox::is_empty() && !self.router.is_congested() {
                // A worker retries within milliseconds what a full mailbox had no room for.
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
            .push(format!("the workers do not come to rest: {state:?}"));
        self.is_restless = true;
    }

    /// Lets each peer and each worker finish what it has begun. No time passes.
    pub fn settle_down(&mut self) {
        for _ in 0..4 {
            for peer in &mut self.peers {
                peer.catch_up(self.now, &mut self.rng);
            }
            self.turn_until_rest();
        }
    }

    // ---- the end ----------------------------------------------------------------------------

    /// Every peer reads, and no session begins anything new: everything that was sent has to arrive, and
    /// every session that has ended, offended or stalled has to be gone.
    pub fn quiesce(&mut self) {
        self.world.lock().quiet = true;
        for peer in &mut self.peers {
            peer.finish_connect(self.now);
        }
        self.settle_down();
        let here: HashSet<SessionId> = (self.peers.iter())
            .filter_map(|peer| peer.end.id())
            .collect();
        let broadcast_at = self.now;
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
        for peer in &mut self.peers {
            peer.ping(&mut self.rng);
            peer.end.raise_edges();
        }
        self.turn_until_rest();
        self.check_quiesced(&here, broadcast_at);
    }

    /// All shards have to end in time, while the peers go on as before.
    pub fn end(&mut self) {
        let flush_by = self.flush_by.unwrap();
        while self.now < flush_by + self.config.linger {
            self.now += Duration::from_millis(self.rng.u64(1..100));
            for peer in &mut self.peers {
                peer.step(self.now, &mut self.rng);
            }
            self.turn_until_rest();
        }
        // A jump over the deadline gives one more linger to a session that was flushed only after the jump.
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
}

/// Another thread broadcasts a packet. It may do so at any time.
pub fn broadcast_from_outside(
    world: &SharedWorld,
    buffers: &SendBufferManager,
    router: &Arc<Router<SimStream>>,
) {
    let mut world = world.lock();
    if !world.quiet && world.budget > 0 {
        let (head, tail) = world.broadcast(OUTSIDE);
        router.broadcast(&buffers.encode(&head, &tail).unwrap());
    }
}
