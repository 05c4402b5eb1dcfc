//! The counters of a link.

use crate::base::metrics::Counter;

/// The counters of a node's link to the other nodes. They only rise.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ClusterMetrics {
    /// Packets for other nodes that the broker has confirmed.
    pub published: Counter,
    /// Packets of other nodes that were delivered to the sessions of this node.
    pub received: Counter,
    /// Gaps in the packets of other nodes: each is one call of
    /// [`on_world_gap`](super::ClusterBuilder::on_world_gap).
    pub gaps: Counter,
    /// Connections to the broker that were complete.
    pub connects: Counter,
    dropped: [Counter; Why::ALL.len()],
}

/// The reason for which a packet or a message does not reach its receivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// The outgoing queue is full (4 MiB).
    QueueFull,
    /// The packet waited for 1 s while the link was up.
    TooOld,
    /// The packet waited for 1 s while the link was down, or needed the link at once.
    LinkDown,
    /// The connection was lost before the broker has confirmed the packet. The packet may have arrived.
    Unconfirmed,
    /// The broker answered with an error, for example because it has no memory left, or does not allow a channel.
    Refused,
    /// A worker's mailbox of this node has no room for a packet of another node, or of
    /// [`Cluster::tell`](super::Cluster::tell).
    MailboxFull,
    /// A packet of another node, its [`Cluster::tell`](super::Cluster::tell) included, beyond 256 KiB a second while
    /// this server [is congested](crate#pacing).
    Congested,
    /// A message whose bytes do not have the layout of their kind.
    Malformed,
    /// A message of another version of the envelope.
    Version,
    /// A message of an unknown kind.
    UnknownKind,
    /// A packet that came before.
    Duplicate,
    /// A message of a node beyond the first 256.
    TooManyNodes,
    /// A packet or a kick for an account without a session, or whose session has ended meanwhile.
    NoSession,
}

impl Why {
    /// All reasons.
    pub const ALL: [Self; 13] = [
        Self::QueueFull,
        Self::TooOld,
        Self::LinkDown,
        Self::Unconfirmed,
        Self::Refused,
        Self::MailboxFull,
        Self::Congested,
        Self::Malformed,
        Self::Version,
        Self::UnknownKind,
        Self::Duplicate,
        Self::TooManyNodes,
        Self::NoSession,
    ];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::TooOld => "too_old",
            Self::LinkDown => "link_down",
            Self::Unconfirmed => "unconfirmed",
            Self::Refused => "refused",
            Self::MailboxFull => "mailbox_full",
            Self::Congested => "congested",
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::UnknownKind => "unknown_kind",
            Self::Duplicate => "duplicate",
            Self::TooManyNodes => "too_many_nodes",
            Self::NoSession => "no_session",
        }
    }
}

impl ClusterMetrics {
    /// Packets and messages that were dropped for this reason.
    #[must_use]
    pub fn dropped(&self, why: Why) -> u64 {
        self.dropped[why as usize].get()
    }

    pub(crate) fn drop_one(&self, why: Why) {
        self.dropped[why as usize].add(1);
    }
}
