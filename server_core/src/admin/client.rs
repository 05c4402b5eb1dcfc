//! One connection to the metrics port: a request, an answer, the end.
//!
//! ```text
//!  Asking --request--> Waiting --answer--> Answering --written--> Leaving --FIN or deadline--> (dropped)
//! ```
//!
//! Each phase has a deadline of its own that nothing extends. Knows no clock: `now` is an argument.

use super::host::Host;
use super::http::{MAX_HEAD_BYTES, Request, Status};
use mio::net::TcpStream;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// From the accept to the end of the request's head.
const HEAD_TIME: Duration = Duration::from_secs(2);
/// From there to the last byte of the answer.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// From there to the peer's FIN.
const LINGER: Duration = Duration::from_millis(500);
/// Input that is thrown away before somebody else gets a turn.
const DISCARD_BUDGET: usize = 256 << 10;

/// A peer of the metrics port.
#[derive(Debug)]
pub struct Client {
    /// Its socket has become ready since the last look.
    pub is_ready: bool,
    /// When it was accepted.
    pub since: Instant,
    stream: TcpStream,
    phase: Phase,
    deadline: Instant,
}

#[derive(Debug)]
enum Phase {
    /// Its request is not complete.
    Asking { head: Vec<u8> },
    /// Its answer is being made; nothing is read meanwhile.
    Waiting { request: Request },
    /// What it has not taken yet of its answer. Nothing is read meanwhile.
    Answering {
        head: Vec<u8>,
        body: Rc<[u8]>,
        sent: usize,
    },
    /// The write side is shut. What still comes is thrown away: closing a socket with unread input
    /// resets the connection, and the reset destroys the answer on its way.
    Leaving,
}

/// What a client has here, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// It has its answer.
    Nothing,
    /// It may still ask.
    Question,
    /// It has asked and waits, or takes its answer.
    Answer,
}

/// What one look brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its socket has to become ready, or its deadline to come.
    Wait,
    /// There is more input to throw away.
    Again,
    /// It asks for this: [`Client::answer`] it.
    Asks(Request),
    /// It is through: drop it.
    Over,
}

impl Client {
    /// Somebody has come.
    pub fn new(stream: TcpStream, now: Instant) -> Self {
        Self {
            is_ready: true,
            since: now,
            stream,
            phase: Phase::Asking { head: Vec::new() },
            deadline: now + HEAD_TIME,
        }
    }

    /// The stream, for registering it.
    pub fn stream_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// When to look at it if nothing happens.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// How much is lost if it has to give way.
    pub fn claim(&self) -> Claim {
        match self.phase {
            Phase::Leaving => Claim::Nothing,
            Phase::Asking { .. } => Claim::Question,
            Phase::Waiting { .. } | Phase::Answering { .. } => Claim::Answer,
        }
    }

    /// Goes on as far as its socket allows. Its request may be for one of `hosts`.
    pub fn advance(&mut self, scratch: &mut [u8], hosts: &[Host], now: Instant) -> Step {
        self.is_ready = false;
        // An error of its socket ends it, and is nobody else's concern.
        self.try_advance(scratch, hosts, now).unwrap_or(Step::Over)
    }

    fn try_advance(
        &mut self,
        scratch: &mut [u8],
        hosts: &[Host],
        now: Instant,
    ) -> io::Result<Step> {
        if let Phase::Asking { head } = &mut self.phase {
            match read_head(&mut self.stream, head, scratch, hosts)? {
                Asked::For(request) => {
                    self.phase = Phase::Waiting { request };
                    self.deadline = now + ANSWER_TIME;
                    return Ok(Step::Asks(request));
                }
                Asked::Wrongly(status) => self.refuse(status, now),
                Asked::Nothing => return Ok(Step::Over),
                Asked::NotYet if now < self.deadline => return Ok(Step::Wait),
                Asked::NotYet if head.is_empty() => return Ok(Step::Over),
                Asked::NotYet => self.refuse(Status::Timeout, now),
            }
        }
        if let Phase::Answering { head, body, sent } = &mut self.phase {
            if !write_answer(&mut self.stream, head, body, sent)? {
                return Ok(match now < self.deadline {
                    true => Step::Wait,
                    false => Step::Over,
                });
            }
            self.stream.shutdown(Shutdown::Write)?;
            self.phase = Phase::Leaving;
            self.deadline = now + LINGER;
        }
        if now >= self.deadline {
            return Ok(Step::Over);
        }
        match self.phase {
            Phase::Leaving => discard(&mut self.stream, scratch),
            _ => Ok(Step::Wait),
        }
    }

    /// What it has asked for and not been given yet.
    pub fn waits_for(&self) -> Option<Request> {
        match self.phase {
            Phase::Waiting { request } => Some(request),
            _ => None,
        }
    }

    /// Gives it its answer; the next [`advance`](Self::advance) begins to write it.
    pub fn answer(&mut self, status: Status, content_type: &str, body: Rc<[u8]>, now: Instant) {
        let is_head = self.waits_for().is_some_and(|request| request.is_head);
        let head = status.head(content_type, body.len());
        self.phase = Phase::Answering {
            head: head.into_bytes(),
            body: if is_head { Rc::from([]) } else { body },
            sent: 0,
        };
        self.deadline = now + ANSWER_TIME;
        self.is_ready = true;
    }

    /// Answers with the text of the status alone.
    pub fn refuse(&mut self, status: Status, now: Instant) {
        let body = status.text();
        self.answer(status, "text/plain", body.into_bytes().into(), now);
    }
}

enum Asked {
    For(Request),
    Wrongly(Status),
    /// It has left without a word.
    Nothing,
    NotYet,
}

fn read_head(
    stream: &mut TcpStream,
    head: &mut Vec<u8>,
    scratch: &mut [u8],
    hosts: &[Host],
) -> io::Result<Asked> {
    loop {
        // Below the limit, or the last round would have refused it.
        let room = (MAX_HEAD_BYTES - head.len()).min(scratch.len());
        match stream.read(&mut scratch[..room]) {
            Ok(0) if head.is_empty() => return Ok(Asked::Nothing),
            Ok(0) => return Ok(Asked::Wrongly(Status::BadRequest)),
            Ok(count) => head.extend_from_slice(&scratch[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Asked::NotYet),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        // A port that is bound to all addresses has that of the connection.
        let is_answered = |host: &Host| {
            let own = stream.local_addr().ok().map(|addr| addr.ip());
            host.is_answered(own, hosts)
        };
        match Request::parse(head, is_answered) {
            Ok(None) => {}
            Ok(Some(request)) => return Ok(Asked::For(request)),
            Err(status) => return Ok(Asked::Wrongly(status)),
        }
    }
}

/// Returns whether all is written.
fn write_answer(
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

fn discard(stream: &mut impl Read, scratch: &mut [u8]) -> io::Result<Step> {
    let mut discarded = 0;
    while discarded < DISCARD_BUDGET {
        match stream.read(scratch) {
            Ok(0) => return Ok(Step::Over),
            Ok(count) => discarded += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Wait),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Step::Again)
}
