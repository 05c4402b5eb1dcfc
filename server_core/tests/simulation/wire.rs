//! A fake connection. The server's end is a `Transport`; the peer's end belongs to the driver.

use server_core::SessionId;
use server_core::transport::PlainStream;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The state of a connect: a connection that the server accepts is connected from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectState {
    Pending,
    Connected,
    Refused,
}

/// Both directions of a connection, and what a kernel would know of them.
#[derive(Debug)]
pub struct Pipe {
    pub rng: fastrand::Rng,
    pub connect_state: ConnectState,
    pub id: Option<SessionId>,
    /// Bytes that the peer has sent and the server has not read.
    pub input: VecDeque<u8>,
    /// Whether a FIN of the peer follows `input`.
    pub peer_sent_fin: bool,
    /// The error that each further call meets.
    pub broken: Option<ErrorKind>,
    /// The connection breaks in the middle of a turn: after this number of further calls, with this error.
    pub breaks_at_call: Option<(u32, ErrorKind)>,
    /// The number of bytes that the peer's side still takes.
    pub window: usize,
    /// The most bytes that one write takes.
    pub largest_write: usize,
    /// All bytes that the server has written.
    pub output: Vec<u8>,
    pub server_sent_fin: bool,
    pub is_dropped: bool,
    /// Whether calls at random meet "would block" or "interrupted", or take few bytes, though more is possible.
    pub is_fickle: bool,
    /// Whether the last read, or the last write, met "would block": the next change is an edge.
    read_is_blocked: bool,
    write_is_blocked: bool,
    pub readable_edge: bool,
    pub writable_edge: bool,
    pub offences: Vec<String>,
    /// The number of ends of the server's side that were pending.
    pub pending_closes: u64,
}

/// The server's end.
#[derive(Debug)]
pub struct FakeStream(Arc<Mutex<Pipe>>);

/// The peer's end.
#[derive(Clone, Debug)]
pub struct PeerEnd(Arc<Mutex<Pipe>>);

pub fn pair(rng: fastrand::Rng, connect_state: ConnectState) -> (FakeStream, PeerEnd) {
    let pipe = Arc::new(Mutex::new(Pipe {
        rng,
        connect_state,
        id: None,
        input: VecDeque::new(),
        peer_sent_fin: false,
        broken: None,
        breaks_at_call: None,
        window: 0,
        largest_write: usize::MAX,
        output: Vec::new(),
        server_sent_fin: false,
        is_dropped: false,
        is_fickle: false,
        read_is_blocked: true,
        write_is_blocked: true,
        readable_edge: false,
        writable_edge: false,
        offences: Vec::new(),
        pending_closes: 0,
    }));
    (FakeStream(Arc::clone(&pipe)), PeerEnd(pipe))
}

fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PeerEnd {
    pub fn pipe(&self) -> MutexGuard<'_, Pipe> {
        lock(&self.0)
    }

    /// Registers the connection as `epoll_ctl(ADD)` does: a direction that is ready now gets an edge.
    pub fn register(&self, id: SessionId) {
        self.pipe().id = Some(id);
        self.watch();
    }

    /// Registers the connection with the poll of the listener.
    pub fn watch(&self) {
        let mut pipe = self.pipe();
        (pipe.readable_edge, pipe.writable_edge) = (false, false);
        (pipe.read_is_blocked, pipe.write_is_blocked) = (true, true);
        drop(pipe);
        self.raise_edges();
    }

    /// Raises the edges of the present state. Only a direction that was blocked gets an edge.
    pub fn raise_edges(&self) {
        let mut pipe = self.pipe();
        if pipe.connect_state == ConnectState::Pending || pipe.is_dropped {
            return;
        }
        let failed = pipe.broken.is_some() || pipe.connect_state == ConnectState::Refused;
        if pipe.read_is_blocked && (failed || !pipe.input.is_empty() || pipe.peer_sent_fin) {
            pipe.read_is_blocked = false;
            pipe.readable_edge = true;
        }
        if pipe.write_is_blocked && (failed || pipe.window > 0) {
            pipe.write_is_blocked = false;
            pipe.writable_edge = true;
        }
    }
}

impl Pipe {
    /// Drops the pending edges: they are never delivered. The server has not learned the change that an edge
    /// announced, so the next change of the same direction is an edge again. Returns whether there were any.
    pub fn lose_edges(&mut self) -> bool {
        let lost = [&mut self.readable_edge, &mut self.writable_edge].map(std::mem::take);
        self.read_is_blocked |= lost[0];
        self.write_is_blocked |= lost[1];
        lost.contains(&true)
    }
}

impl Pipe {
    fn fickle(&mut self, one_in: u32) -> bool {
        self.is_fickle && self.rng.u32(..one_in) == 0
    }

    /// Returns the error of this call, if it meets one. A socket that is not connected yet meets "would block",
    /// as on Linux.
    fn meet_errors(&mut self) -> io::Result<()> {
        self.break_if_due();
        match (self.connect_state, self.broken) {
            (ConnectState::Connected, None) => Ok(()),
            (ConnectState::Connected, Some(kind)) => Err(kind.into()),
            (ConnectState::Pending, _) => Err(ErrorKind::WouldBlock.into()),
            (ConnectState::Refused, _) => Err(ErrorKind::ConnectionRefused.into()),
        }
    }

    fn break_if_due(&mut self) {
        match &mut self.breaks_at_call {
            Some((0, kind)) => self.broken = Some(*kind),
            Some((calls, _)) => *calls -= 1,
            None => {}
        }
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.server_sent_fin {
            self.offences.push("a write after the end".into());
        }
        if let Err(error) = self.meet_errors() {
            self.write_is_blocked |= error.kind() == ErrorKind::WouldBlock;
            return Err(error);
        }
        if self.fickle(40) {
            return Err(ErrorKind::Interrupted.into());
        }
        if self.window == 0 || self.fickle(8) {
            self.write_is_blocked = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut count = bytes.len().min(self.window).min(self.largest_write);
        if count > 0 && self.fickle(3) {
            count = self.rng.usize(1..=count);
        }
        self.window -= count;
        self.output.extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}

impl Read for FakeStream {
    fn read(&mut self, memory: &mut [u8]) -> io::Result<usize> {
        let mut pipe = lock(&self.0);
        if let Err(error) = pipe.meet_errors() {
            pipe.read_is_blocked |= error.kind() == ErrorKind::WouldBlock;
            return Err(error);
        }
        if pipe.fickle(40) {
            return Err(ErrorKind::Interrupted.into());
        }
        if pipe.input.is_empty() && pipe.peer_sent_fin {
            return Ok(0);
        }
        if pipe.input.is_empty() || pipe.fickle(8) {
            pipe.read_is_blocked = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut count = memory.len().min(pipe.input.len());
        if pipe.fickle(2) {
            count = pipe.rng.usize(1..=count);
        }
        for (to, from) in memory.iter_mut().zip(pipe.input.drain(..count)) {
            *to = from;
        }
        Ok(count)
    }
}

impl Write for FakeStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).take(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        lock(&self.0).take(&bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PlainStream for FakeStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        let mut pipe = lock(&self.0);
        if std::mem::replace(&mut pipe.server_sent_fin, true) {
            pipe.offences.push("ended twice".into());
        }
        pipe.break_if_due();
        match pipe.broken {
            Some(kind) => Err(kind.into()),
            None => Ok(()),
        }
    }

    fn poll_connected(&mut self) -> io::Result<bool> {
        match lock(&self.0).connect_state {
            ConnectState::Pending => Ok(false),
            ConnectState::Connected => Ok(true),
            ConnectState::Refused => Err(ErrorKind::ConnectionRefused.into()),
        }
    }
}

impl Drop for FakeStream {
    fn drop(&mut self) {
        lock(&self.0).is_dropped = true;
    }
}
