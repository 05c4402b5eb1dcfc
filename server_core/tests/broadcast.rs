//! A packet to every session.

use crate::util::recorder::{Event, RecorderClient, builder, numbered, start};
use server_core::DisconnectReason;
use server_core::testing::RawClient;
use std::time::{Duration, Instant};

/// (lecture row 34)
#[test]
fn broadcast_is_encoded_once_for_all_sessions() {
    const CLIENTS: usize = 50;
    let running = start(builder());
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| running.connect().0).collect();
    let handle = running.server.handle();
    let chunks_before = handle.pool_stats().pops;
    for number in 0..20 {
        handle.broadcast(&numbered(0, number), [8; 1_000]);
    }
    for client in &mut clients {
        for expected in 0..20 {
            assert_eq!(client.receive_numbered(), (0, expected, vec![8; 1_000]));
        }
    }
    // 20 packets of one kilobyte are less than one chunk; a copy per session would be sixteen.
    assert_eq!(handle.pool_stats().pops, chunks_before + 1);
}

/// (lecture row 53)
#[test]
fn peer_reset_during_broadcasts_ends_that_session_only() {
    let running = start(builder().workers(1));
    let mut clients: Vec<_> = (0..10).map(|_| running.connect()).collect();
    let handle = running.server.handle();
    let (broken, broken_id) = clients.remove(0);
    broken.reset();
    let mut number = 0;
    let (left, reason) = loop {
        handle.broadcast(&numbered(0, number), b"");
        number += 1;
        if let Ok(Event::Disconnected(id, _, reason, _)) = running.events.try_recv() {
            break (id, reason);
        }
        assert!(number < 10_000_000);
    };
    assert_eq!((left, reason), (broken_id, DisconnectReason::PeerReset));
    for (client, _) in &mut clients {
        for expected in 0..number {
            assert_eq!(client.receive_numbered().1, expected);
        }
    }
    assert_eq!(handle.metrics().totals().sessions, 9);
}

#[test]
fn measured_broadcast_is_counted_once_for_any_number_of_workers() {
    const BROADCASTS: u64 = 50;
    let running = start(builder().workers(3));
    let mut clients: Vec<RawClient> = (0..5).map(|_| running.connect().0).collect();
    let handle = running.server.handle();
    let began = Instant::now();
    for number in 0..BROADCASTS {
        handle.broadcast_measured(began, &numbered(0, number), b"");
        handle.broadcast(&numbered(1, number), b"not measured");
    }
    for client in &mut clients {
        for _ in 0..2 * BROADCASTS {
            client.receive_numbered();
        }
    }
    running.wait_for("all are measured", |handle| {
        handle.metrics().broadcasts.count() >= BROADCASTS
    });
    let durations = &handle.metrics().broadcasts;
    assert_eq!(durations.count(), BROADCASTS);
    assert!(durations.take_max() <= began.elapsed());
    assert!(durations.sum() > Duration::ZERO);
}
