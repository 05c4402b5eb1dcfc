//! The command line.

use clap::builder::RangedU64ValueParser;
use clap::{Parser, value_parser};
use game_server::process::{parse_addr, parse_seconds};
use server_core::wire::MAX_PAYLOAD_BYTES;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// Opens N connections to a game server, logs the packets that it receives, and checks every one:
/// tick gaps, repeats, order and text on every session, echoes byte for byte.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
pub struct Args {
    /// The server
    #[arg(long, env = "DUMMY_CLIENT_ADDR", default_value = "127.0.0.1:7777", value_parser = parse_addr)]
    #[arg(help_heading = "Network", value_name = "HOST:PORT")]
    pub addr: SocketAddr,

    /// Connections to open
    #[arg(long, env = "DUMMY_CLIENT_COUNT", default_value_t = 5, value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000_000))]
    #[arg(help_heading = "Load", value_name = "N")]
    pub count: usize,

    /// How long to run [default: until Ctrl-C]
    #[arg(long, env = "DUMMY_CLIENT_DURATION_SECS", value_parser = parse_seconds)]
    #[arg(help_heading = "Load", value_name = "SECS")]
    pub duration_secs: Option<Duration>,

    /// New connections a second; 0: as fast as it can
    #[arg(long, env = "DUMMY_CLIENT_RAMP_PER_SEC", default_value_t = 0, value_parser = value_parser!(u32).range(0..=1_000_000))]
    #[arg(help_heading = "Load", value_name = "N")]
    pub ramp_per_sec: u32,

    /// Event loops, one thread each
    #[arg(long, env = "DUMMY_CLIENT_THREADS", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    #[arg(help_heading = "Network", value_name = "N")]
    pub threads: usize,

    /// How many sessions log each packet, or `all`; the rest are counted
    #[arg(long, env = "DUMMY_CLIENT_LOG_SESSIONS", default_value = "5")]
    #[arg(help_heading = "Output", value_name = "N|all")]
    pub log_sessions: LogSessions,

    /// Echo requests a second that each session sends, on a fixed schedule; 0: none
    #[arg(long, env = "DUMMY_CLIENT_ECHO_HZ", default_value_t = 0.0, value_parser = parse_hz)]
    #[arg(help_heading = "Load", value_name = "HZ")]
    pub echo_hz: f64,

    /// Payload of each echo request
    #[arg(long, env = "DUMMY_CLIENT_PAYLOAD_BYTES", default_value_t = 32, value_parser = RangedU64ValueParser::<usize>::new().range(0..=MAX_PAYLOAD_BYTES as u64))]
    #[arg(help_heading = "Load", value_name = "BYTES")]
    pub payload_bytes: usize,

    /// Come back after a loss, with backoff and jitter
    #[arg(long, env = "DUMMY_CLIENT_RECONNECT")]
    #[arg(help_heading = "Load")]
    pub reconnect: bool,

    /// Write the summary as JSON; `-` writes it to standard output in place of the text
    #[arg(long, env = "DUMMY_CLIENT_JSON")]
    #[arg(help_heading = "Output", value_name = "FILE|-")]
    pub json: Option<String>,

    /// For payloads and jitter [default: random; it is printed]
    #[arg(long, env = "DUMMY_CLIENT_SEED")]
    #[arg(help_heading = "Load", value_name = "N")]
    pub seed: Option<u64>,
}

const AFTER_HELP: &str = "\
Verdict: ok, failed, or client_limited (nothing failed, but this program was stalled or too busy for
its figures to say anything about the server).
Exit status: 0 if all sessions connected and nothing was lost; 1 if one failed or was lost, a tick
was missing, repeated or out of order, a text or an echo was wrong; 2 for bad usage.
The result goes to standard output, logs go to standard error (RUST_LOG changes their level).

Examples:
  dummy_client --count 1000
  dummy_client --count 10000 --threads 2 --duration-secs 30 --json result.json
  dummy_client --count 200 --echo-hz 20 --payload-bytes 100 --log-sessions 0";

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

fn parse_hz(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(0.0) => Ok(0.0),
        Ok(hz @ 0.001..=100_000.0) => Ok(hz),
        _ => Err("expected 0, or 0.001 to 100000 a second".into()),
    }
}

impl Args {
    /// Reads the command line; bad usage ends the process with status 2.
    pub fn from_command_line() -> Self {
        let mut args = Self::parse();
        args.seed.get_or_insert_with(|| fastrand::u64(..));
        args
    }

    /// The time from one echo of a session to its next.
    pub fn echo_period(&self) -> Option<Duration> {
        (self.echo_hz > 0.0).then(|| Duration::from_secs_f64(1.0 / self.echo_hz))
    }

    /// The seed: given, or drawn at the start.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(["dummy_client"].iter().chain(args))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
        let args = parse(&[]).unwrap();
        assert_eq!((args.count, args.threads, args.payload_bytes), (5, 1, 32));
        assert_eq!(args.log_sessions, LogSessions(5));
        assert_eq!(args.echo_period(), None);
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
        ] {
            assert_eq!(parse(&[bad]).unwrap_err().exit_code(), 2, "{bad}");
        }
        assert_eq!(
            parse(&["--log-sessions=all"]).unwrap().log_sessions.0,
            usize::MAX
        );
    }
}
