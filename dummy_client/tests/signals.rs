//! Signals to a client that runs.

use crate::util::fault::clean_stub;
use crate::util::{
    Run, Stub, client, disturbance, ended, for_each_at_once, interrupt, lateness, scratch, signal,
};
use dummy_client::Report;
use dummy_client::report::Verdict;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// Reads the log of a client up to this number of hellos.
fn wait_for_hellos(log: &mut impl BufRead, count: usize) {
    let lines = log.lines().map(Result::unwrap).take(10_000);
    let hellos = lines.filter(|line| line.contains("Hello World"));
    assert_eq!(hellos.take(count).count(), count, "ended too early");
}

/// Reads the log of a client up to a hello of each of its five sessions.
fn wait_for_all(log: &mut impl BufRead) {
    let mut without: Vec<_> = (1..=5).map(|n| format!("session {n}: id 1 ")).collect();
    while !without.is_empty() {
        let mut line = String::new();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "ended too early");
        without.retain(|session| !line.contains(session));
    }
}

/// Reads the rest of the log, and waits for the end of the client.
fn rest_of(child: Child, mut log: impl Read + Send + 'static) -> (Run, Report) {
    let rest = thread::spawn(move || log.read_to_string(&mut String::new()));
    let run = ended(child);
    rest.join().unwrap().unwrap();
    let report = run.read();
    (run, report)
}

/// Ctrl-C, an order to end, and a terminal that goes away.
#[test]
fn each_signal_ends_the_run_with_its_report() {
    for_each_at_once(["INT", "TERM", "HUP"], |name| {
        let run = |stub: &Stub| {
            let mut child = client(stub.addr, &["--json", "-"]).spawn().unwrap();
            let mut stderr = BufReader::new(child.stderr.take().unwrap());
            wait_for_all(&mut stderr);
            signal(&child, name);
            rest_of(child, stderr)
        };
        let (run, report) = Run::fit(clean_stub, run, disturbance);
        assert_eq!(run.status, Some(0), "{name}: {run:?}");
        let sessions = (report.sessions.requested, report.sessions.connected);
        assert_eq!(sessions, (5, 5), "{name}: {run:?}");
    });
}

/// `nohup dummy_client` goes on when the terminal goes away.
#[cfg(target_os = "linux")]
#[test]
fn ignored_sighup_stays_ignored() {
    let run = |stub: &Stub| {
        let direct = client(stub.addr, &["--json", "-"]);
        let mut shell = Command::new("sh");
        let script = r#"trap "" HUP; exec "$0" "$@""#;
        shell.args(["-c", script]).arg(direct.get_program());
        shell.args(direct.get_args()).env_remove("RUST_LOG");
        let mut child = (shell.stdin(Stdio::null()).stdout(Stdio::piped()))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        wait_for_hellos(&mut stderr, 1);
        signal(&child, "HUP");
        // More hellos than the log can hold already.
        wait_for_hellos(&mut stderr, 500);
        interrupt(&child);
        rest_of(child, stderr)
    };
    let (run, _) = Run::fit(clean_stub, run, disturbance);
    assert_eq!(run.status, Some(0), "{run:?}");
}

/// A user would take an empty file for a result.
#[test]
fn killed_client_leaves_no_result_file() {
    let stub = clean_stub();
    let (json, report) = (scratch("killed.json"), scratch("killed.html"));
    fs::write(&report, "an older one").unwrap();
    for end in ["KILL", "INT"] {
        let mut child = client(stub.addr, &[])
            .args(["--echo-hz", "1000", "--json", &json, "--report", &report])
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        // Some echoes are in flight by the third tick of five sessions.
        wait_for_hellos(&mut stderr, 15);
        // The stub answers no echo, so the client waits after one Ctrl-C; a second Ctrl-C ends the wait.
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

/// A client that is stopped for 300 ms.
fn stopped_client(args: &[&str]) -> (Run, Report) {
    let run = |stub: &Stub| {
        let mut command = client(stub.addr, &["--json", "-"]);
        let mut child = command.args(args).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        // 20 ticks of five sessions: the client knows the schedule of the server.
        wait_for_hellos(&mut stderr, 100);
        signal(&child, "STOP");
        // The test measures this sleep; the sleep does not wait for an event.
        thread::sleep(Duration::from_millis(300));
        signal(&child, "CONT");
        // More hellos than the log can hold already.
        wait_for_hellos(&mut stderr, 500);
        interrupt(&child);
        rest_of(child, stderr)
    };
    // The stop is a part of the lateness.
    Run::fit(clean_stub, run, |report, stub_ms| {
        lateness(report, stub_ms, 700.0)
    })
}

/// The client must report its own overload, and must not blame the server.
#[test]
fn stopped_client_reports_client_limited() {
    let (run, report) = stopped_client(&[]);
    assert_eq!(run.status, Some(0), "{run:?}");
    assert_eq!(report.verdict, Verdict::ClientLimited);
    let stall = report.client.worst_stall_ms;
    assert!(stall >= 250.0, "{stall}");
}

#[test]
fn stopped_client_reports_client_limited_for_a_broken_assertion() {
    let (run, report) = stopped_client(&["--assert", "tick_delay_max<100ms"]);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert_eq!(report.verdict, Verdict::ClientLimited);
    assert!(!report.assertions[0].holds);
    assert_eq!(report.failures, [""; 0]);
}
