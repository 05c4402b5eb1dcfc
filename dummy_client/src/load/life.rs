//! One session of the load, over all its connections.

use schemars::JsonSchema;
use serde::Serialize;
use server_core::SessionId;
use server_core::backoff::Backoff;
use std::time::{Duration, Instant};

/// A loss that came back within this time is no failure.
const COMEBACK: Duration = Duration::from_secs(10);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// One session, as the conductor sees it.
#[derive(Debug)]
pub struct Life {
    pub state: State,
    pub backoff: Backoff,
    /// It stood at least once, and was not refused.
    has_stood: bool,
    /// When it was lost, until it is back.
    lost_at: Option<Instant>,
    /// Connections that have stood so far: what was planned for an earlier one is void.
    pub stands: u32,
}

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not wanted, or not yet.
    Away,
    /// Its connection is being made.
    Connecting,
    /// Its connection stands.
    Live { since: Instant, id: SessionId },
    /// It was told to leave, and its connection still stands.
    Leaving { since: Instant },
    /// Waits for its next try.
    Waiting,
    /// Was lost, and will not come back.
    Gone,
}

/// What became of the sessions.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
pub struct Sessions {
    /// What the command line asked for.
    pub asked: usize,
    /// Those that stood at least once.
    pub connected: usize,
    /// Those that never did.
    pub never_connected: usize,
    /// Attempts that failed.
    pub failed_connects: u64,
    /// Times that one was lost.
    pub lost: u64,
    /// … and was back within ten seconds.
    pub came_back: u64,
    /// … or later.
    pub came_back_late: u64,
    /// Times that one left because the load asked for it.
    pub left: u64,
    /// Those that stood at the end.
    pub live: usize,
    /// The most at a time.
    pub max_live: usize,
    /// Those that were gone at the end.
    pub gone: usize,
    /// Those that had not seen the newest tick at the end, although it was waited for.
    pub behind: usize,
    /// Those that had not seen any tick, while others had.
    pub silent: usize,
    /// Attempts that the server refused because it was full; they count as failed connects.
    pub refused: u64,
    /// Seconds for which the whole server had been silent at the end, if that was too long.
    pub server_silent_secs: f64,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            state: State::Away,
            backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
            has_stood: false,
            lost_at: None,
            stands: 0,
        }
    }
}

impl Life {
    /// Since when its connection stands.
    pub fn stands_since(&self) -> Option<Instant> {
        match self.state {
            State::Live { since, .. } | State::Leaving { since } => Some(since),
            _ => None,
        }
    }

    /// It has stood, and the server has not refused it: counts that, once, and returns for how
    /// long it has stood by now.
    pub fn stand(&mut self, sessions: &mut Sessions, now: Instant) -> Duration {
        let Some(since) = self.stands_since() else {
            return Duration::ZERO;
        };
        if !std::mem::replace(&mut self.has_stood, true) {
            sessions.connected += 1;
        }
        match self.lost_at.take() {
            None => {}
            Some(at) if since.duration_since(at) <= COMEBACK => sessions.came_back += 1,
            Some(_) => sessions.came_back_late += 1,
        }
        now.duration_since(since)
    }

    /// It was lost, and may come back.
    pub fn lose(&mut self, now: Instant) {
        self.lost_at = Some(now);
    }
}

impl Sessions {
    /// What has come since an earlier moment; what is a level stays as it is.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            failed_connects: self.failed_connects - earlier.failed_connects,
            lost: self.lost - earlier.lost,
            came_back: self.came_back - earlier.came_back,
            came_back_late: self.came_back_late - earlier.came_back_late,
            left: self.left - earlier.left,
            refused: self.refused - earlier.refused,
            ..*self
        }
    }
}
