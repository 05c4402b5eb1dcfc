//! Healthy sessions that pause between their reads, as a client does that reads once a frame.

use super::plan::label_of;
use game_server::packets::{SBye, SHello};
use schemars::JsonSchema;
use serde::Serialize;
use server_core::framer::Framer;
use server_core::wire::MAX_PACKET_BYTES;
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// From the end of a read to the next one.
const READ_INTERVALS: [Duration; 4] = [
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(33),
    Duration::from_millis(50),
];
/// Neighbours with the same interval.
const PER_INTERVAL: usize = 3;
/// All neighbours of a run.
pub const NEIGHBOURS: usize = READ_INTERVALS.len() * PER_INTERVAL;
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// A read takes everything that the socket has. No receive buffer is as large as this: a server
/// that sends faster than this thread reads cannot hold it for ever.
const MAX_READ_BYTES: usize = 64 << 20;

/// The neighbours of a run, on a thread of their own.
#[derive(Debug)]
pub struct Neighbours {
    thread: JoinHandle<NeighboursReport>,
    /// The thread ends when this is dropped.
    stop: Sender<()>,
}

/// What the neighbours have seen. They are healthy sessions: the server ends none of them.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct NeighboursReport {
    pub sessions: usize,
    pub connected: usize,
    /// Sessions that the server ended, with or without a reason.
    pub lost: usize,
    /// Ticks that did not come between two that came.
    pub missing_ticks: u64,
    /// Ticks whose number was not above the one before.
    pub repeated_ticks: u64,
    pub by_interval: Vec<IntervalReport>,
    /// What was wrong: a line for each neighbour and fault.
    #[serde(skip)]
    pub faults: Vec<String>,
}

/// What the neighbours with one read interval have seen.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct IntervalReport {
    /// From the end of a read to the next one.
    pub read_interval_ms: u64,
    pub sessions: usize,
    pub connected: usize,
    /// Sessions that the server ended, with or without a reason.
    pub lost: usize,
    /// The lost sessions that were sent a reason. A slow consumer is not.
    pub kicked: usize,
    pub ticks: u64,
    pub missing_ticks: u64,
    /// From one tick of a session to the next one, or to its end: the longest time.
    pub longest_tick_gap_ms: f64,
    /// From one read of a session to the next one: the longest time. It is longer than the interval
    /// where this program was held up.
    pub longest_pause_ms: f64,
}

struct Neighbour {
    /// `None` before it is connected, and after its end.
    stream: Option<TcpStream>,
    interval: Duration,
    next_at: Instant,
    last_read_at: Instant,
    longest_pause: Duration,
    framer: Framer,
    connected_at: Option<Instant>,
    ticks: Ticks,
    bye: Option<u16>,
    /// Why it is not connected, or how the server ended it.
    end: Option<String>,
    is_malformed: bool,
}

/// The ticks of one neighbour.
#[derive(Debug)]
struct Ticks {
    last: Option<u64>,
    last_at: Instant,
    received: u64,
    missing: u64,
    repeated: u64,
    longest_gap: Duration,
}

impl Neighbours {
    /// Connects them.
    ///
    /// # Errors
    /// If there is no thread left for them.
    pub fn begin(target: SocketAddr) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("neighbours".into())
            .spawn(move || run(target, &stopped))?;
        Ok(Self { thread, stop })
    }

    /// Ends them, and returns what they have seen.
    ///
    /// # Errors
    /// If their thread has failed.
    pub fn end(self) -> io::Result<NeighboursReport> {
        drop(self.stop);
        let ended = self.thread.join();
        ended.map_err(|_| io::Error::other("the neighbours' thread panicked"))
    }
}

fn run(target: SocketAddr, stopped: &Receiver<()>) -> NeighboursReport {
    let mut buffer = vec![0; 64 << 10];
    let is_stopped = |wait| stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout);
    let mut neighbours: Vec<Neighbour> = Vec::with_capacity(NEIGHBOURS);
    for interval in READ_INTERVALS
        .into_iter()
        .flat_map(|every| [every; PER_INTERVAL])
    {
        neighbours.push(Neighbour::connect(target, interval));
        if is_stopped(Duration::ZERO) {
            break;
        }
    }
    while !is_stopped(until_next(&neighbours, Instant::now())) {
        for neighbour in &mut neighbours {
            let now = Instant::now();
            if neighbour.next_at <= now {
                neighbour.read(&mut buffer, now);
                neighbour.next_at = Instant::now() + neighbour.interval;
            }
        }
    }
    // What the server has sent by now counts.
    let now = Instant::now();
    for neighbour in &mut neighbours {
        neighbour.read(&mut buffer, now);
    }
    report(&neighbours, Instant::now())
}

fn until_next(neighbours: &[Neighbour], now: Instant) -> Duration {
    let open = neighbours.iter().filter(|one| one.stream.is_some());
    let next = open.map(|one| one.next_at).min();
    next.map_or(Duration::from_secs(1), |at| {
        at.saturating_duration_since(now)
    })
}

impl Neighbour {
    fn connect(target: SocketAddr, interval: Duration) -> Self {
        let connected = TcpStream::connect_timeout(&target, CONNECT_TIME).and_then(|stream| {
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        let now = Instant::now();
        let (stream, end) = match connected {
            Ok(stream) => (Some(stream), None),
            Err(error) => (None, Some(format!("could not connect: {error}"))),
        };
        Self {
            connected_at: stream.is_some().then_some(now),
            stream,
            interval,
            next_at: now + interval,
            last_read_at: now,
            longest_pause: Duration::ZERO,
            framer: Framer::default(),
            ticks: Ticks::new(now),
            bye: None,
            end,
            is_malformed: false,
        }
    }

    /// Reads everything that is there.
    fn read(&mut self, buffer: &mut [u8], now: Instant) {
        let Some(mut stream) = self.stream.take() else {
            return;
        };
        self.longest_pause = self.longest_pause.max(now - self.last_read_at);
        let mut left = MAX_READ_BYTES;
        while left > 0 && !self.is_malformed {
            match stream.read(buffer) {
                Ok(0) => return self.ended("connection closed", now),
                Ok(count) => {
                    left = left.saturating_sub(count);
                    self.take(&buffer[..count], now);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => break,
                    ErrorKind::Interrupted => {}
                    _ => return self.ended(&error.to_string(), now),
                },
            }
        }
        self.last_read_at = Instant::now();
        self.stream = Some(stream).filter(|_| !self.is_malformed);
    }

    fn take(&mut self, mut input: &[u8], now: Instant) {
        loop {
            match self.framer.next_packet(&mut input, MAX_PACKET_BYTES) {
                Ok(None) => return,
                Ok(Some(packet)) if packet.id() == SHello::ID => match packet.parse::<SHello>() {
                    Ok((hello, _)) => self.ticks.take(hello.tick.get(), now),
                    Err(_) => self.is_malformed = true,
                },
                Ok(Some(packet)) if packet.id() == SBye::ID => match packet.parse::<SBye>() {
                    Ok((bye, _)) => self.bye = Some(bye.reason.get()),
                    Err(_) => self.is_malformed = true,
                },
                Ok(Some(_)) => {}
                Err(_) => self.is_malformed = true,
            }
            if self.is_malformed {
                return;
            }
        }
    }

    fn ended(&mut self, how: &str, now: Instant) {
        let after = self.connected_at.map_or(Duration::ZERO, |at| now - at);
        self.end = Some(match self.bye {
            Some(code) => format!(
                "kicked ({}) after {:.1} s",
                label_of(code),
                after.as_secs_f64()
            ),
            None => format!(
                "lost after {:.1} s without a reason ({how})",
                after.as_secs_f64()
            ),
        });
    }

    fn is_lost(&self) -> bool {
        self.connected_at.is_some() && self.end.is_some()
    }

    fn faults(&self, number: usize) -> Vec<String> {
        let Ticks {
            missing, repeated, ..
        } = self.ticks;
        let faults = [
            self.end.clone(),
            (missing > 0).then(|| format!("{missing} ticks were missing")),
            (repeated > 0).then(|| format!("{repeated} ticks were repeated or out of order")),
            self.is_malformed.then(|| "a packet was malformed".into()),
        ];
        let every = self.interval.as_millis();
        let faults = faults.into_iter().flatten();
        faults
            .map(|fault| format!("neighbour {number}, which reads every {every} ms: {fault}"))
            .collect()
    }
}

impl Ticks {
    fn new(now: Instant) -> Self {
        Self {
            last: None,
            last_at: now,
            received: 0,
            missing: 0,
            repeated: 0,
            longest_gap: Duration::ZERO,
        }
    }

    fn take(&mut self, tick: u64, now: Instant) {
        self.received += 1;
        self.longest_gap = self.longest_gap.max(now - self.last_at);
        self.last_at = now;
        match self.last {
            Some(last) if tick <= last => self.repeated += 1,
            Some(last) => self.missing = self.missing.saturating_add(tick - last - 1),
            None => {}
        }
        self.last = self.last.max(Some(tick));
    }
}

fn report(neighbours: &[Neighbour], now: Instant) -> NeighboursReport {
    let by_interval = READ_INTERVALS.map(|interval| {
        let mut report = IntervalReport {
            read_interval_ms: interval.as_millis() as u64,
            ..IntervalReport::default()
        };
        for one in neighbours.iter().filter(|one| one.interval == interval) {
            // A session that the server has ended waits for no tick.
            let tail = match one.stream {
                Some(_) => now.saturating_duration_since(one.ticks.last_at),
                None => Duration::ZERO,
            };
            let gap = one.ticks.longest_gap.max(tail).as_secs_f64() * 1e3;
            let pause = one.longest_pause.as_secs_f64() * 1e3;
            report.sessions += 1;
            report.connected += usize::from(one.connected_at.is_some());
            report.lost += usize::from(one.is_lost());
            report.kicked += usize::from(one.is_lost() && one.bye.is_some());
            report.ticks += one.ticks.received;
            report.missing_ticks += one.ticks.missing;
            report.longest_tick_gap_ms = report.longest_tick_gap_ms.max(gap);
            report.longest_pause_ms = report.longest_pause_ms.max(pause);
        }
        report
    });
    let numbered = neighbours.iter().zip(1..);
    NeighboursReport {
        sessions: neighbours.len(),
        connected: by_interval.iter().map(|group| group.connected).sum(),
        lost: by_interval.iter().map(|group| group.lost).sum(),
        missing_ticks: by_interval.iter().map(|group| group.missing_ticks).sum(),
        repeated_ticks: neighbours.iter().map(|one| one.ticks.repeated).sum(),
        by_interval: by_interval.into(),
        faults: numbered
            .flat_map(|(one, number)| one.faults(number))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_that_are_missing_or_come_again_are_counted() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut ticks = Ticks::new(start);
        for (tick, ms) in [(7, 40), (8, 90), (11, 140), (11, 150), (9, 160), (12, 190)] {
            ticks.take(tick, at(ms));
        }
        assert_eq!((ticks.received, ticks.missing, ticks.repeated), (6, 2, 2));
        assert_eq!(ticks.longest_gap, Duration::from_millis(50));
        ticks.take(u64::MAX, at(200));
        ticks.take(1, at(210));
        ticks.take(u64::MAX, at(220));
        assert_eq!(ticks.last, Some(u64::MAX));
    }

    #[test]
    fn every_interval_has_its_neighbours() {
        let report = report(&[], Instant::now());
        assert_eq!(report.by_interval.len() * PER_INTERVAL, NEIGHBOURS);
        assert_eq!(NEIGHBOURS, 12);
    }
}
