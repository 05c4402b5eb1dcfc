//! Zones: players move on a grid and see only their neighbours. Interest management by groups.
//!
//! ```text
//!  +---+---+---+---+---+---+---+---+
//!  |   |   |   |   |   |   |   |   |   A zone is a group. A player is in the groups of the 3 x 3
//!  +---+---+---+---+---+---+---+---+   zones around it, and its moves are sent to one group: that
//!  |   | . | . | . |   |   |   |   |   of the zone where it is. So A sees B, and B sees A.
//!  +---+---+---+---+---+---+---+---+
//!  |   | . | A | . |   |   |   |   |   C is too far away: of its moves A gets no packet, and costs
//!  +---+---+---+---+---+---+---+---+   none.
//!  |   | . | . | B |   |   | C |   |
//!  +---+---+---+---+---+---+---+---+   Over a border: a few groups are left, a few are joined.
//!  |   |   |   |   |   |   |   |   |
//! ```
//!
//! ```sh
//! cargo run -p server_core --example zones -- --bots 64    # a second; bot 0 prints what it sees
//! cargo run -p server_core --example zones                 # serve; the packets are in the table below
//! ```
//!
//! A player that does not move is not seen by a player that comes: a game that needs that keeps the places
//! in one thread, as in `game_thread`. It would also not trust the place that a client sends, as this example
//! does.

mod bots {
    pub mod zones;
}
mod demo;

use bots::zones::{Gates, Walker, sum_up};
use demo::{Args, Bots};
use server_core::{Context, DisconnectReason, GroupId, Handlers, Kick, Packet, Server, Session};
use std::io;
use std::process::ExitCode;
use std::sync::{Arc, LazyLock};

server_core::packets! {
    /// Here I am.
    client 1 => CMove { to: Place };
    /// The answer: that was your move number so and so.
    server 2 => SHere { moves: u32 };
    /// A neighbour has moved, or has come into sight.
    server 3 => SMoved { who: u64, moves: u32, to: Place };
    /// A neighbour has left its zone. If its new zone is in sight, `SMoved` follows.
    server 4 => SGone { who: u64 };
    /// A place in the world.
    part Place { x: u8, y: u8 };
}

/// Zones in a row, and rows of them.
const ZONES: u8 = 8;
/// Places in a row of a zone, and rows of them.
const ZONE_SIZE: u8 = 16;

fn main() -> io::Result<ExitCode> {
    let args = Args::from_command_line();
    let server = Server::builder().start(args.addr(), |_peer| Player::default())?;
    let gates = Arc::new(Gates::default());
    let make_bot = move |verdict| Walker::new(Arc::clone(&gates), verdict);
    let bots = Bots::start(&args, &server, make_bot, sum_up)?;
    server.join()?;
    Ok(bots.verdict())
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Zone {
    column: u8,
    row: u8,
}

impl Zone {
    fn of(place: Place) -> Self {
        Self {
            column: place.x / ZONE_SIZE,
            row: place.y / ZONE_SIZE,
        }
    }

    fn group(self) -> GroupId {
        const ZONE: u32 = 1;
        GroupId::new(ZONE, u32::from(self.row) << 8 | u32::from(self.column))
    }

    /// Itself and the zones around it.
    fn around(self) -> impl Iterator<Item = Self> {
        let near = |at: u8| at.saturating_sub(1)..=(at + 1).min(ZONES - 1);
        near(self.row)
            .flat_map(move |row| near(self.column).map(move |column| Self { column, row }))
    }
}

/// One client: where it is, once it has said so.
#[derive(Default)]
struct Player {
    moves: u32,
    zone: Option<Zone>,
}

static HANDLERS: LazyLock<Handlers<Player>> =
    LazyLock::new(|| Handlers::new().on::<CMove>(Player::on_move));

impl Player {
    fn on_move(&mut self, ctx: &mut Context<'_>, packet: &CMove) -> Result<(), Kick> {
        let to = packet.to;
        if to.x.max(to.y) >= ZONES * ZONE_SIZE {
            return Err(Kick::BadPayload); // Off the map.
        }
        self.moves += 1;
        let (who, moves) = (ctx.id().into(), self.moves.into());
        let zone = Zone::of(to);
        if self.zone != Some(zone) {
            if let Some(left) = self.zone.replace(zone) {
                ctx.broadcast_packet_to_others(left.group(), &SGone { who });
            }
            look_around(ctx, zone)?;
        }
        ctx.send_packet(&SHere { moves });
        ctx.broadcast_packet_to_others(zone.group(), &SMoved { who, moves, to });
        Ok(())
    }
}

/// Lets a player see the zones around this one, and no others.
fn look_around(ctx: &mut Context<'_>, zone: Zone) -> Result<(), Kick> {
    let seen: Vec<GroupId> = zone.around().map(Zone::group).collect();
    for group in ctx.groups() {
        if !seen.contains(&group) {
            ctx.leave(group);
        }
    }
    for group in seen {
        // Nine groups are less than `max_groups_per_session`, and a join of a member changes nothing.
        ctx.join(group).map_err(|_| Kick::BadPayload)?;
    }
    Ok(())
}

impl Session for Player {
    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        HANDLERS.dispatch(self, ctx, packet)
    }

    fn on_disconnected(&mut self, ctx: &mut Context<'_>, _: DisconnectReason) {
        if let Some(zone) = self.zone {
            let who = ctx.id().into();
            ctx.broadcast_packet_to(zone.group(), &SGone { who });
        }
    }
}
