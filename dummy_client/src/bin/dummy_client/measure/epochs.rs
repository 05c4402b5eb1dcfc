//! Whether the server that sessions come to is still the one that they left. Knows no clock.

/// Counts the servers that there were, one after the other.
///
/// A server that was replaced has a schedule of its own, and counts its ticks anew. A number that
/// is low proves nothing, as a session may just be far behind. Only this does: a session that comes
/// back to a number that it has seen already, or one that comes when all earlier ones are gone, and
/// were lost or had seen more.
#[derive(Debug)]
pub struct Epochs {
    /// The server that runs now; rises.
    current: u64,
    /// Sessions whose connections to it stand.
    standing: u64,
    /// The newest tick that one of them has seen.
    newest_tick: u64,
    /// The last of them did not leave of its own will.
    was_lost: bool,
    sessions: Box<[Known]>,
}

/// What is known of one session.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Of the connection that stands, or stood last.
    epoch: u64,
    /// The newest tick of those who were all gone when it came; 0 if somebody was there.
    gone_at: u64,
    /// The newest tick of the connection before, and its epoch.
    before: Option<(u64, u64)>,
}

impl Epochs {
    /// Before the first of so many sessions comes.
    pub fn new(sessions: usize) -> Self {
        Self {
            current: 0,
            standing: 0,
            newest_tick: 0,
            was_lost: false,
            sessions: vec![Known::default(); sessions].into(),
        }
    }

    /// A connection of this session stands.
    pub fn join(&mut self, session: usize) {
        let came_alone = self.standing == 0;
        if came_alone && self.was_lost && self.newest_tick > 0 {
            self.begin();
        }
        let known = &mut self.sessions[session];
        known.epoch = self.current;
        known.gone_at = if came_alone { self.newest_tick } else { 0 };
        self.standing += 1;
    }

    /// The session has seen the first tick of its connection. Returns the epoch of that.
    pub fn first_tick(&mut self, session: usize, tick: u64) -> u64 {
        let known = self.sessions[session];
        if known.epoch == self.current {
            let has_seen = (known.before)
                .is_some_and(|(epoch, newest)| epoch == self.current && tick <= newest);
            if has_seen || known.gone_at > 0 && tick <= known.gone_at {
                self.begin();
                self.standing = 1;
                self.sessions[session].epoch = self.current;
            }
            self.newest_tick = self.newest_tick.max(tick);
        }
        self.sessions[session].epoch
    }

    /// The connection of the session stands no more; this is the newest tick that it has seen, 0 if
    /// it has seen none.
    pub fn leave(&mut self, session: usize, newest_tick: u64, was_lost: bool) {
        let known = &mut self.sessions[session];
        if newest_tick > 0 {
            known.before = Some((known.epoch, newest_tick));
        }
        if known.epoch == self.current {
            self.newest_tick = self.newest_tick.max(newest_tick);
            self.standing = self.standing.saturating_sub(1);
            self.was_lost = was_lost;
        }
    }

    fn begin(&mut self) {
        self.current += 1;
        (self.standing, self.newest_tick, self.was_lost) = (0, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The session comes, and this is its first tick.
    fn come(epochs: &mut Epochs, session: usize, tick: u64) -> u64 {
        epochs.join(session);
        epochs.first_tick(session, tick)
    }

    #[test]
    fn a_session_that_is_far_behind_is_of_the_same_server() {
        let mut epochs = Epochs::new(3);
        assert_eq!(come(&mut epochs, 0, 1000), 0);
        assert_eq!(come(&mut epochs, 1, 3), 0);
        assert_eq!(come(&mut epochs, 2, 1001), 0);
    }

    #[test]
    fn sessions_that_begin_together_are_of_one_server() {
        let mut epochs = Epochs::new(3);
        (0..3).for_each(|session| epochs.join(session));
        for (session, tick) in [(1, 1), (0, 1), (2, 0)] {
            assert_eq!(epochs.first_tick(session, tick), 0);
        }
    }

    #[test]
    fn a_server_that_all_sessions_lost_is_another_one_whatever_its_numbers() {
        for first in [1, 5, 500] {
            let mut epochs = Epochs::new(2);
            come(&mut epochs, 0, 1);
            come(&mut epochs, 1, 1);
            epochs.leave(0, 10, true);
            epochs.leave(1, 10, true);
            assert_eq!(come(&mut epochs, 0, first), 1);
            assert_eq!(come(&mut epochs, 1, first + 3), 1);
        }
    }

    #[test]
    fn a_loss_that_is_noticed_late_makes_one_new_epoch_and_not_two() {
        let mut epochs = Epochs::new(3);
        (0..3).for_each(|session| assert_eq!(come(&mut epochs, session, 7), 0));
        epochs.leave(0, 20, true);
        // The losses of the others are not known yet.
        epochs.join(0);
        epochs.leave(1, 20, true);
        assert_eq!(epochs.first_tick(0, 2), 1);
        assert_eq!(come(&mut epochs, 1, 3), 1);
        epochs.leave(2, 20, true);
        assert_eq!(come(&mut epochs, 2, 4), 1);
    }

    #[test]
    fn sessions_that_come_and_go_find_the_same_server() {
        let mut epochs = Epochs::new(2);
        come(&mut epochs, 0, 1);
        for tick in 2..100 {
            epochs.leave(0, tick - 1, false);
            assert_eq!(come(&mut epochs, 0, tick), 0);
        }
        // One that was kicked comes back to the others, who stayed.
        come(&mut epochs, 1, 100);
        epochs.leave(0, 100, true);
        assert_eq!(come(&mut epochs, 0, 101), 0);
    }

    #[test]
    fn a_server_that_began_anew_while_nobody_was_there_is_told_by_its_number() {
        let mut epochs = Epochs::new(2);
        come(&mut epochs, 0, 1);
        epochs.leave(0, 10, false);
        assert_eq!(come(&mut epochs, 1, 10), 1);
    }

    #[test]
    fn a_session_without_a_tick_proves_nothing() {
        let mut epochs = Epochs::new(2);
        epochs.join(0);
        epochs.leave(0, 0, true);
        assert_eq!(come(&mut epochs, 0, 1), 0);
        epochs.leave(0, u64::MAX, true);
        assert_eq!(come(&mut epochs, 0, u64::MAX), 1);
    }
}
