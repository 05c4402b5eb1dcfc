//! Framing: bytes do not arrive as packets. They arrive one at a time, many packets at once, cut
//! anywhere, and with size fields that lie.

use crate::util::*;
use std::io::Write;
use std::thread;

const MIB: u64 = 1 << 20;

// ---- packets from bytes -------------------------------------------------------------------------

#[test]
fn packet_sent_byte_by_byte_is_answered() {
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
fn many_packets_in_one_write_are_all_answered() {
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
fn twenty_thousand_empty_packets_in_one_write_are_all_answered() {
    let server = Server::start(&QUIET);
    let mut client = server.connect();
    let mut sender = client.sender();
    let sending = thread::spawn(move || {
        sender
            .write_all(&packet(C_ECHO, b"").repeat(20_000))
            .unwrap()
    });
    for _ in 0..20_000 {
        client.expect_echo(b"");
    }
    sending.join().unwrap();
    client.echo(b"and no more");
}

#[test]
fn stream_split_at_every_offset_gives_the_same_packets() {
    // One worker: when it has answered the witness, it has read the bytes that came before.
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
fn randomly_cut_packets_are_answered_in_order() {
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
fn smallest_and_largest_packets_are_answered() {
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
fn payload_of_every_byte_value_is_unchanged() {
    let server = Server::start(&QUIET);
    let mut client = server.connect();
    let all: Vec<u8> = (0..=255).collect();
    client.echo(&all);
    for byte in 0..=255 {
        client.echo(&[byte; 5]);
    }
    // A payload that looks like packets is one payload.
    let nested = packet(C_ECHO, packet(C_CHAT, b"hello"));
    client.echo(&nested);
}

/// Row 12: the bytes behind a complete packet stay, and are joined with the next read.
#[test]
fn rest_of_a_read_is_joined_with_the_next_read() {
    let server = Server::start_quiet(&["--workers", "1"]);
    let (mut client, mut witness) = (server.join(), server.join());
    let (first, second) = (packet(C_ECHO, b"whole"), packet(C_ECHO, b"in three parts"));
    client.send(&[&first[..], &second[..3]].concat());
    client.expect_echo(b"whole");
    client.send(&second[3..10]);
    witness.echo(b"that has been read");
    client.send(&second[10..]);
    client.expect_echo(b"in three parts");
}

/// Row 14: the receiver knows where a packet ends. The server does not handle a packet one byte before its
/// end, and takes no byte behind it for a part of it.
#[test]
fn packet_is_handled_at_its_last_byte_and_not_before() {
    let server = Server::start_quiet(&["--workers", "1"]);
    let (mut client, mut witness) = (server.join(), server.join());
    let bytes = packet(C_CHAT, b"done");
    let (all_but_one, last) = bytes.split_at(bytes.len() - 1);
    client.send(all_but_one);
    // The one worker has read those bytes when it answers; a chat would come before the answer.
    witness.echo(b"nothing yet");
    client.send(&[last, &packet(C_CHAT, b"next")].concat());
    for one in [&mut client, &mut witness] {
        assert_eq!(one.next_chat().1, "done");
        assert_eq!(one.next_chat().1, "next");
    }
}

/// Row 18: packets of one id have many sizes.
#[test]
fn one_id_with_many_sizes_is_answered() {
    let server = Server::start_quiet(&[]);
    let mut client = server.connect();
    let sizes = [0, 1, 50, 100, 3, 1023, 1024, 1025, 5996, 6000, 65_531, 2];
    let payloads: Vec<Vec<u8>> = sizes.iter().map(|size| vec![*size as u8; *size]).collect();
    for payload in &payloads {
        client.send(&packet(C_ECHO, payload));
    }
    for payload in &payloads {
        client.expect_echo(payload);
    }
}

/// Row 19: size, id, data, repeated, with no byte in between.
#[test]
fn golden_stream_is_answered_without_gaps() {
    let server = Server::start_quiet(&[]);
    let mut client = server.connect();
    let sent = [
        &[6, 0, 2, 0, b'h', b'i'][..],
        &[4, 0, 2, 0],
        &[9, 0, 2, 0, 0, 255, 4, 0, 2],
        &[5, 0, 2, 0, b'!'],
    ];
    client.send(&sent.concat());
    let mut answer = sent.concat();
    let mut read = vec![0; answer.len()];
    std::io::Read::read_exact(&mut client.stream, &mut read).unwrap();
    // The answers differ from the requests in their ids alone: 3 for 2.
    for at in [2, 8, 12, 21] {
        answer[at] = 3;
    }
    assert_eq!(read, answer);
}

// ---- sizes that lie -----------------------------------------------------------------------------

#[test]
fn size_below_header_closes_session_with_bad_size() {
    let server = Server::start(&QUIET);
    for size in 0..4 {
        let mut client = server.connect();
        client.send(&header(size, C_ECHO));
        client.expect_bye(1);
    }
    // Neither the id nor bytes behind the header matter.
    for id in [0, C_CHAT, u16::MAX] {
        let mut client = server.connect();
        client.send(&header(0, id));
        client.send(&[0; 100]);
        client.expect_bye(1);
    }
    server.join();
}

#[test]
fn size_above_max_packet_bytes_closes_session_with_too_large() {
    let server = Server::start(&[&QUIET[..], &["--max-packet-bytes", "100"]].concat());
    let mut client = server.connect();
    client.echo(&[7; 96]);
    // The claim is enough: the server does not wait for the body.
    client.send(&header(101, C_ECHO));
    client.expect_bye(2);
    let mut client = server.connect();
    client.send(&header(u16::MAX, C_ECHO));
    client.expect_bye(2);
}

#[test]
fn packets_before_an_invalid_one_are_answered_and_none_behind_it() {
    let server = Server::start(&QUIET);
    let mut witness = server.join();
    let invalid: [(u16, Vec<u8>); 4] = [
        (1, header(3, C_ECHO).to_vec()),
        (3, packet(0x1234, b"what?")),
        (4, packet(C_CHAT, b"")),
        (4, packet(C_CHAT, [0xff, 0xfe])),
    ];
    for (code, bytes) in invalid {
        let mut client = server.connect();
        let mut stream: Vec<u8> = (0..50_u8).flat_map(|n| packet(C_ECHO, [n])).collect();
        stream.extend_from_slice(&bytes);
        stream.extend(packet(C_ECHO, b"behind"));
        stream.extend(packet(C_CHAT, b"no session receives this"));
        client.send(&stream);
        for n in 0..50_u8 {
            client.expect_echo(&[n]);
        }
        client.expect_bye(code);
    }
    // A chat behind an invalid packet would have come before this.
    witness.echo(b"nothing else came");
}

/// Row 43: a size field reserves no memory: 500 sessions that claim 65,535 bytes and send five cost what
/// they sent.
#[test]
fn claimed_sizes_reserve_no_memory() {
    let server = Server::start(&[&QUIET[..], &["--workers", "2"]].concat());
    // The server reads each piece by itself: both workers answer other sessions in between.
    let hold = |pieces: &[&[u8]]| -> Vec<Client> {
        let mut clients: Vec<Client> = (0..500).map(|_| server.join()).collect();
        for piece in pieces {
            clients.iter_mut().for_each(|client| client.send(piece));
            drop((0..4).map(|_| server.join()).collect::<Vec<_>>());
        }
        clients
    };
    let idle_fds = server.resting_fds();
    // Brings the memory to the size that 500 sessions with an unfinished packet need.
    drop(hold(&[&header(9, C_ECHO), &[1]]));
    wait_until("them to leave", DEADLINE, || server.open_fds() <= idle_fds);
    let before = server.data_bytes();
    let clients = hold(&[&header(u16::MAX, C_ECHO), &[1]]);
    // Not the resident memory: memory that is reserved and never touched is not resident.
    let grown = server.data_bytes().saturating_sub(before);
    // 500 times 65,535 bytes would be 32 MiB.
    assert!(grown < 4 * MIB, "{grown} bytes more");
    drop(clients);
    server.join();
}
