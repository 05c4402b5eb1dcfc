//! A cursor that never leaves its payload: it reads the variable parts of packets.

use crate::base::reason::Kick;
use crate::base::wire::{
    F32Le, F64Le, I16Le, I32Le, I64Le, MAX_PAYLOAD_BYTES, U16Le, U32Le, U64Le,
};
use bytemuck::Pod;
use std::ops::RangeBounds;

/// Takes one part after the other from the front of a payload.
///
/// A missing part is [`Kick::BadPayload`], so a handler needs only `?`. The parts borrow the payload:
/// nothing is copied, and no count or length that a peer claims reserves memory.
///
/// ```
/// # use server_core::{Kick, PacketReader};
/// let payload = [7, 0, 2, 0, b'h', b'i', 2, 0, 1, 0, 0, 0, 2, 0, 0, 0];
/// let mut reader = PacketReader::new(&payload);
/// let room: u16 = reader.read()?;
/// let name: &str = reader.read()?;
/// let players = reader.count(size_of::<u32>())?;
/// let mut sum = 0;
/// for _ in 0..players {
///     sum += reader.read::<u32>()?;
/// }
/// reader.finish()?;
/// assert_eq!((room, name, sum), (7, "hi", 3));
/// # Ok::<(), Kick>(())
/// ```
#[derive(Clone, Debug)]
pub struct PacketReader<'a> {
    rest: &'a [u8],
    depth: u8,
}

/// A part that can be read from a payload. `packets!` implements it for the parts that it defines. A
/// hand-written implementation has one function, for example for an enum:
///
/// ```
/// # use server_core::{Kick, PacketReader, ReadPart};
/// #[derive(Debug, PartialEq)]
/// enum Team { Red, Blue }
///
/// impl<'a> ReadPart<'a> for Team {
///     const MIN_BYTES: usize = 1;
///
///     fn read(reader: &mut PacketReader<'a>) -> Result<Self, Kick> {
///         match reader.read::<u8>()? {
///             0 => Ok(Self::Red),
///             1 => Ok(Self::Blue),
///             _ => Err(Kick::BadPayload),
///         }
///     }
/// }
///
/// assert_eq!(PacketReader::new(&[1]).read::<Team>(), Ok(Team::Blue));
/// assert_eq!(PacketReader::new(&[2]).read::<Team>(), Err(Kick::BadPayload));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from a payload",
    note = "use numbers, `bool`, `&'a str`, `&'a [u8]`, `&'a [PART]`, `List<'a, PART>`, or a `part` of `packets!`"
)]
pub trait ReadPart<'a>: Sized {
    /// The minimum size of the part in bytes. A list whose count cannot fit into the rest of the payload is
    /// refused before its first item is read.
    const MIN_BYTES: usize;

    /// Takes one part from the front.
    ///
    /// # Errors
    /// [`Kick::BadPayload`] if the bytes are not such a part.
    fn read(reader: &mut PacketReader<'a>) -> Result<Self, Kick>;
}

/// The maximum depth of lists in lists. Without it, a type whose lists hold the type itself would let a
/// peer choose the stack that its packet costs.
pub const MAX_LIST_DEPTH: u8 = 16;

impl<'a> PacketReader<'a> {
    /// A reader at the front of a payload.
    #[must_use]
    pub const fn new(payload: &'a [u8]) -> Self {
        Self {
            rest: payload,
            depth: 0,
        }
    }

    /// Takes the next part.
    ///
    /// # Errors
    /// [`Kick::BadPayload`] if the bytes are not such a part.
    pub fn read<T: ReadPart<'a>>(&mut self) -> Result<T, Kick> {
        T::read(self)
    }

    /// Takes `bytes` bytes.
    ///
    /// # Errors
    /// [`Kick::BadPayload`] if fewer are left.
    pub fn take(&mut self, bytes: usize) -> Result<&'a [u8], Kick> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(Kick::BadPayload)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Takes a value of fixed size, in place.
    ///
    /// # Errors
    /// [`Kick::BadPayload`] if fewer bytes are left.
    pub fn head<T: Pod>(&mut self) -> Result<&'a T, Kick> {
        const { assert!(align_of::<T>() == 1, "build fixed parts of wire numbers") }
        Ok(bytemuck::from_bytes(self.take(size_of::<T>())?))
    }

    /// Takes the count in front of a list of items of at least `min_bytes_each` bytes.
    ///
    /// # Errors
    /// [`Kick::BadPayload`] if the count is missing, or if that number of items cannot be in the rest.
    pub fn count(&mut self, min_bytes_each: usize) -> Result<usize, Kick> {
        let count = usize::from(self.head::<U16Le>()?.get());
        if count * min_bytes_each.min(MAX_PAYLOAD_BYTES) > self.rest.len() {
            return Err(Kick::BadPayload);
        }
        Ok(count)
    }

    /// Calls `read` one list deeper.
    ///
    /// # Errors
    /// [`Kick::BadPayload`] if that is more than 16 lists deep, or the error of `read`.
    pub fn nested<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Kick>,
    ) -> Result<T, Kick> {
        if self.depth == MAX_LIST_DEPTH {
            return Err(Kick::BadPayload);
        }
        self.depth += 1;
        let outcome = read(self);
        self.depth -= 1;
        outcome
    }

    /// The bytes that are left.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`Kick::BadPayload`] if bytes are left.
    pub const fn finish(self) -> Result<(), Kick> {
        match self.rest {
            [] => Ok(()),
            _ => Err(Kick::BadPayload),
        }
    }
}

/// Reads all bytes as text.
///
/// # Errors
/// [`Kick::BadPayload`] if the bytes are not UTF-8.
pub fn text_of(bytes: &[u8]) -> Result<&str, Kick> {
    std::str::from_utf8(bytes).map_err(|_| Kick::BadPayload)
}

/// Checks a length against the limits that a game sets.
///
/// # Errors
/// [`Kick::BadPayload`] if the length is outside of the limits.
pub fn limited(len: usize, limits: impl RangeBounds<usize>) -> Result<(), Kick> {
    if limits.contains(&len) {
        Ok(())
    } else {
        Err(Kick::BadPayload)
    }
}

macro_rules! readable_numbers {
    ($($number:ty: $wire:ty;)*) => {$(
        impl<'a> ReadPart<'a> for $number {
            const MIN_BYTES: usize = size_of::<Self>();

            fn read(reader: &mut PacketReader<'a>) -> Result<Self, Kick> {
                Ok((*reader.head::<$wire>()?).into())
            }
        }
    )*};
}

readable_numbers! {
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
}

/// One byte, 0 or 1. Any other value is a [`Kick::BadPayload`].
impl<'a> ReadPart<'a> for bool {
    const MIN_BYTES: usize = 1;

    fn read(reader: &mut PacketReader<'a>) -> Result<Self, Kick> {
        match reader.read::<u8>()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Kick::BadPayload),
        }
    }
}

/// A `u16` length in bytes, then UTF-8.
impl<'a> ReadPart<'a> for &'a str {
    const MIN_BYTES: usize = size_of::<U16Le>();

    fn read(reader: &mut PacketReader<'a>) -> Result<Self, Kick> {
        text_of(reader.read()?)
    }
}

/// A `u16` count, then that number of values of fixed size, in place.
impl<'a, T: Pod> ReadPart<'a> for &'a [T] {
    const MIN_BYTES: usize = size_of::<U16Le>();

    fn read(reader: &mut PacketReader<'a>) -> Result<Self, Kick> {
        const { assert!(align_of::<T>() == 1, "build fixed parts of wire numbers") }
        const {
            assert!(
                size_of::<T>() > 0,
                "items without bytes could be any number"
            )
        }
        let count = reader.count(size_of::<T>())?;
        Ok(bytemuck::cast_slice(reader.take(count * size_of::<T>())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_little_endian() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        let reader = || PacketReader::new(&bytes);
        assert_eq!(reader().read(), Ok(0x01_u8));
        assert_eq!(reader().read(), Ok(0x0201_u16));
        assert_eq!(reader().read(), Ok(0x0403_0201_u32));
        assert_eq!(reader().read(), Ok(0x0807_0605_0403_0201_u64));
        assert_eq!(PacketReader::new(&[0xfe]).read(), Ok(-2_i8));
        assert_eq!(PacketReader::new(&[0xfe, 0xff]).read(), Ok(-2_i16));
        assert_eq!(PacketReader::new(&[0, 0, 0xc0, 0x3f]).read(), Ok(1.5_f32));
    }

    #[test]
    fn a_part_that_is_not_there_is_a_kick_and_takes_nothing() {
        let mut reader = PacketReader::new(&[1, 2, 3]);
        assert_eq!(reader.read::<u32>(), Err(Kick::BadPayload));
        assert_eq!(reader.take(4), Err(Kick::BadPayload));
        assert_eq!(reader.take(usize::MAX), Err(Kick::BadPayload));
        assert_eq!(reader.rest(), [1, 2, 3]);
        assert_eq!(reader.read(), Ok(0x0201_u16));
        assert_eq!(reader.clone().finish(), Err(Kick::BadPayload));
        assert_eq!(reader.read(), Ok(3_u8));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn text_has_a_length_and_is_utf8() {
        let read = |bytes: &'static [u8]| PacketReader::new(bytes).read::<&str>();
        assert_eq!(read(&[0, 0]), Ok(""));
        assert_eq!(read(b"\x03\0abcd"), Ok("abc"));
        assert_eq!(read(b"\x03\0ab"), Err(Kick::BadPayload));
        assert_eq!(read(b"\x02\0\xc3\x28"), Err(Kick::BadPayload));
        assert_eq!(read(b"\x02"), Err(Kick::BadPayload));
    }

    #[test]
    fn a_bool_is_0_or_1() {
        let read = |byte| PacketReader::new(&[byte]).read::<bool>();
        assert_eq!((read(0), read(1)), (Ok(false), Ok(true)));
        assert!((2..=255).all(|byte| read(byte) == Err(Kick::BadPayload)));
    }

    #[test]
    fn a_slice_is_shown_where_it_lies() {
        let payload = [2, 0, 1, 0, 2, 0, 9];
        let mut reader = PacketReader::new(&payload);
        let numbers: &[U16Le] = reader.read().unwrap();
        assert_eq!(numbers, [U16Le::new(1), U16Le::new(2)]);
        assert!(std::ptr::eq(numbers.as_ptr().cast(), &raw const payload[2]));
        assert_eq!(reader.rest(), [9]);
    }

    #[test]
    fn a_count_beyond_the_bytes_is_refused_with_the_count() {
        let payload = [0xff, 0xff, 1, 2, 3];
        assert_eq!(PacketReader::new(&payload).count(1), Err(Kick::BadPayload));
        assert_eq!(
            PacketReader::new(&payload).count(usize::MAX),
            Err(Kick::BadPayload)
        );
        assert_eq!(
            PacketReader::new(&payload).read::<&[U64Le]>(),
            Err(Kick::BadPayload)
        );
        assert_eq!(PacketReader::new(&[3, 0, 1, 2, 3]).count(1), Ok(3));
    }

    #[test]
    fn lists_in_lists_have_an_end() {
        fn descend(reader: &mut PacketReader<'_>) -> Result<u32, Kick> {
            reader.nested(|reader| Ok(descend(reader).map_or(1, |depth| depth + 1)))
        }
        let mut reader = PacketReader::new(&[]);
        assert_eq!(descend(&mut reader), Ok(u32::from(MAX_LIST_DEPTH)));
        assert_eq!(
            descend(&mut reader),
            Ok(u32::from(MAX_LIST_DEPTH)),
            "and back"
        );
    }
}
