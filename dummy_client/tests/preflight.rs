//! The checks before a run, and the source addresses of a client.

use crate::util::{Run, Stub, client, hello};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

/// An address without a listener: the checks do not connect.
fn nowhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

fn limited(limit: &str, args: &[&str]) -> Run {
    let script = format!(r#"ulimit {limit} && exec "$0" "$@""#);
    let mut command = Command::new("sh");
    command
        .args(["-c", &script, env!("CARGO_BIN_EXE_dummy_client")])
        .args(args)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    Run::of(&mut command)
}

fn line<'a>(run: &'a Run, subject: &str) -> &'a str {
    let line = run.stdout.lines().find(|line| line.contains(subject));
    line.unwrap_or_else(|| panic!("nothing of {subject} in\n{}", run.stdout))
}

#[test]
fn sufficient_machine_is_status_0_and_starts_no_run() {
    let run = Run::of(&mut client(nowhere(), &["--check", "--count", "20"]));
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(line(&run, "open files").starts_with("ok"), "{run:?}");
    assert!(line(&run, "cpu").contains(" cores"), "{run:?}");
    assert!(run.stdout.ends_with("no check failed\n"), "{run:?}");
    assert!(run.stderr.is_empty(), "{run:?}");
}

#[test]
fn too_few_descriptors_are_status_2_with_the_command_that_helps() {
    let args = ["--check", "--count", "100"];
    let run = limited("-n 64", &args);
    assert_eq!(run.status, Some(2), "{run:?}");
    assert!(line(&run, "open files").starts_with("FAIL"), "{run:?}");
    assert!(line(&run, "fix:").ends_with("ulimit -n 119"), "{run:?}");
    assert!(run.stderr.is_empty(), "{run:?}");
    let run = limited("-n 119", &args);
    assert_eq!(run.status, Some(0), "{run:?}");
}

/// The start of a run prints the same finding, on one line.
#[test]
fn start_and_check_agree() {
    for limit in [118, 119] {
        let limit = format!("-n {limit}");
        let addr = nowhere().to_string();
        let args = ["--count", "100", "--duration-secs", "1", "--addr", &addr];
        let start = limited(&limit, &args);
        let check = limited(&limit, &[&args[..], &["--check"]].concat());
        let refused = start.status == Some(2);
        assert_eq!(refused, check.status == Some(2), "{start:?} {check:?}");
        assert_eq!(refused, limit == "-n 118");
    }
}

/// More than a million loopback connections need more than one source address. ::1 has no other address, and
/// no range of ports is wide enough.
#[cfg(target_os = "linux")]
#[test]
fn ports_are_counted_for_each_source_address() {
    let args = ["--check", "--count", "1000000"];
    let v4 = Run::of(&mut client(nowhere(), &args));
    assert!(line(&v4, "ports").starts_with("ok"), "{v4:?}");
    assert!(line(&v4, "ports").contains("127.0.0.1 to 127."), "{v4:?}");
    let v6 = Run::of(&mut client("[::1]:1", &args));
    assert_eq!(v6.status, Some(2), "{v6:?}");
    assert!(line(&v6, "ports").starts_with("FAIL"), "{v6:?}");
    assert!(line(&v6, "ports").contains("no siblings"), "{v6:?}");
}

/// A closed session keeps its port for 60 s. The loopback network has further addresses, and ::1 has none.
#[cfg(target_os = "linux")]
#[test]
fn churn_needs_the_ports_of_closed_sessions() {
    let args = ["--check", "--count", "100", "--churn-ms", "10..10"];
    let v6 = Run::of(&mut client("[::1]:1", &args));
    assert_eq!(v6.status, Some(0), "{v6:?}");
    assert!(line(&v6, "ports").starts_with("warn"), "{v6:?}");
    assert!(line(&v6, "ports").contains("600000 closed"), "{v6:?}");
    let v4 = Run::of(&mut client(nowhere(), &args));
    assert!(line(&v4, "ports").starts_with("ok"), "{v4:?}");
}

#[test]
fn unwritable_table_is_status_1() {
    let full = std::fs::File::options().write(true).open("/dev/full");
    let mut command = client(nowhere(), &["--check"]);
    let output = command.stdout(full.unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn summary_describes_the_machine() {
    let stub = Stub::start(|_, tick| Some(hello(tick, "x")));
    let (_, report) = Run::report(stub.addr, &["--duration-secs", "0.2"]);
    let machine = &report.machine;
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(machine.cores, cores, "{machine:?}");
    assert_eq!(machine.fd_soft_limit, machine.fd_hard_limit);
    #[cfg(target_os = "linux")]
    for fact in [
        machine.memory_total_bytes,
        machine.ephemeral_ports,
        machine.somaxconn,
    ] {
        assert!(fact.unwrap() > 0, "{machine:?}");
    }
}
