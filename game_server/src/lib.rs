//! The game on top of [`server_core`]: its packets, its session, and what its programs share.
//!
//! The server program is in `main.rs`; the load client (`dummy_client`) uses the same packets.

pub mod chat_budget;
pub mod packets;
pub mod preflight;
pub mod process;
pub mod session;

pub use session::GameSession;

/// The program in the root README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[derive(Debug)]
pub struct Readme;
