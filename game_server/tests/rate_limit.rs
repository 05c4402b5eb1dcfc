//! Rate limits: packets and chats of a session, and chats and connects of an address.

use crate::util::*;
use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

// ---- of a session -------------------------------------------------------------------------------

#[test]
fn rate_limit_exceeded_closes_session() {
    let server = Server::start_quiet(&["--max-packets-per-sec", "50"]);
    let mut patient = server.join();
    let mut client = server.connect();
    let flood: Vec<u8> = (0..1000_u32)
        .flat_map(|n| packet(C_ECHO, n.to_le_bytes()))
        .collect();
    client.send(&flood);
    let mut answers = 0_u32;
    let last = loop {
        let packet = client.next_but_hello();
        if packet.id != S_ECHO {
            break packet;
        }
        assert_eq!(packet.payload, answers.to_le_bytes());
        answers += 1;
    };
    assert_bye(&last, 7);
    client.expect_eof();
    assert!((100..200).contains(&answers), "{answers} of a burst of 100");
    patient.echo(b"has a budget of its own");
}

#[test]
fn chat_limit_exceeded_closes_session_after_its_burst() {
    let server = Server::start_quiet(&["--max-chats-per-sec", "2"]);
    let mut witness = server.join();
    let mut client = server.connect();
    let flood: Vec<u8> = (0..40).flat_map(|_| packet(C_CHAT, b"spam")).collect();
    client.send(&flood);
    let mut heard = 0;
    let last = loop {
        let packet = client.next_but_hello();
        if packet.id != S_CHAT {
            break packet;
        }
        heard += 1;
    };
    assert_bye(&last, 8);
    client.expect_eof();
    // A burst of twice the rate; more only on a slow machine.
    assert!((4..=6).contains(&heard), "{heard} chats went through");
    for _ in 0..heard {
        assert_eq!(witness.next_chat().1, "spam");
    }
    witness.echo(b"no more than that");
}

#[test]
fn chat_limit_is_on_by_default_and_off_at_0() {
    let flood: Vec<u8> = (0..200).flat_map(|_| packet(C_CHAT, b"spam")).collect();
    let server = Server::start_quiet(&[]);
    let mut client = server.connect();
    client.send(&flood);
    let last = loop {
        let packet = client.next_but_hello();
        if packet.id != S_CHAT {
            break packet;
        }
    };
    assert_bye(&last, 8);

    let server = Server::start_quiet(&["--max-chats-per-sec", "0"]);
    let mut client = server.connect();
    client.send(&flood);
    for _ in 0..200 {
        assert_eq!(client.next_chat().1, "spam");
    }
}

// ---- of an address ------------------------------------------------------------------------------

/// Clients of one address send the burst that a session may send, and reconnect: the limit of the address
/// holds.
#[test]
fn reconnect_does_not_reset_the_chat_limit_of_an_address() {
    let server = Server::start_quiet(&[]);
    let mut witness = Client::connect_from([127, 0, 0, 3], server.addr);
    witness.echo(b"ready?");
    let mut neighbour = server.join();
    let began = Instant::now();
    let burst = packet(C_CHAT, b"spam").repeat(20);
    for _ in 0..30 {
        let mut client = server.connect();
        client.send(&burst);
        // Within the limit of its session: not kicked, and its echoes are answered.
        client.send(&packet(C_ECHO, b"done"));
        while client.next_but_hello().id != S_ECHO {}
    }
    neighbour.send(&packet(C_ECHO, b"I pay nothing"));
    while neighbour.next_but_hello().id != S_ECHO {}
    let took = began.elapsed().as_secs_f64();
    // The address of the witness has its own limit, and its chat comes behind all others.
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
    // 40 a second, and a burst of twice as many.
    let allowed = 80.0 + 40.0 * took + 1.0;
    assert!(heard >= 80, "{heard} chats in {took} s");
    assert!(f64::from(heard) <= allowed, "{heard} chats in {took} s");
    server.wait_for_line(" dropped, the last from 127.0.0.1");
    assert_eq!(logged_disconnects(&server.lines(), "chat_flood"), 0);
}

/// Chats over the limit of the address arrive later, complete and in order, and delay no other packet.
#[test]
fn chats_over_the_limit_of_an_address_are_delayed_in_order() {
    let server = Server::start_quiet(&["--max-chats-per-ip-per-sec", "7"]);
    let mut client = server.join();
    let began = Instant::now();
    let chats = (0..20_u8).flat_map(|number| packet(C_CHAT, [b'a' + number]));
    // In one write: the server reads the echo together with the chats.
    client.send(&chats.chain(packet(C_ECHO, b"at once")).collect::<Vec<u8>>());
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
    // 14 are its burst; the other six come at seven a second.
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(815), "{took:?}");
}

#[test]
fn chat_limit_of_an_address_is_off_at_0() {
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
fn connect_limit_exceeded_closes_connection_without_a_packet() {
    let server = Server::start_quiet(&["--max-connects-per-ip-per-sec", "2"]);
    let began = Instant::now();
    let mut let_in = 0;
    for _ in 0..40 {
        let mut client = server.connect();
        // Fails once the server has closed the connection.
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
        admission_time(&server) < DEADLINE,
        "another address has its own budget"
    );
    server.wait_for_line("connections over max_connects_per_ip_per_sec: 1 closed");
}
