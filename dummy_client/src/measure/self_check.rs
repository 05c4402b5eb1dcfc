//! Is this program itself the bottleneck? It has to convict itself before it blames a server.

use serde::Serialize;
use server_core::metrics::{Histogram, Metrics};
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
    last_at: Instant,
    started_at: Instant,
    findings: Findings,
}

#[derive(Default)]
struct Heartbeat {
    late: Histogram,
    is_over: AtomicBool,
}

/// What the watch has found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Findings {
    /// Whether the figures of this run may be this program's own.
    pub client_limited: bool,
    /// Why.
    pub reasons: Vec<String>,
    /// The longest that this process was not run.
    pub worst_stall_ms: f64,
    /// The longest that a packet can have waited to be read.
    pub worst_loop_lag_ms: f64,
    /// The latest that an echo was sent after it was due.
    pub worst_late_send_ms: f64,
    /// The busiest event loop in its busiest second, of 1.
    pub busiest_loop: f64,
    /// CPU time of this process over the wall time; 1 is one core.
    pub cpu_cores: f64,
}

const BEAT: Duration = Duration::from_millis(10);
/// More than this and the delays that were measured cannot be told from our own.
pub const MAX_LAG: Duration = Duration::from_millis(100);
const MAX_BUSY: f64 = 0.9;

impl SelfCheck {
    /// Starts the watch.
    ///
    /// # Errors
    /// If its thread cannot be started.
    pub fn start(threads: usize) -> io::Result<Self> {
        let heartbeat = Arc::new(Heartbeat::default());
        let beating = Arc::clone(&heartbeat);
        let thread = thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || beating.run())?;
        let now = Instant::now();
        Ok(Self {
            heartbeat,
            thread: Some(thread),
            busy_before: vec![Duration::ZERO; threads],
            last_at: now,
            started_at: now,
            findings: Findings::default(),
        })
    }

    /// Looks at what has happened since the last time; at least once a second.
    pub fn look(&mut self, metrics: &Metrics, now: Instant) {
        let elapsed = now.saturating_duration_since(self.last_at).as_secs_f64();
        self.last_at = now;
        let findings = &mut self.findings;
        let stall = self.heartbeat.late.take_max().as_secs_f64() * 1e3;
        findings.worst_stall_ms = findings.worst_stall_ms.max(stall);
        for (worker, before) in self.busy_before.iter_mut().enumerate() {
            let turns = &metrics.worker(worker).turns;
            let lag = turns.take_max().as_secs_f64() * 1e3;
            findings.worst_loop_lag_ms = findings.worst_loop_lag_ms.max(lag);
            let busy = turns.sum();
            // Too short a time says nothing.
            if elapsed > 0.5 {
                let share = (busy - *before).as_secs_f64() / elapsed;
                findings.busiest_loop = findings.busiest_loop.max(share);
                *before = busy;
            }
        }
    }

    /// Ends the watch, and judges.
    #[must_use]
    pub fn finish(mut self, worst_late_send_ms: f64) -> Findings {
        self.stop();
        let mut findings = std::mem::take(&mut self.findings);
        findings.worst_late_send_ms = worst_late_send_ms;
        findings.cpu_cores = cpu_time().as_secs_f64() / self.started_at.elapsed().as_secs_f64();
        let limit = MAX_LAG.as_secs_f64() * 1e3;
        let lags = [
            (findings.worst_stall_ms, "this process was not run for"),
            (
                findings.worst_loop_lag_ms,
                "packets waited to be read for up to",
            ),
            (worst_late_send_ms, "echoes were sent late by up to"),
        ];
        for (lag, what) in lags.into_iter().filter(|(lag, _)| *lag > limit) {
            findings.reasons.push(format!("{what} {lag:.0} ms"));
        }
        if findings.busiest_loop > MAX_BUSY {
            let percent = findings.busiest_loop * 100.0;
            findings.reasons.push(format!(
                "an event loop was busy for {percent:.0} % of a second"
            ));
        }
        findings.client_limited = !findings.reasons.is_empty();
        findings
    }

    fn stop(&mut self) {
        self.heartbeat.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot panic; should it, there is nothing to be done about it here.
            let _ = thread.join();
        }
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
