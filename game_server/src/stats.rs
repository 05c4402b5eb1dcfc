//! The summary line of the log, and the metrics of the game.

use game_server::chat_budget::ChatBudget;
use game_server::process::human_bytes;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use server_core::ServerHandle;
pub use server_core::TickMetrics;
use server_core::metrics::Totals;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Logs the sums of the counters once an interval.
pub struct Stats {
    interval: Option<Duration>,
    next_at: Instant,
    last_at: Instant,
    last: Totals,
    ticks: Arc<TickMetrics>,
}

impl Stats {
    /// Begins an interval. An interval of zero never ends.
    pub fn new(interval: Duration, ticks: Arc<TickMetrics>, now: Instant) -> Self {
        Self {
            interval: (!interval.is_zero()).then_some(interval),
            next_at: now + interval,
            last_at: now,
            last: Totals::default(),
            ticks,
        }
    }

    /// When the next line is due.
    pub fn next_at(&self) -> Option<Instant> {
        self.interval.map(|_| self.next_at)
    }

    /// Logs the line if it is due.
    pub fn log_if_due(&mut self, server: &ServerHandle, now: Instant) {
        let Some(interval) = self.interval.filter(|_| now >= self.next_at) else {
            return;
        };
        let totals = server.metrics().totals();
        let pool = server.pool_stats();
        let seconds = now.duration_since(self.last_at).as_secs_f64();
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let last = &self.last;
        log::info!(
            "stats: sessions {}, sent {:.0} packets/s {}/s, received {:.0} packets/s {}/s, \
             queued {}, ticks {} skipped {}, tick lag max {:.2} ms, chunks live {} pooled {}",
            totals.sessions,
            rate(totals.packets_sent, last.packets_sent),
            human_bytes(rate(totals.bytes_sent, last.bytes_sent)),
            rate(totals.packets_received, last.packets_received),
            human_bytes(rate(totals.bytes_received, last.bytes_received)),
            human_bytes(totals.send_queue_bytes as f64),
            self.ticks.ticks.get(),
            self.ticks.skipped.get(),
            self.ticks.lag.take_max().as_secs_f64() * 1e3,
            pool.live,
            pool.pooled,
        );
        self.last = totals;
        self.last_at = now;
        // Not `+=`: after a stall one line is enough.
        self.next_at = now + interval;
    }
}

/// The metrics of the game for `/metrics`: the chats that the budget of their address has dropped.
pub fn registry(chats: Option<Arc<ChatBudget>>) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(ChatCollector(chats)));
    registry
}

/// Reads the budget's own counter at each scrape.
#[derive(Debug)]
struct ChatCollector(Option<Arc<ChatBudget>>);

impl Collector for ChatCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let dropped = self.0.as_ref().map_or(0, |chats| chats.dropped());
        // The format adds `_total` to the name of a counter.
        encoder
            .encode_descriptor(
                "server_chats_dropped",
                "Chats over the budget of their address",
                None,
                MetricType::Counter,
            )?
            .encode_counter::<NoLabelSet, _, u64>(&dropped, None)
    }
}
