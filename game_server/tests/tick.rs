//! The tick: its bytes, its number, its text, and its pace.

use crate::util::*;
use std::io::Read;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn tick_has_the_golden_bytes() {
    let server = Server::start(&["--tick-ms", "20"]);
    let mut client = server.connect();
    let mut bytes = [0; 2 * 23];
    client.stream.read_exact(&mut bytes).unwrap();
    let (first, second) = bytes.split_at(23);
    assert_eq!(first[..4], [23, 0, 1, 0], "size 23, id 1");
    assert_eq!(&first[12..], b"Hello World");
    assert_eq!(second[..4], [23, 0, 1, 0]);
    assert_eq!(&second[12..], b"Hello World");
    let (first, _) = split_number(&first[4..]);
    let (second, _) = split_number(&second[4..]);
    assert!(
        (1..1000).contains(&first),
        "ticks start at 1, not at {first}"
    );
    assert_eq!(second, first + 1);
}

#[test]
fn first_tick_is_number_1() {
    let began = Instant::now();
    let server = Server::start(&["--tick-ms", "1000"]);
    let (first, _) = server.connect().next_hello();
    // A tick never comes early. A busy machine may admit the client behind the first tick.
    let due = began.elapsed().as_secs();
    assert!((1..=due).contains(&first), "{first}, {due} are due");
}

#[test]
fn tick_number_rises_by_1() {
    let server = Server::start(&["--tick-ms", "2"]);
    let mut client = server.connect();
    let (first, _) = client.next_hello();
    for tick in first + 1..first + 200 {
        assert_eq!(client.next_hello().0, tick);
    }
}

#[test]
fn message_is_padded_and_never_cut() {
    let text = "Grüß Gott";
    let server = Server::start(&["--tick-ms", "20", "--message", text]);
    assert_eq!(server.connect().next_hello().1, text.as_bytes());

    let server = Server::start(&[
        "--tick-ms",
        "20",
        "--message",
        "pad",
        "--payload-bytes",
        "64",
    ]);
    let packet = server.connect().next();
    assert_eq!((packet.id, packet.payload.len()), (S_HELLO, 64));
    assert_eq!(&packet.payload[8..11], b"pad");
    assert!(packet.payload[11..].iter().all(|byte| *byte == 0));

    // Smaller than the message: no padding, and the message is not cut.
    let server = Server::start(&["--tick-ms", "20", "--payload-bytes", "10"]);
    assert_eq!(server.connect().next_hello().1, b"Hello World");
}

#[test]
fn largest_payload_is_delivered() {
    let server = Server::start(&["--tick-ms", "50", "--payload-bytes", "65531"]);
    let mut client = server.connect();
    for _ in 0..5 {
        let packet = client.next();
        assert_eq!((packet.id, packet.payload.len()), (S_HELLO, 65_531));
        assert_eq!(&packet.payload[8..19], b"Hello World");
    }
}

// ---- the pace -----------------------------------------------------------------------------------

/// The mean, not the jitter. A loop that sleeps a period after each round falls behind in every
/// measurement; a machine that delays the process does so in one of six.
#[test]
fn mean_pace_is_the_period() {
    let server = Server::start(&["--tick-ms", "50"]);
    let mut client = server.connect();
    client.next_hello();
    let mut means = Vec::new();
    for _ in 0..6 {
        let (first, _) = client.next_hello();
        let from = Instant::now();
        let last = (0..20).map(|_| client.next_hello().0).last().unwrap();
        assert_eq!(last, first + 20);
        means.push(from.elapsed() / 20);
        if (Duration::from_millis(45)..Duration::from_millis(60)).contains(&means[means.len() - 1])
        {
            return;
        }
    }
    panic!("a tick each {means:?}");
}

/// Row 39: five clients receive "Hello World" at the default pace.
#[test]
fn five_clients_receive_hello_world_at_the_default_pace() {
    let began = Instant::now();
    let server = Server::start(&[]);
    let mut clients: Vec<Client> = (0..5).map(|_| server.join()).collect();
    // The schedule begins behind `began`: no tick comes before its number of periods is over.
    let next_hello = |client: &mut Client| {
        let (tick, text) = client.next_hello();
        assert_eq!(text, b"Hello World");
        let due_at = Duration::from_millis(250 * tick);
        assert!(began.elapsed() >= due_at, "tick {tick} before {due_at:?}");
        tick
    };
    let firsts: Vec<u64> = clients.iter_mut().map(next_hello).collect();
    // A client that joined early has ticks that the others do not have.
    let last = firsts.iter().max().unwrap() + 5;
    for (client, first) in clients.iter_mut().zip(firsts) {
        for tick in first + 1..=last {
            assert_eq!(next_hello(client), tick);
        }
    }
}

#[test]
fn stopped_process_sends_no_burst() {
    const PERIOD: Duration = Duration::from_millis(50);
    let server = Server::start(&["--tick-ms", "50"]);
    let mut client = server.join();
    let (mut before, _) = client.next_hello();
    server.signal("STOP");
    // The ticks that were sent before the stop.
    client.stream.set_nonblocking(true).unwrap();
    while let Ok(Some(packet)) = client.try_next() {
        before = split_number(&packet.payload).0;
    }
    client.stream.set_nonblocking(false).unwrap();
    // The length of the stop is what is tested.
    thread::sleep(Duration::from_millis(750));
    let resumed = Instant::now();
    server.signal("CONT");
    let mut ticks = Vec::new();
    while resumed.elapsed() < 5 * PERIOD {
        ticks.push(client.next_hello().0);
    }
    // 15 ticks are due. One of them comes late, six are on the schedule up to the last read, and one may have waited
    // in the server at the stop.
    assert!(ticks.len() <= 8, "a burst: {ticks:?}");
    let expected: Vec<u64> = (before + 1..).take(ticks.len()).collect();
    assert_eq!(
        ticks, expected,
        "the number rises by one for each tick that is sent"
    );
    client.echo(b"the session has stayed");
}

/// The stop of 5 s is longer than each timeout. No session is kicked for the time that the process missed,
/// the missed ticks do not come in a burst, and the schedule is the one from the start.
#[test]
fn stopped_process_kicks_no_session_and_keeps_its_schedule() {
    const PERIOD: Duration = Duration::from_millis(250);
    let server = Server::start(&[
        "--packet-timeout-ms",
        "3000",
        "--idle-timeout-ms",
        "3000",
        "--max-send-lag-ms",
        "3000",
    ]);
    let began = Instant::now();
    let next_tick = |client: &mut Client| (client.next_hello().0, began.elapsed());
    // The time of a tick in the schedule, in ms from the start of a period: that of the tick that came earliest.
    let phase = |ticks: &[(u64, Duration)]| {
        let start_of = |(tick, at): &(u64, Duration)| {
            at.as_millis() as i64 - *tick as i64 * PERIOD.as_millis() as i64
        };
        ticks.iter().map(start_of).min().unwrap()
    };
    let mut client = server.join();
    let before: Vec<_> = (0..4).map(|_| next_tick(&mut client)).collect();
    let (last, last_at) = before[3];
    let mut begun = server.join();
    let bytes = packet(C_ECHO, b"begun before, ended meanwhile");
    begun.send(&bytes[..9]);
    client.echo(b"the stop comes between two ticks");
    server.signal("STOP");
    let stopped = began.elapsed();
    begun.send(&bytes[9..]);
    client.send(&packet(C_ECHO, b"during the stop"));
    // The length of the stop is what is tested: it ends in the middle of a period.
    thread::sleep(20 * PERIOD + PERIOD / 2);
    let stop = began.elapsed() - stopped;
    server.signal("CONT");
    client.expect_echo(b"during the stop");
    begun.expect_echo(b"begun before, ended meanwhile");
    let ticks: Vec<_> = (0..6).map(|_| next_tick(&mut client)).collect();
    // Twenty ticks are due. One may come late, at once; the others keep their distance.
    let (newest, newest_at) = ticks[5];
    let most = (newest_at - last_at - stop).as_millis() / PERIOD.as_millis() + 3;
    assert!(
        u128::from(newest - last) <= most,
        "a burst: {ticks:?} after {last} at {last_at:?}"
    );
    assert!(ticks.windows(2).all(|two| two[1].0 == two[0].0 + 1));
    // On the schedule again: whole periods after the ticks before. The distance depends on the machine; a
    // schedule that began anew at the resume would be anywhere. The first of these ticks may be the late one.
    let off = (phase(&ticks[1..]) - phase(&before)).rem_euclid(PERIOD.as_millis() as i64);
    assert!(
        !(60..=190).contains(&off),
        "{off} ms late: {before:?}, {ticks:?}"
    );
    assert!(!server.lines().iter().any(|line| line.contains("left: ")));
}

/// The wall clock may be set while the server runs.
#[test]
fn no_source_file_reads_the_wall_clock() {
    let mut folders = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            assert!(!source.contains("SystemTime"), "{}", path.display());
            files += 1;
        }
    }
    assert!(files > 10);
}
