//! Clients of the rooms: they walk through all of them, with all their steps sent at once.

use crate::demo::Verdict;
use crate::{CStep, ROOMS, SStep, STEPS};
use server_core::{Context, Kick, Packet, Session};

/// Takes 100 steps, and leaves.
pub struct WalkerBot {
    steps: u32,
    verdict: Verdict<u32>,
}

const GOAL: u32 = 100;

impl WalkerBot {
    pub fn new(verdict: Verdict<u32>) -> Self {
        Self { steps: 0, verdict }
    }
}

impl Session for WalkerBot {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        for _ in 0..GOAL {
            ctx.send_packet(&CStep);
        }
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        let step = packet.decode::<SStep>()?;
        let room = self.steps / STEPS % ROOMS as u32;
        self.steps += 1;
        let is_next = (step.steps.get(), step.room.get()) == (self.steps, room);
        self.verdict
            .check(is_next, "each step is taken once, in order, in its room")?;
        if self.steps == GOAL {
            self.verdict.passed(self.steps);
            ctx.close();
        }
        Ok(())
    }
}

pub fn sum_up(steps: Vec<u32>) -> Result<String, String> {
    let (bots, steps) = (steps.len(), steps.iter().sum::<u32>());
    Ok(format!("{bots} bots, {steps} steps through {ROOMS} rooms"))
}
