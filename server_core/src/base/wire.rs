//! Numbers and the packet header in the layout of the wire: little-endian, alignment 1.
//!
//! Each type is plain bytes ([`Pod`](https://docs.rs/bytemuck/1/bytemuck/trait.Pod.html)) with
//! alignment 1, so it is read in place, at any offset of a receive buffer and on any machine.

use bytemuck::{Pod, Zeroable};
use std::fmt;

/// For the expansion of `packets!`, so that a game does not have to depend on the crate.
#[doc(hidden)]
pub use bytemuck;

macro_rules! little_endian {
    ($($(#[$doc:meta])* $name:ident: $number:ty;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Default, Pod, Zeroable)]
        #[repr(transparent)]
        pub struct $name([u8; size_of::<$number>()]);

        impl $name {
            /// Wraps a number of this machine.
            #[must_use]
            pub const fn new(value: $number) -> Self {
                Self(value.to_le_bytes())
            }

            /// The number in the byte order of this machine.
            #[must_use]
            pub const fn get(self) -> $number {
                <$number>::from_le_bytes(self.0)
            }
        }

        impl From<$number> for $name {
            fn from(value: $number) -> Self {
                Self::new(value)
            }
        }

        impl From<$name> for $number {
            fn from(value: $name) -> Self {
                value.get()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.get(), f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.get(), f)
            }
        }
    )*};
}

little_endian! {
    /// A `u16` on the wire.
    #[derive(PartialEq, Eq, Hash)]
    U16Le: u16;
    /// A `u32` on the wire.
    #[derive(PartialEq, Eq, Hash)]
    U32Le: u32;
    /// A `u64` on the wire.
    #[derive(PartialEq, Eq, Hash)]
    U64Le: u64;
    /// An `i16` on the wire.
    #[derive(PartialEq, Eq, Hash)]
    I16Le: i16;
    /// An `i32` on the wire.
    #[derive(PartialEq, Eq, Hash)]
    I32Le: i32;
    /// An `i64` on the wire.
    #[derive(PartialEq, Eq, Hash)]
    I64Le: i64;
    /// An `f32` on the wire. A peer may send any bits, infinities and NaN included.
    F32Le: f32;
    /// An `f64` on the wire. A peer may send any bits, infinities and NaN included.
    F64Le: f64;
}

// Compared as numbers, not as bytes: 0 equals -0, and NaN equals nothing.
impl PartialEq for F32Le {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl PartialEq for F64Le {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

/// Bytes of a packet's header, which is also the smallest packet.
pub const HEADER_BYTES: usize = size_of::<PacketHeader>();
/// Bytes of the largest packet that a `u16` size can express, header included.
pub const MAX_PACKET_BYTES: usize = u16::MAX as usize;
/// Bytes of the largest payload.
pub const MAX_PAYLOAD_BYTES: usize = MAX_PACKET_BYTES - HEADER_BYTES;

/// The first four bytes of every packet: size, then id.
///
/// ```text
///  0       2       4              size
/// +-------+-------+----- ... -----+
/// | size  |  id   |    payload    |
/// +-------+-------+----- ... -----+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PacketHeader {
    /// Bytes of the whole packet, these four bytes included.
    pub size: U16Le,
    /// The packet id, which defines the meaning of the payload.
    pub id: U16Le,
}

const _: () = assert!(HEADER_BYTES == 4 && align_of::<PacketHeader>() == 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lecture_16_golden_bytes_of_a_header() {
        let header = PacketHeader {
            size: 0x1234.into(),
            id: 0xabcd.into(),
        };
        assert_eq!(bytemuck::bytes_of(&header), [0x34, 0x12, 0xcd, 0xab]);
    }

    #[test]
    fn read_at_every_offset() {
        let bytes = [9, 9, 9, 0x17, 0x00, 0x01, 0x00, 9];
        let header: &PacketHeader = bytemuck::from_bytes(&bytes[3..7]);
        assert_eq!((header.size.get(), header.id.get()), (23, 1));
    }

    #[test]
    fn numbers_survive() {
        assert_eq!(U16Le::new(65_535).get(), 65_535);
        assert_eq!(U32Le::new(0xdead_beef).get(), 0xdead_beef);
        assert_eq!(U64Le::new(u64::MAX - 1).get(), u64::MAX - 1);
        assert_eq!(I16Le::new(-2).get(), -2);
        assert_eq!(I32Le::new(i32::MIN).get(), i32::MIN);
        assert_eq!(I64Le::new(-1).get(), -1);
        assert_eq!(F32Le::new(1.5).get(), 1.5);
        assert_eq!(F64Le::new(-0.1).get(), -0.1);
    }

    #[test]
    fn golden_bytes_of_signed_numbers_and_fractions() {
        assert_eq!(
            bytemuck::bytes_of(&I32Le::new(-2)),
            [0xfe, 0xff, 0xff, 0xff]
        );
        assert_eq!(bytemuck::bytes_of(&F32Le::new(1.5)), [0, 0, 0xc0, 0x3f]);
    }

    #[test]
    fn fractions_are_compared_as_numbers() {
        assert_eq!(F32Le::new(0.0), F32Le::new(-0.0));
        assert_ne!(F64Le::new(f64::NAN), F64Le::new(f64::NAN));
    }
}
