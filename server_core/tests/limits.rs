//! The table of limits in the crate's documentation and the documentation of each field of `Config`
//! have the values of `Config::default()`.

use server_core::Config;
use std::collections::BTreeMap;

const LIB: &str = include_str!("../src/lib.rs");
const CONFIG: &str = include_str!("../src/base/config.rs");

#[test]
fn table_of_limits_has_each_limit_in_the_order_of_config_with_its_default() {
    let in_doc = table_of(LIB);
    let names = |rows: &[(String, String, String)]| -> Vec<String> {
        rows.iter().map(|(name, ..)| name.clone()).collect()
    };
    let in_code: Vec<(String, String)> = fields_of(&Config::default());
    assert_eq!(
        names(&in_doc),
        in_code
            .iter()
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>(),
        "lib.rs on the left, Config on the right"
    );
    for ((name, unit, default), (_, value)) in in_doc.iter().zip(&in_code) {
        assert_eq!(*default, in_words(name, unit, value), "default of `{name}`");
    }
}

#[test]
fn documentation_of_each_field_names_its_default() {
    let docs = docs_of_fields(CONFIG);
    for (name, _, default) in table_of(LIB) {
        let doc = &docs[&name];
        let said = match default.as_str() {
            "off" => "Default: `None`".to_owned(),
            default => format!("Default: {default}"),
        };
        // The next letter must not make another value of it: "1 MiB", "1 MiBit", "10", "100".
        let rest = doc.split_once(&said).map(|(_, rest)| rest);
        assert!(
            rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric)),
            "`{name}` should say \"{said}\": {doc}"
        );
    }
}

#[test]
fn changed_default_is_found() {
    let mut config = Config::default();
    config.linger *= 2;
    config.idle_timeout = config.packet_timeout;
    config.chunk_bytes += 1;
    let differing: Vec<String> = table_of(LIB)
        .into_iter()
        .zip(fields_of(&config))
        .filter(|((name, unit, default), (_, value))| *default != in_words(name, unit, value))
        .map(|((name, ..), _)| name)
        .collect();
    assert_eq!(differing, ["idle_timeout", "linger", "chunk_bytes"]);
}

/// Name, unit and default of each row.
fn table_of(lib: &str) -> Vec<(String, String, String)> {
    lib.lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let ["//!", link, unit, default, _bounds, _over_it, ""] = cells[..] else {
                return None;
            };
            let (name, target) = link.strip_prefix("[`")?.split_once("`](")?;
            assert_eq!(target, format!("Config::{name})"), "where the link leads");
            Some((name.to_owned(), unit.to_owned(), default.to_owned()))
        })
        .collect()
}

/// Each field and its value, as `Debug` shows them.
fn fields_of(config: &Config) -> Vec<(String, String)> {
    let shown = format!("{config:?}");
    let fields = shown.strip_prefix("Config { ").unwrap();
    let fields = fields.strip_suffix(" }").unwrap();
    fields
        .split(", ")
        .map(|field| {
            let (name, value) = field.split_once(": ").unwrap();
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

/// A value as the table writes it.
fn in_words(name: &str, unit: &str, value: &str) -> String {
    if name == "workers" {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        assert_eq!(value, cores.to_string());
        return "the number of cores".to_owned();
    }
    if name == "max_total_queue_bytes" && value == "None" {
        return "a quarter of the memory".to_owned();
    }
    if value == "None" {
        return "off".to_owned();
    }
    if value == "[]" {
        return "none".to_owned();
    }
    let value = value
        .strip_prefix("Some(")
        .map_or(value, |some| some.trim_end_matches(')'));
    if unit == "time" {
        let letters = value.find(char::is_alphabetic).unwrap();
        return format!("{} {}", &value[..letters], &value[letters..]);
    }
    let number: u64 = value.parse().unwrap();
    match number {
        _ if unit == "bytes" && number.is_multiple_of(1 << 20) => format!("{} MiB", number >> 20),
        _ if unit == "bytes" && number.is_multiple_of(1 << 10) => format!("{} KiB", number >> 10),
        _ => with_commas(number),
    }
}

fn with_commas(number: u64) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", with_commas(number / 1000), number % 1000),
    }
}

/// The documentation of each public field, in one line.
fn docs_of_fields(source: &str) -> BTreeMap<String, String> {
    let mut docs = BTreeMap::new();
    let mut doc = String::new();
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc.push_str(text);
        } else if let Some((name, _)) = line.strip_prefix("pub ").and_then(|f| f.split_once(": ")) {
            docs.insert(name.to_owned(), std::mem::take(&mut doc));
        } else {
            doc.clear();
        }
    }
    docs
}
