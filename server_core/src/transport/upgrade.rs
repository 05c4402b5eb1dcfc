//! The upgrade to WebSocket, as the handshake of a transport.

use super::{
    Completion, Framed, HandshakeStep, MAX_HANDSHAKE_READS, ReadOutcome, Transport, write_out,
};
use crate::base::reason::DisconnectReason;
use crate::base::transport_kind::TransportKind;
use crate::protocol::upgrade::{
    Answer, ClientUpgrade, WebSocketServerConfig, WebSocketTarget, answer,
};
use crate::protocol::websocket::WebSocket;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// Exchanges the heads of an upgrade over `inner`, behind the handshake of `inner`. Then its bytes are those
/// of `inner`.
#[derive(Debug)]
pub struct Upgrade<T> {
    inner: T,
    step: Step,
    /// The peer's head as far as it has come; behind the upgrade, the bytes that came with it.
    input: Vec<u8>,
    /// The own head, or the page; and the number of bytes of it that were sent.
    output: Arc<[u8]>,
    sent: usize,
    overhead_bytes: usize,
    empty_frames: usize,
}

/// WebSocket over `T`: the upgrade, then frames.
pub type Upgraded<T> = Framed<Upgrade<T>, WebSocket>;

#[derive(Debug)]
enum Step {
    /// A server waits for the request.
    Request(WebSocketServerConfig),
    /// A client waits for the answer.
    Answer(Box<ClientUpgrade>),
    /// The own head is the last.
    Accepted,
    Done,
    Refused,
}

/// The most bytes of one read of a head.
const READ_BYTES: usize = 2 << 10;
/// The most bytes of a step, plaintext and overhead: a step has a fixed price. A head has 8 KiB.
const MAX_STEP_COST: usize = 16 << 10;

impl<T: Transport> Upgraded<T> {
    /// The end of a server.
    #[must_use]
    pub fn server(inner: T, config: &WebSocketServerConfig) -> Self {
        Self::new(Upgrade::server(inner, config), WebSocket::server())
    }

    /// The end of a client.
    #[must_use]
    pub fn client(inner: T, target: &WebSocketTarget) -> Self {
        Self::new(Upgrade::client(inner, target), WebSocket::client())
    }
}

impl<T: Transport> Upgrade<T> {
    /// The end of a server.
    #[must_use]
    pub fn server(inner: T, config: &WebSocketServerConfig) -> Self {
        Self::new(inner, Step::Request(config.clone()), Vec::new())
    }

    /// The end of a client.
    #[must_use]
    pub fn client(inner: T, target: &WebSocketTarget) -> Self {
        let (upgrade, request) = ClientUpgrade::new(target);
        Self::new(inner, Step::Answer(Box::new(upgrade)), request)
    }

    fn new(inner: T, step: Step, output: Vec<u8>) -> Self {
        Self {
            inner,
            step,
            input: Vec::new(),
            output: output.into(),
            sent: 0,
            overhead_bytes: 0,
            empty_frames: 0,
        }
    }

    /// The transport below.
    #[must_use]
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// The transport below.
    pub fn inner_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    /// Reads more of the peer's head, and returns what that costs. `None`: no byte has come.
    fn read_head(&mut self) -> Result<Option<usize>, DisconnectReason> {
        let mut memory = [0; READ_BYTES];
        match self.inner.read(&mut memory)? {
            ReadOutcome::Bytes(count) => {
                self.input.extend_from_slice(&memory[..count]);
                Ok(Some(count + self.inner.overhead_bytes()))
            }
            ReadOutcome::Blocked => Ok(None),
            ReadOutcome::Closed => Err(DisconnectReason::PeerClosed),
        }
    }

    fn evaluate_head(&mut self) -> Result<(), DisconnectReason> {
        let (head_bytes, output) = match &self.step {
            Step::Request(config) => match answer(&self.input, config.origins()) {
                Answer::Incomplete => return Ok(()),
                Answer::Accept {
                    head_bytes,
                    response,
                } => (head_bytes, response),
                Answer::Refuse { response, .. } => {
                    // The response is flushed before the connection ends.
                    let (reason, output) = match config.page_for(&self.input) {
                        Some(page) => (DisconnectReason::Closed, page),
                        None => (DisconnectReason::Handshake, response.into()),
                    };
                    (self.step, self.output) = (Step::Refused, output);
                    self.input = Vec::new();
                    return Err(reason);
                }
            },
            Step::Answer(upgrade) => match upgrade.check(&self.input) {
                Ok(None) => return Ok(()),
                Ok(Some(head_bytes)) => (head_bytes, Vec::new()),
                Err(_) => {
                    self.step = Step::Refused;
                    return Err(DisconnectReason::Handshake);
                }
            },
            Step::Accepted | Step::Done | Step::Refused => return Ok(()),
        };
        self.input = self.input.split_off(head_bytes);
        (self.step, self.output) = (Step::Accepted, output.into());
        Ok(())
    }
}

impl<T: Transport> Transport for Upgrade<T> {
    fn read(&mut self, memory: &mut [u8]) -> Result<ReadOutcome, DisconnectReason> {
        if !self.input.is_empty() {
            let count = self.input.len().min(memory.len());
            memory[..count].copy_from_slice(&self.input[..count]);
            self.input = self.input.split_off(count);
            (self.overhead_bytes, self.empty_frames) = (0, 0);
            return Ok(ReadOutcome::Bytes(count));
        }
        let outcome = self.inner.read(memory);
        self.overhead_bytes = self.inner.overhead_bytes();
        self.empty_frames = self.inner.empty_frames();
        outcome
    }

    fn note_end(&mut self, reason: DisconnectReason) {
        self.inner.note_end(reason);
    }

    fn kept_bytes(&self) -> usize {
        self.input.capacity() + self.inner.kept_bytes()
    }

    fn empty_frames(&self) -> usize {
        self.empty_frames
    }

    fn overhead_bytes(&self) -> usize {
        self.overhead_bytes
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.inner.write_vectored(slices)
    }

    fn buffered_bytes(&self) -> usize {
        self.output.len() - self.sent + self.inner.buffered_bytes()
    }

    fn flush(&mut self) -> io::Result<Completion> {
        if write_out(&mut self.inner, &self.output, &mut self.sent)? == Completion::Pending {
            return Ok(Completion::Pending);
        }
        (self.output, self.sent) = (Arc::default(), 0);
        self.inner.flush()
    }

    fn shutdown_write(&mut self) -> io::Result<Completion> {
        match self.flush()? {
            Completion::Pending => Ok(Completion::Pending),
            Completion::Done => self.inner.shutdown_write(),
        }
    }

    fn ends_in_band(&self) -> bool {
        self.inner.ends_in_band()
    }

    fn poll_connected(&mut self) -> io::Result<bool> {
        self.inner.poll_connected()
    }

    fn is_resumed(&self) -> bool {
        self.inner.is_resumed()
    }

    fn kind(&self) -> TransportKind {
        match self.inner.kind() {
            TransportKind::Tls => TransportKind::SecureWebSocket,
            _ => TransportKind::WebSocket,
        }
    }

    fn needs_handshake(&self) -> bool {
        !matches!(self.step, Step::Done)
    }

    fn handshake(&mut self) -> Result<HandshakeStep, DisconnectReason> {
        self.overhead_bytes = 0;
        if self.inner.needs_handshake() {
            let outcome = self.inner.handshake();
            self.overhead_bytes = self.inner.overhead_bytes();
            let step = outcome?;
            if step != HandshakeStep::Done {
                return Ok(step);
            }
        }
        let mut cost = 0;
        for _ in 0..MAX_HANDSHAKE_READS {
            match self.flush() {
                Ok(Completion::Done) => {}
                Ok(Completion::Pending) => return Ok(HandshakeStep::Blocked),
                Err(error) => return Err(DisconnectReason::from_io(&error)),
            }
            match self.step {
                Step::Accepted => {
                    self.step = Step::Done;
                    return Ok(HandshakeStep::Done);
                }
                Step::Done => return Ok(HandshakeStep::Done),
                Step::Refused => return Err(DisconnectReason::Handshake),
                Step::Request(_) | Step::Answer(_) => {}
            }
            match self.read_head()? {
                Some(bytes) => cost += bytes,
                None => return Ok(HandshakeStep::Blocked),
            }
            self.evaluate_head()?;
            if cost > MAX_STEP_COST && matches!(self.step, Step::Request(_) | Step::Answer(_)) {
                break;
            }
        }
        Ok(HandshakeStep::Yielded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::reason::Kick;
    use crate::testing::{Call, FakePeer, FakeStream, FakeTls, Outcome};
    use crate::transport::Tls;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    /// A ping, and the packet `04 00 02 00` in a message, both with a mask of zeros.
    const PING: &[u8] = &[0x89, 0x81, 0, 0, 0, 0, b'p'];
    const MESSAGE: &[u8] = &[0x82, 0x84, 0, 0, 0, 0, 4, 0, 2, 0];

    fn server() -> (Upgraded<FakeStream>, FakePeer) {
        let (stream, peer) = FakeStream::pair();
        (
            Upgraded::server(stream, &WebSocketServerConfig::default()),
            peer,
        )
    }

    #[test]
    fn bytes_behind_the_request_are_the_first_frames() {
        let (mut stream, peer) = server();
        peer.send(&[REQUEST, PING, MESSAGE].concat());
        assert_eq!(stream.handshake(), Ok(HandshakeStep::Done));
        let memory = &mut [0; 64];
        assert_eq!(stream.read(memory), Ok(ReadOutcome::Bytes(4)));
        assert_eq!(memory[..4], [4, 0, 2, 0]);
        assert_eq!(stream.read(memory), Ok(ReadOutcome::Blocked));
        assert!(matches!(stream.flush(), Ok(Completion::Done)));
        let output = peer.take_output(usize::MAX);
        assert!(output.starts_with(b"HTTP/1.1 101 ") && output.ends_with(&[0x8a, 1, b'p']));
    }

    #[test]
    fn after_a_kick_no_record_below_is_opened() {
        let (stream, peer) = FakeStream::pair();
        let tls = Tls::new(stream, FakeTls::established(usize::MAX));
        let mut stream = Upgraded::server(tls, &WebSocketServerConfig::default());
        peer.send(&FakeTls::record(FakeTls::DATA, REQUEST));
        assert_eq!(stream.handshake(), Ok(HandshakeStep::Done));
        stream.note_end(Kick::RateLimit.into());
        let record = FakeTls::record(FakeTls::DATA, PING);
        peer.send(&record);
        let memory = &mut vec![0; record.len()];
        assert_eq!(stream.read(memory), Ok(ReadOutcome::Bytes(0)));
        // An opened record would cost more than its bytes.
        assert_eq!(stream.overhead_bytes(), record.len());
    }

    #[test]
    fn a_response_that_the_socket_takes_in_parts_comes_before_every_frame() {
        let (mut stream, peer) = server();
        peer.state().room = 0;
        peer.send(&[REQUEST, PING].concat());
        assert_eq!(stream.handshake(), Ok(HandshakeStep::Blocked));
        // The session ends here, and what follows is discarded.
        peer.send(PING);
        assert_eq!(stream.read(&mut [0; 64]), Ok(ReadOutcome::Blocked));
        stream.note_end(DisconnectReason::Shutdown);
        for _ in 0..3 {
            peer.add_room(20);
            assert!(matches!(stream.flush(), Ok(Completion::Pending)));
        }
        peer.add_room(1000);
        assert!(matches!(stream.shutdown_write(), Ok(Completion::Done)));
        let output = peer.take_output(usize::MAX);
        assert!(output.starts_with(b"HTTP/1.1 101 ") && output.ends_with(b"\r\n\r\n"));
        assert!(peer.state().has_received_fin && peer.state().misuses.is_empty());
    }

    #[test]
    fn a_refusal_is_flushed_and_no_close_frame_follows() {
        let (mut stream, peer) = server();
        peer.send(b"POST / HTTP/1.1\r\n\r\nbody");
        assert_eq!(stream.handshake(), Err(DisconnectReason::Handshake));
        assert!(stream.needs_handshake() && stream.buffered_bytes() > 0);
        assert!(matches!(stream.shutdown_write(), Ok(Completion::Done)));
        let output = peer.take_output(usize::MAX);
        assert!(output.starts_with(b"HTTP/1.1 405 ") && output.ends_with(b"\r\n\r\n"));
    }

    #[test]
    fn a_plain_request_gets_the_page_in_the_parts_that_the_socket_takes() {
        let config = WebSocketServerConfig::default().with_page("<p>a game");
        for (request, status) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "200 "),
            ("GET /?a=b HTTP/1.1\r\nHost: a\r\n\r\n", "200 "),
            ("GET /play HTTP/1.1\r\nHost: a\r\n\r\n", "426 "),
            ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n", "426 "),
            ("GET / HTTP/1.1\r\n\r\n", "400 "),
            ("POST / HTTP/1.1\r\nHost: a\r\n\r\n", "405 "),
        ] {
            let (stream, peer) = FakeStream::pair();
            let mut stream = Upgraded::server(stream, &config);
            peer.state().room = 0;
            peer.send(request.as_bytes());
            let is_page = status == "200 ";
            let reason = if is_page {
                DisconnectReason::Closed
            } else {
                DisconnectReason::Handshake
            };
            assert_eq!(stream.handshake(), Err(reason), "{request}");
            stream.note_end(reason);
            while matches!(stream.shutdown_write(), Ok(Completion::Pending)) {
                peer.add_room(50);
            }
            let output = String::from_utf8(peer.take_output(usize::MAX)).unwrap();
            assert!(
                output.starts_with(&format!("HTTP/1.1 {status}")),
                "{output}"
            );
            assert_eq!(
                output.ends_with("Connection: close\r\n\r\n<p>a game"),
                is_page
            );
            assert_eq!(output.contains("Content-Length: 9\r\n"), is_page);
            assert!(peer.state().has_received_fin && peer.state().misuses.is_empty());
        }
        let (stream, peer) = FakeStream::pair();
        peer.send(REQUEST);
        assert_eq!(
            Upgraded::server(stream, &config).handshake(),
            Ok(HandshakeStep::Done)
        );
    }

    #[test]
    fn a_client_and_a_server_upgrade_each_other() {
        let (mut server, to_server) = server();
        let (stream, to_client) = FakeStream::pair();
        let target = WebSocketTarget::new("game.example", "/play").unwrap();
        let mut client = Upgraded::client(stream, &target);
        assert_eq!(client.handshake(), Ok(HandshakeStep::Blocked));
        to_server.send(&to_client.take_output(usize::MAX));
        assert_eq!(server.handshake(), Ok(HandshakeStep::Done));
        to_client.send(&to_server.take_output(usize::MAX));
        assert_eq!(client.handshake(), Ok(HandshakeStep::Done));
        let packet = [4, 0, 2, 0];
        assert_eq!(client.write(&packet).unwrap(), 4);
        let frame = to_client.take_output(usize::MAX);
        assert_eq!((frame.len(), frame[..2] == [0x82, 0x84]), (10, true));
        to_server.send(&frame);
        let memory = &mut [0; 64];
        assert_eq!(server.read(memory), Ok(ReadOutcome::Bytes(4)));
        assert_eq!(memory[..4], packet);
        let other = WebSocketTarget::new("game.example", "/").unwrap();
        let mut refused = Upgraded::client(FakeStream::pair().0, &other);
        let (stream, peer) = FakeStream::pair();
        *refused.inner_mut().inner_mut() = stream;
        peer.send(b"HTTP/1.1 404 Not Found\r\n\r\n");
        assert_eq!(refused.handshake(), Err(DisconnectReason::Handshake));
    }

    #[test]
    fn a_request_in_single_bytes_is_read_in_bounded_steps() {
        let (mut stream, peer) = server();
        for _ in 0..REQUEST.len() {
            peer.script(Call::Read, Outcome::AtMost(1));
        }
        peer.send(REQUEST);
        let mut steps = 0;
        while stream.handshake() == Ok(HandshakeStep::Yielded) {
            steps += 1;
            assert_eq!(peer.state().read_bytes, steps * MAX_HANDSHAKE_READS);
        }
        assert_eq!(steps, REQUEST.len() / MAX_HANDSHAKE_READS);
        assert!(!stream.needs_handshake());
    }
}
