//! Load-tests a game of its own: users log in, move four times a second, and hear of the others.
mod game; // The packets and the server of the game. A real test needs the packets alone.

use dummy_client::metrics::{Check, RequestSeries, TickSeries};
use dummy_client::{Bot, BotContext, BotResult, Executor, Run, scenario};
use game::{CLogin, CMove, SLoggedIn, SMoved, STime};
use server_core::Packet;
use std::time::Duration;

#[derive(Clone, Copy)]
struct Player {
    logins_repeated: Check,
    moves: RequestSeries,
    times: TickSeries,
}

impl Bot for Player {
    fn on_connected(&mut self, ctx: &mut BotContext<'_, '_>) {
        ctx.send(&CLogin {}, format!("player {}", ctx.user()));
    }

    fn on_packet(&mut self, ctx: &mut BotContext<'_, '_>, packet: Packet<'_>) -> BotResult {
        if packet.id() == SLoggedIn::ID {
            ctx.check(self.logins_repeated, !ctx.is_connected());
            ctx.logged_in();
            ctx.start_requests(self.moves, Duration::from_millis(250), 4);
        } else if packet.id() == STime::ID {
            ctx.tick(self.times, packet.decode::<STime>()?.number());
        } else {
            let (moved, name) = packet.decode::<SMoved>()?; // Another packet fails the run.
            if name == format!("player {}", ctx.user()) {
                ctx.answered(self.moves, |number| moved.x() == number as i32);
            }
        }
        Ok(())
    }

    fn on_request(&mut self, ctx: &mut BotContext<'_, '_>, _: RequestSeries, number: u64) {
        ctx.send_packet(&CMove::to(number));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = game::start()?;
    let players = scenario(|metrics| {
        let player = Player {
            logins_repeated: metrics.check("logins_repeated", "logins were answered twice"),
            moves: metrics.request_series("moves", "answered", "move_rtt", "move, to its echo"),
            times: metrics.tick_series("time"),
        };
        move |_, _| player
    });
    let report = Run::new(players.with_login())
        .target(&server.local_addr().to_string())?
        .executor(Executor::constant(50, Some(Duration::from_secs(3))))
        .assert("move_rtt_p99<250ms")
        .run()?;
    print!("{}", report.to_text());
    std::process::exit(report.exit_status(false).into());
}
