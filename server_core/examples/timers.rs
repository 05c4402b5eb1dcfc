//! Timers: one session with three deadlines: a heartbeat, a cooldown, a goodbye to who is silent.
//!
//! ```text
//!  client   CCast CCast           CCast
//!             |     |               |
//!  server   SCast SNotYet   SReady SCast     SReady                          SGoodbye, closed
//!             |<-- cooldown -->|    |<-- cooldown -->|                            |
//!                                   |<------------------- idle ------------------>|
//!  SBeat    ......|.......|.......|.......|.......|.......|.......|.......|.......|
//! ```
//!
//! ```sh
//! cargo run -p server_core --example timers -- --bots 5    # three seconds; bot 0 tells what it sees
//! cargo run -p server_core --example timers                # serve; the packets are in the table below
//! ```
//!
//! A session has one timer, [`Context::set_timer`], and no thread waits for it. Several deadlines are
//! several fields; the timer is set to the earliest of them, and whatever is due then is done.

mod demo;

use demo::{Args, Bots, Verdict};
use server_core::{Context, Handlers, Kick, Packet, Server, Session};
use std::io;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

server_core::packets! {
    /// Cast the spell.
    client 1 => CCast;
    /// It is cast.
    server 2 => SCast;
    /// It is too early.
    server 3 => SNotYet { remaining_ms: u32 };
    /// It can be cast again.
    server 4 => SReady;
    /// The server lives. 1 for the first one, and one more for each.
    server 5 => SBeat { number: u32 };
    /// The last packet, for who has been silent for too long.
    server 6 => SGoodbye + text;
}

const BEAT: Duration = Duration::from_millis(200);
const COOLDOWN: Duration = Duration::from_millis(500);
const IDLE: Duration = Duration::from_millis(2000);

fn main() -> io::Result<ExitCode> {
    let args = Args::from_command_line();
    let server = Server::builder().start(args.addr(), |_peer| Mage::new(Instant::now()))?;
    let bots = Bots::start(&args, &server, MageBot::new, sum_up)?;
    server.join()?;
    Ok(bots.verdict())
}

/// One player, and what is due for it when.
struct Mage {
    beats: u32,
    beat_at: Instant,
    /// While the spell cools down.
    ready_at: Option<Instant>,
    idle_at: Instant,
}

static HANDLERS: LazyLock<Handlers<Mage>> =
    LazyLock::new(|| Handlers::new().on::<CCast>(Mage::on_cast));

impl Mage {
    fn new(now: Instant) -> Self {
        Self {
            beats: 0,
            beat_at: now + BEAT,
            ready_at: None,
            idle_at: now + IDLE,
        }
    }

    fn on_cast(&mut self, ctx: &mut Context<'_>, _: &CCast) -> Result<(), Kick> {
        match self.ready_at {
            // A cooldown needs no timer for this: it is a comparison.
            Some(ready_at) if ctx.now() < ready_at => {
                let remaining_ms = (ready_at - ctx.now()).as_millis() as u32;
                ctx.send_packet(&SNotYet {
                    remaining_ms: remaining_ms.into(),
                });
            }
            _ => {
                self.ready_at = Some(ctx.now() + COOLDOWN);
                ctx.send_packet(&SCast);
            }
        }
        Ok(())
    }

    fn set_timer(&self, ctx: &mut Context<'_>) {
        let always = self.beat_at.min(self.idle_at);
        ctx.set_timer(self.ready_at.map_or(always, |at| at.min(always)));
    }
}

impl Session for Mage {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        self.set_timer(ctx);
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        self.idle_at = ctx.now() + IDLE;
        HANDLERS.dispatch(self, ctx, packet)?;
        self.set_timer(ctx);
        Ok(())
    }

    fn on_timer(&mut self, ctx: &mut Context<'_>) {
        let now = ctx.now(); // One time for the whole turn: nothing falls between two readings.
        if self.beat_at <= now {
            self.beats += 1;
            self.beat_at = now + BEAT;
            ctx.send_packet(&SBeat {
                number: self.beats.into(),
            });
        }
        if self.ready_at.take_if(|at| *at <= now).is_some() {
            ctx.send_packet(&SReady);
        }
        if self.idle_at <= now {
            // `ServerBuilder::idle_timeout` would end it as well, without a word.
            ctx.send(&SGoodbye, "you have been silent for too long");
            ctx.close(); // After what is queued has left.
            return;
        }
        self.set_timer(ctx);
    }
}

/// Casts twice, and once more when it may; then it is silent until it is sent away.
struct MageBot {
    number: u64,
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
    fn new(number: u64, verdict: Verdict<u32>) -> Self {
        let now = Instant::now();
        Self {
            number,
            began: now,
            cast_at: now,
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
        if self.number == 0 {
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

fn sum_up(beats: Vec<u32>) -> Result<String, String> {
    let (bots, beats) = (beats.len(), beats.iter().sum::<u32>());
    Ok(format!(
        "{bots} bots, {beats} beats; cooldown, ready and goodbye in order, none too early"
    ))
}
