//! Each example plays its demo to the end, as a user would start it; and it serves.

use server_core::testing::{RawClient, RawPacket, Redis, packet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};
use std::{fs, thread};

/// Longer than an example gives its bots.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn echo_bots_finish() {
    plays_to_the_end("echo", "5");
}

#[test]
fn admin_bots_finish() {
    plays_to_the_end("admin", "5");
}

#[test]
fn timers_bots_finish() {
    plays_to_the_end("timers", "5");
}

#[test]
fn game_thread_bots_finish() {
    plays_to_the_end("game_thread", "5");
}

#[test]
fn rooms_bots_finish() {
    plays_to_the_end("rooms", "5");
}

#[test]
fn chat_rooms_bots_finish() {
    plays_to_the_end("chat_rooms", "5");
}

#[test]
fn arena_bots_finish() {
    plays_to_the_end("arena", "20");
}

#[test]
fn zones_bots_finish() {
    // With 64 bots, some are neighbours of bots that they have never met.
    plays_to_the_end("zones", "64");
}

#[test]
fn interest_bots_finish_and_the_table_has_both_rows() {
    let flags = ["--players", "32", "--rounds", "2", "--tick-ms", "20"];
    let (status, stdout) = Example::start("interest", &flags).wait();
    println!("{stdout}");
    assert_eq!(status.code(), Some(0), "{stdout}");
    assert!(
        stdout.contains("32 players, median of 2 blocks"),
        "{stdout}"
    );
    for row in ["| naive broadcast | 32 |", "| interest | "] {
        assert!(stdout.contains(row), "{row}: {stdout}");
    }
}

#[test]
fn web_bots_finish() {
    plays_to_the_end("web", "64");
}

/// A player of the example `web`: its answers, read until the one that is asked for.
struct WebPlayer {
    client: RawClient,
    id: Vec<u8>,
    place: [u8; 2],
}

impl WebPlayer {
    fn connect(addr: &str) -> Self {
        let mut client = RawClient::connect(addr.parse().unwrap()).with_deadline(PATIENCE);
        let welcome = next_of(&mut client, 4);
        let (id, place) = (welcome[..8].to_vec(), [welcome[8], welcome[9]]);
        Self { client, id, place }
    }

    /// Sends these steps to the right, each of this number of cells, in one write.
    fn step(&mut self, numbers: RangeInclusive<u32>, cells: u8) {
        let step = |number: u32| packet(1, [&number.to_le_bytes()[..], &[cells, 0]].concat());
        let steps: Vec<_> = numbers.map(step).collect();
        self.client.send(&steps.concat());
    }

    /// Where the player is after this step.
    fn place_after(&mut self, number: u32) -> [u8; 2] {
        let here = next_of(&mut self.client, 5);
        assert_eq!(here[..4], number.to_le_bytes(), "each step has an answer");
        [here[4], here[5]]
    }
}

/// The payload of the next packet of this id; others are of the world around.
fn next_of(client: &mut RawClient, id: u16) -> Vec<u8> {
    loop {
        let packet = client.next_packet();
        if packet.id == id {
            return packet.payload;
        }
    }
}

#[test]
fn web_shows_a_standing_player_to_a_later_one_and_holds_both_to_the_rules() {
    let flags = ["--addr", "127.0.0.1:0", "--web-addr", "127.0.0.1:0"];
    let mut example = Example::start("web", &flags);
    let mut lines = BufReader::new(example.0.stdout.take().unwrap()).lines();
    let mut addr_behind = |text: &str| {
        let line = lines.next().unwrap().unwrap();
        line.strip_prefix(text).unwrap().to_owned()
    };
    let (page, addr) = (
        addr_behind("in the browser: http://"),
        addr_behind("listening on "),
    );

    let mut page = TcpStream::connect(page.trim_end_matches('/')).unwrap();
    page.set_read_timeout(Some(PATIENCE)).unwrap();
    page.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut html = String::new();
    page.read_to_string(&mut html).unwrap();
    assert!(html.starts_with("HTTP/1.1 200 OK\r\n") && html.ends_with("</html>\n"));

    let mut first = WebPlayer::connect(&addr);
    let mut second = WebPlayer::connect(&addr);
    let seen = |player: &WebPlayer| [&player.id[..], &player.place].concat();
    assert_eq!(next_of(&mut second.client, 6), seen(&first));
    assert_eq!(next_of(&mut first.client, 6), seen(&second));

    // The speed: of 40 steps at once, only those of a short burst are taken.
    first.step(1..=40, 1);
    let last = (1..=40).map(|number| first.place_after(number)).last();
    let [x, y] = last.unwrap();
    let steps = x - first.place[0];
    assert!(
        (1..=10).contains(&steps) && y == first.place[1],
        "{steps} steps"
    );

    // A line reaches the neighbour and its speaker; too many lines end the session.
    second.client.send(&packet(2, b"hi"));
    let said = [&second.id[..], b"hi"].concat();
    assert_eq!(next_of(&mut first.client, 8), said);
    assert_eq!(next_of(&mut second.client, 8), said);
    second.client.send(&packet(2, b"hi").repeat(20));
    assert_eq!(next_of(&mut second.client, 11)[..2], 1000_u16.to_le_bytes());
    assert_eq!(next_of(&mut first.client, 7), second.id, "it is gone");

    first.step(41..=41, 2);
    let bad_payload = 4_u16;
    assert_eq!(
        next_of(&mut first.client, 11)[..2],
        bad_payload.to_le_bytes()
    );
}

#[test]
fn world_bots_walk_over_three_nodes_and_see_who_is_where() {
    let Some(redis) = Redis::start() else { return };
    plays_to_the_end_with("world", &["--bots", "6", "--broker", redis.url()]);
}

#[test]
fn world_download_bots_finish() {
    let flags = ["--bots", "2", "--bytes", "2000000", "--rate", "1000000"];
    plays_to_the_end_with("world_download", &flags);
}

#[test]
fn example_without_bots_serves_until_it_is_killed() {
    let mut example = Example::start("echo", &["--addr", "127.0.0.1:0"]);
    let mut line = String::new();
    let stdout = example.0.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let addr = line.strip_prefix("listening on ").unwrap().trim_end();
    let mut client = RawClient::connect(addr.parse().unwrap()).with_deadline(PATIENCE);
    client.send(&[6, 0, 2, 0, b'h', b'i']);
    assert_eq!(client.next_packet(), RawPacket::new(3, b"hi"));
    assert!(example.0.try_wait().unwrap().is_none(), "it still serves");
}

#[test]
fn impossible_flags_are_a_failing_exit_status() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let bad_usage = Some(2);
    for (args, code) in [
        (&["--addr", &addr][..], Some(1)),
        (&["--bots", "0"], bad_usage),
        (&["--bots", "many"], bad_usage),
        (&["--no-such-flag"], bad_usage),
    ] {
        let (status, stdout) = Example::start("echo", args).wait();
        assert_eq!(status.code(), code, "{args:?}: {stdout}");
    }
}

fn plays_to_the_end(name: &str, bots: &str) {
    plays_to_the_end_with(name, &["--bots", bots]);
}

fn plays_to_the_end_with(name: &str, flags: &[&str]) {
    let (status, stdout) = Example::start(name, flags).wait();
    println!("{stdout}");
    assert_eq!(status.code(), Some(0), "{stdout}");
    assert!(stdout.contains("passed: "), "{stdout}");
}

/// A running example; it is ended with this.
struct Example(Child);

impl Example {
    fn start(name: &str, args: &[&str]) -> Self {
        let mut command = Command::new(path_of(name));
        command.args(args).stdout(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// The exit status, and the output: a few lines, which the pipe can hold.
    fn wait(mut self) -> (ExitStatus, String) {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "it does not end");
            thread::sleep(Duration::from_millis(20));
        };
        let mut stdout = String::new();
        self.0
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut stdout)
            .unwrap();
        (status, stdout)
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `cargo test` builds the examples into a directory beside that of the tests. With `--test` it does
/// not, and what lies there may be missing or old.
fn path_of(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples").join(name);
    let built_at = path.metadata().and_then(|file| file.modified()).ok();
    assert!(
        built_at.is_some_and(|at| at >= newest_source_of(name)),
        "{} is missing or old: first `cargo build -p server_core --examples`",
        path.display()
    );
    path
}

fn newest_source_of(name: &str) -> SystemTime {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The example `admin` plays with the bots of `echo`.
    let bots = if name == "admin" { "echo" } else { name };
    let mut paths = vec![package.join("examples/demo"), package.join("src")];
    // An example is a file, or a folder with all that it is made of.
    let folder = package.join("examples").join(name);
    if folder.is_dir() {
        paths.push(folder);
    } else {
        paths.push(package.join(format!("examples/{name}.rs")));
        paths.push(package.join(format!("examples/bots/{bots}.rs")));
    }
    let mut newest = SystemTime::UNIX_EPOCH;
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            newest = newest.max(path.metadata().unwrap().modified().unwrap());
        }
    }
    newest
}
