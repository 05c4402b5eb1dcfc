//! Checks of the machine: the needs of a program against [`HostLimits`], and the command that raises a
//! limit. Reads nothing and starts nothing.

use super::limits::HostLimits;
use super::source_addresses::{SourceAddresses, comfortable};
use super::units::human_bytes;
use super::{exit, print_error, table};
use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

/// A need of a program.
#[derive(Debug)]
pub enum Check {
    /// Descriptors.
    OpenFiles {
        /// Sessions at a time. `None`: as many sessions as the limit allows.
        sessions: Option<u64>,
        /// Descriptors beside those of the sessions.
        other_files: u64,
    },
    /// Ports of the source addresses.
    Ports(SourceAddresses),
    /// Connections that wait for `accept`. The kernel shortens a longer backlog and reports nothing.
    Backlog(u64),
    /// Connections in their handshake. With SYN cookies, further handshakes go on as well.
    Handshakes(u64),
    /// Memory of this process and the kernel for idle sessions, roughly.
    Memory {
        /// Sessions at a time. `None`: as many sessions as the limit of open files allows.
        sessions: Option<u64>,
    },
    /// Bytes of all send queues together ([`Config::total_queue_bytes`](crate::Config::total_queue_bytes)).
    Queues(u64),
    /// Sessions that a firewall has to track, beside the connections that the firewall tracks already. A
    /// firewall that tracks connections drops the packets of those beyond its limit. The check has no finding
    /// on a machine whose firewall tracks no connections.
    Firewall(u64),
    /// The clock, which a program reads at each tick, and for each packet that a load test measures.
    Clock,
    /// An address to listen on.
    Address {
        /// The address.
        addr: SocketAddr,
        /// The result of an attempt to bind the address.
        bound: io::Result<()>,
    },
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How bad the finding is.
    pub severity: Severity,
    /// The checked limit.
    pub subject: &'static str,
    /// What the machine has.
    pub found: String,
    /// What the program needs.
    pub needed: String,
    /// The command that raises the limit, or names its user.
    pub fix: Option<String>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The limit is high enough.
    Ok,
    /// The system does not tell the limit.
    Unknown,
    /// The program runs, but not well.
    Warn,
    /// The program cannot run.
    Fail,
}

impl Severity {
    /// The word in the table of [`print`].
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }

    /// Whether the finding belongs in a log.
    #[must_use]
    pub fn is_bad(self) -> bool {
        matches!(self, Self::Warn | Self::Fail)
    }
}

/// As a line of a log.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            subject,
            found,
            needed,
            ..
        } = self;
        write!(f, "{subject}: found {found}, needed {needed}")?;
        match &self.fix {
            Some(fix) => write!(f, "; fix: `{fix}`"),
            None => Ok(()),
        }
    }
}

/// Compares the needs with the limits of the machine, in order.
#[must_use]
pub fn evaluate(limits: &HostLimits, checks: &[Check]) -> Vec<Finding> {
    let rows = checks.iter().filter_map(|check| check.row(limits));
    rows.map(Row::into_finding).collect()
}

/// The first finding with which the program cannot run.
#[must_use]
pub fn first_failure(findings: &[Finding]) -> Option<&Finding> {
    (findings.iter()).find(|finding| finding.severity == Severity::Fail)
}

/// Prints the findings on standard output, as a table. The exit status is 0 if the program can run,
/// [`exit::USAGE`] if the program cannot run, and [`exit::FAILURE`] if the table cannot be written.
#[must_use]
pub fn print(program: &str, findings: &[Finding]) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(table::render(findings).as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        // A closed pipe does not change the status.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            print_error(program, format!("cannot write to standard output: {error}"));
            ExitCode::from(exit::FAILURE)
        }
        _ if first_failure(findings).is_some() => ExitCode::from(exit::USAGE),
        _ => ExitCode::SUCCESS,
    }
}

/// The sessions that a limit of open files allows beside other files, which take half of a small limit at
/// most: most of them are in use for moments only.
#[must_use]
pub fn sessions_allowed(fd_limit: u64, other_files: u64) -> u64 {
    fd_limit - other_files.min(fd_limit / 2)
}

/// A server that takes as many sessions as its limit of open files allows warns below this number.
const FEW_SESSIONS: u64 = 1000;
/// The widest range of ephemeral ports. The ports below 1024 belong to the system.
const WIDEST_RANGE: u64 = 65_536 - 1024;
/// A reading of a good clock takes some ten nanoseconds. The tick loop reads the clock, and so does each
/// accepted connection.
const SLOW_CLOCK: Duration = Duration::from_micros(1);

/// Memory of an idle session, on either side. Measured with 9,000 sessions: 4.1 kB in the server and 4.3 kB
/// in the client, nine tenths of it in the kernel (socket, inode, file, epoll item). Queued packets come on
/// top.
const SESSION_BYTES: u64 = 5000;

/// A row of the table of checks.
struct Row {
    subject: &'static str,
    needed: String,
    /// What the machine has, and whether that is enough. `None`: the system does not tell.
    found: Option<(bool, String)>,
    /// How bad a shortfall is.
    shortfall: Severity,
    /// The command against a shortfall.
    fix: Option<String>,
}

impl Check {
    fn row(&self, limits: &HostLimits) -> Option<Row> {
        use Severity::{Fail, Warn};
        Some(match self {
            Self::OpenFiles {
                sessions,
                other_files,
            } => open_files(limits, *sessions, *other_files),
            Self::Ports(sources) => ports(limits, sources),
            Self::Backlog(needed) => Row {
                subject: "backlog",
                needed: format!("{needed} connections that wait for accept"),
                found: (limits.somaxconn).map(|found| (found >= *needed, found.to_string())),
                shortfall: Warn,
                fix: Some(sysctl("net.core.somaxconn", *needed)),
            },
            Self::Handshakes(needed) => Row {
                subject: "handshakes",
                needed: format!("{needed} under way"),
                found: limits.max_syn_backlog.map(|found| {
                    if limits.has_syncookies == Some(true) {
                        (true, format!("{found}, and SYN cookies beyond"))
                    } else {
                        (found >= *needed, found.to_string())
                    }
                }),
                shortfall: Warn,
                fix: Some(sysctl("net.ipv4.tcp_max_syn_backlog", *needed)),
            },
            Self::Memory { sessions } => {
                let total = sessions.map(|sessions| sessions.saturating_mul(SESSION_BYTES));
                let total_text = total.map_or(String::new(), |total| format!("{}: ", bytes(total)));
                Row {
                    subject: "memory",
                    needed: format!("about {total_text}{} a session", bytes(SESSION_BYTES)),
                    found: memory(limits, total.unwrap_or(0)),
                    shortfall: Warn,
                    fix: None,
                }
            }
            Self::Queues(most_bytes) => Row {
                subject: "queues",
                needed: format!("{} at most (max_total_queue_bytes)", bytes(*most_bytes)),
                found: memory(limits, *most_bytes),
                shortfall: Warn,
                fix: None,
            },
            Self::Firewall(sessions) => {
                let max = limits.conntrack_max?;
                let count = limits.conntrack_count.unwrap_or(0);
                let needed = count.saturating_add(*sessions);
                Row {
                    subject: "firewall",
                    needed: format!("{needed}: {sessions} sessions and {count} others"),
                    found: Some((max >= needed, max.to_string())),
                    shortfall: Warn,
                    fix: Some(sysctl("net.netfilter.nf_conntrack_max", needed)),
                }
            }
            Self::Clock => {
                let source = limits.clock_source.as_deref();
                let source_text = source.map_or(String::new(), |name| format!(" ({name})"));
                let could_be_tsc =
                    source != Some("tsc") && limits.clock_sources.iter().any(|name| name == "tsc");
                Row {
                    subject: "clock",
                    needed: format!("steps below {SLOW_CLOCK:?}"),
                    found: (limits.clock_step)
                        .map(|step| (step < SLOW_CLOCK, format!("steps of {step:?}{source_text}"))),
                    shortfall: Warn,
                    fix: could_be_tsc.then(|| format!("echo tsc > {CLOCK_SOURCE}")),
                }
            }
            Self::Address { addr, bound } => Row {
                subject: "address",
                needed: addr.to_string(),
                found: Some(match bound {
                    Ok(()) => (true, "free".into()),
                    Err(error) => (false, error.to_string()),
                }),
                shortfall: Fail,
                fix: match bound.as_ref().err().map(io::Error::kind) {
                    // Shows the program that listens there: the user may end it, or take another address.
                    Some(io::ErrorKind::AddrInUse) => {
                        Some(format!("ss -ltnp 'sport = :{}'", addr.port()))
                    }
                    Some(io::ErrorKind::PermissionDenied) => {
                        let port = addr.port().into();
                        Some(sysctl("net.ipv4.ip_unprivileged_port_start", port))
                    }
                    _ => None,
                },
            },
        })
    }
}

fn open_files(limits: &HostLimits, sessions: Option<u64>, other_files: u64) -> Row {
    let (sessions, others, shortfall) = match sessions {
        Some(sessions) => (sessions, other_files, Severity::Fail),
        // The least limit that allows so many sessions.
        None => {
            let others = other_files.min(FEW_SESSIONS - 1);
            (FEW_SESSIONS, others, Severity::Warn)
        }
    };
    let total = sessions.saturating_add(others);
    let mut needed = format!("{total}: {sessions} sessions and {others} others");
    if let (Severity::Warn, Some(limit)) = (shortfall, limits.fd_soft_limit) {
        let allowed = sessions_allowed(limit, other_files);
        needed += &format!("; there is room for {allowed} sessions");
    }
    // A hard limit above the ceiling is impossible.
    let ceiling = (limits.fd_ceiling)
        .filter(|ceiling| *ceiling < total)
        .map_or(String::new(), |_| {
            format!("{} && ", sysctl("fs.nr_open", total))
        });
    Row {
        subject: "open files",
        needed,
        found: limits.fd_soft_limit.map(|limit| match limit {
            u64::MAX => (true, "no limit".into()),
            limit => (limit >= total, limit.to_string()),
        }),
        shortfall,
        fix: Some(format!("{ceiling}ulimit -n {total}")),
    }
}

fn ports(limits: &HostLimits, sources: &SourceAddresses) -> Row {
    let (subject, connections) = ("ports", sources.connections() as u64);
    let mut row = Row {
        subject,
        needed: format!("{connections} connections to one target"),
        found: None,
        shortfall: Severity::Fail,
        fix: None,
    };
    let Some(ports) = limits.ephemeral_ports else {
        return row;
    };
    if let Some(last) = sources.last_address() {
        let addresses = sources.addresses();
        let text = format!("{ports} on each of {addresses} addresses, 127.0.0.1 to {last}");
        row.found = Some((true, text));
        return row;
    }
    let is_enough = connections <= comfortable(ports);
    row.found = Some((is_enough, format!("{ports} on one address")));
    if connections <= ports {
        row.shortfall = Severity::Warn;
    }
    if !is_enough {
        row.needed += match sources.target() {
            IpAddr::V6(ip) if ip.is_loopback() => {
                " (::1 has no siblings to spread over, 127.0.0.1 has)"
            }
            _ => " (from one address; several machines have several)",
        };
    }
    if ports < WIDEST_RANGE && connections <= WIDEST_RANGE {
        row.fix = Some(r#"sysctl -w net.ipv4.ip_local_port_range="1024 65535""#.into());
    }
    row
}

const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// The available memory, and whether that is enough.
fn memory(limits: &HostLimits, needed: u64) -> Option<(bool, String)> {
    let available = limits.memory_available_bytes?;
    Some((
        needed <= available,
        format!("{} available", bytes(available)),
    ))
}

fn bytes(bytes: u64) -> String {
    human_bytes(bytes as f64)
}

fn sysctl(name: &str, needed: u64) -> String {
    format!("sysctl -w {name}={needed}")
}

impl Row {
    fn into_finding(self) -> Finding {
        let (severity, found) = match self.found {
            None => (Severity::Unknown, "unknown".into()),
            Some((true, found)) => (Severity::Ok, found),
            Some((false, found)) => (self.shortfall, found),
        };
        Finding {
            severity,
            subject: self.subject,
            found,
            needed: self.needed,
            fix: self.fix.filter(|_| severity.is_bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Severity::{Fail, Ok as Enough, Unknown, Warn};
    use super::*;
    use std::net::Ipv6Addr;

    /// A machine whose limits are high enough for every check here.
    fn limits() -> HostLimits {
        HostLimits {
            memory_available_bytes: Some(8 << 30),
            fd_soft_limit: Some(20_000),
            fd_hard_limit: Some(20_000),
            fd_ceiling: Some(1 << 20),
            ephemeral_ports: Some(28_232),
            somaxconn: Some(4096),
            max_syn_backlog: Some(2048),
            has_syncookies: Some(true),
            clock_source: Some("tsc".into()),
            clock_step: Some(Duration::from_nanos(20)),
            ..HostLimits::default()
        }
    }

    fn finding(limits: &HostLimits, check: Check) -> Finding {
        evaluate(limits, &[check]).remove(0)
    }

    fn files(sessions: Option<u64>, other_files: u64) -> Check {
        Check::OpenFiles {
            sessions,
            other_files,
        }
    }

    fn ports(limits: &HostLimits, target: impl Into<IpAddr>, connections: usize) -> Check {
        let ports = limits.ephemeral_ports;
        Check::Ports(SourceAddresses::plan(target.into(), connections, ports))
    }

    /// Severity and command of this check.
    #[track_caller]
    fn assert_finding(limits: &HostLimits, check: Check, expected: (Severity, &str)) -> Finding {
        let finding = finding(limits, check);
        let fix = finding.fix.as_deref().unwrap_or_default();
        assert_eq!((finding.severity, fix), expected, "{finding}");
        finding
    }

    #[test]
    fn files_fail_exactly_where_one_is_missing() {
        assert_finding(&limits(), files(Some(19_981), 19), (Enough, ""));
        let expected = (Fail, "ulimit -n 20001");
        let short = assert_finding(&limits(), files(Some(19_982), 19), expected);
        assert!(short.needed.contains("19982 sessions"), "{}", short.needed);
        assert!(short.to_string().contains("found 20000, needed 20001"));
    }

    #[test]
    fn a_ceiling_that_is_too_low_is_raised_first() {
        let fix = "sysctl -w fs.nr_open=2000019 && ulimit -n 2000019";
        assert_finding(&limits(), files(Some(2_000_000), 19), (Fail, fix));
    }

    #[test]
    fn as_many_sessions_as_fit_are_never_too_many_but_may_be_few() {
        let plenty = assert_finding(&limits(), files(None, 168), (Enough, ""));
        assert!(plenty.needed.contains("19832"), "{}", plenty.needed);
        let low = HostLimits {
            fd_soft_limit: Some(64),
            ..limits()
        };
        let few = assert_finding(&low, files(None, 168), (Warn, "ulimit -n 1168"));
        let needed = "1168: 1000 sessions and 168 others; there is room for 32 sessions";
        assert_eq!(few.needed, needed);
    }

    #[test]
    fn the_command_allows_1000_sessions_and_one_descriptor_less_does_not() {
        for other_files in [0, 168, 999, 1000, 1252, 9000] {
            let with = |limit| HostLimits {
                fd_soft_limit: Some(limit),
                ..limits()
            };
            let few = finding(&with(64), files(None, other_files));
            let fix = few.fix.unwrap();
            let least = fix.strip_prefix("ulimit -n ").unwrap().parse().unwrap();
            assert_eq!(sessions_allowed(least, other_files), 1000);
            assert_finding(&with(least), files(None, other_files), (Enough, ""));
            assert_finding(&with(least - 1), files(None, other_files), (Warn, &fix));
        }
    }

    #[test]
    fn few_descriptors_still_leave_some_for_sessions() {
        for limit in [0, 1, 16, 64, 1024, u64::MAX] {
            let allowed = sessions_allowed(limit, 1184);
            assert!(allowed <= limit && allowed >= limit / 2);
        }
    }

    #[test]
    fn a_backlog_that_is_cut_is_a_warning() {
        assert_finding(&limits(), Check::Backlog(4096), (Enough, ""));
        let old = HostLimits {
            somaxconn: Some(128),
            ..limits()
        };
        let fix = "sysctl -w net.core.somaxconn=4096";
        assert_finding(&old, Check::Backlog(4096), (Warn, fix));
    }

    #[test]
    fn cookies_do_for_handshakes() {
        assert_finding(&limits(), Check::Handshakes(4096), (Enough, ""));
        let without = HostLimits {
            has_syncookies: Some(false),
            ..limits()
        };
        let fix = "sysctl -w net.ipv4.tcp_max_syn_backlog=4096";
        assert_finding(&without, Check::Handshakes(4096), (Warn, fix));
        assert_finding(&without, Check::Handshakes(2048), (Enough, ""));
    }

    #[test]
    fn one_address_has_as_many_connections_as_ports() {
        let (limits, remote) = (limits(), [10, 0, 0, 1]);
        let fix = r#"sysctl -w net.ipv4.ip_local_port_range="1024 65535""#;
        for (connections, expected) in [
            (20_000, (Enough, "")),
            (28_000, (Warn, fix)),
            (28_233, (Fail, fix)),
            // No range is wide enough.
            (100_000, (Fail, "")),
        ] {
            assert_finding(&limits, ports(&limits, remote, connections), expected);
        }
        let check = ports(&limits, Ipv6Addr::LOCALHOST, 100_000);
        let v6 = assert_finding(&limits, check, (Fail, ""));
        assert!(v6.needed.contains("no siblings"), "{}", v6.needed);
    }

    #[test]
    fn a_loopback_target_has_ports_for_all() {
        let limits = HostLimits {
            ephemeral_ports: Some(500),
            ..limits()
        };
        let found = "500 on each of 5 addresses, 127.0.0.1 to 127.0.0.5";
        let check = ports(&limits, [127, 0, 0, 1], 2000);
        assert_eq!(assert_finding(&limits, check, (Enough, "")).found, found);
    }

    #[test]
    fn memory_is_only_ever_a_warning() {
        for (sessions, severity) in [
            (Some(1000), Enough),
            (Some(10_000_000), Warn),
            (None, Enough),
            (Some(u64::MAX), Warn),
        ] {
            assert_finding(&limits(), Check::Memory { sessions }, (severity, ""));
        }
    }

    #[test]
    fn queues_that_memory_cannot_hold_are_a_warning() {
        let available = limits().memory_available_bytes.unwrap();
        assert_finding(&limits(), Check::Queues(available), (Enough, ""));
        assert_finding(&limits(), Check::Queues(available + 1), (Warn, ""));
    }

    #[test]
    fn a_firewall_counts_what_it_follows_already() {
        assert_eq!(evaluate(&limits(), &[Check::Firewall(1000)]), []);
        let with = HostLimits {
            conntrack_max: Some(1500),
            conntrack_count: Some(600),
            ..limits()
        };
        assert_finding(&with, Check::Firewall(900), (Enough, ""));
        let fix = "sysctl -w net.netfilter.nf_conntrack_max=1501";
        assert_finding(&with, Check::Firewall(901), (Warn, fix));
    }

    #[test]
    fn a_slow_clock_is_a_warning() {
        assert_finding(&limits(), Check::Clock, (Enough, ""));
        let slow = HostLimits {
            clock_source: Some("hpet".into()),
            clock_sources: vec!["tsc".into(), "hpet".into()],
            clock_step: Some(Duration::from_micros(3)),
            ..limits()
        };
        let fix = "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource";
        assert_finding(&slow, Check::Clock, (Warn, fix));
        let no_better = HostLimits {
            clock_sources: vec!["hpet".into()],
            ..slow
        };
        assert_finding(&no_better, Check::Clock, (Warn, ""));
    }

    #[test]
    fn an_address_that_is_taken_fails() {
        for (bound, expected) in [
            (Ok(()), (Enough, "")),
            (
                Err(io::ErrorKind::AddrInUse),
                (Fail, "ss -ltnp 'sport = :80'"),
            ),
            (
                Err(io::ErrorKind::PermissionDenied),
                (Fail, "sysctl -w net.ipv4.ip_unprivileged_port_start=80"),
            ),
            (Err(io::ErrorKind::AddrNotAvailable), (Fail, "")),
        ] {
            let check = Check::Address {
                addr: SocketAddr::from(([127, 0, 0, 1], 80)),
                bound: bound.map_err(io::Error::from),
            };
            assert_finding(&limits(), check, expected);
        }
    }

    #[test]
    fn a_system_that_tells_nothing_is_no_failure() {
        let silent = HostLimits::default();
        let sessions = Some(1000);
        for check in [
            files(sessions, 19),
            files(None, 168),
            Check::Backlog(4096),
            Check::Handshakes(4096),
            ports(&silent, [127, 0, 0, 1], 1_000_000),
            Check::Memory { sessions },
            Check::Queues(1 << 30),
            Check::Clock,
        ] {
            assert_finding(&silent, check, (Unknown, ""));
        }
        assert_eq!(evaluate(&silent, &[Check::Firewall(1000)]), []);
    }
}
