//! The neighbours: healthy sessions that pause between their reads, as a client does that reads once a frame.

use super::background::{Background, Stopped};
use super::protocol::Protocol;
use crate::channel::Channel;
use crate::transport::Transport;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use server_core::framer::Framer;
use server_core::wire::MAX_PACKET_BYTES;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
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
/// The number of neighbours of a run.
pub const NEIGHBOURS: usize = READ_INTERVALS.len() * PER_INTERVAL;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The limit of one read, which takes everything that the socket has. No receive buffer is as large: the limit
/// ends the read of a server that sends faster than this thread reads.
const MAX_READ_BYTES: usize = 64 << 20;

/// The neighbours of a run, on a thread of their own.
#[derive(Debug)]
pub(super) struct Neighbours(Background<NeighboursReport>);

/// The neighbours at the end of a run. They are healthy sessions: the server must not end a neighbour.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NeighboursReport {
    /// Neighbours that tried to connect.
    pub sessions: usize,
    /// Neighbours that connected.
    pub connected: usize,
    /// Neighbours that the server ended, with or without a reason.
    pub lost: usize,
    /// Ticks that did not arrive between two that arrived.
    pub missing_ticks: u64,
    /// Ticks whose number was not above the one before.
    pub repeated_ticks: u64,
    /// The neighbours of each read interval.
    pub by_interval: Vec<IntervalReport>,
    /// The faults: a line for each neighbour and fault.
    #[serde(skip)]
    pub faults: Vec<String>,
}

/// The neighbours with one read interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IntervalReport {
    /// From the end of a read to the next one.
    pub read_interval_ms: u64,
    /// Neighbours that tried to connect.
    pub sessions: usize,
    /// Neighbours that connected.
    pub connected: usize,
    /// Neighbours that the server ended, with or without a reason.
    pub lost: usize,
    /// Of `lost`: the server sent a reason. It sends none to a slow consumer.
    pub kicked: usize,
    /// Ticks that arrived.
    pub ticks: u64,
    /// Ticks that did not arrive between two that arrived.
    pub missing_ticks: u64,
    /// The longest time from one tick of a neighbour to the next one, or to the end of the attack.
    pub longest_tick_gap_ms: f64,
    /// The longest time from one read of a neighbour to the next one. It is longer than the interval if the
    /// client stalled.
    pub longest_pause_ms: f64,
}

struct Neighbour {
    /// `None`: the session is not connected.
    stream: Option<Channel<TcpStream>>,
    interval: Duration,
    next_at: Instant,
    last_read_at: Instant,
    longest_pause: Duration,
    framer: Framer,
    connected_at: Option<Instant>,
    ticks: Ticks,
    close_reason: Option<u16>,
    /// Why the connect failed, or how the server ended the session.
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
    /// Connects the neighbours.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub fn start(
        target: SocketAddr,
        transport: Transport,
        protocol: Arc<dyn Protocol>,
    ) -> io::Result<Self> {
        let measure = move |stopped: &Stopped| run(target, &transport, &*protocol, stopped);
        Ok(Self(Background::start("neighbours", measure)?))
    }

    /// Ends the neighbours, and returns their report.
    ///
    /// # Errors
    /// If the thread has failed.
    pub fn end(self) -> io::Result<NeighboursReport> {
        self.0.end()
    }
}

fn run(
    target: SocketAddr,
    transport: &Transport,
    protocol: &dyn Protocol,
    stopped: &Stopped,
) -> NeighboursReport {
    let mut buffer = vec![0; 64 << 10];
    let mut neighbours: Vec<Neighbour> = Vec::with_capacity(NEIGHBOURS);
    for interval in READ_INTERVALS
        .into_iter()
        .flat_map(|every| [every; PER_INTERVAL])
    {
        let login = protocol.neighbour_login(neighbours.len());
        neighbours.push(Neighbour::connect(target, transport, &login, interval));
        if stopped.wait(Duration::ZERO) {
            break;
        }
    }
    while !stopped.wait(until_next(&neighbours, Instant::now())) {
        for neighbour in &mut neighbours {
            let now = Instant::now();
            if neighbour.next_at <= now {
                neighbour.read(&mut buffer, protocol, now);
                neighbour.next_at = Instant::now() + neighbour.interval;
            }
        }
    }
    // What has arrived by now counts.
    let now = Instant::now();
    for neighbour in &mut neighbours {
        neighbour.read(&mut buffer, protocol, now);
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
    fn connect(
        target: SocketAddr,
        transport: &Transport,
        login: &[u8],
        interval: Duration,
    ) -> Self {
        let connected = transport
            .open(target, CONNECT_TIMEOUT)
            .and_then(|mut stream| {
                stream.write_all(login)?;
                stream.socket().set_nonblocking(true)?;
                Ok(Some(stream))
            });
        Self::new(connected, interval, Instant::now())
    }

    /// `connected` has no stream in tests.
    fn new(
        connected: io::Result<Option<Channel<TcpStream>>>,
        interval: Duration,
        now: Instant,
    ) -> Self {
        let (stream, end) = match connected {
            Ok(stream) => (stream, None),
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
            close_reason: None,
            end,
            is_malformed: false,
        }
    }

    /// Reads everything that has arrived.
    fn read(&mut self, buffer: &mut [u8], protocol: &dyn Protocol, now: Instant) {
        let Some(mut stream) = self.stream.take() else {
            return;
        };
        self.longest_pause = self.longest_pause.max(now - self.last_read_at);
        let mut left = MAX_READ_BYTES;
        while left > 0 && !self.is_malformed {
            match stream.read(buffer) {
                Ok(0) => return self.ended("connection closed", protocol, now),
                Ok(count) => {
                    left = left.saturating_sub(count);
                    self.take(&buffer[..count], protocol, now);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => break,
                    ErrorKind::Interrupted => {}
                    // TLS without its last message.
                    ErrorKind::UnexpectedEof => {
                        return self.ended("connection closed", protocol, now);
                    }
                    _ => return self.ended(&error.to_string(), protocol, now),
                },
            }
        }
        self.last_read_at = Instant::now();
        self.stream = Some(stream).filter(|_| !self.is_malformed);
    }

    fn take(&mut self, mut input: &[u8], protocol: &dyn Protocol, now: Instant) {
        loop {
            match self.framer.next_packet(&mut input, MAX_PACKET_BYTES) {
                Ok(None) => return,
                Ok(Some(packet)) if !protocol.is_malformed(packet) => {
                    if let Some(tick) = protocol.tick(packet) {
                        self.ticks.take(tick, now);
                    }
                    self.close_reason = protocol.close_reason(packet).or(self.close_reason);
                }
                Ok(Some(_)) | Err(_) => {
                    self.is_malformed = true;
                    return;
                }
            }
        }
    }

    fn ended(&mut self, how: &str, protocol: &dyn Protocol, now: Instant) {
        let after = self.connected_at.map_or(Duration::ZERO, |at| now - at);
        let secs = after.as_secs_f64();
        self.end = Some(match self.close_reason {
            Some(code) => {
                let label = protocol.reason_label(code);
                format!("kicked ({label}) after {secs:.1} s")
            }
            None => format!("lost after {secs:.1} s without a reason ({how})"),
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
            let waited = now.saturating_duration_since(one.ticks.last_at);
            let tail = one.stream.as_ref().map_or(Duration::ZERO, |_| waited);
            let gap = one.ticks.longest_gap.max(tail).as_secs_f64() * 1e3;
            let pause = one.longest_pause.as_secs_f64() * 1e3;
            report.sessions += 1;
            report.connected += usize::from(one.connected_at.is_some());
            report.lost += usize::from(one.is_lost());
            report.kicked += usize::from(one.is_lost() && one.close_reason.is_some());
            report.ticks += one.ticks.received;
            report.missing_ticks = report.missing_ticks.saturating_add(one.ticks.missing);
            report.longest_tick_gap_ms = report.longest_tick_gap_ms.max(gap);
            report.longest_pause_ms = report.longest_pause_ms.max(pause);
        }
        report
    });
    let numbered = neighbours.iter().zip(1..);
    let missing = by_interval.iter().map(|group| group.missing_ticks);
    NeighboursReport {
        sessions: neighbours.len(),
        connected: by_interval.iter().map(|group| group.connected).sum(),
        lost: by_interval.iter().map(|group| group.lost).sum(),
        missing_ticks: missing.fold(0, u64::saturating_add),
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
    use crate::attack::testing::TestProtocol;
    use server_core::Packet;
    use server_core::testing::packet;
    use std::borrow::Cow;
    use std::net::TcpListener;

    #[test]
    fn missing_and_repeated_ticks_are_counted() {
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

    /// The server chooses its numbers: no sum of theirs overflows.
    #[test]
    fn absurd_tick_numbers_are_counted() {
        let now = Instant::now();
        let neighbours: Vec<Neighbour> = [10, 20, 20]
            .map(|ms| Neighbour::new(Ok(None), Duration::from_millis(ms), now))
            .into_iter()
            .map(|mut one| {
                for tick in [0_u64, u64::MAX] {
                    one.take(
                        &packet(TestProtocol::TICK, tick.to_le_bytes()),
                        &TestProtocol,
                        now,
                    );
                }
                one
            })
            .collect();
        let report = report(&neighbours, now);
        assert_eq!(report.missing_ticks, u64::MAX);
        assert_eq!(report.by_interval[0].missing_ticks, u64::MAX - 1);
    }

    #[test]
    fn malformed_packet_is_a_fault_of_its_neighbour() {
        let now = Instant::now();
        let mut one = Neighbour::new(Ok(None), Duration::from_millis(33), now);
        one.take(&packet(TestProtocol::TICK, b"short"), &TestProtocol, now);
        let fault = "neighbour 4, which reads every 33 ms: a packet was malformed";
        assert_eq!(one.faults(4), [fault]);
        let report = report(&[one], now);
        assert_eq!(report.faults.len(), 1);
    }

    /// Logs in with its number.
    struct WithLogin;

    impl Protocol for WithLogin {
        fn neighbour_login(&self, neighbour: usize) -> Vec<u8> {
            packet(9, [neighbour as u8])
        }

        fn close_reason(&self, packet: Packet<'_>) -> Option<u16> {
            TestProtocol.close_reason(packet)
        }

        fn reason_label(&self, code: u16) -> Cow<'static, str> {
            TestProtocol.reason_label(code)
        }

        fn is_full(&self, code: u16) -> bool {
            TestProtocol.is_full(code)
        }

        fn is_shutdown(&self, code: u16) -> bool {
            TestProtocol.is_shutdown(code)
        }

        fn tick(&self, packet: Packet<'_>) -> Option<u64> {
            TestProtocol.tick(packet)
        }

        fn newcomer_request(&self) -> Vec<u8> {
            TestProtocol.newcomer_request()
        }

        fn is_newcomer_answer(&self, packet: Packet<'_>) -> bool {
            TestProtocol.is_newcomer_answer(packet)
        }
    }

    /// The server sends its ticks behind the login, and closes a connection that sends another packet.
    #[test]
    fn neighbours_log_in() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let neighbours =
            Neighbours::start(target, Transport::default(), Arc::new(WithLogin)).unwrap();
        let streams: Vec<TcpStream> = (0..NEIGHBOURS as u8)
            .map(|number| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut login = [0; 5];
                stream.read_exact(&mut login).unwrap();
                assert_eq!(login[..], packet(9, [number]));
                stream
                    .write_all(&packet(TestProtocol::TICK, [1, 0, 0, 0, 0, 0, 0, 0]))
                    .unwrap();
                stream
            })
            .collect();
        let report = neighbours.end().unwrap();
        drop(streams);
        assert_eq!((report.connected, report.lost), (NEIGHBOURS, 0));
        let ticks: u64 = report.by_interval.iter().map(|group| group.ticks).sum();
        assert_eq!(ticks, NEIGHBOURS as u64, "{report:?}");
    }

    #[test]
    fn every_interval_has_its_neighbours() {
        let report = report(&[], Instant::now());
        assert_eq!(report.by_interval.len() * PER_INTERVAL, NEIGHBOURS);
        assert_eq!(NEIGHBOURS, 12);
    }
}
