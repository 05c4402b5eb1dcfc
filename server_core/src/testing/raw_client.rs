//! A TCP client that knows packets as bytes alone.
//!
//! The code shares no type with the framer of this library: a bug in both would cancel out.

use super::packet::{RawPacket, split_packet};
use super::{DEADLINE, packet};
use socket2::{Domain, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A blocking TCP client of packets as bytes.
///
/// Each method waits for [`DEADLINE`], or for the time of [`with_deadline`](Self::with_deadline), and
/// then fails. The methods that return no `Result` panic with the cause at the line of their caller.
#[derive(Debug)]
pub struct RawClient {
    /// The socket: its addresses and options. Bytes that are read here are missing in
    /// [`try_next`](Self::try_next).
    pub stream: TcpStream,
    deadline: Duration,
    /// The ids that the server may send; `None` allows every id.
    known_ids: Option<&'static [u16]>,
    input: Vec<u8>,
    /// The bytes of `input` that earlier packets used.
    parsed: usize,
}

impl RawClient {
    /// Connects to a server.
    ///
    /// # Panics
    ///
    /// If the connection is refused.
    #[must_use]
    #[track_caller]
    pub fn connect(addr: SocketAddr) -> Self {
        Self::open(addr, |_| Ok(()))
    }

    /// Connects from an address of this machine, any of 127.0.0.0/8 on Linux.
    ///
    /// # Panics
    ///
    /// If `source` is not an address of this machine, or the connection is refused.
    #[must_use]
    #[track_caller]
    pub fn connect_from(source: impl Into<IpAddr>, addr: SocketAddr) -> Self {
        let source = SocketAddr::new(source.into(), 0);
        Self::open(addr, |socket| socket.bind(&source.into()))
    }

    /// Connects with a receive buffer of about `bytes`, which bounds what the kernel takes while the
    /// client does not read. The default is a setting of the system, and may be tens of megabytes.
    ///
    /// # Panics
    ///
    /// If the connection is refused.
    #[must_use]
    #[track_caller]
    pub fn connect_with_recv_buffer(addr: SocketAddr, bytes: usize) -> Self {
        Self::open(addr, |socket| socket.set_recv_buffer_size(bytes))
    }

    #[track_caller]
    fn open(addr: SocketAddr, prepare: impl FnOnce(&Socket) -> io::Result<()>) -> Self {
        let connected = Socket::new(Domain::for_address(addr), Type::STREAM, None)
            .and_then(|socket| prepare(&socket).map(|()| socket))
            .and_then(|socket| socket.connect(&addr.into()).map(|()| socket));
        match connected {
            Ok(socket) => Self::from_stream(socket.into()),
            Err(error) => panic!("cannot connect to {addr}: {error}"),
        }
    }

    /// A client of a stream that is connected, an accepted one for example.
    ///
    /// # Panics
    ///
    /// If the stream refuses a socket option.
    #[must_use]
    #[track_caller]
    pub fn from_stream(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a TCP socket");
        let client = Self {
            stream,
            deadline: DEADLINE,
            known_ids: None,
            input: Vec::new(),
            parsed: 0,
        };
        client.with_deadline(DEADLINE)
    }

    /// Replaces [`DEADLINE`] for this client.
    ///
    /// # Panics
    ///
    /// If `deadline` is zero.
    #[must_use]
    #[track_caller]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        (self.stream.set_read_timeout(Some(deadline)))
            .and_then(|()| self.stream.set_write_timeout(Some(deadline)))
            .expect("a deadline above zero");
        self
    }

    /// Makes a received packet with any other id an error.
    #[must_use]
    pub fn with_known_ids(mut self, ids: &'static [u16]) -> Self {
        self.known_ids = Some(ids);
        self
    }

    /// Sends bytes, which need not be a packet.
    ///
    /// # Panics
    ///
    /// If the server has closed the connection, or takes nothing for as long as the deadline.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            panic!("cannot send {} bytes: {error}", bytes.len());
        }
    }

    /// Sends a packet: the bytes of [`packet`].
    ///
    /// # Panics
    ///
    /// As [`send`](Self::send), and if the packet is longer than 65,535 bytes.
    #[track_caller]
    pub fn send_packet(&mut self, id: u16, payload: impl AsRef<[u8]>) {
        self.send(&packet(id, payload));
    }

    /// The next packet, or `None` at the end of the stream.
    ///
    /// # Errors
    ///
    /// If the stream ends in the middle of a packet, if a header is invalid, if a read fails, or if the
    /// packet is not complete within the deadline.
    pub fn try_next(&mut self) -> io::Result<Option<RawPacket>> {
        let mut give_up_at = None;
        loop {
            if let Some(packet) = self.parse()? {
                return Ok(Some(packet));
            }
            // Read timeouts alone leave a server that sends a byte now and then without an end.
            let now = Instant::now();
            if now >= *give_up_at.get_or_insert(now + self.deadline) {
                return Err(ErrorKind::TimedOut.into());
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
        let input = &self.input[self.parsed..];
        if let (Some(known), [_, _, i0, i1, ..]) = (self.known_ids, input)
            && !known.contains(&u16::from_le_bytes([*i0, *i1]))
        {
            let what = format!("torn stream: id {}", u16::from_le_bytes([*i0, *i1]));
            return Err(io::Error::new(ErrorKind::InvalidData, what));
        }
        let packet = split_packet(input)?;
        self.parsed += packet.as_ref().map_or(0, RawPacket::size);
        Ok(packet)
    }

    /// The next packet.
    ///
    /// # Panics
    ///
    /// At the end of the stream, and where [`try_next`](Self::try_next) returns an error.
    #[track_caller]
    pub fn next_packet(&mut self) -> RawPacket {
        match self.try_next() {
            Ok(Some(packet)) => packet,
            other => panic!("expected a packet, got {other:?}"),
        }
    }

    /// Reads the end of the stream.
    ///
    /// # Panics
    ///
    /// Unless the stream ends here, in order: no packet, no part of a packet, no reset.
    #[track_caller]
    pub fn expect_eof(&mut self) {
        match self.try_next() {
            Ok(None) => {}
            other => panic!("expected the end of the stream, got {other:?}"),
        }
    }

    /// A clone of the socket, which sends from another thread.
    ///
    /// # Panics
    ///
    /// If the process has no descriptor left.
    #[must_use]
    #[track_caller]
    pub fn sender(&self) -> TcpStream {
        self.stream.try_clone().expect("a descriptor is free")
    }

    /// Closes the sending direction.
    ///
    /// # Panics
    ///
    /// If the connection is closed.
    #[track_caller]
    pub fn finish_writing(&self) {
        let finished = self.stream.shutdown(Shutdown::Write);
        finished.expect("the connection is open");
    }

    /// Closes the connection by a reset.
    ///
    /// # Panics
    ///
    /// If the socket refuses the option `SO_LINGER`.
    #[track_caller]
    pub fn reset(self) {
        let linger = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        linger.expect("a TCP socket");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (RawClient, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = RawClient::connect(listener.local_addr().unwrap());
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn packets_cut_anywhere_are_read_whole_and_then_the_end() {
        let (mut client, mut server) = pair();
        let bytes = [packet(1, b"one"), packet(2, b"")].concat();
        for byte in bytes {
            server.write_all(&[byte]).unwrap();
        }
        assert_eq!(client.next_packet(), RawPacket::new(1, b"one"));
        assert_eq!(client.next_packet(), RawPacket::new(2, b""));
        drop(server);
        client.expect_eof();
    }

    #[test]
    fn torn_stream_is_an_error() {
        let invalid_data = ErrorKind::InvalidData;
        let cases: [(&[u8], _); 3] = [
            (&[9, 0, 1, 0, 7], ErrorKind::UnexpectedEof),
            (&[3, 0, 1, 0], invalid_data),
            (&[4, 0, 9, 0], invalid_data),
        ];
        for (bytes, expected) in cases {
            let (client, mut server) = pair();
            let mut client = client.with_known_ids(&[1]);
            server.write_all(bytes).unwrap();
            drop(server);
            assert_eq!(client.try_next().unwrap_err().kind(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn server_that_sends_a_byte_now_and_then_misses_the_deadline() {
        let (client, mut server) = pair();
        let mut client = client.with_deadline(Duration::from_millis(100));
        let sender = std::thread::spawn(move || {
            while server.write_all(&[255]).is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        assert_eq!(client.try_next().unwrap_err().kind(), ErrorKind::TimedOut);
        client.reset();
        sender.join().unwrap();
    }

    #[test]
    fn reset_client_is_an_error_for_the_server() {
        let (client, mut server) = pair();
        client.reset();
        let error = server.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}
