//! A whole program around a game: the example `app` as a process.

use server_core::testing::{DEADLINE, RawClient, RawPacket, wait_until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use std::{fs, thread};

const C_CLICK: u16 = 1;
const S_CLICKS: u16 = 2;
const S_BYE: u16 = 6;

/// The example, and the lines of its log. It is killed with this.
struct Program {
    child: Child,
    log: Arc<Mutex<String>>,
}

fn command(args: &[&str]) -> Command {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples/app");
    let mut command = Command::new(path);
    command.args(args).env_remove("RUST_LOG");
    command
}

impl Program {
    fn start(args: &[&str]) -> Self {
        let mut command = command(&[&["--addr", "127.0.0.1:0"], args].concat());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log: Arc<Mutex<String>> = Arc::default();
        let of_reader = Arc::clone(&log);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]);
                of_reader.lock().unwrap().push_str(&text);
            }
        });
        Self { child, log }
    }

    /// The rest of the first complete log line that contains `text`.
    fn log_behind(&self, text: &str) -> String {
        let mut found = None;
        wait_until(text, || {
            let log = self.log.lock().unwrap();
            let mut lines = log
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            found = lines.find_map(|line| Some(line.split_once(text)?.1.trim_end().to_owned()));
            found.is_some()
        });
        found.unwrap()
    }

    fn connect(&self) -> RawClient {
        RawClient::connect(self.log_behind("listening on ").parse().unwrap())
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let kill = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(kill.unwrap().success());
    }

    fn end(mut self) -> ExitStatus {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it does not end");
            thread::yield_now();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn signal_drains_the_program_and_its_status_is_success() {
    for name in ["TERM", "INT"] {
        let program = Program::start(&[]);
        let mut client = program.connect();
        client.send_packet(C_CLICK, b"");
        let clicks = RawPacket::new(S_CLICKS, 1_u64.to_le_bytes());
        assert_eq!(client.next_packet(), clicks);
        program.signal(name);
        let bye = client.next_packet();
        let shutdown = 10_u16;
        assert_eq!(
            (bye.id, &bye.payload[..2]),
            (S_BYE, &shutdown.to_le_bytes()[..])
        );
        client.expect_eof();
        drop(client);
        assert_eq!(program.end().code(), Some(0));
    }
}

#[test]
fn admin_port_has_the_metrics_of_the_game_loop() {
    let program = Program::start(&["--metrics-addr", "127.0.0.1:0"]);
    let mut client = program.connect();
    client.send_packet(C_CLICK, b"");
    assert_eq!(client.next_packet().id, S_CLICKS);
    let mut scrape = TcpStream::connect(program.log_behind("metrics on ")).unwrap();
    scrape.set_read_timeout(Some(DEADLINE)).unwrap();
    scrape.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    scrape.read_to_string(&mut text).unwrap();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name}: {text}"))
            .trim()
            .parse::<f64>()
            .unwrap()
    };
    assert!(value("server_ticks_total ") >= 1.0);
    assert_eq!(value("server_sessions "), 1.0);
}

#[test]
fn hangup_reads_the_bans_again_and_ends_nothing() {
    let file = BansFile::new();
    let program = Program::start(&["--ban-file", file.0.to_str().unwrap()]);
    let mut client = program.connect();
    // A connection that has not been accepted yet would be banned, too.
    client.send_packet(C_CLICK, b"");
    assert_eq!(client.next_packet().id, S_CLICKS);
    fs::write(&file.0, "127.0.0.0/8 # test\n").unwrap();
    program.signal("HUP");
    assert_eq!(
        program
            .log_behind("SIGHUP: bans read from ")
            .rsplit(' ')
            .next(),
        Some("1")
    );
    let mut banned = program.connect();
    banned.expect_eof();
    client.send_packet(C_CLICK, b"");
    assert_eq!(client.next_packet().id, S_CLICKS);
}

#[test]
fn check_prints_a_table_and_bad_usage_is_status_2() {
    let run = |args: &[&str]| {
        let output = command(args).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (status, table) = run(&["--check", "--addr", "127.0.0.1:0", "--max-sessions", "10"]);
    assert_eq!(status, Some(0), "{table}");
    assert!(
        table.contains("open files") && table.ends_with("no check failed\n"),
        "{table}"
    );
    let (status, table) = run(&[
        "--check",
        "--addr",
        "127.0.0.1:0",
        "--max-sessions",
        "4000000000",
    ]);
    assert_eq!(status, Some(2), "{table}");
    assert_eq!(run(&["--no-such-flag"]).0, Some(2));
    assert_eq!(run(&["--ws-origin", "http://a.example"]).0, Some(2));
    let (status, help) = run(&["--help"]);
    assert_eq!(status, Some(0));
    assert!(help.contains("[env: CLICKS_MAX_SESSIONS=]"), "{help}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(
        run(&["--addr", &taken.local_addr().unwrap().to_string()]).0,
        Some(1)
    );
}

/// An empty file, removed with this.
struct BansFile(PathBuf);

impl BansFile {
    fn new() -> Self {
        let path =
            std::env::temp_dir().join(format!("server_core_app_{}.bans", std::process::id()));
        fs::write(&path, "").unwrap();
        Self(path)
    }
}

impl Drop for BansFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
