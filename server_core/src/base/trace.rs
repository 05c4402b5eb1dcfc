//! Traces: the packets and the end of chosen sessions, in rings that another thread reads. No clock.

use crate::base::id::SessionId;
use crate::base::packet_counts::PacketDirection;
use crate::base::reason::DisconnectReason;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The sessions of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TraceTarget {
    /// One session. The trace ends with it.
    Session(SessionId),
    /// The sessions of one address, later ones included.
    Address(IpAddr),
}

/// An event of a traced session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceEvent {
    /// The turn of the worker in which it happened.
    pub at: Instant,
    /// The session.
    pub session: SessionId,
    /// The event.
    pub kind: TraceKind,
}

/// What has happened to a traced session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceKind {
    /// It has connected.
    Connected,
    /// A packet: a complete one that arrived, or one that the session was given to send.
    Packet {
        /// Received or sent.
        direction: PacketDirection,
        /// The packet id.
        id: u16,
        /// The name in `packets!`, for packets that [`ServerBuilder::packets`](crate::ServerBuilder::packets) has.
        name: Option<&'static str>,
        /// Bytes, header included.
        bytes: usize,
    },
    /// It has ended.
    Disconnected(DisconnectReason),
}

/// Traces of one server at a time.
pub const MAX_TRACES: usize = 8;
/// Events of one trace that are kept.
pub const MAX_EVENTS: usize = 1024;
/// The longest duration of a trace.
pub const MAX_DURATION: Duration = Duration::from_secs(3600);

/// The running traces of a server. Workers look at the version alone while none begins or ends.
#[derive(Debug, Default)]
pub struct Tracer {
    version: AtomicUsize,
    logs: Mutex<Vec<Arc<TraceLog>>>,
}

/// The events of one trace: the last [`MAX_EVENTS`].
#[derive(Debug)]
pub struct TraceLog {
    target: TraceTarget,
    until: Instant,
    is_over: AtomicBool,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<TraceEvent>,
    dropped: u64,
}

/// The running traces as one worker knows them.
#[derive(Debug, Default)]
pub struct WorkerTraces {
    version: usize,
    logs: Vec<Arc<TraceLog>>,
    /// The present turn.
    now: Option<Instant>,
}

impl Tracer {
    /// Begins a trace. `None` while [`MAX_TRACES`] run.
    pub fn begin(
        &self,
        target: TraceTarget,
        at_most: Duration,
        now: Instant,
    ) -> Option<Arc<TraceLog>> {
        let mut logs = lock(&self.logs);
        logs.retain(|log| log.is_running(now));
        if logs.len() >= MAX_TRACES {
            return None;
        }
        let log = Arc::new(TraceLog {
            target,
            until: now + at_most.min(MAX_DURATION),
            is_over: AtomicBool::new(false),
            ring: Mutex::default(),
        });
        logs.push(Arc::clone(&log));
        self.version.fetch_add(1, Ordering::Release);
        Some(log)
    }

    /// Ends a trace.
    pub fn end(&self, log: &TraceLog) {
        log.is_over.store(true, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Release);
    }
}

impl TraceLog {
    /// The sessions.
    pub fn target(&self) -> TraceTarget {
        self.target
    }

    /// Whether events are added.
    pub fn is_running(&self, now: Instant) -> bool {
        now < self.until && !self.is_over.load(Ordering::Relaxed)
    }

    /// The kept events, oldest first, and the number of those before them.
    pub fn events(&self) -> (Vec<TraceEvent>, u64) {
        let ring = lock(&self.ring);
        (ring.events.iter().copied().collect(), ring.dropped)
    }

    fn matches(&self, session: SessionId, addr: SocketAddr) -> bool {
        match self.target {
            TraceTarget::Session(id) => id == session,
            TraceTarget::Address(ip) => ip.to_canonical() == addr.ip().to_canonical(),
        }
    }

    fn add(&self, event: TraceEvent) {
        let mut ring = lock(&self.ring);
        if ring.events.len() == MAX_EVENTS {
            ring.events.pop_front();
            ring.dropped += 1;
        }
        ring.events.push_back(event);
        let is_end = matches!(event.kind, TraceKind::Disconnected(_));
        if is_end && matches!(self.target, TraceTarget::Session(_)) {
            self.is_over.store(true, Ordering::Relaxed);
        }
    }
}

impl WorkerTraces {
    /// Whether any trace runs. One comparison while none does.
    #[inline]
    pub fn is_active(&mut self, tracer: &Tracer) -> bool {
        let version = tracer.version.load(Ordering::Relaxed);
        if version != self.version {
            self.refresh(tracer);
        }
        !self.logs.is_empty()
    }

    #[cold]
    fn refresh(&mut self, tracer: &Tracer) {
        let logs = lock(&tracer.logs);
        // Under the lock: a trace that begins later raises it once more.
        self.version = tracer.version.load(Ordering::Acquire);
        self.logs.clone_from(&logs);
        drop(logs);
        self.drop_ended();
    }

    /// A turn begins, or goes on.
    #[inline]
    pub fn set_now(&mut self, now: Instant) {
        self.now = Some(now);
        if !self.logs.is_empty() {
            self.drop_ended();
        }
    }

    fn drop_ended(&mut self) {
        if let Some(now) = self.now {
            self.logs.retain(|log| log.is_running(now));
        }
    }

    /// Whether events of this session belong to a trace.
    pub fn has(&self, session: SessionId, addr: SocketAddr) -> bool {
        self.logs.iter().any(|log| log.matches(session, addr))
    }

    /// Adds an event to the traces of its session.
    pub fn add(&self, session: SessionId, addr: SocketAddr, kind: TraceKind) {
        let Some(at) = self.now else {
            return;
        };
        for log in self.logs.iter().filter(|log| log.matches(session, addr)) {
            log.add(TraceEvent { at, session, kind });
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code of a game runs under these locks.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::reason::Kick;

    const SESSION: SessionId = SessionId::new(1, 0, 7);
    const OTHER: SessionId = SessionId::new(1, 0, 8);

    fn addr(text: &str) -> SocketAddr {
        format!("{text}:1").parse().unwrap()
    }

    fn packet(bytes: usize) -> TraceKind {
        TraceKind::Packet {
            direction: PacketDirection::Sent,
            id: 1,
            name: None,
            bytes,
        }
    }

    #[test]
    fn a_trace_of_a_session_has_its_events_alone_and_ends_with_it() {
        let (tracer, mut worker) = (Tracer::default(), WorkerTraces::default());
        let now = Instant::now();
        worker.set_now(now);
        assert!(!worker.is_active(&tracer));
        let target = TraceTarget::Session(SESSION);
        let log = tracer.begin(target, MAX_DURATION, now).unwrap();
        assert!(worker.is_active(&tracer));
        let here = addr("127.0.0.1");
        for session in [SESSION, OTHER] {
            worker.add(session, here, packet(9));
            let end = TraceKind::Disconnected(Kick::BadSize.into());
            worker.add(session, here, end);
        }
        assert!(!log.is_running(now));
        worker.set_now(now);
        assert!(!worker.is_active(&tracer));
        worker.add(SESSION, here, packet(1));
        let (events, dropped) = log.events();
        assert_eq!((events.len(), dropped), (2, 0));
        assert!(
            events
                .iter()
                .all(|event| event.session == SESSION && event.at == now)
        );
        assert_eq!(events[0].kind, packet(9));
    }

    #[test]
    fn a_trace_of_an_address_goes_on_until_its_time_is_over() {
        let (tracer, mut worker) = (Tracer::default(), WorkerTraces::default());
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let target = TraceTarget::Address("10.0.0.1".parse().unwrap());
        let log = tracer.begin(target, second, now).unwrap();
        for millis in [0, 500, 1_000, 2_000] {
            worker.set_now(now + Duration::from_millis(millis));
            let is_active = worker.is_active(&tracer);
            assert_eq!(is_active, millis < 1_000);
            for (session, from) in [(SESSION, "10.0.0.1"), (OTHER, "10.0.0.2")] {
                worker.add(session, addr(from), TraceKind::Connected);
            }
            worker.add(OTHER, addr("[::ffff:10.0.0.1]"), TraceKind::Connected);
        }
        assert_eq!(log.events().0.len(), 4);
    }

    #[test]
    fn rings_and_traces_have_a_bound() {
        let (tracer, mut worker) = (Tracer::default(), WorkerTraces::default());
        let now = Instant::now();
        let begin = || tracer.begin(TraceTarget::Session(SESSION), MAX_DURATION, now);
        let logs: Vec<_> = (0..MAX_TRACES).map(|_| begin().unwrap()).collect();
        assert!(begin().is_none());
        worker.set_now(now);
        assert!(worker.is_active(&tracer));
        for bytes in 0..MAX_EVENTS + 10 {
            worker.add(SESSION, addr("127.0.0.1"), packet(bytes));
        }
        let (events, dropped) = logs[0].events();
        assert_eq!((events.len(), dropped), (MAX_EVENTS, 10));
        assert_eq!(events[0].kind, packet(10));
        tracer.end(&logs[3]);
        assert!(begin().is_some() && begin().is_none());
        assert!(worker.is_active(&tracer) && worker.logs.len() == MAX_TRACES);
    }
}
