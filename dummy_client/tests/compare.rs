//! The subcommand `compare`.

use crate::util::fault::{TEXT, clean_stub};
use crate::util::{Run, Stub, hello, scratch};
use std::fs;
use std::process::Command;

fn compare(before: &str, after: &str) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dummy_client"));
    Run::of(command.args(["compare", before, after]))
}

#[test]
fn worse_run_is_status_1_and_names_the_metric() {
    let record = |name: &str, stub: fn() -> Stub| {
        let args = ["--count", "3", "--duration-secs", "1"];
        let (run, _) = Run::unlimited(&args, stub);
        let path = scratch(name);
        fs::write(&path, run.stdout).unwrap();
        path
    };
    let good = record("good.json", clean_stub);
    let bad = record("bad.json", || {
        Stub::start(|_, tick| {
            Some(if tick == 20 {
                Vec::new()
            } else {
                hello(tick, TEXT)
            })
        })
    });
    let same = compare(&good, &good);
    assert_eq!(same.status, Some(0), "{same:?}");
    let worse = compare(&good, &bad);
    assert_eq!(worse.status, Some(1), "{worse:?}");
    assert!(worse.stdout.contains("ticks_missing"), "{}", worse.stdout);
    let nonsense = scratch("nonsense.json");
    for text in [
        "",
        "{}",
        "[1]",
        r#"{"schema":"dummy_client.report","schema_version":99}"#,
        r#"{"schema":"dummy_client.summary","schema_version":1}"#,
    ] {
        fs::write(&nonsense, text).unwrap();
        let run = compare(&good, &nonsense);
        assert_eq!(run.status, Some(2), "{text}: {run:?}");
        assert!(run.stderr.contains("nonsense.json"), "{}", run.stderr);
    }
    assert_eq!(compare(&good, &scratch("away.json")).status, Some(2));
}
