//! The framing of a server that is not built on this library: the header of a frame, as a client reads and
//! writes it.

use crate::base::reason::Kick;
use crate::base::wire::MAX_PACKET_BYTES;

/// The header before each frame of a byte stream: a length, then an id.
///
/// ```
/// use server_core::{ByteOrder, Framing, IdField, LengthCounts, LengthField};
/// // A four-byte length in network byte order, of the payload alone; frames without an id.
/// let framing = Framing {
///     length: LengthField::U32,
///     byte_order: ByteOrder::BigEndian,
///     length_counts: LengthCounts::Payload,
///     id: IdField::None,
///     ..Framing::NATIVE
/// };
/// assert_eq!(framing.header_bytes(), 4);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// The length field, first in the header.
    pub length: LengthField,
    /// The byte order of the length field and of the id field.
    pub byte_order: ByteOrder,
    /// The bytes that the length counts.
    pub length_counts: LengthCounts,
    /// The id field, behind the length field.
    pub id: IdField,
    /// The largest value of the length field that a session accepts. A larger one ends the session with
    /// [`Kick::TooLarge`]. 16 MiB in [`Framing::NATIVE`].
    pub max_frame_bytes: u32,
}

/// The size of the length field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthField {
    /// Two bytes.
    U16,
    /// Four bytes.
    U32,
}

/// The byte order of the numbers in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// The lowest byte first.
    LittleEndian,
    /// The highest byte first, also called network byte order.
    BigEndian,
}

/// The bytes that the length field of a frame counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthCounts {
    /// The length field, the id field and the payload: the length includes the header.
    Frame,
    /// The id field and the payload. Without an id field this is the same as [`Payload`](Self::Payload).
    IdAndPayload,
    /// The payload alone.
    Payload,
}

/// The id field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdField {
    /// The header has no id. A received frame has id 0, and the id of a sent packet is dropped.
    None,
    /// One byte. A session that sends a packet with an id above 255 ends with
    /// [`InvalidInput`](std::io::ErrorKind::InvalidInput).
    U8,
    /// Two bytes.
    U16,
}

/// The longest header: a length of four bytes and an id of two.
pub const MAX_HEADER_BYTES: usize = 6;

impl Framing {
    /// The framing of this library: `u16` length with the header of four bytes, `u16` id, little-endian.
    pub const NATIVE: Self = Self {
        length: LengthField::U16,
        byte_order: ByteOrder::LittleEndian,
        length_counts: LengthCounts::Frame,
        id: IdField::U16,
        max_frame_bytes: 16 << 20,
    };

    /// Bytes of the header: two to six.
    #[must_use]
    pub const fn header_bytes(&self) -> usize {
        self.length_bytes() + self.id_bytes()
    }

    /// Whether a byte stream of this framing needs no translation.
    pub(crate) fn is_native(&self) -> bool {
        let limit = Self {
            max_frame_bytes: Self::NATIVE.max_frame_bytes,
            ..*self
        };
        limit == Self::NATIVE && self.max_frame_bytes >= MAX_PACKET_BYTES as u32
    }

    /// The id and the payload bytes that a complete header claims.
    ///
    /// # Errors
    /// [`Kick::BadSize`] for a length smaller than the part of the header that it counts, and
    /// [`Kick::TooLarge`] for a length above the limit.
    pub(crate) fn decode(&self, header: &[u8]) -> Result<(u16, usize), Kick> {
        let (length, id) = header.split_at(self.length_bytes());
        let length = self.number(length);
        if length > self.max_frame_bytes {
            return Err(Kick::TooLarge);
        }
        let payload_bytes = (length as usize).checked_sub(self.counted_header_bytes());
        // An id field has two bytes at most.
        let id = self.number(id) as u16;
        Ok((id, payload_bytes.ok_or(Kick::BadSize)?))
    }

    /// The header of a packet, in the first [`header_bytes`](Self::header_bytes). `None` for an id or a
    /// length that its field cannot hold; a length field holds that of every packet of this library.
    pub(crate) fn encode(&self, id: u16, payload_bytes: usize) -> Option<[u8; MAX_HEADER_BYTES]> {
        let length = u32::try_from(payload_bytes + self.counted_header_bytes()).ok()?;
        let mut header = [0; MAX_HEADER_BYTES];
        let (of_length, of_id) = header.split_at_mut(self.length_bytes());
        self.put(length, of_length)?;
        if self.id != IdField::None {
            self.put(id.into(), &mut of_id[..self.id_bytes()])?;
        }
        Some(header)
    }

    const fn length_bytes(&self) -> usize {
        match self.length {
            LengthField::U16 => 2,
            LengthField::U32 => 4,
        }
    }

    const fn id_bytes(&self) -> usize {
        match self.id {
            IdField::None => 0,
            IdField::U8 => 1,
            IdField::U16 => 2,
        }
    }

    const fn counted_header_bytes(&self) -> usize {
        match self.length_counts {
            LengthCounts::Frame => self.header_bytes(),
            LengthCounts::IdAndPayload => self.id_bytes(),
            LengthCounts::Payload => 0,
        }
    }

    /// The number in a field of up to four bytes.
    fn number(&self, field: &[u8]) -> u32 {
        let append = |number: u32, byte: &u8| number << 8 | u32::from(*byte);
        match self.byte_order {
            ByteOrder::BigEndian => field.iter().fold(0, append),
            ByteOrder::LittleEndian => field.iter().rev().fold(0, append),
        }
    }

    /// Writes a number into a field of up to four bytes. `None` if the field is too short.
    fn put(&self, number: u32, field: &mut [u8]) -> Option<()> {
        let bytes = number.to_be_bytes();
        let (too_high, bytes) = bytes.split_at(bytes.len() - field.len());
        field.copy_from_slice(bytes);
        if self.byte_order == ByteOrder::LittleEndian {
            field.reverse();
        }
        too_high.iter().all(|byte| *byte == 0).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::wire::MAX_PAYLOAD_BYTES;

    #[test]
    fn header_of_four_bytes_is_written_as_documented() {
        let framing = |byte_order, length_counts| Framing {
            byte_order,
            length_counts,
            ..Framing::NATIVE
        };
        let written = |framing: Framing| framing.encode(0x0102, 5).unwrap()[..4].to_vec();
        let native = framing(ByteOrder::LittleEndian, LengthCounts::Frame);
        assert!(native.is_native());
        assert_eq!(written(native), [9, 0, 2, 1]);
        let big = framing(ByteOrder::BigEndian, LengthCounts::Frame);
        assert_eq!(written(big), [0, 9, 1, 2]);
        let behind = framing(ByteOrder::BigEndian, LengthCounts::IdAndPayload);
        assert_eq!(written(behind), [0, 7, 1, 2]);
        let payload = framing(ByteOrder::BigEndian, LengthCounts::Payload);
        assert_eq!(written(payload), [0, 5, 1, 2]);
        assert!(!payload.is_native());
    }

    #[test]
    fn length_above_its_limit_or_below_its_header_is_an_offence() {
        let framing = Framing {
            length: LengthField::U32,
            byte_order: ByteOrder::BigEndian,
            id: IdField::U8,
            max_frame_bytes: 1_000,
            ..Framing::NATIVE
        };
        let claim = |length: u32| framing.decode(&[&length.to_be_bytes()[..], &[7]].concat());
        assert_eq!(claim(4), Err(Kick::BadSize));
        assert_eq!(claim(5), Ok((7, 0)));
        assert_eq!(claim(1_000), Ok((7, 995)));
        assert_eq!(claim(1_001), Err(Kick::TooLarge));
        assert_eq!(claim(u32::MAX), Err(Kick::TooLarge));
    }

    #[test]
    fn id_that_does_not_fit_its_field_has_no_header() {
        let framing = |id| Framing {
            id,
            ..Framing::NATIVE
        };
        assert!(framing(IdField::U8).encode(255, 0).is_some());
        assert!(framing(IdField::U8).encode(256, 0).is_none());
        assert!(framing(IdField::None).encode(256, 0).is_some());
        for id in [IdField::None, IdField::U8, IdField::U16] {
            assert!(framing(id).encode(9, MAX_PAYLOAD_BYTES).is_some());
        }
    }
}
