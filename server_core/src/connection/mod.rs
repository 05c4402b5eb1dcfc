//! One peer: its stream, its framing, its send queue, and its phases.
//!
//! ```text
//!  Connecting --> Handshaking --> Open --reason--> Draining --flushed--> Draining --FIN or linger--> (dropped)
//!      |               |           |            (write open)          (write shut)
//!      +---- failed ---+-----------+---- peer gone, or too slow: no byte would reach it ---------> (dropped)
//! ```
//!
//! The first three are phases of a [`Connection`], in the session table; `Handshaking` is only for a
//! transport that needs it. `Draining` is a type of its own: a stream that has left the table has no session
//! and no framer, and no packet can be sent to it.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod admission;
mod deadlines;
mod draining;
mod output;
pub mod proxied;
mod reading;

pub use deadlines::Expired;
pub use draining::{Drained, Draining, Progress};
pub use output::Flushed;
pub use reading::{ReadLimits, Received};

use crate::base::config::Config;
use crate::base::id::SessionId;
use crate::base::rate_limiter::RateLimiter;
use crate::base::reason::{DisconnectReason, Kick};
use crate::base::snapshot::SessionInfo;
use crate::base::timers::{KeyedTimers, TimerSlot};
use crate::base::transport_kind::TransportKind;
use crate::buffer::SendBuffer;
use crate::buffer::queue::{PacketBatch, SendQueue};
use crate::connection::admission::Permit;
use crate::protocol::framer::Framer;
use crate::session::Peer;
use crate::transport::{HandshakeStep, Transport};
use output::{regauge, write_queue};
use reading::ReadState;
use std::io::ErrorKind;
use std::time::Instant;

/// A peer in the session table.
#[derive(Debug)]
pub struct Connection<T, S> {
    /// The user's object.
    pub session: S,
    /// The next deadline of this connection.
    pub timer: TimerSlot,
    /// There may be input that no edge will announce.
    pub has_input: bool,
    /// On the worker's list of sessions to read from.
    pub is_listed_readable: bool,
    /// On the worker's list of sessions to flush.
    pub is_dirty: bool,
    /// The pending broadcast of this turn is in its queue already, or is older than this session.
    pub is_detached: bool,
    /// Admitted: it has logged in, or does not have to.
    pub is_admitted: bool,
    /// Its end is decided, and waits behind effects that were asked for before. No callback runs any more.
    pub is_leaving: bool,
    /// Effects of its callbacks on the worker's list of deferred effects. While there are any, the session is
    /// held: it is not read.
    pub held_effects: u32,
    /// On the worker's list of sessions that pace what is sent to them.
    pub is_pacing: bool,
    stream: T,
    permit: Permit,
    extras: Option<Box<Extras>>,
    phase: Phase,
    /// When this phase began.
    since: Instant,
    is_writable: bool,
    framer: Framer,
    queue: SendQueue,
    last_received_at: Instant,
    timer_at: Option<Instant>,
    gauged_bytes: usize,
    packets_received: u64,
    packets_sent: u64,
}

/// State that few sessions have; the others have no memory for it.
#[derive(Debug, Default)]
struct Extras {
    tag: Option<u64>,
    rate: RateLimiter,
    empty_frames: RateLimiter,
    read_state: ReadState,
    /// The session has paused itself.
    is_reading_paused: bool,
    /// Since when the transport keeps bytes of a message that is not complete.
    incomplete_since: Option<Instant>,
    /// The session is called when its queue holds this many bytes or fewer.
    drained_below: Option<usize>,
    /// On the worker's list of sessions whose queue has drained.
    is_listed_drained: bool,
    /// The session's timers by key.
    keyed_timers: KeyedTimers,
    /// The text of the game for the end that is decided.
    close_text: Option<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not registered yet, or an outgoing connection that is not made yet.
    Connecting,
    /// The stream is connected, and its transport has a handshake to complete before packets flow.
    Handshaking,
    /// Packets flow.
    Open,
}

impl<T: Transport, S> Connection<T, S> {
    /// A connection in its first phase, until [`establish`](Self::establish) or [`open`](Self::open).
    #[must_use]
    pub fn new(session: S, stream: T, permit: Permit, tag: Option<u64>, now: Instant) -> Self {
        let extras = tag.map(|tag| {
            Box::new(Extras {
                tag: Some(tag),
                ..Extras::default()
            })
        });
        Self {
            session,
            timer: TimerSlot::default(),
            has_input: false,
            is_listed_readable: false,
            is_dirty: false,
            is_detached: false,
            is_admitted: true,
            is_leaving: false,
            held_effects: 0,
            is_pacing: false,
            stream,
            permit,
            extras,
            phase: Phase::Connecting,
            since: now,
            is_writable: false,
            framer: Framer::default(),
            queue: SendQueue::default(),
            last_received_at: now,
            timer_at: None,
            gauged_bytes: 0,
            packets_received: 0,
            packets_sent: 0,
        }
    }

    /// The stream is connected. Returns whether packets flow from now on: otherwise a handshake comes first.
    pub fn establish(&mut self, now: Instant) -> bool {
        if !self.stream.needs_handshake() {
            self.open(now);
            return true;
        }
        self.phase = Phase::Handshaking;
        self.since = now;
        false
    }

    /// Takes the handshake a step further. Returns how far it came, the change of
    /// [`partial_bytes`](Self::partial_bytes), and what the step costs of a turn's input beyond its fixed price.
    ///
    /// # Errors
    /// Why the session has to end.
    pub fn handshake(
        &mut self,
        now: Instant,
    ) -> (Result<HandshakeStep, DisconnectReason>, isize, usize) {
        let partial_bytes = self.partial_bytes() as isize;
        let step = self.stream.handshake();
        if step == Ok(HandshakeStep::Done) {
            self.open(now);
        }
        let growth = self.partial_bytes() as isize - partial_bytes;
        (step, growth, self.stream.overhead_bytes())
    }

    /// Packets flow from now on.
    pub fn open(&mut self, now: Instant) {
        self.phase = Phase::Open;
        self.queue.restart_age(now);
        self.since = now;
        self.is_writable = true;
        self.last_received_at = now;
    }

    /// Whether packets flow.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether a handshake has to be completed before packets flow.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.phase == Phase::Handshaking
    }

    /// Whether the stream is not connected yet: there is nothing to read from.
    #[must_use]
    pub fn is_connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    /// Id, address and tag of the peer.
    #[must_use]
    pub fn peer(&self, id: SessionId) -> Peer {
        Peer::new(
            id,
            self.permit.peer(),
            self.extras.as_ref().and_then(|extras| extras.tag),
        )
    }

    /// Statistics for `/sessions`.
    #[must_use]
    pub fn info(&self, id: SessionId) -> SessionInfo {
        SessionInfo {
            id,
            addr: self.permit.peer(),
            opened_at: self.since,
            packets_received: self.packets_received,
            packets_sent: self.packets_sent,
            queued_bytes: self.queue.queued_bytes(),
            oldest_unsent_at: self.queue.oldest_at(),
        }
    }

    /// Bytes of memory for a packet that is not complete.
    #[must_use]
    pub fn partial_bytes(&self) -> usize {
        self.framer.reserved_bytes() + self.stream.kept_bytes()
    }

    /// The stream, for registering it.
    pub fn stream_mut(&mut self) -> &mut T {
        &mut self.stream
    }

    /// The permit.
    #[must_use]
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// The name of its transport.
    #[must_use]
    pub fn transport(&self) -> TransportKind {
        self.stream.kind()
    }

    /// Whether its handshake has continued an earlier session.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.stream.is_resumed()
    }

    /// Whether the peer has made the connection.
    fn is_incoming(&self) -> bool {
        self.extras
            .as_ref()
            .is_none_or(|extras| extras.tag.is_none())
    }

    /// Whether the peer has sent a packet.
    #[must_use]
    pub fn has_packets(&self) -> bool {
        self.packets_received > 0
    }

    /// Start of the time for the login, while that is not complete.
    fn login_began_at(&self) -> Option<Instant> {
        (!self.is_admitted).then_some(self.since)
    }

    /// The socket has become writable. Returns whether packets flow from now on, and did not
    /// before.
    ///
    /// # Errors
    /// Why an outgoing connection cannot be made.
    pub fn handle_writable(&mut self, now: Instant) -> Result<bool, DisconnectReason> {
        match self.phase {
            Phase::Open => {
                self.is_writable = true;
                Ok(false)
            }
            Phase::Handshaking => Ok(false),
            Phase::Connecting => match self.stream.poll_connected() {
                Ok(false) => Ok(false),
                Ok(true) => Ok(self.establish(now)),
                Err(error) => Err(DisconnectReason::ConnectFailed(error.kind())),
            },
        }
    }

    /// Queues a packet. Returns whether this connection now has to be put on the list of connections to
    /// flush.
    pub fn queue(&mut self, buffer: SendBuffer) -> bool {
        self.queue_batch(PacketBatch::new(buffer))
    }

    /// The same for several packets at once.
    pub fn queue_batch(&mut self, run: PacketBatch) -> bool {
        self.queue.push_batch(run);
        !std::mem::replace(&mut self.is_dirty, true)
    }

    /// Writes the pending broadcast, if no output waits before it: for a peer that keeps up, the queue is not
    /// touched. Otherwise the broadcast is queued. Returns whether this connection now has to be put on the
    /// list of connections to flush.
    ///
    /// # Errors
    /// If the stream is broken.
    pub fn write_broadcast(
        &mut self,
        run: &PacketBatch,
        config: &Config,
        flushed: &mut Flushed,
    ) -> Result<bool, DisconnectReason> {
        let bytes = run.bytes();
        let is_next = self.is_writable && !self.has_output();
        if !is_next || bytes.len() > config.write_budget_bytes {
            return Ok(self.queue_batch(run.clone()));
        }
        flushed.calls += 1;
        let written = match self.stream.write(bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_writable = false;
                0
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(error) => return Err(DisconnectReason::from_io(&error)),
        };
        flushed.bytes += written;
        if written == bytes.len() {
            flushed.packets += run.packets();
            self.packets_sent += run.packets() as u64;
            return Ok(false);
        }
        let is_new = self.queue_batch(run.clone());
        let packets = self.queue.advance(written);
        flushed.packets += packets;
        self.packets_sent += packets as u64;
        Ok(is_new)
    }

    /// Whether anything waits to be written: packets, or bytes that the transport itself holds.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.queue.queued_bytes() > 0 || self.stream.buffered_bytes() > 0
    }

    /// The transport may hold bytes of its own after a read or a handshake. Returns whether this connection
    /// now has to be put on the list of connections to flush.
    pub fn needs_flush(&mut self) -> bool {
        self.has_output() && !std::mem::replace(&mut self.is_dirty, true)
    }

    /// Whether effects of its callbacks wait: then it is not read.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held_effects > 0
    }

    /// There is input. Returns whether this connection now has to be put on the list of connections to read.
    /// A held connection is put there when it is released, and a paused one when it is resumed.
    pub fn list_readable(&mut self) -> bool {
        self.has_input = true;
        !self.is_held()
            && !self.is_reading_paused()
            && !std::mem::replace(&mut self.is_listed_readable, true)
    }

    /// Unsent bytes.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queue.queued_bytes()
    }

    /// The session asks for a call when its queue holds `below` bytes or fewer. The next flush checks
    /// the queue; returns whether this connection now has to be put on the list of connections to flush.
    pub fn notify_drained(&mut self, below: usize) -> bool {
        self.extras.get_or_insert_default().drained_below = Some(below);
        !std::mem::replace(&mut self.is_dirty, true)
    }

    /// Whether this connection now has to be put on the list of connections whose queue has drained.
    pub fn has_drained(&mut self) -> bool {
        let queued_bytes = self.queued_bytes();
        let Some(extras) = &mut self.extras else {
            return false;
        };
        let is_drained = (extras.drained_below).is_some_and(|below| below >= queued_bytes);
        is_drained && !std::mem::replace(&mut extras.is_listed_drained, true)
    }

    /// Takes this connection off that list, and the request if the queue is still short enough. A session
    /// that is held keeps its request.
    pub fn take_drained(&mut self) -> bool {
        let (queued_bytes, is_held) = (self.queued_bytes(), self.is_held());
        let Some(extras) = &mut self.extras else {
            return false;
        };
        extras.is_listed_drained = false;
        let request = &mut extras.drained_below;
        request
            .take_if(|below| !is_held && *below >= queued_bytes)
            .is_some()
    }

    /// Sets the text for the close message and the log.
    pub fn set_close_text(&mut self, text: Box<str>) {
        self.extras.get_or_insert_default().close_text = Some(text);
    }

    /// Takes the text of the close message, if the game gave one.
    pub fn take_close_text(&mut self) -> Option<Box<str>> {
        self.extras.as_mut()?.close_text.take()
    }

    /// Bytes that wait in both directions.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.queue.queued_bytes() + self.stream.buffered_bytes() + self.partial_bytes()
    }

    /// Whether this peer begins to pace, with more than `bytes` in its queue, by what is known so far.
    pub fn starts_pacing(&mut self, bytes: usize) -> bool {
        self.is_open()
            && self.queue.queued_bytes() > bytes
            && self.queue.kept_up()
            && !std::mem::replace(&mut self.is_pacing, true)
    }

    /// Whether this peer's queue paces what other sessions send to it: it is longer than `bytes`, and
    /// the peer takes it fast enough to be waited for.
    pub fn paces(&mut self, bytes: usize, now: Instant) -> bool {
        self.is_open() && self.queue.queued_bytes() > bytes && self.queue.keeps_up(now)
    }

    /// Writes the queue, then settles the rest. A queue over its cap ends the session here, after the write;
    /// the other limits are checked by time, in [`expired`](Self::expired).
    pub fn flush(
        &mut self,
        config: &Config,
        now: Instant,
    ) -> (Flushed, Result<(), DisconnectReason>) {
        self.is_dirty = false;
        let mut flushed = Flushed::default();
        let written = if self.is_writable {
            write_queue(
                &mut self.stream,
                &mut self.queue,
                &mut self.is_writable,
                config,
                &mut flushed,
            )
        } else {
            Ok(())
        };
        let over_cap = self.queue.queued_bytes() > config.send_queue_cap();
        let verdict = match written {
            Err(error) => Err(DisconnectReason::from_io(&error)),
            Ok(()) if over_cap => Err(Kick::SlowConsumer.into()),
            Ok(()) => Ok(()),
        };
        match verdict {
            Ok(()) => {
                self.queue.settle(now);
                self.queue.watch_limit(config.max_send_queue_bytes, now);
            }
            // No byte of it would reach the peer, so a copy is useless.
            Err(_) => self.queue = SendQueue::default(),
        }
        self.packets_sent += flushed.packets as u64;
        // What the transport has sealed waits as well, beside the packets in the queue.
        let waiting = self.queue.queued_bytes() + self.stream.buffered_bytes();
        flushed.queue_growth = regauge(&mut self.gauged_bytes, waiting);
        (flushed, verdict)
    }

    /// Releases the chunks that its queue still holds: no flush follows in this turn.
    pub fn settle(&mut self, now: Instant) {
        self.queue.settle(now);
    }

    /// Lets the next flush write although no edge has come: the last chance of a peer before the check of its
    /// age.
    pub fn assume_writable(&mut self) {
        self.is_writable = self.is_open();
    }

    /// Takes the session out and leaves the stream to be flushed and closed.
    #[must_use]
    pub fn into_draining(
        mut self,
        reason: DisconnectReason,
        last_packet: Option<SendBuffer>,
        flush_by: Instant,
    ) -> (S, Draining<T>) {
        self.stream.note_end(reason);
        // Packets follow a handshake. A transport that has not completed its own, or whose protocol the peer has
        // broken since, sends its own bytes alone.
        let is_broken = reason == DisconnectReason::Handshake;
        let queue = if is_broken || self.stream.needs_handshake() {
            SendQueue::default()
        } else {
            self.queue
        };
        let mut draining = Draining::new(self.stream, queue, last_packet, flush_by);
        draining.timer = self.timer;
        draining._permit = Some(self.permit);
        // A session that was closed earlier in this turn has missed an edge that came since: one write that
        // would block is the price of not waiting for that edge for ever.
        draining.is_writable = self.phase != Phase::Connecting;
        draining.saw_fin = reason == DisconnectReason::PeerClosed;
        draining.gauged_bytes = self.gauged_bytes;
        (self.session, draining)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::recv::RecvBuffer;
    use crate::buffer::{ChunkPool, SendBufferManager};
    use crate::connection::admission::Admission;
    use crate::testing::{FakePeer, FakeStream};
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;

    /// A connection whose peer sends empty packets without end and takes what is written.
    fn open(now: Instant) -> (Connection<FakeStream, ()>, FakePeer) {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let admission = Arc::new(Admission::new(1, None, None));
        let permit = admission.admit(peer).unwrap();
        let (stream, end) = FakeStream::pair();
        end.send_endlessly([4, 0, 2, 0].repeat(1 << 10));
        let mut connection = Connection::new((), stream, permit, None, now);
        connection.open(now);
        (connection, end)
    }

    fn queue(connection: &mut Connection<FakeStream, ()>, packets: usize) {
        let buffers = SendBufferManager::new(ChunkPool::new(64 << 10, 8));
        for _ in 0..packets {
            let packet = buffers.write(1000, |memory| {
                // Sizes, so that the queue can count what a cut write has finished.
                memory[..2].copy_from_slice(&1000_u16.to_le_bytes());
                1000
            });
            connection.queue(packet);
        }
    }

    #[test]
    fn packets_that_waited_for_a_handshake_are_as_old_as_the_open_session() {
        let secs = Duration::from_secs;
        let config = Config {
            max_send_lag: Some(secs(3)),
            ..Config::default()
        };
        let now = Instant::now();
        let (mut connection, peer) = open(now);
        peer.state().room = 0;
        queue(&mut connection, 1);
        assert_eq!(connection.flush(&config, now).1, Ok(()));
        // The handshake is complete now.
        connection.open(now + secs(4));
        let is_slow = |connection: &mut Connection<_, _>, at| {
            connection.expired(&config, now + secs(at))
                == Expired::WriteThenClose(Kick::SlowConsumer.into())
        };
        assert!(!is_slow(&mut connection, 6));
        assert!(is_slow(&mut connection, 7));
    }

    #[test]
    fn a_turn_reads_and_writes_no_more_than_its_budgets() {
        let (config, now) = (Config::default(), Instant::now());
        let (mut connection, peer) = open(now);
        let mut buffer = RecvBuffer::new(config.recv_buffer_bytes);
        let received = connection.receive(
            &mut buffer,
            config.read_budget_bytes,
            &config,
            now,
            |(), _, _| Ok(()),
        );
        assert_eq!(received.bytes, config.read_budget_bytes);
        assert_eq!(received.packets, config.read_budget_bytes / 4);
        assert!(matches!(received.outcome, Ok(true)), "there is more");

        queue(&mut connection, 500);
        for turn in 1..=7 {
            let (flushed, verdict) = connection.flush(&config, now);
            assert!(verdict.is_ok() && flushed.has_more);
            let written_bytes = peer.state().written_bytes;
            assert_eq!(written_bytes, turn * config.write_budget_bytes);
        }
        let (flushed, _) = connection.flush(&config, now);
        assert!(!flushed.has_more && !connection.has_output());
        assert_eq!(peer.state().written_bytes, 500_000);
    }

    /// A session that is behind is not read until it has taken more or its pause is over.
    #[test]
    fn a_pause_ends_with_the_queue_or_the_time() {
        let (config, now) = (Config::default(), Instant::now());
        let limits = ReadLimits::new(&config, false);
        let (mut connection, _peer) = open(now);
        assert!(connection.may_receive(limits, now));
        queue(&mut connection, 600);
        connection.settle(now);
        assert!(!connection.may_receive(limits, now));
        assert!(!connection.resume(limits, now));
        assert_eq!(
            connection.next_deadline(&config),
            Some(now + config.read_pause)
        );
        for _ in 0..9 {
            assert!(!connection.resume(limits, now), "64 KiB or more wait");
            assert!(connection.flush(&config, now).1.is_ok());
        }
        assert!(connection.resume(limits, now));
        assert!(connection.may_receive(limits, now));

        queue(&mut connection, 600);
        connection.settle(now);
        assert!(!connection.may_receive(limits, now));
        let later = now + config.read_pause;
        assert!(!connection.resume(limits, later - Duration::from_nanos(1)));
        assert!(connection.resume(limits, later));
        assert!(connection.may_receive(limits, later), "the limit decides");
    }
}
