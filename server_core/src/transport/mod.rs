//! A peer's bytes in and out, without a socket.
//!
//! A [`Transport`] carries plaintext. A transport may add bytes of its own: a handshake, a header before a
//! run of packets, an answer to a ping, a message that ends the stream. The connection above sees each of
//! these as a value: a step that is [`Completion::Pending`], or [`buffered_bytes`](Transport::buffered_bytes).
//! A socket without such bytes is a [`PlainStream`], and is a transport as it is: every answer is then a
//! constant, and the compiler drops the steps for it.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

#[cfg(any(test, feature = "testing", feature = "websocket"))]
mod framed;
#[cfg(any(test, feature = "testing", feature = "tls"))]
mod tls;
#[cfg(feature = "framing")]
mod translated;
#[cfg(feature = "websocket")]
mod upgrade;

#[cfg(any(test, feature = "testing", feature = "websocket"))]
pub use framed::Framed;
#[cfg(any(test, feature = "testing", feature = "tls"))]
pub use tls::{Records, Tls, TlsBroken, TlsEngine};
#[cfg(feature = "framing")]
pub use translated::Translated;
#[cfg(all(feature = "testing", feature = "websocket"))]
pub use upgrade::Upgrade;
#[cfg(feature = "websocket")]
pub use upgrade::Upgraded;

use crate::base::reason::DisconnectReason;
use crate::base::transport_kind::TransportKind;
use std::io::{self, ErrorKind, IoSlice, Read, Write};

/// The result of one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// This many bytes of plaintext lie in the memory. Zero: the transport has taken bytes from its socket,
    /// and no plaintext has come of them yet.
    Bytes(usize),
    /// No byte has come. An edge announces the next.
    Blocked,
    /// The peer has ended its write side: no byte follows.
    Closed,
}

/// The result of a step that may need the socket again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// The step is complete.
    Done,
    /// The socket would block. Another try follows when the socket can be written.
    Pending,
}

/// The result of a step of a handshake. Plain TCP has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(any(feature = "tls", feature = "websocket")), allow(dead_code))]
pub enum HandshakeStep {
    /// The handshake is complete.
    Done,
    /// The socket would block. The next step follows when either direction is ready.
    Blocked,
    /// The step was long enough, and more of the peer's bytes may be there. The next step follows behind the input of
    /// the other sessions.
    Yielded,
}

/// The most reads of one step of a handshake: a peer that sends single bytes as fast as they are read does not hold
/// the others. Of other peers a step needs fewer than ten.
#[cfg(any(test, feature = "testing", feature = "tls", feature = "websocket"))]
const MAX_HANDSHAKE_READS: usize = 64;

/// A byte stream that never blocks.
///
/// Every call retries what was interrupted in it, [`write`](Self::write) and
/// [`write_vectored`](Self::write_vectored) excepted.
pub trait Transport {
    /// Reads plaintext into `memory`, which is not empty.
    ///
    /// A read writes nothing to the socket. Answers to what came wait among
    /// [`buffered_bytes`](Self::buffered_bytes).
    ///
    /// # Errors
    /// Why the session has to end. A draining stream is read on after a broken rule: what comes is discarded.
    fn read(&mut self, memory: &mut [u8]) -> Result<ReadOutcome, DisconnectReason>;

    /// Bytes that the last read, or the last step of a handshake, took from the socket beyond its plaintext: a turn
    /// pays for them too. Work that takes longer than reading its bytes counts as more bytes.
    fn overhead_bytes(&self) -> usize {
        0
    }

    /// Frames that the last read took and that carry no plaintext, pings for example. The peer has a budget for
    /// them.
    fn empty_frames(&self) -> usize {
        0
    }

    /// Bytes of the peer that the transport keeps, most likely because a message of its own is not complete. They
    /// count as memory for incomplete packets.
    fn kept_bytes(&self) -> usize {
        0
    }

    /// Writes plaintext, oldest bytes first. Returns the number of bytes that have left the process with all
    /// that the transport has put before them: **sent is what the socket took**.
    ///
    /// Bytes that the transport has sealed, and that the socket has not taken, are not sent: the answer for
    /// them is [`WouldBlock`](ErrorKind::WouldBlock), they stay in the caller's queue, and the next write
    /// begins with the same bytes. That write may return more than it was given, and never more than the
    /// earlier ones were given.
    ///
    /// # Errors
    /// As of a socket.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// The fewest bytes that a write has to be offered, where the queue has that many.
    fn min_write_bytes(&self) -> usize {
        1
    }

    /// The same as [`write`](Self::write) for several slices.
    ///
    /// # Errors
    /// As of a socket.
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Bytes that the transport itself holds for the peer, and that the socket has not taken.
    fn buffered_bytes(&self) -> usize {
        0
    }

    /// Writes the bytes that the transport itself holds. The caller has nothing to write before them.
    ///
    /// # Errors
    /// If the stream is broken.
    fn flush(&mut self) -> io::Result<Completion> {
        Ok(Completion::Done)
    }

    /// The session ends for this reason. A message that ends the stream may tell the peer.
    ///
    /// With [`DisconnectReason::Handshake`] the caller drops its queue, sealed bytes as well: what the transport
    /// itself holds is flushed, and nothing follows it.
    fn note_end(&mut self, _reason: DisconnectReason) {}

    /// Ends the write side: the peer reads all that was written, then the end of the stream. While this is
    /// pending, the caller writes nothing more and tries again.
    ///
    /// # Errors
    /// If the stream is broken.
    fn shutdown_write(&mut self) -> io::Result<Completion>;

    /// Whether the end of the stream is a message of the transport's own. Then the peer is owed it even if
    /// the peer has ended its own side before.
    fn ends_in_band(&self) -> bool {
        false
    }

    /// Whether an outgoing connection is made.
    ///
    /// # Errors
    /// Why it cannot be made.
    fn poll_connected(&mut self) -> io::Result<bool>;

    /// Whether a handshake has to be completed before packets flow.
    fn needs_handshake(&self) -> bool {
        false
    }

    /// Whether the handshake has continued an earlier session, without the work of a full one.
    fn is_resumed(&self) -> bool {
        false
    }

    /// The name of the transport.
    fn kind(&self) -> TransportKind {
        TransportKind::Tcp
    }

    /// Takes the handshake as far as the socket allows, in both directions, but not farther than a step goes.
    ///
    /// # Errors
    /// Why the session has to end: [`DisconnectReason::Handshake`] if the peer's part of it is invalid.
    fn handshake(&mut self) -> Result<HandshakeStep, DisconnectReason> {
        Ok(HandshakeStep::Done)
    }
}

/// A stream without bytes of its own: what is written is at the socket. Sockets are, and so are most fakes
/// of the tests.
pub trait PlainStream: Read + Write {
    /// Ends the write side: the peer reads all that was written, then the end of the stream.
    ///
    /// # Errors
    /// If the stream is broken.
    fn shutdown_write(&mut self) -> io::Result<()>;

    /// Whether an outgoing connection is made.
    ///
    /// # Errors
    /// Why it cannot be made.
    fn poll_connected(&mut self) -> io::Result<bool>;
}

impl<T: PlainStream> Transport for T {
    #[inline]
    fn read(&mut self, memory: &mut [u8]) -> Result<ReadOutcome, DisconnectReason> {
        loop {
            match Read::read(self, memory) {
                Ok(0) => return Ok(ReadOutcome::Closed),
                Ok(count) => return Ok(ReadOutcome::Bytes(count)),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => return Ok(ReadOutcome::Blocked),
                    _ => return Err(DisconnectReason::from_io(&error)),
                },
            }
        }
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(self, bytes)
    }

    #[inline]
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Write::write_vectored(self, slices)
    }

    fn shutdown_write(&mut self) -> io::Result<Completion> {
        PlainStream::shutdown_write(self).map(|()| Completion::Done)
    }

    fn poll_connected(&mut self) -> io::Result<bool> {
        PlainStream::poll_connected(self)
    }
}

/// Writes `bytes` from `sent` on, which counts those that the transport takes. `Done`: it has taken all.
#[cfg(any(test, feature = "testing", feature = "tls", feature = "websocket"))]
fn write_out(
    transport: &mut impl Transport,
    bytes: &[u8],
    sent: &mut usize,
) -> io::Result<Completion> {
    while *sent < bytes.len() {
        match transport.write(&bytes[*sent..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => *sent = bytes.len().min(*sent + count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Completion::Pending),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Completion::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads what the script says; takes everything.
    #[derive(Debug)]
    struct Scripted(Vec<io::Result<usize>>);

    impl Read for Scripted {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.0.remove(0)
        }
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl PlainStream for Scripted {
        fn shutdown_write(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn poll_connected(&mut self) -> io::Result<bool> {
            Ok(true)
        }
    }

    #[test]
    fn a_plain_read_is_bytes_blocked_closed_or_a_reason() {
        let fails = |kind: ErrorKind| Err(kind.into());
        let mut stream = Scripted(vec![
            Ok(3),
            fails(ErrorKind::Interrupted),
            fails(ErrorKind::WouldBlock),
            fails(ErrorKind::Interrupted),
            Ok(0),
            fails(ErrorKind::ConnectionReset),
        ]);
        let mut read = || Transport::read(&mut stream, &mut [0; 8]);
        assert_eq!(read(), Ok(ReadOutcome::Bytes(3)));
        assert_eq!(read(), Ok(ReadOutcome::Blocked));
        assert_eq!(read(), Ok(ReadOutcome::Closed));
        assert_eq!(read(), Err(DisconnectReason::PeerReset));
    }

    #[test]
    fn a_plain_stream_has_no_bytes_and_no_handshake_of_its_own() {
        let mut stream = Scripted(Vec::new());
        assert!(!stream.needs_handshake());
        assert_eq!(stream.handshake(), Ok(HandshakeStep::Done));
        assert_eq!((stream.buffered_bytes(), stream.overhead_bytes()), (0, 0));
        assert_eq!(Transport::flush(&mut stream).unwrap(), Completion::Done);
        assert_eq!(
            Transport::shutdown_write(&mut stream).unwrap(),
            Completion::Done
        );
    }
}
