//! A fake Redis: keys, channels, and connections with a delay, on a clock that the simulation moves.

use server_core::cluster::broker::{Channel, Reply, Request, lease_key, login_key};
use server_core::cluster::envelope::Incarnation;
use server_core::cluster::logins::Login;
use server_core::cluster::picture::LEASE;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::time::{Duration, Instant};

/// The state that the simulation sets.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// No process: connects fail, connections are lost.
    pub is_killed: bool,
    /// SIGSTOP: connects and bytes wait.
    pub is_stopped: bool,
    /// A delay of each message, in both directions.
    pub throttle: Duration,
    /// Writes of keys fail.
    pub is_out_of_memory: bool,
    /// Reads of logins fail: a replica without its master, a script that does not end.
    pub refuses_reads: bool,
    /// New connections are refused.
    pub refuses_password: bool,
    /// Messages are confirmed and not delivered.
    pub is_green_but_dead: bool,
}

/// What reaches a node.
#[derive(Clone, Debug)]
pub enum Incoming {
    Connected,
    Lost,
    Message(String, Vec<u8>),
    Reply(Reply),
}

#[derive(Debug)]
struct Connection {
    node: usize,
    number: u64,
    requests: VecDeque<(Instant, Request)>,
    channels: HashSet<Channel>,
    /// Nothing passes any more, and neither side learns of it.
    is_half_open: bool,
    has_lease: bool,
    has_published: bool,
}

/// Events on their way to nodes: node, number of the connection, event.
type Outbox = BTreeMap<(usize, u64), VecDeque<(Instant, Incoming)>>;

#[derive(Debug, Default)]
pub struct Broker {
    pub faults: Faults,
    keys: BTreeMap<String, (Vec<u8>, Instant)>,
    connections: Vec<Connection>,
    /// When, the node, the number.
    connects: Vec<(Instant, usize, u64)>,
    /// Connections that their nodes have given up before they were complete.
    given_up: BTreeSet<(usize, u64)>,
    outbox: Outbox,
    /// Nodes that the network cuts off.
    pub cut_off: BTreeSet<usize>,
    /// Messages out to the nodes: all, by node, and their bytes.
    pub messages: u64,
    pub messages_to: BTreeMap<usize, u64>,
    pub message_bytes: u64,
    /// Keys that requests have read or written, leases not counted.
    pub keys_touched: u64,
    pub offences: Vec<String>,
}

impl Broker {
    pub fn kill(&mut self, now: Instant) {
        self.faults.is_killed = true;
        for connection in std::mem::take(&mut self.connections) {
            self.emit(connection.node, connection.number, now, Incoming::Lost);
        }
    }

    pub fn restart(&mut self, is_empty: bool) {
        self.faults = Faults::default();
        if is_empty {
            self.keys.clear();
        }
    }

    /// Nothing passes on the connections of this node any more.
    pub fn half_open(&mut self, node: usize) {
        for connection in self.connections.iter_mut().filter(|c| c.node == node) {
            connection.is_half_open = true;
        }
        self.outbox.retain(|(of, _), _| *of != node);
    }

    /// The process of this node has ended.
    pub fn forget_node(&mut self, node: usize) {
        self.connections
            .retain(|connection| connection.node != node);
        self.connects.retain(|(_, of, _)| *of != node);
        self.given_up.retain(|(of, _)| *of != node);
        self.outbox.retain(|(of, _), _| *of != node);
    }

    pub fn connect(&mut self, node: usize, number: u64, at: Instant) {
        self.connects.push((at, node, number));
    }

    pub fn close(&mut self, node: usize, number: u64) {
        self.connections
            .retain(|c| (c.node, c.number) != (node, number));
        // It completes late.
        if (self.connects.iter()).any(|(_, of, n)| (*of, *n) == (node, number)) {
            self.given_up.insert((node, number));
        }
        self.outbox.remove(&(node, number));
    }

    pub fn request(&mut self, node: usize, number: u64, at: Instant, request: Request) {
        if let Some(connection) = self
            .connections
            .iter_mut()
            .find(|c| (c.node, c.number) == (node, number))
        {
            connection.requests.push_back((at, request));
        }
    }

    /// The events of a node that have arrived.
    pub fn take_events(&mut self, node: usize, now: Instant) -> Vec<(u64, Incoming)> {
        let mut events = Vec::new();
        if self.cut_off.contains(&node) {
            return events;
        }
        for ((_, number), queue) in self.outbox.range_mut((node, 0)..=(node, u64::MAX)) {
            while queue.front().is_some_and(|(at, _)| *at <= now) {
                events.push((*number, queue.pop_front().unwrap().1));
            }
        }
        self.outbox.retain(|_, queue| !queue.is_empty());
        events
    }

    /// Works on the requests that have arrived. `delay` gives the time of one way on the network.
    pub fn step(&mut self, now: Instant, mut delay: impl FnMut() -> Duration) {
        let faults = self.faults.clone();
        if faults.is_stopped {
            return;
        }
        self.keys.retain(|_, (_, until)| *until > now);
        let (due, later) = self.connects.iter().partition(|(at, node, _)| {
            *at + faults.throttle <= now && !self.cut_off.contains(node)
        });
        self.connects = later;
        let due: Vec<(Instant, usize, u64)> = due;
        for (_, node, number) in due {
            if faults.is_killed || faults.refuses_password {
                self.emit(node, number, now + delay(), Incoming::Lost);
                continue;
            }
            if self.given_up.remove(&(node, number)) {
                self.emit(node, number, now + delay(), Incoming::Connected);
                continue;
            }
            self.connections.push(Connection {
                node,
                number,
                requests: VecDeque::new(),
                channels: HashSet::new(),
                is_half_open: false,
                has_lease: false,
                has_published: false,
            });
            self.emit(
                node,
                number,
                now + delay() + faults.throttle,
                Incoming::Connected,
            );
        }
        for at in 0..self.connections.len() {
            loop {
                let connection = &mut self.connections[at];
                let is_reached =
                    !connection.is_half_open && !self.cut_off.contains(&connection.node);
                let due = connection
                    .requests
                    .front()
                    .map(|(at, _)| *at + faults.throttle);
                if !is_reached || due.is_none_or(|due| due > now) {
                    break;
                }
                let (_, request) = connection.requests.pop_front().unwrap();
                let reply = self.carry_out(at, request, now, &mut delay);
                let Connection { node, number, .. } = self.connections[at];
                self.emit(
                    node,
                    number,
                    now + delay() + faults.throttle,
                    Incoming::Reply(reply),
                );
            }
        }
    }

    fn carry_out(
        &mut self,
        at: usize,
        request: Request,
        now: Instant,
        delay: &mut impl FnMut() -> Duration,
    ) -> Reply {
        let (node, number) = (self.connections[at].node, self.connections[at].number);
        let value = |value: Option<Vec<u8>>| value.map_or(Reply::Done, Reply::Value);
        match request {
            Request::Subscribe(channel) => {
                self.connections[at].channels.insert(channel);
                Reply::Done
            }
            Request::Unsubscribe(channel) => {
                self.connections[at].channels.remove(&channel);
                Reply::Done
            }
            Request::Publish(channel, message) => {
                self.check_announced(at, channel);
                if self.faults.is_green_but_dead {
                    return Reply::Count(1);
                }
                let subscribers: Vec<(usize, u64)> = (self.connections.iter())
                    .filter(|c| !c.is_half_open && c.channels.contains(&channel))
                    .map(|c| (c.node, c.number))
                    .collect();
                let count = subscribers.len() as u64;
                for (to, to_number) in subscribers {
                    self.messages += 1;
                    *self.messages_to.entry(to).or_default() += 1;
                    self.message_bytes += message.len() as u64;
                    let incoming = Incoming::Message(channel.to_string(), message.clone());
                    self.emit(
                        to,
                        to_number,
                        now + delay() + self.faults.throttle,
                        incoming,
                    );
                }
                Reply::Count(count)
            }
            Request::RenewLease(node) => {
                // A lease that the broker refuses is announced as well as it can be.
                self.connections[at].has_lease = true;
                self.set(lease_key(node), vec![1], now + LEASE)
                    .map_or(Reply::Error, |_| Reply::Done)
            }
            Request::GetLease(node) => {
                let lease = self.keys.get(&lease_key(node));
                value(lease.map(|(value, _)| value.clone()))
            }
            Request::DropLease(node) => {
                self.keys.remove(&lease_key(node));
                Reply::Done
            }
            Request::SetLogin(account, login) => {
                self.keys_touched += 1;
                let until = now + Duration::from_secs(24 * 60 * 60);
                self.set(login_key(&account), login, until)
                    .map_or(Reply::Error, value)
            }
            Request::ReplaceLogin(account, from, to) => {
                self.keys_touched += 1;
                let key = login_key(&account);
                let old = self.keys.get(&key).map(|(value, _)| value.clone());
                let is_set = old.as_ref().is_none_or(|old| *old == from);
                let until = now + Duration::from_secs(24 * 60 * 60);
                if is_set && self.set(key, to, until).is_none() {
                    return Reply::Error;
                }
                value(old)
            }
            Request::GetLogins(_) if self.faults.refuses_reads => Reply::Error,
            Request::GetLogins(accounts) => {
                self.keys_touched += accounts.len() as u64;
                let value = |account| {
                    self.keys
                        .get(&login_key(account))
                        .map(|(value, _)| value.clone())
                };
                Reply::Values(accounts.iter().map(|account| value(account)).collect())
            }
            Request::DropLogin(account, login) => {
                self.keys_touched += 1;
                let key = login_key(&account);
                let is_it = (self.keys.get(&key)).is_some_and(|(value, _)| *value == login);
                if is_it {
                    self.keys.remove(&key);
                }
                Reply::Count(is_it.into())
            }
            #[allow(unreachable_patterns)]
            other => panic!("node {node}, connection {number}: {other:?}"),
        }
    }

    /// Sets a key. `None`: out of memory. `Some`: the value before.
    fn set(&mut self, key: String, value: Vec<u8>, until: Instant) -> Option<Option<Vec<u8>>> {
        if self.faults.is_out_of_memory {
            return None;
        }
        Some(
            self.keys
                .insert(key, (value, until))
                .map(|(value, _)| value),
        )
    }

    /// Everything is announced before the first packet of a connection.
    fn check_announced(&mut self, at: usize, channel: Channel) {
        let connection = &mut self.connections[at];
        if !matches!(channel, Channel::Everybody | Channel::Group(_)) || connection.has_published {
            return;
        }
        connection.has_published = true;
        let has = |channel| connection.channels.contains(&channel);
        let has_own = connection
            .channels
            .iter()
            .any(|c| matches!(c, Channel::Node(_)));
        if !(has(Channel::Nodes) && has(Channel::Everybody) && has_own && connection.has_lease) {
            let text = format!(
                "node {} publishes before it has announced itself",
                connection.node
            );
            self.offences.push(text);
        }
    }

    /// The groups that the current connection of a node listens to.
    pub fn groups_of(&self, node: usize) -> usize {
        let connection = self.connections.iter().rfind(|c| c.node == node);
        connection.map_or(0, |c| {
            c.channels
                .iter()
                .filter(|c| matches!(c, Channel::Group(_)))
                .count()
        })
    }

    pub fn login_of(&self, account: &str) -> Option<Login> {
        Login::decode(&self.keys.get(&login_key(account))?.0)
    }

    pub fn has_lease(&self, node: Incarnation) -> bool {
        self.keys.contains_key(&lease_key(node))
    }

    /// Order is kept on a connection: an event does not overtake the one before it.
    fn emit(&mut self, node: usize, number: u64, at: Instant, incoming: Incoming) {
        if self.cut_off.contains(&node) {
            return;
        }
        let queue = self.outbox.entry((node, number)).or_default();
        let at = queue.back().map_or(at, |(last, _)| at.max(*last));
        queue.push_back((at, incoming));
    }
}
