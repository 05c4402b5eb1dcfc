//! A run in virtual time: users, ticks and their evaluation, without a socket, a thread or a clock.

use super::state::RunState;
use crate::collector::{Collector, EngineMetrics, UserEvent};
use crate::context::{SessionSettings, UserState};
use crate::metrics::series::Second;
use crate::metrics::{Registry, RequestSeries, TickSeries};
use crate::report::{Metric, OtherFailures, Report, TrendValue};
use crate::scenario::UserId;
use crate::users::tests::FakeNetwork;
use crate::users::{UserSettings, Users};
use crossbeam_channel::Receiver;
use server_core::{DisconnectReason, SessionId};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Users of a scenario with one pushed stream, `tick`.
pub struct World {
    pub state: RunState,
    pub moves: RequestSeries,
    pub network: FakeNetwork,
    settings: SessionSettings,
    events: Receiver<UserEvent>,
    /// The connection of each user.
    sessions: Vec<Option<UserState>>,
    start: Instant,
    now: Instant,
    next_second: Instant,
    /// Users are connected when they are [logged in](Self::log_in).
    pub has_login: bool,
    /// The client's own lag in the last second.
    pub lag: Duration,
}

pub const TICKS: TickSeries = TickSeries(0);
const SECOND: Duration = Duration::from_secs(1);

impl World {
    /// All users are wanted from the start, and none is connected.
    pub fn new(users: usize, settings: UserSettings) -> Self {
        let mut registry = Registry::default();
        let metrics = EngineMetrics::register(&mut registry, false);
        assert_eq!(registry.tick_series("tick"), TICKS);
        let moves = registry.request_series("moves", "answered", "move_rtt", "");
        let start = Instant::now();
        let (collector, events) = Collector::new(registry, metrics, users, 1, start);
        let mut world = Self {
            moves,
            settings: SessionSettings {
                log_sessions: 0,
                login_timeout: None,
                reconnects: settings.reconnect,
            },
            events,
            sessions: (0..users).map(|_| None).collect(),
            state: RunState::new(Arc::new(collector), Users::new(users, settings), start),
            network: FakeNetwork::default(),
            start,
            now: start,
            next_second: start + SECOND,
            has_login: false,
            lag: Duration::ZERO,
        };
        world
            .state
            .users
            .set_target(users, start, &mut world.network);
        world
    }

    /// Users that do not reconnect, all connected.
    pub fn connected(users: usize) -> Self {
        let mut world = Self::new(users, UserSettings::default());
        world.accept_all();
        world
    }

    /// Goes on to a time since the start, in milliseconds.
    pub fn at(&mut self, millis: u64) -> &mut Self {
        let at = self.start + Duration::from_millis(millis);
        while self.next_second <= at {
            self.now = self.next_second;
            self.measure();
            let at_secs = (self.now - self.start).as_secs_f64();
            self.state.measurement.end_second(Second {
                at_secs,
                ..Second::default()
            });
            self.next_second += SECOND;
        }
        self.now = self.now.max(at);
        self.state.users.run_timers(self.now, &mut self.network);
        self
    }

    /// The present time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The server accepts all connections under way.
    pub fn accept_all(&mut self) {
        for user in std::mem::take(&mut self.network.begun) {
            let (id, collector) = (UserId(user), Arc::clone(&self.state.collector));
            let mut session = UserState::new(collector, id, user, 0, 0, &self.settings);
            session.open();
            if !self.has_login {
                session.join(session_id(user));
            }
            self.sessions[user] = Some(session);
        }
        self.handle_events();
    }

    /// A user is logged in.
    pub fn log_in(&mut self, user: usize) {
        let session = self.sessions[user].as_mut().expect("a session");
        session.join(session_id(user));
        self.handle_events();
    }

    /// A session receives a packet without a tick.
    pub fn answer(&mut self, user: usize) {
        assert!(self.sessions[user].is_some(), "a session");
        let recorder = self.state.collector.recorder(0);
        recorder.counters()[self.state.collector.engine.packets.0].add(1);
    }

    /// A session receives a tick.
    pub fn tick(&mut self, user: usize, tick: u64) {
        self.answer(user);
        let session = self.sessions[user].as_mut().expect("a session");
        session.tick(TICKS, tick, self.now, || self.now);
    }

    /// All sessions receive a tick.
    pub fn tick_all(&mut self, tick: u64) {
        for user in 0..self.sessions.len() {
            if self.sessions[user].is_some() {
                self.tick(user, tick);
            }
        }
    }

    /// A session ends.
    pub fn end_session(&mut self, user: usize, reason: DisconnectReason) {
        let session = self.sessions[user].take().expect("a session");
        session.leave(reason, self.now);
        self.handle_events();
    }

    /// The sessions that the run has closed end.
    pub fn end_closed(&mut self) {
        for id in std::mem::take(&mut self.network.closed) {
            self.end_session(id.slot(), DisconnectReason::Closed);
        }
    }

    fn handle_events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            (self.state).on_event(event, self.now, &mut self.network);
        }
    }

    pub fn measure(&mut self) {
        self.state.measure(self.now, false);
    }

    /// The end of a second: a silence is noticed.
    pub fn end_second(&mut self, millis: u64) {
        self.at(millis).measure();
        self.state.note_present_silence(self.now, self.lag);
    }

    /// Ends the run at this time, and reports.
    pub fn end(self, millis: u64) -> Report {
        self.end_with(millis, |_| {})
    }

    /// Ends the run at this time, and reports. `late` happens when the run is over, before the sessions end.
    pub fn end_with(mut self, millis: u64, late: impl FnOnce(&mut Self)) -> Report {
        self.at(millis).measure();
        self.state.begin_drain(self.now, self.lag);
        self.state.end_drain(self.now);
        let sessions = self.state.users.sessions;
        late(&mut self);
        for user in 0..self.sessions.len() {
            if let Some(session) = self.sessions[user].take() {
                session.leave(DisconnectReason::Closed, self.now);
            }
        }
        self.state.measure(self.now, true);
        let state = &self.state;
        let mut report = Report {
            metrics: state.metrics(
                &state.final_counts(),
                &state.measurement.run,
                &state.lagging,
            ),
            sessions,
            ..Report::default()
        };
        report.sessions.server_silent_secs = state.silent.as_secs_f64();
        report.evaluate(&OtherFailures::default(), |_, _| Vec::new());
        let received = report.metrics.count("ticks_received");
        let synthetic = report.metrics.count("ticks_synthetic");
        assert_eq!(
            trend(&report, "tick_delay").count,
            received + synthetic,
            "each received tick and each synthetic sample is one delay"
        );
        report
    }
}

fn session_id(user: usize) -> SessionId {
    SessionId::new(1, 0, user as u32)
}

pub fn trend<'a>(report: &'a Report, name: &str) -> &'a TrendValue {
    report.metrics.trend(name).expect("a trend")
}

pub fn gauge(report: &Report, name: &str) -> Option<f64> {
    match report.metrics.get(name) {
        Some(Metric::Gauge { value, .. }) => *value,
        other => panic!("{name} is {other:?}"),
    }
}
