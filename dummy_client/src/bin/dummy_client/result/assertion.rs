//! `--assert 'tick_delay_p99<50ms'`: what has to hold of a run, in one expression.

use super::metric::{Metrics, Unit, unit_of};
use schemars::JsonSchema;
use serde::Serialize;
use std::fmt;

/// One expression: a metric of the summary, a comparison, a number with or without a unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Assertion {
    text: String,
    path: String,
    comparison: Comparison,
    /// In the unit of the metric.
    limit: f64,
}

/// What became of one.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Asserted {
    /// As it was given.
    pub expr: String,
    /// The path of the metric in this summary.
    pub metric: String,
    /// In the unit of the metric.
    pub limit: f64,
    /// What was measured; nothing if there was nothing to measure, which holds no assertion.
    pub value: Option<f64>,
    pub holds: bool,
    /// It breaks, but would not without the longest lag of this program itself: nothing is known of
    /// the server then.
    pub may_be_own_lag: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Below,
    AtMost,
    Above,
    AtLeast,
    Equal,
    Different,
}

/// Times that a lag of this program makes longer.
const MEASURED_HERE: [&str; 8] = [
    "tick_delay_ms.",
    "tick_spread_ms.",
    "rtt_ms.",
    "chat_ms.",
    "connect_ms.",
    "attack.during.",
    "attack.tick_delay_p99_rise_ms",
    "attack.newcomers.longest_wait_ms",
];

/// The longer ones first: `<=` begins as `<` does.
const COMPARISONS: [(&str, Comparison); 6] = [
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("==", Comparison::Equal),
    ("!=", Comparison::Different),
    ("<", Comparison::Below),
    (">", Comparison::Above),
];

impl Assertion {
    /// Reads an expression; `known` has every metric that there is.
    ///
    /// # Errors
    /// What is wrong with it, in the user's words.
    pub fn parse(text: &str, known: &Metrics) -> Result<Self, String> {
        let found = COMPARISONS
            .iter()
            .filter_map(|(sign, comparison)| Some((text.find(sign)?, sign.len(), *comparison)))
            .min_by_key(|(at, length, _)| (*at, std::cmp::Reverse(*length)));
        let Some((at, length, comparison)) = found else {
            return Err(format!(
                "{text:?} compares nothing: expected METRIC<NUMBER, or with <=, >, >=, ==, !="
            ));
        };
        let name = text[..at].trim();
        let path = known.resolve(name).map_err(|like| {
            format!(
                "there is no metric {name:?}; like it are {}",
                like.join(", ")
            )
        })?;
        let limit = parse_limit(text[at + length..].trim(), unit_of(&path))
            .map_err(|why| format!("in {text:?}: {why}"))?;
        Ok(Self {
            text: text.trim().into(),
            path,
            comparison,
            limit,
        })
    }

    /// Judges a run by it, in which this program lagged by so much at the most.
    pub fn judge(&self, metrics: &Metrics, own_lag_ms: f64) -> Asserted {
        let value = metrics.value(&self.path);
        let (limit, comparison) = (self.limit, self.comparison);
        let holds = value.is_some_and(|value| comparison.holds(value, limit));
        let is_measured_here = MEASURED_HERE.iter().any(|name| self.path.starts_with(name));
        Asserted {
            may_be_own_lag: is_measured_here
                && !holds
                && value.is_some_and(|value| comparison.holds(value - own_lag_ms, limit)),
            expr: self.text.clone(),
            metric: self.path.clone(),
            limit,
            value,
            holds,
        }
    }
}

impl Comparison {
    fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Self::Below => value < limit,
            Self::AtMost => value <= limit,
            Self::Above => value > limit,
            Self::AtLeast => value >= limit,
            Self::Equal => value == limit,
            Self::Different => value != limit,
        }
    }
}

/// `tick_delay_p99<50ms: 11.65 ms`.
impl fmt::Display for Asserted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match unit_of(&self.metric) {
            Unit::Milliseconds => " ms",
            Unit::Microseconds => " us",
            Unit::Seconds => " s",
            Unit::Bytes => " bytes",
            Unit::One => "",
        };
        match self.value {
            None => write!(f, "{}: nothing was measured", self.expr),
            Some(value) if value.fract() == 0.0 => write!(f, "{}: {value:.0}{unit}", self.expr),
            Some(value) => write!(f, "{}: {value:.3}{unit}", self.expr),
        }
    }
}

fn parse_limit(text: &str, unit: Unit) -> Result<f64, String> {
    let split = text.find(|c: char| c.is_alphabetic() && c != 'e' || c == '%');
    let (number, suffix) = text.split_at(split.unwrap_or(text.len()));
    let number: f64 = (number.trim().parse().ok())
        .filter(|number: &f64| number.is_finite())
        .ok_or_else(|| format!("{text:?} is no number"))?;
    let (measures, factor) = match suffix.trim() {
        "" => return Ok(number),
        "%" => (Unit::One, 0.01),
        "us" | "µs" => (Unit::Microseconds, 1.0),
        "ms" => (Unit::Microseconds, 1e3),
        "s" => (Unit::Microseconds, 1e6),
        "B" => (Unit::Bytes, 1.0),
        "kB" => (Unit::Bytes, 1e3),
        "MB" => (Unit::Bytes, 1e6),
        "GB" => (Unit::Bytes, 1e9),
        other => {
            return Err(format!(
                "{other:?} is no unit: expected us, ms, s, B, kB, MB, GB or %"
            ));
        }
    };
    let in_metric = match (measures, unit) {
        (Unit::Microseconds, Unit::Microseconds) => 1.0,
        (Unit::Microseconds, Unit::Milliseconds) => 1e-3,
        (Unit::Microseconds, Unit::Seconds) => 1e-6,
        (Unit::Bytes, Unit::Bytes) | (Unit::One, Unit::One) => 1.0,
        _ => return Err(format!("{suffix:?} is no unit of this metric")),
    };
    Ok(number * factor * in_metric)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metrics() -> Metrics {
        Metrics::of(&json!({
            "lost": 0,
            "elapsed_secs": 10.0,
            "packets": { "bytes": 2_000_000 },
            "tick_delay_ms": { "count": 3, "p99": 49.9 },
            "rtt_ms": { "count": 0, "p999": 0.0 },
            "client": { "busiest_loop": 0.25 },
        }))
    }

    #[test]
    fn what_holds_and_what_does_not() {
        let cases = [
            ("tick_delay_p99<50ms", true),
            ("tick_delay_p99 < 0.05s", true),
            ("tick_delay_p99<49900us", false),
            ("tick_delay_p99<=49900us", true),
            ("tick_delay_ms.p99>49", true),
            ("tick_delay_ms.p99>=50", false),
            ("lost==0", true),
            ("lost!=0", false),
            ("lost < 1e3", true),
            ("packets_bytes>1.9MB", true),
            ("packets.bytes<2000kB", false),
            ("elapsed_secs>9999ms", true),
            ("client_busiest_loop<30%", true),
            ("tick_delay_p99<50000µs", true),
            ("losses.peer_reset==0", true),
        ];
        for (text, holds) in cases {
            let assertion = Assertion::parse(text, &metrics()).unwrap();
            assert_eq!(assertion.judge(&metrics(), 0.0).holds, holds, "{text}");
        }
    }

    #[test]
    fn nothing_measured_holds_nothing() {
        for text in ["rtt_p999<20ms", "rtt_p999>=0"] {
            let asserted = Assertion::parse(text, &metrics())
                .unwrap()
                .judge(&metrics(), 0.0);
            assert!(!asserted.holds);
            assert_eq!(
                asserted.to_string(),
                format!("{text}: nothing was measured")
            );
        }
    }

    #[test]
    fn what_may_be_our_own_lag_is_not_the_servers() {
        let judge = |text, lag| {
            let asserted = Assertion::parse(text, &metrics())
                .unwrap()
                .judge(&metrics(), lag);
            (asserted.holds, asserted.may_be_own_lag)
        };
        assert_eq!(judge("tick_delay_p99<40ms", 5.0), (false, false));
        assert_eq!(judge("tick_delay_p99<40ms", 20.0), (false, true));
        assert_eq!(judge("tick_delay_p99<50ms", 20.0), (true, false));
        assert_eq!(judge("lost>5", 20.0), (false, false), "a count is no time");
        assert_eq!(
            judge("rtt_p999<5ms", 20.0),
            (false, false),
            "nothing measured"
        );
    }

    #[test]
    fn the_measured_value_is_shown_with_its_unit() {
        let show = |text| {
            let assertion = Assertion::parse(text, &metrics()).unwrap();
            assertion.judge(&metrics(), 0.0).to_string()
        };
        assert_eq!(
            show("tick_delay_p99<50ms"),
            "tick_delay_p99<50ms: 49.900 ms"
        );
        assert_eq!(show("lost==0"), "lost==0: 0");
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_hint() {
        let why = |text| Assertion::parse(text, &metrics()).unwrap_err();
        assert!(why("lost").contains("compares nothing"));
        assert!(why("tick_delay_p98<5ms").contains("tick_delay_p99"));
        assert!(why("lost==0ms").contains("no unit of this metric"));
        assert!(why("tick_delay_p99<50kg").contains("no unit"));
        assert!(why("tick_delay_p99<fast").contains("no number"));
        assert!(why("tick_delay_p99<").contains("no number"));
        assert!(why("tick_delay_p99<nan").contains("no number"));
        assert!(why("<5").contains("no metric"));
    }
}
