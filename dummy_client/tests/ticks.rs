//! Missing, repeated, reordered and malformed ticks.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod util;

use util::fault::{TEXT, check_counts, with_fault};
use util::{Run, Stub, hello, packet};

#[test]
fn nothing_is_invented_for_a_good_server() {
    let (run, json) = with_fault(|tick| Some(hello(tick, TEXT)));
    assert_eq!(run.status, Some(0), "{run:?}");
    check_counts(&json);
    assert_ne!(json["verdict"], "failed");
    assert_eq!(json["failures"].as_array().unwrap().len(), 0);
    assert_eq!(json["sessions"]["connected"], 3);
    assert!(json["ticks"]["received"].as_u64().unwrap() > 60);
}

#[test]
fn a_missing_tick_is_found() {
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
fn a_repeated_tick_is_found() {
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
fn ticks_out_of_order_are_found() {
    let (run, json) = with_fault(|tick| match tick {
        20 => Some(Vec::new()),
        21 => Some([hello(21, TEXT), hello(20, TEXT)].concat()),
        _ => Some(hello(tick, TEXT)),
    });
    assert_eq!(run.status, Some(1));
    assert_eq!(json["ticks"]["reordered"], 1);
}

#[test]
fn another_text_is_found() {
    let (run, json) =
        with_fault(|tick| Some(hello(tick, if tick == 20 { "Hello W0rld" } else { TEXT })));
    assert_eq!(run.status, Some(1));
    assert_eq!(json["ticks"]["wrong_texts"], 1);
}

#[test]
fn a_hello_without_a_tick_number_is_found() {
    let (run, json) = with_fault(|tick| match tick {
        20 => Some([packet(1, b"short"), hello(20, TEXT)].concat()),
        _ => Some(hello(tick, TEXT)),
    });
    assert_eq!(run.status, Some(1));
    assert_eq!(json["packets"]["malformed"], 1);
}

#[test]
fn any_tick_number_is_survived() {
    let (run, json) =
        with_fault(|tick| Some(hello(if tick == 20 { u64::MAX } else { tick }, TEXT)));
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(json["ticks"]["missing"].as_u64().unwrap() > 1_000_000);
}

/// Long enough for the highest number there is to be judged while the run goes on.
#[test]
fn the_highest_tick_number_is_survived_from_the_first_on() {
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
fn a_slow_tick_is_no_fault() {
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
fn a_session_that_is_left_behind_at_the_end_is_found() {
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
fn a_session_that_never_gets_a_tick_is_found() {
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
fn sessions_that_are_forgotten_are_found_though_they_leave() {
    // Every second connection gets no tick while it stands.
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
