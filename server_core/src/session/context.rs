//! The requests of a callback to its worker.

use crate::base::id::SessionId;
use crate::base::reason::{DisconnectReason, Kick, close_text};
use crate::buffer::{SendBuffer, SendBufferManager};
use crate::groups::id::GroupId;
use crate::groups::members::{Groups, TooManyGroups};
use crate::protocol::packet::{PacketHead, PacketTooLarge};
use crate::protocol::writer::OutgoingPacket;
use crate::session::message::MessageRoom;
use crate::session::{Effect, Peer};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The requests of a callback to its worker.
///
/// A handler has no access to other sessions: it makes requests, and the worker carries them out when the
/// handler has returned. So no callback runs inside another callback, or while a list is iterated.
#[derive(Debug)]
pub struct Context<'a> {
    peer: Peer,
    now: Instant,
    buffers: &'a SendBufferManager,
    effects: &'a mut Vec<Effect>,
    groups: &'a mut Groups,
    queued_bytes: usize,
    pub(crate) is_admitted: bool,
    /// A session with a longer queue is not read.
    pub(crate) crowded_bytes: usize,
    /// As in [`Config`](crate::Config).
    pub(crate) max_send_lag: Option<Duration>,
    /// Of the message of this callback, given back behind the callback. A session that hands the message on takes it.
    pub(crate) message_room: Option<MessageRoom>,
}

impl<'a> Context<'a> {
    /// A context for one callback. Requests of the handler are added to `effects`. `groups` belongs to the
    /// worker, `queued_bytes` to the session.
    #[cfg_attr(doc, doc(hidden))] // The arguments belong to the worker.
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
            crowded_bytes: usize::MAX,
            max_send_lag: None,
            message_room: None,
        }
    }

    /// Admits this session: its login is complete, and the limits of unadmitted sessions no longer apply.
    pub fn admit(&mut self) {
        if !std::mem::replace(&mut self.is_admitted, true) {
            self.effects.push(Effect::Admit(self.peer.id));
        }
    }

    /// Whether this session is admitted, from the start or since [`admit`](Self::admit).
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.is_admitted
    }

    /// Id of the session of this callback.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.peer.id
    }

    /// Address of the peer.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer.addr
    }

    /// The instant at which this turn of the event loop began. The clock is read once a turn.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Sends a packet to this session's peer.
    ///
    /// A packet that does not fit its size field is not sent, and an error is logged. Use
    /// [`encode`](Self::encode) to handle that error.
    pub fn send<H: PacketHead>(&mut self, head: &H, tail: impl AsRef<[u8]>) {
        self.send_to(self.peer.id, head, tail);
    }

    /// Sends a packet to any session. If the session has ended, the packet is only counted.
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

    /// Encodes a packet once, to send it to several sessions.
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

    /// Sends a packet of an id that is known at run time to this session's peer: for gateways, and for load
    /// tests of other servers. As with [`send`](Self::send), a packet that is too large is not sent, and an
    /// error is logged.
    pub fn send_raw(&mut self, id: u16, payload: impl AsRef<[u8]>) {
        let encoded = self.buffers.encode_raw(id, &[], payload.as_ref());
        if let Some(buffer) = self.logged(id, encoded) {
            self.send_buffer(self.peer.id, buffer);
        }
    }

    /// Sends a packet without a separate tail to this session's peer. As with [`send`](Self::send), a
    /// packet that is too large is not sent, and an error is logged.
    pub fn send_packet<P: OutgoingPacket>(&mut self, packet: &P) {
        self.send_packet_to(self.peer.id, packet);
    }

    /// Sends a packet without a separate tail to any session. If the session has ended, the packet is only
    /// counted.
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

    /// Encodes a packet without a separate tail once, to send it to several sessions.
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

    /// Makes this session a member of a group, at once: a thread that learns of the join and then
    /// broadcasts to the group reaches this session. A member stays a member.
    ///
    /// A session that ends leaves its groups. A join in
    /// [`on_disconnected`](crate::Session::on_disconnected) does not last.
    ///
    /// # Errors
    /// [`TooManyGroups`] if this session is in
    /// [`max_groups_per_session`](crate::Config::max_groups_per_session) groups. Nothing changes then.
    pub fn join(&mut self, group: GroupId) -> Result<(), TooManyGroups> {
        self.groups.join(self.peer.id, group)
    }

    /// Removes this session from a group, at once: no further packet to the group is queued for it. That
    /// includes earlier requests of this callback, and requests of the callbacks for packets of its peer
    /// that were read together with this one. Returns whether the session was a member.
    pub fn leave(&mut self, group: GroupId) -> bool {
        self.groups.leave(self.peer.id, group)
    }

    /// Whether this session is a member of a group.
    #[must_use]
    pub fn is_in(&self, group: GroupId) -> bool {
        self.groups.is_in(self.peer.id, group)
    }

    /// The groups of this session. In [`on_disconnected`](crate::Session::on_disconnected), its groups at
    /// the end.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        self.groups.groups_of(self.peer.id).collect()
    }

    /// Sends a packet to every session, on all workers, that is a member of the group when the callback has
    /// returned. This session is included if it is a member.
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

    /// Like [`broadcast_to`](Self::broadcast_to), to every member but this session.
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

    /// Ends this session, after its queue is flushed. As with a [`Kick`](crate::Kick), packets of its peer
    /// behind the packet of this callback are not handled.
    pub fn close(&mut self) {
        self.close_session(self.peer.id);
    }

    /// Ends any session.
    pub fn close_session(&mut self, id: SessionId) {
        self.effects
            .push(Effect::Close(id, DisconnectReason::Closed));
    }

    /// Ends this session as [`close`](Self::close) does, for a reason of the game: the metrics count its
    /// label, the log has label and text, and
    /// [`close_message_with_text`](crate::ServerBuilder::close_message_with_text) gets both, so that the peer
    /// learns the code. A text is cut to 1,024 bytes. With [`Kick::SlowConsumer`] no packet goes out, as with
    /// each end of a peer that does not read.
    ///
    /// ```
    /// use server_core::{Context, Kick};
    ///
    /// const NAME_TAKEN: Kick = Kick::custom(1001, "name_taken");
    ///
    /// fn refuse(ctx: &mut Context<'_>, name: &str) {
    ///     ctx.close_with(NAME_TAKEN, &format!("{name} plays already"));
    /// }
    /// ```
    pub fn close_with(&mut self, kick: Kick, text: &str) {
        self.close_session_with(self.peer.id, kick, text);
    }

    /// Ends any session for a reason of the game. See [`close_with`](Self::close_with).
    pub fn close_session_with(&mut self, id: SessionId, kick: Kick, text: &str) {
        self.close_for(id, kick.into(), text);
    }

    /// Ends any session for a reason of the library.
    pub(crate) fn close_for(&mut self, id: SessionId, reason: DisconnectReason, text: &str) {
        let close = Effect::CloseWith(id, reason, close_text(text));
        self.effects.push(close);
    }

    /// Requests one call of [`Session::on_timer`](crate::Session::on_timer) at `at`. Replaces an earlier
    /// request.
    pub fn set_timer(&mut self, at: Instant) {
        self.effects.push(Effect::Timer(self.peer.id, Some(at)));
    }

    /// Cancels the request of [`set_timer`](Self::set_timer).
    pub fn clear_timer(&mut self) {
        self.effects.push(Effect::Timer(self.peer.id, None));
    }

    /// Requests one call of [`Session::on_keyed_timer`](crate::Session::on_keyed_timer) with this key at
    /// `at`. Replaces an earlier request of the key: a session has up to 256 such timers, besides that of
    /// [`set_timer`](Self::set_timer). Timers of one turn come in the order of their instants.
    ///
    /// ```
    /// use server_core::{Context, Kick, Packet, Session};
    /// use std::time::Duration;
    ///
    /// const SHIELD: u8 = 1;
    /// const POISON: u8 = 2;
    ///
    /// struct Mage {
    ///     has_shield: bool,
    ///     health: u32,
    /// }
    ///
    /// impl Session for Mage {
    ///     fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
    ///         self.has_shield = true;
    ///         ctx.set_keyed_timer(SHIELD, ctx.now() + Duration::from_secs(5));
    ///         ctx.clear_keyed_timer(POISON);
    ///         Ok(())
    ///     }
    ///
    ///     fn on_keyed_timer(&mut self, ctx: &mut Context<'_>, key: u8) {
    ///         match key {
    ///             SHIELD => self.has_shield = false,
    ///             _ => {
    ///                 self.health = self.health.saturating_sub(1);
    ///                 ctx.set_keyed_timer(POISON, ctx.now() + Duration::from_secs(1));
    ///             }
    ///         }
    ///     }
    /// }
    /// ```
    pub fn set_keyed_timer(&mut self, key: u8, at: Instant) {
        let effect = Effect::KeyedTimer(self.peer.id, key, Some(at));
        self.effects.push(effect);
    }

    /// Cancels the request of [`set_keyed_timer`](Self::set_keyed_timer) with this key.
    pub fn clear_keyed_timer(&mut self, key: u8) {
        let effect = Effect::KeyedTimer(self.peer.id, key, None);
        self.effects.push(effect);
    }

    /// The bytes that this session's socket has not taken yet: the bytes in the session's queue, and the
    /// bytes of packets that this callback, and the callbacks for packets read together with this one, have
    /// sent to this session by its id.
    ///
    /// A broadcast counts from the end of its turn. A packet that the
    /// [output limit](crate::Config::turn_output_bytes) of an earlier turn has deferred counts from the
    /// turn that queues it.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Requests one call of [`Session::on_drained`](crate::Session::on_drained) when the queue of this
    /// session has fallen to `below` bytes or fewer. Replaces an earlier request.
    ///
    /// The call comes after a write to the socket. [`queued_bytes`](Self::queued_bytes) is `below` at
    /// most when the callback begins. A queue that is that short already is reported at the end of the
    /// same turn. The request counts behind every packet that was sent to this session before. The request
    /// ends with the session.
    ///
    /// A session that sends a window of packets and then waits for the call sends as fast as its reader
    /// reads: [`ContentSender`](crate::ContentSender) does that for one large content.
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
