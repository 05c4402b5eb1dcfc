//! A report as JUnit XML, for CI: a test case for each check and assertion, for "users connected", and for the
//! run itself.

use crate::report::{Metric, Report, Verdict};
use std::fmt::Write as _;

/// A test suite with the name of the scenario.
///
/// A `client_limited` run has a skipped test case for each thing that it could not check: a failed check that
/// the client may have caused is not a failure of the server. The test case `verdict` fails exactly if the exit
/// status of the run is not 0 ([`Report::exit_status`], with `limited_is_failure`).
#[must_use]
pub fn render(report: &Report, limited_is_failure: bool) -> String {
    let cases = cases(report, limited_is_failure);
    let count = |wanted: fn(&Outcome) -> bool| {
        let found = cases.iter().filter(|case| wanted(&case.outcome));
        found.count()
    };
    let failures = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
    let (run, tests) = (&report.run, cases.len());
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuites>\n  <testsuite name=\"{}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" \
         skipped=\"{skipped}\" time=\"{:.3}\" timestamp=\"{}\" hostname=\"{}\">\n",
        escape(&format!("dummy_client.{}", run.scenario)),
        run.elapsed_secs,
        escape(&run.started_at),
        escape(&run.host),
    );
    for Case {
        group,
        name,
        outcome,
    } in &cases
    {
        let (group, name) = (escape(group), escape(name));
        let head = format!("    <testcase classname=\"dummy_client.{group}\" name=\"{name}\"");
        // Writing to a string does not fail.
        let _ = match outcome {
            Outcome::Passed => writeln!(xml, "{head}/>"),
            Outcome::Failed(message) => {
                let message = escape(message);
                writeln!(
                    xml,
                    "{head}>\n      <failure message=\"{message}\"/>\n    </testcase>"
                )
            }
            Outcome::Skipped(message) => {
                let message = escape(message);
                writeln!(
                    xml,
                    "{head}>\n      <skipped message=\"{message}\"/>\n    </testcase>"
                )
            }
        };
    }
    xml + "  </testsuite>\n</testsuites>\n"
}

struct Case {
    group: &'static str,
    name: String,
    outcome: Outcome,
}

enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

fn cases(report: &Report, limited_is_failure: bool) -> Vec<Case> {
    let is_limited = report.verdict == Verdict::ClientLimited;
    let outcome = |passed: bool, may_be_own: bool, message: String| match (passed, may_be_own) {
        (true, _) => Outcome::Passed,
        (false, true) => Outcome::Skipped(format!("{message}; the client may be the cause")),
        (false, false) => Outcome::Failed(message),
    };
    let mut cases = Vec::new();
    let mut add = |group, name: String, outcome| {
        cases.push(Case {
            group,
            name,
            outcome,
        });
    };
    let sessions = &report.sessions;
    let missing = sessions.never_connected;
    add(
        "run",
        "users connected".into(),
        outcome(
            missing == 0 && sessions.connected > 0,
            is_limited,
            format!(
                "{missing} of {} users never connected; {} connected",
                sessions.requested, sessions.connected
            ),
        ),
    );
    // A failure of a search is a step that broke: its result is the number of sessions.
    if report.capacity.is_none() {
        for (name, metric) in report.metrics.iter() {
            if let Metric::Check { value, failure, .. } = metric {
                let message = format!("{value} {failure}");
                let outcome = outcome(*value == 0, is_limited, message);
                add("check", name.into(), outcome);
            }
        }
    }
    for result in &report.assertions {
        let may_be_own = is_limited || result.may_be_own_lag;
        add(
            "assert",
            result.expr.clone(),
            outcome(result.holds, may_be_own, result.to_string()),
        );
    }
    for sentence in &report.not_checked {
        add(
            "not_checked",
            sentence.clone(),
            Outcome::Skipped("the run did not check this".into()),
        );
    }
    let mut reasons = report.failures.clone();
    reasons.extend(report.client.reasons.iter().cloned());
    let reasons = match reasons.is_empty() {
        true => report.verdict.label().to_owned(),
        false => reasons.join("; "),
    };
    add(
        "run",
        "verdict".into(),
        match report.exit_status(limited_is_failure) {
            0 => outcome(report.verdict == Verdict::Ok, is_limited, reasons),
            _ => Outcome::Failed(reasons),
        },
    );
    cases
}

/// Text for an attribute. A character that XML does not have becomes U+FFFD.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&apos;",
            '\t' | '\n' | '\r' => {
                let _ = write!(escaped, "&#{};", u32::from(c));
            }
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    /// A line for each element: its name and its attributes as JSON, read by a parser that is not ours.
    fn parse(xml: &str) -> String {
        let script = "import sys, json, xml.etree.ElementTree as E\n\
            for e in E.fromstring(sys.stdin.buffer.read()).iter(): print(e.tag, json.dumps(e.attrib))";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(xml.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{xml}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn every_check_and_assertion_is_a_test_case() {
        let text = parse(&render(&samples::report(), false));
        for part in [
            r#"testsuite {"name": "dummy_client.game", "tests": "8", "failures": "5", "errors": "0", "skipped": "1""#,
            r#""timestamp": "2026-11-28T12:00:00Z""#,
            r#"{"classname": "dummy_client.run", "name": "users connected"}"#,
            r#"failure {"message": "1 of 10 users never connected; 9 connected"}"#,
            r#"{"classname": "dummy_client.check", "name": "ticks_repeated"}"#,
            r#"failure {"message": "2 echoes were lost"}"#,
            r#"{"classname": "dummy_client.assert", "name": "lost==0"}"#,
            r#"failure {"message": "lost==0: 5"}"#,
            r#"{"classname": "dummy_client.not_checked", "name": "no chat was sent"}"#,
            r#"failure {"message": "1 ticks were missing; 2 echoes were lost"}"#,
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert_eq!(text.matches("\nfailure ").count(), 5, "{text}");
    }

    #[test]
    fn a_run_without_failures_has_none() {
        let mut report = samples::report();
        report.verdict = Verdict::Ok;
        report.failures.clear();
        report.sessions.never_connected = 0;
        report.assertions[0].holds = true;
        for (_, metric) in &mut report.metrics.0 {
            if let Metric::Check { value, .. } = metric {
                *value = 0;
            }
        }
        let text = parse(&render(&report, false));
        assert!(text.contains(r#""failures": "0""#), "{text}");
        assert!(!text.contains("\nfailure "), "{text}");
        // A run in which no user connected checked nothing.
        report.sessions.connected = 0;
        assert!(parse(&render(&report, false)).contains("\nfailure "));
    }

    #[test]
    fn a_check_that_a_limited_client_may_have_broken_is_skipped() {
        let mut report = samples::report();
        report.verdict = Verdict::ClientLimited;
        report.client.reasons = vec!["the client stalled for 2,000 ms".into()];
        let text = parse(&render(&report, false));
        // The verdict is the one failure: the exit status of a run with a failed check is 1.
        assert!(text.contains(r#""failures": "1""#), "{text}");
        assert!(text.contains("the client stalled"), "{text}");
    }

    #[test]
    fn the_verdict_fails_exactly_if_the_exit_status_is_not_0() {
        let mut limited = samples::report();
        limited.verdict = Verdict::ClientLimited;
        let mut without_failures = limited.clone();
        without_failures.failures.clear();
        without_failures.assertions.clear();
        for (report, limited_is_failure, status) in [
            (&limited, false, 1),
            (&without_failures, false, 0),
            (&without_failures, true, 1),
        ] {
            assert_eq!(report.exit_status(limited_is_failure), status);
            let text = parse(&render(report, limited_is_failure));
            let (_, verdict) = text.split_once(r#""name": "verdict""#).unwrap();
            assert_eq!(verdict.contains("\nfailure "), status != 0, "{text}");
        }
    }

    #[test]
    fn any_text_is_valid_xml() {
        let mut report = samples::report();
        let all: String = ('\0'..='\u{ffff}').collect();
        report.failures = vec![all.clone(), "]]> <x a='1'> & \"".into()];
        report.run.scenario = all;
        let text = parse(&render(&report, false));
        assert!(text.contains(r#"]]> <x a='1'> & \""#), "{text}");
    }
}
