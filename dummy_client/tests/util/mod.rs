//! A stub server that follows a test's script, and the real client.
#![allow(dead_code)] // Each test file uses a part of it.

pub mod fault;

pub use server_core::testing::packet;

use dummy_client::Report;
use dummy_client::report::Metric;
use game_server::GameSession;
use game_server::packets::{SBye, SHello};
use server_core::{Config, ListenerKind, Server, ServerBuilder, Ticker};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Returns the bytes that a stub server sends to a session (0, 1, 2 … in the order of accepting) for a tick
/// (1, 2, 3 …). `None` closes the connection.
pub type Script = dyn Fn(usize, u64) -> Option<Vec<u8>> + Send + Sync;
/// Returns the stub's answer to a packet with this id and payload.
pub type Answer = dyn Fn(u16, &[u8]) -> Vec<u8> + Send + Sync;

/// Accepts and sends by a script until it is dropped.
pub struct Stub {
    pub addr: SocketAddr,
    worst_late_us: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

pub const TICK: Duration = Duration::from_millis(20);

impl Stub {
    pub fn start(script: impl Fn(usize, u64) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::with_answers(script, |_, _| Vec::new())
    }

    /// Sends valid ticks, and accepts no more than this number of connections.
    pub fn closing_after(connections: usize) -> Self {
        let script = |_, tick| Some(hello(tick, "Hello World"));
        Self::launch(script, |_, _| Vec::new(), connections, true)
    }

    /// Sends valid ticks, and reads nothing.
    pub fn deaf() -> Self {
        let script = |_, tick| Some(hello(tick, "Hello World"));
        Self::launch(script, |_, _| Vec::new(), usize::MAX, false)
    }

    pub fn with_answers(
        script: impl Fn(usize, u64) -> Option<Vec<u8>> + Send + Sync + 'static,
        answer: impl Fn(u16, &[u8]) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Self::launch(script, answer, usize::MAX, true)
    }

    /// Ends the stub. Returns the longest time in milliseconds by which it sent bytes later than the script says.
    fn end(self) -> f64 {
        let worst_late_us = Arc::clone(&self.worst_late_us);
        drop(self); // Waits for the threads: a thread that is late now counts.
        worst_late_us.load(Ordering::SeqCst) as f64 / 1e3
    }

    fn launch(
        script: impl Fn(usize, u64) -> Option<Vec<u8>> + Send + Sync + 'static,
        answer: impl Fn(u16, &[u8]) -> Vec<u8> + Send + Sync + 'static,
        connections: usize,
        reads: bool,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let worst_late_us = Arc::new(AtomicU64::new(0));
        let (script, answer): (Arc<Script>, Arc<Answer>) = (Arc::new(script), Arc::new(answer));
        let thread = {
            let stop = Arc::clone(&stop);
            let habits = Habits {
                script,
                answer,
                connections,
                reads,
                worst_late_us: Arc::clone(&worst_late_us),
            };
            thread::spawn(move || accept(listener, &Arc::new(habits), &stop))
        };
        Self {
            addr,
            worst_late_us,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// A `server_core` server with the sessions of the real game and a tick of its own. Dropping it stops the
/// server.
pub struct RealServer(Server);

impl RealServer {
    /// A busy peer finds the reason of its end for this time, and a reset after it.
    pub const LINGER: Duration = Duration::from_secs(5);

    pub fn start(workers: usize, max_chats_per_sec: Option<u32>) -> Self {
        Self::of(Server::builder(), workers, max_chats_per_sec)
    }

    /// A server that ends an incomplete packet after this time.
    pub fn with_packet_timeout(timeout: Duration) -> Self {
        let builder = with_linger(Self::LINGER).packet_timeout(Some(timeout));
        Self::of(builder, 1, Some(10))
    }

    /// A server with one more listener. Returns its address too.
    pub fn listening(kind: ListenerKind) -> (Self, SocketAddr) {
        let builder = Server::builder().listen(kind, "127.0.0.1:0");
        let server = Self::of(builder, 1, Some(10));
        let addr = server.0.local_addrs()[1].1;
        (server, addr)
    }

    /// A server for this number of sessions, which resets a refused connection after `linger`.
    pub fn with_room_for(max_sessions: usize, linger: Duration) -> Self {
        let builder = with_linger(linger).max_sessions(Some(max_sessions));
        Self::of(builder, 1, Some(10))
    }

    fn of(builder: ServerBuilder, workers: usize, max_chats_per_sec: Option<u32>) -> Self {
        let session = move |_| GameSession::new(max_chats_per_sec);
        let server = builder
            .workers(workers)
            .close_message_with_text(SBye::close_message)
            .start("127.0.0.1:0", session)
            .unwrap();
        let handle = server.handle();
        let ticker = Ticker::new(Duration::from_millis(50)).for_server(&handle);
        thread::spawn(move || {
            ticker.run(|tick| handle.broadcast(&SHello::new(tick.number), "Hello World"));
        });
        Self(server)
    }

    pub fn addr(&self) -> SocketAddr {
        self.0.local_addr()
    }

    /// The sessions that have ended, by reason.
    pub fn disconnects(&self) -> Vec<(&'static str, u64)> {
        let totals = self.0.handle().metrics().totals();
        let by_label = totals.disconnects_by_label();
        by_label.filter(|(_, count)| *count > 0).collect()
    }

    /// Handshakes of TLS that are complete: full ones, and those that have continued an earlier session.
    #[cfg(feature = "tls")]
    pub fn handshakes(&self) -> [u64; 2] {
        use server_core::{TransportKind, metrics::HandshakeOutcome};
        let handle = self.0.handle();
        [HandshakeOutcome::Full, HandshakeOutcome::Resumed]
            .map(|outcome| handle.metrics().handshakes(TransportKind::Tls, outcome))
    }
}

fn with_linger(linger: Duration) -> ServerBuilder {
    let mut config = Config::default();
    config.linger = linger;
    Server::builder().config(config)
}

/// The behaviour of a stub.
struct Habits {
    script: Arc<Script>,
    answer: Arc<Answer>,
    connections: usize,
    reads: bool,
    worst_late_us: Arc<AtomicU64>,
}

/// Sends each tick to all sessions at the same time: all sessions share one clock.
fn accept(listener: TcpListener, habits: &Arc<Habits>, stop: &Arc<AtomicBool>) {
    let mut listener = Some(listener);
    // Ticks begin with the first connection, so that a slow start of the client hides no fault.
    let mut first_at = None;
    let count = AtomicUsize::new(0);
    let mut threads = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        if count.load(Ordering::SeqCst) >= habits.connections {
            listener = None;
        }
        match listener.as_ref().map(TcpListener::accept) {
            Some(Ok((stream, _))) => {
                // The clock starts now, even if the system runs the thread late.
                let now = Instant::now();
                let start = *first_at.get_or_insert(now);
                let first_tick = ((now - start).as_nanos() / TICK.as_nanos()) as u64 + 1;
                let session = count.fetch_add(1, Ordering::SeqCst);
                let (habits, stop) = (Arc::clone(habits), Arc::clone(stop));
                threads.push(thread::spawn(move || {
                    serve(stream, (start, first_tick), session, &habits, &stop);
                }));
            }
            _ => thread::sleep(Duration::from_millis(1)),
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

fn serve(
    mut stream: TcpStream,
    (start, first_tick): (Instant, u64),
    session: usize,
    habits: &Habits,
    stop: &AtomicBool,
) {
    stream.set_nonblocking(false).unwrap();
    let mut tick = first_tick;
    let mut input = Vec::new();
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::SeqCst) {
        // Until the next tick. Zero is not a timeout.
        let timeout = (start + TICK * tick as u32).saturating_duration_since(Instant::now());
        let timeout = timeout.max(Duration::from_millis(1));
        let read = if habits.reads {
            stream.set_read_timeout(Some(timeout)).unwrap();
            stream.read(&mut buffer)
        } else {
            thread::sleep(timeout);
            Err(std::io::ErrorKind::WouldBlock.into())
        };
        match read {
            Ok(0) => return,
            Ok(count) => input.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(_) => {}
        }
        while let Some((id, payload)) = cut_packet(&mut input) {
            if stream.write_all(&(habits.answer)(id, &payload)).is_err() {
                return;
            }
        }
        // Sends every tick that is due before the next read: a delayed stub catches up at once.
        while start.elapsed() >= TICK * tick as u32 {
            let Some(bytes) = (habits.script)(session, tick) else {
                return;
            };
            if !bytes.is_empty() {
                let written = stream.write_all(&bytes);
                let late_us = (start + TICK * tick as u32).elapsed().as_micros() as u64;
                habits.worst_late_us.fetch_max(late_us, Ordering::SeqCst);
                if written.is_err() {
                    return;
                }
            }
            tick += 1;
        }
    }
}

fn cut_packet(input: &mut Vec<u8>) -> Option<(u16, Vec<u8>)> {
    let size = usize::from(u16::from_le_bytes([*input.first()?, *input.get(1)?]));
    if input.len() < size {
        return None;
    }
    let packet: Vec<u8> = input.drain(..size).collect();
    Some((
        u16::from_le_bytes([packet[2], packet[3]]),
        packet[4..].to_vec(),
    ))
}

/// Checks all cases at the same time: each case takes real time.
pub fn for_each_at_once<T: Send>(cases: impl IntoIterator<Item = T>, check: impl Fn(T) + Sync) {
    thread::scope(|scope| {
        for case in cases {
            let check = &check;
            scope.spawn(move || check(case));
        }
    });
}

pub fn hello(tick: u64, text: &str) -> Vec<u8> {
    packet(1, [&tick.to_le_bytes(), text.as_bytes()].concat())
}

pub fn client(addr: impl ToString, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dummy_client"));
    command
        .args(["--addr", &addr.to_string(), "--seed", "1"])
        .args(args)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The path of a file that does not exist.
pub fn scratch(name: &str) -> String {
    // Two concurrent runs of the tests must not write to the same file.
    let name = format!("{}-{name}", std::process::id());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_file(&path);
    path.into_os_string().into_string().unwrap()
}

/// The values of these counters and checks. A name that the report does not have fails the test.
pub fn counts<const N: usize>(report: &Report, names: [&str; N]) -> [u64; N] {
    names.map(|name| match report.metrics.get(name) {
        Some(Metric::Counter { value, .. } | Metric::Check { value, .. }) => *value,
        other => panic!("{name} is {other:?}"),
    })
}

/// The objection to a run in which the client and the stub together are late by 200 ms or more: a short run ends
/// before the fault of the stub then, and after 1 s without a tick the client reports a silent server.
pub fn disturbance(report: &Report, stub_ms: f64) -> Option<String> {
    lateness(report, stub_ms, 200.0)
}

/// The objection to a run in which the client and the stub together are late by `max_ms` milliseconds or more.
pub fn lateness(report: &Report, stub_ms: f64, max_ms: f64) -> Option<String> {
    let client = &report.client;
    let client_ms = client.worst_stall_ms.max(client.worst_loop_lag_ms);
    let is_disturbed = client_ms + stub_ms >= max_ms;
    is_disturbed.then(|| format!("late: stub {stub_ms} ms, client {client_ms} ms"))
}

/// Waits for a condition, a minute at most.
pub fn wait_until(what: &str, mut is_met: impl FnMut() -> bool) {
    let give_up_at = Instant::now() + Duration::from_secs(60);
    while !is_met() {
        assert!(Instant::now() < give_up_at, "waited for: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The exit status and the output of a finished client.
#[derive(Debug)]
pub struct Run {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Runs the client to its end, with the report as JSON on standard output.
    pub fn report(addr: impl ToString, args: &[&str]) -> (Self, Report) {
        let run = Self::of(client(addr, &["--json", "-"]).args(args));
        let report = run.read();
        (run, report)
    }

    /// Runs the client to its end, with the text on standard output and the report as JSON in a file.
    pub fn with_text(addr: impl ToString, args: &[&str], json: &str) -> (Self, Report) {
        let run = Self::of(client(addr, args).args(["--json", json]));
        let report = std::fs::read_to_string(json).unwrap();
        (run, serde_json::from_str(&report).unwrap())
    }

    /// The report on standard output.
    pub fn read(&self) -> Report {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Repeats a run, each time against another stub, until `unfit` has no objection, ten times at most. The load
    /// of a busy machine changes what a run measures. `unfit` does not look at what the test asserts; its second
    /// argument is the longest time in milliseconds by which the stub was late.
    pub fn fit(
        stub: impl Fn() -> Stub,
        run: impl Fn(&Stub) -> (Self, Report),
        unfit: impl Fn(&Report, f64) -> Option<String>,
    ) -> (Self, Report) {
        let mut objections = Vec::new();
        for _ in 0..10 {
            let stub = stub();
            let (run, report) = run(&stub);
            match unfit(&report, stub.end()) {
                Some(objection) => objections.push(objection),
                None => return (run, report),
            }
        }
        panic!("every run was unfit: {objections:#?}");
    }

    /// Repeats a run until it has no [`disturbance`].
    pub fn undisturbed(args: &[&str], stub: impl Fn() -> Stub) -> (Self, Report) {
        Self::fit(stub, |stub| Self::report(stub.addr, args), disturbance)
    }

    /// Repeats a run until it has no [`disturbance`] and the client does not report `client_limited`.
    pub fn unlimited(args: &[&str], stub: impl Fn() -> Stub) -> (Self, Report) {
        let run = |stub: &Stub| Self::report(stub.addr, args);
        Self::fit(stub, run, |report, stub_ms| {
            let mut steps = report.capacity.iter().flat_map(|found| &found.steps);
            let is_limited = report.client.client_limited || steps.any(|step| step.client_limited);
            let limited = is_limited.then(|| format!("{:?}", report.client));
            limited.or_else(|| disturbance(report, stub_ms))
        })
    }

    pub fn of(command: &mut Command) -> Self {
        command.output().unwrap().into()
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let run = Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
        run
    }
}

pub fn interrupt(child: &Child) {
    signal(child, "INT");
}

pub fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let status = Command::new("kill").args(["-s", name, &pid]).status();
    assert!(status.unwrap().success());
}

pub fn ended(child: Child) -> Run {
    child.wait_with_output().unwrap().into()
}
