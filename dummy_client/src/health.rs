//! Whether the client itself is the bottleneck. It is checked before a server is blamed.

use crate::report::ClientHealth;
use server_core::host::{CpuQuota, Throttling};
use server_core::metrics::{Histogram, Metrics};
use server_core::start;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Watches this process while it measures.
///
/// Two things make its figures worse than the server deserves. The process was not run at all (stopped, or
/// starved of CPU): a thread that sleeps for 10 ms finds that. Or its event loops were so busy that packets
/// waited in the sockets to be read: the length of the loops' turns tells that.
#[derive(Debug)]
pub(crate) struct ClientMonitor {
    heartbeat: Arc<Heartbeat>,
    thread: Option<JoinHandle<()>>,
    busy_before: Vec<Duration>,
    busy_since: Instant,
    cpu_before: Duration,
    quota: CpuQuota,
    throttled_before: Throttling,
    last_at: Instant,
}

#[derive(Debug, Default)]
struct Heartbeat {
    late: Histogram,
    is_over: AtomicBool,
}

/// What the monitor has seen since the last sample.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HealthSample {
    elapsed: Duration,
    cpu_time: Duration,
    stall_ms: f64,
    loop_lag_ms: f64,
    busiest_loop: f64,
    throttled: Duration,
}

/// The samples of a run, or of a part of one.
#[derive(Clone, Debug, Default)]
pub(crate) struct HealthRecord {
    elapsed: Duration,
    cpu_time: Duration,
    health: ClientHealth,
}

const BEAT: Duration = Duration::from_millis(10);
/// A delay that was measured with a longer lag cannot be told from the client's own.
const MAX_LAG: Duration = Duration::from_millis(100);
const MAX_BUSY: f64 = 0.9;
/// A share of a shorter time says nothing.
const MIN_SHARE_TIME: Duration = Duration::from_millis(500);

impl ClientMonitor {
    /// Starts the monitor.
    ///
    /// # Errors
    /// If its thread cannot be started.
    pub fn start(threads: usize) -> io::Result<Self> {
        let heartbeat = Arc::new(Heartbeat::default());
        let beating = Arc::clone(&heartbeat);
        let thread = start::spawn("heartbeat", move || beating.run())?;
        let (now, quota) = (Instant::now(), CpuQuota::read());
        Ok(Self {
            heartbeat,
            thread: Some(thread),
            busy_before: vec![Duration::ZERO; threads],
            busy_since: now,
            cpu_before: cpu_time(),
            throttled_before: quota.throttling(),
            quota,
            last_at: now,
        })
    }

    /// What has happened since the last call; to be called at least once a second.
    pub fn sample(&mut self, metrics: &Metrics, now: Instant) -> HealthSample {
        let (cpu, throttled) = (cpu_time(), self.quota.throttling());
        let mut sample = HealthSample {
            elapsed: now.saturating_duration_since(self.last_at),
            cpu_time: cpu.saturating_sub(self.cpu_before),
            stall_ms: millis(self.heartbeat.late.take_max()),
            throttled: throttled.since(self.throttled_before).time,
            ..HealthSample::default()
        };
        self.last_at = now;
        self.cpu_before = cpu;
        self.throttled_before = throttled;
        let busy_time = now.saturating_duration_since(self.busy_since);
        for (worker, before) in self.busy_before.iter_mut().enumerate() {
            let turns = &metrics.worker(worker).turns;
            sample.loop_lag_ms = sample.loop_lag_ms.max(millis(turns.take_max()));
            if busy_time >= MIN_SHARE_TIME {
                let busy = turns.sum();
                let share = (busy - *before).as_secs_f64() / busy_time.as_secs_f64();
                sample.busiest_loop = sample.busiest_loop.max(share);
                *before = busy;
            }
        }
        if busy_time >= MIN_SHARE_TIME {
            self.busy_since = now;
        }
        sample
    }
}

impl Drop for ClientMonitor {
    fn drop(&mut self) {
        self.heartbeat.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread cannot panic, and there is nothing to do if it did.
            let _ = thread.join();
        }
    }
}

impl HealthRecord {
    /// Adds a sample.
    pub fn add(&mut self, sample: &HealthSample) {
        self.elapsed += sample.elapsed;
        self.cpu_time += sample.cpu_time;
        let health = &mut self.health;
        health.worst_stall_ms = health.worst_stall_ms.max(sample.stall_ms);
        health.worst_loop_lag_ms = health.worst_loop_lag_ms.max(sample.loop_lag_ms);
        health.busiest_loop = health.busiest_loop.max(sample.busiest_loop);
        health.throttled_ms += millis(sample.throttled);
    }

    /// The health of the client over all samples. `own_limits`: connects that failed for want of a resource
    /// of this machine, by resource.
    pub fn evaluate(
        &self,
        worst_late_send: Duration,
        packets: u64,
        own_limits: &[(String, u64)],
    ) -> ClientHealth {
        let mut health = self.health.clone();
        health.worst_late_send_ms = millis(worst_late_send);
        let cpu_secs = self.cpu_time.as_secs_f64();
        health.cpu_cores = cpu_secs / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        if packets > 0 {
            health.cpu_us_per_packet = cpu_secs * 1e6 / packets as f64;
        }
        let lags = [
            (health.worst_stall_ms, "this process was not run for"),
            (
                health.worst_loop_lag_ms,
                "packets waited to be read for up to",
            ),
            (
                health.worst_late_send_ms,
                "requests were sent late by up to",
            ),
            (
                health.throttled_ms,
                "the CPU quota of the control group stopped this process for",
            ),
        ];
        for (lag, what) in lags.into_iter().filter(|(lag, _)| *lag > millis(MAX_LAG)) {
            health.reasons.push(format!("{what} {lag:.0} ms"));
        }
        if health.busiest_loop > MAX_BUSY {
            let percent = health.busiest_loop * 100.0;
            let reason = format!("an event loop was busy for {percent:.0} % of a second");
            health.reasons.push(reason);
        }
        for (resource, count) in own_limits {
            health.own_limits += count;
            let reason = format!("this machine had no {resource} left for {count} connects");
            health.reasons.push(reason);
        }
        health.client_limited = !health.reasons.is_empty();
        health
    }
}

impl ClientHealth {
    /// The longest time for which a packet may have waited for this process.
    pub(crate) fn worst_lag_ms(&self) -> f64 {
        self.worst_stall_ms.max(self.worst_loop_lag_ms)
    }
}

impl Heartbeat {
    fn run(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            let before = Instant::now();
            thread::sleep(BEAT);
            self.late.record(before.elapsed().saturating_sub(BEAT));
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// CPU time of the process so far; zero where the system does not tell.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 14 and 15 of the line, behind the name, which may hold any character. The unit is a tick of the
    // clock; Linux always shows 100 a second.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks = |field: usize| {
        fields
            .split(' ')
            .nth(field)
            .and_then(|text| text.parse::<u64>().ok())
    };
    let total = ticks(11)
        .zip(ticks(12))
        .map_or(0, |(user, system)| user + system);
    Duration::from_millis(total * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_run_is_not_limited_and_a_stall_is_named() {
        let quiet = HealthSample {
            elapsed: Duration::from_secs(1),
            cpu_time: Duration::from_millis(50),
            ..HealthSample::default()
        };
        let mut record = HealthRecord::default();
        record.add(&quiet);
        let health = record.evaluate(Duration::ZERO, 1000, &[]);
        assert!(!health.client_limited);
        assert!((health.cpu_cores - 0.05).abs() < 1e-9);
        assert!((health.cpu_us_per_packet - 50.0).abs() < 1e-9);
        record.add(&HealthSample {
            stall_ms: 300.0,
            ..quiet
        });
        let health = record.evaluate(Duration::ZERO, 0, &[]);
        assert!(health.client_limited);
        assert_eq!(health.reasons, ["this process was not run for 300 ms"]);
    }

    #[test]
    fn a_cpu_quota_that_throttles_limits_the_client() {
        let mut record = HealthRecord::default();
        let throttled = HealthSample {
            throttled: Duration::from_millis(60),
            ..HealthSample::default()
        };
        record.add(&throttled);
        assert!(!record.evaluate(Duration::ZERO, 1, &[]).client_limited);
        record.add(&throttled);
        let health = record.evaluate(Duration::ZERO, 1, &[]);
        let reason = "the CPU quota of the control group stopped this process for 120 ms";
        assert_eq!(health.reasons, [reason]);
    }

    #[test]
    fn a_machine_without_ports_limits_the_client() {
        let health = HealthRecord::default().evaluate(Duration::ZERO, 1, &[("ports".into(), 7)]);
        assert!(health.client_limited);
        assert_eq!(health.own_limits, 7);
        assert_eq!(
            health.reasons,
            ["this machine had no ports left for 7 connects"]
        );
    }

    #[test]
    fn the_share_of_a_loop_is_never_taken_over_too_short_a_time() {
        let mut monitor = ClientMonitor::start(1).unwrap();
        let metrics = Metrics::new(1);
        let start = monitor.busy_since;
        let at = |millis| start + Duration::from_millis(millis);
        metrics.worker(0).turns.record(Duration::from_millis(300));
        assert_eq!(monitor.sample(&metrics, at(400)).busiest_loop, 0.0);
        let share = monitor.sample(&metrics, at(1000)).busiest_loop;
        assert!((share - 0.3).abs() < 1e-6, "{share}");
        assert_eq!(monitor.sample(&metrics, at(2000)).busiest_loop, 0.0);
    }
}
