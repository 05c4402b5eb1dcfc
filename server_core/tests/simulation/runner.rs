//! Runs seeds, and reports the seeds that failed.

use crate::coverage::Coverage;
use crate::driver::Sim;
use std::any::Any;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

const DEFAULT_SEEDS: u64 = 2_500;
const THREADS: u64 = 2;

#[test]
fn any_seed() {
    if let Ok(seed) = std::env::var("TEST_SEED") {
        let seed = seed.parse().expect("TEST_SEED is a number");
        let (offences, coverage) = simulate(seed);
        println!("{coverage:?}");
        assert!(offences.is_empty(), "seed {seed}:\n{}", offences.join("\n"));
        return;
    }
    let seeds = std::env::var("SIM_SEEDS").map_or(DEFAULT_SEEDS, |count| {
        count.parse().expect("SIM_SEEDS is a number")
    });
    let first = fastrand::u64(..1 << 40);
    println!("seeds {first} to {}", first + seeds);
    let next = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    let total = Mutex::new(Coverage::default());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= seeds {
                        break;
                    }
                    let seed = first + n;
                    let (offences, coverage) = std::panic::catch_unwind(|| simulate(seed))
                        .unwrap_or_else(|panic| (vec![name_panic(&*panic)], Coverage::default()));
                    total.lock().unwrap().absorb(coverage);
                    if !offences.is_empty() {
                        failures.lock().unwrap().push((seed, offences));
                    }
                }
            });
        }
    });
    let mut total = total.into_inner().unwrap();
    println!("{total:?}");
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {seeds} seeds failed, {}",
        failures.len(),
        report(&failures)
    );
    assert!(
        seeds < 1_000 || total.has_everything(),
        "an event has a count of 0: {total:?}"
    );
}

/// Five failures in full, and the most frequent causes of all: five seeds may not show each cause.
fn report(failures: &[(u64, Vec<String>)]) -> String {
    let first: Vec<String> = failures
        .iter()
        .take(5)
        .map(|(seed, offences)| {
            let replay = "cargo test -p server_core --test simulation";
            format!("TEST_SEED={seed} {replay}\n  {}", offences.join("\n  "))
        })
        .collect();
    let mut causes: BTreeMap<String, usize> = BTreeMap::new();
    for offence in failures.iter().flat_map(|(_, offences)| offences) {
        let text = offence.split(';').next().unwrap_or(offence);
        *causes.entry(without_numbers(text)).or_default() += 1;
    }
    let mut causes: Vec<_> = causes.into_iter().collect();
    causes.sort_by_key(|(_, count)| Reverse(*count));
    let causes: Vec<String> = (causes.iter())
        .take(40)
        .map(|(cause, count)| format!("{count} times: {cause}"))
        .collect();
    format!(
        "among them:\n{}\nThe causes, with # for each number:\n  {}",
        first.join("\n"),
        causes.join("\n  ")
    )
}

fn without_numbers(text: &str) -> String {
    let mut cause = String::new();
    for letter in text.chars().take(120) {
        if !letter.is_ascii_digit() {
            cause.push(letter);
        } else if !cause.ends_with('#') {
            cause.push('#');
        }
    }
    cause
}

#[test]
fn a_seed_gives_the_same_run_twice() {
    for seed in 0..20 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
}

fn name_panic(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or(panic.downcast_ref::<String>().map(String::as_str));
    format!("a panic outside of the handlers: {}", text.unwrap_or("?"))
}

/// The bytes that each peer of one run got.
fn trace(seed: u64) -> Vec<Vec<u8>> {
    let mut sim = Sim::new(seed);
    sim.run();
    let outputs = sim.peers.iter().map(|peer| peer.end.state().output.clone());
    outputs.collect()
}

fn simulate(seed: u64) -> (Vec<String>, Coverage) {
    let mut sim = Sim::new(seed);
    sim.run();
    sim.finish()
}
