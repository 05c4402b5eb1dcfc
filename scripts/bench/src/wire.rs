//! Writes the packets of the rivals. `game_server/PROTOCOL.md` describes the protocol.

/// `u16` size, `u16` id.
pub const HEADER_BYTES: usize = 4;
/// Server to client, each tick.
pub const S_HELLO: u16 = 1;
/// Client to server.
pub const C_ECHO: u16 = 2;
/// Server to client, the same bytes.
pub const S_ECHO: u16 = 3;
/// Client to server.
pub const C_CHAT: u16 = 4;
/// Server to client, to every session.
pub const S_CHAT: u16 = 5;

/// Appends a packet: header, fixed head, tail. The packet must fit into 65,535 bytes.
pub fn append_packet(to: &mut Vec<u8>, id: u16, head: &[u8], tail: &[u8]) {
    let size = (HEADER_BYTES + head.len() + tail.len()) as u16;
    to.extend_from_slice(&size.to_le_bytes());
    to.extend_from_slice(&id.to_le_bytes());
    to.extend_from_slice(head);
    to.extend_from_slice(tail);
}

/// One packet.
#[must_use]
pub fn packet(id: u16, head: &[u8], tail: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + head.len() + tail.len());
    append_packet(&mut bytes, id, head, tail);
    bytes
}

/// The packets of one tick for every session: a hello, then chats of the same size up to `packets` packets.
/// The other packets are chats, because a session may get the number of a tick only once.
#[must_use]
pub fn tick_packets(tick: u64, tail: &[u8], packets: usize) -> Vec<Vec<u8>> {
    let mut all = vec![packet(S_HELLO, &tick.to_le_bytes(), tail)];
    all.resize_with(packets, || packet(S_CHAT, &NOBODY.to_le_bytes(), tail));
    all
}

/// The sender id of the server's own chats; no session has this id.
pub const NOBODY: u64 = 0;
