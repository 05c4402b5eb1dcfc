//! Compares the help of a program with the tables of its page. The tests of both programs use it.

use std::collections::BTreeMap;
use std::process::Command;

/// What the program prints for these arguments.
pub fn help(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The rows of the page's tables whose first cell is code that begins with `prefix`.
pub fn rows<'a>(page: &'a str, prefix: &str) -> BTreeMap<&'a str, &'a str> {
    let code = |line: &'a str| line.strip_prefix("| `")?.split_once('`');
    (page.lines())
        .filter_map(code)
        .filter(|(name, _)| name.starts_with(prefix))
        .collect()
}

/// Fails unless the page has a row for each long flag of the help, whose second cell is, or
/// ends with, the default that the help shows, and no row for any other flag.
pub fn assert_flags_match(page: &str, help: &str) {
    let mut defaults: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut flag = "";
    for line in help.lines().map(str::trim) {
        if line.starts_with("--") {
            flag = line.split([' ', '<']).next().unwrap_or_default();
            defaults.entry(flag).or_default();
        }
        let shown = line.split("[default: ").skip(1);
        let ends = shown.filter_map(|rest| Some(rest.split_once(']')?.0.trim_matches('"')));
        defaults.entry(flag).or_default().extend(ends);
    }
    defaults.remove("");
    let rows = rows(page, "--");
    let documented: Vec<_> = rows.keys().collect();
    let known: Vec<_> = defaults.keys().collect();
    assert_eq!(documented, known);
    for (flag, defaults) in defaults {
        let cell = rows[flag].replace('`', "");
        let cell = cell.split('|').nth(1).unwrap_or_default().trim();
        for default in defaults {
            let is_shown = cell == default || cell.ends_with(&format!(": {default}"));
            assert!(
                is_shown,
                "{flag}: the page says {cell:?}, the help {default:?}"
            );
        }
    }
}
