//! One node: its link, its sessions, and what its peers saw.

use crate::broker::{Broker, Incoming};
use server_core::cluster::envelope::Incarnation;
use server_core::cluster::link::{Command, Event, Link, LinkConfig, Output};
use server_core::cluster::{ClusterMetrics, LoginAnswer, NodeId, Why, WorldGap};
use server_core::routing::link::Audience;
use server_core::{DisconnectReason, GroupId, SessionId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One packet in so many finds the mailboxes full.
const NO_ROOM: u64 = 61;

#[derive(Debug)]
pub struct Node {
    pub index: usize,
    pub incarnation: Incarnation,
    pub link: Link,
    pub metrics: Arc<ClusterMetrics>,
    pub connection: u64,
    pub paused_until: Option<Instant>,
    /// When the last pause began, and when it ended.
    pub paused_at: Option<Instant>,
    pub resumed_at: Option<Instant>,
    pub next_session: u32,
    /// Members of world groups.
    pub groups: BTreeMap<GroupId, u32>,
    /// Sessions with an account, and when they have logged in.
    pub sessions: BTreeMap<SessionId, (Arc<str>, Instant)>,
    /// Logins without an answer, and their times.
    pub unanswered: HashMap<SessionId, Instant>,
    /// Sessions of `unanswered` with a second login: either both have an answer, or the second alone.
    pub twice: BTreeSet<SessionId>,
    /// The nodes that it has declared dead right behind a pause of its own.
    pub gone_by_pause: Vec<Incarnation>,
    pub answers: Vec<LoginAnswer>,
    pub closed: Vec<(SessionId, DisconnectReason)>,
    pub published: HashMap<Audience, u64>,
    /// The last number by sender and audience.
    seen: HashMap<(u64, Audience), u64>,
    gaps: Vec<WorldGap>,
    pub delivered: u64,
    pub gaps_told: u64,
    pub up_since: Option<Instant>,
    /// Since when the link is up and the process runs.
    pub watches_since: Option<Instant>,
    pub offences: Vec<String>,
}

impl Node {
    pub fn new(index: usize, incarnation: u64, now: Instant) -> Self {
        let (incarnation, metrics) = (Incarnation(incarnation), Arc::<ClusterMetrics>::default());
        let config = LinkConfig {
            name: format!("node-{index}").into(),
            incarnation,
            seed: incarnation.0,
        };
        Self {
            index,
            incarnation,
            link: Link::new(config, Arc::clone(&metrics), now),
            metrics,
            connection: 0,
            paused_until: None,
            paused_at: None,
            resumed_at: None,
            next_session: 1,
            groups: BTreeMap::new(),
            sessions: BTreeMap::new(),
            unanswered: HashMap::new(),
            twice: BTreeSet::new(),
            gone_by_pause: Vec::new(),
            answers: Vec::new(),
            closed: Vec::new(),
            published: HashMap::new(),
            seen: HashMap::new(),
            gaps: Vec::new(),
            delivered: 0,
            gaps_told: 0,
            up_since: None,
            watches_since: None,
            offences: Vec::new(),
        }
    }

    pub fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    /// The nodes in the picture of this one.
    pub fn present(&self) -> BTreeSet<Incarnation> {
        self.link
            .picture()
            .present()
            .map(|(incarnation, _)| incarnation)
            .collect()
    }

    pub fn step(&mut self, broker: &mut Broker, now: Instant, mut delay: impl FnMut() -> Duration) {
        if self.is_paused(now) {
            self.watches_since = None;
            return;
        }
        if self.paused_until.take().is_some() {
            self.resumed_at = Some(now);
            self.watches_since = None;
            // The thread of the link may run before the thread that reads.
            let before = self.present();
            self.link.tick(now);
            self.take_outputs();
            self.gone_by_pause
                .extend(before.difference(&self.present()));
            // The clock of the pause does not count as a late answer.
            for at in self.unanswered.values_mut() {
                *at = now;
            }
        }
        let before = self.present();
        let was_up = self.link.is_up();
        for (number, incoming) in broker.take_events(self.index, now) {
            let event = match &incoming {
                Incoming::Connected => Event::Connected,
                Incoming::Lost => Event::Lost,
                Incoming::Message(channel, message) => Event::Message(channel.as_bytes(), message),
                Incoming::Reply(reply) => Event::Reply(reply.clone()),
            };
            self.link.handle(number, event, now);
            self.take_outputs();
        }
        if self.link.next_tick_at().is_some_and(|at| at <= now) {
            self.link.set_load(self.sessions.len() as u32, false);
            self.link.tick(now);
        }
        self.take_outputs();
        self.give_commands(broker, now, &mut delay);
        let is_up = self.link.is_up();
        self.up_since = self
            .up_since
            .filter(|_| was_up && is_up)
            .or(is_up.then_some(now));
        let watches_since = self.watches_since.filter(|_| was_up && is_up);
        self.watches_since = watches_since.or(is_up.then_some(now));
        if !was_up && !is_up && !before.is_subset(&self.present()) {
            let text = format!("node {} is cut off and declares others dead", self.index);
            self.offences.push(text);
        }
        if self.link.queued_bytes() > (4 << 20) + (256 << 10) + (64 << 10) {
            let text = format!(
                "node {} holds {} bytes",
                self.index,
                self.link.queued_bytes()
            );
            self.offences.push(text);
        }
        let [logins, doubtful, ended, pending] = self.link.held();
        let sessions = self.sessions.len();
        // Sessions that have ended may have had a request or two under way.
        let most = [
            sessions,
            100 + sessions,
            100 + sessions,
            1_100 + 4 * sessions,
        ];
        let held = [logins, doubtful, ended, pending];
        if held.iter().zip(most).any(|(held, most)| *held > most)
            || self.link.accounts_to_compare() > 2 * logins
        {
            let text = format!(
                "node {} with {sessions} sessions holds {held:?}",
                self.index
            );
            self.offences.push(text);
        }
        let late = Duration::from_millis(1100);
        if let Some(session) = self.unanswered.iter().find(|(_, at)| **at + late < now) {
            let text = format!(
                "node {}: login of {session:?} has no answer at {now:?}",
                self.index
            );
            self.offences.push(text);
        }
    }

    pub fn give_commands(
        &mut self,
        broker: &mut Broker,
        now: Instant,
        mut delay: impl FnMut() -> Duration,
    ) {
        for command in self.link.take_commands() {
            match command {
                Command::Connect(number) => {
                    self.connection = number;
                    broker.connect(self.index, number, now + delay());
                }
                Command::Close(number) => broker.close(self.index, number),
                Command::Send(request) => {
                    broker.request(self.index, self.connection, now + delay(), request);
                }
            }
        }
    }

    pub fn take_outputs(&mut self) {
        for gap in self.link.take_gaps() {
            self.gaps_told += 1;
            if gap.lost.is_some() {
                self.gaps.push(gap);
            }
        }
        for output in self.link.take_outputs() {
            match output {
                Output::Deliver(node, audience, packet) => {
                    self.deliver(audience, &packet);
                    if self.delivered.is_multiple_of(NO_ROOM) {
                        self.refuse(node, audience);
                    }
                }
                Output::Answer(session, answer) => {
                    if self.twice.remove(&session) {
                        // The next answer, if it comes, is the other login's.
                    } else if self.unanswered.remove(&session).is_none() {
                        self.offences
                            .push(format!("node {}: a second answer to {session}", self.index));
                    }
                    self.answers.push(answer);
                }
                Output::Close(session, reason) => self.closed.push((session, reason)),
                Output::Send(..) | Output::DeliverTo(..) => {}
            }
        }
    }

    /// The mailboxes have no room for this packet: that is a gap.
    fn refuse(&mut self, node: NodeId, audience: Audience) {
        self.link.miss(node, audience, Why::MailboxFull);
        let group = match audience {
            Audience::Group(group) => Some(group),
            Audience::All => None,
        };
        let gaps = self.link.take_gaps();
        let is_told =
            |gap: &WorldGap| (gap.node, gap.group, gap.lost) == (Some(node), group, Some(1));
        if gaps.len() != 1 || !gaps.iter().all(is_told) {
            let text = format!("node {}: {gaps:?} for a packet without room", self.index);
            self.offences.push(text);
        }
    }

    fn deliver(&mut self, audience: Audience, packet: &[u8]) {
        self.delivered += 1;
        let number = |at: usize| u64::from_le_bytes(packet[at..at + 8].try_into().unwrap());
        let (sender, count) = (number(4), number(12));
        let told: u64 = self.gaps.drain(..).filter_map(|gap| gap.lost).sum();
        let last = self.seen.insert((sender, audience), count);
        match last {
            Some(last) if count <= last => self.offences.push(format!(
                "node {}: {count} of {sender:x} for {audience:?} comes behind {last}",
                self.index
            )),
            Some(last) if count - last - 1 != told => self.offences.push(format!(
                "node {}: {} packets of {sender:x} for {audience:?} are missing, and {told} were told",
                self.index,
                count - last - 1
            )),
            None if told != 0 => self.offences.push(format!("node {}: a gap before the first packet", self.index)),
            _ => {}
        }
    }

    /// Publishes the next packet for an audience.
    pub fn publish(&mut self, audience: Audience, bytes: usize, now: Instant) {
        let count = self.published.entry(audience).or_default();
        *count += 1;
        let size = (20 + bytes) as u16;
        let mut packet = Vec::with_capacity(size.into());
        packet.extend(size.to_le_bytes());
        packet.extend([7, 0]);
        packet.extend(self.incarnation.0.to_le_bytes());
        packet.extend(count.to_le_bytes());
        packet.resize(size.into(), 0);
        self.link.publish(audience, &packet, now);
    }

    pub fn login(&mut self, account: &Arc<str>, wall_ms: u64, now: Instant) -> SessionId {
        let session = SessionId::new(self.next_session, 0, 0);
        self.next_session += 1;
        self.sessions.insert(session, (Arc::clone(account), now));
        self.unanswered.insert(session, now);
        self.link.login(session, account, wall_ms, now);
        self.take_outputs();
        session
    }

    /// Logs a session in to another account.
    pub fn login_again(
        &mut self,
        session: SessionId,
        account: &Arc<str>,
        wall_ms: u64,
        now: Instant,
    ) {
        self.sessions.insert(session, (Arc::clone(account), now));
        if self.unanswered.insert(session, now).is_some() {
            self.twice.insert(session);
        }
        self.link.login(session, account, wall_ms, now);
        self.take_outputs();
    }

    pub fn end_session(&mut self, session: SessionId) {
        self.twice.remove(&session);
        self.sessions.remove(&session);
        self.unanswered.remove(&session);
        self.link.end_session(session);
        self.take_outputs();
    }

    pub fn change_members(&mut self, group: GroupId, is_join: bool, now: Instant) {
        let members = self.groups.entry(group).or_default();
        *members = if is_join { *members + 1 } else { *members - 1 };
        if *members == 0 {
            self.groups.remove(&group);
            // The next packet that arrives begins a series.
            self.seen
                .retain(|(_, audience), _| *audience != Audience::Group(group));
        }
        self.link.change_members(group, is_join, now);
        self.take_outputs();
    }
}
