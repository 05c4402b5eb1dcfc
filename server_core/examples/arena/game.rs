//! The packets and the rules of the arena. One thread owns it: plain data, no lock.

use server_core::tick::Tick;
use server_core::{
    DisconnectReason, Game, GameContext, GameLoop, GroupId, Kick, Packet, SendBuffer, Server,
    ServerBuilder, SessionId,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

server_core::packets! {
    /// The first packet of a client. The token is 0, or that of the `SWelcome` to resume the name.
    client 1 => pub CLogin<'a> { name: &'a str where 1..=20, token: u64 };
    /// Enters a room, and leaves the one before.
    client 2 => pub CEnter { room: u16 };
    /// A step of up to 4 each way.
    client 3 => pub CMove { dx: i8, dy: i8 };
    /// The login is complete.
    server 10 => pub SWelcome { you: u32, token: u64 };
    /// The next piece of the world; its pieces come in order.
    server 11 => pub SWorld + bytes;
    /// The players of the room, 20 times a second.
    server 12 => pub SSnapshot<'a> { tick: u64, sent_micros: u64, players: &'a [Spot] };
    /// The last packet: why the server ends the session.
    server 13 => pub SBye { code: u16 } + text;
    /// One player of a snapshot.
    part pub Spot { player: u32, x: i16, y: i16 };
}

pub const NAME_TAKEN: Kick =
    Kick::custom(1001, "name_taken").with_text("another player has this name");
pub const NOT_LOGGED_IN: Kick = Kick::custom(1002, "not_logged_in");
pub const RESUMED: Kick = Kick::custom(1003, "resumed_elsewhere");
pub const BUSY: Kick = Kick::custom(1004, "busy");

pub const PERIOD: Duration = Duration::from_millis(50);
pub const WORLD_BYTES: usize = 300_000;
/// Ticks for which a name waits for its player.
pub const RESUME_TICKS: u64 = 600;
const SIZE: i16 = 1000;
const MAX_STEP: i8 = 4;
const ROOM: u32 = 1;
const PIECE_BYTES: usize = 16_000;

/// The limits of the server.
pub fn builder() -> ServerBuilder {
    Server::builder()
        .custom_labels([NAME_TAKEN, NOT_LOGGED_IN, RESUMED, BUSY].map(Kick::label))
        .close_message_with_text(|reason, text| Some((SBye::new(reason.code()?), text.to_owned())))
}

pub fn game_loop() -> GameLoop {
    GameLoop::new(PERIOD).requires_login(true)
}

pub struct Arena {
    pub world: Vec<u8>,
    /// The origin of `sent_micros`. `None`: snapshots have 0 there.
    pub started: Option<Instant>,
    /// The last tick: the server ends then.
    pub last_tick: Option<u64>,
    tick: u64,
    /// A real game takes its tokens from the operating system: a peer must not guess them.
    tokens: fastrand::Rng,
    /// The world, encoded once. All players share these bytes.
    pieces: Option<Arc<[SendBuffer]>>,
    sessions: HashMap<SessionId, u32>,
    names: HashMap<String, u32>,
    /// By number, so that snapshots have the same order each time.
    players: BTreeMap<u32, Player>,
    next_player: u32,
    rooms: BTreeMap<u16, Vec<Spot>>,
}

struct Player {
    name: String,
    token: u64,
    session: Option<SessionId>,
    left_at: u64,
    room: Option<u16>,
    x: i16,
    y: i16,
}

impl Arena {
    pub fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = vec![0; WORLD_BYTES];
        rng.fill(&mut world);
        Self {
            world,
            started: None,
            last_tick: None,
            tick: 0,
            tokens: rng,
            pieces: None,
            sessions: HashMap::new(),
            names: HashMap::new(),
            players: BTreeMap::new(),
            next_player: 1,
            rooms: BTreeMap::new(),
        }
    }

    fn log_in(
        &mut self,
        ctx: &mut GameContext<'_>,
        session: SessionId,
        login: &CLogin<'_>,
    ) -> Result<(), Kick> {
        if self.sessions.contains_key(&session) {
            return Err(Kick::BadPayload);
        }
        let number = match self.names.get(login.name) {
            None => self.add_player(login.name),
            Some(number) if self.players[number].token == login.token => *number,
            Some(_) => return Err(NAME_TAKEN),
        };
        let Some(player) = self.players.get_mut(&number) else {
            return Err(NAME_TAKEN);
        };
        if let Some(before) = player.session.replace(session) {
            self.sessions.remove(&before);
            ctx.close_with(
                before,
                RESUMED,
                "the player has come back on another connection",
            );
        }
        self.sessions.insert(session, number);
        ctx.admit(session);
        ctx.send_packet(session, &SWelcome::new(number, player.token));
        if let Some(room) = player.room {
            // The new session is in no group yet.
            ctx.join(session, group(room));
        }
        // As fast as the player reads, on its worker: no tick waits for it.
        let pieces = self.pieces.get_or_insert_with(|| {
            let pieces = self.world.chunks(PIECE_BYTES);
            pieces
                .filter_map(|piece| ctx.encode(&SWorld, piece).ok())
                .collect()
        });
        ctx.send_paced(session, pieces).map_err(|_| BUSY)
    }

    fn add_player(&mut self, name: &str) -> u32 {
        let number = self.next_player;
        self.next_player += 1;
        let player = Player {
            name: name.to_owned(),
            token: self.tokens.u64(1..),
            session: None,
            left_at: 0,
            room: None,
            x: SIZE / 2,
            y: SIZE / 2,
        };
        self.players.insert(number, player);
        self.names.insert(name.to_owned(), number);
        number
    }

    fn send_snapshots(&mut self, ctx: &GameContext<'_>) {
        self.rooms
            .retain(|_, spots| !std::mem::take(spots).is_empty());
        for (number, player) in &self.players {
            if let (Some(room), Some(_)) = (player.room, player.session) {
                let spot = Spot::new(*number, player.x, player.y);
                self.rooms.entry(room).or_default().push(spot);
            }
        }
        let sent_micros = self
            .started
            .map_or(0, |started| started.elapsed().as_micros() as u64);
        for (room, players) in &self.rooms {
            let snapshot = SSnapshot {
                tick: self.tick,
                sent_micros,
                players,
            };
            ctx.broadcast_packet_to(group(*room), &snapshot);
        }
    }
}

impl Game for Arena {
    fn on_packet(
        &mut self,
        ctx: &mut GameContext<'_>,
        session: SessionId,
        packet: Packet<'_>,
    ) -> Result<(), Kick> {
        if packet.id() == CLogin::ID {
            return self.log_in(ctx, session, &packet.decode::<CLogin<'_>>()?);
        }
        let number = self.sessions.get(&session).ok_or(NOT_LOGGED_IN)?;
        let Some(player) = self.players.get_mut(number) else {
            return Err(NOT_LOGGED_IN);
        };
        match packet.id() {
            CEnter::ID => {
                let room = packet.decode::<CEnter>()?.room();
                if let Some(before) = player.room.replace(room) {
                    ctx.leave(session, group(before));
                }
                ctx.join(session, group(room));
            }
            CMove::ID => {
                let CMove { dx, dy } = *packet.decode::<CMove>()?;
                if dx.unsigned_abs().max(dy.unsigned_abs()) > MAX_STEP.unsigned_abs() {
                    return Err(Kick::BadPayload);
                }
                player.x = (player.x + i16::from(dx)).clamp(0, SIZE - 1);
                player.y = (player.y + i16::from(dy)).clamp(0, SIZE - 1);
            }
            _ => return Err(Kick::UnknownId),
        }
        Ok(())
    }

    fn on_leave(&mut self, _: &mut GameContext<'_>, session: SessionId, _: DisconnectReason) {
        if let Some(number) = self.sessions.remove(&session)
            && let Some(player) = self.players.get_mut(&number)
        {
            player.session = None;
            player.left_at = self.tick;
        }
    }

    fn on_tick(&mut self, ctx: &mut GameContext<'_>, tick: Tick) {
        self.tick = tick.number;
        let names = &mut self.names;
        self.players.retain(|_, player| {
            let stays = player.session.is_some() || tick.number <= player.left_at + RESUME_TICKS;
            if !stays {
                names.remove(&player.name);
            }
            stays
        });
        self.send_snapshots(ctx);
        if self.last_tick.is_some_and(|last| tick.number >= last) {
            ctx.server().shutdown(Duration::from_secs(10));
        }
    }
}

fn group(room: u16) -> GroupId {
    GroupId::new(ROOM, room.into())
}
