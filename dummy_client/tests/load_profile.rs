//! Ramp, stages, churn and reconnects.
#![allow(clippy::unwrap_used)] // The panic of a failed test names the line.

mod util;

use util::fault::{TEXT, clean_stub, number};
use util::{Run, Stub, client, hello};

#[test]
fn ramp_per_sec_limits_the_connections() {
    let stub = Stub::start(|_, tick| Some(hello(tick, "x")));
    let args = ["--count", "100", "--ramp-per-sec", "40"];
    let (run, json) = Run::json(
        stub.addr,
        &[&args[..], &["--duration-secs", "2.7"]].concat(),
    );
    assert_eq!(run.status, Some(0), "{json}");
    // At most 40 connections in the first second, and one more that is due at its beginning.
    let first = &json["timeline"][0];
    let (sessions, seconds) = (first["sessions"].as_f64(), first["at_secs"].as_f64());
    let most = 40.0 * seconds.unwrap() + 1.0;
    assert!((most * 0.5..=most).contains(&sessions.unwrap()), "{first}");
    let short = [&args[..], &["--duration-secs", "1"]].concat();
    assert_eq!(Run::of(&mut client(stub.addr, &short)).status, Some(2));
}

#[test]
fn stages_reach_their_session_counts_without_loss() {
    let stub = clean_stub();
    let args = ["--stages", "40:500ms,40:500ms,10:500ms,10:500ms"];
    let (run, json) = Run::json(stub.addr, &args);
    assert_eq!(run.status, Some(0), "{json}");
    let sessions = &json["sessions"];
    assert_eq!(sessions["max_live"], 40, "{sessions}");
    assert_eq!(sessions["left"], 30, "{sessions}");
    assert_eq!(sessions["live"], 10, "{sessions}");
    assert_eq!(
        json["settings"]["stages"],
        "40:500ms,40:500ms,10:500ms,10:500ms"
    );
    let seconds = number(&json["elapsed_secs"]);
    assert!((2.0..4.5).contains(&seconds), "{seconds}");
}

#[test]
fn stages_that_end_without_sessions_pass() {
    let stub = clean_stub();
    let (run, json) = Run::json(
        stub.addr,
        &["--stages", "20:300ms,20:300ms,0:300ms,5:300ms"],
    );
    assert_eq!(run.status, Some(0), "{json}");
    assert!(json["sessions"]["live"].as_u64().unwrap() <= 5, "{json}");
}

#[test]
fn churn_is_not_counted_as_loss() {
    let stub = clean_stub();
    let args = [
        "--count",
        "20",
        "--churn-ms",
        "100..300",
        "--duration-secs",
        "2",
    ];
    let (run, json) = Run::json(stub.addr, &args);
    assert_eq!(run.status, Some(0), "{json}");
    let sessions = &json["sessions"];
    // Each connection lasts 0.2 s on average, and the run 2 s: about 200 connections.
    assert!(number(&sessions["left"]) > 60.0, "{sessions}");
    assert_eq!(
        (&sessions["lost"], &sessions["connected"]),
        (&0.into(), &20.into())
    );
    assert_eq!(json["lost"], 0);
}

#[test]
fn session_lost_under_churn_fails_the_run() {
    let stub = Stub::start(|session, tick| {
        // The server closes the seventh connection after some ticks.
        (session != 7 || !tick.is_multiple_of(5)).then(|| hello(tick, TEXT))
    });
    let args = [
        "--count",
        "5",
        "--churn-ms",
        "300..600",
        "--duration-secs",
        "2",
    ];
    let (run, json) = Run::json(stub.addr, &args);
    assert_eq!(run.status, Some(1), "{json}");
    assert_eq!(json["sessions"]["lost"], 1, "{json}");
}

#[test]
fn lost_session_that_reconnects_passes() {
    let stub = Stub::start(|session, tick| (session != 1 || tick < 20).then(|| hello(tick, TEXT)));
    let args = ["--count", "3", "--duration-secs", "2", "--reconnect"];
    let (run, json) = Run::json(stub.addr, &args);
    assert_eq!(run.status, Some(0), "{json}");
    let sessions = &json["sessions"];
    assert_eq!(
        (&sessions["lost"], &sessions["came_back"]),
        (&1.into(), &1.into())
    );
    assert_eq!(sessions["live"], 3);
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
    let (run, json) = Run::json(stub.addr, &args);
    assert_eq!(run.status, Some(1), "{json}");
    assert!(json["sessions"]["missing"].as_u64().unwrap() > 0, "{json}");
}
