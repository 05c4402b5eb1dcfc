//! The metrics of a run as Prometheus text, while the run goes on.

mod endpoint;

pub use endpoint::MetricsEndpoint;

use crate::metrics::Unit;
use crate::report::{Metric, Metrics};
use std::fmt::Write as _;

/// The metrics in the Prometheus text format 0.0.4. Names begin with `dummy_client_`, and times are in seconds.
///
/// | metric | shown as |
/// |---|---|
/// | counter, check | counter `_total`; by packet: `_by_packet_total{packet=".."}` |
/// | trend | summary in `_seconds`, with the quantiles 0.5, 0.9, 0.95, 0.99 and 0.999 |
/// | rate | counters `_passes_total` and `_events_total` |
/// | gauge | gauge; a value that is not known is left out |
#[must_use]
pub fn render(metrics: &Metrics) -> String {
    let mut text = String::new();
    for (name, metric) in metrics.iter() {
        // Writing to a string does not fail.
        let _ = write_metric(&mut text, name, metric);
    }
    text
}

fn write_metric(text: &mut String, name: &str, metric: &Metric) -> std::fmt::Result {
    match metric {
        Metric::Counter {
            value,
            unit,
            by_packet,
        } => {
            let full_name = with_unit(name, *unit);
            let value = in_base_unit(*value as f64, *unit);
            counter(text, &full_name, name, value)?;
            if !by_packet.is_empty() {
                let name = format!("dummy_client_{name}_by_packet_total");
                writeln!(text, "# TYPE {name} counter")?;
                for (packet, count) in by_packet {
                    writeln!(text, "{name}{{packet=\"{}\"}} {count}", escape(packet))?;
                }
            }
            Ok(())
        }
        Metric::Check { value, failure, .. } => counter(text, name, failure, *value as f64),
        Metric::Rate { passes, total, .. } => {
            counter(
                text,
                &format!("{name}_passes"),
                "events that passed",
                *passes as f64,
            )?;
            counter(text, &format!("{name}_events"), "all events", *total as f64)
        }
        Metric::Gauge { value, unit } => {
            let name = with_unit(name, *unit);
            let Some(value) = value else { return Ok(()) };
            let value = in_base_unit(*value, *unit);
            writeln!(text, "# TYPE dummy_client_{name} gauge")?;
            writeln!(text, "dummy_client_{name} {value}")
        }
        Metric::Trend(trend) => {
            let title = escape_help(&trend.title);
            let name = format!("dummy_client_{name}_seconds");
            writeln!(text, "# HELP {name} {title}\n# TYPE {name} summary")?;
            let quantiles = [
                ("0.5", trend.p50),
                ("0.9", trend.p90),
                ("0.95", trend.p95),
                ("0.99", trend.p99),
                ("0.999", trend.p999),
            ];
            for (quantile, ms) in quantiles {
                // The value of a quantile without a sample, as Prometheus' own clients show it.
                let value = if trend.count > 0 {
                    seconds(ms)
                } else {
                    f64::NAN
                };
                writeln!(text, "{name}{{quantile=\"{quantile}\"}} {value}")?;
            }
            let sum = seconds(trend.mean * trend.count as f64);
            writeln!(text, "{name}_sum {sum}\n{name}_count {}", trend.count)
        }
    }
}

fn counter(text: &mut String, name: &str, help: &str, value: f64) -> std::fmt::Result {
    let name = format!("dummy_client_{name}_total");
    let help = escape_help(help);
    writeln!(
        text,
        "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}"
    )
}

/// The name with its base unit, once: `longest_tick_gap_seconds`, `bytes_received`.
fn with_unit(name: &str, unit: Unit) -> String {
    let base = match unit {
        Unit::Milliseconds | Unit::Seconds | Unit::Microseconds => "seconds",
        Unit::Bytes => "bytes",
        Unit::Ratio => "ratio",
        Unit::Count => return name.into(),
    };
    match name.split('_').any(|word| word == base) {
        true => name.into(),
        false => format!("{name}_{base}"),
    }
}

fn in_base_unit(value: f64, unit: Unit) -> f64 {
    match unit {
        Unit::Milliseconds => seconds(value),
        Unit::Microseconds => value / 1e6,
        Unit::Count | Unit::Bytes | Unit::Seconds | Unit::Ratio => value,
    }
}

/// Milliseconds in seconds, to the microsecond: the histogram knows no more.
fn seconds(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e6
}

/// A help text in one line.
fn escape_help(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

/// The value of a label.
fn escape(text: &str) -> String {
    escape_help(text).replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{TrendValue, samples};

    #[test]
    fn every_metric_appears_in_base_units() {
        let text = render(&samples::report().metrics);
        for line in [
            "# TYPE dummy_client_packets_received_total counter",
            "dummy_client_packets_received_total 207",
            "dummy_client_packets_received_by_packet_total{packet=\"S_HELLO\"} 200",
            "dummy_client_bytes_received_total 2000000",
            "# HELP dummy_client_tick_delay_seconds tick against the schedule",
            "# TYPE dummy_client_tick_delay_seconds summary",
            "dummy_client_tick_delay_seconds{quantile=\"0.5\"} 0.010007",
            "dummy_client_tick_delay_seconds_count 200",
            "# HELP dummy_client_ticks_missing_total ticks were missing",
            "dummy_client_ticks_missing_total 1",
            "dummy_client_moves_in_time_passes_total 98",
            "dummy_client_moves_in_time_events_total 100",
            "# TYPE dummy_client_longest_tick_gap_seconds gauge",
            "dummy_client_longest_tick_gap_seconds 0.2505",
            "dummy_client_chat_delay_seconds{quantile=\"0.99\"} NaN",
            "dummy_client_chat_delay_seconds_count 0",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} in\n{text}");
        }
        assert!(!text.contains("tick_period"), "not known:\n{text}");
    }

    #[test]
    fn labels_are_escaped() {
        let metrics = Metrics(vec![
            (
                "packets".into(),
                Metric::Counter {
                    value: 1,
                    unit: Unit::Count,
                    by_packet: [("a\"b\\c\nd".to_owned(), 1)].into(),
                },
            ),
            (
                "rtt".into(),
                Metric::Trend(TrendValue {
                    title: "one\ntwo".into(),
                    ..TrendValue::default()
                }),
            ),
        ]);
        let text = render(&metrics);
        assert!(text.contains(r#"{packet="a\"b\\c\nd"} 1"#), "{text}");
        assert!(text.contains("_seconds one\\ntwo\n"), "{text}");
    }
}
