//! The transports that a listener can have.

use crate::base::transport_kind::TransportKind;
use crate::runtime::stream::{Refusal, Stream};
use std::io;

/// The transport of a listener's connections, with the parts that the transport needs.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum ListenerKind {
    /// Plain TCP.
    #[default]
    Tcp,
}

impl ListenerKind {
    /// The name of the transport.
    #[must_use]
    pub fn transport(&self) -> TransportKind {
        match self {
            Self::Tcp => TransportKind::Tcp,
        }
    }

    /// Puts the transport over a connection of plain TCP, which has a permit.
    ///
    /// # Errors
    /// If the transport cannot be set up; the connection is closed then.
    pub(crate) fn accept(&self, stream: Stream) -> io::Result<Stream> {
        match self {
            Self::Tcp => Ok(stream),
        }
    }

    /// What a connection gets when the server is full. A peer of plain TCP reads a packet without a handshake
    /// before it; any other peer would have to complete its handshake first.
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            Self::Tcp => Refusal::CloseMessage,
        }
    }
}
