//! The machine that a benchmark runs on.

use serde::Serialize;
use std::fmt;
use std::fs;
use std::thread;

/// This machine, at the start of the benchmark.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    /// The load average of the last minute, before the first measurement.
    pub load_average: f64,
}

impl Machine {
    /// Reads processor, kernel and load average from `/proc`.
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let first_word = |text: String| text.split_whitespace().next().map(String::from);
        Self {
            cpu: model
                .map_or("an unknown processor", |(_, name)| name)
                .into(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            kernel: first_word(read("/proc/sys/kernel/osrelease")).unwrap_or_default(),
            load_average: first_word(read("/proc/loadavg"))
                .and_then(|load| load.parse().ok())
                .unwrap_or(f64::NAN),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cores of {}, Linux {}, load average {:.2} at the start",
            self.cores, self.cpu, self.kernel, self.load_average
        )
    }
}
