//! What each player of a world gets to know: the entities in its sight, and their changes within a byte budget.
//!
//! `grid` finds the entities that enter and leave a player's sight. `view` chooses what the player's next
//! snapshot contains. Both are plain data: no thread, no packet, no clock.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod grid;
pub mod view;
