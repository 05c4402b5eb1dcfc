//! A report as JSON, its schema, and reports that are read again.

use crate::error::Error;
use crate::report::{MAX_EXACT, Metric, Report, SCHEMA, SCHEMA_VERSION};
use serde::Serialize;
use serde_json::Value;
use server_core::text::escape_controls;
use std::path::Path;

/// A value as JSON for a file, a terminal or a page. Characters that control a terminal or change the
/// direction of text are escaped, as `\u009b`: a server can send them.
///
/// # Errors
/// One line for the user.
pub fn to_json(value: &impl Serialize, is_pretty: bool) -> Result<String, String> {
    let json = match is_pretty {
        true => serde_json::to_string_pretty(value),
        false => serde_json::to_string(value),
    };
    json.map(|json| escape_controls(&json))
        .map_err(|error| format!("the result cannot be written as JSON: {error}"))
}

impl Report {
    /// The report as JSON of [schema](schema) 2, as `--json` writes it.
    ///
    /// # Errors
    /// One line for the user. Exit status 1.
    pub fn to_json(&self) -> Result<String, Error> {
        let json = to_json(self, true).map_err(Error::failure)?;
        Ok(json + "\n")
    }
}

/// The JSON schema of a report, as in `report.schema.json`.
#[must_use]
pub fn schema() -> String {
    let schema = schemars::schema_for!(Report);
    // A value of strings, numbers, lists and maps can always be written.
    let mut text = to_json(&schema, true).unwrap_or_default();
    text.push('\n');
    text
}

/// Reads a report.
///
/// # Errors
/// The text is not a report, has another schema version, or has a histogram of more than [`MAX_EXACT`] samples.
/// The message is for the user.
pub fn parse(text: &str) -> Result<Report, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    let is_old = value["schema"] == "dummy_client.summary";
    if value["schema"] != SCHEMA && !is_old {
        return Err("not a report of dummy_client".into());
    }
    if is_old || value["schema_version"] != SCHEMA_VERSION {
        return Err(format!(
            "schema version {} (this program reads version {SCHEMA_VERSION})",
            value["schema_version"]
        ));
    }
    // From the text: a value has no order of the metrics.
    let report: Report = serde_json::from_str(text)
        .map_err(|error| format!("not a report of dummy_client: {error}"))?;
    for (name, metric) in report.metrics.iter() {
        if let Metric::Trend(trend) = metric {
            let mut counts = trend.histogram.iter().map(|(_, count)| *count);
            let total = counts.try_fold(0, u64::checked_add);
            if total.is_none_or(|total| total > MAX_EXACT) {
                return Err(format!(
                    "the histogram of {name} has more than {MAX_EXACT} samples"
                ));
            }
        }
    }
    Ok(report)
}

/// Reads a report from a file.
///
/// # Errors
/// The file cannot be read, or [`parse`] fails. Exit status 2.
pub fn read(path: &Path) -> Result<Report, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
    let report = text.and_then(|text| parse(&text));
    report.map_err(|message| {
        let message = format!("{}: {message}", path.display());
        Error::usage(escape_controls(&message))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other programs are built on the file beside the sources.
    #[test]
    fn schema_file_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/report.schema.json");
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(path, schema()).unwrap();
        }
        let file = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            file == schema(),
            "dummy_client/report.schema.json is out of date: UPDATE_SCHEMA=1 cargo test -p dummy_client --lib schema"
        );
    }

    #[test]
    fn json_has_no_control_characters_and_reads_as_it_was() {
        let all: String = ('\0'..='\u{ffff}').collect();
        for is_pretty in [true, false] {
            let json = to_json(&[&all], is_pretty).unwrap();
            let is_turn = |c: char| {
                matches!(
                    c,
                    '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
                ) || matches!(c, '\u{2066}'..='\u{2069}')
            };
            let bad = |c: &char| (c.is_control() && *c != '\n') || is_turn(*c);
            assert_eq!(json.chars().find(bad), None);
            assert_eq!(json.contains('\n'), is_pretty);
            assert_eq!(
                serde_json::from_str::<[String; 1]>(&json).unwrap(),
                [all.as_str()]
            );
            assert!(json.contains("\\u009b") && json.contains("\\u202e"));
        }
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let report = Report {
            schema: SCHEMA.into(),
            schema_version: SCHEMA_VERSION,
            ..Report::default()
        };
        assert_eq!(parse(&report.to_json().unwrap()).unwrap(), report);
    }

    #[test]
    fn files_that_are_not_reports_are_refused() {
        for (text, message) in [
            ("", "not JSON"),
            ("{}", "not a report"),
            ("[1]", "not a report"),
            (
                r#"{"schema":"dummy_client.summary","schema_version":1}"#,
                "schema version 1 (this program reads version 2)",
            ),
            (
                r#"{"schema":"dummy_client.report","schema_version":99}"#,
                "schema version 99",
            ),
            (
                r#"{"schema":"dummy_client.report","schema_version":2}"#,
                "missing field",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
        let error = read(Path::new("/nonexistent/a\u{202e}.json")).unwrap_err();
        assert_eq!(error.exit_status, 2);
        assert!(error.message.contains("\\u202e"), "{error}");
    }

    /// The sums of `merge` have to fit.
    #[test]
    fn a_histogram_with_more_samples_than_a_report_can_have_is_refused() {
        let with = |counts: [u64; 2]| {
            let mut report = crate::report::samples::report();
            for (_, metric) in &mut report.metrics.0 {
                if let Metric::Trend(trend) = metric {
                    trend.histogram = vec![(1, counts[0]), (2, counts[1])];
                }
            }
            parse(&report.to_json().unwrap())
        };
        assert!(with([MAX_EXACT - 1, 1]).is_ok());
        for counts in [[MAX_EXACT, 1], [1 << 63, 1 << 63]] {
            let error = with(counts).unwrap_err();
            assert!(error.contains("samples"), "{error}");
        }
    }

    #[test]
    fn a_report_matches_its_schema() {
        let schema: Value = serde_json::from_str(&schema()).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let mut json = serde_json::to_value(crate::report::samples::report()).unwrap();
        let errors: Vec<_> = (validator.iter_errors(&json))
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{errors:#?}");
        json["verdict"] = "splendid".into();
        assert!(!validator.is_valid(&json), "the schema allows anything");
    }
}
