//! The command line.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, value_parser};
use game_server::packets::SHello;
use server_core::app::{self, AppArgs};
use server_core::host::parse_seconds;
use server_core::wire::MAX_PAYLOAD_BYTES;
use std::time::Duration;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A game server: a hello to every session each tick, echo and chat.
///
/// 0 switches a timeout, rate or interval off. Every flag has an environment variable.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
#[command(mut_arg("login_timeout_ms", |flag| flag.help(LOGIN_TIMEOUT).long_help(LOGIN_TIMEOUT_LONG)))]
pub struct Args {
    #[command(flatten)]
    pub app: AppArgs,

    /// Period of the hello broadcast, in milliseconds
    #[arg(long, default_value_t = 250, value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Game", value_name = "MS")]
    pub tick_ms: u64,

    /// Text of the hello
    #[arg(long, default_value = "Hello World")]
    #[arg(help_heading = "Game", value_name = "TEXT")]
    pub message: String,

    /// Zero-pad the hello's payload (tick number included) to this many bytes; at most 65531
    #[arg(long, default_value_t = 0)]
    #[arg(help_heading = "Game", value_name = "BYTES")]
    pub payload_bytes: usize,

    /// Broker of the cluster: redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// with --cluster-ca, or unix:///PATH
    ///
    /// A chat reaches the sessions of all nodes with the same broker. A broker that is away costs no tick: the chats
    /// for other nodes wait for 1 s and are then dropped and counted.
    #[cfg(feature = "cluster")]
    #[arg(long, hide_env_values = true)]
    #[arg(help_heading = "Cluster", value_name = "URL")]
    pub cluster: Option<String>,

    /// PEM file with the certificates to trust for a broker at rediss://
    #[cfg(all(feature = "cluster", feature = "tls"))]
    #[arg(long, requires = "cluster")]
    #[arg(help_heading = "Cluster", value_name = "FILE")]
    pub cluster_ca: Option<std::path::PathBuf>,

    /// Name of this node in the cluster, up to 64 bytes
    #[cfg(feature = "cluster")]
    #[arg(long, default_value = "node")]
    #[arg(help_heading = "Cluster", value_name = "NAME")]
    pub node: String,

    /// Admit a session by a C_LOGIN packet, as the only one of its name in the cluster
    ///
    /// A session may send no other packet before its login, and has 10 s for it: see --login-timeout-ms. More than two
    /// logins a second from one session, with a burst of four, end it.
    #[cfg(feature = "cluster")]
    #[arg(long, requires = "cluster")]
    #[arg(help_heading = "Cluster")]
    pub login: bool,

    /// Chats a second from one session, with a burst of twice that; 0: off
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(0..=100_000_000))]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_chats_per_sec: u32,

    /// Chats a second from one address (or one IPv6 network of 64 bits), with a burst of twice that;
    /// 0: off [default: 4 times --max-chats-per-sec]
    ///
    /// A reconnect does not reset the budget. A chat over the budget waits for up to 2 s; a chat with a longer
    /// wait is dropped. The session stays connected: players may share an address. A load test that chats from
    /// one address needs 0.
    #[arg(long, value_parser = value_parser!(u32).range(0..=400_000_000))]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_chats_per_ip_per_sec: Option<u32>,

    /// Interval of the summary line in the log; 0: off
    #[arg(long, default_value = "5", value_parser = parse_seconds)]
    #[arg(help_heading = "Output", value_name = "SECS")]
    pub stats_interval_secs: Duration,
}

const LOGIN_TIMEOUT: &str = "\
Time from a connect to the first valid packet or, with --login, to the login, in milliseconds; 0: off [default: 0; 10000 with --login]";
const LOGIN_TIMEOUT_LONG: &str = "\
Time from a connect to the first valid packet or, with --login, to the login, in milliseconds; 0: off [default: 0; 10000 with --login]

With 0, clients that connect and send nothing can take all sessions. Clients that only receive the hello need 0.";

const AFTER_HELP: &str = "\
Exit status: 0 after SIGINT or SIGTERM, 1 if the server could not run, 2 for bad usage. With --check:
0 if no check failed, 2 if a check failed.
SIGHUP reads --ban-file, --tls-cert and --tls-key again. Without these, SIGHUP is logged and changes nothing.
Logs go to standard error, at level info; RUST_LOG changes the level (RUST_LOG=trace logs each packet).
A reader of standard error that stops costs log lines, which are counted, and no tick.

Examples:
  game_server
  game_server --addr 0.0.0.0:7777 --max-sessions 5000 --max-sessions-per-ip 20
  game_server --tick-ms 50 --payload-bytes 1000
  game_server --check --max-sessions 10000
  game_server --metrics-addr 127.0.0.1:9100      (then: open http://127.0.0.1:9100/)";

impl Args {
    /// Reads the command line; bad usage ends the process with status 2.
    pub fn from_command_line() -> Self {
        let args = app::parse::<Self>("GAME_SERVER").with_defaults();
        if let Err(why) = args.check() {
            Self::command()
                .error(ErrorKind::ValueValidation, why)
                .exit();
        }
        args
    }

    fn check(&self) -> Result<(), String> {
        let needed = size_of::<SHello>() + self.hello_tail().len();
        if needed > MAX_PAYLOAD_BYTES {
            return Err(format!(
                "the payload of the hello has {needed} bytes, and the limit is {MAX_PAYLOAD_BYTES}: \
                 shorten --message or --payload-bytes"
            ));
        }
        self.app.validate()
    }

    /// The bytes after the tick number of each hello: text, then zeros.
    pub fn hello_tail(&self) -> Vec<u8> {
        let mut tail = self.message.clone().into_bytes();
        let padded = self.payload_bytes.saturating_sub(size_of::<SHello>());
        // Above the limit only the length matters, for the error message.
        tail.resize(tail.len().max(padded.min(MAX_PAYLOAD_BYTES + 1)), 0);
        tail
    }

    /// The period of the tick, if there is one.
    pub fn tick_period(&self) -> Option<Duration> {
        (self.tick_ms > 0).then(|| Duration::from_millis(self.tick_ms))
    }

    /// The budget for chats, if there is one.
    pub fn max_chats_per_sec(&self) -> Option<u32> {
        (self.max_chats_per_sec > 0).then_some(self.max_chats_per_sec)
    }

    /// The budget for chats of one address, if there is one.
    pub fn max_chats_per_ip_per_sec(&self) -> Option<u32> {
        let default = self.max_chats_per_sec.saturating_mul(4);
        let rate = self.max_chats_per_ip_per_sec.unwrap_or(default);
        (rate > 0).then_some(rate)
    }

    /// Whether a session is admitted by its login alone.
    fn has_login(&self) -> bool {
        #[cfg(feature = "cluster")]
        return self.login;
        #[cfg(not(feature = "cluster"))]
        return false;
    }

    /// Whether a session is unadmitted at first: it needs a login, or a valid packet within `--login-timeout-ms`.
    pub fn requires_login(&self) -> bool {
        self.has_login() || self.app.login_timeout_ms.is_some_and(|millis| millis > 0)
    }

    /// With the defaults that depend on flags.
    fn with_defaults(mut self) -> Self {
        let millis = if self.has_login() { 10_000 } else { 0 };
        self.app.login_timeout_ms.get_or_insert(millis);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use server_core::Config;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        app::try_parse_from("GAME_SERVER", ["game_server"].iter().chain(args))
            .map(Args::with_defaults)
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.app.addr.all(), [([127, 0, 0, 1], 7777).into()]);
        assert_eq!(args.tick_period(), Some(Duration::from_millis(250)));
        assert_eq!(args.hello_tail(), b"Hello World");
        assert_eq!(args.max_chats_per_sec(), Some(10));
        assert_eq!(args.max_chats_per_ip_per_sec(), Some(40));
        assert!(!args.requires_login());
        assert_eq!(args.app.metrics_addr, None);
        let mut config = Config::default();
        args.app.apply(&mut config, 20_000, args.tick_period());
        assert_eq!(config.max_send_lag, Some(Duration::from_secs(5)));
        assert_eq!(config.packet_timeout, Some(Duration::from_secs(10)));
        assert_eq!(config.idle_timeout, None);
        assert_eq!(config.login_timeout, None);
        assert_eq!(config.max_unadmitted, None);
        assert_eq!(config.max_connects_per_ip_per_sec, None);
        assert_eq!(config.max_send_queue_bytes, 1 << 20);
        assert!(config.max_sessions.unwrap() > 19_000);
    }

    #[test]
    fn zero_switches_off() {
        assert_eq!(parse(&["--tick-ms=0"]).unwrap().tick_period(), None);
        let by_address = |flag: &str| parse(&[flag]).unwrap().max_chats_per_ip_per_sec();
        assert_eq!(by_address("--max-chats-per-ip-per-sec=0"), None);
        assert_eq!(by_address("--max-chats-per-sec=0"), None);
        assert_eq!(by_address("--max-chats-per-sec=3"), Some(12));
    }

    #[cfg(feature = "cluster")]
    #[test]
    fn login_has_ten_seconds_without_a_flag() {
        let with = |flag: &str| {
            let args = parse(&["--cluster=unix:///x", "--login", flag]).unwrap();
            assert!(args.requires_login());
            let mut config = Config::default();
            args.app.apply(&mut config, 1000, None);
            config.login_timeout
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(with("--workers=1"), seconds(10));
        assert_eq!(with("--login-timeout-ms=5000"), seconds(5));
        assert_eq!(with("--login-timeout-ms=0"), None);
    }

    #[test]
    fn a_hello_that_cannot_fit_is_refused() {
        assert!(parse(&["--payload-bytes=65531"]).unwrap().check().is_ok());
        assert!(parse(&["--payload-bytes=65532"]).unwrap().check().is_err());
        let long = "x".repeat(65_524);
        assert!(parse(&["--message", &long]).unwrap().check().is_err());
        assert!(parse(&["--message", &long[1..]]).unwrap().check().is_ok());
        let padded = parse(&["--payload-bytes=64"]).unwrap().hello_tail();
        assert_eq!((padded.len(), padded[11]), (56, 0));
    }
}
