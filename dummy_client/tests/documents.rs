//! The README agrees with the program: flags and attacks.
#![allow(clippy::unwrap_used)] // The panic of a failed test names the line.

#[path = "../../game_server/tests/pages/mod.rs"]
mod pages;

const README: &str = include_str!("../README.md");

fn help(arguments: &[&str]) -> String {
    pages::help(env!("CARGO_BIN_EXE_dummy_client"), arguments)
}

#[test]
fn the_readme_has_every_flag_with_its_default() {
    let help = help(&["--help"]) + &help(&["compare", "--help"]);
    pages::assert_flags_match(README, &help);
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
    assert!(pages::rows(section, "").into_keys().eq(attacks));
}
