//! A start that the system refuses a descriptor or a thread fails with one line, at every step.
#![cfg(target_os = "linux")] // `ulimit -v`, and 127.0.0.0/8.

use crate::util::*;
use std::net::{SocketAddr, TcpListener, TcpStream};

/// An address that no other test uses.
fn free_addr() -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let listener = TcpListener::bind(SocketAddr::from(([127, 78, high, low], 0))).unwrap();
    listener.local_addr().unwrap()
}

/// Starts the server under one limit after the other until it listens, and returns the log lines of the
/// failed starts.
fn starts(limits: impl Iterator<Item = String>, env: &[(&str, &str)]) -> Vec<String> {
    let mut lines = Vec::new();
    for limit in limits {
        let addr = free_addr();
        let mut command = command_with_ulimit(
            &limit,
            &[
                "--addr",
                &addr.to_string(),
                "--workers",
                "2",
                "--metrics-addr",
                "127.0.0.1:0",
            ],
        );
        command.envs(env.iter().copied());
        match Server::try_spawn(command) {
            Ok(mut server) => {
                server.join().echo(b"served");
                server.signal("TERM");
                assert_eq!(server.wait_for_exit().code(), Some(0), "{limit}");
                return lines;
            }
            // The loader of the system needs descriptors and memory as well.
            Err((status, _)) if status.code() == Some(127) => {}
            Err((status, said)) => {
                assert_eq!(
                    (status.code(), said.len()),
                    (Some(1), 1),
                    "{limit}: {said:#?}"
                );
                assert!(
                    said[0].starts_with("game_server: cannot "),
                    "{limit}: {said:#?}"
                );
                assert!(TcpStream::connect(addr).is_err(), "{limit}");
                lines.extend(said);
            }
        }
    }
    panic!("no start succeeded: {lines:#?}");
}

/// The steps that the lines name, without repetitions.
fn steps<'a>(lines: &'a [String], begin: &str, end: &str) -> Vec<&'a str> {
    let (mut steps, begin) = (Vec::new(), format!("game_server: {begin}"));
    for line in lines {
        let rest = line
            .strip_prefix(&begin)
            .unwrap_or_else(|| panic!("{line}"));
        let (step, _) = rest.split_once(end).unwrap();
        steps.push(step);
    }
    steps.dedup();
    steps
}

#[test]
fn each_refused_descriptor_fails_the_start_with_one_line() {
    let lines = starts((4..64).map(|limit| format!("-n {limit}")), &[]);
    let limit = |line: &String| line.contains("RLIMIT_NOFILE");
    assert!(lines.iter().all(limit), "{lines:#?}");
    assert_eq!(
        steps(&lines, "cannot ", ":"),
        [
            "install the signal handlers",
            "serve metrics on 127.0.0.1",
            "set up the listener",
            &format!("listen on {}", free_addr().ip()),
            "accept a connection",
            "set up worker 0",
            "set up worker 1",
        ]
    );
}

/// The stack of each thread takes 1 GiB of address space, and the limit has room for 0 to 8 stacks.
#[test]
fn each_refused_thread_fails_the_start_with_one_line() {
    let limits = (0..9).map(|threads| format!("-v {}", 700_000 + threads * (1 << 20)));
    let stack = [("RUST_MIN_STACK", "1073741824"), ("MALLOC_ARENA_MAX", "1")];
    let lines = starts(limits, &stack);
    let limit = |line: &String| line.contains("RLIMIT_NPROC") && line.contains("pids.max");
    assert!(lines.iter().all(limit), "{lines:#?}");
    assert_eq!(
        steps(&lines, "cannot start thread `", "`"),
        ["signals", "metrics", "worker-0", "worker-1", "listener"]
    );
}
