//! `S_BYE`: every reason of a kick reaches a peer that reads, with its code and its text.

use crate::util::*;
use std::net::Shutdown;

/// For each kick: its code, its label in log and metrics, and bytes that cause it.
fn kicks() -> Vec<(u16, &'static str, Vec<u8>)> {
    vec![
        (1, "bad_size", header(3, C_ECHO).to_vec()),
        (2, "too_large", header(4097, C_ECHO).to_vec()),
        (3, "unknown_id", packet(S_HELLO, b"I am the server")),
        (4, "bad_payload", packet(C_CHAT, [0xc3, 0x28])),
        (5, "packet_timeout", header(100, C_ECHO).to_vec()),
        (7, "rate_limit", packet(C_ECHO, b"").repeat(400)),
        (8, "chat_flood", packet(C_CHAT, b"spam").repeat(50)),
    ]
}

/// Every reason but `slow_consumer`, which cannot reach its peer. The peer reads late: after the server has
/// logged the disconnect.
#[test]
fn every_reason_reaches_a_peer_that_reads() {
    let mut server = Server::start(&[&QUIET[..], &STRICT, &["--max-sessions", "30"]].concat());
    let mut stays = server.join();
    let mut texts = Vec::new();
    for (code, label, bytes) in kicks() {
        let mut peer = server.join();
        peer.send(&bytes);
        server.wait_for_line(&format!("left: {label} "));
        let (got, text) = peer.read_to_bye();
        assert_eq!(got, code, "{text}");
        texts.push(text);
    }
    // A kicked session frees its place within the linger time.
    let mut inside = Vec::new();
    let (code, text) = loop {
        assert!(inside.len() <= 30);
        let mut next = server.connect();
        next.send(&packet(C_ECHO, b"is there room?"));
        let answer = next.next_but_hello();
        if answer.id == S_BYE {
            next.expect_eof();
            break split_bye(&answer);
        }
        inside.push(next);
    };
    assert_eq!(code, 9, "{text}");
    texts.push(text);
    server.wait_for_line("rejected: server_full ");

    // It has received the chats that the limit of the flooding session allowed.
    stays.send(&packet(C_ECHO, b"not disturbed"));
    while stays.next().id != S_ECHO {}
    inside.push(stays);
    server.signal("TERM");
    for mut client in inside {
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
    for (_, label, _) in kicks() {
        assert_eq!(logged_disconnects(&server.lines(), label), 1, "{label}");
    }
}

/// Requests before an invalid packet are answered before the `S_BYE`, also when the peer has closed its
/// sending direction.
#[test]
fn every_reason_reaches_a_half_closed_peer() {
    let server = Server::start(&[&QUIET[..], &STRICT].concat());
    for (code, _, bytes) in kicks().into_iter().filter(|(code, ..)| *code < 5) {
        let mut peer = server.join();
        peer.send(&[packet(C_ECHO, b"before"), bytes].concat());
        let _ = peer.stream.shutdown(Shutdown::Write);
        peer.expect_echo(b"before");
        assert_eq!(peer.read_to_bye().0, code);
    }
}

/// A close with unread input resets the connection, and a reset destroys what the peer has not read. The
/// `S_BYE` is there for a peer that reads after the server has closed.
#[test]
fn kick_with_unread_input_delivers_its_reason() {
    let server = Server::start_quiet(&[]);
    let idle_fds = server.resting_fds();
    let mut late = server.connect();
    late.send(&packet(C_ECHO, b"an answer"));
    late.expect_echo(b"an answer");
    late.send(&packet(C_ECHO, b"another answer"));
    late.send(&[&header(0, 0)[..], &[0; 200_000]].concat());
    server.wait_for_line("left: bad_size");
    wait_until("the server to close", DEADLINE, || {
        server.open_fds() <= idle_fds
    });
    late.expect_echo(b"another answer");
    late.expect_bye(1);
}
