//! Input: reading from sessions that have some, in the order in which it was announced.

use super::{MIN_PACKET_COST, Shard, guarded};
use crate::base::id::SessionId;
use crate::base::packet_counts::PacketDirection;
use crate::base::reason::Kick;
use crate::base::trace::TraceKind;
use crate::base::wire::HEADER_BYTES;
use crate::connection::Received;
use crate::session::{Context, Session};
use crate::transport::Transport;
use std::time::Instant;

/// The least budget of a session that is read.
pub(super) const MIN_READ_BYTES: usize = 4 << 10;

/// What a session whose turn it is has to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NextInput {
    None,
    Packets,
    Handshake,
}

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    pub(super) fn handle_writable(&mut self, id: SessionId, now: Instant) {
        let outcome = self.table.try_visit(id, |connection| {
            let was_connecting = connection.is_connecting();
            let is_new = connection.handle_writable(now)?;
            if connection.has_output() && !connection.is_dirty {
                connection.is_dirty = true;
                self.dirty.push(id);
            }
            Ok((is_new, connection.is_handshaking(), was_connecting))
        });
        match outcome {
            Some((true, ..)) => {
                self.connected(id, now);
                // Input may have been announced before the connection was; no edge comes again.
                self.list_readable(id);
            }
            Some((false, true, true)) => self.await_handshake(id),
            Some((false, true, false)) => self.list_readable(id),
            Some((false, false, _)) | None => {}
        }
    }

    pub(super) fn list_readable(&mut self, id: SessionId) {
        let is_new = self.table.visit(id, |connection| {
            !connection.is_connecting() && connection.list_readable()
        });
        if is_new == Some(true) {
            self.readable.push_back(id);
        }
    }

    /// Reads each session that has input once, up to the input of this turn. A session with more input is
    /// read again behind the others.
    pub(super) fn read_all(&mut self, now: Instant) {
        let mut left = self.shared.config.turn_input_bytes;
        for _ in 0..self.readable.len() {
            if !self.may_read() || left == 0 {
                break;
            }
            if let Some(id) = self.readable.pop_front() {
                let cost = match self.next_input(id, now) {
                    NextInput::Packets => self.read(id, now),
                    NextInput::Handshake => self.handshake(id, now),
                    NextInput::None => 0,
                };
                left = left.saturating_sub(cost);
            }
        }
    }

    /// Reads from one session before its time is up: packets, or its part of a handshake. Returns what that
    /// costs of the turn's input.
    pub(super) fn read_once_more(&mut self, id: SessionId, now: Instant) -> usize {
        if self
            .table
            .visit(id, |connection| connection.is_handshaking())
            == Some(true)
        {
            self.handshake(id, now)
        } else {
            self.read(id, now)
        }
    }

    /// Decides what to read. A session that is behind with its answers is paused.
    fn next_input(&mut self, id: SessionId, now: Instant) -> NextInput {
        let limits = self.read_limits;
        let next = self.table.visit(id, |connection| {
            connection.is_listed_readable = false;
            if connection.is_leaving {
                return NextInput::None;
            }
            if connection.is_handshaking() {
                return NextInput::Handshake;
            }
            if connection.is_held() || !connection.has_input {
                return NextInput::None;
            }
            connection.has_input = connection.may_receive(limits, now);
            if connection.has_input {
                NextInput::Packets
            } else {
                NextInput::None
            }
        });
        if next == Some(NextInput::None) {
            self.rearm(id);
        }
        next.unwrap_or(NextInput::None)
    }

    /// Reads a session again that has paused itself. No edge announces what has come meanwhile.
    pub(super) fn resume_reading(&mut self, id: SessionId, now: Instant) {
        if (self.table).visit(id, |connection| connection.resume_reading(now)) == Some(true) {
            self.list_readable(id);
            self.rearm(id);
        }
    }

    /// Reads from one session, and returns what that costs of the turn's input.
    pub(super) fn read(&mut self, id: SessionId, now: Instant) -> usize {
        let (budget_bytes, pacing_bytes) = (self.read_budget(), self.shared.config.pacing_bytes());
        let (worker, is_tracing) = (self.worker, self.is_tracing());
        let (shared, buffer) = (&*self.shared, &mut self.recv_buffer);
        let traces = &self.traces;
        let (effects, groups) = (&mut self.effects, &mut self.groups);
        let received = self.table.visit(id, |connection| {
            let max_bytes = guarded(|| connection.session.max_read_bytes())?;
            if max_bytes == 0 {
                connection.pause_reading();
                return Ok(None);
            }
            connection.has_input = false;
            let (peer, mut queued_bytes) = (connection.peer(id), connection.queued_bytes());
            let mut is_admitted = connection.is_admitted;
            // Its answers must not make its own queue pace the others.
            let room = pacing_bytes.saturating_sub(queued_bytes);
            let budget_bytes = budget_bytes.min(room.max(MIN_READ_BYTES)).min(max_bytes);
            let received = connection.receive(
                buffer,
                budget_bytes,
                &shared.config,
                now,
                |session, packet, is_allowed| {
                    let (packet_id, bytes) = (packet.id(), HEADER_BYTES + packet.payload().len());
                    let metrics = &shared.metrics;
                    metrics.count_packet(worker, PacketDirection::Received, packet_id, bytes, 1);
                    if is_tracing {
                        let kind = TraceKind::Packet {
                            direction: PacketDirection::Received,
                            id: packet_id,
                            name: metrics.packet_name(packet_id),
                            bytes,
                        };
                        traces.add(id, peer.addr, kind);
                    }
                    if !is_allowed {
                        return Err(Kick::RateLimit.into());
                    }
                    let asked_before = effects.len();
                    let buffers = &shared.buffers;
                    let mut ctx = Context::new(peer, now, buffers, effects, groups, queued_bytes);
                    ctx.is_admitted = is_admitted;
                    let handled = guarded(|| {
                        if !is_admitted && let Some(rules) = &shared.login_rules {
                            rules.check(packet)?;
                        }
                        session.on_packet(&mut ctx, packet)
                    });
                    if let Ok(Err(kick)) = handled
                        && let Some(text) = kick.text()
                    {
                        ctx.close_with(kick, text);
                    }
                    (is_admitted, queued_bytes) = (ctx.is_admitted, ctx.queued_bytes());
                    handled??;
                    // A session that has closed itself gets no packet behind this one.
                    match effects[asked_before..]
                        .iter()
                        .find_map(|asked| asked.end_of(id))
                    {
                        Some(reason) => Err(reason),
                        None => Ok(()),
                    }
                },
            );
            Ok(Some(received))
        });
        let Received {
            partial_growth,
            bytes,
            overhead_bytes,
            packets,
            outcome,
        } = match received {
            Some(Ok(Some(received))) => received,
            Some(Ok(None)) => {
                self.rearm(id);
                return 0;
            }
            Some(Err(reason)) => {
                self.close_in_order(id, reason);
                return 0;
            }
            None => return 0,
        };
        self.metrics().bytes_received.add(bytes as u64);
        self.metrics().partial_packet_bytes.change(partial_growth);
        self.metrics().packets_received.add(packets as u64);
        // First what the packets asked for, then the end: answers to whole packets that came
        // before an offence or a FIN are still queued.
        self.apply_effects(id, now);
        match outcome {
            Ok(has_more) => {
                if has_more {
                    self.list_readable(id);
                }
                self.rearm(id);
            }
            Err(reason) => self.close_in_order(id, reason),
        }
        self.list_flush(id);
        overhead_bytes + bytes.max(packets.saturating_mul(MIN_PACKET_COST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::config::Config;
    use crate::base::reason::Kick;
    use crate::connection::admission::Admission;
    use crate::protocol::packet::Packet;
    use crate::routing::router::{Command, NewConnection};
    use crate::shard::Shared;
    use crate::testing::{FakeClock, FakeStream};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Counts packets, and is read as far as the room goes.
    struct Gate {
        room: Arc<AtomicUsize>,
        packets: Arc<AtomicUsize>,
    }

    impl Session for Gate {
        fn max_read_bytes(&mut self) -> usize {
            match self.room.load(Ordering::Relaxed) {
                usize::MAX => panic!("a bug in the game"),
                bytes => bytes,
            }
        }

        fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
            self.packets.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    #[test]
    fn session_that_pauses_itself_is_read_when_it_is_resumed_and_its_timeouts_wait() {
        let config = Config {
            idle_timeout: Some(Duration::from_secs(30)),
            ..Config::default()
        };
        let (room, packets) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let of_session = (Arc::clone(&room), Arc::clone(&packets));
        let shared = Shared::for_tests(&config, 1, move |_| Gate {
            room: Arc::clone(&of_session.0),
            packets: Arc::clone(&of_session.1),
        });
        let mut shard = Shard::new(0, Arc::new(shared));
        let mut clock = FakeClock::new();
        let admission = Arc::new(Admission::new(1, None, None));
        let (stream, peer) = FakeStream::pair();
        let arrival = NewConnection {
            stream,
            permit: admission.admit(([127, 0, 0, 1], 1).into()).unwrap(),
            tag: None,
            is_connecting: false,
        };
        let mut id = None;
        shard.handle_command(Command::Adopt(arrival), clock.now(), |_, new| {
            id = Some(new);
            Ok(())
        });
        let id = id.unwrap();
        // Three packets, and the first byte of another.
        peer.send(&[4, 0, 1, 0, 4, 0, 1, 0, 4, 0, 1, 0, 4]);
        let turns = |shard: &mut Shard<_, _>, clock: &FakeClock, resumes: bool| {
            if resumes {
                shard.handle_command(Command::ResumeReading(id), clock.now(), |_, _| Ok(()));
            }
            shard.handle_readiness(id, true, false, clock.now());
            for _ in 0..5 {
                shard.run(clock.now());
            }
            let read = peer.state().read_bytes;
            (packets.load(Ordering::Relaxed), read, shard.sessions())
        };
        assert_eq!(turns(&mut shard, &clock, false), (0, 0, 1));
        assert!(!shard.has_work(), "a paused session is on no list");
        room.store(5, Ordering::Relaxed);
        assert_eq!(turns(&mut shard, &clock, false), (0, 0, 1), "not resumed");
        clock.advance(config.idle_timeout.unwrap() * 3);
        assert_eq!(turns(&mut shard, &clock, false), (0, 0, 1), "nor ended");
        // Five bytes at a time, and no edge comes again.
        assert_eq!(turns(&mut shard, &clock, true), (3, 13, 1));
        room.store(0, Ordering::Relaxed);
        assert_eq!(turns(&mut shard, &clock, false), (3, 13, 1));
        clock.advance(config.packet_timeout.unwrap() * 3);
        assert_eq!(turns(&mut shard, &clock, false), (3, 13, 1));
        room.store(5, Ordering::Relaxed);
        assert_eq!(turns(&mut shard, &clock, true), (3, 13, 1));
        // The time for the packet began anew.
        clock.advance(config.packet_timeout.unwrap());
        assert_eq!(turns(&mut shard, &clock, false), (3, 13, 0));
        let totals = shard.shared.metrics.totals();
        assert_eq!(totals.disconnects_for(Kick::PacketTimeout), 1);
    }

    #[test]
    fn panic_of_max_read_bytes_ends_its_session() {
        let room = Arc::new(AtomicUsize::new(usize::MAX));
        let shared = Shared::for_tests(&Config::default(), 1, move |_| Gate {
            room: Arc::clone(&room),
            packets: Arc::default(),
        });
        let mut shard = Shard::new(0, Arc::new(shared));
        let (now, admission) = (Instant::now(), Arc::new(Admission::new(1, None, None)));
        let arrival = NewConnection {
            stream: FakeStream::pair().0,
            permit: admission.admit(([127, 0, 0, 1], 1).into()).unwrap(),
            tag: None,
            is_connecting: false,
        };
        let mut id = None;
        shard.handle_command(Command::Adopt(arrival), now, |_, new| {
            id = Some(new);
            Ok(())
        });
        shard.handle_readiness(id.unwrap(), true, false, now);
        shard.run(now);
        assert_eq!(shard.sessions(), 0);
        let totals = shard.shared.metrics.totals();
        assert_eq!(
            totals.disconnects_for(crate::DisconnectReason::HandlerPanicked),
            1
        );
    }
}
