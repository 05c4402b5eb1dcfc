//! What the user of this library writes: one object per peer, and what it may ask for.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod content;
pub mod handlers;

use crate::base::id::SessionId;
use crate::base::reason::{DisconnectReason, Kick};
use crate::buffer::{SendBuffer, SendBufferManager};
use crate::groups::id::GroupId;
use crate::groups::members::{Groups, TooManyGroups};
use crate::protocol::packet::{Packet, PacketHead, PacketTooLarge};
use crate::protocol::writer::OutgoingPacket;
use std::net::SocketAddr;
use std::time::Instant;

/// One peer. Made when it comes, called on its worker's thread only, dropped when it has left.
///
/// There is no hook for raw bytes: whoever writes a session cannot bypass the framing, neither by
/// intent nor by mistake. The lecture seals `OnRecv` for the same reason (rows 22, 23 and 28), so that
/// code which tried to would stop compiling:
///
/// ```compile_fail,E0407
/// # use server_core::{Context, Kick, Packet, Session};
/// struct Sneaky;
/// impl Session for Sneaky {
///     fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
///         Ok(())
///     }
///     fn on_recv(&mut self, bytes: &[u8]) -> usize {
///         bytes.len()
///     }
/// }
/// ```
///
/// Without that method it compiles:
///
/// ```
/// # use server_core::{Context, Kick, Packet, Session};
/// struct Honest;
/// impl Session for Honest {
///     fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
///         Ok(())
///     }
/// }
/// ```
pub trait Session: 'static {
    /// Whether an accepted peer has to log in: the session is unadmitted until
    /// [`Context::admit`] is called. Asked once, when the session is made.
    ///
    /// An unadmitted session is ended after [`login_timeout`](crate::Config::login_timeout), or when
    /// it is the oldest of too many ([`max_unadmitted`](crate::Config::max_unadmitted)), so peers that
    /// connect and say nothing cannot take all places. An outgoing session is always admitted.
    fn requires_login(&self) -> bool {
        false
    }

    /// The connection stands. Not called for an outgoing connection that could not be made.
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        let _ = ctx;
    }

    /// One whole packet has come.
    ///
    /// # Errors
    /// Return the [`Kick`] that says what the peer did wrong, and it is ended: told why, after
    /// what was queued for it before, and with nothing handled of what it sent behind this
    /// packet.
    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick>;

    /// The instant has come that [`Context::set_timer`] asked for.
    fn on_timer(&mut self, ctx: &mut Context<'_>) {
        let _ = ctx;
    }

    /// The queue of this session has fallen as far as [`Context::notify_drained`] asked for.
    fn on_drained(&mut self, ctx: &mut Context<'_>) {
        let _ = ctx;
    }

    /// The session has left; it is in no list any more, and nothing reaches its peer. Others may
    /// be told.
    fn on_disconnected(&mut self, ctx: &mut Context<'_>, reason: DisconnectReason) {
        let _ = (ctx, reason);
    }
}

/// Whom a session is for, known before the session is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Peer {
    /// The id that the session will have.
    pub id: SessionId,
    /// The other end.
    pub addr: SocketAddr,
    /// For an outgoing connection, the number that its maker gave to `connect`.
    pub tag: Option<u64>,
}

impl Peer {
    /// Describes a peer.
    #[must_use]
    pub const fn new(id: SessionId, addr: SocketAddr, tag: Option<u64>) -> Self {
        Self { id, addr, tag }
    }
}

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

/// One thing that a handler asked for.
#[derive(Debug)]
#[non_exhaustive]
pub enum Effect {
    /// Queue a packet for one session.
    Send(SessionId, SendBuffer),
    /// Queue a packet for every session.
    Broadcast(SendBuffer),
    /// Queue a packet for every member of a group, except perhaps one.
    BroadcastTo(GroupId, Option<SessionId>, SendBuffer),
    /// End a session.
    Close(SessionId, DisconnectReason),
    /// Call this session again at an instant, or not at all.
    Timer(SessionId, Option<Instant>),
    /// Call this session again when its queue holds this many bytes or fewer.
    NotifyDrained(SessionId, usize),
    /// Admit this session.
    Admit(SessionId),
}

impl Effect {
    /// What this costs a receiver besides the session that caused it: zero if there is none.
    pub(crate) fn fan_out_bytes(&self, source: SessionId) -> usize {
        if self.is_own(source) { 0 } else { self.bytes() }
    }

    /// The bytes of its packet.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Send(_, buffer) | Self::Broadcast(buffer) | Self::BroadcastTo(_, _, buffer) => {
                buffer.len()
            }
            Self::Close(..) | Self::Timer(..) | Self::NotifyDrained(..) | Self::Admit(_) => 0,
        }
    }

    /// Whether no session but `source` can notice this.
    pub(crate) fn is_own(&self, source: SessionId) -> bool {
        match self {
            Self::Send(id, _)
            | Self::Close(id, _)
            | Self::Timer(id, _)
            | Self::NotifyDrained(id, _)
            | Self::Admit(id) => *id == source,
            Self::Broadcast(_) | Self::BroadcastTo(..) => false,
        }
    }

    /// Why this ends that session, if it does.
    pub(crate) fn end_of(&self, session: SessionId) -> Option<DisconnectReason> {
        match self {
            Self::Close(id, reason) if *id == session => Some(*reason),
            _ => None,
        }
    }
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
    /// [`on_disconnected`](Session::on_disconnected) it can join none any more for good.
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

    /// The groups that this session is in; in [`on_disconnected`](Session::on_disconnected), those
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

    /// Ends this session, after what was queued for it has left. As with a [`Kick`], nothing is handled
    /// of what its peer sent behind the packet that this is asked for.
    pub fn close(&mut self) {
        self.close_session(self.peer.id);
    }

    /// Ends any session.
    pub fn close_session(&mut self, id: SessionId) {
        self.effects
            .push(Effect::Close(id, DisconnectReason::Closed));
    }

    /// Asks for one call of [`Session::on_timer`] at `at`, in place of an earlier request.
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

    /// Asks for one call of [`Session::on_drained`] when the queue of this session has fallen to
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
