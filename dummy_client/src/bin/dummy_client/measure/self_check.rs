//! Is this program itself the bottleneck? It has to convict itself before it blames a server.

use schemars::JsonSchema;
use serde::Serialize;
use server_core::metrics::{Histogram, Metrics};
use server_core::start;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Watches this process while it measures.
///
/// Two things can make its figures worse than the server deserves: it was not run at all (stopped,
/// or starved of CPU), which a heartbeat of its own finds; and its event loops were so busy that
/// packets had to wait in the sockets to be read, which the length of the loops' turns tells.
pub struct SelfCheck {
    heartbeat: Arc<Heartbeat>,
    thread: Option<JoinHandle<()>>,
    busy_before: Vec<Duration>,
    busy_since: Instant,
    cpu_before: Duration,
    last_at: Instant,
}

#[derive(Default)]
struct Heartbeat {
    late: Histogram,
    is_over: AtomicBool,
}

/// What the watch has seen since it was last asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Glance {
    elapsed: Duration,
    cpu_time: Duration,
    stall_ms: f64,
    loop_lag_ms: f64,
    busiest_loop: f64,
}

/// What the watch has found over a run, or a part of one.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Findings {
    /// Whether the figures of this run may be this program's own.
    pub client_limited: bool,
    /// Why.
    pub reasons: Vec<String>,
    /// The longest that this process was not run.
    pub worst_stall_ms: f64,
    /// The longest that a packet can have waited to be read.
    pub worst_loop_lag_ms: f64,
    /// The latest that an echo or a chat was sent after it was due.
    pub worst_late_send_ms: f64,
    /// The busiest event loop in its busiest second, of 1.
    pub busiest_loop: f64,
    /// CPU time of this process over the wall time; 1 is one core.
    pub cpu_cores: f64,
    /// CPU time of this process for each packet that it received, in microseconds.
    pub cpu_us_per_packet: f64,
    #[serde(skip)]
    elapsed: Duration,
    #[serde(skip)]
    cpu_time: Duration,
}

const BEAT: Duration = Duration::from_millis(10);
/// More than this and the delays that were measured cannot be told from our own.
pub const MAX_LAG: Duration = Duration::from_millis(100);
const MAX_BUSY: f64 = 0.9;
/// A share of less time than this says nothing.
const MIN_SHARE_TIME: Duration = Duration::from_millis(500);

impl SelfCheck {
    /// Starts the watch.
    ///
    /// # Errors
    /// If its thread cannot be started.
    pub fn start(threads: usize) -> io::Result<Self> {
        let heartbeat = Arc::new(Heartbeat::default());
        let beating = Arc::clone(&heartbeat);
        let thread = start::spawn("heartbeat", move || beating.run())?;
        let now = Instant::now();
        Ok(Self {
            heartbeat,
            thread: Some(thread),
            busy_before: vec![Duration::ZERO; threads],
            busy_since: now,
            cpu_before: cpu_time(),
            last_at: now,
        })
    }

    /// Looks at what has happened since the last time; at least once a second.
    pub fn look(&mut self, metrics: &Metrics, now: Instant) -> Glance {
        let cpu = cpu_time();
        let mut glance = Glance {
            elapsed: now.saturating_duration_since(self.last_at),
            cpu_time: cpu.saturating_sub(self.cpu_before),
            stall_ms: millis(self.heartbeat.late.take_max()),
            ..Glance::default()
        };
        self.last_at = now;
        self.cpu_before = cpu;
        let busy_time = now.saturating_duration_since(self.busy_since);
        for (worker, before) in self.busy_before.iter_mut().enumerate() {
            let turns = &metrics.worker(worker).turns;
            glance.loop_lag_ms = glance.loop_lag_ms.max(millis(turns.take_max()));
            if busy_time >= MIN_SHARE_TIME {
                let busy = turns.sum();
                let share = (busy - *before).as_secs_f64() / busy_time.as_secs_f64();
                glance.busiest_loop = glance.busiest_loop.max(share);
                *before = busy;
            }
        }
        if busy_time >= MIN_SHARE_TIME {
            self.busy_since = now;
        }
        glance
    }

    fn stop(&mut self) {
        self.heartbeat.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot panic; should it, there is nothing to be done about it here.
            let _ = thread.join();
        }
    }
}

impl Findings {
    /// Adds what one glance has seen.
    pub fn absorb(&mut self, glance: &Glance) {
        self.elapsed += glance.elapsed;
        self.cpu_time += glance.cpu_time;
        self.worst_stall_ms = self.worst_stall_ms.max(glance.stall_ms);
        self.worst_loop_lag_ms = self.worst_loop_lag_ms.max(glance.loop_lag_ms);
        self.busiest_loop = self.busiest_loop.max(glance.busiest_loop);
    }

    /// The longest for which what came may have had to wait for this program.
    pub fn worst_lag_ms(&self) -> f64 {
        self.worst_stall_ms.max(self.worst_loop_lag_ms)
    }

    /// Judges, once everything is seen.
    #[must_use]
    pub fn judged(mut self, worst_late_send_ms: f64, packets: u64) -> Self {
        self.worst_late_send_ms = worst_late_send_ms;
        let cpu_secs = self.cpu_time.as_secs_f64();
        self.cpu_cores = cpu_secs / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        self.cpu_us_per_packet = cpu_secs * 1e6 / packets.max(1) as f64;
        let limit = millis(MAX_LAG);
        let lags = [
            (self.worst_stall_ms, "this process was not run for"),
            (
                self.worst_loop_lag_ms,
                "packets waited to be read for up to",
            ),
            (worst_late_send_ms, "requests were sent late by up to"),
        ];
        for (lag, what) in lags.into_iter().filter(|(lag, _)| *lag > limit) {
            self.reasons.push(format!("{what} {lag:.0} ms"));
        }
        if self.busiest_loop > MAX_BUSY {
            let percent = self.busiest_loop * 100.0;
            self.reasons.push(format!(
                "an event loop was busy for {percent:.0} % of a second"
            ));
        }
        self.client_limited = !self.reasons.is_empty();
        self
    }
}

impl Drop for SelfCheck {
    fn drop(&mut self) {
        self.stop();
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

/// CPU time of this process so far; zero where the system does not tell.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold anything, in fields 14 and 15 of the line; in ticks of the
    // clock, of which Linux always shows 100 a second.
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
        let quiet = Glance {
            elapsed: Duration::from_secs(1),
            cpu_time: Duration::from_millis(50),
            ..Glance::default()
        };
        let mut findings = Findings::default();
        findings.absorb(&quiet);
        let judged = findings.clone().judged(0.0, 1000);
        assert!(!judged.client_limited);
        assert!((judged.cpu_cores - 0.05).abs() < 1e-9);
        assert!((judged.cpu_us_per_packet - 50.0).abs() < 1e-9);
        findings.absorb(&Glance {
            stall_ms: 300.0,
            ..quiet
        });
        let judged = findings.judged(0.0, 0);
        assert!(judged.client_limited);
        assert_eq!(judged.reasons, ["this process was not run for 300 ms"]);
    }

    #[test]
    fn the_share_of_a_loop_is_never_taken_over_too_short_a_time() {
        let mut check = SelfCheck::start(1).unwrap();
        let metrics = Metrics::new(1);
        let start = check.busy_since;
        let at = |millis| start + Duration::from_millis(millis);
        metrics.worker(0).turns.record(Duration::from_millis(300));
        assert_eq!(check.look(&metrics, at(400)).busiest_loop, 0.0);
        let share = check.look(&metrics, at(1000)).busiest_loop;
        assert!((share - 0.3).abs() < 1e-6, "{share}");
        assert_eq!(check.look(&metrics, at(2000)).busiest_loop, 0.0);
    }
}
