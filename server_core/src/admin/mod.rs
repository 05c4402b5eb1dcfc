//! The admin port of a server: `/metrics`, `/healthz`, `/sessions`, `/trace`, and a live page at `/`, over HTTP. Needs
//! the feature `admin`.
//!
//! ```
//! use server_core::admin::Admin;
//! # use server_core::{Context, Kick, Packet, Server, Session};
//! # struct Player;
//! # impl Session for Player {
//! #     fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> { Ok(()) }
//! # }
//! let server = Server::builder().workers(1).start("127.0.0.1:0", |_peer| Player)?;
//! let admin = Admin::start("127.0.0.1:0", &server.handle())?;
//! println!("metrics on http://{}/", admin.local_addr());
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! | path | response |
//! |---|---|
//! | `/metrics` | the counters of the server, its ticks and its game, as Prometheus text |
//! | `/healthz` | 200 `ok`; 503 `shutting down` from the start of a shutdown, 503 `not ready` while [`readiness`](AdminBuilder::readiness) returns `false` |
//! | `/sessions` | the connected sessions, as JSON; `/sessions?slowest=N` lists the N (1 to 100) that are furthest behind |
//! | `/trace?session=ID`, `/trace?addr=IP` | the connects, packets and ends of one session, or of the sessions of one address, as JSON. The first request begins the trace. It ends with its session, after 10 minutes, or when no request reads it for 60 seconds |
//! | `/sessions?account=NAME` | with [`cluster`](AdminBuilder::cluster): the session of an account on any node, as JSON: `[]`, or one of `{"account","node","node_number","id"}`; 503 without an answer of the broker |
//! | `/nodes` | with [`cluster`](AdminBuilder::cluster): the nodes of the cluster, as JSON |
//! | `/` | the live page: it shows the responses above in a browser, once a second |
//!
//! # The metrics of a game
//!
//! A game registers its metrics in a `Registry` of the crate `prometheus_client`. `/metrics` shows them behind
//! the metrics of the server, whose names begin with `server_`. The counters of a [`Ticker`](crate::Ticker)
//! become the metrics of the ticks.
//!
//! ```
//! use server_core::Ticker;
//! use server_core::admin::Admin;
//! use server_core::admin::prometheus_client::{metrics::gauge::Gauge, registry::Registry};
//! # use server_core::{Context, Kick, Packet, Server, Session};
//! # use std::{io::{Read, Write}, net::TcpStream, time::Duration};
//! # struct Player;
//! # impl Session for Player {
//! #     fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> { Ok(()) }
//! # }
//! # let server = Server::builder().workers(1).start("127.0.0.1:0", |_peer| Player)?;
//! let ticker = Ticker::new(Duration::from_millis(50)).for_server(&server.handle());
//! let monsters: Gauge = Gauge::default();
//! let mut registry = Registry::default();
//! registry.register("game_monsters", "Monsters in the world", monsters.clone());
//!
//! let admin = Admin::builder()
//!     .name("my_game")
//!     .tick_metrics(ticker.metrics())
//!     .registry(registry)
//!     .start("127.0.0.1:0", &server.handle())?;
//! monsters.set(3);
//! # let mut scrape = TcpStream::connect(admin.local_addr())?;
//! # scrape.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
//! # let mut text = String::new();
//! # scrape.read_to_string(&mut text)?;
//! # assert!(text.contains("\ngame_monsters 3\n") && text.contains("\nserver_ticks_total 0\n"), "{text}");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Limits
//!
//! The port has no encryption and no login: bind it to an address that only the operators reach. Its peers
//! cost this port, not a tick:
//!
//! | limit | value | over it |
//! |---|---|---|
//! | connections at a time | 64 | the oldest idle connection is closed |
//! | head of a request | 8 KiB, 64 header lines | 431 |
//! | time for the head of a request | 2 s | 408; a silent connection is closed |
//! | time for the response | 5 s | the connection is closed |
//! | wait for the peer's FIN after the response | 500 ms | the connection is closed |
//! | time for the workers to list their sessions, for the broker to find an account | 1 s | 503 |
//! | accounts that the broker is asked for at a time | 64 | 503 |
//! | traces at a time, those of [`ServerHandle::trace`](crate::ServerHandle::trace) included | 8, each with its last 1,024 events | 503 |
//! | session lists and traces in memory | 8 MiB, and the list that reaches this size | 503 |
//! | processor time | a quarter of one core | requests wait |
//! | hosts | the port's own address, loopback names, and [`allow_hosts`](AdminBuilder::allow_hosts) | 421 |
//! | pages of other sites, where the browser tells (`Sec-Fetch-Site`: on loopback addresses, and behind HTTPS) | no `/sessions`, no `/trace` | 403 |
//! | file descriptors | [`Admin::MAX_DESCRIPTORS`] | accept pauses for up to 500 ms, logged once in 30 s |
//!
//! # Threads
//!
//! The port has one thread, `metrics`, and shares with the event loops only atomics that it reads, and one
//! snapshot request at a time in their mailboxes for `/sessions`. Where all cores are busy, a flood of scrapes
//! would still take the event loops' share of them; so the thread sleeps three times as long as it
//! works. A collector of the game and the function of [`readiness`](AdminBuilder::readiness) run on this
//! thread. A panic in them is caught: the response is a 503.
//!
//! The port ends when its [`Admin`] is dropped, and at most 150 ms after the server has ended.

mod allowed_hosts;
mod exposition;
mod http;
mod http_connection;
mod service;
mod sessions;
mod traces;
#[cfg(feature = "cluster")]
mod world;

pub use allowed_hosts::Host;
/// The crate of a game's metrics, in the version that [`AdminBuilder::registry`] takes.
pub use prometheus_client;

use crate::base::start;
#[cfg(feature = "cluster")]
use crate::cluster::Cluster;
use crate::server::ServerHandle;
use crate::server::ticker::TickMetrics;
use allowed_hosts::AllowedHosts;
use crossbeam_channel::Sender;
use mio::Waker;
use prometheus_client::registry::Registry;
use service::{MAX_CONNECTIONS, Port, Service};
use std::borrow::Cow;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::{fmt, io};

/// The admin port of a running server. Dropping it closes the port and waits for its thread.
#[derive(Debug)]
#[must_use = "dropping an admin port closes it"]
pub struct Admin {
    local_addr: SocketAddr,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

/// An admin port that is bound and does not serve yet. Dropping it closes the port.
///
/// A connection waits in the backlog until [`serve`](Self::serve).
#[derive(Debug)]
#[must_use = "dropping an admin port closes it"]
pub struct BoundAdmin {
    /// Dropped before `admin`, which waits for the thread.
    server: Sender<ServerHandle>,
    admin: Admin,
}

/// Sets an admin port up.
#[must_use = "nothing is started before `start`"]
pub struct AdminBuilder {
    name: Cow<'static, str>,
    hosts: AllowedHosts,
    ticks: Option<Arc<TickMetrics>>,
    registry: Registry,
    is_ready: Option<Readiness>,
    #[cfg(feature = "cluster")]
    cluster: Option<ClusterOf>,
}

type Readiness = Box<dyn Fn() -> bool + Send>;
#[cfg(feature = "cluster")]
type ClusterOf = Box<dyn Fn() -> Option<Cluster> + Send>;

#[derive(Debug)]
struct Stop {
    is_set: AtomicBool,
    waker: Waker,
}

impl Admin {
    /// File descriptors that an admin port uses at most: its connections, the connection that arrives
    /// while their number is at its limit, its socket, its poll and its waker.
    pub const MAX_DESCRIPTORS: usize = MAX_CONNECTIONS + 4;

    /// Sets up an admin port with the metrics of the server alone.
    pub fn builder() -> AdminBuilder {
        AdminBuilder {
            name: "server".into(),
            hosts: AllowedHosts {
                hosts: Vec::new(),
                hint: "AdminBuilder::allow_hosts allows it".into(),
            },
            ticks: None,
            registry: Registry::default(),
            is_ready: None,
            #[cfg(feature = "cluster")]
            cluster: None,
        }
    }

    /// Starts an admin port with the metrics of the server alone. Short for
    /// [`Admin::builder().start(addr, server)`](AdminBuilder::start).
    ///
    /// # Errors
    /// See [`AdminBuilder::start`].
    pub fn start(addr: impl ToSocketAddrs, server: &ServerHandle) -> io::Result<Self> {
        Self::builder().start(addr, server)
    }

    /// The bound address. The port is the real one if port 0 was given.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

impl AdminBuilder {
    /// Sets the name of the game on the live page; "server" by default.
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Adds the metrics of the ticks: [`Ticker::metrics`](crate::Ticker::metrics).
    pub fn tick_metrics(mut self, ticks: Arc<TickMetrics>) -> Self {
        self.ticks = Some(ticks);
        self
    }

    /// Sets the registry of the game's metrics. A name must not be in it twice, nor be one of the server's:
    /// Prometheus refuses such a text.
    ///
    /// A collector must not wait for a lock that is held while the [`Admin`] is dropped.
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    /// Sets the function that `/healthz` calls: 503 `not ready` while it returns `false`. A server that shuts
    /// down is not ready in any case.
    pub fn readiness(mut self, is_ready: impl Fn() -> bool + Send + 'static) -> Self {
        self.is_ready = Some(Box::new(is_ready));
        self
    }

    /// Adds the nodes of a cluster to the live page, `/nodes`, and `/sessions?account=NAME`. The function returns
    /// `None` before the cluster has started: these two respond with 503 then. The thread of the port does not wait
    /// for the broker: an account on another node is found within 1 s, or the response is a 503.
    #[cfg(feature = "cluster")]
    pub fn cluster(mut self, cluster: impl Fn() -> Option<Cluster> + Send + 'static) -> Self {
        self.cluster = Some(Box::new(cluster));
        self
    }

    /// Allows requests for these hosts, beside the port's own address and the loopback names.
    ///
    /// A page on another site can make its own name resolve to this port's address (DNS rebinding), and a
    /// browser then lets that page read the responses. So a request for any other host is refused with 421.
    pub fn allow_hosts(mut self, hosts: impl IntoIterator<Item = Host>) -> Self {
        self.hosts.hosts.extend(hosts);
        self
    }

    /// Sets how the text of such a refusal ends: what a user of the program does to allow a host, for example
    /// `my_game --admin-host NAME allows it`.
    pub fn host_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hosts.hint = hint.into();
        self
    }

    /// Binds the port, and starts to serve this server.
    ///
    /// # Errors
    /// Errors of binding, for example [`io::ErrorKind::AddrInUse`], and of starting the thread. The error
    /// names the step that failed, each address that was tried, and the limit that is reached, if there
    /// is one. Nothing of the port is left then: no thread, no descriptor, no open port.
    pub fn start(self, addr: impl ToSocketAddrs, server: &ServerHandle) -> io::Result<Admin> {
        Ok(self.bind(addr)?.serve(server))
    }

    /// Binds the port and starts its thread before the server starts: a program whose admin port cannot
    /// start then ends before its server accepts a player. Of several addresses, the first that can be bound
    /// is taken.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn bind(self, addr: impl ToSocketAddrs) -> io::Result<BoundAdmin> {
        let addrs = addr.to_socket_addrs()?;
        let port = start::first_of("cannot serve metrics on", addrs, Port::bind)?;
        let (local_addr, stop) = (port.local_addr, Arc::clone(&port.stop));
        let (sender, server) = crossbeam_channel::bounded(1);
        let thread = start::spawn("metrics", move || {
            let Ok(server) = server.recv() else {
                return; // Dropped before a server was there.
            };
            if let Err(error) = Service::new(port, server, self).run() {
                log::error!("the admin port has failed: {error}");
            }
        })?;
        Ok(BoundAdmin {
            server: sender,
            admin: Admin {
                local_addr,
                stop,
                thread: Some(thread),
            },
        })
    }
}

impl BoundAdmin {
    /// The bound address. The port is the real one if port 0 was given.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.admin.local_addr
    }

    /// Starts to serve this server.
    pub fn serve(self, server: &ServerHandle) -> Admin {
        // The channel has room for one, and the thread waits for it.
        let _ = self.server.try_send(server.clone());
        self.admin
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.is_set.store(true, Ordering::Release);
        if let Err(error) = self.stop.waker.wake() {
            log::error!("the thread of the admin port could not be woken: {error}");
            return;
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of the admin port has panicked");
        }
    }
}

impl fmt::Debug for AdminBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminBuilder")
            .field("name", &self.name)
            .field("hosts", &self.hosts)
            .field("ticks", &self.ticks)
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}
