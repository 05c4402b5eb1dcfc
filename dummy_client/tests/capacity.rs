//! `--find-capacity`.
#![allow(clippy::unwrap_used)] // The panic of a failed test names the line.

mod util;

use util::fault::{TEXT, clean_stub, number};
use util::{Run, Stub, hello};

#[test]
fn capacity_above_the_largest_count_is_at_least_that_count() {
    let args = ["--find-capacity", "--count", "2", "--assert", "lost==0"];
    let (run, json) = Run::unlimited(&args, clean_stub);
    assert_eq!(run.status, Some(0), "{json}");
    let capacity = &json["capacity"];
    assert_eq!(
        (&capacity["answer"], &capacity["largest"]),
        (&"at_least".into(), &2.into())
    );
    assert_eq!(capacity["steps"][0]["holds"], true);
    assert!(
        number(&capacity["steps"][0]["packets_per_sec"]) > 50.0,
        "{capacity}"
    );
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
    let args = ["--find-capacity", "--count", "2", "--assert", "lost==0"];
    let (run, json) = Run::unlimited(&args, || Stub::start(script));
    assert_eq!(run.status, Some(0), "{json}");
    let capacity = &json["capacity"];
    assert_eq!(
        (&capacity["answer"], &capacity["largest"]),
        (&"found".into(), &1.into())
    );
    let broken = capacity["steps"][0]["broken"].to_string();
    assert!(broken.contains("ticks were missing"), "{broken}");
}
