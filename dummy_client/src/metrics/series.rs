//! One point a second. The delay of a tick belongs to the second in which the tick was due.

use super::histogram::Histogram;
use super::registry::Trend;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// One second of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Second {
    pub at_secs: f64,
    pub sessions: usize,
    pub sessions_lost: u64,
    pub packets_per_sec: f64,
    pub bytes_per_sec: f64,
    /// Trends with samples.
    pub trends: BTreeMap<usize, PointTrend>,
}

/// A trend in one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PointTrend {
    /// Samples.
    pub count: u64,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p99: f64,
    /// Milliseconds.
    pub max: f64,
}

/// The points of a run, and the seconds that delays may still be added to. The last of these goes on.
#[derive(Debug)]
pub(crate) struct TimeSeries {
    started_at: Instant,
    points: Vec<Second>,
    open: VecDeque<OpenSecond>,
    spare: Vec<Histogram>,
}

#[derive(Debug, Default)]
struct OpenSecond {
    /// Set at its end.
    point: Option<Second>,
    until: Option<Instant>,
    delays: BTreeMap<usize, Histogram>,
}

/// Seconds that stay open while nothing arrives that tells their delays.
const MAX_OPEN: usize = 60;
/// A delay that is known later than this raises the maximum of its point alone.
const GRACE: Duration = Duration::from_secs(10);
/// A longer run has coarser points.
const MAX_POINTS: usize = 2_000;

impl TimeSeries {
    pub fn new(started_at: Instant) -> Self {
        Self {
            started_at,
            points: Vec::new(),
            open: VecDeque::from([OpenSecond::default()]),
            spare: Vec::new(),
        }
    }

    /// `count` sessions waited this long for something that was due then.
    pub fn delay(&mut self, trend: Trend, due: Instant, delay: Duration, count: u64) {
        let secs = due.saturating_duration_since(self.started_at).as_secs_f64();
        if self.points.last().is_some_and(|point| secs < point.at_secs) {
            let place = self.points.partition_point(|point| point.at_secs <= secs);
            if let Some(point) = self.points.get_mut(place) {
                let max = &mut point.trends.entry(trend.0).or_default().max;
                *max = max.max(delay.as_secs_f64() * 1e3);
            }
            return;
        }
        let has_ended = |second: &OpenSecond| second.until.is_some_and(|until| until <= due);
        let place = self.open.partition_point(has_ended);
        if let Some(second) = self.open.get_mut(place) {
            let spare = &mut self.spare;
            let delays = second.delays.entry(trend.0);
            let delays = delays.or_insert_with(|| spare.pop().unwrap_or_default());
            delays.record(delay, count);
        }
    }

    /// Ends a second, and returns its point as far as it is known. A delay is known late: until then, the point has
    /// that of the newest second that has one.
    pub fn end_second(&mut self, mut point: Second) -> Second {
        if let Some(second) = self.open.back_mut() {
            let length = Duration::try_from_secs_f64(point.at_secs).unwrap_or_default();
            second.until = Some(self.started_at + length);
            second.point = Some(point.clone());
        }
        for (trend, delays) in self.open.iter().rev().flat_map(|second| &second.delays) {
            let known = point.trends.entry(*trend);
            known.or_insert_with(|| point_trend(delays));
        }
        self.open.push_back(OpenSecond::default());
        point
    }

    /// Closes the seconds whose delays are complete: those up to `evaluated_up_to`, or all of them.
    pub fn close(&mut self, evaluated_up_to: Instant, is_end: bool) {
        while let Some(until) = self.open.front().and_then(|second| second.until) {
            let is_full = self.open.len() > MAX_OPEN;
            if !is_end && !is_full && until + GRACE > evaluated_up_to {
                return;
            }
            let Some(mut second) = self.open.pop_front() else {
                return;
            };
            let mut point = second.point.take().unwrap_or_default();
            second.add_delays(&mut point);
            self.spare
                .extend(second.delays.into_values().map(|mut delays| {
                    delays.clear();
                    delays
                }));
            self.points.push(point);
            if self.points.len() > MAX_POINTS {
                self.points = self.points.chunks(2).map(merge).collect();
            }
        }
    }

    /// The points of the closed seconds: all of them, after the end of the run.
    pub fn into_points(self) -> Vec<Second> {
        self.points
    }
}

impl OpenSecond {
    fn add_delays(&self, point: &mut Second) {
        for (trend, delays) in &self.delays {
            point.trends.insert(*trend, point_trend(delays));
        }
    }
}

/// The statistics of a point.
pub(crate) fn point_trend(histogram: &Histogram) -> PointTrend {
    PointTrend {
        count: histogram.len(),
        p50: histogram.quantile_ms(0.5),
        p99: histogram.quantile_ms(0.99),
        max: histogram.quantile_ms(1.0),
    }
}

/// One coarser point for two. Its median is the mean of both, each weighted by its samples; its p99 and its
/// maximum are the larger ones.
fn merge(points: &[Second]) -> Second {
    let mut merged = points.last().cloned().unwrap_or_default();
    let count = points.len().max(1) as f64;
    let sum = |of: fn(&Second) -> f64| points.iter().map(of).sum::<f64>();
    merged.packets_per_sec = sum(|point| point.packets_per_sec) / count;
    merged.bytes_per_sec = sum(|point| point.bytes_per_sec) / count;
    merged.trends.clear();
    for (trend, part) in points.iter().flat_map(|point| &point.trends) {
        let whole = merged.trends.entry(*trend).or_default();
        let samples = (whole.count + part.count).max(1) as f64;
        let weighted = whole.p50 * whole.count as f64 + part.p50 * part.count as f64;
        whole.p50 = weighted / samples;
        whole.count = whole.count.saturating_add(part.count);
        whole.p99 = whole.p99.max(part.p99);
        whole.max = whole.max.max(part.max);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Trend = Trend(0);

    fn second(at_secs: f64) -> Second {
        Second {
            at_secs,
            ..Second::default()
        }
    }

    #[test]
    fn a_second_without_samples_does_not_lower_the_median_of_a_coarser_point() {
        let trend = PointTrend {
            count: 10,
            p50: 8.0,
            ..PointTrend::default()
        };
        let busy = Second {
            packets_per_sec: 4.0,
            trends: BTreeMap::from([(0, trend)]),
            ..Second::default()
        };
        let merged = merge(&[busy, Second::default()]);
        assert_eq!((merged.trends[&0].p50, merged.trends[&0].count), (8.0, 10));
        assert_eq!(merged.packets_per_sec, 2.0);
    }

    #[test]
    fn a_delay_is_in_the_second_in_which_it_was_due_however_late_it_is_known() {
        let start = Instant::now();
        let at = |secs: f64| start + Duration::from_secs_f64(secs);
        let ms = Duration::from_millis;
        let mut series = TimeSeries::new(start);
        series.delay(DELAY, at(0.5), ms(1), 1);
        assert_eq!(series.end_second(second(1.0)).trends[&0].count, 1);
        series.delay(DELAY, at(1.2), ms(2), 1);
        series.delay(DELAY, at(0.9), ms(3), 4);
        series.end_second(second(2.0));
        series.close(at(0.9) + GRACE, false);
        assert_eq!(series.points.len(), 0);
        series.close(at(1.0) + GRACE, false);
        assert_eq!(
            (series.points.len(), series.points[0].trends[&0].count),
            (1, 5)
        );
        // Too late for all but the maximum.
        series.delay(DELAY, at(0.0), ms(700), 1);
        assert_eq!(series.points[0].trends[&0].max, 700.0);
        series.close(at(2.0), true);
        let points = series.into_points();
        assert_eq!((points.len(), points[1].trends[&0].count), (2, 1));
    }

    /// The status line shows the latest delays that are known, and not nothing. The point itself gets its own.
    #[test]
    fn a_second_whose_delays_are_not_known_yet_shows_the_newest_ones() {
        let start = Instant::now();
        let at = |secs: f64| start + Duration::from_secs_f64(secs);
        let mut series = TimeSeries::new(start);
        assert!(series.end_second(second(1.0)).trends.is_empty());
        series.delay(DELAY, at(0.5), Duration::from_millis(7), 1);
        assert_eq!(series.end_second(second(2.0)).trends[&0].max.round(), 7.0);
        series.delay(DELAY, at(1.5), Duration::from_millis(9), 1);
        series.delay(DELAY, at(2.5), Duration::from_millis(2), 1);
        assert_eq!(series.end_second(second(3.0)).trends[&0].max.round(), 2.0);
        series.close(at(3.0), true);
        let shown = series.into_points().into_iter();
        let shown: Vec<f64> = shown.map(|point| point.trends[&0].max.round()).collect();
        assert_eq!(shown, [7.0, 9.0, 2.0]);
    }

    #[test]
    fn a_long_run_has_coarser_points() {
        let start = Instant::now();
        let mut series = TimeSeries::new(start);
        for at in 1..=MAX_POINTS + 1 {
            series.end_second(second(at as f64));
            series.close(start, true);
        }
        assert_eq!(series.points.len(), MAX_POINTS / 2 + 1);
    }
}
