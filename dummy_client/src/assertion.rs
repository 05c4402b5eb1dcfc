//! Assertions: `tick_delay_p99<50ms`, a condition on one figure of a report.

mod names;

pub use names::{Name, Names};

use crate::metrics::Unit;
use crate::report::{AssertionResult, Report};
use std::fmt;

/// A condition on one figure of a [`Report`]: a metric, a comparison, a number with or without a unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Assertion {
    text: String,
    name: Name,
    comparison: Comparison,
    /// In the unit of the metric.
    limit: f64,
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

/// The longer ones first: `<=` begins with `<`.
const COMPARISONS: [(&str, Comparison); 6] = [
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("==", Comparison::Equal),
    ("!=", Comparison::Different),
    ("<", Comparison::Below),
    (">", Comparison::Above),
];

impl Assertion {
    /// Reads an expression: `METRIC_STATISTIC<NUMBER[UNIT]` of a trend, `METRIC<NUMBER[UNIT]` of another
    /// metric, or a path like `client.cpu_us_per_packet<5`. The units are us, ms, s, B, kB, MB, GB, and % of
    /// a ratio. A number without a unit is in the unit of the metric.
    ///
    /// # Errors
    /// What is wrong with the expression, for the user. Of an unknown name, the five most similar names.
    pub fn parse(text: &str, names: &Names) -> Result<Self, String> {
        let text = text.trim();
        let Some((at, length, comparison)) = find_comparison(text) else {
            return Err(format!(
                "{text:?} compares nothing: expected METRIC<NUMBER, or with <=, >, >=, ==, !="
            ));
        };
        let given = text[..at].trim();
        let name = names.resolve(given).map_err(|similar| {
            format!(
                "{given:?} is not a metric; similar names are {}",
                similar.join(", ")
            )
        })?;
        let limit = parse_limit(text[at + length..].trim(), &name)
            .map_err(|message| format!("in {text:?}: {message}"))?;
        Ok(Self {
            text: text.into(),
            name,
            comparison,
            limit,
        })
    }

    /// The outcome in a run. An assertion about a figure that was not measured is broken.
    ///
    /// `own_lag_ms`: the longest lag of the client itself. A time that breaks the limit by no more than that
    /// may be the client's.
    #[must_use]
    pub fn evaluate(&self, report: &Report, own_lag_ms: f64) -> AssertionResult {
        let value = names::value(report, &self.name.path);
        let holds = |value: f64| self.comparison.holds(value, self.limit);
        let own_lag = match self.name.unit {
            _ if !self.name.has_own_lag() => None,
            Unit::Microseconds => Some(own_lag_ms * 1e3),
            Unit::Milliseconds => Some(own_lag_ms),
            Unit::Seconds => Some(own_lag_ms / 1e3),
            Unit::Count | Unit::Bytes | Unit::Ratio => None,
        };
        let is_held = value.is_some_and(holds);
        let without_lag = value.zip(own_lag).map(|(value, lag)| value - lag);
        AssertionResult {
            expr: self.text.clone(),
            metric: self.name.path.clone(),
            limit: self.limit,
            value,
            unit: Some(self.name.unit),
            holds: is_held,
            may_be_own_lag: !is_held && without_lag.is_some_and(holds),
        }
    }
}

impl Assertion {
    /// The assertion behind an outcome, for a report that is evaluated again. `None`: the outcome is not of
    /// this program.
    pub(crate) fn of_result(result: &AssertionResult) -> Option<Self> {
        let (_, _, comparison) = find_comparison(&result.expr)?;
        Some(Self {
            text: result.expr.clone(),
            name: Name {
                path: result.metric.clone(),
                unit: result.unit.unwrap_or(Unit::Count),
            },
            comparison,
            limit: result.limit,
        })
    }
}

/// As it was given.
impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `tick_delay_p99<50ms: 11.650 ms`.
impl fmt::Display for AssertionResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.expr)?;
        match self.value {
            None => f.write_str("nothing was measured"),
            Some(value) => write_value(f, value, self.unit.unwrap_or(Unit::Count)),
        }
    }
}

fn write_value(f: &mut fmt::Formatter<'_>, value: f64, unit: Unit) -> fmt::Result {
    let (value, unit) = match unit {
        Unit::Milliseconds => (value, " ms"),
        Unit::Microseconds => (value, " us"),
        Unit::Seconds => (value, " s"),
        Unit::Bytes => (value, " B"),
        Unit::Ratio => (value * 100.0, " %"),
        Unit::Count => (value, ""),
    };
    match value.fract() == 0.0 {
        true => write!(f, "{value:.0}{unit}"),
        false => write!(f, "{value:.3}{unit}"),
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

/// Where the first comparison begins, its length, and the comparison.
fn find_comparison(text: &str) -> Option<(usize, usize, Comparison)> {
    let signs = COMPARISONS.iter();
    let found =
        signs.filter_map(|(sign, comparison)| Some((text.find(sign)?, sign.len(), *comparison)));
    found.min_by_key(|(at, length, _)| (*at, std::cmp::Reverse(*length)))
}

fn parse_limit(text: &str, name: &Name) -> Result<f64, String> {
    let is_suffix = |c: char| c.is_alphabetic() && c != 'e' || c == '%';
    let (number, suffix) = text.split_at(text.find(is_suffix).unwrap_or(text.len()));
    let number: f64 = (number.trim().parse().ok())
        .filter(|number: &f64| number.is_finite())
        .ok_or_else(|| format!("{text:?} is not a number"))?;
    let suffix = suffix.trim();
    let (measures, factor) = match suffix {
        "" => return Ok(number),
        "%" if name.unit == Unit::Ratio => return Ok(number / 100.0),
        "%" => {
            return Err(format!(
                "% is the unit of a ratio, and {} is {}",
                name.path,
                kind_of(name.unit)
            ));
        }
        "us" | "µs" => (Unit::Microseconds, 1.0),
        "ms" => (Unit::Microseconds, 1e3),
        "s" => (Unit::Microseconds, 1e6),
        "B" => (Unit::Bytes, 1.0),
        "kB" => (Unit::Bytes, 1e3),
        "MB" => (Unit::Bytes, 1e6),
        "GB" => (Unit::Bytes, 1e9),
        other => {
            return Err(format!(
                "{other:?} is not a unit: expected us, ms, s, B, kB, MB, GB or %"
            ));
        }
    };
    let divisor = match (measures, name.unit) {
        (Unit::Microseconds, Unit::Microseconds) | (Unit::Bytes, Unit::Bytes) => 1.0,
        (Unit::Microseconds, Unit::Milliseconds) => 1e3,
        (Unit::Microseconds, Unit::Seconds) => 1e6,
        _ => {
            return Err(format!(
                "{suffix:?} is not a unit of {}, which is {}",
                name.path,
                kind_of(name.unit)
            ));
        }
    };
    Ok(number * factor / divisor)
}

fn kind_of(unit: Unit) -> &'static str {
    match unit {
        Unit::Count => "a count",
        Unit::Bytes => "a number of bytes",
        Unit::Milliseconds | Unit::Seconds | Unit::Microseconds => "a time",
        Unit::Ratio => "a ratio",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::{AttackReport, NewcomersReport};
    use crate::metrics::Registry;
    use crate::report::{Metric, Metrics, TrendValue};

    fn registry() -> Registry {
        let mut registry = Registry::default();
        registry.tick_series("tick");
        registry.request_series("echoes", "answered", "rtt", "echo");
        registry.rate("moves_in_time");
        registry.counter("bytes_received", Unit::Bytes);
        registry
    }

    fn parse(text: &str) -> Result<Assertion, String> {
        Assertion::parse(text, &Names::new(&registry()))
    }

    fn report() -> Report {
        let delay = TrendValue {
            count: 3,
            p99: 49.9,
            ..TrendValue::default()
        };
        let check = |value, is_loss| Metric::Check {
            value,
            failure: String::new(),
            is_loss,
            is_excusable: false,
        };
        let metrics = [
            ("tick_delay", Metric::Trend(delay)),
            ("rtt", Metric::Trend(TrendValue::default())),
            ("ticks_missing", check(2, true)),
            ("ticks_repeated", check(4, false)),
            (
                "bytes_received",
                Metric::Counter {
                    value: 2_000_000,
                    unit: Unit::Bytes,
                    by_packet: [("S_HELLO".to_owned(), 7)].into(),
                },
            ),
            (
                "moves_in_time",
                Metric::Rate {
                    passes: 98,
                    total: 100,
                    value: Some(0.98),
                },
            ),
            (
                "longest_tick_gap",
                Metric::Gauge {
                    value: Some(250.5),
                    unit: Unit::Milliseconds,
                },
            ),
            (
                "tick_period",
                Metric::Gauge {
                    value: None,
                    unit: Unit::Milliseconds,
                },
            ),
        ];
        let mut report = Report {
            metrics: Metrics(metrics.map(|(name, metric)| (name.into(), metric)).into()),
            ..Report::default()
        };
        report.sessions.lost = 5;
        report.sessions.reconnected = 1;
        report.client.busiest_loop = 0.25;
        report.client.cpu_us_per_packet = 3.5;
        report.run.elapsed_secs = 10.0;
        report
    }

    fn evaluate(text: &str) -> AssertionResult {
        parse(text).unwrap().evaluate(&report(), 0.0)
    }

    #[test]
    fn every_comparison_and_unit_is_evaluated() {
        for (text, holds) in [
            ("tick_delay_p99<50ms", true),
            ("tick_delay_p99 < 0.05s", true),
            ("tick_delay_p99<49900us", false),
            ("tick_delay_p99<=49900us", true),
            ("tick_delay.p99>49", true),
            ("tick_delay_p99>=50", false),
            ("tick_delay_p99<50000µs", true),
            ("tick_delay_count==3", true),
            ("lost==6", true),
            ("lost!=6", false),
            ("lost < 1e3", true),
            ("ticks_missing<=2", true),
            ("bytes_received>1.9MB", true),
            ("bytes_received<2000kB", false),
            ("moves_in_time>=98%", true),
            ("moves_in_time>0.98", false),
            ("moves_in_time.total==100", true),
            ("elapsed_secs>9999ms", true),
            ("client.busiest_loop<30%", true),
            ("client_cpu_us_per_packet<4", true),
            ("sessions.lost==5", true),
            ("disconnects.peer_reset==0", true),
            ("longest_tick_gap<1s", true),
        ] {
            assert_eq!(evaluate(text).holds, holds, "{text}");
        }
    }

    #[test]
    fn old_names_with_a_unit_resolve_if_the_unit_agrees() {
        for (old, path) in [
            ("longest_tick_gap_ms<1s", "longest_tick_gap"),
            ("tick_delay_ms.p99<1s", "tick_delay.p99"),
            ("tick_delay_ms_p99<1s", "tick_delay.p99"),
            ("ticks.missing==0", "ticks_missing"),
            ("ticks_missing==0", "ticks_missing"),
        ] {
            assert_eq!(parse(old).unwrap().name.path, path, "{old}");
        }
        for bad in [
            "longest_tick_gap_secs<1",
            "tick_delay_us.p99<1",
            "ticks_missing_ms==0",
        ] {
            assert!(parse(bad).unwrap_err().contains("is not a metric"), "{bad}");
        }
    }

    #[test]
    fn a_figure_that_was_not_measured_breaks_the_assertion() {
        for text in ["rtt_p999<20ms", "rtt_p999>=0", "tick_period<1s"] {
            let result = evaluate(text);
            assert!(!result.holds, "{text}");
            assert_eq!(result.to_string(), format!("{text}: nothing was measured"));
        }
    }

    #[test]
    fn a_time_within_the_lag_of_the_client_may_be_its_own() {
        let evaluate = |text, lag| {
            let result = parse(text).unwrap().evaluate(&report(), lag);
            (result.holds, result.may_be_own_lag)
        };
        assert_eq!(evaluate("tick_delay_p99<40ms", 5.0), (false, false));
        assert_eq!(evaluate("tick_delay_p99<40ms", 20.0), (false, true));
        assert_eq!(evaluate("tick_delay_p99<50ms", 20.0), (true, false));
        assert_eq!(evaluate("longest_tick_gap<250ms", 20.0), (false, true));
        assert_eq!(evaluate("lost<5", 20.0), (false, false), "not a time");
        assert_eq!(evaluate("elapsed_secs<9.99", 20.0), (false, false));
        assert_eq!(evaluate("rtt_p999<5ms", 20.0), (false, false));
    }

    #[test]
    fn the_value_is_shown_with_its_unit() {
        for (text, shown) in [
            ("tick_delay_p99<50ms", "49.900 ms"),
            ("lost==0", "6"),
            ("moves_in_time>99%", "98 %"),
            ("bytes_received>1", "2000000 B"),
        ] {
            assert_eq!(evaluate(text).to_string(), format!("{text}: {shown}"));
        }
    }

    #[test]
    fn expressions_without_a_meaning_are_errors() {
        for (text, message) in [
            ("lost", "compares nothing"),
            ("lost<5%", "% is the unit of a ratio, and lost is a count"),
            ("tick_delay_p99<5%", "tick_delay.p99 is a time"),
            ("tick_delay_p98<5ms", "tick_delay_p99"),
            ("lots==0", "lost"),
            (
                "lost==0ms",
                "\"ms\" is not a unit of lost, which is a count",
            ),
            ("moves_in_time<5ms", "which is a ratio"),
            ("tick_delay_p99<50kg", "is not a unit"),
            ("tick_delay_p99<fast", "is not a number"),
            ("tick_delay_p99<", "is not a number"),
            ("tick_delay_p99<nan", "is not a number"),
            ("<5", "is not a metric"),
            ("tick_delay<5", "tick_delay_"),
            ("settings.count<5", "is not a metric"),
            ("machine.cores<5", "is not a metric"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
        let error = parse("tick_delay_p98<5").unwrap_err();
        assert_eq!(error.split(", ").count(), 5, "{error}");
    }

    #[test]
    fn paths_into_an_attack_are_known_before_the_run() {
        let names = Names::new(&registry());
        let mut attack = AttackReport {
            elapsed_secs: 1.0,
            newcomers: Some(NewcomersReport {
                longest_wait_ms: Some(120.0),
                ..NewcomersReport::default()
            }),
            ..AttackReport::default()
        };
        attack.stats.kicked.insert("bad_size".into(), 3);
        let mut report = Report {
            attack: Some(attack),
            ..Report::default()
        };
        for (text, holds, may_be_own_lag) in [
            ("attack.newcomers.longest_wait_ms<100", false, true),
            ("attack.stats.kicked.bad_size==3", true, false),
            ("attack.stats.kicked.rate_limit==0", true, false),
            ("attack.elapsed_secs<0.99", false, false),
        ] {
            let result = Assertion::parse(text, &names)
                .unwrap()
                .evaluate(&report, 30.0);
            let outcome = (result.holds, result.may_be_own_lag);
            assert_eq!(outcome, (holds, may_be_own_lag), "{text}");
        }
        report.attack = None;
        let text = "attack.newcomers.longest_wait_ms<100";
        let result = Assertion::parse(text, &names)
            .unwrap()
            .evaluate(&report, 0.0);
        assert_eq!((result.value, result.holds), (None, false));
    }
}
