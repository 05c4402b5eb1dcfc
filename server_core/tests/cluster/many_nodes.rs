//! A hundred nodes in a healthy cluster: the arithmetic of the plan in `ARCHITECTURE.md` holds for real links.

use crate::broker::Broker;
use crate::node::Node;
use server_core::GroupId;
use server_core::routing::link::Audience;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The bytes in front of a packet, and of a packet of [`Node::publish`] without its text.
const ENVELOPE: u64 = 18;
const PACKET: u64 = 20;
const CHAT: usize = 80;

/// What leaves the broker in a second, and the keys that it reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Load {
    messages: u64,
    bytes: u64,
    keys: u64,
}

impl Load {
    fn of(messages: u64, bytes_of_one: u64) -> Self {
        let bytes = messages * bytes_of_one;
        Self {
            messages,
            bytes,
            keys: 0,
        }
    }

    fn with(self, other: Self) -> Self {
        Self {
            messages: self.messages + other.messages,
            bytes: self.bytes + other.bytes,
            keys: self.keys + other.keys,
        }
    }

    #[track_caller]
    fn assert_is_about(&self, plan: Self, percent: u64) {
        let is_about =
            |found: u64, planned: u64| found.abs_diff(planned) <= planned * percent / 100;
        assert!(
            is_about(self.messages, plan.messages)
                && is_about(self.bytes, plan.bytes)
                && is_about(self.keys, plan.keys),
            "{self:?} and not {plan:?}"
        );
    }
}

// ---- the plan ------------------------------------------------------------------------------------

/// Each second, a heartbeat of each node reaches each, and two probes of each come back: the nodes begin at one instant,
/// and the silence between two heartbeats costs the second probe. A heartbeat has 18 + 5 + 1 + 7
/// bytes with a name of 7 bytes, and 12 for each zone in one of five.
fn idle(nodes: u64, zones_of_node: u64) -> Load {
    let heartbeats = Load::of(nodes * nodes, ENVELOPE + 13 + 12 * zones_of_node / 5);
    heartbeats.with(Load::of(2 * nodes, ENVELOPE + 8))
}

/// A chat a second in each zone reaches the nodes with members: the sender's, too.
fn zone_chats(zones: u64, nodes_of_zone: u64) -> Load {
    Load::of(zones * nodes_of_zone, ENVELOPE + PACKET + CHAT as u64)
}

/// A chat to all a second from each node reaches each node.
fn world_chats(nodes: u64) -> Load {
    Load::of(nodes * nodes, ENVELOPE + PACKET + CHAT as u64)
}

/// Each login writes a key and each logout deletes one; each key is read once in 60 s.
fn logins(sessions: u64, logins_a_second: u64) -> Load {
    Load {
        keys: 2 * logins_a_second + sessions / 60,
        ..Load::default()
    }
}

// ---- the simulation ------------------------------------------------------------------------------

struct Simulation {
    random: fastrand::Rng,
    broker: Broker,
    nodes: Vec<Node>,
    now: Instant,
    step: Duration,
}

impl Simulation {
    /// Nodes whose links are up. `zones_of` gives the zones of a node.
    fn start(nodes: usize, seed: u64, step_ms: u64, zones_of: impl Fn(usize) -> Vec<u32>) -> Self {
        println!("TEST_SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let now = Instant::now();
        let new = |index| Node::new(index, random.u64(1..), now);
        let nodes = (0..nodes).map(new).collect();
        let mut simulation = Self {
            random,
            broker: Broker::default(),
            nodes,
            now,
            step: Duration::from_millis(step_ms),
        };
        for node in &mut simulation.nodes {
            for zone in zones_of(node.index) {
                node.change_members(GroupId::new(1, zone), true, now);
            }
        }
        simulation.run(3, |_, _| {});
        simulation
    }

    /// The load of one second of these. `play` acts once in each second.
    fn run(&mut self, seconds: u64, mut play: impl FnMut(&mut Self, u64)) -> Load {
        let count = |broker: &Broker| (broker.messages, broker.message_bytes, broker.keys_touched);
        let before = count(&self.broker);
        self.broker.messages_to.clear();
        for second in 0..seconds {
            play(self, second);
            let end = self.now + Duration::from_secs(1);
            while self.now < end {
                self.now += self.step;
                let (now, random) = (self.now, &mut self.random);
                let mut delay = || Duration::from_micros(random.u64(50..2_000));
                self.broker.step(now, &mut delay);
                for node in &mut self.nodes {
                    node.step(&mut self.broker, now, &mut delay);
                }
            }
        }
        let after = count(&self.broker);
        Load {
            messages: (after.0 - before.0) / seconds,
            bytes: (after.1 - before.1) / seconds,
            keys: (after.2 - before.2) / seconds,
        }
    }

    /// The most messages a second for one node, in the last run.
    fn most_of_a_node(&self, seconds: u64) -> u64 {
        self.broker.messages_to.values().max().unwrap() / seconds
    }

    fn check(&self) {
        for node in &self.nodes {
            assert!(node.link.is_up());
            assert_eq!(node.present().len(), self.nodes.len() - 1);
            assert!(node.offences.is_empty(), "{:?}", node.offences);
            assert_eq!(node.gaps_told, 0);
        }
    }
}

/// `TEST_SEED`, or one at random; `PLAN_SEEDS=5` is five.
fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).map(|text| text.parse().expect("a number"));
    match number("TEST_SEED") {
        Ok(seed) => vec![seed],
        Err(_) => (0..number("PLAN_SEEDS").unwrap_or(1))
            .map(|_| fastrand::u64(..))
            .collect(),
    }
}

#[test]
fn hundred_nodes_know_each_other_and_cost_what_the_plan_says() {
    const NODES: u64 = 100;
    let seed = seeds()[0];
    let mut simulation = Simulation::start(NODES as usize, seed, 20, |_| (0..100).collect());
    let load = simulation.run(10, |_, _| {});
    println!("100 nodes, 100 zones each, a second: {load:?}");
    load.assert_is_about(idle(NODES, 100), 1);
    assert_eq!(simulation.most_of_a_node(10), NODES + 2);
    simulation.check();
    let zone = GroupId::new(1, 7);
    for node in &simulation.nodes {
        assert_eq!(node.link.picture().members(zone), (99, 99));
    }
}

/// Zone z is on the nodes z, z + 25, z + 50 and z + 75, counted round: 2,500 zones, 100 of them on each node.
#[test]
fn chats_of_hundred_nodes_cost_what_the_plan_says() {
    const NODES: u64 = 100;
    const ZONES: u32 = 2_500;
    let zones_of = |node: usize| {
        (0..ZONES)
            .filter(|zone| zone % 25 == node as u32 % 25)
            .collect::<Vec<_>>()
    };
    for seed in seeds() {
        let mut simulation = Simulation::start(NODES as usize, seed, 20, zones_of);
        let quiet = simulation.run(5, |_, _| {});
        quiet.assert_is_about(idle(NODES, 100), 1);
        // A heartbeat in five has the counts of the groups: of five seconds, each node has one.
        let load = simulation.run(5, |simulation, _| {
            for zone in 0..ZONES {
                let node = (zone % 25 + 25 * simulation.random.u32(..4)) as usize;
                let zone = Audience::Group(GroupId::new(1, zone));
                simulation.nodes[node].publish(zone, CHAT, simulation.now);
            }
        });
        println!("with a chat a second in each zone: {load:?}");
        load.assert_is_about(idle(NODES, 100).with(zone_chats(ZONES.into(), 4)), 1);
        assert_eq!(simulation.most_of_a_node(5), NODES + 2 + 100);
        let load = simulation.run(5, |simulation, _| {
            for node in &mut simulation.nodes {
                node.publish(Audience::All, CHAT, simulation.now);
            }
        });
        println!("with a chat to all a second from each node: {load:?}");
        load.assert_is_about(idle(NODES, 100).with(world_chats(NODES)), 1);
        assert_eq!(simulation.most_of_a_node(5), NODES + 2 + NODES);
        simulation.check();
    }
}

/// The cost of a login does not depend on the number of nodes: ten nodes, of 1,200 sessions each.
#[test]
fn logins_cost_what_the_plan_says() {
    const NODES: usize = 10;
    const SESSIONS: u64 = 12_000;
    for seed in seeds() {
        let mut simulation = Simulation::start(NODES, seed, 50, |_| Vec::new());
        let mut sessions = std::collections::VecDeque::new();
        let mut next = 0;
        let mut log_in = |simulation: &mut Simulation, count: u64| {
            for _ in 0..count {
                let node = simulation.random.usize(..NODES);
                let account = Arc::from(format!("account-{next}"));
                next += 1;
                let session = simulation.nodes[node].login(&account, next, simulation.now);
                sessions.push_back((node, session));
                if sessions.len() as u64 > SESSIONS {
                    let (node, session) = sessions.pop_front().unwrap();
                    simulation.nodes[node].end_session(session);
                }
            }
        };
        for _ in 0..SESSIONS / 1_000 {
            simulation.run(1, |simulation, _| log_in(simulation, 1_000));
        }
        simulation.run(70, |_, _| {});
        let load = simulation.run(60, |simulation, _| log_in(simulation, 10));
        println!("12,000 sessions, 10 logins a second: {load:?}");
        let plan = Load {
            keys: 0,
            ..idle(NODES as u64, 0)
        };
        load.assert_is_about(plan.with(logins(SESSIONS, 10)), 4);
        simulation.check();
    }
}
