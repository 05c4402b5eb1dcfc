//! When a listener may accept: after an edge, and after a pause. Knows no socket and no clock.

use crate::base::backoff::Backoff;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

/// Turns the answers of `accept` into "go on", "wait for the next edge" or "come back then".
///
/// An edge tells once of connections that came, however many there are. Whoever stops before
/// accept would block, because a batch is full or no descriptor is left, is told nothing more by
/// the poll, and has to remember it: that is this gate.
#[derive(Debug)]
pub struct Acceptor {
    /// More may be waiting, and no event will say so.
    is_open: bool,
    /// Closed until then: the last try failed for want of something.
    retry_at: Option<Instant>,
    backoff: Backoff,
    next_log_at: Option<Instant>,
}

/// What one call of `accept` came to.
#[derive(Debug)]
pub enum AcceptOutcome<C> {
    /// A connection.
    Connection(C),
    /// That one was gone before it was accepted; there may be others.
    Again,
    /// Nobody waits: the next edge will tell.
    Empty,
    /// Out of descriptors, most likely: the gate is closed for a while.
    Paused {
        /// Why.
        error: io::Error,
        /// Whether it was not said lately.
        should_log: bool,
    },
}

/// At the limit a place comes and goes many times a second; that is said once in this time.
pub const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// Waits after a failed accept. Short at the upper end: somebody may be waiting.
pub const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Whether `accept` failed because something is used up, descriptors most likely. The connection waits on.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::WouldBlock
            | ErrorKind::Interrupted
            | ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
    )
}

impl Default for Acceptor {
    /// Open: connections may have come before the first poll.
    fn default() -> Self {
        Self {
            is_open: true,
            retry_at: None,
            backoff: Backoff::new(RETRY.0, RETRY.1),
            next_log_at: None,
        }
    }
}

impl Acceptor {
    /// The listening socket has become ready. During a pause that is no news.
    pub fn handle_readable(&mut self) {
        self.is_open |= self.retry_at.is_none();
    }

    /// Whether to accept now.
    pub fn may_accept(&mut self, now: Instant) -> bool {
        self.is_open |= self.retry_at.take_if(|at| *at <= now).is_some();
        self.is_open
    }

    /// Whether more may be waiting that no event will announce.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// When a pause ends.
    #[must_use]
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Judges what `accept` has answered. The caller goes on as long as there are connections and
    /// its batch is not full.
    pub fn evaluate<C>(&mut self, answer: io::Result<C>, now: Instant) -> AcceptOutcome<C> {
        let error = match answer {
            Ok(connection) => {
                self.backoff.reset();
                return AcceptOutcome::Connection(connection);
            }
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::WouldBlock => {
                self.is_open = false;
                AcceptOutcome::Empty
            }
            // The connection stays in the backlog and no new edge will tell of it, so a timer has
            // to.
            _ if is_shortage(&error) => {
                self.is_open = false;
                self.retry_at = Some(now + self.backoff.next_delay(u32::MAX));
                let should_log = self.next_log_at.is_none_or(|at| at <= now);
                if should_log {
                    self.next_log_at = Some(now + LOG_INTERVAL);
                }
                AcceptOutcome::Paused { error, should_log }
            }
            // The others are of the one connection that was about to be accepted.
            _ => AcceptOutcome::Again,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(kind: ErrorKind) -> io::Result<()> {
        Err(kind.into())
    }

    #[test]
    fn open_until_nobody_waits_and_again_after_an_edge() {
        let (mut acceptor, now) = (Acceptor::default(), Instant::now());
        assert!(acceptor.may_accept(now));
        assert!(matches!(
            acceptor.evaluate(Ok(7), now),
            AcceptOutcome::Connection(7)
        ));
        assert!(acceptor.is_open(), "a full batch leaves it open");
        assert!(matches!(
            acceptor.evaluate(fails(ErrorKind::ConnectionAborted), now),
            AcceptOutcome::Again
        ));
        assert!(matches!(
            acceptor.evaluate(fails(ErrorKind::WouldBlock), now),
            AcceptOutcome::Empty
        ));
        assert!(!acceptor.may_accept(now) && acceptor.retry_at().is_none());
        acceptor.handle_readable();
        assert!(acceptor.may_accept(now));
    }

    #[test]
    fn out_of_descriptors_it_comes_back_without_an_edge_and_says_so_once() {
        let (mut acceptor, mut now) = (Acceptor::default(), Instant::now());
        let mut said = 0;
        for _ in 0..100 {
            assert!(acceptor.may_accept(now));
            if let AcceptOutcome::Paused { should_log, .. } =
                acceptor.evaluate(fails(ErrorKind::Other), now)
            {
                said += u32::from(should_log);
            }
            acceptor.handle_readable();
            assert!(!acceptor.may_accept(now), "an edge does not end a pause");
            let at = acceptor.retry_at().unwrap();
            assert!(at > now && at <= now + RETRY.1);
            now = at;
        }
        assert_eq!(said, 2, "a hundred tries in some 50 seconds");
        assert!(acceptor.may_accept(now));
        assert!(matches!(
            acceptor.evaluate(Ok(()), now),
            AcceptOutcome::Connection(())
        ));
        assert!(acceptor.retry_at().is_none());
    }
}
