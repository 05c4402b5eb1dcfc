//! What a callback asked for, as values that its worker carries out.

use crate::base::id::SessionId;
use crate::base::reason::DisconnectReason;
use crate::buffer::SendBuffer;
use crate::groups::id::GroupId;
use std::time::Instant;

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
