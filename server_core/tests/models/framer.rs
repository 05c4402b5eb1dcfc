//! A framer that is fed in pieces, compared with a simple model.

use server_core::Kick;
use server_core::framer::Framer;
use server_core::testing::packet;

pub type Packets = Vec<(u16, Vec<u8>)>;

pub fn on_the_wire(packets: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let packets = packets.iter().map(|(id, payload)| packet(*id, payload));
    packets.collect::<Vec<_>>().concat()
}

/// Feeds `bytes` in pieces of these sizes, which are repeated, and checks what holds after each piece.
pub fn feed(bytes: &[u8], cuts: &[usize], max_packet_bytes: usize) -> (Packets, Option<Kick>) {
    let mut framer = Framer::default();
    let (mut packets, mut fed, mut used) = (Packets::new(), 0, 0);
    let mut cuts = cuts.iter().cycle();
    while fed < bytes.len() {
        let end = bytes.len().min(fed + cuts.next().unwrap());
        let mut input = &bytes[fed..end];
        fed = end;
        let calls_at_most = input.len() / 4 + 2;
        let mut calls = 0;
        loop {
            calls += 1;
            assert!(calls <= calls_at_most, "the framer goes round and round");
            match framer.next_packet(&mut input, max_packet_bytes) {
                Ok(Some(packet)) => {
                    used += packet.size();
                    packets.push((packet.id(), packet.payload().to_vec()));
                }
                Ok(None) => break,
                Err(kick) => return (packets, Some(kick)),
            }
        }
        assert!(input.is_empty());
        let waiting = fed - used;
        assert_eq!(framer.is_mid_packet(), waiting > 0);
        // A `Vec` doubles its memory, and its first memory is eight bytes.
        let at_most = (2 * waiting).max(8) * usize::from(waiting > 0);
        assert!(
            framer.reserved_bytes() <= at_most,
            "{} bytes of memory for {waiting} that came",
            framer.reserved_bytes()
        );
    }
    (packets, None)
}

/// The model of the framer: it reads all bytes at once, by index.
pub fn by_the_book(bytes: &[u8], max_packet_bytes: usize) -> (Vec<(u16, &[u8])>, Option<Kick>) {
    let (mut packets, mut at) = (Vec::new(), 0);
    while at + 4 <= bytes.len() {
        let number = |at: usize| u16::from(bytes[at]) | u16::from(bytes[at + 1]) << 8;
        let size = usize::from(number(at));
        if size < 4 {
            return (packets, Some(Kick::BadSize));
        }
        if size > max_packet_bytes {
            return (packets, Some(Kick::TooLarge));
        }
        if at + size > bytes.len() {
            break;
        }
        packets.push((number(at + 2), &bytes[at + 4..at + size]));
        at += size;
    }
    (packets, None)
}

/// Checks that the framer returns the same packets as the model for these cuts, up to the same first offence.
pub fn check(bytes: &[u8], cuts: &[usize], max_packet_bytes: usize) {
    let (expected, expected_kick) = by_the_book(bytes, max_packet_bytes);
    let (seen, kick) = feed(bytes, cuts, max_packet_bytes);
    assert_eq!(kick, expected_kick);
    assert!(are_same(&seen, &expected), "other packets came out");
}

pub fn are_same(seen: &[(u16, Vec<u8>)], expected: &[(u16, &[u8])]) -> bool {
    let seen = seen.iter().map(|(id, payload)| (*id, &payload[..]));
    seen.eq(expected.iter().copied())
}
