//! Looks at the machine before a run: can it work, and if not, which command changes that?
//!
//! [`limits`] reads facts, [`checks`] holds them against what a program needs, [`source_addresses`] finds
//! source addresses where one has too few ports. `--check` prints what comes out; a start without
//! it asks the same questions.

mod addresses;
pub mod checks;
mod limits;
mod logs;
pub mod signals;
mod source_addresses;
mod table;
mod units;

pub use addresses::{Addresses, parse_addr, parse_addrs};
pub use checks::{Finding, Severity};
pub use limits::{HostLimits, raise_fd_limit};
pub use logs::{init_logs, init_logs_through};
pub use source_addresses::SourceAddresses;
pub use units::{human_bytes, parse_seconds};

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// Prints the findings on standard output. The exit status is that of `--check`: 0 if the run can
/// work, 2 if it cannot, 1 if that could not be said.
#[must_use]
pub fn publish(program: &str, findings: &[Finding]) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(table::render(findings).as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        // A reader that has gone still gets the status.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            print_error(program, format!("cannot write to standard output: {error}"));
            ExitCode::FAILURE
        }
        _ if first_failure(findings).is_some() => ExitCode::from(2),
        _ => ExitCode::SUCCESS,
    }
}

/// One line on standard error, whatever the log level. A closed standard error is no reason to
/// panic.
pub fn print_error(program: &str, what: impl Display) {
    let _ = writeln!(io::stderr(), "{program}: {what}");
}

/// The first reason why the run cannot work.
#[must_use]
pub fn first_failure(findings: &[Finding]) -> Option<&Finding> {
    (findings.iter()).find(|finding| finding.severity == Severity::Fail)
}
