//! How much CPU time another process and its threads have used, user and system, in nanoseconds.

use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::time::Duration;
use std::{fs, io};

/// The CPU clock of a process: all of its threads, those that have ended included.
///
/// `/proc/PID/stat` tells the same in steps of 10 ms, which is a tenth of what a short case uses.
#[derive(Clone, Copy, Debug)]
pub struct CpuClock(ClockId);

impl CpuClock {
    /// The clock of this process.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self(clock_getcpuclockid(Pid::from_raw(pid as i32))?))
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn read(self) -> io::Result<Duration> {
        Ok(clock_gettime(self.0)?.into())
    }
}

/// What each thread of a process has used so far.
#[derive(Clone, Debug)]
pub struct ThreadTimes(HashMap<String, Duration>);

impl ThreadTimes {
    /// The threads that a process has now.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        let mut times = HashMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = task?.path();
            // A thread that has ended meanwhile has no times to tell.
            let Ok(stat) = fs::read_to_string(path.join("schedstat")) else {
                continue;
            };
            let nanos = stat.split(' ').next().and_then(|first| first.parse().ok());
            let name = path.to_string_lossy().into_owned();
            times.insert(name, Duration::from_nanos(nanos.unwrap_or_default()));
        }
        Ok(Self(times))
    }

    /// How much the busiest one has used since then: what bounds the throughput of the whole.
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
        // Above the most that Linux gives, 2^22.
        let nobody = CpuClock::of(1 << 23).and_then(CpuClock::read);
        assert!(nobody.is_err());
        Ok(())
    }
}
