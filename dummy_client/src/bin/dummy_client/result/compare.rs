//! `dummy_client compare A.json B.json`: what has changed from one run to another.

use super::metric::{Metrics, Unit, unit_of};
use super::output;
use super::summary::SCHEMA_VERSION;
use crate::load::Failure;
use serde_json::Value;
use server_core::host::exit;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Compares two summaries: is B worse than A?
///
/// Exit status: 0 if B is no worse, 1 if it is worse or cannot be told (one of the runs was
/// client_limited, or asked for something else), 2 if one of the files is no summary.
#[derive(Debug, clap::Args)]
pub struct Compare {
    /// The run before, as --json wrote it
    #[arg(value_name = "A.json")]
    before: PathBuf,
    /// The run after
    #[arg(value_name = "B.json")]
    after: PathBuf,
    /// Changes of times and costs up to this many percent are noise
    #[arg(long, default_value_t = 10.0, value_parser = parse_percent)]
    #[arg(value_name = "PERCENT")]
    tolerance: f64,
}

/// Times below this are noise whatever the percentage: a scheduler's whim.
const NOISE_MS: f64 = 1.0;

/// What is compared: more of it is worse, and by how much it may rise.
const WATCHED: [(&str, Slack); 26] = [
    ("lost", Slack::None),
    ("sessions.never_connected", Slack::None),
    ("sessions.failed_connects", Slack::None),
    ("sessions.lost", Slack::None),
    ("sessions.missing", Slack::None),
    ("sessions.server_silent_secs", Slack::None),
    ("ticks.missing", Slack::None),
    ("ticks.skipped", Slack::None),
    ("ticks.repeats", Slack::None),
    ("ticks.reordered", Slack::None),
    ("ticks.wrong_texts", Slack::None),
    ("packets.malformed", Slack::None),
    ("packets.unknown_ids", Slack::None),
    ("echoes.wrong", Slack::None),
    ("echoes.unanswered", Slack::None),
    ("chats.wrong", Slack::None),
    ("chats.unheard", Slack::None),
    ("tick_delay_ms.p50", Slack::Tolerance),
    ("tick_delay_ms.p99", Slack::Tolerance),
    ("tick_delay_ms.p999", Slack::Tolerance),
    ("longest_tick_gap_ms", Slack::Tolerance),
    ("tick_spread_ms.p99", Slack::Tolerance),
    ("rtt_ms.p50", Slack::Tolerance),
    ("rtt_ms.p99", Slack::Tolerance),
    ("chat_ms.p99", Slack::Tolerance),
    ("connect_ms.p99", Slack::Tolerance),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Slack {
    /// One more is worse.
    None,
    /// Noise is allowed for.
    Tolerance,
}

/// Prints what has changed.
///
/// # Errors
/// If a file cannot be read, or is no summary.
pub fn run(compare: &Compare) -> Result<ExitCode, Failure> {
    let before = read(&compare.before)?;
    let after = read(&compare.after)?;
    let comparison = Comparison::new(&before, &after, compare.tolerance);
    output::print(&comparison.text)?;
    Ok(match comparison.verdict {
        Outcome::NoWorse => ExitCode::SUCCESS,
        Outcome::Worse | Outcome::CannotTell => ExitCode::FAILURE,
    })
}

fn read(path: &Path) -> Result<Value, Failure> {
    let bad = |why: String| Failure {
        why: format!("{}: {why}", path.display()),
        exit_status: exit::USAGE,
    };
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    let value: Value =
        serde_json::from_str(&text).map_err(|error| bad(format!("this is no JSON: {error}")))?;
    if value["schema"] != "dummy_client.summary" {
        return Err(bad("this is no summary of dummy_client".into()));
    }
    if value["schema_version"] != SCHEMA_VERSION {
        let version = &value["schema_version"];
        return Err(bad(format!(
            "its schema has version {version}, and this program knows {SCHEMA_VERSION}"
        )));
    }
    let metrics = Metrics::of(&value);
    match WATCHED
        .iter()
        .find(|(path, _)| metrics.resolve(path).is_err())
    {
        Some((path, _)) => Err(bad(format!("{path} is not in it"))),
        None => Ok(value),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    NoWorse,
    Worse,
    CannotTell,
}

struct Comparison {
    text: String,
    verdict: Outcome,
}

impl Comparison {
    fn new(before: &Value, after: &Value, tolerance: f64) -> Self {
        let (a, b) = (Metrics::of(before), Metrics::of(after));
        let mut text = format!("{:<28} {:>14} {:>14} {:>9}\n", "", "A", "B", "change");
        let mut worse = Vec::new();
        for (path, slack) in WATCHED {
            let (Some(from), Some(to)) = (a.value(path), b.value(path)) else {
                if a.value(path).is_some() || b.value(path).is_some() {
                    let _ = writeln!(text, "{path:<28} measured in one of the runs only");
                }
                continue;
            };
            let is_worse = rose(from, to, slack, tolerance);
            let is_better = rose(to, from, slack, tolerance);
            let mark = match (is_worse, is_better) {
                (true, _) => "  worse",
                (_, true) => "  better",
                _ => "",
            };
            if is_worse {
                worse.push(path);
            }
            if from != 0.0 || to != 0.0 {
                let row = Row { path, from, to };
                let _ = writeln!(text, "{row}{mark}");
            }
        }
        if let Some(change) = capacity_change(before, after) {
            let is_less = change.1 < change.0 * (1.0 - tolerance / 100.0);
            if is_less {
                worse.push("capacity.largest");
            }
            let row = Row {
                path: "capacity.largest",
                from: change.0,
                to: change.1,
            };
            let mark = if is_less { "  worse" } else { "" };
            let _ = writeln!(text, "{row}{mark}");
        }
        if before["verdict"] == "ok" && after["verdict"] == "failed" {
            worse.push("verdict");
            text += "the verdict was ok, and then failed\n";
        }
        let doubts = doubts(before, after);
        for doubt in &doubts {
            let _ = writeln!(text, "not comparable: {doubt}");
        }
        let verdict = match (doubts.is_empty(), worse.is_empty()) {
            (false, _) => Outcome::CannotTell,
            (true, false) => Outcome::Worse,
            (true, true) => Outcome::NoWorse,
        };
        text += &match verdict {
            Outcome::CannotTell => "verdict: not comparable\n".into(),
            Outcome::Worse => format!("verdict: worse ({})\n", worse.join(", ")),
            Outcome::NoWorse => "verdict: no worse\n".into(),
        };
        Self { text, verdict }
    }
}

/// How many sessions held, if both runs have searched for that.
fn capacity_change(before: &Value, after: &Value) -> Option<(f64, f64)> {
    let largest = |run: &Value| match &run["capacity"] {
        Value::Null => None,
        capacity => Some(capacity["largest"].as_f64().unwrap_or(0.0)),
    };
    Some((largest(before)?, largest(after)?))
}

struct Row<'a> {
    path: &'a str,
    from: f64,
    to: f64,
}

impl std::fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, from, to } = *self;
        let digits = match unit_of(path) {
            Unit::One | Unit::Bytes => 0,
            _ => 2,
        };
        let change = match from {
            0.0 => String::from("new"),
            _ => format!("{:+.1} %", (to / from - 1.0) * 100.0),
        };
        write!(
            f,
            "{path:<28} {from:>14.digits$} {to:>14.digits$} {change:>9}"
        )
    }
}

/// Why two runs cannot be compared.
fn doubts(before: &Value, after: &Value) -> Vec<String> {
    let mut doubts = Vec::new();
    for (name, run) in [("A", before), ("B", after)] {
        if run["client"]["client_limited"] == true {
            doubts.push(format!("{name} was limited by the client"));
        }
    }
    let same = [
        "ramp_per_sec",
        "threads",
        "reconnect",
        "count",
        "echo_hz",
        "chat_hz",
        "payload_bytes",
        "churn_ms",
        "stages",
    ];
    for setting in same {
        let (from, to) = (&before["settings"][setting], &after["settings"][setting]);
        if from != to {
            let doubt = format!("{setting} was {from}, and then {to}");
            doubts.push(output::without_controls(&doubt));
        }
    }
    let seconds = |run: &Value| run["elapsed_secs"].as_f64().unwrap_or(0.0);
    let (from, to) = (seconds(before), seconds(after));
    if (from - to).abs() > from.max(to) * 0.2 && before["capacity"].is_null() {
        doubts.push(format!("one ran for {from:.1} s, and one for {to:.1} s"));
    }
    let is_search = |run: &Value| !run["capacity"].is_null();
    if is_search(before) != is_search(after) {
        doubts.push("one of them is a search for the capacity".into());
    }
    let period = |run: &Value| run["tick_period_ms"].as_f64().unwrap_or(0.0);
    let (from, to) = (period(before), period(after));
    if (from - to).abs() > from.max(to) * 0.05 {
        doubts.push(format!(
            "the tick's period was {from:.1} ms, and then {to:.1} ms"
        ));
    }
    doubts
}

/// Whether `to` is more than `from`, beyond noise.
fn rose(from: f64, to: f64, slack: Slack, tolerance: f64) -> bool {
    match slack {
        Slack::None => to > from,
        Slack::Tolerance => to > from * (1.0 + tolerance / 100.0) && to - from > NOISE_MS,
    }
}

fn parse_percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent @ 0.0..=1000.0) => Ok(percent),
        _ => Err("expected 0 to 1000 percent".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(missing: u64, p99: f64) -> Value {
        json!({
            "verdict": "ok",
            "elapsed_secs": 10.0,
            "settings": { "count": 100 },
            "tick_period_ms": 250.0,
            "lost": missing,
            "ticks": { "missing": missing },
            "tick_delay_ms": { "count": 10, "p50": 1.0, "p99": p99, "p999": p99 },
            "rtt_ms": { "count": 0, "p50": 0.0, "p99": 0.0 },
            "client": { "client_limited": false },
        })
    }

    fn verdict(before: &Value, after: &Value) -> Outcome {
        Comparison::new(before, after, 10.0).verdict
    }

    #[test]
    fn noise_is_no_change_and_a_lost_tick_is() {
        assert_eq!(verdict(&run(0, 20.0), &run(0, 20.0)), Outcome::NoWorse);
        assert_eq!(verdict(&run(0, 20.0), &run(0, 21.9)), Outcome::NoWorse);
        assert_eq!(verdict(&run(0, 0.2), &run(0, 0.9)), Outcome::NoWorse);
        assert_eq!(verdict(&run(0, 20.0), &run(0, 22.1)), Outcome::Worse);
        assert_eq!(verdict(&run(0, 20.0), &run(1, 10.0)), Outcome::Worse);
        assert_eq!(verdict(&run(1, 20.0), &run(0, 10.0)), Outcome::NoWorse);
    }

    #[test]
    fn what_is_not_alike_is_not_compared() {
        let mut other = run(0, 20.0);
        other["settings"]["count"] = 200.into();
        assert_eq!(verdict(&run(0, 20.0), &other), Outcome::CannotTell);
        let mut limited = run(0, 20.0);
        limited["client"]["client_limited"] = true.into();
        assert_eq!(verdict(&limited, &run(0, 20.0)), Outcome::CannotTell);
        let mut longer = run(0, 20.0);
        longer["elapsed_secs"] = 30.0.into();
        assert_eq!(verdict(&run(0, 20.0), &longer), Outcome::CannotTell);
        let mut slower = run(0, 20.0);
        slower["tick_period_ms"] = 20.0.into();
        assert_eq!(verdict(&run(0, 20.0), &slower), Outcome::CannotTell);
    }

    #[test]
    fn less_capacity_is_worse_and_so_is_a_verdict_that_failed() {
        let searched = |largest: u64| {
            let mut run = run(0, 20.0);
            run["capacity"] = json!({ "answer": "found", "largest": largest });
            run
        };
        assert_eq!(verdict(&searched(1600), &searched(1500)), Outcome::NoWorse);
        assert_eq!(verdict(&searched(1600), &searched(100)), Outcome::Worse);
        assert_eq!(verdict(&searched(1600), &run(0, 20.0)), Outcome::CannotTell);
        let mut failed = run(0, 20.0);
        failed["verdict"] = "failed".into();
        assert_eq!(verdict(&run(0, 20.0), &failed), Outcome::Worse);
    }

    #[test]
    fn every_watched_number_is_in_a_summary() {
        let blank = super::super::summary::Summary::blank_metrics();
        for (path, _) in WATCHED {
            assert_eq!(blank.resolve(path).as_deref(), Ok(path));
        }
    }

    #[test]
    fn the_table_names_what_changed() {
        let text = Comparison::new(&run(0, 20.0), &run(3, 40.0), 10.0).text;
        for part in [
            "ticks.missing",
            "worse",
            "+100.0 %",
            "verdict: worse (lost, ticks.missing",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!text.contains("rtt_ms"), "nothing was measured:\n{text}");
    }
}
