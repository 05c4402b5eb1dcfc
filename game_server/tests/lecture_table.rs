//! The table of the lecture in `README.md` names tests that exist, and has a line for each row.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const README: &str = include_str!("README.md");
const ROWS: u32 = 62;
/// The rows that are no behaviour: an alternative, explanations and stories.
const WITHOUT_TEST: [u32; 8] = [5, 11, 40, 46, 49, 52, 55, 62];

/// A line of the table.
struct Line {
    rows: Vec<u32>,
    tests: Vec<&'static str>,
}

fn table() -> Vec<Line> {
    let lines = README.lines().filter(|line| line.starts_with("| "));
    // Behind the head of the table.
    lines.skip(1).map(parse).collect()
}

fn parse(line: &'static str) -> Line {
    let cells: Vec<&str> = line.split(" | ").collect();
    let [rows, _, tests] = cells[..] else {
        panic!("{line}: not three cells")
    };
    let rows = rows.trim_start_matches("| ").split(", ");
    let tests = tests.trim_end_matches(" |").split(", ");
    Line {
        rows: rows.map(|row| row.parse().unwrap()).collect(),
        tests: tests.map(|test| test.trim_matches('`')).collect(),
    }
}

/// The tests below `folder`, as `crate/file.rs::name`.
fn collect_tests(crate_name: &str, folder: PathBuf, tests: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_tests(crate_name, path, tests);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path.file_name().unwrap().to_str().unwrap();
            let source = std::fs::read_to_string(&path).unwrap();
            for rest in source.split("#[test]").skip(1) {
                // Other attributes may be between the two.
                let mut lines = rest.lines().map(str::trim);
                let function = lines.find_map(|line| line.strip_prefix("fn "));
                let name = function.and_then(|line| line.split('(').next());
                tests.extend(name.map(|name| format!("{crate_name}/{file}::{name}")));
            }
        }
    }
}

fn tests_of_the_workspace() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut tests = BTreeSet::new();
    for crate_name in ["server_core", "game_server", "dummy_client"] {
        for folder in ["src", "tests"] {
            collect_tests(crate_name, root.join(crate_name).join(folder), &mut tests);
        }
    }
    tests
}

#[test]
fn every_test_of_the_table_exists() {
    let known = tests_of_the_workspace();
    let named = table().into_iter().flat_map(|line| line.tests);
    let missing: Vec<&str> = named.filter(|test| !known.contains(*test)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

#[test]
fn every_row_of_the_lecture_is_in_the_table_once() {
    let mut rows: Vec<u32> = table().into_iter().flat_map(|line| line.rows).collect();
    rows.extend(WITHOUT_TEST);
    rows.sort_unstable();
    assert_eq!(rows, (1..=ROWS).collect::<Vec<_>>());
}

#[test]
fn every_test_named_after_a_row_is_in_the_table() {
    let named: BTreeSet<&str> = table().into_iter().flat_map(|line| line.tests).collect();
    let missing: Vec<String> = (tests_of_the_workspace().into_iter())
        .filter(|test| test.contains("::lecture_") && !named.contains(test.as_str()))
        .collect();
    assert!(missing.is_empty(), "not in the table: {missing:#?}");
}
