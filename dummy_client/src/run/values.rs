//! The values of all metrics, from counters and samples.

use crate::measurement::{Measurement, Samples};
use crate::metrics::series::Second;
use crate::metrics::{Counter, Kind, Registry, TickSeries};
use crate::report::{MAX_EXACT, Metric, Metrics, Point, Values};
use std::collections::BTreeMap;
use std::time::Duration;

/// The metrics of these counters and samples. `lagging`: users without the newest tick, and without any, by
/// series.
pub(super) fn metrics(
    registry: &Registry,
    measurement: &Measurement,
    counts: &[u64],
    samples: &Samples,
    lagging: &[(u64, u64)],
) -> Metrics {
    let mut counts = counts.to_vec();
    let mut gauges = vec![None; registry.gauges()];
    for (index, series) in registry.ticks().iter().enumerate() {
        let totals = samples.ticks[index];
        counts[series.skipped.0] = totals.skipped;
        counts[series.synthetic.0] = totals.synthetic;
        if let Some(&(lagging, without)) = lagging.get(index) {
            counts[series.lagging.0.0] = lagging;
            counts[series.without.0.0] = without;
        }
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        gauges[series.period.0] = measurement.period(TickSeries(index)).map(millis);
        let is_measured = !samples.trends[series.delay.0].is_empty();
        gauges[series.longest_gap.0] = is_measured.then_some(millis(totals.longest_gap));
    }
    let values = Values {
        counters: &counts,
        trends: &samples.trends,
        gauges: &gauges,
    };
    let definitions = registry.definitions().iter();
    let mut metrics: Vec<(String, Metric)> = definitions
        .map(|definition| (definition.name.clone(), Metric::new(definition, values)))
        .collect();
    if let Some((
        _,
        Metric::Counter {
            value, by_packet, ..
        },
    )) = metrics
        .iter_mut()
        .find(|(name, _)| name == "packets_received")
    {
        *by_packet = by_label(registry, &counts, *value);
    }
    Metrics(metrics)
}

/// The received packets by label, and as `other` those without a label.
fn by_label(registry: &Registry, counts: &[u64], received: u64) -> BTreeMap<String, u64> {
    let mut by_label = BTreeMap::new();
    let mut labelled = 0_u64;
    for (_, label, counter) in registry.packets() {
        let count = counts[counter.0].min(MAX_EXACT);
        labelled = labelled.saturating_add(count);
        let sum = by_label.entry(label.to_string()).or_insert(0_u64);
        *sum = sum.saturating_add(count).min(MAX_EXACT);
    }
    let others = received.saturating_sub(labelled);
    if !by_label.is_empty() && others > 0 {
        *by_label.entry("other".into()).or_default() += others;
    }
    by_label
}

/// What a reader may take for checked and is not.
pub(super) fn not_checked(
    registry: &Registry,
    measurement: &Measurement,
    counts: &[u64],
) -> Vec<String> {
    let mut sentences = Vec::new();
    for (index, series) in registry.ticks().iter().enumerate() {
        let name = &series.name;
        if counts[series.received.0] == 0 {
            sentences.push(format!(
                "no {name} was received: order, gaps and delay of {name}s were not checked"
            ));
        } else if measurement.period(TickSeries(index)).is_none() {
            sentences.push(format!(
                "too few {name}s were received to know their schedule: delays and skipped {name}s were not \
                 checked"
            ));
        }
    }
    sentences
}

/// The failures of a run that received packets, and nothing that it expected: packets of another game are no proof.
/// `own`: the definitions of the scenario begin there. `has_checked`: a bot has called a check.
pub(super) fn nothing_checked(
    registry: &Registry,
    own: usize,
    counts: &[u64],
    samples: &Samples,
    has_checked: bool,
) -> Vec<String> {
    let is_zero = |counter: Counter| counts[counter.0] == 0;
    let expected = registry.expectations();
    let missing = expected.filter(|(counter, _)| is_zero(*counter));
    let mut failures: Vec<String> = missing.map(|(_, failure)| failure.into()).collect();
    let ticks = registry.ticks().iter().map(|series| series.received);
    let requests = registry.requests().iter().map(|series| series.sent);
    let mut series = ticks.chain(requests).peekable();
    let has_series = series.peek().is_some();
    let mut own = registry.definitions()[own..].iter();
    let has_event = own.any(|one| match &one.kind {
        Kind::Trend(trend) => !samples.trends[trend.0].is_empty(),
        Kind::Rate(rate) => !is_zero(rate.total),
        _ => false,
    });
    if has_series && series.all(is_zero) && !has_event && !has_checked {
        let failure = "nothing was checked: no tick was received, and no request was sent";
        failures.push(failure.into());
    }
    failures
}

/// The names of the trends, by index.
pub(super) fn trend_names(registry: &Registry) -> Vec<String> {
    let definitions = registry.definitions().iter();
    let trends = definitions.filter(|one| matches!(one.kind, Kind::Trend(_)));
    trends.map(|one| one.name.clone()).collect()
}

/// A point of the timeline. `names`: those of the trends.
pub(super) fn point(second: &Second, names: &[String]) -> Point {
    Point {
        at_secs: second.at_secs,
        sessions: second.sessions,
        sessions_lost: second.sessions_lost,
        packets_per_sec: second.packets_per_sec,
        bytes_per_sec: second.bytes_per_sec,
        trends: second
            .trends
            .iter()
            .map(|(trend, value)| (names[*trend].clone(), *value))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Unit;
    use std::time::Instant;

    /// What a scenario has recorded that registers one of each.
    fn failures(record: impl Fn(&mut Vec<u64>, &mut Samples), has_checked: bool) -> Vec<String> {
        let mut registry = Registry::default();
        registry.counter("packets_received", Unit::Count);
        registry.trend("connect_time", "");
        registry.tick_series("tick");
        registry.rate("moves_in_time");
        registry.trend("move_rtt", "");
        let mut samples = Measurement::new(&registry, Instant::now()).run;
        samples.trends[0].record(Duration::ZERO, 1);
        let mut counts = vec![0; registry.counters()];
        counts[0] = 9;
        record(&mut counts, &mut samples);
        nothing_checked(&registry, 2, &counts, &samples, has_checked)
    }

    #[test]
    fn run_without_a_tick_a_request_or_another_event_has_checked_nothing() {
        assert_eq!(failures(|_, _| {}, false).len(), 1);
        assert_eq!(failures(|_, _| {}, true), [""; 0]);
        let trend = |_: &mut Vec<u64>, samples: &mut Samples| {
            let last = samples.trends.last_mut().expect("a trend");
            last.record(Duration::ZERO, 1);
        };
        assert_eq!(failures(trend, false), [""; 0]);
        let rate = |counts: &mut Vec<u64>, _: &mut Samples| *counts.last_mut().expect("a rate") = 1;
        assert_eq!(failures(rate, false), [""; 0]);
    }

    #[test]
    fn expected_counter_that_stays_0_is_a_failure() {
        let mut registry = Registry::default();
        registry.expected("hellos_received", "no hello was received");
        let samples = Measurement::new(&registry, Instant::now()).run;
        let failures = |hellos| nothing_checked(&registry, 0, &[hellos], &samples, true);
        assert_eq!(failures(0), ["no hello was received"]);
        assert_eq!(failures(1), [""; 0]);
    }

    #[test]
    fn packets_of_one_label_are_added_and_the_others_are_counted() {
        let mut registry = Registry::default();
        registry.packet(1, "moved");
        registry.packet(2, "moved");
        registry.packet(3, "hello");
        registry.packet(3, "hello");
        registry.check_names().unwrap();
        let by_label = |counts: &[u64], received| by_label(&registry, counts, received);
        let expected = |counts: &[(&str, u64)]| -> BTreeMap<String, u64> {
            let counts = counts
                .iter()
                .map(|(label, count)| (label.to_string(), *count));
            counts.collect()
        };
        let all = expected(&[("moved", 5), ("hello", 4)]);
        assert_eq!(by_label(&[2, 3, 4], 9), all);
        let some = expected(&[("moved", 5), ("hello", 4), ("other", 7)]);
        assert_eq!(by_label(&[2, 3, 4], 16), some);
        registry.packet(3, "bye");
        let error = registry.check_names().unwrap_err();
        assert!(error.message.contains("packet 3"), "{error}");
    }
}
