//! Echo requests and their answers.

use crate::util::fault::{TEXT, clean_stub};
use crate::util::{
    Run, Stub, client, counts, ended, for_each_at_once, hello, interrupt, packet, wait_until,
};
use game_server::GameSession;
use game_server::packets::SHello;
use server_core::Server;
use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

const ECHO_ARGS: [&str; 6] = ["--count", "2", "--duration-secs", "0.6", "--echo-hz", "50"];

#[test]
fn echoes_are_answered_byte_for_byte() {
    for_each_at_once(["0", "1", "32", "65531"], |payload_bytes| {
        let stub = || {
            Stub::with_answers(
                |_, tick| Some(hello(tick, TEXT)),
                |id, payload| {
                    assert_eq!(id, 2);
                    packet(3, payload)
                },
            )
        };
        let args = [&ECHO_ARGS[..], &["--payload-bytes", payload_bytes]].concat();
        let (run, report) = Run::undisturbed(&args, stub);
        assert_eq!(run.status, Some(0), "{payload_bytes} bytes: {run:?}");
        let [sent, answered] = counts(&report, ["echoes_sent", "echoes_answered"]);
        assert!(sent > 20, "{sent}");
        assert_eq!(sent, answered);
    });
}

#[test]
fn corrupted_echoes_fail_the_run() {
    let stub = Stub::with_answers(
        |_, tick| Some(hello(tick, TEXT)),
        |_, payload| {
            let mut payload = payload.to_vec();
            payload[31] ^= 1;
            packet(3, &payload)
        },
    );
    let (run, report) = Run::report(stub.addr, &ECHO_ARGS);
    assert_eq!(run.status, Some(1));
    let [corrupted, answered] = counts(&report, ["echoes_corrupted", "echoes_answered"]);
    assert_eq!(corrupted, answered);
}

#[test]
fn unanswered_echoes_fail_the_run() {
    let stub = Stub::start(|_, tick| Some(hello(tick, TEXT)));
    let (run, report) = Run::report(stub.addr, &ECHO_ARGS);
    assert_eq!(run.status, Some(1));
    let [lost, sent] = counts(&report, ["echoes_lost", "echoes_sent"]);
    assert_eq!(lost, sent);
}

#[test]
fn unanswered_echoes_fail_the_run_though_their_sessions_close() {
    let args = [
        "--stages",
        "3:100ms,3:3s,0:100ms,0:200ms",
        "--echo-hz",
        "10",
    ];
    let (run, report) = Run::undisturbed(&args, clean_stub);
    assert_eq!(run.status, Some(1), "{run:?}");
    let [lost] = counts(&report, ["echoes_lost"]);
    assert!(lost > 5, "{lost}");
}

#[test]
fn unanswered_echoes_do_not_grow_memory() {
    let stub = Stub::deaf();
    let rates = ["--echo-hz", "20000", "--payload-bytes", "60000"];
    let args = [
        "--count",
        "4",
        "--duration-secs",
        "3",
        "--log-sessions",
        "0",
    ];
    let child = client(stub.addr, &[&args[..], &rates].concat())
        .spawn()
        .unwrap();
    let mut most_kib = 0;
    let status = format!("/proc/{}/status", child.id());
    for _ in 0..250 {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("VmHWM"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        most_kib = most_kib.max(kib.unwrap_or(0));
        thread::sleep(Duration::from_millis(10));
    }
    let run: Run = child.wait_with_output().unwrap().into();
    assert_eq!(run.status, Some(1), "{run:?}");
    // 16 MiB of requests, in flight and queued, and the base memory of a client.
    assert!(most_kib < 120_000, "{most_kib} KiB");
}

/// (lecture row 36)
#[test]
fn client_and_server_count_the_same_packets_and_bytes() {
    let server = Server::builder()
        .workers(2)
        .start("127.0.0.1:0", |_| GameSession::new(None))
        .unwrap();
    let args = [
        "--count",
        "300",
        "--threads",
        "2",
        "--log-sessions",
        "0",
        "--json",
        "-",
    ];
    let child = client(server.local_addr(), &args)
        .args(["--echo-hz", "20", "--payload-bytes", "100"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let handle = server.handle();
    wait_until("300 sessions", || handle.metrics().totals().sessions >= 300);
    for tick in 1..=40 {
        server.broadcast(&SHello::new(tick), "Hello World");
        thread::sleep(Duration::from_millis(20));
    }
    interrupt(&child);
    let run = ended(child);
    let report = run.read();
    assert_eq!(run.status, Some(0), "{run:?}");
    let names = [
        "ticks_received",
        "echoes_sent",
        "packets_received",
        "bytes_received",
    ];
    let totals = handle.metrics().totals();
    let of_server = [
        300 * 40,
        totals.packets_received,
        totals.packets_sent,
        totals.bytes_sent,
    ];
    assert_eq!(counts(&report, names), of_server);
}
