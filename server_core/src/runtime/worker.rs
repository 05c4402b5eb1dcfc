//! The event loop: one thread, one `mio::Poll`, one [`Shard`].
//!
//! Nobody but this thread ever touches the sockets of its sessions, so there is no send lock, no
//! `sendRegistered` flag, and no callback that runs while a lock is held: the lecture's two-step
//! send has nothing left to guard.

use crate::base::id::SessionId;
use crate::base::memory;
use crate::routing::mailbox::Mailbox;
use crate::routing::router::{Command, Router};
use crate::session::Session;
use crate::shard::{Shard, Shared};
use crate::transport::PlainStream;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// A worker thread's own things.
#[derive(Debug)]
pub struct Worker<S> {
    poll: Poll,
    index: usize,
    router: Arc<Router<TcpStream>>,
    shard: Shard<TcpStream, S>,
}

/// Session ids begin at `1 << 32`, so small tokens are free for other sources.
const WAKER: Token = Token(0);
/// What one call of `epoll_wait` can bring; the rest comes with the next.
const EVENTS: usize = 1024;
// A session id is a token as it is.
const _: () = assert!(usize::BITS == 64, "server_core needs a 64-bit target");

/// The part of a worker that exists before its router does: its poll and its mailbox.
///
/// # Errors
/// If the system has no descriptor left for them.
pub fn poll_with_mailbox(mailbox_bytes: usize) -> io::Result<(Poll, Mailbox<Command<TcpStream>>)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKER)?;
    let mailbox = Mailbox::new(mailbox_bytes, move || {
        if let Err(error) = waker.wake() {
            log::error!("a worker could not be woken: {error}");
        }
    });
    Ok((poll, mailbox))
}

impl<S: Session> Worker<S> {
    /// Puts a worker together. It must run on the thread that it is to own.
    #[must_use]
    pub fn new(
        index: usize,
        poll: Poll,
        router: Arc<Router<TcpStream>>,
        shared: Arc<Shared<TcpStream, S>>,
    ) -> Self {
        Self {
            poll,
            index,
            router,
            shard: Shard::new(index, shared),
        }
    }

    /// Runs until a shutdown is over.
    ///
    /// # Errors
    /// If the system's poll fails, which only a bug of ours could cause.
    pub fn run(mut self) -> io::Result<()> {
        self.router.enter_worker_thread();
        let router = Arc::clone(&self.router);
        let mailbox = router.mailbox(self.index);
        let _closed_at_the_end = CloseOnDrop(mailbox);
        self.run_until_finished(mailbox)?;
        // A connection that was begun in the last moment has been promised a session, which hears
        // of the shutdown as the others do.
        let (shard, registry, now) = (&mut self.shard, self.poll.registry(), Instant::now());
        mailbox.close_and_take(|command| {
            if let Command::Adopt(_) = command {
                shard.handle_command(command, now, |stream, id| register(registry, stream, id));
            }
        });
        self.run_until_finished(mailbox)?;
        self.shard.finish();
        Ok(())
    }

    fn run_until_finished(&mut self, mailbox: &Mailbox<Command<TcpStream>>) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        // Sessions that came before the first turn may have something to do.
        let mut has_mail = true;
        while !self.shard.is_finished() {
            let timeout = match has_mail || self.shard.has_work() {
                true => Some(Duration::ZERO),
                false => (self.shard.next_deadline())
                    .map(|at| round_up(at.saturating_duration_since(Instant::now()))),
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => events.clear(),
                other => other?,
            }
            let now = Instant::now();
            let (shard, registry) = (&mut self.shard, self.poll.registry());
            has_mail = mailbox.take_some(|command| {
                shard.handle_command(command, now, |stream, id| register(registry, stream, id));
                match shard.has_enough_output() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
            for event in events.iter().filter(|event| event.token() != WAKER) {
                // An error is found by the read or the write that meets it.
                let readable = event.is_readable() || event.is_read_closed() || event.is_error();
                let writable = event.is_writable() || event.is_write_closed() || event.is_error();
                let id = SessionId::from_u64(event.token().0 as u64);
                shard.handle_readiness(id, readable, writable, now);
            }
            shard.run(now);
            shard.end_turn(now, Instant::now());
            if shard.wants_to_give_back(now) {
                // Not here: it would hold up the sessions. Without a thread for it, it is not done.
                let _ = thread::Builder::new()
                    .name("give-back".into())
                    .spawn(memory::give_back);
            }
        }
        Ok(())
    }
}

/// Once, for both directions, edge-triggered: the sockets are never registered again. A `writable`
/// flag in the connection takes the place of a changed registration.
fn register(registry: &Registry, stream: &mut TcpStream, id: SessionId) -> io::Result<()> {
    let both = Interest::READABLE | Interest::WRITABLE;
    registry.register(stream, Token(id.to_u64() as usize), both)
}

/// The kernel's clock for `epoll_wait` counts milliseconds. Rounded down, the loop would turn
/// around without rest through the last one.
fn round_up(timeout: Duration) -> Duration {
    match timeout.is_zero() {
        true => timeout,
        false => timeout.max(Duration::from_millis(1)),
    }
}

struct CloseOnDrop<'a>(&'a Mailbox<Command<TcpStream>>);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl PlainStream for TcpStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn poll_connected(&mut self) -> io::Result<bool> {
        if let Some(error) = self.take_error()? {
            return Err(error);
        }
        match self.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }
}
