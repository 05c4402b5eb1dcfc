//! Do attackers attack, and is a server found that does not defend itself?
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod util;

use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use util::{RealServer, Run, Stub, hello, packet};

const TEXT: &str = "Hello World";

/// A run of nine seconds: two to settle, three alone, the rest under attack.
fn attack_args(name: &str) -> [&str; 8] {
    let [count, secs, attackers, attack] =
        ["--count", "--duration-secs", "--attackers", "--attack"];
    [count, "10", secs, "9", attackers, "5", attack, name]
}

fn attack(addr: std::net::SocketAddr, name: &str) -> (Run, Value) {
    Run::json(addr, &attack_args(name))
}

/// The real server under each attack that it can be tried with in seconds; all at once, each with
/// a server of its own.
#[test]
fn a_sound_server_kicks_for_the_right_reason_and_loses_nothing() {
    let expected = [
        ("zero-size", Some("bad_size")),
        ("short-size", Some("bad_size")),
        ("unknown-id", Some("unknown_id")),
        ("server-id", Some("unknown_id")),
        ("id-sweep", Some("unknown_id")),
        ("bad-utf8", Some("bad_payload")),
        ("chat-flood", Some("chat_flood")),
        ("rst-storm", None),
        ("half-close", None),
        ("connect-flood", None),
    ];
    thread::scope(|scope| {
        for (name, reason) in expected {
            scope.spawn(move || {
                let server = RealServer::start(1, Some(10));
                let (_, json) = attack(server.addr(), name);
                let (ticks, tally) = (&json["ticks"], &json["attack"]["tally"]);
                assert_eq!(
                    (&ticks["missing"], &json["lost"]),
                    (&0.into(), &0.into()),
                    "{name}"
                );
                assert!(
                    tally["connections"].as_u64().unwrap() > 5,
                    "{name}: {tally}"
                );
                assert_eq!(tally["not_kicked"], 0, "{name}: {tally}");
                assert_eq!(tally["wrong_reason"], 0, "{name}: {tally}");
                let kicked = tally["kicked"].as_object().unwrap();
                let reasons: Vec<&str> = kicked.keys().map(String::as_str).collect();
                assert_eq!(reasons, Vec::from_iter(reason), "{name}: {tally}");
            });
        }
    });
}

#[test]
fn a_server_that_kicks_nobody_is_found() {
    let stub = Stub::start(|_, tick| Some(hello(tick, TEXT)));
    let (run, json) = attack(stub.addr, "bad-utf8");
    assert_eq!(run.status, Some(1), "{json}");
    assert_eq!(json["attack"]["tally"]["not_kicked"], 5, "{json}");
    let failures = json["failures"].to_string();
    assert!(failures.contains("should have been kicked"), "{failures}");
}

#[test]
fn a_server_that_kicks_for_another_reason_is_found() {
    let bye = |_, _: &[u8]| packet(6, b"\x07\x00too many");
    let stub = Stub::with_answers(|_, tick| Some(hello(tick, TEXT)), bye);
    // The stub says goodbye and does not hang up: the attacker waits for the end in vain.
    let (run, json) = attack(stub.addr, "unknown-id");
    assert_eq!(run.status, Some(1), "{json}");
    let closing = Stub::with_answers(
        |session, tick| (session < 10 || !tick.is_multiple_of(5)).then(|| hello(tick, TEXT)),
        bye,
    );
    let (run, json) = attack(closing.addr, "unknown-id");
    assert_eq!(run.status, Some(1), "{json}");
    assert!(
        json["attack"]["tally"]["wrong_reason"].as_u64().unwrap() > 0,
        "{json}"
    );
}

#[test]
fn a_tick_that_an_attack_makes_late_is_found() {
    // Whoever is not one of the ten healthy ones delays the ticks of all, by more than a machine with
    // other things to do delays them before.
    let stub = || {
        let is_attacked = AtomicBool::new(false);
        Stub::start(move |session, tick| {
            if session >= 10 {
                is_attacked.store(true, Ordering::Relaxed);
            } else if is_attacked.load(Ordering::Relaxed) && tick.is_multiple_of(20) {
                thread::sleep(Duration::from_millis(300));
            }
            Some(hello(tick, TEXT))
        })
    };
    let (run, json) = Run::unlimited(&attack_args("connect-flood"), stub);
    assert_eq!(run.status, Some(1), "{json}");
    let rise = json["attack"]["tick_delay_p99_rise_ms"].as_f64().unwrap();
    assert!(rise > 20.0, "{json}");
    assert!(json["failures"].to_string().contains("rose by"), "{json}");
}
