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
mod draining;
mod output;

pub use draining::{Drained, Draining, Progress};
pub use output::Flushed;

use crate::base::config::Config;
use crate::base::id::SessionId;
use crate::base::rate_limiter::RateLimiter;
use crate::base::reason::{DisconnectReason, Kick};
use crate::base::snapshot::SessionInfo;
use crate::base::timers::TimerSlot;
use crate::buffer::SendBuffer;
use crate::buffer::queue::{PacketBatch, SendQueue};
use crate::buffer::recv::RecvBuffer;
use crate::connection::admission::Permit;
use crate::protocol::framer::Framer;
use crate::protocol::packet::Packet;
use crate::session::Peer;
use crate::transport::{Completion, ReadOutcome, Transport};
use output::{regauge, write_queue};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

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
    intake: ReadState,
    /// The session is called when its queue holds this many bytes or fewer.
    drained_below: Option<usize>,
    /// On the worker's list of sessions whose queue has drained.
    is_listed_drained: bool,
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

/// Whether the input of a peer waits in its socket until it has taken more of its output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ReadState {
    /// Input is read as it comes.
    #[default]
    Free,
    /// Input is not read before the queue is shorter, or before this instant.
    Paused { until: Instant },
    /// The pause is over and the queue is still long: input is read up to the limit.
    Resumed,
}

/// The lengths of a queue up to which its session is read.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// Above this a pause begins.
    pause_above: usize,
    /// Up to this the session is read on after its pause.
    resume_up_to: usize,
    /// Length of a pause; zero: none.
    pause: Duration,
}

/// The result of reading from one session.
#[derive(Debug)]
pub struct Received {
    /// Change of the memory for a packet that is not complete.
    pub partial_growth: isize,
    /// Bytes of packets that were read.
    pub bytes: usize,
    /// Bytes that the transport read beyond them.
    pub overhead_bytes: usize,
    /// Complete packets among them.
    pub packets: usize,
    /// Whether the budget, and not the input, was used up; or why the session has to end.
    pub outcome: Result<bool, DisconnectReason>,
}

/// The deadline that has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// No deadline.
    None,
    /// The peer has sent too little: read once more, then close.
    ReadThenClose(DisconnectReason),
    /// The peer has taken too little: write once more, then close.
    WriteThenClose(DisconnectReason),
    /// Close: another try is useless.
    Close(DisconnectReason),
}

impl ReadLimits {
    /// The limits of a server, lower ones if it `is_short_of_memory`.
    #[must_use]
    pub fn new(config: &Config, is_short_of_memory: bool) -> Self {
        let lowest = config.crowded_bytes() / 4;
        Self {
            pause_above: if is_short_of_memory {
                lowest
            } else {
                config.crowded_bytes()
            },
            resume_up_to: if is_short_of_memory {
                lowest
            } else {
                config.max_send_queue_bytes
            },
            pause: config.read_pause,
        }
    }
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

    /// Takes the handshake a step further. Returns whether packets flow from now on.
    ///
    /// # Errors
    /// Why the session has to end.
    pub fn handshake(&mut self, now: Instant) -> Result<bool, DisconnectReason> {
        let is_done = self.stream.handshake()? == Completion::Done;
        if is_done {
            self.open(now);
        }
        Ok(is_done)
    }

    /// Packets flow from now on.
    pub fn open(&mut self, now: Instant) {
        self.phase = Phase::Open;
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
        self.framer.reserved_bytes()
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
        self.queue_run(PacketBatch::new(buffer))
    }

    /// The same for several packets at once.
    pub fn queue_run(&mut self, run: PacketBatch) -> bool {
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
            return Ok(self.queue_run(run.clone()));
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
        let is_new = self.queue_run(run.clone());
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
        self.stream.buffered_bytes() > 0 && !std::mem::replace(&mut self.is_dirty, true)
    }

    /// Whether effects of its callbacks wait: then it is not read.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held_effects > 0
    }

    /// There is input. Returns whether this connection now has to be put on the list of connections to read.
    /// A held connection is put there when it is released.
    pub fn list_readable(&mut self) -> bool {
        self.has_input = true;
        !self.is_held() && !std::mem::replace(&mut self.is_listed_readable, true)
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

    /// Whether to read from it now. If not, [`resume`](Self::resume) says when.
    pub fn may_receive(&mut self, limits: ReadLimits, now: Instant) -> bool {
        let queued_bytes = self.queue.queued_bytes();
        let must_pause = match self.intake() {
            ReadState::Free => queued_bytes > limits.pause_above,
            ReadState::Paused { .. } => false,
            ReadState::Resumed => queued_bytes > limits.resume_up_to,
        };
        if must_pause && !limits.pause.is_zero() {
            let until = now + limits.pause;
            self.extras.get_or_insert_default().intake = ReadState::Paused { until };
        }
        !matches!(self.intake(), ReadState::Paused { .. })
    }

    /// Whether a pause of its input is over: then it has to be read, as no edge announces the input.
    pub fn resume(&mut self, limits: ReadLimits, now: Instant) -> bool {
        let queued_bytes = self.queue.queued_bytes();
        let Some(extras) = &mut self.extras else {
            return false;
        };
        let was_paused = matches!(extras.intake, ReadState::Paused { .. });
        let is_over = matches!(extras.intake, ReadState::Paused { until } if until <= now);
        if queued_bytes <= limits.pause_above {
            extras.intake = ReadState::Free;
        } else if is_over && queued_bytes > limits.resume_up_to {
            let until = now + limits.pause;
            extras.intake = ReadState::Paused { until };
        } else if is_over {
            extras.intake = ReadState::Resumed;
        }
        let resumes = was_paused && !matches!(extras.intake, ReadState::Paused { .. });
        if resumes {
            self.restart_input_clock(now);
        }
        resumes
    }

    /// The server has not read the peer: the time for the peer's input starts now.
    pub fn restart_input_clock(&mut self, now: Instant) {
        self.framer.restart_clock(now);
        self.last_received_at = now;
    }

    /// Whether the peer is not read now, whatever it has sent.
    fn is_input_paused(&self) -> bool {
        self.is_held() || matches!(self.intake(), ReadState::Paused { .. })
    }

    fn intake(&self) -> ReadState {
        (self.extras.as_ref()).map_or(ReadState::Free, |extras| extras.intake)
    }

    /// Bytes that wait in both directions.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.queue.queued_bytes() + self.framer.reserved_bytes()
    }

    /// Whether this peer begins to pace, with more than `bytes` in its queue, by what is known so far.
    pub fn starts_pacing(&mut self, bytes: usize) -> bool {
        self.queue.queued_bytes() > bytes
            && self.queue.kept_up()
            && !std::mem::replace(&mut self.is_pacing, true)
    }

    /// Whether this peer's queue paces what other sessions send to it: it is longer than `bytes`, and
    /// the peer takes it fast enough to be waited for.
    pub fn paces(&mut self, bytes: usize, now: Instant) -> bool {
        self.queue.queued_bytes() > bytes && self.queue.keeps_up(now)
    }

    /// Reads until the stream would block, the budget is used up or the session has to end, and shows each
    /// complete packet to `handle`. No byte behind the first offence is parsed.
    pub fn receive(
        &mut self,
        buffer: &mut RecvBuffer,
        budget_bytes: usize,
        config: &Config,
        now: Instant,
        mut handle: impl FnMut(&mut S, Packet<'_>) -> Result<(), DisconnectReason>,
    ) -> Received {
        let partial_bytes = self.framer.reserved_bytes() as isize;
        let mut received = Received {
            partial_growth: 0,
            bytes: 0,
            overhead_bytes: 0,
            packets: 0,
            outcome: Ok(true),
        };
        while received.bytes + received.overhead_bytes < budget_bytes {
            let budget = budget_bytes - received.bytes - received.overhead_bytes;
            let memory = buffer.room(budget);
            let outcome = self.stream.read(memory);
            received.overhead_bytes += self.stream.overhead_bytes();
            let input = match outcome {
                Ok(ReadOutcome::Bytes(count)) => &memory[..count],
                Ok(ReadOutcome::Blocked) => {
                    received.outcome = Ok(false);
                    break;
                }
                Ok(ReadOutcome::Closed) => {
                    received.outcome = Err(DisconnectReason::PeerClosed);
                    break;
                }
                Err(reason) => {
                    received.outcome = Err(reason);
                    break;
                }
            };
            received.bytes += input.len();
            self.last_received_at = now;
            let (packets, answer) = self.parse(input, config, now, &mut handle);
            received.packets += packets;
            if let Err(reason) = answer {
                received.outcome = Err(reason);
                break;
            }
        }
        received.partial_growth = self.framer.reserved_bytes() as isize - partial_bytes;
        self.packets_received += received.packets as u64;
        received
    }

    fn parse(
        &mut self,
        mut input: &[u8],
        config: &Config,
        now: Instant,
        handle: &mut impl FnMut(&mut S, Packet<'_>) -> Result<(), DisconnectReason>,
    ) -> (usize, Result<(), DisconnectReason>) {
        let mut packets = 0;
        loop {
            match self.framer.next_packet(&mut input, config.max_packet_bytes) {
                Ok(Some(packet)) => {
                    packets += 1;
                    let allowed = config.max_packets_per_sec.is_none_or(|rate| {
                        let extras = self.extras.get_or_insert_default();
                        extras.rate.take(rate, now)
                    });
                    let answer = if allowed {
                        handle(&mut self.session, packet)
                    } else {
                        Err(Kick::RateLimit.into())
                    };
                    if answer.is_err() {
                        return (packets, answer);
                    }
                }
                Ok(None) => break,
                Err(kick) => return (packets, Err(kick.into())),
            }
        }
        self.framer.note(now);
        (packets, Ok(()))
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
        flushed.queue_growth = regauge(&mut self.gauged_bytes, &self.queue);
        (flushed, verdict)
    }

    /// When `on_timer` is due. Never for a held session: the effects that it asks for would have to wait.
    #[must_use]
    pub fn timer_at(&self) -> Option<Instant> {
        self.timer_at.filter(|_| !self.is_held())
    }

    /// Takes the session's timer, if its instant has come.
    pub fn take_timer(&mut self, now: Instant) -> bool {
        !self.is_held() && self.timer_at.take_if(|at| *at <= now).is_some()
    }

    /// Releases the chunks that its queue still holds: no flush follows in this turn.
    pub fn settle(&mut self, now: Instant) {
        self.queue.settle(now);
    }

    /// Sets the instant of `on_timer`, or clears it.
    pub fn set_timer(&mut self, at: Option<Instant>) {
        self.timer_at = at;
    }

    /// The next deadline.
    #[must_use]
    pub fn next_deadline(&self, config: &Config) -> Option<Instant> {
        self.deadlines(config).min()
    }

    /// The next deadline that has not expired.
    #[must_use]
    pub fn next_deadline_after(&self, now: Instant, config: &Config) -> Option<Instant> {
        self.deadlines(config).filter(|at| *at > now).min()
    }

    fn deadlines(&self, config: &Config) -> impl Iterator<Item = Instant> {
        let after = |since: Option<Instant>, wait: Option<_>| Some(since? + wait?);
        let opening = match self.phase {
            Phase::Connecting => Some(after(Some(self.since), config.connect_timeout)),
            Phase::Handshaking => Some(after(Some(self.since), config.handshake_timeout)),
            Phase::Open => None,
        };
        let open = opening.is_none().then(|| {
            let (began_at, last_received_at) = self.input_clock();
            let paused_until = match self.intake() {
                ReadState::Paused { until } => Some(until),
                ReadState::Free | ReadState::Resumed => None,
            };
            [
                self.timer_at(),
                paused_until,
                after(began_at, config.packet_timeout),
                after(last_received_at, config.idle_timeout),
                after(self.login_began_at(), config.login_timeout),
                after(self.queue.over_limit_since(), Some(config.max_send_grace)),
                (config.max_send_lag).and_then(|lag| self.queue.lag_check_at(lag)),
            ]
        });
        let opening = opening.into_iter();
        opening.chain(open.into_iter().flatten()).flatten()
    }

    /// Since when a packet is incomplete, and when bytes last came. `None` while the peer is not read.
    fn input_clock(&self) -> (Option<Instant>, Option<Instant>) {
        if self.is_input_paused() {
            (None, None)
        } else {
            (self.framer.began_at(), Some(self.last_received_at))
        }
    }

    /// Moves the time of what was read in the turn that `began` to the end of that turn.
    pub fn shift_to(&mut self, began: Instant, ended: Instant) {
        if self.last_received_at == began {
            self.last_received_at = ended;
        }
        self.framer.shift_to(began, ended);
    }

    /// The deadline that has expired. A peer that passes a check of its throughput gets more time here.
    #[must_use]
    pub fn expired(&mut self, config: &Config, now: Instant) -> Expired {
        let is_over = |since: Option<Instant>, wait: Option<_>| {
            since.zip(wait).is_some_and(|(at, wait)| at + wait <= now)
        };
        let opening = match self.phase {
            Phase::Connecting => Some((
                config.connect_timeout,
                Expired::Close(DisconnectReason::ConnectFailed(ErrorKind::TimedOut)),
            )),
            Phase::Handshaking => Some((
                config.handshake_timeout,
                Expired::ReadThenClose(DisconnectReason::Handshake),
            )),
            Phase::Open => None,
        };
        if let Some((timeout, expired)) = opening {
            return if is_over(Some(self.since), timeout) {
                expired
            } else {
                Expired::None
            };
        }
        let (began_at, last_received_at) = self.input_clock();
        if is_over(began_at, config.packet_timeout) {
            Expired::ReadThenClose(Kick::PacketTimeout.into())
        } else if is_over(last_received_at, config.idle_timeout) {
            Expired::ReadThenClose(DisconnectReason::Idle)
        } else if is_over(self.login_began_at(), config.login_timeout) {
            Expired::ReadThenClose(DisconnectReason::LoginTimeout)
        } else if self.is_slow(config, now) {
            Expired::WriteThenClose(Kick::SlowConsumer.into())
        } else {
            Expired::None
        }
    }

    fn is_slow(&mut self, config: &Config, now: Instant) -> bool {
        let is_over_limit = (self.queue.over_limit_since())
            .is_some_and(|since| since + config.max_send_grace <= now);
        if is_over_limit {
            if !self.queue.keeps_up(now) {
                return true;
            }
            self.queue.renew_grace(now);
        }
        let lag_check_at = (config.max_send_lag).and_then(|lag| self.queue.lag_check_at(lag));
        lag_check_at.is_some_and(|at| at <= now)
            && !(self.queue).passes_lag_check(config.min_send_rate_bytes.into(), now)
    }

    /// Lets the next flush write although no edge has come: the last chance of a peer before the check of its
    /// age.
    pub fn assume_writable(&mut self) {
        self.is_writable = self.is_open();
    }

    /// Takes the session out and leaves the stream to be flushed and closed.
    #[must_use]
    pub fn into_draining(
        self,
        reason: DisconnectReason,
        last_packet: Option<SendBuffer>,
        flush_by: Instant,
    ) -> (S, Draining<T>) {
        // Packets follow a handshake. A transport that has not completed its own sends its own bytes alone.
        let queue = if self.stream.needs_handshake() {
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
    use crate::buffer::{ChunkPool, SendBufferManager};
    use crate::connection::admission::Admission;
    use crate::testing::{FakePeer, FakeStream};
    use std::net::SocketAddr;
    use std::sync::Arc;

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
    fn a_turn_reads_and_writes_no_more_than_its_budgets() {
        let (config, now) = (Config::default(), Instant::now());
        let (mut connection, peer) = open(now);
        let mut buffer = RecvBuffer::new(config.recv_buffer_bytes);
        let received = connection.receive(
            &mut buffer,
            config.read_budget_bytes,
            &config,
            now,
            |(), _| Ok(()),
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
        assert!(
            connection.may_receive(limits, later),
            "for the limit to judge"
        );
    }
}
