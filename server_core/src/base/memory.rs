//! The memory that this process may use, and the return of free memory to the system.

#![allow(unsafe_code)] // One call of the C library, without arguments that could be wrong.

use super::cgroup::{self, Cgroup};
use std::fs;
use std::path::Path;

/// Bytes of memory that the machine, the control groups of this process and its limit of address space
/// allow: the least of the three. `None` where the system gives no number.
#[must_use]
pub fn allowed_bytes() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok();
    [
        read("/proc/meminfo").and_then(|text| total_of(&text)),
        read("/proc/self/limits").and_then(|text| address_space_of(&text)),
        (cgroup::groups(Path::new("/"), "memory").iter())
            .filter_map(Cgroup::memory_limit_bytes)
            .min(),
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
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_says_how_much_it_has() {
        assert!(allowed_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
