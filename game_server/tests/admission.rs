//! Which connections become sessions: `--max-sessions`, `--max-sessions-per-ip`, the login timeout, and
//! the cap on unadmitted sessions.

use crate::util::*;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

// ---- limits of sessions -------------------------------------------------------------------------

#[test]
fn max_sessions_reached_refuses_with_server_full_until_a_session_ends() {
    let server = Server::start_quiet(&["--max-sessions", "2"]);
    let first = server.join();
    let mut second = server.join();
    for _ in 0..3 {
        let mut third = server.connect();
        let packet = third.next();
        assert_bye(&packet, 9);
        third.expect_eof();
    }
    second.echo(b"not disturbed");
    drop(first);
    wait_until("a place to be free", DEADLINE, || {
        let mut next = server.connect();
        next.send(&packet(C_ECHO, b"is there room?"));
        let is_served = next.next().id == S_ECHO;
        if is_served {
            next.echo(b"yes");
        }
        is_served
    });
    second.echo(b"still not");
}

/// A refused connection that sends at once can still read the reason.
#[test]
fn each_of_many_refused_connections_gets_server_full() {
    let server = Server::start_quiet(&["--max-sessions", "1"]);
    let mut first = server.join();
    for _ in 0..300 {
        let mut rejected = server.connect();
        rejected.send(&packet(C_ECHO, b"let me in"));
        rejected.expect_bye(9);
    }
    first.echo(b"not disturbed");
}

#[test]
fn max_sessions_per_ip_reached_refuses_with_server_full_until_a_session_ends() {
    let server = Server::start_quiet(&["--max-sessions-per-ip", "3"]);
    let mut three: Vec<Client> = (0..3).map(|_| server.join()).collect();
    server.connect().expect_bye(9);
    three.pop();
    wait_until("a place to be free", DEADLINE, || {
        let mut next = server.connect();
        next.send(&packet(C_ECHO, b"is there room?"));
        next.next().id == S_ECHO
    });
    for client in &mut three {
        client.echo(b"not disturbed");
    }
}

// ---- the login timeout --------------------------------------------------------------------------

#[test]
fn silent_session_gets_login_timeout_and_a_valid_packet_admits_for_good() {
    let server = Server::start_quiet(&["--login-timeout-ms", "3000"]);
    let began = Instant::now();
    let mut silent = server.connect();
    let mut talker = server.join();
    silent.expect_bye(12);
    let lived = began.elapsed();
    assert!(lived >= Duration::from_secs(3), "{lived:?}");
    // The login timeout of the talker is over as well.
    thread::sleep(Duration::from_millis(100));
    talker.echo(b"still here");
    server.wait_for_line("left: login_timeout ");
    assert_eq!(logged_disconnects(&server.lines(), "login_timeout"), 1);
}

#[test]
fn unfinished_packet_does_not_admit() {
    let server = Server::start_quiet(&["--login-timeout-ms", "500"]);
    let mut client = server.connect();
    client.send(&packet(C_ECHO, b"almost")[..7]);
    client.expect_bye(12);
}

#[test]
fn without_login_timeout_silent_sessions_keep_their_places() {
    let server = Server::start_quiet(&["--max-sessions", "8"]);
    let silent: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    server.wait_for_line("listening on");
    server.connect().expect_bye(9);
    drop(silent);
}

#[test]
fn public_address_without_login_timeout_is_warned_of() {
    let flag = "--login-timeout-ms";
    let warns = |flags: &[&str]| {
        let mut server = Server::start_quiet(flags);
        server.signal("TERM");
        server.wait_for_exit();
        let lines = server.lines();
        lines.iter().filter(|line| line.contains(flag)).count()
    };
    assert_eq!(warns(&["--addr", "0.0.0.0:0"]), 1);
    assert_eq!(warns(&["--addr", "0.0.0.0:0", flag, "60000"]), 0);
    assert_eq!(warns(&[]), 0);
}

// ---- unadmitted sessions ------------------------------------------------------------------------

/// Longer than a busy machine delays an admission. Without the cap, the login timeout of 60 s has to end first.
const SOON: Duration = Duration::from_secs(10);

/// The login timeout is 60 s: the cap alone admits the newcomer.
#[test]
fn newcomer_is_admitted_while_silent_connections_fill_every_place() {
    const PLACES: usize = 200;
    let flags = ["--login-timeout-ms", "60000", "--max-sessions", "200"];
    for cap in ["0", "200"] {
        let server = Server::start_quiet(&[&flags[..], &["--max-unadmitted", cap]].concat());
        let silent: Vec<TcpStream> = (0..2 * PLACES)
            .map(|_| TcpStream::connect(server.addr).unwrap())
            .collect();
        for _ in 0..5 {
            let took = admission_time(&server);
            assert!(took < SOON, "{took:?} with a cap of {cap}");
        }
        drop(silent);
        server.wait_for_line("left: login_timeout ");
    }
}

/// Admitted sessions have most of the places, so the cap alone would leave none.
#[test]
fn newcomer_is_admitted_while_admitted_sessions_leave_few_places() {
    let server = Server::start_quiet(&["--login-timeout-ms", "60000", "--max-sessions", "100"]);
    let mut players: Vec<Client> = (0..80).map(|_| server.join()).collect();
    let silent: Vec<TcpStream> = (0..100)
        .map(|_| TcpStream::connect(server.addr).unwrap())
        .collect();
    let took = admission_time(&server);
    assert!(took < SOON, "{took:?}");
    for player in &mut players {
        player.echo(b"admitted, and not evicted");
    }
    drop(silent);
}

/// Silent connections keep coming, as fast as one thread can connect. The newcomer's wait is counted in silent
/// connections: a busy machine delays both alike. As many may come as the backlog holds, and as many as there
/// are places until the newcomer itself is the oldest.
#[test]
fn newcomer_is_admitted_while_silent_connections_keep_coming() {
    const BACKLOG: usize = 4096;
    const PLACES: usize = 1000;
    let server = Server::start_quiet(&["--login-timeout-ms", "60000", "--max-sessions", "1000"]);
    let (stop, connects) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut silent = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                silent.extend(TcpStream::connect(server.addr));
                connects.fetch_add(1, Ordering::Relaxed);
                // Bounds the descriptors of this process.
                if silent.len() > 2_000 {
                    drop(silent.drain(..1_000));
                }
            }
        });
        let connects = || connects.load(Ordering::Relaxed);
        let check = || {
            wait_until("all places to be taken once", DEADLINE, || {
                connects() > 1_500
            });
            let connects_beside_newcomer = |_| {
                let last = connects();
                wait_until("another connect", DEADLINE, || connects() > last);
                let before = connects();
                let took = admission_time(&server);
                let beside = connects() - before;
                println!("{took:?} beside {beside} connects");
                beside
            };
            (0..20).map(connects_beside_newcomer).max().unwrap()
        };
        let most = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
        stop.store(true, Ordering::Relaxed);
        let most = most.unwrap();
        assert!(most <= BACKLOG + PLACES, "{most} connects");
    });
}
