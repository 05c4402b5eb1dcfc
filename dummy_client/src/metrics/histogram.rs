//! Durations, counted exactly enough to be merged and to be asked for any percentile.

use hdrhistogram::Histogram as Hdr;
use std::time::Duration;

/// The longest duration that is told from longer ones: an hour, in microseconds.
pub const MAX_MICROS: u64 = 3_600_000_000;

/// An HdrHistogram of microseconds with three significant digits, from 1 us to an hour.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Hdr<u64>,
    /// For the mean. Saturates.
    total_micros: u128,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            // The bounds are valid: low at least 1, high at least twice that, at most five digits.
            counts: Hdr::new_with_bounds(1, MAX_MICROS, 3)
                .expect("the bounds are constants that are valid"),
            total_micros: 0,
        }
    }
}

impl Histogram {
    /// Counts a duration `count` times. A longer one than an hour counts as an hour.
    pub fn record(&mut self, duration: Duration, count: u64) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.record_micros(micros, count);
    }

    /// Counts a number of microseconds `count` times.
    pub fn record_micros(&mut self, micros: u64, count: u64) {
        let micros = micros.clamp(1, MAX_MICROS);
        self.counts.saturating_record_n(micros, count);
        let total = u128::from(micros) * u128::from(count);
        self.total_micros = self.total_micros.saturating_add(total);
    }

    /// Adds the counts of another histogram.
    pub fn add(&mut self, other: &Self) {
        // The bounds are the same on both sides, so this cannot fail.
        let _ = self.counts.add(&other.counts);
        self.total_micros = self.total_micros.saturating_add(other.total_micros);
    }

    /// Forgets all counts and keeps the memory.
    pub fn clear(&mut self) {
        if !self.is_empty() {
            self.counts.reset();
            self.total_micros = 0;
        }
    }

    /// Number of durations.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.counts.len()
    }

    /// Whether no duration is counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The duration below or at which this share (0 to 1) of the durations lies, in milliseconds; 0 of
    /// an empty histogram.
    #[must_use]
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        if self.is_empty() {
            return 0.0;
        }
        self.counts.value_at_quantile(quantile) as f64 / 1e3
    }

    /// The mean in milliseconds; 0 of an empty histogram.
    #[must_use]
    pub fn mean_ms(&self) -> f64 {
        self.total_micros as f64 / self.len().max(1) as f64 / 1e3
    }

    /// The shortest duration in milliseconds; 0 of an empty histogram.
    #[must_use]
    pub fn min_ms(&self) -> f64 {
        if self.is_empty() {
            return 0.0;
        }
        self.counts.min() as f64 / 1e3
    }

    /// Every bucket that is not empty: the largest number of microseconds in it, and its count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let recorded = self.counts.iter_recorded();
        recorded.map(|step| {
            (
                step.value_iterated_to().min(MAX_MICROS),
                step.count_since_last_iteration(),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_rebuild_the_percentiles() {
        let mut histogram = Histogram::default();
        for micros in [1, 90, 1_234, 70_000, 2_000_000, u64::MAX] {
            histogram.record_micros(micros, 3);
        }
        let mut rebuilt = Histogram::default();
        for (micros, count) in histogram.buckets() {
            rebuilt.record_micros(micros, count);
        }
        assert_eq!(rebuilt.len(), 18);
        for quantile in [0.0, 0.2, 0.5, 0.9, 0.99, 1.0] {
            let (before, after) = (
                histogram.quantile_ms(quantile),
                rebuilt.quantile_ms(quantile),
            );
            assert_eq!(before, after, "{quantile}");
        }
        let off = (rebuilt.mean_ms() / histogram.mean_ms() - 1.0).abs();
        assert!(off < 1e-3, "{off}");
    }

    #[test]
    fn an_empty_histogram_is_all_zeros() {
        let empty = Histogram::default();
        assert_eq!(
            (empty.quantile_ms(0.5), empty.mean_ms(), empty.min_ms()),
            (0.0, 0.0, 0.0)
        );
        assert_eq!(empty.buckets().count(), 0);
    }
}
