//! Outgoing connections, on the same workers as incoming ones.

use crate::admission::Admission;
use crate::router::{Arrival, Router};
use mio::net::TcpStream;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// Begins connections and hands them over to workers, which finish them.
#[derive(Clone, Debug)]
pub struct Connector {
    admission: Arc<Admission>,
    router: Arc<Router<TcpStream>>,
}

impl Connector {
    /// A connector for these workers.
    #[must_use]
    pub fn new(admission: Arc<Admission>, router: Arc<Router<TcpStream>>) -> Self {
        Self { admission, router }
    }

    /// Begins one connection. `tag` comes back in [`Peer::tag`](crate::session::Peer::tag).
    ///
    /// # Errors
    /// What the system says at once: no descriptor left, no port, no route. A refusal comes later,
    /// as [`DisconnectReason::ConnectFailed`](crate::reason::DisconnectReason::ConnectFailed).
    pub fn connect(&self, addr: SocketAddr, tag: u64) -> io::Result<()> {
        let stream = TcpStream::connect(addr)?;
        if let Err(error) = stream.set_nodelay(true) {
            log::debug!("no TCP_NODELAY towards {addr}: {error}");
        }
        self.router.adopt(Arrival {
            stream,
            permit: self.admission.admit_outgoing(addr),
            tag: Some(tag),
            is_connecting: true,
        });
        Ok(())
    }
}
