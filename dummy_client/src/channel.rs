//! A connection of one thread over any socket: neighbours, newcomers, attackers, and the search for the reason of a
//! handshake that fails. The sessions of users have the transports of `server_core`.

use std::io::{self, Read, Write};

/// The bytes of packets over a transport. Without a transport, those of the socket.
#[derive(Debug)]
pub(crate) enum Channel<S: Read + Write> {
    Tcp(S),
    #[cfg(feature = "tls")]
    Tls(Box<server_core::TlsClientStream<S>>),
    #[cfg(feature = "websocket")]
    WebSocket(Box<websocket::WebSocketStream<S>>),
}

impl<S: Read + Write> Channel<S> {
    /// WebSocket over this connection.
    #[cfg(feature = "websocket")]
    pub fn websocket(inner: Self, request: &str) -> Self {
        Self::WebSocket(Box::new(websocket::WebSocketStream::new(inner, request)))
    }

    /// Goes on with the handshake. `WouldBlock`: the peer has to answer. The connection reads and writes when this has
    /// succeeded.
    ///
    /// # Errors
    /// Why the handshake failed.
    pub fn handshake(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(_) => Ok(()),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.handshake(),
            #[cfg(feature = "websocket")]
            Self::WebSocket(stream) => stream.handshake(),
        }
    }

    /// The socket.
    pub fn socket(&self) -> &S {
        match self {
            Self::Tcp(stream) => stream,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_ref(),
            #[cfg(feature = "websocket")]
            Self::WebSocket(stream) => stream.inner.socket(),
        }
    }

    /// The socket, to register it.
    pub fn socket_mut(&mut self) -> &mut S {
        match self {
            Self::Tcp(stream) => stream,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_mut(),
            #[cfg(feature = "websocket")]
            Self::WebSocket(stream) => stream.inner.socket_mut(),
        }
    }
}

impl<S: Read + Write> Read for Channel<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.read(buffer),
            #[cfg(feature = "websocket")]
            Self::WebSocket(stream) => stream.read(buffer),
        }
    }
}

impl<S: Read + Write> Write for Channel<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.write(bytes),
            #[cfg(feature = "websocket")]
            Self::WebSocket(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.flush(),
            #[cfg(feature = "websocket")]
            Self::WebSocket(stream) => stream.flush(),
        }
    }
}

#[cfg(feature = "websocket")]
pub(crate) mod websocket {
    //! The client's end of a WebSocket.

    use super::Channel;
    use server_core::text::one_line;
    use std::io::{self, ErrorKind, Read, Write};

    #[derive(Debug)]
    pub(crate) struct WebSocketStream<S: Read + Write> {
        pub inner: Channel<S>,
        /// Bytes that the connection below has not accepted.
        output: Vec<u8>,
        /// Bytes that are not read: of the answer to the request, then of frames.
        input: Vec<u8>,
        is_open: bool,
        /// Bytes of the payload of the present frame.
        left: u64,
        /// The present frame has no packets.
        is_control: bool,
    }

    const MAX_HEAD_BYTES: usize = 8 << 10;
    /// The key of the example in RFC 6455: its answer is not checked here.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const BINARY: u8 = 0x82;
    /// Opcodes from here on are those of control frames.
    const CONTROL: u8 = 8;
    const CLOSE: u8 = 8;
    /// Any mask is valid, and this one costs nothing.
    const MASK: [u8; 4] = [0; 4];
    const MAX_FRAME_BYTES: usize = 60_000;

    impl<S: Read + Write> WebSocketStream<S> {
        pub fn new(inner: Channel<S>, request: &str) -> Self {
            Self {
                inner,
                output: request.into(),
                input: Vec::new(),
                is_open: false,
                left: 0,
                is_control: false,
            }
        }

        pub fn handshake(&mut self) -> io::Result<()> {
            self.inner.handshake()?;
            while !self.is_open {
                self.push_out()?;
                self.fill()?;
                let end = self.input.windows(4).position(|bytes| bytes == b"\r\n\r\n");
                let Some(end) = end else {
                    if self.input.len() > MAX_HEAD_BYTES {
                        return Err(refused(&self.input));
                    }
                    continue;
                };
                if !self.input.starts_with(b"HTTP/1.1 101 ") {
                    return Err(refused(&self.input));
                }
                self.input.drain(..end + 4);
                self.is_open = true;
            }
            Ok(())
        }

        /// Reads more bytes from below.
        fn fill(&mut self) -> io::Result<()> {
            let mut memory = [0; 16 << 10];
            let count = self.inner.read(&mut memory)?;
            if count == 0 {
                let error = match self.input.is_empty() || self.is_open {
                    true => {
                        io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")
                    }
                    false => refused(&self.input),
                };
                return Err(error);
            }
            self.input.extend_from_slice(&memory[..count]);
            Ok(())
        }

        fn push_out(&mut self) -> io::Result<()> {
            while !self.output.is_empty() {
                let count = self.inner.write(&self.output)?;
                self.output.drain(..count);
            }
            self.inner.flush()
        }

        /// Takes the header of the next frame, if it is complete. `None`: the frame is a close.
        fn next_frame(&mut self) -> Option<bool> {
            let [first, second, ..] = self.input[..] else {
                return Some(false);
            };
            let extended = match second & 0x7f {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            if self.input.len() < 2 + extended {
                return Some(false);
            }
            let bytes = self.input[2..2 + extended].iter();
            self.left = match extended {
                0 => u64::from(second & 0x7f),
                _ => bytes.fold(0, |length, byte| length << 8 | u64::from(*byte)),
            };
            self.is_control = first & 0xf >= CONTROL;
            self.input.drain(..2 + extended);
            (first & 0xf != CLOSE).then_some(true)
        }
    }

    /// The request of an upgrade.
    pub(crate) fn request(host: &str, path: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        )
    }

    /// The first line of an answer has the HTTP status.
    fn refused(head: &[u8]) -> io::Error {
        let head = String::from_utf8_lossy(&head[..head.len().min(100)]);
        let line = one_line(head.lines().next().unwrap_or_default());
        let text = format!("the server refused the upgrade to WebSocket: {line}");
        io::Error::new(ErrorKind::ConnectionRefused, text)
    }

    impl<S: Read + Write> Read for WebSocketStream<S> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.push_out() {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
            loop {
                if self.left > 0 && !self.input.is_empty() {
                    let left = usize::try_from(self.left).unwrap_or(usize::MAX);
                    let mut count = self.input.len().min(left);
                    if !self.is_control {
                        count = count.min(buffer.len());
                        buffer[..count].copy_from_slice(&self.input[..count]);
                    }
                    self.input.drain(..count);
                    self.left -= count as u64;
                    if !self.is_control {
                        return Ok(count);
                    }
                } else if self.left == 0 {
                    match self.next_frame() {
                        Some(true) => continue,
                        Some(false) => {}
                        None => return Ok(0),
                    }
                }
                match self.fill() {
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                    other => other?,
                }
            }
        }
    }

    impl<S: Read + Write> Write for WebSocketStream<S> {
        /// A frame for each write.
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.push_out()?;
            let count = bytes.len().min(MAX_FRAME_BYTES);
            match count {
                0..=125 => self.output.extend([BINARY, 0x80 | count as u8]),
                _ => {
                    self.output.extend([BINARY, 0x80 | 126]);
                    self.output.extend((count as u16).to_be_bytes());
                }
            }
            self.output.extend(MASK);
            self.output.extend_from_slice(&bytes[..count]);
            // What the connection below does not take now goes out before the next frame.
            match self.push_out() {
                Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
                _ => Ok(count),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            self.push_out()
        }
    }
}
