//! The tick: sends the hello to every session, and logs the summary line.

use super::packets::SHello;
use super::stats::Stats;
use server_core::tick::TickSchedule;
use server_core::{ServerHandle, TickMetrics};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The tick loop of the main thread.
#[derive(Debug)]
pub struct TickLoop {
    schedule: Option<TickSchedule>,
    hello_tail: Vec<u8>,
    ticks: Arc<TickMetrics>,
    stats: Stats,
}

/// The longest sleep between two checks whether the server still runs.
const MAX_SLEEP: Duration = Duration::from_secs(1);

impl TickLoop {
    /// Begins the schedule. Without a period the loop sends no hello. `hello_tail` follows the tick number of
    /// each hello.
    #[must_use]
    pub fn new(
        period: Option<Duration>,
        hello_tail: Vec<u8>,
        stats_interval: Duration,
        ticks: Arc<TickMetrics>,
    ) -> Self {
        let now = Instant::now();
        Self {
            schedule: period.map(|period| TickSchedule::new(now, period)),
            hello_tail,
            stats: Stats::new(stats_interval, Arc::clone(&ticks), now),
            ticks,
        }
    }

    /// Runs until the server shuts down. A signal unparks this thread.
    pub fn run(&mut self, server: &ServerHandle) {
        while !server.is_shutting_down() {
            let schedule = self.schedule.as_ref();
            let due = [
                schedule.map(TickSchedule::next_at),
                self.stats.next_at(),
                // The server may end by itself.
                Some(Instant::now() + MAX_SLEEP),
            ];
            if let Some(wake_at) = due.into_iter().flatten().min() {
                std::thread::park_timeout(wake_at.saturating_duration_since(Instant::now()));
            }
            if server.is_shutting_down() {
                return;
            }
            let now = Instant::now();
            if let Some(tick) = (self.schedule.as_mut()).and_then(|schedule| schedule.poll(now)) {
                // Counts before the broadcast: the metrics contain every tick that a client has received.
                self.ticks.count(tick);
                server.broadcast_measured(now, &SHello::new(tick.number), &self.hello_tail);
                self.ticks.duration.record(now.elapsed());
            }
            self.stats.log_if_due(server, Instant::now());
        }
    }
}
