//! A cursor that never writes beyond its buffer: it writes the variable parts of packets.

use crate::base::wire::{
    F32Le, F64Le, HEADER_BYTES, I16Le, I32Le, I64Le, MAX_PACKET_BYTES, PacketHeader, U16Le, U32Le,
    U64Le,
};
use crate::protocol::packet::PacketTooLarge;
use bytemuck::Pod;

/// Writes one part behind the other.
///
/// Bytes beyond the end of the buffer are counted and not written. [`finish`](Self::finish) returns an
/// error if bytes did not fit. So no call in between can fail, and a writer over an empty buffer measures.
///
/// ```
/// # use server_core::PacketWriter;
/// let mut buffer = [0; 16];
/// let mut writer = PacketWriter::new(&mut buffer);
/// writer.write(&7_u16);
/// writer.write("hi");
/// writer.list([1_u32, 2], |writer, player| writer.write(&player));
/// assert_eq!(writer.finish(), Ok(16));
/// assert_eq!(buffer, [7, 0, 2, 0, b'h', b'i', 2, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
/// ```
#[derive(Debug)]
pub struct PacketWriter<'a> {
    buffer: &'a mut [u8],
    bytes: usize,
}

/// A part that can be written into a payload. The same value has to write the same bytes each time: the
/// first call counts the bytes, the second call writes them into a place of that size.
///
/// `packets!` implements it for the parts that it defines. A hand-written implementation has one function,
/// which can iterate over the game's own data without a copy:
///
/// ```
/// # use server_core::{OutgoingPacket, PacketWriter, WritePart};
/// # use std::collections::BTreeMap;
/// struct Scores<'a>(&'a BTreeMap<String, u32>);
///
/// impl WritePart for Scores<'_> {
///     fn write(&self, writer: &mut PacketWriter<'_>) {
///         writer.list(self.0, |writer, (name, score)| {
///             writer.write(name.as_str());
///             writer.write(score);
///         });
///     }
/// }
/// impl OutgoingPacket for Scores<'_> {
///     const ID: u16 = 12;
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be written into a payload",
    note = "a packet with a tail is sent with it: `send(&head, tail)`",
    note = "parts are numbers, `bool`, `str`, slices of these, `List`, and each `part` of `packets!`"
)]
pub trait WritePart {
    /// Writes the part behind the parts before.
    fn write(&self, writer: &mut PacketWriter<'_>);
}

/// A complete packet that can be sent without a separate tail.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a packet that can be sent without a separate tail",
    note = "a packet with a tail is sent with it: `send(&head, tail)`"
)]
pub trait OutgoingPacket: WritePart {
    /// The packet id.
    const ID: u16;

    /// Bytes of the whole packet, header included.
    ///
    /// # Errors
    /// [`PacketTooLarge`] if the size does not fit the size field.
    fn packet_bytes(&self) -> Result<usize, PacketTooLarge> {
        let mut measure = PacketWriter::new(&mut []);
        self.write(&mut measure);
        match HEADER_BYTES.saturating_add(measure.bytes) {
            bytes @ ..=MAX_PACKET_BYTES => Ok(bytes),
            bytes => Err(PacketTooLarge { bytes }),
        }
    }

    /// Writes header and payload over all of `to`, which has [`packet_bytes`](Self::packet_bytes) bytes.
    /// Returns that number.
    ///
    /// A value that writes fewer bytes than when it was measured leaves zeros, and a value that writes
    /// more is cut off: a bug in a `write` does not break the stream.
    fn write_packet(&self, to: &mut [u8]) -> usize {
        let bytes = to.len();
        debug_assert!((HEADER_BYTES..=MAX_PACKET_BYTES).contains(&bytes));
        let header = PacketHeader {
            size: (bytes as u16).into(),
            id: Self::ID.into(),
        };
        let Some((to_header, to_payload)) = to.split_at_mut_checked(HEADER_BYTES) else {
            return 0;
        };
        to_header.copy_from_slice(bytemuck::bytes_of(&header));
        let mut writer = PacketWriter::new(to_payload);
        self.write(&mut writer);
        let written = writer.bytes;
        // A chunk is used again: the bytes of an earlier packet are not for this peer.
        if let Some(unwritten) = to_payload.get_mut(written..) {
            unwritten.fill(0);
        }
        bytes
    }
}

impl<'a> PacketWriter<'a> {
    /// A writer at the front of a buffer.
    #[must_use]
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, bytes: 0 }
    }

    /// Writes the next part.
    pub fn write<T: WritePart + ?Sized>(&mut self, part: &T) {
        part.write(self);
    }

    /// Writes bytes without a length in front.
    pub fn put(&mut self, bytes: &[u8]) {
        let begin = self.bytes;
        self.bytes = begin.saturating_add(bytes.len());
        if let Some(place) = self.buffer.get_mut(begin..self.bytes) {
            place.copy_from_slice(bytes);
        }
    }

    /// Writes the count of the items, then each item.
    pub fn list<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        let begin = self.bytes;
        self.put(bytemuck::bytes_of(&U16Le::new(0)));
        let behind_count = self.bytes;
        let mut count = 0_usize;
        for item in items {
            write(self, item);
            count += 1;
        }
        let known = self.checked_count(count);
        if let Some(place) = self.buffer.get_mut(begin..behind_count) {
            place.copy_from_slice(bytemuck::bytes_of(&known));
        }
    }

    /// Bytes so far, including the bytes that did not fit.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Ends the writing. Returns the number of used bytes of the buffer.
    ///
    /// # Errors
    /// [`PacketTooLarge`] with the size of the whole packet, header included, if the bytes did not fit
    /// into the buffer, or into any packet.
    pub fn finish(self) -> Result<usize, PacketTooLarge> {
        let bytes = HEADER_BYTES.saturating_add(self.bytes);
        if self.bytes > self.buffer.len() || bytes > MAX_PACKET_BYTES {
            return Err(PacketTooLarge { bytes });
        }
        Ok(self.bytes)
    }

    fn count(&mut self, count: usize) {
        let count = self.checked_count(count);
        self.put(bytemuck::bytes_of(&count));
    }

    /// The count in the layout of the wire. A count above `u16::MAX` makes the packet too large, even if
    /// its items have no bytes.
    fn checked_count(&mut self, count: usize) -> U16Le {
        let known = u16::try_from(count).unwrap_or_else(|_| {
            self.bytes = self.bytes.saturating_add(count);
            u16::MAX
        });
        U16Le::new(known)
    }
}

macro_rules! writable_numbers {
    ($($number:ty: $wire:ty;)*) => {$(
        impl WritePart for $number {
            fn write(&self, writer: &mut PacketWriter<'_>) {
                writer.put(bytemuck::bytes_of(&<$wire>::from(*self)));
            }
        }
    )*};
}

writable_numbers! {
    u8: u8;
    i8: i8;
    u16: U16Le;
    u32: U32Le;
    u64: U64Le;
    i16: I16Le;
    i32: I32Le;
    i64: I64Le;
    f32: F32Le;
    f64: F64Le;
    bool: u8;
}

/// A `u16` length in bytes, then UTF-8.
impl WritePart for str {
    fn write(&self, writer: &mut PacketWriter<'_>) {
        writer.write(self.as_bytes());
    }
}

/// A `u16` count, then that number of values of fixed size.
impl<T: Pod> WritePart for [T] {
    fn write(&self, writer: &mut PacketWriter<'_>) {
        const { assert!(align_of::<T>() == 1, "build fixed parts of wire numbers") }
        writer.count(self.len());
        writer.put(bytemuck::cast_slice(self));
    }
}

impl<T: WritePart + ?Sized> WritePart for &T {
    fn write(&self, writer: &mut PacketWriter<'_>) {
        (**self).write(writer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn written(part: &(impl WritePart + ?Sized)) -> Vec<u8> {
        let mut buffer = [0xaa; 64];
        let mut writer = PacketWriter::new(&mut buffer);
        writer.write(part);
        let bytes = writer.finish().unwrap();
        assert!(buffer[bytes..].iter().all(|byte| *byte == 0xaa));
        buffer[..bytes].to_vec()
    }

    #[test]
    fn lecture_33_golden_bytes_without_an_offset_made_by_hand() {
        assert_eq!(written(&0x0102_u16), [2, 1]);
        assert_eq!(written(&-2_i32), [0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(written(&1.5_f32), [0, 0, 0xc0, 0x3f]);
        assert_eq!(written(&true), [1]);
        assert_eq!(written("abc"), *b"\x03\0abc");
        assert_eq!(written(&[1_u8, 2][..]), [2, 0, 1, 2]);
        assert_eq!(written(&[U16Le::new(1)][..]), [1, 0, 1, 0]);
    }

    #[test]
    fn nothing_is_written_behind_the_end_and_all_is_counted() {
        for room in 0..9 {
            let mut memory = [0xaa; 16];
            let mut writer = PacketWriter::new(&mut memory[..room]);
            writer.write("abcd");
            writer.list([1_u8], |writer, item| writer.write(&item));
            assert_eq!(writer.finish(), Err(PacketTooLarge { bytes: 4 + 9 }));
            assert!(memory[room..].iter().all(|byte| *byte == 0xaa));
        }
    }

    #[test]
    fn what_a_u16_cannot_count_is_too_large() {
        let mut writer = PacketWriter::new(&mut []);
        writer.write("a".repeat(65_536).as_str());
        assert!(writer.finish().unwrap_err().bytes > MAX_PACKET_BYTES);
        let mut buffer = vec![0; 100];
        let mut writer = PacketWriter::new(&mut buffer);
        writer.list(0..65_535, |_, _| ());
        assert_eq!(writer.finish(), Ok(2));
        let mut writer = PacketWriter::new(&mut buffer);
        writer.list(0..65_536, |_, _| ());
        assert!(writer.finish().unwrap_err().bytes > MAX_PACKET_BYTES);
    }

    #[test]
    fn a_large_buffer_does_not_allow_a_larger_packet() {
        let mut buffer = vec![0; 100_000];
        let mut writer = PacketWriter::new(&mut buffer);
        writer.put(&[1; 65_531]);
        assert_eq!(writer.bytes(), 65_531);
        writer.put(&[1]);
        assert_eq!(writer.finish(), Err(PacketTooLarge { bytes: 65_536 }));
    }

    struct Bytes(usize);
    impl WritePart for Bytes {
        fn write(&self, writer: &mut PacketWriter<'_>) {
            writer.put(&vec![7; self.0]);
        }
    }
    impl OutgoingPacket for Bytes {
        const ID: u16 = 0x0102;
    }

    #[test]
    fn a_packet_is_its_header_and_its_payload() {
        let mut to = [0xaa; 7];
        assert_eq!(Bytes(3).packet_bytes(), Ok(7));
        Bytes(3).write_packet(&mut to);
        assert_eq!(to, [7, 0, 2, 1, 7, 7, 7]);
        assert_eq!(Bytes(65_531).packet_bytes(), Ok(65_535));
        let too_large = PacketTooLarge { bytes: 65_536 };
        assert_eq!(Bytes(65_532).packet_bytes(), Err(too_large));
    }

    #[test]
    fn a_value_that_changes_its_mind_leaks_no_old_bytes() {
        struct Fickle(Cell<usize>);
        impl WritePart for Fickle {
            fn write(&self, writer: &mut PacketWriter<'_>) {
                writer.put(&vec![7; self.0.replace(1)]);
            }
        }
        impl OutgoingPacket for Fickle {
            const ID: u16 = 1;
        }
        let fickle = Fickle(Cell::new(3));
        let mut to = vec![0xaa; fickle.packet_bytes().unwrap()];
        fickle.write_packet(&mut to);
        assert_eq!(to, [7, 0, 1, 0, 7, 0, 0]);
    }
}
