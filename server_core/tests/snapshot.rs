//! A list of the sessions with what waits for each.

use crate::util::recorder::{RecorderClient, builder, numbered, start};
use server_core::SessionId;
use server_core::testing::{RawClient, wait_until};
use std::time::Instant;

#[test]
fn snapshot_shows_every_session_of_every_worker() {
    let running = start(builder());
    let mut clients: Vec<(RawClient, SessionId)> = (0..6).map(|_| running.connect()).collect();
    for (count, (client, _)) in clients.iter_mut().enumerate() {
        for _ in 0..count {
            client.echo(b"one more");
        }
    }
    // One that does not read: what its socket did not take is shown.
    let stuck = clients[5].1;
    let handle = running.server.handle();
    let (number, tail) = (numbered(0, 0), [7; 60_000]);
    for _ in 0..16 {
        handle.send_to(stuck, &number, tail);
    }
    running.wait_for("something waits for it", |handle| {
        handle.metrics().totals().send_queue_bytes > 0
    });
    let mut snapshot = handle.snapshot().expect("no other one is under way");
    let mut sessions = Vec::new();
    wait_until("every worker has answered", || {
        snapshot.poll().unwrap().is_some_and(|all| {
            sessions = all;
            true
        })
    });
    assert_eq!(sessions.len(), clients.len());
    for (count, (client, id)) in clients.iter().enumerate() {
        let session = sessions.iter().find(|one| one.id == *id).unwrap();
        assert_eq!(session.addr, client.stream.local_addr().unwrap());
        assert_eq!(session.packets_received, count as u64);
        assert!(session.packets_sent >= count as u64);
        assert!(session.opened_at <= Instant::now());
        assert_eq!(session.queued_bytes > 0, *id == stuck);
        assert_eq!(session.oldest_unsent_at.is_some(), *id == stuck);
    }
    running.wait_for("the next one may begin", |handle| {
        handle.snapshot().is_some()
    });
}
