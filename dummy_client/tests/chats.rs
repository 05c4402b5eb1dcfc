//! Chats and their deliveries.
#![allow(clippy::unwrap_used)] // The panic of a failed test names the line.

mod util;

use serde_json::Value;
use util::fault::{TEXT, number};
use util::{RealServer, Run, Stub, hello, packet};

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
            packet(5, [&1_u64.to_le_bytes()[..], &text].concat())
        },
    );
    let args = ["--count", "2", "--chat-hz", "20", "--duration-secs", "0.6"];
    Run::json(stub.addr, &args)
}

#[test]
fn corrupted_or_lost_chats_fail_the_run() {
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
