//! Clients of the timers example: each packet of the server comes, and not before its time.

use crate::demo::{self, Verdict};
use crate::{BEAT, CCast, COOLDOWN, IDLE, SBeat, SCast, SGoodbye, SNotYet, SReady};
use server_core::{Context, Kick, Packet, Session};
use std::time::{Duration, Instant};

/// Casts twice, and once more when it may; then it is silent until it is sent away.
pub struct MageBot {
    began: Instant,
    cast_at: Instant,
    beats: u32,
    /// How much of the script it has seen.
    seen: usize,
    verdict: Verdict<u32>,
}

/// What the server has to say, beats left out.
const SCRIPT: [(u16, &str); 6] = [
    (SCast::ID, "cast"),
    (SNotYet::ID, "not yet"),
    (SReady::ID, "ready"),
    (SCast::ID, "cast"),
    (SReady::ID, "ready"),
    (SGoodbye::ID, "goodbye"),
];

/// Both sides look at the clock once a turn, so the other's turn may have begun a little earlier.
const ONE_TURN: Duration = Duration::from_millis(100);

impl MageBot {
    /// `began` is an instant before the connect: the server counts from its accept, which may be earlier than this
    /// call.
    pub fn new(began: Instant, verdict: Verdict<u32>) -> Self {
        Self {
            began,
            cast_at: began,
            beats: 0,
            seen: 0,
            verdict,
        }
    }

    fn cast(&mut self, ctx: &mut Context<'_>) {
        self.cast_at = ctx.now();
        ctx.send_packet(&CCast);
    }

    fn on_beat(&mut self, beat: &SBeat) -> Result<(), Kick> {
        self.beats += 1;
        let is_next = beat.number.get() == self.beats;
        self.verdict.check(is_next, "beats are counted")?;
        let not_before = self.began + BEAT * self.beats;
        let is_in_time = Instant::now() + ONE_TURN >= not_before;
        self.verdict.check(is_in_time, "no beat comes too early")
    }

    fn on_answer(&mut self, ctx: &mut Context<'_>, id: u16) -> Result<(), Kick> {
        let (expected, what) = SCRIPT.get(self.seen).copied().unwrap_or_default();
        let is_expected = id == expected;
        self.verdict
            .check(is_expected, format_args!("a packet {id} is a {what:?}"))?;
        self.seen += 1;
        if self.verdict.bot == 0 {
            let seconds = self.began.elapsed().as_secs_f64();
            demo::say(format_args!(
                "bot 0 after {seconds:.2} s, {} beats: {what}",
                self.beats
            ));
        }
        let waited = self.cast_at.elapsed() + ONE_TURN;
        match id {
            SReady::ID => self.verdict.check(waited >= COOLDOWN, "a cooldown lasts")?,
            SGoodbye::ID => self
                .verdict
                .check(waited >= IDLE, "there is time to think")?,
            _ => {}
        }
        match self.seen {
            3 => self.cast(ctx),
            6 => self.verdict.passed(self.beats),
            _ => {}
        }
        Ok(())
    }
}

impl Session for MageBot {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        self.cast(ctx);
        self.cast(ctx);
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        match packet.id() {
            SBeat::ID => self.on_beat(packet.decode::<SBeat>()?),
            id => self.on_answer(ctx, id),
        }
    }
}

pub fn sum_up(beats: Vec<u32>) -> Result<String, String> {
    let (bots, beats) = (beats.len(), beats.iter().sum::<u32>());
    Ok(format!(
        "{bots} bots, {beats} beats; cooldown, ready and goodbye in order, none too early"
    ))
}
