//! Clients of the echo example: eight requests under way at a time, each answer compared.

use crate::demo::Verdict;
use crate::{CEcho, SEcho};
use server_core::{Context, Kick, Packet, Session};

/// A client that has eight requests under way at a time, and compares each answer.
pub struct EchoBot {
    asked: u64,
    answered: u64,
    verdict: Verdict<u64>,
}

const AT_A_TIME: u64 = 8;
const REQUESTS: u64 = 200;

impl EchoBot {
    pub fn new(verdict: Verdict<u64>) -> Self {
        Self {
            asked: 0,
            answered: 0,
            verdict,
        }
    }

    fn ask(&mut self, ctx: &mut Context<'_>) {
        ctx.send(&CEcho, request(self.asked));
        self.asked += 1;
    }
}

impl Session for EchoBot {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        for _ in 0..AT_A_TIME {
            self.ask(ctx);
        }
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        let bytes = packet.decode::<SEcho>()?;
        let is_next = bytes == request(self.answered).as_bytes();
        self.verdict
            .check(is_next, "each answer is the next request")?;
        self.answered += 1;
        match REQUESTS - self.answered {
            0 => self.verdict.passed(REQUESTS),
            left if left >= AT_A_TIME => self.ask(ctx),
            _ => {} // All are asked.
        }
        Ok(())
    }
}

fn request(number: u64) -> String {
    format!("request {number}")
}

pub fn sum_up(answers: Vec<u64>) -> Result<String, String> {
    let (bots, answers) = (answers.len(), answers.iter().sum::<u64>());
    Ok(format!(
        "{bots} bots, {answers} echoes, each what was sent and in order"
    ))
}
