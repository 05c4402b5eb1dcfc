//! Exit status and error lines when a run cannot begin, or ends early.

use crate::util::{Run, Stub, client, for_each_at_once, hello};
use dummy_client::report::Verdict;
use server_core::testing::refusing_port;
use std::process::{Command, Stdio};

#[test]
fn refused_connections_are_one_error_line_and_status_1() {
    let (_port, addr) = refusing_port();
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
fn server_that_dies_is_one_error_line_a_summary_and_status_1() {
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
fn too_few_descriptors_are_one_error_line_with_the_fix_and_status_2() {
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
fn invalid_flags_are_status_2() {
    let addr = "127.0.0.1:1";
    for bad in [
        ["--count", "0"],
        ["--count", "x"],
        ["--addr", "here"],
        ["--nonsense", "1"],
    ] {
        assert_eq!(Run::of(&mut client(addr, &bad)).status, Some(2), "{bad:?}");
    }
}

/// The port refuses connections: the stages end without a session, or before their first one is due.
#[test]
fn run_without_a_session_is_never_ok() {
    let (_port, addr) = refusing_port();
    let shapes: [&[&str]; 3] = [
        &["--stages", "1:500ms,0:500ms"],
        &["--stages", "5:10s", "--duration-secs", "1"],
        &["--count", "2", "--reconnect", "--duration-secs", "0.5"],
    ];
    for_each_at_once(shapes, |shape| {
        let args = [shape, &["--assert", "lost==0"]].concat();
        let (run, report) = Run::report(addr, &args);
        assert_eq!(run.status, Some(1), "{run:?}");
        assert_eq!(report.verdict, Verdict::Failed);
        let failures = report.failures.join("; ");
        assert!(
            failures.contains("no session was ever connected"),
            "{failures}"
        );
    });
}
