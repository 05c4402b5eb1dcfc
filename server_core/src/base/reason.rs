//! The reasons for which a session ends. A reason has three properties, each on its own: an
//! [index](DisconnectReason::index) for tables, a [label](DisconnectReason::label) for metrics and the
//! log, and, for most, a [code](DisconnectReason::code) on the wire.

use std::{fmt, io};

/// An offence of a peer. A handler that returns one ends the session.
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
    /// A game's own reason: its code on the wire, and its label.
    ///
    /// Codes from [`FIRST_CUSTOM_CODE`](Self::FIRST_CUSTOM_CODE) on are free for games. The codes below
    /// belong to this library: a client that knows its codes alone would misread another meaning.
    ///
    /// A label that is declared with
    /// [`ServerBuilder::custom_labels`](crate::ServerBuilder::custom_labels) has a counter of its own in
    /// the [metrics](crate::metrics). The others are counted together as `custom`, so that the memory of
    /// the metrics does not depend on the labels that occur. The log shows each label.
    ///
    /// ```
    /// use server_core::{DisconnectReason, Kick};
    /// const ROOM_FULL: Kick = Kick::custom(1000, "room_full");
    /// assert_eq!((ROOM_FULL.code(), ROOM_FULL.label()), (1000, "room_full"));
    /// assert_eq!(DisconnectReason::from(ROOM_FULL).code(), Some(1000));
    /// ```
    Custom(u16, &'static str),
    /// A kick with a text for the peer: see [`with_text`](Self::with_text).
    Text(&'static Self, &'static str),
}

impl Kick {
    /// The first code that this library leaves to games.
    pub const FIRST_CUSTOM_CODE: u16 = 1000;

    /// A game's own reason, for a constant: a wrong code or label does not compile.
    ///
    /// ```
    /// use server_core::Kick;
    /// const NAME_TAKEN: Kick = Kick::custom(1001, "name_taken");
    /// assert_eq!(NAME_TAKEN, Kick::Custom(1001, "name_taken"));
    /// ```
    ///
    /// ```compile_fail,E0080
    /// # use server_core::Kick;
    /// const NAME_TAKEN: Kick = Kick::custom(6, "name_taken"); // the code of `slow_consumer`
    /// ```
    ///
    /// # Panics
    /// If the code is below [`FIRST_CUSTOM_CODE`](Self::FIRST_CUSTOM_CODE), or if the label is empty or has
    /// another character than `a` to `z`, `0` to `9` and `_`.
    #[must_use]
    pub const fn custom(code: u16, label: &'static str) -> Self {
        assert!(code >= Self::FIRST_CUSTOM_CODE, "the code is below 1000");
        assert!(!label.is_empty(), "the label is empty");
        let mut at = 0;
        while at < label.len() {
            let is_valid = matches!(label.as_bytes()[at], b'a'..=b'z' | b'0'..=b'9' | b'_');
            assert!(
                is_valid,
                "the label has a character other than a-z, 0-9 and _"
            );
            at += 1;
        }
        Self::Custom(code, label)
    }

    /// This kick with a text for the peer. A handler that returns it ends the session as
    /// [`close_with`](crate::Context::close_with) does: the text is in the log, and
    /// [`close_message_with_text`](crate::ServerBuilder::close_message_with_text) gets it, cut to 1,024 bytes.
    ///
    /// Code and label stay the same, and a [`DisconnectReason`] has the kick without its text. The kick has to be
    /// a constant. For a text that is made at run time, call `close_with` and return the same kick.
    ///
    /// ```
    /// use server_core::{DisconnectReason, Kick};
    ///
    /// const NAME_TAKEN: Kick = Kick::custom(1001, "name_taken").with_text("choose another name");
    ///
    /// fn log_in(name: &str) -> Result<(), Kick> {
    ///     match name {
    ///         "" => Err(Kick::BadPayload.with_text("a name has at least one character")),
    ///         "bob" => Err(NAME_TAKEN),
    ///         _ => Ok(()),
    ///     }
    /// }
    /// assert_eq!(log_in("bob").map_err(Kick::text), Err(Some("choose another name")));
    /// assert_eq!(DisconnectReason::from(NAME_TAKEN), Kick::Custom(1001, "name_taken").into());
    /// ```
    #[must_use]
    pub const fn with_text(&'static self, text: &'static str) -> Self {
        Self::Text(self, text)
    }

    /// The text of [`with_text`](Self::with_text).
    #[must_use]
    pub const fn text(self) -> Option<&'static str> {
        match self {
            Self::Text(_, text) => Some(text),
            _ => None,
        }
    }

    const fn without_text(self) -> Self {
        match self {
            Self::Text(kick, _) => kick.without_text(),
            kick => kick,
        }
    }

    /// The code that tells the peer. Below [`FIRST_CUSTOM_CODE`](Self::FIRST_CUSTOM_CODE) for the
    /// reasons of this library.
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
            Self::Custom(code, _) => code,
            Self::Text(kick, _) => kick.code(),
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
            Self::Custom(_, label) => label,
            Self::Text(kick, _) => kick.label(),
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
            Self::Custom(_, label) => return write!(f, "a rule of the game: {label}"),
            Self::Text(kick, _) => return kick.fmt(f),
        })
    }
}

impl std::error::Error for Kick {}

/// A reason for which a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The peer broke a rule. The kick has no text.
    Kicked(Kick),
    /// The server had no room for another session; the connection never became a session.
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
    /// the oldest of more than `Config::max_handshakes`. Also a connection of a trusted proxy without a valid
    /// PROXY header, which is not a session.
    Handshake,
    /// A newer session is logged in to the same account.
    LoggedInElsewhere,
    /// An operator, or the game, has ended the session of this account.
    KickedByOperator,
}

impl DisconnectReason {
    /// The number of labels of this library, `custom` included. It rises with each new reason, which
    /// is not a breaking change: let arrays of this length take it from here.
    pub const COUNT: usize = OWN.len() + 1;

    /// The labels, each at the place that [`index`](Self::index) gives.
    pub const LABELS: [&'static str; Self::COUNT] = {
        let mut labels = ["custom"; Self::COUNT];
        let mut index = 0;
        while index < OWN.len() {
            labels[index] = OWN[index].label();
            index += 1;
        }
        labels
    };

    /// A small number for tables of counters, unrelated to the code. All reasons of games share one.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Kicked(Kick::BadSize) => 0,
            Self::Kicked(Kick::TooLarge) => 1,
            Self::Kicked(Kick::UnknownId) => 2,
            Self::Kicked(Kick::BadPayload) => 3,
            Self::Kicked(Kick::PacketTimeout) => 4,
            Self::Kicked(Kick::SlowConsumer) => 5,
            Self::Kicked(Kick::RateLimit) => 6,
            Self::ServerFull => 7,
            Self::Shutdown => 8,
            Self::PeerClosed => 9,
            Self::PeerReset => 10,
            Self::IoError(_) => 11,
            Self::Idle => 12,
            Self::Closed => 13,
            Self::ConnectFailed(_) => 14,
            Self::HandlerPanicked => 15,
            Self::LoginTimeout => 16,
            Self::Handshake => 17,
            Self::LoggedInElsewhere => 18,
            Self::KickedByOperator => 19,
            Self::Kicked(Kick::Custom(..)) => OWN.len(),
            Self::Kicked(Kick::Text(kick, _)) => Self::Kicked(*kick).index(),
        }
    }

    /// The metric label. A [`Kick::Custom`] brings its own.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Kicked(kick) => kick.label(),
            Self::ServerFull => "server_full",
            Self::Shutdown => "shutdown",
            Self::PeerClosed => "peer_closed",
            Self::PeerReset => "peer_reset",
            Self::IoError(_) => "io_error",
            Self::Idle => "idle",
            Self::Closed => "closed",
            Self::ConnectFailed(_) => "connect_failed",
            Self::HandlerPanicked => "handler_panic",
            Self::LoginTimeout => "login_timeout",
            Self::Handshake => "handshake",
            Self::LoggedInElsewhere => "logged_in_elsewhere",
            Self::KickedByOperator => "kicked",
        }
    }

    /// The code that tells the peer, where the server ends the session for a reason with a code.
    #[must_use]
    pub const fn code(self) -> Option<u16> {
        match self {
            Self::Kicked(kick) => Some(kick.code()),
            Self::ServerFull => Some(9),
            Self::Shutdown => Some(10),
            Self::LoginTimeout => Some(12),
            Self::LoggedInElsewhere => Some(13),
            Self::KickedByOperator => Some(14),
            Self::Handshake => Some(15),
            _ => None,
        }
    }

    /// The label of a code of this library, for a client that is told one.
    #[must_use]
    pub fn label_of_code(code: u16) -> Option<&'static str> {
        let mut reasons = OWN.into_iter();
        reasons
            .find(|reason| reason.code() == Some(code))
            .map(Self::label)
    }

    /// Whether queued packets still go out before the socket closes.
    ///
    /// They do not for a peer that has gone, or a peer that does not read: nothing would reach it.
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

    /// Whether the server ends the session whatever its peer has sent. What comes behind that is discarded as it comes,
    /// and may be a flood.
    #[cfg(any(
        test,
        feature = "testing",
        feature = "framing",
        feature = "tls",
        feature = "websocket"
    ))]
    pub(crate) const fn discards_input(self) -> bool {
        matches!(
            self,
            Self::Kicked(_)
                | Self::KickedByOperator
                | Self::LoggedInElsewhere
                | Self::LoginTimeout
                | Self::Handshake
        )
    }

    /// The reason that an error of a read or a write gives.
    #[must_use]
    pub fn from_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::PeerReset,
            // The kernel has given up a peer that took nothing, or acknowledged nothing, of what
            // it was sent: see `Config::unacknowledged_timeout`.
            io::ErrorKind::TimedOut => Kick::SlowConsumer.into(),
            // Of a transport above a socket: its protocol is broken, or its keys are used up.
            io::ErrorKind::InvalidData => Self::Handshake,
            kind => Self::IoError(kind),
        }
    }
}

/// The reasons of this library, by index.
const OWN: [DisconnectReason; 20] = {
    use DisconnectReason as Reason;
    [
        Reason::Kicked(Kick::BadSize),
        Reason::Kicked(Kick::TooLarge),
        Reason::Kicked(Kick::UnknownId),
        Reason::Kicked(Kick::BadPayload),
        Reason::Kicked(Kick::PacketTimeout),
        Reason::Kicked(Kick::SlowConsumer),
        Reason::Kicked(Kick::RateLimit),
        Reason::ServerFull,
        Reason::Shutdown,
        Reason::PeerClosed,
        Reason::PeerReset,
        Reason::IoError(io::ErrorKind::Other),
        Reason::Idle,
        Reason::Closed,
        Reason::ConnectFailed(io::ErrorKind::Other),
        Reason::HandlerPanicked,
        Reason::LoginTimeout,
        Reason::Handshake,
        Reason::LoggedInElsewhere,
        Reason::KickedByOperator,
    ]
};

/// The labels of games that have counters and log lines of their own: those beyond are `custom`.
pub(crate) const MAX_CUSTOM_LABELS: usize = 16;

/// Bytes of the text of a `close_with`, or of a kick, at most.
const MAX_CLOSE_TEXT_BYTES: usize = 1024;

/// The text of a `close_with`, or of a kick, cut at a character: it has to fit into one packet.
pub(crate) fn close_text(text: &str) -> Box<str> {
    cut(text, MAX_CLOSE_TEXT_BYTES).into()
}

/// The first `most_bytes` bytes of a text, cut at a character.
pub(crate) fn cut(text: &str, most_bytes: usize) -> &str {
    let mut end = text.len().min(most_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl From<Kick> for DisconnectReason {
    fn from(kick: Kick) -> Self {
        Self::Kicked(kick.without_text())
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
            Self::LoggedInElsewhere => f.write_str("the account has logged in again"),
            Self::KickedByOperator => f.write_str("an operator ended the session"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const CUSTOM: Kick = Kick::Custom(1_234, "room_full");

    #[test]
    fn each_reason_has_its_own_index_and_label() {
        for (index, reason) in OWN.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert_eq!(reason.label(), DisconnectReason::LABELS[index]);
        }
        let labels: HashSet<&str> = DisconnectReason::LABELS.into_iter().collect();
        assert_eq!(labels.len(), DisconnectReason::COUNT);
        assert_eq!(DisconnectReason::COUNT, 21);
        let custom = DisconnectReason::from(CUSTOM);
        assert_eq!(DisconnectReason::LABELS[custom.index()], "custom");
        assert_eq!((custom.label(), CUSTOM.label()), ("room_full", "room_full"));
    }

    #[test]
    fn text_of_a_close_is_cut_at_a_character() {
        assert_eq!(&*close_text("taken"), "taken");
        let long = format!("x{}", "é".repeat(1000));
        let cut = close_text(&long);
        assert_eq!(cut.len(), MAX_CLOSE_TEXT_BYTES - 1);
        assert!(long.starts_with(&*cut));
    }

    #[test]
    fn custom_takes_codes_and_labels_of_games_alone() {
        assert_eq!(Kick::custom(1_234, "room_full"), CUSTOM);
        for (code, label) in [(999, "room_full"), (1_000, ""), (1_000, "Room full")] {
            let refused = std::panic::catch_unwind(|| Kick::custom(code, label));
            assert!(refused.is_err(), "{code} {label:?}");
        }
    }

    #[test]
    fn a_text_changes_neither_code_nor_label_nor_reason() {
        const FULL: Kick = CUSTOM.with_text("ten players");
        const FULLER: Kick = FULL.with_text("eleven players");
        for kick in [FULL, FULLER] {
            assert_eq!((kick.code(), kick.label()), (1_234, "room_full"));
            assert_eq!(kick.to_string(), CUSTOM.to_string());
            assert_eq!(DisconnectReason::from(kick), CUSTOM.into());
            assert_eq!(
                DisconnectReason::Kicked(kick).index(),
                DisconnectReason::from(CUSTOM).index()
            );
        }
        let texts = [CUSTOM, FULL, FULLER].map(Kick::text);
        assert_eq!(texts, [None, Some("ten players"), Some("eleven players")]);
        assert_eq!(
            Kick::BadSize.with_text("").code(),
            Kick::BadSize.code(),
            "in a function"
        );
    }

    #[test]
    fn codes_of_the_wire() {
        let codes = OWN.map(DisconnectReason::code);
        let kicks = [1, 2, 3, 4, 5, 6, 7].map(Some);
        assert_eq!(codes[..7], kicks);
        assert_eq!(DisconnectReason::ServerFull.code(), Some(9));
        assert_eq!(DisconnectReason::Shutdown.code(), Some(10));
        assert_eq!(DisconnectReason::LoginTimeout.code(), Some(12));
        assert_eq!(DisconnectReason::LoggedInElsewhere.code(), Some(13));
        assert_eq!(DisconnectReason::KickedByOperator.code(), Some(14));
        assert_eq!(DisconnectReason::Handshake.code(), Some(15));
        assert_eq!(DisconnectReason::PeerClosed.code(), None);
        assert_eq!(codes.iter().flatten().count(), 13);
        assert!(
            codes
                .into_iter()
                .flatten()
                .all(|code| code < Kick::FIRST_CUSTOM_CODE)
        );
        assert_eq!(DisconnectReason::from(CUSTOM).code(), Some(1_234));
    }

    #[test]
    fn labels_belong_to_their_codes() {
        for (code, label) in [
            (1, Some("bad_size")),
            (7, Some("rate_limit")),
            (8, None),
            (9, Some("server_full")),
            (10, Some("shutdown")),
            (12, Some("login_timeout")),
            (13, Some("logged_in_elsewhere")),
            (14, Some("kicked")),
            (15, Some("handshake")),
            (0, None),
            (11, None),
            (1_234, None),
        ] {
            assert_eq!(DisconnectReason::label_of_code(code), label, "{code}");
        }
    }
}
