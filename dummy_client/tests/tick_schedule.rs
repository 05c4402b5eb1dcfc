//! Delay of ticks against the schedule of the server, and their spread over the sessions.
#![allow(clippy::unwrap_used)] // The panic of a failed test names the line.

mod util;

use serde_json::Value;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use util::fault::{TEXT, check_counts, number, with_fault};
use util::{Run, Stub, for_each_at_once, hello};

/// The tick period of a server with planted faults. The stub's own delay of some milliseconds is small against
/// this period.
const SLOT_MS: u64 = 100;

/// Runs the client against a stub that follows `plan`. For each slot (1, 2, 3 …) and session, `plan` returns
/// the tick number to send and the delay in milliseconds. `None` leaves the slot empty.
fn with_schedule(
    secs: &str,
    more_args: &[&str],
    plan: impl Fn(usize, u64) -> Option<(u64, u64)> + Send + Sync + 'static,
) -> Value {
    let ticks = SLOT_MS / util::TICK.as_millis() as u64;
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

/// Returns the summary of a run in which neither the stub nor the client was delayed by half a slot: every
/// delay that the summary has was planned.
fn undisturbed(args: &[&str], stub: impl Fn() -> Stub) -> Value {
    let (run, json) = Run::fit(args, stub, |json, stub| {
        let ms = |name: &str| number(&json["client"][name]);
        let client_ms = ms("worst_stall_ms").max(ms("worst_loop_lag_ms"));
        let stub_ms = stub.worst_late().as_secs_f64() * 1e3;
        let was_disturbed = client_ms + stub_ms >= SLOT_MS as f64 / 2.0;
        was_disturbed.then(|| format!("late: stub {stub_ms} ms, client {client_ms} ms"))
    });
    assert_eq!(run.status, Some(0), "{json}");
    check_counts(&json);
    json
}

/// A tick that is late on one session has its real delay, and the other ticks have no delay.
#[test]
fn late_tick_is_delayed_against_the_schedule() {
    let late_ms = |session, slot| if (session, slot) == (1, 15) { 200 } else { 0 };
    let json = with_schedule("3", &[], move |session, slot| {
        Some((slot, late_ms(session, slot)))
    });
    let (delay, spread) = (&json["tick_delay_ms"], &json["tick_spread_ms"]);
    // An undisturbed run may differ by up to half a slot.
    assert!((150.0..250.0).contains(&number(&delay["max"])), "{delay}");
    assert!((150.0..250.0).contains(&number(&spread["max"])), "{spread}");
    assert!(number(&delay["p90"]) < 25.0, "{delay}");
    let period = number(&json["tick_period_ms"]);
    assert!((98.0..102.0).contains(&period), "{period}");
}

#[test]
fn stalled_server_counts_skipped_ticks_and_synthetic_delays() {
    // The stub sends nothing from 2 s to 4 s; the tick numbers continue without a gap.
    let json = with_schedule("6", &[], |_, slot| match slot {
        ..=20 => Some((slot, 0)),
        21..40 => None,
        _ => Some((slot - 19, 0)),
    });
    let (ticks, delay) = (&json["ticks"], &json["tick_delay_ms"]);
    assert_eq!(
        (&ticks["skipped"], &ticks["charged"]),
        (&19.into(), &57.into()),
        "{json}"
    );
    assert!((1880.0..2100.0).contains(&number(&delay["max"])), "{delay}");
    assert!((1300.0..1700.0).contains(&number(&delay["p90"])), "{delay}");
    assert!(number(&delay["p50"]) < 20.0, "{delay}");
    let gap = number(&json["longest_tick_gap_ms"]);
    assert!((1950.0..2150.0).contains(&gap), "{gap}");
    // The time of the pause, and not the time of its detection.
    let seconds = json["timeline"].as_array().unwrap();
    assert!(number(&seconds[1]["tick_delay_max_ms"]) < 100.0, "{json}");
    assert!(number(&seconds[2]["tick_delay_p50_ms"]) > 1000.0, "{json}");
    assert!(number(&seconds[4]["tick_delay_p50_ms"]) < 20.0, "{json}");
}

#[test]
fn half_tick_rate_counts_skipped_ticks() {
    let json = with_schedule("9", &[], |_, slot| match slot {
        ..=30 => Some((slot, 0)),
        _ if slot.is_multiple_of(2) => Some((15 + slot / 2, 0)),
        _ => None,
    });
    let (skipped, delay) = (number(&json["ticks"]["skipped"]), &json["tick_delay_ms"]);
    assert!((27.0..=31.0).contains(&skipped), "{json}");
    assert!((85.0..125.0).contains(&number(&delay["p90"])), "{delay}");
    let period = number(&json["tick_period_ms"]);
    assert!((98.0..102.0).contains(&period), "{period}");
}

/// The delay may be any part of a period and last for any time.
#[test]
fn lasting_delay_is_measured_and_not_counted_as_skipped() {
    for_each_at_once([30, 60, 90], |late_ms| {
        let late = move |slot| if slot <= 20 { 0 } else { late_ms };
        let json = with_schedule("7", &[], move |_, slot| Some((slot, late(slot))));
        let p50 = number(&json["tick_delay_ms"]["p50"]);
        let least = late_ms as f64 - 6.0;
        assert!((least..least + 20.0).contains(&p50), "{late_ms}: {json}");
        assert_eq!(json["ticks"]["skipped"], 0, "{json}");
    });
}

#[test]
fn session_behind_throughout_shows_in_delay_and_spread() {
    // Session 2 gets each tick 400 ms late: more than one period, from its first tick on.
    let json = with_schedule("5", &[], |session, slot| match session {
        2 => slot.checked_sub(4).filter(|n| *n > 0).map(|n| (n, 0)),
        _ => Some((slot, 0)),
    });
    let (delay, spread) = (&json["tick_delay_ms"], &json["tick_spread_ms"]);
    assert!(number(&delay["p50"]) < 20.0, "{delay}");
    assert!((390.0..450.0).contains(&number(&delay["p90"])), "{delay}");
    assert!((390.0..450.0).contains(&number(&spread["p50"])), "{spread}");
}

#[test]
fn jitter_of_the_first_ticks_is_measured() {
    // The delays are spread evenly from 0 to 60 ms.
    let json = with_schedule("2.2", &[], |_, slot| Some((slot, slot * 37 % 61)));
    let p50 = number(&json["tick_delay_ms"]["p50"]);
    assert!((15.0..45.0).contains(&p50), "{json}");
}

#[test]
fn restarted_server_is_measured_by_its_own_schedule() {
    for_each_at_once(["1", "2"], |threads| {
        // The server closes all connections after ten ticks. The next server counts from 1, a third of a slot
        // off.
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
            threads,
        ];
        let json = undisturbed(&args, || Stub::start(script));
        assert_eq!(json["sessions"]["came_back"], 3, "{json}");
        assert_eq!(json["ticks"]["skipped"], 0, "{json}");
        // On the old schedule each tick of the new server would be 33 ms or 67 ms off.
        assert!(number(&json["tick_delay_ms"]["p90"]) < 25.0, "{json}");
    });
}

#[test]
fn distributions_count_every_measurement() {
    let (_, json) = with_fault(|tick| Some(hello(tick, TEXT)));
    for (name, quantiles) in [
        ("tick_delay", "tick_delay_ms"),
        ("tick_spread", "tick_spread_ms"),
    ] {
        let buckets = json["distributions"][name].as_array().unwrap();
        assert!((1..=60).contains(&buckets.len()), "{json}");
        let counts = buckets.iter().map(|bucket| &bucket["count"]);
        let sum: u64 = counts.map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(sum, json[quantiles]["count"], "{name}");
    }
    assert_eq!(json["distributions"]["rtt"].as_array().unwrap().len(), 0);
}

/// The sessions of one worker of the server get each tick later than the other sessions: no tick is lost, and
/// the spread shows the delay.
#[test]
fn late_worker_shows_in_the_tick_spread() {
    let stub = Stub::start(|session, tick| {
        if session % 2 == 1 {
            thread::sleep(Duration::from_millis(15));
        }
        Some(hello(tick, TEXT))
    });
    let (run, json) = Run::json(stub.addr, &["--count", "4", "--duration-secs", "2"]);
    assert_eq!(run.status, Some(0), "{json}");
    assert!(
        number(&json["tick_spread_ms"]["p50"]) >= 14.0,
        "{}",
        json["tick_spread_ms"]
    );
    assert!(
        number(&json["tick_delay_ms"]["p90"]) >= 14.0,
        "{}",
        json["tick_delay_ms"]
    );
}
