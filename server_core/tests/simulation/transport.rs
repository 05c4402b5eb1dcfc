//! Fake transports over the fake connection: records as of TLS, frames as of WebSocket, both, or none; and the
//! real translation of framings over packets or records.
//!
//! A *record* is the sealed form of one write: the peer can open a record when it is complete. A handshake of
//! two steps comes before the first record of packets, and a record that ends the stream comes after the
//! last. A *frame* is a prefix before a run of packets. Other frames are pings, which the codec answers, pongs,
//! and the end.

use crate::wire::{FakeStream, PeerEnd, Pipe};
use server_core::protocol::codec::{Codec, Decoded};
use server_core::transport::{Completion, Framed, ReadOutcome, Translated, Transport};
use server_core::{DisconnectReason, Framing, SessionId};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
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

    fn empty_frames(&self) -> usize {
        self.transport.empty_frames()
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
const MAX_RECORD_BYTES: usize = 1_500;
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
    WriteWelcome,
    ReadFinished,
    Done,
}

/// A sealed transport that works as a TLS connection does: it seals packets when they are written, and keeps
/// the sealed bytes that the socket did not take.
struct Sealed {
    inner: FakeStream,
    end: PeerEnd,
    step: Step,
    /// Bytes that were read and are not a complete record.
    incoming: Vec<u8>,
    /// Bytes that were opened and that the caller has not read.
    opened: VecDeque<u8>,
    peer_has_ended: bool,
    overhead_bytes: usize,
    /// Sealed bytes that the socket has not taken.
    held: Vec<u8>,
    /// The packets in `held`. They are in the caller's queue as well.
    sealed: Vec<u8>,
    is_closing: bool,
}

impl Sealed {
    fn new(inner: FakeStream, end: PeerEnd) -> Self {
        Self {
            inner,
            end,
            step: Step::ReadHello,
            incoming: Vec::new(),
            opened: VecDeque::new(),
            peer_has_ended: false,
            overhead_bytes: 0,
            held: Vec::new(),
            sealed: Vec::new(),
            is_closing: false,
        }
    }

    /// Writes the held bytes until no byte is left, or the socket would block.
    fn push_out(&mut self) -> io::Result<Completion> {
        while !self.held.is_empty() {
            match Transport::write(&mut self.inner, &self.held) {
                Ok(count) => drop(self.held.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(Completion::Pending);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Completion::Done)
    }

    /// The record of the peer's next step. `None`: the record is not complete yet.
    fn next_handshake(&mut self) -> Result<Option<Vec<u8>>, DisconnectReason> {
        loop {
            match take_record(&mut self.incoming) {
                Some((HANDSHAKE, body)) => return Ok(Some(body)),
                Some(_) => return Err(DisconnectReason::Handshake),
                None => {}
            }
            let mut memory = [0; 64];
            match self.inner.read(&mut memory)? {
                ReadOutcome::Bytes(count) => self.incoming.extend(&memory[..count]),
                ReadOutcome::Blocked => return Ok(None),
                ReadOutcome::Closed => return Err(DisconnectReason::PeerClosed),
            }
        }
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_closing || self.step != Step::Done {
            let text = format!(
                "packets out of place: {:?}, closing {}, {bytes:?}",
                self.step, self.is_closing
            );
            self.end.pipe().offences.push(text);
        }
        let common = bytes.len().min(self.sealed.len());
        if bytes[..common] != self.sealed[..common] {
            (self.end.pipe().offences)
                .push("a write begins with other bytes than the sealed ones".into());
        }
        if self.push_out()? == Completion::Pending {
            return Err(ErrorKind::WouldBlock.into());
        }
        if self.sealed.is_empty() {
            self.sealed = bytes[..bytes.len().min(MAX_RECORD_BYTES)].to_vec();
            self.held = record(DATA, &self.sealed);
            if self.push_out()? == Completion::Pending {
                return Err(ErrorKind::WouldBlock.into());
            }
        }
        Ok(std::mem::take(&mut self.sealed).len())
    }
}

impl Transport for Sealed {
    fn read(&mut self, memory: &mut [u8]) -> Result<ReadOutcome, DisconnectReason> {
        let mut taken_bytes = 0;
        let outcome = loop {
            if !self.opened.is_empty() {
                let count = memory.len().min(self.opened.len());
                for (to, from) in memory.iter_mut().zip(self.opened.drain(..count)) {
                    *to = from;
                }
                break ReadOutcome::Bytes(count);
            }
            if self.peer_has_ended {
                break ReadOutcome::Closed;
            }
            match take_record(&mut self.incoming) {
                Some((DATA, body)) => {
                    self.opened.extend(body);
                    continue;
                }
                Some((END, _)) => {
                    self.peer_has_ended = true;
                    continue;
                }
                Some(_) => continue,
                None => {}
            }
            if taken_bytes >= memory.len() {
                break ReadOutcome::Bytes(0);
            }
            match self.inner.read(memory)? {
                ReadOutcome::Bytes(count) => {
                    taken_bytes += count;
                    self.incoming.extend(&memory[..count]);
                }
                other => break other,
            }
        };
        let plain_bytes = match outcome {
            ReadOutcome::Bytes(count) => count,
            _ => 0,
        };
        self.overhead_bytes = taken_bytes.saturating_sub(plain_bytes);
        Ok(outcome)
    }

    fn overhead_bytes(&self) -> usize {
        self.overhead_bytes
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_bytes(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        self.write_bytes(&bytes)
    }

    fn buffered_bytes(&self) -> usize {
        self.held.len()
    }

    fn flush(&mut self) -> io::Result<Completion> {
        self.push_out()
    }

    fn shutdown_write(&mut self) -> io::Result<Completion> {
        if !std::mem::replace(&mut self.is_closing, true) {
            self.held.extend(record(END, b""));
        }
        match self.push_out()? {
            Completion::Pending => Ok(Completion::Pending),
            Completion::Done => Transport::shutdown_write(&mut self.inner),
        }
    }

    fn ends_in_band(&self) -> bool {
        true
    }

    fn poll_connected(&mut self) -> io::Result<bool> {
        Transport::poll_connected(&mut self.inner)
    }

    fn needs_handshake(&self) -> bool {
        self.step != Step::Done
    }

    fn handshake(&mut self) -> Result<Completion, DisconnectReason> {
        loop {
            match self.step {
                Step::ReadHello => match self.next_handshake()? {
                    Some(hello) if hello == HELLO => {
                        self.held = record(HANDSHAKE, WELCOME);
                        self.step = Step::WriteWelcome;
                    }
                    Some(_) => return Err(DisconnectReason::Handshake),
                    None => return Ok(Completion::Pending),
                },
                Step::WriteWelcome => {
                    match self.push_out() {
                        Ok(Completion::Done) => self.step = Step::ReadFinished,
                        Ok(Completion::Pending) => return Ok(Completion::Pending),
                        Err(error) => return Err(DisconnectReason::from_io(&error)),
                    };
                }
                Step::ReadFinished => match self.next_handshake()? {
                    Some(finished) if finished == FINISHED => {
                        self.held = record(HANDSHAKE, TICKET);
                        self.step = Step::Done;
                    }
                    Some(_) => return Err(DisconnectReason::Handshake),
                    None => return Ok(Completion::Pending),
                },
                Step::Done => return Ok(Completion::Done),
            }
        }
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

    fn close(&mut self, _: DisconnectReason, out: &mut Vec<u8>) {
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
            let (body, after) = rest.split_at(rng.usize(1..=rest.len().min(MAX_RECORD_BYTES)));
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
