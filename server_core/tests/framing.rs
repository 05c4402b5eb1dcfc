//! Packets that are cut or joined by the network.
#![allow(clippy::unwrap_used)] // In a test, a panic is the report.

mod util;

use std::io::Write;
use util::recorder::{Event, builder, start};

#[test]
fn lecture_22_a_handler_sees_whole_packets_only_however_they_arrive() {
    let running = start(builder());
    let (mut client, id) = running.connect();
    let bytes = [&[7, 0, 2, 0][..], b"abc", &[4, 0, 2, 0], &[5, 0, 2, 0, 9]].concat();
    for byte in bytes {
        client.stream.write_all(&[byte]).unwrap();
    }
    for payload in [&b"abc"[..], b"", &[9]] {
        assert_eq!(client.receive(), Some((3, payload.to_vec())));
        assert!(matches!(running.next(), Event::Packet(of, _) if of == id));
    }
    assert_eq!(
        running.server.handle().metrics().totals().packets_received,
        3
    );
}

#[test]
fn lecture_27_bytes_behind_a_whole_packet_wait_for_the_rest_of_theirs() {
    let running = start(builder());
    let (mut client, _) = running.connect();
    client
        .stream
        .write_all(&[6, 0, 2, 0, b'a', b'b', 6, 0])
        .unwrap();
    assert_eq!(client.receive(), Some((3, b"ab".to_vec())));
    client.stream.write_all(&[2, 0, b'c']).unwrap();
    client.stream.write_all(b"d").unwrap();
    assert_eq!(client.receive(), Some((3, b"cd".to_vec())));
}
