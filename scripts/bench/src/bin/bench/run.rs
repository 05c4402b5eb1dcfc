//! One server, one load, one measurement.

use crate::case::{Case, Load, Server};
use crate::probe::Probe;
use crate::process::{Context, Cores, Program, STOPPED};
use crate::scrape::Metrics;
use bench::cpu::{CpuClock, ThreadTimes};
use bench::wire::HEADER_BYTES;
use nix::sys::signal::Signal;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// The outcome of one run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// Figures by name.
    Measured { figures: Figures },
    /// The load generator was the bottleneck, or did not get the processor time that it needed: the figures
    /// do not measure the server.
    Limited { why: String, figures: Figures },
    /// A packet was lost, or a program failed.
    Failed { why: String },
}

/// Figures by name; the unit is the end of the name.
pub type Figures = BTreeMap<&'static str, f64>;

/// Runs one server under one load.
///
/// # Errors
/// Fails only if the whole benchmark has to stop. The failure of a single run is the outcome of the run.
pub fn measure(context: &Context, case: &Case, server: Server) -> Result<Outcome, String> {
    let outcome = match case.load {
        Load::Broadcast { .. } => broadcast(context, case, server),
        Load::Echo { sessions } => closed_loop(context, case, server, "echo", sessions),
        Load::Saturate { sessions } => closed_loop(context, case, server, "saturate", sessions),
        Load::Connect { sessions } => closed_loop(context, case, server, "connect", sessions),
    };
    match outcome {
        Err(why) if why == STOPPED => Err(why),
        Err(why) => Ok(Outcome::Failed { why }),
        Ok((figures, None)) => Ok(Outcome::Measured { figures }),
        Ok((figures, Some(why))) => Ok(Outcome::Limited { why, figures }),
    }
}

/// The figures, and the reason why they are not valid. `None`: they are valid.
type Measurement = Result<(Figures, Option<String>), String>;

/// The open files of a server without a session. A server may open files after it has logged its address: the number
/// is taken when ten counts in a row agree.
fn idle_descriptors(context: &Context, server: &Program) -> Result<usize, String> {
    let (mut files, mut agreeing) = (server.descriptors()?, 1);
    context.until(
        Duration::from_secs(10),
        "a constant number of open files",
        || {
            let count = server.descriptors()?;
            agreeing = if count == files { agreeing + 1 } else { 1 };
            files = count;
            Ok(agreeing >= 10)
        },
    )?;
    Ok(files)
}

fn broadcast(context: &Context, case: &Case, server: Server) -> Measurement {
    let Load::Broadcast {
        sessions,
        packets_per_tick,
        ..
    } = case.load
    else {
        return Err("no broadcast".into());
    };
    let cores = context.cores_for(case.workers);
    let (server, addr) = start_server(context, case, server, &cores)?;
    let idle_files = idle_descriptors(context, &server)?;
    let idle_memory = server.resident_bytes()?;

    let mut args = words("--log-sessions 0 --json - --ramp-per-sec 4000");
    args.extend(["--addr".into(), addr.clone()]);
    args.extend(["--count".into(), sessions.to_string()]);
    let dummy_client = context.program("dummy_client");
    let mut client = Program::start(&dummy_client, &args, cores.client.as_deref())?;
    context.until(Duration::from_secs(60), "all sessions", || {
        if !client.is_running()? {
            return Err(client.last_words());
        }
        Ok(server.descriptors()? >= idle_files + sessions)
    })?;

    let mut probe = Probe::connect(&addr)?;
    let settled_at = Instant::now() + SETTLE;
    while Instant::now() < settled_at {
        probe.next_tick()?;
    }
    let server_clock = cpu_clock(&server)?;
    let (first, begin) = (probe.next_tick()?, Reading::of(&server, server_clock)?);
    let (last, end) = loop {
        context.check()?;
        let tick = probe.next_tick()?;
        if begin.at.elapsed() >= case.window {
            break (tick, Reading::of(&server, server_clock)?);
        }
    };
    let memory = server.resident_bytes()?;
    let metrics = logged_addr(&server.log(), "metrics on ")
        .map(|addr| Metrics::scrape(&addr))
        .transpose()?;

    client.signal(Signal::SIGINT);
    context.until(Duration::from_secs(30), "the client's end", || {
        client.is_running().map(|runs| !runs)
    })?;
    let summary: Value = serde_json::from_str(&client.output())
        .map_err(|error| format!("no summary: {error}; {}", client.last_words()))?;
    let number = |path: &str| {
        summary
            .pointer(path)
            .and_then(Value::as_f64)
            .unwrap_or(f64::NAN)
    };
    if summary["verdict"] == "failed" {
        return Err(format!("dummy_client failed: {}", summary["failures"]));
    }
    if last <= first {
        return Err("no ticks".into());
    }
    // All packets of a tick have to arrive, not only its hello. The end of the run may cut the last tick.
    let extra_due = number("/metrics/ticks_received/value") * (packets_per_tick - 1) as f64;
    let extra = number("/metrics/chats_received/value");
    if (extra - extra_due).abs() > (2 * sessions * packets_per_tick) as f64 {
        return Err(format!("{extra} chats received, {extra_due} expected"));
    }

    let packets = ((last - first) * packets_per_tick as u64 * (sessions as u64 + 1)) as f64;
    let mut figures = end.figures_since(&begin, packets);
    figures.insert("client_us_per_packet", number("/client/cpu_us_per_packet"));
    figures.insert("tick_spread_p50_ms", number("/metrics/tick_spread/p50"));
    figures.insert("tick_spread_p99_ms", number("/metrics/tick_spread/p99"));
    figures.insert("tick_delay_p99_ms", number("/metrics/tick_delay/p99"));
    let growth = memory.saturating_sub(idle_memory) as f64;
    figures.insert("memory_bytes_per_session", growth / (sessions + 1) as f64);
    for (name, histogram) in [
        ("tick_lag_p99_ms", "server_tick_lag_seconds"),
        ("broadcast_p99_ms", "server_broadcast_seconds"),
    ] {
        let p99 = metrics
            .as_ref()
            .and_then(|all| all.quantile(histogram, 0.99));
        figures.extend(p99.map(|secs| (name, secs * 1e3)));
    }
    let why = (summary["verdict"] == "client_limited")
        .then(|| format!("dummy_client is limited: {}", summary["client"]["reasons"]));
    Ok((figures, why))
}

fn closed_loop(
    context: &Context,
    case: &Case,
    server: Server,
    mode: &str,
    sessions: usize,
) -> Measurement {
    let cores = context.cores_for(case.workers);
    let (server, addr) = start_server(context, case, server, &cores)?;
    let mut args = words(&format!("--mode {mode}"));
    args.extend(["--addr".into(), addr]);
    args.extend(["--sessions".into(), sessions.to_string()]);
    args.extend(["--secs".into(), case.window.as_secs_f64().to_string()]);
    args.extend(["--server-pid".into(), server.pid().to_string()]);
    let load = context.rival("closed_loop");
    let mut client = Program::start(&load, &args, cores.client.as_deref())?;
    context.until(case.window + Duration::from_secs(60), "the load", || {
        client.is_running().map(|runs| !runs)
    })?;
    if !client.status()?.is_some_and(|status| status.success()) {
        return Err(format!("{}; {}", client.last_words(), server.last_words()));
    }
    let result: Value =
        serde_json::from_str(&client.output()).map_err(|error| format!("no result: {error}"))?;
    let number = |name: &str| result[name].as_f64().unwrap_or(f64::NAN);
    let (packets, secs) = (number("packets"), number("secs"));
    let mut figures = Figures::from([
        (
            "cpu_us_per_packet",
            number("server_cpu_secs") * 1e6 / packets,
        ),
        (
            "thread_us_per_packet",
            number("busiest_thread_secs") * 1e6 / packets,
        ),
        ("packets_per_sec", packets / secs),
        ("server_cores", number("server_cpu_secs") / secs),
        (
            "client_us_per_packet",
            number("client_cpu_secs") * 1e6 / packets,
        ),
        ("client_cores", number("client_cpu_secs") / secs),
    ]);
    for name in ["round_trip_p50_ms", "round_trip_p99_ms"] {
        figures.insert(name, number(name));
    }
    figures.retain(|_, value| value.is_finite());
    // The slower of server and client bounds the speed of a closed loop; other processes may bound it too. The
    // run measures the server's throughput only if the server was the bottleneck.
    let server_cores = figures["server_cores"];
    let least = match case.load {
        Load::Saturate { .. } => MIN_BUSY,
        // An echo costs the generator as much time as the bare loop, so the server may be idle at times. Its
        // CPU time for each round trip does not depend on that.
        Load::Echo { .. } => MIN_BUSY - 0.3,
        _ => 0.0,
    };
    let is_rate = server_cores >= MIN_BUSY || cores.server.is_none();
    if !is_rate {
        figures.insert("packets_per_sec", NOT_TO_BE_BELIEVED);
    }
    let why = (server_cores < least && cores.server.is_some()).then(|| {
        let client_cores = figures["client_cores"];
        format!("the server used {server_cores:.2} cores, the load generator {client_cores:.2}")
    });
    Ok((figures, why))
}

/// The value of a figure that a successful run did not measure.
pub const NOT_TO_BE_BELIEVED: f64 = f64::NAN;
/// Wait after the last session has connected.
const SETTLE: Duration = Duration::from_millis(500);
/// The least share of its core that a server must use in a closed loop. Below this share the server was not
/// the bottleneck.
const MIN_BUSY: f64 = 0.9;

fn start_server(
    context: &Context,
    case: &Case,
    server: Server,
    cores: &Cores,
) -> Result<(Program, String), String> {
    let (packet_bytes, packets_per_tick, tick_ms) = match case.load {
        Load::Broadcast {
            packet_bytes,
            packets_per_tick,
            tick_ms,
            ..
        } => (packet_bytes, packets_per_tick, tick_ms),
        _ => (64, 1, 0),
    };
    let payload_bytes = packet_bytes - HEADER_BYTES;
    let mut args = words(&format!(
        "--addr 127.0.0.1:0 --tick-ms {tick_ms} --payload-bytes {payload_bytes} --workers {}",
        case.workers
    ));
    let path = match server {
        Server::Ours if packets_per_tick == 1 => {
            args.extend(words("--max-chats-per-sec 0 --metrics-addr 127.0.0.1:0"));
            context.program("game_server")
        }
        _ => {
            args.extend(words(&format!("--packets-per-tick {packets_per_tick}")));
            context.rival(match server {
                Server::Bare => "bare",
                Server::Ours => "ours",
                Server::PlainMio => "plain_mio",
                Server::TokioBroadcast => "tokio_broadcast",
            })
        }
    };
    let mut program = Program::start(&path, &args, cores.server.as_deref())?;
    let mut addr = None;
    context.until(Duration::from_secs(10), "the server to listen", || {
        let log = program.log();
        let line = log
            .lines()
            .find_map(|line| line.split_once("listening on "));
        addr = line.map(|(_, addr)| addr.trim().to_owned());
        match program.is_running()? {
            true => Ok(addr.is_some()),
            false => Err(program.last_words()),
        }
    })?;
    Ok((program, addr.unwrap_or_default()))
}

/// The address that a server logs behind these words.
fn logged_addr(log: &str, words: &str) -> Option<String> {
    let line = log.lines().find_map(|line| line.split_once(words));
    line.map(|(_, addr)| addr.trim().to_owned())
}

/// The server's clocks at one instant.
struct Reading {
    at: Instant,
    cpu: Duration,
    threads: ThreadTimes,
}

impl Reading {
    fn of(server: &Program, clock: CpuClock) -> Result<Self, String> {
        let read = || {
            Ok(Self {
                at: Instant::now(),
                cpu: clock.read()?,
                threads: ThreadTimes::of(server.pid())?,
            })
        };
        read().map_err(|_: std::io::Error| server.last_words())
    }

    fn figures_since(&self, begin: &Self, packets: f64) -> Figures {
        let secs = (self.at - begin.at).as_secs_f64();
        let cpu_secs = (self.cpu - begin.cpu).as_secs_f64();
        let busiest_secs = self.threads.busiest_since(&begin.threads).as_secs_f64();
        Figures::from([
            ("cpu_us_per_packet", cpu_secs * 1e6 / packets),
            ("thread_us_per_packet", busiest_secs * 1e6 / packets),
            ("packets_per_sec", packets / secs),
            ("server_cores", cpu_secs / secs),
        ])
    }
}

fn cpu_clock(server: &Program) -> Result<CpuClock, String> {
    CpuClock::of(server.pid()).map_err(|_| server.last_words())
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(String::from).collect()
}

impl Outcome {
    /// A figure of the run. `None`: the figure is not valid or not measured.
    pub fn figure(&self, name: &str) -> Option<f64> {
        match self {
            Self::Measured { figures } => figures.get(name).copied(),
            Self::Limited { .. } | Self::Failed { .. } => None,
        }
    }

    /// Returns whether the run measured this figure, valid or not.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Measured { figures } | Self::Limited { figures, .. } => {
                figures.contains_key(name)
            }
            Self::Failed { .. } => false,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (figures, note) = match self {
            Self::Measured { figures } => (figures, String::new()),
            Self::Limited { why, figures } => (figures, format!(" LIMITED: {why}")),
            Self::Failed { why } => return write!(f, "FAILED: {why}"),
        };
        for (index, (name, value)) in figures.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{name} {value:.3}")?;
        }
        write!(f, "{note}")
    }
}
