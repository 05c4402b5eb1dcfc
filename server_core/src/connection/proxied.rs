//! A connection of a trusted proxy, until its PROXY header has come. It is not a session yet: no permit, no
//! framer, no object of the user.

use crate::base::cidr::Cidr;
use crate::base::config::Config;
use crate::base::reason::DisconnectReason;
use crate::protocol::proxy_header::{ProxiedPeer, ProxyHeader, ProxyHeaderError};
use crate::transport::{ReadOutcome, Transport};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A stream whose first bytes are the header of a proxy.
#[derive(Debug)]
pub struct Proxied<T> {
    stream: T,
    proxy: SocketAddr,
    header: ProxyHeader,
    deadline: Instant,
}

/// Why a connection of a proxy ends before it has a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPeer {
    /// The stream has ended, or failed.
    Ended(DisconnectReason),
    /// The bytes are not a header.
    Invalid(ProxyHeaderError),
    /// The header is not complete within [`LONGEST_WAIT`].
    TimedOut,
    /// It was the oldest of more than the server keeps.
    Evicted,
}

/// The longest time from accept to the last byte of a header. A stall of this process is added.
pub const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Whether connections of this address begin with a PROXY header.
#[must_use]
pub fn is_trusted(proxies: &[Cidr], peer: SocketAddr) -> bool {
    proxies.iter().any(|network| network.contains(peer.ip()))
}

impl<T: Transport> Proxied<T> {
    /// A connection that was accepted from this proxy at `now`.
    #[must_use]
    pub fn new(stream: T, proxy: SocketAddr, config: &Config, now: Instant) -> Self {
        let wait = (config.handshake_timeout).map_or(LONGEST_WAIT, |time| time.min(LONGEST_WAIT));
        Self {
            stream,
            proxy,
            header: ProxyHeader::default(),
            deadline: now + wait,
        }
    }

    /// Reads as much of the header as has come, and no byte behind it. Returns the peer when the header is
    /// complete. `None`: an edge announces more bytes, or the deadline passes.
    ///
    /// # Errors
    /// Why the connection has to end. At the deadline the socket is read once more before.
    pub fn advance(&mut self, now: Instant) -> Result<Option<SocketAddr>, NoPeer> {
        let mut memory = [0; ProxyHeader::MAX_BYTES];
        loop {
            let missing = self.header.missing_bytes().min(memory.len());
            let count = match self.stream.read(&mut memory[..missing]) {
                Ok(ReadOutcome::Bytes(count)) => count,
                Ok(ReadOutcome::Blocked) if self.deadline <= now => return Err(NoPeer::TimedOut),
                Ok(ReadOutcome::Blocked) => return Ok(None),
                Ok(ReadOutcome::Closed) => return Err(NoPeer::Ended(DisconnectReason::PeerClosed)),
                Err(reason) => return Err(NoPeer::Ended(reason)),
            };
            match self.header.push(&mut &memory[..count]) {
                Ok(None) => {}
                Ok(Some(ProxiedPeer::Client(addr))) => return Ok(Some(addr)),
                Ok(Some(ProxiedPeer::Proxy)) => return Ok(Some(self.proxy)),
                Err(error) => return Err(NoPeer::Invalid(error)),
            }
        }
    }

    /// When the wait for the header is over.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Waits for the header until `at`, if the deadline is earlier.
    pub fn wait_until(&mut self, at: Instant) {
        self.deadline = self.deadline.max(at);
    }

    /// The address of the proxy.
    #[must_use]
    pub fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// The stream, for registering it.
    pub fn stream_mut(&mut self) -> &mut T {
        &mut self.stream
    }

    /// The stream, whose next byte is the first of the peer.
    #[must_use]
    pub fn into_stream(self) -> T {
        self.stream
    }
}

impl NoPeer {
    /// The reason by which the end is counted.
    #[must_use]
    pub fn reason(self) -> DisconnectReason {
        match self {
            Self::Ended(reason) => reason,
            Self::Invalid(_) | Self::TimedOut | Self::Evicted => DisconnectReason::Handshake,
        }
    }
}

impl fmt::Display for NoPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(reason) => write!(f, "no PROXY header: {reason}"),
            Self::Invalid(error) => error.fmt(f),
            Self::TimedOut => f.write_str("the PROXY header is not complete in time"),
            Self::Evicted => f.write_str("too many connections wait for their PROXY header"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakePeer, FakeStream};

    const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 50000 7777\r\n";

    fn proxied(now: Instant) -> (Proxied<FakeStream>, FakePeer) {
        let (stream, peer) = FakeStream::pair();
        let proxy = "10.0.0.1:4000".parse().unwrap();
        (Proxied::new(stream, proxy, &Config::default(), now), peer)
    }

    #[test]
    fn header_in_pieces_names_the_peer_and_leaves_the_bytes_behind_it() {
        let now = Instant::now();
        let (mut proxied, peer) = proxied(now);
        for byte in &LINE[..LINE.len() - 1] {
            assert_eq!(proxied.advance(now), Ok(None));
            peer.send(&[*byte]);
        }
        assert_eq!(proxied.advance(now), Ok(None));
        peer.send(b"\n\x04\0\x02\0");
        assert_eq!(
            proxied.advance(now),
            Ok(Some("192.0.2.7:50000".parse().unwrap()))
        );
        let mut behind = [0; 16];
        let read = proxied.into_stream().read(&mut behind);
        assert_eq!(
            (read, &behind[..4]),
            (Ok(ReadOutcome::Bytes(4)), &[4, 0, 2, 0][..])
        );
    }

    #[test]
    fn health_check_keeps_the_address_of_the_proxy() {
        let now = Instant::now();
        let (mut proxied, peer) = proxied(now);
        peer.send(b"PROXY UNKNOWN\r\n");
        assert_eq!(proxied.advance(now), Ok(Some(proxied.proxy())));
    }

    #[test]
    fn bytes_in_the_socket_are_read_before_the_deadline_counts() {
        let now = Instant::now();
        let (mut proxied, peer) = proxied(now);
        let late = proxied.deadline();
        assert_eq!(late, now + LONGEST_WAIT);
        peer.send(&LINE[..10]);
        assert_eq!(proxied.advance(late - Duration::from_nanos(1)), Ok(None));
        assert_eq!(proxied.advance(late), Err(NoPeer::TimedOut));
        peer.send(&LINE[10..]);
        assert!(matches!(proxied.advance(late), Ok(Some(_))));
    }

    #[test]
    fn each_end_has_its_reason() {
        let now = Instant::now();
        let (mut closed, peer) = proxied(now);
        peer.send(&LINE[..10]);
        peer.finish();
        let end = closed.advance(now).unwrap_err();
        assert_eq!(end.reason(), DisconnectReason::PeerClosed);
        let (mut invalid, peer) = proxied(now);
        peer.send(&[4, 0, 2, 0]);
        let end = invalid.advance(now).unwrap_err();
        assert_eq!(end, NoPeer::Invalid(ProxyHeaderError::NotAHeader));
        assert_eq!(end.reason(), DisconnectReason::Handshake);
    }
}
