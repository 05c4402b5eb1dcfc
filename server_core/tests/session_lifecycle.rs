//! A session from its first callback to its last, and what is sent or received when it ends.

use crate::util::recorder::{C_CLOSE, C_ECHO, Event, RecorderClient, builder, numbered, start};
use server_core::DisconnectReason;
use server_core::testing::{DEADLINE, RawClient, RawPacket};
use std::io::Write;
use std::thread;

/// (lecture row 21)
#[test]
fn callbacks_of_a_session_run_in_order_on_one_worker() {
    let running = start(builder());
    assert_ne!(running.server.local_addr().port(), 0);
    let mut client = RawClient::connect(running.server.local_addr());
    client.echo(b"one");
    client.echo(b"");
    drop(client);
    let Event::Connected(id, None, worker) = running.next() else {
        panic!("connected comes first");
    };
    assert!(worker.starts_with("worker-"), "{worker}");
    assert_eq!(running.next(), Event::Packet(id, worker.clone()));
    assert_eq!(running.next(), Event::Packet(id, worker.clone()));
    let Event::Disconnected(left, None, reason, there) = running.next() else {
        panic!("disconnected comes last");
    };
    assert_eq!((left, there), (id, worker));
    assert_eq!(reason, DisconnectReason::PeerClosed);
    running.wait_for("nobody is here", |handle| {
        handle.metrics().totals().sessions == 0
    });
}

#[test]
fn packets_behind_a_close_are_not_handled() {
    let running = start(builder());
    let (mut client, id) = running.connect();
    // In one write, so that all of it lies in the server's buffer at once.
    let close_then_echo = [4, 0, C_CLOSE as u8, 0, 4, 0, C_ECHO as u8, 0];
    client.send(&close_then_echo);
    assert_eq!(client.next_packet(), RawPacket::new(3, b"closing"));
    client.expect_eof();
    assert!(matches!(running.next(), Event::Packet(of, _) if of == id));
    assert!(
        matches!(running.next(), Event::Disconnected(of, _, DisconnectReason::Closed, _) if of == id)
    );
}

/// (lecture row 8)
#[test]
fn send_to_a_closed_session_is_counted_as_undeliverable() {
    let running = start(builder());
    let (mut gone, id) = running.connect();
    let (mut other, _) = running.connect();
    let handle = running.server.handle();
    handle.close(id);
    assert_eq!(running.next_departure(), (id, DisconnectReason::Closed));
    gone.expect_eof();
    for number in 0..100 {
        handle.send_to(id, &numbered(0, number), b"too late");
    }
    handle.close(id);
    running.wait_for("all of them are counted", |handle| {
        handle.metrics().totals().undeliverable == 100
    });
    assert_eq!(handle.metrics().totals().send_queue_bytes, 0);
    other.echo(b"still here");
}

/// (lecture row 8)
#[test]
fn close_flushes_queued_packets() {
    let running = start(builder());
    let (mut client, id) = running.connect();
    let handle = running.server.handle();
    for number in 0..300 {
        handle.send_to(id, &numbered(0, number), [1; 1_000]);
    }
    handle.close(id);
    for number in 0..300 {
        assert_eq!(client.receive_numbered().1, number);
    }
    client.expect_eof();
}

#[test]
fn bytes_behind_an_invalid_packet_are_counted_as_received() {
    const BEHIND: usize = 300_000;
    let mut config = server_core::Config::default();
    // However slow this machine is, nothing is cut off.
    config.linger = DEADLINE;
    config.flush_timeout = DEADLINE;
    let running = start(builder().config(config));
    let (mut client, _) = running.connect();
    client.echo(b"before");
    client.send_packet(999, b"of no known kind");
    let behind = thread::spawn({
        let mut stream = client.sender();
        move || {
            // More than one read takes, so that most of it comes while the session leaves.
            stream.write_all(&[0xa5; BEHIND]).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
    });
    assert_eq!(client.next_packet(), RawPacket::new(6, [3, 0]));
    client.expect_eof();
    behind.join().unwrap();
    let sent = 10 + 20 + BEHIND as u64;
    running.wait_for("all that was sent has come", |handle| {
        handle.metrics().totals().bytes_received == sent
    });
    let totals = running.server.handle().metrics().totals();
    assert_eq!(
        totals.packets_received, 2,
        "the offence, and nothing behind"
    );
    assert_eq!((totals.packets_sent, totals.bytes_sent), (2, 10 + 6));
}
