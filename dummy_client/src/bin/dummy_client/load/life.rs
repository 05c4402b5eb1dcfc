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
    /// As it was before its connection stood.
    before: Before,
}

#[derive(Debug, Default)]
struct Before {
    has_stood: bool,
    lost_at: Option<Instant>,
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
    /// Those among them that had left or been away by plan, and could not come back.
    pub missing: usize,
    /// Those that had not seen the newest tick at the end, although it was waited for.
    pub behind: usize,
    /// Those that had not seen any tick, while others had; those that have left are among them.
    pub silent: usize,
    /// Attempts that the server refused because it was full; they count as failed connects.
    pub refused: u64,
    /// Seconds for which the whole server had been silent at the end of the run, or when the last
    /// session left, if that was too long.
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
            before: Before::default(),
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

    /// Its connection stands.
    pub fn arrive(&mut self, sessions: &mut Sessions, since: Instant, id: SessionId) {
        self.state = State::Live { since, id };
        self.stands = self.stands.wrapping_add(1);
        self.before = Before {
            has_stood: self.has_stood,
            lost_at: self.lost_at,
        };
        sessions.live += 1;
        sessions.max_live = sessions.max_live.max(sessions.live);
        if !std::mem::replace(&mut self.has_stood, true) {
            sessions.connected += 1;
        }
        if let Some(at) = self.lost_at.take() {
            *sessions.comebacks(since.duration_since(at)) += 1;
        }
    }

    /// The server has refused it at once: it never was here.
    pub fn take_back(&mut self, sessions: &mut Sessions) {
        let Some(since) = self.stands_since() else {
            return;
        };
        if !self.before.has_stood {
            sessions.connected -= 1;
        }
        if let Some(at) = self.before.lost_at {
            *sessions.comebacks(since.duration_since(at)) -= 1;
        }
        self.has_stood = self.before.has_stood;
        self.lost_at = self.before.lost_at;
    }

    /// It was lost, and may come back.
    pub fn lose(&mut self, now: Instant) {
        self.lost_at = Some(now);
    }

    /// It has stood, was not lost since, and yet has no connection and will not get one.
    pub fn is_missing(&self) -> bool {
        let is_away = matches!(self.state, State::Gone | State::Waiting);
        is_away && self.has_stood && self.lost_at.is_none()
    }
}

impl Sessions {
    fn comebacks(&mut self, after: Duration) -> &mut u64 {
        match after <= COMEBACK {
            true => &mut self.came_back,
            false => &mut self.came_back_late,
        }
    }

    /// What has come since an earlier moment; what is a level stays as it is.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            failed_connects: self.failed_connects.saturating_sub(earlier.failed_connects),
            lost: self.lost.saturating_sub(earlier.lost),
            // What is taken back later may have been counted earlier.
            came_back: self.came_back.saturating_sub(earlier.came_back),
            came_back_late: self.came_back_late.saturating_sub(earlier.came_back_late),
            left: self.left.saturating_sub(earlier.left),
            refused: self.refused.saturating_sub(earlier.refused),
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SessionId {
        SessionId::new(1, 0, 0)
    }

    #[test]
    fn a_comeback_counts_at_once_and_in_time() {
        let (mut life, mut sessions) = (Life::default(), Sessions::default());
        let start = Instant::now();
        life.arrive(&mut sessions, start, id());
        life.lose(start);
        life.arrive(&mut sessions, start + COMEBACK, id());
        assert_eq!((sessions.connected, sessions.came_back), (1, 1));
        life.lose(start + COMEBACK);
        life.arrive(&mut sessions, start + COMEBACK * 3, id());
        assert_eq!((sessions.came_back, sessions.came_back_late), (1, 1));
    }

    #[test]
    fn who_is_refused_was_never_here() {
        let (mut life, mut sessions) = (Life::default(), Sessions::default());
        let start = Instant::now();
        life.arrive(&mut sessions, start, id());
        life.take_back(&mut sessions);
        assert_eq!(sessions.connected, 0);
        life.arrive(&mut sessions, start, id());
        life.lose(start);
        life.arrive(&mut sessions, start, id());
        life.take_back(&mut sessions);
        assert_eq!((sessions.connected, sessions.came_back), (1, 0));
        life.arrive(&mut sessions, start + COMEBACK * 2, id());
        assert_eq!((sessions.came_back, sessions.came_back_late), (0, 1));
    }
}
