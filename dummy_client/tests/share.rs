//! A run of several processes, and the report that `merge` makes of their reports.

use crate::util::fault::clean_stub;
use crate::util::{Run, Stub, client, disturbance, ended, hello, scratch};
use dummy_client::report::Verdict;
use std::cell::RefCell;
use std::process::{Command, Stdio};

#[test]
fn shares_of_an_odd_number_of_sessions_merge_to_the_whole_run() {
    let files = ["share_1.json", "share_2.json"].map(scratch);
    let statuses = RefCell::new(Vec::new());
    let run = |stub: &Stub| {
        let parts = ["1/2", "2/2"].into_iter().zip(&files).map(|(share, file)| {
            let args = ["--count", "5", "--duration-secs", "1", "--share", share];
            client(stub.addr, &args)
                .args(["--json", file])
                .spawn()
                .unwrap()
        });
        let parts: Vec<_> = parts.collect();
        let parts = parts.into_iter().map(|part| ended(part).status);
        statuses.replace(parts.collect());
        let mut merge = Command::new(env!("CARGO_BIN_EXE_dummy_client"));
        let merge = merge.arg("merge").args(&files).args(["--json", "-"]);
        let merged = Run::of(merge.stdin(Stdio::null()));
        let report = merged.read();
        (merged, report)
    };
    let (merge, merged) = Run::fit(clean_stub, run, disturbance);
    assert_eq!(statuses.take(), [Some(0); 2], "{merge:?}");
    assert_eq!(merge.status, Some(0), "{merge:?}");
    assert_ne!(merged.verdict, Verdict::Failed);
    let sessions = (merged.sessions.requested, merged.sessions.connected);
    assert_eq!(sessions, (5, 5));
    assert_eq!(merged.run.settings["count"], 5);
    let executor = &merged.run.settings["executor"];
    assert_eq!(executor, "5 at 0s, until 1s");
}

#[test]
fn share_without_a_session_is_status_2() {
    let stub = Stub::start(|_, tick| Some(hello(tick, "Hello World")));
    let args = ["--count", "2", "--share", "3/3", "--duration-secs", "1"];
    let run = Run::of(&mut client(stub.addr, &args));
    assert_eq!(run.status, Some(2), "{run:?}");
    assert!(run.stderr.contains("has no session"), "{run:?}");
}
