//! What a run has found out, judged and shown.

pub mod summary;
