//! A hundred nodes in a healthy cluster: what an idle cluster costs, and that each node knows all others.

use crate::broker::Broker;
use crate::node::Node;
use server_core::GroupId;
use std::time::{Duration, Instant};

/// Heartbeats and probes of 100 nodes: each second, a heartbeat of each reaches each, and a probe comes back.
#[test]
fn hundred_nodes_know_each_other_and_cost_what_the_plan_says() {
    const NODES: usize = 100;
    let seed =
        std::env::var("TEST_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let start = Instant::now();
    let mut broker = Broker::default();
    let mut nodes: Vec<Node> = (0..NODES)
        .map(|index| Node::new(index, random.u64(1..), start))
        .collect();
    for node in &mut nodes {
        for zone in 0..100 {
            node.change_members(GroupId::new(1, zone), true, start);
        }
    }
    let mut run = |from: u64, to: u64| {
        let before = (broker.messages, broker.message_bytes);
        for ms in (from..to).step_by(10) {
            let now = start + Duration::from_millis(ms);
            let mut delay = || Duration::from_micros(random.u64(50..2_000));
            broker.step(now, &mut delay);
            for node in &mut nodes {
                node.step(&mut broker, now, &mut delay);
            }
        }
        let seconds = (to - from) / 1000;
        (
            (broker.messages - before.0) / seconds,
            (broker.message_bytes - before.1) / seconds,
        )
    };
    run(0, 3_000);
    let (messages, bytes) = run(3_000, 13_000);
    println!("100 nodes, 100 zones each: {messages} messages/s, {bytes} bytes/s out of the broker");
    let expected = (NODES * NODES + NODES) as u64;
    assert!(messages.abs_diff(expected) <= expected / 50, "{messages}");
    // A heartbeat has 18 + 5 + 1 + 7 bytes, and 12 for each zone in one of five.
    let heartbeat = 31 + 12 * 100 / 5;
    let expected = (NODES * NODES * heartbeat) as u64 + 26 * NODES as u64;
    assert!(
        bytes.abs_diff(expected) <= expected / 20,
        "{bytes} and not {expected}"
    );
    for node in &nodes {
        assert!(node.link.is_up());
        assert_eq!(node.present().len(), NODES - 1);
        assert_eq!(node.link.picture().members(GroupId::new(1, 7)), (99, 99));
        assert!(node.offences.is_empty(), "{:?}", node.offences);
    }
}
