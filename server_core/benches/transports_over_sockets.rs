//! The cost of a broadcast over WebSocket beside that over plain TCP, over real sockets: processor time for a
//! delivered packet of 64 bytes, one and ten packets a turn, at 100, 1,000 and 10,000 sessions.
//!
//! One worker broadcasts in a callback, when the sockets have accepted all packets before. The clients are another
//! process, which reads and discards. The processor time is that of the server, user and system. The ratio
//! is of two measurements in direct succession. Linux only.
//!
//! ```sh
//! cargo bench -p server_core --bench transports_over_sockets -- [SESSIONS..]
//! ```

use mio::net::TcpStream as Socket;
use mio::{Events, Interest, Poll, Token};
use server_core::metrics::Metrics;
use server_core::{
    Context, Kick, ListenerKind, Packet, Server, ServerHandle, Session, WebSocketServerConfig,
};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

server_core::packets! {
    /// 64 bytes with its header.
    server 1 => SHello { tick: u64 } + bytes;
}

const ROUNDS: usize = 5;
/// The packets that one measurement delivers at least.
const PACKETS: u64 = 400_000;
const TAIL: [u8; 52] = [7; 52];
const PATIENCE: Duration = Duration::from_secs(120);
/// The first argument of the process of clients. The address, the transport and the number of clients follow.
const CLIENTS: &str = "clients-of";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// The state of one measurement.
#[derive(Default)]
struct Run {
    handle: OnceLock<ServerHandle>,
    sessions: u64,
    packets_a_turn: u64,
    /// Packets to broadcast, and those that were.
    asked: AtomicU64,
    sent: AtomicU64,
    /// The sessions so far. The first broadcasts.
    arrived: AtomicU64,
}

struct Player {
    run: Arc<Run>,
    is_first: bool,
}

impl Session for Player {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        self.is_first = self.run.arrived.fetch_add(1, Ordering::Relaxed) == 0;
        if self.is_first {
            ctx.set_timer(ctx.now() + Duration::from_millis(1));
        }
    }

    fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
        Ok(())
    }

    fn on_timer(&mut self, ctx: &mut Context<'_>) {
        let run = &self.run;
        let (asked, sent) = (&run.asked, &run.sent);
        let delivered = run
            .handle
            .get()
            .map(|handle| handle.metrics().totals().packets_sent);
        let is_idle = delivered == Some(sent.load(Ordering::Relaxed) * run.sessions);
        if is_idle && sent.load(Ordering::Relaxed) < asked.load(Ordering::Acquire) {
            for tick in 0..run.packets_a_turn {
                ctx.broadcast(&SHello { tick: tick.into() }, TAIL);
            }
            sent.fetch_add(run.packets_a_turn, Ordering::Release);
        }
        ctx.set_timer(ctx.now() + Duration::from_micros(100));
    }
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip_while(|argument| argument != CLIENTS);
    if let (Some(_), Some(addr), Some(kind), Some(count)) = (
        arguments.next(),
        arguments.next(),
        arguments.next(),
        arguments.next(),
    ) {
        return be_clients(
            &addr,
            kind == "ws",
            count.parse().map_err(io::Error::other)?,
        );
    }
    let mut counts: Vec<u64> = std::env::args()
        .filter_map(|text| text.parse().ok())
        .collect();
    if counts.is_empty() {
        counts = vec![100, 1_000, 10_000];
    }
    println!(
        "processor time of the server for a delivered packet of 64 bytes, median of {ROUNDS} rounds"
    );
    println!(
        "{:>9} {:>8} {:>9} {:>9} {:>6}",
        "sessions", "packets", "TCP", "WebSocket", "ratio"
    );
    for sessions in counts {
        for packets_a_turn in [1, 10] {
            let (mut tcp, mut websocket, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let plain = measure(false, sessions, packets_a_turn)?;
                let framed = measure(true, sessions, packets_a_turn)?;
                tcp.push(plain);
                websocket.push(framed);
                ratios.push(framed / plain);
            }
            let [tcp, websocket, ratio] = [tcp, websocket, ratios].map(median);
            println!(
                "{sessions:>9} {:>8} {tcp:>6.0} ns {websocket:>6.0} ns {ratio:>6.3}",
                format!("64 B x {packets_a_turn}")
            );
        }
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Nanoseconds of processor time for a delivered packet.
fn measure(is_websocket: bool, sessions: u64, packets_a_turn: u64) -> io::Result<f64> {
    let run = Arc::new(Run {
        sessions,
        packets_a_turn,
        ..Run::default()
    });
    let players = Arc::clone(&run);
    let server = Server::builder()
        .workers(1)
        .listen(
            ListenerKind::WebSocket(WebSocketServerConfig::default()),
            "127.0.0.1:0",
        )
        .start("127.0.0.1:0", move |_| Player {
            run: Arc::clone(&players),
            is_first: false,
        })?;
    let _ = run.handle.set(server.handle());
    let (kind, which) = if is_websocket { ("ws", 1) } else { ("tcp", 0) };
    let addr = server.local_addrs()[which].1.to_string();
    let mut clients = Command::new(std::env::current_exe()?)
        .args([CLIENTS, &addr, kind, &sessions.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let handle = server.handle();
    let outcome = wait("the clients", || {
        handle.metrics().totals().sessions == sessions
    })
    .and_then(|()| deliver(&run, &handle, PACKETS / 10))
    .and_then(|_| deliver(&run, &handle, PACKETS));
    handle.shutdown(Duration::ZERO);
    server.join()?;
    let _ = clients.kill();
    clients.wait()?;
    outcome
}

/// Broadcasts until this number of packets is delivered.
fn deliver(run: &Run, handle: &ServerHandle, packets: u64) -> io::Result<f64> {
    let turns = packets.div_ceil(run.sessions * run.packets_a_turn).max(10);
    let metrics: &Metrics = handle.metrics();
    let before = (cpu_nanos()?, metrics.totals().packets_sent);
    let asked = run.asked.load(Ordering::Relaxed) + turns * run.packets_a_turn;
    run.asked.store(asked, Ordering::Release);
    wait("packets", || {
        metrics.totals().packets_sent == asked * run.sessions
    })?;
    let packets = metrics.totals().packets_sent - before.1;
    Ok((cpu_nanos()? - before.0) / packets as f64)
}

fn wait(what: &str, holds: impl Fn() -> bool) -> io::Result<()> {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("waited too long for {what}")));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The processor time of all threads of this process so far.
fn cpu_nanos() -> io::Result<f64> {
    let mut sum = 0.0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let stat = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let nanos = stat
            .split(' ')
            .next()
            .and_then(|text| text.parse::<f64>().ok());
        sum += nanos.ok_or_else(|| io::Error::other("schedstat has another format"))?;
    }
    Ok(sum)
}

/// Connects, and reads and discards until the server ends.
fn be_clients(addr: &str, is_websocket: bool, count: usize) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut all = Vec::new();
    for number in 0..count {
        let mut stream = TcpStream::connect(addr)?;
        if is_websocket {
            stream.write_all(REQUEST)?;
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte)?;
                head.push(byte[0]);
            }
        }
        stream.set_nonblocking(true)?;
        let mut socket = Socket::from_std(stream);
        poll.registry()
            .register(&mut socket, Token(number), Interest::READABLE)?;
        all.push(socket);
    }
    let (mut events, mut memory) = (Events::with_capacity(1024), vec![0; 64 << 10]);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            let socket = &mut all[event.token().0];
            loop {
                match socket.read(&mut memory) {
                    // The server has ended.
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
    }
}
