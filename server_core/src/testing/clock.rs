//! A clock that a test moves.

use std::time::{Duration, Instant};

/// A clock that only a test moves.
#[derive(Clone, Copy, Debug)]
pub struct FakeClock {
    start: Instant,
    now: Instant,
}

impl FakeClock {
    /// A clock that shows the present.
    #[must_use]
    pub fn new() -> Self {
        let start = Instant::now();
        Self { start, now: start }
    }

    /// The instant that the clock shows.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The instant that the clock showed first.
    #[must_use]
    pub fn start(&self) -> Instant {
        self.start
    }

    /// The time since [`start`](Self::start).
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Moves the clock forward.
    pub fn advance(&mut self, time: Duration) {
        self.now += time;
    }
}

impl Default for FakeClock {
    fn default() -> Self {
        Self::new()
    }
}
