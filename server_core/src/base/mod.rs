//! What every layer uses: ids, reasons, the wire's numbers, limits, counters and small machines.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod address_budgets;
pub mod backoff;
pub mod config;
pub mod disconnect_log;
pub mod id;
pub mod memory;
pub mod metrics;
pub mod rate_limiter;
pub mod reason;
pub mod snapshot;
pub mod start;
pub mod sync;
pub mod timers;
pub mod wire;
