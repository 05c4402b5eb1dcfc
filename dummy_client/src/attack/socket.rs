//! The socket of one attack connection: non-blocking reads and writes, a bounded number of bytes at a time.

use super::connection::{AttackConnection, End, Step};
use super::protocol::Protocol;
use super::report::AttackStats;
use crate::channel::Channel;
use mio::net::TcpStream;
use socket2::{Domain, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Instant;

/// An established connection with its socket.
pub(super) struct AttackSocket {
    pub stream: Channel<TcpStream>,
    is_open: bool,
    pub connection: AttackConnection,
    pub is_writable: bool,
}

/// The bytes of one call in one direction. The other connections follow then.
const MAX_BYTES_PER_CALL: usize = 256 << 10;
/// A write counts as this number of bytes at least: behind few bytes may be many records of TLS.
const MIN_WRITE_BYTES: usize = 16 << 10;
/// The beginning of what the server has sent to a connection that left: a refusal is the first packet.
const FIRST_BYTES: usize = 4 << 10;

impl AttackSocket {
    pub fn new(stream: Channel<TcpStream>, connection: AttackConnection) -> Self {
        Self {
            stream,
            is_open: false,
            connection,
            is_writable: true,
        }
    }

    /// When to go on without an event.
    pub fn next_at(&self) -> Option<Instant> {
        self.connection.next_at(self.is_writable)
    }

    /// Reads, writes, and follows the script. Returns whether there is more to do at once.
    pub fn exchange(
        &mut self,
        buffer: &mut [u8],
        protocol: &dyn Protocol,
        stats: &mut AttackStats,
        now: Instant,
    ) -> Result<bool, End> {
        let (mut may_read_on, mut may_write_on) = (false, false);
        if self.open()? {
            let sends_first = self.connection.sends_first(now);
            let reads = self.connection.script().reads;
            may_read_on = reads && (sends_first || self.read(buffer, protocol, stats)?);
            may_write_on = self.write(buffer, protocol, stats, now)?;
        }
        match self.connection.step(now) {
            Step::Continue => {}
            // If the connection is closed already, the next read finds that.
            Step::CloseWrite => drop(self.stream.socket().shutdown(Shutdown::Write)),
            Step::End(end) => {
                if end == End::Left {
                    let _ = self.stream.socket().shutdown(Shutdown::Write);
                }
                return Err(end);
            }
        }
        Ok(may_read_on || may_write_on)
    }

    /// Goes on with the handshake of the transport. Returns whether it is complete.
    fn open(&mut self) -> Result<bool, End> {
        if !self.is_open {
            match self.stream.handshake() {
                Ok(()) => self.is_open = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Err(self.connection.on_closed()),
            }
        }
        Ok(self.is_open)
    }

    /// How a connection ended that left: reads the beginning of what the server has sent. An attacker that
    /// leaves does not wait for the rest.
    pub fn end_of_left(
        mut self,
        buffer: &mut [u8],
        protocol: &dyn Protocol,
        stats: &mut AttackStats,
    ) -> (AttackConnection, End) {
        let limit = FIRST_BYTES.min(buffer.len());
        if let Ok(count) = self.stream.read(&mut buffer[..limit]) {
            stats.packets_received += self.connection.on_received(&buffer[..count], protocol);
        }
        let end = match self.connection.close_reason() {
            Some(code) => End::ByServer(Some(code)),
            None => End::AsScripted,
        };
        (self.connection, end)
    }

    fn read(
        &mut self,
        buffer: &mut [u8],
        protocol: &dyn Protocol,
        stats: &mut AttackStats,
    ) -> Result<bool, End> {
        let mut left = MAX_BYTES_PER_CALL;
        while left > 0 {
            match self.stream.read(buffer) {
                Ok(0) => return Err(self.connection.on_closed()),
                Ok(count) => {
                    left = left.saturating_sub(count);
                    let received = &buffer[..count];
                    stats.packets_received += self.connection.on_received(received, protocol);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(false),
                    ErrorKind::Interrupted => {}
                    _ => return Err(self.connection.on_closed()),
                },
            }
        }
        Ok(true)
    }

    fn write(
        &mut self,
        buffer: &mut [u8],
        protocol: &dyn Protocol,
        stats: &mut AttackStats,
        now: Instant,
    ) -> Result<bool, End> {
        let mut left = MAX_BYTES_PER_CALL;
        while self.is_writable && left > 0 {
            let output = self.connection.output(now);
            if output.is_empty() {
                return Ok(false);
            }
            match self.stream.write(output) {
                Ok(count) => {
                    self.connection.on_sent(count);
                    stats.bytes_sent += count as u64;
                    left = left.saturating_sub(count.max(MIN_WRITE_BYTES));
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.is_writable = false,
                    ErrorKind::Interrupted => {}
                    // The close message may wait in the receive buffer: the next read finds it.
                    _ if self.connection.script().reads => {
                        self.is_writable = false;
                        return Ok(true);
                    }
                    // The attacker has never read: a refusal counts before all else.
                    _ => {
                        self.read(buffer, protocol, stats)?;
                        return Err(self.connection.on_closed());
                    }
                },
            }
        }
        Ok(self.is_writable)
    }
}

/// Begins a connection. The size of a receive buffer has to be set before.
pub(super) fn connect(
    target: SocketAddr,
    recv_buffer_bytes: Option<usize>,
) -> io::Result<TcpStream> {
    let domain = Domain::for_address(target);
    let socket = Socket::new(domain, Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(bytes) = recv_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    take_own_address(&socket, target);
    match socket.connect(&target.into()) {
        Err(error) if !is_in_progress(&error) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

/// Attackers have an address of their own, as on the internet: they do not use up the budget of the healthy
/// sessions' address. Linux has all of 127.0.0.0/8. Elsewhere, and towards another machine, the system chooses.
fn take_own_address(socket: &Socket, target: SocketAddr) {
    if target.ip().is_loopback() && target.is_ipv4() {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
            // A port that is chosen at `connect` may wait in TIME_WAIT. Where the option fails, fewer ports are
            // left.
            let _ = setsockopt(socket, IpBindAddressNoPort, &true);
        }
        let address = SocketAddr::from((ATTACKER_ADDRESS, 0));
        if let Err(error) = socket.bind(&address.into()) {
            log::debug!("attackers have no address of their own: {error}");
        }
    }
}

/// The address of attackers on the loopback interface.
const ATTACKER_ADDRESS: [u8; 4] = [127, 77, 0, 1];

fn is_in_progress(error: &io::Error) -> bool {
    // The kind of EINPROGRESS is not stable yet.
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(EINPROGRESS)
}

#[cfg(target_os = "linux")]
const EINPROGRESS: i32 = 115;
#[cfg(not(target_os = "linux"))]
const EINPROGRESS: i32 = 36;
