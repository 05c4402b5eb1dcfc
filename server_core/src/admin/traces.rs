//! The traces of the admin port, and their events as JSON. Knows no HTTP.

use crate::base::trace::{MAX_TRACES, TraceEvent, TraceKind, TraceTarget};
use crate::server::ServerHandle;
use crate::server::trace::Trace;
use serde::Serialize;
use std::time::{Duration, Instant};

/// A trace that no request has read for this time ends.
const UNREAD_TIME: Duration = Duration::from_secs(60);
/// The longest trace.
const MAX_TIME: Duration = Duration::from_secs(600);

/// The traces that requests have begun.
#[derive(Debug, Default)]
pub struct Traces(Vec<RunningTrace>);

#[derive(Debug)]
struct RunningTrace {
    trace: Trace,
    began_at: Instant,
    read_at: Instant,
}

/// `game_server/README.md` documents the names and units of the fields, which stay.
#[derive(Serialize)]
struct TraceJson {
    is_running: bool,
    age_ms: u64,
    /// Events before the first one.
    dropped: u64,
    events: Vec<EventJson>,
}

#[derive(Serialize)]
struct EventJson {
    /// Since the beginning of the trace.
    at_ms: u64,
    session: String,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl Traces {
    /// Ends the traces that no request reads.
    pub fn end_unread(&mut self, now: Instant) {
        self.0
            .retain(|running| now.saturating_duration_since(running.read_at) < UNREAD_TIME);
    }

    /// The events of these sessions so far as JSON. The first call begins the trace. `None` while too many run.
    pub fn read(
        &mut self,
        target: TraceTarget,
        server: &ServerHandle,
        now: Instant,
    ) -> Option<serde_json::Result<Vec<u8>>> {
        let mut known = (self.0.iter()).position(|running| running.trace.target() == target);
        if known.is_none() {
            let trace = server.trace(target, MAX_TIME)?;
            // Of the traces that have ended, as many stay as may run.
            if self.0.len() >= 2 * MAX_TRACES {
                let ended = self.0.iter().enumerate();
                let ended = ended.filter(|(_, running)| !running.trace.is_running());
                if let Some((oldest, _)) = ended.min_by_key(|(_, running)| running.read_at) {
                    self.0.swap_remove(oldest);
                }
            }
            self.0.push(RunningTrace {
                trace,
                began_at: now,
                read_at: now,
            });
            known = self.0.len().checked_sub(1);
        }
        let running = self.0.get_mut(known?)?;
        running.read_at = now;
        let since = |at: Instant| at.saturating_duration_since(running.began_at).as_millis() as u64;
        let json = TraceJson {
            is_running: running.trace.is_running(),
            age_ms: since(now),
            dropped: running.trace.dropped(),
            events: (running.trace.events().into_iter())
                .map(|event| event_json(event, since(event.at)))
                .collect(),
        };
        Some(serde_json::to_vec(&json).map(|mut json| {
            json.push(b'\n');
            json
        }))
    }
}

fn event_json(event: TraceEvent, at_ms: u64) -> EventJson {
    let json = |event_name| EventJson {
        at_ms,
        session: event.session.to_string(),
        event: event_name,
        id: None,
        name: None,
        bytes: None,
        reason: None,
    };
    match event.kind {
        TraceKind::Connected => json("connected"),
        TraceKind::Packet {
            direction,
            id,
            name,
            bytes,
        } => EventJson {
            id: Some(id),
            name,
            bytes: Some(bytes),
            ..json(direction.label())
        },
        TraceKind::Disconnected(reason) => EventJson {
            reason: Some(reason.label()),
            ..json("disconnected")
        },
    }
}
