//! The requests of callbacks, as values that their worker carries out.

use crate::base::id::SessionId;
use crate::base::reason::DisconnectReason;
use crate::buffer::SendBuffer;
use crate::groups::id::GroupId;
use std::time::Instant;

/// One request of a callback.
#[derive(Debug)]
#[non_exhaustive]
pub enum Effect {
    /// Queue a packet for one session.
    Send(SessionId, SendBuffer),
    /// Queue a packet for every session.
    Broadcast(SendBuffer),
    /// Queue a packet for every member of a group, except the session, if one is given.
    BroadcastTo(GroupId, Option<SessionId>, SendBuffer),
    /// End a session.
    Close(SessionId, DisconnectReason),
    /// End a session, and tell its peer this text.
    CloseWith(SessionId, DisconnectReason, Box<str>),
    /// Set the timer of this session, or clear it.
    Timer(SessionId, Option<Instant>),
    /// Call `on_drained` of this session when its queue holds this number of bytes or fewer.
    NotifyDrained(SessionId, usize),
    /// Admit this session.
    Admit(SessionId),
}

impl Effect {
    /// Bytes for each receiver other than `source`: zero for an effect without such a receiver.
    pub(crate) fn fan_out_bytes(&self, source: SessionId) -> usize {
        if self.is_own(source) { 0 } else { self.bytes() }
    }

    /// Bytes of the packet, zero for an effect without a packet.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Send(_, buffer) | Self::Broadcast(buffer) | Self::BroadcastTo(_, _, buffer) => {
                buffer.len()
            }
            Self::Close(..)
            | Self::CloseWith(..)
            | Self::Timer(..)
            | Self::NotifyDrained(..)
            | Self::Admit(_) => 0,
        }
    }

    /// Whether the effect concerns `source` alone.
    pub(crate) fn is_own(&self, source: SessionId) -> bool {
        match self {
            Self::Send(id, _)
            | Self::Close(id, _)
            | Self::CloseWith(id, ..)
            | Self::Timer(id, _)
            | Self::NotifyDrained(id, _)
            | Self::Admit(id) => *id == source,
            Self::Broadcast(_) | Self::BroadcastTo(..) => false,
        }
    }

    /// The reason for the end of `session`, if this effect ends it.
    pub(crate) fn end_of(&self, session: SessionId) -> Option<DisconnectReason> {
        match self {
            Self::Close(id, reason) | Self::CloseWith(id, reason, _) if *id == session => {
                Some(*reason)
            }
            _ => None,
        }
    }
}
