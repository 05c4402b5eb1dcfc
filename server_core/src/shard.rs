//! One worker's share of the sessions, and one turn of its loop.
//!
//! ```text
//!  commands -> readiness -> | reads -> timeouts -> flush -> reap (-> flush -> reap ...) |
//!                           +---------------------- run --------------------------------+
//! ```
//!
//! * **Nothing is removed between the start of a walk and its end; nothing is written outside the
//!   flush** (a stream that drains after its session has left is the flush of that session).
//! * Callbacks only ask: what they asked for is done when they have returned.
//! * No socket and no clock in here: streams are a type parameter, the time is an argument. The
//!   [`worker`](crate::worker) brings both; tests bring fakes.

use crate::config::Config;
use crate::connection::{Connection, Draining, Due, Flushed, Progress, Received, Transport};
use crate::departure_log::DepartureLog;
use crate::id::SessionId;
use crate::metrics::{Metrics, WorkerMetrics};
use crate::reason::DisconnectReason;
use crate::recv_buffer::RecvBuffer;
use crate::router::{Arrival, Command, Router};
use crate::send_buffer::{SendBuffer, SendBufferManager};
use crate::session::{Context, Effect, Peer, Session};
use crate::session_table::SessionTable;
use crate::timeout_queue::TimeoutQueue;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Makes the session of each new peer, on the worker that will own it.
pub type SessionFactory<S> = dyn Fn(Peer) -> S + Send + Sync;
/// The last packet for a session that ends for this reason, if it gets one.
pub type Farewell =
    dyn Fn(DisconnectReason, &SendBufferManager) -> Option<SendBuffer> + Send + Sync;

/// What all workers of a server have in common.
pub struct Shared<T, S> {
    /// The limits.
    pub config: Config,
    /// The way to the other workers.
    pub router: Arc<Router<T>>,
    /// The chunk pool's front.
    pub buffers: SendBufferManager,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The lines about who left.
    pub departures: DepartureLog,
    /// Makes sessions.
    pub factory: Box<SessionFactory<S>>,
    /// Says goodbye.
    pub farewell: Arc<Farewell>,
}

impl<T, S> fmt::Debug for Shared<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// One worker's sessions and what is to be done for them.
#[derive(Debug)]
pub struct Shard<T, S> {
    shared: Arc<Shared<T, S>>,
    worker: usize,
    table: SessionTable<Connection<T, S>>,
    draining: HashMap<SessionId, Draining<T>>,
    timeouts: TimeoutQueue,
    recv_buffer: RecvBuffer,
    /// What callbacks asked for, until they have returned.
    effects: Vec<Effect>,
    /// Sessions with input, in the order of their turns.
    readable: VecDeque<SessionId>,
    /// Sessions that something was queued for in this turn.
    dirty: Vec<SessionId>,
    /// Sessions whose write budget was used up: dirty in the next turn.
    dirty_next: Vec<SessionId>,
    /// Commands to workers whose mailboxes were full, in order. While there are any, nothing is
    /// read: the flood waits in the flooder's socket.
    stalled: VecDeque<(usize, Command<T>)>,
    shutdown_by: Option<Instant>,
    departure_summary_at: Option<Instant>,
}

/// When a look that could not be taken now is tried again.
const RETRY: Duration = Duration::from_millis(100);

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    /// An empty shard.
    #[must_use]
    pub fn new(worker: usize, shared: Arc<Shared<T, S>>) -> Self {
        debug_assert!(worker < SessionId::MAX_WORKERS);
        Self {
            worker,
            table: SessionTable::new(worker as u8),
            draining: HashMap::new(),
            timeouts: TimeoutQueue::default(),
            recv_buffer: RecvBuffer::new(shared.config.recv_buffer_bytes),
            effects: Vec::new(),
            readable: VecDeque::new(),
            dirty: Vec::new(),
            dirty_next: Vec::new(),
            stalled: VecDeque::new(),
            shutdown_by: None,
            departure_summary_at: None,
            shared,
        }
    }

    /// Carries out one command. A new connection's socket is registered by `register`.
    pub fn handle_command(
        &mut self,
        command: Command<T>,
        now: Instant,
        register: impl FnOnce(&mut T, SessionId) -> io::Result<()>,
    ) {
        match command {
            Command::Adopt(arrival) => self.adopt(arrival, now, register),
            Command::Send(to, buffer) => self.queue_for(to, buffer),
            Command::Broadcast(buffer) => self.queue_for_all(&buffer),
            Command::Close(id, reason) => {
                self.table.close(id, reason);
            }
            Command::Shutdown(flush_by) => self.begin_shutdown(flush_by),
        }
    }

    /// A socket has become ready.
    pub fn handle_readiness(
        &mut self,
        id: SessionId,
        readable: bool,
        writable: bool,
        now: Instant,
    ) {
        if writable {
            self.handle_writable(id, now);
        }
        if readable {
            self.list_readable(id);
        }
    }

    /// The rest of the turn.
    pub fn run(&mut self, now: Instant) {
        self.retry_stalled();
        self.read_all(now);
        self.look_at_deadlines(now);
        loop {
            self.flush_all(now);
            if !self.reap(now) {
                break;
            }
        }
        self.dirty.append(&mut self.dirty_next);
        self.metrics().turns.add(1);
    }

    /// Whether there is work that no event will announce.
    #[must_use]
    pub fn has_work(&self) -> bool {
        let may_read = self.stalled.is_empty();
        !self.dirty.is_empty() || may_read && !self.readable.is_empty()
    }

    /// When to come again if nothing happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let ends = [self.timeouts.next_at(), self.departure_summary_at];
        ends.into_iter().flatten().min()
    }

    /// Whether a shutdown is over: everything is flushed or given up.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.shutdown_by.is_some() && self.table.is_empty() && self.draining.is_empty()
    }

    /// The last act of a worker: log lines that were still held back.
    pub fn finish(&self) {
        self.shared.departures.finish();
    }

    /// Sessions that are here, those on their way out included.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.table.len()
    }

    fn metrics(&self) -> &WorkerMetrics {
        self.shared.metrics.worker(self.worker)
    }

    // ---- coming -------------------------------------------------------------------------------

    fn adopt(
        &mut self,
        arrival: Arrival<T>,
        now: Instant,
        register: impl FnOnce(&mut T, SessionId) -> io::Result<()>,
    ) {
        let Arrival {
            mut stream,
            permit,
            tag,
            is_connecting,
        } = arrival;
        let addr = permit.peer();
        let inserted = self.table.insert(|id| {
            register(&mut stream, id)?;
            let session = (self.shared.factory)(Peer::new(id, addr, tag));
            let connection = Connection::new(session, stream, permit, tag, is_connecting, now);
            Ok::<_, io::Error>(connection)
        });
        match inserted {
            Ok(id) if is_connecting => self.rearm(id),
            Ok(id) => {
                self.shared.metrics.accepted.add(1);
                self.connected(id, now);
            }
            Err(error) => {
                let why = error.map_or_else(|| "no slot is free".into(), |error| error.to_string());
                log::error!("could not take over the connection of {addr}: {why}");
                self.metrics().disconnects[DisconnectReason::IoError(io::ErrorKind::Other).index()]
                    .add(1);
            }
        }
    }

    fn connected(&mut self, id: SessionId, now: Instant) {
        self.metrics().sessions.add(1);
        self.call(id, now, |session, ctx| session.on_connected(ctx));
        self.rearm(id);
        if self.shutdown_by.is_some() {
            self.table.close(id, DisconnectReason::Shutdown);
        }
    }

    /// Runs one callback, then does what it asked for.
    fn call(
        &mut self,
        id: SessionId,
        now: Instant,
        callback: impl FnOnce(&mut S, &mut Context<'_>),
    ) {
        let (buffers, effects) = (&self.shared.buffers, &mut self.effects);
        self.table.judge(id, |connection| {
            let mut ctx = Context::new(connection.peer(id), now, buffers, effects);
            guarded(|| callback(&mut connection.session, &mut ctx))
        });
        self.apply_effects();
    }

    // ---- effects ------------------------------------------------------------------------------

    fn apply_effects(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Send(to, buffer) if to.worker() == self.worker => {
                    self.queue_for(to, buffer);
                }
                Effect::Send(to, buffer) if to.worker() < self.shared.router.workers() => {
                    self.forward(to.worker(), Command::Send(to, buffer));
                }
                Effect::Send(..) => self.metrics().undeliverable.add(1),
                Effect::Broadcast(buffer) => {
                    for worker in 0..self.shared.router.workers() {
                        if worker != self.worker {
                            self.forward(worker, Command::Broadcast(buffer.clone()));
                        }
                    }
                    self.queue_for_all(&buffer);
                }
                Effect::Close(id, reason) if id.worker() == self.worker => {
                    self.table.close(id, reason);
                }
                Effect::Close(id, reason) => self.shared.router.close(id, reason),
                Effect::Timer(id, at) => {
                    self.table.visit(id, |connection| connection.set_timer(at));
                    self.rearm(id);
                }
            }
        }
        // No callback ran above, so nothing was asked for meanwhile; the memory is used again.
        debug_assert!(self.effects.is_empty());
        self.effects = effects;
    }

    fn queue_for(&mut self, to: SessionId, buffer: SendBuffer) {
        match self.table.visit(to, |connection| connection.queue(buffer)) {
            Some(true) => self.dirty.push(to),
            Some(false) => {}
            None => self.metrics().undeliverable.add(1),
        }
    }

    fn queue_for_all(&mut self, buffer: &SendBuffer) {
        let dirty = &mut self.dirty;
        self.table.visit_all(|id, connection| {
            if connection.is_open() && connection.queue(buffer.clone()) {
                dirty.push(id);
            }
        });
    }

    fn forward(&mut self, worker: usize, command: Command<T>) {
        if !self.stalled.is_empty() {
            self.stalled.push_back((worker, command));
        } else if let Err(command) = self.shared.router.forward(worker, command) {
            self.stalled.push_back((worker, command));
            self.retry_stalled();
        }
    }

    /// Sends on what had to wait for another worker's mailbox, as far as there is room now. Before
    /// giving up it asks to be woken, and tries once more: the room may have come in between.
    fn retry_stalled(&mut self) {
        let mut has_asked = false;
        while let Some((worker, command)) = self.stalled.pop_front() {
            let Err(command) = self.shared.router.forward(worker, command) else {
                continue;
            };
            self.stalled.push_front((worker, command));
            if has_asked {
                break;
            }
            self.shared.router.wake_when_room(worker, self.worker);
            has_asked = true;
        }
    }

    // ---- reading ------------------------------------------------------------------------------

    fn handle_writable(&mut self, id: SessionId, now: Instant) {
        if let Some(draining) = self.draining.get_mut(&id) {
            draining.handle_writable();
            self.advance_draining(id, now);
            return;
        }
        let is_new = self.table.judge(id, |connection| {
            let is_new = connection.handle_writable(now)?;
            if connection.has_output() && !connection.is_dirty {
                connection.is_dirty = true;
                self.dirty.push(id);
            }
            Ok(is_new)
        });
        if is_new == Some(true) {
            self.connected(id, now);
        }
    }

    fn list_readable(&mut self, id: SessionId) {
        let list = |is_listed: &mut bool| std::mem::replace(is_listed, true);
        let was_listed = match self.draining.get_mut(&id) {
            Some(draining) => list(&mut draining.is_listed_readable),
            None => self
                .table
                .visit(id, |connection| {
                    !connection.is_open() || list(&mut connection.is_listed_readable)
                })
                .unwrap_or(true),
        };
        if !was_listed {
            self.readable.push_back(id);
        }
    }

    /// One turn for each session that has input. Who has more gets the next one behind the others.
    fn read_all(&mut self, now: Instant) {
        for _ in 0..self.readable.len() {
            if !self.stalled.is_empty() {
                break;
            }
            if let Some(id) = self.readable.pop_front() {
                self.read(id, now);
            }
        }
    }

    fn read(&mut self, id: SessionId, now: Instant) {
        if let Some(draining) = self.draining.get_mut(&id) {
            draining.is_listed_readable = false;
            self.advance_draining(id, now);
            return;
        }
        let (shared, buffer) = (&*self.shared, &mut self.recv_buffer);
        let effects = &mut self.effects;
        let received = self.table.visit(id, |connection| {
            connection.is_listed_readable = false;
            let peer = connection.peer(id);
            connection.receive(buffer, &shared.config, now, |session, packet| {
                let mut ctx = Context::new(peer, now, &shared.buffers, effects);
                match guarded(|| session.on_packet(&mut ctx, packet)) {
                    Ok(answer) => answer.map_err(DisconnectReason::from),
                    Err(reason) => Err(reason),
                }
            })
        });
        let Some(Received {
            bytes,
            packets,
            outcome,
        }) = received
        else {
            return;
        };
        self.metrics().bytes_received.add(bytes as u64);
        self.metrics().packets_received.add(packets as u64);
        // First what the packets asked for, then the end: answers to whole packets that came
        // before an offence or a FIN are still queued.
        self.apply_effects();
        match outcome {
            Ok(has_more) => {
                if has_more {
                    self.list_readable(id);
                }
                self.rearm(id);
            }
            Err(reason) => {
                self.table.close(id, reason);
            }
        }
    }

    // ---- timeouts -----------------------------------------------------------------------------

    fn rearm(&mut self, id: SessionId) {
        let (timeouts, config) = (&mut self.timeouts, &self.shared.config);
        self.table.visit(id, |connection| {
            if let Some(at) = connection.next_deadline(config) {
                timeouts.arm(id, &mut connection.alarm, at);
            }
        });
    }

    fn look_again_at(&mut self, id: SessionId, at: Instant) {
        let timeouts = &mut self.timeouts;
        self.table.visit(id, |connection| {
            timeouts.arm(id, &mut connection.alarm, at);
        });
    }

    fn look_at_deadlines(&mut self, now: Instant) {
        if self.departure_summary_at.is_some_and(|at| at <= now) {
            self.departure_summary_at = self.shared.departures.flush(now);
        }
        // Collected first: a timer that is set to "now" again comes up in the next turn.
        let due: Vec<SessionId> = std::iter::from_fn(|| self.timeouts.pop_due(now)).collect();
        for id in due {
            if let Some(draining) = self.draining.get_mut(&id) {
                draining.alarm.rang();
                self.advance_draining(id, now);
                continue;
            }
            self.table.visit(id, |connection| connection.alarm.rang());
            self.look_at(id, now);
        }
    }

    /// Nobody is kicked for time before a last look: this process may have been stopped or busy,
    /// and what the peer owes us may lie in its socket.
    fn look_at(&mut self, id: SessionId, now: Instant) {
        match self.poll_due(id, now) {
            Due::Nothing => self.rearm(id),
            Due::Over(reason) => {
                self.table.close(id, reason);
            }
            Due::Timer => {
                self.call(id, now, |session, ctx| session.on_timer(ctx));
                self.rearm(id);
            }
            Due::Input(_) if !self.stalled.is_empty() => self.look_again_at(id, now + RETRY),
            Due::Input(_) => {
                self.read(id, now);
                let has_more = self
                    .table
                    .visit(id, |connection| connection.is_listed_readable);
                match self.poll_due(id, now) {
                    Due::Input(_) if has_more == Some(true) => self.look_again_at(id, now + RETRY),
                    Due::Input(reason) => {
                        self.table.close(id, reason);
                    }
                    _ => self.rearm(id),
                }
            }
            Due::Output(_) => {
                self.table.visit(id, Connection::assume_writable);
                let mut flushed = Flushed::default();
                self.flush(id, now, &mut flushed);
                self.count(&flushed);
                match self.poll_due(id, now) {
                    Due::Output(reason) => {
                        self.table.close(id, reason);
                    }
                    _ => self.rearm(id),
                }
            }
        }
    }

    fn poll_due(&mut self, id: SessionId, now: Instant) -> Due {
        let config = &self.shared.config;
        self.table
            .visit(id, |connection| connection.poll_due(config, now))
            .unwrap_or(Due::Nothing)
    }

    // ---- flushing -----------------------------------------------------------------------------

    fn flush_all(&mut self, now: Instant) {
        let mut total = Flushed::default();
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            self.flush(id, now, &mut total);
        }
        // A flush calls nobody, so nothing became dirty meanwhile; the memory is used again.
        debug_assert!(self.dirty.is_empty());
        self.dirty = dirty;
        self.count(&total);
    }

    fn flush(&mut self, id: SessionId, now: Instant, total: &mut Flushed) {
        let config = &self.shared.config;
        let (timeouts, dirty_next) = (&mut self.timeouts, &mut self.dirty_next);
        self.table.judge(id, |connection| {
            let (flushed, verdict) = connection.flush(config, now);
            total.absorb(&flushed);
            if flushed.has_more && !std::mem::replace(&mut connection.is_dirty, true) {
                dirty_next.push(id);
            }
            if connection.has_output()
                && let Some(at) = connection.next_deadline(config)
            {
                timeouts.arm(id, &mut connection.alarm, at);
            }
            verdict
        });
    }

    fn count(&self, flushed: &Flushed) {
        let metrics = self.metrics();
        metrics.bytes_sent.add(flushed.bytes as u64);
        metrics.packets_sent.add(flushed.packets as u64);
        metrics.write_calls.add(flushed.calls as u64);
        let growth = flushed.queue_growth;
        match growth >= 0 {
            true => metrics.send_queue_bytes.add(growth.unsigned_abs() as u64),
            false => metrics.send_queue_bytes.sub(growth.unsigned_abs() as u64),
        }
    }

    // ---- leaving ------------------------------------------------------------------------------

    /// Carries out what was decided: the only place where a session ends. Returns whether any did.
    fn reap(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some((id, reason, connection)) = self.table.pop_closing() {
            self.leave(id, reason, connection, now);
            any = true;
        }
        any
    }

    fn leave(
        &mut self,
        id: SessionId,
        reason: DisconnectReason,
        mut connection: Connection<T, S>,
        now: Instant,
    ) {
        let shared = Arc::clone(&self.shared);
        let was_open = connection.is_open();
        let peer = connection.peer(id);
        self.timeouts.disarm(id, &mut connection.alarm);
        self.metrics().sessions.sub(u64::from(was_open));
        self.metrics().disconnects[reason.index()].add(1);
        let summary_at = shared.departures.note(id, peer.addr, reason, now);
        let ends = [self.departure_summary_at, summary_at];
        self.departure_summary_at = ends.into_iter().flatten().min();

        let told = was_open && reason.flushes();
        let last_packet = told
            .then(|| (shared.farewell)(reason, &shared.buffers))
            .flatten();
        let flush_by = self
            .shutdown_by
            .unwrap_or(now + shared.config.flush_timeout);
        let (mut session, mut draining) = connection.into_draining(reason, last_packet, flush_by);

        let mut ctx = Context::new(peer, now, &shared.buffers, &mut self.effects);
        // Should it panic, its session is gone all the same.
        let _ = guarded(|| session.on_disconnected(&mut ctx, reason));
        self.apply_effects();

        match reason.flushes() {
            true => self.drain(id, draining, now),
            false => self.count(&draining.abandon()),
        }
    }

    fn advance_draining(&mut self, id: SessionId, now: Instant) {
        if let Some(draining) = self.draining.remove(&id) {
            self.drain(id, draining, now);
        }
    }

    fn drain(&mut self, id: SessionId, mut draining: Draining<T>, now: Instant) {
        let (flushed, progress) = draining.advance(&mut self.recv_buffer, &self.shared.config, now);
        self.count(&flushed);
        if progress == Progress::Done {
            self.timeouts.disarm(id, &mut draining.alarm);
            return;
        }
        let deadline = draining.deadline();
        self.timeouts.arm(id, &mut draining.alarm, deadline);
        self.draining.insert(id, draining);
        if progress == Progress::Again {
            self.list_readable(id);
        }
    }

    fn begin_shutdown(&mut self, flush_by: Instant) {
        self.shutdown_by = Some(flush_by);
        self.table.close_all(DisconnectReason::Shutdown);
        for (id, draining) in &mut self.draining {
            draining.hurry(flush_by);
            self.timeouts.arm(*id, &mut draining.alarm, flush_by);
        }
    }
}

/// Runs a callback of the user's. A panic is a bug in it, and must not cost the other sessions of
/// this worker anything.
fn guarded<R>(callback: impl FnOnce() -> R) -> Result<R, DisconnectReason> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(callback))
        .map_err(|_| DisconnectReason::HandlerPanicked)
}
