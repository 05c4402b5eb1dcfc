//! What the sessions have seen, put together: counts, delays, round trips, and this program itself.

pub mod board;
pub mod distribution;
pub mod groups;
pub mod meter;
mod phase;
pub mod recorder;
pub mod self_check;
