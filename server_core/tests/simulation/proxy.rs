//! Connections of a trusted proxy: each begins with a PROXY header, which is valid or not, in pieces of any size.

use crate::driver::Sim;
use crate::transport::{Accepted, Layers};
use crate::wire::PeerEnd;
use server_core::connection::proxied::{LONGEST_WAIT, NoPeer, Proxied};
use server_core::testing::{FakePeer, FakeStream};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

/// The address of the proxy.
pub const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// What a proxy sends before the bytes of its client.
#[derive(Debug)]
pub struct Header {
    /// The bytes that it has not sent.
    unsent: Vec<u8>,
    /// The header has no end: nothing follows it.
    is_cut: bool,
    /// The address of the session: that of the peer, or of the client that the header names. `None`: the header is
    /// not valid, and there is no session.
    pub names: Option<SocketAddr>,
}

/// An accepted connection whose header has not come.
pub struct WaitingForHeader {
    proxied: Proxied<FakeStream>,
    peer: usize,
    end: PeerEnd,
    layers: Layers,
    accepted_at: Instant,
}

impl Header {
    /// A peer without a proxy.
    pub fn none(peer: SocketAddr) -> Self {
        Self {
            unsent: Vec::new(),
            is_cut: false,
            names: Some(peer),
        }
    }

    /// Sends a part of the header, or all of it. Returns whether the bytes of the client may follow.
    pub fn send(&mut self, end: &FakePeer, all: bool, rng: &mut fastrand::Rng) -> bool {
        let count = if all {
            self.unsent.len()
        } else {
            rng.usize(..=self.unsent.len())
        };
        let mut state = end.state();
        if !state.has_sent_fin {
            state.input.extend(self.unsent.drain(..count));
            if self.is_cut && self.unsent.is_empty() && rng.u32(..8) == 0 {
                state.has_sent_fin = true;
            }
        }
        self.unsent.is_empty() && !self.is_cut
    }
}

/// A header of this proxy: of either version, for a client or for the proxy itself, or an invalid one, or none.
pub fn header(proxy: SocketAddr, rng: &mut fastrand::Rng) -> Header {
    let client = match rng.bool() {
        true => SocketAddr::from(([192, 0, 2, rng.u8(..)], rng.u16(..))),
        false => SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, rng.u16(..)], rng.u16(..))),
    };
    let (mut unsent, mut names) = match (rng.u32(..5), client) {
        (0, _) => (b"PROXY UNKNOWN\r\n".to_vec(), Some(proxy)),
        (1, _) => (version_2(0x20, 0, &[]), Some(proxy)),
        (2, _) => (version_1(client), Some(client)),
        (_, SocketAddr::V4(addr)) => {
            let ends = [addr.ip().octets(), [10, 0, 0, 1]].concat();
            (
                version_2(0x21, 0x11, &with_ports(ends, client)),
                Some(client),
            )
        }
        (_, SocketAddr::V6(addr)) => {
            let ends = [addr.ip().octets(), [7; 16]].concat();
            (
                version_2(0x21, 0x21, &with_ports(ends, client)),
                Some(client),
            )
        }
    };
    let mut is_cut = false;
    match rng.u32(..8) {
        0 => {
            unsent.truncate(rng.usize(..unsent.len()));
            (is_cut, names) = (true, None);
        }
        // The last byte of a signature, which both versions have at other places.
        1 => {
            let at = if unsent[0] == b'P' { 5 } else { 11 };
            (unsent[at], names) = (b'?', None);
        }
        2 => (unsent, names) = (Vec::new(), None),
        _ => {}
    }
    Header {
        unsent,
        is_cut,
        names,
    }
}

fn version_1(client: SocketAddr) -> Vec<u8> {
    let (family, own) = match client {
        SocketAddr::V4(_) => ("TCP4", "10.0.0.1"),
        SocketAddr::V6(_) => ("TCP6", "2001:db8::1"),
    };
    let (ip, port) = (client.ip(), client.port());
    format!("PROXY {family} {ip} {own} {port} 7777\r\n").into_bytes()
}

fn version_2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let length = (addresses.len() as u16).to_be_bytes();
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    [&signature[..], &[command, family], &length, addresses].concat()
}

fn with_ports(mut addresses: Vec<u8>, client: SocketAddr) -> Vec<u8> {
    addresses.extend(client.port().to_be_bytes());
    addresses.extend(7777_u16.to_be_bytes());
    addresses
}

impl Sim {
    /// Adds a connection that the proxy has made.
    pub fn await_header(&mut self, accepted: Accepted, proxy: SocketAddr) {
        let Accepted {
            peer,
            stream,
            end,
            layers,
        } = accepted;
        end.watch();
        self.proxied.push(WaitingForHeader {
            proxied: Proxied::new(stream, proxy, &self.config, self.now),
            peer,
            end,
            layers,
            accepted_at: self.now,
        });
    }

    /// Whether the poll of the listener has an event of such a connection, or its time is over.
    pub fn has_proxied_due(&self) -> bool {
        let mut proxied = self.proxied.iter();
        proxied.any(|one| one.end.notes().edges.readable || one.proxied.deadline() <= self.now)
    }

    /// Reads the headers that have come, as `listener.rs` does.
    pub fn advance_proxied(&mut self) {
        for mut one in std::mem::take(&mut self.proxied) {
            let has_edge = std::mem::take(&mut one.end.notes().edges.readable);
            if !has_edge && self.now < one.proxied.deadline() {
                self.proxied.push(one);
                continue;
            }
            match one.proxied.advance(self.now) {
                Ok(None) => self.proxied.push(one),
                Ok(Some(client)) => {
                    self.coverage.headers += 1;
                    let accepted = Accepted {
                        peer: one.peer,
                        stream: one.proxied.into_stream(),
                        end: one.end,
                        layers: one.layers,
                    };
                    self.receive(accepted.into(), client);
                }
                Err(end) => self.check_without_peer(&one, end),
            }
        }
    }

    /// Checks why a connection of the proxy has ended without a session.
    fn check_without_peer(&mut self, one: &WaitingForHeader, end: NoPeer) {
        let header = &self.peers[one.peer].header;
        let state = one.end.state();
        let is_explained = match end {
            NoPeer::Invalid(_) => {
                self.coverage.invalid_headers += 1;
                header.names.is_none() && !header.is_cut
            }
            NoPeer::TimedOut => {
                self.coverage.late_headers += 1;
                // A fickle stream may block at the last read although the header has come.
                let has_come = header.names.is_some() && header.unsent.is_empty();
                self.now >= one.accepted_at + LONGEST_WAIT
                    && (!has_come || self.is_fickle || self.coverage.clock_jumps > 0)
            }
            NoPeer::Ended(_) => state.has_sent_fin || state.broken.is_some(),
            NoPeer::Evicted => false,
        };
        if !is_explained {
            let text = format!("a connection of the proxy has ended: {end}; {header:?}");
            self.offences.push(text);
        }
    }
}
