//! The command line.

use clap::builder::RangedU64ValueParser;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, value_parser};
use game_server::packets::SHello;
use game_server::preflight::judge::sessions_allowed;
use game_server::process::{Addresses, parse_addrs, parse_seconds};
use server_core::Config;
use server_core::admin::{Admin, Host};
use server_core::wire::MAX_PAYLOAD_BYTES;
use std::time::Duration;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A game server: a hello to every session each tick, echo and chat.
///
/// 0 switches a timeout, rate or interval off. Every flag can be set by its environment variable.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
pub struct Args {
    /// Where to listen; port 0 takes a free one. Of a name with several addresses the first that can be
    /// bound
    #[arg(long, env = "GAME_SERVER_ADDR", default_value = "127.0.0.1:7777", value_parser = parse_addrs)]
    #[arg(help_heading = "Network", value_name = "HOST:PORT")]
    pub addr: Addresses,

    /// Event loops, one thread each [default: number of cores]
    #[arg(long, env = "GAME_SERVER_WORKERS", value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    #[arg(help_heading = "Network", value_name = "N")]
    pub workers: Option<usize>,

    /// Period of the hello broadcast, in milliseconds
    #[arg(long, env = "GAME_SERVER_TICK_MS", default_value_t = 250, value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Game", value_name = "MS")]
    pub tick_ms: u64,

    /// Text of the hello
    #[arg(long, env = "GAME_SERVER_MESSAGE", default_value = "Hello World")]
    #[arg(help_heading = "Game", value_name = "TEXT")]
    pub message: String,

    /// Zero-pad the hello's payload (tick number included) to this many bytes; at most 65531
    #[arg(long, env = "GAME_SERVER_PAYLOAD_BYTES", default_value_t = 0)]
    #[arg(help_heading = "Game", value_name = "BYTES")]
    pub payload_bytes: usize,

    /// Sessions at a time; 0: as many as the limit of open files allows, which is also the most
    /// with --metrics-addr
    #[arg(long, env = "GAME_SERVER_MAX_SESSIONS", default_value_t = 0)]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_sessions: usize,

    /// Sessions at a time from one address (or one IPv6 network of 64 bits); 0: off
    #[arg(long, env = "GAME_SERVER_MAX_SESSIONS_PER_IP", default_value_t = 0)]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_sessions_per_ip: usize,

    /// Connections a second that one address may make, with a burst of twice that; 0: off
    ///
    /// One over it is closed without a packet and counts as rejected.
    #[arg(long, env = "GAME_SERVER_MAX_CONNECTS_PER_IP_PER_SEC", default_value_t = 0, value_parser = value_parser!(u32).range(0..=100_000_000))]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_connects_per_ip_per_sec: u32,

    /// Time that a client has to send its first valid packet, in milliseconds; 0: off
    ///
    /// Without it, clients that connect and say nothing can take all places. Clients that only listen
    /// to the hello need it off.
    #[arg(long, env = "GAME_SERVER_LOGIN_TIMEOUT_MS", default_value_t = 0, value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Limits", value_name = "MS")]
    pub login_timeout_ms: u64,

    /// Sessions at a time that have not sent a valid packet, with --login-timeout-ms; one more ends the
    /// oldest of them; 0: half of the sessions
    #[arg(long, env = "GAME_SERVER_MAX_UNADMITTED", default_value_t = 0)]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_unadmitted: usize,

    /// Largest packet that a client may send, header included
    #[arg(long, env = "GAME_SERVER_MAX_PACKET_BYTES", default_value_t = 65_535, value_parser = RangedU64ValueParser::<usize>::new().range(4..=65_535))]
    #[arg(help_heading = "Limits", value_name = "BYTES")]
    pub max_packet_bytes: usize,

    /// Unsent bytes of one session; above this for --max-send-grace-ms it is a slow consumer
    #[arg(long, env = "GAME_SERVER_MAX_SEND_QUEUE_BYTES", default_value_t = 1 << 20, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 40))]
    #[arg(help_heading = "Limits", value_name = "BYTES")]
    pub max_send_queue_bytes: usize,

    /// How long unsent bytes may be above that, in milliseconds; above eight times that, a session is a
    /// slow consumer at once
    #[arg(long, env = "GAME_SERVER_MAX_SEND_GRACE_MS", default_value_t = 1000, value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Limits", value_name = "MS")]
    pub max_send_grace_ms: u64,

    /// Unsent bytes of all sessions together, above which the longest queues are ended; 0: a quarter of
    /// the memory that the machine, its control group and the address space allow
    #[arg(long, env = "GAME_SERVER_MAX_TOTAL_QUEUE_BYTES", default_value_t = 0, value_parser = RangedU64ValueParser::<usize>::new().range(0..=1 << 50))]
    #[arg(help_heading = "Limits", value_name = "BYTES")]
    pub max_total_queue_bytes: usize,

    /// Bytes a second that a client takes on average and that excuse it from the limit of age; 0: none do
    #[arg(long, env = "GAME_SERVER_MIN_SEND_RATE_BYTES", default_value_t = 16_384, value_parser = value_parser!(u32).range(0..=1 << 30))]
    #[arg(help_heading = "Limits", value_name = "BYTES")]
    pub min_send_rate_bytes: u32,

    /// Age of the oldest unsent byte above which a session is a slow consumer, in milliseconds;
    /// 0: off [default: 10 ticks, at least 5000]
    #[arg(long, env = "GAME_SERVER_MAX_SEND_LAG_MS", value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Limits", value_name = "MS")]
    pub max_send_lag_ms: Option<u64>,

    /// From the first byte of a packet to its last, in milliseconds; 0: off
    #[arg(long, env = "GAME_SERVER_PACKET_TIMEOUT_MS", default_value_t = 10_000, value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Limits", value_name = "MS")]
    pub packet_timeout_ms: u64,

    /// Silence after which a session ends, in milliseconds; 0: off
    #[arg(long, env = "GAME_SERVER_IDLE_TIMEOUT_MS", default_value_t = 0, value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Limits", value_name = "MS")]
    pub idle_timeout_ms: u64,

    /// Packets a second that one session may send, with a burst of twice that; 0: off
    #[arg(long, env = "GAME_SERVER_MAX_PACKETS_PER_SEC", default_value_t = 0, value_parser = value_parser!(u32).range(0..=100_000_000))]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_packets_per_sec: u32,

    /// Chats a second that one session may send, with a burst of twice that; 0: off
    #[arg(long, env = "GAME_SERVER_MAX_CHATS_PER_SEC", default_value_t = 10, value_parser = value_parser!(u32).range(0..=100_000_000))]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_chats_per_sec: u32,

    /// Chats a second from one address (or one IPv6 network of 64 bits), with a burst of twice that;
    /// 0: off [default: 4 times --max-chats-per-sec]
    ///
    /// A reconnect does not reset it. A chat over it waits for up to 2 s and is dropped if that is not
    /// enough; its session stays, as neighbours behind one address must not pay with theirs. A load test
    /// that chats from one address needs 0.
    #[arg(long, env = "GAME_SERVER_MAX_CHATS_PER_IP_PER_SEC", value_parser = value_parser!(u32).range(0..=400_000_000))]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_chats_per_ip_per_sec: Option<u32>,

    /// HTTP with /metrics, /healthz, /sessions and a live page at / there; port 0 takes a free one [default: off]
    #[arg(long, env = "GAME_SERVER_METRICS_ADDR", value_parser = parse_addrs)]
    #[arg(help_heading = "Output", value_name = "HOST:PORT")]
    pub metrics_addr: Option<Addresses>,

    /// Name for which the metrics port answers besides its own address and loopback names;
    /// repeatable, comma separated in the environment
    #[arg(
        long = "admin-host",
        env = "GAME_SERVER_ADMIN_HOST",
        value_delimiter = ','
    )]
    #[arg(help_heading = "Output", value_name = "NAME")]
    pub admin_hosts: Vec<Host>,

    /// One summary line in the log each time; 0: off
    #[arg(long, env = "GAME_SERVER_STATS_INTERVAL_SECS", default_value = "5", value_parser = parse_seconds)]
    #[arg(help_heading = "Output", value_name = "SECS")]
    pub stats_interval_secs: Duration,

    /// Longest time that a shutdown may take to flush
    #[arg(long, env = "GAME_SERVER_DRAIN_SECS", default_value = "2", value_parser = parse_seconds)]
    #[arg(help_heading = "Network", value_name = "SECS")]
    pub drain_secs: Duration,

    /// Only look whether this machine can do what the other flags ask for, print a table, and end
    #[arg(long, env = "GAME_SERVER_CHECK")]
    #[arg(help_heading = "Output")]
    pub check: bool,
}

const AFTER_HELP: &str = "\
Exit status: 0 after SIGINT or SIGTERM, 1 if the server could not run, 2 for bad usage. With --check:
0 if the server can run as asked, 2 if it cannot.
SIGHUP is logged and changes nothing.
Logs go to standard error, at level info; RUST_LOG changes that (RUST_LOG=trace shows each packet).

Examples:
  game_server
  game_server --addr 0.0.0.0:7777 --max-sessions 5000 --max-sessions-per-ip 20
  game_server --tick-ms 50 --payload-bytes 1000
  game_server --check --max-sessions 10000
  game_server --metrics-addr 127.0.0.1:9100      (then: open http://127.0.0.1:9100/)";

impl Args {
    /// Reads the command line; bad usage ends the process with status 2.
    pub fn from_command_line() -> Self {
        let args = Self::parse();
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
                "the hello's payload would have {needed} bytes, and {MAX_PAYLOAD_BYTES} fit: \
                 shorten --message or --payload-bytes"
            ));
        }
        Ok(())
    }

    /// What stands behind the tick number in each hello: text, then zeros.
    pub fn hello_tail(&self) -> Vec<u8> {
        let mut tail = self.message.clone().into_bytes();
        let padded = self.payload_bytes.saturating_sub(size_of::<SHello>());
        // Above the limit the length alone matters, and only to say that it is too much.
        tail.resize(tail.len().max(padded.min(MAX_PAYLOAD_BYTES + 1)), 0);
        tail
    }

    /// How many sessions were asked for; `None`: as many as there are descriptors for.
    pub fn sessions_asked(&self) -> Option<u64> {
        (self.max_sessions > 0).then_some(self.max_sessions as u64)
    }

    /// How many sessions this limit of open files has room for.
    pub fn sessions_allowed(&self, fd_limit: Option<u64>) -> u64 {
        sessions_allowed(fd_limit.unwrap_or(0), self.descriptors_aside())
    }

    /// Descriptors beside those of the sessions that were asked for.
    pub fn other_files(&self) -> u64 {
        // No more than the sessions have, as where their number follows from the limit.
        let most = self.sessions_asked().map_or(u64::MAX, |asked| asked - 1);
        self.descriptors_aside().min(most)
    }

    /// Standard streams, the listener, a few per worker, connections that are being refused, and the
    /// metrics port.
    fn descriptors_aside(&self) -> u64 {
        let workers = self.workers.unwrap_or(Config::default().workers);
        let metrics = self
            .metrics_addr
            .as_ref()
            .map_or(0, |_| Admin::MAX_DESCRIPTORS);
        (160 + 4 * workers + metrics) as u64
    }

    /// The period of the tick, if there is one.
    pub fn tick_period(&self) -> Option<Duration> {
        millis_or_off(self.tick_ms)
    }

    /// The limits of the library. Where no number of sessions was asked for, and where a metrics
    /// port needs descriptors, there are no more sessions than `fd_limit` allows.
    pub fn config(&self, fd_limit: u64) -> Config {
        let mut config = Config::default();
        config.workers = self.workers.unwrap_or(config.workers);
        let allowed = self.sessions_allowed(Some(fd_limit));
        let most = match self.sessions_asked() {
            None => allowed,
            // More would take the descriptors of the metrics port.
            Some(asked) if self.metrics_addr.is_some() => asked.min(allowed),
            Some(asked) => asked,
        };
        config.max_sessions = Some(usize::try_from(most).unwrap_or(usize::MAX));
        config.max_sessions_per_ip =
            (self.max_sessions_per_ip > 0).then_some(self.max_sessions_per_ip);
        config.max_connects_per_ip_per_sec =
            (self.max_connects_per_ip_per_sec > 0).then_some(self.max_connects_per_ip_per_sec);
        config.login_timeout = millis_or_off(self.login_timeout_ms);
        config.max_unadmitted = (self.max_unadmitted > 0).then_some(self.max_unadmitted);
        config.max_packet_bytes = self.max_packet_bytes;
        config.max_send_queue_bytes = self.max_send_queue_bytes;
        config.max_send_grace = Duration::from_millis(self.max_send_grace_ms);
        config.max_total_queue_bytes =
            (self.max_total_queue_bytes > 0).then_some(self.max_total_queue_bytes);
        config.min_send_rate_bytes = self.min_send_rate_bytes;
        let ten_ticks = self.tick_ms.saturating_mul(10).max(5000);
        config.max_send_lag = millis_or_off(self.max_send_lag_ms.unwrap_or(ten_ticks));
        config.packet_timeout = millis_or_off(self.packet_timeout_ms);
        config.idle_timeout = millis_or_off(self.idle_timeout_ms);
        config.max_packets_per_sec =
            (self.max_packets_per_sec > 0).then_some(self.max_packets_per_sec);
        config
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

    /// Whether a session has to send a valid packet in time.
    pub fn requires_login(&self) -> bool {
        self.login_timeout_ms > 0
    }

    /// What a start warns of: silent peers that can come from other machines.
    pub fn silence_warning(&self) -> Option<&'static str> {
        let is_loopback = |addr: &std::net::SocketAddr| addr.ip().to_canonical().is_loopback();
        (!self.requires_login() && !self.addr.all().iter().all(is_loopback)).then_some(
            "silent peers can take all places and keep them: --login-timeout-ms ends them",
        )
    }
}

fn millis_or_off(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use game_server::preflight::judge::open_files;
    use game_server::preflight::{Grade, Machine};

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(["game_server"].iter().chain(args))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.addr.all(), [([127, 0, 0, 1], 7777).into()]);
        assert_eq!(args.tick_period(), Some(Duration::from_millis(250)));
        assert_eq!(args.hello_tail(), b"Hello World");
        assert_eq!(args.max_chats_per_sec(), Some(10));
        assert_eq!(args.max_chats_per_ip_per_sec(), Some(40));
        assert!(!args.requires_login());
        assert_eq!(args.metrics_addr, None);
        let config = args.config(20_000);
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
    fn a_metrics_port_keeps_its_descriptors() {
        let most = |flags: &[&str]| parse(flags).unwrap().config(2_000).max_sessions.unwrap();
        assert_eq!(most(&["--max-sessions=900"]), 900);
        assert_eq!(most(&["--max-sessions=9000"]), 9000);
        let with_port = ["--max-sessions=9000", "--metrics-addr=127.0.0.1:0"];
        assert_eq!(most(&with_port), most(&[]) - Admin::MAX_DESCRIPTORS);
    }

    #[test]
    fn admin_hosts_are_repeatable_and_checked() {
        let hosts = |flags: &[&str]| parse(flags).map(|args| args.admin_hosts.len()).ok();
        assert_eq!(hosts(&[]), Some(0));
        assert_eq!(
            hosts(&["--admin-host=a.example", "--admin-host=b,10.0.0.1"]),
            Some(3)
        );
        assert_eq!(hosts(&["--admin-host=http://a.example"]), None);
    }

    #[test]
    fn zero_switches_off() {
        let args = parse(&[
            "--tick-ms=0",
            "--max-send-lag-ms=0",
            "--packet-timeout-ms=0",
        ])
        .unwrap();
        assert_eq!(args.tick_period(), None);
        assert_eq!(args.config(1000).max_send_lag, None);
        assert_eq!(args.config(1000).packet_timeout, None);
        assert!(parse(&["--max-send-queue-bytes=0"]).is_err());
        let by_address = |flag: &str| parse(&[flag]).unwrap().max_chats_per_ip_per_sec();
        assert_eq!(by_address("--max-chats-per-ip-per-sec=0"), None);
        assert_eq!(by_address("--max-chats-per-sec=0"), None);
        assert_eq!(by_address("--max-chats-per-sec=3"), Some(12));
        let slow = parse(&["--tick-ms=60000"]).unwrap();
        assert_eq!(
            slow.config(1000).max_send_lag,
            Some(Duration::from_secs(600))
        );
    }

    #[test]
    fn a_start_warns_of_silent_peers_where_they_can_come_from_elsewhere() {
        let warns = |flags: &[&str]| parse(flags).unwrap().silence_warning().is_some();
        assert!(warns(&["--addr=0.0.0.0:7777"]) && warns(&["--addr=[::]:7777"]));
        assert!(!warns(&[]) && !warns(&["--addr=[::1]:7777"]));
        assert!(!warns(&["--addr=[::ffff:127.0.0.1]:7777"]));
        assert!(!warns(&["--addr=0.0.0.0:7777", "--login-timeout-ms=5000"]));
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

    /// Asking for what would be allowed anyway is never too much, and one more always is.
    #[test]
    fn the_check_agrees_with_the_number_of_sessions_that_are_taken() {
        for limit in [16, 64, 400, 1024, 20_000] {
            for flags in [&[][..], &["--metrics-addr=127.0.0.1:0"]] {
                let allowed = parse(flags).unwrap().sessions_allowed(Some(limit));
                assert!(allowed <= limit && allowed >= limit / 2);
            }
            let machine = Machine {
                fd_soft_limit: Some(limit),
                ..Machine::default()
            };
            let allowed = parse(&[]).unwrap().sessions_allowed(Some(limit));
            for (asked, grade) in [(allowed, Grade::Ok), (allowed + 1, Grade::Fail)] {
                let args = parse(&["--max-sessions", &asked.to_string()]).unwrap();
                let finding = open_files(&machine, args.sessions_asked(), args.other_files());
                assert_eq!(finding.grade, grade, "{asked} of {limit}: {finding}");
            }
        }
    }
}
