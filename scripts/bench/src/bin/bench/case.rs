//! The cases: server, load and duration of each measurement.

use clap::ValueEnum;
use std::time::Duration;

/// A row of the tables: the same load for several servers.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name of the row; `--cases` matches it.
    pub name: String,
    /// The load.
    pub load: Load,
    /// Threads that serve connections.
    pub workers: usize,
    /// The servers of this case. The ratios compare the others with the first server.
    pub servers: Vec<Server>,
    /// Duration of the measurement.
    pub window: Duration,
}

/// The load of the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// `dummy_client` receives the ticks.
    Broadcast {
        sessions: usize,
        packet_bytes: usize,
        packets_per_tick: usize,
        tick_ms: u64,
    },
    /// `closed_loop --mode echo`.
    Echo { sessions: usize },
    /// `closed_loop --mode saturate`.
    Saturate { sessions: usize },
    /// `closed_loop --mode connect`.
    Connect { sessions: usize },
}

/// A server of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// The limit: `epoll_wait` and `send` alone.
    Bare,
    /// `game_server`; with several packets a tick, `server_core` in the program `ours`.
    Ours,
    /// A queue of vectors for each session.
    PlainMio,
    /// The idiomatic server on tokio.
    TokioBroadcast,
}

/// A set of cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Set {
    /// Checks that the benchmark works: a few sessions, half a second a case; the figures mean nothing
    Smoke,
    /// The main cases up to 1,000 sessions, in about three minutes
    Quick,
    /// Every case, in about half an hour
    Full,
}

const ALL: [Server; 4] = [
    Server::Bare,
    Server::Ours,
    Server::PlainMio,
    Server::TokioBroadcast,
];
/// The plain mio server has one thread.
const THREADED: [Server; 3] = [Server::Bare, Server::Ours, Server::TokioBroadcast];

impl Server {
    /// The head of the server's column.
    pub fn label(self) -> &'static str {
        match self {
            Self::Bare => "bare loop",
            Self::Ours => "ours",
            Self::PlainMio => "plain mio",
            Self::TokioBroadcast => "tokio broadcast",
        }
    }
}

impl Set {
    /// Number of rounds without `--rounds`.
    pub fn rounds(self) -> u32 {
        match self {
            Self::Smoke => 1,
            Self::Quick => 2,
            Self::Full => 3,
        }
    }

    /// The cases of this set.
    pub fn cases(self) -> Vec<Case> {
        match self {
            Self::Smoke => smoke(),
            Self::Quick => quick(),
            Self::Full => full(),
        }
    }
}

fn smoke() -> Vec<Case> {
    let mut cases = vec![
        broadcast(20, 64, 1, 1),
        broadcast(20, 1000, 10, 1),
        broadcast(20, 64, 10, 2),
        echo(20),
        saturate(20, 1),
        saturate(20, 2),
        connect(50),
    ];
    for case in &mut cases {
        case.window = Duration::from_millis(500);
    }
    cases
}

fn quick() -> Vec<Case> {
    let mut cases = vec![
        broadcast(100, 64, 1, 1),
        broadcast(1000, 64, 1, 1),
        broadcast(1000, 64, 10, 1),
        echo(100),
        saturate(1000, 1),
    ];
    for case in &mut cases {
        case.window = Duration::from_secs(3);
    }
    cases
}

fn full() -> Vec<Case> {
    let mut cases = Vec::new();
    for packet_bytes in [64, 1000] {
        for sessions in [100, 1000, 10_000] {
            for packets in [1, 10] {
                cases.push(broadcast(sessions, packet_bytes, packets, 1));
            }
        }
    }
    cases.extend([1, 10].map(|packets| broadcast(1000, 64, packets, 2)));
    cases.extend([100, 1000].map(echo));
    cases.extend([1, 2].map(|workers| saturate(1000, workers)));
    cases.push(connect(10_000));
    cases
}

/// The tick period is so long that even the slowest server is busy for a part of the time only, with several
/// packets a tick too. The period is the same for one packet a tick: half of the cost of a packet is data
/// that has left the caches since the last tick.
fn broadcast(
    sessions: usize,
    packet_bytes: usize,
    packets_per_tick: usize,
    workers: usize,
) -> Case {
    let (tick_ms, window_secs) = match sessions {
        0..500 => (15, 4),
        500..5000 => (150, 5),
        _ => (1500, 9),
    };
    Case {
        name: format!("broadcast {sessions} x {packet_bytes} B x {packets_per_tick}, {workers} w"),
        load: Load::Broadcast {
            sessions,
            packet_bytes,
            packets_per_tick,
            tick_ms,
        },
        workers,
        servers: servers(workers),
        window: Duration::from_secs(window_secs),
    }
}

fn echo(sessions: usize) -> Case {
    Case {
        name: format!("echo {sessions} x 64 B"),
        load: Load::Echo { sessions },
        workers: 1,
        servers: servers(1),
        window: Duration::from_secs(3),
    }
}

fn saturate(sessions: usize, workers: usize) -> Case {
    Case {
        name: format!("saturate {sessions} x 64 B, {workers} w"),
        load: Load::Saturate { sessions },
        workers,
        servers: servers(workers),
        window: Duration::from_secs(4),
    }
}

fn connect(sessions: usize) -> Case {
    Case {
        name: format!("connect {sessions}"),
        load: Load::Connect { sessions },
        workers: 1,
        servers: servers(1),
        window: Duration::ZERO,
    }
}

fn servers(workers: usize) -> Vec<Server> {
    match workers {
        1 => ALL.to_vec(),
        _ => THREADED.to_vec(),
    }
}
