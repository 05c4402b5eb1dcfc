//! Slow consumers: a peer that does not read is kicked, costs its own bytes alone, and is not confused
//! with a peer that reads as fast as it can.

use crate::util::*;
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

// ---- peers that read ----------------------------------------------------------------------------

fn expect_no_slow_consumer(server: &Server) {
    assert_eq!(logged_disconnects(&server.lines(), "slow_consumer"), 0);
}

/// 5 MB of answers are five times the limit. A peer that keeps up reads them while it requests, also when
/// the scheduler delays it.
#[test]
fn five_thousand_answers_kick_no_reading_peer() {
    let server = Server::start(&QUIET);
    for bytes in [0, 100, 1000] {
        let mut client = server.join();
        let mut sender = client.sender();
        let asking = thread::spawn(move || {
            sender
                .write_all(&packet(C_ECHO, vec![7; bytes]).repeat(5000))
                .unwrap();
        });
        for _ in 0..5000 {
            client.expect_echo(&vec![7; bytes]);
        }
        asking.join().unwrap();
        client.echo(b"still here");
    }
    expect_no_slow_consumer(&server);
}

/// The peer sends every request before it reads. The requests beyond the limit wait in the socket of the
/// peer, and are answered when the peer reads.
#[test]
fn two_megabytes_requested_before_the_first_read_are_delivered() {
    let server = Server::start(&QUIET);
    for (count, bytes) in [(2000, 1000), (33, 65_000), (20_000, 100)] {
        let mut client = server.join();
        client.send(&packet(C_ECHO, vec![8; bytes]).repeat(count));
        for _ in 0..count {
            client.expect_echo(&vec![8; bytes]);
        }
        client.echo(b"still here");
    }
    expect_no_slow_consumer(&server);
}

/// One session sends 5,000 chats at once, and every session receives all of them.
#[test]
fn five_thousand_chats_kick_no_reading_peer() {
    const LISTENERS: usize = 8;
    let server = Server::start(&[&QUIET[..], &["--max-chats-per-sec", "0"]].concat());
    let all_are_here = Arc::new(Barrier::new(LISTENERS + 1));
    let listeners: Vec<_> = (0..LISTENERS)
        .map(|_| {
            let mut client = server.join();
            let all_are_here = Arc::clone(&all_are_here);
            thread::spawn(move || {
                all_are_here.wait();
                for n in 0..5000_u32 {
                    let packet = client.next_but_hello();
                    assert_eq!(packet.id, S_CHAT);
                    assert_eq!(packet.payload[8..], n.to_string().into_bytes());
                }
            })
        })
        .collect();
    all_are_here.wait();
    let mut speaker = server.join();
    let speech: Vec<u8> = (0..5000_u32)
        .flat_map(|n| packet(C_CHAT, n.to_string().as_bytes()))
        .collect();
    speaker.send(&speech);
    for listener in listeners {
        listener.join().unwrap();
    }
    expect_no_slow_consumer(&server);
}

// ---- peers that do not read ---------------------------------------------------------------------

/// The receive buffer of the peer takes a few kilobytes, the server's socket no more than the unsent window.
/// At the default tick of 250 ms the same takes a minute and a half.
#[test]
fn unread_tiny_packets_exceed_the_lag_limit() {
    let server = Server::start(&["--tick-ms", "1", "--max-send-lag-ms", "1000"]);
    let unread = Client::connect_with_recv_buffer(server.addr, 4096);
    let from = Instant::now();
    let line = server.wait_for_line("left: slow_consumer");
    let addr = unread.stream.local_addr().unwrap().to_string();
    assert!(line.contains(&addr), "{line}");
    assert!(from.elapsed() > Duration::from_secs(1), "before its time");
}

/// The peer requests and does not read. The server delays its requests for a bounded time.
#[test]
fn peer_that_requests_and_never_reads_exceeds_the_byte_limit() {
    // With a tick of 60 s the lag limit is ten minutes: the byte limit finds the peer.
    let server = Server::start(&QUIET);
    let mut unread = server.join();
    let addr = unread.stream.local_addr().unwrap().to_string();
    let asking = thread::spawn(move || {
        let question = packet(C_ECHO, [5; 60_000]);
        // Ends when the server has closed, which resets the connection.
        while unread.stream.write_all(&question).is_ok() {}
    });
    let line = server.wait_for_line("left: slow_consumer");
    assert!(line.contains(&addr), "{line}");
    asking.join().unwrap();
}

#[test]
fn byte_limit_exceeded_kicks_and_loses_no_tick_of_others() {
    let flags = ["--tick-ms", "10", "--payload-bytes", "20000"];
    let limits = ["--max-send-queue-bytes", "500000", "--max-send-lag-ms", "0"];
    // For the peer that reads: the machine may delay it.
    let grace = ["--max-send-grace-ms", "5000"];
    let server = Server::start(&[&flags[..], &limits, &grace].concat());
    let healthy = TickReader::start(server.join());
    let unread = TcpStream::connect(server.addr).unwrap();
    let line = server.wait_for_line("left: slow_consumer");
    assert!(
        line.contains(&unread.local_addr().unwrap().to_string()),
        "{line}"
    );
    let ticks = healthy.stop_after(1);
    assert!(
        ticks > 25,
        "500,000 bytes were reached after {ticks} ticks?"
    );
    assert!(
        server
            .lines()
            .iter()
            .filter(|line| line.contains("left:"))
            .count()
            <= 2
    );
    // The server closes at once, without an `S_BYE`, which could not reach the peer.
    let mut unread = Client::from_stream(unread);
    let mut is_bye = false;
    while let Ok(Some(packet)) = unread.try_next() {
        is_bye |= packet.id == S_BYE;
    }
    assert!(!is_bye);
}

#[test]
fn lag_limit_exceeded_kicks_and_loses_no_tick_of_others() {
    let flags = ["--tick-ms", "20", "--payload-bytes", "20000"];
    let limits = [
        "--max-send-queue-bytes",
        "1000000000",
        "--max-send-lag-ms",
        "4000",
    ];
    let server = Server::start(&[&flags[..], &limits].concat());
    let healthy = TickReader::start(server.join());
    let _deaf = TcpStream::connect(server.addr).unwrap();
    server.wait_for_line("left: slow_consumer");
    healthy.stop_after(1);
}

/// At 50 kB a second the kernel could take the ticks of a minute. With a small unsent window the server
/// finds the peer when the receive buffer of the peer is full.
#[test]
fn unread_low_rate_exceeds_the_lag_limit_in_seconds() {
    let flags = ["--tick-ms", "20", "--payload-bytes", "1000"];
    let server = Server::start(&[&flags[..], &["--max-send-lag-ms", "400"]].concat());
    let _deaf = TcpStream::connect(server.addr).unwrap();
    // Within `DEADLINE`.
    server.wait_for_line("left: slow_consumer");
}

/// A peer that sends echoes and never reads is a slow consumer of its own answers.
#[test]
fn unread_echoes_kick_their_sender() {
    let server = Server::start_quiet(&[
        "--max-send-queue-bytes",
        "300000",
        "--max-send-grace-ms",
        "100",
    ]);
    let mut healthy = server.join();
    let flooding = server.connect();
    let mut sender = flooding.sender();
    let sending = thread::spawn(move || {
        let bytes = packet(C_ECHO, [5; 60_000]);
        // Ends when the server has closed, which resets the connection.
        while sender.write_all(&bytes).is_ok() {}
    });
    wait_until("the flooder to be kicked", DEADLINE, || {
        healthy.echo(b"in between");
        sending.is_finished()
    });
    sending.join().unwrap();
    server.wait_for_line("left: slow_consumer");
}

// ---- the cost for others ------------------------------------------------------------------------

/// Row 6: a send that makes no progress, because its peer does not read, delays no other sender.
#[test]
fn unread_session_does_not_delay_other_senders() {
    let (server, _deaf) = with_an_unread_peer();
    let (mut speaker, mut listener) = (server.join(), server.join());
    for n in 0..50_u8 {
        // Each chat goes to the peer that does not read as well.
        speaker.send(&packet(C_CHAT, [b'a' + n % 26]));
        assert_eq!(listener.next_chat().1.as_bytes(), [b'a' + n % 26]);
        assert_eq!(speaker.next_chat().1.as_bytes(), [b'a' + n % 26]);
    }
}

/// Row 9: while a write is under way, packets are queued behind it. When the peer reads, all of them arrive,
/// in order.
#[test]
fn packets_queued_behind_a_long_write_arrive_in_order() {
    let (server, mut late) = with_an_unread_peer();
    let mut speaker = server.join();
    speaker.send(&packet(C_CHAT, b"behind all that"));
    speaker.next_chat();
    let mut last = None;
    loop {
        let packet = late.next();
        let (number, text) = split_number(&packet.payload);
        if packet.id == S_CHAT {
            assert_eq!(text, b"behind all that");
            break;
        }
        assert_eq!((packet.id, packet.payload.len()), (S_HELLO, 40_000));
        assert!(
            last.is_none_or(|last| number == last + 1),
            "{number} after {last:?}"
        );
        last = Some(number);
    }
}

/// A server with megabytes queued for a peer that has not read, and no limit that would kick the peer.
fn with_an_unread_peer() -> (Server, Client) {
    let flags = [
        "--tick-ms",
        "10",
        "--payload-bytes",
        "40000",
        "--max-chats-per-sec",
        "0",
    ];
    let limits = [
        "--max-send-queue-bytes",
        "1000000000",
        "--max-send-lag-ms",
        "0",
    ];
    let server = Server::start(&[&flags[..], &limits, &["--stats-interval-secs", "0.1"]].concat());
    let unread = server.connect();
    server.wait_for_line_where("a queue of megabytes", |line| {
        let queued = line.split_once("queued ").map(|(_, rest)| rest);
        queued.and_then(|rest| rest.split([' ', ',']).nth(1)) == Some("MB")
    });
    (server, unread)
}

/// Row 57: 50 sessions that do not read, beside 50 that do. The former keep no chunk, and no queue is longer
/// than the limit and a packet.
#[test]
fn unread_sessions_pin_no_chunk_and_queue_no_more_than_the_limit() {
    const LIMIT: usize = 300_000;
    const PACKET: usize = 1004;
    let limit = LIMIT.to_string();
    let server = Server::start(&[
        "--tick-ms",
        "20",
        "--payload-bytes",
        "1000",
        "--max-send-lag-ms",
        "0",
        "--max-send-queue-bytes",
        &limit,
        // With a grace, the packets of that time are queued as well.
        "--max-send-grace-ms",
        "0",
        "--stats-interval-secs",
        "0.02",
    ]);
    let unread: Vec<Client> = (0..50)
        .map(|_| Client::connect_with_recv_buffer(server.addr, 16 << 10))
        .collect();
    let mut healthy: Vec<Client> = (0..50).map(|_| server.join()).collect();
    let give_up_at = Instant::now() + 3 * DEADLINE;
    // Until the last session that does not read has reached its limit.
    while newest_sessions(&server) != Some(50) || server.lines().len() < 50 {
        assert!(Instant::now() < give_up_at, "not every session was kicked");
        for client in &mut healthy {
            client.echo(b"in between");
        }
    }
    let lines = server.lines();
    let (mut most_queued, mut most_chunks, mut looks) = (0.0_f64, 0, 0);
    for line in lines.iter().filter(|line| line.contains("stats: ")) {
        most_queued = most_queued.max(queued_bytes(line).unwrap());
        most_chunks = most_chunks.max(stat(line, "chunks live").unwrap());
        looks += 1;
    }
    assert!(looks > 20, "{looks} looks");
    // The log rounds: hence the hundredth.
    let allowed = 50.0 * (LIMIT + PACKET) as f64 * 1.01;
    assert!(
        most_queued > allowed / 3.0,
        "the queues did not fill: {most_queued}"
    );
    assert!(most_queued <= allowed, "{most_queued} bytes queued");
    // The current chunk of each thread, and the chunks of a turn that is not flushed yet.
    assert!(most_chunks <= 16, "{most_chunks} chunks live");
    drop(unread);
}

/// Each round of sessions that do not read gives its memory and its descriptors back.
#[test]
fn memory_returns_after_each_round_of_unread_sessions() {
    let server = Server::start(&[
        "--tick-ms",
        "5",
        "--payload-bytes",
        "10000",
        "--max-send-lag-ms",
        "0",
        "--max-send-queue-bytes",
        "500000",
        "--max-send-grace-ms",
        "300",
        "--stats-interval-secs",
        "0.02",
    ]);
    let idle_fds = server.resting_fds();
    let round = || {
        let unread: Vec<Client> = (0..40)
            .map(|_| Client::connect_with_recv_buffer(server.addr, 16 << 10))
            .collect();
        server.wait_for_new_line_where("all of them", |line| stat(line, "sessions") == Some(40));
        server.wait_for_new_line_where("none of them", |line| stat(line, "sessions") == Some(0));
        drop(unread);
        server.rss_bytes()
    };
    // The number of queues that are full at the same moment differs from round to round, and the allocator
    // keeps what the fullest moment needed: three rounds bring the memory to its working size.
    let working = (0..3).map(|_| round()).max().unwrap();
    let allowed = working + (working / 10).max(4 * MIB);
    for n in 4..=8 {
        round();
        // The server gives memory back within seconds of a peak.
        wait_until(
            &format!("round {n} to use {allowed} bytes"),
            DEADLINE,
            || server.rss_bytes() <= allowed,
        );
    }
    assert_eq!(server.resting_fds(), idle_fds);
}

fn newest_sessions(server: &Server) -> Option<u64> {
    let lines = server.lines();
    lines.iter().rev().find_map(|line| stat(line, "sessions"))
}
