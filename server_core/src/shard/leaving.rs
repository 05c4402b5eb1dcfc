//! Leaving: the one place that carries out the end of a session.

use super::{MIN_PACKET_COST, Shard, guarded};
use crate::base::id::SessionId;
use crate::base::metrics::HandshakeOutcome;
use crate::base::reason::DisconnectReason;
use crate::base::trace::TraceKind;
use crate::connection::{Connection, Drained, Draining, Progress};
use crate::session::{Context, Session};
use crate::transport::Transport;
use std::sync::Arc;
use std::time::Instant;

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    /// Ends each session that is closing: the only place where a session ends. Returns whether any did.
    pub(super) fn reap(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some((id, reason, connection)) = self.table.pop_closing() {
            self.leave(id, reason, connection, now);
            any = true;
        }
        any
    }

    fn leave(
        &mut self,
        id: SessionId,
        reason: DisconnectReason,
        mut connection: Connection<T, S>,
        now: Instant,
    ) {
        let shared = Arc::clone(&self.shared);
        let was_open = connection.is_open();
        let (peer, queued_bytes) = (connection.peer(id), connection.queued_bytes());
        self.timeouts.disarm(id, &mut connection.timer);
        if let Some(at) = connection.timer_at() {
            self.put_off.remove(&(at, id));
        }
        self.unadmitted.count -= usize::from(!connection.is_admitted);
        let transport = connection.transport();
        if connection.is_handshaking() {
            self.handshakes.count -= 1;
            // A connection that got its page counts as no failed handshake.
            if reason != DisconnectReason::Closed {
                (self.metrics()).count_handshake(transport, HandshakeOutcome::Failed);
            }
        }
        if was_open {
            self.metrics().discount_session(transport);
        }
        let partial_bytes = connection.partial_bytes() as u64;
        self.metrics().partial_packet_bytes.sub(partial_bytes);
        shared.metrics.count_disconnect(self.worker, reason);
        let close_text = connection.take_close_text();
        let text = close_text.as_deref();
        let summary_at = (shared.disconnect_log).note(Some(id), peer.addr, reason, text, now);
        let ends = [self.disconnect_summary_at, summary_at];
        self.disconnect_summary_at = ends.into_iter().flatten().min();

        // A peer whose protocol is broken can read no packet.
        let is_broken = reason == DisconnectReason::Handshake;
        let told = was_open && reason.flushes() && !is_broken;
        let last_packet = if told {
            guarded(|| (shared.close_message)(reason, text, &shared.buffers)).unwrap_or(None)
        } else {
            None
        };
        if let Some(packet) = &last_packet {
            self.count_sent(packet, 1);
        }
        if self.is_tracing() {
            let packet = last_packet.as_deref().unwrap_or_default();
            self.add_sent_to_traces(id, peer.addr, packet);
            (self.traces).add(id, peer.addr, TraceKind::Disconnected(reason));
        }
        let flush_by = self
            .shutdown_by
            .unwrap_or(now + shared.config.flush_timeout);
        let is_admitted = connection.is_admitted;
        let (mut session, mut draining) = connection.into_draining(reason, last_packet, flush_by);
        let is_evicted = matches!(
            reason,
            DisconnectReason::LoginTimeout | DisconnectReason::Handshake
        );
        if self.is_evicting && is_evicted {
            draining.close_at_once(now);
        }

        let (effects, groups) = (&mut self.effects, &mut self.groups);
        let buffers = &shared.buffers;
        let mut ctx = Context::new(peer, now, buffers, effects, groups, queued_bytes);
        ctx.is_admitted = is_admitted;
        // The session ends even if its callback or its destructor panics.
        let _ = guarded(|| session.on_disconnected(&mut ctx, reason));
        let _ = guarded(|| drop(session));
        // Behind `on_disconnected`, which can still name its groups, and may have joined another.
        self.groups.leave_all(id);
        shared.router.end_session(id);
        self.apply_effects(id, now);

        if reason.flushes() {
            self.drain(id, draining, now);
        } else {
            self.count(&draining.abandon());
        }
    }

    /// Advances each draining stream with more to do once, up to the input of this turn: any number of
    /// sessions may be closed, and draining streams get no more of the input than sessions.
    pub(super) fn discard(&mut self, now: Instant) {
        self.discard_left = self.shared.config.turn_input_bytes;
        for _ in 0..self.draining_next.len() {
            if self.discard_left == 0 {
                break;
            }
            if let Some(id) = self.draining_next.pop_front() {
                if let Some(draining) = self.draining.get_mut(&id) {
                    draining.is_listed = false;
                }
                self.advance_draining(id, now);
            }
        }
    }

    pub(super) fn advance_draining(&mut self, id: SessionId, now: Instant) {
        if let Some(draining) = self.draining.remove(&id) {
            self.drain(id, draining, now);
        }
    }

    fn drain(&mut self, id: SessionId, mut draining: Draining<T>, now: Instant) {
        let config = &self.shared.config;
        let budget_bytes = self.discard_left.min(config.read_budget_bytes);
        let Drained {
            flushed,
            discarded_bytes,
            overhead_bytes,
            progress,
        } = draining.advance(&mut self.recv_buffer, budget_bytes, config, now);
        let cost = (discarded_bytes + overhead_bytes).max(MIN_PACKET_COST);
        self.discard_left = self.discard_left.saturating_sub(cost);
        self.count(&flushed);
        self.metrics().bytes_received.add(discarded_bytes as u64);
        if progress == Progress::Done {
            self.timeouts.disarm(id, &mut draining.timer);
            return;
        }
        if let Some(flush_by) = self.shutdown_by {
            draining.hurry(flush_by + self.shared.config.linger);
        }
        let deadline = draining.deadline();
        self.timeouts.arm(id, &mut draining.timer, deadline);
        if progress == Progress::Again && !std::mem::replace(&mut draining.is_listed, true) {
            self.draining_next.push_back(id);
        }
        self.draining.insert(id, draining);
    }

    pub(super) fn begin_shutdown(&mut self, flush_by: Instant) {
        if self.shutdown_by.is_some() {
            return;
        }
        self.shutdown_by = Some(flush_by);
        self.flush_broadcast_to_queues();
        self.table.close_all(DisconnectReason::Shutdown);
        for (id, draining) in &mut self.draining {
            draining.hurry(flush_by);
            self.timeouts.arm(*id, &mut draining.timer, flush_by);
        }
    }
}
