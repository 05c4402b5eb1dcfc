//! Echo: what a client sends comes back, to it alone and in order. The smallest whole server.
//!
//! ```text
//!  client                             server
//!    | ---- CEcho "hello" ------------> |  on_packet, on the thread that owns this session
//!    | <--- SEcho "hello" ------------- |  ctx.send: queued; one write at the end of the turn
//! ```
//!
//! ```sh
//! cargo run -p server_core --example echo -- --bots 5      # bots of its own, two seconds at most
//! cargo run -p server_core --example echo                  # or serve, and in another terminal:
//! cargo run -p dummy_client -- --count 100 --echo-hz 10 --duration-secs 5
//! ```
//!
//! Its packets have the ids of `game_server`'s, so that `dummy_client` can drive it.

mod demo;

use demo::{Args, Bots, Verdict};
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

/// A client that has eight requests under way at a time, and compares each answer.
struct EchoBot {
    asked: u64,
    answered: u64,
    verdict: Verdict<u64>,
}

const AT_A_TIME: u64 = 8;
const REQUESTS: u64 = 200;

impl EchoBot {
    fn new(_number: u64, verdict: Verdict<u64>) -> Self {
        Self {
            asked: 0,
            answered: 0,
            verdict,
        }
    }

    fn ask(&mut self, ctx: &mut Context<'_>) {
        ctx.send(&CEcho, request(self.asked));
        self.asked += 1;
    }
}

impl Session for EchoBot {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        for _ in 0..AT_A_TIME {
            self.ask(ctx);
        }
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        let bytes = packet.decode::<SEcho>()?;
        let is_next = bytes == request(self.answered).as_bytes();
        self.verdict
            .check(is_next, "each answer is the next request")?;
        self.answered += 1;
        match REQUESTS - self.answered {
            0 => self.verdict.passed(REQUESTS),
            left if left >= AT_A_TIME => self.ask(ctx),
            _ => {} // All are asked.
        }
        Ok(())
    }
}

fn request(number: u64) -> String {
    format!("request {number}")
}

fn sum_up(answers: Vec<u64>) -> Result<String, String> {
    let (bots, answers) = (answers.len(), answers.iter().sum::<u64>());
    Ok(format!(
        "{bots} bots, {answers} echoes, each what was sent and in order"
    ))
}
