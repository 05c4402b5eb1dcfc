//! A load-test engine for servers that push: bots, metrics, executors, reports.

pub mod analysis;
mod assertion;
pub mod attack;
mod collector;
mod config;
mod context;
mod error;
pub mod executor;
mod health;
mod measurement;
pub mod metrics;
pub mod output;
pub mod pacing;
pub mod report;
mod run;
mod scenario;
mod users;

pub use config::{RunConfig, Share};
pub use context::BotContext;
pub use error::Error;
pub use executor::Executor;
pub use metrics::Registry;
pub use report::Report;
pub use run::{Progress, Run, Stop, check_assertions};
pub use scenario::{Bot, Mix, Scenario, UserId, Violation};
pub use users::MAX_CONNECTING;
