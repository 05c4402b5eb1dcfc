//! A run with an attack in it: first the healthy sessions alone, then the same ones beside attackers.

use super::neighbours::{Neighbours, NeighboursReport};
use super::newcomers::{Newcomers, NewcomersReport};
use super::plan::Attack;
use super::squad::{Squad, Tally};
use crate::measure::meter::quantile_ms;
use crate::measure::recorder::Micros;
use schemars::JsonSchema;
use serde::Serialize;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// When the attack begins, and what was measured before.
#[derive(Debug)]
pub struct Siege {
    attack: Attack,
    attackers: usize,
    /// How long the healthy sessions are measured alone.
    calm: Duration,
    phase: Phase,
    calm_delays: Delays,
    neighbours: Option<Neighbours>,
    newcomers: Option<Newcomers>,
}

#[derive(Debug)]
enum Phase {
    /// The healthy sessions are being opened.
    Filling {
        until: Instant,
    },
    /// They stand, and what came while they were opened is being judged.
    Settling {
        until: Instant,
    },
    /// They are measured alone.
    Calm {
        until: Instant,
    },
    Attack {
        since: Instant,
        squad: Squad,
    },
    Over,
}

/// What the siege wants of its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Nothing,
    /// The healthy sessions are complete: to connect the neighbours.
    Neighbours,
    /// To measure from now on.
    Window,
    /// To be told what was measured, and to begin the attack then.
    Attack,
}

/// What an attack has done to the healthy sessions, and what became of the attackers.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Besieged {
    pub name: String,
    pub attackers: usize,
    /// How long it lasted; 0 if the run was over before it began.
    pub elapsed_secs: f64,
    /// How long it has to last before an attacker that is not kicked counts as such.
    pub patience_secs: f64,
    /// How late ticks were before it.
    pub before: Delays,
    /// How late they were while it went on.
    pub during: Delays,
    /// By how much the 99th percentile rose; `null` if there was nothing to compare.
    pub tick_delay_p99_rise_ms: Option<f64>,
    pub tally: Tally,
    /// Healthy sessions that read every 10, 20, 33 or 50 ms, from before the attack to its end.
    pub neighbours: NeighboursReport,
    /// Sessions that come under an attack that takes the places; `null` in other attacks.
    pub newcomers: Option<NewcomersReport>,
}

/// How late ticks were.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
pub struct Delays {
    pub count: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

const MAX_FILL: Duration = Duration::from_secs(20);
/// Ticks are judged when a few more have come.
const SETTLE: Duration = Duration::from_secs(2);
/// How long the healthy are measured alone: a third of the run, within these.
const CALM: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
const DEFAULT_CALM: Duration = Duration::from_secs(5);

impl Siege {
    /// An attack that begins when the healthy sessions have been measured alone.
    pub fn new(attack: Attack, attackers: usize, duration: Option<Duration>, now: Instant) -> Self {
        let calm = duration.map_or(DEFAULT_CALM, |all| (all / 3).clamp(CALM.0, CALM.1));
        Self {
            attack,
            attackers,
            calm,
            phase: Phase::Filling {
                until: now + MAX_FILL,
            },
            calm_delays: Delays::default(),
            neighbours: None,
            newcomers: None,
        }
    }

    /// Goes on as far as the time allows; `is_full`: all healthy sessions stand.
    pub fn poll(&mut self, is_full: bool, now: Instant) -> Want {
        match self.phase {
            Phase::Filling { until } if is_full || until <= now => {
                self.phase = Phase::Settling {
                    until: now + SETTLE,
                };
                Want::Neighbours
            }
            Phase::Settling { until } if until <= now => {
                self.phase = Phase::Calm {
                    until: now + self.calm,
                };
                Want::Window
            }
            Phase::Calm { until } if until <= now => Want::Attack,
            _ => Want::Nothing,
        }
    }

    /// When to poll again at the latest.
    pub fn next_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Filling { until } | Phase::Settling { until } | Phase::Calm { until } => {
                Some(until)
            }
            Phase::Attack { .. } | Phase::Over => None,
        }
    }

    /// Connects the neighbours.
    ///
    /// # Errors
    /// If there is no thread left for them.
    pub fn begin_neighbours(&mut self, target: SocketAddr) -> io::Result<()> {
        self.neighbours = Some(Neighbours::begin(target)?);
        Ok(())
    }

    /// Begins the attack; `delays` are those of the calm before it.
    ///
    /// # Errors
    /// If there is no descriptor or thread left for it.
    pub fn begin(
        &mut self,
        delays: &Micros,
        target: SocketAddr,
        seed: u64,
        now: Instant,
    ) -> io::Result<()> {
        self.calm_delays = delays.into();
        self.phase = Phase::Over;
        let squad = Squad::begin(self.attack, self.attackers, target, seed)?;
        self.phase = Phase::Attack { since: now, squad };
        if self.attack.takes_places() {
            self.newcomers = Some(Newcomers::begin(target)?);
        }
        let (attackers, name) = (self.attackers, self.attack.name());
        log::info!("{attackers} attackers begin: {name}");
        Ok(())
    }

    /// Ends the attack. What it did to the healthy sessions is still to come.
    ///
    /// # Errors
    /// If the attackers have failed.
    pub fn end(&mut self, now: Instant) -> io::Result<Besieged> {
        let mut besieged = Besieged {
            name: self.attack.name(),
            attackers: self.attackers,
            patience_secs: self.attack.patience().as_secs_f64(),
            before: self.calm_delays,
            ..Besieged::default()
        };
        if let Phase::Attack { since, squad } = std::mem::replace(&mut self.phase, Phase::Over) {
            besieged.elapsed_secs = now.duration_since(since).as_secs_f64();
            // First of all: a newcomer is served by a server that is attacked.
            if let Some(newcomers) = self.newcomers.take() {
                besieged.newcomers = Some(newcomers.end()?);
            }
            besieged.tally = squad.end()?;
        }
        if let Some(neighbours) = self.neighbours.take() {
            besieged.neighbours = neighbours.end()?;
        }
        Ok(besieged)
    }
}

impl Besieged {
    /// Adds how late ticks were while the attack went on.
    pub fn with_delays(mut self, delays: &Micros) -> Self {
        if self.elapsed_secs > 0.0 {
            self.during = delays.into();
        }
        let is_comparable = self.before.count > 0 && self.during.count > 0;
        self.tick_delay_p99_rise_ms =
            is_comparable.then_some(self.during.p99_ms - self.before.p99_ms);
        self
    }
}

impl Tally {
    /// Whether the server has had to show what it does about an attacker.
    pub fn is_telling(&self) -> bool {
        let ended = self.ended_without_reason + self.not_kicked;
        self.undecided == 0 && (ended > 0 || !self.kicked.is_empty())
    }
}

impl From<&Micros> for Delays {
    fn from(delays: &Micros) -> Self {
        Self {
            count: delays.len(),
            p50_ms: quantile_ms(delays, 0.5),
            p99_ms: quantile_ms(delays, 0.99),
            max_ms: quantile_ms(delays, 1.0),
        }
    }
}
