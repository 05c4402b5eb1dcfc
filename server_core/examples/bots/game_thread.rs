//! Clients of the game thread: more steps at once than a tick takes, and each has to be taken once.

use crate::demo::Verdict;
use crate::{CStep, SRace, SYou};
use server_core::{Context, Kick, Packet, Session};

/// Runs 500 steps, all at once, and leaves. Bot 0 leaves last.
pub struct RunnerBot {
    /// The steps that the game has taken.
    steps: u32,
    ticks_since_step: u32,
    ticks_with_a_step: u32,
    last_tick: Option<u64>,
    verdict: Verdict<u32>,
}

const GOAL: u32 = 500;
/// A step that is taken twice would show by then.
const TICKS_OF_REST: u32 = 3;

impl RunnerBot {
    pub fn new(verdict: Verdict<u32>) -> Self {
        Self {
            steps: 0,
            ticks_since_step: 0,
            ticks_with_a_step: 0,
            last_tick: None,
            verdict,
        }
    }

    fn on_race(&mut self, ctx: &mut Context<'_>, race: &SRace) -> Result<(), Kick> {
        let tick = race.tick.get();
        let is_next = self.last_tick.is_none_or(|last| tick == last + 1);
        self.verdict.check(is_next, "each tick comes once")?;
        self.last_tick = Some(tick);
        self.ticks_since_step += 1;
        let may_leave = self.verdict.bot != 0 || race.runners.get() == 1;
        if self.steps == GOAL && self.ticks_since_step >= TICKS_OF_REST && may_leave {
            self.verdict.passed(self.ticks_with_a_step);
            ctx.close();
        }
        Ok(())
    }

    fn on_you(&mut self, you: &SYou) -> Result<(), Kick> {
        self.steps = you.steps.get();
        self.ticks_since_step = 0;
        self.ticks_with_a_step += 1;
        self.verdict
            .check(self.steps <= GOAL, "no step is taken twice")
    }
}

impl Session for RunnerBot {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        for _ in 0..GOAL {
            ctx.send_packet(&CStep);
        }
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        match packet.id() {
            SYou::ID => self.on_you(packet.decode::<SYou>()?),
            _ => self.on_race(ctx, packet.decode::<SRace>()?),
        }
    }
}

pub fn sum_up(ticks: Vec<u32>) -> Result<String, String> {
    let (bots, fewest) = (ticks.len(), ticks.iter().min().copied().unwrap_or_default());
    // A tick takes 32 steps of a player.
    let needed = GOAL.div_ceil(32);
    if fewest < needed {
        return Err(format!("{GOAL} steps in {fewest} ticks of a share of 32"));
    }
    Ok(format!(
        "{bots} bots, {GOAL} steps each, in {fewest} ticks or more, each taken once, no ghosts"
    ))
}
