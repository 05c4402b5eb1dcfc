//! What happened so far, in plain numbers that any thread may read.
//!
//! Counters only rise, levels rise and fall, histograms count durations by size. All are atomics
//! that the event loops write and that reading costs nothing. The feature `admin` exports them as
//! Prometheus text. An exporter of another format reads them like this:
//!
//! ```
//! use server_core::{Context, Kick, Packet, Server, Session};
//! # struct Player;
//! # impl Session for Player {
//! #     fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> { Ok(()) }
//! # }
//! let server = Server::builder().workers(1).start("127.0.0.1:0", |_peer| Player)?;
//! let handle = server.handle(); // a clone of it for the thread that exports
//!
//! let totals = handle.metrics().totals();
//! println!("sessions {}, packets out {}", totals.sessions, totals.packets_sent);
//! for (reason, count) in totals.disconnects_by_label() {
//!     println!("left by {reason}: {count}");
//! }
//! let mut within = 0;
//! for (bound, count) in handle.metrics().broadcasts.buckets() {
//!     within += count;
//!     println!("broadcasts within {bound:?}: {within}");
//! }
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! The ticks have theirs in [`TickMetrics`](crate::server::ticker::TickMetrics), the chunk pool in
//! [`ServerHandle::pool_stats`](crate::ServerHandle::pool_stats), and single sessions in
//! [`snapshot`](crate::base::snapshot).

use crate::base::reason::DisconnectReason;
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

    /// Raises or lowers a level.
    pub fn change(&self, by: isize) {
        if by >= 0 {
            self.add(by.unsigned_abs() as u64);
        } else {
            self.sub(by.unsigned_abs() as u64);
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
#[non_exhaustive]
#[repr(align(128))]
pub struct WorkerMetrics {
    /// Sessions that are connected now.
    pub sessions: Counter,
    /// Bytes that wait in send queues now.
    pub send_queue_bytes: Counter,
    /// Bytes of memory for packets that have begun to come and are not complete.
    pub partial_packet_bytes: Counter,
    /// Whole packets that sockets took, goodbyes included.
    pub packets_sent: Counter,
    /// Bytes that sockets took.
    pub bytes_sent: Counter,
    /// Whole packets that came, one that a session was kicked for included. A header that breaks
    /// the framing is no packet, and what stands behind an offence is not looked at.
    pub packets_received: Counter,
    /// Bytes that were read from sockets, those included that were thrown away behind an offence
    /// or while a session was on its way out.
    pub bytes_received: Counter,
    /// Calls of `write` and `writev`.
    pub write_calls: Counter,
    /// Packets for a session that was no longer there.
    pub undeliverable: Counter,
    /// Joins that another thread asked for and that would have been a group too many. A callback
    /// that asks is told so.
    pub joins_refused: Counter,
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
    /// Connections that were told that the server is full, or closed because their address makes too many
    /// of them. They count here alone.
    pub rejected: Counter,
    /// Times that accept failed, for example for want of descriptors.
    pub accept_errors: Counter,
    /// How long broadcasts took that were measured: from their origin until the last worker has
    /// ended the turn in which it queued the packet for its sessions and flushed them.
    ///
    /// What a socket did not take in that turn is not waited for: a peer that is behind is behind
    /// by its own doing, and is judged by its queue. A worker without sessions ends its turn, too.
    pub broadcasts: Histogram,
}

/// The sums over all workers, read one after the other while they go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// A level: [`WorkerMetrics::sessions`].
    pub sessions: u64,
    /// [`Metrics::accepted`].
    pub accepted: u64,
    /// [`Metrics::rejected`].
    pub rejected: u64,
    /// A level: [`WorkerMetrics::send_queue_bytes`].
    pub send_queue_bytes: u64,
    /// [`WorkerMetrics::packets_sent`].
    pub packets_sent: u64,
    /// [`WorkerMetrics::bytes_sent`].
    pub bytes_sent: u64,
    /// [`WorkerMetrics::packets_received`].
    pub packets_received: u64,
    /// [`WorkerMetrics::bytes_received`].
    pub bytes_received: u64,
    /// [`WorkerMetrics::write_calls`].
    pub write_calls: u64,
    /// [`WorkerMetrics::undeliverable`].
    pub undeliverable: u64,
    /// [`WorkerMetrics::joins_refused`].
    pub joins_refused: u64,
    /// How many [`WorkerMetrics::turns`].
    pub turns: u64,
    /// [`WorkerMetrics::disconnects`].
    pub disconnects: [u64; DisconnectReason::COUNT],
}

impl WorkerMetrics {
    /// What waits here in all, in both directions.
    pub(crate) fn waiting_bytes(&self) -> usize {
        (self.send_queue_bytes.get() + self.partial_packet_bytes.get()) as usize
    }
}

impl Metrics {
    /// What waits on all workers.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.workers.iter().map(WorkerMetrics::waiting_bytes).sum()
    }

    /// All at zero.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| WorkerMetrics::default()).collect(),
            accepted: Counter::default(),
            rejected: Counter::default(),
            accept_errors: Counter::default(),
            broadcasts: Histogram::default(),
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
            totals.joins_refused += worker.joins_refused.get();
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

/// Durations by size: bucket n counts those of up to `2^n` microseconds that no smaller one counts.
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
        // Rounded up, for a bound is exact: a nanosecond above it is above it.
        let above = u64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - above.saturating_sub(1).leading_zeros()) as usize;
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

    /// Upper bounds in rising order, and how many were within each but not within the one before.
    /// The last bound is open: `None`.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(power, count)| {
            let bound = (power < BUCKETS - 1).then(|| Duration::from_micros(1 << power));
            (bound, count.get())
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
    use crate::base::reason::Kick;

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
    fn histogram_counts_within_each_bound() {
        let histogram = Histogram::default();
        for micros in [0, 1, 3, 4, 900, 1024, 70_000_000_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        histogram.record(Duration::from_nanos(4_001));
        let buckets: Vec<_> = histogram.buckets().collect();
        let within = |micros| {
            let bound = Some(Duration::from_micros(micros));
            buckets.iter().find(|bucket| bucket.0 == bound).unwrap().1
        };
        assert_eq!((within(1), within(2), within(4)), (2, 0, 2));
        assert_eq!(within(8), 1, "a nanosecond above a bound is above it");
        assert_eq!((within(1024), within(2048)), (2, 0));
        assert_eq!(buckets.last(), Some(&(None, 1)), "the last bound is open");
        assert!(buckets.is_sorted_by_key(|bucket| bucket.0.unwrap_or(Duration::MAX)));
        assert_eq!(histogram.count(), 8);
        assert_eq!(
            histogram.take_max(),
            Duration::from_micros(70_000_000_000_000)
        );
        assert_eq!(histogram.take_max(), Duration::ZERO);
    }
}
