//! The id of a group of sessions. The game chooses the number, no table hands it out.

use std::fmt;

/// Identifies a group (a room, a zone, a party) by a number that the game chooses.
///
/// A group needs no setup and no release: it exists while it has members. So the game's number of a room
/// is also the id of the group of that room, and any thread can compute it. A `kind` separates rooms from
/// zones:
///
/// ```
/// # use server_core::GroupId;
/// const ROOM: u32 = 1;
/// const ZONE: u32 = 2;
///
/// /// The zone around a position: 256 x 256 zones, each 32 steps wide.
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

    /// A group by a number of 64 bits, for games without kinds.
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
