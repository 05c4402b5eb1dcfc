//! The phases of a run that measures in windows. The capacity search and the attack run share them.
//!
//! ```text
//! capacity search   RampUp -> WarmUp -> Measure -> Evaluate -> RampUp -> ..
//! attack run        RampUp -> WarmUp -> Measure (baseline) -> Evaluate -> Measure (attack)
//! ```
//!
//! The machine has no clock and no socket: each call brings the time.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use std::time::{Duration, Instant};

/// The phases of one run.
#[derive(Clone, Debug)]
pub struct WindowedRun {
    max_ramp_up: Duration,
    window: Duration,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The sessions connect.
    RampUp { until: Option<Instant> },
    /// Packets of the ramp-up do not count.
    WarmUp { until: Option<Instant> },
    /// A window is measured. `None`: to the end of the run.
    Measure { until: Option<Instant> },
    /// The owner evaluates the window.
    Evaluate,
}

/// How many of the target sessions are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occupancy {
    /// All.
    Full,
    /// Not all; the others may connect.
    Partial,
    /// None, and no session can connect.
    Unreachable,
}

/// The phase that a call of [`WindowedRun::poll`] began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The phase is the same as before.
    None,
    /// The ramp-up is over: all sessions are connected, or the time for it is up.
    WarmUp,
    /// A window begins.
    Measure,
    /// The window ends. [`WindowedRun::ramp_up`] or [`WindowedRun::measure_to_end`] leads on.
    Evaluate,
}

impl WindowedRun {
    /// Begins with the ramp-up, which lasts until all sessions are connected, `max_ramp_up` at the most.
    /// Each window lasts for `window`.
    #[must_use]
    pub fn new(max_ramp_up: Duration, window: Duration, now: Instant) -> Self {
        Self {
            max_ramp_up,
            window,
            phase: Phase::RampUp {
                until: now.checked_add(max_ramp_up),
            },
        }
    }

    /// Begins the next phase if its time has come. One call makes one transition. A warm-up that begins in
    /// this call lasts for `warm_up`.
    ///
    /// A ramp-up without a reachable server goes to [`Transition::Evaluate`] at once. A ramp-up that connects
    /// too few sessions in its time is measured like any other.
    pub fn poll(&mut self, occupancy: Occupancy, warm_up: Duration, now: Instant) -> Transition {
        let is_over = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        let (phase, transition) = match self.phase {
            Phase::RampUp { .. } if occupancy == Occupancy::Unreachable => {
                (Phase::Evaluate, Transition::Evaluate)
            }
            Phase::RampUp { until } if occupancy == Occupancy::Full || is_over(until) => {
                let until = now.checked_add(warm_up);
                (Phase::WarmUp { until }, Transition::WarmUp)
            }
            Phase::WarmUp { until } if is_over(until) => {
                let until = now.checked_add(self.window);
                (Phase::Measure { until }, Transition::Measure)
            }
            Phase::Measure { until } if is_over(until) => (Phase::Evaluate, Transition::Evaluate),
            _ => return Transition::None,
        };
        self.phase = phase;
        transition
    }

    /// The latest time of the next [`poll`](Self::poll). `None`: no phase ends by time.
    #[must_use]
    pub fn next_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::RampUp { until } | Phase::WarmUp { until } | Phase::Measure { until } => until,
            Phase::Evaluate => None,
        }
    }

    /// Begins another ramp-up.
    pub fn ramp_up(&mut self, now: Instant) {
        self.phase = Phase::RampUp {
            until: now.checked_add(self.max_ramp_up),
        };
    }

    /// Begins a window that lasts to the end of the run. The sessions stay connected, so neither a ramp-up nor a
    /// warm-up comes before it.
    pub fn measure_to_end(&mut self) {
        self.phase = Phase::Measure { until: None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAMP_UP: Duration = Duration::from_secs(20);
    const WARM_UP: Duration = Duration::from_secs(2);
    const WINDOW: Duration = Duration::from_secs(4);
    const INSTANT: Duration = Duration::from_nanos(1);

    /// Polls one nanosecond before the time and at the time.
    fn assert_transition(
        run: &mut WindowedRun,
        occupancy: Occupancy,
        at: Instant,
        expected: Transition,
    ) {
        assert_eq!(run.next_at(), Some(at), "{run:?}");
        let early = run.poll(occupancy, WARM_UP, at - INSTANT);
        assert_eq!(early, Transition::None, "{run:?}");
        assert_eq!(run.poll(occupancy, WARM_UP, at), expected, "{run:?}");
        let again = run.poll(occupancy, WARM_UP, at);
        assert_eq!(again, Transition::None, "{run:?}");
    }

    #[test]
    fn capacity_search_evaluates_each_window_and_ramps_up_again() {
        let mut now = Instant::now();
        let mut run = WindowedRun::new(RAMP_UP, WINDOW, now);
        for _ in 0..3 {
            now += Duration::from_millis(300);
            assert_eq!(run.poll(Occupancy::Partial, WARM_UP, now), Transition::None);
            assert_eq!(run.poll(Occupancy::Full, WARM_UP, now), Transition::WarmUp);
            // A session that is lost meanwhile changes no phase.
            now += WARM_UP;
            assert_transition(&mut run, Occupancy::Partial, now, Transition::Measure);
            now += WINDOW;
            assert_transition(&mut run, Occupancy::Unreachable, now, Transition::Evaluate);
            assert_eq!(run.next_at(), None);
            now += Duration::from_secs(60);
            assert_eq!(run.poll(Occupancy::Full, WARM_UP, now), Transition::None);
            run.ramp_up(now);
            assert_eq!(run.next_at(), Some(now + RAMP_UP));
        }
    }

    #[test]
    fn attack_run_measures_a_baseline_and_then_to_the_end() {
        let start = Instant::now();
        let mut run = WindowedRun::new(RAMP_UP, WINDOW, start);
        let warm = start + RAMP_UP;
        assert_transition(&mut run, Occupancy::Partial, warm, Transition::WarmUp);
        let baseline = warm + WARM_UP;
        assert_transition(&mut run, Occupancy::Partial, baseline, Transition::Measure);
        let attack = baseline + WINDOW;
        assert_transition(&mut run, Occupancy::Full, attack, Transition::Evaluate);
        run.measure_to_end();
        assert_eq!(run.next_at(), None);
        for hours in 0..3 {
            let now = attack + Duration::from_secs(hours * 3600);
            assert_eq!(run.poll(Occupancy::Full, WARM_UP, now), Transition::None);
        }
    }

    #[test]
    fn unreachable_server_is_evaluated_at_once() {
        let now = Instant::now();
        let mut run = WindowedRun::new(RAMP_UP, WINDOW, now);
        let polled = run.poll(Occupancy::Unreachable, WARM_UP, now);
        assert_eq!(polled, Transition::Evaluate);
    }

    #[test]
    fn durations_beyond_the_clock_never_end() {
        let now = Instant::now();
        let mut run = WindowedRun::new(Duration::MAX, Duration::MAX, now);
        assert_eq!(run.next_at(), None);
        assert_eq!(
            run.poll(Occupancy::Full, Duration::ZERO, now),
            Transition::WarmUp
        );
        assert_eq!(
            run.poll(Occupancy::Full, Duration::ZERO, now),
            Transition::Measure
        );
        assert_eq!(run.next_at(), None);
        assert_eq!(
            run.poll(Occupancy::Full, Duration::ZERO, now + RAMP_UP),
            Transition::None
        );
    }
}
