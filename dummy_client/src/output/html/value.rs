//! JSON values as facts and tables: settings, an attack, a capacity search. A new field appears by itself.

use super::format::{digits, grouped, shown, words};
use super::{Fact, fact};
use crate::report::TrendValue;
use serde_json::{Map, Value};
use server_core::host::human_bytes;

/// A list of facts or a table below a heading.
pub struct Part {
    pub heading: String,
    pub facts: Vec<Fact>,
    pub rows: Vec<Vec<Cell>>,
}

/// A cell of a table.
pub struct Cell {
    /// The head of its column.
    pub name: String,
    pub text: String,
    /// A text may be broken into lines, a number may not.
    pub is_text: bool,
}

/// The fields of an object. Nested objects with the same fields are the rows of one table.
pub fn parts(heading: &str, object: &Map<String, Value>) -> Vec<Part> {
    let mut parts = Vec::new();
    let fields = ordered(object);
    let facts: Vec<_> = fields
        .iter()
        .filter(|(_, value)| is_set(value))
        .filter_map(|&(key, value)| setting(key, value))
        .collect();
    if !facts.is_empty() {
        parts.push(Part {
            heading: heading.into(),
            facts,
            rows: Vec::new(),
        });
    }
    let mut in_table: Vec<&str> = Vec::new();
    for &(key, value) in &fields {
        let heading = match heading {
            "" => words(key),
            outer => format!("{outer}: {}", words(key)),
        };
        match value {
            _ if in_table.contains(&key) => {}
            Value::Array(items) => {
                let rows = items.iter().filter_map(Value::as_object);
                parts.extend(table(heading, rows.map(|row| (None, row))));
            }
            Value::Object(inner) => {
                let is_like = |(_, other): &(&str, &Value)| {
                    other.as_object().is_some_and(|other| {
                        is_flat(other) && other.keys().eq(inner.keys()) && !other.is_empty()
                    })
                };
                let like: Vec<_> = fields.iter().copied().filter(is_like).collect();
                if like.len() < 2 {
                    parts.extend(self::parts(&heading, inner));
                    continue;
                }
                in_table.extend(like.iter().map(|(key, _)| *key));
                let names: Vec<_> = like.iter().map(|(key, _)| words(key)).collect();
                let rows = like
                    .iter()
                    .filter_map(|&(key, value)| Some((Some(words(key)), value.as_object()?)));
                parts.extend(table(names.join(" and "), rows));
            }
            _ => {}
        }
    }
    parts
}

/// A table with a column for each field, after the name of the row, if it has one.
fn table<'a>(
    heading: String,
    rows: impl Iterator<Item = (Option<String>, &'a Map<String, Value>)>,
) -> Option<Part> {
    let rows: Vec<_> = rows.map(|(name, row)| (name, flat(row))).collect();
    let fields = rows.iter().flat_map(|(_, row)| row.clone());
    let all: Map<String, Value> = fields.collect();
    let columns = ordered(&all);
    let cells = |(name, row): &(Option<String>, Map<String, Value>)| {
        let cell = |(key, _): &(&str, &Value)| {
            let value = row.get(*key).unwrap_or(&Value::Null);
            let fact = setting(key, value).unwrap_or_else(|| fact(&words(key), plain(value), ""));
            Cell {
                name: fact.name,
                text: fact.value,
                is_text: !value.is_number(),
            }
        };
        let name = name.clone().map(|text| Cell {
            name: String::new(),
            text,
            is_text: true,
        });
        name.into_iter().chain(columns.iter().map(cell)).collect()
    };
    (!rows.is_empty()).then(|| Part {
        heading,
        facts: Vec::new(),
        rows: rows.iter().map(cells).collect(),
    })
}

/// The fields of a row. Those of an object in the row follow its name: `rtt` in `p99_ms` is `rtt_p99_ms`.
fn flat(row: &Map<String, Value>) -> Map<String, Value> {
    let mut fields = Map::new();
    for (key, value) in row {
        match value {
            Value::Object(inner) => {
                let inner = inner.iter();
                fields.extend(inner.map(|(name, value)| (format!("{name}_{key}"), value.clone())));
            }
            _ => {
                fields.insert(key.clone(), value.clone());
            }
        }
    }
    fields
}

/// Whether a field has a content.
pub fn is_set(value: &Value) -> bool {
    !value.is_null() && value.as_array().is_none_or(|all| !all.is_empty())
}

fn is_flat(object: &Map<String, Value>) -> bool {
    object
        .values()
        .all(|value| !value.is_object() && !value.is_array())
}

/// The fields of an object: the most telling ones first, the statistics of each time together and in their
/// usual order.
fn ordered(object: &Map<String, Value>) -> Vec<(&str, &Value)> {
    const FIRST: [&str; 7] = [
        "name",
        "baseline",
        "outcome",
        "largest",
        "read_interval_ms",
        "sessions",
        "holds",
    ];
    const STATISTICS: [&str; 9] = TrendValue::STATISTICS;
    let rank = |key: &str| {
        if let Some(place) = FIRST.iter().position(|first| *first == key) {
            return (0, String::new(), place);
        }
        let is_known = |word: &&str| STATISTICS.contains(word);
        match key.split('_').find(is_known) {
            None => (1, String::new(), 0),
            Some(word) => {
                let place = STATISTICS.iter().position(|known| *known == word);
                (2, key.replacen(word, "", 1), place.unwrap_or(0))
            }
        }
    };
    let mut fields: Vec<_> = object
        .iter()
        .map(|(key, value)| (key.as_str(), value))
        .collect();
    fields.sort_by_cached_key(|(key, _)| rank(key));
    fields
}

/// A field as a fact; its name without the unit, which follows the number. `None` for objects and lists of them.
pub fn setting(key: &str, value: &Value) -> Option<Fact> {
    const UNITS: [(&str, &str); 5] = [
        ("_ms", " ms"),
        ("_secs", " s"),
        ("_per_sec", "/s"),
        ("_hz", "/s"),
        ("_us", " µs"),
    ];
    let text = match value {
        Value::Object(_) => return None,
        Value::Array(items) if items.iter().any(Value::is_object) => return None,
        _ => plain(value),
    };
    let Some(number) = value.as_f64() else {
        return Some(fact(&words(key), text, ""));
    };
    if key.split('_').any(|word| word == "bytes") {
        let per_second = if key.ends_with("_per_sec") { "/s" } else { "" };
        let name = key.trim_end_matches("_per_sec");
        return Some(fact(&words(name), human_bytes(number) + per_second, ""));
    }
    let of_unit = UNITS.iter().find_map(|(end, unit)| {
        let name = key.strip_suffix(end)?;
        Some(fact(&words(name), format!("{text}{unit}"), ""))
    });
    Some(of_unit.unwrap_or_else(|| fact(&words(key), text, "")))
}

/// A value as text.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "–".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(text) => shown(text),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => grouped(whole),
            (None, Some(number)) => digits(number),
            (None, None) => number.to_string(),
        },
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join("; "),
        Value::Object(_) => shown(&value.to_string()),
    }
}
