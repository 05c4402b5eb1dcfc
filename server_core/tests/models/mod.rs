//! Reference models of the small machines. A model is simpler than its machine and shares no code with it.
//!
//! Each file drives one machine and its model side by side, step by step, and panics where the two
//! differ. The steps come from the property tests (`tests/properties.rs`) and from the fuzz targets
//! (`fuzz/`). Both use these files.

pub mod address_budgets;
pub mod chunk_pool;
pub mod connection;
pub mod content;
pub mod framer;
pub mod framing;
pub mod groups;
pub mod proxy_header;
pub mod send_queue;
pub mod session_table;
pub mod tls;
pub mod websocket;
