//! `--ban-file`: which connections it refuses, and when it is read.

use crate::util::*;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

const BANNED: [u8; 4] = [127, 0, 0, 77];
const OTHER: [u8; 4] = [127, 0, 0, 78];

/// A file that is removed with its test.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bans-{}-{name}", std::process::id()));
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn write(&self, text: &str) {
        fs::write(&self.0, text).unwrap();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn is_served(source: [u8; 4], addr: SocketAddr) -> bool {
    let mut client = Client::connect_from(source, addr);
    client.send(&packet(C_ECHO, b"may I come in"));
    // A connection that is closed with unread bytes is reset.
    match client.try_next() {
        Ok(Some(answer)) => {
            assert_eq!(answer.id, S_ECHO, "a banned address gets no packet");
            true
        }
        Ok(None) | Err(_) => false,
    }
}

#[test]
fn banned_address_is_refused_and_counts_as_rejected_alone() {
    let file = File::new("refused", "127.0.0.76/31 # both\n");
    let (server, metrics) = admin::start(&[&QUIET[..], &["--ban-file", file.path()]].concat());
    server.wait_for_line_where("the number of bans", |line| {
        line.contains(" bans read from ") && line.ends_with(": 1")
    });
    for _ in 0..3 {
        assert!(!is_served(BANNED, server.addr));
    }
    assert!(is_served(OTHER, server.addr));
    let exposition = admin::scrape(metrics);
    assert_eq!(exposition.value("server_rejected_total"), 3.0);
    assert_eq!(exposition.value("server_accepted_total"), 1.0);
    server.wait_for_line("connections of banned addresses: 1 closed, the last of 127.0.0.77:");
}

#[test]
fn sighup_bans_new_connections_and_leaves_sessions_connected() {
    let file = File::new("reload", "");
    let server = Server::start_quiet(&["--ban-file", file.path()]);
    let mut session = Client::connect_from(BANNED, server.addr);
    session.echo(b"before the ban");
    file.write("127.0.0.77\n10.0.0.0/8\n");
    server.signal("HUP");
    let reloaded = |count: &str| {
        server.wait_for_line_where("a reload", |line| {
            line.contains("SIGHUP: bans read from ") && line.ends_with(count)
        })
    };
    reloaded(": 2");
    assert!(!is_served(BANNED, server.addr) && is_served(OTHER, server.addr));
    session.echo(b"a session stays connected");
    file.write("127.0.0.78\n");
    server.signal("HUP");
    reloaded(": 1");
    assert!(is_served(BANNED, server.addr) && !is_served(OTHER, server.addr));
    file.write("");
    server.signal("HUP");
    server.wait_for_line("has no ban: no address is banned");
    assert!(is_served(OTHER, server.addr));
}

#[test]
fn ban_ends_at_its_time() {
    let file = File::new(
        "until",
        "127.0.0.77 2001-01-01T00:00:00Z\n127.0.0.78 9999-12-31T23:59:59+01:00 # long\n",
    );
    let server = Server::start_quiet(&["--ban-file", file.path()]);
    assert!(is_served(BANNED, server.addr));
    assert!(!is_served(OTHER, server.addr));
}

#[test]
fn error_on_sighup_is_logged_and_the_bans_stay() {
    let file = File::new("bad_reload", "127.0.0.77\n");
    let server = Server::start_quiet(&["--ban-file", file.path()]);
    file.write("127.0.0.78\nnot a network\n");
    server.signal("HUP");
    let line = server.wait_for_line("SIGHUP: the bans stay as they are");
    assert!(
        line.contains("ERROR") && line.contains(file.path()),
        "{line}"
    );
    assert!(line.contains("line 2: \"not\" is not a network"), "{line}");
    assert!(!is_served(BANNED, server.addr) && is_served(OTHER, server.addr));
    fs::remove_file(&file.0).unwrap();
    server.signal("HUP");
    server.wait_for_line_where("a file that is away", |line| {
        line.contains("the bans stay as they are") && line.contains("No such file")
    });
    assert!(!is_served(BANNED, server.addr));
}

#[test]
fn error_at_the_start_is_bad_usage_and_names_file_and_line() {
    let file = File::new("bad_start", "127.0.0.77\n\n10.0.0.0/8 tomorrow\n");
    let error = |path: &str| {
        let output = command(&["--ban-file", path]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{path}");
        String::from_utf8(output.stderr).unwrap()
    };
    let text = error(file.path());
    assert!(
        text.contains(&format!(
            "{}: line 3: \"tomorrow\" is not a time",
            file.path()
        )),
        "{text}"
    );
    assert!(error("/nowhere/bans").contains("/nowhere/bans: No such file"));
    assert!(error("/dev/zero").contains("not a regular file"));
    assert!(error("/").contains("not a regular file"));
}

#[test]
fn proxied_client_is_banned_by_its_own_address() {
    let file = File::new("proxied", "192.0.2.0/24\n");
    let flags = ["--ban-file", file.path(), "--trusted-proxy", "127.0.0.78"];
    let (server, metrics) = admin::start(&[&QUIET[..], &flags].concat());
    let served = |line: &[u8]| {
        let mut client = Client::connect_from(OTHER, server.addr);
        client.send(&[line, &packet(C_ECHO, b"?")].concat());
        matches!(client.try_next(), Ok(Some(answer)) if answer.id == S_ECHO)
    };
    assert!(!served(b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n"));
    assert!(!served(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n"));
    assert!(served(b"PROXY TCP4 192.0.3.7 10.0.0.1 1 2\r\n"));
    assert_eq!(admin::scrape(metrics).value("server_rejected_total"), 2.0);
}

/// Bans of IPv4 hold where one socket listens for both.
#[test]
fn mapped_address_is_banned_as_ipv4() {
    if !has_ipv6() {
        return;
    }
    let file = File::new("mapped", "127.0.0.77\n");
    let server = Server::start_quiet(&["--addr", "[::]:0", "--ban-file", file.path()]);
    let addr = ([127, 0, 0, 1], server.addr.port()).into();
    assert!(!is_served(BANNED, addr) && is_served(OTHER, addr));
}
