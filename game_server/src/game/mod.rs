//! The game: packets, the session of a player, the budget for chats.

pub mod chat_budget;
pub mod packets;
pub mod session;
pub mod stats;

pub use session::GameSession;
