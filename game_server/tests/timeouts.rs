//! Timeouts: of an unfinished packet, and of an idle session.

use crate::util::*;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn unfinished_packet_times_out_and_an_idle_session_does_not() {
    let server = Server::start_quiet(&["--packet-timeout-ms", "500"]);
    let mut idle = server.join();
    for part in [&header(100, C_ECHO)[..], &header(100, C_ECHO)[..1]] {
        let mut client = server.join();
        let from = Instant::now();
        client.send(part);
        client.expect_bye(5);
        assert!(
            from.elapsed() >= Duration::from_millis(500),
            "{:?}",
            from.elapsed()
        );
    }
    idle.echo(b"silence between packets is valid");
}

/// The timeout starts at the first byte of a packet. Later bytes do not extend it.
#[test]
fn later_bytes_do_not_extend_the_packet_timeout() {
    let server = Server::start_quiet(&["--packet-timeout-ms", "600"]);
    let mut client = server.join();
    let mut sender = client.sender();
    let from = Instant::now();
    let dripping = thread::spawn(move || {
        // 200 bytes would take 10 s; the write fails once the server has closed.
        for byte in packet(C_ECHO, [1; 196]) {
            if sender.write_all(&[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
    let packet = client.next_but_hello();
    let took = from.elapsed();
    assert_bye(&packet, 5);
    assert!(took >= Duration::from_millis(600), "{took:?}");
    assert!(
        took < Duration::from_secs(6),
        "later bytes extend the timeout: {took:?}"
    );
    drop(client);
    dripping.join().unwrap();
}

/// A packet that begins when another one ends has the full timeout.
#[test]
fn each_packet_has_its_own_timeout() {
    let server = Server::start_quiet(&["--packet-timeout-ms", "3000"]);
    let mut client = server.join();
    let bytes = packet(C_ECHO, b"slow but within the time");
    let (front, back) = bytes.split_at(9);
    client.send(front);
    for _ in 0..3 {
        // Three pauses are longer than the timeout, each one is shorter.
        thread::sleep(Duration::from_millis(1100));
        client.send(&[back, front].concat());
        client.expect_echo(b"slow but within the time");
    }
    client.send(back);
    client.expect_echo(b"slow but within the time");
}

#[test]
fn idle_timeout_closes_the_silent_session_and_no_other() {
    let server = Server::start_quiet(&["--idle-timeout-ms", "3000"]);
    let from = Instant::now();
    let mut silent = server.join();
    let mut busy = server.join();
    let watching = thread::spawn(move || {
        silent.expect_eof();
        from.elapsed()
    });
    while !watching.is_finished() || from.elapsed() < Duration::from_millis(4500) {
        busy.echo(b"I am here");
        thread::sleep(Duration::from_millis(50));
        assert!(
            from.elapsed() < DEADLINE,
            "the silent session is still connected"
        );
    }
    let after = watching.join().unwrap();
    assert!(after >= Duration::from_secs(3), "{after:?}");
    busy.echo(b"still");
}

/// The server was stopped; the peer was not slow. Its bytes are in the socket of the server.
#[test]
fn stopped_process_times_out_no_session() {
    let server = Server::start_quiet(&["--packet-timeout-ms", "3000", "--idle-timeout-ms", "4000"]);
    let (mut begun, mut idle) = (server.join(), server.join());
    let bytes = packet(C_ECHO, b"sent in time");
    begun.send(&bytes[..7]);
    idle.echo(b"the first part has been read");
    server.signal("STOP");
    begun.send(&bytes[7..]);
    idle.send(&bytes);
    // The stop is longer than both timeouts.
    thread::sleep(Duration::from_secs(5));
    server.signal("CONT");
    begun.expect_echo(b"sent in time");
    idle.expect_echo(b"sent in time");
}
