//! A TCP client that knows packets as bytes alone, and the builder of such packets.
//!
//! No type of `server_core` takes part: a framing bug on both sides would cancel out.

use socket2::{Domain, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// The timeout of every read and write. A passing test never waits this long.
pub const DEADLINE: Duration = Duration::from_secs(20);

const HEADER_BYTES: usize = 4;

/// The bytes of a packet: size (header included), id, payload.
///
/// # Panics
///
/// If the packet is longer than 65,535 bytes.
pub fn packet(id: u16, payload: &[u8]) -> Vec<u8> {
    let size = u16::try_from(HEADER_BYTES + payload.len()).unwrap();
    [&header(size, id), payload].concat()
}

/// A header without a payload. The size may be a lie.
pub fn header(size: u16, id: u16) -> [u8; HEADER_BYTES] {
    let ([s0, s1], [i0, i1]) = (size.to_le_bytes(), id.to_le_bytes());
    [s0, s1, i0, i1]
}

/// A received packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawPacket {
    pub id: u16,
    pub payload: Vec<u8>,
}

/// A blocking client. Its reads and writes fail after [`DEADLINE`].
pub struct RawClient {
    pub stream: TcpStream,
    /// The ids that the server may send; `None` allows every id.
    known_ids: Option<&'static [u16]>,
    input: Vec<u8>,
    /// The bytes of `input` that earlier packets used.
    parsed: usize,
}

impl RawClient {
    pub fn connect(addr: SocketAddr) -> Self {
        Self::from_stream(TcpStream::connect(addr).unwrap())
    }

    /// Connects from `source`, an address of the loopback network.
    pub fn connect_from(source: [u8; 4], addr: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect(&addr.into()).unwrap();
        Self::from_stream(socket.into())
    }

    /// Connects with a receive buffer of about `bytes`, which bounds what the kernel takes while the
    /// client does not read. The default is a setting of the system, and may be tens of megabytes.
    pub fn connect_with_recv_buffer(addr: SocketAddr, bytes: usize) -> Self {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(bytes).unwrap();
        socket.connect(&addr.into()).unwrap();
        Self::from_stream(socket.into())
    }

    pub fn from_stream(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self {
            stream,
            known_ids: None,
            input: Vec::new(),
            parsed: 0,
        }
    }

    /// Makes a packet with any other id an error.
    pub fn with_known_ids(mut self, ids: &'static [u16]) -> Self {
        self.known_ids = Some(ids);
        self
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// A handle that sends from another thread.
    pub fn sender(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }

    /// The next packet, or `None` at the end of the stream.
    ///
    /// # Errors
    ///
    /// If the stream ends in the middle of a packet, if a header is invalid, or if the read fails.
    pub fn try_next(&mut self) -> io::Result<Option<RawPacket>> {
        loop {
            if let Some(packet) = self.parse()? {
                return Ok(Some(packet));
            }
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) if self.parsed == self.input.len() => return Ok(None),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.input.drain(..self.parsed);
                    self.parsed = 0;
                    self.input.extend_from_slice(&chunk[..count]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn parse(&mut self) -> io::Result<Option<RawPacket>> {
        let [s0, s1, i0, i1, body @ ..] = &self.input[self.parsed..] else {
            return Ok(None);
        };
        let size = usize::from(u16::from_le_bytes([*s0, *s1]));
        let id = u16::from_le_bytes([*i0, *i1]);
        let is_known = self.known_ids.is_none_or(|ids| ids.contains(&id));
        if size < HEADER_BYTES || !is_known {
            let what = format!("torn stream: size {size} id {id}");
            return Err(io::Error::new(ErrorKind::InvalidData, what));
        }
        let Some(payload) = body.get(..size - HEADER_BYTES) else {
            return Ok(None);
        };
        let payload = payload.to_vec();
        self.parsed += size;
        Ok(Some(RawPacket { id, payload }))
    }

    /// The next packet. Fails at the end of the stream.
    #[track_caller]
    pub fn next(&mut self) -> RawPacket {
        match self.try_next() {
            Ok(Some(packet)) => packet,
            other => panic!("expected a packet, got {other:?}"),
        }
    }

    /// Fails unless the stream ends here, in order: no packet, no part of a packet, no reset.
    #[track_caller]
    pub fn expect_eof(&mut self) {
        match self.try_next() {
            Ok(None) => {}
            other => panic!("expected the end of the stream, got {other:?}"),
        }
    }

    /// Closes the sending direction.
    pub fn finish_writing(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Closes with unread bytes in the receive buffer, which makes the kernel send a reset.
    pub fn reset(self) {
        let mut byte = [0];
        assert_eq!(self.stream.peek(&mut byte).unwrap(), 1, "nothing is unread");
    }
}
