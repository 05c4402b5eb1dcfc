//! One connection to the admin port: a request, a response, the end.
//!
//! ```text
//!  ReadingRequest --request--> Pending --response--> WritingResponse --written--> Draining --FIN or deadline--> (closed)
//! ```
//!
//! Each phase has a deadline of its own that no input extends. The caller brings the clock: `now` is an
//! argument.

use super::allowed_hosts::AllowedHosts;
use super::http::{MAX_HEAD_BYTES, Request, Status};
use mio::net::TcpStream;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// From the accept to the end of the request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// From the end of the request's head to the last byte of the response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// From the last byte of the response to the peer's FIN.
const LINGER: Duration = Duration::from_millis(500);
/// Input that one turn of one connection discards. The other connections come before the rest.
const DISCARD_BUDGET: usize = 256 << 10;

/// A connection that the admin port has accepted.
#[derive(Debug)]
pub struct HttpConnection {
    /// The socket has become ready since the last [`advance`](Self::advance).
    pub is_ready: bool,
    /// When the connection was accepted.
    pub accepted_at: Instant,
    stream: TcpStream,
    phase: Phase,
    deadline: Instant,
}

#[derive(Debug)]
enum Phase {
    /// The head of the request is not complete.
    ReadingRequest { head: Vec<u8> },
    /// The response is not known yet. Nothing is read meanwhile.
    Pending { request: Request },
    /// The socket has not taken the whole response yet. Nothing is read meanwhile.
    WritingResponse {
        head: Vec<u8>,
        body: Rc<[u8]>,
        sent: usize,
    },
    /// The write side is shut. What still arrives is discarded: closing a socket with unread input
    /// resets the connection, and the reset destroys a response that the peer has not read.
    Draining,
}

/// What an eviction would cost a peer. The lowest priority is evicted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EvictionPriority {
    /// Nothing: the response is sent.
    Draining,
    /// A request that may still arrive.
    ReadingRequest,
    /// A response that is pending or half sent.
    Responding,
}

/// What the caller of [`HttpConnection::advance`] does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wait until the socket is ready or the deadline has passed.
    Wait,
    /// Advance again in the next turn: more input is there to be discarded.
    AdvanceAgain,
    /// Call [`HttpConnection::respond`] with the response to this request.
    Respond(Request),
    /// Drop the connection.
    Close,
}

impl HttpConnection {
    /// A connection that was accepted now.
    pub fn new(stream: TcpStream, now: Instant) -> Self {
        Self {
            is_ready: true,
            accepted_at: now,
            stream,
            phase: Phase::ReadingRequest { head: Vec::new() },
            deadline: now + HEAD_TIMEOUT,
        }
    }

    /// The stream, for its registration.
    pub fn stream_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// When to [`advance`](Self::advance) a connection whose socket has not become ready.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The rank among the connections that an eviction can take.
    pub fn eviction_priority(&self) -> EvictionPriority {
        match self.phase {
            Phase::Draining => EvictionPriority::Draining,
            Phase::ReadingRequest { .. } => EvictionPriority::ReadingRequest,
            Phase::Pending { .. } | Phase::WritingResponse { .. } => EvictionPriority::Responding,
        }
    }

    /// Reads and writes as far as the socket allows. The request may name one of `hosts`.
    pub fn advance(&mut self, scratch: &mut [u8], hosts: &AllowedHosts, now: Instant) -> Action {
        self.is_ready = false;
        // An error of the socket ends this connection and affects no other.
        (self.try_advance(scratch, hosts, now)).unwrap_or(Action::Close)
    }

    fn try_advance(
        &mut self,
        scratch: &mut [u8],
        hosts: &AllowedHosts,
        now: Instant,
    ) -> io::Result<Action> {
        if let Phase::ReadingRequest { head } = &mut self.phase {
            match read_head(&mut self.stream, head, scratch, hosts)? {
                ParseResult::Complete(request) => {
                    self.phase = Phase::Pending {
                        request: request.clone(),
                    };
                    self.deadline = now + RESPONSE_TIMEOUT;
                    return Ok(Action::Respond(request));
                }
                ParseResult::Invalid(status) => self.refuse(status, hosts, now),
                ParseResult::Closed => return Ok(Action::Close),
                ParseResult::Incomplete if now < self.deadline => return Ok(Action::Wait),
                ParseResult::Incomplete if head.is_empty() => return Ok(Action::Close),
                ParseResult::Incomplete => self.refuse(Status::Timeout, hosts, now),
            }
        }
        if let Phase::WritingResponse { head, body, sent } = &mut self.phase {
            if !write_response(&mut self.stream, head, body, sent)? {
                return Ok(if now < self.deadline {
                    Action::Wait
                } else {
                    Action::Close
                });
            }
            self.stream.shutdown(Shutdown::Write)?;
            self.phase = Phase::Draining;
            self.deadline = now + LINGER;
        }
        if now >= self.deadline {
            return Ok(Action::Close);
        }
        match self.phase {
            Phase::Draining => discard(&mut self.stream, scratch),
            _ => Ok(Action::Wait),
        }
    }

    /// The request whose response is not known yet.
    pub fn pending_request(&self) -> Option<&Request> {
        match &self.phase {
            Phase::Pending { request } => Some(request),
            _ => None,
        }
    }

    /// Sets the response. The next [`advance`](Self::advance) begins to write it.
    pub fn respond(&mut self, status: Status, content_type: &str, body: Rc<[u8]>, now: Instant) {
        let is_head = (self.pending_request()).is_some_and(|request| request.is_head);
        let head = status.head(content_type, body.len());
        self.phase = Phase::WritingResponse {
            head: head.into_bytes(),
            body: if is_head { Rc::from([]) } else { body },
            sent: 0,
        };
        self.deadline = now + RESPONSE_TIMEOUT;
        self.is_ready = true;
    }

    /// Responds with the text of the status alone.
    pub fn refuse(&mut self, status: Status, hosts: &AllowedHosts, now: Instant) {
        let body = status.text(&hosts.hint);
        self.respond(status, "text/plain", body.into_bytes().into(), now);
    }
}

/// What the bytes of a request have come to so far.
enum ParseResult {
    /// The head is complete and valid.
    Complete(Request),
    /// The request is refused with this status.
    Invalid(Status),
    /// The peer has closed before its first byte.
    Closed,
    /// The end of the head has not arrived.
    Incomplete,
}

fn read_head(
    stream: &mut TcpStream,
    head: &mut Vec<u8>,
    scratch: &mut [u8],
    hosts: &AllowedHosts,
) -> io::Result<ParseResult> {
    loop {
        // A head that has reached the limit was refused by the round before.
        let room = (MAX_HEAD_BYTES - head.len()).min(scratch.len());
        match stream.read(&mut scratch[..room]) {
            Ok(0) if head.is_empty() => return Ok(ParseResult::Closed),
            Ok(0) => return Ok(ParseResult::Invalid(Status::BadRequest)),
            Ok(count) => head.extend_from_slice(&scratch[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Ok(ParseResult::Incomplete);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        // A port that is bound to all addresses answers for the address of the connection.
        let is_allowed = |host: &_| {
            let own = stream.local_addr().ok().map(|addr| addr.ip());
            hosts.contains(host, own)
        };
        match Request::parse(head, is_allowed) {
            Ok(None) => {}
            Ok(Some(request)) => return Ok(ParseResult::Complete(request)),
            Err(status) => return Ok(ParseResult::Invalid(status)),
        }
    }
}

/// Returns whether the socket has taken the whole response.
fn write_response(
    stream: &mut impl Write,
    head: &[u8],
    body: &[u8],
    sent: &mut usize,
) -> io::Result<bool> {
    while *sent < head.len() + body.len() {
        let slices = [
            IoSlice::new(&head[head.len().min(*sent)..]),
            IoSlice::new(&body[sent.saturating_sub(head.len())..]),
        ];
        match stream.write_vectored(&slices) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => *sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn discard(stream: &mut impl Read, scratch: &mut [u8]) -> io::Result<Action> {
    let mut discarded = 0;
    while discarded < DISCARD_BUDGET {
        match stream.read(scratch) {
            Ok(0) => return Ok(Action::Close),
            Ok(count) => discarded += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Action::Wait),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Action::AdvanceAgain)
}
