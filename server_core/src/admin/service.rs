//! The thread of the admin port: accept, read requests, respond.

use super::allowed_hosts::AllowedHosts;
use super::exposition::{self, Exposition};
use super::http::{Request, Route, Selection, Status};
use super::http_connection::{Action, EvictionPriority, HttpConnection};
use super::sessions;
use super::traces::Traces;
#[cfg(feature = "cluster")]
use super::world::World;
use super::{AdminBuilder, Readiness, Stop};
use crate::base::snapshot::{SessionInfo, Snapshot};
use crate::base::trace::TraceTarget;
use crate::runtime::acceptor::{AcceptOutcome, Acceptor, is_shortage};
use crate::server::ServerHandle;
use crate::shard::{STALL, guarded};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Connections at a time.
pub const MAX_CONNECTIONS: usize = 64;
/// Connections that one turn accepts.
const ACCEPT_BATCH: usize = 16;
/// Time that the workers have to list their sessions, and the broker to find one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Time between two checks of a pending answer.
const ANSWER_CHECK: Duration = Duration::from_millis(2);
/// Session lists that slow readers may keep in memory. At this size no new list is made.
const MAX_LIST_BYTES: usize = 8 << 20;
/// Time between two checks whether the server has ended.
const END_CHECK: Duration = Duration::from_millis(100);

/// The thread sleeps three times as long as it works: the port uses a quarter of one core at most.
const THROTTLE_FACTOR: u32 = 3;
/// The shortest sleep that is worth the call.
const MIN_THROTTLE: Duration = Duration::from_millis(1);
/// The longest sleep. A turn that took long because the thread was not run says nothing of its work.
const MAX_THROTTLE: Duration = Duration::from_millis(50);

/// The live page. It sends a request to this port once a second, and holds all that it needs.
const PAGE: &str = include_str!("live.html");
const PAGE_TYPE: &str = "text/html; charset=utf-8";
const TEXT_TYPE: &str = "text/plain";

const WAKER: Token = Token(usize::MAX);
const SOCKET: Token = Token(usize::MAX - 1);

/// The bound socket of an admin port, and the poll of its thread.
#[derive(Debug)]
pub struct Port {
    poll: Poll,
    socket: TcpListener,
    pub local_addr: SocketAddr,
    pub stop: Arc<Stop>,
}

/// The state of the thread.
pub struct Service {
    port: Port,
    server: ServerHandle,
    exposition: Exposition,
    page: Rc<[u8]>,
    hosts: AllowedHosts,
    is_ready: Option<Readiness>,
    connections: Slab<HttpConnection>,
    scratch: Box<[u8]>,
    acceptor: Acceptor,
    /// An event has announced a connection, and none was accepted since.
    is_announced: bool,
    pending_snapshot: Option<PendingSnapshot>,
    /// The session lists that a connection still writes.
    lists: Vec<Weak<[u8]>>,
    traces: Traces,
    #[cfg(feature = "cluster")]
    world: Option<World>,
}

/// A snapshot of all sessions that is not complete.
struct PendingSnapshot {
    snapshot: Snapshot,
    timeout: AnswerTimeout,
    /// The connections that had asked when the snapshot began. The peer of a later one may know of a
    /// session that the snapshot does not have.
    clients: Vec<ClientKey>,
}

/// The time for an answer of another thread. A stall of this process, in which no thread could answer, is not counted.
pub struct AnswerTimeout {
    give_up_at: Instant,
    check_at: Instant,
}

/// The key of a connection, and when it was accepted: the slab reuses keys.
pub type ClientKey = (usize, Instant);

/// The body of a response, or why there is none.
pub type Response = Result<Rc<[u8]>, Status>;

impl AnswerTimeout {
    /// The time begins now.
    pub fn new(now: Instant) -> Self {
        Self {
            give_up_at: now + ANSWER_TIMEOUT,
            check_at: now + ANSWER_CHECK,
        }
    }

    /// Whether the time is over. The next call is due [`ANSWER_CHECK`] later.
    pub fn is_over(&mut self, now: Instant) -> bool {
        let late = now.saturating_duration_since(self.check_at);
        if late > STALL {
            self.give_up_at += late;
        }
        self.check_at = now + ANSWER_CHECK;
        self.give_up_at <= now
    }
}

impl Port {
    /// Binds and listens.
    ///
    /// # Errors
    /// Errors of the system, for example [`ErrorKind::AddrInUse`].
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
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
            stop: Arc::new(Stop { is_set, waker }),
        })
    }
}

impl Service {
    pub fn new(port: Port, server: ServerHandle, builder: AdminBuilder) -> Self {
        Self {
            port,
            exposition: Exposition::new(server.clone(), builder.ticks, builder.registry),
            server,
            #[cfg(feature = "cluster")]
            page: page_of(&builder.name, builder.cluster.is_some()).into(),
            #[cfg(not(feature = "cluster"))]
            page: page_of(&builder.name, false).into(),
            hosts: builder.hosts,
            is_ready: builder.is_ready,
            connections: Slab::with_capacity(MAX_CONNECTIONS),
            scratch: vec![0; 16 << 10].into(),
            acceptor: Acceptor::default(),
            is_announced: false,
            pending_snapshot: None,
            lists: Vec::new(),
            traces: Traces::default(),
            #[cfg(feature = "cluster")]
            world: builder.cluster.map(World::new),
        }
    }

    /// Serves until it is told to stop or the server has ended.
    ///
    /// # Errors
    /// If the system's poll fails. Only a bug in this crate could cause that.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(2 * MAX_CONNECTIONS);
        let mut throttle = Duration::ZERO;
        while !self.port.stop.is_set.load(Ordering::Acquire) && !self.server.has_ended() {
            let idle_since = Instant::now();
            if throttle >= MIN_THROTTLE {
                thread::sleep(throttle);
            }
            let timeout = self.timeout(Instant::now());
            match self.port.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => events.clear(),
                other => other?,
            }
            throttle = throttle.saturating_sub(idle_since.elapsed());
            for event in &events {
                match event.token() {
                    WAKER => {}
                    SOCKET => {
                        self.is_announced = true;
                        self.acceptor.handle_readable();
                    }
                    Token(key) => {
                        if let Some(connection) = self.connections.get_mut(key) {
                            connection.is_ready = true;
                        }
                    }
                }
            }
            let now = Instant::now();
            if self.acceptor.may_accept(now) {
                self.accept_batch(now);
            }
            self.advance_connections(now);
            self.poll_snapshot(now);
            self.traces.end_unread(now);
            #[cfg(feature = "cluster")]
            self.poll_accounts(now);
            throttle = (throttle + now.elapsed() * THROTTLE_FACTOR).min(MAX_THROTTLE);
        }
        Ok(())
    }

    fn timeout(&self, now: Instant) -> Duration {
        let has_work = self.acceptor.is_open() || self.has_ready_connection();
        if has_work {
            return Duration::ZERO;
        }
        let deadlines = self.connections.iter().map(|(_, one)| one.deadline());
        let is_pending = self.pending_snapshot.is_some();
        #[cfg(feature = "cluster")]
        let is_pending = is_pending || self.world.as_ref().is_some_and(World::is_pending);
        let check_at = is_pending.then(|| now + ANSWER_CHECK);
        let wake_at = (deadlines.chain(self.acceptor.retry_at()).chain(check_at))
            .fold(now + END_CHECK, Instant::min);
        // The kernel's clock counts milliseconds here. Rounded down, the loop would spin through the
        // last one.
        (wake_at.saturating_duration_since(now)).max(Duration::from_millis(1))
    }

    fn has_ready_connection(&self) -> bool {
        self.connections.iter().any(|(_, one)| one.is_ready)
    }

    // ---- connections --------------------------------------------------------------------------

    /// Accepts one batch at most.
    fn accept_batch(&mut self, now: Instant) {
        for _ in 0..ACCEPT_BATCH {
            if self.connections.len() >= MAX_CONNECTIONS
                && !self.evict_idle(EvictionPriority::Responding)
            {
                // Every connection is ready. After their next turn one of them can be evicted.
                return;
            }
            let mut accepted = self.port.socket.accept();
            if accepted.as_ref().is_err_and(is_shortage) {
                // `accept` takes a descriptor before it checks whether a connection waits. Only a
                // connection that waits is worth an eviction: its event tells.
                if !self.is_announced && self.request_event() {
                    accepted = Err(ErrorKind::WouldBlock.into());
                } else if self.evict_idle(EvictionPriority::ReadingRequest) {
                    continue; // That connection held a descriptor.
                } else if self.has_ready_connection() {
                    return;
                }
            }
            match self.acceptor.evaluate(accepted, now) {
                AcceptOutcome::Connection((stream, _)) => {
                    self.is_announced = false;
                    self.receive(stream, now);
                }
                AcceptOutcome::Again => {}
                AcceptOutcome::Empty => return,
                AcceptOutcome::Paused { error, should_log } => {
                    // After the pause the connection may be gone.
                    self.is_announced = false;
                    if should_log {
                        log::warn!("the metrics port cannot accept for now: {error}");
                    }
                    return;
                }
            }
        }
    }

    /// Registers the socket again: the poll then announces once more the connections that wait already.
    fn request_event(&mut self) -> bool {
        let (registry, socket) = (self.port.poll.registry(), &mut self.port.socket);
        let requested = registry.reregister(socket, SOCKET, Interest::READABLE);
        requested.is_ok()
    }

    /// Closes the oldest connection of the lowest eviction priority, up to `highest`. A ready connection
    /// stays: its request may be in the socket, unread. Returns whether a connection was closed.
    fn evict_idle(&mut self, highest: EvictionPriority) -> bool {
        let oldest = (self.connections.iter())
            .filter(|(_, one)| !one.is_ready && one.eviction_priority() <= highest)
            .min_by_key(|(_, one)| (one.eviction_priority(), one.accepted_at))
            .map(|(key, _)| key);
        oldest.map(|key| self.connections.remove(key)).is_some()
    }

    fn receive(&mut self, stream: TcpStream, now: Instant) {
        let mut connection = HttpConnection::new(stream, now);
        let entry = self.connections.vacant_entry();
        let both = Interest::READABLE | Interest::WRITABLE;
        let (registry, token) = (self.port.poll.registry(), Token(entry.key()));
        match registry.register(connection.stream_mut(), token, both) {
            Ok(()) => {
                entry.insert(connection);
            }
            Err(error) => log::debug!("admin port: cannot register a connection: {error}"),
        }
    }

    fn advance_connections(&mut self, now: Instant) {
        for key in 0..self.connections.capacity() {
            let Some(connection) = self.connections.get_mut(key) else {
                continue;
            };
            if !connection.is_ready && now < connection.deadline() {
                continue;
            }
            match connection.advance(&mut self.scratch, &self.hosts, now) {
                Action::Wait => {}
                Action::AdvanceAgain => connection.is_ready = true,
                Action::Respond(request) => self.respond(key, request, now),
                Action::Close => {
                    self.connections.remove(key);
                }
            }
        }
    }

    // ---- responses ----------------------------------------------------------------------------

    fn respond(&mut self, key: usize, request: Request, now: Instant) {
        let (status, content_type, body): (_, _, Rc<[u8]>) = match request.route {
            Route::Page => (Status::Ok, PAGE_TYPE, Rc::clone(&self.page)),
            Route::Metrics => match self.exposition.text() {
                Some(text) => (
                    Status::Ok,
                    exposition::CONTENT_TYPE,
                    text.into_bytes().into(),
                ),
                None => (Status::Unavailable, TEXT_TYPE, Rc::default()),
            },
            Route::Health => {
                let (status, text) = self.health();
                (status, TEXT_TYPE, text.as_bytes().into())
            }
            // `poll_snapshot` finds the request.
            Route::Sessions(_) => return,
            Route::Trace(target) => match self.trace(target, now) {
                Some(body) => (Status::Ok, sessions::CONTENT_TYPE, body),
                None => (Status::Unavailable, TEXT_TYPE, Rc::default()),
            },
            Route::Account(_) | Route::Nodes => return self.respond_of_world(key, &request, now),
        };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.respond(status, content_type, body, now);
        }
    }

    fn trace(&mut self, target: TraceTarget, now: Instant) -> Option<Rc<[u8]>> {
        if !self.has_room_for_list() {
            return None;
        }
        let json = (self.traces.read(target, &self.server, now)?)
            .inspect_err(|error| log::error!("/trace failed: {error}"));
        let body: Rc<[u8]> = json.ok()?.into();
        self.lists.push(Rc::downgrade(&body));
        Some(body)
    }

    /// Whether the lists that connections still write leave memory for one more.
    fn has_room_for_list(&mut self) -> bool {
        self.lists.retain(|list| list.strong_count() > 0);
        let list_bytes: usize = (self.lists.iter())
            .filter_map(|list| list.upgrade().map(|list| list.len()))
            .sum();
        list_bytes < MAX_LIST_BYTES
    }

    #[cfg(not(feature = "cluster"))]
    fn respond_of_world(&mut self, key: usize, _: &Request, now: Instant) {
        self.respond_of_world_with(key, Err(Status::NotFound), now);
    }

    #[cfg(feature = "cluster")]
    fn respond_of_world(&mut self, key: usize, request: &Request, now: Instant) {
        let Some(accepted_at) = self.connections.get(key).map(|one| one.accepted_at) else {
            return;
        };
        let client = (key, accepted_at);
        let response = match (&mut self.world, &request.route) {
            (None, _) => Err(Status::NotFound),
            (Some(world), Route::Account(account)) => {
                match world.begin_search(account, client, now) {
                    Ok(()) => return,
                    Err(status) => Err(status),
                }
            }
            (Some(world), _) => world.nodes(),
        };
        self.respond_of_world_with(key, response, now);
    }

    fn respond_of_world_with(&mut self, key: usize, response: Response, now: Instant) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        match response {
            Ok(body) => connection.respond(Status::Ok, sessions::CONTENT_TYPE, body, now),
            Err(status) => connection.refuse(status, &self.hosts, now),
        }
    }

    #[cfg(feature = "cluster")]
    fn poll_accounts(&mut self, now: Instant) {
        let Some(world) = &mut self.world else { return };
        for ((key, accepted_at), response) in world.poll(now) {
            let is_waiting = |one: &HttpConnection| {
                one.accepted_at == accepted_at && one.pending_request().is_some()
            };
            if self.connections.get(key).is_some_and(is_waiting) {
                self.respond_of_world_with(key, response, now);
            }
        }
    }

    fn health(&self) -> (Status, &'static str) {
        if self.server.is_shutting_down() {
            return (Status::Unavailable, "shutting down\n");
        }
        // A panic in the game's function must not end the port.
        let is_ready = (self.is_ready.as_ref()).is_none_or(|ready| guarded(ready).unwrap_or(false));
        if is_ready {
            (Status::Ok, "ok\n")
        } else {
            (Status::Unavailable, "not ready\n")
        }
    }

    /// Ends the pending snapshot if the workers have answered, and begins one if a connection needs it.
    fn poll_snapshot(&mut self, now: Instant) {
        if let Some(pending) = &mut self.pending_snapshot {
            let sessions = match pending.snapshot.poll() {
                Ok(Some(sessions)) => Some(sessions),
                Ok(None) if !pending.timeout.is_over(now) => return,
                Ok(None) | Err(_) => None,
            };
            let clients = std::mem::take(&mut pending.clients);
            self.pending_snapshot = None;
            self.respond_with_sessions(&clients, sessions.as_deref(), now);
        }
        let clients: Vec<ClientKey> = (self.connections.iter())
            .filter(|(_, one)| {
                (one.pending_request())
                    .is_some_and(|request| matches!(request.route, Route::Sessions(_)))
            })
            .map(|(key, one)| (key, one.accepted_at))
            .collect();
        if clients.is_empty() {
            return;
        }
        // `None` also while the workers owe an answer to a snapshot that was given up.
        let snapshot = (self.has_room_for_list())
            .then(|| self.server.snapshot())
            .flatten();
        match snapshot {
            Some(snapshot) => {
                self.pending_snapshot = Some(PendingSnapshot {
                    snapshot,
                    timeout: AnswerTimeout::new(now),
                    clients,
                });
            }
            None => self.respond_with_sessions(&clients, None, now),
        }
    }

    fn respond_with_sessions(
        &mut self,
        clients: &[ClientKey],
        sessions: Option<&[SessionInfo]>,
        now: Instant,
    ) {
        // Requests for the same selection share one text.
        let mut bodies: BTreeMap<Selection, Option<Rc<[u8]>>> = BTreeMap::new();
        for (key, accepted_at) in clients {
            let Some(connection) =
                (self.connections.get_mut(*key)).filter(|one| one.accepted_at == *accepted_at)
            else {
                continue;
            };
            let Some(&Route::Sessions(selection)) =
                (connection.pending_request()).map(|request| &request.route)
            else {
                continue;
            };
            let body = bodies.entry(selection).or_insert_with(|| {
                let json = sessions::to_json(sessions?, selection, now)
                    .inspect_err(|error| log::error!("/sessions failed: {error}"));
                json.ok().map(Rc::from)
            });
            match body {
                Some(body) => {
                    let body = Rc::clone(body);
                    connection.respond(Status::Ok, sessions::CONTENT_TYPE, body, now);
                }
                None => connection.refuse(Status::Unavailable, &self.hosts, now),
            }
        }
        let written = bodies.values().flatten();
        self.lists.extend(written.map(Rc::downgrade));
    }
}

/// The live page of a game of this name. With `has_cluster` the page asks for the nodes.
fn page_of(name: &str, has_cluster: bool) -> Vec<u8> {
    let escaped = (name.replace('&', "&amp;"))
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    PAGE.replace("{{cluster}}", if has_cluster { "true" } else { "false" })
        .replace("{{name}}", &escaped)
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::reason::Kick;
    use crate::protocol::packet::Packet;
    use crate::server::Server;
    use crate::session::{Context, Session};
    use crate::testing::{SimServer, wait_until};
    use std::io::Write;

    struct Silent;

    impl Session for Silent {
        fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
            Ok(())
        }
    }

    /// The port of a server whose worker runs when a test lets it, with a request for the sessions.
    fn with_request(now: Instant) -> (SimServer<Silent>, Service, std::net::TcpStream) {
        let server = SimServer::start(1, Server::builder().workers(1), |_| Silent);
        let port = Port::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let mut client = std::net::TcpStream::connect(port.local_addr).unwrap();
        client.write_all(b"GET /sessions HTTP/1.0\r\n\r\n").unwrap();
        let mut service = Service::new(
            port,
            server.handle().clone(),
            super::super::Admin::builder(),
        );
        wait_until("the request is read", || {
            service.accept_batch(now);
            (service.connections.iter_mut()).for_each(|(_, one)| one.is_ready = true);
            service.advance_connections(now);
            is_pending(&service)
        });
        service.poll_snapshot(now);
        (server, service, client)
    }

    fn is_pending(service: &Service) -> bool {
        let mut connections = service.connections.iter();
        connections.any(|(_, one)| one.pending_request().is_some())
    }

    #[test]
    fn stall_of_the_process_takes_no_time_from_the_workers() {
        let mut now = Instant::now();
        let (mut server, mut service, _client) = with_request(now);
        now += Duration::from_secs(3);
        service.poll_snapshot(now);
        assert!(is_pending(&service), "the worker could not answer");
        server.advance(Duration::ZERO);
        service.poll_snapshot(now + ANSWER_CHECK);
        assert!(!is_pending(&service) && service.lists.len() == 1);
    }

    #[test]
    fn worker_that_does_not_answer_is_given_up_after_the_timeout() {
        let began = Instant::now();
        let (_server, mut service, _client) = with_request(began);
        let mut now = began;
        while now + ANSWER_CHECK < began + ANSWER_TIMEOUT {
            now += ANSWER_CHECK;
            service.poll_snapshot(now);
            assert!(is_pending(&service), "after {:?}", now - began);
        }
        service.poll_snapshot(now + ANSWER_CHECK);
        assert!(!is_pending(&service) && service.lists.is_empty());
    }

    #[test]
    fn the_name_of_a_game_is_text_on_its_page() {
        let page = String::from_utf8(page_of("<b>Tom & Jerry</b>", true)).unwrap();
        assert!(page.contains("<title>&lt;b&gt;Tom &amp; Jerry&lt;/b&gt;</title>"));
        assert!(!page.contains("<b>") && !page.contains("{{"));
    }
}
