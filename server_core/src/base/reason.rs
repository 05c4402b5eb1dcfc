//! Why a session ends: as a value, a metric label and a code on the wire.

use std::{fmt, io};

/// What a peer did wrong. A handler that returns one ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kick {
    /// A size field below the four bytes of the header itself.
    BadSize,
    /// A size field above `Config::max_packet_bytes`.
    TooLarge,
    /// An id that this peer may not send.
    UnknownId,
    /// A payload that its id does not allow.
    BadPayload,
    /// A packet begun, but not complete within `Config::packet_timeout`.
    PacketTimeout,
    /// A peer that takes its packets too slowly, by bytes or by age, or not at all any more.
    SlowConsumer,
    /// More packets than `Config::max_packets_per_sec`.
    RateLimit,
    /// More packets that fan out to others than their own budget allows.
    ChatFlood,
}

impl Kick {
    /// The code that tells the peer: 1 to 8.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::BadSize => 1,
            Self::TooLarge => 2,
            Self::UnknownId => 3,
            Self::BadPayload => 4,
            Self::PacketTimeout => 5,
            Self::SlowConsumer => 6,
            Self::RateLimit => 7,
            Self::ChatFlood => 8,
        }
    }

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::BadSize => "bad_size",
            Self::TooLarge => "too_large",
            Self::UnknownId => "unknown_id",
            Self::BadPayload => "bad_payload",
            Self::PacketTimeout => "packet_timeout",
            Self::SlowConsumer => "slow_consumer",
            Self::RateLimit => "rate_limit",
            Self::ChatFlood => "chat_flood",
        }
    }
}

impl fmt::Display for Kick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadSize => "the size field is smaller than the header",
            Self::TooLarge => "the size field is above the limit",
            Self::UnknownId => "this packet id is not for clients to send",
            Self::BadPayload => "the payload does not fit its packet id",
            Self::PacketTimeout => "a packet was begun and not completed in time",
            Self::SlowConsumer => "packets were not read fast enough",
            Self::RateLimit => "too many packets per second",
            Self::ChatFlood => "too many chat messages per second",
        })
    }
}

impl std::error::Error for Kick {}

/// Every way in which a session can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The peer broke a rule.
    Kicked(Kick),
    /// There was no room for one more session; the connection never became one.
    ServerFull,
    /// The server ends.
    Shutdown,
    /// The peer closed its write side or the whole connection.
    PeerClosed,
    /// The peer, or the network for it, reset the connection.
    PeerReset,
    /// The socket failed in another way.
    IoError(io::ErrorKind),
    /// Nothing came from the peer for `Config::idle_timeout`.
    Idle,
    /// Our own code closed the session.
    Closed,
    /// An outgoing connection could not be made.
    ConnectFailed(io::ErrorKind),
    /// A callback of this session panicked: a bug of ours, which costs this session alone.
    HandlerPanicked,
    /// The session was not admitted within `Config::login_timeout`, or was the oldest of more than
    /// `Config::max_unadmitted`.
    LoginTimeout,
    /// The handshake of the transport failed, was not complete within `Config::handshake_timeout`, or was
    /// the oldest of more than `Config::max_handshakes`.
    Handshake,
}

impl DisconnectReason {
    /// How many different labels there are. Rises with each new reason, which is no breaking change:
    /// let arrays of this length take it from here.
    pub const COUNT: usize = 19;

    /// The labels, each at the place that [`index`](Self::index) gives.
    pub const LABELS: [&'static str; Self::COUNT] = [
        "bad_size",
        "too_large",
        "unknown_id",
        "bad_payload",
        "packet_timeout",
        "slow_consumer",
        "rate_limit",
        "chat_flood",
        "server_full",
        "shutdown",
        "peer_closed",
        "peer_reset",
        "io_error",
        "idle",
        "closed",
        "connect_failed",
        "handler_panic",
        "login_timeout",
        "handshake",
    ];

    /// A small number for tables of counters.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Kicked(kick) => kick.code() as usize - 1,
            Self::ServerFull => 8,
            Self::Shutdown => 9,
            Self::PeerClosed => 10,
            Self::PeerReset => 11,
            Self::IoError(_) => 12,
            Self::Idle => 13,
            Self::Closed => 14,
            Self::ConnectFailed(_) => 15,
            Self::HandlerPanicked => 16,
            Self::LoginTimeout => 17,
            Self::Handshake => 18,
        }
    }

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        Self::LABELS[self.index()]
    }

    /// The code that tells the peer, where the server ends the session for a reason with a code.
    #[must_use]
    pub const fn code(self) -> Option<u16> {
        match self {
            Self::Kicked(kick) => Some(kick.code()),
            Self::ServerFull => Some(9),
            Self::Shutdown => Some(10),
            Self::LoginTimeout => Some(12),
            Self::Handshake => Some(15),
            _ => None,
        }
    }

    /// Whether what is queued still goes out before the socket closes.
    ///
    /// Not so for a peer that is gone, or one that does not read: nothing would reach it.
    #[must_use]
    pub const fn flushes(self) -> bool {
        !matches!(
            self,
            Self::Kicked(Kick::SlowConsumer)
                | Self::PeerReset
                | Self::IoError(_)
                | Self::ConnectFailed(_)
        )
    }

    /// What an error of a read or a write says about the peer.
    #[must_use]
    pub fn from_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::PeerReset,
            // The kernel has given up a peer that took nothing, or acknowledged nothing, of what
            // it was sent: see `Config::unacknowledged_timeout`.
            io::ErrorKind::TimedOut => Kick::SlowConsumer.into(),
            kind => Self::IoError(kind),
        }
    }
}

impl From<Kick> for DisconnectReason {
    fn from(kick: Kick) -> Self {
        Self::Kicked(kick)
    }
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kicked(kick) => kick.fmt(f),
            Self::ServerFull => f.write_str("the server is full"),
            Self::Shutdown => f.write_str("the server is shutting down"),
            Self::PeerClosed => f.write_str("the peer closed the connection"),
            Self::PeerReset => f.write_str("the peer reset the connection"),
            Self::IoError(kind) => write!(f, "the socket failed: {kind}"),
            Self::Idle => f.write_str("nothing was received for too long"),
            Self::Closed => f.write_str("the session was closed here"),
            Self::ConnectFailed(kind) => write!(f, "could not connect: {kind}"),
            Self::HandlerPanicked => f.write_str("the session's own code failed"),
            Self::LoginTimeout => f.write_str("the session did not log in in time"),
            Self::Handshake => f.write_str("the handshake failed or was not complete in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KICKS: [Kick; 8] = [
        Kick::BadSize,
        Kick::TooLarge,
        Kick::UnknownId,
        Kick::BadPayload,
        Kick::PacketTimeout,
        Kick::SlowConsumer,
        Kick::RateLimit,
        Kick::ChatFlood,
    ];

    #[test]
    fn each_reason_has_its_own_place_and_label() {
        let kind = io::ErrorKind::Other;
        let mut reasons: Vec<DisconnectReason> = KICKS.into_iter().map(Into::into).collect();
        reasons.extend([
            DisconnectReason::ServerFull,
            DisconnectReason::Shutdown,
            DisconnectReason::PeerClosed,
            DisconnectReason::PeerReset,
            DisconnectReason::IoError(kind),
            DisconnectReason::Idle,
            DisconnectReason::Closed,
            DisconnectReason::ConnectFailed(kind),
            DisconnectReason::HandlerPanicked,
            DisconnectReason::LoginTimeout,
            DisconnectReason::Handshake,
        ]);
        assert_eq!(reasons.len(), DisconnectReason::COUNT);
        for (place, reason) in reasons.iter().enumerate() {
            assert_eq!(reason.index(), place);
        }
        for kick in KICKS {
            assert_eq!(DisconnectReason::from(kick).label(), kick.label());
        }
    }

    #[test]
    fn codes_of_the_wire() {
        let codes: Vec<u16> = KICKS.iter().map(|kick| kick.code()).collect();
        assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(DisconnectReason::ServerFull.code(), Some(9));
        assert_eq!(DisconnectReason::Shutdown.code(), Some(10));
        assert_eq!(DisconnectReason::LoginTimeout.code(), Some(12));
        assert_eq!(DisconnectReason::Handshake.code(), Some(15));
        assert_eq!(DisconnectReason::PeerClosed.code(), None);
    }
}
