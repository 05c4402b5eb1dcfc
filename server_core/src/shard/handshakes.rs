//! Handshakes: sessions whose transport has something to agree on before packets flow.

use super::Shard;
use crate::base::id::SessionId;
use crate::base::reason::DisconnectReason;
use crate::session::Session;
use crate::transport::Transport;
use std::collections::VecDeque;
use std::time::Instant;

/// The handshakes of one worker.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    /// Each of them in the order of arrival, among others that are complete or have left.
    queue: VecDeque<SessionId>,
    /// Sessions in the table whose handshake is not complete.
    pub(super) count: usize,
}

/// What one step of a handshake costs of the input of a turn: a signature takes about as long as reading
/// this many bytes.
const STEP_COST: usize = 16 << 10;
/// Entries that the queue may have beyond twice the handshakes that it is about.
const SLACK: usize = 64;

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    /// The handshake of a session begins: its first step is taken when its turn to be read comes.
    pub(super) fn await_handshake(&mut self, id: SessionId) {
        self.handshakes.count += 1;
        if self.handshakes.queue.len() > 2 * self.handshakes.count + SLACK {
            let table = &mut self.table;
            self.handshakes.queue.retain(|id| {
                table.visit(*id, |connection| connection.is_handshaking()) == Some(true)
            });
        }
        self.handshakes.queue.push_back(id);
        self.rearm(id);
        self.list_readable(id);
    }

    /// Takes one step of a handshake, and returns what that costs of the turn's input.
    pub(super) fn handshake(&mut self, id: SessionId, now: Instant) -> usize {
        let is_done = self.table.try_visit(id, |connection| {
            connection.has_input = false;
            connection.handshake(now)
        });
        if is_done == Some(true) {
            self.handshakes.count -= 1;
            self.connected(id, now);
            // The peer's first packets may have come with the end of its handshake; no edge comes again.
            self.list_readable(id);
            self.list_flush(id);
        }
        STEP_COST
    }

    /// Handshakes over the cap, beside those that leave already.
    pub(super) fn handshake_excess(&self, leaving: usize) -> usize {
        let count = self.handshakes.count.saturating_sub(leaving);
        count.saturating_sub(self.shared.config.max_handshakes_of_worker())
    }

    /// Ends the oldest handshakes where there are too many.
    pub(super) fn evict_handshakes(&mut self, now: Instant) {
        let mut leaving = 0;
        while self.handshake_excess(leaving) > 0 {
            let Some(id) = self.handshakes.queue.pop_front() else {
                debug_assert!(false, "each handshake is in the queue");
                break;
            };
            let is_handshaking = self
                .table
                .visit(id, |connection| connection.is_handshaking());
            if is_handshaking == Some(true) {
                self.close(id, DisconnectReason::Handshake);
                leaving += 1;
            }
        }
        if leaving > 0 {
            self.flush_and_reap(now);
        }
    }
}
