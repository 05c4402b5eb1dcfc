//! One report of the parts of a run that several clients made with `--share I/N`.

use crate::assertion::Assertion;
use crate::config::Share;
use crate::error::Error;
use crate::report::{
    ClientHealth, CloseMessageCount, MAX_EXACT, Metric, Metrics, OtherFailures, Others, Point,
    PointTrend, ReasonCount, Report, Sessions, TrendValue, Verdict,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included};

/// Makes one report of the reports of all shares of a run.
///
/// | part | merged |
/// |---|---|
/// | counters, checks, rates, users, reasons, close messages | added |
/// | trends | histograms are added, and the percentiles are of the sum |
/// | gauges | the largest value |
/// | timeline | by second since the start of each part: counts and rates are added. `p50`, `p99` and `max` of a second are the largest of the parts, because percentiles cannot be added |
/// | client | the longest times and the busiest loop of any part; cores and own limits are added |
/// | machine | the first part's; hosts and systems are listed |
/// | failed checks | of the sums |
/// | assertions | evaluated on the merged metrics |
/// | not checked | what no part checked |
///
/// The verdict is `failed` if a part failed a check or a merged assertion is broken, else `client_limited` if the
/// client of any part was, else `ok`.
///
/// # Errors
/// The shares are not distinct and complete, the parts differ in scenario, settings, seed or metrics, or a part is
/// an attack run or a capacity search. Exit status 2.
pub fn merge(mut parts: Vec<Report>) -> Result<Report, Error> {
    check_shares(&parts)?;
    parts.sort_by_key(|part| share_of(part).map(Share::index));
    for part in &parts {
        check_alike(&parts[0], part)?;
    }
    let Some(first) = parts.first() else {
        return Err(Error::usage("no report to merge"));
    };
    let mut merged = Report {
        schema: first.schema.clone(),
        schema_version: first.schema_version,
        run: first.run.clone(),
        machine: first.machine.clone(),
        metrics: metrics(&parts)?,
        sessions: sessions(&parts),
        client: client(&parts),
        timeline: timeline(&parts),
        ..Report::default()
    };
    let starts = parts.iter().map(|part| part.run.started_at.clone());
    merged.run.started_at = starts.min().unwrap_or_default();
    merged.run.elapsed_secs = largest(&parts, |part| part.run.elapsed_secs);
    merged.run.share = None;
    merged.run.host = list(&parts, |part| &part.run.host);
    merged.run.addr = list(&parts, |part| &part.run.addr);
    merged.run.version = list(&parts, |part| &part.run.version);
    merged.machine.system = list(&parts, |part| &part.machine.system);
    reasons(&parts, &mut merged);
    verdict(&parts, &mut merged);
    Ok(merged)
}

fn share_of(part: &Report) -> Option<Share> {
    part.run.share.as_deref()?.parse().ok()
}

fn check_shares(parts: &[Report]) -> Result<(), Error> {
    let mut found = BTreeSet::new();
    let mut expected = None;
    for part in parts {
        let Some(share) = share_of(part) else {
            return Err(Error::usage(match &part.run.share {
                Some(share) => format!("{share:?} is not a share: expected I/N"),
                None => "a report is not of one share: it was made without --share".into(),
            }));
        };
        let count = *expected.get_or_insert(share.count());
        if count != share.count() {
            return Err(Error::usage(format!(
                "the shares are of different numbers of parts: 1/{count} and {share}"
            )));
        }
        if !found.insert(share.index()) {
            return Err(Error::usage(format!("the share {share} is there twice")));
        }
    }
    let count = expected.unwrap_or(0);
    // As many different shares as there are: all of them.
    if found.len() < count {
        let missing = (0..count).find(|index| !found.contains(index));
        return Err(Error::usage(format!(
            "the share {}/{count} is missing",
            missing.unwrap_or(0) + 1
        )));
    }
    Ok(())
}

fn check_alike(first: &Report, part: &Report) -> Result<(), Error> {
    let differ = |name: &str, from: &dyn std::fmt::Display, to: &dyn std::fmt::Display| {
        Err(Error::usage(format!(
            "the parts are not of one run: {name} is {from} in share {} and {to} in share {}",
            share_text(first),
            share_text(part)
        )))
    };
    if first.run.scenario != part.run.scenario {
        return differ("the scenario", &first.run.scenario, &part.run.scenario);
    }
    if first.run.seed != part.run.seed {
        return differ("the seed", &first.run.seed, &part.run.seed);
    }
    if let Some((name, from, to)) = first.different_settings(part).into_iter().next() {
        return differ(&name, &from, &to);
    }
    for (name, is_there) in [
        ("an attack run", part.attack.is_some()),
        ("a capacity search", part.capacity.is_some()),
    ] {
        if is_there {
            return Err(Error::usage(format!("{name} cannot be merged")));
        }
    }
    Ok(())
}

fn share_text(part: &Report) -> &str {
    part.run.share.as_deref().unwrap_or("1/1")
}

fn metrics(parts: &[Report]) -> Result<Metrics, Error> {
    let mut merged = parts[0].metrics.clone();
    for part in &parts[1..] {
        let names = |metrics: &Metrics| -> BTreeSet<String> {
            metrics.iter().map(|(name, _)| name.into()).collect()
        };
        let (known, new) = (names(&merged), names(&part.metrics));
        if let Some(name) = known.symmetric_difference(&new).next() {
            return Err(Error::usage(format!(
                "the parts are not of one run: the metric {name:?} is not in each part"
            )));
        }
        for (name, metric) in &mut merged.0 {
            let other = part.metrics.get(name);
            if !other.is_some_and(|other| add(metric, other)) {
                return Err(Error::usage(format!(
                    "the parts are not of one run: the metric {name:?} has different types"
                )));
            }
        }
    }
    Ok(merged)
}

fn sum(a: u64, b: u64) -> u64 {
    a.saturating_add(b).min(MAX_EXACT)
}

/// Returns `false` if the types differ.
fn add(metric: &mut Metric, other: &Metric) -> bool {
    match (metric, other) {
        (
            Metric::Counter {
                value,
                unit,
                by_packet,
            },
            Metric::Counter {
                value: other,
                unit: other_unit,
                by_packet: other_packets,
            },
        ) if unit == other_unit => {
            *value = sum(*value, *other);
            for (packet, count) in other_packets {
                let value = by_packet.entry(packet.clone()).or_default();
                *value = sum(*value, *count);
            }
        }
        (Metric::Check { value, .. }, Metric::Check { value: other, .. }) => {
            *value = sum(*value, *other);
        }
        (
            Metric::Rate {
                passes,
                total,
                value,
            },
            Metric::Rate {
                passes: other_passes,
                total: other_total,
                ..
            },
        ) => {
            *passes = sum(*passes, *other_passes);
            *total = sum(*total, *other_total);
            *value = (*total > 0).then(|| *passes as f64 / *total as f64);
        }
        (
            Metric::Gauge { value, unit },
            Metric::Gauge {
                value: other,
                unit: other_unit,
            },
        ) if unit == other_unit => {
            *value = value.iter().chain(other).copied().reduce(f64::max);
        }
        (Metric::Trend(trend), Metric::Trend(other)) => *trend = add_trends(trend, other),
        _ => return false,
    }
    true
}

/// The histograms hold three digits of each sample; the mean, the shortest and the longest sample are exact.
fn add_trends(one: &TrendValue, other: &TrendValue) -> TrendValue {
    let mut histogram = one.to_histogram();
    histogram.add(&other.to_histogram());
    let mut merged = TrendValue::new(&one.title, &histogram);
    let measured: Vec<_> = [one, other]
        .into_iter()
        .filter(|part| part.count > 0)
        .collect();
    let total: f64 = measured.iter().map(|part| part.count as f64).sum();
    if total > 0.0 {
        let weighted = measured.iter().map(|part| part.mean * part.count as f64);
        merged.mean = weighted.sum::<f64>() / total;
        merged.min = measured
            .iter()
            .map(|part| part.min)
            .fold(f64::MAX, f64::min);
        merged.max = measured.iter().map(|part| part.max).fold(0.0, f64::max);
    }
    merged
}

fn sessions(parts: &[Report]) -> Sessions {
    let mut total = Sessions::default();
    for part in parts {
        // Every field, so that a new one is not forgotten.
        let Sessions {
            requested,
            connected,
            never_connected,
            max_connected,
            connected_at_end,
            disconnected_at_end,
            not_reconnected,
            limited_by_client,
            failed_connects,
            refused,
            lost,
            reconnected,
            reconnected_late,
            closed,
            failed_logins,
            server_silent_secs,
        } = part.sessions;
        let counts = [
            (&mut total.requested, requested),
            (&mut total.connected, connected),
            (&mut total.never_connected, never_connected),
            (&mut total.max_connected, max_connected),
            (&mut total.connected_at_end, connected_at_end),
            (&mut total.disconnected_at_end, disconnected_at_end),
            (&mut total.not_reconnected, not_reconnected),
            (&mut total.limited_by_client, limited_by_client),
        ];
        for (field, value) in counts {
            *field = field.saturating_add(value);
        }
        let counts = [
            (&mut total.failed_connects, failed_connects),
            (&mut total.refused, refused),
            (&mut total.lost, lost),
            (&mut total.reconnected, reconnected),
            (&mut total.reconnected_late, reconnected_late),
            (&mut total.closed, closed),
            (&mut total.failed_logins, failed_logins),
        ];
        for (field, value) in counts {
            *field = sum(*field, value);
        }
        total.server_silent_secs = total.server_silent_secs.max(server_silent_secs);
    }
    total
}

fn client(parts: &[Report]) -> ClientHealth {
    let health = |value: fn(&ClientHealth) -> f64| largest(parts, |part| value(&part.client));
    let cpu_us: f64 = (parts.iter())
        .map(|part| part.client.cpu_us_per_packet * packets(part))
        .sum();
    let received: f64 = parts.iter().map(packets).sum();
    let reasons = parts.iter().flat_map(|part| {
        let share = share_text(part);
        let reasons = part.client.reasons.iter();
        reasons.map(move |reason| format!("share {share}: {reason}"))
    });
    ClientHealth {
        client_limited: parts.iter().any(|part| part.client.client_limited),
        reasons: reasons.collect(),
        worst_stall_ms: health(|client| client.worst_stall_ms),
        worst_loop_lag_ms: health(|client| client.worst_loop_lag_ms),
        worst_late_send_ms: health(|client| client.worst_late_send_ms),
        busiest_loop: health(|client| client.busiest_loop),
        cpu_cores: parts.iter().map(|part| part.client.cpu_cores).sum(),
        cpu_us_per_packet: if received > 0.0 {
            cpu_us / received
        } else {
            0.0
        },
        throttled_ms: health(|client| client.throttled_ms),
        own_limits: parts.iter().map(|part| part.client.own_limits).fold(0, sum),
    }
}

fn packets(part: &Report) -> f64 {
    part.metrics.count("packets_received") as f64
}

/// A point of the sum for each second that any part has. Where a part has coarser points than another, the
/// sessions and the rates of each point stay for all of its seconds; its trends are in its last second.
fn timeline(parts: &[Report]) -> Vec<Point> {
    // The points of a long run are further apart, and the same in each part that ran as long.
    let gap = |part: &Report| {
        let times = part.timeline.windows(2);
        let gaps = times.map(|pair| pair[1].at_secs - pair[0].at_secs);
        gaps.filter(|gap| *gap > 0.0).reduce(f64::min)
    };
    let step = parts.iter().filter_map(gap).fold(1.0, f64::max).round();
    let step_of = |point: &Point| (point.at_secs / step).round() as i64;
    let all = parts.iter().flat_map(|part| &part.timeline);
    let mut points: BTreeMap<i64, Vec<&Point>> =
        all.map(|point| (step_of(point), Vec::new())).collect();
    for part in parts {
        let mut last = i64::MIN;
        // The later one of two points of one part in one step: it has the newer counts.
        let by_step: BTreeMap<i64, &Point> = (part.timeline.iter())
            .map(|point| (step_of(point), point))
            .collect();
        for (at, point) in by_step {
            // A point is of the time since the point before it.
            for (_, list) in points.range_mut((Excluded(last), Included(at))) {
                list.push(point);
            }
            last = at;
        }
    }
    let mut lost_before = 0;
    let merged = points.into_iter().map(|(at, points)| {
        let mut merged = Point::default();
        for point in points {
            let is_of_this_step = step_of(point) == at;
            if is_of_this_step {
                merged.at_secs = merged.at_secs.max(point.at_secs);
            }
            merged.sessions = merged.sessions.saturating_add(point.sessions);
            merged.sessions_lost = sum(merged.sessions_lost, point.sessions_lost);
            merged.packets_per_sec += point.packets_per_sec;
            merged.bytes_per_sec += point.bytes_per_sec;
            for (name, trend) in point.trends.iter().filter(|_| is_of_this_step) {
                let total = merged.trends.entry(name.clone()).or_default();
                *total = PointTrend {
                    count: sum(total.count, trend.count),
                    p50: total.p50.max(trend.p50),
                    p99: total.p99.max(trend.p99),
                    max: total.max.max(trend.max),
                };
            }
        }
        // A part that has ended has no points, and its losses stay.
        merged.sessions_lost = merged.sessions_lost.max(lost_before);
        lost_before = merged.sessions_lost;
        merged
    });
    merged.collect()
}

fn reasons(parts: &[Report], merged: &mut Report) {
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    let mut messages: BTreeMap<(u16, &str), u64> = BTreeMap::new();
    for part in parts {
        for ReasonCount { reason, count } in &part.disconnects {
            let total = reasons.entry(reason).or_default();
            *total = sum(*total, *count);
        }
        for CloseMessageCount { code, text, count } in &part.close_messages {
            let total = messages.entry((*code, text)).or_default();
            *total = sum(*total, *count);
        }
    }
    let disconnects = reasons.into_iter().map(|(reason, count)| ReasonCount {
        reason: reason.into(),
        count,
    });
    merged.disconnects = disconnects.collect();
    merged
        .disconnects
        .sort_by_key(|one| std::cmp::Reverse(one.count));
    let messages = messages.into_iter();
    let messages = messages.map(|((code, text), count)| CloseMessageCount {
        code,
        text: text.into(),
        count,
    });
    merged.close_messages = messages.collect();
    (merged.close_messages).sort_by_key(|one| std::cmp::Reverse(one.count));
    let others = |of: fn(&Report) -> Others| {
        let others = parts.iter().map(of);
        others.fold(Others::default(), |total, part| Others {
            // The parts may have the same kinds.
            kinds_at_least: total.kinds_at_least.max(part.kinds_at_least),
            count: sum(total.count, part.count),
        })
    };
    merged.other_disconnects = others(|part| part.other_disconnects);
    merged.other_close_messages = others(|part| part.other_close_messages);
}

fn verdict(parts: &[Report], merged: &mut Report) {
    let first = &parts[0];
    let is_unchecked = |sentence: &&String| {
        let mut parts = parts.iter();
        parts.all(|part| part.not_checked.contains(sentence))
    };
    merged.not_checked = (first.not_checked.iter().filter(is_unchecked).cloned()).collect();
    let of_parts = parts.iter().flat_map(|part| {
        let share = share_text(part);
        let failures = part.uncounted_failures();
        failures.map(move |failure| format!("share {share}: {failure}"))
    });
    let others = OtherFailures {
        excusable: of_parts.collect(),
        ..OtherFailures::default()
    };
    merged.evaluate(&others, |merged, own_lag_ms| {
        let assertions = first.assertions.iter().filter_map(Assertion::of_result);
        let results = assertions.map(|assertion| assertion.evaluate(merged, own_lag_ms));
        results.collect()
    });
    let has_failed = |part: &Report| {
        // An assertion that is broken in a part may hold in the sum.
        part.verdict == Verdict::Failed && (!part.failures.is_empty() || part.all_hold())
    };
    // A client that stalled excuses no failure of another part.
    if parts.iter().any(has_failed) {
        merged.verdict = Verdict::Failed;
    }
}

fn largest(parts: &[Report], value: impl Fn(&Report) -> f64) -> f64 {
    parts.iter().map(value).fold(0.0, f64::max)
}

/// The different texts, in the order of the shares.
fn list(parts: &[Report], text: impl Fn(&Report) -> &String) -> String {
    let mut texts: Vec<&str> = Vec::new();
    for part in parts {
        let text = text(part).as_str();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::capacity::{CapacityReport, Outcome};
    use crate::metrics::{Histogram, Unit};
    use crate::report::samples;

    fn part(share: &str, delays_ms: std::ops::Range<u64>) -> Report {
        let mut report = samples::report();
        report.run.share = Some(share.into());
        let mut histogram = Histogram::default();
        for ms in delays_ms {
            histogram.record_micros(ms * 1_000, 1);
        }
        for (name, metric) in &mut report.metrics.0 {
            if name == "tick_delay" {
                *metric = Metric::Trend(TrendValue::new("tick against the schedule", &histogram));
            }
        }
        report
    }

    fn pass(report: &mut Report) {
        report.verdict = Verdict::Ok;
        report.failures.clear();
        report.sessions.lost = 0;
        report.sessions.never_connected = 0;
        report.assertions[0].holds = true;
        for (_, metric) in &mut report.metrics.0 {
            if let Metric::Check { value, .. } = metric {
                *value = 0;
            }
        }
    }

    #[test]
    fn histograms_are_added_and_percentiles_are_of_the_sum() {
        // Percentiles of 1 to 100 ms and of 101 to 1,000 ms; their averages would be wrong.
        let parts = vec![part("1/2", 1..101), part("2/2", 101..1_001)];
        let merged = merge(parts).unwrap();
        let trend = merged.metrics.trend("tick_delay").unwrap();
        assert_eq!(trend.count, 1_000);
        for (value, expected) in [
            (trend.p50, 500.0),
            (trend.p90, 900.0),
            (trend.p99, 990.0),
            (trend.max, 1_000.0),
            (trend.min, 1.0),
            (trend.mean, 500.5),
        ] {
            assert!((value / expected - 1.0).abs() < 2e-3, "{value} {expected}");
        }
    }

    #[test]
    fn counts_are_added_and_failures_are_of_the_sums() {
        let mut parts = vec![part("2/2", 1..5), part("1/2", 1..5)];
        parts[0].run.host = "other".into();
        parts[0].sessions.server_silent_secs = 3.0;
        parts[0].timeline.truncate(3);
        parts[0].run.started_at = "2026-11-28T11:59:59Z".into();
        let merged = merge(parts).unwrap();
        assert_eq!(merged.run.host, "host, other");
        assert_eq!(merged.run.started_at, "2026-11-28T11:59:59Z");
        assert_eq!(merged.run.share, None);
        assert_eq!((merged.sessions.requested, merged.sessions.lost), (20, 4));
        assert_eq!(merged.metrics.count("ticks_received"), 400);
        match merged.metrics.get("packets_received") {
            Some(Metric::Counter { by_packet, .. }) => assert_eq!(by_packet["S_HELLO"], 400),
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            merged.metrics.get("moves_in_time"),
            Some(Metric::Rate { passes: 196, total: 200, value: Some(value) }) if *value == 0.98
        ));
        assert_eq!(
            merged.failures,
            [
                "2 sessions never connected",
                "4 sessions were lost and did not reconnect",
                "2 ticks were missing",
                "4 echoes were lost",
                "no tick arrived for 3.0 s"
            ]
        );
        assert_eq!(merged.disconnects[0].count, 4);
        assert_eq!(
            merged.assertions[0].value,
            Some(10.0),
            "4 sessions, 2 ticks, 4 echoes"
        );
        assert_eq!(merged.verdict, Verdict::Failed);
        let sessions: Vec<_> = merged.timeline.iter().map(|point| point.sessions).collect();
        assert_eq!(sessions, [18, 18, 18, 9, 9]);
        let lost: Vec<_> = (merged.timeline.iter())
            .map(|point| point.sessions_lost)
            .collect();
        assert_eq!(lost, [2, 2, 2, 2, 2]);
        assert_eq!(merged.timeline[0].trends["tick_delay"].count, 80);
        assert_eq!(merged.timeline[0].trends["tick_delay"].p99, 19.8);
    }

    #[test]
    fn the_verdict_is_that_of_one_run() {
        let passed = |share| {
            let mut part = part(share, 1..5);
            pass(&mut part);
            part
        };
        let verdict = |parts| merge(parts).unwrap().verdict;
        assert_eq!(verdict(vec![passed("1/2"), passed("2/2")]), Verdict::Ok);
        let failed = part("2/2", 1..5);
        assert_eq!(
            verdict(vec![passed("1/2"), failed.clone()]),
            Verdict::Failed
        );
        let mut limited = passed("1/2");
        limited.verdict = Verdict::ClientLimited;
        limited.client.client_limited = true;
        assert_eq!(
            verdict(vec![limited.clone(), passed("2/2")]),
            Verdict::ClientLimited
        );
        assert_eq!(verdict(vec![limited, failed]), Verdict::Failed);
        // An assertion about a sum is broken in each part and holds in the whole.
        let asserted = |share, limit| {
            let mut part = passed(share);
            let assertion = &mut part.assertions[0];
            assertion.expr = format!("ticks_received>={limit}");
            assertion.metric = "ticks_received".into();
            assertion.limit = limit;
            assertion.holds = 200.0 >= limit;
            if !assertion.holds {
                part.verdict = Verdict::Failed;
            }
            part
        };
        let both = |limit| verdict(vec![asserted("1/2", limit), asserted("2/2", limit)]);
        assert_eq!((both(300.0), both(500.0)), (Verdict::Ok, Verdict::Failed));
        // A part that checked nothing has failed without a failed check.
        let mut nothing = passed("1/2");
        nothing.verdict = Verdict::Failed;
        assert_eq!(verdict(vec![nothing, passed("2/2")]), Verdict::Failed);
    }

    /// The sums do not show what one part did not check.
    #[test]
    fn a_failure_of_one_part_that_is_not_a_count_is_a_failure_of_the_whole() {
        let mut parts = vec![part("1/2", 1..5), part("2/2", 1..5)];
        parts.iter_mut().for_each(pass);
        parts[1].verdict = Verdict::Failed;
        parts[1].failures = vec!["nothing was checked: no tick was received".into()];
        let merged = merge(parts).unwrap();
        assert_eq!(merged.verdict, Verdict::Failed);
        let line = "share 2/2: nothing was checked: no tick was received";
        assert_eq!(merged.failures, [line]);
    }

    #[test]
    fn a_part_with_coarser_points_counts_in_each_second_of_a_finer_part() {
        let points = |seconds: &[f64]| {
            let points = seconds.iter().map(|at_secs| Point {
                at_secs: *at_secs,
                sessions: 9,
                packets_per_sec: 100.0,
                ..Point::default()
            });
            points.collect::<Vec<_>>()
        };
        let mut parts = vec![part("1/2", 1..5), part("2/2", 1..5)];
        // Above 2,000 points, a run makes one point of two, and goes on with points of one second.
        parts[0].timeline = points(&[2.01, 4.01, 5.01, 6.01]);
        parts[1].timeline = points(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        let merged = merge(parts).unwrap().timeline;
        let levels: Vec<_> = (merged.iter())
            .map(|point| (point.at_secs, point.sessions, point.packets_per_sec))
            .collect();
        assert_eq!(
            levels,
            [
                (1.0, 18, 200.0),
                (2.01, 18, 200.0),
                (3.0, 18, 200.0),
                (4.01, 18, 200.0),
                (5.01, 18, 200.0),
                (6.01, 9, 100.0)
            ]
        );
    }

    #[test]
    fn parts_that_are_not_of_one_run_are_an_error() {
        let error = |parts: Vec<Report>| {
            let error = merge(parts).unwrap_err();
            assert_eq!(error.exit_status, 2);
            error.message
        };
        let changed = |change: fn(&mut Report)| {
            let mut other = part("2/2", 1..5);
            change(&mut other);
            error(vec![part("1/2", 1..5), other])
        };
        let with = |shares: &[&str]| shares.iter().map(|share| part(share, 1..5)).collect();
        assert!(error(Vec::new()).contains("no report"));
        for (shares, message) in [
            (&["1/2"][..], "the share 2/2 is missing"),
            (&["2/2", "2/2"], "the share 2/2 is there twice"),
            (&["1/2", "2/3"], "different numbers of parts"),
            (&["0/2", "1/2"], "\"0/2\" is not a share"),
            (&["x", "1/2"], "\"x\" is not a share"),
            (&["1/1000"], "the share 2/1000 is missing"),
            (&["1/4294967295"], "\"1/4294967295\" is not a share"),
        ] {
            let error = error(with(shares));
            assert!(error.contains(message), "{error}");
        }
        for (change, message) in [
            (
                (|part| part.run.share = None) as fn(&mut Report),
                "without --share",
            ),
            (|part| part.run.seed = "7".into(), "the seed is"),
            (
                |part| part.run.scenario = "x".into(),
                "the scenario is game",
            ),
            (
                |part| {
                    part.run.settings.insert("echo_hz".into(), 1.into());
                },
                "echo_hz is 0.5 in share 1/2 and 1 in share 2/2",
            ),
            (
                |part| {
                    part.run.settings.insert("new".into(), 1.into());
                },
                "new is null",
            ),
            (|part| part.assertions.clear(), "assertions"),
            (
                |part| part.attack = Some(Default::default()),
                "an attack run cannot be merged",
            ),
            (
                |part| {
                    part.capacity = Some(CapacityReport {
                        outcome: Outcome::None,
                        largest: None,
                        steps: Vec::new(),
                    })
                },
                "a capacity search cannot be merged",
            ),
            (
                |part| {
                    part.metrics.0.pop();
                },
                "\"moves_in_time\" is not in each part",
            ),
            (
                |part| {
                    part.metrics.0[0].1 = Metric::Gauge {
                        value: None,
                        unit: Unit::Count,
                    };
                },
                "\"packets_received\" has different types",
            ),
        ] {
            let error = changed(change);
            assert!(error.contains(message), "{message} in {error}");
        }
    }

    #[test]
    fn counters_saturate_where_javascript_does() {
        let mut parts = vec![part("1/2", 1..5), part("2/2", 1..5)];
        for part in &mut parts {
            for (_, metric) in &mut part.metrics.0 {
                if let Metric::Counter { value, .. } = metric {
                    *value = MAX_EXACT;
                }
            }
        }
        assert_eq!(
            merge(parts).unwrap().metrics.count("echoes_sent"),
            MAX_EXACT
        );
    }
}
