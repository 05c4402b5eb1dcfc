//! One connection of an attacker: which bytes it sends when, and how it ends. Has no clock and no socket.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use super::protocol::Protocol;
use super::script::{AttackScript, Ending, Expect};
use server_core::framer::Framer;
use server_core::wire::MAX_PACKET_BYTES;
use std::borrow::Cow;
use std::time::Instant;

/// A connection that is established.
pub(super) struct AttackConnection {
    script: AttackScript,
    framer: Framer,
    connected_at: Instant,
    /// The initial bytes, or one repetition.
    output: Cow<'static, [u8]>,
    /// Bytes of the output that the socket has accepted.
    sent: usize,
    /// The time of the initial bytes, if that is later than the connection.
    send_at: Option<Instant>,
    repeat_at: Option<Instant>,
    has_closed_write: bool,
    close_reason: Option<u16>,
}

/// What the socket does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Reads and writes.
    Continue,
    /// Closes its write side. No later step repeats it.
    CloseWrite,
    /// The connection is over.
    End(End),
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The server ended it; the code is that of its close message, if one was read.
    ByServer(Option<u16>),
    /// The attacker ended it, as its script says.
    AsScripted,
    /// The server did not do what the script expects, and the timeout is over.
    TimedOut,
    /// The attacker closes its write side and does not wait.
    Left,
}

impl AttackConnection {
    /// A connection that begins now. `send_at`: the time of the initial bytes, if it is later.
    pub fn new(mut script: AttackScript, send_at: Option<Instant>, now: Instant) -> Self {
        script.repeat.take_if(|repeat| repeat.bytes.is_empty());
        Self {
            output: std::mem::take(&mut script.initial_bytes),
            sent: 0,
            send_at,
            repeat_at: script.repeat.as_ref().map(|_| now),
            script,
            framer: Framer::default(),
            connected_at: now,
            has_closed_write: false,
            close_reason: None,
        }
    }

    /// The script, without its initial bytes.
    pub fn script(&self) -> &AttackScript {
        &self.script
    }

    /// When the connection was established.
    pub fn connected_at(&self) -> Instant {
        self.connected_at
    }

    /// The code of the close message that was read.
    pub fn close_reason(&self) -> Option<u16> {
        self.close_reason
    }

    /// When to go on without an event of the socket.
    pub fn next_at(&self, is_writable: bool) -> Option<Instant> {
        let after = |duration| self.connected_at.checked_add(duration);
        let end_at = match self.script.ending {
            Ending::Reset(duration) => after(duration),
            _ if self.script.expect == Expect::Any => None,
            _ => after(self.script.timeout),
        };
        let sends = is_writable && self.close_reason.is_none();
        let repeat_at = self.repeat_at.filter(|_| sends);
        let times = [end_at, repeat_at, self.send_at];
        times.into_iter().flatten().min()
    }

    /// Whether the initial bytes are due that waited for their time. They go out before the first answer is
    /// read, so that the connections of one moment send together.
    pub fn sends_first(&self, now: Instant) -> bool {
        self.send_at.is_some_and(|at| at <= now)
    }

    /// The bytes to send now; none if nothing is due, or if the server has sent its close message.
    pub fn output(&mut self, now: Instant) -> &[u8] {
        if self.close_reason.is_some() || self.send_at.is_some_and(|at| at > now) {
            return &[];
        }
        self.send_at = None;
        if self.has_sent_all()
            && let (Some(repeat), Some(at)) = (&self.script.repeat, self.repeat_at)
            && at <= now
        {
            self.output = repeat.bytes.clone();
            self.sent = 0;
            self.repeat_at = now.checked_add(repeat.every);
        }
        &self.output[self.sent..]
    }

    /// The socket has accepted this number of bytes of the [`output`](Self::output).
    pub fn on_sent(&mut self, bytes: usize) {
        self.sent = (self.sent + bytes).min(self.output.len());
    }

    /// Reads what the server has sent, and returns the number of complete packets.
    pub fn on_received(&mut self, mut bytes: &[u8], protocol: &dyn Protocol) -> u64 {
        let mut packets = 0;
        // The healthy sessions find a server that breaks the framing.
        while let Ok(Some(packet)) = self.framer.next_packet(&mut bytes, MAX_PACKET_BYTES) {
            packets += 1;
            self.close_reason = protocol.close_reason(packet).or(self.close_reason);
        }
        packets
    }

    /// The server has closed the connection.
    pub fn on_closed(&self) -> End {
        End::ByServer(self.close_reason)
    }

    /// What the script says after reading and writing.
    pub fn step(&mut self, now: Instant) -> Step {
        let elapsed = now.saturating_duration_since(self.connected_at);
        let has_sent_all = self.has_sent_all();
        match self.script.ending {
            Ending::Reset(after) if after <= elapsed => return Step::End(End::AsScripted),
            Ending::Leave if has_sent_all => return Step::End(End::Left),
            _ if self.script.expect != Expect::Any && self.script.timeout <= elapsed => {
                return Step::End(End::TimedOut);
            }
            Ending::CloseWrite if has_sent_all && !self.has_closed_write => {
                self.has_closed_write = true;
                return Step::CloseWrite;
            }
            _ => {}
        }
        Step::Continue
    }

    fn has_sent_all(&self) -> bool {
        self.sent == self.output.len()
    }
}

impl End {
    /// Whether the server refused the connection because it is full.
    pub fn is_refused(self, protocol: &dyn Protocol) -> bool {
        matches!(self, Self::ByServer(Some(code)) if protocol.is_full(code))
    }

    /// Whether it shows what the server does with an attacker.
    pub fn is_conclusive(self, protocol: &dyn Protocol) -> bool {
        match self {
            Self::ByServer(_) => !self.is_refused(protocol),
            Self::TimedOut => true,
            Self::AsScripted | Self::Left => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::script::Repeat;
    use crate::attack::testing::TestProtocol;
    use server_core::testing::packet;
    use std::time::Duration;

    const EVERY: Duration = Duration::from_millis(10);
    const NANO: Duration = Duration::from_nanos(1);

    fn script(initial_bytes: &'static [u8], expect: Expect) -> AttackScript {
        AttackScript::new(initial_bytes, expect)
    }

    fn repeating(every: Duration) -> AttackScript {
        AttackScript {
            repeat: Some(Repeat {
                bytes: b"again"[..].into(),
                every,
            }),
            ..script(b"first", Expect::Close)
        }
    }

    /// Takes the whole output.
    fn send(connection: &mut AttackConnection, now: Instant) -> Vec<u8> {
        let output = connection.output(now).to_vec();
        connection.on_sent(output.len());
        output
    }

    #[test]
    fn initial_bytes_are_followed_by_repetitions() {
        let start = Instant::now();
        let mut connection = AttackConnection::new(repeating(EVERY), None, start);
        assert_eq!(connection.output(start), b"first");
        connection.on_sent(2);
        assert_eq!(connection.output(start), b"rst");
        // A repetition never starts before the end of the bytes before it.
        assert_eq!(connection.output(start + EVERY * 5), b"rst");
        connection.on_sent(3);
        for round in 0..3 {
            let at = start + EVERY * round;
            assert_eq!(connection.next_at(true), Some(at));
            assert_eq!(send(&mut connection, at), b"again");
            assert_eq!(send(&mut connection, at + EVERY - NANO), b"");
        }
    }

    #[test]
    fn repetition_without_an_interval_never_waits() {
        let now = Instant::now();
        let mut connection = AttackConnection::new(repeating(Duration::ZERO), None, now);
        send(&mut connection, now);
        for _ in 0..100 {
            assert_eq!(send(&mut connection, now), b"again");
        }
    }

    /// The loop would never wait for it.
    #[test]
    fn repetition_without_bytes_is_left_out() {
        let now = Instant::now();
        let mut script = repeating(Duration::ZERO);
        script.repeat.as_mut().unwrap().bytes = Cow::Borrowed(&[]);
        let mut connection = AttackConnection::new(script, None, now);
        send(&mut connection, now);
        assert_eq!(send(&mut connection, now), b"");
        assert_eq!(connection.next_at(true), Some(now + AttackScript::TIMEOUT));
    }

    #[test]
    fn blocked_socket_waits_for_its_event() {
        let now = Instant::now();
        let connection = AttackConnection::new(repeating(EVERY), None, now);
        assert_eq!(connection.next_at(true), Some(now));
        assert_eq!(connection.next_at(false), Some(now + AttackScript::TIMEOUT));
    }

    #[test]
    fn aligned_bytes_wait_for_their_moment_and_go_before_the_first_read() {
        let start = Instant::now();
        let send_at = start + EVERY;
        let mut connection =
            AttackConnection::new(script(b"burst", Expect::Any), Some(send_at), start);
        assert!(!connection.sends_first(send_at - NANO));
        assert_eq!(connection.output(send_at - NANO), b"");
        assert_eq!(connection.next_at(true), Some(send_at));
        assert!(connection.sends_first(send_at));
        assert_eq!(send(&mut connection, send_at), b"burst");
        assert!(!connection.sends_first(send_at));
        assert_eq!(connection.next_at(true), None);
    }

    #[test]
    fn close_message_ends_the_output() {
        let start = Instant::now();
        let mut connection = AttackConnection::new(repeating(EVERY), None, start);
        send(&mut connection, start);
        let close = packet(TestProtocol::CLOSE, [7, 0]);
        let bytes = [packet(1, b"tick"), close].concat();
        let mut packets = 0;
        for byte in &bytes {
            assert_eq!(connection.close_reason(), None);
            packets += connection.on_received(&[*byte], &TestProtocol);
        }
        assert_eq!((packets, connection.close_reason()), (2, Some(7)));
        assert_eq!(send(&mut connection, start + EVERY), b"");
        // The repetition is due, and does not wake the loop any more.
        let timeout_at = start + AttackScript::TIMEOUT;
        assert_eq!(connection.next_at(true), Some(timeout_at));
        assert_eq!(connection.on_closed(), End::ByServer(Some(7)));
        // A server that keeps the connection has not done what it must.
        assert_eq!(connection.step(timeout_at), Step::End(End::TimedOut));
    }

    #[test]
    fn close_without_a_message_has_no_reason() {
        let now = Instant::now();
        let mut connection = AttackConnection::new(script(b"", Expect::Close), None, now);
        connection.on_received(&[0, 0, 0, 0, 1], &TestProtocol);
        assert_eq!(connection.on_closed(), End::ByServer(None));
    }

    #[test]
    fn timeout_ends_a_connection_unless_the_server_may_do_anything() {
        let start = Instant::now();
        let timeout_at = start + AttackScript::TIMEOUT;
        for (expect, expected) in [
            (Expect::Close, Step::End(End::TimedOut)),
            (Expect::Reason((&[1]).into()), Step::End(End::TimedOut)),
            (Expect::Any, Step::Continue),
        ] {
            let mut connection = AttackConnection::new(script(b"", expect), None, start);
            assert_eq!(connection.step(timeout_at - NANO), Step::Continue);
            assert_eq!(connection.step(timeout_at), expected);
        }
    }

    #[test]
    fn reset_comes_at_its_time_sent_or_not() {
        let start = Instant::now();
        let reset = AttackScript {
            ending: Ending::Reset(EVERY),
            ..script(b"half", Expect::Any)
        };
        let mut connection = AttackConnection::new(reset, None, start);
        assert_eq!(connection.next_at(true), Some(start + EVERY));
        assert_eq!(connection.step(start + EVERY - NANO), Step::Continue);
        assert_eq!(connection.step(start + EVERY), Step::End(End::AsScripted));
    }

    #[test]
    fn write_side_is_closed_once_behind_the_last_byte() {
        let now = Instant::now();
        for (ending, first, second) in [
            (Ending::CloseWrite, Step::CloseWrite, Step::Continue),
            (Ending::Leave, Step::End(End::Left), Step::End(End::Left)),
        ] {
            let script = AttackScript {
                ending,
                ..script(b"last", Expect::Close)
            };
            let mut connection = AttackConnection::new(script, None, now);
            connection.on_sent(3);
            assert_eq!(connection.step(now), Step::Continue, "{ending:?}");
            connection.on_sent(1);
            assert_eq!(connection.step(now), first, "{ending:?}");
            assert_eq!(connection.step(now), second, "{ending:?}");
        }
    }
}
