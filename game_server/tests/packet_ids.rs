//! Packet ids: the id tells the kind of a packet, and an id that clients may not send ends the session.
//! Most copies of the lecture's server use the id as the index of a table, and 65,535 is one beyond its
//! end.

use crate::util::*;
use std::collections::VecDeque;
use std::thread;

/// Row 17: the id is the kind of a packet. The same payload has two meanings under two ids.
#[test]
fn id_decides_how_a_payload_is_handled() {
    let server = Server::start_quiet(&[]);
    let (mut client, mut other) = (server.join(), server.join());
    client.send(&packet(C_ECHO, b"same bytes"));
    client.expect_echo(b"same bytes");
    client.send(&packet(C_CHAT, b"same bytes"));
    assert_eq!(client.next_chat().1, "same bytes");
    assert_eq!(other.next_chat().1, "same bytes");
    other.echo(b"the echo was not for it");
}

/// Open connections of each thread.
const WINDOW: usize = 64;
const THREADS: u16 = 4;

/// For all 65,536 ids: clients may send two of them; each of the others closes the session.
#[test]
fn every_id_but_echo_and_chat_closes_session_with_unknown_id() {
    let server = Server::start(&QUIET);
    let mut witness = server.join();
    let addr = server.addr;
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            thread::spawn(move || {
                let mut tried = 0;
                let mut waiting = VecDeque::new();
                let ids = (0..=u16::MAX).filter(|id| id % THREADS == thread);
                for id in ids.filter(|id| ![C_ECHO, C_CHAT].contains(id)) {
                    let mut client = Client::connect(addr);
                    client.send(&header(4, id));
                    waiting.push_back(client);
                    tried += 1;
                    if waiting.len() == WINDOW {
                        waiting.pop_front().unwrap().expect_bye(3);
                    }
                }
                for mut client in waiting {
                    client.expect_bye(3);
                }
                tried
            })
        })
        .collect();
    let tried: usize = threads.into_iter().map(|one| one.join().unwrap()).sum();
    assert_eq!(tried, 65_534);
    witness.echo(b"still here");
}

/// The id is checked before the payload.
#[test]
fn unknown_id_with_a_payload_closes_session() {
    let server = Server::start(&QUIET);
    for id in [0, 1, 3, 5, 6, 7, 255, 256, 1024, 32_767, 32_768, u16::MAX] {
        let mut client = server.connect();
        client.echo(b"before");
        client.send(&packet(id, b"some payload"));
        client.expect_bye(3);
    }
}
