//! The counters as Prometheus text. Knows no HTTP.

use crate::base::metrics::{HandshakeOutcome, Histogram};
use crate::base::packet_counts::PacketCount;
use crate::base::transport_kind::TransportKind;
use crate::server::ServerHandle;
use crate::server::ticker::TickMetrics;
use crate::shard::guarded;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;

/// The content type of the text.
pub use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

/// The metrics of one server and of its game.
#[derive(Debug)]
pub struct Exposition {
    server: Registry,
    game: Registry,
}

/// Reads the server's own atomics at each scrape: no event is counted twice.
#[derive(Debug)]
struct ServerCollector {
    server: ServerHandle,
    ticks: Option<Arc<TickMetrics>>,
}

impl Exposition {
    /// The exposition of this server, its ticks, and the metrics of its game.
    pub fn new(server: ServerHandle, ticks: Option<Arc<TickMetrics>>, game: Registry) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ServerCollector { server, ticks }));
        Self {
            server: registry,
            game,
        }
    }

    /// The text as of now. `None` if a collector has failed: half a text must not pass for a whole one.
    pub fn text(&self) -> Option<String> {
        let mut text = String::new();
        // A panic in a collector of the game must not end the port.
        let encoded = guarded(|| {
            [&self.server, &self.game]
                .into_iter()
                .try_for_each(|registry| prometheus_text::encode(&mut text, registry))
        });
        match encoded {
            Ok(Ok(())) => return Some(text),
            Ok(Err(error)) => log::error!("/metrics failed: {error}"),
            Err(_) => log::error!("/metrics failed: a collector has panicked"),
        }
        None
    }
}

impl Collector for ServerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = self.server.metrics();
        let totals = metrics.totals();
        let pool = self.server.pool_stats();
        // The sum, and its parts.
        let mut sessions = encoder.encode_descriptor(
            "server_sessions",
            "Connected sessions, in all and by transport",
            None,
            MetricType::Gauge,
        )?;
        sessions.encode_gauge(&totals.sessions)?;
        for transport in TransportKind::ALL {
            sessions
                .encode_family(&[("transport", transport.label())])?
                .encode_gauge(&metrics.sessions_of(transport))?;
        }
        for (name, help, value) in [
            (
                "server_send_queue_bytes",
                "Bytes in send queues",
                totals.send_queue_bytes,
            ),
            (
                "server_send_chunks_live",
                "Send-buffer chunks in use",
                pool.live,
            ),
            (
                "server_send_chunks_pooled",
                "Free send-buffer chunks in the pool",
                pool.pooled,
            ),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Gauge)?
                .encode_gauge(&value)?;
        }
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
                "Complete packets that sockets accepted",
                totals.packets_sent,
            ),
            (
                "server_packets_received",
                "Complete packets that arrived",
                totals.packets_received,
            ),
            (
                "server_bytes_sent",
                "Bytes that sockets accepted",
                totals.bytes_sent,
            ),
            (
                "server_bytes_received",
                "Bytes that arrived",
                totals.bytes_received,
            ),
        ] {
            encode_counter(&mut encoder, name, help, value)?;
        }
        encode_packets_by_id(&mut encoder, &metrics.packets_by_id())?;
        let mut handshakes = encoder.encode_descriptor(
            "server_handshakes",
            "Handshakes that ended, by transport and outcome",
            None,
            MetricType::Counter,
        )?;
        for transport in TransportKind::ALL {
            // A transport without a handshake.
            if transport == TransportKind::Tcp {
                continue;
            }
            for outcome in HandshakeOutcome::ALL {
                let count = metrics.handshakes(transport, outcome);
                handshakes
                    .encode_family(&[
                        ("transport", transport.label()),
                        ("outcome", outcome.label()),
                    ])?
                    .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
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
        if let Some(ticks) = &self.ticks {
            let (sent, skipped) = (ticks.ticks.get(), ticks.skipped.get());
            encode_counter(&mut encoder, "server_ticks", "Ticks that were sent", sent)?;
            encode_counter(
                &mut encoder,
                "server_ticks_skipped",
                "Ticks whose whole period passed before the tick loop ran",
                skipped,
            )?;
            encode_histogram(
                &mut encoder,
                "server_tick_lag_seconds",
                "From the instant of each tick to the run of the tick loop",
                &ticks.lag,
            )?;
            encode_histogram(
                &mut encoder,
                "server_tick_duration_seconds",
                "Time that the work of each tick takes",
                &ticks.duration,
            )?;
        }
        encode_histogram(
            &mut encoder,
            "server_broadcast_seconds",
            "From each tick to the end of the last session's write",
            &metrics.broadcasts,
        )
    }
}

/// A row for each declared packet, and one for the other ids of each direction.
fn encode_packets_by_id(
    encoder: &mut DescriptorEncoder<'_>,
    counts: &[PacketCount],
) -> fmt::Result {
    let of_packets: fn(&PacketCount) -> u64 = |count| count.packets;
    let of_bytes: fn(&PacketCount) -> u64 = |count| count.bytes;
    for (name, help, value) in [
        (
            "server_packets_by_id",
            "Packets by id and direction",
            of_packets,
        ),
        (
            "server_packet_bytes_by_id",
            "Bytes of packets by id and direction",
            of_bytes,
        ),
    ] {
        if counts.is_empty() {
            break;
        }
        let mut rows = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for count in counts {
            let other = || ("other".to_owned(), "other");
            let (id, name) =
                (count.packet).map_or_else(other, |packet| (packet.id.to_string(), packet.name));
            rows.encode_family(&[
                ("direction", count.direction.label()),
                ("id", &id),
                ("name", name),
            ])?
            .encode_counter::<NoLabelSet, _, u64>(&value(count), None)?;
        }
    }
    Ok(())
}

/// The format adds `_total` to the name of a counter.
fn encode_counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> fmt::Result {
    encoder
        .encode_descriptor(name, help, None, MetricType::Counter)?
        .encode_counter::<NoLabelSet, _, u64>(&value, None)
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
    // The sum of the very buckets that are encoded: the histogram may grow meanwhile.
    let count = buckets.iter().map(|(_, count)| count).sum();
    encoder
        .encode_descriptor(name, help, None, MetricType::Histogram)?
        .encode_histogram::<NoLabelSet>(histogram.sum().as_secs_f64(), count, &buckets, None)
}
