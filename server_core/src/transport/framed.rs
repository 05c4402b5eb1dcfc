//! A codec over a transport, as a transport.

use super::{Completion, HandshakeStep, ReadOutcome, Transport, write_out};
use crate::base::reason::{DisconnectReason, Kick};
use crate::base::transport_kind::TransportKind;
use crate::buffer::queue::MAX_SLICES;
use crate::protocol::codec::Codec;
use std::io::{self, ErrorKind, IoSlice};

/// Carries packets in the framing of a [`Codec`].
///
/// A write is one *run*: the codec's prefix goes out before it, in the same write, and the packets stay where
/// they lie. A run that the socket takes in part goes on with the next write. The codec's answers
/// go out between two runs.
#[derive(Debug)]
pub struct Framed<T, C> {
    inner: T,
    codec: C,
    /// Bytes before the rest of the run, in an order that no longer changes.
    head: Vec<u8>,
    /// Sent bytes of the run that has begun.
    run_sent: usize,
    /// Unsent bytes of that run. They are at the front of the caller's queue.
    run_left: usize,
    /// Answers that wait for the end of the run.
    replies: Vec<u8>,
    /// The peer's stream has ended here.
    end: Option<Result<(), Kick>>,
    /// The peer's stream has lost its framing: its bytes have no meaning any more.
    is_broken: bool,
    end_reason: DisconnectReason,
    is_closing: bool,
    /// The socket refused a byte of the last write.
    is_blocked: bool,
    overhead_bytes: usize,
    empty_frames: usize,
}

/// A peer does not read its answers if more bytes of answers wait behind a socket that would block. Before
/// that, the input of one turn bounds them.
const MAX_REPLY_BYTES: usize = 4 << 10;
/// Head and run of up to this number of bytes together are copied for a write.
const COPIED_BYTES: usize = 2 << 10;

impl<T: Transport, C: Codec> Framed<T, C> {
    /// Puts `codec` over `inner`.
    #[must_use]
    pub fn new(inner: T, codec: C) -> Self {
        Self {
            inner,
            codec,
            head: Vec::new(),
            run_sent: 0,
            run_left: 0,
            replies: Vec::new(),
            end: None,
            is_broken: false,
            end_reason: DisconnectReason::Closed,
            is_closing: false,
            is_blocked: false,
            overhead_bytes: 0,
            empty_frames: 0,
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

    fn decode(&mut self, input: &mut [u8]) -> usize {
        // The offence is told once: a draining stream discards what follows, and still flushes. Before the
        // handshake is complete, no frame has a meaning, and no answer may go out.
        if self.is_broken || self.inner.needs_handshake() {
            self.overhead_bytes += input.len();
            return 0;
        }
        let decoded = self.codec.decode(input, &mut self.replies);
        let bytes = decoded.bytes;
        self.end = decoded.end;
        self.overhead_bytes += input.len() - bytes;
        self.empty_frames += decoded.empty_frames;
        if self.is_closing {
            // The message that ends the stream is the last.
            self.replies.clear();
        } else if self.is_blocked && self.replies.len() > MAX_REPLY_BYTES {
            self.end = Some(Err(Kick::SlowConsumer));
        }
        bytes
    }

    /// Writes the head, and then `slices` as far as the run goes. Returns the bytes of the run.
    fn write_run(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let is_short = self.head.len() + self.run_left <= COPIED_BYTES;
        let outcome = if is_short || self.codec.masks_runs() {
            self.write_copied(slices)
        } else {
            self.write_gathered(slices)
        };
        self.is_blocked = matches!(&outcome, Err(error) if error.kind() == ErrorKind::WouldBlock);
        let written = outcome?;
        let of_head = written.min(self.head.len());
        self.head.drain(..of_head);
        let of_run = (written - of_head).min(self.run_left);
        (self.run_sent, self.run_left) = (self.run_sent + of_run, self.run_left - of_run);
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        Ok(of_run)
    }

    /// Writes head and run as they lie.
    #[inline(never)]
    fn write_gathered(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut all = [IoSlice::new(&[]); MAX_SLICES + 1];
        all[0] = IoSlice::new(&self.head);
        let (mut count, mut left) = (1, self.run_left);
        for (slice, bytes) in all[1..].iter_mut().zip(slices) {
            let bytes = &bytes[..bytes.len().min(left)];
            left -= bytes.len();
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        let first = usize::from(self.head.is_empty());
        self.inner.write_vectored(&all[first..count])
    }

    /// Writes a copy of head and run: the system takes one slice in less time than two, and a mask changes the
    /// bytes. A part that the socket refuses is copied again by the next write.
    fn write_copied(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.head.len() >= COPIED_BYTES {
            return self.inner.write(&self.head);
        }
        let mut copy = [0; COPIED_BYTES];
        let begin = self.head.len();
        copy[..begin].copy_from_slice(&self.head);
        let most = (begin + self.run_left).min(COPIED_BYTES);
        let mut filled = begin;
        for slice in slices {
            let bytes = &slice[..slice.len().min(most - filled)];
            copy[filled..filled + bytes.len()].copy_from_slice(bytes);
            filled += bytes.len();
        }
        if self.codec.masks_runs() {
            self.codec.mask(self.run_sent, &mut copy[begin..filled]);
        }
        self.inner.write(&copy[..filled])
    }
}

impl<T: Transport, C: Codec> Transport for Framed<T, C> {
    fn read(&mut self, memory: &mut [u8]) -> Result<ReadOutcome, DisconnectReason> {
        (self.overhead_bytes, self.empty_frames) = (0, 0);
        let mut taken_bytes = 0;
        loop {
            match self.end {
                Some(Ok(())) => return Ok(ReadOutcome::Closed),
                Some(Err(kick)) => {
                    (self.end, self.is_broken) = (None, true);
                    return Err(kick.into());
                }
                None => {}
            }
            let outcome = self.inner.read(memory)?;
            self.overhead_bytes += self.inner.overhead_bytes();
            self.empty_frames += self.inner.empty_frames();
            let ReadOutcome::Bytes(count) = outcome else {
                return Ok(outcome);
            };
            taken_bytes += count + self.inner.overhead_bytes();
            let bytes = self.decode(&mut memory[..count]);
            if bytes > 0 || taken_bytes >= memory.len() {
                return Ok(ReadOutcome::Bytes(bytes));
            }
        }
    }

    fn overhead_bytes(&self) -> usize {
        self.overhead_bytes
    }

    fn empty_frames(&self) -> usize {
        self.empty_frames
    }

    fn kept_bytes(&self) -> usize {
        self.inner.kept_bytes()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.run_left == 0 {
            let offered: usize = slices.iter().map(|slice| slice.len()).sum();
            self.head.append(&mut self.replies);
            (self.run_sent, self.run_left) = (0, offered.min(C::MAX_RUN_BYTES));
            self.codec.begin_run(self.run_left, &mut self.head);
        }
        loop {
            // The socket may take the head alone.
            let sent = self.write_run(slices)?;
            if sent > 0 {
                return Ok(sent);
            }
        }
    }

    fn buffered_bytes(&self) -> usize {
        self.head.len() + self.replies.len() + self.inner.buffered_bytes()
    }

    fn flush(&mut self) -> io::Result<Completion> {
        debug_assert_eq!(self.run_left, 0, "the caller has nothing to write before");
        self.head.append(&mut self.replies);
        let mut sent = 0;
        let written = write_out(&mut self.inner, &self.head, &mut sent);
        self.head.drain(..sent);
        let completion = match written? {
            Completion::Done => self.inner.flush()?,
            Completion::Pending => Completion::Pending,
        };
        self.is_blocked = completion == Completion::Pending;
        Ok(completion)
    }

    fn note_end(&mut self, reason: DisconnectReason) {
        self.end_reason = reason;
        // No frame has a meaning any more. A peer that goes on with its flood would have each one decoded.
        self.is_broken |= reason.discards_input();
        if reason == DisconnectReason::Handshake {
            // The rest of the run is gone: not even a last frame has a meaning.
            (self.head, self.replies, self.run_left) = (Vec::new(), Vec::new(), 0);
            self.is_closing = true;
        }
        self.inner.note_end(reason);
    }

    fn shutdown_write(&mut self) -> io::Result<Completion> {
        if !std::mem::replace(&mut self.is_closing, true) && !self.inner.needs_handshake() {
            self.codec.close(self.end_reason, &mut self.replies);
        }
        match self.flush()? {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::codec::Decoded;
    use crate::testing::{Call, FakePeer, FakeStream, FakeTls, Outcome};
    use crate::transport::Tls;

    /// Lower-case letters are packets. `?` is answered with `!`, `.` ends, `#` breaks a rule.
    struct Letters;

    impl Codec for Letters {
        const MAX_RUN_BYTES: usize = 9;

        fn decode(&mut self, input: &mut [u8], replies: &mut Vec<u8>) -> Decoded {
            let mut decoded = Decoded::default();
            for at in 0..input.len() {
                match input[at] {
                    b'?' => replies.push(b'!'),
                    b'.' => decoded.end = Some(Ok(())),
                    b'#' => decoded.end = Some(Err(Kick::BadPayload)),
                    letter => {
                        input[decoded.bytes] = letter;
                        decoded.bytes += 1;
                    }
                }
                if decoded.end.is_some() {
                    break;
                }
            }
            decoded
        }

        fn begin_run(&mut self, bytes: usize, out: &mut Vec<u8>) {
            out.extend([b'<', b'0' + bytes as u8, b'>']);
        }

        fn close(&mut self, _: DisconnectReason, out: &mut Vec<u8>) {
            out.push(b'$');
        }
    }

    /// A stream that has this input, and whose socket takes this number of bytes.
    fn framed(input: &[u8], room: usize) -> (Framed<FakeStream, Letters>, FakePeer) {
        let (stream, peer) = FakeStream::pair();
        peer.send(input);
        peer.state().room = room;
        (Framed::new(stream, Letters), peer)
    }

    /// The records in these bytes: plaintext in parentheses, and the kinds of the others.
    fn opened(mut bytes: &[u8]) -> String {
        let mut text = String::new();
        while let Some((kind, body, rest)) = FakeTls::next_record(bytes) {
            match kind {
                FakeTls::DATA => text += &format!("({})", String::from_utf8_lossy(&body)),
                kind => text.push(char::from(kind)),
            }
            bytes = rest;
        }
        assert!(bytes.is_empty(), "a part of a record");
        text
    }

    /// The peer breaks a record while a run, its second part, an answer, or nothing waits in a record that its
    /// socket has taken in part.
    #[test]
    fn a_stream_whose_record_was_broken_sends_what_is_sealed_and_nothing_behind() {
        let first = FakeTls::record(FakeTls::DATA, b"<9>abcdefghi").len();
        for (input, room, output) in [
            (&b""[..], 2, "(<9>abcdefghi)a"),
            (b"??", 2, "(<9>abcdefghi)a"),
            (b"", first + 3, "(<9>abcdefghi)(<3>jkl)a"),
            (b"", usize::MAX, "(<9>abcdefghi)(<3>jkl)a"),
        ] {
            let (stream, peer) = FakeStream::pair();
            peer.state().room = room;
            let tls = Tls::new(stream, FakeTls::established(usize::MAX));
            let mut stream = Framed::new(tls, Letters);
            let mut queue = &b"abcdefghijkl"[..];
            while let Ok(sent) = stream.write(queue) {
                queue = &queue[sent..];
                if queue.is_empty() {
                    break;
                }
            }
            let memory = &mut [0; 64];
            if !input.is_empty() {
                peer.send(&FakeTls::record(FakeTls::DATA, input));
            }
            assert!(stream.read(memory).is_ok());
            peer.send(&FakeTls::record(b'#', b""));
            let broken = Err(DisconnectReason::Handshake);
            assert_eq!(stream.read(memory), broken);
            // The queue is dropped here.
            stream.note_end(DisconnectReason::Handshake);
            while stream.buffered_bytes() > 0 {
                peer.add_room(3);
                assert!(stream.flush().is_ok());
            }
            assert_eq!(stream.shutdown_write().unwrap(), Completion::Done);
            assert_eq!(opened(&peer.take_output(usize::MAX)), output);
            assert!(peer.state().has_received_fin);
        }
    }

    fn is_blocked(written: io::Result<usize>) -> bool {
        written.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    #[test]
    fn one_prefix_goes_before_all_packets_of_a_write() {
        let (mut stream, peer) = framed(b"", 99);
        let slices = [IoSlice::new(b"ab"), IoSlice::new(b"cde")];
        assert_eq!(stream.write_vectored(&slices).unwrap(), 5);
        assert_eq!(peer.take_output(99), b"<5>abcde");
        assert_eq!(stream.buffered_bytes(), 0);
    }

    #[test]
    fn a_run_that_was_cut_goes_on_without_another_prefix_and_without_an_answer_inside() {
        let (mut stream, peer) = framed(b"??", 5);
        peer.script(Call::Write, Outcome::AtMost(2));
        assert_eq!(stream.write(b"abcde").unwrap(), 2);
        assert_eq!(peer.state().output, b"<5>ab");
        assert_eq!(stream.read(&mut [0; 8]), Ok(ReadOutcome::Blocked));
        assert_eq!((stream.buffered_bytes(), stream.overhead_bytes()), (2, 2));
        peer.add_room(99);
        // More has been queued meanwhile.
        assert_eq!(stream.write(b"cdefg").unwrap(), 3);
        assert_eq!(stream.write(b"fg").unwrap(), 2);
        assert_eq!(peer.take_output(99), b"<5>abcde!!<2>fg");
    }

    #[test]
    fn a_blocked_write_has_sent_nothing_and_keeps_its_run() {
        let (mut stream, peer) = framed(b"", 2);
        assert!(is_blocked(stream.write(b"abc")));
        assert_eq!(stream.buffered_bytes(), 1);
        peer.add_room(99);
        assert_eq!(stream.write(b"abcdef").unwrap(), 3);
        assert_eq!(peer.take_output(99), b"<3>abc");
    }

    #[test]
    fn a_run_is_no_longer_than_the_codec_allows() {
        let (mut stream, peer) = framed(b"", 99);
        assert_eq!(stream.write(b"abcdefghijkl").unwrap(), 9);
        assert_eq!(stream.write(b"jkl").unwrap(), 3);
        assert_eq!(peer.take_output(99), b"<9>abcdefghi<3>jkl");
    }

    #[test]
    fn a_flush_and_a_close_are_pending_until_the_socket_has_taken_all() {
        let (mut stream, peer) = framed(b"?", 0);
        assert_eq!(stream.read(&mut [0; 8]), Ok(ReadOutcome::Blocked));
        assert_eq!(stream.flush().unwrap(), Completion::Pending);
        assert_eq!(stream.shutdown_write().unwrap(), Completion::Pending);
        peer.add_room(1);
        assert_eq!(stream.shutdown_write().unwrap(), Completion::Pending);
        assert!(!peer.state().has_received_fin);
        peer.add_room(1);
        assert_eq!(stream.shutdown_write().unwrap(), Completion::Done);
        assert_eq!(peer.take_output(99), b"!$");
        assert!(peer.state().has_received_fin);
    }

    #[test]
    fn packets_before_an_end_or_an_offence_are_read_first() {
        let closed = Ok(ReadOutcome::Closed);
        let ends = [
            (b'.', closed, closed),
            // The offence is told once: a draining stream discards what follows.
            (
                b'#',
                Err(Kick::BadPayload.into()),
                Ok(ReadOutcome::Bytes(0)),
            ),
        ];
        for (end, outcome, after) in ends {
            let (mut stream, peer) = framed(&[b'a', b'?', b'b', end, b'c'], 0);
            let memory = &mut [0; 8];
            assert_eq!(stream.read(memory), Ok(ReadOutcome::Bytes(2)));
            assert_eq!(&memory[..2], b"ab");
            assert_eq!(stream.read(memory), outcome);
            peer.send(&[b'?'; 8]);
            assert_eq!(stream.read(memory), after);
            assert_eq!(stream.buffered_bytes(), 1, "the answer from before");
        }
    }

    #[test]
    fn after_a_kick_no_frame_is_decoded_and_the_last_message_still_goes_out() {
        let (mut stream, peer) = framed(b"", 99);
        stream.note_end(Kick::RateLimit.into());
        peer.send(b"ab??.#");
        let memory = &mut [0; 6];
        assert_eq!(stream.read(memory), Ok(ReadOutcome::Bytes(0)));
        assert_eq!((stream.overhead_bytes(), stream.empty_frames()), (6, 0));
        assert_eq!(stream.shutdown_write().unwrap(), Completion::Done);
        assert_eq!(peer.take_output(99), b"$");
        peer.finish();
        assert_eq!(stream.read(memory), Ok(ReadOutcome::Closed));
    }

    #[test]
    fn a_read_takes_no_more_framing_than_it_has_room_and_unread_answers_are_bounded() {
        let (mut stream, _peer) = framed(&vec![b'?'; 16 << 10], 0);
        assert_eq!(stream.read(&mut [0; 8]), Ok(ReadOutcome::Bytes(0)));
        assert_eq!(stream.overhead_bytes(), 8);
        let memory = &mut vec![0; 6 << 10];
        assert_eq!(stream.read(memory), Ok(ReadOutcome::Bytes(0)));
        assert_eq!(
            stream.read(&mut [0; 8]),
            Ok(ReadOutcome::Bytes(0)),
            "not refused yet"
        );
        assert_eq!(stream.flush().unwrap(), Completion::Pending);
        assert_eq!(stream.read(memory), Ok(ReadOutcome::Bytes(0)));
        assert_eq!(stream.read(memory), Err(Kick::SlowConsumer.into()));
        assert!(stream.buffered_bytes() <= 12 << 10 | 16);
    }
}
