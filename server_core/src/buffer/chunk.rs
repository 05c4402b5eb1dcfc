//! One block of memory that is written from front to back by one thread, and read by many.
//!
//! This is the only file of the crate with unsafe code. It rests on one invariant:
//!
//! > **`0 <= start..end of every SendBuffer <= used <= capacity`**: readers look only below
//! > `used`, the one writer writes only at or above it, and `used` never falls.

#![allow(unsafe_code)]

use crate::base::sync::{Arc, ByteWatch};
use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;

/// Zeroed memory that can be written in one part while it is read in another.
pub struct Block {
    memory: NonNull<[u8]>,
    watch: ByteWatch,
}

// SAFETY: a Block owns its memory, as a Box does. That no two threads touch the same byte at a
// time, one of them writing, is the module's invariant, kept by `ChunkWriter` and `SendBuffer`.
unsafe impl Send for Block {}
// SAFETY: as above; a `&Block` alone gives no access, only this module reads through it.
unsafe impl Sync for Block {}

impl Block {
    /// Takes fresh zeroed memory from the allocator.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let memory = Box::into_raw(vec![0_u8; bytes].into_boxed_slice());
        Self {
            // Box::into_raw never gives null, so the other arm is a zero-sized dangling block.
            memory: NonNull::new(memory)
                .unwrap_or_else(|| NonNull::slice_from_raw_parts(NonNull::dangling(), 0)),
            watch: ByteWatch::new(bytes),
        }
    }

    /// Bytes in it.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.watch.write(0..self.capacity(), || {
            // SAFETY: the pointer came from Box::into_raw in `new`, and is given up here, once.
            // Boxing an empty slice frees nothing, so the dangling case is sound too.
            drop(unsafe { Box::from_raw(self.memory.as_ptr()) });
        });
    }
}

/// Where a block goes when the last reference to its chunk is dropped.
pub trait Home: Send + Sync {
    /// Takes the block back. Called from whichever thread dropped last.
    fn take_back(&self, block: Block);
}

/// A block in use. Shared by its writer and by every buffer that was cut from it; the last one to
/// go sends the block home.
pub struct Chunk {
    block: Option<Block>,
    home: Option<SharedHome>,
}

/// The standard library's `Arc` in every build: loom's cannot hold a trait object, and it is the
/// chunk whose count the invariant rests on.
pub type SharedHome = std::sync::Arc<dyn Home>;

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
        if let (Some(home), Some(block)) = (&self.home, self.block.take()) {
            home.take_back(block);
        }
    }
}

/// The one writer of a chunk. It cannot be cloned, and only this module makes one.
pub struct ChunkWriter {
    chunk: Arc<Chunk>,
    used: usize,
}

impl ChunkWriter {
    /// Starts a chunk on this block. It goes `home` in the end, or to the allocator if it has
    /// none.
    #[must_use]
    pub fn new(block: Block, home: Option<SharedHome>) -> Self {
        let block = Some(block);
        Self {
            chunk: Arc::new(Chunk { block, home }),
            used: 0,
        }
    }

    /// Bytes that can still be written.
    #[must_use]
    pub fn room(&self) -> usize {
        self.chunk.capacity() - self.used
    }

    /// Opens `capacity` bytes, lets `fill` write them, and closes what it says it used. What it
    /// did not use stays free for the next one. `None` if there is no such room.
    ///
    /// The bytes that `fill` sees are zero or left over from an earlier packet. Opening and
    /// closing are this one call, so neither can be forgotten; should `fill` panic, nothing was
    /// opened.
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
        // so nobody else sees these bytes while the slice lives. They were zeroed by `new`.
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

    /// Whether nobody but this writer's chunk keeps its home alive any more.
    #[must_use]
    pub fn is_orphan(&self) -> bool {
        self.chunk
            .home
            .as_ref()
            .is_some_and(|home| SharedHome::strong_count(home) == 1)
    }

    /// Whether this writer's chunk goes back to that home.
    #[must_use]
    pub fn belongs_to(&self, home: *const ()) -> bool {
        self.chunk
            .home
            .as_ref()
            .is_some_and(|own| std::ptr::addr_eq(SharedHome::as_ptr(own), home))
    }
}

/// Bytes to send: a range of a chunk, and a share in keeping that chunk alive.
///
/// Cloning it costs one counter, whatever its length: a broadcast is one buffer and a reference
/// per session.
#[derive(Clone)]
pub struct SendBuffer {
    chunk: Arc<Chunk>,
    start: u32,
    len: u32,
}

impl SendBuffer {
    /// No bytes at all.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            chunk: Arc::new(Chunk {
                block: None,
                home: None,
            }),
            start: 0,
            len: 0,
        }
    }

    /// Whether its memory is its own and not a part of a shared chunk, so that whoever keeps it
    /// keeps nothing else alive.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.chunk.home.is_none()
    }

    /// Grows over `next` if that one lies right behind this one.
    pub fn merge(&mut self, next: &Self) -> bool {
        let adjacent = Arc::ptr_eq(&self.chunk, &next.chunk) && self.start + self.len == next.start;
        if adjacent {
            self.len += next.len;
        }
        adjacent
    }

    /// Gives up the first `count` bytes, or all if there are fewer.
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
    struct Shelf(Mutex<Vec<Block>>);
    impl Home for Shelf {
        fn take_back(&self, block: Block) {
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
    fn the_last_reference_sends_the_block_home() {
        let shelf = Arc::new(Shelf::default());
        let mut writer = ChunkWriter::new(Block::new(64), Some(shelf.clone()));
        let buffer = write(&mut writer, b"abc").unwrap();
        let copy = buffer.clone();
        drop(writer);
        drop(buffer);
        assert_eq!(shelf.0.lock().unwrap().len(), 0);
        std::thread::spawn(move || drop(copy)).join().unwrap();
        assert_eq!(shelf.0.lock().unwrap().len(), 1);
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
