//! Groups of sessions: a worker's members, and the index of the workers that have members.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod id;
pub mod index;
pub mod members;
