//! A whole connection over a scripted stream, beside the bytes that went in and should come out.

use super::framer::{Packets, are_same, by_the_book};
use super::send_queue::{a_packet, join};
use server_core::buffer::queue::PacketBatch;
use server_core::buffer::recv::RecvBuffer;
use server_core::buffer::{ChunkPool, SendBufferManager};
use server_core::connection::admission::Admission;
use server_core::connection::{Connection, Drained, Draining, Expired, Flushed, Progress};
use server_core::transport::PlainStream;
use server_core::{Config, DisconnectReason, Kick};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub enum Step {
    /// The peer sends any bytes.
    Bytes(Vec<u8>),
    /// The peer sends a whole packet.
    Packet(u16, Vec<u8>),
    /// The peer ends its write side.
    Fin,
    /// What one of the next calls of the stream meets; without any it does all that it can.
    Meets(Meeting),
    /// A packet of this size is queued for the peer.
    Queue(usize),
    /// Packets of this size, one or two, are written to it as to everybody.
    SendCommon(usize, bool),
    Receive,
    Flush,
    /// The socket says that it can be written.
    Writable,
    Pass {
        millis: u64,
    },
    /// Its login is complete.
    Admit,
    /// Our side ends it.
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    AtMost(usize),
    WouldBlock,
    Interrupted,
    Fails(ErrorKind),
}

/// One connection, and what it should have said and heard.
pub struct Machine {
    wire: Rc<RefCell<Wire>>,
    state: State,
    config: Config,
    admission: Arc<Admission>,
    buffers: SendBufferManager,
    recv_buffer: RecvBuffer,
    now: Instant,
    serial: u32,
    /// The packets that the handler was shown.
    seen: Packets,
    /// All that was queued.
    expected: Vec<u8>,
    bytes_sent: usize,
    packets_sent: usize,
    queued_bytes: isize,
}

enum State {
    Open(Box<Connection<Stream, ()>>),
    Draining(Box<Draining<Stream>>),
    Gone,
}

#[derive(Default)]
struct Wire {
    script: VecDeque<Meeting>,
    input: VecDeque<u8>,
    peer_sent_fin: bool,
    /// What the server has read.
    taken: Vec<u8>,
    /// What the server has written.
    output: Vec<u8>,
    is_shut: bool,
    would_block: bool,
    failed: bool,
}

struct Stream(Rc<RefCell<Wire>>);

/// The handler refuses packets of this id.
pub const REFUSED_ID: u16 = 11;
const MAX_PACKET_BYTES: usize = 2_000;
const FAREWELL_BYTES: usize = 8;

impl Default for Machine {
    fn default() -> Self {
        let mut config = Config::default();
        config.max_packet_bytes = MAX_PACKET_BYTES;
        config.max_send_queue_bytes = 6_000;
        config.max_send_lag = Some(Duration::from_secs(3));
        config.packet_timeout = Some(Duration::from_secs(2));
        config.idle_timeout = Some(Duration::from_secs(5));
        config.login_timeout = Some(Duration::from_secs(4));
        config.read_budget_bytes = 700;
        config.write_budget_bytes = 900;
        let admission = Arc::new(Admission::new(1, None, None));
        let permit = admission.admit(SocketAddr::from(([127, 0, 0, 1], 1)));
        let wire = Rc::new(RefCell::new(Wire::default()));
        let now = Instant::now();
        let stream = Stream(Rc::clone(&wire));
        let mut connection = Connection::new((), stream, permit.unwrap(), None, now);
        connection.open(now);
        connection.is_admitted = false;
        Self {
            wire,
            state: State::Open(Box::new(connection)),
            config,
            admission,
            buffers: SendBufferManager::new(ChunkPool::new(4 << 10, 2)),
            recv_buffer: RecvBuffer::new(256),
            now,
            serial: 0,
            seen: Packets::new(),
            expected: Vec::new(),
            bytes_sent: 0,
            packets_sent: 0,
            queued_bytes: 0,
        }
    }
}

impl Machine {
    pub fn step(&mut self, step: Step) {
        self.serial += 1;
        match step {
            Step::Bytes(bytes) => self.peer_sends(&bytes),
            Step::Packet(id, payload) => {
                self.peer_sends(&super::framer::on_the_wire(&[(id, payload)]));
            }
            Step::Fin => self.wire.borrow_mut().peer_sent_fin = true,
            Step::Meets(meeting) => self.wire.borrow_mut().script.push_back(meeting),
            Step::Pass { millis } => self.now += Duration::from_millis(millis),
            Step::Queue(bytes) => self.queue(bytes),
            Step::SendCommon(bytes, two) => self.write_broadcast(bytes, two),
            Step::Receive => self.receive(),
            Step::Flush => self.flush(),
            Step::Admit => {
                if let State::Open(connection) = &mut self.state {
                    connection.is_admitted = true;
                }
            }
            Step::Close => self.leave(DisconnectReason::Closed),
            Step::Writable => match &mut self.state {
                State::Open(connection) => {
                    assert_eq!(connection.handle_writable(self.now), Ok(false));
                }
                State::Draining(draining) => draining.handle_writable(),
                State::Gone => {}
            },
        }
        self.advance_draining();
        self.check();
    }

    fn peer_sends(&mut self, bytes: &[u8]) {
        let mut wire = self.wire.borrow_mut();
        if !wire.peer_sent_fin {
            wire.input.extend(bytes);
        }
    }

    fn queue(&mut self, bytes: usize) {
        if let State::Open(connection) = &mut self.state {
            let buffer = a_packet(&self.buffers, bytes.max(4), self.serial);
            self.expected.extend(&buffer[..]);
            let was_dirty = connection.is_dirty;
            assert_eq!(connection.queue(buffer), !was_dirty);
            assert!(connection.has_output());
        }
    }

    fn write_broadcast(&mut self, bytes: usize, two: bool) {
        let State::Open(connection) = &mut self.state else {
            return;
        };
        let first = a_packet(&self.buffers, bytes.max(4), self.serial);
        self.expected.extend(&first[..]);
        let mut run = PacketBatch::new(first);
        if two {
            let second = a_packet(&self.buffers, 4, self.serial);
            if run.append(&second) {
                self.expected.extend(&second[..]);
            }
        }
        let (had_output, was_dirty) = (connection.has_output(), connection.is_dirty);
        let mut flushed = Flushed::default();
        let sent = connection.write_broadcast(&run, &self.config, &mut flushed);
        self.bytes_sent += flushed.bytes;
        self.packets_sent += flushed.packets;
        assert!(
            !had_output || flushed.calls == 0,
            "something stands before it"
        );
        match sent {
            Ok(is_new) => {
                assert_eq!(is_new, connection.is_dirty && !was_dirty);
                let unsent = self.expected.len() - self.wire.borrow().output.len();
                assert_eq!(connection.has_output(), unsent > 0);
            }
            Err(reason) => {
                assert!(self.wire.borrow().failed, "an error that nobody met");
                self.leave(reason);
            }
        }
    }

    fn receive(&mut self) {
        let State::Open(connection) = &mut self.state else {
            return;
        };
        let (taken_before, seen_before) = (self.wire.borrow().taken.len(), self.seen.len());
        let seen = &mut self.seen;
        let received = connection.receive(
            &mut self.recv_buffer,
            self.config.read_budget_bytes,
            &self.config,
            self.now,
            |_, packet| {
                seen.push((packet.id(), packet.payload().to_vec()));
                match packet.id() {
                    REFUSED_ID => Err(Kick::BadPayload.into()),
                    _ => Ok(()),
                }
            },
        );
        let wire = self.wire.borrow();
        assert_eq!(received.bytes, wire.taken.len() - taken_before);
        assert_eq!(received.packets, self.seen.len() - seen_before);
        assert!(received.bytes <= self.config.read_budget_bytes);

        let (mut packets, mut kick) = by_the_book(&wire.taken, MAX_PACKET_BYTES);
        if let Some(refused) = packets.iter().position(|(id, _)| *id == REFUSED_ID) {
            packets.truncate(refused + 1);
            kick = Some(Kick::BadPayload);
        }
        assert!(are_same(&self.seen, &packets), "other packets were handled");
        match received.outcome {
            Ok(has_more) => {
                assert_eq!(kick, None);
                assert_eq!(has_more, received.bytes == self.config.read_budget_bytes);
            }
            Err(DisconnectReason::Kicked(Kick::SlowConsumer)) => assert!(wire.failed),
            Err(DisconnectReason::Kicked(found)) => assert_eq!(Some(found), kick),
            Err(DisconnectReason::PeerClosed) => {
                assert!(wire.peer_sent_fin && wire.input.is_empty());
            }
            Err(_) => assert!(wire.failed, "an error that nobody met"),
        }
        drop(wire);
        if let Err(reason) = received.outcome {
            self.leave(reason);
        }
    }

    fn flush(&mut self) {
        let State::Open(connection) = &mut self.state else {
            return;
        };
        self.wire.borrow_mut().would_block = false;
        let cap = self.config.max_send_queue_bytes * Config::SEND_QUEUE_CAP;
        let was_over = self.expected.len() - self.wire.borrow().output.len() > cap;
        let (flushed, verdict) = connection.flush(&self.config, self.now);
        self.bytes_sent += flushed.bytes;
        self.packets_sent += flushed.packets;
        self.queued_bytes += flushed.queue_growth;
        let unsent = self.expected.len() - self.wire.borrow().output.len();
        let over_cap = unsent > cap;
        match verdict {
            Ok(()) => {
                assert_eq!(self.queued_bytes, unsent as isize);
                assert_eq!(connection.has_output(), unsent > 0);
                let budget = self.config.write_budget_bytes;
                assert!(flushed.bytes <= budget || was_over);
                let may_go_on = flushed.bytes >= budget && !self.wire.borrow().would_block;
                assert_eq!(flushed.has_more, unsent > 0 && may_go_on);
                assert!(!over_cap);
            }
            Err(DisconnectReason::Kicked(kick)) => {
                assert_eq!(kick, Kick::SlowConsumer);
                // A write that times out is a peer that takes nothing, too.
                assert!(over_cap || self.wire.borrow().failed);
            }
            Err(_) => assert!(self.wire.borrow().failed, "an error that nobody met"),
        }
        assert!(self.buffers.stats().live <= 1, "a chunk is pinned");
        if let Err(reason) = verdict {
            self.leave(reason);
        }
    }

    fn leave(&mut self, reason: DisconnectReason) {
        let State::Open(connection) = std::mem::replace(&mut self.state, State::Gone) else {
            return;
        };
        let close_message = (reason.flushes() && reason.code().is_some())
            .then(|| a_packet(&self.buffers, FAREWELL_BYTES, self.serial));
        self.expected
            .extend(close_message.iter().flat_map(|packet| packet.to_vec()));
        let flush_by = self.now + Duration::from_secs(2);
        let ((), mut draining) = connection.into_draining(reason, close_message, flush_by);
        if reason.flushes() {
            self.state = State::Draining(Box::new(draining));
        } else {
            self.queued_bytes += draining.abandon().queue_growth;
            assert_eq!(self.queued_bytes, 0);
        }
    }

    fn advance_draining(&mut self) {
        let State::Draining(draining) = &mut self.state else {
            return;
        };
        let Drained {
            flushed, progress, ..
        } = draining.advance(
            &mut self.recv_buffer,
            self.config.read_budget_bytes,
            &self.config,
            self.now,
        );
        self.bytes_sent += flushed.bytes;
        self.packets_sent += flushed.packets;
        self.queued_bytes += flushed.queue_growth;
        if progress != Progress::Done {
            return;
        }
        assert_eq!(self.queued_bytes, 0);
        let is_over = self.now >= draining.deadline();
        let wire = self.wire.borrow();
        let is_flushed = wire.output.len() == self.expected.len();
        assert!(is_flushed || is_over || wire.failed, "it gave up too early");
        drop(wire);
        self.state = State::Gone;
    }

    fn check(&mut self) {
        let wire = self.wire.borrow();
        assert!(self.expected.starts_with(&wire.output), "other bytes");
        assert_eq!(self.bytes_sent, wire.output.len());
        let whole = by_the_book(&wire.output, usize::MAX).0.len();
        assert_eq!(self.packets_sent, whole);
        if let State::Open(connection) = &mut self.state {
            let deadline = connection.next_deadline(&self.config);
            let is_due = deadline.is_some_and(|at| at <= self.now);
            let due = connection.expired(&self.config, self.now);
            // A peer that passes a check of its throughput is given more time.
            let is_due_still =
                (connection.next_deadline(&self.config)).is_some_and(|at| at <= self.now);
            assert_eq!(due != Expired::None, is_due && is_due_still);
            let is_late = due == Expired::ReadThenClose(DisconnectReason::LoginTimeout);
            assert!(!is_late || !connection.is_admitted);
        }
        let is_gone = matches!(self.state, State::Gone);
        assert_eq!(self.admission.total(), usize::from(!is_gone));
    }

    /// The peer reads everything and leaves: so all that was queued arrives, unless an error or
    /// the clock came first.
    pub fn finish(mut self) {
        self.wire.borrow_mut().script.clear();
        self.step(Step::Close);
        for _ in 0..10_000 {
            if matches!(self.state, State::Gone) {
                break;
            }
            self.step(Step::Writable);
            // Its FIN comes behind ours, as that of a peer that reads does.
            if self.wire.borrow().is_shut {
                self.step(Step::Fin);
            }
        }
        assert!(matches!(self.state, State::Gone), "it never ends");
        self.buffers.release();
        assert_eq!(self.buffers.stats().live, 0);
    }
}

impl Wire {
    /// How much the next call may do.
    fn meet(&mut self) -> io::Result<usize> {
        let met = match self.script.pop_front() {
            None => return Ok(usize::MAX),
            Some(Meeting::AtMost(count)) => return Ok(count.max(1)),
            Some(Meeting::WouldBlock) => ErrorKind::WouldBlock,
            Some(Meeting::Interrupted) => ErrorKind::Interrupted,
            Some(Meeting::Fails(kind)) => kind,
        };
        match met {
            ErrorKind::WouldBlock => self.would_block = true,
            ErrorKind::Interrupted => {}
            _ => self.failed = true,
        }
        Err(met.into())
    }
}

impl Read for Stream {
    fn read(&mut self, memory: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        let count = wire.meet()?.min(memory.len()).min(wire.input.len());
        if count == 0 && !wire.peer_sent_fin {
            return Err(ErrorKind::WouldBlock.into());
        }
        let bytes: Vec<u8> = wire.input.drain(..count).collect();
        memory[..count].copy_from_slice(&bytes);
        wire.taken.extend(bytes);
        Ok(count)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        assert!(!wire.is_shut, "a write after the end");
        assert!(!bytes.is_empty(), "a write of nothing");
        let count = wire.meet()?.min(bytes.len());
        wire.output.extend(&bytes[..count]);
        Ok(count)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(&join(slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PlainStream for Stream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        let mut wire = self.0.borrow_mut();
        assert!(!std::mem::replace(&mut wire.is_shut, true), "ended twice");
        match wire.meet() {
            Err(error) if wire.failed => Err(error),
            _ => Ok(()),
        }
    }

    fn poll_connected(&mut self) -> io::Result<bool> {
        Ok(true)
    }
}
