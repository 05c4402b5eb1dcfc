//! A game in the browser: players on a grid over WebSocket, and bots over TCP, in one world.
//!
//! ```text
//!  browser --WebSocket--+     workers                game thread, every 50 ms
//!                       +---> one session a player ---> world: takes a step, finds who sees it
//!  bot ---------TCP-----+          ^    bounded channel       |
//!                                  +----- ServerHandle -------+
//! ```
//!
//! ```sh
//! cargo run -p server_core --features websocket --example web -- --bots 64 --stay  # and open http://127.0.0.1:7780/
//! cargo run -p server_core --features websocket --example web -- --bots 64         # bots alone, 5 s
//! ```
//!
//! Keys of the page: arrows or WASD to move, Enter to chat. `page.html` is the whole client, and the server serves
//! it. A WebSocket message holds any piece of the byte stream, so both kinds of players have the same packets, the
//! same framing and the same [`Session`](server_core::Session).
//!
//! The world is as in `zones`: a zone is a group, and a player is in the groups of the 3 x 3 zones around it. One
//! thread owns it, as in `game_thread`, so that a new player sees the players that do not move.

mod bots;
#[path = "../demo/mod.rs"]
mod demo;
mod world;

use bots::{Bot, Truth, sum_up};
use clap::Parser;
use crossbeam_channel::{Receiver, Sender};
use demo::Bots;
use server_core::rate_limiter::RateLimiter;
use server_core::{
    Context, DisconnectReason, Handlers, Kick, ListenerKind, Packet, Server, ServerHandle, Session,
    SessionId, Ticker, WebSocketServerConfig,
};
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use world::{CPing, CSay, CStep, Input, MAX_LINES_PER_SEC, SBye, SPong, TICK, World};

/// Serves a world of players to browsers over WebSocket and to bots over TCP
#[derive(Debug, Parser)]
struct WebArgs {
    #[command(flatten)]
    demo: demo::Args,

    /// Where to listen for browsers: the page and its WebSocket [default: 127.0.0.1:7780, or for bots alone a free
    /// port]
    #[arg(long, value_name = "IP:PORT")]
    web_addr: Option<SocketAddr>,

    /// Keep the bots in the world until Ctrl-C, in place of 5 s
    #[arg(long, requires = "bots")]
    stay: bool,
}

/// A packet of more bytes is of no player: the longest line of chat has 204.
const MAX_PACKET_BYTES: usize = 256;
/// Ten steps, two lines and a ping a second, and room for a client that catches up.
const MAX_PACKETS_PER_SEC: u32 = 40;
/// The page pings each second, in a hidden tab each minute.
const IDLE_TIMEOUT: Duration = Duration::from_secs(180);
/// Inputs that wait for the game thread. A tick takes no more than this, so it ends.
const MAX_INPUTS: usize = 4096;
const PLAY: Duration = Duration::from_secs(5);

fn main() -> io::Result<ExitCode> {
    let mut args = WebArgs::parse();
    args.demo.stay = args.stay;
    args.demo.set_up_log();
    let WebArgs { demo, web_addr, .. } = args;
    let web_port = if demo.ends() { 0 } else { 7780 };
    let web_addr = web_addr.unwrap_or(SocketAddr::from(([127, 0, 0, 1], web_port)));
    let (presence, world_presence) = crossbeam_channel::unbounded();
    let (inputs, world_inputs) = crossbeam_channel::bounded(MAX_INPUTS);
    let make_player = move |_peer| Player {
        presence: presence.clone(),
        inputs: inputs.clone(),
        lines: RateLimiter::default(),
    };
    let page = WebSocketServerConfig::default().with_page(include_str!("page.html"));
    let server = Server::builder()
        .max_packet_bytes(MAX_PACKET_BYTES)
        .max_packets_per_sec(Some(MAX_PACKETS_PER_SEC))
        .idle_timeout(Some(IDLE_TIMEOUT))
        .custom_labels([CHAT_FLOOD.label()])
        .close_message(|reason| {
            let code = reason.code()?.into();
            Some((SBye { code }, reason.to_string()))
        })
        .listen(ListenerKind::WebSocket(page), web_addr)
        .start(demo.addr(), make_player)?;
    if let [_, (_, web_addr)] = server.local_addrs() {
        demo::say(format_args!("in the browser: http://{web_addr}/"));
    }

    let truth = Arc::new(Truth::default());
    let play = demo.ends().then_some(PLAY);
    let make_bot = move |verdict| Bot::new(play, Arc::clone(&truth), verdict);
    let bots = Bots::start(&demo, &server, make_bot, sum_up)?;
    run_world(server.handle(), &world_presence, &world_inputs);
    server.join()?;
    Ok(bots.verdict())
}

/// The game thread: until the server ends.
fn run_world(
    server: ServerHandle,
    presence: &Receiver<(SessionId, Presence)>,
    inputs: &Receiver<(SessionId, Input)>,
) {
    let ticker = Ticker::new(TICK).for_server(&server);
    let mut world = World::new(server.clone());
    ticker.run(|tick| {
        // Read before the inputs, and carried out behind them: what players did before they left comes first.
        let (joined, left): (Vec<_>, Vec<_>) = presence
            .try_iter()
            .partition(|(_, presence)| *presence == Presence::Joined);
        world.begin(tick.number);
        for (id, _) in joined {
            world.join(id);
        }
        // Readers that are behind get fewer moves, as fewer are made.
        if !server.is_congested() {
            for (id, input) in inputs.try_iter().take(MAX_INPUTS) {
                world.take(id, input);
            }
        }
        for (id, _) in left {
            world.leave(id);
        }
    });
}

/// The code of this game's own reason.
const CHAT_FLOOD: Kick = Kick::Custom(Kick::FIRST_CUSTOM_CODE, "chat_flood");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Joined,
    Left,
}

/// One client, on its worker: it checks the packets, and the world decides.
struct Player {
    /// Never refuses: a departure that got lost would leave a ghost in the world.
    presence: Sender<(SessionId, Presence)>,
    inputs: Sender<(SessionId, Input)>,
    lines: RateLimiter,
}

static HANDLERS: LazyLock<Handlers<Player>> = LazyLock::new(|| {
    Handlers::<Player>::new()
        .on::<CStep>(Player::on_step)
        .on::<CSay>(Player::on_say)
        .on::<CPing>(|_player, ctx, ping| {
            let stamp = ping.stamp;
            ctx.send_packet(&SPong { stamp });
            Ok(())
        })
});

impl Player {
    fn on_step(&mut self, ctx: &mut Context<'_>, step: &CStep) -> Result<(), Kick> {
        if !step.is_one_step() {
            return Err(Kick::BadPayload);
        }
        self.tell_world(ctx, Input::Step(*step));
        Ok(())
    }

    fn on_say(&mut self, ctx: &mut Context<'_>, text: &str) -> Result<(), Kick> {
        if !self.lines.take(MAX_LINES_PER_SEC, ctx.now()) {
            return Err(CHAT_FLOOD);
        }
        self.tell_world(ctx, Input::Say(text.to_owned()));
        Ok(())
    }

    /// A full channel is a game thread that is behind. A worker must not wait for it, so the input is lost; the
    /// answer to the next step says where the player is.
    fn tell_world(&self, ctx: &Context<'_>, input: Input) {
        let _ = self.inputs.try_send((ctx.id(), input));
    }
}

impl Session for Player {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        let _ = self.presence.send((ctx.id(), Presence::Joined));
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        HANDLERS.dispatch(self, ctx, packet)
    }

    fn on_disconnected(&mut self, ctx: &mut Context<'_>, _: DisconnectReason) {
        let _ = self.presence.send((ctx.id(), Presence::Left));
    }
}
