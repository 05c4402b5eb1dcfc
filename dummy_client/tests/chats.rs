//! Chats and their deliveries.

use crate::util::fault::TEXT;
use crate::util::{RealServer, Run, Stub, counts, hello, packet};
use dummy_client::Report;
use std::sync::Arc;

#[test]
fn chats_are_delivered_to_the_sender_and_the_other_sessions() {
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
    let (run, report) = Run::report(server.addr(), &args);
    assert_eq!(run.status, Some(0), "{run:?}");
    let names = ["chats_sent", "chats_delivered", "chats_received"];
    let [sent, delivered, received] = counts(&report, names);
    assert!(sent > 50, "{sent}");
    assert_eq!(sent, delivered);
    assert!(received > sent * 8, "{received} of {sent}");
    assert_eq!(report.metrics.trend("chat_delay").unwrap().count, delivered);
}

fn chat_answers(answer: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) -> (Run, Report) {
    let answer = Arc::new(answer);
    let stub = || {
        let answer = Arc::clone(&answer);
        Stub::with_answers(
            |_, tick| Some(hello(tick, TEXT)),
            move |id, text| {
                assert_eq!(id, 4);
                let text = answer(text);
                if text.is_empty() {
                    return text;
                }
                packet(5, [&1_u64.to_le_bytes()[..], &text].concat())
            },
        )
    };
    let args = ["--count", "2", "--chat-hz", "20", "--duration-secs", "0.6"];
    Run::undisturbed(&args, stub)
}

#[test]
fn corrupted_or_lost_chats_fail_the_run() {
    let (run, _) = chat_answers(<[u8]>::to_vec);
    assert_eq!(run.status, Some(0), "{run:?}");
    let (run, report) = chat_answers(|text| text[..text.len() - 1].to_vec());
    assert_eq!(run.status, Some(1), "{run:?}");
    let [corrupted, delivered] = counts(&report, ["chats_corrupted", "chats_delivered"]);
    assert_eq!(corrupted, delivered);
    let (run, report) = chat_answers(|_| Vec::new());
    assert_eq!(run.status, Some(1), "{run:?}");
    let [lost, sent] = counts(&report, ["chats_lost", "chats_sent"]);
    assert_eq!(lost, sent);
    assert!(report.lost() > 0);
}
