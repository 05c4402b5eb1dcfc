//! Delay of ticks against the schedule of the server, and their spread over the sessions.

#![allow(clippy::unwrap_used)] // The panic of a failed test names the line.

mod util;

use crate::util::fault::{TEXT, check_counts};
use crate::util::{Run, Stub, counts, gauge, hello, lateness};
use dummy_client::Report;
use std::sync::Arc;
use std::time::Duration;

/// The tick period of a server with planted faults. The stub's own delay of some milliseconds is small against
/// this period.
const SLOT_MS: u64 = 100;

/// Runs the client against a stub that follows `plan`. For each slot (1, 2, 3 …) and session, `plan` returns
/// the tick number to send and the delay in milliseconds. `None` leaves the slot empty.
fn with_schedule(
    secs: &str,
    more_args: &[&str],
    plan: impl Fn(usize, u64) -> Option<(u64, u64)> + Send + Sync + 'static,
) -> Report {
    let ticks = SLOT_MS / crate::util::TICK.as_millis() as u64;
    let plan = Arc::new(plan);
    let args = [&["--count", "3", "--duration-secs", secs], more_args].concat();
    undisturbed(&args, || {
        let plan = Arc::clone(&plan);
        Stub::with_delays(move |session, tick| {
            let is_slot = tick.is_multiple_of(ticks);
            let planned = is_slot.then(|| plan(session, tick / ticks)).flatten();
            Some(match planned {
                Some((number, late_ms)) => (Duration::from_millis(late_ms), hello(number, TEXT)),
                None => Default::default(),
            })
        })
    })
}

/// Returns the report of a run in which neither the stub nor the client was delayed by half a slot: every
/// delay that the report has was planned.
fn undisturbed(args: &[&str], stub: impl Fn() -> Stub) -> Report {
    let (run, report) = Run::fit(
        stub,
        |stub| Run::report(stub.addr, args),
        |report, stub_ms| lateness(report, stub_ms, SLOT_MS as f64 / 2.0),
    );
    // A time without ticks of more than 1 s is a failure, and nothing else is.
    let is_silence = |failure: &String| failure.starts_with("no tick arrived for ");
    assert!(
        report.failures.iter().all(is_silence),
        "{:?}",
        report.failures
    );
    let has_failed = !report.failures.is_empty();
    assert_eq!(run.status, Some(i32::from(has_failed)), "{run:?}");
    check_counts(&report);
    report
}

/// A tick that is late on one session has its real delay, and the other ticks have no delay.
#[test]
fn late_tick_is_delayed_against_the_schedule() {
    let late_ms = |session, slot| if (session, slot) == (1, 15) { 200 } else { 0 };
    let report = with_schedule("3", &[], move |session, slot| {
        Some((slot, late_ms(session, slot)))
    });
    let trend = |name| report.metrics.trend(name).unwrap();
    let (delay, spread) = (trend("tick_delay"), trend("tick_spread"));
    // An undisturbed run may differ by up to half a slot.
    assert!((150.0..250.0).contains(&delay.max), "{delay:?}");
    assert!((150.0..250.0).contains(&spread.max), "{spread:?}");
    assert!(delay.p90 < 25.0, "{delay:?}");
    let period = gauge(&report, "tick_period").unwrap();
    assert!((98.0..102.0).contains(&period), "{period}");
}

#[test]
fn stalled_server_counts_skipped_ticks_and_synthetic_delays() {
    // The stub sends nothing from 2 s to 4 s; the tick numbers continue without a gap.
    let report = with_schedule("6", &[], |_, slot| match slot {
        ..=20 => Some((slot, 0)),
        21..40 => None,
        _ => Some((slot - 19, 0)),
    });
    assert_eq!(report.failures.len(), 1, "{:?}", report.failures);
    let silent_secs = report.sessions.server_silent_secs;
    assert!((1.0..2.2).contains(&silent_secs), "{silent_secs}");
    let delay = report.metrics.trend("tick_delay").unwrap();
    let names = ["ticks_skipped", "ticks_synthetic"];
    assert_eq!(counts(&report, names), [19, 57]);
    assert!((1880.0..2100.0).contains(&delay.max), "{delay:?}");
    assert!((1300.0..1700.0).contains(&delay.p90), "{delay:?}");
    assert!(delay.p50 < 20.0, "{delay:?}");
    let gap = gauge(&report, "longest_tick_gap").unwrap();
    assert!((1950.0..2150.0).contains(&gap), "{gap}");
    // The time of the pause, and not the time of its detection.
    let second = |index: usize| report.timeline[index].trends["tick_delay"];
    assert!(second(1).max < 100.0, "{:?}", report.timeline);
    assert!(second(2).p50 > 1000.0, "{:?}", report.timeline);
    assert!(second(4).p50 < 20.0, "{:?}", report.timeline);
}

/// The server is away for 0.1 s. The next server has a schedule of its own, and its first tick has no delay.
#[test]
fn restarted_server_is_measured_by_its_own_schedule() {
    // The server closes all connections after ten ticks. The next server counts from 1, a third of a slot off.
    let script = |session, tick: u64| match session {
        0..3 if tick > 51 => None,
        0..3 if tick.is_multiple_of(5) => Some(hello(tick / 5, TEXT)),
        3.. if tick > 55 && tick % 5 == 2 => Some(hello(tick / 5 - 10, TEXT)),
        _ => Some(Vec::new()),
    };
    let args = [
        "--count",
        "3",
        "--duration-secs",
        "5",
        "--reconnect",
        "--threads",
        "2",
    ];
    let report = undisturbed(&args, || Stub::start(script));
    assert_eq!(report.sessions.reconnected, 3);
    assert_eq!(counts(&report, ["ticks_skipped"]), [0]);
    // On the old schedule each tick of the new server would be 33 ms or 67 ms off.
    let delay = report.metrics.trend("tick_delay").unwrap();
    assert!(delay.p90 < 25.0, "{delay:?}");
}

/// The sessions of one worker of the server get each tick later than the other sessions: no tick is lost, and
/// the spread shows the delay.
#[test]
fn late_worker_shows_in_the_tick_spread() {
    // The stub sleeps exactly for a delay, and waits some milliseconds too long for input.
    let late_ms = |session| if session == 1 { 80 } else { 20 };
    let report = with_schedule("2", &[], move |session, slot| {
        Some((slot, late_ms(session)))
    });
    let trend = |name| report.metrics.trend(name).unwrap();
    let (delay, spread) = (trend("tick_delay"), trend("tick_spread"));
    assert!(spread.p50 >= 55.0, "{spread:?}");
    assert!(delay.p90 >= 55.0, "{delay:?}");
}
