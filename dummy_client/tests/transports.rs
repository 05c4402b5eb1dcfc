//! TLS, WebSocket and both, against the real server: runs, handshakes that fail, and attacks.
#![allow(clippy::unwrap_used)] // The panic of a failed test names the line.

mod util;

use dummy_client::Report;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use server_core::{ListenerKind, TlsServerConfig, WebSocketServerConfig};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use util::{RealServer, Run, counts, for_each_at_once};

/// A certificate for these names, and the server's configuration with it. Returns the file of the certificate.
fn certificate(file: &str, name: &str, is_expired: bool) -> (String, TlsServerConfig) {
    let mut params = CertificateParams::new(vec![name.to_string()]).unwrap();
    if is_expired {
        params.not_after = date_time_ymd(2020, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    let [cert_file, key_file] =
        ["cert", "key"].map(|what| util::scratch(&format!("{file}.{what}")));
    fs::write(&cert_file, cert.pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    let config = TlsServerConfig::from_files(&cert_file, &key_file).unwrap();
    fs::remove_file(key_file).unwrap();
    (cert_file, config)
}

/// A server of each transport: its scheme, its address, the certificate to trust, and the server.
fn servers(test: &str) -> Vec<(&'static str, SocketAddr, String, RealServer)> {
    let (cert, tls) = certificate(test, "127.0.0.1", false);
    let kinds = [
        ("tls", ListenerKind::Tls(tls.clone())),
        (
            "ws",
            ListenerKind::WebSocket(WebSocketServerConfig::default()),
        ),
        (
            "wss",
            ListenerKind::SecureWebSocket(tls.for_websocket(), WebSocketServerConfig::default()),
        ),
    ];
    let servers = kinds.map(|(scheme, kind)| {
        let (server, addr) = RealServer::listening(kind);
        (scheme, addr, cert.clone(), server)
    });
    servers.into()
}

fn trust<'a>(scheme: &str, cert: &'a str) -> Vec<&'a str> {
    match scheme {
        "ws" => Vec::new(),
        _ => vec!["--ca", cert],
    }
}

#[test]
fn run_over_each_transport_loses_nothing_and_is_named_in_the_report() {
    let servers = servers("runs");
    for (scheme, addr, cert, _) in &servers {
        let mut args = vec!["--count", "10", "--duration-secs", "3", "--echo-hz", "10"];
        args.extend(["--chat-hz", "0.2", "--payload-bytes", "300"]);
        args.extend(trust(scheme, cert));
        let (run, report) = Run::report(format!("{scheme}://{addr}"), &args);
        assert_eq!(report.failures, [""; 0], "{scheme}: {run:?}");
        assert_eq!(report.run.addr, format!("{scheme}://{addr}"));
        assert_eq!(report.run.settings["transport"], *scheme);
        let [ticks, echoes] = counts(&report, ["ticks_received", "echoes_answered"]);
        assert!(ticks > 10 && echoes > 50, "{scheme}: {ticks} {echoes}");
        let connects = report.metrics.trend("connect_time").unwrap();
        assert_eq!(connects.count, 10, "{scheme}");
    }
    fs::remove_file(&servers[0].2).unwrap();
}

#[test]
fn flags_are_the_transports_of_the_address() {
    let servers = servers("flags");
    for (scheme, addr, cert, _) in &servers {
        let mut args = vec!["--count", "1", "--duration-secs", "1"];
        args.extend(trust(scheme, cert));
        args.extend(match *scheme {
            "tls" => &["--tls"][..],
            "ws" => &["--ws"],
            _ => &["--tls", "--ws"],
        });
        let (run, report) = Run::report(*addr, &args);
        assert_eq!(report.run.settings["transport"], *scheme);
        assert_eq!(report.sessions.connected, 1, "{run:?}");
    }
    fs::remove_file(&servers[0].2).unwrap();
}

/// One user that cannot connect. Returns the reason.
fn reason(target: String, args: &[&str]) -> String {
    let args = [&["--count", "1", "--duration-secs", "1"], args].concat();
    let (run, report) = Run::report(target, &args);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert_eq!(report.sessions.connected, 0, "{run:?}");
    assert!(
        run.stderr.contains(&report.disconnects[0].reason),
        "{run:?}"
    );
    report.disconnects[0].reason.clone()
}

#[test]
fn handshake_that_fails_has_its_reason() {
    let (other, _) = certificate("other", "127.0.0.1", false);
    for (name, is_expired, trusts_other, expected) in [
        (
            "127.0.0.1",
            false,
            true,
            "no certificate of --ca has signed it",
        ),
        ("game.example", false, false, "not valid for name"),
        ("127.0.0.1", true, false, "expired"),
    ] {
        let (cert, tls) = certificate("own", name, is_expired);
        let (_server, addr) = RealServer::listening(ListenerKind::Tls(tls));
        let trusted = if trusts_other { &other } else { &cert };
        let reason = reason(format!("tls://{addr}"), &["--ca", trusted]);
        assert!(reason.contains(expected), "{expected}: {reason}");
        // The certificate is not looked at.
        let args = ["--count", "1", "--duration-secs", "1", "--insecure"];
        let (run, report) = Run::report(format!("tls://{addr}"), &args);
        assert_eq!(report.sessions.connected, 1, "{run:?}");
        fs::remove_file(cert).unwrap();
    }
    fs::remove_file(other).unwrap();
}

#[test]
fn refused_upgrade_has_its_status() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // The connection of the user, and that for the reason.
    let server = thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let reason = reason(format!("ws://{addr}/play"), &[]);
    assert!(reason.contains("HTTP/1.1 403 Forbidden"), "{reason}");
    server.join().unwrap();
}

#[test]
fn transport_that_cannot_be_is_bad_usage() {
    for (target, args, expected) in [
        ("tls://127.0.0.1:1", &[][..], "--ca PEM"),
        ("127.0.0.1:1", &["--insecure"], "tls://"),
        (
            "tls://127.0.0.1:1",
            &["--ca", "/nonexistent/ca.pem"],
            "/nonexistent/ca.pem",
        ),
        ("tls://127.0.0.1:1/path", &["--insecure"], "ws://"),
        ("http://127.0.0.1:1", &[], "http://"),
        ("127.0.0.1:1", &["--attack", "tls-garbage"], "TLS"),
        (
            "tls://127.0.0.1:1",
            &["--insecure", "--attack", "ws-unmasked"],
            "WebSocket",
        ),
    ] {
        let run = Run::of(&mut util::client(target, args));
        assert_eq!(run.status, Some(2), "{target} {args:?}: {run:?}");
        assert!(run.stderr.contains(expected), "{expected}: {run:?}");
    }
}

fn attack(scheme: &str, addr: SocketAddr, cert: &str, name: &str, secs: &str) -> Report {
    let mut args = vec!["--count", "10", "--duration-secs", secs, "--attackers", "5"];
    args.extend(["--attack", name, "--log-sessions", "0"]);
    args.extend(trust(scheme, cert));
    let (run, report) = Run::report(format!("{scheme}://{addr}"), &args);
    let attack = report.attack.as_ref().unwrap();
    let (stats, neighbours) = (&attack.stats, &attack.neighbours);
    assert_eq!(report.lost(), 0, "{scheme} {name}: {run:?}");
    assert_eq!(counts(&report, ["ticks_missing"]), [0], "{scheme} {name}");
    assert_eq!(
        (neighbours.connected, neighbours.lost),
        (12, 0),
        "{scheme} {name}: {run:?}"
    );
    let ticks: u64 = neighbours.by_interval.iter().map(|group| group.ticks).sum();
    assert!(ticks > 12 * 50, "{scheme} {name}: {neighbours:?}");
    assert!(
        stats.connections > 0 && stats.attempted > 0,
        "{scheme} {name}: {stats:?}"
    );
    assert_eq!(
        (stats.not_kicked, stats.wrong_reason),
        (0, 0),
        "{scheme} {name}: {stats:?}"
    );
    report
}

/// Attacks of packets come over the transport, and get their reason over it.
#[test]
fn attackers_have_the_transport_of_the_run() {
    let servers = servers("packets");
    for (scheme, addr, cert, _) in &servers {
        let attacks = [("zero-size", "bad_size"), ("unknown-id", "unknown_id")];
        for_each_at_once(attacks, |(name, reason)| {
            let report = attack(scheme, *addr, cert, name, "9");
            let stats = &report.attack.as_ref().unwrap().stats;
            let reasons: Vec<&String> = stats.kicked.keys().collect();
            assert_eq!(reasons, [reason], "{scheme} {name}: {stats:?}");
        });
    }
    fs::remove_file(&servers[0].2).unwrap();
}

#[test]
fn attacks_on_a_transport_cost_no_other_session_anything() {
    let servers = servers("transports");
    let tls = [
        "tls-garbage",
        "tls-renegotiate",
        "tls-key-updates",
        "tls-tiny-records",
    ];
    let websocket = [
        "ws-bad-upgrade",
        "ws-unmasked",
        "ws-fragments",
        "ws-ping-flood",
    ];
    for (scheme, addr, cert, _) in &servers {
        let names = match *scheme {
            "tls" => &tls[..],
            "ws" => &websocket,
            _ => &["tls-garbage", "ws-unmasked"],
        };
        thread::scope(|scope| {
            for name in names {
                scope.spawn(move || {
                    let report = attack(scheme, *addr, cert, name, "14");
                    let stats = &report.attack.as_ref().unwrap().stats;
                    let ended = stats.closed_without_message;
                    match *name {
                        "tls-key-updates" => {
                            let reasons: Vec<&String> = stats.kicked.keys().collect();
                            assert_eq!(reasons, ["rate_limit"], "{name}: {stats:?}");
                        }
                        // They are served.
                        "tls-tiny-records" => {
                            assert!(stats.packets_received > 0, "{name}: {stats:?}");
                        }
                        _ => assert!(ended > 0, "{name}: {stats:?}"),
                    }
                });
            }
        });
    }
    fs::remove_file(&servers[0].2).unwrap();
}

#[test]
fn handshake_flood_is_of_full_handshakes_at_its_rate() {
    let servers = servers("flood");
    let (scheme, addr, cert, server) = &servers[0];
    let report = attack(scheme, *addr, cert, "tls-handshake-flood", "14");
    let attack = report.attack.unwrap();
    let (begun, attempted) = (attack.stats.connections, attack.stats.attempted);
    // The thread of the attackers ends after the time that the report has.
    let due = 1.0 + 200.0 * (attack.elapsed_secs + 0.5);
    assert!(begun as f64 <= due, "{begun} connections, {due} were due");
    // The others are 10 users and 12 neighbours.
    let [full, resumed] = server.handshakes();
    assert!(attempted > 44 && resumed <= 22, "{resumed}: {attack:?}");
    // The last 100 connections are closed at the end, whether the server has read them or not.
    assert!(full + 100 >= attempted, "{full}: {attack:?}");
    fs::remove_file(cert).unwrap();
}
