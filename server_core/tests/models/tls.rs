//! The TLS driver over an engine whose records hide nothing, compared with two streams of bytes.

use server_core::DisconnectReason;
use server_core::testing::{FakePeer, FakeStream, FakeTls};
use server_core::transport::{Completion, HandshakeStep, ReadOutcome, Tls, Transport};
use std::io::{ErrorKind, IoSlice};
use std::sync::Arc;

/// One step of the peer, of the wire, or of the caller.
#[derive(Clone, Debug)]
pub enum Step {
    /// The peer puts bytes into a record, or into several if they are too many.
    Record(Vec<u8>),
    /// The peer puts its next record of the handshake, or an update that asks for an answer.
    Handshake,
    /// The peer puts bytes that are not a record.
    Garbage,
    /// The peer ends its stream, with a record before or without.
    End { in_band: bool },
    /// This number of the peer's bytes arrives.
    Arrive(usize),
    /// The socket takes this number of bytes more.
    Room(usize),
    /// The caller queues bytes, and packs its queue into slices of this size.
    Queue { bytes: Vec<u8>, slice: usize },
    /// The caller reads into memory of this size, or takes a step of the handshake.
    Read(usize),
    /// The caller writes its queue, or what the driver holds.
    Write,
    /// The caller ends its side.
    Close,
}

/// The driver, its caller and its peer.
pub struct Machine {
    tls: Tls<FakeStream, FakeTls>,
    peer: FakePeer,
    /// Bytes of the peer that have not arrived.
    wire: Vec<u8>,
    handshakes: usize,
    /// What the peer has sent before an offence or an end, and what of it was read.
    sent: Vec<u8>,
    read: Vec<u8>,
    has_ended: bool,
    has_offended: bool,
    /// The caller's queue, what has left it, and the longest offer of the write that is not complete.
    queue: Vec<u8>,
    slice: usize,
    written: Vec<u8>,
    offered: usize,
    /// All output of the driver.
    output: Vec<u8>,
    is_closed: bool,
    is_shut: bool,
    /// The driver has reported the end of the peer's stream.
    end: Option<Result<(), DisconnectReason>>,
}

impl Default for Machine {
    fn default() -> Self {
        let (stream, peer) = FakeStream::pair();
        peer.state().room = 0;
        Self {
            tls: Tls::new(stream, FakeTls::new(Arc::default())),
            peer,
            wire: Vec::new(),
            handshakes: 0,
            sent: Vec::new(),
            read: Vec::new(),
            has_ended: false,
            has_offended: false,
            queue: Vec::new(),
            slice: usize::MAX,
            written: Vec::new(),
            offered: 0,
            output: Vec::new(),
            is_closed: false,
            is_shut: false,
            end: None,
        }
    }
}

impl Machine {
    /// Takes one step.
    pub fn step(&mut self, step: Step) {
        match step {
            Step::Record(bytes) if bytes.is_empty() => {
                self.put(FakeTls::record(FakeTls::DATA, b""), b"")
            }
            Step::Record(bytes) => {
                for body in bytes.chunks(FakeTls::MAX_RECORD_BYTES) {
                    self.put(FakeTls::record(FakeTls::DATA, body), body);
                }
            }
            Step::Handshake => {
                self.handshakes += usize::from(!self.has_ended);
                self.put(FakeTls::record(FakeTls::HANDSHAKE, FakeTls::STEP), b"");
            }
            Step::Garbage => {
                self.put(vec![b'?', 0, 0], b"");
                self.has_offended |= !self.has_ended;
                self.has_ended = true;
            }
            Step::End { in_band } => {
                let end = if in_band {
                    FakeTls::record(FakeTls::END, b"")
                } else {
                    Vec::new()
                };
                self.put(end, b"");
                self.has_offended |= in_band && !self.has_ended && self.handshakes < 2;
                self.has_ended = true;
            }
            Step::Arrive(count) => self.arrive(count),
            Step::Room(bytes) => self.peer.add_room(bytes),
            Step::Queue { bytes, slice } => {
                self.queue.extend(bytes);
                self.slice = slice.max(1);
            }
            Step::Read(bytes) => self.receive(bytes.max(1)),
            Step::Write => self.write(),
            Step::Close => self.close(),
        }
        self.check();
    }

    /// Lets everything arrive and leave, and checks that nothing is missing.
    pub fn finish(mut self) {
        self.arrive(usize::MAX);
        self.peer.state().room = usize::MAX;
        while self.end.is_none() && !self.is_blocked() {
            self.receive(4_000);
            self.check();
        }
        if !self.tls.needs_handshake() && !self.is_closed {
            while !self.queue.is_empty() && !matches!(self.end, Some(Err(_))) {
                self.write();
            }
        }
        self.close();
        self.check();
        let is_open = !self.tls.needs_handshake();
        if is_open {
            assert_eq!(self.read.len(), self.sent.len(), "bytes are missing");
        }
        match self.end {
            Some(Ok(())) => assert!(self.has_ended),
            Some(Err(_)) => assert!(self.has_ended),
            None => assert!(!self.has_ended, "no end was reported"),
        }
        let opened = self.opened();
        assert!(opened == self.written || self.offered > 0 && self.is_closed);
        assert_eq!(self.tls.buffered_bytes(), 0);
        assert!(self.peer.state().has_received_fin);
        assert_eq!(self.peer.state().misuses, [""; 0]);
    }

    fn put(&mut self, bytes: Vec<u8>, plaintext: &[u8]) {
        if self.has_ended {
            return;
        }
        if self.handshakes < 2 && !plaintext.is_empty() {
            // Packets before the handshake are an offence.
            self.has_offended = true;
            self.has_ended = true;
        } else if self.handshakes < 2 && bytes.first() == Some(&FakeTls::DATA) {
            self.has_offended = true;
            self.has_ended = true;
        } else {
            self.sent.extend_from_slice(plaintext);
        }
        self.wire.extend(bytes);
    }

    fn arrive(&mut self, count: usize) {
        let count = count.min(self.wire.len());
        self.peer.send(&self.wire[..count]);
        self.wire.drain(..count);
        if self.wire.is_empty() && self.has_ended {
            self.peer.finish();
        }
    }

    fn is_blocked(&self) -> bool {
        let state = self.peer.state();
        state.input.is_empty() && !state.has_sent_fin && self.read.len() == self.sent.len()
    }

    fn receive(&mut self, bytes: usize) {
        if self.end.is_some() {
            return;
        }
        if self.tls.needs_handshake() {
            match self.tls.handshake() {
                Ok(HandshakeStep::Done) => assert!(!self.tls.needs_handshake()),
                Ok(HandshakeStep::Blocked | HandshakeStep::Yielded) => {}
                Err(reason) => self.end = Some(Err(reason)),
            }
            return;
        }
        let mut memory = vec![0; bytes];
        match self.tls.read(&mut memory) {
            Ok(ReadOutcome::Bytes(count)) => {
                assert!(
                    count + self.tls.overhead_bytes() > 0,
                    "a read without progress"
                );
                self.read.extend_from_slice(&memory[..count]);
            }
            Ok(ReadOutcome::Blocked) => {}
            Ok(ReadOutcome::Closed) => self.end = Some(Ok(())),
            Err(reason) => {
                assert_eq!(reason, DisconnectReason::Handshake);
                self.end = Some(Err(reason));
            }
        }
    }

    fn write(&mut self) {
        let is_broken = matches!(self.end, Some(Err(_)));
        if self.is_closed || self.tls.needs_handshake() || is_broken {
            return;
        }
        if self.queue.is_empty() {
            self.tls.flush().unwrap();
            return;
        }
        let slices: Vec<_> = (self.queue.chunks(self.slice).take(16))
            .map(IoSlice::new)
            .collect();
        let offered = slices.iter().map(|slice| slice.len()).sum();
        self.offered = self.offered.max(offered);
        match self.tls.write_vectored(&slices) {
            Ok(count) => {
                assert!((1..=self.offered).contains(&count));
                self.written.extend(self.queue.drain(..count));
                self.offered = 0;
            }
            Err(error) if error.kind() == ErrorKind::InvalidData => assert!(self.has_ended),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }

    fn close(&mut self) {
        if self.is_shut {
            return;
        }
        self.is_closed = true;
        self.is_shut = self.tls.shutdown_write().unwrap() == Completion::Done;
    }

    /// The packets in the records that the socket has taken.
    fn opened(&self) -> Vec<u8> {
        let (mut opened, mut rest) = (Vec::new(), &self.output[..]);
        while let Some((kind, body, behind)) = FakeTls::next_record(rest) {
            if kind == FakeTls::DATA {
                opened.extend(body);
            }
            rest = behind;
        }
        opened
    }

    fn check(&mut self) {
        self.output.extend(self.peer.take_output(usize::MAX));
        assert!(
            self.sent.starts_with(&self.read),
            "other bytes than the peer's"
        );
        let opened = self.opened();
        assert!(
            opened.starts_with(&self.written),
            "bytes that are not sent count as sent"
        );
        let all = [&self.written[..], &self.queue].concat();
        assert!(all.starts_with(&opened), "other bytes than the caller's");
        // A record, and answers to what came: one for each record of a handshake.
        let answers = (self.handshakes + 2) * FakeTls::ANSWER_BYTES;
        let record = FakeTls::record(FakeTls::DATA, &[0; FakeTls::MAX_RECORD_BYTES]).len();
        assert!(self.tls.buffered_bytes() <= record + answers);
    }
}
