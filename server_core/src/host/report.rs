//! Findings as a table.

use super::checks::{Finding, Severity, first_failure};
use super::{exit, print_error};
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// Prints the findings on standard output, as a table. The exit status is 0 if the program can run,
/// [`exit::USAGE`] if the program cannot run, and [`exit::FAILURE`] if the table cannot be written.
#[must_use]
pub fn print(program: &str, findings: &[Finding]) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(render(findings).as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        // A closed pipe does not change the status.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            print_error(program, format!("cannot write to standard output: {error}"));
            exit::FAILURE.into()
        }
        _ if first_failure(findings).is_some() => exit::USAGE.into(),
        _ => ExitCode::SUCCESS,
    }
}

/// A line for each finding, below it the command that raises the limit, and the number of failed checks.
fn render(findings: &[Finding]) -> String {
    let found = findings.iter().map(|finding| finding.found.chars().count());
    let width = found.max().unwrap_or(0).max("found".len());
    let mut text = format!("{:19}  {:width$}  needed\n", "", "found");
    for finding in findings {
        let (label, subject) = (finding.severity.label(), finding.subject);
        let (found, needed) = (&finding.found, &finding.needed);
        text += &format!("{label:7}  {subject:10}  {found:width$}  {needed}\n");
        if let Some(fix) = &finding.fix {
            text += &format!("{:7}  fix: {fix}\n", "");
        }
    }
    let failed = (findings.iter()).filter(|finding| finding.severity == Severity::Fail);
    text += &match failed.count() {
        0 => "no check failed\n".into(),
        1 => String::from("1 check failed\n"),
        more => format!("{more} checks failed\n"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, found: &str, fix: Option<&str>) -> Finding {
        Finding {
            severity,
            subject: "open files",
            found: found.into(),
            needed: "1019".into(),
            fix: fix.map(str::to_owned),
        }
    }

    #[test]
    fn columns_are_aligned() {
        let findings = [
            finding(Severity::Ok, "20000", None),
            finding(Severity::Fail, "64", Some("ulimit -n 1019")),
        ];
        let expected = "                     found  needed\n\
                        ok       open files  20000  1019\n\
                        FAIL     open files  64     1019\n         \
                        fix: ulimit -n 1019\n\
                        1 check failed\n";
        assert_eq!(render(&findings), expected);
    }

    #[test]
    fn warnings_and_unknown_limits_do_not_fail() {
        let findings = [
            finding(Severity::Warn, "1", None),
            finding(Severity::Unknown, "unknown", None),
        ];
        assert!(render(&findings).ends_with("no check failed\n"));
    }
}
