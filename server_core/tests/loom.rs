//! Tests of the chunk pool and of the mailbox in every order in which their threads can run. loom explores the
//! orders.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p server_core --features testing --test loom --release
//! ```
#![cfg(loom)]
#![allow(clippy::unwrap_used)] // In a test, a panic is the report.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;
use server_core::buffer::chunk::{Block, ChunkWriter};
use server_core::buffer::{ChunkPool, SendBuffer};
use server_core::routing::mailbox::Mailbox;

const CHUNK_BYTES: usize = 6;

fn write(writer: &mut ChunkWriter, byte: u8) -> SendBuffer {
    let buffer = writer.write(2, |free| {
        free.fill(byte);
        2
    });
    buffer.unwrap()
}

fn is_all(buffer: &SendBuffer, byte: u8) -> bool {
    buffer.iter().all(|is| *is == byte)
}

// ---- chunks -------------------------------------------------------------------------------------

#[test]
fn chunk_is_written_while_other_threads_read_earlier_packets() {
    loom::model(|| {
        let mut writer = ChunkWriter::new(Block::new(CHUNK_BYTES), None);
        let first = write(&mut writer, 1);
        let copy = first.clone();
        let one = thread::spawn(move || assert!(is_all(&first, 1)));
        let second = write(&mut writer, 2);
        let other = thread::spawn(move || assert!(is_all(&copy, 1) && is_all(&second, 2)));
        let third = write(&mut writer, 3);
        drop(writer);
        assert!(is_all(&third, 3));
        one.join().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn merged_neighbours_are_read_on_another_thread() {
    loom::model(|| {
        let mut writer = ChunkWriter::new(Block::new(CHUNK_BYTES), None);
        let mut first = write(&mut writer, 1);
        let second = write(&mut writer, 2);
        let copy = second.clone();
        let reader = thread::spawn(move || assert!(is_all(&copy, 2)));
        assert!(first.merge(&second));
        let third = write(&mut writer, 3);
        assert!(first.merge(&third));
        assert_eq!(&*first, [1, 1, 2, 2, 3, 3]);
        reader.join().unwrap();
    });
}

#[test]
fn last_reader_returns_the_block_for_the_next_writer() {
    loom::model(|| {
        let pool = ChunkPool::new(CHUNK_BYTES, 1);
        let mut writer = pool.pop();
        let buffer = write(&mut writer, 1);
        let copy = buffer.clone();
        let readers = [buffer, copy].map(|buffer| {
            thread::spawn(move || {
                assert!(is_all(&buffer, 1));
                drop(buffer);
            })
        });
        drop(writer);
        // In some orders this is the block of the first writer. All reads of its old bytes are over then.
        let mut next = pool.pop();
        let buffer = write(&mut next, 2);
        assert!(is_all(&buffer, 2));
        drop((next, buffer));
        for reader in readers {
            reader.join().unwrap();
        }
        let stats = pool.stats();
        assert_eq!((stats.pops, stats.pushes), (2, 2));
        assert_eq!(
            stats.pooled, 1,
            "the pool keeps one chunk, and frees the chunks beyond it"
        );
    });
}

#[test]
fn concurrent_takes_and_returns_keep_the_pool_consistent() {
    loom::model(|| {
        let pool = ChunkPool::new(CHUNK_BYTES, 1);
        drop(pool.pop());
        let there = std::sync::Arc::clone(&pool);
        let other = thread::spawn(move || {
            let mut writer = there.pop();
            let buffer = write(&mut writer, 7);
            drop(writer);
            assert!(is_all(&buffer, 7));
        });
        let mut writer = pool.pop();
        let buffer = write(&mut writer, 8);
        drop(writer);
        assert!(is_all(&buffer, 8));
        drop(buffer);
        other.join().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.live, stats.pooled), (0, 1));
    });
}

// ---- the mailbox --------------------------------------------------------------------------------

/// A mailbox, and the flag for which its reader sleeps.
fn mailbox(limit_bytes: usize) -> (Arc<Mailbox<u32>>, Arc<AtomicBool>) {
    let is_woken = Arc::new(AtomicBool::new(false));
    let wake = Arc::clone(&is_woken);
    // The wake is a swap, because loom does not know the order of a store and a swap that race.
    let mailbox = Mailbox::new(limit_bytes, move || {
        wake.swap(true, Ordering::SeqCst);
    });
    (Arc::new(mailbox), is_woken)
}

#[test]
fn posted_command_is_taken_or_a_wake_follows() {
    loom::model(|| {
        let (mailbox, is_woken) = mailbox(1_000);
        let posters = [1, 2].map(|item| {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || mailbox.post(item, 1))
        });
        let mut taken = 0;
        let mut has_more = false;
        for _ in 0..2 {
            // The reader does as a worker: it takes mail when it was woken, or when it knows of more mail.
            if is_woken.swap(false, Ordering::SeqCst) || has_more {
                has_more = mailbox.take_all(|_| taken += 1);
            }
        }
        for poster in posters {
            poster.join().unwrap();
        }
        let sleeps = !has_more && !is_woken.load(Ordering::SeqCst);
        assert!(
            taken == 2 || !sleeps,
            "the reader sleeps on {} items",
            2 - taken
        );
    });
}

#[test]
fn unused_room_given_back_reaches_a_waiting_thread() {
    loom::model(|| {
        let (mailbox, is_woken) = mailbox(1);
        assert!(mailbox.try_reserve(1, 1));
        let calls = Arc::new(AtomicUsize::new(0));
        let poster = {
            let (mailbox, calls) = (Arc::clone(&mailbox), Arc::clone(&calls));
            thread::spawn(move || {
                if mailbox.try_post(2, 1, 1).is_ok() {
                    return true;
                }
                mailbox.call_when_room(Box::new(move || {
                    calls.fetch_add(1, Ordering::SeqCst);
                }));
                mailbox.try_post(2, 1, 1).is_ok()
            })
        };
        mailbox.release(1);
        let is_posted = poster.join().unwrap();
        // The mailbox has no mail: the reader takes mail only if it was woken.
        if is_woken.swap(false, Ordering::SeqCst) {
            mailbox.take_all(drop);
        }
        let is_called = calls.load(Ordering::SeqCst) > 0;
        assert!(
            is_posted || is_called,
            "the sender waits for room although there is room"
        );
    });
}

#[test]
fn request_for_room_is_granted_or_called_back() {
    loom::model(|| {
        let (mailbox, _) = mailbox(1);
        mailbox.post(1, 1);
        let calls = Arc::new(AtomicUsize::new(0));
        let poster = {
            let (mailbox, calls) = (Arc::clone(&mailbox), Arc::clone(&calls));
            thread::spawn(move || {
                if mailbox.try_post(2, 1, 1).is_ok() {
                    return true;
                }
                mailbox.call_when_room(Box::new(move || {
                    calls.fetch_add(1, Ordering::SeqCst);
                }));
                mailbox.try_post(2, 1, 1).is_ok()
            })
        };
        mailbox.take_all(drop);
        let is_posted = poster.join().unwrap();
        let is_called = calls.load(Ordering::SeqCst) > 0;
        assert!(
            is_posted || is_called,
            "the sender waits for room although there is room"
        );
    });
}

#[test]
fn post_during_close_is_taken_or_returned() {
    loom::model(|| {
        let (mailbox, _) = mailbox(1_000);
        let poster = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || mailbox.post_if_open(1, 1).is_ok())
        };
        let mut taken = 0;
        mailbox.close_and_take(|_| taken += 1);
        let posted = poster.join().unwrap();
        assert_eq!(taken, u32::from(posted), "an item is lost");
    });
}
