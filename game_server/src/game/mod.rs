//! The game: packets, the session of a player, the budget for chats, the tick.

pub mod chat_budget;
pub mod packets;
pub mod session;
pub mod stats;
pub mod tick;
#[cfg(feature = "cluster")]
pub mod world;

pub use session::GameSession;
