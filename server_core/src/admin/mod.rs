//! The metrics port: `/metrics`, `/healthz`, `/sessions`, and at `/` a page that shows them, over
//! HTTP, on a thread of its own.
//!
//! It shares nothing with the event loops but atomics that it reads, and one question at a time in
//! their mailboxes for `/sessions`. Whatever its peers do costs this thread, not a tick: few
//! connections, short heads, deadlines that nothing extends, and the oldest one that asks for
//! nothing gives way to a new one. Where all cores are busy, a flood of scrapes would still take
//! the event loops' share of them; so the thread rests three times as long as it works.

mod client;
mod exposition;
mod host;
mod http;
mod sessions;

use crate::base::backoff::Backoff;
use crate::base::snapshot::{SessionInfo, Snapshot};
use crate::runtime::start;
use crate::server::ServerHandle;
use crate::server::ticker::TickMetrics;
use client::{Claim, Client, Step};
use crossbeam_channel::Sender;
use exposition::Exposition;
pub use host::Host;
use http::{Request, Route, Selection, Status};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use prometheus_client::registry::Registry;
use slab::Slab;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Connections at a time.
const MAX_CLIENTS: usize = 64;
/// Descriptors that the port may need: its clients, one that comes while they are as many as may
/// be, its socket, its poll and its waker.
pub const DESCRIPTORS: usize = MAX_CLIENTS + 4;
/// Connections accepted before those who are here get a turn.
const ACCEPT_BATCH: usize = 16;
/// How long the workers may take to answer about their sessions.
const SNAPSHOT_TIME: Duration = Duration::from_secs(1);
/// How often to look whether they have.
const SNAPSHOT_CHECK: Duration = Duration::from_millis(2);
/// Lists of sessions that slow readers may keep in memory; over it, nobody gets a new one.
const MAX_LIST_BYTES: usize = 8 << 20;
/// Waits after a failed accept: no new edge will tell of the connection that still waits.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// That accept fails is said once in this time.
const SILENCE: Duration = Duration::from_secs(30);

/// For each moment of work so many of rest: at most a quarter of one core goes into this port.
const REST_SHARE: u32 = 3;
/// What is owed of it is slept off when it is worth the call.
const MIN_REST: Duration = Duration::from_millis(1);
/// A round that took long because this thread was not run says nothing of its work.
const MAX_REST: Duration = Duration::from_millis(50);

/// A page that asks this port once a second, and holds all that it needs.
const PAGE: &str = include_str!("live.html");
const PAGE_TYPE: &str = "text/html; charset=utf-8";

const WAKER: Token = Token(usize::MAX);
const SOCKET: Token = Token(usize::MAX - 1);

/// A port that is bound and serves nobody yet.
#[derive(Debug)]
pub struct MetricsPort {
    poll: Poll,
    socket: TcpListener,
    local_addr: SocketAddr,
    hosts: Vec<Host>,
    stop: Arc<Stop>,
}

/// The thread that serves. Dropping it ends it.
#[derive(Debug)]
pub struct MetricsThread {
    local_addr: SocketAddr,
    stop: Arc<Stop>,
    /// Tells the thread what to serve.
    server: Option<Sender<ServerHandle>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Stop {
    is_set: AtomicBool,
    waker: Waker,
}

impl MetricsPort {
    /// Binds the first of these addresses that can be bound, and listens. Requests may be for these
    /// `hosts` besides its address and loopback names.
    ///
    /// # Errors
    /// Those of the system, for example [`ErrorKind::AddrInUse`].
    pub fn bind(addrs: &[SocketAddr], hosts: &[Host]) -> io::Result<Self> {
        let addrs = addrs.iter().copied();
        start::first_of("cannot serve metrics on", addrs, |addr| {
            Self::bind_one(addr, hosts.to_vec())
        })
    }

    fn bind_one(addr: SocketAddr, hosts: Vec<Host>) -> io::Result<Self> {
        let mut socket = TcpListener::bind(addr)?;
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        poll.registry()
            .register(&mut socket, SOCKET, Interest::READABLE)?;
        let is_set = AtomicBool::new(false);
        Ok(Self {
            local_addr: socket.local_addr()?,
            poll,
            socket,
            hosts,
            stop: Arc::new(Stop { is_set, waker }),
        })
    }

    /// Starts the thread. It serves when it is told what to [`serve`](MetricsThread::serve), with
    /// the metrics of the game beside those of the server.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(self, ticks: Arc<TickMetrics>, game: Registry) -> io::Result<MetricsThread> {
        let (local_addr, stop) = (self.local_addr, Arc::clone(&self.stop));
        let (sender, server) = crossbeam_channel::bounded(1);
        let thread = start::spawn("metrics", move || {
            let Ok(server) = server.recv() else {
                return; // The start has failed.
            };
            if let Err(error) = Service::new(self, server, ticks, game).run() {
                log::error!("the metrics port has ended: {error}");
            }
        })?;
        Ok(MetricsThread {
            local_addr,
            stop,
            server: Some(sender),
            thread: Some(thread),
        })
    }
}

impl MetricsThread {
    /// Where it listens; the port is the real one if port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves this server's counters from now on.
    pub fn serve(&self, server: ServerHandle) {
        if let Some(sender) = &self.server {
            // The first one counts.
            let _ = sender.try_send(server);
        }
    }
}

impl Drop for MetricsThread {
    fn drop(&mut self) {
        self.server = None;
        self.stop.is_set.store(true, Ordering::Release);
        if let Err(error) = self.stop.waker.wake() {
            log::error!("the metrics thread could not be woken: {error}");
            return;
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the metrics thread has panicked");
        }
    }
}

/// What lives on the thread.
struct Service {
    port: MetricsPort,
    server: ServerHandle,
    exposition: Exposition,
    page: Rc<[u8]>,
    clients: Slab<Client>,
    scratch: Box<[u8]>,
    may_accept: bool,
    /// An event has told that somebody waits to be accepted, and nobody was since.
    is_asked_for: bool,
    /// Accept again then.
    retry_at: Option<Instant>,
    backoff: Backoff,
    next_log_at: Option<Instant>,
    look: Option<Look>,
    /// The lists of sessions that somebody still reads.
    lists: Vec<Weak<[u8]>>,
}

/// A look at all sessions that is under way.
struct Look {
    snapshot: Snapshot,
    give_up_at: Instant,
    /// Who had asked when it began. Others may know of sessions that it does not.
    askers: Vec<Asker>,
}

/// A client's key, and when it came: keys are used again.
type Asker = (usize, Instant);

impl Service {
    fn new(
        port: MetricsPort,
        server: ServerHandle,
        ticks: Arc<TickMetrics>,
        game: Registry,
    ) -> Self {
        Self {
            port,
            exposition: Exposition::new(server.clone(), ticks, game),
            server,
            page: PAGE.as_bytes().into(),
            clients: Slab::with_capacity(MAX_CLIENTS),
            scratch: vec![0; 16 << 10].into(),
            may_accept: true,
            is_asked_for: false,
            retry_at: None,
            backoff: Backoff::new(RETRY.0, RETRY.1),
            next_log_at: None,
            look: None,
            lists: Vec::new(),
        }
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(2 * MAX_CLIENTS);
        let mut rest_owed = Duration::ZERO;
        while !self.port.stop.is_set.load(Ordering::Acquire) {
            let idle_since = Instant::now();
            if rest_owed >= MIN_REST {
                thread::sleep(rest_owed);
            }
            let timeout = self.timeout(Instant::now());
            match self.port.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => events.clear(),
                other => other?,
            }
            rest_owed = rest_owed.saturating_sub(idle_since.elapsed());
            for event in &events {
                match event.token() {
                    WAKER => {}
                    SOCKET => {
                        self.is_asked_for = true;
                        self.may_accept |= self.retry_at.is_none();
                    }
                    Token(key) => {
                        if let Some(client) = self.clients.get_mut(key) {
                            client.is_ready = true;
                        }
                    }
                }
            }
            let now = Instant::now();
            if self.retry_at.is_some_and(|at| at <= now) {
                self.retry_at = None;
                self.may_accept = true;
            }
            if self.may_accept {
                self.may_accept = self.accept_batch(now);
            }
            self.advance_clients(now);
            self.look_at_sessions(now);
            rest_owed = (rest_owed + now.elapsed() * REST_SHARE).min(MAX_REST);
        }
        Ok(())
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        let has_work = self.may_accept || self.clients.iter().any(|(_, one)| one.is_ready);
        if has_work {
            return Some(Duration::ZERO);
        }
        let deadlines = self.clients.iter().map(|(_, client)| client.deadline());
        let check_at = self.look.as_ref().map(|_| now + SNAPSHOT_CHECK);
        let wake_at = deadlines.chain(self.retry_at).chain(check_at).min()?;
        // The kernel's clock for this counts milliseconds; rounded down, the loop would spin
        // through the last one.
        Some((wake_at.saturating_duration_since(now)).max(Duration::from_millis(1)))
    }

    // ---- coming and going ---------------------------------------------------------------------

    /// Accepts up to a batch. Returns whether more may be waiting.
    fn accept_batch(&mut self, now: Instant) -> bool {
        for _ in 0..ACCEPT_BATCH {
            if self.clients.len() >= MAX_CLIENTS && !self.make_room(Claim::Answer) {
                // All have something to do: after that there will be one to send away.
                return true;
            }
            match self.port.socket.accept() {
                Ok((stream, _)) => {
                    self.backoff.reset();
                    self.is_asked_for = false;
                    self.receive(stream, now);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return false,
                    // These are of the one connection that was about to be accepted.
                    ErrorKind::Interrupted
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::ConnectionReset => {}
                    // Out of descriptors, most likely. Accept wants one before it looks whether
                    // anybody waits: nobody has to go for one who does not.
                    _ if !self.is_asked_for && self.ask_for_an_event() => return false,
                    // Those that idle here hold some.
                    _ if self.make_room(Claim::Question) => {}
                    _ if self.clients.iter().any(|(_, client)| client.is_ready) => return true,
                    _ => {
                        self.pause(&error, now);
                        return false;
                    }
                },
            }
        }
        true
    }

    /// Registered again, the socket tells once more of those who wait already.
    fn ask_for_an_event(&mut self) -> bool {
        let (registry, socket) = (self.port.poll.registry(), &mut self.port.socket);
        let asked = registry.reregister(socket, SOCKET, Interest::READABLE);
        asked.is_ok()
    }

    /// Sends the oldest of those away who have the weakest claim to stay, but nobody with a
    /// stronger one than this, and nobody whose request may be lying in the socket unread.
    fn make_room(&mut self, strongest: Claim) -> bool {
        let oldest = (self.clients.iter())
            .filter(|(_, client)| !client.is_ready && client.claim() <= strongest)
            .min_by_key(|(_, client)| (client.claim(), client.since))
            .map(|(key, _)| key);
        oldest.map(|key| self.clients.remove(key)).is_some()
    }

    fn receive(&mut self, stream: TcpStream, now: Instant) {
        let mut client = Client::new(stream, now);
        let entry = self.clients.vacant_entry();
        let both = Interest::READABLE | Interest::WRITABLE;
        let (registry, token) = (self.port.poll.registry(), Token(entry.key()));
        match registry.register(client.stream_mut(), token, both) {
            Ok(()) => {
                entry.insert(client);
            }
            Err(error) => log::debug!("could not serve a client of the metrics port: {error}"),
        }
    }

    fn pause(&mut self, error: &io::Error, now: Instant) {
        self.retry_at = Some(now + self.backoff.next_delay(u32::MAX));
        // By then that one may have gone.
        self.is_asked_for = false;
        if self.next_log_at.is_none_or(|at| at <= now) {
            self.next_log_at = Some(now + SILENCE);
            log::warn!("the metrics port cannot accept for now: {error}");
        }
    }

    fn advance_clients(&mut self, now: Instant) {
        for key in 0..self.clients.capacity() {
            let Some(client) = self.clients.get_mut(key) else {
                continue;
            };
            if !client.is_ready && now < client.deadline() {
                continue;
            }
            match client.advance(&mut self.scratch, &self.port.hosts, now) {
                Step::Wait => {}
                Step::Again => client.is_ready = true,
                Step::Asks(request) => self.answer(key, request, now),
                Step::Over => {
                    self.clients.remove(key);
                }
            }
        }
    }

    // ---- answers ------------------------------------------------------------------------------

    fn answer(&mut self, key: usize, request: Request, now: Instant) {
        let (status, content_type, body) = match request.route {
            Route::Page => (Status::Ok, PAGE_TYPE, Rc::clone(&self.page)),
            Route::Metrics => match self.exposition.text().into_bytes() {
                text if text.is_empty() => (Status::Unavailable, "text/plain", text.into()),
                text => (Status::Ok, exposition::CONTENT_TYPE, text.into()),
            },
            Route::Health => match self.server.is_shutting_down() {
                true => (
                    Status::Unavailable,
                    "text/plain",
                    (*b"shutting down\n").into(),
                ),
                false => (Status::Ok, "text/plain", (*b"ok\n").into()),
            },
            // It is found by `look_at_sessions`.
            Route::Sessions(_) => return,
        };
        if let Some(client) = self.clients.get_mut(key) {
            client.answer(status, content_type, body, now);
        }
    }

    /// Begins a look at the sessions if somebody has asked for one, and ends the one under way if
    /// the workers have answered.
    fn look_at_sessions(&mut self, now: Instant) {
        if let Some(look) = &mut self.look {
            let sessions = match look.snapshot.poll() {
                Ok(Some(sessions)) => Some(sessions),
                Ok(None) if now < look.give_up_at => return,
                Ok(None) | Err(_) => None,
            };
            let askers = std::mem::take(&mut look.askers);
            self.look = None;
            self.answer_with_sessions(&askers, sessions.as_deref(), now);
        }
        let askers: Vec<Asker> = (self.clients.iter())
            .filter(|(_, client)| client.waits_for().is_some())
            .map(|(key, client)| (key, client.since))
            .collect();
        if askers.is_empty() {
            return;
        }
        self.lists.retain(|list| list.strong_count() > 0);
        let list_bytes: usize = (self.lists.iter())
            .filter_map(|list| list.upgrade().map(|list| list.len()))
            .sum();
        // None, too, while the workers still owe an answer that was given up.
        let snapshot = (list_bytes < MAX_LIST_BYTES)
            .then(|| self.server.snapshot())
            .flatten();
        match snapshot {
            Some(snapshot) => {
                self.look = Some(Look {
                    snapshot,
                    give_up_at: now + SNAPSHOT_TIME,
                    askers,
                });
            }
            None => self.answer_with_sessions(&askers, None, now),
        }
    }

    fn answer_with_sessions(
        &mut self,
        askers: &[Asker],
        sessions: Option<&[SessionInfo]>,
        now: Instant,
    ) {
        // Many may ask for the same: it is written once.
        let mut bodies: BTreeMap<Selection, Option<Rc<[u8]>>> = BTreeMap::new();
        for (key, since) in askers {
            let Some(client) = (self.clients.get_mut(*key)).filter(|one| one.since == *since)
            else {
                continue;
            };
            let Some(Route::Sessions(selection)) = client.waits_for().map(|asked| asked.route)
            else {
                continue;
            };
            let body = bodies.entry(selection).or_insert_with(|| {
                let json = sessions::to_json(sessions?, selection, now)
                    .inspect_err(|error| log::error!("the sessions could not be written: {error}"));
                json.ok().map(Rc::from)
            });
            match body {
                Some(body) => {
                    client.answer(Status::Ok, sessions::CONTENT_TYPE, Rc::clone(body), now);
                }
                None => client.refuse(Status::Unavailable, now),
            }
        }
        let written = bodies.values().flatten();
        self.lists.extend(written.map(Rc::downgrade));
    }
}
