//! A histogram in few buckets, for a plot and for the JSON.

use super::recorder::Micros;

/// The values up to here, and above the bucket before.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, schemars::JsonSchema)]
pub struct Bucket {
    pub up_to_ms: f64,
    pub count: u64,
}

/// Bounds within a decade: round numbers, at equal steps of the logarithm.
const STEPS: [f64; 10] = [1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0];
/// From a microsecond to an hour and more.
const DECADES: i32 = 10;
/// Values that spread wider than this take every second step: never more than 60 buckets.
const MAX_FINE_DECADES: f64 = 5.8;

/// All values of the histogram, in at most 60 buckets from its smallest value to its largest one;
/// the empty ones between them are there, too.
pub fn distribution(histogram: &Micros) -> Vec<Bucket> {
    let decades = (histogram.max() as f64 / histogram.min().max(1) as f64).log10();
    let stride = if decades > MAX_FINE_DECADES { 2 } else { 1 };
    let mut buckets: Vec<Bucket> = (0..DECADES)
        .flat_map(|decade| STEPS.map(|step| step * 10f64.powi(decade)))
        .step_by(stride)
        .map(|micros| Bucket {
            up_to_ms: micros / 1e3,
            count: 0,
        })
        .collect();
    for step in histogram.iter_recorded() {
        let ms = step.value_iterated_to() as f64 / 1e3;
        let place = buckets.partition_point(|bucket| bucket.up_to_ms < ms);
        // The last bucket ends above all that a histogram of microseconds can hold.
        buckets[place].count += step.count_since_last_iteration();
    }
    let is_used = |bucket: &Bucket| bucket.count > 0;
    let end = buckets.iter().rposition(is_used).map_or(0, |last| last + 1);
    buckets.truncate(end);
    buckets.drain(..buckets.iter().position(is_used).unwrap_or(0));
    buckets
}

#[cfg(test)]
mod tests {
    use super::super::recorder::{micros, record};
    use super::*;
    use std::time::Duration;

    fn of(values_micros: &[u64]) -> Vec<Bucket> {
        let mut histogram = micros();
        for &value in values_micros {
            record(&mut histogram, Duration::from_micros(value), 1);
        }
        distribution(&histogram)
    }

    #[test]
    fn nothing_has_no_buckets() {
        assert_eq!(of(&[]), []);
    }

    #[test]
    fn one_value_is_one_bucket() {
        let bucket = |up_to_ms| Bucket { up_to_ms, count: 1 };
        assert_eq!(of(&[1]), [bucket(0.001)]);
        assert_eq!(of(&[100]), [bucket(0.1)]);
        assert_eq!(of(&[101]), [bucket(0.125)]);
        assert_eq!(of(&[u64::MAX]).len(), 1);
    }

    #[test]
    fn every_value_is_in_one_bucket_and_the_empty_ones_between_are_there() {
        let buckets = of(&[90, 110, 111, 900]);
        let counts: Vec<_> = buckets.iter().map(|bucket| bucket.count).collect();
        assert_eq!(counts, [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(buckets[10].up_to_ms, 1.0);
        assert!(buckets.is_sorted_by(|a, b| a.up_to_ms < b.up_to_ms));
    }

    #[test]
    fn there_are_never_more_than_sixty() {
        for low in 0..9 {
            for high in low..10 {
                for factor in [1, 3, 9] {
                    let values = [10u64.pow(low), factor * 10u64.pow(high)];
                    let buckets = of(&values);
                    assert!(buckets.len() <= 60, "{values:?}: {}", buckets.len());
                    let count: u64 = buckets.iter().map(|bucket| bucket.count).sum();
                    assert_eq!(count, 2);
                }
            }
        }
    }
}
