//! The bound of all memory that peers can use up.
//!
//! Each worker counts what waits in its queues and in the rests of packets that have begun; the sum over
//! the workers is read once a turn. Above three quarters of the bound, a session with more than a little
//! in its queue is not read. Above the bound, a worker with more than its share ends the sessions with
//! the longest queues.

use super::Shard;
use crate::base::id::SessionId;
use crate::base::reason::Kick;
use crate::connection::ReadLimits;
use crate::session::Session;
use crate::transport::Transport;
use std::cmp::Reverse;
use std::time::{Duration, Instant};

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    fn max_total_bytes(&self) -> usize {
        self.shared
            .config
            .max_total_queue_bytes
            .unwrap_or(usize::MAX)
    }

    /// The beginning of a turn: how long a queue may be whose session is read.
    pub(super) fn update_read_limits(&mut self) {
        let (config, total) = (&self.shared.config, self.shared.metrics.waiting_bytes());
        let pressure_bytes = self.max_total_bytes() / 4 * 3;
        self.read_limits = ReadLimits::new(config, total > pressure_bytes);
    }

    /// The end of a turn: ends the sessions with the longest queues if all queues together are too long.
    /// Returns whether there were any.
    pub(super) fn end_longest_queues(&mut self, now: Instant) -> bool {
        let max_bytes = self.max_total_bytes();
        let own_bytes = self.metrics().waiting_bytes();
        let share_bytes = max_bytes / self.shared.router.workers();
        if self.shared.metrics.waiting_bytes() <= max_bytes || own_bytes <= share_bytes {
            return false;
        }
        // Some more than has to go, so that this is not done in every turn.
        let mut excess_bytes = own_bytes - share_bytes / 8 * 7;
        let mut queues: Vec<(usize, SessionId)> = Vec::new();
        self.table.visit_all(|id, connection| {
            queues.push((connection.waiting_bytes(), id));
        });
        queues.extend((self.draining.iter()).map(|(id, draining)| (draining.queued_bytes(), *id)));
        queues.sort_unstable_by_key(|(bytes, _)| Reverse(*bytes));
        let mut ended = 0_usize;
        for (bytes, id) in queues.into_iter().take_while(|(bytes, _)| *bytes > 0) {
            if excess_bytes == 0 {
                break;
            }
            excess_bytes = excess_bytes.saturating_sub(bytes);
            ended += 1;
            match self.draining.remove(&id) {
                Some(mut draining) => {
                    self.timeouts.disarm(id, &mut draining.timer);
                    self.count(&draining.abandon());
                }
                None => self.close(id, Kick::SlowConsumer.into()),
            }
        }
        if ended > 0 && self.memory_warning_at.is_none_or(|at| at <= now) {
            self.memory_warning_at = Some(now + WARNING_INTERVAL);
            log::warn!(
                "all queues hold more than {max_bytes} bytes (max_total_queue_bytes): ended the {ended} \
                 longest"
            );
        }
        ended > 0
    }

    /// Whether much memory has been freed since it was last given back to the system.
    pub fn wants_to_give_back(&mut self, now: Instant) -> bool {
        let bytes = self.metrics().waiting_bytes();
        self.peak_bytes = self.peak_bytes.max(bytes);
        let least_bytes = GIVE_BACK_BYTES / self.shared.router.workers();
        let has_fallen = self.peak_bytes - bytes > least_bytes && bytes < self.peak_bytes / 2;
        if !has_fallen {
            self.give_back_at = None;
            return false;
        }
        // More may be about to go.
        let at = *self.give_back_at.get_or_insert(now + GIVE_BACK_DELAY);
        let is_due = at <= now;
        if is_due {
            self.peak_bytes = bytes;
            self.give_back_at = None;
        }
        is_due
    }
}

/// One line about ended sessions in this time.
const WARNING_INTERVAL: Duration = Duration::from_secs(5);
/// Less than this on all workers is not worth a call.
const GIVE_BACK_BYTES: usize = 8 << 20;
/// From when much has been freed to when it is given back.
const GIVE_BACK_DELAY: Duration = Duration::from_secs(3);
