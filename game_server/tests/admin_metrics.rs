//! `/metrics`: the Prometheus text, whether its numbers are right, and the dashboard that shows them.

use crate::util::admin::*;
use crate::util::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

// ---- the text -----------------------------------------------------------------------------------

#[test]
fn idle_server_exposes_every_metric_as_valid_text() {
    let (_server, addr) = start(&QUIET);
    let response = get(addr, "/metrics");
    assert_eq!(response.status, 200);
    assert_eq!(
        response.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let exposition = Exposition::parse(&response.text());
    for (name, kind) in NAMES {
        assert_eq!(
            exposition.types.get(*name).map(String::as_str),
            Some(*kind),
            "{name}"
        );
    }
    for reason in REASONS {
        let series = format!("server_disconnects_total{{reason=\"{reason}\"}}");
        assert_eq!(exposition.samples.get(&series), Some(&0.0), "{series}");
    }
    for (series, value) in &exposition.samples {
        let may_be_more = series.starts_with("server_send_chunks");
        assert!(*value == 0.0 || may_be_more, "{series} is {value} at rest");
    }
}

#[test]
fn text_stays_valid_and_no_counter_falls_under_churn() {
    let (server, addr) = start(&["--tick-ms", "1", "--workers", "2"]);
    let stop = Arc::new(AtomicBool::new(false));
    let players: Vec<_> = (0..4)
        .map(|_| {
            let (stop, addr) = (Arc::clone(&stop), server.addr);
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    Client::connect(addr).echo(b"in and out");
                }
            })
        })
        .collect();
    let mut before = Exposition::default();
    for _ in 0..200 {
        let now = scrape(addr);
        for (series, value) in &before.samples {
            let name = series.split('{').next().unwrap();
            let may_fall = now.types.get(name).is_some_and(|kind| kind == "gauge");
            assert!(may_fall || now.samples[series] >= *value, "{series} fell");
        }
        before = now;
    }
    stop.store(true, Ordering::SeqCst);
    players
        .into_iter()
        .for_each(|player| player.join().unwrap());
    assert!(before.value("server_ticks_total") > 0.0);
}

// ---- agreement ----------------------------------------------------------------------------------

/// The totals that the clients of a run count, to compare with the counters of the server.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    sessions: u64,
    packets_to_server: u64,
    bytes_to_server: u64,
    packets_from_server: u64,
    bytes_from_server: u64,
    reasons: BTreeMap<String, u64>,
}

impl Seen {
    fn of(exposition: &Exposition) -> Self {
        let value = |name: &str| exposition.value(name) as u64;
        let reasons = exposition.samples.iter().filter_map(|(series, count)| {
            let (_, rest) = series.split_once("server_disconnects_total{reason=\"")?;
            let reason = rest.trim_end_matches("\"}").to_owned();
            (*count > 0.0).then_some((reason, *count as u64))
        });
        Self {
            sessions: value("server_accepted_total"),
            packets_to_server: value("server_packets_received_total"),
            bytes_to_server: value("server_bytes_received_total"),
            packets_from_server: value("server_packets_sent_total"),
            bytes_from_server: value("server_bytes_sent_total"),
            reasons: reasons.collect(),
        }
    }

    fn add(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.packets_to_server += other.packets_to_server;
        self.bytes_to_server += other.bytes_to_server;
        self.packets_from_server += other.packets_from_server;
        self.bytes_from_server += other.bytes_from_server;
        for (reason, count) in other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
    }
}

/// Runs one client, and counts every byte of both directions. `last` is what the client sends at the end,
/// how many complete packets that is, and the reason of its disconnect.
fn live(addr: SocketAddr, mut random: fastrand::Rng, last: (&[u8], u64, &str)) -> Seen {
    let mut client = Client::connect(addr);
    let mut seen = Seen {
        sessions: 1,
        ..Seen::default()
    };
    let mut send = |client: &mut Client, bytes: &[u8], packets: u64| {
        seen.bytes_to_server += bytes.len() as u64;
        seen.packets_to_server += packets;
        // Packets arrive split; the bytes behind an invalid packet arrive with it.
        let (first, second) = bytes.split_at(bytes.len() / 2);
        if bytes.len() < 4_000 {
            client.send(first);
            client.send(second);
        } else {
            client.send(bytes);
        }
    };
    for _ in 0..20 {
        let payload = vec![7; random.usize(..3_000)];
        send(&mut client, &packet(C_ECHO, &payload), 1);
    }
    for _ in 0..3 {
        send(&mut client, &packet(C_CHAT, b"to every session"), 1);
    }
    let (last_bytes, last_packets, reason) = last;
    send(&mut client, last_bytes, last_packets);
    if reason == "peer_closed" {
        client.finish_writing();
    }
    while let Some(packet) = client.try_next().unwrap() {
        seen.packets_from_server += 1;
        seen.bytes_from_server += 4 + packet.payload.len() as u64;
    }
    seen.reasons.insert(reason.to_owned(), 1);
    seen
}

#[test]
fn counters_match_the_clients_to_the_packet_and_the_byte() {
    const MAX_SESSIONS: &str = "14";
    let (server, addr) = start(&[
        "--tick-ms",
        "3",
        "--workers",
        "2",
        "--max-packet-bytes",
        "4000",
        "--packet-timeout-ms",
        "3000",
        "--max-sessions",
        MAX_SESSIONS,
    ]);
    let mut random = random();
    let behind = random_bytes(&mut random, 30_000);
    let with_rest = |invalid: &[u8]| [invalid, &behind].concat();
    let flood = packet(C_CHAT, b"x").repeat(40);
    let lives: Vec<(Vec<u8>, u64, &str)> = vec![
        (Vec::new(), 0, "peer_closed"),
        (header(100, C_ECHO)[..3].to_vec(), 0, "peer_closed"),
        (with_rest(&header(3, C_ECHO)), 0, "bad_size"),
        (with_rest(&header(4001, C_ECHO)), 0, "too_large"),
        (with_rest(&packet(9, b"?")), 1, "unknown_id"),
        (packet(C_CHAT, b""), 1, "bad_payload"),
        (header(100, C_ECHO).to_vec(), 0, "packet_timeout"),
    ];
    let mut expected = Seen::default();
    for round in 0..2 {
        let threads: Vec<_> = lives
            .iter()
            .cloned()
            .map(|(bytes, packets, reason)| {
                let (addr, random) = (server.addr, random.fork());
                thread::spawn(move || live(addr, random, (&bytes, packets, reason)))
            })
            .collect();
        for thread in threads {
            expected.add(thread.join().unwrap());
        }
        wait_until("all to have left", DEADLINE, || {
            scrape(addr).value("server_sessions") == 0.0
        });
        // A chat flood, and no other packet: which chat exceeds the limit depends on the time that the
        // chats took.
        if round == 0 {
            let mut client = server.connect();
            client.send(&flood);
            let mut chats = 0;
            while let Some(packet) = client.try_next().unwrap() {
                chats += u64::from(packet.id == S_CHAT);
                expected.packets_from_server += 1;
                expected.bytes_from_server += 4 + packet.payload.len() as u64;
            }
            expected.sessions += 1;
            // The chats that were delivered, and the one that exceeded the limit.
            expected.packets_to_server += chats + 1;
            expected.bytes_to_server += flood.len() as u64;
            expected.reasons.insert("chat_flood".into(), 1);
        }
    }
    // A refused connection counts in one counter alone. A place is free when the session before has
    // ended, so the first connections may be refused as well.
    let (mut inside, mut rejected) = (Vec::new(), 0);
    while rejected < 5 || inside.len().to_string() != MAX_SESSIONS {
        let mut client = server.connect();
        let request = packet(C_ECHO, b"let me in");
        client.send(&request);
        let first = client.next();
        if first.id == S_BYE {
            assert_bye(&first, 9);
            client.expect_eof();
            rejected += 1;
            continue;
        }
        expected.packets_to_server += 1;
        expected.bytes_to_server += request.len() as u64;
        inside.push((client, first));
    }
    for (client, first) in &mut inside {
        client.finish_writing();
        let mut next = Some(first.clone());
        while let Some(packet) = next {
            expected.packets_from_server += 1;
            expected.bytes_from_server += 4 + packet.payload.len() as u64;
            next = client.try_next().unwrap();
        }
        expected.sessions += 1;
        *expected.reasons.entry("peer_closed".into()).or_default() += 1;
    }
    // A client may see the end of its stream before the worker has counted it.
    wait_until("the counters to stand still", DEADLINE, || {
        Seen::of(&scrape(addr)) == Seen::of(&scrape(addr))
            && scrape(addr).value("server_sessions") == 0.0
    });
    let after = scrape(addr);
    assert_eq!(Seen::of(&after), expected, "the server on the left");
    assert_eq!(after.value("server_rejected_total"), f64::from(rejected));
    assert_eq!(after.value("server_send_queue_bytes"), 0.0);
    let ended: u64 = expected.reasons.values().sum();
    assert_eq!(ended, expected.sessions, "every session has ended");
}

#[test]
fn every_tick_is_counted_with_its_lag_and_its_broadcast() {
    let (server, addr) = start(&["--tick-ms", "5", "--workers", "2"]);
    let mut client = server.connect();
    let (mut newest, _) = client.next_hello();
    for _ in 0..50 {
        (newest, _) = client.next_hello();
    }
    let scraped = scrape(addr);
    assert!(scraped.value("server_ticks_total") >= newest as f64);
    // The newest tick may be counted before its broadcast is measured.
    wait_until("the broadcasts to be measured", DEADLINE, || {
        let now = scrape(addr);
        let ticks = now.value("server_ticks_total");
        now.value("server_broadcast_seconds_count") == ticks
            && now.value("server_tick_lag_seconds_count") == ticks
    });
    let now = scrape(addr);
    let mean =
        now.value("server_broadcast_seconds_sum") / now.value("server_broadcast_seconds_count");
    assert!(
        mean > 0.0 && mean < 5.0,
        "{mean} s for a broadcast to one session"
    );
}

#[test]
fn stall_is_counted_as_skipped_ticks() {
    let (server, addr) = start(&["--tick-ms", "50"]);
    let mut client = server.connect();
    client.next_hello();
    server.signal("STOP");
    // The length of the stop is what is tested.
    thread::sleep(Duration::from_millis(700));
    server.signal("CONT");
    wait_until("the skipped ticks to be counted", DEADLINE, || {
        scrape(addr).value("server_ticks_skipped_total") >= 10.0
    });
}

// ---- the dashboard ------------------------------------------------------------------------------

#[test]
fn dashboard_queries_every_metric_and_no_unknown_one() {
    let dashboard: Value = serde_json::from_str(include_str!("../grafana.json")).unwrap();
    assert_eq!(dashboard["schemaVersion"], 42);
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let kinds: Vec<_> = variables
        .iter()
        .map(|variable| (&variable["name"], &variable["type"]))
        .collect();
    assert_eq!(kinds[0], (&"datasource".into(), &"datasource".into()));
    assert_eq!(kinds[1], (&"instance".into(), &"query".into()));

    let (_server, addr) = start(&QUIET);
    let text = get(addr, "/metrics").text();
    let is_series = |name: &str| {
        text.lines().any(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        })
    };
    let mut asked = names_in(variables[1]["query"]["query"].as_str().unwrap());
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let place = &panel["gridPos"];
        let (x, width) = (place["x"].as_u64().unwrap(), place["w"].as_u64().unwrap());
        assert!(x + width <= 24, "{title} is beside the board");
        assert!(places.insert((x, place["y"].as_u64().unwrap())), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            let query = target["expr"].as_str().unwrap();
            let names = names_in(query);
            assert!(!names.is_empty(), "{title}: {query}");
            let selections = query.matches("instance=~\"$instance\"}").count();
            assert_eq!(selections, query.matches("server_").count(), "{query}");
            asked.extend(names);
        }
    }
    for name in &asked {
        assert!(is_series(name), "{name} is not in /metrics");
    }
    // And every metric of the contract is on a panel, but for the parts of a histogram that no panel draws.
    for (name, kind) in NAMES {
        let name = match *kind {
            "histogram" => format!("{name}_bucket"),
            _ => (*name).to_owned(),
        };
        assert!(asked.contains(&name), "{name} is not on a panel");
    }
}
