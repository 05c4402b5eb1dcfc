//! Rooms: one game over several threads. Each room has a thread of its own, and players move between the rooms.
//!
//! ```text
//!  worker threads                       thread of room 0     thread of room 1     ...
//! +-------------------+    packets     +----------------+   +----------------+
//! | sessions          | -------------> | Room, 50 ms    |-->| Room, 50 ms    |--> ...
//! +-------------------+                +----------------+   +----------------+
//!                                            a player, with its state and its waiting packets
//! ```
//!
//! ```sh
//! cargo run -p server_core --example rooms -- --bots 5   # walk through the rooms
//! cargo run -p server_core --example rooms               # serve
//! ```
//!
//! **No packet is lost, or overtakes another.** The bots send all their steps at once, and each tenth step leads into
//! the next room. The bots check that each step was taken once, in order, in its room.

mod bots {
    pub mod rooms;
}
mod demo;

use bots::rooms::{WalkerBot, sum_up};
use demo::{Args, Bots};
use server_core::tick::Tick;
use server_core::{DisconnectReason, Game, GameContext, GameLoop, Kick, Packet, Server, SessionId};
use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

server_core::packets! {
    /// One step forward.
    client 1 => CStep;
    /// The step was taken in this room.
    server 2 => SStep { steps: u32, room: u32 };
}

const TICK: Duration = Duration::from_millis(50);
const ROOMS: usize = 4;
/// Steps from one room to the next.
const STEPS: u32 = 10;

fn main() -> io::Result<ExitCode> {
    let args = Args::from_command_line();
    let game = GameLoop::new(TICK).rooms(ROOMS);
    let server = Server::builder().start(args.addr(), game.players())?;
    let bots = Bots::start(&args, &server, WalkerBot::new, sum_up)?;
    game.run_rooms(&server.handle(), |_room| Room::default())?;
    server.join()?;
    Ok(bots.verdict())
}

/// The players of one room. It lives on the thread of the room, so it is plain data.
#[derive(Default)]
struct Room {
    walkers: HashMap<SessionId, Walker>,
}

/// A player, which takes its state along.
#[derive(Default)]
struct Walker {
    steps: u32,
}

impl Game for Room {
    fn on_join(&mut self, _: &mut GameContext<'_>, player: SessionId) {
        self.walkers.insert(player, Walker::default());
    }

    fn on_packet(
        &mut self,
        ctx: &mut GameContext<'_>,
        player: SessionId,
        packet: Packet<'_>,
    ) -> Result<(), Kick> {
        packet.decode::<CStep>()?;
        let Some(walker) = self.walkers.get_mut(&player) else {
            return Ok(());
        };
        walker.steps += 1;
        ctx.send(player, &SStep::new(walker.steps, ctx.room() as u32), "");
        if walker.steps.is_multiple_of(STEPS)
            && let Some(walker) = self.walkers.remove(&player)
        {
            ctx.move_player(player, (ctx.room() + 1) % ROOMS, walker);
        }
        Ok(())
    }

    fn on_arrive(
        &mut self,
        _: &mut GameContext<'_>,
        player: SessionId,
        state: Box<dyn Any + Send>,
    ) {
        if let Ok(walker) = state.downcast() {
            self.walkers.insert(player, *walker);
        }
    }

    fn on_leave(&mut self, _: &mut GameContext<'_>, player: SessionId, _: DisconnectReason) {
        self.walkers.remove(&player);
    }

    fn on_tick(&mut self, _: &mut GameContext<'_>, _: Tick) {}
}
