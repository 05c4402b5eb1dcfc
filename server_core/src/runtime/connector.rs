//! Outgoing connections, on the same workers as incoming connections.

use crate::connection::admission::Admission;
#[cfg(feature = "framing")]
use crate::protocol::framing::Framing;
#[cfg(feature = "websocket")]
use crate::protocol::upgrade::WebSocketTarget;
use crate::routing::router::{NewConnection, Router};
use crate::runtime::stream::Stream;
#[cfg(feature = "tls")]
use crate::runtime::tls::TlsClientConfig;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Begins connections and hands each over to a worker, which completes it.
#[derive(Clone, Debug)]
pub struct Connector {
    admission: Arc<Admission>,
    router: Arc<Router<Stream>>,
    #[cfg(feature = "framing")]
    framing: Framing,
    #[cfg(feature = "tls")]
    tls: Option<TlsClientConfig>,
    #[cfg(feature = "websocket")]
    websocket: Option<WebSocketTarget>,
}

impl Connector {
    /// A connector for these workers.
    #[must_use]
    pub fn new(admission: Arc<Admission>, router: Arc<Router<Stream>>) -> Self {
        Self {
            admission,
            router,
            #[cfg(feature = "framing")]
            framing: Framing::NATIVE,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "websocket")]
            websocket: None,
        }
    }

    /// Sets the framing of the servers that it connects to.
    #[cfg(feature = "framing")]
    #[must_use]
    pub fn with_framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// Sets WebSocket for its connections.
    #[cfg(feature = "websocket")]
    #[must_use]
    pub fn with_websocket(mut self, target: Option<WebSocketTarget>) -> Self {
        self.websocket = target;
        self
    }

    /// Sets TLS for its connections.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: Option<TlsClientConfig>) -> Self {
        self.tls = tls;
        self
    }

    /// Begins a connection, from an address of this machine or from the address that the system chooses.
    /// `tag` comes back in [`Peer::tag`](crate::session::Peer::tag).
    ///
    /// One source address has as many connections to one target as there are ephemeral ports;
    /// another source address has as many again.
    ///
    /// # Errors
    /// Those that the system reports at once: no descriptor left, no port, no route, a source address
    /// that this machine does not have. A refusal comes later, as
    /// [`DisconnectReason::ConnectFailed`](crate::base::reason::DisconnectReason::ConnectFailed).
    /// [`NotConnected`](io::ErrorKind::NotConnected) if the worker has ended: no session is made.
    pub fn connect_from(
        &self,
        source: Option<IpAddr>,
        addr: SocketAddr,
        tag: u64,
    ) -> io::Result<()> {
        let stream = Stream::connect(source, addr)?;
        #[cfg(feature = "tls")]
        let stream = match &self.tls {
            Some(tls) => stream.over_tls(tls.engine(addr.ip())?),
            None => stream,
        };
        #[cfg(feature = "websocket")]
        let stream = match &self.websocket {
            Some(target) => stream.into_websocket(target),
            None => stream,
        };
        #[cfg(feature = "framing")]
        let stream = stream.with_framing(self.framing);
        let is_adopted = self.router.adopt(NewConnection {
            stream,
            permit: self.admission.admit_outgoing(addr),
            tag: Some(tag),
            is_connecting: true,
        });
        is_adopted.then_some(()).ok_or_else(server_has_ended)
    }
}

/// The error of a connection from a server that has ended.
#[must_use]
pub fn server_has_ended() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        "the server has ended, or is shutting down",
    )
}
