//! A session that reads the tick number. The driver is another process than the server: the tick number tells
//! the driver how many packets the server sent between two readings of the server's CPU clock.

use bench::wire::{HEADER_BYTES, S_HELLO};
use std::io::{BufReader, Read};
use std::net::TcpStream;
use std::time::Duration;

/// A connection that reads ticks.
pub struct Probe(BufReader<TcpStream>);

impl Probe {
    /// Connects to the server.
    pub fn connect(addr: &str) -> Result<Self, String> {
        let connect = || {
            let stream = TcpStream::connect(addr)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(Self(BufReader::new(stream)))
        };
        connect().map_err(|error: std::io::Error| format!("the probe cannot connect: {error}"))
    }

    /// Waits for the next hello, and returns its number.
    pub fn next_tick(&mut self) -> Result<u64, String> {
        self.read_tick()
            .map_err(|error| format!("the probe got no tick: {error}"))
    }

    fn read_tick(&mut self) -> std::io::Result<u64> {
        loop {
            let mut header = [0; HEADER_BYTES];
            self.0.read_exact(&mut header)?;
            let [a, b, c, d] = header;
            let size = usize::from(u16::from_le_bytes([a, b]));
            let mut payload = vec![0; size.saturating_sub(HEADER_BYTES)];
            self.0.read_exact(&mut payload)?;
            if u16::from_le_bytes([c, d]) == S_HELLO
                && let Some((tick, _)) = payload.split_first_chunk()
            {
                return Ok(u64::from_le_bytes(*tick));
            }
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(5);
