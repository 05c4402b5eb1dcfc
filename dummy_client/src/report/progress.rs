//! The state of a run after each second.

use super::data::{Metrics, Point};
use std::fmt;
use std::time::Duration;

/// The state of a run after a second.
pub struct Progress<'a> {
    /// Since the start.
    pub elapsed: Duration,
    /// The length of the run, if it has one.
    pub ends_after: Option<Duration>,
    /// Sessions.
    pub sessions: usize,
    /// Sessions that the run wants now.
    pub target: usize,
    /// Lost sessions, ticks and answers so far, without those that only the end of the run can tell.
    pub lost: u64,
    /// Connects that failed so far.
    pub failed_connects: u64,
    /// The second that has ended, as far as it is known.
    pub point: Point,
    /// The name of the first trend of the scenario.
    pub main_trend: Option<&'a str>,
    pub(crate) metrics: &'a dyn Fn() -> Metrics,
}

impl Progress<'_> {
    /// The metrics of the run so far.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        (self.metrics)()
    }
}

impl fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress")
            .field("elapsed", &self.elapsed)
            .field("point", &self.point)
            .finish_non_exhaustive()
    }
}
