//! Danger: hellos, echoes and chats of many senders meet in one stream. None may be torn, lost,
//! doubled or misattributed, whatever threads they come from.

// A failed unwrap is a failed test, also in its helpers.
#![allow(clippy::unwrap_used)]

mod util;

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::sync::{Arc, Barrier};
use std::thread;
use util::*;

/// Says something and returns what everybody hears: the speaker's session id, and the text.
#[track_caller]
fn chat(client: &mut Client, text: &str) -> (u64, String) {
    client.send(&packet(C_CHAT, text.as_bytes()));
    client.next_chat()
}

#[test]
fn chat_reaches_all_and_the_sender_too() {
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
fn a_session_keeps_its_id_and_a_later_one_never_gets_it() {
    let server = Server::start_quiet(&["--workers", "1"]);
    let mut ids = HashSet::new();
    for _ in 0..50 {
        let mut client = server.connect();
        let (id, _) = chat(&mut client, "who am I?");
        assert_eq!(chat(&mut client, "and now?").0, id);
        assert!(ids.insert(id), "the id {id:#x} came again");
        client.finish_writing();
        // The server has closed: its place in the table is free.
        client.expect_eof();
    }
}

#[test]
fn chat_of_1_and_of_512_bytes() {
    let server = Server::start_quiet(&[]);
    let mut client = server.connect();
    for text in ["x".to_owned(), "y".repeat(512), "ü".repeat(256)] {
        assert_eq!(chat(&mut client, &text).1, text);
    }
}

#[test]
fn chat_that_its_id_does_not_allow_is_kicked() {
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
    witness.echo(b"and nobody heard it");
}

#[test]
fn a_chat_flood_is_kicked_after_its_burst() {
    let server = Server::start_quiet(&["--max-chats-per-sec", "2"]);
    let mut witness = server.join();
    let mut client = server.connect();
    let flood: Vec<u8> = (0..40).flat_map(|_| packet(C_CHAT, b"spam")).collect();
    client.send(&flood);
    let mut heard = 0;
    let last = loop {
        let packet = client.next_but_hello();
        if packet.id != S_CHAT {
            break packet;
        }
        heard += 1;
    };
    assert_bye(&last, 8);
    client.expect_eof();
    // A burst of twice the rate; one more only if the machine was slow.
    assert!((4..=6).contains(&heard), "{heard} chats went through");
    for _ in 0..heard {
        assert_eq!(witness.next_chat().1, "spam");
    }
    witness.echo(b"no more than that");
}

#[test]
fn the_chat_budget_is_on_by_default_and_0_switches_it_off() {
    let flood: Vec<u8> = (0..200).flat_map(|_| packet(C_CHAT, b"spam")).collect();
    let server = Server::start_quiet(&[]);
    let mut client = server.connect();
    client.send(&flood);
    let last = loop {
        let packet = client.next_but_hello();
        if packet.id != S_CHAT {
            break packet;
        }
    };
    assert_bye(&last, 8);

    let server = Server::start_quiet(&["--max-chats-per-sec", "0"]);
    let mut client = server.connect();
    client.send(&flood);
    for _ in 0..200 {
        assert_eq!(client.next_chat().1, "spam");
    }
}

#[test]
fn more_packets_than_the_rate_allows_are_kicked() {
    let server = Server::start_quiet(&["--max-packets-per-sec", "50"]);
    let mut patient = server.join();
    let mut client = server.connect();
    let flood: Vec<u8> = (0..1000_u32)
        .flat_map(|n| packet(C_ECHO, &n.to_le_bytes()))
        .collect();
    client.send(&flood);
    let mut answers = 0_u32;
    let last = loop {
        let packet = client.next_but_hello();
        if packet.id != S_ECHO {
            break packet;
        }
        assert_eq!(packet.payload, answers.to_le_bytes());
        answers += 1;
    };
    assert_bye(&last, 7);
    client.expect_eof();
    assert!((100..200).contains(&answers), "{answers} of a burst of 100");
    patient.echo(b"has a budget of its own");
}

/// Each client sends echoes and chats at once and reads at the same time; the tick comes in
/// between. Every byte that arrives is accounted for.
#[test]
fn mixed_packets_of_many_senders_are_never_torn() {
    const CLIENTS: usize = 6;
    const ROUNDS: usize = 150;
    let mut random = random();
    let flags = [
        "--tick-ms",
        "3",
        "--workers",
        "4",
        "--max-chats-per-sec",
        "0",
    ];
    let server = Server::start(&flags);
    let clients: Vec<Client> = (0..CLIENTS).map(|_| server.join()).collect();
    let done = Arc::new(Barrier::new(CLIENTS));
    let threads: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(me, client)| {
            let (done, random) = (Arc::clone(&done), random.fork());
            thread::spawn(move || mix(me, client, random, CLIENTS, ROUNDS, &done))
        })
        .collect();
    let ids: Vec<HashMap<usize, u64>> =
        threads.into_iter().map(|one| one.join().unwrap()).collect();
    // All agree on who is who.
    assert!(ids.iter().all(|one| *one == ids[0]));
    assert_eq!(ids[0].values().collect::<HashSet<_>>().len(), CLIENTS);
}

/// Returns the session ids by the names that the chats give.
fn mix(
    me: usize,
    mut client: Client,
    mut random: fastrand::Rng,
    clients: usize,
    rounds: usize,
    done: &Barrier,
) -> HashMap<usize, u64> {
    let echoes: Vec<Vec<u8>> = (0..rounds)
        .map(|_| {
            let count = random.usize(..700);
            random_bytes(&mut random, count)
        })
        .collect();
    let mut sender = client.sender();
    let sending = {
        let echoes = echoes.clone();
        thread::spawn(move || {
            for (n, echo) in echoes.iter().enumerate() {
                let mut bytes = packet(C_ECHO, echo);
                bytes.extend(packet(C_CHAT, format!("{me}:{n}").as_bytes()));
                let cut = random.usize(..bytes.len());
                sender.write_all(&bytes[..cut]).unwrap();
                sender.write_all(&bytes[cut..]).unwrap();
            }
        })
    };
    let mut ids = HashMap::new();
    let mut next_chat = vec![0; clients];
    let mut echoes = echoes.into_iter();
    let mut last_tick = None;
    while echoes.len() > 0 || next_chat.iter().any(|next| *next < rounds) {
        let packet = client.next();
        match packet.id {
            S_HELLO => {
                let (tick, text) = split_number(&packet.payload);
                assert_eq!(text, b"Hello World");
                assert!(
                    last_tick.is_none_or(|last| tick == last + 1),
                    "{tick} after {last_tick:?}"
                );
                last_tick = Some(tick);
            }
            S_ECHO => assert!(packet.payload == echoes.next().unwrap()),
            S_CHAT => {
                let (id, text) = split_number(&packet.payload);
                let text = String::from_utf8(text).unwrap();
                let (name, n) = text.split_once(':').unwrap();
                let name: usize = name.parse().unwrap();
                assert_eq!(
                    n,
                    next_chat[name].to_string(),
                    "chats of one sender are in order"
                );
                next_chat[name] += 1;
                assert_eq!(*ids.entry(name).or_insert(id), id);
            }
            _ => panic!("{packet:?}"),
        }
    }
    sending.join().unwrap();
    // Nobody may leave while others still count on hearing it.
    done.wait();
    ids
}
