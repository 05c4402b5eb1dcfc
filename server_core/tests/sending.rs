//! Packets that other threads and callbacks send to one session.

use crate::util::recorder::{
    BURST, C_BACK_CALL, C_BURST, Numbered, RecorderClient, builder, numbered, start,
};
use server_core::{ServerHandle, SessionId};
use std::collections::HashMap;
use std::thread;

/// (lecture row 4)
#[test]
fn concurrent_sends_to_one_session_keep_each_sender_in_order() {
    many_senders(|handle, id, head, tail| handle.send_to(id, &head, tail));
}

/// (lecture row 6)
#[test]
fn concurrent_broadcasts_keep_each_sender_in_order() {
    many_senders(|handle, _, head, tail| handle.broadcast(&head, tail));
}

/// Several threads send numbered packets of many sizes at the same time.
fn many_senders(send: fn(&ServerHandle, SessionId, Numbered, Vec<u8>)) {
    const SENDERS: u64 = 4;
    const EACH: u64 = 400;
    let running = start(builder());
    let (mut client, id) = running.connect();
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let handle = running.server.handle();
            thread::spawn(move || {
                for number in 0..EACH {
                    let tail = vec![sender as u8; (number * 37 % 700) as usize];
                    send(&handle, id, numbered(sender, number), tail);
                }
            })
        })
        .collect();
    let mut next: HashMap<u64, u64> = HashMap::new();
    for _ in 0..SENDERS * EACH {
        let (sender, number, tail) = client.receive_numbered();
        let expected = next.entry(sender).or_default();
        assert_eq!(number, *expected, "the order of sender {sender}");
        *expected += 1;
        assert_eq!(tail, vec![sender as u8; (number * 37 % 700) as usize]);
    }
    for sender in senders {
        sender.join().unwrap();
    }
}

/// (lecture row 6)
#[test]
fn callback_that_uses_the_handle_does_not_deadlock() {
    let running = start(builder().max_send_queue_bytes(64 << 20));
    let (mut client, _) = running.connect();
    let (mut other, _) = running.connect();
    client.send_packet(C_BACK_CALL, b"");
    let (mut broadcasts, mut own) = (0, 0);
    while broadcasts + own < 4_000 {
        let (sender, number, _) = client.receive_numbered();
        let next = if sender == 1 {
            &mut broadcasts
        } else {
            &mut own
        };
        assert_eq!(number, *next);
        *next += 1;
    }
    for expected in 0..2_000 {
        let (sender, number, _) = other.receive_numbered();
        assert_eq!((sender, number), (1, expected));
    }
}

/// (lecture row 9)
#[test]
fn packets_queued_during_a_partial_write_arrive_in_order() {
    let running = start(builder().workers(1).max_send_queue_bytes(64 << 20));
    let (mut client, id) = running.connect();
    let handle = running.server.handle();
    // The first part fills the socket; the second is pushed while that one is being written.
    let (first, second) = (200_u64, 2_000_u64);
    for number in 0..first {
        handle.send_to(id, &numbered(0, number), vec![5; 60_000]);
    }
    running.wait_for("a write is under way", |handle| {
        let totals = handle.metrics().totals();
        totals.bytes_sent > 0 && totals.send_queue_bytes > 0
    });
    for number in first..first + second {
        handle.send_to(id, &numbered(0, number), b"");
    }
    for number in 0..first + second {
        assert_eq!(client.receive_numbered().1, number);
    }
}

/// (lecture row 10)
#[test]
fn packets_of_one_turn_leave_in_one_write_call() {
    let running = start(builder().workers(1));
    let (mut client, _) = running.connect();
    client.send_packet(C_BURST, b"");
    for number in 0..BURST {
        assert_eq!(client.receive_numbered().1, number);
    }
    running.wait_for("the counters are up to date", |handle| {
        handle.metrics().totals().packets_sent == BURST
    });
    // 24 bytes each: all lie side by side in one chunk, or in two.
    let calls = running.server.handle().metrics().totals().write_calls;
    assert_eq!(calls, 1, "{BURST} packets in {calls} calls");
}
