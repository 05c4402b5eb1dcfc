//! Danger: numbers that are nearly right, and a port for them that costs the game a tick.

// A failed unwrap is a failed test, also in its helpers.
#![allow(clippy::unwrap_used)]

mod util;

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use util::admin::*;
use util::*;

// ---- the start --------------------------------------------------------------------------------

#[test]
fn it_is_off_by_default_and_on_by_flag_or_environment() {
    let server = Server::start(&QUIET);
    server.wait_for_line("workers");
    let lines = server.lines();
    assert!(!lines.iter().any(|line| line.contains("metrics on")));

    let variable = [("GAME_SERVER_METRICS_ADDR", "127.0.0.1:0")];
    let server = Server::start_with_env(&QUIET, &variable);
    let addr = metrics_addr(&server);
    assert_ne!(addr.port(), 0, "the real port is logged");
    assert_eq!(get(addr, "/healthz").status, 200);
}

#[test]
fn a_taken_port_ends_the_start_with_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let flags = ["--addr", "127.0.0.1:0", "--metrics-addr", &addr];
    let output = command(&flags).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains("metrics") && stderr.contains(&addr),
        "{stderr}"
    );
    let lower = stderr.to_lowercase();
    assert!(!lower.contains("panick") && !lower.contains("backtrace"));

    let output = command(&["--metrics-addr", "nonsense"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn it_serves_until_the_server_has_ended() {
    let (mut server, addr) = start(&QUIET);
    let mut idle = TcpStream::connect(addr).unwrap();
    let half = connect_and_send(addr, b"GET /metrics HT");
    assert_eq!(get(addr, "/healthz").status, 200);
    server.signal("TERM");
    assert!(server.wait_for_exit().success());
    assert_eq!(idle.read(&mut [0; 16]).unwrap_or(0), 0);
    drop(half);
    assert!(TcpStream::connect(addr).is_err(), "nobody listens any more");
}

// ---- the text ---------------------------------------------------------------------------------

#[test]
fn every_name_is_there_from_the_start_and_the_text_is_valid() {
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
fn the_text_is_valid_while_everything_changes() {
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

// ---- agreement --------------------------------------------------------------------------------

/// What the clients of a run have seen, added up by themselves.
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

/// One client's life, to the last byte in either direction. `last` is what it does at the end, how
/// many whole packets that is, and what it is counted as.
fn live(addr: SocketAddr, mut random: fastrand::Rng, last: (&[u8], u64, &str)) -> Seen {
    let mut client = Client::connect(addr);
    let mut seen = Seen {
        sessions: 1,
        ..Seen::default()
    };
    let mut send = |client: &mut Client, bytes: &[u8], packets: u64| {
        seen.bytes_to_server += bytes.len() as u64;
        seen.packets_to_server += packets;
        // Packets arrive split, but what stands behind an offence is there in time.
        let (first, second) = bytes.split_at(bytes.len() / 2);
        match bytes.len() < 4_000 {
            true => {
                client.send(first);
                client.send(second);
            }
            false => client.send(bytes),
        }
    };
    for _ in 0..20 {
        let payload = vec![7; random.usize(..3_000)];
        send(&mut client, &packet(C_ECHO, &payload), 1);
    }
    for _ in 0..3 {
        send(&mut client, &packet(C_CHAT, b"to everybody"), 1);
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
fn the_counters_agree_with_the_clients_to_the_packet_and_to_the_byte() {
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
    let with_rest = |offence: &[u8]| [offence, &behind].concat();
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
        // A flooder: which packet is the first too many depends on the time it took, so it
        // says nothing else.
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
            // Those that came back, and the one that was too many.
            expected.packets_to_server += chats + 1;
            expected.bytes_to_server += flood.len() as u64;
            expected.reasons.insert("chat_flood".into(), 1);
        }
    }
    // Those for whom there is no room count in one place only. A place is free again when the one
    // before has wholly gone, so the first ones may meet a full house, too.
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
    assert_eq!(ended, expected.sessions, "who came has left");
}

#[test]
fn every_tick_is_a_tick_a_lag_and_a_broadcast() {
    let (server, addr) = start(&["--tick-ms", "5", "--workers", "2"]);
    let mut client = server.connect();
    let (mut newest, _) = client.next_hello();
    for _ in 0..50 {
        (newest, _) = client.next_hello();
    }
    let scraped = scrape(addr);
    assert!(scraped.value("server_ticks_total") >= newest as f64);
    // The one under way may be counted as a tick and not be on its way yet.
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
fn a_stall_is_a_number_of_skipped_ticks() {
    let (server, addr) = start(&["--tick-ms", "50"]);
    let mut client = server.connect();
    client.next_hello();
    server.signal("STOP");
    // Not luck: the stop has to last, that is what is tested.
    thread::sleep(Duration::from_millis(700));
    server.signal("CONT");
    wait_until("the skipped ticks to be counted", DEADLINE, || {
        scrape(addr).value("server_ticks_skipped_total") >= 10.0
    });
}

// ---- sessions ---------------------------------------------------------------------------------

#[test]
fn sessions_are_listed_with_all_their_fields() {
    let (server, addr) = start(&[
        "--tick-ms",
        "20",
        "--payload-bytes",
        "20000",
        "--workers",
        "2",
    ]);
    assert_eq!(sessions(addr), Vec::<Value>::new());
    let mut reader = server.join();
    reader.echo(b"and again");
    let silent = server.connect();
    let reader_addr = reader.stream.local_addr().unwrap().to_string();
    let silent_addr = silent.stream.local_addr().unwrap().to_string();
    let row = |rows: &[Value], peer: &str| rows.iter().find(|row| row["peer"] == peer).cloned();
    // The one reads on, the other does not, until something waits for that one.
    let mut rows = Vec::new();
    wait_until("a queue to grow", DEADLINE, || {
        reader.next_hello();
        rows = sessions(addr);
        row(&rows, &silent_addr).is_some_and(|row| row["oldest_unsent_age_ms"].is_u64())
    });
    assert_eq!(rows.len(), 2);
    let mut ids = BTreeSet::new();
    for row in &rows {
        assert!(row["id"].as_u64().unwrap() >= 1 << 32, "{row}");
        ids.insert(row["id"].as_u64().unwrap());
        assert!(row["age_ms"].as_u64().unwrap() < 60_000, "{row}");
        assert!(row["packets_sent"].is_u64(), "{row}");
        let fields: BTreeSet<_> = row
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            fields,
            BTreeSet::from([
                "id",
                "peer",
                "age_ms",
                "packets_received",
                "packets_sent",
                "queued_bytes",
                "oldest_unsent_age_ms",
            ])
        );
    }
    assert_eq!(ids.len(), 2);
    let of_reader = row(&rows, &reader_addr).unwrap();
    assert_eq!(of_reader["packets_received"], 2);
    assert!(of_reader["packets_sent"].as_u64().unwrap() > 2);
    let of_silent = row(&rows, &silent_addr).unwrap();
    assert_eq!(of_silent["packets_received"], 0);
    assert!(
        of_silent["queued_bytes"].as_u64().unwrap() > 0,
        "{of_silent}"
    );

    // The id is the one that others hear of.
    reader.send(&packet(C_CHAT, b"me"));
    let chat = loop {
        let packet = reader.next();
        if packet.id == S_CHAT {
            break packet;
        }
    };
    assert_eq!(
        split_number(&chat.payload).0,
        of_reader["id"].as_u64().unwrap()
    );
    drop(reader);
    wait_until("it to be gone from the list", DEADLINE, || {
        row(&sessions(addr), &reader_addr).is_none()
    });
}

#[test]
fn a_long_list_is_whole_for_each_of_many_who_ask_at_once() {
    const SESSIONS: usize = 1_500;
    let (server, addr) = start(&["--tick-ms", "50"]);
    let clients: Vec<TcpStream> = (0..SESSIONS)
        .map(|_| TcpStream::connect(server.addr).unwrap())
        .collect();
    wait_until("all to be in", DEADLINE, || {
        scrape(addr).value("server_sessions") == SESSIONS as f64
    });
    // Some want all of them, others a few, and each gets what it wants.
    let askers: Vec<_> = (0..30)
        .map(|n| {
            thread::spawn(move || match n % 3 {
                0 => assert_eq!(sessions(addr).len(), SESSIONS),
                _ => assert_eq!(slowest(addr, n).len(), n),
            })
        })
        .collect();
    for asker in askers {
        asker.join().unwrap();
    }
    assert_eq!(clients.len(), SESSIONS);
}

#[test]
fn the_slowest_are_those_that_are_furthest_behind() {
    let (server, addr) = start(&[
        "--tick-ms",
        "20",
        "--payload-bytes",
        "20000",
        "--workers",
        "2",
        "--max-send-queue-bytes",
        "1000000000",
        "--max-send-lag-ms",
        "600000",
    ]);
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let mut client = server.join();
            thread::spawn(move || while let Ok(Some(_)) = client.try_next() {})
        })
        .collect();
    let (mut silent, mut silent_peers) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let client = server.connect();
        let peer = client.stream.local_addr().unwrap().to_string();
        wait_until("it to fall behind", DEADLINE, || {
            let is_it = |row: &Value| row["peer"] == peer && row["oldest_unsent_age_ms"].is_u64();
            sessions(addr).iter().any(is_it)
        });
        silent.push(client);
        silent_peers.push(peer);
    }
    let rows = slowest(addr, 100);
    let rank = |row: &Value| {
        let age = row["oldest_unsent_age_ms"].as_i64().unwrap_or(-1);
        (-age, -row["queued_bytes"].as_i64().unwrap())
    };
    assert_eq!(rows.len(), 7, "there are no more");
    assert!(rows.is_sorted_by_key(rank), "{rows:#?}");
    let peers = |count| -> Vec<String> {
        let of = |row: &Value| row["peer"].as_str().unwrap().to_owned();
        slowest(addr, count).iter().map(of).collect()
    };
    // Whoever fell behind first has waited longest; a reader may be behind for a moment, too.
    wait_until("the silent ones to be the slowest", DEADLINE, || {
        peers(4) == silent_peers
    });
    // The last one asks for more than the others have in their queues: it is in every list, and
    // the others keep their places as far as there are any.
    silent[3].send(&packet(C_ECHO, &[7; 60_000]).repeat(500));
    wait_until("the longest queue to be listed", DEADLINE, || {
        peers(1) == silent_peers[3..]
    });
    wait_until("the oldest byte to be listed", DEADLINE, || {
        peers(2) == [silent_peers[0].clone(), silent_peers[3].clone()]
    });
    assert_eq!(sessions(addr).len(), 7, "nobody is left out without asking");
    drop(server);
    readers.into_iter().for_each(|one| one.join().unwrap());
}

// ---- the page ---------------------------------------------------------------------------------

#[test]
fn the_page_holds_all_that_it_needs() {
    let (_server, addr) = start(&QUIET);
    let response = get(addr, "/");
    assert_eq!(response.status, 200);
    assert_eq!(
        response.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let page = response.text();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert!(page.len() < 50_000, "{} bytes", page.len());
    // Nothing from elsewhere, and no way from text to markup or code.
    for never in [
        "http:",
        "https:",
        "//",
        "src=",
        "@import",
        "url(",
        "import(",
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
        "onclick=",
        "onload=",
        "style=",
    ] {
        let lines = page.lines().filter(|line| {
            let code = line.trim_start();
            line.contains(never) && !code.starts_with("// ") && !code.starts_with("/**")
        });
        assert_eq!(lines.collect::<Vec<_>>(), Vec::<&str>::new(), "{never}");
    }
    // The links and questions that it has are of this port.
    for (attribute, known) in [
        (
            "href=\"",
            &["data:,", "/metrics", "/sessions", "/healthz"][..],
        ),
        ("ask(\"", &["/metrics"]),
        ("ask(`", &["/sessions?slowest=${SLOWEST}"]),
    ] {
        let found: BTreeSet<&str> = (page.split(attribute).skip(1))
            .map(|rest| rest.split(['"', '`']).next().unwrap())
            .collect();
        assert_eq!(found, known.iter().copied().collect(), "{attribute}");
    }
}

#[test]
fn the_page_may_ask_this_port_and_nobody_else() {
    let (_server, addr) = start(&QUIET);
    for path in ["/", "/metrics", "/sessions", "/nowhere"] {
        let response = get(addr, path);
        let policy = response.header("content-security-policy").unwrap();
        let directives: BTreeMap<&str, &str> = policy
            .split("; ")
            .map(|directive| directive.split_once(' ').unwrap())
            .collect();
        let expected = BTreeMap::from([
            ("default-src", "'none'"),
            ("script-src", "'unsafe-inline'"),
            ("style-src", "'unsafe-inline'"),
            ("img-src", "data:"),
            ("connect-src", "'self'"),
            ("base-uri", "'none'"),
            ("form-action", "'none'"),
            ("frame-ancestors", "'none'"),
            ("require-trusted-types-for", "'script'"),
            ("trusted-types", "'none'"),
        ]);
        assert_eq!(directives, expected, "{path}");
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
    }
}

#[test]
fn the_page_knows_every_name_that_it_shows() {
    let (_server, addr) = start(&QUIET);
    let page = get(addr, "/").text();
    let text = get(addr, "/metrics").text();
    let names = names_in(&page);
    assert!(names.len() >= 13, "{names:?}");
    for name in names {
        // A histogram's parts are series, its name is not.
        let is_there = text.lines().any(|line| {
            line.strip_prefix(&name)
                .is_some_and(|rest| rest.starts_with([' ', '{']) || rest.starts_with("_bucket{"))
        });
        assert!(is_there, "{name} is not in /metrics");
    }
    // What it calls kicks are those that the server library calls so.
    let (_, rest) = page.split_once("const KICKS = [").unwrap();
    let (list, _) = rest.split_once(']').unwrap();
    let kicks: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    let by_code: Vec<&str> = (0..kicks.len()).map(|at| REASONS[at]).collect();
    assert_eq!(kicks, by_code);
    assert_eq!(
        REASONS[kicks.len()],
        "server_full",
        "the next code is no kick"
    );
}

#[test]
fn the_page_is_served_whole_beside_garbage_and_costs_no_tick() {
    let (server, addr) = start(&["--tick-ms", "20"]);
    let whole = get(addr, "/").body;
    let canary = TickReader::with_longest_gap(server.join(), LONGEST_GAP);
    let mut random = random();
    let mut held = Vec::new();
    for _ in 0..100 {
        let count = random.usize(1..2_000);
        let mut garbage = connect(addr);
        // It may have been refused before its end.
        let _ = garbage.write_all(&random_bytes(&mut random, count));
        held.push(garbage);
        held.push(connect_and_send(addr, b"GET / HTT"));
        // As a page asks: one after the other.
        assert_eq!(get(addr, "/").body, whole);
        scrape(addr);
        assert_eq!(slowest(addr, 20).len(), 1);
    }
    canary.stop_after(11);
}

// ---- the dashboard ----------------------------------------------------------------------------

#[test]
fn the_dashboard_asks_for_what_there_is() {
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
            let selections = query.matches("{instance=~\"$instance\"}").count();
            assert_eq!(selections, query.matches("server_").count(), "{query}");
            asked.extend(names);
        }
    }
    for name in &asked {
        assert!(is_series(name), "{name} is not in /metrics");
    }
    // And nothing of the contract is left out, but the parts of a histogram that nobody draws.
    for (name, kind) in NAMES {
        let name = match *kind {
            "histogram" => format!("{name}_bucket"),
            _ => (*name).to_owned(),
        };
        assert!(asked.contains(&name), "{name} is on no panel");
    }
}

// ---- requests that are wrong ------------------------------------------------------------------

#[test]
fn what_is_wrong_is_named() {
    let (_server, addr) = start(&QUIET);
    let headers = "a: b\r\n".repeat(1_000);
    for (request, status) in [
        ("GET // HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /live.html HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /favicon.ico HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /metrics/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (
            "GET /..%2fetc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
            404,
        ),
        (
            "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
            405,
        ),
        ("DELETE /sessions HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
            405,
        ),
        (
            "PUT /sessions?slowest=x HTTP/1.1\r\nHost: localhost\r\n\r\n",
            405,
        ),
        (
            "GET /sessions?slowest=0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            400,
        ),
        (
            "GET /sessions?slowest=101 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            400,
        ),
        (
            "GET /sessions?slowest=all HTTP/1.1\r\nHost: localhost\r\n\r\n",
            400,
        ),
        (
            "GET /sessions?fastest=1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            200,
        ),
        ("GET /metrics\r\n\r\n", 400),
        ("GET /metrics HTTP/3.0\r\n\r\n", 400),
        ("GET /metrics HTTP/1.1\r\nno colon here\r\n\r\n", 400),
        ("\0\0\0\0\r\n\r\n", 400),
        (&format!("GET /metrics HTTP/1.1\r\n{headers}\r\n"), 431),
        (
            &format!(
                "GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "x".repeat(9_000)
            ),
            431,
        ),
        (
            "GET /metrics?name=x HTTP/1.1\r\nHost: localhost\r\n\r\n",
            200,
        ),
        ("GET /metrics HTTP/1.0\r\n\r\n", 200),
    ] {
        let response = ask(addr, request.as_bytes());
        let start: String = request.chars().take(50).collect();
        assert_eq!(response.status, status, "{start:?}");
        assert_eq!(response.header("connection"), Some("close"));
        if status == 405 {
            assert_eq!(response.header("allow"), Some("GET, HEAD"));
        }
    }
    // An end before the end.
    let mut half = connect_and_send(addr, b"GET /metrics HTTP/1.1\r\n");
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(Response::read(&mut half).unwrap().status, 400);
}

/// A page on another site may have its name resolve to this port (DNS rebinding); the `Host` of its
/// requests is that name.
#[test]
fn a_host_that_is_not_its_own_is_refused() {
    let flags = [&QUIET[..], &["--admin-host", "metrics.example"]].concat();
    let (_server, addr) = start(&flags);
    let own = addr.to_string();
    for path in ["/", "/metrics", "/healthz", "/sessions"] {
        for (host, status) in [
            (own.as_str(), 200),
            ("127.0.0.1", 200),
            ("127.9.8.7:1", 200),
            ("LOCALHOST", 200),
            ("localhost.:9100", 200),
            ("[::1]", 200),
            ("[::1]:9100", 200),
            ("Metrics.Example.", 200),
            ("evil.example", 421),
            ("localhost.evil.example:9100", 421),
            ("10.0.0.1", 421),
            ("[::2]:9100", 421),
            ("", 400),
            ("[::1", 400),
            ("localhost\r\nHost: localhost", 400),
            ("localhost\r\nhost: evil.example", 400),
        ] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let response = ask(addr, request.as_bytes());
            assert_eq!(response.status, status, "{path} {host:?}");
            if status == 421 {
                let text = response.text();
                assert!(text.contains("--admin-host"), "{text}");
                assert_eq!(text.lines().count(), 1, "{text}");
            }
        }
        // A browser always names a host; an old scraper may not.
        for (version, status) in [("1.0", 200), ("1.1", 400)] {
            let request = format!("GET {path} HTTP/{version}\r\n\r\n");
            assert_eq!(ask(addr, request.as_bytes()).status, status, "{path}");
        }
    }
}

#[test]
fn hosts_may_come_from_the_environment_and_a_bad_one_is_bad_usage() {
    let variables = [
        ("GAME_SERVER_METRICS_ADDR", "0.0.0.0:0"),
        ("GAME_SERVER_ADMIN_HOST", "a.example,10.0.0.1"),
    ];
    let server = Server::start_with_env(&QUIET, &variables);
    let addr = SocketAddr::from(([127, 0, 0, 5], metrics_addr(&server).port()));
    for (host, status) in [
        ("a.example", 200),
        ("10.0.0.1:80", 200),
        ("127.0.0.5", 200),
        ("10.0.0.2", 421),
        ("0.0.0.0", 421),
    ] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(ask(addr, request.as_bytes()).status, status, "{host}");
    }
    let output = command(&["--admin-host", "http://a.example/"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn head_is_get_without_a_body() {
    let (_server, addr) = start(&QUIET);
    for path in ["/", "/metrics", "/healthz", "/sessions"] {
        let head = ask(
            addr,
            format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes(),
        );
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        let full = get(addr, path);
        assert_eq!(head.header("content-length"), full.header("content-length"));
        assert_eq!(head.header("content-type"), full.header("content-type"));
    }
    let health = get(addr, "/healthz");
    assert_eq!((health.status, health.body.as_slice()), (200, &b"ok\n"[..]));
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let (_server, addr) = start(&QUIET);
    let mut stream = connect(addr);
    for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(Response::read(&mut stream).unwrap().status, 200);
}

// ---- abuse ------------------------------------------------------------------------------------

#[test]
fn a_scrape_beside_silent_ones_is_served_at_once() {
    let (_server, addr) = start(&QUIET);
    // Fewer than there is room for, and more: then the oldest silent one gives way.
    for silent in [60, 200] {
        let held: Vec<TcpStream> = (0..silent).map(|_| connect(addr)).collect();
        let since = Instant::now();
        assert_eq!(get(addr, "/metrics").status, 200);
        let took = since.elapsed();
        assert!(
            took < Duration::from_secs(3),
            "{took:?} beside {silent} silent ones"
        );
        drop(held);
    }
}

#[test]
fn nothing_extends_the_time_for_a_request() {
    let (_server, addr) = start(&QUIET);
    let since = Instant::now();
    let mut silent = connect(addr);
    let mut trickling = connect_and_send(addr, b"GET /metrics HTTP/1.1\r\n");
    let trickle = thread::spawn({
        let mut sender = trickling.try_clone().unwrap();
        move || {
            while since.elapsed() < DEADLINE && sender.write_all(b"a: b\r\n").is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        }
    });
    assert_eq!(Response::read(&mut trickling).unwrap().status, 408);
    let took = since.elapsed();
    assert!(took >= Duration::from_millis(1_900), "it had {took:?} only");
    assert_eq!(
        silent.read(&mut [0; 16]).unwrap(),
        0,
        "closed without a word"
    );
    assert!(since.elapsed() < Duration::from_secs(10));
    drop(trickling);
    trickle.join().unwrap();
}

#[test]
fn a_request_without_an_end_costs_next_to_nothing() {
    const SENT: usize = 30 << 20;
    let (server, addr) = start(&QUIET);
    let mut canary = server.join();
    assert_eq!(get(addr, "/metrics").status, 200);
    let before = server.rss_bytes();
    for fill in [b'x', b'\n'] {
        let mut stream = connect(addr);
        let block = [fill; 64 << 10];
        let mut peak = 0;
        let mut status = None;
        for _ in 0..SENT / block.len() {
            // Refused long before the end, so the rest may not be taken.
            if stream.write_all(&block).is_err() {
                break;
            }
            peak = peak.max(server.rss_bytes());
        }
        if let Ok(response) = Response::read(&mut stream) {
            status = Some(response.status);
        }
        let grown = peak.saturating_sub(before);
        assert!(grown < 16 << 20, "{grown} bytes more");
        // A reset may have destroyed the answer of one who never stopped sending.
        assert!(
            status.is_none_or(|status| status == 431 || status == 400),
            "{status:?}"
        );
    }
    canary.echo(b"still here");
    assert_eq!(get(addr, "/metrics").status, 200);
}

#[test]
fn slow_readers_keep_no_descriptor_and_no_memory() {
    let (server, addr) = start(&["--tick-ms", "20"]);
    let canary = TickReader::with_longest_gap(server.join(), LONGEST_GAP);
    let players: Vec<TcpStream> = (0..1_000)
        .map(|_| TcpStream::connect(server.addr).unwrap())
        .collect();
    wait_until("all to be in", DEADLINE, || {
        scrape(addr).value("server_sessions") == 1_001.0
    });
    let (fds, rss) = (server.resting_fds(), server.rss_bytes());
    let slow: Vec<TcpStream> = (0..300)
        .map(|n| {
            let path = ["/sessions", "/metrics"][n % 2];
            connect_and_send(
                addr,
                format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes(),
            )
        })
        .collect();
    assert_eq!(get(addr, "/metrics").status, 200);
    assert!(
        server.open_fds() <= fds + 70,
        "{} descriptors",
        server.open_fds()
    );
    let grown = server.rss_bytes().saturating_sub(rss);
    assert!(grown < 32 << 20, "{grown} bytes more");
    // They are still open on this side, and read nothing.
    wait_until("them to be given up", DEADLINE, || server.open_fds() <= fds);
    drop(slow);
    canary.stop_after(11);
    drop(players);
}

#[test]
fn garbage_is_answered_or_cut_and_costs_no_tick() {
    let (server, addr) = start(&["--tick-ms", "20"]);
    let canary = TickReader::with_longest_gap(server.join(), LONGEST_GAP);
    let mut random = random();
    for _ in 0..300 {
        let mut stream = connect(addr);
        let bytes = match random.u32(..3) {
            0 => {
                let count = random.usize(1..20_000);
                random_bytes(&mut random, count)
            }
            1 => {
                let mut request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
                let at = random.usize(..request.len());
                request[at] = random.u8(..);
                request
            }
            _ => {
                let request = b"GET /sessions HTTP/1.1\r\nHost: localhost\r\n\r\n";
                request[..random.usize(..request.len())].to_vec()
            }
        };
        // It may have been refused before its end.
        let _ = stream.write_all(&bytes);
        if random.bool() {
            let _ = stream.shutdown(Shutdown::Write);
            match Response::read(&mut stream) {
                Ok(response) => assert!([200, 400, 404, 405, 421, 431].contains(&response.status)),
                Err(kind) => assert!(
                    [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset].contains(&kind),
                    "{kind:?}"
                ),
            }
        }
    }
    assert_eq!(get(addr, "/metrics").status, 200);
    canary.stop_after(11);
}

#[test]
fn many_scrapers_are_all_served_and_cost_no_tick() {
    let (server, addr) = start(&["--tick-ms", "20"]);
    let canary = TickReader::with_longest_gap(server.join(), LONGEST_GAP);
    let scrapers: Vec<_> = (0..16)
        .map(|n| {
            thread::spawn(move || {
                for _ in 0..30 {
                    match n % 3 {
                        0 => assert_eq!(sessions(addr).len(), 1),
                        1 => assert_eq!(get(addr, "/healthz").status, 200),
                        _ => {
                            scrape(addr);
                        }
                    }
                }
            })
        })
        .collect();
    scrapers.into_iter().for_each(|one| one.join().unwrap());
    canary.stop_after(11);
}

#[test]
fn few_descriptors_are_no_reason_to_keep_a_scrape_waiting() {
    let flags = [
        &QUIET[..],
        &["--workers", "1", "--metrics-addr", "127.0.0.1:0"],
    ]
    .concat();
    let server = Server::start_with_ulimit("-n 48", &flags);
    let addr = metrics_addr(&server);
    let mut player = server.join();
    let held: Vec<TcpStream> = (0..60).map(|_| connect(addr)).collect();
    let since = Instant::now();
    assert_eq!(get(addr, "/metrics").status, 200);
    let took = since.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    player.echo(b"served all the same");
    drop(held);
}

/// More sessions than there are descriptors for are not admitted: the port keeps its own.
#[test]
fn sessions_never_take_the_descriptors_of_the_port() {
    let port = ["--metrics-addr", "127.0.0.1:0", "--max-sessions", "5000"];
    let flags = [&QUIET[..], &["--workers", "1"], &port].concat();
    let server = Server::start_with_ulimit("-n 600", &flags);
    let addr = metrics_addr(&server);
    // 160, 4 for the worker and 68 for the port are kept.
    server
        .wait_for_line("--max-sessions lowered from 5000 to 368: of 600 descriptors, 232 are kept");
    let players: Vec<Client> = (0..700).map(|_| server.connect()).collect();
    wait_until("every connection to be taken or refused", DEADLINE, || {
        let now = scrape(addr);
        let rejected = now.value("server_rejected_total");
        now.value("server_sessions") == 368.0 && rejected == 700.0 - 368.0
    });
    let held: Vec<TcpStream> = (0..60).map(|_| connect(addr)).collect();
    assert_eq!(get(addr, "/sessions").status, 200);
    let lines = server.lines();
    assert!(
        !lines.iter().any(|line| line.contains("cannot accept")),
        "{lines:?}"
    );
    drop((players, held));
}

/// Those that a server has inherited may have numbers that its limit does not allow it.
fn descriptors_below_48(server: &Server) -> usize {
    let dir = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    let numbers = dir.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    numbers
        .filter(|one| one.parse::<u32>().unwrap() < 48)
        .count()
}

/// Out of descriptors, accept fails before it looks whether anybody waits. Who has the last one may
/// still ask: nobody else has come.
#[test]
fn who_has_the_last_descriptor_may_take_its_time_to_ask() {
    let port = ["--metrics-addr", "127.0.0.1:0", "--max-sessions", "1000"];
    let flags = [&QUIET[..], &["--workers", "1"], &port].concat();
    let server = Server::start(&flags);
    let addr = metrics_addr(&server);
    server.resting_fds();
    server.limit_descriptors(48);
    let mut players = vec![server.join()];
    while descriptors_below_48(&server) < 47 {
        players.push(server.join());
    }
    let mut scraper = connect(addr);
    // Long enough for the port to look around, far from the end of its patience.
    thread::sleep(Duration::from_millis(300));
    scraper
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    assert_eq!(Response::read(&mut scraper).unwrap().status, 200);
    // One who does wait is a reason to send an idle one away.
    let idle = connect(addr);
    let since = Instant::now();
    assert_eq!(get(addr, "/healthz").status, 200);
    let took = since.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    drop((idle, players));
}

#[test]
fn out_of_descriptors_it_waits_and_does_not_spin() {
    let port = ["--metrics-addr", "127.0.0.1:0", "--max-sessions", "1000"];
    let flags = [&QUIET[..], &["--workers", "1"], &port].concat();
    let server = Server::start(&flags);
    let addr = metrics_addr(&server);
    server.resting_fds();
    server.limit_descriptors(48);
    let mut player = server.join();
    let mut others: Vec<Client> = (0..60).map(|_| server.connect()).collect();
    server.wait_for_line("cannot accept for now");
    wait_until(
        "all descriptors to be taken",
        Duration::from_secs(20),
        || descriptors_below_48(&server) == 48,
    );
    let mut scraper = connect_and_send(addr, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    server.wait_for_line("the metrics port cannot accept");
    let (since, before) = (Instant::now(), server.cpu_ticks());
    while since.elapsed() < Duration::from_secs(2) {
        player.echo(b"served all the same");
        thread::sleep(Duration::from_millis(20));
    }
    let used = server.cpu_ticks() - before;
    println!("{used} of 200 clock ticks");
    assert!(used < 20, "{used} of 200 clock ticks, nearly at rest");
    // Accepted with no new event, when there is a descriptor again.
    others.clear();
    assert_eq!(Response::read(&mut scraper).unwrap().status, 200);
    let lines = server.lines();
    let complaints = lines
        .iter()
        .filter(|line| line.contains("the metrics port cannot"));
    assert_eq!(complaints.count(), 1, "it is said once");
}
