//! What one event loop measures, until the conductor takes it.

use hdrhistogram::Histogram;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Microseconds, from one to an hour, with three digits.
pub type Micros = Histogram<u64>;

/// An empty histogram of microseconds.
pub fn micros() -> Micros {
    // These bounds are valid: low at least 1, high at least twice that, at most five digits.
    Histogram::new_with_bounds(1, MAX_MICROS, 3).expect("the bounds are constants that are valid")
}

const MAX_MICROS: u64 = 3_600_000_000;

/// Counts a duration, an hour at most.
pub fn record(histogram: &mut Micros, duration: Duration, count: u64) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    histogram.saturating_record_n(micros.clamp(1, MAX_MICROS), count);
}

/// A quantile in milliseconds; 0 if nothing was counted.
pub fn quantile_ms(histogram: &Micros, quantile: f64) -> f64 {
    match histogram.is_empty() {
        true => 0.0,
        false => histogram.value_at_quantile(quantile) as f64 / 1e3,
    }
}

/// One event loop's measurements since they were last taken.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Batch>);

/// What is taken.
#[derive(Debug, Default)]
pub struct Batch {
    /// Arrivals of ticks.
    pub ticks: Vec<TickRun>,
    /// Sessions that had seen a tick and stand no more.
    pub leaves: Vec<LeaveRun>,
    /// Durations; those of ticks are not among them, as their schedule is not known here.
    pub samples: Samples,
}

/// Durations of every kind that is measured.
#[derive(Clone, Debug)]
pub struct Samples {
    /// How late each tick reached each session, against the server's own schedule.
    pub tick_delays: Micros,
    /// For each tick, from its first session to its last.
    pub tick_spreads: Micros,
    /// From when an echo was due to its answer.
    pub round_trips: Micros,
    /// From when a chat was due until its sender heard it.
    pub chat_trips: Micros,
    /// From the call of connect to the connection.
    pub connects: Micros,
    /// By how much this program itself sent too late.
    pub late_sends: Micros,
    /// Slots of the server's schedule that it left empty.
    pub ticks_skipped: u64,
    /// Delays among `tick_delays` that stand for empty slots: one for each slot and each session
    /// that waited. All others are ticks that came.
    pub delays_charged: u64,
    /// The longest time from the first arrival of a tick to that of the next one, or to the end.
    pub longest_tick_gap: Duration,
}

/// Sessions that got the same tick in the same turn of the event loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TickRun {
    /// Rises when the server was replaced by another one.
    pub epoch: u64,
    /// The tick's number.
    pub tick: u64,
    /// When the loop woke up to read it.
    pub at: Instant,
    /// How many sessions.
    pub sessions: u64,
    /// Those of them that had not seen a tick on this connection.
    pub first: u64,
    /// Those of them that had seen an earlier one, and have waited for this one since.
    pub waited: u64,
}

/// What a tick is to the session that got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// Its first one on this connection.
    First,
    /// Newer than all that it had.
    Next,
    /// Not newer than what it had.
    Again,
}

/// Sessions that ended, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaveRun {
    /// Of the ticks that they had.
    pub epoch: u64,
    /// How many sessions.
    pub sessions: u64,
}

impl Default for Samples {
    fn default() -> Self {
        Self {
            tick_delays: micros(),
            tick_spreads: micros(),
            round_trips: micros(),
            chat_trips: micros(),
            connects: micros(),
            late_sends: micros(),
            ticks_skipped: 0,
            delays_charged: 0,
            longest_tick_gap: Duration::ZERO,
        }
    }
}

impl Samples {
    /// Adds what others have measured.
    pub fn absorb(&mut self, other: &Self) {
        let pairs = [
            (&mut self.tick_delays, &other.tick_delays),
            (&mut self.tick_spreads, &other.tick_spreads),
            (&mut self.round_trips, &other.round_trips),
            (&mut self.chat_trips, &other.chat_trips),
            (&mut self.connects, &other.connects),
            (&mut self.late_sends, &other.late_sends),
        ];
        for (sum, part) in pairs.into_iter().filter(|(_, part)| !part.is_empty()) {
            // Same bounds on both sides, so this cannot fail.
            let _ = sum.add(part);
        }
        self.ticks_skipped = self.ticks_skipped.saturating_add(other.ticks_skipped);
        self.delays_charged = self.delays_charged.saturating_add(other.delays_charged);
        self.longest_tick_gap = self.longest_tick_gap.max(other.longest_tick_gap);
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        for histogram in [
            &mut self.tick_delays,
            &mut self.tick_spreads,
            &mut self.round_trips,
            &mut self.chat_trips,
            &mut self.connects,
            &mut self.late_sends,
        ] {
            if !histogram.is_empty() {
                histogram.reset();
            }
        }
        self.ticks_skipped = 0;
        self.delays_charged = 0;
        self.longest_tick_gap = Duration::ZERO;
    }
}

impl Recorder {
    /// One session got a tick.
    pub fn tick(&self, epoch: u64, tick: u64, at: Instant, arrived: Arrived) {
        let mut batch = self.batch();
        let is_same = |run: &TickRun| (run.epoch, run.tick, run.at) == (epoch, tick, at);
        if !batch.ticks.last().is_some_and(is_same) {
            batch.ticks.push(TickRun {
                epoch,
                tick,
                at,
                sessions: 0,
                first: 0,
                waited: 0,
            });
        }
        if let Some(run) = batch.ticks.last_mut() {
            run.sessions += 1;
            run.first += u64::from(arrived == Arrived::First);
            run.waited += u64::from(arrived == Arrived::Next);
        }
    }

    /// One session that had seen a tick of this epoch has ended.
    pub fn left(&self, epoch: u64) {
        let mut batch = self.batch();
        match batch.leaves.last_mut() {
            Some(run) if run.epoch == epoch => run.sessions += 1,
            _ => batch.leaves.push(LeaveRun { epoch, sessions: 1 }),
        }
    }

    /// One echo was answered.
    pub fn round_trip(&self, duration: Duration) {
        record(&mut self.batch().samples.round_trips, duration, 1);
    }

    /// One chat has come back to its sender.
    pub fn chat_heard(&self, duration: Duration) {
        record(&mut self.batch().samples.chat_trips, duration, 1);
    }

    /// One connection stands.
    pub fn connected(&self, duration: Duration) {
        record(&mut self.batch().samples.connects, duration, 1);
    }

    /// One request was sent, so much later than it was due.
    pub fn sent_late(&self, duration: Duration) {
        record(&mut self.batch().samples.late_sends, duration, 1);
    }

    /// Takes what was measured since the last time, in exchange for an empty batch.
    pub fn take(&self, empty: Batch) -> Batch {
        std::mem::replace(&mut self.batch(), empty)
    }

    fn batch(&self) -> MutexGuard<'_, Batch> {
        // Only numbers that are whole after each call: a panic elsewhere cannot have torn them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.ticks.clear();
        self.leaves.clear();
        self.samples.clear();
    }
}
