//! `--assert` and the exit status.
#![allow(clippy::unwrap_used)] // The panic of a failed test names the line.

mod util;

use dummy_client::report::Verdict;
use std::thread;
use std::time::Duration;
use util::fault::clean_stub;
use util::{Run, client, signal};

#[test]
fn broken_assertion_is_status_1_and_a_line_with_the_value() {
    let stub = clean_stub();
    let args = ["--duration-secs", "1", "--assert", "lost==0"];
    let late = [
        "--assert",
        "tick_delay_p50<0.001us",
        "--assert",
        "rtt_p999<20ms",
    ];
    let good = Run::of(&mut client(stub.addr, &args));
    assert_eq!(good.status, Some(0), "{good:?}");
    assert!(
        good.stdout.contains("assert           holds  lost==0: 0"),
        "{}",
        good.stdout
    );
    let bad = Run::of(client(stub.addr, &args).args(late));
    assert_eq!(bad.status, Some(1), "{bad:?}");
    let broken: Vec<_> = bad
        .stdout
        .lines()
        .filter(|line| line.contains("BROKEN"))
        .collect();
    assert_eq!(broken.len(), 2, "{}", bad.stdout);
    assert!(broken[0].contains("tick_delay_p50<0.001us: ") && broken[0].ends_with(" ms"));
    assert!(broken[1].ends_with("nothing was measured"), "{}", broken[1]);
    let (_, report) = Run::unlimited(&[&args[..], &late].concat(), clean_stub);
    let holds: Vec<bool> = (report.assertions.iter())
        .map(|asserted| asserted.holds)
        .collect();
    assert_eq!(
        (holds, report.verdict),
        (vec![true, false, false], Verdict::Failed)
    );
}

#[test]
fn stopped_client_reports_client_limited_for_a_broken_assertion() {
    let stub = clean_stub();
    let args = [
        "--duration-secs",
        "2",
        "--assert",
        "tick_delay_max<100ms",
        "--json",
        "-",
    ];
    let mut command = client(stub.addr, &args);
    let child = command.args(["--log-sessions", "0"]).spawn().unwrap();
    // The test measures this sleep; the sleep does not wait for an event.
    thread::sleep(Duration::from_millis(600));
    signal(&child, "STOP");
    thread::sleep(Duration::from_millis(300));
    signal(&child, "CONT");
    let run: Run = child.wait_with_output().unwrap().into();
    let report = run.read();
    assert_eq!(run.status, Some(1), "{run:?}");
    assert_eq!(report.verdict, Verdict::ClientLimited);
    assert!(!report.assertions[0].holds);
    assert_eq!(report.failures, [""; 0]);
}
