//! What decides the number of sessions: the capacity search, and the windows in which a run measures.

pub mod capacity;
pub mod windowed;
