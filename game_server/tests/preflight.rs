//! `--check`, and the same checks at the start: does the machine have what the flags need?

use crate::util::*;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

/// The output and the status of `--check`. Fails if standard error has output.
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

fn line<'a>(table: &'a str, subject: &str) -> &'a str {
    let line = table.lines().find(|line| line.contains(subject));
    line.unwrap_or_else(|| panic!("nothing of {subject} in\n{table}"))
}

#[test]
fn sufficient_machine_passes_with_status_0() {
    let flags = ["--check", "--addr", "127.0.0.1:0", "--max-sessions", "20"];
    let (table, status) = check(&mut command(&flags));
    assert_eq!(status, Some(0), "{table}");
    assert!(line(&table, "open files").starts_with("ok"), "{table}");
    assert!(line(&table, "address").contains("free"), "{table}");
    assert!(line(&table, "cpu").contains(" cores"), "{table}");
    assert!(table.ends_with("no check failed\n"), "{table}");
}

#[test]
fn too_few_descriptors_fail_with_status_2_and_the_command_that_helps() {
    let flags = ["--check", "--addr=127.0.0.1:0", "--max-sessions=100"];
    let workers = "--workers=2";
    let (table, status) = check(command_with_ulimit("-n 64", &flags).arg(workers));
    assert_eq!(status, Some(2), "{table}");
    assert!(line(&table, "open files").starts_with("FAIL"), "{table}");
    // 99, and not 168: the server keeps at most as many other descriptors as sessions.
    assert!(line(&table, "fix:").ends_with("ulimit -n 199"), "{table}");
    // The command helps, unless a hard limit is below it.
    let (table, status) = check(command_with_ulimit("-n 199", &flags).arg(workers));
    assert_eq!(status, Some(0), "{table}");
}

#[test]
fn hard_limit_is_what_counts() {
    let flags = ["--check", "--addr=127.0.0.1:0", "--max-sessions=100"];
    let (table, status) = check(&mut command_with_ulimit("-Sn 64", &flags));
    assert_eq!(status, Some(0), "{table}");
}

#[test]
fn few_descriptors_without_max_sessions_are_a_warning() {
    let (table, status) = check(&mut command_with_ulimit(
        "-n 64",
        &["--check", "--addr=127.0.0.1:0"],
    ));
    assert_eq!(status, Some(0), "{table}");
    let files = line(&table, "open files");
    assert!(files.starts_with("warn"), "{table}");
    assert!(files.contains("1000 sessions and "), "{table}");
    assert!(files.contains("room for 32 sessions"), "{table}");
}

#[test]
fn address_in_use_fails_with_status_2() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (table, status) = check(&mut command(&["--check", "--addr", &addr]));
    assert_eq!(status, Some(2), "{table}");
    assert!(line(&table, &addr).starts_with("FAIL"), "{table}");
}

#[test]
fn each_listener_and_the_files_of_tls_are_checked() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let free = ["--check", "--addr", "127.0.0.1:0"];
    if cfg!(feature = "websocket") {
        let flags = [&free[..], &["--ws-addr", &addr]].concat();
        let (table, status) = check(&mut command(&flags));
        assert_eq!(status, Some(2), "{table}");
        assert!(line(&table, &addr).starts_with("FAIL"), "{table}");
    }
    if cfg!(feature = "tls") {
        let keys = std::env::temp_dir().join(format!("no-keys-{}", std::process::id()));
        let keys = keys.display().to_string();
        let tls = [
            "--tls-addr",
            &addr,
            "--tls-cert=/missing.pem",
            "--tls-key=/missing.key",
            "--tls-ticket-keys",
            &keys,
        ];
        let (table, status) = check(&mut command(&[&free[..], &tls].concat()));
        assert_eq!(status, Some(2), "{table}");
        assert!(line(&table, &addr).starts_with("FAIL"), "{table}");
        let certificate = line(&table, "certificate");
        assert!(certificate.starts_with("FAIL"), "{table}");
        assert!(certificate.contains("/missing.pem"), "{table}");
        assert!(!std::path::Path::new(&keys).exists());
    }
}

#[test]
fn origin_without_a_listener_for_websocket_is_bad_usage() {
    let output = command(&["--check", "--ws-origin", "https://game.example"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("--ws-addr"), "{error}");
}

#[test]
fn invalid_flag_with_check_exits_with_status_2() {
    let output = command(&["--check", "--payload-bytes=65532"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
}

/// The start runs the same checks, logs what they find, and uses the descriptors that there are.
#[test]
fn start_with_too_few_descriptors_warns_once() {
    let flags = [&QUIET[..], &["--max-sessions", "1000", "--workers", "2"]].concat();
    let server = Server::start_with_ulimit("-n 64", &flags);
    server.wait_for_line("open files: found 64, needed ");
    server.join().echo(b"served all the same");
    let warnings = |line: &&String| line.contains("WARN") && line.contains("open files");
    let lines = server.lines();
    assert_eq!(lines.iter().filter(warnings).count(), 1, "{lines:?}");
}
