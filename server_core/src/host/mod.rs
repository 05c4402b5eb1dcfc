//! The host of a program: limits of the machine and their checks, signals, logs, the command line's
//! addresses and times. Feature `host`.
//!
//! A server that takes thousands of sessions needs as many descriptors, and a long backlog. [`HostLimits::read`]
//! reads what the machine allows; [`checks`] compares that with the needs of a program and names the command
//! that raises a limit:
//!
//! ```
//! use server_core::host::checks::{self, Check};
//! use server_core::host::{self, HostLimits, Severity};
//!
//! let descriptors = host::raise_fd_limit();
//! let needs = [
//!     Check::OpenFiles { sessions: Some(100), other_files: 16 },
//!     Check::Backlog(128),
//! ];
//! for finding in checks::evaluate(&HostLimits::read(), &needs) {
//!     match finding.severity {
//!         Severity::Fail => host::print_error("my_game", &finding),
//!         severity if severity.is_bad() => log::warn!("{finding}"),
//!         _ => {}
//!     }
//! }
//! # assert!(descriptors > 0);
//! ```

mod addresses;
mod cgroup;
pub mod checks;
pub mod exit;
mod limits;
mod log_queue;
mod logs;
mod report;
pub mod signals;
mod source_addresses;
mod units;

pub use addresses::{Addresses, parse_addr, parse_addrs};
pub use cgroup::{CpuQuota, Throttling};
pub use checks::{Finding, Severity};
pub use limits::{HostLimits, raise_fd_limit};
pub use logs::{flush_logs, init_logs, init_logs_through, print_error};
pub use report::print;
pub use source_addresses::SourceAddresses;
pub use units::{human_bytes, parse_seconds};
