//! A server that accepts connections and sends nothing, or stops sending.

use crate::util::fault::TEXT;
use crate::util::{Run, Stub, for_each_at_once, hello, packet};

/// The server only accepts: the run fails with every load profile.
#[test]
fn server_that_sends_nothing_fails_every_load_profile() {
    let shapes: [&[&str]; 4] = [
        &["--count", "3", "--duration-secs", "1"],
        &[
            "--count",
            "2",
            "--churn-ms",
            "100..300",
            "--duration-secs",
            "2",
        ],
        &["--stages", "5:300ms,5:500ms,0:200ms"],
        &["--count", "2", "--duration-secs", "1", "--reconnect"],
    ];
    for_each_at_once(shapes, |shape| {
        let stub = Stub::start(|_, _| Some(Vec::new()));
        let (run, report) = Run::report(stub.addr, shape);
        assert_eq!(run.status, Some(1), "{shape:?}: {run:?}");
        let failures = report.failures.join("; ");
        assert!(
            failures.contains("no packet was received"),
            "{shape:?}: {failures}"
        );
    });
}

/// The chats of another game pass every check of a packet, and prove nothing.
#[test]
fn server_that_sends_chats_alone_fails_the_run() {
    let chat = |tick: u64| packet(5, tick.to_le_bytes());
    let stub = Stub::start(move |_, tick| Some(chat(tick)));
    let (run, report) = Run::report(stub.addr, &["--count", "2", "--duration-secs", "0.5"]);
    assert_eq!(run.status, Some(1), "{run:?}");
    let failures = report.failures.join("; ");
    assert!(failures.contains("nothing was checked"), "{failures}");
}

#[test]
fn server_without_ticks_fails_the_run_though_echoes_are_answered() {
    let stub = || {
        Stub::with_answers(
            |_, tick| {
                Some(if tick > 40 {
                    Vec::new()
                } else {
                    hello(tick, TEXT)
                })
            },
            |_, payload| packet(3, payload),
        )
    };
    let args = ["--count", "3", "--duration-secs", "4", "--echo-hz", "10"];
    let (run, report) = Run::undisturbed(&args, stub);
    assert_eq!(run.status, Some(1), "{run:?}");
    // The last tick comes 0.8 s behind the first connection. The run may be late by 0.2 s.
    let silent = report.sessions.server_silent_secs;
    assert!((2.5..3.4).contains(&silent), "{silent}");
}
