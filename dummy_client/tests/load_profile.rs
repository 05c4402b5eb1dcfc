//! Ramp, stages, churn and reconnects, end to end. `src/users/tests.rs` has their state machine, in virtual time.

use crate::util::fault::{TEXT, clean_stub};
use crate::util::{Run, Stub, client, hello};

#[test]
fn ramp_per_sec_limits_the_connections() {
    let args = ["--count", "100", "--ramp-per-sec", "40"];
    let long = [&args[..], &["--duration-secs", "2.7"]].concat();
    let (run, report) = Run::undisturbed(&long, clean_stub);
    assert_eq!(run.status, Some(0), "{run:?}");
    // At most 40 connections in the first second, and one more that is due at its beginning.
    let first = &report.timeline[0];
    let most = 40.0 * first.at_secs + 1.0;
    let sessions = first.sessions as f64;
    assert!((most * 0.5..=most).contains(&sessions), "{first:?}");
    let short = [&args[..], &["--duration-secs", "1"]].concat();
    let run = Run::of(&mut client("127.0.0.1:1", &short));
    assert_eq!(run.status, Some(2), "{run:?}");
}

#[test]
fn stages_reach_their_session_counts_without_loss() {
    let stages = "40:500ms,40:500ms,10:500ms,10:500ms";
    let (run, report) = Run::undisturbed(&["--stages", stages], clean_stub);
    assert_eq!(run.status, Some(0), "{run:?}");
    let sessions = &report.sessions;
    assert_eq!(sessions.max_connected, 40, "{sessions:?}");
    assert_eq!(sessions.closed, 30, "{sessions:?}");
    assert_eq!(sessions.connected_at_end, 10, "{sessions:?}");
    assert_eq!(report.run.settings["stages"], stages);
    let seconds = report.run.elapsed_secs;
    assert!((2.0..4.5).contains(&seconds), "{seconds}");
}

#[test]
fn stages_that_end_without_sessions_pass() {
    let args = ["--stages", "20:300ms,20:300ms,0:300ms,5:300ms"];
    let (run, report) = Run::undisturbed(&args, clean_stub);
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(report.sessions.connected_at_end <= 5, "{run:?}");
}

#[test]
fn churn_is_not_counted_as_loss() {
    let args = [
        "--count",
        "20",
        "--churn-ms",
        "100..300",
        "--duration-secs",
        "2",
    ];
    let (run, report) = Run::undisturbed(&args, clean_stub);
    assert_eq!(run.status, Some(0), "{run:?}");
    let sessions = &report.sessions;
    // Each connection lasts 0.2 s on average, and the run 2 s: about 200 connections.
    assert!(sessions.closed > 60, "{sessions:?}");
    assert_eq!((sessions.lost, sessions.connected), (0, 20));
    assert_eq!(report.lost(), 0);
}

#[test]
fn lost_session_that_reconnects_passes() {
    let script = |session, tick| (session != 1 || tick < 20).then(|| hello(tick, TEXT));
    let args = ["--count", "3", "--duration-secs", "2", "--reconnect"];
    let (run, report) = Run::undisturbed(&args, || Stub::start(script));
    assert_eq!(run.status, Some(0), "{run:?}");
    let sessions = &report.sessions;
    assert_eq!((sessions.lost, sessions.reconnected), (1, 1));
    assert_eq!(sessions.connected_at_end, 3);
    assert_eq!(report.metrics.trend("outage").unwrap().count, 1);
}

/// The stub closes its listener: a session that has disconnected cannot reconnect.
#[test]
fn refused_reconnects_fail_the_run() {
    let stub = Stub::closing_after(4);
    let args = [
        "--count",
        "4",
        "--churn-ms",
        "200..600",
        "--duration-secs",
        "3",
    ];
    let (run, report) = Run::report(stub.addr, &args);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(report.sessions.not_reconnected > 0, "{run:?}");
}
