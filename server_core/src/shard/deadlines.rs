//! Deadlines: timers of the sessions, timeouts, and the end of draining streams.

use super::{STALL, Shard};
use crate::base::id::SessionId;
use crate::base::reason::DisconnectReason;
use crate::connection::{Connection, Expired, Flushed};
use crate::routing::outbox;
use crate::session::Session;
use crate::transport::Transport;
use std::time::{Duration, Instant};

/// Delay of a check that cannot be made now.
const RETRY: Duration = Duration::from_millis(100);

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    pub(super) fn rearm(&mut self, id: SessionId) {
        let (timeouts, config) = (&mut self.timeouts, &self.shared.config);
        self.table.visit(id, |connection| {
            if let Some(at) = connection.next_deadline(config) {
                timeouts.arm(id, &mut connection.timer, at);
            }
        });
    }

    fn defer_check(&mut self, id: SessionId, at: Instant, now: Instant) {
        let (timeouts, config) = (&mut self.timeouts, &self.shared.config);
        self.table.visit(id, |connection| {
            // Its own timer and its other deadlines must not wait for that.
            let other = connection.next_deadline_after(now, config);
            let at = other.map_or(at, |other| other.min(at));
            timeouts.rearm(id, &mut connection.timer, at);
        });
    }

    pub(super) fn check_deadlines(&mut self, now: Instant) {
        if self.disconnect_summary_at.is_some_and(|at| at <= now) {
            self.disconnect_summary_at = self.shared.disconnect_log.flush(now);
        }
        // A deadline that is long past says that this process did not run meanwhile.
        let late = (self.timeouts.next_at())
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if late > STALL && self.grace_until.is_none_or(|at| at <= now) {
            self.grace_until = Some(now + late);
        }
        // Collected first: a timer that is set to "now" again comes up in the next turn.
        let due: Vec<SessionId> = std::iter::from_fn(|| self.timeouts.pop_due(now)).collect();
        // Sessions that began together are due together, and all of them may have sent by now.
        let mut left = self.shared.config.turn_input_bytes;
        for id in due {
            if let Some(draining) = self.draining.get_mut(&id) {
                draining.timer.cleared();
                self.advance_draining(id, now);
                continue;
            }
            self.table
                .visit(id, |connection| connection.timer.cleared());
            match left {
                0 => self.defer_check(id, now, now),
                _ => left = left.saturating_sub(self.check_deadline(id, now)),
            }
        }
    }

    /// Checks the deadlines of one session. A last read comes before each kick for time: this process may
    /// have been stopped or busy, and the peer's bytes may lie in the socket. Returns the cost of the read in
    /// bytes of the turn's input.
    fn check_deadline(&mut self, id: SessionId, now: Instant) -> usize {
        if (self.table).visit(id, |connection| connection.is_leaving) != Some(false) {
            return 0;
        }
        // What a callback posts through a handle would lengthen an outbox that is not empty.
        let may_call = outbox::is_empty();
        let is_timer_due =
            (self.table).visit(id, |connection| may_call && connection.take_timer(now));
        if is_timer_due == Some(true) {
            self.call(id, now, |session, ctx| session.on_timer(ctx));
        }
        let limits = self.read_limits;
        let resumes = (self.table).visit(id, |connection| connection.resume(limits, now));
        if resumes == Some(true) {
            self.list_readable(id);
        }
        match self.expired(id, now) {
            Expired::None if !may_call => self.defer_check(id, now + RETRY, now),
            Expired::None => self.rearm(id),
            Expired::Close(reason) => self.close(id, reason),
            Expired::ReadThenClose(_) if !self.may_read() => self.defer_check(id, now + RETRY, now),
            Expired::ReadThenClose(_) => {
                let cost = self.read_once_more(id, now);
                let has_more = self.table.visit(id, |connection| connection.has_input);
                match self.expired(id, now) {
                    // More input may hold the end of a packet. It is not a login, and not a handshake.
                    Expired::ReadThenClose(reason)
                        if has_more == Some(true)
                            && reason != DisconnectReason::LoginTimeout
                            && reason != DisconnectReason::Handshake =>
                    {
                        self.defer_check(id, now + RETRY, now);
                    }
                    // A handshake takes several round trips, and could not take them during a stall.
                    Expired::ReadThenClose(DisconnectReason::Handshake)
                        if self.grace_until.is_some_and(|at| now < at) =>
                    {
                        self.defer_check(id, self.grace_until.unwrap_or(now), now);
                    }
                    Expired::ReadThenClose(reason) => self.close_in_order(id, reason),
                    _ => self.rearm(id),
                }
                return cost;
            }
            Expired::WriteThenClose(_) => {
                self.table.visit(id, Connection::assume_writable);
                let mut flushed = Flushed::default();
                self.flush(id, now, &mut flushed);
                self.count(&flushed);
                // On the list again: the peer takes, only the budget was used up.
                let has_more = self.table.visit(id, |connection| connection.is_dirty);
                match (self.expired(id, now), self.grace_until) {
                    (Expired::WriteThenClose(_), _) if has_more == Some(true) => {
                        self.defer_check(id, now + RETRY, now);
                    }
                    // While this process did not run, no peer could take a byte: a session with an old byte
                    // gets as much time as the stall took.
                    (Expired::WriteThenClose(_), Some(at)) if now < at => {
                        self.defer_check(id, at, now)
                    }
                    (Expired::WriteThenClose(reason), _) => self.close(id, reason),
                    _ => self.rearm(id),
                }
            }
        }
        0
    }

    /// The deadline of one session that has expired, its own timer excepted.
    fn expired(&mut self, id: SessionId, now: Instant) -> Expired {
        let config = &self.shared.config;
        self.table
            .visit(id, |connection| connection.expired(config, now))
            .unwrap_or(Expired::None)
    }
}
