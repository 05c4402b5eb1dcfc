//! The command line, and the run that it asks for.

use crate::compare::Compare;
use crate::game_attacks::GameAttack;
use crate::game_scenario::Workload;
use crate::merge::Merge;
use crate::report_page::ReportPage;
use clap::builder::{RangedU64ValueParser, Resettable};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, value_parser};
use dummy_client::attack::{Attack, Layer};
use dummy_client::executor::{LoadProfile, MAX_SESSIONS, Stages};
use dummy_client::{Error, Executor, RunConfig, Share, Target, Transport, Trust};
use game_server::packets::MAX_CHAT_BYTES;
use serde_json::{Value, json};
use server_core::Framing;
use server_core::host::parse_seconds;
use server_core::wire::MAX_PAYLOAD_BYTES;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
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

    /// The server: HOST:PORT, tls://HOST:PORT, ws://HOST:PORT/PATH or wss://HOST:PORT/PATH. A name with several
    /// addresses: the first address that accepts a connection
    #[arg(long, env = "DUMMY_CLIENT_ADDR", default_value = "127.0.0.1:7777")]
    #[arg(help_heading = "Network", value_name = "SERVER")]
    pub addr: Target,

    /// Connect with TLS, as tls:// and wss:// do. Needs a build with `--features tls`, and --ca or --insecure
    #[arg(long, env = "DUMMY_CLIENT_TLS")]
    #[arg(help_heading = "Network")]
    pub tls: bool,

    /// Trust servers whose certificate is signed by a certificate of this file
    #[arg(long, env = "DUMMY_CLIENT_CA", conflicts_with = "insecure")]
    #[arg(help_heading = "Network", value_name = "PEM")]
    pub ca: Option<PathBuf>,

    /// Trust any server, whatever its certificate: for tests
    #[arg(long, env = "DUMMY_CLIENT_INSECURE")]
    #[arg(help_heading = "Network")]
    pub insecure: bool,

    /// Connect with WebSocket, as ws:// and wss:// do. Needs a build with `--features websocket`
    #[arg(long, env = "DUMMY_CLIENT_WS")]
    #[arg(help_heading = "Network")]
    pub ws: bool,

    /// Connections to open; with --find-capacity, the most to try [default: 5, or the limit of open files]
    #[arg(long, env = "DUMMY_CLIENT_COUNT", value_parser = RangedU64ValueParser::<usize>::new().range(1..=MAX_SESSIONS as u64))]
    #[arg(help_heading = "Load", value_name = "N")]
    pub count: Option<usize>,

    /// Duration of the run, in seconds or as 90s or 5m [default: until Ctrl-C, or the end of the last stage]
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

    /// Log each session in by a name of its own, before its first request: game_server --login needs it
    #[arg(long, env = "DUMMY_CLIENT_LOGIN", conflicts_with_all = ["attack", "profile"])]
    #[arg(help_heading = "Load")]
    pub login: bool,

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
    pub attack: Option<GameAttack>,

    /// Number of attackers [default: 20; chat-burst: 150; drip-login: 200; ask-and-not-read, silent-flood: 1000]
    #[arg(long, env = "DUMMY_CLIENT_ATTACKERS", value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000))]
    #[arg(help_heading = "Attack", value_name = "N")]
    pub attackers: Option<usize>,

    /// Fail unless this holds at the end, for example 'tick_delay_p99<50ms' or 'lost==0'; repeatable. Takes
    /// every metric of the JSON report, and the numbers of sessions, client and attack
    #[arg(long = "assert", env = "DUMMY_CLIENT_ASSERT")]
    #[arg(help_heading = "Output", value_name = "EXPR")]
    pub assertions: Vec<String>,

    #[arg(skip)]
    has_default_assertions: bool,

    /// End with status 1 if the verdict is client_limited
    #[arg(long, env = "DUMMY_CLIENT_LIMITED_IS_FAILURE")]
    #[arg(help_heading = "Output")]
    pub limited_is_failure: bool,

    /// Write the report as JSON; `-` writes it to standard output in place of the text
    #[arg(long, env = "DUMMY_CLIENT_JSON")]
    #[arg(help_heading = "Output", value_name = "FILE|-")]
    pub json: Option<String>,

    /// Write a page with plots that needs no network
    #[arg(long, env = "DUMMY_CLIENT_REPORT", value_parser = parse_file)]
    #[arg(help_heading = "Output", value_name = "FILE.html")]
    pub report: Option<String>,

    /// Write every check and assertion as a JUnit test case
    #[arg(long, env = "DUMMY_CLIENT_JUNIT", value_parser = parse_file)]
    #[arg(help_heading = "Output", value_name = "FILE.xml")]
    pub junit: Option<String>,

    /// Serve the metrics as Prometheus text at http://ADDR/metrics while the run goes on; port 0: a free port
    #[arg(long, env = "DUMMY_CLIENT_METRICS_ADDR")]
    #[arg(help_heading = "Network", value_name = "ADDR")]
    pub metrics_addr: Option<SocketAddr>,

    /// Test another server: packets, login and request from this TOML file
    #[arg(long, env = "DUMMY_CLIENT_PROFILE", conflicts_with_all = ["attack", "echo_hz", "chat_hz"])]
    #[arg(help_heading = "Load", value_name = "FILE.toml")]
    pub profile: Option<PathBuf>,

    /// Take the I-th of N parts of the users; start N processes with the same --seed, and join their JSON reports
    /// with `merge`
    #[arg(long, env = "DUMMY_CLIENT_SHARE", requires = "seed", default_value_t = Share::ALL)]
    #[arg(conflicts_with_all = ["find_capacity", "attack"])]
    #[arg(help_heading = "Load", value_name = "I/N")]
    pub share: Share,

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
    Merge(Merge),
    Report(ReportPage),
    /// Print the JSON schema of the report
    Schema,
}

const AFTER_HELP: &str = "\
Verdict: ok, failed, or client_limited (the server did nothing wrong, but the client stalled, was too
busy to measure the server, or had no port, descriptor or memory left).
Exit status: 0 if all sessions connected and nothing was lost; 1 if a session failed or was lost, a tick
was missing, repeated or out of order, a text, an echo or a chat was wrong, an assertion broke, or nothing
was checked; 2 for bad usage, or if a limit of this machine is too low. A client_limited run without a
failure is 0; with --limited-is-failure it is 1. With --check: 0 if no check failed, 2 if a check failed.
The result goes to standard output, logs go to standard error (RUST_LOG changes their level,
NO_COLOR is respected). A reader of standard error that stops costs log lines, which are counted,
and does not disturb the run.

Attacks: zero-size, short-size, huge-size, unknown-id, server-id, id-sweep, bad-utf8, slowloris,
no-read, echo-flood, chat-flood, rst-storm, half-close, connect-flood, garbage, chat-churn,
chat-burst, ask-and-not-read, silent-flood, drip-login, proxy-lies, tls-garbage,
tls-handshake-flood, tls-renegotiate, tls-key-updates, tls-tiny-records, ws-bad-upgrade,
ws-unmasked, ws-fragments, ws-ping-flood.
  chat-churn        connects, sends the permitted burst of 20 chats, leaves, over and over
  chat-burst        idle sessions send the permitted burst of 20 chats at one moment, and leave
  ask-and-not-read  sends echo requests of 60,000 bytes and does not read the answers
  silent-flood      connections that send nothing; once a second a newcomer connects and sends an echo, and
                    the report has the time to its answer (attack.newcomers)
  tls-handshake-flood
                    200 full handshakes of TLS a second: each has keys of its own and no ticket
  drip-login        connections that send one byte a second and never complete their first packet
  proxy-lies        sends a PROXY header that names another address; the server must not trust this address
Attackers have the transport of the run: the attacks of packets come over TLS and WebSocket too. The attacks
tls- and ws- need such a server.
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
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
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
    /// The mean length of a session.
    pub fn mean(self) -> Duration {
        Duration::from_millis(self.min_ms.midpoint(self.max_ms))
    }

    fn range(self) -> RangeInclusive<Duration> {
        Duration::from_millis(self.min_ms)..=Duration::from_millis(self.max_ms)
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

const MAX_CHURN_MS: u64 = 24 * 60 * 60 * 1000;

fn parse_hz(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(0.0) => Ok(0.0),
        Ok(hz @ 0.001..=100_000.0) => Ok(hz),
        _ => Err("expected 0, or 0.001 to 100000 a second".into()),
    }
}

fn parse_file(text: &str) -> Result<String, String> {
    match text {
        "" | "-" => Err("expected a file, for example report.html".into()),
        file => Ok(file.into()),
    }
}

impl Args {
    /// Reads the command line; bad usage ends the process with status 2.
    ///
    /// An environment variable never contradicts a flag: the flag wins. A subcommand ignores the variables of a
    /// run.
    pub fn from_command_line() -> Self {
        let args = Self::parse_with_env(std::env::args_os());
        args.unwrap_or_else(|error| error.exit())
    }

    fn parse_with_env(
        args: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Result<Self, clap::Error> {
        let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        let ignored = ignored_variables(&args);
        let mut command = Self::command().mut_args(|arg| {
            if ignored.contains(arg.get_id().as_str()) {
                arg.env(Resettable::Reset)
            } else {
                arg
            }
        });
        let matches = command.try_get_matches_from_mut(&args)?;
        let mut args = Self::from_arg_matches(&matches)?;
        args.seed.get_or_insert_with(|| fastrand::u64(..));
        if args.find_capacity && args.assertions.is_empty() {
            args.assertions = CAPACITY_ASSERTIONS.map(Into::into).into();
            args.has_default_assertions = true;
        }
        if args.command.is_none() {
            let valid = args.check();
            valid.map_err(|why| command.error(ErrorKind::ValueValidation, why))?;
        }
        Ok(args)
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
        if self.max_sessions() == Some(0) {
            return Err(format!(
                "--share {} has no session: lower the number of parts, or raise the number of sessions",
                self.share
            ));
        }
        Ok(())
    }

    /// Removes the default assertions of a capacity search that the scenario has no metric for. A given
    /// assertion stays.
    pub fn retain_defaults(&mut self, is_known: impl FnMut(&String) -> bool) {
        if self.has_default_assertions {
            self.assertions.retain(is_known);
        }
    }

    /// The number of users over time. `None`: a capacity search without `--count`.
    fn executor(&self) -> Option<Executor> {
        match (&self.stages, self.count) {
            _ if self.find_capacity => self.count.map(Executor::capacity),
            (Some(stages), _) => {
                let profile = LoadProfile::stages(stages, self.duration_secs);
                Some(Executor::profile(profile))
            }
            (None, count) => Some(Executor::ramp(
                count.unwrap_or(DEFAULT_COUNT),
                self.ramp_per_sec,
                self.duration_secs,
            )),
        }
    }

    /// The largest number of sessions; `None` if the machine decides.
    pub fn max_sessions(&self) -> Option<usize> {
        self.executor()
            .map(|executor| self.share.users(executor.max_users()))
    }

    /// The settings of the run. `max_sessions`: what the machine allows a capacity search.
    pub fn run_config(&self, transport: Transport, max_sessions: usize) -> RunConfig {
        RunConfig {
            addrs: self.addr.addrs().clone(),
            transport,
            executor: self
                .executor()
                .unwrap_or_else(|| Executor::capacity(max_sessions)),
            threads: self.threads,
            seed: self.seed(),
            churn: self.churn_ms.map(Churn::range),
            reconnect: self.reconnect,
            login_timeout: LOGIN_TIMEOUT,
            framing: Framing::NATIVE,
            log_sessions: self.log_sessions.0,
            share: self.share,
            settings: self.settings(),
        }
    }

    /// The settings of the report that the engine does not know.
    fn settings(&self) -> BTreeMap<String, Value> {
        let settings = [
            (
                "count",
                json!(self.executor().map(|executor| executor.max_users())),
            ),
            (
                "duration_secs",
                json!(self.duration_secs.map(|duration| duration.as_secs_f64())),
            ),
            ("ramp_per_sec", json!(self.ramp_per_sec)),
            ("echo_hz", json!(self.echo_hz)),
            ("chat_hz", json!(self.chat_hz)),
            ("login", json!(self.login.then_some(true))),
            ("payload_bytes", json!(self.payload_bytes)),
            (
                "stages",
                json!(self.stages.as_ref().map(ToString::to_string)),
            ),
            ("find_capacity", json!(self.find_capacity)),
            ("assertions", json!(self.assertions)),
        ];
        settings.map(|(name, value)| (name.into(), value)).into()
    }

    /// What each session sends.
    pub fn workload(&self) -> Workload {
        let period = |hz: f64| (hz > 0.0).then(|| Duration::from_secs_f64(1.0 / hz));
        Workload {
            echo_period: period(self.echo_hz),
            chat_period: period(self.chat_hz),
            logs_in: self.login,
            payload_bytes: self.payload_bytes,
        }
    }

    /// The transport to the server.
    ///
    /// # Errors
    /// Status 2: as of [`Target::transport`].
    pub fn transport(&self) -> Result<Transport, Error> {
        let mut target = self.addr.clone();
        if self.tls {
            target = target.with_tls();
        }
        if self.ws {
            target = target.with_websocket();
        }
        let trust = match &self.ca {
            Some(file) => Some(Trust::Ca(file.clone())),
            None => self.insecure.then_some(Trust::AnyServer),
        };
        let transport = target.transport(trust.as_ref())?;
        let needed = match self.attack.map(|attack| attack.layer()) {
            Some(layer) if layer.is_of_tls() && !transport.has_tls() => "TLS: tls:// or wss://",
            Some(Layer::Http) if !transport.has_websocket() => "WebSocket: ws:// or wss://",
            _ => return Ok(transport),
        };
        Err(Error::usage(format!("this attack is one on {needed}")))
    }

    /// How many attackers this attack has.
    pub fn attackers(&self, attack: GameAttack) -> usize {
        self.attackers.unwrap_or_else(|| attack.default_attackers())
    }

    /// The seed: given, or drawn at the start.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or_default()
    }
}

/// The arguments whose environment variables are ignored: with a subcommand all of them, and otherwise those that
/// conflict with a flag of the command line.
fn ignored_variables(args: &[OsString]) -> BTreeSet<String> {
    let mut command = Args::command()
        .ignore_errors(true)
        .mut_args(|arg| arg.env(Resettable::Reset));
    // Errors are told by the second parse, which has the variables.
    let Ok(matches) = command.try_get_matches_from_mut(args) else {
        return BTreeSet::new();
    };
    let command = Args::command();
    if matches.subcommand().is_some() {
        return command.get_arguments().map(id_of).collect();
    }
    let is_given = |arg: &&clap::Arg| {
        matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
    };
    let given = || command.get_arguments().filter(is_given);
    let mut ignored = BTreeSet::new();
    for arg in command.get_arguments() {
        let conflicts = command.get_arg_conflicts_with(arg);
        let with_given = given().any(|one| {
            let back = command.get_arg_conflicts_with(one);
            conflicts.iter().any(|other| other.get_id() == one.get_id())
                || back.iter().any(|other| other.get_id() == arg.get_id())
        });
        if with_given {
            ignored.insert(id_of(arg));
        }
    }
    ignored
}

fn id_of(arg: &clap::Arg) -> String {
    arg.get_id().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::parse_with_env(["dummy_client"].iter().chain(args))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
        let args = parse(&[]).unwrap();
        assert_eq!((args.threads, args.payload_bytes), (1, 32));
        assert_eq!(args.max_sessions(), Some(5));
        assert_eq!(args.log_sessions, LogSessions(5));
        let workload = args.workload();
        assert!(workload.echo_period.is_none() && workload.chat_period.is_none());
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
        let share = |share| parse(&["--count=2", "--seed=1", share]);
        assert_eq!(share("--share=3/3").unwrap_err().exit_code(), 2);
        assert_eq!(share("--share=2/3").unwrap().max_sessions(), Some(1));
        assert_eq!(
            parse(&["--log-sessions=all"]).unwrap().log_sessions.0,
            usize::MAX
        );
    }
    #[test]
    fn a_capacity_search_has_assertions_and_takes_what_the_machine_allows() {
        let args = parse(&["--find-capacity"]).unwrap();
        assert_eq!(args.assertions, CAPACITY_ASSERTIONS);
        assert!(args.max_sessions().is_none());
        let kept = |flags: &[&str]| {
            let mut args = parse(flags).unwrap();
            args.retain_defaults(|one| one == "lost==0");
            args.assertions
        };
        assert_eq!(kept(&["--find-capacity"]), ["lost==0"]);
        assert_eq!(kept(&["--find-capacity", "--assert=x<1"]), ["x<1"]);
        let args = parse(&["--find-capacity", "--count=300"]).unwrap();
        assert_eq!(args.max_sessions(), Some(300));
    }

    #[test]
    fn report_has_the_login_among_its_settings() {
        assert_eq!(parse(&["--login"]).unwrap().settings()["login"], true);
        assert!(parse(&[]).unwrap().settings()["login"].is_null());
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
            ("drip-login", 200),
            ("proxy-lies", 20),
        ] {
            assert_eq!(attackers(&["--attack", name]), expected, "{name}");
            assert_eq!(attackers(&["--attack", name, "--attackers=7"]), 7, "{name}");
        }
    }

    #[test]
    fn the_help_names_every_attack() {
        for attack in GameAttack::value_variants() {
            let name = attack.name();
            assert!(AFTER_HELP.contains(name), "{name}");
        }
    }

    #[test]
    fn churn_is_a_range_of_times() {
        let churn: Churn = "20..30".parse().unwrap();
        assert_eq!(
            churn.range(),
            Duration::from_millis(20)..=Duration::from_millis(30)
        );
        assert_eq!(churn.mean(), Duration::from_millis(25));
    }
}
