//! The peers: each does things right or wrong, at random.

use crate::proxy::Header;
use crate::seen::Seen;
use crate::transport::{self, HandshakeKind, PeerLayers};
use crate::wire::PeerEnd;
use crate::world::{C_BAD_PAYLOAD, C_ECHO};
use server_core::testing::{Connect, header, packet};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

pub const MAX_PACKET_BYTES: usize = 8_192;

/// The kind of a peer: what it does right or wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Healthy,
    BadSize,
    TooLarge,
    UnknownId,
    BadPayload,
    /// Sends a frame that breaks a rule of the protocol, or without frames a bad payload.
    BadFrame,
    /// Sends a record that breaks the protocol, or without records a bad payload. It reads nothing for a while
    /// before, or reads on.
    BadRecord,
    /// Begins a packet and never ends it.
    Stall,
    /// Sends nothing at all.
    Silent,
    /// Sends, and reads nothing beyond its first window.
    NoRead,
    /// Ends its write side, and continues to read.
    HalfClose,
    /// Ends its write side, and stops reading.
    Leaver,
    /// Has a connection that fails with this error.
    Breaks(ErrorKind),
    /// Healthy, until a call of the server meets an error. It may be any call, in any step of a turn.
    Resets,
    /// Healthy, but never answers a FIN.
    Ghost,
}

pub const TROUBLE: &[Kind] = &[
    Kind::BadSize,
    Kind::TooLarge,
    Kind::UnknownId,
    Kind::BadPayload,
    Kind::BadFrame,
    Kind::BadRecord,
    Kind::BadRecord,
    Kind::Stall,
    Kind::Silent,
    Kind::NoRead,
    Kind::HalfClose,
    Kind::Leaver,
    Kind::Breaks(ErrorKind::ConnectionReset),
    Kind::Breaks(ErrorKind::BrokenPipe),
    Kind::Breaks(ErrorKind::TimedOut),
    Kind::Breaks(ErrorKind::HostUnreachable),
    Kind::Ghost,
    Kind::Resets,
    Kind::Resets,
];

pub struct PeerSide {
    pub end: PeerEnd,
    /// What its proxy sends first.
    pub header: Header,
    pub kind: Kind,
    pub is_outgoing: bool,
    /// The result of a connect by the server: connected or refused. `None`: the connect never ends.
    pub fate: Option<Connect>,
    pub to_send: Vec<u8>,
    /// Whole echoes that the peer has put before any offence.
    pub echoes: u64,
    pub has_offended: bool,
    pub arrived_at: Instant,
    /// When the peer last sent all of `to_send`.
    pub sent_at: Instant,
    pub read_at: Instant,
    /// Whether its last bytes may be missing: the clock jumped over its flush deadline.
    pub may_be_cut: bool,
    /// The packets that it has read so far.
    pub seen: Seen,
    /// The layers between its packets and its connection, if there are any.
    pub layers: Option<PeerLayers>,
    /// The server translates the framing of this connection.
    pub is_translated: bool,
}

impl PeerSide {
    pub fn reads(&self) -> bool {
        match self.kind {
            Kind::NoRead => false,
            Kind::Leaver => !self.has_offended,
            _ => true,
        }
    }

    /// Whether its part of a handshake is never complete.
    pub fn stalls_handshake(&self) -> bool {
        let is_healthy =
            (self.layers.as_ref()).is_some_and(|layers| layers.handshake == HandshakeKind::Healthy);
        !is_healthy || self.kind == Kind::Silent || !self.reads()
    }

    pub fn is_well_behaved(&self) -> bool {
        matches!(self.kind, Kind::Healthy | Kind::Ghost | Kind::Resets)
    }

    pub fn put_echo(&mut self, rng: &mut fastrand::Rng) {
        // A fickle stream gives a few bytes at a time: a large packet would really be late.
        let large = if self.end.state().cuts.is_some() {
            300
        } else {
            3_000
        };
        let bytes = if rng.u32(..30) == 0 { large } else { 60 };
        let payload = vec![7_u8; rng.usize(..bytes)];
        self.put_packet(C_ECHO, &payload);
        self.echoes += 1;
    }

    pub fn put_packet(&mut self, id: u16, payload: &[u8]) {
        self.to_send.extend(packet(id, payload));
    }

    /// Puts the offence of the peer's kind behind everything that the peer did right.
    pub fn offend(&mut self, rng: &mut fastrand::Rng) {
        self.has_offended = true;
        let is_framed = (self.layers.as_ref()).is_some_and(|layers| layers.layers.is_framed);
        let is_sealed = (self.layers.as_ref()).is_some_and(|layers| layers.layers.is_sealed);
        match self.kind {
            Kind::BadFrame if !is_framed => self.put_packet(C_BAD_PAYLOAD, b"x"),
            Kind::BadRecord if !is_sealed => self.put_packet(C_BAD_PAYLOAD, b"x"),
            Kind::BadSize => self.to_send.extend([rng.u8(..4), 0, 10, 0]),
            Kind::TooLarge => {
                let size = rng.u16(MAX_PACKET_BYTES as u16 + 1..);
                self.to_send.extend(header(size, C_ECHO));
            }
            Kind::UnknownId => self.put_packet(*rng.choice(&[0, 1, 9, 12, 65_535]).unwrap(), b"x"),
            Kind::BadPayload => self.put_packet(C_BAD_PAYLOAD, b"x"),
            Kind::Stall => self
                .to_send
                .extend_from_slice(&[100, 0, 10, 0, 1][..rng.usize(1..=5)]),
            _ => {}
        }
        if matches!(
            self.kind,
            Kind::BadSize | Kind::TooLarge | Kind::UnknownId | Kind::BadPayload
        ) {
            // The server must not handle these packets, which follow an offence.
            let behind = rng.usize(..3);
            for _ in 0..behind {
                self.put_packet(C_ECHO, b"never");
            }
        }
        self.transmit(self.to_send.len(), rng);
        if matches!(self.kind, Kind::HalfClose | Kind::Leaver)
            && let Some(layers) = &mut self.layers
            && rng.bool()
        {
            self.end.send(&layers.end(rng));
        }
        if let (Kind::BadFrame, Some(layers)) = (self.kind, &mut self.layers)
            && is_framed
        {
            self.end.send(&layers.broken_frame(rng));
        }
        if self.kind == Kind::BadRecord && is_sealed {
            self.end.send(&transport::broken_record());
        }
        let mut state = self.end.state();
        match self.kind {
            Kind::HalfClose => state.has_sent_fin = true,
            Kind::Leaver => (state.has_sent_fin, state.room) = (true, 0),
            Kind::Breaks(kind) => state.broken = Some(kind),
            _ => {}
        }
    }

    pub fn transmit(&mut self, count: usize, rng: &mut fastrand::Rng) {
        if self.end.state().has_sent_fin {
            return;
        }
        let bytes: Vec<u8> = self.to_send.drain(..count).collect();
        match &mut self.layers {
            Some(layers) => {
                if rng.u32(..6) == 0 {
                    self.end.send(&layers.ping(rng));
                }
                self.end.send(&layers.wrap(&bytes, rng));
            }
            None => self.end.send(&bytes),
        }
    }

    /// A ping that no packet follows.
    pub fn ping(&mut self, rng: &mut fastrand::Rng) {
        let may_ping = !self.has_offended && !self.end.state().has_sent_fin;
        if let Some(layers) = self.layers.as_mut().filter(|_| may_ping)
            && layers.may_send()
        {
            self.end.send(&layers.ping(rng));
        }
    }

    /// The peer's part of a handshake, if there is one. Returns whether packets may follow.
    fn shake_hands(&mut self) -> bool {
        let Some(layers) = &mut self.layers else {
            return true;
        };
        if self.kind != Kind::Silent {
            layers.step(&self.end);
        }
        layers.may_send()
    }

    pub fn step(&mut self, now: Instant, rng: &mut fastrand::Rng) {
        let (is_dropped, connect) = {
            let state = self.end.state();
            (state.is_dropped, state.connect)
        };
        if is_dropped || connect == Connect::Refused {
            return;
        }
        if connect == Connect::Pending {
            if rng.u32(..4) == 0 {
                self.finish_connect(now);
            }
            return;
        }
        let late = Duration::from_millis(300);
        let due = now >= self.sent_at + late;
        if !self.header.send(&self.end, due, rng) {
            self.end.raise_edges();
            return;
        }
        if self.kind == Kind::BadRecord && !self.has_offended {
            // What it takes of its first answers is little, so that its offence finds a record that is cut.
            let mut state = self.end.state();
            state.room = state.room.min(rng.usize(..1_000));
        }
        if self.reads() && (rng.bool() || now >= self.read_at + late) {
            self.end.state().room = if rng.bool() {
                1 << 20
            } else {
                rng.usize(..4_000)
            };
            self.read_at = now;
        }
        if self.shake_hands() && !self.has_offended && self.kind != Kind::Silent {
            if due || rng.u32(..3) == 0 {
                self.put_echo(rng);
            }
            if !self.is_well_behaved() && self.kind != Kind::NoRead && rng.u32(..15) == 0 {
                self.offend(rng);
            }
            let count = if due {
                self.to_send.len()
            } else {
                rng.usize(..=self.to_send.len())
            };
            if count == self.to_send.len() {
                self.sent_at = now;
            }
            self.transmit(count, rng);
        }
        self.answer_fin();
        if rng.u32(..10) < 7 {
            self.end.raise_edges();
        }
    }

    /// Does everything that a healthy peer would have done in the meantime.
    pub fn catch_up(&mut self, now: Instant, rng: &mut fastrand::Rng) {
        {
            let mut state = self.end.state();
            state.cuts = None;
            if self.reads() && state.connect == Connect::Connected {
                state.room = 16 << 20;
                self.read_at = now;
            }
        }
        let may_send = self.end.state().connect == Connect::Connected
            && self.header.send(&self.end, true, rng)
            && self.shake_hands();
        if may_send && !self.has_offended && self.kind != Kind::Silent {
            self.put_echo(rng);
            self.transmit(self.to_send.len(), rng);
            self.sent_at = now;
        }
        self.answer_fin();
        self.end.raise_edges();
    }

    /// Ends a pending connect of the server with the peer's `fate`, if it has one.
    pub fn finish_connect(&mut self, now: Instant) {
        let is_pending = self.end.state().connect == Connect::Pending;
        if let Some(fate) = self.fate.filter(|_| is_pending) {
            // The connection may become readable first and writable later: mio promises no order.
            self.end.state().connect = fate;
            (self.sent_at, self.read_at) = (now, now);
            self.end.raise_edges();
        }
    }

    pub fn answer_fin(&mut self) {
        let mut state = self.end.state();
        if state.has_received_fin && self.kind != Kind::Ghost && self.reads() {
            state.has_sent_fin = true;
        }
    }
}
