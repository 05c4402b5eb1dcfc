//! What changed from one side of runs to another, and what is noise.
//!
//! # What is noise
//!
//! A loss and a failed check are never noise. A percentile of a trend differs only if all of these hold:
//!
//! 1. **Samples.** At least [`MIN_BEYOND`] samples lie beyond the percentile on each side. The number of samples
//!    beyond a percentile is binomial: of k, its standard deviation is about the root of k, so that with fewer
//!    than 10 the rank of the percentile is known to no better than a third (David and Nagaraja, "Order
//!    Statistics", on confidence intervals of quantiles).
//! 2. **Size.** The difference is larger than the tolerance in percent, than the noise of the unit ([`noise_ms`]),
//!    and than the longest lag of the client (half of it for a median): what made the client wait made the server
//!    wait as well. With one run on a side, the difference is also larger than twice the tolerance, and than the
//!    range of the seconds of each run: a run does not show what differs from run to run. With two to four runs,
//!    the difference is larger than 1.5 times the tolerance.
//! 3. **Seconds.** All samples of a second share its stalls, so the seconds are the independent observations and
//!    not the samples. The seconds of the timeline have to agree: the rank-sum test of Mann and Whitney between
//!    the seconds of both sides has to reach [`MIN_RANK_SUM`].
//! 4. **Runs.** With several runs on a side, the medians are compared. Their difference has to be larger than the
//!    range of the runs of each side, and the runs of one side have to be above those of the other in
//!    [`MIN_SUPERIORITY`] of all pairs.
//!
//! Measured with 20 sessions for 5 s and 200 sessions for 10 s on two cores with a load average of 20: of 307 pairs
//! of identical runs, 2 differ. Without the rules on the lag and on the range of the seconds 148 differ, and all
//! 307 if 10 % and 1 ms are a difference.
//!
//! A trend without enough seconds (the connect time), and a value that a run has only once (the longest gap),
//! are compared with three runs on each side or more.

use super::data::{Metric, Report, Sessions, TrendValue, Verdict};
use crate::metrics::Unit;
use server_core::text::one_line;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Samples that have to lie beyond a percentile.
pub const MIN_BEYOND: f64 = 10.0;
/// The standard deviations of the rank-sum test: a one-sided error of 0.6 %. Five seconds against five reach 2.61,
/// if each second of one side is above each second of the other.
pub const MIN_RANK_SUM: f64 = 2.5;
/// The share of the pairs of runs in which one side has to be above the other.
pub const MIN_SUPERIORITY: f64 = 0.9;
/// Runs on each side from which on the spread of the runs is evidence enough.
const ENOUGH_RUNS: usize = 3;
/// Lengths of runs that differ by more than this share are not comparable.
const MAX_LENGTH_DIFFERENCE: f64 = 0.2;
/// Tick periods that differ by more than this share are not comparable.
const MAX_PERIOD_DIFFERENCE: f64 = 0.05;
/// A share that changes by less than a percentage point is noise: the events of a stall fail together.
const RATE_NOISE: f64 = 0.01;

/// The statistics of a trend that are compared: the share of samples up to it, and the statistic of a second
/// that has to agree.
const STATISTICS: [(&str, f64, Second); 4] = [
    ("p50", 0.5, Second::P50),
    ("p95", 0.95, Second::P99),
    ("p99", 0.99, Second::P99),
    ("p999", 0.999, Second::Max),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Second {
    P50,
    P99,
    Max,
}

/// The noise of a time, in milliseconds, whatever the percentage.
///
/// A thread that wakes up on a busy core waits for the time slice of another thread: 3 ms on Linux (the base
/// slice of EEVDF, the minimum granularity of CFS). A packet passes three such threads: the server, the client,
/// and what competes with both. The median is mostly free of such waits, and the tail is not.
#[must_use]
pub fn noise_ms(statistic: &str) -> f64 {
    match statistic {
        "p50" => 1.0,
        "p999" | "max" => 10.0,
        _ => 5.0,
    }
}

/// The result of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// For people: a line for each figure, and the verdict in the last line.
    pub text: String,
    /// What changed in total.
    pub verdict: Outcome,
    /// The figures that are worse.
    pub worse: Vec<String>,
    /// The figures that are better.
    pub better: Vec<String>,
}

/// What changed from the first side to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing but noise.
    Same,
    /// At least one figure is better, and none is worse.
    Better,
    /// At least one figure is worse.
    Worse,
    /// The runs asked for different things, or a client was the bottleneck.
    CannotBeCompared,
}

impl Outcome {
    /// 0: not worse; 1: worse, or the runs cannot be compared.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Same | Self::Better => 0,
            Self::Worse | Self::CannotBeCompared => 1,
        }
    }
}

/// Compares the runs of two sides. Differences of times, rates and capacities up to `tolerance` percent are
/// noise. A side without a run cannot be compared.
#[must_use]
pub fn compare(before: &[Report], after: &[Report], tolerance: f64) -> Comparison {
    let mut table = Table {
        before,
        after,
        tolerance: tolerance / 100.0,
        text: format!("{:<32} {:>14} {:>14} {:>9}\n", "", "A", "B", "change"),
        worse: Vec::new(),
        better: Vec::new(),
    };
    let doubts = doubts(before, after);
    if !before.is_empty() && !after.is_empty() {
        table.sessions();
        table.metrics();
        table.capacity();
        table.verdicts();
    }
    let Table {
        mut text,
        worse,
        better,
        ..
    } = table;
    // Writing to a string does not fail.
    for doubt in &doubts {
        let _ = writeln!(text, "cannot be compared: {}", one_line(doubt));
    }
    let verdict = match (doubts.is_empty(), worse.is_empty(), better.is_empty()) {
        (false, ..) => Outcome::CannotBeCompared,
        (true, false, _) => Outcome::Worse,
        (true, true, false) => Outcome::Better,
        (true, true, true) => Outcome::Same,
    };
    text += &match verdict {
        Outcome::CannotBeCompared => "verdict: cannot be compared\n".into(),
        Outcome::Worse => format!("verdict: worse ({})\n", worse.join(", ")),
        Outcome::Better => format!("verdict: better ({})\n", better.join(", ")),
        Outcome::Same => "verdict: no difference\n".into(),
    };
    Comparison {
        text,
        verdict,
        worse,
        better,
    }
}

struct Table<'a> {
    before: &'a [Report],
    after: &'a [Report],
    /// A share.
    tolerance: f64,
    text: String,
    worse: Vec<String>,
    better: Vec<String>,
}

/// What a difference says.
enum Change {
    Worse,
    Better,
    None,
    /// Why it says nothing.
    Unknown(String),
}

impl Change {
    fn of(is_worse: bool, is_better: bool) -> Self {
        match (is_worse, is_better) {
            (true, _) => Self::Worse,
            (_, true) => Self::Better,
            _ => Self::None,
        }
    }
}

/// One figure of both sides, a value for each run that measured it.
struct Figure {
    before: Vec<f64>,
    after: Vec<f64>,
}

impl Figure {
    fn of(table: &Table<'_>, value: impl Fn(&Report) -> Option<f64>) -> Self {
        Self {
            before: table.before.iter().filter_map(&value).collect(),
            after: table.after.iter().filter_map(&value).collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }

    fn medians(&self) -> Option<(f64, f64)> {
        Some((median(&self.before)?, median(&self.after)?))
    }

    fn largest(&self) -> Option<(f64, f64)> {
        let largest = |values: &[f64]| values.iter().copied().reduce(f64::max);
        Some((largest(&self.before)?, largest(&self.after)?))
    }

    /// Whether the runs of one side are above those of the other in nearly every pair.
    fn is_clear(&self) -> bool {
        let share = superiority(&self.before, &self.after);
        share.max(1.0 - share) >= MIN_SUPERIORITY
    }

    /// Whether a side has one run. What differs from run to run is not seen in it.
    fn is_single(&self) -> bool {
        self.before.len().min(self.after.len()) < 2
    }

    /// How often the tolerance is allowed: the median of few runs varies with the runs.
    fn tolerances(&self) -> f64 {
        match self.before.len().min(self.after.len()) {
            0 | 1 => 2.0,
            2..5 => 1.5,
            _ => 1.0,
        }
    }

    /// The change, if the runs of both sides are apart. `change` gets how often the tolerance is allowed, and
    /// whether a side has one run. One run on a side does not show a change that several may show.
    fn change(&self, change: impl Fn(f64, bool) -> Change) -> Change {
        if !self.is_clear() {
            return Change::None;
        }
        match change(self.tolerances(), self.is_single()) {
            Change::None if self.is_single() && !matches!(change(1.0, false), Change::None) => {
                Change::Unknown("too small for one run a side: several runs are needed".into())
            }
            change => change,
        }
    }

    fn has_enough_runs(&self) -> bool {
        self.before.len() >= ENOUGH_RUNS && self.after.len() >= ENOUGH_RUNS
    }
}

impl Table<'_> {
    fn row(&mut self, name: &str, (from, to): (f64, f64), digits: usize, change: Change) {
        let name = one_line(name);
        let percent = match (from, to) {
            (0.0, 0.0) => String::new(),
            (0.0, _) => "new".into(),
            _ => format!("{:+.1} %", (to / from - 1.0) * 100.0),
        };
        let mark = match change {
            Change::Worse => "  worse".into(),
            Change::Better => "  better".into(),
            Change::None => String::new(),
            Change::Unknown(why) => format!("  ({why})"),
        };
        if from != 0.0 || to != 0.0 {
            let row = format!("{name:<32} {from:>14.digits$} {to:>14.digits$} {percent:>9}{mark}");
            self.text += row.trim_end();
            self.text.push('\n');
        }
        if let Some(list) = change_list(&mark, &mut self.worse, &mut self.better) {
            list.push(name);
        }
    }

    /// A count that has to be 0: one more in the worst run of a side is worse.
    fn failures(&mut self, name: &str, figure: &Figure) {
        if let Some((from, to)) = figure.largest() {
            self.row(name, (from, to), 0, Change::of(to > from, from > to));
        }
    }

    fn sessions(&mut self) {
        type Field = (&'static str, fn(&Sessions) -> f64);
        let fields: [Field; 8] = [
            ("sessions.never_connected", |one| one.never_connected as f64),
            ("sessions.failed_connects", |one| one.failed_connects as f64),
            ("sessions.failed_logins", |one| one.failed_logins as f64),
            ("sessions.lost", |one| one.lost as f64),
            ("sessions.reconnected_late", |one| {
                one.reconnected_late as f64
            }),
            ("sessions.not_reconnected", |one| one.not_reconnected as f64),
            ("sessions.disconnected_at_end", |one| {
                one.disconnected_at_end as f64
            }),
            ("sessions.server_silent_secs", |one| one.server_silent_secs),
        ];
        let lost = Figure::of(self, |run| Some(run.lost() as f64));
        self.failures("lost", &lost);
        for (name, field) in fields {
            let figure = Figure::of(self, |run| Some(field(&run.sessions)));
            self.failures(name, &figure);
        }
    }

    /// Every metric of any run, in the order of the first run that has it.
    fn metrics(&mut self) {
        let mut names: Vec<&str> = Vec::new();
        for run in self.before.iter().chain(self.after) {
            for (name, _) in run.metrics.iter() {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        for name in names {
            let mut runs = self.before.iter().chain(self.after);
            match runs.find_map(|run| run.metrics.get(name)) {
                Some(Metric::Check { .. }) => {
                    let figure = Figure::of(self, |run| count(run, name));
                    self.failures(name, &figure);
                }
                Some(Metric::Counter { .. }) => self.counter(name),
                Some(Metric::Rate { .. }) => self.rate(name),
                Some(Metric::Gauge { unit, .. }) => self.gauge(name, *unit),
                Some(Metric::Trend(_)) => self.trend(name),
                None => {}
            }
        }
    }

    /// A counter has no direction, except for what a series of ticks skipped. Its noise is that of a Poisson
    /// count: three standard deviations, and ten.
    fn counter(&mut self, name: &str) {
        let figure = Figure::of(self, |run| count(run, name));
        let Some((from, to)) = figure.medians() else {
            return;
        };
        let change = if name.ends_with("_skipped") {
            let noise = (3.0 * (from + to).sqrt()).max(10.0);
            let is_clear = figure.is_clear();
            Change::of(is_clear && to - from > noise, is_clear && from - to > noise)
        } else {
            Change::None
        };
        self.row(name, (from, to), 0, change);
    }

    fn rate(&mut self, name: &str) {
        let failed = |run: &Report| match run.metrics.get(name) {
            Some(Metric::Rate { passes, total, .. }) if *total > 0 => {
                Some((1.0 - *passes as f64 / *total as f64, *total as f64))
            }
            _ => None,
        };
        let figure = Figure::of(self, |run| failed(run).map(|(share, _)| share));
        let Some((from, to)) = self.medians_or_note(name, &figure) else {
            return;
        };
        let events = Figure::of(self, |run| failed(run).map(|(_, events)| events));
        let (events_before, events_after) = events.medians().unwrap_or((1.0, 1.0));
        let variance = |share: f64, events: f64| share * (1.0 - share) / events;
        let deviation = (variance(from, events_before) + variance(to, events_after)).sqrt();
        let change = self.by_runs(&figure, RATE_NOISE.max(3.0 * deviation), 0.0);
        let passed = (1.0 - from, 1.0 - to);
        self.row(name, passed, 4, change);
    }

    fn gauge(&mut self, name: &str, unit: Unit) {
        let figure = Figure::of(self, |run| match run.metrics.get(name) {
            Some(Metric::Gauge { value, .. }) => *value,
            _ => None,
        });
        let Some((from, to)) = self.medians_or_note(name, &figure) else {
            return;
        };
        let per_ms = match unit {
            Unit::Milliseconds => 1.0,
            Unit::Microseconds => 1e3,
            Unit::Seconds => 1e-3,
            Unit::Count | Unit::Bytes | Unit::Ratio => f64::INFINITY,
        };
        let change = if name.ends_with("_period") || per_ms.is_infinite() {
            Change::None
        } else if figure.has_enough_runs() {
            let noise = noise_ms("max").max(self.own_lag_ms("max"));
            self.by_runs(&figure, noise * per_ms, 0.0)
        } else {
            Change::Unknown("one value a run: three runs a side are needed".into())
        };
        self.row(name, (from, to), 2, change);
    }

    fn trend(&mut self, name: &str) {
        for (statistic, share, second) in STATISTICS {
            let path = format!("{name}.{statistic}");
            let value = |run: &Report| run.metrics.trend(name)?.statistic(statistic);
            let figure = Figure::of(self, value);
            let Some((from, to)) = self.medians_or_note(&path, &figure) else {
                // One note for a trend.
                return;
            };
            let beyond = |run: &Report| {
                let samples = run.metrics.trend(name).map_or(0, samples);
                samples as f64 * (1.0 - share)
            };
            let smallest = |runs: &[Report]| runs.iter().map(beyond).sum::<f64>();
            let beyond = smallest(self.before).min(smallest(self.after));
            let seconds = |runs| seconds(runs, name, second);
            let (seconds_before, seconds_after) = (seconds(self.before), seconds(self.after));
            let can_agree =
                most_rank_sum(seconds_before.len(), seconds_after.len()) >= MIN_RANK_SUM;
            let noise = noise_ms(statistic).max(self.own_lag_ms(statistic));
            let in_one_run = range(&seconds_before).max(range(&seconds_after));
            let beyond = (beyond + 1e-6).floor();
            let change = if beyond < MIN_BEYOND {
                Change::Unknown(format!(
                    "{beyond} samples beyond it, {MIN_BEYOND} are needed"
                ))
            } else if !can_agree && !figure.has_enough_runs() {
                Change::Unknown("too few seconds with samples: three runs a side are needed".into())
            } else {
                let change = self.by_runs(&figure, noise, in_one_run);
                let agree = |before: &[f64], after: &[f64]| {
                    !can_agree || rank_sum(before, after) >= MIN_RANK_SUM
                };
                let seconds = (&seconds_before[..], &seconds_after[..]);
                let (first, second) = if from < to {
                    seconds
                } else {
                    (seconds.1, seconds.0)
                };
                if agree(first, second) {
                    change
                } else {
                    Change::None
                }
            };
            self.row(&path, (from, to), 2, change);
        }
    }

    /// Whether the medians differ by more than the tolerance and the noise, and the runs of both sides are apart.
    /// `in_one_run`: the noise of one run on a side.
    fn by_runs(&self, figure: &Figure, noise: f64, in_one_run: f64) -> Change {
        let Some((from, to)) = figure.medians() else {
            return Change::None;
        };
        let noise = noise.max(range(&figure.before)).max(range(&figure.after));
        figure.change(|tolerances, is_single| {
            let noise = if is_single {
                noise.max(in_one_run)
            } else {
                noise
            };
            let factor = 1.0 + self.tolerance * tolerances;
            let rose = |from: f64, to: f64| to - from > noise && to > from * factor;
            Change::of(rose(from, to), rose(to, from))
        })
    }

    /// The longest lag of the client, which shares its machine with the server or another busy one: the median
    /// of the runs of a side, of the worse side. Half of it for a median.
    fn own_lag_ms(&self, statistic: &str) -> f64 {
        let lag = |runs: &[Report]| {
            let clients = runs.iter().map(|run| &run.client);
            let lags = clients.map(|client| client.worst_lag_ms());
            median(&lags.collect::<Vec<_>>()).unwrap_or(0.0)
        };
        let lag = lag(self.before).max(lag(self.after));
        if statistic == "p50" { lag / 2.0 } else { lag }
    }

    fn medians_or_note(&mut self, name: &str, figure: &Figure) -> Option<(f64, f64)> {
        let medians = figure.medians();
        if medians.is_none() && !figure.is_empty() {
            let name = one_line(name);
            let _ = writeln!(self.text, "{name:<32} measured on one side only");
        }
        medians
    }

    fn capacity(&mut self) {
        let figure = Figure::of(self, |run| {
            let capacity = run.capacity.as_ref()?;
            Some(capacity.largest.unwrap_or(0) as f64)
        });
        let Some((from, to)) = figure.medians() else {
            return;
        };
        let change = figure.change(|tolerances, _| {
            let factor = 1.0 - self.tolerance * tolerances;
            let fell = |from: f64, to: f64| to < from * factor;
            Change::of(fell(from, to), fell(to, from))
        });
        self.row("capacity.largest", (from, to), 0, change);
    }

    fn verdicts(&mut self) {
        let failed = |runs: &[Report]| runs.iter().any(|run| run.verdict == Verdict::Failed);
        if !failed(self.before) && failed(self.after) {
            self.text += "no run of A failed, and a run of B did\n";
            self.worse.push("verdict".into());
        }
    }
}

fn change_list<'a>(
    mark: &str,
    worse: &'a mut Vec<String>,
    better: &'a mut Vec<String>,
) -> Option<&'a mut Vec<String>> {
    match mark {
        "  worse" => Some(worse),
        "  better" => Some(better),
        _ => None,
    }
}

fn count(run: &Report, name: &str) -> Option<f64> {
    match run.metrics.get(name) {
        Some(Metric::Counter { value, .. } | Metric::Check { value, .. }) => Some(*value as f64),
        _ => None,
    }
}

fn samples(trend: &TrendValue) -> u64 {
    trend.count
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (lower, upper) = (sorted.len().checked_sub(1)? / 2, sorted.len() / 2);
    Some((sorted[lower] + sorted[upper]) / 2.0)
}

/// The distance between the smallest and the largest value.
fn range(values: &[f64]) -> f64 {
    let smallest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (largest - smallest).max(0.0)
}

/// A statistic of each whole second of some runs. A second at an end of a run may have few samples, and has no
/// say.
fn seconds(runs: &[Report], name: &str, statistic: Second) -> Vec<f64> {
    let mut values = Vec::new();
    for run in runs {
        let points = run.timeline.iter();
        let points: Vec<_> = points.filter_map(|point| point.trends.get(name)).collect();
        let counts: Vec<f64> = points.iter().map(|point| point.count as f64).collect();
        let usual = median(&counts).unwrap_or(0.0);
        let whole = points
            .iter()
            .filter(|point| point.count as f64 >= usual / 2.0);
        values.extend(whole.map(|point| match statistic {
            Second::P50 => point.p50,
            Second::P99 => point.p99,
            Second::Max => point.max,
        }));
    }
    values
}

/// The share of the pairs in which the value of the second side is larger; half of a tie counts.
fn superiority(before: &[f64], after: &[f64]) -> f64 {
    let mut wins = 0.0;
    for a in before {
        for b in after {
            wins += match b.total_cmp(a) {
                std::cmp::Ordering::Less => 0.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Greater => 1.0,
            };
        }
    }
    wins / (before.len() * after.len()).max(1) as f64
}

/// The statistic of Mann and Whitney in standard deviations: above 0 if the second side is larger.
fn rank_sum(before: &[f64], after: &[f64]) -> f64 {
    let (n, m) = (before.len() as f64, after.len() as f64);
    (superiority(before, after) - 0.5) / ((n + m + 1.0) / (12.0 * n * m)).sqrt()
}

/// The result of [`rank_sum`] for this number of seconds, if each of one side is above each of the other.
fn most_rank_sum(before: usize, after: usize) -> f64 {
    let (n, m) = (before as f64, after as f64);
    0.5 / ((n + m + 1.0) / (12.0 * n * m)).sqrt()
}

/// Why the runs cannot be compared.
fn doubts(before: &[Report], after: &[Report]) -> Vec<String> {
    let mut doubts = Vec::new();
    for (side, runs) in [("A", before), ("B", after)] {
        if runs.is_empty() {
            doubts.push(format!("{side} has no run"));
        }
        if runs.iter().any(|run| run.client.client_limited) {
            doubts.push(format!("a run of {side} was limited by the client"));
        }
    }
    let Some(first) = before.first() else {
        return doubts;
    };
    let mut questions = BTreeSet::new();
    for run in before.iter().chain(after) {
        questions.extend(differences(first, run));
    }
    doubts.extend(questions);
    doubts
}

/// What two runs asked for in different ways.
fn differences(first: &Report, run: &Report) -> Vec<String> {
    let mut found = Vec::new();
    let mut note = |name: &str, from: &dyn std::fmt::Display, to: &dyn std::fmt::Display| {
        found.push(format!("{name} is {from} in one run and {to} in another"));
    };
    let (a, b) = (&first.run, &run.run);
    if a.scenario != b.scenario {
        note("the scenario", &a.scenario, &b.scenario);
    }
    if a.share != b.share {
        let share = |share: &Option<String>| share.clone().unwrap_or("all".into());
        note("the share", &share(&a.share), &share(&b.share));
    }
    for (name, from, to) in first.different_settings(run) {
        note(&name, &from, &to);
    }
    if first.sessions.requested != run.sessions.requested {
        let requested = (first.sessions.requested, run.sessions.requested);
        note("the number of sessions", &requested.0, &requested.1);
    }
    let attack = |run: &Report| {
        let attack = run.attack.as_ref();
        attack.map_or("none".into(), |attack| {
            format!("{} by {}", attack.name, attack.attackers)
        })
    };
    if attack(first) != attack(run) {
        note("the attack", &attack(first), &attack(run));
    }
    let is_search = |run: &Report| run.capacity.is_some();
    if is_search(first) != is_search(run) {
        note(
            "a capacity search",
            &is_search(first).to_string(),
            &is_search(run).to_string(),
        );
    }
    let differ = |from: f64, to: f64, share: f64| (from - to).abs() > from.max(to) * share;
    let (from, to) = (a.elapsed_secs, b.elapsed_secs);
    if !is_search(first) && differ(from, to, MAX_LENGTH_DIFFERENCE) {
        note("the length", &format!("{from:.1} s"), &format!("{to:.1} s"));
    }
    for (name, metric) in first.metrics.iter() {
        let period = |metric: Option<&Metric>| match metric {
            Some(Metric::Gauge { value, .. }) => *value,
            _ => None,
        };
        if name.ends_with("_period")
            && let (Some(from), Some(to)) = (period(Some(metric)), period(run.metrics.get(name)))
            && differ(from, to, MAX_PERIOD_DIFFERENCE)
        {
            note(name, &format!("{from:.1} ms"), &format!("{to:.1} ms"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::AttackReport;
    use crate::executor::capacity::{self, CapacityReport};
    use crate::report::{Metrics, Point, PointTrend, Step, samples};

    const TOLERANCE: f64 = 10.0;
    /// 4 ticks a second.
    const TICKS: usize = 4;

    /// A server in virtual time.
    #[derive(Clone, Copy, Debug)]
    struct Load {
        sessions: usize,
        seconds: usize,
        /// The median tick delay.
        median_ms: f64,
        /// 1: the machine is busy. One tick of 20 waits for a time of a Pareto distribution, the client waits for
        /// another one, and the load of the machine changes from run to run and from second to second. 0: the
        /// machine is quiet.
        noise: f64,
    }

    const SMALL: Load = Load {
        sessions: 20,
        seconds: 5,
        median_ms: 0.4,
        noise: 1.0,
    };
    const LARGE: Load = Load {
        sessions: 200,
        seconds: 10,
        median_ms: 4.0,
        noise: 1.0,
    };

    fn normal(rng: &mut fastrand::Rng) -> f64 {
        let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
        radius * (std::f64::consts::TAU * rng.f64()).cos()
    }

    fn quantile(sorted: &[f64], share: f64) -> f64 {
        let rank = (sorted.len() as f64 * share).ceil() as usize;
        sorted[rank.clamp(1, sorted.len()) - 1]
    }

    /// A run with tick delays whose noise has heavy tails, and that all sessions share.
    fn simulate(load: Load, seed: u64) -> Report {
        let rng = &mut fastrand::Rng::with_seed(seed);
        let mut all = Vec::new();
        let mut timeline = Vec::new();
        let run_load = load.noise * 0.07 * normal(rng);
        let mut longest_stall_ms: f64 = 0.0;
        let mut second_load = 0.0;
        for second in 1..=load.seconds {
            second_load = 0.5 * second_load + load.noise * 0.1 * normal(rng);
            let mut delays = Vec::new();
            for _ in 0..TICKS {
                let mut stall_ms = || match rng.f64() < 0.05 * load.noise {
                    true => 2.0 * (1.0 - rng.f64()).powf(-1.0 / 1.5),
                    false => 0.0,
                };
                longest_stall_ms = longest_stall_ms.max(stall_ms());
                let stall_ms = stall_ms();
                delays.extend((0..load.sessions).map(|_| {
                    let exponent = run_load + second_load + 0.3 * normal(rng);
                    load.median_ms * exponent.exp() + stall_ms
                }));
            }
            delays.sort_by(f64::total_cmp);
            let trend = PointTrend {
                count: delays.len() as u64,
                p50: quantile(&delays, 0.5),
                p99: quantile(&delays, 0.99),
                max: quantile(&delays, 1.0),
            };
            all.extend(delays);
            timeline.push(Point {
                at_secs: second as f64,
                sessions: load.sessions,
                trends: [("tick_delay".to_owned(), trend)].into(),
                ..Point::default()
            });
        }
        all.sort_by(f64::total_cmp);
        let trend = TrendValue {
            count: all.len() as u64,
            p50: quantile(&all, 0.5),
            p95: quantile(&all, 0.95),
            p99: quantile(&all, 0.99),
            p999: quantile(&all, 0.999),
            max: quantile(&all, 1.0),
            ..TrendValue::default()
        };
        let mut report = samples::report();
        report.verdict = Verdict::Ok;
        report.metrics = Metrics(vec![("tick_delay".into(), Metric::Trend(trend))]);
        report.timeline = timeline;
        report.client.worst_stall_ms = longest_stall_ms;
        report
    }

    fn runs(load: Load, seeds: std::ops::Range<u64>) -> Vec<Report> {
        seeds.map(|seed| simulate(load, seed)).collect()
    }

    const PAIRS: u64 = 60;

    /// In how many of 60 pairs of sides the comparison has this result. The seeds are fixed.
    fn count_outcomes(before: Load, after: Load, runs_a_side: u64, wanted: Outcome) -> u64 {
        let pairs = (0..PAIRS).filter(|pair| {
            let first = pair * 2 * runs_a_side;
            let middle = first + runs_a_side;
            let before = runs(before, first..middle);
            let after = runs(after, middle..middle + runs_a_side);
            compare(&before, &after, TOLERANCE).verdict == wanted
        });
        let count = pairs.count() as u64;
        println!("{before:?} {runs_a_side} runs a side: {count} of {PAIRS} are {wanted:?}");
        count
    }

    #[test]
    fn identical_runs_are_the_same() {
        let slow = Load {
            median_ms: 40.0,
            ..LARGE
        };
        for load in [SMALL, LARGE, slow] {
            for runs_a_side in [1, 3] {
                let same = count_outcomes(load, load, runs_a_side, Outcome::Same);
                assert!(same * 20 >= PAIRS * 19, "{same} of {PAIRS}");
            }
        }
    }

    #[test]
    fn a_regression_is_found() {
        for (median_ms, sessions, seconds, noise, runs_a_side) in [
            (20.0, 200, 10, 0.0, 1),
            (20.0, 200, 10, 0.4, 3),
            (40.0, 20, 5, 0.4, 3),
        ] {
            let before = Load {
                sessions,
                seconds,
                median_ms,
                noise,
            };
            let after = Load {
                median_ms: median_ms * 1.3,
                ..before
            };
            let worse = count_outcomes(before, after, runs_a_side, Outcome::Worse);
            assert!(worse * 20 >= PAIRS * 19, "{worse} of {PAIRS}");
            let better = count_outcomes(after, before, runs_a_side, Outcome::Better);
            assert!(better * 20 >= PAIRS * 19, "{better} of {PAIRS}");
        }
    }

    fn capacity(largest: usize) -> CapacityReport<Step> {
        CapacityReport {
            outcome: capacity::Outcome::Found,
            largest: Some(largest),
            steps: Vec::new(),
        }
    }

    fn passed() -> Report {
        let mut report = samples::report();
        report.verdict = Verdict::Ok;
        for (_, metric) in &mut report.metrics.0 {
            if let Metric::Check { value, .. } = metric {
                *value = 0;
            }
        }
        report
    }

    fn changed(change: impl Fn(&mut Report)) -> Comparison {
        let mut after = passed();
        change(&mut after);
        compare(&[passed()], &[after], TOLERANCE)
    }

    fn set(report: &mut Report, name: &str, metric: Metric) {
        let mut metrics = report.metrics.0.iter_mut();
        let found = metrics.find(|(known, _)| known == name);
        found.unwrap().1 = metric;
    }

    #[test]
    fn a_loss_and_a_failed_check_are_never_noise() {
        let check = |value| Metric::Check {
            value,
            failure: String::new(),
            is_loss: true,
            is_excusable: false,
        };
        let one_missing = changed(|run| set(run, "ticks_missing", check(1)));
        assert_eq!(one_missing.worse, ["lost", "ticks_missing"]);
        let text = &one_missing.text;
        assert!(
            text.contains("verdict: worse (lost, ticks_missing)"),
            "{text}"
        );
        let lost = changed(|run| run.sessions.lost += 1);
        assert_eq!(lost.worse, ["lost", "sessions.lost"]);
        let fewer = changed(|run| run.sessions.lost -= 1);
        assert_eq!(fewer.verdict, Outcome::Better);
        let failed = changed(|run| run.verdict = Verdict::Failed);
        assert_eq!(failed.worse, ["verdict"]);
        // One bad run of three is a bad side.
        let mut bad = passed();
        set(&mut bad, "ticks_missing", check(1));
        let three = [passed(), bad, passed()];
        let before = [passed(), passed(), passed()];
        let comparison = compare(&before, &three, TOLERANCE);
        assert_eq!(comparison.verdict, Outcome::Worse);
        assert_eq!(compare(&three, &three, TOLERANCE).verdict, Outcome::Same);
    }

    #[test]
    fn runs_that_asked_for_different_things_cannot_be_compared() {
        for (change, reason) in [
            (
                (|run| {
                    run.run.settings.insert("count".into(), 200.into());
                }) as fn(&mut Report),
                "count is 10 in one run and 200 in another",
            ),
            (
                |run| {
                    run.run.settings.insert("find_capacity".into(), true.into());
                },
                "find_capacity is null",
            ),
            (|run| run.run.scenario = "x".into(), "the scenario is game"),
            (|run| run.run.share = Some("1/2".into()), "the share is all"),
            (|run| run.sessions.requested = 7, "the number of sessions"),
            (|run| run.assertions.clear(), "the list of assertions"),
            (
                |run| {
                    run.attack = Some(AttackReport {
                        name: "slowloris".into(),
                        attackers: 5,
                        ..AttackReport::default()
                    });
                },
                "the attack is none in one run and slowloris by 5 in another",
            ),
            (
                |run| run.capacity = Some(capacity(5)),
                "a capacity search is false",
            ),
            (|run| run.run.elapsed_secs = 30.0, "the length is 5.0 s"),
            (
                |run| run.client.client_limited = true,
                "a run of B was limited by the client",
            ),
        ] {
            let comparison = changed(change);
            assert_eq!(comparison.verdict, Outcome::CannotBeCompared, "{reason}");
            assert_eq!(comparison.verdict.exit_status(), 1);
            assert!(
                comparison.text.contains(reason),
                "{reason} in\n{}",
                comparison.text
            );
        }
        let periods = [250.0, 20.0].map(|period| {
            let mut run = passed();
            let gauge = Metric::Gauge {
                value: Some(period),
                unit: Unit::Milliseconds,
            };
            set(&mut run, "tick_period", gauge);
            run
        });
        let [slow, fast] = periods;
        let comparison = compare(&[slow], &[fast], TOLERANCE);
        assert_eq!(comparison.verdict, Outcome::CannotBeCompared);
        assert_eq!(
            compare(&[], &[passed()], TOLERANCE).verdict,
            Outcome::CannotBeCompared
        );
        // The seed, the address, the host and the version are not what a run asked for.
        let other = changed(|run| {
            run.run.seed = "1".into();
            run.run.addr = "127.0.0.1:1".into();
            run.run.host = "other".into();
            run.run.version = "9".into();
        });
        assert_eq!(other.verdict, Outcome::Same, "{}", other.text);
    }

    #[test]
    fn figures_without_evidence_are_shown_and_do_not_count() {
        let gap = |value| Metric::Gauge {
            value: Some(value),
            unit: Unit::Milliseconds,
        };
        let longer = changed(|run| set(run, "longest_tick_gap", gap(3_000.0)));
        assert_eq!(longer.verdict, Outcome::Same);
        assert!(
            longer.text.contains("three runs a side are needed"),
            "{}",
            longer.text
        );
        let with_gap = |value: f64| {
            let mut run = passed();
            set(&mut run, "longest_tick_gap", gap(value));
            run
        };
        let three = |value: f64| [value, value + 5.0, value + 9.0].map(with_gap);
        let comparison = compare(&three(250.0), &three(3_000.0), TOLERANCE);
        assert_eq!(comparison.worse, ["longest_tick_gap"]);
        // Of 200 samples, 2 are beyond p99.
        assert!(
            longer.text.contains("(2 samples beyond it, 10 are needed)"),
            "{}",
            longer.text
        );
        let less = changed(|run| set(run, "tick_delay", Metric::Trend(TrendValue::default())));
        assert_eq!(less.verdict, Outcome::Same);
        assert!(
            less.text.contains("measured on one side only"),
            "{}",
            less.text
        );
    }

    /// One run on a side hides a change of 15 % that five runs show.
    #[test]
    fn change_that_one_run_a_side_does_not_show_has_a_reason() {
        let search = |largest: usize| {
            let mut run = passed();
            run.capacity = Some(capacity(largest));
            run
        };
        let reason = "(too small for one run a side: several runs are needed)";
        for (to, has_reason) in [(1_500, false), (1_350, true), (1_850, true), (1_000, false)] {
            let text = compare(&[search(1_600)], &[search(to)], TOLERANCE).text;
            assert_eq!(text.contains(reason), has_reason, "{to}:\n{text}");
        }
        let five = |largest| [(); 5].map(|()| search(largest));
        let comparison = compare(&five(1_600), &five(1_350), TOLERANCE);
        assert_eq!(comparison.verdict, Outcome::Worse, "{}", comparison.text);
        let load = Load {
            median_ms: 40.0,
            noise: 0.0,
            ..LARGE
        };
        let slower = Load {
            median_ms: 46.0,
            ..load
        };
        let text = compare(&runs(load, 0..1), &runs(slower, 1..2), TOLERANCE).text;
        assert!(text.contains(reason), "{text}");
    }

    #[test]
    fn samples_beyond_a_percentile_are_rounded_down() {
        let mut few = passed();
        let Some((_, Metric::Trend(trend))) =
            (few.metrics.0.iter_mut()).find(|(name, _)| name == "tick_delay")
        else {
            panic!("a trend");
        };
        trend.count = 196;
        let text = compare(&[few.clone()], &[few], TOLERANCE).text;
        assert!(
            text.contains("(9 samples beyond it, 10 are needed)"),
            "{text}"
        );
    }

    #[test]
    fn rates_capacities_and_skipped_ticks_have_noise_of_their_own() {
        let rate = |passes| Metric::Rate {
            passes,
            total: 10_000,
            value: None,
        };
        let with_rate = |passes| {
            let mut run = passed();
            set(&mut run, "moves_in_time", rate(passes));
            run
        };
        let rates = |from, to| compare(&[with_rate(from)], &[with_rate(to)], TOLERANCE).verdict;
        assert_eq!(rates(9_800, 9_750), Outcome::Same);
        assert_eq!(rates(9_800, 9_300), Outcome::Worse);
        assert_eq!(rates(9_300, 9_800), Outcome::Better);
        let search = |largest: usize| {
            let mut run = passed();
            run.capacity = Some(capacity(largest));
            run
        };
        let searches = |from, to| compare(&[search(from)], &[search(to)], TOLERANCE).verdict;
        assert_eq!(searches(1_600, 1_500), Outcome::Same);
        assert_eq!(searches(1_600, 100), Outcome::Worse);
        let skipped = |value| Metric::Counter {
            value,
            unit: Unit::Count,
            by_packet: Default::default(),
        };
        let few = changed(|run| set(run, "ticks_skipped", skipped(9)));
        assert_eq!(few.verdict, Outcome::Same);
        let many = changed(|run| set(run, "ticks_skipped", skipped(60)));
        assert_eq!(many.worse, ["ticks_skipped"]);
    }
}
