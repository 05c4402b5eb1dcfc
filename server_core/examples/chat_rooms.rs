//! Chat rooms: /join, /leave and say. A room is a group, and a line costs what its members cost.
//!
//! ```text
//!  CJoin "red"       the session is in the group "red"     SJoined to all in "red"
//!  CSay  "red" "hi"  ---------- broadcast to it ---------> SSaid   to the members of "red" alone
//!  CLeave "red"      it is out of the group                SLeft   to it, and to all in "red"
//!  the peer is gone  it is out of all its groups           SLeft   to all in each of them
//! ```
//!
//! ```sh
//! cargo run -p server_core --example chat_rooms -- --bots 5    # a second; bot 0 prints its packets
//! cargo run -p server_core --example chat_rooms                # serve; the packets are in the table below
//! ```
//!
//! A room needs no set-up and no release: it exists as long as it has a member. Half of the bots meet in "red" and half in "blue", and all are in the "lobby".

mod bots {
    pub mod chat_rooms;
}
mod demo;

use bots::chat_rooms::{ChatBot, sum_up};
use demo::{Args, Bots};
use server_core::rate_limiter::RateLimiter;
use server_core::{
    Context, DisconnectReason, GroupId, Handlers, Kick, OutgoingPacket, Packet, Server, Session,
};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::process::ExitCode;
use std::sync::LazyLock;

server_core::packets! {
    /// What I am called.
    client 1 => CName<'a> { name: &'a str where 1..=20 };
    /// Lets me in.
    client 2 => CJoin<'a> { room: &'a str where 1..=20 };
    /// Lets me out.
    client 3 => CLeave<'a> { room: &'a str where 1..=20 };
    /// A line for all guests of a room that I am in.
    client 4 => CSay<'a> { room: &'a str where 1..=20, text: &'a str where 1..=500 };
    /// A guest has entered a room.
    server 5 => SJoined<'a> { room: &'a str, who: &'a str };
    /// A guest has left a room.
    server 6 => SLeft<'a> { room: &'a str, who: &'a str };
    /// A guest has sent a line to a room.
    server 7 => SSaid<'a> { room: &'a str, who: &'a str, text: &'a str };
}

/// The codes of this game's own reasons.
const CHAT_FLOOD: Kick = Kick::Custom(1000, "chat_flood");
const TOO_MANY_ROOMS: Kick = Kick::Custom(1001, "too_many_rooms");

/// A line reaches many, so it has a budget of its own; twice that at once.
const MAX_LINES_PER_SEC: u32 = 20;

fn main() -> io::Result<ExitCode> {
    let args = Args::from_command_line();
    let server = Server::builder().start(args.addr(), |_peer| Guest::default())?;
    let bots = Bots::start(&args, &server, ChatBot::new, sum_up)?;
    server.join()?;
    Ok(bots.verdict())
}

/// The group of a room. Groups have numbers; a keyed hash makes one of a name, without a table that
/// all workers would have to share, and of a key that no peer knows.
fn group(room: &str) -> GroupId {
    static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    GroupId::from_u64(HASHER.hash_one(room))
}

/// One client: what it is called and where it is.
#[derive(Default)]
struct Guest {
    name: String,
    rooms: HashSet<String>,
    lines: RateLimiter,
}

static HANDLERS: LazyLock<Handlers<Guest>> = LazyLock::new(|| {
    Handlers::new()
        .on::<CName<'_>>(Guest::on_name)
        .on::<CJoin<'_>>(Guest::on_join)
        .on::<CLeave<'_>>(Guest::on_leave)
        .on::<CSay<'_>>(Guest::on_say)
});

impl Guest {
    fn on_name(&mut self, _: &mut Context<'_>, packet: CName<'_>) -> Result<(), Kick> {
        self.name = packet.name.to_owned();
        Ok(())
    }

    fn on_join(&mut self, ctx: &mut Context<'_>, packet: CJoin<'_>) -> Result<(), Kick> {
        let (room, who) = (packet.room, self.name.as_str());
        // No guest needs more rooms than `max_groups_per_session`, which is 64.
        ctx.join(group(room)).map_err(|_| TOO_MANY_ROOMS)?;
        if self.rooms.insert(room.to_owned()) {
            tell(ctx, room, &SJoined { room, who });
        }
        Ok(())
    }

    fn on_leave(&mut self, ctx: &mut Context<'_>, packet: CLeave<'_>) -> Result<(), Kick> {
        let (room, who) = (packet.room, self.name.as_str());
        if self.rooms.remove(room) {
            ctx.leave(group(room));
            tell(ctx, room, &SLeft { room, who });
        }
        Ok(())
    }

    fn on_say(&mut self, ctx: &mut Context<'_>, packet: CSay<'_>) -> Result<(), Kick> {
        let (CSay { room, text }, who) = (packet, self.name.as_str());
        if !self.lines.take(MAX_LINES_PER_SEC, ctx.now()) {
            return Err(CHAT_FLOOD);
        }
        if self.rooms.contains(room) {
            tell(ctx, room, &SSaid { room, who, text });
        }
        Ok(())
    }
}

/// Sends a packet to all in a room, and to this guest wherever it is: a packet to a group goes to its members
/// when all packets are handled that were read together, and a guest that says "bye" and leaves is not a
/// member by then.
fn tell(ctx: &mut Context<'_>, room: &str, packet: &impl OutgoingPacket) {
    ctx.send_packet(packet);
    ctx.broadcast_packet_to_others(group(room), packet);
}

impl Session for Guest {
    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        HANDLERS.dispatch(self, ctx, packet)
    }

    fn on_disconnected(&mut self, ctx: &mut Context<'_>, _: DisconnectReason) {
        // The guest is out of its groups already; the other guests get a packet.
        let who = self.name.as_str();
        for room in &self.rooms {
            ctx.broadcast_packet_to(group(room), &SLeft { room, who });
        }
    }
}
