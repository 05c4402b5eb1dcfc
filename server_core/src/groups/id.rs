//! The name of a group of sessions. The game chooses it: nothing hands it out.

use std::fmt;

/// Names a group: a room, a zone, a party. It is a number of the game's own.
///
/// Nothing has to be set up for a group and nothing to be given back: it is there as long as it has
/// members. So the number that a game has for a thing is the name of the group around it, and any
/// thread can work it out. A `kind` keeps rooms apart from zones:
///
/// ```
/// # use server_core::GroupId;
/// const ROOM: u32 = 1;
/// const ZONE: u32 = 2;
///
/// /// The zone that a place lies in: 256 x 256 of them, each 32 steps wide.
/// fn zone_at(x: u16, y: u16) -> GroupId {
///     GroupId::new(ZONE, u32::from(y / 32) << 8 | u32::from(x / 32))
/// }
///
/// assert_eq!(zone_at(40, 3), zone_at(63, 31));
/// assert_ne!(GroupId::new(ROOM, 7), GroupId::new(ZONE, 7));
/// assert_eq!(GroupId::from_u64(1 << 32 | 7), GroupId::new(ROOM, 7));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct GroupId(u64);

impl GroupId {
    /// Group `number` of a kind: `kind << 32 | number`.
    #[must_use]
    pub const fn new(kind: u32, number: u32) -> Self {
        Self((kind as u64) << 32 | number as u64)
    }

    /// A group by a number of 64 bits, if two halves do not suit.
    #[must_use]
    pub const fn from_u64(value: u64) -> Self {
        Self(value)
    }

    /// The number.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// The upper half.
    #[must_use]
    pub const fn kind(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The lower half.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupId({self})")
    }
}

/// `kind:number`, for logs.
impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_come_back_out() {
        for (kind, number) in [(0, 0), (1, 7), (u32::MAX, 0), (0, u32::MAX)] {
            let group = GroupId::new(kind, number);
            assert_eq!((group.kind(), group.number()), (kind, number));
            assert_eq!(GroupId::from_u64(group.to_u64()), group);
            assert_eq!(format!("{group:?}"), format!("GroupId({kind}:{number})"));
        }
    }
}
