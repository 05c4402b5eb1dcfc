//! Sessions that come while an attack takes the places: each sends an echo and leaves with its answer.

use game_server::packets::{C_ECHO, SBye, SEcho};
use schemars::JsonSchema;
use serde::Serialize;
use server_core::framer::Framer;
use server_core::wire::MAX_PACKET_BYTES;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The attackers have taken the places by then.
const FIRST_AFTER: Duration = Duration::from_millis(500);
/// From the end of one newcomer to the next.
const PAUSE: Duration = Duration::from_secs(1);
/// A newcomer that waits longer is not served. A newcomer that still waits when the attack ends does
/// not count.
const PATIENCE: Duration = Duration::from_secs(5);
/// A newcomer that is not connected by then is not served.
const CONNECT_TIME: Duration = Duration::from_secs(1);
/// How often a newcomer that waits looks whether the attack is over.
const LOOK: Duration = Duration::from_millis(50);
const REQUEST: &[u8] = b"may I come in";

/// The newcomers of an attack, on a thread of their own, one at a time.
#[derive(Debug)]
pub struct Newcomers {
    thread: JoinHandle<NewcomersReport>,
    /// The thread ends when this is dropped.
    stop: Sender<()>,
}

/// What became of the sessions that came while the attack took the places.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct NewcomersReport {
    pub tried: u64,
    /// Newcomers that were not connected within 1 s, had no answer to their echo within 5 s, were
    /// refused, or were ended before.
    pub not_served: u64,
    /// From connect to the answer: the longest time, the time until the end of those that were not
    /// served among them; `null` if none was tried.
    pub longest_wait_ms: Option<f64>,
}

enum Outcome {
    Served,
    NotServed,
    /// The attack ended first.
    Unknown,
}

impl Newcomers {
    /// Begins with the first one.
    ///
    /// # Errors
    /// If there is no thread left for them.
    pub fn begin(target: SocketAddr) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("newcomers".into())
            .spawn(move || run(target, &stopped))?;
        Ok(Self { thread, stop })
    }

    /// Ends them, and returns what became of them.
    ///
    /// # Errors
    /// If their thread has failed.
    pub fn end(self) -> io::Result<NewcomersReport> {
        drop(self.stop);
        let ended = self.thread.join();
        ended.map_err(|_| io::Error::other("the newcomers' thread panicked"))
    }
}

fn run(target: SocketAddr, stopped: &Receiver<()>) -> NewcomersReport {
    let is_over = |wait| stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout);
    let mut report = NewcomersReport::default();
    let mut wait = FIRST_AFTER;
    while !is_over(wait) {
        wait = PAUSE;
        let since = Instant::now();
        let outcome = try_one(target, since, || is_over(Duration::ZERO));
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

/// Connects, sends an echo, and reads until the answer has come.
fn try_one(target: SocketAddr, since: Instant, is_over: impl Fn() -> bool) -> io::Result<Outcome> {
    let mut stream = TcpStream::connect_timeout(&target, CONNECT_TIME)?;
    stream.set_read_timeout(Some(LOOK))?;
    let size = (4 + REQUEST.len()) as u16;
    stream.write_all(&[&size.to_le_bytes()[..], &C_ECHO.to_le_bytes(), REQUEST].concat())?;
    let mut framer = Framer::default();
    let mut buffer = vec![0; 64 << 10];
    while since.elapsed() < PATIENCE {
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
            match packet.id() {
                SEcho::ID
                    if packet
                        .parse::<SEcho>()
                        .is_ok_and(|(_, echo)| echo == REQUEST) =>
                {
                    return Ok(Outcome::Served);
                }
                SBye::ID => return Ok(Outcome::NotServed),
                _ => {}
            }
        }
        if is_over() {
            return Ok(Outcome::Unknown);
        }
    }
    Ok(Outcome::NotServed)
}
