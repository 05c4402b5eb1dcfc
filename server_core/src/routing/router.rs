//! Who is on which thread, and how a message gets there.

use crate::base::id::SessionId;
use crate::base::reason::DisconnectReason;
use crate::base::snapshot::SnapshotRequest;
use crate::buffer::SendBuffer;
use crate::connection::admission::Permit;
use crate::groups::id::GroupId;
use crate::groups::index::{GroupIndex, Subscription};
use crate::routing::completion_timer::Share;
use crate::routing::mailbox::{Mailbox, MailboxFull};
use crate::routing::outbox;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// The mailboxes of all workers. A broadcast is one command per worker, not one per session; to a
/// group, one per worker that has members.
#[derive(Debug)]
pub struct Router<T> {
    mailboxes: Box<[Mailbox<Command<T>>]>,
    groups: Arc<GroupIndex>,
    /// Workers with a session that paces.
    congested_workers: AtomicUsize,
    /// Set with the shutdown commands: who is still busy with earlier mail when it passes, leaves
    /// that mail be.
    shutdown_by: OnceLock<Instant>,
}

/// What a worker can be told from another thread.
#[derive(Debug)]
pub enum Command<T> {
    /// A new connection is yours.
    Adopt(NewConnection<T>),
    /// Queue a packet for one of your sessions.
    Send(SessionId, SendBuffer),
    /// Queue a packet for all of your sessions.
    Broadcast(SendBuffer),
    /// As `Broadcast`, and say when the turn has ended in which that was done.
    TimedBroadcast(SendBuffer, Share),
    /// Queue a packet for your members of a group, except perhaps one.
    BroadcastTo(GroupId, Option<SessionId>, SendBuffer),
    /// Make one of your sessions a member of the group that the subscription is on.
    Join(SessionId, Subscription),
    /// Take one of your sessions out of a group.
    Leave(SessionId, GroupId),
    /// Say at the end of the turn how your sessions are doing.
    Snapshot(SnapshotRequest),
    /// End one of your sessions.
    Close(SessionId, DisconnectReason),
    /// End all of them, flushed by then if they can be, and stop.
    Shutdown(Instant),
}

/// A connection on its way to its worker.
#[derive(Debug)]
pub struct NewConnection<T> {
    /// Its socket.
    pub stream: T,
    /// Its place.
    pub permit: Permit,
    /// For an outgoing connection, its maker's number.
    pub tag: Option<u64>,
    /// For an outgoing connection: it may not stand yet.
    pub is_connecting: bool,
}

/// A worker may fill this part of another one's mailbox.
const FORWARD_SHARE: usize = 16;
/// Charged for every command besides the bytes that it carries.
const COMMAND_BYTES: usize = 64;
/// Charged for a connection that a worker has to take over: it costs as much time as this many bytes.
const ADOPT_BYTES: usize = 4 << 10;

impl<T: Send + 'static> Router<T> {
    /// A router over the workers' mailboxes, in the order of the workers.
    #[must_use]
    pub fn new(mailboxes: impl IntoIterator<Item = Mailbox<Command<T>>>) -> Self {
        Self {
            mailboxes: mailboxes.into_iter().collect(),
            groups: Arc::default(),
            congested_workers: AtomicUsize::new(0),
            shutdown_by: OnceLock::new(),
        }
    }

    /// By when a shutdown that has begun has to be flushed.
    #[must_use]
    pub fn shutdown_by(&self) -> Option<Instant> {
        self.shutdown_by.get().copied()
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.mailboxes.len()
    }

    /// One worker's mailbox.
    ///
    /// # Panics
    /// If there is no such worker.
    #[must_use]
    pub fn mailbox(&self, worker: usize) -> &Mailbox<Command<T>> {
        &self.mailboxes[worker]
    }

    /// Whether every worker has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.mailboxes.iter().all(Mailbox::is_closed)
    }

    /// Which workers have members of which group.
    #[must_use]
    pub fn groups(&self) -> &Arc<GroupIndex> {
        &self.groups
    }

    /// Says that the calling thread is a worker: it never waits for a mailbox, of whichever server. What
    /// finds no room there waits in the thread's [`outbox`](crate::routing::outbox).
    pub fn enter_worker_thread(&self) {
        outbox::open();
    }

    /// A worker has a session that paces.
    pub fn congest(&self) {
        self.congested_workers.fetch_add(1, Ordering::Relaxed);
    }

    /// A worker has no session that paces any more.
    pub fn relieve(&self) {
        self.congested_workers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a session that keeps up is so far behind that packets to others have to be paced.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.congested_workers.load(Ordering::Relaxed) > 0
    }

    /// A packet for every session, from any thread. Waits while a worker's mailbox is full; on the thread
    /// of a worker the packet waits in the [`outbox`](crate::routing::outbox), and the worker reads nothing meanwhile.
    pub fn broadcast(self: &Arc<Self>, buffer: &SendBuffer) {
        for worker in 0..self.workers() {
            self.post(worker, Command::Broadcast(buffer.clone()));
        }
    }

    /// As [`broadcast`](Self::broadcast), with a lap of a stopwatch for each worker, as far as there
    /// are any.
    pub fn broadcast_timed(
        self: &Arc<Self>,
        buffer: &SendBuffer,
        mut shares: impl Iterator<Item = Share>,
    ) {
        for worker in 0..self.workers() {
            let buffer = buffer.clone();
            self.post(
                worker,
                match shares.next() {
                    Some(share) => Command::TimedBroadcast(buffer, share),
                    None => Command::Broadcast(buffer),
                },
            );
        }
    }

    /// A packet for every member of a group, except perhaps one, from any thread. Only workers that
    /// have members hear of it. Waits as [`broadcast`](Self::broadcast) does.
    pub fn broadcast_to(
        self: &Arc<Self>,
        group: GroupId,
        except: Option<SessionId>,
        buffer: &SendBuffer,
    ) {
        for worker in self.groups.workers(group).iter() {
            self.post(worker, Command::BroadcastTo(group, except, buffer.clone()));
        }
    }

    /// As [`broadcast`](Self::broadcast), without waiting.
    ///
    /// # Errors
    /// [`MailboxFull`] if one worker has no room; then no worker was sent the packet.
    pub fn try_broadcast(&self, buffer: &SendBuffer) -> Result<(), MailboxFull> {
        self.try_post_all(0..self.workers(), || Command::Broadcast(buffer.clone()))
    }

    /// As [`broadcast_to`](Self::broadcast_to), without waiting.
    ///
    /// # Errors
    /// As [`try_broadcast`](Self::try_broadcast), of the workers that have members.
    pub fn try_broadcast_to(
        &self,
        group: GroupId,
        except: Option<SessionId>,
        buffer: &SendBuffer,
    ) -> Result<(), MailboxFull> {
        self.try_post_all(self.groups.workers(group).iter(), || {
            Command::BroadcastTo(group, except, buffer.clone())
        })
    }

    /// As [`send`](Self::send), without waiting.
    ///
    /// # Errors
    /// [`MailboxFull`] with the packet.
    pub fn try_send(
        &self,
        to: SessionId,
        buffer: SendBuffer,
    ) -> Result<(), MailboxFull<SendBuffer>> {
        if to.worker() >= self.workers() {
            return Ok(());
        }
        self.try_post_all(std::iter::once(to.worker()), || {
            Command::Send(to, buffer.clone())
        })
        .map_err(|MailboxFull(())| MailboxFull(buffer))
    }

    /// Makes a session a member of a group, from any thread. Waits as
    /// [`broadcast`](Self::broadcast) does.
    pub fn join(self: &Arc<Self>, id: SessionId, group: GroupId) {
        if id.worker() < self.workers() {
            // Claimed now: what is sent to the group from now on goes there, too, behind this.
            let subscription = self.groups.subscribe(group, id.worker());
            self.post(id.worker(), Command::Join(id, subscription));
        }
    }

    /// Takes a session out of a group, from any thread. Waits as [`broadcast`](Self::broadcast)
    /// does.
    pub fn leave(self: &Arc<Self>, id: SessionId, group: GroupId) {
        if id.worker() < self.workers() {
            self.post(id.worker(), Command::Leave(id, group));
        }
    }

    /// Asks each worker about its sessions. Never waits: whoever made the requests bounds them.
    pub fn request_snapshot(&self, requests: impl IntoIterator<Item = SnapshotRequest>) {
        for (mailbox, request) in self.mailboxes.iter().zip(requests) {
            mailbox.post(Command::Snapshot(request), COMMAND_BYTES);
        }
    }

    /// A packet for one session, from any thread. Waits as [`broadcast`](Self::broadcast) does.
    pub fn send(self: &Arc<Self>, to: SessionId, buffer: SendBuffer) {
        if to.worker() < self.workers() {
            self.post(to.worker(), Command::Send(to, buffer));
        }
    }

    /// Ends one session, from any thread. Waits as [`broadcast`](Self::broadcast) does.
    pub fn close(self: &Arc<Self>, id: SessionId, reason: DisconnectReason) {
        if id.worker() < self.workers() {
            self.post(id.worker(), Command::Close(id, reason));
        }
    }

    /// Whether every worker has room for more connections. A worker that is behind with taking them over
    /// would take a tick late that is posted behind them.
    #[must_use]
    pub fn has_room_for_connections(&self) -> bool {
        let has_room =
            |mailbox: &Mailbox<_>| mailbox.queued_bytes() <= mailbox.limit_bytes() / FORWARD_SHARE;
        self.mailboxes.iter().all(has_room)
    }

    /// Hands a connection over to the worker that its permit names. Never waits: permits bound
    /// how many there can be. After `true` the worker makes a session of the connection, also if it
    /// is about to end; after `false` it has ended, and the connection is closed.
    pub fn adopt(&self, arrival: NewConnection<T>) -> bool {
        let mailbox = &self.mailboxes[arrival.permit.worker()];
        let posted = mailbox.post_if_open(Command::Adopt(arrival), ADOPT_BYTES);
        posted.is_ok()
    }

    /// Ends everything. Never waits.
    pub fn shutdown(&self, flush_by: Instant) {
        // The first one counts.
        let _ = self.shutdown_by.set(flush_by);
        for mailbox in &self.mailboxes {
            mailbox.post(Command::Shutdown(flush_by), COMMAND_BYTES);
        }
    }

    /// From one worker to another: gives the command back if it would have to wait.
    ///
    /// Workers share a small part of each mailbox: what a flood of theirs puts in front of a tick
    /// is bounded by that, and there is always room for a tick.
    ///
    /// # Errors
    /// The command.
    pub fn forward(&self, worker: usize, command: Command<T>) -> Result<(), Command<T>> {
        let bytes = command.bytes();
        let mailbox = &self.mailboxes[worker];
        mailbox.try_post(command, bytes, mailbox.limit_bytes() / FORWARD_SHARE)
    }

    /// Room in all mailboxes first, then the commands: a refused one has reached no worker.
    fn try_post_all(
        &self,
        workers: impl Iterator<Item = usize> + Clone,
        command: impl Fn() -> Command<T>,
    ) -> Result<(), MailboxFull> {
        if !outbox::is_empty() {
            // It would overtake what this thread has posted before.
            return Err(MailboxFull(()));
        }
        let bytes = command().bytes();
        for (reserved, worker) in workers.clone().enumerate() {
            let mailbox = &self.mailboxes[worker];
            if !mailbox.try_reserve(bytes, self.try_limit_bytes(mailbox)) {
                for worker in workers.take(reserved) {
                    self.mailboxes[worker].release(bytes);
                }
                return Err(MailboxFull(()));
            }
        }
        for worker in workers {
            self.mailboxes[worker].post_reserved(command(), bytes);
        }
        Ok(())
    }

    /// What a thread that does not wait may fill of a mailbox: a worker as much as it may
    /// [forward](Self::forward).
    fn try_limit_bytes(&self, mailbox: &Mailbox<Command<T>>) -> usize {
        if outbox::is_open() {
            mailbox.limit_bytes() / FORWARD_SHARE
        } else {
            mailbox.limit_bytes()
        }
    }

    /// Posts from any thread. A thread of the game waits while the mailbox is full; a worker never does.
    fn post(self: &Arc<Self>, worker: usize, command: Command<T>) {
        if !outbox::is_open() {
            let bytes = command.bytes();
            self.mailboxes[worker].post_or_wait(command, bytes);
            return;
        }
        let mut command = Some(command);
        if outbox::is_empty() && !self.is_congested() {
            command = (command.take()).and_then(|command| self.forward(worker, command).err());
        }
        if command.is_some() {
            let router = Arc::clone(self);
            outbox::push(Box::new(move |may_fan_out| {
                let Some(next) = command.take() else {
                    return true;
                };
                let bytes = next.fan_out_bytes();
                if bytes > 0 && router.is_congested() && !may_fan_out(bytes) {
                    command = Some(next);
                } else {
                    command = router.forward(worker, next).err();
                }
                command.is_none()
            }));
        }
    }

    /// Wakes worker `to_wake` when worker `full` has room again.
    pub fn wake_when_room(self: &Arc<Self>, full: usize, to_wake: usize) {
        let router = Arc::clone(self);
        self.mailboxes[full].call_when_room(Box::new(move || router.mailboxes[to_wake].wake()));
    }
}

impl<T> Command<T> {
    fn fan_out_bytes(&self) -> usize {
        match self {
            Self::Send(_, buffer)
            | Self::Broadcast(buffer)
            | Self::TimedBroadcast(buffer, _)
            | Self::BroadcastTo(_, _, buffer) => buffer.len(),
            _ => 0,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Send(_, buffer)
            | Self::Broadcast(buffer)
            | Self::TimedBroadcast(buffer, _)
            | Self::BroadcastTo(_, _, buffer) => COMMAND_BYTES + buffer.len(),
            Self::Adopt(_) => ADOPT_BYTES,
            Self::Join(..)
            | Self::Leave(..)
            | Self::Snapshot(_)
            | Self::Close(..)
            | Self::Shutdown(_) => COMMAND_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{ChunkPool, SendBufferManager};
    use std::sync::atomic::{AtomicUsize, Ordering};

    const ROOM: GroupId = GroupId::new(1, 7);

    /// A router over three workers' mailboxes, and how often each worker was woken.
    fn router() -> (Arc<Router<()>>, Arc<[AtomicUsize; 3]>) {
        let wakes: Arc<[AtomicUsize; 3]> = Arc::default();
        let mailboxes = (0..3).map(|worker| {
            let wakes = Arc::clone(&wakes);
            Mailbox::new(1 << 20, move || {
                wakes[worker].fetch_add(1, Ordering::Relaxed);
            })
        });
        (Arc::new(Router::new(mailboxes)), wakes)
    }

    fn take(router: &Router<()>, worker: usize) -> Vec<Command<()>> {
        let mut commands = Vec::new();
        router
            .mailbox(worker)
            .take_all(|command| commands.push(command));
        commands
    }

    #[test]
    fn a_group_wakes_the_workers_that_have_members_and_no_others() {
        let (router, wakes) = router();
        let buffers = SendBufferManager::new(ChunkPool::new(1024, 1));
        let packet = buffers.write(4, |free| {
            free.copy_from_slice(&[4, 0, 1, 0]);
            4
        });
        router.broadcast_to(ROOM, None, &packet);
        let subscriptions = [0, 2].map(|worker| router.groups().subscribe(ROOM, worker));
        let except = SessionId::new(1, 2, 0);
        router.broadcast_to(ROOM, Some(except), &packet);
        for (worker, times) in [(0, 1), (1, 0), (2, 1)] {
            assert_eq!(wakes[worker].load(Ordering::Relaxed), times);
            let commands = take(&router, worker);
            assert_eq!(commands.len(), times);
            assert!(commands.iter().all(|command| matches!(
                command,
                Command::BroadcastTo(ROOM, Some(id), buffer) if *id == except && **buffer == *packet
            )));
        }
        drop(subscriptions);
        router.broadcast_to(ROOM, None, &packet);
        assert!((0..3).all(|worker| take(&router, worker).is_empty()));
    }

    #[test]
    fn a_packet_that_one_worker_has_no_room_for_reaches_none() {
        let (router, wakes) = router();
        let buffers = SendBufferManager::new(ChunkPool::new(1024, 1));
        let packet = buffers.write(4, |_| 4);
        let (limit, bytes) = (1 << 20, COMMAND_BYTES + 4);
        assert!(router.mailbox(2).try_reserve(limit - bytes, limit));
        assert_eq!(router.try_broadcast(&packet), Ok(()));
        assert_eq!(router.try_broadcast(&packet), Err(MailboxFull(())));
        let to = [0, 1, 2].map(|worker| SessionId::new(1, worker, 0));
        let refused = router.try_send(to[2], packet.clone()).unwrap_err();
        assert_eq!(*refused.0, *packet);
        assert!(router.try_send(to[1], packet.clone()).is_ok());
        assert!((0..3).all(|worker| wakes[worker].load(Ordering::Relaxed) == 1));
        assert_eq!(
            [0, 1, 2].map(|worker| take(&router, worker).len()),
            [1, 2, 1]
        );
        let queued = [0, 1, 2].map(|worker| router.mailbox(worker).queued_bytes());
        assert_eq!(queued, [0, 0, limit - bytes], "room is given back");
        assert!(router.try_send(SessionId::new(1, 3, 0), packet).is_ok());
    }

    #[test]
    fn a_worker_that_tries_leaves_room_for_others() {
        let (router, _) = router();
        let buffers = SendBufferManager::new(ChunkPool::new(1024, 1));
        let packet = buffers.write(4, |_| 4);
        router.enter_worker_thread();
        let to = SessionId::new(1, 0, 0);
        while router.try_send(to, packet.clone()).is_ok() {}
        let share = (1 << 20) / FORWARD_SHARE;
        let queued = router.mailbox(0).queued_bytes();
        assert!(queued <= share && queued + COMMAND_BYTES + 4 > share);
    }

    #[test]
    fn a_join_on_its_way_already_draws_what_is_sent_behind_it() {
        let (router, _) = router();
        let buffers = SendBufferManager::new(ChunkPool::new(1024, 1));
        let packet = buffers.write(4, |_| 4);
        let id = SessionId::new(1, 1, 0);
        router.join(id, ROOM);
        router.broadcast_to(ROOM, None, &packet);
        // Of a worker that there is not: of nobody.
        router.join(SessionId::new(1, 3, 0), ROOM);
        router.leave(SessionId::new(1, 3, 0), ROOM);
        let commands = take(&router, 1);
        assert!(matches!(
            &commands[..],
            [Command::Join(joins, subscription), Command::BroadcastTo(ROOM, None, _)]
                if *joins == id && subscription.group() == ROOM
        ));
        // A command that nobody carries out gives its subscription back.
        drop(commands);
        assert!(router.groups().workers(ROOM).is_empty());
    }
}
