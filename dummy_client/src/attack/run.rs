//! A run with an attack: first the healthy sessions alone, then beside the attackers.

use super::newcomers::Newcomers;
use super::protocol::Protocol;
use super::readers::Neighbours;
use super::report::{AttackReport, Delays};
use super::runner::AttackRunner;
use super::script::Attack;
use crate::executor::windowed::{Occupancy, Transition, WindowedRun};
use crate::metrics::Histogram;
use crate::transport::Transport;
use fastrand::Rng;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An attack run: when the attack begins, and what was measured before.
pub struct AttackRun {
    attack: Arc<dyn Attack>,
    protocol: Arc<dyn Protocol>,
    attackers: usize,
    target: SocketAddr,
    transport: Transport,
    windows: WindowedRun,
    baseline: Delays,
    runner: Option<(Instant, AttackRunner)>,
    neighbours: Option<Neighbours>,
    newcomers: Option<Newcomers>,
}

/// What the owner of an attack run does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttackAction {
    /// Nothing.
    None,
    /// The healthy sessions are connected: call [`AttackRun::connect_neighbours`].
    ConnectNeighbours,
    /// Measure the baseline from now on.
    BeginBaseline,
    /// End the window of the baseline, call [`AttackRun::begin`], and begin the next window.
    BeginAttack,
}

const MAX_RAMP_UP: Duration = Duration::from_secs(20);
/// The analysis of a tick needs some ticks after it.
const WARM_UP: Duration = Duration::from_secs(2);
/// The baseline is a third of the run, within these bounds.
const BASELINE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// The baseline of a run without a duration.
const DEFAULT_BASELINE: Duration = Duration::from_secs(5);

impl AttackRun {
    /// An attack on `target` that begins behind the baseline. `duration`: that of the whole run, if it has one.
    #[must_use]
    pub fn new(
        attack: Arc<dyn Attack>,
        protocol: Arc<dyn Protocol>,
        attackers: usize,
        target: SocketAddr,
        transport: Transport,
        duration: Option<Duration>,
        now: Instant,
    ) -> Self {
        let baseline = duration.map_or(DEFAULT_BASELINE, |all| {
            (all / 3).clamp(BASELINE.0, BASELINE.1)
        });
        Self {
            attack,
            protocol,
            attackers,
            target,
            transport,
            windows: WindowedRun::new(MAX_RAMP_UP, baseline, now),
            baseline: Delays::default(),
            runner: None,
            neighbours: None,
            newcomers: None,
        }
    }

    /// Goes on as far as the time allows. `is_full`: all healthy sessions are connected.
    pub fn poll(&mut self, is_full: bool, now: Instant) -> AttackAction {
        let occupancy = if is_full {
            Occupancy::Full
        } else {
            Occupancy::Partial
        };
        match self.windows.poll(occupancy, WARM_UP, now) {
            Transition::None => AttackAction::None,
            Transition::WarmUp => AttackAction::ConnectNeighbours,
            Transition::Measure => AttackAction::BeginBaseline,
            Transition::Evaluate => AttackAction::BeginAttack,
        }
    }

    /// The latest time of the next [`poll`](Self::poll). `None`: the attack lasts to the end of the run.
    #[must_use]
    pub fn next_at(&self) -> Option<Instant> {
        self.windows.next_at()
    }

    /// The address that the run has taken, of several.
    pub fn set_target(&mut self, target: SocketAddr) {
        self.target = target;
    }

    /// Connects the neighbours.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub fn connect_neighbours(&mut self) -> io::Result<()> {
        let (transport, protocol) = (self.transport.clone(), Arc::clone(&self.protocol));
        self.neighbours = Some(Neighbours::start(self.target, transport, protocol)?);
        Ok(())
    }

    /// Begins the attack. `baseline`: the tick delays before it, in microseconds. `seed`: that of the scripts.
    ///
    /// # Errors
    /// If the system has no descriptor or thread left.
    pub fn begin(&mut self, baseline: &Histogram, seed: u64, now: Instant) -> io::Result<()> {
        self.baseline = baseline.into();
        self.windows.measure_to_end();
        let (attack, protocol) = (Arc::clone(&self.attack), Arc::clone(&self.protocol));
        let target = (self.target, self.transport.clone());
        let runner = AttackRunner::start(attack, protocol, self.attackers, target, seed)?;
        self.runner = Some((now, runner));
        if self.attack.takes_places() {
            let (transport, protocol) = (self.transport.clone(), Arc::clone(&self.protocol));
            self.newcomers = Some(Newcomers::start(self.target, transport, protocol)?);
        }
        log::info!(
            "attack {}: {} attackers",
            self.attack.name(),
            self.attackers
        );
        Ok(())
    }

    /// Ends the attack. The report has no tick delays yet: see [`AttackReport::with_delays`].
    ///
    /// # Errors
    /// If a thread of the attack has failed.
    pub fn end(&mut self, now: Instant) -> io::Result<AttackReport> {
        let script = self.attack.script(0, &mut Rng::with_seed(0));
        let mut report = AttackReport {
            name: self.attack.name().into(),
            attackers: self.attackers,
            timeout_secs: script.min_duration().as_secs_f64(),
            baseline: self.baseline,
            ..AttackReport::default()
        };
        if let Some((since, runner)) = self.runner.take() {
            report.elapsed_secs = now.saturating_duration_since(since).as_secs_f64();
            // First: newcomers are measured under the attack.
            report.newcomers = self.newcomers.take().map(Newcomers::end).transpose()?;
            report.stats = runner.end()?;
        }
        if let Some(neighbours) = self.neighbours.take() {
            report.neighbours = neighbours.end()?;
        }
        Ok(report)
    }
}

impl fmt::Debug for AttackRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttackRun")
            .field("attack", &self.attack.name())
            .field("attackers", &self.attackers)
            .field("target", &self.target)
            .field("windows", &self.windows)
            .finish_non_exhaustive()
    }
}
