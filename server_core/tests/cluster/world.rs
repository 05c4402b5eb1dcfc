//! A run: nodes, a broker, faults by seed, and the oracle.

use crate::broker::Broker;
use crate::node::Node;
use server_core::cluster::Why;
use server_core::cluster::envelope::Incarnation;
use server_core::routing::link::Audience;
use server_core::{DisconnectReason, GroupId, SessionId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(2);
/// Faults happen in this time.
const UNREST: Duration = Duration::from_secs(40);
/// Then everything works, for this time.
const CALM: Duration = Duration::from_secs(12);
/// A link is up this long after its broker is back: 1.5 s of silence, or a connect that had begun and 500 ms of backoff.
const BACK: Duration = Duration::from_secs(2);
/// Logins of one account within this time are in the order of the broker.
const AMBIGUOUS: Duration = Duration::from_secs(9);
const KIND: u32 = 1;

/// What happened in the runs.
#[derive(Debug, Default)]
pub struct Coverage {
    pub counts: BTreeMap<&'static str, u64>,
}

impl Coverage {
    fn add(&mut self, name: &'static str, count: u64) {
        *self.counts.entry(name).or_default() += count;
    }

    pub fn absorb(&mut self, other: &Self) {
        for (name, count) in &other.counts {
            self.add(name, *count);
        }
    }

    /// A simulation in which something never happens proves nothing about it.
    pub fn check(&self) {
        for name in [
            "killed",
            "emptied",
            "stopped",
            "throttled",
            "out_of_memory",
            "password",
            "half_open",
            "green_but_dead",
            "cut_off",
            "paused",
            "node_killed",
            "node_left",
            "delivered",
            "gaps",
            "replaced",
            "kicked",
            "unsure",
            "queue_full",
            "too_old",
            "link_down",
            "unconfirmed",
            "expired",
            "mailbox_full",
            "flooded",
        ] {
            assert!(
                self.counts.get(name).is_some_and(|count| *count > 0),
                "never: {name}"
            );
        }
    }
}

/// One login: when, where, and which.
#[derive(Clone, Copy, Debug, PartialEq)]
struct LoginEvent {
    at: Instant,
    node: Incarnation,
    session: SessionId,
    /// The user has left, or the node has ended.
    is_over: bool,
}

pub struct World {
    random: fastrand::Rng,
    start: Instant,
    now: Instant,
    broker: Broker,
    nodes: Vec<Node>,
    /// Nodes whose process has ended, and when.
    ended: Vec<(Incarnation, Instant, bool)>,
    logins: HashMap<Arc<str>, Vec<LoginEvent>>,
    accounts: Vec<Arc<str>>,
    next_fault_at: Instant,
    last_silence_at: Option<Instant>,
    /// The nodes' clocks, ahead of the true time.
    clock_ahead_ms: Vec<u64>,
    /// Whether the first session of a node logs in to one account after the other all the time.
    floods: bool,
    /// Many logins meet races, few logins have a clear newest one.
    login_rarity: u32,
    heal_at: Option<Instant>,
    /// Since when the broker and the network work.
    healthy_since: Option<Instant>,
    expired: u64,
    coverage: Coverage,
    offences: Vec<String>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        // A series of its own: what is drawn here changes nothing else of a run.
        let mut setting = fastrand::Rng::with_seed(!seed);
        // A real instant as the zero of a fake clock.
        let start = Instant::now();
        let nodes = random.usize(2..=5);
        let nodes = (0..nodes)
            .map(|index| Node::new(index, random.u64(1..), start))
            .collect();
        Self {
            clock_ahead_ms: (0..5)
                .map(|_| setting.u64(..2_000) * setting.u64(..2))
                .collect(),
            floods: setting.u8(..4) == 0,
            start,
            now: start,
            broker: Broker::default(),
            nodes,
            ended: Vec::new(),
            logins: HashMap::new(),
            accounts: (0..6).map(|n| format!("account-{n}").into()).collect(),
            next_fault_at: start + Duration::from_secs(3),
            heal_at: None,
            last_silence_at: None,
            login_rarity: if random.bool() { 1 } else { 12 },
            healthy_since: Some(start),
            expired: 0,
            coverage: Coverage::default(),
            offences: Vec::new(),
            random,
        }
    }

    pub fn run(mut self) -> (Vec<String>, Coverage) {
        while self.now < self.start + UNREST + CALM {
            self.now += STEP;
            if self.now < self.start + UNREST {
                self.make_faults();
                self.play();
            } else {
                if self.healthy_since.is_none() {
                    self.heal();
                }
                // Packets go on: they tell the gaps.
                for at in 0..self.nodes.len() {
                    if self.random.u32(..100) == 0 {
                        self.nodes[at].publish(Audience::All, 8, self.now);
                    }
                }
            }
            self.step();
            if self.offences.len() > 20 {
                break;
            }
        }
        self.check_end();
        self.offences.append(&mut self.broker.offences);
        for node in &mut self.nodes {
            self.offences.append(&mut node.offences);
        }
        self.count();
        (self.offences, self.coverage)
    }

    fn ms(&self, at: Instant) -> u128 {
        at.duration_since(self.start).as_millis()
    }

    fn step(&mut self) {
        let mut random = self.random.fork();
        let mut delay = move || Duration::from_micros(random.u64(50..2_000));
        let now = self.now;
        self.broker.step(now, &mut delay);
        let before: Vec<_> = self.nodes.iter().map(Node::present).collect();
        for node in &mut self.nodes {
            node.step(&mut self.broker, now, &mut delay);
        }
        self.check_deaths(&before);
        self.close_sessions();
    }

    /// Carries out what the links asked for, and checks each kick.
    fn close_sessions(&mut self) {
        for at in 0..self.nodes.len() {
            let incarnation = self.nodes[at].incarnation;
            for (session, reason) in std::mem::take(&mut self.nodes[at].closed) {
                self.coverage.add("kicked", 1);
                let Some((account, logged_in_at)) = self.nodes[at].sessions.get(&session).cloned()
                else {
                    continue;
                };
                let waits_for_first = self.nodes[at].twice.contains(&session);
                self.nodes[at].end_session(session);
                let is_replaced = |logins: &[LoginEvent], since: Instant| {
                    logins.iter().any(|other| {
                        (other.node, other.session) != (incarnation, session)
                            && other.at + AMBIGUOUS >= since
                    })
                };
                // While its first login has no answer, the session has the first account.
                let of_first = |logins: &Vec<LoginEvent>| {
                    let mut own = logins.iter().rev();
                    let own = own.find(|own| (own.node, own.session) == (incarnation, session));
                    own.is_some_and(|own| is_replaced(logins, own.at))
                };
                let is_justified = is_replaced(&self.logins[&account], logged_in_at)
                    || waits_for_first && self.logins.values().any(of_first);
                if reason == DisconnectReason::LoggedInElsewhere && !is_justified {
                    let text = format!(
                        "{} ms: the newest session of {account} was kicked",
                        self.ms(self.now)
                    );
                    self.offences.push(text);
                }
            }
        }
    }

    /// A node leaves a picture only if it has ended, is paused or cut off, or the broker is not healthy.
    fn check_deaths(&mut self, before: &[std::collections::BTreeSet<Incarnation>]) {
        let long = |since: Option<Instant>| {
            since.is_some_and(|since| self.now.duration_since(since) > Duration::from_secs(7))
        };
        let mut offences = Vec::new();
        let running: Vec<Incarnation> = self.nodes.iter().map(|node| node.incarnation).collect();
        for node in &mut self.nodes {
            // The silence of a node that was killed may be long enough by now.
            let gone = std::mem::take(&mut node.gone_by_pause);
            if gone.iter().any(|gone| running.contains(gone)) {
                let text = format!("node {} declares others dead, by its own pause", node.index);
                offences.push(text);
            }
        }
        for (node, before) in self.nodes.iter().zip(before) {
            for gone in before.difference(&node.present()) {
                self.expired += 1;
                let is_well = self.nodes.iter().any(|other| {
                    other.incarnation == *gone
                        && long(other.up_since)
                        && other.paused_until.is_none()
                });
                if is_well && long(self.healthy_since) && long(node.up_since) {
                    offences.push(format!(
                        "{} ms: node {} declares {gone:?} dead, which is alive",
                        self.ms(self.now),
                        node.index
                    ));
                }
            }
            // A killed node is out within 6 s, one that has left within 1 s.
            for (ended, at, has_left) in &self.ended {
                let limit = Duration::from_secs(if *has_left { 1 } else { 6 });
                let has_watched = |since: Option<Instant>| since.is_some_and(|since| since < *at);
                if self.now > *at + limit
                    && node.link.picture().is_present(*ended)
                    && has_watched(node.watches_since)
                    && has_watched(self.healthy_since)
                    // A broker that delivers nothing is found within 4 s.
                    && (self.last_silence_at).is_none_or(|since| since + Duration::from_secs(5) < *at)
                {
                    offences.push(format!("node {} still counts {ended:?}", node.index));
                }
                if !has_left
                    && self.now > *at + Duration::from_secs(6)
                    && has_watched(self.healthy_since)
                    && self.broker.has_lease(*ended)
                {
                    offences.push(format!("the lease of {ended:?} is still there"));
                }
            }
        }
        self.offences.extend(offences);
    }

    fn make_faults(&mut self) {
        if self.heal_at.is_some_and(|at| at <= self.now) {
            self.heal();
        }
        let ends_soon = self.now + Duration::from_millis(1_200) > self.start + UNREST;
        if ends_soon || self.heal_at.is_some() || self.now < self.next_fault_at {
            return;
        }
        let mut length = Duration::from_millis(self.random.u64(50..9_000));
        let node = self.random.usize(..self.nodes.len());
        let mut is_of_broker = true;
        let name = match self.random.u32(..13) {
            0 => {
                self.broker.kill(self.now);
                "killed"
            }
            1 => {
                self.broker.kill(self.now);
                self.broker.restart(true);
                "emptied"
            }
            2 | 3 => {
                self.broker.faults.is_stopped = true;
                "stopped"
            }
            4 => {
                self.broker.faults.throttle = Duration::from_millis(self.random.u64(100..1_400));
                "throttled"
            }
            5 => {
                self.broker.faults.is_out_of_memory = true;
                "out_of_memory"
            }
            6 => {
                self.broker.kill(self.now);
                self.broker.faults.is_killed = false;
                self.broker.faults.refuses_password = true;
                "password"
            }
            7 => {
                self.broker.half_open(node);
                "half_open"
            }
            8 => {
                self.broker.faults.is_green_but_dead = true;
                // A shorter silence may swallow no probe: a lost kick is found within 60 s.
                length = length.max(Duration::from_millis(1_100));
                "green_but_dead"
            }
            9 => {
                self.broker.half_open(node);
                self.broker.cut_off.insert(node);
                "cut_off"
            }
            10 => {
                self.nodes[node].paused_at = Some(self.now);
                self.nodes[node].paused_until = Some(self.now + length);
                is_of_broker = false;
                "paused"
            }
            11 => {
                self.end_node(node, false);
                is_of_broker = false;
                "node_killed"
            }
            _ => {
                self.end_node(node, true);
                is_of_broker = false;
                "node_left"
            }
        };
        if ["half_open", "green_but_dead", "cut_off", "throttled"].contains(&name) {
            self.last_silence_at = Some(self.now);
        }
        if std::env::var("SIM_TRACE").is_ok() {
            println!(
                "{} ms: {name} for {length:?}, node {node}",
                self.ms(self.now)
            );
        }
        self.coverage.add(name, 1);
        self.heal_at = Some(self.now + length);
        if is_of_broker {
            self.healthy_since = None;
        }
    }

    fn heal(&mut self) {
        self.heal_at = None;
        self.next_fault_at = self.now + Duration::from_millis(self.random.u64(100..9_000));
        if self.healthy_since.is_none() {
            let is_emptied = self.broker.faults.is_killed && self.random.bool();
            self.broker.restart(is_emptied);
            self.broker.cut_off.clear();
            self.healthy_since = Some(self.now);
        }
    }

    /// A process ends, and another one starts in its place.
    fn end_node(&mut self, at: usize, leaves: bool) {
        let now = self.now;
        // A paused process cannot leave.
        let leaves = leaves && !self.nodes[at].is_paused(now) && self.nodes[at].link.is_up();
        if leaves {
            self.nodes[at].link.leave(now);
            self.nodes[at].take_outputs();
            self.nodes[at].give_commands(&mut self.broker, now, || Duration::ZERO);
            self.broker.step(now, || Duration::from_millis(1));
        }
        self.broker.forget_node(at);
        let incarnation = self.nodes[at].incarnation;
        self.ended.push((incarnation, now, leaves));
        for login in self
            .logins
            .values_mut()
            .flatten()
            .filter(|login| login.node == incarnation)
        {
            login.is_over = true;
        }
        self.count_node(at);
        self.offences.append(&mut self.nodes[at].offences);
        self.nodes[at] = Node::new(at, self.random.u64(1..), now);
    }

    /// Players and games act.
    fn play(&mut self) {
        for at in 0..self.nodes.len() {
            if self.nodes[at].is_paused(self.now) {
                continue;
            }
            let (now, ms) = (self.now, self.ms(self.now) as u64);
            let wall_ms = ms + 1 + self.clock_ahead_ms[at];
            if self.floods && at == 0 {
                self.flood(ms, wall_ms);
            }
            match self.random.u32(..1000) {
                0..20 => {
                    let audience = match self.random.u32(..5) {
                        0 => Audience::All,
                        number => Audience::Group(GroupId::new(KIND, number)),
                    };
                    self.nodes[at].publish(audience, self.random.usize(..200), now);
                }
                20 if self.random.u32(..20) == 0 => {
                    // More than the queue holds.
                    for _ in 0..100 {
                        self.nodes[at].publish(Audience::All, 60_000, now);
                    }
                }
                21..24 => {
                    let group = GroupId::new(KIND, self.random.u32(1..5));
                    self.nodes[at].change_members(group, true, now);
                }
                24..27 => {
                    let group = GroupId::new(KIND, self.random.u32(1..5));
                    if self.nodes[at].groups.contains_key(&group) {
                        self.nodes[at].change_members(group, false, now);
                    }
                }
                27..29 if self.random.u32(..self.login_rarity) == 0 => {
                    let account =
                        Arc::clone(&self.accounts[self.random.usize(..self.accounts.len())]);
                    let session = self.nodes[at].login(&account, wall_ms, now);
                    let node = self.nodes[at].incarnation;
                    let event = LoginEvent {
                        at: now,
                        node,
                        session,
                        is_over: false,
                    };
                    self.logins.entry(account).or_default().push(event);
                }
                30 if self.random.u32(..self.login_rarity) == 0 => {
                    let sessions = self.nodes[at].sessions.iter();
                    let sessions = sessions.filter(|(_, (of, _))| !of.starts_with("flood"));
                    let sessions: Vec<_> = sessions.map(|(session, _)| *session).collect();
                    if let Some(session) = self.random.choice(sessions) {
                        let account =
                            Arc::clone(&self.accounts[self.random.usize(..self.accounts.len())]);
                        let node = self.nodes[at].incarnation;
                        for login in self.logins.values_mut().flatten() {
                            login.is_over |= (login.node, login.session) == (node, session);
                        }
                        self.nodes[at].login_again(session, &account, wall_ms, now);
                        let event = LoginEvent {
                            at: now,
                            node,
                            session,
                            is_over: false,
                        };
                        self.logins.entry(account).or_default().push(event);
                    }
                }
                29 => {
                    let sessions: Vec<_> = self.nodes[at].sessions.keys().copied().collect();
                    if let Some(session) = self.random.choice(sessions) {
                        self.nodes[at].end_session(session);
                        let node = self.nodes[at].incarnation;
                        for login in self.logins.values_mut().flatten() {
                            login.is_over |= (login.node, login.session) == (node, session);
                        }
                    }
                }
                _ => {}
            }
        }
        self.close_sessions();
    }

    /// A session of the first node logs in at full speed. The promises to all others hold.
    fn flood(&mut self, ms: u64, wall_ms: u64) {
        let node = &mut self.nodes[0];
        let of_flood = |name: &Arc<str>| name.starts_with("flood");
        let sessions = node.sessions.iter();
        let mut flooding = sessions.filter(|(_, (name, _))| of_flood(name));
        let session = flooding.next().map(|(session, _)| *session);
        for number in 0..4 {
            let account = format!("flood-{ms}-{number}").into();
            match session {
                Some(session) => node.login_again(session, &account, wall_ms, self.now),
                None => {
                    node.login(&account, wall_ms, self.now);
                    break;
                }
            }
        }
        self.coverage.add("flooded", 1);
    }

    /// Everything works for [`CALM`]: all is as it should be.
    fn check_end(&mut self) {
        let mut offences = Vec::new();
        let calm_at = self.start + UNREST;
        for node in &self.nodes {
            let name = node.index;
            // A process that is paused does nothing: it has lost the time in which its link could come back.
            let pause = node.paused_at.zip(node.resumed_at);
            let pause = pause.filter(|(_, resumed_at)| *resumed_at > calm_at);
            let working_at = pause.map_or(calm_at, |(_, resumed_at)| resumed_at);
            if node.paused_until.is_some() {
                offences.push(format!("node {name} is still paused"));
            }
            match node.up_since {
                None => offences.push(format!("the link of node {name} is down")),
                Some(at) if at > working_at + BACK => {
                    offences.push(format!(
                        "node {name} is back after {} ms",
                        at.duration_since(working_at).as_millis()
                    ));
                }
                _ => {}
            }
            let mut others: Vec<_> = self.nodes.iter().map(|other| other.incarnation).collect();
            others.retain(|other| *other != node.incarnation);
            others.sort_unstable();
            if !node.present().into_iter().eq(others) {
                offences.push(format!("node {name} sees {:?}", node.present()));
            }
            for number in 1..5 {
                let group = GroupId::new(KIND, number);
                let others = self.nodes.iter().filter(|other| other.index != name);
                let members: u64 = others
                    .map(|other| u64::from(*other.groups.get(&group).unwrap_or(&0)))
                    .sum();
                if node.link.picture().members(group).0 != members {
                    offences.push(format!(
                        "node {name} counts {:?} of {members}",
                        node.link.picture().members(group)
                    ));
                }
            }
            if self.broker.groups_of(name) != node.groups.len() {
                offences.push(format!(
                    "node {name} listens to {} groups of {}",
                    self.broker.groups_of(name),
                    node.groups.len()
                ));
            }
            for (_, other) in node.link.picture().present() {
                let sessions = self
                    .nodes
                    .iter()
                    .find(|one| *format!("node-{}", one.index) == *other.name);
                if sessions.map(|one| one.sessions.len()) != Some(other.sessions as usize) {
                    offences.push(format!(
                        "node {name} counts {} sessions of {}",
                        other.sessions, other.name
                    ));
                }
            }
        }
        for account in &self.accounts {
            let Some(logins) = self.logins.get(account) else {
                continue;
            };
            let alive: Vec<(Incarnation, SessionId)> = (self.nodes.iter())
                .flat_map(|node| {
                    let sessions = node.sessions.iter().filter(|(_, (of, _))| of == account);
                    sessions.map(|(session, _)| (node.incarnation, *session))
                })
                .collect();
            if alive.len() > 1 {
                offences.push(format!(
                    "{account} has {} sessions: {alive:?}, its key {:?}, logins {:?}",
                    alive.len(),
                    self.broker.login_of(account),
                    logins
                        .iter()
                        .map(|login| (self.ms(login.at), login.node, login.session, login.is_over))
                        .collect::<Vec<_>>()
                ));
            }
            let newest = logins.last().unwrap();
            let is_clear = logins
                .iter()
                .rev()
                .skip(1)
                .all(|other| other.at + AMBIGUOUS < newest.at);
            if is_clear && !newest.is_over && alive != [(newest.node, newest.session)] {
                offences.push(format!(
                    "the newest session of {account} has ended: {alive:?}, {logins:?}"
                ));
            }
        }
        self.offences.extend(offences);
    }

    fn count_node(&mut self, at: usize) {
        let node = &self.nodes[at];
        self.coverage.add("delivered", node.delivered);
        self.coverage.add("gaps", node.gaps_told);
        for answer in &node.answers {
            self.coverage.add(
                match answer {
                    server_core::cluster::LoginAnswer::Granted => "granted",
                    server_core::cluster::LoginAnswer::Replaced => "replaced",
                    _ => "unsure",
                },
                1,
            );
        }
        for why in Why::ALL {
            self.coverage.add(why.label(), node.metrics.dropped(why));
        }
    }

    fn count(&mut self) {
        for at in 0..self.nodes.len() {
            self.count_node(at);
        }
        self.coverage.add("expired", self.expired);
        self.coverage.add("messages", self.broker.messages);
    }
}
