//! Danger: a peer that is thrown out and not told why, an offence that is counted wrong, and a log
//! that a peer can fill, or write its own lines into.

// A failed unwrap is a failed test, also in its helpers.
#![allow(clippy::unwrap_used)]

mod util;

use socket2::SockRef;
use std::net::Shutdown;
use util::*;

/// What earns each code, and the label in log and metrics.
fn offences() -> Vec<(u16, &'static str, Vec<u8>)> {
    vec![
        (1, "bad_size", header(3, C_ECHO).to_vec()),
        (2, "too_large", header(4097, C_ECHO).to_vec()),
        (3, "unknown_id", packet(S_HELLO, b"I am the server")),
        (4, "bad_payload", packet(C_CHAT, &[0xc3, 0x28])),
        (5, "packet_timeout", header(100, C_ECHO).to_vec()),
        (7, "rate_limit", packet(C_ECHO, b"").repeat(400)),
        (8, "chat_flood", packet(C_CHAT, b"spam").repeat(50)),
    ]
}

/// Every reason but `slow_consumer`, which cannot be told. The offender reads late: after the
/// server has done all that it is going to do.
#[test]
fn every_reason_reaches_a_peer_that_reads() {
    let mut server = Server::start(&[&QUIET[..], &STRICT, &["--max-sessions", "30"]].concat());
    let mut stays = server.join();
    let mut texts = Vec::new();
    for (code, label, bytes) in offences() {
        let mut offender = server.join();
        offender.send(&bytes);
        server.wait_for_line(&format!("left: {label} "));
        let (got, text) = offender.read_to_bye();
        assert_eq!(got, code, "{text}");
        texts.push(text);
    }
    // Those who were kicked give their places back within the linger time.
    let mut told = Vec::new();
    let (code, text) = loop {
        assert!(told.len() <= 30);
        let mut next = server.connect();
        next.send(&packet(C_ECHO, b"is there room?"));
        let answer = next.next_but_hello();
        if answer.id == S_BYE {
            next.expect_eof();
            break split_bye(&answer);
        }
        told.push(next);
    };
    assert_eq!(code, 9, "{text}");
    texts.push(text);
    server.wait_for_line("turned away: server_full ");

    // It has heard the chats that the flooder's budget allowed.
    stays.send(&packet(C_ECHO, b"not disturbed"));
    while stays.next().id != S_ECHO {}
    told.push(stays);
    server.signal("TERM");
    for mut client in told {
        let (code, text) = client.read_to_bye();
        assert_eq!(code, 10, "{text}");
        texts.push(text);
    }
    assert_eq!(server.wait_for_exit().code(), Some(0));
    texts.sort();
    texts.dedup();
    assert_eq!(
        texts.len(),
        9,
        "each reason has words of its own: {texts:?}"
    );
    for (_, label, _) in offences() {
        assert_eq!(departures(&server.lines(), label), 1, "{label}");
    }
}

/// What comes back before the goodbye is what was asked before the offence, also when the offender
/// has shut its own side already.
#[test]
fn a_reason_reaches_a_peer_that_has_half_closed() {
    let server = Server::start(&[&QUIET[..], &STRICT].concat());
    for (code, _, bytes) in offences().into_iter().filter(|(code, ..)| *code < 5) {
        let mut offender = server.join();
        offender.send(&[packet(C_ECHO, b"before"), bytes].concat());
        let _ = offender.stream.shutdown(Shutdown::Write);
        offender.expect_echo(b"before");
        assert_eq!(offender.read_to_bye().0, code);
    }
}

// ---- counted exactly, said seldom --------------------------------------------------------------

/// Thousands of bad connections of every kind in turn: a few lines, and no one is forgotten.
#[test]
fn ten_thousand_bad_connections_are_at_most_twenty_lines() {
    const EACH: u64 = 2_000;
    let flags = ["--max-packet-bytes", "4096", "--stats-interval-secs", "0"];
    let mut server = Server::start(&[&QUIET[..], &flags].concat());
    let before = server.lines().len();
    let kinds = [
        ("bad_size", header(0, 0).to_vec()),
        ("too_large", header(5000, C_ECHO).to_vec()),
        ("unknown_id", header(4, 77).to_vec()),
        ("bad_payload", header(4, C_CHAT).to_vec()),
        ("chat_flood", packet(C_CHAT, b"spam").repeat(40)),
    ];
    for _ in 0..EACH {
        for (_, bytes) in &kinds {
            let mut client = server.connect();
            client.send(bytes);
            client.read_to_bye();
        }
    }
    server.signal("TERM");
    assert_eq!(server.wait_for_exit().code(), Some(0));
    let lines = &server.lines()[before..];
    for (label, _) in &kinds {
        assert_eq!(departures(lines, label), EACH, "{label}");
    }
    let about_peers = (lines.iter())
        .filter(|line| line.contains("left: ") || line.contains(" more "))
        .count();
    assert!(about_peers <= 20, "{about_peers} lines: {lines:#?}");
}

#[test]
fn two_thousand_rejected_are_a_few_lines_and_counted() {
    let mut server = Server::start(&[&QUIET[..], &["--max-sessions", "1"]].concat());
    let mut first = server.join();
    for _ in 0..2_000 {
        let (code, _) = server.connect().read_to_bye();
        assert_eq!(code, 9);
    }
    first.echo(b"not disturbed");
    server.signal("TERM");
    assert_eq!(server.wait_for_exit().code(), Some(0));
    let lines = server.lines();
    assert_eq!(departures(&lines, "server_full"), 2_000);
    let said = lines.iter().filter(|line| line.contains("server_full"));
    assert!(said.count() <= 20);
}

/// No byte of a peer's is in the log, at any level: it could be a line of its own, or a command to
/// the terminal that shows it.
#[test]
fn the_log_has_no_bytes_of_a_peer() {
    const MARK: &str = "Xy7qPeerBytes";
    let env = [("RUST_LOG", "trace")];
    let server = Server::start_with_env(&[&QUIET[..], &STRICT].concat(), &env);
    let evil = format!("\n[2000-01-01T00:00:00Z ERROR] {MARK}\x1b[2J\x07").into_bytes();
    let mut client = server.join();
    client.send(&packet(C_CHAT, &evil));
    let chat = client.next_but_hello();
    assert_eq!((chat.id, &chat.payload[8..]), (S_CHAT, &evil[..]));
    // It is the only one.
    client.echo(b"done");
    for bytes in [
        packet(0x5859, &evil),
        packet(C_CHAT, &[&evil[..], &[0xff]].concat()),
        evil.clone(),
        [&header(2, 0x1b0a)[..], &evil].concat(),
        [&header(4000, C_ECHO)[..], &evil].concat(),
    ] {
        let mut offender = server.join();
        offender.send(&bytes);
        offender.read_to_bye();
    }
    for line in server.lines() {
        assert!(!line.contains(MARK), "{line}");
        assert!(
            line.chars().all(|c| c == ' ' || c.is_ascii_graphic()),
            "{line:?}"
        );
    }
}

// ---- urgent data --------------------------------------------------------------------------------

/// A byte of urgent data is neither an offence nor part of the stream, wherever it is put in.
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
    // Alone, and with nothing around it.
    SockRef::from(&client.stream)
        .send_out_of_band(&[0xff])
        .unwrap();
    client.echo(b"still here");
    assert!(!server.lines().iter().any(|line| line.contains("left: ")));
}

// ---- any bytes at all ---------------------------------------------------------------------------

/// Three hundred streams of random bytes, several at a time, beside a canary that must not miss a
/// tick. The seed is printed; `TEST_SEED` brings it back.
#[test]
fn three_hundred_random_streams_cost_the_canary_nothing() {
    let mut random = random();
    let mut server = Server::start(&[
        "--tick-ms",
        "10",
        "--packet-timeout-ms",
        "300",
        "--stats-interval-secs",
        "0.05",
    ]);
    let mut canary = server.join();
    assert_eq!(canary.next_hello().1, b"Hello World");
    let canary = TickReader::start(canary);
    for _ in 0..30 {
        let mut streams: Vec<Client> = (0..10).map(|_| server.connect()).collect();
        for client in &mut streams {
            let count = 1 << random.usize(..14);
            let bytes = random_bytes(&mut random, count);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(random.usize(1..=rest.len()));
                // The server may have closed by now, as it should.
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
            // Each one ends: by its goodbye, by its own end, or by a reset after noise.
            let mut ends = false;
            while !ends {
                ends = !matches!(client.try_next(), Ok(Some(_)));
            }
        }
    }
    // A second's worth at the least.
    canary.stop_after(100);
    wait_until("all to have left", DEADLINE, || {
        let lines = server.lines();
        lines.iter().rev().find_map(|line| stat(line, "sessions")) == Some(0)
    });
    assert!(server.is_running());
    assert!(!server.lines().iter().any(|line| line.contains("panicked")));
}
