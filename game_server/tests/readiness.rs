//! Edge-triggered readiness: an edge is reported once. A read, a write or an accept that stops before the
//! end has to be continued; in these tests no tick and no other client causes it.

use crate::util::*;
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

/// One worker, no ticks, no statistics: the test causes every event.
fn silent_server(more: &[&'static str]) -> Server {
    let flags = ["--workers", "1", "--stats-interval-secs", "0"];
    Server::start(&[&QUIET[..], &flags, more].concat())
}

/// Many times what a turn reads, and then silence.
#[test]
fn read_cut_by_the_turn_budget_continues() {
    let server = silent_server(&["--max-chats-per-sec", "0"]);
    let mut client = server.join();
    // The answers are small, so that the budget cuts the reads alone.
    let mut sender = client.sender();
    let sending = thread::spawn(move || {
        let burst = packet(C_CHAT, [b'a'; 512]).repeat(4_000);
        sender.write_all(&burst).unwrap();
    });
    for _ in 0..4_000 {
        assert_eq!(client.next().id, S_CHAT);
    }
    sending.join().unwrap();
}

#[test]
fn two_megabytes_then_silence_are_all_answered() {
    let server = silent_server(&[]);
    for bytes in [60, 1_000, 60_000] {
        let count = 2_000_000 / bytes;
        let mut client = server.join();
        client.send(&packet(C_ECHO, vec![9; bytes]).repeat(count));
        for _ in 0..count {
            client.expect_echo(&vec![9; bytes]);
        }
    }
}

/// The last byte of the burst completes the last packet, wherever the budget cuts.
#[test]
fn burst_ending_near_the_turn_budget_is_answered() {
    let server = silent_server(&[]);
    for surplus in 0..40_usize {
        let mut client = server.join();
        let bytes = 64 * 1024 * (1 + surplus % 3) + surplus * 7 - 140;
        let count = bytes / 1000;
        client.send(&packet(C_ECHO, [3; 996]).repeat(count));
        client.send(&packet(C_ECHO, vec![4; bytes % 1000]));
        for _ in 0..count {
            client.expect_echo(&[3; 996]);
        }
        client.expect_echo(&vec![4; bytes % 1000]);
    }
}

/// The answers do not fit into the socket. When the peer has read, there is room, and the edge is reported
/// once.
#[test]
fn blocked_write_continues_when_the_peer_reads() {
    let server = silent_server(&["--max-send-queue-bytes", "100000000"]);
    let mut client = Client::connect_with_recv_buffer(server.addr, 8 << 10);
    let mut sender = client.sender();
    let sending = thread::spawn(move || {
        sender
            .write_all(&packet(C_ECHO, [6; 10_000]).repeat(1_000))
            .unwrap();
    });
    sending.join().unwrap();
    for _ in 0..1_000 {
        client.expect_echo(&[6; 10_000]);
    }
}

/// Eight blocked peers at once, with one event loop.
#[test]
fn blocked_writes_of_several_peers_continue() {
    let server = silent_server(&[]);
    let mut clients: Vec<Client> = (0..8).map(|_| server.join()).collect();
    for client in &mut clients {
        client.send(&packet(C_ECHO, [1; 50_000]).repeat(20));
    }
    for client in clients.iter_mut().rev() {
        (0..20).for_each(|_| client.expect_echo(&[1; 50_000]));
    }
}

/// More connections than one accept batch, while no client sends.
#[test]
fn three_hundred_connects_at_once_are_all_accepted() {
    const THREADS: usize = 6;
    let server = silent_server(&[]);
    let start = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (start, addr) = (Arc::clone(&start), server.addr);
            thread::spawn(move || {
                start.wait();
                let streams = (0..50).map(|_| TcpStream::connect(addr).unwrap());
                let mut clients: Vec<Client> = streams.map(Client::from_stream).collect();
                for client in &mut clients {
                    client.echo(b"here");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

/// The `S_BYE` of a kicked peer, the answers of a half-closed peer and the close need no other event.
#[test]
fn kick_and_half_close_finish_without_another_event() {
    let server = silent_server(&["--packet-timeout-ms", "300"]);
    let mut late = server.join();
    let from = Instant::now();
    late.send(&header(50, C_ECHO));
    late.expect_bye(5);
    assert!(from.elapsed() >= Duration::from_millis(300));

    // A busy machine may delay the end of a packet by more than that timeout.
    let server = silent_server(&[]);
    let mut half_closed = server.join();
    half_closed.send(&packet(C_ECHO, [2; 30_000]).repeat(20));
    half_closed.finish_writing();
    (0..20).for_each(|_| half_closed.expect_echo(&[2; 30_000]));
    half_closed.expect_eof();

    let mut bad = server.join();
    bad.send(&[packet(C_ECHO, [2; 30_000]).repeat(20), vec![0; 4]].concat());
    (0..20).for_each(|_| bad.expect_echo(&[2; 30_000]));
    bad.expect_bye(1);
}
