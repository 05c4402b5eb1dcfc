//! The id of a session. Knows nothing of sockets or tables.

use std::fmt;
use std::str::FromStr;

/// Identifies one session for the life of the process. No second session gets the same id.
///
/// The value is `generation << 32 | index`, and the index is `worker << 24 | slot`: the id alone tells
/// which worker owns the session. Generations start at 1, so no session has an id below
/// `1 << 32`. The event loop uses those small numbers for its own sources.
///
/// ```text
///  63                              32 31       24 23                0
/// +----------------------------------+-----------+-------------------+
/// |            generation            |  worker   |       slot        |
/// +----------------------------------+-----------+-------------------+
/// ```
///
/// As text, an id is `worker.slot-generation`, in logs and in `/sessions`. That text and the number are
/// parsed:
///
/// ```
/// use server_core::SessionId;
/// let id = SessionId::new(1, 0, 17);
/// assert_eq!(id.to_string(), "0.17-1");
/// assert_eq!("0.17-1".parse(), Ok(id));
/// assert_eq!("4294967313".parse(), Ok(id));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct SessionId(u64);

impl SessionId {
    /// The maximum number of workers that an id can distinguish.
    pub const MAX_WORKERS: usize = 1 << WORKER_BITS;
    /// The maximum number of sessions of one worker at a time.
    pub const MAX_SLOTS: usize = 1 << SLOT_BITS;

    /// Composes an id. `slot` is cut to its 24 bits.
    #[must_use]
    pub const fn new(generation: u32, worker: u8, slot: u32) -> Self {
        let index = ((worker as u64) << SLOT_BITS) | (slot as u64 & SLOT_MASK);
        Self(((generation as u64) << 32) | index)
    }

    /// Reads an id back from its number, for example one that came in a packet.
    ///
    /// Any number is accepted. An id that no session has matches no session.
    #[must_use]
    pub const fn from_u64(value: u64) -> Self {
        Self(value)
    }

    /// The number, as it goes on the wire.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// The number of sessions that have had this slot, this session included.
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The worker that owns the session.
    #[must_use]
    pub const fn worker(self) -> usize {
        ((self.0 >> SLOT_BITS) & WORKER_MASK) as usize
    }

    /// The slot of the session in its worker's table.
    #[must_use]
    pub const fn slot(self) -> usize {
        (self.0 & SLOT_MASK) as usize
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// `worker.slot-generation`.
impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}-{}", self.worker(), self.slot(), self.generation())
    }
}

/// Reads an id as it is printed, or its number. No sign, no zero in front and no space is accepted.
impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = match text.split_once('.') {
            Some((worker, rest)) => rest.split_once('-').and_then(|(slot, generation)| {
                let (worker, slot) = (worker.parse().ok()?, slot.parse().ok()?);
                Some(Self::new(generation.parse().ok()?, worker, slot))
            }),
            None => text.parse().ok().map(Self),
        };
        // Printed again: one id has one text.
        parsed
            .filter(|id| id.to_string() == text || id.0.to_string() == text)
            .ok_or(InvalidSessionId)
    }
}

/// The text is not the id of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct InvalidSessionId;

impl fmt::Display for InvalidSessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a session id is worker.slot-generation, for example 0.17-1, or a number")
    }
}

impl std::error::Error for InvalidSessionId {}

const WORKER_BITS: u32 = 8;
const SLOT_BITS: u32 = 24;
const WORKER_MASK: u64 = (1 << WORKER_BITS) - 1;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
const _: () = assert!(WORKER_BITS + SLOT_BITS == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_out() {
        for (generation, worker, slot) in [(1, 0, 0), (7, 3, 41), (u32::MAX, 255, 0xff_ffff)] {
            let id = SessionId::new(generation, worker, slot);
            assert_eq!(id.generation(), generation);
            assert_eq!(id.worker(), usize::from(worker));
            assert_eq!(id.slot(), slot as usize);
            assert_eq!(SessionId::from_u64(id.to_u64()), id);
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(id.to_u64().to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn one_id_has_one_text_and_other_texts_are_errors() {
        assert_eq!(SessionId::new(3, 1, 17).to_string(), "1.17-3");
        for text in [
            "",
            "0.17",
            "0.17#1",
            "0.17-",
            ".17-1",
            "0.-17-1",
            "0.17--1",
            "0.17-+1",
            "+0.17-1",
            "00.17-1",
            "0.017-1",
            " 0.17-1",
            "0.17-1 ",
            "256.17-1",
            "0.16777216-1",
            "0.17-4294967296",
            "18446744073709551616",
            "-1",
            "+1",
            "01",
            "1.0.17-1",
        ] {
            let parsed: Result<SessionId, _> = text.parse();
            assert_eq!(parsed, Err(InvalidSessionId), "{text}");
        }
    }

    #[test]
    fn generation_is_the_upper_half() {
        let id = SessionId::new(5, 0, 9);
        assert_eq!(id.to_u64(), 5 << 32 | 9);
    }
}
