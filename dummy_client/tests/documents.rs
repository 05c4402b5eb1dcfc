//! The README agrees with the program: flags, metrics and attacks.

use crate::pages;
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;

const README: &str = include_str!("../README.md");
const PROJECT_README: &str = include_str!("../../README.md");

fn help(arguments: &[&str]) -> String {
    pages::help(env!("CARGO_BIN_EXE_dummy_client"), arguments)
}

#[test]
fn the_readme_has_every_flag_with_its_default() {
    let helps = [
        &["--help"][..],
        &["compare", "--help"],
        &["merge", "--help"],
        &["report", "--help"],
    ];
    let help: String = helps.into_iter().map(help).collect();
    pages::assert_flags_match(README, &help);
}

/// A run that cannot connect has every metric.
#[test]
fn the_readme_has_every_metric_with_its_type() {
    // Port 1 is reserved, and no server of a test can have it.
    let arguments = ["--addr", "127.0.0.1:1", "--count", "1", "--json", "-"];
    let output = Command::new(env!("CARGO_BIN_EXE_dummy_client"))
        .args(arguments)
        .output();
    let report: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let metrics = report["metrics"].as_object().unwrap().iter();
    let type_of = |metric: &Value| match metric["is_loss"].as_bool() {
        Some(true) => "check, loss".to_owned(),
        _ => metric["type"].as_str().unwrap().to_owned(),
    };
    let found: BTreeMap<&str, String> = metrics
        .map(|(name, metric)| (name.as_str(), type_of(metric)))
        .collect();
    let (_, section) = README.split_once("\n## Metrics\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let type_cell = |row: &str| row.split('|').nth(1).unwrap().trim().to_owned();
    let documented = pages::rows(section, "").into_iter();
    let documented: BTreeMap<&str, String> = documented
        .map(|(name, row)| (name, type_cell(row)))
        .collect();
    assert_eq!(documented, found);
}

#[test]
fn the_readme_has_every_attack() {
    let help = help(&["--help"]);
    let (_, listed) = help.split_once("\nAttacks: ").unwrap();
    let (listed, _) = listed.split_once('.').unwrap();
    let mut attacks: Vec<&str> = listed
        .split([',', ' ', '\n'])
        .filter(|name| !name.is_empty())
        .collect();
    attacks.sort_unstable();
    let (_, section) = README.split_once("\n## Attacks\n").unwrap();
    let (section, _) = section.split_once("\n| field of").unwrap();
    let number = format!("# one of {} attacks,", attacks.len());
    assert!(PROJECT_README.contains(&number), "{number}");
    assert!(pages::rows(section, "").into_keys().eq(attacks));
}

/// The first example that a reader tries shows the whole API in 60 lines.
#[test]
fn own_bot_has_60_lines() {
    let lines = include_str!("../examples/own_bot/main.rs").lines().count();
    assert!(lines <= 60, "{lines}");
}
