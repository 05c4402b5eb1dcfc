//! The limits of the machine, as the system tells them. Knows nothing of the needs of a program.

use super::cgroup::{self, CpuQuota};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Limits of this machine and this process. `None` means a limit that the system does not tell.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct HostLimits {
    /// The operating system and, if known, its release.
    pub system: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Cores whose time a control group allows ([`CpuQuota::cores`]). `None` also without a quota.
    pub cpu_quota_cores: Option<f64>,
    /// All memory.
    pub memory_total_bytes: Option<u64>,
    /// Memory that the control groups allow, if that is less than all memory. `None` also without a limit.
    pub memory_limit_bytes: Option<u64>,
    /// Memory that this process can take now without swapping, and without reaching a limit of its control
    /// groups.
    pub memory_available_bytes: Option<u64>,
    /// Open files that this process may have.
    pub fd_soft_limit: Option<u64>,
    /// The highest soft limit that this process may set by itself.
    pub fd_hard_limit: Option<u64>,
    /// The highest hard limit that the system allows (`fs.nr_open`).
    pub fd_ceiling: Option<u64>,
    /// Ports that one address has for outgoing connections, without the reserved ports.
    pub ephemeral_ports: Option<u64>,
    /// The longest backlog of a listener (`net.core.somaxconn`).
    pub somaxconn: Option<u64>,
    /// Connections in their handshake (`net.ipv4.tcp_max_syn_backlog`).
    pub max_syn_backlog: Option<u64>,
    /// Whether further handshakes go on without memory, by SYN cookies (`net.ipv4.tcp_syncookies`).
    pub has_syncookies: Option<bool>,
    /// Connections that the firewall can track. `None` also where the firewall tracks no connections.
    pub conntrack_max: Option<u64>,
    /// Connections that the firewall tracks now.
    pub conntrack_count: Option<u64>,
    /// The clock source of the kernel.
    pub clock_source: Option<String>,
    /// The available clock sources.
    pub clock_sources: Vec<String>,
    /// The smallest measured step of the monotonic clock: its resolution, or the time of one reading if
    /// that is longer.
    pub clock_step: Option<Duration>,
}

impl HostLimits {
    /// Reads the limits of this machine. A limit that the process has raised counts as raised: see
    /// [`raise_fd_limit`].
    #[must_use]
    pub fn read() -> Self {
        let (fd_soft_limit, fd_hard_limit) = rlimit::Resource::NOFILE.get().ok().unzip();
        Self {
            fd_soft_limit,
            fd_hard_limit,
            clock_step: measured_clock_step(),
            ..Self::read_files(Path::new("/"))
        }
    }

    /// The limits in the files below `root`.
    fn read_files(root: &Path) -> Self {
        let text = |path: &str| {
            let text = fs::read_to_string(root.join(path)).ok()?;
            Some(text.trim().to_owned())
        };
        let number = |path: &str| text(path)?.parse::<u64>().ok();
        let memory = text("proc/meminfo").unwrap_or_default();
        let memory_total_bytes = meminfo_bytes(&memory, "MemTotal:");
        let (group_limit, group_available) = cgroup::memory(root);
        let clock = "sys/devices/system/clocksource/clocksource0";
        let reserved = text("proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
        Self {
            system: match (
                text("proc/sys/kernel/ostype"),
                text("proc/sys/kernel/osrelease"),
            ) {
                (Some(name), Some(release)) => format!("{name} {release}"),
                _ => std::env::consts::OS.into(),
            },
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu_quota_cores: CpuQuota::read_below(root).cores(),
            memory_total_bytes,
            memory_limit_bytes: group_limit.filter(|limit| memory_total_bytes > Some(*limit)),
            memory_available_bytes: [meminfo_bytes(&memory, "MemAvailable:"), group_available]
                .into_iter()
                .flatten()
                .min(),
            fd_ceiling: number("proc/sys/fs/nr_open"),
            ephemeral_ports: text("proc/sys/net/ipv4/ip_local_port_range")
                .and_then(|range| count_ports(&range, &reserved)),
            somaxconn: number("proc/sys/net/core/somaxconn"),
            max_syn_backlog: number("proc/sys/net/ipv4/tcp_max_syn_backlog"),
            has_syncookies: number("proc/sys/net/ipv4/tcp_syncookies").map(|value| value > 0),
            conntrack_max: number("proc/sys/net/netfilter/nf_conntrack_max"),
            conntrack_count: number("proc/sys/net/netfilter/nf_conntrack_count"),
            clock_source: text(&format!("{clock}/current_clocksource")),
            clock_sources: text(&format!("{clock}/available_clocksource"))
                .map(|names| names.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
            ..Self::default()
        }
    }
}

/// Raises the soft limit of open files to the hard limit and returns the soft limit.
#[must_use]
pub fn raise_fd_limit() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX).unwrap_or_else(|error| {
        log::warn!("cannot raise the limit of open files: {error}");
        rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(1024, |(soft, _)| soft)
    })
}

/// The value of one line of `/proc/meminfo`, whose unit is KiB.
fn meminfo_bytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

/// The number of ports in a range (`32768 60999`) without a list of reserved ports (`8080,9000-9010`).
fn count_ports(range: &str, reserved: &str) -> Option<u64> {
    let mut ends = range.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
        return None;
    };
    let is_reserved = |port: u16| {
        reserved.split(',').any(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            match (from.trim().parse::<u16>(), to.trim().parse::<u16>()) {
                (Ok(from), Ok(to)) => (from..=to).contains(&port),
                _ => false,
            }
        })
    };
    let free = (first..=last).filter(|port| reserved.is_empty() || !is_reserved(*port));
    Some(free.count() as u64)
}

fn measured_clock_step() -> Option<Duration> {
    // The step is unknown if 1,000,000 readings show none.
    let mut last = Instant::now();
    let steps = (0..1_000_000).filter_map(|_| {
        let now = Instant::now();
        let step = now - std::mem::replace(&mut last, now);
        (!step.is_zero()).then_some(step)
    });
    steps.take(100).min()
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::tests::FakeRoot;
    use super::*;

    #[test]
    fn ports_are_those_of_the_range_without_the_reserved_ones() {
        assert_eq!(count_ports("32768\t60999", ""), Some(28_232));
        assert_eq!(count_ports("1024 65535", "1024,2000-2009,80"), Some(64_501));
        assert_eq!(count_ports("5 5", "5"), Some(0));
        assert_eq!(count_ports("9 5", ""), Some(0));
        assert_eq!(count_ports("1024 65535", "x,-,5-,,"), Some(64_512));
        for bad in ["", "x y", "1", "1 70000", "-1 5"] {
            assert_eq!(count_ports(bad, ""), None, "{bad}");
        }
    }

    #[test]
    fn memory_is_in_bytes() {
        let text = "MemTotal:       24684092 kB\nMemFree: x kB\nMemAvailable:\n";
        assert_eq!(meminfo_bytes(text, "MemTotal:"), Some(24_684_092 * 1024));
        for bad in ["MemFree:", "MemAvailable:", "Swap:"] {
            assert_eq!(meminfo_bytes(text, bad), None, "{bad}");
        }
    }

    #[test]
    fn control_group_limits_the_memory_of_the_machine() {
        let read = |limit, used| {
            let root = FakeRoot::new(&[
                ("proc/self/cgroup", "0::/\n"),
                ("proc/meminfo", "MemTotal: 8 kB\nMemAvailable: 6 kB\n"),
                ("sys/fs/cgroup/memory.max", limit),
                ("sys/fs/cgroup/memory.current", used),
                ("sys/fs/cgroup/cpu.max", "50000 100000"),
            ]);
            HostLimits::read_files(root.path())
        };
        let limits = read("7168", "4096");
        assert_eq!(limits.cpu_quota_cores, Some(0.5));
        assert_eq!(limits.memory_total_bytes, Some(8192));
        assert_eq!(limits.memory_limit_bytes, Some(7168));
        assert_eq!(limits.memory_available_bytes, Some(3072));
        // The machine has less left than the group.
        assert_eq!(read("7168", "0").memory_available_bytes, Some(6144));
        for no_limit in ["max", "9223372036854771712"] {
            let limits = read(no_limit, "4096");
            assert_eq!(limits.memory_limit_bytes, None);
            assert_eq!(limits.memory_available_bytes, Some(6144));
        }
    }

    #[test]
    fn what_cannot_be_read_is_unknown() {
        let limits = HostLimits::read_files(Path::new("/nonexistent"));
        assert!(limits.cores >= 1 && !limits.system.is_empty());
        assert_eq!(limits.memory_total_bytes, None);
        assert_eq!(limits.ephemeral_ports, None);
        assert_eq!(limits.somaxconn, None);
        assert_eq!(limits.clock_source, None);
    }

    #[test]
    fn this_machine_has_a_clock_and_a_limit_of_files() {
        let limits = HostLimits::read();
        assert!(limits.fd_soft_limit <= limits.fd_hard_limit);
        assert!(limits.clock_step.unwrap() > Duration::ZERO);
    }
}
