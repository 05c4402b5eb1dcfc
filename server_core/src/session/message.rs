//! Messages of other threads to a session.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A value that [`ServerHandle::post`](crate::ServerHandle::post) carries to
/// [`Session::on_message`](crate::Session::on_message).
///
/// ```
/// use server_core::Message;
///
/// /// The result of a login.
/// struct LoginDone {
///     name: String,
/// }
///
/// impl Message for LoginDone {
///     fn bytes(&self) -> usize {
///         size_of::<Self>() + self.name.capacity()
///     }
/// }
/// # assert_eq!(LoginDone { name: "bob".to_owned() }.bytes(), size_of::<String>() + 3);
/// ```
pub trait Message: Any + Send {
    /// Bytes of memory that the value keeps. The default is the size of the type: a type that holds further
    /// memory adds it, as these bytes bound the messages that wait.
    fn bytes(&self) -> usize {
        size_of_val(self)
    }
}

/// Bytes of the messages that wait for the sessions of one worker.
#[derive(Clone, Debug, Default)]
pub struct MessageBytes(Arc<AtomicUsize>);

/// The bytes of one message, given back when this is dropped.
pub struct MessageRoom {
    waiting: MessageBytes,
    bytes: usize,
}

impl MessageBytes {
    /// Reserves room for one message, if no more than `limit_bytes` wait then. Where no message waits, a
    /// message may be larger than the limit.
    #[must_use]
    pub fn reserve(&self, bytes: usize, limit_bytes: usize) -> Option<MessageRoom> {
        let with_it = |waiting: usize| {
            let sum = waiting.checked_add(bytes)?;
            (waiting == 0 || sum <= limit_bytes).then_some(sum)
        };
        let reserved = (self.0).fetch_update(Ordering::AcqRel, Ordering::Acquire, with_it);
        reserved.ok().map(|_| MessageRoom {
            waiting: self.clone(),
            bytes,
        })
    }

    /// The bytes that wait.
    #[cfg(test)]
    #[must_use]
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for MessageRoom {
    fn drop(&mut self) {
        self.waiting.0.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl fmt::Debug for MessageRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageRoom({})", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_given_back() {
        let waiting = MessageBytes::default();
        let first = waiting.reserve(60, 100).unwrap();
        assert!(waiting.reserve(41, 100).is_none());
        let second = waiting.reserve(40, 100).unwrap();
        assert_eq!(waiting.get(), 100);
        drop(first);
        assert_eq!(waiting.get(), 40);
        drop(second);
        let large = waiting.reserve(usize::MAX, 100).unwrap();
        assert!(waiting.reserve(1, usize::MAX).is_none());
        drop(large);
        assert_eq!(waiting.get(), 0);
    }
}
