//! Findings as a table.

use super::checks::{Finding, Severity};

/// A line for each finding, below it the command that raises the limit, and the number of failed checks.
pub fn render(findings: &[Finding]) -> String {
    let width = |cell: fn(&Finding) -> &str, title: &str| {
        let cells = findings.iter().map(|finding| cell(finding).chars().count());
        cells.max().unwrap_or(0).max(title.len())
    };
    let first = width(|finding| finding.severity.label(), "");
    let second = width(|finding| finding.subject, "");
    let third = width(|finding| &finding.found, "found");
    let mut text = format!(
        "{:first$}  {:second$}  {:third$}  needed\n",
        "", "", "found"
    );
    for Finding {
        severity,
        subject,
        found,
        needed,
        fix,
    } in findings
    {
        let label = severity.label();
        text += &format!("{label:first$}  {subject:second$}  {found:third$}  {needed}\n");
        if let Some(fix) = fix {
            text += &format!("{:first$}  fix: {fix}\n", "");
        }
    }
    let failed = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Fail)
        .count();
    text += &match failed {
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
        let expected = "                  found  needed\n\
                        ok    open files  20000  1019\n\
                        FAIL  open files  64     1019\n      \
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
