//! The link of a node to its broker: a machine without socket and clock. Events, requests of the game and the time
//! go in; commands for the broker and outputs for the node come out.
//!
//! ```text
//!              connect                  connected              probe is back, logins compared
//!  Waiting ──────────────► Connecting ────────────► Announcing ───────────────────────────────► Up
//!     ▲   retry, 500 ms at most │ 1 s               │ silent for 1.5 s, probe late by 3 s, lost │
//!     └─────────────────────────┴───────────────────┴───────────────────────────────────────────┘
//! ```

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use super::broker::{Channel, Reply, Request};
use super::envelope::{Body, DecodeError, Envelope, Heartbeat, Incarnation, MAX_GROUPS, cut_name};
use super::logins::{Login, Logins};
use super::metrics::{ClusterMetrics, Why};
use super::outgoing::Outgoing;
use super::picture::{Order, Picture};
use super::{AccountSession, NodeId, WorldGap};
use crate::base::backoff::Backoff;
use crate::base::id::SessionId;
use crate::base::reason::DisconnectReason;
use crate::groups::id::GroupId;
use crate::routing::link::Audience;
use crate::session::LoginAnswer;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

/// Heartbeat, lease and probe are sent once in this time.
pub const BEAT: Duration = Duration::from_secs(1);
/// A connection on which nothing arrives for this time is sent a probe.
const QUIET: Duration = Duration::from_millis(500);
/// A connection on which nothing arrives for this time after a probe is lost. A broker that is back has its link
/// within 2 s: the sum of both times, and the time for a new connection.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// A probe that is not back after this time ends a connection on which other messages arrive.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest time for a connection, with its handshake.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest time for a write to the broker, and the shortest: a peer that takes bytes slowly is there.
const MAX_WRITE_TIMEOUT: Duration = Duration::from_secs(1);
const MIN_WRITE_TIMEOUT: Duration = Duration::from_millis(250);
/// A login without an answer of the broker after this time is granted without the broker.
pub const LOGIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Packets without a reply, at most; and requests of any kind, in front of which a subscription waits.
const WINDOW_REQUESTS: usize = 1024;
/// Bytes of packets without a reply, at most.
const WINDOW_BYTES: usize = 256 << 10;
/// Logins that wait for an answer, at most. A further one is granted without the broker.
const MAX_WAITING_LOGINS: usize = 4096;
/// The most gaps that wait for the game. Beyond it, one gap replaces all of them.
const MAX_GAPS: usize = 1024;
/// Accounts in one request.
const COMPARE_BATCH: usize = 512;
/// All logins are compared once in this time: the broker may lose a key, or a kick.
const COMPARE_INTERVAL: Duration = Duration::from_secs(60);
/// The lifetime of the keys is renewed in each comparison of this number.
const RENEW_EACH: u64 = 60;
/// After the broker has refused a login, all logins are compared again after this time.
const COMPARE_RETRY: Duration = Duration::from_secs(5);
/// A later login of another node is looked at again after this time, if that node may not have deleted its key yet:
/// a link waits up to 500 ms before it connects again.
const SECOND_LOOK: Duration = Duration::from_millis(500);
/// Accounts whose keys have to be deleted when there is a connection, at most. Further keys expire.
const MAX_ENDED: usize = 32_768;
/// The counts of groups are in a heartbeat when they have changed, and in each heartbeat of this number.
const FULL_BEAT: u64 = 5;
/// A tick that comes later than its time by this much: the process was paused.
const STALL: Duration = Duration::from_millis(250);

/// What a link is told when it is made.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// The name of the node.
    pub name: Box<str>,
    /// A random number.
    pub incarnation: Incarnation,
    /// For the delays between connections.
    pub seed: u64,
}

/// An event of the broker. Events of a connection that is not the current one are ignored.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The connection is complete, its login included.
    Connected,
    /// The connection is lost, or failed.
    Lost,
    /// A message on a channel.
    Message(&'a [u8], &'a [u8]),
    /// The answer to the oldest request without one.
    Reply(Reply),
}

/// A command for the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Begin the connection of this number.
    Connect(u64),
    /// End the connection of this number.
    Close(u64),
    /// Send a request.
    Send(Request),
}

/// An output for the sessions and the game of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Deliver a packet of this other node. A packet without room is [`miss`](Link::miss)ed.
    Deliver(NodeId, Audience, Vec<u8>),
    /// Deliver a packet of this node to one session.
    Send(SessionId, Vec<u8>),
    /// Deliver a packet of another node to one session.
    DeliverTo(SessionId, Vec<u8>),
    /// End a session.
    Close(SessionId, DisconnectReason),
    /// Answer a login.
    Answer(SessionId, LoginAnswer),
}

/// The state of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting {
        retry_at: Instant,
    },
    Connecting {
        give_up_at: Instant,
    },
    Announcing,
    Up,
    /// Left for good.
    Ended,
}

/// A request without a reply.
#[derive(Debug)]
enum Pending {
    Other,
    Renew,
    Subscribe(Channel),
    Packet {
        bytes: usize,
    },
    Login {
        account: Arc<str>,
        login: Login,
        is_replaced: bool,
    },
    /// The key of an account becomes this login if it has the value that this node has seen, or none.
    Claim {
        account: Arc<str>,
        login: Login,
        seen: Vec<u8>,
    },
    Compare(Vec<Arc<str>>),
    /// The lease of the node of a later login of this account.
    Lease {
        account: Arc<str>,
        other: Login,
    },
    Drop(Arc<str>),
    /// A kick of an older login of this account.
    Kick(Arc<str>),
    /// A packet or a kick for the session of an account on another node.
    Direct,
    Find {
        account: Arc<str>,
        then: Then,
    },
}

/// What follows when the session of an account is found.
#[derive(Debug)]
enum Then {
    Tell(Vec<u8>),
    Kick,
    Answer(SyncSender<Option<AccountSession>>),
}

/// A login without an answer.
#[derive(Debug)]
struct WaitingLogin {
    until: Instant,
    session: SessionId,
    stamp: u64,
}

/// A comparison of all logins that began before it.
#[derive(Debug)]
struct Comparison {
    /// The last account of the requests so far. The next one is behind it.
    last: Option<Arc<str>>,
    /// A later login came in the middle of the comparison.
    last_stamp: u64,
}

/// The link of one node.
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    metrics: Arc<ClusterMetrics>,
    state: State,
    /// The number of the current connection.
    connection: u64,
    backoff: Backoff,
    random: u64,
    commands: Vec<Command>,
    outputs: Vec<Output>,
    /// Logins whose turn has come, for the accounts of this node.
    begun_logins: Vec<(SessionId, Arc<str>)>,
    /// For the thread of the link alone: what takes them is code of the game.
    gaps: Vec<WorldGap>,

    /// Requests without a reply, in order, and the packets among them and their bytes.
    pending: VecDeque<Pending>,
    window_packets: usize,
    window_bytes: usize,
    outgoing: Outgoing,

    next_beat_at: Instant,
    beats: u64,
    probes: VecDeque<(u64, Instant)>,
    probe_due_at: Instant,
    /// When the connection is silent for too long: it is sent a probe or, if it was, ends.
    silent_at: Instant,
    is_asked: bool,
    /// Whether the broker has refused the last lease, or the key of a login since then.
    refuses_keys: bool,
    /// When the last probe was sent that came back, on this connection.
    proven_until: Option<Instant>,
    /// When the picture was last known to be complete.
    picture_at: Instant,
    last_tick_at: Instant,
    wants_tick: bool,
    was_up: bool,

    picture: Picture,
    sessions: u32,
    is_draining: bool,
    /// The members of world groups on this node.
    members: BTreeMap<GroupId, u32>,
    have_counts_changed: bool,
    subscribed: HashSet<GroupId>,
    /// Groups with members and no subscription, or the other way round.
    unsettled: BTreeSet<GroupId>,
    /// Channels whose subscription the broker has refused. They are tried again with a full heartbeat.
    refused: BTreeSet<Channel>,

    logins: Logins,
    /// Accounts of `logins` that the broker was asked to set: they may have a key of this node.
    asked: HashSet<Arc<str>>,
    unanswered: HashMap<SessionId, u64>,
    waiting_logins: VecDeque<WaitingLogin>,
    /// The newest login of a session whose login has no answer: its account, its wall clock and its time. A session
    /// has one login at the broker.
    next_logins: HashMap<SessionId, (Arc<str>, u64, Instant)>,
    /// Sessions of `next_logins` whose turn it is, each with whether the broker is asked.
    ready_logins: Vec<(SessionId, bool)>,
    /// The comparison of all logins that has more requests to make. It walks through the logins, and copies no list of
    /// them: a worker's thread may begin it.
    comparison: Option<Comparison>,
    /// Accounts of logins that came in the middle of a comparison: they do not hold up the state Up.
    compare_next: BTreeSet<Arc<str>>,
    /// Requests of comparisons without a reply.
    comparing: usize,
    /// Accounts without a login of this node, whose keys may name one: a key is not deleted without a connection.
    /// They are compared before all others.
    ended: BTreeSet<Arc<str>>,
    /// As `ended`, for the next comparison of all logins: the broker has refused a request for them.
    ended_later: BTreeSet<Arc<str>>,
    /// Accounts whose older logins may not have been told: the connection was lost in between.
    doubtful: HashSet<Arc<str>>,
    next_compare_at: Instant,
    compares: u64,
    /// Whether this comparison writes the keys anew, for their lifetime.
    renews: bool,
}

impl Link {
    /// A link without a connection. The first [`tick`](Self::tick) begins one.
    #[must_use]
    pub fn new(config: LinkConfig, metrics: Arc<ClusterMetrics>, now: Instant) -> Self {
        Self {
            metrics,
            state: State::Waiting { retry_at: now },
            connection: 0,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_millis(500)),
            random: config.seed | 1,
            commands: Vec::new(),
            outputs: Vec::new(),
            begun_logins: Vec::new(),
            gaps: Vec::new(),
            pending: VecDeque::new(),
            window_packets: 0,
            window_bytes: 0,
            outgoing: Outgoing::new(config.incarnation),
            next_beat_at: now,
            beats: 0,
            probes: VecDeque::new(),
            probe_due_at: now,
            silent_at: now,
            is_asked: false,
            refuses_keys: false,
            proven_until: None,
            picture_at: now,
            last_tick_at: now,
            wants_tick: false,
            was_up: false,
            picture: Picture::default(),
            sessions: 0,
            is_draining: false,
            members: BTreeMap::new(),
            have_counts_changed: false,
            subscribed: HashSet::new(),
            unsettled: BTreeSet::new(),
            refused: BTreeSet::new(),
            logins: Logins::default(),
            asked: HashSet::new(),
            unanswered: HashMap::new(),
            waiting_logins: VecDeque::new(),
            next_logins: HashMap::new(),
            ready_logins: Vec::new(),
            comparison: None,
            compare_next: BTreeSet::new(),
            comparing: 0,
            ended: BTreeSet::new(),
            ended_later: BTreeSet::new(),
            doubtful: HashSet::new(),
            next_compare_at: now + COMPARE_INTERVAL,
            compares: 0,
            renews: false,
            config,
        }
    }

    /// The time that a write to the broker may take. The connection is silent for too long then.
    #[must_use]
    pub fn write_timeout(&self, now: Instant) -> Duration {
        let answer_timeout = ANSWER_TIMEOUT * u32::from(!self.is_asked);
        let left = (self.silent_at + answer_timeout).saturating_duration_since(now);
        left.clamp(MIN_WRITE_TIMEOUT, MAX_WRITE_TIMEOUT)
    }

    /// Whether commands for the broker or gaps wait, or the next tick is earlier than it was.
    #[must_use]
    pub fn wants_thread(&self) -> bool {
        self.wants_tick || !self.commands.is_empty() || !self.gaps.is_empty()
    }

    /// Takes the commands for the broker, in order.
    pub fn take_commands(&mut self) -> Vec<Command> {
        mem::take(&mut self.commands)
    }

    /// Takes the outputs for the node, in order.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        mem::take(&mut self.outputs)
    }

    /// Takes the logins that have begun: the session of each has its account from then on. In order.
    pub fn take_begun_logins(&mut self) -> Vec<(SessionId, Arc<str>)> {
        mem::take(&mut self.begun_logins)
    }

    /// Takes the gaps to tell the game, in order.
    pub fn take_gaps(&mut self) -> Vec<WorldGap> {
        mem::take(&mut self.gaps)
    }

    /// Whether packets go out.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// The other nodes.
    #[must_use]
    pub fn picture(&self) -> &Picture {
        &self.picture
    }

    /// The age of the picture: the time since the last probe came back.
    #[must_use]
    pub fn picture_age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.picture_at)
    }

    /// The sessions of a group on this node.
    #[must_use]
    pub fn local_members(&self, group: GroupId) -> u32 {
        self.members.get(&group).copied().unwrap_or_default()
    }

    /// Bytes that wait for the broker.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.outgoing.bytes() + self.window_bytes
    }

    /// Accounts that wait for a comparison.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn accounts_to_compare(&self) -> usize {
        let left = |comparison: &Comparison| self.accounts_left(comparison).count();
        self.comparison.as_ref().map_or(0, left) + self.compare_next.len()
    }

    /// Logins of this node, accounts whose older logins may not have been told, accounts whose keys have to be deleted,
    /// and requests without a reply.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn held(&self) -> [usize; 4] {
        [
            self.logins.accounts_behind(None, u64::MAX).count(),
            self.doubtful.len(),
            self.ended.len() + self.ended_later.len(),
            self.pending.len(),
        ]
    }

    /// Groups whose subscriptions wait.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn groups_to_settle(&self) -> usize {
        self.unsettled.len()
    }

    /// The login of an account on this node.
    #[must_use]
    pub fn local_login(&self, account: &str) -> Option<SessionId> {
        self.logins.get(account).map(|login| login.session)
    }

    /// When [`tick`](Self::tick) has something to do, if no event comes before.
    #[must_use]
    pub fn next_tick_at(&self) -> Option<Instant> {
        let state = match self.state {
            State::Waiting { retry_at } => Some(retry_at),
            State::Connecting { give_up_at } => Some(give_up_at),
            State::Announcing | State::Up => {
                let probe = (!self.probes.is_empty()).then_some(self.probe_due_at);
                // An expiry of the past waits for the next probe that comes back.
                let expiry = self
                    .picture
                    .next_expiry()
                    .filter(|at| *at > self.last_tick_at);
                let can_compare = self.state == State::Up && self.is_compared();
                let compare = can_compare.then_some(self.next_compare_at);
                [
                    Some(self.next_beat_at),
                    Some(self.silent_at),
                    probe,
                    expiry,
                    compare,
                ]
                .into_iter()
                .flatten()
                .min()
            }
            State::Ended => return None,
        };
        let login = self.waiting_logins.front().map(|waiting| waiting.until);
        [state, self.outgoing.next_drop_at(), login]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        if self.next_tick_at().is_some_and(|due| due + STALL < now) {
            // This process was paused: the probe may be back already, behind other input.
            self.probe_due_at = self.probe_due_at.max(now + BEAT);
            if self.is_asked {
                self.silent_at = now + ANSWER_TIMEOUT;
            }
        }
        self.last_tick_at = now;
        self.wants_tick = false;
        match self.state {
            State::Waiting { retry_at } if retry_at <= now => {
                self.connection += 1;
                let give_up_at = now + CONNECT_TIMEOUT;
                self.state = State::Connecting { give_up_at };
                self.commands.push(Command::Connect(self.connection));
            }
            State::Connecting { give_up_at } if give_up_at <= now => self.replace_connection(now),
            State::Announcing | State::Up => {
                let is_probe_late = !self.probes.is_empty() && self.probe_due_at <= now;
                let is_silent = self.silent_at <= now;
                if is_probe_late || is_silent && self.is_asked {
                    self.replace_connection(now);
                } else if self.next_beat_at <= now {
                    self.beat(now);
                } else if is_silent {
                    self.probe(now);
                }
            }
            _ => {}
        }
        self.expire(now);
        self.pump(now);
    }

    /// Takes an event of the connection of this number.
    pub fn handle(&mut self, connection: u64, event: Event<'_>, now: Instant) {
        if connection != self.connection {
            return;
        }
        // The link asks again earlier than it would have given up.
        self.wants_tick |= mem::take(&mut self.is_asked);
        self.silent_at = now + QUIET;
        match (event, self.state) {
            (Event::Connected, State::Connecting { .. }) => self.announce(now),
            (Event::Lost, State::Connecting { .. } | State::Announcing | State::Up) => {
                self.lose(now);
            }
            (Event::Message(channel, payload), State::Announcing | State::Up) => {
                self.receive(channel, payload, now);
            }
            (Event::Reply(reply), State::Announcing | State::Up) => {
                match self.pending.pop_front() {
                    Some(pending) => self.handle_reply(pending, reply, now),
                    None => self.replace_connection(now),
                }
            }
            _ => {}
        }
        self.pump(now);
    }

    /// Leaves the cluster, and begins no connection any more. The commands of this call are the last ones. All logins
    /// that wait are answered. The link knows no login any more.
    pub fn leave(&mut self, now: Instant) {
        if matches!(self.state, State::Announcing | State::Up) {
            self.publish_message(Channel::Nodes, Body::Leave);
            self.request(Request::DropLease(self.config.incarnation), Pending::Other);
        }
        self.drop_pending();
        while self.outgoing.pop().is_some() {
            self.metrics.drop_one(Why::LinkDown);
        }
        self.state = State::Ended;
        for (session, stamp) in self.unanswered.clone() {
            self.answer(session, stamp, LoginAnswer::Unsure);
        }
        // Begins the logins that waited for their turn.
        self.pump(now);
        self.waiting_logins.clear();
        self.logins = Logins::default();
        self.picture_at = self.picture_at.min(now);
    }

    /// Queues a packet for the other nodes, or drops and counts it.
    pub fn publish(&mut self, audience: Audience, packet: &[u8], now: Instant) {
        if !self.outgoing.push(audience, packet, now) {
            self.metrics.drop_one(Why::QueueFull);
        } else if self.state == State::Ended {
            self.outgoing.pop();
            self.metrics.drop_one(Why::LinkDown);
        }
        self.pump(now);
    }

    /// The sessions of this node had no room for a packet of another node, for this reason.
    pub fn miss(&mut self, node: NodeId, audience: Audience, why: Why) {
        self.metrics.drop_one(why);
        self.tell_gap_of(node, audience, 1);
    }

    /// Sets the state for the next heartbeat.
    pub fn set_load(&mut self, sessions: u32, is_draining: bool) {
        (self.sessions, self.is_draining) = (sessions, is_draining);
    }

    /// A session of this node has become a member of a world group, or is a member no more.
    pub fn change_members(&mut self, group: GroupId, is_join: bool, now: Instant) {
        let members = self.members.entry(group).or_default();
        *members = if is_join {
            *members + 1
        } else {
            members.saturating_sub(1)
        };
        let count = *members;
        if count == 0 {
            self.members.remove(&group);
            self.picture.forget_series(Audience::Group(group));
        }
        self.have_counts_changed = true;
        let is_connected = matches!(self.state, State::Announcing | State::Up);
        if is_connected && count == u32::from(is_join) {
            if is_join == self.subscribed.contains(&group) {
                self.unsettled.remove(&group);
            } else {
                self.unsettled.insert(group);
            }
            self.pump(now);
        }
    }

    /// Makes a session the only one of an account. While a login of this session has no answer, the newest further one
    /// waits for its turn, and the ones between are dropped without an answer. Returns whether the link takes the
    /// login: not after [`leave`](Self::leave).
    pub fn login(&mut self, session: SessionId, account: &str, wall_ms: u64, now: Instant) -> bool {
        if self.state == State::Ended {
            return false;
        }
        let account = cut_name(account).into();
        if self.unanswered.contains_key(&session) {
            self.next_logins.insert(session, (account, wall_ms, now));
        } else {
            self.begin_login(session, account, wall_ms, true, now + LOGIN_TIMEOUT);
            self.pump(now);
        }
        true
    }

    fn begin_login(
        &mut self,
        session: SessionId,
        account: Arc<str>,
        wall_ms: u64,
        may_ask: bool,
        until: Instant,
    ) {
        let (login, is_replaced) = self.note_login(session, &account, wall_ms);
        let can_ask = may_ask
            && self.state == State::Up
            && self.unanswered.len() < MAX_WAITING_LOGINS
            && self.pending.len() < 2 * MAX_WAITING_LOGINS;
        self.begun_logins.push((session, Arc::clone(&account)));
        if !can_ask {
            // Without a connection, all logins are compared when there is one.
            if matches!(self.state, State::Announcing | State::Up) {
                self.compare_next.insert(account);
            }
            self.outputs
                .push(Output::Answer(session, LoginAnswer::Unsure));
            return;
        }
        let stamp = login.stamp;
        self.unanswered.insert(session, stamp);
        let at = (self.waiting_logins).partition_point(|waiting| waiting.until <= until);
        let waiting = WaitingLogin {
            until,
            session,
            stamp,
        };
        self.waiting_logins.insert(at, waiting);
        self.asked.insert(Arc::clone(&account));
        let request = Request::SetLogin(Arc::clone(&account), login.encode());
        self.request(
            request,
            Pending::Login {
                account,
                login,
                is_replaced,
            },
        );
    }

    /// Notes a login, and ends the older session of its account on this node. Returns whether there was one.
    fn note_login(
        &mut self,
        session: SessionId,
        account: &Arc<str>,
        wall_ms: u64,
    ) -> (Login, bool) {
        let login = Login {
            stamp: self.logins.next_stamp(wall_ms),
            node: self.config.incarnation,
            session,
        };
        let replaced = self
            .logins
            .get(account)
            .filter(|old| old.session != session);
        if let Some((left, old)) = self.logins.insert(account, login) {
            self.drop_login(left, old);
        }
        if let Some(old) = replaced {
            self.close_replaced(old.session);
        }
        (login, replaced.is_some())
    }

    /// Takes a login that the node has answered itself, before it had a link. The first connection announces it.
    pub fn adopt_login(&mut self, session: SessionId, account: &str, wall_ms: u64) {
        self.note_login(session, &cut_name(account).into(), wall_ms);
    }

    /// A session of this node has ended.
    pub fn end_session(&mut self, session: SessionId) {
        self.forget_unanswered(session);
        if let Some((account, login)) = self.logins.remove_session(session) {
            self.drop_login(account, login);
        }
    }

    /// Sends a packet to the session of an account, on any node, or drops and counts it.
    pub fn tell(&mut self, account: &str, packet: &[u8]) {
        let account = cut_name(account);
        if let Some(login) = self.logins.get(account) {
            self.outputs
                .push(Output::Send(login.session, packet.to_vec()));
        } else if self.state != State::Up {
            self.metrics.drop_one(Why::LinkDown);
        } else if !self.outgoing.reserve(packet.len()) {
            self.metrics.drop_one(Why::QueueFull);
        } else {
            self.find(account.into(), Then::Tell(packet.to_vec()));
        }
    }

    /// Ends the session of an account, on any node. Without the link, only a session of this node.
    pub fn kick(&mut self, account: &str) {
        let account = cut_name(account);
        if let Some(login) = self.logins.get(account) {
            self.close_by_request(account, login);
        } else if self.state != State::Up {
            self.metrics.drop_one(Why::LinkDown);
        } else if !self.outgoing.reserve(0) {
            self.metrics.drop_one(Why::QueueFull);
        } else {
            self.find(account.into(), Then::Kick);
        }
    }

    /// Finds the session of an account, on any node, and sends the answer. Without the link, or without room, the
    /// sender is dropped, unless the session is on this node.
    pub fn find_session(&mut self, account: &str, answer: SyncSender<Option<AccountSession>>) {
        let account = cut_name(account);
        if self.logins.get(account).is_some() {
            self.answer_search(account, None, &answer);
        } else if self.state == State::Up && self.outgoing.reserve(0) {
            self.find(account.into(), Then::Answer(answer));
        }
    }

    /// `found` is the key of the account. A key is void if its node is not there.
    fn answer_search(
        &self,
        account: &str,
        found: Option<Login>,
        answer: &SyncSender<Option<AccountSession>>,
    ) {
        let of_other = |login: Login| {
            let mut nodes = self.picture.present();
            let (_, node) = nodes.find(|(incarnation, _)| *incarnation == login.node)?;
            Some((login, node.name.clone()))
        };
        let local = self.logins.get(account);
        let found = match local {
            Some(login) => Some((login, self.config.name.clone())),
            None => found.and_then(of_other),
        };
        let found = found.map(|(login, node_name)| AccountSession {
            node: NodeId::of(login.node),
            node_name,
            session: login.session,
        });
        // The asking thread may have dropped its receiver.
        let _ = answer.try_send(found);
    }

    fn find(&mut self, account: Arc<str>, then: Then) {
        let request = Request::GetLogins(vec![Arc::clone(&account)]);
        self.request(request, Pending::Find { account, then });
    }

    fn drop_find(&mut self, then: &Then, why: Why) {
        self.outgoing.release(then.bytes());
        // The drop of the sender tells the caller of a search. `dropped` counts packets alone.
        if !matches!(then, Then::Answer(_)) {
            self.metrics.drop_one(why);
        }
    }

    fn request(&mut self, request: Request, pending: Pending) {
        self.commands.push(Command::Send(request));
        self.pending.push_back(pending);
    }

    fn publish_message(&mut self, channel: Channel, body: Body<'_>) {
        let from = self.config.incarnation;
        let message = Envelope { from, seq: 0, body }.encode();
        self.request(Request::Publish(channel, message), Pending::Other);
    }

    /// Tells the broker all there is to know about this node.
    fn announce(&mut self, now: Instant) {
        self.state = State::Announcing;
        self.picture.forgive_silence(now);
        self.proven_until = None;
        let own = Channel::Node(self.config.incarnation);
        for channel in [own, Channel::Nodes, Channel::Everybody] {
            self.request(Request::Subscribe(channel), Pending::Subscribe(channel));
        }
        self.subscribed.clear();
        self.refused.clear();
        self.unsettled = self.members.keys().copied().collect();
        self.settle_subscriptions(usize::MAX);
        self.beats = 0;
        self.beat(now);
        self.compare_all(now);
    }

    fn beat(&mut self, now: Instant) {
        self.next_beat_at = now + BEAT;
        let is_full = self.beats.is_multiple_of(FULL_BEAT);
        self.beats += 1;
        let groups = (mem::take(&mut self.have_counts_changed) || is_full).then(|| {
            let members = self.members.iter().take(MAX_GROUPS);
            members.map(|(group, count)| (*group, *count)).collect()
        });
        if is_full {
            for channel in mem::take(&mut self.refused) {
                match channel {
                    Channel::Group(group) => {
                        self.unsettled.insert(group);
                    }
                    _ => self.request(Request::Subscribe(channel), Pending::Subscribe(channel)),
                }
            }
        }
        self.request(Request::RenewLease(self.config.incarnation), Pending::Renew);
        let name = mem::take(&mut self.config.name);
        let heartbeat = Heartbeat {
            sessions: self.sessions,
            is_draining: self.is_draining,
            name: &name,
            groups,
        };
        self.publish_message(Channel::Nodes, Body::Heartbeat(heartbeat));
        self.config.name = name;
        self.probe(now);
    }

    fn probe(&mut self, now: Instant) {
        if !mem::replace(&mut self.is_asked, true) {
            self.silent_at = now + ANSWER_TIMEOUT;
        }
        if self.probes.is_empty() {
            self.probe_due_at = now + PROBE_TIMEOUT;
        }
        let nonce = self.next_random();
        self.probes.push_back((nonce, now));
        let own = Channel::Node(self.config.incarnation);
        self.publish_message(own, Body::Probe(nonce));
    }

    /// Ends the connection and begins another one.
    fn replace_connection(&mut self, now: Instant) {
        self.commands.push(Command::Close(self.connection));
        self.lose(now);
    }

    fn lose(&mut self, now: Instant) {
        // Events of the lost connection are not for the next one.
        self.connection += 1;
        // Requests that the broker has not been given are for the lost connection.
        self.commands
            .retain(|command| !matches!(command, Command::Send(_)));
        let random = self.next_random() as u32;
        self.state = State::Waiting {
            retry_at: now + self.backoff.next_delay(random),
        };
        self.wants_tick = true;
        self.probes.clear();
        self.drop_pending();
    }

    fn drop_pending(&mut self) {
        self.comparing = 0;
        (self.window_packets, self.window_bytes) = (0, 0);
        for pending in mem::take(&mut self.pending) {
            match pending {
                Pending::Packet { .. } => self.metrics.drop_one(Why::Unconfirmed),
                Pending::Login { account, login, .. } => {
                    self.doubtful.insert(account);
                    self.answer(login.session, login.stamp, LoginAnswer::Unsure);
                }
                Pending::Find { then, .. } => self.drop_find(&then, Why::LinkDown),
                Pending::Claim { account, .. } | Pending::Kick(account) => {
                    self.doubtful.insert(account);
                }
                Pending::Drop(account) => self.remember_ended(account),
                Pending::Compare(accounts) => {
                    for account in accounts {
                        if self.logins.get(&account).is_none() {
                            self.remember_ended(account);
                        }
                    }
                }
                Pending::Direct => self.metrics.drop_one(Why::Unconfirmed),
                Pending::Other | Pending::Renew | Pending::Subscribe(_) | Pending::Lease { .. } => {
                }
            }
        }
    }

    /// Sends what may be sent now, and answers the logins that have waited too long: the thread of the ticks may be in
    /// a write to the broker.
    fn pump(&mut self, now: Instant) {
        let is_late = |waiting: &WaitingLogin| waiting.until <= now;
        while self.waiting_logins.front().is_some_and(is_late)
            && let Some(waiting) = self.waiting_logins.pop_front()
        {
            self.answer(waiting.session, waiting.stamp, LoginAnswer::Unsure);
        }
        while let Some((session, may_ask)) = self.ready_logins.pop() {
            if let Some((account, wall_ms, since)) = self.next_logins.remove(&session) {
                // The time in which it waited for its turn counts.
                self.begin_login(session, account, wall_ms, may_ask, since + LOGIN_TIMEOUT);
            }
        }
        if matches!(self.state, State::Announcing | State::Up) {
            self.settle_subscriptions(WINDOW_REQUESTS);
            if self.state == State::Up && self.next_compare_at <= now && self.is_compared() {
                self.compare_all(now);
            }
            self.compare_next();
            let is_announced = self.proven_until.is_some() && self.is_compared();
            if self.state == State::Announcing && is_announced && self.unsettled.is_empty() {
                self.state = State::Up;
                self.backoff.reset();
                self.metrics.connects.add(1);
                if mem::replace(&mut self.was_up, true) {
                    // Which packets were missed is not known before each sender's next one.
                    self.tell_gap(WorldGap {
                        node: None,
                        group: None,
                        lost: None,
                    });
                }
            }
        }
        let why = if self.state == State::Up {
            Why::TooOld
        } else {
            Why::LinkDown
        };
        while self.outgoing.drop_old(now) {
            self.metrics.drop_one(why);
        }
        while self.state == State::Up
            && self.window_bytes < WINDOW_BYTES
            && self.window_packets < WINDOW_REQUESTS
            && let Some((audience, message)) = self.outgoing.pop()
        {
            let channel = match audience {
                Audience::All => Channel::Everybody,
                Audience::Group(group) => Channel::Group(group),
            };
            let bytes = message.len();
            self.window_packets += 1;
            self.window_bytes += bytes;
            self.request(
                Request::Publish(channel, message),
                Pending::Packet { bytes },
            );
        }
    }

    fn settle_subscriptions(&mut self, window: usize) {
        while self.pending.len() < window
            && let Some(group) = self.unsettled.pop_first()
        {
            let channel = Channel::Group(group);
            match (
                self.members.contains_key(&group),
                self.subscribed.contains(&group),
            ) {
                (true, false) => {
                    self.subscribed.insert(group);
                    self.request(Request::Subscribe(channel), Pending::Subscribe(channel));
                }
                (false, true) => {
                    self.subscribed.remove(&group);
                    self.request(Request::Unsubscribe(channel), Pending::Other);
                }
                _ => {}
            }
        }
    }

    fn handle_reply(&mut self, pending: Pending, reply: Reply, now: Instant) {
        let is_error = reply == Reply::Error;
        let is_unheard = reply == Reply::Count(0);
        let first = match reply {
            Reply::Value(value) => Some(value),
            Reply::Values(values) => return self.handle_values(pending, &values, now),
            Reply::Done | Reply::Count(_) | Reply::Error => None,
        };
        let old = first.as_deref().and_then(Login::decode);
        match pending {
            Pending::Renew => {
                if mem::replace(&mut self.refuses_keys, is_error) && !is_error {
                    // The broker takes keys again: the logins that it refused follow at once.
                    self.compare_by(now);
                }
            }
            Pending::Packet { bytes } => {
                self.window_packets -= 1;
                self.window_bytes -= bytes;
                if is_error {
                    self.metrics.drop_one(Why::Refused);
                } else {
                    self.metrics.published.add(1);
                }
            }
            Pending::Login {
                account,
                login,
                is_replaced,
            } => {
                if is_error {
                    self.metrics.drop_one(Why::Refused);
                    self.refuses_keys = true;
                    self.answer(login.session, login.stamp, LoginAnswer::Unsure);
                    self.compare_by(now + COMPARE_RETRY);
                    return;
                }
                let other = old.filter(|old| old.node != self.config.incarnation);
                let is_replaced =
                    is_replaced || other.is_some_and(|old| self.picture.is_present(old.node));
                let answer = if is_replaced {
                    LoginAnswer::Replaced
                } else {
                    LoginAnswer::Granted
                };
                self.answer(login.session, login.stamp, answer);
                let Some(other) = other else { return };
                // The newer login is this one, whatever the clocks of the two nodes show.
                let mut newer = Some(login);
                if other.stamp >= login.stamp {
                    newer = self.logins.restamp(&account, login, other.stamp);
                    if let Some(newer) = newer {
                        self.claim(Arc::clone(&account), newer, login.encode());
                    }
                }
                let stamp = newer.map_or(other.stamp.saturating_add(1), |newer| newer.stamp);
                let channel = Channel::Node(other.node);
                self.kick_older(&account, channel, other.session, stamp);
            }
            Pending::Claim { .. } if is_error => {
                self.comparing -= 1;
                self.compare_by(now + COMPARE_RETRY);
            }
            Pending::Claim {
                account,
                login,
                seen,
            } => {
                self.comparing -= 1;
                if first.as_ref().is_some_and(|first| *first != seen) {
                    // Another node was faster.
                    return self.compare_value(&account, first.as_deref());
                }
                if self.doubtful.remove(&account) {
                    self.kick_older(&account, Channel::Nodes, login.session, login.stamp);
                }
                if let Some(other) = old.filter(|old| old.node != self.config.incarnation) {
                    // Two logins may have the same stamp.
                    let stamp = login.stamp.max(other.stamp.saturating_add(1));
                    let channel = Channel::Node(other.node);
                    self.kick_older(&account, channel, other.session, stamp);
                }
            }
            Pending::Compare(accounts) => {
                self.comparing -= 1;
                self.compare_by(now + COMPARE_RETRY);
                for account in accounts {
                    self.remember_for_later(account);
                }
            }
            Pending::Drop(account) if is_error => {
                self.compare_by(now + COMPARE_RETRY);
                self.remember_for_later(account);
            }
            // The key may be an earlier login of the session, which got no answer in time.
            Pending::Drop(account) if is_unheard => self.remember_ended(account),
            Pending::Lease { account, other } => {
                self.comparing -= 1;
                let has_lease = is_error || first.is_some();
                if let Some(mine) = self.logins.get(&account).filter(|mine| *mine < other) {
                    self.settle_later(&account, mine, other, has_lease, now);
                }
            }
            Pending::Find { then, .. } => self.drop_find(&then, Why::Refused),
            Pending::Direct if is_error => self.metrics.drop_one(Why::Refused),
            // The node of the session has ended.
            Pending::Direct if is_unheard => self.metrics.drop_one(Why::NoSession),
            Pending::Subscribe(channel) if is_error => {
                self.metrics.drop_one(Why::Refused);
                if let Channel::Group(group) = channel {
                    self.subscribed.remove(&group);
                }
                self.refused.insert(channel);
            }
            Pending::Other
            | Pending::Direct
            | Pending::Subscribe(_)
            | Pending::Kick(_)
            | Pending::Drop(_) => {}
        }
    }

    /// Compares the value of an account's key with the login of this node.
    fn compare_value(&mut self, account: &Arc<str>, value: Option<&[u8]>) {
        let found = value.and_then(Login::decode);
        let Some(mine) = self.logins.get(account) else {
            let of_this_node = |found: &Login| found.node == self.config.incarnation;
            if let Some(ended) = found.filter(of_this_node) {
                self.drop_key(Arc::clone(account), ended);
            }
            return;
        };
        match found {
            Some(other) if other.node != mine.node && other > mine => {
                self.comparing += 1;
                let account = Arc::clone(account);
                let lease = Pending::Lease { account, other };
                self.request(Request::GetLease(other.node), lease);
            }
            Some(same) if same == mine && !self.renews && !self.doubtful.contains(account) => {}
            // Written again: that renews the lifetime of the key.
            _ => self.claim(
                Arc::clone(account),
                mine,
                value.unwrap_or_default().to_vec(),
            ),
        }
    }

    /// The key of the account of `mine` has a later login of another node. That login is void if its node has
    /// neither a lease nor a place in the picture.
    fn settle_later(
        &mut self,
        account: &Arc<str>,
        mine: Login,
        other: Login,
        has_lease: bool,
        now: Instant,
    ) {
        let is_alive = has_lease || self.picture.is_heard(other.node);
        if !is_alive && !self.picture.is_present(other.node) {
            if let Some(mine) = self.logins.restamp(account, mine, other.stamp) {
                self.claim(Arc::clone(account), mine, other.encode());
            }
        } else if !is_alive || self.state == State::Announcing {
            // The other node may have lost its connection, too: then it deletes the keys of its ended sessions and
            // renews its lease in this time, or expires from the picture.
            self.compare_by(now + SECOND_LOOK);
        } else {
            if self.doubtful.remove(account) {
                // The login that this node has overwritten is not known to the newer one.
                let (session, stamp) = (other.session, other.stamp);
                self.kick_older(account, Channel::Nodes, session, stamp);
            }
            self.lose_login(account, mine);
        }
    }

    fn handle_values(&mut self, pending: Pending, values: &[Option<Vec<u8>>], now: Instant) {
        let login_at = |at: usize| Login::decode(values.get(at)?.as_deref()?);
        match pending {
            Pending::Compare(accounts) => {
                self.comparing -= 1;
                for (account, value) in accounts.iter().zip(values) {
                    self.compare_value(account, value.as_deref());
                }
            }
            Pending::Find { account, then } => {
                self.outgoing.release(then.bytes());
                let found = login_at(0);
                if let Then::Answer(answer) = then {
                    return self.answer_search(&account, found, &answer);
                }
                let Some(found) = found else {
                    return self.metrics.drop_one(Why::NoSession);
                };
                self.forward(&account, found, then);
            }
            // A reply of another form than the request's: it says nothing.
            other => self.handle_reply(other, Reply::Error, now),
        }
    }

    /// Hands a packet or a kick over to the node of a login.
    fn forward(&mut self, account: &str, found: Login, then: Then) {
        let Login {
            node,
            session,
            stamp,
        } = found;
        let body = match &then {
            Then::Tell(packet) => Body::Tell {
                session,
                account,
                packet,
            },
            Then::Kick => Body::Kick {
                session,
                stamp: stamp.saturating_add(1),
                is_by_request: true,
                account,
            },
            Then::Answer(_) => return,
        };
        if node == self.config.incarnation {
            // A session of this node that has ended.
            return self.metrics.drop_one(Why::NoSession);
        }
        let from = self.config.incarnation;
        let message = Envelope { from, seq: 0, body }.encode();
        self.request(
            Request::Publish(Channel::Node(node), message),
            Pending::Direct,
        );
    }

    /// Ends an older login: the session on its node, or, on the channel of all nodes, any session.
    fn kick_older(&mut self, account: &Arc<str>, channel: Channel, session: SessionId, stamp: u64) {
        let body = Body::Kick {
            session,
            stamp,
            is_by_request: false,
            account,
        };
        let from = self.config.incarnation;
        let message = Envelope { from, seq: 0, body }.encode();
        let kick = Pending::Kick(Arc::clone(account));
        self.request(Request::Publish(channel, message), kick);
    }

    fn lose_login(&mut self, account: &str, mine: Login) {
        if self
            .logins
            .get(account)
            .is_some_and(|login| login.session == mine.session)
        {
            self.logins.remove(account);
            self.asked.remove(account);
            self.compare_next.remove(account);
            self.close_replaced(mine.session);
        }
    }

    fn close_replaced(&mut self, session: SessionId) {
        self.forget_unanswered(session);
        self.outputs
            .push(Output::Close(session, DisconnectReason::LoggedInElsewhere));
    }

    fn close_by_request(&mut self, account: &str, login: Login) {
        self.logins.remove(account);
        self.forget_unanswered(login.session);
        self.drop_login(account.into(), login);
        let reason = DisconnectReason::KickedByOperator;
        self.outputs.push(Output::Close(login.session, reason));
    }

    fn claim(&mut self, account: Arc<str>, login: Login, seen: Vec<u8>) {
        self.comparing += 1;
        self.asked.insert(Arc::clone(&account));
        let request = Request::ReplaceLogin(Arc::clone(&account), seen.clone(), login.encode());
        let pending = Pending::Claim {
            account,
            login,
            seen,
        };
        self.request(request, pending);
    }

    fn drop_login(&mut self, account: Arc<str>, login: Login) {
        self.compare_next.remove(&account);
        if self.asked.remove(&account) {
            self.drop_key(account, login);
        }
    }

    fn drop_key(&mut self, account: Arc<str>, login: Login) {
        let is_connected = matches!(self.state, State::Announcing | State::Up);
        if is_connected && self.pending.len() < 2 * MAX_WAITING_LOGINS {
            let request = Request::DropLogin(Arc::clone(&account), login.encode());
            self.request(request, Pending::Drop(account));
        } else {
            self.remember_ended(account);
        }
    }

    fn remember_ended(&mut self, account: Arc<str>) {
        if self.ended.len() < MAX_ENDED {
            self.ended.insert(account);
        }
    }

    fn remember_for_later(&mut self, account: Arc<str>) {
        if self.logins.get(&account).is_none() && self.ended_later.len() < MAX_ENDED {
            self.ended_later.insert(account);
        }
    }

    fn compare_all(&mut self, now: Instant) {
        for account in mem::take(&mut self.ended_later) {
            self.remember_ended(account);
        }
        self.renews = self.compares.is_multiple_of(RENEW_EACH);
        self.compares += 1;
        self.comparison = Some(Comparison {
            last: None,
            last_stamp: self.logins.last_stamp(),
        });
        self.compare_next.clear();
        self.next_compare_at = now + COMPARE_INTERVAL;
        let logins = &self.logins;
        (self.doubtful).retain(|account| logins.get(account).is_some());
    }

    /// Compares all logins at this instant, or when the comparison that is under way is complete.
    fn compare_by(&mut self, at: Instant) {
        if at < self.next_compare_at {
            self.next_compare_at = at;
            self.wants_tick = true;
        }
    }

    /// Whether no comparison is under way.
    fn is_compared(&self) -> bool {
        self.comparing == 0 && self.comparison.is_none()
    }

    fn accounts_left(&self, comparison: &Comparison) -> impl Iterator<Item = &Arc<str>> {
        let Comparison { last, last_stamp } = comparison;
        self.logins.accounts_behind(last.as_deref(), *last_stamp)
    }

    fn compare_next(&mut self) {
        if self.comparing > 0 {
            return;
        }
        let mut accounts = Vec::new();
        while accounts.len() < COMPARE_BATCH
            && let Some(account) = self.ended.pop_first()
        {
            accounts.push(account);
        }
        if let Some(mut comparison) = self.comparison.take() {
            let before = accounts.len();
            let left = self.accounts_left(&comparison).map(Arc::clone);
            accounts.extend(left.take(COMPARE_BATCH - before));
            if accounts.len() == COMPARE_BATCH {
                comparison.last = accounts[before..].last().cloned().or(comparison.last);
                self.comparison = Some(comparison);
            }
        }
        while accounts.len() < COMPARE_BATCH
            && self.state == State::Up
            && let Some(account) = self.compare_next.pop_first()
        {
            accounts.push(account);
        }
        if accounts.is_empty() {
            return;
        }
        self.comparing = 1;
        self.request(
            Request::GetLogins(accounts.clone()),
            Pending::Compare(accounts),
        );
    }

    fn answer(&mut self, session: SessionId, stamp: u64, answer: LoginAnswer) {
        if self.unanswered.get(&session) == Some(&stamp) {
            self.unanswered.remove(&session);
            self.outputs.push(Output::Answer(session, answer));
            if self.next_logins.contains_key(&session) {
                // The next login has waited too: it gets its answer at once from a broker that is late.
                let may_ask = answer != LoginAnswer::Unsure;
                self.ready_logins.push((session, may_ask));
            }
        }
    }

    fn forget_unanswered(&mut self, session: SessionId) {
        self.unanswered.remove(&session);
        self.next_logins.remove(&session);
    }

    fn receive(&mut self, channel: &[u8], payload: &[u8], now: Instant) {
        let Some(channel) = Channel::parse(channel) else {
            return self.metrics.drop_one(Why::Malformed);
        };
        let envelope = match Envelope::decode(payload) {
            Ok(envelope) => envelope,
            Err(DecodeError::Version) => return self.metrics.drop_one(Why::Version),
            Err(DecodeError::UnknownKind) => return self.metrics.drop_one(Why::UnknownKind),
            Err(DecodeError::Malformed) => return self.metrics.drop_one(Why::Malformed),
        };
        if envelope.from == self.config.incarnation {
            if let Body::Probe(nonce) = envelope.body {
                self.take_probe(nonce, now);
            }
            return;
        }
        let Some(node) = self.picture.hear(envelope.from, now) else {
            return self.metrics.drop_one(Why::TooManyNodes);
        };
        match (envelope.body, channel) {
            (Body::Packet { is_first, packet }, Channel::Everybody | Channel::Group(_)) => {
                let audience = match channel {
                    Channel::Group(group) if self.members.contains_key(&group) => {
                        Audience::Group(group)
                    }
                    // The last member has left, and the broker does not know it yet.
                    Channel::Group(_) => return,
                    _ => Audience::All,
                };
                match node.order(audience, envelope.seq, is_first) {
                    Order::Duplicate => return self.metrics.drop_one(Why::Duplicate),
                    Order::Next => {}
                    Order::Gap(lost) => {
                        self.tell_gap_of(NodeId::of(envelope.from), audience, lost);
                    }
                }
                self.outputs.push(Output::Deliver(
                    NodeId::of(envelope.from),
                    audience,
                    packet.to_vec(),
                ));
            }
            (Body::Heartbeat(heartbeat), Channel::Nodes) => node.update(heartbeat),
            (Body::Leave, Channel::Nodes) => {
                // As for a node that expires.
                if node.leave() {
                    self.compare_by(now);
                }
            }
            (
                Body::Kick {
                    session,
                    stamp,
                    is_by_request,
                    account,
                },
                Channel::Node(_) | Channel::Nodes,
            ) => {
                let is_meant = |login: &Login| {
                    let is_named = channel == Channel::Nodes || login.session == session;
                    is_named && login.stamp < stamp
                };
                if let Some(login) = self.logins.get(account).filter(is_meant) {
                    if is_by_request {
                        self.close_by_request(account, login);
                    } else {
                        self.lose_login(account, login);
                    }
                } else if is_by_request {
                    self.miss_session(account);
                }
            }
            (
                Body::Tell {
                    session,
                    account,
                    packet,
                },
                Channel::Node(_),
            ) => {
                if self.local_login(account) == Some(session) {
                    (self.outputs).push(Output::DeliverTo(session, packet.to_vec()));
                } else {
                    self.miss_session(account);
                }
            }
            _ => self.metrics.drop_one(Why::Malformed),
        }
    }

    /// The key of an account has led another node to a session that this node does not have: the key may have been
    /// written after the session ended.
    fn miss_session(&mut self, account: &str) {
        self.metrics.drop_one(Why::NoSession);
        self.remember_ended(account.into());
    }

    fn take_probe(&mut self, nonce: u64, now: Instant) {
        let Some(at) = self.probes.iter().position(|(sent, _)| *sent == nonce) else {
            return;
        };
        self.proven_until = Some(self.probes[at].1);
        self.picture_at = now;
        if at > 0 {
            // The broker has lost messages, kicks among them, without the loss of a connection.
            self.compare_by(now);
            self.tell_gap(WorldGap {
                node: None,
                group: None,
                lost: None,
            });
        }
        self.probes.drain(..=at);
        self.expire(now);
        if let Some((_, sent_at)) = self.probes.front() {
            self.probe_due_at = *sent_at + PROBE_TIMEOUT;
        }
    }

    fn expire(&mut self, now: Instant) {
        if let (State::Up, Some(proven_until)) = (self.state, self.proven_until)
            && self.picture.expire(proven_until, now)
        {
            // A node that ended may have set keys, and not told the older sessions.
            self.compare_by(now);
        }
    }

    fn tell_gap_of(&mut self, node: NodeId, audience: Audience, lost: u64) {
        self.tell_gap(WorldGap {
            node: Some(node),
            group: match audience {
                Audience::Group(group) => Some(group),
                Audience::All => None,
            },
            lost: Some(lost),
        });
    }

    fn tell_gap(&mut self, gap: WorldGap) {
        let mut waiting = self.gaps.iter_mut().rev();
        if let Some(same) = waiting.find(|one| (one.node, one.group) == (gap.node, gap.group)) {
            let lost = same.lost.zip(gap.lost);
            same.lost = lost.map(|(before, more)| before.saturating_add(more));
            return;
        }
        self.metrics.gaps.add(1);
        if self.gaps.len() < MAX_GAPS {
            self.gaps.push(gap);
        } else {
            // The game is late: what it missed is not known in detail any more.
            self.gaps = vec![WorldGap {
                node: None,
                group: None,
                lost: None,
            }];
        }
    }

    /// The next of a series of numbers (xorshift).
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

impl Then {
    fn bytes(&self) -> usize {
        match self {
            Self::Tell(packet) => packet.len(),
            Self::Kick | Self::Answer(_) => 0,
        }
    }
}
