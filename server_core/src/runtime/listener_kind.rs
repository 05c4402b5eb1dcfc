//! The transports that a listener can have.

use crate::base::transport_kind::TransportKind;
#[cfg(feature = "websocket")]
use crate::protocol::upgrade::WebSocketServerConfig;
use crate::runtime::stream::{Refusal, Stream};
#[cfg(feature = "tls")]
use crate::runtime::tls::TlsServerConfig;
use std::io;

/// The transport of a listener's connections, with the parts that the transport needs.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum ListenerKind {
    /// Plain TCP.
    #[default]
    Tcp,
    /// TLS over TCP. A connection that finds the server full is closed before its handshake.
    #[cfg(feature = "tls")]
    Tls(TlsServerConfig),
    /// WebSocket over TCP. A peer that is not a page has no origin, and is accepted. A connection that finds the
    /// server full is closed before its upgrade.
    #[cfg(feature = "websocket")]
    WebSocket(WebSocketServerConfig),
    /// The same over TLS.
    #[cfg(all(feature = "tls", feature = "websocket"))]
    SecureWebSocket(TlsServerConfig, WebSocketServerConfig),
}

impl ListenerKind {
    /// The name of the transport.
    #[must_use]
    pub fn transport(&self) -> TransportKind {
        match self {
            Self::Tcp => TransportKind::Tcp,
            #[cfg(feature = "tls")]
            Self::Tls(_) => TransportKind::Tls,
            #[cfg(feature = "websocket")]
            Self::WebSocket(_) => TransportKind::WebSocket,
            #[cfg(all(feature = "tls", feature = "websocket"))]
            Self::SecureWebSocket(..) => TransportKind::SecureWebSocket,
        }
    }

    /// Puts the transport over a connection of plain TCP, which has a permit.
    ///
    /// # Errors
    /// If the transport cannot be set up; the connection is closed then.
    pub(crate) fn accept(&self, stream: Stream) -> io::Result<Stream> {
        match self {
            Self::Tcp => Ok(stream),
            #[cfg(feature = "tls")]
            Self::Tls(config) => Ok(stream.over_tls(config.engine()?)),
            #[cfg(feature = "websocket")]
            Self::WebSocket(config) => Ok(stream.over_websocket(config)),
            #[cfg(all(feature = "tls", feature = "websocket"))]
            Self::SecureWebSocket(tls, config) => {
                Ok(stream.over_tls(tls.engine()?).over_websocket(config))
            }
        }
    }

    /// What a connection gets when the server is full. A peer of plain TCP reads a packet without a handshake
    /// before it; any other peer would have to complete its handshake first.
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            Self::Tcp => Refusal::CloseMessage,
            #[cfg(feature = "tls")]
            Self::Tls(_) => Refusal::Silent,
            #[cfg(feature = "websocket")]
            Self::WebSocket(_) => Refusal::Silent,
            #[cfg(all(feature = "tls", feature = "websocket"))]
            Self::SecureWebSocket(..) => Refusal::Silent,
        }
    }
}
