//! Runs against a server that a TOML file describes (`--profile`).

use crate::util::{Run, Stub, client, counts, packet, scratch};
use dummy_client::Report;
use std::fs;
use std::process::Command;

const TICK: u16 = 100;
const LOGIN: u16 = 101;
const WELCOME: u16 = 102;
const ASK: u16 = 103;
const ANSWER: u16 = 104;
const NEWS: u16 = 105;

const PROFILE: &str = r#"
ignored_ids = [105]

[hello]
id = 100
prefix = "T"
tick_offset = 1
tick_type = "u32_be"

[login]
id = 101
payload = "bot {n}"
answer_id = 102

[request]
id = 103
prefix = "hex:ff"
payload = "{n}/{seq}"
answer_id = 104
rate_hz = 20
answer = "same"
"#;

fn file(name: &str, text: &str) -> String {
    let path = scratch(name);
    fs::write(&path, text).unwrap();
    path
}

fn tick(number: u64) -> Vec<u8> {
    let number = (number as u32).to_be_bytes();
    packet(TICK, [b"T", &number[..]].concat())
}

/// A server of the profile. `answer` makes the answer to a request from its payload behind the prefix.
fn stub(answer: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) -> Stub {
    let script = |_, number| Some([tick(number), packet(NEWS, b"anything")].concat());
    Stub::with_answers(script, move |id, payload| match id {
        LOGIN if payload.starts_with(b"bot ") => packet(WELCOME, b""),
        ASK if payload[0] == 0xff => packet(ANSWER, answer(&payload[1..])),
        _ => Vec::new(),
    })
}

fn run(stub: impl Fn() -> Stub, name: &str) -> (Run, Report) {
    let profile = file(name, PROFILE);
    let args = [
        "--count",
        "3",
        "--duration-secs",
        "1",
        "--profile",
        &profile,
    ];
    let outcome = Run::undisturbed(&args, stub);
    fs::remove_file(profile).unwrap();
    outcome
}

#[test]
fn login_ticks_and_answers_of_another_game_are_checked() {
    let (run, report) = run(|| stub(<[u8]>::to_vec), "right.toml");
    assert_eq!(run.status, Some(0), "{run:?}");
    assert_eq!(report.metrics.trend("login_time").unwrap().count, 3);
    let [answered, sent] = counts(&report, ["requests_answered", "requests_sent"]);
    assert!(answered >= 3, "{run:?}");
    assert_eq!(answered, sent);
    let [ticks, unknown] = counts(&report, ["ticks_received", "packets_unknown"]);
    assert!(ticks >= 3, "{run:?}");
    assert_eq!(unknown, 0);
    assert_eq!(report.run.settings["profile"]["hello"]["prefix"], "T");
}

#[test]
fn wrong_answer_fails_the_run() {
    let answer = |payload: &[u8]| match payload.ends_with(b"/1") {
        true => b"another".to_vec(),
        false => payload.to_vec(),
    };
    let (run, report) = run(|| stub(answer), "wrong.toml");
    assert_eq!(run.status, Some(1), "{run:?}");
    assert_eq!(counts(&report, ["requests_corrupted"]), [3]);
}

#[test]
fn packet_that_the_profile_does_not_name_fails_the_run() {
    let script = |_, number| Some([tick(number), packet(200, b"")].concat());
    let answer = |id, _: &[u8]| match id {
        LOGIN => packet(WELCOME, b""),
        _ => Vec::new(),
    };
    let stub = || Stub::with_answers(script, answer);
    let (run, report) = run(stub, "unknown.toml");
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(counts(&report, ["packets_unknown"])[0] > 0);
}

/// Without tick numbers and requests, the hello is all that a profile can check.
#[test]
fn server_that_sends_no_hello_fails_the_run() {
    let text = "ignored_ids = [105]\n[hello]\nid = 100\ntick_offset = \"none\"\n";
    for (id, status) in [(TICK, 0), (NEWS, 1)] {
        let stub = || Stub::start(move |_, _| Some(packet(id, b"T")));
        let path = file(&format!("hello_{id}.toml"), text);
        let args = ["--duration-secs", "1", "--profile", &path];
        let (run, report) = Run::undisturbed(&args, stub);
        fs::remove_file(path).unwrap();
        assert_eq!(run.status, Some(status), "{run:?}");
        let failures = report.failures.join("; ");
        let is_found = failures.contains("no hello was received");
        assert_eq!(is_found, status == 1, "{failures}");
    }
}

#[test]
fn wrong_profile_is_bad_usage_with_its_file_line_and_key() {
    let wrong = PROFILE.replace("rate_hz = 20", "rate_hz = 20\nrate = 5");
    let path = file("bad.toml", &wrong);
    let addr = "127.0.0.1:1";
    let line = 1 + wrong.lines().position(|line| line == "rate = 5").unwrap();
    for check in [&[][..], &["--check"]] {
        let run = Run::of(client(addr, &["--profile", &path]).args(check));
        assert_eq!(run.status, Some(2), "{run:?}");
        let place = format!("{path}:{line}: request.rate: ");
        assert!(run.stderr.contains(&place), "{}", run.stderr);
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    }
    fs::remove_file(&path).unwrap();
    let run = Run::of(&mut client(addr, &["--profile", &path]));
    assert_eq!(run.status, Some(2), "{run:?}");
    assert!(run.stderr.contains(&path), "{}", run.stderr);
}

#[test]
fn examples_pass_the_check() {
    for name in ["u32_big_endian_without_id", "u16_little_endian_with_id"] {
        let path = format!("{}/profiles/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_dummy_client"));
        let run = Run::of(command.args(["--check", "--profile", &path]));
        assert_eq!(run.status, Some(0), "{run:?}");
    }
}
