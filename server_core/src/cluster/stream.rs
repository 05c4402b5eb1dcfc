//! The socket to a broker, with TLS or without: one thread reads, and one thread at a time writes.

use socket2::Socket;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

#[cfg(feature = "tls")]
use {
    rustls::ClientConnection,
    std::mem::MaybeUninit,
    std::sync::{Mutex, MutexGuard, PoisonError},
};

/// The certificates that a node trusts its broker by.
#[cfg(feature = "tls")]
pub type Trust = crate::runtime::tls::TlsClientConfig;
/// Without the feature `tls` there are none.
#[cfg(not(feature = "tls"))]
#[derive(Clone, Debug)]
pub enum Trust {}

/// A connected socket.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    #[cfg(feature = "tls")]
    tls: Option<Mutex<ClientConnection>>,
}

impl Stream {
    /// Completes the handshake with the broker of this name, if there is `trust`.
    ///
    /// # Errors
    /// Errors of the socket and of the handshake; [`io::ErrorKind::TimedOut`] behind the deadline.
    pub fn new(
        socket: Socket,
        trust: Option<&Trust>,
        host: &str,
        deadline: Instant,
    ) -> io::Result<Self> {
        #[cfg(feature = "tls")]
        {
            let tls = trust.map(|trust| trust.broker_connection(host));
            let stream = Self {
                socket,
                tls: tls.transpose()?.map(Mutex::new),
            };
            stream.handshake(deadline)?;
            Ok(stream)
        }
        #[cfg(not(feature = "tls"))]
        {
            let _ = (trust, host, deadline);
            Ok(Self { socket })
        }
    }

    /// Ends the connection: a read of the other thread returns.
    pub fn shut_down(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Writes all bytes within this time.
    pub fn write_all(&self, bytes: &[u8], timeout: Duration) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            // The lock is not held while the socket writes: the reads go on.
            let records = encrypt(&mut lock(tls), bytes)?;
            return write_all(&self.socket, &records, timeout);
        }
        write_all(&self.socket, bytes, timeout)
    }

    /// Reads some bytes. Without a deadline the read waits until [`shut_down`](Self::shut_down).
    pub fn read(&self, bytes: &mut [u8], deadline: Option<Instant>) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            loop {
                let read = lock(tls).reader().read(bytes);
                match read {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return read,
                }
                if !self.receive(tls, deadline)? {
                    return Ok(0);
                }
            }
        }
        self.set_deadline(deadline)?;
        (&self.socket).read(bytes)
    }

    fn set_deadline(&self, deadline: Option<Instant>) -> io::Result<()> {
        match deadline {
            Some(deadline) => self.socket.set_read_timeout(Some(time_left(deadline)?)),
            None => Ok(()),
        }
    }

    /// Reads without a limit of time from now on.
    pub fn clear_deadline(&self) -> io::Result<()> {
        self.socket.set_read_timeout(None)
    }
}

#[cfg(feature = "tls")]
impl Stream {
    fn handshake(&self, deadline: Instant) -> io::Result<()> {
        let Some(tls) = &self.tls else { return Ok(()) };
        loop {
            let (records, is_done) = {
                let mut connection = lock(tls);
                let records = encrypt(&mut connection, &[])?;
                (records, !connection.is_handshaking())
            };
            write_all(&self.socket, &records, time_left(deadline)?)?;
            if is_done {
                return Ok(());
            }
            if !self.receive(tls, Some(deadline))? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Waits for bytes, and decrypts them. Returns whether there were any before the end.
    fn receive(
        &self,
        tls: &Mutex<ClientConnection>,
        deadline: Option<Instant>,
    ) -> io::Result<bool> {
        self.set_deadline(deadline)?;
        // The wait is without the lock, and the read behind it does not wait: the writes go on.
        if self.socket.peek(&mut [MaybeUninit::uninit()])? == 0 {
            return Ok(false);
        }
        let mut connection = lock(tls);
        connection.read_tls(&mut &self.socket)?;
        // An answer to the peer, for example new keys, goes out with the next write.
        connection.process_new_packets().map_err(io::Error::other)?;
        Ok(true)
    }
}

/// The records with these bytes, behind all that waits already.
#[cfg(feature = "tls")]
fn encrypt(connection: &mut ClientConnection, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut records = Vec::with_capacity(bytes.len() + 64);
    connection.writer().write_all(bytes)?;
    while connection.wants_write() {
        connection.write_tls(&mut records)?;
    }
    Ok(records)
}

#[cfg(feature = "tls")]
fn lock(tls: &Mutex<ClientConnection>) -> MutexGuard<'_, ClientConnection> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_all(mut socket: &Socket, mut bytes: &[u8], timeout: Duration) -> io::Result<()> {
    let deadline = Instant::now() + timeout;
    while !bytes.is_empty() {
        socket.set_write_timeout(Some(time_left(deadline)?))?;
        match socket.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The time until a deadline.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] behind the deadline.
pub fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    // The system takes no shorter time.
    (left >= Duration::from_millis(1))
        .then_some(left)
        .ok_or_else(|| io::ErrorKind::TimedOut.into())
}
