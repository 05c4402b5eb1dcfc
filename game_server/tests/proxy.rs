//! `--trusted-proxy`: connections whose first bytes are a PROXY header, and PROXY headers from others.

use crate::util::*;
use std::io::Write;
use std::time::{Duration, Instant};

/// The proxy of these tests connects from here, and everybody else from 127.0.0.1.
const PROXY: [u8; 4] = [127, 0, 0, 9];
const TRUST: [&str; 2] = ["--trusted-proxy", "127.0.0.8/31"];

fn v1(client: &str) -> Vec<u8> {
    let (ip, port) = client.rsplit_once(':').unwrap();
    format!("PROXY TCP4 {ip} 10.0.0.1 {port} 7777\r\n").into_bytes()
}

/// A header of version 2 with this command, family and address block.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = (block.len() as u16).to_be_bytes();
    [
        b"\r\n\r\n\0\r\nQUIT\n",
        &[command, family][..],
        &length,
        block,
    ]
    .concat()
}

fn v2_client(ip: [u8; 4], port: u16) -> Vec<u8> {
    let block = [&ip[..], &[10, 0, 0, 1], &port.to_be_bytes(), &[0x1e, 0x61]].concat();
    v2(0x21, 0x11, &block)
}

/// A connection of the proxy that begins with these bytes.
fn proxied(server: &Server, header: &[u8]) -> Client {
    let mut client = Client::connect_from(PROXY, server.addr);
    client.send(header);
    client
}

fn peers(metrics: std::net::SocketAddr) -> Vec<String> {
    let sessions = admin::sessions(metrics);
    let mut peers: Vec<String> = (sessions.iter())
        .map(|session| session["peer"].as_str().unwrap().to_owned())
        .collect();
    peers.sort();
    peers
}

fn quiet_with_metrics(flags: &[&str]) -> (Server, std::net::SocketAddr) {
    admin::start(&[&QUIET[..], flags].concat())
}

#[test]
fn client_of_the_header_is_the_peer_in_sessions_and_in_the_log() {
    let (server, metrics) = quiet_with_metrics(&TRUST);
    let mut mapped = [0; 36];
    mapped[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 9]);
    mapped[32..34].copy_from_slice(&9_u16.to_be_bytes());
    let mut clients = [
        proxied(&server, &v1("192.0.2.7:50000")),
        proxied(&server, &v2_client([192, 0, 2, 8], 50_001)),
        proxied(&server, &v2(0x21, 0x21, &mapped)),
        // A TLV behind the addresses.
        proxied(
            &server,
            &v2(
                0x21,
                0x11,
                &[10, 1, 1, 1, 0, 0, 0, 0, 0, 5, 0, 0, 4, 0, 1, 9],
            ),
        ),
    ];
    for client in &mut clients {
        client.echo(b"through the proxy");
    }
    let expected = [
        "10.1.1.1:5",
        "192.0.2.7:50000",
        "192.0.2.8:50001",
        "192.0.2.9:9",
    ];
    assert_eq!(peers(metrics), expected);
    clients[0].send(&header(0, C_ECHO));
    clients[0].expect_bye(1);
    server.wait_for_line("of 192.0.2.7:50000 left: bad_size");
}

/// One segment holds the header and the first packets: no byte behind the header is lost.
#[test]
fn packets_behind_the_header_are_answered_in_every_split() {
    let server = Server::start_quiet(&TRUST);
    let stream = [&v2_client([192, 0, 2, 8], 1)[..], &packet(C_ECHO, b"first")].concat();
    let line = [&v1("192.0.2.7:50000")[..], &packet(C_ECHO, b"first")].concat();
    for stream in [stream, line] {
        for cut in [1, 5, 12, 15, 16, 20, 28, stream.len() - 9, stream.len() - 1] {
            let mut client = proxied(&server, &stream[..cut]);
            client.send(&stream[cut..]);
            client.expect_echo(b"first");
        }
    }
}

#[test]
fn health_check_keeps_the_address_of_the_proxy() {
    let (server, metrics) = quiet_with_metrics(&TRUST);
    for header in [
        v2(0x20, 0, &[]),
        v2(0x21, 0x31, &[b'/'; 216]),
        b"PROXY UNKNOWN\r\n".to_vec(),
    ] {
        let mut client = proxied(&server, &header);
        client.echo(b"are you well");
        let [peer] = &peers(metrics)[..] else {
            panic!("one session");
        };
        assert!(peer.starts_with("127.0.0.9:"), "{peer}");
        drop(client);
        wait_until("no session", DEADLINE, || peers(metrics).is_empty());
    }
}

#[test]
fn trusted_proxy_without_a_valid_header_is_closed_as_handshake_and_is_no_session() {
    let (server, metrics) = quiet_with_metrics(&TRUST);
    let too_long = v2(0x21, 0x11, &[0; 521]);
    let long_line = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100)).into_bytes();
    let invalid = [
        packet(C_ECHO, b"no header at all"),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 10.0.0.1 99999 7777\r\n".to_vec(),
        v2(0x21, 0x11, &[0; 11]),
        v2(0x31, 0x11, &[0; 12]),
        too_long,
        long_line,
    ];
    for bytes in &invalid {
        let mut client = proxied(&server, bytes);
        assert!(matches!(client.try_next(), Ok(None) | Err(_)), "{bytes:?}");
    }
    let count = |name: &str| admin::scrape(metrics).value(name);
    let ended = "server_disconnects_total{reason=\"handshake\"}";
    assert_eq!(count(ended), invalid.len() as f64);
    assert_eq!(count("server_accepted_total"), invalid.len() as f64);
    assert_eq!(
        (count("server_sessions"), count("server_rejected_total")),
        (0.0, 0.0)
    );
    server.wait_for_line("without a valid PROXY header: 1 closed, the last of 127.0.0.9:");
    // A connection that ends before its header has the reason of its end.
    drop(proxied(&server, b"PROXY TCP4"));
    wait_until("its end", DEADLINE, || {
        count("server_disconnects_total{reason=\"peer_closed\"}") == 1.0
    });
    proxied(&server, &v1("192.0.2.7:1")).echo(b"and the next one is served");
}

#[test]
fn header_that_is_not_complete_within_2_s_ends_the_connection() {
    let (server, metrics) = quiet_with_metrics(&TRUST);
    let began = Instant::now();
    let mut silent = Client::connect_from(PROXY, server.addr);
    let mut unfinished = proxied(&server, &v1("192.0.2.7:50000")[..20]);
    assert!(admin::sessions(metrics).is_empty());
    silent.expect_eof();
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(1_900), "{waited:?}");
    assert!(matches!(unfinished.try_next(), Ok(None) | Err(_)));
    wait_until("both to be counted", DEADLINE, || {
        admin::scrape(metrics).value("server_disconnects_total{reason=\"handshake\"}") == 2.0
    });
}

#[test]
fn header_from_another_address_is_a_bad_size_in_every_split() {
    let headers = [
        v1("192.0.2.7:50000"),
        b"PROXY UNKNOWN\r\n".to_vec(),
        v2_client([192, 0, 2, 8], 1),
        v2(0x20, 0, &[]),
    ];
    // With and without a trusted proxy, and with a limit below the size that the signature claims.
    for flags in [&TRUST[..], &[], &["--max-packet-bytes", "1000"]] {
        let (server, metrics) = quiet_with_metrics(flags);
        for header in &headers {
            let mut whole = server.connect();
            whole.send(&[header, &packet(C_ECHO, b"who am I")[..]].concat());
            whole.expect_bye(1);
            let mut split = server.connect();
            let (signature, rest) = header.split_at(if header[0] == b'P' { 6 } else { 12 });
            for byte in signature {
                split.send(&[*byte]);
                std::thread::yield_now();
            }
            // The server lingers for 500 ms behind the signature. It may have closed the connection.
            let _ = split.stream.write_all(rest);
            split.expect_bye(1);
        }
        assert!(admin::sessions(metrics).is_empty());
        // The beginning of a signature alone is an unfinished packet, and other bytes are packets.
        let mut client = server.connect();
        client.echo(b"PROXY TCP4 inside of a packet");
        client.send(&v1("192.0.2.7:1")[..2]);
        assert_eq!(admin::sessions(metrics).len(), 1);
    }
}

#[test]
fn proxied_client_cannot_name_a_second_address() {
    let server = Server::start_quiet(&TRUST);
    let lie = [v2_client([192, 0, 2, 8], 1), v1("192.0.2.9:1")].concat();
    proxied(&server, &lie).expect_bye(1);
}

#[test]
fn limits_by_address_count_the_client_and_not_the_proxy() {
    let flags = [&TRUST[..], &["--max-sessions-per-ip", "2"]].concat();
    let server = Server::start_quiet(&flags);
    // More connections without a header than the limit allows of one address.
    let _waiting: Vec<Client> = (0..20)
        .map(|_| Client::connect_from(PROXY, server.addr))
        .collect();
    let mut clients = Vec::new();
    for last in 1..=5 {
        for port in [1, 2] {
            let mut client = proxied(&server, &v2_client([192, 0, 2, last], port));
            client.echo(b"within the limit");
            clients.push(client);
        }
    }
    let mut third = proxied(&server, &v2_client([192, 0, 2, 1], 3));
    third.expect_bye(9);
    server.wait_for_line("connection of 192.0.2.1:3 rejected: server_full");
    clients.remove(0);
    wait_until("a place to be free", DEADLINE, || {
        let mut next = proxied(&server, &v2_client([192, 0, 2, 1], 4));
        next.send(&packet(C_ECHO, b"?"));
        next.next().id == S_ECHO
    });
}

#[test]
fn budgets_by_address_are_those_of_the_client() {
    let flags = [&TRUST[..], &["--max-connects-per-ip-per-sec", "1"]].concat();
    let server = Server::start_quiet(&flags);
    let served = |last: u8| {
        let mut client = proxied(&server, &v2_client([192, 0, 2, last], 1));
        client.send(&packet(C_ECHO, b"?"));
        usize::from(matches!(client.try_next(), Ok(Some(answer)) if answer.id == S_ECHO))
    };
    let began = Instant::now();
    let of_one: usize = (0..20).map(|_| served(1)).sum();
    // A burst of 2, and one more a second.
    let most = 2 + began.elapsed().as_secs() as usize + 1;
    assert!((2..=most).contains(&of_one), "{of_one}, {most} at most");
    assert_eq!((2..12).map(served).sum::<usize>(), 10);
}

/// Connections that wait for their header hold places of the listener alone: one more than it keeps ends the
/// oldest.
#[test]
fn waiting_connections_are_bounded_and_the_oldest_goes_first() {
    let flags = [&TRUST[..], &["--max-sessions", "8"]].concat();
    let (server, metrics) = quiet_with_metrics(&flags);
    let mut waiting: Vec<Client> = (0..6)
        .map(|_| Client::connect_from(PROXY, server.addr))
        .collect();
    // Half of the sessions: the two oldest have gone.
    for client in &mut waiting[..2] {
        client.expect_eof();
    }
    for (client, port) in waiting[2..].iter_mut().zip(1..) {
        client.send(&v2_client([192, 0, 2, 1], port));
    }
    for client in &mut waiting[2..] {
        client.echo(b"in time");
    }
    assert_eq!(admin::sessions(metrics).len(), 4);
}

#[test]
fn mapped_address_is_ipv4_for_proxies_limits_and_sessions() {
    if !has_ipv6() {
        return;
    }
    let flags = [
        "--addr",
        "[::]:0",
        "--trusted-proxy",
        "::ffff:127.0.0.9",
        "--max-sessions-per-ip",
        "1",
    ];
    let (server, metrics) = quiet_with_metrics(&flags);
    let addr = ([127, 0, 0, 1], server.addr.port()).into();
    let mut direct = Client::connect(addr);
    direct.echo(b"from IPv4");
    assert!(
        peers(metrics)[0].starts_with("127.0.0.1:"),
        "{:?}",
        peers(metrics)
    );
    Client::connect(addr).expect_bye(9);
    let mut named = Client::connect_from(PROXY, addr);
    named.send(&v1("192.0.2.7:5"));
    named.echo(b"from a proxy");
    assert!(peers(metrics).contains(&"192.0.2.7:5".to_owned()));
}

#[test]
fn value_that_is_not_a_network_is_bad_usage() {
    for value in ["proxy.example", "10.0.0.1/8", "10.0.0.0/33", ""] {
        let output = command(&["--trusted-proxy", value]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{value}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("--trusted-proxy"), "{error}");
    }
}
