//! TLS over a transport, as a transport. The engine encrypts; this file decides when, and what is kept.
//!
//! ```text
//!  socket --read--> caller's memory --engine--> plaintext, in the same memory
//!  queue --up to 16 KiB--> engine --record--> this thread's scratch --one send--> socket
//!                                                                     (the rest --> `held`)
//! ```
//!
//! Packets are encrypted at the last moment: in the flush, when the socket is about to take them. A record that
//! the socket has not taken as a whole is kept, and nothing is encrypted before it has gone. So a session keeps
//! one record at most, and its packets wait as plaintext in its queue, where the limits are.

use super::{Completion, HandshakeStep, MAX_HANDSHAKE_READS, ReadOutcome, Transport, write_out};
use crate::base::reason::DisconnectReason;
use crate::base::transport_kind::TransportKind;
use std::cell::RefCell;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice};

/// The cryptography of one connection: records in, records out. No socket, and no buffer for plaintext.
pub trait TlsEngine {
    /// Takes the records at the front of `input` that are complete, appends their plaintext to `plaintext`, and
    /// what the peer is owed for them (handshake, alert) to `output`. An empty `input` begins the handshake.
    ///
    /// Returns the number of bytes that are done with. The others may have changed, and are the beginning of the
    /// next `input`.
    ///
    /// # Errors
    /// The peer has broken the protocol. `plaintext` has what came before, and `output` an alert. No call
    /// succeeds any more.
    fn read(
        &mut self,
        input: &mut [u8],
        plaintext: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<usize, TlsBroken>;

    /// Appends `plaintext` to `output`, as a record. `incomplete` is what the last read has left.
    ///
    /// # Errors
    /// The protocol is broken, or its keys are used up.
    fn write(
        &mut self,
        incomplete: &mut [u8],
        plaintext: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), TlsBroken>;

    /// Appends the message that ends this side to `output`. No write follows.
    fn close(&mut self, incomplete: &mut [u8], output: &mut Vec<u8>);

    /// The records that reads have taken since the last call.
    fn take_records(&mut self) -> Records {
        Records::default()
    }

    /// Whether the handshake is not complete.
    fn is_handshaking(&self) -> bool;

    /// Whether the peer has ended its side with a message. What comes behind that is not read.
    fn is_peer_closed(&self) -> bool;

    /// Whether the handshake has continued an earlier session.
    fn is_resumed(&self) -> bool;
}

/// Numbers of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Records with plaintext.
    pub filled: usize,
    /// Records without plaintext: updates of keys, alerts, empty records.
    pub empty: usize,
    /// What the signature of a handshake among them has cost beyond one of ECDSA with P-256, which the price of a
    /// step contains, in bytes of a turn's input.
    pub signing_cost: usize,
}

impl Records {
    /// What these records cost of the input of a turn beyond their bytes.
    fn cost(self) -> usize {
        MIN_RECORD_COST * self.filled + EMPTY_RECORD_COST * self.empty + self.signing_cost
    }
}

/// The connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsBroken(pub String);

impl fmt::Display for TlsBroken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A connection with TLS.
pub struct Tls<T, E> {
    inner: T,
    engine: E,
    /// Bytes of the peer that are not a complete record, or a part of a message of the handshake.
    incomplete: Vec<u8>,
    /// Plaintext for which the caller's memory had no room.
    opened: Vec<u8>,
    /// Records that the socket has not taken.
    held: Vec<u8>,
    /// Bytes of packets in `held`. They are at the front of the caller's queue as well.
    sealed: usize,
    /// The peer's stream has ended behind `opened`.
    end: Option<End>,
    has_begun: bool,
    is_closing: bool,
    /// The session has ended so that no byte of the peer has a meaning any more.
    is_discarding: bool,
    overhead_bytes: usize,
    /// Records of the last read that had no plaintext.
    empty_records: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Broken { is_told: bool },
}

/// The most plaintext in a record, by the protocol.
const MAX_RECORD_BYTES: usize = 16 << 10;
/// The most bytes that a connection keeps of what is not complete: two records. A client needs more for the
/// certificates of its server.
const MAX_INCOMPLETE_BYTES: usize = 2 * (MAX_RECORD_BYTES + 2_048 + 5);
/// What a record costs of the input of a turn beyond its bytes: as much as a packet costs at least.
const MIN_RECORD_COST: usize = 64;
/// What a record without plaintext costs: an update of keys derives the keys of both directions. At the cost of a packet,
/// 20 peers that send updates without end raised the p99 of ticks by 21 and 34 ms (`scripts/attack.sh`), and by 10 and
/// 14 ms at this cost.
const EMPTY_RECORD_COST: usize = 1 << 10;
/// What a byte of a handshake costs: a ClientHello of 33 kB takes up to 1 ms, by key shares, tickets or extensions in
/// great number, where 16 KiB of the turn's input stand for 0.13 ms.
const HANDSHAKE_BYTE_COST: usize = 4;
/// Bytes of one read during the handshake.
const HANDSHAKE_READ_BYTES: usize = 8 << 10;

/// Memory of a thread, for the time of one call.
#[derive(Default)]
struct Scratch {
    input: Vec<u8>,
    plaintext: Vec<u8>,
    output: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Gives back memory that the bytes do not need: it would stay as long as a few bytes do.
fn fit(bytes: &mut Vec<u8>) {
    if bytes.capacity() > 2 * bytes.len() {
        *bytes = bytes.as_slice().to_vec();
    }
}

impl<T: Transport, E: TlsEngine> Tls<T, E> {
    /// Puts TLS over `inner`.
    #[must_use]
    pub fn new(inner: T, engine: E) -> Self {
        Self {
            inner,
            engine,
            incomplete: Vec::new(),
            opened: Vec::new(),
            held: Vec::new(),
            sealed: 0,
            end: None,
            has_begun: false,
            is_closing: false,
            is_discarding: false,
            overhead_bytes: 0,
            empty_records: 0,
        }
    }

    /// The transport below.
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// The transport below, for registering it.
    pub fn inner_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    /// The engine is not called any more: it may still refer to bytes that are gone.
    fn is_broken(&self) -> bool {
        matches!(self.end, Some(End::Broken { .. }))
    }

    /// Takes what has come through the engine.
    fn open(&mut self, input: &mut [u8], plaintext: &mut Vec<u8>) {
        let held = self.held.len();
        let outcome = if self.incomplete.is_empty() {
            let outcome = self.engine.read(input, plaintext, &mut self.held);
            if let Ok(taken) = outcome {
                self.incomplete.extend_from_slice(&input[taken..]);
            }
            outcome
        } else {
            self.incomplete.extend_from_slice(input);
            let outcome = (self.engine).read(&mut self.incomplete, plaintext, &mut self.held);
            if let Ok(taken) = outcome {
                self.incomplete.drain(..taken);
            }
            outcome
        };
        if self.is_closing {
            // The message that ends this side is the last.
            self.held.truncate(held);
        }
        let is_too_long = self.incomplete.len() > MAX_INCOMPLETE_BYTES;
        if let Err(error) = &outcome {
            log::debug!("TLS: {error}");
        }
        if outcome.is_err() || is_too_long {
            self.end = Some(End::Broken { is_told: false });
        } else if self.engine.is_peer_closed() {
            self.end = Some(End::Closed);
        }
        if self.end.is_some() {
            self.incomplete = Vec::new();
        }
        fit(&mut self.incomplete);
    }

    /// Writes the records that are kept. `Done`: no byte is left.
    fn push_out(&mut self) -> io::Result<Completion> {
        let mut sent = 0;
        let outcome = write_out(&mut self.inner, &self.held, &mut sent);
        self.held.drain(..sent);
        fit(&mut self.held);
        outcome
    }

    /// Encrypts the first bytes of `slices` as one record, and sends it.
    fn seal(&mut self, slices: &[IoSlice<'_>], scratch: &mut Scratch) -> io::Result<usize> {
        let Scratch {
            plaintext, output, ..
        } = scratch;
        if self.is_broken() {
            return Err(ErrorKind::InvalidData.into());
        }
        let bytes = match slices {
            [one] => &one[..one.len().min(MAX_RECORD_BYTES)],
            several => {
                plaintext.clear();
                for slice in several {
                    let left = MAX_RECORD_BYTES - plaintext.len();
                    plaintext.extend_from_slice(&slice[..slice.len().min(left)]);
                }
                plaintext
            }
        };
        output.clear();
        (self.engine.write(&mut self.incomplete, bytes, output))
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, error.0))?;
        let mut sent = 0;
        if write_out(&mut self.inner, output, &mut sent)? == Completion::Pending {
            self.held.extend_from_slice(&output[sent..]);
            self.sealed = bytes.len();
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(bytes.len())
    }
}

impl<T: Transport, E: TlsEngine> Transport for Tls<T, E> {
    fn read(&mut self, memory: &mut [u8]) -> Result<ReadOutcome, DisconnectReason> {
        (self.overhead_bytes, self.empty_records) = (0, 0);
        if !self.opened.is_empty() {
            let count = memory.len().min(self.opened.len());
            memory[..count].copy_from_slice(&self.opened[..count]);
            self.opened.drain(..count);
            fit(&mut self.opened);
            return Ok(ReadOutcome::Bytes(count));
        }
        match self.end {
            Some(End::Closed) => return Ok(ReadOutcome::Closed),
            Some(End::Broken { is_told: false }) => {
                self.end = Some(End::Broken { is_told: true });
                return Err(DisconnectReason::Handshake);
            }
            Some(End::Broken { is_told: true }) | None => {}
        }
        let outcome = self.inner.read(memory)?;
        let ReadOutcome::Bytes(taken) = outcome else {
            return Ok(outcome);
        };
        // Nothing behind a broken rule has a meaning.
        let count = if self.end.is_some() || self.is_discarding {
            0
        } else {
            SCRATCH.with_borrow_mut(|Scratch { plaintext, .. }| {
                plaintext.clear();
                self.open(&mut memory[..taken], plaintext);
                let count = plaintext.len().min(memory.len());
                memory[..count].copy_from_slice(&plaintext[..count]);
                self.opened.extend_from_slice(&plaintext[count..]);
                count
            })
        };
        let records = self.engine.take_records();
        self.empty_records = records.empty;
        self.overhead_bytes = taken.saturating_sub(count) + records.cost();
        Ok(ReadOutcome::Bytes(count))
    }

    fn overhead_bytes(&self) -> usize {
        self.overhead_bytes
    }

    fn empty_frames(&self) -> usize {
        self.empty_records
    }

    fn kept_bytes(&self) -> usize {
        self.incomplete.capacity() + self.opened.capacity()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if !self.held.is_empty() && self.push_out()? == Completion::Pending {
            return Err(ErrorKind::WouldBlock.into());
        }
        if self.sealed > 0 {
            return Ok(std::mem::take(&mut self.sealed));
        }
        SCRATCH.with_borrow_mut(|scratch| self.seal(slices, scratch))
    }

    fn buffered_bytes(&self) -> usize {
        self.held.len()
    }

    fn flush(&mut self) -> io::Result<Completion> {
        self.push_out()
    }

    fn note_end(&mut self, reason: DisconnectReason) {
        // A handshake leads to no session any more.
        self.is_discarding |= reason.discards_input() || self.engine.is_handshaking();
        self.inner.note_end(reason);
    }

    fn shutdown_write(&mut self) -> io::Result<Completion> {
        let is_new = !std::mem::replace(&mut self.is_closing, true);
        if is_new && !self.engine.is_handshaking() && !self.is_broken() {
            self.engine.close(&mut self.incomplete, &mut self.held);
        }
        match self.push_out()? {
            Completion::Pending => Ok(Completion::Pending),
            Completion::Done => self.inner.shutdown_write(),
        }
    }

    fn ends_in_band(&self) -> bool {
        true
    }

    fn poll_connected(&mut self) -> io::Result<bool> {
        self.inner.poll_connected()
    }

    fn needs_handshake(&self) -> bool {
        self.engine.is_handshaking()
    }

    fn is_resumed(&self) -> bool {
        self.engine.is_resumed()
    }

    fn kind(&self) -> TransportKind {
        TransportKind::Tls
    }

    fn handshake(&mut self) -> Result<HandshakeStep, DisconnectReason> {
        (self.overhead_bytes, self.empty_records) = (0, 0);
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch {
                input, plaintext, ..
            } = scratch;
            input.resize(HANDSHAKE_READ_BYTES, 0);
            plaintext.clear();
            let mut taken = if std::mem::replace(&mut self.has_begun, true) {
                None
            } else {
                Some(0)
            };
            let mut reads = 0..MAX_HANDSHAKE_READS;
            loop {
                if let Some(count) = taken {
                    self.open(&mut input[..count], plaintext);
                    let records = self.engine.take_records();
                    self.overhead_bytes += HANDSHAKE_BYTE_COST * count + records.cost();
                }
                let pushed = self.push_out();
                if !self.engine.is_handshaking() {
                    // The peer's first packets may have come with the end of its handshake.
                    self.opened.extend_from_slice(plaintext);
                    let pushed = pushed.map_err(|error| DisconnectReason::from_io(&error));
                    return pushed.map(|_| HandshakeStep::Done);
                }
                match self.end {
                    Some(End::Broken { .. }) => return Err(DisconnectReason::Handshake),
                    Some(End::Closed) => return Err(DisconnectReason::PeerClosed),
                    None => {}
                }
                match pushed {
                    Ok(Completion::Done) => {}
                    Ok(Completion::Pending) => return Ok(HandshakeStep::Blocked),
                    Err(error) => return Err(DisconnectReason::from_io(&error)),
                }
                if reads.next().is_none() {
                    return Ok(HandshakeStep::Yielded);
                }
                taken = match self.inner.read(input)? {
                    ReadOutcome::Bytes(count) => Some(count),
                    ReadOutcome::Blocked => return Ok(HandshakeStep::Blocked),
                    ReadOutcome::Closed => return Err(DisconnectReason::PeerClosed),
                };
            }
        })
    }
}

impl<T: fmt::Debug, E> fmt::Debug for Tls<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::reason::Kick;
    use crate::testing::{Call, FakePeer, FakeStream, FakeTls, Outcome};
    use std::sync::Arc;

    fn established() -> (Tls<FakeStream, FakeTls>, FakePeer) {
        let (stream, peer) = FakeStream::pair();
        (Tls::new(stream, FakeTls::established(usize::MAX)), peer)
    }

    fn data(bytes: usize) -> Vec<u8> {
        FakeTls::record(FakeTls::DATA, &vec![1; bytes])
    }

    #[test]
    fn a_byte_of_the_next_record_keeps_no_memory_of_the_records_before() {
        let (mut tls, peer) = established();
        let memory = &mut vec![0; 64 << 10];
        for _ in 0..3 {
            peer.send(&data(100).repeat(600));
            peer.send(&data(100)[..1]);
            assert_eq!(tls.read(memory), Ok(ReadOutcome::Bytes(60_000)));
            assert!((1..100).contains(&tls.kept_bytes()), "{}", tls.kept_bytes());
            peer.send(&data(100)[1..]);
            assert_eq!(tls.read(memory), Ok(ReadOutcome::Bytes(100)));
            assert_eq!(tls.kept_bytes(), 0);
        }
        // More plaintext than there is room for, read in two parts.
        let record = data(99);
        peer.send(&record[..90]);
        assert_eq!(tls.read(&mut [0; 90]), Ok(ReadOutcome::Bytes(0)));
        peer.send(&record[90..]);
        assert_eq!(tls.read(&mut [0; 90]), Ok(ReadOutcome::Bytes(90)));
        assert!((1..100).contains(&tls.kept_bytes()), "{}", tls.kept_bytes());
        assert_eq!(tls.read(&mut [0; 90]), Ok(ReadOutcome::Bytes(9)));
        assert_eq!(tls.kept_bytes(), 0);
    }

    #[test]
    fn a_record_costs_more_than_its_bytes_and_one_without_plaintext_is_told() {
        let (mut tls, peer) = established();
        let records = [data(97), data(0), data(97), data(0), data(97)].concat();
        peer.send(&records);
        let memory = &mut [0; 500];
        assert_eq!(tls.read(memory), Ok(ReadOutcome::Bytes(3 * 97)));
        let overhead_bytes = records.len() - 3 * 97;
        let cost = 3 * MIN_RECORD_COST + 2 * EMPTY_RECORD_COST;
        assert_eq!(tls.overhead_bytes(), overhead_bytes + cost);
        assert_eq!(tls.empty_frames(), 2);
        assert_eq!(tls.read(memory), Ok(ReadOutcome::Blocked));
        assert_eq!((tls.overhead_bytes(), tls.empty_frames()), (0, 0));
    }

    #[test]
    fn after_a_kick_no_record_is_opened_and_the_last_message_still_goes_out() {
        let (mut tls, peer) = established();
        tls.note_end(Kick::RateLimit.into());
        peer.send(&data(97));
        let memory = &mut [0; 500];
        assert_eq!(tls.read(memory), Ok(ReadOutcome::Bytes(0)));
        assert_eq!(tls.overhead_bytes(), data(97).len());
        assert_eq!(tls.shutdown_write().unwrap(), Completion::Done);
        assert!(peer.state().has_received_fin && !peer.take_output(99).is_empty());
        peer.finish();
        assert_eq!(tls.read(memory), Ok(ReadOutcome::Closed));
    }

    #[test]
    fn handshake_does_not_go_on_after_the_end_of_its_session() {
        for reason in [DisconnectReason::Shutdown, Kick::RateLimit.into()] {
            let (stream, peer) = FakeStream::pair();
            let mut tls = Tls::new(stream, FakeTls::new(Arc::default()));
            assert_eq!(tls.handshake(), Ok(HandshakeStep::Blocked));
            let begun = peer.take_output(9_999).len();
            tls.note_end(reason);
            peer.send(&FakeTls::record(FakeTls::HANDSHAKE, FakeTls::STEP));
            assert_eq!(tls.read(&mut [0; 500]), Ok(ReadOutcome::Bytes(0)));
            assert!(tls.needs_handshake(), "{reason:?} after {begun} bytes");
            assert_eq!(tls.buffered_bytes(), 0);
        }
    }

    #[test]
    fn a_step_of_a_handshake_costs_its_signature_once_whether_it_succeeds_or_not() {
        let step = FakeTls::record(FakeTls::HANDSHAKE, FakeTls::STEP);
        for (input, outcome) in [
            (step.clone(), Ok(HandshakeStep::Blocked)),
            ([step, data(1)].concat(), Err(DisconnectReason::Handshake)),
        ] {
            let (stream, peer) = FakeStream::pair();
            let engine = FakeTls::new(Arc::default()).with_signing_cost(5_000);
            let mut tls = Tls::new(stream, engine);
            assert_eq!(tls.handshake(), Ok(HandshakeStep::Blocked));
            assert_eq!(tls.overhead_bytes(), 0);
            peer.send(&input);
            assert_eq!(tls.handshake(), outcome);
            let cost = HANDSHAKE_BYTE_COST * input.len() + 5_000 + EMPTY_RECORD_COST;
            assert_eq!(tls.overhead_bytes(), cost);
            assert_eq!(tls.handshake(), outcome);
            assert_eq!(tls.overhead_bytes(), 0);
        }
    }

    #[test]
    fn a_handshake_in_single_bytes_is_read_in_bounded_steps() {
        let (stream, peer) = FakeStream::pair();
        let mut tls = Tls::new(stream, FakeTls::new(Arc::default()));
        let input = FakeTls::record(FakeTls::HANDSHAKE, &[0; 2 * MAX_HANDSHAKE_READS]);
        for _ in 0..input.len() {
            peer.script(Call::Read, Outcome::AtMost(1));
        }
        peer.send(&input);
        for steps in 1..=2 {
            assert_eq!(tls.handshake(), Ok(HandshakeStep::Yielded));
            assert_eq!(peer.state().read_bytes, steps * MAX_HANDSHAKE_READS);
        }
        assert_ne!(tls.handshake(), Ok(HandshakeStep::Yielded));
        assert_eq!(peer.state().read_bytes, input.len());
    }

    #[test]
    fn a_record_that_cannot_be_sealed_is_no_doing_of_the_peer() {
        let (stream, _peer) = FakeStream::pair();
        let mut tls = Tls::new(stream, FakeTls::established(1));
        assert_eq!(tls.write(b"with the last key").unwrap(), 17);
        let error = tls.write(b"without a key").unwrap_err();
        assert_eq!(
            DisconnectReason::from_io(&error),
            DisconnectReason::Handshake
        );
    }
}
