//! Where connections come in: accept, admit, hand over.

use crate::base::address_budgets::AddressBudgets;
use crate::base::config::Config;
use crate::base::disconnect_log::DisconnectLog;
use crate::base::metrics::Metrics;
use crate::base::reason::DisconnectReason;
use crate::buffer::SendBufferManager;
use crate::buffer::recv::RecvBuffer;
use crate::connection::admission::Admission;
use crate::connection::{Draining, Progress};
use crate::routing::router::{NewConnection, Router};
use crate::runtime::acceptor::{AcceptOutcome, Acceptor, LOG_INTERVAL};
use crate::shard::{CloseMessage, guarded};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Accepts connections on a thread of its own and gives each to the least loaded worker.
pub struct Listener {
    poll: Poll,
    socket: TcpListener,
    local_addr: SocketAddr,
    stop: Arc<StopSignal>,
    /// Connections that were told that the server is full, until they have gone.
    rejected: Slab<Draining<TcpStream>>,
    acceptor: Acceptor,
    /// When the line about those who were turned away is due.
    summary_at: Option<Instant>,
    /// All places are taken since then, and the workers may be about to free some.
    unsettled_since: Option<Instant>,
    /// Connections over the budget of their address since the last line about them.
    over_budget: u64,
    /// No line about them before this.
    next_budget_line_at: Option<Instant>,
}

/// Ends a listener from another thread.
#[derive(Debug)]
pub struct StopSignal {
    is_set: AtomicBool,
    waker: Waker,
}

/// What a listener needs to know of its server.
pub struct ListenerContext {
    /// The limits.
    pub config: Config,
    /// Who may come in.
    pub admission: Arc<Admission>,
    /// How often an address may connect.
    pub connects: Option<AddressBudgets>,
    /// The way to the workers.
    pub router: Arc<Router<TcpStream>>,
    /// For the goodbye to those who may not.
    pub buffers: SendBufferManager,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The goodbye.
    pub close_message: Arc<CloseMessage>,
    /// The lines about who was turned away.
    pub departures: DisconnectLog,
}

const WAKER: Token = Token(usize::MAX);
const SOCKET: Token = Token(usize::MAX - 1);
/// Rejected connections that may linger at a time: each holds a descriptor. One more, and one of
/// them is closed at once.
const MAX_LINGERING: usize = 128;
/// Time between two looks whether the workers have freed places or taken over the connections that they
/// were given, and the longest wait for places.
const SETTLING: Duration = Duration::from_millis(1);
const LONGEST_SETTLING: Duration = Duration::from_millis(100);
/// Questions without an answer after which a silent peer has vanished.
const KEEPALIVE_RETRIES: u32 = 3;

impl Listener {
    /// Binds and listens.
    ///
    /// # Errors
    /// Those of the system, for example [`ErrorKind::AddrInUse`].
    pub fn bind(addr: SocketAddr, config: &Config) -> io::Result<Self> {
        let socket = bound_socket(addr)?;
        socket.listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))?;
        let mut socket = TcpListener::from_std(socket.into());
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        poll.registry()
            .register(&mut socket, SOCKET, Interest::READABLE)?;
        Ok(Self {
            local_addr: socket.local_addr()?,
            poll,
            socket,
            stop: Arc::new(StopSignal {
                is_set: AtomicBool::new(false),
                waker,
            }),
            rejected: Slab::new(),
            acceptor: Acceptor::default(),
            summary_at: None,
            unsettled_since: None,
            over_budget: 0,
            next_budget_line_at: None,
        })
    }

    /// Where it listens; the port is the real one if port 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The way to end it.
    #[must_use]
    pub fn stop_signal(&self) -> Arc<StopSignal> {
        Arc::clone(&self.stop)
    }

    /// Accepts until it is told to stop.
    ///
    /// # Errors
    /// If the system's poll fails, which only a bug of ours could cause.
    pub fn run(mut self, context: &ListenerContext) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        let mut scratch = RecvBuffer::new(context.config.recv_buffer_bytes);
        while !self.stop.is_set.load(Ordering::Acquire) {
            let has_room = context.router.has_room_for_connections();
            let timeout = match self.acceptor.is_open() {
                true if has_room && self.unsettled_since.is_none() => Some(Duration::ZERO),
                true => Some(SETTLING),
                false => self.next_deadline().map(|at| {
                    at.saturating_duration_since(Instant::now())
                        .max(Duration::from_millis(1))
                }),
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => events.clear(),
                other => other?,
            }
            let now = Instant::now();
            for event in &events {
                match event.token() {
                    WAKER => {}
                    SOCKET => self.acceptor.handle_readable(),
                    Token(key) => {
                        if let Some(rejected) = self.rejected.get_mut(key) {
                            rejected.handle_writable();
                        }
                        self.advance_rejected(key, &mut scratch, &context.config, now);
                    }
                }
            }
            if self.acceptor.may_accept(now) {
                self.accept_batch(context, &mut scratch, now);
            }
            self.close_overdue(&mut scratch, &context.config, now);
            if self.summary_at.is_some_and(|at| at <= now) {
                self.summary_at = context.departures.flush(now);
            }
        }
        Ok(())
    }

    fn accept_batch(&mut self, context: &ListenerContext, scratch: &mut RecvBuffer, now: Instant) {
        for _ in 0..context.config.accept_batch {
            if self.waits_for_places(&context.admission, now)
                || !context.router.has_room_for_connections()
            {
                return;
            }
            match self.acceptor.evaluate(self.socket.accept(), now) {
                AcceptOutcome::Connection((stream, peer)) => {
                    self.receive(stream, peer, context, scratch, now);
                }
                AcceptOutcome::Again => {}
                AcceptOutcome::Empty => return,
                AcceptOutcome::Paused { error, should_log } => {
                    context.metrics.accept_errors.add(1);
                    if should_log {
                        log::warn!(
                            "cannot accept for now: {error}; connected sessions are served on"
                        );
                    }
                    return;
                }
            }
        }
    }

    /// A burst of connections is accepted faster than workers end the sessions that have to go for
    /// them. Until the workers have, the next connection waits in the backlog and is not refused.
    fn waits_for_places(&mut self, admission: &Admission, now: Instant) -> bool {
        if !admission.is_unsettled() {
            self.unsettled_since = None;
            return false;
        }
        now < *self.unsettled_since.get_or_insert(now) + LONGEST_SETTLING
    }

    fn receive(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        context: &ListenerContext,
        scratch: &mut RecvBuffer,
        now: Instant,
    ) {
        let mut budgets = context.connects.iter();
        if !budgets.all(|budgets| budgets.take(peer.ip(), now)) {
            context.metrics.rejected.add(1);
            self.note_over_budget(peer, now);
            return;
        }
        let config = &context.config;
        let settings = [
            ("TCP_NODELAY", stream.set_nodelay(true)),
            ("TCP_NOTSENT_LOWAT", limit_unsent(&stream, config)),
            ("SO_KEEPALIVE", ask_the_silent(&stream, config)),
            ("TCP_USER_TIMEOUT", limit_unacknowledged(&stream, config)),
        ];
        for (name, outcome) in settings {
            if let Err(error) = outcome {
                log::debug!("no {name} for {peer}: {error}");
            }
        }
        match context.admission.admit(peer) {
            Some(permit) => {
                // A worker that failed takes nothing, and its whole server ends.
                context.router.adopt(NewConnection {
                    stream,
                    permit,
                    tag: None,
                    is_connecting: false,
                });
            }
            None => {
                context.metrics.rejected.add(1);
                let reason = DisconnectReason::ServerFull;
                let summary_at = context.departures.note(None, peer, reason, now);
                self.summary_at = self.summary_at.or(summary_at);
                self.reject(stream, context, scratch, now);
            }
        }
    }

    fn note_over_budget(&mut self, peer: SocketAddr, now: Instant) {
        self.over_budget += 1;
        if self.next_budget_line_at.is_none_or(|at| at <= now) {
            let count = std::mem::take(&mut self.over_budget);
            log::warn!(
                "connections over max_connects_per_ip_per_sec: {count} closed, the last of {peer}"
            );
            self.next_budget_line_at = Some(now + LOG_INTERVAL);
        }
    }

    fn reject(
        &mut self,
        stream: TcpStream,
        context: &ListenerContext,
        scratch: &mut RecvBuffer,
        now: Instant,
    ) {
        if self.rejected.len() >= MAX_LINGERING
            && let Some((oldest, _)) = self.rejected.iter().min_by_key(|(_, one)| one.deadline())
        {
            self.rejected.remove(oldest);
        }
        let close_message =
            || (context.close_message)(DisconnectReason::ServerFull, &context.buffers);
        let last_packet = guarded(close_message).unwrap_or(None);
        let mut draining = Draining::rejected(stream, last_packet, now + context.config.linger);
        let entry = self.rejected.vacant_entry();
        let both = Interest::READABLE | Interest::WRITABLE;
        let token = Token(entry.key());
        if let Err(error) = (self.poll.registry()).register(draining.stream_mut(), token, both) {
            log::debug!("could not linger for a rejected connection: {error}");
            return;
        }
        let key = entry.key();
        entry.insert(draining);
        self.advance_rejected(key, scratch, &context.config, now);
    }

    fn advance_rejected(
        &mut self,
        key: usize,
        scratch: &mut RecvBuffer,
        config: &Config,
        now: Instant,
    ) {
        let Some(rejected) = self.rejected.get_mut(key) else {
            return;
        };
        // `Again` means that its budget is used up. Nobody is owed more of our time: what is
        // still to come waits for the deadline.
        // Nor is it counted, in or out: it is no session.
        let drained = rejected.advance(scratch, config.read_budget_bytes, config, now);
        if drained.progress == Progress::Done {
            self.rejected.remove(key);
        }
    }

    fn close_overdue(&mut self, scratch: &mut RecvBuffer, config: &Config, now: Instant) {
        let overdue: Vec<usize> = self
            .rejected
            .iter()
            .filter(|(_, rejected)| rejected.deadline() <= now)
            .map(|(key, _)| key)
            .collect();
        for key in overdue {
            self.advance_rejected(key, scratch, config, now);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.rejected
            .iter()
            .map(|(_, rejected)| rejected.deadline())
            .chain(self.acceptor.retry_at())
            .chain(self.summary_at)
            .min()
    }
}

/// Whether [`Listener::bind`] would find the address free, without listening there.
///
/// # Errors
/// Those of the system, for example [`ErrorKind::AddrInUse`].
pub fn try_bind(addr: SocketAddr) -> io::Result<()> {
    bound_socket(addr).map(drop)
}

fn bound_socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // A restart must not wait for the last run's connections to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn limit_unsent(stream: &TcpStream, config: &Config) -> io::Result<()> {
    match config.unsent_window_bytes {
        Some(bytes) => SockRef::from(stream).set_tcp_notsent_lowat(bytes),
        None => Ok(()),
    }
}

/// The kernel counts a peer that is there and takes nothing as well, so this must not be shorter
/// than the time that such a peer is given.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn limit_unacknowledged(stream: &TcpStream, config: &Config) -> io::Result<()> {
    match (config.unacknowledged_timeout, config.max_send_lag) {
        (Some(timeout), Some(lag)) => {
            SockRef::from(stream).set_tcp_user_timeout(Some(timeout.max(lag)))
        }
        _ => Ok(()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn limit_unsent(_: &TcpStream, _: &Config) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn limit_unacknowledged(_: &TcpStream, _: &Config) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Where nothing is under way, nothing can stay unacknowledged: the kernel asks by itself.
fn ask_the_silent(stream: &TcpStream, config: &Config) -> io::Result<()> {
    let Some(timeout) = config.unacknowledged_timeout else {
        return Ok(());
    };
    // The system counts whole seconds, at least one.
    let whole = |time: Duration| time.max(Duration::from_secs(1));
    let questions = TcpKeepalive::new()
        .with_time(whole(timeout))
        .with_interval(whole(timeout / KEEPALIVE_RETRIES))
        .with_retries(KEEPALIVE_RETRIES);
    SockRef::from(stream).set_tcp_keepalive(&questions)
}

impl StopSignal {
    /// Ends the listener.
    pub fn set(&self) {
        self.is_set.store(true, Ordering::Release);
        if let Err(error) = self.waker.wake() {
            log::error!("the listener could not be woken: {error}");
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ListenerContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerContext")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
