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
use crate::connection::{
    Connection, Drained, Draining, Due, Flushed, Progress, Received, Transport,
};
use crate::departure_log::DepartureLog;
use crate::group_id::GroupId;
use crate::groups::Groups;
use crate::id::SessionId;
use crate::metrics::{Metrics, WorkerMetrics};
use crate::reason::DisconnectReason;
use crate::recv_buffer::RecvBuffer;
use crate::router::{Arrival, Command, Router};
use crate::send_buffer::{SendBuffer, SendBufferManager};
use crate::send_queue::PacketRun;
use crate::session::{Context, Effect, Peer, Session};
use crate::session_table::SessionTable;
use crate::snapshot::SnapshotRequest;
use crate::stopwatch::Lap;
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
    groups: Groups,
    timeouts: TimeoutQueue,
    recv_buffer: RecvBuffer,
    /// What callbacks asked for, until they have returned.
    effects: Vec<Effect>,
    /// Those on their way out that have more to say, in the order of their turns.
    draining_next: VecDeque<SessionId>,
    /// What may still be read in this turn from those on their way out.
    discard_left: usize,
    /// Sessions with input, in the order of their turns.
    readable: VecDeque<SessionId>,
    /// What every session gets in this turn that is not `apart`. It is in no queue: most peers keep
    /// up, and for them it is written from where it lies.
    common: Option<PacketRun>,
    /// Sessions for which something comes before or behind it, or that were not here when it was sent.
    apart: Vec<SessionId>,
    /// Sessions that something was queued for in this turn.
    dirty: Vec<SessionId>,
    /// Sessions whose write budget was used up: dirty in the next turn.
    dirty_next: Vec<SessionId>,
    /// Commands to workers whose mailboxes were full, in order. While there are any, nothing is
    /// read: the flood waits in the flooder's socket.
    stalled: VecDeque<(usize, Command<T>)>,
    /// What callbacks asked for beyond the output of one turn, in order. While there is any,
    /// nothing is read, either.
    deferred: VecDeque<Effect>,
    /// What may still be queued in this turn, each packet counted once for every session that
    /// gets it. Below zero by one packet at most.
    output_left: isize,
    /// The measured broadcasts that were queued in this turn.
    laps: Vec<Lap>,
    /// Who wants to know at the end of this turn how the sessions are doing.
    snapshots: Vec<SnapshotRequest>,
    shutdown_by: Option<Instant>,
    /// A shutdown that waits for `deferred`.
    shutdown_next: Option<Instant>,
    departure_summary_at: Option<Instant>,
    /// After a stall of our own, nobody is too slow before this.
    lenient_until: Option<Instant>,
}

/// A small packet costs a turn as much as one of this size.
const MIN_PACKET_COST: usize = 64;
/// A deadline that is noticed this late was missed because the process did not run.
const STALL: Duration = Duration::from_millis(100);
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
            groups: Groups::new(
                worker,
                Arc::clone(shared.router.groups()),
                shared.config.max_groups_per_session,
            ),
            draining_next: VecDeque::new(),
            discard_left: 0,
            timeouts: TimeoutQueue::default(),
            recv_buffer: RecvBuffer::new(shared.config.recv_buffer_bytes),
            effects: Vec::new(),
            readable: VecDeque::new(),
            common: None,
            apart: Vec::new(),
            dirty: Vec::new(),
            dirty_next: Vec::new(),
            stalled: VecDeque::new(),
            deferred: VecDeque::new(),
            output_left: shared.config.turn_output_bytes as isize,
            laps: Vec::new(),
            snapshots: Vec::new(),
            shutdown_by: None,
            shutdown_next: None,
            departure_summary_at: None,
            lenient_until: None,
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
            Command::TimedBroadcast(buffer, lap) => {
                self.queue_for_all(&buffer);
                self.laps.push(lap);
            }
            Command::BroadcastTo(group, except, buffer) => {
                self.queue_for_group(group, except, &buffer);
            }
            // Who is on the way out joins nothing any more: `reap` comes by only once.
            Command::Join(id, claim) if self.table.visit(id, |_| ()).is_some() => {
                let refused = self.groups.join_claimed(id, claim).is_err();
                self.metrics().joins_refused.add(refused.into());
            }
            Command::Join(..) => {}
            Command::Leave(id, group) => {
                self.groups.leave(id, group);
            }
            Command::Snapshot(request) => self.snapshots.push(request),
            Command::Close(id, reason) => self.close(id, reason),
            Command::Shutdown(flush_by) if self.deferred.is_empty() => {
                self.begin_shutdown(flush_by);
            }
            // Behind what callbacks have asked for before.
            Command::Shutdown(flush_by) => self.shutdown_next = Some(flush_by),
        }
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
        let shutdown_by = self.shared.router.shutdown_by();
        if let Some(at) = shutdown_by.filter(|at| *at <= now && self.shutdown_by.is_none()) {
            // The command itself is behind mail that would take longer than there is time.
            self.begin_shutdown(at);
        }
        self.discard(now);
        self.retry_stalled();
        if !self.deferred.is_empty() {
            // Mail comes first in a turn, and must not starve what callbacks have asked for.
            let share = self.shared.config.turn_output_bytes as isize / 2;
            self.output_left = self.output_left.max(share.max(1));
        }
        self.apply_effects();
        if self.deferred.is_empty()
            && let Some(flush_by) = self.shutdown_next.take()
        {
            self.begin_shutdown(flush_by);
        }
        self.read_all(now);
        self.look_at_deadlines(now);
        loop {
            self.flush_all(now);
            if !self.reap(now) {
                break;
            }
        }
        // Those wait for the next turn, and may have been sent to since they were flushed.
        for id in &self.dirty_next {
            self.table.visit(*id, |connection| connection.settle(now));
        }
        self.dirty.append(&mut self.dirty_next);
        self.output_left = self.shared.config.turn_output_bytes as isize;
        self.discard_left = 0;
        while let Some(request) = self.snapshots.pop() {
            self.answer(request);
        }
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
                .visit_all(|_, connection| connection.postdate(began, now));
        }
        for duration in self.laps.drain(..).filter_map(|lap| lap.end(now)) {
            metrics.broadcasts.record(duration);
        }
    }

    /// Whether there is work that no event will announce.
    #[must_use]
    pub fn has_work(&self) -> bool {
        let may_read = self.may_read();
        !self.dirty.is_empty()
            || !self.draining_next.is_empty()
            || !self.deferred.is_empty() && self.stalled.is_empty()
            || may_read && !self.readable.is_empty()
    }

    /// When to come again if nothing happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        // A shutdown that others have begun must not be slept through.
        let shutdown_by = (self.shared.router.shutdown_by()).filter(|_| self.shutdown_by.is_none());
        let ends = [
            self.timeouts.next_at(),
            self.departure_summary_at,
            shutdown_by,
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
        self.shared.departures.finish();
    }

    /// Sessions that are here, those on their way out included.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.table.len()
    }

    /// Who of them is in which group.
    #[must_use]
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The counters of this worker.
    #[must_use]
    pub fn metrics(&self) -> &WorkerMetrics {
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
            stream,
            permit,
            tag,
            is_connecting,
        } = arrival;
        let addr = permit.peer();
        let shared = Arc::clone(&self.shared);
        let inserted = self.table.insert(|id| {
            let session = guarded(|| (shared.factory)(Peer::new(id, addr, tag)))?;
            Ok::<_, DisconnectReason>(Connection::new(session, stream, permit, tag, now))
        });
        if !is_connecting {
            shared.metrics.accepted.add(1);
        }
        let id = match inserted {
            Ok(id) => id,
            Err(reason) => {
                let reason = reason.unwrap_or(DisconnectReason::ServerFull);
                self.metrics().disconnects[reason.index()].add(1);
                log::error!("could not take over the connection of {addr}: {reason}");
                return;
            }
        };
        let registered = self.table.judge(id, |connection| {
            register(connection.stream_mut(), id)
                .map_err(|error| DisconnectReason::IoError(error.kind()))
        });
        if registered.is_none() {
            return;
        }
        if is_connecting {
            self.rearm(id);
        } else {
            self.table.visit(id, |connection| connection.open(now));
            self.connected(id, now);
        }
        if self.shutdown_by.is_some() {
            self.close(id, DisconnectReason::Shutdown);
        }
    }

    fn connected(&mut self, id: SessionId, now: Instant) {
        if self.common.is_some() {
            // What was sent to everybody before it came is not for it.
            self.table
                .visit(id, |connection| connection.is_apart = true);
            self.apart.push(id);
        }
        self.metrics().sessions.add(1);
        self.call(id, now, |session, ctx| session.on_connected(ctx));
        self.rearm(id);
    }

    /// Runs one callback, then does what it asked for.
    fn call(
        &mut self,
        id: SessionId,
        now: Instant,
        callback: impl FnOnce(&mut S, &mut Context<'_>),
    ) {
        let (buffers, effects) = (&self.shared.buffers, &mut self.effects);
        let groups = &mut self.groups;
        let outcome = self.table.visit(id, |connection| {
            let mut ctx = Context::new(connection.peer(id), now, buffers, effects, groups);
            guarded(|| callback(&mut connection.session, &mut ctx))
        });
        self.apply_effects();
        if let Some(Err(reason)) = outcome {
            self.close_in_order(id, reason);
        }
    }

    // ---- effects ------------------------------------------------------------------------------

    /// Whether reading may go on: nothing that was asked for has to wait.
    fn may_read(&self) -> bool {
        self.stalled.is_empty() && self.deferred.is_empty()
    }

    /// Does what callbacks have asked for, in order, as far as the output of this turn goes. The
    /// rest waits for the next turn, and so does all reading. Timers are no output and never wait.
    fn apply_effects(&mut self) {
        while self.output_left > 0
            && let Some(effect) = self.deferred.pop_front()
        {
            self.apply(effect);
        }
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            let may_wait = !matches!(effect, Effect::Timer(..));
            if may_wait && (self.output_left <= 0 || !self.deferred.is_empty()) {
                self.deferred.push_back(effect);
            } else {
                self.apply(effect);
            }
        }
        // No callback ran above, so nothing was asked for meanwhile; the memory is used again.
        debug_assert!(self.effects.is_empty());
        self.effects = effects;
    }

    fn apply(&mut self, effect: Effect) {
        let workers = self.shared.router.workers();
        match effect {
            Effect::Send(to, buffer) if to.worker() == self.worker => self.queue_for(to, buffer),
            Effect::Send(to, buffer) if to.worker() < workers => {
                self.forward(to.worker(), Command::Send(to, buffer));
            }
            Effect::Send(..) => self.metrics().undeliverable.add(1),
            Effect::Broadcast(buffer) => {
                let own = self.worker;
                for worker in (0..workers).filter(|worker| *worker != own) {
                    self.forward(worker, Command::Broadcast(buffer.clone()));
                }
                self.queue_for_all(&buffer);
            }
            Effect::BroadcastTo(group, except, buffer) => {
                let (to, own) = (self.shared.router.groups().workers(group), self.worker);
                for worker in to.iter().filter(|worker| *worker != own) {
                    let command = Command::BroadcastTo(group, except, buffer.clone());
                    self.forward(worker, command);
                }
                self.queue_for_group(group, except, &buffer);
            }
            Effect::Close(id, reason) if id.worker() == self.worker => self.close(id, reason),
            Effect::Close(id, reason) if id.worker() < workers => {
                self.forward(id.worker(), Command::Close(id, reason));
            }
            Effect::Close(..) => {}
            Effect::Timer(id, at) => {
                self.table.visit(id, |connection| connection.set_timer(at));
                self.rearm(id);
            }
        }
    }

    /// Ends a session behind what it was sent so far.
    fn close(&mut self, id: SessionId, reason: DisconnectReason) {
        self.set_apart(id);
        self.table.close(id, reason);
    }

    /// Ends a session behind everything that was asked for before.
    fn close_in_order(&mut self, id: SessionId, reason: DisconnectReason) {
        match self.deferred.is_empty() {
            true => self.close(id, reason),
            false => {
                (self.table).visit(id, |connection| connection.is_leaving = true);
                self.deferred.push_back(Effect::Close(id, reason));
            }
        }
    }

    fn charge(&mut self, bytes: usize, sessions: usize) {
        let cost = bytes.max(MIN_PACKET_COST).saturating_mul(sessions);
        self.output_left = (self.output_left).saturating_sub_unsigned(cost);
    }

    fn queue_for(&mut self, to: SessionId, buffer: SendBuffer) {
        self.charge(buffer.len(), 1);
        self.set_apart(to);
        match self.table.visit(to, |connection| connection.queue(buffer)) {
            Some(true) => self.dirty.push(to),
            Some(false) => {}
            None => self.metrics().undeliverable.add(1),
        }
    }

    fn queue_for_all(&mut self, buffer: &SendBuffer) {
        self.charge(buffer.len(), self.table.len());
        if self.common.as_mut().is_some_and(|run| run.append(buffer)) {
            for index in 0..self.apart.len() {
                self.queue_if_open(self.apart[index], buffer);
            }
        } else {
            self.queue_common();
            self.common = Some(PacketRun::new(buffer.clone()));
        }
    }

    fn queue_for_group(&mut self, group: GroupId, except: Option<SessionId>, buffer: &SendBuffer) {
        let members = self.groups.members(group).len();
        self.charge(buffer.len(), members);
        for index in 0..members {
            let id = self.groups.members(group)[index];
            if Some(id) != except {
                self.set_apart(id);
                self.queue_if_open(id, buffer);
            }
        }
    }

    /// Who is on the way out is not shown, and who has not come yet gets nothing.
    fn queue_if_open(&mut self, id: SessionId, buffer: &SendBuffer) {
        let is_new = self.table.visit(id, |connection| {
            connection.is_open() && connection.queue(buffer.clone())
        });
        if is_new == Some(true) {
            self.dirty.push(id);
        }
    }

    /// What everybody gets comes before what follows for this session alone.
    fn set_apart(&mut self, id: SessionId) {
        let Some(run) = &self.common else {
            return;
        };
        let (apart, dirty) = (&mut self.apart, &mut self.dirty);
        self.table.visit(id, |connection| {
            if connection.is_open() && !std::mem::replace(&mut connection.is_apart, true) {
                apart.push(id);
                if connection.queue_run(run.clone()) {
                    dirty.push(id);
                }
            }
        });
    }

    /// What everybody gets comes before what follows for everybody and lies elsewhere.
    fn queue_common(&mut self) {
        let Some(run) = self.common.take() else {
            return;
        };
        let dirty = &mut self.dirty;
        self.table.visit_all(|id, connection| {
            let is_apart = std::mem::take(&mut connection.is_apart);
            if connection.is_open() && !is_apart && connection.queue_run(run.clone()) {
                dirty.push(id);
            }
        });
        self.apart.clear();
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
            // Input may have been announced before the connection was; no edge comes again.
            self.list_readable(id);
        }
    }

    fn list_readable(&mut self, id: SessionId) {
        let was_listed = self.table.visit(id, |connection| {
            !connection.is_open() || std::mem::replace(&mut connection.is_listed_readable, true)
        });
        if was_listed == Some(false) {
            self.readable.push_back(id);
        }
    }

    /// One turn for each session that has input, as far as the input of this turn goes. Who has more
    /// gets the next one behind the others.
    fn read_all(&mut self, now: Instant) {
        let mut left = self.shared.config.turn_input_bytes;
        for _ in 0..self.readable.len() {
            if !self.may_read() || left == 0 {
                break;
            }
            if let Some(id) = self.readable.pop_front()
                && self.may_receive(id, now)
            {
                left = left.saturating_sub(self.read(id, now));
            }
        }
    }

    /// Who is behind with what it asked for asks no more for a while.
    fn may_receive(&mut self, id: SessionId, now: Instant) -> bool {
        let (timeouts, config) = (&mut self.timeouts, &self.shared.config);
        let may_receive = self.table.visit(id, |connection| {
            let may_receive = connection.may_receive(config, now);
            if !may_receive {
                connection.is_listed_readable = false;
                if let Some(at) = connection.next_deadline(config) {
                    timeouts.arm(id, &mut connection.alarm, at);
                }
            }
            may_receive
        });
        may_receive == Some(true)
    }

    /// Reads from one session, and returns what that costs of the turn's input.
    fn read(&mut self, id: SessionId, now: Instant) -> usize {
        let (shared, buffer) = (&*self.shared, &mut self.recv_buffer);
        let (effects, groups) = (&mut self.effects, &mut self.groups);
        let received = self.table.visit(id, |connection| {
            connection.is_listed_readable = false;
            let peer = connection.peer(id);
            connection.receive(buffer, &shared.config, now, |session, packet| {
                let asked_before = effects.len();
                let mut ctx = Context::new(peer, now, &shared.buffers, effects, groups);
                guarded(|| session.on_packet(&mut ctx, packet))??;
                // Who has closed its own session does not want what stands behind this packet.
                match effects[asked_before..]
                    .iter()
                    .find_map(|asked| asked.end_of(id))
                {
                    Some(reason) => Err(reason),
                    None => Ok(()),
                }
            })
        });
        let Some(Received {
            bytes,
            packets,
            outcome,
        }) = received
        else {
            return 0;
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
            Err(reason) => self.close_in_order(id, reason),
        }
        bytes.max(packets.saturating_mul(MIN_PACKET_COST))
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
            // Its own timer must not wait for that.
            let at = connection.timer_at().map_or(at, |timer| timer.min(at));
            timeouts.rearm(id, &mut connection.alarm, at);
        });
    }

    fn look_at_deadlines(&mut self, now: Instant) {
        if self.departure_summary_at.is_some_and(|at| at <= now) {
            self.departure_summary_at = self.shared.departures.flush(now);
        }
        // A deadline that is long past says that this process did not run meanwhile.
        let late = (self.timeouts.next_at())
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if late > STALL && self.lenient_until.is_none_or(|at| at <= now) {
            self.lenient_until = Some(now + late);
        }
        // Collected first: a timer that is set to "now" again comes up in the next turn.
        let due: Vec<SessionId> = std::iter::from_fn(|| self.timeouts.pop_due(now)).collect();
        // Those who began together are due together, and may all have sent by now.
        let mut left = self.shared.config.turn_input_bytes;
        for id in due {
            if let Some(draining) = self.draining.get_mut(&id) {
                draining.alarm.rang();
                self.advance_draining(id, now);
                continue;
            }
            self.table.visit(id, |connection| connection.alarm.rang());
            match left {
                0 => self.look_again_at(id, now),
                _ => left = left.saturating_sub(self.look_at(id, now)),
            }
        }
    }

    /// Nobody is kicked for time before a last look: this process may have been stopped or busy,
    /// and what the peer owes us may lie in its socket. Returns what it costs of the turn's input.
    fn look_at(&mut self, id: SessionId, now: Instant) -> usize {
        if (self.table).visit(id, |connection| connection.is_leaving) != Some(false) {
            return 0;
        }
        let is_timer_due = self
            .table
            .visit(id, |connection| connection.take_timer(now));
        if is_timer_due == Some(true) {
            self.call(id, now, |session, ctx| session.on_timer(ctx));
        }
        let config = &self.shared.config;
        let resumes = (self.table).visit(id, |connection| connection.resume(config, now));
        if resumes == Some(true) {
            self.list_readable(id);
        }
        match self.due(id, now) {
            Due::Nothing => self.rearm(id),
            Due::Over(reason) => self.close(id, reason),
            Due::Input(_) if !self.may_read() => self.look_again_at(id, now + RETRY),
            Due::Input(_) => {
                let cost = self.read(id, now);
                let has_more = self
                    .table
                    .visit(id, |connection| connection.is_listed_readable);
                match self.due(id, now) {
                    Due::Input(_) if has_more == Some(true) => self.look_again_at(id, now + RETRY),
                    Due::Input(reason) => self.close_in_order(id, reason),
                    _ => self.rearm(id),
                }
                return cost;
            }
            Due::Output(_) => {
                self.table.visit(id, Connection::assume_writable);
                let mut flushed = Flushed::default();
                self.flush(id, now, &mut flushed);
                self.count(&flushed);
                // On the list again: the peer takes, only the budget was used up.
                let has_more = self.table.visit(id, |connection| connection.is_dirty);
                match (self.due(id, now), self.lenient_until) {
                    (Due::Output(_), _) if has_more == Some(true) => {
                        self.look_again_at(id, now + RETRY);
                    }
                    // While we did not run, nobody could take anything: who has an old byte
                    // waiting gets as much time as we took.
                    (Due::Output(_), Some(at)) if now < at => self.look_again_at(id, at),
                    (Due::Output(reason), _) => self.close(id, reason),
                    _ => self.rearm(id),
                }
            }
        }
        0
    }

    /// What the time has brought for one session. Its own timer is another matter.
    fn due(&mut self, id: SessionId, now: Instant) -> Due {
        let config = &self.shared.config;
        self.table
            .visit(id, |connection| connection.due(config, now))
            .unwrap_or(Due::Nothing)
    }

    // ---- flushing -----------------------------------------------------------------------------

    fn flush_all(&mut self, now: Instant) {
        let mut total = Flushed::default();
        self.send_common(&mut total);
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            self.flush(id, now, &mut total);
        }
        // A flush calls nobody, so nothing became dirty meanwhile; the memory is used again.
        debug_assert!(
            self.dirty.is_empty(),
            "somebody was called, and so perhaps removed, while a list was walked"
        );
        self.dirty = dirty;
        self.count(&total);
    }

    /// Writes what everybody gets to those who have nothing before it. The others are flushed.
    fn send_common(&mut self, total: &mut Flushed) {
        let Some(run) = self.common.take() else {
            return;
        };
        let (config, dirty) = (&self.shared.config, &mut self.dirty);
        let mut broken = Vec::new();
        self.table.visit_all(|id, connection| {
            if std::mem::take(&mut connection.is_apart) || !connection.is_open() {
                return;
            }
            match connection.send_common(&run, config, total) {
                Ok(true) => dirty.push(id),
                Ok(false) => {}
                Err(reason) => broken.push((id, reason)),
            }
        });
        self.apart.clear();
        for (id, reason) in broken {
            self.table.close(id, reason);
        }
    }

    fn flush(&mut self, id: SessionId, now: Instant, total: &mut Flushed) {
        let config = &self.shared.config;
        let (timeouts, dirty_next) = (&mut self.timeouts, &mut self.dirty_next);
        let readable = &mut self.readable;
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
            if connection.resume(config, now)
                && !std::mem::replace(&mut connection.is_listed_readable, true)
            {
                readable.push_back(id);
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
        let summary_at = shared.departures.note(Some(id), peer.addr, reason, now);
        let ends = [self.departure_summary_at, summary_at];
        self.departure_summary_at = ends.into_iter().flatten().min();

        let told = was_open && reason.flushes();
        let last_packet = match told {
            true => guarded(|| (shared.farewell)(reason, &shared.buffers)).unwrap_or(None),
            false => None,
        };
        let flush_by = self
            .shutdown_by
            .unwrap_or(now + shared.config.flush_timeout);
        let (mut session, mut draining) = connection.into_draining(reason, last_packet, flush_by);

        let (effects, groups) = (&mut self.effects, &mut self.groups);
        let mut ctx = Context::new(peer, now, &shared.buffers, effects, groups);
        // Should it panic, or its destructor, the session is gone all the same.
        let _ = guarded(|| session.on_disconnected(&mut ctx, reason));
        let _ = guarded(|| drop(session));
        // Only now, so that it could say which they were; what it joined just then, included.
        self.groups.leave_all(id);
        self.apply_effects();

        match reason.flushes() {
            true => self.drain(id, draining, now),
            false => self.count(&draining.abandon()),
        }
    }

    /// One turn for each that has left and sends on, as far as the input of this turn goes: those who
    /// are thrown out are as many as they like, and are owed no more of it than the sessions.
    fn discard(&mut self, now: Instant) {
        self.discard_left = self.shared.config.turn_input_bytes;
        for _ in 0..self.draining_next.len() {
            if self.discard_left == 0 {
                break;
            }
            if let Some(id) = self.draining_next.pop_front() {
                if let Some(draining) = self.draining.get_mut(&id) {
                    draining.is_listed = false;
                }
                self.advance_draining(id, now);
            }
        }
    }

    fn advance_draining(&mut self, id: SessionId, now: Instant) {
        if let Some(draining) = self.draining.remove(&id) {
            self.drain(id, draining, now);
        }
    }

    fn drain(&mut self, id: SessionId, mut draining: Draining<T>, now: Instant) {
        let config = &self.shared.config;
        let budget_bytes = self.discard_left.min(config.read_budget_bytes);
        let Drained {
            flushed,
            discarded_bytes,
            progress,
        } = draining.advance(&mut self.recv_buffer, budget_bytes, config, now);
        let cost = discarded_bytes.max(MIN_PACKET_COST);
        self.discard_left = self.discard_left.saturating_sub(cost);
        self.count(&flushed);
        self.metrics().bytes_received.add(discarded_bytes as u64);
        if progress == Progress::Done {
            self.timeouts.disarm(id, &mut draining.alarm);
            return;
        }
        if let Some(flush_by) = self.shutdown_by {
            draining.hurry(flush_by + self.shared.config.linger);
        }
        let deadline = draining.deadline();
        self.timeouts.arm(id, &mut draining.alarm, deadline);
        if progress == Progress::Again && !std::mem::replace(&mut draining.is_listed, true) {
            self.draining_next.push_back(id);
        }
        self.draining.insert(id, draining);
    }

    fn begin_shutdown(&mut self, flush_by: Instant) {
        if self.shutdown_by.is_some() {
            return;
        }
        self.shutdown_by = Some(flush_by);
        self.queue_common();
        self.table.close_all(DisconnectReason::Shutdown);
        for (id, draining) in &mut self.draining {
            draining.hurry(flush_by);
            self.timeouts.arm(*id, &mut draining.alarm, flush_by);
        }
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
    use crate::admission::Admission;
    use crate::mailbox::Mailbox;
    use crate::packet::Packet;
    use crate::reason::Kick;
    use crate::send_buffer::ChunkPool;
    use std::io::{Read, Write};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A peer that never stops sending, and takes whatever it is given.
    struct Flood {
        read_bytes: Arc<AtomicUsize>,
        /// Before that it sends this much, a byte at a time.
        hesitates: Option<u8>,
    }

    impl Read for Flood {
        fn read(&mut self, memory: &mut [u8]) -> io::Result<usize> {
            match &mut self.hesitates {
                Some(0) => {
                    self.hesitates = None;
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Some(bytes) => {
                    *bytes -= 1;
                    return Ok(1);
                }
                None => {}
            }
            self.read_bytes.fetch_add(memory.len(), Ordering::Relaxed);
            Ok(memory.len())
        }
    }

    impl Write for Flood {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Transport for Flood {
        fn shutdown_write(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn poll_connected(&mut self) -> io::Result<bool> {
            Ok(true)
        }
    }

    struct Nobody;

    impl Session for Nobody {
        fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
            Ok(())
        }
    }

    fn shard(config: &Config) -> Shard<Flood, Nobody> {
        let pool = ChunkPool::new(config.chunk_bytes, config.pooled_chunks);
        let mailbox = Mailbox::new(config.mailbox_bytes, || {});
        Shard::new(
            0,
            Arc::new(Shared {
                config: config.clone(),
                router: Arc::new(Router::new([mailbox])),
                buffers: SendBufferManager::new(pool),
                metrics: Arc::new(Metrics::new(1)),
                departures: DepartureLog::default(),
                factory: Box::new(|_| Nobody),
                farewell: Arc::new(|_, _| None),
            }),
        )
    }

    /// A thousand such peers, who all send into the same counter.
    fn thousand(
        shard: &mut Shard<Flood, Nobody>,
        hesitates: Option<u8>,
        now: Instant,
    ) -> (Vec<SessionId>, Arc<AtomicUsize>, Arc<Admission>) {
        let admission = Arc::new(Admission::new(1, None, None));
        let read_bytes = Arc::new(AtomicUsize::new(0));
        let mut ids = Vec::new();
        for port in 0..1000 {
            let arrival = Arrival {
                stream: Flood {
                    read_bytes: Arc::clone(&read_bytes),
                    hesitates,
                },
                permit: admission.admit(([127, 0, 0, 1], port).into()).unwrap(),
                tag: None,
                is_connecting: false,
            };
            shard.handle_command(Command::Adopt(arrival), now, |_, id| {
                ids.push(id);
                Ok(())
            });
        }
        (ids, read_bytes, admission)
    }

    /// A thousand whose time for a packet is up in the same moment get a last look each, and no tick
    /// waits for what all of them have sent by then.
    #[test]
    fn last_looks_are_within_the_input_of_a_turn() {
        let config = Config::default();
        let (mut shard, mut now) = (shard(&config), Instant::now());
        let (ids, read_bytes, admission) = thousand(&mut shard, Some(1), now);
        for id in &ids {
            shard.handle_readiness(*id, true, false, now);
        }
        shard.run(now);
        assert_eq!(
            (shard.sessions(), read_bytes.load(Ordering::Relaxed)),
            (1000, 0)
        );
        now += config.packet_timeout.unwrap();
        let (mut most_bytes, mut turns) = (0, 0);
        while shard.sessions() > 0 {
            let before = read_bytes.load(Ordering::Relaxed);
            assert!(shard.next_deadline().is_some_and(|at| at <= now));
            shard.run(now);
            most_bytes = most_bytes.max(read_bytes.load(Ordering::Relaxed) - before);
            turns += 1;
            assert!(turns < 1000, "{} are left", shard.sessions());
        }
        // As much again may come from those who have just been thrown out.
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
        let (ids, read_bytes, admission) = thousand(&mut shard, None, now);
        for id in &ids {
            let close = Command::Close(*id, DisconnectReason::Closed);
            shard.handle_command(close, now, |_, _| Ok(()));
        }
        let mut most_bytes = 0;
        for turn in 0..100 {
            let before = read_bytes.load(Ordering::Relaxed);
            for id in &ids {
                shard.handle_readiness(*id, true, turn % 2 == 0, now);
            }
            shard.run(now);
            assert!(shard.has_work(), "there is more to throw away");
            most_bytes = most_bytes.max(read_bytes.load(Ordering::Relaxed) - before);
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

    /// Whether one session ends or all of them do: what everybody was sent before comes before that.
    #[test]
    fn what_was_sent_to_all_before_an_end_still_goes_out() {
        let ends: [fn(SessionId, Instant) -> Command<Flood>; 2] = [
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
            // One call each: nobody was behind.
            assert_eq!(totals.write_calls, 1000);
        }
    }
}
