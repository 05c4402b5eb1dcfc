//! The command line.

use super::ban_file::BanFile;
use clap::builder::RangedU64ValueParser;
use clap::error::ErrorKind;
use clap::{ArgGroup, CommandFactory, Parser, value_parser};
use game_server::packets::SHello;
use server_core::admin::{Admin, Host};
use server_core::host::checks::{Check, sessions_allowed};
use server_core::host::{Addresses, parse_addrs, parse_seconds};
use server_core::wire::MAX_PAYLOAD_BYTES;
use server_core::{Cidr, Config};
use std::path::PathBuf;
use std::time::Duration;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A game server: a hello to every session each tick, echo and chat.
///
/// 0 switches a timeout, rate or interval off. Every flag has an environment variable.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
#[command(group(ArgGroup::new("tls_listener").args(["tls_addr", "wss_addr"]).multiple(true)))]
#[command(group(ArgGroup::new("ws_listener").args(["ws_addr", "wss_addr"]).multiple(true)))]
pub struct Args {
    /// Address to listen on; port 0 takes a free port. A name with several addresses: the first address
    /// that can be bound
    #[arg(long, env = "GAME_SERVER_ADDR", default_value = "127.0.0.1:7777", value_parser = parse_addrs)]
    #[arg(help_heading = "Network", value_name = "HOST:PORT")]
    pub addr: Addresses,

    /// Address of a listener for TLS; needs --tls-cert and --tls-key, and a build with the feature `tls`
    /// [default: off]
    #[arg(long, env = "GAME_SERVER_TLS_ADDR", value_parser = parse_addrs, requires_all = ["tls_cert", "tls_key"])]
    #[arg(help_heading = "Network", value_name = "HOST:PORT")]
    pub tls_addr: Option<Addresses>,

    /// Address of a listener for WebSocket, for browsers; needs a build with the feature `websocket`
    /// [default: off]
    ///
    /// The payloads of the binary messages, joined, are the byte stream of packets.
    #[arg(long, env = "GAME_SERVER_WS_ADDR", value_parser = parse_addrs)]
    #[arg(help_heading = "Network", value_name = "HOST:PORT")]
    pub ws_addr: Option<Addresses>,

    /// Address of a listener for WebSocket over TLS; needs --tls-cert and --tls-key, and a build with the
    /// features `tls` and `websocket` [default: off]
    #[arg(long, env = "GAME_SERVER_WSS_ADDR", value_parser = parse_addrs, requires_all = ["tls_cert", "tls_key"])]
    #[arg(help_heading = "Network", value_name = "HOST:PORT")]
    pub wss_addr: Option<Addresses>,

    /// Origin whose pages may connect by WebSocket, as SCHEME://HOST or SCHEME://HOST:PORT; repeatable, comma
    /// separated in the environment; without it, pages of all origins may
    ///
    /// A client that is not a page sends no origin, and may connect.
    #[arg(
        long = "ws-origin",
        env = "GAME_SERVER_WS_ORIGIN",
        value_delimiter = ',',
        requires = "ws_listener"
    )]
    #[arg(help_heading = "Network", value_name = "ORIGIN")]
    pub ws_origins: Vec<String>,

    /// Chain of certificates for TLS, the certificate of the server first; SIGHUP reads the file again
    #[arg(long, env = "GAME_SERVER_TLS_CERT", requires = "tls_listener")]
    #[arg(help_heading = "Network", value_name = "PEM")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the certificate; SIGHUP reads the file again
    ///
    /// A pair that does not belong together ends a start; on SIGHUP the server keeps the pair before it. An ECDSA
    /// key (P-256) costs the server a fraction of the processor time of an RSA key.
    #[arg(long, env = "GAME_SERVER_TLS_KEY", requires = "tls_listener")]
    #[arg(help_heading = "Network", value_name = "PEM")]
    pub tls_key: Option<PathBuf>,

    /// Secret of the TLS tickets: clients continue their sessions after a restart with the same file; a missing
    /// file is created with mode 0600 [default: a secret of this process]
    #[arg(long, env = "GAME_SERVER_TLS_TICKET_KEYS", requires = "tls_listener")]
    #[arg(help_heading = "Network", value_name = "FILE")]
    pub tls_ticket_keys: Option<PathBuf>,

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

    /// Sessions at a time; 0: the number that the limit of open files allows, which is also the maximum
    /// with --metrics-addr
    #[arg(long, env = "GAME_SERVER_MAX_SESSIONS", default_value_t = 0)]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_sessions: usize,

    /// Sessions at a time from one address (or one IPv6 network of 64 bits); 0: off
    #[arg(long, env = "GAME_SERVER_MAX_SESSIONS_PER_IP", default_value_t = 0)]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_sessions_per_ip: usize,

    /// Connections a second from one address, with a burst of twice that; 0: off
    ///
    /// A connection over the limit is closed without a packet and counts as rejected.
    #[arg(long, env = "GAME_SERVER_MAX_CONNECTS_PER_IP_PER_SEC", default_value_t = 0, value_parser = value_parser!(u32).range(0..=100_000_000))]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_connects_per_ip_per_sec: u32,

    /// Network of a proxy, as an address or CIDR; repeatable, comma separated in the environment
    ///
    /// A connection from there begins with a header of the PROXY protocol, version 1 or 2, of at most 536 bytes
    /// within 2 s, or it is closed. Limits by address, bans, logs and /sessions use the address that the
    /// header names. From any other address a PROXY header is a bad_size.
    #[arg(
        long = "trusted-proxy",
        env = "GAME_SERVER_TRUSTED_PROXY",
        value_delimiter = ','
    )]
    #[arg(help_heading = "Network", value_name = "CIDR")]
    pub trusted_proxies: Vec<Cidr>,

    /// File of banned networks: one `CIDR [UNTIL] [# reason]` a line, UNTIL as 2031-12-24T18:00:00Z
    ///
    /// SIGHUP reads the file again; a file with an error changes nothing. A new connection of a banned address
    /// is closed without a packet and counts as rejected. A session that is connected stays connected.
    #[arg(long, env = "GAME_SERVER_BAN_FILE", value_parser = BanFile::open)]
    #[arg(help_heading = "Network", value_name = "FILE")]
    pub ban_file: Option<BanFile>,

    /// Broker of the cluster: redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// with --cluster-ca, or unix:///PATH
    ///
    /// A chat reaches the sessions of all nodes with the same broker. A broker that is away costs no tick: the chats
    /// for other nodes wait for 1 s and are then dropped and counted.
    #[cfg(feature = "cluster")]
    #[arg(long, env = "GAME_SERVER_CLUSTER", hide_env_values = true)]
    #[arg(help_heading = "Cluster", value_name = "URL")]
    pub cluster: Option<String>,

    /// PEM file with the certificates to trust for a broker at rediss://
    #[cfg(all(feature = "cluster", feature = "tls"))]
    #[arg(long, env = "GAME_SERVER_CLUSTER_CA", requires = "cluster")]
    #[arg(help_heading = "Cluster", value_name = "FILE")]
    pub cluster_ca: Option<std::path::PathBuf>,

    /// Name of this node in the cluster, up to 64 bytes
    #[cfg(feature = "cluster")]
    #[arg(long, env = "GAME_SERVER_NODE", default_value = "node")]
    #[arg(help_heading = "Cluster", value_name = "NAME")]
    pub node: String,

    /// Admit a session by a C_LOGIN packet, as the only one of its name in the cluster
    #[cfg(feature = "cluster")]
    #[arg(long, env = "GAME_SERVER_LOGIN", requires = "cluster")]
    #[arg(help_heading = "Cluster")]
    pub login: bool,

    /// Time from a connect to the first valid packet, in milliseconds; 0: off
    ///
    /// With 0, clients that connect and send nothing can take all sessions. Clients that only receive the hello
    /// need 0.
    #[arg(long, env = "GAME_SERVER_LOGIN_TIMEOUT_MS", default_value_t = 0, value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Limits", value_name = "MS")]
    pub login_timeout_ms: u64,

    /// Sessions at a time without a valid packet, with --login-timeout-ms; a further session ends the oldest
    /// of them; 0: half of the sessions
    #[arg(long, env = "GAME_SERVER_MAX_UNADMITTED", default_value_t = 0)]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_unadmitted: usize,

    /// Time for the handshake of TLS, for the upgrade to WebSocket, and for the header of a proxy, in milliseconds;
    /// 0: off
    #[arg(long, env = "GAME_SERVER_HANDSHAKE_TIMEOUT_MS", default_value_t = 5000, value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Limits", value_name = "MS")]
    pub handshake_timeout_ms: u64,

    /// Handshakes and upgrades to WebSocket at a time, and half of the sessions at most; a further handshake ends the oldest
    #[arg(long, env = "GAME_SERVER_MAX_HANDSHAKES", default_value_t = 1024, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 30))]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_handshakes: usize,

    /// Size of the largest packet from a client, header included
    #[arg(long, env = "GAME_SERVER_MAX_PACKET_BYTES", default_value_t = 65_535, value_parser = RangedU64ValueParser::<usize>::new().range(4..=65_535))]
    #[arg(help_heading = "Limits", value_name = "BYTES")]
    pub max_packet_bytes: usize,

    /// Unsent bytes of one session; a session above this for --max-send-grace-ms is a slow consumer
    #[arg(long, env = "GAME_SERVER_MAX_SEND_QUEUE_BYTES", default_value_t = 1 << 20, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 40))]
    #[arg(help_heading = "Limits", value_name = "BYTES")]
    pub max_send_queue_bytes: usize,

    /// Time for which unsent bytes may exceed --max-send-queue-bytes, in milliseconds; a session above eight
    /// times --max-send-queue-bytes is a slow consumer at once
    #[arg(long, env = "GAME_SERVER_MAX_SEND_GRACE_MS", default_value_t = 1000, value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Limits", value_name = "MS")]
    pub max_send_grace_ms: u64,

    /// Unsent bytes of all sessions together; above this, the sessions with the longest queues end; 0: a
    /// quarter of the memory that the machine, its control group and the address space allow
    #[arg(long, env = "GAME_SERVER_MAX_TOTAL_QUEUE_BYTES", default_value_t = 0, value_parser = RangedU64ValueParser::<usize>::new().range(0..=1 << 50))]
    #[arg(help_heading = "Limits", value_name = "BYTES")]
    pub max_total_queue_bytes: usize,

    /// Average bytes a second above which a client is exempt from --max-send-lag-ms; 0: no client is exempt
    #[arg(long, env = "GAME_SERVER_MIN_SEND_RATE_BYTES", default_value_t = 16_384, value_parser = value_parser!(u32).range(0..=1 << 30))]
    #[arg(help_heading = "Limits", value_name = "BYTES")]
    pub min_send_rate_bytes: u32,

    /// Age of the oldest unsent byte, in milliseconds; a session above this is a slow consumer; 0: off
    /// [default: 10 ticks, at least 5000]
    #[arg(long, env = "GAME_SERVER_MAX_SEND_LAG_MS", value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Limits", value_name = "MS")]
    pub max_send_lag_ms: Option<u64>,

    /// Time from the first byte of a packet to its last byte, in milliseconds; 0: off
    #[arg(long, env = "GAME_SERVER_PACKET_TIMEOUT_MS", default_value_t = 10_000, value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Limits", value_name = "MS")]
    pub packet_timeout_ms: u64,

    /// Time without a byte from the client after which a session ends, in milliseconds; 0: off
    #[arg(long, env = "GAME_SERVER_IDLE_TIMEOUT_MS", default_value_t = 0, value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Limits", value_name = "MS")]
    pub idle_timeout_ms: u64,

    /// Packets a second from one session, with a burst of twice that; 0: off
    #[arg(long, env = "GAME_SERVER_MAX_PACKETS_PER_SEC", default_value_t = 0, value_parser = value_parser!(u32).range(0..=100_000_000))]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_packets_per_sec: u32,

    /// Chats a second from one session, with a burst of twice that; 0: off
    #[arg(long, env = "GAME_SERVER_MAX_CHATS_PER_SEC", default_value_t = 10, value_parser = value_parser!(u32).range(0..=100_000_000))]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_chats_per_sec: u32,

    /// Chats a second from one address (or one IPv6 network of 64 bits), with a burst of twice that;
    /// 0: off [default: 4 times --max-chats-per-sec]
    ///
    /// A reconnect does not reset the budget. A chat over the budget waits for up to 2 s; a chat with a longer
    /// wait is dropped. The session stays connected: players may share an address. A load test that chats from
    /// one address needs 0.
    #[arg(long, env = "GAME_SERVER_MAX_CHATS_PER_IP_PER_SEC", value_parser = value_parser!(u32).range(0..=400_000_000))]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_chats_per_ip_per_sec: Option<u32>,

    /// Address of the HTTP port with /metrics, /healthz, /sessions and a live page at /; port 0 takes a free
    /// port [default: off]
    #[arg(long, env = "GAME_SERVER_METRICS_ADDR", value_parser = parse_addrs)]
    #[arg(help_heading = "Output", value_name = "HOST:PORT")]
    pub metrics_addr: Option<Addresses>,

    /// Host name that the HTTP port accepts besides its own address and loopback names; repeatable, comma
    /// separated in the environment
    #[arg(
        long = "admin-host",
        env = "GAME_SERVER_ADMIN_HOST",
        value_delimiter = ','
    )]
    #[arg(help_heading = "Output", value_name = "NAME")]
    pub admin_hosts: Vec<Host>,

    /// Interval of the summary line in the log; 0: off
    #[arg(long, env = "GAME_SERVER_STATS_INTERVAL_SECS", default_value = "5", value_parser = parse_seconds)]
    #[arg(help_heading = "Output", value_name = "SECS")]
    pub stats_interval_secs: Duration,

    /// Longest time for a shutdown to flush
    #[arg(long, env = "GAME_SERVER_DRAIN_SECS", default_value = "2", value_parser = parse_seconds)]
    #[arg(help_heading = "Network", value_name = "SECS")]
    pub drain_secs: Duration,

    /// Check whether this machine can do what the other flags ask for, print a table, and exit
    #[arg(long, env = "GAME_SERVER_CHECK")]
    #[arg(help_heading = "Output")]
    pub check: bool,
}

const AFTER_HELP: &str = "\
Exit status: 0 after SIGINT or SIGTERM, 1 if the server could not run, 2 for bad usage. With --check:
0 if no check failed, 2 if a check failed.
SIGHUP reads --ban-file, --tls-cert and --tls-key again. Without these, SIGHUP is logged and changes nothing.
Logs go to standard error, at level info; RUST_LOG changes the level (RUST_LOG=trace logs each packet).

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
                "the payload of the hello has {needed} bytes, and the limit is {MAX_PAYLOAD_BYTES}: \
                 shorten --message or --payload-bytes"
            ));
        }
        let uses_tls = self.tls_addr.is_some() || self.wss_addr.is_some();
        if uses_tls && !cfg!(feature = "tls") {
            return Err("--tls-addr and --wss-addr need a build with the feature `tls`".into());
        }
        let addrs = [&self.ws_addr, &self.wss_addr];
        let uses_websocket = addrs.iter().any(|addr| addr.is_some()) || !self.ws_origins.is_empty();
        if uses_websocket && !cfg!(feature = "websocket") {
            return Err("WebSocket needs a build with the feature `websocket`".into());
        }
        #[cfg(feature = "websocket")]
        self.origins()?;
        Ok(())
    }

    /// The origins whose pages may connect by WebSocket; all, if there are none.
    ///
    /// # Errors
    /// A text is not an origin.
    #[cfg(feature = "websocket")]
    pub fn origins(&self) -> Result<Vec<server_core::Origin>, String> {
        let origins = self.ws_origins.iter();
        (origins.map(|text| text.parse()))
            .collect::<Result<_, server_core::InvalidOrigin>>()
            .map_err(|error| format!("--ws-origin: {error}"))
    }

    /// What the listener for TLS needs, if there is one.
    ///
    /// # Errors
    /// A file cannot be read, or the key is not that of the certificate.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> std::io::Result<Option<server_core::TlsServerConfig>> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else {
            return Ok(None);
        };
        let tls = server_core::TlsServerConfig::from_files(cert, key)?;
        Ok(Some(match &self.tls_ticket_keys {
            Some(file) => tls.with_ticket_keys(file)?,
            None => tls,
        }))
    }

    /// The files of TLS, as `--check` reads them: a missing file of ticket keys is not created.
    #[cfg(feature = "tls")]
    pub fn tls_files(&self) -> Option<Check> {
        let (cert, key) = (self.tls_cert.as_ref()?, self.tls_key.as_ref()?);
        let ticket_keys = self.tls_ticket_keys.as_ref().filter(|file| file.exists());
        let read =
            server_core::TlsServerConfig::from_files(cert, key).and_then(|tls| match ticket_keys {
                Some(file) => tls.with_ticket_keys(file),
                None => Ok(tls),
            });
        Some(Check::Certificate {
            file: cert.display().to_string(),
            read: read.map(drop),
        })
    }

    /// The bytes after the tick number of each hello: text, then zeros.
    pub fn hello_tail(&self) -> Vec<u8> {
        let mut tail = self.message.clone().into_bytes();
        let padded = self.payload_bytes.saturating_sub(size_of::<SHello>());
        // Above the limit only the length matters, for the error message.
        tail.resize(tail.len().max(padded.min(MAX_PAYLOAD_BYTES + 1)), 0);
        tail
    }

    /// The value of `--max-sessions`. `None`: the number that the limit of open files allows.
    pub fn sessions_asked(&self) -> Option<u64> {
        (self.max_sessions > 0).then_some(self.max_sessions as u64)
    }

    /// The number of sessions that this limit of open files allows.
    pub fn sessions_allowed(&self, fd_limit: Option<u64>) -> u64 {
        sessions_allowed(fd_limit.unwrap_or(0), self.descriptors_aside())
    }

    /// The descriptors that the server needs.
    pub fn open_files(&self) -> Check {
        let sessions = self.sessions_asked();
        // Fewer than the sessions, like the other files in `sessions_allowed`.
        let most = sessions.map_or(u64::MAX, |asked| asked - 1);
        Check::OpenFiles {
            sessions,
            other_files: self.descriptors_aside().min(most),
        }
    }

    /// Descriptors of the standard streams, the listeners, the workers, refused connections, connections of
    /// proxies and the metrics port.
    fn descriptors_aside(&self) -> u64 {
        let workers = self.workers.unwrap_or(Config::default().workers);
        let listeners = [&self.tls_addr, &self.ws_addr, &self.wss_addr];
        let listeners = listeners.iter().filter(|addr| addr.is_some()).count();
        let metrics = self
            .metrics_addr
            .as_ref()
            .map_or(0, |_| Admin::MAX_DESCRIPTORS);
        // Connections that the listener keeps, although all sessions are taken, until a proxy has named them.
        let proxied = if self.trusted_proxies.is_empty() {
            0
        } else {
            64
        };
        (160 + listeners + 4 * workers + metrics + proxied) as u64
    }

    /// The period of the tick, if there is one.
    pub fn tick_period(&self) -> Option<Duration> {
        millis_or_off(self.tick_ms)
    }

    /// The limits of the library. Without `--max-sessions`, and with an admin port, which needs descriptors,
    /// `fd_limit` bounds the number of sessions.
    pub fn config(&self, fd_limit: u64) -> Config {
        let mut config = Config::default();
        config.workers = self.workers.unwrap_or(config.workers);
        let allowed = self.sessions_allowed(Some(fd_limit));
        let most = match self.sessions_asked() {
            None => allowed,
            // Further sessions would take the descriptors of the admin port.
            Some(asked) if self.metrics_addr.is_some() => asked.min(allowed),
            Some(asked) => asked,
        };
        config.max_sessions = Some(usize::try_from(most).unwrap_or(usize::MAX));
        config.max_sessions_per_ip =
            (self.max_sessions_per_ip > 0).then_some(self.max_sessions_per_ip);
        config.max_connects_per_ip_per_sec =
            (self.max_connects_per_ip_per_sec > 0).then_some(self.max_connects_per_ip_per_sec);
        config.trusted_proxies.clone_from(&self.trusted_proxies);
        config.login_timeout = millis_or_off(self.login_timeout_ms);
        config.max_unadmitted = (self.max_unadmitted > 0).then_some(self.max_unadmitted);
        config.handshake_timeout = millis_or_off(self.handshake_timeout_ms);
        config.max_handshakes = self.max_handshakes;
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

    /// Whether a session has to send a valid packet within `--login-timeout-ms`.
    pub fn requires_login(&self) -> bool {
        #[cfg(feature = "cluster")]
        if self.login {
            return true;
        }
        self.login_timeout_ms > 0
    }

    /// The warning of a start that accepts silent peers from other machines.
    pub fn silence_warning(&self) -> Option<&'static str> {
        let is_loopback = |addr: &std::net::SocketAddr| addr.ip().to_canonical().is_loopback();
        let addrs = [
            Some(&self.addr),
            self.tls_addr.as_ref(),
            self.ws_addr.as_ref(),
            self.wss_addr.as_ref(),
        ];
        let mut addrs = addrs.iter().flatten().flat_map(|addrs| addrs.all());
        (!self.requires_login() && !addrs.all(is_loopback)).then_some(
            "silent peers can take all sessions and keep them: --login-timeout-ms ends silent peers",
        )
    }
}

fn millis_or_off(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use server_core::host::checks::evaluate;
    use server_core::host::{HostLimits, Severity};

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
    fn trusted_proxies_are_repeatable_and_checked() {
        let proxies = |flags: &[&str]| {
            let config = parse(flags).map(|args| args.config(1000));
            config.map(|config| config.trusted_proxies.len()).ok()
        };
        assert_eq!(proxies(&[]), Some(0));
        let flags = [
            "--trusted-proxy=10.0.0.0/8",
            "--trusted-proxy=::1,192.0.2.7",
        ];
        assert_eq!(proxies(&flags), Some(3));
        assert_eq!(proxies(&["--trusted-proxy=10.0.0.1/8"]), None);
        assert_eq!(proxies(&["--trusted-proxy=proxy.example"]), None);
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
        assert!(warns(&["--ws-addr=0.0.0.0:7780"]) && !warns(&["--ws-addr=[::1]:7780"]));
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

    /// `--max-sessions` up to the allowed number passes the check, and one more session fails.
    #[test]
    fn the_check_agrees_with_the_number_of_sessions_that_are_taken() {
        for limit in [16, 64, 400, 1024, 20_000] {
            for flags in [&[][..], &["--metrics-addr=127.0.0.1:0"]] {
                let allowed = parse(flags).unwrap().sessions_allowed(Some(limit));
                assert!(allowed <= limit && allowed >= limit / 2);
            }
            let mut limits = HostLimits::default();
            limits.fd_soft_limit = Some(limit);
            let allowed = parse(&[]).unwrap().sessions_allowed(Some(limit));
            for (asked, severity) in [(allowed, Severity::Ok), (allowed + 1, Severity::Fail)] {
                let args = parse(&["--max-sessions", &asked.to_string()]).unwrap();
                let findings = evaluate(&limits, &[args.open_files()]);
                let [finding] = &findings[..] else {
                    panic!("{findings:?}");
                };
                assert_eq!(finding.severity, severity, "{asked} of {limit}: {finding}");
            }
        }
    }
}
