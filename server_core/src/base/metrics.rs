//! Counters, levels and histograms that any thread may read.
//!
//! A counter only rises, a level rises and falls, a histogram counts durations by size. All are atomics
//! that the event loops write, and a read costs the event loops nothing. The feature `admin` exports
//! them as Prometheus text. An exporter of another format needs this:
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
//! Other numbers: of the ticks in [`TickMetrics`](crate::server::ticker::TickMetrics), of the chunk pool in
//! [`ServerHandle::pool_stats`](crate::ServerHandle::pool_stats), of single sessions in
//! [`snapshot`](crate::base::snapshot).

use crate::base::packet_counts::{
    PacketCount, PacketCounters, PacketDirection, PacketInfo, PacketTable,
};
use crate::base::reason::{DisconnectReason, Kick, MAX_CUSTOM_LABELS};
use crate::base::transport_kind::TransportKind;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only rises, or a level that its owner sets.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        if amount > 0 {
            self.0.fetch_add(amount, Ordering::Relaxed);
        }
    }

    /// Adds `amount` without a locked instruction: for a counter that one thread alone writes.
    #[inline]
    pub(crate) fn add_as_owner(&self, amount: u64) {
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(amount);
        self.0.store(sum, Ordering::Relaxed);
    }

    /// Subtracts `amount` from a level.
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

    /// The present value.
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

/// The counters of one worker, on cache lines of their own: no two threads write the same cache line.
#[derive(Debug, Default)]
#[non_exhaustive]
#[repr(align(128))]
pub struct WorkerMetrics {
    /// Sessions that are connected now.
    pub sessions: Counter,
    /// The same by transport, in the order of [`TransportKind::ALL`].
    pub sessions_by_transport: [Counter; TransportKind::ALL.len()],
    /// Handshakes that have ended, by transport and by [`HandshakeOutcome`], in the order of the `ALL` of both.
    pub handshakes: [[Counter; HandshakeOutcome::ALL.len()]; TransportKind::ALL.len()],
    /// Bytes in send queues now.
    pub send_queue_bytes: Counter,
    /// Bytes of memory for incomplete packets.
    pub partial_packet_bytes: Counter,
    /// Packets whose last byte a socket took, close messages included.
    pub packets_sent: Counter,
    /// Bytes of packets that sockets took. A transport's own bytes are not counted.
    pub bytes_sent: Counter,
    /// Complete packets received, a packet that a session was kicked for included. A header that breaks
    /// the framing does not count as a packet. Bytes behind an offence are not parsed.
    pub packets_received: Counter,
    /// Bytes of packets read from sockets, including the discarded bytes behind an offence and of sessions
    /// that drain. A transport's own bytes are not counted.
    pub bytes_received: Counter,
    /// Calls of `write` and `writev`.
    pub write_calls: Counter,
    /// Packets for a session that had ended. Messages for a session that had ended or was not connected yet.
    pub undeliverable: Counter,
    /// Joins by other threads that were refused because the session is in the maximum number of groups.
    /// A callback's join returns an error instead.
    pub joins_refused: Counter,
    /// Durations of the turns of the event loop, from the wake-up to the next wait. Input that came in
    /// between waited for that time.
    pub turns: Histogram,
    /// Turns that have begun: one more than those of `turns` while a turn runs.
    pub turns_begun: Counter,
    /// Ended sessions, by [`DisconnectReason::index`]. Those of declared labels are not among them.
    pub disconnects: [Counter; DisconnectReason::COUNT],
    /// Ended sessions by declared label.
    custom_disconnects: [Counter; MAX_CUSTOM_LABELS],
    packets: PacketCounters,
}

/// How a handshake has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeOutcome {
    /// The handshake is complete.
    Full,
    /// The handshake is complete, and continues an earlier session, without the work of a full one.
    Resumed,
    /// The session has ended before.
    Failed,
}

impl HandshakeOutcome {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Full, Self::Resumed, Self::Failed];

    /// The label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::Failed => "failed",
        }
    }
}

/// The counters of a whole server.
#[derive(Debug)]
pub struct Metrics {
    workers: Box<[WorkerMetrics]>,
    custom_labels: Vec<&'static str>,
    packet_table: PacketTable,
    /// Connections that became sessions, and connections of a trusted proxy that ended without a PROXY header.
    pub accepted: Counter,
    /// Connections that were closed because the server is full, or because their address is banned or makes
    /// too many connections. Such a connection counts here alone.
    pub rejected: Counter,
    /// Failed accepts, for example for want of descriptors.
    pub accept_errors: Counter,
    /// Durations of measured broadcasts: from their origin to the end of the turn in which the last
    /// worker queued the packet for its sessions and flushed them.
    ///
    /// The duration does not include bytes that a socket did not take in that turn: a peer causes its
    /// own delay, and the limits of its queue apply to it. A worker without sessions ends its turn, too.
    pub broadcasts: Histogram,
}

/// The sums over all workers, read one worker after the other while the workers run.
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
    /// The number of [`WorkerMetrics::turns`].
    pub turns: u64,
    /// [`WorkerMetrics::disconnects`].
    pub disconnects: [u64; DisconnectReason::COUNT],
    /// Declared labels of [`Kick::Custom`], and the sessions that ended for each. Without a label where
    /// there are no more.
    custom_disconnects: [(&'static str, u64); MAX_CUSTOM_LABELS],
}

impl WorkerMetrics {
    /// A session of this transport is connected.
    pub(crate) fn count_session(&self, transport: TransportKind) {
        self.sessions.add(1);
        self.sessions_by_transport[transport as usize].add(1);
    }

    /// A connected session of this transport has ended.
    pub(crate) fn discount_session(&self, transport: TransportKind) {
        self.sessions.sub(1);
        self.sessions_by_transport[transport as usize].sub(1);
    }

    /// A handshake of this transport has ended.
    pub(crate) fn count_handshake(&self, transport: TransportKind, outcome: HandshakeOutcome) {
        self.handshakes[transport as usize][outcome as usize].add(1);
    }

    /// Waiting bytes of this worker, in both directions.
    pub(crate) fn waiting_bytes(&self) -> usize {
        (self.send_queue_bytes.get() + self.partial_packet_bytes.get()) as usize
    }
}

impl Metrics {
    /// Waiting bytes of all workers.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.workers.iter().map(WorkerMetrics::waiting_bytes).sum()
    }

    /// Counters at zero.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| WorkerMetrics::default()).collect(),
            custom_labels: Vec::new(),
            packet_table: PacketTable::default(),
            accepted: Counter::default(),
            rejected: Counter::default(),
            accept_errors: Counter::default(),
            broadcasts: Histogram::default(),
        }
    }

    /// Sessions of this transport that are connected now.
    #[must_use]
    pub fn sessions_of(&self, transport: TransportKind) -> u64 {
        let workers = self.workers.iter();
        (workers.map(|worker| worker.sessions_by_transport[transport as usize].get())).sum()
    }

    /// Handshakes of this transport that have ended like this.
    #[must_use]
    pub fn handshakes(&self, transport: TransportKind, outcome: HandshakeOutcome) -> u64 {
        let workers = self.workers.iter();
        (workers.map(|worker| worker.handshakes[transport as usize][outcome as usize].get())).sum()
    }

    /// Declares a label of [`Kick::Custom`], which gets a counter of its own. Returns whether it has one:
    /// a label of this library does not, nor does one beyond the first 16.
    pub(crate) fn declare_label(&mut self, label: &'static str) -> bool {
        let is_known = self.custom_labels.contains(&label);
        let is_free = !label.is_empty() && !DisconnectReason::LABELS.contains(&label);
        let has_room = self.custom_labels.len() < MAX_CUSTOM_LABELS;
        if !is_known && is_free && has_room {
            self.custom_labels.push(label);
        }
        is_known || is_free && has_room
    }

    /// Declares packets, which get counters of their own.
    pub(crate) fn declare_packets(&mut self, packets: &[PacketInfo], is_client: bool) {
        self.packet_table.declare(packets, is_client);
        for worker in &mut self.workers {
            worker.packets = PacketCounters::new(&self.packet_table);
        }
    }

    /// The name of a declared packet.
    pub(crate) fn packet_name(&self, id: u16) -> Option<&'static str> {
        self.packet_table.packet(id).map(|packet| packet.name)
    }

    /// Whether packets are counted by id.
    #[inline]
    pub(crate) fn counts_packets(&self) -> bool {
        !self.packet_table.is_empty()
    }

    /// Counts `times` packets of one size. Only the thread of this worker calls it.
    #[inline]
    pub(crate) fn count_packet(
        &self,
        worker: usize,
        direction: PacketDirection,
        id: u16,
        bytes: usize,
        times: usize,
    ) {
        let counters = &self.worker(worker).packets;
        counters.count(&self.packet_table, direction, id, bytes, times);
    }

    /// The packets and bytes of each packet that [`ServerBuilder::packets`](crate::ServerBuilder::packets) has
    /// declared, by direction, and of all other ids together. Empty where no packet is declared.
    ///
    /// A received packet counts when it is complete, as in [`WorkerMetrics::packets_received`]. A sent packet counts
    /// when a session is given it: [`WorkerMetrics::packets_sent`] does not have the packets of sessions that ended
    /// before their socket took them.
    #[must_use]
    pub fn packets_by_id(&self) -> Vec<PacketCount> {
        let workers = self.workers.iter().map(|worker| &worker.packets);
        self.packet_table.counts(workers)
    }

    /// Counts a session of this worker that ended for this reason.
    pub(crate) fn count_disconnect(&self, worker: usize, reason: DisconnectReason) {
        let metrics = self.worker(worker);
        let declared = match reason {
            DisconnectReason::Kicked(Kick::Custom(_, label)) => {
                self.custom_labels.iter().position(|known| *known == label)
            }
            _ => None,
        };
        match declared {
            Some(place) => metrics.custom_disconnects[place].add(1),
            None => metrics.disconnects[reason.index()].add(1),
        }
    }

    /// The counters of one worker.
    ///
    /// # Panics
    /// If `worker` is not below the number of workers.
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
        for (total, label) in totals
            .custom_disconnects
            .iter_mut()
            .zip(&self.custom_labels)
        {
            total.0 = label;
        }
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
            let custom = &worker.custom_disconnects;
            for ((_, total), count) in totals.custom_disconnects.iter_mut().zip(custom) {
                *total += count.get();
            }
        }
        totals
    }
}

impl Totals {
    /// Ended sessions of one reason. A [`Kick::Custom`] without a declared label shares one count with
    /// the others of its kind.
    #[must_use]
    pub fn disconnects_for(&self, reason: impl Into<DisconnectReason>) -> u64 {
        let reason = reason.into();
        let mut declared = self.custom_disconnects();
        let declared = declared.find(|(label, _)| *label == reason.label());
        declared.map_or_else(|| self.disconnects[reason.index()], |(_, count)| count)
    }

    /// The labels and counts of all reasons, the declared ones of the game included.
    pub fn disconnects_by_label(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let labels = DisconnectReason::LABELS.into_iter();
        let of_library = labels.zip(self.disconnects.iter().copied());
        of_library.chain(self.custom_disconnects())
    }

    fn custom_disconnects(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.custom_disconnects.iter().copied();
        counts.take_while(|(label, _)| !label.is_empty())
    }
}

/// Durations by size: bucket n counts durations of up to `2^n` µs that no smaller bucket counts.
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
        // Rounded up, for a bound is exact: a nanosecond above the bound is in the next bucket.
        let above = u64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - above.saturating_sub(1).leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].add(1);
        self.sum_micros.add(micros);
        self.max_micros.fetch_max(micros, Ordering::Relaxed);
    }

    /// The number of counted durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }

    /// The sum of all durations.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros.get())
    }

    /// Upper bounds in rising order, each with the number of durations within it and above the bound
    /// before. The last bound is open: `None`.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(power, count)| {
            let bound = (power < BUCKETS - 1).then(|| Duration::from_micros(1 << power));
            (bound, count.get())
        })
    }

    /// The longest duration since the last call.
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
        metrics.count_disconnect(1, Kick::BadSize.into());
        let totals = metrics.totals();
        assert_eq!(totals.packets_sent, 7);
        assert_eq!(totals.disconnects_for(Kick::BadSize), 1);
        assert_eq!(
            totals.disconnects_by_label().find(|(_, count)| *count > 0),
            Some(("bad_size", 1))
        );
    }

    #[test]
    fn declared_labels_have_counters_and_the_others_share_one() {
        let labels: Vec<&'static str> = (0..MAX_CUSTOM_LABELS)
            .map(|number| &*Box::leak(format!("label_{number}").into_boxed_str()))
            .collect();
        let mut metrics = Metrics::new(2);
        assert!(!metrics.declare_label("bad_size") && !metrics.declare_label(""));
        assert!(labels.iter().all(|label| metrics.declare_label(label)));
        assert!(metrics.declare_label(labels[3]), "it is declared already");
        assert!(!metrics.declare_label("one_too_many"));
        for label in labels
            .iter()
            .copied()
            .chain(["one_too_many", "undeclared", "bad_size"])
        {
            metrics.count_disconnect(0, Kick::Custom(1_000, label).into());
            metrics.count_disconnect(1, Kick::Custom(2_000, label).into());
        }
        let totals = metrics.totals();
        let counts: Vec<_> = (totals.disconnects_by_label())
            .filter(|(_, count)| *count > 0)
            .collect();
        let expected = std::iter::once(("custom", 6));
        let expected = expected.chain(labels.iter().map(|label| (*label, 2)));
        assert!(counts.iter().copied().eq(expected), "{counts:?}");
        assert_eq!(totals.disconnects_for(Kick::Custom(7, labels[3])), 2);
        assert_eq!(totals.disconnects_for(Kick::Custom(7, "undeclared")), 6);
        assert_eq!(totals.disconnects_for(Kick::BadSize), 0);
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
