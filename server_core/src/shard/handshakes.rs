//! Handshakes: sessions whose transport exchanges bytes with the peer before packets flow.

use super::Shard;
use crate::base::id::SessionId;
use crate::base::metrics::HandshakeOutcome;
use crate::base::reason::DisconnectReason;
use crate::session::Session;
use crate::transport::{HandshakeStep, Transport};
use std::collections::VecDeque;
use std::time::Instant;

/// The handshakes of one worker.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    /// Each of them in the order of arrival, among others that are complete or have left.
    queue: VecDeque<SessionId>,
    /// Sessions in the table whose handshake is not complete.
    pub(super) count: usize,
}

/// What one step of a handshake costs of the input of a turn at least: a signature of ECDSA with P-256 takes about as
/// long as reading this many bytes. Of a step that costs more, the transport tells the rest.
const STEP_COST: usize = 16 << 10;
/// Entries that the queue may have beyond twice the number of handshakes.
const SLACK: usize = 64;

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    /// The handshake of a session begins: its first step is taken when its turn to be read comes.
    pub(super) fn await_handshake(&mut self, id: SessionId) {
        self.handshakes.count += 1;
        if self.handshakes.queue.len() > 2 * self.handshakes.count + SLACK {
            let table = &mut self.table;
            self.handshakes.queue.retain(|id| {
                table.visit(*id, |connection| connection.is_handshaking()) == Some(true)
            });
        }
        self.handshakes.queue.push_back(id);
        self.rearm(id);
        self.list_readable(id);
    }

    /// Takes one step of a handshake, and returns what that costs of the turn's input.
    pub(super) fn handshake(&mut self, id: SessionId, now: Instant) -> usize {
        let (mut partial_growth, mut cost) = (0, STEP_COST);
        let step = self.table.try_visit(id, |connection| {
            connection.has_input = false;
            let (step, growth, extra_cost) = connection.handshake(now);
            (partial_growth, cost) = (growth, STEP_COST + extra_cost);
            Ok((step?, connection.transport(), connection.is_resumed()))
        });
        self.metrics().partial_packet_bytes.change(partial_growth);
        if let Some((HandshakeStep::Yielded, ..)) = step {
            self.list_readable(id);
        }
        if let Some((HandshakeStep::Done, transport, is_resumed)) = step {
            self.handshakes.count -= 1;
            let outcome = if is_resumed {
                HandshakeOutcome::Resumed
            } else {
                HandshakeOutcome::Full
            };
            self.metrics().count_handshake(transport, outcome);
            self.connected(id, now);
            // The peer's first packets may have come with the end of its handshake; no edge comes again.
            self.list_readable(id);
            self.list_flush(id);
        }
        cost
    }

    /// Handshakes over the cap, beside `leaving` sessions that end already.
    pub(super) fn handshake_excess(&self, leaving: usize) -> usize {
        let count = self.handshakes.count.saturating_sub(leaving);
        count.saturating_sub(self.shared.config.max_handshakes_of_worker())
    }

    /// Ends the oldest handshakes where there are too many.
    pub(super) fn evict_handshakes(&mut self, now: Instant) {
        let mut leaving = 0;
        while self.handshake_excess(leaving) > 0 {
            let Some(id) = self.handshakes.queue.pop_front() else {
                debug_assert!(false, "each handshake is in the queue");
                break;
            };
            let is_handshaking = self
                .table
                .visit(id, |connection| connection.is_handshaking());
            if is_handshaking == Some(true) {
                self.close(id, DisconnectReason::Handshake);
                leaving += 1;
            }
        }
        if leaving > 0 {
            let missing_places = &mut self.unadmitted.missing_places;
            *missing_places = missing_places.saturating_sub(leaving);
            self.reap_evicted(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::config::Config;
    use crate::base::reason::Kick;
    use crate::buffer::SendBuffer;
    use crate::connection::admission::Admission;
    use crate::protocol::packet::Packet;
    use crate::routing::router::{Command, NewConnection};
    use crate::session::Context;
    use crate::shard::Shared;
    use crate::transport::{Completion, ReadOutcome};
    use std::io::{self, IoSlice};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    #[derive(Default)]
    struct Counts {
        /// Whether the peers' parts of the handshakes have come.
        is_ready: AtomicBool,
        /// Steps that do not take all of the peer's bytes.
        long_steps: AtomicUsize,
        steps: AtomicUsize,
        written_bytes: AtomicUsize,
        connected: AtomicUsize,
        requires_login: AtomicBool,
        /// Bytes of a transport's own that the last step of its handshake leaves.
        ticket_bytes: AtomicUsize,
        /// What a step costs beyond its fixed price.
        extra_cost: AtomicUsize,
    }

    struct Shaking {
        counts: Arc<Counts>,
        is_done: bool,
        /// Bytes of its own that wait for a flush.
        held: usize,
    }

    impl Transport for Shaking {
        fn read(&mut self, _: &mut [u8]) -> Result<ReadOutcome, DisconnectReason> {
            Ok(ReadOutcome::Blocked)
        }

        fn overhead_bytes(&self) -> usize {
            read(&self.counts.extra_cost)
        }

        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            assert!(self.is_done, "a packet before the handshake");
            let written = &self.counts.written_bytes;
            written.fetch_add(bytes.len(), Ordering::Relaxed);
            Ok(bytes.len())
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            self.write(&slices[0])
        }

        fn buffered_bytes(&self) -> usize {
            self.held
        }

        fn flush(&mut self) -> io::Result<Completion> {
            self.held = 0;
            Ok(Completion::Done)
        }

        fn shutdown_write(&mut self) -> io::Result<Completion> {
            Ok(Completion::Done)
        }

        fn poll_connected(&mut self) -> io::Result<bool> {
            Ok(true)
        }

        fn needs_handshake(&self) -> bool {
            !self.is_done
        }

        fn handshake(&mut self) -> Result<HandshakeStep, DisconnectReason> {
            let steps = self.counts.steps.fetch_add(1, Ordering::Relaxed) + 1;
            if steps <= read(&self.counts.long_steps) {
                return Ok(HandshakeStep::Yielded);
            }
            if !self.counts.is_ready.load(Ordering::Relaxed) {
                return Ok(HandshakeStep::Blocked);
            }
            (self.is_done, self.held) = (true, read(&self.counts.ticket_bytes));
            Ok(HandshakeStep::Done)
        }
    }

    struct Player(Arc<Counts>);

    impl Session for Player {
        fn requires_login(&self) -> bool {
            self.0.requires_login.load(Ordering::Relaxed)
        }

        fn on_connected(&mut self, _: &mut Context<'_>) {
            self.0.connected.fetch_add(1, Ordering::Relaxed);
        }

        fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
            Ok(())
        }
    }

    type TestShard = Shard<Shaking, Player>;

    fn shard(config: &Config, counts: &Arc<Counts>) -> TestShard {
        let counts = Arc::clone(counts);
        let player = move |_| Player(Arc::clone(&counts));
        Shard::new(0, Arc::new(Shared::for_tests(config, 1, player)))
    }

    fn config() -> Config {
        Config {
            workers: 1,
            ..Config::default()
        }
    }

    fn arrive(
        shard: &mut TestShard,
        counts: &Arc<Counts>,
        sessions: u16,
        now: Instant,
    ) -> Vec<SessionId> {
        let admission = Arc::new(Admission::new(1, None, None));
        arrive_at(shard, counts, &admission, sessions, now)
    }

    fn arrive_at(
        shard: &mut TestShard,
        counts: &Arc<Counts>,
        admission: &Arc<Admission>,
        sessions: u16,
        now: Instant,
    ) -> Vec<SessionId> {
        let mut ids = Vec::new();
        for port in 0..sessions {
            let arrival = NewConnection {
                stream: Shaking {
                    counts: Arc::clone(counts),
                    is_done: false,
                    held: 0,
                },
                permit: admission.admit(([127, 0, 0, 1], port).into()).unwrap(),
                tag: None,
                is_connecting: false,
            };
            shard.handle_command(Command::Adopt(arrival), now, |_, id| {
                ids.push(id);
                Ok(())
            });
        }
        ids
    }

    fn packet(shard: &TestShard) -> SendBuffer {
        shard.shared.buffers.write(16, |bytes| {
            bytes[..4].copy_from_slice(&[16, 0, 7, 0]);
            16
        })
    }

    fn read(count: &AtomicUsize) -> usize {
        count.load(Ordering::Relaxed)
    }

    #[test]
    fn on_connected_and_broadcasts_wait_for_the_handshake() {
        let (counts, now) = (Arc::new(Counts::default()), Instant::now());
        counts.ticket_bytes.store(6, Ordering::Relaxed);
        let mut shard = shard(&config(), &counts);
        let ids = arrive(&mut shard, &counts, 1, now);
        let broadcast = Command::Broadcast(packet(&shard));
        shard.handle_command(broadcast, now, |_, _| Ok(()));
        shard.run(now);
        assert_eq!((read(&counts.connected), read(&counts.steps)), (0, 1));
        assert_eq!(shard.metrics().sessions.get(), 0);

        // Either direction calls for the next step.
        shard.handle_readiness(ids[0], false, true, now);
        shard.run(now);
        shard.handle_readiness(ids[0], true, false, now);
        shard.run(now);
        assert_eq!((read(&counts.connected), read(&counts.steps)), (0, 3));
        shard.run(now);
        assert_eq!(read(&counts.steps), 3, "no event, no step");

        counts.is_ready.store(true, Ordering::Relaxed);
        shard.handle_readiness(ids[0], true, false, now);
        shard.run(now);
        assert_eq!((read(&counts.connected), shard.handshakes()), (1, 0));
        assert_eq!(shard.metrics().sessions.get(), 1);
        assert_eq!(read(&counts.written_bytes), 0, "it came later than that");
        let has_output = (shard.table).visit(ids[0], |connection| connection.has_output());
        assert_eq!(has_output, Some(false), "what the transport held is out");

        let broadcast = Command::Broadcast(packet(&shard));
        shard.handle_command(broadcast, now, |_, _| Ok(()));
        shard.run(now);
        assert_eq!(read(&counts.written_bytes), 16);
        assert!(!shard.has_work());
    }

    #[test]
    fn a_step_that_yields_goes_on_behind_the_others_without_an_event() {
        let (counts, now) = (Arc::new(Counts::default()), Instant::now());
        let mut shard = shard(&config(), &counts);
        counts.long_steps.store(4, Ordering::Relaxed);
        arrive(&mut shard, &counts, 2, now);
        for steps in [2, 4, 6] {
            assert!(shard.has_work());
            shard.run(now);
            assert_eq!(read(&counts.steps), steps);
        }
        assert!(!shard.has_work());
    }

    #[test]
    fn packet_queued_in_a_handshake_is_written_when_the_handshake_completes() {
        let (counts, now) = (Arc::new(Counts::default()), Instant::now());
        let mut shard = shard(&config(), &counts);
        let ids = arrive(&mut shard, &counts, 1, now);
        let send = Command::Send(ids[0], packet(&shard));
        shard.handle_command(send, now, |_, _| Ok(()));
        shard.run(now);
        assert_eq!(read(&counts.written_bytes), 0);
        counts.is_ready.store(true, Ordering::Relaxed);
        shard.handle_readiness(ids[0], true, false, now);
        shard.run(now);
        assert_eq!(read(&counts.written_bytes), 16);
    }

    #[test]
    fn a_handshake_that_is_not_complete_in_time_ends_the_session_after_a_last_step() {
        let (counts, now) = (Arc::new(Counts::default()), Instant::now());
        let mut shard = shard(&config(), &counts);
        arrive(&mut shard, &counts, 1, now);
        shard.run(now);
        let deadline = now + Duration::from_secs(5);
        assert_eq!(shard.next_deadline(), Some(deadline));
        shard.run(deadline - Duration::from_nanos(1));
        assert_eq!((shard.sessions(), read(&counts.steps)), (1, 1));
        shard.run(deadline);
        assert_eq!((shard.sessions(), read(&counts.steps)), (0, 2));
        let totals = shard.shared.metrics.totals();
        assert_eq!(totals.disconnects_for(DisconnectReason::Handshake), 1);
        assert_eq!((read(&counts.connected), shard.handshakes()), (0, 0));
    }

    #[test]
    fn over_the_cap_the_oldest_handshakes_end() {
        let (counts, now) = (Arc::new(Counts::default()), Instant::now());
        let config = Config {
            max_handshakes: 3,
            ..config()
        };
        let mut shard = shard(&config, &counts);
        let ids = arrive(&mut shard, &counts, 10, now);
        shard.run(now);
        let mut left = Vec::new();
        shard.table.visit_all(|id, _| left.push(id));
        assert_eq!(left, ids[7..]);
        assert_eq!(shard.handshakes(), 3);
        let totals = shard.shared.metrics.totals();
        assert_eq!(totals.disconnects_for(DisconnectReason::Handshake), 7);
        assert!(shard.handshakes.queue.len() <= 3);
        let places = shard.admission.as_ref().map(|admission| admission.total());
        assert_eq!(places, Some(3), "an evicted peer holds its place");
    }

    /// An evicted peer without a login frees one place, so no other session has to give way for the newcomer.
    #[test]
    fn place_of_an_evicted_handshake_is_the_place_of_a_newcomer() {
        let (counts, now) = (Arc::new(Counts::default()), Instant::now());
        counts.requires_login.store(true, Ordering::Relaxed);
        let config = Config {
            max_handshakes: 3,
            max_sessions: Some(8),
            max_unadmitted: Some(8),
            ..config()
        };
        let mut shard = shard(&config, &counts);
        let admission = Arc::new(Admission::new(1, Some(8), None));
        for left in [3, 3, 3, 3] {
            arrive_at(&mut shard, &counts, &admission, 5, now);
            shard.run(now);
            assert_eq!((shard.sessions(), admission.total()), (left, left));
        }
    }

    #[test]
    fn handshakes_leave_half_of_max_sessions_to_sessions() {
        let (counts, now) = (Arc::new(Counts::default()), Instant::now());
        for (max_sessions, handshakes) in [(None, 20), (Some(100), 20), (Some(12), 6), (Some(1), 1)]
        {
            let config = Config {
                max_sessions,
                ..config()
            };
            let mut shard = shard(&config, &counts);
            arrive(&mut shard, &counts, 20, now);
            shard.run(now);
            assert_eq!(shard.handshakes(), handshakes, "{max_sessions:?}");
        }
    }

    #[test]
    fn the_steps_of_a_turn_are_within_its_input() {
        let (counts, now) = (Arc::new(Counts::default()), Instant::now());
        let config = config();
        let mut shard = shard(&config, &counts);
        arrive(&mut shard, &counts, 1000, now);
        counts.is_ready.store(true, Ordering::Relaxed);
        let per_turn = config.turn_input_bytes / STEP_COST;
        for turn in 1..=1000_usize.div_ceil(per_turn) {
            assert!(shard.has_work());
            shard.run(now);
            assert_eq!(read(&counts.steps), (turn * per_turn).min(1000));
        }
        assert_eq!(read(&counts.connected), 1000);
    }

    /// A signature with RSA takes longer than the fixed price of a step says.
    #[test]
    fn steps_that_cost_more_are_fewer_in_a_turn() {
        let config = config();
        let a_turn = config.turn_input_bytes;
        for (extra_cost, per_turn) in [(STEP_COST, a_turn / STEP_COST / 2), (a_turn, 1)] {
            let (counts, now) = (Arc::new(Counts::default()), Instant::now());
            counts.extra_cost.store(extra_cost, Ordering::Relaxed);
            let mut shard = shard(&config, &counts);
            arrive(&mut shard, &counts, 1000, now);
            for turn in 1..=3 {
                shard.run(now);
                assert_eq!(read(&counts.steps), turn * per_turn, "{extra_cost}");
            }
        }
    }

    #[test]
    fn the_queue_of_handshakes_does_not_grow_with_those_that_are_complete() {
        let (counts, mut now) = (Arc::new(Counts::default()), Instant::now());
        let mut shard = shard(&config(), &counts);
        counts.is_ready.store(true, Ordering::Relaxed);
        for _ in 0..500 {
            arrive(&mut shard, &counts, 1, now);
            shard.run(now);
            now += Duration::from_millis(1);
        }
        assert_eq!(shard.handshakes(), 0);
        let entries = shard.handshakes.queue.len();
        assert!(entries <= SLACK + 3, "{entries} entries");
    }
}
