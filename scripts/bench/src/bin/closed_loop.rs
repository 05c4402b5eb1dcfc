//! The load generator without a schedule. `dummy_client` sends a request when the request is due;
//! `closed_loop` sends the next request when the last response has arrived, so that the server is fully busy.
//!
//! * `echo`: each session always has one echo request in flight.
//! * `saturate`: one session sends a chat to all sessions. A round is over when each session has received
//!   the chat. `--rounds` rounds are always in flight.
//! * `connect`: sessions connect, and each session sends one echo request. A session counts when its echo
//!   has arrived: the server has accepted the session and serves it. At most `--connects` connections are
//!   in flight.
//!
//! Every mode begins with the step of `connect`: a round that begins before every session is connected would
//! never be over.
//!
//! The generator has one thread and one level-triggered `epoll`, and calls one `recv` for each readiness
//! event. It checks the id and the size of each packet. In `saturate` it checks that each session receives
//! each round once and in order.

use bench::cpu::{CpuClock, ThreadTimes};
use bench::frames::Frames;
use bench::wire::{C_CHAT, C_ECHO, HEADER_BYTES, S_CHAT, S_ECHO, packet};
use clap::{Parser, ValueEnum};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde_json::json;
use server_core::host;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The load generator of the benchmark for closed loops.
#[derive(Debug, Parser)]
struct Args {
    #[arg(long, value_parser = host::parse_addr)]
    addr: SocketAddr,
    #[arg(long)]
    mode: Mode,
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    sessions: u32,
    /// The size of each packet that is sent to a session, header included
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(32..=500))]
    packet_bytes: u16,
    /// Number of rounds in flight
    #[arg(long, default_value_t = 8)]
    rounds: usize,
    /// Number of connections in flight
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    connects: u32,
    /// Seconds before the measurement
    #[arg(long, default_value = "0.5", value_parser = host::parse_seconds)]
    warm_up_secs: Duration,
    #[arg(long, default_value = "3", value_parser = host::parse_seconds)]
    secs: Duration,
    /// Process whose CPU time is measured
    #[arg(long)]
    server_pid: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Echo,
    Saturate,
    Connect,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let _ = host::raise_fd_limit();
    match run(&args) {
        Ok(result) => {
            println!("{result}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            host::print_error("closed_loop", error);
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> io::Result<serde_json::Value> {
    let mut load = Load::new(args)?;
    let clock = Clock::new(args.server_pid)?;
    let before = clock.read()?;
    load.connect_all()?;
    if args.mode == Mode::Connect {
        return before.until(&clock.read()?, load.answered, &mut []);
    }
    load.is_joined = true;
    match args.mode {
        Mode::Saturate => (0..args.rounds).try_for_each(|_| load.begin_round())?,
        _ => (0..load.sessions.len()).try_for_each(|key| load.request_echo(key))?,
    }
    load.run_until(Instant::now() + args.warm_up_secs)?;
    load.round_trips.clear();
    let (before, answered) = (clock.read()?, load.answered);
    load.run_until(Instant::now() + args.secs)?;
    let answered = load.answered - answered;
    if answered == 0 {
        return Err(io::Error::other("no packet while measuring"));
    }
    before.until(&clock.read()?, answered, &mut load.round_trips)
}

struct Load<'a> {
    args: &'a Args,
    epoll: Epoll,
    events: Vec<EpollEvent>,
    input: Vec<u8>,
    sessions: Vec<Peer>,
    /// The server has answered an echo of every session.
    is_joined: bool,
    /// Number of packets that have arrived.
    answered: u64,
    /// The first round that is not over. `lacking` has the number of sessions that lack this round, and each
    /// later round.
    first_round: u64,
    lacking: VecDeque<usize>,
    next_round: u64,
    round_trips: Vec<u32>,
}

struct Peer {
    stream: TcpStream,
    frames: Frames,
    asked_at: Instant,
    next_round: u64,
}

impl<'a> Load<'a> {
    fn new(args: &'a Args) -> io::Result<Self> {
        Ok(Self {
            args,
            epoll: Epoll::new(EpollCreateFlags::empty())?,
            events: vec![EpollEvent::empty(); 1024],
            input: vec![0; 64 << 10],
            sessions: Vec::new(),
            is_joined: false,
            answered: 0,
            first_round: 0,
            lacking: VecDeque::new(),
            next_round: 0,
            round_trips: Vec::new(),
        })
    }

    /// Connects all sessions, and waits for an echo on each session.
    fn connect_all(&mut self) -> io::Result<()> {
        for key in 0..u64::from(self.args.sessions) {
            while key - self.answered >= u64::from(self.args.connects) {
                self.turn(None)?;
            }
            let stream = TcpStream::connect_timeout(&self.args.addr, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            self.epoll
                .add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, key))?;
            self.sessions.push(Peer {
                stream,
                frames: Frames::default(),
                asked_at: Instant::now(),
                next_round: 0,
            });
            self.request_echo(key as usize)?;
        }
        while self.answered < u64::from(self.args.sessions) {
            self.turn(None)?;
        }
        Ok(())
    }

    fn request_echo(&mut self, key: usize) -> io::Result<()> {
        let filler = vec![b'e'; usize::from(self.args.packet_bytes) - HEADER_BYTES];
        let peer = &mut self.sessions[key];
        peer.asked_at = Instant::now();
        send(&mut peer.stream, &packet(C_ECHO, &[], &filler))
    }

    fn begin_round(&mut self) -> io::Result<()> {
        // The packet that arrives has eight bytes more: the sender.
        let width = usize::from(self.args.packet_bytes) - HEADER_BYTES - size_of::<u64>();
        let text = format!("{:0width$}", self.next_round);
        self.next_round += 1;
        self.lacking.push_back(self.sessions.len());
        send(
            &mut self.sessions[0].stream,
            &packet(C_CHAT, &[], text.as_bytes()),
        )
    }

    fn run_until(&mut self, end: Instant) -> io::Result<()> {
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            self.turn(Some(end - now))?;
        }
    }

    /// Waits for input and handles it. Fails if no input arrives for [`PATIENCE`].
    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = EpollTimeout::try_from(timeout.unwrap_or(PATIENCE).min(PATIENCE))
            .unwrap_or(EpollTimeout::ZERO);
        let count = match self.epoll.wait(&mut self.events, timeout) {
            Err(nix::errno::Errno::EINTR) => return Ok(()),
            other => other?,
        };
        if count == 0 && timeout.as_millis() == Some(PATIENCE.as_millis() as u32) {
            return Err(io::Error::other("no packet from the server for 5 s"));
        }
        for at in 0..count {
            self.read(self.events[at].data() as usize)?;
        }
        Ok(())
    }

    fn read(&mut self, key: usize) -> io::Result<()> {
        let peer = &mut self.sessions[key];
        let bytes = match peer.stream.read(&mut self.input) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => &self.input[..count],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let is_saturation = self.is_joined && self.args.mode == Mode::Saturate;
        let payload_bytes = usize::from(self.args.packet_bytes) - HEADER_BYTES;
        let (mut came, mut is_right) = (0, true);
        let fed = peer.frames.feed(bytes, |id, payload| {
            came += 1;
            is_right &= payload.len() == payload_bytes
                && match is_saturation {
                    true => id == S_CHAT && round_of(payload) == Some(peer.next_round + came - 1),
                    false => id == S_ECHO,
                };
        });
        if fed.is_err() || !is_right {
            return Err(io::Error::other("unexpected packet"));
        }
        self.answered += came;
        if is_saturation {
            let first = (peer.next_round - self.first_round) as usize;
            peer.next_round += came;
            let rounds = first..first + came as usize;
            self.lacking
                .range_mut(rounds)
                .for_each(|lacking| *lacking -= 1);
            while self.lacking.front() == Some(&0) {
                self.lacking.pop_front();
                self.first_round += 1;
                self.begin_round()?;
            }
        } else if self.is_joined && came > 0 {
            let micros = peer.asked_at.elapsed().as_micros();
            self.round_trips.push(micros.try_into().unwrap_or(u32::MAX));
            self.request_echo(key)?;
        }
        Ok(())
    }
}

/// The run fails if no packet arrives for this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// The packet is small: a socket that does not accept the whole packet is an error.
fn send(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    match stream.write(bytes)? {
        count if count == bytes.len() => Ok(()),
        _ => Err(io::Error::other("a socket took a part of a packet")),
    }
}

/// The number in the text of a chat. The text follows the sender id.
fn round_of(payload: &[u8]) -> Option<u64> {
    let text = payload.get(size_of::<u64>()..)?;
    text.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

struct Clock {
    server_pid: u32,
    server: CpuClock,
    client: CpuClock,
}

struct Reading {
    at: Instant,
    server: Duration,
    client: Duration,
    threads: ThreadTimes,
}

impl Clock {
    fn new(server_pid: u32) -> io::Result<Self> {
        Ok(Self {
            server_pid,
            server: CpuClock::of(server_pid)?,
            client: CpuClock::of(std::process::id())?,
        })
    }

    fn read(&self) -> io::Result<Reading> {
        Ok(Reading {
            at: Instant::now(),
            server: self.server.read()?,
            client: self.client.read()?,
            threads: ThreadTimes::of(self.server_pid)?,
        })
    }
}

impl Reading {
    fn until(
        &self,
        end: &Self,
        packets: u64,
        round_trips: &mut [u32],
    ) -> io::Result<serde_json::Value> {
        round_trips.sort_unstable();
        let quantile = |share: f64| {
            let at = (round_trips.len() as f64 * share) as usize;
            round_trips.get(at).map(|micros| f64::from(*micros) / 1e3)
        };
        Ok(json!({
            "packets": packets,
            "secs": (end.at - self.at).as_secs_f64(),
            "server_cpu_secs": (end.server - self.server).as_secs_f64(),
            "busiest_thread_secs": end.threads.busiest_since(&self.threads).as_secs_f64(),
            "client_cpu_secs": (end.client - self.client).as_secs_f64(),
            "round_trip_p50_ms": quantile(0.5),
            "round_trip_p99_ms": quantile(0.99),
        }))
    }
}
