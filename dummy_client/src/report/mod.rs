//! The result of a run.

mod data;

pub use data::*;
