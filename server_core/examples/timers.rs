//! Timers: one session with three deadlines: a heartbeat, a cooldown, and an end for a silent peer.
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

mod bots {
    pub mod timers;
}
mod demo;

use bots::timers::{MageBot, sum_up};
use demo::{Args, Bots};
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
    /// The last packet, to a peer that has been silent for too long.
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
