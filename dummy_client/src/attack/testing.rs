//! A protocol for unit tests.

use super::protocol::Protocol;
use server_core::Packet;
use std::borrow::Cow;

/// Packet 1 is a tick of 8 bytes; packet [`CLOSE`](Self::CLOSE) is a close message.
pub(super) struct TestProtocol;

impl TestProtocol {
    pub const TICK: u16 = 1;
    pub const CLOSE: u16 = 2;
    pub const ANSWER: u16 = 3;
    pub const FULL: u16 = 100;
    pub const SHUTDOWN: u16 = 101;
}

impl Protocol for TestProtocol {
    fn close_reason(&self, packet: Packet<'_>) -> Option<u16> {
        let code = packet.payload().first_chunk().copied();
        code.filter(|_| packet.id() == Self::CLOSE)
            .map(u16::from_le_bytes)
    }

    fn reason_label(&self, code: u16) -> Cow<'static, str> {
        format!("reason {code}").into()
    }

    fn is_full(&self, code: u16) -> bool {
        code == Self::FULL
    }

    fn is_shutdown(&self, code: u16) -> bool {
        code == Self::SHUTDOWN
    }

    fn tick(&self, packet: Packet<'_>) -> Option<u64> {
        let number = packet.payload().first_chunk().copied();
        number
            .filter(|_| packet.id() == Self::TICK)
            .map(u64::from_le_bytes)
    }

    fn is_malformed(&self, packet: Packet<'_>) -> bool {
        packet.id() == Self::TICK && self.tick(packet).is_none()
    }

    fn newcomer_request(&self) -> Vec<u8> {
        server_core::testing::packet(Self::ANSWER, b"hi")
    }

    fn is_newcomer_answer(&self, packet: Packet<'_>) -> bool {
        packet.id() == Self::ANSWER
    }
}
