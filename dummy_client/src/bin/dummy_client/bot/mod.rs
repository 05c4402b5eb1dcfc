//! What one session of the load client does, and what it checks.

mod chat;
mod echo;
mod open_loop;
mod session;

pub use session::{Bot, BotSettings, Requests};
