//! A queue into one thread, bounded in bytes, with at most one wake-up per burst.
//!
//! The item is a type parameter, and a closure wakes the reader.

use crate::base::sync::channel::{self, Receiver, Sender};
use crate::base::sync::{AtomicBool, AtomicUsize, Mutex, MutexGuard, fence, thread};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A queue of many posters and one reader.
///
/// * **One wake per burst.** The poster that finds the reader not yet notified wakes it; the other
///   posters only push. The reader clears the mark *before* it takes the items, so that each item that
///   is posted behind them wakes it again.
/// * **Bounded in bytes, not in items.** Each item is charged with the memory that it keeps alive. Over
///   the limit a poster either waits ([`post_or_wait`](Self::post_or_wait)) or gets its item back
///   ([`try_post`](Self::try_post)) and may ask for a call when the mailbox has room.
pub struct Mailbox<T> {
    sender: Sender<(usize, T)>,
    receiver: Receiver<(usize, T)>,
    queued_bytes: AtomicUsize,
    limit_bytes: usize,
    notified: AtomicBool,
    closed: AtomicBool,
    wake_reader: Box<dyn Fn() + Send + Sync>,
    has_waiters: AtomicBool,
    waiters: Mutex<Vec<Waiter>>,
    #[cfg(any(test, feature = "testing"))]
    never_waits: bool,
}

/// The error of a `try_` function: a worker's mailbox has no room for the packet, and no worker got it.
/// Contains the packet where the function took it by value.
///
/// The mailbox has room again when its worker has taken some of its mail: a later try, for example
/// with the next tick, may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MailboxFull<T = ()>(pub T);

impl<T> fmt::Display for MailboxFull<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the mailbox of a worker is full")
    }
}

impl<T: fmt::Debug> std::error::Error for MailboxFull<T> {}

/// A function that the reader's thread calls once, when a full mailbox has room again.
pub type Waiter = Box<dyn FnOnce() + Send>;

impl<T> Mailbox<T> {
    /// A mailbox that holds up to `limit_bytes` and calls `wake_reader` when a burst begins.
    #[must_use]
    pub fn new(limit_bytes: usize, wake_reader: impl Fn() + Send + Sync + 'static) -> Self {
        let (sender, receiver) = channel::unbounded();
        Self {
            sender,
            receiver,
            queued_bytes: AtomicUsize::new(0),
            limit_bytes,
            notified: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            wake_reader: Box::new(wake_reader),
            has_waiters: AtomicBool::new(false),
            waiters: Mutex::new(Vec::new()),
            #[cfg(any(test, feature = "testing"))]
            never_waits: false,
        }
    }

    /// The same mailbox for a reader and posters on one thread: [`post_or_wait`](Self::post_or_wait) posts beyond
    /// the limit.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn without_waiting(mut self) -> Self {
        self.never_waits = true;
        self
    }

    /// Posts without regard to the limit: for items whose number has another bound. `bytes` is at least
    /// 1.
    pub fn post(&self, item: T, bytes: usize) {
        // A closed mailbox drops the item.
        let _ = self.post_if_open(item, bytes);
    }

    /// As [`post`](Self::post), but a closed mailbox returns the item. After `Ok` the reader takes the
    /// item, also a reader that closes the mailbox in the same moment.
    ///
    /// # Errors
    /// The item itself.
    pub fn post_if_open(&self, item: T, bytes: usize) -> Result<(), T> {
        self.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.push(item, bytes)
    }

    /// Posts, or returns the item if more than `limit_bytes` would wait then.
    ///
    /// An empty mailbox takes an item that is larger than the whole limit.
    ///
    /// # Errors
    /// The item itself.
    pub fn try_post(&self, item: T, bytes: usize, limit_bytes: usize) -> Result<(), T> {
        if !self.try_reserve(bytes, limit_bytes) {
            return Err(item);
        }
        // A closed mailbox drops the item.
        let _ = self.push(item, bytes);
        Ok(())
    }

    /// Reserves room for an item, if no more than `limit_bytes` would wait then: the first half of
    /// [`try_post`](Self::try_post), for a packet that goes into several mailboxes or into none.
    /// [`post_reserved`](Self::post_reserved) uses the room, [`release`](Self::release) gives it back.
    #[must_use]
    pub fn try_reserve(&self, bytes: usize, limit_bytes: usize) -> bool {
        let reserved =
            self.queued_bytes
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |queued| {
                    (queued == 0 || queued.saturating_add(bytes) <= limit_bytes)
                        .then(|| queued.saturating_add(bytes))
                });
        reserved.is_ok()
    }

    /// Posts an item for which [`try_reserve`](Self::try_reserve) has reserved these bytes.
    pub fn post_reserved(&self, item: T, bytes: usize) {
        // A closed mailbox drops the item.
        let _ = self.push(item, bytes);
    }

    /// Gives back what [`try_reserve`](Self::try_reserve) has reserved.
    pub fn release(&self, bytes: usize) {
        self.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
        // Pairs with the fence in `call_when_room`: the reader calls a waiter that these bytes have
        // turned away, and the reader may have nothing else to do.
        fence(Ordering::SeqCst);
        if self.has_waiters.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Waits until the mailbox has room, then posts. Never call it on a thread that itself reads a
    /// mailbox: two such threads could wait for each other.
    pub fn post_or_wait(&self, item: T, bytes: usize) {
        #[cfg(any(test, feature = "testing"))]
        if self.never_waits {
            self.post(item, bytes);
            return;
        }
        let mut item = item;
        while !self.is_closed() {
            item = match self.try_post(item, bytes, self.limit_bytes) {
                Ok(()) => return,
                Err(item) => item,
            };
            let this_thread = thread::current();
            self.call_when_room(Box::new(move || this_thread.unpark()));
            item = match self.try_post(item, bytes, self.limit_bytes) {
                Ok(()) => return,
                Err(item) => item,
            };
            // Bounded, so that a reader that ends in between cannot leave this thread here for good.
            thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Asks for a call when the reader has made room. Try again after this: the room may have come just
    /// before.
    pub fn call_when_room(&self, waiter: Waiter) {
        self.waiters().push(waiter);
        self.has_waiters.store(true, Ordering::SeqCst);
        // Pairs with the fence of the reader: either the reader sees the waiter, or this thread sees the
        // room.
        fence(Ordering::SeqCst);
    }

    /// Wakes the reader without an item.
    pub fn wake(&self) {
        if !self.notified.swap(true, Ordering::SeqCst) {
            (self.wake_reader)();
        }
    }

    /// The limit.
    #[must_use]
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// Takes the items that wait now, until `take` breaks off: a call of the reader. Items that come
    /// meanwhile stay for the next call.
    ///
    /// Returns whether more items wait already.
    pub fn take_some(&self, mut take: impl FnMut(T) -> ControlFlow<()>) -> bool {
        self.notified.store(false, Ordering::SeqCst);
        for _ in 0..self.receiver.len() {
            let Ok((bytes, item)) = self.receiver.try_recv() else {
                break;
            };
            self.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
            if take(item).is_break() {
                break;
            }
        }
        // Each poster whose waiter this thread does not see has to see `queued_bytes` without the taken
        // items.
        fence(Ordering::SeqCst);
        if self.has_waiters.swap(false, Ordering::SeqCst) {
            let waiters = std::mem::take(&mut *self.waiters());
            waiters.into_iter().for_each(|waiter| waiter());
        }
        !self.receiver.is_empty()
    }

    /// Takes all items that wait now. See [`take_some`](Self::take_some).
    pub fn take_all(&self, mut take: impl FnMut(T)) -> bool {
        self.take_some(|item| {
            take(item);
            ControlFlow::Continue(())
        })
    }

    /// Closes the mailbox at the end of its reader: from now on items are dropped, and no poster waits.
    pub fn close(&self) {
        self.close_and_take(drop);
    }

    /// As [`close`](Self::close); `take` gets each item that was posted before. The mailbox is empty when
    /// this returns, and stays empty.
    pub fn close_and_take(&self, mut take: impl FnMut(T)) {
        self.closed.store(true, Ordering::SeqCst);
        // A poster charges its item before it reads `closed`, and this thread changes the charges after
        // it has set `closed`: either this thread sees the charge and waits for the item, or the poster
        // sees the change, and with that the closed mailbox.
        while {
            self.take_all(&mut take);
            self.queued_bytes.fetch_add(0, Ordering::AcqRel) > 0
        } {
            thread::yield_now();
        }
    }

    /// The charges of all items that wait.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(Ordering::Acquire)
    }

    fn push(&self, item: T, bytes: usize) -> Result<(), T> {
        if self.is_closed() {
            self.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
            return Err(item);
        }
        // The mailbox holds a receiver itself, so the channel cannot be disconnected.
        let _ = self.sender.send((bytes, item));
        self.wake();
        Ok(())
    }

    /// Whether the reader is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn waiters(&self) -> MutexGuard<'_, Vec<Waiter>> {
        // A `Vec` of closures is consistent at every step: a panic elsewhere cannot have torn it.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox")
            .field("items", &self.receiver.len())
            .field("queued_bytes", &self.queued_bytes())
            .field("limit_bytes", &self.limit_bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn counted_mailbox(limit: usize) -> (Arc<Mailbox<u32>>, Arc<AtomicUsize>) {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&wakes);
        let mailbox = Mailbox::new(limit, move || {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        (Arc::new(mailbox), wakes)
    }

    #[test]
    fn one_wake_per_burst() {
        let (mailbox, wakes) = counted_mailbox(1000);
        for burst in 1..=3 {
            (0..50).for_each(|n| mailbox.post(n, 1));
            assert_eq!(wakes.load(Ordering::SeqCst), burst);
            let mut seen = Vec::new();
            assert!(!mailbox.take_all(|n| seen.push(n)));
            assert_eq!(seen, (0..50).collect::<Vec<_>>());
        }
    }

    #[test]
    fn full_gives_the_item_back_and_calls_when_there_is_room() {
        let (mailbox, _) = counted_mailbox(10);
        assert_eq!(mailbox.try_post(1, 10, 10), Ok(()));
        assert_eq!(mailbox.try_post(2, 1, 10), Err(2));
        let called = Arc::new(AtomicBool::new(false));
        let call = Arc::clone(&called);
        mailbox.call_when_room(Box::new(move || call.store(true, Ordering::SeqCst)));
        assert_eq!(mailbox.try_post(2, 1, 10), Err(2));
        mailbox.take_all(drop);
        assert!(called.load(Ordering::SeqCst));
        assert_eq!(mailbox.try_post(2, 1, 10), Ok(()));
        assert_eq!(mailbox.queued_bytes(), 1);
    }

    #[test]
    fn an_item_above_the_limit_passes_alone() {
        let (mailbox, _) = counted_mailbox(10);
        assert_eq!(mailbox.try_post(1, 1000, 10), Ok(()));
        assert_eq!(mailbox.try_post(2, 1, 10), Err(2));
    }

    #[test]
    fn waiting_posters_lose_nothing_and_stay_within_the_limit() {
        const EACH: u32 = 2_000;
        let (mailbox, _) = counted_mailbox(64);
        let posters: Vec<_> = (0..3)
            .map(|poster| {
                let mailbox = Arc::clone(&mailbox);
                thread::spawn(move || {
                    for n in 0..EACH {
                        mailbox.post_or_wait(poster * EACH + n, 8);
                    }
                })
            })
            .collect();
        let mut next = [0, EACH, 2 * EACH];
        let mut seen = 0;
        while seen < 3 * EACH {
            assert!(mailbox.queued_bytes() <= 64);
            mailbox.take_all(|n| {
                let poster = (n / EACH) as usize;
                assert_eq!(n, next[poster], "the order of one poster is kept");
                next[poster] += 1;
                seen += 1;
            });
        }
        for poster in posters {
            poster.join().unwrap();
        }
        assert_eq!(mailbox.queued_bytes(), 0);
    }

    #[test]
    fn a_closed_mailbox_keeps_no_poster_waiting() {
        let (mailbox, _) = counted_mailbox(8);
        mailbox.post(1, 8);
        let poster = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || mailbox.post_or_wait(2, 8))
        };
        mailbox.close();
        poster.join().unwrap();
        mailbox.post(3, 8);
        mailbox.take_all(|_| ());
        assert_eq!(mailbox.queued_bytes(), 0);
    }

    #[test]
    fn an_item_is_taken_or_comes_back_however_the_mailbox_closes() {
        for _ in 0..200 {
            let (mailbox, _) = counted_mailbox(8);
            let posters: Vec<_> = (0..3)
                .map(|_| {
                    let mailbox = Arc::clone(&mailbox);
                    let is_posted = move |n: &u32| mailbox.post_if_open(*n, 8).is_ok();
                    thread::spawn(move || (0..).take_while(is_posted).count())
                })
                .collect();
            let mut taken = 0;
            while taken < 10 {
                mailbox.take_all(|_| taken += 1);
            }
            mailbox.close_and_take(|_| taken += 1);
            let posted: usize = (posters.into_iter()).map(|one| one.join().unwrap()).sum();
            assert_eq!((taken, mailbox.queued_bytes()), (posted, 0));
        }
    }
}
