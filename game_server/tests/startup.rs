//! The start: flags, environment variables and the address. A start that fails is one line, not a stack
//! trace.

use crate::util::*;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

// ---- the address --------------------------------------------------------------------------------

#[test]
fn port_0_takes_a_free_port_and_logs_it() {
    let (first, second) = (Server::start(&QUIET), Server::start(&QUIET));
    assert_ne!(first.addr.port(), 0);
    assert_ne!(first.addr.port(), second.addr.port());
    first.join();
    second.join();
}

#[test]
fn port_is_free_right_after_the_exit() {
    let mut server = Server::start(&QUIET);
    for signal in ["TERM", "KILL", "INT"] {
        // The server closes first: its side of these connections stays in TIME_WAIT.
        let mut clients: Vec<Client> = (0..10).map(|_| server.join()).collect();
        server.signal(signal);
        server.wait_for_exit();
        for client in &mut clients {
            while let Ok(Some(packet)) = client.try_next() {
                assert_eq!(packet.id, S_BYE);
            }
        }
        let addr = server.addr.to_string();
        server = Server::start(&[&QUIET[..], &["--addr", &addr]].concat());
        assert_eq!(server.addr.to_string(), addr);
        server.join();
    }
}

#[test]
fn address_in_use_fails_with_one_line() {
    let mut server = Server::start(&QUIET);
    let addr = server.addr.to_string();
    for backtrace in ["0", "1", "full"] {
        let output = run(&["--addr", &addr], &[("RUST_BACKTRACE", backtrace)]);
        assert_eq!(output.status.code(), Some(1));
        let text = stderr(&output);
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
        assert!(text.contains(&addr), "{text}");
        assert!(
            !text.contains("panicked") && !text.contains("backtrace"),
            "{text}"
        );
    }
    assert!(server.is_running());
    server.join();
}

// ---- flags --------------------------------------------------------------------------------------

/// Runs the server until it exits by itself.
fn run(flags: &[&str], env: &[(&str, &str)]) -> Output {
    command(flags)
        .envs(env.iter().copied())
        .stdout(Stdio::piped())
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn invalid_flags_exit_with_status_2() {
    let too_long = "x".repeat(65_524);
    let bad: [&[&str]; 14] = [
        &["--no-such-flag"],
        &["surplus"],
        &["--addr", "nowhere"],
        &["--addr", "127.0.0.1:70000"],
        &["--tick-ms", "-1"],
        &["--tick-ms", "soon"],
        &["--workers", "0"],
        &["--max-send-queue-bytes", "0"],
        &["--max-packet-bytes", "3"],
        &["--max-packet-bytes", "65536"],
        &["--payload-bytes", "65532"],
        &["--message", &too_long],
        &["--stats-interval-secs", "-1"],
        &["--drain-secs", "nan"],
    ];
    for flags in bad {
        // If one were valid, the server would still not collide with one that runs.
        let flags = match flags[0] {
            "--addr" => flags.to_vec(),
            _ => [&["--addr", "127.0.0.1:1"], flags].concat(),
        };
        let output = run(&flags, &[]);
        let text = stderr(&output);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{:?}: {text}",
            flags[flags.len() - 1].get(..20)
        );
        assert!(!text.is_empty() && !text.contains("panicked"), "{text}");
    }
}

#[test]
fn largest_valid_values_are_accepted() {
    let longest = "x".repeat(65_523);
    let server = Server::start(&["--tick-ms", "50", "--message", &longest]);
    assert_eq!(server.connect().next_hello().1.len(), 65_523);
    Server::start(&[&QUIET[..], &["--max-send-queue-bytes", "1"]].concat()).join();
    Server::start(&[&QUIET[..], &["--max-packet-bytes", "65535"]].concat()).join();
}

#[test]
fn environment_variables_replace_flags_and_a_flag_wins() {
    let env = [
        ("GAME_SERVER_TICK_MS", "10"),
        ("GAME_SERVER_MESSAGE", "from outside"),
    ];
    let server = Server::start_with_env(&[], &env);
    let mut client = server.connect();
    let from = Instant::now();
    for _ in 0..100 {
        assert_eq!(client.next_hello().1, b"from outside");
    }
    // At the default of 250 ms this would be 25 s.
    assert!(from.elapsed() < Duration::from_secs(10));

    // A flag wins over its variable.
    let server = Server::start_with_env(&["--tick-ms", "10", "--message", "from the flag"], &env);
    assert_eq!(server.connect().next_hello().1, b"from the flag");

    let output = run(&[], &[("GAME_SERVER_TICK_MS", "often")]);
    assert_eq!(output.status.code(), Some(2));
}
