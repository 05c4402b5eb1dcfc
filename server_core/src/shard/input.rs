//! Input: reading from those who have some, in the order of their turns.

use super::{MIN_PACKET_COST, Shard, guarded};
use crate::base::id::SessionId;
use crate::connection::{Received, Transport};
use crate::session::{Context, Session};
use std::time::Instant;

/// What is read at least from a session whose turn it is.
pub(super) const MIN_READ_BYTES: usize = 4 << 10;

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    pub(super) fn handle_writable(&mut self, id: SessionId, now: Instant) {
        let is_new = self.table.try_visit(id, |connection| {
            let is_new = connection.handle_writable(now)?;
            if connection.has_output() && !connection.is_dirty {
                connection.is_dirty = true;
                self.dirty.push(id);
            }
            Ok(is_new)
        });
        if is_new == Some(true) {
            self.connected(id, now);
            // Input may have been announced before the connection was; no edge comes again.
            self.list_readable(id);
        }
    }

    pub(super) fn list_readable(&mut self, id: SessionId) {
        let is_new = self.table.visit(id, |connection| {
            connection.is_open() && connection.list_readable()
        });
        if is_new == Some(true) {
            self.readable.push_back(id);
        }
    }

    /// One turn for each session that has input, as far as the input of this turn goes. Who has more
    /// gets the next one behind the others.
    pub(super) fn read_all(&mut self, now: Instant) {
        let mut left = self.shared.config.turn_input_bytes;
        for _ in 0..self.readable.len() {
            if !self.may_read() || left == 0 {
                break;
            }
            if let Some(id) = self.readable.pop_front()
                && self.may_receive(id, now)
            {
                left = left.saturating_sub(self.read(id, now));
            }
        }
    }

    /// Who is behind with what it asked for asks no more for a while.
    fn may_receive(&mut self, id: SessionId, now: Instant) -> bool {
        let limits = self.read_limits;
        let may_receive = self.table.visit(id, |connection| {
            connection.is_listed_readable = false;
            if connection.is_held() || !connection.has_input {
                return false;
            }
            connection.has_input = connection.may_receive(limits, now);
            connection.has_input
        });
        if may_receive == Some(false) {
            self.rearm(id);
        }
        may_receive == Some(true)
    }

    /// Reads from one session, and returns what that costs of the turn's input.
    pub(super) fn read(&mut self, id: SessionId, now: Instant) -> usize {
        let (budget_bytes, pacing_bytes) = (self.read_budget(), self.shared.config.pacing_bytes());
        let (shared, buffer) = (&*self.shared, &mut self.recv_buffer);
        let (effects, groups) = (&mut self.effects, &mut self.groups);
        let received = self.table.visit(id, |connection| {
            connection.has_input = false;
            let (peer, mut queued_bytes) = (connection.peer(id), connection.queued_bytes());
            let mut is_admitted = connection.is_admitted;
            // Its answers must not make its own queue pace the others.
            let room = pacing_bytes.saturating_sub(queued_bytes);
            let budget_bytes = budget_bytes.min(room.max(MIN_READ_BYTES));
            connection.receive(
                buffer,
                budget_bytes,
                &shared.config,
                now,
                |session, packet| {
                    let asked_before = effects.len();
                    let buffers = &shared.buffers;
                    let mut ctx = Context::new(peer, now, buffers, effects, groups, queued_bytes);
                    ctx.is_admitted = is_admitted;
                    let handled = guarded(|| session.on_packet(&mut ctx, packet));
                    (is_admitted, queued_bytes) = (ctx.is_admitted, ctx.queued_bytes());
                    handled??;
                    // Who has closed its own session does not want what stands behind this packet.
                    match effects[asked_before..]
                        .iter()
                        .find_map(|asked| asked.end_of(id))
                    {
                        Some(reason) => Err(reason),
                        None => Ok(()),
                    }
                },
            )
        });
        let Some(Received {
            partial_growth,
            bytes,
            packets,
            outcome,
        }) = received
        else {
            return 0;
        };
        self.metrics().bytes_received.add(bytes as u64);
        self.metrics().partial_packet_bytes.change(partial_growth);
        self.metrics().packets_received.add(packets as u64);
        // First what the packets asked for, then the end: answers to whole packets that came
        // before an offence or a FIN are still queued.
        self.apply_effects(id, now);
        match outcome {
            Ok(has_more) => {
                if has_more {
                    self.list_readable(id);
                }
                self.rearm(id);
            }
            Err(reason) => self.close_in_order(id, reason),
        }
        bytes.max(packets.saturating_mul(MIN_PACKET_COST))
    }
}
