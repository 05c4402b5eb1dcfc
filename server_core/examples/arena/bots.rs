//! Clients of the arena: they log in, get the world, enter a room and move, until the server ends.

use crate::demo::Verdict;
use crate::game::{CEnter, CLogin, CMove, SBye, SSnapshot, SWelcome, SWorld, WORLD_BYTES};
use server_core::{Context, DisconnectReason, Kick, Packet, Session};
use std::time::{Duration, Instant};

pub struct ArenaBot {
    verdict: Verdict<Found>,
    started: Instant,
    me: u32,
    world_bytes: usize,
    last_tick: Option<u64>,
    found: Found,
}

/// What one bot has seen.
#[derive(Default)]
pub struct Found {
    snapshots: u64,
    lost: u64,
    /// From the start to the end of the world.
    world_after: Duration,
    /// The arrival of each snapshot since the bot has its world, from the start, and its time from the tick to the bot,
    /// in microseconds.
    delays: Vec<(Duration, u32)>,
}

/// About as many players share a room.
const PLAYERS_PER_ROOM: u16 = 50;
const STEP: Duration = Duration::from_millis(100);

impl ArenaBot {
    pub fn new(started: Instant, verdict: Verdict<Found>) -> Self {
        Self {
            verdict,
            started,
            me: 0,
            world_bytes: 0,
            last_tick: None,
            found: Found::default(),
        }
    }

    fn on_snapshot(&mut self, snapshot: &SSnapshot<'_>) -> Result<(), Kick> {
        let now = self.started.elapsed();
        let lost = self
            .last_tick
            .map_or(0, |last| snapshot.tick.saturating_sub(last + 1));
        self.last_tick = Some(snapshot.tick);
        self.found.lost += lost;
        self.found.snapshots += 1;
        if self.world_bytes == WORLD_BYTES {
            let delay = (now.as_micros() as u64).saturating_sub(snapshot.sent_micros);
            self.found.delays.push((now, delay as u32));
        }
        let is_in = snapshot.players.iter().any(|spot| spot.player() == self.me);
        self.verdict
            .check(is_in, "a snapshot of the own room has the own place")
    }

    fn on_world(&mut self, piece: &[u8]) -> Result<(), Kick> {
        self.world_bytes += piece.len();
        if self.world_bytes == WORLD_BYTES {
            self.found.world_after = self.started.elapsed();
        }
        self.verdict
            .check(self.world_bytes <= WORLD_BYTES, "the world comes once")
    }

    fn on_bye(&mut self, bye: &SBye, text: &str) -> Result<(), Kick> {
        let is_end = Some(bye.code()) == DisconnectReason::Shutdown.code();
        self.verdict
            .check(is_end, format_args!("the server ends in order: {text}"))?;
        self.verdict
            .check(self.world_bytes == WORLD_BYTES, "the world has come")?;
        self.verdict.passed(std::mem::take(&mut self.found));
        Ok(())
    }
}

impl Session for ArenaBot {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        let name = format!("bot {}", self.verdict.bot);
        ctx.send_packet(&CLogin {
            name: &name,
            token: 0,
        });
        let room = self.verdict.bot % self.verdict.bots.div_ceil(PLAYERS_PER_ROOM);
        ctx.send_packet(&CEnter::new(room));
        // Players do not move at the same instant.
        ctx.set_timer(ctx.now() + STEP.mul_f64(fastrand::f64()));
    }

    fn on_packet(&mut self, _: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        match packet.id() {
            SWelcome::ID => {
                self.me = packet.decode::<SWelcome>()?.you();
                Ok(())
            }
            SWorld::ID => self.on_world(packet.decode::<SWorld>()?),
            SBye::ID => {
                let (bye, text) = packet.decode::<SBye>()?;
                self.on_bye(bye, text)
            }
            _ => self.on_snapshot(&packet.decode::<SSnapshot<'_>>()?),
        }
    }

    fn on_timer(&mut self, ctx: &mut Context<'_>) {
        let (dx, dy) = (fastrand::i8(-4..=4), fastrand::i8(-4..=4));
        ctx.send_packet(&CMove::new(dx, dy));
        ctx.set_timer(ctx.now() + STEP);
    }
}

pub fn sum_up(found: Vec<Found>) -> Result<String, String> {
    let (snapshots, lost) = found.iter().fold((0, 0), |(snapshots, lost), one| {
        (snapshots + one.snapshots, lost + one.lost)
    });
    let last_world = found
        .iter()
        .map(|one| one.world_after)
        .max()
        .unwrap_or_default();
    let (steady, loading) = found
        .iter()
        .flat_map(|one| &one.delays)
        .partition(|(at, _)| *at > last_world);
    let summary = format!(
        "{} bots, {snapshots} snapshots, {lost} lost; the last world after {:.1} s; delay until then {}, afterwards {}",
        found.len(),
        last_world.as_secs_f64(),
        delays(loading),
        delays(steady),
    );
    if lost > 0 || found.iter().all(|one| one.delays.is_empty()) {
        return Err(summary);
    }
    Ok(summary)
}

fn delays(of: Vec<&(Duration, u32)>) -> String {
    let mut delays: Vec<u32> = of.into_iter().map(|(_, delay)| *delay).collect();
    delays.sort_unstable();
    let part = |thousandths: usize| {
        let delay = delays.get(delays.len() * thousandths / 1000);
        delay.map_or("-".into(), |delay| {
            format!("{:.1}", f64::from(*delay) / 1e3)
        })
    };
    format!("p50 {} ms, p99 {} ms", part(500), part(990))
}
