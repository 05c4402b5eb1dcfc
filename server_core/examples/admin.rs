//! Admin: a game whose operators see it in a browser and in Prometheus, its own metrics included.
//!
//! ```sh
//! cargo run -p server_core --features admin --example admin                # serve
//! curl http://127.0.0.1:9100/metrics                                       # or open / in a browser
//! cargo run -p server_core --features admin --example admin -- --bots 5    # play with bots and end
//! ```
//!
//! The game is the echo of the example `echo`, with a tick that makes it rain.

mod bots {
    pub mod echo;
}
mod demo;

use bots::echo::{EchoBot, sum_up};
use demo::{Args, Bots};
use server_core::admin::Admin;
use server_core::admin::prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use server_core::admin::prometheus_client::registry::Registry;
use server_core::{Context, Handlers, Kick, Packet, Server, Session, Ticker};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;
use std::{io, thread};

server_core::packets! {
    /// Any bytes, to be sent back.
    client 2 => CEcho + bytes;
    /// The same bytes.
    server 3 => SEcho + bytes;
}

fn main() -> io::Result<ExitCode> {
    let args = Args::from_command_line();
    let (echoes, rain): (Counter, Gauge) = Default::default();
    let mut registry = Registry::default();
    registry.register("game_echoes", "Packets that were sent back", echoes.clone());
    registry.register("game_rain_mm", "Rain of this hour", rain.clone());

    let server = Server::builder().start(args.addr(), move |_peer| EchoSession {
        echoes: echoes.clone(),
    })?;
    let ticker = Ticker::new(Duration::from_millis(50)).for_server(&server.handle());
    let port = if args.addr().port() == 0 { 0 } else { 9100 };
    let admin = Admin::builder()
        .name("example")
        .tick_metrics(ticker.metrics())
        .registry(registry)
        .start(SocketAddr::from(([127, 0, 0, 1], port)), &server.handle())?;
    log::info!("metrics on http://{}/", admin.local_addr());

    let bots = Bots::start(&args, &server, EchoBot::new, sum_up)?;
    let weather = thread::spawn(move || {
        ticker.run(|tick| {
            rain.set((tick.number % 20) as i64);
        });
    });
    server.join()?;
    let has_rained = weather.join().is_ok();
    Ok(if has_rained {
        bots.verdict()
    } else {
        ExitCode::FAILURE
    })
}

/// One client. The counter is shared with all others.
struct EchoSession {
    echoes: Counter,
}

static HANDLERS: LazyLock<Handlers<EchoSession>> = LazyLock::new(|| {
    Handlers::<EchoSession>::new().on::<CEcho>(|session, ctx, bytes| {
        ctx.send(&SEcho, bytes);
        session.echoes.inc();
        Ok(())
    })
});

impl Session for EchoSession {
    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        HANDLERS.dispatch(self, ctx, packet)
    }
}
