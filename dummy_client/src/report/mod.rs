//! The result of a run.

mod attack_rules;
mod compare;
mod data;
mod progress;
#[cfg(test)]
pub(crate) mod samples;
mod step;
mod verdict;

pub use crate::metrics::{Others, PointTrend};
pub use compare::{
    Comparison, MIN_BEYOND, MIN_RANK_SUM, MIN_SUPERIORITY, Outcome, compare, noise_ms,
};
pub use data::*;
pub use progress::Progress;
pub use step::Step;
pub(crate) use verdict::OtherFailures;
