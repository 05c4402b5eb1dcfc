//! What the sessions have seen, put together: counts, delays, round trips, and this program itself.

pub mod board;
pub mod distribution;
mod epochs;
pub mod groups;
mod line;
pub mod meter;
mod phase;
pub mod recorder;
mod schedule;
pub mod self_check;
mod timeline;
