//! The event loop of a run: calls the executor, the users, the measurement and the attack.

mod report;

use super::AttackSettings;
use super::network::Network;
use super::state::RunState;
use crate::assertion::Assertion;
use crate::attack::{AttackAction, AttackReport, AttackRun};
use crate::collector::{Collector, UserEvent};
use crate::config::RunConfig;
use crate::executor::capacity::{Action, CapacitySearch, StepOutcome};
use crate::executor::{LoadProfile, Plan};
use crate::health::{ClientMonitor, HealthRecord, MAX_LAG};
use crate::measurement::Samples;
use crate::metrics::series::Second;
use crate::metrics::{Counter, Histogram, Kind};
use crate::pacing::RESPONSE_TIMEOUT;
use crate::report::{OtherFailures, Progress, Report, Sessions, Step, Verdict};
use crate::users::{UserSettings, Users};
use crossbeam_channel::Receiver;
use server_core::ServerHandle;
use server_core::host::HostLimits;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Events between two looks at the clock.
const MAX_EVENTS: usize = 1024;
const SECOND: Duration = Duration::from_secs(1);
/// A shorter rest at the end of a run gets no point of its own.
const MIN_POINT: Duration = Duration::from_millis(500);

pub(super) struct Engine<'a> {
    config: &'a RunConfig,
    scenario: String,
    limits: HostLimits,
    state: RunState,
    network: Network,
    events: Receiver<UserEvent>,
    executor: Execution,
    monitor: ClientMonitor,
    health: HealthRecord,
    /// The longest lag of the client since the last end of a second.
    lag: Duration,
    window: Window,
    attack: Option<AttackRun>,
    attack_report: Option<AttackReport>,
    assertions: Vec<Assertion>,
    observer: Option<Box<super::Observer>>,
    started_at: Instant,
    started_wall: SystemTime,
    last_second_at: Instant,
    next_second_at: Instant,
    last_poll: Duration,
    last_counts: Vec<u64>,
    ended_at: Instant,
    /// By its owner, before its time.
    is_stopped: bool,
}

enum Execution {
    Profile(LoadProfile),
    Capacity(CapacitySearch<Step>),
}

/// The start of the part of a run that is evaluated by itself.
#[derive(Default)]
struct Window {
    began_at: Option<Instant>,
    counts: Vec<u64>,
    sessions: Sessions,
    health: HealthRecord,
    own_limits: u64,
}

impl<'a> Engine<'a> {
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a run, made in one place"
    )]
    pub fn new(
        config: &'a RunConfig,
        scenario: &str,
        limits: HostLimits,
        server: ServerHandle,
        collector: Arc<Collector>,
        events: Receiver<UserEvent>,
        monitor: ClientMonitor,
        assertions: Vec<Assertion>,
        attack: Option<AttackSettings>,
        observer: Option<Box<super::Observer>>,
        now: Instant,
    ) -> Self {
        let addr = config.addrs.first();
        let count = config.share.users(config.executor.max_users());
        let attack = attack.map(|settings| {
            AttackRun::new(
                settings.attack,
                settings.protocol,
                settings.attackers,
                addr,
                config.transport.clone(),
                config.executor.duration(),
                now,
            )
        });
        let settings = UserSettings {
            addr: config.transport.name(addr),
            churn: config.churn.clone(),
            reconnect: config.reconnect,
            seed: config.seed ^ config.share.global(0) as u64,
        };
        Self {
            executor: match &config.executor.0 {
                Plan::Profile(profile) => Execution::Profile(profile.clone()),
                Plan::Capacity(max) => Execution::Capacity(CapacitySearch::new(*max, now)),
            },
            network: Network::new(
                server,
                &config.addrs,
                count,
                limits.ephemeral_ports,
                config.transport.clone(),
                Arc::clone(&collector),
            ),
            last_counts: vec![0; collector.registry.counters()],
            state: RunState::new(collector, Users::new(count, settings), now),
            config,
            scenario: scenario.into(),
            limits,
            events,
            monitor,
            health: HealthRecord::default(),
            lag: Duration::ZERO,
            window: Window::default(),
            attack,
            attack_report: None,
            assertions,
            observer,
            started_at: now,
            started_wall: SystemTime::now(),
            last_second_at: now,
            next_second_at: now + SECOND,
            last_poll: Duration::ZERO,
            ended_at: now,
            is_stopped: false,
        }
    }

    /// Until the time is up, the run is stopped, or no user can connect any more.
    pub fn run(&mut self, stop: &Receiver<()>) {
        loop {
            let now = Instant::now();
            self.state.users.run_timers(now, &mut self.network);
            self.search(now);
            self.attack(now);
            self.follow_executor(now);
            if self.is_over(now) {
                return;
            }
            self.end_second_if_due(now);
            let timeout = self.next_at(now).saturating_duration_since(Instant::now());
            crossbeam_channel::select! {
                recv(self.events) -> event => {
                    if let Ok(event) = event {
                        self.on_event(event);
                    }
                    self.handle_events();
                }
                recv(stop) -> _ => {
                    self.is_stopped = true;
                    return;
                }
                default(timeout) => {}
            }
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        let elapsed = now.duration_since(self.started_at);
        let (is_done, may_want_more) = match &self.executor {
            Execution::Capacity(search) => (search.is_over(), true),
            Execution::Profile(profile) => (
                profile.ends_at().is_some_and(|at| at <= elapsed),
                profile.next_change(elapsed).is_some(),
            ),
        };
        let is_lost = !may_want_more && self.state.users.all_have_failed();
        is_done || is_lost || self.network.server().is_shutting_down()
    }

    fn next_at(&self, now: Instant) -> Instant {
        let elapsed = now.duration_since(self.started_at);
        let (change, end) = match &self.executor {
            Execution::Capacity(search) => (search.next_at(), None),
            Execution::Profile(profile) => (
                profile.next_change(elapsed).map(|at| self.started_at + at),
                profile.ends_at().map(|at| self.started_at + at),
            ),
        };
        // With all connects under way, the next event comes first.
        let change = change.filter(|_| self.state.users.may_connect());
        let attack = self.attack.as_ref().and_then(AttackRun::next_at);
        let timer = self.state.users.next_at(now);
        let all = [change, end, timer, attack, Some(self.next_second_at)];
        all.into_iter().flatten().min().unwrap_or(now)
    }

    // ---- users ---------------------------------------------------------------------------------

    fn follow_executor(&mut self, now: Instant) {
        let elapsed = now.duration_since(self.started_at);
        let share = self.config.share;
        let target = match &self.executor {
            Execution::Capacity(search) => search.target(),
            Execution::Profile(profile) => {
                // A peak that lasts for no time is reached all the same.
                let peak = profile.peak(self.last_poll, elapsed);
                let peak = share.users(peak);
                if peak > self.state.users.target() {
                    self.state.users.set_target(peak, now, &mut self.network);
                }
                if profile.is_requested_at_once() {
                    self.state.users.sessions.requested = share.users(profile.max());
                }
                profile.target(elapsed)
            }
        };
        self.last_poll = elapsed;
        self.state
            .users
            .set_target(share.users(target), now, &mut self.network);
        if self.state.users.target() == 0 && self.state.users.first_connected_at.is_some() {
            self.sample_health(now);
            self.state.note_silence(now, self.lag);
            self.state.users.first_connected_at = None;
        }
    }

    /// Handles events that have come, up to a number: signals and time go on meanwhile.
    fn handle_events(&mut self) {
        for _ in 0..MAX_EVENTS {
            match self.events.try_recv() {
                Ok(event) => self.on_event(event),
                Err(_) => return,
            }
        }
    }

    fn on_event(&mut self, event: UserEvent) {
        self.network.choose_address(&event);
        let event = self.network.explain(event);
        self.state
            .on_event(event, Instant::now(), &mut self.network);
    }

    // ---- capacity search -----------------------------------------------------------------------

    fn search(&mut self, now: Instant) {
        let occupancy = self.state.users.occupancy(self.wanted_by_step());
        let lag = self.state.measurement.lag();
        let Execution::Capacity(search) = &mut self.executor else {
            return;
        };
        match search.poll(occupancy, lag, now) {
            Action::None => {}
            Action::BeginWindow => {
                self.measure(now);
                self.state.measurement.begin_window(now);
                self.window = self.begin_window(now);
            }
            Action::Evaluate => {
                self.end_window(now);
                let (step, outcome) = self.evaluate_step(now);
                log::info!("{step}");
                if let Execution::Capacity(search) = &mut self.executor {
                    search.evaluate(step, outcome, now);
                }
                self.state.users.retry_failed(now);
            }
        }
    }

    /// The users of this process that the present step of a capacity search wants.
    fn wanted_by_step(&self) -> usize {
        match &self.executor {
            Execution::Capacity(search) => self.config.share.users(search.target()),
            Execution::Profile(_) => self.state.users.target(),
        }
    }

    fn begin_window(&self, now: Instant) -> Window {
        Window {
            began_at: Some(now),
            counts: self.state.collector.counts(),
            sessions: self.state.users.sessions,
            health: HealthRecord::default(),
            own_limits: self.state.users.own_limit_count,
        }
    }

    fn end_window(&mut self, now: Instant) {
        self.measure(now);
        let registry = &self.state.collector.registry;
        self.state.measurement.end_window(registry, now);
    }

    /// Evaluates the window that ends now as if it were a run of its own.
    fn evaluate_step(&mut self, now: Instant) -> (Step, StepOutcome) {
        let window = std::mem::take(&mut self.window);
        let now_counts = self.state.collector.counts();
        let since = |now: u64, before: u64| now.saturating_sub(before);
        let before = window.counts.iter().chain(std::iter::repeat(&0));
        let mut counts: Vec<u64> = now_counts
            .iter()
            .zip(before)
            .map(|(a, b)| since(*a, *b))
            .collect();
        let registry = &self.state.collector.registry;
        for series in registry.requests() {
            // A request that was sent before the window and is unanswered for too long is lost in it.
            let of = |counter: Counter| window.counts.get(counter.0).copied().unwrap_or(0);
            let done = now_counts[series.answered.0]
                + now_counts[series.lost.0.0]
                + now_counts[series.waiting.0];
            counts[series.lost.0.0] += of(series.sent).saturating_sub(done);
        }
        let target = self.wanted_by_step();
        let mut sessions = self.state.users.sessions;
        sessions.lost = since(sessions.lost, window.sessions.lost);
        sessions.reconnected = since(sessions.reconnected, window.sessions.reconnected);
        sessions.reconnected_late =
            since(sessions.reconnected_late, window.sessions.reconnected_late);
        sessions.requested = target;
        sessions.connected = sessions.connected_at_end;
        sessions.never_connected = target.saturating_sub(sessions.connected_at_end);
        let silence = self.state.watch().silence(now, self.lag);
        sessions.server_silent_secs = silence.map_or(0.0, |time| time.as_secs_f64());
        let watch = self.state.watch();
        let lagging: Vec<(u64, u64)> = (self.state.series())
            .map(|series| (0, watch.count_without_tick(series, now)))
            .collect();
        let own_limits = since(self.state.users.own_limit_count, window.own_limits);
        let own_limits: Vec<(String, u64)> = (own_limits > 0)
            .then(|| ("ports, descriptors or memory".to_string(), own_limits))
            .into_iter()
            .collect();
        let packets = counts[self.state.collector.engine.packets.0];
        let samples = &self.state.measurement.window;
        let mut report = Report {
            metrics: self.state.metrics(&counts, samples, &lagging),
            client: window.health.evaluate(
                samples.worst_late_send,
                samples.dropped_ticks,
                packets,
                &own_limits,
            ),
            sessions,
            ..Report::default()
        };
        report.run.elapsed_secs = now
            .duration_since(window.began_at.unwrap_or(self.started_at))
            .as_secs_f64();
        self.evaluate(&mut report, &OtherFailures::default());
        let outcome = match report.verdict {
            _ if report.client.client_limited => StepOutcome::ClientLimited,
            Verdict::Ok => StepOutcome::Holds,
            _ => StepOutcome::Breaks,
        };
        (Step::new(target, &report), outcome)
    }

    // ---- attack --------------------------------------------------------------------------------

    fn attack(&mut self, now: Instant) {
        let max = match &self.executor {
            Execution::Profile(profile) => self.config.share.users(profile.max()),
            Execution::Capacity(_) => usize::MAX,
        };
        let is_full = self.state.users.sessions.connected_at_end == max;
        let Some(attack) = &mut self.attack else {
            return;
        };
        match attack.poll(is_full, now) {
            AttackAction::None => {}
            AttackAction::ConnectNeighbours => {
                attack.set_target(self.network.addr());
                if let Err(error) = attack.connect_neighbours() {
                    log::error!("cannot connect the neighbours: {error}");
                }
            }
            AttackAction::BeginBaseline => {
                self.end_window(now);
                self.state.measurement.begin_window(now);
            }
            AttackAction::BeginAttack => {
                self.end_window(now);
                let delays = self.tick_delays(&self.state.measurement.window);
                if let Some(attack) = &mut self.attack
                    && let Err(error) = attack.begin(&delays, self.config.seed, now)
                {
                    log::error!("the attack could not begin: {error}");
                }
                self.state.measurement.begin_window(now);
            }
        }
    }

    /// The delays of all tick series together.
    fn tick_delays(&self, samples: &Samples) -> Histogram {
        let mut delays = Histogram::default();
        for series in self.state.collector.registry.ticks() {
            delays.add(&samples.trends[series.delay.0]);
        }
        delays
    }

    // ---- every second --------------------------------------------------------------------------

    fn end_second_if_due(&mut self, now: Instant) {
        if now < self.next_second_at {
            return;
        }
        self.measure(now);
        let second = self.end_second(now);
        self.state.note_present_silence(now, self.lag);
        self.lag = Duration::ZERO;
        self.next_second_at = following_second(self.next_second_at, now);
        if let Some(mut observer) = self.observer.take() {
            let engine = &*self;
            observer(&Progress {
                elapsed: now.duration_since(engine.started_at),
                ends_after: engine.config.executor.duration(),
                sessions: engine.state.users.sessions.connected_at_end,
                target: engine.state.users.target(),
                lost: engine.lost_so_far(),
                failed_connects: engine.state.users.sessions.failed_connects,
                point: engine.point(&second),
                main_trend: engine.main_trend(),
                metrics: &|| {
                    let counts = engine.state.collector.counts();
                    engine
                        .state
                        .metrics(&counts, &engine.state.measurement.run, &[])
                },
            });
            self.observer = Some(observer);
        }
    }

    /// The sum of the losses, without those that only the end of the run can tell.
    fn lost_so_far(&self) -> u64 {
        let definitions = self.state.collector.registry.definitions().iter();
        let losses = definitions.map(|one| match one.kind {
            Kind::Check {
                counter,
                is_loss: true,
                ..
            } => self.last_counts[counter.0],
            _ => 0,
        });
        let sessions = &self.state.users.sessions;
        let lost = sessions.lost.saturating_sub(sessions.reconnected);
        losses.fold(lost, u64::saturating_add)
    }

    /// One more point of the timeline, of the time since the last one.
    fn end_second(&mut self, now: Instant) -> Second {
        let counts = self.state.collector.counts();
        let length = now.saturating_duration_since(self.last_second_at);
        let secs = length.as_secs_f64().max(1e-3);
        self.last_second_at = now;
        let per_sec = |counter: Counter| {
            counts[counter.0].saturating_sub(self.last_counts[counter.0]) as f64 / secs
        };
        let engine = &self.state.collector.engine;
        let second = Second {
            at_secs: now.duration_since(self.started_at).as_secs_f64(),
            sessions: self.state.users.sessions.connected_at_end,
            sessions_lost: self.state.users.sessions.lost,
            packets_per_sec: per_sec(engine.packets),
            bytes_per_sec: per_sec(engine.bytes),
            ..Second::default()
        };
        self.last_counts = counts;
        self.state.measurement.end_second(second)
    }

    /// Takes what was recorded, and a sample of the client's health.
    fn measure(&mut self, now: Instant) {
        self.state.measure(now, false);
        self.sample_health(now);
    }

    fn sample_health(&mut self, now: Instant) {
        let sample = self.monitor.sample(now);
        self.health.add(&sample);
        self.window.health.add(&sample);
        self.lag = self.lag.max(sample.lag());
    }

    // ---- the end -------------------------------------------------------------------------------

    /// Sends nothing new, and waits for answers under way and for the newest tick on each session, 2 s at most. A time
    /// in which the client itself is not run does not count.
    pub fn drain(&mut self) {
        self.state.users.stop();
        let now = Instant::now();
        self.attack_report = self.attack.take().map(|mut attack| {
            attack.end(now).unwrap_or_else(|error| {
                log::error!("the attack failed: {error}");
                AttackReport::default()
            })
        });
        self.state.collector.stop();
        let now = Instant::now();
        self.measure(now);
        self.state.begin_drain(now, self.lag);
        let mut seen_at = Instant::now();
        let mut give_up_at = seen_at + RESPONSE_TIMEOUT;
        loop {
            self.handle_events();
            let now = Instant::now();
            give_up_at = without_stall(give_up_at, now - seen_at);
            seen_at = now;
            if self.state.is_drained() || now >= give_up_at {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.ended_at = Instant::now();
        self.state.end_drain(self.ended_at);
        // The end of all sessions comes now: no packet waits for the threads in it.
        self.sample_health(self.ended_at);
    }
}

/// The end of the second behind one that was due to end at `due` and ends now. The seconds of a run do not
/// drift: each part of a shared run has the same. A run that is late by a second or more skips what is over.
fn following_second(due: Instant, now: Instant) -> Instant {
    let late = now.saturating_duration_since(due);
    due + SECOND + Duration::from_secs(late.as_secs())
}

/// The end of a wait of which one turn took this long. A client that was stopped in a turn has read nothing in it: the
/// turn counts for 100 ms at most.
fn without_stall(give_up_at: Instant, turn: Duration) -> Instant {
    give_up_at + turn.saturating_sub(MAX_LAG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_of_the_client_in_the_drain_does_not_count() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        for (turn_ms, end_ms) in [(2, 2_000), (100, 2_000), (5_000, 6_900)] {
            let end = without_stall(at(2_000), Duration::from_millis(turn_ms));
            assert_eq!(end, at(end_ms), "{turn_ms}");
        }
    }

    #[test]
    fn seconds_do_not_drift_and_those_that_are_over_are_skipped() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        for (due, now, next) in [
            (1_000, 1_000, 2_000),
            (1_000, 1_030, 2_000),
            (2_000, 2_999, 3_000),
            (2_000, 3_000, 4_000),
            (2_000, 5_400, 6_000),
        ] {
            assert_eq!(following_second(at(due), at(now)), at(next), "{now}");
        }
    }
}
