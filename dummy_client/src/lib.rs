//! A load-test engine for servers that push: bots, metrics, executors, reports.

pub mod attack;
pub mod executor;
