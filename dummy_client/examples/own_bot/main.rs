//! Load-tests a game of its own: users log in, move four times a second, and receive the moves of the others.
//!
//! ```sh
//! cargo run -p dummy_client --example own_bot
//! ```

mod game; // The packets and the server of the game. A real test needs the packets alone.

use dummy_client::metrics::{Check, TickSeries, Trend};
use dummy_client::{Bot, BotContext, Executor, Registry, Run, Scenario, UserId, Violation};
use game::{CLogin, CMove, SLoggedIn, SMoved, STime};
use server_core::Packet;
use std::time::{Duration, Instant};

#[derive(Clone, Copy)]
struct Metrics {
    move_rtt: Trend,
    positions_wrong: Check,
    times: TickSeries,
}

#[derive(Default)]
struct Players(Option<Metrics>);

impl Scenario for Players {
    type Bot = Player;

    fn register(&mut self, metrics: &mut Registry) {
        self.0 = Some(Metrics {
            move_rtt: metrics.trend("move_rtt", "move, from its sending to its own echo"),
            positions_wrong: metrics.check("positions_wrong", "positions were wrong"),
            times: metrics.tick_series("time"),
        });
    }

    fn bot(&self, user: UserId, _seed: u64) -> Player {
        let metrics = self.0.expect("registered before the first bot");
        Player {
            user,
            metrics,
            x: 0,
            moved_at: None,
        }
    }

    fn has_login(&self) -> bool {
        true
    }
}

struct Player {
    user: UserId,
    metrics: Metrics,
    x: i32,
    moved_at: Option<Instant>,
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
                ctx.logged_in();
                ctx.set_timer(ctx.now());
            }
            STime::ID => ctx.tick(
                self.metrics.times,
                packet.parse_exact::<STime>()?.number.get(),
            ),
            SMoved::ID => {
                let (moved, name) = packet.parse::<SMoved>()?;
                if name == format!("player {}", self.user).as_bytes() {
                    ctx.check(self.metrics.positions_wrong, moved.x.get() == self.x);
                    if let Some(at) = self.moved_at.take() {
                        ctx.record(self.metrics.move_rtt, ctx.now() - at);
                    }
                }
            }
            _ => return Err(Violation::UnknownId),
        }
        Ok(())
    }

    fn on_timer(&mut self, ctx: &mut BotContext<'_, '_>) {
        self.x += 1;
        self.moved_at = Some(ctx.now());
        ctx.send(&CMove { x: self.x.into() }, []);
        ctx.set_timer(ctx.now() + Duration::from_millis(250));
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
