//! Several nodes as one world, over a broker: Redis or Valkey. Needs the feature `cluster`.
//!
//! A node is a [`Server`](crate::Server) with a [`Cluster`]. A packet to a *world group* reaches the members on all
//! nodes. An account has one session in all nodes. Presence and counts are known on each node, without a question
//! to the others.
//!
//! ```no_run
//! use server_core::cluster::{Cluster, LoginAnswer};
//! use server_core::{Context, GroupId, Kick, Packet, Server, Session};
//! use std::sync::{Arc, OnceLock};
//!
//! server_core::packets! {
//!     /// Logs in.
//!     client 1 => pub CLogin + text(1..=32);
//!     /// A line for all in the zone, on all nodes.
//!     client 2 => pub CSay + text(1..=200);
//!     server 3 => pub SSaid + text;
//!     server 4 => pub SLogin { has_replaced: u32 };
//! }
//!
//! const ZONE: u32 = 1;
//! const INN: GroupId = GroupId::new(ZONE, 7);
//!
//! struct Player {
//!     cluster: Arc<OnceLock<Cluster>>,
//! }
//!
//! impl Session for Player {
//!     fn on_connected(&mut self, ctx: &mut Context<'_>) {
//!         let _ = ctx.join(INN);
//!     }
//!
//!     fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
//!         if let Ok(account) = packet.decode::<CLogin>() {
//!             if let Some(cluster) = self.cluster.get() {
//!                 cluster.login(ctx.id(), account);
//!             }
//!         } else {
//!             // The kind of the group spans the nodes.
//!             ctx.broadcast_to(INN, &SSaid, packet.decode::<CSay>()?);
//!         }
//!         Ok(())
//!     }
//!
//!     fn on_login(&mut self, ctx: &mut Context<'_>, answer: LoginAnswer) {
//!         let has_replaced: u32 = (answer == LoginAnswer::Replaced).into();
//!         ctx.admit();
//!         ctx.send(&SLogin::new(has_replaced), "");
//!     }
//! }
//!
//! # fn main() -> std::io::Result<()> {
//! let cluster = Arc::new(OnceLock::new());
//! let of_sessions = Arc::clone(&cluster);
//! let server = Server::builder()
//!     .start("127.0.0.1:0", move |_peer| Player { cluster: Arc::clone(&of_sessions) })?;
//! let started = Cluster::builder("unix:///run/redis/redis.sock")
//!     .node("eu-1")
//!     .world_groups(ZONE..=ZONE)
//!     .on_world_gap(|gap| println!("{:?} packets are missing: send a snapshot", gap.lost))
//!     .start(&server.handle())?;
//! let _ = cluster.set(started.clone());
//!
//! let inn = started.count(INN);
//! println!("{} in the inn, as of {:?} ago", inn.sessions, inn.age);
//! started.broadcast_everybody(&server.handle().encode(&SSaid, "Welcome.").expect("it is short"));
//! # Ok(())
//! # }
//! ```
//!
//! # Promises
//!
//! * No method waits for the broker, [`Cluster::leave`] excepted. A broker that is away, hung or slow costs the sessions
//!   of this node nothing.
//! * A packet reaches the sessions of this node first. It reaches each session on another node at most once, in
//!   the order of the sending node. Packets of two nodes have no order.
//! * Packets of other nodes end no session that keeps up. While this server [is congested](crate#pacing), it delivers
//!   256 KiB/s of them: a packet counts once, whatever its number of receivers. A further one is dropped and counted
//!   ([`Why::Congested`]), and the game learns of the gap.
//! * Packets wait for the broker for 1 s and in 4 MiB at most. A further or older one is dropped and counted
//!   ([`ClusterMetrics::dropped`]). The other nodes learn of each gap: [`ClusterBuilder::on_world_gap`].
//! * A node without a heartbeat for 5 s is not counted any more. A node without a link declares no other node
//!   dead: its picture stays as it was, and has an age.
//! * The newest session of an account stays. Two sessions are connected for one round trip at most, or, if the link
//!   of a node is down, until 1 s after it is back. A session of a node that was killed ends no other session.
//!
//! Anyone with access to the broker can write messages to the nodes. No message makes a node fail, but a message
//! can be a lie: let only the nodes reach the broker.

#[cfg(not(feature = "testing"))]
mod broker;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod broker;
#[cfg(not(feature = "testing"))]
mod envelope;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod envelope;
#[cfg(not(feature = "testing"))]
mod link;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod link;
#[cfg(not(feature = "testing"))]
mod logins;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod logins;
mod metrics;
mod outgoing;
#[cfg(not(feature = "testing"))]
mod picture;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod picture;
mod redis;
mod stream;

pub use self::metrics::{ClusterMetrics, Why};
pub use crate::session::LoginAnswer;

use self::redis::Redis;
use crate::base::id::SessionId;
use crate::base::reason::DisconnectReason;
use crate::base::start;
use crate::buffer::SendBuffer;
use crate::groups::id::GroupId;
use crate::groups::members::MemberWatch;
use crate::routing::link::Audience;
use crate::routing::outbox;
use crate::server::ServerHandle;
use crate::shard::{PacedRate, guarded};
use broker::{Broker, Request};
use envelope::Incarnation;
use link::{Command, Event, Link, LinkConfig, Output};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use stream::Trust;

/// The number of a node, drawn at random by each start: a session of the cluster is a node number and a
/// [`SessionId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

impl NodeId {
    /// The number, as it goes on the wire.
    #[must_use]
    pub const fn to_u32(self) -> u32 {
        self.0
    }

    pub(crate) const fn of(incarnation: Incarnation) -> Self {
        Self((incarnation.0 >> 32) as u32)
    }
}

/// Packets of other nodes that did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorldGap {
    /// The sender. `None`: any node. The link was down, and packets of that time are lost.
    pub node: Option<NodeId>,
    /// The group. `None`: packets for all sessions, or unknown.
    pub group: Option<GroupId>,
    /// The number of lost packets, if it is known.
    pub lost: Option<u64>,
}

/// The sessions of a group in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorldCount {
    /// Sessions on all nodes.
    pub sessions: u64,
    /// Nodes with such sessions.
    pub nodes: usize,
    /// The age of the counts of other nodes, beside 1 s between two heartbeats.
    pub age: Duration,
}

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeInfo {
    /// The number.
    pub id: NodeId,
    /// The name.
    pub name: Box<str>,
    /// Connected sessions.
    pub sessions: u32,
    /// Whether the node shuts down.
    pub is_draining: bool,
    /// Whether this is the node of the call.
    pub is_local: bool,
    /// The time since the last message of the node, the time without a link included. Zero for the node of the call.
    pub age: Duration,
}

/// The session of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountSession {
    /// The number of the node.
    pub node: NodeId,
    /// The name of the node.
    pub node_name: Box<str>,
    /// The session on that node.
    pub session: SessionId,
}

/// The nodes of a cluster as one of them knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Nodes {
    /// The nodes, by name. The node of the call is one of them.
    pub nodes: Vec<NodeInfo>,
    /// The age of the picture: the picture does not change while the link is down.
    pub age: Duration,
    /// Whether the link of this node is up.
    pub is_link_up: bool,
}

/// A node's part in a cluster. A clone is cheap. No method waits for the broker, [`leave`](Self::leave) excepted.
///
/// The node leaves the cluster with [`leave`](Self::leave), or when the last clone is dropped: the drop waits as
/// [`leave`](Self::leave) does.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
    _owner: Arc<LeaveOnDrop>,
}

/// Sets up a node's part in a cluster.
#[must_use = "nothing is started before `start`"]
pub struct ClusterBuilder {
    url: String,
    name: Box<str>,
    world_kinds: Option<RangeInclusive<u32>>,
    trust: Option<Trust>,
    on_world_gap: Box<dyn Fn(WorldGap) + Send + Sync>,
}

struct Shared {
    link: Mutex<Link>,
    /// Wakes the thread of the link.
    wake: Condvar,
    has_ended: AtomicBool,
    server: ServerHandle,
    /// The part of the paced rate for packets of other nodes.
    paced_rate: Mutex<PacedRate>,
    metrics: Arc<ClusterMetrics>,
    id: NodeId,
    name: Box<str>,
    world_kinds: Option<RangeInclusive<u32>>,
    on_world_gap: Box<dyn Fn(WorldGap) + Send + Sync>,
}

struct LeaveOnDrop {
    shared: Arc<Shared>,
    thread_id: ThreadId,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl ClusterBuilder {
    /// Sets the name of this node, for logs and [`Cluster::nodes`]: 64 bytes at most, the rest is cut off.
    pub fn node(mut self, name: impl Into<Box<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the kinds of groups that span all nodes. Default: no kind.
    pub fn world_groups(mut self, kinds: RangeInclusive<u32>) -> Self {
        self.world_kinds = Some(kinds);
        self
    }

    /// Sets the certificates by which the node trusts a broker with TLS, at a URL that begins with `rediss://`. The
    /// name in the broker's certificate is the host of the URL, if [`server_name`] sets no other one.
    ///
    /// [`server_name`]: crate::TlsClientConfig::server_name
    #[cfg(feature = "tls")]
    pub fn tls(mut self, trust: crate::runtime::tls::TlsClientConfig) -> Self {
        self.trust = Some(trust);
        self
    }

    /// Sets the function that learns of lost packets of other nodes: a game can send its members a snapshot. The
    /// function runs on the thread of the link, behind the packets that it is told of, and must be short: heartbeats
    /// and logins wait for it. Gaps of one sender and group that wait meanwhile are one call, with the sum. A panic in it
    /// is caught. While the server [is congested](crate::ServerHandle::is_congested), a snapshot should wait.
    pub fn on_world_gap(mut self, on_world_gap: impl Fn(WorldGap) + Send + Sync + 'static) -> Self {
        self.on_world_gap = Box::new(on_world_gap);
        self
    }

    /// Checks the URL, without a connection: a program can do that before its server listens.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a URL that is not valid, or that asks for TLS (`rediss://`) without the
    /// feature `tls` or without `ClusterBuilder::tls`, or that does not ask for TLS with `ClusterBuilder::tls`.
    pub fn check(&self) -> io::Result<()> {
        redis::parse(&self.url, self.trust.is_some()).map(drop)
    }

    /// Attaches a node to its cluster, and starts two threads. The first connection follows, and the call does not
    /// wait for it. Sessions that are logged in already are in the cluster from then on, as logins of that instant, and get
    /// no second answer.
    ///
    /// # Errors
    /// As [`check`](Self::check); [`io::ErrorKind::AlreadyExists`] if the server has a cluster; errors of the start of
    /// threads.
    pub fn start(self, server: &ServerHandle) -> io::Result<Cluster> {
        let random = RandomState::new();
        let incarnation = Incarnation(random.hash_one(0));
        let now = Instant::now();
        let metrics = Arc::new(ClusterMetrics::default());
        let config = LinkConfig {
            name: envelope::cut_name(&self.name).into(),
            incarnation,
            seed: random.hash_one(1),
        };
        let shared = Arc::new(Shared {
            link: Mutex::new(Link::new(config, Arc::clone(&metrics), now)),
            wake: Condvar::new(),
            has_ended: AtomicBool::new(false),
            server: server.clone(),
            paced_rate: Mutex::new(PacedRate::of_link()),
            metrics,
            id: NodeId::of(incarnation),
            name: envelope::cut_name(&self.name).into(),
            world_kinds: self.world_kinds,
            on_world_gap: self.on_world_gap,
        });
        let of_reader = Arc::clone(&shared);
        let events = move |connection, event: Event<'_>| {
            of_reader.with_link(|link, now| link.handle(connection, event, now));
        };
        let redis = Redis::new(&self.url, self.trust, Arc::new(events))?;
        // The thread waits for this lock: a second cluster of the server connects to no broker.
        let mut link = shared.lock();
        let of_thread = Arc::clone(&shared);
        let thread = start::spawn("cluster-link", move || of_thread.run(redis))?;
        let Some(logins) = server.attach_link(Box::new(NodeLink(Arc::downgrade(&shared)))) else {
            // The thread ends by itself.
            shared.has_ended.store(true, Ordering::Release);
            let text = "the server has a cluster already";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        };
        for (session, account) in logins {
            link.adopt_login(session, &account, wall_ms());
        }
        let of_workers = Arc::downgrade(&shared);
        let watch = MemberWatch(Arc::new(move |group, is_join| {
            if let Some(shared) = of_workers.upgrade().filter(|shared| shared.spans(group)) {
                shared.with_link(|link, now| link.change_members(group, is_join, now));
            }
        }));
        server.watch_members(Some(&watch));
        drop(link);
        let owner = LeaveOnDrop {
            shared: Arc::clone(&shared),
            thread_id: thread.thread().id(),
            thread: Mutex::new(Some(thread)),
        };
        Ok(Cluster {
            shared,
            _owner: Arc::new(owner),
        })
    }
}

impl Cluster {
    /// Sets up a node's part in a cluster whose broker is at `url`: `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`, the
    /// same with `rediss://` for TLS, or `unix:///PATH`.
    pub fn builder(url: impl Into<String>) -> ClusterBuilder {
        ClusterBuilder {
            url: url.into(),
            name: "node".into(),
            world_kinds: None,
            trust: None,
            on_world_gap: Box::new(|_| {}),
        }
    }

    /// The number of this node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.shared.id
    }

    /// Sends an encoded packet to all members of a group, on all nodes, if the kind of the group is one of
    /// [`world_groups`](ClusterBuilder::world_groups). The same as
    /// [`ServerHandle::broadcast_buffer_to`](crate::ServerHandle::broadcast_buffer_to): it waits while the mailbox
    /// of a worker of this node is full, and not for the broker.
    pub fn broadcast_world(&self, group: GroupId, packet: &SendBuffer) {
        self.shared.server.broadcast_buffer_to(group, None, packet);
    }

    /// Sends an encoded packet to all sessions, on all nodes. Waits as
    /// [`broadcast_world`](Self::broadcast_world) does.
    pub fn broadcast_everybody(&self, packet: &SendBuffer) {
        self.shared.server.broadcast_buffer(packet);
        self.broadcast_elsewhere(packet);
    }

    /// Sends an encoded packet to all sessions on the other nodes.
    pub fn broadcast_elsewhere(&self, packet: &SendBuffer) {
        self.shared.publish(Audience::All, packet);
    }

    /// The members of a world group in the cluster. A node announces the counts of its first 4,096 world groups, by
    /// [`GroupId`]: the members of its further groups are not in this count on the other nodes, and get all packets.
    #[must_use]
    pub fn count(&self, group: GroupId) -> WorldCount {
        self.shared.read_link(|link, now| {
            let local = link.local_members(group);
            let (sessions, nodes) = link.picture().members(group);
            WorldCount {
                sessions: sessions + u64::from(local),
                nodes: nodes + usize::from(local > 0),
                age: link.picture_age(now),
            }
        })
    }

    /// The nodes of the cluster: this one and up to 256 others. Messages of further nodes are dropped and counted
    /// ([`Why::TooManyNodes`]).
    #[must_use]
    pub fn nodes(&self) -> Nodes {
        let shared = &self.shared;
        let local = NodeInfo {
            id: shared.id,
            name: shared.name.clone(),
            sessions: shared.sessions(),
            is_draining: shared.server.is_shutting_down(),
            is_local: true,
            age: Duration::ZERO,
        };
        let mut nodes = shared.read_link(|link, now| {
            let others = link
                .picture()
                .present()
                .map(|(incarnation, node)| NodeInfo {
                    id: NodeId::of(incarnation),
                    name: node.name.clone(),
                    sessions: node.sessions,
                    is_draining: node.is_draining,
                    is_local: false,
                    age: now.saturating_duration_since(node.heard_at()),
                });
            Nodes {
                nodes: others.chain([local]).collect(),
                age: link.picture_age(now),
                is_link_up: link.is_up(),
            }
        });
        nodes
            .nodes
            .sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        nodes
    }

    /// Makes a session the only one of an account, of 64 bytes at most: another session of the account ends, on any
    /// node, with [`DisconnectReason::LoggedInElsewhere`]. The answer
    /// is a call of [`Session::on_login`](crate::Session::on_login) within 1 s, or within 2 s while a write to the
    /// broker blocks. The login ends with the session, or with its login to another account. A session that has ended
    /// is not logged in. Of several logins of a session that wait for an answer, the newest gets one for sure. Waits as
    /// [`broadcast_world`](Self::broadcast_world) does.
    pub fn login(&self, session: SessionId, account: &str) {
        self.shared.server.login(session, account);
    }

    /// Sends an encoded packet to the session of an account, on any node, at most once. Without a session of the
    /// account the packet is dropped and counted ([`Why::NoSession`]); without the link, too, unless the session is on
    /// this node. Another node may drop the packet ([`Why::Congested`]), and a node whose mailbox is full
    /// ([`Why::MailboxFull`]).
    pub fn tell(&self, account: &str, packet: &SendBuffer) {
        match self.shared.session_alone(account) {
            Some(session) => self.shared.send(session, packet),
            None => self.shared.with_link(|link, _| link.tell(account, packet)),
        }
    }

    /// Ends the session of an account, on any node, with
    /// [`DisconnectReason::KickedByOperator`]. Without the link, only a
    /// session of this node. A kick that finds no session is counted ([`Why::NoSession`]).
    pub fn kick(&self, account: &str) {
        let reason = DisconnectReason::KickedByOperator;
        match self.shared.session_alone(account) {
            Some(session) => self.shared.server.post_close(session, reason),
            None => self.shared.with_link(|link, _| link.kick(account)),
        }
    }

    /// Finds the session of an account, on any node. The answer is in the receiver at once if the session is on this
    /// node, and after a round trip to the broker otherwise. `None`: the account has no session, or its node is not
    /// in [`nodes`](Self::nodes). Without an answer of the broker the receiver is disconnected: at once without the
    /// link, and within 4 s if the link is lost.
    #[must_use]
    pub fn find(&self, account: &str) -> Receiver<Option<AccountSession>> {
        let (sender, receiver) = mpsc::sync_channel(1);
        match self.shared.session_alone(account) {
            Some(session) => {
                let (node, node_name) = (self.shared.id, self.shared.name.clone());
                // The receiver is here, and has room for it.
                let _ = sender.try_send(Some(AccountSession {
                    node,
                    node_name,
                    session,
                }));
            }
            None => (self.shared).with_link(|link, _| link.find_session(account, sender)),
        }
        receiver
    }

    /// The counters of the link.
    #[must_use]
    pub fn metrics(&self) -> &ClusterMetrics {
        &self.shared.metrics
    }

    /// Leaves the cluster: the other nodes stop counting this node at once. The sessions of this node stay
    /// connected, and their logins are those of the node alone from then on.
    ///
    /// Waits for the running call of [`on_world_gap`](ClusterBuilder::on_world_gap), and up to 2 s until the broker has
    /// taken a write that is under way and the message. In `on_world_gap` and in a callback of a session the call does
    /// not wait.
    pub fn leave(&self) {
        self._owner.leave();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Link> {
        // A panic in the link is a bug of ours, and must not take the game's threads down.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_link<R>(&self, read: impl FnOnce(&Link, Instant) -> R) -> R {
        read(&self.lock(), Instant::now())
    }

    /// Gives the link something to do, carries out its outputs and wakes its thread for its commands.
    fn with_link<R>(&self, change: impl FnOnce(&mut Link, Instant) -> R) -> R {
        let mut link = self.lock();
        let result = change(&mut link, Instant::now());
        let outputs = self.take_outputs(&mut link);
        let wants_thread = link.wants_thread();
        drop(link);
        if wants_thread {
            self.wake.notify_one();
        }
        self.carry_out(outputs);
        result
    }

    /// Takes the outputs. The accounts of this node get the logins that have begun under the lock of the link: in the
    /// order of the link, and in front of the end of the session.
    fn take_outputs(&self, link: &mut Link) -> Vec<Output> {
        for (session, account) in link.take_begun_logins() {
            self.server.note_login(session, &account);
        }
        link.take_outputs()
    }

    /// The session of an account on this node, if the node has left the cluster: its link knows no login then.
    fn session_alone(&self, account: &str) -> Option<SessionId> {
        let has_left = self.has_ended.load(Ordering::Acquire);
        has_left.then(|| self.server.session_of(account)).flatten()
    }

    /// Sends a packet of this node to one of its sessions, or drops and counts it.
    fn send(&self, session: SessionId, packet: &[u8]) {
        if !self.server.deliver_to(session, packet) {
            self.metrics.drop_one(Why::MailboxFull);
        }
    }

    fn carry_out(&self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Deliver(node, audience, packet) => {
                    let deliver = || self.server.deliver(audience, &packet);
                    match self.deliver_paced(packet.len(), deliver) {
                        Ok(()) => self.metrics.received.add(1),
                        Err(why) => self.with_link(|link, _| link.miss(node, audience, why)),
                    }
                }
                Output::Send(session, packet) => self.send(session, &packet),
                Output::DeliverTo(session, packet) => {
                    let deliver = || self.server.deliver_to(session, &packet);
                    if let Err(why) = self.deliver_paced(packet.len(), deliver) {
                        self.metrics.drop_one(why);
                    }
                }
                Output::Close(session, reason) => self.server.post_close(session, reason),
                Output::Answer(session, answer) => self.server.answer_login(session, answer),
            }
        }
    }

    /// Delivers a packet, or returns why it is dropped. A packet of another node cannot wait at the session that sent
    /// it: while this server is congested, the packets beyond the link's part of the paced rate are dropped. A packet
    /// without room in a mailbox takes nothing of that part.
    fn deliver_paced(&self, bytes: usize, deliver: impl FnOnce() -> bool) -> Result<(), Why> {
        let rate = || (self.paced_rate.lock()).unwrap_or_else(PoisonError::into_inner);
        let congested_at = (self.server.is_congested()).then(|| self.server.now());
        if congested_at.is_some_and(|now| !rate().has_room(now)) {
            return Err(Why::Congested);
        }
        if !deliver() {
            return Err(Why::MailboxFull);
        }
        if let Some(now) = congested_at {
            rate().charge(bytes, now);
        }
        Ok(())
    }

    fn publish(&self, audience: Audience, packet: &[u8]) {
        self.with_link(|link, now| link.publish(audience, packet, now));
    }

    fn spans(&self, group: GroupId) -> bool {
        (self.world_kinds.as_ref()).is_some_and(|kinds| kinds.contains(&group.kind()))
    }

    fn sessions(&self) -> u32 {
        u32::try_from(self.server.metrics().totals().sessions).unwrap_or(u32::MAX)
    }

    /// The thread of the link: gives the broker its commands.
    fn run(&self, mut broker: Redis) {
        let mut was_up = false;
        loop {
            let mut link = self.lock();
            let (commands, outputs, gaps, has_ended) = loop {
                let has_ended = self.has_ended.load(Ordering::Acquire);
                let now = Instant::now();
                link.set_load(self.sessions(), self.server.is_shutting_down());
                if has_ended {
                    link.leave(now);
                } else {
                    link.tick(now);
                }
                let (commands, outputs) = (link.take_commands(), self.take_outputs(&mut link));
                let gaps = link.take_gaps();
                if has_ended || !(commands.is_empty() && outputs.is_empty() && gaps.is_empty()) {
                    break (commands, outputs, gaps, has_ended);
                }
                let wait = (link.next_tick_at())
                    .map_or(link::BEAT, |at| at.saturating_duration_since(now));
                link = (self.wake.wait_timeout(link, wait))
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            };
            let is_up = link.is_up();
            let write_timeout = link.write_timeout(Instant::now());
            drop(link);
            if is_up != was_up && !has_ended {
                was_up = is_up;
                log::info!("cluster: link {}", if is_up { "up" } else { "down" });
            }
            self.carry_out(outputs);
            self.give(&mut broker, commands, write_timeout);
            for gap in gaps {
                if self.has_ended.load(Ordering::Acquire) {
                    break;
                }
                // The link goes on even if code of the game panics.
                let _ = guarded(|| (self.on_world_gap)(gap));
            }
            if has_ended {
                return;
            }
        }
    }

    fn give(&self, broker: &mut Redis, commands: Vec<Command>, write_timeout: Duration) {
        let mut requests: Vec<Request> = Vec::new();
        for command in commands {
            match command {
                Command::Send(request) => requests.push(request),
                Command::Connect(connection) => broker.connect(connection),
                Command::Close(connection) => broker.close(connection),
            }
        }
        if !requests.is_empty() {
            broker.send(requests, write_timeout);
        }
        if let Some(connection) = broker.take_failed() {
            self.with_link(|link, now| link.handle(connection, Event::Lost, now));
        }
    }
}

impl LeaveOnDrop {
    fn leave(&self) {
        if !self.shared.has_ended.swap(true, Ordering::AcqRel) {
            // The workers have the whole paced rate again.
            self.shared.server.watch_members(None);
        }
        // From here on the link takes no login. The thread gives the broker the last commands, and ends.
        self.shared.with_link(|link, now| link.leave(now));
        self.shared.wake.notify_one();
        if thread::current().id() == self.thread_id || outbox::is_open() {
            // `on_world_gap` leaves: the thread ends behind it. Or a worker does: `on_world_gap` may wait for its
            // mailbox.
            return;
        }
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of the cluster's link has panicked");
        }
    }
}

impl Drop for LeaveOnDrop {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The link as the router sees it. The link has a handle of the server, so this is a weak reference: a server that has
/// ended is freed.
struct NodeLink(Weak<Shared>);

impl crate::routing::link::Link for NodeLink {
    fn spans(&self, audience: Audience) -> bool {
        match audience {
            Audience::All => false,
            Audience::Group(group) => (self.0.upgrade()).is_some_and(|shared| shared.spans(group)),
        }
    }

    fn publish(&self, audience: Audience, packet: &SendBuffer) {
        if let Some(shared) = self.0.upgrade() {
            shared.publish(audience, packet);
        }
    }

    fn login(&self, id: SessionId, account: &str) -> bool {
        (self.0.upgrade()).is_some_and(|shared| {
            shared.with_link(|link, now| link.login(id, account, wall_ms(), now))
        })
    }

    fn end_session(&self, id: SessionId) {
        if let Some(shared) = self.0.upgrade() {
            shared.with_link(|link, _| link.end_session(id));
        }
    }
}

/// Milliseconds since 1970 by the clock of this node.
fn wall_ms() -> u64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    wall.map_or(0, |since| since.as_millis() as u64)
}

impl fmt::Debug for NodeLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeLink")
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("id", &self.shared.id)
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}

/// The URL may have a password.
impl fmt::Debug for ClusterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterBuilder")
            .field("name", &self.name)
            .field("world_kinds", &self.world_kinds)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{ChunkPool, SendBufferManager};
    use crate::testing::{DEADLINE, SimClient, SimServer, packet, wait_until};
    use crate::{Kick, Message, Packet, Server, Session};
    use broker::Reply;
    use std::any::Any;
    use std::io::Write;
    use std::net::TcpStream;
    use std::sync::atomic::AtomicU64;
    use std::sync::{Barrier, OnceLock, mpsc};

    const NO_BROKER: &str = "unix:///nonexistent/redis.sock";

    struct Silent;

    impl Session for Silent {
        fn on_packet(&mut self, _: &mut crate::Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
            Ok(())
        }
    }

    fn server() -> Server {
        let server = Server::builder().start("127.0.0.1:0", |_| Silent);
        server.unwrap()
    }

    fn end(server: Server) {
        server.handle().shutdown(Duration::ZERO);
        server.join().unwrap();
    }

    #[test]
    fn second_cluster_of_a_server_is_refused_and_its_threads_end() {
        let server = server();
        let first = Cluster::builder(NO_BROKER).start(&server.handle()).unwrap();
        let gaps = Arc::new(());
        let of_second = Arc::clone(&gaps);
        let second = Cluster::builder(NO_BROKER)
            .on_world_gap(move |_| assert_eq!(*of_second, ()))
            .start(&server.handle());
        assert_eq!(second.err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        wait_until("its memory to be freed", || Arc::strong_count(&gaps) == 1);
        first.leave();
        end(server);
    }

    #[test]
    fn cluster_that_cannot_start_leaves_room_for_another() {
        let server = server();
        let refused = Cluster::builder("http://x").start(&server.handle());
        assert_eq!(refused.err().unwrap().kind(), io::ErrorKind::InvalidInput);
        assert!(Cluster::builder(NO_BROKER).start(&server.handle()).is_ok());
        end(server);
    }

    #[test]
    fn memory_of_a_cluster_is_freed_with_it_though_the_server_lives() {
        let server = server();
        let cluster = Cluster::builder(NO_BROKER).start(&server.handle()).unwrap();
        let shared = Arc::downgrade(&cluster.shared);
        drop(cluster);
        wait_until("the server to hold no link", || shared.upgrade().is_none());
        end(server);
    }

    /// `on_world_gap` is code of the game, on the thread of the link.
    #[test]
    fn function_for_gaps_may_panic_and_may_leave() {
        let server = server();
        let (sender, gaps) = mpsc::channel();
        let own: Arc<OnceLock<Cluster>> = Arc::default();
        let of_gaps = Arc::clone(&own);
        let cluster = Cluster::builder(NO_BROKER)
            .on_world_gap(move |gap| {
                sender.send(gap.group).unwrap();
                match gap.group {
                    None => of_gaps.get().unwrap().leave(),
                    Some(_) => panic!("a bug of the game"),
                }
            })
            .start(&server.handle())
            .unwrap();
        own.set(cluster.clone()).unwrap();
        let shared = Arc::clone(&cluster.shared);
        let why = Why::MailboxFull;
        let miss = |audience| shared.with_link(|link, _| link.miss(NodeId(7), audience, why));
        let group = GroupId::new(1, 1);
        for _ in 0..2 {
            miss(Audience::Group(group));
            assert_eq!(
                gaps.recv_timeout(DEADLINE),
                Ok(Some(group)),
                "the thread goes on"
            );
        }
        miss(Audience::All);
        assert_eq!(gaps.recv_timeout(DEADLINE), Ok(None));
        wait_until("the node to leave", || {
            shared.read_link(|link, _| link.next_tick_at()).is_none()
        });
        end(server);
    }

    #[test]
    fn gaps_that_wait_for_a_slow_function_are_one_call_for_each_sender_and_group() {
        let server = server();
        let ((sender, gaps), (go, may_go)) = (mpsc::channel(), mpsc::channel::<()>());
        let may_go = Mutex::new(may_go);
        let cluster = Cluster::builder(NO_BROKER)
            .on_world_gap(move |gap| {
                sender.send((gap.node, gap.group, gap.lost)).unwrap();
                let _ = may_go.lock().unwrap().recv();
            })
            .start(&server.handle())
            .unwrap();
        let miss = |node, audience| {
            let miss = |link: &mut Link, _| link.miss(NodeId(node), audience, Why::Congested);
            cluster.shared.with_link(miss);
        };
        let group = GroupId::new(1, 1);
        miss(7, Audience::All);
        let first = gaps.recv_timeout(DEADLINE).unwrap();
        assert_eq!(first, (Some(NodeId(7)), None, Some(1)));
        // The function is slow from now on.
        for _ in 0..2_000 {
            miss(7, Audience::All);
            miss(8, Audience::All);
            miss(7, Audience::Group(group));
            miss(7, Audience::All);
        }
        drop(go);
        let rest = [0; 3].map(|_| gaps.recv_timeout(DEADLINE).unwrap());
        let expected = [(7, None, 4_000), (8, None, 2_000), (7, Some(group), 2_000)];
        let expected = expected.map(|(node, of, lost)| (Some(NodeId(node)), of, Some(lost)));
        assert_eq!(rest, expected);
        assert_eq!(cluster.metrics().gaps.get(), 4, "calls");
        assert_eq!(cluster.metrics().dropped(Why::Congested), 8_001);
        cluster.leave();
        assert!(gaps.try_recv().is_err());
        end(server);
    }

    /// Sends this packet to all sessions for each packet of its peer.
    struct Talker(SendBuffer);

    impl Session for Talker {
        fn on_packet(&mut self, ctx: &mut crate::Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
            ctx.broadcast_buffer(self.0.clone());
            Ok(())
        }
    }

    /// In virtual time. Two other nodes send 800 KiB/s each, beside the sessions of this node.
    #[test]
    fn packets_of_other_nodes_end_no_reader_that_keeps_up_and_each_lost_one_is_told() {
        const STEP: Duration = Duration::from_micros(2_500);
        /// A reader takes 64 KiB in this number of steps: 1 MiB/s.
        const READ_EACH: usize = 25;
        let [chat, remote] = [1, 2].map(|id| packet(id, [b'x'; 508]));
        for talkers in [0, 4] {
            let buffers = SendBufferManager::new(ChunkPool::new(1024, 1));
            let to_all = buffers.write(chat.len(), |free| {
                free[..chat.len()].copy_from_slice(&chat);
                chat.len()
            });
            let talker = move |_| Talker(to_all.clone());
            let mut server = SimServer::start(1, Server::builder().workers(2), talker);
            let told = Arc::new(AtomicU64::new(0));
            let of_gaps = Arc::clone(&told);
            let cluster = Cluster::builder(NO_BROKER)
                .on_world_gap(move |gap| {
                    of_gaps.fetch_add(gap.lost.unwrap(), Ordering::SeqCst);
                })
                .start(server.handle())
                .unwrap();
            let mut sent = 0;
            let mut send = |packets: u32| {
                let deliver =
                    |number| Output::Deliver(NodeId(number % 2), Audience::All, remote.clone());
                cluster
                    .shared
                    .carry_out((0..packets).map(deliver).collect());
                sent += u64::from(packets);
            };
            let mut fast = server.connect();
            let mut received = 0;
            let mut count = |fast: &mut SimClient| {
                let packets = fast.packets().into_iter();
                received += packets.filter(|packet| packet.id == 2).count() as u64;
            };
            let mut talkers: Vec<_> = (0..talkers).map(|_| server.connect()).collect();
            let metrics = cluster.metrics();
            for _ in 0..400 {
                send(8);
                server.advance(STEP);
            }
            count(&mut fast);
            assert_eq!(metrics.received.get(), 8 * 400, "no reader is behind");

            let mut reader = server.connect();
            for step in 0..8_000 {
                if step % READ_EACH == 0 {
                    reader.packets();
                    reader.stop_reading();
                    count(&mut fast);
                    talkers.iter_mut().for_each(|talker| drop(talker.packets()));
                }
                talkers.iter().for_each(|talker| talker.send_bytes(&chat));
                send(8);
                server.advance(STEP);
                assert!(!reader.is_closed(), "after {:?}", STEP * step as u32);
            }
            count(&mut fast);
            let dropped = [Why::Congested, Why::MailboxFull].map(|why| metrics.dropped(why));
            assert!(dropped[0] > 0);
            assert_eq!(received, metrics.received.get());
            assert_eq!(received + dropped.iter().sum::<u64>(), sent);
            wait_until("each lost packet to be told", || {
                told.load(Ordering::SeqCst) == dropped.iter().sum::<u64>()
            });
        }
    }

    /// Tells the test its number, at its begin and for each message, and the answers to its logins.
    struct Told(mpsc::Sender<(SessionId, Option<LoginAnswer>)>);

    impl Session for Told {
        fn on_connected(&mut self, ctx: &mut crate::Context<'_>) {
            let _ = self.0.send((ctx.id(), None));
        }

        fn on_packet(&mut self, _: &mut crate::Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
            Ok(())
        }

        fn on_login(&mut self, ctx: &mut crate::Context<'_>, answer: LoginAnswer) {
            let _ = self.0.send((ctx.id(), Some(answer)));
        }

        fn on_message(&mut self, ctx: &mut crate::Context<'_>, _: Box<dyn Any + Send>) {
            let _ = self.0.send((ctx.id(), None));
        }
    }

    #[derive(Debug)]
    struct Note;

    impl Message for Note {}

    fn told_server() -> (SimServer<Told>, Receiver<(SessionId, Option<LoginAnswer>)>) {
        let (sender, told) = mpsc::channel();
        let builder = Server::builder().workers(2);
        let server = SimServer::start(1, builder, move |_| Told(sender.clone()));
        (server, told)
    }

    fn buffer(bytes: &[u8]) -> SendBuffer {
        let buffers = SendBufferManager::new(ChunkPool::new(1024, 1));
        buffers.write(bytes.len(), |free| {
            free[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        })
    }

    /// A server in virtual time, and a link without threads. The broker is empty, and answers when the test says so.
    struct Bench {
        server: SimServer<Told>,
        shared: Arc<Shared>,
        told: Receiver<(SessionId, Option<LoginAnswer>)>,
    }

    impl Bench {
        fn new() -> Self {
            let (server, told) = told_server();
            let (metrics, now) = (Arc::<ClusterMetrics>::default(), Instant::now());
            let config = LinkConfig {
                name: "a".into(),
                incarnation: Incarnation(1),
                seed: 1,
            };
            let shared = Arc::new(Shared {
                link: Mutex::new(Link::new(config, Arc::clone(&metrics), now)),
                wake: Condvar::new(),
                has_ended: AtomicBool::new(false),
                server: server.handle().clone(),
                paced_rate: Mutex::new(PacedRate::of_link()),
                metrics,
                id: NodeId(1),
                name: "a".into(),
                world_kinds: None,
                on_world_gap: Box::new(|_| {}),
            });
            (server.handle()).attach_link(Box::new(NodeLink(Arc::downgrade(&shared))));
            shared.with_link(|link, now| link.tick(now));
            shared.with_link(|link, now| link.handle(1, Event::Connected, now));
            let bench = Self {
                server,
                shared,
                told,
            };
            while !bench.shared.lock().is_up() {
                bench.answer();
            }
            bench
        }

        /// Answers all requests.
        fn answer(&self) {
            let handle = |event: Event<'_>| {
                self.shared
                    .with_link(|link, now| link.handle(1, event, now))
            };
            let commands = self.shared.lock().take_commands();
            assert!(!commands.is_empty(), "the link waits for nothing");
            for command in commands {
                let Command::Send(request) = command else {
                    continue;
                };
                handle(Event::Reply(match &request {
                    Request::GetLogins(accounts) => Reply::Values(vec![None; accounts.len()]),
                    _ => Reply::Done,
                }));
                if let Request::Publish(channel, message) = &request {
                    let channel = channel.to_string();
                    handle(Event::Message(channel.as_bytes(), message));
                }
            }
        }

        fn connect(&mut self) -> (SimClient, SessionId) {
            let client = self.server.connect();
            self.server.advance(Duration::ZERO);
            (client, self.told.try_recv().unwrap().0)
        }

        fn log_in(&mut self, session: SessionId, account: &str) {
            self.server.handle().login(session, account);
            self.server.advance(Duration::ZERO);
        }

        /// The session that a message to an account reaches. The answers to logins are discarded.
        fn session_of(&mut self, account: &str) -> Option<SessionId> {
            self.server.advance(Duration::ZERO);
            self.told.try_iter().for_each(drop);
            let is_posted = self.server.handle().post_to_account(account, Note).unwrap();
            self.server.advance(Duration::ZERO);
            let reached = self.told.try_recv().ok().map(|(session, _)| session);
            assert_eq!(is_posted, reached.is_some());
            reached
        }
    }

    #[test]
    fn login_that_waits_for_its_turn_takes_the_account_of_no_other_session() {
        let mut bench = Bench::new();
        let ((old_client, old), (new_client, new)) = (bench.connect(), bench.connect());
        bench.log_in(old, "bob");
        bench.answer();
        for account in ["ada", "bob"] {
            bench.log_in(new, account);
        }
        assert_eq!(bench.session_of("bob"), Some(old));
        assert_eq!(bench.session_of("ada"), Some(new));
        drop(new_client);
        bench.server.advance(Duration::ZERO);
        bench.answer();
        assert_eq!(bench.session_of("bob"), Some(old));
        assert_eq!(bench.session_of("ada"), None);
        assert!(!old_client.is_closed());
    }

    #[test]
    fn login_that_a_newer_one_of_its_session_replaces_takes_no_account() {
        let mut bench = Bench::new();
        let ((old_client, old), (_new_client, new)) = (bench.connect(), bench.connect());
        bench.log_in(old, "bob");
        bench.answer();
        for account in ["ada", "bob", "eve"] {
            bench.log_in(new, account);
        }
        bench.answer();
        let sessions = ["ada", "bob", "eve"].map(|account| bench.session_of(account));
        assert_eq!(sessions, [None, Some(old), Some(new)]);
        assert!(!old_client.is_closed());
    }

    #[test]
    fn login_whose_turn_comes_has_its_account_though_another_session_took_it_meanwhile() {
        let mut bench = Bench::new();
        let ((waits_client, waits), (taker_client, taker)) = (bench.connect(), bench.connect());
        for account in ["ada", "bob"] {
            bench.log_in(waits, account);
        }
        bench.log_in(taker, "bob");
        assert_eq!(bench.session_of("bob"), Some(taker));
        bench.answer();
        assert_eq!(bench.session_of("bob"), Some(waits));
        assert!(taker_client.is_closed() && !waits_client.is_closed());
    }

    #[test]
    fn login_that_waits_for_its_turn_while_the_node_leaves_has_its_account_and_an_answer() {
        let mut bench = Bench::new();
        let ((old_client, old), (_new_client, new)) = (bench.connect(), bench.connect());
        bench.log_in(old, "bob");
        bench.answer();
        for account in ["ada", "bob"] {
            bench.log_in(new, account);
        }
        bench.server.advance(Duration::ZERO);
        bench.told.try_iter().for_each(drop);
        bench.shared.with_link(|link, now| link.leave(now));
        bench.server.advance(Duration::ZERO);
        let unsure = (new, Some(LoginAnswer::Unsure));
        assert_eq!(bench.told.try_iter().collect::<Vec<_>>(), [unsure; 2]);
        assert_eq!(bench.session_of("bob"), Some(new));
        assert_eq!(bench.session_of("ada"), None);
        assert!(old_client.is_closed());
        // The node alone logs in from here on.
        let (_client, last) = bench.connect();
        bench.log_in(last, "bob");
        assert_eq!(
            bench.told.try_recv(),
            Ok((last, Some(LoginAnswer::Replaced)))
        );
        assert_eq!(bench.session_of("bob"), Some(last));
    }

    /// Without a connection the link answers at once.
    #[test]
    fn link_and_accounts_agree_on_the_session_of_an_account_for_which_two_workers_race() {
        let server = server();
        let cluster = Cluster::builder(NO_BROKER).start(&server.handle()).unwrap();
        let shared = &cluster.shared;
        let race = Barrier::new(2);
        for round in 0..2_000 {
            thread::scope(|scope| {
                for worker in 0..2 {
                    let race = &race;
                    scope.spawn(move || {
                        let link = NodeLink(Arc::downgrade(shared));
                        race.wait();
                        let session = SessionId::new(round, worker, 0);
                        assert!(crate::routing::link::Link::login(&link, session, "ada"));
                    });
                }
            });
            let of_link = shared.read_link(|link, _| link.local_login("ada"));
            assert_eq!(shared.server.session_of("ada"), of_link, "in round {round}");
        }
        cluster.leave();
        end(server);
    }

    #[test]
    fn node_that_has_left_kicks_tells_and_finds_by_its_own_logins() {
        let (server, told) = told_server();
        let cluster = Cluster::builder(NO_BROKER).node("a");
        let cluster = cluster.start(server.handle()).unwrap();
        let shared = Arc::clone(&cluster.shared);
        let mut bench = Bench {
            server,
            shared,
            told,
        };
        let (mut client, session) = bench.connect();
        bench.log_in(session, "ada");
        cluster.leave();
        bench.log_in(session, "bob");
        cluster.kick("ada");
        bench.server.advance(Duration::ZERO);
        assert!(!client.is_closed(), "it is `bob` now");
        assert!(cluster.find("ada").try_recv().is_err());
        let found = cluster.find("bob").try_recv().unwrap().unwrap();
        assert_eq!((found.session, &*found.node_name), (session, "a"));
        cluster.tell("bob", &buffer(&packet(1, [0; 4])));
        bench.server.advance(Duration::ZERO);
        assert_eq!(client.packets().len(), 1);
        cluster.kick("bob");
        bench.server.advance(Duration::ZERO);
        assert!(client.is_closed());
    }

    /// In virtual time.
    #[test]
    fn tell_on_this_node_and_a_packet_without_room_take_nothing_of_the_rate_for_other_nodes() {
        let (mut server, told) = told_server();
        let cluster = Cluster::builder(NO_BROKER).start(server.handle()).unwrap();
        let metrics = cluster.metrics();
        let bytes = packet(1, [b'x'; 508]);
        let deliver = |packets: usize| {
            let one = Output::Deliver(NodeId(7), Audience::All, bytes.clone());
            cluster.shared.carry_out(vec![one; packets]);
        };
        let dropped =
            || [Why::Congested, Why::MailboxFull].map(|why| cluster.metrics().dropped(why));
        let mut connect = || {
            let client = server.connect();
            server.advance(Duration::ZERO);
            (client, told.try_recv().unwrap().0)
        };
        let ((mut reader, _), (mut listener, listener_id)) = (connect(), connect());
        server.handle().login(listener_id, "ada");
        // 1.6 MB/s, of which the reader takes 1 MiB/s.
        for step in 0.. {
            if step % 25 == 0 {
                reader.packets();
                reader.stop_reading();
            }
            deliver(8);
            server.advance(Duration::from_micros(2_500));
            listener.packets();
            if server.handle().is_congested() {
                break;
            }
            assert!(step < 8_000, "the reader keeps up");
        }
        // The mailboxes are full for packets of other nodes.
        let to_all = buffer(&bytes);
        for _ in 0..600 {
            server.handle().broadcast_buffer(&to_all);
        }
        let before = dropped();
        deliver(100);
        assert_eq!(dropped(), [before[0], before[1] + 100]);
        server.advance(Duration::ZERO);
        let received = metrics.received.get();
        deliver(1);
        assert_eq!(metrics.received.get(), received + 1);

        // All of the rate is used.
        assert!(server.handle().is_congested());
        deliver(100);
        assert!(dropped()[0] > before[0]);
        server.advance(Duration::ZERO);
        assert!(server.handle().is_congested());
        let (before, _) = (dropped(), listener.packets());
        for _ in 0..100 {
            cluster.tell("ada", &to_all);
        }
        server.advance(Duration::ZERO);
        assert_eq!(listener.packets().len(), 100);
        assert_eq!(dropped(), before);
    }

    /// A cluster whose function for gaps waits for the receiver of the test before it counts its call, and ten gaps.
    fn cluster_with_gaps(server: &Server) -> (Cluster, Receiver<()>, mpsc::Sender<()>) {
        let ((begins, begun), (release, waits)) = (mpsc::channel(), mpsc::channel());
        let waits = Mutex::new(waits);
        let cluster = Cluster::builder(NO_BROKER)
            .on_world_gap(move |_| {
                begins.send(()).unwrap();
                let _ = waits.lock().unwrap().recv_timeout(DEADLINE);
            })
            .start(&server.handle())
            .unwrap();
        cluster.shared.with_link(|link, _| {
            for group in 0..10 {
                let audience = Audience::Group(GroupId::new(1, group));
                link.miss(NodeId(7), audience, Why::MailboxFull);
            }
        });
        begun.recv_timeout(DEADLINE).unwrap();
        (cluster, begun, release)
    }

    #[test]
    fn node_that_leaves_waits_for_the_running_call_for_a_gap_and_makes_no_further_one() {
        let server = server();
        let (cluster, begun, release) = cluster_with_gaps(&server);
        let leaver = cluster.clone();
        let leaves = thread::spawn(move || leaver.leave());
        wait_until("the node to leave", || {
            cluster.shared.has_ended.load(Ordering::Acquire)
        });
        // More than one call would find its release.
        (0..10).for_each(|_| release.send(()).unwrap());
        leaves.join().unwrap();
        assert!(begun.try_recv().is_err());
        drop(cluster);
        end(server);
    }

    /// Leaves the cluster when it gets a packet.
    struct Leaver(Arc<OnceLock<Cluster>>, mpsc::Sender<()>);

    impl Session for Leaver {
        fn on_packet(&mut self, _: &mut crate::Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
            self.0.get().unwrap().leave();
            let _ = self.1.send(());
            Ok(())
        }
    }

    /// The function for gaps may wait for the mailbox of that worker.
    #[test]
    fn callback_that_leaves_does_not_wait_for_the_function_for_gaps() {
        let (sender, left) = mpsc::channel();
        let own: Arc<OnceLock<Cluster>> = Arc::default();
        let of_sessions = Arc::clone(&own);
        let server = Server::builder().start("127.0.0.1:0", move |_| {
            Leaver(Arc::clone(&of_sessions), sender.clone())
        });
        let server = server.unwrap();
        let (cluster, _begun, release) = cluster_with_gaps(&server);
        own.set(cluster).unwrap();
        let mut peer = TcpStream::connect(server.local_addr()).unwrap();
        peer.write_all(&packet(1, [])).unwrap();
        let has_left = left.recv_timeout(DEADLINE / 2);
        drop(release);
        assert_eq!(has_left, Ok(()));
        end(server);
    }

    #[test]
    fn logins_without_the_last_clone_of_the_cluster_are_those_of_the_node_alone() {
        logins_are_those_of_the_node_alone(drop);
    }

    #[test]
    fn logins_behind_leave_are_those_of_the_node_alone() {
        let mut left = None;
        logins_are_those_of_the_node_alone(|cluster| left.insert(cluster).leave());
    }

    fn logins_are_those_of_the_node_alone(end_cluster: impl FnOnce(Cluster)) {
        let (sender, told) = mpsc::channel();
        let server = Server::builder().start("127.0.0.1:0", move |_| Told(sender.clone()));
        let server = server.unwrap();
        let handle = server.handle();
        end_cluster(Cluster::builder(NO_BROKER).start(&handle).unwrap());
        let mut peers: Vec<_> = (0..2)
            .map(|_| TcpStream::connect(server.local_addr()).unwrap())
            .collect();
        let ids = [0, 1].map(|_| told.recv_timeout(DEADLINE).unwrap().0);
        for (id, answer) in ids
            .iter()
            .zip([LoginAnswer::Granted, LoginAnswer::Replaced])
        {
            handle.login(*id, "ada");
            assert_eq!(told.recv_timeout(DEADLINE), Ok((*id, Some(answer))));
        }
        wait_until("the older session to end", || {
            handle.metrics().totals().sessions == 1
        });
        peers.clear();
        end(server);
    }

    #[test]
    fn logins_before_the_start_are_in_the_cluster_and_get_no_second_answer() {
        let (sender, told) = mpsc::channel();
        let server = Server::builder().start("127.0.0.1:0", move |_| Told(sender.clone()));
        let server = server.unwrap();
        let handle = server.handle();
        let mut peers: Vec<_> = (0..2)
            .map(|_| TcpStream::connect(server.local_addr()).unwrap())
            .collect();
        let [first, second] = [0, 1].map(|_| told.recv_timeout(DEADLINE).unwrap().0);
        handle.login(first, "ada");
        let granted = Some(LoginAnswer::Granted);
        assert_eq!(told.recv_timeout(DEADLINE), Ok((first, granted)));
        let cluster = Cluster::builder(NO_BROKER).start(&handle).unwrap();
        let local = || cluster.shared.read_link(|link, _| link.local_login("ada"));
        assert_eq!(local(), Some(first));
        // The next login comes through the link, and ends the older session.
        cluster.login(second, "ada");
        let unsure = Some(LoginAnswer::Unsure);
        assert_eq!(told.recv_timeout(DEADLINE), Ok((second, unsure)));
        wait_until("the older session to end", || {
            handle.metrics().totals().sessions == 1
        });
        assert_eq!(local(), Some(second));
        peers.clear();
        wait_until("the login to end with its session", || local().is_none());
        assert!(told.try_recv().is_err());
        end(server);
    }

    #[test]
    fn login_ends_with_its_session_and_none_begins_behind_it() {
        let server = server();
        let handle = server.handle();
        let cluster = Cluster::builder(NO_BROKER).start(&handle).unwrap();
        let peers: Vec<_> = (0..3)
            .map(|_| TcpStream::connect(server.local_addr()).unwrap())
            .collect();
        let sessions = || {
            let mut snapshot = handle.snapshot().unwrap();
            let mut sessions = None;
            wait_until("the snapshot", || {
                sessions = snapshot.poll().unwrap();
                sessions.is_some()
            });
            sessions.unwrap()
        };
        let local = |account: &str| {
            cluster
                .shared
                .read_link(|link, _| link.local_login(account))
        };
        wait_until("three sessions", || sessions().len() == 3);
        let ids: Vec<SessionId> = sessions().iter().map(|session| session.id).collect();
        for id in &ids {
            cluster.login(*id, &id.to_string());
        }
        for id in &ids {
            wait_until("the login", || local(&id.to_string()) == Some(*id));
        }
        drop(peers);
        wait_until("no session", || sessions().is_empty());
        for id in &ids {
            assert_eq!(
                local(&id.to_string()),
                None,
                "the login ends with its session"
            );
            cluster.login(*id, "late");
        }
        // Behind the logins in the mailboxes.
        assert!(sessions().is_empty());
        assert_eq!(local("late"), None);
        end(server);
    }
}
