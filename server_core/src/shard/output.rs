//! Output: what is sent is queued, and written once, at the end of the turn.
//!
//! What everybody gets is in no queue: it waits as `common`, and who needs it in a queue, as something
//! of its own comes behind it, is set `apart`.

use super::{MIN_PACKET_COST, Shard};
use crate::connection::{Flushed, Transport};
use crate::group_id::GroupId;
use crate::id::SessionId;
use crate::send_buffer::SendBuffer;
use crate::send_queue::PacketRun;
use crate::session::Session;
use std::time::Instant;

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    fn charge(&mut self, bytes: usize, sessions: usize) {
        let cost = bytes.max(MIN_PACKET_COST).saturating_mul(sessions);
        self.output_left = (self.output_left).saturating_sub_unsigned(cost);
    }

    pub(super) fn queue_for(&mut self, to: SessionId, buffer: SendBuffer) {
        self.charge(buffer.len(), 1);
        self.set_apart(to);
        match self.table.visit(to, |connection| connection.queue(buffer)) {
            Some(true) => self.dirty.push(to),
            Some(false) => {}
            None => self.metrics().undeliverable.add(1),
        }
    }

    pub(super) fn queue_for_all(&mut self, buffer: &SendBuffer) {
        self.charge(buffer.len(), self.table.len());
        if self.common.as_mut().is_some_and(|run| run.append(buffer)) {
            for index in 0..self.apart.len() {
                self.queue_if_open(self.apart[index], buffer);
            }
        } else {
            self.queue_common();
            self.common = Some(PacketRun::new(buffer.clone()));
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
        for index in 0..members {
            let id = self.groups.members(group)[index];
            if Some(id) != except {
                self.set_apart(id);
                self.queue_if_open(id, buffer);
            }
        }
    }

    /// Who is on the way out is not shown, and who has not come yet gets nothing.
    fn queue_if_open(&mut self, id: SessionId, buffer: &SendBuffer) {
        let is_new = self.table.visit(id, |connection| {
            connection.is_open() && connection.queue(buffer.clone())
        });
        if is_new == Some(true) {
            self.dirty.push(id);
        }
    }

    /// What everybody gets comes before what follows for this session alone.
    pub(super) fn set_apart(&mut self, id: SessionId) {
        let Some(run) = &self.common else {
            return;
        };
        let (apart, dirty) = (&mut self.apart, &mut self.dirty);
        self.table.visit(id, |connection| {
            if connection.is_open() && !std::mem::replace(&mut connection.is_apart, true) {
                apart.push(id);
                if connection.queue_run(run.clone()) {
                    dirty.push(id);
                }
            }
        });
    }

    /// What everybody gets comes before what follows for everybody and lies elsewhere.
    pub(super) fn queue_common(&mut self) {
        let Some(run) = self.common.take() else {
            return;
        };
        let dirty = &mut self.dirty;
        self.table.visit_all(|id, connection| {
            let is_apart = std::mem::take(&mut connection.is_apart);
            if connection.is_open() && !is_apart && connection.queue_run(run.clone()) {
                dirty.push(id);
            }
        });
        self.apart.clear();
    }

    pub(super) fn flush_all(&mut self, now: Instant) {
        let mut total = Flushed::default();
        self.send_common(&mut total);
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            self.flush(id, now, &mut total);
        }
        // A flush calls nobody, so nothing became dirty meanwhile; the memory is used again.
        debug_assert!(
            self.dirty.is_empty(),
            "somebody was called, and so perhaps removed, while a list was walked"
        );
        self.dirty = dirty;
        self.count(&total);
    }

    /// Writes what everybody gets to those who have nothing before it. The others are flushed.
    fn send_common(&mut self, total: &mut Flushed) {
        let Some(run) = self.common.take() else {
            return;
        };
        let (config, dirty) = (&self.shared.config, &mut self.dirty);
        let mut broken = Vec::new();
        self.table.visit_all(|id, connection| {
            if std::mem::take(&mut connection.is_apart) || !connection.is_open() {
                return;
            }
            match connection.send_common(&run, config, total) {
                Ok(true) => dirty.push(id),
                Ok(false) => {}
                Err(reason) => broken.push((id, reason)),
            }
        });
        self.apart.clear();
        for (id, reason) in broken {
            self.table.close(id, reason);
        }
    }

    pub(super) fn flush(&mut self, id: SessionId, now: Instant, total: &mut Flushed) {
        let config = &self.shared.config;
        let (timeouts, dirty_next) = (&mut self.timeouts, &mut self.dirty_next);
        let (readable, drained) = (&mut self.readable, &mut self.drained);
        self.table.judge(id, |connection| {
            let (flushed, verdict) = connection.flush(config, now);
            total.absorb(&flushed);
            if flushed.has_more && !std::mem::replace(&mut connection.is_dirty, true) {
                dirty_next.push(id);
            }
            if connection.has_output()
                && let Some(at) = connection.next_deadline(config)
            {
                timeouts.arm(id, &mut connection.alarm, at);
            }
            if connection.resume(config, now)
                && !std::mem::replace(&mut connection.is_listed_readable, true)
            {
                readable.push_back(id);
            }
            if connection.has_drained() {
                drained.push_back(id);
            }
            verdict
        });
    }

    /// Calls the sessions whose queue has fallen as far as they asked for, each at most once: the flush
    /// that follows may find them again, for the next turn. What they send waits behind what was
    /// deferred, so they are called when reading may go on. Returns whether any was called.
    pub(super) fn call_drained(&mut self, now: Instant) -> bool {
        let mut any = false;
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
                any = true;
            }
        }
        any
    }

    pub(super) fn count(&self, flushed: &Flushed) {
        let metrics = self.metrics();
        metrics.bytes_sent.add(flushed.bytes as u64);
        metrics.packets_sent.add(flushed.packets as u64);
        metrics.write_calls.add(flushed.calls as u64);
        let growth = flushed.queue_growth;
        match growth >= 0 {
            true => metrics.send_queue_bytes.add(growth.unsigned_abs() as u64),
            false => metrics.send_queue_bytes.sub(growth.unsigned_abs() as u64),
        }
    }
}
