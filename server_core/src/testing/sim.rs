//! A whole server on one thread, in virtual time.

use super::fake_stream::{Edges, FakePeer, FakeStream};
use super::packet::{RawPacket, packet, split_packet};
use super::rng::SimRng;
use crate::base::id::SessionId;
use crate::base::reason::DisconnectReason;
use crate::connection::admission::Admission;
use crate::game::{END_POLL, Game, GameLoop, GamePlayer};
use crate::protocol::packet::PacketHead;
use crate::protocol::writer::OutgoingPacket;
use crate::routing::outbox::{self, Attempt};
use crate::routing::router::{Command, NewConnection};
use crate::runtime::stream::Stream;
use crate::server::schedule::{Tick, TickSchedule};
use crate::server::ticker::Ticker;
use crate::server::{Parts, ServerBuilder, ServerHandle};
use crate::session::{Peer, Session};
use crate::shard::{Shard, Shared};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// A server on the thread of its test, in virtual time: no socket, no thread, no sleep.
///
/// Below the clients is the code of a real server: sessions, shards, mailboxes, framing, limits and timeouts.
/// [`advance`](Self::advance) moves the time, and each timer, timeout and tick comes at its instant. The seed
/// decides the order of events that come at the same instant, and [the cuts](Self::cut_bytes). The same seed
/// gives the same bytes, as long as the game itself does not ask a clock, a random number or the order of a
/// `HashMap`. A test that fails prints the seed.
///
/// Without a listener: connections are accepted at once, [`max_sessions`](crate::Config::max_sessions) and
/// [`max_sessions_per_ip`](crate::Config::max_sessions_per_ip) apply; bans, PROXY headers and
/// [`max_connects_per_ip_per_sec`](crate::Config::max_connects_per_ip_per_sec) do not. All clients are of plain TCP.
/// [`ServerHandle::connect`] returns [`Unsupported`](std::io::ErrorKind::Unsupported). A mailbox never makes the
/// game wait.
///
/// ```
/// use server_core::testing::{SimServer, for_each_seed};
/// use server_core::{Context, DisconnectReason, Kick, Packet, Server, Session};
/// use std::time::Duration;
///
/// server_core::packets! {
///     client 1 => CAdd { a: u32, b: u32 };
///     server 2 => SSum { sum: u32 };
/// }
///
/// struct Adder;
///
/// impl Session for Adder {
///     fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
///         let add = packet.decode::<CAdd>()?;
///         let sum = add.a().checked_add(add.b()).ok_or(Kick::BadPayload)?;
///         ctx.send_packet(&SSum::new(sum));
///         Ok(())
///     }
/// }
///
/// for_each_seed(20, |seed| {
///     let builder = Server::builder().workers(2).idle_timeout(Some(Duration::from_secs(60)));
///     let mut server = SimServer::start(seed, builder, |_peer| Adder).cut_bytes();
///     let (mut one, mut two) = (server.connect(), server.connect());
///     one.send_packet(&CAdd::new(2, 3));
///     two.send_packet(&CAdd::new(1, u32::MAX)); // an offence: the sum is too large
///     server.advance(Duration::from_secs(59));
///     let answer = one.next_packet().expect("an answer has come");
///     assert_eq!(answer.decode::<SSum>().expect("a sum").sum(), 5);
///     assert!(two.is_closed() && !one.is_closed());
///     server.advance(Duration::from_secs(2)); // one minute of silence, in no time
///     assert!(one.is_closed());
///     let totals = server.handle().metrics().totals();
///     assert_eq!(totals.disconnects_for(Kick::BadPayload), 1);
///     assert_eq!(totals.disconnects_for(DisconnectReason::Idle), 1);
/// });
/// ```
pub struct SimServer<S> {
    seed: u64,
    rng: SimRng,
    started: Instant,
    now: Instant,
    cuts_bytes: bool,
    handle: ServerHandle,
    shared: Arc<Shared<Stream, S>>,
    admission: Arc<Admission>,
    workers: Vec<SimWorker<S>>,
    /// By worker: whether its mailbox has woken it.
    woken: Arc<[AtomicBool]>,
    game: Option<SimGame>,
    /// The connections that the server has not dropped. An id is there since the registration.
    connections: Vec<(FakePeer, Arc<OnceLock<SessionId>>)>,
    next_port: u16,
}

struct SimWorker<S> {
    /// `None` after its end.
    shard: Option<Shard<Stream, S>>,
    has_mail: bool,
    /// Posts of its callbacks that found no room.
    outbox: VecDeque<Attempt>,
    events: Vec<(SessionId, Edges)>,
}

/// A game loop, driven in place of [`GameLoop::run`].
struct SimGame {
    turn: Box<dyn FnMut(Option<Tick>) -> bool>,
    ticker: Ticker,
    schedule: TickSchedule,
    /// The next look at a server that shuts down.
    end_poll_at: Option<Instant>,
    has_ended: bool,
}

/// A client of a [`SimServer`]: sends bytes and reads what has come. A drop closes the connection.
///
/// The server sees what a client does at its next [`SimServer::advance`].
#[derive(Debug)]
pub struct SimClient {
    addr: SocketAddr,
    id: Arc<OnceLock<SessionId>>,
    peer: FakePeer,
    received: Vec<u8>,
    parsed: usize,
}

/// Turns at one instant. A server that takes more does not come to rest.
const TURNS_TO_REST: usize = 1_000_000;
/// Bytes that the connection takes of a client that does not read.
const UNREAD_BYTES: usize = 64 << 10;

impl<S: Session> SimServer<S> {
    /// Starts a server with these limits, as [`ServerBuilder::start`] does.
    pub fn start(
        seed: u64,
        builder: ServerBuilder,
        factory: impl Fn(Peer) -> S + Send + Sync + 'static,
    ) -> Self {
        let flags = (0..SessionId::MAX_WORKERS).map(|_| AtomicBool::new(false));
        let woken: Arc<[AtomicBool]> = flags.collect();
        let flags = Arc::clone(&woken);
        let wake = move |worker: usize| flags[worker].store(true, Ordering::SeqCst);
        let Parts {
            handle,
            shared,
            admission,
        } = builder.assemble_for_one_thread(wake, factory);
        let workers = (0..shared.router.workers()).map(|index| SimWorker {
            shard: Some(Shard::new(index, Arc::clone(&shared))),
            has_mail: true,
            outbox: VecDeque::new(),
            events: Vec::new(),
        });
        let workers = workers.collect();
        let now = Instant::now();
        handle.set_virtual_now(now);
        Self {
            seed,
            rng: SimRng::new(seed),
            started: now,
            now,
            cuts_bytes: false,
            handle,
            shared,
            admission,
            workers,
            woken,
            game: None,
            connections: Vec::new(),
            next_port: 1024,
        }
    }

    /// Cuts the bytes of the clients that connect from now on at random: reads and writes move few bytes, would
    /// block though they could go on, or are interrupted. Packets arrive in pieces, as over a network.
    #[must_use]
    pub fn cut_bytes(mut self) -> Self {
        self.cuts_bytes = true;
        self
    }

    /// Connects a client from 127.0.0.1.
    pub fn connect(&mut self) -> SimClient {
        self.connect_from([127, 0, 0, 1])
    }

    /// Connects a client from this address. A full server closes the connection with its close message, and a
    /// server that shuts down closes it without.
    pub fn connect_from(&mut self, ip: impl Into<IpAddr>) -> SimClient {
        self.next_port = self.next_port.checked_add(1).unwrap_or(1024);
        let addr = SocketAddr::new(ip.into(), self.next_port);
        let (stream, peer) = FakeStream::pair();
        let id = Arc::<OnceLock<SessionId>>::default();
        if self.cuts_bytes {
            peer.state().cuts = Some(SimRng::new(self.rng.next_u64()));
        }
        match self.admission.admit(addr) {
            _ if self.handle.is_shutting_down() => drop(stream),
            Some(permit) => {
                let is_adopted = self.shared.router.adopt(NewConnection {
                    stream: Stream::socketless(stream, Arc::clone(&id)),
                    permit,
                    tag: None,
                    is_connecting: false,
                });
                debug_assert!(is_adopted, "a worker ends in a shutdown alone");
                self.connections.push((peer.clone(), Arc::clone(&id)));
            }
            None => {
                self.shared.metrics.rejected.add(1);
                let reason = DisconnectReason::ServerFull;
                let message = (self.shared.close_message)(reason, None, &self.shared.buffers);
                if let Some(message) = message {
                    peer.state().output.extend_from_slice(&message);
                }
                drop(stream);
            }
        }
        SimClient {
            addr,
            id,
            peer,
            received: Vec::new(),
            parsed: 0,
        }
    }

    /// Moves the time forward. Each timer, timeout and tick until then comes at its instant, and between two of
    /// them the server does all that it can do. With [`Duration::ZERO`] it does that alone.
    ///
    /// # Panics
    /// If the server does not come to rest at one instant, and if the game panics.
    pub fn advance(&mut self, time: Duration) {
        let until = self.now + time;
        self.settle();
        while let Some(at) = self.next_at().filter(|at| *at <= until) {
            self.set_now(at.max(self.now));
            self.settle();
        }
        self.set_now(until);
        self.settle();
    }

    /// The handle: metrics, posts, shutdown.
    #[must_use]
    pub fn handle(&self) -> &ServerHandle {
        &self.handle
    }

    /// The present instant.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.started
    }

    fn set_now(&mut self, now: Instant) {
        self.now = now;
        self.handle.set_virtual_now(now);
    }

    /// The next instant at which something happens by itself.
    fn next_at(&self) -> Option<Instant> {
        let shards = (self.workers.iter()).filter_map(|worker| worker.shard.as_ref());
        let deadlines = shards.filter_map(Shard::next_deadline);
        deadlines.chain(self.next_game_turn_at()).min()
    }

    fn next_game_turn_at(&self) -> Option<Instant> {
        let game = self.game.as_ref().filter(|game| !game.has_ended)?;
        if self.handle.is_shutting_down() {
            Some(game.end_poll_at.unwrap_or(self.now))
        } else {
            (!game.ticker.is_stopped()).then(|| game.schedule.next_at())
        }
    }

    /// Takes turns, in an order that the seed decides, until all have nothing to do.
    fn settle(&mut self) {
        for _ in 0..TURNS_TO_REST {
            self.poll();
            let workers = (0..self.workers.len()).filter(|worker| self.needs_turn(*worker));
            let mut busy: Vec<Option<usize>> = workers.map(Some).collect();
            busy.extend(
                (self.next_game_turn_at().is_some_and(|at| at <= self.now)).then_some(None),
            );
            match self.rng.choose(&busy) {
                Some(Some(worker)) => self.turn(*worker),
                Some(None) => self.game_turn(),
                None => return,
            }
        }
        panic!(
            "the server does not come to rest after {:?}",
            self.elapsed()
        );
    }

    /// What `epoll_wait` would report.
    fn poll(&mut self) {
        let workers = &mut self.workers;
        self.connections.retain(|(peer, id)| {
            if let Some(id) = id.get() {
                let edges = peer.take_edges();
                if edges != Edges::default() {
                    workers[id.worker()].events.push((*id, edges));
                }
            }
            !peer.state().is_dropped
        });
    }

    fn needs_turn(&self, index: usize) -> bool {
        let worker = &self.workers[index];
        worker.shard.as_ref().is_some_and(|shard| {
            self.woken[index].load(Ordering::SeqCst)
                || worker.has_mail
                || !worker.events.is_empty()
                || shard.has_work()
                || shard.next_deadline().is_some_and(|at| at <= self.now)
        })
    }

    /// One turn of a worker: see `runtime/worker.rs`.
    fn turn(&mut self, index: usize) {
        let (worker, now) = (&mut self.workers[index], self.now);
        let Some(shard) = &mut worker.shard else {
            return;
        };
        let of_thread = outbox::replace(Some(std::mem::take(&mut worker.outbox)));
        self.woken[index].store(false, Ordering::SeqCst);
        let mailbox = self.shared.router.mailbox(index);
        worker.has_mail = shard.take_mail(mailbox, now, register);
        self.rng.shuffle(&mut worker.events);
        for (id, edges) in worker.events.drain(..) {
            shard.handle_readiness(id, edges.readable, edges.writable, now);
        }
        shard.run(now);
        shard.end_turn(now, now);
        if shard.is_finished() {
            mailbox.close_and_take(|command| {
                if let Command::Adopt(_) = command {
                    shard.handle_command(command, now, register);
                }
            });
            if shard.is_finished() {
                shard.finish();
                worker.shard = None;
            }
        }
        worker.outbox = outbox::replace(of_thread).unwrap_or_default();
    }

    /// One turn of the game: see [`GameLoop::run`].
    fn game_turn(&mut self) {
        let (Some(game), now) = (&mut self.game, self.now) else {
            return;
        };
        if self.handle.is_shutting_down() {
            let is_over = self.handle.has_ended();
            game.has_ended = (game.turn)(None) && is_over;
            game.end_poll_at = Some(now + END_POLL);
        } else if let Some(tick) = game.schedule.poll(now) {
            game.ticker.metrics().count(tick);
            (game.turn)(Some(tick));
        }
    }
}

impl SimServer<GamePlayer> {
    /// Starts a server and the loop of a game on it, as [`GameLoop::run`] does.
    pub fn start_game(
        seed: u64,
        builder: ServerBuilder,
        game_loop: GameLoop,
        game: impl Game + 'static,
    ) -> Self {
        let mut server = Self::start(seed, builder, game_loop.players());
        let (ticker, mut turns) = game_loop.begin(&server.handle, game);
        server.game = Some(SimGame {
            turn: Box::new(move |tick| turns.turn(tick)),
            schedule: ticker.schedule(server.now),
            ticker,
            end_poll_at: None,
            has_ended: false,
        });
        server
    }
}

fn register(stream: &mut Stream, id: SessionId) -> io::Result<()> {
    stream.note_id(id);
    Ok(())
}

impl<S> Drop for SimServer<S> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "a server of seed {} was at {:?}",
                self.seed,
                self.now - self.started
            );
        }
    }
}

impl<S> fmt::Debug for SimServer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimServer")
            .field("seed", &self.seed)
            .field("elapsed", &(self.now - self.started))
            .finish_non_exhaustive()
    }
}

impl SimClient {
    /// The address that the server sees.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The id of the client's session, once the server has made it.
    #[must_use]
    pub fn id(&self) -> Option<SessionId> {
        self.id.get().copied()
    }

    /// Sends a packet with a tail.
    ///
    /// # Panics
    /// If the packet is longer than 65,535 bytes.
    #[track_caller]
    pub fn send<H: PacketHead>(&self, head: &H, tail: impl AsRef<[u8]>) {
        let payload = [bytemuck::bytes_of(head), tail.as_ref()].concat();
        self.send_bytes(&packet(H::ID, payload));
    }

    /// Sends a packet without a separate tail.
    ///
    /// # Panics
    /// If the packet is longer than 65,535 bytes.
    #[track_caller]
    pub fn send_packet<P: OutgoingPacket>(&self, packet: &P) {
        let mut bytes = vec![0; packet.packet_bytes().expect("the packet fits")];
        packet.write_packet(&mut bytes);
        self.send_bytes(&bytes);
    }

    /// Sends bytes, which need not be a packet.
    pub fn send_bytes(&self, bytes: &[u8]) {
        self.peer.send(bytes);
    }

    /// The next packet that has come.
    ///
    /// # Panics
    /// If the bytes are not packets.
    #[track_caller]
    pub fn next_packet(&mut self) -> Option<RawPacket> {
        self.received.extend(self.peer.take_output(usize::MAX));
        match split_packet(&self.received[self.parsed..]) {
            Ok(packet) => {
                let packet = packet?;
                self.parsed += packet.size();
                if self.parsed == self.received.len() {
                    self.received.clear();
                    self.parsed = 0;
                }
                Some(packet)
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// The next packet of this id that has come. Skips the others before.
    ///
    /// # Panics
    /// As [`next_packet`](Self::next_packet).
    #[track_caller]
    pub fn next_of(&mut self, id: u16) -> Option<RawPacket> {
        while let Some(packet) = self.next_packet() {
            if packet.id == id {
                return Some(packet);
            }
        }
        None
    }

    /// All packets that have come.
    ///
    /// # Panics
    /// As [`next_packet`](Self::next_packet).
    #[track_caller]
    pub fn packets(&mut self) -> Vec<RawPacket> {
        let mut packets = Vec::new();
        while let Some(packet) = self.next_packet() {
            packets.push(packet);
        }
        packets
    }

    /// Whether the server has ended its side, or has broken the connection. Packets may have come before.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let state = self.peer.state();
        state.has_received_fin || state.is_dropped
    }

    /// Ends the client's side, and goes on to read.
    pub fn finish(&self) {
        self.peer.finish();
    }

    /// Breaks the connection: the server's next call finds it reset.
    pub fn reset(&self) {
        self.peer.state().broken = Some(ErrorKind::ConnectionReset);
    }

    /// Stops reading: the connection takes 64 KiB more, and then the server's writes would block.
    pub fn stop_reading(&self) {
        self.peer.state().room = UNREAD_BYTES;
    }

    /// Reads on, as fast as the server writes.
    pub fn read_on(&self) {
        self.peer.state().room = usize::MAX;
    }
}

impl Drop for SimClient {
    fn drop(&mut self) {
        self.finish();
        self.read_on();
    }
}

/// Calls a test with the seeds 0 to `count`, which is not included. `TEST_SEED=7` calls it with seed 7 alone.
///
/// # Panics
/// If the test panics, and if `TEST_SEED` is not a number. The failing seed is printed.
pub fn for_each_seed(count: u64, test: impl Fn(u64)) {
    struct PrintOnPanic(u64);
    impl Drop for PrintOnPanic {
        fn drop(&mut self) {
            if thread::panicking() {
                eprintln!("TEST_SEED={} repeats this failure", self.0);
            }
        }
    }
    let run = |seed| {
        let _print = PrintOnPanic(seed);
        test(seed);
    };
    match std::env::var("TEST_SEED") {
        Ok(seed) => run(seed.parse().expect("TEST_SEED is a number")),
        Err(_) => (0..count).for_each(run),
    }
}
