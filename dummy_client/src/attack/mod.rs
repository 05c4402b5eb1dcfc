//! Attackers beside the healthy sessions of a run: what an attack is, and what it does to a server.
//!
//! A game implements two traits. [`Attack`] is an attack: a name, and an [`AttackScript`] for each connection.
//! [`Protocol`] tells the runner what it has to know of the game's packets. An attacker speaks raw bytes, on
//! a thread of its own; of the library it uses only the reader of complete packets.
//!
//! ```
//! use dummy_client::attack::{Attack, AttackScript, Expect, Rng};
//!
//! /// Sends a packet with a random id.
//! struct UnknownId;
//!
//! impl Attack for UnknownId {
//!     fn name(&self) -> &str {
//!         "unknown-id"
//!     }
//!
//!     fn script(&self, _number: u64, rng: &mut Rng) -> AttackScript {
//!         let [low, high] = rng.u16(100..).to_le_bytes();
//!         // The server has 3 s to close the session with reason 3.
//!         AttackScript::new(vec![4, 0, low, high], Expect::Reason((&[3]).into()))
//!     }
//! }
//! ```
//!
//! An [`AttackRun`] measures the healthy sessions without attackers (the baseline), then beside them.
//! [`Neighbours`](NeighboursReport) are healthy sessions that pause between their reads;
//! [newcomers](NewcomersReport) connect while an attack takes the places.

mod background;
mod connection;
mod newcomers;
mod protocol;
mod readers;
mod report;
mod run;
mod runner;
mod script;
mod socket;
#[cfg(test)]
mod testing;

pub use crate::transport::Layer;
pub use fastrand::Rng;
pub use newcomers::NewcomersReport;
pub use protocol::Protocol;
pub use readers::{IntervalReport, NEIGHBOURS, NeighboursReport};
pub use report::{AttackReport, AttackStats, Delays};
pub use run::{AttackAction, AttackRun};
pub use runner::AttackRunner;
pub use script::{Attack, AttackScript, Ending, Expect, Repeat};
