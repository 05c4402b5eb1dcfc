//! The limit of descriptors: the server raises the soft one, and at the hard one it neither spins nor
//! floods the log, serves its sessions, and accepts again when a descriptor is free.

use crate::util::*;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn soft_limit_is_raised_to_the_hard_limit() {
    let server = Server::start_with_ulimit("-Sn 64", &QUIET);
    let mut clients: Vec<Client> = (0..150).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.echo(b"more than the soft limit");
    }
}

/// Out of descriptors, existing sessions are served, no thread spins, and one line is logged. Waiting
/// connections are served when descriptors are free.
#[test]
fn out_of_descriptors_pauses_accept_until_sessions_leave() {
    let flags = [&QUIET[..], &["--max-sessions", "1000", "--workers", "2"]].concat();
    let server = Server::start_with_ulimit("-n 60", &flags);
    let mut first = server.join();
    let mut clients: Vec<Client> = (0..100).map(|_| server.connect()).collect();
    server.wait_for_line("accept paused");
    server.expect_no_spin(|| {
        first.echo(b"in between");
        thread::sleep(Duration::from_millis(100));
    });
    let said = server
        .lines()
        .iter()
        .filter(|line| line.contains("accept paused"))
        .count();
    assert_eq!(said, 1);
    // The first connections were accepted first. Their descriptors are enough for all others.
    drop(clients.drain(..70));
    for client in &mut clients {
        client.echo(b"at last");
    }
    first.echo(b"still here");
}

/// A server with all `limit` descriptors in use, its sessions, and at least `waiting` clients in the backlog.
fn full(limit: usize, waiting: usize) -> (Server, Vec<Client>, Vec<Client>) {
    let flags = ["--max-sessions", "1000", "--workers", "1"];
    let stats = ["--stats-interval-secs", "0.1"];
    let server = Server::start_quiet(&[&flags[..], &stats].concat());
    server.limit_descriptors(limit);
    let mut served = Vec::new();
    while !server
        .lines()
        .iter()
        .any(|line| line.contains("accept paused"))
    {
        assert!(served.len() < 1000, "never out of descriptors");
        let client = server.connect();
        served.push(client);
        thread::sleep(Duration::from_millis(2));
    }
    // The server accepts in the order of the connects: the last of these clients are in the backlog.
    let line = server.wait_for_new_line_where("the number of sessions", |line| {
        stat(line, "sessions").is_some()
    });
    let sessions = stat(&line, "sessions").unwrap() as usize;
    let open = server.open_fds();
    assert!(sessions > 10 && open >= sessions, "{sessions} of {open}");
    let mut backlog = served.split_off(sessions);
    backlog.extend((0..waiting).map(|_| server.connect()));
    (server, served, backlog)
}

#[test]
fn out_of_descriptors_serves_existing_sessions_without_spinning() {
    let (server, mut served, _waiting) = full(60, 30);
    let lines = || {
        let lines = server.lines();
        lines
            .iter()
            .filter(|line| !line.contains("stats: "))
            .count()
    };
    let before = lines();
    for client in &mut served {
        client.echo(b"still here");
    }
    server.expect_no_spin(|| {
        served[0].echo(b"still here");
        thread::sleep(Duration::from_millis(100));
    });
    let said = lines() - before;
    assert!(said <= 5, "{said} lines in one second");
}

/// Descriptors become free without an event for the listener: no connection is new.
#[test]
fn waiting_connection_is_accepted_without_a_new_event() {
    let (server, served, mut waiting) = full(60, 10);
    let first = &mut waiting[0];
    let from = Instant::now();
    drop(served);
    first.echo(b"here");
    let took = from.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    for client in waiting.iter_mut().skip(1) {
        client.echo(b"at last");
    }
    assert!(server.open_fds() < 60);
}

/// The limit alone changes: no session ends, and no connection is new.
#[test]
fn raised_limit_resumes_accept() {
    let (server, mut served, mut waiting) = full(60, 10);
    server.limit_descriptors(500);
    for client in &mut waiting {
        client.echo(b"at last");
    }
    for client in &mut served {
        client.echo(b"still here");
    }
}

/// Four times: each time every waiting connection is accepted, and the log has one line in all.
#[test]
fn repeated_exhaustion_is_logged_once() {
    let (server, mut served, mut waiting) = full(60, 0);
    for round in 0..4 {
        let room = served.len();
        served.clear();
        served = waiting;
        for client in &mut served {
            client.echo(b"in");
        }
        waiting = Vec::new();
        while served.len() < room {
            served.push(server.join());
        }
        waiting.extend((0..20).map(|_| server.connect()));
        served[round].echo(b"still here");
    }
    let said = (server.lines().iter())
        .filter(|line| line.contains("accept paused"))
        .count();
    assert_eq!(said, 1);
}
