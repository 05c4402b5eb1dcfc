//! A start that fails prints one line and ends, for each step that the system refuses.

use crate::util::fault::clean_stub;
use crate::util::{Run, Stub, client, disturbance};
use dummy_client::Report;
use std::process::Command;

/// Runs the client under one limit after the other until a run succeeds, and returns the status and
/// the line of each start that failed before.
fn starts(limits: impl Iterator<Item = String>, env: &[(&str, &str)]) -> Vec<(i32, String)> {
    // Only the run that succeeds lasts for this long.
    let args = [
        "--threads",
        "2",
        "--count",
        "1",
        "--duration-secs",
        "2",
        "--json",
        "-",
    ];
    let mut failed = Vec::new();
    for limit in limits {
        let run = |stub: &Stub| {
            let direct = client(stub.addr, &args);
            // `timeout` kills a run that hangs; a killed run has a status of its own.
            let script = format!(r#"ulimit {limit} && exec timeout -s KILL 60 "$0" "$@""#);
            let mut shell = Command::new("sh");
            shell
                .args(["-c", &script])
                .arg(direct.get_program())
                .args(direct.get_args())
                .env_remove("RUST_LOG")
                .envs(env.iter().copied());
            let run = Run::of(&mut shell);
            // A start that fails has no report.
            let has_report = !run.stdout.is_empty();
            let report = if has_report {
                run.read()
            } else {
                Report::default()
            };
            (run, report)
        };
        let (run, _) = Run::fit(clean_stub, run, disturbance);
        match run.status {
            Some(0) => return failed,
            // The dynamic loaders of the client and of `timeout` need resources too.
            Some(125..=127) => {}
            status => {
                assert_eq!(run.stderr.lines().count(), 1, "{limit}: {run:?}");
                assert!(run.stderr.starts_with("dummy_client: "), "{limit}: {run:?}");
                failed.push((status.unwrap(), run.stderr));
            }
        }
    }
    panic!("no run succeeded: {failed:#?}");
}

#[test]
fn too_few_descriptors_are_one_error_line_for_each_limit() {
    let failed = starts((4..64).map(|limit| format!("-n {limit}")), &[]);
    assert!(!failed.is_empty());
    for (status, line) in &failed {
        assert_eq!(*status, 2, "{line}");
        assert!(line.contains("open files: found "), "{line}");
    }
}

/// Each thread needs 1 GiB of address space for its stack, and the limit has room for N threads.
#[test]
fn each_refused_thread_is_one_error_line() {
    let limits = (0..9).map(|threads| format!("-v {}", 700_000 + threads * (1 << 20)));
    let stack = [("RUST_MIN_STACK", "1073741824"), ("MALLOC_ARENA_MAX", "1")];
    let failed = starts(limits, &stack);
    let mut refused = Vec::new();
    for (status, line) in &failed {
        assert_eq!(*status, 1, "{line}");
        assert!(line.contains("RLIMIT_NPROC"), "{line}");
        let (_, name) = line.split_once("cannot start thread `").unwrap();
        refused.push(name.split('`').next().unwrap());
    }
    refused.dedup();
    assert_eq!(refused, ["signals", "worker-0", "worker-1", "heartbeat"]);
}
