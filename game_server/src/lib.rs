//! The game on top of [`server_core`]: its packets and its session.
//!
//! The server program is in `main.rs`; the load client (`dummy_client`) uses the same packets.

pub mod game;

pub use game::{GameSession, chat_budget, packets};

/// The program in the root README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[derive(Debug)]
pub struct Readme;
