//! Two nodes over a real Redis. Needs the program redis-server.

use crate::util::recorder::{Event, Running, builder, numbered, start};
use server_core::cluster::{Cluster, Why};
use server_core::testing::{DEADLINE, RawClient, Redis, wait_until};
use server_core::{DisconnectReason, Kick};
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

fn join(redis: &Redis, server: &Running) -> Cluster {
    let cluster = Cluster::builder(redis.url());
    cluster.start(&server.server.handle()).unwrap()
}

fn wait_for_links(clusters: [&Cluster; 2]) {
    for cluster in clusters {
        wait_until("both nodes", || {
            let nodes = cluster.nodes();
            nodes.is_link_up && nodes.nodes.len() == 2
        });
    }
}

/// Takes this number of bytes a second, until `is_over` or the end of the stream. Returns whether the stream goes on.
fn read_at(rate: u64, stream: &mut TcpStream, is_over: &AtomicBool) -> bool {
    /// A reader that had no bytes, or no processor, for a while takes as much as this at once.
    const BURST: u64 = 256 << 10;
    stream
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let (began, mut taken, mut bytes) = (Instant::now(), 0, vec![0; 64 << 10]);
    while !is_over.load(Ordering::Acquire) {
        let due = rate * began.elapsed().as_millis() as u64 / 1000;
        taken = taken.max(due.saturating_sub(BURST));
        let most = (due - taken).min(bytes.len() as u64) as usize;
        if most == 0 {
            thread::sleep(Duration::from_millis(2));
            continue;
        }
        match stream.read(&mut bytes[..most]) {
            Ok(0) => return false,
            Ok(read) => taken += read as u64,
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {}
            Err(_) => return false,
        }
    }
    true
}

/// Another node sends 3 MiB/s, three times what the reader takes.
#[test]
fn stream_of_another_node_above_the_paced_rate_ends_no_reader_that_keeps_up() {
    const RATE: u64 = 3 << 20;
    const BYTES: u64 = 8 << 10;
    let Some(redis) = Redis::start() else { return };
    let sender = start(builder());
    let receiver = start(builder().max_send_queue_bytes(4 << 20));
    let [of_sender, of_receiver] = [&sender, &receiver].map(|server| join(&redis, server));
    wait_for_links([&of_sender, &of_receiver]);
    let addr = receiver.server.local_addr();
    let mut client = RawClient::connect_with_recv_buffer(addr, 64 << 10);
    assert!(matches!(receiver.next(), Event::Connected(..)));
    let packet = sender
        .server
        .handle()
        .encode(&numbered(0, 0), vec![7; BYTES as usize - 20]);
    let packet = packet.unwrap();
    let (is_over, metrics) = (AtomicBool::new(false), of_receiver.metrics());
    let is_connected = thread::scope(|scope| {
        let reader = scope.spawn(|| read_at(1 << 20, &mut client.stream, &is_over));
        let (began, mut sent) = (Instant::now(), 0);
        // 4 MiB beyond the paced rate are the whole queue of the reader.
        while metrics.dropped(Why::Congested) < 4 << 20 >> 13 && !reader.is_finished() {
            assert!(began.elapsed() < DEADLINE, "no packet is dropped");
            while sent * BYTES < RATE * began.elapsed().as_millis() as u64 / 1000 {
                of_sender.broadcast_elsewhere(&packet);
                sent += 1;
            }
            thread::sleep(Duration::from_millis(2));
        }
        is_over.store(true, Ordering::Release);
        reader.join().unwrap()
    });
    let totals = receiver.server.handle().metrics().totals();
    assert!(
        is_connected,
        "{} packets dropped",
        metrics.dropped(Why::Congested)
    );
    assert_eq!(totals.sessions, 1);
    assert_eq!(totals.disconnects_for(Kick::SlowConsumer), 0);
    assert!(metrics.received.get() > 0 && metrics.gaps.get() > 0);
}

#[test]
fn login_before_the_start_of_the_cluster_ends_when_its_account_logs_in_on_another_node() {
    let Some(redis) = Redis::start() else { return };
    let servers = [start(builder()), start(builder())];
    let peers = servers.each_ref().map(Running::connect);
    let [first, second] = peers.each_ref().map(|(_, id)| *id);
    servers[0].server.handle().login(first, "ada");
    // A snapshot is behind the login in the mailboxes.
    let mut snapshot = servers[0].server.handle().snapshot().unwrap();
    wait_until("the login", || snapshot.poll().unwrap().is_some());
    let clusters = servers.each_ref().map(|server| join(&redis, server));
    wait_for_links(clusters.each_ref());
    let found = clusters[1].find("ada").recv_timeout(DEADLINE).unwrap();
    assert_eq!(found.map(|found| found.session), Some(first));
    clusters[1].login(second, "ada");
    let ended = (first, DisconnectReason::LoggedInElsewhere);
    assert_eq!(servers[0].next_departure(), ended);
    assert_eq!(servers[1].server.handle().metrics().totals().sessions, 1);
}
