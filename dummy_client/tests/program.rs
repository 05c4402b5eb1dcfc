//! Does the program behave as one: exit status, output, signals, limits?
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod util;

use game_server::GameSession;
use game_server::packets::SHello;
use serde_json::Value;
use server_core::Server;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use util::{Run, Stub, client, hello, packet, scratch};

fn interrupt(child: &Child) {
    signal(child, "INT");
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let status = Command::new("kill").args(["-s", name, &pid]).status();
    assert!(status.unwrap().success());
}

/// Reads the log of a client up to so many hellos.
fn wait_for_hellos(log: &mut impl BufRead, count: usize) {
    let lines = log.lines().map(Result::unwrap).take(10_000);
    let hellos = lines.filter(|line| line.contains("Hello World"));
    assert_eq!(hellos.take(count).count(), count, "ended too early");
}

fn ended(child: Child) -> Run {
    child.wait_with_output().unwrap().into()
}

#[test]
fn lecture_36_both_sides_share_the_framing_and_agree_on_the_counts() {
    let server = Server::builder()
        .workers(2)
        .start("127.0.0.1:0", |_| GameSession::new(None))
        .unwrap();
    let args = [
        "--count",
        "300",
        "--threads",
        "2",
        "--log-sessions",
        "0",
        "--json",
        "-",
    ];
    let child = client(server.local_addr(), &args)
        .args(["--echo-hz", "20", "--payload-bytes", "100"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let handle = server.handle();
    let deadline = Instant::now() + Duration::from_secs(30);
    while handle.metrics().totals().sessions < 300 {
        assert!(Instant::now() < deadline, "300 sessions");
        thread::sleep(Duration::from_millis(5));
    }
    for tick in 1..=40 {
        server.broadcast(&SHello::at(tick), "Hello World");
        thread::sleep(Duration::from_millis(20));
    }
    interrupt(&child);
    let run = ended(child);
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(run.status, Some(0), "{json}");
    assert_eq!(json["ticks"]["received"], 300 * 40);
    let totals = handle.metrics().totals();
    assert_eq!(json["echoes"]["sent"], totals.packets_received);
    assert_eq!(json["packets"]["received"], totals.packets_sent);
    assert_eq!(json["packets"]["bytes"], totals.bytes_sent);
}

#[test]
fn a_server_that_is_away_is_one_clear_line_and_status_1() {
    // Bound and closed again: nobody listens there.
    let addr = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let run = Run::of(client(addr, &["--count", "50"]).args(["--duration-secs", "5"]));
    assert_eq!(run.status, Some(1), "{run:?}");
    let errors: Vec<_> = run
        .stderr
        .lines()
        .filter(|line| line.contains("ERROR"))
        .collect();
    assert_eq!(errors.len(), 1, "{}", run.stderr);
    assert!(errors[0].contains("connection refused"), "{}", errors[0]);
    assert!(
        run.stdout.contains("50 sessions never connected"),
        "{}",
        run.stdout
    );
}

#[test]
fn a_server_that_dies_is_one_clear_line_a_summary_and_status_1() {
    let stub = Stub::start(|_, tick| (tick < 30).then(|| hello(tick, "x")));
    let run = Run::of(&mut client(
        stub.addr,
        &["--count", "20", "--log-sessions", "0"],
    ));
    assert_eq!(run.status, Some(1));
    let errors = run
        .stderr
        .lines()
        .filter(|line| line.contains("ERROR"))
        .count();
    assert_eq!(errors, 1, "{}", run.stderr);
    assert!(run.stdout.contains("20 lost"), "{}", run.stdout);
}

#[test]
fn ctrl_c_prints_the_summary() {
    let stub = Stub::start(|_, tick| Some(hello(tick, "Hello World")));
    let mut child = client(stub.addr, &[]).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    wait_for_hellos(&mut stderr, 1);
    let rest = thread::spawn(move || {
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).unwrap();
        rest
    });
    interrupt(&child);
    let run = ended(child);
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(run.stdout.contains("5 of 5 connected"), "{}", run.stdout);
    rest.join().unwrap();
}

/// An empty result would be taken for one.
#[test]
fn a_client_that_is_killed_leaves_no_result() {
    let stub = Stub::start(|_, tick| Some(hello(tick, "Hello World")));
    let (json, report) = (scratch("killed.json"), scratch("killed.html"));
    fs::write(&report, "an older one").unwrap();
    for end in ["KILL", "INT"] {
        let mut child = client(stub.addr, &[])
            .args(["--echo-hz", "1000", "--json", &json, "--report", &report])
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        // Some echoes are under way by the third tick of five sessions.
        wait_for_hellos(&mut stderr, 15);
        // The stub answers no echo, so that there is a wait after one Ctrl-C, which a second one ends.
        let status = loop {
            signal(&child, end);
            thread::sleep(Duration::from_millis(20));
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
        };
        assert!(status.code().is_none_or(|code| code > 128), "{status}");
        assert!(!Path::new(&json).exists(), "after {end}");
        assert_eq!(fs::read_to_string(&report).unwrap(), "an older one");
    }
    fs::remove_file(report).unwrap();
}

/// The client has to convict itself before it blames a server.
#[test]
fn a_client_that_was_stopped_says_that_it_is_limited() {
    let stub = Stub::start(|_, tick| Some(hello(tick, "Hello World")));
    let args = ["--duration-secs", "2", "--json", "-"];
    let mut child = client(stub.addr, &args).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    wait_for_hellos(&mut stderr, 1);
    let rest = thread::spawn(move || stderr.read_to_string(&mut String::new()));
    signal(&child, "STOP");
    // This is what is measured, and no wait for anything.
    thread::sleep(Duration::from_millis(300));
    signal(&child, "CONT");
    let run = ended(child);
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(run.status, Some(0), "{json}");
    assert_eq!(json["verdict"], "client_limited");
    let stall = json["client"]["worst_stall_ms"].as_f64().unwrap();
    assert!(stall >= 250.0, "{stall}");
    rest.join().unwrap().unwrap();
}

#[test]
fn too_few_descriptors_are_one_clear_line_with_the_fix_and_status_2() {
    let script = r#"ulimit -n 64; exec "$0" --count 1000"#;
    let run = Run::of(
        Command::new("sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_dummy_client")])
            .stdin(Stdio::null()),
    );
    assert_eq!(run.status, Some(2), "{run:?}");
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert!(run.stderr.contains("ulimit"), "{}", run.stderr);
}

#[test]
fn bad_usage_is_status_2() {
    let addr = "127.0.0.1:1".parse().unwrap();
    for bad in [
        ["--count", "0"],
        ["--count", "x"],
        ["--addr", "here"],
        ["--nonsense", "1"],
    ] {
        assert_eq!(Run::of(&mut client(addr, &bad)).status, Some(2), "{bad:?}");
    }
}

#[test]
fn the_report_has_the_verdict_the_plots_and_the_summary() {
    let stub = Stub::with_answers(
        |_, tick| Some(hello(tick, "Hello World")),
        |_, payload| packet(3, payload),
    );
    let (report, json) = (scratch("report.html"), scratch("report.json"));
    let args = ["--duration-secs", "2.5", "--echo-hz", "20"];
    let mut command = client(stub.addr, &args);
    let run = Run::of(command.args(["--report", &report, "--json", &json]));
    assert_eq!(run.status, Some(0), "{run:?}");
    // The text is there, too.
    assert!(run.stdout.contains("verdict   "), "{}", run.stdout);
    let html = fs::read_to_string(&report).unwrap();
    let json: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let verdict = json["verdict"].as_str().unwrap();
    assert!(
        html.contains(&format!("class=\"verdict {verdict}\"")),
        "{html}"
    );
    assert_eq!(html.matches("<svg class=\"plot\"").count(), 7);
    let (_, embedded) = html.split_once("id=\"summary\">").unwrap();
    let (embedded, _) = embedded.split_once("</script>").unwrap();
    assert_eq!(serde_json::from_str::<Value>(embedded).unwrap(), json);
}

/// A long run must not be lost because of a place that can be judged at its start.
#[test]
fn a_place_that_cannot_be_written_is_a_clear_line_before_the_run() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    let stub = Stub::start(move |_, tick| {
        counter.fetch_add(1, Ordering::SeqCst);
        Some(hello(tick, "x"))
    });
    let place = "/nonexistent/folder/x";
    for flag in ["--json", "--report"] {
        let run = Run::of(&mut client(
            stub.addr,
            &[flag, place, "--duration-secs", "1"],
        ));
        assert_eq!(run.status, Some(1), "{run:?}");
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
        let line = format!("cannot write to {place}: ");
        assert!(run.stderr.contains(&line), "{}", run.stderr);
        assert_eq!(run.stdout, "");
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 0);
}

#[test]
fn a_full_disk_is_a_clear_line_and_status_1_and_the_text_is_printed() {
    let stub = Stub::start(|_, tick| Some(hello(tick, "x")));
    for flag in ["--json", "--report"] {
        let other = scratch("full_disk_other");
        let mut command = client(stub.addr, &["--duration-secs", "0.2", flag, "/dev/full"]);
        let other_flag = if flag == "--json" {
            "--report"
        } else {
            "--json"
        };
        let run = Run::of(command.args([other_flag, &other]));
        assert_eq!(run.status, Some(1), "{run:?}");
        assert!(
            run.stderr.contains("cannot write to /dev/full: "),
            "{}",
            run.stderr
        );
        assert!(run.stdout.contains("verdict   "), "{}", run.stdout);
        assert!(fs::metadata(&other).unwrap().len() > 1_000);
    }
}

#[test]
fn without_a_result_an_old_file_stays_and_a_new_one_goes() {
    let (old, new) = (scratch("old.json"), scratch("new.html"));
    fs::write(&old, "of yesterday").unwrap();
    let script = r#"ulimit -n 64; exec "$0" --count 1000 --json "$1" --report "$2""#;
    let program = env!("CARGO_BIN_EXE_dummy_client");
    let mut command = Command::new("sh");
    command
        .args(["-c", script, program, &old, &new])
        .stdin(Stdio::null());
    assert_eq!(Run::of(&mut command).status, Some(2));
    assert_eq!(fs::read_to_string(&old).unwrap(), "of yesterday");
    assert!(!fs::exists(&new).unwrap());
    // With one, nothing of the old one is left behind it.
    fs::write(&old, "x".repeat(1_000_000)).unwrap();
    let stub = Stub::start(|_, tick| Some(hello(tick, "x")));
    let args = ["--duration-secs", "0.2", "--json", &old];
    assert_eq!(Run::of(&mut client(stub.addr, &args)).status, Some(0));
    let text = fs::read_to_string(&old).unwrap();
    assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text}");
}

#[test]
fn json_and_report_in_one_file_is_bad_usage() {
    let file = scratch("both");
    let addr = "127.0.0.1:1".parse().unwrap();
    let run = Run::of(&mut client(addr, &["--json", &file, "--report", &file]));
    assert_eq!(run.status, Some(2), "{run:?}");
    assert!(run.stderr.contains("the same file"), "{}", run.stderr);
    assert!(!fs::exists(&file).unwrap());
}

#[test]
fn a_reader_that_has_gone_is_no_panic() {
    let stub = Stub::start(|_, tick| Some(hello(tick, "x")));
    let mut child = client(stub.addr, &["--duration-secs", "0.3"])
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    drop(child.stderr.take());
    assert_eq!(ended(child).status, Some(0));
}

#[test]
fn the_ramp_is_kept() {
    let stub = Stub::start(|_, tick| Some(hello(tick, "x")));
    let args = ["--count", "100", "--ramp-per-sec", "40"];
    let (run, json) = Run::json(
        stub.addr,
        &[&args[..], &["--duration-secs", "2.7"]].concat(),
    );
    assert_eq!(run.status, Some(0), "{json}");
    // 40 in the first second, and the one that is due at its beginning; never more.
    let first = &json["timeline"][0];
    let (sessions, seconds) = (first["sessions"].as_f64(), first["at_secs"].as_f64());
    let most = 40.0 * seconds.unwrap() + 1.0;
    assert!((most * 0.5..=most).contains(&sessions.unwrap()), "{first}");
    let short = [&args[..], &["--duration-secs", "1"]].concat();
    assert_eq!(Run::of(&mut client(stub.addr, &short)).status, Some(2));
}
