//! The limits that the control groups (cgroups) of this process set: cores and memory.

use crate::base::cgroup::{self, Cgroup};
use std::path::Path;
use std::time::Duration;

/// The CPU quota of this process: the least quota of its control group and of the groups above it, of
/// version 1 or 2.
///
/// The kernel throttles a group that has used up its quota: all processes of the group stop for the rest of
/// a period (100 ms by default). A measurement samples [`throttling`](Self::throttling) and takes the
/// difference:
///
/// ```
/// use server_core::host::CpuQuota;
///
/// let quota = CpuQuota::read();
/// let before = quota.throttling();
/// // The measurement.
/// let throttled = quota.throttling().since(before);
/// if throttled.periods > 0 {
///     println!("throttled {} times: {:?}", throttled.periods, quota.cores());
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct CpuQuota {
    groups: Vec<Cgroup>,
}

/// How often, and for how long, quotas have throttled the groups of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods at whose end a group had used up its quota.
    pub periods: u64,
    /// Time for which a group was stopped, summed over the cores that the group used.
    pub time: Duration,
}

impl CpuQuota {
    /// Finds the groups of this process. A process that moves to another group has to call this again.
    #[must_use]
    pub fn read() -> Self {
        Self::read_below(Path::new("/"))
    }

    pub(super) fn read_below(root: &Path) -> Self {
        let groups = cgroup::groups(root, "cpu");
        Self { groups }
    }

    /// The quota in cores: 0.5 is half of the time of one core. `None` without a quota.
    #[must_use]
    pub fn cores(&self) -> Option<f64> {
        self.groups.iter().filter_map(quota).min_by(f64::total_cmp)
    }

    /// The throttling since the groups exist; zero without a quota. Reads one small file for each group.
    #[must_use]
    pub fn throttling(&self) -> Throttling {
        let stats = self.groups.iter().filter_map(|group| {
            let text = group.text("cpu.stat", "cpu.stat")?;
            let micros = stat(&text, "throttled_usec").map(Duration::from_micros);
            let nanos = stat(&text, "throttled_time").map(Duration::from_nanos);
            Some((stat(&text, "nr_throttled")?, micros.or(nanos)?))
        });
        stats.fold(Throttling::default(), |sum, (periods, time)| Throttling {
            periods: sum.periods.saturating_add(periods),
            time: sum.time.saturating_add(time),
        })
    }
}

impl Throttling {
    /// The throttling after an earlier sample.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            periods: self.periods.saturating_sub(earlier.periods),
            time: self.time.saturating_sub(earlier.time),
        }
    }
}

/// `50000 100000` (version 2) is half a core. `max 100000`, or -1 in version 1, means that the group has no quota.
fn quota(group: &Cgroup) -> Option<f64> {
    let quota = group.text("cpu.cfs_quota_us", "cpu.max")?;
    let period = group.text("cpu.cfs_period_us", "cpu.max")?;
    let quota: u64 = quota.split_whitespace().next()?.parse().ok()?;
    let period: u64 = period.split_whitespace().last()?.parse().ok()?;
    (period > 0).then(|| quota as f64 / period as f64)
}

/// The least memory limit, and the least memory that a group has left, in bytes.
///
/// The kernel reclaims the page cache that no program has used for a while before a group reaches its
/// limit, so this part of the group's memory counts as available, as it does in `MemAvailable`.
pub(super) fn memory(root: &Path) -> (Option<u64>, Option<u64>) {
    let groups = cgroup::groups(root, "memory");
    let available = |group: &Cgroup| {
        let used = group.text("memory.usage_in_bytes", "memory.current")?;
        let stats = group.text("memory.stat", "memory.stat").unwrap_or_default();
        let cache = stat(&stats, "total_inactive_file").or(stat(&stats, "inactive_file"));
        let used = (used.trim().parse::<u64>().ok()?).saturating_sub(cache.unwrap_or(0));
        Some(group.memory_limit_bytes()?.saturating_sub(used))
    };
    let limits = groups.iter().filter_map(Cgroup::memory_limit_bytes);
    (limits.min(), groups.iter().filter_map(available).min())
}

/// The number behind a name in `cpu.stat` or `memory.stat`.
fn stat(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let (_, number) = lines.find(|(found, _)| *found == name)?;
    number.trim().parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A file system of its own, which is removed at the end.
    pub(in crate::host) struct FakeRoot(PathBuf);

    impl FakeRoot {
        pub(in crate::host) fn new(files: &[(&str, &str)]) -> Self {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("server_core_host_{}_{number}", std::process::id());
            let root = Self(std::env::temp_dir().join(name));
            for (path, text) in files {
                root.write(path, text);
            }
            root
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        pub(in crate::host) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for FakeRoot {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const V2: (&str, &str) = ("proc/self/cgroup", "0::/slice/game\n");
    const V1: (&str, &str) = (
        "proc/self/cgroup",
        "4:memory:/game\n3:cpu,cpuacct:/game\n0::/\n",
    );

    fn cores(files: &[(&str, &str)]) -> Option<f64> {
        let root = FakeRoot::new(files);
        CpuQuota::read_below(root.path()).cores()
    }

    #[test]
    fn least_quota_of_the_groups_counts() {
        let own = ("sys/fs/cgroup/slice/game/cpu.max", "max 100000\n");
        assert_eq!(cores(&[V2, own]), None);
        let above = ("sys/fs/cgroup/slice/cpu.max", "150000 100000\n");
        assert_eq!(cores(&[V2, own, above]), Some(1.5));
        let own = ("sys/fs/cgroup/slice/game/cpu.max", "10000 20000\n");
        assert_eq!(cores(&[V2, own, above]), Some(0.5));
        let broken = ("sys/fs/cgroup/slice/game/cpu.max", "10000 0\n");
        assert_eq!(cores(&[V2, broken]), None);
        assert_eq!(cores(&[]), None);
    }

    #[test]
    fn version_1_has_a_quota_as_well() {
        let period = ("sys/fs/cgroup/cpu/game/cpu.cfs_period_us", "100000\n");
        let quota = |text| ("sys/fs/cgroup/cpu/game/cpu.cfs_quota_us", text);
        assert_eq!(cores(&[V1, period, quota("-1\n")]), None);
        assert_eq!(cores(&[V1, period, quota("250000\n")]), Some(2.5));
        // A container sees its own group as the top.
        let period = ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
        let quota = ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n");
        assert_eq!(cores(&[V1, period, quota]), Some(0.5));
    }

    #[test]
    fn throttling_is_the_difference_of_two_samples() {
        let own = "sys/fs/cgroup/slice/game/cpu.stat";
        let root = FakeRoot::new(&[
            V2,
            (own, "nr_periods 9\nnr_throttled 3\nthrottled_usec 7\n"),
        ]);
        let above = "nr_throttled 1\nthrottled_usec 1000\n";
        root.write("sys/fs/cgroup/slice/cpu.stat", above);
        // A group without the controller has no such lines.
        root.write("sys/fs/cgroup/cpu.stat", "usage_usec 100\n");
        let quota = CpuQuota::read_below(root.path());
        let before = quota.throttling();
        let time = Duration::from_micros(1007);
        assert_eq!(before, Throttling { periods: 4, time });
        root.write(own, "nr_throttled 5\nthrottled_usec 20007\n");
        let time = Duration::from_millis(20);
        let expected = Throttling { periods: 2, time };
        assert_eq!(quota.throttling().since(before), expected);
        let stat = "nr_periods 5\nnr_throttled 2\nthrottled_time 1500\n";
        let root = FakeRoot::new(&[V1, ("sys/fs/cgroup/cpu/game/cpu.stat", stat)]);
        let time = Duration::from_nanos(1500);
        let expected = Throttling { periods: 2, time };
        assert_eq!(CpuQuota::read_below(root.path()).throttling(), expected);
        let root = FakeRoot::new(&[]);
        let nothing = CpuQuota::read_below(root.path()).throttling();
        assert_eq!(nothing, Throttling::default());
    }

    #[test]
    fn least_memory_that_a_group_has_left_is_available() {
        let root = FakeRoot::new(&[
            V2,
            ("sys/fs/cgroup/slice/game/memory.max", "max\n"),
            ("sys/fs/cgroup/slice/game/memory.current", "500\n"),
            ("sys/fs/cgroup/slice/memory.max", "10000\n"),
            ("sys/fs/cgroup/slice/memory.current", "7000\n"),
        ]);
        assert_eq!(memory(root.path()), (Some(10_000), Some(3000)));
        root.write(
            "sys/fs/cgroup/slice/memory.stat",
            "file 9\ninactive_file 2000\n",
        );
        assert_eq!(memory(root.path()), (Some(10_000), Some(5000)));
        // The tightest group is the group with the least left, not the group with the least limit.
        root.write("sys/fs/cgroup/slice/game/memory.max", "9000\n");
        assert_eq!(memory(root.path()), (Some(9000), Some(5000)));
        root.write("sys/fs/cgroup/slice/game/memory.current", "9001\n");
        assert_eq!(memory(root.path()), (Some(9000), Some(0)));
        let stat = "inactive_file 1\ntotal_inactive_file 2000\n";
        let root = FakeRoot::new(&[
            V1,
            ("sys/fs/cgroup/memory/game/memory.limit_in_bytes", "8000\n"),
            ("sys/fs/cgroup/memory/game/memory.usage_in_bytes", "7000\n"),
            ("sys/fs/cgroup/memory/game/memory.stat", stat),
        ]);
        assert_eq!(memory(root.path()), (Some(8000), Some(3000)));
        assert_eq!(memory(FakeRoot::new(&[V1]).path()), (None, None));
    }
}
