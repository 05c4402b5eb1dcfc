//! Danger: a server that starts where it cannot do what it was asked for, or a check that says so
//! of a machine that can.

// A failed unwrap is a failed test, also in its helpers.
#![allow(clippy::unwrap_used)]

mod util;

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use util::{QUIET, Server, command};

/// What `--check` says, and its status. Nothing may be on standard error.
#[track_caller]
fn check(command: &mut Command) -> (String, Option<i32>) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.stdout(Stdio::piped()).output().unwrap();
    assert!(stderr.is_empty(), "{}", String::from_utf8_lossy(&stderr));
    (String::from_utf8(stdout).unwrap(), status.code())
}

/// The flags behind a shell that sets this limit first.
fn limited(limit: &str, flags: &[&str]) -> Command {
    let direct = command(flags);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")])
        .arg(direct.get_program())
        .args(direct.get_args())
        .stdin(Stdio::null());
    for (name, _) in direct.get_envs() {
        shell.env_remove(name);
    }
    shell
}

fn line<'a>(table: &'a str, subject: &str) -> &'a str {
    let line = table.lines().find(|line| line.contains(subject));
    line.unwrap_or_else(|| panic!("nothing of {subject} in\n{table}"))
}

#[test]
fn a_machine_that_can_is_status_0_and_nothing_is_started() {
    let flags = ["--check", "--addr", "127.0.0.1:0", "--max-sessions", "20"];
    let (table, status) = check(&mut command(&flags));
    assert_eq!(status, Some(0), "{table}");
    assert!(line(&table, "open files").starts_with("ok"), "{table}");
    assert!(line(&table, "address").contains("free"), "{table}");
    assert!(table.ends_with("no check failed\n"), "{table}");
}

#[test]
fn too_few_descriptors_are_status_2_with_the_command_that_helps() {
    let flags = ["--check", "--addr=127.0.0.1:0", "--max-sessions=100"];
    let workers = "--workers=2";
    let (table, status) = check(limited("-n 64", &flags).arg(workers));
    assert_eq!(status, Some(2), "{table}");
    assert!(line(&table, "open files").starts_with("FAIL"), "{table}");
    // 99, and not 168: as many others as sessions at the most.
    assert!(line(&table, "fix:").ends_with("ulimit -n 199"), "{table}");
    // And it does help, where there is no hard limit below it.
    let (table, status) = check(limited("-n 199", &flags).arg(workers));
    assert_eq!(status, Some(0), "{table}");
}

#[test]
fn the_limit_to_which_the_soft_one_can_be_raised_counts() {
    let flags = ["--check", "--addr=127.0.0.1:0", "--max-sessions=100"];
    let (table, status) = check(&mut limited("-Sn 64", &flags));
    assert_eq!(status, Some(0), "{table}");
}

#[test]
fn as_many_as_fit_is_never_a_failure_but_few_are_a_warning() {
    let (table, status) = check(&mut limited("-n 64", &["--check", "--addr=127.0.0.1:0"]));
    assert_eq!(status, Some(0), "{table}");
    let files = line(&table, "open files");
    assert!(files.starts_with("warn"), "{table}");
    assert!(files.contains("1000 sessions and "), "{table}");
    assert!(files.contains("room for 32 sessions"), "{table}");
}

#[test]
fn an_address_that_is_taken_is_status_2() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (table, status) = check(&mut command(&["--check", "--addr", &addr]));
    assert_eq!(status, Some(2), "{table}");
    assert!(line(&table, &addr).starts_with("FAIL"), "{table}");
}

#[test]
fn bad_usage_is_bad_usage_with_check_as_well() {
    let output = command(&["--check", "--payload-bytes=65532"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
}

/// The start asks the same and says it in its log; it takes what there is.
#[test]
fn a_start_with_too_few_descriptors_is_warned_of_once() {
    let flags = [&QUIET[..], &["--max-sessions", "1000", "--workers", "2"]].concat();
    let server = Server::start_with_ulimit("-n 64", &flags);
    server.wait_for_line("open files: found 64, needed ");
    server.join().echo(b"served all the same");
    let warnings = |line: &&String| line.contains("WARN") && line.contains("open files");
    let lines = server.lines();
    assert_eq!(lines.iter().filter(warnings).count(), 1, "{lines:?}");
}
