//! Fake transports over the fake connection: records as of TLS, frames as of WebSocket, both, or none; and the
//! real translation of framings over packets or records.
//!
//! A *record* is the sealed form of one write: the peer can open a record when it is complete. A handshake of
//! two steps comes before the first record of packets, and a record that ends the stream comes after the
//! last. A *frame* is a prefix before a run of packets. Other frames are pings, which the codec answers, pongs,
//! and the end.

use crate::wire::{FakeStream, PeerEnd, Pipe};
use server_core::protocol::codec::{Codec, Decoded};
use server_core::transport::{
    Completion, Framed, ReadOutcome, Tls, TlsBroken, TlsEngine, Translated, Transport,
};
use server_core::{DisconnectReason, Framing, SessionId};
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

impl SimStream {
    pub fn new(stream: FakeStream, end: PeerEnd, layers: Layers) -> Self {
        let runs = Runs::default();
        let codec = FrameCodec {
            header: Vec::new(),
            frame_left: 0,
            body: Vec::new(),
            runs: Arc::clone(&runs),
        };
        let native = Framing::NATIVE;
        let transport: Box<dyn Transport + Send> = match (layers.is_sealed, layers.is_framed) {
            (false, false) if layers.is_translated => Box::new(Translated::new(stream, native)),
            (false, false) => Box::new(stream),
            (true, false) if layers.is_translated => {
                Box::new(Translated::new(Sealed::new(stream, end.clone()), native))
            }
            (true, false) => Box::new(Sealed::new(stream, end.clone())),
            (false, true) => Box::new(Framed::new(stream, codec)),
            (true, true) => Box::new(Framed::new(Sealed::new(stream, end.clone()), codec)),
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
            let should_be = offered.min(FrameCodec::MAX_RUN_BYTES);
            if run != should_be {
                let text = format!("a prefix for {run} bytes splits a run of {should_be}");
                self.end.pipe().offences.push(text);
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

    fn shutdown_write(&mut self) -> io::Result<Completion> {
        let outcome = self.transport.shutdown_write();
        if matches!(outcome, Ok(Completion::Pending)) {
            self.end.pipe().pending_closes += 1;
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

    fn handshake(&mut self) -> Result<Completion, DisconnectReason> {
        self.transport.handshake()
    }
}

// ---- records ------------------------------------------------------------------------------------

const DATA: u8 = 0;
const HANDSHAKE: u8 = 1;
const END: u8 = 2;
/// The header of a record: its kind, and the length of its body.
const RECORD_HEADER_BYTES: usize = 3;
const MAX_RECORD_BYTES: usize = 16 << 10;
const KEY: u8 = 0x5a;
const HELLO: &[u8] = b"hello";
/// The welcome is longer than the most that some sockets take in one write.
const WELCOME: &[u8] = &[b'w'; 700];
const FINISHED: &[u8] = b"finished";
const TICKET: &[u8] = b"ticket";

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_le_bytes();
    let mut record = vec![kind, length[0], length[1]];
    record.extend(body.iter().map(|byte| byte ^ KEY));
    record
}

/// Takes the first record out of `bytes`, if it is complete.
fn take_record(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let [kind, low, high, rest @ ..] = &bytes[..] else {
        return None;
    };
    let length = usize::from(u16::from_le_bytes([*low, *high]));
    let body = rest.get(..length)?.iter().map(|byte| byte ^ KEY).collect();
    let kind = *kind;
    bytes.drain(..RECORD_HEADER_BYTES + length);
    Some((kind, body))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    ReadHello,
    ReadFinished,
    Done,
}

/// The engine of the real TLS driver: its records are as those of TLS, and hide nothing.
struct FakeEngine {
    end: PeerEnd,
    step: Step,
    is_peer_closed: bool,
    is_closed: bool,
    /// The packets of the last record.
    sealed: Arc<Mutex<Vec<u8>>>,
}

impl TlsEngine for FakeEngine {
    fn read(
        &mut self,
        input: &mut [u8],
        plaintext: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<usize, TlsBroken> {
        let mut taken = 0;
        while !self.is_peer_closed {
            let mut rest = input[taken..].to_vec();
            let Some((kind, body)) = take_record(&mut rest) else {
                break;
            };
            taken = input.len() - rest.len();
            match (self.step, kind) {
                (Step::ReadHello, HANDSHAKE) if body == HELLO => {
                    output.extend(record(HANDSHAKE, WELCOME));
                    self.step = Step::ReadFinished;
                }
                (Step::ReadFinished, HANDSHAKE) if body == FINISHED => {
                    output.extend(record(HANDSHAKE, TICKET));
                    self.step = Step::Done;
                }
                (Step::Done, DATA) => plaintext.extend(body),
                (Step::Done, END) => self.is_peer_closed = true,
                (step, kind) => return Err(TlsBroken(format!("record {kind} in {step:?}"))),
            }
        }
        Ok(taken)
    }

    fn write(
        &mut self,
        incomplete: &mut [u8],
        plaintext: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), TlsBroken> {
        if self.is_closed || self.step != Step::Done || plaintext.len() > MAX_RECORD_BYTES {
            let text = format!(
                "packets out of place: {:?}, closed {}, {} bytes",
                self.step,
                self.is_closed,
                plaintext.len()
            );
            self.end.pipe().offences.push(text);
        }
        if take_record(&mut incomplete.to_vec()).is_some() {
            (self.end.pipe().offences).push("a complete record waits for the next read".into());
        }
        *self.sealed.lock().unwrap() = plaintext.to_vec();
        output.extend(record(DATA, plaintext));
        Ok(())
    }

    fn close(&mut self, _: &mut [u8], output: &mut Vec<u8>) {
        self.is_closed = true;
        output.extend(record(END, b""));
    }

    fn is_handshaking(&self) -> bool {
        self.step != Step::Done
    }

    fn is_peer_closed(&self) -> bool {
        self.is_peer_closed
    }

    fn is_resumed(&self) -> bool {
        false
    }
}

/// The real TLS driver over the fake engine. It checks that each write begins with the packets that are sealed
/// already, and that these are the bytes that are then said to be sent.
struct Sealed {
    tls: Tls<FakeStream, FakeEngine>,
    end: PeerEnd,
    sealed: Arc<Mutex<Vec<u8>>>,
}

impl Sealed {
    fn new(inner: FakeStream, end: PeerEnd) -> Self {
        let sealed = Arc::new(Mutex::new(Vec::new()));
        let engine = FakeEngine {
            end: end.clone(),
            step: Step::ReadHello,
            is_peer_closed: false,
            is_closed: false,
            sealed: Arc::clone(&sealed),
        };
        Self {
            tls: Tls::new(inner, engine),
            end,
            sealed,
        }
    }

    fn checked(&mut self, bytes: &[u8], written: io::Result<usize>) -> io::Result<usize> {
        let mut sealed = self.sealed.lock().unwrap();
        if !bytes.starts_with(&sealed[..sealed.len().min(bytes.len())]) {
            (self.end.pipe().offences)
                .push("a write begins with other bytes than the sealed ones".into());
        }
        if let Ok(count) = &written {
            if *count != sealed.len() {
                let text = format!("{count} bytes sent of a record of {}", sealed.len());
                self.end.pipe().offences.push(text);
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

    fn handshake(&mut self) -> Result<Completion, DisconnectReason> {
        self.tls.handshake()
    }
}

// ---- frames -------------------------------------------------------------------------------------

const RUN: u8 = 10;
const PING: u8 = 11;
const PONG: u8 = 12;
const CLOSE: u8 = 13;
/// The header of a frame: its kind, and the length of its body.
const FRAME_HEADER_BYTES: usize = 3;

fn frame_header(kind: u8, bytes: usize) -> [u8; FRAME_HEADER_BYTES] {
    let length = (bytes as u16).to_le_bytes();
    [kind, length[0], length[1]]
}

/// The server's half of the frames. Runs in both directions come in pieces of any size.
struct FrameCodec {
    /// The part of a header that was read.
    header: Vec<u8>,
    /// The number of bytes of the present run or ping that were not read yet.
    frame_left: usize,
    /// The part of the body of a ping that was read.
    body: Vec<u8>,
    runs: Runs,
}

impl Codec for FrameCodec {
    const MAX_RUN_BYTES: usize = 2_500;

    fn decode(&mut self, input: &mut [u8], replies: &mut Vec<u8>) -> Decoded {
        let mut decoded = Decoded::default();
        for at in 0..input.len() {
            let byte = input[at];
            if self.header.len() < FRAME_HEADER_BYTES {
                self.header.push(byte);
                if let [_, low, high] = self.header[..] {
                    self.frame_left = usize::from(u16::from_le_bytes([low, high]));
                }
            } else {
                self.frame_left -= 1;
                if self.header[0] == RUN {
                    input[decoded.bytes] = byte;
                    decoded.bytes += 1;
                } else {
                    self.body.push(byte);
                }
            }
            if self.header.len() == FRAME_HEADER_BYTES && self.frame_left == 0 {
                match self.header[0] {
                    PING => {
                        replies.extend(frame_header(PONG, self.body.len()));
                        replies.append(&mut self.body);
                    }
                    CLOSE => {
                        decoded.end = Some(Ok(()));
                        break;
                    }
                    _ => {}
                }
                self.header.clear();
            }
        }
        decoded
    }

    fn begin_run(&mut self, bytes: usize, out: &mut Vec<u8>) {
        out.extend(frame_header(RUN, bytes));
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.push(bytes);
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        out.extend(frame_header(CLOSE, 0));
    }
}

// ---- the peer's end -----------------------------------------------------------------------------

/// The way in which a peer does its part of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeKind {
    Healthy,
    /// Begins the handshake and never ends it.
    Stalls,
    /// Ends the handshake with a wrong record.
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
    frames: Vec<u8>,
    run_left: usize,
    /// The bytes of the packets that the peer has got.
    pub plain: Vec<u8>,
    pub has_ticket: bool,
    end_record: bool,
    end_frame: bool,
    pub pings: u64,
    pub pongs: u64,
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
            frames: Vec::new(),
            run_left: 0,
            plain: Vec::new(),
            has_ticket: false,
            end_record: false,
            end_frame: false,
            pings: 0,
            pongs: 0,
            runs: 0,
        }
    }

    /// Whether the peer's part of the handshake is complete.
    pub fn may_send(&self) -> bool {
        self.has_finished || !self.layers.is_sealed
    }

    /// Whether each layer of the peer has got its end of the stream.
    pub fn has_end(&self) -> bool {
        self.end_record == self.layers.is_sealed && self.end_frame == self.layers.is_framed
    }

    /// The number of bytes that are not a complete record or not a complete frame.
    pub fn torn_bytes(&self) -> usize {
        self.records.len() + self.frames.len()
    }

    /// Does the next step of the handshake, if it is the peer's.
    pub fn step(&mut self, pipe: &mut Pipe) {
        if !self.layers.is_sealed || pipe.peer_sent_fin {
            return;
        }
        if !std::mem::replace(&mut self.has_greeted, true) {
            pipe.input.extend(record(HANDSHAKE, HELLO));
        }
        if self.is_welcome && !self.has_finished {
            match self.handshake {
                HandshakeKind::Healthy => {
                    pipe.input.extend(record(HANDSHAKE, FINISHED));
                    self.has_finished = true;
                }
                HandshakeKind::Garbage => {
                    pipe.input.extend(record(HANDSHAKE, b"?"));
                    self.is_welcome = false;
                }
                HandshakeKind::Stalls => {}
            }
        }
    }

    /// Wraps packets in frames and records of any size.
    pub fn wrap(&mut self, bytes: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
        let mut framed = Vec::new();
        if self.layers.is_framed {
            let mut rest = bytes;
            while !rest.is_empty() {
                let (run, after) = rest.split_at(rng.usize(1..=rest.len()));
                framed.extend(frame_header(RUN, run.len()));
                framed.extend(run);
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
        let body = vec![b'p'; rng.usize(..20)];
        let ping = [&frame_header(PING, body.len())[..], &body].concat();
        self.seal(&ping, rng)
    }

    /// The in-band end of the peer's side: a closing frame, or without frames a closing record.
    pub fn end(&mut self, rng: &mut fastrand::Rng) -> Vec<u8> {
        if self.layers.is_framed {
            self.seal(&frame_header(CLOSE, 0), rng)
        } else {
            record(END, b"")
        }
    }

    fn seal(&self, bytes: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
        if !self.layers.is_sealed {
            return bytes.to_vec();
        }
        let (mut sealed, mut rest) = (Vec::new(), bytes);
        while !rest.is_empty() {
            let (body, after) = rest.split_at(rng.usize(1..=rest.len().min(1_500)));
            sealed.extend(record(DATA, body));
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
        while let Some((kind, body)) = take_record(&mut self.records) {
            if self.end_record {
                return Err("a record follows the end".into());
            }
            match kind {
                DATA => self.open_frames(&body)?,
                HANDSHAKE if body == WELCOME && !self.is_welcome => self.is_welcome = true,
                HANDSHAKE if body == TICKET && self.has_finished => self.has_ticket = true,
                END => self.end_record = true,
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
        loop {
            let count = self.run_left.min(self.frames.len());
            self.plain.extend(self.frames.drain(..count));
            self.run_left -= count;
            if self.run_left > 0 {
                return Ok(());
            }
            let [kind, low, high, ref body @ ..] = self.frames[..] else {
                return Ok(());
            };
            if self.end_frame {
                return Err("a frame follows the end".into());
            }
            let length = usize::from(u16::from_le_bytes([low, high]));
            match kind {
                RUN => {
                    self.runs += 1;
                    self.run_left = length;
                    self.frames.drain(..FRAME_HEADER_BYTES);
                    continue;
                }
                _ if body.len() < length => return Ok(()),
                PONG if body[..length].iter().all(|byte| *byte == b'p') => self.pongs += 1,
                CLOSE => self.end_frame = true,
                _ => return Err(format!("a frame of kind {kind} out of place")),
            }
            self.frames.drain(..FRAME_HEADER_BYTES + length);
        }
    }
}
