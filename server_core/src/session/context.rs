//! What a callback may ask of its worker.

use crate::base::id::SessionId;
use crate::base::reason::DisconnectReason;
use crate::buffer::{SendBuffer, SendBufferManager};
use crate::groups::id::GroupId;
use crate::groups::members::{Groups, TooManyGroups};
use crate::protocol::packet::{PacketHead, PacketTooLarge};
use crate::protocol::writer::OutgoingPacket;
use crate::session::{Effect, Peer};
use std::net::SocketAddr;
use std::time::Instant;

/// What a session may ask of its worker.
///
/// A handler has no road to the other sessions: it asks, and the worker does it when the handler
/// has returned. So no callback ever runs inside another one, and none runs while a list is
/// walked.
#[derive(Debug)]
pub struct Context<'a> {
    peer: Peer,
    now: Instant,
    buffers: &'a SendBufferManager,
    effects: &'a mut Vec<Effect>,
    groups: &'a mut Groups,
    queued_bytes: usize,
    pub(crate) is_admitted: bool,
}

impl<'a> Context<'a> {
    /// A context for one callback; what the handler asks for is added to `effects`. `groups` are
    /// those of its worker, `queued_bytes` those of its session.
    #[cfg_attr(doc, doc(hidden))] // Its arguments are the worker's.
    pub fn new(
        peer: Peer,
        now: Instant,
        buffers: &'a SendBufferManager,
        effects: &'a mut Vec<Effect>,
        groups: &'a mut Groups,
        queued_bytes: usize,
    ) -> Self {
        Self {
            peer,
            now,
            buffers,
            effects,
            groups,
            queued_bytes,
            is_admitted: true,
        }
    }

    /// Admits this session: its login is complete, and the limits of unadmitted sessions hold no more.
    pub fn admit(&mut self) {
        if !std::mem::replace(&mut self.is_admitted, true) {
            self.effects.push(Effect::Admit(self.peer.id));
        }
    }

    /// Whether this session is admitted: from the beginning, or since [`admit`](Self::admit).
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.is_admitted
    }

    /// The session that is being called.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.peer.id
    }

    /// Its other end.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer.addr
    }

    /// The time at which this turn of the event loop began. One reading serves the whole turn.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Sends a packet to this session's peer.
    ///
    /// A packet that would not fit its size field is not sent; an error is logged. Use
    /// [`encode`](Self::encode) where a handler can do something about it.
    pub fn send<H: PacketHead>(&mut self, head: &H, tail: impl AsRef<[u8]>) {
        self.send_to(self.peer.id, head, tail);
    }

    /// Sends a packet to any session. If it is gone, nothing happens but a count.
    pub fn send_to<H: PacketHead>(&mut self, to: SessionId, head: &H, tail: impl AsRef<[u8]>) {
        if let Some(buffer) = self.logged(H::ID, self.encode(head, tail)) {
            self.send_buffer(to, buffer);
        }
    }

    /// Sends a packet to every session, this one included.
    pub fn broadcast<H: PacketHead>(&mut self, head: &H, tail: impl AsRef<[u8]>) {
        if let Some(buffer) = self.logged(H::ID, self.encode(head, tail)) {
            self.broadcast_buffer(buffer);
        }
    }

    /// Encodes a packet once, to be sent to several sessions.
    ///
    /// # Errors
    /// [`PacketTooLarge`] if it does not fit its size field.
    pub fn encode<H: PacketHead>(
        &self,
        head: &H,
        tail: impl AsRef<[u8]>,
    ) -> Result<SendBuffer, PacketTooLarge> {
        self.buffers.encode(head, tail.as_ref())
    }

    /// Sends a packet without a separate tail to this session's peer. As with [`send`](Self::send),
    /// one that is too large is not sent; an error is logged.
    pub fn send_packet<P: OutgoingPacket>(&mut self, packet: &P) {
        self.send_packet_to(self.peer.id, packet);
    }

    /// Sends a packet without a separate tail to any session. If it is gone, nothing happens but a
    /// count.
    pub fn send_packet_to<P: OutgoingPacket>(&mut self, to: SessionId, packet: &P) {
        if let Some(buffer) = self.logged(P::ID, self.encode_packet(packet)) {
            self.send_buffer(to, buffer);
        }
    }

    /// Sends a packet without a separate tail to every session, this one included.
    pub fn broadcast_packet<P: OutgoingPacket>(&mut self, packet: &P) {
        if let Some(buffer) = self.logged(P::ID, self.encode_packet(packet)) {
            self.broadcast_buffer(buffer);
        }
    }

    /// Encodes a packet without a separate tail once, to be sent to several sessions.
    ///
    /// # Errors
    /// [`PacketTooLarge`] if it does not fit its size field.
    pub fn encode_packet<P: OutgoingPacket>(
        &self,
        packet: &P,
    ) -> Result<SendBuffer, PacketTooLarge> {
        let bytes = packet.packet_bytes()?;
        Ok(self.buffers.write(bytes, |free| packet.write_packet(free)))
    }

    /// Sends an encoded packet to any session.
    pub fn send_buffer(&mut self, to: SessionId, buffer: SendBuffer) {
        if to == self.peer.id {
            self.queued_bytes = self.queued_bytes.saturating_add(buffer.len());
        }
        self.effects.push(Effect::Send(to, buffer));
    }

    /// Sends an encoded packet to every session.
    pub fn broadcast_buffer(&mut self, buffer: SendBuffer) {
        self.effects.push(Effect::Broadcast(buffer));
    }

    /// Makes this session a member of a group, at once: whoever learns of that and broadcasts to the
    /// group reaches it, from whichever thread. Who is a member already stays one.
    ///
    /// A session that leaves the server leaves its groups; in
    /// [`on_disconnected`](crate::Session::on_disconnected) it can join none any more for good.
    ///
    /// # Errors
    /// [`TooManyGroups`] if it is in
    /// [`max_groups_per_session`](crate::Config::max_groups_per_session) groups, and nothing has
    /// changed.
    pub fn join(&mut self, group: GroupId) -> Result<(), TooManyGroups> {
        self.groups.join(self.peer.id, group)
    }

    /// Takes this session out of a group, at once: nothing more is queued for it there, not even what
    /// this callback has asked for before, nor what callbacks have for packets of its peer that were read
    /// together with this one. Returns whether it was a member.
    pub fn leave(&mut self, group: GroupId) -> bool {
        self.groups.leave(self.peer.id, group)
    }

    /// Whether this session is a member of a group.
    #[must_use]
    pub fn is_in(&self, group: GroupId) -> bool {
        self.groups.is_in(self.peer.id, group)
    }

    /// The groups that this session is in; in [`on_disconnected`](crate::Session::on_disconnected), those
    /// that it was in at the end.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        self.groups.groups_of(self.peer.id).collect()
    }

    /// Sends a packet to every member of a group, on all workers: to who is one when the callback has
    /// returned, this session included if it is one itself.
    pub fn broadcast_to<H: PacketHead>(
        &mut self,
        group: GroupId,
        head: &H,
        tail: impl AsRef<[u8]>,
    ) {
        if let Some(buffer) = self.logged(H::ID, self.encode(head, tail)) {
            self.broadcast_buffer_to(group, buffer);
        }
    }

    /// As [`broadcast_to`](Self::broadcast_to), to every member but this session.
    pub fn broadcast_to_others<H: PacketHead>(
        &mut self,
        group: GroupId,
        head: &H,
        tail: impl AsRef<[u8]>,
    ) {
        if let Some(buffer) = self.logged(H::ID, self.encode(head, tail)) {
            self.broadcast_buffer_to_others(group, buffer);
        }
    }

    /// Sends a packet without a separate tail to every member of a group. See
    /// [`broadcast_to`](Self::broadcast_to).
    pub fn broadcast_packet_to<P: OutgoingPacket>(&mut self, group: GroupId, packet: &P) {
        if let Some(buffer) = self.logged(P::ID, self.encode_packet(packet)) {
            self.broadcast_buffer_to(group, buffer);
        }
    }

    /// Sends a packet without a separate tail to every member of a group but this session.
    pub fn broadcast_packet_to_others<P: OutgoingPacket>(&mut self, group: GroupId, packet: &P) {
        if let Some(buffer) = self.logged(P::ID, self.encode_packet(packet)) {
            self.broadcast_buffer_to_others(group, buffer);
        }
    }

    /// Sends an encoded packet to every member of a group.
    pub fn broadcast_buffer_to(&mut self, group: GroupId, buffer: SendBuffer) {
        self.effects.push(Effect::BroadcastTo(group, None, buffer));
    }

    /// Sends an encoded packet to every member of a group but this session.
    pub fn broadcast_buffer_to_others(&mut self, group: GroupId, buffer: SendBuffer) {
        let except = Some(self.peer.id);
        self.effects
            .push(Effect::BroadcastTo(group, except, buffer));
    }

    /// Ends this session, after what was queued for it has left. As with a [`Kick`](crate::Kick), nothing is handled
    /// of what its peer sent behind the packet that this is asked for.
    pub fn close(&mut self) {
        self.close_session(self.peer.id);
    }

    /// Ends any session.
    pub fn close_session(&mut self, id: SessionId) {
        self.effects
            .push(Effect::Close(id, DisconnectReason::Closed));
    }

    /// Asks for one call of [`Session::on_timer`](crate::Session::on_timer) at `at`, in place of an earlier request.
    pub fn set_timer(&mut self, at: Instant) {
        self.effects.push(Effect::Timer(self.peer.id, Some(at)));
    }

    /// Takes back what [`set_timer`](Self::set_timer) asked for.
    pub fn clear_timer(&mut self) {
        self.effects.push(Effect::Timer(self.peer.id, None));
    }

    /// Returns the bytes that this session's socket has not taken yet: those in the session's queue,
    /// and those of the packets that this callback, and the callbacks for packets read together with
    /// this one, have sent to this session by its id.
    ///
    /// A broadcast counts from the end of its turn on. A packet that the
    /// [output limit](crate::Config::turn_output_bytes) of an earlier turn has deferred counts from the
    /// turn on that queues it.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Asks for one call of [`Session::on_drained`](crate::Session::on_drained) when the queue of this session has fallen to
    /// `below` bytes or fewer, in place of an earlier request.
    ///
    /// The call comes after a write to the socket; [`queued_bytes`](Self::queued_bytes) is `below` at
    /// most when the callback begins. A queue that is that short already is reported at the end of the
    /// same turn. The request counts behind everything that this session was sent before. It ends with
    /// the session.
    ///
    /// Sending a window of packets and then waiting for the call paces a source by its reader:
    /// [`ContentSender`](crate::ContentSender) does that for one large content.
    pub fn notify_drained(&mut self, below: usize) {
        let id = self.peer.id;
        self.effects.push(Effect::NotifyDrained(id, below));
    }

    fn logged(&self, id: u16, encoded: Result<SendBuffer, PacketTooLarge>) -> Option<SendBuffer> {
        if let Err(error) = &encoded {
            log::error!("packet {id} to or from {}: {error}", self.peer.id);
        }
        encoded.ok()
    }
}
