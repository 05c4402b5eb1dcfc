//! Sessions that read slowly or not at all, beside sessions that keep up.

use crate::util::recorder::{RecorderClient, builder, numbered, start};
use server_core::testing::RawClient;
use std::thread;

/// (lecture row 7)
#[test]
fn session_that_does_not_read_delays_no_sender_and_no_reader() {
    // Both on one worker: the one that is stuck lies in the way, if anything does.
    let running = start(builder().workers(1).max_send_queue_bytes(64 << 20));
    let (stuck, stuck_id) = running.connect();
    let (mut reader, reader_id) = running.connect();
    let handle = running.server.handle();
    // More than any socket buffer takes.
    for number in 0..400 {
        handle.send_to(stuck_id, &numbered(0, number), vec![0; 40_000]);
    }
    running.wait_for("its socket is full", |handle| {
        handle.metrics().totals().send_queue_bytes > 1 << 20
    });
    for number in 0..1_000 {
        handle.send_to(reader_id, &numbered(1, number), b"");
        if number % 50 == 49 {
            for expected in number - 49..=number {
                assert_eq!(reader.receive_numbered().1, expected);
            }
        }
    }
    assert_eq!(handle.metrics().totals().sessions, 2);
    drop(stuck);
}

/// A reader that keeps up must not be taken for a slow one, however much a turn brings: the limits
/// compare what the socket did not take. (A burst above `max_send_queue_bytes` itself, 1 MiB by default,
/// is over the limit for any reader.)
#[test]
fn burst_kicks_no_reader_that_keeps_up() {
    for (packets, bytes) in [(5_000_u64, 100), (30, 30_000)] {
        let running = start(builder());
        let readers: Vec<_> = (0..8)
            .map(|_| {
                let (mut client, _) = running.connect();
                thread::spawn(move || {
                    for number in 0..packets {
                        let (_, got, tail) = client.receive_numbered();
                        assert_eq!((got, tail.len()), (number, bytes));
                    }
                    client
                })
            })
            .collect();
        for number in 0..packets {
            running
                .server
                .broadcast(&numbered(0, number), vec![7; bytes]);
        }
        let clients: Vec<RawClient> = readers.into_iter().map(|one| one.join().unwrap()).collect();
        assert_eq!(clients.len(), 8);
    }
}
