//! The event loop: one thread, one `mio::Poll`, one [`Shard`].
//!
//! No other thread touches the sockets of the worker's sessions. Therefore the worker needs neither a send
//! lock nor a `sendRegistered` flag, and no callback runs while a lock is held: a two-step send (lecture
//! row 7) has nothing left to guard.

use crate::base::id::SessionId;
use crate::base::memory;
use crate::routing::mailbox::Mailbox;
use crate::routing::router::{Command, Router};
use crate::runtime::stream::Stream;
use crate::session::Session;
use crate::shard::{Shard, Shared};
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// An event loop: its poll, and the shard of its sessions.
#[derive(Debug)]
pub struct Worker<S> {
    poll: Poll,
    index: usize,
    router: Arc<Router<Stream>>,
    shard: Shard<Stream, S>,
}

/// Session ids begin at `1 << 32`: small tokens are free for other sources.
const WAKER: Token = Token(0);
/// The most events of one call of `epoll_wait`. The rest comes with the next call.
const EVENTS: usize = 1024;
// A session id is a token as it is.
const _: () = assert!(usize::BITS == 64, "server_core needs a 64-bit target");

/// The part of a worker that exists before its router does: its poll and its mailbox.
///
/// # Errors
/// If the system has no descriptor left for them.
pub fn poll_with_mailbox(mailbox_bytes: usize) -> io::Result<(Poll, Mailbox<Command<Stream>>)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKER)?;
    let mailbox = Mailbox::new(mailbox_bytes, move || {
        if let Err(error) = waker.wake() {
            log::error!("cannot wake a worker: {error}");
        }
    });
    Ok((poll, mailbox))
}

impl<S: Session> Worker<S> {
    /// A worker with an empty shard. Call [`run`](Self::run) on the worker's own thread.
    #[must_use]
    pub fn new(
        index: usize,
        poll: Poll,
        router: Arc<Router<Stream>>,
        shared: Arc<Shared<Stream, S>>,
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
    /// If the system's poll fails, which only a bug of this library could cause.
    pub fn run(mut self) -> io::Result<()> {
        self.router.enter_worker_thread();
        let router = Arc::clone(&self.router);
        let mailbox = router.mailbox(self.index);
        let _closed_at_the_end = CloseOnDrop(mailbox);
        self.run_until_finished(mailbox)?;
        // `connect` has promised a session for each connection that was begun before the mailbox closed.
        // That session learns of the shutdown as the others do.
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

    fn run_until_finished(&mut self, mailbox: &Mailbox<Command<Stream>>) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        // Sessions that were adopted before the first turn may have work.
        let mut has_mail = true;
        while !self.shard.is_finished() {
            let timeout = if has_mail || self.shard.has_work() {
                Some(Duration::ZERO)
            } else {
                (self.shard.next_deadline())
                    .map(|at| round_up(at.saturating_duration_since(Instant::now())))
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => events.clear(),
                other => other?,
            }
            let now = Instant::now();
            let (shard, registry) = (&mut self.shard, self.poll.registry());
            shard.begin_turn();
            has_mail = shard.take_mail(mailbox, now, |stream, id| register(registry, stream, id));
            for event in events.iter().filter(|event| event.token() != WAKER) {
                // The read or the write that meets an error reports it.
                let readable = event.is_readable() || event.is_read_closed() || event.is_error();
                let writable = event.is_writable() || event.is_write_closed() || event.is_error();
                let id = SessionId::from_u64(event.token().0 as u64);
                shard.handle_readiness(id, readable, writable, now);
            }
            shard.run(now);
            shard.end_turn(now, Instant::now());
            if shard.wants_to_give_back(now) {
                // On a thread of its own: here it would delay the sessions. If the system refuses the
                // thread, the memory stays.
                let _ = thread::Builder::new()
                    .name("give-back".into())
                    .spawn(memory::give_back);
            }
        }
        Ok(())
    }
}

/// Registers a socket once, for both directions, edge-triggered. A `writable` flag in the connection
/// takes the place of a changed registration.
fn register(registry: &Registry, stream: &mut Stream, id: SessionId) -> io::Result<()> {
    let both = Interest::READABLE | Interest::WRITABLE;
    registry.register(stream, Token(id.to_u64() as usize), both)
}

/// `epoll_wait` counts whole milliseconds. Rounded down, the loop would turn without a pause through the
/// last millisecond.
fn round_up(timeout: Duration) -> Duration {
    if timeout.is_zero() {
        timeout
    } else {
        timeout.max(Duration::from_millis(1))
    }
}

struct CloseOnDrop<'a>(&'a Mailbox<Command<Stream>>);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
