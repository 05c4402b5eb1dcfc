//! What happened so far, in plain numbers that any thread may read.

use crate::reason::DisconnectReason;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only rises, or a level that its owner sets.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, amount: u64) {
        if amount > 0 {
            self.0.fetch_add(amount, Ordering::Relaxed);
        }
    }

    /// Takes away from a level.
    pub fn sub(&self, amount: u64) {
        if amount > 0 {
            self.0.fetch_sub(amount, Ordering::Relaxed);
        }
    }

    /// Its value now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// The counters of one worker, on cache lines of their own: no two threads write the same one.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerMetrics {
    /// Sessions that are connected now.
    pub sessions: Counter,
    /// Bytes that wait in send queues now.
    pub send_queue_bytes: Counter,
    /// Whole packets that sockets took.
    pub packets_sent: Counter,
    /// Bytes that sockets took.
    pub bytes_sent: Counter,
    /// Whole packets that came.
    pub packets_received: Counter,
    /// Bytes that came.
    pub bytes_received: Counter,
    /// Calls of `write` and `writev`.
    pub write_calls: Counter,
    /// Packets for a session that was no longer there.
    pub undeliverable: Counter,
    /// Turns of the event loop, and how long each took from waking up to the next wait: what came
    /// in meanwhile had to wait that long.
    pub turns: Histogram,
    /// Ended sessions, by [`DisconnectReason::index`].
    pub disconnects: [Counter; DisconnectReason::COUNT],
}

/// The counters of a whole server.
#[derive(Debug)]
pub struct Metrics {
    workers: Box<[WorkerMetrics]>,
    /// Connections that became sessions.
    pub accepted: Counter,
    /// Connections that were told that the server is full. They count here alone.
    pub rejected: Counter,
    /// Times that accept failed, for example for want of descriptors.
    pub accept_errors: Counter,
}

/// The sums over all workers at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // Each is described at `WorkerMetrics` or `Metrics`.
pub struct Totals {
    pub sessions: u64,
    pub accepted: u64,
    pub rejected: u64,
    pub send_queue_bytes: u64,
    pub packets_sent: u64,
    pub bytes_sent: u64,
    pub packets_received: u64,
    pub bytes_received: u64,
    pub write_calls: u64,
    pub undeliverable: u64,
    pub turns: u64,
    pub disconnects: [u64; DisconnectReason::COUNT],
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| WorkerMetrics::default()).collect(),
            accepted: Counter::default(),
            rejected: Counter::default(),
            accept_errors: Counter::default(),
        }
    }

    /// The counters of one worker.
    ///
    /// # Panics
    /// If there is no such worker.
    #[must_use]
    pub fn worker(&self, worker: usize) -> &WorkerMetrics {
        &self.workers[worker]
    }

    /// Sums over the workers.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            accepted: self.accepted.get(),
            rejected: self.rejected.get(),
            ..Totals::default()
        };
        for worker in &self.workers {
            totals.sessions += worker.sessions.get();
            totals.send_queue_bytes += worker.send_queue_bytes.get();
            totals.packets_sent += worker.packets_sent.get();
            totals.bytes_sent += worker.bytes_sent.get();
            totals.packets_received += worker.packets_received.get();
            totals.bytes_received += worker.bytes_received.get();
            totals.write_calls += worker.write_calls.get();
            totals.undeliverable += worker.undeliverable.get();
            totals.turns += worker.turns.count();
            for (total, count) in totals.disconnects.iter_mut().zip(&worker.disconnects) {
                *total += count.get();
            }
        }
        totals
    }
}

impl Totals {
    /// Ended sessions of one reason.
    #[must_use]
    pub fn disconnects_for(&self, reason: impl Into<DisconnectReason>) -> u64 {
        self.disconnects[reason.into().index()]
    }

    /// The labels and counts of all reasons.
    pub fn disconnects_by_label(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        DisconnectReason::LABELS
            .into_iter()
            .zip(self.disconnects.iter().copied())
    }
}

/// Durations by size: bucket n counts those below `2^n` microseconds that no smaller one counts.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum_micros: Counter,
    max_micros: AtomicU64,
}

const BUCKETS: usize = 32;

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].add(1);
        self.sum_micros.add(micros);
        self.max_micros.fetch_max(micros, Ordering::Relaxed);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }

    /// The sum of all durations.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros.get())
    }

    /// Upper bounds and how many were below each, in rising order; the last bound is open.
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.buckets
            .iter()
            .enumerate()
            .scan(0, |below, (power, count)| {
                *below += count.get();
                Some((Duration::from_micros(1 << power), *below))
            })
    }

    /// The longest since this was last asked.
    pub fn take_max(&self) -> Duration {
        Duration::from_micros(self.max_micros.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Kick;

    #[test]
    fn totals_add_up() {
        let metrics = Metrics::new(2);
        metrics.worker(0).packets_sent.add(3);
        metrics.worker(1).packets_sent.add(4);
        metrics.worker(1).disconnects[DisconnectReason::from(Kick::BadSize).index()].add(1);
        let totals = metrics.totals();
        assert_eq!(totals.packets_sent, 7);
        assert_eq!(totals.disconnects_for(Kick::BadSize), 1);
        assert_eq!(
            totals.disconnects_by_label().find(|(_, count)| *count > 0),
            Some(("bad_size", 1))
        );
    }

    #[test]
    fn histogram_counts_below_each_bound() {
        let histogram = Histogram::default();
        for micros in [0, 1, 3, 900, 70_000_000_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let below: Vec<_> = histogram.cumulative().collect();
        assert_eq!(below[0], (Duration::from_micros(1), 1));
        assert_eq!(below[1], (Duration::from_micros(2), 2));
        assert_eq!(below[2], (Duration::from_micros(4), 3));
        assert_eq!(below[10], (Duration::from_micros(1024), 4));
        assert_eq!(histogram.count(), 5);
        assert_eq!(
            histogram.take_max(),
            Duration::from_micros(70_000_000_000_000)
        );
        assert_eq!(histogram.take_max(), Duration::ZERO);
    }
}
