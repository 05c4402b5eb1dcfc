//! A client of the admin port that knows only bytes, and a strict parser of the metrics text.

use super::{DEADLINE, Server};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Every metric of the contract, and its type.
pub const NAMES: &[(&str, &str)] = &[
    ("server_sessions", "gauge"),
    ("server_handshakes_total", "counter"),
    ("server_accepted_total", "counter"),
    ("server_rejected_total", "counter"),
    ("server_disconnects_total", "counter"),
    ("server_packets_sent_total", "counter"),
    ("server_packets_received_total", "counter"),
    ("server_bytes_sent_total", "counter"),
    ("server_bytes_received_total", "counter"),
    ("server_packets_by_id_total", "counter"),
    ("server_packet_bytes_by_id_total", "counter"),
    ("server_send_queue_bytes", "gauge"),
    ("server_send_chunks_live", "gauge"),
    ("server_send_chunks_pooled", "gauge"),
    ("server_ticks_total", "counter"),
    ("server_ticks_skipped_total", "counter"),
    ("server_chats_dropped_total", "counter"),
    ("server_tick_lag_seconds", "histogram"),
    ("server_tick_duration_seconds", "histogram"),
    ("server_broadcast_seconds", "histogram"),
];

/// Longer than a busy machine delays a process; shorter than an admin port that blocks the game would.
pub const LONGEST_GAP: Duration = Duration::from_secs(8);

pub fn start(flags: &[&str]) -> (Server, SocketAddr) {
    let server = Server::start(&[flags, &["--metrics-addr", "127.0.0.1:0"]].concat());
    let addr = metrics_addr(&server);
    (server, addr)
}

pub fn metrics_addr(server: &Server) -> SocketAddr {
    let line = server.wait_for_line("metrics on ");
    let (_, addr) = line.rsplit_once("metrics on ").unwrap();
    addr.trim().parse().unwrap()
}

pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

pub fn connect_and_send(addr: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = connect(addr);
    stream.write_all(bytes).unwrap();
    stream
}

#[track_caller]
pub fn ask(addr: SocketAddr, request: &[u8]) -> Response {
    Response::read(&mut connect_and_send(addr, request)).unwrap()
}

#[track_caller]
pub fn get(addr: SocketAddr, path: &str) -> Response {
    ask(
        addr,
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes(),
    )
}

#[track_caller]
pub fn scrape(addr: SocketAddr) -> Exposition {
    let response = get(addr, "/metrics");
    assert_eq!(response.status, 200);
    Exposition::parse(&response.text())
}

#[track_caller]
pub fn sessions(addr: SocketAddr) -> Vec<Value> {
    sessions_at(addr, "/sessions")
}

#[track_caller]
pub fn slowest(addr: SocketAddr, count: usize) -> Vec<Value> {
    sessions_at(addr, &format!("/sessions?slowest={count}"))
}

#[track_caller]
pub fn sessions_at(addr: SocketAddr, path: &str) -> Vec<Value> {
    let give_up_at = Instant::now() + DEADLINE;
    let response = loop {
        let response = get(addr, path);
        // A busy machine may run the workers, or the broker, too late: the port asks to try again.
        if response.status != 503 || Instant::now() > give_up_at {
            break response;
        }
        assert_eq!(response.header("retry-after"), Some("1"));
        thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/json"));
    serde_json::from_slice(&response.body).unwrap()
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// Reads to the end of the stream. Fails unless the bytes are one complete response.
    #[track_caller]
    pub fn read(stream: &mut TcpStream) -> Result<Self, ErrorKind> {
        let mut bytes = Vec::new();
        stream
            .read_to_end(&mut bytes)
            .map_err(|error| error.kind())?;
        if bytes.is_empty() {
            return Err(ErrorKind::UnexpectedEof);
        }
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap();
        let status = status_line.strip_prefix("HTTP/1.1 ").unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap());
        let response = Self {
            status: status[..3].parse().unwrap(),
            headers: headers
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect(),
            body: bytes[end + 4..].to_vec(),
        };
        let length: usize = response.header("content-length").unwrap().parse().unwrap();
        assert!(response.body.is_empty() || response.body.len() == length);
        Ok(response)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// A strict parser of the text format. Fails at every deviation that could break a scraper.
#[derive(Default)]
pub struct Exposition {
    pub types: BTreeMap<String, String>,
    pub samples: BTreeMap<String, f64>,
}

impl Exposition {
    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap()
    }

    #[track_caller]
    pub fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'));
        let mut exposition = Self::default();
        let mut helps = BTreeSet::new();
        let mut family = String::new();
        // Per histogram: the last bound and count of its buckets.
        let mut buckets: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(!help.is_empty() && helps.insert(name.to_owned()), "{line}");
                continue;
            }
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                let before = exposition.types.insert(name.into(), kind.into());
                assert_eq!(before, None, "{line}");
                family = name.to_owned();
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let value: f64 = value.parse().unwrap();
            assert!(value.is_finite() && value >= 0.0, "{line}");
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix("\"}").unwrap()),
                None => (series, ""),
            };
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            );
            let kind = exposition.types[&family].as_str();
            let suffix = name.strip_prefix(family.as_str()).unwrap();
            match (kind, suffix) {
                ("histogram", "_bucket") => {
                    let bound = labels.strip_prefix("le=\"").unwrap();
                    let bound: f64 = bound.replace("+Inf", "inf").parse().unwrap();
                    let last = buckets.entry(family.clone()).or_insert((-1.0, 0.0));
                    assert!(bound > last.0 && value >= last.1, "{line} after {last:?}");
                    *last = (bound, value);
                }
                ("histogram", "_sum" | "_count") | ("gauge" | "counter", "") => {}
                other => panic!("{line}: {other:?}"),
            }
            let before = exposition.samples.insert(series.to_owned(), value);
            assert_eq!(before, None, "twice: {line}");
        }
        let names: BTreeSet<String> = exposition.types.keys().cloned().collect();
        assert_eq!(names, helps, "each has a type and a help");
        for (name, (bound, count)) in buckets {
            assert!(bound.is_infinite(), "{name} has no +Inf");
            assert_eq!(exposition.value(&format!("{name}_count")), count, "{name}");
        }
        exposition
    }
}

/// The names of metrics in a text.
pub fn names_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("server_") && *word != "server_full")
        .map(str::to_owned)
        .collect()
}
