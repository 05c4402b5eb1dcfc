//! A start that cannot succeed returns an error in time, and nothing of the server is left.
//!
//! The limits are real ones, so each test runs again in a process of its own that has them.
#![cfg(target_os = "linux")] // `/proc` and `ulimit -v`.

use server_core::admin::Admin;
use server_core::{Context, Kick, Packet, Server, Session};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A start fails within milliseconds; this is longer than a start takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Set in a process that has the limits.
const CHILD: &str = "START_TEST_CHILD";
const WORKERS: usize = 2;

struct Nobody;

impl Session for Nobody {
    fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
        Err(Kick::UnknownId)
    }
}

/// What a process has that a start may leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Belongings {
    threads: usize,
    descriptors: usize,
}

impl Belongings {
    fn of_this_process() -> Self {
        let count = |folder: &str| fs::read_dir(folder).unwrap().count();
        Self {
            threads: count("/proc/self/task"),
            descriptors: count("/proc/self/fd"),
        }
    }

    /// A joined thread is in the list for a moment longer.
    fn wait_until_left(&self) {
        let since = Instant::now();
        loop {
            let now = Self::of_this_process();
            if now == *self {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "{self:?} before, {now:?} after");
            thread::yield_now();
        }
    }
}

/// An address that is this process's own.
fn free_addr() -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let listener = TcpListener::bind(SocketAddr::from(([127, 77, high, low], 0))).unwrap();
    listener.local_addr().unwrap()
}

fn start(addr: Option<SocketAddr>) -> std::io::Result<Server> {
    let builder = Server::builder().workers(WORKERS);
    match addr {
        Some(addr) => builder.start(addr, |_| Nobody),
        None => builder.start_client(|_| Nobody),
    }
}

fn assert_closed(addr: SocketAddr) {
    let refused = TcpStream::connect(addr).unwrap_err().kind();
    assert_eq!(refused, ErrorKind::ConnectionRefused);
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs this test again, in a shell with these limits. Returns whether it passed, and its output.
fn run_again(test: &str, limits: &str, env: &[(&str, &str)]) -> (bool, String) {
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new("sh")
        .args(["-c", &format!("{limits} && exec \"$0\" \"$@\"")])
        .arg(program)
        .args(["--exact", &format!("start::{test}")])
        .args(["--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let since = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if since.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{test} hangs under `{limits}`");
        }
        thread::sleep(Duration::from_millis(5));
    }
    let mut said = String::new();
    (child.stdout.take().unwrap())
        .read_to_string(&mut said)
        .unwrap();
    (child.wait().unwrap().success(), said)
}

/// Each descriptor that a start opens is the one that is missing, once.
#[test]
fn start_without_enough_descriptors_leaves_no_thread_and_no_descriptor() {
    const NAME: &str = "start_without_enough_descriptors_leaves_no_thread_and_no_descriptor";
    if !is_child() {
        let (passed, said) = run_again(NAME, "ulimit -n 64", &[]);
        assert!(passed, "{said}");
        return;
    }
    let addr = free_addr();
    let worker = 2;
    // Its poll and its waker, then a socket.
    let (poll, listener) = (2, 3);
    let room_for_one = 1;
    for (addr, needed) in [
        (None, WORKERS * worker),
        (Some(addr), listener + room_for_one + WORKERS * worker),
    ] {
        let before = Belongings::of_this_process();
        for free in 0..needed {
            let held = all_descriptors_but(free);
            let error = start(addr).unwrap_err().to_string();
            drop(held);
            before.wait_until_left();
            assert!(error.contains("RLIMIT_NOFILE"), "{free} free: {error}");
            let step = match addr {
                Some(_) if free < poll => "cannot set up the listener: ".into(),
                Some(addr) if free < listener => format!("cannot listen on {addr}: "),
                Some(_) if free == listener => "cannot accept a connection: ".into(),
                _ => "cannot set up worker ".into(),
            };
            assert!(error.starts_with(&step), "{free} free: {error}");
            addr.into_iter().for_each(assert_closed);
        }
        drop(start(addr).unwrap());
        before.wait_until_left();
    }
    // An admin port needs a socket, its poll and its waker.
    let before = Belongings::of_this_process();
    for free in 0..3 {
        let held = all_descriptors_but(free);
        let error = Admin::builder().bind(addr).unwrap_err().to_string();
        drop(held);
        before.wait_until_left();
        let step = format!("cannot serve metrics on {addr}: ");
        assert!(error.starts_with(&step), "{free} free: {error}");
        assert!(error.contains("RLIMIT_NOFILE"), "{free} free: {error}");
        assert_closed(addr);
    }
    drop(Admin::builder().bind(addr).unwrap());
    before.wait_until_left();
}

/// Takes every descriptor, and gives these many back.
fn all_descriptors_but(free: usize) -> Vec<File> {
    let null = File::open("/dev/null").unwrap();
    let mut held: Vec<File> = std::iter::from_fn(|| null.try_clone().ok()).collect();
    held.push(null);
    held.truncate(held.len() - free);
    held
}

/// Each thread that a start begins is the one that is refused, once.
#[test]
fn start_without_enough_threads_leaves_no_thread_and_no_descriptor() {
    const NAME: &str = "start_without_enough_threads_leaves_no_thread_and_no_descriptor";
    if is_child() {
        let addr = free_addr();
        for addr in [None, Some(addr)] {
            let before = Belongings::of_this_process();
            println!("begin");
            match start(addr) {
                Ok(server) => {
                    drop(server);
                    println!("started");
                }
                Err(error) => println!("{error}"),
            }
            before.wait_until_left();
            addr.into_iter().for_each(assert_closed);
        }
        let before = Belongings::of_this_process();
        if let Err(error) = Admin::builder().bind(addr) {
            println!("{error}");
        }
        before.wait_until_left();
        assert_closed(addr);
        return;
    }
    // Each thread wants 1 GiB of address space for its stack, and the limit has room for N of them.
    let stack = [("RUST_MIN_STACK", "1073741824"), ("MALLOC_ARENA_MAX", "1")];
    let mut refused = BTreeSet::new();
    for threads in 0..8 {
        let limit = format!("ulimit -v {}", 700_000 + threads * (1 << 20));
        let (passed, said) = run_again(NAME, &limit, &stack);
        if !said.contains("begin") {
            continue; // This one could not even begin the test.
        }
        assert!(passed, "{said}");
        let errors: Vec<_> = said.split("cannot start thread `").skip(1).collect();
        if said.matches("started").count() == 2 {
            assert_eq!(
                refused,
                BTreeSet::from(["listener", "metrics", "worker-0", "worker-1"].map(String::from))
            );
            return;
        }
        for error in errors {
            let (name, why) = error.split_once('`').unwrap();
            assert!(
                why.lines().next().unwrap().contains("RLIMIT_NPROC"),
                "{why}"
            );
            refused.insert(name.to_owned());
        }
    }
    panic!("no start succeeded");
}

#[test]
fn failed_start_names_every_address_that_was_tried() {
    let taken = [0, 0].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    let addrs = taken.each_ref().map(|socket| socket.local_addr().unwrap());
    let builder = || Server::builder().workers(1);
    let error = builder().start(&addrs[..], |_| Nobody).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    for addr in addrs {
        let text = error.to_string();
        assert!(
            text.contains(&format!("cannot listen on {addr}: ")),
            "{text}"
        );
    }
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = builder().start(&[addrs[0], free][..], |_| Nobody).unwrap();
    assert!(!addrs.contains(&server.local_addr()));
    let error = builder().start(&[][..], |_| Nobody).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}
