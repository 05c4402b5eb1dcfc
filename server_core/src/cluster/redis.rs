//! Redis, or Valkey, as the broker of a link: one connection, one thread that reads.
//!
//! The crate `redis` reads the URL, and encodes and decodes the protocol (RESP3: replies and messages come on one
//! connection). Its own blocking `Connection` is not used: a read of it cannot be interrupted by a request, and a
//! read with a timeout may lose a part of a message. Here a thread blocks in the read, and another thread
//! writes to the same socket, or shuts the socket down.

use super::broker::{Broker, LOGIN_TTL, Reply, Request, lease_key, login_key};
use super::link::{CONNECT_TIMEOUT, Event};
use super::picture::LEASE;
use super::stream::{Stream, Trust, time_left};
use crate::base::start;
use redis::{
    Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Parser, PushKind, Value, cmd,
};
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The largest reply or message. A larger one ends the connection.
const MAX_VALUE_BYTES: usize = 1 << 20;

/// The code of the error with which a replica answers a write. After a failover the old broker is a replica, and its
/// connections stay open.
const READ_ONLY: &str = "READONLY";

/// Takes the events of a connection, on the thread that reads.
pub type Events = dyn Fn(u64, Event<'_>) + Send + Sync;

/// A Redis server as the broker of one link.
#[derive(Debug)]
pub struct Redis {
    /// Connections to begin. `None` after the drop has begun.
    orders: Option<Sender<u64>>,
    current: Arc<Mutex<Current>>,
    reader: Option<JoinHandle<()>>,
    failed: Option<u64>,
}

/// The connection that the link wants. A connection that completes after the link has given it up is closed.
#[derive(Debug, Default)]
struct Current {
    /// `None` after a close.
    wanted: Option<u64>,
    /// The socket of this connection, for writes, when it is complete.
    socket: Option<Arc<Stream>>,
    /// The drop has begun: the reader logs no error when the connection ends.
    has_left: bool,
}

impl Redis {
    /// Reads the URL and starts the thread. No connection is made yet.
    ///
    /// # Errors
    /// As [`parse`]; the error of the system if the thread cannot be started.
    pub fn new(url: &str, trust: Option<Trust>, events: Arc<Events>) -> io::Result<Self> {
        let info = parse(url, trust.is_some())?;
        let (orders, receiver) = mpsc::channel();
        let current = Arc::default();
        let mut reader = Reader {
            info,
            trust,
            events,
            current: Arc::clone(&current),
            addrs: VecDeque::new(),
        };
        let reader = start::spawn("cluster-read", move || reader.run(&receiver))?;
        Ok(Self {
            orders: Some(orders),
            current,
            reader: Some(reader),
            failed: None,
        })
    }

    /// The connection that could not take its requests, if there is a new one.
    pub fn take_failed(&mut self) -> Option<u64> {
        self.failed.take()
    }

    fn shut_down(&self, connection: Option<u64>) {
        let mut current = lock(&self.current);
        if connection.is_some() && connection != current.wanted {
            return;
        }
        current.wanted = None;
        if let Some(socket) = current.socket.take() {
            // The read of the other thread ends.
            socket.shut_down();
        }
    }
}

/// Reads the URL of a broker.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for a URL that is not one of a Redis server, or if one of URL and `has_trust` is for
/// TLS and the other one is not.
pub fn parse(url: &str, has_trust: bool) -> io::Result<ConnectionInfo> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidInput, error);
    // The crate reads a URL for TLS only with its own TLS, which is not used.
    let (url, is_tls) = match url.split_once("://") {
        Some(("rediss" | "valkeys", rest)) => (format!("redis://{rest}"), true),
        _ => (url.to_owned(), false),
    };
    if is_tls != has_trust {
        let text = match (is_tls, cfg!(feature = "tls")) {
            (true, false) => "rediss:// needs the feature `tls`",
            (true, true) => "rediss:// needs the certificates to trust: `ClusterBuilder::tls`",
            (false, _) => "the broker's URL is not rediss://, and there are certificates to trust",
        };
        return Err(invalid(text.into()));
    }
    (url.into_connection_info())
        .map_err(|error| invalid(format!("the URL of the broker is not valid: {error}")))
}

impl Broker for Redis {
    fn connect(&mut self, connection: u64) {
        lock(&self.current).wanted = Some(connection);
        if let Some(orders) = &self.orders {
            // Without a receiver, the thread has panicked. The link tries again and again.
            let _ = orders.send(connection);
        }
    }

    fn close(&mut self, connection: u64) {
        self.shut_down(Some(connection));
    }

    fn send(&mut self, requests: Vec<Request>, timeout: Duration) {
        let mut bytes = Vec::with_capacity(128 * requests.len());
        for request in requests {
            command(request).write_packed_command(&mut bytes);
        }
        let (connection, socket) = {
            let current = lock(&self.current);
            (current.wanted, current.socket.clone())
        };
        // Without a socket the connection is lost, and the link learns that from the other thread.
        let Some(socket) = socket else { return };
        if let Err(error) = socket.write_all(&bytes, timeout) {
            log::warn!("cluster: the broker does not take requests: {error}");
            self.shut_down(connection);
            self.failed = connection;
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.orders = None;
        lock(&self.current).has_left = true;
        self.shut_down(None);
        // The thread may be in the middle of a connect, which takes 1 s and the time of the name's resolution.
        drop(self.reader.take());
    }
}

/// The thread that connects and reads.
struct Reader {
    info: ConnectionInfo,
    trust: Option<Trust>,
    events: Arc<Events>,
    current: Arc<Mutex<Current>>,
    /// Addresses of the broker that have not failed since the name was resolved. A resolution that takes longer
    /// than the link waits is of use to the next connection.
    addrs: VecDeque<SocketAddr>,
}

impl Reader {
    fn run(&mut self, orders: &Receiver<u64>) {
        let mut logged: Option<String> = None;
        while let Ok(connection) = orders.recv() {
            if !self.is_wanted(connection) {
                continue;
            }
            let error = self.serve(connection).unwrap_or_else(|error| error);
            // One line for each new cause: a broker that is away is tried twice a second.
            let text = error.to_string();
            let has_left = lock(&self.current).has_left;
            if !has_left && logged.as_ref() != Some(&text) {
                log::warn!(
                    "cluster: no connection to the broker at {}: {text}",
                    self.info.addr()
                );
                logged = Some(text);
            }
            (self.events)(connection, Event::Lost);
        }
    }

    fn is_wanted(&self, connection: u64) -> bool {
        lock(&self.current).wanted == Some(connection)
    }

    /// Serves one connection to its end. `Ok` has the reason for the end of a connection that was complete.
    fn serve(&mut self, connection: u64) -> io::Result<io::Error> {
        self.resolve()?;
        // One deadline for all addresses and the greeting: the link does not wait longer.
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let socket = Arc::new(self.connect(deadline)?);
        let mut parser = Parser::new();
        if let Err(error) = self.greet(&mut parser, &socket, deadline) {
            self.addrs.pop_front();
            return Err(error);
        }
        socket.clear_deadline()?;
        {
            let mut current = lock(&self.current);
            if current.wanted != Some(connection) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            current.socket = Some(Arc::clone(&socket));
        }
        (self.events)(connection, Event::Connected);
        let error = self.read_all(connection, &mut parser, &socket);
        let mut current = lock(&self.current);
        if current.wanted == Some(connection) {
            current.socket = None;
        }
        // The name may have another address by now.
        self.addrs.clear();
        Ok(error)
    }

    fn greet(&self, parser: &mut Parser, socket: &Stream, deadline: Instant) -> io::Result<()> {
        let mut greeting = Vec::new();
        let settings = self.info.redis_settings();
        let mut hello = cmd("HELLO");
        hello.arg(3);
        if let Some(password) = settings.password() {
            let user = settings.username().unwrap_or("default");
            hello.arg("AUTH").arg(user).arg(password);
        }
        hello.write_packed_command(&mut greeting);
        let mut replies = 1;
        if settings.db() > 0 {
            replies += 1;
            cmd("SELECT")
                .arg(settings.db())
                .write_packed_command(&mut greeting);
        }
        socket.write_all(&greeting, time_left(deadline)?)?;
        for _ in 0..replies {
            match read(parser, socket, Some(deadline))? {
                Value::ServerError(error) => return Err(io::Error::other(error.to_string())),
                Value::Map(facts) if is_replica(&facts) => {
                    return Err(io::Error::other("it is a replica, which takes no writes"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_all(&self, connection: u64, parser: &mut Parser, socket: &Stream) -> io::Error {
        let mut has_logged = false;
        loop {
            let value = match read(parser, socket, None) {
                Ok(value) => value,
                Err(error) => return error,
            };
            if let Value::ServerError(error) = &value {
                if error.code() == READ_ONLY {
                    return io::Error::other(error.to_string());
                }
                if !std::mem::replace(&mut has_logged, true) {
                    log::warn!("cluster: the broker refuses a request: {error}");
                }
            }
            match value {
                Value::Push {
                    kind: PushKind::Message,
                    data,
                } => {
                    if let [Value::BulkString(channel), Value::BulkString(payload)] = &data[..] {
                        (self.events)(connection, Event::Message(channel, payload));
                    }
                }
                Value::Push {
                    kind: PushKind::Subscribe | PushKind::Unsubscribe,
                    ..
                } => {
                    (self.events)(connection, Event::Reply(Reply::Done));
                }
                Value::Push { .. } => {}
                value => (self.events)(connection, Event::Reply(reply(value))),
            }
        }
    }

    /// Resolves the name of the broker, if no address is left.
    fn resolve(&mut self) -> io::Result<()> {
        if let ConnectionAddr::Tcp(host, port) = self.info.addr()
            && self.addrs.is_empty()
        {
            self.addrs = (&**host, *port).to_socket_addrs()?.collect();
        }
        Ok(())
    }

    fn connect(&mut self, deadline: Instant) -> io::Result<Stream> {
        match self.info.addr() {
            ConnectionAddr::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                // A connect waits as long as a write: a stopped server's backlog may be full.
                socket.set_write_timeout(Some(CONNECT_TIMEOUT))?;
                socket.connect(&SockAddr::unix(path)?)?;
                Stream::new(socket, None, "", deadline)
            }
            ConnectionAddr::Tcp(host, _) => {
                let mut error = io::ErrorKind::AddrNotAvailable.into();
                while let Some(addr) = self.addrs.front().copied() {
                    let connected = time_left(deadline).and_then(|left| {
                        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
                        socket.connect_timeout(&addr.into(), left)?;
                        socket.set_tcp_nodelay(true)?;
                        Stream::new(socket, self.trust.as_ref(), host, deadline)
                    });
                    match connected {
                        Ok(socket) => return Ok(socket),
                        Err(refused) => error = refused,
                    }
                    // The next connection begins with another address.
                    self.addrs.pop_front();
                    if Instant::now() >= deadline {
                        break;
                    }
                }
                Err(error)
            }
            other => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                other.to_string(),
            )),
        }
    }
}

/// Reads one reply or message.
fn read(parser: &mut Parser, socket: &Stream, deadline: Option<Instant>) -> io::Result<Value> {
    let reader = Bounded {
        socket,
        deadline,
        left: MAX_VALUE_BYTES,
    };
    parser.parse_value(reader).map_err(io::Error::other)
}

/// Ends the stream behind a number of bytes, or at a deadline.
struct Bounded<'a> {
    socket: &'a Stream,
    deadline: Option<Instant>,
    left: usize,
}

impl Read for Bounded<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let text = format!("a value of more than {MAX_VALUE_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let read = self.socket.read(bytes, self.deadline)?;
        self.left = self.left.saturating_sub(read);
        Ok(read)
    }
}

fn reply(value: Value) -> Reply {
    match value {
        Value::BulkString(value) => Reply::Value(value),
        Value::Array(values) => {
            let value = |value| match value {
                Value::BulkString(value) => Some(value),
                _ => None,
            };
            Reply::Values(values.into_iter().map(value).collect())
        }
        Value::Int(number) => Reply::Count(number.try_into().unwrap_or_default()),
        Value::ServerError(_) => Reply::Error,
        _ => Reply::Done,
    }
}

/// Whether the answer to `HELLO` says that the server is a replica.
fn is_replica(facts: &[(Value, Value)]) -> bool {
    let text = |value: &Value| match value {
        Value::SimpleString(text) => text.clone(),
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    };
    let mut facts = facts.iter();
    facts.any(|(name, value)| text(name) == "role" && ["replica", "slave"].contains(&&*text(value)))
}

fn command(request: Request) -> Cmd {
    /// Deletes a key that has a value, in one step.
    const DELETE_IF: &str =
        "if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) end return 0";
    /// Sets a key that has a value, or none, in one step.
    const REPLACE_IF: &str = "local old=redis.call('GET',KEYS[1]) if not old or old==ARGV[1] then \
         redis.call('SET',KEYS[1],ARGV[2],'PX',ARGV[3]) end return old";
    let name = match &request {
        Request::Subscribe(_) => "SUBSCRIBE",
        Request::Unsubscribe(_) => "UNSUBSCRIBE",
        Request::Publish(..) => "PUBLISH",
        Request::RenewLease(_) | Request::SetLogin(..) => "SET",
        Request::DropLease(_) => "DEL",
        Request::GetLease(_) => "GET",
        Request::GetLogins(_) => "MGET",
        Request::ReplaceLogin(..) | Request::DropLogin(..) => "EVAL",
    };
    let mut command = cmd(name);
    match request {
        Request::Subscribe(channel) | Request::Unsubscribe(channel) => {
            command.arg(channel.to_string());
        }
        Request::Publish(channel, message) => {
            command.arg(channel.to_string()).arg(message);
        }
        Request::RenewLease(node) => {
            command
                .arg(lease_key(node))
                .arg(1)
                .arg("PX")
                .arg(LEASE.as_millis() as u64);
        }
        Request::GetLease(node) | Request::DropLease(node) => {
            command.arg(lease_key(node));
        }
        Request::SetLogin(account, value) => {
            let ttl = LOGIN_TTL.as_millis() as u64;
            command
                .arg(login_key(&account))
                .arg(value)
                .arg("PX")
                .arg(ttl)
                .arg("GET");
        }
        Request::ReplaceLogin(account, from, to) => {
            command
                .arg(REPLACE_IF)
                .arg(1)
                .arg(login_key(&account))
                .arg(from)
                .arg(to)
                .arg(LOGIN_TTL.as_millis() as u64);
        }
        Request::GetLogins(accounts) => {
            for account in accounts {
                command.arg(login_key(&account));
            }
        }
        Request::DropLogin(account, value) => {
            command
                .arg(DELETE_IF)
                .arg(1)
                .arg(login_key(&account))
                .arg(value);
        }
    }
    command
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // One value, set in one step: a panic elsewhere cannot leave it half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::broker::{Broker, Channel};
    use super::super::envelope::Incarnation;
    use super::*;
    use crate::groups::id::GroupId;
    use crate::testing::Redis as RedisServer;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    const WAIT: Duration = Duration::from_secs(20);
    const SECOND: Duration = Duration::from_secs(1);

    fn setup() -> (TcpListener, Redis, Receiver<(u64, bool)>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let (sender, events) = mpsc::channel();
        let events_of_reader = move |connection, event: Event<'_>| {
            let _ = sender.send((connection, matches!(event, Event::Connected)));
        };
        let redis = Redis::new(&url, None, Arc::new(events_of_reader)).unwrap();
        (listener, redis, events)
    }

    /// Accepts a connection, and reads the first bytes of its greeting.
    fn accept(listener: &TcpListener) -> TcpStream {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 256]).unwrap() > 0);
        stream
    }

    #[test]
    fn connection_that_completes_late_leaves_room_for_the_next() {
        let (listener, mut redis, events) = setup();
        redis.connect(1);
        let mut late = accept(&listener);
        // The link has given up.
        redis.close(1);
        late.write_all(b"+OK\r\n").unwrap();
        redis.connect(2);
        redis.close(2);
        redis.connect(4);
        let mut next = accept(&listener);
        next.write_all(b"+OK\r\n").unwrap();
        loop {
            match events.recv_timeout(WAIT).expect("connection 4 completes") {
                (4, is_connected) => break assert!(is_connected),
                (number, is_connected) => assert!(!is_connected, "{number} is not wanted"),
            }
        }
    }

    #[test]
    fn peer_that_takes_no_bytes_fails_a_write_within_its_time() {
        let (listener, mut redis, events) = setup();
        redis.connect(1);
        let mut peer = accept(&listener);
        peer.write_all(b"+OK\r\n").unwrap();
        assert_eq!(events.recv_timeout(WAIT), Ok((1, true)));
        let channel = super::super::broker::Channel::Everybody;
        let began = Instant::now();
        redis.send(vec![Request::Publish(channel, vec![0; 64 << 20])], SECOND);
        assert!(began.elapsed() >= Duration::from_millis(900));
        assert_eq!(redis.take_failed(), Some(1));
        assert_eq!(events.recv_timeout(WAIT), Ok((1, false)));
    }

    /// The first line of the answer to a command.
    fn command(server: &RedisServer, line: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(server.url().trim_start_matches("unix://"))?;
        stream.set_read_timeout(Some(WAIT))?;
        stream.write_all(format!("{line}\r\n").as_bytes())?;
        let mut answer = [0; 256];
        let read = stream.read(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        Ok(answer.lines().next().unwrap_or_default().to_owned())
    }

    fn connect(server: &RedisServer, query: &str) -> (Redis, Receiver<Seen>) {
        let url = format!("{}{query}", server.url());
        let (sender, events) = mpsc::channel();
        let seen = move |_, event: Event<'_>| {
            let seen = match event {
                Event::Connected => Seen::Connected,
                Event::Lost => Seen::Lost,
                Event::Message(channel, payload) => {
                    Seen::Message(Channel::parse(channel), payload.to_vec())
                }
                Event::Reply(reply) => Seen::Reply(reply),
            };
            let _ = sender.send(seen);
        };
        let mut redis = Redis::new(&url, None, Arc::new(seen)).unwrap();
        redis.connect(1);
        assert_eq!(events.recv_timeout(WAIT), Ok(Seen::Connected));
        (redis, events)
    }

    #[derive(Debug, PartialEq)]
    enum Seen {
        Connected,
        Lost,
        Message(Option<Channel>, Vec<u8>),
        Reply(Reply),
    }

    #[test]
    fn real_broker_answers_each_request_as_the_fake_one_of_the_simulation() {
        let Some(server) = RedisServer::start() else {
            return;
        };
        // A Redis before 6.2 has no `SET .. GET`.
        let probe = command(&server, "SET probe 1 GET").unwrap();
        if probe.starts_with("-ERR syntax") {
            eprintln!("NOT RUN: redis-server is older than 6.2: {probe}");
            return;
        }
        let (mut redis, events) = connect(&server, "");
        let mut check = |request: Request, reply: Reply| {
            let text = format!("{request:?}");
            redis.send(vec![request], SECOND);
            let seen = events.recv_timeout(WAIT);
            assert_eq!(seen, Ok(Seen::Reply(reply)), "{text}");
        };
        let value = |number: u8| vec![number; 24];
        let (everybody, node) = (Channel::Everybody, Incarnation(u64::MAX - 1));
        let publish = |channel| Request::Publish(channel, b"hi".to_vec());
        let set = |account: &str, number| Request::SetLogin(account.into(), value(number));
        let replace =
            |account: &str, from, to| Request::ReplaceLogin(account.into(), value(from), value(to));
        let drop_key = |account: &str, number| Request::DropLogin(account.into(), value(number));
        let get = || Request::GetLogins(vec!["ada".into(), "bob".into()]);
        let values =
            |ada, bob| Reply::Values([ada, bob].map(|one: Option<u8>| one.map(value)).into());

        check(publish(everybody), Reply::Count(0));
        check(Request::Subscribe(everybody), Reply::Done);
        check(Request::Unsubscribe(everybody), Reply::Done);
        check(publish(everybody), Reply::Count(0));

        check(Request::GetLease(node), Reply::Done);
        check(Request::RenewLease(node), Reply::Done);
        check(Request::GetLease(node), Reply::Value(b"1".to_vec()));
        check(Request::DropLease(node), Reply::Count(1));
        check(Request::GetLease(node), Reply::Done);

        check(get(), values(None, None));
        check(set("ada", 1), Reply::Done);
        check(set("ada", 2), Reply::Value(value(1)));
        check(get(), values(Some(2), None));
        check(replace("ada", 1, 3), Reply::Value(value(2)));
        check(get(), values(Some(2), None));
        check(replace("ada", 2, 3), Reply::Value(value(2)));
        check(replace("bob", 1, 4), Reply::Done);
        check(get(), values(Some(3), Some(4)));
        check(drop_key("ada", 2), Reply::Count(0));
        check(drop_key("ada", 3), Reply::Count(1));
        check(get(), values(None, Some(4)));
        let ttl = command(&server, "PTTL gs1:login:bob").unwrap();
        let ttl: u64 = ttl.trim_start_matches(':').parse().unwrap();
        assert!(ttl > LOGIN_TTL.as_millis() as u64 / 2, "{ttl}");
    }

    #[test]
    fn replies_and_messages_of_one_connection_come_in_order_to_its_end() {
        let Some(server) = RedisServer::start() else {
            return;
        };
        let (mut redis, events) = connect(&server, "");
        let channel = Channel::Group(GroupId::new(1, 7));
        redis.send(vec![Request::Subscribe(channel)], SECOND);
        assert_eq!(events.recv_timeout(WAIT), Ok(Seen::Reply(Reply::Done)));
        for number in 0..1_000_u32 {
            let message = number.to_le_bytes().to_vec();
            redis.send(vec![Request::Publish(channel, message.clone())], SECOND);
            if number % 100 == 99 {
                let mut seen: Vec<Seen> = (0..200)
                    .map(|_| events.recv_timeout(WAIT).unwrap())
                    .collect();
                let count = Seen::Reply(Reply::Count(1));
                assert_eq!(seen.iter().filter(|one| **one == count).count(), 100);
                seen.retain(|one| *one != count);
                assert_eq!(seen[99], Seen::Message(Some(channel), message));
            }
        }
        drop(server);
        assert_eq!(events.recv_timeout(WAIT), Ok(Seen::Lost));
    }

    #[test]
    fn broker_that_becomes_a_replica_is_lost() {
        let Some(server) = RedisServer::start() else {
            return;
        };
        let (mut redis, events) = connect(&server, "");
        assert_eq!(command(&server, "REPLICAOF 127.0.0.1 1").unwrap(), "+OK");
        redis.send(vec![Request::RenewLease(Incarnation(7))], SECOND);
        assert_eq!(events.recv_timeout(WAIT), Ok(Seen::Lost));
        redis.close(1);
        redis.connect(2);
        assert_eq!(
            events.recv_timeout(WAIT),
            Ok(Seen::Lost),
            "a replica is refused"
        );
        assert_eq!(command(&server, "REPLICAOF NO ONE").unwrap(), "+OK");
        redis.close(2);
        redis.connect(3);
        assert_eq!(events.recv_timeout(WAIT), Ok(Seen::Connected));
    }

    #[test]
    fn broker_that_allows_neither_a_channel_nor_select_is_used_and_refuses_one_request() {
        let Some(server) = RedisServer::start() else {
            return;
        };
        let acl = "ACL SETUSER game on nopass ~gs1:* resetchannels &gs1:everybody +@all -select";
        assert_eq!(command(&server, acl).unwrap(), "+OK");
        let (mut redis, events) = connect(&server, "?user=game&pass=x");
        let group = Channel::Group(GroupId::new(1, 7));
        for (channel, reply) in [(group, Reply::Error), (Channel::Everybody, Reply::Done)] {
            redis.send(vec![Request::Subscribe(channel)], SECOND);
            assert_eq!(events.recv_timeout(WAIT), Ok(Seen::Reply(reply)));
        }
        // Another database needs SELECT.
        let url = format!("{}?db=1&user=game&pass=x", server.url());
        let (sender, refused) = mpsc::channel();
        let is_connected = move |_, event: Event<'_>| {
            let _ = sender.send(matches!(event, Event::Connected));
        };
        let mut other = Redis::new(&url, None, Arc::new(is_connected)).unwrap();
        other.connect(1);
        assert_eq!(refused.recv_timeout(WAIT), Ok(false));
    }
}
