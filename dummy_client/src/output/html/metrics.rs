//! The metrics of a run as rows of tables. A metric of a scenario needs no line here.

use super::figures::{self, Figure};
use super::format::{count, digits, grouped, percent, shown, value, words};
use super::{Check, Fact, fact};
use crate::metrics::Unit;
use crate::report::{Metric, Metrics, Report, TrendValue};
use std::collections::BTreeMap;

/// A trend: its row in the table, and its plots.
pub struct Trend {
    pub name: String,
    pub title: String,
    /// Each with the head of its column.
    pub cells: [(&'static str, String); 9],
    pub figures: Vec<Figure>,
}

/// Requests and what became of them.
pub struct Requests {
    pub name: String,
    pub answered_as: String,
    /// Each with the head of its column.
    pub cells: [(&'static str, String); 4],
    /// The sum of the parts, if it is not the number of sent requests.
    pub other_sum: Option<String>,
}

/// A counter, a rate or a gauge.
pub struct Row {
    pub name: String,
    /// The sums by packet name, and the meaning.
    pub note: String,
    pub value: String,
    pub detail: String,
}

/// All trends, in the order of registration.
pub fn trends(report: &Report) -> Vec<Trend> {
    let trends = report.metrics.iter().filter_map(|(name, metric)| {
        let Metric::Trend(trend) = metric else {
            return None;
        };
        let title = match meaning(&report.metrics, name) {
            "" => shown(&trend.title),
            meaning => meaning.into(),
        };
        Some(Trend {
            name: words(name),
            title,
            cells: cells(trend),
            figures: figures::of_trend(report, name, trend),
        })
    });
    trends.collect()
}

fn cells(trend: &TrendValue) -> [(&'static str, String); 9] {
    let statistics = [
        ("mean", trend.mean),
        ("min", trend.min),
        ("p50", trend.p50),
        ("p90", trend.p90),
        ("p95", trend.p95),
        ("p99", trend.p99),
        ("p99.9", trend.p999),
        ("max", trend.max),
    ];
    let mut cells = [("samples", grouped(trend.count)); 1].to_vec();
    cells.extend(statistics.map(|(name, ms)| match trend.count {
        0 => (name, "–".to_owned()),
        _ => (name, digits(ms)),
    }));
    cells.try_into().unwrap_or_default()
}

/// The trends with the most samples, as key figures.
pub fn key_trends(metrics: &Metrics) -> Vec<Fact> {
    const MOST: usize = 3;
    let trends = metrics.iter().filter_map(|(name, metric)| match metric {
        Metric::Trend(trend) if trend.count > 0 => Some((name, trend)),
        _ => None,
    });
    let mut trends: Vec<_> = trends.enumerate().collect();
    trends.sort_by_key(|(_, (_, trend))| std::cmp::Reverse(trend.count));
    trends.truncate(MOST);
    trends.sort_by_key(|(place, _)| *place);
    let trends = trends.into_iter().map(|(_, (name, trend))| {
        let [p99, max] = [trend.p99, trend.max].map(|ms| value(ms, Unit::Milliseconds));
        fact(&format!("{}, p99", words(name)), p99, format!("max {max}"))
    });
    trends.collect()
}

/// The checks of the users and of the metrics, the failed ones first.
pub fn checks(report: &Report) -> Vec<Check> {
    let sessions = &report.sessions;
    let [never_connected, not_reconnected] = sessions.blamed();
    let of_users = [
        ("users never connected", never_connected),
        (
            "users without a session at the end",
            sessions.disconnected_at_end,
        ),
        ("users that left and did not reconnect", not_reconnected),
    ];
    let of_users = of_users.map(|(what, users)| Check {
        what: what.into(),
        meaning: "",
        value: count(users),
        holds: users == 0,
    });
    let silent = sessions.server_silent_secs;
    let silence = Check {
        what: "seconds without a packet".into(),
        meaning: "",
        value: format!("{silent:.1}"),
        holds: silent == 0.0,
    };
    let metrics = report.metrics.iter();
    let metrics = metrics.filter_map(|(name, metric)| match metric {
        Metric::Check { value, .. } => Some(Check {
            what: words(name),
            meaning: meaning(&report.metrics, name),
            value: grouped(*value),
            holds: *value == 0,
        }),
        _ => None,
    });
    let mut checks: Vec<_> = of_users
        .into_iter()
        .chain([silence])
        .chain(metrics)
        .collect();
    checks.sort_by_key(|check| check.holds);
    checks
}

/// The sum of the checks that count what the server owes.
pub fn lost(metrics: &Metrics) -> u64 {
    let losses = metrics.iter().filter_map(|(_, metric)| match metric {
        Metric::Check {
            value,
            is_loss: true,
            ..
        } => Some(*value),
        _ => None,
    });
    losses.fold(0, u64::saturating_add)
}

/// The request series: `NAME_sent` is the sum of the counter after it, `NAME_lost` and `NAME_waiting`.
pub fn requests(metrics: &Metrics) -> Vec<Requests> {
    let pairs = metrics.0.iter().zip(metrics.0.iter().skip(1));
    let requests = pairs.filter_map(|((name, metric), (answered_as, answered))| {
        let (
            Metric::Counter { value: sent, .. },
            Metric::Counter {
                value: answered, ..
            },
        ) = (metric, answered)
        else {
            return None;
        };
        let name = name.strip_suffix("_sent")?;
        let answered_as = answered_as.strip_prefix(name)?.strip_prefix('_')?;
        let [lost, waiting] = ["lost", "waiting"].map(|end| format!("{name}_{end}"));
        metrics.get(&lost)?;
        metrics.get(&waiting)?;
        let parts = [
            ("answered", *answered),
            ("lost", metrics.count(&lost)),
            ("waiting", metrics.count(&waiting)),
        ];
        let sum = parts
            .iter()
            .fold(0u64, |sum, part| sum.saturating_add(part.1));
        let [answered, lost, waiting] = parts.map(|(name, count)| (name, grouped(count)));
        Some(Requests {
            name: words(name),
            answered_as: words(answered_as),
            cells: [("sent", grouped(*sent)), answered, lost, waiting],
            other_sum: (sum != *sent).then(|| grouped(sum)),
        })
    });
    requests.collect()
}

/// Counters, rates and gauges, in the order of registration, without those of request series.
pub fn rows(report: &Report) -> Vec<Row> {
    let seconds = report.run.elapsed_secs;
    let requests = requests(&report.metrics);
    let is_of_requests = |name: &str| {
        requests.iter().any(|one| {
            let end = words(name);
            let end = end.strip_prefix(&one.name).map(str::trim_start);
            end.is_some_and(|end| end == "sent" || end == "waiting" || end == one.answered_as)
        })
    };
    let mut rows = Vec::new();
    for (name, metric) in report.metrics.iter() {
        let (text, detail) = match metric {
            Metric::Counter { .. } if is_of_requests(name) => continue,
            Metric::Counter {
                value: sum, unit, ..
            } => {
                let sum = *sum as f64;
                let detail = match seconds > 0.0 && sum > 0.0 {
                    true => format!("{} per second", value(rounded(sum / seconds), *unit)),
                    false => String::new(),
                };
                (value(sum, *unit), detail)
            }
            Metric::Rate {
                passes,
                total,
                value,
            } => {
                let share = value.map_or_else(|| "no event".into(), percent);
                (
                    share,
                    format!("{} of {}", grouped(*passes), grouped(*total)),
                )
            }
            Metric::Gauge { value: known, unit } => {
                let text = known.map(|known| value(known, *unit));
                (text.unwrap_or_else(|| "not known".into()), String::new())
            }
            Metric::Check { .. } | Metric::Trend(_) => continue,
        };
        let by_packet = match metric {
            Metric::Counter { by_packet, .. } => by_packet,
            _ => &BTreeMap::new(),
        };
        let by_packet = by_packet.iter();
        let mut notes: Vec<_> = by_packet
            .map(|(packet, sum)| format!("{} {}", shown(packet), grouped(*sum)))
            .collect();
        notes.extend(Some(meaning(&report.metrics, name).to_owned()).filter(|it| !it.is_empty()));
        rows.push(Row {
            name: words(name),
            note: notes.join(" · "),
            value: text,
            detail,
        });
    }
    rows
}

/// A number of events per second: a fraction below 100 only.
fn rounded(rate: f64) -> f64 {
    if rate < 100.0 { rate } else { rate.round() }
}

/// The meaning of a metric of a tick series; empty for any other metric.
///
/// The series of a name has a delay and a count of missing numbers: a metric of a game that is called
/// `offers_skipped` has neither.
fn meaning(metrics: &Metrics, name: &str) -> &'static str {
    const OF_TICKS: [(&str, &str, &str); 9] = [
        (
            "",
            "_delay",
            "from the time on the server's own schedule to the arrival",
        ),
        (
            "",
            "_spread",
            "from the first session that receives a tick to the last",
        ),
        ("", "s_received", "by all sessions"),
        ("", "_gaps", "jumps in the numbers that a session receives"),
        (
            "",
            "s_missing",
            "numbers that a session does not receive, between two that it receives",
        ),
        (
            "",
            "s_skipped",
            "empty slots of the server's schedule: a tick is n periods late, and its number continues without a gap",
        ),
        (
            "",
            "s_synthetic",
            "samples of the delay that the client adds for each session and each skipped tick",
        ),
        ("", "_period", "as the client infers it from the arrivals"),
        (
            "longest_",
            "_gap",
            "the longest time of a session without a tick",
        ),
    ];
    let is_series = |series: &str| {
        let [delay, missing] = ["_delay", "s_missing"].map(|end| format!("{series}{end}"));
        matches!(metrics.get(&missing), Some(Metric::Check { .. }))
            && metrics.trend(&delay).is_some()
    };
    let of = OF_TICKS.iter().find(|(start, end, _)| {
        let series = name
            .strip_prefix(start)
            .and_then(|rest| rest.strip_suffix(end));
        series.is_some_and(is_series)
    });
    of.map_or("", |(.., meaning)| meaning)
}
