//! App: a whole server program, with a `main` of two lines. The game counts the clicks of all players.
//!
//! ```sh
//! cargo run -p server_core --features app --example app -- --help
//! cargo run -p server_core --features app --example app -- --metrics-addr 127.0.0.1:9100    # serve
//! cargo run -p server_core --features app --example app -- --check --max-sessions 10000
//! ```
//!
//! SIGTERM and Ctrl-C shut it down: each player gets `SBye` first. SIGHUP reads the file of `--ban-file` again. Each
//! flag has an environment variable, for example `CLICKS_MAX_SESSIONS`.

use server_core::app::App;
use server_core::tick::Tick;
use server_core::{Game, GameContext, GameLoop, Kick, Packet, Server, SessionId};
use std::process::ExitCode;
use std::time::Duration;

server_core::packets! {
    client 1 => CClick;
    /// The clicks of all players, in each tick in which there were new ones.
    server 2 => SClicks { clicks: u64 };
    /// The last packet of a session that the server ends.
    server 6 => SBye { code: u16 } + text;
}

fn main() -> ExitCode {
    let server = Server::builder().close_message_with_text(|reason, text| {
        let code = reason.code()?.into();
        Some((SBye { code }, text.to_owned()))
    });
    let game = GameLoop::new(Duration::from_millis(50));
    App::from_command_line("clicks")
        .server(server)
        .play(game, Clicks::default())
}

#[derive(Default)]
struct Clicks {
    clicks: u64,
    sent: u64,
}

impl Game for Clicks {
    fn on_packet(
        &mut self,
        _: &mut GameContext<'_>,
        _: SessionId,
        packet: Packet<'_>,
    ) -> Result<(), Kick> {
        packet.decode::<CClick>()?;
        self.clicks += 1;
        Ok(())
    }

    fn on_tick(&mut self, ctx: &mut GameContext<'_>, _: Tick) {
        if self.clicks > self.sent {
            self.sent = self.clicks;
            let clicks = self.clicks.into();
            ctx.broadcast_packet(&SClicks { clicks });
        }
    }
}
