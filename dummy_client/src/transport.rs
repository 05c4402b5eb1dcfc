//! What carries the packets of a run: plain TCP, TLS, WebSocket, or WebSocket over TLS.

use crate::channel::Channel;
use crate::error::Error;
use server_core::host::{Addresses, parse_addrs};
use server_core::{ServerBuilder, TransportKind};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A server: `HOST:PORT`, `tls://HOST:PORT`, `ws://HOST:PORT/PATH` or `wss://HOST:PORT/PATH`.
///
/// ```
/// use dummy_client::Target;
/// let target: Target = "ws://127.0.0.1:7780/play".parse()?;
/// assert_eq!(target.kind(), server_core::TransportKind::WebSocket);
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug)]
pub struct Target {
    addrs: Addresses,
    kind: TransportKind,
    /// With its port.
    #[cfg_attr(
        not(any(feature = "tls", feature = "websocket")),
        expect(dead_code, reason = "the name is for TLS and for the upgrade")
    )]
    host: String,
    path: String,
}

/// The servers that a client of TLS trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Servers with a certificate of this authority: a file of certificates in PEM. Or with a certificate that is in
    /// the file.
    Ca(PathBuf),
    /// Any server: all between client and server can read and change everything. For tests.
    AnyServer,
}

/// The transport of all connections of a run. Default: plain TCP.
#[derive(Clone, Debug, Default)]
pub struct Transport {
    kind: TransportKind,
    #[cfg(feature = "tls")]
    tls: Option<server_core::TlsClientConfig>,
    /// With the request of an upgrade.
    #[cfg(feature = "websocket")]
    websocket: Option<(server_core::WebSocketTarget, String)>,
}

/// What the bytes of an attack go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layer {
    /// The whole transport of the run: the bytes are packets.
    #[default]
    Packets,
    /// TLS, if the run has TLS: the bytes are those of HTTP and of frames.
    Http,
    /// Nothing: the bytes are those of TCP.
    Tcp,
    /// The whole transport. No handshake of TLS continues an earlier session: each costs the server a signature.
    FullHandshakes,
    /// The whole transport, with one byte in each record of TLS.
    TinyRecords,
    /// The same, with 32 updates of the keys before each record: more than that in a row ends a connection.
    KeyUpdates,
}

/// Updates of the keys that a server of TLS takes in a row.
#[cfg(feature = "tls")]
const KEY_UPDATES: usize = 32;

impl Layer {
    /// Whether the bytes are packets.
    #[cfg(feature = "websocket")]
    fn has_packets(self) -> bool {
        !matches!(self, Self::Http | Self::Tcp)
    }

    /// Whether an attack on this layer is one on TLS.
    #[must_use]
    pub fn is_of_tls(self) -> bool {
        !matches!(self, Self::Packets | Self::Http)
    }
}

impl Target {
    /// The addresses of the name.
    #[must_use]
    pub fn addrs(&self) -> &Addresses {
        &self.addrs
    }

    /// The transport.
    #[must_use]
    pub fn kind(&self) -> TransportKind {
        self.kind
    }

    /// The same server with TLS.
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        self.kind = match self.kind {
            TransportKind::Tcp => TransportKind::Tls,
            TransportKind::WebSocket => TransportKind::SecureWebSocket,
            kind => kind,
        };
        self
    }

    /// The same server with WebSocket.
    #[must_use]
    pub fn with_websocket(mut self) -> Self {
        self.kind = match self.kind {
            TransportKind::Tcp => TransportKind::WebSocket,
            TransportKind::Tls => TransportKind::SecureWebSocket,
            kind => kind,
        };
        self
    }

    /// The transport to this server.
    ///
    /// # Errors
    /// TLS without a trust, or a trust without TLS; the file of the certificates cannot be read; this build lacks the
    /// feature. The message is for the user. Exit status 2.
    pub fn transport(&self, trust: Option<&Trust>) -> Result<Transport, Error> {
        let (has_tls, has_websocket) = layers(self.kind);
        let mut transport = Transport {
            kind: self.kind,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "websocket")]
            websocket: None,
        };
        match trust {
            None if has_tls => {
                let error = "TLS needs the certificates to trust (--ca PEM), or --insecure";
                return Err(Error::usage(error));
            }
            Some(_) if !has_tls => {
                let error = "the certificates to trust are of TLS: tls:// or wss://";
                return Err(Error::usage(error));
            }
            Some(trust) => transport.set_tls(self, trust)?,
            None => {}
        }
        if has_websocket {
            transport.set_websocket(self)?;
        } else if self.path != "/" {
            let error = format!("the path {} is of ws:// or wss://", self.path);
            return Err(Error::usage(error));
        }
        Ok(transport)
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = match text.split_once("://") {
            None => (TransportKind::Tcp, text),
            Some(("tls", rest)) => (TransportKind::Tls, rest),
            Some(("ws", rest)) => (TransportKind::WebSocket, rest),
            Some(("wss", rest)) => (TransportKind::SecureWebSocket, rest),
            Some((other, _)) => {
                return Err(format!("{other}:// is not tls://, ws:// or wss://"));
            }
        };
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Ok(Self {
            addrs: parse_addrs(host)?,
            kind,
            host: host.into(),
            path: if path.is_empty() { "/" } else { path }.into(),
        })
    }
}

impl Transport {
    /// The kind.
    #[must_use]
    pub fn kind(&self) -> TransportKind {
        self.kind
    }

    /// Whether it has TLS.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        layers(self.kind).0
    }

    /// Whether it has WebSocket.
    #[must_use]
    pub fn has_websocket(&self) -> bool {
        layers(self.kind).1
    }

    /// A server, as reports and log lines name it.
    pub(crate) fn name(&self, addr: SocketAddr) -> String {
        match self.kind {
            TransportKind::Tcp => addr.to_string(),
            kind => format!("{}://{addr}", kind.label()),
        }
    }

    #[cfg(feature = "tls")]
    fn set_tls(&mut self, target: &Target, trust: &Trust) -> Result<(), Error> {
        use server_core::TlsClientConfig;
        let config = match trust {
            Trust::Ca(file) => TlsClientConfig::with_ca_file(file),
            Trust::AnyServer => TlsClientConfig::insecure(),
        };
        let (name, _) = target.host.rsplit_once(':').unwrap_or((&target.host, ""));
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let config = config.and_then(|config| config.server_name(name));
        let config = config.map_err(|error| Error::usage(error.to_string()))?;
        self.tls = Some(match layers(target.kind) {
            (_, true) => config.for_websocket(),
            (_, false) => config,
        });
        Ok(())
    }

    #[cfg(not(feature = "tls"))]
    fn set_tls(&mut self, _: &Target, _: &Trust) -> Result<(), Error> {
        Err(Error::usage("TLS needs a build with --features tls"))
    }

    #[cfg(feature = "websocket")]
    fn set_websocket(&mut self, target: &Target) -> Result<(), Error> {
        let websocket = server_core::WebSocketTarget::new(&target.host, &target.path);
        let invalid = |error| Error::usage(format!("{}{}: {error}", target.host, target.path));
        let websocket = websocket.map_err(invalid)?;
        let request = crate::channel::websocket::request(&target.host, &target.path);
        self.websocket = Some((websocket, request));
        Ok(())
    }

    #[cfg(not(feature = "websocket"))]
    fn set_websocket(&mut self, _: &Target) -> Result<(), Error> {
        let error = "WebSocket needs a build with --features websocket";
        Err(Error::usage(error))
    }

    /// Sets the transport of the connections.
    pub(crate) fn apply(&self, builder: ServerBuilder) -> ServerBuilder {
        #[cfg(feature = "tls")]
        let builder = builder.client_tls(self.tls.clone());
        #[cfg(feature = "websocket")]
        let builder = builder.client_websocket(self.websocket.as_ref().map(|one| one.0.clone()));
        builder
    }

    /// A connection over this socket, before its handshake.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub(crate) fn over<S: Read + Write>(
        &self,
        stream: S,
        server: IpAddr,
        layer: Layer,
    ) -> io::Result<Channel<S>> {
        let channel = Channel::Tcp(stream);
        #[cfg(feature = "tls")]
        let channel = match (&self.tls, channel) {
            (Some(tls), Channel::Tcp(stream)) if layer != Layer::Tcp => {
                let stream = match layer {
                    Layer::FullHandshakes => tls.clone().without_tickets().over(stream, server)?,
                    _ => tls.over(stream, server)?,
                };
                Channel::Tls(Box::new(match layer {
                    Layer::TinyRecords => stream.with_costly_records(1, 0),
                    Layer::KeyUpdates => stream.with_costly_records(1, KEY_UPDATES),
                    _ => stream,
                }))
            }
            (_, channel) => channel,
        };
        #[cfg(feature = "websocket")]
        let channel = match &self.websocket {
            Some((_, request)) if layer.has_packets() => Channel::websocket(channel, request),
            _ => channel,
        };
        let _ = (server, layer);
        Ok(channel)
    }

    /// A connection whose handshake is complete. Reads and writes take this long at the most.
    ///
    /// # Errors
    /// No connection, or its handshake failed: the text says why.
    pub(crate) fn open(
        &self,
        addr: SocketAddr,
        timeout: Duration,
    ) -> io::Result<Channel<TcpStream>> {
        let stream = TcpStream::connect_timeout(&addr, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let mut channel = self.over(stream, addr.ip(), Layer::Packets)?;
        channel.handshake()?;
        Ok(channel)
    }
}

/// Whether a transport has TLS, and whether it has WebSocket.
fn layers(kind: TransportKind) -> (bool, bool) {
    let has_tls = matches!(kind, TransportKind::Tls | TransportKind::SecureWebSocket);
    let has_websocket = matches!(
        kind,
        TransportKind::WebSocket | TransportKind::SecureWebSocket
    );
    (has_tls, has_websocket)
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ca(file) => file.display().fmt(f),
            Self::AnyServer => f.write_str("any server"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_a_transport_an_address_and_a_path() {
        use TransportKind::{SecureWebSocket, Tcp, Tls, WebSocket};
        for (text, kind, path) in [
            ("127.0.0.1:7777", Tcp, "/"),
            ("tls://127.0.0.1:7777", Tls, "/"),
            ("ws://[::1]:7777", WebSocket, "/"),
            (
                "wss://127.0.0.1:7777/play?a=b",
                SecureWebSocket,
                "/play?a=b",
            ),
        ] {
            let target: Target = text.parse().expect(text);
            assert_eq!((target.kind(), &target.path[..]), (kind, path), "{text}");
            assert_eq!(target.addrs().first().port(), 7777, "{text}");
        }
        for text in [
            "",
            "tls://",
            "http://127.0.0.1:7777",
            "ws://127.0.0.1",
            "tls:127.0.0.1:1",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
        let plain: Target = "127.0.0.1:7777".parse().expect("an address");
        assert_eq!(
            plain.clone().with_tls().with_websocket().kind(),
            SecureWebSocket
        );
        assert_eq!(plain.with_websocket().with_tls().kind(), SecureWebSocket);
    }

    #[test]
    fn transport_needs_its_feature_and_tls_its_trust() {
        let transport = |text: &str, trust: Option<Trust>| {
            let target: Target = text.parse().expect(text);
            let transport = target.transport(trust.as_ref());
            transport.map_err(|error| (error.exit_status, error.message))
        };
        let error = |text, trust| transport(text, trust).expect_err(text);
        assert!(transport("127.0.0.1:1", None).is_ok());
        assert!(error("127.0.0.1:1/play", None).1.contains("ws://"));
        assert!(
            error("127.0.0.1:1", Some(Trust::AnyServer))
                .1
                .contains("tls://")
        );
        let (status, text) = error("tls://127.0.0.1:1", None);
        assert!(status == 2 && text.contains("--ca PEM"), "{text}");
        let missing = Trust::Ca("/nonexistent/ca.pem".into());
        let secure = transport("tls://127.0.0.1:1", Some(Trust::AnyServer));
        if cfg!(feature = "tls") {
            assert_eq!(secure.expect("TLS").kind(), TransportKind::Tls);
            let (_, text) = error("tls://127.0.0.1:1", Some(missing));
            assert!(text.contains("/nonexistent/ca.pem"), "{text}");
        } else {
            assert!(secure.expect_err("no TLS").1.contains("--features tls"));
        }
        let websocket = transport("ws://127.0.0.1:1/play", None);
        assert_eq!(websocket.is_ok(), cfg!(feature = "websocket"));
    }
}
