//! The real server as a child process.

use super::client::{C_ECHO, Client, S_CHAT, S_ECHO};
use super::wait_until;
use super::{DEADLINE, packet};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Flags of a server that sends no tick while a test lasts.
pub const QUIET: [&str; 2] = ["--tick-ms", "60000"];

/// Limits that a test reaches in less than a second.
pub const STRICT: [&str; 10] = [
    "--max-packet-bytes",
    "4096",
    "--packet-timeout-ms",
    "400",
    "--max-packets-per-sec",
    "100",
    "--max-chats-per-sec",
    "5",
    "--stats-interval-secs",
    "0.05",
];

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
    is_paused: bool,
    has_ended: bool,
}

/// A test process has hundreds of clients, and the usual soft limit is 1,024 descriptors.
fn raise_fd_limit() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // If the limit cannot be raised, connects fail.
        let _ = rlimit::increase_nofile_limit(16_384);
    });
}

/// The program with these flags, without the variables that could change their meaning.
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

/// As [`command`], started by a shell that sets a limit first; `limit` is the arguments of `ulimit`.
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
    /// Starts the server on a free port, and waits until it listens.
    pub fn start(flags: &[&str]) -> Self {
        Self::start_with_env(flags, &[])
    }

    /// As [`Server::start`], with [`QUIET`] before these flags.
    pub fn start_quiet(flags: &[&str]) -> Self {
        Self::start(&[&QUIET[..], flags].concat())
    }

    pub fn start_with_env(flags: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = command(flags);
        if !flags.contains(&"--addr") {
            command.args(["--addr", "127.0.0.1:0"]);
        }
        command.envs(env.iter().copied());
        Self::spawn(command)
    }

    /// Starts the server by a shell that sets a limit first. `-n` and a number set both limits of
    /// descriptors, `-Sn` the soft one.
    pub fn start_with_ulimit(limit: &str, flags: &[&str]) -> Self {
        let flags = [&["--addr", "127.0.0.1:0"], flags].concat();
        Self::spawn(command_with_ulimit(limit, &flags))
    }

    fn spawn(command: Command) -> Self {
        let mut server = Self::launch(command);
        server.wait_until_it_listens();
        server
    }

    /// Starts the server, and waits until it listens. If it exits instead, returns its status and its log.
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

    /// Waits for a log line that contains `text`, and returns the line.
    pub fn wait_for_line(&self, text: &str) -> String {
        self.wait_for_line_where(text, |line| line.contains(text))
    }

    pub fn wait_for_line_where(&self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        self.wait_for_line_from(0, what, matches)
    }

    /// As `wait_for_line_where`, for a line that is not logged yet.
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

    /// Reads no more of the log until [`Server::resume_log`] or the end of the server. One more line may come.
    pub fn pause_log(&self) {
        self.log.state().is_paused = true;
    }

    pub fn resume_log(&self) {
        self.log.state().is_paused = false;
        self.log.changed.notify_all();
    }

    /// The log lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.log.state().lines.clone()
    }

    /// Sends a signal by name, for example `TERM`. For `STOP`, waits until every thread has stopped: a
    /// running thread goes on for a moment, and would still read what a client sends.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(status.success(), "{kill}");
        if name == "STOP" {
            wait_until("every thread to stop", DEADLINE, || self.is_stopped());
        }
    }

    /// Sets the soft limit of descriptors of the running server, as an operator would.
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
            // Behind the name, which may have any characters.
            let (_, rest) = stat.rsplit_once(") ").unwrap();
            rest.starts_with('T')
        });
        states.all(|is_stopped| is_stopped)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the exit, and for the last log line.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        wait_until("the server to exit", DEADLINE, || !self.is_running());
        self.resume_log();
        if let Some(reader) = self.log_reader.take() {
            reader.join().unwrap();
        }
        self.child.wait().unwrap()
    }

    /// Kills the server, which sends no `S_BYE`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.resume_log();
        if let Some(reader) = self.log_reader.take() {
            let _ = reader.join();
        }
    }

    /// The number of open descriptors of a server at rest. Just after the start, a file of the system may
    /// be open for a moment.
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

    /// The number of open descriptors.
    pub fn open_fds(&self) -> usize {
        let dir = format!("/proc/{}/fd", self.pid());
        std::fs::read_dir(dir).unwrap().count()
    }

    /// The resident memory.
    pub fn rss_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The memory that is allocated, touched or not.
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

    /// The processor time so far, in the clock ticks of the system (100 a second).
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // Behind the name in parentheses: user time is the 12th field, system time the 13th.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let times = fields.split(' ').skip(11).take(2);
        times.map(|field| field.parse::<u64>().unwrap()).sum()
    }

    /// The nanoseconds for which each thread of the server has run, or has waited for a processor.
    fn runnable(&self) -> BTreeMap<PathBuf, u64> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let nanos = tasks.filter_map(|task| {
            let task = task.unwrap().path();
            // A thread may end between the two calls.
            let schedstat = std::fs::read_to_string(task.join("schedstat")).ok()?;
            let times = schedstat.split(' ').take(2);
            let nanos = times.map(|time| time.parse::<u64>().unwrap()).sum();
            Some((task, nanos))
        });
        nanos.collect()
    }

    /// Repeats `act` for 1 s, three times at most. Fails if each time the threads of the server could run for half of
    /// that time or longer: a thread that spins can run all the time, however busy the machine is. A machine that
    /// stalls delays threads that do not spin, but not three times. `scripts/hold.sh` measures the processor time.
    #[track_caller]
    pub fn expect_no_spin(&self, mut act: impl FnMut()) {
        let mut shares = Vec::new();
        for _ in 0..3 {
            let (before, from) = (self.runnable(), Instant::now());
            while from.elapsed() < Duration::from_secs(1) {
                act();
            }
            let (after, elapsed) = (self.runnable(), from.elapsed());
            let grown = (after.iter())
                .map(|(task, nanos)| nanos.saturating_sub(*before.get(task).unwrap_or(&0)));
            let runnable = Duration::from_nanos(grown.sum());
            println!("runnable for {runnable:?} of {elapsed:?}");
            assert!(!runnable.is_zero(), "schedstat counts nothing here");
            if runnable * 2 < elapsed {
                return;
            }
            shares.push((runnable, elapsed));
        }
        panic!("runnable for a part of the time: {shares:?}");
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.addr)
    }

    /// Connects a client, and waits for its first echo: the client is a session. Skips chats before the
    /// echo: sessions that connected earlier may be admitted at the same time.
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
            let mut state = self.state();
            state.lines.push(text);
            self.changed.notify_all();
            let resumed = self.changed.wait_while(state, |state| state.is_paused);
            drop(resumed.unwrap_or_else(PoisonError::into_inner));
        }
        self.state().has_ended = true;
        self.changed.notify_all();
    }
}

/// The time until a new client of another address has its first answer.
#[track_caller]
pub fn admission_time(server: &Server) -> Duration {
    let began = Instant::now();
    let mut newcomer = Client::connect_from([127, 0, 0, 2], server.addr);
    newcomer.echo(b"I say something");
    began.elapsed()
}

/// The number behind `name ` in a `stats:` line.
pub fn stat(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once("stats: ")?;
    let (_, rest) = rest.split_once(&format!("{name} "))?;
    let digits = rest.find(|c: char| !c.is_ascii_digit());
    rest[..digits.unwrap_or(rest.len())].parse().ok()
}

/// The number of disconnects with a reason in the log: single lines and summaries.
pub fn logged_disconnects(lines: &[String], label: &str) -> u64 {
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

/// The queued bytes of all sessions in a `stats:` line, which rounds to about three digits.
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
