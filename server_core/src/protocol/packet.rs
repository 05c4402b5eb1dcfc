//! One packet, as its receiver reads it and as its sender describes it.

use crate::base::id::SessionId;
use crate::base::reason::Kick;
use crate::base::wire::{HEADER_BYTES, U64Le};
use bytemuck::Pod;
use std::fmt;

/// A complete received packet: its id and its payload, borrowed from the receive buffer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    id: u16,
    payload: &'a [u8],
}

/// The fixed head of one kind of packet: the bytes between the header and the variable tail.
///
/// [`packets!`](crate::packets!) implements it. By hand, use `#[repr(C)]`, derive
/// [`Pod`](https://docs.rs/bytemuck/1/bytemuck/trait.Pod.html) and
/// [`Zeroable`](https://docs.rs/bytemuck/1/bytemuck/trait.Zeroable.html), and use the numbers of
/// [`wire`](crate::base::wire) as fields, so that the head has alignment 1 and no padding.
///
/// ```
/// use bytemuck::{Pod, Zeroable};
/// use server_core::{Packet, PacketHead, wire::U64Le};
///
/// #[derive(Clone, Copy, Pod, Zeroable)]
/// #[repr(C)]
/// struct SHello {
///     tick: U64Le,
/// }
/// impl PacketHead for SHello {
///     const ID: u16 = 1;
/// }
///
/// let packet = Packet::new(1, &[7, 0, 0, 0, 0, 0, 0, 0, b'h', b'i']);
/// let (hello, text) = packet.parse::<SHello>()?;
/// assert_eq!((hello.tick.get(), text), (7, b"hi".as_slice()));
/// # Ok::<(), server_core::Kick>(())
/// ```
pub trait PacketHead: Pod {
    /// The packet id.
    const ID: u16;
}

/// One kind of packet, as its receiver reads it. [`packets!`](crate::packets!) implements it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a packet that can be received",
    note = "define it in `packets!`"
)]
pub trait IncomingPacket {
    /// The packet id.
    const ID: u16;

    /// The decoded packet, borrowed from the payload where possible.
    type Body<'a>;

    /// Reads the whole payload.
    ///
    /// # Errors
    /// [`Kick::BadPayload`] if the payload is not exactly one that this kind of packet allows.
    fn decode(packet: Packet<'_>) -> Result<Self::Body<'_>, Kick>;
}

/// A direction in which a packet is sent: [`FromClient`] or [`FromServer`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a packet that comes `{D}`",
    note = "a server handles what clients send, `client` or `both` in `packets!`; a client handles `server` or `both`"
)]
pub trait Direction<D> {}

/// From a client to the server.
#[derive(Clone, Copy, Debug)]
pub enum FromClient {}

/// From the server to a client.
#[derive(Clone, Copy, Debug)]
pub enum FromServer {}

/// The size of a packet to send does not fit the `u16` of the size field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketTooLarge {
    /// Bytes that the whole packet would have.
    pub bytes: usize,
}

impl<'a> Packet<'a> {
    /// A packet with this id and payload.
    #[must_use]
    pub const fn new(id: u16, payload: &'a [u8]) -> Self {
        Self { id, payload }
    }

    /// The packet id, which defines the meaning of the payload.
    #[must_use]
    pub const fn id(&self) -> u16 {
        self.id
    }

    /// The bytes behind the header.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Bytes of the whole packet, header included.
    #[must_use]
    pub const fn size(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// Splits the payload into its fixed head and the tail behind it.
    ///
    /// # Errors
    /// [`Kick::BadPayload`] if the payload is shorter than the head.
    ///
    /// # Panics
    /// Never for a head of alignment 1, which the compiler checks.
    pub fn parse<H: PacketHead>(&self) -> Result<(&'a H, &'a [u8]), Kick> {
        const { assert!(align_of::<H>() == 1, "build packet heads of wire numbers") }
        let (head, tail) = self
            .payload
            .split_at_checked(size_of::<H>())
            .ok_or(Kick::BadPayload)?;
        Ok((bytemuck::from_bytes(head), tail))
    }

    /// Reads the payload as a head without a tail.
    ///
    /// # Errors
    /// [`Kick::BadPayload`] if the payload has any other length.
    pub fn parse_exact<H: PacketHead>(&self) -> Result<&'a H, Kick> {
        match self.parse()? {
            (head, []) => Ok(head),
            _ => Err(Kick::BadPayload),
        }
    }

    /// Reads the packet as one kind of packet.
    ///
    /// # Errors
    /// [`Kick::UnknownId`] if the packet is of another kind, [`Kick::BadPayload`] if its payload is not
    /// exactly one that this kind allows.
    pub fn decode<P: IncomingPacket>(self) -> Result<P::Body<'a>, Kick> {
        if self.id != P::ID {
            return Err(Kick::UnknownId);
        }
        P::decode(self)
    }

    /// Reads the whole payload as text.
    ///
    /// # Errors
    /// [`Kick::BadPayload`] if the payload is not UTF-8.
    pub fn text(&self) -> Result<&'a str, Kick> {
        std::str::from_utf8(self.payload).map_err(|_| Kick::BadPayload)
    }
}

/// Shows id and size only: the payload is the peer's and does not belong in a log.
impl fmt::Debug for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("id", &self.id)
            .field("size", &self.size())
            .finish()
    }
}

/// The session id as a field of a packet: `SMoved { player: ctx.id().into(), .. }`.
impl From<SessionId> for U64Le {
    fn from(id: SessionId) -> Self {
        Self::new(id.to_u64())
    }
}

impl fmt::Display for PacketTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a packet of {} bytes does not fit: the limit is {} bytes",
            self.bytes,
            crate::base::wire::MAX_PACKET_BYTES
        )
    }
}

impl std::error::Error for PacketTooLarge {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::wire::{U16Le, U32Le};
    use bytemuck::Zeroable;

    #[derive(Clone, Copy, Debug, Pod, Zeroable)]
    #[repr(C)]
    struct Move {
        x: U32Le,
        y: U16Le,
    }
    impl PacketHead for Move {
        const ID: u16 = 9;
    }

    #[test]
    fn lecture_44_a_body_is_checked_when_it_is_read() {
        let bytes = [1, 0, 0, 0, 2, 0, 3];
        for len in 0..6 {
            let packet = Packet::new(9, &bytes[..len]);
            assert_eq!(packet.parse::<Move>().unwrap_err(), Kick::BadPayload);
        }
        let exact = *Packet::new(9, &bytes[..6]).parse_exact::<Move>().unwrap();
        assert_eq!((exact.x.get(), exact.y.get()), (1, 2));
        let with_tail = Packet::new(9, &bytes);
        assert_eq!(with_tail.parse::<Move>().unwrap().1, [3]);
        assert_eq!(
            with_tail.parse_exact::<Move>().unwrap_err(),
            Kick::BadPayload
        );
    }

    #[test]
    fn a_session_on_the_wire_is_its_number() {
        let id = SessionId::new(5, 0, 9);
        let on_wire = U64Le::from(id);
        assert_eq!(on_wire.get(), 5 << 32 | 9);
        assert_eq!(SessionId::from_u64(on_wire.get()), id);
    }

    #[test]
    fn text_is_utf8_or_a_kick() {
        assert_eq!(Packet::new(4, "안녕".as_bytes()).text(), Ok("안녕"));
        assert_eq!(Packet::new(4, &[0xff]).text(), Err(Kick::BadPayload));
    }

    #[test]
    fn debug_keeps_the_payload_to_itself() {
        let shown = format!("{:?}", Packet::new(4, b"secret"));
        assert_eq!(shown, "Packet { id: 4, size: 10 }");
    }
}
