//! The memory that this process may use, and the return of free memory to the system.

#![allow(unsafe_code)] // One call of the C library, without arguments that could be wrong.

use std::fs;

/// Bytes of memory that the machine, the control groups of this process and its limit of address space
/// allow: the least of the three. `None` where the system gives no number.
#[must_use]
pub fn allowed_bytes() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok();
    [
        read("/proc/meminfo").and_then(|text| total_of(&text)),
        read("/proc/self/limits").and_then(|text| address_space_of(&text)),
        read("/proc/self/cgroup").and_then(|text| {
            let limits = cgroup_files(&text).filter_map(|path| read(&path)?.trim().parse().ok());
            limits.min()
        }),
    ]
    .into_iter()
    .flatten()
    .min()
}

/// `MemTotal:       24689764 kB`
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// `Max address space         734003200            734003200            bytes`
fn address_space_of(limits: &str) -> Option<u64> {
    let line = (limits.lines()).find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The files with the limits of the groups that `/proc/self/cgroup` names, and of those above them:
/// `0::/a/b` for version 2, `5:memory:/a/b` for version 1.
fn cgroup_files(groups: &str) -> impl Iterator<Item = String> + '_ {
    groups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
        let (root, file) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        };
        let is_memory = controllers.is_empty() || controllers.split(',').any(|it| it == "memory");
        let ancestors = std::path::Path::new(path).ancestors();
        ancestors.filter(move |_| is_memory).map(move |group| {
            let group = group.display().to_string();
            format!("{root}{}/{file}", group.trim_end_matches('/'))
        })
    })
}

/// Gives free memory back to the system. The call takes some milliseconds for each gigabyte, in which
/// another thread may wait for an allocation: do not call it on a thread that has to be on time.
///
/// The allocator of glibc keeps small blocks that many threads have freed. Other allocators give them
/// back by themselves, and there the call does nothing.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` may be called at any time from any thread, and takes no pointer.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_from_the_texts_of_the_system() {
        assert_eq!(
            total_of("MemTotal:  24 kB\nMemFree: 3 kB\n"),
            Some(24 << 10)
        );
        assert_eq!(total_of("MemTotal: many kB"), None);
        let limits = "Limit  Soft  Hard  Units\nMax address space   7340032  unlimited   bytes\n";
        assert_eq!(address_space_of(limits), Some(7 << 20));
        let limits = "Max address space   unlimited   unlimited   bytes\n";
        assert_eq!(address_space_of(limits), None);
        let files = |groups| cgroup_files(groups).collect::<Vec<_>>();
        assert_eq!(
            files("0::/a/b\n"),
            [
                "/sys/fs/cgroup/a/b/memory.max",
                "/sys/fs/cgroup/a/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(
            files("7:cpu,memory:/a\n4:pids:/a\n"),
            [
                "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes"
            ]
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_says_how_much_it_has() {
        assert!(allowed_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
