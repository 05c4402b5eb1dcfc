//! Shutdown: every session gets its queued packets and the `S_BYE`, no peer delays the exit, and the exit
//! status is 0.

use crate::util::*;
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

/// Every session receives the `S_BYE` as its last packet; the exit status is 0. The exit is within `DEADLINE`, which is
/// shorter than the drain time: no session holds it up.
#[track_caller]
fn expect_bye_for_every_session(signal: &str) {
    assert!(DEADLINE < Duration::from_secs(60));
    let flags = ["--tick-ms", "10", "--workers", "3", "--drain-secs", "60"];
    let mut server = Server::start(&flags);
    let mut clients: Vec<Client> = (0..20).map(|_| server.join()).collect();
    // One session is in the middle of a packet.
    clients[0].send(&header(100, C_ECHO));
    server.signal(signal);
    for client in &mut clients {
        let mut packets = Vec::new();
        while let Some(packet) = client.try_next().unwrap() {
            packets.push(packet);
        }
        let (last, others) = packets.split_last().unwrap();
        assert_bye(last, 10);
        assert!(others.iter().all(|one| one.id == S_HELLO), "{others:?}");
    }
    drop(clients);
    let status = server.wait_for_exit();
    assert_eq!(status.code(), Some(0));
    assert!(
        TcpStream::connect(server.addr).is_err(),
        "the port is closed"
    );
    assert!(!server.lines().iter().any(|line| line.contains("panicked")));
}

#[test]
fn sigterm_sends_bye_to_every_session() {
    expect_bye_for_every_session("TERM");
}

#[test]
fn sigint_sends_bye_to_every_session() {
    expect_bye_for_every_session("INT");
}

/// A terminal that closes, or a supervisor that requests a reload, does not end the game.
#[test]
fn sighup_is_logged_and_ignored() {
    let mut server = Server::start(&QUIET);
    let mut client = server.join();
    for _ in 0..2 {
        server.signal("HUP");
        server.wait_for_line("SIGHUP ignored");
        client.echo(b"still here");
    }
    // SIGHUP is not a first signal: the next signal does not end the server at once.
    server.signal("TERM");
    client.expect_bye(10);
    drop(client);
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

/// The signal handlers are installed before the log has `listening on`.
#[test]
fn signal_right_after_listening_exits_with_status_0() {
    for _ in 0..10 {
        let mut server = Server::start(&QUIET);
        server.signal("TERM");
        assert_eq!(server.wait_for_exit().code(), Some(0));
    }
}

#[test]
fn shutdown_of_an_empty_server_is_immediate() {
    let mut server = Server::start(&[&QUIET[..], &["--drain-secs", "60"]].concat());
    server.signal("TERM");
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

/// A request before the signal is answered before the `S_BYE`.
#[test]
fn queued_packets_are_flushed_before_bye() {
    let mut server = Server::start(&QUIET);
    let mut witness = server.join();
    let mut client = server.connect();
    for n in 0..100_u8 {
        client.send(&packet(C_ECHO, [n; 10_000]));
    }
    // When the chat arrives, every packet before it has been handled.
    client.send(&packet(C_CHAT, b"sent"));
    witness.next_but_hello();
    server.signal("TERM");
    for n in 0..100_u8 {
        client.expect_echo(&[n; 10_000]);
    }
    client.next_but_hello();
    client.expect_bye(10);
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

/// As above, with more bytes than the kernel takes, and peers that read while the signal comes: sockets
/// become writable in the turn in which their worker learns of the shutdown.
#[test]
fn backlog_of_reading_peers_is_flushed_to_the_last_byte() {
    // Four servers at a time: each one reads nothing for 1 s from peers that take no answers.
    thread::scope(|scope| {
        for first in 0..4 {
            scope.spawn(move || [first, first + 4].map(shut_down_with_a_backlog));
        }
    });
}

/// The signal comes when each peer has read `round * 8` answers.
fn shut_down_with_a_backlog(round: u8) {
    const CLIENTS: usize = 8;
    const PACKETS: u8 = 150;
    let limits = ["--max-send-queue-bytes", "1000000000", "--drain-secs", "60"];
    let flags = [&QUIET[..], &limits, &["--workers", "1"]].concat();
    let mut server = Server::start(&flags);
    let mut witness = server.join();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.join()).collect();
    thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| {
                (0..PACKETS).for_each(|n| client.send(&packet(C_ECHO, [n; 60_000])));
                // When this arrives, every packet before it has been handled.
                client.send(&packet(C_CHAT, b"sent"));
            });
        }
        (0..CLIENTS).for_each(|_| drop(witness.next_but_hello()));
    });
    let has_begun = Arc::new(Barrier::new(CLIENTS + 1));
    let reading: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let has_begun = Arc::clone(&has_begun);
            thread::spawn(move || {
                for n in 0..PACKETS {
                    let packet = next_but_chat(&mut client);
                    assert!(packet.id == S_ECHO && packet.payload == [n; 60_000]);
                    if n == round * 8 {
                        has_begun.wait();
                    }
                }
                assert_bye(&next_but_chat(&mut client), 10);
                client.expect_eof();
            })
        })
        .collect();
    has_begun.wait();
    server.signal("TERM");
    let lost = reading
        .into_iter()
        .filter_map(|one| one.join().err())
        .count();
    assert_eq!(lost, 0, "of {CLIENTS} sessions that read");
    drop(witness);
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

#[track_caller]
fn next_but_chat(client: &mut Client) -> RawPacket {
    loop {
        let packet = client.next();
        if packet.id != S_CHAT {
            return packet;
        }
    }
}

/// Under floods of echoes and chats, beside peers that do not read. A peer that reads receives complete
/// packets, in order, and the `S_BYE` as the last one.
#[test]
fn shutdown_under_load_loses_and_tears_nothing() {
    // The peers that read 1 MiB each have the drain time for it.
    let flags = ["--tick-ms", "5", "--workers", "2", "--drain-secs", "8"];
    let mut server = Server::start(&[&flags[..], &["--max-chats-per-sec", "0"]].concat());
    let unread: Vec<Client> = (0..5)
        .map(|_| Client::connect_with_recv_buffer(server.addr, 4096))
        .collect();
    let has_begun = Arc::new(Barrier::new(13));
    let clients: Vec<Client> = (0..12).map(|_| server.join()).collect();
    let busy: Vec<_> = (clients.into_iter().enumerate())
        .map(|(n, mut client)| {
            let mut sender = client.sender();
            let has_begun = Arc::clone(&has_begun);
            thread::spawn(move || {
                let sending = thread::spawn(move || {
                    for number in 0_u32.. {
                        let bytes = packet(C_ECHO, [&number.to_le_bytes()[..], &[7; 300]].concat());
                        // Fails once the server has closed.
                        if sender.write_all(&bytes).is_err() {
                            return;
                        }
                        if n == 0 && number % 50 == 0 {
                            let _ = sender.write_all(&packet(C_CHAT, b"in between"));
                        }
                    }
                });
                let mut next = 0_u32;
                let last = loop {
                    let packet = client.next();
                    match packet.id {
                        S_ECHO => {
                            assert_eq!(packet.payload[..4], next.to_le_bytes());
                            assert_eq!(packet.payload.len(), 304);
                            next += 1;
                        }
                        S_HELLO | S_CHAT => {}
                        _ => break packet,
                    }
                    if packet.id == S_ECHO && next == 200 {
                        has_begun.wait();
                    }
                };
                assert_bye(&last, 10);
                client.expect_eof();
                drop(client);
                sending.join().unwrap();
            })
        })
        .collect();
    has_begun.wait();
    let from = Instant::now();
    server.signal("TERM");
    let lost = busy.into_iter().filter_map(|one| one.join().err()).count();
    assert_eq!(lost, 0, "of 12 that read");
    assert_eq!(server.wait_for_exit().code(), Some(0));
    expect_exit_by_drain_time(from, 8);
    drop(unread);
    // The port is free at once.
    let addr = server.addr.to_string();
    let again = Server::start(&[&QUIET[..], &["--addr", &addr]].concat());
    again.join();
}

/// A server with megabytes queued for a peer that does not read.
fn with_an_unread_peer(drain_secs: &'static str) -> (Server, TcpStream) {
    let flags = ["--tick-ms", "10", "--payload-bytes", "60000"];
    let limits = [
        "--max-send-queue-bytes",
        "1000000000",
        "--max-send-lag-ms",
        "0",
    ];
    let times = ["--stats-interval-secs", "0.1", "--drain-secs", drain_secs];
    let server = Server::start(&[&flags[..], &limits, &times].concat());
    let unread = TcpStream::connect(server.addr).unwrap();
    server.wait_for_line_where("a queue of megabytes", |line| {
        let queued = line.split_once("queued ").map(|(_, rest)| rest);
        let unit = queued.and_then(|rest| rest.split([' ', ',']).nth(1));
        unit == Some("MB")
    });
    (server, unread)
}

#[test]
fn peer_that_does_not_read_does_not_delay_the_exit() {
    let (mut server, _unread) = with_an_unread_peer("0.5");
    let from = Instant::now();
    server.signal("TERM");
    assert_eq!(server.wait_for_exit().code(), Some(0));
    expect_exit_by_drain_time(from, 0);
}

/// The exit is at most 10 s later than the drain time. Without a drain time, a peer that does not read holds it up for
/// the 30 s of `Config::unacknowledged_timeout`.
#[track_caller]
fn expect_exit_by_drain_time(from: Instant, drain_secs: u64) {
    let took = from.elapsed();
    assert!(took < Duration::from_secs(drain_secs + 10), "{took:?}");
}

#[test]
fn second_signal_exits_immediately() {
    let (mut server, _unread) = with_an_unread_peer("60");
    server.signal("TERM");
    server.wait_for_line("shutting down");
    assert!(server.is_running(), "it drains");
    server.signal("INT");
    // Within `DEADLINE`, which is shorter than the drain time.
    assert!(DEADLINE < Duration::from_secs(60));
    server.wait_for_exit();
}
