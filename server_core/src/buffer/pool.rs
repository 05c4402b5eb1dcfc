//! The blocks between two uses.

use super::chunk::{Block, ChunkWriter, Recycler};
use crate::base::metrics::Counter;
use crate::base::sync::channel::{self, Receiver, Sender};
use std::sync::Arc;

/// A bounded store of equal blocks: a bounded channel, with counters.
///
/// A block above the bound goes back to the allocator, so the memory of a peak does not stay.
#[derive(Debug)]
pub struct ChunkPool {
    give: Sender<Block>,
    take: Receiver<Block>,
    chunk_bytes: usize,
    pops: Counter,
    pushes: Counter,
}

/// Counters of the chunk pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Chunks taken from the pool or the allocator.
    pub pops: u64,
    /// Chunks that came back.
    pub pushes: u64,
    /// Chunks in use now.
    pub live: u64,
    /// Blocks in the pool now.
    pub pooled: u64,
}

impl ChunkPool {
    /// A pool that keeps up to `max_pooled` blocks of `chunk_bytes` bytes.
    #[must_use]
    pub fn new(chunk_bytes: usize, max_pooled: usize) -> Arc<Self> {
        let (give, take) = channel::bounded(max_pooled);
        Arc::new(Self {
            give,
            take,
            chunk_bytes,
            pops: Counter::default(),
            pushes: Counter::default(),
        })
    }

    /// Takes a chunk to write into.
    #[must_use]
    pub fn pop(self: &Arc<Self>) -> ChunkWriter {
        let (block, origin) = match self.take.try_recv() {
            Ok(block) => (block, "the pool"),
            Err(_) => (Block::new(self.chunk_bytes), "the allocator"),
        };
        self.pops.add(1);
        log::trace!("pop: a chunk of {} bytes from {origin}", self.chunk_bytes);
        ChunkWriter::new(block, Some(Arc::clone(self) as Arc<dyn Recycler>))
    }

    /// Size of each chunk.
    #[must_use]
    pub fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        // Pushes are read first: a chunk may come back in between, and `live` must not fall below zero.
        let pushes = self.pushes.get();
        let pops = self.pops.get();
        PoolStats {
            pops,
            pushes,
            live: pops.saturating_sub(pushes),
            pooled: self.take.len() as u64,
        }
    }
}

impl Recycler for ChunkPool {
    fn recycle(&self, block: Block) {
        self.pushes.add(1);
        let kept = self.give.try_send(block).is_ok();
        let end = if kept { "the pool" } else { "the allocator" };
        log::trace!("push: a chunk of {} bytes to {end}", self.chunk_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_counted() {
        let pool = ChunkPool::new(64, 2);
        let chunks: Vec<_> = (0..5).map(|_| pool.pop()).collect();
        let stats = pool.stats();
        assert_eq!((stats.pops, stats.live, stats.pooled), (5, 5, 0));
        drop(chunks);
        let stats = pool.stats();
        assert_eq!((stats.pushes, stats.live, stats.pooled), (5, 0, 2));
        let _again = pool.pop();
        assert_eq!(pool.stats().pooled, 1, "taken from the pool, not made");
    }
}
