//! What one thread measures, until the run takes it.

use super::histogram::Histogram;
use super::registry::{Registry, TickSeries, Trend};
use crate::analysis::{Arrived, LeaveRun, TickRun};
use server_core::metrics::Counter as AtomicCounter;
use std::mem::replace;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The counters and samples of one event loop, on cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Recorder {
    counters: Box<[AtomicCounter]>,
    batch: Mutex<Batch>,
}

/// Samples since they were last taken.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// By series.
    pub ticks: Vec<Vec<TickRun>>,
    /// By series.
    pub leaves: Vec<Vec<LeaveRun>>,
    /// By trend. The trends of tick series are empty: an event loop does not know the schedule.
    pub trends: Vec<Histogram>,
    /// The longest time from the moment at which a request was due to its sending.
    pub worst_late_send: Duration,
}

impl Recorder {
    pub fn new(registry: &Registry) -> Self {
        Self {
            counters: (0..registry.counters())
                .map(|_| AtomicCounter::default())
                .collect(),
            batch: Mutex::new(Batch::new(registry)),
        }
    }

    pub fn counters(&self) -> &[AtomicCounter] {
        &self.counters
    }

    /// A user received a tick. `woke_at` is the wake-up of the event loop; `handled_at` reads the
    /// clock.
    pub fn tick(
        &self,
        series: TickSeries,
        (epoch, tick): (u64, u64),
        arrived: Arrived,
        woke_at: Instant,
        handled_at: impl FnOnce() -> Instant,
    ) {
        let ticks = &mut self.batch().ticks[series.0];
        TickRun::record(ticks, (epoch, tick), arrived, woke_at, handled_at);
    }

    /// A session that had received a tick of this epoch has ended. `awaits_ticks`: it was lost, and its user
    /// reconnects.
    pub fn left(&self, series: TickSeries, epoch: u64, awaits_ticks: bool, at: Instant) {
        let leaves = &mut self.batch().leaves[series.0];
        match leaves.last_mut() {
            Some(run) if (run.epoch, run.awaits_ticks) == (epoch, awaits_ticks) => {
                run.sessions += 1;
                run.at = at;
            }
            _ => leaves.push(LeaveRun {
                epoch,
                sessions: 1,
                awaits_ticks,
                at,
            }),
        }
    }

    pub fn record(&self, trend: Trend, duration: Duration) {
        self.batch().trends[trend.0].record(duration, 1);
    }

    pub fn sent_late(&self, by: Duration) {
        let mut batch = self.batch();
        batch.worst_late_send = batch.worst_late_send.max(by);
    }

    /// Takes the samples since the last call, in exchange for an empty batch.
    pub fn take(&self, empty: Batch) -> Batch {
        replace(&mut self.batch(), empty)
    }

    fn batch(&self) -> MutexGuard<'_, Batch> {
        // The numbers are complete after each call: a panic elsewhere leaves none half written.
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    pub fn new(registry: &Registry) -> Self {
        let series = registry.ticks().len();
        Self {
            ticks: vec![Vec::new(); series],
            leaves: vec![Vec::new(); series],
            trends: vec![Histogram::default(); registry.trends()],
            worst_late_send: Duration::ZERO,
        }
    }

    /// Forgets all samples and keeps the memory.
    pub fn clear(&mut self) {
        self.ticks.iter_mut().for_each(Vec::clear);
        self.leaves.iter_mut().for_each(Vec::clear);
        self.trends.iter_mut().for_each(Histogram::clear);
        self.worst_late_send = Duration::ZERO;
    }
}
