//! Chunk pools and the buffers cut from them, compared with plain copies of the bytes that were written.

use server_core::buffer::{ChunkPool, SendBuffer, SendBufferManager};
use std::collections::HashSet;

#[derive(Clone, Debug)]
pub enum Step {
    /// Opens `capacity` bytes, and writes only `used` of them.
    Write {
        manager: usize,
        capacity: usize,
        used: usize,
    },
    Clone(usize),
    Drop(usize),
    Merge(usize, usize),
    Advance(usize, usize),
    /// The thread gives up its current chunk.
    Release(usize),
}

/// Two pools, the buffers that are held, and the bytes that each buffer should show.
pub struct Machine {
    managers: [SendBufferManager; 2],
    held: Vec<Held>,
    /// The chunk that each manager writes into now.
    current: [Option<ChunkName>; 2],
    steps: u32,
}

struct Held {
    buffer: SendBuffer,
    expected: Vec<u8>,
    /// `None` for a private block.
    chunk: Option<ChunkName>,
}

/// The manager, and the number of the chunk among all chunks that the manager has taken.
type ChunkName = (usize, u64);

const CHUNK_BYTES: [usize; 2] = [1 << 10, 8 << 10];
const MAX_POOLED: usize = 3;
const MAX_HELD: usize = 40;

impl Default for Machine {
    fn default() -> Self {
        Self {
            managers: CHUNK_BYTES
                .map(|bytes| SendBufferManager::new(ChunkPool::new(bytes, MAX_POOLED))),
            held: Vec::new(),
            current: [None; 2],
            steps: 0,
        }
    }
}

impl Machine {
    pub fn step(&mut self, step: Step) {
        self.steps += 1;
        let count = self.held.len();
        match step {
            Step::Write {
                manager,
                capacity,
                used,
            } => self.write(manager % 2, capacity, used.min(capacity)),
            Step::Release(manager) => {
                self.managers[manager % 2].release();
                self.current[manager % 2] = None;
            }
            _ if count == 0 => {}
            Step::Clone(n) => {
                let held = &self.held[n % count];
                let copy = Held {
                    buffer: held.buffer.clone(),
                    expected: held.expected.clone(),
                    chunk: held.chunk,
                };
                self.hold(copy);
            }
            Step::Drop(n) => drop(self.held.swap_remove(n % count)),
            Step::Merge(one, other) => self.merge(one % count, other % count),
            Step::Advance(n, bytes) => {
                let held = &mut self.held[n % count];
                held.buffer.advance(bytes);
                held.expected.drain(..bytes.min(held.expected.len()));
            }
        }
        self.check_counts();
        if self.steps.is_multiple_of(16) {
            self.check_contents();
        }
    }

    fn write(&mut self, manager: usize, capacity: usize, used: usize) {
        let byte = (self.steps * 31) as u8;
        let front = &self.managers[manager];
        let pops_before = front.stats().pops;
        let buffer = front.write(capacity, |free| {
            assert_eq!(free.len(), capacity);
            free[..used].fill(byte);
            // The test writes the unused tail as well: no buffer may show it.
            free[used..].fill(!byte);
            used
        });
        let is_large = capacity > CHUNK_BYTES[manager] / 2;
        assert_eq!(buffer.is_private(), is_large);
        let pops = front.stats().pops;
        if is_large {
            assert_eq!(pops, pops_before, "a private block is not from the pool");
        } else {
            assert!(pops - pops_before <= 1);
            self.current[manager] = Some((manager, pops));
        }
        self.hold(Held {
            buffer,
            expected: vec![byte; used],
            chunk: (!is_large).then_some((manager, pops)),
        });
    }

    fn hold(&mut self, held: Held) {
        assert!(held.buffer[..] == held.expected[..], "other bytes");
        self.held.push(held);
        if self.held.len() > MAX_HELD {
            self.held.swap_remove(0);
        }
    }

    fn merge(&mut self, one: usize, other: usize) {
        let next = self.held[other].buffer.clone();
        let appended = self.held[other].expected.clone();
        let (chunk, next_chunk) = (self.held[one].chunk, self.held[other].chunk);
        let held = &mut self.held[one];
        let touches = held.buffer.as_ptr_range().end == next.as_ptr();
        let is_merged = held.buffer.merge(&next);
        match chunk {
            Some(_) => assert_eq!(is_merged, touches && chunk == next_chunk),
            // A private block has one buffer, and copies of it.
            None => assert!(!is_merged || touches),
        }
        if is_merged {
            held.expected.extend(appended);
            assert!(held.buffer[..] == held.expected[..], "other bytes");
        }
    }

    /// Checks that a chunk is live exactly as long as a buffer holds a part of it, or a manager writes into it.
    fn check_counts(&self) {
        for (manager, front) in self.managers.iter().enumerate() {
            let held = self.held.iter().filter_map(|held| held.chunk);
            let named: HashSet<ChunkName> = (held.chain(self.current[manager]))
                .filter(|(of, _)| *of == manager)
                .collect();
            let stats = front.stats();
            assert_eq!(stats.live, named.len() as u64);
            assert!(stats.pooled <= MAX_POOLED as u64);
        }
    }

    fn check_contents(&self) {
        for held in &self.held {
            assert!(held.buffer[..] == held.expected[..], "other bytes");
        }
    }

    pub fn finish(mut self) {
        self.check_contents();
        self.held.clear();
        for front in &self.managers {
            front.release();
            assert_eq!(front.stats().live, 0);
        }
    }
}
