//! A run, from its settings to its report.

#[cfg(test)]
mod bot_tests;
mod engine;
mod network;
mod state;
#[cfg(test)]
mod tests;
mod values;
mod watch;
#[cfg(test)]
mod world;

use crate::assertion::{Assertion, Names};
use crate::attack::{Attack, Protocol};
use crate::collector::{Collector, EngineMetrics};
use crate::config::{RunConfig, Share};
use crate::context::{SessionSettings, TextOf, UserSession, UserState};
use crate::error::Error;
use crate::executor::Executor;
use crate::health::ClientMonitor;
use crate::metrics::Registry;
use crate::report::{Progress, Report};
use crate::scenario::{Scenario, UserId};
use crate::transport::{Target, Transport, Trust};
use crossbeam_channel::{Receiver, Sender};
use engine::Engine;
use server_core::host::HostLimits;
use server_core::{Config, Framing, Server, start};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A load test: users of a scenario, for a time, against a server.
///
/// ```no_run
/// # use dummy_client::{Bot, BotContext, Executor, Registry, Run, Scenario, UserId, Violation};
/// # struct MyBot;
/// # impl Bot for MyBot {
/// #     fn on_packet(&mut self, _: &mut BotContext<'_, '_>, _: server_core::Packet<'_>) -> Result<(), Violation> { Ok(()) }
/// # }
/// # struct MyScenario;
/// # impl Scenario for MyScenario {
/// #     type Bot = MyBot;
/// #     fn register(&mut self, metrics: &mut Registry) { metrics.trend("move_rtt", ""); }
/// #     fn bot(&self, _: UserId, _: u64) -> MyBot { MyBot }
/// # }
/// # fn main() -> Result<(), dummy_client::Error> {
/// let report = Run::new(MyScenario)
///     .target("127.0.0.1:7777")?
///     .executor(Executor::constant(100, Some(std::time::Duration::from_secs(10))))
///     .assert("move_rtt_p99<50ms")
///     .run()?;
/// println!("{}", report.to_text());
/// std::process::exit(report.exit_status(false).into());
/// # }
/// ```
pub struct Run<S> {
    scenario: S,
    config: RunConfig,
    assertions: Vec<String>,
    attack: Option<AttackSettings>,
    observer: Option<Box<Observer>>,
    stop: (Sender<()>, Receiver<()>),
}

/// Called once a second.
type Observer = dyn FnMut(&Progress<'_>);

/// An attack beside the users.
struct AttackSettings {
    attack: Arc<dyn Attack>,
    protocol: Arc<dyn Protocol>,
    attackers: usize,
}

/// Ends a run from another thread.
#[derive(Clone, Debug)]
pub struct Stop(Sender<()>);

impl Stop {
    /// The run ends as if its time were up: it waits for answers under way, and reports.
    pub fn stop(&self) {
        // A second call, or one after the end of the run, finds the channel full or closed.
        let _ = self.0.try_send(());
    }
}

/// Time for the sessions to close at the end.
const CLOSE_TIME: Duration = Duration::from_secs(1);
const DEFAULT_USERS: usize = 5;
const DEFAULT_LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

impl<S: Scenario> Run<S> {
    /// A run of 5 users against 127.0.0.1:7777, without an end, with a random seed.
    #[must_use]
    pub fn new(scenario: S) -> Self {
        Self {
            scenario,
            config: RunConfig {
                addrs: SocketAddr::from(([127, 0, 0, 1], 7777)).into(),
                transport: Transport::default(),
                executor: Executor::constant(DEFAULT_USERS, None),
                threads: 1,
                seed: fastrand::u64(..),
                churn: None,
                reconnect: false,
                login_timeout: DEFAULT_LOGIN_TIMEOUT,
                framing: Framing::NATIVE,
                log_sessions: 0,
                share: Share::ALL,
                settings: BTreeMap::new(),
            },
            assertions: Vec::new(),
            attack: None,
            observer: None,
            stop: crossbeam_channel::bounded(1),
        }
    }

    /// All settings at once.
    #[must_use]
    pub fn config(mut self, config: RunConfig) -> Self {
        self.config = config;
        self
    }

    /// The server, `HOST:PORT` or another [`Target`] without TLS.
    ///
    /// # Errors
    /// If the text is not an address, the name has none, or this build lacks the feature.
    pub fn target(self, addr: &str) -> Result<Self, Error> {
        self.target_with(addr.parse().map_err(Error::usage)?, None)
    }

    /// The server, and for TLS the servers that the run trusts.
    ///
    /// # Errors
    /// As of [`Target::transport`].
    pub fn target_with(mut self, target: Target, trust: Option<&Trust>) -> Result<Self, Error> {
        self.config.transport = target.transport(trust)?;
        self.config.addrs = target.addrs().clone();
        Ok(self)
    }

    /// The number of users over time.
    #[must_use]
    pub fn executor(mut self, executor: Executor) -> Self {
        self.config.executor = executor;
        self
    }

    /// The seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.config.seed = seed;
        self
    }

    /// Changes any setting: `run.configure(|config| config.threads = 2)`.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut RunConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// The framing of a server that is not built on `server_core`. Bots see packets of id and payload, whatever
    /// the framing.
    #[must_use]
    pub fn framing(mut self, framing: Framing) -> Self {
        self.config.framing = framing;
        self
    }

    /// Users reconnect after a loss. A loss that is followed by a session within 10 s does not fail the run; it is
    /// in the metrics `outage` and `sessions.reconnected`.
    #[must_use]
    pub fn reconnect(mut self) -> Self {
        self.config.reconnect = true;
        self
    }

    /// What has to hold at the end, for example `move_rtt_p99<50ms`. A wrong expression is an error of
    /// [`run`](Self::run).
    #[must_use]
    pub fn assert(mut self, expression: impl Into<String>) -> Self {
        self.assertions.push(expression.into());
        self
    }

    /// Attackers beside the users. `attackers`: `None` takes the default of the attack.
    #[must_use]
    pub fn attack(
        mut self,
        attack: Arc<dyn Attack>,
        protocol: Arc<dyn Protocol>,
        attackers: Option<usize>,
    ) -> Self {
        self.attack = Some(AttackSettings {
            attackers: attackers.unwrap_or_else(|| attack.default_attackers()),
            attack,
            protocol,
        });
        self
    }

    /// Calls this once a second, on the thread of [`run`](Self::run). A status line on a terminal:
    ///
    /// ```no_run
    /// # fn show(run: dummy_client::Run<dummy_client::Mix>) -> Result<(), dummy_client::Error> {
    /// let line = dummy_client::output::progress::StatusLine::new();
    /// line.begin();
    /// run.observe(move |progress| line.show(&progress.into())).run()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn observe(mut self, observer: impl FnMut(&Progress<'_>) + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// Ends the run from another thread.
    #[must_use]
    pub fn stop_handle(&self) -> Stop {
        Stop(self.stop.0.clone())
    }

    /// Runs until the time is up, [`Stop`], or no user can connect any more, and reports.
    ///
    /// # Errors
    /// If the run could not begin: a setting is wrong, or this machine has no thread or descriptor left.
    pub fn run(self) -> Result<Report, Error> {
        let Self {
            mut scenario,
            mut config,
            assertions,
            attack,
            observer,
            stop,
        } = self;
        let limits = HostLimits::read();
        config.check()?;
        let (registry, engine_metrics) = register(&mut scenario)?;
        let assertions = parse_assertions(&assertions, &registry)?;
        let total_users = config.executor.max_users();
        scenario.check_users(total_users).map_err(Error::usage)?;
        let users = config.share.users(total_users);
        if users == 0 {
            return Err(Error::usage(format!(
                "the share {} has no user, of {total_users} in total",
                config.share
            )));
        }
        let mut settings = config.own_settings(scenario.has_login());
        if let Some(attack) = &attack {
            settings.insert("attack".into(), attack.attack.name().into());
            settings.insert("attackers".into(), attack.attackers.into());
        }
        // A setting of the owner of the run replaces the engine's.
        settings.append(&mut config.settings);
        config.settings = settings;
        network::prefer_accepting(&mut config.addrs);
        let started_at = Instant::now();
        let (collector, events) =
            Collector::new(registry, engine_metrics, users, config.threads, started_at);
        let collector = Arc::new(collector);
        let has_login = scenario.has_login();
        let scenario = Arc::new(scenario);
        let server = start_client(&scenario, &collector, &config, has_login)?;
        let monitor =
            ClientMonitor::start(server.handle(), config.threads).map_err(Error::failure)?;
        log::info!(
            "{users} sessions to {}, seed {}",
            config.transport.name(config.addrs.first()),
            config.seed
        );
        let mut engine = Engine::new(
            &config,
            scenario.name(),
            limits,
            server.handle(),
            Arc::clone(&collector),
            events,
            monitor,
            assertions,
            attack,
            observer,
            started_at,
        );
        engine.run(&stop.1);
        engine.drain();
        server.handle().shutdown(CLOSE_TIME);
        server
            .join()
            .map_err(|error| Error::failure(start::failed("a thread failed", error)))?;
        // The event loops have ended: no counter changes any more.
        Ok(engine.into_report())
    }
}

/// The metrics of the engine and of a scenario.
fn register(scenario: &mut impl Scenario) -> Result<(Registry, EngineMetrics), Error> {
    let mut registry = Registry::default();
    // Behind `packets_received`, the reader of a report looks for the scenario's own metrics.
    let metrics = EngineMetrics::register(&mut registry, scenario.has_login());
    scenario.register(&mut registry);
    registry.check_names()?;
    Ok((registry, metrics))
}

/// The assertions of a scenario, to check an expression before the run.
///
/// # Errors
/// If the metrics of the scenario or one of the expressions are wrong.
pub fn check_assertions(scenario: &mut impl Scenario, expressions: &[String]) -> Result<(), Error> {
    let (registry, _) = register(scenario)?;
    parse_assertions(expressions, &registry).map(|_| ())
}

fn parse_assertions(expressions: &[String], registry: &Registry) -> Result<Vec<Assertion>, Error> {
    let names = Names::new(registry);
    let parsed = expressions
        .iter()
        .map(|text| Assertion::parse(text, &names).map_err(Error::usage));
    parsed.collect()
}

fn start_client<S: Scenario>(
    scenario: &Arc<S>,
    collector: &Arc<Collector>,
    config: &RunConfig,
    has_login: bool,
) -> Result<Server, Error> {
    let settings = SessionSettings {
        log_sessions: config.log_sessions,
        login_timeout: has_login.then_some(config.login_timeout),
        reconnects: config.reconnect,
    };
    let (seed, share) = (config.seed, config.share);
    let texts = Arc::clone(scenario);
    let text_of: Arc<TextOf> = Arc::new(move |packet| texts.text(packet));
    let (scenario, collector) = (Arc::clone(scenario), Arc::clone(collector));
    let builder = Server::builder()
        .config(client_config(config.threads))
        .client_framing(config.framing);
    let started = config.transport.apply(builder).start_client(move |peer| {
        let index = peer.tag.unwrap_or_default() as usize;
        let user = UserId(share.global(index));
        let seed = seed_of(seed, user, collector.connection_number(index));
        UserSession {
            bot: scenario.bot(user, seed),
            user: UserState::new(
                Arc::clone(&collector),
                user,
                index,
                peer.id.worker(),
                seed,
                &settings,
            ),
            text_of: Arc::clone(&text_of),
        }
    });
    started.map_err(Error::failure)
}

/// The seed of one connection of one user.
fn seed_of(seed: u64, user: UserId, connection: u32) -> u64 {
    let user = (user.0 as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let connection = u64::from(connection).wrapping_mul(0xd1b5_4a32_d192_ed03);
    // The generator spreads seeds that differ by little.
    fastrand::Rng::with_seed(seed ^ user ^ connection.rotate_left(17)).u64(..)
}

/// The limits of a load client: the server is tested, not this side.
fn client_config(threads: usize) -> Config {
    let mut config = Config::default();
    config.workers = threads;
    config.max_send_queue_bytes = 64 << 20;
    config.max_send_lag = None;
    config.packet_timeout = None;
    config.flush_timeout = CLOSE_TIME;
    config
}

impl<S: Scenario> fmt::Debug for Run<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("scenario", &self.scenario.name())
            .field("config", &self.config)
            .field("assertions", &self.assertions)
            .finish_non_exhaustive()
    }
}
