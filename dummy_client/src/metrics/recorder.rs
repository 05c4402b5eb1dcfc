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
    max_runs: usize,
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
    /// Ticks that are in no run: the batch was full.
    pub dropped_ticks: u64,
}

/// Bounds the runs of ticks in the batches of all event loops together, to 300 MB. A batch is taken each second, and
/// 2,000,000 ticks a second that share no run fill half of it.
pub(crate) const MAX_RUNS: usize = 1 << 22;

impl Recorder {
    /// `max_runs` bounds the runs of ticks in a batch.
    pub fn new(registry: &Registry, max_runs: usize) -> Self {
        Self {
            max_runs,
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
    /// clock. A tick that finds the batch full is dropped, and counted.
    pub fn tick(
        &self,
        series: TickSeries,
        (epoch, tick): (u64, u64),
        arrived: Arrived,
        woke_at: Instant,
        handled_at: impl FnOnce() -> Instant,
    ) {
        let mut batch = self.batch();
        if batch.ticks.iter().map(Vec::len).sum::<usize>() >= self.max_runs {
            batch.dropped_ticks += 1;
            return;
        }
        let ticks = &mut batch.ticks[series.0];
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
            dropped_ticks: 0,
        }
    }

    /// Forgets all samples and keeps the memory.
    pub fn clear(&mut self) {
        self.ticks.iter_mut().for_each(Vec::clear);
        self.leaves.iter_mut().for_each(Vec::clear);
        self.trends.iter_mut().for_each(Histogram::clear);
        self.worst_late_send = Duration::ZERO;
        self.dropped_ticks = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_beyond_a_full_batch_are_dropped_until_it_is_taken() {
        let mut registry = Registry::default();
        let series = [registry.tick_series("tick"), registry.tick_series("move")];
        let (recorder, now) = (Recorder::new(&registry, 4), Instant::now());
        for _ in 0..2 {
            for tick in 0..5 {
                for series in series {
                    recorder.tick(series, (0, tick), Arrived::Next, now, || now);
                }
            }
            let batch = recorder.take(Batch::new(&registry));
            assert_eq!(batch.ticks.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
            assert_eq!(batch.dropped_ticks, 6);
        }
    }
}
