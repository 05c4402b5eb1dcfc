//! Bots over TCP: they wander, answer a greeting, and check that they see their neighbours and no other player.

use crate::demo::Verdict;
use crate::world::{
    CSay, CStep, Place, SBye, SGone, SHere, SPlayers, SPong, SSaid, SSeen, STEP, SWelcome,
    ZONE_SIZE, ZONES, Zone,
};
use fastrand::Rng;
use server_core::rate_limiter::RateLimiter;
use server_core::{Context, Kick, Packet, Session};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Moves in its home zone. At the end it stops, and compares the players that it sees with the places of the bots.
pub struct Bot {
    phase: Phase,
    rng: Rng,
    home: Zone,
    target: Place,
    /// Its session and its cell, from the welcome on.
    id: u64,
    place: Option<Place>,
    /// Steps that it has sent, and how many of them the server has answered.
    sent: u32,
    answered: u32,
    seen: HashMap<u64, Place>,
    /// Moves of neighbours that it has seen.
    moves_seen: u64,
    play_until: Option<Instant>,
    play: Option<Duration>,
    greeting: Option<&'static str>,
    lines: RateLimiter,
    truth: Arc<Truth>,
    verdict: Verdict<(u32, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Wandering,
    /// Waits for the answers to its steps.
    Stopping,
    /// Its place is final. Waits for the other bots.
    Standing,
    /// Waits for the answer to a last step of no cell: what the server sent before it has arrived then.
    Checking,
}

/// The place of each bot at the end. The bots are in one process, so they share it without a packet.
#[derive(Default)]
pub struct Truth(Mutex<HashMap<u64, Place>>);

const LOOK: Duration = Duration::from_millis(20);
/// How far a bot hears well enough to answer, in cells.
const EARSHOT: u8 = 8;
const GREETINGS: [&str; 4] = [
    "Hello! I am a bot, and I come over TCP.",
    "Hi there. Nice browser you have.",
    "Hello, stranger.",
    "Hey! You move like a human.",
];

impl Bot {
    /// Plays for some time, or without end.
    pub fn new(play: Option<Duration>, truth: Arc<Truth>, verdict: Verdict<(u32, u64)>) -> Self {
        let zones = u16::from(ZONES);
        // One in eight bots lives where new players are. 27 has no factor in common with the number of zones.
        let number = if verdict.bot.is_multiple_of(8) {
            36
        } else {
            verdict.bot * 27 % (zones * zones)
        };
        let home = Zone {
            column: (number % zones) as u8,
            row: (number / zones) as u8,
        };
        Self {
            phase: Phase::Wandering,
            rng: Rng::with_seed(verdict.bot.into()),
            home,
            target: Place { x: 0, y: 0 },
            id: 0,
            place: None,
            sent: 0,
            answered: 0,
            seen: HashMap::new(),
            moves_seen: 0,
            play_until: None,
            play,
            greeting: None,
            lines: RateLimiter::default(),
            truth,
            verdict,
        }
    }

    fn step(&mut self, ctx: &mut Context<'_>, dx: i8, dy: i8) {
        self.sent += 1;
        let number = self.sent.into();
        ctx.send_packet(&CStep { number, dx, dy });
    }

    /// A cell of its home zone.
    fn choose_target(&mut self) {
        let mut near = |zone: u8| zone * ZONE_SIZE + self.rng.u8(..ZONE_SIZE);
        self.target = Place {
            x: near(self.home.column),
            y: near(self.home.row),
        };
    }

    /// Takes a step towards its target. Returns when it takes the next one.
    fn wander(&mut self, ctx: &mut Context<'_>, place: Place) -> Duration {
        let towards = |at: u8, to: u8| (i16::from(to) - i16::from(at)).signum() as i8;
        let (dx, dy) = (
            towards(place.x, self.target.x),
            towards(place.y, self.target.y),
        );
        if (dx, dy) == (0, 0) {
            self.choose_target();
            return Duration::from_millis(self.rng.u64(200..2500));
        }
        self.step(ctx, dx, dy);
        STEP * self.rng.u32(1..=3)
    }

    fn on_welcome(&mut self, ctx: &mut Context<'_>, welcome: &SWelcome) -> Result<(), Kick> {
        let is_first = self.place.is_none();
        self.verdict.check(is_first, "one welcome")?;
        self.id = welcome.you.get();
        self.place = Some(welcome.place);
        self.choose_target();
        self.play_until = self.play.map(|play| ctx.now() + play);
        ctx.set_timer(ctx.now() + STEP);
        Ok(())
    }

    fn on_here(&mut self, here: &SHere) -> Result<(), Kick> {
        self.answered += 1;
        let is_next = here.number.get() == self.answered;
        self.verdict.check(is_next, "each step has one answer")?;
        let (Some(before), place) = (self.place.replace(here.place), here.place) else {
            return self.verdict.check(false, "the welcome is the first packet");
        };
        let is_near = before.x.abs_diff(place.x) <= 1 && before.y.abs_diff(place.y) <= 1;
        self.verdict
            .check(is_near, "a step leads to a cell beside")?;
        let zone = Zone::of(before);
        let is_gone_told = self.seen.values().all(|place| Zone::of(*place).sees(zone));
        self.verdict
            .check(is_gone_told, "a neighbour out of sight is told")?;
        if self.phase == Phase::Checking {
            self.compare()?;
            // It stays: until all bots have compared, each has to be seen.
            self.verdict.passed((self.answered, self.moves_seen));
        }
        Ok(())
    }

    fn on_seen(&mut self, seen: &SSeen) -> Result<(), Kick> {
        let is_other = seen.who.get() != self.id;
        self.verdict
            .check(is_other, "a player is not its own neighbour")?;
        let (mine, zone) = (self.place.map(Zone::of), Zone::of(seen.place));
        let is_near = mine.is_some_and(|mine| mine.sees(zone));
        self.verdict.check(is_near, "only neighbours are seen")?;
        self.moves_seen += 1;
        self.seen.insert(seen.who.get(), seen.place);
        Ok(())
    }

    fn on_gone(&mut self, gone: &SGone) -> Result<(), Kick> {
        let was_seen = self.seen.remove(&gone.who.get()).is_some();
        self.verdict
            .check(was_seen, "only a neighbour goes out of sight")
    }

    fn on_said(&mut self, said: &SSaid, text: &str) -> Result<(), Kick> {
        let who = said.who.get();
        if who == self.id {
            return Ok(());
        }
        let speaker = self.seen.get(&who);
        self.verdict
            .check(speaker.is_some(), "only neighbours are heard")?;
        let hears = |(place, mine): (&Place, Place)| {
            place.x.abs_diff(mine.x).max(place.y.abs_diff(mine.y)) <= EARSHOT
        };
        let is_close = speaker.zip(self.place).is_some_and(hears);
        // A bot greets with a capital letter, and answers a lower-case "hello" alone: bots do not answer bots.
        if is_close && text.starts_with("hello") {
            self.greeting = Some(GREETINGS[self.rng.usize(..GREETINGS.len())]);
        }
        Ok(())
    }

    /// What it sees of the bots has to be what is in its sight.
    fn compare(&mut self) -> Result<(), Kick> {
        let zone = self.place.map(Zone::of);
        let is_near = |place: &Place| zone.is_some_and(|zone| zone.sees(Zone::of(*place)));
        let truth = self.truth.places();
        let expected = truth
            .iter()
            .filter(|(id, place)| **id != self.id && is_near(place));
        let mut is_right = expected
            .clone()
            .all(|(id, place)| self.seen.get(id) == Some(place));
        is_right &= self
            .seen
            .iter()
            .all(|(id, _)| truth.get(id).is_none_or(&is_near));
        let claim = "the bots in sight are seen where they stand";
        drop(truth);
        self.verdict.check(is_right, claim)
    }
}

impl Session for Bot {
    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        match packet.id() {
            SWelcome::ID => self.on_welcome(ctx, packet.decode::<SWelcome>()?),
            SHere::ID => self.on_here(packet.decode::<SHere>()?),
            SSeen::ID => self.on_seen(packet.decode::<SSeen>()?),
            SGone::ID => self.on_gone(packet.decode::<SGone>()?),
            SSaid::ID => {
                let (said, text) = packet.decode::<SSaid>()?;
                self.on_said(said, text)
            }
            SPlayers::ID => packet.decode::<SPlayers>().map(|_| ()),
            SPong::ID => packet.decode::<SPong>().map(|_| ()),
            SBye::ID => self.verdict.check(false, "the server ends no bot"),
            _ => Err(Kick::UnknownId),
        }
    }

    fn on_timer(&mut self, ctx: &mut Context<'_>) {
        let Some(place) = self.place else { return };
        if let Some(greeting) = self.greeting.take()
            && self.lines.take(1, ctx.now())
        {
            ctx.send(&CSay, greeting);
        }
        let mut pause = LOOK;
        match self.phase {
            Phase::Wandering if self.play_until.is_some_and(|until| ctx.now() >= until) => {
                self.phase = Phase::Stopping;
            }
            Phase::Wandering => pause = self.wander(ctx, place),
            Phase::Stopping if self.answered == self.sent => {
                self.truth.places().insert(self.id, place);
                self.phase = Phase::Standing;
            }
            Phase::Standing if self.truth.places().len() == usize::from(self.verdict.bots) => {
                self.phase = Phase::Checking;
                self.step(ctx, 0, 0);
            }
            _ => {}
        }
        ctx.set_timer(ctx.now() + pause);
    }
}

impl Truth {
    fn places(&self) -> MutexGuard<'_, HashMap<u64, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub fn sum_up(found: Vec<(u32, u64)>) -> Result<String, String> {
    let bots = found.len();
    let steps: u64 = found.iter().map(|(steps, _)| u64::from(*steps)).sum();
    let seen: u64 = found.iter().map(|(_, seen)| seen).sum();
    // A bot that is alone in its zones sees no move; all together take steps and see some.
    if steps <= bots as u64 || (bots > 8 && seen == 0) {
        return Err(format!(
            "{bots} bots took {steps} steps and saw {seen} moves"
        ));
    }
    Ok(format!(
        "{bots} bots took {steps} steps, and saw {seen} moves of neighbours, and none of other players"
    ))
}
