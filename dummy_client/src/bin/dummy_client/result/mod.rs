//! What a run has found out, judged and shown.

pub mod assertion;
pub mod compare;
pub mod machine;
mod metric;
pub mod output;
mod report;
pub mod schema;
pub mod summary;
mod text;
mod verdict;
