//! Writing a queue to a stream, for those who are here and those on their way out.

use crate::base::config::Config;
use crate::buffer::queue::{MAX_SLICES, SendQueue};
use crate::transport::{Completion, Transport};
use std::io::{self, ErrorKind, IoSlice};

/// What one flush did.
#[derive(Debug, Default)]
pub struct Flushed {
    /// Bytes that the socket took.
    pub bytes: usize,
    /// Packets that are whole with that.
    pub packets: usize,
    /// Calls that it took.
    pub calls: usize,
    /// By how much the bytes that wait for this peer have changed since the last flush.
    pub queue_growth: isize,
    /// The budget was used up and the socket would take more.
    pub has_more: bool,
}

impl Flushed {
    /// Adds what another flush did.
    pub fn absorb(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.packets += other.packets;
        self.calls += other.calls;
        self.queue_growth += other.queue_growth;
    }
}

/// Writes the queue until it is empty, the stream would block, or the budget is used up. A queue
/// over its cap is written on until it is below: what is above the cap ends the session.
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
            config.write_budget_bytes - flushed.bytes
        };
        flushed.calls += 1;
        let written = match queue.only_slice() {
            Some(bytes) => stream.write(&bytes[..bytes.len().min(limit_bytes)]),
            None => write_gathered(stream, queue, limit_bytes),
        };
        match written {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
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

/// Not inlined: its thousand bytes of slices need not be laid out for a peer that has one.
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

pub(super) fn regauge(gauged_bytes: &mut usize, queue: &SendQueue) -> isize {
    let before = std::mem::replace(gauged_bytes, queue.queued_bytes());
    *gauged_bytes as isize - before as isize
}
