//! Clients of the zones: each step of a neighbour is seen once, and no step of another player.

use crate::demo::{self, Verdict};
use crate::{CMove, Place, SGone, SHere, SMoved, ZONE_SIZE, ZONES, Zone};
use server_core::{Context, Kick, Packet, Session};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Goes to a zone with a friend, waits until all bots have arrived, and takes some steps within the zone. The
/// bot has to see each step of each neighbour once, and no step of another player. When all bots have seen
/// their steps, they go elsewhere.
pub struct Walker {
    round: u16,
    phase: Phase,
    /// How many moves the server has confirmed.
    moves: u32,
    /// How many neighbours it has in this round.
    neighbours: u32,
    /// How many steps it has seen of each of them in this round, and of all in all rounds.
    seen: HashMap<u64, u32>,
    seen_in_all: u32,
    gates: Arc<Gates>,
    verdict: Verdict<u32>,
}

#[derive(PartialEq, Eq)]
enum Phase {
    Walking,
    WaitingToDance,
    Dancing,
    WaitingToWalk,
}

/// How many bots have come to the start and to the end of each dance. They are in one process, so
/// they can wait for each other without a packet.
#[derive(Default)]
pub struct Gates {
    starts: [AtomicU16; ROUNDS as usize],
    ends: [AtomicU16; ROUNDS as usize],
}

const ROUNDS: u16 = 8;
const DANCE_STEPS: u32 = 10;
/// The one that leads there included.
const MOVES_IN_ROUND: u32 = 1 + DANCE_STEPS;
const LOOK: Duration = Duration::from_millis(2);

/// Where a bot dances in a round. Friends, 2n and 2n + 1, are side by side or together.
fn dance_floor(bot: u16, round: u16) -> Zone {
    let zones = u16::from(ZONES);
    let zone = (bot / 2 * 27 + round * 11) % (zones * zones);
    Zone {
        column: (zone % zones + bot % 2).min(zones - 1) as u8,
        row: (zone / zones) as u8,
    }
}

impl Zone {
    fn sees(self, zone: Self) -> bool {
        self.around().any(|near| near == zone)
    }
}

impl Walker {
    pub fn new(gates: Arc<Gates>, verdict: Verdict<u32>) -> Self {
        Self {
            round: 0,
            phase: Phase::Walking,
            moves: 0,
            neighbours: 0,
            seen: HashMap::new(),
            seen_in_all: 0,
            gates,
            verdict,
        }
    }

    /// Asks for a place in the zone of this round.
    fn step_to(&self, ctx: &mut Context<'_>, dance_step: u32) {
        let zone = dance_floor(self.verdict.bot, self.round);
        let x = zone.column * ZONE_SIZE + (dance_step % 2) as u8;
        let y = zone.row * ZONE_SIZE + dance_step as u8;
        ctx.send_packet(&CMove { to: Place { x, y } });
    }

    /// Whether it may hear of this zone: on its way, of those around the last place as well.
    fn may_see(&self, zone: Zone) -> bool {
        let is_walking = self.phase == Phase::Walking;
        let first = self.round.saturating_sub(u16::from(is_walking));
        (first..=self.round).any(|round| dance_floor(self.verdict.bot, round).sees(zone))
    }

    /// Goes to the dance floor of this round.
    fn walk(&mut self, ctx: &mut Context<'_>) {
        let mine = dance_floor(self.verdict.bot, self.round);
        let is_seen = |bot: &u16| mine.sees(dance_floor(*bot, self.round));
        self.neighbours = (0..self.verdict.bots).filter(is_seen).count() as u32 - 1; // Itself.
        self.seen.clear();
        self.phase = Phase::Walking;
        self.step_to(ctx, 0);
    }

    fn tell_of_round(&self) {
        let (round, neighbours) = (self.round + 1, self.neighbours);
        let others = u32::from(self.verdict.bots) - 1 - neighbours;
        demo::say(format_args!(
            "round {round}: bot 0 saw {DANCE_STEPS} steps of each of {neighbours} neighbours, and none of {others} others"
        ));
    }

    fn on_here(&mut self, here: &SHere) -> Result<(), Kick> {
        self.moves += 1;
        let is_next = here.moves.get() == self.moves;
        self.verdict.check(is_next, "each move is confirmed")?;
        if self.phase == Phase::Walking {
            self.gates.starts[usize::from(self.round)].fetch_add(1, Ordering::Relaxed);
            self.phase = Phase::WaitingToDance;
        }
        Ok(())
    }

    fn on_moved(&mut self, moved: &SMoved) -> Result<(), Kick> {
        let is_near = self.may_see(Zone::of(moved.to));
        self.verdict.check(is_near, "only neighbours are seen")?;
        let moves_before = moved.moves.get().saturating_sub(1);
        let (round, dance_step) = (moves_before / MOVES_IN_ROUND, moves_before % MOVES_IN_ROUND);
        if dance_step > 0 {
            let seen = self.seen.entry(moved.who.get()).or_default();
            let is_next = round == u32::from(self.round) && dance_step == *seen + 1;
            *seen = dance_step;
            self.seen_in_all += 1;
            self.verdict
                .check(is_next, "each step of a neighbour is seen once")?;
        }
        Ok(())
    }

    fn go_on(&mut self, ctx: &mut Context<'_>) {
        let round = usize::from(self.round);
        let is_full = |gate: &AtomicU16| gate.load(Ordering::Relaxed) == self.verdict.bots;
        match self.phase {
            Phase::WaitingToDance if is_full(&self.gates.starts[round]) => {
                self.phase = Phase::Dancing;
                (1..=DANCE_STEPS).for_each(|step| self.step_to(ctx, step));
            }
            Phase::Dancing if self.has_danced() => {
                self.phase = Phase::WaitingToWalk;
                self.gates.ends[round].fetch_add(1, Ordering::Relaxed);
                if self.verdict.bot == 0 {
                    self.tell_of_round();
                }
            }
            Phase::WaitingToWalk if is_full(&self.gates.ends[round]) => {
                self.round += 1;
                if self.round == ROUNDS {
                    self.verdict.passed(self.seen_in_all);
                    return ctx.close();
                }
                self.walk(ctx);
            }
            _ => {}
        }
        if matches!(self.phase, Phase::WaitingToDance | Phase::WaitingToWalk) {
            ctx.set_timer(ctx.now() + LOOK);
        }
    }

    /// Whether it has made all of its steps, and seen all of its neighbours'.
    fn has_danced(&self) -> bool {
        let has_made_all = self.moves == MOVES_IN_ROUND * u32::from(self.round + 1);
        let is_complete = |steps: &u32| *steps == DANCE_STEPS;
        has_made_all
            && self.seen.len() == self.neighbours as usize
            && self.seen.values().all(is_complete)
    }
}

impl Session for Walker {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        self.walk(ctx);
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        match packet.id() {
            SHere::ID => self.on_here(packet.decode::<SHere>()?)?,
            SMoved::ID => self.on_moved(packet.decode::<SMoved>()?)?,
            _ => _ = packet.decode::<SGone>()?,
        }
        self.go_on(ctx);
        Ok(())
    }

    fn on_timer(&mut self, ctx: &mut Context<'_>) {
        self.go_on(ctx);
    }
}

pub fn sum_up(seen: Vec<u32>) -> Result<String, String> {
    let bots = seen.len() as u64;
    let told = seen.into_iter().map(u64::from).sum::<u64>();
    let to_all = bots * (bots - 1) * u64::from(DANCE_STEPS) * u64::from(ROUNDS);
    let saved = 100.0 * (to_all - told) as f64 / to_all.max(1) as f64;
    Ok(format!(
        "{bots} bots; their steps were {told} packets to neighbours, and to all had been {to_all}: \
         {saved:.0} % saved"
    ))
}
