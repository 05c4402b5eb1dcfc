//! Packets as bytes: size (header included), id, payload, all numbers little-endian.
//!
//! The code shares no type with the framer and the packet writer of this library: a bug in both would
//! cancel out.

use crate::base::reason::Kick;
use crate::protocol::packet::{IncomingPacket, Packet};
use std::io::{self, ErrorKind};

const HEADER_BYTES: usize = 4;

/// A received packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RawPacket {
    /// Packet id.
    pub id: u16,
    /// The bytes behind the header.
    pub payload: Vec<u8>,
}

impl RawPacket {
    /// A packet of this id and payload, to compare a received packet with.
    #[must_use]
    pub fn new(id: u16, payload: impl AsRef<[u8]>) -> Self {
        let payload = payload.as_ref().to_vec();
        Self { id, payload }
    }

    /// The packet as sessions get it, to be decoded.
    #[must_use]
    pub fn packet(&self) -> Packet<'_> {
        Packet::new(self.id, &self.payload)
    }

    /// Reads the packet as one kind of packet. See [`Packet::decode`].
    ///
    /// # Errors
    /// As [`Packet::decode`].
    pub fn decode<P: IncomingPacket>(&self) -> Result<P::Body<'_>, Kick> {
        self.packet().decode::<P>()
    }

    /// Bytes of the packet, header included.
    #[must_use]
    pub fn size(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }
}

/// The first packet of these bytes, or `None` if its end is missing.
pub(super) fn split_packet(bytes: &[u8]) -> io::Result<Option<RawPacket>> {
    let [s0, s1, i0, i1, body @ ..] = bytes else {
        return Ok(None);
    };
    let size = usize::from(u16::from_le_bytes([*s0, *s1]));
    let id = u16::from_le_bytes([*i0, *i1]);
    let Some(body_bytes) = size.checked_sub(HEADER_BYTES) else {
        let what = format!("torn stream: size {size} id {id}");
        return Err(io::Error::new(ErrorKind::InvalidData, what));
    };
    Ok((body.get(..body_bytes)).map(|payload| RawPacket::new(id, payload)))
}

/// The bytes of a packet.
///
/// # Panics
///
/// If the packet is longer than 65,535 bytes.
#[must_use]
#[track_caller]
pub fn packet(id: u16, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let size = u16::try_from(HEADER_BYTES + payload.len()).expect("the payload fits a packet");
    [&header(size, id), payload].concat()
}

/// A header without a payload. The size may be a lie.
#[must_use]
pub fn header(size: u16, id: u16) -> [u8; 4] {
    let ([s0, s1], [i0, i1]) = (size.to_le_bytes(), id.to_le_bytes());
    [s0, s1, i0, i1]
}
