//! Groups of sessions: the members on one worker, and the index of the workers with members.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod id;
pub mod index;
pub mod members;
