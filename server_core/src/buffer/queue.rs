//! The unsent packets of one session.

use crate::base::wire::HEADER_BYTES;
use crate::buffer::SendBuffer;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::{Duration, Instant};

/// The unsent packets of one session.
///
/// Within a turn the queue holds references into chunks. At the end of the turn
/// ([`settle`](Self::settle)) unsent bytes are copied into memory of the session's own: **a session never
/// holds a chunk beyond the turn in which the packet was queued**, so a peer that does not read costs its
/// own unread bytes and nothing else.
///
/// ```text
///   oldest                                                         newest
///  +---------+---------+----------+---------+   +-------+
///  |  owned  |  owned  | private  |  owned  |   | first |   <- the usual state: one slice of the
///  | <=16 KB | <=16 KB | (shared) | <=16 KB |   +-------+      broadcast, or nothing at all
///  +---------+---------+----------+---------+
///     backlog: only of a peer that is behind, or of a turn with several slices
/// ```
///
/// Invariant: `first` is used only while the backlog is empty, so the order is that of the pushes.
#[derive(Debug, Default)]
pub struct SendQueue {
    first: Option<SendBuffer>,
    backlog: Option<Box<Backlog>>,
    queued_bytes: usize,
    /// Counts up to 16 GiB of the smallest packets. Further packets are not counted.
    queued_packets: u32,
    /// Unsent bytes of a packet that was sent in part.
    torn_bytes: u32,
}

/// Packets side by side in one chunk, as one slice.
#[derive(Clone, Debug)]
pub struct PacketBatch {
    buffer: SendBuffer,
    packets: usize,
}

#[derive(Debug, Default)]
struct Backlog {
    segments: VecDeque<Segment>,
    /// When the bytes were queued, oldest first. `end` counts bytes from the beginning of the backlog.
    marks: VecDeque<Mark>,
    queued_total: u64,
    sent_total: u64,
    /// Since when the queue has been longer than its limit without a break, or the last check of that which the peer
    /// passed by its throughput.
    over_limit: Option<Checkpoint>,
    throughput: Throughput,
    /// The last age check that the peer passed by its throughput.
    lag_checkpoint: Option<Checkpoint>,
}

/// The bytes that the socket had taken at an instant.
#[derive(Clone, Copy, Debug)]
struct Checkpoint {
    at: Instant,
    sent_total: u64,
}

/// Measures whether a peer with a backlog takes bytes fast enough to pace other sessions.
#[derive(Debug, Default)]
struct Throughput {
    /// The beginning of the present window.
    window: Option<Checkpoint>,
    /// The result of the last complete window.
    was_too_slow: bool,
}

#[derive(Debug)]
enum Segment {
    Shared(SendBuffer),
    Owned { bytes: Vec<u8>, sent: usize },
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    end: u64,
    /// When the first of these bytes was queued, and the bytes that the socket had taken by then.
    queued: Checkpoint,
}

/// Slices of one gathered write, at most.
pub const MAX_SLICES: usize = 64;
/// An owned block grows to this size, then the next block begins, so that sent memory is freed.
const OWNED_BLOCK_BYTES: usize = 16 << 10;
/// Marks nearer to each other than this are merged.
const MARK_RESOLUTION: Duration = Duration::from_millis(50);
/// Marks nearer to each other than this fraction of the age of the oldest mark are merged, too: the
/// number of marks grows only with the logarithm of the age.
const MARK_FRACTION: u32 = 16;
/// Throughput is measured over windows of this length.
pub const THROUGHPUT_WINDOW: Duration = Duration::from_millis(250);
/// A peer whose socket takes less than this does not keep up, and paces no session. The value is half of
/// the 1 MiB/s that a reader is promised: the bytes that its socket takes lag its reads by a buffer.
pub const KEEPS_UP_BYTES_PER_SEC: u64 = 512 << 10;

impl PacketBatch {
    /// A batch of one encoded packet.
    #[must_use]
    pub fn new(packet: SendBuffer) -> Self {
        Self {
            buffer: packet,
            packets: 1,
        }
    }

    /// Appends a packet if it lies directly behind the last one. Returns whether it does.
    pub fn append(&mut self, packet: &SendBuffer) -> bool {
        let fits = self.buffer.merge(packet);
        self.packets += usize::from(fits);
        fits
    }

    /// The bytes of all packets.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// The number of packets.
    #[must_use]
    pub fn packets(&self) -> usize {
        self.packets
    }
}

impl SendQueue {
    /// Queues one encoded packet.
    pub fn push(&mut self, buffer: SendBuffer) {
        self.push_batch(PacketBatch::new(buffer));
    }

    /// Queues a batch.
    pub fn push_batch(&mut self, batch: PacketBatch) {
        let PacketBatch { buffer, packets } = batch;
        if buffer.is_empty() {
            return;
        }
        self.queued_bytes += buffer.len();
        self.queued_packets = (self.queued_packets).saturating_add(packets as u32);
        if self.backlog.is_none() {
            let Some(first) = &mut self.first else {
                self.first = Some(buffer);
                return;
            };
            if first.merge(&buffer) {
                return;
            }
            self.move_first_to_backlog();
        }
        let backlog = self.backlog.get_or_insert_default();
        backlog.queued_total += buffer.len() as u64;
        if let Some(Segment::Shared(last)) = backlog.segments.back_mut()
            && last.merge(&buffer)
        {
            return;
        }
        backlog.segments.push_back(Segment::Shared(buffer));
    }

    /// All unsent bytes, if they lie side by side and all were queued in this turn, which is always so for
    /// a peer that keeps up.
    #[must_use]
    pub fn only_slice(&self) -> Option<&[u8]> {
        match self.backlog {
            None => self.first.as_deref(),
            Some(_) => None,
        }
    }

    /// Up to `limit_bytes` of the unsent bytes, oldest first, as slices for one gathered write.
    /// Returns the number of `slices` that were set.
    pub fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>], limit_bytes: usize) -> usize {
        let backlog = self.backlog.iter().flat_map(|backlog| &backlog.segments);
        let unsent = (self.first.iter().map(|first| &first[..]))
            .chain(backlog.map(Segment::unsent))
            .zip(slices.iter_mut());
        let (mut count, mut left) = (0, limit_bytes);
        for (bytes, slice) in unsent {
            if left == 0 {
                break;
            }
            let bytes = &bytes[..bytes.len().min(left)];
            left -= bytes.len();
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        count
    }

    /// Removes `count` bytes that the socket took. Returns the number of packets whose last byte is among
    /// them.
    ///
    /// # Panics
    /// If `count` is more than was queued: a socket cannot take bytes that it was not given.
    pub fn advance(&mut self, count: usize) -> usize {
        assert!(count <= self.queued_bytes, "more was sent than was queued");
        let packets = if count == self.queued_bytes {
            self.torn_bytes = 0;
            self.queued_packets()
        } else {
            self.count_packet_ends(count)
        };
        self.queued_packets = (self.queued_packets).saturating_sub(packets as u32);
        self.queued_bytes -= count;
        if let Some(first) = &mut self.first {
            first.advance(count);
            if first.is_empty() {
                self.first = None;
            }
        } else if let Some(backlog) = &mut self.backlog {
            backlog.advance(count);
            if self.queued_bytes == 0 {
                self.backlog = None;
            }
        }
        debug_assert_eq!(
            self.queued_bytes == 0,
            self.first.is_none() && self.backlog.is_none()
        );
        packets
    }

    /// Ends a turn: copies the unsent bytes out of chunks, and notes when they were queued.
    pub fn settle(&mut self, now: Instant) {
        if self.queued_bytes == 0 {
            return;
        }
        if self.first.is_some() {
            self.move_first_to_backlog();
        }
        if let Some(backlog) = &mut self.backlog {
            backlog.copy_out();
            backlog.mark(now);
            backlog.throughput.measure(backlog.sent_total, now);
        }
    }

    /// Unsent bytes.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Packets of which at least one byte is unsent.
    #[must_use]
    pub fn queued_packets(&self) -> usize {
        self.queued_packets as usize
    }

    /// The end of the turn in which the oldest unsent byte was queued. `None` if no byte is left from an
    /// earlier turn. May be early by a sixteenth of the age.
    #[must_use]
    pub fn oldest_at(&self) -> Option<Instant> {
        Some(self.backlog.as_ref()?.marks.front()?.queued.at)
    }

    /// Ends a turn: notes since when the queue has been longer than `limit_bytes`.
    pub fn watch_limit(&mut self, limit_bytes: usize, now: Instant) {
        let is_over = self.queued_bytes > limit_bytes;
        if let Some(backlog) = &mut self.backlog {
            let here = backlog.checkpoint(now);
            backlog.over_limit = is_over.then(|| backlog.over_limit.unwrap_or(here));
        }
    }

    /// The instant of the next check of a queue that is longer than its limit.
    #[must_use]
    pub fn limit_check_at(&self, grace: Duration) -> Option<Instant> {
        Some(self.backlog.as_ref()?.over_limit?.at + grace)
    }

    /// Whether the socket has taken [`KEEPS_UP_BYTES_PER_SEC`] on average since the queue got longer than its limit,
    /// or since the last check, or in the last window. If so, the time for which it may be longer begins again.
    pub fn passes_limit_check(&mut self, now: Instant) -> bool {
        let Some(backlog) = &mut self.backlog else {
            return true;
        };
        let Some(base) = backlog.over_limit else {
            return true;
        };
        let sent_total = backlog.sent_total;
        // A pause of this process, or of the network, counts in the average, and not in a window behind it. A shorter
        // time than a window shows no rate.
        let shows_rate = now.saturating_duration_since(base.at) >= THROUGHPUT_WINDOW;
        let passes = backlog.throughput.measure(sent_total, now)
            || shows_rate && base.has_rate(KEEPS_UP_BYTES_PER_SEC, sent_total, now);
        if passes {
            backlog.over_limit = Some(backlog.checkpoint(now));
        }
        passes
    }

    /// The peer can take bytes from now on: what waits has waited for the handshake, and not for the peer.
    pub fn restart_age(&mut self, now: Instant) {
        if let Some(backlog) = &mut self.backlog {
            let here = backlog.checkpoint(now);
            backlog.over_limit = backlog.over_limit.map(|_| here);
            backlog.lag_checkpoint = Some(here);
        }
    }

    /// Whether the peer takes bytes fast enough to pace other sessions. True without a backlog, and until
    /// the first window of a backlog is complete.
    pub fn keeps_up(&mut self, now: Instant) -> bool {
        let Some(backlog) = &mut self.backlog else {
            return true;
        };
        let sent_total = backlog.sent_total;
        backlog.throughput.measure(sent_total, now)
    }

    /// The result of the last complete window, without a new measurement.
    #[must_use]
    pub fn kept_up(&self) -> bool {
        (self.backlog.as_ref()).is_none_or(|backlog| !backlog.throughput.was_too_slow)
    }

    /// The instant of the next check of the age of the oldest unsent byte.
    #[must_use]
    pub fn lag_check_at(&self, max_lag: Duration) -> Option<Instant> {
        Some(self.backlog.as_ref()?.lag_base()?.at + max_lag)
    }

    /// Whether the socket has taken at least `min_bytes_per_sec` on average since the oldest unsent byte
    /// was queued, or since the last check. If so, the next check is due `max_lag` after `now`.
    pub fn passes_lag_check(&mut self, min_bytes_per_sec: u64, now: Instant) -> bool {
        let Some(backlog) = &mut self.backlog else {
            return true;
        };
        let Some(base) = backlog.lag_base() else {
            return true;
        };
        let sent_total = backlog.sent_total;
        let passes = min_bytes_per_sec > 0 && base.has_rate(min_bytes_per_sec, sent_total, now);
        if passes {
            backlog.lag_checkpoint = Some(backlog.checkpoint(now));
        }
        passes
    }

    /// Queued bytes in chunks (not in private blocks), which this queue keeps alive: zero after `settle`.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn pinned_bytes(&self) -> usize {
        let backlog = self.backlog.iter().flat_map(|backlog| &backlog.segments);
        let in_backlog = backlog.filter_map(|segment| match segment {
            Segment::Shared(buffer) => Some(buffer),
            Segment::Owned { .. } => None,
        });
        (self.first.iter().chain(in_backlog))
            .filter(|buffer| !buffer.is_private())
            .map(|buffer| buffer.len())
            .sum()
    }

    fn move_first_to_backlog(&mut self) {
        if let Some(first) = self.first.take() {
            let backlog = self.backlog.get_or_insert_default();
            backlog.queued_total += first.len() as u64;
            backlog.segments.push_back(Segment::Shared(first));
        }
    }

    /// Counts the packets that end within the next `count` bytes, by their size fields. Called only after
    /// a partial write. Queued packets were encoded here, so they are well formed.
    fn count_packet_ends(&mut self, count: usize) -> usize {
        let (mut packets, mut at) = (0, self.torn_bytes as usize);
        while at <= count {
            packets += usize::from(at > 0);
            if at == count {
                self.torn_bytes = 0;
                return packets;
            }
            at += self.packet_bytes_at(at);
        }
        self.torn_bytes = (at - count) as u32;
        packets
    }

    /// The size field `offset` bytes behind the first unsent byte. The field may lie across two segments.
    fn packet_bytes_at(&self, offset: usize) -> usize {
        let backlog = self.backlog.iter().flat_map(|backlog| &backlog.segments);
        let mut unsent = (self.first.iter().map(|first| &first[..]))
            .chain(backlog.map(Segment::unsent))
            .scan(0, |begin, bytes| {
                let at = *begin;
                *begin += bytes.len();
                Some((at, bytes))
            })
            .skip_while(|(begin, bytes)| begin + bytes.len() <= offset)
            .flat_map(|(begin, bytes)| &bytes[offset.saturating_sub(begin)..]);
        let size = [unsent.next(), unsent.next()].map(|byte| byte.copied().unwrap_or_default());
        usize::from(u16::from_le_bytes(size)).max(HEADER_BYTES)
    }
}

impl Backlog {
    fn advance(&mut self, count: usize) {
        let mut left = count;
        while left > 0 {
            let Some(segment) = self.segments.front_mut() else {
                break;
            };
            let taken = left.min(segment.unsent().len());
            segment.advance(taken);
            left -= taken;
            if segment.unsent().is_empty() {
                self.segments.pop_front();
            }
        }
        self.sent_total += count as u64;
        while self
            .marks
            .front()
            .is_some_and(|mark| mark.end <= self.sent_total)
        {
            self.marks.pop_front();
        }
    }

    /// Replaces every reference into a chunk by owned bytes. These references were all queued in this
    /// turn, so they are at the end.
    fn copy_out(&mut self) {
        let pins = |segment: &Segment| match segment {
            Segment::Shared(buffer) => !buffer.is_private(),
            Segment::Owned { .. } => false,
        };
        let Some(first) = self.segments.iter().position(pins) else {
            return;
        };
        for segment in self.segments.split_off(first) {
            match segment {
                Segment::Shared(buffer) if !buffer.is_private() => self.append_owned(&buffer),
                other => self.segments.push_back(other),
            }
        }
    }

    fn append_owned(&mut self, mut bytes: &[u8]) {
        // The block behind a full block is likely to be filled, too.
        let mut capacity = 0;
        if let Some(Segment::Owned { bytes: block, .. }) = self.segments.back_mut() {
            let room = OWNED_BLOCK_BYTES.saturating_sub(block.len());
            let (fits, rest) = bytes.split_at(room.min(bytes.len()));
            let needed = block.len() + fits.len();
            if needed > block.capacity() {
                // A vector that doubles by itself would end with twice the size of a block.
                let doubled = (block.capacity() * 2).clamp(needed, OWNED_BLOCK_BYTES);
                block.reserve_exact(doubled - block.len());
            }
            block.extend_from_slice(fits);
            bytes = rest;
            capacity = OWNED_BLOCK_BYTES;
        }
        for part in bytes.chunks(OWNED_BLOCK_BYTES) {
            let mut block = Vec::with_capacity(capacity.max(part.len()));
            block.extend_from_slice(part);
            self.segments.push_back(Segment::Owned {
                bytes: block,
                sent: 0,
            });
            capacity = OWNED_BLOCK_BYTES;
        }
    }

    fn mark(&mut self, now: Instant) {
        let newest_end = self.marks.back().map_or(self.sent_total, |mark| mark.end);
        if newest_end >= self.queued_total {
            return;
        }
        let oldest = self.marks.front().map_or(now, |mark| mark.queued.at);
        let distance = (now.saturating_duration_since(oldest) / MARK_FRACTION).max(MARK_RESOLUTION);
        match self.marks.back_mut() {
            Some(last) if now.saturating_duration_since(last.queued.at) < distance => {
                last.end = self.queued_total;
            }
            _ => self.marks.push_back(Mark {
                end: self.queued_total,
                queued: Checkpoint {
                    at: now,
                    sent_total: self.sent_total,
                },
            }),
        }
    }

    fn checkpoint(&self, at: Instant) -> Checkpoint {
        Checkpoint {
            at,
            sent_total: self.sent_total,
        }
    }

    /// When the oldest byte was queued, or when the peer last passed the age check.
    fn lag_base(&self) -> Option<Checkpoint> {
        let queued = self.marks.front()?.queued;
        Some(match self.lag_checkpoint {
            Some(passed) if passed.at > queued.at => passed,
            _ => queued,
        })
    }
}

impl Checkpoint {
    /// Whether the socket has taken `bytes_per_sec` on average since this checkpoint.
    fn has_rate(&self, bytes_per_sec: u64, sent_total: u64, now: Instant) -> bool {
        let micros = now.saturating_duration_since(self.at).as_micros();
        let taken = u128::from(sent_total - self.sent_total) * 1_000_000;
        taken >= u128::from(bytes_per_sec).saturating_mul(micros)
    }
}

impl Throughput {
    fn measure(&mut self, sent_total: u64, now: Instant) -> bool {
        let here = Checkpoint {
            at: now,
            sent_total,
        };
        let window = self.window.get_or_insert(here);
        if now.saturating_duration_since(window.at) >= THROUGHPUT_WINDOW {
            self.was_too_slow = !window.has_rate(KEEPS_UP_BYTES_PER_SEC, sent_total, now);
            *window = here;
        }
        !self.was_too_slow
    }
}

impl Segment {
    fn unsent(&self) -> &[u8] {
        match self {
            Self::Shared(buffer) => buffer,
            Self::Owned { bytes, sent } => &bytes[*sent..],
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Shared(buffer) => buffer.advance(count),
            Self::Owned { sent, .. } => *sent += count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{ChunkPool, SendBufferManager};

    fn manager() -> SendBufferManager {
        SendBufferManager::new(ChunkPool::new(4096, 8))
    }

    /// One packet of `bytes` bytes. Each payload byte is `fill`.
    fn packet(manager: &SendBufferManager, bytes: usize, fill: u8) -> SendBuffer {
        manager.write(bytes, |free| {
            free.fill(fill);
            free[..2].copy_from_slice(&(bytes as u16).to_le_bytes());
            bytes
        })
    }

    fn unsent(queue: &SendQueue) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let count = queue.gather(&mut slices, usize::MAX);
        slices[..count]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect()
    }

    #[test]
    fn neighbours_leave_as_one_slice() {
        let (manager, mut queue) = (manager(), SendQueue::default());
        for n in 0..10 {
            queue.push(packet(&manager, 20, n));
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        assert_eq!(queue.gather(&mut slices, usize::MAX), 1);
        assert_eq!(slices[0].len(), 200);
        assert_eq!(queue.advance(200), 10);
        assert!(queue.backlog.is_none() && queue.first.is_none());
    }

    #[test]
    fn order_is_kept_over_every_partial_write() {
        for step in 1..=61 {
            let (manager, other) = (manager(), manager());
            let mut queue = SendQueue::default();
            let mut expected = Vec::new();
            let mut sent = Vec::new();
            let mut packets = 0;
            for n in 0..30 {
                let from = if n % 3 == 0 { &other } else { &manager };
                let buffer = packet(from, 4 + usize::from(n), n);
                expected.extend_from_slice(&buffer);
                queue.push(buffer);
                if n % 4 == 0 {
                    queue.settle(Instant::now());
                    assert_eq!(queue.pinned_bytes(), 0);
                }
                let bytes = unsent(&queue);
                let count = step.min(bytes.len());
                sent.extend_from_slice(&bytes[..count]);
                packets += queue.advance(count);
            }
            sent.extend(unsent(&queue));
            packets += queue.advance(queue.queued_bytes());
            assert_eq!(sent, expected, "step {step}");
            assert_eq!((packets, queue.queued_packets()), (30, 0));
        }
    }

    #[test]
    fn packets_are_counted_when_their_last_byte_has_left() {
        let (manager, mut queue) = (manager(), SendQueue::default());
        for n in 0..3 {
            queue.push(packet(&manager, 10, n));
        }
        let counts: Vec<usize> = [9, 1, 5, 5, 0, 3].map(|n| queue.advance(n)).to_vec();
        assert_eq!(counts, [0, 1, 0, 1, 0, 0]);
        assert_eq!(queue.advance(7), 1);
    }

    #[test]
    fn lecture_57_a_chunk_is_not_held_beyond_its_turn() {
        let (manager, mut queue) = (manager(), SendQueue::default());
        let start = Instant::now();
        for turn in 0..1000 {
            queue.push(packet(&manager, 23, 1));
            // Packets of another session fill the rest of the chunk.
            packet(&manager, 1000, 2);
            queue.settle(start + Duration::from_millis(turn * 250));
            assert_eq!(queue.pinned_bytes(), 0);
            assert!(manager.stats().live <= 1);
        }
        assert_eq!(queue.queued_bytes(), 23_000);
    }

    #[test]
    fn private_blocks_stay_shared_and_in_order() {
        let (manager, mut queue) = (manager(), SendQueue::default());
        let large = packet(&manager, 40_000, 7);
        let mut expected = Vec::new();
        for buffer in [
            packet(&manager, 20, 1),
            large.clone(),
            packet(&manager, 20, 2),
        ] {
            expected.extend_from_slice(&buffer);
            queue.push(buffer);
        }
        queue.settle(Instant::now());
        assert_eq!(unsent(&queue), expected);
        assert!(queue.backlog.as_ref().unwrap().segments.iter().any(
            |segment| matches!(segment, Segment::Shared(buffer) if buffer.as_ptr() == large.as_ptr())
        ));
    }

    #[test]
    fn own_memory_is_freed_as_it_is_sent() {
        let (manager, mut queue) = (manager(), SendQueue::default());
        for _ in 0..1000 {
            queue.push(packet(&manager, 1000, 1));
            queue.settle(Instant::now());
        }
        let blocks = |queue: &SendQueue| {
            queue
                .backlog
                .as_ref()
                .map_or(0, |backlog| backlog.segments.len())
        };
        assert!(blocks(&queue) <= 1_000_000 / OWNED_BLOCK_BYTES + 1);
        queue.advance(900_000);
        assert!(blocks(&queue) <= 100_000 / OWNED_BLOCK_BYTES + 2);
        queue.advance(100_000);
        assert!(queue.backlog.is_none());
    }

    #[test]
    fn age_is_that_of_the_oldest_unsent_byte() {
        let (manager, mut queue) = (manager(), SendQueue::default());
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(queue.oldest_at(), None);
        for turn in 0..20 {
            queue.push(packet(&manager, 10, 1));
            queue.settle(at(turn * 250));
        }
        assert_eq!(queue.oldest_at(), Some(at(0)));
        queue.advance(10 * 7);
        let oldest = queue.oldest_at().unwrap();
        assert!(oldest <= at(7 * 250) && oldest >= at(6 * 250));
        queue.advance(10 * 13);
        assert_eq!(queue.oldest_at(), None);
    }

    #[test]
    fn a_peer_that_never_reads_has_few_marks() {
        let (manager, mut queue) = (manager(), SendQueue::default());
        let start = Instant::now();
        for turn in 0..40_000_u64 {
            queue.push(packet(&manager, 4, 1));
            queue.settle(start + Duration::from_millis(turn * 250));
        }
        let marks = queue.backlog.as_ref().unwrap().marks.len();
        assert!(marks < 300, "{marks} marks for 10,000 seconds");
    }
}
