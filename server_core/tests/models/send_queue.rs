//! A send queue, compared with a plain queue of bytes.

use server_core::buffer::queue::{MAX_SLICES, SendQueue};
use server_core::buffer::{ChunkPool, SendBuffer, SendBufferManager};
use server_core::testing::FakeClock;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub enum Step {
    Push {
        manager: usize,
        bytes: usize,
    },
    /// A gathered write offers up to `limit` bytes, and the socket takes `share` thousandths of them.
    Advance {
        limit: usize,
        share: usize,
    },
    Settle {
        after_millis: u64,
    },
}

/// A queue, and what it should hold: bytes, the ends of packets, and when the bytes of each turn
/// settled.
pub struct Machine {
    managers: [SendBufferManager; 3],
    queue: SendQueue,
    clock: FakeClock,
    serial: u32,
    /// All bytes that were ever pushed.
    pushed: Vec<u8>,
    sent: usize,
    packet_ends: VecDeque<usize>,
    settled: VecDeque<(usize, Instant)>,
    /// The oldest mark that the queue has had since it was last empty.
    oldest_ever: Option<Instant>,
}

/// An encoded packet of `bytes` bytes, its size field included.
pub fn a_packet(manager: &SendBufferManager, bytes: usize, serial: u32) -> SendBuffer {
    manager.write(bytes, |free| {
        for (at, part) in free.chunks_mut(16).enumerate() {
            part.fill((serial.wrapping_mul(31) as usize + at * 7) as u8);
        }
        free[..2].copy_from_slice(&(bytes as u16).to_le_bytes());
        bytes
    })
}

/// The bytes of a vectored write, in one piece.
fn join(slices: &[IoSlice<'_>]) -> Vec<u8> {
    let slices: Vec<&[u8]> = slices.iter().map(|slice| &slice[..]).collect();
    slices.concat()
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            // Two managers have small chunks: slices do not merge across chunks, and large buffers are
            // private.
            managers: [1 << 10, 4 << 10, 64 << 10]
                .map(|bytes| SendBufferManager::new(ChunkPool::new(bytes, 4))),
            queue: SendQueue::default(),
            clock: FakeClock::new(),
            serial: 0,
            pushed: Vec::new(),
            sent: 0,
            packet_ends: VecDeque::new(),
            settled: VecDeque::new(),
            oldest_ever: None,
        }
    }
}

impl Machine {
    pub fn step(&mut self, step: Step) {
        self.serial += 1;
        match step {
            Step::Push { manager, bytes } => {
                let buffer = a_packet(&self.managers[manager % 3], bytes, self.serial);
                self.pushed.extend(&buffer[..]);
                self.packet_ends.push_back(self.pushed.len());
                self.queue.push(buffer);
            }
            Step::Advance { limit, share } => self.advance(limit, share),
            Step::Settle { after_millis } => {
                self.clock.advance(Duration::from_millis(after_millis));
                self.queue.settle(self.clock.now());
                assert_eq!(self.queue.pinned_bytes(), 0);
                if self.settled.back().map_or(self.sent, |(end, _)| *end) < self.pushed.len() {
                    self.settled
                        .push_back((self.pushed.len(), self.clock.now()));
                }
            }
        }
        self.check();
    }

    fn advance(&mut self, limit: usize, share: usize) {
        let offered = self.offered(limit);
        assert_eq!(offered.is_empty(), self.unsent().is_empty() || limit == 0);
        assert!(offered.len() <= limit);
        let taken = offered.len() * share / 1_000;
        self.sent += taken;
        let mut whole = 0;
        while (self.packet_ends.front()).is_some_and(|end| *end <= self.sent) {
            self.packet_ends.pop_front();
            whole += 1;
        }
        assert_eq!(self.queue.advance(taken), whole);
        while (self.settled.front()).is_some_and(|(end, _)| *end <= self.sent) {
            self.settled.pop_front();
        }
    }

    /// The bytes that a gathered write would get.
    fn offered(&self, limit: usize) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let count = self.queue.gather(&mut slices, limit);
        assert!(slices[..count].iter().all(|slice| !slice.is_empty()));
        let offered = join(&slices[..count]);
        let unsent = self.unsent();
        assert!(
            unsent.starts_with(&offered),
            "other bytes, or another order"
        );
        offered
    }

    fn unsent(&self) -> &[u8] {
        &self.pushed[self.sent..]
    }

    fn check(&mut self) {
        if self.unsent().is_empty() {
            self.oldest_ever = None;
        } else if let Some((_, at)) = self.settled.front() {
            let oldest = self.oldest_ever.unwrap_or(*at);
            self.oldest_ever = Some(oldest.min(*at));
        }
        assert_eq!(self.queue.queued_bytes(), self.unsent().len());
        assert_eq!(self.queue.queued_packets(), self.packet_ends.len());
        let oldest = self.queue.oldest_at();
        assert_eq!(oldest.is_some(), !self.settled.is_empty());
        if let (Some(told), Some((_, real))) = (oldest, self.settled.front()) {
            assert!(told <= *real, "the reported age is less than the real age");
            let oldest_ever = self.oldest_ever.unwrap_or(*real);
            let tolerance = ((*real - oldest_ever) / 16).max(Duration::from_millis(50));
            assert!(*real - told <= tolerance, "{:?} too early", *real - told);
        }
    }

    /// Checks that the rest of the queue can be sent after any steps, and that this frees the chunks.
    pub fn finish(mut self) {
        while self.queue.queued_bytes() > 0 {
            self.advance(usize::MAX, 1_000);
        }
        assert!(self.unsent().is_empty());
        for manager in &self.managers {
            assert!(
                manager.stats().live <= 1,
                "a chunk is held by an empty queue"
            );
            manager.release();
            assert_eq!(manager.stats().live, 0);
        }
    }
}
