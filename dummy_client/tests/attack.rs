//! Attacks against the real server, and against stubs that do not defend themselves.
#![allow(clippy::unwrap_used)] // The panic of a failed test names the line.

mod util;

use serde_json::Value;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use util::{RealServer, Run, Stub, hello, packet};

const TEXT: &str = "Hello World";
/// The healthy sessions connect first: 0 to 9.
const HEALTHY: usize = 10;
/// Three neighbours for each of the read intervals 10, 20, 33 and 50 ms connect next: 10 to 21.
const NEIGHBOURS: usize = 12;
/// The attackers connect last.
const FIRST_ATTACKER: usize = HEALTHY + NEIGHBOURS;

/// A run of nine seconds: two to settle, three alone, the rest under attack.
fn attack_args(name: &str) -> [&str; 8] {
    let [count, secs, attackers, attack] =
        ["--count", "--duration-secs", "--attackers", "--attack"];
    [count, "10", secs, "9", attackers, "5", attack, name]
}

fn attack(addr: std::net::SocketAddr, name: &str) -> (Run, Value) {
    Run::json(addr, &attack_args(name))
}

/// Tests the real server under each attack that takes only seconds. The attacks run at the same time, each
/// with a server of its own.
#[test]
fn attacked_server_kicks_for_the_right_reason_and_loses_nothing() {
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
                let (ticks, stats) = (&json["ticks"], &json["attack"]["stats"]);
                assert_eq!(
                    (&ticks["missing"], &json["lost"]),
                    (&0.into(), &0.into()),
                    "{name}"
                );
                assert!(
                    stats["connections"].as_u64().unwrap() > 5,
                    "{name}: {stats}"
                );
                assert_eq!(stats["not_kicked"], 0, "{name}: {stats}");
                assert_eq!(stats["wrong_reason"], 0, "{name}: {stats}");
                let kicked = stats["kicked"].as_object().unwrap();
                let reasons: Vec<&str> = kicked.keys().map(String::as_str).collect();
                assert_eq!(reasons, Vec::from_iter(reason), "{name}: {stats}");
            });
        }
    });
}

/// Each attacker stays within its budget, so the server does not kick an attacker for its packets. The number
/// of attackers is low, so the sum of their load is small.
#[test]
fn attacks_of_permitted_packets_lose_no_session() {
    let cases = [
        ("chat-churn", "2", "1", "9"),
        ("chat-burst", "10", "20", "9"),
        ("silent-flood", "10", "200", "9"),
        ("ask-and-not-read", "10", "5", "18"),
    ];
    thread::scope(|scope| {
        for (name, count, attackers, secs) in cases {
            scope.spawn(move || {
                let server = RealServer::start(1, Some(10));
                let mut args = attack_args(name);
                (args[1], args[3], args[5]) = (count, secs, attackers);
                let (_, json) = Run::json(server.addr(), &args);
                let (stats, neighbours) = (&json["attack"]["stats"], &json["attack"]["neighbours"]);
                assert_eq!(neighbours["connected"], NEIGHBOURS, "{name}: {neighbours}");
                assert_eq!(json["lost"], 0, "{name}: {json}");
                assert_eq!(neighbours["lost"], 0, "{name}: {neighbours}");
                let groups = neighbours["by_interval"].as_array().unwrap();
                let intervals: Vec<_> = groups.iter().map(|one| &one["read_interval_ms"]).collect();
                assert_eq!(intervals, [10, 20, 33, 50], "{neighbours}");
                for group in groups {
                    assert_eq!(group["sessions"], 3, "{group}");
                    assert!(group["ticks"].as_u64() > Some(3 * 50), "{name}: {group}");
                }
                assert_eq!(stats["kicked"], serde_json::json!({}), "{name}: {stats}");
                assert_eq!(stats["not_kicked"], 0, "{name}: {stats}");
                assert_eq!(stats["inconclusive"], 0, "{name}: {stats}");
                let heard = json["chats"]["received"].as_u64().unwrap();
                let newcomers = &json["attack"]["newcomers"];
                match name {
                    // Chats of a connection that is closed with unread bytes may be lost with it.
                    "chat-churn" => {
                        assert!(stats["connections"].as_u64() > Some(100), "{stats}");
                        assert!(heard > 0, "{json}");
                    }
                    // Each burst of each attacker reaches each healthy session.
                    "chat-burst" => {
                        let rounds = heard / (20 * 20 * HEALTHY as u64);
                        assert!(rounds >= 2, "{heard} {stats}");
                        assert!(
                            stats["connections"].as_u64() >= Some(rounds * 20),
                            "{stats}"
                        );
                    }
                    "silent-flood" => {
                        assert_eq!(stats["connections"], 200, "{stats}");
                        assert_eq!(stats["bytes_sent"], 0, "{stats}");
                        assert!(newcomers["tried"].as_u64() > Some(0), "{newcomers}");
                        assert_eq!(newcomers["not_served"], 0, "{newcomers}");
                        assert!(newcomers["longest_wait_ms"].is_f64(), "{newcomers}");
                    }
                    _ => {
                        assert!(
                            stats["closed_without_message"].as_u64() >= Some(5),
                            "{stats}"
                        );
                        assert!(newcomers.is_null(), "{newcomers}");
                    }
                }
            });
        }
    });
}

/// The neighbours are healthy sessions: a run fails if the server ends a neighbour or omits one of its ticks,
/// and the summary names the neighbour.
#[test]
fn neighbour_with_a_loss_fails_the_run() {
    let attacked_at = Mutex::new(None);
    let stub = Stub::start(move |session, tick| {
        let mut attacked_at = attacked_at.lock().unwrap();
        if session >= FIRST_ATTACKER {
            attacked_at.get_or_insert(tick);
        }
        let ticks = attacked_at.map_or(0, |at| tick.saturating_sub(at));
        match (session - session.min(HEALTHY) + 1, ticks) {
            // The first session is not a neighbour: the neighbours begin at session HEALTHY.
            _ if session < HEALTHY => Some(hello(tick, TEXT)),
            // The connection ends without a reason.
            (5, 20..) => None,
            // The connection ends with a reason.
            (8, 20) => Some(packet(6, b"\x07\x00too many")),
            (8, 21..) => None,
            // One tick is missing.
            (12, 20) => Some(Vec::new()),
            // No further tick arrives.
            (1, 20..) => Some(Vec::new()),
            _ => Some(hello(tick, TEXT)),
        }
    });
    let (run, json) = attack(stub.addr, "rst-storm");
    let neighbours = &json["attack"]["neighbours"];
    assert_eq!(run.status, Some(1), "{json}");
    assert_eq!(neighbours["lost"], 2, "{neighbours}");
    assert_eq!(neighbours["missing_ticks"], 1, "{neighbours}");
    assert_eq!(json["lost"], 3, "{json}");
    let lost = |group: usize| &neighbours["by_interval"][group]["lost"];
    assert_eq!([lost(0), lost(1), lost(2), lost(3)], [0, 1, 1, 0]);
    assert_eq!(neighbours["by_interval"][2]["kicked"], 1, "{neighbours}");
    let failures = json["failures"].to_string();
    for expected in [
        "neighbour 5, which reads every 20 ms: lost after",
        "neighbour 8, which reads every 33 ms: kicked (rate_limit) after",
        "neighbour 12, which reads every 50 ms: 1 ticks were missing",
        "a neighbour, which reads every 10 ms, waited",
    ] {
        assert!(failures.contains(expected), "{expected}: {failures}");
    }
}

#[test]
fn refused_neighbour_fails_the_run() {
    let server = RealServer::with_room_for(Some(HEALTHY + 9), 1, Some(10));
    let (run, json) = attack(server.addr(), "rst-storm");
    assert_eq!(run.status, Some(1), "{json}");
    assert_eq!(json["attack"]["neighbours"]["lost"], 3, "{json}");
    let failures = json["failures"].to_string();
    let expected = "neighbour 12, which reads every 50 ms: kicked (server_full)";
    assert!(failures.contains(expected), "{failures}");
}

/// The stub sends hellos and answers no echo: each newcomer waits, and an assertion finds the wait.
#[test]
fn unserved_newcomer_breaks_its_assertions() {
    let stub = Stub::start(|_, tick| Some(hello(tick, TEXT)));
    let mut args = attack_args("silent-flood").to_vec();
    args[3] = "14";
    args.extend(["--assert", "attack_newcomers_not_served==0"]);
    args.extend(["--assert", "attack_newcomers_longest_wait_ms<1000ms"]);
    let (run, json) = Run::json(stub.addr, &args);
    assert_eq!(run.status, Some(1), "{json}");
    let newcomers = &json["attack"]["newcomers"];
    assert_eq!(newcomers["not_served"], 1, "{newcomers}");
    assert!(
        newcomers["longest_wait_ms"].as_f64() >= Some(5_000.0),
        "{newcomers}"
    );
    for asserted in json["assertions"].as_array().unwrap() {
        assert_eq!(asserted["holds"], false, "{asserted}");
    }
}

#[test]
fn server_without_kicks_fails_the_run() {
    let stub = Stub::start(|_, tick| Some(hello(tick, TEXT)));
    let (run, json) = attack(stub.addr, "bad-utf8");
    assert_eq!(run.status, Some(1), "{json}");
    assert_eq!(json["attack"]["stats"]["not_kicked"], 5, "{json}");
    let failures = json["failures"].to_string();
    assert!(failures.contains("should have been kicked"), "{failures}");
}

#[test]
fn kick_for_a_wrong_reason_fails_the_run() {
    let bye = |_, _: &[u8]| packet(6, b"\x07\x00too many");
    thread::scope(|scope| {
        scope.spawn(|| {
            let stub = Stub::with_answers(|_, tick| Some(hello(tick, TEXT)), bye);
            // The stub sends `S_BYE` and does not close the connection: the attacker waits for the end until
            // its timeout.
            let (run, json) = attack(stub.addr, "unknown-id");
            assert_eq!(run.status, Some(1), "{json}");
        });
        let closing = Stub::with_answers(
            |session, tick| {
                (session < FIRST_ATTACKER || !tick.is_multiple_of(5)).then(|| hello(tick, TEXT))
            },
            bye,
        );
        let (run, json) = attack(closing.addr, "unknown-id");
        assert_eq!(run.status, Some(1), "{json}");
        assert!(
            json["attack"]["stats"]["wrong_reason"].as_u64().unwrap() > 0,
            "{json}"
        );
    });
}

#[test]
fn rise_of_the_tick_delay_fails_the_run() {
    // An attacker delays the ticks of all sessions, by more than a busy machine delays them before the attack.
    let stub = || {
        let is_attacked = AtomicBool::new(false);
        Stub::start(move |session, tick| {
            if session >= FIRST_ATTACKER {
                is_attacked.store(true, Ordering::Relaxed);
            } else if is_attacked.load(Ordering::Relaxed) && tick.is_multiple_of(20) {
                thread::sleep(Duration::from_millis(300));
            }
            Some(hello(tick, TEXT))
        })
    };
    let (run, json) = Run::fit(&attack_args("connect-flood"), stub, |json, _| {
        let before = &json["attack"]["baseline"];
        let was_calm = before["p99_ms"].as_f64() < Some(100.0);
        let is_limited = json["client"]["client_limited"] == true;
        (is_limited || !was_calm).then(|| format!("{before} {}", json["client"]))
    });
    assert_eq!(run.status, Some(1), "{json}");
    let rise = json["attack"]["tick_delay_p99_rise_ms"].as_f64().unwrap();
    assert!(rise > 20.0, "{json}");
    assert!(json["failures"].to_string().contains("rose by"), "{json}");
}

/// Connections that the server refuses are not an attack: the run proves nothing.
#[test]
fn attack_without_an_admitted_connection_fails_the_run() {
    thread::scope(|scope| {
        for (name, proves) in [
            ("zero-size", false),
            ("echo-flood", false),
            ("no-read", false),
            // These attacks consist of connections: their target is the accept path itself.
            ("rst-storm", true),
            ("connect-flood", true),
        ] {
            scope.spawn(move || {
                let server = RealServer::with_room_for(Some(FIRST_ATTACKER), 1, Some(10));
                let (run, json) = attack(server.addr(), name);
                let stats = &json["attack"]["stats"];
                assert!(stats["connections"].as_u64() > Some(5), "{name}: {stats}");
                let failures = json["failures"].to_string();
                let is_found = failures.contains("nothing was attacked");
                assert_eq!(is_found, !proves, "{name}: {failures} {stats}");
                assert!(proves || run.status == Some(1), "{name}: {json}");
            });
        }
    });
}

/// The server kicks one attacker, and four attackers stay connected until the attack ends. The run fails,
/// because the server must kick every attacker.
#[test]
fn undecided_attackers_fail_the_run() {
    let is_told = AtomicBool::new(false);
    let stub = Stub::start(move |session, tick| match session {
        FIRST_ATTACKER if is_told.swap(true, Ordering::Relaxed) => None,
        FIRST_ATTACKER => Some(packet(6, b"\x05\x00too slow")),
        _ => Some(hello(tick, TEXT)),
    });
    let (run, json) = attack(stub.addr, "slowloris");
    let stats = &json["attack"]["stats"];
    assert_eq!(stats["kicked"]["packet_timeout"], 1, "{json}");
    assert_eq!(stats["inconclusive"], 4, "{json}");
    assert_eq!(run.status, Some(1), "{json}");
    assert!(json["failures"].to_string().contains("too short"), "{json}");
}

#[test]
fn attackers_closed_without_a_reason_fail_the_run() {
    let stub = Stub::start(|session, tick| (session < FIRST_ATTACKER).then(|| hello(tick, TEXT)));
    let (_, json) = attack(stub.addr, "unknown-id");
    assert!(
        json["attack"]["stats"]["closed_without_reason"].as_u64() > Some(5),
        "{json}"
    );
    let failures = json["failures"].to_string();
    let is_excused = json["client"]["client_limited"] == true;
    assert!(
        is_excused || failures.contains("without a reason"),
        "{json}"
    );
}

/// One tick before the attack and one tick under the attack do not measure the tick delay.
#[test]
fn too_few_ticks_of_healthy_sessions_fail_the_run() {
    let stub = Stub::start(|_, tick| match tick % 400 {
        1 => Some(hello(1 + tick / 400, TEXT)),
        _ => Some(Vec::new()),
    });
    let (run, json) = attack(stub.addr, "rst-storm");
    assert_eq!(
        json["attack"]["tick_delay_p99_rise_ms"],
        Value::Null,
        "{json}"
    );
    assert_eq!(run.status, Some(1), "{json}");
    assert!(
        json["failures"].to_string().contains("too few ticks"),
        "{json}"
    );
}

/// One of sixty sessions waits three seconds for one tick: no percentile shows this wait.
#[test]
fn single_long_wait_of_a_healthy_session_fails_the_run() {
    const WAIT: Duration = Duration::from_secs(3);
    let attacked_at = Mutex::new(None);
    let stub = Stub::with_delays(move |session, tick| {
        let mut attacked_at = attacked_at.lock().unwrap();
        if session >= 60 + NEIGHBOURS {
            attacked_at.get_or_insert(tick);
        }
        let waits = session == 7 && attacked_at.is_some_and(|at| at + 20 == tick);
        Some((if waits { WAIT } else { Duration::ZERO }, hello(tick, TEXT)))
    });
    let args = ["--count", "60", "--duration-secs", "12", "--attackers", "5"];
    let (run, json) = Run::json(stub.addr, &[&args[..], &["--attack", "rst-storm"]].concat());
    let (before, during) = (&json["attack"]["baseline"], &json["attack"]["during"]);
    assert!(during["max_ms"].as_f64() > Some(2_000.0), "{json}");
    // The run need not fail if the system did not run the client itself for seconds.
    let is_excused =
        json["client"]["client_limited"] == true || before["max_ms"].as_f64() > Some(1e3);
    let is_found = json["failures"]
        .to_string()
        .contains("late under the attack");
    assert!(is_excused || is_found && run.status == Some(1), "{json}");
}
