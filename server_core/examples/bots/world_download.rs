//! A client of the world_download example: a plain socket that is read at a given rate, with pings.

use crate::{CPing, SPong, STick, SWorld, WORLD};
use server_core::wire::HEADER_BYTES;
use server_core::{Config, ContentReceiver, ContentSender, OutgoingPacket, Packet};
use socket2::{Domain, Socket, Type};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What one reader measured.
pub struct Found {
    bytes: usize,
    took: Duration,
    ticks: u64,
    longest_gap: Duration,
    pings: Vec<Duration>,
    /// The most bytes that were read between a ping and its answer, or between the broadcast of a tick and
    /// the tick.
    most_ahead: usize,
    /// The limit of `most_ahead`. It counts bytes and no time: a busy machine that delays the reader, the
    /// server or both moves no packet behind more bytes.
    limit: usize,
}

/// A larger receive buffer would hold seconds of a slow reader's packets, out of the server's sight.
/// Linux doubles it.
const RECV_BUFFER_BYTES: usize = 32 << 10;
const READ_BYTES: usize = 4096;
const PING: Duration = Duration::from_millis(100);
/// A reader that overslept catches up with this much.
const CATCH_UP: Duration = Duration::from_millis(50);
/// The kernel takes up to this number of bytes beyond its limit of unsent bytes.
const SEGMENT_BYTES: usize = 64 << 10;

/// Receives the world at `rate` bytes a second, and checks every byte of it, every tick and every
/// answer. `last_tick` is the tick that the server has broadcast last.
pub fn download(
    addr: SocketAddr,
    world: &[u8],
    rate: u32,
    last_tick: &AtomicU64,
) -> Result<Found, String> {
    let mut reader = Reader::connect(addr, world.len(), rate).map_err(|error| error.to_string())?;
    let expected = Duration::from_secs_f64(world.len() as f64 / f64::from(rate));
    let patience = 2 * expected + Duration::from_secs(30);
    while !reader.is_done {
        if reader.began.elapsed() > patience {
            let received = reader.world.received_bytes();
            return Err(format!("{received} bytes of the world after {patience:?}"));
        }
        reader.step(world)?;
        reader.await_tick(last_tick.load(Ordering::Acquire));
    }
    reader.wait_no_more();
    let found = reader.found;
    let checks = [
        (found.took >= expected.mul_f64(0.9), "the reader is slow"),
        (found.ticks > 0, "ticks come"),
        (!found.pings.is_empty(), "answers come"),
        (
            found.most_ahead <= found.limit,
            "ticks and answers are behind few bytes",
        ),
    ];
    match checks.iter().find(|(holds, _)| !holds) {
        Some((_, claim)) => Err(format!("not so: {claim}: {}", sum_up(vec![found]))),
        None => Ok(found),
    }
}

pub fn sum_up(found: Vec<Found>) -> String {
    let lines = found.into_iter().map(|mut found| {
        found.pings.sort();
        let ping = |share: usize| {
            let last = found.pings.len().saturating_sub(1);
            let ping = found.pings.get(last * share / 100);
            ping.map_or(0, Duration::as_millis)
        };
        let seconds = found.took.as_secs_f64();
        format!(
            "{} bytes in {seconds:.1} s ({:.0} kB/s), {} ticks, none missing, at most {} ms apart; \
             {} pings: p50 {} ms, p99 {} ms, max {} ms; at most {} bytes ahead (limit {})",
            found.bytes,
            found.bytes as f64 / seconds / 1000.0,
            found.ticks,
            found.longest_gap.as_millis(),
            found.pings.len(),
            ping(50),
            ping(99),
            ping(100),
            found.most_ahead,
            found.limit,
        )
    });
    lines.collect::<Vec<_>>().join("\n        ")
}

struct Reader {
    stream: TcpStream,
    rate: f64,
    began: Instant,
    read_at: Instant,
    ping_at: Instant,
    read_bytes: usize,
    /// When each ping without an answer was sent, and `read_bytes` then, the oldest first.
    waiting: VecDeque<(Instant, usize)>,
    /// A tick that was broadcast and has not come, and `read_bytes` when the reader learned that.
    waiting_tick: Option<(u64, usize)>,
    pings_sent: u32,
    last_tick: Option<(u64, Instant)>,
    world: ContentReceiver,
    is_done: bool,
    /// What was read and is not a whole packet.
    input: Vec<u8>,
    found: Found,
}

impl Reader {
    fn connect(addr: SocketAddr, bytes: usize, rate: u32) -> std::io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        socket.set_recv_buffer_size(RECV_BUFFER_BYTES)?;
        socket.connect(&addr.into())?;
        socket.set_tcp_nodelay(true)?;
        // What can lie in front of a packet: the window, what the two sockets hold, and a second window that
        // the server may send before it sees the packet.
        let unsent = Config::default().unsent_window_bytes.unwrap_or_default();
        let window = ContentSender::<SWorld>::DEFAULT_WINDOW_BYTES;
        let limit = 2 * window + unsent as usize + SEGMENT_BYTES + 2 * RECV_BUFFER_BYTES;
        let rate = f64::from(rate);
        let now = Instant::now();
        Ok(Self {
            stream: socket.into(),
            rate,
            began: now,
            read_at: now,
            ping_at: now,
            read_bytes: 0,
            waiting: VecDeque::new(),
            waiting_tick: None,
            pings_sent: 0,
            last_tick: None,
            world: ContentReceiver::new(bytes),
            is_done: false,
            input: Vec::new(),
            found: Found {
                bytes,
                took: Duration::ZERO,
                ticks: 0,
                longest_gap: Duration::ZERO,
                pings: Vec::new(),
                most_ahead: 0,
                limit,
            },
        })
    }

    /// Notes that this tick was broadcast, unless the reader waits for an earlier tick.
    fn await_tick(&mut self, tick: u64) {
        if self.waiting_tick.is_none() && self.last_tick.is_some_and(|(last, _)| tick > last) {
            self.waiting_tick = Some((tick, self.read_bytes));
        }
    }

    fn note_ahead(&mut self, read_before: usize) {
        let ahead = self.read_bytes - read_before;
        self.found.most_ahead = self.found.most_ahead.max(ahead);
    }

    /// The world is here: a tick and an answer that should have come by now are behind what was read since.
    fn wait_no_more(&mut self) {
        let now = Instant::now();
        let last_tick_at = self.last_tick.map_or(self.began, |(_, at)| at);
        self.found.longest_gap = self.found.longest_gap.max(now - last_tick_at);
        let pings = self.waiting.iter().map(|(_, read)| *read);
        let ticks = self.waiting_tick.iter().map(|(_, read)| *read);
        if let Some(read) = pings.chain(ticks).min() {
            self.note_ahead(read);
        }
    }

    /// Sends a ping if one is due, and reads if it is time to.
    fn step(&mut self, world: &[u8]) -> Result<(), String> {
        let now = Instant::now();
        if now >= self.ping_at {
            self.ping(now).map_err(|error| error.to_string())?;
        }
        if now < self.read_at {
            thread::sleep(self.read_at.min(self.ping_at) - now);
            return Ok(());
        }
        let wait = (self.ping_at - now).max(Duration::from_millis(1));
        let mut bytes = [0; READ_BYTES];
        let read =
            (self.stream.set_read_timeout(Some(wait))).and_then(|()| self.stream.read(&mut bytes));
        let count = match read {
            Ok(0) => return Err("the server has closed the connection".into()),
            Ok(count) => count,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {
                    return Ok(());
                }
                _ => return Err(error.to_string()),
            },
        };
        let now = Instant::now();
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        self.read_at =
            self.read_at.max(earliest) + Duration::from_secs_f64(count as f64 / self.rate);
        self.read_bytes += count;
        self.input.extend_from_slice(&bytes[..count]);
        self.take_packets(world, now)
    }

    fn ping(&mut self, now: Instant) -> Result<(), Box<dyn std::error::Error>> {
        let ping = CPing {
            number: self.pings_sent.into(),
        };
        let mut bytes = vec![0; ping.packet_bytes()?];
        ping.write_packet(&mut bytes);
        self.stream.write_all(&bytes)?;
        self.waiting.push_back((now, self.read_bytes));
        self.pings_sent += 1;
        self.ping_at = now + PING;
        Ok(())
    }

    fn take_packets(&mut self, world: &[u8], now: Instant) -> Result<(), String> {
        let input = std::mem::take(&mut self.input);
        let mut left = &input[..];
        while let [low, high, id_low, id_high, ..] = *left
            && let size = usize::from(u16::from_le_bytes([low, high])).max(HEADER_BYTES)
            && let Some((packet, behind)) = left.split_at_checked(size)
        {
            let id = u16::from_le_bytes([id_low, id_high]);
            self.take(Packet::new(id, &packet[HEADER_BYTES..]), world, now)?;
            left = behind;
        }
        self.input = left.to_vec();
        Ok(())
    }

    fn take(&mut self, packet: Packet<'_>, world: &[u8], now: Instant) -> Result<(), String> {
        match packet.id() {
            STick::ID => {
                let tick = packet.decode::<STick>().map_err(|kick| kick.to_string())?;
                let number = tick.number.get();
                if let Some((last, at)) = self.last_tick.replace((number, now)) {
                    if number != last + 1 {
                        return Err(format!("tick {number} after {last}"));
                    }
                    self.found.longest_gap = self.found.longest_gap.max(now - at);
                }
                if let Some((_, read)) = self.waiting_tick.take_if(|(tick, _)| *tick <= number) {
                    self.note_ahead(read);
                }
                self.found.ticks += 1;
            }
            SPong::ID => {
                let pong = packet.decode::<SPong>().map_err(|kick| kick.to_string())?;
                let number = pong.number.get() as usize;
                match self.waiting.pop_front() {
                    Some((sent, read)) if number == self.found.pings.len() => {
                        self.found.pings.push(now - sent);
                        self.note_ahead(read);
                    }
                    _ => return Err(format!("answer {number} to no ping")),
                }
            }
            SWorld::ID => {
                let piece = self.world.push(packet.payload());
                if let Some(content) = piece.map_err(|error| error.to_string())? {
                    if content.id != WORLD || content.bytes != world {
                        return Err("another world".into());
                    }
                    self.is_done = true;
                    self.found.took = now - self.began;
                }
            }
            id => return Err(format!("a packet {id}")),
        }
        Ok(())
    }
}
