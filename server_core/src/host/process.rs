//! What both programs do with their process: logs, signals, descriptors, last words.

use crate::base::start;
use crossbeam_channel::Receiver;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// Logs to standard error, through `default_filter` (for example `info`) unless `RUST_LOG` says
/// otherwise.
pub fn init_logs(default_filter: &str) {
    log_builder(default_filter).init();
}

/// The same through a writer of one's own, which ends at standard error.
pub fn init_logs_through(default_filter: &str, writer: impl Write + Send + 'static) {
    let mut builder = log_builder(default_filter);
    // Behind a writer the logger cannot see whether there is a terminal.
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let is_forbidden = is_set("NO_COLOR") || is_set("RUST_LOG_STYLE") || is_dumb;
    if io::stderr().is_terminal() && !is_forbidden {
        builder.write_style(env_logger::WriteStyle::Always);
    }
    builder.target(env_logger::Target::Pipe(Box::new(writer)));
    builder.init();
}

fn log_builder(default_filter: &str) -> env_logger::Builder {
    let env = env_logger::Env::default().default_filter_or(default_filter);
    env_logger::Builder::from_env(env)
}

/// The first SIGINT or SIGTERM arrives in the channel, and `notify` is called; a second one ends the
/// process at once.
///
/// # Errors
/// If the handlers cannot be installed, or their thread cannot be started.
pub fn stop_signals(notify: impl Fn() + Send + 'static) -> io::Result<Receiver<i32>> {
    stop_signals_of(&[SIGINT, SIGTERM], notify)
}

/// The same, and SIGHUP, which ends a process by default, is logged and changes nothing: there is
/// nothing to reload.
///
/// # Errors
/// As there.
pub fn stop_signals_but_hangup(notify: impl Fn() + Send + 'static) -> io::Result<Receiver<i32>> {
    stop_signals_of(&[SIGINT, SIGTERM, SIGHUP], notify)
}

fn stop_signals_of(
    signals: &[i32],
    notify: impl Fn() + Send + 'static,
) -> io::Result<Receiver<i32>> {
    let mut signals = Signals::new(signals)
        .map_err(|error| start::failed("cannot install the signal handlers", error))?;
    let (sender, receiver) = crossbeam_channel::bounded(1);
    start::spawn("signals", move || {
        let mut is_first = true;
        for signal in signals.forever() {
            if signal == SIGHUP {
                log::info!("SIGHUP ignored: there is nothing to reload");
                continue;
            }
            if !std::mem::take(&mut is_first) {
                std::process::exit(128 + signal);
            }
            // Nobody listens any more: then the process is about to end anyway.
            let _ = sender.send(signal);
            notify();
        }
    })?;
    Ok(receiver)
}

/// Raises the soft limit of open files to the hard one, and returns what it is then.
#[must_use]
pub fn raise_fd_limit() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX).unwrap_or_else(|error| {
        log::warn!("the limit of open files could not be raised: {error}");
        rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(1024, |(soft, _)| soft)
    })
}

/// One line on standard error, whatever the log level. A closed standard error is no reason to
/// panic.
pub fn complain(program: &str, what: impl Display) {
    let _ = writeln!(io::stderr(), "{program}: {what}");
}

/// HOST:PORT from a command line, and its addresses: a name may have several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    text: String,
    /// At least one.
    addrs: Vec<SocketAddr>,
}

impl Addresses {
    /// All of them, in the order in which to try them.
    #[must_use]
    pub fn all(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The first one.
    #[must_use]
    pub fn first(&self) -> SocketAddr {
        self.addrs[0]
    }

    /// Whether the name has more than one.
    #[must_use]
    pub fn are_several(&self) -> bool {
        self.addrs.len() > 1
    }

    /// This one is the first one from now on.
    pub fn prefer(&mut self, addr: SocketAddr) {
        self.addrs.retain(|one| *one != addr);
        self.addrs.insert(0, addr);
    }
}

/// As it was given; a name with its addresses, if there are several.
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if self.are_several() {
            let addrs: Vec<String> = self.addrs.iter().map(SocketAddr::to_string).collect();
            write!(f, " ({})", addrs.join(", "))?;
        }
        Ok(())
    }
}

/// Reads HOST:PORT from the command line. A name is looked up.
///
/// # Errors
/// Why it has no address, in the user's words.
pub fn parse_addrs(text: &str) -> Result<Addresses, String> {
    let mut addrs: Vec<SocketAddr> = Vec::new();
    let found = text
        .to_socket_addrs()
        .map_err(|error| format!("{error}; expected HOST:PORT, for example 127.0.0.1:7777"))?;
    for addr in found {
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    match addrs.is_empty() {
        true => Err("the name has no address".into()),
        false => Ok(Addresses {
            text: text.into(),
            addrs,
        }),
    }
}

/// As [`parse_addrs`], but takes the first address of a name.
///
/// # Errors
/// As there.
pub fn parse_addr(text: &str) -> Result<SocketAddr, String> {
    parse_addrs(text).map(|addrs| addrs.first())
}

/// Reads seconds, whole or with a fraction, from the command line.
///
/// # Errors
/// Why they are none, in the user's words.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| String::from("expected a number of seconds"))?;
    match seconds {
        0.0..=MAX_SECONDS => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("expected 0 to {MAX_SECONDS} seconds")),
    }
}

/// About three years: far below where clocks overflow.
const MAX_SECONDS: f64 = 1e8;

/// Bytes (or bytes a second) for people, with decimal units.
#[must_use]
pub fn human_bytes(bytes: f64) -> String {
    match bytes {
        0.0..1e3 => format!("{bytes:.0} B"),
        1e3..1e6 => format!("{:.1} kB", bytes / 1e3),
        1e6..1e9 => format!("{:.1} MB", bytes / 1e6),
        _ => format!("{:.2} GB", bytes / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds() {
        assert_eq!(parse_seconds("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_seconds("0.25"), Ok(Duration::from_millis(250)));
        for bad in ["", "x", "-1", "nan", "inf", "1e9"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(parse_addr("127.0.0.1:0").map(|addr| addr.port()), Ok(0));
        assert!(parse_addr("[::1]:7777").is_ok());
        for bad in ["", "127.0.0.1", "127.0.0.1:70000", "7777"] {
            assert!(parse_addr(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_preferred_address_comes_first_and_the_others_stay() {
        let [one, two] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut addrs = Addresses {
            text: "name:1".into(),
            addrs: vec![one, two],
        };
        assert_eq!(addrs.to_string(), "name:1 (127.0.0.1:1, 127.0.0.1:2)");
        addrs.prefer(two);
        assert_eq!((addrs.first(), addrs.all()), (two, &[two, one][..]));
        let alone = parse_addrs("127.0.0.1:7").unwrap();
        assert!(!alone.are_several());
        assert_eq!(alone.to_string(), "127.0.0.1:7");
    }

    #[test]
    fn sizes() {
        assert_eq!(human_bytes(0.0), "0 B");
        assert_eq!(human_bytes(92_000.0), "92.0 kB");
        assert_eq!(human_bytes(2.5e9), "2.50 GB");
    }
}
