//! Chats: which sessions receive a chat, the session id in it, and which texts are valid.

use crate::util::*;
use std::collections::HashSet;

/// Sends a chat, and returns the session id and the text that come back.
#[track_caller]
fn chat(client: &mut Client, text: &str) -> (u64, String) {
    client.send(&packet(C_CHAT, text.as_bytes()));
    client.next_chat()
}

#[test]
fn chat_reaches_every_session_and_its_sender() {
    let server = Server::start_quiet(&["--workers", "3"]);
    let mut clients: Vec<Client> = (0..7).map(|_| server.join()).collect();
    let mut ids = HashSet::new();
    for speaker in 0..clients.len() {
        let text = format!("I am {speaker}, grüß euch");
        clients[speaker].send(&packet(C_CHAT, text.as_bytes()));
        let heard: Vec<(u64, String)> = clients.iter_mut().map(Client::next_chat).collect();
        let id = heard[0].0;
        assert!(
            heard.iter().all(|one| *one == (id, text.clone())),
            "{heard:?}"
        );
        assert!(id >> 32 >= 1, "generations start at 1: {id:#x}");
        assert!(ids.insert(id), "two sessions have the id {id:#x}");
    }
}

#[test]
fn session_id_is_stable_and_never_reused() {
    let server = Server::start_quiet(&["--workers", "1"]);
    let mut ids = HashSet::new();
    for _ in 0..50 {
        let mut client = server.connect();
        let (id, _) = chat(&mut client, "what is my id?");
        assert_eq!(chat(&mut client, "and now?").0, id);
        assert!(ids.insert(id), "the id {id:#x} came again");
        client.finish_writing();
        // The server has closed: the slot of the session is free.
        client.expect_eof();
    }
}

#[test]
fn chat_of_1_and_of_512_bytes_is_delivered() {
    let server = Server::start_quiet(&[]);
    let mut client = server.connect();
    for text in ["x".to_owned(), "y".repeat(512), "ü".repeat(256)] {
        assert_eq!(chat(&mut client, &text).1, text);
    }
}

#[test]
fn invalid_chat_text_closes_session_with_bad_payload() {
    let server = Server::start_quiet(&[]);
    let cut_character = &"ü".as_bytes()[..1];
    let bad: [&[u8]; 6] = [
        b"",
        &[b'x'; 513],
        &[0xff],
        b"ok \xc3\x28",
        cut_character,
        &[b'x'; 60_000],
    ];
    let mut witness = server.join();
    for text in bad {
        let mut client = server.connect();
        client.send(&packet(C_CHAT, text));
        client.expect_bye(4);
    }
    witness.echo(b"no chat came before this");
}
