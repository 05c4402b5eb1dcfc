//! Reading from a peer: pauses, budgets, packets.

use super::Connection;
use crate::base::config::Config;
use crate::base::reason::{DisconnectReason, Kick};
use crate::buffer::recv::RecvBuffer;
use crate::protocol::packet::Packet;
use crate::protocol::proxy_header::{SignatureMatch, signature_match};
use crate::transport::{ReadOutcome, Transport};
use std::time::{Duration, Instant};

/// Whether the input of a peer waits in its socket until it has taken more of its output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ReadState {
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

/// Frames without a byte of a packet (pings, empty fragments) that a peer may send in a second on average,
/// with a burst of twice that.
const MAX_EMPTY_FRAMES_PER_SEC: u32 = 100;

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
    /// Whether to read from it now. If not, [`resume`](Self::resume) says when.
    pub fn may_receive(&mut self, limits: ReadLimits, now: Instant) -> bool {
        let queued_bytes = self.queue.queued_bytes();
        let must_pause = match self.read_state() {
            ReadState::Free => queued_bytes > limits.pause_above,
            ReadState::Paused { .. } => false,
            ReadState::Resumed => queued_bytes > limits.resume_up_to,
        };
        if must_pause && !limits.pause.is_zero() {
            let until = now + limits.pause;
            self.extras.get_or_insert_default().read_state = ReadState::Paused { until };
        }
        !matches!(self.read_state(), ReadState::Paused { .. })
    }

    /// Whether a pause of its input is over: then it has to be read, as no edge announces the input.
    pub fn resume(&mut self, limits: ReadLimits, now: Instant) -> bool {
        let queued_bytes = self.queue.queued_bytes();
        let Some(extras) = &mut self.extras else {
            return false;
        };
        let was_paused = matches!(extras.read_state, ReadState::Paused { .. });
        let is_over = matches!(extras.read_state, ReadState::Paused { until } if until <= now);
        if queued_bytes <= limits.pause_above {
            extras.read_state = ReadState::Free;
        } else if is_over && queued_bytes > limits.resume_up_to {
            let until = now + limits.pause;
            extras.read_state = ReadState::Paused { until };
        } else if is_over {
            extras.read_state = ReadState::Resumed;
        }
        let resumes = was_paused && !matches!(extras.read_state, ReadState::Paused { .. });
        if resumes {
            self.restart_input_clock(now);
        }
        resumes
    }

    /// A message of the transport's own has the time of a packet: from its first byte, or from the last plaintext
    /// before it.
    fn note_incomplete(&mut self, has_plaintext: bool, now: Instant) {
        if self.stream.kept_bytes() > 0 {
            let since = &mut self.extras.get_or_insert_default().incomplete_since;
            *since = since.filter(|_| !has_plaintext).or(Some(now));
        } else if let Some(extras) = &mut self.extras {
            extras.incomplete_since = None;
        }
    }

    /// Since when a packet, or a message of the transport, is incomplete.
    pub(super) fn incomplete_since(&self) -> Option<Instant> {
        let of_transport = (self.extras.as_ref()).and_then(|extras| extras.incomplete_since);
        self.framer.began_at().into_iter().chain(of_transport).min()
    }

    /// The server has not read the peer: the time for the peer's input starts now.
    pub fn restart_input_clock(&mut self, now: Instant) {
        self.framer.restart_clock(now);
        if let Some(since) =
            (self.extras.as_mut()).and_then(|extras| extras.incomplete_since.as_mut())
        {
            *since = now;
        }
        self.last_received_at = now;
    }

    /// The session pauses itself, until [`resume_reading`](Self::resume_reading).
    pub fn pause_reading(&mut self) {
        self.extras.get_or_insert_default().is_reading_paused = true;
    }

    /// Ends that pause. Returns whether the session had paused itself.
    pub fn resume_reading(&mut self, now: Instant) -> bool {
        let was_paused = (self.extras.as_mut())
            .is_some_and(|extras| std::mem::take(&mut extras.is_reading_paused));
        if was_paused {
            self.restart_input_clock(now);
        }
        was_paused
    }

    /// Whether the session has paused itself.
    pub(super) fn is_reading_paused(&self) -> bool {
        (self.extras.as_ref()).is_some_and(|extras| extras.is_reading_paused)
    }

    /// Whether the peer is not read now, whatever it has sent.
    pub(super) fn is_input_paused(&self) -> bool {
        self.is_held()
            || self.is_reading_paused()
            || matches!(self.read_state(), ReadState::Paused { .. })
    }

    pub(super) fn read_state(&self) -> ReadState {
        (self.extras.as_ref()).map_or(ReadState::Free, |extras| extras.read_state)
    }

    /// Reads until the stream would block, the budget is used up or the session has to end, and shows each
    /// complete packet to `handle`, with whether the rate of its peer allows it. No byte behind the first offence is
    /// parsed.
    pub fn receive(
        &mut self,
        buffer: &mut RecvBuffer,
        budget_bytes: usize,
        config: &Config,
        now: Instant,
        mut handle: impl FnMut(&mut S, Packet<'_>, bool) -> Result<(), DisconnectReason>,
    ) -> Received {
        let partial_bytes = self.partial_bytes() as isize;
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
            let overhead_bytes = self.stream.overhead_bytes();
            received.overhead_bytes += overhead_bytes;
            if overhead_bytes > 0 {
                self.last_received_at = now;
            }
            let empty_frames = self.stream.empty_frames();
            let outcome = match outcome {
                Ok(_) if !self.may_send_empty_frames(empty_frames, now) => {
                    Err(Kick::RateLimit.into())
                }
                other => other,
            };
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
            let is_first = self.packets_received == 0 && received.packets == 0;
            let proxy = if is_first && self.is_incoming() {
                // Lies of a peer that is not a trusted proxy, or the bytes of a proxy that is not configured.
                signature_match(self.framer.incomplete_bytes(), input)
            } else {
                SignatureMatch::None
            };
            let (packets, answer) = match proxy {
                SignatureMatch::Complete => (0, Err(Kick::BadSize.into())),
                _ => self.parse(input, config, now, &mut handle),
            };
            received.packets += packets;
            if let Err(reason) = answer {
                // The size that a part of a signature claims may be above the limit.
                let is_signature = proxy == SignatureMatch::Partial
                    && reason == DisconnectReason::Kicked(Kick::TooLarge);
                let reason = if is_signature {
                    Kick::BadSize.into()
                } else {
                    reason
                };
                received.outcome = Err(reason);
                break;
            }
        }
        received.partial_growth = self.partial_bytes() as isize - partial_bytes;
        self.note_incomplete(received.bytes > 0, now);
        self.packets_received += received.packets as u64;
        received
    }

    fn may_send_empty_frames(&mut self, count: usize, now: Instant) -> bool {
        (0..count).all(|_| {
            let extras = self.extras.get_or_insert_default();
            extras.empty_frames.take(MAX_EMPTY_FRAMES_PER_SEC, now)
        })
    }

    fn parse(
        &mut self,
        mut input: &[u8],
        config: &Config,
        now: Instant,
        handle: &mut impl FnMut(&mut S, Packet<'_>, bool) -> Result<(), DisconnectReason>,
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
                    let answer = handle(&mut self.session, packet, allowed);
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
}
