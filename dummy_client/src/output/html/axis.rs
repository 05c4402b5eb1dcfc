//! One axis of a plot: the place of a value, and the values with a label.

use std::fmt::Write as _;
use std::ops::Range;

/// From its lowest value to its highest one.
#[derive(Clone, Debug)]
pub struct Axis {
    is_log: bool,
    range: Range<f64>,
    /// The values with a label.
    ticks: Vec<f64>,
    /// A label shows the value over this.
    unit: f64,
    suffix: &'static str,
}

const SECONDS: [(f64, f64, &str); 3] = [
    (180.0, 1.0, " s"),
    (10_800.0, 60.0, " min"),
    (f64::MAX, 3600.0, " h"),
];

impl Axis {
    /// From zero to a round number that is not below `max`.
    pub fn linear(max: f64, suffix: &'static str) -> Self {
        let step = round_step(max.max(f64::MIN_POSITIVE) / 4.0);
        let count = (max / step - 1e-9).ceil().max(1.0);
        Self {
            is_log: false,
            range: 0.0..count * step,
            ticks: ticks(step, count * step),
            unit: 1.0,
            suffix,
        }
    }

    /// Like [`linear`](Self::linear), for whole numbers.
    pub fn whole(max: f64) -> Self {
        Self::linear(max.max(4.0), "")
    }

    /// From the start to exactly this number of seconds, in the unit that suits it.
    pub fn time(seconds: f64) -> Self {
        let seconds = seconds.max(0.1);
        let fits = |(limit, ..): &&(f64, f64, &str)| seconds <= *limit;
        let &(_, unit, suffix) = SECONDS.iter().find(fits).unwrap_or(&SECONDS[2]);
        let step = round_step(seconds / unit / 5.0);
        let ticks = ticks(step, seconds / unit).into_iter();
        Self {
            is_log: false,
            range: 0.0..seconds,
            ticks: ticks.map(|tick| tick * unit).collect(),
            unit,
            suffix,
        }
    }

    /// Round numbers around the values above zero.
    pub fn log(values: impl Iterator<Item = f64> + Clone) -> Self {
        let positive = values.filter(|value| *value > 0.0);
        let most = positive.clone().fold(0.0, f64::max);
        let least = positive.fold(most, f64::min);
        // The n-th of 1, 2, 5, 10 and so on.
        let round =
            |n: i32| [1.0, 2.0, 5.0][n.rem_euclid(3) as usize] * 10f64.powi(n.div_euclid(3));
        // The bound of a bucket may lie an ulp beside its number.
        let (mut low, mut high) = (0, 0);
        if most > 0.0 {
            low = (-30..30)
                .take_while(|&n| round(n) <= least * (1.0 + 1e-9))
                .last()
                .unwrap_or(-30);
            high = (-30..30)
                .find(|&n| round(n) >= most * (1.0 - 1e-9))
                .unwrap_or(30);
        }
        high = high.max(low + 3);
        let is_labelled = |n: &i32| match high - low {
            ..8 => true,
            8..22 => n.rem_euclid(3) == 0,
            _ => n.rem_euclid(6) == 0,
        };
        Self {
            is_log: true,
            range: round(low)..round(high),
            ticks: (low..=high).filter(is_labelled).map(round).collect(),
            unit: 1.0,
            suffix: "",
        }
    }

    /// Whether equal steps are equal factors: such an axis has no zero.
    pub fn is_log(&self) -> bool {
        self.is_log
    }

    /// The place of a value, from 0 to 1. A value beyond an end lies at that end.
    pub fn place(&self, value: f64) -> f64 {
        let [low, high, at] = [self.range.start, self.range.end, value]
            .map(|value| if self.is_log { value.log10() } else { value });
        let place = (at - low) / (high - low);
        if place.is_nan() {
            return 0.0;
        }
        place.clamp(0.0, 1.0)
    }

    /// The value at a place from 0 to 1.
    pub fn value_at(&self, place: f64) -> f64 {
        let Range { start, end } = self.range;
        if self.is_log {
            start * (end / start).powf(place)
        } else {
            start + (end - start) * place
        }
    }

    /// Place and text of each label.
    pub fn labels(&self) -> impl Iterator<Item = (f64, String)> + '_ {
        self.ticks.iter().map(|&tick| {
            let mut text = short(tick / self.unit);
            // Writing to a text cannot fail.
            let _ = write!(text, "{}", self.suffix);
            (self.place(tick), text)
        })
    }
}

/// The smallest round number that is not below `step`.
fn round_step(step: f64) -> f64 {
    let decade = 10f64.powf(step.log10().floor());
    let mut parts = [1.0, 2.0, 2.5, 5.0].into_iter().map(|part| part * decade);
    parts
        .find(|part| *part >= step * (1.0 - 1e-9))
        .unwrap_or(10.0 * decade)
}

fn ticks(step: f64, end: f64) -> Vec<f64> {
    (0..=16)
        .map(|n| f64::from(n) * step)
        .take_while(|tick| *tick <= end * (1.0 + 1e-9))
        .collect()
}

/// Few characters: `0.05`, `12`, `250k`.
fn short(value: f64) -> String {
    let (value, suffix) = match value {
        1e9.. => (value / 1e9, "G"),
        1e6.. => (value / 1e6, "M"),
        1e3.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    // Three digits, without zeros at the end.
    let decimals = (2.0 - value.abs().max(1e-6).log10().floor()).clamp(0.0, 6.0);
    let text = format!("{value:.*}", decimals as usize);
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> String {
        let labels: Vec<_> = axis.labels().map(|(_, text)| text).collect();
        labels.join(" ")
    }

    #[test]
    fn labels_are_round_and_few() {
        assert_eq!(labels(&Axis::whole(1000.0)), "0 250 500 750 1k");
        assert_eq!(labels(&Axis::whole(1.0)), "0 1 2 3 4");
        assert_eq!(labels(&Axis::linear(41_234.0, "")), "0 20k 40k 60k");
        assert_eq!(labels(&Axis::linear(37.0, " %")), "0 % 10 % 20 % 30 % 40 %");
        assert_eq!(labels(&Axis::time(10.02)), "0 s 2.5 s 5 s 7.5 s 10 s");
        assert_eq!(labels(&Axis::time(0.8)), "0 s 0.2 s 0.4 s 0.6 s 0.8 s");
        assert_eq!(
            labels(&Axis::time(600.0)),
            "0 min 2 min 4 min 6 min 8 min 10 min"
        );
        assert_eq!(labels(&Axis::time(36_000.0)), "0 h 2 h 4 h 6 h 8 h 10 h");
        let log = |values: &[f64]| labels(&Axis::log(values.iter().copied()));
        assert_eq!(log(&[0.05, 30.0]), "0.1 1 10");
        assert_eq!(log(&[0.2, 0.3]), "0.2 0.5 1 2");
        assert_eq!(log(&[0.8, 24.6]), "0.5 1 2 5 10 20 50");
        assert_eq!(log(&[0.001, 3_600_000.0]), "0.01 1 100 10k 1M");
        assert_eq!(log(&[]), "1 2 5 10");
    }

    #[test]
    fn empty_and_extreme_values_have_an_axis() {
        for axis in [
            Axis::linear(0.0, ""),
            Axis::linear(f64::MIN_POSITIVE, ""),
            Axis::whole(0.0),
            Axis::time(0.0),
            Axis::log([].into_iter()),
            Axis::log([0.0].into_iter()),
            Axis::log([5.0].into_iter()),
            Axis::log([10.0].into_iter()),
        ] {
            assert!(axis.range.start < axis.range.end, "{axis:?}");
            assert!((2..=8).contains(&axis.labels().count()), "{axis:?}");
            for (value, place) in [(-1.0, 0.0), (f64::NAN, 0.0), (1e300, 1.0)] {
                assert_eq!(axis.place(value), place, "{axis:?}");
            }
        }
    }

    #[test]
    fn places_and_values_belong_together() {
        for axis in [Axis::linear(40.0, ""), Axis::log([0.5, 50.0].into_iter())] {
            for value in [1.0, 7.0, 31.0] {
                let again = axis.value_at(axis.place(value));
                assert!((again - value).abs() < 1e-9, "{axis:?} {value} {again}");
            }
        }
    }
}
