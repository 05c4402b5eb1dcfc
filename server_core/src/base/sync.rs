//! Types that threads share. A normal build takes those of the standard library and crossbeam. A build
//! with `--cfg loom` gives loom's types to the chunk pool and the mailbox, and loom explores every order
//! of the threads' steps.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p server_core --test loom --release
//! ```

#[cfg(loom)]
pub use explored::*;
#[cfg(not(loom))]
pub use real::*;

#[cfg(not(loom))]
mod real {
    pub use crossbeam_channel as channel;
    pub use std::sync::atomic::{AtomicBool, AtomicUsize, fence};
    pub use std::sync::{Arc, Mutex, MutexGuard};
    pub use std::thread;

    use std::ops::Range;

    /// Tells loom which bytes are read and written, as loom cannot see through a raw pointer. Does
    /// nothing in a normal build.
    #[derive(Debug)]
    pub struct ByteWatch;

    impl ByteWatch {
        /// Watches a block of `bytes` bytes.
        #[must_use]
        pub fn new(_bytes: usize) -> Self {
            Self
        }

        /// Notes a read of these bytes.
        #[inline]
        pub fn read(&self, _range: Range<usize>) {}

        /// Notes that `write` writes these bytes while it runs.
        #[inline]
        pub fn write<R>(&self, _range: Range<usize>, write: impl FnOnce() -> R) -> R {
            write()
        }
    }
}

#[cfg(loom)]
mod explored {
    pub use loom::sync::atomic::{AtomicBool, AtomicUsize, fence};
    pub use loom::sync::{Arc, Mutex, MutexGuard};

    use loom::cell::UnsafeCell;
    use std::ops::Range;

    /// A cell for each byte. Loom fails the test if a byte is read or written while a write of it runs,
    /// or without an order after that write.
    #[derive(Debug)]
    pub struct ByteWatch(Vec<UnsafeCell<()>>);

    impl ByteWatch {
        /// Watches a block of `bytes` bytes.
        #[must_use]
        pub fn new(bytes: usize) -> Self {
            Self((0..bytes).map(|_| UnsafeCell::new(())).collect())
        }

        /// Notes a read of these bytes.
        pub fn read(&self, range: Range<usize>) {
            self.0[range].iter().for_each(|byte| drop(byte.get()));
        }

        /// Notes that `write` writes these bytes while it runs.
        pub fn write<R>(&self, range: Range<usize>, write: impl FnOnce() -> R) -> R {
            let _watched: Vec<_> = self.0[range].iter().map(UnsafeCell::get_mut).collect();
            write()
        }
    }

    /// The functions of threads that the mailbox uses.
    pub mod thread {
        pub use loom::thread::{current, yield_now};

        /// Yields to the other threads, as loom has no time.
        pub fn park_timeout(_: std::time::Duration) {
            loom::thread::yield_now();
        }
    }

    /// The part of crossbeam-channel that this crate uses, over a lock of loom. The inside of the real
    /// channel is covered by its own tests. Loom explores our code around it.
    #[allow(missing_docs)] // As in crossbeam-channel.
    pub mod channel {
        use loom::sync::{Arc, Mutex};
        use std::collections::VecDeque;

        #[derive(Debug)]
        struct Queue<T>(Mutex<VecDeque<T>>, usize);
        #[derive(Debug)]
        pub struct Sender<T>(Arc<Queue<T>>);
        #[derive(Debug)]
        pub struct Receiver<T>(Arc<Queue<T>>);

        #[must_use]
        pub fn bounded<T>(limit: usize) -> (Sender<T>, Receiver<T>) {
            let queue = Arc::new(Queue(Mutex::new(VecDeque::new()), limit));
            (Sender(Arc::clone(&queue)), Receiver(queue))
        }

        #[must_use]
        pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
            bounded(usize::MAX)
        }

        impl<T> Queue<T> {
            fn with<R>(&self, act: impl FnOnce(&mut VecDeque<T>) -> R) -> R {
                // Loom stops at the first panic, so no thread sees a half-done change.
                act(&mut self.0.lock().unwrap_or_else(|error| error.into_inner()))
            }
        }

        impl<T> Sender<T> {
            /// # Errors
            /// The item, if the channel is full.
            pub fn try_send(&self, item: T) -> Result<(), T> {
                let limit = self.0.1;
                self.0.with(|queue| {
                    if queue.len() >= limit {
                        return Err(item);
                    }
                    queue.push_back(item);
                    Ok(())
                })
            }

            /// # Errors
            /// None: only unbounded channels are used without `try`.
            pub fn send(&self, item: T) -> Result<(), T> {
                self.try_send(item)
            }
        }

        impl<T> Receiver<T> {
            /// # Errors
            /// If the channel is empty.
            pub fn try_recv(&self) -> Result<T, ()> {
                self.0.with(VecDeque::pop_front).ok_or(())
            }

            #[must_use]
            pub fn len(&self) -> usize {
                self.0.with(|queue| queue.len())
            }

            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }
        }
    }
}
