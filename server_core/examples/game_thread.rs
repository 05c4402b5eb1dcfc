//! One game thread: the workers only forward, and one thread owns the whole world without a lock.
//!
//! ```text
//!  worker threads                                     game thread
//! +-------------------+   inputs: bounded channel    +----------------------------+
//! | on_connected      | ---------------------------> | every 50 ms, by a Ticker:  |
//! | on_packet         |   (full: SBusy)              |   take what has come       |
//! | on_disconnected   | ---------------------------> |   change the world         |
//! +-------------------+   departures                 |   tell the players         |
//!           ^                                        +-------------+--------------+
//!           +---- ServerHandle: send_packet_to, broadcast_packet ---+
//! ```
//!
//! ```sh
//! cargo run -p server_core --example game_thread -- --bots 5   # a race over 500 steps, one second
//! cargo run -p server_core --example game_thread               # serve
//! ```
//!
//! **When the channel is full**, the game thread is behind. A worker must not wait for it: it may
//! itself be waiting for room in that worker's mailbox, and then both would wait for ever. So the
//! worker refuses the packet with an answer, and the client decides. The bots send more than fits at
//! once, repeat the refused steps, and check that each step was taken exactly once. The last bot waits
//! until the others are gone from the race.

mod bots {
    pub mod game_thread;
}
mod demo;

use bots::game_thread::{RunnerBot, sum_up};
use crossbeam_channel::{Receiver, Sender};
use demo::{Args, Bots};
use server_core::{
    Context, Handlers, Kick, Packet, Server, ServerHandle, Session, SessionId, Ticker,
};
use std::collections::HashMap;
use std::io;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;

server_core::packets! {
    /// One step forward.
    client 1 => CStep;
    /// The step was not taken: the game is behind.
    server 2 => SBusy;
    /// How far you are, in each tick in which that has changed.
    server 3 => SYou { steps: u32 };
    /// The race, every tick, to all.
    server 4 => SRace { tick: u64, runners: u32, longest: u32 };
}

const TICK: Duration = Duration::from_millis(50);
/// What may wait for the game thread. A tick takes no more than this, so it ends.
const MAX_INPUTS: usize = 1024;
const RETRY: Duration = Duration::from_millis(10);

fn main() -> io::Result<ExitCode> {
    let args = Args::from_command_line();
    let (inputs, game_inputs) = crossbeam_channel::bounded(MAX_INPUTS);
    // Bounded as well, by the joins taken from the other channel: only a session that has joined departs.
    let (departures, game_departures) = crossbeam_channel::unbounded();
    let make_session = move |_peer| Forwarder {
        has_joined: false,
        inputs: inputs.clone(),
        departures: departures.clone(),
    };
    let server = Server::builder().start(args.addr(), make_session)?;
    let bots = Bots::start(&args, &server, RunnerBot::new, sum_up)?;

    let handle = server.handle();
    let mut race = Race::default();
    Ticker::new(TICK).for_server(&handle).run(|tick| {
        race.take(&game_inputs, &game_departures);
        race.tell(tick.number, &handle);
    });
    server.join()?;
    Ok(bots.verdict())
}

/// What a worker tells the game thread of a session.
enum Input {
    Joined,
    Step,
}

/// One client, on its worker. It knows nothing of the world.
struct Forwarder {
    has_joined: bool,
    inputs: Sender<(SessionId, Input)>,
    departures: Sender<SessionId>,
}

static HANDLERS: LazyLock<Handlers<Forwarder>> =
    LazyLock::new(|| Handlers::new().on::<CStep>(Forwarder::on_step));

impl Forwarder {
    fn join(&mut self, ctx: &mut Context<'_>) {
        self.has_joined = self.inputs.try_send((ctx.id(), Input::Joined)).is_ok();
        if !self.has_joined {
            ctx.set_timer(ctx.now() + RETRY);
        }
    }

    fn on_step(&mut self, ctx: &mut Context<'_>, _: &CStep) -> Result<(), Kick> {
        if !self.has_joined || self.inputs.try_send((ctx.id(), Input::Step)).is_err() {
            ctx.send_packet(&SBusy);
        }
        Ok(())
    }
}

impl Session for Forwarder {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        self.join(ctx);
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        HANDLERS.dispatch(self, ctx, packet)
    }

    fn on_timer(&mut self, ctx: &mut Context<'_>) {
        self.join(ctx);
    }

    fn on_disconnected(&mut self, ctx: &mut Context<'_>, _: server_core::DisconnectReason) {
        if self.has_joined {
            // Never refused: a departure that got lost would leave a ghost in the race.
            let _ = self.departures.send(ctx.id());
        }
    }
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

impl Race {
    fn take(&mut self, inputs: &Receiver<(SessionId, Input)>, departures: &Receiver<SessionId>) {
        // Looked at first and removed last: what they did before they left lies in front of us now.
        let departed: Vec<SessionId> = departures.try_iter().collect();
        for (id, input) in inputs.try_iter().take(MAX_INPUTS) {
            match input {
                Input::Joined => {
                    self.runners.insert(id, Runner::default());
                }
                Input::Step => {
                    if let Some(runner) = self.runners.get_mut(&id) {
                        runner.steps += 1;
                        runner.has_moved = true;
                    }
                }
            }
        }
        for id in departed {
            self.runners.remove(&id);
        }
    }

    fn tell(&mut self, tick: u64, server: &ServerHandle) {
        for (id, runner) in &mut self.runners {
            if std::mem::take(&mut runner.has_moved) {
                server.send_packet_to(
                    *id,
                    &SYou {
                        steps: runner.steps.into(),
                    },
                );
            }
        }
        let longest = self.runners.values().map(|runner| runner.steps).max();
        server.broadcast_packet(&SRace {
            tick: tick.into(),
            runners: (self.runners.len() as u32).into(),
            longest: longest.unwrap_or(0).into(),
        });
    }
}
