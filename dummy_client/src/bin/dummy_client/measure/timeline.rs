//! What each second of a run has brought. A delay belongs to the second in which it was due.

use super::recorder::{Micros, micros, quantile_ms, record};
use super::schedule::MAX_SPREAD;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What one second brought.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
pub struct Second {
    /// Seconds since the start.
    pub at_secs: f64,
    /// Sessions that stood.
    pub sessions: usize,
    pub packets_per_sec: f64,
    pub bytes_per_sec: f64,
    /// Times that a session was lost, since the start.
    pub sessions_lost: u64,
    /// Delays of the ticks that were due in this second, and of slots without one; of none, the
    /// three that follow are 0.
    pub tick_delay_count: u64,
    pub tick_delay_p50_ms: f64,
    pub tick_delay_p99_ms: f64,
    pub tick_delay_max_ms: f64,
    /// Echoes that were answered in this second.
    pub rtt_count: u64,
    pub rtt_p50_ms: f64,
    pub rtt_p99_ms: f64,
    pub rtt_max_ms: f64,
}

/// The seconds that delays may still be added to, the latest last; it lasts.
#[derive(Debug)]
pub struct Timeline {
    started_at: Instant,
    open: VecDeque<OpenSecond>,
    spare: Vec<Micros>,
}

#[derive(Debug, Default)]
struct OpenSecond {
    /// Set when it has ended.
    point: Option<Second>,
    until: Option<Instant>,
    delays: Option<Micros>,
}

/// Seconds that are kept open when nothing comes that could be judged.
const MAX_OPEN: usize = 60;
/// For so long, what comes late is added to its second; what comes later raises the maximum only.
const GRACE: Duration = MAX_SPREAD;
/// Points of the timeline; a longer run has coarser ones.
const MAX_POINTS: usize = 2_000;

impl Timeline {
    /// Nothing yet.
    pub fn new(started_at: Instant) -> Self {
        Self {
            started_at,
            open: VecDeque::from([OpenSecond::default()]),
            spare: Vec::new(),
        }
    }

    /// So many sessions were so late with what was due then. `points` are the closed ones.
    pub fn delay(&mut self, due: Instant, delay: Duration, count: u64, points: &mut [Second]) {
        let secs = due.saturating_duration_since(self.started_at).as_secs_f64();
        if points.last().is_some_and(|point| secs < point.at_secs) {
            let place = points.partition_point(|point| point.at_secs <= secs);
            if let Some(point) = points.get_mut(place) {
                let ms = delay.as_secs_f64() * 1e3;
                point.tick_delay_max_ms = point.tick_delay_max_ms.max(ms);
            }
            return;
        }
        let has_ended = |second: &OpenSecond| second.until.is_some_and(|until| until <= due);
        let place = self.open.partition_point(has_ended);
        if let Some(second) = self.open.get_mut(place) {
            let spare = &mut self.spare;
            let delays = second
                .delays
                .get_or_insert_with(|| spare.pop().unwrap_or_else(micros));
            record(delays, delay, count);
        }
    }

    /// Ends a second, and returns what is known of it by now.
    pub fn end_second(&mut self, mut point: Second) -> Second {
        if let Some(second) = self.open.back_mut() {
            let length = Duration::try_from_secs_f64(point.at_secs).unwrap_or_default();
            second.until = Some(self.started_at + length);
            second.point = Some(point);
            second.show(&mut point);
        }
        self.open.push_back(OpenSecond::default());
        point
    }

    /// Closes the seconds that are complete: all up to this moment is judged.
    pub fn close(&mut self, judged_up_to: Instant, is_end: bool, points: &mut Vec<Second>) {
        loop {
            let is_full = self.open.len() > MAX_OPEN;
            let is_over = |until| is_end || is_full || until + GRACE <= judged_up_to;
            let has_ended = |second: &OpenSecond| second.until.is_some_and(is_over);
            if !self.open.front().is_some_and(has_ended) {
                return;
            }
            let Some(second) = self.open.pop_front() else {
                return;
            };
            let mut point = second.point.unwrap_or_default();
            second.show(&mut point);
            if let Some(mut delays) = second.delays {
                delays.reset();
                self.spare.push(delays);
            }
            points.push(point);
            if points.len() > MAX_POINTS {
                *points = points.chunks(2).map(Second::merge).collect();
            }
        }
    }
}

impl OpenSecond {
    fn show(&self, point: &mut Second) {
        if let Some(delays) = &self.delays {
            point.tick_delay_count = delays.len();
            point.tick_delay_p50_ms = quantile_ms(delays, 0.5);
            point.tick_delay_p99_ms = quantile_ms(delays, 0.99);
            point.tick_delay_max_ms = quantile_ms(delays, 1.0);
        }
    }
}

impl Second {
    /// One coarser point for two. Its medians are means, each weighted by what it is of: a second
    /// in which nothing came says nothing.
    fn merge(points: &[Self]) -> Self {
        let last = points.last().copied().unwrap_or_default();
        let mean = |of: fn(&Self) -> f64, weight: fn(&Self) -> f64| {
            let sum: f64 = points.iter().map(weight).sum();
            let weighted = points.iter().map(|point| of(point) * weight(point));
            weighted.sum::<f64>() / if sum > 0.0 { sum } else { 1.0 }
        };
        let most = |of: fn(&Self) -> f64| points.iter().map(of).fold(0.0, f64::max);
        let sum = |of: fn(&Self) -> u64| points.iter().map(of).fold(0, u64::saturating_add);
        let (ticks, rtts) = (
            |point: &Self| point.tick_delay_count as f64,
            |point: &Self| point.rtt_count as f64,
        );
        Self {
            packets_per_sec: mean(|point| point.packets_per_sec, |_| 1.0),
            bytes_per_sec: mean(|point| point.bytes_per_sec, |_| 1.0),
            tick_delay_count: sum(|point| point.tick_delay_count),
            tick_delay_p50_ms: mean(|point| point.tick_delay_p50_ms, ticks),
            tick_delay_p99_ms: most(|point| point.tick_delay_p99_ms),
            tick_delay_max_ms: most(|point| point.tick_delay_max_ms),
            rtt_count: sum(|point| point.rtt_count),
            rtt_p50_ms: mean(|point| point.rtt_p50_ms, rtts),
            rtt_p99_ms: most(|point| point.rtt_p99_ms),
            rtt_max_ms: most(|point| point.rtt_max_ms),
            ..last
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_without_ticks_does_not_lower_the_median_of_a_coarser_point() {
        let busy = Second {
            tick_delay_count: 10,
            tick_delay_p50_ms: 8.0,
            packets_per_sec: 4.0,
            ..Second::default()
        };
        let merged = Second::merge(&[busy, Second::default()]);
        assert_eq!(merged.tick_delay_p50_ms, 8.0);
        assert_eq!((merged.tick_delay_count, merged.rtt_p50_ms), (10, 0.0));
        assert_eq!(merged.packets_per_sec, 2.0);
    }

    #[test]
    fn a_delay_stands_in_the_second_in_which_it_was_due_however_late_it_is_known() {
        let start = Instant::now();
        let at = |secs: f64| start + Duration::from_secs_f64(secs);
        let ms = Duration::from_millis;
        let (mut timeline, mut points) = (Timeline::new(start), Vec::new());
        timeline.delay(at(0.5), ms(1), 1, &mut points);
        let second = |at_secs| Second {
            at_secs,
            ..Second::default()
        };
        assert_eq!(timeline.end_second(second(1.0)).tick_delay_count, 1);
        timeline.delay(at(1.2), ms(2), 1, &mut points);
        timeline.delay(at(0.9), ms(3), 4, &mut points);
        timeline.end_second(second(2.0));
        timeline.close(at(0.9) + GRACE, false, &mut points);
        assert_eq!(points.len(), 0);
        timeline.close(at(1.0) + GRACE, false, &mut points);
        assert_eq!((points.len(), points[0].tick_delay_count), (1, 5));
        // Too late for all but the maximum.
        timeline.delay(at(0.0), ms(700), 1, &mut points);
        assert_eq!(points[0].tick_delay_max_ms, 700.0);
        timeline.close(at(2.0), true, &mut points);
        assert_eq!((points.len(), points[1].tick_delay_count), (2, 1));
    }
}
