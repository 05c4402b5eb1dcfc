//! A run in virtual time: users, ticks and their evaluation, without a socket, a thread or a clock.

use super::values;
use super::watch::Watch;
use crate::collector::{Collector, EngineMetrics, UserEvent};
use crate::context::{SessionSettings, UserState};
use crate::measurement::Measurement;
use crate::metrics::series::Second;
use crate::metrics::{Registry, TickSeries};
use crate::report::{Metric, OtherFailures, Report, TrendValue};
use crate::scenario::UserId;
use crate::users::tests::FakeNetwork;
use crate::users::{Left, UserSettings, Users};
use crossbeam_channel::Receiver;
use server_core::{DisconnectReason, SessionId};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Users of a scenario with one pushed stream, `tick`.
pub struct World {
    pub users: Users,
    pub network: FakeNetwork,
    pub measurement: Measurement,
    pub collector: Arc<Collector>,
    settings: SessionSettings,
    events: Receiver<UserEvent>,
    /// The connection of each user.
    sessions: Vec<Option<UserState>>,
    start: Instant,
    now: Instant,
    next_second: Instant,
    churned_without_tick: u64,
    silent: Duration,
    /// Users are connected when they are [logged in](Self::log_in).
    pub has_login: bool,
}

pub const TICKS: TickSeries = TickSeries(0);
const SECOND: Duration = Duration::from_secs(1);

impl World {
    /// All users are wanted from the start, and none is connected.
    pub fn new(users: usize, settings: UserSettings) -> Self {
        let mut registry = Registry::default();
        let metrics = EngineMetrics::register(&mut registry, false);
        assert_eq!(registry.tick_series("tick"), TICKS);
        let start = Instant::now();
        let (collector, events) = Collector::new(registry, metrics, users, 1, start);
        let mut world = Self {
            measurement: Measurement::new(&collector.registry, start),
            collector: Arc::new(collector),
            settings: SessionSettings {
                log_sessions: 0,
                login_timeout: None,
                reconnects: settings.reconnect,
            },
            events,
            sessions: (0..users).map(|_| None).collect(),
            users: Users::new(users, settings),
            network: FakeNetwork::default(),
            start,
            now: start,
            next_second: start + SECOND,
            churned_without_tick: 0,
            silent: Duration::ZERO,
            has_login: false,
        };
        world.users.set_target(users, start, &mut world.network);
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
            self.measure(false);
            let at_secs = (self.now - self.start).as_secs_f64();
            self.measurement.end_second(Second {
                at_secs,
                ..Second::default()
            });
            self.next_second += SECOND;
        }
        self.now = self.now.max(at);
        self.users.run_timers(self.now, &mut self.network);
        self
    }

    /// The present time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The server accepts all connections under way.
    pub fn accept_all(&mut self) {
        for user in std::mem::take(&mut self.network.begun) {
            let (id, collector) = (UserId(user), Arc::clone(&self.collector));
            let mut session = UserState::new(collector, id, user, 0, &self.settings);
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
        let recorder = self.collector.recorder(0);
        recorder.counters()[self.collector.engine.packets.0].add(1);
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
            let (collector, now) = (&self.collector, self.now);
            let record = |time| {
                let outage = collector.engine.outage;
                collector.own_recorder().record(outage, time);
            };
            let left = self.users.on_event(event, now, &mut self.network, record);
            if let Some(Left::Closed { user, since }) = left {
                let is_without = self.watch().has_no_tick(TICKS, user, since, now);
                self.churned_without_tick += u64::from(is_without);
            }
        }
    }

    pub fn measure(&mut self, is_end: bool) {
        let registry = &self.collector.registry;
        for recorder in self.collector.recorders() {
            self.measurement.collect(registry, recorder);
        }
        self.measurement.evaluate(registry, self.now, is_end);
    }

    fn watch(&self) -> Watch<'_> {
        Watch {
            users: &self.users,
            collector: &self.collector,
            measurement: &self.measurement,
        }
    }

    /// The end of a second: a silence is noticed.
    pub fn end_second(&mut self, millis: u64) {
        self.at(millis).measure(false);
        let silence = self.watch().present_silence(self.now);
        self.silent = self.silent.max(silence.unwrap_or_default());
    }

    /// Ends the run at this time, and reports.
    pub fn end(mut self, millis: u64) -> Report {
        self.at(millis).measure(false);
        let (now, watch) = (self.now, self.watch());
        let silence = watch.silence(now).unwrap_or_default().max(self.silent);
        let lagging = watch.count_lagging(TICKS, watch.newest_tick(TICKS));
        let without = self.churned_without_tick + watch.count_without_tick(TICKS, now);
        let collector = Arc::clone(&self.collector);
        self.users.finish(now, |time| {
            let outage = collector.engine.outage;
            collector.own_recorder().record(outage, time);
        });
        self.measure(true);
        let mut report = Report {
            metrics: values::metrics(
                &collector.registry,
                &self.measurement,
                &collector.counts(),
                &self.measurement.run,
                &[(lagging, without)],
            ),
            sessions: self.users.sessions,
            ..Report::default()
        };
        report.sessions.server_silent_secs = silence.as_secs_f64();
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
