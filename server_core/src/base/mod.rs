//! Values and small machines for every layer: ids, reasons, numbers of the wire, limits, counters, timers.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod address_budgets;
pub mod backoff;
pub mod bans;
pub mod cgroup;
pub mod cidr;
pub mod config;
pub mod disconnect_log;
pub mod id;
pub mod memory;
pub mod metrics;
pub mod packet_counts;
pub mod rate_limiter;
pub mod reason;
pub mod snapshot;
pub mod start;
pub mod sync;
pub mod text;
pub mod timers;
pub mod trace;
pub mod transport_kind;
pub mod wire;
