//! The instants at which a listener accepts: after an edge, and after a pause. No socket and no clock.

use crate::base::backoff::Backoff;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

/// Turns the results of `accept` into "accept again", "wait for the next edge" or "retry at this
/// instant".
///
/// The poll reports an edge once, for any number of connections. A listener that stops before `accept`
/// would block, because a batch is full or no descriptor is left, gets no further event. The acceptor
/// remembers that connections may be waiting.
#[derive(Debug)]
pub struct Acceptor {
    /// Connections may be waiting that no event will announce.
    is_open: bool,
    /// A pause until this instant: the last `accept` failed for want of a resource.
    retry_at: Option<Instant>,
    backoff: Backoff,
    next_log_at: Option<Instant>,
}

/// The outcome of one call of `accept`.
#[derive(Debug)]
pub enum AcceptOutcome<C> {
    /// A connection.
    Connection(C),
    /// The peer left before the connection was accepted; other connections may be waiting.
    Again,
    /// No connection waits: the next edge announces more.
    Empty,
    /// No descriptor is left, most likely: the listener pauses until [`Acceptor::retry_at`].
    Paused {
        /// The error of `accept`.
        error: io::Error,
        /// Whether the last log line about a pause is [`LOG_INTERVAL`] old.
        should_log: bool,
    },
}

/// The time between two log lines about pauses. At the limit of descriptors, pauses begin and end many
/// times a second.
pub const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// The shortest and the longest pause after a failed `accept`. The longest is short, because connections
/// may be waiting.
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
    /// An open acceptor: connections may have come before the first poll.
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
    /// Notes that the listening socket has become ready. During a pause this changes nothing.
    pub fn handle_readable(&mut self) {
        self.is_open |= self.retry_at.is_none();
    }

    /// Whether to accept now.
    pub fn may_accept(&mut self, now: Instant) -> bool {
        self.is_open |= self.retry_at.take_if(|at| *at <= now).is_some();
        self.is_open
    }

    /// Whether connections may be waiting that no event will announce.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// The instant at which the pause ends, if there is one.
    #[must_use]
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Evaluates the result of one call of `accept`. The caller accepts again as long as there are
    /// connections and its batch is not full.
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
            // The connection stays in the backlog, and no new edge announces it: a timer has to.
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
    fn open_until_accept_would_block_and_again_after_an_edge() {
        let (mut acceptor, now) = (Acceptor::default(), Instant::now());
        assert!(acceptor.may_accept(now));
        assert!(matches!(
            acceptor.evaluate(Ok(7), now),
            AcceptOutcome::Connection(7)
        ));
        assert!(acceptor.is_open(), "a full batch leaves the acceptor open");
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
    fn failed_accept_retries_without_an_edge_and_logs_once_an_interval() {
        let (mut acceptor, mut now) = (Acceptor::default(), Instant::now());
        let mut logged = 0;
        for _ in 0..100 {
            assert!(acceptor.may_accept(now));
            if let AcceptOutcome::Paused { should_log, .. } =
                acceptor.evaluate(fails(ErrorKind::Other), now)
            {
                logged += u32::from(should_log);
            }
            acceptor.handle_readable();
            assert!(!acceptor.may_accept(now), "an edge does not end a pause");
            let at = acceptor.retry_at().unwrap();
            assert!(at > now && at <= now + RETRY.1);
            now = at;
        }
        assert_eq!(logged, 2, "a hundred tries in some 50 seconds");
        assert!(acceptor.may_accept(now));
        assert!(matches!(
            acceptor.evaluate(Ok(()), now),
            AcceptOutcome::Connection(())
        ));
        assert!(acceptor.retry_at().is_none());
    }
}
