//! What an attack run has to know of a game's packets.

use server_core::Packet;
use std::borrow::Cow;

/// The packets of a game, as an attack run reads them.
pub trait Protocol: Send + Sync + 'static {
    /// The reason code of a close message: the last packet of a session that the server ends. `None`: the
    /// packet is not a close message.
    fn close_reason(&self, packet: Packet<'_>) -> Option<u16>;

    /// The name of a reason code, as the report has it.
    fn reason_label(&self, code: u16) -> Cow<'static, str>;

    /// Whether the server refuses a session with this code because it has no place left.
    fn is_full(&self, code: u16) -> bool;

    /// Whether the server ends a session with this code because it shuts down.
    fn is_shutdown(&self, code: u16) -> bool;

    /// The number of the tick that the packet brings, 1 more for each tick. `None`: the packet is not a tick.
    fn tick(&self, packet: Packet<'_>) -> Option<u64>;

    /// Whether a healthy session must not get this packet. The neighbours count it as a fault.
    fn is_malformed(&self, packet: Packet<'_>) -> bool {
        let _ = packet;
        false
    }

    /// The bytes that a neighbour (0, 1, 2 ...) sends when it is connected: its login, in a game that sends ticks behind
    /// it. Default: none
    fn neighbour_login(&self, neighbour: usize) -> Vec<u8> {
        let _ = neighbour;
        Vec::new()
    }

    /// The bytes that a newcomer sends: complete packets, the last of which asks for an answer.
    fn newcomer_request(&self) -> Vec<u8>;

    /// Whether this packet answers [`newcomer_request`](Self::newcomer_request).
    fn is_newcomer_answer(&self, packet: Packet<'_>) -> bool;
}
