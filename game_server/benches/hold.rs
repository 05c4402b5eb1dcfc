//! Measures, on the real server and from outside, each figure that the server has to hold: times, memory,
//! processor time. The figures depend on the machine, so they are not tests. `scripts/hold.sh` runs the
//! measurements, prints a table, and fails if a figure is over its limit.
//!
//! `cargo bench -p game_server --bench hold -- flood period` runs the measurements
//! whose names contain one of these words.

// A failed unwrap is a failed measurement, also in a helper.
#![allow(clippy::unwrap_used)]

#[path = "../tests/util/mod.rs"]
mod util;

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use util::{
    C_CHAT, C_ECHO, Client, QUIET, S_BYE, S_ECHO, S_HELLO, Server, header, packet, queued_bytes,
    stat, wait_until,
};

const MB: f64 = 1e6;
/// A gauge in the log is rounded to three or four digits.
const ROUNDING: f64 = 1.01;
/// The default of `--max-send-queue-bytes`.
const QUEUE_LIMIT: f64 = 1_048_576.0;
/// Longest wait for a slow event: twice the time that the slowest measurement needs.
const PATIENCE: Duration = Duration::from_secs(240);

/// A line of the table.
struct Figure {
    what: &'static str,
    limit: String,
    measured: String,
    holds: bool,
}

type Measurement = (&'static str, fn() -> Vec<Figure>);

const MEASUREMENTS: [Measurement; 13] = [
    ("claims", claims),
    ("packet-timeout", packet_timeout),
    ("send-queue", send_queue),
    ("pinning", pinning),
    ("descriptors", descriptors),
    ("connects", connects),
    ("chat-flood", chat_flood),
    ("echo-flood", echo_flood),
    ("period", period),
    ("shutdown", shutdown),
    ("churn", churn),
    ("broadcasts", broadcasts),
    ("linear", linear),
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` runs this program too, without `--bench`: it must not measure then.
    if !words.iter().any(|word| word == "--bench") {
        return;
    }
    let words: Vec<String> = (words.into_iter())
        .filter(|word| !word.starts_with("--"))
        .collect();
    let is_wanted =
        |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    // This measurement waits nearly all the time, so it runs beside the other measurements.
    let slow_readers = is_wanted("slow-readers").then(|| thread::spawn(slow_readers));
    println!("{:44} {:>26} {:>26}", "figure", "limit", "measured");
    let mut all_hold = true;
    let mut show = |figures: Vec<Figure>| {
        for figure in figures {
            let verdict = if figure.holds { "ok" } else { "FAILED" };
            let Figure {
                what,
                limit,
                measured,
                ..
            } = figure;
            println!("{what:44} {limit:>26} {measured:>26}  {verdict}");
            all_hold &= figure.holds;
        }
    };
    for (_, measure) in MEASUREMENTS.iter().filter(|(name, _)| is_wanted(name)) {
        show(measure());
    }
    if let Some(slow_readers) = slow_readers {
        show(slow_readers.join().unwrap());
    }
    if !all_hold {
        std::process::exit(1);
    }
}

// ---- figures ------------------------------------------------------------------------------------

fn at_most(what: &'static str, measured: f64, limit: f64, unit: &str) -> Figure {
    Figure {
        what,
        limit: format!("at most {limit:.1} {unit}"),
        measured: format!("{measured:.2} {unit}"),
        holds: measured <= limit,
    }
}

fn between(what: &'static str, measured: (f64, f64), limits: (f64, f64), unit: &str) -> Figure {
    Figure {
        what,
        limit: format!("{} to {} {unit}", limits.0, limits.1),
        measured: format!("{:.3} to {:.3} {unit}", measured.0, measured.1),
        holds: limits.0 <= measured.0 && measured.1 <= limits.1,
    }
}

fn is_so(what: &'static str, holds: bool) -> Figure {
    Figure {
        what,
        limit: "yes".into(),
        measured: if holds { "yes" } else { "no" }.into(),
        holds,
    }
}

fn quiet(more: &[&'static str]) -> Server {
    Server::start(&[&QUIET[..], more].concat())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / MB
}

fn grown(before: u64, after: u64) -> f64 {
    mb(after.saturating_sub(before))
}

/// The largest value of a number in all `stats:` lines from `first` on.
fn largest(server: &Server, first: usize, read: impl Fn(&str) -> Option<f64>) -> f64 {
    let lines = server.lines();
    lines[first..]
        .iter()
        .filter_map(|line| read(line))
        .fold(0.0, f64::max)
}

fn chunks_live(line: &str) -> Option<f64> {
    stat(line, "chunks live").map(|count| count as f64)
}

/// Waits for a statistics line that the server wrote after all earlier steps of the measurement.
fn fresh_stats(server: &Server) -> String {
    server.wait_for_new_line_where("statistics", |line| line.contains("stats: "));
    server.wait_for_new_line_where("statistics", |line| line.contains("stats: "))
}

fn wait_for_sessions(server: &Server, count: u64) {
    wait_until("the number of sessions", PATIENCE, || {
        let lines = server.lines();
        lines.iter().rev().find_map(|line| stat(line, "sessions")) == Some(count)
    });
}

/// Reads a session on a thread of its own, and records the longest time between two ticks.
struct Watcher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Watched>,
}

struct Watched {
    ticks: u64,
    worst_gap: Duration,
    lost: u64,
}

impl Watcher {
    fn watch(mut client: Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        let watch = move || {
            let mut watched = Watched {
                ticks: 0,
                worst_gap: Duration::ZERO,
                lost: 0,
            };
            let (mut last, _) = client.next_hello();
            let mut last_at = Instant::now();
            while !is_stopped.load(Ordering::Acquire) {
                let (tick, _) = client.next_hello();
                let now = Instant::now();
                watched.ticks += 1;
                watched.lost += tick - last - 1;
                watched.worst_gap = watched.worst_gap.max(now - last_at);
                (last, last_at) = (tick, now);
            }
            watched
        };
        let thread = thread::Builder::new().stack_size(128 << 10).spawn(watch);
        Self {
            stop,
            thread: thread.unwrap(),
        }
    }

    fn end(self) -> Watched {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap()
    }
}

// ---- the measurements ---------------------------------------------------------------------------

fn claims() -> Vec<Figure> {
    let server = quiet(&[]);
    let mut clients: Vec<Client> = (0..500).map(|_| server.join()).collect();
    let (rss, data) = (server.rss_bytes(), server.data_bytes());
    for client in &mut clients {
        client.send(&[&header(u16::MAX, C_ECHO)[..], &[1]].concat());
    }
    // An answer from each worker means that the worker has read all earlier input.
    (0..8).for_each(|_| drop(server.join()));
    vec![
        at_most(
            "500 claims of 65,535: resident",
            grown(rss, server.rss_bytes()),
            8.0,
            "MB",
        ),
        at_most(
            "500 claims of 65,535: private mapping",
            grown(data, server.data_bytes()),
            16.0,
            "MB",
        ),
    ]
}

fn packet_timeout() -> Vec<Figure> {
    let server = quiet(&["--packet-timeout-ms", "1000"]);
    let mut idle: Vec<Client> = (0..20).map(|_| server.join()).collect();
    // Each packet of a session begins when the previous packet ends.
    let mut young: Vec<Client> = (0..20).map(|_| server.join()).collect();
    let bytes = packet(C_ECHO, b"young");
    let (front, back) = bytes.split_at(5);
    young.iter_mut().for_each(|client| client.send(front));
    let slow: Vec<_> = (0..20)
        .map(|n| {
            let mut client = server.join();
            thread::spawn(move || {
                let mut sender = client.sender();
                let from = Instant::now();
                client.send(&header(500, C_ECHO));
                let dripping = thread::spawn(move || {
                    // Half of the sessions go on sending single bytes, which must not extend the deadline.
                    while n % 2 == 0 && sender.write_all(&[1]).is_ok() {
                        thread::sleep(Duration::from_millis(50));
                    }
                });
                let is_bye = client.next_but_hello().id == S_BYE;
                let took = from.elapsed();
                drop(client);
                dripping.join().unwrap();
                assert!(is_bye);
                took.as_secs_f64()
            })
        })
        .collect();
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(400));
        for client in &mut young {
            client.send(&[back, front].concat());
            client.expect_echo(b"young");
        }
    }
    let times: Vec<f64> = slow.into_iter().map(|one| one.join().unwrap()).collect();
    idle.iter_mut()
        .for_each(|client| client.echo(b"still here"));
    let shortest = times.iter().copied().fold(f64::MAX, f64::min);
    let longest = times.iter().copied().fold(0.0, f64::max);
    vec![
        between(
            "packet timeout of 1,000 ms",
            (shortest, longest),
            (0.9, 1.3),
            "s",
        ),
        is_so("idle sessions and young packets stay", true),
    ]
}

fn send_queue() -> Vec<Figure> {
    const PACKET: f64 = 60_004.0;
    const TICK_SECS: f64 = 0.02;
    const GRACE_SECS: f64 = 1.0;
    let flags = ["--tick-ms", "20", "--payload-bytes", "60000"];
    let limits = ["--max-send-lag-ms", "0", "--stats-interval-secs", "0.01"];
    let server = Server::start(&[&flags[..], &limits].concat());
    let mut rounds = Vec::new();
    for _ in 0..6 {
        let deaf: Vec<Client> = (0..50)
            .map(|_| Client::connect_with_recv_buffer(server.addr, 16 << 10))
            .collect();
        server.wait_for_new_line_where("50 sessions", |line| stat(line, "sessions") == Some(50));
        wait_for_sessions(&server, 0);
        drop(deaf);
        fresh_stats(&server);
        rounds.push(server.rss_bytes());
    }
    let most = largest(&server, 0, queued_bytes);
    // A queue may be over its limit for `--max-send-grace-ms`; ticks add this number of bytes in that time.
    let in_grace = GRACE_SECS * PACKET / TICK_SECS;
    let allowed = 50.0 * (QUEUE_LIMIT + in_grace + PACKET) * ROUNDING;
    let first = mb(rounds[0]);
    let worst = rounds.iter().copied().map(mb).fold(0.0, f64::max);
    vec![
        at_most(
            "send queues of 50 deaf peers",
            most / MB,
            allowed / MB,
            "MB",
        ),
        at_most(
            "memory after each of six rounds",
            worst,
            first + (first * 0.1).max(4.0),
            "MB",
        ),
    ]
}

fn pinning() -> Vec<Figure> {
    let flags = ["--payload-bytes", "1000", "--tick-ms", "50"];
    let limits = [
        "--max-send-lag-ms",
        "0",
        "--max-send-queue-bytes",
        "4000000",
    ];
    let server = Server::start(&[&flags[..], &limits, &["--stats-interval-secs", "0.05"]].concat());
    let mut busy: Vec<Client> = (0..50).map(|_| server.join()).collect();
    let deaf: Vec<Client> = (0..50)
        .map(|_| Client::connect_with_recv_buffer(server.addr, 16 << 10))
        .collect();
    fresh_stats(&server);
    let (rss, first) = (server.rss_bytes(), server.lines().len());
    let (from, mut most) = (Instant::now(), 0.0_f64);
    while from.elapsed() < Duration::from_secs(60) {
        for client in &mut busy {
            client.echo(&[7; 300]);
        }
        most = most.max(grown(rss, server.rss_bytes()));
        thread::sleep(Duration::from_millis(10));
    }
    let queued = largest(&server, first, queued_bytes) / MB;
    let chunks = largest(&server, first, chunks_live);
    let all_stayed = stat(&fresh_stats(&server), "sessions") == Some(100);
    drop(deaf);
    vec![
        at_most(
            "50 deaf beside 50 busy, 60 s: live chunks",
            chunks,
            16.0,
            "",
        ),
        // The last block of a queue may be nearly empty, and the allocator keeps some blocks.
        at_most(
            "the same: memory above their queues",
            most - queued,
            50.0 * 16_384.0 / MB + 4.0,
            "MB",
        ),
        is_so("the same: all sessions stayed", all_stayed && queued > 10.0),
    ]
}

fn descriptors() -> Vec<Figure> {
    let flags = [
        &QUIET[..],
        &["--max-sessions", "1000", "--stats-interval-secs", "0"],
    ]
    .concat();
    let server = Server::start_with_ulimit("-n 100", &flags);
    let mut served: Vec<Client> = Vec::new();
    while !server
        .lines()
        .iter()
        .any(|line| line.contains("accept paused"))
    {
        assert!(served.len() < 1000);
        served.push(server.connect());
        thread::sleep(Duration::from_millis(2));
    }
    let mut waiting: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    let (cpu, lines, from) = (server.cpu_ticks(), server.lines().len(), Instant::now());
    thread::sleep(Duration::from_secs(5));
    let seconds = from.elapsed().as_secs_f64();
    let used = (server.cpu_ticks() - cpu) as f64 / seconds;
    let said = (server.lines().len() - lines) as f64 / seconds;
    // The last session of `served` may still wait for a descriptor, so two sessions leave.
    let mut times = Vec::new();
    for client in &mut waiting {
        (0..2).for_each(|_| drop(served.remove(0)));
        let from = Instant::now();
        client.echo(b"at last");
        times.push(from.elapsed().as_secs_f64());
    }
    let longest = times.into_iter().fold(0.0, f64::max);
    vec![
        at_most("out of descriptors: processor", used, 5.0, "%"),
        at_most("out of descriptors: log", said, 5.0, "lines/s"),
        at_most(
            "a waiting client, after a descriptor is free",
            longest,
            1.0,
            "s",
        ),
    ]
}

fn connects() -> Vec<Figure> {
    const THREADS: usize = 20;
    let server = quiet(&[]);
    let start = Arc::new(Barrier::new(THREADS + 1));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (addr, start) = (server.addr, Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                let mut clients: Vec<Client> = (0..1000 / THREADS)
                    .map(|_| {
                        let mut client = Client::connect(addr);
                        client.send(&packet(C_ECHO, b"me too"));
                        client
                    })
                    .collect();
                clients
                    .iter_mut()
                    .for_each(|client| client.expect_echo(b"me too"));
                (Instant::now(), clients)
            })
        })
        .collect();
    start.wait();
    let from = Instant::now();
    let ends: Vec<(Instant, Vec<Client>)> =
        threads.into_iter().map(|one| one.join().unwrap()).collect();
    let last = ends.iter().map(|(at, _)| *at).max().unwrap();
    vec![at_most(
        "1,000 connects at once, all served",
        (last - from).as_secs_f64(),
        1.0,
        "s",
    )]
}

/// Reads in large pieces: the server kicks a session that reads too slowly, and reads of one packet each are
/// too slow for the flood before the hello.
fn read_to_first_hello(stream: &TcpStream) {
    let mut input = BufReader::with_capacity(1 << 20, stream);
    let (mut header, mut payload) = ([0; 4], Vec::new());
    while header[2..] != S_HELLO.to_le_bytes() {
        input.read_exact(&mut header).unwrap();
        payload.resize(
            usize::from(u16::from_le_bytes([header[0], header[1]])) - 4,
            0,
        );
        input.read_exact(&mut payload).unwrap();
    }
}

fn chat_flood() -> Vec<Figure> {
    let server = Server::start(&["--max-chats-per-sec", "0", "--stats-interval-secs", "0.1"]);
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..60)
        .map(|_| {
            let (mut client, stop) = (server.join(), Arc::clone(&stop));
            thread::spawn(move || {
                // The server kicks a reader that is too slow for this flood; the kick is not measured.
                while !stop.load(Ordering::Acquire) && matches!(client.try_next(), Ok(Some(_))) {}
            })
        })
        .collect();
    let before = server.rss_bytes();
    let flooder = server.join();
    let mut sender = flooder.sender();
    let flooding = thread::spawn(move || {
        let burst = packet(C_CHAT, [b'x'; 512]).repeat(200);
        while sender.write_all(&burst).is_ok() {}
    });
    let listening = thread::spawn(move || {
        let mut flooder = flooder;
        while matches!(flooder.try_next(), Ok(Some(_))) {}
    });
    let (from, mut most, mut first_tick) = (Instant::now(), 0.0_f64, Duration::ZERO);
    while from.elapsed() < Duration::from_secs(10) {
        let asked = Instant::now();
        let newcomer = server.connect();
        read_to_first_hello(&newcomer.stream);
        first_tick = first_tick.max(asked.elapsed());
        drop(newcomer);
        for _ in 0..20 {
            most = most.max(grown(before, server.rss_bytes()));
            thread::sleep(Duration::from_millis(10));
        }
    }
    stop.store(true, Ordering::Release);
    drop(server);
    for thread in readers.into_iter().chain([flooding, listening]) {
        thread.join().unwrap();
    }
    let allowed = 61.0 * QUEUE_LIMIT / MB + 96.0;
    vec![
        at_most(
            "chat flood to 60 readers, budget off: memory",
            most,
            allowed,
            "MB",
        ),
        at_most(
            "the same: a new session's first tick",
            ms(first_tick),
            450.0,
            "ms",
        ),
    ]
}

fn echo_flood() -> Vec<Figure> {
    const TICK_MS: f64 = 50.0;
    let server = Server::start(&["--tick-ms", "50", "--workers", "1"]);
    let watchers: Vec<Watcher> = (0..5).map(|_| Watcher::watch(server.join())).collect();
    let mut healthy = server.join();
    let mut flooder = server.join();
    let mut sender = flooder.sender();
    let flooding = thread::spawn(move || {
        let burst = packet(C_ECHO, [9; 100]).repeat(1000);
        while sender.write_all(&burst).is_ok() {}
    });
    let reading = thread::spawn(move || {
        let mut answers = 0_u64;
        while let Ok(Some(packet)) = flooder.try_next() {
            answers += u64::from(packet.id == S_ECHO);
        }
        answers
    });
    let (from, mut times) = (Instant::now(), Vec::new());
    while from.elapsed() < Duration::from_secs(10) {
        let asked = Instant::now();
        healthy.echo(b"in between");
        times.push(ms(asked.elapsed()));
        thread::sleep(Duration::from_millis(5));
    }
    let watched: Vec<Watched> = watchers.into_iter().map(Watcher::end).collect();
    drop(server);
    flooding.join().unwrap();
    let answers = reading.join().unwrap();
    times.sort_by(f64::total_cmp);
    let p95 = times[times.len() * 95 / 100];
    let gap = watched.iter().map(|one| one.worst_gap).max().unwrap();
    vec![
        at_most(
            "echo flood, one worker: others' worst tick gap",
            ms(gap),
            TICK_MS + 200.0,
            "ms",
        ),
        at_most("the same: others' echo, 95 of 100", p95, 100.0, "ms"),
        is_so("the same: it was a flood, and no tick was lost", {
            answers > 100_000 && watched.iter().all(|one| one.lost == 0)
        }),
    ]
}

fn period() -> Vec<Figure> {
    let mean_error = |tick_ms: &'static str, ticks: u32| {
        let server = Server::start(&["--tick-ms", tick_ms]);
        let mut client = server.join();
        client.next_hello();
        let (first, _) = client.next_hello();
        let from = Instant::now();
        let mut last = first;
        while last < first + u64::from(ticks) {
            last = client.next_hello().0;
        }
        let mean = ms(from.elapsed()) / (last - first) as f64;
        let period: f64 = tick_ms.parse().unwrap();
        (mean / period - 1.0).abs() * 100.0
    };
    let (slow, fast) = (mean_error("250", 80), mean_error("10", 1000));

    let server = Server::start(&["--tick-ms", "100"]);
    let watchers: Vec<Watcher> = (0..500).map(|_| Watcher::watch(server.join())).collect();
    thread::sleep(Duration::from_secs(10));
    let watched: Vec<Watched> = watchers.into_iter().map(Watcher::end).collect();
    let gap = watched.iter().map(|one| one.worst_gap).max().unwrap();
    let is_whole = watched.iter().all(|one| one.lost == 0 && one.ticks > 90);
    vec![
        at_most("mean period at 250 ms is off by", slow, 0.5, "%"),
        at_most("mean period at 10 ms is off by", fast, 0.5, "%"),
        at_most("500 sessions at 100 ms: worst gap", ms(gap), 350.0, "ms"),
        is_so("the same: every tick for each session", is_whole),
    ]
}

fn shutdown() -> Vec<Figure> {
    let flags = [
        "--tick-ms",
        "10",
        "--payload-bytes",
        "20000",
        "--drain-secs",
        "1",
    ];
    let limits = [
        "--max-send-lag-ms",
        "0",
        "--max-send-queue-bytes",
        "100000000",
    ];
    let mut server = Server::start(&[&flags[..], &limits].concat());
    let deaf: Vec<Client> = (0..10)
        .map(|_| Client::connect_with_recv_buffer(server.addr, 16 << 10))
        .collect();
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let mut client = server.join();
            thread::spawn(move || {
                // An end in the middle of a packet is an error, and so is a reset.
                let mut last = None;
                while let Some(packet) = client.try_next().unwrap() {
                    last = Some(packet.id);
                }
                last == Some(S_BYE)
            })
        })
        .collect();
    thread::sleep(Duration::from_secs(1));
    let from = Instant::now();
    server.signal("TERM");
    let all_told = readers.into_iter().all(|one| one.join().unwrap_or(false));
    let status = server.wait_for_exit();
    let took = from.elapsed().as_secs_f64();
    // A peer that did not read finds whole packets up to where the server gave up, then the end.
    drop(deaf);
    vec![
        at_most("shutdown with deaf peers, drain of 1 s", took, 2.0, "s"),
        is_so(
            "the same: status 0, S_BYE, no torn packet",
            all_told && status.success(),
        ),
    ]
}

fn churn() -> Vec<Figure> {
    let server = quiet(&["--stats-interval-secs", "0.05"]);
    let wave = |count: usize| {
        let clients: Vec<Client> = (0..count).map(|_| server.join()).collect();
        drop(clients);
        wait_for_sessions(&server, 0);
    };
    // The first wave brings memory to the size that 500 sessions need.
    (0..2).for_each(|_| wave(500));
    let fds = server.resting_fds();
    let rss = server.rss_bytes();
    (0..4).for_each(|_| wave(500));
    fresh_stats(&server);
    let (more, left) = (grown(rss, server.rss_bytes()), server.resting_fds());
    vec![
        at_most(
            "2,000 sessions in and out: descriptors",
            left as f64 - fds as f64,
            0.0,
            "more",
        ),
        at_most("2,000 sessions in and out: memory", more, 2.0, "MB"),
    ]
}

fn broadcasts() -> Vec<Figure> {
    let flags = [
        "--tick-ms",
        "20",
        "--payload-bytes",
        "1000",
        "--stats-interval-secs",
        "0.1",
    ];
    let server = Server::start(&flags);
    let resting = stat(&fresh_stats(&server), "chunks live").unwrap();
    let watchers: Vec<Watcher> = (0..200).map(|_| Watcher::watch(server.join())).collect();
    thread::sleep(Duration::from_secs(15));
    let half = server.rss_bytes();
    thread::sleep(Duration::from_secs(15));
    let growth = server.rss_bytes() as f64 / half as f64 * 100.0 - 100.0;
    let lost: u64 = watchers.into_iter().map(|one| one.end().lost).sum();
    wait_for_sessions(&server, 0);
    let live = stat(&fresh_stats(&server), "chunks live").unwrap();
    // Each thread that has sent keeps its current chunk.
    let allowed = resting.max(4) as f64;
    vec![
        at_most(
            "1,000 bytes to 200, 30 s: growth of the second half",
            growth,
            2.0,
            "%",
        ),
        at_most(
            "the same: live chunks when they have left",
            live as f64,
            allowed,
            "",
        ),
        is_so("the same: every tick for each session", lost == 0),
    ]
}

fn linear() -> Vec<Figure> {
    let server = quiet(&["--workers", "1"]);
    let mut cost = |count: usize| {
        let mut client = server.join();
        let mut sender = client.sender();
        let from = Instant::now();
        let asking = thread::spawn(move || {
            sender
                .write_all(&packet(C_ECHO, b"").repeat(count))
                .unwrap();
        });
        (0..count).for_each(|_| client.expect_echo(b""));
        asking.join().unwrap();
        from.elapsed().as_secs_f64() / count as f64 * 1e6
    };
    let best = |cost: &mut dyn FnMut(usize) -> f64, count| {
        (0..5).map(|_| cost(count)).fold(f64::MAX, f64::min)
    };
    let (few, many) = (best(&mut cost, 20_000), best(&mut cost, 160_000));
    vec![at_most(
        "a packet of 160,000 in one write, to one of 20,000",
        many / few,
        // With quadratic time the ratio would be eight.
        3.0,
        "times",
    )]
}

/// Measures at the default period. The peers' receive buffers have a fixed size: the buffer of a peer's own
/// system is not part of the server's figure.
fn slow_readers() -> Vec<Figure> {
    let time = |bytes: &'static str, recv_buffer: usize| {
        let server = Server::start(&["--payload-bytes", bytes, "--stats-interval-secs", "0.5"]);
        let deaf = Client::connect_with_recv_buffer(server.addr, recv_buffer);
        let from = Instant::now();
        server.wait_for_new_line_where("one session", |line| stat(line, "sessions") == Some(1));
        wait_for_sessions(&server, 0);
        let took = from.elapsed();
        server.wait_for_line("left: slow_consumer");
        drop(deaf);
        took.as_secs_f64()
    };
    let tiny = thread::spawn(move || time("0", 4096));
    let large = thread::spawn(move || time("1000", 16 << 10));
    vec![
        at_most(
            "a deaf peer is found, 1,000 bytes each 250 ms",
            large.join().unwrap(),
            30.0,
            "s",
        ),
        at_most(
            "a deaf peer is found, 23 bytes each 250 ms",
            tiny.join().unwrap(),
            180.0,
            "s",
        ),
    ]
}
