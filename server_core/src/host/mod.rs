//! Looks at the machine before a run: can it work, and if not, which command changes that?
//!
//! [`machine`] reads facts, [`judge`] holds them against what a program needs, [`sources`] finds
//! source addresses where one has too few ports. `--check` prints what comes out; a start without
//! it asks the same questions.

pub mod judge;
pub mod machine;
pub mod process;
pub mod sources;
mod table;

pub use judge::{Finding, Grade};
pub use machine::Machine;
pub use sources::Sources;

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
            process::complain(program, format!("cannot write to standard output: {error}"));
            ExitCode::FAILURE
        }
        _ if first_failure(findings).is_some() => ExitCode::from(2),
        _ => ExitCode::SUCCESS,
    }
}

/// The first reason why the run cannot work.
#[must_use]
pub fn first_failure(findings: &[Finding]) -> Option<&Finding> {
    (findings.iter()).find(|finding| finding.grade == Grade::Fail)
}
