//! The result of a run.

mod compare;
mod data;
mod merge;
#[cfg(test)]
pub(crate) mod samples;
mod step;
mod verdict;

pub use compare::{
    Comparison, MIN_BEYOND, MIN_RANK_SUM, MIN_SUPERIORITY, Outcome, compare, noise_ms,
};
pub use data::*;
pub use merge::merge;
pub use step::Step;
pub(crate) use verdict::OtherFailures;
