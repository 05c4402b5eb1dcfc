//! Each fault of the broker, alone: the link is back within 2 s of the return, whatever the fault's length.

use crate::outage::{Pair, each_seed};
use crate::subscriptions::up;
use server_core::cluster::broker::{Channel, Request};
use server_core::routing::link::Audience;
use std::time::Duration;

/// A link is back this long after its broker is.
const BACK_MS: u64 = 2_000;

type Begin = fn(&mut Pair, ms: u64);

const FAULTS: [(&str, Begin); 10] = [
    ("killed", |pair, _| pair.broker.kill(pair.now)),
    ("emptied", |pair, _| {
        pair.broker.kill(pair.now);
        pair.broker.restart(true);
        pair.broker.faults.is_killed = true;
    }),
    ("stopped", |pair, _| pair.broker.faults.is_stopped = true),
    ("throttled", |pair, ms| {
        pair.broker.faults.throttle = Duration::from_millis(100 + ms % 1_300);
    }),
    ("out of memory", |pair, _| {
        pair.broker.faults.is_out_of_memory = true;
    }),
    ("password", |pair, _| {
        pair.broker.kill(pair.now);
        pair.broker.faults.is_killed = false;
        pair.broker.faults.refuses_password = true;
    }),
    ("half-open, and the broker works", |pair, _| {
        pair.broker.half_open(0);
    }),
    ("half-open, one node cut off", |pair, _| {
        pair.broker.half_open(0);
        pair.broker.cut_off.insert(0);
    }),
    ("half-open, all nodes cut off", |pair, _| {
        for node in [0, 1] {
            pair.broker.half_open(node);
            pair.broker.cut_off.insert(node);
        }
    }),
    ("green", |pair, _| {
        pair.broker.faults.is_green_but_dead = true;
    }),
];

/// Packets pass in both directions, and the login of each node has its key.
fn check_is_back(pair: &mut Pair, what: &str) {
    let delivered = pair.nodes.each_ref().map(|node| node.delivered);
    for node in &mut pair.nodes {
        node.publish(Audience::All, 8, pair.now);
    }
    pair.run(20);
    for (node, before) in pair.nodes.iter().zip(delivered) {
        let (at, accounts) = (node.index, &node.sessions);
        assert!(node.link.is_up(), "{what}: the link of node {at} is down");
        assert_eq!(node.delivered, before + 1, "{what}: packets to node {at}");
        assert_eq!(node.present().len(), 1, "{what}: nodes beside node {at}");
        for (session, (account, _)) in accounts {
            let key = pair.broker.login_of(account);
            assert_eq!(
                key.map(|key| (key.node, key.session)),
                Some((node.incarnation, *session)),
                "{what}: the key of {account}"
            );
        }
        assert_eq!(node.offences, [""; 0], "{what}");
    }
    assert_eq!(pair.broker.offences, [""; 0], "{what}");
}

#[test]
fn link_is_back_within_two_seconds_of_the_return_of_its_broker() {
    each_seed(|seed| {
        let (name, begin) = FAULTS[seed as usize % FAULTS.len()];
        let mut random = fastrand::Rng::with_seed(seed);
        let mut pair = Pair::new(seed);
        pair.run(random.u64(..1_000));
        let ms = random.u64(50..7_000);
        let what = format!("{name} for {ms} ms");
        begin(&mut pair, ms);
        let early = random.u64(..ms);
        pair.run(early);
        for at in [0, 1] {
            let account = format!("of-node-{at}").into();
            pair.nodes[at].login(&account, 10_000, pair.now);
        }
        pair.run(ms - early);
        pair.broker.restart(false);
        pair.broker.cut_off.clear();
        pair.run(BACK_MS);
        check_is_back(&mut pair, &what);
        // It is back for good.
        for _ in 0..5 {
            pair.run(700);
            check_is_back(&mut pair, &what);
        }
    });
}

/// The broker refuses no lease: they come once a second.
#[test]
fn login_that_a_short_lack_of_memory_refuses_has_its_key_within_two_seconds() {
    each_seed(|seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut pair = Pair::new(seed);
        pair.run(random.u64(..1_000));
        pair.broker.faults.is_out_of_memory = true;
        pair.nodes[0].login(&"ada".into(), 10_000, pair.now);
        pair.run(random.u64(50..300));
        pair.broker.faults.is_out_of_memory = false;
        pair.run(BACK_MS);
        check_is_back(&mut pair, "out of memory");
    });
}

/// Full jitter up to 500 ms: four connects a second on average if they are refused, and less than one if they hang.
#[test]
fn broker_that_is_down_is_tried_a_few_times_a_second_at_most() {
    each_seed(|seed| {
        let mut pair = Pair::new(seed);
        let is_killed = seed % 2 == 0;
        if is_killed {
            pair.broker.kill(pair.now);
        } else {
            pair.broker.faults.is_stopped = true;
        }
        pair.run(3_000);
        let before = pair.nodes.each_ref().map(|node| node.connection);
        pair.run(10_000);
        for (node, before) in pair.nodes.iter().zip(before) {
            // The number rises with each connection, and with its loss.
            let tries = (node.connection - before) / 2;
            let allowed = if is_killed { 20..=80 } else { 6..=10 };
            assert!(allowed.contains(&tries), "{tries} in 10 s");
        }
    });
}

#[test]
fn silent_connection_ends_after_one_and_a_half_seconds_and_a_write_that_blocks_with_it() {
    const SILENCE: u64 = 1_500;
    let mut setup = up();
    let start = setup.now;
    for ms in (0..SILENCE).step_by(10) {
        setup.now = start + Duration::from_millis(ms);
        setup.link.tick(setup.now);
        assert!(setup.link.is_up(), "after {ms} ms");
        let left = Duration::from_millis((SILENCE - ms).clamp(250, 1_000));
        assert_eq!(setup.link.write_timeout(setup.now), left);
    }
    // A probe each second, and one for the silence.
    let probes = setup
        .requests()
        .into_iter()
        .filter(|request| matches!(request, Request::Publish(Channel::Node(_), _)));
    assert_eq!(probes.count(), 2);
    setup.link.tick(start + Duration::from_millis(SILENCE));
    assert!(!setup.link.is_up());
}
