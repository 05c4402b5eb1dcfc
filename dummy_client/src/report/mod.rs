//! The result of a run.

mod data;
mod step;
mod verdict;

pub use data::*;
pub use step::Step;
pub(crate) use verdict::OtherFailures;
