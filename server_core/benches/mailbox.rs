//! The cost of an item from one thread to another.

use divan::Bencher;
use divan::counter::ItemsCount;
use server_core::routing::mailbox::Mailbox;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

const ITEM_BYTES: usize = 64;
/// The limit is small, so that posters and reader keep pace with each other from the first burst on.
const LIMIT_BYTES: usize = 64 << 10;

fn main() {
    divan::main();
}

/// The mailbox alone: one thread posts a burst and takes it.
#[divan::bench(args = [1, 10, 100])]
fn burst(bencher: Bencher<'_, '_>, items: u64) {
    let mailbox = Mailbox::new(LIMIT_BYTES, || ());
    bencher.counter(ItemsCount::new(items)).bench_local(|| {
        for item in 0..items {
            mailbox.post(item, ITEM_BYTES);
        }
        let mut sum = 0;
        mailbox.take_all(|item| sum += item);
        sum
    });
}

/// Posters, and a reader that sleeps when the mailbox is empty. The posters wait when the reader is too slow.
#[divan::bench(threads = [1, 2])]
fn to_a_sleeping_reader(bencher: Bencher<'_, '_>) {
    const ITEMS: u64 = 1000;
    let is_over = Arc::new(AtomicBool::new(false));
    let taken = Arc::new(AtomicU64::new(0));
    // The handle of the reader exists only when its thread runs, and the mailbox only after that.
    let (to_reader, from_main) = crossbeam_channel::bounded::<Arc<Mailbox<u64>>>(1);
    let reader = {
        let (is_over, taken) = (Arc::clone(&is_over), Arc::clone(&taken));
        thread::spawn(move || {
            let Ok(mailbox) = from_main.recv() else {
                return;
            };
            while !is_over.load(Ordering::Acquire) {
                let has_more = mailbox.take_all(|_| {
                    taken.fetch_add(1, Ordering::Relaxed);
                });
                if !has_more {
                    thread::park();
                }
            }
        })
    };
    let to_wake = reader.thread().clone();
    let mailbox = Arc::new(Mailbox::new(LIMIT_BYTES, move || to_wake.unpark()));
    assert!(to_reader.send(Arc::clone(&mailbox)).is_ok());
    let posted = AtomicU64::new(0);
    bencher.counter(ItemsCount::new(ITEMS)).bench(|| {
        for item in 0..ITEMS {
            mailbox.post_or_wait(item, ITEM_BYTES);
        }
        posted.fetch_add(ITEMS, Ordering::Relaxed);
    });
    while mailbox.queued_bytes() > 0 {
        thread::yield_now();
    }
    is_over.store(true, Ordering::Release);
    reader.thread().unpark();
    assert!(reader.join().is_ok());
    assert_eq!(taken.load(Ordering::Relaxed), posted.into_inner());
}
