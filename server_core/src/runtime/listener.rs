//! The listener: accepts connections on its sockets, admits or refuses each, and hands the admitted over to
//! workers.

use crate::base::address_budgets::AddressBudgets;
use crate::base::bans::Bans;
use crate::base::cidr::canonical;
use crate::base::config::Config;
use crate::base::disconnect_log::DisconnectLog;
use crate::base::metrics::Metrics;
use crate::base::reason::DisconnectReason;
use crate::base::start::failed;
use crate::base::transport_kind::TransportKind;
use crate::buffer::SendBufferManager;
use crate::buffer::recv::RecvBuffer;
use crate::connection::admission::Admission;
use crate::connection::proxied::{NoPeer, Proxied, is_trusted};
use crate::connection::{Draining, Progress};
use crate::routing::router::{NewConnection, Router};
use crate::runtime::acceptor::{AcceptOutcome, Acceptor, LOG_INTERVAL};
use crate::runtime::listener_kind::ListenerKind;
use crate::runtime::stream::{Refusal, Stream};
use crate::shard::{CloseMessage, STALL, guarded};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A thread of its own that accepts connections and hands each over to the least loaded worker.
pub struct Listener {
    poll: Poll,
    sockets: Vec<ListeningSocket>,
    stop: Arc<StopSignal>,
    /// Refused connections that get a last packet, until they have gone.
    rejected: Slab<Draining<Stream>>,
    /// Connections of trusted proxies until their header has come, and the place of
    /// the listening socket, by a number that rises with each.
    proxied: BTreeMap<usize, (Proxied<Stream>, usize)>,
    next_proxied: usize,
    /// Connections whose header has named this peer, until they are received.
    named: VecDeque<(Accepted, SocketAddr)>,
    /// When the line about refused connections is due.
    summary_at: Option<Instant>,
    /// Since this instant all permits are taken, and the workers may be about to give some back.
    unsettled_since: Option<Instant>,
    over_budget: CountedLine,
    banned: CountedLine,
    without_header: CountedLine,
}

/// A socket that listens, and the transport of its connections.
struct ListeningSocket {
    socket: TcpListener,
    local_addr: SocketAddr,
    kind: ListenerKind,
    acceptor: Acceptor,
}

/// A connection of plain TCP, before the transport of its listening socket is put over it.
struct Accepted {
    stream: Stream,
    /// The place of the listening socket.
    socket: usize,
}

/// A log line about connections that were closed, at most one in [`LOG_INTERVAL`].
#[derive(Debug, Default)]
struct CountedLine {
    /// Connections since the last line.
    count: u64,
    /// The next line comes no earlier.
    next_at: Option<Instant>,
}

/// A signal from another thread that ends a listener.
#[derive(Debug)]
pub struct StopSignal {
    is_set: AtomicBool,
    waker: Waker,
}

/// The parts of its server that a listener uses.
pub struct ListenerContext {
    /// The limits.
    pub config: Config,
    /// Grants the permits of sessions.
    pub admission: Arc<Admission>,
    /// The budgets of connections by address.
    pub connects: Option<AddressBudgets>,
    /// The banned networks.
    pub bans: Bans,
    /// Hands connections over to the workers.
    pub router: Arc<Router<Stream>>,
    /// Encodes the close message of refused connections.
    pub buffers: SendBufferManager,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The last packet of a refused connection.
    pub close_message: Arc<CloseMessage>,
    /// The log lines about refused connections.
    pub disconnect_log: DisconnectLog,
}

const WAKER: Token = Token(usize::MAX);
/// The tokens of the listening sockets begin here.
const FIRST_SOCKET: usize = usize::MAX / 4 * 3;
/// The tokens of connections that wait for their PROXY header begin here.
const FIRST_PROXIED: usize = usize::MAX / 2;
/// Connections that may wait for their PROXY header although the server is full: each is then refused by
/// the address of its client.
const MAX_PROXIED_WHEN_FULL: usize = 64;
/// The most refused connections that linger at a time: each holds a descriptor. For the next refused
/// connection the oldest of them is closed at once.
const MAX_LINGERING: usize = 128;
/// The time between two checks whether the workers have given permits back or taken over their new
/// connections, and the longest wait for permits.
const SETTLING: Duration = Duration::from_millis(1);
const LONGEST_SETTLING: Duration = Duration::from_millis(100);

impl Listener {
    /// A listener without a socket.
    ///
    /// # Errors
    /// If the system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        Ok(Self {
            poll,
            sockets: Vec::new(),
            stop: Arc::new(StopSignal {
                is_set: AtomicBool::new(false),
                waker,
            }),
            rejected: Slab::new(),
            proxied: BTreeMap::new(),
            next_proxied: 0,
            named: VecDeque::new(),
            summary_at: None,
            unsettled_since: None,
            over_budget: CountedLine::default(),
            banned: CountedLine::default(),
            without_header: CountedLine::default(),
        })
    }

    /// Binds a socket, which does not listen yet. Its connections have the transport `kind`.
    ///
    /// # Errors
    /// Those of the system, for example [`ErrorKind::AddrInUse`].
    pub fn bind(&mut self, kind: &ListenerKind, addr: SocketAddr) -> io::Result<()> {
        let socket = TcpListener::from_std(bound_socket(addr)?.into());
        self.sockets.push(ListeningSocket {
            local_addr: socket.local_addr()?,
            socket,
            kind: kind.clone(),
            acceptor: Acceptor::default(),
        });
        Ok(())
    }

    /// Listens on each bound socket. Before this the system refuses connections.
    ///
    /// # Errors
    /// Those of the system, [`ErrorKind::AddrInUse`] if two sockets are bound to one address. The error names the
    /// address.
    pub fn listen(&mut self, config: &Config) -> io::Result<()> {
        let backlog = i32::try_from(config.backlog).unwrap_or(i32::MAX);
        for (index, one) in self.sockets.iter_mut().enumerate() {
            let token = Token(FIRST_SOCKET + index);
            (SockRef::from(&one.socket).listen(backlog))
                .and_then(|()| {
                    (self.poll.registry()).register(&mut one.socket, token, Interest::READABLE)
                })
                .map_err(|error| {
                    failed(format_args!("cannot listen on {}", one.local_addr), error)
                })?;
        }
        Ok(())
    }

    /// The transport and the address of each listening socket; for port 0, with the port that the system chose.
    pub fn local_addrs(&self) -> impl Iterator<Item = (TransportKind, SocketAddr)> + '_ {
        let sockets = self.sockets.iter();
        sockets.map(|one| (one.kind.transport(), one.local_addr))
    }

    /// The signal that ends the listener.
    #[must_use]
    pub fn stop_signal(&self) -> Arc<StopSignal> {
        Arc::clone(&self.stop)
    }

    /// Accepts connections until the stop signal is set.
    ///
    /// # Errors
    /// If the system's poll fails, which only a bug of this library could cause.
    pub fn run(mut self, context: &ListenerContext) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        let mut scratch = RecvBuffer::new(context.config.recv_buffer_bytes);
        while !self.stop.is_set.load(Ordering::Acquire) {
            let is_open = |one: &ListeningSocket| one.acceptor.is_open();
            let may_accept = self.sockets.iter().any(is_open) || !self.named.is_empty();
            let has_room = context.router.has_room_for_connections();
            let timeout = if may_accept && has_room && self.unsettled_since.is_none() {
                Some(Duration::ZERO)
            } else if may_accept {
                Some(SETTLING)
            } else {
                self.next_deadline().map(|at| {
                    at.saturating_duration_since(Instant::now())
                        .max(Duration::from_millis(1))
                })
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => events.clear(),
                other => other?,
            }
            let now = Instant::now();
            // First: an event of a connection whose time is over would end the connection without grace.
            self.check_headers(context, now);
            for event in &events {
                match event.token() {
                    WAKER => {}
                    Token(key) if key >= FIRST_SOCKET => {
                        self.sockets[key - FIRST_SOCKET].acceptor.handle_readable();
                    }
                    Token(key) if key >= FIRST_PROXIED => {
                        self.advance_proxied(key - FIRST_PROXIED, context, now);
                    }
                    Token(key) => {
                        if let Some(rejected) = self.rejected.get_mut(key) {
                            rejected.handle_writable();
                        }
                        self.advance_rejected(key, &mut scratch, &context.config, now);
                    }
                }
            }
            self.receive_named(context, &mut scratch, now);
            for socket in 0..self.sockets.len() {
                if self.sockets[socket].acceptor.may_accept(now) {
                    self.accept_batch(socket, context, &mut scratch, now);
                }
            }
            self.close_overdue(&mut scratch, context, now);
            if self.summary_at.is_some_and(|at| at <= now) {
                self.summary_at = context.disconnect_log.flush(now);
            }
        }
        Ok(())
    }

    fn accept_batch(
        &mut self,
        socket: usize,
        context: &ListenerContext,
        scratch: &mut RecvBuffer,
        now: Instant,
    ) {
        for _ in 0..context.config.accept_batch {
            if self.waits_for_places(&context.admission, now)
                || !context.router.has_room_for_connections()
            {
                return;
            }
            let listening = &mut self.sockets[socket];
            let answer = listening.socket.accept();
            match listening.acceptor.evaluate(answer, now) {
                AcceptOutcome::Connection((stream, peer)) => {
                    // Where one socket listens for both, IPv4 comes in the clothes of IPv6.
                    let (stream, peer) = (Stream::from(stream), canonical(peer));
                    let accepted = Accepted { stream, socket };
                    if is_trusted(&context.config.trusted_proxies, peer) {
                        self.await_header(accepted, peer, context, now);
                        self.receive_named(context, scratch, now);
                    } else {
                        self.receive(accepted, peer, context, scratch, now);
                    }
                }
                AcceptOutcome::Again => {}
                AcceptOutcome::Empty => return,
                AcceptOutcome::Paused { error, should_log } => {
                    context.metrics.accept_errors.add(1);
                    if should_log {
                        log::warn!("accept paused: {error}; existing sessions are unaffected");
                    }
                    return;
                }
            }
        }
    }

    /// A burst of connections is accepted faster than workers end the sessions that these connections
    /// replace. Until the workers have ended them, the next connection waits in the backlog and is not
    /// refused.
    fn waits_for_places(&mut self, admission: &Admission, now: Instant) -> bool {
        if !admission.is_unsettled() {
            self.unsettled_since = None;
            return false;
        }
        now < *self.unsettled_since.get_or_insert(now) + LONGEST_SETTLING
    }

    /// A connection of a trusted proxy: its peer is known when its header has come.
    fn await_header(
        &mut self,
        accepted: Accepted,
        proxy: SocketAddr,
        context: &ListenerContext,
        now: Instant,
    ) {
        let room_when_full = (context.admission.free()).saturating_add(MAX_PROXIED_WHEN_FULL);
        let most = (context.config.max_handshakes_of_all()).min(room_when_full);
        while self.proxied.len() + self.named.len() >= most
            && let Some((_, (oldest, _))) = self.proxied.pop_first()
        {
            self.note_without_peer(oldest.proxy(), NoPeer::Evicted, context, now);
        }
        let number = self.next_proxied;
        let mut proxied = Proxied::new(accepted.stream, proxy, &context.config, now);
        let token = Token(FIRST_PROXIED + number);
        let registered =
            (self.poll.registry()).register(proxied.stream_mut(), token, Interest::READABLE);
        if let Err(error) = registered {
            let end = NoPeer::Ended(DisconnectReason::from_io(&error));
            self.note_without_peer(proxy, end, context, now);
            return;
        }
        self.next_proxied += 1;
        self.proxied.insert(number, (proxied, accepted.socket));
        // The header usually comes with the connection.
        self.advance_proxied(number, context, now);
    }

    fn advance_proxied(&mut self, number: usize, context: &ListenerContext, now: Instant) {
        let Some((proxied, _)) = self.proxied.get_mut(&number) else {
            return;
        };
        let outcome = match proxied.advance(now) {
            Ok(None) => return,
            // A worker registers the stream with its own poll.
            Ok(Some(peer)) => (self.poll.registry().deregister(proxied.stream_mut()))
                .map(|()| peer)
                .map_err(|error| NoPeer::Ended(DisconnectReason::from_io(&error))),
            Err(end) => Err(end),
        };
        let Some((proxied, socket)) = self.proxied.remove(&number) else {
            return;
        };
        let proxy = proxied.proxy();
        match outcome {
            Ok(peer) => {
                let stream = proxied.into_stream();
                self.named.push_back((Accepted { stream, socket }, peer));
            }
            Err(end) => self.note_without_peer(proxy, end, context, now),
        }
    }

    /// Receives connections whose header has come, as if they were accepted now.
    fn receive_named(&mut self, context: &ListenerContext, scratch: &mut RecvBuffer, now: Instant) {
        while !self.named.is_empty()
            && !self.waits_for_places(&context.admission, now)
            && context.router.has_room_for_connections()
            && let Some((accepted, peer)) = self.named.pop_front()
        {
            self.receive(accepted, peer, context, scratch, now);
        }
    }

    fn note_without_peer(
        &mut self,
        proxy: SocketAddr,
        end: NoPeer,
        context: &ListenerContext,
        now: Instant,
    ) {
        context.metrics.accepted.add(1);
        context.metrics.count_disconnect(0, end.reason());
        match end {
            // A health check that only connects.
            NoPeer::Ended(reason) => {
                log::debug!("connection of proxy {proxy} without a header: {reason}")
            }
            _ => {
                if let Some(count) = self.without_header.note(now) {
                    log::warn!(
                        "connections of trusted proxies without a valid PROXY header: {count} closed, the \
                         last of {proxy}: {end}"
                    );
                }
            }
        }
    }

    fn receive(
        &mut self,
        accepted: Accepted,
        peer: SocketAddr,
        context: &ListenerContext,
        scratch: &mut RecvBuffer,
        now: Instant,
    ) {
        let Accepted { stream, socket } = accepted;
        if context.bans.contains(peer.ip(), seconds_since_1970) {
            context.metrics.rejected.add(1);
            if let Some(count) = self.banned.note(now) {
                log::info!("connections of banned addresses: {count} closed, the last of {peer}");
            }
            return;
        }
        let mut budgets = context.connects.iter();
        if !budgets.all(|budgets| budgets.take(peer.ip(), now)) {
            if let Some(count) = self.over_budget.note(now) {
                log::warn!(
                    "connections over max_connects_per_ip_per_sec: {count} closed, the last of {peer}"
                );
            }
            self.refuse(stream, Refusal::Silent, context, scratch, now);
            return;
        }
        stream.set_options(peer, &context.config);
        let kind = &self.sockets[socket].kind;
        match context.admission.admit(peer) {
            Some(permit) => {
                let stream = match kind.accept(stream) {
                    Ok(stream) => stream,
                    Err(error) => {
                        log::error!("no {} for {peer}: {error}", kind.transport());
                        context.metrics.rejected.add(1);
                        return;
                    }
                };
                // A worker that has failed adopts no connection; its whole server ends.
                context.router.adopt(NewConnection {
                    stream,
                    permit,
                    tag: None,
                    is_connecting: false,
                });
            }
            None => {
                let reason = DisconnectReason::ServerFull;
                let summary_at = context.disconnect_log.note(None, peer, reason, None, now);
                self.summary_at = self.summary_at.or(summary_at);
                let refusal = kind.refusal();
                self.refuse(stream, refusal, context, scratch, now);
            }
        }
    }

    fn refuse(
        &mut self,
        stream: Stream,
        refusal: Refusal,
        context: &ListenerContext,
        scratch: &mut RecvBuffer,
        now: Instant,
    ) {
        context.metrics.rejected.add(1);
        if refusal == Refusal::Silent {
            return;
        }
        if self.rejected.len() >= MAX_LINGERING
            && let Some((oldest, _)) = self.rejected.iter().min_by_key(|(_, one)| one.deadline())
        {
            self.rejected.remove(oldest);
        }
        let close_message =
            || (context.close_message)(DisconnectReason::ServerFull, None, &context.buffers);
        let last_packet = guarded(close_message).unwrap_or(None);
        let mut draining = Draining::rejected(stream, last_packet, now + context.config.linger);
        let entry = self.rejected.vacant_entry();
        let both = Interest::READABLE | Interest::WRITABLE;
        let token = Token(entry.key());
        if let Err(error) = (self.poll.registry()).register(draining.stream_mut(), token, both) {
            log::debug!("a refused connection cannot linger: {error}");
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
        // `Again` means that the budget of this turn is used up. A refused connection gets no further
        // turn: the rest of its input waits for the deadline. No byte of it is counted, in or out: it is
        // not a session.
        let drained = rejected.advance(scratch, config.read_budget_bytes, config, now);
        if drained.progress == Progress::Done {
            self.rejected.remove(key);
        }
    }

    /// Ends the connections that have waited for their header for too long.
    fn check_headers(&mut self, context: &ListenerContext, now: Instant) {
        let late =
            (self.header_deadline()).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if late > STALL {
            // This process did not run meanwhile: each connection gets as much time as the stall took.
            for (proxied, _) in self.proxied.values_mut() {
                proxied.wait_until(now + late);
            }
        }
        // All of them wait for the same time: the oldest is the first whose time is over.
        while let Some((number, (oldest, _))) = self.proxied.first_key_value()
            && oldest.deadline() <= now
        {
            let number = *number;
            self.advance_proxied(number, context, now);
        }
    }

    fn header_deadline(&self) -> Option<Instant> {
        let oldest = self.proxied.first_key_value();
        oldest.map(|(_, (oldest, _))| oldest.deadline())
    }

    fn close_overdue(&mut self, scratch: &mut RecvBuffer, context: &ListenerContext, now: Instant) {
        let overdue: Vec<usize> = self
            .rejected
            .iter()
            .filter(|(_, rejected)| rejected.deadline() <= now)
            .map(|(key, _)| key)
            .collect();
        for key in overdue {
            self.advance_rejected(key, scratch, &context.config, now);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.rejected
            .iter()
            .map(|(_, rejected)| rejected.deadline())
            .chain(self.header_deadline())
            .chain((self.sockets.iter()).filter_map(|one| one.acceptor.retry_at()))
            .chain(self.summary_at)
            .min()
    }
}

/// Binds a socket to the address and drops it, without listening: whether [`Listener::bind`] would find
/// the address free.
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

fn seconds_since_1970() -> u64 {
    (SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)).map_or(0, |time| time.as_secs())
}

impl CountedLine {
    /// Counts a connection. Returns the number of connections for a line that is due.
    fn note(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.next_at.is_some_and(|at| now < at) {
            return None;
        }
        self.next_at = Some(now + LOG_INTERVAL);
        Some(std::mem::take(&mut self.count))
    }
}

impl StopSignal {
    /// Ends the listener.
    pub fn set(&self) {
        self.is_set.store(true, Ordering::Release);
        if let Err(error) = self.waker.wake() {
            log::error!("cannot wake the listener: {error}");
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("local_addrs", &self.local_addrs().collect::<Vec<_>>())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::proxied::LONGEST_WAIT;
    use crate::shard::Shared;
    use crate::testing::wait_until;
    use std::net::TcpStream;

    /// A context whose workers take no connection.
    fn context(config: Config) -> ListenerContext {
        let shared = Shared::<Stream, ()>::for_tests(&config, 1, |_| ());
        ListenerContext {
            config,
            admission: Arc::new(Admission::new(1, None, None)),
            connects: None,
            bans: Bans::default(),
            router: shared.router,
            buffers: shared.buffers,
            metrics: shared.metrics,
            close_message: shared.close_message,
            disconnect_log: shared.disconnect_log,
        }
    }

    #[test]
    fn wait_for_a_header_gets_as_much_time_as_a_stall_of_the_process_took() {
        const STALLED: Duration = Duration::from_secs(3);
        let config = Config {
            trusted_proxies: vec!["127.0.0.1".parse().unwrap()],
            ..Config::default()
        };
        let context = context(config);
        let mut scratch = RecvBuffer::new(1024);
        let mut listener = Listener::new().unwrap();
        listener
            .bind(&ListenerKind::Tcp, ([127, 0, 0, 1], 0).into())
            .unwrap();
        listener.listen(&context.config).unwrap();
        let (_, addr) = listener.local_addrs().next().unwrap();
        let _proxies = [(); 2].map(|()| TcpStream::connect(addr).unwrap());
        let began = Instant::now();
        wait_until("both are accepted", || {
            listener.accept_batch(0, &context, &mut scratch, began);
            listener.proxied.len() == 2
        });
        let mut waiting_after = |time: Duration| {
            listener.check_headers(&context, began + time);
            listener.proxied.len()
        };
        let resumed = LONGEST_WAIT + STALLED;
        assert_eq!(waiting_after(resumed), 2);
        assert_eq!(waiting_after(resumed + STALLED - STALL), 2);
        assert_eq!(waiting_after(resumed + STALLED), 0);
    }

    /// A start that fails at its last address must have let no peer in at its first.
    #[test]
    fn a_socket_that_is_bound_accepts_no_peer_until_all_listen() {
        let mut listener = Listener::new().unwrap();
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        for _ in 0..2 {
            listener.bind(&ListenerKind::Tcp, any_port).unwrap();
        }
        let addrs: Vec<_> = listener.local_addrs().map(|(_, addr)| addr).collect();
        for addr in &addrs {
            let refused = TcpStream::connect(addr).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        }
        listener.listen(&Config::default()).unwrap();
        for addr in &addrs {
            TcpStream::connect(addr).unwrap();
        }
    }

    #[test]
    fn an_address_of_two_sockets_is_named() {
        let mut listener = Listener::new().unwrap();
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&ListenerKind::Tcp, any_port).unwrap();
        let (_, addr) = listener.local_addrs().next().unwrap();
        let bound_again = listener.bind(&ListenerKind::Tcp, addr);
        let error = bound_again.and_then(|()| listener.listen(&Config::default()));
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }
}
