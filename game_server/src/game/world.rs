//! The other nodes of the cluster: world chat, login and metrics. Needs the feature `cluster`.

use super::packets::{SLogin, SWorldChat};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use server_core::cluster::{Cluster, LoginAnswer, Nodes, Why};
use server_core::{Context, SessionId};
use std::fmt;
use std::sync::{Arc, OnceLock};

/// The cluster of this server. Sessions hold it from the start; the cluster comes when the server runs.
#[derive(Debug)]
pub struct World {
    cluster: OnceLock<Cluster>,
    has_login: bool,
}

impl World {
    /// A server that is in no cluster yet. With `has_login`, a [`CLogin`](super::packets::CLogin) admits a
    /// session, and a session sends nothing else before it.
    #[must_use]
    pub fn new(has_login: bool) -> Arc<Self> {
        Arc::new(Self {
            cluster: OnceLock::new(),
            has_login,
        })
    }

    /// Enters the cluster. The first one counts.
    pub fn enter(&self, cluster: Cluster) {
        let _ = self.cluster.set(cluster);
    }

    /// The cluster, after [`enter`](Self::enter).
    #[must_use]
    pub fn cluster(&self) -> Option<Cluster> {
        self.cluster.get().cloned()
    }

    /// Leaves the cluster. Waits for up to 1 s.
    pub fn leave(&self) {
        if let Some(cluster) = self.cluster.get() {
            cluster.leave();
        }
    }

    /// Whether a session is admitted by its login alone.
    #[must_use]
    pub fn has_login(&self) -> bool {
        self.has_login
    }

    /// Sends a chat of this session to the sessions of the other nodes.
    pub fn chat(&self, ctx: &Context<'_>, text: &str) {
        if let Some(cluster) = self.cluster.get() {
            let head = SWorldChat::new(cluster.id().to_u32(), ctx.id().to_u64());
            // A chat of 512 bytes fits.
            if let Ok(packet) = ctx.encode(&head, text) {
                cluster.broadcast_elsewhere(&packet);
            }
        }
    }

    /// Begins the login of a session. Returns `false` before [`enter`](Self::enter): the session tries again.
    #[must_use]
    pub fn log_in(&self, session: SessionId, name: &str) -> bool {
        let cluster = self.cluster.get();
        if let Some(cluster) = cluster {
            cluster.login(session, name);
        }
        cluster.is_some()
    }

    /// Admits a session whose login is answered.
    pub fn on_login(ctx: &mut Context<'_>, answer: LoginAnswer) {
        let answer = match answer {
            LoginAnswer::Granted => 0,
            LoginAnswer::Replaced => 1,
            _ => 2,
        };
        ctx.admit();
        let token = [0; 16];
        ctx.send(&SLogin { answer, token }, "");
    }

    /// Adds the metrics of the cluster, which are zero before [`enter`](Self::enter).
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(WorldCollector(Arc::clone(self))));
    }

    fn nodes(&self) -> Option<Nodes> {
        self.cluster.get().map(Cluster::nodes)
    }
}

/// Reads the cluster's own counters at each scrape.
#[derive(Debug)]
struct WorldCollector(Arc<World>);

impl Collector for WorldCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let nodes = self.0.nodes();
        let of_nodes = |count: fn(&Nodes) -> u64| nodes.as_ref().map_or(0, count);
        for (name, help, value) in [
            (
                "cluster_nodes",
                "Nodes of the cluster, this one included",
                of_nodes(|nodes| nodes.nodes.len() as u64),
            ),
            (
                "cluster_sessions",
                "Sessions of all nodes, by their last heartbeats",
                of_nodes(|nodes| {
                    nodes
                        .nodes
                        .iter()
                        .map(|node| u64::from(node.sessions))
                        .sum()
                }),
            ),
            (
                "cluster_link_up",
                "Whether the link to the broker is up",
                of_nodes(|nodes| nodes.is_link_up.into()),
            ),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Gauge)?
                .encode_gauge(&value)?;
        }
        let age = nodes.as_ref().map_or(0.0, |nodes| nodes.age.as_secs_f64());
        encoder
            .encode_descriptor(
                "cluster_picture_age_seconds",
                "Age of the counts of other nodes",
                None,
                MetricType::Gauge,
            )?
            .encode_gauge(&age)?;
        let metrics = self.0.cluster.get().map(Cluster::metrics);
        for (name, help, value) in [
            (
                "cluster_published",
                "Packets for other nodes that the broker confirmed",
                metrics.map_or(0, |metrics| metrics.published.get()),
            ),
            (
                "cluster_received",
                "Packets of other nodes that were delivered here",
                metrics.map_or(0, |metrics| metrics.received.get()),
            ),
            (
                "cluster_gaps",
                "Gaps in the packets of other nodes",
                metrics.map_or(0, |metrics| metrics.gaps.get()),
            ),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        let mut dropped = encoder.encode_descriptor(
            "cluster_dropped",
            "Packets and messages of the link that were dropped, by cause",
            None,
            MetricType::Counter,
        )?;
        for why in Why::ALL {
            let count = metrics.map_or(0, |metrics| metrics.dropped(why));
            dropped
                .encode_family(&[("why", why.label())])?
                .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }
}
