//! Whether the client itself is the bottleneck. It is checked before a server is blamed.

use crate::report::ClientHealth;
use server_core::host::{CpuQuota, Throttling};
use server_core::metrics::Histogram;
use server_core::{ServerHandle, start};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Watches this process while it measures.
///
/// Two things make its figures worse than the server deserves. The process was not run at all (stopped, or
/// starved of CPU): a thread that sleeps for 10 ms finds that. Or its event loops were so busy that packets
/// waited in the sockets to be read: the length of the loops' turns tells that. The same thread measures a turn that
/// runs, which may last until the end of the run.
#[derive(Debug)]
pub(crate) struct ClientMonitor {
    server: ServerHandle,
    heartbeat: Arc<Heartbeat>,
    thread: Option<JoinHandle<()>>,
    busy_before: Vec<Duration>,
    busy_since: Instant,
    cpu_before: Duration,
    quota: CpuQuota,
    throttled_before: Throttling,
    last_at: Instant,
}

#[derive(Debug)]
struct Heartbeat {
    late: Histogram,
    /// The start of the present beat.
    began_at: Mutex<Instant>,
    /// Durations so far of turns that run.
    running_turns: Histogram,
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
pub(crate) const MAX_LAG: Duration = Duration::from_millis(100);
const MAX_BUSY: f64 = 0.9;
/// A share of a shorter time says nothing.
const MIN_SHARE_TIME: Duration = Duration::from_millis(500);

impl ClientMonitor {
    /// Starts the monitor of these event loops.
    ///
    /// # Errors
    /// If its thread cannot be started.
    pub fn start(server: ServerHandle, threads: usize) -> io::Result<Self> {
        let heartbeat = Arc::new(Heartbeat {
            late: Histogram::default(),
            began_at: Mutex::new(Instant::now()),
            running_turns: Histogram::default(),
            is_over: AtomicBool::new(false),
        });
        let (beating, watched) = (Arc::clone(&heartbeat), server.clone());
        let thread = start::spawn("heartbeat", move || beating.run(&watched, threads))?;
        let (now, quota) = (Instant::now(), CpuQuota::read());
        Ok(Self {
            server,
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
    pub fn sample(&mut self, now: Instant) -> HealthSample {
        let metrics = self.server.metrics();
        let (cpu, throttled) = (cpu_time(), self.quota.throttling());
        let mut sample = HealthSample {
            elapsed: now.saturating_duration_since(self.last_at),
            cpu_time: cpu.saturating_sub(self.cpu_before),
            stall_ms: millis(self.heartbeat.take_late(now)),
            loop_lag_ms: millis(self.heartbeat.running_turns.take_max()),
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
                // A long turn counts as a whole when it ends.
                sample.busiest_loop = sample.busiest_loop.max(share).min(1.0);
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

impl HealthSample {
    /// The longest time for which a packet may have waited for this process.
    pub fn lag(&self) -> Duration {
        Duration::from_secs_f64(self.stall_ms.max(self.loop_lag_ms) / 1e3)
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
        dropped_ticks: u64,
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
        if health.is_saturated() {
            let percent = health.busiest_loop * 100.0;
            let reason = format!("an event loop was busy for {percent:.0} % of a second");
            health.reasons.push(reason);
        }
        if dropped_ticks > 0 {
            let reason = format!("{dropped_ticks} ticks came faster than they can be evaluated");
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

    /// Whether a loop was always busy: it falls behind by more than the longest of its turns.
    pub(crate) fn is_saturated(&self) -> bool {
        self.busiest_loop > MAX_BUSY
    }
}

impl Heartbeat {
    fn run(&self, server: &ServerHandle, threads: usize) {
        let mut now = Instant::now();
        // Turns that have begun, and since when that number is seen.
        let mut seen = vec![(0, now); threads];
        while !self.is_over.load(Ordering::Relaxed) {
            let before = now;
            *self.began_at() = before;
            thread::sleep(BEAT);
            now = Instant::now();
            self.late.record((now - before).saturating_sub(BEAT));
            for (worker, (begun, since)) in seen.iter_mut().enumerate() {
                let metrics = server.metrics().worker(worker);
                let is_running = metrics.turns.count() < *begun;
                if *begun == metrics.turns_begun.get() && is_running {
                    self.running_turns.record(now - *since);
                } else {
                    (*begun, *since) = (metrics.turns_begun.get(), now);
                }
            }
        }
    }

    /// The longest lateness since the last call. Behind a stall, the caller may run before this thread: the present beat
    /// counts.
    fn take_late(&self, now: Instant) -> Duration {
        let present = now.saturating_duration_since(*self.began_at());
        self.late.take_max().max(present.saturating_sub(BEAT))
    }

    fn began_at(&self) -> MutexGuard<'_, Instant> {
        self.began_at.lock().unwrap_or_else(PoisonError::into_inner)
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
    use server_core::{Context, Kick, Packet, Server, Session};

    #[test]
    fn an_idle_run_is_not_limited_and_a_stall_is_named() {
        let quiet = HealthSample {
            elapsed: Duration::from_secs(1),
            cpu_time: Duration::from_millis(50),
            ..HealthSample::default()
        };
        let mut record = HealthRecord::default();
        record.add(&quiet);
        let health = record.evaluate(Duration::ZERO, 0, 1000, &[]);
        assert!(!health.client_limited);
        assert!((health.cpu_cores - 0.05).abs() < 1e-9);
        assert!((health.cpu_us_per_packet - 50.0).abs() < 1e-9);
        record.add(&HealthSample {
            stall_ms: 300.0,
            ..quiet
        });
        let health = record.evaluate(Duration::ZERO, 0, 0, &[]);
        assert!(health.client_limited);
        assert_eq!(health.reasons, ["this process was not run for 300 ms"]);
    }

    /// Behind a stall, the sample may be taken before the heartbeat has run.
    #[test]
    fn stall_that_the_heartbeat_has_not_noted_counts() {
        let mut monitor = ClientMonitor::start(ended_client(), 1).unwrap();
        let stall = Duration::from_secs(3600);
        let lag = monitor.sample(Instant::now() + stall).lag();
        assert!(lag + Duration::from_secs(60) > stall, "{lag:?}");
    }

    #[test]
    fn a_cpu_quota_that_throttles_limits_the_client() {
        let mut record = HealthRecord::default();
        let throttled = HealthSample {
            throttled: Duration::from_millis(60),
            ..HealthSample::default()
        };
        record.add(&throttled);
        assert!(!record.evaluate(Duration::ZERO, 0, 1, &[]).client_limited);
        record.add(&throttled);
        let health = record.evaluate(Duration::ZERO, 0, 1, &[]);
        let reason = "the CPU quota of the control group stopped this process for 120 ms";
        assert_eq!(health.reasons, [reason]);
    }

    #[test]
    fn a_machine_without_ports_limits_the_client() {
        let health = HealthRecord::default().evaluate(Duration::ZERO, 0, 1, &[("ports".into(), 7)]);
        assert!(health.client_limited);
        assert_eq!(health.own_limits, 7);
        assert_eq!(
            health.reasons,
            ["this machine had no ports left for 7 connects"]
        );
    }

    #[test]
    fn the_share_of_a_loop_is_never_taken_over_too_short_a_time() {
        let server = ended_client();
        let mut monitor = ClientMonitor::start(server.clone(), 1).unwrap();
        let turns = &server.metrics().worker(0).turns;
        let start = monitor.busy_since;
        let at = |millis| start + Duration::from_millis(millis);
        monitor.busy_before[0] = turns.sum();
        turns.record(Duration::from_millis(300));
        assert_eq!(monitor.sample(at(400)).busiest_loop, 0.0);
        let share = monitor.sample(at(1000)).busiest_loop;
        assert!((share - 0.3).abs() < 1e-6, "{share}");
        assert_eq!(monitor.sample(at(2000)).busiest_loop, 0.0);
        turns.record(Duration::from_millis(5_000));
        assert_eq!(monitor.sample(at(3000)).busiest_loop, 1.0);
    }

    /// A callback that waits for longer than the run lasts.
    #[test]
    fn a_turn_that_has_not_ended_is_a_lag() {
        let server = ended_client();
        let mut monitor = ClientMonitor::start(server.clone(), 1).unwrap();
        server.metrics().worker(0).turns_begun.add(1);
        let mut record = HealthRecord::default();
        let mut is_limited = || {
            record.add(&monitor.sample(Instant::now()));
            let health = record.evaluate(Duration::ZERO, 0, 1, &[]);
            health.worst_loop_lag_ms > millis(MAX_LAG) && health.client_limited
        };
        let give_up_at = Instant::now() + Duration::from_secs(60);
        while !is_limited() {
            assert!(Instant::now() < give_up_at, "the turn was not seen");
            thread::yield_now();
        }
    }

    /// A client whose event loop turns no more.
    fn ended_client() -> ServerHandle {
        let server = Server::builder().workers(1);
        let server = server.start_client(|_| NoSession).unwrap();
        let handle = server.handle();
        handle.shutdown(Duration::ZERO);
        server.join().unwrap();
        handle
    }

    struct NoSession;

    impl Session for NoSession {
        fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
            Ok(())
        }
    }
}
