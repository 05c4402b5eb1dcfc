//! Danger: peers that say nothing take all places, and a peer that reconnects gets its budgets anew.

// A failed unwrap is a failed test, also in its helpers.
#![allow(clippy::unwrap_used)]

mod util;

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use util::*;

/// How long it takes until a newcomer from another address has its first answer.
#[track_caller]
fn time_to_get_in(server: &Server) -> Duration {
    let began = Instant::now();
    let mut newcomer = Client::connect_from([127, 0, 0, 2], server.addr);
    newcomer.echo(b"I say something");
    began.elapsed()
}

// ---- the time for a login ---------------------------------------------------------------------

#[test]
fn silence_ends_with_login_timeout_and_a_valid_packet_admits_for_good() {
    let server = Server::start_quiet(&["--login-timeout-ms", "700"]);
    let began = Instant::now();
    let mut silent = server.connect();
    let mut talker = server.join();
    silent.expect_bye(12);
    let lived = began.elapsed();
    assert!(lived >= Duration::from_millis(700), "{lived:?}");
    // Its own time is over by now, too.
    thread::sleep(Duration::from_millis(100));
    talker.echo(b"still here");
    assert_eq!(departures(&server.lines(), "login_timeout"), 1);
}

#[test]
fn an_unfinished_packet_is_no_login() {
    let server = Server::start_quiet(&["--login-timeout-ms", "500"]);
    let mut client = server.connect();
    client.send(&packet(C_ECHO, b"almost")[..7]);
    client.expect_bye(12);
}

#[test]
fn without_the_flag_a_client_may_only_listen() {
    let server = Server::start_quiet(&["--max-sessions", "8"]);
    let silent: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    server.wait_for_line("listening on");
    server.connect().expect_bye(9);
    drop(silent);
}

#[test]
fn a_start_that_silence_can_fill_says_so() {
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

// ---- places -----------------------------------------------------------------------------------

/// The time for a login is far away: only the cap lets the newcomer in.
#[test]
fn a_newcomer_gets_in_while_one_machine_fills_all_places_with_silence() {
    const PLACES: usize = 200;
    let flags = ["--login-timeout-ms", "60000", "--max-sessions", "200"];
    for cap in ["0", "200"] {
        let server = Server::start_quiet(&[&flags[..], &["--max-unadmitted", cap]].concat());
        let silent: Vec<TcpStream> = (0..2 * PLACES)
            .map(|_| TcpStream::connect(server.addr).unwrap())
            .collect();
        for _ in 0..5 {
            let took = time_to_get_in(&server);
            assert!(
                took < Duration::from_secs(1),
                "{took:?} with a cap of {cap}"
            );
        }
        drop(silent);
        assert!(departures(&server.lines(), "login_timeout") > 0);
    }
}

/// The admitted have most of the places, so the cap alone would leave none.
#[test]
fn a_newcomer_gets_in_where_the_admitted_leave_little_room() {
    let server = Server::start_quiet(&["--login-timeout-ms", "60000", "--max-sessions", "100"]);
    let mut players: Vec<Client> = (0..80).map(|_| server.join()).collect();
    let silent: Vec<TcpStream> = (0..100)
        .map(|_| TcpStream::connect(server.addr).unwrap())
        .collect();
    let took = time_to_get_in(&server);
    assert!(took < Duration::from_secs(1), "{took:?}");
    for player in &mut players {
        player.echo(b"admitted, and not the one that has to go");
    }
    drop(silent);
}

/// The silent machine connects on, as fast as one thread can.
#[test]
fn a_newcomer_gets_in_while_the_silent_machine_connects_on() {
    let server = Server::start_quiet(&["--login-timeout-ms", "60000", "--max-sessions", "1000"]);
    let (stop, connects) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut silent = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                silent.extend(TcpStream::connect(server.addr));
                connects.fetch_add(1, Ordering::Relaxed);
                // Descriptors of this process.
                if silent.len() > 2_000 {
                    drop(silent.drain(..1_000));
                }
            }
        });
        let check = || {
            wait_until("all places to be taken once", DEADLINE, || {
                connects.load(Ordering::Relaxed) > 1_500
            });
            (0..20).map(|_| time_to_get_in(&server)).max().unwrap()
        };
        let slowest = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
        stop.store(true, Ordering::Relaxed);
        let slowest = slowest.unwrap();
        println!("{slowest:?} beside {connects:?} connects");
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    });
}

// ---- budgets by address -----------------------------------------------------------------------

/// One machine chats its permitted burst and comes again: what it gets is its address's budget.
#[test]
fn a_reconnect_does_not_reset_the_chats_of_an_address() {
    let server = Server::start_quiet(&[]);
    let mut witness = Client::connect_from([127, 0, 0, 3], server.addr);
    witness.echo(b"ready?");
    let mut neighbour = server.join();
    let began = Instant::now();
    let burst = packet(C_CHAT, b"spam").repeat(20);
    for _ in 0..30 {
        let mut client = server.connect();
        client.send(&burst);
        // Within its own budget: not kicked, and its echoes are answered.
        client.send(&packet(C_ECHO, b"done"));
        while client.next_but_hello().id != S_ECHO {}
    }
    neighbour.send(&packet(C_ECHO, b"I pay nothing"));
    while neighbour.next_but_hello().id != S_ECHO {}
    let took = began.elapsed().as_secs_f64();
    // The witness's address has its own budget, and its chat comes behind all others.
    witness.send(&packet(C_CHAT, b"the end"));
    let mut heard = 0;
    loop {
        let packet = witness.next_but_hello();
        assert_eq!(packet.id, S_CHAT);
        if split_number(&packet.payload).1 == b"the end" {
            break;
        }
        heard += 1;
    }
    // 40 a second, and a burst of twice that.
    let allowed = 80.0 + 40.0 * took + 1.0;
    assert!(heard >= 80, "{heard} chats in {took} s");
    assert!(f64::from(heard) <= allowed, "{heard} chats in {took} s");
    server.wait_for_line(" dropped, the last from 127.0.0.1");
    assert_eq!(departures(&server.lines(), "chat_flood"), 0);
}

/// A burst that the address has no budget for at once arrives a little later, whole and in order, and
/// holds nothing else up.
#[test]
fn chats_over_the_budget_of_an_address_wait_in_order() {
    let server = Server::start_quiet(&["--max-chats-per-ip-per-sec", "5"]);
    let mut client = server.join();
    let began = Instant::now();
    for number in 0..20_u8 {
        client.send(&packet(C_CHAT, &[b'a' + number]));
    }
    client.send(&packet(C_ECHO, b"at once"));
    let (mut heard, mut heard_before_echo) = (Vec::new(), None);
    while heard.len() < 20 {
        let packet = client.next_but_hello();
        match packet.id {
            S_CHAT => heard.extend(split_number(&packet.payload).1),
            _ => heard_before_echo = Some(heard.len()),
        }
    }
    assert_eq!(heard, (b'a'..b'a' + 20).collect::<Vec<u8>>());
    assert!(heard_before_echo.is_some_and(|count| count < 20));
    // Ten are its burst; the others come at five a second.
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1_900), "{took:?}");
}

#[test]
fn zero_switches_the_chats_of_an_address_off() {
    let server = Server::start_quiet(&["--max-chats-per-ip-per-sec", "0"]);
    let mut witness = server.join();
    let burst = packet(C_CHAT, b"spam").repeat(20);
    let clients: Vec<Client> = (0..10)
        .map(|_| {
            let mut client = server.connect();
            client.send(&burst);
            client
        })
        .collect();
    for _ in 0..200 {
        assert_eq!(witness.next_but_hello().id, S_CHAT);
    }
    drop(clients);
}

#[test]
fn connects_over_the_budget_of_an_address_are_closed_without_a_packet() {
    let server = Server::start_quiet(&["--max-connects-per-ip-per-sec", "2"]);
    let began = Instant::now();
    let mut let_in = 0;
    for _ in 0..40 {
        let mut client = server.connect();
        // One that is closed already may say so here.
        let _ = client.stream.write_all(&packet(C_ECHO, b"me?"));
        match client.try_next() {
            Ok(None) => {}
            Ok(Some(packet)) => {
                assert_eq!(packet.id, S_ECHO, "{packet:?}");
                let_in += 1;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    let took = began.elapsed().as_secs_f64();
    assert!(let_in >= 4, "{let_in} in {took} s");
    assert!(
        f64::from(let_in) <= 5.0 + 2.0 * took,
        "{let_in} in {took} s"
    );
    assert!(
        time_to_get_in(&server) < DEADLINE,
        "another address has its own budget"
    );
    server.wait_for_line("connections over max_connects_per_ip_per_sec: 1 closed");
}
