//! One step of a capacity search.

use super::data::{Metric, Report, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// One step of a capacity search.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// Sessions of the step.
    pub sessions: usize,
    /// Whether every check and every assertion held.
    pub holds: bool,
    /// Whether the client was the bottleneck: then the step says nothing of the server.
    pub client_limited: bool,
    /// Failed checks and broken assertions.
    pub broken: Vec<String>,
    /// The 99th percentile of each trend with samples, in milliseconds.
    pub p99_ms: BTreeMap<String, f64>,
    /// Received packets a second.
    pub packets_per_sec: f64,
    /// Received bytes a second.
    pub bytes_per_sec: f64,
    /// CPU time of the client over the wall time; 1 is one core.
    pub cpu_cores: f64,
}

impl Step {
    /// The step of a window that was evaluated as a run of its own.
    pub(crate) fn new(sessions: usize, window: &Report) -> Self {
        let broken = window.assertions.iter().filter(|result| !result.holds);
        let broken = broken.map(ToString::to_string);
        let secs = window.run.elapsed_secs.max(f64::MIN_POSITIVE);
        let p99 = window
            .metrics
            .iter()
            .filter_map(|(name, metric)| match metric {
                Metric::Trend(trend) => Some((name.to_string(), trend.statistic("p99")?)),
                _ => None,
            });
        Self {
            sessions,
            holds: window.verdict == Verdict::Ok,
            client_limited: window.client.client_limited,
            broken: window.failures.iter().cloned().chain(broken).collect(),
            p99_ms: p99.collect(),
            packets_per_sec: window.metrics.count("packets_received") as f64 / secs,
            bytes_per_sec: window.metrics.count("bytes_received") as f64 / secs,
            cpu_cores: window.client.cpu_cores,
        }
    }
}

/// `200 sessions: holds (tick_delay p99 1.2 ms, 800 packets/s)`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = if self.client_limited {
            "the client is the bottleneck".into()
        } else if self.holds {
            "holds".into()
        } else {
            format!("breaks: {}", self.broken.join("; "))
        };
        write!(f, "{} sessions: {outcome} (", self.sessions)?;
        for (name, p99) in self
            .p99_ms
            .iter()
            .filter(|(name, _)| name.ends_with("_delay"))
        {
            write!(f, "{name} p99 {p99:.1} ms, ")?;
        }
        write!(f, "{:.0} packets/s)", self.packets_per_sec)
    }
}
