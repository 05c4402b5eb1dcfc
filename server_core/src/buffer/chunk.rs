//! A block of memory that one thread writes from front to back, and many threads read.
//!
//! The unsafe code of this file rests on one invariant:
//!
//! > **`0 <= start..end of every SendBuffer <= used <= capacity`**: readers read only below
//! > `used`, the one writer writes only at or above it, and `used` never falls.

#![allow(unsafe_code)]

use crate::base::sync::{Arc, ByteWatch};
use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;

/// Zeroed memory of which one part can be written while another part is read.
pub struct Block {
    memory: NonNull<[u8]>,
    watch: ByteWatch,
}

// SAFETY: a Block owns its memory, as a Box does. By the module's invariant, no thread reads or writes a
// byte that another thread writes. `ChunkWriter` and `SendBuffer` keep the invariant.
unsafe impl Send for Block {}
// SAFETY: as above. A `&Block` alone gives no access, only this module reads through it.
unsafe impl Sync for Block {}

impl Block {
    /// Takes fresh zeroed memory from the allocator.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let memory = Box::into_raw(vec![0_u8; bytes].into_boxed_slice());
        Self {
            // Box::into_raw never returns null, so the other arm is a zero-sized dangling block.
            memory: NonNull::new(memory)
                .unwrap_or_else(|| NonNull::slice_from_raw_parts(NonNull::dangling(), 0)),
            watch: ByteWatch::new(bytes),
        }
    }

    /// Size in bytes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.watch.write(0..self.capacity(), || {
            // SAFETY: the pointer is from Box::into_raw in `new`, and is given up here, once.
            // Boxing an empty slice frees nothing, so the dangling case is sound too.
            drop(unsafe { Box::from_raw(self.memory.as_ptr()) });
        });
    }
}

/// The receiver of a block whose chunk has lost its last reference.
pub trait Recycler: Send + Sync {
    /// Takes the block back. Called on the thread that dropped the last reference.
    fn recycle(&self, block: Block);
}

/// A block in use. Its writer and every buffer that was cut from it share the chunk. The last drop of
/// them gives the block to its `Recycler`.
pub struct Chunk {
    block: Option<Block>,
    recycler: Option<SharedRecycler>,
}

/// The standard library's `Arc` in every build: loom's `Arc` cannot hold a trait object, and the invariant
/// rests on the count of the chunk alone.
pub type SharedRecycler = std::sync::Arc<dyn Recycler>;

impl Chunk {
    fn memory(&self) -> NonNull<u8> {
        self.block
            .as_ref()
            .map_or(NonNull::dangling(), |block| block.memory.cast())
    }

    fn capacity(&self) -> usize {
        self.block.as_ref().map_or(0, Block::capacity)
    }

    fn while_writing<R>(&self, range: Range<usize>, write: impl FnOnce() -> R) -> R {
        match &self.block {
            Some(block) => block.watch.write(range, write),
            None => write(),
        }
    }

    fn note_read(&self, range: Range<usize>) {
        if let Some(block) = &self.block {
            block.watch.read(range);
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let (Some(recycler), Some(block)) = (&self.recycler, self.block.take()) {
            recycler.recycle(block);
        }
    }
}

/// The one writer of a chunk. The type is not `Clone`, and only this module makes a writer of a chunk.
pub struct ChunkWriter {
    chunk: Arc<Chunk>,
    used: usize,
}

impl ChunkWriter {
    /// Starts a chunk on this block. In the end the block goes to `recycler`, or to the allocator without
    /// one.
    #[must_use]
    pub fn new(block: Block, recycler: Option<SharedRecycler>) -> Self {
        let block = Some(block);
        Self {
            chunk: Arc::new(Chunk { block, recycler }),
            used: 0,
        }
    }

    /// Free bytes.
    #[must_use]
    pub fn room(&self) -> usize {
        self.chunk.capacity() - self.used
    }

    /// Opens `capacity` bytes, lets `fill` write them, and closes the number of bytes that `fill` returns.
    /// The unused bytes stay free for the next packet. Returns `None` if `capacity` is above the room.
    ///
    /// The bytes that `fill` sees are zero or the rest of an earlier packet. Opening and closing are one
    /// call, so neither can be forgotten. If `fill` panics, nothing is opened.
    pub fn write(
        &mut self,
        capacity: usize,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> Option<SendBuffer> {
        if capacity > self.room() {
            return None;
        }
        // SAFETY: `used + capacity <= capacity of the block` was checked above, so the range is
        // inside one allocation that lives as long as `self.chunk`. By the invariant no
        // SendBuffer reaches above `used`, and this is the only writer (`&mut self`, not Clone),
        // so no other reference to these bytes exists while the slice lives. `new` zeroed them.
        let free = unsafe {
            std::slice::from_raw_parts_mut(self.chunk.memory().add(self.used).as_ptr(), capacity)
        };
        let start = self.used;
        let open = start..start + capacity;
        let len = self.chunk.while_writing(open, || fill(free)).min(capacity);
        self.used += len;
        debug_assert!(self.used <= self.chunk.capacity());
        Some(SendBuffer {
            chunk: Arc::clone(&self.chunk),
            start: start as u32,
            len: len as u32,
        })
    }

    /// Whether only this writer's chunk keeps its recycler alive.
    #[must_use]
    pub fn is_recycler_unused(&self) -> bool {
        self.chunk
            .recycler
            .as_ref()
            .is_some_and(|recycler| SharedRecycler::strong_count(recycler) == 1)
    }

    /// Whether this writer's chunk goes back to `recycler`.
    #[must_use]
    pub fn belongs_to(&self, recycler: *const ()) -> bool {
        self.chunk
            .recycler
            .as_ref()
            .is_some_and(|own| std::ptr::addr_eq(SharedRecycler::as_ptr(own), recycler))
    }
}

/// An encoded packet: a range of a chunk, and a reference that keeps that chunk alive.
///
/// A clone costs one counter, whatever the length: a broadcast is one buffer and a reference per session.
#[derive(Clone)]
pub struct SendBuffer {
    chunk: Arc<Chunk>,
    start: u32,
    len: u32,
}

impl SendBuffer {
    /// A buffer without bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            chunk: Arc::new(Chunk {
                block: None,
                recycler: None,
            }),
            start: 0,
            len: 0,
        }
    }

    /// Whether the buffer has memory of its own, and is not a part of a shared chunk. A private buffer
    /// keeps no other packet's memory alive.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.chunk.recycler.is_none()
    }

    /// Grows over `next` if `next` lies directly behind this buffer. Returns whether it does.
    pub fn merge(&mut self, next: &Self) -> bool {
        let adjacent = Arc::ptr_eq(&self.chunk, &next.chunk) && self.start + self.len == next.start;
        if adjacent {
            self.len += next.len;
        }
        adjacent
    }

    /// Removes the first `count` bytes, or all bytes if there are fewer.
    pub fn advance(&mut self, count: usize) {
        let count = count.min(self.len as usize) as u32;
        self.start += count;
        self.len -= count;
    }
}

impl Deref for SendBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let (start, len) = (self.start as usize, self.len as usize);
        self.chunk.note_read(start..start + len);
        // SAFETY: by the invariant the range is below `used` of its chunk: inside the block,
        // written before this buffer was made, and never written again. The chunk, and with it
        // the block, lives as long as `self.chunk`.
        unsafe { std::slice::from_raw_parts(self.chunk.memory().add(start).as_ptr(), len) }
    }
}

impl AsRef<[u8]> for SendBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} bytes)", self.capacity())
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} bytes)", self.capacity())
    }
}

impl fmt::Debug for ChunkWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ChunkWriter({} of {} bytes)",
            self.used,
            self.chunk.capacity()
        )
    }
}

impl fmt::Debug for SendBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendBuffer({} bytes)", self.len)
    }
}

// Ranges are kept in 32 bits: `Config::clamped` keeps chunks at or below 16 MiB, and a private
// block holds one packet.
const _: () = assert!(crate::base::wire::MAX_PACKET_BYTES < u32::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Returned(Mutex<Vec<Block>>);
    impl Recycler for Returned {
        fn recycle(&self, block: Block) {
            self.0.lock().unwrap().push(block);
        }
    }

    fn write(writer: &mut ChunkWriter, bytes: &[u8]) -> Option<SendBuffer> {
        writer.write(bytes.len(), |free| {
            free.copy_from_slice(bytes);
            bytes.len()
        })
    }

    #[test]
    fn packets_lie_side_by_side_and_merge() {
        let mut writer = ChunkWriter::new(Block::new(16), None);
        let mut first = write(&mut writer, b"abc").unwrap();
        let second = write(&mut writer, b"defg").unwrap();
        let third = write(&mut writer, b"h").unwrap();
        assert!(!first.merge(&third), "not adjacent");
        assert!(first.merge(&second) && first.merge(&third));
        assert_eq!(&*first, b"abcdefgh");
        first.advance(5);
        assert_eq!(&*first, b"fgh");
        first.advance(100);
        assert!(first.is_empty());
    }

    #[test]
    fn lecture_32_open_more_close_less_and_the_tail_goes_back() {
        let mut writer = ChunkWriter::new(Block::new(4096), None);
        let buffer = writer
            .write(4096, |free| {
                free[..3].copy_from_slice(b"abc");
                3
            })
            .unwrap();
        assert_eq!(&*buffer, b"abc");
        assert_eq!(writer.room(), 4093);
    }

    #[test]
    fn no_room_is_none_and_changes_nothing() {
        let mut writer = ChunkWriter::new(Block::new(4), None);
        assert!(write(&mut writer, b"abcde").is_none());
        assert_eq!(&*write(&mut writer, b"abcd").unwrap(), b"abcd");
        assert!(write(&mut writer, b"e").is_none());
        assert!(write(&mut writer, b"").is_some());
    }

    #[test]
    fn the_last_reference_recycles_the_block() {
        let returned = Arc::new(Returned::default());
        let mut writer = ChunkWriter::new(Block::new(64), Some(returned.clone()));
        let buffer = write(&mut writer, b"abc").unwrap();
        let copy = buffer.clone();
        drop(writer);
        drop(buffer);
        assert_eq!(returned.0.lock().unwrap().len(), 0);
        std::thread::spawn(move || drop(copy)).join().unwrap();
        assert_eq!(returned.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn readers_on_other_threads_while_the_writer_goes_on() {
        let mut writer = ChunkWriter::new(Block::new(8 * 1000), None);
        let readers: Vec<_> = (0..1000_u64)
            .map(|n| (n, write(&mut writer, &n.to_le_bytes()).unwrap()))
            .collect::<Vec<_>>()
            .chunks(250)
            .map(|part| {
                let part = part.to_vec();
                std::thread::spawn(move || {
                    for (n, buffer) in part {
                        assert_eq!(&*buffer, n.to_le_bytes());
                    }
                })
            })
            .collect();
        for reader in readers {
            reader.join().unwrap();
        }
    }
}
