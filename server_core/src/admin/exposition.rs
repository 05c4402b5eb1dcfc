//! The counters as Prometheus text. Knows no HTTP.

use crate::base::metrics::Histogram;
use crate::server::ServerHandle;
use crate::server::ticker::TickMetrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;

/// What the text is served as.
pub use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

/// The names and numbers of one server.
#[derive(Debug)]
pub struct Exposition {
    registry: Registry,
    game: Registry,
}

/// Reads the server's own atomics at each scrape: nothing is counted twice.
#[derive(Debug)]
struct ServerCollector {
    server: ServerHandle,
    ticks: Arc<TickMetrics>,
}

impl Exposition {
    /// The exposition of this server, its ticks, and the metrics of its game.
    pub fn new(server: ServerHandle, ticks: Arc<TickMetrics>, game: Registry) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ServerCollector { server, ticks }));
        Self { registry, game }
    }

    /// The text as of now.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let encoded = [&self.registry, &self.game]
            .into_iter()
            .try_for_each(|registry| prometheus_text::encode(&mut text, registry));
        if let Err(error) = encoded {
            // Writing to a string does not fail, and a half text must not pass for a whole one.
            log::error!("the metrics could not be written: {error}");
            text.clear();
        }
        text
    }
}

impl Collector for ServerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = self.server.metrics();
        let totals = metrics.totals();
        let pool = self.server.pool_stats();
        for (name, help, value) in [
            ("server_sessions", "Sessions now", totals.sessions),
            (
                "server_send_queue_bytes",
                "Bytes that wait in send queues now",
                totals.send_queue_bytes,
            ),
            (
                "server_send_chunks_live",
                "Send-buffer chunks in use now",
                pool.live,
            ),
            (
                "server_send_chunks_pooled",
                "Free send-buffer chunks in the pool now",
                pool.pooled,
            ),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Gauge)?
                .encode_gauge(&value)?;
        }
        // The format adds `_total` to the name of a counter.
        for (name, help, value) in [
            (
                "server_accepted",
                "Connections that became sessions",
                totals.accepted,
            ),
            (
                "server_rejected",
                "Connections that were refused: the server full, or too many of one address",
                totals.rejected,
            ),
            (
                "server_packets_sent",
                "Whole packets that sockets took",
                totals.packets_sent,
            ),
            (
                "server_packets_received",
                "Whole packets that came",
                totals.packets_received,
            ),
            (
                "server_bytes_sent",
                "Bytes that sockets took",
                totals.bytes_sent,
            ),
            (
                "server_bytes_received",
                "Bytes that came",
                totals.bytes_received,
            ),
            (
                "server_ticks",
                "Ticks that were sent",
                self.ticks.ticks.get(),
            ),
            (
                "server_ticks_skipped",
                "Ticks whose whole period went by unseen",
                self.ticks.skipped.get(),
            ),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        let mut disconnects = encoder.encode_descriptor(
            "server_disconnects",
            "Sessions that ended, by reason",
            None,
            MetricType::Counter,
        )?;
        for (reason, count) in totals.disconnects_by_label() {
            disconnects
                .encode_family(&[("reason", reason)])?
                .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        encode_histogram(
            &mut encoder,
            "server_tick_lag_seconds",
            "How late the tick loop came for each tick",
            &self.ticks.lag,
        )?;
        encode_histogram(
            &mut encoder,
            "server_broadcast_seconds",
            "From each tick to the end of the last session's write",
            &metrics.broadcasts,
        )
    }
}

fn encode_histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    histogram: &Histogram,
) -> fmt::Result {
    let buckets: Vec<(f64, u64)> = histogram
        .buckets()
        .map(|(bound, count)| (bound.map_or(f64::INFINITY, |at| at.as_secs_f64()), count))
        .collect();
    // Of the very buckets that are shown: the histogram may grow meanwhile.
    let count = buckets.iter().map(|(_, count)| count).sum();
    encoder
        .encode_descriptor(name, help, None, MetricType::Histogram)?
        .encode_histogram::<NoLabelSet>(histogram.sum().as_secs_f64(), count, &buckets, None)
}
