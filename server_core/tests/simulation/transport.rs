//! Transports over the fake connection: fake records as of TLS, the real upgrade and frames of WebSocket, both, or
//! none; and the real translation of framings over packets or records.
//!
//! A *record* is the sealed form of one write: the peer can open a record when it is complete. A handshake of
//! two steps comes before the first record of packets, and a record that ends the stream comes after the
//! last.

use crate::wire::PeerEnd;
use server_core::protocol::codec::{Codec, Decoded};
use server_core::protocol::websocket::WebSocket;
use server_core::testing::{FakePeer, FakeStream, FakeTls};
use server_core::transport::{
    Completion, Framed, HandshakeStep, ReadOutcome, Tls, Translated, Transport, Upgrade,
};
use server_core::{DisconnectReason, Framing, SessionId, WebSocketServerConfig};
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, PoisonError};

/// Which layers a connection has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    pub is_sealed: bool,
    pub is_framed: bool,
    /// Packets go through the translation of framings, from the native framing to itself: the peer sees no
    /// difference. Without frames only.
    pub is_translated: bool,
}

impl Layers {
    pub fn any(self) -> bool {
        self.is_sealed || self.is_framed
    }
}

/// A connection as it is accepted: the layers come behind the header of a proxy.
#[derive(Debug)]
pub struct Accepted {
    /// The place of its peer.
    pub peer: usize,
    pub stream: FakeStream,
    pub end: PeerEnd,
    pub layers: Layers,
}

/// The server's end of a connection: any of the transports.
pub struct SimStream {
    transport: Box<dyn Transport + Send>,
    end: PeerEnd,
    /// The lengths of the runs that the codec has begun.
    runs: Runs,
}

type Runs = Arc<Mutex<Vec<usize>>>;

impl std::fmt::Debug for SimStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimStream").finish_non_exhaustive()
    }
}

impl From<Accepted> for SimStream {
    fn from(accepted: Accepted) -> Self {
        Self::new(accepted.stream, accepted.end, accepted.layers)
    }
}

impl SimStream {
    fn new(stream: FakeStream, end: PeerEnd, layers: Layers) -> Self {
        let runs = Runs::default();
        let codec = RecordedFrames {
            codec: WebSocket::server(),
            runs: Arc::clone(&runs),
        };
        let config = WebSocketServerConfig::default();
        let native = Framing::NATIVE;
        let transport: Box<dyn Transport + Send> = match (layers.is_sealed, layers.is_framed) {
            (false, false) if layers.is_translated => Box::new(Translated::new(stream, native)),
            (false, false) => Box::new(stream),
            (true, false) if layers.is_translated => {
                Box::new(Translated::new(Sealed::new(stream, end.clone()), native))
            }
            (true, false) => Box::new(Sealed::new(stream, end.clone())),
            (false, true) => Box::new(Framed::new(Upgrade::server(stream, &config), codec)),
            (true, true) => {
                let sealed = Sealed::new(stream, end.clone());
                Box::new(Framed::new(Upgrade::server(sealed, &config), codec))
            }
        };
        Self {
            transport,
            end,
            runs,
        }
    }

    pub fn register(&mut self, id: SessionId) {
        self.end.register(id);
    }

    /// Checks that a run that began in a write has all bytes that the write offered, up to the limit of a run.
    fn check_runs(&self, offered: usize) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        for run in runs.drain(..) {
            let should_be = offered.min(WebSocket::MAX_RUN_BYTES);
            if run != should_be {
                let text = format!("a prefix for {run} bytes splits a run of {should_be}");
                self.end.notes().offences.push(text);
            }
        }
    }
}

impl Transport for SimStream {
    fn read(&mut self, memory: &mut [u8]) -> Result<ReadOutcome, DisconnectReason> {
        self.transport.read(memory)
    }

    fn overhead_bytes(&self) -> usize {
        self.transport.overhead_bytes()
    }

    fn empty_frames(&self) -> usize {
        self.transport.empty_frames()
    }

    fn kept_bytes(&self) -> usize {
        self.transport.kept_bytes()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.transport.write(bytes);
        self.check_runs(bytes.len());
        written
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = self.transport.write_vectored(slices);
        self.check_runs(slices.iter().map(|slice| slice.len()).sum());
        written
    }

    fn min_write_bytes(&self) -> usize {
        self.transport.min_write_bytes()
    }

    fn buffered_bytes(&self) -> usize {
        self.transport.buffered_bytes()
    }

    fn flush(&mut self) -> io::Result<Completion> {
        self.transport.flush()
    }

    fn note_end(&mut self, reason: DisconnectReason) {
        self.transport.note_end(reason);
    }

    fn shutdown_write(&mut self) -> io::Result<Completion> {
        let outcome = self.transport.shutdown_write();
        if matches!(outcome, Ok(Completion::Pending)) {
            self.end.notes().pending_closes += 1;
        }
        outcome
    }

    fn ends_in_band(&self) -> bool {
        self.transport.ends_in_band()
    }

    fn poll_connected(&mut self) -> io::Result<bool> {
        self.transport.poll_connected()
    }

    fn needs_handshake(&self) -> bool {
        self.transport.needs_handshake()
    }

    fn handshake(&mut self) -> Result<HandshakeStep, DisconnectReason> {
        self.transport.handshake()
    }
}

// ---- records ------------------------------------------------------------------------------------

/// A record that no step of a peer sends.
pub fn broken_record() -> Vec<u8> {
    FakeTls::record(FakeTls::HANDSHAKE, b"broken")
}

/// The real TLS driver over the fake engine. It checks that each write begins with the packets that are sealed
/// already, and that these are the bytes that are then said to be sent.
struct Sealed {
    tls: Tls<FakeStream, FakeTls>,
    end: PeerEnd,
    sealed: Arc<Mutex<Vec<u8>>>,
}

impl Sealed {
    fn new(inner: FakeStream, end: PeerEnd) -> Self {
        let sealed = Arc::new(Mutex::new(Vec::new()));
        let engine = FakeTls::new(Arc::clone(&sealed));
        Self {
            tls: Tls::new(inner, engine),
            end,
            sealed,
        }
    }

    fn checked(&mut self, bytes: &[u8], written: io::Result<usize>) -> io::Result<usize> {
        let mut sealed = self.sealed.lock().unwrap();
        if !bytes.starts_with(&sealed[..sealed.len().min(bytes.len())]) {
            (self.end.notes().offences)
                .push("a write begins with other bytes than the sealed ones".into());
        }
        if let Ok(count) = &written {
            if *count != sealed.len() {
                let text = format!("{count} bytes sent of a record of {}", sealed.len());
                self.end.notes().offences.push(text);
            }
            sealed.clear();
        }
        written
    }
}

impl Transport for Sealed {
    fn read(&mut self, memory: &mut [u8]) -> Result<ReadOutcome, DisconnectReason> {
        self.tls.read(memory)
    }

    fn overhead_bytes(&self) -> usize {
        self.tls.overhead_bytes()
    }

    fn empty_frames(&self) -> usize {
        self.tls.empty_frames()
    }

    fn kept_bytes(&self) -> usize {
        self.tls.kept_bytes()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.tls.write(bytes);
        self.checked(bytes, written)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = self.tls.write_vectored(slices);
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        self.checked(&bytes, written)
    }

    fn buffered_bytes(&self) -> usize {
        self.tls.buffered_bytes()
    }

    fn flush(&mut self) -> io::Result<Completion> {
        self.tls.flush()
    }

    fn note_end(&mut self, reason: DisconnectReason) {
        self.tls.note_end(reason);
    }

    fn shutdown_write(&mut self) -> io::Result<Completion> {
        self.tls.shutdown_write()
    }

    fn ends_in_band(&self) -> bool {
        self.tls.ends_in_band()
    }

    fn poll_connected(&mut self) -> io::Result<bool> {
        self.tls.poll_connected()
    }

    fn needs_handshake(&self) -> bool {
        self.tls.needs_handshake()
    }

    fn handshake(&mut self) -> Result<HandshakeStep, DisconnectReason> {
        self.tls.handshake()
    }
}

// ---- frames -------------------------------------------------------------------------------------

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: game.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const ACCEPTED: &[u8] = b"HTTP/1.1 101 ";

/// A frame of a client.
fn masked_frame(first: u8, payload: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mask = rng.u32(..).to_ne_bytes();
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
    frame
}

/// The codec of a server, and the lengths of the runs that it has begun.
struct RecordedFrames {
    codec: WebSocket,
    runs: Runs,
}

impl Codec for RecordedFrames {
    const MAX_RUN_BYTES: usize = WebSocket::MAX_RUN_BYTES;

    fn decode(&mut self, input: &mut [u8], replies: &mut Vec<u8>) -> Decoded {
        self.codec.decode(input, replies)
    }

    fn begin_run(&mut self, bytes: usize, out: &mut Vec<u8>) {
        self.codec.begin_run(bytes, out);
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.push(bytes);
    }

    fn close(&mut self, reason: DisconnectReason, out: &mut Vec<u8>) {
        self.codec.close(reason, out);
    }
}

// ---- the peer's end -----------------------------------------------------------------------------

/// The way in which a peer does its part of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeKind {
    Healthy,
    /// Begins the handshake and never ends it.
    Stalls,
    /// Ends the handshake with a wrong record, or sends a request that is not of an upgrade.
    Garbage,
}

/// The peer's half of the layers.
#[derive(Debug)]
pub struct PeerLayers {
    pub layers: Layers,
    pub handshake: HandshakeKind,
    has_greeted: bool,
    is_welcome: bool,
    has_finished: bool,
    /// The number of bytes of the connection's output that were read.
    read_bytes: usize,
    records: Vec<u8>,
    has_asked: bool,
    /// The request has gone, and is valid.
    has_requested: bool,
    is_accepted: bool,
    is_in_message: bool,
    frames: Vec<u8>,
    run_left: usize,
    /// The bytes of the packets that the peer has got.
    pub plain: Vec<u8>,
    pub has_ticket: bool,
    end_record: bool,
    /// The last record of a server whose peer has broken the protocol.
    pub has_alert: bool,
    /// The code and the reason of the server's close.
    pub close: Option<(u16, String)>,
    pub pings: u64,
    pub pongs: u64,
    /// The number of the ping that the last pong answers: it answers all pings before, too.
    pub answered: u64,
    pub runs: u64,
}

impl PeerLayers {
    pub fn new(layers: Layers, handshake: HandshakeKind) -> Self {
        Self {
            layers,
            handshake,
            has_greeted: false,
            is_welcome: false,
            has_finished: false,
            read_bytes: 0,
            records: Vec::new(),
            has_asked: false,
            has_requested: false,
            is_accepted: false,
            is_in_message: false,
            frames: Vec::new(),
            run_left: 0,
            plain: Vec::new(),
            has_ticket: false,
            end_record: false,
            has_alert: false,
            close: None,
            pings: 0,
            pongs: 0,
            answered: 0,
            runs: 0,
        }
    }

    /// Whether the peer's part of the handshake is complete.
    pub fn may_send(&self) -> bool {
        self.has_finished >= self.layers.is_sealed && self.has_requested >= self.layers.is_framed
    }

    /// Whether each layer of the peer has got its end of the stream.
    pub fn has_end(&self) -> bool {
        self.end_record == self.layers.is_sealed && self.close.is_some() == self.layers.is_framed
    }

    /// The number of bytes that are not a complete record or not a complete frame.
    pub fn torn_bytes(&self) -> usize {
        self.records.len() + self.frames.len()
    }

    /// Does the next step of the handshake, if it is the peer's.
    pub fn step(&mut self, end: &FakePeer) {
        if end.state().has_sent_fin {
            return;
        }
        if self.layers.is_sealed {
            self.step_sealed(end);
        }
        // Packets may follow the request at once.
        let is_sealed = self.has_finished >= self.layers.is_sealed;
        if self.layers.is_framed && is_sealed && !self.has_asked {
            let request = match self.handshake {
                HandshakeKind::Healthy => REQUEST,
                HandshakeKind::Stalls => &REQUEST[..99],
                HandshakeKind::Garbage => b"POST / HTTP/1.1\r\n\r\n",
            };
            self.has_asked = true;
            self.has_requested = self.handshake == HandshakeKind::Healthy;
            if self.layers.is_sealed {
                end.send(&FakeTls::record(FakeTls::DATA, request));
            } else {
                end.send(request);
            }
        }
    }

    fn step_sealed(&mut self, end: &FakePeer) {
        if !std::mem::replace(&mut self.has_greeted, true) {
            end.send(&FakeTls::record(FakeTls::HANDSHAKE, FakeTls::STEP));
        }
        if self.is_welcome && !self.has_finished {
            match self.handshake {
                HandshakeKind::Healthy => {
                    end.send(&FakeTls::record(FakeTls::HANDSHAKE, FakeTls::STEP));
                    self.has_finished = true;
                }
                HandshakeKind::Garbage => {
                    end.send(&FakeTls::record(FakeTls::HANDSHAKE, b"?"));
                    self.is_welcome = false;
                }
                HandshakeKind::Stalls => {}
            }
        }
    }

    /// Wraps packets in messages, fragments and records of any size.
    pub fn wrap(&mut self, bytes: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
        let mut framed = Vec::new();
        if self.layers.is_framed {
            let mut rest = bytes;
            while !rest.is_empty() {
                let (run, after) = rest.split_at(rng.usize(1..=rest.len()));
                let opcode = if self.is_in_message {
                    CONTINUATION
                } else {
                    BINARY
                };
                let fin = if rng.bool() { FIN } else { 0 };
                self.is_in_message = fin == 0;
                framed.extend(masked_frame(fin | opcode, run, rng));
                rest = after;
            }
        } else {
            framed.extend(bytes);
        }
        self.seal(&framed, rng)
    }

    /// A ping. It is empty without frames.
    pub fn ping(&mut self, rng: &mut fastrand::Rng) -> Vec<u8> {
        if !self.layers.is_framed {
            return Vec::new();
        }
        self.pings += 1;
        let mut body = self.pings.to_le_bytes().to_vec();
        body.resize(rng.usize(8..=125), b'p');
        let ping = masked_frame(FIN | PING, &body, rng);
        self.seal(&ping, rng)
    }

    /// A frame that breaks a rule of the protocol.
    pub fn broken_frame(&mut self, rng: &mut fastrand::Rng) -> Vec<u8> {
        let mut frame = masked_frame(FIN | PING, b"never", rng);
        match rng.u32(..4) {
            0 => frame[0] |= 0x40,
            1 => frame[0] = FIN | 3,
            2 => frame[0] = PING,
            _ => frame[1] &= 0x7f,
        }
        self.seal(&frame, rng)
    }

    /// The in-band end of the peer's side: a closing frame, or without frames a closing record.
    pub fn end(&mut self, rng: &mut fastrand::Rng) -> Vec<u8> {
        if self.layers.is_framed {
            self.seal(&masked_frame(FIN | CLOSE, b"", rng), rng)
        } else {
            FakeTls::record(FakeTls::END, b"")
        }
    }

    /// Whether the server has answered a broken record, and has said no more.
    pub fn has_alert_alone(&self) -> bool {
        self.has_alert && self.close.is_none() && self.records.is_empty()
    }

    fn seal(&self, bytes: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
        if !self.layers.is_sealed {
            return bytes.to_vec();
        }
        let (mut sealed, mut rest) = (Vec::new(), bytes);
        while !rest.is_empty() {
            let (body, after) = rest.split_at(rng.usize(1..=rest.len().min(1_500)));
            sealed.extend(FakeTls::record(FakeTls::DATA, body));
            rest = after;
        }
        sealed
    }

    /// Opens the new part of `output`, which is everything that the server has written.
    pub fn read_on(&mut self, output: &[u8]) -> Result<(), String> {
        let bytes = &output[self.read_bytes..];
        self.read_bytes = output.len();
        if !self.layers.is_sealed {
            return self.open_frames(bytes);
        }
        self.records.extend(bytes);
        while let Some((kind, body, rest)) = FakeTls::next_record(&self.records) {
            let rest = rest.len();
            self.records.drain(..self.records.len() - rest);
            if self.end_record || self.has_alert {
                return Err("a record follows the end".into());
            }
            match kind {
                FakeTls::DATA => self.open_frames(&body)?,
                FakeTls::HANDSHAKE if !self.is_welcome => self.is_welcome = true,
                FakeTls::HANDSHAKE if self.has_finished => self.has_ticket = true,
                FakeTls::END => self.end_record = true,
                FakeTls::ALERT => self.has_alert = true,
                _ => return Err(format!("a record of kind {kind} out of place")),
            }
        }
        Ok(())
    }

    fn open_frames(&mut self, bytes: &[u8]) -> Result<(), String> {
        if !self.layers.is_framed {
            self.plain.extend(bytes);
            return Ok(());
        }
        self.frames.extend(bytes);
        if !self.is_accepted {
            let Some(head) = self.frames.windows(4).position(|four| four == b"\r\n\r\n") else {
                return Ok(());
            };
            self.is_accepted = self.frames.starts_with(ACCEPTED);
            if self.is_accepted != self.has_requested {
                return Err("an answer to another request".into());
            }
            self.frames.drain(..head + 4);
        }
        loop {
            let count = self.run_left.min(self.frames.len());
            self.plain.extend(self.frames.drain(..count));
            self.run_left -= count;
            if self.run_left > 0 {
                return Ok(());
            }
            let (length, header_bytes) = match self.frames[..] {
                [_, 126, high, low, ..] => (usize::from(u16::from_be_bytes([high, low])), 4),
                [_, 126, ..] | [] | [_] => return Ok(()),
                [_, length, ..] => (usize::from(length), 2),
            };
            if self.close.is_some() {
                return Err("a frame follows the end".into());
            }
            let body = &self.frames[header_bytes..];
            match self.frames[0] ^ FIN {
                BINARY => {
                    self.runs += 1;
                    self.run_left = length;
                    self.frames.drain(..header_bytes);
                    continue;
                }
                _ if body.len() < length => return Ok(()),
                PONG if length >= 8 => {
                    let number = body[..8].try_into().map(u64::from_le_bytes);
                    let number = number.unwrap_or_default();
                    if number <= self.answered || number > self.pings {
                        return Err(format!("a pong for ping {number} of {}", self.pings));
                    }
                    self.pongs += 1;
                    self.answered = number;
                }
                CLOSE if length >= 2 => {
                    let reason = String::from_utf8_lossy(&body[2..length]).into_owned();
                    self.close = Some((u16::from_be_bytes([body[0], body[1]]), reason));
                }
                kind => return Err(format!("a frame of kind {kind} out of place")),
            }
            self.frames.drain(..header_bytes + length);
        }
    }
}
