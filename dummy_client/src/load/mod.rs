//! How many sessions there are when: from the first connection to the end of the run.

mod conductor;

pub use conductor::{Failure, run};
