//! A simulation of the links of several nodes over a fake broker and a fake clock. One seed drives each run: faults
//! of the broker (killed, stopped, throttled, restarted empty, out of memory, wrong password, half-open, green but
//! dead), partitions, and nodes that pause, end and leave.
//!
//! `CLUSTER_SEEDS=10000` runs 10,000 seeds in place of 40. `TEST_SEED=7` runs only seed 7.
#![allow(clippy::unwrap_used)] // In a test, a panic is the report.

mod broker;
mod claims;
mod direct;
mod kicks;
mod leaves;
mod logins;
mod many_nodes;
mod node;
mod outage;
mod returns;
mod subscriptions;
mod world;

use world::{Coverage, World};

#[test]
fn any_seed() {
    let (first, count) = match std::env::var("TEST_SEED") {
        Ok(seed) => (seed.parse().expect("TEST_SEED is a number"), 1),
        Err(_) => {
            let count = std::env::var("CLUSTER_SEEDS").map_or(40, |count| {
                count.parse().expect("CLUSTER_SEEDS is a number")
            });
            (fastrand::u64(..1 << 40), count)
        }
    };
    println!("seeds {first} to {}", first + count);
    let mut failures = Vec::new();
    let mut total = Coverage::default();
    for seed in first..first + count {
        let run = std::panic::catch_unwind(|| World::new(seed).run());
        match run {
            Ok((offences, coverage)) => {
                total.absorb(&coverage);
                if !offences.is_empty() {
                    failures.push((seed, offences));
                }
            }
            Err(_) => failures.push((seed, vec!["a panic".into()])),
        }
    }
    println!("{total:?}");
    let report: Vec<String> = (failures.iter().take(5))
        .map(|(seed, offences)| {
            let replay = "cargo test -p server_core --test cluster";
            let offences = &offences[..offences.len().min(6)];
            format!("TEST_SEED={seed} {replay}\n  {}", offences.join("\n  "))
        })
        .collect();
    let failed = failures.len();
    assert!(
        failed == 0,
        "{failed} of {count} seeds failed\n{}",
        report.join("\n")
    );
    if count >= 40 {
        total.check();
    }
}

#[test]
fn a_seed_gives_the_same_run() {
    let run = |seed| {
        let (offences, coverage) = World::new(seed).run();
        (offences, format!("{coverage:?}"))
    };
    assert_eq!(run(7), run(7));
}
