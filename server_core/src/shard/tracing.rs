//! The packets of sessions, for the counts by packet id and for traces.

use super::Shard;
use crate::base::id::SessionId;
use crate::base::packet_counts::PacketDirection;
use crate::base::trace::TraceKind;
use crate::base::wire::{HEADER_BYTES, PacketHeader};
use crate::session::Session;
use crate::transport::Transport;
use std::net::SocketAddr;

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    /// Whether any trace runs.
    pub(super) fn is_tracing(&mut self) -> bool {
        self.traces.is_active(&self.shared.tracer)
    }

    /// Counts packets, side by side, that this number of sessions was given.
    pub(super) fn count_sent(&self, packets: &[u8], sessions: usize) {
        if self.shared.metrics.counts_packets() && sessions > 0 {
            heads(packets).for_each(|head| self.count_packet_sent(Some(head), sessions));
        }
    }

    /// Counts a packet of this id and size that this number of sessions was given.
    pub(super) fn count_packet_sent(&self, head: Option<(u16, usize)>, sessions: usize) {
        if let Some((id, bytes)) = head {
            let (metrics, sent) = (&self.shared.metrics, PacketDirection::Sent);
            metrics.count_packet(self.worker, sent, id, bytes, sessions);
        }
    }

    /// Traces packets, side by side, that a session was given.
    pub(super) fn trace_sent(&mut self, to: SessionId, packets: &[u8]) {
        if self.is_tracing() {
            let addr = (self.table).visit(to, |connection| connection.peer(to).addr);
            if let Some(addr) = addr {
                self.add_sent_to_traces(to, addr, packets);
            }
        }
    }

    /// Traces the pending broadcast, which the sessions get that are not detached.
    pub(super) fn trace_broadcast(&mut self, packets: &[u8]) {
        if !self.is_tracing() {
            return;
        }
        let (traces, mut sessions) = (&self.traces, Vec::new());
        self.table.visit_all(|id, connection| {
            let addr = connection.peer(id).addr;
            if connection.is_open() && !connection.is_detached && traces.has(id, addr) {
                sessions.push((id, addr));
            }
        });
        for (id, addr) in sessions {
            self.add_sent_to_traces(id, addr, packets);
        }
    }

    pub(super) fn add_sent_to_traces(&self, to: SessionId, addr: SocketAddr, packets: &[u8]) {
        for (id, bytes) in heads(packets) {
            let name = self.shared.metrics.packet_name(id);
            let direction = PacketDirection::Sent;
            let kind = TraceKind::Packet {
                direction,
                id,
                name,
                bytes,
            };
            self.traces.add(to, addr, kind);
        }
    }
}

/// Id and size of each packet.
pub(super) fn heads(mut packets: &[u8]) -> impl Iterator<Item = (u16, usize)> {
    std::iter::from_fn(move || {
        let header: &PacketHeader = bytemuck::from_bytes(packets.get(..HEADER_BYTES)?);
        let bytes = usize::from(header.size.get()).max(HEADER_BYTES);
        packets = packets.get(bytes..).unwrap_or_default();
        Some((header.id.get(), bytes))
    })
}
