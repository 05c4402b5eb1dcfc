//! A simulation of the shards of one to three workers, over fake connections and a fake clock. One seed drives
//! each run.
//!
//! `SIM_SEEDS=100000` runs 100,000 seeds in place of 2,500. `TEST_SEED=7` runs only seed 7.
#![allow(clippy::unwrap_used)] // In a test, a panic is the report.

mod coverage;
mod driver;
mod groups;
mod link;
mod listener;
mod oracle;
mod peers;
mod proxy;
mod runner;
mod seen;
mod transport;
mod wire;
mod world;
