//! A report as text for people. Goes over the metrics of the report: a metric that a scenario registers
//! appears by itself.

use crate::metrics::Unit;
use crate::report::{
    ClientHealth, CloseMessageCount, Metric, Metrics, Others, Report, Sessions, TrendValue,
};
use serde_json::Value;
use server_core::host::human_bytes;
use server_core::text::one_line;
use std::fmt::Write as _;

/// The width of the first column.
const NAME_WIDTH: usize = 16;

impl Report {
    /// The report for people. The verdict is the last line.
    #[must_use]
    pub fn to_text(&self) -> String {
        render(self)
    }
}

fn render(report: &Report) -> String {
    let mut text = Text::default();
    header(&mut text, report);
    sessions(&mut text, &report.sessions);
    for reason in &report.disconnects {
        let reason_text = one_line(&reason.reason);
        text.line("reason", format_args!("{} x {reason_text}", reason.count));
    }
    text.others("reason", report.other_disconnects);
    for CloseMessageCount {
        code,
        text: message,
        count,
    } in &report.close_messages
    {
        let message = one_line(message);
        text.line(
            "close message",
            format_args!("{count} x code {code} \"{message}\""),
        );
    }
    text.others("close message", report.other_close_messages);
    trends(&mut text, &report.metrics);
    groups(&mut text, &report.metrics);
    values(&mut text, &report.metrics);
    client(&mut text, &report.client);
    let sections = [
        ("attack", serde_json::to_value(&report.attack)),
        ("capacity", serde_json::to_value(&report.capacity)),
    ];
    for (name, section) in sections {
        // A section that the run does not have is null, and has no line.
        if let Ok(section @ Value::Object(_)) = section {
            value_lines(&mut text, name, &section);
        }
    }
    for sentence in &report.not_checked {
        text.line("not checked", format_args!("{}", one_line(sentence)));
    }
    for failure in &report.failures {
        text.line("failed", format_args!("{}", one_line(failure)));
    }
    for result in &report.assertions {
        let outcome = match (result.holds, result.may_be_own_lag) {
            (true, _) => "holds ",
            (false, false) => "BROKEN",
            (false, true) => "BROKEN (by no more than the lag of the client)",
        };
        text.line(
            "assert",
            format_args!("{outcome} {}", one_line(&result.to_string())),
        );
    }
    let (verdict, elapsed) = (report.verdict.label(), report.run.elapsed_secs);
    text.line("verdict", format_args!("{verdict} after {elapsed:.1} s"));
    text.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, name: &str, rest: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{name:<NAME_WIDTH$} {rest}");
    }

    fn others(&mut self, name: &str, others: Others) {
        let Others {
            kinds_at_least,
            count,
        } = others;
        if count > 0 {
            self.line(
                name,
                format_args!("{count} x others, of at least {kinds_at_least} more kinds"),
            );
        }
    }
}

fn header(text: &mut Text, report: &Report) {
    let (run, machine) = (&report.run, &report.machine);
    let share = (run.share.as_ref()).map_or(String::new(), |share| format!(", share {share}"));
    text.line(
        "run",
        format_args!(
            "{} against {}, started {}, seed {}{}",
            one_line(&run.scenario),
            one_line(&run.addr),
            one_line(&run.started_at),
            one_line(&run.seed),
            one_line(&share),
        ),
    );
    text.line(
        "client",
        format_args!(
            "dummy_client {} on {}: {}, {} cores",
            one_line(&run.version),
            one_line(&run.host),
            one_line(&machine.system),
            machine.cores,
        ),
    );
    let is_set = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    let settings: Vec<_> = (run.settings.iter())
        .filter(|(_, value)| is_set(value))
        .map(|(name, value)| format!("{} {}", one_line(name), plain(value)))
        .collect();
    if !settings.is_empty() {
        text.line("settings", format_args!("{}", settings.join(", ")));
    }
}

fn sessions(text: &mut Text, sessions: &Sessions) {
    let Sessions {
        requested,
        connected,
        never_connected,
        max_connected,
        connected_at_end,
        lost,
        reconnected,
        reconnected_late,
        ..
    } = *sessions;
    text.line(
        "sessions",
        format_args!(
            "{requested} requested = {connected} connected + {never_connected} never connected; \
             {max_connected} at most, {connected_at_end} at the end"
        ),
    );
    let gone = lost.saturating_sub(reconnected + reconnected_late);
    if lost > 0 {
        text.line(
            "",
            format_args!(
                "{lost} lost = {reconnected} reconnected within 10 s + {reconnected_late} later + {gone} not"
            ),
        );
    }
    let more = [
        (sessions.failed_connects, "failed connects"),
        (sessions.refused, "of them refused as full"),
        (sessions.failed_logins, "failed logins"),
        (sessions.closed, "closed by plan"),
        (
            sessions.not_reconnected as u64,
            "of them not back at the end",
        ),
        (
            sessions.disconnected_at_end as u64,
            "without a session at the end",
        ),
    ];
    let more: Vec<_> = (more.iter())
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    if !more.is_empty() {
        text.line("", format_args!("{}", more.join(", ")));
    }
}

/// A table of the trends that have samples.
fn trends(text: &mut Text, metrics: &Metrics) {
    let measured: Vec<_> = metrics
        .iter()
        .filter_map(|(name, metric)| match metric {
            Metric::Trend(trend) if trend.count > 0 => Some((name, trend)),
            _ => None,
        })
        .collect();
    if measured.is_empty() {
        return;
    }
    let columns = ["mean", "p50", "p90", "p95", "p99", "p99.9", "max"];
    let columns = columns.map(|column| format!("{column:>9}")).concat();
    text.line("trend, in ms", format_args!("{:>10}{columns}", "count"));
    for (name, trend) in measured {
        let TrendValue {
            count,
            mean,
            p50,
            p90,
            p95,
            p99,
            p999,
            max,
            ref title,
            ..
        } = *trend;
        let cells = [mean, p50, p90, p95, p99, p999, max];
        let cells = cells.map(|cell| format!("{cell:>9.2}")).concat();
        let row = format!("{count:>10}{cells}  {}", one_line(title));
        text.line(&one_line(name), format_args!("{}", row.trim_end()));
    }
}

/// A line for each first word of the names of counters and checks: `ticks_received`, `ticks_missing`.
fn groups(text: &mut Text, metrics: &Metrics) {
    let mut groups: Vec<(&str, Vec<Member<'_>>)> = Vec::new();
    for (name, metric) in metrics.iter() {
        let (group, rest) = name.split_once('_').unwrap_or((name, ""));
        let member = match metric {
            Metric::Counter {
                value,
                unit,
                by_packet,
            } => Member {
                name: rest,
                value: *value,
                unit: *unit,
                is_check: false,
                by_packet: by_packet
                    .iter()
                    .map(|(name, count)| (name.as_str(), *count))
                    .collect(),
            },
            Metric::Check { value, .. } => Member {
                name: rest,
                value: *value,
                unit: Unit::Count,
                is_check: true,
                by_packet: Vec::new(),
            },
            _ => continue,
        };
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, members)) => members.push(member),
            None => groups.push((group, vec![member])),
        }
    }
    for (group, members) in groups {
        if members.iter().all(|member| member.value == 0) {
            continue;
        }
        let sum = Sum::find(&members);
        let is_in_sum = |name: &str| sum.as_ref().is_some_and(|sum| sum.has(name));
        let rest = members.iter().filter(|member| !is_in_sum(member.name));
        let parts: Vec<_> = (sum.iter().map(Sum::to_text))
            .chain(rest.map(Member::to_text))
            .collect();
        text.line(&one_line(group), format_args!("{}", parts.join(", ")));
        for member in &members {
            if let Some(meaning) = member.meaning(group) {
                text.line("", format_args!("{meaning}"));
            }
        }
    }
}

/// A counter or a check, without the first word of its name.
struct Member<'a> {
    name: &'a str,
    value: u64,
    unit: Unit,
    is_check: bool,
    by_packet: Vec<(&'a str, u64)>,
}

impl Member<'_> {
    fn to_text(&self) -> String {
        let value = match self.unit {
            Unit::Bytes => human_bytes(self.value as f64),
            unit => format!("{}{}", self.value, suffix(unit)),
        };
        let packets: Vec<_> = (self.by_packet.iter())
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{} {count}", one_line(name)))
            .collect();
        let packets = match packets.is_empty() {
            true => String::new(),
            false => format!(" ({})", packets.join(", ")),
        };
        let text = format!(
            "{value} {}{packets}",
            one_line(&self.name.replace('_', " "))
        );
        text.trim_end().into()
    }

    /// Of the words that a reader mistakes for each other.
    fn meaning(&self, group: &str) -> Option<String> {
        let group = one_line(group);
        match self.name {
            _ if self.value == 0 => None,
            "skipped" => Some(format!(
                "skipped: slots of the server's schedule without any {group}; the numbers go on without a gap"
            )),
            "missing" if self.is_check => Some(format!(
                "missing: numbers that a session did not receive between two {group} that it received"
            )),
            "waiting" => Some(format!(
                "waiting: {group} sent less than 2 s before their session ended, without an answer yet"
            )),
            "synthetic" => Some(format!(
                "synthetic: samples of the delay that the client records for skipped {group}"
            )),
            _ => None,
        }
    }
}

/// `sent = answered + lost + waiting`.
struct Sum<'a> {
    answered: &'a str,
    values: [u64; 4],
}

impl<'a> Sum<'a> {
    fn find(members: &[Member<'a>]) -> Option<Self> {
        let value = |name: &str| {
            let member = members.iter().find(|member| member.name == name);
            member.map(|member| member.value)
        };
        let (sent, lost, waiting) = (value("sent")?, value("lost")?, value("waiting")?);
        let is_other =
            |member: &&Member<'_>| !member.is_check && !["sent", "waiting"].contains(&member.name);
        let mut others = members.iter().filter(is_other);
        let answered = others.find(|member| member.value + lost + waiting == sent)?;
        Some(Self {
            answered: answered.name,
            values: [sent, answered.value, lost, waiting],
        })
    }

    fn has(&self, name: &str) -> bool {
        name == self.answered || ["sent", "lost", "waiting"].contains(&name)
    }

    fn to_text(&self) -> String {
        let [sent, answered, lost, waiting] = self.values;
        let name = one_line(&self.answered.replace('_', " "));
        format!("{sent} sent = {answered} {name} + {lost} lost + {waiting} waiting")
    }
}

/// A line for each rate and gauge.
fn values(text: &mut Text, metrics: &Metrics) {
    for (name, metric) in metrics.iter() {
        let name = one_line(name);
        match metric {
            Metric::Rate {
                passes,
                total,
                value: Some(value),
            } => {
                let percent = value * 100.0;
                text.line(&name, format_args!("{percent:.2} % ({passes} of {total})"));
            }
            Metric::Gauge {
                value: Some(value),
                unit,
            } => {
                let (value, unit) = match unit {
                    Unit::Ratio => (value * 100.0, " %"),
                    unit => (*value, suffix(*unit)),
                };
                text.line(&name, format_args!("{value:.2}{unit}"));
            }
            _ => {}
        }
    }
}

fn client(text: &mut Text, client: &ClientHealth) {
    let per_packet = match client.cpu_us_per_packet {
        // The run received no packet.
        0.0 => String::new(),
        micros => format!(" {micros:.2} us of CPU a packet,"),
    };
    text.line(
        "client",
        format_args!(
            "{:.2} cores,{per_packet} busiest loop {:.0} %; longest stall {:.1} ms, loop lag {:.1} ms, late send \
             {:.1} ms",
            client.cpu_cores,
            client.busiest_loop * 100.0,
            client.worst_stall_ms,
            client.worst_loop_lag_ms,
            client.worst_late_send_ms,
        ),
    );
    if client.throttled_ms > 0.0 {
        text.line(
            "",
            format_args!("stopped by its CPU quota for {:.0} ms", client.throttled_ms),
        );
    }
    for reason in &client.reasons {
        text.line("limited", format_args!("{}", one_line(reason)));
    }
}

/// The numbers and texts of an object in one line, each object in it in a line of its own, and each list of
/// objects as lines.
fn value_lines(text: &mut Text, name: &str, value: &Value) {
    match value {
        Value::Object(fields) => {
            let is_nested = |value: &Value| match value {
                Value::Object(_) => true,
                Value::Array(items) => items.iter().any(Value::is_object),
                _ => false,
            };
            let flat: Vec<_> = (fields.iter())
                .filter(|(_, value)| !is_nested(value) && !value.is_null())
                .map(|(name, value)| format!("{} {}", one_line(name), plain(value)))
                .collect();
            if !flat.is_empty() {
                text.line(&one_line(name), format_args!("{}", flat.join(", ")));
            }
            for (name, value) in fields.iter().filter(|(_, value)| is_nested(value)) {
                value_lines(text, &format!("  {}", name.trim_start()), value);
            }
        }
        Value::Array(items) => {
            for item in items {
                value_lines(text, name, item);
            }
        }
        other => text.line(&one_line(name), format_args!("{}", plain(other))),
    }
}

/// A JSON value in one line, without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => one_line(text),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => {
                let text = format!("{float:.2}");
                text.trim_end_matches('0').trim_end_matches('.').into()
            }
            _ => number.to_string(),
        },
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(plain).collect();
            items.join(" ")
        }
        other => one_line(&other.to_string()),
    }
}

fn suffix(unit: Unit) -> &'static str {
    match unit {
        Unit::Count | Unit::Ratio => "",
        Unit::Bytes => " B",
        Unit::Milliseconds => " ms",
        Unit::Seconds => " s",
        Unit::Microseconds => " us",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::capacity::{CapacityReport, Outcome};
    use crate::report::Step;
    use crate::report::{ReasonCount, samples};

    #[test]
    fn every_metric_appears_with_its_unit() {
        let mut report = samples::report();
        let text = render(&report);
        for part in [
            "run              game against 127.0.0.1:7777, started 2026-11-28T12:00:00Z, seed 18446744073709551615",
            "client           dummy_client 0.1.0 on host: Linux 6.1, 2 cores",
            "settings         assertions lost==0, count 10, echo_hz 0.5",
            "sessions         10 requested = 9 connected + 1 never connected; 9 at most, 8 at the end",
            "reason           1 x connect_refused",
            "trend, in ms          count     mean      p50      p90      p95      p99    p99.9      max",
            "tick against the schedule",
            "echoes           10 sent = 7 answered + 2 lost + 1 waiting, 0 corrupted",
            "waiting: echoes sent less than 2 s",
            "packets          207 received (S_ECHO 7, S_HELLO 200)",
            "bytes            2.0 MB received",
            "1 missing",
            "missing: numbers that a session did not receive",
            "3 skipped",
            "skipped: slots of the server's schedule",
            "moves_in_time    98.00 % (98 of 100)",
            "longest_tick_gap 250.50 ms",
            "not checked      no chat was sent",
            "failed           1 ticks were missing",
            "assert           BROKEN lost==0: 5",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
        assert!(
            text.ends_with("verdict          failed after 5.0 s\n"),
            "{text}"
        );
        assert!(
            !text.contains("chat_delay"),
            "nothing was measured:\n{text}"
        );
        assert!(!text.contains("tick_period"), "not known:\n{text}");
        // A new metric needs no line here.
        let trend = report.metrics.trend("tick_delay").unwrap().clone();
        report
            .metrics
            .0
            .push(("move_rtt".into(), Metric::Trend(trend)));
        report.metrics.0.push((
            "moves_lost".into(),
            Metric::Counter {
                value: 77,
                unit: Unit::Count,
                by_packet: Default::default(),
            },
        ));
        let text = render(&report);
        assert!(text.contains("\nmove_rtt  "), "{text}");
        assert!(text.contains("\nmoves            77 lost"), "{text}");
    }

    #[test]
    fn nothing_is_shown_that_the_run_does_not_have() {
        let mut report = samples::report();
        report
            .run
            .settings
            .insert("assertions".into(), Value::Array(Vec::new()));
        report.client.cpu_us_per_packet = 0.0;
        let text = render(&report);
        assert!(
            text.contains("settings         count 10, echo_hz 0.5\n"),
            "{text}"
        );
        assert!(!text.contains("CPU a packet"), "{text}");
    }

    #[test]
    fn a_sum_that_does_not_add_up_is_not_shown_as_one() {
        let mut report = samples::report();
        for (name, metric) in &mut report.metrics.0 {
            if let (true, Metric::Counter { value, .. }) = (name == "echoes_sent", metric) {
                *value = 11;
            }
        }
        let text = render(&report);
        assert!(
            text.contains("echoes           11 sent, 7 answered, 1 waiting, 2 lost"),
            "{text}"
        );
    }

    #[test]
    fn text_of_a_server_controls_no_terminal_and_adds_no_line() {
        let mut report = samples::report();
        report.disconnects.push(ReasonCount {
            reason: "x\nverdict   ok\u{1b}[2J\u{202e}".into(),
            count: 1,
        });
        report.close_messages.push(CloseMessageCount {
            code: 7,
            text: "\u{9b}31m\n".into(),
            count: 1,
        });
        let text = render(&report);
        assert!(text.contains("1 x code 7 \"\\u009b31m\\u000a\""), "{text}");
        let bad = text
            .chars()
            .find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
        assert_eq!(bad, None);
        assert_eq!(text.matches("\nverdict").count(), 1);
    }

    #[test]
    fn sections_are_shown_as_lines() {
        let mut report = samples::report();
        report.capacity = Some(CapacityReport {
            outcome: Outcome::Found,
            largest: Some(300),
            steps: vec![Step {
                sessions: 400,
                broken: vec!["lost==0: 3".into()],
                ..Step::default()
            }],
        });
        let text = render(&report);
        for part in [
            "capacity         ",
            "outcome found",
            "largest 300",
            "  steps          ",
            "broken lost==0: 3",
            "sessions 400",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
    }
}
