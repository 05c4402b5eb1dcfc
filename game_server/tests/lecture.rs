//! Danger: a lesson of the lecture that is not carried over. One test per row of its table; the
//! rows that unit tests of `server_core` or other files here show by name are not repeated.

// A failed unwrap is a failed test, also in its helpers.
#![allow(clippy::unwrap_used)]

mod util;

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::process::{Child, Command, Stdio};

use std::time::{Duration, Instant};
use util::*;

// ---- sending ----------------------------------------------------------------------------------

/// Row 4: two threads that send to one session at once (here the tick and two workers) never
/// write its socket at once, and what each of them sends stays in order.
#[test]
fn lecture_04_one_sender_at_a_time_and_order_kept() {
    let flags = [
        "--tick-ms",
        "1",
        "--workers",
        "3",
        "--max-chats-per-sec",
        "0",
    ];
    let server = Server::start(&flags);
    let mut listener = server.join();
    let mut speakers = [server.join(), server.join()];
    for n in 0..200_u16 {
        for speaker in &mut speakers {
            speaker.send(&packet(C_CHAT, format!("{n:05}").as_bytes()));
        }
    }
    let (mut chats, mut tick) = (std::collections::HashMap::<u64, u16>::new(), None);
    while chats.len() < 2 || chats.values().any(|next| *next < 200) {
        let packet = listener.next();
        let (number, text) = split_number(&packet.payload);
        if packet.id == S_HELLO {
            assert!(tick.is_none_or(|last| number == last + 1));
            tick = Some(number);
        } else {
            let next = chats.entry(number).or_default();
            assert_eq!(text, format!("{next:05}").as_bytes());
            *next += 1;
        }
    }
}

/// Row 6: a send that does not get on (its peer does not read) makes no other sender wait.
#[test]
fn lecture_06_a_slow_send_stalls_nobody() {
    let (server, _deaf) = with_a_deaf_peer();
    let (mut speaker, mut listener) = (server.join(), server.join());
    for n in 0..50_u8 {
        // Each chat goes to the deaf peer, too.
        speaker.send(&packet(C_CHAT, &[b'a' + n % 26]));
        assert_eq!(listener.next_chat().1.as_bytes(), [b'a' + n % 26]);
        assert_eq!(speaker.next_chat().1.as_bytes(), [b'a' + n % 26]);
    }
}

/// Row 9: while a write is under way (for a peer that takes nothing for a while), more is queued
/// behind it; when the peer reads at last, all of it is there, in order.
#[test]
fn lecture_09_pushes_succeed_during_a_long_write() {
    let (server, mut late) = with_a_deaf_peer();
    let mut speaker = server.join();
    speaker.send(&packet(C_CHAT, b"behind all that"));
    speaker.next_chat();
    let mut last = None;
    loop {
        let packet = late.next();
        let (number, text) = split_number(&packet.payload);
        if packet.id == S_CHAT {
            assert_eq!(text, b"behind all that");
            break;
        }
        assert_eq!((packet.id, packet.payload.len()), (S_HELLO, 40_000));
        assert!(
            last.is_none_or(|last| number == last + 1),
            "{number} after {last:?}"
        );
        last = Some(number);
    }
}

/// A server with megabytes queued for a peer that has not read yet, and may be late for ever.
fn with_a_deaf_peer() -> (Server, Client) {
    let flags = [
        "--tick-ms",
        "10",
        "--payload-bytes",
        "40000",
        "--max-chats-per-sec",
        "0",
    ];
    let limits = [
        "--max-send-queue-bytes",
        "1000000000",
        "--max-send-lag-ms",
        "0",
    ];
    let server = Server::start(&[&flags[..], &limits, &["--stats-interval-secs", "0.1"]].concat());
    let deaf = server.connect();
    server.wait_for_line_where("a queue of megabytes", |line| {
        let queued = line.split_once("queued ").map(|(_, rest)| rest);
        queued.and_then(|rest| rest.split([' ', ',']).nth(1)) == Some("MB")
    });
    (server, deaf)
}

/// Row 8: sending to a session that is closed does nothing, and costs nothing that stays.
#[test]
fn lecture_08_sending_to_a_closed_session_does_nothing() {
    let server = Server::start_quiet(&["--max-chats-per-sec", "0"]);
    let mut healthy = server.join();
    let idle_fds = server.resting_fds();
    let questions = packet(C_ECHO, &[9; 500]).repeat(100);
    let storm = || {
        for _ in 0..100 {
            // Gone before most of the answers can be sent.
            let mut client = server.connect();
            client.send(&questions);
            client.stream.peek(&mut [0]).unwrap();
            client.reset();
        }
        wait_until("them to be gone", DEADLINE, || {
            server.open_fds() <= idle_fds
        });
    };
    storm();
    let rss = server.rss_bytes();
    (0..4).for_each(|_| storm());
    let grown = server.rss_bytes().saturating_sub(rss);
    assert!(grown < 4 << 20, "{grown} bytes more");
    healthy.echo(b"as if nothing had been");
}

/// Row 10: many queued buffers leave in one system call. Counted by strace, where there is one
/// that may attach.
#[test]
fn lecture_10_many_packets_leave_in_few_system_calls() {
    const PACKETS: usize = 20_000;
    let server = Server::start_quiet(&[]);
    let mut client = server.join();
    let Some(mut strace) = Strace::attach(server.pid()) else {
        println!("no strace here: the unit tests of the send queue have to do");
        return;
    };
    client.send(&packet(C_ECHO, b"few bytes").repeat(PACKETS));
    for _ in 0..PACKETS {
        client.expect_echo(b"few bytes");
    }
    let calls = strace.write_calls();
    assert!(calls > 0, "strace saw nothing");
    assert!(calls < PACKETS / 20, "{calls} calls for {PACKETS} packets");
}

struct Strace {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Strace {
    fn attach(pid: u32) -> Option<Self> {
        let calls = "trace=write,writev,sendto,sendmsg";
        let mut child = Command::new("strace")
            .args(["-f", "-e", calls, "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut strace = Self { child, stderr };
        let mut line = String::new();
        while strace.stderr.read_line(&mut line).unwrap() > 0 {
            if line.contains("attached") {
                return Some(strace);
            }
        }
        None
    }

    fn write_calls(&mut self) -> usize {
        let interrupt = format!("kill -INT {}", self.child.id());
        Command::new("sh")
            .args(["-c", &interrupt])
            .status()
            .unwrap();
        let lines = (&mut self.stderr).lines().map_while(Result::ok);
        let calls = ["write(", "writev(", "sendto(", "sendmsg("];
        lines
            .filter(|line| calls.iter().any(|call| line.contains(call)))
            .count()
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// ---- the protocol -----------------------------------------------------------------------------

/// Row 12: what is left behind a whole packet stays, and is joined with what comes next.
#[test]
fn lecture_12_the_rest_stays_and_is_joined() {
    let server = Server::start_quiet(&["--workers", "1"]);
    let (mut client, mut witness) = (server.join(), server.join());
    let (first, second) = (packet(C_ECHO, b"whole"), packet(C_ECHO, b"in three parts"));
    client.send(&[&first[..], &second[..3]].concat());
    client.expect_echo(b"whole");
    client.send(&second[3..10]);
    witness.echo(b"that has been read");
    client.send(&second[10..]);
    client.expect_echo(b"in three parts");
}

/// Row 14: the receiver knows where a packet ends. Not a byte before it is the packet handled,
/// and none behind it is taken for a part of it.
#[test]
fn lecture_14_the_end_of_a_packet_is_known() {
    let server = Server::start_quiet(&["--workers", "1"]);
    let (mut client, mut witness) = (server.join(), server.join());
    let bytes = packet(C_CHAT, b"done");
    let (all_but_one, last) = bytes.split_at(bytes.len() - 1);
    client.send(all_but_one);
    // The only worker has read that when it answers; a chat would come before the answer.
    witness.echo(b"nothing yet");
    client.send(&[last, &packet(C_CHAT, b"next")].concat());
    for one in [&mut client, &mut witness] {
        assert_eq!(one.next_chat().1, "done");
        assert_eq!(one.next_chat().1, "next");
    }
}

/// Row 17: the id says what the bytes mean. The same payload under two ids is two things.
#[test]
fn lecture_17_the_id_tells_the_kind() {
    let server = Server::start_quiet(&[]);
    let (mut client, mut other) = (server.join(), server.join());
    client.send(&packet(C_ECHO, b"same bytes"));
    client.expect_echo(b"same bytes");
    client.send(&packet(C_CHAT, b"same bytes"));
    assert_eq!(client.next_chat().1, "same bytes");
    assert_eq!(other.next_chat().1, "same bytes");
    other.echo(b"the echo was not for it");
}

/// Row 18: the id does not tell the size; packets of one kind have many.
#[test]
fn lecture_18_one_id_many_sizes() {
    let server = Server::start_quiet(&[]);
    let mut client = server.connect();
    let sizes = [0, 1, 50, 100, 3, 1023, 1024, 1025, 5996, 6000, 65_531, 2];
    let payloads: Vec<Vec<u8>> = sizes.iter().map(|size| vec![*size as u8; *size]).collect();
    for payload in &payloads {
        client.send(&packet(C_ECHO, payload));
    }
    for payload in &payloads {
        client.expect_echo(payload);
    }
}

/// Row 19: size, id, data, and again, with nothing in between.
#[test]
fn lecture_19_packets_follow_one_another_without_a_gap() {
    let server = Server::start_quiet(&[]);
    let mut client = server.connect();
    let sent = [
        &[6, 0, 2, 0, b'h', b'i'][..],
        &[4, 0, 2, 0],
        &[9, 0, 2, 0, 0, 255, 4, 0, 2],
        &[5, 0, 2, 0, b'!'],
    ];
    client.send(&sent.concat());
    let mut answer = sent.concat();
    let mut read = vec![0; answer.len()];
    std::io::Read::read_exact(&mut client.stream, &mut read).unwrap();
    // The answers differ from the questions in their ids alone: 3 for 2.
    for at in [2, 8, 12, 21] {
        answer[at] = 3;
    }
    assert_eq!(read, answer);
}

// ---- logs -------------------------------------------------------------------------------------

/// Row 29: each whole packet can be seen in the log, with id and size.
#[test]
fn lecture_29_id_and_size_of_each_packet_are_in_the_log() {
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

/// Rows 30 and 38: nothing of that by default. A thousand clients that come, talk and go in three ways
/// are a screen of lines at most.
#[test]
fn lecture_30_quiet_by_default_with_many_clients() {
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

/// Row 58: taking a chunk of send buffers and giving it back can be seen in the log.
#[test]
fn lecture_58_pop_and_push_of_chunks_are_in_the_log() {
    let flags = ["--tick-ms", "1", "--payload-bytes", "1000"];
    let server = Server::start_with_env(&flags, &[("RUST_LOG", "trace")]);
    let reader = TickReader::start(server.connect());
    server.wait_for_line("pop: ");
    server.wait_for_line("push: ");
    // And again: the pool goes round.
    server.wait_for_new_line_where("another pop", |line| line.contains("pop: "));
    server.wait_for_new_line_where("another push", |line| line.contains("push: "));
    reader.stop_after(1);
}

/// Row 59: the size of the packets decides whether one sees the chunks change: tiny ones fit in
/// one chunk for long, those of 1,000 bytes use chunk after chunk.
#[test]
fn lecture_59_packets_of_1000_bytes_make_the_chunks_change() {
    let pops_of = |payload_bytes: &'static str| {
        let flags = ["--tick-ms", "2", "--payload-bytes", payload_bytes];
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
    assert!(
        large < 100,
        "{large} chunks: that is hardly fewer than packets"
    );
}

// ---- the server speaks ------------------------------------------------------------------------

/// Row 31: the server starts the traffic. A client that never sends a byte gets its ticks.
#[test]
fn lecture_31_the_server_pushes_without_being_asked() {
    let server = Server::start(&["--tick-ms", "10"]);
    let mut client = server.connect();
    for _ in 0..20 {
        let packet = client.next();
        assert_eq!(packet.id, S_HELLO);
    }
}

/// Row 34: one buffer goes to every session: all get the very same bytes for a tick, whichever
/// thread serves them.
#[test]
fn lecture_34_a_broadcast_is_the_same_for_all() {
    let server = Server::start(&["--tick-ms", "5", "--workers", "4", "--payload-bytes", "100"]);
    let mut clients: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    let firsts: Vec<u64> = clients.iter_mut().map(|one| one.next_hello().0).collect();
    let common = firsts.iter().max().unwrap() + 1;
    let mut heard = Vec::new();
    for client in &mut clients {
        while client.next_hello().0 < common {}
        heard.push((0..20).map(|_| client.next()).collect::<Vec<_>>());
    }
    assert!(heard.iter().all(|one| *one == heard[0]));
    assert_eq!(split_number(&heard[0][0].payload).0, common + 1);
}

/// Row 39: five clients, the default pace, and "Hello World" scrolls by for each.
#[test]
fn lecture_39_hello_world_scrolls_for_five_clients() {
    let server = Server::start(&[]);
    let mut clients: Vec<Client> = (0..5).map(|_| server.join()).collect();
    let from = Instant::now();
    for _ in 0..6 {
        let ticks: Vec<_> = clients.iter_mut().map(Client::next_hello).collect();
        assert_eq!(ticks[0].1, b"Hello World");
        assert!(ticks.iter().all(|tick| *tick == ticks[0]), "{ticks:?}");
    }
    // Six of them span five periods of 250 ms, and a part of one before.
    let took = from.elapsed();
    assert!(took >= Duration::from_millis(1200), "{took:?}");
}

// ---- attackers --------------------------------------------------------------------------------

type Attack = (&'static str, u16, Vec<u8>);

/// What an attacker changes first, and what the server must say to it.
fn attacks() -> Vec<Attack> {
    vec![
        ("bad_size", 1, header(0, C_ECHO).to_vec()),
        ("bad_size", 1, header(1, C_ECHO).to_vec()),
        ("bad_size", 1, header(3, C_CHAT).to_vec()),
        ("too_large", 2, header(5000, C_ECHO).to_vec()),
        ("too_large", 2, header(u16::MAX, 0).to_vec()),
        ("unknown_id", 3, header(4, 0).to_vec()),
        ("unknown_id", 3, packet(S_HELLO, b"I am the server")),
        ("unknown_id", 3, packet(u16::MAX, b"beyond the table")),
        ("bad_payload", 4, header(4, C_CHAT).to_vec()),
        ("bad_payload", 4, packet(C_CHAT, &[b'a'; 513])),
        ("bad_payload", 4, packet(C_CHAT, b"\xf0\x28\x8c\x28")),
        ("packet_timeout", 5, header(4000, C_ECHO).to_vec()),
        ("packet_timeout", 5, vec![4]),
        ("rate_limit", 7, packet(C_ECHO, b"").repeat(500)),
        ("chat_flood", 8, packet(C_CHAT, b"spam").repeat(50)),
    ]
}

const STRICT: [&str; 6] = [
    "--max-packet-bytes",
    "4096",
    "--packet-timeout-ms",
    "300",
    "--max-packets-per-sec",
    "100",
];

/// Row 41: size and id are what attackers change first. Each of these must be noticed, named and
/// answered with a kick.
#[test]
fn lecture_41_the_attack_matrix_is_kicked_and_counted() {
    let server = Server::start_quiet(&STRICT);
    for (label, code, bytes) in attacks() {
        let mut attacker = server.connect();
        let addr = attacker.stream.local_addr().unwrap();
        attacker.send(&bytes);
        let last = loop {
            let packet = attacker.next();
            if ![S_ECHO, S_CHAT].contains(&packet.id) {
                break packet;
            }
        };
        assert_bye(&last, code);
        attacker.expect_eof();
        // Few enough for each to have a line of its own.
        let line = server.wait_for_line(&addr.to_string());
        assert!(line.contains(&format!("left: {label}")), "{line}");
    }
    server.join();
}

/// Row 42: a header is believed until something is off. Whatever bytes come, the server stays up,
/// and each stream ends either in order or with a goodbye.
#[test]
fn lecture_42_no_input_brings_the_server_down() {
    let mut random = random();
    let mut server = Server::start_quiet(&["--max-chats-per-sec", "0"]);
    for _ in 0..300 {
        let mut client = server.connect();
        let mut bytes = Vec::new();
        for _ in 0..random.usize(..8) {
            let count = random.usize(..300);
            let noise = random_bytes(&mut random, count);
            match random.u8(..4) {
                0 => bytes.extend(noise),
                1 => bytes.extend(packet(C_ECHO, &noise)),
                2 => bytes.extend(header(random.u16(..12), random.u16(..8))),
                _ => bytes.extend(packet(C_CHAT, b"some text")),
            }
        }
        client.send(&bytes);
        client.finish_writing();
        let mut said_goodbye = false;
        while let Some(packet) = client.try_next().unwrap() {
            assert!(!said_goodbye, "{packet:?} behind the goodbye");
            said_goodbye = packet.id == S_BYE;
        }
    }
    assert!(server.is_running());
    server.join();
    assert!(!server.lines().iter().any(|line| line.contains("panicked")));
}

/// Row 45: one cheater must not ruin the game for all: with attackers of every kind coming all
/// the time, honest ones miss no tick and get their answers.
#[test]
fn lecture_45_cheaters_cost_the_honest_nothing() {
    let flags = ["--tick-ms", "10", "--workers", "2"];
    let server = Server::start(&[&flags[..], &STRICT].concat());
    let honest: Vec<TickReader> = (0..5).map(|_| TickReader::start(server.join())).collect();
    let mut player = server.join();
    let mut unread = Vec::new();
    for _ in 0..10 {
        for (_, _, bytes) in attacks() {
            let mut attacker = server.connect();
            attacker.send(&bytes);
            unread.push(attacker);
        }
        // The chats that a flooder's budget allows are heard, too.
        player.send(&packet(C_ECHO, b"my turn"));
        while player.next().id != S_ECHO {}
        // Some of them leave only now, their kicks unread.
        let leaving = unread.len().saturating_sub(40);
        unread.drain(..leaving);
        (0..3).for_each(|_| drop(player.next_hello()));
    }
    for reader in honest {
        reader.stop_after(20);
    }
    server.join();
}

// ---- the crowd --------------------------------------------------------------------------------

/// Row 47: a thousand clients at a time, and each is served. "If it is really broken, it crashes
/// once."
#[test]
fn lecture_47_a_thousand_clients() {
    let server = Server::start(&["--tick-ms", "100"]);
    let mut clients: Vec<Client> = (0..1000).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&packet(C_ECHO, &n.to_le_bytes()));
    }
    for (n, client) in clients.iter_mut().enumerate() {
        client.expect_echo(&n.to_le_bytes());
    }
    for client in &mut clients {
        let (tick, _) = client.next_hello();
        assert_eq!(client.next_hello().0, tick + 1);
    }
}

const CROWD_ADDR: &str = "GAME_SERVER_TEST_CROWD_ADDR";

/// Not a test of its own: the process full of clients that row 48 kills. Without its variable
/// there is nothing to do.
#[test]
fn lecture_48_crowd_process() {
    let Ok(addr) = std::env::var(CROWD_ADDR) else {
        return;
    };
    let _ = rlimit::increase_nofile_limit(16_384);
    let addr = addr.parse().unwrap();
    let mut clients: Vec<Client> = (0..1000).map(|_| Client::connect(addr)).collect();
    clients
        .iter_mut()
        .for_each(|client| client.echo(b"I am in"));
    println!("crowd is in");
    // Until it is killed; half of them never read, which makes their end a reset.
    loop {
        clients.iter_mut().step_by(2).for_each(|client| {
            client.next();
        });
    }
}

/// Rows 48 and 56: the process of a thousand clients is killed while broadcasts go on, again and
/// again. All its sessions go, the count falls to 0, the server lives and serves who comes next.
#[test]
fn lecture_48_the_crowd_is_killed_during_broadcasts() {
    let flags = [
        "--tick-ms",
        "20",
        "--payload-bytes",
        "200",
        "--workers",
        "2",
    ];
    let mut server = Server::start(&[&flags[..], &["--stats-interval-secs", "0.1"]].concat());
    for _ in 0..3 {
        let healthy = TickReader::start(server.join());
        let mut crowd = crowd_process(&server);
        let full = |line: &str| stat(line, "sessions") == Some(1001);
        server.wait_for_line_where("1,001 sessions", full);
        let mut next = server.join();
        (0..5).for_each(|_| drop(next.next_hello()));
        crowd.kill();
        let left = |line: &str| stat(line, "sessions") == Some(2);
        server.wait_for_new_line_where("the crowd to be gone", left);
        next.echo(b"served as before");
        healthy.stop_after(5);
        drop(next);
        let empty = |line: &str| stat(line, "sessions") == Some(0);
        server.wait_for_new_line_where("0 sessions", empty);
        server.join().next_hello();
    }
    assert!(server.is_running());
}

/// Starts this very test binary again, as a process of a thousand clients that are all served.
fn crowd_process(server: &Server) -> Crowd {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["lecture_48_crowd_process", "--exact", "--nocapture"])
        .env(CROWD_ADDR, server.addr.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("crowd is in") {
        line.clear();
        assert!(
            stdout.read_line(&mut line).unwrap() > 0,
            "the crowd did not get in"
        );
    }
    Crowd {
        child,
        _stdout: stdout,
    }
}

/// Ends with the test, however that ends.
struct Crowd {
    child: Child,
    _stdout: BufReader<std::process::ChildStdout>,
}

impl Crowd {
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Row 50: the first send of a broadcast fails. The session that fails is the first of the walk;
/// all behind it must still get the packet.
#[test]
fn lecture_50_the_first_send_of_a_broadcast_fails() {
    let server = Server::start_quiet(&["--workers", "1", "--max-chats-per-sec", "0"]);
    for round in 0..30 {
        // The first in the table, as it is empty at the start of each round.
        let mut first = server.join();
        let mut speaker = server.join();
        let mut others: Vec<Client> = (0..5).map(|_| server.join()).collect();
        first.send(&packet(C_ECHO, b"unread"));
        first.stream.peek(&mut [0]).unwrap();
        // Stopped, so that the reset and the broadcast meet in one turn, in either order.
        server.signal("STOP");
        let text = format!("round {round}");
        let chat = packet(C_CHAT, text.as_bytes());
        if round % 2 == 0 {
            first.reset();
            speaker.send(&chat);
        } else {
            speaker.send(&chat);
            first.reset();
        }
        server.signal("CONT");
        for client in others.iter_mut().chain([&mut speaker]) {
            assert_eq!(client.next_chat().1, text);
        }
        let idle = |mut client: Client| {
            client.finish_writing();
            client.expect_eof();
        };
        others.into_iter().chain([speaker]).for_each(idle);
    }
    server.join();
}

/// Row 53: leaving is only noted while packets are handled, and carried out later. Who speaks and
/// offends in one breath is heard by all, itself included, before it goes.
#[test]
fn lecture_53_leaving_is_carried_out_after_the_broadcast() {
    let server = Server::start_quiet(&["--workers", "2"]);
    let mut others: Vec<Client> = (0..6).map(|_| server.join()).collect();
    for round in 0..20 {
        let text = format!("my last words, {round}");
        let mut leaving = server.join();
        let mut bytes = packet(C_CHAT, text.as_bytes());
        let is_kicked = round % 2 == 0;
        if is_kicked {
            bytes.extend(header(0, 0));
        }
        leaving.send(&bytes);
        if !is_kicked {
            leaving.finish_writing();
        }
        for client in &mut others {
            assert_eq!(client.next_chat().1, text);
        }
        assert_eq!(leaving.next_chat().1, text);
        match is_kicked {
            true => leaving.expect_bye(1),
            false => leaving.expect_eof(),
        }
    }
    for client in &mut others {
        client.echo(b"and nothing twice");
    }
}

/// Row 60: watch the memory: thousands of broadcasts of 1,000 bytes leave it where it was, and
/// the number of chunks stays flat.
#[test]
fn lecture_60_memory_stays_flat() {
    let flags = ["--tick-ms", "2", "--payload-bytes", "1000"];
    let server = Server::start(&[&flags[..], &["--stats-interval-secs", "0.2"]].concat());
    let readers: Vec<TickReader> = (0..20).map(|_| TickReader::start(server.join())).collect();
    let mut meter = server.join();
    let mut after = |ticks: usize| {
        for _ in 0..ticks {
            meter.next_hello();
        }
        server.rss_bytes()
    };
    let before = after(300);
    let grown = after(1500).saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes more");
    for reader in readers {
        reader.stop_after(1500);
    }
    let chunks: Vec<u64> = server
        .lines()
        .iter()
        .filter_map(|line| stat(line, "chunks live"))
        .collect();
    assert!(
        chunks.len() > 5 && chunks.iter().all(|live| *live <= 8),
        "{chunks:?}"
    );
}

/// Row 61: real stress is churn: sessions that come, send and go at random, all the time.
#[test]
fn lecture_61_churn() {
    let mut random = random();
    let flags = [
        "--tick-ms",
        "5",
        "--workers",
        "3",
        "--max-chats-per-sec",
        "0",
    ];
    let server = Server::start(&[&flags[..], &["--stats-interval-secs", "0.1"]].concat());
    let healthy = TickReader::start(server.join());
    let mut clients: Vec<Client> = Vec::new();
    let mut connected = 0;
    for _ in 0..4000 {
        match random.u8(..10) {
            0..4 => {
                clients.push(server.connect());
                connected += 1;
            }
            _ if clients.is_empty() => {}
            action => {
                let at = random.usize(..clients.len());
                match action {
                    // Whoever sent half a packet before may have been kicked: then this fails.
                    4 | 5 => drop(clients[at].stream.write_all(&packet(C_ECHO, b"one"))),
                    6 => drop(clients[at].stream.write_all(&packet(C_CHAT, b"two"))),
                    7 => drop(clients[at].stream.write_all(&header(9, C_ECHO))),
                    8 => drop(clients.swap_remove(at).stream.shutdown(Shutdown::Write)),
                    _ => drop(clients.swap_remove(at)),
                }
            }
        }
        clients.truncate(100);
    }
    drop(clients);
    // That there is one session left would not tell: the last of them may not have been let in yet.
    wait_until("all of them to have come and gone", DEADLINE, || {
        let lines = server.lines();
        let left = REASONS.iter().map(|reason| departures(&lines, reason));
        left.sum::<u64>() == connected
    });
    server.wait_for_new_line_where("one session left", |line| stat(line, "sessions") == Some(1));
    healthy.stop_after(10);
    server.join().next_hello();
}
