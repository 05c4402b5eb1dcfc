//! The search for the largest number of sessions that a server holds. Has no clock and no socket.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use super::windowed::{Transition, WindowedRun};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

pub use super::windowed::Occupancy;

/// Doubles the sessions until a step breaks, then halves the gap.
///
/// Each step ramps up, warms up, and is then measured by itself. A step in which the client was the
/// bottleneck is tried once more; if the client is the bottleneck again, the search has no result: the server
/// may hold more.
///
/// `S` is what the owner of the search records for each step.
#[derive(Debug)]
pub struct CapacitySearch<S> {
    max_sessions: usize,
    target: usize,
    windows: WindowedRun,
    is_retry: bool,
    largest: Option<usize>,
    smallest_broken: Option<usize>,
    steps: Vec<S>,
    outcome: Option<Outcome>,
}

/// What the owner of a search does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// Measure from now on.
    BeginWindow,
    /// Evaluate the window, and call [`CapacitySearch::evaluate`].
    Evaluate,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// Every assertion held and no session was lost.
    Holds,
    /// An assertion broke, or a session was lost.
    Breaks,
    /// The client was the bottleneck: the step says nothing of the server.
    ClientLimited,
}

/// The result of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CapacityReport<S> {
    /// What the search found.
    pub outcome: Outcome,
    /// The largest number of sessions that held; `null` if no step held.
    pub largest: Option<usize>,
    /// The steps, in the order of the search.
    pub steps: Vec<S>,
}

/// What is known at the end of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// `largest` sessions hold, and a step that is at most 5 % (at least 1 session) larger breaks.
    Found,
    /// The largest number that the search may try holds.
    AtLeast,
    /// One session breaks.
    None,
    /// Unknown: the client was the bottleneck in two tries of one step.
    ClientLimited,
    /// Unknown: the run ended before the search did.
    Interrupted,
}

const FIRST_SESSIONS: usize = 100;
/// A gap of this part of what holds is not halved.
const RESOLUTION: usize = 20;
const MAX_RAMP_UP: Duration = Duration::from_secs(20);
/// The shortest warm-up: a window does not measure what arrived during the ramp-up.
const WARM_UP: Duration = Duration::from_millis(2500);
const WINDOW: Duration = Duration::from_secs(4);

impl<S> CapacitySearch<S> {
    /// Begins with 100 sessions, or with `max_sessions` if that is fewer.
    #[must_use]
    pub fn new(max_sessions: usize, now: Instant) -> Self {
        Self {
            max_sessions,
            target: FIRST_SESSIONS.min(max_sessions),
            windows: WindowedRun::new(MAX_RAMP_UP, WINDOW, now),
            is_retry: false,
            largest: None,
            smallest_broken: None,
            steps: Vec::new(),
            outcome: None,
        }
    }

    /// Sessions of the current step.
    #[must_use]
    pub fn target(&self) -> usize {
        self.target
    }

    /// Whether no step is left to try.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.outcome.is_some()
    }

    /// The latest time of the next [`poll`](Self::poll); `None` while a step waits for its evaluation.
    #[must_use]
    pub fn next_at(&self) -> Option<Instant> {
        self.windows.next_at()
    }

    /// Goes on as far as the time and the connected sessions allow. `lag` is the time from a tick to its
    /// analysis: a warm-up lasts as long, 2.5 s at least.
    pub fn poll(&mut self, occupancy: Occupancy, lag: Duration, now: Instant) -> Action {
        match self.windows.poll(occupancy, WARM_UP.max(lag), now) {
            Transition::None | Transition::WarmUp => Action::None,
            Transition::Measure => Action::BeginWindow,
            Transition::Evaluate => Action::Evaluate,
        }
    }

    /// Takes the outcome of a step, and chooses the next step.
    pub fn evaluate(&mut self, step: S, outcome: StepOutcome, now: Instant) {
        self.steps.push(step);
        self.windows.ramp_up(now);
        match outcome {
            StepOutcome::Holds => self.largest = Some(self.target),
            StepOutcome::Breaks => self.smallest_broken = Some(self.target),
            StepOutcome::ClientLimited if self.is_retry => {
                self.outcome = Some(Outcome::ClientLimited);
                return;
            }
            StepOutcome::ClientLimited => {
                self.is_retry = true;
                return;
            }
        }
        self.is_retry = false;
        match self.next_target() {
            Ok(target) => self.target = target,
            Err(outcome) => self.outcome = Some(outcome),
        }
    }

    fn next_target(&self) -> Result<usize, Outcome> {
        match (self.largest, self.smallest_broken) {
            (Some(holds), None) if holds >= self.max_sessions => Err(Outcome::AtLeast),
            (Some(holds), None) => Ok(holds.saturating_mul(2).min(self.max_sessions)),
            (None, Some(breaks)) if breaks > 1 => Ok(breaks / 2),
            (Some(holds), Some(breaks)) if breaks - holds <= (holds / RESOLUTION).max(1) => {
                Err(Outcome::Found)
            }
            (Some(holds), Some(breaks)) => Ok(holds.midpoint(breaks)),
            (None, _) => Err(Outcome::None),
        }
    }

    /// The result; [`Outcome::Interrupted`] if the search is not over.
    #[must_use]
    pub fn into_report(self) -> CapacityReport<S> {
        CapacityReport {
            outcome: self.outcome.unwrap_or(Outcome::Interrupted),
            largest: self.largest,
            steps: self.steps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a server that holds this number of sessions. `limited`: whether the client is the bottleneck
    /// in a step with this index and number of sessions.
    fn search(
        holds: usize,
        max_sessions: usize,
        limited: impl Fn(usize, usize) -> bool,
    ) -> CapacityReport<usize> {
        let mut now = Instant::now();
        let mut search = CapacitySearch::new(max_sessions, now);
        let mut windows = 0;
        while !search.is_over() {
            match search.poll(Occupancy::Full, Duration::ZERO, now) {
                Action::None => now = search.next_at().unwrap(),
                Action::BeginWindow => windows += 1,
                Action::Evaluate => {
                    let sessions = search.target();
                    let outcome = if limited(search.steps.len(), sessions) {
                        StepOutcome::ClientLimited
                    } else if sessions <= holds {
                        StepOutcome::Holds
                    } else {
                        StepOutcome::Breaks
                    };
                    search.evaluate(sessions, outcome, now);
                }
            }
            assert!(windows < 100, "the search does not end");
        }
        assert_eq!(windows, search.steps.len());
        search.into_report()
    }

    #[test]
    fn largest_number_is_found_within_the_resolution() {
        for holds in [1, 2, 7, 99, 100, 101, 1234, 5000, 9999] {
            let report = search(holds, 10_000, |_, _| false);
            let largest = report.largest.unwrap();
            assert_eq!(report.outcome, Outcome::Found, "{holds}");
            assert!(largest <= holds, "{holds}: {largest}");
            assert!(
                largest + largest / RESOLUTION + 1 >= holds,
                "{holds}: {largest}"
            );
            assert!(report.steps.len() < 20);
        }
    }

    #[test]
    fn server_that_holds_all_sessions_and_server_that_holds_none() {
        let all = search(usize::MAX, 5000, |_, _| false);
        assert_eq!((all.outcome, all.largest), (Outcome::AtLeast, Some(5000)));
        let none = search(0, 5000, |_, _| false);
        assert_eq!((none.outcome, none.largest), (Outcome::None, None));
        let few = search(usize::MAX, 3, |_, _| false);
        assert_eq!((few.outcome, few.largest), (Outcome::AtLeast, Some(3)));
    }

    #[test]
    fn one_limited_step_is_tried_again_and_two_end_the_search() {
        let once = search(1000, 5000, |step, _| step == 2);
        assert_eq!(once.outcome, Outcome::Found);
        assert_eq!(once.steps[..4], [100, 200, 400, 400]);
        let always = search(1000, 5000, |_, sessions| sessions >= 400);
        assert_eq!(
            (always.outcome, always.largest),
            (Outcome::ClientLimited, Some(200))
        );
    }

    #[test]
    fn step_with_too_few_sessions_is_measured() {
        let start = Instant::now();
        let mut search = CapacitySearch::<()>::new(500, start);
        let lag = WARM_UP * 2;
        let mut poll = |at| search.poll(Occupancy::Partial, lag, at);
        assert_eq!(poll(start), Action::None);
        assert_eq!(poll(start + MAX_RAMP_UP), Action::None);
        assert_eq!(poll(start + MAX_RAMP_UP + WARM_UP), Action::None);
        let warm = start + MAX_RAMP_UP + lag;
        assert_eq!(poll(warm), Action::BeginWindow);
        assert_eq!(poll(warm + WINDOW), Action::Evaluate);
        assert_eq!(poll(warm + WINDOW), Action::None);
    }

    #[test]
    fn unreachable_server_ends_the_search_at_once() {
        let now = Instant::now();
        let mut search = CapacitySearch::new(100, now);
        while !search.is_over() {
            let action = search.poll(Occupancy::Unreachable, Duration::ZERO, now);
            assert_eq!(action, Action::Evaluate);
            search.evaluate((), StepOutcome::Breaks, now);
        }
        let report = search.into_report();
        assert_eq!((report.outcome, report.steps.len()), (Outcome::None, 7));
    }

    #[test]
    fn interrupted_search_reports_what_held() {
        let now = Instant::now();
        let mut search = CapacitySearch::new(1000, now);
        search.evaluate((), StepOutcome::Holds, now);
        let report = search.into_report();
        assert_eq!(
            (report.outcome, report.largest),
            (Outcome::Interrupted, Some(100))
        );
    }
}
