//! The flags of a server program.

use super::ban_file::BanFile;
use crate::admin::{Admin, Host};
use crate::base::cidr::Cidr;
use crate::base::config::Config;
use crate::host::checks::{Check, sessions_allowed};
use crate::host::{Addresses, parse_addrs, parse_seconds};
use clap::builder::RangedU64ValueParser;
use clap::{ArgGroup, Command, Parser, value_parser};
use std::path::PathBuf;
use std::time::Duration;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// The flags that each server program has: addresses, limits, admin port, `--check`. A program with flags of its
/// own flattens them into its own:
///
/// ```
/// use server_core::app::{self, AppArgs, clap};
///
/// /// My game
/// #[derive(clap::Parser)]
/// struct Args {
///     #[command(flatten)]
///     app: AppArgs,
///
///     /// Monsters in the world
///     #[arg(long, default_value_t = 3)]
///     monsters: u32,
/// }
///
/// # fn main() {
/// let args: Args = app::parse_from("MY_GAME", ["my_game", "--monsters", "5", "--addr", "127.0.0.1:0"]);
/// assert_eq!((args.monsters, args.app.addr.first().port()), (5, 0));
/// # }
/// ```
///
/// 0 switches a timeout, rate or interval off.
#[derive(Clone, Debug, clap::Args)]
#[command(group(ArgGroup::new("tls_listener").args(["tls_addr", "wss_addr"]).multiple(true)))]
#[command(group(ArgGroup::new("ws_listener").args(["ws_addr", "wss_addr"]).multiple(true)))]
#[non_exhaustive]
pub struct AppArgs {
    /// Address to listen on; port 0 takes a free port. A name with several addresses: the first address
    /// that can be bound
    #[arg(long, default_value = "127.0.0.1:7777", value_parser = parse_addrs)]
    #[arg(help_heading = "Network", value_name = "HOST:PORT")]
    pub addr: Addresses,

    /// Address of a listener for TLS; needs --tls-cert and --tls-key, and a build with the feature `tls`
    /// [default: off]
    #[arg(long, value_parser = parse_addrs, requires_all = ["tls_cert", "tls_key"])]
    #[arg(help_heading = "Network", value_name = "HOST:PORT")]
    pub tls_addr: Option<Addresses>,

    /// Address of a listener for WebSocket, for browsers; needs a build with the feature `websocket`
    /// [default: off]
    ///
    /// The payloads of the binary messages, joined, are the byte stream of packets.
    #[arg(long, value_parser = parse_addrs)]
    #[arg(help_heading = "Network", value_name = "HOST:PORT")]
    pub ws_addr: Option<Addresses>,

    /// Address of a listener for WebSocket over TLS; needs --tls-cert and --tls-key, and a build with the
    /// features `tls` and `websocket` [default: off]
    #[arg(long, value_parser = parse_addrs, requires_all = ["tls_cert", "tls_key"])]
    #[arg(help_heading = "Network", value_name = "HOST:PORT")]
    pub wss_addr: Option<Addresses>,

    /// Origin whose pages may connect by WebSocket, as SCHEME://HOST or SCHEME://HOST:PORT; repeatable, comma
    /// separated in the environment; without it, pages of all origins may
    ///
    /// A client that is not a page sends no origin, and may connect.
    #[arg(long = "ws-origin", value_delimiter = ',', requires = "ws_listener")]
    #[arg(help_heading = "Network", value_name = "ORIGIN")]
    pub ws_origins: Vec<String>,

    /// Chain of certificates for TLS, the certificate of the server first; SIGHUP reads the file again
    #[arg(long, requires = "tls_listener")]
    #[arg(help_heading = "Network", value_name = "PEM")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the certificate; SIGHUP reads the file again
    ///
    /// A pair that does not belong together ends a start; on SIGHUP the server keeps the pair before it. An ECDSA
    /// key (P-256) costs the server a fraction of the processor time of an RSA key.
    #[arg(long, requires = "tls_listener")]
    #[arg(help_heading = "Network", value_name = "PEM")]
    pub tls_key: Option<PathBuf>,

    /// Secret of the TLS tickets: clients continue their sessions after a restart with the same file; a missing
    /// file is created with mode 0600 [default: a secret of this process]
    #[arg(long, requires = "tls_listener")]
    #[arg(help_heading = "Network", value_name = "FILE")]
    pub tls_ticket_keys: Option<PathBuf>,

    /// Event loops, one thread each [default: number of cores]
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    #[arg(help_heading = "Network", value_name = "N")]
    pub workers: Option<usize>,

    /// Sessions at a time; 0: the number that the limit of open files allows, which is also the maximum
    /// with --metrics-addr
    #[arg(long, default_value_t = 0)]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_sessions: usize,

    /// Sessions at a time from one address (or one IPv6 network of 64 bits); 0: off
    #[arg(long, default_value_t = 0)]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_sessions_per_ip: usize,

    /// Connections a second from one address, with a burst of twice that; 0: off
    ///
    /// A connection over the limit is closed without a packet and counts as rejected.
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u32).range(0..=100_000_000))]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_connects_per_ip_per_sec: u32,

    /// Network of a proxy, as an address or CIDR; repeatable, comma separated in the environment
    ///
    /// A connection from there begins with a header of the PROXY protocol, version 1 or 2, of at most 536 bytes
    /// within 2 s, or it is closed. Limits by address, bans, logs and /sessions use the address that the
    /// header names. From any other address a PROXY header is a bad_size.
    #[arg(long = "trusted-proxy", value_delimiter = ',')]
    #[arg(help_heading = "Network", value_name = "CIDR")]
    pub trusted_proxies: Vec<Cidr>,

    /// File of banned networks: one `CIDR [UNTIL] [# reason]` a line, UNTIL as 2031-12-24T18:00:00Z
    ///
    /// SIGHUP reads the file again; a file with an error changes nothing. A new connection of a banned address
    /// is closed without a packet and counts as rejected. A session that is connected stays connected.
    #[arg(long, value_parser = BanFile::open)]
    #[arg(help_heading = "Network", value_name = "FILE")]
    pub ban_file: Option<BanFile>,

    /// Time from a connect to the login, in milliseconds, for games that require a login; 0: off [default: that of
    /// the game, or 10000]
    ///
    /// With 0, clients that connect and send nothing can take all sessions.
    #[arg(long, value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Limits", value_name = "MS")]
    pub login_timeout_ms: Option<u64>,

    /// Sessions at a time without a login, with --login-timeout-ms; a further session ends the oldest
    /// of them; 0: half of the sessions
    #[arg(long, default_value_t = 0)]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_unadmitted: usize,

    /// Time for the handshake of TLS, for the upgrade to WebSocket, and for the header of a proxy, in milliseconds;
    /// 0: off
    #[arg(long, default_value_t = 5000, value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Limits", value_name = "MS")]
    pub handshake_timeout_ms: u64,

    /// Handshakes and upgrades to WebSocket at a time, and half of the sessions at most; a further handshake ends the oldest
    #[arg(long, default_value_t = 1024, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 30))]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_handshakes: usize,

    /// Size of the largest packet from a client, header included
    #[arg(long, default_value_t = 65_535, value_parser = RangedU64ValueParser::<usize>::new().range(4..=65_535))]
    #[arg(help_heading = "Limits", value_name = "BYTES")]
    pub max_packet_bytes: usize,

    /// Unsent bytes of one session; a session above this for --max-send-grace-ms is a slow consumer
    #[arg(long, default_value_t = 1 << 20, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 40))]
    #[arg(help_heading = "Limits", value_name = "BYTES")]
    pub max_send_queue_bytes: usize,

    /// Time for which unsent bytes may exceed --max-send-queue-bytes, in milliseconds; a session above eight
    /// times --max-send-queue-bytes is a slow consumer at once
    #[arg(long, default_value_t = 1000, value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Limits", value_name = "MS")]
    pub max_send_grace_ms: u64,

    /// Unsent bytes of all sessions together; above this, the sessions with the longest queues end; 0: a
    /// quarter of the memory that the machine, its control group and the address space allow
    #[arg(long, default_value_t = 0, value_parser = RangedU64ValueParser::<usize>::new().range(0..=1 << 50))]
    #[arg(help_heading = "Limits", value_name = "BYTES")]
    pub max_total_queue_bytes: usize,

    /// Average bytes a second above which a client is exempt from --max-send-lag-ms; 0: no client is exempt
    #[arg(long, default_value_t = 16_384, value_parser = value_parser!(u32).range(0..=1 << 30))]
    #[arg(help_heading = "Limits", value_name = "BYTES")]
    pub min_send_rate_bytes: u32,

    /// Age of the oldest unsent byte, in milliseconds; a session above this is a slow consumer; 0: off
    /// [default: 10 ticks, at least 5000]
    #[arg(long, value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Limits", value_name = "MS")]
    pub max_send_lag_ms: Option<u64>,

    /// Time from the first byte of a packet to its last byte, in milliseconds; 0: off
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Limits", value_name = "MS")]
    pub packet_timeout_ms: u64,

    /// Time without a byte from the client after which a session ends, in milliseconds; 0: off
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u64).range(0..=DAY_MS))]
    #[arg(help_heading = "Limits", value_name = "MS")]
    pub idle_timeout_ms: u64,

    /// Packets a second from one session, with a burst of twice that; 0: off
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u32).range(0..=100_000_000))]
    #[arg(help_heading = "Limits", value_name = "N")]
    pub max_packets_per_sec: u32,

    /// Address of the HTTP port with /metrics, /healthz, /sessions and a live page at /; port 0 takes a free
    /// port [default: off]
    #[arg(long, value_parser = parse_addrs)]
    #[arg(help_heading = "Output", value_name = "HOST:PORT")]
    pub metrics_addr: Option<Addresses>,

    /// Host name that the HTTP port accepts besides its own address and loopback names; repeatable, comma
    /// separated in the environment
    #[arg(long = "admin-host", value_delimiter = ',')]
    #[arg(help_heading = "Output", value_name = "NAME")]
    pub admin_hosts: Vec<Host>,

    /// Longest time for a shutdown to flush
    #[arg(long, default_value = "2", value_parser = parse_seconds)]
    #[arg(help_heading = "Network", value_name = "SECS")]
    pub drain_secs: Duration,

    /// Check whether this machine can do what the other flags ask for, print a table, and exit
    #[arg(long)]
    #[arg(help_heading = "Output")]
    pub check: bool,
}

/// Reads the command line. Each flag has an environment variable, too: `env_prefix`, `_` and the name of the flag
/// in capitals, for example `MY_GAME_MAX_SESSIONS`. Bad usage ends the process with status 2.
pub fn parse<A: Parser>(env_prefix: &str) -> A {
    parse_from(env_prefix, std::env::args_os())
}

/// Like [`parse`], from these arguments. The first one is the name of the program.
pub fn parse_from<A: Parser>(
    env_prefix: &str,
    args: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>,
) -> A {
    try_parse_from(env_prefix, args).unwrap_or_else(|error| error.exit())
}

/// Like [`parse_from`], without an end of the process.
///
/// # Errors
/// The arguments are not those of the program, or ask for its help.
pub fn try_parse_from<A: Parser>(
    env_prefix: &str,
    args: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>,
) -> Result<A, clap::Error> {
    let mut command = with_env(A::command(), env_prefix);
    let matches = command.try_get_matches_from_mut(args)?;
    A::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Gives each flag its environment variable.
pub(super) fn with_env(command: Command, prefix: &str) -> Command {
    command.mut_args(|arg| {
        let name = arg
            .get_long()
            .map(|long| long.replace('-', "_").to_uppercase());
        match name {
            Some(name) => arg.env(format!("{prefix}_{name}")),
            None => arg,
        }
    })
}

impl AppArgs {
    /// Checks what one flag alone does not tell.
    ///
    /// # Errors
    /// The features of the build do not contain what the flags ask for, or a text is not an origin.
    pub fn validate(&self) -> Result<(), String> {
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
    pub(super) fn origins(&self) -> Result<Vec<crate::protocol::upgrade::Origin>, String> {
        let origins = self.ws_origins.iter();
        (origins.map(|text| text.parse()))
            .collect::<Result<_, crate::protocol::upgrade::InvalidOrigin>>()
            .map_err(|error| format!("--ws-origin: {error}"))
    }

    /// What the listener for TLS needs, if there is one.
    ///
    /// # Errors
    /// A file cannot be read, or the key is not that of the certificate.
    #[cfg(feature = "tls")]
    pub(super) fn tls(&self) -> std::io::Result<Option<crate::runtime::tls::TlsServerConfig>> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else {
            return Ok(None);
        };
        let tls = crate::runtime::tls::TlsServerConfig::from_files(cert, key)?;
        Ok(Some(match &self.tls_ticket_keys {
            Some(file) => tls.with_ticket_keys(file)?,
            None => tls,
        }))
    }

    /// The files of TLS, as `--check` reads them: a missing file of ticket keys is not created.
    #[cfg(feature = "tls")]
    pub(super) fn tls_files(&self) -> Option<Check> {
        let (cert, key) = (self.tls_cert.as_ref()?, self.tls_key.as_ref()?);
        let ticket_keys = self.tls_ticket_keys.as_ref().filter(|file| file.exists());
        let read = crate::runtime::tls::TlsServerConfig::from_files(cert, key).and_then(|tls| {
            match ticket_keys {
                Some(file) => tls.with_ticket_keys(file),
                None => Ok(tls),
            }
        });
        Some(Check::Certificate {
            file: cert.display().to_string(),
            read: read.map(drop),
        })
    }

    /// The value of `--max-sessions`. `None`: the number that the limit of open files allows.
    pub(super) fn sessions_asked(&self) -> Option<u64> {
        (self.max_sessions > 0).then_some(self.max_sessions as u64)
    }

    /// The number of sessions that this limit of open files allows.
    pub(super) fn sessions_allowed(&self, fd_limit: Option<u64>) -> u64 {
        sessions_allowed(fd_limit.unwrap_or(0), self.descriptors_aside())
    }

    /// The descriptors that the server needs.
    pub(super) fn open_files(&self) -> Check {
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

    /// Sets the limits that have flags. Without `--max-sessions`, and with an admin port, which needs descriptors,
    /// `fd_limit` bounds the number of sessions. The period of the ticks is for `--max-send-lag-ms`.
    pub fn apply(&self, config: &mut Config, fd_limit: u64, tick_period: Option<Duration>) {
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
        if let Some(millis) = self.login_timeout_ms {
            config.login_timeout = millis_or_off(millis);
        }
        config.max_unadmitted = (self.max_unadmitted > 0).then_some(self.max_unadmitted);
        config.handshake_timeout = millis_or_off(self.handshake_timeout_ms);
        config.max_handshakes = self.max_handshakes;
        config.max_packet_bytes = self.max_packet_bytes;
        config.max_send_queue_bytes = self.max_send_queue_bytes;
        config.max_send_grace = Duration::from_millis(self.max_send_grace_ms);
        config.max_total_queue_bytes =
            (self.max_total_queue_bytes > 0).then_some(self.max_total_queue_bytes);
        config.min_send_rate_bytes = self.min_send_rate_bytes;
        let ten_ticks = tick_period.unwrap_or_default().saturating_mul(10);
        config.max_send_lag = match self.max_send_lag_ms {
            Some(millis) => millis_or_off(millis),
            None => Some(ten_ticks.max(Duration::from_secs(5))),
        };
        config.packet_timeout = millis_or_off(self.packet_timeout_ms);
        config.idle_timeout = millis_or_off(self.idle_timeout_ms);
        config.max_packets_per_sec =
            (self.max_packets_per_sec > 0).then_some(self.max_packets_per_sec);
    }

    /// The warning of a start that accepts silent peers from other machines.
    pub(super) fn silence_warning(&self, config: &Config, requires_login: bool) -> Option<String> {
        let is_loopback = |addr: &std::net::SocketAddr| addr.ip().to_canonical().is_loopback();
        let addrs = [
            Some(&self.addr),
            self.tls_addr.as_ref(),
            self.ws_addr.as_ref(),
            self.wss_addr.as_ref(),
        ];
        let mut addrs = addrs.iter().flatten().flat_map(|addrs| addrs.all());
        let (login_timeout, flag) = if requires_login {
            (config.login_timeout, "--login-timeout-ms")
        } else {
            (None, "--idle-timeout-ms")
        };
        let is_endless = login_timeout.or(config.idle_timeout).is_none();
        (is_endless && !addrs.all(is_loopback)).then(|| {
            format!("silent peers can take all sessions and keep them: {flag} ends silent peers")
        })
    }
}

fn millis_or_off(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::checks::evaluate;
    use crate::host::{HostLimits, Severity};
    use clap::CommandFactory;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        app: AppArgs,
    }

    fn parse(args: &[&str]) -> Result<AppArgs, clap::Error> {
        let program: Program = try_parse_from("MY_GAME", ["my_game"].iter().chain(args))?;
        Ok(program.app)
    }

    fn config(args: &AppArgs, fd_limit: u64) -> Config {
        let mut config = Config::default();
        args.apply(&mut config, fd_limit, None);
        config
    }

    #[test]
    fn the_command_line_is_well_formed_and_each_flag_has_its_variable() {
        let mut command = with_env(Program::command(), "MY_GAME");
        command.clone().debug_assert();
        let help = command.render_long_help().to_string();
        for flag in Program::command().get_arguments() {
            let Some(long) = flag.get_long() else {
                continue;
            };
            let name = long.replace('-', "_").to_uppercase();
            assert!(help.contains(&format!("[env: MY_GAME_{name}=")), "{long}");
        }
    }

    #[test]
    fn a_metrics_port_keeps_its_descriptors() {
        let most = |flags: &[&str]| config(&parse(flags).unwrap(), 2_000).max_sessions.unwrap();
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
            let args = parse(flags).ok()?;
            Some(config(&args, 1000).trusted_proxies.len())
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
    fn zero_switches_off_and_the_lag_follows_the_ticks() {
        let args = parse(&["--max-send-lag-ms=0", "--packet-timeout-ms=0"]).unwrap();
        let off = config(&args, 1000);
        assert_eq!((off.max_send_lag, off.packet_timeout), (None, None));
        assert!(parse(&["--max-send-queue-bytes=0"]).is_err());
        let mut slow = Config::default();
        parse(&[])
            .unwrap()
            .apply(&mut slow, 1000, Some(Duration::from_secs(60)));
        assert_eq!(slow.max_send_lag, Some(Duration::from_secs(600)));
    }

    #[test]
    fn login_timeout_is_that_of_the_game_without_a_flag() {
        let with = |flags: &[&str]| {
            let seconds = Duration::from_secs(3);
            let mut config = Config {
                login_timeout: Some(seconds),
                ..Config::default()
            };
            parse(flags).unwrap().apply(&mut config, 1000, None);
            config.login_timeout
        };
        assert_eq!(with(&[]), Some(Duration::from_secs(3)));
        assert_eq!(with(&["--login-timeout-ms=0"]), None);
        let flag = ["--login-timeout-ms=50"];
        assert_eq!(with(&flag), Some(Duration::from_millis(50)));
        let args = parse(&[]).unwrap();
        let default = Config::default().login_timeout;
        assert_eq!(config(&args, 1000).login_timeout, default);
    }

    #[test]
    fn a_start_warns_of_silent_peers_where_they_can_come_from_elsewhere() {
        let warns = |flags: &[&str]| {
            let args = parse(&[&["--login-timeout-ms=0"], flags].concat()).unwrap();
            args.silence_warning(&config(&args, 1000), true).is_some()
        };
        assert!(warns(&["--addr=0.0.0.0:7777"]) && warns(&["--addr=[::]:7777"]));
        assert!(!warns(&[]) && !warns(&["--addr=[::1]:7777"]));
        assert!(!warns(&["--addr=[::ffff:127.0.0.1]:7777"]));
        assert!(warns(&["--ws-addr=0.0.0.0:7780"]) && !warns(&["--ws-addr=[::1]:7780"]));
        let limited = parse(&["--addr=0.0.0.0:7777"]).unwrap();
        assert_eq!(limited.silence_warning(&config(&limited, 1000), true), None);
        assert!(!warns(&["--addr=0.0.0.0:7777", "--idle-timeout-ms=1000"]));
    }

    /// No login timeout ends a session that needs no login.
    #[test]
    fn a_start_of_a_game_without_login_warns_of_silent_peers_by_the_idle_timeout() {
        let warning = |flags: &[&str]| {
            let args = parse(&[&["--addr=0.0.0.0:7777"], flags].concat()).unwrap();
            args.silence_warning(&config(&args, 1000), false)
        };
        assert!(warning(&[]).unwrap().contains("--idle-timeout-ms"));
        assert_eq!(warning(&["--idle-timeout-ms=1000"]), None);
    }

    /// `--max-sessions` up to the allowed number passes the check, and one more session fails.
    #[test]
    fn the_check_agrees_with_the_number_of_sessions_that_are_taken() {
        for limit in [16, 64, 400, 1024, 20_000] {
            for flags in [&[][..], &["--metrics-addr=127.0.0.1:0"]] {
                let allowed = parse(flags).unwrap().sessions_allowed(Some(limit));
                assert!(allowed <= limit && allowed >= limit / 2);
            }
            let limits = HostLimits {
                fd_soft_limit: Some(limit),
                ..HostLimits::default()
            };
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
