//! Reference models of the small machines, written by other means than the machines.
//!
//! Each file drives one machine and a simple model of it side by side, step by step, and panics
//! where they differ. The steps come from the property tests (`tests/properties.rs`), and from the
//! fuzz targets (`fuzz/`), which share these files.

pub mod address_budgets;
pub mod chunk_pool;
pub mod connection;
pub mod content;
pub mod framer;
pub mod groups;
pub mod send_queue;
pub mod session_table;
