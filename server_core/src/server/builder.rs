//! How a server is set up and started.

use super::Server;
use super::handle::ServerHandle;
use crate::address_budgets::AddressBudgets;
use crate::admission::Admission;
use crate::config::Config;
use crate::connector::Connector;
use crate::departure_log::DepartureLog;
use crate::listener::{Listener, Reception};
use crate::metrics::Metrics;
use crate::packet::PacketHead;
use crate::reason::DisconnectReason;
use crate::router::Router;
use crate::send_buffer::{ChunkPool, SendBufferManager};
use crate::session::{Peer, Session};
use crate::shard::{Farewell, Shared};
use crate::worker::{Worker, poll_with_mailbox};
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

/// Sets a server up. The limits that most games will want to set have a setter of their own; the
/// rest come with [`config`](ServerBuilder::config).
#[must_use = "nothing is started before `start`"]
pub struct ServerBuilder {
    config: Config,
    farewell: Arc<Farewell>,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, $name: $type) -> Self {
            self.config.$name = $name;
            self
        }
    )*};
}

impl ServerBuilder {
    pub(super) fn new() -> Self {
        Self {
            config: Config::default(),
            farewell: Arc::new(|_, _| None),
        }
    }

    setters! {
        /// See [`Config::workers`].
        workers: usize,
        /// See [`Config::max_sessions`].
        max_sessions: Option<usize>,
        /// See [`Config::max_sessions_per_ip`].
        max_sessions_per_ip: Option<usize>,
        /// See [`Config::max_connects_per_ip_per_sec`].
        max_connects_per_ip_per_sec: Option<u32>,
        /// See [`Config::login_timeout`].
        login_timeout: Option<Duration>,
        /// See [`Config::max_unadmitted`].
        max_unadmitted: Option<usize>,
        /// See [`Config::max_packet_bytes`].
        max_packet_bytes: usize,
        /// See [`Config::max_send_queue_bytes`].
        max_send_queue_bytes: usize,
        /// See [`Config::max_send_lag`].
        max_send_lag: Option<Duration>,
        /// See [`Config::packet_timeout`].
        packet_timeout: Option<Duration>,
        /// See [`Config::idle_timeout`].
        idle_timeout: Option<Duration>,
        /// See [`Config::max_packets_per_sec`].
        max_packets_per_sec: Option<u32>,
        /// See [`Config::max_groups_per_session`].
        max_groups_per_session: usize,
        /// See [`Config::flush_timeout`].
        flush_timeout: Duration,
    }

    /// Sets all limits at once; see [`Config`].
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// The last packet for each session that the server ends, by the reason for it. It is also
    /// what a connection is told that comes when the server is full.
    pub fn farewell<H, Tail>(
        mut self,
        farewell: impl Fn(DisconnectReason) -> Option<(H, Tail)> + Send + Sync + 'static,
    ) -> Self
    where
        H: PacketHead,
        Tail: AsRef<[u8]>,
    {
        self.farewell = Arc::new(move |reason, buffers| {
            let (head, tail) = farewell(reason)?;
            buffers.encode(&head, tail.as_ref()).ok()
        });
        self
    }

    /// Binds, starts the workers and then accepts. `factory` makes the session of each new peer, on the
    /// worker that will own it.
    ///
    /// # Errors
    /// Those of binding, for example [`io::ErrorKind::AddrInUse`], and of starting threads.
    pub fn start<S: Session>(
        self,
        addr: impl ToSocketAddrs,
        factory: impl Fn(Peer) -> S + Send + Sync + 'static,
    ) -> io::Result<Server> {
        let config = self.config.clone().clamped();
        let mut outcome = Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the name has no address",
        ));
        for addr in addr.to_socket_addrs()? {
            outcome = Listener::bind(addr, &config);
            if outcome.is_ok() {
                break;
            }
        }
        self.launch(Some(outcome?), factory)
    }

    /// Starts the workers alone. Sessions come from [`ServerHandle::connect`] only: this is how a
    /// client is built on the same library.
    ///
    /// # Errors
    /// Those of starting threads.
    pub fn start_without_listener<S: Session>(
        self,
        factory: impl Fn(Peer) -> S + Send + Sync + 'static,
    ) -> io::Result<Server> {
        self.launch(None, factory)
    }

    fn launch<S: Session>(
        self,
        listener: Option<Listener>,
        factory: impl Fn(Peer) -> S + Send + Sync + 'static,
    ) -> io::Result<Server> {
        let config = self.config.clamped();
        let pool = ChunkPool::new(config.chunk_bytes, config.pooled_chunks);
        let buffers = SendBufferManager::new(pool);
        let metrics = Arc::new(Metrics::new(config.workers));
        let admission = Arc::new(Admission::new(
            config.workers,
            config.max_sessions,
            config.max_sessions_per_ip,
        ));
        let (polls, mailboxes): (Vec<_>, Vec<_>) = (0..config.workers)
            .map(|_| poll_with_mailbox(config.mailbox_bytes))
            .collect::<io::Result<Vec<_>>>()?
            .into_iter()
            .unzip();
        let router = Arc::new(Router::new(mailboxes));
        let connector = Connector::new(Arc::clone(&admission), Arc::clone(&router));
        let handle = ServerHandle::new(listener.as_ref(), &router, connector, &buffers, &metrics);
        let departures = DepartureLog::default();
        let shared = Arc::new(Shared {
            config: config.clone(),
            router: Arc::clone(&router),
            buffers: buffers.clone(),
            metrics: Arc::clone(&metrics),
            departures: departures.clone(),
            factory: Box::new(factory),
            farewell: Arc::clone(&self.farewell),
        });
        // From here on an early return drops the server, which ends the threads that run already.
        let mut server = Server {
            handle: handle.clone(),
            threads: Vec::new(),
        };
        for (index, poll) in polls.into_iter().enumerate() {
            let (router, shared) = (Arc::clone(&router), Arc::clone(&shared));
            server.spawn(format!("worker-{index}"), move || {
                Worker::new(index, poll, router, shared).run()
            })?;
        }
        if let Some(listener) = listener {
            let connects = config.max_connects_per_ip_per_sec;
            let reception = Reception {
                connects: connects.map(AddressBudgets::new),
                config,
                admission,
                router: Arc::clone(&router),
                buffers,
                metrics,
                farewell: self.farewell,
                departures,
            };
            server.spawn("listener".into(), move || {
                let outcome = listener.run(&reception);
                handle.shut_workers_down();
                outcome
            })?;
        }
        Ok(server)
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
