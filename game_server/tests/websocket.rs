//! `--ws-addr`: clients by WebSocket, whose frames are written by hand. `server_core/tests/websocket.rs` has the
//! sections of RFC 6455 without sockets.

use crate::util::*;
use server_core::testing::{RawPacket, header};
use socket2::SockRef;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const REQUEST: &str = "GET /play HTTP/1.1\r\nHost: game.example\r\nUpgrade: websocket\r\n\
                       Connection: Upgrade\r\nOrigin: https://game.example\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

fn start(flags: &[&str]) -> (Server, SocketAddr) {
    let server = Server::start(&[&QUIET[..], &["--ws-addr", "127.0.0.1:0"], flags].concat());
    let line = server.wait_for_line("websocket on ");
    let addr = line.rsplit_once("websocket on ").unwrap().1.trim();
    let addr = addr.parse().unwrap();
    (server, addr)
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 250];
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
    frame
}

fn message(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    frame(FIN | BINARY, bytes.as_ref())
}

/// A WebSocket client behind its upgrade.
struct WebSocketClient {
    stream: TcpStream,
    /// Bytes of packets that are not complete.
    packets: Vec<u8>,
    /// The payloads of pongs, until a test takes them.
    pongs: Vec<Vec<u8>>,
    /// The code and the reason of the server's close.
    close: Option<(u16, String)>,
}

impl WebSocketClient {
    fn connect(addr: SocketAddr) -> Self {
        Self::upgrade(admin::connect(addr), REQUEST.as_bytes())
    }

    /// Sends the request, and bytes behind it, and reads the head of the answer.
    fn upgrade(mut stream: TcpStream, request: &[u8]) -> Self {
        stream.write_all(request).unwrap();
        let head = read_head(&mut stream);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self {
            stream,
            packets: Vec::new(),
            pongs: Vec::new(),
            close: None,
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Reads a frame. `false`: the stream has ended, behind the server's close.
    fn read_frame(&mut self) -> bool {
        let mut start = [0; 2];
        match self.stream.read(&mut start[..1]) {
            Ok(0) => {
                assert!(
                    self.close.is_some() && self.packets.is_empty(),
                    "an end without a close"
                );
                return false;
            }
            Ok(_) => {}
            Err(error) => panic!("the stream did not end in order: {error}"),
        }
        assert_eq!(self.close, None, "a frame behind the close");
        self.stream.read_exact(&mut start[1..]).unwrap();
        let length = match start[1] {
            length @ 0..=125 => usize::from(length),
            126 => {
                let mut length = [0; 2];
                self.stream.read_exact(&mut length).unwrap();
                assert!(u16::from_be_bytes(length) > 125);
                usize::from(u16::from_be_bytes(length))
            }
            other => panic!("a length of {other}"),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).unwrap();
        match start[0] ^ FIN {
            BINARY => self.packets.extend(payload),
            PONG => self.pongs.push(payload),
            CLOSE => {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                self.close = Some((code, String::from_utf8(payload[2..].to_vec()).unwrap()));
            }
            other => panic!("a frame of kind {other}"),
        }
        true
    }

    /// The next packet. `None`: the stream has ended in order.
    fn next_packet(&mut self) -> Option<RawPacket> {
        loop {
            if let [low, high, a, b, ..] = self.packets[..] {
                let size = usize::from(u16::from_le_bytes([low, high]));
                if self.packets.len() >= size {
                    let packet = self.packets.drain(..size).skip(4).collect::<Vec<u8>>();
                    return Some(RawPacket::new(u16::from_le_bytes([a, b]), packet));
                }
            }
            if !self.read_frame() {
                return None;
            }
        }
    }

    #[track_caller]
    fn expect_echo(&mut self, payload: &[u8]) {
        let packet = self.next_but_hello();
        assert_eq!((packet.id, &packet.payload[..]), (S_ECHO, payload));
    }

    fn next_but_hello(&mut self) -> RawPacket {
        loop {
            let packet = self.next_packet().unwrap();
            if packet.id != S_HELLO {
                return packet;
            }
        }
    }

    fn wait_for_pong(&mut self) -> Vec<u8> {
        while self.pongs.is_empty() {
            assert!(self.read_frame());
        }
        self.pongs.remove(0)
    }

    /// Reads to the end: the code of an `S_BYE`, if there is one, and the close.
    fn read_to_end(&mut self) -> (Option<u16>, (u16, String)) {
        let mut bye = None;
        while let Some(packet) = self.next_packet() {
            assert_eq!(bye, None, "{packet:?} behind S_BYE");
            bye = (packet.id == S_BYE).then(|| split_bye(&packet).0);
        }
        (bye, self.close.clone().unwrap())
    }
}

fn read_head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Sends the bytes and reads to the end of the stream. A reset instead of a FIN fails.
fn answer_to(addr: SocketAddr, request: &[u8]) -> String {
    let mut stream = admin::connect(addr);
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn chat_of_a_websocket_client_reaches_a_tcp_client_and_back() {
    let (server, addr) = start(&[]);
    let mut tcp = server.join();
    let mut browser = WebSocketClient::connect(addr);
    browser.send(&message(packet(C_CHAT, "from the browser")));
    let (sender, text) = tcp.next_chat();
    assert_eq!(text, "from the browser");
    let own = browser.next_but_hello();
    assert_eq!((own.id, split_number(&own.payload).0), (S_CHAT, sender));
    tcp.send(&packet(C_CHAT, "from tcp"));
    let chat = browser.next_but_hello();
    assert_eq!(split_number(&chat.payload).1, b"from tcp");
}

#[test]
fn packets_in_any_pieces_and_fragments_are_echoed_with_pings_between() {
    let (_server, addr) = start(&[]);
    let mut browser = WebSocketClient::connect(addr);
    let large = vec![7; 60_000];
    let stream = [
        packet(C_ECHO, "one"),
        packet(C_ECHO, &large),
        packet(C_ECHO, ""),
    ]
    .concat();
    let mut bytes = Vec::new();
    for (number, piece) in stream.chunks(7_001).enumerate() {
        let opcode = if number == 0 { BINARY } else { CONTINUATION };
        bytes.extend(frame(opcode, piece));
        bytes.extend(frame(FIN | PING, &[number as u8]));
    }
    bytes.extend(frame(FIN | CONTINUATION, b""));
    browser.send(&bytes);
    for payload in [&b"one"[..], &large, b""] {
        browser.expect_echo(payload);
    }
    let last = (stream.len() - 1) / 7_001;
    while browser.wait_for_pong() != [last as u8] {}
}

#[test]
fn frames_behind_the_request_and_a_request_in_single_bytes_are_served() {
    let (_server, addr) = start(&[]);
    let request = [REQUEST.as_bytes(), &message(packet(C_ECHO, "early"))].concat();
    let mut early = WebSocketClient::upgrade(admin::connect(addr), &request);
    early.expect_echo(b"early");
    let mut stream = admin::connect(addr);
    let (slow, last) = REQUEST.as_bytes().split_at(REQUEST.len() - 1);
    for byte in slow {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut slow = WebSocketClient::upgrade(stream, last);
    slow.send(&message(packet(C_ECHO, "late")));
    slow.expect_echo(b"late");
}

#[test]
fn an_offence_gets_its_bye_and_then_its_close_code() {
    let (server, addr) = start(&["--max-packet-bytes", "4096"]);
    let unmasked = [&[FIN | BINARY, 4][..], &packet(C_ECHO, "")].concat();
    let invalid_utf8 = [&1000_u16.to_be_bytes()[..], &[0xff]].concat();
    let protocol: [(&str, Vec<u8>); 9] = [
        ("unmasked", unmasked),
        ("reserved bit", frame(FIN | 0x40 | BINARY, b"x")),
        ("reserved opcode", frame(FIN | 3, b"x")),
        ("continuation", frame(FIN | CONTINUATION, b"x")),
        ("fragmented ping", frame(PING, b"x")),
        ("long ping", frame(FIN | PING, &[0; 126])),
        ("close code", frame(FIN | CLOSE, &1005_u16.to_be_bytes())),
        ("close of one byte", frame(FIN | CLOSE, &[3])),
        ("close reason", frame(FIN | CLOSE, &invalid_utf8)),
    ];
    let kicks = [
        ("text", frame(FIN | TEXT, b"hello"), 4, 1008, "bad_payload"),
        ("chat", message(packet(C_CHAT, "")), 4, 1008, "bad_payload"),
        ("size", message(header(3, C_ECHO)), 1, 1008, "bad_size"),
        (
            "too large",
            message(header(4097, C_ECHO)),
            2,
            1009,
            "too_large",
        ),
        ("id", message(packet(S_HELLO, "")), 3, 1008, "unknown_id"),
        (
            "pings",
            frame(FIN | PING, b"").repeat(300),
            7,
            1008,
            "rate_limit",
        ),
        (
            "fragments",
            [
                frame(BINARY, b""),
                frame(CONTINUATION, b"").repeat(300),
                frame(FIN | CONTINUATION, b""),
            ]
            .concat(),
            7,
            1008,
            "rate_limit",
        ),
    ];
    let protocol = protocol.map(|(name, bytes)| (name, bytes, 4, 1002, "bad_payload"));
    for (name, bytes, code, close, label) in protocol.into_iter().chain(kicks) {
        let mut browser = WebSocketClient::connect(addr);
        browser.send(&message(packet(C_ECHO, "before")));
        browser.expect_echo(b"before");
        // The server discards the bytes that follow, and ends the connection without a reset.
        browser.send(&[bytes, message(packet(C_ECHO, "behind"))].concat());
        let end = browser.read_to_end();
        assert_eq!(end, (Some(code), (close, label.into())), "{name}");
    }
    server.join();
}

#[test]
fn a_close_is_echoed_and_a_fin_is_answered_with_1000() {
    let (server, addr) = start(&[]);
    let mut browser = WebSocketClient::connect(addr);
    let close = [&4321_u16.to_be_bytes()[..], b"see you"].concat();
    browser.send(&[message(packet(C_ECHO, "x")), frame(FIN | CLOSE, &close)].concat());
    browser.expect_echo(b"x");
    assert_eq!(browser.read_to_end(), (None, (4321, String::new())));
    for ending in [frame(FIN | CLOSE, b""), Vec::new()] {
        let mut browser = WebSocketClient::connect(addr);
        browser.send(&ending);
        browser.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(browser.read_to_end(), (None, (1000, String::new())));
    }
    server.wait_for_line("peer_closed");
}

#[test]
fn shutdown_gets_a_bye_and_close_code_1001() {
    let (mut server, addr) = start(&[]);
    let mut browser = WebSocketClient::connect(addr);
    browser.send(&message(packet(C_ECHO, "x")));
    browser.expect_echo(b"x");
    server.signal("TERM");
    assert_eq!(browser.read_to_end(), (Some(10), (1001, "shutdown".into())));
    drop(browser);
    assert!(server.wait_for_exit().success());
}

#[test]
fn a_refused_upgrade_gets_its_status_and_counts_as_handshake() {
    let (server, addr) = start(&["--ws-origin", "https://game.example"]);
    let with = |from: &str, to: &str| REQUEST.replace(from, to).into_bytes();
    let cookie = format!("Cookie: {}\r\nUpgrade:", "c".repeat(9000));
    let refused = [
        (400, b"\x04\0\x02\0\r\n\r\n".to_vec()),
        (400, with("Host: game.example\r\n", "")),
        (400, with("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=")),
        (403, with("https://game", "https://evil")),
        (405, with("GET", "POST")),
        (426, with("Upgrade: websocket\r\n", "")),
        (426, with("Version: 13", "Version: 8")),
        (431, with("Upgrade:", &cookie)),
        (505, with("HTTP/1.1", "HTTP/1.0")),
    ];
    let count = refused.len();
    for (status, request) in refused {
        let answer = answer_to(addr, &request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert_eq!(answer.contains("Sec-WebSocket-Version: 13"), status == 426);
    }
    wait_until("the log of the refused upgrades", DEADLINE, || {
        logged_disconnects(&server.lines(), "handshake") == count as u64
    });
    WebSocketClient::connect(addr);
}

/// One pong answers all pings that have come while the socket takes nothing: it is all that the server keeps of them.
#[test]
fn pings_of_a_client_that_does_not_read_do_not_each_get_a_pong() {
    const PINGS: u8 = 150;
    let (server, addr) = start(&["--metrics-addr", "127.0.0.1:0"]);
    let metrics = admin::metrics_addr(&server);
    let stream = admin::connect(addr);
    SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
    let mut browser = WebSocketClient::upgrade(stream, REQUEST.as_bytes());
    let large = vec![b'x'; 60_000];
    browser.send(&message(packet(C_ECHO, &large)).repeat(3));
    wait_until("the socket to be full", DEADLINE, || {
        admin::scrape(metrics).value("server_send_queue_bytes") > 0.0
    });
    for number in 0..PINGS {
        browser.send(&frame(FIN | PING, &[number; 125]));
    }
    browser.send(&message(packet(C_ECHO, "x")));
    for _ in 0..3 {
        browser.expect_echo(&large);
    }
    browser.expect_echo(b"x");
    while browser
        .pongs
        .last()
        .is_none_or(|last| *last != [PINGS - 1; 125])
    {
        assert!(browser.read_frame());
    }
    let pongs = browser.pongs.len();
    assert!(pongs < usize::from(PINGS) / 2, "{pongs} pongs");
    server.join();
}

#[test]
fn a_proxy_header_comes_before_the_upgrade() {
    let (server, addr) = start(&["--trusted-proxy", "127.0.0.1"]);
    let head = format!("PROXY TCP4 192.0.2.7 10.0.0.1 50000 7780\r\n{REQUEST}");
    let mut browser = WebSocketClient::upgrade(admin::connect(addr), head.as_bytes());
    browser.send(&message(packet(C_ECHO, "x")));
    browser.expect_echo(b"x");
    browser.stream.shutdown(Shutdown::Write).unwrap();
    browser.read_to_end();
    server.wait_for_line("of 192.0.2.7:50000 left: peer_closed");
}

#[test]
fn a_full_server_closes_before_the_upgrade() {
    let (server, addr) = start(&["--max-sessions", "1"]);
    let _only = server.join();
    let mut stream = admin::connect(addr);
    let _ = stream.write_all(REQUEST.as_bytes());
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    assert!(answer.is_empty());
}

#[test]
fn an_invalid_origin_is_bad_usage() {
    for origin in ["game.example", "https://game.example/play"] {
        let flags = ["--ws-addr", "127.0.0.1:0", "--ws-origin", origin];
        let output = command(&flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("--ws-origin"), "{error}");
    }
}
