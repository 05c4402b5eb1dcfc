//! A server: its builder, handle and ticker, and the running threads.

mod builder;
mod handle;
pub mod schedule;
pub mod ticker;
pub mod trace;

#[cfg(any(test, feature = "testing"))]
pub(crate) use builder::Parts;
pub use builder::ServerBuilder;
pub use handle::ServerHandle;

use crate::base::start::spawn;
use crate::base::transport_kind::TransportKind;
use crate::protocol::packet::PacketHead;
use std::io;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The threads of a running server. A drop ends the server at once. [`Server::join`] after
/// [`ServerHandle::shutdown`] ends it in order.
///
/// A drop waits until every thread has ended. On one of these threads, that is, in a callback of the
/// server itself, a drop begins the shutdown and returns, and the threads end afterwards.
#[derive(Debug)]
#[must_use = "a server ends when it is dropped"]
pub struct Server {
    handle: ServerHandle,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Server {
    /// Sets up a server with the default [`Config`](crate::Config).
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    /// Checks that a [`start`](ServerBuilder::start) would find the address free. Does not listen there.
    ///
    /// # Errors
    /// Errors of the system, for example [`AddrInUse`](io::ErrorKind::AddrInUse).
    pub fn try_bind(addr: SocketAddr) -> io::Result<()> {
        crate::runtime::listener::try_bind(addr)
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// The address of the listener of [`start`](ServerBuilder::start).
    ///
    /// # Panics
    /// If the server was started without a listener.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.handle
            .local_addrs()
            .first()
            .expect("a server that listens has an address")
            .1
    }

    /// The transport and the address of each listener: first that of [`start`](ServerBuilder::start), then those
    /// of [`listen`](ServerBuilder::listen), in order. Empty if the server was started without a listener.
    #[must_use]
    pub fn local_addrs(&self) -> &[(TransportKind, SocketAddr)] {
        self.handle.local_addrs()
    }

    /// Sends a packet to every session. See [`ServerHandle::broadcast`].
    pub fn broadcast<H: PacketHead>(&self, head: &H, tail: impl AsRef<[u8]>) {
        self.handle.broadcast(head, tail);
    }

    /// Waits until every thread has ended. [`ServerHandle::shutdown`] ends the server, `join` does not.
    ///
    /// # Errors
    /// If a thread failed or panicked. [`io::ErrorKind::Deadlock`] at once if `join` is called on one of
    /// the threads, that is, in a callback of the server itself: a thread cannot wait for its own end. The
    /// server is dropped then, which ends it. A callback calls `shutdown` instead, and the thread that
    /// started the server joins it.
    pub fn join(mut self) -> io::Result<()> {
        if self.is_own_thread() {
            return Err(io::Error::new(
                io::ErrorKind::Deadlock,
                "a server cannot wait for its own end: `join` was called on one of its threads",
            ));
        }
        self.join_threads()
    }

    /// Starts one of the server's threads. If the thread fails or panics, the whole server ends: half a
    /// server would accept connections that no worker serves.
    fn spawn(
        &mut self,
        name: &str,
        run: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let guard = ShutdownOnDrop(self.handle.clone());
        let thread = spawn(name, move || {
            let _guard = guard;
            run()
        })?;
        self.threads.push(thread);
        Ok(())
    }

    fn is_own_thread(&self) -> bool {
        let this = thread::current().id();
        self.threads.iter().any(|one| one.thread().id() == this)
    }

    fn join_threads(&mut self) -> io::Result<()> {
        let mut outcome = Ok(());
        for thread in self.threads.drain(..) {
            let ended = thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a server thread panicked")));
            outcome = outcome.and(ended);
        }
        outcome
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.handle.shutdown(Duration::ZERO);
            if self.is_own_thread() {
                return;
            }
            if let Err(error) = self.join_threads() {
                log::error!("server ended with an error: {error}");
            }
        }
    }
}

/// Ends the workers of a server whose listener has ended, has failed, or never ran.
struct EndWorkersOnDrop(ServerHandle);

impl Drop for EndWorkersOnDrop {
    fn drop(&mut self) {
        self.0.shut_workers_down();
    }
}

struct ShutdownOnDrop(ServerHandle);

impl Drop for ShutdownOnDrop {
    fn drop(&mut self) {
        self.0.shutdown(Duration::ZERO);
    }
}
