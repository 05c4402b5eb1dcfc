//! The admin port under abuse: silent and slow clients, garbage, many scrapers, and no descriptors
//! left. No session loses a tick by it.

use crate::util::admin::*;
use crate::util::*;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

// ---- clients ------------------------------------------------------------------------------------

#[test]
fn silent_connections_do_not_delay_a_scrape() {
    let (_server, addr) = start(&QUIET);
    // Below the limit of 64 connections, and above it: there the oldest silent connection is evicted.
    for silent in [60, 700] {
        expect_answer_beside(silent, addr);
    }
}

/// Silent connections, and a request. The answer comes in half of the time, 20 s, in which ten rounds of silent
/// connections time out.
#[track_caller]
fn expect_answer_beside(silent: usize, addr: SocketAddr) {
    let since = Instant::now();
    let _held: Vec<TcpStream> = (0..silent).map(|_| connect(addr)).collect();
    assert_eq!(get(addr, "/metrics").status, 200);
    let took = since.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn trickled_and_silent_requests_time_out() {
    let (_server, addr) = start(&QUIET);
    let since = Instant::now();
    let mut silent = connect(addr);
    // One header, which is not too long within the deadline.
    let mut trickling = connect_and_send(addr, b"GET /metrics HTTP/1.1\r\na: ");
    let pause = Some(Duration::from_millis(50));
    trickling.set_read_timeout(pause).unwrap();
    while trickling.peek(&mut [0]).is_err() {
        assert!(since.elapsed() < DEADLINE, "no answer");
        // Fails if this thread was not run between the answer and the close.
        let _ = trickling.write_all(b"b");
    }
    trickling.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(Response::read(&mut trickling).unwrap().status, 408);
    let took = since.elapsed();
    assert!(took >= Duration::from_millis(1_900), "it had {took:?} only");
    assert_eq!(
        silent.read(&mut [0; 16]).unwrap(),
        0,
        "closed without a word"
    );
    assert!(since.elapsed() < Duration::from_secs(10));
}

#[test]
fn endless_request_is_refused_without_growing_memory() {
    const SENT: usize = 30 << 20;
    let (server, addr) = start(&QUIET);
    let mut player = server.join();
    assert_eq!(get(addr, "/metrics").status, 200);
    let before = server.rss_bytes();
    for fill in [b'x', b'\n'] {
        let mut stream = connect(addr);
        let block = [fill; 64 << 10];
        let mut peak = 0;
        let mut status = None;
        for _ in 0..SENT / block.len() {
            // The server refuses the request early and may not read the rest.
            if stream.write_all(&block).is_err() {
                break;
            }
            peak = peak.max(server.rss_bytes());
        }
        if let Ok(response) = Response::read(&mut stream) {
            status = Some(response.status);
        }
        let grown = peak.saturating_sub(before);
        assert!(grown < 16 << 20, "{grown} bytes more");
        // A reset may destroy the answer, because this client never stops sending.
        assert!(
            status.is_none_or(|status| status == 431 || status == 400),
            "{status:?}"
        );
    }
    player.echo(b"still here");
    assert_eq!(get(addr, "/metrics").status, 200);
}

#[test]
fn slow_readers_keep_no_descriptor_and_no_memory() {
    let (server, addr) = start(&["--tick-ms", "20"]);
    let tick_reader = TickReader::with_longest_gap(server.join(), LONGEST_GAP);
    let players: Vec<TcpStream> = (0..1_000)
        .map(|_| TcpStream::connect(server.addr).unwrap())
        .collect();
    wait_until("all to be in", DEADLINE, || {
        scrape(addr).value("server_sessions") == 1_001.0
    });
    let (fds, rss) = (server.resting_fds(), server.rss_bytes());
    let slow: Vec<TcpStream> = (0..300)
        .map(|n| {
            let path = ["/sessions", "/metrics"][n % 2];
            connect_and_send(
                addr,
                format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes(),
            )
        })
        .collect();
    assert_eq!(get(addr, "/metrics").status, 200);
    assert!(
        server.open_fds() <= fds + 70,
        "{} descriptors",
        server.open_fds()
    );
    let grown = server.rss_bytes().saturating_sub(rss);
    assert!(grown < 32 << 20, "{grown} bytes more");
    // This side keeps them open and reads nothing.
    wait_until("them to be given up", DEADLINE, || server.open_fds() <= fds);
    drop(slow);
    tick_reader.stop_after(11);
    drop(players);
}

#[test]
fn garbage_is_answered_or_closed_and_loses_no_tick() {
    let (server, addr) = start(&["--tick-ms", "20"]);
    let tick_reader = TickReader::with_longest_gap(server.join(), LONGEST_GAP);
    let mut random = random();
    for _ in 0..300 {
        let mut stream = connect(addr);
        let bytes = match random.u32(..3) {
            0 => {
                let count = random.usize(1..20_000);
                random_bytes(&mut random, count)
            }
            1 => {
                let mut request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
                let at = random.usize(..request.len());
                request[at] = random.u8(..);
                request
            }
            _ => {
                let request = b"GET /sessions HTTP/1.1\r\nHost: localhost\r\n\r\n";
                request[..random.usize(..request.len())].to_vec()
            }
        };
        // The server may refuse it before its end.
        let _ = stream.write_all(&bytes);
        if random.bool() {
            let _ = stream.shutdown(Shutdown::Write);
            match Response::read(&mut stream) {
                Ok(response) => assert!([200, 400, 404, 405, 421, 431].contains(&response.status)),
                Err(kind) => assert!(
                    [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset].contains(&kind),
                    "{kind:?}"
                ),
            }
        }
    }
    assert_eq!(get(addr, "/metrics").status, 200);
    tick_reader.stop_after(11);
}

#[test]
fn many_scrapers_are_all_served_and_lose_no_tick() {
    let (server, addr) = start(&["--tick-ms", "20"]);
    let tick_reader = TickReader::with_longest_gap(server.join(), LONGEST_GAP);
    let scrapers: Vec<_> = (0..16)
        .map(|n| {
            thread::spawn(move || {
                for _ in 0..30 {
                    match n % 3 {
                        0 => assert_eq!(sessions(addr).len(), 1),
                        1 => assert_eq!(get(addr, "/healthz").status, 200),
                        _ => {
                            scrape(addr);
                        }
                    }
                }
            })
        })
        .collect();
    scrapers.into_iter().for_each(|one| one.join().unwrap());
    tick_reader.stop_after(11);
}

// ---- descriptors --------------------------------------------------------------------------------

#[test]
fn few_descriptors_do_not_delay_a_scrape() {
    let flags = [
        &QUIET[..],
        &["--workers", "1", "--metrics-addr", "127.0.0.1:0"],
    ]
    .concat();
    let server = Server::start_with_ulimit("-n 48", &flags);
    let addr = metrics_addr(&server);
    let mut player = server.join();
    // Ten times the descriptors.
    expect_answer_beside(480, addr);
    player.echo(b"served all the same");
}

/// The server refuses sessions that would take the descriptors of the admin port.
#[test]
fn full_server_keeps_the_descriptors_of_the_admin_port() {
    let port = ["--metrics-addr", "127.0.0.1:0", "--max-sessions", "5000"];
    let flags = [&QUIET[..], &["--workers", "1"], &port].concat();
    let server = Server::start_with_ulimit("-n 600", &flags);
    let addr = metrics_addr(&server);
    // The server keeps 160, 4 for the worker and 68 for the port.
    server
        .wait_for_line("--max-sessions lowered from 5000 to 368: of 600 descriptors, 232 are kept");
    let players: Vec<Client> = (0..700).map(|_| server.connect()).collect();
    wait_until("every connection to be taken or refused", DEADLINE, || {
        let now = scrape(addr);
        let rejected = now.value("server_rejected_total");
        now.value("server_sessions") == 368.0 && rejected == 700.0 - 368.0
    });
    let held: Vec<TcpStream> = (0..60).map(|_| connect(addr)).collect();
    assert_eq!(get(addr, "/sessions").status, 200);
    let lines = server.lines();
    assert!(
        !lines
            .iter()
            .any(|line| line.contains("cannot accept") || line.contains("accept paused")),
        "{lines:?}"
    );
    drop((players, held));
}

/// A server of one worker that may open 48 descriptors, and the address of its port.
fn with_48_descriptors() -> (Server, SocketAddr) {
    let port = ["--metrics-addr", "127.0.0.1:0", "--max-sessions", "1000"];
    let flags = [&QUIET[..], &["--workers", "1"], &port].concat();
    let server = Server::start(&flags);
    let addr = metrics_addr(&server);
    server.resting_fds();
    server.limit_descriptors(48);
    (server, addr)
}

/// The descriptors that count against a limit of 48. An inherited descriptor may have a higher number.
fn descriptors_below_48(server: &Server) -> usize {
    let dir = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    let numbers = dir.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    numbers
        .filter(|one| one.parse::<u32>().unwrap() < 48)
        .count()
}

/// Out of descriptors, accept fails before it checks for a waiting connection. The connection with the
/// last descriptor stays open until another one waits.
#[test]
fn last_descriptor_is_evicted_only_for_a_waiting_connection() {
    let (server, addr) = with_48_descriptors();
    let mut players = vec![server.join()];
    while descriptors_below_48(&server) < 47 {
        players.push(server.join());
    }
    let mut scraper = connect(addr);
    // Longer than a turn of the port, shorter than its timeout for a request.
    thread::sleep(Duration::from_millis(300));
    scraper
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    assert_eq!(Response::read(&mut scraper).unwrap().status, 200);
    // A waiting connection evicts an idle one. The timeouts of ten idle ones take 20 s.
    let since = Instant::now();
    for _ in 0..10 {
        let idle = connect(addr);
        assert_eq!(get(addr, "/healthz").status, 200);
        drop(idle);
    }
    let took = since.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    drop(players);
}

#[test]
fn out_of_descriptors_pauses_accept_without_spinning() {
    let (server, addr) = with_48_descriptors();
    let mut player = server.join();
    let mut others: Vec<Client> = (0..60).map(|_| server.connect()).collect();
    server.wait_for_line("accept paused");
    wait_until(
        "all descriptors to be taken",
        Duration::from_secs(20),
        || descriptors_below_48(&server) == 48,
    );
    let mut scraper = connect_and_send(addr, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    server.wait_for_line("the metrics port cannot accept");
    server.expect_no_spin(|| {
        player.echo(b"served all the same");
        thread::sleep(Duration::from_millis(100));
    });
    // Accepted without a new event when a descriptor is free.
    others.clear();
    assert_eq!(Response::read(&mut scraper).unwrap().status, 200);
    let lines = server.lines();
    let complaints = lines
        .iter()
        .filter(|line| line.contains("the metrics port cannot"));
    assert_eq!(complaints.count(), 1, "it is logged once");
}
