//! Redis, or Valkey, as the broker of a link: one connection, one thread that reads.
//!
//! The crate `redis` reads the URL, and encodes and decodes the protocol (RESP3: replies and messages come on one
//! connection). Its own blocking `Connection` is not used: a read of it cannot be interrupted by a request, and a
//! read with a timeout may lose a part of a message. Here a thread blocks in the read, and another thread
//! writes to a second descriptor of the same socket, or shuts the socket down.

use super::broker::{Broker, LOGIN_TTL, Reply, Request, lease_key, login_key};
use super::link::{CONNECT_TIMEOUT, Event};
use super::picture::LEASE;
use crate::base::start;
use redis::{
    Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Parser, PushKind, Value, cmd,
};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{Shutdown, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A write that takes longer ends the connection.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// The largest reply or message. A larger one ends the connection.
const MAX_VALUE_BYTES: usize = 1 << 20;

/// Takes the events of a connection, on the thread that reads.
pub type Events = dyn Fn(u64, Event<'_>) + Send + Sync;

/// A Redis server as the broker of one link.
#[derive(Debug)]
pub struct Redis {
    /// Connections to begin. `None` after the drop has begun.
    orders: Option<Sender<u64>>,
    /// The current connection, for writes.
    socket: Arc<Mutex<Option<(u64, Socket)>>>,
    reader: Option<JoinHandle<()>>,
    failed: Option<u64>,
}

impl Redis {
    /// Reads the URL and starts the thread. No connection is made yet.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a URL that is not one of a Redis server, or that asks for TLS; the error
    /// of the system if the thread cannot be started.
    pub fn new(url: &str, events: Arc<Events>) -> io::Result<Self> {
        let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidInput, error);
        let info = (url.into_connection_info())
            .map_err(|error| invalid(format!("the URL of the broker is not valid: {error}")))?;
        if let ConnectionAddr::TcpTls { .. } = info.addr() {
            return Err(invalid(
                "the broker's URL asks for TLS, which is not supported".into(),
            ));
        }
        let (orders, receiver) = mpsc::channel();
        let socket = Arc::default();
        let reader = Reader {
            info,
            events,
            socket: Arc::clone(&socket),
        };
        let reader = start::spawn("cluster-read", move || reader.run(&receiver))?;
        Ok(Self {
            orders: Some(orders),
            socket,
            reader: Some(reader),
            failed: None,
        })
    }

    /// The connection that could not take its requests, if there is a new one.
    pub fn take_failed(&mut self) -> Option<u64> {
        self.failed.take()
    }

    fn shut_down(&self, connection: Option<u64>) {
        let mut socket = lock(&self.socket);
        if let Some((number, open)) = &*socket
            && connection.is_none_or(|connection| connection == *number)
        {
            // The read of the other thread ends.
            let _ = open.shutdown(Shutdown::Both);
            *socket = None;
        }
    }
}

impl Broker for Redis {
    fn connect(&mut self, connection: u64) {
        if let Some(orders) = &self.orders {
            // Without a receiver, the thread has panicked. The link tries again and again.
            let _ = orders.send(connection);
        }
    }

    fn close(&mut self, connection: u64) {
        self.shut_down(Some(connection));
    }

    fn send(&mut self, requests: Vec<Request>) {
        let mut bytes = Vec::with_capacity(128 * requests.len());
        for request in requests {
            command(request).write_packed_command(&mut bytes);
        }
        // A clone, so that a close does not wait for a write.
        let Some((connection, socket)) = (lock(&self.socket).as_ref())
            .and_then(|(number, socket)| Some((*number, socket.try_clone().ok()?)))
        else {
            return;
        };
        if let Err(error) = write_all(&socket, &bytes) {
            log::warn!("cluster: the broker does not take requests: {error}");
            self.shut_down(Some(connection));
            self.failed = Some(connection);
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.orders = None;
        self.shut_down(None);
        // The thread may be in the middle of a connect, which takes 2 s and the time of the name's resolution.
        drop(self.reader.take());
    }
}

/// Writes all bytes within [`WRITE_TIMEOUT`].
fn write_all(mut socket: &Socket, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + WRITE_TIMEOUT;
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if !bytes.is_empty() && Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

/// The thread that connects and reads.
struct Reader {
    info: ConnectionInfo,
    events: Arc<Events>,
    socket: Arc<Mutex<Option<(u64, Socket)>>>,
}

impl Reader {
    fn run(&self, orders: &Receiver<u64>) {
        let mut logged: Option<String> = None;
        while let Ok(connection) = orders.recv() {
            let error = self.serve(connection).unwrap_or_else(|error| error);
            // One line for each new cause: a broker that is away is tried twice a second.
            let text = error.to_string();
            if logged.as_ref() != Some(&text) {
                log::warn!(
                    "cluster: no connection to the broker at {}: {text}",
                    self.info.addr()
                );
                logged = Some(text);
            }
            (self.events)(connection, Event::Lost);
        }
    }

    /// Serves one connection to its end. `Ok` has the reason for the end of a connection that was complete.
    fn serve(&self, connection: u64) -> io::Result<io::Error> {
        let mut socket = self.connect()?;
        socket.set_read_timeout(Some(CONNECT_TIMEOUT))?;
        socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let mut parser = Parser::new();
        let mut greeting = Vec::new();
        let settings = self.info.redis_settings();
        let mut hello = cmd("HELLO");
        hello.arg(3);
        if let Some(password) = settings.password() {
            let user = settings.username().unwrap_or("default");
            hello.arg("AUTH").arg(user).arg(password);
        }
        hello.write_packed_command(&mut greeting);
        cmd("SELECT")
            .arg(settings.db())
            .write_packed_command(&mut greeting);
        socket.write_all(&greeting)?;
        for _ in 0..2 {
            if let Value::ServerError(error) = read(&mut parser, &mut socket)? {
                return Err(io::Error::other(error.to_string()));
            }
        }
        socket.set_read_timeout(None)?;
        *lock(&self.socket) = Some((connection, socket.try_clone()?));
        (self.events)(connection, Event::Connected);
        let error = self.read_all(connection, &mut parser, &mut socket);
        let mut current = lock(&self.socket);
        if current
            .as_ref()
            .is_some_and(|(number, _)| *number == connection)
        {
            *current = None;
        }
        Ok(error)
    }

    fn read_all(&self, connection: u64, parser: &mut Parser, socket: &mut Socket) -> io::Error {
        let mut has_logged = false;
        loop {
            let value = match read(parser, socket) {
                Ok(value) => value,
                Err(error) => return error,
            };
            if let Value::ServerError(error) = &value
                && !std::mem::replace(&mut has_logged, true)
            {
                log::warn!("cluster: the broker refuses a request: {error}");
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

    fn connect(&self) -> io::Result<Socket> {
        match self.info.addr() {
            ConnectionAddr::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                // A connect waits as long as a write: a stopped server's backlog may be full.
                socket.set_write_timeout(Some(CONNECT_TIMEOUT))?;
                socket.connect(&SockAddr::unix(path)?)?;
                Ok(socket)
            }
            ConnectionAddr::Tcp(host, port) => {
                let mut error = io::ErrorKind::AddrNotAvailable.into();
                for addr in (&**host, *port).to_socket_addrs()? {
                    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
                    match socket.connect_timeout(&addr.into(), CONNECT_TIMEOUT) {
                        Ok(()) => {
                            socket.set_tcp_nodelay(true)?;
                            return Ok(socket);
                        }
                        Err(refused) => error = refused,
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
fn read(parser: &mut Parser, socket: &mut Socket) -> io::Result<Value> {
    let reader = Bounded {
        socket,
        left: MAX_VALUE_BYTES,
    };
    parser.parse_value(reader).map_err(io::Error::other)
}

/// Ends the stream behind a number of bytes.
struct Bounded<'a> {
    socket: &'a mut Socket,
    left: usize,
}

impl Read for Bounded<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let text = format!("a value of more than {MAX_VALUE_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let read = self.socket.read(bytes)?;
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
        Value::ServerError(_) => Reply::Error,
        _ => Reply::Done,
    }
}

fn command(request: Request) -> Cmd {
    /// Deletes a key that has a value, in one step.
    const DELETE_IF: &str =
        "if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) end return 0";
    let name = match &request {
        Request::Subscribe(_) => "SUBSCRIBE",
        Request::Unsubscribe(_) => "UNSUBSCRIBE",
        Request::Publish(..) => "PUBLISH",
        Request::RenewLease(_) | Request::SetLogin(..) => "SET",
        Request::DropLease(_) => "DEL",
        Request::GetLogins(_) => "MGET",
        Request::DropLogin(..) => "EVAL",
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
        Request::DropLease(node) => {
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
