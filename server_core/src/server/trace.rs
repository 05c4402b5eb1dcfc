//! The reader's side of a trace.

use crate::base::trace::{TraceEvent, TraceLog, TraceTarget};
use crate::server::ServerHandle;
use std::sync::Arc;

/// A trace of sessions, from [`ServerHandle::trace`](crate::ServerHandle::trace). Dropping it ends it.
#[derive(Debug)]
pub struct Trace {
    server: ServerHandle,
    log: Arc<TraceLog>,
}

impl Trace {
    pub(super) fn new(server: ServerHandle, log: Arc<TraceLog>) -> Self {
        Self { server, log }
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
        self.log.is_running(self.server.now())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.server.tracer().end(&self.log);
    }
}
