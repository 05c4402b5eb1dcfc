//! The packets of this game, ids 1 to 9. Clients may send id 8 with `--login` alone.
//!
//! | id | name | direction | payload |
//! |---|---|---|---|
//! | 1 | [`SHello`] | S→C, every tick, to all | `u64` tick, then UTF-8 text, zero-padded |
//! | 2 | [`CEcho`] | C→S | any bytes |
//! | 3 | [`SEcho`] | S→C | the same bytes back |
//! | 4 | [`CChat`] | C→S | UTF-8 text, 1 to 512 bytes |
//! | 5 | [`SChat`] | S→C, to all | `u64` session id of the sender, then the text |
//! | 6 | [`SBye`] | S→C, the last packet | `u16` reason code, then UTF-8 text |
//! | 7 | [`SWorldChat`] | S→C, to all on the other nodes | `u32` node number, `u64` session id of the sender there, then the text |
//! | 8 | [`CLogin`] | C→S | UTF-8 name, 1 to 32 bytes |
//! | 9 | [`SLogin`] | S→C | `u8` answer, then a token of 16 bytes |

use server_core::{DisconnectReason, Kick, SessionId};

server_core::packets! {
    /// All packets of the game.
    pub const PACKETS;
    /// Every tick. Zeros follow a padded text.
    server 1 => pub SHello {
        /// 1 for the first tick, and 1 more for each further tick.
        tick: u64,
    } + text;
    /// Bytes for the server to send back.
    client 2 => pub CEcho + bytes;
    /// The bytes of a [`CEcho`].
    server 3 => pub SEcho + bytes;
    /// A line of text for all sessions.
    client 4 => pub CChat + text(1..=MAX_CHAT_BYTES);
    /// The text of a [`CChat`].
    server 5 => pub SChat {
        /// The session that sent the text.
        sender: u64,
    } + text;
    /// The last packet of a session that the server ends. The text is the reason.
    server 6 => pub SBye {
        /// The code of the reason; see [`server_core::DisconnectReason::code`].
        reason: u16,
    } + text;
    /// The text of a [`CChat`] that was said on another node.
    server 7 => pub SWorldChat {
        /// The number of the sender's node.
        node: u32,
        /// The session on that node.
        sender: u64,
    } + text;
    /// The name of an account.
    client 8 => pub CLogin + text(1..=MAX_NAME_BYTES);
    /// The answer to a [`CLogin`].
    server 9 => pub SLogin {
        /// 0: granted; 1: granted, and another session of the name ends; 2: granted without the broker.
        answer: u8,
        /// Zeros.
        token: [u8; 16],
    };
}

/// The id of [`CEcho`].
pub const C_ECHO: u16 = CEcho::ID;
/// The id of [`CChat`].
pub const C_CHAT: u16 = CChat::ID;
/// The longest name of an account, in bytes.
pub const MAX_NAME_BYTES: usize = 32;
/// The longest chat text, in bytes.
pub const MAX_CHAT_BYTES: usize = 512;

/// More chats than `--max-chats-per-sec`. Its code is older than the range that `server_core` leaves to
/// games, and no reason of the library has it.
pub const CHAT_FLOOD: Kick = Kick::Custom(8, "chat_flood");

/// The label of a code that [`SBye`] brings.
#[must_use]
pub fn label_of_code(code: u16) -> Option<&'static str> {
    if code == CHAT_FLOOD.code() {
        Some(CHAT_FLOOD.label())
    } else {
        DisconnectReason::label_of_code(code)
    }
}

impl From<SessionId> for SChat {
    fn from(sender: SessionId) -> Self {
        Self::new(sender.to_u64())
    }
}

impl SBye {
    /// The packet and text for a session that the server ends. `None`: the peer cannot receive a packet.
    #[must_use]
    pub fn close_message(reason: DisconnectReason, text: &str) -> Option<(Self, String)> {
        Some((Self::new(reason.code()?), text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use server_core::buffer::{ChunkPool, SendBufferManager};
    use server_core::{Packet, PacketHead};

    fn encoded(head: &impl PacketHead, tail: &str) -> Vec<u8> {
        let buffers = SendBufferManager::new(ChunkPool::new(4096, 1));
        buffers.encode(head, tail.as_bytes()).unwrap().to_vec()
    }

    #[test]
    fn packets_have_the_bytes_of_the_wire() {
        assert_eq!(
            encoded(&SHello::new(0x0102), "Hello"),
            b"\x11\0\x01\0\x02\x01\0\0\0\0\0\0Hello"
        );
        assert_eq!(encoded(&CEcho, "e"), b"\x05\0\x02\0e");
        assert_eq!(encoded(&SEcho, "e"), b"\x05\0\x03\0e");
        assert_eq!(encoded(&CChat, "hi"), b"\x06\0\x04\0hi");
        let sender = SessionId::new(1, 0, 5);
        assert_eq!(
            encoded(&SChat::from(sender), "hi"),
            b"\x0e\0\x05\0\x05\0\0\0\x01\0\0\0hi"
        );
        assert_eq!(encoded(&SBye::new(10), "over"), b"\x0a\0\x06\0\x0a\0over");
        let world_chat = SWorldChat::new(7, sender.to_u64());
        assert_eq!(
            encoded(&world_chat, "hi"),
            b"\x12\0\x07\0\x07\0\0\0\x05\0\0\0\x01\0\0\0hi"
        );
        assert_eq!(encoded(&CLogin, "ada"), b"\x07\0\x08\0ada");
        let login = SLogin {
            answer: 2,
            token: [0; 16],
        };
        assert_eq!(encoded(&login, "")[..5], *b"\x15\0\x09\0\x02");
        assert_eq!((C_ECHO, C_CHAT), (2, 4));
    }

    #[test]
    fn chat_is_1_to_512_bytes_of_utf8() {
        let check = |text: &[u8]| Packet::new(C_CHAT, text).decode::<CChat>().map(str::len);
        assert_eq!(check(b""), Err(Kick::BadPayload));
        assert_eq!(check(b"a"), Ok(1));
        assert_eq!(check(&[b'a'; 512]), Ok(512));
        assert_eq!(check(&[b'a'; 513]), Err(Kick::BadPayload));
        assert_eq!(check(&[0xc3, 0x28]), Err(Kick::BadPayload));
    }
}
