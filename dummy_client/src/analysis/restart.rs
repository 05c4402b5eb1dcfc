//! Detects that the server was replaced by another one.

/// Numbers the servers that a run connects to, one after the other.
///
/// Another server has a schedule of its own, and counts its ticks from the beginning. A low tick number alone
/// proves nothing: a session may be far behind. Two things prove a restart: a session that connects again and
/// receives a tick number that it has already seen, and a session that connects when all earlier ones are gone,
/// and were lost or had seen a higher number.
#[derive(Debug)]
pub struct RestartDetector {
    /// The server that runs now; rises.
    epoch: u64,
    /// Connected sessions of that server.
    connected: u64,
    /// The highest tick number that a session of that server has seen.
    newest_tick: u64,
    /// The last session that left was lost.
    was_lost: bool,
    sessions: Box<[Session]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Session {
    /// The server of the latest connection.
    epoch: u64,
    /// `newest_tick` if no session was connected when this one connected; else 0.
    alone_since: u64,
    /// The server of the connection before, and the highest tick number seen there.
    before: Option<(u64, u64)>,
}

impl RestartDetector {
    /// Before the first of `sessions` sessions connects. Each of them has an index below `sessions`.
    pub fn new(sessions: usize) -> Self {
        Self {
            epoch: 0,
            connected: 0,
            newest_tick: 0,
            was_lost: false,
            sessions: vec![Session::default(); sessions].into(),
        }
    }

    /// The session has connected.
    pub fn join(&mut self, session: usize) {
        let is_alone = self.connected == 0;
        if is_alone && self.was_lost && self.newest_tick > 0 {
            self.restart();
        }
        let (epoch, newest_tick) = (self.epoch, self.newest_tick);
        if let Some(session) = self.sessions.get_mut(session) {
            session.epoch = epoch;
            session.alone_since = if is_alone { newest_tick } else { 0 };
        }
        self.connected += 1;
    }

    /// The session has received the first tick of its connection. Returns the number of the server.
    pub fn first_tick(&mut self, session: usize, tick: u64) -> u64 {
        let Some(known) = self.sessions.get_mut(session) else {
            return self.epoch;
        };
        if known.epoch == self.epoch {
            let has_seen = |(epoch, newest)| epoch == known.epoch && tick <= newest;
            if known.before.is_some_and(has_seen)
                || known.alone_since > 0 && tick <= known.alone_since
            {
                known.epoch += 1;
                self.restart();
                self.connected = 1;
            }
            self.newest_tick = self.newest_tick.max(tick);
        }
        self.sessions[session].epoch
    }

    /// The connection of the session has ended. `newest_tick` is the highest tick number of the connection; 0 if
    /// it received no tick. `was_lost`: the client did not close it.
    pub fn leave(&mut self, session: usize, newest_tick: u64, was_lost: bool) {
        let Some(known) = self.sessions.get_mut(session) else {
            return;
        };
        if newest_tick > 0 {
            known.before = Some((known.epoch, newest_tick));
        }
        if known.epoch == self.epoch {
            self.newest_tick = self.newest_tick.max(newest_tick);
            self.connected = self.connected.saturating_sub(1);
            self.was_lost = was_lost;
        }
    }

    fn restart(&mut self) {
        self.epoch += 1;
        (self.connected, self.newest_tick, self.was_lost) = (0, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The session connects and receives this first tick.
    fn connect(detector: &mut RestartDetector, session: usize, tick: u64) -> u64 {
        detector.join(session);
        detector.first_tick(session, tick)
    }

    #[test]
    fn session_far_behind_is_of_the_same_server() {
        let mut detector = RestartDetector::new(3);
        assert_eq!(connect(&mut detector, 0, 1000), 0);
        assert_eq!(connect(&mut detector, 1, 3), 0);
        assert_eq!(connect(&mut detector, 2, 1001), 0);
    }

    #[test]
    fn sessions_that_connect_together_are_of_one_server() {
        let mut detector = RestartDetector::new(3);
        (0..3).for_each(|session| detector.join(session));
        for (session, tick) in [(1, 1), (0, 1), (2, 0)] {
            assert_eq!(detector.first_tick(session, tick), 0);
        }
    }

    #[test]
    fn loss_of_all_sessions_is_a_restart_whatever_the_numbers() {
        for first in [1, 5, 500] {
            let mut detector = RestartDetector::new(2);
            connect(&mut detector, 0, 1);
            connect(&mut detector, 1, 1);
            detector.leave(0, 10, true);
            detector.leave(1, 10, true);
            assert_eq!(connect(&mut detector, 0, first), 1);
            assert_eq!(connect(&mut detector, 1, first + 3), 1);
        }
    }

    #[test]
    fn loss_that_is_noticed_late_is_one_restart() {
        let mut detector = RestartDetector::new(3);
        (0..3).for_each(|session| assert_eq!(connect(&mut detector, session, 7), 0));
        detector.leave(0, 20, true);
        // The losses of the others are not known yet.
        detector.join(0);
        detector.leave(1, 20, true);
        assert_eq!(detector.first_tick(0, 2), 1);
        assert_eq!(connect(&mut detector, 1, 3), 1);
        detector.leave(2, 20, true);
        assert_eq!(connect(&mut detector, 2, 4), 1);
    }

    #[test]
    fn sessions_that_come_and_go_find_the_same_server() {
        let mut detector = RestartDetector::new(2);
        connect(&mut detector, 0, 1);
        for tick in 2..100 {
            detector.leave(0, tick - 1, false);
            assert_eq!(connect(&mut detector, 0, tick), 0);
        }
        // A kicked session comes back while another one is connected.
        connect(&mut detector, 1, 100);
        detector.leave(0, 100, true);
        assert_eq!(connect(&mut detector, 0, 101), 0);
    }

    #[test]
    fn restart_without_sessions_shows_in_the_tick_number() {
        let mut detector = RestartDetector::new(2);
        connect(&mut detector, 0, 1);
        detector.leave(0, 10, false);
        assert_eq!(connect(&mut detector, 1, 10), 1);
    }

    #[test]
    fn session_without_a_tick_proves_nothing() {
        let mut detector = RestartDetector::new(2);
        detector.join(0);
        detector.leave(0, 0, true);
        assert_eq!(connect(&mut detector, 0, 1), 0);
        detector.leave(0, u64::MAX, true);
        assert_eq!(connect(&mut detector, 0, u64::MAX), 1);
    }
}
