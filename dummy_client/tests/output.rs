//! The summary as text, as JSON and as a report: its content, and files that cannot be written.

use crate::util::fault::{TEXT, clean_stub};
use crate::util::{Run, Stub, client, disturbance, ended, hello, packet, scratch};
use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn json_matches_the_schema() {
    let schema = Run::of(Command::new(env!("CARGO_BIN_EXE_dummy_client")).arg("schema"));
    assert_eq!(schema.status, Some(0));
    let schema: Value = serde_json::from_str(&schema.stdout).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let check = |json: &Value| {
        let errors: Vec<_> = validator
            .iter_errors(json)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{errors:#?}");
    };
    let stub = Stub::start(|session, tick| (session != 1 || tick < 20).then(|| hello(tick, TEXT)));
    let args = [
        "--count",
        "3",
        "--duration-secs",
        "1.5",
        "--echo-hz",
        "5",
        "--assert",
        "lost==0",
    ];
    let json = |args: &[&str]| {
        let (run, _) = Run::report(stub.addr, args);
        serde_json::from_str::<Value>(&run.stdout).unwrap()
    };
    let json_of_run = json(&args);
    check(&json_of_run);
    let mut wrong = json_of_run;
    wrong["verdict"] = "splendid".into();
    assert!(!validator.is_valid(&wrong), "the schema allows anything");
    check(&json(&["--find-capacity", "--count", "1"]));
}

#[test]
fn report_has_the_verdict_the_plots_and_the_summary() {
    let stub = || {
        Stub::with_answers(
            |_, tick| Some(hello(tick, "Hello World")),
            |_, payload| packet(3, payload),
        )
    };
    let (report, json) = (scratch("report.html"), scratch("report.json"));
    let args = ["--duration-secs", "2.5", "--echo-hz", "20", "--report"];
    let args = [&args[..], &[&report]].concat();
    let run = |stub: &Stub| Run::with_text(stub.addr, &args, &json);
    let (run, _) = Run::fit(stub, run, disturbance);
    assert_eq!(run.status, Some(0), "{run:?}");
    // The text summary is printed, too.
    assert!(run.stdout.contains("verdict   "), "{}", run.stdout);
    let html = fs::read_to_string(&report).unwrap();
    let json: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let verdict = json["verdict"].as_str().unwrap();
    assert!(
        html.contains(&format!("class=\"verdict {verdict}\"")),
        "{html}"
    );
    // Sessions and packets over time; of each trend with samples a plot over time and a distribution, but of the
    // spread, which belongs to no second, the distribution alone.
    let trends = json["metrics"].as_object().unwrap().values();
    let with_samples = |metric: &&Value| metric["count"].as_u64().is_some_and(|count| count > 0);
    let trends = trends.filter(with_samples).count();
    assert!(trends >= 4, "{json}");
    assert_eq!(
        html.matches("<svg class=\"plot\"").count(),
        2 + 2 * trends - 1
    );
    let (_, embedded) = html.split_once("id=\"summary\">").unwrap();
    let (embedded, _) = embedded.split_once("</script>").unwrap();
    // The page has the report without its timeline and histograms.
    let mut json = json;
    json.as_object_mut().unwrap().remove("timeline");
    for metric in json["metrics"].as_object_mut().unwrap().values_mut() {
        metric.as_object_mut().unwrap().remove("histogram");
    }
    assert_eq!(serde_json::from_str::<Value>(embedded).unwrap(), json);
}

/// The client can check a path at the start of a run, so a long run must not fail at its end because of the
/// path.
#[test]
fn unwritable_path_is_one_error_line_before_the_run() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    let stub = Stub::start(move |_, tick| {
        counter.fetch_add(1, Ordering::SeqCst);
        Some(hello(tick, "x"))
    });
    let place = "/nonexistent/folder/x";
    for flag in ["--json", "--report"] {
        let run = Run::of(&mut client(
            stub.addr,
            &[flag, place, "--duration-secs", "1"],
        ));
        assert_eq!(run.status, Some(2), "{run:?}");
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
        let line = format!("cannot write to {place}: ");
        assert!(run.stderr.contains(&line), "{}", run.stderr);
        assert_eq!(run.stdout, "");
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 0);
}

#[test]
fn full_disk_is_an_error_line_and_status_1_and_the_text_is_printed() {
    let stub = Stub::start(|_, tick| Some(hello(tick, "x")));
    for flag in ["--json", "--report"] {
        let other = scratch("full_disk_other");
        let mut command = client(stub.addr, &["--duration-secs", "0.2", flag, "/dev/full"]);
        let other_flag = if flag == "--json" {
            "--report"
        } else {
            "--json"
        };
        let run = Run::of(command.args([other_flag, &other]));
        assert_eq!(run.status, Some(1), "{run:?}");
        assert!(
            run.stderr.contains("cannot write to /dev/full: "),
            "{}",
            run.stderr
        );
        assert!(run.stdout.contains("verdict   "), "{}", run.stdout);
        assert!(fs::metadata(&other).unwrap().len() > 1_000);
    }
}

#[test]
fn failed_start_keeps_an_old_file_and_leaves_no_new_one() {
    let (old, new) = (scratch("old.json"), scratch("new.html"));
    fs::write(&old, "of yesterday").unwrap();
    let script = r#"ulimit -n 64; exec "$0" --count 1000 --json "$1" --report "$2""#;
    let program = env!("CARGO_BIN_EXE_dummy_client");
    let mut command = Command::new("sh");
    command
        .args(["-c", script, program, &old, &new])
        .stdin(Stdio::null());
    assert_eq!(Run::of(&mut command).status, Some(2));
    assert_eq!(fs::read_to_string(&old).unwrap(), "of yesterday");
    assert!(!fs::exists(&new).unwrap());
    // After a successful start the new text must not end with the rest of a longer old file.
    fs::write(&old, "x".repeat(1_000_000)).unwrap();
    // The report is read as JSON.
    let run = |stub: &Stub| Run::with_text(stub.addr, &["--duration-secs", "2"], &old);
    let (run, _) = Run::fit(clean_stub, run, disturbance);
    assert_eq!(run.status, Some(0), "{run:?}");
}

/// A limit of the file size takes the place of a disk that holds a part of the new file.
#[cfg(target_os = "linux")]
#[test]
fn full_disk_keeps_an_old_file() {
    let stub = Stub::start(|_, tick| Some(hello(tick, "x")));
    for flag in ["--json", "--report"] {
        let old = scratch("disk.old");
        fs::write(&old, "of yesterday").unwrap();
        // A block is 512 bytes, and no result is as small.
        let script = r#"trap "" XFSZ; ulimit -f 1; exec "$0" "$@""#;
        let direct = client(stub.addr, &["--duration-secs", "0.2", flag, &old]);
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).arg(direct.get_program());
        let run = Run::of(shell.args(direct.get_args()).stdin(Stdio::null()));
        assert_eq!(run.status, Some(1), "{run:?}");
        let line = format!("cannot write to {old}: ");
        assert!(run.stderr.contains(&line), "{}", run.stderr);
        assert_eq!(fs::read_to_string(&old).unwrap(), "of yesterday");
        fs::remove_file(&old).unwrap();
    }
}

#[test]
fn json_and_report_in_one_file_is_status_2() {
    let file = scratch("both");
    let addr = "127.0.0.1:1";
    let run = Run::of(&mut client(addr, &["--json", &file, "--report", &file]));
    assert_eq!(run.status, Some(2), "{run:?}");
    assert!(run.stderr.contains("the same file"), "{}", run.stderr);
    assert!(!fs::exists(&file).unwrap());
}

#[test]
fn closed_output_pipes_do_not_fail_the_run() {
    let json = scratch("pipes.json");
    let run = |stub: &Stub| {
        let mut child = client(stub.addr, &["--duration-secs", "2", "--json", &json])
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        drop(child.stderr.take());
        let run = ended(child);
        (
            run,
            serde_json::from_slice(&fs::read(&json).unwrap()).unwrap(),
        )
    };
    let (run, _) = Run::fit(clean_stub, run, disturbance);
    assert_eq!(run.status, Some(0), "{run:?}");
}

/// The log fills the pipe in half a second. The run, its result and its end do not wait for the reader.
#[test]
fn unread_log_does_not_disturb_the_run() {
    let args = ["--count", "40", "--log-sessions", "all"];
    let run = |stub: &Stub| {
        let mut command = client(stub.addr, &["--duration-secs", "2", "--json", "-"]);
        let mut child = command.args(args).spawn().unwrap();
        let unread = child.stderr.take();
        let run = ended(child);
        drop(unread);
        let report = run.read();
        (run, report)
    };
    let (run, report) = Run::fit(clean_stub, run, disturbance);
    assert_eq!(report.failures, [""; 0]);
    assert_eq!(run.status, Some(0), "{report:?}");
}
