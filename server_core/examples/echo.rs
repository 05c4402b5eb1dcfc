//! Echo: what a client sends comes back, to it alone and in order. The smallest whole server.
//!
//! ```text
//!  client                             server
//!    | ---- CEcho "hello" ------------> |  on_packet, on the thread that owns this session
//!    | <--- SEcho "hello" ------------- |  ctx.send: queued; one write at the end of the turn
//! ```
//!
//! ```sh
//! cargo run -p server_core --example echo -- --bots 5      # bots of its own, for a moment
//! cargo run -p server_core --example echo                  # or serve, and in another terminal:
//! cargo run -p dummy_client -- --count 100 --echo-hz 10 --duration-secs 5
//! ```
//!
//! Its packets have the ids of `game_server`'s, so that `dummy_client` can drive it.

mod bots {
    pub mod echo;
}
mod demo;

use bots::echo::{EchoBot, sum_up};
use demo::{Args, Bots};
use server_core::{Context, Handlers, Kick, Packet, Server, Session};
use std::io;
use std::process::ExitCode;
use std::sync::LazyLock;

server_core::packets! {
    /// Any bytes, to be sent back.
    client 2 => CEcho + bytes;
    /// The same bytes.
    server 3 => SEcho + bytes;
}

fn main() -> io::Result<ExitCode> {
    let args = Args::from_command_line();
    let server = Server::builder().start(args.addr(), |_peer| EchoSession)?;
    let bots = Bots::start(&args, &server, EchoBot::new, sum_up)?;
    server.join()?;
    Ok(bots.verdict())
}

/// One client. An echo remembers nothing, so there is nothing in it.
struct EchoSession;

/// What clients may send. Every other id is a kick.
static HANDLERS: LazyLock<Handlers<EchoSession>> = LazyLock::new(|| {
    Handlers::<EchoSession>::new().on::<CEcho>(|_session, ctx, bytes| {
        ctx.send(&SEcho, bytes);
        Ok(())
    })
});

impl Session for EchoSession {
    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        HANDLERS.dispatch(self, ctx, packet)
    }
}
