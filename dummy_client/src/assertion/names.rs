//! The figures of a report by name, and their units: known from the registry before the run.

use crate::metrics::{Definition, Kind, Registry, Unit};
use crate::report::{Metric, Report, TrendValue};
use schemars::JsonSchema;
use serde_json::Value;
use server_core::DisconnectReason;

/// Every figure that an assertion can name.
#[derive(Clone, Debug)]
pub struct Names {
    names: Vec<Name>,
    /// Reasons that a server may send; the names of the counts by reason end with them.
    labels: Vec<String>,
}

/// One figure of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    /// `tick_delay.p99`, `lost`, `client.worst_stall_ms`.
    pub path: String,
    /// The unit of the figure.
    pub unit: Unit,
}

/// The sum of all losses.
const LOST: &str = "lost";
const DISCONNECTS: &str = "disconnects.";
/// The sections of a report whose numbers have names. The metrics have names from the registry.
const SECTIONS: [&str; 4] = ["sessions", "client", "attack", "capacity"];
const SIMILAR_NAMES: usize = 5;

impl Names {
    /// The metrics of a registry, `lost`, and the numbers of the sections `sessions`, `client`, `attack` and
    /// `capacity`.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let mut names = Self {
            names: Vec::new(),
            labels: DisconnectReason::LABELS.map(Into::into).into(),
        };
        for definition in registry.definitions() {
            names.add_metric(definition);
        }
        names.add(LOST.into(), Unit::Count);
        names.add("run.elapsed_secs".into(), Unit::Seconds);
        let schema = Value::from(schemars::schema_for!(Report));
        for section in SECTIONS {
            let properties = &schema["properties"][section];
            names.add_schema(section, properties, &schema, 0);
        }
        names
    }

    /// Adds the numbers of a section that the report holds as plain JSON.
    #[must_use]
    pub fn with_section<T: JsonSchema>(mut self, section: &str) -> Self {
        let schema = Value::from(schemars::schema_for!(T));
        self.add_schema(section, &schema, &schema, 0);
        self
    }

    /// Adds a reason that a server may send, beside those of the library.
    #[must_use]
    pub fn with_reason(mut self, label: impl Into<String>) -> Self {
        self.labels.push(label.into());
        self
    }

    /// The figure that a name means: its path, or the path with `_` for its dots, with or without the unit.
    ///
    /// # Errors
    /// The five most similar names.
    pub fn resolve(&self, given: &str) -> Result<Name, Vec<String>> {
        let exact = self.names.iter().find(|name| name.path == given);
        let short = given.replace('.', "_");
        let by_alias = || self.names.iter().find(|name| name.is_alias(&short));
        let found = exact.or_else(by_alias).cloned();
        found
            .or_else(|| self.by_reason(given))
            .ok_or_else(|| self.similar_to(&short))
    }

    fn by_reason(&self, given: &str) -> Option<Name> {
        let (parent, label) = given.rsplit_once('.')?;
        let parent = format!("{parent}.");
        let is_known = parent == DISCONNECTS || self.names.iter().any(|name| name.path == parent);
        let is_label = self.labels.iter().any(|known| known == label);
        (is_known && is_label).then(|| Name {
            path: given.into(),
            unit: Unit::Count,
        })
    }

    fn similar_to(&self, given: &str) -> Vec<String> {
        let mut names: Vec<_> = (self.names.iter())
            .filter(|name| !name.path.ends_with('.'))
            .map(|name| name.path.replace('.', "_"))
            .map(|name| {
                (
                    different_words(&name, given),
                    edit_distance(&name, given),
                    name,
                )
            })
            .collect();
        names.sort();
        names.dedup();
        names.truncate(SIMILAR_NAMES);
        names.into_iter().map(|(.., name)| name).collect()
    }

    fn add(&mut self, path: String, unit: Unit) {
        self.names.push(Name { path, unit });
    }

    fn add_metric(&mut self, definition: &Definition) {
        let name = &definition.name;
        match definition.kind {
            Kind::Counter(_, unit) => self.add(name.clone(), unit),
            Kind::Check { .. } => self.add(name.clone(), Unit::Count),
            Kind::Gauge(_, unit) => self.add(name.clone(), unit),
            Kind::Rate(_) => {
                self.add(name.clone(), Unit::Ratio);
                self.add(format!("{name}.passes"), Unit::Count);
                self.add(format!("{name}.total"), Unit::Count);
            }
            Kind::Trend(_) => {
                for statistic in TrendValue::STATISTICS {
                    let unit = match statistic {
                        "count" => Unit::Count,
                        _ => Unit::Milliseconds,
                    };
                    self.add(format!("{name}.{statistic}"), unit);
                }
            }
        }
    }

    /// Adds every number under a path of a JSON schema. Lists have no names.
    fn add_schema(&mut self, path: &str, schema: &Value, root: &Value, depth: usize) {
        /// A type that contains itself ends here.
        const MAX_DEPTH: usize = 8;
        if depth > MAX_DEPTH {
            return;
        }
        if let Some(reference) = schema["$ref"].as_str() {
            let pointer = reference.trim_start_matches('#');
            let target = root.pointer(pointer).unwrap_or(&Value::Null);
            self.add_schema(path, target, root, depth + 1);
        }
        for alternative in ["anyOf", "oneOf", "allOf"] {
            for one in schema[alternative].as_array().into_iter().flatten() {
                self.add_schema(path, one, root, depth + 1);
            }
        }
        if let Some(properties) = schema["properties"].as_object() {
            for (name, property) in properties {
                self.add_schema(&format!("{path}.{name}"), property, root, depth + 1);
            }
        }
        let is_type = |name: &str| match &schema["type"] {
            Value::String(one) => one == name,
            Value::Array(several) => several.iter().any(|one| one == name),
            _ => false,
        };
        if ["number", "integer", "boolean"].into_iter().any(is_type) {
            self.add(path.into(), unit_of(path));
        } else if schema["additionalProperties"].is_object() {
            // The keys are reasons: the name ends with a dot, and does not resolve without a reason.
            self.add(format!("{path}."), Unit::Count);
        }
    }
}

impl Name {
    /// Whether a lag of the client makes the figure larger: a time that the client measured of the server.
    pub(super) fn has_own_lag(&self) -> bool {
        let is_time = match self.unit {
            Unit::Milliseconds | Unit::Seconds | Unit::Microseconds => true,
            Unit::Count | Unit::Bytes | Unit::Ratio => false,
        };
        let is_planned = ["client.", "run.", "sessions."];
        let is_planned = is_planned
            .iter()
            .any(|prefix| self.path.starts_with(prefix));
        is_time && !is_planned && !self.path.ends_with("_secs")
    }

    /// `given` has `_` for each dot.
    fn is_alias(&self, given: &str) -> bool {
        if self.path.ends_with('.') {
            return false;
        }
        let path = self.path.strip_prefix("run.").unwrap_or(&self.path);
        if path.replace('.', "_") == given {
            return true;
        }
        // The unit follows the name of the metric: `tick_delay_ms_p99`.
        let (metric, statistic) = path.split_once('.').unwrap_or((path, ""));
        if SECTIONS.contains(&metric) {
            return false;
        }
        let suffixes: &[&str] = match self.unit {
            Unit::Milliseconds => &["ms"],
            Unit::Seconds => &["secs", "s"],
            Unit::Microseconds => &["us"],
            Unit::Bytes => &["bytes"],
            Unit::Count | Unit::Ratio => &[],
        };
        suffixes.iter().any(|unit| {
            let alias = format!("{metric}_{unit}_{statistic}");
            alias.trim_end_matches('_') == given
        })
    }
}

/// The unit of a number in a section: the last word of its name says it.
fn unit_of(path: &str) -> Unit {
    match path.rsplit(['_', '.']).next() {
        Some("ms") => Unit::Milliseconds,
        Some("secs") => Unit::Seconds,
        Some("bytes") => Unit::Bytes,
        _ if path.ends_with("_us_per_packet") => Unit::Microseconds,
        _ if path.ends_with(".busiest_loop") => Unit::Ratio,
        _ => Unit::Count,
    }
}

/// The figure under a path; `None` if it was not measured.
pub(super) fn value(report: &Report, path: &str) -> Option<f64> {
    let (metric, rest) = path.split_once('.').unwrap_or((path, ""));
    if let Some(found) = report.metrics.get(metric) {
        return match (found, rest) {
            (Metric::Trend(trend), statistic) => trend.statistic(statistic),
            (Metric::Counter { value, .. } | Metric::Check { value, .. }, _) => Some(*value as f64),
            (Metric::Rate { passes, .. }, "passes") => Some(*passes as f64),
            (Metric::Rate { total, .. }, "total") => Some(*total as f64),
            (Metric::Rate { value, .. } | Metric::Gauge { value, .. }, _) => *value,
        };
    }
    if path == LOST {
        return Some(report.lost() as f64);
    }
    if let Some(reason) = path.strip_prefix(DISCONNECTS) {
        let mut listed = report.disconnects.iter();
        let found = listed.find(|one| one.reason == reason);
        let is_complete = report.other_disconnects.count == 0;
        return (found.map(|one| one.count as f64)).or(is_complete.then_some(0.0));
    }
    let section = match metric {
        "run" => serde_json::to_value(&report.run),
        "sessions" => serde_json::to_value(report.sessions),
        "client" => serde_json::to_value(&report.client),
        "attack" => serde_json::to_value(&report.attack),
        "capacity" => serde_json::to_value(&report.capacity),
        _ => return None,
    };
    let section = section.unwrap_or_default();
    let (parent, leaf) = rest.rsplit_once('.').unwrap_or(("", rest));
    let parent = match parent {
        "" => Some(&section),
        path => section.pointer(&format!("/{}", path.replace('.', "/"))),
    };
    match parent?.get(leaf) {
        Some(Value::Bool(value)) => Some(f64::from(u8::from(*value))),
        Some(value) => value.as_f64(),
        // A reason that did not occur.
        None => parent
            .is_some_and(is_count_by_reason(&section))
            .then_some(0.0),
    }
}

/// Whether an object has counts by reason: every value is a count, and the object is not the section itself.
fn is_count_by_reason(section: &Value) -> impl Fn(&Value) -> bool + '_ {
    move |object| {
        let fields = object.as_object();
        !std::ptr::eq(object, section)
            && fields.is_some_and(|fields| fields.values().all(Value::is_u64))
    }
}

/// The words that one name has and the other has not.
fn different_words(one: &str, other: &str) -> usize {
    let words = |text: &str| -> Vec<String> { text.split('_').map(Into::into).collect() };
    let (one, other) = (words(one), words(other));
    let missing = |from: &[String], within: &[String]| {
        let absent = from.iter().filter(|word| !within.contains(word));
        absent.count()
    };
    missing(&one, &other) + missing(&other, &one)
}

/// The Levenshtein distance. A name from the command line is short.
fn edit_distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, a) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}
