//! Output: packets are queued, and written once, at the end of the turn.
//!
//! A broadcast is in no queue: it waits as `pending_broadcast`. A session that gets a packet of its own behind
//! it is `detached`: it has the broadcast in its queue.

use super::tracing::heads;
use super::{MIN_PACKET_COST, Shard};
use crate::base::id::SessionId;
use crate::buffer::SendBuffer;
use crate::buffer::queue::PacketBatch;
use crate::connection::{Connection, Flushed};
use crate::groups::id::GroupId;
use crate::session::Session;
use crate::transport::Transport;
use std::time::Instant;

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    /// Bytes to every session in one turn: what one flush writes to a session, and no more than what
    /// makes its queue pace.
    fn most_common_bytes(&self) -> usize {
        let config = &self.shared.config;
        config.write_budget_bytes.min(config.pacing_bytes())
    }

    fn charge(&mut self, bytes: usize, sessions: usize) {
        let cost = bytes.max(MIN_PACKET_COST).saturating_mul(sessions);
        self.output_left = (self.output_left).saturating_sub_unsigned(cost);
    }

    pub(super) fn queue_for(&mut self, to: SessionId, buffer: SendBuffer) {
        self.charge(buffer.len(), 1);
        self.detach(to);
        let head = heads(&buffer).next();
        if self.queue_if(to, buffer, |_| true).is_some() {
            self.count_packet_sent(head, 1);
        } else {
            self.metrics().undeliverable.add(1);
        }
    }

    pub(super) fn queue_for_all(&mut self, buffer: &SendBuffer) {
        self.charge(buffer.len(), self.table.len());
        self.count_sent(buffer, self.table.connected());
        self.common_bytes += buffer.len();
        if self.common_bytes > self.most_common_bytes() {
            // More than this would fill every queue before its socket has had a chance to take any.
            self.output_left = self.output_left.min(0);
        }
        if self
            .pending_broadcast
            .as_mut()
            .is_some_and(|run| run.append(buffer))
        {
            for index in 0..self.detached.len() {
                self.queue_if_open(self.detached[index], buffer);
            }
        } else {
            self.flush_broadcast_to_queues();
            self.pending_broadcast = Some(PacketBatch::new(buffer.clone()));
        }
    }

    pub(super) fn queue_for_group(
        &mut self,
        group: GroupId,
        except: Option<SessionId>,
        buffer: &SendBuffer,
    ) {
        let members = self.groups.members(group).len();
        self.charge(buffer.len(), members);
        let mut sessions = 0;
        for index in 0..members {
            let id = self.groups.members(group)[index];
            if Some(id) != except {
                self.detach(id);
                sessions += usize::from(self.queue_if_open(id, buffer));
            }
        }
        self.count_sent(buffer, sessions);
    }

    /// Queues a packet for a session that is open: not for one that closes, connects or shakes hands. Returns
    /// whether it is open.
    fn queue_if_open(&mut self, id: SessionId, buffer: &SendBuffer) -> bool {
        self.queue_if(id, buffer.clone(), Connection::is_open) == Some(true)
    }

    fn queue_if(
        &mut self,
        id: SessionId,
        buffer: SendBuffer,
        takes: impl Fn(&Connection<T, S>) -> bool,
    ) -> Option<bool> {
        if self.is_tracing() && self.table.visit(id, |connection| takes(connection)) == Some(true) {
            self.trace_sent(id, &buffer);
        }
        let high = self.shared.config.pacing_bytes();
        let (is_taken, is_new, starts_pacing) = self.table.visit(id, |connection| {
            let is_taken = takes(connection);
            let is_new = is_taken && connection.queue(buffer);
            (is_taken, is_new, connection.starts_pacing(high))
        })?;
        if is_new {
            self.dirty.push(id);
        }
        if starts_pacing {
            self.start_pacing(id);
        }
        Some(is_taken)
    }

    /// Queues the pending broadcast for a session, before a packet for this session alone.
    pub(super) fn detach(&mut self, id: SessionId) {
        let Some(run) = &self.pending_broadcast else {
            return;
        };
        let (detached, dirty) = (&mut self.detached, &mut self.dirty);
        let is_new = self.table.visit(id, |connection| {
            let is_new =
                connection.is_open() && !std::mem::replace(&mut connection.is_detached, true);
            if is_new {
                detached.push(id);
                if connection.queue_batch(run.clone()) {
                    dirty.push(id);
                }
            }
            is_new
        });
        if is_new == Some(true)
            && self.is_tracing()
            && let Some(run) = self.pending_broadcast.clone()
        {
            self.trace_sent(id, run.bytes());
        }
    }

    /// Queues the pending broadcast for all sessions, before a broadcast that lies elsewhere.
    pub(super) fn flush_broadcast_to_queues(&mut self) {
        let Some(run) = self.pending_broadcast.take() else {
            return;
        };
        self.trace_broadcast(run.bytes());
        let dirty = &mut self.dirty;
        self.table.visit_all(|id, connection| {
            let is_detached = std::mem::take(&mut connection.is_detached);
            if connection.is_open() && !is_detached && connection.queue_batch(run.clone()) {
                dirty.push(id);
            }
        });
        self.detached.clear();
    }

    /// The transport of a session may hold bytes of its own: the flush writes them.
    pub(super) fn list_flush(&mut self, id: SessionId) {
        if self.table.visit(id, |connection| connection.needs_flush()) == Some(true) {
            self.dirty.push(id);
        }
    }

    pub(super) fn flush_all(&mut self, now: Instant) {
        let mut total = Flushed::default();
        self.write_broadcast(&mut total);
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            self.flush(id, now, &mut total);
        }
        // A flush runs no callback, so no session became dirty meanwhile; the memory is used again.
        debug_assert!(
            self.dirty.is_empty(),
            "a session was called, and so perhaps removed, while a list was walked"
        );
        self.dirty = dirty;
        self.count(&total);
    }

    /// Writes the pending broadcast to sessions without output before it. The others are flushed.
    fn write_broadcast(&mut self, total: &mut Flushed) {
        let Some(run) = self.pending_broadcast.take() else {
            return;
        };
        self.trace_broadcast(run.bytes());
        let (config, dirty) = (&self.shared.config, &mut self.dirty);
        let mut broken = Vec::new();
        self.table.visit_all(|id, connection| {
            if std::mem::take(&mut connection.is_detached) || !connection.is_open() {
                return;
            }
            match connection.write_broadcast(&run, config, total) {
                Ok(true) => dirty.push(id),
                Ok(false) => {}
                Err(reason) => broken.push((id, reason)),
            }
        });
        self.detached.clear();
        for (id, reason) in broken {
            self.table.close(id, reason);
        }
    }

    pub(super) fn flush(&mut self, id: SessionId, now: Instant, total: &mut Flushed) {
        let config = &self.shared.config;
        let (timeouts, dirty_next) = (&mut self.timeouts, &mut self.dirty_next);
        let (readable, drained) = (&mut self.readable, &mut self.drained);
        let limits = self.read_limits;
        let (high, mut starts_pacing) = (config.pacing_bytes(), false);
        self.table.try_visit(id, |connection| {
            let (flushed, verdict) = connection.flush(config, now);
            total.absorb(&flushed);
            if flushed.has_more && !std::mem::replace(&mut connection.is_dirty, true) {
                dirty_next.push(id);
            }
            // Not the other deadlines: a flush changes none of them, and one that is over is deferred.
            if connection.has_output()
                && let Some(at) = connection.output_deadline(config)
            {
                timeouts.arm(id, &mut connection.timer, at.max(now));
            }
            if connection.paces(high, now) && !std::mem::replace(&mut connection.is_pacing, true) {
                starts_pacing = true;
            }
            if connection.resume(limits, now) && connection.list_readable() {
                readable.push_back(id);
            }
            if connection.has_drained() {
                drained.push_back(id);
            }
            verdict
        });
        if starts_pacing {
            self.start_pacing(id);
        }
    }

    /// Calls the sessions whose queue has fallen as far as they asked for, each at most once: the flush
    /// that follows may find them again, for the next turn. What they send waits behind what was
    /// deferred, so they are called when reading may go on.
    pub(super) fn call_drained(&mut self, now: Instant) {
        for _ in 0..self.drained.len() {
            if !self.may_read() {
                break;
            }
            let Some(id) = self.drained.pop_front() else {
                break;
            };
            let is_drained = (self.table).visit(id, |connection| {
                connection.take_drained() && !connection.is_leaving
            });
            if is_drained == Some(true) {
                self.call(id, now, |session, ctx| session.on_drained(ctx));
            }
        }
    }

    pub(super) fn count(&self, flushed: &Flushed) {
        let metrics = self.metrics();
        metrics.bytes_sent.add(flushed.bytes as u64);
        metrics.packets_sent.add(flushed.packets as u64);
        metrics.write_calls.add(flushed.calls as u64);
        metrics.send_queue_bytes.change(flushed.queue_growth);
    }
}
