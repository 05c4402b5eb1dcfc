//! The ticks of a server that pushes: what arrived when, and what that says about the server's schedule.
//!
//! The server does not tell its schedule. [`TickAnalysis`] estimates it from the arrivals alone: the period is a
//! Theil-Sen estimate (the median of pairwise slopes), and the base is the lower envelope of the arrivals. Each
//! arrival is a delay against that schedule. A slot that stays empty gives a synthetic delay sample to each
//! session that waited for it (HdrHistogram's correction for coordinated omission, `record_correct`).
//!
//! This part has no clock, no socket and no histogram: instants are arguments, and results go to a [`TickSink`].

mod estimator;
#[cfg(test)]
mod planted;
mod restart;
mod schedule;
mod ticks;

pub use restart::RestartDetector;
pub use ticks::TickAnalysis;

use std::time::{Duration, Instant};

/// Receives the results of a [`TickAnalysis`].
///
/// `due` says where a result belongs in time, however late it is known.
pub trait TickSink {
    /// `sessions` sessions received a tick with this delay.
    fn delay(&mut self, due: Instant, delay: Duration, sessions: u64);
    /// `sessions` sessions waited this long for a slot that stayed empty.
    fn synthetic(&mut self, due: Instant, delay: Duration, sessions: u64);
    /// `slots` slots, all due about then, stayed empty.
    fn skipped(&mut self, due: Instant, slots: u64);
    /// The time from the first session that received a tick to the last one.
    ///
    /// The first session counts with the wake-up of its event loop and the last session with the handling of its
    /// packet ([`TickRun`]). So the resolution is one turn of the event loop: a server that reaches all sessions
    /// within one turn has a spread of up to that turn, and never 0. Only a tick with one session has the
    /// spread 0.
    fn spread(&mut self, due: Instant, spread: Duration);
    /// `sessions` sessions received a tick at this time that is not evaluated: too many ticks had no place in the
    /// schedule yet. Does nothing by default.
    fn dropped(&mut self, _at: Instant, _sessions: u64) {}
    /// The time from the first arrival of a tick to that of the next one, or to the end, while sessions waited.
    /// An outage is one gap: from the last tick of the old server to the first tick of the new one.
    fn gap(&mut self, from: Instant, to: Instant);
}

/// Sessions that received the same tick in the same turn of an event loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TickRun {
    /// The number of the server, from [`RestartDetector`]; rises when a server is replaced.
    pub epoch: u64,
    /// The number of the tick.
    pub tick: u64,
    /// When the event loop woke up to read the packets: the delays count up to here.
    pub at: Instant,
    /// When the event loop handled the packet of the last session; equal to `at` for one session.
    pub last_at: Instant,
    /// Sessions of the run.
    pub sessions: u64,
    /// Sessions among them for which this is the first tick of the connection.
    pub first: u64,
    /// Sessions among them that had received an earlier tick, and waited for this one since then.
    pub waited: u64,
}

/// Sessions with a tick whose connections ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaveRun {
    /// The number of the server.
    pub epoch: u64,
    /// Sessions of the run.
    pub sessions: u64,
    /// The connections were lost, and the users reconnect: they go on waiting for ticks.
    pub awaits_ticks: bool,
    /// When the last one ended.
    pub at: Instant,
}

/// The place of a tick among those of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// The first tick of the connection.
    First,
    /// Newer than all earlier ticks.
    Next,
    /// Not newer than an earlier tick.
    Again,
}

/// Sessions of a run between two readings of the clock.
const CLOCK_EVERY: u64 = 16;

impl TickRun {
    /// Appends the tick of one session to `runs`, in its event loop. `woke_at` is the wake-up of this turn.
    /// Sessions with the same tick in the same turn share one run.
    ///
    /// `handled_at` reads the clock. It is called for the first sessions of a run and then for every 16th, because
    /// reading the clock for each packet is 2 % of the cost of a packet: the spread is short by up to 16 packets.
    pub fn record(
        runs: &mut Vec<Self>,
        (epoch, tick): (u64, u64),
        arrived: Arrived,
        woke_at: Instant,
        handled_at: impl FnOnce() -> Instant,
    ) {
        let key = (epoch, tick, woke_at);
        match runs.last_mut() {
            Some(run) if (run.epoch, run.tick, run.at) == key => {
                if run.sessions < CLOCK_EVERY || run.sessions.is_multiple_of(CLOCK_EVERY) {
                    run.last_at = handled_at();
                }
            }
            _ => runs.push(Self {
                epoch,
                tick,
                at: woke_at,
                last_at: woke_at,
                sessions: 0,
                first: 0,
                waited: 0,
            }),
        }
        if let Some(run) = runs.last_mut() {
            run.sessions += 1;
            run.first += u64::from(arrived == Arrived::First);
            run.waited += u64::from(arrived == Arrived::Next);
        }
    }
}

/// A part of the run that is evaluated by itself: everything that is due from `from` to `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeasurementWindow {
    /// The first moment of the window.
    pub from: Instant,
    /// The end, exclusive; `None` while the window is open.
    pub until: Option<Instant>,
}

impl MeasurementWindow {
    /// Whether something due then belongs to the window.
    pub fn contains(&self, due: Instant) -> bool {
        self.from <= due && self.until.is_none_or(|until| due < until)
    }

    /// The part of a gap that lies in the window.
    pub fn overlap(&self, from: Instant, to: Instant) -> Duration {
        let to = self.until.map_or(to, |until| until.min(to));
        to.saturating_duration_since(from.max(self.from))
    }
}
