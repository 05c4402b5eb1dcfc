//! Deadlines: timers of the sessions, timeouts, and the end of draining streams.

use super::{STALL, Shard, guarded};
use crate::base::id::SessionId;
use crate::base::reason::DisconnectReason;
use crate::connection::{Connection, Expired, Flushed};
use crate::routing::outbox;
use crate::session::Session;
use crate::transport::Transport;
use std::time::{Duration, Instant};

/// Delay of a check that cannot be made now.
const RETRY: Duration = Duration::from_millis(100);

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    pub(super) fn rearm(&mut self, id: SessionId) {
        let (timeouts, config) = (&mut self.timeouts, &self.shared.config);
        self.table.visit(id, |connection| {
            if let Some(at) = connection.next_deadline(config) {
                timeouts.arm(id, &mut connection.timer, at);
            }
        });
    }

    fn defer_check(&mut self, id: SessionId, at: Instant, now: Instant) {
        let (timeouts, config) = (&mut self.timeouts, &self.shared.config);
        self.table.visit(id, |connection| {
            // Its own timer and its other deadlines must not wait for that.
            let other = connection.next_deadline_after(now, config);
            let at = other.map_or(at, |other| other.min(at));
            timeouts.rearm(id, &mut connection.timer, at);
        });
    }

    pub(super) fn check_deadlines(&mut self, now: Instant) {
        if self.disconnect_summary_at.is_some_and(|at| at <= now) {
            self.disconnect_summary_at = self.shared.disconnect_log.flush(now);
        }
        // A deadline that is long past says that this process did not run meanwhile.
        let late = (self.timeouts.next_at())
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if late > STALL && self.grace_until.is_none_or(|at| at <= now) {
            self.grace_until = Some(now + late);
        }
        // Collected first: a timer that is set to "now" again comes up in the next turn.
        let due: Vec<SessionId> = std::iter::from_fn(|| self.timeouts.pop_due(now)).collect();
        // Sessions that began together are due together, and all of them may have sent by now.
        let mut left = self.shared.config.turn_input_bytes;
        for id in due {
            let timeouts = &mut self.timeouts;
            if let Some(draining) = self.draining.get_mut(&id) {
                timeouts.disarm(id, &mut draining.timer);
                self.advance_draining(id, now);
                continue;
            }
            self.table
                .visit(id, |connection| timeouts.disarm(id, &mut connection.timer));
            match left {
                0 => self.defer_check(id, now, now),
                _ => left = left.saturating_sub(self.check_deadline(id, now)),
            }
        }
    }

    /// Checks the deadlines of one session. A last read comes before each kick for time: this process may
    /// have been stopped or busy, and the peer's bytes may lie in the socket. Returns the cost of the read in
    /// bytes of the turn's input.
    fn check_deadline(&mut self, id: SessionId, now: Instant) -> usize {
        if (self.table).visit(id, |connection| connection.is_leaving) != Some(false) {
            return 0;
        }
        let may_call = outbox::is_empty();
        self.call_timers(id, now);
        let limits = self.read_limits;
        let resumes = (self.table).visit(id, |connection| connection.resume(limits, now));
        if resumes == Some(true) {
            self.list_readable(id);
        }
        match self.expired(id, now) {
            Expired::None if !may_call => self.defer_check(id, now + RETRY, now),
            Expired::None => self.rearm(id),
            Expired::Close(reason) => self.close(id, reason),
            Expired::ReadThenClose(_) if !self.may_read() => self.defer_check(id, now + RETRY, now),
            Expired::ReadThenClose(_) => {
                let cost = self.read_once_more(id, now);
                let has_more = self.table.visit(id, |connection| connection.has_input);
                let has_packets = (self.table).visit(id, |connection| connection.has_packets());
                match self.expired(id, now) {
                    // More input may hold the end of a packet. It is not a login, and not a handshake.
                    Expired::ReadThenClose(reason)
                        if has_more == Some(true)
                            && reason != DisconnectReason::LoginTimeout
                            && reason != DisconnectReason::Handshake =>
                    {
                        self.defer_check(id, now + RETRY, now);
                    }
                    // A handshake takes several round trips, and could not take them during a stall. Nor could the
                    // answer to a login come, which another thread or the broker gives.
                    Expired::ReadThenClose(reason)
                        if self.grace_until.is_some_and(|at| now < at)
                            && (reason == DisconnectReason::Handshake
                                || reason == DisconnectReason::LoginTimeout
                                    && has_packets == Some(true)) =>
                    {
                        self.defer_check(id, self.grace_until.unwrap_or(now), now);
                    }
                    Expired::ReadThenClose(DisconnectReason::LoginTimeout)
                        if self.defers_login_timeout(id) =>
                    {
                        self.defer_check(id, now + RETRY, now);
                    }
                    Expired::ReadThenClose(reason) => self.close_in_order(id, reason),
                    _ => self.rearm(id),
                }
                return cost;
            }
            Expired::WriteThenClose(_) => {
                self.table.visit(id, Connection::assume_writable);
                let mut flushed = Flushed::default();
                self.flush(id, now, &mut flushed);
                self.count(&flushed);
                // On the list again: the peer takes, only the budget was used up.
                let has_more = self.table.visit(id, |connection| connection.is_dirty);
                match (self.expired(id, now), self.grace_until) {
                    (Expired::WriteThenClose(_), _) if has_more == Some(true) => {
                        self.defer_check(id, now + RETRY, now);
                    }
                    // While this process did not run, no peer could take a byte: a session with an old byte
                    // gets as much time as the stall took.
                    (Expired::WriteThenClose(_), Some(at)) if now < at => {
                        self.defer_check(id, at, now)
                    }
                    (Expired::WriteThenClose(reason), _) => self.close(id, reason),
                    _ => self.rearm(id),
                }
            }
        }
        0
    }

    /// Calls the timers that were due while posts waited, the earliest first, until one of them posts.
    pub(super) fn call_put_off(&mut self, now: Instant) {
        while outbox::is_empty()
            && let Some((_, id)) = self.put_off.pop_first()
        {
            if (self.table).visit(id, |connection| connection.is_leaving) == Some(false) {
                self.call_timers(id, now);
                self.rearm(id);
            }
        }
    }

    fn call_timers(&mut self, id: SessionId, now: Instant) {
        // What a callback posts through a handle would lengthen an outbox that is not empty.
        let may_call = outbox::is_empty();
        let is_due = (self.table).visit(id, |connection| may_call && connection.take_timer(now));
        if is_due == Some(true) {
            self.call(id, now, |session, ctx| session.on_timer(ctx));
        }
        self.call_keyed_timers(id, now);
        let left = (self.table).visit(id, |connection| connection.timer_at());
        if let Some(at) = left
            .flatten()
            .filter(|at| *at <= now && !outbox::is_empty())
        {
            self.put_off.insert((at, id));
        }
    }

    /// Calls `on_keyed_timer` for the timers that are due. A timer that a callback sets to "now" comes in the
    /// next turn.
    fn call_keyed_timers(&mut self, id: SessionId, now: Instant) {
        let due = (self.table).visit(id, |connection| connection.due_keyed_timers(now));
        for _ in 0..due.unwrap_or(0) {
            if !outbox::is_empty() {
                break;
            }
            let key = (self.table).visit(id, |connection| {
                let may_call = !connection.is_leaving;
                may_call.then(|| connection.take_keyed_timer(now)).flatten()
            });
            let Some(key) = key.flatten() else {
                break;
            };
            self.call(id, now, |session, ctx| session.on_keyed_timer(ctx, key));
        }
        if due > Some(0) {
            // A callback may have armed the session for a timer that came behind it. The caller arms it anew.
            let timeouts = &mut self.timeouts;
            self.table
                .visit(id, |connection| timeouts.disarm(id, &mut connection.timer));
        }
    }

    fn defers_login_timeout(&mut self, id: SessionId) -> bool {
        let defers = (self.table).visit(id, |connection| {
            guarded(|| connection.session.defers_login_timeout())
        });
        matches!(defers, Some(Ok(true)))
    }

    /// The deadline of one session that has expired, its own timer excepted.
    fn expired(&mut self, id: SessionId, now: Instant) -> Expired {
        let config = &self.shared.config;
        self.table
            .visit(id, |connection| connection.expired(config, now))
            .unwrap_or(Expired::None)
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
    use crate::session::Context;
    use crate::shard::Shared;
    use crate::testing::{FakeClock, FakePeer, FakeStream};
    use std::sync::{Arc, Mutex};

    const MS: Duration = Duration::from_millis(1);

    /// Notes each key with its time. Key 1 sets itself again, at once; key 2 clears key 3; key 5 closes.
    struct Alarms {
        began: Instant,
        calls: Arc<Mutex<Vec<(u8, Duration)>>>,
    }

    impl Session for Alarms {
        fn on_connected(&mut self, ctx: &mut Context<'_>) {
            let now = ctx.now();
            for (key, after) in [(4, 40), (3, 30), (2, 30), (1, 10), (3, 31)] {
                ctx.set_keyed_timer(key, now + MS * after);
            }
            ctx.set_keyed_timer(9, now + MS * 15);
            ctx.clear_keyed_timer(9);
            ctx.set_timer(now + MS * 35);
            for key in 5..=7 {
                ctx.set_keyed_timer(key, now + MS * 50);
            }
        }

        fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
            Ok(())
        }

        fn on_timer(&mut self, ctx: &mut Context<'_>) {
            let call = (0, ctx.now() - self.began);
            self.calls.lock().unwrap().push(call);
        }

        fn on_keyed_timer(&mut self, ctx: &mut Context<'_>, key: u8) {
            let now = ctx.now();
            self.calls.lock().unwrap().push((key, now - self.began));
            match key {
                1 => ctx.set_keyed_timer(1, now),
                2 => {
                    ctx.clear_keyed_timer(1);
                    ctx.clear_keyed_timer(3);
                }
                6 => ctx.close(),
                _ => {}
            }
        }
    }

    type Calls = Arc<Mutex<Vec<(u8, Duration)>>>;

    fn start(clock: &FakeClock) -> (Shard<FakeStream, Alarms>, Calls, FakePeer) {
        let (began, calls) = (clock.now(), Arc::default());
        let of_session = Arc::clone(&calls);
        let (shard, _, peer) = adopt(clock, move || Alarms {
            began,
            calls: Arc::clone(&of_session),
        });
        (shard, calls, peer)
    }

    /// A shard with one session.
    fn adopt<S: Session>(
        clock: &FakeClock,
        factory: impl Fn() -> S + Send + Sync + 'static,
    ) -> (Shard<FakeStream, S>, SessionId, FakePeer) {
        let shared = Shared::for_tests(&Config::default(), 1, move |_| factory());
        let mut shard = Shard::new(0, Arc::new(shared));
        let admission = Arc::new(Admission::new(1, None, None));
        let (stream, peer) = FakeStream::pair();
        let arrival = NewConnection {
            stream,
            permit: admission.admit(([127, 0, 0, 1], 1).into()).unwrap(),
            tag: None,
            is_connecting: false,
        };
        let mut ids = Vec::new();
        shard.handle_command(Command::Adopt(arrival), clock.now(), |_, id| {
            ids.push(id);
            Ok(())
        });
        (shard, ids[0], peer)
    }

    /// Another thread answers its login.
    struct Newcomer;

    impl Session for Newcomer {
        fn requires_login(&self) -> bool {
            true
        }

        fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
            Ok(())
        }
    }

    #[test]
    fn login_that_comes_during_a_stall_has_as_long_again_for_its_answer() {
        for is_answered in [true, false] {
            let mut clock = FakeClock::new();
            let (mut shard, id, peer) = adopt(&clock, || Newcomer);
            shard.run(clock.now());
            let timeout = Config::default().login_timeout.unwrap();
            peer.send(&[4, 0, 1, 0]);
            clock.advance(timeout + MS * 2000);
            shard.handle_readiness(id, true, false, clock.now());
            shard.run(clock.now());
            assert_eq!(shard.metrics().packets_received.get(), 1);
            assert_eq!(shard.sessions(), 1);
            clock.advance(MS * 1999);
            shard.run(clock.now());
            assert_eq!(shard.sessions(), 1);
            if is_answered {
                shard.handle_command(Command::Admit(id), clock.now(), |_, _| Ok(()));
            }
            clock.advance(MS);
            shard.run(clock.now());
            assert_eq!(shard.sessions(), usize::from(is_answered));
        }
    }

    #[test]
    fn stall_gives_no_time_for_a_login_without_a_packet() {
        let mut clock = FakeClock::new();
        let (mut shard, _, _peer) = adopt(&clock, || Newcomer);
        shard.run(clock.now());
        clock.advance(Config::default().login_timeout.unwrap() + MS * 2000);
        shard.run(clock.now());
        assert_eq!(shard.sessions(), 0);
    }

    #[test]
    fn timer_that_is_due_while_posts_wait_comes_first_when_none_waits() {
        let mut clock = FakeClock::new();
        let (mut shard, calls, _peer) = start(&clock);
        shard.run(clock.now());
        let tries = Arc::new(Mutex::new(3));
        let of_post = Arc::clone(&tries);
        outbox::open();
        outbox::push(Box::new(move |_| {
            let mut left = of_post.lock().unwrap();
            *left -= 1;
            *left == 0
        }));
        clock.advance(MS * 10);
        while !outbox::is_empty() {
            shard.run(clock.now());
            assert_eq!(*calls.lock().unwrap(), []);
        }
        assert_eq!(*tries.lock().unwrap(), 0);
        for _ in 0..2 {
            shard.run(clock.now());
        }
        assert_eq!(calls.lock().unwrap()[0], (1, MS * 10));
    }

    /// A timer that posts each time, to a mailbox that has room at the end of a turn alone.
    struct Poster {
        packets: Arc<Mutex<usize>>,
    }

    impl Session for Poster {
        fn on_connected(&mut self, ctx: &mut Context<'_>) {
            ctx.set_timer(ctx.now());
        }

        fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
            *self.packets.lock().unwrap() += 1;
            Ok(())
        }

        fn on_timer(&mut self, ctx: &mut Context<'_>) {
            ctx.set_timer(ctx.now());
            let mut tries = 0..2;
            outbox::push(Box::new(move |_| tries.next().is_none()));
        }
    }

    #[test]
    fn timers_that_post_and_were_put_off_starve_no_read() {
        let mut clock = FakeClock::new();
        let packets = Arc::new(Mutex::new(0));
        let of_session = Arc::clone(&packets);
        outbox::open();
        let (mut shard, id, peer) = adopt(&clock, move || Poster {
            packets: Arc::clone(&of_session),
        });
        for turn in 0..20 {
            if turn == 10 {
                peer.send(&[4, 0, 9, 0]);
                shard.handle_readiness(id, true, false, clock.now());
            }
            shard.run(clock.now());
            clock.advance(MS);
        }
        assert_eq!(*packets.lock().unwrap(), 1);
    }

    #[test]
    fn timers_of_one_session_come_by_key_in_order_and_can_be_cleared() {
        let mut clock = FakeClock::new();
        let (mut shard, calls, _peer) = start(&clock);
        let took = |shard: &mut Shard<_, _>, now| {
            shard.run(now);
            std::mem::take(&mut *calls.lock().unwrap())
        };
        let began = clock.now();
        assert_eq!(took(&mut shard, clock.now()), []);
        assert_eq!(shard.next_deadline(), Some(began + MS * 10));
        clock.advance(MS * 10);
        for _ in 0..3 {
            // It sets itself again, and the turn ends nevertheless.
            assert_eq!(took(&mut shard, clock.now()), [(1, MS * 10)]);
            assert_eq!(shard.next_deadline(), Some(began + MS * 10));
        }
        clock.advance(MS * 25);
        let late = MS * 35;
        assert_eq!(
            took(&mut shard, clock.now()),
            [(0, late), (1, late), (2, late)]
        );
        assert_eq!(shard.next_deadline(), Some(began + MS * 40));
        clock.advance(MS * 5);
        assert_eq!(took(&mut shard, clock.now()), [(4, MS * 40)]);
        clock.advance(MS * 20);
        // No callback comes after the end.
        assert_eq!(took(&mut shard, clock.now()), [(5, MS * 60), (6, MS * 60)]);
        assert_eq!(shard.sessions(), 0);
    }
}
