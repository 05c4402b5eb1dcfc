//! Packets that are cut or joined by the network.

use crate::util::recorder::{Event, builder, start};
use server_core::testing::RawPacket;

/// (lecture row 22)
#[test]
fn packets_sent_byte_by_byte_reach_the_handler_whole() {
    let running = start(builder());
    let (mut client, id) = running.connect();
    let bytes = [&[7, 0, 2, 0][..], b"abc", &[4, 0, 2, 0], &[5, 0, 2, 0, 9]].concat();
    for byte in bytes {
        client.send(&[byte]);
    }
    for payload in [&b"abc"[..], b"", &[9]] {
        assert_eq!(client.next_packet(), RawPacket::new(3, payload));
        assert!(matches!(running.next(), Event::Packet(of, _) if of == id));
    }
    assert_eq!(
        running.server.handle().metrics().totals().packets_received,
        3
    );
}

/// (lecture row 27)
#[test]
fn rest_of_a_read_is_joined_with_the_next_read() {
    let running = start(builder());
    let (mut client, _) = running.connect();
    client.send(&[6, 0, 2, 0, b'a', b'b', 6, 0]);
    assert_eq!(client.next_packet(), RawPacket::new(3, b"ab"));
    client.send(&[2, 0, b'c']);
    client.send(b"d");
    assert_eq!(client.next_packet(), RawPacket::new(3, b"cd"));
}
