//! Load-tests a game of its own: users log in, move four times a second, and receive the moves of the others.
//!
//! ```sh
//! cargo run -p dummy_client --example own_bot
//! ```

mod game; // The packets and the server of the game. A real test needs the packets alone.

use dummy_client::metrics::{Check, RequestSeries, TickSeries};
use dummy_client::pacing::PacedRequests;
use dummy_client::{Bot, BotContext, Executor, Registry, Run, Scenario, UserId, Violation};
use game::{CLogin, CMove, SLoggedIn, SMoved, STime};
use server_core::{DisconnectReason, Packet};
use std::time::Duration;

#[derive(Clone, Copy)]
struct Metrics {
    moves: RequestSeries,
    logins_repeated: Check,
    times: TickSeries,
}

#[derive(Default)]
struct Players(Option<Metrics>);

impl Scenario for Players {
    type Bot = Player;

    fn register(&mut self, metrics: &mut Registry) {
        self.0 = Some(Metrics {
            moves: metrics.request_series(
                "moves",
                "answered",
                "move_rtt",
                "move, from the due time to its own echo",
            ),
            logins_repeated: metrics.check("logins_repeated", "logins were answered twice"),
            times: metrics.tick_series("time"),
        });
    }

    fn bot(&self, user: UserId, seed: u64) -> Player {
        let metrics = self.0.expect("registered before the first bot");
        Player {
            user,
            metrics,
            seed,
            moves: None,
        }
    }

    fn has_login(&self) -> bool {
        true
    }
}

struct Player {
    user: UserId,
    metrics: Metrics,
    seed: u64,
    /// From the login on.
    moves: Option<PacedRequests>,
}

impl Bot for Player {
    fn on_connected(&mut self, ctx: &mut BotContext<'_, '_>) {
        ctx.send(&CLogin {}, format!("player {}", self.user));
    }

    fn on_packet(
        &mut self,
        ctx: &mut BotContext<'_, '_>,
        packet: Packet<'_>,
    ) -> Result<(), Violation> {
        match packet.id() {
            SLoggedIn::ID => {
                ctx.check(self.metrics.logins_repeated, self.moves.is_none());
                ctx.logged_in();
                let (series, period) = (self.metrics.moves, Duration::from_millis(250));
                let moves = PacedRequests::new(series, ctx.now(), period, 4, self.seed);
                self.moves = Some(moves);
                self.on_timer(ctx);
            }
            STime::ID => ctx.tick(
                self.metrics.times,
                packet.parse_exact::<STime>()?.number.get(),
            ),
            SMoved::ID => {
                let (moved, name) = packet.parse::<SMoved>()?;
                if name == format!("player {}", self.user).as_bytes()
                    && let Some(moves) = &mut self.moves
                {
                    moves.answered(ctx, |number| moved.x.get() == number as i32);
                }
            }
            _ => return Err(Violation::UnknownId),
        }
        Ok(())
    }

    fn on_timer(&mut self, ctx: &mut BotContext<'_, '_>) {
        let Some(moves) = &mut self.moves else {
            return;
        };
        // A slow answer does not put off the next move, and its time counts from when its move was due.
        let next_at = moves.send_due(ctx, |ctx, number| {
            ctx.send(
                &CMove {
                    x: (number as i32).into(),
                },
                [],
            );
        });
        if let Some(at) = next_at {
            ctx.set_timer(at);
        }
    }

    fn on_disconnected(&mut self, ctx: &mut BotContext<'_, '_>, _: DisconnectReason) {
        if let Some(moves) = &mut self.moves {
            moves.disconnected(ctx);
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = game::start()?;
    let report = Run::new(Players::default())
        .target(&server.local_addr().to_string())?
        .executor(Executor::constant(50, Some(Duration::from_secs(3))))
        .assert("move_rtt_p99<250ms")
        .run()?;
    print!("{}", report.to_text());
    server.handle().shutdown(Duration::ZERO);
    server.join()?;
    std::process::exit(report.exit_status(false).into());
}
