//! Large content: a world of 20 MB goes to a reader of 250 kB/s, which plays meanwhile.
//!
//! ```text
//!  server   SWorld SWorld STick SPong SWorld           STick SWorld           SWorld STick
//!           |<-- one window -->|      ^                      ^
//!  client   CPing ............        half of it is taken:   on_drained: the window is filled again
//! ```
//!
//! ```sh
//! cargo run --release -p server_core --example world_download -- --bots 1    # 80 s
//! cargo run -p server_core --example world_download -- --bots 2 --bytes 2000000 --rate 1000000
//! ```
//!
//! Sent at once, the world would wait in the session's queue, which is limited, and every tick behind it
//! for 80 s. [`ContentSender`] keeps one window of it in the queue. It is one field of the session, and
//! one call in two callbacks.

mod bots {
    pub mod world_download;
}

use bots::world_download::{download, sum_up};
use clap::Parser;
use server_core::{ContentSender, Context, Handlers, Kick, Packet, Server, Session, Ticker};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

server_core::packets! {
    /// Asks for an answer.
    client 1 => CPing { number: u32 };
    /// The answer.
    server 2 => SPong { number: u32 };
    /// Every 50 ms, to all.
    server 3 => STick { number: u64 };
    /// A piece of the world.
    server 4 => SWorld + bytes;
}

/// The tick that was broadcast last, for the bots.
static LAST_TICK: AtomicU64 = AtomicU64::new(0);
const TICK: Duration = Duration::from_millis(50);
const DRAIN: Duration = Duration::from_secs(1);
/// The content id of the world.
const WORLD: u32 = 1;

/// Sends a large world to slow readers while they play
#[derive(Debug, Parser)]
struct Args {
    /// Address to listen on [default: 127.0.0.1:7777, or with --bots a free port]
    #[arg(long, value_name = "IP:PORT")]
    addr: Option<SocketAddr>,

    /// Number of readers to run over real sockets; the exit status is 0 if each received the world
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    bots: Option<u16>,

    /// Size of the world
    #[arg(long, value_name = "BYTES", default_value_t = 20_000_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(..=1_000_000_000))]
    bytes: u32,

    /// Bytes per second that a reader reads
    #[arg(long, value_name = "BYTES", default_value_t = 250_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(16_384..))]
    rate: u32,
}

fn main() -> io::Result<ExitCode> {
    let args = Args::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let port = if args.bots.is_some() { 0 } else { 7777 };
    let addr = (args.addr).unwrap_or(SocketAddr::from(([127, 0, 0, 1], port)));

    let mut world = vec![0; args.bytes as usize];
    fastrand::Rng::with_seed(7).fill(&mut world);
    let world: Arc<[u8]> = world.into();

    let for_players = Arc::clone(&world);
    let server = Server::builder().start(addr, move |_peer| Player::new(&for_players))?;
    let (addr, handle) = (server.local_addr(), server.handle());
    say(format_args!("listening on {addr}"));

    let readers = args.bots.map(|bots| {
        let handle = server.handle();
        thread::spawn(move || {
            let world = &world;
            let found = thread::scope(|scope| {
                let readers: Vec<_> = (0..bots)
                    .map(|_| scope.spawn(|| download(addr, world, args.rate, &LAST_TICK)))
                    .collect();
                let panicked = |_| Err("a reader panicked".into());
                let found = readers.into_iter();
                found
                    .map(|reader| reader.join().unwrap_or_else(panicked))
                    .collect::<Result<Vec<_>, String>>()
            });
            handle.shutdown(DRAIN);
            found.map(sum_up)
        })
    });
    Ticker::new(TICK).for_server(&handle).run(|tick| {
        server.broadcast(
            &STick {
                number: tick.number.into(),
            },
            "",
        );
        LAST_TICK.store(tick.number, Ordering::Release);
    });
    server.join()?;
    Ok(match readers.map(thread::JoinHandle::join) {
        None => ExitCode::SUCCESS,
        Some(Ok(Ok(summary))) => {
            say(format_args!("passed: {summary}"));
            ExitCode::SUCCESS
        }
        Some(Ok(Err(why))) => {
            say(format_args!("FAILED: {why}"));
            ExitCode::FAILURE
        }
        Some(Err(_)) => ExitCode::FAILURE,
    })
}

/// One player, and what is left of the world for it.
struct Player {
    world: ContentSender<SWorld>,
}

static HANDLERS: LazyLock<Handlers<Player>> = LazyLock::new(|| {
    Handlers::<Player>::new().on::<CPing>(|_player, ctx, ping| {
        ctx.send_packet(&SPong {
            number: ping.number,
        });
        Ok(())
    })
});

impl Player {
    fn new(world: &Arc<[u8]>) -> Self {
        Self {
            world: ContentSender::new(WORLD, Arc::clone(world)),
        }
    }
}

impl Session for Player {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        self.world.pump(ctx);
    }

    fn on_drained(&mut self, ctx: &mut Context<'_>) {
        self.world.pump(ctx);
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        HANDLERS.dispatch(self, ctx, packet)
    }
}

/// Prints a line on standard output. A closed pipe is not an error here; `println!` would panic.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
