//! Attackers beside the healthy sessions. They speak raw bytes, on a thread of their own: nothing of
//! what the healthy ones are checked with is used by them, but the reader of whole packets.
//! Neighbours are healthy sessions that pause between their reads; newcomers come under the attack.

mod neighbours;
mod newcomers;
mod plan;
mod siege;
mod squad;

pub use neighbours::NEIGHBOURS;
pub use newcomers::NewcomersReport;
pub use plan::Attack;
pub use siege::{Besieged, Siege, Want};
