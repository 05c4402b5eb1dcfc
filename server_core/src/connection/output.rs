//! Writing a queue to a transport, for sessions and for draining streams.

use crate::base::config::Config;
use crate::buffer::queue::{MAX_SLICES, SendQueue};
use crate::transport::{Completion, Transport};
use std::io::{self, ErrorKind, IoSlice};

/// The result of one flush.
#[derive(Debug, Default)]
pub struct Flushed {
    /// Bytes of packets that the socket took.
    pub bytes: usize,
    /// Packets whose last byte is among them.
    pub packets: usize,
    /// Calls of the transport.
    pub calls: usize,
    /// Change of the bytes that wait for this peer since the last flush.
    pub queue_growth: isize,
    /// The budget is used up, and the socket may take more.
    pub has_more: bool,
}

impl Flushed {
    /// Adds the result of another flush.
    pub fn absorb(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.packets += other.packets;
        self.calls += other.calls;
        self.queue_growth += other.queue_growth;
    }
}

/// Writes the queue until it is empty, the transport would block, or the budget is used up; then the bytes
/// that the transport itself holds. A queue over its cap is written until it is below the cap: bytes above
/// the cap end the session.
pub(super) fn write_queue(
    stream: &mut impl Transport,
    queue: &mut SendQueue,
    is_writable: &mut bool,
    config: &Config,
    flushed: &mut Flushed,
) -> io::Result<()> {
    while queue.queued_bytes() > 0 {
        let over_cap = queue.queued_bytes() > config.send_queue_cap();
        if flushed.bytes >= config.write_budget_bytes && !over_cap {
            flushed.has_more = true;
            return Ok(());
        }
        // One gathered write could take 64 times 16 KiB: the budget bounds what it is offered.
        let limit_bytes = if over_cap {
            usize::MAX
        } else {
            (config.write_budget_bytes - flushed.bytes).max(stream.min_write_bytes())
        };
        flushed.calls += 1;
        let written = match queue.only_slice() {
            Some(bytes) => stream.write(&bytes[..bytes.len().min(limit_bytes)]),
            None => write_gathered(stream, queue, limit_bytes),
        };
        match written {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) if count > queue.queued_bytes() => {
                debug_assert!(false, "more was sent than was queued");
                return Err(ErrorKind::InvalidData.into());
            }
            Ok(count) => {
                flushed.bytes += count;
                flushed.packets += queue.advance(count);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                *is_writable = false;
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if stream.buffered_bytes() > 0 && stream.flush()? == Completion::Pending {
        *is_writable = false;
    }
    Ok(())
}

/// Not inlined: a peer with one slice does not pay for laying out a thousand bytes of slices.
#[inline(never)]
fn write_gathered(
    stream: &mut impl Transport,
    queue: &SendQueue,
    limit_bytes: usize,
) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    let count = queue.gather(&mut slices, limit_bytes);
    match &slices[..count] {
        [single] => stream.write(single),
        several => stream.write_vectored(several),
    }
}

/// The bytes that wait for a peer are `now`. Returns their change.
pub(super) fn regauge(gauged_bytes: &mut usize, now: usize) -> isize {
    let before = std::mem::replace(gauged_bytes, now);
    *gauged_bytes as isize - before as isize
}
