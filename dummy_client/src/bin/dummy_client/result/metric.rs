//! The numbers of a summary by name, and their units.

use game_server::packets::CHAT_FLOOD;
use serde_json::Value;
use server_core::DisconnectReason;
use std::collections::BTreeMap;

/// Every number of a summary under its path, `tick_delay_ms.p99` for example. Lists have none, and
/// settings are no result.
#[derive(Clone, Debug, Default)]
pub struct Metrics(BTreeMap<String, f64>);

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Milliseconds,
    Microseconds,
    Seconds,
    Bytes,
    /// Pieces, or a share.
    One,
}

const NO_RESULTS: [&str; 3] = ["settings", "schema_version", "machine"];
/// Under this the keys are not known before: what is not there has not happened.
const BY_REASON: &str = "losses.";

impl Metrics {
    /// All numbers of a summary in its JSON form.
    pub fn of(summary: &Value) -> Self {
        let mut metrics = Self::default();
        if let Value::Object(fields) = summary {
            for (name, value) in fields {
                if !NO_RESULTS.contains(&name.as_str()) {
                    metrics.take(name, value);
                }
            }
        }
        metrics
    }

    fn take(&mut self, path: &str, value: &Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    self.take(&format!("{path}.{name}"), value);
                }
            }
            Value::Bool(yes) => {
                self.0.insert(path.into(), f64::from(u8::from(*yes)));
            }
            other => {
                if let Some(number) = other.as_f64() {
                    self.0.insert(path.into(), number);
                }
            }
        }
    }

    /// The number under this path; `None` if there is none, or if nothing was measured for it.
    pub fn value(&self, path: &str) -> Option<f64> {
        if path.starts_with(BY_REASON) {
            return Some(self.0.get(path).copied().unwrap_or(0.0));
        }
        // A quantile of nothing is no quantile.
        let is_measured = match path.rsplit_once('.') {
            Some((parent, leaf)) if leaf != "count" => {
                self.0.get(&format!("{parent}.count")) != Some(&0.0)
            }
            _ => true,
        };
        self.0.get(path).copied().filter(|_| is_measured)
    }

    /// The path that a user means by a name: the path itself, or the path with `_` for its dots
    /// and without the unit, as in `tick_delay_p99`.
    ///
    /// # Errors
    /// The names that are most like it.
    pub fn resolve(&self, name: &str) -> Result<String, Vec<String>> {
        let is_reason =
            |label: &str| label == CHAT_FLOOD.label() || DisconnectReason::LABELS.contains(&label);
        if self.0.contains_key(name) || name.strip_prefix(BY_REASON).is_some_and(is_reason) {
            return Ok(name.into());
        }
        let found = self.0.keys().find(|path| short_name(path) == name);
        found.cloned().ok_or_else(|| self.like(name))
    }

    fn like(&self, name: &str) -> Vec<String> {
        let names = self.0.keys().map(|path| short_name(path));
        let mut names: Vec<(usize, String)> = names
            .map(|known| (different_words(&known, name), known))
            .collect();
        names.sort();
        names.truncate(5);
        names.into_iter().map(|(_, name)| name).collect()
    }
}

/// The unit of the number under this path: the last name with a unit tells.
pub fn unit_of(path: &str) -> Unit {
    let (parent, leaf) = path.rsplit_once('.').unwrap_or(("", path));
    if leaf == "count" {
        return Unit::One;
    }
    match [leaf, parent].map(unit_of_name) {
        [Unit::One, of_parent] => of_parent,
        [of_leaf, _] => of_leaf,
    }
}

fn unit_of_name(name: &str) -> Unit {
    match name.rsplit(['_', '.']).next() {
        Some("ms") => Unit::Milliseconds,
        Some("secs") => Unit::Seconds,
        Some("bytes") => Unit::Bytes,
        _ if name.ends_with("_us_per_packet") => Unit::Microseconds,
        _ => Unit::One,
    }
}

fn short_name(path: &str) -> String {
    path.replace("_ms.", "_").replace('.', "_")
}

/// How many words one has and the other has not: enough to find a slip.
fn different_words(known: &str, name: &str) -> usize {
    let words = |text: &str| -> Vec<String> { text.split(['_', '.']).map(Into::into).collect() };
    let (known, name) = (words(known), words(name));
    let missing = |from: &[String], within: &[String]| {
        let absent = from.iter().filter(|word| !within.contains(word));
        absent.count()
    };
    missing(&known, &name) + missing(&name, &known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metrics() -> Metrics {
        Metrics::of(&json!({
            "schema_version": 1,
            "settings": { "count": 5 },
            "lost": 0,
            "ticks": { "missing": 2 },
            "tick_delay_ms": { "count": 10, "p50": 1.0, "p99": 12.5 },
            "rtt_ms": { "count": 0, "p99": 0.0 },
            "client": { "client_limited": true, "cpu_us_per_packet": 3.5 },
            "losses": { "peer_closed": 4 },
            "timeline": [{ "lost": 1 }],
        }))
    }

    #[test]
    fn paths_and_short_names() {
        let metrics = metrics();
        let resolved = |name: &str| metrics.resolve(name).unwrap();
        assert_eq!(resolved("tick_delay_p99"), "tick_delay_ms.p99");
        assert_eq!(resolved("tick_delay_ms.p99"), "tick_delay_ms.p99");
        assert_eq!(resolved("ticks_missing"), "ticks.missing");
        assert_eq!(resolved("lost"), "lost");
        assert_eq!(resolved("losses.peer_reset"), "losses.peer_reset");
        assert!(metrics.resolve("losses.peer_rest").is_err());
        assert!(metrics.resolve("settings.count").is_err());
        assert!(metrics.resolve("timeline").is_err());
        let like = metrics.resolve("tick_delay_99").unwrap_err();
        assert!(like.contains(&"tick_delay_p99".into()), "{like:?}");
    }

    #[test]
    fn what_was_not_measured_has_no_value() {
        let metrics = metrics();
        assert_eq!(metrics.value("tick_delay_ms.p99"), Some(12.5));
        assert_eq!(metrics.value("rtt_ms.p99"), None);
        assert_eq!(metrics.value("rtt_ms.count"), Some(0.0));
        assert_eq!(metrics.value("client.client_limited"), Some(1.0));
        assert_eq!(metrics.value("losses.peer_closed"), Some(4.0));
        assert_eq!(metrics.value("losses.io_error"), Some(0.0));
        assert_eq!(metrics.value("nothing"), None);
    }

    #[test]
    fn units() {
        let units = [
            ("tick_delay_ms.p99", Unit::Milliseconds),
            ("tick_delay_ms.count", Unit::One),
            ("client.worst_stall_ms", Unit::Milliseconds),
            ("client.cpu_us_per_packet", Unit::Microseconds),
            ("elapsed_secs", Unit::Seconds),
            ("packets.bytes", Unit::Bytes),
            ("lost", Unit::One),
        ];
        for (path, unit) in units {
            assert_eq!(unit_of(path), unit, "{path}");
        }
    }
}
