//! `/sessions`: the list of sessions, and the slowest of them.

use crate::util::admin::*;
use crate::util::*;
use serde_json::Value;
use server_core::SessionId;
use std::collections::BTreeSet;
use std::net::TcpStream;
use std::thread;

#[test]
fn sessions_are_listed_with_every_field() {
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
    // One client reads, the other does not, until a packet waits for the second.
    let mut rows = Vec::new();
    wait_until("a queue to grow", DEADLINE, || {
        reader.next_hello();
        rows = sessions(addr);
        row(&rows, &silent_addr).is_some_and(|row| row["oldest_unsent_age_ms"].is_u64())
    });
    assert_eq!(rows.len(), 2);
    let mut ids = BTreeSet::new();
    for row in &rows {
        let id: SessionId = row["id"].as_str().unwrap().parse().unwrap();
        assert!(id.generation() >= 1, "{row}");
        ids.insert(id);
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

    // The id is the one in the chats.
    reader.send(&packet(C_CHAT, b"me"));
    let chat = loop {
        let packet = reader.next();
        if packet.id == S_CHAT {
            break packet;
        }
    };
    let id: SessionId = of_reader["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(split_number(&chat.payload).0, id.to_u64());
    drop(reader);
    wait_until("it to be gone from the list", DEADLINE, || {
        row(&sessions(addr), &reader_addr).is_none()
    });
}

#[test]
fn long_list_is_complete_for_concurrent_requests() {
    const SESSIONS: usize = 1_500;
    let (server, addr) = start(&["--tick-ms", "50"]);
    let clients: Vec<TcpStream> = (0..SESSIONS)
        .map(|_| TcpStream::connect(server.addr).unwrap())
        .collect();
    wait_until("all to be in", DEADLINE, || {
        scrape(addr).value("server_sessions") == SESSIONS as f64
    });
    // Some requests want all sessions, others a few.
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
fn slowest_sessions_are_ordered_by_oldest_byte_then_queue() {
    let (server, addr) = start(&[
        "--tick-ms",
        "10",
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
    // The session that fell behind first has the oldest byte; a reading session may be behind for a moment.
    wait_until("the silent ones to be the slowest", DEADLINE, || {
        peers(4) == silent_peers
    });
    // The last session requests more bytes than the others have queued: every list has it, and the
    // others keep their order behind the first.
    silent[3].send(&packet(C_ECHO, [7; 60_000]).repeat(500));
    wait_until("the longest queue to be listed", DEADLINE, || {
        peers(1) == silent_peers[3..]
    });
    wait_until("the oldest byte to be listed", DEADLINE, || {
        peers(2) == [silent_peers[0].clone(), silent_peers[3].clone()]
    });
    assert_eq!(
        sessions(addr).len(),
        7,
        "the list has all without `slowest`"
    );
    drop(server);
    readers.into_iter().for_each(|one| one.join().unwrap());
}
