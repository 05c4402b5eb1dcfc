//! Several workers' shards over fake connections and a fake clock, driven by one seed.
//!
//! `SIM_SEEDS=100000` runs more seeds than usual, `TEST_SEED=7` that one alone.
#![allow(clippy::unwrap_used)] // In a test, a panic is the report.

mod coverage;
mod driver;
mod groups;
mod link;
mod listener;
mod oracle;
mod peers;
mod runner;
mod seen;
mod transport;
mod wire;
mod world;
