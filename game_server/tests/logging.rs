//! The log: what each level shows, that a peer can neither fill it nor write into it, and that its
//! counts are exact.

use crate::util::*;
use std::time::Instant;

// ---- levels -------------------------------------------------------------------------------------

/// Row 29: the log has the id and the size of each complete packet.
#[test]
fn trace_level_logs_id_and_size_of_each_packet() {
    let server = Server::start_with_env(&QUIET, &[("RUST_LOG", "trace")]);
    let mut client = server.connect();
    client.echo(b"12345");
    server.wait_for_line("id 2 size 9");
    client.send(&packet(C_CHAT, b"hello"));
    server.wait_for_line("id 4 size 9");
    client.next_chat();
    client.echo(b"");
    server.wait_for_line("id 2 size 4");
}

/// Rows 30 and 38: the default level logs no packet. 1,000 clients that connect, send and disconnect in
/// three ways are fewer than 40 lines.
#[test]
fn default_level_stays_quiet_with_a_thousand_clients() {
    let server = Server::start(&["--tick-ms", "50"]);
    for _ in 0..4 {
        let mut clients: Vec<Client> = (0..250).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.send(&packet(C_ECHO, b"a").repeat(10));
        }
        for (n, mut client) in clients.into_iter().enumerate() {
            for _ in 0..10 {
                client.expect_echo(b"a");
            }
            match n % 3 {
                0 => client.send(&header(2, 2)),
                1 => client.send(&header(4, 7)),
                _ => {}
            }
        }
    }
    server.join();
    let lines = server.lines();
    assert!(lines.len() < 40, "{} lines for 1,000 clients", lines.len());
    let noisy = |line: &String| line.contains("TRACE") || line.contains("DEBUG");
    assert!(!lines.iter().any(noisy));
}

/// Row 58: the log shows each chunk that is taken from the pool and returned to it.
#[test]
fn trace_level_logs_chunks_taken_and_returned() {
    let flags = ["--tick-ms", "1", "--payload-bytes", "1000"];
    let server = Server::start_with_env(&flags, &[("RUST_LOG", "trace")]);
    let reader = TickReader::start(server.connect());
    server.wait_for_line("pop: ");
    server.wait_for_line("push: ");
    // And again: the pool reuses its chunks.
    server.wait_for_new_line_where("another pop", |line| line.contains("pop: "));
    server.wait_for_new_line_where("another push", |line| line.contains("push: "));
    reader.stop_after(1);
}

/// Row 59: the packet size decides how often chunks are replaced: hundreds of tiny packets fit in one chunk,
/// packets of 1,000 bytes use chunk after chunk.
#[test]
fn large_packets_replace_chunks_and_tiny_ones_rarely_do() {
    let pops_of = |payload_bytes: &'static str| {
        let flags = ["--tick-ms", "1", "--payload-bytes", payload_bytes];
        let server = Server::start_with_env(&flags, &[("RUST_LOG", "server_core=trace,info")]);
        let mut client = server.connect();
        for _ in 0..500 {
            client.next_hello();
        }
        let pops = |line: &&String| line.contains("pop: ");
        server.lines().iter().filter(pops).count()
    };
    let (tiny, large) = (pops_of("0"), pops_of("1000"));
    assert!(tiny <= 3, "{tiny} chunks for 500 packets of 23 bytes");
    assert!(large >= 5, "{large} chunks for 500 packets of 1,000 bytes");
    assert!(large < 100, "{large} chunks: hardly fewer than packets");
}

// ---- a slow reader of the log ------------------------------------------------------------------

/// Each echo logs a line, and a pipe holds 64 KiB of them.
#[test]
fn unread_log_stops_no_tick_and_costs_counted_records() {
    let server = Server::start_with_env(&["--tick-ms", "5"], &[("RUST_LOG", "trace")]);
    let mut client = server.join();
    server.pause_log();
    let reader = TickReader::start(server.connect());
    // Three times as many lines as wait for a reader.
    for _ in 0..40 {
        client.send(&packet(C_ECHO, b"a").repeat(1_000));
        (0..1_000).for_each(|_| client.expect_echo(b"a"));
    }
    reader.stop_after(100);
    server.resume_log();
    let what = " log records were dropped: the reader of standard error is slow";
    let line = server.wait_for_line(what);
    let (count, is_warning) = (line.strip_suffix(what).unwrap(), line.contains(" WARN "));
    let count = count.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    assert!(count > 0 && is_warning, "{line}");
    // The log goes on behind the gap, and its lines are whole.
    client.echo(b"behind the gap");
    server.wait_for_line("id 2 size 18");
    let is_whole = |line: &String| line.starts_with('[') && line.matches("Z TRACE").count() <= 1;
    assert!(server.lines().iter().all(is_whole));
}

#[test]
fn unread_log_does_not_stop_the_end_of_the_server() {
    let mut server = Server::start_with_env(&["--tick-ms", "5"], &[("RUST_LOG", "trace")]);
    let mut client = server.join();
    server.pause_log();
    client.send(&packet(C_ECHO, b"a").repeat(5_000));
    (0..5_000).for_each(|_| client.expect_echo(b"a"));
    server.signal("TERM");
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

// ---- disconnects --------------------------------------------------------------------------------

/// 2,000 connections for each of five kicks, in turn: in each window of 5 s one line for each kick and one summary,
/// and exact counts.
#[test]
fn ten_thousand_kicks_are_counted_exactly_in_six_lines_each_five_seconds() {
    const EACH: u64 = 2_000;
    let flags = ["--max-packet-bytes", "4096", "--stats-interval-secs", "0"];
    let mut server = Server::start(&[&QUIET[..], &flags].concat());
    let (before, began) = (server.lines().len(), Instant::now());
    let kinds = [
        ("bad_size", header(0, 0).to_vec()),
        ("too_large", header(5000, C_ECHO).to_vec()),
        ("unknown_id", header(4, 77).to_vec()),
        ("bad_payload", header(4, C_CHAT).to_vec()),
        ("chat_flood", packet(C_CHAT, b"spam").repeat(40)),
    ];
    for _ in 0..EACH {
        for (_, bytes) in &kinds {
            let mut client = server.connect();
            client.send(bytes);
            client.read_to_bye();
        }
    }
    server.signal("TERM");
    assert_eq!(server.wait_for_exit().code(), Some(0));
    let lines = &server.lines()[before..];
    for (label, _) in &kinds {
        assert_eq!(logged_disconnects(lines, label), EACH, "{label}");
    }
    let about_peers = (lines.iter())
        .filter(|line| line.contains("left: ") || line.contains(" more "))
        .count();
    let windows = began.elapsed().as_secs() as usize / 5 + 1;
    let most = windows * (kinds.len() + 1);
    assert!(about_peers <= most, "{about_peers} lines: {lines:#?}");
}

#[test]
fn two_thousand_refusals_are_counted_exactly_in_twenty_lines() {
    let mut server = Server::start(&[&QUIET[..], &["--max-sessions", "1"]].concat());
    let mut first = server.join();
    for _ in 0..2_000 {
        let (code, _) = server.connect().read_to_bye();
        assert_eq!(code, 9);
    }
    first.echo(b"not disturbed");
    server.signal("TERM");
    assert_eq!(server.wait_for_exit().code(), Some(0));
    let lines = server.lines();
    assert_eq!(logged_disconnects(&lines, "server_full"), 2_000);
    let said = lines.iter().filter(|line| line.contains("server_full"));
    assert!(said.count() <= 20);
}

/// No level logs a byte of a peer: the bytes could be a line of their own, or a command to the terminal that
/// shows the log.
#[test]
fn peer_bytes_are_never_logged() {
    const MARK: &str = "Xy7qPeerBytes";
    let env = [("RUST_LOG", "trace")];
    let server = Server::start_with_env(&[&QUIET[..], &STRICT].concat(), &env);
    let evil = format!("\n[2000-01-01T00:00:00Z ERROR] {MARK}\x1b[2J\x07").into_bytes();
    let mut client = server.join();
    client.send(&packet(C_CHAT, &evil));
    let chat = client.next_but_hello();
    assert_eq!((chat.id, &chat.payload[8..]), (S_CHAT, &evil[..]));
    // The chat comes once.
    client.echo(b"done");
    for bytes in [
        packet(0x5859, &evil),
        packet(C_CHAT, [&evil[..], &[0xff]].concat()),
        evil.clone(),
        [&header(2, 0x1b0a)[..], &evil].concat(),
        [&header(4000, C_ECHO)[..], &evil].concat(),
    ] {
        let mut peer = server.join();
        peer.send(&bytes);
        peer.read_to_bye();
    }
    for line in server.lines() {
        assert!(!line.contains(MARK), "{line}");
        assert!(
            line.chars().all(|c| c == ' ' || c.is_ascii_graphic()),
            "{line:?}"
        );
    }
}
