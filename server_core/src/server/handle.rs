//! The requests of other threads to a running server.

use crate::base::config::LONGEST_TIME;
use crate::base::id::SessionId;
use crate::base::metrics::Metrics;
use crate::base::reason::{DisconnectReason, Kick, close_text, cut};
use crate::base::snapshot::{Snapshot, SnapshotGate};
use crate::base::trace::{TraceTarget, Tracer};
use crate::base::transport_kind::TransportKind;
use crate::base::wire::MAX_PACKET_BYTES;
use crate::buffer::{SendBuffer, SendBufferManager, pool::PoolStats};
use crate::groups::id::GroupId;
use crate::protocol::packet::{PacketHead, PacketTooLarge};
use crate::protocol::writer::OutgoingPacket;
use crate::routing::completion_timer::CompletionTimer;
#[cfg(feature = "cluster")]
use crate::routing::link::Audience;
use crate::routing::mailbox::MailboxFull;
#[cfg(feature = "cluster")]
use crate::routing::router::Command;
use crate::routing::router::Router;
use crate::runtime::connector::{Connector, server_has_ended};
use crate::runtime::listener::{Listener, StopSignal};
use crate::runtime::stream::Stream;
use crate::server::trace::Trace;
use crate::session::message::Message;
use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The requests of other threads to a running server. A clone is cheap.
///
/// A method that sends waits while a worker's mailbox is full. A method whose name begins with `try_`
/// returns [`MailboxFull`] instead. Do not hold a lock that a callback takes while you send:
/// see [what blocks](crate#threads).
///
/// # After the end
///
/// A handle outlives its server. No method panics or waits then:
///
/// | method | after the end |
/// |---|---|
/// | [`broadcast`](Self::broadcast), [`broadcast_packet`](Self::broadcast_packet), [`broadcast_buffer`](Self::broadcast_buffer) | does nothing |
/// | [`broadcast_measured`](Self::broadcast_measured) | does nothing and measures nothing |
/// | [`send_to`](Self::send_to), [`send_packet_to`](Self::send_packet_to) | does nothing |
/// | [`send_built`](Self::send_built), [`broadcast_built`](Self::broadcast_built), [`broadcast_built_to`](Self::broadcast_built_to), [`broadcast_built_to_others`](Self::broadcast_built_to_others) | calls `build` alone |
/// | [`broadcast_to`](Self::broadcast_to), [`broadcast_to_others`](Self::broadcast_to_others), [`broadcast_packet_to`](Self::broadcast_packet_to), [`broadcast_packet_to_others`](Self::broadcast_packet_to_others), [`broadcast_buffer_to`](Self::broadcast_buffer_to) | does nothing |
/// | [`send_buffer`](Self::send_buffer) | does nothing |
/// | [`try_send_buffer`](Self::try_send_buffer), [`try_broadcast_buffer`](Self::try_broadcast_buffer), [`try_broadcast_buffer_to`](Self::try_broadcast_buffer_to) | `Ok`; the packet is dropped |
/// | [`post`](Self::post) | `Ok`; the message is dropped |
/// | [`post_to_account`](Self::post_to_account) | `Ok(false)`; the message is dropped |
/// | [`is_congested`](Self::is_congested) | `false` |
/// | [`join`](Self::join), [`leave`](Self::leave), [`admit`](Self::admit), [`login`](Self::login), [`resume_reading`](Self::resume_reading), [`close`](Self::close), [`close_with`](Self::close_with) | does nothing |
/// | [`encode`](Self::encode), [`encode_packet`](Self::encode_packet) | encodes, as before |
/// | [`connect`](Self::connect), [`connect_from`](Self::connect_from) | [`io::ErrorKind::NotConnected`], as soon as a shutdown has begun |
/// | [`snapshot`](Self::snapshot) | a snapshot whose [`poll`](Snapshot::poll) returns [`WorkerGone`](crate::base::snapshot::WorkerGone) |
/// | [`trace`](Self::trace) | a trace without events |
/// | [`metrics`](Self::metrics), [`pool_stats`](Self::pool_stats) | the last values; no session is counted as connected |
/// | [`is_shutting_down`](Self::is_shutting_down) | `true`, as soon as a shutdown has begun |
/// | [`has_ended`](Self::has_ended) | `true` |
/// | [`shutdown`](Self::shutdown) | does nothing: the first call counts |
///
/// Between the call of `shutdown` and the end, a packet still reaches a session that its worker has
/// not closed yet.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    local_addrs: Vec<(TransportKind, SocketAddr)>,
    router: Arc<Router<Stream>>,
    connector: Connector,
    buffers: SendBufferManager,
    metrics: Arc<Metrics>,
    tracer: Arc<Tracer>,
    broadcast_timer: Arc<CompletionTimer>,
    snapshots: SnapshotGate,
    listener: Option<Arc<StopSignal>>,
    /// The instant at which the flush of a shutdown ends. Set once, before the listener is stopped.
    flush_by: Mutex<Option<Instant>>,
    is_shutting_down: AtomicBool,
    /// The time of a server that a test moves.
    #[cfg(any(test, feature = "testing"))]
    virtual_now: Mutex<Option<Instant>>,
}

/// Measured broadcasts at a time. A server that is behind by more does not measure the further
/// broadcasts. The long durations of the measured ones show that it is behind.
const MEASURED_BROADCASTS: usize = 1024;

thread_local! {
    /// The tail of the packet that this thread builds. The memory is used again.
    static BUILT_TAIL: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

fn with_built_tail(build: impl FnOnce(&mut Vec<u8>), send: impl FnOnce(&[u8])) {
    // Taken: `build` may build another packet.
    let mut tail = BUILT_TAIL.take();
    tail.clear();
    build(&mut tail);
    send(&tail);
    tail.shrink_to(MAX_PACKET_BYTES);
    BUILT_TAIL.set(tail);
}

impl ServerHandle {
    pub(super) fn new(
        listener: Option<&Listener>,
        router: &Arc<Router<Stream>>,
        connector: Connector,
        buffers: &SendBufferManager,
        metrics: &Arc<Metrics>,
        tracer: &Arc<Tracer>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                local_addrs: (listener.iter())
                    .flat_map(|listener| listener.local_addrs())
                    .collect(),
                router: Arc::clone(router),
                connector,
                buffers: buffers.clone(),
                metrics: Arc::clone(metrics),
                tracer: Arc::clone(tracer),
                broadcast_timer: Arc::new(CompletionTimer::new(MEASURED_BROADCASTS)),
                snapshots: SnapshotGate::default(),
                listener: listener.map(Listener::stop_signal),
                flush_by: Mutex::new(None),
                is_shutting_down: AtomicBool::new(false),
                #[cfg(any(test, feature = "testing"))]
                virtual_now: Mutex::new(None),
            }),
        }
    }

    /// Sets the time of a server without a clock and without sockets.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn set_virtual_now(&self, now: Instant) {
        *self.inner.lock_virtual_now() = Some(now);
    }

    pub(super) fn local_addrs(&self) -> &[(TransportKind, SocketAddr)] {
        &self.inner.local_addrs
    }

    /// Ends the workers, after the listener has ended.
    pub(super) fn shut_workers_down(&self) {
        let flush_by = *self.inner.flush_by();
        self.inner
            .router
            .shutdown(flush_by.unwrap_or_else(Instant::now));
    }

    /// Sends a packet to every session. The packet is written once, and each worker gets one command.
    ///
    /// Waits while the mailbox of a worker is full. A call in a callback does not wait: the packet
    /// waits on the callback's worker, which reads nothing until the packet is posted. A packet that does
    /// not fit its size field is not sent, and an error is logged.
    pub fn broadcast<H: PacketHead>(&self, head: &H, tail: impl AsRef<[u8]>) {
        match self.encode(head, tail) {
            Ok(buffer) => self.broadcast_buffer(&buffer),
            Err(error) => log::error!("packet {} to all: {error}", H::ID),
        }
    }

    /// Like [`broadcast`](Self::broadcast), and measures the time from `origin`, for example a tick, until
    /// the last worker has flushed the packet to its sessions: see [`Metrics::broadcasts`].
    pub fn broadcast_measured<H: PacketHead>(
        &self,
        origin: Instant,
        head: &H,
        tail: impl AsRef<[u8]>,
    ) {
        match self.encode(head, tail) {
            Ok(buffer) => {
                let router = &self.inner.router;
                let shares = self.inner.broadcast_timer.start(origin, router.workers());
                router.broadcast_timed(&buffer, shares);
            }
            Err(error) => log::error!("packet {} to all: {error}", H::ID),
        }
    }

    /// Sends a packet to one session. If the session has ended, the packet is only counted.
    pub fn send_to<H: PacketHead>(&self, to: SessionId, head: &H, tail: impl AsRef<[u8]>) {
        match self.encode(head, tail) {
            Ok(buffer) => self.inner.router.send(to, buffer),
            Err(error) => log::error!("packet {} to {to}: {error}", H::ID),
        }
    }

    /// Sends a packet whose tail `build` writes to one session. The tail is built in a buffer of the calling
    /// thread, which is empty and used again for each packet, of up to 64 KiB: for snapshots of a player's
    /// surroundings. See [`send_to`](Self::send_to).
    pub fn send_built<H: PacketHead>(
        &self,
        to: SessionId,
        head: &H,
        build: impl FnOnce(&mut Vec<u8>),
    ) {
        with_built_tail(build, |tail| self.send_to(to, head, tail));
    }

    /// Like [`send_built`](Self::send_built), to every session: built once, and written once. See
    /// [`broadcast`](Self::broadcast).
    pub fn broadcast_built<H: PacketHead>(&self, head: &H, build: impl FnOnce(&mut Vec<u8>)) {
        with_built_tail(build, |tail| self.broadcast(head, tail));
    }

    /// Encodes a packet into the calling thread's chunk.
    ///
    /// # Errors
    /// [`PacketTooLarge`] if it does not fit its size field.
    pub fn encode<H: PacketHead>(
        &self,
        head: &H,
        tail: impl AsRef<[u8]>,
    ) -> Result<SendBuffer, PacketTooLarge> {
        self.inner.buffers.encode(head, tail.as_ref())
    }

    /// Sends a packet without a separate tail to every session. See [`broadcast`](Self::broadcast).
    pub fn broadcast_packet<P: OutgoingPacket>(&self, packet: &P) {
        match self.encode_packet(packet) {
            Ok(buffer) => self.broadcast_buffer(&buffer),
            Err(error) => log::error!("packet {} to all: {error}", P::ID),
        }
    }

    /// Sends a packet without a separate tail to one session. See [`send_to`](Self::send_to).
    pub fn send_packet_to<P: OutgoingPacket>(&self, to: SessionId, packet: &P) {
        match self.encode_packet(packet) {
            Ok(buffer) => self.inner.router.send(to, buffer),
            Err(error) => log::error!("packet {} to {to}: {error}", P::ID),
        }
    }

    /// Encodes a packet without a separate tail into the calling thread's chunk.
    ///
    /// # Errors
    /// [`PacketTooLarge`] if it does not fit its size field.
    pub fn encode_packet<P: OutgoingPacket>(
        &self,
        packet: &P,
    ) -> Result<SendBuffer, PacketTooLarge> {
        let bytes = packet.packet_bytes()?;
        let write = |free: &mut [u8]| packet.write_packet(free);
        Ok(self.inner.buffers.write(bytes, write))
    }

    /// Sends an encoded packet to every session.
    pub fn broadcast_buffer(&self, buffer: &SendBuffer) {
        self.inner.router.broadcast(buffer);
    }

    /// Sends an encoded packet to one session. See [`send_to`](Self::send_to).
    pub fn send_buffer(&self, to: SessionId, buffer: SendBuffer) {
        self.inner.router.send(to, buffer);
    }

    /// Like [`send_buffer`](Self::send_buffer), but never waits.
    ///
    /// A packet to a session that has ended, or of a server that has ended, is accepted and dropped.
    ///
    /// ```
    /// # use server_core::{MailboxFull, PacketTooLarge, ServerHandle, SessionId};
    /// # server_core::packets! { server 1 => SPosition { x: u32 }; }
    /// /// Drops a position that a full mailbox does not take: the next position replaces it.
    /// fn send_position(
    ///     handle: &ServerHandle,
    ///     to: SessionId,
    ///     position: &SPosition,
    /// ) -> Result<bool, PacketTooLarge> {
    ///     let packet = handle.encode_packet(position)?;
    ///     Ok(handle.try_send_buffer(to, packet).is_ok())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`MailboxFull`] with the packet if the mailbox of the session's worker has no room.
    pub fn try_send_buffer(
        &self,
        to: SessionId,
        buffer: SendBuffer,
    ) -> Result<(), MailboxFull<SendBuffer>> {
        self.inner.router.try_send(to, buffer)
    }

    /// Like [`broadcast_buffer`](Self::broadcast_buffer), but never waits.
    ///
    /// # Errors
    /// [`MailboxFull`] if the mailbox of one worker has no room. The packet then reaches no session:
    /// room is reserved in all mailboxes before the first command is posted.
    pub fn try_broadcast_buffer(&self, buffer: &SendBuffer) -> Result<(), MailboxFull> {
        self.inner.router.try_broadcast(buffer)
    }

    /// Like [`broadcast_buffer_to`](Self::broadcast_buffer_to), but never waits.
    ///
    /// # Errors
    /// [`MailboxFull`] if the mailbox of one worker that has members has no room. The packet then
    /// reaches no session.
    pub fn try_broadcast_buffer_to(
        &self,
        group: GroupId,
        except: Option<SessionId>,
        buffer: &SendBuffer,
    ) -> Result<(), MailboxFull> {
        self.inner.router.try_broadcast_to(group, except, buffer)
    }

    /// Gives a message to one session: its worker calls [`Session::on_message`](crate::Session::on_message).
    /// So the state of a session stays in its session, without a lock, while another thread works for it.
    /// Never waits.
    ///
    /// Messages of one thread to one session arrive in their order. Their order to packets that the thread
    /// sends is not kept: a message waits while effects of earlier callbacks wait. A message to a session
    /// that has ended, or is not connected yet, is dropped and counted (`undeliverable`).
    ///
    /// ```
    /// use server_core::{Context, Kick, Message, Packet, Server, Session, SessionId};
    /// use std::any::Any;
    /// use std::sync::{Mutex, mpsc};
    /// # use std::io::{Read, Write};
    ///
    /// server_core::packets! {
    ///     client 8 => CLogin + text(1..=32);
    ///     server 9 => SLogin { rank: u32 };
    /// }
    ///
    /// const LOGIN_FAILED: Kick = Kick::custom(1001, "login_failed");
    ///
    /// /// The answer of the database.
    /// struct Rank(Option<u32>);
    /// impl Message for Rank {}
    ///
    /// struct Player {
    ///     logins: mpsc::Sender<(SessionId, String)>,
    /// }
    ///
    /// impl Session for Player {
    ///     fn requires_login(&self) -> bool {
    ///         true
    ///     }
    ///
    ///     fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
    ///         let name = packet.decode::<CLogin>()?;
    ///         let _ = self.logins.send((ctx.id(), name.to_owned()));
    ///         Ok(())
    ///     }
    ///
    ///     fn on_message(&mut self, ctx: &mut Context<'_>, message: Box<dyn Any + Send>) {
    ///         match message.downcast::<Rank>().map(|rank| rank.0) {
    ///             Ok(Some(rank)) => {
    ///                 ctx.admit();
    ///                 ctx.send_packet(&SLogin::new(rank));
    ///             }
    ///             _ => ctx.close_with(LOGIN_FAILED, "unknown name"),
    ///         }
    ///     }
    /// }
    ///
    /// let (logins, to_look_up) = mpsc::channel();
    /// let logins = Mutex::new(logins);
    /// let server = Server::builder().start("127.0.0.1:0", move |_peer| Player {
    ///     logins: logins.lock().expect("no thread panics with it").clone(),
    /// })?;
    /// let handle = server.handle();
    /// std::thread::spawn(move || {
    ///     for (id, name) in to_look_up {
    ///         let rank = (name == "bob").then_some(7); // a query that takes its time
    ///         if handle.post(id, Rank(rank)).is_err() {
    ///             handle.close(id);
    ///         }
    ///     }
    /// });
    /// # let mut client = std::net::TcpStream::connect(server.local_addr())?;
    /// # client.write_all(b"\x07\0\x08\0bob")?;
    /// # let mut answer = [0; 8];
    /// # client.read_exact(&mut answer)?;
    /// # assert_eq!(answer, [8, 0, 9, 0, 7, 0, 0, 0]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`MailboxFull`] with the message, if the messages that wait for the sessions of its worker have more
    /// than a quarter of [`mailbox_bytes`](crate::Config::mailbox_bytes): [`Message::bytes`] and 64 bytes for
    /// each.
    pub fn post<M: Message>(&self, id: SessionId, message: M) -> Result<(), MailboxFull<M>> {
        self.inner.router.post_message(id, message)
    }

    /// Gives a message to the session of an account: see [`login`](Self::login). Returns whether the account has a
    /// session on this node; otherwise the message is dropped. If the session ends before it gets the message, and
    /// another session has taken the account over, that session gets the message. Apart from that as
    /// [`post`](Self::post), without an order between messages that were handed over and others.
    ///
    /// # Errors
    /// As [`post`](Self::post).
    pub fn post_to_account<M: Message>(
        &self,
        account: &str,
        message: M,
    ) -> Result<bool, MailboxFull<M>> {
        self.inner
            .router
            .post_to_account(cut_account(account), message)
    }

    /// Makes a session the only one of an account, of 64 bytes at most. The answer is a call of
    /// [`Session::on_login`](crate::Session::on_login), or of [`Game::on_login`](crate::Game::on_login). Another
    /// session of the account ends with [`DisconnectReason::LoggedInElsewhere`], or stays, by the
    /// [`login_policy`](crate::ServerBuilder::login_policy).
    ///
    /// The login ends with the session, or with its login to another account. A session that has ended is not logged
    /// in. With a cluster, the account has one session on all nodes, as with its own `login`. A cluster that starts
    /// later does not know the login. Waits as [`broadcast`](Self::broadcast) does.
    ///
    /// ```
    /// use server_core::{Game, GameContext, Kick, LoginAnswer, Packet, SessionId, tick::Tick};
    ///
    /// server_core::packets! {
    ///     client 1 => CLogin + text(1..=32);
    /// }
    ///
    /// const NAME_TAKEN: Kick = Kick::custom(1001, "name_taken");
    ///
    /// struct World;
    ///
    /// impl Game for World {
    ///     fn on_packet(
    ///         &mut self,
    ///         ctx: &mut GameContext<'_>,
    ///         player: SessionId,
    ///         packet: Packet<'_>,
    ///     ) -> Result<(), Kick> {
    ///         ctx.server().login(player, packet.decode::<CLogin>()?);
    ///         Ok(())
    ///     }
    ///
    ///     fn on_login(&mut self, ctx: &mut GameContext<'_>, player: SessionId, answer: LoginAnswer) {
    ///         match answer {
    ///             LoginAnswer::Refused => ctx.close_with(player, NAME_TAKEN, "plays already"),
    ///             _ => ctx.admit(player),
    ///         }
    ///     }
    ///
    ///     fn on_tick(&mut self, _: &mut GameContext<'_>, _: Tick) {}
    /// }
    /// ```
    pub fn login(&self, session: SessionId, account: &str) {
        let account = cut_account(account).into();
        self.inner.router.begin_login(session, account);
    }

    /// Makes a session a member of a group. Packets that this thread sends to the group afterwards reach
    /// the session, and so do packets that a thread sends through a handle after it has learned of the
    /// join. A callback on the session's own worker may send before the worker takes the join from its
    /// mailbox.
    ///
    /// If the session has ended, nothing happens. If the session is in
    /// [`max_groups_per_session`](crate::Config::max_groups_per_session) groups, the join is only counted.
    /// Waits while the mailbox of the session's worker is full.
    pub fn join(&self, id: SessionId, group: GroupId) {
        self.inner.router.join(id, group);
    }

    /// Removes a session from a group: packets that this thread sends to the group afterwards do not reach
    /// the session. Waits as [`join`](Self::join) does.
    pub fn leave(&self, id: SessionId, group: GroupId) {
        self.inner.router.leave(id, group);
    }

    /// Sends a packet to every member of a group. The packet is written once, and each worker with members
    /// gets one command. A worker without members is not woken.
    pub fn broadcast_to<H: PacketHead>(&self, group: GroupId, head: &H, tail: impl AsRef<[u8]>) {
        match self.encode(head, tail) {
            Ok(buffer) => self.broadcast_buffer_to(group, None, &buffer),
            Err(error) => log::error!("packet {} to group {group}: {error}", H::ID),
        }
    }

    /// Like [`broadcast_to`](Self::broadcast_to), to every member but one, for example the session that
    /// caused the packet.
    pub fn broadcast_to_others<H: PacketHead>(
        &self,
        group: GroupId,
        except: SessionId,
        head: &H,
        tail: impl AsRef<[u8]>,
    ) {
        match self.encode(head, tail) {
            Ok(buffer) => self.broadcast_buffer_to(group, Some(except), &buffer),
            Err(error) => log::error!("packet {} to group {group}: {error}", H::ID),
        }
    }

    /// Like [`send_built`](Self::send_built), to every member of a group: built once, and written once. See
    /// [`broadcast_to`](Self::broadcast_to).
    ///
    /// ```
    /// # use server_core::{GroupId, ServerHandle};
    /// server_core::packets! {
    ///     /// The tick, and two bytes of health for each player of the room.
    ///     server 2 => SRoom { tick: u64 } + bytes;
    /// }
    ///
    /// fn tell_room(handle: &ServerHandle, room: GroupId, tick: u64, health: &[u16]) {
    ///     handle.broadcast_built_to(room, &SRoom::new(tick), |tail| {
    ///         health.iter().for_each(|health| tail.extend(health.to_le_bytes()));
    ///     });
    /// }
    /// ```
    pub fn broadcast_built_to<H: PacketHead>(
        &self,
        group: GroupId,
        head: &H,
        build: impl FnOnce(&mut Vec<u8>),
    ) {
        with_built_tail(build, |tail| self.broadcast_to(group, head, tail));
    }

    /// Like [`broadcast_built_to`](Self::broadcast_built_to), to every member but one.
    pub fn broadcast_built_to_others<H: PacketHead>(
        &self,
        group: GroupId,
        except: SessionId,
        head: &H,
        build: impl FnOnce(&mut Vec<u8>),
    ) {
        with_built_tail(build, |tail| {
            self.broadcast_to_others(group, except, head, tail)
        });
    }

    /// Sends a packet without a separate tail to every member of a group. See
    /// [`broadcast_to`](Self::broadcast_to).
    pub fn broadcast_packet_to<P: OutgoingPacket>(&self, group: GroupId, packet: &P) {
        match self.encode_packet(packet) {
            Ok(buffer) => self.broadcast_buffer_to(group, None, &buffer),
            Err(error) => log::error!("packet {} to group {group}: {error}", P::ID),
        }
    }

    /// Sends a packet without a separate tail to every member of a group but one.
    pub fn broadcast_packet_to_others<P: OutgoingPacket>(
        &self,
        group: GroupId,
        except: SessionId,
        packet: &P,
    ) {
        match self.encode_packet(packet) {
            Ok(buffer) => self.broadcast_buffer_to(group, Some(except), &buffer),
            Err(error) => log::error!("packet {} to group {group}: {error}", P::ID),
        }
    }

    /// Sends an encoded packet to every member of a group, except the session `except`, if given.
    pub fn broadcast_buffer_to(
        &self,
        group: GroupId,
        except: Option<SessionId>,
        buffer: &SendBuffer,
    ) {
        self.inner.router.broadcast_to(group, except, buffer);
    }

    /// Ends one session, after its queue is flushed. Waits as [`broadcast`](Self::broadcast) does.
    pub fn close(&self, id: SessionId) {
        self.inner.router.close(id, DisconnectReason::Closed);
    }

    /// Ends one session as [`close`](Self::close) does, for a reason of the game and with a text of at most
    /// 1,024 bytes. See [`Context::close_with`](crate::Context::close_with).
    pub fn close_with(&self, id: SessionId, kick: Kick, text: &str) {
        let router = &self.inner.router;
        router.close_with(id, kick.into(), close_text(text));
    }

    pub(crate) fn close_for(&self, id: SessionId, kick: Kick) {
        match kick.text() {
            Some(text) => self.close_with(id, kick, text),
            None => self.inner.router.close(id, kick.into()),
        }
    }

    pub(crate) fn workers(&self) -> usize {
        self.inner.router.workers()
    }

    /// Admits a session, as [`Context::admit`](crate::Context::admit) does in a callback. Waits as
    /// [`broadcast`](Self::broadcast) does.
    pub fn admit(&self, id: SessionId) {
        self.inner.router.admit(id);
    }

    /// Reads a session again that has paused itself: see
    /// [`Session::max_read_bytes`](crate::Session::max_read_bytes). Waits as [`broadcast`](Self::broadcast) does.
    pub fn resume_reading(&self, id: SessionId) {
        self.inner.router.resume_reading(id);
    }

    /// Begins an outgoing connection, whose session belongs to one of the workers. `tag` is returned in
    /// [`Peer::tag`](crate::Peer::tag).
    ///
    /// # Errors
    /// Errors that the system returns at once: no descriptor left, no port, no route. A refusal by the peer
    /// comes later, as [`DisconnectReason::ConnectFailed`].
    ///
    /// [`io::ErrorKind::NotConnected`] if the server has ended or is shutting down. After `Ok` the
    /// session is made, even if a shutdown begins in the same moment: it ends with
    /// [`DisconnectReason::Shutdown`] then.
    pub fn connect(&self, addr: SocketAddr, tag: u64) -> io::Result<()> {
        self.connect_from(None, addr, tag)
    }

    /// Like [`connect`](Self::connect), from the given address of this machine. Several source addresses
    /// have ports for more connections than one address.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect), and for a source address that this machine does not have.
    pub fn connect_from(
        &self,
        source: Option<IpAddr>,
        addr: SocketAddr,
        tag: u64,
    ) -> io::Result<()> {
        if self.is_shutting_down() {
            return Err(server_has_ended());
        }
        #[cfg(any(test, feature = "testing"))]
        if self.inner.lock_virtual_now().is_some() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.inner.connector.connect_from(source, addr, tag)
    }

    /// Whether the server is congested: packets of callbacks are [paced](crate#pacing), as the queue of a
    /// session that keeps up is long. The queue of a reader of 1 MiB/s becomes shorter while ticks, packets of
    /// callbacks (768 KiB a second), packets of other nodes and those of the game's threads are less than that
    /// together: a thread should send less to all sessions while the server is congested.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.inner.router.is_congested()
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Begins a snapshot of all sessions: each worker answers at the end of a turn, and
    /// [`Snapshot::poll`] returns the sessions after the last answer. `None` while an earlier snapshot is
    /// not complete.
    #[must_use]
    pub fn snapshot(&self) -> Option<Snapshot> {
        let (requests, snapshot) = self.inner.snapshots.begin(self.inner.router.workers())?;
        self.inner.router.request_snapshot(requests);
        Some(snapshot)
    }

    /// Begins a trace of one session, or of the sessions of one address: their connects, packets and ends, whatever
    /// the level of the log. The names of packets are those of [`ServerBuilder::packets`](crate::ServerBuilder::packets).
    ///
    /// The trace ends when it is dropped, after `at_most` (an hour at most), or with its session. It keeps the last
    /// 1,024 events, about 64 KiB. Returns `None` while 8 traces run. While no trace runs, a packet costs one comparison
    /// for each receiver. While traces run, each session is compared with them.
    ///
    /// ```
    /// # use server_core::{ServerHandle, SessionId, TraceTarget};
    /// # use std::time::Duration;
    /// fn show(handle: &ServerHandle, id: SessionId) {
    ///     let Some(trace) = handle.trace(TraceTarget::Session(id), Duration::from_secs(60)) else {
    ///         return; // other traces run
    ///     };
    ///     while trace.is_running() {
    ///         std::thread::sleep(Duration::from_secs(1));
    ///     }
    ///     for event in trace.events() {
    ///         println!("{:?}", event.kind);
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn trace(&self, target: TraceTarget, at_most: Duration) -> Option<Trace> {
        let log = (self.inner.tracer).begin(target, at_most, self.now())?;
        Some(Trace::new(self.clone(), log))
    }

    /// The chunk pool's counters.
    #[must_use]
    pub fn pool_stats(&self) -> PoolStats {
        self.inner.buffers.stats()
    }

    /// Whether the server is shutting down or has ended: after a call of `shutdown`, or after one of its
    /// threads has failed.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.inner.is_shutting_down.load(Ordering::Acquire)
    }

    /// Whether the server has ended: every worker has closed its last session.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.inner.router.has_ended()
    }

    /// Attaches the link to the other nodes. Returns the logins of before, or `None` if it is not the first one.
    #[cfg(feature = "cluster")]
    pub(crate) fn attach_link(
        &self,
        link: Box<dyn crate::routing::link::Link>,
    ) -> Option<Vec<(SessionId, Arc<str>)>> {
        self.inner.router.attach_link(link)
    }

    /// Reports joins and leaves from now on, present members first, and leaves a part of the paced rate to the link.
    /// `None`: neither any more.
    #[cfg(feature = "cluster")]
    pub(crate) fn watch_members(&self, watch: Option<&crate::groups::members::MemberWatch>) {
        self.inner.router.watch_members(watch);
    }

    /// Delivers a packet of another node, without waiting. Returns whether the mailboxes had room.
    #[cfg(feature = "cluster")]
    pub(crate) fn deliver(&self, audience: Audience, packet: &[u8]) -> bool {
        let buffer = self.copy(packet);
        self.inner.router.try_deliver(audience, &buffer).is_ok()
    }

    /// Delivers a packet of another node to one session. As [`deliver`](Self::deliver).
    #[cfg(feature = "cluster")]
    pub(crate) fn deliver_to(&self, session: SessionId, packet: &[u8]) -> bool {
        let buffer = self.copy(packet);
        self.inner.router.try_deliver_to(session, buffer).is_ok()
    }

    #[cfg(feature = "cluster")]
    fn copy(&self, packet: &[u8]) -> SendBuffer {
        self.inner.buffers.write(packet.len(), |free| {
            free[..packet.len()].copy_from_slice(packet);
            packet.len()
        })
    }

    /// Ends a session for this reason, without waiting.
    #[cfg(feature = "cluster")]
    pub(crate) fn post_close(&self, session: SessionId, reason: DisconnectReason) {
        let close = Command::Close(session, reason);
        self.inner.router.post_for(session, close);
    }

    /// Notes a login that the link has begun.
    #[cfg(feature = "cluster")]
    pub(crate) fn note_login(&self, session: SessionId, account: &str) {
        let accounts = self.inner.router.accounts();
        // The link ends the old session.
        accounts.login(
            session,
            account,
            crate::routing::accounts::LoginPolicy::NewestStays,
            || true,
        );
    }

    /// The session of an account on this node.
    #[cfg(feature = "cluster")]
    pub(crate) fn session_of(&self, account: &str) -> Option<SessionId> {
        (self.inner.router.accounts()).session_of(cut_account(account))
    }

    /// Answers the login of a session, without waiting.
    #[cfg(feature = "cluster")]
    pub(crate) fn answer_login(&self, session: SessionId, answer: crate::session::LoginAnswer) {
        let login = Command::Login(session, answer);
        self.inner.router.post_for(session, login);
    }

    /// The time of the server: of a [`SimServer`](crate::testing::SimServer), its own.
    pub(crate) fn now(&self) -> Instant {
        #[cfg(any(test, feature = "testing"))]
        if let Some(now) = *self.inner.lock_virtual_now() {
            return now;
        }
        Instant::now()
    }

    pub(super) fn tracer(&self) -> &Tracer {
        &self.inner.tracer
    }

    /// Ends the server in order: it stops accepting, queues the close message for every session, flushes
    /// and closes. Bytes that are not flushed after `drain` are dropped. Returns at once.
    /// [`Server::join`](crate::Server::join) waits for the end.
    pub fn shutdown(&self, drain: Duration) {
        if self.inner.is_shutting_down.swap(true, Ordering::AcqRel) {
            return;
        }
        let flush_by = self.now() + drain.min(LONGEST_TIME);
        *self.inner.flush_by() = Some(flush_by);
        match &self.inner.listener {
            // The listener shuts the workers down at its end: no connection can arrive after that.
            Some(listener) => listener.set(),
            None => self.inner.router.shutdown(flush_by),
        }
    }
}

/// The bytes of an account that count.
fn cut_account(account: &str) -> &str {
    cut(account, 64)
}

impl Inner {
    #[cfg(any(test, feature = "testing"))]
    fn lock_virtual_now(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        (self.virtual_now.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    fn flush_by(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        // One value, set in one step: a panic elsewhere cannot leave it half changed.
        self.flush_by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
