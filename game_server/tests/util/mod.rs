//! The real server as a child process, and a client that knows only bytes.
//!
//! Nothing of `server_core` or `game_server` is used here: a framing bug on both sides would
//! cancel out.

// Each test file is a crate of its own, and none of them uses every helper.
#![allow(dead_code)]

use socket2::{Domain, Socket, Type};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub const S_HELLO: u16 = 1;
pub const C_ECHO: u16 = 2;
pub const S_ECHO: u16 = 3;
pub const C_CHAT: u16 = 4;
pub const S_CHAT: u16 = 5;
pub const S_BYE: u16 = 6;

/// Every reason of the contract.
pub const REASONS: &[&str] = &[
    "bad_size",
    "too_large",
    "unknown_id",
    "bad_payload",
    "packet_timeout",
    "slow_consumer",
    "rate_limit",
    "chat_flood",
    "server_full",
    "shutdown",
    "peer_closed",
    "peer_reset",
    "io_error",
    "idle",
    "login_timeout",
];

/// Flags of a server that says nothing by itself for as long as a test lasts.
pub const QUIET: [&str; 2] = ["--tick-ms", "60000"];
/// Longest wait for anything that has to come. Passing tests never wait that long.
pub const DEADLINE: Duration = Duration::from_secs(20);

// ---- the server -------------------------------------------------------------------------------

/// A running `game_server`. Dropping it kills and reaps it.
pub struct Server {
    pub addr: SocketAddr,
    child: Child,
    log: Arc<Log>,
    log_reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Default)]
struct LogState {
    lines: Vec<String>,
    has_ended: bool,
}

/// Hundreds of clients live in one test process; the usual soft limit is 1,024 descriptors.
fn raise_fd_limit() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // Where it cannot be raised, connecting says so.
        let _ = rlimit::increase_nofile_limit(16_384);
    });
}

/// The binary with these flags, in an environment that cannot change what they mean.
pub fn command(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_game_server"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("GAME_SERVER_") || text.starts_with("RUST_LOG") {
            command.env_remove(&name);
        }
    }
    command
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// As [`command`], by a shell that sets this limit first: the arguments of `ulimit`.
pub fn command_with_ulimit(limit: &str, flags: &[&str]) -> Command {
    let direct = command(flags);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")])
        .arg(direct.get_program())
        .args(direct.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    for (name, _) in direct.get_envs() {
        shell.env_remove(name);
    }
    shell
}

impl Server {
    /// Starts it on a free port and waits until it listens.
    pub fn start(flags: &[&str]) -> Self {
        Self::start_with_env(flags, &[])
    }

    pub fn start_with_env(flags: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = command(flags);
        if !flags.contains(&"--addr") {
            command.args(["--addr", "127.0.0.1:0"]);
        }
        command.envs(env.iter().copied());
        Self::spawn(command)
    }

    /// Starts it by a shell that sets this limit (`-n` and a number: both limits of descriptors;
    /// `-Sn`: the soft one) first.
    pub fn start_with_ulimit(limit: &str, flags: &[&str]) -> Self {
        let flags = [&["--addr", "127.0.0.1:0"], flags].concat();
        Self::spawn(command_with_ulimit(limit, &flags))
    }

    fn spawn(command: Command) -> Self {
        let mut server = Self::launch(command);
        server.wait_until_it_listens();
        server
    }

    /// Starts it, and waits until it listens, or has ended: then it returns its status, and its log.
    pub fn try_spawn(command: Command) -> Result<Self, (ExitStatus, Vec<String>)> {
        let mut server = Self::launch(command);
        wait_until("the server to listen or to end", DEADLINE, || {
            let listens = |line: &String| line.contains("listening on ");
            server.lines().iter().any(listens) || !server.is_running()
        });
        if !server.is_running() {
            return Err((server.wait_for_exit(), server.lines()));
        }
        server.wait_until_it_listens();
        Ok(server)
    }

    fn launch(mut command: Command) -> Self {
        raise_fd_limit();
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Log::default());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log_reader = {
            let log = Arc::clone(&log);
            thread::spawn(move || log.collect(stderr))
        };
        Self {
            addr: SocketAddr::from(([0, 0, 0, 0], 0)),
            child,
            log,
            log_reader: Some(log_reader),
        }
    }

    fn wait_until_it_listens(&mut self) {
        let line = self.wait_for_line("listening on ");
        let (_, addr) = line.rsplit_once("listening on ").unwrap();
        self.addr = addr.trim().parse().unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of its log that contains `text`, and returns it.
    pub fn wait_for_line(&self, text: &str) -> String {
        self.wait_for_line_where(text, |line| line.contains(text))
    }

    pub fn wait_for_line_where(&self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        self.wait_for_line_from(0, what, matches)
    }

    /// As `wait_for_line_where`, for lines that are not there yet.
    pub fn wait_for_new_line_where(&self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        let seen = self.log.state().lines.len();
        self.wait_for_line_from(seen, what, matches)
    }

    fn wait_for_line_from(
        &self,
        first: usize,
        what: &str,
        matches: impl Fn(&str) -> bool,
    ) -> String {
        let give_up_at = Instant::now() + DEADLINE;
        let mut next = first;
        let mut state = self.log.state();
        loop {
            while next < state.lines.len() {
                if matches(&state.lines[next]) {
                    return state.lines[next].clone();
                }
                next += 1;
            }
            let left = give_up_at.saturating_duration_since(Instant::now());
            assert!(
                !state.has_ended && !left.is_zero(),
                "the server's log never had: {what}"
            );
            let waited = self.log.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What it has logged so far.
    pub fn lines(&self) -> Vec<String> {
        self.log.state().lines.clone()
    }

    /// Sends a signal by name, for example `TERM`. After a `STOP` every thread has stopped: one that is
    /// just running goes on for a moment, and would still see what is sent to it.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(status.success(), "{kill}");
        if name == "STOP" {
            wait_until("every thread to stop", DEADLINE, || self.is_stopped());
        }
    }

    /// Sets its soft limit of descriptors while it runs, as an operator would.
    pub fn limit_descriptors(&self, limit: usize) {
        let status = Command::new("prlimit")
            .args(["--pid", &self.pid().to_string()])
            .arg(format!("--nofile={limit}:"))
            .status()
            .unwrap();
        assert!(status.success());
    }

    fn is_stopped(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let mut states = tasks.map(|task| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            // Behind the name, which may hold anything.
            let (_, rest) = stat.rsplit_once(") ").unwrap();
            rest.starts_with('T')
        });
        states.all(|is_stopped| is_stopped)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end, and for the last line of its log.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        wait_until("the server to exit", DEADLINE, || !self.is_running());
        if let Some(reader) = self.log_reader.take() {
            reader.join().unwrap();
        }
        self.child.wait().unwrap()
    }

    /// Ends it with no chance to say goodbye.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.log_reader.take() {
            let _ = reader.join();
        }
    }

    /// The descriptors of a server at rest. Just after the start a file of the system's may be
    /// open for a moment.
    pub fn resting_fds(&self) -> usize {
        let mut counts = vec![self.open_fds()];
        wait_until("the descriptors to stay the same", DEADLINE, || {
            std::thread::sleep(Duration::from_millis(5));
            counts.push(self.open_fds());
            counts.len() > 10
                && counts[counts.len() - 10..]
                    .iter()
                    .all(|one| one == &counts[counts.len() - 1])
        });
        self.open_fds()
    }

    /// Descriptors that it has open.
    pub fn open_fds(&self) -> usize {
        let dir = format!("/proc/{}/fd", self.pid());
        std::fs::read_dir(dir).unwrap().count()
    }

    /// Memory that it has in use.
    pub fn rss_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// Memory that it has asked for, touched or not.
    pub fn data_bytes(&self) -> u64 {
        self.status_bytes("VmData:")
    }

    fn status_bytes(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field));
        let kib = line
            .and_then(|line| line.split_whitespace().nth(1))
            .unwrap();
        kib.parse::<u64>().unwrap() * 1024
    }

    /// Processor time that it has used, in the clock ticks of the system (100 a second).
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // Behind the name, which stands in parentheses: user time is the 12th, system time the 13th.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let times = fields.split(' ').skip(11).take(2);
        times.map(|field| field.parse::<u64>().unwrap()).sum()
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.addr)
    }

    /// A client that is a session already: its first echo has come back. What others say before that
    /// may be heard, and is skipped: some who connected earlier may have been let in only now.
    pub fn join(&self) -> Client {
        let mut client = self.connect();
        client.send(&packet(C_ECHO, b"ready?"));
        let answer = loop {
            let packet = client.next_but_hello();
            if packet.id != S_CHAT {
                break packet;
            }
        };
        assert_eq!((answer.id, &answer.payload[..]), (S_ECHO, &b"ready?"[..]));
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let lines = self.lines();
            eprintln!("---- the server's log, last lines of {}", lines.len());
            for line in lines.iter().rev().take(40).rev() {
                eprintln!("{line}");
            }
        }
    }
}

impl Log {
    fn state(&self) -> std::sync::MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(&self, mut stderr: impl BufRead) {
        let mut line = Vec::new();
        while stderr.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            self.state().lines.push(text);
            self.changed.notify_all();
        }
        self.state().has_ended = true;
        self.changed.notify_all();
    }
}

/// The number that stands behind `name ` in a `stats:` line.
pub fn stat(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once("stats: ")?;
    let (_, rest) = rest.split_once(&format!("{name} "))?;
    let digits = rest.find(|c: char| !c.is_ascii_digit());
    rest[..digits.unwrap_or(rest.len())].parse().ok()
}

/// How many have left for a reason, as the log tells: lines of their own, and summaries.
pub fn departures(lines: &[String], label: &str) -> u64 {
    let (left, away) = (format!("left: {label} "), format!("rejected: {label} "));
    let more = format!(" more {label} from ");
    lines
        .iter()
        .map(|line| {
            let own = line.contains(&left) || line.contains(&away);
            let summed = line.split_once(&more).map_or(0, |(before, _)| {
                let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next();
                digits.unwrap().parse::<u64>().unwrap()
            });
            u64::from(own) + summed
        })
        .sum()
}

/// The bytes that wait in all send queues, of a `stats:` line. It is rounded to three digits or so.
pub fn queued_bytes(line: &str) -> Option<f64> {
    let (_, rest) = line.split_once("stats: ")?.1.split_once("queued ")?;
    let mut words = rest.split([' ', ',']);
    let number: f64 = words.next()?.parse().ok()?;
    let unit = match words.next()? {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    Some(number * unit)
}

// ---- the client -------------------------------------------------------------------------------

/// One packet as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    pub id: u16,
    pub payload: Vec<u8>,
}

/// A blocking client. Reads give up after [`DEADLINE`].
pub struct Client {
    pub stream: TcpStream,
    input: Vec<u8>,
    parsed: usize,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        Self::from_stream(TcpStream::connect(addr).unwrap())
    }

    /// One that comes from this address of the loopback network.
    pub fn connect_from(source: [u8; 4], addr: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect(&addr.into()).unwrap();
        Self::from_stream(socket.into())
    }

    /// One whose system takes about that much and no more while nothing is read. By default it
    /// takes what the system's settings allow, which may be tens of megabytes.
    pub fn connect_with_recv_buffer(addr: SocketAddr, bytes: usize) -> Self {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(bytes).unwrap();
        socket.connect(&addr.into()).unwrap();
        Self::from_stream(socket.into())
    }

    pub fn from_stream(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self {
            stream,
            input: Vec::new(),
            parsed: 0,
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// A handle to send with from another thread.
    pub fn sender(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }

    /// The next packet, or `None` at the end of the stream. An end in the middle of a packet is
    /// an error, and so is a header that no server may send.
    pub fn try_next(&mut self) -> io::Result<Option<Raw>> {
        loop {
            if let Some(packet) = self.parse()? {
                return Ok(Some(packet));
            }
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) if self.parsed == self.input.len() => return Ok(None),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.input.drain(..self.parsed);
                    self.parsed = 0;
                    self.input.extend_from_slice(&chunk[..count]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn parse(&mut self) -> io::Result<Option<Raw>> {
        let [s0, s1, i0, i1, body @ ..] = &self.input[self.parsed..] else {
            return Ok(None);
        };
        let (size, id) = (
            u16::from_le_bytes([*s0, *s1]),
            u16::from_le_bytes([*i0, *i1]),
        );
        if size < 4 || ![S_HELLO, S_ECHO, S_CHAT, S_BYE].contains(&id) {
            let what = format!("torn stream: size {size} id {id}");
            return Err(io::Error::new(ErrorKind::InvalidData, what));
        }
        let Some(payload) = body.get(..usize::from(size) - 4) else {
            return Ok(None);
        };
        let payload = payload.to_vec();
        self.parsed += usize::from(size);
        Ok(Some(Raw { id, payload }))
    }

    /// The next packet, which has to come.
    #[track_caller]
    pub fn next(&mut self) -> Raw {
        match self.try_next() {
            Ok(Some(packet)) => packet,
            other => panic!("expected a packet, got {other:?}"),
        }
    }

    /// The next packet that is not a hello.
    #[track_caller]
    pub fn next_but_hello(&mut self) -> Raw {
        loop {
            let packet = self.next();
            if packet.id != S_HELLO {
                return packet;
            }
        }
    }

    /// The next hello, as tick and text; other packets are skipped.
    #[track_caller]
    pub fn next_hello(&mut self) -> (u64, Vec<u8>) {
        loop {
            let packet = self.next();
            if packet.id == S_HELLO {
                return split_number(&packet.payload);
            }
        }
    }

    #[track_caller]
    pub fn expect_echo(&mut self, payload: &[u8]) {
        let packet = self.next_but_hello();
        assert_eq!(packet.id, S_ECHO, "{packet:?}");
        assert!(
            packet.payload == payload,
            "echo of {} bytes came back as {} others",
            payload.len(),
            packet.payload.len()
        );
    }

    /// Sends an echo and waits for its answer.
    #[track_caller]
    pub fn echo(&mut self, payload: &[u8]) {
        self.send(&packet(C_ECHO, payload));
        self.expect_echo(payload);
    }

    /// The next packet but hellos is the goodbye with this code, and then the stream ends in
    /// order, with no reset.
    #[track_caller]
    pub fn expect_bye(&mut self, code: u16) {
        let packet = self.next_but_hello();
        assert_bye(&packet, code);
        self.expect_eof();
    }

    #[track_caller]
    pub fn expect_eof(&mut self) {
        match self.try_next() {
            Ok(None) => {}
            other => panic!("expected the end of the stream, got {other:?}"),
        }
    }

    pub fn finish_writing(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Closes with unread bytes in the receive buffer, which makes the kernel send a reset.
    pub fn reset(self) {
        let mut byte = [0];
        assert_eq!(self.stream.peek(&mut byte).unwrap(), 1, "nothing is unread");
    }
}

#[track_caller]
pub fn assert_bye(packet: &Raw, code: u16) {
    assert_eq!(packet.id, S_BYE, "{packet:?}");
    let (got, text) = packet.payload.split_at(2);
    assert_eq!(u16::from_le_bytes([got[0], got[1]]), code);
    let text = std::str::from_utf8(text).unwrap();
    assert!(!text.is_empty(), "a goodbye says why");
}

/// A packet by hand: size (header included), id, payload.
pub fn packet(id: u16, payload: &[u8]) -> Vec<u8> {
    let size = u16::try_from(payload.len() + 4).unwrap();
    let mut bytes = size.to_le_bytes().to_vec();
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header alone, which may claim anything.
pub fn header(size: u16, id: u16) -> [u8; 4] {
    let ([s0, s1], [i0, i1]) = (size.to_le_bytes(), id.to_le_bytes());
    [s0, s1, i0, i1]
}

/// The number at the front of a hello or a chat, and what follows.
#[track_caller]
pub fn split_number(payload: &[u8]) -> (u64, Vec<u8>) {
    let (number, rest) = payload.split_first_chunk().unwrap();
    (u64::from_le_bytes(*number), rest.to_vec())
}

// ---- waiting and chance -----------------------------------------------------------------------

/// Waits until something holds; panics if it does not within `deadline`.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    let give_up_at = Instant::now() + deadline;
    while !holds() {
        assert!(Instant::now() < give_up_at, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Random numbers whose seed is printed; `TEST_SEED` brings one back.
pub fn random() -> fastrand::Rng {
    let seed = match std::env::var("TEST_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => fastrand::u64(..),
    };
    println!("TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

pub fn random_bytes(random: &mut fastrand::Rng, count: usize) -> Vec<u8> {
    std::iter::repeat_with(|| random.u8(..))
        .take(count)
        .collect()
}
