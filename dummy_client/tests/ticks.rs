//! Missing, wrong, late and absent ticks, end to end. `src/run/tests.rs` has each fault of ticks, in virtual time.

use crate::util::fault::{ARGS, TEXT, check_counts, faulty_stub, with_fault};
use crate::util::{
    Run, Stub, counts, disturbance, for_each_at_once, hello, lateness, packet, scratch,
};
use dummy_client::Report;
use dummy_client::report::Verdict;

/// From one tick to the next of a server that is late.
const SLOT_MS: u64 = 100;
/// The ticks of the stub in a slot.
const TICKS_PER_SLOT: u64 = 5;

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

/// The text names each fault.
#[test]
fn missing_reordered_wrong_and_malformed_ticks_fail_the_run() {
    let stub = || {
        faulty_stub(|tick| match tick {
            15 => Some(hello(15, "Hello W0rld")),
            16 => Some([packet(1, b"short"), hello(16, TEXT)].concat()),
            20 | 21 | 24 => Some(Vec::new()),
            25 => Some([hello(25, TEXT), hello(24, TEXT)].concat()),
            _ => Some(hello(tick, TEXT)),
        })
    };
    let json = scratch("faults.json");
    let run = |stub: &Stub| Run::with_text(stub.addr, &ARGS, &json);
    let (run, report) = Run::fit(stub, run, disturbance);
    std::fs::remove_file(&json).unwrap();
    assert_eq!(run.status, Some(1), "{run:?}");
    check_counts(&report);
    let names = ["tick_gaps", "ticks_repeated"];
    assert_eq!(counts(&report, names), [2, 0]);
    for (name, count, failure) in [
        ("ticks_missing", 3, "3 ticks were missing"),
        ("ticks_reordered", 1, "1 ticks were out of order"),
        ("hello_texts_wrong", 1, "1 hellos had a wrong text"),
        ("packets_malformed", 1, "1 packets were malformed"),
    ] {
        assert_eq!(counts(&report, [name]), [count], "{name}");
        let mut lines = run.stdout.lines();
        let is_failure = |line: &str| line.starts_with("failed") && line.ends_with(failure);
        assert!(lines.any(is_failure), "{failure}: {}", run.stdout);
    }
    assert_eq!(report.lost(), 3);
}

/// The server only accepts, or sends the chats of another game: these pass every check of a packet, and prove nothing.
#[test]
fn server_that_sends_nothing_of_the_game_fails_the_run() {
    let cases = [
        (false, "5:300ms,5:500ms,0:200ms", "no packet was received"),
        (true, "2:100ms,2:500ms", "nothing was checked"),
    ];
    for_each_at_once(cases, |(sends_chats, stages, failure)| {
        let stub = Stub::start(move |_, tick| {
            Some(if sends_chats {
                packet(5, tick.to_le_bytes())
            } else {
                Vec::new()
            })
        });
        let (run, report) = Run::report(stub.addr, &["--stages", stages]);
        assert_eq!(run.status, Some(1), "{failure}: {run:?}");
        let failures = report.failures.join("; ");
        assert!(failures.contains(failure), "{failures}");
    });
}

/// Returns the outcome of a run in which the stub and the client together were late by less than a slot.
fn undisturbed(
    args: &[&str],
    script: impl Fn(usize, u64) -> Option<Vec<u8>> + Clone + Send + Sync + 'static,
) -> (Run, Report) {
    let (run, report) = Run::fit(
        || Stub::start(script.clone()),
        |stub| Run::report(stub.addr, &[&["--count", "3"], args].concat()),
        |report, stub_ms| lateness(report, stub_ms, SLOT_MS as f64),
    );
    check_counts(&report);
    (run, report)
}

/// The stub sends nothing from 1 s to 3 s; the tick numbers continue without a gap.
#[test]
fn stalled_server_fails_the_run_and_its_skipped_ticks_count() {
    let script = |_, tick: u64| {
        let slot = tick / TICKS_PER_SLOT;
        let number = match slot {
            _ if !tick.is_multiple_of(TICKS_PER_SLOT) => None,
            ..=10 => Some(slot),
            11..30 => None,
            _ => Some(slot - 19),
        };
        Some(number.map_or_else(Vec::new, |number| hello(number, TEXT)))
    };
    let (run, report) = undisturbed(&["--duration-secs", "4.2"], script);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert_eq!(report.failures.len(), 1, "{:?}", report.failures);
    assert!(report.failures[0].starts_with("no tick arrived for "));
    let silent_secs = report.sessions.server_silent_secs;
    assert!((1.0..2.2).contains(&silent_secs), "{silent_secs}");
    // The first tick behind the stall may be late by less than a slot.
    let [skipped] = counts(&report, ["ticks_skipped"]);
    assert!((18..=20).contains(&skipped), "{skipped}");
}

/// The server is away for 0.1 s. The next server has a schedule of its own.
#[test]
fn restarted_server_is_measured_by_its_own_schedule() {
    // The server closes all connections after ten ticks. The next server counts from 1, 40 ms off.
    let script = |session, tick: u64| match session {
        0..3 if tick > 51 => None,
        0..3 if tick.is_multiple_of(5) => Some(hello(tick / 5, TEXT)),
        3.. if tick > 55 && tick % 5 == 2 => Some(hello(tick / 5 - 10, TEXT)),
        _ => Some(Vec::new()),
    };
    let args = ["--duration-secs", "3", "--reconnect", "--threads", "2"];
    let (run, report) = undisturbed(&args, script);
    assert_eq!(run.status, Some(0), "{run:?}");
    assert_eq!(report.failures, [""; 0]);
    assert_eq!(report.sessions.reconnected, 3);
    assert_eq!(counts(&report, ["ticks_skipped"]), [0]);
}
