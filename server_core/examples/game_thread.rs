//! One game thread: a `GameLoop` owns the whole world without a lock, and the workers only forward.
//!
//! ```text
//!  worker threads                                     game thread
//! +-------------------+    packets, in batches       +----------------------------+
//! | GamePlayer        | ---------------------------> | every 50 ms, a GameLoop:   |
//! |                   |                              |   on_join, on_packet, ...  |
//! |                   |                              |   on_tick                  |
//! +-------------------+                              +-------------+--------------+
//!           ^                                                      |
//!           +---- ServerHandle: send_packet_to, broadcast_packet --+
//! ```
//!
//! ```sh
//! cargo run -p server_core --example game_thread -- --bots 5   # a race over 500 steps, one second
//! cargo run -p server_core --example game_thread               # serve
//! ```
//!
//! **A player has a share.** The bots send their 500 steps at once. A tick handles 32 packets of each player,
//! and the others wait: a bot that sends more at once delays itself and no other. The bots check that each
//! step was taken exactly once. The last bot waits until the others are gone from the race.

mod bots {
    pub mod game_thread;
}
mod demo;

use bots::game_thread::{RunnerBot, sum_up};
use demo::{Args, Bots};
use server_core::tick::Tick;
use server_core::{DisconnectReason, Game, GameContext, GameLoop, Kick, Packet, Server, SessionId};
use std::collections::HashMap;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

server_core::packets! {
    /// One step forward.
    client 1 => CStep;
    /// How far you are, in each tick in which that has changed.
    server 3 => SYou { steps: u32 };
    /// The race, every tick, to all.
    server 4 => SRace { tick: u64, runners: u32, longest: u32 };
}

const TICK: Duration = Duration::from_millis(50);

fn main() -> io::Result<ExitCode> {
    let args = Args::from_command_line();
    let game = GameLoop::new(TICK);
    let server = Server::builder().start(args.addr(), game.players())?;
    let bots = Bots::start(&args, &server, RunnerBot::new, sum_up)?;
    game.run(&server.handle(), Race::default());
    server.join()?;
    Ok(bots.verdict())
}

/// The whole world. It lives on the game thread, so it is plain data.
#[derive(Default)]
struct Race {
    runners: HashMap<SessionId, Runner>,
}

#[derive(Default)]
struct Runner {
    steps: u32,
    has_moved: bool,
}

impl Game for Race {
    fn on_join(&mut self, _: &mut GameContext<'_>, player: SessionId) {
        self.runners.insert(player, Runner::default());
    }

    fn on_packet(
        &mut self,
        _: &mut GameContext<'_>,
        player: SessionId,
        packet: Packet<'_>,
    ) -> Result<(), Kick> {
        packet.decode::<CStep>()?;
        if let Some(runner) = self.runners.get_mut(&player) {
            runner.steps += 1;
            runner.has_moved = true;
        }
        Ok(())
    }

    fn on_leave(&mut self, _: &mut GameContext<'_>, player: SessionId, _: DisconnectReason) {
        self.runners.remove(&player);
    }

    fn on_tick(&mut self, ctx: &mut GameContext<'_>, tick: Tick) {
        for (id, runner) in &mut self.runners {
            if std::mem::take(&mut runner.has_moved) {
                ctx.send_packet(*id, &SYou::new(runner.steps));
            }
        }
        let longest = self.runners.values().map(|runner| runner.steps).max();
        let runners = self.runners.len() as u32;
        ctx.broadcast_packet(&SRace::new(tick.number, runners, longest.unwrap_or(0)));
    }
}
