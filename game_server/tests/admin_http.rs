//! The admin port's HTTP: its start, what it answers to requests, and which hosts it accepts.

use crate::util::admin::*;
use crate::util::*;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

// ---- the start ----------------------------------------------------------------------------------

#[test]
fn admin_port_is_off_by_default_and_on_by_flag_or_environment() {
    let server = Server::start(&QUIET);
    server.wait_for_line("workers");
    let lines = server.lines();
    assert!(!lines.iter().any(|line| line.contains("metrics on")));

    let variable = [("GAME_SERVER_METRICS_ADDR", "127.0.0.1:0")];
    let server = Server::start_with_env(&QUIET, &variable);
    let addr = metrics_addr(&server);
    assert_ne!(addr.port(), 0, "the real port is logged");
    assert_eq!(get(addr, "/healthz").status, 200);
}

#[test]
fn admin_address_in_use_fails_the_start_with_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let flags = ["--addr", "127.0.0.1:0", "--metrics-addr", &addr];
    let output = command(&flags).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains("metrics") && stderr.contains(&addr),
        "{stderr}"
    );
    let lower = stderr.to_lowercase();
    assert!(!lower.contains("panick") && !lower.contains("backtrace"));

    let output = command(&["--metrics-addr", "nonsense"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn shutdown_with_open_requests_exits_and_closes_the_port() {
    let (mut server, addr) = start(&QUIET);
    let mut idle = TcpStream::connect(addr).unwrap();
    let half = connect_and_send(addr, b"GET /metrics HT");
    assert_eq!(get(addr, "/healthz").status, 200);
    server.signal("TERM");
    assert!(server.wait_for_exit().success());
    assert_eq!(idle.read(&mut [0; 16]).unwrap_or(0), 0);
    drop(half);
    assert!(TcpStream::connect(addr).is_err(), "the port is closed");
}

// ---- requests -----------------------------------------------------------------------------------

#[test]
fn invalid_request_gets_its_status() {
    let (_server, addr) = start(&QUIET);
    let headers = "a: b\r\n".repeat(1_000);
    for (request, status) in [
        ("GET // HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /live.html HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /favicon.ico HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /metrics/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (
            "GET /..%2fetc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
            404,
        ),
        (
            "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
            405,
        ),
        ("DELETE /sessions HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
            405,
        ),
        (
            "PUT /sessions?slowest=x HTTP/1.1\r\nHost: localhost\r\n\r\n",
            405,
        ),
        (
            "GET /sessions?slowest=0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            400,
        ),
        (
            "GET /sessions?slowest=101 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            400,
        ),
        (
            "GET /sessions?slowest=all HTTP/1.1\r\nHost: localhost\r\n\r\n",
            400,
        ),
        (
            "GET /sessions?fastest=1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            200,
        ),
        ("GET /metrics\r\n\r\n", 400),
        ("GET /metrics HTTP/3.0\r\n\r\n", 400),
        ("GET /metrics HTTP/1.1\r\nno colon here\r\n\r\n", 400),
        ("\0\0\0\0\r\n\r\n", 400),
        (&format!("GET /metrics HTTP/1.1\r\n{headers}\r\n"), 431),
        (
            &format!(
                "GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "x".repeat(9_000)
            ),
            431,
        ),
        (
            "GET /metrics?name=x HTTP/1.1\r\nHost: localhost\r\n\r\n",
            200,
        ),
        ("GET /metrics HTTP/1.0\r\n\r\n", 200),
    ] {
        let response = ask(addr, request.as_bytes());
        let start: String = request.chars().take(50).collect();
        assert_eq!(response.status, status, "{start:?}");
        assert_eq!(response.header("connection"), Some("close"));
        if status == 405 {
            assert_eq!(response.header("allow"), Some("GET, HEAD"));
        }
    }
    // An end before the end.
    let mut half = connect_and_send(addr, b"GET /metrics HTTP/1.1\r\n");
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(Response::read(&mut half).unwrap().status, 400);
}

/// A page on another site may have its name resolve to this port (DNS rebinding); the `Host` of its
/// requests is that name.
#[test]
fn foreign_host_header_is_refused() {
    let flags = [&QUIET[..], &["--admin-host", "metrics.example"]].concat();
    let (_server, addr) = start(&flags);
    let own = addr.to_string();
    for path in ["/", "/metrics", "/healthz", "/sessions"] {
        for (host, status) in [
            (own.as_str(), 200),
            ("127.0.0.1", 200),
            ("127.9.8.7:1", 200),
            ("LOCALHOST", 200),
            ("localhost.:9100", 200),
            ("[::1]", 200),
            ("[::1]:9100", 200),
            ("Metrics.Example.", 200),
            ("evil.example", 421),
            ("localhost.evil.example:9100", 421),
            ("10.0.0.1", 421),
            ("[::2]:9100", 421),
            ("", 400),
            ("[::1", 400),
            ("localhost\r\nHost: localhost", 400),
            ("localhost\r\nhost: evil.example", 400),
        ] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let response = ask(addr, request.as_bytes());
            assert_eq!(response.status, status, "{path} {host:?}");
            if status == 421 {
                let text = response.text();
                assert!(text.contains("--admin-host"), "{text}");
                assert_eq!(text.lines().count(), 1, "{text}");
            }
        }
        // A browser always names a host; an old scraper may not.
        for (version, status) in [("1.0", 200), ("1.1", 400)] {
            let request = format!("GET {path} HTTP/{version}\r\n\r\n");
            assert_eq!(ask(addr, request.as_bytes()).status, status, "{path}");
        }
    }
}

#[test]
fn hosts_from_the_environment_are_accepted_and_an_invalid_one_is_status_2() {
    let variables = [
        ("GAME_SERVER_METRICS_ADDR", "0.0.0.0:0"),
        ("GAME_SERVER_ADMIN_HOST", "a.example,10.0.0.1"),
    ];
    let server = Server::start_with_env(&QUIET, &variables);
    let addr = SocketAddr::from(([127, 0, 0, 5], metrics_addr(&server).port()));
    for (host, status) in [
        ("a.example", 200),
        ("10.0.0.1:80", 200),
        ("127.0.0.5", 200),
        ("10.0.0.2", 421),
        ("0.0.0.0", 421),
    ] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(ask(addr, request.as_bytes()).status, status, "{host}");
    }
    let output = command(&["--admin-host", "http://a.example/"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn head_request_gets_the_headers_of_get_without_a_body() {
    let (_server, addr) = start(&QUIET);
    for path in ["/", "/metrics", "/healthz", "/sessions"] {
        let head = ask(
            addr,
            format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes(),
        );
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        let full = get(addr, path);
        assert_eq!(head.header("content-length"), full.header("content-length"));
        assert_eq!(head.header("content-type"), full.header("content-type"));
    }
    let health = get(addr, "/healthz");
    assert_eq!((health.status, health.body.as_slice()), (200, &b"ok\n"[..]));
}

#[test]
fn request_sent_byte_by_byte_is_answered() {
    let (_server, addr) = start(&QUIET);
    let mut stream = connect(addr);
    for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(Response::read(&mut stream).unwrap().status, 200);
}
