//! A connection without a socket: the server's end is a `Transport`, the peer's end belongs to a test.

use super::rng::SimRng;
use crate::transport::PlainStream;
use std::collections::VecDeque;
use std::hint::black_box;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The server's end of a connection without a socket.
#[derive(Debug)]
pub struct FakeStream {
    /// `None`: the stream has no peer.
    state: Option<Arc<Mutex<FakeState>>>,
}

/// The peer's end: sends, takes, and scripts what the calls of the server meet. Clones share one
/// connection.
#[derive(Clone, Debug)]
pub struct FakePeer {
    state: Arc<Mutex<FakeState>>,
}

/// Both directions of a [`FakeStream`], and what a kernel would know of them.
///
/// A new connection is connected, has no input, and has room for every write.
#[derive(Debug)]
pub struct FakeState {
    /// Whether the connection is established.
    pub connect: Connect,
    /// Bytes that the peer has sent and the server has not read.
    pub input: VecDeque<u8>,
    /// Sent again and again behind `input`.
    pub endless_input: Option<Arc<[u8]>>,
    /// The end of the peer's stream is behind `input`.
    pub has_sent_fin: bool,
    /// Bytes that the server can write before a write would block.
    pub room: usize,
    /// Bytes that one write takes at most.
    pub largest_write: usize,
    /// Bytes that the server has written and the test has not taken out.
    pub output: Vec<u8>,
    /// The server has ended its side.
    pub has_received_fin: bool,
    /// The server has dropped its end.
    pub is_dropped: bool,
    /// The error of each further call.
    pub broken: Option<ErrorKind>,
    /// The connection breaks with this error at the call behind this number of further calls.
    pub breaks_at_call: Option<(u32, ErrorKind)>,
    /// What the next calls meet; see [`FakePeer::script`].
    pub script: VecDeque<(Option<Call>, Outcome)>,
    /// All bytes that the server has read.
    pub read_bytes: usize,
    /// All bytes that the server has written.
    pub written_bytes: usize,
    /// Writes that would have blocked.
    pub blocked_writes: usize,
    /// Calls that met an error other than "would block" and "interrupted".
    pub failed_calls: usize,
    /// Calls that no connection of the library may make: a write without bytes, a write or a shutdown
    /// behind a shutdown.
    pub misuses: Vec<&'static str>,
    /// Calls that the script does not name meet "would block" or "interrupted", or move few bytes, at random.
    pub cuts: Option<SimRng>,
    endless_at: usize,
    /// The last read, or the last write, met "would block": the next change is an edge.
    read_is_blocked: bool,
    write_is_blocked: bool,
}

/// Whether a connection is established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connect {
    /// Reads and writes would block.
    Pending,
    /// Bytes flow.
    Connected,
    /// Every call fails.
    Refused,
}

/// A call of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Reads bytes.
    Read,
    /// Writes bytes, from one slice or several.
    Write,
    /// Ends the server's side.
    Shutdown,
}

/// What a call meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This number of bytes at most; one byte for zero.
    AtMost(usize),
    /// "Would block", though the call could do more.
    WouldBlock,
    /// "Interrupted".
    Interrupted,
    /// This error.
    Fails(ErrorKind),
}

/// Readiness that a poll would report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edges {
    /// A read has something to return.
    pub readable: bool,
    /// A write has something to return.
    pub writable: bool,
}

impl FakeStream {
    /// Both ends of a new connection.
    #[must_use]
    pub fn pair() -> (Self, FakePeer) {
        let state = Arc::new(Mutex::new(FakeState {
            connect: Connect::Connected,
            input: VecDeque::new(),
            endless_input: None,
            has_sent_fin: false,
            room: usize::MAX,
            largest_write: usize::MAX,
            output: Vec::new(),
            has_received_fin: false,
            is_dropped: false,
            broken: None,
            breaks_at_call: None,
            script: VecDeque::new(),
            read_bytes: 0,
            written_bytes: 0,
            blocked_writes: 0,
            failed_calls: 0,
            misuses: Vec::new(),
            cuts: None,
            endless_at: 0,
            read_is_blocked: true,
            write_is_blocked: true,
        }));
        let stream = Self {
            state: Some(Arc::clone(&state)),
        };
        (stream, FakePeer { state })
    }

    /// A connection that has room for every write, brings no input and keeps nothing. A call takes no
    /// lock and allocates nothing, so that benchmarks measure the layers alone.
    #[must_use]
    pub fn sink() -> Self {
        Self { state: None }
    }

    fn state(&self) -> Option<MutexGuard<'_, FakeState>> {
        self.state.as_deref().map(lock)
    }
}

impl FakePeer {
    /// The connection, to look at and to change. The server's calls wait until the guard is dropped.
    pub fn state(&self) -> MutexGuard<'_, FakeState> {
        lock(&self.state)
    }

    /// Sends bytes.
    pub fn send(&self, bytes: &[u8]) {
        self.state().input.extend(bytes);
    }

    /// Sends these bytes again and again, behind what was sent before.
    pub fn send_endlessly(&self, bytes: impl Into<Arc<[u8]>>) {
        self.state().endless_input = Some(bytes.into());
    }

    /// Ends the peer's side.
    pub fn finish(&self) {
        let mut state = self.state();
        state.endless_input = None;
        state.has_sent_fin = true;
    }

    /// Adds room for writes of the server, as a peer does that reads.
    pub fn add_room(&self, bytes: usize) {
        let mut state = self.state();
        state.room = state.room.saturating_add(bytes);
    }

    /// Takes out up to this number of the bytes that the server has written, oldest first.
    #[must_use]
    pub fn take_output(&self, most: usize) -> Vec<u8> {
        let mut state = self.state();
        let count = most.min(state.output.len());
        state.output.drain(..count).collect()
    }

    /// Scripts what the next call meets that the script does not name yet: the next of this kind, or
    /// with `None` the next of any kind. A shutdown meets errors only.
    pub fn script(&self, call: impl Into<Option<Call>>, outcome: Outcome) {
        self.state().script.push_back((call.into(), outcome));
    }

    /// The edges since the last call. An edge needs a call of the server that would have blocked; the
    /// first look at a new connection reports what is ready, as a poll does at a registration.
    #[must_use]
    pub fn take_edges(&self) -> Edges {
        let mut state = self.state();
        if state.connect == Connect::Pending || state.is_dropped {
            return Edges::default();
        }
        let has_failed = state.broken.is_some() || state.connect == Connect::Refused;
        let has_input = !state.input.is_empty() || state.endless_input.is_some();
        let edges = Edges {
            readable: state.read_is_blocked && (has_failed || has_input || state.has_sent_fin),
            writable: state.write_is_blocked && (has_failed || state.room > 0),
        };
        state.read_is_blocked &= !edges.readable;
        state.write_is_blocked &= !edges.writable;
        edges
    }

    /// Watches these directions as if the server's last call had blocked: at a further registration, or
    /// for edges that were lost.
    pub fn rearm(&self, edges: Edges) {
        let mut state = self.state();
        state.read_is_blocked |= edges.readable;
        state.write_is_blocked |= edges.writable;
    }
}

impl FakeState {
    /// How many bytes a call may move.
    fn meet(&mut self, call: Call) -> io::Result<usize> {
        match &mut self.breaks_at_call {
            Some((0, kind)) => self.broken = Some(*kind),
            Some((calls, _)) => *calls -= 1,
            None => {}
        }
        let outcome = match (self.connect, self.broken) {
            (Connect::Pending, _) => Outcome::WouldBlock,
            (Connect::Refused, _) => Outcome::Fails(ErrorKind::ConnectionRefused),
            (Connect::Connected, Some(kind)) => Outcome::Fails(kind),
            (Connect::Connected, None) => self.scripted(call),
        };
        match outcome {
            Outcome::AtMost(bytes) => Ok(bytes.max(1)),
            Outcome::WouldBlock => Err(self.block(call)),
            Outcome::Interrupted => Err(ErrorKind::Interrupted.into()),
            Outcome::Fails(kind) => {
                self.failed_calls += 1;
                Err(kind.into())
            }
        }
    }

    fn scripted(&mut self, call: Call) -> Outcome {
        let is_meant = |(of, _): &(Option<Call>, _)| of.is_none_or(|of| of == call);
        let next = self.script.iter().position(is_meant);
        let outcome = next.and_then(|at| self.script.remove(at));
        let outcome = outcome.map(|(_, outcome)| outcome);
        outcome
            .or_else(|| self.cut(call))
            .unwrap_or(Outcome::AtMost(usize::MAX))
    }

    fn cut(&mut self, call: Call) -> Option<Outcome> {
        let rng = self.cuts.as_mut().filter(|_| call != Call::Shutdown)?;
        match rng.below(40) {
            0 => Some(Outcome::Interrupted),
            1..6 => Some(Outcome::WouldBlock),
            6..26 => {
                let most = 1 << rng.below(12);
                Some(Outcome::AtMost(rng.below(most)))
            }
            _ => None,
        }
    }

    fn block(&mut self, call: Call) -> io::Error {
        match call {
            Call::Read => self.read_is_blocked = true,
            Call::Write => {
                self.write_is_blocked = true;
                self.blocked_writes += 1;
            }
            Call::Shutdown => {}
        }
        ErrorKind::WouldBlock.into()
    }

    fn read(&mut self, memory: &mut [u8]) -> io::Result<usize> {
        let most = self.meet(Call::Read)?.min(memory.len());
        let count = if !self.input.is_empty() {
            let count = most.min(self.input.len());
            for (to, from) in memory.iter_mut().zip(self.input.drain(..count)) {
                *to = from;
            }
            count
        } else if let Some(bytes) = &self.endless_input {
            let mut free = &mut memory[..most];
            while !free.is_empty() {
                let rest = &bytes[self.endless_at % bytes.len()..];
                let count = rest.len().min(free.len());
                free[..count].copy_from_slice(&rest[..count]);
                self.endless_at += count;
                free = &mut free[count..];
            }
            most
        } else if self.has_sent_fin {
            0
        } else {
            return Err(self.block(Call::Read));
        };
        self.read_bytes += count;
        Ok(count)
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        if bytes == 0 {
            self.misuses.push("a write without bytes");
        }
        if self.has_received_fin {
            self.misuses.push("a write behind a shutdown");
        }
        let most = self.meet(Call::Write)?.min(self.largest_write);
        let count = most.min(bytes).min(self.room);
        if count == 0 && bytes > 0 {
            return Err(self.block(Call::Write));
        }
        let mut left = count;
        for slice in slices {
            let part = &slice[..left.min(slice.len())];
            self.output.extend_from_slice(part);
            left -= part.len();
        }
        self.room -= count;
        self.written_bytes += count;
        Ok(count)
    }
}

impl Read for FakeStream {
    fn read(&mut self, memory: &mut [u8]) -> io::Result<usize> {
        match self.state() {
            Some(mut state) => state.read(memory),
            None => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for FakeStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.state() {
            Some(mut state) => state.write(slices),
            None => Ok(slices.iter().map(|slice| black_box(slice).len()).sum()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PlainStream for FakeStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        let Some(mut state) = self.state() else {
            return Ok(());
        };
        if std::mem::replace(&mut state.has_received_fin, true) {
            state.misuses.push("a shutdown behind a shutdown");
        }
        match state.meet(Call::Shutdown) {
            Err(error) if !is_temporary(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn poll_connected(&mut self) -> io::Result<bool> {
        match self.state().map(|state| state.connect) {
            None | Some(Connect::Connected) => Ok(true),
            Some(Connect::Pending) => Ok(false),
            Some(Connect::Refused) => Err(ErrorKind::ConnectionRefused.into()),
        }
    }
}

impl Drop for FakeStream {
    fn drop(&mut self) {
        if let Some(mut state) = self.state() {
            state.is_dropped = true;
        }
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn lock(state: &Mutex<FakeState>) -> MutexGuard<'_, FakeState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(stream: &mut FakeStream, most: usize) -> Result<Vec<u8>, ErrorKind> {
        let mut memory = vec![0; most];
        let count = stream.read(&mut memory).map_err(|error| error.kind())?;
        memory.truncate(count);
        Ok(memory)
    }

    #[test]
    fn input_is_read_once_then_endless_input_then_the_end() {
        let (mut stream, peer) = FakeStream::pair();
        assert_eq!(read(&mut stream, 9), Err(ErrorKind::WouldBlock));
        peer.send(b"abc");
        peer.send_endlessly(*b"xyz");
        assert_eq!(read(&mut stream, 2), Ok(b"ab".to_vec()));
        assert_eq!(read(&mut stream, 2), Ok(b"c".to_vec()));
        assert_eq!(read(&mut stream, 4), Ok(b"xyzx".to_vec()));
        assert_eq!(read(&mut stream, 7), Ok(b"yzxyzxy".to_vec()));
        peer.finish();
        assert_eq!(read(&mut stream, 2), Ok(Vec::new()));
        assert_eq!(peer.state().read_bytes, 14);
    }

    #[test]
    fn write_takes_what_there_is_room_for_and_blocks_without_room() {
        let (mut stream, peer) = FakeStream::pair();
        peer.state().room = 5;
        peer.state().largest_write = 4;
        let slices = [&b"abc"[..], b"defg"].map(IoSlice::new);
        assert_eq!(stream.write_vectored(&slices).unwrap(), 4);
        assert_eq!(stream.write(b"efg").unwrap(), 1);
        let error = stream.write(b"fg").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert_eq!(peer.state().blocked_writes, 1);
        peer.add_room(9);
        assert_eq!(stream.write(b"fg").unwrap(), 2);
        assert_eq!(peer.take_output(4), b"abcd");
        assert_eq!(peer.take_output(9), b"efg");
        assert_eq!(peer.state().written_bytes, 7);
    }

    #[test]
    fn each_call_meets_the_first_outcome_that_is_meant_for_it() {
        let (mut stream, peer) = FakeStream::pair();
        peer.send(b"abcdef");
        peer.script(Call::Write, Outcome::Interrupted);
        peer.script(Call::Read, Outcome::AtMost(2));
        peer.script(None, Outcome::Fails(ErrorKind::ConnectionReset));
        assert_eq!(read(&mut stream, 9), Ok(b"ab".to_vec()));
        let error = stream.write(b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        assert_eq!(read(&mut stream, 9), Err(ErrorKind::ConnectionReset));
        assert_eq!(read(&mut stream, 9), Ok(b"cdef".to_vec()));
        assert_eq!(peer.state().failed_calls, 1);
        peer.state().broken = Some(ErrorKind::TimedOut);
        assert_eq!(read(&mut stream, 9), Err(ErrorKind::TimedOut));
    }

    #[test]
    fn connection_breaks_for_good_behind_a_number_of_calls() {
        let (mut stream, peer) = FakeStream::pair();
        peer.send(b"ab");
        peer.state().breaks_at_call = Some((2, ErrorKind::BrokenPipe));
        assert_eq!(read(&mut stream, 1), Ok(b"a".to_vec()));
        assert_eq!(stream.write(b"x").unwrap(), 1);
        assert_eq!(peer.state().broken, None);
        for _ in 0..2 {
            let error = stream.shutdown_write().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
            assert_eq!(read(&mut stream, 1), Err(ErrorKind::BrokenPipe));
        }
    }

    #[test]
    fn edge_comes_once_for_each_call_that_would_have_blocked() {
        let (mut stream, peer) = FakeStream::pair();
        let edges = |readable, writable| Edges { readable, writable };
        peer.state().connect = Connect::Pending;
        assert_eq!(peer.take_edges(), edges(false, false));
        assert!(!stream.poll_connected().unwrap());
        peer.state().connect = Connect::Connected;
        assert_eq!(peer.take_edges(), edges(false, true));
        peer.send(b"a");
        assert_eq!(peer.take_edges(), edges(true, false));
        peer.send(b"b");
        assert_eq!(
            peer.take_edges(),
            edges(false, false),
            "no read has blocked"
        );
        assert_eq!(read(&mut stream, 9), Ok(b"ab".to_vec()));
        assert_eq!(read(&mut stream, 9), Err(ErrorKind::WouldBlock));
        peer.finish();
        assert_eq!(peer.take_edges(), edges(true, false));
        peer.rearm(edges(true, false));
        assert_eq!(peer.take_edges(), edges(true, false), "a lost edge");
    }

    #[test]
    fn end_of_the_server_is_recorded_and_so_are_its_misuses() {
        let (mut stream, peer) = FakeStream::pair();
        stream.shutdown_write().unwrap();
        assert!(peer.state().has_received_fin);
        assert_eq!(stream.write(b"").unwrap(), 0);
        stream.shutdown_write().unwrap();
        drop(stream);
        assert!(peer.state().is_dropped);
        let misuses = [
            "a write without bytes",
            "a write behind a shutdown",
            "a shutdown behind a shutdown",
        ];
        assert_eq!(peer.state().misuses, misuses);
    }

    #[test]
    fn sink_has_room_for_everything_and_no_input() {
        let mut stream = FakeStream::sink();
        let slices = [&b"abc"[..], b"defg"].map(IoSlice::new);
        assert_eq!(stream.write_vectored(&slices).unwrap(), 7);
        assert_eq!(read(&mut stream, 9), Err(ErrorKind::WouldBlock));
    }
}
