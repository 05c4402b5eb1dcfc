//! The mailboxes of all workers, and the targets of each packet.

use crate::base::id::SessionId;
use crate::base::reason::DisconnectReason;
use crate::base::snapshot::SnapshotRequest;
use crate::buffer::SendBuffer;
use crate::connection::admission::Permit;
use crate::groups::id::GroupId;
use crate::groups::index::{GroupIndex, Subscription, WorkerSet};
use crate::routing::accounts::{Accounts, LoginPolicy};
use crate::routing::completion_timer::Share;
use crate::routing::link::{Audience, Link, Origin, Scope, Target};
use crate::routing::mailbox::{Mailbox, MailboxFull};
use crate::routing::outbox;
use crate::session::LoginAnswer;
use crate::session::message::{Message, MessageBytes, MessageRoom};
use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// The mailboxes of all workers. A broadcast is one command per worker, not one per session; a packet
/// to a group is one command per worker that has members. [`targets`](Self::targets) is the only
/// function that chooses them: a handle and a callback's effect both use it.
#[derive(Debug)]
pub struct Router<T> {
    mailboxes: Box<[Mailbox<Command<T>>]>,
    groups: Arc<GroupIndex>,
    link: OnceLock<Box<dyn Link>>,
    accounts: Accounts,
    login_policy: LoginPolicy,
    /// Messages to the sessions of each worker.
    messages: Box<[MessageBytes]>,
    /// Workers with a session that paces.
    congested_workers: AtomicUsize,
    /// Set with the shutdown commands. A worker that is still busy with earlier mail at this instant
    /// does not take the rest of that mail.
    shutdown_by: OnceLock<Instant>,
}

/// A request of another thread to a worker.
#[derive(Debug)]
pub enum Command<T> {
    /// Make a session of a new connection.
    Adopt(NewConnection<T>),
    /// Queue a packet for one session of the worker.
    Send(SessionId, SendBuffer),
    /// Queue a packet for all sessions of the worker.
    Broadcast(SendBuffer),
    /// As `Broadcast`; the turn that does it ends the share.
    TimedBroadcast(SendBuffer, Share),
    /// Queue a packet for the worker's members of a group, except perhaps one.
    BroadcastTo(GroupId, Option<SessionId>, SendBuffer),
    /// Make a session of the worker a member of the group that the subscription is on.
    Join(SessionId, Subscription),
    /// Take a session of the worker out of a group.
    Leave(SessionId, GroupId),
    /// Answer with the state of the worker's sessions at the end of the turn.
    Snapshot(SnapshotRequest),
    /// Report members of groups: those that are there, and each change.
    #[cfg(feature = "cluster")]
    WatchMembers(Option<crate::groups::members::MemberWatch>),
    /// Call `on_login` of a session of the worker.
    #[cfg(feature = "cluster")]
    Login(SessionId, crate::session::LoginAnswer),
    /// Log a session of the worker in to this account.
    BeginLogin(SessionId, Box<str>),
    /// End a session of the worker.
    Close(SessionId, DisconnectReason),
    /// Admit a session of the worker.
    Admit(SessionId),
    /// Read a session of the worker again that has paused itself.
    ResumeReading(SessionId),
    /// Give a message to a session of the worker, or else to the session of this account, if it is one for an account.
    Message(
        SessionId,
        Box<dyn Any + Send>,
        MessageRoom,
        Option<Box<str>>,
    ),
    /// End a session of the worker, and tell its peer this text.
    CloseWith(SessionId, DisconnectReason, Box<str>),
    /// End all sessions of the worker, flushed by this instant if they can be, then the worker.
    Shutdown(Instant),
}

/// A connection that is handed over to its worker.
#[derive(Debug)]
pub struct NewConnection<T> {
    /// The socket.
    pub stream: T,
    /// The permit of the session.
    pub permit: Permit,
    /// The number that the caller of `connect` gave to an outgoing connection.
    pub tag: Option<u64>,
    /// An outgoing connection that the peer may not have accepted yet.
    pub is_connecting: bool,
}

/// A worker fills at most this part of another worker's mailbox.
const FORWARD_SHARE: usize = 16;
/// The messages that wait for the sessions of a worker fill at most this part of its mailbox.
const MESSAGE_SHARE: usize = 4;
/// The charge for a command, besides the bytes that it carries.
const COMMAND_BYTES: usize = 64;
/// The charge for a new connection: taking it over costs as much time as this many bytes.
const ADOPT_BYTES: usize = 4 << 10;

impl<T: Send + 'static> Router<T> {
    /// A router over the workers' mailboxes, in the order of the workers.
    #[must_use]
    pub fn new(mailboxes: impl IntoIterator<Item = Mailbox<Command<T>>>) -> Self {
        let mailboxes: Box<[_]> = mailboxes.into_iter().collect();
        Self {
            messages: mailboxes.iter().map(|_| MessageBytes::default()).collect(),
            mailboxes,
            groups: Arc::default(),
            link: OnceLock::new(),
            accounts: Accounts::default(),
            login_policy: LoginPolicy::default(),
            congested_workers: AtomicUsize::new(0),
            shutdown_by: OnceLock::new(),
        }
    }

    /// Sets which session of an account stays.
    #[must_use]
    pub fn with_login_policy(mut self, policy: LoginPolicy) -> Self {
        self.login_policy = policy;
        self
    }

    /// The instant by which a shutdown that has begun has to be flushed.
    #[must_use]
    pub fn shutdown_by(&self) -> Option<Instant> {
        self.shutdown_by.get().copied()
    }

    /// The number of workers.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.mailboxes.len()
    }

    /// One worker's mailbox.
    ///
    /// # Panics
    /// If `worker` is not below [`workers`](Self::workers).
    #[must_use]
    pub fn mailbox(&self, worker: usize) -> &Mailbox<Command<T>> {
        &self.mailboxes[worker]
    }

    /// Whether every worker has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.mailboxes.iter().all(Mailbox::is_closed)
    }

    /// The workers that have members of each group.
    #[must_use]
    pub fn groups(&self) -> &Arc<GroupIndex> {
        &self.groups
    }

    /// Makes the calling thread a worker: it never waits for a mailbox, of any server. A command that
    /// finds no room waits in the thread's [`outbox`](crate::routing::outbox).
    pub fn enter_worker_thread(&self) {
        outbox::open();
    }

    /// Counts a worker that has a session that paces.
    pub fn congest(&self) {
        self.congested_workers.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts out a worker that has no session that paces any more.
    pub fn relieve(&self) {
        self.congested_workers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a session that keeps up is so far behind that packets to others have to be paced.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.congested_workers.load(Ordering::Relaxed) > 0
    }

    /// Attaches the link to the other nodes. The first link counts: returns the logins of before, or `None` if it is
    /// not this one. All later logins come to the link.
    #[cfg(any(test, feature = "cluster", feature = "testing"))]
    pub fn attach_link(&self, link: Box<dyn Link>) -> Option<Vec<(SessionId, Arc<str>)>> {
        self.accounts.all_if(|| self.link.set(link).is_ok())
    }

    /// How far a packet goes. A packet that came from the link is on the other nodes already.
    #[must_use]
    pub fn scope(&self, audience: Audience, origin: Origin) -> Scope {
        match self.link.get() {
            Some(link) if origin == Origin::Node && link.spans(audience) => Scope::Cluster,
            _ => Scope::Local,
        }
    }

    /// The receivers of a packet: each worker that has sessions of this audience, then the link if the
    /// packet goes that far.
    pub fn targets(
        &self,
        audience: Audience,
        scope: Scope,
    ) -> impl Iterator<Item = Target> + Clone + use<T> {
        let workers = match audience {
            Audience::All => WorkerSet::first(self.workers()),
            Audience::Group(group) => self.groups.workers(group),
        };
        let link = (scope == Scope::Cluster).then_some(Target::Link);
        workers.iter().map(Target::Worker).chain(link)
    }

    /// Gives a packet to the link.
    pub fn publish(&self, audience: Audience, buffer: &SendBuffer) {
        if let Some(link) = self.link.get() {
            link.publish(audience, buffer);
        }
    }

    /// Sends a packet to every session, from any thread. A thread of the game waits while a worker's
    /// mailbox is full. On a worker's thread the packet waits in the [`outbox`](crate::routing::outbox),
    /// and the worker reads nothing meanwhile.
    pub fn broadcast(self: &Arc<Self>, buffer: &SendBuffer) {
        self.fan_out(Audience::All, None, Origin::Node, buffer);
    }

    /// As [`broadcast`](Self::broadcast), with a share of a timer for each worker, as long as there are
    /// shares. The packet is for sessions of this node alone.
    pub fn broadcast_timed(
        self: &Arc<Self>,
        buffer: &SendBuffer,
        mut shares: impl Iterator<Item = Share>,
    ) {
        for target in self.targets(Audience::All, Scope::Local) {
            if let Target::Worker(worker) = target {
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
    }

    /// Sends a packet to every member of a group, except perhaps one, from any thread. Only workers
    /// that have members get a command. Waits as [`broadcast`](Self::broadcast) does.
    pub fn broadcast_to(
        self: &Arc<Self>,
        group: GroupId,
        except: Option<SessionId>,
        buffer: &SendBuffer,
    ) {
        self.fan_out(Audience::Group(group), except, Origin::Node, buffer);
    }

    /// Delivers a packet that came from the link to the sessions of this node. Waits as
    /// [`broadcast`](Self::broadcast) does.
    #[cfg(any(test, feature = "testing"))]
    pub fn deliver(self: &Arc<Self>, audience: Audience, buffer: &SendBuffer) {
        self.fan_out(audience, None, Origin::Link, buffer);
    }

    /// As [`deliver`](Self::deliver), without waiting.
    ///
    /// # Errors
    /// As [`try_broadcast`](Self::try_broadcast).
    #[cfg(feature = "cluster")]
    pub fn try_deliver(&self, audience: Audience, buffer: &SendBuffer) -> Result<(), MailboxFull> {
        self.try_fan_out(audience, None, Origin::Link, buffer)
    }

    /// Begins the login of a session, on its worker, if the session is there. Waits as
    /// [`broadcast`](Self::broadcast) does.
    pub fn begin_login(self: &Arc<Self>, id: SessionId, account: Box<str>) {
        if id.worker() < self.workers() {
            self.post(id.worker(), Command::BeginLogin(id, account));
        }
    }

    /// Logs a session in, on its worker: on all nodes by the link, which answers later, and ends the old session; or on
    /// this node. Then the answer and the session that has to end are returned.
    pub fn login(&self, id: SessionId, account: &str) -> Option<(LoginAnswer, Option<SessionId>)> {
        loop {
            let link = self.link.get();
            if link.is_some_and(|link| link.login(id, account)) {
                return None;
            }
            // A link that is attached meanwhile gets the login.
            let is_alone = || self.link.get().is_some() == link.is_some();
            let done = (self.accounts).login(id, account, self.login_policy, is_alone);
            if done.is_some() {
                return done;
            }
        }
    }

    /// A session has ended: its account is free.
    pub fn end_session(&self, id: SessionId) {
        // Behind it, the link begins no login of the session.
        let link = self.link.get();
        if let Some(link) = link {
            link.end_session(id);
        }
        self.accounts.end(id);
        // A link that was attached meanwhile may have adopted the login.
        if link.is_none()
            && let Some(link) = self.link.get()
        {
            link.end_session(id);
        }
    }

    /// The accounts with a session on this node.
    #[must_use]
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Posts a command of the link to the worker of a session. Never waits: the link bounds its commands.
    #[cfg(feature = "cluster")]
    pub fn post_for(&self, id: SessionId, command: Command<T>) {
        if let Some(mailbox) = self.mailboxes.get(id.worker()) {
            mailbox.post(command, COMMAND_BYTES);
        }
    }

    /// Reports joins and leaves of all workers' sessions from now on, present members first. `None`: reports no more.
    #[cfg(feature = "cluster")]
    pub fn watch_members(&self, watch: Option<&crate::groups::members::MemberWatch>) {
        for mailbox in &self.mailboxes {
            mailbox.post(Command::WatchMembers(watch.cloned()), COMMAND_BYTES);
        }
    }

    fn fan_out(
        self: &Arc<Self>,
        audience: Audience,
        except: Option<SessionId>,
        origin: Origin,
        buffer: &SendBuffer,
    ) {
        for target in self.targets(audience, self.scope(audience, origin)) {
            match target {
                Target::Worker(worker) => {
                    self.post(worker, Command::fan_out(audience, except, buffer.clone()));
                }
                Target::Link => self.publish(audience, buffer),
            }
        }
    }

    /// As [`broadcast`](Self::broadcast), without waiting.
    ///
    /// # Errors
    /// [`MailboxFull`] if one worker has no room; then neither a worker nor the link gets the packet.
    pub fn try_broadcast(&self, buffer: &SendBuffer) -> Result<(), MailboxFull> {
        self.try_fan_out(Audience::All, None, Origin::Node, buffer)
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
        self.try_fan_out(Audience::Group(group), except, Origin::Node, buffer)
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
        self.try_send_from(Origin::Node, to, buffer)
    }

    /// As [`try_send`](Self::try_send), for a packet that came from the link.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send).
    #[cfg(feature = "cluster")]
    pub fn try_deliver_to(
        &self,
        to: SessionId,
        buffer: SendBuffer,
    ) -> Result<(), MailboxFull<SendBuffer>> {
        self.try_send_from(Origin::Link, to, buffer)
    }

    fn try_send_from(
        &self,
        origin: Origin,
        to: SessionId,
        buffer: SendBuffer,
    ) -> Result<(), MailboxFull<SendBuffer>> {
        let Some(mailbox) = self.mailboxes.get(to.worker()) else {
            return Ok(());
        };
        let command = Command::Send(to, buffer.clone());
        let bytes = command.bytes();
        // Past the outbox it would overtake what this thread has posted before.
        let is_posted = outbox::is_empty()
            && (mailbox.try_post(command, bytes, self.try_limit_bytes(mailbox, origin))).is_ok();
        is_posted.then_some(()).ok_or(MailboxFull(buffer))
    }

    /// Makes a session a member of a group, from any thread. Waits as
    /// [`broadcast`](Self::broadcast) does.
    pub fn join(self: &Arc<Self>, id: SessionId, group: GroupId) {
        if id.worker() < self.workers() {
            // Subscribed before the post: each later packet to the group goes to that worker as well,
            // behind this command.
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

    /// Asks each worker for the state of its sessions. Never waits: the caller bounds the requests.
    pub fn request_snapshot(&self, requests: impl IntoIterator<Item = SnapshotRequest>) {
        for (mailbox, request) in self.mailboxes.iter().zip(requests) {
            mailbox.post(Command::Snapshot(request), COMMAND_BYTES);
        }
    }

    /// Sends a packet to one session, from any thread. Waits as [`broadcast`](Self::broadcast) does.
    pub fn send(self: &Arc<Self>, to: SessionId, buffer: SendBuffer) {
        if to.worker() < self.workers() {
            self.post(to.worker(), Command::Send(to, buffer));
        }
    }

    /// Gives a message to one session, from any thread. Never waits.
    ///
    /// # Errors
    /// [`MailboxFull`] with the message, if too many bytes of messages wait for the sessions of that worker.
    pub fn post_message<M: Message>(
        &self,
        to: SessionId,
        message: M,
    ) -> Result<(), MailboxFull<M>> {
        self.post_message_for(to, message, None)
    }

    /// As [`post_message`](Self::post_message), to the session of an account. Returns whether the account has one. If
    /// that session ends first, the message goes to the next one.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message).
    pub fn post_to_account<M: Message>(
        &self,
        account: &str,
        message: M,
    ) -> Result<bool, MailboxFull<M>> {
        let Some(to) = self.accounts.session_of(account) else {
            return Ok(false);
        };
        self.post_message_for(to, message, Some(account.into()))?;
        Ok(true)
    }

    /// Posts a message that has its room to another session. Never waits.
    pub fn post_on(
        &self,
        to: SessionId,
        message: Box<dyn Any + Send>,
        room: MessageRoom,
        account: Option<Box<str>>,
    ) {
        if let Some(mailbox) = self.mailboxes.get(to.worker()) {
            mailbox.post(Command::Message(to, message, room, account), COMMAND_BYTES);
        }
    }

    fn post_message_for<M: Message>(
        &self,
        to: SessionId,
        message: M,
        account: Option<Box<str>>,
    ) -> Result<(), MailboxFull<M>> {
        let worker = to.worker();
        let Some((mailbox, waiting)) = self.mailboxes.get(worker).zip(self.messages.get(worker))
        else {
            return Ok(());
        };
        let bytes = message.bytes().saturating_add(COMMAND_BYTES);
        match waiting.reserve(bytes, mailbox.limit_bytes() / MESSAGE_SHARE) {
            // The room bounds the number of these commands. A closed mailbox drops the message.
            Some(room) => {
                self.post_on(to, Box::new(message), room, account);
                Ok(())
            }
            None => Err(MailboxFull(message)),
        }
    }

    /// Admits one session, from any thread. Waits as [`broadcast`](Self::broadcast) does.
    pub fn admit(self: &Arc<Self>, id: SessionId) {
        if id.worker() < self.workers() {
            self.post(id.worker(), Command::Admit(id));
        }
    }

    /// Reads one session again, from any thread. Waits as [`broadcast`](Self::broadcast) does.
    pub fn resume_reading(self: &Arc<Self>, id: SessionId) {
        if id.worker() < self.workers() {
            self.post(id.worker(), Command::ResumeReading(id));
        }
    }

    /// Ends one session, from any thread. Waits as [`broadcast`](Self::broadcast) does.
    pub fn close(self: &Arc<Self>, id: SessionId, reason: DisconnectReason) {
        if id.worker() < self.workers() {
            self.post(id.worker(), Command::Close(id, reason));
        }
    }

    /// As [`close`](Self::close), with a text for the peer.
    pub fn close_with(self: &Arc<Self>, id: SessionId, reason: DisconnectReason, text: Box<str>) {
        if id.worker() < self.workers() {
            self.post(id.worker(), Command::CloseWith(id, reason, text));
        }
    }

    /// Whether every worker has room for more connections. A worker that is behind with taking connections
    /// over would be late with a tick that is posted behind them.
    #[must_use]
    pub fn has_room_for_connections(&self) -> bool {
        let has_room =
            |mailbox: &Mailbox<_>| mailbox.queued_bytes() <= mailbox.limit_bytes() / FORWARD_SHARE;
        self.mailboxes.iter().all(has_room)
    }

    /// Hands a connection over to the worker that its permit names. Never waits: permits bound the number
    /// of connections. After `true` the worker makes a session of the connection, also a worker that is
    /// about to end. After `false` the worker has ended, and the connection is closed.
    pub fn adopt(&self, arrival: NewConnection<T>) -> bool {
        let mailbox = &self.mailboxes[arrival.permit.worker()];
        let posted = mailbox.post_if_open(Command::Adopt(arrival), ADOPT_BYTES);
        posted.is_ok()
    }

    /// Ends all sessions and workers. Never waits.
    pub fn shutdown(&self, flush_by: Instant) {
        // The first call counts.
        let _ = self.shutdown_by.set(flush_by);
        for mailbox in &self.mailboxes {
            mailbox.post(Command::Shutdown(flush_by), COMMAND_BYTES);
        }
    }

    /// Posts from one worker to another, or returns the command if it would have to wait.
    ///
    /// All workers share a sixteenth of each mailbox. This bounds the packets of workers in front of a
    /// tick, and leaves room for the tick.
    ///
    /// # Errors
    /// The command.
    pub fn forward(&self, worker: usize, command: Command<T>) -> Result<(), Command<T>> {
        let bytes = command.bytes();
        let mailbox = &self.mailboxes[worker];
        mailbox.try_post(command, bytes, mailbox.limit_bytes() / FORWARD_SHARE)
    }

    /// Reserves room in all mailboxes, then posts the commands: a refused packet has reached no target.
    fn try_fan_out(
        &self,
        audience: Audience,
        except: Option<SessionId>,
        origin: Origin,
        buffer: &SendBuffer,
    ) -> Result<(), MailboxFull> {
        if !outbox::is_empty() {
            // It would overtake what this thread has posted before.
            return Err(MailboxFull(()));
        }
        let targets = self.targets(audience, self.scope(audience, origin));
        let bytes = packet_bytes(buffer);
        for (reserved, target) in targets.clone().enumerate() {
            if let Target::Worker(worker) = target {
                let mailbox = &self.mailboxes[worker];
                if !mailbox.try_reserve(bytes, self.try_limit_bytes(mailbox, origin)) {
                    for target in targets.take(reserved) {
                        if let Target::Worker(worker) = target {
                            self.mailboxes[worker].release(bytes);
                        }
                    }
                    return Err(MailboxFull(()));
                }
            }
        }
        for target in targets {
            match target {
                Target::Worker(worker) => {
                    let command = Command::fan_out(audience, except, buffer.clone());
                    self.mailboxes[worker].post_reserved(command, bytes);
                }
                Target::Link => self.publish(audience, buffer),
            }
        }
        Ok(())
    }

    /// The part of a mailbox that a thread that does not wait may fill: for a worker and for the link, the part for
    /// [`forward`](Self::forward). Packets of other nodes leave room for the tick, too.
    fn try_limit_bytes(&self, mailbox: &Mailbox<Command<T>>, origin: Origin) -> usize {
        if outbox::is_open() || origin == Origin::Link {
            mailbox.limit_bytes() / FORWARD_SHARE
        } else {
            mailbox.limit_bytes()
        }
    }

    /// Posts from any thread. A thread of the game waits while the mailbox is full; a worker never waits.
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
    /// Queue a packet for the worker's sessions of this audience, except perhaps one.
    #[must_use]
    pub fn fan_out(audience: Audience, except: Option<SessionId>, buffer: SendBuffer) -> Self {
        match audience {
            Audience::All => Self::Broadcast(buffer),
            Audience::Group(group) => Self::BroadcastTo(group, except, buffer),
        }
    }

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
            | Self::BroadcastTo(_, _, buffer) => packet_bytes(buffer),
            Self::Adopt(_) => ADOPT_BYTES,
            Self::CloseWith(_, _, text) => COMMAND_BYTES + text.len(),
            Self::Join(..)
            | Self::Leave(..)
            | Self::Snapshot(_)
            | Self::Close(..)
            | Self::Admit(_)
            | Self::ResumeReading(_)
            | Self::Message(..)
            | Self::Shutdown(_) => COMMAND_BYTES,
            #[cfg(feature = "cluster")]
            Self::WatchMembers(_) | Self::Login(..) => COMMAND_BYTES,
            Self::BeginLogin(_, account) => COMMAND_BYTES + account.len(),
        }
    }
}

/// The charge for a command that carries a packet.
fn packet_bytes(buffer: &SendBuffer) -> usize {
    COMMAND_BYTES + buffer.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{ChunkPool, SendBufferManager};
    #[cfg(feature = "cluster")]
    use crate::testing::DEADLINE;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    #[cfg(feature = "cluster")]
    use std::sync::{Weak, mpsc};
    #[cfg(feature = "cluster")]
    use std::thread;

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

    #[cfg(feature = "cluster")]
    #[test]
    fn packets_of_other_nodes_leave_room_for_a_tick() {
        let (router, _) = router();
        let buffers = SendBufferManager::new(ChunkPool::new(1024, 1));
        let packet = buffers.write(4, |_| 4);
        let share = (1 << 20) / FORWARD_SHARE;
        let to = SessionId::new(1, 0, 0);
        while router.try_deliver(Audience::All, &packet).is_ok() {}
        assert!(router.try_deliver_to(to, packet.clone()).is_err());
        let queued = router.mailbox(0).queued_bytes();
        assert!(queued <= share && queued + COMMAND_BYTES + 4 > share);
        assert_eq!(router.try_broadcast(&packet), Ok(()), "the tick");
    }

    #[test]
    fn a_join_on_its_way_already_draws_what_is_sent_behind_it() {
        let (router, _) = router();
        let buffers = SendBufferManager::new(ChunkPool::new(1024, 1));
        let packet = buffers.write(4, |_| 4);
        let id = SessionId::new(1, 1, 0);
        router.join(id, ROOM);
        router.broadcast_to(ROOM, None, &packet);
        // Worker 3 does not exist.
        router.join(SessionId::new(1, 3, 0), ROOM);
        router.leave(SessionId::new(1, 3, 0), ROOM);
        let commands = take(&router, 1);
        assert!(matches!(
            &commands[..],
            [Command::Join(joins, subscription), Command::BroadcastTo(ROOM, None, _)]
                if *joins == id && subscription.group() == ROOM
        ));
        // A command that is not carried out gives its subscription back.
        drop(commands);
        assert!(router.groups().workers(ROOM).is_empty());
    }

    /// Another thread asks the accounts while the link takes a login.
    #[cfg(feature = "cluster")]
    #[derive(Debug)]
    struct AskingLink(Weak<Router<()>>);

    #[cfg(feature = "cluster")]
    impl Link for AskingLink {
        fn spans(&self, _: Audience) -> bool {
            false
        }

        fn publish(&self, _: Audience, _: &SendBuffer) {}

        fn login(&self, _: SessionId, _: &str) -> bool {
            let (router, (sender, is_done)) = (self.0.upgrade().unwrap(), mpsc::channel());
            thread::spawn(move || sender.send(router.accounts().session_of("ada")));
            assert_eq!(is_done.recv_timeout(DEADLINE), Ok(None));
            true
        }
    }

    /// A link that has been left drops code of a game with its last reference.
    #[cfg(feature = "cluster")]
    #[test]
    fn link_takes_a_login_outside_of_the_lock_of_the_accounts() {
        let (router, _) = router();
        router.attach_link(Box::new(AskingLink(Arc::downgrade(&router))));
        assert_eq!(router.login(SessionId::new(1, 0, 0), "ada"), None);
    }

    /// Takes packets to all, and packets to groups but one.
    #[derive(Debug, Default)]
    struct FakeLink(Mutex<Vec<(Audience, Vec<u8>)>>);

    impl Link for Arc<FakeLink> {
        fn spans(&self, audience: Audience) -> bool {
            audience != Audience::Group(ROOM)
        }

        fn publish(&self, audience: Audience, packet: &SendBuffer) {
            self.0.lock().unwrap().push((audience, packet.to_vec()));
        }
    }

    #[test]
    fn link_gets_packets_of_this_node_and_none_of_its_own() {
        let (router, _) = router();
        let link = Arc::new(FakeLink::default());
        router.attach_link(Box::new(Arc::clone(&link)));
        let buffers = SendBufferManager::new(ChunkPool::new(1024, 1));
        let world = GroupId::new(2, 7);
        let _subscriptions = [ROOM, world].map(|group| router.groups().subscribe(group, 1));
        let packet = |number: u8| {
            let packet = [5, 0, 1, 0, number];
            buffers.write(5, |free| {
                free.copy_from_slice(&packet);
                5
            })
        };
        router.broadcast(&packet(1));
        router.broadcast_to(world, None, &packet(2));
        router.broadcast_to(ROOM, None, &packet(3));
        router.broadcast_timed(&packet(4), std::iter::empty());
        assert_eq!(router.try_broadcast(&packet(5)), Ok(()));
        assert_eq!(router.try_broadcast_to(world, None, &packet(6)), Ok(()));
        assert_eq!(router.try_broadcast_to(ROOM, None, &packet(7)), Ok(()));
        router.deliver(Audience::All, &packet(8));
        router.deliver(Audience::Group(world), &packet(9));
        let limit = 1 << 20;
        let queued = router.mailbox(1).queued_bytes();
        assert!(router.mailbox(1).try_reserve(limit - queued, limit));
        assert_eq!(router.try_broadcast(&packet(10)), Err(MailboxFull(())));

        let published: Vec<_> = link.0.lock().unwrap().drain(..).collect();
        let published: Vec<_> = (published.iter().map(|(to, bytes)| (*to, bytes[4]))).collect();
        let (all, group) = (Audience::All, Audience::Group(world));
        assert_eq!(published, [(all, 1), (group, 2), (all, 5), (group, 6)]);
        let numbers = |worker| -> Vec<u8> {
            let commands = take(&router, worker).into_iter();
            let number = |command| match command {
                Command::Broadcast(buffer) | Command::BroadcastTo(_, None, buffer) => buffer[4],
                other => panic!("{other:?}"),
            };
            commands.map(number).collect()
        };
        assert_eq!(numbers(0), [1, 4, 5, 8]);
        assert_eq!(numbers(1), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }
}
