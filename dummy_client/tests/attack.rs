//! Attacks against the real server, and against stubs that do not defend themselves.
#![allow(clippy::unwrap_used)] // The panic of a failed test names the line.

mod util;

use dummy_client::Report;
use dummy_client::attack::AttackReport;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use util::{RealServer, Run, Stub, counts, for_each_at_once, hello, packet, wait_until};

const TEXT: &str = "Hello World";
/// The healthy sessions connect first: 0 to 9.
const HEALTHY: usize = 10;
/// Three neighbours for each of the read intervals 10, 20, 33 and 50 ms connect next: 10 to 21.
const NEIGHBOURS: usize = 12;
/// The attackers connect last.
const FIRST_ATTACKER: usize = HEALTHY + NEIGHBOURS;

/// Held by each test that attacks the real server: the load of two of them together is more than the clients of a
/// small machine can measure.
static ATTACKS: Mutex<()> = Mutex::new(());

/// A run of nine seconds: two to settle, three alone, the rest under attack. The healthy sessions log no packet: a
/// session that waits for the reader of a full pipe is a slow consumer.
fn attack_args(name: &str) -> [&str; 10] {
    let [count, secs, attackers, log, attack] = [
        "--count",
        "--duration-secs",
        "--attackers",
        "--log-sessions",
        "--attack",
    ];
    [
        count, "10", secs, "9", attackers, "5", log, "0", attack, name,
    ]
}

fn attack(addr: std::net::SocketAddr, name: &str) -> (Run, Report) {
    Run::report(addr, &attack_args(name))
}

fn of_attack(report: &Report) -> &AttackReport {
    report.attack.as_ref().unwrap()
}

/// Tests the real server under each attack that takes only seconds. Six attacks run at the same time, each
/// with a server of its own.
#[test]
fn attacked_server_kicks_for_the_right_reason_and_loses_nothing() {
    let _alone = ATTACKS.lock().unwrap_or_else(PoisonError::into_inner);
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
        ("proxy-lies", Some("bad_size")),
        ("drip-login", Some("packet_timeout")),
    ];
    for group in expected.chunks(6) {
        for_each_at_once(group, |&(name, reason)| {
            // The attack lasts for four seconds: less than the default of 10 s.
            let server = RealServer::with_packet_timeout(Duration::from_secs(1));
            let (_, report) = attack(server.addr(), name);
            assert_no_loss(&report, &server);
            let stats = &of_attack(&report).stats;
            assert!(stats.connections > 5, "{name}: {stats:?}");
            assert_eq!(stats.not_kicked, 0, "{name}: {stats:?}");
            assert_eq!(stats.wrong_reason, 0, "{name}: {stats:?}");
            let reasons: Vec<&str> = stats.kicked.keys().map(String::as_str).collect();
            assert_eq!(reasons, Vec::from_iter(reason), "{name}: {stats:?}");
        });
    }
}

/// Neither a healthy session nor a neighbour was lost or has missed a tick. The message has the server's reasons.
fn assert_no_loss(report: &Report, server: &RealServer) {
    let AttackReport {
        name, neighbours, ..
    } = of_attack(report);
    let (ended, client) = (server.disconnects(), &report.client);
    let [missing] = counts(report, ["ticks_missing"]);
    let lost = [report.lost(), neighbours.lost as u64, missing];
    assert_eq!(lost, [0; 3], "{name}: {ended:?} {client:?} {neighbours:?}");
}

/// Each attacker stays within its budget, so the server does not kick an attacker for its packets. The number
/// of attackers is low, so the sum of their load is small.
#[test]
fn attacks_of_permitted_packets_lose_no_session() {
    let _alone = ATTACKS.lock().unwrap_or_else(PoisonError::into_inner);
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
                let (_, report) = Run::report(server.addr(), &args);
                let AttackReport {
                    stats,
                    neighbours,
                    newcomers,
                    ..
                } = of_attack(&report);
                assert_no_loss(&report, &server);
                assert_eq!(neighbours.connected, NEIGHBOURS, "{name}: {neighbours:?}");
                let groups = neighbours.by_interval.iter();
                let intervals: Vec<u64> = groups.map(|one| one.read_interval_ms).collect();
                assert_eq!(intervals, [10, 20, 33, 50], "{neighbours:?}");
                for group in &neighbours.by_interval {
                    assert_eq!(group.sessions, 3, "{group:?}");
                    assert!(group.ticks > 3 * 50, "{name}: {group:?}");
                }
                assert_eq!(stats.kicked, BTreeMap::new(), "{name}: {stats:?}");
                assert_eq!(stats.not_kicked, 0, "{name}: {stats:?}");
                assert_eq!(stats.inconclusive, 0, "{name}: {stats:?}");
                let [heard] = counts(&report, ["chats_received"]);
                match name {
                    // Chats of a connection that is closed with unread bytes may be lost with it.
                    "chat-churn" => {
                        assert!(stats.connections > 100, "{stats:?}");
                        assert!(heard > 0, "{stats:?}");
                    }
                    // Each burst of each attacker reaches each healthy session.
                    "chat-burst" => {
                        let rounds = heard / (20 * 20 * HEALTHY as u64);
                        assert!(rounds >= 2, "{heard} {stats:?}");
                        assert!(stats.connections >= rounds * 20, "{stats:?}");
                    }
                    "silent-flood" => {
                        let newcomers = newcomers.as_ref().unwrap();
                        assert_eq!(stats.connections, 200, "{stats:?}");
                        assert_eq!(stats.bytes_sent, 0, "{stats:?}");
                        assert!(newcomers.tried > 0, "{newcomers:?}");
                        assert_eq!(newcomers.not_served, 0, "{newcomers:?}");
                        assert!(newcomers.longest_wait_ms.is_some(), "{newcomers:?}");
                    }
                    _ => {
                        assert!(stats.closed_without_message >= 5, "{stats:?}");
                        assert!(newcomers.is_none(), "{newcomers:?}");
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
    let mut args = attack_args("rst-storm");
    args[3] = "12";
    let (run, report) = Run::report(stub.addr, &args);
    let neighbours = &of_attack(&report).neighbours;
    assert_eq!(run.status, Some(1), "{run:?}");
    assert_eq!(neighbours.lost, 2, "{neighbours:?}");
    assert_eq!(neighbours.missing_ticks, 1, "{neighbours:?}");
    assert_eq!(report.lost(), 3, "{run:?}");
    let lost = |group: usize| neighbours.by_interval[group].lost;
    assert_eq!([lost(0), lost(1), lost(2), lost(3)], [0, 1, 1, 0]);
    assert_eq!(neighbours.by_interval[2].kicked, 1, "{neighbours:?}");
    let failures = report.failures.join("; ");
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
    let server = RealServer::with_room_for(HEALTHY + 9, RealServer::LINGER);
    let (run, report) = attack(server.addr(), "rst-storm");
    assert_eq!(run.status, Some(1), "{run:?}");
    assert_eq!(of_attack(&report).neighbours.lost, 3, "{run:?}");
    let failures = report.failures.join("; ");
    let expected = "neighbour 12, which reads every 50 ms: kicked (server_full)";
    assert!(failures.contains(expected), "{failures}");
}

/// The stub sends hellos and answers no echo: each newcomer waits, and an assertion finds the wait.
#[test]
fn unserved_newcomer_breaks_its_assertions() {
    let stub = Stub::start(|_, tick| Some(hello(tick, TEXT)));
    let mut args = attack_args("silent-flood").to_vec();
    args[3] = "20";
    args.extend(["--assert", "attack.newcomers.not_served==0"]);
    args.extend(["--assert", "attack.newcomers.longest_wait_ms<1000"]);
    let (run, report) = Run::report(stub.addr, &args);
    assert_eq!(run.status, Some(1), "{run:?}");
    let newcomers = of_attack(&report).newcomers.as_ref().unwrap();
    assert_eq!(newcomers.not_served, 1, "{newcomers:?}");
    assert!(newcomers.longest_wait_ms >= Some(5_000.0), "{newcomers:?}");
    assert_eq!(report.assertions.len(), 2);
    for asserted in &report.assertions {
        assert!(!asserted.holds, "{asserted:?}");
    }
}

#[test]
fn server_without_kicks_fails_the_run() {
    let stub = Stub::start(|_, tick| Some(hello(tick, TEXT)));
    let mut args = attack_args("bad-utf8");
    // An attacker counts as not kicked after 3 s.
    args[3] = "12";
    let (run, report) = Run::report(stub.addr, &args);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert_eq!(of_attack(&report).stats.not_kicked, 5, "{run:?}");
    let failures = report.failures.join("; ");
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
            let (run, _) = attack(stub.addr, "unknown-id");
            assert_eq!(run.status, Some(1), "{run:?}");
        });
        let closing = Stub::with_answers(
            |session, tick| {
                (session < FIRST_ATTACKER || !tick.is_multiple_of(5)).then(|| hello(tick, TEXT))
            },
            bye,
        );
        let (run, report) = attack(closing.addr, "unknown-id");
        assert_eq!(run.status, Some(1), "{run:?}");
        assert!(of_attack(&report).stats.wrong_reason > 0, "{run:?}");
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
    let run = |stub: &Stub| attack(stub.addr, "connect-flood");
    let (run, report) = Run::fit(stub, run, |report, _| {
        let before = &of_attack(report).baseline;
        let was_calm = before.p99_ms < 100.0;
        let is_limited = report.client.client_limited;
        (is_limited || !was_calm).then(|| format!("{before:?} {:?}", report.client))
    });
    assert_eq!(run.status, Some(1), "{run:?}");
    let rise = of_attack(&report).tick_delay_p99_rise_ms.unwrap();
    assert!(rise > 20.0, "{rise}");
    assert!(report.failures.join("; ").contains("rose by"), "{run:?}");
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
                // An attacker that does not read learns that it was refused from the reset alone, and counts as
                // admitted after 1 s.
                let linger = match name {
                    "no-read" => Duration::from_millis(100),
                    _ => RealServer::LINGER,
                };
                let server = RealServer::with_room_for(FIRST_ATTACKER, linger);
                let (run, report) = attack(server.addr(), name);
                let stats = &of_attack(&report).stats;
                assert!(stats.connections > 5, "{name}: {stats:?}");
                let failures = report.failures.join("; ");
                let is_found = failures.contains("nothing was attacked");
                assert_eq!(is_found, !proves, "{name}: {failures} {stats:?}");
                assert!(proves || run.status == Some(1), "{name}: {run:?}");
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
    let (run, report) = attack(stub.addr, "slowloris");
    let stats = &of_attack(&report).stats;
    assert_eq!(stats.kicked["packet_timeout"], 1, "{stats:?}");
    assert_eq!(stats.inconclusive, 4, "{stats:?}");
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(report.failures.join("; ").contains("too short"), "{run:?}");
}

/// Ctrl-C ends the run when the first attacker has connected: whether attackers are kicked is not known.
#[test]
fn attack_that_is_stopped_is_not_a_failure() {
    let is_attacked = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_attacked);
    let stub = Stub::start(move |session, tick| {
        seen.fetch_or(session >= FIRST_ATTACKER, Ordering::SeqCst);
        Some(hello(tick, TEXT))
    });
    let mut args = attack_args("slowloris").to_vec();
    // Without a length, the baseline has 5 s.
    args.drain(2..4);
    let mut command = util::client(stub.addr, &["--json", "-"]);
    let child = command.args(&args).spawn().unwrap();
    wait_until("an attacker", || is_attacked.load(Ordering::SeqCst));
    util::interrupt(&child);
    let run = util::ended(child);
    let report = run.read();
    let not_checked = report.not_checked.join("; ");
    // No attacker was there for 1 s, or none for as long as the server may take.
    let stopped = "the run was stopped: ";
    assert!(not_checked.contains(stopped), "{run:?}");
    let failures = report.failures.join("; ");
    for what in ["was too short", "nothing was attacked"] {
        assert!(!failures.contains(what), "{failures}");
    }
}
