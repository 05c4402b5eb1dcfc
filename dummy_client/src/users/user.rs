//! One user of the load, over all its connections.

use crate::report::Sessions;
use server_core::SessionId;
use server_core::backoff::Backoff;
use std::time::{Duration, Instant};

/// A user that reconnects within this time after a loss does not fail the run.
const RECONNECT_TIME: Duration = Duration::from_secs(10);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A session of at least this length resets the backoff.
const STABLE: Duration = Duration::from_secs(1);

/// One user.
///
/// ```text
///            start                connected             close
///   Idle ------------> Connecting ---------> Connected --------> Closing
///    ^  ^                 ^    |                |                  |
///    |  |  timer of the   |    | failed,        | lost             | closed: Idle, or Connecting
///    |  |  backoff        |    | refused        v                  | if the user is wanted again
///    |  |                 +-- Backoff <---------+                  v
///    |  +------------------------|------------------------------- Idle
///    |  no longer wanted         | without reconnect
///    +---------------------------+----> Failed
/// ```
#[derive(Debug)]
pub(crate) struct VirtualUser {
    pub state: State,
    backoff: Backoff,
    /// The user was connected at least once, and not refused.
    was_connected: bool,
    /// When the user was lost, until it is connected again.
    lost_at: Option<Instant>,
    /// The latest connect failed for want of a port, descriptor or memory of this machine.
    pub is_limited: bool,
    /// Number of connections so far: a timer of an earlier connection is void.
    pub connections: u32,
    /// The two fields before the present connection: a refusal restores them.
    before: (bool, Option<Instant>),
    /// The number of the present session and the time without a session before it, until the server has not refused
    /// it.
    undecided: Option<(u64, Option<Duration>)>,
}

/// The state of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The run does not want the user now.
    Idle,
    /// The connection is being made.
    Connecting,
    /// The user has a session.
    Connected { since: Instant, id: SessionId },
    /// The run closes the session.
    Closing { since: Instant },
    /// The user waits for the next attempt.
    Backoff,
    /// The user was lost or never connected, and the run does not reconnect.
    Failed,
}

impl Default for VirtualUser {
    fn default() -> Self {
        Self {
            state: State::Idle,
            backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
            was_connected: false,
            lost_at: None,
            connections: 0,
            before: (false, None),
            undecided: None,
            is_limited: false,
        }
    }
}

impl VirtualUser {
    /// The start of its session.
    pub fn connected_since(&self) -> Option<Instant> {
        match self.state {
            State::Connected { since, .. } | State::Closing { since } => Some(since),
            _ => None,
        }
    }

    /// The user has a session. `number`: that of the session in the whole run.
    pub fn on_connected(
        &mut self,
        sessions: &mut Sessions,
        number: u64,
        since: Instant,
        id: SessionId,
    ) {
        self.state = State::Connected { since, id };
        self.connections = self.connections.wrapping_add(1);
        self.before = (self.was_connected, self.lost_at);
        sessions.connected_at_end += 1;
        if !std::mem::replace(&mut self.was_connected, true) {
            sessions.connected += 1;
        }
        let lost_at = self.lost_at.take();
        let outage = lost_at.map(|at| since.saturating_duration_since(at));
        if let Some(outage) = outage {
            *reconnects(sessions, outage) += 1;
        }
        self.undecided = Some((number, outage));
    }

    /// The server has refused the user at once: this session does not count. Returns its number, if the user was not
    /// [admitted](Self::admit).
    pub fn on_refused(&mut self, sessions: &mut Sessions) -> Option<u64> {
        sessions.connected_at_end -= 1;
        if !self.before.0 {
            sessions.connected -= 1;
        }
        (self.was_connected, self.lost_at) = self.before;
        let (number, outage) = self.undecided.take()?;
        if let Some(outage) = outage {
            *reconnects(sessions, outage) -= 1;
        }
        Some(number)
    }

    /// The session was lost.
    pub fn on_lost(&mut self, sessions: &mut Sessions, now: Instant) {
        sessions.connected_at_end -= 1;
        sessions.lost += 1;
        let since = self.connected_since().unwrap_or(now);
        if now.saturating_duration_since(since) >= STABLE {
            self.backoff.reset();
        }
        self.lost_at = Some(now);
    }

    /// The session has ended as the run or the bot wanted.
    pub fn on_closed(&mut self, sessions: &mut Sessions) {
        sessions.connected_at_end -= 1;
        sessions.closed += 1;
        self.state = State::Idle;
    }

    /// The delay before the next attempt.
    pub fn next_delay(&mut self, random: u32) -> Duration {
        self.backoff.next_delay(random)
    }

    /// The server has not refused the present session: returns its number and the time without a session before it,
    /// once.
    pub fn admit(&mut self) -> Option<(u64, Option<Duration>)> {
        self.undecided.take()
    }

    /// The user had a session, closed it by plan, and has none although it should.
    pub fn is_not_reconnected(&self) -> bool {
        self.is_disconnected() && self.was_connected && self.lost_at.is_none()
    }

    /// The user should have a session and has none.
    pub fn is_disconnected(&self) -> bool {
        matches!(self.state, State::Failed | State::Backoff)
    }
}

fn reconnects(sessions: &mut Sessions, outage: Duration) -> &mut u64 {
    if outage <= RECONNECT_TIME {
        &mut sessions.reconnected
    } else {
        &mut sessions.reconnected_late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SessionId {
        SessionId::new(1, 0, 0)
    }

    #[test]
    fn a_reconnect_within_ten_seconds_is_told_from_a_later_one() {
        let (mut user, mut sessions) = (VirtualUser::default(), Sessions::default());
        let start = Instant::now();
        user.on_connected(&mut sessions, 0, start, id());
        user.on_lost(&mut sessions, start);
        user.on_connected(&mut sessions, 0, start + RECONNECT_TIME, id());
        assert_eq!((sessions.connected, sessions.reconnected), (1, 1));
        assert_eq!(user.admit(), Some((0, Some(RECONNECT_TIME))));
        user.on_lost(&mut sessions, start + RECONNECT_TIME);
        user.on_connected(&mut sessions, 0, start + RECONNECT_TIME * 3, id());
        assert_eq!((sessions.reconnected, sessions.reconnected_late), (1, 1));
        assert_eq!(user.admit(), Some((0, Some(RECONNECT_TIME * 2))));
    }

    #[test]
    fn a_refused_user_was_never_connected_and_its_outage_goes_on() {
        let (mut user, mut sessions) = (VirtualUser::default(), Sessions::default());
        let start = Instant::now();
        user.on_connected(&mut sessions, 0, start, id());
        user.on_refused(&mut sessions);
        assert_eq!((sessions.connected, sessions.connected_at_end), (0, 0));
        user.on_connected(&mut sessions, 0, start, id());
        user.on_lost(&mut sessions, start);
        user.on_connected(&mut sessions, 0, start, id());
        user.on_refused(&mut sessions);
        assert_eq!((sessions.connected, sessions.reconnected), (1, 0));
        assert_eq!(user.admit(), None);
        let later = start + RECONNECT_TIME * 2;
        user.on_connected(&mut sessions, 0, later, id());
        assert_eq!(user.admit(), Some((0, Some(RECONNECT_TIME * 2))));
        assert_eq!((sessions.reconnected, sessions.reconnected_late), (0, 1));
    }
}
