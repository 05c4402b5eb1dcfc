//! Outgoing connections, on the same workers as incoming ones.

use crate::connection::admission::Admission;
use crate::routing::router::{NewConnection, Router};
use mio::net::TcpStream;
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
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

    /// Begins one connection, from an address of this machine or from the one that the system chooses. `tag` comes back in
    /// [`Peer::tag`](crate::session::Peer::tag).
    ///
    /// One source address has as many connections to one target as there are ephemeral ports;
    /// another source address has as many again.
    ///
    /// # Errors
    /// What the system says at once: no descriptor left, no port, no route, a source address that
    /// this machine does not have. A refusal comes later, as
    /// [`DisconnectReason::ConnectFailed`](crate::base::reason::DisconnectReason::ConnectFailed).
    /// [`NotConnected`](io::ErrorKind::NotConnected) if the worker has ended: no session is made.
    pub fn connect_from(
        &self,
        source: Option<IpAddr>,
        addr: SocketAddr,
        tag: u64,
    ) -> io::Result<()> {
        let stream = match source {
            None => TcpStream::connect(addr)?,
            Some(source) => begin_from(source, addr)?,
        };
        if let Err(error) = stream.set_nodelay(true) {
            log::debug!("no TCP_NODELAY towards {addr}: {error}");
        }
        let is_adopted = self.router.adopt(NewConnection {
            stream,
            permit: self.admission.admit_outgoing(addr),
            tag: Some(tag),
            is_connecting: true,
        });
        is_adopted.then_some(()).ok_or_else(server_has_ended)
    }
}

/// Why an ended server connects to nothing.
#[must_use]
pub fn server_has_ended() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        "the server has ended, or is shutting down",
    )
}

fn begin_from(source: IpAddr, addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Err(error) = choose_port_at_connect(&socket) {
        log::debug!("no IP_BIND_ADDRESS_NO_PORT from {source}: {error}");
    }
    socket.bind(&SocketAddr::new(source, 0).into())?;
    match socket.connect(&addr.into()) {
        // The worker hears of the outcome.
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {}
        other => other?,
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// A port that is taken at `bind` is taken from everybody, whatever their addresses: connections
/// whose port is chosen at `connect` pass it by. Chosen at `connect`, it has to be new together
/// with both addresses only, and one that waits in TIME_WAIT may be used again.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn choose_port_at_connect(socket: &Socket) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
    Ok(setsockopt(socket, IpBindAddressNoPort, &true)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn choose_port_at_connect(_: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
