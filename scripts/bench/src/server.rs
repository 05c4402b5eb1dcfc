//! The flags of the servers, and the start that all servers share.

use clap::Parser;
use clap::builder::RangedU64ValueParser;
use server_core::host;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// A server of the benchmark. See `scripts/bench.sh`.
#[derive(Clone, Debug, Parser)]
pub struct ServerArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_parser = host::parse_addr)]
    pub addr: SocketAddr,
    /// Period of the hello broadcast, in milliseconds; 0: off
    #[arg(long, default_value_t = 250)]
    pub tick_ms: u64,
    /// Zero-pad the hello's payload (tick number included) to this many bytes
    #[arg(long, default_value_t = 60, value_parser = RangedU64ValueParser::<usize>::new().range(19..=65_531))]
    pub payload_bytes: usize,
    /// Packets that each session gets in a tick: a hello, then chats of the same size
    #[arg(long, default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    pub packets_per_tick: usize,
    /// Threads that serve connections
    #[arg(long, default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=64))]
    pub workers: usize,
}

impl ServerArgs {
    /// Parses the command line, starts the log, and raises the limit of open files.
    #[must_use]
    pub fn from_command_line() -> Self {
        let args = Self::parse();
        host::init_logs("info");
        let _ = host::raise_fd_limit();
        args
    }

    /// The tick period. `None`: no ticks.
    #[must_use]
    pub fn tick_period(&self) -> Option<Duration> {
        (self.tick_ms > 0).then(|| Duration::from_millis(self.tick_ms))
    }

    /// The payload of a hello behind the tick number: text, then zeros.
    #[must_use]
    pub fn hello_tail(&self) -> Vec<u8> {
        let mut tail = b"Hello World".to_vec();
        tail.resize(tail.len().max(self.payload_bytes - size_of::<u64>()), 0);
        tail
    }
}

/// Listens with the backlog of `game_server`, and logs the address.
///
/// # Errors
/// Fails if the address cannot be bound.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from(socket);
    log::info!("listening on {}", listener.local_addr()?);
    Ok(listener)
}
