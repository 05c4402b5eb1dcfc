//! A line that lies below all points, and whose slope a few late points cannot bend.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// The schedule `base + slope * x` under the arrivals of ticks: a tick can be late but never early.
///
/// The slope is the median of the slopes between points that lie an eighth to a quarter of all
/// points apart. Unlike the edge of the convex hull it stays what it is when all ticks are late
/// from some moment on: few of those pairs lie astride that moment. The base is then as high as the
/// most punctual point allows, however long ago it came.
#[derive(Debug)]
pub struct Line {
    /// The most punctual point of each block of points, in bounded memory.
    anchors: Vec<Point>,
    /// Points for each anchor, and how many the last one stands for.
    block: u64,
    in_block: u64,
    slope: f64,
    /// The slope can be so much and so little.
    slopes: RangeInclusive<f64>,
    base: f64,
    /// By how much the latest steps from point to point were off.
    steps: VecDeque<f64>,
    jitter: f64,
    count: u64,
    last: Option<Point>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    x: f64,
    y: f64,
}

const MAX_ANCHORS: usize = 128;
const MAX_STEPS: usize = 64;
/// No line is steeper or flatter than the guess by more than this: then the points are nonsense.
const MAX_FACTOR: f64 = 4.0;

impl Line {
    /// Begins with a guess, which only decides until the next [`fit`](Self::fit). `steps` tell how
    /// far the steps from point to point are off it.
    pub fn new(slope: f64, base: f64, steps: impl IntoIterator<Item = f64>) -> Self {
        let steps: VecDeque<f64> = steps.into_iter().take(MAX_STEPS).collect();
        Self {
            anchors: Vec::new(),
            block: 1,
            in_block: 0,
            slope,
            slopes: slope / MAX_FACTOR..=slope * MAX_FACTOR,
            base,
            jitter: median(steps.iter().copied()).unwrap_or(0.0),
            steps,
            count: 0,
            last: None,
        }
    }

    /// The line at this place.
    pub fn at(&self, x: f64) -> f64 {
        self.base + self.slope * x
    }

    /// What it rises from one place to the next.
    pub fn slope(&self) -> f64 {
        self.slope
    }

    /// How far the points usually spread, robustly: steps that are no jitter do not count.
    pub fn jitter(&self) -> f64 {
        self.jitter
    }

    /// Points that it rests on.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes a point, and stays below it.
    pub fn add(&mut self, x: f64, y: f64) {
        let point = Point { x, y };
        if let Some(last) = self.last.filter(|last| last.x < x) {
            if self.steps.len() == MAX_STEPS {
                self.steps.pop_front();
            }
            (self.steps).push_back((y - last.y - self.slope * (x - last.x)).abs());
        }
        self.last = Some(point);
        self.count += 1;
        self.base = self.base.min(y - self.slope * x);
        match self.anchors.last_mut() {
            // One that was late by half a step and more against this one tells nothing: ticks that
            // were owed and came together have no slope.
            Some(last)
                if self.in_block < self.block || y - last.y < self.slope * (x - last.x) / 2.0 =>
            {
                self.in_block += 1;
                *last = last.lower(point, self.slope);
            }
            _ => {
                self.in_block = 1;
                self.anchors.push(point);
            }
        }
        if self.anchors.len() > MAX_ANCHORS {
            let slope = self.slope;
            let lower = |pair: &[Point]| pair.iter().copied().reduce(|a, b| a.lower(b, slope));
            self.anchors = self.anchors.chunks(2).filter_map(lower).collect();
            self.block *= 2;
        }
    }

    /// Finds the line again, for all points that were added.
    pub fn fit(&mut self) {
        let slopes = lags(self.anchors.len()).flat_map(|lag| {
            let pairs = self.anchors.iter().zip(self.anchors.iter().skip(lag));
            let rising = pairs.filter(|(a, b)| a.x < b.x);
            rising.map(|(a, b)| (b.y - a.y) / (b.x - a.x))
        });
        if let Some(slope) = median(slopes).filter(|slope| self.slopes.contains(slope)) {
            self.slope = slope;
        }
        let bases = self.anchors.iter().map(|a| a.y - self.slope * a.x);
        if let Some(base) = bases.reduce(f64::min) {
            self.base = base;
        }
        self.jitter = median(self.steps.iter().copied()).unwrap_or(0.0);
    }
}

impl Point {
    /// The one that is less late.
    fn lower(self, other: Self, slope: f64) -> Self {
        match other.y - self.y < slope * (other.x - self.x) {
            true => other,
            false => self,
        }
    }
}

/// How far the points of a pair lie apart if there are so many.
pub fn lags(count: usize) -> RangeInclusive<usize> {
    (count / 8).max(1)..=(count / 4).max(1)
}

/// The one in the middle; `None` of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    quantile(values, 2)
}

/// The value below which all but one of so many parts of the values lie; `None` of nothing.
pub fn quantile(values: impl IntoIterator<Item = f64>, parts: usize) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    let last = values.len().checked_sub(1)?;
    let place = last.saturating_sub(values.len() / parts.max(1));
    Some(*values.select_nth_unstable_by(place, f64::total_cmp).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How far the line is off `25 + 50 * x` at the last point, for points that are late by this.
    fn error(count: u64, late: impl Fn(u64) -> f64) -> f64 {
        let mut line = Line::new(49.0, 0.0, []);
        for n in 0..count {
            line.add(n as f64, 25.0 + n as f64 * 50.0 + late(n));
        }
        line.fit();
        line.at(count as f64) - (25.0 + count as f64 * 50.0)
    }

    #[test]
    fn points_on_a_line_give_that_line() {
        for count in [2, 20, 1000, 100_000] {
            assert!(error(count, |_| 0.0).abs() < 1e-3, "{count}");
        }
    }

    #[test]
    fn a_lateness_that_stays_does_not_bend_it() {
        for count in [48, 240, 10_000] {
            for since in [10, count / 3, count / 2, count - 5] {
                let found = error(count, |n| if n < since { 0.0 } else { 30.0 });
                assert!(found.abs() < 0.1, "{count} since {since}: {found}");
            }
        }
    }

    #[test]
    fn jitter_does_not_bend_it() {
        let mut rng = fastrand::Rng::with_seed(1);
        let jitter: Vec<f64> = (0..2000).map(|_| rng.f64() * 10.0).collect();
        for count in [100, 2000] {
            let found = error(count, |n| jitter[n as usize]);
            assert!(found.abs() < 2.0, "{count}: {found}");
        }
    }

    #[test]
    fn points_that_were_owed_and_came_together_have_no_slope() {
        // All up to the 20th came with it.
        let found = error(60, |n| (20.0 - n as f64).max(0.0) * 50.0);
        assert!(found.abs() < 0.1, "{found}");
    }

    #[test]
    fn the_median_and_the_upper_quarter() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0]), Some(3.0));
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(quantile([1.0, 2.0, 3.0, 4.0], 4), Some(3.0));
    }
}
