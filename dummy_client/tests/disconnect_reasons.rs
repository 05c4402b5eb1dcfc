//! The reasons that a server sends before it closes a session.

use crate::util::fault::{TEXT, with_fault};
use crate::util::{Run, Stub, client, counts, hello, packet, scratch};
use std::fs;
use std::time::Instant;

#[test]
fn lost_session_fails_the_run_and_its_reason_is_reported() {
    let (run, report) = with_fault(|tick| match tick {
        20 => Some(packet(6, b"\x0a\x00the server is shutting down")),
        21.. => None,
        _ => Some(hello(tick, TEXT)),
    });
    assert_eq!(run.status, Some(1));
    assert_eq!(report.sessions.lost, 1);
    let message = &report.close_messages[0];
    assert_eq!(
        (message.code, &*message.text),
        (10, "the server is shutting down")
    );
}

/// The text of a server cannot control the terminal or reverse a line: not in the log, the text, the JSON or
/// the report.
#[test]
fn control_characters_of_a_server_are_escaped_in_every_output() {
    let text = "\u{9b}31m\u{9d}0;x\u{7}\u{7f}\u{1b}[2J\u{202e}\u{2066}\u{200f}\u{61c}\u{2028}";
    let stub = || {
        Stub::start(move |_, tick| match tick {
            20 => Some(packet(6, format!("\u{7}\0{text}").as_bytes())),
            21.. => None,
            _ => Some(hello(tick, text)),
        })
    };
    let page = scratch("hostile.html");
    let (with_json, report) = Run::report(stub().addr, &["--count", "2", "--report", &page]);
    assert_eq!(report.close_messages[0].text, text);
    assert!(
        with_json.stdout.contains("\\u009b31m\\u009d0;x"),
        "{with_json:?}"
    );
    let with_text = Run::of(&mut client(stub().addr, &["--count", "2"]));
    let page = fs::read_to_string(&page).unwrap();
    for (what, output) in [
        ("the JSON", &with_json.stdout),
        ("the log", &with_json.stderr),
        ("the text", &with_text.stdout),
        ("the report", &page),
    ] {
        assert!(output.contains("31m"), "{what} has the text");
        let is_bad =
            |c: &char| *c != '\n' && (c.is_control() || !c.is_ascii() && text.contains(*c));
        assert_eq!(output.chars().find(is_bad), None, "{what}");
    }
}

/// A peer can send any number of different disconnect reasons. The summary stays small, and its sum is right.
#[test]
fn many_different_reasons_are_a_short_list() {
    let stub = Stub::start(|_, tick| match tick {
        1..=60 => {
            let bye = |n| packet(6, format!("\x07\x00reason {n} </script>").as_bytes());
            Some((0..1000).flat_map(|n| bye(tick * 1000 + n)).collect())
        }
        // This is the only session: the run ends when the session ends.
        _ => None,
    });
    let page = scratch("reasons.html");
    let args = ["--count", "1", "--log-sessions", "0", "--report", &page];
    let (run, report) = Run::report(stub.addr, &args);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert_eq!(counts(&report, ["packets_received"]), [60_000]);
    assert_eq!(report.close_messages.len(), 50);
    assert_eq!(report.other_close_messages.count, 60_000 - 50);
    assert_eq!(report.other_close_messages.kinds_at_least, 951);
    assert!(run.stdout.len() < 20_000, "{} bytes", run.stdout.len());
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("and at least 951 more kinds"), "{html}");
    assert!(html.len() < 100_000, "{} bytes", html.len());
    assert_eq!(html.matches("</script>").count(), 1);
}

#[test]
fn long_reason_is_cut_to_200_characters() {
    let (_, report) = with_fault(|tick| match tick {
        20 => Some([packet(6, [b'x'; 60_000]), hello(20, TEXT)].concat()),
        _ => Some(hello(tick, TEXT)),
    });
    assert_eq!(report.close_messages[0].text, "x".repeat(200));
}

/// A server that sends `S_BYE` packets without end must not keep the client running, nor fill its memory.
#[test]
fn endless_s_bye_packets_end_with_the_run() {
    let stub = Stub::start(|_, _| Some(packet(6, b"\x07\x00").repeat(50_000)));
    let started = Instant::now();
    let (run, report) = Run::report(stub.addr, &["--count", "1", "--duration-secs", "1"]);
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    // No tick came, so nothing was checked.
    assert_eq!(run.status, Some(1), "{:?}", report.failures);
    // One read already brings more; the number of reads in a second depends on the machine.
    assert!(report.close_messages[0].count > 10_000);
}
