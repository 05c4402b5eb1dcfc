//! Clients of the game thread: more steps at once than fit, and each has to be taken once.

use crate::demo::Verdict;
use crate::{CStep, SBusy, SRace, SYou};
use server_core::{Context, Kick, Packet, Session};

/// Runs 500 steps, all at once, repeats those that were refused, and leaves. Bot 0 leaves last.
pub struct RunnerBot {
    /// The steps that the game has taken.
    steps: u32,
    ticks_since_step: u32,
    refused: u32,
    to_repeat: u32,
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
            refused: 0,
            to_repeat: GOAL,
            last_tick: None,
            verdict,
        }
    }

    fn run(&mut self, ctx: &mut Context<'_>) {
        for _ in 0..std::mem::take(&mut self.to_repeat) {
            ctx.send_packet(&CStep);
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
            self.verdict.passed(self.refused);
            ctx.close();
        }
        self.run(ctx);
        Ok(())
    }

    fn on_you(&mut self, you: &SYou) -> Result<(), Kick> {
        self.steps = you.steps.get();
        self.ticks_since_step = 0;
        self.verdict
            .check(self.steps <= GOAL, "no step is taken twice")
    }
}

impl Session for RunnerBot {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        self.run(ctx);
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        match packet.id() {
            SBusy::ID => {
                self.refused += 1;
                self.to_repeat += 1;
                Ok(())
            }
            SYou::ID => self.on_you(packet.decode::<SYou>()?),
            _ => self.on_race(ctx, packet.decode::<SRace>()?),
        }
    }
}

pub fn sum_up(refused: Vec<u32>) -> Result<String, String> {
    let (bots, refused) = (refused.len(), refused.iter().sum::<u32>());
    Ok(format!(
        "{bots} bots, {GOAL} steps each, {refused} refused and repeated, each taken once, no ghosts"
    ))
}
