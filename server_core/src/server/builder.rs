//! The setup and start of a server.

use super::handle::ServerHandle;
use super::{EndWorkersOnDrop, Server};
use crate::base::address_budgets::AddressBudgets;
use crate::base::bans::Bans;
use crate::base::cidr::Cidr;
use crate::base::config::Config;
use crate::base::disconnect_log::DisconnectLog;
use crate::base::metrics::Metrics;
use crate::base::packet_counts::PacketInfo;
use crate::base::reason::DisconnectReason;
use crate::base::start::{failed, first_of};
use crate::base::trace::Tracer;
use crate::buffer::{ChunkPool, SendBufferManager};
use crate::connection::admission::Admission;
#[cfg(feature = "framing")]
use crate::protocol::framing::Framing;
use crate::protocol::packet::PacketHead;
#[cfg(feature = "websocket")]
use crate::protocol::upgrade::WebSocketTarget;
use crate::routing::accounts::LoginPolicy;
use crate::routing::mailbox::Mailbox;
use crate::routing::router::{Command, Router};
use crate::runtime::connector::Connector;
use crate::runtime::listener::{Listener, ListenerContext};
use crate::runtime::listener_kind::ListenerKind;
use crate::runtime::stream::Stream;
#[cfg(feature = "tls")]
use crate::runtime::tls::TlsClientConfig;
use crate::runtime::worker::{Worker, poll_with_mailbox};
use crate::session::login::LoginRules;
use crate::session::{Peer, Session};
use crate::shard::{CloseMessage, Shared};
use socket2::{Domain, Socket, Type};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

/// Sets up and starts a server. The limits that most games set have a setter of their own.
/// [`config`](ServerBuilder::config) sets all limits.
#[must_use = "nothing is started before `start`"]
pub struct ServerBuilder {
    config: Config,
    custom_labels: Vec<&'static str>,
    packets: Vec<PacketInfo>,
    close_message: Arc<CloseMessage>,
    bans: Bans,
    login_policy: LoginPolicy,
    login_rules: Option<LoginRules>,
    listeners: Vec<(ListenerKind, io::Result<Vec<SocketAddr>>)>,
    #[cfg(feature = "framing")]
    client_framing: Framing,
    #[cfg(feature = "tls")]
    client_tls: Option<TlsClientConfig>,
    #[cfg(feature = "websocket")]
    client_websocket: Option<WebSocketTarget>,
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
            custom_labels: Vec::new(),
            packets: Vec::new(),
            close_message: Arc::new(|_, _, _| None),
            bans: Bans::default(),
            login_policy: LoginPolicy::default(),
            login_rules: None,
            listeners: Vec::new(),
            #[cfg(feature = "framing")]
            client_framing: Framing::NATIVE,
            #[cfg(feature = "tls")]
            client_tls: None,
            #[cfg(feature = "websocket")]
            client_websocket: None,
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
        /// See [`Config::trusted_proxies`].
        trusted_proxies: Vec<Cidr>,
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

    /// Sets all limits at once. See [`Config`].
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Sets the bans: the listener closes a connection of a banned address without a packet, before any
    /// other work, and counts it as rejected. A connection of a trusted proxy is closed when its header has
    /// named the client. [`Bans::replace`] changes the bans while the server runs.
    pub fn bans(mut self, bans: Bans) -> Self {
        self.bans = bans;
        self
    }

    /// Adds a listener to the plain TCP listener of [`start`](Self::start). All listeners lead to the same
    /// sessions, within the same limits. Of several addresses, the first that can be bound is taken:
    /// [`Server::local_addrs`] has it. [`start`](Self::start) reports a name that cannot be resolved.
    pub fn listen(mut self, kind: ListenerKind, addr: impl ToSocketAddrs) -> Self {
        let addrs = addr.to_socket_addrs().map(Iterator::collect);
        self.listeners.push((kind, addrs));
        self
    }

    /// Declares labels of [`Kick::Custom`](crate::Kick::Custom): each gets a counter of its own in the
    /// [metrics](crate::ServerHandle::metrics), which starts at 0. Undeclared labels share the counter
    /// `custom`, and so does a label that this library has, or a label beyond the first 16.
    pub fn custom_labels(mut self, labels: impl IntoIterator<Item = &'static str>) -> Self {
        self.custom_labels.extend(labels);
        self
    }

    /// Declares the packets of the game, a table that [`packets!`](crate::packets!) makes: each is counted by its id
    /// ([`Metrics::packets_by_id`]), and named in [traces](ServerHandle::trace). Packets of other ids share one count.
    /// Further tables may follow; the first packet of an id counts.
    ///
    /// ```
    /// server_core::packets! {
    ///     /// All packets of the game.
    ///     const PACKETS;
    ///     client 2 => CEcho + bytes;
    ///     server 3 => SEcho + bytes;
    /// }
    ///
    /// let builder = server_core::Server::builder().packets(PACKETS);
    /// # assert_eq!((PACKETS[0].id, PACKETS[0].name, PACKETS[0].from_client), (2, "CEcho", true));
    /// # let _ = (builder, CEcho, SEcho);
    /// ```
    pub fn packets(mut self, packets: &[PacketInfo]) -> Self {
        self.packets.extend(packets);
        self
    }

    /// Sets the last packet for each session that the server ends, by the reason. A connection that is
    /// rejected because the server is full gets it, too.
    pub fn close_message<H, Tail>(
        self,
        close_message: impl Fn(DisconnectReason) -> Option<(H, Tail)> + Send + Sync + 'static,
    ) -> Self
    where
        H: PacketHead,
        Tail: AsRef<[u8]>,
    {
        self.close_message_from(move |reason, _| close_message(reason))
    }

    /// Like [`close_message`](Self::close_message), by the reason and the text of
    /// [`close_with`](crate::Context::close_with) or of a [kick](crate::Kick::with_text). A session that ends
    /// in another way gets the reason in words.
    ///
    /// ```
    /// server_core::packets! {
    ///     /// The last packet of a session that the server ends.
    ///     server 6 => pub SBye { code: u16 } + text;
    /// }
    ///
    /// let builder = server_core::Server::builder().close_message_with_text(|reason, text| {
    ///     Some((SBye::new(reason.code()?), text.to_owned()))
    /// });
    /// ```
    pub fn close_message_with_text<H, Tail>(
        self,
        close_message: impl Fn(DisconnectReason, &str) -> Option<(H, Tail)> + Send + Sync + 'static,
    ) -> Self
    where
        H: PacketHead,
        Tail: AsRef<[u8]>,
    {
        self.close_message_from(move |reason, text| match text {
            Some(text) => close_message(reason, text),
            None => close_message(reason, &reason.to_string()),
        })
    }

    fn close_message_from<H, Tail>(
        mut self,
        close_message: impl Fn(DisconnectReason, Option<&str>) -> Option<(H, Tail)>
        + Send
        + Sync
        + 'static,
    ) -> Self
    where
        H: PacketHead,
        Tail: AsRef<[u8]>,
    {
        self.close_message = Arc::new(move |reason, text, buffers| {
            let (head, tail) = close_message(reason, text)?;
            buffers.encode(&head, tail.as_ref()).ok()
        });
        self
    }

    /// Sets which session of an account stays: see [`ServerHandle::login`]. Default: the newest. In a cluster, the
    /// newest stays in any case.
    pub fn login_policy(mut self, policy: LoginPolicy) -> Self {
        self.login_policy = policy;
        self
    }

    /// Sets what a session may send before it is admitted. Default: any packet.
    pub fn login_rules(mut self, rules: LoginRules) -> Self {
        self.login_rules = Some(rules);
        self
    }

    /// Sets the framing of the servers that [`ServerHandle::connect`] connects to. Sessions see packets:
    /// each frame is translated in both directions. Default: [`Framing::NATIVE`]. The listener of
    /// [`start`](Self::start) is not affected.
    ///
    /// A payload of more than 65,531 bytes is cut to its first 65,531 bytes.
    /// [`Config::max_packet_bytes`] and [`Config::packet_timeout`] apply to the packet that a frame
    /// becomes; the time of a packet starts with the last byte of its frame's header.
    #[cfg(feature = "framing")]
    pub fn client_framing(mut self, framing: Framing) -> Self {
        self.client_framing = framing;
        self
    }

    /// Sets TLS for the connections of [`ServerHandle::connect`]. A session is connected when its handshake is
    /// complete, and ends with [`DisconnectReason::Handshake`] if that fails. Default: `None`, plain TCP. Listeners
    /// are not affected.
    #[cfg(feature = "tls")]
    pub fn client_tls(mut self, tls: impl Into<Option<TlsClientConfig>>) -> Self {
        self.client_tls = tls.into();
        self
    }

    /// Sets WebSocket for the connections of [`ServerHandle::connect`]: each sends the request of this target to
    /// the address that it connects to. A session is connected when its upgrade is complete, and ends with
    /// [`DisconnectReason::Handshake`] if that fails. A WebSocket has the native framing. Default: `None`, no
    /// WebSocket. Listeners are not affected.
    #[cfg(feature = "websocket")]
    pub fn client_websocket(mut self, target: impl Into<Option<WebSocketTarget>>) -> Self {
        self.client_websocket = target.into();
        self
    }

    /// Changes the limits that are set so far.
    #[cfg(feature = "app")]
    pub(crate) fn change_config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Binds, starts the workers and then accepts. `factory` makes the session of each new peer, on the
    /// worker that owns it.
    ///
    /// Of several addresses, for example those of a name, the server listens on the first address that can
    /// be bound: see [`Server::local_addr`].
    ///
    /// # Errors
    /// Errors of the bind, for example [`io::ErrorKind::AddrInUse`], and of the start of threads. The error
    /// names the step that failed, each address that was tried, and the limit that is reached, if
    /// there is one. Nothing of the server is left then: no thread, no descriptor, no open port.
    pub fn start<S: Session>(
        mut self,
        addr: impl ToSocketAddrs,
        factory: impl Fn(Peer) -> S + Send + Sync + 'static,
    ) -> io::Result<Server> {
        let mut listener =
            Listener::new().map_err(|error| failed("cannot set up the listener", error))?;
        let of_start = (
            ListenerKind::Tcp,
            addr.to_socket_addrs().map(Iterator::collect),
        );
        for (kind, addrs) in std::iter::once(of_start).chain(self.listeners.drain(..)) {
            first_of("cannot listen on", addrs?, |addr| {
                listener.bind(&kind, addr)
            })?;
        }
        self.launch(Some(listener), factory)
    }

    /// Starts the workers without a listener, for a client on the same library. Sessions come from
    /// [`ServerHandle::connect`] only.
    ///
    /// # Errors
    /// Errors of the start of threads, as for [`start`](Self::start).
    pub fn start_client<S: Session>(
        self,
        factory: impl Fn(Peer) -> S + Send + Sync + 'static,
    ) -> io::Result<Server> {
        self.launch(None, factory)
    }

    /// The parts of a server over these mailboxes, one for each worker. No thread is started.
    fn assemble<S: Session>(
        self,
        mailboxes: Vec<Mailbox<Command<Stream>>>,
        listener: Option<&Listener>,
        is_client: bool,
        factory: impl Fn(Peer) -> S + Send + Sync + 'static,
    ) -> Parts<S> {
        let config = self.config.clamped();
        let pool = ChunkPool::new(config.chunk_bytes, config.pooled_chunks);
        let buffers = SendBufferManager::new(pool);
        let mut metrics = Metrics::new(config.workers);
        for label in self.custom_labels {
            if !metrics.declare_label(label) {
                log::warn!("disconnect label {label:?} is counted as \"custom\"");
            }
        }
        metrics.declare_packets(&self.packets, is_client);
        let metrics = Arc::new(metrics);
        let tracer = Arc::new(Tracer::default());
        let admission = Arc::new(Admission::new(
            config.workers,
            config.max_sessions,
            config.max_sessions_per_ip,
        ));
        let router = Arc::new(Router::new(mailboxes).with_login_policy(self.login_policy));
        let connector = Connector::new(Arc::clone(&admission), Arc::clone(&router));
        #[cfg(feature = "framing")]
        let connector = connector.with_framing(self.client_framing);
        #[cfg(feature = "tls")]
        let connector = connector.with_tls(self.client_tls);
        #[cfg(feature = "websocket")]
        let connector = connector.with_websocket(self.client_websocket);
        let handle = ServerHandle::new(listener, &router, connector, &buffers, &metrics, &tracer);
        let shared = Arc::new(Shared {
            config,
            router,
            buffers,
            metrics,
            disconnect_log: DisconnectLog::default(),
            login_rules: self.login_rules,
            tracer,
            factory: Box::new(factory),
            close_message: self.close_message,
        });
        Parts {
            handle,
            shared,
            admission,
        }
    }

    /// A server without threads, listeners and sockets, whose posts never wait: a test drives its shards. `wake`
    /// is called with the worker whose mailbox has mail.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn assemble_for_one_thread<S: Session>(
        mut self,
        wake: impl Fn(usize) + Clone + Send + Sync + 'static,
        factory: impl Fn(Peer) -> S + Send + Sync + 'static,
    ) -> Parts<S> {
        self.config = self.config.clamped();
        let mailbox_bytes = self.config.mailbox_bytes;
        let mailboxes = (0..self.config.workers).map(|worker| {
            let wake = wake.clone();
            Mailbox::new(mailbox_bytes, move || wake(worker)).without_waiting()
        });
        let mailboxes = mailboxes.collect();
        self.assemble(mailboxes, None, false, factory)
    }

    fn launch<S: Session>(
        mut self,
        listener: Option<Listener>,
        factory: impl Fn(Peer) -> S + Send + Sync + 'static,
    ) -> io::Result<Server> {
        self.config = self.config.clamped();
        let config = self.config.clone();
        // A server without a descriptor for one session cannot work. The descriptor is freed before accept.
        let room_for_one = (listener.as_ref())
            .and_then(|listener| listener.local_addrs().next())
            .map(|(_, addr)| Socket::new(Domain::for_address(addr), Type::STREAM, None))
            .transpose()
            .map_err(|error| failed("cannot accept a connection", error))?;
        let (polls, mailboxes): (Vec<_>, Vec<_>) = (0..config.workers)
            .map(|worker| {
                poll_with_mailbox(config.mailbox_bytes)
                    .map_err(|error| failed(format_args!("cannot set up worker {worker}"), error))
            })
            .collect::<io::Result<Vec<_>>>()?
            .into_iter()
            .unzip();
        let bans = std::mem::take(&mut self.bans);
        let Parts {
            handle,
            shared,
            admission,
        } = self.assemble(mailboxes, listener.as_ref(), listener.is_none(), factory);
        // From here on, an early return drops the server, which ends its running threads.
        let mut server = Server {
            handle: handle.clone(),
            threads: Vec::new(),
        };
        // Dropped before the server, whose drop waits for the workers.
        let listener = listener.map(|listener| (listener, EndWorkersOnDrop(handle)));
        for (index, poll) in polls.into_iter().enumerate() {
            let (router, shared) = (Arc::clone(&shared.router), Arc::clone(&shared));
            server.spawn(&format!("worker-{index}"), move || {
                Worker::new(index, poll, router, shared).run()
            })?;
        }
        // Listening is the last step: a server that cannot start accepts no peer.
        if let Some((mut listener, end_workers)) = listener {
            listener.listen(&config)?;
            let connects = config.max_connects_per_ip_per_sec;
            let context = ListenerContext {
                connects: connects.map(AddressBudgets::new),
                bans,
                config,
                admission,
                router: Arc::clone(&shared.router),
                buffers: shared.buffers.clone(),
                metrics: Arc::clone(&shared.metrics),
                close_message: Arc::clone(&shared.close_message),
                disconnect_log: shared.disconnect_log.clone(),
            };
            drop(room_for_one);
            server.spawn("listener", move || {
                let _end_workers = end_workers;
                listener.run(&context)
            })?;
        }
        Ok(server)
    }
}

/// A server without its threads.
pub(crate) struct Parts<S> {
    pub handle: ServerHandle,
    pub shared: Arc<Shared<Stream, S>>,
    pub admission: Arc<Admission>,
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
