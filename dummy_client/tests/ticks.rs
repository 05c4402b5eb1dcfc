//! Missing, repeated, reordered and malformed ticks.
#![allow(clippy::unwrap_used)] // The panic of a failed test names the line.

mod util;

use util::fault::{TEXT, check_counts, with_fault};
use util::{Run, Stub, hello, packet};

#[test]
fn server_without_fault_passes() {
    let (run, json) = with_fault(|tick| Some(hello(tick, TEXT)));
    assert_eq!(run.status, Some(0), "{run:?}");
    check_counts(&json);
    assert_ne!(json["verdict"], "failed");
    assert_eq!(json["failures"].as_array().unwrap().len(), 0);
    assert_eq!(json["sessions"]["connected"], 3);
    assert!(json["ticks"]["received"].as_u64().unwrap() > 60);
}

#[test]
fn missing_ticks_fail_the_run() {
    let (run, json) = with_fault(|tick| match tick {
        20 | 21 => Some(Vec::new()),
        _ => Some(hello(tick, TEXT)),
    });
    assert_eq!(run.status, Some(1));
    assert_eq!(
        (&json["ticks"]["gaps"], &json["ticks"]["missing"]),
        (&1.into(), &2.into())
    );
    assert_eq!(json["ticks"]["repeats"], 0);
}

#[test]
fn repeated_tick_fails_the_run() {
    let (run, json) = with_fault(|tick| match tick {
        20 => Some([hello(20, TEXT), hello(20, TEXT)].concat()),
        _ => Some(hello(tick, TEXT)),
    });
    assert_eq!(run.status, Some(1));
    assert_eq!(
        (&json["ticks"]["repeats"], &json["ticks"]["missing"]),
        (&1.into(), &0.into())
    );
}

#[test]
fn reordered_ticks_fail_the_run() {
    let (run, json) = with_fault(|tick| match tick {
        20 => Some(Vec::new()),
        21 => Some([hello(21, TEXT), hello(20, TEXT)].concat()),
        _ => Some(hello(tick, TEXT)),
    });
    assert_eq!(run.status, Some(1));
    assert_eq!(json["ticks"]["reordered"], 1);
}

#[test]
fn wrong_text_fails_the_run() {
    let (run, json) =
        with_fault(|tick| Some(hello(tick, if tick == 20 { "Hello W0rld" } else { TEXT })));
    assert_eq!(run.status, Some(1));
    assert_eq!(json["ticks"]["wrong_texts"], 1);
}

#[test]
fn s_hello_without_a_tick_number_is_counted_as_malformed() {
    let (run, json) = with_fault(|tick| match tick {
        20 => Some([packet(1, b"short"), hello(20, TEXT)].concat()),
        _ => Some(hello(tick, TEXT)),
    });
    assert_eq!(run.status, Some(1));
    assert_eq!(json["packets"]["malformed"], 1);
}

#[test]
fn jump_to_the_highest_tick_number_fails_the_run() {
    let (run, json) =
        with_fault(|tick| Some(hello(if tick == 20 { u64::MAX } else { tick }, TEXT)));
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(json["ticks"]["missing"].as_u64().unwrap() > 1_000_000);
}

/// The run is long enough for the client to evaluate the highest tick number during the run.
#[test]
fn highest_tick_number_from_the_start_is_counted_as_repeats() {
    let stub = Stub::start(|session, tick| {
        let number = if session == 0 { u64::MAX } else { tick };
        Some(hello(number, TEXT))
    });
    let (run, json) = Run::json(stub.addr, &["--count", "2", "--duration-secs", "3"]);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(json["ticks"]["repeats"].as_u64().unwrap() > 100, "{json}");
    assert_eq!(json["losses"], serde_json::json!({}));
}

#[test]
fn tick_every_two_seconds_passes() {
    let stub = Stub::start(|_, tick| {
        Some(if tick.is_multiple_of(100) {
            hello(tick / 100, TEXT)
        } else {
            Vec::new()
        })
    });
    let (run, json) = Run::json(stub.addr, &["--count", "2", "--duration-secs", "7"]);
    assert_eq!(run.status, Some(0), "{json}");
}

#[test]
fn session_that_lags_at_the_end_fails_the_run() {
    let (run, json) = with_fault(|tick| {
        Some(if tick > 25 {
            Vec::new()
        } else {
            hello(tick, TEXT)
        })
    });
    assert_eq!(run.status, Some(1));
    assert_eq!(
        (&json["sessions"]["behind"], &json["ticks"]["missing"]),
        (&1.into(), &0.into())
    );
}

#[test]
fn session_without_ticks_fails_the_run() {
    let stub = Stub::start(|session, tick| {
        Some(if session == 1 {
            Vec::new()
        } else {
            hello(tick, TEXT)
        })
    });
    let (run, json) = Run::json(stub.addr, &["--count", "3", "--duration-secs", "3"]);
    assert_eq!(run.status, Some(1));
    assert_eq!(json["sessions"]["silent"], 1, "{json}");
}

#[test]
fn sessions_without_ticks_fail_the_run_under_churn() {
    // Every second connection gets no tick while it is connected.
    let stub = Stub::start(|session, tick| {
        Some(if session % 2 == 1 {
            Vec::new()
        } else {
            hello(tick, TEXT)
        })
    });
    let args = [
        "--count",
        "4",
        "--churn-ms",
        "700..900",
        "--duration-secs",
        "3",
    ];
    let (run, json) = Run::json(stub.addr, &args);
    assert_eq!(run.status, Some(1), "{json}");
    assert!(json["sessions"]["silent"].as_u64().unwrap() > 1, "{json}");
}
