//! Does the load have the shape that was asked for, and do assertions, comparison and the search for
//! the capacity judge it rightly?
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod util;

use serde_json::Value;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;
use util::{RealServer, Run, Stub, client, hello, packet, scratch};

const TEXT: &str = "Hello World";

fn clean_stub() -> Stub {
    Stub::start(|_, tick| Some(hello(tick, TEXT)))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

// ---- shapes -----------------------------------------------------------------------------------

#[test]
fn stages_go_up_and_down_and_nobody_is_lost() {
    let stub = clean_stub();
    let args = ["--stages", "40:500ms,40:500ms,10:500ms,10:500ms"];
    let (run, json) = Run::json(stub.addr, &args);
    assert_eq!(run.status, Some(0), "{json}");
    let sessions = &json["sessions"];
    assert_eq!(sessions["max_live"], 40, "{sessions}");
    assert_eq!(sessions["left"], 30, "{sessions}");
    assert_eq!(sessions["live"], 10, "{sessions}");
    assert_eq!(
        json["settings"]["stages"],
        "40:500ms,40:500ms,10:500ms,10:500ms"
    );
    let seconds = number(&json["elapsed_secs"]);
    assert!((2.0..4.5).contains(&seconds), "{seconds}");
}

#[test]
fn stages_that_end_with_nobody_are_a_good_run() {
    let stub = clean_stub();
    let (run, json) = Run::json(
        stub.addr,
        &["--stages", "20:300ms,20:300ms,0:300ms,5:300ms"],
    );
    assert_eq!(run.status, Some(0), "{json}");
    assert!(json["sessions"]["live"].as_u64().unwrap() <= 5, "{json}");
}

#[test]
fn churn_comes_and_goes_and_is_no_loss() {
    let stub = clean_stub();
    let args = [
        "--count",
        "20",
        "--churn-ms",
        "100..300",
        "--duration-secs",
        "2",
    ];
    let (run, json) = Run::json(stub.addr, &args);
    assert_eq!(run.status, Some(0), "{json}");
    let sessions = &json["sessions"];
    // Each lives for 0.2 s on average, 2 s long: about 200 in all.
    assert!(number(&sessions["left"]) > 60.0, "{sessions}");
    assert_eq!(
        (&sessions["lost"], &sessions["connected"]),
        (&0.into(), &20.into())
    );
    assert_eq!(json["lost"], 0);
}

#[test]
fn a_session_that_is_lost_amid_churn_is_found() {
    let stub = Stub::start(|session, tick| {
        // The seventh connection is closed by the server after some ticks.
        (session != 7 || !tick.is_multiple_of(5)).then(|| hello(tick, TEXT))
    });
    let args = [
        "--count",
        "5",
        "--churn-ms",
        "300..600",
        "--duration-secs",
        "2",
    ];
    let (run, json) = Run::json(stub.addr, &args);
    assert_eq!(run.status, Some(1), "{json}");
    assert_eq!(json["sessions"]["lost"], 1, "{json}");
}

// ---- chats ------------------------------------------------------------------------------------

#[test]
fn chats_come_back_to_who_sent_them_and_to_everybody_else() {
    let server = RealServer::start(2, None);
    let args = [
        "--count",
        "10",
        "--chat-hz",
        "20",
        "--duration-secs",
        "1",
        "--echo-hz",
        "20",
    ];
    let (run, json) = Run::json(server.addr(), &args);
    assert_eq!(run.status, Some(0), "{json}");
    let chats = &json["chats"];
    assert!(number(&chats["sent"]) > 50.0, "{chats}");
    assert_eq!(chats["sent"], chats["heard"]);
    assert!(
        number(&chats["received"]) > number(&chats["sent"]) * 8.0,
        "{chats}"
    );
    assert_eq!(json["chat_ms"]["count"], chats["heard"]);
}

fn chat_answers(answer: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) -> (Run, Value) {
    let stub = Stub::with_answers(
        |_, tick| Some(hello(tick, TEXT)),
        move |id, text| {
            assert_eq!(id, 4);
            let text = answer(text);
            if text.is_empty() {
                return text;
            }
            packet(5, &[&1_u64.to_le_bytes()[..], &text].concat())
        },
    );
    let args = ["--count", "2", "--chat-hz", "20", "--duration-secs", "0.6"];
    Run::json(stub.addr, &args)
}

#[test]
fn chats_that_are_wrong_or_missing_are_found() {
    let (run, _) = chat_answers(<[u8]>::to_vec);
    assert_eq!(run.status, Some(0));
    let (run, json) = chat_answers(|text| text[..text.len() - 1].to_vec());
    assert_eq!(run.status, Some(1));
    assert_eq!(json["chats"]["wrong"], json["chats"]["heard"]);
    let (run, json) = chat_answers(|_| Vec::new());
    assert_eq!(run.status, Some(1));
    assert_eq!(json["chats"]["unheard"], json["chats"]["sent"]);
    assert!(number(&json["lost"]) > 0.0);
}

// ---- fairness ---------------------------------------------------------------------------------

/// The sessions of one of the server's workers get each tick later than the others: nothing is
/// lost, and the spread says so.
#[test]
fn a_worker_that_is_late_is_in_the_spread() {
    let stub = Stub::start(|session, tick| {
        if session % 2 == 1 {
            thread::sleep(Duration::from_millis(15));
        }
        Some(hello(tick, TEXT))
    });
    let (run, json) = Run::json(stub.addr, &["--count", "4", "--duration-secs", "2"]);
    assert_eq!(run.status, Some(0), "{json}");
    assert!(
        number(&json["tick_spread_ms"]["p50"]) >= 14.0,
        "{}",
        json["tick_spread_ms"]
    );
    assert!(
        number(&json["tick_delay_ms"]["p90"]) >= 14.0,
        "{}",
        json["tick_delay_ms"]
    );
}

// ---- assertions -------------------------------------------------------------------------------

#[test]
fn an_assertion_that_breaks_is_status_1_and_a_line_with_the_value() {
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
        good.stdout.contains("assert    holds   lost==0: 0"),
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
    let (_, json) = Run::unlimited(&[&args[..], &late].concat(), clean_stub);
    let holds: Vec<_> = (json["assertions"].as_array().unwrap().iter())
        .map(|asserted| asserted["holds"].as_bool().unwrap())
        .collect();
    assert_eq!(
        (holds, &json["verdict"]),
        (vec![true, false, false], &"failed".into())
    );
}

#[test]
fn a_stopped_client_does_not_blame_the_server_for_a_broken_assertion() {
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
    // This is what is measured, and no wait for anything.
    thread::sleep(Duration::from_millis(600));
    signal(&child, "STOP");
    thread::sleep(Duration::from_millis(300));
    signal(&child, "CONT");
    let run: Run = child.wait_with_output().unwrap().into();
    let json: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(run.status, Some(1), "{json}");
    assert_eq!(json["verdict"], "client_limited");
    assert_eq!(
        (&json["assertions"][0]["holds"], &json["failures"]),
        (&false.into(), &Value::Array(vec![]))
    );
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status();
    assert!(status.unwrap().success());
}

// ---- capacity ---------------------------------------------------------------------------------

#[test]
fn a_server_that_holds_all_that_may_be_tried() {
    let args = ["--find-capacity", "--count", "2", "--assert", "lost==0"];
    let (run, json) = Run::unlimited(&args, clean_stub);
    assert_eq!(run.status, Some(0), "{json}");
    let capacity = &json["capacity"];
    assert_eq!(
        (&capacity["answer"], &capacity["largest"]),
        (&"at_least".into(), &2.into())
    );
    assert_eq!(capacity["steps"][0]["holds"], true);
    assert!(
        number(&capacity["steps"][0]["packets_per_sec"]) > 50.0,
        "{capacity}"
    );
}

#[test]
fn the_largest_number_that_holds_is_found() {
    // One session at a time is served well; a second one gets every other tick only.
    let script = |session, tick: u64| {
        Some(if session == 1 && tick.is_multiple_of(2) {
            Vec::new()
        } else {
            hello(tick, TEXT)
        })
    };
    let args = ["--find-capacity", "--count", "2", "--assert", "lost==0"];
    let (run, json) = Run::unlimited(&args, || Stub::start(script));
    assert_eq!(run.status, Some(0), "{json}");
    let capacity = &json["capacity"];
    assert_eq!(
        (&capacity["answer"], &capacity["largest"]),
        (&"found".into(), &1.into())
    );
    let broken = capacity["steps"][0]["broken"].to_string();
    assert!(broken.contains("ticks were missing"), "{broken}");
}

// ---- comparison and schema --------------------------------------------------------------------

fn compare(before: &str, after: &str) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dummy_client"));
    Run::of(command.args(["compare", before, after]))
}

#[test]
fn two_runs_are_compared() {
    let record = |name: &str, stub: fn() -> Stub| {
        let args = ["--count", "3", "--duration-secs", "1"];
        let (_, json) = Run::unlimited(&args, stub);
        let path = scratch(name);
        std::fs::write(&path, json.to_string()).unwrap();
        path
    };
    let good = record("good.json", clean_stub);
    let bad = record("bad.json", || {
        Stub::start(|_, tick| {
            Some(if tick == 20 {
                Vec::new()
            } else {
                hello(tick, TEXT)
            })
        })
    });
    let same = compare(&good, &good);
    assert_eq!(same.status, Some(0), "{same:?}");
    let worse = compare(&good, &bad);
    assert_eq!(worse.status, Some(1), "{worse:?}");
    assert!(worse.stdout.contains("ticks.missing"), "{}", worse.stdout);
    let nonsense = scratch("nonsense.json");
    for text in [
        "",
        "{}",
        "[1]",
        r#"{"schema":"dummy_client.summary","schema_version":99}"#,
    ] {
        std::fs::write(&nonsense, text).unwrap();
        let run = compare(&good, &nonsense);
        assert_eq!(run.status, Some(2), "{text}: {run:?}");
        assert!(run.stderr.contains("nonsense.json"), "{}", run.stderr);
    }
    assert_eq!(compare(&good, &scratch("away.json")).status, Some(2));
}

#[test]
fn what_is_written_is_what_the_schema_says() {
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
    let (_, json) = Run::json(stub.addr, &args);
    check(&json);
    let mut wrong = json;
    wrong["verdict"] = "splendid".into();
    assert!(!validator.is_valid(&wrong), "the schema allows anything");
    let (_, json) = Run::json(stub.addr, &["--find-capacity", "--count", "1"]);
    check(&json);
}
