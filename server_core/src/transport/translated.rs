//! Frames of another framing, as packets.

use super::{Completion, HandshakeStep, ReadOutcome, Transport};
use crate::base::reason::{DisconnectReason, Kick};
use crate::base::transport_kind::TransportKind;
use crate::base::wire::{HEADER_BYTES, MAX_PAYLOAD_BYTES};
use crate::protocol::framing::{Framing, MAX_HEADER_BYTES};
use std::io::{self, ErrorKind, IoSlice};

/// Carries packets to and from a peer with another [`Framing`].
///
/// A payload is passed on as it comes, so the memory is the two headers, whatever length a header claims. A
/// frame with more payload than the largest packet becomes a packet of that payload's first 65,531 bytes;
/// the rest is skipped, and counts as overhead.
///
/// The headers of packets are not sealed: a header that the socket has refused is written anew from the
/// bytes in the caller's queue. So no byte waits here; but a write has to be offered a whole header.
#[derive(Debug)]
pub struct Translated<T> {
    inner: T,
    framing: Framing,
    input: Input,
    output: Output,
    overhead_bytes: usize,
    /// Why the session has to end, behind the bytes that were read last.
    offence: Option<Kick>,
    /// The peer's stream has lost its framing: its bytes have no meaning any more.
    is_broken: bool,
}

/// The position in the stream of frames from the peer.
#[derive(Clone, Copy, Debug, Default)]
struct Input {
    header: [u8; MAX_HEADER_BYTES],
    header_len: usize,
    /// The header of a packet, and how much of it still has to be read.
    packet_header: [u8; HEADER_BYTES],
    packet_header_left: usize,
    /// Bytes of the payload that the present packet still lacks.
    payload_left: usize,
    /// Bytes of the present frame behind the largest packet.
    skip_left: usize,
}

/// The position in the stream of packets to the peer.
#[derive(Clone, Copy, Debug, Default)]
struct Output {
    /// Bytes of the frame's header that the socket has taken, while the packet's header is not sent.
    header_sent: usize,
    payload_left: usize,
}

/// Frames of one write. A flush writes in steps of this size.
const WRITE_BYTES: usize = 4 << 10;

impl<T: Transport> Translated<T> {
    /// Puts `framing` over `inner`.
    #[must_use]
    pub fn new(inner: T, framing: Framing) -> Self {
        Self {
            inner,
            framing,
            input: Input::default(),
            output: Output::default(),
            overhead_bytes: 0,
            offence: None,
            is_broken: false,
        }
    }

    /// The transport of the frames.
    #[must_use]
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// The transport of the frames.
    pub fn inner_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    /// Where the bytes of a read begin in `room` bytes of memory, so that packets grow from its front
    /// without reaching the bytes that are not translated yet.
    ///
    /// A frame's header that ends with the first byte becomes the four bytes of a packet's header. Behind
    /// it, a header of two or three bytes becomes four again: at most double.
    fn read_at(&self, room: usize) -> usize {
        let at = if self.framing.header_bytes() < HEADER_BYTES {
            room / 2 + 2
        } else {
            HEADER_BYTES
        };
        // Of a single byte, a rest of the packet's header waits for the next read.
        at.min(room - 1)
    }
}

impl<T: Transport> Transport for Translated<T> {
    fn read(&mut self, memory: &mut [u8]) -> Result<ReadOutcome, DisconnectReason> {
        self.overhead_bytes = 0;
        let waiting = self.input.take_packet_header(memory);
        if waiting > 0 {
            return Ok(ReadOutcome::Bytes(waiting));
        }
        if let Some(kick) = self.offence.take() {
            return Err(kick.into());
        }
        let at = self.read_at(memory.len());
        let outcome = self.inner.read(&mut memory[at..]);
        self.overhead_bytes = self.inner.overhead_bytes();
        let ReadOutcome::Bytes(count) = outcome? else {
            return outcome;
        };
        // The offence is told once: a draining stream discards what follows, and still flushes.
        if self.is_broken {
            self.overhead_bytes += count;
            return Ok(ReadOutcome::Bytes(0));
        }
        let (bytes, valid) = (self.input).translate(&self.framing, memory, at, at + count);
        self.overhead_bytes += count.saturating_sub(bytes);
        self.is_broken = valid.is_err();
        match valid {
            Err(kick) if bytes == 0 => return Err(kick.into()),
            valid => self.offence = valid.err(),
        }
        Ok(ReadOutcome::Bytes(bytes))
    }

    fn overhead_bytes(&self) -> usize {
        self.overhead_bytes
    }

    fn empty_frames(&self) -> usize {
        self.inner.empty_frames()
    }

    fn kept_bytes(&self) -> usize {
        self.inner.kept_bytes()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut frames = [0; WRITE_BYTES];
        loop {
            let mut ahead = self.output;
            let mut filled = 0;
            ahead.advance(&self.framing, slices, WRITE_BYTES, |bytes| {
                frames[filled..filled + bytes.len()].copy_from_slice(bytes);
                filled += bytes.len();
            })?;
            if filled == 0 {
                debug_assert!(false, "a write was not offered a whole header");
                return Err(ErrorKind::InvalidInput.into());
            }
            let written = self.inner.write(&frames[..filled])?;
            if written == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            let sent = (self.output).advance(&self.framing, slices, written, |_| {})?;
            // The socket may take a part of a header alone.
            if sent > 0 {
                return Ok(sent);
            }
        }
    }

    fn min_write_bytes(&self) -> usize {
        HEADER_BYTES
    }

    fn buffered_bytes(&self) -> usize {
        self.inner.buffered_bytes()
    }

    fn flush(&mut self) -> io::Result<Completion> {
        self.inner.flush()
    }

    fn note_end(&mut self, reason: DisconnectReason) {
        self.is_broken |= reason.discards_input();
        self.inner.note_end(reason);
    }

    fn shutdown_write(&mut self) -> io::Result<Completion> {
        self.inner.shutdown_write()
    }

    fn ends_in_band(&self) -> bool {
        self.inner.ends_in_band()
    }

    fn poll_connected(&mut self) -> io::Result<bool> {
        self.inner.poll_connected()
    }

    fn needs_handshake(&self) -> bool {
        self.inner.needs_handshake()
    }

    fn is_resumed(&self) -> bool {
        self.inner.is_resumed()
    }

    fn kind(&self) -> TransportKind {
        self.inner.kind()
    }

    fn handshake(&mut self) -> Result<HandshakeStep, DisconnectReason> {
        let outcome = self.inner.handshake();
        self.overhead_bytes = self.inner.overhead_bytes();
        outcome
    }
}

impl Input {
    /// Translates the frames in `memory[at..end]` to packets at the front of `memory`. Returns the bytes of
    /// packets, and an error where the frames behind these bytes have no meaning.
    fn translate(
        &mut self,
        framing: &Framing,
        memory: &mut [u8],
        mut at: usize,
        end: usize,
    ) -> (usize, Result<(), Kick>) {
        let mut filled = 0;
        while at < end {
            let left = end - at;
            if self.payload_left > 0 {
                let count = self.payload_left.min(left);
                memory.copy_within(at..at + count, filled);
                self.payload_left -= count;
                filled += count;
                at += count;
            } else if self.skip_left > 0 {
                let count = self.skip_left.min(left);
                self.skip_left -= count;
                at += count;
            } else {
                let have = self.header_len;
                let count = (framing.header_bytes() - have).min(left);
                self.header[have..have + count].copy_from_slice(&memory[at..at + count]);
                self.header_len += count;
                at += count;
                if self.header_len < framing.header_bytes() {
                    break;
                }
                match framing.decode(&self.header[..self.header_len]) {
                    Ok((id, payload_bytes)) => self.begin_packet(id, payload_bytes),
                    Err(kick) => return (filled, Err(kick)),
                }
                filled += self.take_packet_header(&mut memory[filled..]);
            }
            debug_assert!(filled <= at || at == end, "a packet overtook its frame");
        }
        (filled, Ok(()))
    }

    fn begin_packet(&mut self, id: u16, payload_bytes: usize) {
        self.header_len = 0;
        self.payload_left = payload_bytes.min(MAX_PAYLOAD_BYTES);
        self.skip_left = payload_bytes - self.payload_left;
        // The payload has been cut to what the size field of a packet holds.
        let size = (HEADER_BYTES + self.payload_left) as u16;
        let ([a, b], [c, d]) = (size.to_le_bytes(), id.to_le_bytes());
        self.packet_header = [a, b, c, d];
        self.packet_header_left = HEADER_BYTES;
    }

    /// Moves as much of the packet's header to the front of `memory` as fits. Returns its bytes.
    fn take_packet_header(&mut self, memory: &mut [u8]) -> usize {
        let count = self.packet_header_left.min(memory.len());
        let from = HEADER_BYTES - self.packet_header_left;
        memory[..count].copy_from_slice(&self.packet_header[from..from + count]);
        self.packet_header_left -= count;
        count
    }
}

impl Output {
    /// Moves on by up to `limit` bytes of frames, which `emit` gets piece by piece. Returns the bytes of
    /// packets that have become frames.
    fn advance(
        &mut self,
        framing: &Framing,
        slices: &[IoSlice<'_>],
        limit: usize,
        mut emit: impl FnMut(&[u8]),
    ) -> io::Result<usize> {
        let mut packets = Packets { slices, offset: 0 };
        let (mut taken, mut left) = (0, limit);
        loop {
            if self.payload_left > 0 {
                let front = packets.front();
                let bytes = &front[..front.len().min(self.payload_left).min(left)];
                if bytes.is_empty() {
                    return Ok(taken);
                }
                emit(bytes);
                left -= bytes.len();
                self.payload_left -= bytes.len();
                taken += bytes.len();
                packets.skip(bytes.len());
                continue;
            }
            let mut header = [0; HEADER_BYTES];
            if packets.peek(&mut header) < HEADER_BYTES {
                return Ok(taken);
            }
            let [a, b, c, d] = header;
            let (size, id) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
            let payload_bytes = usize::from(size).checked_sub(HEADER_BYTES);
            let payload_bytes = payload_bytes.ok_or(ErrorKind::InvalidInput)?;
            let frame = (framing.encode(id, payload_bytes)).ok_or(ErrorKind::InvalidInput)?;
            let frame = &frame[self.header_sent..framing.header_bytes()];
            let bytes = &frame[..frame.len().min(left)];
            emit(bytes);
            left -= bytes.len();
            if bytes.len() < frame.len() {
                self.header_sent += bytes.len();
                return Ok(taken);
            }
            *self = Self {
                payload_left: payload_bytes,
                ..Self::default()
            };
            taken += HEADER_BYTES;
            packets.skip(HEADER_BYTES);
        }
    }
}

/// The bytes of packets in the slices of a write.
struct Packets<'a> {
    slices: &'a [IoSlice<'a>],
    /// Used bytes of the first slice.
    offset: usize,
}

impl Packets<'_> {
    /// The next bytes; none if all are used.
    fn front(&self) -> &[u8] {
        let mut offset = self.offset;
        for slice in self.slices {
            if offset < slice.len() {
                return &slice[offset..];
            }
            offset = 0;
        }
        &[]
    }

    /// Copies the next bytes without using them. Returns their number.
    fn peek(&self, to: &mut [u8]) -> usize {
        let (mut offset, mut count) = (self.offset, 0);
        for slice in self.slices {
            let bytes = &slice[offset.min(slice.len())..];
            let bytes = &bytes[..bytes.len().min(to.len() - count)];
            to[count..count + bytes.len()].copy_from_slice(bytes);
            count += bytes.len();
            offset = 0;
        }
        count
    }

    /// Uses the next `count` bytes.
    fn skip(&mut self, count: usize) {
        self.offset += count;
        while let Some(first) = self.slices.first()
            && self.offset >= first.len()
        {
            self.offset -= first.len();
            self.slices = &self.slices[1..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::framing::{ByteOrder, IdField, LengthCounts, LengthField};
    use crate::testing::{FakePeer, FakeStream, packet};

    const BIG: Framing = Framing {
        length: LengthField::U32,
        byte_order: ByteOrder::BigEndian,
        length_counts: LengthCounts::Payload,
        id: IdField::None,
        ..Framing::NATIVE
    };

    fn translated(framing: Framing) -> (Translated<FakeStream>, FakePeer) {
        let (stream, peer) = FakeStream::pair();
        (Translated::new(stream, framing), peer)
    }

    #[test]
    fn frames_are_packets_in_both_directions() {
        let (mut stream, peer) = translated(BIG);
        peer.send(b"\0\0\0\x02hi\0\0\0\0");
        let memory = &mut [0; 64];
        assert_eq!(stream.read(memory), Ok(ReadOutcome::Bytes(10)));
        assert_eq!(memory[..10], [packet(0, b"hi"), packet(0, b"")].concat());
        assert_eq!(stream.overhead_bytes(), 0);
        let packets = [packet(7, b"hello"), packet(8, b"")].concat();
        assert_eq!(stream.write(&packets).unwrap(), packets.len());
        assert_eq!(peer.take_output(99), b"\0\0\0\x05hello\0\0\0\0");
    }

    #[test]
    fn payload_above_the_largest_packet_is_cut_and_its_rest_is_overhead() {
        let (mut stream, peer) = translated(BIG);
        let payload: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        peer.send(&100_000_u32.to_be_bytes());
        peer.send(&payload);
        peer.send(b"\0\0\0\x01z");
        let (mut packets, mut overhead_bytes) = (Vec::new(), 0);
        let memory = &mut [0; 5_000];
        while let Ok(ReadOutcome::Bytes(count)) = stream.read(memory) {
            packets.extend_from_slice(&memory[..count]);
            overhead_bytes += stream.overhead_bytes();
        }
        let expected = [packet(0, &payload[..65_531]), packet(0, b"z")].concat();
        assert!(packets == expected);
        assert_eq!(overhead_bytes, 100_000 - 65_531);
    }

    #[test]
    fn packets_before_an_offence_are_read_first_and_bytes_behind_it_are_overhead() {
        let framing = Framing {
            max_frame_bytes: 9,
            ..BIG
        };
        let (mut stream, peer) = translated(framing);
        peer.send(b"\0\0\0\x01a\0\0\0\x0abcdefghijk");
        let memory = &mut [0; 64];
        assert_eq!(stream.read(memory), Ok(ReadOutcome::Bytes(5)));
        assert_eq!(stream.read(memory), Err(Kick::TooLarge.into()));
        assert_eq!(stream.read(memory), Ok(ReadOutcome::Blocked));
        peer.send(b"\0\0\0\x01a");
        assert_eq!(stream.read(memory), Ok(ReadOutcome::Bytes(0)));
        assert_eq!(stream.overhead_bytes(), 5);
    }

    #[test]
    fn memory_does_not_follow_the_length_that_a_header_claims() {
        let framing = Framing {
            max_frame_bytes: u32::MAX,
            ..BIG
        };
        let (mut stream, peer) = translated(framing);
        peer.send(&u32::MAX.to_be_bytes());
        assert_eq!(stream.read(&mut [0; 64]), Ok(ReadOutcome::Bytes(4)));
        // Both headers and both positions: nothing else is kept, and nothing is on the heap.
        assert!(size_of::<Translated<FakeStream>>() <= 200);
    }

    #[test]
    fn packet_whose_header_has_gone_in_part_is_not_sent() {
        let (mut stream, peer) = translated(BIG);
        peer.state().room = 3;
        let bytes = packet(7, b"");
        let error = stream.write(&bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        peer.add_room(1);
        assert_eq!(stream.write(&bytes).unwrap(), 4);
        assert_eq!(peer.take_output(99), [0; 4]);
    }

    #[test]
    fn id_that_its_field_cannot_hold_breaks_the_stream() {
        let framing = Framing {
            id: IdField::U8,
            ..BIG
        };
        let (mut stream, _peer) = translated(framing);
        let error = stream.write(&packet(256, b"x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}
