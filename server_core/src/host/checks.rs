//! Checks of the machine: the needs of a program against [`HostLimits`], and the command that raises a
//! limit. Reads nothing and starts nothing.

use super::limits::HostLimits;
use super::source_addresses::{SourceAddresses, comfortable};
use super::units::human_bytes;
use Severity::{Fail, Warn};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A need of a program.
#[derive(Debug)]
pub enum Check {
    /// Descriptors.
    OpenFiles {
        /// Sessions at a time. `None`: as many sessions as the limit allows.
        sessions: Option<u64>,
        /// Descriptors beside the descriptors of the sessions.
        other_files: u64,
    },
    /// Ports of the source addresses.
    Ports(SourceAddresses),
    /// Connections that wait for `accept`. The kernel shortens a longer backlog and reports nothing.
    Backlog(u64),
    /// Connections in their handshake. With SYN cookies, further handshakes go on as well.
    Handshakes(u64),
    /// Event loops, each of which uses up to one core. More event loops than cores share the cores, but a
    /// CPU quota that is used up stops all of them for the rest of its period.
    Cpu(u64),
    /// Memory of this process and the kernel for idle sessions, roughly.
    Memory {
        /// Sessions at a time. `None`: as many sessions as the limit of open files allows.
        sessions: Option<u64>,
    },
    /// Bytes of all send queues together ([`Config::total_queue_bytes`](crate::Config::total_queue_bytes)).
    Queues(u64),
    /// Sessions that a firewall has to track, beside the connections that the firewall tracks already. A
    /// firewall that tracks connections drops the packets of connections beyond its limit. The check has no
    /// finding on a machine whose firewall tracks no connections.
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
    /// A certificate, and the files that belong to it.
    Certificate {
        /// The file of the certificate.
        file: String,
        /// The result of an attempt to read the files.
        read: io::Result<()>,
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
    /// The word in the table of [`print`](super::print).
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
        let (subject, found, needed) = (self.subject, &self.found, &self.needed);
        write!(f, "{subject}: found {found}, needed {needed}")?;
        (self.fix.iter()).try_for_each(|fix| write!(f, "; fix: `{fix}`"))
    }
}

/// Compares the needs with the limits of the machine, in order.
#[must_use]
pub fn evaluate(limits: &HostLimits, checks: &[Check]) -> Vec<Finding> {
    let findings = checks.iter().map(|check| check.finding(limits));
    findings.flatten().collect()
}

/// The first finding with which the program cannot run.
#[must_use]
pub fn first_failure(findings: &[Finding]) -> Option<&Finding> {
    (findings.iter()).find(|finding| finding.severity == Severity::Fail)
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

impl Check {
    /// The row of the table: subject, need, what the machine has and whether that is enough, how bad a
    /// shortfall is, and the command against a shortfall.
    fn finding(&self, limits: &HostLimits) -> Option<Finding> {
        let tunable = |subject, needed, text, found: Option<u64>, name| {
            let found = found.map(|found| (found >= needed, found.to_string()));
            finding(subject, text, found, Warn, Some(sysctl(name, needed)))
        };
        let memory = |subject, needed, text| {
            let limit = (limits.memory_limit_bytes).map_or(String::new(), |limit| {
                format!(", limit {} (cgroup)", bytes(limit))
            });
            let found = (limits.memory_available_bytes)
                .map(|size| (size >= needed, format!("{} available{limit}", bytes(size))));
            finding(subject, text, found, Warn, None)
        };
        Some(match *self {
            Self::OpenFiles {
                sessions,
                other_files,
            } => {
                // Without a number of sessions: the smallest limit that allows `FEW_SESSIONS`.
                let (target, others, shortfall) = match sessions {
                    Some(sessions) => (sessions, other_files, Fail),
                    None => (FEW_SESSIONS, other_files.min(FEW_SESSIONS - 1), Warn),
                };
                let total = target.saturating_add(others);
                let mut text = format!("{total}: {target} sessions and {others} others");
                if let (None, Some(limit)) = (sessions, limits.fd_soft_limit) {
                    let allowed = sessions_allowed(limit, other_files);
                    text += &format!("; there is room for {allowed} sessions");
                }
                let found = limits.fd_soft_limit.map(|limit| match limit {
                    u64::MAX => (true, "no limit".into()),
                    limit => (limit >= total, limit.to_string()),
                });
                let mut fix = format!("ulimit -n {total}");
                // A hard limit above the ceiling is impossible.
                if limits.fd_ceiling.is_some_and(|ceiling| ceiling < total) {
                    fix = format!("{} && {fix}", sysctl("fs.nr_open", total));
                }
                finding("open files", text, found, shortfall, Some(fix))
            }
            Self::Ports(ref sources) => {
                let connections = sources.connections as u64;
                let mut text = format!("{connections} connections to one target");
                let (mut found, mut shortfall, mut fix) = (None, Fail, None);
                if let (Some(ports), Some(last)) = (limits.ephemeral_ports, sources.last_address())
                {
                    let addresses = sources.addresses;
                    let each = format!("{ports} on each of {addresses} addresses");
                    found = Some((true, format!("{each}, 127.0.0.1 to {last}")));
                } else if let Some(ports) = limits.ephemeral_ports {
                    let is_enough = connections <= comfortable(ports);
                    found = Some((is_enough, format!("{ports} on one address")));
                    if connections <= ports {
                        shortfall = Warn;
                    }
                    if ports < WIDEST_RANGE && connections <= WIDEST_RANGE {
                        let range = r#"net.ipv4.ip_local_port_range="1024 65535""#;
                        fix = Some(format!("sysctl -w {range}"));
                    }
                    text += match sources.target {
                        _ if is_enough => "",
                        IpAddr::V6(ip) if ip.is_loopback() => {
                            " (::1 has no siblings to spread over, 127.0.0.1 has)"
                        }
                        _ => " (from one address; several machines have several)",
                    };
                }
                finding("ports", text, found, shortfall, fix)
            }
            Self::Backlog(needed) => {
                let text = format!("{needed} connections that wait for accept");
                let name = "net.core.somaxconn";
                tunable("backlog", needed, text, limits.somaxconn, name)
            }
            Self::Handshakes(needed) => {
                let text = format!("{needed} under way");
                let name = "net.ipv4.tcp_max_syn_backlog";
                let mut finding = tunable("handshakes", needed, text, limits.max_syn_backlog, name);
                if limits.has_syncookies == Some(true) && finding.severity != Severity::Unknown {
                    (finding.severity, finding.fix) = (Severity::Ok, None);
                    finding.found += ", and SYN cookies beyond";
                }
                finding
            }
            Self::Cpu(event_loops) => {
                let found = match (limits.cpu_quota_cores, limits.cores) {
                    (Some(quota), _) => {
                        let is_enough = quota >= event_loops as f64;
                        Some((is_enough, format!("{quota:.2} cores, quota (cgroup)")))
                    }
                    (None, 0) => None,
                    (None, cores) => Some((true, format!("{cores} cores"))),
                };
                let needed = format!("{event_loops}, a core for each event loop");
                finding("cpu", needed, found, Warn, None)
            }
            Self::Memory { sessions } => {
                let total = sessions.map(|sessions| sessions.saturating_mul(SESSION_BYTES));
                let total_text = total.map_or(String::new(), |total| format!("{}: ", bytes(total)));
                let text = format!("about {total_text}{} a session", bytes(SESSION_BYTES));
                memory("memory", total.unwrap_or(0), text)
            }
            Self::Queues(most) => {
                let text = format!("{} at most (max_total_queue_bytes)", bytes(most));
                memory("queues", most, text)
            }
            Self::Firewall(sessions) => {
                let (max, count) = (limits.conntrack_max?, limits.conntrack_count.unwrap_or(0));
                let needed = count.saturating_add(sessions);
                let text = format!("{needed}: {sessions} sessions and {count} others");
                let name = "net.netfilter.nf_conntrack_max";
                tunable("firewall", needed, text, Some(max), name)
            }
            Self::Clock => {
                let source = limits.clock_source.as_deref();
                let name = source.map_or(String::new(), |name| format!(" ({name})"));
                let found = (limits.clock_step)
                    .map(|step| (step < SLOW_CLOCK, format!("steps of {step:?}{name}")));
                let has_tsc = limits.clock_sources.iter().any(|name| name == "tsc");
                let fix = (source != Some("tsc") && has_tsc).then(|| format!("echo tsc > {CLOCK}"));
                let needed = format!("steps below {SLOW_CLOCK:?}");
                finding("clock", needed, found, Warn, fix)
            }
            Self::Address { addr, ref bound } => {
                let port = addr.port();
                let fix = match bound.as_ref().err().map(io::Error::kind) {
                    // Shows the program on the port: the user ends it, or takes another port.
                    Some(io::ErrorKind::AddrInUse) => Some(format!("ss -ltnp 'sport = :{port}'")),
                    Some(io::ErrorKind::PermissionDenied) => {
                        Some(sysctl("net.ipv4.ip_unprivileged_port_start", port.into()))
                    }
                    _ => None,
                };
                let text = bound
                    .as_ref()
                    .map_or_else(io::Error::to_string, |()| "free".into());
                finding(
                    "address",
                    addr.to_string(),
                    Some((bound.is_ok(), text)),
                    Fail,
                    fix,
                )
            }
            Self::Certificate { ref file, ref read } => {
                let text = read
                    .as_ref()
                    .map_or_else(io::Error::to_string, |()| "valid".into());
                let found = Some((read.is_ok(), text));
                finding("certificate", file.clone(), found, Fail, None)
            }
        })
    }
}

const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

fn bytes(bytes: u64) -> String {
    human_bytes(bytes as f64)
}

fn sysctl(name: &str, needed: u64) -> String {
    format!("sysctl -w {name}={needed}")
}

/// `found`: whether the machine has enough, and what it has. `None`: the system does not tell.
fn finding(
    subject: &'static str,
    needed: String,
    found: Option<(bool, String)>,
    shortfall: Severity,
    fix: Option<String>,
) -> Finding {
    let (severity, found) = match found {
        None => (Severity::Unknown, "unknown".into()),
        Some((true, found)) => (Severity::Ok, found),
        Some((false, found)) => (shortfall, found),
    };
    Finding {
        severity,
        subject,
        found,
        needed,
        fix: fix.filter(|_| severity.is_bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::Severity::{Ok as Enough, Unknown};
    use super::*;

    /// A machine whose limits are high enough for every check here.
    fn limits() -> HostLimits {
        HostLimits {
            cores: 2,
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

    fn with(change: impl FnOnce(&mut HostLimits)) -> HostLimits {
        let mut limits = limits();
        change(&mut limits);
        limits
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

    /// The finding, whose severity and command have to be these.
    #[track_caller]
    fn expect(limits: &HostLimits, check: Check, severity: Severity, fix: &str) -> Finding {
        let finding = evaluate(limits, &[check]).remove(0);
        let (found, command) = (finding.severity, finding.fix.as_deref());
        assert_eq!((found, command.unwrap_or("")), (severity, fix), "{finding}");
        finding
    }

    #[test]
    fn files_fail_exactly_where_one_is_missing() {
        expect(&limits(), files(Some(19_981), 19), Enough, "");
        let short = expect(&limits(), files(Some(19_982), 19), Fail, "ulimit -n 20001");
        assert!(short.needed.contains("19982 sessions"), "{short}");
        assert!(short.to_string().contains("found 20000, needed 20001"));
        // A ceiling that is too low is raised first.
        let fix = "sysctl -w fs.nr_open=2000019 && ulimit -n 2000019";
        expect(&limits(), files(Some(2_000_000), 19), Fail, fix);
    }

    #[test]
    fn as_many_sessions_as_fit_are_never_too_many_but_may_be_few() {
        let plenty = expect(&limits(), files(None, 168), Enough, "");
        assert!(plenty.needed.contains("19832"), "{plenty}");
        let low = with(|limits| limits.fd_soft_limit = Some(64));
        let few = expect(&low, files(None, 168), Warn, "ulimit -n 1168");
        let needed = "1168: 1000 sessions and 168 others; there is room for 32 sessions";
        assert_eq!(few.needed, needed);
        for others in [0, 168, 999, 1000, 1252, 9000] {
            let low = evaluate(&low, &[files(None, others)]).remove(0);
            let fix = low.fix.unwrap();
            let least: u64 = fix.strip_prefix("ulimit -n ").unwrap().parse().unwrap();
            assert_eq!(sessions_allowed(least, others), 1000);
            let with = |limit| with(|limits| limits.fd_soft_limit = Some(limit));
            expect(&with(least), files(None, others), Enough, "");
            expect(&with(least - 1), files(None, others), Warn, &fix);
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
    fn a_backlog_that_is_cut_is_a_warning_and_cookies_do_for_handshakes() {
        expect(&limits(), Check::Backlog(4096), Enough, "");
        let old = with(|limits| limits.somaxconn = Some(128));
        expect(
            &old,
            Check::Backlog(4096),
            Warn,
            "sysctl -w net.core.somaxconn=4096",
        );
        expect(&limits(), Check::Handshakes(4096), Enough, "");
        let without = with(|limits| limits.has_syncookies = Some(false));
        let fix = "sysctl -w net.ipv4.tcp_max_syn_backlog=4096";
        expect(&without, Check::Handshakes(4096), Warn, fix);
        expect(&without, Check::Handshakes(2048), Enough, "");
    }

    #[test]
    fn one_address_has_as_many_connections_as_ports_and_loopback_has_ports_for_all() {
        let fix = r#"sysctl -w net.ipv4.ip_local_port_range="1024 65535""#;
        let from_here = |count| ports(&limits(), [10, 0, 0, 1], count);
        expect(&limits(), from_here(20_000), Enough, "");
        expect(&limits(), from_here(28_000), Warn, fix);
        expect(&limits(), from_here(28_233), Fail, fix);
        // No range is wide enough.
        expect(&limits(), from_here(100_000), Fail, "");
        let check = ports(&limits(), std::net::Ipv6Addr::LOCALHOST, 100_000);
        let v6 = expect(&limits(), check, Fail, "");
        assert!(v6.needed.contains("no siblings"), "{v6}");
        let few = with(|limits| limits.ephemeral_ports = Some(500));
        let spread = expect(&few, ports(&few, [127, 0, 0, 1], 2000), Enough, "");
        let found = "500 on each of 5 addresses, 127.0.0.1 to 127.0.0.5";
        assert_eq!(spread.found, found);
    }

    #[test]
    fn memory_is_only_ever_a_warning() {
        let memory = |sessions| Check::Memory { sessions };
        expect(&limits(), memory(Some(1000)), Enough, "");
        expect(&limits(), memory(Some(10_000_000)), Warn, "");
        expect(&limits(), memory(None), Enough, "");
        expect(&limits(), memory(Some(u64::MAX)), Warn, "");
        let available = limits().memory_available_bytes.unwrap();
        expect(&limits(), Check::Queues(available), Enough, "");
        expect(&limits(), Check::Queues(available + 1), Warn, "");
    }

    #[test]
    fn limit_of_a_control_group_is_named() {
        let limited = with(|limits| limits.memory_limit_bytes = Some(16_000_000_000));
        let memory = expect(&limited, Check::Queues(1), Enough, "");
        assert_eq!(memory.found, "8.59 GB available, limit 16.00 GB (cgroup)");
    }

    #[test]
    fn cpu_quota_below_the_event_loops_is_a_warning() {
        let free = expect(&limits(), Check::Cpu(4), Enough, "");
        assert_eq!(free.found, "2 cores");
        let with = |quota| with(|limits| limits.cpu_quota_cores = Some(quota));
        expect(&with(2.0), Check::Cpu(2), Enough, "");
        let few = expect(&with(1.5), Check::Cpu(2), Warn, "");
        assert_eq!(few.found, "1.50 cores, quota (cgroup)");
        assert_eq!(few.needed, "2, a core for each event loop");
    }

    #[test]
    fn a_firewall_counts_what_it_follows_already() {
        assert_eq!(evaluate(&limits(), &[Check::Firewall(1000)]), []);
        let with = with(|limits| {
            (limits.conntrack_max, limits.conntrack_count) = (Some(1500), Some(600));
        });
        expect(&with, Check::Firewall(900), Enough, "");
        let fix = "sysctl -w net.netfilter.nf_conntrack_max=1501";
        expect(&with, Check::Firewall(901), Warn, fix);
    }

    #[test]
    fn a_slow_clock_is_a_warning() {
        expect(&limits(), Check::Clock, Enough, "");
        let mut slow = with(|limits| limits.clock_step = Some(Duration::from_micros(3)));
        slow.clock_source = Some("hpet".into());
        expect(&slow, Check::Clock, Warn, "");
        slow.clock_sources = vec!["tsc".into(), "hpet".into()];
        expect(&slow, Check::Clock, Warn, &format!("echo tsc > {CLOCK}"));
    }

    #[test]
    fn an_address_that_is_taken_fails() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 80));
        let address = |bound: io::Result<()>| Check::Address { addr, bound };
        let failed = |kind: io::ErrorKind| address(Err(kind.into()));
        expect(&limits(), address(Ok(())), Enough, "");
        let taken = failed(io::ErrorKind::AddrInUse);
        expect(&limits(), taken, Fail, "ss -ltnp 'sport = :80'");
        let denied = failed(io::ErrorKind::PermissionDenied);
        let fix = "sysctl -w net.ipv4.ip_unprivileged_port_start=80";
        expect(&limits(), denied, Fail, fix);
        expect(&limits(), failed(io::ErrorKind::AddrNotAvailable), Fail, "");
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
            Check::Cpu(2),
            Check::Memory { sessions },
            Check::Queues(1 << 30),
            Check::Clock,
        ] {
            expect(&silent, check, Unknown, "");
        }
        assert_eq!(evaluate(&silent, &[Check::Firewall(1000)]), []);
    }
}
