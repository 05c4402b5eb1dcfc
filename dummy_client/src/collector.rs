//! Where the sessions of all event loops leave what they have seen, for the run to read.

use crate::analysis::RestartDetector;
use crate::metrics::recorder::{MAX_RUNS, Recorder};
use crate::metrics::{Check, Counter, Registry, TickSeries, TopCounter, Trend, Unit};
use crossbeam_channel::{Receiver, Sender};
use server_core::{DisconnectReason, SessionId};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The metrics that every run has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EngineMetrics {
    pub packets: Counter,
    pub bytes: Counter,
    pub malformed: Check,
    pub unknown: Check,
    pub panicked: Check,
    pub connect_time: Trend,
    pub login_time: Option<Trend>,
    pub outage: Trend,
    /// The number of these definitions: those of the scenario come behind.
    pub definitions: usize,
}

impl EngineMetrics {
    pub fn register(registry: &mut Registry, has_login: bool) -> Self {
        let metrics = Self {
            packets: registry.counter("packets_received", Unit::Count),
            bytes: registry.counter("bytes_received", Unit::Bytes),
            malformed: registry.check("packets_malformed", "packets were malformed"),
            unknown: registry.check("packets_unknown", "packets had an unknown id"),
            panicked: registry.check("bots_panicked", "bots panicked"),
            connect_time: registry.trend("connect_time", "from connect to connected"),
            login_time: has_login
                .then(|| registry.trend("login_time", "from connected to logged in")),
            outage: registry.trend("outage", "time from a loss to the next session"),
            definitions: 0,
        };
        Self {
            definitions: registry.definitions().len(),
            ..metrics
        }
    }
}

/// Shared by the sessions of a run.
#[derive(Debug)]
pub(crate) struct Collector {
    pub registry: Registry,
    pub engine: EngineMetrics,
    /// One for each event loop, and the last one for the run itself.
    recorders: Box<[Recorder]>,
    /// The counter of received packets by id; `usize::MAX` without a label.
    packet_counters: Box<[usize]>,
    series: Box<[SeriesState]>,
    connections: Box<[Connection]>,
    started_at: Instant,
    is_stopping: AtomicBool,
    /// A bot has called a check.
    has_checked: AtomicBool,
    /// By code and text. Not an event each: a server may send a million.
    close_messages: Mutex<TopCounter<(u16, String)>>,
    events: Sender<UserEvent>,
}

/// One tick series over all sessions.
#[derive(Debug)]
struct SeriesState {
    restarts: Mutex<RestartDetector>,
    /// The newest tick of each user's connection, plus 1; 0 before its first. The two highest numbers count as one.
    newest: Box<[AtomicU64]>,
}

/// The latest connection of one user.
#[derive(Debug, Default)]
struct Connection {
    /// Nanoseconds since the start of the run.
    began_at: AtomicU64,
    /// Number of connections so far.
    number: AtomicU32,
}

/// What the run has to know at once.
#[derive(Debug, PartialEq)]
pub(crate) enum UserEvent {
    /// A user is connected, and logged in if the scenario has a login.
    Connected(usize, SessionId),
    /// A session has ended that was connected.
    Lost(usize, DisconnectReason),
    /// A connection could not be made, or its login failed.
    Failed(usize, String, Stage),
    /// The server has ended a session at once because it is full.
    Refused(usize),
}

/// How far a connection came that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Connect,
    Login,
}

/// Labels of packets cover the ids below this.
const MAX_LABELED_ID: usize = 1 << 16;

impl Collector {
    /// For this number of users on this number of event loops.
    pub fn new(
        registry: Registry,
        engine: EngineMetrics,
        users: usize,
        threads: usize,
        started_at: Instant,
    ) -> (Self, Receiver<UserEvent>) {
        let (events, receiver) = crossbeam_channel::unbounded();
        let mut packet_counters = Vec::new();
        for (id, _, counter) in registry.packets() {
            let id = usize::from(id);
            if packet_counters.len() <= id {
                packet_counters.resize((id + 1).min(MAX_LABELED_ID), usize::MAX);
            }
            packet_counters[id] = counter.0;
        }
        let series = registry.ticks().iter().map(|_| SeriesState {
            restarts: Mutex::new(RestartDetector::new(users)),
            newest: (0..users).map(|_| AtomicU64::new(0)).collect(),
        });
        let collector = Self {
            recorders: (0..=threads)
                .map(|_| Recorder::new(&registry, MAX_RUNS / threads))
                .collect(),
            packet_counters: packet_counters.into(),
            series: series.collect(),
            connections: (0..users).map(|_| Connection::default()).collect(),
            started_at,
            is_stopping: AtomicBool::new(false),
            has_checked: AtomicBool::new(false),
            close_messages: Mutex::default(),
            events,
            registry,
            engine,
        };
        (collector, receiver)
    }

    /// The recorder of an event loop.
    pub fn recorder(&self, thread: usize) -> &Recorder {
        &self.recorders[thread]
    }

    /// The recorder of the run itself.
    pub fn own_recorder(&self) -> &Recorder {
        &self.recorders[self.recorders.len() - 1]
    }

    pub fn recorders(&self) -> &[Recorder] {
        &self.recorders
    }

    /// All counters, summed over the threads.
    pub fn counts(&self) -> Vec<u64> {
        let mut sums = vec![0_u64; self.registry.counters()];
        for recorder in &self.recorders {
            for (sum, counter) in sums.iter_mut().zip(recorder.counters()) {
                *sum = sum.saturating_add(counter.get());
            }
        }
        sums
    }

    /// Requests that may still be answered.
    pub fn in_flight(&self, counts: &[u64]) -> u64 {
        let of = |counter: Counter| counts[counter.0];
        let series = self.registry.requests().iter().map(|series| {
            let done = of(series.answered) + of(series.waiting) + of(series.lost.0);
            of(series.sent).saturating_sub(done)
        });
        series.sum()
    }

    /// The counter of received packets with this id.
    pub fn packet_counter(&self, id: u16) -> Option<usize> {
        let counter = self.packet_counters.get(usize::from(id)).copied();
        counter.filter(|counter| *counter != usize::MAX)
    }

    // ---- connections ---------------------------------------------------------------------------

    /// The connection of a user begins.
    pub fn begin_connect(&self, user: usize, now: Instant) {
        let nanos = now.saturating_duration_since(self.started_at).as_nanos() as u64;
        self.connections[user]
            .began_at
            .store(nanos, Ordering::Relaxed);
        self.connections[user]
            .number
            .fetch_add(1, Ordering::Relaxed);
    }

    /// When the connection of a user began.
    pub fn connect_began(&self, user: usize) -> Instant {
        let nanos = self.connections[user].began_at.load(Ordering::Relaxed);
        self.started_at + Duration::from_nanos(nanos)
    }

    /// The number of a user's connection, from 1.
    pub fn connection_number(&self, user: usize) -> u32 {
        self.connections[user].number.load(Ordering::Relaxed)
    }

    // ---- ticks ---------------------------------------------------------------------------------

    /// The connection of a user is made, and has seen no tick yet.
    pub fn join(&self, user: usize) {
        for series in &self.series {
            series.newest[user].store(0, Ordering::Relaxed);
            series.restarts().join(user);
        }
    }

    /// A connection that was made has ended.
    pub fn leave(&self, user: usize, was_lost: bool) {
        for series in &self.series {
            let newest = series.newest_tick(user).unwrap_or(0);
            series.restarts().leave(user, newest, was_lost);
        }
    }

    /// The first tick of a connection has come. Returns its epoch, which increases with each new server.
    pub fn epoch_of_first_tick(&self, series: TickSeries, user: usize, tick: u64) -> u64 {
        self.series[series.0].restarts().first_tick(user, tick)
    }

    /// The newest tick of a user's connection; `None` before its first.
    pub fn newest_tick(&self, series: TickSeries, user: usize) -> Option<u64> {
        self.series[series.0].newest_tick(user)
    }

    pub fn set_newest_tick(&self, series: TickSeries, user: usize, tick: u64) {
        let stored = tick.saturating_add(1);
        self.series[series.0].newest[user].store(stored, Ordering::Relaxed);
    }

    // ---- requests ------------------------------------------------------------------------------

    /// The run is about to end: nothing new is sent.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// A bot has called a check.
    pub fn note_check(&self) {
        // The load alone keeps the cache line shared.
        if !self.has_checked() {
            self.has_checked.store(true, Ordering::Relaxed);
        }
    }

    pub fn has_checked(&self) -> bool {
        self.has_checked.load(Ordering::Relaxed)
    }

    /// Counts a request that is about to be sent, unless the run is about to end. The count comes before the
    /// look at the flag: either this thread sees the flag, or the run, which looks in the other order, waits
    /// for one more answer.
    pub fn may_send(&self, thread: usize, sent: Counter) -> bool {
        let sent = &self.recorders[thread].counters()[sent.0];
        sent.add(1);
        fence(Ordering::SeqCst);
        let may_send = !self.is_stopping();
        if !may_send {
            sent.sub(1);
        }
        may_send
    }

    // ---- messages ------------------------------------------------------------------------------

    /// The server has said why it ends a session.
    pub fn count_close_message(&self, code: u16, text: String) {
        self.close_messages().add((code, text));
    }

    pub fn take_close_messages(&self) -> TopCounter<(u16, String)> {
        std::mem::take(&mut *self.close_messages())
    }

    fn close_messages(&self) -> MutexGuard<'_, TopCounter<(u16, String)>> {
        // Counts alone, complete after each call: a panic elsewhere leaves none half written.
        self.close_messages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub fn tell(&self, event: UserEvent) {
        // After the end of the run, the channel has no receiver.
        let _ = self.events.send(event);
    }
}

impl SeriesState {
    fn newest_tick(&self, user: usize) -> Option<u64> {
        self.newest[user].load(Ordering::Relaxed).checked_sub(1)
    }

    fn restarts(&self) -> MutexGuard<'_, RestartDetector> {
        // The numbers are complete after each call: a panic elsewhere leaves none half written.
        self.restarts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
