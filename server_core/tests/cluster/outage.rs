//! Logins and ends of sessions while the broker is away: the newest session stays when it is back.

use crate::broker::Broker;
use crate::node::Node;
use server_core::{DisconnectReason, SessionId};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Two nodes and their broker.
pub struct Pair {
    random: fastrand::Rng,
    pub now: Instant,
    pub broker: Broker,
    pub nodes: [Node; 2],
    account: Arc<str>,
}

impl Pair {
    pub fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let now = Instant::now();
        let nodes = [0, 1].map(|index| Node::new(index, random.u64(1..), now));
        let mut pair = Self {
            random,
            now,
            broker: Broker::default(),
            nodes,
            account: "ada".into(),
        };
        pair.run(3_000);
        assert!(pair.nodes.iter().all(|node| node.link.is_up()));
        pair
    }

    pub fn run(&mut self, ms: u64) {
        for _ in 0..ms / 2 {
            self.now += Duration::from_millis(2);
            let mut delay = || Duration::from_micros(self.random.u64(50..2_000));
            self.broker.step(self.now, &mut delay);
            for node in &mut self.nodes {
                node.step(&mut self.broker, self.now, &mut delay);
            }
        }
    }

    fn login(&mut self, node: usize, wall_ms: u64) -> SessionId {
        self.nodes[node].login(&self.account, wall_ms, self.now)
    }

    fn check(self, newest: (usize, SessionId)) {
        let (node, session) = newest;
        let key = self.broker.login_of(&self.account).unwrap();
        assert_eq!(key.node, self.nodes[node].incarnation);
        assert_eq!(key.session, session);
        assert_eq!(self.nodes[node].link.local_login("ada"), Some(session));
        assert_eq!(self.nodes[node].closed, []);
        for node in self.nodes {
            assert_eq!(node.offences, Vec::<String>::new());
        }
    }
}

/// Runs with the seeds of a printed series.
pub fn each_seed(check: impl Fn(u64)) {
    let first = std::env::var("TEST_SEED")
        .map_or_else(|_| fastrand::u64(..1 << 40), |s| s.parse().unwrap());
    for seed in first..first + 50 {
        println!("TEST_SEED={seed}");
        check(seed);
    }
}

#[test]
fn session_that_ended_without_the_broker_does_not_end_a_newer_one_of_an_earlier_clock() {
    each_seed(|seed| {
        let mut pair = Pair::new(seed);
        let left = pair.login(0, 12_000);
        pair.run(1_000);
        pair.broker.kill(pair.now);
        pair.run(1_000);
        pair.nodes[0].end_session(left);
        let newest = pair.login(1, 10_500);
        pair.run(1_000);
        pair.broker.restart(false);
        pair.run(3_000);
        pair.check((1, newest));
    });
}

#[test]
fn login_of_a_node_that_was_killed_does_not_end_a_newer_one_of_an_earlier_clock() {
    each_seed(|seed| {
        let mut pair = Pair::new(seed);
        let _ = pair.login(0, 12_000);
        pair.run(1_000);
        pair.broker.kill(pair.now);
        pair.run(1_000);
        pair.broker.forget_node(0);
        pair.nodes[0].paused_until = Some(pair.now + Duration::from_secs(3600));
        let newest = pair.login(1, 10_500);
        pair.run(4_500);
        pair.broker.restart(false);
        pair.run(8_000);
        pair.check((1, newest));
    });
}

/// The broker has the key, and the connection is lost before the answer, and before the older session is told.
#[test]
fn login_whose_answer_is_lost_ends_the_older_session_when_the_link_is_back() {
    each_seed(|seed| {
        let mut pair = Pair::new(seed);
        let older = pair.login(0, 10_000);
        pair.run(1_000);
        let newest = pair.login(1, 12_000);
        let node = pair.nodes[1].incarnation;
        for step in 0.. {
            assert!(step < 100, "the broker takes no key");
            pair.run(2);
            if pair.broker.login_of("ada").unwrap().node == node {
                break;
            }
        }
        pair.broker.cut_off.insert(1);
        pair.run(3_000);
        assert_eq!(pair.nodes[0].closed, []);
        pair.broker.cut_off.clear();
        pair.run(2_000);
        let ended = (older, DisconnectReason::LoggedInElsewhere);
        assert_eq!(pair.nodes[0].closed, [ended]);
        pair.nodes[0].end_session(older);
        pair.nodes[0].closed.clear();
        pair.run(1_500);
        pair.check((1, newest));
    });
}

#[test]
fn older_session_ends_within_a_second_and_a_half_of_the_return_of_the_broker() {
    each_seed(|seed| {
        let mut pair = Pair::new(seed);
        pair.broker.kill(pair.now);
        pair.run(1_000);
        let older = pair.login(0, 10_000);
        let newest = pair.login(1, 12_000);
        pair.run(1_000);
        pair.broker.restart(false);
        pair.run(1_500);
        let ended = (older, DisconnectReason::LoggedInElsewhere);
        assert_eq!(pair.nodes[0].closed, [ended]);
        pair.nodes[0].end_session(older);
        pair.run(1_500);
        pair.check((1, newest));
    });
}

#[test]
fn comparison_that_the_broker_refuses_is_made_again_within_five_seconds() {
    each_seed(|seed| {
        let mut pair = Pair::new(seed);
        let ended = pair.nodes[0].login(&"bob".into(), 9_000, pair.now);
        pair.run(1_000);
        pair.broker.kill(pair.now);
        pair.run(1_000);
        pair.nodes[0].end_session(ended);
        let older = pair.login(0, 10_000);
        let newest = pair.login(1, 12_000);
        pair.run(1_000);
        pair.broker.restart(false);
        pair.broker.faults.refuses_reads = true;
        pair.run(3_000);
        assert!(pair.nodes.iter().all(|node| node.link.is_up()));
        assert!(pair.broker.login_of("bob").is_some());
        pair.broker.faults.refuses_reads = false;
        pair.run(6_000);
        assert_eq!(pair.broker.login_of("bob"), None, "its key is deleted");
        let closed = (older, DisconnectReason::LoggedInElsewhere);
        assert_eq!(pair.nodes[0].closed, [closed]);
        pair.nodes[0].end_session(older);
        pair.run(1_500);
        pair.check((1, newest));
    });
}

#[test]
fn key_of_a_login_that_was_answered_late_is_deleted_with_its_session() {
    each_seed(|seed| {
        let mut pair = Pair::new(seed);
        pair.broker.faults.is_stopped = true;
        let log_in = |account: &Arc<str>, pair: &mut Pair| {
            let session = pair.nodes[0].login(account, 10_000, pair.now);
            pair.nodes[0].login_again(session, account, 10_500, pair.now);
            pair.run(100);
            session
        };
        // The comparison of the first account is under way when the other one has no answer in time.
        log_in(&"bob".into(), &mut pair);
        let session = log_in(&"ada".into(), &mut pair);
        pair.run(1_000);
        pair.nodes[0].end_session(session);
        pair.broker.faults.is_stopped = false;
        pair.run(1_000);
        assert!(pair.nodes[0].link.is_up());
        assert!(pair.broker.login_of("bob").is_some());
        assert_eq!(pair.broker.login_of("ada"), None);
    });
}
