//! Sessions that end: half-close, reset and kick each free the descriptor and the memory of the session,
//! and no other.

use crate::util::*;
use std::io::Write;
use std::net::Shutdown;
use std::thread;

#[test]
fn half_close_flushes_answers_then_closes() {
    let server = Server::start_quiet(&[]);
    for tail in [&b""[..], &header(1000, C_ECHO)[..]] {
        let mut client = server.connect();
        let mut stream: Vec<u8> = (0..2000_u32)
            .flat_map(|n| packet(C_ECHO, n.to_le_bytes()))
            .collect();
        stream.extend_from_slice(tail);
        client.send(&stream);
        client.finish_writing();
        for n in 0..2000_u32 {
            client.expect_echo(&n.to_le_bytes());
        }
        client.expect_eof();
    }
}

#[test]
fn half_close_flushes_more_answers_than_the_kernel_takes() {
    let server = Server::start_quiet(&["--max-send-queue-bytes", "100000000"]);
    let mut client = server.connect();
    let mut sender = client.sender();
    let sending = thread::spawn(move || {
        for n in 0..200_u8 {
            sender.write_all(&packet(C_ECHO, [n; 60_000])).unwrap();
        }
        sender.shutdown(Shutdown::Write).unwrap();
    });
    // The client reads nothing before it has sent all: most of the answers wait in the server.
    sending.join().unwrap();
    for n in 0..200_u8 {
        client.expect_echo(&[n; 60_000]);
    }
    client.expect_eof();
}

/// The server closes a kicked, half-closed or refused peer that neither reads nor closes.
#[test]
fn peer_that_does_not_close_keeps_no_descriptor() {
    let server = Server::start_quiet(&["--max-sessions", "60"]);
    let idle_fds = server.resting_fds();
    let many_answers = packet(C_ECHO, [3; 50_000]).repeat(100);
    let mut silent: Vec<Client> = (0..60).map(|_| server.join()).collect();
    // Side by side: the server reads nothing for 1 s from a peer that takes no answers.
    thread::scope(|scope| {
        for (n, client) in silent.iter_mut().enumerate() {
            let many_answers = &many_answers;
            scope.spawn(move || match n % 3 {
                0 => client.send(&header(0, 0)),
                1 => client.finish_writing(),
                _ => {
                    // Fails once the server has closed a peer that takes no answers.
                    let _ = client.stream.write_all(many_answers);
                    let _ = client.stream.shutdown(Shutdown::Write);
                }
            });
        }
    });
    // Sessions above may have ended, so some of these connections are sessions.
    let rejected: Vec<Client> = (0..300).map(|_| server.connect()).collect();
    for client in &rejected {
        let _ = client.stream.shutdown(Shutdown::Write);
    }
    wait_until("all to be closed", DEADLINE, || {
        server.open_fds() <= idle_fds
    });
    server.join();
}

/// The server stops reading from a kicked peer that keeps sending.
#[test]
fn kicked_peer_that_keeps_sending_is_closed() {
    let server = Server::start_quiet(&[]);
    let mut healthy = server.join();
    let idle_fds = server.resting_fds();
    let mut flooder = server.connect();
    flooder.send(&header(1, 1));
    let flooding = thread::spawn(move || {
        let noise = [0; 50_000];
        while flooder.stream.write_all(&noise).is_ok() {}
    });
    wait_until("the flooder to be closed", DEADLINE, || {
        healthy.echo(b"in between");
        flooding.is_finished()
    });
    flooding.join().unwrap();
    wait_until("its descriptor to be free", DEADLINE, || {
        server.open_fds() <= idle_fds
    });
}

#[test]
fn every_disconnect_lowers_the_session_count() {
    let server =
        Server::start_quiet(&["--stats-interval-secs", "0.1", "--packet-timeout-ms", "300"]);
    let mut clients: Vec<Client> = (0..8).map(|_| server.join()).collect();
    server.wait_for_line_where("8 sessions", |line| stat(line, "sessions") == Some(8));
    clients[0].send(&header(1, 2));
    clients[1].send(&header(4, 99));
    clients[2].send(&header(9, C_ECHO));
    clients[3].finish_writing();
    clients.truncate(7);
    clients[6].send(&packet(C_ECHO, b"unread"));
    clients[6].stream.peek(&mut [0]).unwrap();
    clients.remove(6).reset();
    drop(clients.split_off(4));
    server.wait_for_new_line_where("0 sessions", |line| stat(line, "sessions") == Some(0));
    for mut client in clients {
        // With or without an `S_BYE`, each client sees the end of the stream.
        while client.try_next().unwrap().is_some() {}
    }
}

/// Row 8: a send to a closed session has no effect, and keeps no memory.
#[test]
fn send_to_a_closed_session_has_no_effect() {
    let server = Server::start_quiet(&["--max-chats-per-sec", "0"]);
    let mut healthy = server.join();
    let idle_fds = server.resting_fds();
    let questions = packet(C_ECHO, [9; 500]).repeat(100);
    let storm = || {
        for _ in 0..100 {
            // Closed before the server can send most of the answers.
            let mut client = server.connect();
            client.send(&questions);
            client.stream.peek(&mut [0]).unwrap();
            client.reset();
        }
        wait_until("them to be gone", DEADLINE, || {
            server.open_fds() <= idle_fds
        });
    };
    storm();
    let rss = server.rss_bytes();
    (0..4).for_each(|_| storm());
    let grown = server.rss_bytes().saturating_sub(rss);
    assert!(grown < 4 << 20, "{grown} bytes more");
    healthy.echo(b"not disturbed");
}
