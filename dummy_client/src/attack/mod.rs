//! Attackers beside the healthy sessions. They speak raw bytes, on a thread of their own: nothing of
//! what the healthy ones are checked with is used by them, but the reader of whole packets.

mod plan;
mod siege;
mod squad;

pub use plan::Attack;
pub use siege::{Besieged, Siege, Want};
