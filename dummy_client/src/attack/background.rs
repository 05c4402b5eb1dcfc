//! A measurement on a thread of its own, which ends with the attack.

use server_core::start;
use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

/// A measurement that runs.
#[derive(Debug)]
pub(super) struct Background<T> {
    thread: JoinHandle<T>,
    /// The thread ends when this is dropped.
    stop: Sender<()>,
    name: &'static str,
}

/// The measurement's end of it.
pub(super) struct Stopped(Receiver<()>);

impl<T: Send + 'static> Background<T> {
    /// Starts the measurement on a thread of this name.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub fn start(
        name: &'static str,
        measure: impl FnOnce(&Stopped) -> T + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = start::spawn(name, move || measure(&Stopped(stopped)))?;
        Ok(Self { thread, stop, name })
    }

    /// Ends the measurement, and returns its result.
    ///
    /// # Errors
    /// If the thread has panicked.
    pub fn end(self) -> io::Result<T> {
        drop(self.stop);
        let ended = self.thread.join();
        ended.map_err(|_| io::Error::other(format!("the thread {:?} panicked", self.name)))
    }
}

impl Stopped {
    /// Waits for this time, or for the end of the measurement. Returns whether it has ended.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.0.recv_timeout(timeout) != Err(RecvTimeoutError::Timeout)
    }
}
