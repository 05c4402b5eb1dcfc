//! A peer whose session has left: its stream, until the output is flushed.

use super::output::{Flushed, regauge, write_queue};
use crate::base::config::Config;
use crate::base::timers::TimerSlot;
use crate::buffer::SendBuffer;
use crate::buffer::queue::SendQueue;
use crate::buffer::recv::RecvBuffer;
use crate::connection::admission::Permit;
use crate::transport::{Completion, ReadOutcome, Transport};
use std::time::Instant;

/// A stream whose session has left: queued packets still go out, input is discarded.
#[derive(Debug)]
pub struct Draining<T> {
    /// The deadline at which the worker advances it next.
    pub timer: TimerSlot,
    /// On the worker's list of draining streams with more to do.
    pub is_listed: bool,
    stream: T,
    pub(super) _permit: Option<Permit>,
    queue: SendQueue,
    pub(super) is_writable: bool,
    pub(super) saw_fin: bool,
    write_is_shut: bool,
    /// A try to end the write side is pending.
    is_shutting: bool,
    /// Waits for the peer's FIN.
    lingers: bool,
    deadline: Instant,
    pub(super) gauged_bytes: usize,
}

/// The result of one step of draining.
#[derive(Debug)]
pub struct Drained {
    /// The output.
    pub flushed: Flushed,
    /// Bytes of input that were discarded.
    pub discarded_bytes: usize,
    /// Bytes that the transport read beyond them.
    pub overhead_bytes: usize,
    /// The next need.
    pub progress: Progress,
}

/// The next need of a draining stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Readiness of the socket, or the deadline.
    Waiting,
    /// Another turn: the budget is used up.
    Again,
    /// No more step: the stream is to be dropped.
    Done,
}

impl<T: Transport> Draining<T> {
    /// A stream that was never a session: it gets one packet and is closed.
    #[must_use]
    pub fn rejected(stream: T, last_packet: Option<SendBuffer>, flush_by: Instant) -> Self {
        Self::new(stream, SendQueue::default(), last_packet, flush_by)
    }

    /// Makes a draining stream without a permit and without a timer, on no list.
    pub(super) fn new(
        stream: T,
        mut queue: SendQueue,
        last_packet: Option<SendBuffer>,
        flush_by: Instant,
    ) -> Self {
        if let Some(packet) = last_packet {
            queue.push(packet);
        }
        Self {
            timer: TimerSlot::default(),
            is_listed: false,
            stream,
            _permit: None,
            queue,
            is_writable: true,
            saw_fin: false,
            write_is_shut: false,
            is_shutting: false,
            lingers: true,
            deadline: flush_by,
            gauged_bytes: 0,
        }
    }

    /// The stream, for registering it.
    pub fn stream_mut(&mut self) -> &mut T {
        &mut self.stream
    }

    /// The socket has become writable.
    pub fn handle_writable(&mut self) {
        self.is_writable = true;
    }

    /// Unsent bytes, those in the transport included.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queue.queued_bytes() + self.stream.buffered_bytes()
    }

    /// Drops the queue: no byte would reach this peer.
    pub fn abandon(&mut self) -> Flushed {
        self.queue = SendQueue::default();
        Flushed {
            queue_growth: regauge(&mut self.gauged_bytes, 0),
            ..Flushed::default()
        }
    }

    /// The deadline of the present step: the flush, or the wait for a FIN.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Makes the next step the last, whatever the peer takes or sends: its place is needed.
    pub fn close_at_once(&mut self, now: Instant) {
        (self.deadline, self.lingers) = (now, false);
    }

    /// Moves the deadline to `by`, if that is earlier.
    pub fn hurry(&mut self, by: Instant) {
        self.deadline = self.deadline.min(by);
    }

    /// Flushes, then ends the write side, then waits for the peer's FIN, as far as the socket allows now.
    ///
    /// Input is read and discarded meanwhile: closing a socket with unread input resets the connection, and
    /// the reset destroys what the peer has not read. This step reads at most `input_bytes`; with zero, it
    /// flushes only.
    pub fn advance(
        &mut self,
        buffer: &mut RecvBuffer,
        input_bytes: usize,
        config: &Config,
        now: Instant,
    ) -> Drained {
        let mut drained = Drained {
            flushed: Flushed::default(),
            discarded_bytes: 0,
            overhead_bytes: 0,
            progress: Progress::Done,
        };
        // An error is the end of the stream, whatever it is.
        if let Some(progress) = self.try_advance(buffer, input_bytes, config, now, &mut drained) {
            drained.progress = progress;
        }
        let waiting = match drained.progress {
            Progress::Done => {
                self.queue = SendQueue::default();
                0
            }
            _ => {
                self.queue.settle(now);
                self.queued_bytes()
            }
        };
        drained.flushed.queue_growth = regauge(&mut self.gauged_bytes, waiting);
        drained
    }

    fn try_advance(
        &mut self,
        buffer: &mut RecvBuffer,
        input_bytes: usize,
        config: &Config,
        now: Instant,
        drained: &mut Drained,
    ) -> Option<Progress> {
        let flushed = &mut drained.flushed;
        if self.is_writable && !self.write_is_shut && !self.is_shutting {
            let (stream, queue) = (&mut self.stream, &mut self.queue);
            write_queue(stream, queue, &mut self.is_writable, config, flushed).ok()?;
        }
        let is_flushed = self.queue.queued_bytes() == 0
            && (self.is_shutting || self.stream.buffered_bytes() == 0);
        if is_flushed && self.saw_fin && !self.stream.ends_in_band() {
            return Some(Progress::Done);
        }
        // A try that is pending is repeated when the socket can be written, until the deadline.
        if is_flushed && !self.write_is_shut && (self.is_writable || !self.is_shutting) {
            match self.stream.shutdown_write().ok()? {
                Completion::Pending => (self.is_shutting, self.is_writable) = (true, false),
                Completion::Done => {
                    self.write_is_shut = true;
                    if self.lingers {
                        self.deadline = now + config.linger;
                    }
                }
            }
        }
        let mut has_more = drained.flushed.has_more;
        if !self.saw_fin {
            has_more |= self.discard_input(buffer, input_bytes, drained)?;
        }
        if self.saw_fin && self.write_is_shut || now >= self.deadline {
            return Some(Progress::Done);
        }
        Some(if has_more {
            Progress::Again
        } else {
            Progress::Waiting
        })
    }

    /// Returns whether the budget, and not the input, was used up.
    fn discard_input(
        &mut self,
        buffer: &mut RecvBuffer,
        input_bytes: usize,
        drained: &mut Drained,
    ) -> Option<bool> {
        let mut has_offended = false;
        while drained.discarded_bytes + drained.overhead_bytes < input_bytes {
            let budget = input_bytes - drained.discarded_bytes - drained.overhead_bytes;
            let outcome = self.stream.read(buffer.room(budget));
            drained.overhead_bytes += self.stream.overhead_bytes();
            match outcome {
                Ok(ReadOutcome::Bytes(count)) => drained.discarded_bytes += count,
                Ok(ReadOutcome::Blocked) => return Some(false),
                Ok(ReadOutcome::Closed) => {
                    self.saw_fin = true;
                    return Some(false);
                }
                // A rule that is broken in discarded input: the output is still owed.
                Err(reason) if reason.flushes() && has_offended => return Some(false),
                Err(reason) if reason.flushes() => has_offended = true,
                Err(_) => return None,
            }
        }
        Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::reason::{DisconnectReason, Kick};
    use std::io::{self, IoSlice};
    use std::time::Duration;

    /// Holds bytes of its own and a message that ends the stream, which its socket takes one at a time.
    struct Held {
        own_bytes: usize,
        room: usize,
        is_closing: bool,
        has_fin: bool,
        /// Each read meets a broken rule.
        offends: bool,
    }

    impl Transport for Held {
        fn read(&mut self, _: &mut [u8]) -> Result<ReadOutcome, DisconnectReason> {
            if self.offends {
                return Err(Kick::BadSize.into());
            }
            Ok(if self.has_fin {
                ReadOutcome::Closed
            } else {
                ReadOutcome::Blocked
            })
        }

        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            Ok(slices.iter().map(|slice| slice.len()).sum())
        }

        fn buffered_bytes(&self) -> usize {
            self.own_bytes
        }

        fn flush(&mut self) -> io::Result<Completion> {
            let taken = self.own_bytes.min(self.room);
            (self.own_bytes, self.room) = (self.own_bytes - taken, self.room - taken);
            Ok(match self.own_bytes {
                0 => Completion::Done,
                _ => Completion::Pending,
            })
        }

        fn shutdown_write(&mut self) -> io::Result<Completion> {
            if !std::mem::replace(&mut self.is_closing, true) {
                self.own_bytes += 1;
            }
            self.flush()
        }

        fn ends_in_band(&self) -> bool {
            true
        }

        fn poll_connected(&mut self) -> io::Result<bool> {
            Ok(true)
        }
    }

    fn draining(own_bytes: usize, flush_by: Instant) -> Draining<Held> {
        let stream = Held {
            own_bytes,
            room: 0,
            is_closing: false,
            has_fin: false,
            offends: false,
        };
        Draining::rejected(stream, None, flush_by)
    }

    fn advance(draining: &mut Draining<Held>, now: Instant) -> Progress {
        let (mut buffer, config) = (RecvBuffer::new(16), Config::default());
        draining.advance(&mut buffer, 16, &config, now).progress
    }

    #[test]
    fn a_pending_end_is_tried_again_when_the_socket_can_be_written() {
        let now = Instant::now();
        let flush_by = now + Duration::from_secs(2);
        let mut draining = draining(1, flush_by);
        assert_eq!(advance(&mut draining, now), Progress::Waiting);
        assert!(!draining.stream.is_closing, "bytes of its own come first");
        for is_closing in [true, true] {
            draining.stream.room = 1;
            assert_eq!(advance(&mut draining, now), Progress::Waiting);
            assert_eq!(draining.stream.room, 1, "no edge, no try");
            draining.handle_writable();
            assert_eq!(draining.deadline(), flush_by);
            assert_eq!(advance(&mut draining, now), Progress::Waiting);
            assert_eq!(draining.stream.is_closing, is_closing);
        }
        assert!(draining.write_is_shut);
        assert_eq!(draining.deadline(), now + Config::default().linger);
        draining.stream.has_fin = true;
        assert_eq!(advance(&mut draining, now), Progress::Done);
    }

    #[test]
    fn a_pending_end_is_given_up_at_the_deadline() {
        let now = Instant::now();
        let flush_by = now + Duration::from_secs(2);
        let mut draining = draining(0, flush_by);
        assert_eq!(advance(&mut draining, now), Progress::Waiting);
        let before = flush_by - Duration::from_nanos(1);
        assert_eq!(advance(&mut draining, before), Progress::Waiting);
        assert_eq!(advance(&mut draining, flush_by), Progress::Done);
    }

    #[test]
    fn the_end_in_band_follows_a_fin_of_the_peer() {
        let now = Instant::now();
        let mut draining = draining(0, now + Duration::from_secs(2));
        draining.stream.has_fin = true;
        assert_eq!(advance(&mut draining, now), Progress::Waiting);
        draining.stream.room = 1;
        draining.handle_writable();
        assert_eq!(advance(&mut draining, now), Progress::Done);
        assert_eq!(draining.stream.own_bytes, 0);
    }

    #[test]
    fn an_offence_in_discarded_input_does_not_end_the_flush() {
        let now = Instant::now();
        let mut draining = draining(1, now + Duration::from_secs(2));
        draining.stream.offends = true;
        assert_eq!(advance(&mut draining, now), Progress::Waiting);
        draining.stream.room = 2;
        draining.handle_writable();
        assert_eq!(advance(&mut draining, now), Progress::Waiting);
        assert!(draining.write_is_shut);
        assert_eq!(draining.stream.own_bytes, 0);
    }
}
