//! The reader's side of a trace.

use crate::base::trace::{TraceEvent, TraceLog, TraceTarget, Tracer};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A trace of sessions, from [`ServerHandle::trace`](crate::ServerHandle::trace). Dropping it ends it.
#[derive(Debug)]
pub struct Trace {
    tracer: Arc<Tracer>,
    log: Arc<TraceLog>,
}

impl Trace {
    pub(super) fn begin(
        tracer: &Arc<Tracer>,
        target: TraceTarget,
        at_most: Duration,
    ) -> Option<Self> {
        Some(Self {
            log: tracer.begin(target, at_most, Instant::now())?,
            tracer: Arc::clone(tracer),
        })
    }

    /// The traced sessions.
    #[must_use]
    pub fn target(&self) -> TraceTarget {
        self.log.target()
    }

    /// The events so far, oldest first: the last 1,024.
    #[must_use]
    pub fn events(&self) -> Vec<TraceEvent> {
        self.log.events().0
    }

    /// The number of events before these, which are no longer kept.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.log.events().1
    }

    /// Whether events are added: until its time is over, or until its session has ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.log.is_running(Instant::now())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.tracer.end(&self.log);
    }
}
