//! Input: reading from sessions that have some, in the order in which it was announced.

use super::{MIN_PACKET_COST, Shard, guarded};
use crate::base::id::SessionId;
use crate::base::packet_counts::PacketDirection;
use crate::base::reason::Kick;
use crate::base::trace::TraceKind;
use crate::base::wire::HEADER_BYTES;
use crate::connection::Received;
use crate::session::{Context, Session};
use crate::transport::Transport;
use std::time::Instant;

/// The least budget of a session that is read.
pub(super) const MIN_READ_BYTES: usize = 4 << 10;

/// What a session whose turn it is has to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NextInput {
    None,
    Packets,
    Handshake,
}

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    pub(super) fn handle_writable(&mut self, id: SessionId, now: Instant) {
        let outcome = self.table.try_visit(id, |connection| {
            let was_connecting = connection.is_connecting();
            let is_new = connection.handle_writable(now)?;
            if connection.has_output() && !connection.is_dirty {
                connection.is_dirty = true;
                self.dirty.push(id);
            }
            Ok((is_new, connection.is_handshaking(), was_connecting))
        });
        match outcome {
            Some((true, ..)) => {
                self.connected(id, now);
                // Input may have been announced before the connection was; no edge comes again.
                self.list_readable(id);
            }
            Some((false, true, true)) => self.await_handshake(id),
            Some((false, true, false)) => self.list_readable(id),
            Some((false, false, _)) | None => {}
        }
    }

    pub(super) fn list_readable(&mut self, id: SessionId) {
        let is_new = self.table.visit(id, |connection| {
            !connection.is_connecting() && connection.list_readable()
        });
        if is_new == Some(true) {
            self.readable.push_back(id);
        }
    }

    /// Reads each session that has input once, up to the input of this turn. A session with more input is
    /// read again behind the others.
    pub(super) fn read_all(&mut self, now: Instant) {
        let mut left = self.shared.config.turn_input_bytes;
        for _ in 0..self.readable.len() {
            if !self.may_read() || left == 0 {
                break;
            }
            if let Some(id) = self.readable.pop_front() {
                let cost = match self.next_input(id, now) {
                    NextInput::Packets => self.read(id, now),
                    NextInput::Handshake => self.handshake(id, now),
                    NextInput::None => 0,
                };
                left = left.saturating_sub(cost);
            }
        }
    }

    /// Reads from one session before its time is up: packets, or its part of a handshake. Returns what that
    /// costs of the turn's input.
    pub(super) fn read_once_more(&mut self, id: SessionId, now: Instant) -> usize {
        if self
            .table
            .visit(id, |connection| connection.is_handshaking())
            == Some(true)
        {
            self.handshake(id, now)
        } else {
            self.read(id, now)
        }
    }

    /// Decides what to read. A session that is behind with its answers is paused.
    fn next_input(&mut self, id: SessionId, now: Instant) -> NextInput {
        let limits = self.read_limits;
        let next = self.table.visit(id, |connection| {
            connection.is_listed_readable = false;
            if connection.is_leaving {
                return NextInput::None;
            }
            if connection.is_handshaking() {
                return NextInput::Handshake;
            }
            if connection.is_held() || !connection.has_input {
                return NextInput::None;
            }
            connection.has_input = connection.may_receive(limits, now);
            if connection.has_input {
                NextInput::Packets
            } else {
                NextInput::None
            }
        });
        if next == Some(NextInput::None) {
            self.rearm(id);
        }
        next.unwrap_or(NextInput::None)
    }

    /// Reads from one session, and returns what that costs of the turn's input.
    pub(super) fn read(&mut self, id: SessionId, now: Instant) -> usize {
        let (budget_bytes, pacing_bytes) = (self.read_budget(), self.shared.config.pacing_bytes());
        let (worker, is_tracing) = (self.worker, self.is_tracing());
        let (shared, buffer) = (&*self.shared, &mut self.recv_buffer);
        let traces = &self.traces;
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
                |session, packet, is_allowed| {
                    let (packet_id, bytes) = (packet.id(), HEADER_BYTES + packet.payload().len());
                    let metrics = &shared.metrics;
                    metrics.count_packet(worker, PacketDirection::Received, packet_id, bytes, 1);
                    if is_tracing {
                        let kind = TraceKind::Packet {
                            direction: PacketDirection::Received,
                            id: packet_id,
                            name: metrics.packet_name(packet_id),
                            bytes,
                        };
                        traces.add(id, peer.addr, kind);
                    }
                    if !is_allowed {
                        return Err(Kick::RateLimit.into());
                    }
                    let asked_before = effects.len();
                    let buffers = &shared.buffers;
                    let mut ctx = Context::new(peer, now, buffers, effects, groups, queued_bytes);
                    ctx.is_admitted = is_admitted;
                    let handled = guarded(|| session.on_packet(&mut ctx, packet));
                    (is_admitted, queued_bytes) = (ctx.is_admitted, ctx.queued_bytes());
                    handled??;
                    // A session that has closed itself gets no packet behind this one.
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
            overhead_bytes,
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
        self.list_flush(id);
        overhead_bytes + bytes.max(packets.saturating_mul(MIN_PACKET_COST))
    }
}
