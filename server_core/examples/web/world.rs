//! The world: its packets, its places, and what each player sees. It lives on the game thread, so it is plain
//! data without a lock. All packets of the world have one sender, so they reach each player in order.

use server_core::{GroupId, ServerHandle, SessionId};
use std::collections::HashMap;
use std::time::Duration;

server_core::packets! {
    /// One step, to one of the eight cells around, or to the own cell. Steps are numbered by the client.
    client 1 => pub CStep {
        /// The number comes back in [`SHere`].
        number: u32,
        /// -1, 0 or 1.
        dx: i8,
        /// -1, 0 or 1.
        dy: i8,
    };
    /// A line of chat.
    client 2 => pub CSay + text(1..=200);
    /// Asks for an answer at once: the client measures its latency.
    client 3 => pub CPing {
        /// Any number.
        stamp: u32,
    };
    /// The first packet of a session: its id, its place, and the rules of the world.
    server 4 => pub SWelcome {
        /// The session of this player.
        you: u64,
        /// The place of this player.
        place: Place,
        /// Zones in a row, and rows of them.
        zones: u8,
        /// Cells in a row of a zone, and rows of them.
        zone_size: u8,
        /// A player takes one step in this time, in milliseconds.
        step_ms: u16,
        /// A player says one line in this time, in milliseconds.
        say_ms: u16,
    };
    /// The answer to a step: where the player is. A step that came too early is refused: the place is the old one.
    server 5 => pub SHere {
        /// The number of the step.
        number: u32,
        /// Where the player is.
        place: Place,
    };
    /// A neighbour has moved, or has come into sight.
    server 6 => pub SSeen {
        /// The session of the neighbour.
        who: u64,
        /// The place of this player.
        place: Place,
    };
    /// A neighbour is out of sight, or has left the world.
    server 7 => pub SGone {
        /// The session of the neighbour.
        who: u64,
    };
    /// A neighbour, or the player itself, has said a line.
    server 8 => pub SSaid {
        /// The session of the speaker.
        who: u64,
    } + text;
    /// The answer to [`CPing`].
    server 9 => pub SPong {
        /// That of the question.
        stamp: u32,
    };
    /// Every second, to all.
    server 10 => pub SPlayers {
        /// Players in the world, in sight or not.
        players: u32,
    };
    /// The last packet of a session that the server ends.
    server 11 => pub SBye {
        /// The code of the reason.
        code: u16,
    } + text;
    /// A cell of the world.
    part pub Place {
        /// To the right.
        x: u8,
        /// Down.
        y: u8,
    };
}

/// Zones in a row, and rows of them.
pub const ZONES: u8 = 8;
/// Cells in a row of a zone, and rows of them.
pub const ZONE_SIZE: u8 = 12;
/// Cells in a row of the world, and rows of them.
pub const WORLD_SIZE: u8 = ZONES * ZONE_SIZE;

pub const TICK: Duration = Duration::from_millis(50);
/// The speed limit: one step in two ticks.
const TICKS_PER_STEP: u64 = 2;
/// A step may come up to this number of ticks early: the network delays one packet and not the next.
const EARLY_TICKS: u64 = 4;
pub const STEP: Duration = TICK.saturating_mul(TICKS_PER_STEP as u32);
pub const MAX_LINES_PER_SEC: u32 = 2;
const TICKS_PER_SEC: u64 = 20;

/// What a player does, as its session reports it.
#[derive(Debug)]
pub enum Input {
    Step(CStep),
    Say(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Zone {
    pub column: u8,
    pub row: u8,
}

impl Zone {
    pub fn of(place: Place) -> Self {
        Self {
            column: place.x / ZONE_SIZE,
            row: place.y / ZONE_SIZE,
        }
    }

    /// Players of two zones see each other if the zones are the same or touch.
    pub fn sees(self, other: Self) -> bool {
        self.column.abs_diff(other.column) <= 1 && self.row.abs_diff(other.row) <= 1
    }

    /// Itself and the zones that touch it.
    fn around(self) -> impl Iterator<Item = Self> {
        let near = |at: u8| at.saturating_sub(1)..=(at + 1).min(ZONES - 1);
        near(self.row)
            .flat_map(move |row| near(self.column).map(move |column| Self { column, row }))
    }

    /// The group of the players that see this zone.
    fn group(self) -> GroupId {
        const ZONE: u32 = 1;
        GroupId::new(ZONE, u32::from(self.row) << 8 | u32::from(self.column))
    }
}

impl CStep {
    pub fn is_one_step(&self) -> bool {
        let is_short = |by: i8| (-1..=1).contains(&by);
        is_short(self.dx) && is_short(self.dy)
    }
}

impl Place {
    /// The place behind one step. The world has an edge.
    pub fn after(self, step: &CStep) -> Self {
        let moved = |at: u8, by: i8| at.saturating_add_signed(by).min(WORLD_SIZE - 1);
        Self {
            x: moved(self.x, step.dx),
            y: moved(self.y, step.dy),
        }
    }

    /// Where a new player is: near the middle of the world.
    fn first_of(id: SessionId) -> Self {
        let number = id.to_u64() as u8;
        Self {
            x: WORLD_SIZE / 2 + number.wrapping_mul(5) % 7,
            y: WORLD_SIZE / 2 + number.wrapping_mul(3) % 5,
        }
    }
}

struct Player {
    place: Place,
    /// The tick in which its next step is due.
    step_due: u64,
}

impl Player {
    fn zone(&self) -> Zone {
        Zone::of(self.place)
    }

    /// Whether it may take a step in this tick. The step then counts.
    fn may_step(&mut self, tick: u64) -> bool {
        let is_due = self.step_due <= tick + EARLY_TICKS;
        if is_due {
            self.step_due = self.step_due.max(tick) + TICKS_PER_STEP;
        }
        is_due
    }
}

/// All players.
pub struct World {
    server: ServerHandle,
    tick: u64,
    players: HashMap<SessionId, Player>,
}

impl World {
    pub fn new(server: ServerHandle) -> Self {
        Self {
            server,
            tick: 0,
            players: HashMap::new(),
        }
    }

    /// Begins a tick.
    pub fn begin(&mut self, tick: u64) {
        self.tick = tick;
        if tick.is_multiple_of(TICKS_PER_SEC) {
            let players = (self.players.len() as u32).into();
            self.server.broadcast_packet(&SPlayers { players });
        }
    }

    pub fn join(&mut self, id: SessionId) {
        let place = Place::first_of(id);
        let player = Player { place, step_due: 0 };
        self.server.send_packet_to(
            id,
            &SWelcome {
                you: id.into(),
                place,
                zones: ZONES,
                zone_size: ZONE_SIZE,
                step_ms: (STEP.as_millis() as u16).into(),
                say_ms: (1000 / MAX_LINES_PER_SEC as u16).into(),
            },
        );
        self.look(id, None, player.zone());
        self.tell_neighbours(id, place);
        self.players.insert(id, player);
    }

    /// The session has ended, and is in no group.
    pub fn leave(&mut self, id: SessionId) {
        if let Some(player) = self.players.remove(&id) {
            let gone = SGone { who: id.into() };
            self.server
                .broadcast_packet_to(player.zone().group(), &gone);
        }
    }

    pub fn take(&mut self, id: SessionId, input: Input) {
        match input {
            Input::Step(step) => self.step(id, &step),
            Input::Say(text) => self.say(id, &text),
        }
    }

    fn step(&mut self, id: SessionId, step: &CStep) {
        let Some(player) = self.players.get_mut(&id) else {
            return; // It has left.
        };
        let before = player.place;
        if player.may_step(self.tick) {
            player.place = before.after(step);
        }
        let (place, zone) = (player.place, player.zone());
        let number = step.number;
        self.server.send_packet_to(id, &SHere { number, place });
        if place != before {
            self.look(id, Some(Zone::of(before)), zone);
            self.tell_neighbours(id, place);
        }
    }

    fn say(&mut self, id: SessionId, text: &str) {
        if let Some(player) = self.players.get(&id) {
            let said = SSaid { who: id.into() };
            self.server.broadcast_to(player.zone().group(), &said, text);
        }
    }

    fn tell_neighbours(&self, id: SessionId, place: Place) {
        let seen = SSeen {
            who: id.into(),
            place,
        };
        let group = Zone::of(place).group();
        self.server.broadcast_packet_to_others(group, id, &seen);
    }

    /// A player in zone `from`, or in none, is now in zone `to`. It learns which players have come into its
    /// sight and which are out of it, and they learn that it is out of theirs.
    fn look(&self, id: SessionId, from: Option<Zone>, to: Zone) {
        if from == Some(to) {
            return;
        }
        let saw = |zone| from.is_some_and(|from| from.sees(zone));
        for zone in from.into_iter().flat_map(Zone::around) {
            if !to.sees(zone) {
                self.server.leave(id, zone.group());
            }
        }
        for zone in to.around() {
            if !saw(zone) {
                self.server.join(id, zone.group());
            }
        }
        for (&other, player) in self.players.iter().filter(|(other, _)| **other != id) {
            let (who, place) = (other.into(), player.place);
            match (saw(player.zone()), to.sees(player.zone())) {
                (false, true) => self.server.send_packet_to(id, &SSeen { who, place }),
                (true, false) => {
                    self.server.send_packet_to(id, &SGone { who });
                    self.server.send_packet_to(other, &SGone { who: id.into() });
                }
                _ => {}
            }
        }
    }
}
