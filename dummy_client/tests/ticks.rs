//! Missing, malformed and wrong ticks, end to end. `src/run/tests.rs` has the other faults of ticks, in virtual
//! time.

use crate::util::fault::{TEXT, check_counts, with_fault};
use crate::util::{Run, Stub, counts, hello, packet};
use dummy_client::report::Verdict;

#[test]
fn server_without_fault_passes() {
    let (run, report) = with_fault(|tick| Some(hello(tick, TEXT)));
    assert_eq!(run.status, Some(0), "{run:?}");
    check_counts(&report);
    assert_ne!(report.verdict, Verdict::Failed);
    assert_eq!(report.failures, [""; 0]);
    assert_eq!(report.sessions.connected, 3);
    let [received] = counts(&report, ["ticks_received"]);
    assert!(received > 60, "{received}");
}

#[test]
fn missing_ticks_fail_the_run() {
    let (run, report) = with_fault(|tick| match tick {
        20 | 21 => Some(Vec::new()),
        _ => Some(hello(tick, TEXT)),
    });
    assert_eq!(run.status, Some(1), "{run:?}");
    let names = ["tick_gaps", "ticks_missing", "ticks_repeated"];
    assert_eq!(counts(&report, names), [1, 2, 0]);
    assert_eq!(report.lost(), 2);
}

#[test]
fn reordered_ticks_fail_the_run() {
    let (run, report) = with_fault(|tick| match tick {
        20 => Some(Vec::new()),
        21 => Some([hello(21, TEXT), hello(20, TEXT)].concat()),
        _ => Some(hello(tick, TEXT)),
    });
    assert_eq!(run.status, Some(1), "{run:?}");
    assert_eq!(counts(&report, ["ticks_reordered"]), [1]);
}

#[test]
fn wrong_text_fails_the_run() {
    let (run, report) =
        with_fault(|tick| Some(hello(tick, if tick == 20 { "Hello W0rld" } else { TEXT })));
    assert_eq!(run.status, Some(1), "{run:?}");
    assert_eq!(counts(&report, ["hello_texts_wrong"]), [1]);
}

#[test]
fn s_hello_without_a_tick_number_is_counted_as_malformed() {
    let (run, report) = with_fault(|tick| match tick {
        20 => Some([packet(1, b"short"), hello(20, TEXT)].concat()),
        _ => Some(hello(tick, TEXT)),
    });
    assert_eq!(run.status, Some(1), "{run:?}");
    assert_eq!(counts(&report, ["packets_malformed"]), [1]);
}

/// The session stops in the middle of the run; the others go on.
#[test]
fn session_that_lags_at_the_end_fails_the_run() {
    let (run, report) = with_fault(|tick| {
        Some(if tick > 25 {
            Vec::new()
        } else {
            hello(tick, TEXT)
        })
    });
    assert_eq!(run.status, Some(1), "{run:?}");
    let names = ["sessions_lagging_tick", "ticks_missing"];
    assert_eq!(counts(&report, names), [1, 0]);
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
    let (run, report) = Run::report(stub.addr, &args);
    assert_eq!(run.status, Some(1), "{run:?}");
    let [without] = counts(&report, ["sessions_without_tick"]);
    assert!(without > 1, "{run:?}");
}
