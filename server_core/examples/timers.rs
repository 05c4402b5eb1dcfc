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
//! A session has a timer for each key, [`Context::set_keyed_timer`], and no thread waits for it. To set the timer
//! of a key again moves it.

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
    let server = Server::builder().start(args.addr(), |_peer| Mage::default())?;
    let began = Instant::now();
    let make_bot = move |verdict| MageBot::new(began, verdict);
    let bots = Bots::start(&args, &server, make_bot, sum_up)?;
    server.join()?;
    Ok(bots.verdict())
}

/// The keys of a session's timers.
const BEAT_KEY: u8 = 0;
const READY_KEY: u8 = 1;
const IDLE_KEY: u8 = 2;

/// One player.
#[derive(Default)]
struct Mage {
    beats: u32,
    /// While the spell cools down.
    ready_at: Option<Instant>,
}

static HANDLERS: LazyLock<Handlers<Mage>> =
    LazyLock::new(|| Handlers::new().on::<CCast>(Mage::on_cast));

impl Mage {
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
                let ready_at = ctx.now() + COOLDOWN;
                self.ready_at = Some(ready_at);
                ctx.set_keyed_timer(READY_KEY, ready_at);
                ctx.send_packet(&SCast);
            }
        }
        Ok(())
    }
}

impl Session for Mage {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        ctx.set_keyed_timer(BEAT_KEY, ctx.now() + BEAT);
        ctx.set_keyed_timer(IDLE_KEY, ctx.now() + IDLE);
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        ctx.set_keyed_timer(IDLE_KEY, ctx.now() + IDLE);
        HANDLERS.dispatch(self, ctx, packet)
    }

    fn on_keyed_timer(&mut self, ctx: &mut Context<'_>, key: u8) {
        match key {
            BEAT_KEY => {
                self.beats += 1;
                ctx.set_keyed_timer(BEAT_KEY, ctx.now() + BEAT);
                ctx.send_packet(&SBeat {
                    number: self.beats.into(),
                });
            }
            READY_KEY => {
                self.ready_at = None;
                ctx.send_packet(&SReady);
            }
            _ => {
                // `ServerBuilder::idle_timeout` would end it as well, without a word.
                ctx.send(&SGoodbye, "you have been silent for too long");
                ctx.close(); // After what is queued has left.
            }
        }
    }
}
