//! Each thread's current chunk.

use super::chunk::{Block, ChunkWriter, SendBuffer};
use super::pool::{ChunkPool, PoolStats};
use crate::base::wire::{HEADER_BYTES, MAX_PACKET_BYTES, PacketHeader};
use crate::protocol::packet::{PacketHead, PacketTooLarge};
use std::cell::RefCell;
use std::sync::Arc;

thread_local! {
    /// One chunk for each manager that this thread writes for, nearly always one.
    static CURRENT: RefCell<Vec<ChunkWriter>> = const { RefCell::new(Vec::new()) };
}

/// Writes packets into the calling thread's current chunk, and takes a new chunk from the pool when
/// the current one is full. Clones share the pool.
#[derive(Clone, Debug)]
pub struct SendBufferManager {
    pool: Arc<ChunkPool>,
}

impl SendBufferManager {
    /// A manager over this pool.
    #[must_use]
    pub fn new(pool: Arc<ChunkPool>) -> Self {
        Self { pool }
    }

    /// Encodes one packet: header, head and tail, written once and without a hand-made offset (lecture
    /// row 33).
    ///
    /// # Errors
    /// [`PacketTooLarge`] if the whole packet would have more than 65,535 bytes.
    pub fn encode<H: PacketHead>(
        &self,
        head: &H,
        tail: &[u8],
    ) -> Result<SendBuffer, PacketTooLarge> {
        self.encode_raw(H::ID, bytemuck::bytes_of(head), tail)
    }

    /// Encodes a packet of an id that is known at run time. The payload is `head` and then `tail`.
    ///
    /// # Errors
    /// [`PacketTooLarge`] if it does not fit its size field.
    pub fn encode_raw(
        &self,
        id: u16,
        head: &[u8],
        tail: &[u8],
    ) -> Result<SendBuffer, PacketTooLarge> {
        let bytes = HEADER_BYTES + head.len() + tail.len();
        let Ok(size) = u16::try_from(bytes) else {
            return Err(PacketTooLarge { bytes });
        };
        let header = PacketHeader {
            size: size.into(),
            id: id.into(),
        };
        Ok(self.write(bytes, |free| {
            let (to_header, free) = free.split_at_mut(HEADER_BYTES);
            let (to_head, to_tail) = free.split_at_mut(head.len());
            to_header.copy_from_slice(bytemuck::bytes_of(&header));
            to_head.copy_from_slice(head);
            to_tail.copy_from_slice(tail);
            bytes
        }))
    }

    /// Opens `capacity` bytes of this thread's chunk. `fill` writes them and returns the number of bytes
    /// used.
    ///
    /// A packet of more than half a chunk gets a private block of its own size: it would waste the rest
    /// of the present chunk, and keep a whole chunk alive if a peer is slow to take it.
    pub fn write(&self, capacity: usize, fill: impl FnOnce(&mut [u8]) -> usize) -> SendBuffer {
        let too_large_to_share = capacity > self.pool.chunk_bytes() / 2;
        // At the end of a thread its storage is destroyed before its last destructors run.
        let thread_is_ending = CURRENT.try_with(|_| ()).is_err();
        if too_large_to_share || thread_is_ending {
            return write_to(
                &mut ChunkWriter::new(Block::new(capacity), None),
                capacity,
                fill,
            );
        }
        CURRENT.with(|current| {
            let mut chunks = current.borrow_mut();
            let pool = Arc::as_ptr(&self.pool).cast::<()>();
            let index = chunks.iter().position(|chunk| chunk.belongs_to(pool));
            let index = index.unwrap_or_else(|| {
                // A server that has ended leaves no chunk on the threads that used it.
                chunks.retain(|chunk| !chunk.is_recycler_unused());
                chunks.push(self.pool.pop());
                chunks.len() - 1
            });
            let chunk = &mut chunks[index];
            if chunk.room() < capacity {
                *chunk = self.pool.pop();
            }
            write_to(chunk, capacity, fill)
        })
    }

    /// Gives up this thread's current chunk, for example before a long wait.
    pub fn release(&self) {
        let pool = Arc::as_ptr(&self.pool).cast::<()>();
        let _ = CURRENT.try_with(|current| {
            current.borrow_mut().retain(|chunk| !chunk.belongs_to(pool));
        });
    }

    /// The pool's counters.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.pool.stats()
    }
}

/// Writes into a chunk. The caller has checked the room.
fn write_to(
    chunk: &mut ChunkWriter,
    capacity: usize,
    fill: impl FnOnce(&mut [u8]) -> usize,
) -> SendBuffer {
    debug_assert!(capacity <= chunk.room());
    chunk
        .write(capacity, fill)
        .unwrap_or_else(SendBuffer::empty)
}

const _: () = assert!(MAX_PACKET_BYTES == u16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::wire::U64Le;
    use bytemuck::{Pod, Zeroable};
    use std::thread;

    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Hello {
        tick: U64Le,
    }
    impl PacketHead for Hello {
        const ID: u16 = 1;
    }

    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Bare;
    impl PacketHead for Bare {
        const ID: u16 = 3;
    }

    fn manager(chunk_bytes: usize) -> SendBufferManager {
        SendBufferManager::new(ChunkPool::new(chunk_bytes, 8))
    }

    #[test]
    fn lecture_32_a_composed_packet_is_the_golden_packet() {
        let hello = Hello { tick: 2.into() };
        let buffer = manager(4096).encode(&hello, b"Hello World").unwrap();
        assert_eq!(
            &*buffer,
            b"\x17\x00\x01\x00\x02\x00\x00\x00\x00\x00\x00\x00Hello World"
        );
        assert_eq!(&*manager(4096).encode(&Bare, b"").unwrap(), [4, 0, 3, 0]);
    }

    #[test]
    fn lecture_2_the_pool_is_visited_once_per_chunk() {
        let manager = manager(1024);
        for n in 0..1000 {
            let buffer = manager.encode(&Bare, &[n as u8; 28]).unwrap();
            assert_eq!(buffer[4..], [n as u8; 28]);
        }
        // 32 bytes each: 32 to a chunk.
        let stats = manager.stats();
        assert_eq!(stats.pops, 1000_u64.div_ceil(32));
        assert_eq!((stats.live, stats.pooled), (1, 1));
    }

    #[test]
    fn lecture_3_larger_chunks_are_replaced_less_often() {
        let pops = |chunk_bytes| {
            let manager = manager(chunk_bytes);
            for _ in 0..4096 {
                manager.encode(&Bare, &[7; 28]).unwrap();
            }
            manager.stats().pops
        };
        assert_eq!([1, 4, 16, 64].map(|kib| pops(kib << 10)), [128, 32, 8, 2]);
    }

    #[test]
    fn lecture_1_live_chunks_stay_flat_while_packets_come_and_go() {
        let manager = manager(1024);
        for _ in 0..10_000 {
            manager.encode(&Bare, &[7; 100]).unwrap();
            assert!(manager.stats().live <= 2);
        }
    }

    #[test]
    fn each_thread_has_its_own_chunk_and_gives_it_back_at_its_end() {
        let manager = manager(1024);
        let kept = manager.encode(&Bare, b"here").unwrap();
        let from_there = {
            let manager = manager.clone();
            thread::spawn(move || {
                let buffer = manager.encode(&Bare, b"there").unwrap();
                assert_eq!(manager.stats().live, 2);
                buffer
            })
            .join()
            .unwrap()
        };
        assert_eq!(manager.stats().live, 2, "a buffer of it is alive");
        assert_eq!(&from_there[4..], b"there");
        drop(from_there);
        assert_eq!(manager.stats().live, 1);
        drop(kept);
        manager.release();
        assert_eq!(manager.stats().live, 0);
    }

    #[test]
    fn a_dropped_manager_leaves_no_chunk_on_the_thread() {
        for _ in 0..10 {
            manager(1024).encode(&Bare, b"1").unwrap();
        }
        CURRENT.with(|current| assert_eq!(current.borrow().len(), 1));
    }

    #[test]
    fn two_managers_on_one_thread_do_not_push_each_other_out() {
        let (one, two) = (manager(1024), manager(1024));
        for _ in 0..10 {
            one.encode(&Bare, b"1").unwrap();
            two.encode(&Bare, b"2").unwrap();
        }
        assert_eq!((one.stats().pops, two.stats().pops), (1, 1));
    }

    #[test]
    fn large_packets_have_a_private_block() {
        let manager = manager(64 << 10);
        let large = manager.encode(&Bare, &[5; 65_531]).unwrap();
        assert_eq!(large.len(), 65_535);
        assert!(large.is_private());
        assert_eq!(manager.stats().pops, 0);
        let error = manager.encode(&Bare, &[5; 65_532]).unwrap_err();
        assert_eq!(error.bytes, 65_536);
    }
}
