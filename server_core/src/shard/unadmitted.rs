//! Sessions that have not logged in: how many there may be, and which of them goes first.

use super::{MIN_PACKET_COST, Shard};
use crate::base::id::SessionId;
use crate::base::reason::DisconnectReason;
use crate::connection::Connection;
use crate::session::Session;
use crate::shard::table::SessionTable;
use crate::transport::Transport;
use std::collections::VecDeque;
use std::time::Instant;

/// The unadmitted sessions of one worker.
#[derive(Debug, Default)]
pub(super) struct Unadmitted {
    /// Each of them in the order of arrival, among others that were admitted or have left.
    queue: VecDeque<SessionId>,
    /// Unadmitted sessions in the table.
    pub(super) count: usize,
    /// Places that the latest arrival found too few.
    pub(super) missing_places: usize,
    /// Connections taken over since [`Admission::settle`] was last called.
    pub(super) unsettled: usize,
}

#[cfg(test)]
impl Unadmitted {
    pub(super) fn queue_len(&self) -> usize {
        self.queue.len()
    }
}

/// Entries that the queue may have beyond twice the sessions that it is about.
const SLACK: usize = 64;

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    /// A session has come that has to log in.
    pub(super) fn await_login(&mut self, id: SessionId) {
        let free_places = self.table.visit(id, |connection| {
            connection.is_admitted = false;
            connection.permit().admission().free()
        });
        let Some(free_places) = free_places else {
            return;
        };
        let unadmitted = &mut self.unadmitted;
        unadmitted.count += 1;
        if unadmitted.queue.len() > 2 * unadmitted.count + SLACK {
            // More than half of the entries go: an arrival costs two steps of such a walk at most.
            let table = &mut self.table;
            (unadmitted.queue).retain(|id| is_unadmitted(table, *id));
        }
        unadmitted.queue.push_back(id);
        let wanted = self.shared.config.places_for_newcomers();
        // One goes for each that comes: places that are free are not taken from a login under way.
        let missing_places = wanted.saturating_sub(free_places);
        unadmitted.missing_places = missing_places.min(unadmitted.missing_places + 1);
    }

    pub(super) fn admit(&mut self, id: SessionId) {
        let was_admitted = self.table.visit(id, |connection| {
            std::mem::replace(&mut connection.is_admitted, true)
        });
        self.unadmitted.count -= usize::from(was_admitted == Some(false));
    }

    /// Sessions that have to end, beside `leaving` sessions that end already: sessions over the cap, and
    /// sessions whose places the next peers need. The newest session does not end for a place.
    pub(super) fn unadmitted_excess(&self, leaving: usize) -> usize {
        let count = self.unadmitted.count.saturating_sub(leaving);
        let over = count.saturating_sub(self.shared.config.max_unadmitted_of_worker());
        over.max(self.unadmitted.missing_places.min(count.saturating_sub(1)))
    }

    /// Ends the oldest unadmitted sessions where there are too many. As at a deadline, each is read once
    /// more before: its login may lie in its socket. What the input of a turn has no room for waits for
    /// the next one.
    pub(super) fn evict_unadmitted(&mut self, now: Instant) {
        let mut left = self.shared.config.turn_input_bytes;
        let mut leaving = 0;
        while self.unadmitted_excess(leaving) > 0 && left > 0 && self.may_read() {
            let Some(id) = self.unadmitted.queue.pop_front() else {
                debug_assert!(false, "each unadmitted session is in the queue");
                break;
            };
            if !is_unadmitted(&mut self.table, id) {
                continue;
            }
            let state = (self.table).visit(id, |connection| {
                (connection.is_leaving, connection.is_held())
            });
            match state {
                // Its end is decided, for another reason.
                Some((true, _)) | None => {
                    leaving += 1;
                    continue;
                }
                // The look itself is a system call.
                Some((false, false)) => {
                    left = left.saturating_sub(self.read_once_more(id, now).max(MIN_PACKET_COST));
                }
                Some((false, true)) => {}
            }
            match self.table.visit(id, |connection| connection.is_admitted) {
                Some(true) => continue,
                // Not behind what waits for others: its place is needed now.
                Some(false) => self.close(id, DisconnectReason::LoginTimeout),
                None => {}
            }
            leaving += 1;
            self.unadmitted.missing_places = self.unadmitted.missing_places.saturating_sub(1);
        }
        if leaving > 0 {
            self.reap_evicted(now);
        }
        if self.unadmitted_excess(0) == 0
            && let Some(admission) = &self.admission
        {
            admission.settle(std::mem::take(&mut self.unadmitted.unsettled));
        }
    }
}

fn is_unadmitted<T: Transport, S>(
    table: &mut SessionTable<Connection<T, S>>,
    id: SessionId,
) -> bool {
    table.visit(id, |connection| !connection.is_admitted) == Some(true)
}
