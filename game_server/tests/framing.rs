//! Danger: bytes do not come as packets. They come one at a time, many packets at once, cut
//! anywhere, and with size fields that lie.

// A failed unwrap is a failed test, also in its helpers.
#![allow(clippy::unwrap_used)]

mod util;

use std::io::Write;
use std::thread;
use util::*;

#[test]
fn one_byte_at_a_time() {
    let server = Server::start(&QUIET);
    let mut client = server.connect();
    for payload in [&b""[..], b"x", b"twenty bytes of text"] {
        for byte in packet(C_ECHO, payload) {
            client.send(&[byte]);
        }
        client.expect_echo(payload);
    }
}

#[test]
fn many_packets_in_one_write() {
    let server = Server::start(&QUIET);
    let mut client = server.connect();
    let payloads: Vec<Vec<u8>> = (0..300_usize).map(|n| vec![n as u8; n]).collect();
    let stream: Vec<u8> = payloads.iter().flat_map(|p| packet(C_ECHO, p)).collect();
    client.send(&stream);
    for payload in &payloads {
        client.expect_echo(payload);
    }
}

#[test]
fn a_stream_split_at_every_offset() {
    // One worker: when it has answered the witness, it has read what others sent before.
    let server = Server::start(&[&QUIET[..], &["--workers", "1"]].concat());
    let mut witness = server.join();
    let payloads: [&[u8]; 5] = [b"", b"a", b"some text", b"", &[0; 40]];
    let stream: Vec<u8> = payloads.iter().flat_map(|p| packet(C_ECHO, p)).collect();
    for offset in 0..=stream.len() {
        let mut client = server.join();
        let (front, back) = stream.split_at(offset);
        client.send(front);
        witness.echo(b"the front has been read");
        client.send(back);
        for payload in payloads {
            client.expect_echo(payload);
        }
    }
}

#[test]
fn a_thousand_randomly_cut_packets_come_back_in_order() {
    let mut random = random();
    let server = Server::start(&QUIET);
    let mut client = server.connect();
    let payloads: Vec<Vec<u8>> = (0..1000)
        .map(|_| {
            let longest = [8, 100, 3000][random.usize(..3)];
            let count = random.usize(..=longest);
            random_bytes(&mut random, count)
        })
        .collect();
    let stream: Vec<u8> = payloads.iter().flat_map(|p| packet(C_ECHO, p)).collect();
    let mut sender = client.sender();
    let sending = thread::spawn(move || {
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let longest = [3, 50, 5000][random.usize(..3)];
            let (piece, after) = rest.split_at(random.usize(1..=longest).min(rest.len()));
            sender.write_all(piece).unwrap();
            rest = after;
        }
    });
    for payload in &payloads {
        client.expect_echo(payload);
    }
    sending.join().unwrap();
}

#[test]
fn the_smallest_and_the_largest_packet() {
    let mut random = random();
    let server = Server::start(&QUIET);
    let mut client = server.connect();
    client.echo(b"");
    let largest = random_bytes(&mut random, 65_531);
    let bytes = packet(C_ECHO, &largest);
    assert_eq!((bytes.len(), &bytes[..2]), (65_535, &[0xff, 0xff][..]));
    for _ in 0..5 {
        client.echo(&largest);
        client.echo(b"");
    }
}

#[test]
fn every_byte_value_survives() {
    let server = Server::start(&QUIET);
    let mut client = server.connect();
    let all: Vec<u8> = (0..=255).collect();
    client.echo(&all);
    for byte in 0..=255 {
        client.echo(&[byte; 5]);
    }
    // A payload that looks like packets is still one payload.
    let nested = packet(C_ECHO, &packet(C_CHAT, b"hello"));
    client.echo(&nested);
}

#[test]
fn a_size_below_the_header_is_kicked() {
    let server = Server::start(&QUIET);
    for size in 0..4 {
        let mut client = server.connect();
        client.send(&header(size, C_ECHO));
        client.expect_bye(1);
    }
    // The id does not matter, and more bytes behind it do not either.
    for id in [0, C_CHAT, u16::MAX] {
        let mut client = server.connect();
        client.send(&header(0, id));
        client.send(&[0; 100]);
        client.expect_bye(1);
    }
    server.join();
}

#[test]
fn above_max_packet_bytes_is_kicked_by_its_header() {
    let server = Server::start(&[&QUIET[..], &["--max-packet-bytes", "100"]].concat());
    let mut client = server.connect();
    client.echo(&[7; 96]);
    // The claim is enough: nobody waits for the body.
    client.send(&header(101, C_ECHO));
    client.expect_bye(2);
    let mut client = server.connect();
    client.send(&header(u16::MAX, C_ECHO));
    client.expect_bye(2);
}

#[test]
fn everything_before_an_offence_is_answered_and_nothing_behind_it() {
    let server = Server::start(&QUIET);
    let mut witness = server.join();
    let offences: [(u16, Vec<u8>); 4] = [
        (1, header(3, C_ECHO).to_vec()),
        (3, packet(0x1234, b"what?")),
        (4, packet(C_CHAT, b"")),
        (4, packet(C_CHAT, &[0xff, 0xfe])),
    ];
    for (code, offence) in offences {
        let mut client = server.connect();
        let mut stream: Vec<u8> = (0..50_u8).flat_map(|n| packet(C_ECHO, &[n])).collect();
        stream.extend_from_slice(&offence);
        stream.extend(packet(C_ECHO, b"behind"));
        stream.extend(packet(C_CHAT, b"nobody may hear this"));
        client.send(&stream);
        for n in 0..50_u8 {
            client.expect_echo(&[n]);
        }
        client.expect_bye(code);
    }
    // Had a chat behind an offence been handled, it would have come before this.
    witness.echo(b"nothing else came");
}
