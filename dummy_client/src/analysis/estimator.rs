//! A robust line under the first arrivals of ticks.

/// The line `base + slope * x` under points that can be late but never early.
///
/// The slope is a Theil-Sen estimate: the median of the slopes of pairs of points (P. K. Sen, "Estimates of the
/// Regression Coefficient Based on Kendall's Tau", JASA 63, 1968). The two points of a pair are an eighth to a
/// quarter of all points apart, so a delay that begins and lasts bends only the few pairs across its beginning.
/// Points at another pace bend the slope once they are more than a third of all points: they are the schedule then.
/// The base is the lower envelope: the line goes down to the most punctual point, as for the delays of one
/// direction of a network path (Moon, Skelly, Towsley, "Estimation and Removal of Clock Skew from Network Delay
/// Measurements", INFOCOM 1999).
#[derive(Debug)]
pub(super) struct TheilSenLine {
    /// The most punctual point of each block of points.
    anchors: Vec<Point>,
    /// Points for each anchor, and points of the last anchor.
    block: u64,
    in_block: u64,
    slope: f64,
    slope_error: f64,
    base: f64,
    count: u64,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    x: f64,
    y: f64,
}

/// Bounds the memory; a longer run has larger blocks.
const MAX_ANCHORS: usize = 128;
/// The shortest period in seconds. Ticks that are closer arrived in one burst.
const MIN_PERIOD: f64 = 250e-6;

impl TheilSenLine {
    /// Begins with a guess, which counts until the next [`fit`](Self::fit).
    pub(super) fn new(slope: f64, base: f64) -> Self {
        Self {
            anchors: Vec::new(),
            block: 1,
            in_block: 0,
            slope,
            slope_error: 0.0,
            base,
            count: 0,
        }
    }

    /// Fits a line through `(x, y)` points that may include bursts, steps and outliers. Returns `None` if no
    /// two points are a period apart. The base is the lowest one that a second point supports within half a
    /// period: an outlier does not move it.
    pub(super) fn through(points: &[(f64, f64)]) -> Option<Self> {
        let steps = points.windows(2).filter(|pair| pair[0].0 < pair[1].0);
        let steps = steps.map(|pair| (pair[1].1 - pair[0].1) / (pair[1].0 - pair[0].0));
        let guess = quantile(steps.filter(|step| *step > MIN_PERIOD), 0.75)?;
        let mut line = Self::new(guess, f64::INFINITY);
        points.iter().for_each(|&(x, y)| line.add(x, y));
        line.fit();
        let mut bases: Vec<f64> = (points.iter()).map(|(x, y)| y - line.slope * x).collect();
        bases.sort_unstable_by(f64::total_cmp);
        let mut pairs = bases.windows(2);
        let supported = pairs.find(|pair| pair[1] - pair[0] <= line.slope / 2.0);
        Some(Self::new(
            line.slope,
            supported.map_or(bases[0], |pair| pair[0]),
        ))
    }

    /// The line at this place.
    pub(super) fn at(&self, x: f64) -> f64 {
        self.base + self.slope * x
    }

    /// The period of the ticks, in seconds.
    pub(super) fn slope(&self) -> f64 {
        self.slope
    }

    /// Half of the interquartile range of the slopes: the jitter's part in the slope.
    pub(super) fn slope_error(&self) -> f64 {
        self.slope_error
    }

    /// Points added.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Adds a point; the line stays below it.
    pub(super) fn add(&mut self, x: f64, y: f64) {
        let (point, slope) = (Point { x, y }, self.slope);
        self.count += 1;
        self.base = self.base.min(y - slope * x);
        match self.anchors.last_mut() {
            // A point that follows faster than at twice the pace shows that the anchor was delayed: delayed
            // ticks that arrive together have no slope.
            Some(last) if self.in_block < self.block || y - last.y < slope * (x - last.x) / 2.0 => {
                self.in_block += 1;
                *last = last.lower(point, slope);
            }
            _ => {
                self.in_block = 1;
                self.anchors.push(point);
            }
        }
        if self.anchors.len() > MAX_ANCHORS {
            let lower = |pair: &[Point]| pair.iter().copied().reduce(|a, b| a.lower(b, slope));
            self.anchors = self.anchors.chunks(2).filter_map(lower).collect();
            self.block *= 2;
        }
    }

    /// Fits the line to all added points.
    pub(super) fn fit(&mut self) {
        let count = self.anchors.len();
        let lags = (count / 8).max(1)..=(count / 4).max(1);
        let slopes = lags.flat_map(|lag| {
            let pairs = self.anchors.iter().zip(self.anchors.iter().skip(lag));
            let rising = pairs.filter(|(a, b)| a.x < b.x);
            rising.map(|(a, b)| (b.y - a.y) / (b.x - a.x))
        });
        let slopes: Vec<f64> = slopes.collect();
        let part = |part| quantile(slopes.iter().copied(), part);
        if let (Some(low), Some(slope), Some(high)) = (part(0.25), part(0.5), part(0.75))
            && slope > MIN_PERIOD
        {
            (self.slope, self.slope_error) = (slope, (high - low) / 2.0);
        }
        let bases = self.anchors.iter().map(|a| a.y - self.slope * a.x);
        if let Some(base) = bases.reduce(f64::min) {
            self.base = base;
        }
    }
}

impl Point {
    /// The point that is less late.
    fn lower(self, other: Self, slope: f64) -> Self {
        match other.y - self.y < slope * (other.x - self.x) {
            true => other,
            false => self,
        }
    }
}

/// The value at this part of the sorted values; `None` of no values.
fn quantile(values: impl IntoIterator<Item = f64>, part: f64) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    let last = values.len().checked_sub(1)?;
    let place = (last as f64 * part).round() as usize;
    Some(*values.select_nth_unstable_by(place, f64::total_cmp).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How far the line is off `25 + 50 * x` at the last point, for points with these delays.
    fn error(count: u64, delay: impl Fn(u64) -> f64) -> f64 {
        let mut line = TheilSenLine::new(49.0, 0.0);
        for n in 0..count {
            line.add(n as f64, 25.0 + n as f64 * 50.0 + delay(n));
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
    fn lasting_delay_does_not_bend_the_line() {
        for count in [48, 240, 10_000] {
            for since in [10, count / 3, count / 2, count - 5] {
                let found = error(count, |n| if n < since { 0.0 } else { 30.0 });
                assert!(found.abs() < 0.1, "{count} since {since}: {found}");
            }
        }
    }

    #[test]
    fn jitter_does_not_bend_the_line() {
        let mut rng = fastrand::Rng::with_seed(1);
        let jitter: Vec<f64> = (0..2000).map(|_| rng.f64() * 10.0).collect();
        for count in [100, 2000] {
            let found = error(count, |n| jitter[n as usize]);
            assert!(found.abs() < 2.0, "{count}: {found}");
        }
    }

    #[test]
    fn burst_of_delayed_points_does_not_bend_the_line() {
        // All points up to the 20th arrive with it.
        let found = error(60, |n| (20.0 - n as f64).max(0.0) * 50.0);
        assert!(found.abs() < 0.1, "{found}");
    }

    #[test]
    fn quantile_takes_the_value_at_its_part() {
        assert_eq!(quantile([], 0.5), None);
        assert_eq!(quantile([3.0], 0.5), Some(3.0));
        assert_eq!(quantile([3.0, 1.0, 2.0], 0.5), Some(2.0));
        assert_eq!(quantile([1.0, 2.0, 3.0, 4.0, 5.0], 0.75), Some(4.0));
    }
}
