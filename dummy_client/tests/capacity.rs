//! `--find-capacity`.

#![allow(clippy::unwrap_used)] // The panic of a failed test names the line.

mod util;

use crate::util::fault::{TEXT, clean_stub};
use crate::util::{Run, Stub, hello};
use dummy_client::executor::capacity::Outcome;

const ARGS: [&str; 5] = ["--find-capacity", "--count", "2", "--assert", "lost==0"];

#[test]
fn capacity_above_the_largest_count_is_at_least_that_count() {
    let (run, report) = Run::unlimited(&ARGS, clean_stub);
    assert_eq!(run.status, Some(0), "{run:?}");
    let capacity = report.capacity.unwrap();
    assert_eq!(
        (capacity.outcome, capacity.largest),
        (Outcome::AtLeast, Some(2))
    );
    assert!(capacity.steps[0].holds);
    assert!(capacity.steps[0].packets_per_sec > 50.0, "{run:?}");
}

#[test]
fn largest_session_count_that_holds_is_found() {
    // The stub serves one session with every tick; a second session gets every other tick only.
    let script = |session, tick: u64| {
        Some(if session == 1 && tick.is_multiple_of(2) {
            Vec::new()
        } else {
            hello(tick, TEXT)
        })
    };
    let (run, report) = Run::unlimited(&ARGS, || Stub::start(script));
    assert_eq!(run.status, Some(0), "{run:?}");
    let capacity = report.capacity.unwrap();
    assert_eq!(
        (capacity.outcome, capacity.largest),
        (Outcome::Found, Some(1))
    );
    let broken = capacity.steps[0].broken.join("; ");
    assert!(broken.contains("ticks were missing"), "{broken}");
}
