//! Many sessions: a leak per connection, or work that one thread alone does, shows only under load.

use crate::util::*;
use std::io::Write;
use std::net::Shutdown;
use std::sync::{Arc, Barrier};
use std::thread;

const MIB: u64 = 1 << 20;

/// Connects `count` clients; each is served, and disconnects in one of five ways.
fn wave(server: &Server, count: usize) {
    let mut clients: Vec<Client> = (0..count).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(&packet(C_ECHO, b"hello there"));
    }
    for (n, mut client) in clients.into_iter().enumerate() {
        match n % 5 {
            0 => {
                client.stream.peek(&mut [0]).unwrap();
                client.reset();
            }
            1 => {
                client.expect_echo(b"hello there");
                client.send(&header(0, 0));
                client.expect_bye(1);
            }
            2 => {
                client.expect_echo(b"hello there");
                client.send(&header(60_000, C_ECHO));
            }
            3 => {
                client.expect_echo(b"hello there");
                client.finish_writing();
                // Ticks, and then the end in order.
                while client.try_next().unwrap().is_some() {}
            }
            _ => client.expect_echo(b"hello there"),
        }
    }
}

#[test]
fn two_thousand_sessions_leak_no_descriptor_and_no_memory() {
    let server = Server::start(&["--tick-ms", "10", "--payload-bytes", "200"]);
    let mut healthy = server.join();
    let idle_fds = server.resting_fds();
    // The first waves bring tables and heaps to their working size.
    for _ in 0..4 {
        wave(&server, 100);
    }
    wait_until("the sockets of the first waves to close", DEADLINE, || {
        server.open_fds() <= idle_fds
    });
    let rss = server.rss_bytes();
    for _ in 0..20 {
        wave(&server, 100);
        // It reads its ticks meanwhile: it is not a slow consumer.
        healthy.echo(b"in between");
    }
    wait_until("the sockets of all waves to close", DEADLINE, || {
        server.open_fds() <= idle_fds
    });
    wait_for_memory(&server, rss);
    healthy.echo(b"done");
}

/// Waits until the server has less than 4 MiB more than before. A busy machine delays readers, and their queues grow:
/// the server gives that memory back within seconds.
#[track_caller]
fn wait_for_memory(server: &Server, before: u64) {
    let most = before + 4 * MIB;
    let what = format!("memory below {most} bytes");
    wait_until(&what, DEADLINE, || server.rss_bytes() < most);
}

#[test]
fn three_hundred_concurrent_connects_are_all_served() {
    const THREADS: usize = 10;
    let server = Server::start(&QUIET);
    let addr = server.addr;
    let (start, all_are_here) = (
        Arc::new(Barrier::new(THREADS)),
        Arc::new(Barrier::new(THREADS)),
    );
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (start, all_are_here) = (Arc::clone(&start), Arc::clone(&all_are_here));
            thread::spawn(move || {
                start.wait();
                let mut clients: Vec<Client> = (0..30).map(|_| Client::connect(addr)).collect();
                all_are_here.wait();
                for (n, client) in clients.iter_mut().enumerate() {
                    client.send(&packet(C_ECHO, [thread as u8, n as u8]));
                }
                for (n, client) in clients.iter_mut().enumerate() {
                    client.expect_echo(&[thread as u8, n as u8]);
                }
                // No client disconnects before every client is served.
                all_are_here.wait();
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Row 47: the server serves 1,000 clients at a time. "If it is really broken, it crashes once."
#[test]
fn thousand_sessions_are_all_served() {
    let server = Server::start(&["--tick-ms", "100"]);
    let mut clients: Vec<Client> = (0..1000).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&packet(C_ECHO, n.to_le_bytes()));
    }
    for (n, client) in clients.iter_mut().enumerate() {
        client.expect_echo(&n.to_le_bytes());
    }
    for client in &mut clients {
        let (tick, _) = client.next_hello();
        assert_eq!(client.next_hello().0, tick + 1);
    }
}

/// Row 60: 1,500 broadcasts of 1,000 bytes do not grow the memory, and the number of chunks stays flat.
#[test]
fn broadcasts_do_not_grow_memory() {
    let flags = ["--tick-ms", "1", "--payload-bytes", "1000"];
    let server = Server::start(&[&flags[..], &["--stats-interval-secs", "0.2"]].concat());
    let readers: Vec<TickReader> = (0..20).map(|_| TickReader::start(server.join())).collect();
    let mut meter = server.join();
    let mut read = |ticks: usize| (0..ticks).for_each(|_| drop(meter.next_hello()));
    read(300);
    let before = server.rss_bytes();
    read(1500);
    wait_for_memory(&server, before);
    // A worker that is not run for half a second holds more. It gives them back when it has run.
    server.wait_for_new_line_where("8 chunks at most", |line| {
        stat(line, "chunks live").is_some_and(|live| live <= 8)
    });
    for reader in readers {
        reader.stop_after(1500);
    }
}

/// Row 61: churn: sessions connect, send and disconnect at random.
#[test]
fn churn_counts_every_disconnect_and_loses_no_tick() {
    let mut random = random();
    let flags = [
        "--tick-ms",
        "5",
        "--workers",
        "3",
        "--max-chats-per-sec",
        "0",
    ];
    let (server, addr) = admin::start(&[&flags[..], &["--stats-interval-secs", "0.1"]].concat());
    let healthy = TickReader::start(server.join());
    let mut clients: Vec<Client> = Vec::new();
    let mut connected = 0.0;
    for _ in 0..4000 {
        match random.u8(..10) {
            0..4 => {
                clients.push(server.connect());
                connected += 1.0;
            }
            _ if clients.is_empty() => {}
            action => {
                let at = random.usize(..clients.len());
                match action {
                    // Fails once a session is kicked for half a packet.
                    4 | 5 => drop(clients[at].stream.write_all(&packet(C_ECHO, b"one"))),
                    6 => drop(clients[at].stream.write_all(&packet(C_CHAT, b"two"))),
                    7 => drop(clients[at].stream.write_all(&header(9, C_ECHO))),
                    8 => drop(clients.swap_remove(at).stream.shutdown(Shutdown::Write)),
                    _ => drop(clients.swap_remove(at)),
                }
            }
        }
        clients.truncate(100);
    }
    drop(clients);
    // The gauge of sessions alone is not enough: the last connections may not be accepted yet.
    wait_until("every session to have ended", DEADLINE, || {
        let now = admin::scrape(addr);
        let ended = REASONS
            .iter()
            .map(|reason| now.value(&format!("server_disconnects_total{{reason=\"{reason}\"}}")));
        ended.sum::<f64>() + now.value("server_rejected_total") == connected
    });
    server.wait_for_new_line_where("one session left", |line| stat(line, "sessions") == Some(1));
    healthy.stop_after(10);
    server.join().next_hello();
}
