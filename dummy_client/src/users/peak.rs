//! The largest number of sessions at a time.

use std::collections::VecDeque;

/// Counts sessions that the server did not refuse. Whether it refuses one is known later than its start, so the
/// changes wait here, in their order, for the first one that is not decided yet.
#[derive(Debug, Default)]
pub(super) struct Peak {
    waiting: VecDeque<Change>,
    /// The number of the first change that waits.
    first: u64,
    sessions: usize,
    max: usize,
}

/// A change of the number of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Undecided,
    Begin,
    End,
    Refused,
}

impl Peak {
    /// A session begins. Returns its number for [`decide`](Self::decide).
    pub fn begin(&mut self) -> u64 {
        self.waiting.push_back(Change::Undecided);
        self.first + self.waiting.len() as u64 - 1
    }

    /// A session is refused, or is not refused any more. Returns the largest number of sessions so far.
    pub fn decide(&mut self, number: u64, is_refused: bool) -> usize {
        let place = number.checked_sub(self.first).unwrap_or(u64::MAX);
        if let Some(change) = self.waiting.get_mut(place as usize) {
            *change = [Change::Begin, Change::Refused][usize::from(is_refused)];
        }
        while let Some(change) = self.waiting.front().copied() {
            if change == Change::Undecided {
                break;
            }
            self.waiting.pop_front();
            self.first += 1;
            match change {
                Change::Begin => self.sessions += 1,
                Change::End => self.sessions = self.sessions.saturating_sub(1),
                Change::Undecided | Change::Refused => {}
            }
            self.max = self.max.max(self.sessions);
        }
        self.max
    }

    /// A session ends that was decided and not refused.
    pub fn end(&mut self) {
        self.waiting.push_back(Change::End);
    }
}
