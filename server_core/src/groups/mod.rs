//! Groups of sessions: a worker's members, and the index of the workers that have members.

pub mod id;
pub mod index;
pub mod members;
