//! A run in virtual time: users, ticks and their evaluation, without a socket, a thread or a clock.

use super::state::RunState;
use crate::collector::{Collector, EngineMetrics, UserEvent};
use crate::context::{SessionSettings, UserSession, UserState};
use crate::executor::LoadProfile;
use crate::health::HealthRecord;
use crate::metrics::series::Second;
use crate::metrics::{Check, Counter, Registry, RequestSeries, TickSeries};
use crate::report::{Metric, OtherFailures, Report, TrendValue, Verdict};
use crate::scenario::{Bot, UserId};
use crate::users::tests::FakeNetwork;
use crate::users::{UserSettings, Users};
use crossbeam_channel::Receiver;
use server_core::testing::{SimClient, SimServer};
use server_core::{DisconnectReason, Server, SessionId};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Users of a scenario with one pushed stream, `tick`.
pub struct World {
    pub state: RunState,
    pub moves: RequestSeries,
    /// For bots.
    pub wrong: Check,
    pub network: FakeNetwork,
    load: LoadProfile,
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
        Self::with_load(LoadProfile::constant(users, 0, None), settings)
    }

    /// As many users are wanted as the load has at each moment.
    pub fn with_load(load: LoadProfile, settings: UserSettings) -> Self {
        let users = load.max();
        let mut registry = Registry::default();
        let metrics = EngineMetrics::register(&mut registry, false);
        assert_eq!(registry.tick_series("tick"), TICKS);
        let moves = registry.request_series("moves", "answered", "move_rtt", "");
        let wrong = registry.check("texts_wrong", "texts were wrong");
        let start = Instant::now();
        let (collector, events) = Collector::new(registry, metrics, users, 1, start);
        let mut world = Self {
            moves,
            wrong,
            load,
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
        world.at(0);
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
            self.state.note_present_silence(self.now, self.lag);
            self.next_second += SECOND;
        }
        self.now = self.now.max(at);
        let target = self.load.target(self.now - self.start);
        let users = &mut self.state.users;
        users.run_timers(self.now, &mut self.network);
        users.set_target(target, self.now, &mut self.network);
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

    /// The server accepts the connection of user 0, whose packets go to a bot.
    pub fn accept_bot<B>(&mut self, bot: B) -> (SimServer<UserSession<B>>, SimClient)
    where
        B: Bot + Copy + Sync,
    {
        self.network.begun.retain(|user| *user != 0);
        let (collector, settings) = (Arc::clone(&self.state.collector), self.settings);
        // A bot does not know which side has begun the connection: the client of this server is the game's server.
        let mut server = SimServer::start(1, Server::builder(), move |_| UserSession {
            bot,
            user: UserState::new(Arc::clone(&collector), UserId(0), 0, 0, 0, &settings),
            text_of: Arc::new(|_| None),
        });
        let client = server.connect();
        server.advance(Duration::ZERO);
        self.handle_events();
        (server, client)
    }

    /// A session receives a packet that is neither a tick nor an answer.
    pub fn receive(&mut self, user: usize) {
        assert!(self.sessions[user].is_some(), "a session");
        self.add(self.state.collector.engine.packets);
    }

    /// A session sends a move, and receives the answer at once.
    pub fn move_and_answer(&mut self, user: usize) {
        self.add(self.moves.sent);
        self.add(self.moves.answered);
        self.receive(user);
    }

    fn add(&self, counter: Counter) {
        self.state.collector.recorder(0).counters()[counter.0].add(1);
    }

    /// A session receives a tick.
    pub fn tick(&mut self, user: usize, tick: u64) {
        self.receive(user);
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
        let state = self.state;
        let counts = state.final_counts();
        let dropped = state.measurement.run.dropped_ticks;
        let mut report = Report {
            client: HealthRecord::default().evaluate(Duration::ZERO, dropped, 0, &[]),
            metrics: state.metrics(&counts, &state.measurement.run, &state.lagging),
            sessions,
            ..Report::default()
        };
        report.sessions.server_silent_secs = state.silent.as_secs_f64();
        let others = OtherFailures {
            excusable: state.nothing_checked(&counts),
            ..OtherFailures::default()
        };
        report.evaluate(&others, |_, _| Vec::new());
        report.timeline = state.into_timeline();
        let has_failed = report.verdict == Verdict::Failed;
        assert_eq!(report.exit_status(false), u8::from(has_failed));
        let received = report.metrics.count("ticks_received");
        let synthetic = report.metrics.count("ticks_synthetic");
        assert_eq!(
            trend(&report, "tick_delay").count,
            received - dropped + synthetic,
            "each tick that is evaluated and each synthetic sample is one delay"
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
