//! The packets and the server of a small game.

use server_core::{Context, Kick, Packet, Server, Session, Ticker};
use std::io;
use std::thread;
use std::time::Duration;

server_core::packets! {
    /// The first packet of a client: the name of the player.
    client 1 => pub CLogin + text(1..=32);
    /// A move to this place.
    client 2 => pub CMove {
        /// The place.
        x: i32,
    };
    /// The answer to a login.
    server 3 => pub SLoggedIn;
    /// A player has moved; the text is its name.
    server 4 => pub SMoved {
        /// The place.
        x: i32,
    } + text;
    /// Ten times a second.
    server 5 => pub STime {
        /// 1 more each time.
        number: u64,
    };
}

impl CMove {
    /// The move with this number goes to this place.
    pub fn to(number: u64) -> Self {
        Self::new(number as i32)
    }
}

#[derive(Default)]
struct Player {
    name: String,
}

impl Session for Player {
    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        match packet.id() {
            CLogin::ID if self.name.is_empty() => {
                self.name = packet.decode::<CLogin>()?.to_owned();
                ctx.send_packet(&SLoggedIn {});
            }
            CMove::ID if !self.name.is_empty() => {
                let x = packet.decode::<CMove>()?.x();
                ctx.broadcast(&SMoved::new(x), &self.name);
            }
            _ => return Err(Kick::UnknownId),
        }
        Ok(())
    }
}

/// Starts the server on a free port.
pub fn start() -> io::Result<Server> {
    let server = Server::builder()
        .workers(1)
        .start(("127.0.0.1", 0), |_| Player::default())?;
    let handle = server.handle();
    let ticker = Ticker::new(Duration::from_millis(100)).for_server(&handle);
    thread::spawn(move || {
        ticker.run(|tick| handle.broadcast_packet(&STime::new(tick.number)));
    });
    Ok(server)
}
