//! The packets of this game, ids 1 to 6.
//!
//! | id | name | way | payload |
//! |---|---|---|---|
//! | 1 | [`SHello`] | S→C, every tick, to all | `u64` tick, then UTF-8 text, zero-padded |
//! | 2 | [`C_ECHO`] | C→S | any bytes |
//! | 3 | [`SEcho`] | S→C | the same bytes back |
//! | 4 | [`C_CHAT`] | C→S | UTF-8 text, 1 to 512 bytes |
//! | 5 | [`SChat`] | S→C, to all | `u64` session id of the sender, then the text |
//! | 6 | [`SBye`] | S→C, the last one | `u16` reason code, then UTF-8 text |

use bytemuck::{Pod, Zeroable};
use server_core::wire::{U16Le, U64Le};
use server_core::{Kick, Packet, PacketHead, SessionId};

/// Client to server: any bytes, to be sent back.
pub const C_ECHO: u16 = 2;
/// Client to server: a line of text for everybody.
pub const C_CHAT: u16 = 4;
/// The longest chat text, in bytes.
pub const MAX_CHAT_BYTES: usize = 512;

macro_rules! heads {
    ($($(#[$doc:meta])* $id:literal => $name:ident $({ $($(#[$field_doc:meta])* $field:ident: $type:ty),* })?;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Pod, Zeroable)]
        #[repr(C)]
        pub struct $name $({ $($(#[$field_doc])* pub $field: $type),* })?

        impl PacketHead for $name {
            const ID: u16 = $id;
        }
    )*};
}

heads! {
    /// Server to client, every tick. The tail is the text, then zeros.
    1 => SHello {
        /// 1 for the first tick, and one more for each.
        tick: U64Le
    };
    /// Client to server, by the load client. The tail is what comes back.
    2 => CEcho {};
    /// Server to client: what [`C_ECHO`] brought.
    3 => SEcho {};
    /// Client to server, by the load client. The tail is the text.
    4 => CChat {};
    /// Server to client: what somebody said. The tail is the text.
    5 => SChat {
        /// The session that said it.
        sender: U64Le
    };
    /// Server to client, the last packet of a session that the server ends. The tail says why.
    6 => SBye {
        /// The code of the reason; see [`server_core::DisconnectReason::code`].
        reason: U16Le
    };
}

impl SHello {
    /// The hello of this tick.
    #[must_use]
    pub const fn at(tick: u64) -> Self {
        Self {
            tick: U64Le::new(tick),
        }
    }
}

impl From<SessionId> for SChat {
    fn from(sender: SessionId) -> Self {
        Self {
            sender: sender.to_u64().into(),
        }
    }
}

/// The text of a chat packet.
///
/// # Errors
/// [`Kick::BadPayload`] if it is empty, above [`MAX_CHAT_BYTES`], or not UTF-8.
pub fn chat_text(packet: Packet<'_>) -> Result<&str, Kick> {
    match packet.payload().len() {
        1..=MAX_CHAT_BYTES => packet.text(),
        _ => Err(Kick::BadPayload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_have_the_bytes_of_the_wire() {
        assert_eq!(
            bytemuck::bytes_of(&SHello::at(0x0102)),
            [2, 1, 0, 0, 0, 0, 0, 0]
        );
        let sender = SessionId::new(1, 0, 5);
        assert_eq!(
            bytemuck::bytes_of(&SChat::from(sender)),
            [5, 0, 0, 0, 1, 0, 0, 0]
        );
        assert_eq!(bytemuck::bytes_of(&SBye { reason: 10.into() }), [10, 0]);
        assert_eq!(size_of::<SEcho>(), 0);
        let ids = [
            SHello::ID,
            CEcho::ID,
            SEcho::ID,
            CChat::ID,
            SChat::ID,
            SBye::ID,
        ];
        assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
        assert_eq!((C_ECHO, C_CHAT), (CEcho::ID, CChat::ID));
    }

    #[test]
    fn chat_is_1_to_512_bytes_of_utf8() {
        let check = |payload: &[u8]| chat_text(Packet::new(C_CHAT, payload)).map(str::len);
        assert_eq!(check(b""), Err(Kick::BadPayload));
        assert_eq!(check(b"a"), Ok(1));
        assert_eq!(check(&[b'a'; 512]), Ok(512));
        assert_eq!(check(&[b'a'; 513]), Err(Kick::BadPayload));
        assert_eq!(check(&[0xc3, 0x28]), Err(Kick::BadPayload));
    }
}
