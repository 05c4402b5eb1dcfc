//! Facts against demands: what is enough, what is not, and the command that changes it. Reads
//! nothing and starts nothing.

use super::limits::HostLimits;
use super::source_addresses::{SourceAddresses, comfortable};
use super::units::human_bytes;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it is.
    pub severity: Severity,
    /// What was looked at.
    pub subject: &'static str,
    /// How much there is.
    pub found: String,
    /// How much it takes.
    pub needed: String,
    /// The command that changes it.
    pub fix: Option<String>,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It is enough.
    Ok,
    /// This system does not tell.
    Unknown,
    /// It will do, but not well.
    Warn,
    /// The run cannot work.
    Fail,
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }

    /// Whether a log should have it.
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

/// Below this many, a server that takes as many sessions as it can is a surprise.
const FEW_SESSIONS: u64 = 1000;
/// The widest range of ephemeral ports: those below 1024 belong to the system.
const WIDEST_RANGE: u64 = 65_536 - 1024;
/// Reading a good clock takes some ten nanoseconds, and the tick loop and every arrival read it.
const SLOW_CLOCK: Duration = Duration::from_micros(1);

/// What a session that is idle costs, on either side: 4.1 kB were measured in the server with 9,000
/// of them and 4.3 kB in the client, nine tenths of it in the kernel (socket, inode, file, epoll
/// item). What waits to be sent comes on top.
const SESSION_BYTES: u64 = 5000;

/// How many sessions a limit of open files has room for beside other files. Those never take more
/// than half of a small limit: most of them are in use for moments only.
#[must_use]
pub fn sessions_allowed(fd_limit: u64, other_files: u64) -> u64 {
    fd_limit - other_files.min(fd_limit / 2)
}

/// The limit of open files. `None`: as many sessions as there is room for.
#[must_use]
pub fn open_files(limits: &HostLimits, sessions: Option<u64>, other_files: u64) -> Finding {
    let subject = "open files";
    let (target, allowed) = match sessions {
        Some(sessions) => (sessions, None),
        None => {
            let limit = limits.fd_soft_limit.unwrap_or(0);
            (FEW_SESSIONS, Some(sessions_allowed(limit, other_files)))
        }
    };
    let total = target.saturating_add(other_files);
    let mut needed = format!("{total}: {target} sessions and {other_files} others");
    let Some(limit) = limits.fd_soft_limit else {
        return unknown(subject, needed);
    };
    if let Some(allowed) = allowed {
        needed += &format!("; there is room for {allowed} sessions");
    }
    let severity = match allowed {
        None if total <= limit => Severity::Ok,
        None => Severity::Fail,
        Some(allowed) if allowed >= FEW_SESSIONS => Severity::Ok,
        Some(_) => Severity::Warn,
    };
    // The hard limit cannot be raised above the ceiling, by nobody.
    let fix = match limits.fd_ceiling {
        Some(ceiling) if ceiling < total => {
            format!("sysctl -w fs.nr_open={total} && ulimit -n {total}")
        }
        _ => format!("ulimit -n {total}"),
    };
    Finding {
        severity,
        subject,
        found: match limit {
            u64::MAX => "no limit".into(),
            limit => limit.to_string(),
        },
        needed,
        fix: severity.is_bad().then_some(fix),
    }
}

/// The backlog of a listener, which the kernel cuts without a word.
#[must_use]
pub fn backlog(limits: &HostLimits, needed: u64) -> Finding {
    at_least(
        "backlog",
        limits.somaxconn,
        needed,
        " connections that wait for accept",
        "net.core.somaxconn",
    )
}

/// Handshakes under way. With SYN cookies, those beyond the limit go on as well.
#[must_use]
pub fn handshakes(limits: &HostLimits, needed: u64) -> Finding {
    let mut finding = at_least(
        "handshakes",
        limits.max_syn_backlog,
        needed,
        " under way",
        "net.ipv4.tcp_max_syn_backlog",
    );
    if limits.has_syncookies == Some(true) && finding.severity != Severity::Unknown {
        finding.severity = Severity::Ok;
        finding.fix = None;
        finding.found += ", and SYN cookies beyond";
    }
    finding
}

/// The ports of the source addresses.
#[must_use]
pub fn ports(limits: &HostLimits, sources: &SourceAddresses) -> Finding {
    let subject = "ports";
    let connections = sources.connections() as u64;
    let mut needed = format!("{connections} connections to one target");
    let Some(ports) = limits.ephemeral_ports else {
        return unknown(subject, needed);
    };
    if let Some(last) = sources.last_address() {
        let addresses = sources.addresses();
        return Finding {
            severity: Severity::Ok,
            subject,
            found: format!("{ports} on each of {addresses} addresses, 127.0.0.1 to {last}"),
            needed,
            fix: None,
        };
    }
    let severity = match connections {
        few if few <= comfortable(ports) => Severity::Ok,
        all if all <= ports => Severity::Warn,
        _ => Severity::Fail,
    };
    let mut fix = None;
    if severity.is_bad() {
        if ports < WIDEST_RANGE && connections <= WIDEST_RANGE {
            fix = Some(r#"sysctl -w net.ipv4.ip_local_port_range="1024 65535""#.into());
        }
        needed += match sources.target() {
            IpAddr::V6(ip) if ip.is_loopback() => {
                " (::1 has no siblings to spread over, 127.0.0.1 has)"
            }
            _ => " (from one address; several machines have several)",
        };
    }
    Finding {
        severity,
        subject,
        found: format!("{ports} on one address"),
        needed,
        fix,
    }
}

/// Memory, roughly: what sessions that are idle cost this process and the kernel.
#[must_use]
pub fn memory(limits: &HostLimits, sessions: Option<u64>) -> Finding {
    let subject = "memory";
    let each = human_bytes(SESSION_BYTES as f64);
    let total = sessions.map(|sessions| sessions.saturating_mul(SESSION_BYTES));
    let needed = match total {
        Some(total) => format!("about {}: {each} a session", human_bytes(total as f64)),
        None => format!("about {each} a session"),
    };
    let Some(available) = limits.memory_available_bytes else {
        return unknown(subject, needed);
    };
    Finding {
        severity: match total {
            Some(total) if total > available => Severity::Warn,
            _ => Severity::Ok,
        },
        subject,
        found: format!("{} available", human_bytes(available as f64)),
        needed,
        fix: None,
    }
}

/// The most that all queues together may hold, beside the memory that there is.
#[must_use]
pub fn queues(limits: &HostLimits, most_bytes: u64) -> Finding {
    let subject = "queues";
    let needed = format!(
        "{} at most (--max-total-queue-bytes)",
        human_bytes(most_bytes as f64)
    );
    let Some(available) = limits.memory_available_bytes else {
        return unknown(subject, needed);
    };
    Finding {
        severity: if most_bytes > available {
            Severity::Warn
        } else {
            Severity::Ok
        },
        subject,
        found: format!("{} available", human_bytes(available as f64)),
        needed,
        fix: None,
    }
}

/// The connections that the firewall can follow, where it follows any. It drops the packets of
/// those beyond its limit, if its rules have it follow them at all.
#[must_use]
pub fn conntrack(limits: &HostLimits, sessions: u64) -> Option<Finding> {
    let max = limits.conntrack_max?;
    let count = limits.conntrack_count.unwrap_or(0);
    let needed = count.saturating_add(sessions);
    let mut finding = at_least(
        "firewall",
        Some(max),
        needed,
        " connections to follow",
        "net.netfilter.nf_conntrack_max",
    );
    finding.needed = format!("{needed}: {sessions} sessions and {count} others");
    Some(finding)
}

/// The clock, which is read at each tick, and for each packet that is measured.
#[must_use]
pub fn clock(limits: &HostLimits) -> Finding {
    let subject = "clock";
    let needed = format!("steps below {SLOW_CLOCK:?}");
    let Some(step) = limits.clock_step else {
        return unknown(subject, needed);
    };
    let severity = match step < SLOW_CLOCK {
        true => Severity::Ok,
        false => Severity::Warn,
    };
    let could_be_tsc = limits.clock_source.as_deref() != Some("tsc")
        && limits.clock_sources.iter().any(|name| name == "tsc");
    Finding {
        severity,
        subject,
        found: match &limits.clock_source {
            Some(name) => format!("steps of {step:?} ({name})"),
            None => format!("steps of {step:?}"),
        },
        needed,
        fix: (severity.is_bad() && could_be_tsc).then(|| {
            "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource".into()
        }),
    }
}

/// Whether the address is free, from the outcome of a try to take it.
#[must_use]
pub fn address(addr: SocketAddr, outcome: &io::Result<()>) -> Finding {
    let port = addr.port();
    let (severity, found, fix) = match outcome {
        Ok(()) => (Severity::Ok, "free".into(), None),
        Err(error) => {
            let fix = match error.kind() {
                // Who has it, so that the user can end it or take another one.
                io::ErrorKind::AddrInUse => Some(format!("ss -ltnp 'sport = :{port}'")),
                io::ErrorKind::PermissionDenied => Some(format!(
                    "sysctl -w net.ipv4.ip_unprivileged_port_start={port}"
                )),
                _ => None,
            };
            (Severity::Fail, error.to_string(), fix)
        }
    };
    Finding {
        severity,
        subject: "address",
        found,
        needed: addr.to_string(),
        fix,
    }
}

/// One number against another, and the kernel's name for it. Less will do, but not well.
fn at_least(
    subject: &'static str,
    found: Option<u64>,
    needed: u64,
    of_what: &str,
    sysctl: &str,
) -> Finding {
    let text = format!("{needed}{of_what}");
    let Some(found) = found else {
        return unknown(subject, text);
    };
    let is_enough = found >= needed;
    Finding {
        severity: match is_enough {
            true => Severity::Ok,
            false => Severity::Warn,
        },
        subject,
        found: found.to_string(),
        needed: text,
        fix: (!is_enough).then(|| format!("sysctl -w {sysctl}={needed}")),
    }
}

fn unknown(subject: &'static str, needed: String) -> Finding {
    Finding {
        severity: Severity::Unknown,
        subject,
        found: "not told".into(),
        needed,
        fix: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    /// A machine that is good enough for everything here.
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

    fn from_here(connections: usize, limits: &HostLimits) -> SourceAddresses {
        SourceAddresses::plan([127, 0, 0, 1].into(), connections, limits.ephemeral_ports)
    }

    fn fix(finding: &Finding) -> &str {
        finding.fix.as_deref().unwrap_or_default()
    }

    #[test]
    fn files_fail_exactly_where_one_is_missing() {
        let enough = open_files(&limits(), Some(19_981), 19);
        assert_eq!((enough.severity, &enough.fix), (Severity::Ok, &None));
        let short = open_files(&limits(), Some(19_982), 19);
        assert_eq!(short.severity, Severity::Fail);
        assert_eq!(fix(&short), "ulimit -n 20001");
        assert!(short.needed.contains("19982 sessions"), "{}", short.needed);
        assert!(short.to_string().contains("found 20000, needed 20001"));
    }

    #[test]
    fn a_ceiling_that_is_too_low_is_raised_first() {
        let short = open_files(&limits(), Some(2_000_000), 19);
        assert_eq!(
            fix(&short),
            "sysctl -w fs.nr_open=2000019 && ulimit -n 2000019"
        );
    }

    #[test]
    fn as_many_sessions_as_fit_are_never_too_many_but_may_be_few() {
        let plenty = open_files(&limits(), None, 168);
        assert_eq!(plenty.severity, Severity::Ok);
        assert!(plenty.needed.contains("19832"), "{}", plenty.needed);
        let low = HostLimits {
            fd_soft_limit: Some(64),
            ..limits()
        };
        let few = open_files(&low, None, 168);
        assert_eq!(
            (few.severity, fix(&few)),
            (Severity::Warn, "ulimit -n 1168")
        );
        let needed = "1168: 1000 sessions and 168 others; there is room for 32 sessions";
        assert_eq!(few.needed, needed);
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
        assert_eq!(backlog(&limits(), 4096).severity, Severity::Ok);
        let old = HostLimits {
            somaxconn: Some(128),
            ..limits()
        };
        let cut = backlog(&old, 4096);
        assert_eq!(
            (cut.severity, fix(&cut)),
            (Severity::Warn, "sysctl -w net.core.somaxconn=4096")
        );
    }

    #[test]
    fn cookies_do_for_handshakes() {
        assert_eq!(handshakes(&limits(), 4096).severity, Severity::Ok);
        let without = HostLimits {
            has_syncookies: Some(false),
            ..limits()
        };
        let short = handshakes(&without, 4096);
        assert_eq!(
            (short.severity, fix(&short)),
            (
                Severity::Warn,
                "sysctl -w net.ipv4.tcp_max_syn_backlog=4096"
            )
        );
        assert_eq!(handshakes(&without, 2048).severity, Severity::Ok);
    }

    #[test]
    fn one_address_has_as_many_connections_as_ports() {
        let limits = limits();
        let from = |target: IpAddr, connections| {
            let sources = SourceAddresses::plan(target, connections, limits.ephemeral_ports);
            ports(&limits, &sources)
        };
        let away: IpAddr = [10, 0, 0, 1].into();
        assert_eq!(from(away, 20_000).severity, Severity::Ok);
        assert_eq!(from(away, 28_000).severity, Severity::Warn);
        let short = from(away, 28_233);
        assert_eq!(
            (short.severity, fix(&short)),
            (
                Severity::Fail,
                r#"sysctl -w net.ipv4.ip_local_port_range="1024 65535""#
            )
        );
        // No range is wide enough for that.
        assert_eq!(from(away, 100_000).fix, None);
        let v6 = from(Ipv6Addr::LOCALHOST.into(), 100_000);
        assert_eq!(v6.severity, Severity::Fail);
        assert!(v6.needed.contains("no siblings"), "{}", v6.needed);
    }

    #[test]
    fn a_loopback_target_has_ports_for_all() {
        let limits = HostLimits {
            ephemeral_ports: Some(500),
            ..limits()
        };
        let finding = ports(&limits, &from_here(2000, &limits));
        assert_eq!(finding.severity, Severity::Ok);
        assert_eq!(
            finding.found,
            "500 on each of 5 addresses, 127.0.0.1 to 127.0.0.5"
        );
    }

    #[test]
    fn memory_is_only_ever_a_warning() {
        assert_eq!(memory(&limits(), Some(1000)).severity, Severity::Ok);
        assert_eq!(memory(&limits(), Some(10_000_000)).severity, Severity::Warn);
        assert_eq!(memory(&limits(), None).severity, Severity::Ok);
        assert_eq!(memory(&limits(), Some(u64::MAX)).severity, Severity::Warn);
    }

    #[test]
    fn queues_that_memory_cannot_hold_are_a_warning() {
        let available = limits().memory_available_bytes.unwrap();
        assert_eq!(queues(&limits(), available).severity, Severity::Ok);
        assert_eq!(queues(&limits(), available + 1).severity, Severity::Warn);
    }

    #[test]
    fn a_firewall_counts_what_it_follows_already() {
        assert_eq!(conntrack(&limits(), 1000), None);
        let with = HostLimits {
            conntrack_max: Some(1500),
            conntrack_count: Some(600),
            ..limits()
        };
        assert_eq!(conntrack(&with, 900).unwrap().severity, Severity::Ok);
        let short = conntrack(&with, 901).unwrap();
        assert_eq!(
            (short.severity, fix(&short)),
            (
                Severity::Warn,
                "sysctl -w net.netfilter.nf_conntrack_max=1501"
            )
        );
    }

    #[test]
    fn a_slow_clock_is_a_warning() {
        assert_eq!(clock(&limits()).severity, Severity::Ok);
        let slow = HostLimits {
            clock_source: Some("hpet".into()),
            clock_sources: vec!["tsc".into(), "hpet".into()],
            clock_step: Some(Duration::from_micros(3)),
            ..limits()
        };
        assert_eq!(clock(&slow).severity, Severity::Warn);
        assert!(fix(&clock(&slow)).starts_with("echo tsc"));
        let no_better = HostLimits {
            clock_sources: vec!["hpet".into()],
            ..slow
        };
        assert_eq!(clock(&no_better).fix, None);
    }

    #[test]
    fn an_address_that_is_taken_fails() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 80));
        assert_eq!(address(addr, &Ok(())).severity, Severity::Ok);
        let taken = address(addr, &Err(io::ErrorKind::AddrInUse.into()));
        assert_eq!(
            (taken.severity, fix(&taken)),
            (Severity::Fail, "ss -ltnp 'sport = :80'")
        );
        let denied = address(addr, &Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(
            fix(&denied),
            "sysctl -w net.ipv4.ip_unprivileged_port_start=80"
        );
        let nowhere = address(addr, &Err(io::ErrorKind::AddrNotAvailable.into()));
        assert_eq!((nowhere.severity, nowhere.fix), (Severity::Fail, None));
    }

    #[test]
    fn a_system_that_tells_nothing_is_no_failure() {
        let silent = HostLimits::default();
        let findings = [
            open_files(&silent, Some(1000), 19),
            open_files(&silent, None, 168),
            backlog(&silent, 4096),
            handshakes(&silent, 4096),
            ports(&silent, &from_here(1_000_000, &silent)),
            memory(&silent, Some(1000)),
            clock(&silent),
        ];
        for finding in findings {
            assert_eq!(finding.severity, Severity::Unknown, "{finding}");
            assert_eq!(finding.fix, None, "{finding}");
        }
        assert_eq!(conntrack(&silent, 1000), None);
    }
}
