//! Does the client find what a server does wrong, and invent nothing? A stub server plants one
//! fault at a time.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod util;

use std::sync::Arc;
use std::time::Duration;
use util::{Run, Stub, client, hello, packet, scratch};

const TEXT: &str = "Hello World";
/// Ticks come every 20 ms, so faults planted around tick 15 to 25 are seen by all.
const ARGS: [&str; 4] = ["--count", "3", "--duration-secs", "0.8"];

/// Runs three sessions against a stub in which session 1 gets something else for some ticks.
fn with_fault(
    fault: impl Fn(u64) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> (Run, serde_json::Value) {
    let stub = Stub::start(move |session, tick| match session {
        1 => fault(tick),
        _ => Some(hello(tick, TEXT)),
    });
    Run::json(stub.addr, &ARGS)
}

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

/// From one slot to the next of a server that a whole fault is planted in: long enough that the
/// stub's own milliseconds are little against it.
const SLOT_MS: u64 = 100;

/// A run against a server that does in each of its slots (1, 2, 3 …) what `plan` says: the number
/// to send to this session, and how many milliseconds late. `None` leaves the slot empty.
fn with_schedule(
    secs: &str,
    more_args: &[&str],
    plan: impl Fn(usize, u64) -> Option<(u64, u64)> + Send + Sync + 'static,
) -> serde_json::Value {
    let ticks = SLOT_MS / util::TICK.as_millis() as u64;
    let plan = Arc::new(plan);
    let args = [&["--count", "3", "--duration-secs", secs], more_args].concat();
    undisturbed(&args, || {
        let plan = Arc::clone(&plan);
        Stub::with_delays(move |session, tick| {
            let planned = match tick.is_multiple_of(ticks) {
                true => plan(session, tick / ticks),
                false => None,
            };
            Some(match planned {
                Some((number, late_ms)) => (Duration::from_millis(late_ms), hello(number, TEXT)),
                None => Default::default(),
            })
        })
    })
}

/// The summary of a run in which the stub sent all of it when it was meant to, and the client had
/// the time to look: what is late then was planned to be.
fn undisturbed(args: &[&str], stub: impl Fn() -> Stub) -> serde_json::Value {
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

/// Every tick that came is measured, and so is every slot that somebody waited for in vain.
fn check_counts(json: &serde_json::Value) {
    let count = |value: &serde_json::Value| value.as_u64().unwrap();
    let ticks = &json["ticks"];
    assert_eq!(
        count(&json["tick_delay_ms"]["count"]),
        count(&ticks["received"]) + count(&ticks["charged"]),
        "{json}"
    );
}

fn number(value: &serde_json::Value) -> f64 {
    value.as_f64().unwrap()
}

/// A tick that is late on one session is late by what it is, and the others are not.
#[test]
fn a_late_tick_is_late_against_the_schedule() {
    let late_ms = |session, slot| if (session, slot) == (1, 15) { 200 } else { 0 };
    let json = with_schedule("3", &[], move |session, slot| {
        Some((slot, late_ms(session, slot)))
    });
    let (delay, spread) = (&json["tick_delay_ms"], &json["tick_spread_ms"]);
    // Half a slot more or less is what an undisturbed run may still be off.
    assert!((150.0..250.0).contains(&number(&delay["max"])), "{delay}");
    assert!((150.0..250.0).contains(&number(&spread["max"])), "{spread}");
    assert!(number(&delay["p90"]) < 25.0, "{delay}");
    let period = number(&json["tick_period_ms"]);
    assert!((98.0..102.0).contains(&period), "{period}");
}

#[test]
fn a_freeze_of_the_whole_server_is_counted_and_charged() {
    // Nothing from 2 s to 4 s; the numbers go on as if nothing had been.
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
    // Where it was, and not where it was found out.
    let seconds = json["timeline"].as_array().unwrap();
    assert!(number(&seconds[1]["tick_delay_max_ms"]) < 100.0, "{json}");
    assert!(number(&seconds[2]["tick_delay_p50_ms"]) > 1000.0, "{json}");
    assert!(number(&seconds[4]["tick_delay_p50_ms"]) < 20.0, "{json}");
}

#[test]
fn a_server_that_falls_to_half_its_rate_is_found() {
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

/// Whatever part of a period it is, and however long it lasts.
#[test]
fn a_lateness_that_stays_is_neither_forgiven_nor_taken_for_a_skip() {
    for late_ms in [30, 60, 90] {
        let late = move |slot| if slot <= 20 { 0 } else { late_ms };
        let json = with_schedule("7", &[], move |_, slot| Some((slot, late(slot))));
        let p50 = number(&json["tick_delay_ms"]["p50"]);
        let least = late_ms as f64 - 6.0;
        assert!((least..least + 20.0).contains(&p50), "{late_ms}: {json}");
        assert_eq!(json["ticks"]["skipped"], 0, "{json}");
    }
}

#[test]
fn a_session_that_is_behind_throughout_hides_neither_itself_nor_the_others() {
    // 400 ms behind, and by more than one tick from its first on.
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
fn the_first_ticks_are_not_measured_against_themselves() {
    // Spread evenly from 0 to 60 ms.
    let json = with_schedule("2.2", &[], |_, slot| Some((slot, slot * 37 % 61)));
    let p50 = number(&json["tick_delay_ms"]["p50"]);
    assert!((15.0..45.0).contains(&p50), "{json}");
}

#[test]
fn a_server_that_begins_anew_is_measured_by_its_own_schedule() {
    for threads in ["1", "2"] {
        // All are lost after ten ticks; the next server counts from 1, a third of a slot off.
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
        // By the old schedule each tick of the new server would be 33 ms off, or 67.
        assert!(number(&json["tick_delay_ms"]["p90"]) < 25.0, "{json}");
    }
}

#[test]
fn another_text_is_found() {
    let (run, json) =
        with_fault(|tick| Some(hello(tick, if tick == 20 { "Hello W0rld" } else { TEXT })));
    assert_eq!(run.status, Some(1));
    assert_eq!(json["ticks"]["wrong_texts"], 1);
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
fn a_server_that_hangs_is_found_though_echoes_go_on() {
    let stub = Stub::with_answers(
        |_, tick| {
            Some(if tick > 40 {
                Vec::new()
            } else {
                hello(tick, TEXT)
            })
        },
        |_, payload| packet(3, payload),
    );
    let args = ["--count", "3", "--duration-secs", "2.5", "--echo-hz", "10"];
    let (run, json) = Run::json(stub.addr, &args);
    assert_eq!(run.status, Some(1), "{json}");
    let silent = json["sessions"]["server_silent_secs"].as_f64().unwrap();
    assert!((1.0..2.5).contains(&silent), "{json}");
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_no_success() {
    let stub = Stub::start(|_, _| Some(Vec::new()));
    let (run, json) = Run::json(stub.addr, &["--count", "2", "--duration-secs", "5.5"]);
    assert_eq!(run.status, Some(1), "{json}");
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
fn lecture_37_an_unknown_id_is_counted_and_not_read_as_text() {
    let (run, json) = with_fault(|tick| match tick {
        20 => Some([packet(77, b"secret text"), hello(20, TEXT)].concat()),
        _ => Some(hello(tick, TEXT)),
    });
    assert_eq!(run.status, Some(1));
    assert_eq!(json["packets"]["unknown_ids"], 1);
    assert!(run.stderr.contains("id 77 size 15"), "{}", run.stderr);
    assert!(!run.stderr.contains("secret"));
}

#[test]
fn lecture_37_id_size_and_text_are_logged() {
    let (run, _) = with_fault(|tick| Some(hello(tick, TEXT)));
    for session in 1..=3 {
        let line = format!("session {session}: id 1 size 23 \"Hello World\"");
        assert!(run.stderr.contains(&line), "{line} in {}", run.stderr);
    }
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
fn a_server_that_breaks_the_framing_loses_that_session() {
    for (size, label) in [(0, "bad_size"), (3, "bad_size")] {
        let (run, json) = with_fault(move |tick| match tick {
            20 => Some(vec![size, 0, 1, 0]),
            _ => Some(hello(tick, TEXT)),
        });
        assert_eq!(run.status, Some(1));
        assert_eq!(json["losses"][label], 1, "{json}");
        assert_eq!(json["sessions"]["live"], 2);
    }
}

#[test]
fn a_lost_session_is_found_and_the_goodbye_is_kept() {
    let (run, json) = with_fault(|tick| match tick {
        20 => Some(packet(6, b"\x0a\x00the server is shutting down")),
        21.. => None,
        _ => Some(hello(tick, TEXT)),
    });
    assert_eq!(run.status, Some(1));
    assert_eq!(json["sessions"]["lost"], 1);
    assert_eq!(json["byes"][0]["code"], 10);
    assert_eq!(json["byes"][0]["text"], "the server is shutting down");
}

/// Whatever a server says, it controls no terminal and turns no line around: not in the log, the
/// text, the JSON or the report.
#[test]
fn texts_of_a_hostile_server_are_spelled_out_in_every_output() {
    let text = "\u{9b}31m\u{9d}0;x\u{7}\u{7f}\u{1b}[2J\u{202e}\u{2066}\u{200f}\u{61c}\u{2028}";
    let stub = || {
        Stub::start(move |_, tick| match tick {
            20 => Some(packet(6, format!("\u{7}\0{text}").as_bytes())),
            21.. => None,
            _ => Some(hello(tick, text)),
        })
    };
    let report = scratch("hostile.html");
    let (with_json, json) = Run::json(stub().addr, &["--count", "2", "--report", &report]);
    assert_eq!(json["byes"][0]["text"], text);
    assert!(
        with_json.stdout.contains("\\u009b31m\\u009d0;x"),
        "{with_json:?}"
    );
    let with_text = Run::of(&mut client(stub().addr, &["--count", "2"]));
    let report = std::fs::read_to_string(&report).unwrap();
    for (what, output) in [
        ("the JSON", &with_json.stdout),
        ("the log", &with_json.stderr),
        ("the text", &with_text.stdout),
        ("the report", &report),
    ] {
        assert!(output.contains("31m"), "{what} has the text");
        let is_bad =
            |c: &char| *c != '\n' && (c.is_control() || !c.is_ascii() && text.contains(*c));
        assert_eq!(output.chars().find(is_bad), None, "{what}");
    }
}

/// A peer can make up goodbyes without end; the summary stays small, and the sum is right.
#[test]
fn sixty_thousand_different_goodbyes_are_a_short_list() {
    let stub = Stub::start(|_, tick| match tick {
        1..=60 => {
            let bye = |n| packet(6, format!("\x07\x00reason {n} </script>").as_bytes());
            Some((0..1000).flat_map(|n| bye(tick * 1000 + n)).collect())
        }
        // The run is over when this, its only session, is.
        _ => None,
    });
    let report = scratch("goodbyes.html");
    let args = ["--count", "1", "--log-sessions", "0", "--report", &report];
    let (run, json) = Run::json(stub.addr, &args);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert_eq!(json["packets"]["received"], 60_000);
    let byes = json["byes"].as_array().unwrap();
    assert_eq!(byes.len(), 50);
    assert_eq!(json["byes_more"]["count"], 60_000 - 50);
    assert_eq!(json["byes_more"]["groups_at_least"], 951);
    assert!(run.stdout.len() < 20_000, "{} bytes", run.stdout.len());
    let html = std::fs::read_to_string(&report).unwrap();
    assert!(html.contains("and at least 951 more groups"), "{html}");
    assert!(html.len() < 100_000, "{} bytes", html.len());
    assert_eq!(html.matches("</script>").count(), 1);
}

#[test]
fn a_long_goodbye_is_cut() {
    let (_, json) = with_fault(|tick| match tick {
        20 => Some([packet(6, &[b'x'; 60_000]), hello(20, TEXT)].concat()),
        _ => Some(hello(tick, TEXT)),
    });
    assert_eq!(json["byes"][0]["text"], "x".repeat(200));
}

#[test]
fn distributions_hold_every_measurement() {
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

#[test]
fn with_reconnect_a_loss_that_comes_back_is_no_failure() {
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

const ECHO_ARGS: [&str; 6] = ["--count", "2", "--duration-secs", "0.6", "--echo-hz", "50"];

#[test]
fn echoes_come_back_byte_for_byte() {
    for payload_bytes in ["0", "1", "32", "65531"] {
        let stub = Stub::with_answers(
            |_, tick| Some(hello(tick, TEXT)),
            |id, payload| {
                assert_eq!(id, 2);
                packet(3, payload)
            },
        );
        let args = [&ECHO_ARGS[..], &["--payload-bytes", payload_bytes]].concat();
        let (run, json) = Run::json(stub.addr, &args);
        assert_eq!(run.status, Some(0), "{payload_bytes} bytes: {json}");
        let echoes = &json["echoes"];
        assert!(echoes["sent"].as_u64().unwrap() > 20, "{json}");
        assert_eq!(echoes["sent"], echoes["answered"]);
    }
}

#[test]
fn an_echo_with_one_wrong_byte_is_found() {
    let stub = Stub::with_answers(
        |_, tick| Some(hello(tick, TEXT)),
        |_, payload| {
            let mut payload = payload.to_vec();
            payload[31] ^= 1;
            packet(3, &payload)
        },
    );
    let (run, json) = Run::json(stub.addr, &ECHO_ARGS);
    assert_eq!(run.status, Some(1));
    assert_eq!(json["echoes"]["wrong"], json["echoes"]["answered"]);
}

#[test]
fn echoes_without_an_answer_are_found() {
    let stub = Stub::start(|_, tick| Some(hello(tick, TEXT)));
    let (run, json) = Run::json(stub.addr, &ECHO_ARGS);
    assert_eq!(run.status, Some(1));
    assert_eq!(json["echoes"]["unanswered"], json["echoes"]["sent"]);
}

// ---- faults of a whole server ------------------------------------------------------------------

/// A server that says goodbye without end must not be able to keep the client, nor fill its memory.
#[test]
fn a_flood_of_goodbyes_ends_when_the_run_does() {
    let stub = Stub::start(|_, _| Some(packet(6, b"\x07\x00").repeat(50_000)));
    let started = std::time::Instant::now();
    let (run, json) = Run::json(stub.addr, &["--count", "1", "--duration-secs", "1"]);
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    assert_eq!(run.status, Some(0), "{json}");
    // One read is more than that; how many there are in a second is a matter of the machine.
    assert!(
        json["byes"][0]["count"].as_u64().unwrap() > 10_000,
        "{json}"
    );
}

/// It accepts, and nothing else: whatever the shape of the load, that is no success.
#[test]
fn a_server_that_says_nothing_is_found_in_every_shape() {
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
    for shape in shapes {
        let stub = Stub::start(|_, _| Some(Vec::new()));
        let (run, json) = Run::json(stub.addr, shape);
        assert_eq!(run.status, Some(1), "{shape:?}: {json}");
        let failures = json["failures"].to_string();
        assert!(
            failures.contains("no packet was received"),
            "{shape:?}: {failures}"
        );
    }
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

#[test]
fn echoes_that_are_never_answered_are_found_though_their_sessions_leave() {
    let stub = Stub::start(|_, tick| Some(hello(tick, TEXT)));
    let args = [
        "--stages",
        "3:100ms,3:3s,0:100ms,0:200ms",
        "--echo-hz",
        "10",
    ];
    let (run, json) = Run::json(stub.addr, &args);
    assert_eq!(run.status, Some(1), "{json}");
    assert!(json["echoes"]["unanswered"].as_u64().unwrap() > 5, "{json}");
}

/// The listener goes away: who has left cannot come back.
#[test]
fn a_server_that_takes_nobody_any_more_is_found() {
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

#[test]
fn a_server_that_answers_nothing_does_not_fill_our_memory() {
    let stub = Stub::deaf();
    let rates = ["--echo-hz", "20000", "--payload-bytes", "60000"];
    let args = [
        "--count",
        "4",
        "--duration-secs",
        "3",
        "--log-sessions",
        "0",
    ];
    let child = client(stub.addr, &[&args[..], &rates].concat())
        .spawn()
        .unwrap();
    let mut most_kib = 0;
    let status = format!("/proc/{}/status", child.id());
    for _ in 0..250 {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("VmHWM"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        most_kib = most_kib.max(kib.unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let run: Run = child.wait_with_output().unwrap().into();
    assert_eq!(run.status, Some(1), "{run:?}");
    // 16 MiB of requests, in flight and queued, and what a client has anyway.
    assert!(most_kib < 120_000, "{most_kib} KiB");
}
