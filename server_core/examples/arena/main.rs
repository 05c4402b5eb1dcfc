//! An arena: login with a name, rooms, 20 snapshots a second, a world of 300 kB at login, resume of a name,
//! an end in order. `game.rs` is the whole game; the bots are in `bots.rs`, and tests in virtual time in `tests.rs`.
//!
//! ```text
//!  CLogin "bob" 0      a new player                        SWelcome (its number, its token), then the world
//!  CEnter 7            is in the group of room 7           SSnapshot of the room, every 50 ms
//!  the peer is gone    "bob" waits for 30 s
//!  CLogin "bob" token  the same player, in the same place  SWelcome ...
//!  CLogin "bob" 0      another player                      SBye "name_taken"
//! ```
//!
//! ```sh
//! cargo run --release -p server_core --example arena -- --bots 500     # 5 s of play
//! cargo run --release -p server_core --example arena -- --storm 2000   # 2,000 logins at once
//! cargo run -p server_core --example arena                             # serve
//! cargo test -p server_core --test arena                               # play in virtual time
//! ```

mod bots;
#[path = "../demo/mod.rs"]
mod demo;
mod game;

use bots::{ArenaBot, sum_up};
use clap::Parser;
use demo::{Args, Bots, say};
use game::Arena;
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// An arena of players in rooms: serves until Ctrl-C, or plays with bots of its own and ends
#[derive(Debug, Parser)]
struct ArenaArgs {
    #[command(flatten)]
    demo: Args,

    /// Log in N bots at once, each with a world of 300 kB
    #[arg(long, value_name = "N", conflicts_with = "bots")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=5000))]
    storm: Option<u16>,
}

/// 5 s, and for a storm 20 s.
const TICKS: u64 = 100;

fn main() -> io::Result<ExitCode> {
    let mut args = ArenaArgs::parse();
    args.demo.bots = args.demo.bots.or(args.storm);
    args.demo.set_up_log();
    let game_loop = game::game_loop();
    let metrics = game_loop.metrics();
    let server = game::builder().start(args.demo.addr(), game_loop.players())?;
    let mut arena = Arena::new(fastrand::u64(..));
    let started = Instant::now();
    arena.started = Some(started);
    if args.demo.ends() {
        arena.last_tick = Some(TICKS * if args.storm.is_some() { 4 } else { 1 });
    }
    let make_bot = move |verdict| ArenaBot::new(started, verdict);
    let bots = Bots::start(&args.demo, &server, make_bot, sum_up)?;
    game_loop.run(&server.handle(), arena);
    let (longest, lag) = (metrics.duration.take_max(), metrics.lag.take_max());
    say(format_args!(
        "{} ticks, {} skipped; longest tick {}; latest tick {}",
        metrics.ticks.get(),
        metrics.skipped.get(),
        millis(longest),
        millis(lag),
    ));
    server.join()?;
    Ok(bots.verdict())
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
