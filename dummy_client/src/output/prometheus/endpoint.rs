//! An HTTP port for `--metrics-addr`: every request gets the latest metrics.
//!
//! The port has one thread. The run gives it a copy of its metrics once a second and waits for nothing.

use super::render;
use crate::error::Error;
use crate::report::Metrics;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The port, until it is dropped.
///
/// | limit | value | over it |
/// |---|---|---|
/// | connections at a time | 16 | a new connection replaces the oldest one |
/// | head of a request | 4 KiB | 431 |
/// | time for request and response | 2 s | the connection is closed |
pub struct MetricsEndpoint {
    addr: SocketAddr,
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    metrics: Mutex<Arc<Metrics>>,
    is_over: AtomicBool,
}

const MAX_CONNECTIONS: usize = 16;
const MAX_HEAD_BYTES: usize = 4 << 10;
const TIMEOUT: Duration = Duration::from_secs(2);
/// After an accept that failed, for a lack of descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const LISTENER: Token = Token(MAX_CONNECTIONS);
const WAKER: Token = Token(MAX_CONNECTIONS + 1);

impl MetricsEndpoint {
    /// Listens on an address; port 0 takes a free port.
    ///
    /// # Errors
    /// The address is taken or not of this machine. Exit status 1.
    pub fn start(addr: SocketAddr) -> Result<Self, Error> {
        let failed = |error: io::Error| Error::failure(format!("--metrics-addr {addr}: {error}"));
        Self::try_start(addr).map_err(failed)
    }

    fn try_start(addr: SocketAddr) -> io::Result<Self> {
        let mut port = Port::bind(addr)?;
        let addr = port.listener.local_addr()?;
        let waker = Waker::new(port.poll.registry(), WAKER)?;
        let shared = Arc::clone(&port.shared);
        let thread = thread::Builder::new().name("metrics".into());
        let thread = thread.spawn(move || port.run())?;
        Ok(Self {
            addr,
            shared,
            waker,
            thread: Some(thread),
        })
    }

    /// The address that the port listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Shows these metrics from now on.
    pub fn publish(&self, metrics: Metrics) {
        let metrics = Arc::new(metrics);
        // The lock is held for a copy of a pointer.
        let old = {
            let mut latest = lock(&self.shared);
            std::mem::replace(&mut *latest, metrics)
        };
        drop(old);
    }
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, Arc<Metrics>> {
    (shared.metrics.lock()).unwrap_or_else(PoisonError::into_inner)
}

impl Drop for MetricsEndpoint {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        // Without a waker the thread ends at its next event.
        if self.waker.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for MetricsEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsEndpoint")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

struct Port {
    listener: TcpListener,
    poll: Poll,
    connections: [Option<Connection>; MAX_CONNECTIONS],
    /// When to accept again after a failed accept.
    accept_at: Option<Instant>,
    shared: Arc<Shared>,
}

struct Connection {
    stream: TcpStream,
    opened_at: Instant,
    head: Vec<u8>,
    /// What is left of it; empty before the request is complete.
    response: Vec<u8>,
    written: usize,
    is_answered: bool,
}

impl Port {
    fn bind(addr: SocketAddr) -> io::Result<Self> {
        let mut listener = TcpListener::bind(addr)?;
        let poll = Poll::new()?;
        (poll.registry()).register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            listener,
            poll,
            connections: [const { None }; MAX_CONNECTIONS],
            accept_at: None,
            shared: Arc::default(),
        })
    }

    fn run(&mut self) {
        let mut events = Events::with_capacity(MAX_CONNECTIONS + 2);
        while !self.shared.is_over.load(Ordering::Acquire) {
            if let Err(error) = self.turn(&mut events) {
                log::warn!("the metrics port ends: {error}");
                return;
            }
        }
    }

    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        match self.poll.poll(events, self.timeout()) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let now = Instant::now();
        for event in &*events {
            match event.token() {
                LISTENER => self.accept(now),
                Token(slot) => self.drive(slot),
            }
        }
        // After the events: if this thread was not run in time, requests have come in time and are answered now.
        self.close_expired(now);
        if self.accept_at.is_some_and(|at| at <= now) {
            self.accept(now);
        }
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        let deadlines = self.connections.iter().flatten();
        let deadlines = deadlines.map(|connection| connection.opened_at + TIMEOUT);
        let next = deadlines.chain(self.accept_at).min()?;
        Some(next.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    fn close_expired(&mut self, now: Instant) {
        for connection in &mut self.connections {
            if (connection.as_ref()).is_some_and(|one| one.opened_at + TIMEOUT <= now) {
                *connection = None;
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        self.accept_at = None;
        // A peer that connects in a loop does not keep the others waiting.
        for _ in 0..MAX_CONNECTIONS {
            match self.listener.accept() {
                Ok((stream, _)) => self.take(stream, now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        // More connections may wait, without another event.
        self.accept_at = Some(now + ACCEPT_PAUSE);
    }

    fn take(&mut self, mut stream: TcpStream, now: Instant) {
        let free = self.connections.iter().position(Option::is_none);
        let oldest = || {
            let opened_at =
                |slot: &usize| self.connections[*slot].as_ref().map(|one| one.opened_at);
            (0..MAX_CONNECTIONS).min_by_key(opened_at).unwrap_or(0)
        };
        let slot = free.unwrap_or_else(oldest);
        self.connections[slot] = None;
        let both = Interest::READABLE | Interest::WRITABLE;
        let registered = (self.poll.registry()).register(&mut stream, Token(slot), both);
        if registered.is_ok() {
            self.connections[slot] = Some(Connection {
                stream,
                opened_at: now,
                head: Vec::new(),
                response: Vec::new(),
                written: 0,
                is_answered: false,
            });
            self.drive(slot);
        }
    }

    fn drive(&mut self, slot: usize) {
        let Some(Some(connection)) = self.connections.get_mut(slot) else {
            return;
        };
        if !connection.drive(&self.shared).unwrap_or(false) {
            self.connections[slot] = None;
        }
    }
}

impl Connection {
    /// Returns whether the connection goes on.
    fn drive(&mut self, shared: &Shared) -> io::Result<bool> {
        if !self.is_answered {
            let is_closed = self.read()?;
            let is_too_long = self.head.len() >= MAX_HEAD_BYTES;
            if !ends_head(&self.head) && !is_too_long {
                return Ok(!is_closed);
            }
            self.response = respond(&self.head, is_too_long, shared);
            self.is_answered = true;
        }
        self.write()
    }

    /// Returns whether the peer has closed its side.
    fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 1024];
        while !ends_head(&self.head) && self.head.len() < MAX_HEAD_BYTES {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(true),
                Ok(read) => self.head.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn write(&mut self) -> io::Result<bool> {
        while self.written < self.response.len() {
            match self.stream.write(&self.response[self.written..]) {
                Ok(0) => return Ok(false),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // Bytes that were not read would make the close a reset, which the peer may see before the response.
        self.stream.shutdown(std::net::Shutdown::Write)?;
        let mut rest = [0; 1024];
        for _ in 0..MAX_HEAD_BYTES / rest.len() {
            match self.stream.read(&mut rest) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

fn ends_head(head: &[u8]) -> bool {
    // The last two lines: a read adds at most 1 KiB, and a head is at most 5 KiB.
    head.windows(4).any(|four| four == b"\r\n\r\n") || head.windows(2).any(|two| two == b"\n\n")
}

fn respond(head: &[u8], is_too_long: bool, shared: &Shared) -> Vec<u8> {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace();
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = path.split('?').next().unwrap_or("");
    let plain = |status: &str| (status.to_owned(), format!("{status}\n"));
    let (status, body) = match (method, path) {
        _ if is_too_long && !ends_head(head) => plain("431 Request Header Fields Too Large"),
        ("GET" | "HEAD", "/metrics" | "/") => {
            let metrics = Arc::clone(&lock(shared));
            ("200 OK".into(), render(&metrics))
        }
        ("GET" | "HEAD", _) => plain("404 Not Found"),
        _ => plain("405 Method Not Allowed"),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let body = if method == "HEAD" { "" } else { &body };
    (head + body).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;
    use std::net::TcpStream;

    fn start() -> MetricsEndpoint {
        MetricsEndpoint::start("127.0.0.1:0".parse().unwrap()).unwrap()
    }

    fn connect(endpoint: &MetricsEndpoint) -> TcpStream {
        let stream = TcpStream::connect(endpoint.local_addr()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    fn request(endpoint: &MetricsEndpoint, text: &str) -> String {
        let mut stream = connect(endpoint);
        stream.write_all(text.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    #[test]
    fn a_scrape_gets_the_latest_metrics() {
        let endpoint = start();
        let empty = request(&endpoint, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(empty.starts_with("HTTP/1.1 200 OK\r\n"), "{empty}");
        assert!(
            empty.ends_with(
                "Content-Length: 0\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
            ),
            "{empty}"
        );
        endpoint.publish(samples::report().metrics);
        let text = request(&endpoint, "GET /metrics?x HTTP/1.0\r\n\r\n");
        assert!(
            text.contains("\ndummy_client_ticks_missing_total 1\n"),
            "{text}"
        );
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("Content-Length: {}\r", body.len())),
            "{head}"
        );
        let head = request(&endpoint, "HEAD / HTTP/1.0\r\n\r\n");
        assert!(
            head.ends_with("\r\n\r\n") && !head.contains("Content-Length: 0"),
            "{head}"
        );
    }

    #[test]
    fn bad_requests_are_answered() {
        let endpoint = start();
        for (text, status) in [
            ("GET /other HTTP/1.1\r\n\r\n".to_owned(), "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n".to_owned(), "405"),
            ("\n\n".to_owned(), "405"),
            (format!("GET /{} HTTP/1.1\r\n", "x".repeat(4096)), "431"),
        ] {
            let response = request(&endpoint, &text);
            let line = format!("HTTP/1.1 {status} ");
            assert!(response.starts_with(&line), "{response}");
        }
    }

    /// The request lies in the socket, and the thread was not run for 2 s.
    #[test]
    fn request_that_is_read_late_is_answered() {
        let mut port = Port::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut events = Events::with_capacity(MAX_CONNECTIONS + 2);
        let mut stream = TcpStream::connect(port.listener.local_addr().unwrap()).unwrap();
        while port.connections[0].is_none() {
            port.turn(&mut events).unwrap();
        }
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let connection = port.connections[0].as_mut().unwrap();
        while connection.stream.peek(&mut [0]).is_err() {
            thread::yield_now();
        }
        connection.opened_at -= TIMEOUT;
        while port.connections[0].is_some() {
            port.turn(&mut events).unwrap();
        }
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    }

    #[test]
    fn silent_connections_take_no_place_from_a_scrape() {
        let endpoint = start();
        let silent: Vec<_> = (0..3 * MAX_CONNECTIONS)
            .map(|_| connect(&endpoint))
            .collect();
        let response = request(&endpoint, "GET /metrics HTTP/1.1\r\n\r\n");
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        // The port closes each of them, the last ones after 2 s.
        for mut stream in silent {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn a_taken_port_is_an_error_with_status_1() {
        let endpoint = start();
        let error = MetricsEndpoint::start(endpoint.local_addr()).unwrap_err();
        assert_eq!(error.exit_status, 1);
        let begin = format!("--metrics-addr {}: ", endpoint.local_addr());
        assert!(error.message.starts_with(&begin), "{error}");
    }

    #[test]
    fn the_port_ends_with_its_owner_and_with_open_connections() {
        let endpoint = start();
        let (addr, open) = (endpoint.local_addr(), connect(&endpoint));
        drop(endpoint);
        let again = MetricsEndpoint::start(addr);
        drop(open);
        assert!(again.is_ok() || TcpStream::connect(addr).is_err());
    }
}
