//! Danger: many at once. What leaks a little per connection, waits on one thread, or walks a list
//! that somebody leaves meanwhile, shows only under load.

// A failed unwrap is a failed test, also in its helpers.
#![allow(clippy::unwrap_used)]

mod util;

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};
use util::{C_ECHO, Client, DEADLINE, QUIET, Server, header, packet, random, wait_until};

const MIB: u64 = 1 << 20;

/// A wave comes, each one is served, and goes in one of several ways.
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
                // Ticks that were on their way, then the end in order.
                while client.try_next().unwrap().is_some() {}
            }
            _ => client.expect_echo(b"hello there"),
        }
    }
}

#[test]
fn two_thousand_come_and_go_and_nothing_stays() {
    let server = Server::start(&["--tick-ms", "10", "--payload-bytes", "200"]);
    let mut healthy = server.join();
    let idle_fds = server.resting_fds();
    // The first waves bring tables and heaps to their size.
    for _ in 0..4 {
        wave(&server, 100);
    }
    wait_until("the sockets of the first waves to close", DEADLINE, || {
        server.open_fds() <= idle_fds
    });
    let rss = server.rss_bytes();
    for _ in 0..20 {
        wave(&server, 100);
        // It takes its ticks on the way: it is no slow consumer.
        healthy.echo(b"in between");
    }
    wait_until("the sockets of all waves to close", DEADLINE, || {
        server.open_fds() <= idle_fds
    });
    let grown = server.rss_bytes().saturating_sub(rss);
    assert!(grown < 4 * MIB, "{grown} bytes more");
    healthy.echo(b"done");
}

#[test]
fn three_hundred_connects_at_once_are_all_served() {
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
                    client.send(&packet(C_ECHO, &[thread as u8, n as u8]));
                }
                for (n, client) in clients.iter_mut().enumerate() {
                    client.expect_echo(&[thread as u8, n as u8]);
                }
                // Nobody leaves before all were served.
                all_are_here.wait();
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn five_hundred_killed_at_once_during_broadcasts() {
    let mut random = random();
    let server = Server::start(&[
        "--tick-ms",
        "5",
        "--payload-bytes",
        "1000",
        "--workers",
        "4",
    ]);
    let mut healthy = server.join();
    let idle_fds = server.resting_fds();
    let mut last_tick = healthy.next_hello().0;
    for _ in 0..4 {
        let mut crowd: Vec<Client> = (0..500).map(|_| server.connect()).collect();
        for client in &mut crowd {
            client.next_hello();
            // Some have more that is unread, so that their end is a reset; some do not.
            if random.bool() {
                client.stream.peek(&mut [0]).unwrap();
            }
        }
        random.shuffle(&mut crowd);
        drop(crowd);
        for _ in 0..20 {
            let (tick, _) = healthy.next_hello();
            assert_eq!(tick, last_tick + 1);
            last_tick = tick;
        }
        while server.open_fds() > idle_fds {
            let (tick, _) = healthy.next_hello();
            assert_eq!(tick, last_tick + 1);
            last_tick = tick;
        }
        server.join().next_hello();
    }
    healthy.echo(b"still here");
}

#[test]
fn twenty_thousand_tiny_packets_in_one_write() {
    let server = Server::start(&QUIET);
    let mut client = server.connect();
    let mut sender = client.sender();
    let sending = thread::spawn(move || {
        sender
            .write_all(&packet(C_ECHO, b"").repeat(20_000))
            .unwrap()
    });
    for _ in 0..20_000 {
        client.expect_echo(b"");
    }
    sending.join().unwrap();
    client.echo(b"and no more");
}

/// A size field reserves nothing: 500 that claim 65,535 bytes and send five cost what they sent.
#[test]
fn five_hundred_claims_reserve_no_memory() {
    let server = Server::start(&[&QUIET[..], &["--workers", "2"]].concat());
    // Each piece is read by itself: both workers answer somebody else in between.
    let hold = |pieces: &[&[u8]]| -> Vec<Client> {
        let mut clients: Vec<Client> = (0..500).map(|_| server.join()).collect();
        for piece in pieces {
            clients.iter_mut().for_each(|client| client.send(piece));
            drop((0..4).map(|_| server.join()).collect::<Vec<_>>());
        }
        clients
    };
    let idle_fds = server.resting_fds();
    // To the size that 500 sessions need, each with an unfinished packet.
    drop(hold(&[&header(9, C_ECHO), &[1]]));
    wait_until("them to leave", DEADLINE, || server.open_fds() <= idle_fds);
    let before = server.data_bytes();
    let clients = hold(&[&header(u16::MAX, C_ECHO), &[1]]);
    // Not the resident memory: what is reserved and never touched is not resident.
    let grown = server.data_bytes().saturating_sub(before);
    // All of it would be 32 MiB.
    assert!(grown < 4 * MIB, "{grown} bytes more");
    drop(clients);
    server.join();
}

/// One that sends without end gets its turn and no more. The flood lasts for as long as the healthy
/// one needs for its rounds, and its own limit is out of the way: it must not end by a kick.
#[test]
fn a_flooder_does_not_delay_the_others() {
    let queue = ["--max-send-queue-bytes", "1073741824"];
    let flags = [&["--tick-ms", "20", "--workers", "1"][..], &queue].concat();
    let server = Server::start(&flags);
    let mut healthy = server.join();
    let mut flooder = server.join();
    let mut sender = flooder.sender();
    let flooding = thread::spawn(move || {
        let burst = packet(C_ECHO, b"flood").repeat(2000);
        while sender.write_all(&burst).is_ok() {}
    });
    let is_over = Arc::new(AtomicBool::new(false));
    let reading = thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            let mut answers = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                flooder.expect_echo(b"flood");
                answers += 1;
            }
            // Closing with answers unread ends the flood.
            answers
        }
    });
    let mut last = healthy.next_hello().0;
    for _ in 0..10 {
        healthy.echo(b"in between");
        let (tick, _) = healthy.next_hello();
        assert!(tick > last, "{tick} after {last}");
        last = tick;
    }
    is_over.store(true, Ordering::Relaxed);
    let answers = reading.join().unwrap();
    flooding.join().unwrap();
    assert!(answers > 1000, "a flood of {answers} packets is none");
}

/// Out of descriptors: who is connected is served on, nothing spins, it is said once, and who
/// waited is served when there is room again.
#[test]
fn out_of_descriptors_and_back() {
    let flags = [&QUIET[..], &["--max-sessions", "1000", "--workers", "2"]].concat();
    let server = Server::start_with_ulimit("-n 60", &flags);
    let mut first = server.join();
    let mut clients: Vec<Client> = (0..100).map(|_| server.connect()).collect();
    server.wait_for_line("accept paused");
    let (cpu, from) = (server.cpu_ticks(), Instant::now());
    while from.elapsed() < Duration::from_secs(1) {
        first.echo(b"in between");
        thread::sleep(Duration::from_millis(50));
    }
    let used = server.cpu_ticks() - cpu;
    assert!(
        used < 50,
        "{used} of 100 clock ticks while there is nothing to do"
    );
    let said = server
        .lines()
        .iter()
        .filter(|line| line.contains("cannot accept"))
        .count();
    assert_eq!(said, 1);
    // The first ones were accepted first. When they have gone, all others have their turn.
    drop(clients.drain(..70));
    for client in &mut clients {
        client.echo(b"at last");
    }
    first.echo(b"still here");
}

#[test]
fn the_soft_limit_of_descriptors_is_raised() {
    let server = Server::start_with_ulimit("-Sn 64", &QUIET);
    let mut clients: Vec<Client> = (0..150).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.echo(b"more than the soft limit");
    }
}
