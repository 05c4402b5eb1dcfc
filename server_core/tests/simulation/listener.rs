//! A fake listening socket: a backlog, edges, and descriptors that can run out.

use crate::transport::Accepted;
use server_core::runtime::acceptor::{AcceptOutcome, Acceptor, LOG_INTERVAL, RETRY};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Instant;

/// A listener without a socket: it does around the acceptor what `listener.rs` does.
#[derive(Debug)]
pub struct FakeListener {
    acceptor: Acceptor,
    backlog: VecDeque<(Accepted, SocketAddr)>,
    edge: bool,
    /// Whether the last accept met "would block". Only then is the next connection an edge.
    is_blocked: bool,
    is_closed: bool,
    /// When the last accept failed. `None` after an accept that succeeded.
    failed_at: Option<Instant>,
    said_at: Option<Instant>,
    pub failures: u64,
    pub offences: Vec<String>,
}

impl Default for FakeListener {
    fn default() -> Self {
        Self {
            acceptor: Acceptor::default(),
            backlog: VecDeque::new(),
            edge: false,
            is_blocked: true,
            is_closed: false,
            failed_at: None,
            said_at: None,
            failures: 0,
            offences: Vec::new(),
        }
    }
}

impl FakeListener {
    /// Adds a connection that the kernel has made to the backlog.
    pub fn arrive(&mut self, stream: Accepted, addr: SocketAddr) {
        if !self.is_closed {
            self.backlog.push_back((stream, addr));
            self.edge |= std::mem::take(&mut self.is_blocked);
        }
    }

    /// Closes the listener, and drops the connections in its backlog.
    pub fn close(&mut self) {
        self.is_closed = true;
        self.backlog.clear();
    }

    pub fn waiting(&self) -> usize {
        self.backlog.len()
    }

    pub fn needs_turn(&self, now: Instant) -> bool {
        let is_due = self.acceptor.retry_at().is_some_and(|at| at <= now);
        !self.is_closed && (self.edge || self.acceptor.is_open() || is_due)
    }

    /// Runs one turn of the loop of the listener. Returns the accepted connections, at most `batch`.
    pub fn turn(
        &mut self,
        batch: usize,
        mut descriptors: usize,
        rng: &mut fastrand::Rng,
        now: Instant,
    ) -> Vec<(Accepted, SocketAddr)> {
        let mut accepted = Vec::new();
        if self.is_closed {
            return accepted;
        }
        if std::mem::take(&mut self.edge) || rng.u32(..20) == 0 {
            self.acceptor.handle_readable();
        }
        if !self.acceptor.may_accept(now) {
            return accepted;
        }
        for _ in 0..batch {
            let answer = self.accept(descriptors, rng, now);
            match self.acceptor.evaluate(answer, now) {
                AcceptOutcome::Connection(connection) => {
                    descriptors -= 1;
                    self.failed_at = None;
                    accepted.push(connection);
                }
                AcceptOutcome::Again => {}
                AcceptOutcome::Empty => break,
                AcceptOutcome::Paused { should_log, .. } => {
                    self.note_said(should_log, now);
                    break;
                }
            }
        }
        accepted
    }

    fn accept(
        &mut self,
        descriptors: usize,
        rng: &mut fastrand::Rng,
        now: Instant,
    ) -> io::Result<(Accepted, SocketAddr)> {
        if rng.u32(..40) == 0 {
            return Err(ErrorKind::Interrupted.into());
        }
        if self.backlog.is_empty() {
            self.is_blocked = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        if rng.u32(..40) == 0 {
            // The peer reset the connection while it waited. Its drop here ends it.
            self.backlog.pop_front();
            return Err(ErrorKind::ConnectionAborted.into());
        }
        if descriptors == 0 {
            self.failures += 1;
            let before = self.failed_at.replace(now);
            if before.is_some_and(|at| now < at + RETRY.0) {
                (self.offences).push("the listener spins on an accept that has just failed".into());
            }
            return Err(io::Error::other("too many open files"));
        }
        // The backlog is not empty: the check above returns.
        Ok(self.backlog.pop_front().unwrap())
    }

    fn note_said(&mut self, should_log: bool, now: Instant) {
        if should_log
            && self
                .said_at
                .replace(now)
                .is_some_and(|at| now < at + LOG_INTERVAL)
        {
            (self.offences).push("the listener logs twice that it cannot accept".into());
        }
    }
}
