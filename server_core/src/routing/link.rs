//! The link to the other nodes of a cluster, and how far a packet goes.

use crate::base::id::SessionId;
use crate::buffer::SendBuffer;
use crate::groups::id::GroupId;
use std::fmt;

/// Carries packets to the other nodes. A [`Router`](super::router::Router) without a link makes no call.
pub trait Link: fmt::Debug + Send + Sync {
    /// Whether the other nodes have to get the packets for this audience.
    fn spans(&self, audience: Audience) -> bool;

    /// Takes a packet for the other nodes, or drops and counts it. The method returns at once: the
    /// calling thread is a worker, or a thread of the game.
    fn publish(&self, audience: Audience, packet: &SendBuffer);

    /// Makes a session of this node the only one of an account. The call comes from the worker of the session, in
    /// front of [`end_session`](Self::end_session). The method returns at once: whether the link takes the login. A
    /// link that has ended takes none. A login that is taken may wait for its turn: the link gives it to the
    /// [`Accounts`](super::accounts::Accounts) when it begins, and never behind `end_session`.
    fn login(&self, id: SessionId, account: &str) -> bool {
        let _ = (id, account);
        false
    }

    /// Learns that a session of this node has ended. The method returns at once.
    fn end_session(&self, id: SessionId) {
        let _ = id;
    }
}

/// The sessions that a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Audience {
    /// All sessions.
    All,
    /// The members of a group.
    Group(GroupId),
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A session, or a handle, of this node.
    Node,
    /// The link: the packet has been on another node.
    Link,
}

/// How far a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// To sessions of this node.
    Local,
    /// To the link as well.
    Cluster,
}

/// One receiver of a packet for an audience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The sessions of this worker.
    Worker(usize),
    /// The other nodes. This target comes last: local sessions are served first.
    Link,
}
