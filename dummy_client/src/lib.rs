//! A load-test engine for servers that push: bots, metrics, executors, reports.

pub mod error;
pub mod metrics;
pub mod output;
pub mod report;

pub use error::Error;
