//! What one session of the load client does, and what it checks.

mod echo;
mod session;

pub use session::{Bot, BotSettings};
