//! A load-test engine for servers that push: bots, metrics, executors, reports.

pub mod assertion;
pub mod error;
pub mod metrics;
pub mod output;
pub mod report;

pub use assertion::Assertion;
pub use error::Error;
