//! Measures the CPU time of another process and its threads, user and system, in nanoseconds.

use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::time::Duration;
use std::{fs, io};

/// The CPU clock of a process: the time of all its threads, including ended threads.
///
/// `/proc/PID/stat` has the same time in steps of 10 ms, a tenth of the time that a short case uses.
#[derive(Clone, Copy, Debug)]
pub struct CpuClock(ClockId);

impl CpuClock {
    /// The clock of the process with this id.
    ///
    /// # Errors
    /// Fails if the process does not exist.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self(clock_getcpuclockid(Pid::from_raw(pid as i32))?))
    }

    /// The CPU time that the process has used so far.
    ///
    /// # Errors
    /// Fails if the process has ended.
    pub fn read(self) -> io::Result<Duration> {
        Ok(clock_gettime(self.0)?.into())
    }
}

/// The CPU time that each thread of a process has used so far.
#[derive(Clone, Debug)]
pub struct ThreadTimes(HashMap<String, Duration>);

impl ThreadTimes {
    /// The current threads of a process.
    ///
    /// # Errors
    /// Fails if the process does not exist.
    pub fn of(pid: u32) -> io::Result<Self> {
        let mut times = HashMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = task?.path();
            // A thread that ended after the folder was read has no CPU time to read.
            let Ok(stat) = fs::read_to_string(path.join("schedstat")) else {
                continue;
            };
            let nanos = stat.split(' ').next().and_then(|first| first.parse().ok());
            let name = path.to_string_lossy().into_owned();
            times.insert(name, Duration::from_nanos(nanos.unwrap_or_default()));
        }
        Ok(Self(times))
    }

    /// The time that the busiest thread has used since then. This thread bounds the throughput of the process.
    #[must_use]
    pub fn busiest_since(&self, before: &Self) -> Duration {
        let used = self.0.iter().map(|(name, now)| {
            let before = before.0.get(name).copied().unwrap_or_default();
            now.saturating_sub(before)
        });
        used.max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_and_rest_does_not() -> io::Result<()> {
        let clock = CpuClock::of(std::process::id())?;
        let before = clock.read()?;
        while clock.read()? < before + Duration::from_millis(20) {}
        // Linux gives no process id above 2^22.
        let nobody = CpuClock::of(1 << 23).and_then(CpuClock::read);
        assert!(nobody.is_err());
        Ok(())
    }
}
