//! One worker's share of the sessions, and one turn of its loop.
//!
//! ```text
//!  commands -> readiness -> | reads -> timeouts -> flush (-> drained -> flush) -> reap (-> flush -> reap ...) |
//!                           +------------------------------- run -------------------------------------------+
//! ```
//!
//! * **Nothing is removed between the start of a walk and its end; nothing is written outside the
//!   flush** (a stream that drains after its session has left is the flush of that session).
//! * Callbacks only ask: what they asked for is done when they have returned.
//! * No socket and no clock in here: streams are a type parameter, the time is an argument. The
//!   [`worker`](crate::runtime::worker) brings both; tests bring fakes.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod arrivals;
mod deadlines;
mod effects;
mod handshakes;
mod input;
mod leaving;
mod memory;
mod messages;
mod output;
mod pacing;
pub mod table;
mod tracing;
mod unadmitted;

use crate::base::config::Config;
use crate::base::disconnect_log::DisconnectLog;
use crate::base::id::SessionId;
use crate::base::metrics::{Metrics, WorkerMetrics};
use crate::base::reason::DisconnectReason;
use crate::base::snapshot::SnapshotRequest;
use crate::base::timers::TimeoutQueue;
use crate::base::trace::{Tracer, WorkerTraces};
use crate::buffer::queue::PacketBatch;
use crate::buffer::recv::RecvBuffer;
use crate::buffer::{SendBuffer, SendBufferManager};
use crate::connection::admission::Admission;
use crate::connection::{Connection, Draining, ReadLimits};
use crate::groups::members::Groups;
use crate::routing::completion_timer::Share;
use crate::routing::mailbox::Mailbox;
use crate::routing::outbox;
use crate::routing::router::{Command, Router};
use crate::session::login::LoginRules;
use crate::session::{Effect, Peer, Session};
use crate::shard::table::SessionTable;
use crate::transport::Transport;
use handshakes::Handshakes;
use messages::Messages;
#[cfg(feature = "cluster")]
pub(crate) use pacing::PacedRate;
use pacing::Pacing;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use unadmitted::Unadmitted;

/// Makes the session of each new peer, on the worker that will own it.
pub type SessionFactory<S> = dyn Fn(Peer) -> S + Send + Sync;
/// The last packet for a session that ends for this reason, if it gets one, with the text of a `close_with`.
pub type CloseMessage =
    dyn Fn(DisconnectReason, Option<&str>, &SendBufferManager) -> Option<SendBuffer> + Send + Sync;

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
    /// The log of disconnects.
    pub disconnect_log: DisconnectLog,
    /// What unadmitted sessions may send. `None`: any packet.
    pub login_rules: Option<LoginRules>,
    /// The running traces.
    pub tracer: Arc<Tracer>,
    /// Makes sessions.
    pub factory: Box<SessionFactory<S>>,
    /// Makes the close message.
    pub close_message: Arc<CloseMessage>,
}

#[cfg(any(test, feature = "testing"))]
impl<T: Send + 'static, S> Shared<T, S> {
    /// What these workers have in common in a test: mailboxes that wake no worker, and no close message.
    pub fn for_tests(
        config: &Config,
        workers: usize,
        factory: impl Fn(Peer) -> S + Send + Sync + 'static,
    ) -> Self {
        let pool = crate::buffer::ChunkPool::new(config.chunk_bytes, config.pooled_chunks);
        let mailbox = |_| Mailbox::new(config.mailbox_bytes, || {});
        Self {
            config: config.clone(),
            router: Arc::new(Router::new((0..workers).map(mailbox))),
            buffers: SendBufferManager::new(pool),
            metrics: Arc::new(Metrics::new(workers)),
            disconnect_log: DisconnectLog::default(),
            login_rules: None,
            tracer: Arc::default(),
            factory: Box::new(factory),
            close_message: Arc::new(|_, _, _| None),
        }
    }
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
    groups: Groups,
    /// The traces that run.
    traces: WorkerTraces,
    timeouts: TimeoutQueue,
    /// Timers that were due while posts waited.
    put_off: BTreeSet<(Instant, SessionId)>,
    /// The last turn that began without posts was for the reads, and not for those timers: they take turns.
    reads_are_first: bool,
    unadmitted: Unadmitted,
    handshakes: Handshakes,
    /// Sessions that leave now for a login or a handshake have to give their places back at once.
    is_evicting: bool,
    /// Known since the first arrival.
    admission: Option<Arc<Admission>>,
    recv_buffer: RecvBuffer,
    /// What callbacks asked for, until they have returned.
    effects: Vec<Effect>,
    /// Draining streams with more to do, in the order in which they are advanced.
    draining_next: VecDeque<SessionId>,
    /// Bytes that this turn may still read from draining streams.
    discard_left: usize,
    /// Sessions with input, in the order of their turns.
    readable: VecDeque<SessionId>,
    /// What every session gets in this turn that is not `detached`. It is in no queue: most peers keep
    /// up, and for them it is written from where it lies.
    pending_broadcast: Option<PacketBatch>,
    /// Bytes that every session has been sent in this turn.
    common_bytes: usize,
    /// Sessions whose queue has fallen as far as they asked for: called after a flush.
    drained: VecDeque<SessionId>,
    /// Sessions for which something comes before or behind it, or that were not here when it was sent.
    detached: Vec<SessionId>,
    /// Sessions that something was queued for in this turn.
    dirty: Vec<SessionId>,
    /// Sessions whose write budget was used up: dirty in the next turn.
    dirty_next: Vec<SessionId>,
    /// Commands to workers whose mailboxes were full, in order. While there are any, nothing is
    /// read: the flood waits in the flooder's socket.
    stalled: VecDeque<(usize, Command<T>)>,
    /// What callbacks asked for beyond the output of one turn, or beyond what receivers can take, in
    /// order. Sessions that caused some of it are not read meanwhile.
    deferred: VecDeque<Deferred>,
    /// The bytes of their packets, to any session.
    deferred_bytes: usize,
    /// Whether what was posted through handles gets its share of the paced rate before the deferred effects:
    /// they take turns.
    outbox_is_first: bool,
    /// The deferred effects wait for receivers; when to try again.
    paced_until: Option<Instant>,
    pacing: Pacing,
    /// How long the queue of a session may be that is read in this turn.
    read_limits: ReadLimits,
    memory_warning_at: Option<Instant>,
    /// The most that has waited here since memory was last given back, and when to give it back.
    peak_bytes: usize,
    give_back_at: Option<Instant>,
    /// When to look again which sessions pace.
    pacing_check_at: Option<Instant>,
    /// Messages of other threads that wait for their sessions.
    messages: Messages,
    /// When to try again what callbacks posted through handles and mailboxes had no room for.
    outbox_retry_at: Option<Instant>,
    /// What may still be queued in this turn, each packet counted once for every session that
    /// gets it. Below zero by one packet at most.
    output_left: isize,
    /// The measured broadcasts that were queued in this turn.
    shares: Vec<Share>,
    /// Requests for statistics of the sessions, answered at the end of this turn.
    snapshots: Vec<SnapshotRequest>,
    shutdown_by: Option<Instant>,
    /// A shutdown that waits for `deferred`.
    shutdown_next: Option<Instant>,
    disconnect_summary_at: Option<Instant>,
    /// After a stall of this process, no session is too slow before this instant.
    grace_until: Option<Instant>,
}

/// An effect that waits.
#[derive(Debug)]
struct Deferred {
    source: SessionId,
    effect: Effect,
    /// What it costs sessions other than the one that caused it.
    fan_out_bytes: usize,
}

/// A small packet costs a turn as much as one of this size.
const MIN_PACKET_COST: usize = 64;
/// A deadline that is noticed this late was missed because the process did not run.
pub const STALL: Duration = Duration::from_millis(100);

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    /// An empty shard.
    #[must_use]
    pub fn new(worker: usize, shared: Arc<Shared<T, S>>) -> Self {
        debug_assert!(worker < SessionId::MAX_WORKERS);
        Self {
            worker,
            table: SessionTable::new(worker as u8),
            draining: HashMap::new(),
            groups: Groups::new(
                worker,
                Arc::clone(shared.router.groups()),
                shared.config.max_groups_per_session,
            ),
            traces: WorkerTraces::default(),
            draining_next: VecDeque::new(),
            discard_left: 0,
            timeouts: TimeoutQueue::default(),
            put_off: BTreeSet::new(),
            reads_are_first: true,
            unadmitted: Unadmitted::default(),
            handshakes: Handshakes::default(),
            is_evicting: false,
            admission: None,
            recv_buffer: RecvBuffer::new(shared.config.recv_buffer_bytes),
            effects: Vec::new(),
            readable: VecDeque::new(),
            pending_broadcast: None,
            common_bytes: 0,
            drained: VecDeque::new(),
            detached: Vec::new(),
            dirty: Vec::new(),
            dirty_next: Vec::new(),
            stalled: VecDeque::new(),
            deferred: VecDeque::new(),
            deferred_bytes: 0,
            outbox_is_first: false,
            paced_until: None,
            pacing: Pacing::new(shared.router.workers()),
            read_limits: ReadLimits::new(&shared.config, false),
            memory_warning_at: None,
            peak_bytes: 0,
            give_back_at: None,
            pacing_check_at: None,
            messages: Messages::default(),
            outbox_retry_at: None,
            output_left: shared.config.turn_output_bytes as isize,
            shares: Vec::new(),
            snapshots: Vec::new(),
            shutdown_by: None,
            shutdown_next: None,
            disconnect_summary_at: None,
            grace_until: None,
            shared,
        }
    }

    /// Carries out the commands that wait, as many as a turn has room for. Returns whether more wait already.
    pub fn take_mail(
        &mut self,
        mailbox: &Mailbox<Command<T>>,
        now: Instant,
        mut register: impl FnMut(&mut T, SessionId) -> io::Result<()>,
    ) -> bool {
        mailbox.take_some(|command| {
            self.handle_command(command, now, &mut register);
            if self.has_enough_output() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
    }

    /// Carries out one command. A new connection's socket is registered by `register`.
    pub fn handle_command(
        &mut self,
        command: Command<T>,
        now: Instant,
        register: impl FnOnce(&mut T, SessionId) -> io::Result<()>,
    ) {
        self.traces.set_now(now);
        match command {
            Command::Adopt(arrival) => self.adopt(arrival, now, register),
            Command::Send(to, buffer) => self.queue_for(to, buffer),
            Command::Broadcast(buffer) => self.queue_for_all(&buffer),
            Command::TimedBroadcast(buffer, share) => {
                // A tick waits for no reader; callbacks get the rest of the paced rate, and at least an eighth of it.
                let bytes = buffer.len() / self.shared.router.workers();
                self.pacing.charge_tick(bytes, now);
                self.queue_for_all(&buffer);
                self.shares.push(share);
            }
            Command::BroadcastTo(group, except, buffer) => {
                self.queue_for_group(group, except, &buffer);
            }
            // A closing session joins no group: `reap` takes it out of its groups only once.
            Command::Join(id, claim) if self.table.visit(id, |_| ()).is_some() => {
                let refused = self.groups.join_subscribed(id, claim).is_err();
                self.metrics().joins_refused.add(refused.into());
            }
            Command::Join(..) => {}
            Command::Leave(id, group) => {
                self.groups.leave(id, group);
            }
            Command::Snapshot(request) => self.snapshots.push(request),
            #[cfg(feature = "cluster")]
            Command::WatchMembers(watch) => {
                let workers = self.shared.router.workers();
                self.pacing.share_with_link(watch.is_some(), workers);
                self.groups.watch(watch);
            }
            #[cfg(feature = "cluster")]
            Command::Login(id, answer) if self.is_staying(id) => {
                self.call(id, now, |session, ctx| session.on_login(ctx, answer));
            }
            #[cfg(feature = "cluster")]
            Command::Login(..) => {}
            Command::BeginLogin(id, account) if self.is_staying(id) => {
                self.log_in(id, &account, now);
            }
            Command::BeginLogin(..) => {}
            Command::Close(id, reason) => self.close(id, reason),
            Command::Admit(id) => self.admit(id),
            Command::ResumeReading(id) => self.resume_reading(id, now),
            Command::Message(to, message, room, account) => {
                self.messages.push(to, message, room, account);
            }
            Command::CloseWith(id, reason, text) => self.close_with(id, reason, text),
            Command::Shutdown(flush_by) if self.deferred.is_empty() => {
                self.begin_shutdown(flush_by);
            }
            // Behind what callbacks have asked for before.
            Command::Shutdown(flush_by) => self.shutdown_next = Some(flush_by),
        }
    }

    /// Whether this session is here, and its end is not decided.
    fn is_staying(&mut self, id: SessionId) -> bool {
        let is_staying =
            |connection: &mut Connection<T, S>| connection.is_open() && !connection.is_leaving;
        self.table.visit(id, is_staying) == Some(true)
    }

    /// Logs a session in that is here. The login ends with the session, whose end comes later.
    fn log_in(&mut self, id: SessionId, account: &str, now: Instant) {
        let Some((answer, old)) = self.shared.router.login(id, account) else {
            return;
        };
        if let Some(old) = old {
            self.apply(Effect::Close(old, DisconnectReason::LoggedInElsewhere));
        }
        self.call(id, now, |session, ctx| session.on_login(ctx, answer));
    }

    /// Whether this turn has queued as much as a turn may: then more commands wait for the next.
    #[must_use]
    pub fn has_enough_output(&self) -> bool {
        self.output_left <= 0
    }

    /// A socket has become ready.
    pub fn handle_readiness(
        &mut self,
        id: SessionId,
        readable: bool,
        writable: bool,
        now: Instant,
    ) {
        if let Some(draining) = self.draining.get_mut(&id) {
            if writable {
                draining.handle_writable();
            }
            // What it has sent is read when its turn comes.
            self.advance_draining(id, now);
            return;
        }
        if writable {
            self.handle_writable(id, now);
        }
        if readable {
            self.list_readable(id);
        }
    }

    /// The rest of the turn.
    pub fn run(&mut self, now: Instant) {
        self.traces.set_now(now);
        let shutdown_by = self.shared.router.shutdown_by();
        if let Some(at) = shutdown_by.filter(|at| *at <= now && self.shutdown_by.is_none()) {
            // The command itself is behind mail that would take longer than there is time.
            self.begin_shutdown(at);
        }
        self.update_read_limits();
        self.discard(now);
        self.retry_stalled();
        if !self.deferred.is_empty() && self.paced_until.is_none() {
            // Mail comes first in a turn, and must not starve what callbacks have asked for.
            let share = self.shared.config.turn_output_bytes as isize / 2;
            self.output_left = self.output_left.max(share.max(1));
        }
        self.outbox_is_first = !self.outbox_is_first;
        if self.outbox_is_first {
            self.retry_outbox(now);
        }
        if outbox::is_empty() && !self.put_off.is_empty() {
            // Both may post, and then all others wait.
            self.reads_are_first = !self.reads_are_first;
            if !self.reads_are_first {
                self.call_put_off(now);
            }
        }
        self.release_deferred(now);
        if self.deferred.is_empty()
            && let Some(flush_by) = self.shutdown_next.take()
        {
            self.begin_shutdown(flush_by);
        }
        self.deliver_messages(now);
        self.read_all(now);
        self.check_deadlines(now);
        self.flush_all(now);
        self.call_drained(now);
        self.flush_and_reap(now);
        // An evicted handshake frees a place as well, so it comes first.
        self.evict_handshakes(now);
        self.evict_unadmitted(now);
        // These sessions wait for the next turn, and may have got packets since they were flushed.
        for id in &self.dirty_next {
            self.table.visit(*id, |connection| connection.settle(now));
        }
        self.dirty.append(&mut self.dirty_next);
        self.review_pacing(now);
        self.pacing_check_at = self.pacing.check_at(now);
        self.outbox_retry_at = self.retry_outbox(now);
        self.output_left = self.shared.config.turn_output_bytes as isize;
        self.common_bytes = 0;
        self.discard_left = 0;
        while let Some(request) = self.snapshots.pop() {
            self.answer(request);
        }
    }

    fn flush_and_reap(&mut self, now: Instant) {
        loop {
            self.flush_all(now);
            if !self.reap(now) && !self.end_longest_queues(now) {
                break;
            }
        }
    }

    /// Like [`flush_and_reap`](Self::flush_and_reap). Evicted sessions do not linger.
    fn reap_evicted(&mut self, now: Instant) {
        self.is_evicting = true;
        self.flush_and_reap(now);
        self.is_evicting = false;
    }

    /// A turn of the event loop begins: others see that it runs.
    pub fn begin_turn(&self) {
        let metrics = self.shared.metrics.worker(self.worker);
        metrics.turns_begun.add_as_owner(1);
    }

    /// The turn that began at `began` is over: it counts how long that took, and the measured
    /// broadcasts that went out in it. One reading of the clock serves them all.
    pub fn end_turn(&mut self, began: Instant, now: Instant) {
        let metrics = &self.shared.metrics;
        let turns = &metrics.worker(self.worker).turns;
        let took = now.saturating_duration_since(began);
        turns.record(took);
        if took > STALL {
            // This process was stopped in the middle of the turn. What was read in the rest of it
            // may have come just now, and bears the time of the beginning.
            self.table
                .visit_all(|_, connection| connection.shift_to(began, now));
        }
        for duration in self.shares.drain(..).filter_map(|share| share.end(now)) {
            metrics.broadcasts.record(duration);
        }
    }

    /// Whether there is work that no event will announce.
    #[must_use]
    pub fn has_work(&self) -> bool {
        let may_read = self.may_read();
        !self.dirty.is_empty()
            || !self.draining_next.is_empty()
            || !self.deferred.is_empty() && self.paced_until.is_none() && self.stalled.is_empty()
            || may_read
                && (!self.readable.is_empty()
                    || self.messages.is_turn_used_up
                    || !self.drained.is_empty()
                    || self.unadmitted_excess(0) > 0)
            || self.handshake_excess(0) > 0
            || !self.put_off.is_empty() && outbox::is_empty()
    }

    /// Whether packets of callbacks wait for receivers that are behind.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn is_paced(&self) -> bool {
        self.paced_until.is_some()
    }

    /// When to come again if nothing happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        // A shutdown that others have begun must not be slept through.
        let shutdown_by = (self.shared.router.shutdown_by()).filter(|_| self.shutdown_by.is_none());
        let ends = [
            self.timeouts.next_at(),
            self.disconnect_summary_at,
            shutdown_by,
            self.paced_until,
            self.pacing_check_at,
            self.outbox_retry_at,
            self.give_back_at,
        ];
        ends.into_iter().flatten().min()
    }

    /// Whether a shutdown is over: everything is flushed or given up.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.shutdown_by.is_some() && self.table.is_empty() && self.draining.is_empty()
    }

    /// The last act of a worker: log lines that were still held back.
    pub fn finish(&self) {
        if self.pacing.is_active() {
            self.shared.router.relieve();
        }
        self.shared.disconnect_log.finish();
    }

    /// Unsent bytes of one session. `None` if it is not here, or on its way out.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn queued_bytes(&mut self, id: SessionId) -> Option<usize> {
        self.table.visit(id, |connection| connection.queued_bytes())
    }

    /// Sessions in the table, closing ones included.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.table.len()
    }

    /// Sessions whose handshake is not complete.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn handshakes(&self) -> usize {
        self.handshakes.count
    }

    /// The groups of the sessions.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The counters of this worker.
    #[must_use]
    pub fn metrics(&self) -> &WorkerMetrics {
        self.shared.metrics.worker(self.worker)
    }

    /// After the flush, so that what waits for a session is what its socket did not take.
    fn answer(&mut self, request: SnapshotRequest) {
        let mut sessions = Vec::with_capacity(self.table.len());
        self.table.visit_all(|id, connection| {
            if connection.is_open() {
                sessions.push(connection.info(id));
            }
        });
        request.answer(sessions);
    }
}

/// Runs code of the user's. A panic is a bug in it, and must not cost the other sessions of
/// this worker anything.
pub(crate) fn guarded<R>(callback: impl FnOnce() -> R) -> Result<R, DisconnectReason> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(callback))
        .map_err(|_| DisconnectReason::HandlerPanicked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::reason::Kick;
    use crate::protocol::packet::Packet;
    use crate::routing::router::NewConnection;
    use crate::session::Context;
    use crate::testing::{Call, FakePeer, FakeStream, Outcome};

    struct Silent {
        requires_login: bool,
    }

    impl Session for Silent {
        fn requires_login(&self) -> bool {
            self.requires_login
        }

        fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
            Ok(())
        }
    }

    fn shard(config: &Config) -> Shard<FakeStream, Silent> {
        let requires_login = config.max_unadmitted.is_some();
        let silent = move |_| Silent { requires_login };
        Shard::new(0, Arc::new(Shared::for_tests(config, 1, silent)))
    }

    /// A thousand peers that send zeros without end and take what is written. With `hesitates`, each
    /// sends this number of bytes first, one at a time, and then nothing for one read.
    fn thousand(
        shard: &mut Shard<FakeStream, Silent>,
        hesitates: Option<usize>,
        now: Instant,
    ) -> (Vec<SessionId>, Vec<FakePeer>, Arc<Admission>) {
        let admission = Arc::new(Admission::new(1, None, None));
        let zeros: Arc<[u8]> = vec![0; 4 << 10].into();
        let (mut ids, mut peers) = (Vec::new(), Vec::new());
        for port in 0..1000 {
            let (stream, peer) = FakeStream::pair();
            peer.send_endlessly(Arc::clone(&zeros));
            if let Some(bytes) = hesitates {
                (0..bytes).for_each(|_| peer.script(Call::Read, Outcome::AtMost(1)));
                peer.script(Call::Read, Outcome::WouldBlock);
            }
            let arrival = NewConnection {
                stream,
                permit: admission.admit(([127, 0, 0, 1], port).into()).unwrap(),
                tag: None,
                is_connecting: false,
            };
            shard.handle_command(Command::Adopt(arrival), now, |_, id| {
                ids.push(id);
                Ok(())
            });
            peers.push(peer);
        }
        (ids, peers, admission)
    }

    /// The bytes that the shard has read from all of them.
    fn read_bytes(peers: &[FakePeer]) -> usize {
        peers.iter().map(|peer| peer.state().read_bytes).sum()
    }

    /// A thousand whose time for a packet is up in the same moment get a last look each, and no tick
    /// waits for what all of them have sent by then.
    #[test]
    fn last_looks_are_within_the_input_of_a_turn() {
        let config = Config::default();
        let (mut shard, mut now) = (shard(&config), Instant::now());
        let (ids, peers, admission) = thousand(&mut shard, Some(1), now);
        for id in &ids {
            shard.handle_readiness(*id, true, false, now);
        }
        shard.run(now);
        assert_eq!((shard.sessions(), read_bytes(&peers)), (1000, 1000));
        now += config.packet_timeout.unwrap();
        let (mut most_bytes, mut turns) = (0, 0);
        while shard.sessions() > 0 {
            let before = read_bytes(&peers);
            assert!(shard.next_deadline().is_some_and(|at| at <= now));
            shard.run(now);
            most_bytes = most_bytes.max(read_bytes(&peers) - before);
            turns += 1;
            assert!(turns < 1000, "{} are left", shard.sessions());
        }
        // Sessions that have just been ended may send as much again.
        let allowed = 2 * (config.turn_input_bytes + config.read_budget_bytes);
        assert!(most_bytes <= allowed, "{most_bytes} bytes in one turn");
        let totals = shard.shared.metrics.totals();
        let reasons = totals.disconnects_by_label();
        let bad: Vec<_> = reasons.filter(|(_, count)| *count > 0).collect();
        assert_eq!(
            bad,
            [("bad_size", 1000)],
            "what they have sent was looked at"
        );
        drop(admission);
    }

    /// A thousand that are thrown out at once and send on must not keep the next tick waiting: each
    /// may send as much as a session, and all together no more than one turn reads.
    #[test]
    fn those_on_their_way_out_are_read_within_the_input_of_a_turn() {
        let config = Config::default();
        let (mut shard, now) = (shard(&config), Instant::now());
        let (ids, peers, admission) = thousand(&mut shard, None, now);
        for id in &ids {
            let close = Command::Close(*id, DisconnectReason::Closed);
            shard.handle_command(close, now, |_, _| Ok(()));
        }
        let mut most_bytes = 0;
        for turn in 0..100 {
            let before = read_bytes(&peers);
            for id in &ids {
                shard.handle_readiness(*id, true, turn % 2 == 0, now);
            }
            shard.run(now);
            assert!(shard.has_work(), "there is more to throw away");
            most_bytes = most_bytes.max(read_bytes(&peers) - before);
        }
        assert!(
            most_bytes <= config.turn_input_bytes + config.read_budget_bytes,
            "{most_bytes} bytes in one turn"
        );
        shard.run(now + config.linger);
        assert!(shard.draining.is_empty() && admission.total() == 0);
        shard.run(now + config.linger);
        assert!(!shard.has_work(), "nothing is left on a list");
    }

    /// Notes the calls of the link, and of `on_login`.
    #[cfg(feature = "cluster")]
    #[derive(Clone, Debug, Default)]
    struct Calls(Arc<std::sync::Mutex<Vec<&'static str>>>);

    #[cfg(feature = "cluster")]
    impl Calls {
        fn note(&self, call: &'static str) {
            self.0.lock().unwrap().push(call);
        }
    }

    #[cfg(feature = "cluster")]
    impl crate::routing::link::Link for Calls {
        fn spans(&self, _: crate::routing::link::Audience) -> bool {
            false
        }

        fn publish(&self, _: crate::routing::link::Audience, _: &crate::buffer::SendBuffer) {}

        fn login(&self, _: SessionId, _: &str) -> bool {
            self.note("login");
            true
        }

        fn end_session(&self, _: SessionId) {
            self.note("end");
        }
    }

    #[cfg(feature = "cluster")]
    impl Session for Calls {
        fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
            Ok(())
        }

        fn on_login(&mut self, _: &mut Context<'_>, _: crate::session::LoginAnswer) {
            self.note("answer");
        }
    }

    /// A login of a session that has ended would stay for the life of the process.
    #[cfg(feature = "cluster")]
    #[test]
    fn session_whose_end_is_decided_begins_no_login_and_gets_no_answer() {
        let (config, now, calls) = (Config::default(), Instant::now(), Calls::default());
        let of_sessions = calls.clone();
        let shared = Shared::for_tests(&config, 1, move |_| of_sessions.clone());
        assert!(shared.router.attach_link(Box::new(calls.clone())).is_some());
        let mut shard = Shard::new(0, Arc::new(shared));
        let (stream, _peer) = FakeStream::pair();
        let arrival = NewConnection {
            stream,
            permit: Arc::new(Admission::new(1, None, None))
                .admit(([127, 0, 0, 1], 1).into())
                .unwrap(),
            tag: None,
            is_connecting: false,
        };
        let mut ids = Vec::new();
        shard.handle_command(Command::Adopt(arrival), now, |_, id| {
            ids.push(id);
            Ok(())
        });
        let logs_in = |shard: &mut Shard<FakeStream, Calls>| {
            for command in [
                Command::BeginLogin(ids[0], "ada".into()),
                Command::Login(ids[0], crate::session::LoginAnswer::Granted),
            ] {
                shard.handle_command(command, now, |_, _| Ok(()));
            }
            std::mem::take(&mut *calls.0.lock().unwrap())
        };
        assert_eq!(logs_in(&mut shard), ["login", "answer"]);
        shard
            .table
            .visit(ids[0], |connection| connection.is_leaving = true);
        assert_eq!(logs_in(&mut shard), [""; 0]);
        let close = Command::Close(ids[0], DisconnectReason::Closed);
        shard.handle_command(close, now, |_, _| Ok(()));
        shard.run(now);
        assert_eq!(logs_in(&mut shard), ["end"]);
    }

    /// The oldest go, and their places are back in the same turn: they do not linger.
    #[test]
    fn the_oldest_unadmitted_go_and_give_their_places_back_at_once() {
        let config = Config {
            workers: 1,
            max_unadmitted: Some(3),
            ..Config::default()
        };
        let (mut shard, now) = (shard(&config), Instant::now());
        let (ids, _, admission) = thousand(&mut shard, Some(0), now);
        shard.admit(ids[7]);
        shard.run(now);
        let mut left = Vec::new();
        shard.table.visit_all(|id, _| left.push(id));
        assert_eq!(left, [ids[7], ids[997], ids[998], ids[999]]);
        assert_eq!((admission.total(), shard.unadmitted.count), (4, 3));
        let totals = shard.shared.metrics.totals();
        assert_eq!(totals.disconnects_for(DisconnectReason::LoginTimeout), 996);
        assert!(!shard.has_work());
    }

    /// A last look at many that send without end is within the input of a turn; the rest goes in the
    /// next turns.
    #[test]
    fn an_eviction_reads_no_more_than_the_input_of_a_turn() {
        let config = Config {
            max_unadmitted: Some(1),
            ..Config::default()
        };
        let (mut shard, now) = (shard(&config), Instant::now());
        let (_, peers, _admission) = thousand(&mut shard, None, now);
        let mut turns = 0;
        while shard.sessions() > 1 {
            let before = read_bytes(&peers);
            shard.run(now);
            let bytes = read_bytes(&peers) - before;
            // Sessions that have just been ended may send as much again.
            let allowed = 2 * (config.turn_input_bytes + config.read_budget_bytes);
            assert!(bytes <= allowed, "{bytes} bytes in one turn");
            turns += 1;
            assert!(turns < 1000, "{} are left", shard.sessions());
        }
    }

    #[test]
    fn the_list_of_the_unadmitted_does_not_grow_with_the_admitted() {
        let config = Config {
            max_unadmitted: Some(1 << 20),
            ..Config::default()
        };
        let (mut shard, now) = (shard(&config), Instant::now());
        let mut admissions = Vec::new();
        for _ in 0..5 {
            let (ids, _, admission) = thousand(&mut shard, Some(1), now);
            ids.into_iter().for_each(|id| shard.admit(id));
            admissions.push(admission);
        }
        assert_eq!(shard.unadmitted.count, 0);
        let entries = shard.unadmitted.queue_len();
        // Beyond that an arrival walks it; these arrived a thousand at a time.
        assert!(entries <= 2 * 1000, "{entries} entries");
        assert!(!shard.has_work());
    }

    /// Whether one session ends or all of them do: what everybody was sent before comes before that.
    #[test]
    fn what_was_sent_to_all_before_an_end_still_goes_out() {
        let ends: [fn(SessionId, Instant) -> Command<FakeStream>; 2] = [
            |id, _| Command::Close(id, DisconnectReason::Closed),
            |_, now| Command::Shutdown(now + Duration::from_secs(1)),
        ];
        for end in ends {
            let (mut shard, now) = (shard(&Config::default()), Instant::now());
            let (ids, _, _admission) = thousand(&mut shard, Some(1), now);
            shard.run(now);
            let packet = shard.shared.buffers.write(16, |bytes| {
                bytes[..4].copy_from_slice(&[16, 0, 7, 0]);
                16
            });
            shard.handle_command(Command::Broadcast(packet), now, |_, _| Ok(()));
            shard.handle_command(end(ids[500], now), now, |_, _| Ok(()));
            shard.run(now);
            let totals = shard.shared.metrics.totals();
            assert_eq!(totals.packets_sent, 1000);
            assert_eq!(totals.bytes_sent, 1000 * 16);
            // One call each: no session was behind.
            assert_eq!(totals.write_calls, 1000);
        }
    }
}
