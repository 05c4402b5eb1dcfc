//! A running server, and how to start, use and stop one.

use crate::admission::Admission;
use crate::config::{Config, LONGEST_TIME};
use crate::connector::Connector;
use crate::departure_log::DepartureLog;
use crate::group_id::GroupId;
use crate::id::SessionId;
use crate::listener::{Listener, Reception, StopSignal};
use crate::metrics::Metrics;
use crate::packet::{PacketHead, PacketTooLarge};
use crate::packet_writer::OutgoingPacket;
use crate::reason::DisconnectReason;
use crate::router::Router;
use crate::send_buffer::{ChunkPool, SendBuffer, SendBufferManager, pool::PoolStats};
use crate::session::{Peer, Session};
use crate::shard::{Farewell, Shared};
use crate::snapshot::{Snapshot, SnapshotGate};
use crate::stopwatch::Stopwatch;
use crate::worker::{Worker, poll_with_mailbox};
use mio::net::TcpStream;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

/// Sets a server up. The limits that most games will want to set have a setter of their own; the
/// rest come with [`config`](ServerBuilder::config).
#[must_use = "nothing is started before `start`"]
pub struct ServerBuilder {
    config: Config,
    farewell: Arc<Farewell>,
}

/// A running server: its threads. Dropping it ends it at once; [`Server::join`] after
/// [`ServerHandle::shutdown`] ends it in order.
#[derive(Debug)]
#[must_use = "a server ends when it is dropped"]
pub struct Server {
    handle: ServerHandle,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

/// What other threads can ask of a running server. Cheap to clone.
///
/// What sends waits while a worker's mailbox is full. Do not hold a lock meanwhile that a callback takes:
/// see [what blocks](crate#threads).
#[derive(Clone, Debug)]
pub struct ServerHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    local_addr: Option<SocketAddr>,
    router: Arc<Router<TcpStream>>,
    connector: Connector,
    buffers: SendBufferManager,
    metrics: Arc<Metrics>,
    stopwatch: Arc<Stopwatch>,
    snapshots: SnapshotGate,
    listener: Option<Arc<StopSignal>>,
    /// By when a shutdown has to be flushed; set once, before the listener is told to stop.
    flush_by: Mutex<Option<Instant>>,
    is_shutting_down: AtomicBool,
}

/// Measured broadcasts that may be under way at a time. A server that is behind by more measures
/// the others only; that they took long is then plain to see.
const MEASURED_BROADCASTS: usize = 1024;

impl Server {
    /// Sets up a server with the default [`Config`].
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            config: Config::default(),
            farewell: Arc::new(|_, _| None),
        }
    }

    /// For other threads.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Where it listens.
    ///
    /// # Panics
    /// If it was started without a listener.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        let addr = self.handle.inner.local_addr;
        addr.expect("a server that listens has an address")
    }

    /// Sends a packet to every session. See [`ServerHandle::broadcast`].
    pub fn broadcast<H: PacketHead>(&self, head: &H, tail: impl AsRef<[u8]>) {
        self.handle.broadcast(head, tail);
    }

    /// Waits until every thread has ended.
    ///
    /// # Errors
    /// If one of them failed or panicked.
    pub fn join(mut self) -> io::Result<()> {
        self.join_threads()
    }

    fn join_threads(&mut self) -> io::Result<()> {
        let mut outcome = Ok(());
        for thread in self.threads.drain(..) {
            let ended = thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a server thread panicked")));
            outcome = outcome.and(ended);
        }
        outcome
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.handle.shutdown(Duration::ZERO);
            if let Err(error) = self.join_threads() {
                log::error!("the server did not end well: {error}");
            }
        }
    }
}

impl ServerHandle {
    /// Sends a packet to every session: it is written once, and each worker gets one command.
    ///
    /// Waits while a worker is too far behind to take more. A packet that would not fit its size
    /// field is not sent; an error is logged.
    pub fn broadcast<H: PacketHead>(&self, head: &H, tail: impl AsRef<[u8]>) {
        match self.encode(head, tail) {
            Ok(buffer) => self.broadcast_buffer(&buffer),
            Err(error) => log::error!("packet {} to all: {error}", H::ID),
        }
    }

    /// As [`broadcast`](Self::broadcast), and measures how long it takes from `origin`, for example
    /// a tick, until the last worker has flushed it to its sessions: see [`Metrics::broadcasts`].
    pub fn broadcast_measured<H: PacketHead>(
        &self,
        origin: Instant,
        head: &H,
        tail: impl AsRef<[u8]>,
    ) {
        match self.encode(head, tail) {
            Ok(buffer) => {
                let router = &self.inner.router;
                let laps = self.inner.stopwatch.start(origin, router.workers());
                router.broadcast_timed(&buffer, laps);
            }
            Err(error) => log::error!("packet {} to all: {error}", H::ID),
        }
    }

    /// Sends a packet to one session; if it is gone, nothing happens but a count.
    pub fn send_to<H: PacketHead>(&self, to: SessionId, head: &H, tail: impl AsRef<[u8]>) {
        match self.encode(head, tail) {
            Ok(buffer) => self.inner.router.send(to, buffer),
            Err(error) => log::error!("packet {} to {to}: {error}", H::ID),
        }
    }

    /// Encodes a packet into the calling thread's chunk.
    ///
    /// # Errors
    /// [`PacketTooLarge`] if it does not fit its size field.
    pub fn encode<H: PacketHead>(
        &self,
        head: &H,
        tail: impl AsRef<[u8]>,
    ) -> Result<SendBuffer, PacketTooLarge> {
        self.inner.buffers.encode(head, tail.as_ref())
    }

    /// Sends a packet without a separate tail to every session. See [`broadcast`](Self::broadcast).
    pub fn broadcast_packet<P: OutgoingPacket>(&self, packet: &P) {
        match self.encode_packet(packet) {
            Ok(buffer) => self.broadcast_buffer(&buffer),
            Err(error) => log::error!("packet {} to all: {error}", P::ID),
        }
    }

    /// Sends a packet without a separate tail to one session. See [`send_to`](Self::send_to).
    pub fn send_packet_to<P: OutgoingPacket>(&self, to: SessionId, packet: &P) {
        match self.encode_packet(packet) {
            Ok(buffer) => self.inner.router.send(to, buffer),
            Err(error) => log::error!("packet {} to {to}: {error}", P::ID),
        }
    }

    /// Encodes a packet without a separate tail into the calling thread's chunk.
    ///
    /// # Errors
    /// [`PacketTooLarge`] if it does not fit its size field.
    pub fn encode_packet<P: OutgoingPacket>(
        &self,
        packet: &P,
    ) -> Result<SendBuffer, PacketTooLarge> {
        let bytes = packet.packet_bytes()?;
        let write = |free: &mut [u8]| packet.write_packet(free);
        Ok(self.inner.buffers.write(bytes, write))
    }

    /// Sends an encoded packet to every session.
    pub fn broadcast_buffer(&self, buffer: &SendBuffer) {
        self.inner.router.broadcast(buffer);
    }

    /// Makes a session a member of a group. What this thread sends to the group afterwards reaches it,
    /// and so does what any thread that was told of it sends through a handle. A callback on the
    /// session's own worker may be ahead of it, until that worker takes its mail.
    ///
    /// If the session is gone, nothing happens; if it is in
    /// [`max_groups_per_session`](Config::max_groups_per_session) groups, nothing but a count.
    /// Waits while the session's worker is too far behind to take more.
    pub fn join(&self, id: SessionId, group: GroupId) {
        self.inner.router.join(id, group);
    }

    /// Takes a session out of a group: what this thread sends to the group afterwards does not reach
    /// it. Waits as [`join`](Self::join) does.
    pub fn leave(&self, id: SessionId, group: GroupId) {
        self.inner.router.leave(id, group);
    }

    /// Sends a packet to every member of a group: it is written once, and each worker that has
    /// members gets one command. Where nobody is, nobody is woken.
    pub fn broadcast_to<H: PacketHead>(&self, group: GroupId, head: &H, tail: impl AsRef<[u8]>) {
        match self.encode(head, tail) {
            Ok(buffer) => self.broadcast_buffer_to(group, None, &buffer),
            Err(error) => log::error!("packet {} to group {group}: {error}", H::ID),
        }
    }

    /// As [`broadcast_to`](Self::broadcast_to), to every member but one: who caused it, for example.
    pub fn broadcast_to_others<H: PacketHead>(
        &self,
        group: GroupId,
        except: SessionId,
        head: &H,
        tail: impl AsRef<[u8]>,
    ) {
        match self.encode(head, tail) {
            Ok(buffer) => self.broadcast_buffer_to(group, Some(except), &buffer),
            Err(error) => log::error!("packet {} to group {group}: {error}", H::ID),
        }
    }

    /// Sends a packet without a separate tail to every member of a group. See
    /// [`broadcast_to`](Self::broadcast_to).
    pub fn broadcast_packet_to<P: OutgoingPacket>(&self, group: GroupId, packet: &P) {
        match self.encode_packet(packet) {
            Ok(buffer) => self.broadcast_buffer_to(group, None, &buffer),
            Err(error) => log::error!("packet {} to group {group}: {error}", P::ID),
        }
    }

    /// Sends a packet without a separate tail to every member of a group but one.
    pub fn broadcast_packet_to_others<P: OutgoingPacket>(
        &self,
        group: GroupId,
        except: SessionId,
        packet: &P,
    ) {
        match self.encode_packet(packet) {
            Ok(buffer) => self.broadcast_buffer_to(group, Some(except), &buffer),
            Err(error) => log::error!("packet {} to group {group}: {error}", P::ID),
        }
    }

    /// Sends an encoded packet to every member of a group, except perhaps one.
    pub fn broadcast_buffer_to(
        &self,
        group: GroupId,
        except: Option<SessionId>,
        buffer: &SendBuffer,
    ) {
        self.inner.router.broadcast_to(group, except, buffer);
    }

    /// Ends one session, after what was queued for it has left.
    pub fn close(&self, id: SessionId) {
        self.inner.router.close(id, DisconnectReason::Closed);
    }

    /// Begins an outgoing connection, whose session lives on one of the workers. `tag` comes back in
    /// [`Peer::tag`].
    ///
    /// # Errors
    /// What the system says at once: no descriptor left, no port, no route. A refusal comes later, as
    /// [`DisconnectReason::ConnectFailed`].
    pub fn connect(&self, addr: SocketAddr, tag: u64) -> io::Result<()> {
        self.inner.connector.connect(addr, tag)
    }

    /// As [`connect`](Self::connect), from an address of this machine: where one has not enough
    /// ports for all connections, several have.
    ///
    /// # Errors
    /// As there, and a source address that this machine does not have.
    pub fn connect_from(
        &self,
        source: Option<IpAddr>,
        addr: SocketAddr,
        tag: u64,
    ) -> io::Result<()> {
        self.inner.connector.connect_from(source, addr, tag)
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Begins to look at all sessions: each worker answers at the end of a turn, and
    /// [`Snapshot::poll`] says when all have. `None` while an earlier look is under way.
    #[must_use]
    pub fn snapshot(&self) -> Option<Snapshot> {
        let (requests, snapshot) = self.inner.snapshots.begin(self.inner.router.workers())?;
        self.inner.router.request_snapshot(requests);
        Some(snapshot)
    }

    /// The chunk pool's counters.
    #[must_use]
    pub fn pool_stats(&self) -> PoolStats {
        self.inner.buffers.stats()
    }

    /// Whether the server is about to end, or has ended: it was told to, or one of its threads
    /// failed.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.inner.is_shutting_down.load(Ordering::Acquire)
    }

    /// Ends the server in order: no more accepting, a last packet for every session, flush, close.
    /// What is not flushed after `drain` is given up. Returns at once; [`Server::join`] waits.
    pub fn shutdown(&self, drain: Duration) {
        if self.inner.is_shutting_down.swap(true, Ordering::AcqRel) {
            return;
        }
        let flush_by = Instant::now() + drain.min(LONGEST_TIME);
        *self.inner.flush_by() = Some(flush_by);
        match &self.inner.listener {
            // The listener tells the workers when it has ended: nothing can arrive after that.
            Some(listener) => listener.set(),
            None => self.inner.router.shutdown(flush_by),
        }
    }
}

impl Inner {
    fn flush_by(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        // One value, set in one step: a panic elsewhere cannot have torn it.
        self.flush_by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, $name: $type) -> Self {
            self.config.$name = $name;
            self
        }
    )*};
}

impl ServerBuilder {
    setters! {
        /// See [`Config::workers`].
        workers: usize,
        /// See [`Config::max_sessions`].
        max_sessions: Option<usize>,
        /// See [`Config::max_sessions_per_ip`].
        max_sessions_per_ip: Option<usize>,
        /// See [`Config::max_packet_bytes`].
        max_packet_bytes: usize,
        /// See [`Config::max_send_queue_bytes`].
        max_send_queue_bytes: usize,
        /// See [`Config::max_send_lag`].
        max_send_lag: Option<Duration>,
        /// See [`Config::packet_timeout`].
        packet_timeout: Option<Duration>,
        /// See [`Config::idle_timeout`].
        idle_timeout: Option<Duration>,
        /// See [`Config::max_packets_per_sec`].
        max_packets_per_sec: Option<u32>,
        /// See [`Config::max_groups_per_session`].
        max_groups_per_session: usize,
        /// See [`Config::flush_timeout`].
        flush_timeout: Duration,
    }

    /// Sets all limits at once; see [`Config`].
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// The last packet for each session that the server ends, by the reason for it. It is also
    /// what a connection is told that comes when the server is full.
    pub fn farewell<H, Tail>(
        mut self,
        farewell: impl Fn(DisconnectReason) -> Option<(H, Tail)> + Send + Sync + 'static,
    ) -> Self
    where
        H: PacketHead,
        Tail: AsRef<[u8]>,
    {
        self.farewell = Arc::new(move |reason, buffers| {
            let (head, tail) = farewell(reason)?;
            buffers.encode(&head, tail.as_ref()).ok()
        });
        self
    }

    /// Binds, starts the workers and then accepts. `factory` makes the session of each new peer, on the
    /// worker that will own it.
    ///
    /// # Errors
    /// Those of binding, for example [`io::ErrorKind::AddrInUse`], and of starting threads.
    pub fn start<S: Session>(
        self,
        addr: impl ToSocketAddrs,
        factory: impl Fn(Peer) -> S + Send + Sync + 'static,
    ) -> io::Result<Server> {
        let config = self.config.clone().clamped();
        let mut outcome = Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the name has no address",
        ));
        for addr in addr.to_socket_addrs()? {
            outcome = Listener::bind(addr, &config);
            if outcome.is_ok() {
                break;
            }
        }
        self.launch(Some(outcome?), factory)
    }

    /// Starts the workers alone. Sessions come from [`ServerHandle::connect`] only: this is how a
    /// client is built on the same library.
    ///
    /// # Errors
    /// Those of starting threads.
    pub fn start_without_listener<S: Session>(
        self,
        factory: impl Fn(Peer) -> S + Send + Sync + 'static,
    ) -> io::Result<Server> {
        self.launch(None, factory)
    }

    fn launch<S: Session>(
        self,
        listener: Option<Listener>,
        factory: impl Fn(Peer) -> S + Send + Sync + 'static,
    ) -> io::Result<Server> {
        let config = self.config.clamped();
        let pool = ChunkPool::new(config.chunk_bytes, config.pooled_chunks);
        let buffers = SendBufferManager::new(pool);
        let metrics = Arc::new(Metrics::new(config.workers));
        let admission = Arc::new(Admission::new(
            config.workers,
            config.max_sessions,
            config.max_sessions_per_ip,
        ));
        let (polls, mailboxes): (Vec<_>, Vec<_>) = (0..config.workers)
            .map(|_| poll_with_mailbox(config.mailbox_bytes))
            .collect::<io::Result<Vec<_>>>()?
            .into_iter()
            .unzip();
        let router = Arc::new(Router::new(mailboxes));
        let handle = ServerHandle {
            inner: Arc::new(Inner {
                local_addr: listener.as_ref().map(Listener::local_addr),
                router: Arc::clone(&router),
                connector: Connector::new(Arc::clone(&admission), Arc::clone(&router)),
                buffers: buffers.clone(),
                metrics: Arc::clone(&metrics),
                stopwatch: Arc::new(Stopwatch::new(MEASURED_BROADCASTS)),
                snapshots: SnapshotGate::default(),
                listener: listener.as_ref().map(Listener::stop_signal),
                flush_by: Mutex::new(None),
                is_shutting_down: AtomicBool::new(false),
            }),
        };
        let departures = DepartureLog::default();
        let shared = Arc::new(Shared {
            config: config.clone(),
            router: Arc::clone(&router),
            buffers: buffers.clone(),
            metrics: Arc::clone(&metrics),
            departures: departures.clone(),
            factory: Box::new(factory),
            farewell: Arc::clone(&self.farewell),
        });
        // From here on an early return drops the server, which ends the threads that run already.
        let mut server = Server {
            handle: handle.clone(),
            threads: Vec::new(),
        };
        for (index, poll) in polls.into_iter().enumerate() {
            let (router, shared) = (Arc::clone(&router), Arc::clone(&shared));
            server.spawn(format!("worker-{index}"), move || {
                Worker::new(index, poll, router, shared).run()
            })?;
        }
        if let Some(listener) = listener {
            let reception = Reception {
                config,
                admission,
                router: Arc::clone(&router),
                buffers,
                metrics,
                farewell: self.farewell,
                departures,
            };
            let inner = Arc::clone(&handle.inner);
            server.spawn("listener".into(), move || {
                let outcome = listener.run(&reception);
                let flush_by = *inner.flush_by();
                inner.router.shutdown(flush_by.unwrap_or_else(Instant::now));
                outcome
            })?;
        }
        Ok(server)
    }
}

impl Server {
    /// Starts one of the server's threads. Should it fail or panic, the whole server ends: half a
    /// server would take connections that nobody serves.
    fn spawn(
        &mut self,
        name: String,
        run: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let guard = ShutdownOnDrop(self.handle.clone());
        let thread = thread::Builder::new().name(name).spawn(move || {
            let _guard = guard;
            run()
        })?;
        self.threads.push(thread);
        Ok(())
    }
}

struct ShutdownOnDrop(ServerHandle);

impl Drop for ShutdownOnDrop {
    fn drop(&mut self) {
        self.0.shutdown(Duration::ZERO);
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
