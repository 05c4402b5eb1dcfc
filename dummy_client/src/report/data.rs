//! The result of a run as data. Its serde form is the JSON of schema 2.

use super::step::Step;
use crate::attack::AttackReport;
use crate::executor::capacity::CapacityReport;
use crate::metrics::{Definition, Histogram, Kind, Others, PointTrend, Unit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use server_core::host::HostLimits;
use std::collections::{BTreeMap, BTreeSet};

/// The name of the schema.
pub const SCHEMA: &str = "dummy_client.report";
/// Increases when a field changes its meaning or is removed; new fields come without that.
pub const SCHEMA_VERSION: u32 = 2;
/// The largest number that JavaScript reads exactly: 2^53 - 1. Counters stop there.
pub const MAX_EXACT: u64 = (1 << 53) - 1;

/// Everything that a run has found out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// `dummy_client.report`
    pub schema: String,
    /// 2
    pub schema_version: u32,
    /// The verdict.
    pub verdict: Verdict,
    /// Failed checks; empty if every check passed.
    pub failures: Vec<String>,
    /// What the run did not check, a sentence each.
    pub not_checked: Vec<String>,
    /// The outcome of each assertion.
    pub assertions: Vec<AssertionResult>,
    /// When, where and with what the run was made.
    pub run: RunInfo,
    /// Every metric by name, in the order of registration.
    pub metrics: Metrics,
    /// The client itself.
    pub client: ClientHealth,
    /// The machine of the client.
    pub machine: MachineFacts,
    /// Users at the end, and what became of them.
    pub sessions: Sessions,
    /// Lost sessions and failed connects by reason, the most frequent first.
    pub disconnects: Vec<ReasonCount>,
    /// Disconnects of reasons that are not listed.
    pub other_disconnects: Others,
    /// Close messages of the server by code and text, the most frequent first.
    pub close_messages: Vec<CloseMessageCount>,
    /// Close messages that are not listed.
    pub other_close_messages: Others,
    /// A point a second; a run of more than 2,000 s has coarser points.
    pub timeline: Vec<Point>,
    /// The outcome of an attack run.
    pub attack: Option<AttackReport>,
    /// The outcome of a capacity search.
    pub capacity: Option<CapacityReport<Step>>,
}

/// The verdict of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All users connected, every check passed, every assertion holds.
    Ok,
    /// A check of the server failed, an assertion broke, or the run checked nothing.
    #[default]
    Failed,
    /// The client was too slow for its figures to say anything about the server.
    ClientLimited,
}

impl Verdict {
    /// As in the JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::ClientLimited => "client_limited",
        }
    }
}

impl Report {
    /// The settings that another run has not, or has otherwise: the name, and both values as text. The last of
    /// them is the list of assertions.
    pub(crate) fn different_settings(&self, other: &Self) -> Vec<(String, String, String)> {
        let (a, b) = (&self.run.settings, &other.run.settings);
        let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        let value = |settings: &BTreeMap<String, Value>, name: &str| {
            let value = settings.get(name);
            value.map_or("null".into(), ToString::to_string)
        };
        let assertions = |report: &Self| {
            let expressions = report.assertions.iter().map(|one| one.expr.as_str());
            format!("{:?}", expressions.collect::<Vec<_>>().join(" and "))
        };
        let settings =
            (names.into_iter()).map(|name| (name.clone(), value(a, name), value(b, name)));
        let lists = (
            "the list of assertions".to_string(),
            assertions(self),
            assertions(other),
        );
        let all = settings.chain([lists]);
        all.filter(|(_, from, to)| from != to).collect()
    }
}

/// The outcome of one assertion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AssertionResult {
    /// As it was given.
    pub expr: String,
    /// The metric and its statistic, `tick_delay.p99`.
    pub metric: String,
    /// In the unit of the metric.
    pub limit: f64,
    /// The measured value. `null`: nothing was measured, and the assertion is broken.
    pub value: Option<f64>,
    /// In the unit of the metric.
    pub unit: Option<Unit>,
    /// Whether the assertion holds.
    pub holds: bool,
    /// The assertion is broken by no more than the longest lag of the client itself.
    pub may_be_own_lag: bool,
}

/// When, where and with what a run was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunInfo {
    /// The start of the run, RFC 3339 in UTC.
    pub started_at: String,
    /// From the start to the end of the run.
    pub elapsed_secs: f64,
    /// The name of the client's host.
    pub host: String,
    /// The address of the server.
    pub addr: String,
    /// The version of the client.
    pub version: String,
    /// The name of the scenario.
    pub scenario: String,
    /// The seed; text, because JavaScript cannot read every u64.
    pub seed: String,
    /// `I/N` of a run that is one of N parts.
    pub share: Option<String>,
    /// What the run was asked for. Two runs with different settings cannot be compared.
    pub settings: BTreeMap<String, Value>,
}

/// What became of the users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sessions {
    /// Users that the run asked for.
    pub requested: usize,
    /// Users that were connected at least once (and logged in, if the scenario has a login).
    pub connected: usize,
    /// Users that were never connected.
    pub never_connected: usize,
    /// The largest number of sessions at a time.
    pub max_connected: usize,
    /// Sessions at the end.
    pub connected_at_end: usize,
    /// Users without a session at the end that should have one.
    pub disconnected_at_end: usize,
    /// Users that had left by plan and did not come back.
    pub not_reconnected: usize,
    /// Users without a session at the end because this machine had no port, descriptor or memory left: neither
    /// `never_connected` nor `not_reconnected` blames the server for them.
    #[serde(default)]
    pub limited_by_client: usize,
    /// Connects that failed, refused ones included.
    pub failed_connects: u64,
    /// Connects that the server refused because it was full.
    pub refused: u64,
    /// Sessions that were lost.
    pub lost: u64,
    /// Lost sessions that were back within 10 s.
    pub reconnected: u64,
    /// Lost sessions that were back later.
    pub reconnected_late: u64,
    /// Sessions that left by plan.
    pub closed: u64,
    /// Logins that failed or took longer than the login timeout.
    pub failed_logins: u64,
    /// Seconds without a packet or a tick of the server, if these were too many.
    pub server_silent_secs: f64,
}

impl Sessions {
    /// The users that the server may be blamed for: those of `never_connected`, and those of `not_reconnected`.
    pub(crate) fn blamed(&self) -> [usize; 2] {
        let left = self.limited_by_client.saturating_sub(self.not_reconnected);
        [
            self.never_connected.saturating_sub(left),
            self.not_reconnected.saturating_sub(self.limited_by_client),
        ]
    }
}

/// One reason and how often it occurred.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReasonCount {
    /// The reason.
    pub reason: String,
    /// Times.
    pub count: u64,
}

/// A close message of the server and how often it was received.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CloseMessageCount {
    /// The reason code.
    pub code: u16,
    /// The text.
    pub text: String,
    /// Times.
    pub count: u64,
}

/// One point of the timeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Point {
    /// Seconds since the start.
    pub at_secs: f64,
    /// Sessions.
    pub sessions: usize,
    /// Lost sessions since the start.
    pub sessions_lost: u64,
    /// Received packets a second.
    pub packets_per_sec: f64,
    /// Received bytes a second.
    pub bytes_per_sec: f64,
    /// Each trend with samples in this second, by name. The samples of a tick delay belong to the second in
    /// which the tick was due.
    pub trends: BTreeMap<String, PointTrend>,
}

/// Whether the client was the bottleneck.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClientHealth {
    /// The figures of this run may be the client's own.
    pub client_limited: bool,
    /// Why.
    pub reasons: Vec<String>,
    /// The longest time for which the process was not run.
    pub worst_stall_ms: f64,
    /// The longest time for which a packet can have waited to be read.
    pub worst_loop_lag_ms: f64,
    /// The longest time from the moment at which a request was due to its sending.
    pub worst_late_send_ms: f64,
    /// The busiest event loop in its busiest second, of 1.
    pub busiest_loop: f64,
    /// CPU time of the process over the wall time; 1 is one core.
    pub cpu_cores: f64,
    /// CPU time of the process for each packet that it received, in microseconds.
    pub cpu_us_per_packet: f64,
    /// Time for which the CPU quota of the process's control group stopped it.
    pub throttled_ms: f64,
    /// Connects that failed because this machine had no port, descriptor or memory left.
    pub own_limits: u64,
}

/// Limits of the client's machine; `null`: the system does not tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MachineFacts {
    /// Name and release of the system.
    pub system: String,
    /// Cores that the process may use.
    pub cores: usize,
    /// Memory of the machine.
    pub memory_total_bytes: Option<u64>,
    /// As raised at the start.
    pub fd_soft_limit: Option<u64>,
    /// The hard limit of open files.
    pub fd_hard_limit: Option<u64>,
    /// Of one address; reserved ports are not counted.
    pub ephemeral_ports: Option<u64>,
    /// The largest backlog of a listener.
    pub somaxconn: Option<u64>,
}

impl From<&HostLimits> for MachineFacts {
    fn from(limits: &HostLimits) -> Self {
        Self {
            system: limits.system.clone(),
            cores: limits.cores,
            memory_total_bytes: limits.memory_total_bytes,
            fd_soft_limit: limits.fd_soft_limit,
            fd_hard_limit: limits.fd_hard_limit,
            ephemeral_ports: limits.ephemeral_ports,
            somaxconn: limits.somaxconn,
        }
    }
}

/// Metrics by name, in the order of registration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(pub Vec<(String, Metric)>);

/// One metric and its value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Metric {
    /// A sum.
    Counter {
        /// At most 2^53 - 1.
        value: u64,
        /// The unit of the value.
        unit: Unit,
        /// The same by packet name.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        by_packet: BTreeMap<String, u64>,
    },
    /// A sum that must be 0.
    Check {
        /// At most 2^53 - 1.
        value: u64,
        /// The failure behind the number.
        failure: String,
        /// The sum is a part of `lost`.
        is_loss: bool,
        /// A stall of the client of more than 1 s explains the failure.
        is_excusable: bool,
    },
    /// A share of events.
    Rate {
        /// Events that passed.
        passes: u64,
        /// All events.
        total: u64,
        /// `passes` of `total`, 0 to 1; `null` without an event.
        value: Option<f64>,
    },
    /// Durations.
    Trend(TrendValue),
    /// The latest value; `null` if it is not known.
    Gauge {
        /// The value.
        value: Option<f64>,
        /// The unit of the value.
        unit: Unit,
    },
}

/// Durations, in milliseconds. Of no sample, all statistics are 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrendValue {
    /// `ms`
    pub unit: String,
    /// For people.
    pub title: String,
    /// Samples.
    pub count: u64,
    /// The mean.
    pub mean: f64,
    /// The shortest.
    pub min: f64,
    /// Half of the samples are at most this long.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 95 %.
    pub p95: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// Every bucket with samples: its upper bound in microseconds, and its count. Three significant digits.
    #[serde(serialize_with = "in_one_line")]
    pub histogram: Vec<(u64, u64)>,
}

/// A histogram of hundreds of buckets is one line of a JSON that is indented for people.
fn in_one_line<S: serde::Serializer>(
    histogram: &Vec<(u64, u64)>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    use serde::ser::Error;
    let raw = serde_json::value::to_raw_value(histogram).map_err(S::Error::custom)?;
    raw.serialize(serializer)
}

impl TrendValue {
    /// The statistics of a histogram.
    #[must_use]
    pub fn new(title: &str, histogram: &Histogram) -> Self {
        Self {
            unit: "ms".into(),
            title: title.into(),
            count: histogram.len().min(MAX_EXACT),
            mean: histogram.mean_ms(),
            min: histogram.min_ms(),
            p50: histogram.quantile_ms(0.5),
            p90: histogram.quantile_ms(0.9),
            p95: histogram.quantile_ms(0.95),
            p99: histogram.quantile_ms(0.99),
            p999: histogram.quantile_ms(0.999),
            max: histogram.quantile_ms(1.0),
            histogram: histogram.buckets().collect(),
        }
    }

    /// The names of the statistics, as assertions use them.
    pub const STATISTICS: [&str; 9] = [
        "count", "mean", "min", "p50", "p90", "p95", "p99", "p999", "max",
    ];

    /// A statistic by its name. `None`: the trend has no sample, or the name is unknown.
    #[must_use]
    pub fn statistic(&self, name: &str) -> Option<f64> {
        let value = match name {
            "count" => return Some(self.count as f64),
            "mean" => self.mean,
            "min" => self.min,
            "p50" => self.p50,
            "p90" => self.p90,
            "p95" => self.p95,
            "p99" => self.p99,
            "p999" => self.p999,
            "max" => self.max,
            _ => return None,
        };
        (self.count > 0).then_some(value)
    }

    /// The histogram again.
    #[must_use]
    pub fn to_histogram(&self) -> Histogram {
        let mut histogram = Histogram::default();
        for &(micros, count) in &self.histogram {
            histogram.record_micros(micros, count);
        }
        histogram
    }
}

/// The values behind the definitions of a registry.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// By [`Counter`](crate::metrics::Counter).
    pub counters: &'a [u64],
    /// By [`Trend`](crate::metrics::Trend).
    pub trends: &'a [Histogram],
    /// By [`Gauge`](crate::metrics::Gauge).
    pub gauges: &'a [Option<f64>],
}

impl Metric {
    /// The metric of a definition.
    #[must_use]
    pub fn new(definition: &Definition, values: Values<'_>) -> Self {
        let count = |counter: crate::metrics::Counter| {
            let value = values.counters.get(counter.0).copied().unwrap_or(0);
            value.min(MAX_EXACT)
        };
        match &definition.kind {
            Kind::Counter(counter, unit) => Self::Counter {
                value: count(*counter),
                unit: *unit,
                by_packet: BTreeMap::new(),
            },
            Kind::Check {
                counter,
                failure,
                is_loss,
                is_excusable,
            } => Self::Check {
                value: count(*counter),
                failure: failure.clone(),
                is_loss: *is_loss,
                is_excusable: *is_excusable,
            },
            Kind::Rate(rate) => {
                let (passes, total) = (count(rate.passes), count(rate.total));
                Self::Rate {
                    passes,
                    total,
                    value: (total > 0).then(|| passes as f64 / total as f64),
                }
            }
            Kind::Trend(trend) => {
                let empty = Histogram::default();
                let histogram = values.trends.get(trend.0).unwrap_or(&empty);
                Self::Trend(TrendValue::new(&definition.title, histogram))
            }
            Kind::Gauge(gauge, unit) => Self::Gauge {
                value: values.gauges.get(gauge.0).copied().flatten(),
                unit: *unit,
            },
        }
    }
}

impl Metrics {
    /// A metric by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Metric> {
        let mut all = self.0.iter();
        all.find(|(known, _)| known == name)
            .map(|(_, metric)| metric)
    }

    /// A trend by its name.
    #[must_use]
    pub fn trend(&self, name: &str) -> Option<&TrendValue> {
        match self.get(name) {
            Some(Metric::Trend(trend)) => Some(trend),
            _ => None,
        }
    }

    /// The value of a counter or a check by its name; 0 if there is none.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        match self.get(name) {
            Some(Metric::Counter { value, .. } | Metric::Check { value, .. }) => *value,
            _ => 0,
        }
    }

    /// Names and metrics, in the order of registration.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Metric)> {
        self.0.iter().map(|(name, metric)| (name.as_str(), metric))
    }
}

impl Serialize for Metrics {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Metrics {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> serde::de::Visitor<'de> for InOrder {
            type Value = Metrics;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("metrics by name")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Metrics, A::Error> {
                let mut metrics = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    metrics.push(entry);
                }
                Ok(Metrics(metrics))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl JsonSchema for Metrics {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Metrics".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        BTreeMap::<String, Metric>::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Registry;

    #[test]
    fn metrics_keep_their_order_and_their_values_through_json() {
        let mut registry = Registry::default();
        let trend = registry.trend("rtt", "echo");
        let counter = registry.counter("bytes", Unit::Bytes);
        registry.check("lost_moves", "moves were lost");
        registry.rate("in_time");
        registry.gauge("period", Unit::Milliseconds);
        let mut histograms = vec![Histogram::default()];
        histograms[trend.0].record_micros(1_500, 3);
        let mut counters = vec![0; registry.counters()];
        counters[counter.0] = u64::MAX;
        let values = Values {
            counters: &counters,
            trends: &histograms,
            gauges: &[None],
        };
        let definitions = registry.definitions().iter();
        let metrics = definitions.map(|one| (one.name.clone(), Metric::new(one, values)));
        let report = Report {
            metrics: Metrics(metrics.collect()),
            ..Report::default()
        };
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.contains(r#""bytes":{"type":"counter","value":9007199254740991,"unit":"B"}"#));
        let read: Report = serde_json::from_str(&json).unwrap();
        assert_eq!(read, report);
        let names: Vec<&str> = read.metrics.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["rtt", "bytes", "lost_moves", "in_time", "period"]);
        let trend = read.metrics.trend("rtt").unwrap();
        assert_eq!((trend.count, trend.statistic("p99")), (3, Some(1.5)));
        assert_eq!(trend.to_histogram().quantile_ms(0.5), 1.5);
    }
}
