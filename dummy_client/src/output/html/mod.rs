//! The report as one page: for a browser, without a network, without a script. The template escapes the
//! texts of a peer.

mod axis;
mod figures;
mod format;
mod metrics;
mod plot;
mod value;

use crate::error::Error;
use crate::executor::capacity::{CapacityReport, Outcome};
use crate::metrics::Unit;
use crate::report::Step;
use crate::report::{self, AssertionResult, Metric, Others, Report};
use askama::Template;
use figures::Figure;
use format::{count, grouped, ms, shown};
use metrics::{Requests, Row, Trend};
use plot::SIZE;
use serde::Serialize;
use serde_json::Value;
use server_core::DisconnectReason;
use server_core::host::human_bytes;
use value::Part;

impl Report {
    /// The report as a page that needs no network, as `--report` writes it.
    ///
    /// # Errors
    /// The report cannot be written as JSON or as HTML. Exit status 1.
    pub fn to_html(&self) -> Result<String, Error> {
        render(self)
    }
}

fn render(report: &Report) -> Result<String, Error> {
    let page = Page {
        verdict: Verdict::new(report),
        key_figures: key_figures(report),
        assertions: report.assertions.iter().map(assertion).collect(),
        disconnects: disconnects(report),
        close_messages: close_messages(report),
        capacity: parts(report.capacity.as_ref()),
        attack: parts(report.attack.as_ref()),
        checks: metrics::checks(report),
        trends: metrics::trends(report),
        load: figures::load(report),
        sessions: sessions(report),
        requests: metrics::requests(&report.metrics),
        rows: metrics::rows(report),
        run: run(report),
        settings: settings(report),
        client: client(report),
        machine: machine(report),
        plot_size: SIZE,
        json: script_json(report)?,
        report,
    };
    page.render()
        .map_err(|error| Error::failure(format!("the page cannot be written: {error}")))
}

/// The report without its timeline and histograms, for a script element, which `</script` or `<!--` in a text
/// must not end.
fn script_json(report: &Report) -> Result<String, Error> {
    let failed = |error| Error::failure(format!("the report cannot be written as JSON: {error}"));
    let mut json = serde_json::to_value(report).map_err(failed)?;
    if let Some(report) = json.as_object_mut() {
        report.remove("timeline");
        let metrics = report.get_mut("metrics").and_then(Value::as_object_mut);
        for metric in metrics.into_iter().flat_map(|metrics| metrics.values_mut()) {
            if let Some(metric) = metric.as_object_mut() {
                metric.remove("histogram");
            }
        }
    }
    let json = super::json::to_json(&json, false).map_err(Error::failure)?;
    Ok(json
        .replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e"))
}

/// The content of the template. An empty list has no section on the page.
#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    verdict: Verdict<'a>,
    key_figures: Vec<Fact>,
    assertions: Vec<Check>,
    disconnects: Vec<(String, String)>,
    close_messages: Vec<(String, String)>,
    capacity: Vec<Part>,
    attack: Vec<Part>,
    checks: Vec<Check>,
    trends: Vec<Trend>,
    load: Vec<Figure>,
    sessions: Vec<Fact>,
    requests: Vec<Requests>,
    rows: Vec<Row>,
    run: Vec<Fact>,
    settings: Vec<Fact>,
    client: Vec<Fact>,
    machine: Vec<Fact>,
    plot_size: (i32, i32),
    json: String,
    report: &'a Report,
}

struct Verdict<'a> {
    word: &'static str,
    statement: String,
    reasons: Vec<String>,
    /// Why the client limits what the figures say about the server.
    limits: Vec<&'a str>,
}

struct Fact {
    name: String,
    value: String,
    /// Small, below the value.
    more: String,
}

struct Check {
    what: String,
    meaning: &'static str,
    value: String,
    holds: bool,
}

fn fact(name: &str, value: impl Into<String>, more: impl Into<String>) -> Fact {
    Fact {
        name: name.into(),
        value: value.into(),
        more: more.into(),
    }
}

impl<'a> Verdict<'a> {
    fn new(report: &'a Report) -> Self {
        let broken = report.assertions.iter().filter(|one| !one.holds);
        let broken: Vec<_> = broken
            .map(|one| format!("{}: {}", one.expr, measured(one)))
            .collect();
        let statement = match report.verdict {
            report::Verdict::Ok if report.assertions.is_empty() => "Every check passed.",
            report::Verdict::Ok => "Every check passed, and every assertion holds.",
            report::Verdict::Failed if report.failures.is_empty() => {
                "Every check passed, but not every assertion holds."
            }
            report::Verdict::Failed => "Not every check passed.",
            report::Verdict::ClientLimited => {
                "This client was the bottleneck. The server did not fail a check, but the figures \
                 below say nothing about it."
            }
        };
        Self {
            word: report.verdict.label(),
            statement: match &report.capacity {
                Some(capacity) => capacity_statement(capacity),
                None => statement.into(),
            },
            reasons: report.failures.iter().cloned().chain(broken).collect(),
            limits: report.client.reasons.iter().map(String::as_str).collect(),
        }
    }
}

fn capacity_statement(capacity: &CapacityReport<Step>) -> String {
    let largest = grouped(capacity.largest.unwrap_or(0) as u64);
    match capacity.outcome {
        Outcome::Found => {
            format!("The server holds {largest} sessions. A step with at most 5 % more failed.")
        }
        Outcome::AtLeast => {
            format!("The server holds at least {largest} sessions, the most that the search tried.")
        }
        Outcome::None => "The server does not hold a single session.".into(),
        Outcome::ClientLimited => format!(
            "No answer: this client was the bottleneck. The server holds at least {largest} sessions."
        ),
        Outcome::Interrupted => format!(
            "No answer: the search ended too early. The server holds at least {largest} sessions."
        ),
    }
}

/// The parts of a section, from its JSON.
fn parts(section: Option<&impl Serialize>) -> Vec<Part> {
    // A section that cannot be written as JSON makes `script_json` fail.
    let value = section.and_then(|section| serde_json::to_value(section).ok());
    let object = value.as_ref().and_then(Value::as_object);
    object.map_or_else(Vec::new, |object| value::parts("", object))
}

fn key_figures(report: &Report) -> Vec<Fact> {
    let sessions = &report.sessions;
    let requested = count(sessions.requested);
    let of = match sessions.connected_at_end {
        at_end if at_end == sessions.connected => format!("of {requested} users"),
        at_end => format!("of {requested} users, {} at the end", count(at_end)),
    };
    let mut figures = vec![fact("connected", count(sessions.connected), of)];
    if let Some(Metric::Counter { value: packets, .. }) = report.metrics.get("packets_received") {
        let per_sec = |count: u64| count as f64 / report.run.elapsed_secs.max(1e-3);
        let bytes = report.metrics.count("bytes_received");
        let [packets_per_sec, bytes_per_sec] = [per_sec(*packets), per_sec(bytes)];
        let packets_per_sec = grouped(packets_per_sec.round() as u64);
        let rates = format!("{packets_per_sec}/s, {}/s", human_bytes(bytes_per_sec));
        figures.push(fact("packets received", grouped(*packets), rates));
    }
    let lost = grouped(metrics::lost(&report.metrics));
    figures.push(fact("lost", lost, "sum of all losses"));
    figures.extend(metrics::key_trends(&report.metrics));
    figures
}

fn measured(assertion: &AssertionResult) -> String {
    let unit = assertion.unit.unwrap_or(Unit::Count);
    let value = assertion.value.map(|value| format::exact(value, unit));
    value.unwrap_or_else(|| "not measured".into())
}

fn assertion(assertion: &AssertionResult) -> Check {
    Check {
        what: assertion.expr.clone(),
        meaning: match assertion.may_be_own_lag {
            true => "by no more than the longest lag of the client itself",
            false => "",
        },
        value: measured(assertion),
        holds: assertion.holds,
    }
}

/// The rows of a list of reasons, and a last one for those that the list leaves out.
fn groups(rows: impl Iterator<Item = (String, u64)>, others: Others) -> Vec<(String, String)> {
    let kinds = grouped(others.kinds_at_least);
    let others =
        (others.count > 0).then(|| (format!("… and at least {kinds} more kinds"), others.count));
    let rows = rows.chain(others);
    rows.map(|(what, count)| (what, grouped(count))).collect()
}

fn disconnects(report: &Report) -> Vec<(String, String)> {
    let rows = report.disconnects.iter();
    let rows = rows.map(|one| (shown(&one.reason), one.count));
    groups(rows, report.other_disconnects)
}

fn close_messages(report: &Report) -> Vec<(String, String)> {
    let rows = report.close_messages.iter().map(|one| {
        let label = DisconnectReason::label_of_code(one.code);
        let label = label.map_or_else(String::new, |label| format!(" {label}"));
        (
            format!("{}{label}: {}", one.code, shown(&one.text)),
            one.count,
        )
    });
    groups(rows, report.other_close_messages)
}

/// What became of the users and their sessions. A sum and its parts are one fact.
fn sessions(report: &Report) -> Vec<Fact> {
    let all = &report.sessions;
    let never = count(all.never_connected);
    let if_any = |number: u64, text: String| if number > 0 { text } else { String::new() };
    let missing = all.disconnected_at_end;
    let [back, late] = [all.reconnected, all.reconnected_late].map(grouped);
    let mut facts = vec![
        fact(
            "users",
            count(all.requested),
            format!("{} connected, {never} never", count(all.connected)),
        ),
        fact("most sessions at a time", count(all.max_connected), ""),
        fact(
            "sessions at the end",
            count(all.connected_at_end),
            if_any(missing as u64, format!("{} are missing", count(missing))),
        ),
        fact(
            "sessions lost",
            grouped(all.lost),
            if_any(
                all.lost,
                format!("{back} reconnected within 10 s, {late} later"),
            ),
        ),
    ];
    let rare = [
        ("sessions closed by plan", all.closed),
        ("failed connects", all.failed_connects),
        ("refused connects", all.refused),
        ("failed logins", all.failed_logins),
    ];
    let rare = rare.into_iter().filter(|(_, count)| *count > 0);
    facts.extend(rare.map(|(name, count)| fact(name, grouped(count), "")));
    facts
}

/// When, where and with what the run was made.
fn run(report: &Report) -> Vec<Fact> {
    let run = &report.run;
    let share = run.share.clone().unwrap_or_default();
    let facts = [
        ("started", started(&run.started_at)),
        ("duration", format!("{:.1} s", run.elapsed_secs)),
        ("client host", shown(&run.host)),
        ("server", shown(&run.addr)),
        ("version of dummy_client", shown(&run.version)),
        ("scenario", shown(&run.scenario)),
        ("seed", shown(&run.seed)),
        ("share", shown(&share)),
    ];
    known(facts.map(|(name, value)| fact(name, value, "")).into())
}

fn started(rfc3339: &str) -> String {
    shown(&rfc3339.replacen('T', " ", 1).replace('Z', " UTC"))
}

/// The settings of the run; those that are not set are left out.
fn settings(report: &Report) -> Vec<Fact> {
    let settings = report.run.settings.iter();
    settings
        .filter(|(_, value)| value::is_set(value))
        .filter_map(|(key, value)| value::setting(key, value))
        .collect()
}

fn client(report: &Report) -> Vec<Fact> {
    let client = &report.client;
    let mut facts = vec![
        fact("longest stall", ms(client.worst_stall_ms), ""),
        fact("longest wait of a packet", ms(client.worst_loop_lag_ms), ""),
        fact("latest request sent", ms(client.worst_late_send_ms), ""),
        fact(
            "busiest event loop",
            format!("{:.0} %", client.busiest_loop * 100.0),
            "",
        ),
        fact(
            "CPU",
            format!("{:.2} cores", client.cpu_cores),
            match client.cpu_us_per_packet {
                // The run received no packet.
                0.0 => String::new(),
                micros => format!("{micros:.1} µs a packet"),
            },
        ),
    ];
    if client.throttled_ms > 0.0 {
        facts.push(fact(
            "stopped by the CPU quota",
            ms(client.throttled_ms),
            "",
        ));
    }
    if client.own_limits > 0 {
        let connects = grouped(client.own_limits);
        facts.push(fact(
            "connects failed by own limits",
            connects,
            "ports, descriptors, memory",
        ));
    }
    facts
}

fn machine(report: &Report) -> Vec<Fact> {
    let machine = &report.machine;
    let number = |value: Option<u64>| value.map_or_else(String::new, grouped);
    let cores = Some(machine.cores as u64).filter(|cores| *cores > 0);
    let memory = machine
        .memory_total_bytes
        .map(|bytes| human_bytes(bytes as f64));
    let facts = [
        ("system", shown(&machine.system)),
        ("cores", number(cores)),
        ("memory", memory.unwrap_or_default()),
        ("open files", number(machine.fd_soft_limit)),
        ("open files, hard limit", number(machine.fd_hard_limit)),
        ("ports of one address", number(machine.ephemeral_ports)),
        ("backlog (somaxconn)", number(machine.somaxconn)),
    ];
    known(facts.map(|(name, value)| fact(name, value, "")).into())
}

/// The facts with a value.
fn known(mut facts: Vec<Fact>) -> Vec<Fact> {
    facts.retain(|fact| !fact.value.is_empty());
    facts
}

#[cfg(test)]
mod tests;
