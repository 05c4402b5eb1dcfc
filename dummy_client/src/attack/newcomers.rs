//! Sessions that connect while an attack takes the places. Each newcomer sends a request, and leaves with its
//! answer.

use super::background::{Background, Stopped};
use super::protocol::Protocol;
use crate::transport::Transport;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use server_core::framer::Framer;
use server_core::wire::MAX_PACKET_BYTES;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time before the first newcomer: the attackers have taken the places then.
const FIRST_AFTER: Duration = Duration::from_millis(500);
/// From the end of one newcomer to the next one.
const PAUSE: Duration = Duration::from_secs(1);
/// A newcomer that waits longer is not served. A newcomer that waits when the attack ends does not count.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A newcomer that is not connected by then is not served.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a newcomer that waits checks whether the attack is over.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The newcomers of an attack, one at a time, on a thread of their own.
#[derive(Debug)]
pub(super) struct Newcomers(Background<NewcomersReport>);

/// The sessions that connected while the attack took the places.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NewcomersReport {
    /// Newcomers that were served or not.
    pub tried: u64,
    /// Newcomers that were not connected within 1 s, had no answer to their request within 5 s, were refused,
    /// or were disconnected before.
    pub not_served: u64,
    /// The longest time from connect to the answer, or to the end of a newcomer that was not served; `null`
    /// if none was tried.
    pub longest_wait_ms: Option<f64>,
}

/// How a newcomer ended.
enum Outcome {
    Served,
    NotServed,
    /// The attack ended first.
    Unknown,
}

impl Newcomers {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub fn start(
        target: SocketAddr,
        transport: Transport,
        protocol: Arc<dyn Protocol>,
    ) -> io::Result<Self> {
        let measure = move |stopped: &Stopped| run(target, &transport, &*protocol, stopped);
        Ok(Self(Background::start("newcomers", measure)?))
    }

    /// Ends the newcomers, and returns their report.
    ///
    /// # Errors
    /// If the thread has failed.
    pub fn end(self) -> io::Result<NewcomersReport> {
        self.0.end()
    }
}

fn run(
    target: SocketAddr,
    transport: &Transport,
    protocol: &dyn Protocol,
    stopped: &Stopped,
) -> NewcomersReport {
    let mut report = NewcomersReport::default();
    let mut pause = FIRST_AFTER;
    while !stopped.wait(pause) {
        pause = PAUSE;
        let since = Instant::now();
        let outcome = try_one(target, transport, protocol, since, stopped);
        let outcome = outcome.unwrap_or(Outcome::NotServed);
        if matches!(outcome, Outcome::Unknown) {
            break;
        }
        let waited_ms = since.elapsed().as_secs_f64() * 1e3;
        report.tried += 1;
        report.not_served += u64::from(matches!(outcome, Outcome::NotServed));
        let longest = report.longest_wait_ms.unwrap_or(0.0);
        report.longest_wait_ms = Some(longest.max(waited_ms));
    }
    report
}

/// Connects, sends the request, and reads until the answer has come.
fn try_one(
    target: SocketAddr,
    transport: &Transport,
    protocol: &dyn Protocol,
    since: Instant,
    stopped: &Stopped,
) -> io::Result<Outcome> {
    let mut stream = transport.open(target, CONNECT_TIMEOUT)?;
    (stream.socket()).set_read_timeout(Some(STOP_CHECK_INTERVAL))?;
    stream.write_all(&protocol.newcomer_request())?;
    let mut framer = Framer::default();
    let mut buffer = vec![0; 64 << 10];
    while since.elapsed() < ANSWER_TIMEOUT {
        let count = match stream.read(&mut buffer) {
            Ok(0) => return Ok(Outcome::NotServed),
            Ok(count) => count,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => 0,
                _ => return Err(error),
            },
        };
        let mut input = &buffer[..count];
        while let Ok(Some(packet)) = framer.next_packet(&mut input, MAX_PACKET_BYTES) {
            if protocol.is_newcomer_answer(packet) {
                return Ok(Outcome::Served);
            }
            if protocol.close_reason(packet).is_some() {
                return Ok(Outcome::NotServed);
            }
        }
        if stopped.wait(Duration::ZERO) {
            return Ok(Outcome::Unknown);
        }
    }
    Ok(Outcome::NotServed)
}
