//! Danger: a peer that leaves, stalls, never reads or breaks its connection takes somebody else
//! with it, or stays for ever.

// A failed unwrap is a failed test, also in its helpers.
#![allow(clippy::unwrap_used)]

mod util;

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use util::*;

// ---- time -------------------------------------------------------------------------------------

#[test]
fn an_unfinished_packet_is_kicked_and_an_idle_session_is_not() {
    let server = Server::start_quiet(&["--packet-timeout-ms", "500"]);
    let mut idle = server.join();
    for part in [&header(100, C_ECHO)[..], &header(100, C_ECHO)[..1]] {
        let mut client = server.join();
        let from = Instant::now();
        client.send(part);
        client.expect_bye(5);
        assert!(
            from.elapsed() >= Duration::from_millis(500),
            "{:?}",
            from.elapsed()
        );
    }
    idle.echo(b"silence between packets is no offence");
}

/// Counted from the first byte: a byte now and then does not buy more time.
#[test]
fn later_bytes_do_not_extend_the_packet_timeout() {
    let server = Server::start_quiet(&["--packet-timeout-ms", "600"]);
    let mut client = server.join();
    let mut sender = client.sender();
    let from = Instant::now();
    let dripping = thread::spawn(move || {
        // 200 bytes take 10 s like this; the write fails once the server has closed.
        for byte in packet(C_ECHO, &[1; 196]) {
            if sender.write_all(&[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
    let packet = client.next_but_hello();
    let took = from.elapsed();
    assert_bye(&packet, 5);
    assert!(took >= Duration::from_millis(600), "{took:?}");
    assert!(
        took < Duration::from_secs(6),
        "later bytes have bought time: {took:?}"
    );
    drop(client);
    dripping.join().unwrap();
}

/// A packet that begins when another one ends has all the time of its own.
#[test]
fn each_packet_has_its_own_timeout() {
    let server = Server::start_quiet(&["--packet-timeout-ms", "1500"]);
    let mut client = server.join();
    let bytes = packet(C_ECHO, b"slow but within the time");
    let (front, back) = bytes.split_at(9);
    client.send(front);
    for _ in 0..3 {
        // Together longer than the timeout, each one shorter.
        thread::sleep(Duration::from_millis(700));
        client.send(&[back, front].concat());
        client.expect_echo(b"slow but within the time");
    }
    client.send(back);
    client.expect_echo(b"slow but within the time");
}

#[test]
fn a_silent_session_ends_after_the_idle_timeout_and_no_other() {
    let server = Server::start_quiet(&["--idle-timeout-ms", "1200"]);
    let from = Instant::now();
    let mut silent = server.join();
    let mut busy = server.join();
    let watching = thread::spawn(move || {
        silent.expect_eof();
        from.elapsed()
    });
    while !watching.is_finished() || from.elapsed() < Duration::from_millis(2500) {
        busy.echo(b"I am here");
        thread::sleep(Duration::from_millis(50));
        assert!(from.elapsed() < DEADLINE, "the silent one is still there");
    }
    let after = watching.join().unwrap();
    assert!(after >= Duration::from_millis(1200), "{after:?}");
    busy.echo(b"still");
}

/// The server was stopped, not the peer slow: what it sent in time lies in its socket.
#[test]
fn a_stopped_process_kicks_nobody_for_its_own_delay() {
    let server = Server::start_quiet(&["--packet-timeout-ms", "600", "--idle-timeout-ms", "900"]);
    let (mut begun, mut idle) = (server.join(), server.join());
    let bytes = packet(C_ECHO, b"sent in time");
    begun.send(&bytes[..7]);
    idle.echo(b"the first part has been read");
    server.signal("STOP");
    begun.send(&bytes[7..]);
    idle.send(&bytes);
    // The stop has to last longer than both timeouts.
    thread::sleep(Duration::from_millis(1500));
    server.signal("CONT");
    begun.expect_echo(b"sent in time");
    idle.expect_echo(b"sent in time");
}

// ---- the peer leaves --------------------------------------------------------------------------

#[test]
fn answers_are_flushed_after_a_half_close() {
    let server = Server::start_quiet(&[]);
    for tail in [&b""[..], &header(1000, C_ECHO)[..]] {
        let mut client = server.connect();
        let mut stream: Vec<u8> = (0..2000_u32)
            .flat_map(|n| packet(C_ECHO, &n.to_le_bytes()))
            .collect();
        stream.extend_from_slice(tail);
        client.send(&stream);
        client.finish_writing();
        for n in 0..2000_u32 {
            client.expect_echo(&n.to_le_bytes());
        }
        client.expect_eof();
    }
}

#[test]
fn a_half_close_with_more_answers_than_the_kernel_takes() {
    let server = Server::start_quiet(&["--max-send-queue-bytes", "100000000"]);
    let mut client = server.connect();
    let mut sender = client.sender();
    let sending = thread::spawn(move || {
        for n in 0..200_u8 {
            sender.write_all(&packet(C_ECHO, &[n; 60_000])).unwrap();
        }
        sender.shutdown(Shutdown::Write).unwrap();
    });
    // Nothing is read before all is sent: most of the answers wait in the server.
    sending.join().unwrap();
    for n in 0..200_u8 {
        client.expect_echo(&[n; 60_000]);
    }
    client.expect_eof();
}

#[test]
fn a_reset_in_the_middle_of_broadcasts_harms_nobody() {
    let server = Server::start(&["--tick-ms", "2", "--payload-bytes", "500"]);
    let mut healthy = server.join();
    let (mut last, _) = healthy.next_hello();
    for _ in 0..30 {
        let mut leaving: Vec<Client> = (0..10).map(|_| server.join()).collect();
        for client in &mut leaving {
            client.next_hello();
            // The next one is on its way: the reset needs something unread.
            client.stream.peek(&mut [0]).unwrap();
        }
        leaving.into_iter().for_each(Client::reset);
        for _ in 0..5 {
            let (tick, _) = healthy.next_hello();
            assert_eq!(tick, last + 1);
            last = tick;
        }
    }
    healthy.echo(b"not a tick was lost");
}

/// Kicked, half-closed or rejected: who then neither reads nor closes is closed all the same.
#[test]
fn no_descriptor_stays_with_a_peer_that_does_not_close() {
    let server = Server::start_quiet(&["--max-sessions", "60"]);
    let idle_fds = server.resting_fds();
    let many_answers = packet(C_ECHO, &[3; 50_000]).repeat(100);
    let mut silent: Vec<Client> = (0..60).map(|_| server.join()).collect();
    for (n, client) in silent.iter_mut().enumerate() {
        match n % 3 {
            0 => client.send(&header(0, 0)),
            1 => client.finish_writing(),
            _ => {
                // May end early: then the server has closed a peer that takes no answers.
                let _ = client.stream.write_all(&many_answers);
                let _ = client.stream.shutdown(Shutdown::Write);
            }
        }
    }
    // Those above may be gone already, so some of these are sessions.
    let rejected: Vec<Client> = (0..300).map(|_| server.connect()).collect();
    for client in &rejected {
        let _ = client.stream.shutdown(Shutdown::Write);
    }
    wait_until("all to be closed", DEADLINE, || {
        server.open_fds() <= idle_fds
    });
    server.join();
}

/// Closing a socket with unread input resets the connection, which destroys what the peer has not
/// read yet. The goodbye must be there also for one who looks only after the server has closed.
#[test]
fn the_goodbye_is_there_for_a_late_reader() {
    let server = Server::start_quiet(&[]);
    let idle_fds = server.resting_fds();
    let mut late = server.connect();
    late.send(&packet(C_ECHO, b"an answer"));
    late.expect_echo(b"an answer");
    late.send(&packet(C_ECHO, b"another answer"));
    late.send(&[&header(0, 0)[..], &[0; 200_000]].concat());
    server.wait_for_line("left: bad_size");
    wait_until("the server to close", DEADLINE, || {
        server.open_fds() <= idle_fds
    });
    late.expect_echo(b"another answer");
    late.expect_bye(1);
}

/// A kicked peer that goes on sending is not read for ever.
#[test]
fn a_kicked_flooder_is_closed() {
    let server = Server::start_quiet(&[]);
    let mut healthy = server.join();
    let idle_fds = server.resting_fds();
    let mut flooder = server.connect();
    flooder.send(&header(1, 1));
    let flooding = thread::spawn(move || {
        let noise = [0; 50_000];
        while flooder.stream.write_all(&noise).is_ok() {}
    });
    wait_until("the flooder to be closed", DEADLINE, || {
        healthy.echo(b"in between");
        flooding.is_finished()
    });
    flooding.join().unwrap();
    wait_until("its descriptor to be free", DEADLINE, || {
        server.open_fds() <= idle_fds
    });
}

// ---- the peer does not read -------------------------------------------------------------------

#[test]
fn a_slow_consumer_is_kicked_by_its_bytes_and_costs_nobody_a_tick() {
    let flags = ["--tick-ms", "20", "--payload-bytes", "20000"];
    let limits = ["--max-send-queue-bytes", "500000", "--max-send-lag-ms", "0"];
    let server = Server::start(&[&flags[..], &limits].concat());
    let healthy = TickReader::start(server.join());
    let deaf = TcpStream::connect(server.addr).unwrap();
    let line = server.wait_for_line("left: slow_consumer");
    assert!(
        line.contains(&deaf.local_addr().unwrap().to_string()),
        "{line}"
    );
    let ticks = healthy.stop_after(1);
    assert!(
        ticks > 25,
        "500,000 bytes were reached after {ticks} ticks?"
    );
    assert!(
        server
            .lines()
            .iter()
            .filter(|line| line.contains("left:"))
            .count()
            <= 2
    );
    // It is closed at once, without a goodbye that could not reach it.
    let mut deaf = Deaf::new(deaf);
    assert!(!deaf.hears_a_goodbye());
}

#[test]
fn a_slow_consumer_is_kicked_by_the_age_of_its_bytes() {
    let flags = ["--tick-ms", "20", "--payload-bytes", "20000"];
    let limits = [
        "--max-send-queue-bytes",
        "1000000000",
        "--max-send-lag-ms",
        "800",
    ];
    let server = Server::start(&[&flags[..], &limits].concat());
    let healthy = TickReader::start(server.join());
    let _deaf = TcpStream::connect(server.addr).unwrap();
    server.wait_for_line("left: slow_consumer");
    healthy.stop_after(1);
}

/// At 50 kB a second the kernel alone would take a minute's worth. With a small unsent window the
/// peer is found when its own receive buffer is full.
#[test]
fn a_peer_that_does_not_read_is_found_in_seconds_at_a_low_rate() {
    let flags = ["--tick-ms", "20", "--payload-bytes", "1000"];
    let server = Server::start(&[&flags[..], &["--max-send-lag-ms", "1000"]].concat());
    let _deaf = TcpStream::connect(server.addr).unwrap();
    // Within `DEADLINE`.
    server.wait_for_line("left: slow_consumer");
}

/// Echo makes a peer that sends and never reads its own slow consumer, too.
#[test]
fn a_peer_that_sends_and_never_reads_is_kicked() {
    let server = Server::start_quiet(&["--max-send-queue-bytes", "300000"]);
    let mut healthy = server.join();
    let flooding = server.connect();
    let mut sender = flooding.sender();
    let sending = thread::spawn(move || {
        let bytes = packet(C_ECHO, &[5; 60_000]);
        // Ends when the server has closed, which resets the connection.
        while sender.write_all(&bytes).is_ok() {}
    });
    wait_until("the flooder to be kicked", DEADLINE, || {
        healthy.echo(b"in between");
        sending.is_finished()
    });
    sending.join().unwrap();
    server.wait_for_line("left: slow_consumer");
}

/// Reads what has come to a peer that never read.
struct Deaf(Client);

impl Deaf {
    fn new(stream: TcpStream) -> Self {
        Self(Client::from_stream(stream))
    }

    fn hears_a_goodbye(&mut self) -> bool {
        while let Ok(Some(packet)) = self.0.try_next() {
            if packet.id == S_BYE {
                return true;
            }
        }
        false
    }
}

// ---- no room ----------------------------------------------------------------------------------

#[test]
fn the_third_of_two_is_told_and_closed() {
    let server = Server::start_quiet(&["--max-sessions", "2"]);
    let first = server.join();
    let mut second = server.join();
    for _ in 0..3 {
        let mut third = server.connect();
        let packet = third.next();
        assert_bye(&packet, 9);
        third.expect_eof();
    }
    second.echo(b"not disturbed");
    drop(first);
    wait_until("a place to be free", DEADLINE, || {
        let mut next = server.connect();
        next.send(&packet(C_ECHO, b"is there room?"));
        let is_served = next.next().id == S_ECHO;
        if is_served {
            next.echo(b"yes");
        }
        is_served
    });
    second.echo(b"still not");
}

/// Rejected ones that send at once must still be able to read why.
#[test]
fn a_rejected_flood_is_told_each_time() {
    let server = Server::start_quiet(&["--max-sessions", "1"]);
    let mut first = server.join();
    for _ in 0..300 {
        let mut rejected = server.connect();
        rejected.send(&packet(C_ECHO, b"let me in"));
        rejected.expect_bye(9);
    }
    first.echo(b"not disturbed");
}

#[test]
fn one_address_may_not_take_all() {
    let server = Server::start_quiet(&["--max-sessions-per-ip", "3"]);
    let mut three: Vec<Client> = (0..3).map(|_| server.join()).collect();
    server.connect().expect_bye(9);
    three.pop();
    wait_until("a place to be free", DEADLINE, || {
        let mut next = server.connect();
        next.send(&packet(C_ECHO, b"is there room?"));
        next.next().id == S_ECHO
    });
    for client in &mut three {
        client.echo(b"not disturbed");
    }
}

// ---- counting ---------------------------------------------------------------------------------

#[test]
fn the_number_of_sessions_goes_back_to_zero_on_every_way_out() {
    let server =
        Server::start_quiet(&["--stats-interval-secs", "0.1", "--packet-timeout-ms", "300"]);
    let mut clients: Vec<Client> = (0..8).map(|_| server.join()).collect();
    server.wait_for_line_where("8 sessions", |line| stat(line, "sessions") == Some(8));
    clients[0].send(&header(1, 2));
    clients[1].send(&header(4, 99));
    clients[2].send(&header(9, C_ECHO));
    clients[3].finish_writing();
    clients.truncate(7);
    clients[6].send(&packet(C_ECHO, b"unread"));
    clients[6].stream.peek(&mut [0]).unwrap();
    clients.remove(6).reset();
    drop(clients.split_off(4));
    server.wait_for_new_line_where("0 sessions", |line| stat(line, "sessions") == Some(0));
    for mut client in clients {
        // Told or not, each of them sees the end of the stream.
        while client.try_next().unwrap().is_some() {}
    }
}
