//! The packets of tests in which sessions get ticks and the chats of others.

use bytemuck::{Pod, Zeroable};
use server_core::PacketHead;
use server_core::testing::packet;
use server_core::wire::U64Le;

/// The id of a chat that a peer sends.
const CHAT: u16 = 4;
const CHAT_BYTES: usize = 512;

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(transparent)]
pub struct STick(pub U64Le);
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(transparent)]
pub struct SChat(pub [u8; 0]);

impl PacketHead for STick {
    const ID: u16 = 1;
}
impl PacketHead for SChat {
    const ID: u16 = 5;
}

/// A chat that a peer sends.
pub fn chat_bytes() -> Vec<u8> {
    packet(CHAT, [b'x'; CHAT_BYTES])
}
