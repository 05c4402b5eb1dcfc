//! Hostile peers: every attack ends in a kick, no bytes stop the server, and other sessions lose no
//! tick.

use crate::util::*;
use socket2::SockRef;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

type Attack = (&'static str, u16, Vec<u8>);

/// Attacks on size, id, payload and rate: the label and the code of the kick, and the bytes.
fn attacks() -> Vec<Attack> {
    vec![
        ("bad_size", 1, header(0, C_ECHO).to_vec()),
        ("bad_size", 1, header(1, C_ECHO).to_vec()),
        ("bad_size", 1, header(3, C_CHAT).to_vec()),
        ("too_large", 2, header(5000, C_ECHO).to_vec()),
        ("too_large", 2, header(u16::MAX, 0).to_vec()),
        ("unknown_id", 3, header(4, 0).to_vec()),
        ("unknown_id", 3, packet(S_HELLO, b"I am the server")),
        ("unknown_id", 3, packet(u16::MAX, b"beyond the table")),
        ("bad_payload", 4, header(4, C_CHAT).to_vec()),
        ("bad_payload", 4, packet(C_CHAT, [b'a'; 513])),
        ("bad_payload", 4, packet(C_CHAT, b"\xf0\x28\x8c\x28")),
        ("packet_timeout", 5, header(4000, C_ECHO).to_vec()),
        ("packet_timeout", 5, vec![4]),
        ("rate_limit", 7, packet(C_ECHO, b"").repeat(500)),
        ("chat_flood", 8, packet(C_CHAT, b"spam").repeat(50)),
    ]
}

const LIMITS: [&str; 6] = [
    "--max-packet-bytes",
    "4096",
    "--packet-timeout-ms",
    "300",
    "--max-packets-per-sec",
    "100",
];

/// Row 41: size and id are what attackers change first. The server kicks each attack with its code, and
/// logs it with its label.
#[test]
fn every_attack_is_kicked_and_logged() {
    let mut server = Server::start_quiet(&LIMITS);
    let mut counts = BTreeMap::new();
    for (label, code, bytes) in attacks() {
        let mut attacker = server.connect();
        let addr = attacker.stream.local_addr().unwrap();
        attacker.send(&bytes);
        let last = loop {
            let packet = attacker.next();
            if ![S_ECHO, S_CHAT].contains(&packet.id) {
                break packet;
            }
        };
        assert_bye(&last, code);
        attacker.expect_eof();
        let count = counts.entry(label).or_insert(0);
        *count += 1;
        // The first disconnect with a label has its own line. A summary counts the others.
        if *count == 1 {
            let line = server.wait_for_line(&addr.to_string());
            assert!(line.contains(&format!("left: {label}")), "{line}");
        }
    }
    server.join();
    server.signal("TERM");
    assert_eq!(server.wait_for_exit().code(), Some(0));
    for (label, count) in counts {
        assert_eq!(logged_disconnects(&server.lines(), label), count, "{label}");
    }
}

/// Row 42: a header is a claim. No bytes stop the server, and each stream ends in order, with or without an
/// `S_BYE`.
#[test]
fn random_packets_do_not_stop_the_server() {
    let mut random = random();
    let mut server = Server::start_quiet(&["--max-chats-per-sec", "0"]);
    for _ in 0..300 {
        let mut client = server.connect();
        let mut bytes = Vec::new();
        for _ in 0..random.usize(..8) {
            let count = random.usize(..300);
            let noise = random_bytes(&mut random, count);
            match random.u8(..4) {
                0 => bytes.extend(noise),
                1 => bytes.extend(packet(C_ECHO, &noise)),
                2 => bytes.extend(header(random.u16(..12), random.u16(..8))),
                _ => bytes.extend(packet(C_CHAT, b"some text")),
            }
        }
        client.send(&bytes);
        client.finish_writing();
        let mut said_goodbye = false;
        while let Some(packet) = client.try_next().unwrap() {
            assert!(!said_goodbye, "{packet:?} behind S_BYE");
            said_goodbye = packet.id == S_BYE;
        }
    }
    assert!(server.is_running());
    server.join();
    assert!(!server.lines().iter().any(|line| line.contains("panicked")));
}

/// Row 45: an attacker costs other players nothing. While attackers of every kind keep connecting, the other
/// sessions lose no tick and get their answers.
#[test]
fn attackers_cost_other_sessions_no_tick() {
    let flags = ["--tick-ms", "10", "--workers", "2"];
    let server = Server::start(&[&flags[..], &LIMITS].concat());
    let readers: Vec<TickReader> = (0..5).map(|_| TickReader::start(server.join())).collect();
    let mut player = server.join();
    let mut unread = Vec::new();
    for _ in 0..10 {
        for (_, _, bytes) in attacks() {
            let mut attacker = server.connect();
            attacker.send(&bytes);
            unread.push(attacker);
        }
        // The player also receives the chats that the limit of a flooding session allows.
        player.send(&packet(C_ECHO, b"my turn"));
        while player.next().id != S_ECHO {}
        // Some attackers close now, with the `S_BYE` unread.
        let leaving = unread.len().saturating_sub(40);
        unread.drain(..leaving);
        (0..3).for_each(|_| drop(player.next_hello()));
    }
    for reader in readers {
        reader.stop_after(20);
    }
    server.join();
}

/// A session that sends without end gets its share of each turn. The flood lasts as long as the rounds of
/// the other session: its limit of queued bytes is 1 GiB, so that no kick ends it.
#[test]
fn flood_of_echoes_does_not_delay_other_sessions() {
    let queue = ["--max-send-queue-bytes", "1073741824"];
    let flags = [&["--tick-ms", "20", "--workers", "1"][..], &queue].concat();
    let server = Server::start(&flags);
    let mut healthy = server.join();
    let mut flooder = server.join();
    let mut sender = flooder.sender();
    let flooding = thread::spawn(move || {
        let burst = packet(C_ECHO, b"flood").repeat(2000);
        while sender.write_all(&burst).is_ok() {}
    });
    let is_over = Arc::new(AtomicBool::new(false));
    let answers = Arc::new(AtomicU64::new(0));
    let reading = thread::spawn({
        let (is_over, answers) = (Arc::clone(&is_over), Arc::clone(&answers));
        move || {
            while !is_over.load(Ordering::Relaxed) {
                flooder.expect_echo(b"flood");
                answers.fetch_add(1, Ordering::Relaxed);
            }
            // Ends the flood: the sender's handle would keep the connection open.
            flooder.stream.shutdown(Shutdown::Both).unwrap();
        }
    });
    let (mut last, mut rounds) = (healthy.next_hello().0, 0);
    // Fewer answers are no flood: the ticks of ten rounds may have waited for this thread.
    wait_until("ten rounds beside a flood", DEADLINE, || {
        healthy.echo(b"in between");
        let (tick, _) = healthy.next_hello();
        assert!(tick > last, "{tick} after {last}");
        (last, rounds) = (tick, rounds + 1);
        rounds >= 10 && answers.load(Ordering::Relaxed) > 1000
    });
    is_over.store(true, Ordering::Relaxed);
    reading.join().unwrap();
    flooding.join().unwrap();
}

/// 300 streams of random bytes, 20 at a time, beside a session that must receive every tick.
#[test]
fn random_streams_cost_other_sessions_no_tick() {
    let mut random = random();
    let mut server = Server::start(&[
        "--tick-ms",
        "10",
        "--packet-timeout-ms",
        "150",
        "--stats-interval-secs",
        "0.05",
    ]);
    let mut reader = server.join();
    assert_eq!(reader.next_hello().1, b"Hello World");
    let tick_reader = TickReader::start(reader);
    for _ in 0..15 {
        let mut streams: Vec<Client> = (0..20).map(|_| server.connect()).collect();
        for client in &mut streams {
            let count = 1 << random.usize(..14);
            let bytes = random_bytes(&mut random, count);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(random.usize(1..=rest.len()));
                // Fails once the server has closed.
                if std::io::Write::write_all(&mut client.stream, piece).is_err() {
                    break;
                }
                rest = after;
            }
            if random.bool() {
                let _ = client.stream.shutdown(Shutdown::Write);
            }
        }
        for mut client in streams {
            // Each stream ends: with an `S_BYE`, in order, or with a reset.
            let mut ends = false;
            while !ends {
                ends = !matches!(client.try_next(), Ok(Some(_)));
            }
        }
    }
    // At least the ticks of one second.
    tick_reader.stop_after(100);
    wait_until("all to have left", DEADLINE, || {
        let lines = server.lines();
        lines.iter().rev().find_map(|line| stat(line, "sessions")) == Some(0)
    });
    assert!(server.is_running());
    assert!(!server.lines().iter().any(|line| line.contains("panicked")));
}

/// A byte of urgent data is neither invalid nor part of the stream, at every offset.
#[test]
fn urgent_data_is_ignored() {
    let server = Server::start(&QUIET);
    let mut client = server.join();
    let bytes = packet(C_ECHO, b"the stream around it");
    for at in 0..=bytes.len() {
        let (front, back) = bytes.split_at(at);
        client.send(front);
        let sent = SockRef::from(&client.stream)
            .send_out_of_band(&[0])
            .unwrap();
        assert_eq!(sent, 1);
        client.send(back);
        client.expect_echo(b"the stream around it");
    }
    // Alone, between two packets.
    SockRef::from(&client.stream)
        .send_out_of_band(&[0xff])
        .unwrap();
    client.echo(b"still here");
    assert!(!server.lines().iter().any(|line| line.contains("left: ")));
}
