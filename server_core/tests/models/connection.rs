//! A whole connection over a scripted stream, compared with the bytes that went in and should come out.

use super::framer::{Packets, are_same, by_the_book};
use super::send_queue::a_packet;
use server_core::buffer::queue::PacketBatch;
use server_core::buffer::recv::RecvBuffer;
use server_core::buffer::{ChunkPool, SendBufferManager};
use server_core::connection::admission::Admission;
use server_core::connection::{Connection, Drained, Draining, Expired, Flushed, Progress};
use server_core::testing::{FakeClock, FakePeer, FakeStream, Outcome};
use server_core::{Config, DisconnectReason, Kick};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug)]
pub enum Step {
    /// The peer sends any bytes.
    Bytes(Vec<u8>),
    /// The peer sends a whole packet.
    Packet(u16, Vec<u8>),
    /// The peer ends its write side.
    Fin,
    /// The outcome of one of the next calls of the stream. Without one, a call does everything that it can.
    Meets(Outcome),
    /// A packet of this size is queued for the peer.
    Queue(usize),
    /// One or two packets, the first of this size, are written to the peer as a pending broadcast.
    SendCommon(usize, bool),
    Receive,
    Flush,
    /// The poll reports that the socket is writable.
    Writable,
    Pass {
        millis: u64,
    },
    /// The session completes its login.
    Admit,
    /// The server ends the connection.
    Close,
}

/// A connection, and the bytes that it should have sent and received.
pub struct Machine {
    peer: FakePeer,
    /// The bytes that the peer has sent.
    sent: Vec<u8>,
    state: State,
    config: Config,
    admission: Arc<Admission>,
    buffers: SendBufferManager,
    recv_buffer: RecvBuffer,
    clock: FakeClock,
    serial: u32,
    /// The packets that the handler got.
    seen: Packets,
    /// All bytes that were queued or written for the peer.
    expected: Vec<u8>,
    bytes_sent: usize,
    packets_sent: usize,
    queued_bytes: isize,
}

enum State {
    Open(Box<Connection<FakeStream, ()>>),
    Draining(Box<Draining<FakeStream>>),
    Gone,
}

/// The id of the packets that the handler refuses.
pub const REFUSED_ID: u16 = 11;
const MAX_PACKET_BYTES: usize = 2_000;
/// The first bytes of a PROXY header, which comes from a proxy that is not trusted.
const PROXY_SIGNATURES: [&[u8]; 2] = [b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"];
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
        let clock = FakeClock::new();
        let (stream, peer) = FakeStream::pair();
        let mut connection = Connection::new((), stream, permit.unwrap(), None, clock.now());
        connection.open(clock.now());
        connection.is_admitted = false;
        Self {
            peer,
            sent: Vec::new(),
            state: State::Open(Box::new(connection)),
            config,
            admission,
            buffers: SendBufferManager::new(ChunkPool::new(4 << 10, 2)),
            recv_buffer: RecvBuffer::new(256),
            clock,
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
            Step::Fin => self.peer.finish(),
            Step::Meets(outcome) => self.peer.script(None, outcome),
            Step::Pass { millis } => self.clock.advance(Duration::from_millis(millis)),
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
                    assert_eq!(connection.handle_writable(self.clock.now()), Ok(false));
                }
                State::Draining(draining) => draining.handle_writable(),
                State::Gone => {}
            },
        }
        self.advance_draining();
        self.check();
    }

    fn peer_sends(&mut self, bytes: &[u8]) {
        if !self.peer.state().has_sent_fin {
            self.peer.send(bytes);
            self.sent.extend(bytes);
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
            "other output is before the broadcast"
        );
        match sent {
            Ok(is_new) => {
                assert_eq!(is_new, connection.is_dirty && !was_dirty);
                let unsent = self.expected.len() - self.peer.state().written_bytes;
                assert_eq!(connection.has_output(), unsent > 0);
            }
            Err(reason) => {
                assert!(self.has_failed(), "an error that no call met");
                self.leave(reason);
            }
        }
    }

    fn receive(&mut self) {
        let State::Open(connection) = &mut self.state else {
            return;
        };
        let (read_before, seen_before) = (self.peer.state().read_bytes, self.seen.len());
        let seen = &mut self.seen;
        let received = connection.receive(
            &mut self.recv_buffer,
            self.config.read_budget_bytes,
            &self.config,
            self.clock.now(),
            |_, packet, _| {
                seen.push((packet.id(), packet.payload().to_vec()));
                match packet.id() {
                    REFUSED_ID => Err(Kick::BadPayload.into()),
                    _ => Ok(()),
                }
            },
        );
        let read_bytes = self.peer.state().read_bytes;
        assert_eq!(received.bytes, read_bytes - read_before);
        assert_eq!(received.packets, self.seen.len() - seen_before);
        assert!(received.bytes <= self.config.read_budget_bytes);

        let (mut packets, mut kick) = by_the_book(&self.sent[..read_bytes], MAX_PACKET_BYTES);
        let read = &self.sent[..read_bytes];
        let is_proxy = PROXY_SIGNATURES.iter().any(|signature| {
            let common = signature.len().min(read.len());
            read[..common] == signature[..common] && (common == signature.len() || kick.is_some())
        });
        if is_proxy {
            packets.clear();
            kick = Some(Kick::BadSize);
        }
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
            Err(DisconnectReason::Kicked(Kick::SlowConsumer)) => assert!(self.has_failed()),
            Err(DisconnectReason::Kicked(found)) => assert_eq!(Some(found), kick),
            Err(DisconnectReason::PeerClosed) => {
                let state = self.peer.state();
                assert!(state.has_sent_fin && state.input.is_empty());
            }
            Err(_) => assert!(self.has_failed(), "an error that no call met"),
        }
        if let Err(reason) = received.outcome {
            self.leave(reason);
        }
    }

    fn flush(&mut self) {
        let State::Open(connection) = &mut self.state else {
            return;
        };
        let blocked_before = self.peer.state().blocked_writes;
        let cap = self.config.max_send_queue_bytes * Config::SEND_QUEUE_CAP;
        let was_over = self.expected.len() - self.peer.state().written_bytes > cap;
        let (flushed, verdict) = connection.flush(&self.config, self.clock.now());
        self.bytes_sent += flushed.bytes;
        self.packets_sent += flushed.packets;
        self.queued_bytes += flushed.queue_growth;
        let unsent = self.expected.len() - self.peer.state().written_bytes;
        let over_cap = unsent > cap;
        match verdict {
            Ok(()) => {
                assert_eq!(self.queued_bytes, unsent as isize);
                assert_eq!(connection.has_output(), unsent > 0);
                let budget = self.config.write_budget_bytes;
                assert!(flushed.bytes <= budget || was_over);
                let has_blocked = self.peer.state().blocked_writes > blocked_before;
                let may_go_on = flushed.bytes >= budget && !has_blocked;
                assert_eq!(flushed.has_more, unsent > 0 && may_go_on);
                assert!(!over_cap);
            }
            Err(DisconnectReason::Kicked(kick)) => {
                assert_eq!(kick, Kick::SlowConsumer);
                // A write that times out also ends the session as a slow consumer.
                assert!(over_cap || self.has_failed());
            }
            Err(_) => assert!(self.has_failed(), "an error that no call met"),
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
        let flush_by = self.clock.now() + Duration::from_secs(2);
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
            self.clock.now(),
        );
        self.bytes_sent += flushed.bytes;
        self.packets_sent += flushed.packets;
        self.queued_bytes += flushed.queue_growth;
        if progress != Progress::Done {
            return;
        }
        assert_eq!(self.queued_bytes, 0);
        let is_over = self.clock.now() >= draining.deadline();
        let is_flushed = self.peer.state().written_bytes == self.expected.len();
        assert!(
            is_flushed || is_over || self.has_failed(),
            "the connection gave up too early"
        );
        self.state = State::Gone;
    }

    fn check(&mut self) {
        let state = self.peer.state();
        assert!(state.misuses.is_empty(), "{:?}", state.misuses);
        assert!(self.expected.starts_with(&state.output), "other bytes");
        assert_eq!(self.bytes_sent, state.output.len());
        let whole = by_the_book(&state.output, usize::MAX).0.len();
        assert_eq!(self.packets_sent, whole);
        drop(state);
        if let State::Open(connection) = &mut self.state {
            let deadline = connection.next_deadline(&self.config);
            let is_due = deadline.is_some_and(|at| at <= self.clock.now());
            let due = connection.expired(&self.config, self.clock.now());
            // A peer that passes the check of its throughput gets more time.
            let is_due_still =
                (connection.next_deadline(&self.config)).is_some_and(|at| at <= self.clock.now());
            assert_eq!(due != Expired::None, is_due && is_due_still);
            let is_late = due == Expired::ReadThenClose(DisconnectReason::LoginTimeout);
            assert!(!is_late || !connection.is_admitted);
        }
        let is_gone = matches!(self.state, State::Gone);
        assert_eq!(self.admission.total(), usize::from(!is_gone));
    }

    fn has_failed(&self) -> bool {
        self.peer.state().failed_calls > 0
    }

    /// Lets the peer read everything and close: all queued bytes arrive, unless an error or a deadline came
    /// first.
    pub fn finish(mut self) {
        self.peer.state().script.clear();
        self.step(Step::Close);
        for _ in 0..10_000 {
            if matches!(self.state, State::Gone) {
                break;
            }
            self.step(Step::Writable);
            // The peer sends its FIN after the server's FIN, as a peer that reads does.
            let is_shut = self.peer.state().has_received_fin;
            if is_shut {
                self.step(Step::Fin);
            }
        }
        assert!(
            matches!(self.state, State::Gone),
            "the connection never ends"
        );
        self.buffers.release();
        assert_eq!(self.buffers.stats().live, 0);
    }
}
