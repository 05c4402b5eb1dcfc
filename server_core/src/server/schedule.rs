//! A fixed schedule without drift. Knows no clock: the caller supplies the time and waits.

use std::time::{Duration, Instant};

/// Ticks at `start + n * period`, for n = 1, 2, 3 …
///
/// A loop that sleeps for one period after each round drifts by the length of the round. In this schedule
/// the n-th tick is due at a fixed instant whatever happened before. A tick whose whole period has passed
/// before the next call (the process was stopped, the machine stalled) is skipped and counted. Late ticks
/// are never returned in a burst.
///
/// ```
/// # use {server_core::tick::TickSchedule, std::time::{Duration, Instant}};
/// let start = Instant::now();
/// let mut schedule = TickSchedule::new(start, Duration::from_millis(250));
/// assert_eq!(schedule.next_at(), start + Duration::from_millis(250));
/// assert!(schedule.poll(start).is_none());
/// let tick = schedule.poll(start + Duration::from_millis(251)).expect("the first is due");
/// assert_eq!((tick.number, tick.skipped, tick.lag), (1, 0, Duration::from_millis(1)));
/// ```
#[derive(Clone, Debug)]
pub struct TickSchedule {
    next_at: Instant,
    period: Duration,
    sent: u64,
}

/// A tick that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Tick {
    /// 1 for the first tick, and 1 more for each returned tick. Skipped ticks have no number.
    pub number: u64,
    /// Time from the instant at which the tick was due to the call that returned it.
    pub lag: Duration,
    /// Ticks that were skipped between the tick before and this tick.
    pub skipped: u64,
}

/// Longer than any game, and far too short for an instant to overflow.
const LONGEST_PERIOD: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl TickSchedule {
    /// A schedule whose first tick is due one period after `start`. A period below 1 µs counts as 1 µs, a
    /// period above a hundred years counts as a hundred years.
    #[must_use]
    pub fn new(start: Instant, period: Duration) -> Self {
        let period = period.clamp(Duration::from_micros(1), LONGEST_PERIOD);
        Self {
            next_at: start + period,
            period,
            sent: 0,
        }
    }

    /// The instant of the next tick.
    #[must_use]
    pub fn next_at(&self) -> Instant {
        self.next_at
    }

    /// The tick that is due at `now`, if any.
    #[must_use]
    pub fn poll(&mut self, now: Instant) -> Option<Tick> {
        let late = now.checked_duration_since(self.next_at)?;
        let skipped = late.as_nanos() / self.period.as_nanos();
        let lag = Duration::from_nanos((late.as_nanos() % self.period.as_nanos()) as u64);
        self.next_at = now - lag + self.period;
        self.sent += 1;
        Some(Tick {
            number: self.sent,
            lag,
            skipped: skipped as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(250);

    #[test]
    fn lecture_35_no_drift_however_late_each_round_is() {
        let start = Instant::now();
        let mut schedule = TickSchedule::new(start, PERIOD);
        for n in 1..=10_000_u32 {
            let due = start + PERIOD * n;
            assert_eq!(schedule.next_at(), due);
            assert!(schedule.poll(due - Duration::from_nanos(1)).is_none());
            let lag = Duration::from_micros(u64::from(n % 200) * 1000);
            let tick = schedule.poll(due + lag).unwrap();
            assert_eq!((tick.number, tick.lag, tick.skipped), (n.into(), lag, 0));
        }
    }

    #[test]
    fn a_stall_is_skipped_and_counted_and_the_schedule_stays() {
        let start = Instant::now();
        let mut schedule = TickSchedule::new(start, PERIOD);
        assert_eq!(schedule.poll(start + PERIOD).unwrap().number, 1);
        let resumed = start + PERIOD * 13 + Duration::from_millis(40);
        let tick = schedule.poll(resumed).unwrap();
        assert_eq!((tick.number, tick.skipped), (2, 11));
        assert_eq!(tick.lag, Duration::from_millis(40));
        assert!(schedule.poll(resumed).is_none(), "no burst of late ticks");
        assert_eq!(schedule.next_at(), start + PERIOD * 14);
    }
}
