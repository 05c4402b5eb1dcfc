//! The sockets of peers: one type for every transport, and the options that each socket gets.

use crate::base::config::Config;
#[cfg(any(test, feature = "testing"))]
use crate::base::id::SessionId;
use crate::base::reason::DisconnectReason;
use crate::base::transport_kind::TransportKind;
#[cfg(feature = "framing")]
use crate::protocol::framing::Framing;
#[cfg(feature = "websocket")]
use crate::protocol::upgrade::{WebSocketServerConfig, WebSocketTarget};
#[cfg(feature = "tls")]
use crate::runtime::tls::RustlsEngine;
#[cfg(feature = "tls")]
use crate::transport::Tls;
#[cfg(feature = "framing")]
use crate::transport::Translated;
#[cfg(feature = "websocket")]
use crate::transport::Upgraded;
use crate::transport::{self, Completion, HandshakeStep, ReadOutcome, Transport};
use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io::{self, ErrorKind, IoSlice};
use std::net::{IpAddr, Shutdown, SocketAddr};
#[cfg(any(test, feature = "testing"))]
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The connection to a peer. No other module names the socket type of a transport.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// Plain TCP to a server with another framing.
    #[cfg(feature = "framing")]
    Translated(Box<Translated<TcpStream>>),
    /// TLS over TCP.
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream>),
    /// TLS to a server with another framing.
    #[cfg(all(feature = "framing", feature = "tls"))]
    TranslatedTls(Box<Translated<TlsStream>>),
    /// WebSocket over TCP.
    #[cfg(feature = "websocket")]
    WebSocket(Box<Upgraded<TcpStream>>),
    /// WebSocket over TLS.
    #[cfg(all(feature = "tls", feature = "websocket"))]
    SecureWebSocket(Box<Upgraded<TlsStream>>),
    /// No socket: see [`testing`](crate::testing).
    #[cfg(any(test, feature = "testing"))]
    Socketless(Box<Socketless>),
}

/// A transport without a socket. No poll knows it.
#[cfg(any(test, feature = "testing"))]
pub struct Socketless {
    transport: Box<dyn Transport + Send>,
    id: Arc<OnceLock<SessionId>>,
}

/// TLS over a socket.
#[cfg(feature = "tls")]
pub type TlsStream = Tls<TcpStream, RustlsEngine>;

/// Calls the transport of a stream, whatever it is.
macro_rules! transport {
    ($stream:expr, $transport:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($transport) => $call,
            #[cfg(feature = "framing")]
            Stream::Translated($transport) => $call,
            #[cfg(feature = "tls")]
            Stream::Tls($transport) => $call,
            #[cfg(all(feature = "framing", feature = "tls"))]
            Stream::TranslatedTls($transport) => $call,
            #[cfg(feature = "websocket")]
            Stream::WebSocket($transport) => $call,
            #[cfg(all(feature = "tls", feature = "websocket"))]
            Stream::SecureWebSocket($transport) => $call,
            #[cfg(any(test, feature = "testing"))]
            Stream::Socketless($transport) => $call,
        }
    };
}

/// What a connection gets that becomes no session. Both count as rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The last packet, then the end of the stream.
    CloseMessage,
    /// The end of the connection, without a byte.
    Silent,
}

/// Questions without an answer after which a silent peer has vanished.
const KEEPALIVE_RETRIES: u32 = 3;

impl Stream {
    /// Begins a connection, from `source` or from the address that the system chooses. The worker
    /// learns of the outcome.
    ///
    /// # Errors
    /// Those that the system reports at once.
    pub fn connect(source: Option<IpAddr>, addr: SocketAddr) -> io::Result<Self> {
        let stream = match source {
            None => TcpStream::connect(addr)?,
            Some(source) => connect_from(source, addr)?,
        };
        if let Err(error) = stream.set_nodelay(true) {
            log::debug!("no TCP_NODELAY towards {addr}: {error}");
        }
        Ok(Self::Tcp(stream))
    }

    /// Sets the options of a connection that a listener has accepted. An option that the system refuses
    /// is left out.
    pub fn set_options(&self, peer: SocketAddr, config: &Config) {
        let stream = self.socket();
        let settings = [
            ("TCP_NODELAY", stream.set_nodelay(true)),
            ("TCP_NOTSENT_LOWAT", limit_unsent(stream, config)),
            ("SO_KEEPALIVE", set_keepalive(stream, config)),
            ("TCP_USER_TIMEOUT", limit_unacknowledged(stream, config)),
        ];
        for (name, outcome) in settings {
            if let Err(error) = outcome {
                log::debug!("no {name} for {peer}: {error}");
            }
        }
    }

    /// The same connection with TLS, if it is of plain TCP.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn over_tls(self, engine: RustlsEngine) -> Self {
        match self {
            Self::Tcp(stream) => Self::Tls(Box::new(Tls::new(stream, engine))),
            other => other,
        }
    }

    /// The same connection to a peer with another framing.
    #[cfg(feature = "framing")]
    #[must_use]
    pub fn with_framing(self, framing: Framing) -> Self {
        match self {
            Self::Tcp(stream) if !framing.is_native() => {
                Self::Translated(Box::new(Translated::new(stream, framing)))
            }
            #[cfg(feature = "tls")]
            Self::Tls(stream) if !framing.is_native() => {
                Self::TranslatedTls(Box::new(Translated::new(*stream, framing)))
            }
            other => other,
        }
    }

    /// The same connection with WebSocket, as the server.
    #[cfg(feature = "websocket")]
    #[must_use]
    pub fn over_websocket(self, config: &WebSocketServerConfig) -> Self {
        match self {
            Self::Tcp(stream) => Self::WebSocket(Box::new(Upgraded::server(stream, config))),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Self::SecureWebSocket(Box::new(Upgraded::server(*stream, config))),
            other => other,
        }
    }

    /// The same connection with WebSocket, as a client of `target`.
    #[cfg(feature = "websocket")]
    #[must_use]
    pub fn into_websocket(self, target: &WebSocketTarget) -> Self {
        match self {
            Self::Tcp(stream) => Self::WebSocket(Box::new(Upgraded::client(stream, target))),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Self::SecureWebSocket(Box::new(Upgraded::client(*stream, target))),
            other => other,
        }
    }

    /// A connection without a socket. `id` is set at its registration.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn socketless(
        transport: impl Transport + Send + 'static,
        id: Arc<OnceLock<SessionId>>,
    ) -> Self {
        let transport = Box::new(transport);
        Self::Socketless(Box::new(Socketless { transport, id }))
    }

    /// Registers a connection without a socket.
    #[cfg(any(test, feature = "testing"))]
    pub fn note_id(&self, id: SessionId) {
        if let Self::Socketless(stream) = self {
            let _ = stream.id.set(id);
        }
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            #[cfg(feature = "framing")]
            Self::Translated(stream) => stream.inner(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.inner(),
            #[cfg(all(feature = "framing", feature = "tls"))]
            Self::TranslatedTls(stream) => stream.inner().inner(),
            #[cfg(feature = "websocket")]
            Self::WebSocket(stream) => stream.inner().inner(),
            #[cfg(all(feature = "tls", feature = "websocket"))]
            Self::SecureWebSocket(stream) => stream.inner().inner().inner(),
            #[cfg(any(test, feature = "testing"))]
            Self::Socketless(_) => unreachable!("no listener accepts it"),
        }
    }

    fn socket_mut(&mut self) -> &mut TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            #[cfg(feature = "framing")]
            Self::Translated(stream) => stream.inner_mut(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.inner_mut(),
            #[cfg(all(feature = "framing", feature = "tls"))]
            Self::TranslatedTls(stream) => stream.inner_mut().inner_mut(),
            #[cfg(feature = "websocket")]
            Self::WebSocket(stream) => stream.inner_mut().inner_mut(),
            #[cfg(all(feature = "tls", feature = "websocket"))]
            Self::SecureWebSocket(stream) => stream.inner_mut().inner_mut().inner_mut(),
            #[cfg(any(test, feature = "testing"))]
            Self::Socketless(_) => unreachable!("no poll knows it"),
        }
    }
}

#[cfg(any(test, feature = "testing"))]
impl std::ops::Deref for Socketless {
    type Target = dyn Transport + Send;

    fn deref(&self) -> &Self::Target {
        &*self.transport
    }
}

#[cfg(any(test, feature = "testing"))]
impl std::ops::DerefMut for Socketless {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.transport
    }
}

#[cfg(any(test, feature = "testing"))]
impl std::fmt::Debug for Socketless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socketless").finish_non_exhaustive()
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl transport::PlainStream for TcpStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn poll_connected(&mut self) -> io::Result<bool> {
        if let Some(error) = self.take_error()? {
            return Err(error);
        }
        match self.peer_addr() {
            Ok(peer) if self.local_addr()? == peer => Err(refuse_itself(self)),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Transport for Stream {
    #[inline]
    fn read(&mut self, memory: &mut [u8]) -> Result<ReadOutcome, DisconnectReason> {
        transport!(self, transport => transport.read(memory))
    }

    #[inline]
    fn overhead_bytes(&self) -> usize {
        transport!(self, transport => transport.overhead_bytes())
    }

    #[inline]
    fn empty_frames(&self) -> usize {
        transport!(self, transport => transport.empty_frames())
    }

    #[inline]
    fn kept_bytes(&self) -> usize {
        transport!(self, transport => transport.kept_bytes())
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        transport!(self, transport => transport.write(bytes))
    }

    #[inline]
    fn min_write_bytes(&self) -> usize {
        transport!(self, transport => transport.min_write_bytes())
    }

    #[inline]
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        transport!(self, transport => transport.write_vectored(slices))
    }

    #[inline]
    fn buffered_bytes(&self) -> usize {
        transport!(self, transport => transport.buffered_bytes())
    }

    fn flush(&mut self) -> io::Result<Completion> {
        transport!(self, transport => transport.flush())
    }

    fn note_end(&mut self, reason: DisconnectReason) {
        transport!(self, transport => transport.note_end(reason));
    }

    fn shutdown_write(&mut self) -> io::Result<Completion> {
        transport!(self, transport => transport.shutdown_write())
    }

    fn ends_in_band(&self) -> bool {
        transport!(self, transport => transport.ends_in_band())
    }

    fn poll_connected(&mut self) -> io::Result<bool> {
        transport!(self, transport => transport.poll_connected())
    }

    fn needs_handshake(&self) -> bool {
        transport!(self, transport => transport.needs_handshake())
    }

    fn is_resumed(&self) -> bool {
        transport!(self, transport => transport.is_resumed())
    }

    fn kind(&self) -> TransportKind {
        transport!(self, transport => transport.kind())
    }

    fn handshake(&mut self) -> Result<HandshakeStep, DisconnectReason> {
        transport!(self, transport => transport.handshake())
    }
}

impl Source for Stream {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.socket_mut().register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.socket_mut().reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket_mut().deregister(registry)
    }
}

/// A connect to an ephemeral port of this machine on which no server listens may choose this port as its
/// own: the socket then connects to itself. For the caller, no server is there.
///
/// The close resets the connection: a port in TIME_WAIT would keep the server from its address.
fn refuse_itself(stream: &TcpStream) -> io::Error {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        log::debug!("no SO_LINGER for a socket that has connected to itself: {error}");
    }
    ErrorKind::ConnectionRefused.into()
}

/// An address has as many connections to one target as there are ephemeral ports; another address of
/// this machine has as many again.
fn connect_from(source: IpAddr, addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Err(error) = choose_port_at_connect(&socket) {
        log::debug!("no IP_BIND_ADDRESS_NO_PORT from {source}: {error}");
    }
    socket.bind(&SocketAddr::new(source, 0).into())?;
    match socket.connect(&addr.into()) {
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {}
        other => other?,
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// A port that is taken at `bind` is lost to every connection whose port the system chooses at
/// `connect`, of any address. A port that is chosen at `connect` has to be new together with both
/// addresses only, and a port that waits in TIME_WAIT may be used again.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn choose_port_at_connect(socket: &Socket) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
    Ok(setsockopt(socket, IpBindAddressNoPort, &true)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn choose_port_at_connect(_: &Socket) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn limit_unsent(stream: &TcpStream, config: &Config) -> io::Result<()> {
    match config.unsent_window_bytes {
        Some(bytes) => SockRef::from(stream).set_tcp_notsent_lowat(bytes),
        None => Ok(()),
    }
}

/// The kernel also counts a peer that is there and takes nothing. Therefore this timeout is not shorter
/// than the time that such a peer is given.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn limit_unacknowledged(stream: &TcpStream, config: &Config) -> io::Result<()> {
    match (config.unacknowledged_timeout, config.max_send_lag) {
        (Some(timeout), Some(lag)) => {
            SockRef::from(stream).set_tcp_user_timeout(Some(timeout.max(lag)))
        }
        _ => Ok(()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn limit_unsent(_: &TcpStream, _: &Config) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn limit_unacknowledged(_: &TcpStream, _: &Config) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// The kernel asks a silent peer by itself: where no byte is under way, no byte can stay unacknowledged.
fn set_keepalive(stream: &TcpStream, config: &Config) -> io::Result<()> {
    let Some(timeout) = config.unacknowledged_timeout else {
        return Ok(());
    };
    // The system counts whole seconds, at least one.
    let whole = |time: Duration| time.max(Duration::from_secs(1));
    let questions = TcpKeepalive::new()
        .with_time(whole(timeout))
        .with_interval(whole(timeout / KEEPALIVE_RETRIES))
        .with_retries(KEEPALIVE_RETRIES);
    SockRef::from(stream).set_tcp_keepalive(&questions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Connection;
    use std::net::TcpListener;

    #[cfg(not(any(feature = "framing", feature = "tls", feature = "websocket")))]
    #[test]
    fn stream_of_tcp_is_as_large_as_its_socket() {
        assert_eq!(size_of::<Stream>(), size_of::<TcpStream>());
    }

    /// A socket of mio has 4 bytes, and 16 in a build with debug assertions.
    #[test]
    fn connection_has_208_bytes_at_most_whatever_its_transport() {
        assert!(size_of::<Connection<Stream, ()>>() <= 208);
        assert!(size_of::<Stream>() <= 8 + size_of::<TcpStream>().max(8));
    }

    #[test]
    fn socket_that_has_connected_to_itself_is_refused_and_leaves_its_port_free() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        (socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())).unwrap();
        let own = socket.local_addr().unwrap();
        socket.connect(&own).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut stream = Stream::from(TcpStream::from_std(socket.into()));
        let error = stream.poll_connected().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        drop(stream);
        TcpListener::bind(own.as_socket().unwrap()).unwrap();
    }
}
