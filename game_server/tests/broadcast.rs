//! Broadcasts: one packet to every session, in order, whatever threads it comes from and whichever
//! session leaves meanwhile.

use crate::util::*;
use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread;

// ---- every session ------------------------------------------------------------------------------

/// Row 31: the server sends first. A client that sends no byte receives its ticks.
#[test]
fn client_that_sends_nothing_receives_ticks() {
    let server = Server::start(&["--tick-ms", "10"]);
    let mut client = server.connect();
    for _ in 0..20 {
        let packet = client.next();
        assert_eq!(packet.id, S_HELLO);
    }
}

/// Row 34: one buffer goes to every session. Each session receives the same bytes for a tick, whichever
/// worker serves it.
#[test]
fn every_session_receives_the_same_bytes() {
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

#[test]
fn five_clients_receive_the_same_ticks() {
    let server = Server::start(&["--tick-ms", "20"]);
    let mut clients: Vec<Client> = (0..5).map(|_| server.join()).collect();
    let firsts: Vec<u64> = clients.iter_mut().map(|one| one.next_hello().0).collect();
    let last = firsts.iter().max().unwrap() + 30;
    for (client, first) in clients.iter_mut().zip(firsts) {
        for tick in first + 1..=last {
            assert_eq!(client.next_hello(), (tick, b"Hello World".to_vec()));
        }
    }
}

// ---- order --------------------------------------------------------------------------------------

/// Row 4: threads that send to one session at once (here the tick and two workers) never write its socket
/// at once, and the packets of each thread stay in order.
#[test]
fn concurrent_senders_keep_their_order_in_one_session() {
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

/// Each client sends echoes and chats while it reads, with ticks in between. The test checks every byte
/// that arrives.
#[test]
fn concurrent_echoes_chats_and_ticks_are_never_torn() {
    const CLIENTS: usize = 6;
    const ROUNDS: usize = 150;
    let mut random = random();
    let flags = [
        "--tick-ms",
        "3",
        "--workers",
        "4",
        "--max-chats-per-sec",
        "0",
    ];
    let server = Server::start(&flags);
    let clients: Vec<Client> = (0..CLIENTS).map(|_| server.join()).collect();
    let done = Arc::new(Barrier::new(CLIENTS));
    let threads: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(me, client)| {
            let (done, random) = (Arc::clone(&done), random.fork());
            thread::spawn(move || mix(me, client, random, CLIENTS, ROUNDS, &done))
        })
        .collect();
    let ids: Vec<HashMap<usize, u64>> =
        threads.into_iter().map(|one| one.join().unwrap()).collect();
    // Every client has seen the same ids.
    assert!(ids.iter().all(|one| *one == ids[0]));
    assert_eq!(ids[0].values().collect::<HashSet<_>>().len(), CLIENTS);
}

/// Returns the session ids by the client numbers in the chats.
fn mix(
    me: usize,
    mut client: Client,
    mut random: fastrand::Rng,
    clients: usize,
    rounds: usize,
    done: &Barrier,
) -> HashMap<usize, u64> {
    let echoes: Vec<Vec<u8>> = (0..rounds)
        .map(|_| {
            let count = random.usize(..700);
            random_bytes(&mut random, count)
        })
        .collect();
    let mut sender = client.sender();
    let sending = {
        let echoes = echoes.clone();
        thread::spawn(move || {
            for (n, echo) in echoes.iter().enumerate() {
                let mut bytes = packet(C_ECHO, echo);
                bytes.extend(packet(C_CHAT, format!("{me}:{n}").as_bytes()));
                let cut = random.usize(..bytes.len());
                sender.write_all(&bytes[..cut]).unwrap();
                sender.write_all(&bytes[cut..]).unwrap();
            }
        })
    };
    let mut ids = HashMap::new();
    let mut next_chat = vec![0; clients];
    let mut echoes = echoes.into_iter();
    let mut last_tick = None;
    while echoes.len() > 0 || next_chat.iter().any(|next| *next < rounds) {
        let packet = client.next();
        match packet.id {
            S_HELLO => {
                let (tick, text) = split_number(&packet.payload);
                assert_eq!(text, b"Hello World");
                assert!(
                    last_tick.is_none_or(|last| tick == last + 1),
                    "{tick} after {last_tick:?}"
                );
                last_tick = Some(tick);
            }
            S_ECHO => assert!(packet.payload == echoes.next().unwrap()),
            S_CHAT => {
                let (id, text) = split_number(&packet.payload);
                let text = String::from_utf8(text).unwrap();
                let (name, n) = text.split_once(':').unwrap();
                let name: usize = name.parse().unwrap();
                assert_eq!(
                    n,
                    next_chat[name].to_string(),
                    "chats of one sender are in order"
                );
                next_chat[name] += 1;
                assert_eq!(*ids.entry(name).or_insert(id), id);
            }
            _ => panic!("{packet:?}"),
        }
    }
    sending.join().unwrap();
    // No client leaves before every client has its chats.
    done.wait();
    ids
}

// ---- sessions that leave during a broadcast -----------------------------------------------------

/// Row 50: the first send of a broadcast fails. The session that fails is the first of the walk; every
/// session behind it still receives the packet.
#[test]
fn first_send_of_a_broadcast_fails_and_every_other_session_receives_it() {
    let server = Server::start_quiet(&["--workers", "1", "--max-chats-per-sec", "0"]);
    for round in 0..30 {
        // The first session of the table, which is empty at the start of each round.
        let mut first = server.join();
        let mut speaker = server.join();
        let mut others: Vec<Client> = (0..5).map(|_| server.join()).collect();
        first.send(&packet(C_ECHO, b"unread"));
        first.stream.peek(&mut [0]).unwrap();
        // The server is stopped, so that the reset and the broadcast meet in one turn, in either order.
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

/// Row 53: a disconnect is registered while packets are handled, and carried out later. A client that
/// chats and sends an invalid packet in one write is heard by every session, itself included, before it is
/// removed.
#[test]
fn session_that_chats_and_leaves_is_removed_after_the_broadcast() {
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
        if is_kicked {
            leaving.expect_bye(1);
        } else {
            leaving.expect_eof();
        }
    }
    for client in &mut others {
        client.echo(b"and nothing twice");
    }
}

#[test]
fn reset_during_broadcasts_loses_no_tick_of_others() {
    let server = Server::start(&["--tick-ms", "2", "--payload-bytes", "500"]);
    let mut healthy = server.join();
    let (mut last, _) = healthy.next_hello();
    for _ in 0..30 {
        let mut leaving: Vec<Client> = (0..10).map(|_| server.join()).collect();
        for client in &mut leaving {
            client.next_hello();
            // Waits for an unread tick, which makes the close a reset.
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

#[test]
fn five_hundred_disconnects_during_broadcasts_lose_no_tick_of_others() {
    let mut random = random();
    let server = Server::start(&[
        "--tick-ms",
        "5",
        "--payload-bytes",
        "1000",
        "--workers",
        "4",
    ]);
    let mut healthy = server.join();
    let idle_fds = server.resting_fds();
    let mut last_tick = healthy.next_hello().0;
    for _ in 0..4 {
        let mut clients: Vec<Client> = (0..500).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.next_hello();
            // Some clients have an unread tick, which makes their close a reset; some do not.
            if random.bool() {
                client.stream.peek(&mut [0]).unwrap();
            }
        }
        random.shuffle(&mut clients);
        drop(clients);
        for _ in 0..20 {
            let (tick, _) = healthy.next_hello();
            assert_eq!(tick, last_tick + 1);
            last_tick = tick;
        }
        while server.open_fds() > idle_fds {
            let (tick, _) = healthy.next_hello();
            assert_eq!(tick, last_tick + 1);
            last_tick = tick;
        }
        server.join().next_hello();
    }
    healthy.echo(b"still here");
}

const CLIENT_PROCESS_ADDR: &str = "GAME_SERVER_TEST_CLIENT_PROCESS_ADDR";

/// Not a test: the client process that the test of row 48 starts and kills. Without its variable it does
/// nothing.
#[test]
fn client_process_of_a_thousand_sessions() {
    let Ok(addr) = std::env::var(CLIENT_PROCESS_ADDR) else {
        return;
    };
    let _ = rlimit::increase_nofile_limit(16_384);
    let addr = addr.parse().unwrap();
    let mut clients: Vec<Client> = (0..1000).map(|_| Client::connect(addr)).collect();
    // Every request is sent before the first answer is read: 1,000 round trips one after the other take
    // a minute on a busy machine.
    for client in &mut clients {
        client.send(&packet(C_ECHO, b"I am in"));
    }
    for client in &mut clients {
        client.expect_echo(b"I am in");
    }
    println!("all clients are served");
    // Until the process is killed. Half of the clients never read, which makes their close a reset.
    loop {
        clients.iter_mut().step_by(2).for_each(|client| {
            client.next();
        });
    }
}

/// Rows 48 and 56: the process of 1,000 clients is killed during broadcasts, three times. All its sessions
/// end, the count of sessions falls to 0, and the server lives and serves the next clients.
#[test]
fn killed_client_process_leaves_no_session_and_loses_no_tick_of_others() {
    let flags = [
        "--tick-ms",
        "20",
        "--payload-bytes",
        "200",
        "--workers",
        "2",
    ];
    // A busy machine can delay the start of the process by more than the lag limit, and half of its
    // clients never read: they are to end by the kill, not by a kick.
    let more = [
        "--max-send-lag-ms",
        "600000",
        "--stats-interval-secs",
        "0.1",
    ];
    let mut server = Server::start(&[&flags[..], &more].concat());
    for _ in 0..3 {
        let healthy = TickReader::start(server.join());
        let mut process = start_client_process(&server);
        let full = |line: &str| stat(line, "sessions") == Some(1001);
        server.wait_for_line_where("1,001 sessions", full);
        let mut next = server.join();
        (0..5).for_each(|_| drop(next.next_hello()));
        process.kill();
        let left = |line: &str| stat(line, "sessions") == Some(2);
        server.wait_for_new_line_where("the killed process to be gone", left);
        next.echo(b"served as before");
        healthy.stop_after(5);
        drop(next);
        let empty = |line: &str| stat(line, "sessions") == Some(0);
        server.wait_for_new_line_where("0 sessions", empty);
        server.join().next_hello();
    }
    assert!(server.is_running());
}

/// Starts this test binary as a process of 1,000 clients, and waits until every client is served.
fn start_client_process(server: &Server) -> ClientProcess {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "broadcast::client_process_of_a_thousand_sessions",
            "--exact",
            "--nocapture",
        ])
        .env(CLIENT_PROCESS_ADDR, server.addr.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("all clients are served") {
        line.clear();
        assert!(
            stdout.read_line(&mut line).unwrap() > 0,
            "the client process ended early"
        );
    }
    ClientProcess {
        child,
        _stdout: stdout,
    }
}

/// The client process. Dropping it kills and reaps it.
struct ClientProcess {
    child: Child,
    _stdout: BufReader<std::process::ChildStdout>,
}

impl ClientProcess {
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for ClientProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
