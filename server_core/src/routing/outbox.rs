//! Posts of a worker's callbacks, through handles, that found no room in a mailbox.
//!
//! A worker must not wait: two servers whose callbacks post to each other would wait for ever. Nor may a
//! mailbox grow without a limit. Therefore a callback's post that finds no room waits here, in order, on
//! the thread of the worker; its shard tries again in each turn. Meanwhile the shard reads nothing and
//! calls no timer. This bounds the memory: by the posts of one read, and by the posts of `on_connected` and
//! `on_disconnected` of the sessions that come and leave.

use std::cell::RefCell;
use std::collections::VecDeque;

/// One attempt to post. Returns whether it has succeeded. Before it adds bytes to a server whose readers
/// are behind, it calls its argument, which says whether it may.
pub type Attempt = Box<dyn FnMut(&mut dyn FnMut(usize) -> bool) -> bool>;

thread_local! {
    static OUTBOX: RefCell<Option<VecDeque<Attempt>>> = const { RefCell::new(None) };
}

/// Makes the calling thread a worker, with an empty outbox.
pub fn open() {
    OUTBOX.set(Some(VecDeque::new()));
}

/// Makes the calling thread the worker with this outbox, or no worker. Returns its outbox before: for a thread that
/// takes the part of several workers in turn.
#[cfg(any(test, feature = "testing"))]
pub fn replace(outbox: Option<VecDeque<Attempt>>) -> Option<VecDeque<Attempt>> {
    OUTBOX.replace(outbox)
}

/// Whether the calling thread is a worker.
#[must_use]
pub fn is_open() -> bool {
    OUTBOX.with_borrow(Option::is_some)
}

/// Whether no post waits on the calling thread.
#[must_use]
pub fn is_empty() -> bool {
    OUTBOX.with_borrow(|outbox| outbox.as_ref().is_none_or(VecDeque::is_empty))
}

/// Adds an attempt behind the others. Does nothing on a thread that is not a worker.
pub fn push(attempt: Attempt) {
    OUTBOX.with_borrow_mut(|outbox| {
        if let Some(outbox) = outbox {
            outbox.push_back(attempt);
        }
    });
}

/// Makes the attempts in order, up to the first that fails. Returns whether the outbox is empty.
pub fn retry(mut may_fan_out: impl FnMut(usize) -> bool) -> bool {
    while let Some(mut attempt) = pop() {
        // The outbox is not borrowed here: an attempt may drop a value that posts.
        if !attempt(&mut may_fan_out) {
            OUTBOX.with_borrow_mut(|outbox| {
                if let Some(outbox) = outbox {
                    outbox.push_front(attempt);
                }
            });
            return false;
        }
    }
    true
}

fn pop() -> Option<Attempt> {
    OUTBOX.with_borrow_mut(|outbox| outbox.as_mut()?.pop_front())
}
