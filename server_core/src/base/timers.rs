//! Deadlines of sessions, one entry per session at most.

use crate::base::id::SessionId;
use std::collections::BTreeSet;
use std::time::Instant;

/// The deadlines of one worker's sessions, earliest first.
///
/// A session stores the instant it is armed for ([`TimerSlot`]), so a move needs no search. An entry that
/// comes due early is cheap and harmless: the session checks its real deadlines and arms again. So a
/// deadline that only moves *back* (each received packet moves the idle deadline) changes nothing here
/// until the old entry comes due.
#[derive(Debug, Default)]
pub struct TimeoutQueue {
    entries: BTreeSet<(Instant, SessionId)>,
}

/// The instant that one session is armed for.
#[derive(Debug, Default)]
pub struct TimerSlot(Option<Instant>);

/// The timers of one session by key: one for each key at most, so 256.
#[derive(Debug, Default)]
pub struct KeyedTimers {
    /// The earliest is the last; of one instant, the timer that was set first.
    latest_first: Vec<(Instant, u8)>,
}

impl KeyedTimers {
    /// Sets the timer of a key, in place of an earlier one, or clears it.
    pub fn set(&mut self, key: u8, at: Option<Instant>) {
        self.latest_first.retain(|(_, other)| *other != key);
        if let Some(at) = at {
            let place = self.latest_first.partition_point(|(other, _)| *other > at);
            self.latest_first.insert(place, (at, key));
        }
    }

    /// The earliest instant.
    #[must_use]
    pub fn next_at(&self) -> Option<Instant> {
        self.latest_first.last().map(|(at, _)| *at)
    }

    /// The number of timers that are due at `now`.
    #[must_use]
    pub fn due(&self, now: Instant) -> usize {
        let due = self.latest_first.iter().rev();
        due.take_while(|(at, _)| *at <= now).count()
    }

    /// Takes the earliest timer, if it is due at `now`.
    pub fn take_due(&mut self, now: Instant) -> Option<u8> {
        let due = self.latest_first.pop_if(|(at, _)| *at <= now);
        due.map(|(_, key)| key)
    }
}

impl TimeoutQueue {
    /// Makes `id` come due no later than `at`.
    pub fn arm(&mut self, id: SessionId, timer: &mut TimerSlot, at: Instant) {
        if timer.0.is_some_and(|armed| armed <= at) {
            return;
        }
        self.disarm(id, timer);
        self.entries.insert((at, id));
        timer.0 = Some(at);
    }

    /// Makes `id` come due at `at`, whatever it was armed for.
    pub fn rearm(&mut self, id: SessionId, timer: &mut TimerSlot, at: Instant) {
        self.disarm(id, timer);
        self.arm(id, timer, at);
    }

    /// Removes the entry of `id`.
    pub fn disarm(&mut self, id: SessionId, timer: &mut TimerSlot) {
        if let Some(at) = timer.0.take() {
            self.entries.remove(&(at, id));
        }
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next_at(&self) -> Option<Instant> {
        self.entries.first().map(|(at, _)| *at)
    }

    /// Removes and returns one session that is due at `now`. Its owner must [`disarm`](Self::disarm) it before it
    /// arms it again.
    pub fn pop_due(&mut self, now: Instant) -> Option<SessionId> {
        let (at, _) = self.entries.first()?;
        if *at > now {
            return None;
        }
        self.entries.pop_first().map(|(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    proptest! {
        /// Beside a map of keys.
        #[test]
        fn each_key_has_one_timer_and_the_earliest_comes_first(
            steps in prop::collection::vec((0_u8..6, prop::option::of(0_u64..20), 0_u64..3), 0..200),
        ) {
            let start = Instant::now();
            let (mut timers, mut model) = (KeyedTimers::default(), BTreeMap::new());
            let mut now = start;
            for (key, after, passes) in steps {
                let at = after.map(|after| now + Duration::from_millis(after));
                timers.set(key, at);
                model.remove(&key);
                model.extend(at.map(|at| (key, at)));
                now += Duration::from_millis(passes);
                let due = model.values().filter(|at| **at <= now).count();
                prop_assert_eq!(timers.due(now), due);
                prop_assert_eq!(timers.next_at(), model.values().min().copied());
                if let Some(key) = timers.take_due(now) {
                    let at = model.remove(&key).unwrap();
                    prop_assert!(at <= now && model.values().all(|other| *other >= at));
                } else {
                    prop_assert_eq!(due, 0);
                }
            }
        }
    }

    #[test]
    fn of_one_instant_the_timer_that_was_set_first_comes_first() {
        let now = Instant::now();
        let mut timers = KeyedTimers::default();
        for key in [7, 3, 9, 3] {
            timers.set(key, Some(now));
        }
        let order: Vec<u8> = std::iter::from_fn(|| timers.take_due(now)).collect();
        assert_eq!(order, [7, 9, 3]);
    }

    #[test]
    fn earlier_moves_and_later_stays() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let id = SessionId::new(1, 0, 0);
        let (mut queue, mut timer) = (TimeoutQueue::default(), TimerSlot::default());
        queue.arm(id, &mut timer, at(10));
        queue.arm(id, &mut timer, at(60));
        assert_eq!(queue.next_at(), Some(at(10)));
        queue.arm(id, &mut timer, at(3));
        assert_eq!(queue.next_at(), Some(at(3)));
        assert_eq!(queue.pop_due(at(2)), None);
        assert_eq!(queue.pop_due(at(3)), Some(id));
        assert_eq!(queue.pop_due(at(100)), None, "one entry per session");
        queue.disarm(id, &mut timer);
        queue.arm(id, &mut timer, at(60));
        queue.disarm(id, &mut timer);
        assert_eq!(queue.next_at(), None);
    }

    #[test]
    fn comes_up_in_order() {
        let start = Instant::now();
        let mut queue = TimeoutQueue::default();
        let mut timers: Vec<TimerSlot> = (0..50).map(|_| TimerSlot::default()).collect();
        for (slot, timer) in timers.iter_mut().enumerate() {
            let delay = Duration::from_millis((slot as u64 * 37) % 50);
            queue.arm(SessionId::new(1, 0, slot as u32), timer, start + delay);
        }
        let late = start + Duration::from_secs(1);
        let order: Vec<usize> = std::iter::from_fn(|| queue.pop_due(late))
            .map(|id| (id.slot() * 37) % 50)
            .collect();
        assert_eq!(order, (0..50).collect::<Vec<_>>());
    }
}
