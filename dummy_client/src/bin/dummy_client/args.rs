//! The command line.

use crate::attack::Attack;
use crate::bot::Requests;
use crate::load::shape::{MAX_SESSIONS, Shape, Stages};
use crate::report_page::ReportPage;
use crate::result::assertion::Assertion;
use crate::result::compare::Compare;
use crate::result::summary::Summary;
use clap::builder::RangedU64ValueParser;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand, value_parser};
use game_server::packets::MAX_CHAT_BYTES;
use server_core::host::{Addresses, parse_addrs, parse_seconds};
use server_core::wire::MAX_PAYLOAD_BYTES;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Opens N connections to a game server, logs the received packets, and checks every packet: tick gaps,
/// repeats, order and text on every session, echoes byte for byte.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// A command in place of a run
    #[command(subcommand)]
    pub command: Option<Command>,

    /// The server. A name with several addresses: the first address that accepts a connection
    #[arg(long, env = "DUMMY_CLIENT_ADDR", default_value = "127.0.0.1:7777", value_parser = parse_addrs)]
    #[arg(help_heading = "Network", value_name = "HOST:PORT")]
    pub addr: Addresses,

    /// Connections to open; with --find-capacity, the most to try [default: 5, or the limit of open files]
    #[arg(long, env = "DUMMY_CLIENT_COUNT", value_parser = RangedU64ValueParser::<usize>::new().range(1..=MAX_SESSIONS as u64))]
    #[arg(help_heading = "Load", value_name = "N")]
    pub count: Option<usize>,

    /// Duration of the run [default: until Ctrl-C, or the end of the last stage]
    #[arg(long, env = "DUMMY_CLIENT_DURATION_SECS", value_parser = parse_seconds)]
    #[arg(help_heading = "Load", value_name = "SECS")]
    pub duration_secs: Option<Duration>,

    /// New connections a second; 0: no limit
    #[arg(long, env = "DUMMY_CLIENT_RAMP_PER_SEC", default_value_t = 0, value_parser = value_parser!(u32).range(0..=1_000_000))]
    #[arg(help_heading = "Load", value_name = "N")]
    pub ramp_per_sec: u32,

    /// Event loops, one thread each
    #[arg(long, env = "DUMMY_CLIENT_THREADS", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    #[arg(help_heading = "Network", value_name = "N")]
    pub threads: usize,

    /// Number of sessions that log each packet, or `all`; the packets of the others are counted
    #[arg(long, env = "DUMMY_CLIENT_LOG_SESSIONS", default_value = "5")]
    #[arg(help_heading = "Output", value_name = "N|all")]
    pub log_sessions: LogSessions,

    /// Echo requests a second that each session sends, on a fixed schedule; 0: none
    #[arg(long, env = "DUMMY_CLIENT_ECHO_HZ", default_value_t = 0.0, value_parser = parse_hz)]
    #[arg(help_heading = "Load", value_name = "HZ")]
    pub echo_hz: f64,

    /// Chats a second that each session sends, on a fixed schedule; 0: none. Each chat reaches all sessions
    ///
    /// A game_server delays and drops chats over the budget of their address; dropped chats count as lost.
    /// Start it with --max-chats-per-ip-per-sec 0 if all sessions together send more than 40 a second.
    #[arg(long, env = "DUMMY_CLIENT_CHAT_HZ", default_value_t = 0.0, value_parser = parse_hz)]
    #[arg(help_heading = "Load", value_name = "HZ")]
    pub chat_hz: f64,

    /// Payload of each echo request, and of each chat (18 to 512 bytes: a chat begins with a mark)
    #[arg(long, env = "DUMMY_CLIENT_PAYLOAD_BYTES", default_value_t = 32, value_parser = RangedU64ValueParser::<usize>::new().range(0..=MAX_PAYLOAD_BYTES as u64))]
    #[arg(help_heading = "Load", value_name = "BYTES")]
    pub payload_bytes: usize,

    /// Every session stays connected for a random time between MIN and MAX, closes, and reconnects
    #[arg(long, env = "DUMMY_CLIENT_CHURN_MS")]
    #[arg(help_heading = "Load", value_name = "MIN..MAX")]
    pub churn_ms: Option<Churn>,

    /// Ramp linearly through stages of SESSIONS:DURATION; replaces --count
    #[arg(long, env = "DUMMY_CLIENT_STAGES", conflicts_with_all = ["count", "ramp_per_sec"])]
    #[arg(help_heading = "Load", value_name = "SESSIONS:DURATION,...")]
    pub stages: Option<Stages>,

    /// Step the sessions up until an --assert [default: lost==0, ticks_skipped==0 and
    /// tick_delay_p99<50ms] breaks, a session is lost or a packet is wrong; print the largest step that held
    #[arg(long, env = "DUMMY_CLIENT_FIND_CAPACITY", conflicts_with_all = ["stages", "duration_secs", "ramp_per_sec", "churn_ms"])]
    #[arg(help_heading = "Load")]
    pub find_capacity: bool,

    /// Reconnect after a loss, with backoff and jitter
    #[arg(long, env = "DUMMY_CLIENT_RECONNECT")]
    #[arg(help_heading = "Load")]
    pub reconnect: bool,

    /// Run attackers beside the healthy sessions, after a measurement without attackers. Fails if a healthy
    /// session lost, repeated or waited for a tick, or if an attacker stayed that the server should kick
    #[arg(
        long,
        env = "DUMMY_CLIENT_ATTACK",
        value_enum,
        hide_possible_values = true
    )]
    #[arg(conflicts_with_all = ["find_capacity", "stages"])]
    #[arg(help_heading = "Attack", value_name = "NAME")]
    pub attack: Option<Attack>,

    /// Number of attackers [default: 20; chat-burst: 150; ask-and-not-read, silent-flood: 1000]
    #[arg(long, env = "DUMMY_CLIENT_ATTACKERS", value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000))]
    #[arg(help_heading = "Attack", value_name = "N")]
    pub attackers: Option<usize>,

    /// Fail unless this holds at the end, for example 'tick_delay_p99<50ms' or 'lost==0'; repeatable. Takes
    /// every number of the JSON summary except those of settings, machine, capacity and lists
    #[arg(long = "assert", env = "DUMMY_CLIENT_ASSERT", value_parser = parse_assertion)]
    #[arg(help_heading = "Output", value_name = "EXPR")]
    pub assertions: Vec<Assertion>,

    /// Write the summary as JSON; `-` writes it to standard output in place of the text
    #[arg(long, env = "DUMMY_CLIENT_JSON")]
    #[arg(help_heading = "Output", value_name = "FILE|-")]
    pub json: Option<String>,

    /// Write a page with plots that needs no network
    #[arg(long, env = "DUMMY_CLIENT_REPORT", value_parser = parse_report)]
    #[arg(help_heading = "Output", value_name = "FILE.html")]
    pub report: Option<String>,

    /// Seed of payloads, churn, jitter and attacks [default: random; printed]
    #[arg(long, env = "DUMMY_CLIENT_SEED")]
    #[arg(help_heading = "Load", value_name = "N")]
    pub seed: Option<u64>,

    /// Check whether this machine can do what the other flags ask for, print a table, and exit
    #[arg(long, env = "DUMMY_CLIENT_CHECK")]
    #[arg(help_heading = "Output")]
    pub check: bool,
}

/// What this program does besides a run.
#[derive(Debug, Subcommand)]
pub enum Command {
    Compare(Compare),
    Report(ReportPage),
    /// Print the JSON schema of the summary
    Schema,
}

const AFTER_HELP: &str = "\
Verdict: ok, failed, or client_limited (the server did nothing wrong, but the client stalled or was too
busy to measure the server).
Exit status: 0 if all sessions connected and nothing was lost; 1 if a session failed or was lost, a tick
was missing, repeated or out of order, a text, an echo or a chat was wrong, or an assertion broke; 2
for bad usage, or if a limit of this machine is too low. With --check: 0 if no check failed, 2 if a check
failed.
The result goes to standard output, logs go to standard error (RUST_LOG changes their level,
NO_COLOR is respected).

Attacks: zero-size, short-size, huge-size, unknown-id, server-id, id-sweep, bad-utf8, slowloris,
no-read, echo-flood, chat-flood, rst-storm, half-close, connect-flood, garbage, chat-churn,
chat-burst, ask-and-not-read, silent-flood.
  chat-churn        connects, sends the permitted burst of 20 chats, leaves, over and over
  chat-burst        idle sessions send the permitted burst of 20 chats at one moment, and leave
  ask-and-not-read  sends echo requests of 60,000 bytes and does not read the answers
  silent-flood      connections that send nothing; once a second a newcomer connects and sends an echo, and
                    the summary has the time to its answer (attack.newcomers)
In every attack 12 more healthy sessions read every 10, 20, 33 or 50 ms (attack.neighbours). A lost
neighbour and a missed tick are failures.

Examples:
  dummy_client --count 1000
  dummy_client --count 10000 --threads 2 --duration-secs 30 --json result.json
  dummy_client --count 200 --echo-hz 20 --payload-bytes 100 --log-sessions 0
  dummy_client --stages 1000:30s,5000:60s,0:10s --assert 'tick_delay_p99<50ms' --assert 'lost==0'
  dummy_client --count 200 --duration-secs 60 --attack slowloris --attackers 50
  dummy_client --find-capacity --assert 'tick_delay_p99<20ms'
  dummy_client --count 1000 --duration-secs 60 --echo-hz 1 --report report.html
  dummy_client --check --count 30000
  dummy_client compare before.json after.json";

const DEFAULT_COUNT: usize = 5;
const CAPACITY_ASSERTIONS: [&str; 3] = ["lost==0", "ticks_skipped==0", "tick_delay_p99<50ms"];

/// How many sessions log each of their packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSessions(pub usize);

impl FromStr for LogSessions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self(usize::MAX)),
            number => number
                .parse()
                .map(Self)
                .map_err(|_| "expected a number of sessions, or `all`".into()),
        }
    }
}

/// How long a session stays before it leaves: `MIN..MAX`, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Churn {
    min_ms: u64,
    max_ms: u64,
}

impl Churn {
    /// A random time between the two.
    pub fn draw(&self, rng: &mut fastrand::Rng) -> Duration {
        Duration::from_millis(rng.u64(self.min_ms..=self.max_ms))
    }
}

impl FromStr for Churn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse().ok().filter(|ms| *ms <= MAX_CHURN_MS);
        let parts = text.split_once("..");
        let parts = parts.and_then(|(min, max)| Some((number(min)?, number(max)?)));
        match parts {
            Some((min_ms, max_ms)) if min_ms <= max_ms => Ok(Self { min_ms, max_ms }),
            _ => Err(format!(
                "expected MIN..MAX in milliseconds, 0 to {MAX_CHURN_MS}, for example 500..5000"
            )),
        }
    }
}

impl fmt::Display for Churn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.min_ms, self.max_ms)
    }
}

const MAX_CHURN_MS: u64 = 24 * 60 * 60 * 1000;

fn parse_assertion(text: &str) -> Result<Assertion, String> {
    Assertion::parse(text, &Summary::blank_metrics())
}

fn parse_hz(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(0.0) => Ok(0.0),
        Ok(hz @ 0.001..=100_000.0) => Ok(hz),
        _ => Err("expected 0, or 0.001 to 100000 a second".into()),
    }
}

fn parse_report(text: &str) -> Result<String, String> {
    match text {
        "" | "-" => Err("expected a file, for example report.html".into()),
        file => Ok(file.into()),
    }
}

impl Args {
    /// Reads the command line; bad usage ends the process with status 2.
    pub fn from_command_line() -> Self {
        let mut args = Self::parse();
        args.seed.get_or_insert_with(|| fastrand::u64(..));
        if args.find_capacity && args.assertions.is_empty() {
            let defaults = CAPACITY_ASSERTIONS.map(parse_assertion);
            // They are constants, and a test reads them.
            args.assertions = defaults.into_iter().flatten().collect();
        }
        if args.command.is_none()
            && let Err(why) = args.check()
        {
            Self::command()
                .error(ErrorKind::ValueValidation, why)
                .exit();
        }
        args
    }

    fn check(&self) -> Result<(), String> {
        if self.chat_hz > 0.0 && self.payload_bytes > MAX_CHAT_BYTES {
            return Err(format!(
                "a chat has at most {MAX_CHAT_BYTES} bytes: lower --payload-bytes"
            ));
        }
        let (count, rate) = (self.count.unwrap_or(DEFAULT_COUNT), self.ramp_per_sec);
        let needed_secs = (count - 1) as f64 / f64::from(rate.max(1));
        if rate > 0
            && self
                .duration_secs
                .is_some_and(|all| all.as_secs_f64() < needed_secs)
        {
            return Err(format!(
                "{count} sessions at {rate} a second take {needed_secs:.1} s, which is longer than \
                 --duration-secs"
            ));
        }
        Ok(())
    }

    /// How many sessions there are when; `None` for a search for the capacity.
    pub fn shape(&self) -> Option<Shape> {
        match &self.stages {
            _ if self.find_capacity => None,
            Some(stages) => Some(Shape::stages(stages, self.duration_secs)),
            None => Some(Shape::steady(
                self.count.unwrap_or(DEFAULT_COUNT),
                self.ramp_per_sec,
                self.duration_secs,
            )),
        }
    }

    /// How many sessions there will be at the most; `None` if that is left to this machine.
    pub fn max_sessions(&self) -> Option<usize> {
        match self.shape() {
            Some(shape) => Some(shape.max()),
            None => self.count,
        }
    }

    /// What each session sends.
    pub fn requests(&self) -> Requests {
        let period = |hz: f64| (hz > 0.0).then(|| Duration::from_secs_f64(1.0 / hz));
        Requests {
            echo_period: period(self.echo_hz),
            chat_period: period(self.chat_hz),
            payload_bytes: self.payload_bytes,
            seed: self.seed(),
        }
    }

    /// How many attackers this attack has.
    pub fn attackers(&self, attack: Attack) -> usize {
        self.attackers.unwrap_or_else(|| attack.default_attackers())
    }

    /// What has to hold at the end.
    pub fn assertions(&self) -> &[Assertion] {
        &self.assertions
    }

    /// The seed: given, or drawn at the start.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(["dummy_client"].iter().chain(args))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
        let args = parse(&[]).unwrap();
        assert_eq!((args.threads, args.payload_bytes), (1, 32));
        assert_eq!(args.max_sessions(), Some(5));
        assert_eq!(args.log_sessions, LogSessions(5));
        let requests = args.requests();
        assert!(requests.echo_period.is_none() && requests.chat_period.is_none());
    }

    #[test]
    fn values_out_of_range_are_bad_usage() {
        for bad in [
            "--count=0",
            "--threads=0",
            "--payload-bytes=65532",
            "--echo-hz=-1",
            "--echo-hz=nan",
            "--echo-hz=1e-30",
            "--log-sessions=some",
            "--duration-secs=soon",
            "--addr=nowhere",
            "--chat-hz=-1",
            "--churn-ms=5",
            "--churn-ms=9..5",
            "--stages=1000",
            "--stages=0:5s",
            "--assert=lost",
            "--assert=lots==0",
            "--assert=lost==0ms",
            "--report=-",
        ] {
            assert_eq!(parse(&[bad]).unwrap_err().exit_code(), 2, "{bad}");
        }
        for bad in [
            ["--stages=5:1s", "--count=5"],
            ["--find-capacity", "--stages=5:1s"],
            ["--find-capacity", "--duration-secs=5"],
        ] {
            assert_eq!(parse(&bad).unwrap_err().exit_code(), 2, "{bad:?}");
        }
        assert_eq!(
            parse(&["--log-sessions=all"]).unwrap().log_sessions.0,
            usize::MAX
        );
    }
    #[test]
    fn a_search_for_the_capacity_has_assertions_and_no_shape() {
        for text in CAPACITY_ASSERTIONS {
            assert!(parse_assertion(text).is_ok(), "{text}");
        }
        let args = parse(&["--find-capacity"]).unwrap();
        assert!(args.shape().is_none() && args.max_sessions().is_none());
        let args = parse(&["--find-capacity", "--count=300"]).unwrap();
        assert_eq!(args.max_sessions(), Some(300));
    }

    #[test]
    fn an_attack_has_a_number_of_attackers_of_its_own() {
        let attackers = |flags: &[&str]| {
            let args = parse(flags).unwrap();
            args.attackers(args.attack.unwrap())
        };
        for (name, expected) in [
            ("zero-size", 20),
            ("chat-churn", 20),
            ("chat-burst", 150),
            ("ask-and-not-read", 1000),
            ("silent-flood", 1000),
        ] {
            assert_eq!(attackers(&["--attack", name]), expected, "{name}");
            assert_eq!(attackers(&["--attack", name, "--attackers=7"]), 7, "{name}");
        }
    }

    #[test]
    fn the_help_names_every_attack() {
        for attack in Attack::value_variants() {
            let name = attack.name();
            assert!(AFTER_HELP.contains(&name), "{name}");
        }
    }

    #[test]
    fn churn_is_drawn_from_its_range() {
        let churn: Churn = "20..30".parse().unwrap();
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..100 {
            assert!((20..=30).contains(&churn.draw(&mut rng).as_millis()));
        }
        assert_eq!(churn.to_string(), "20..30");
    }
}
