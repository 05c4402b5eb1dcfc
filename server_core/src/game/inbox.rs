//! What the players have sent since the last tick, and whose packets the tick handles. No clock, no socket, no
//! thread.

use crate::base::id::SessionId;
use crate::base::reason::DisconnectReason;
use crate::protocol::packet::Packet;
use crate::session::LoginAnswer;
use crate::session::message::MessageRoom;
use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The inputs of one worker's players, in order. A worker fills a batch, and the game thread exchanges the
/// batch for an empty one. The memory is used again.
#[derive(Debug, Default)]
pub struct Batch {
    items: Vec<Item>,
    payloads: Vec<u8>,
    joins: usize,
}

#[derive(Debug)]
enum Item {
    Join(SessionId, Arc<Waiting>),
    Packet(SessionId, PacketHead),
    Login(SessionId, LoginAnswer),
    Message(SessionId, Box<Posted>),
    Leave(SessionId, DisconnectReason),
    /// The player has moved to another room: its further items are there.
    Moved(SessionId),
}

/// A message of another thread. Its room is given back when the game has handled it.
#[derive(Debug)]
struct Posted {
    message: Box<dyn Any + Send>,
    _room: Option<MessageRoom>,
}

#[derive(Clone, Copy, Debug)]
struct PacketHead {
    id: u16,
    payload_bytes: u32,
}

/// The bytes of one player's waiting packets. Its worker adds, the game thread subtracts. The player counts from
/// [`new`](Self::new) until the game thread has handled its end and its worker has dropped it.
#[derive(Debug)]
pub struct Waiting {
    bytes: AtomicUsize,
    /// The worker does not read the player until none of these bytes waits.
    is_paused: AtomicBool,
    /// The room whose batch gets the next item.
    place: AtomicUsize,
    players: Arc<AtomicUsize>,
}

/// The charge for a packet that waits, besides its payload.
pub const PACKET_BYTES: usize = 32;
/// The charge for each byte of the smallest packet.
const MAX_CHARGE_PER_BYTE: usize = PACKET_BYTES / crate::base::wire::HEADER_BYTES;
/// The shortest read.
const MIN_READ_BYTES: usize = 256;
/// Players that one batch takes.
const MAX_JOINS: usize = 1 << 14;
/// Memory of an empty buffer that is kept whatever its use.
const KEPT_BYTES: usize = 4 << 10;

/// One event for the game.
#[derive(Debug)]
pub enum Input<'a> {
    /// A player's first event.
    Join(SessionId),
    /// A packet of a player.
    Packet(SessionId, Packet<'a>),
    /// The answer to a login of a player.
    Login(SessionId, LoginAnswer),
    /// A message of another thread to a player.
    Message(SessionId, Box<dyn Any + Send>),
    /// Nothing of a player that has paused waits any more: it is read again.
    Resume(SessionId),
    /// A player has come from another room.
    Arrive(SessionId, Box<dyn Any + Send>),
    /// A player's last event.
    Leave(SessionId, DisconnectReason),
}

/// The game, as an inbox sees it.
pub trait Receiver {
    /// Hands an event to the game. Returns whether the player of a packet stays: otherwise its further packets are
    /// dropped.
    fn handle(&mut self, input: Input<'_>) -> bool;

    /// Whether the game has asked to move a player since the last [`take_moves`](Self::take_moves).
    fn moves(&self, player: SessionId) -> bool {
        let _ = player;
        false
    }

    /// Takes the moves that the game has asked for.
    fn take_moves(&mut self) -> Vec<Move> {
        Vec::new()
    }

    /// The batch of this room that has the items of a player, locked while `change` runs.
    fn with_batch(&mut self, player: SessionId, change: impl FnOnce(&mut Batch)) {
        let _ = (player, change);
    }

    /// Takes a player that leaves for another room.
    fn depart(&mut self, traveller: Traveller) {
        let _ = traveller;
    }
}

impl<F: FnMut(Input<'_>) -> bool> Receiver for F {
    fn handle(&mut self, input: Input<'_>) -> bool {
        self(input)
    }
}

/// The wish of a game to move a player to another room.
#[derive(Debug)]
pub struct Move {
    /// The player.
    pub player: SessionId,
    /// The number of the room.
    pub to: usize,
    /// What the game there gets.
    pub state: Box<dyn Any + Send>,
}

/// A player on its way to another room, with all that waits of it.
#[derive(Debug)]
pub struct Traveller {
    wish: Move,
    player: Player,
    held: Vec<Held>,
}

impl Traveller {
    /// The number of the room.
    #[must_use]
    pub fn to(&self) -> usize {
        self.wish.to
    }
}

/// What came for a player while it was on its way.
#[derive(Debug)]
enum Held {
    /// The id, and the payload.
    Packet(u16, Box<[u8]>),
    Login(LoginAnswer),
    Message(Box<Posted>),
    Leave(DisconnectReason),
}

/// Hands the batches to the game, within an equal share of the tick for each player.
#[derive(Debug)]
pub struct Inbox {
    packets_per_tick: u32,
    tick: u64,
    players: HashMap<SessionId, Player>,
    /// Players with packets beyond their share of an earlier tick.
    behind: Vec<SessionId>,
    /// What came for players that have not arrived yet.
    early: HashMap<SessionId, Vec<Held>>,
}

#[derive(Debug)]
struct Player {
    waiting: Arc<Waiting>,
    /// The tick in which a packet was handled last, and the number of packets that it has handled.
    tick: u64,
    handled: u32,
    /// Packets beyond the share, each with its head, from `rest_start` on.
    rest: Vec<u8>,
    rest_start: usize,
    /// The player has left; its last packets wait.
    leaves: Option<DisconnectReason>,
    /// The game has kicked it: no packet is handled any more.
    is_kicked: bool,
    /// The player leaves for another room, with the items that are held: it has no events here any more.
    travel: Option<(Move, Vec<Held>)>,
}

impl Waiting {
    /// Nothing waits. `players` goes up by one.
    #[must_use]
    pub fn new(players: &Arc<AtomicUsize>) -> Self {
        players.fetch_add(1, Ordering::Relaxed);
        Self {
            bytes: AtomicUsize::new(0),
            is_paused: AtomicBool::new(false),
            place: AtomicUsize::new(0),
            players: Arc::clone(players),
        }
    }

    /// The bytes to read from the player, so that no more than `limit_bytes` wait, or one packet and 2 KiB beyond.
    /// 0: the player pauses until the game has handled what waits. Then [`Input::Resume`] comes.
    pub fn room(&self, limit_bytes: usize) -> usize {
        let bytes = self.bytes();
        if bytes == 0 || bytes < limit_bytes {
            let room = limit_bytes.saturating_sub(bytes) / MAX_CHARGE_PER_BYTE;
            return room.max(MIN_READ_BYTES);
        }
        self.is_paused.store(true, Ordering::SeqCst);
        // The game may have handled the last packet before it could see the pause.
        let resumes = self.bytes() == 0 && self.is_paused.swap(false, Ordering::SeqCst);
        if resumes { MIN_READ_BYTES } else { 0 }
    }

    /// The number of the player's room.
    #[must_use]
    pub fn place(&self) -> usize {
        self.place.load(Ordering::Acquire)
    }

    /// Adds a packet.
    pub fn add(&self, payload_bytes: usize) {
        (self.bytes).fetch_add(payload_bytes + PACKET_BYTES, Ordering::Relaxed);
    }

    /// Adds the answer to a login.
    pub fn add_login(&self) {
        self.add(0);
    }

    /// Subtracts a packet. Returns whether the player has paused, and nothing of it waits any more.
    #[must_use]
    fn sub(&self, payload_bytes: usize) -> bool {
        let bytes = payload_bytes + PACKET_BYTES;
        let before = self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        before == bytes && self.is_paused.swap(false, Ordering::SeqCst)
    }

    /// The bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }
}

impl Default for Waiting {
    /// A player without others.
    fn default() -> Self {
        Self::new(&Arc::default())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.players.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Batch {
    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Adds a new player. Returns whether there was room: the game may be so far behind that more and more
    /// players come and go meanwhile.
    pub fn join(&mut self, player: SessionId, waiting: Arc<Waiting>) -> bool {
        let has_room = self.joins < MAX_JOINS;
        if has_room {
            self.joins += 1;
            self.items.push(Item::Join(player, waiting));
        }
        has_room
    }

    /// Adds a packet, which its player's [`Waiting`] has counted.
    pub fn packet(&mut self, player: SessionId, packet: &Packet<'_>) {
        let head = PacketHead::of(packet);
        self.items.push(Item::Packet(player, head));
        self.payloads.extend_from_slice(packet.payload());
    }

    /// Adds the answer to a login, which its player's [`Waiting`] has counted.
    pub fn login(&mut self, player: SessionId, answer: LoginAnswer) {
        self.items.push(Item::Login(player, answer));
    }

    /// Adds a message. As long as it waits, `room` bounds the messages of its worker.
    pub fn message(
        &mut self,
        player: SessionId,
        message: Box<dyn Any + Send>,
        room: Option<MessageRoom>,
    ) {
        let posted = Posted {
            message,
            _room: room,
        };
        self.items.push(Item::Message(player, Box::new(posted)));
    }

    /// The player's further items are in a batch of this room. The caller holds the lock of this batch.
    fn moved(&mut self, player: SessionId, waiting: &Waiting, to: usize) {
        self.items.push(Item::Moved(player));
        waiting.place.store(to, Ordering::Release);
    }

    /// Adds the end of a player that has joined.
    pub fn leave(&mut self, player: SessionId, reason: DisconnectReason) {
        self.items.push(Item::Leave(player, reason));
    }
}

impl PacketHead {
    const BYTES: usize = 6;

    fn of(packet: &Packet<'_>) -> Self {
        Self {
            id: packet.id(),
            payload_bytes: packet.payload().len() as u32,
        }
    }

    fn write(self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.id.to_le_bytes());
        to.extend_from_slice(&self.payload_bytes.to_le_bytes());
    }

    /// Reads the next packet of a buffer that [`write`](Self::write) has filled.
    fn read(from: &[u8]) -> Option<Packet<'_>> {
        let (id, rest) = from.split_first_chunk()?;
        let (bytes, rest) = rest.split_first_chunk()?;
        let payload = rest.get(..u32::from_le_bytes(*bytes) as usize)?;
        Some(Packet::new(u16::from_le_bytes(*id), payload))
    }
}

impl Inbox {
    /// An inbox that hands on up to `packets_per_tick` packets of each player in a tick.
    #[must_use]
    pub fn new(packets_per_tick: u32) -> Self {
        Self {
            packets_per_tick,
            tick: 0,
            players: HashMap::new(),
            behind: Vec::new(),
            early: HashMap::new(),
        }
    }

    /// Begins a tick with the packets beyond the shares of earlier ticks.
    pub fn begin_tick(&mut self, game: &mut impl Receiver) {
        self.tick += 1;
        let mut behind = std::mem::take(&mut self.behind);
        behind.retain(|id| {
            let Some(player) = self.players.get_mut(id) else {
                return false;
            };
            player.handle_rest(*id, self.tick, self.packets_per_tick, game);
            self.begin_moves(game);
            let Some(player) = self.players.get(id) else {
                return false;
            };
            let is_behind = player.is_behind();
            if !is_behind
                && player.travel.is_none()
                && let Some(reason) = player.leaves
            {
                self.players.remove(id);
                game.handle(Input::Leave(*id, reason));
                self.begin_moves(game);
            }
            is_behind
        });
        self.behind = behind;
    }

    /// Takes all items of a batch.
    pub fn take(&mut self, batch: &mut Batch, game: &mut impl Receiver) {
        let mut payloads = batch.payloads.as_slice();
        let mut items = std::mem::take(&mut batch.items);
        let used_items = items.len();
        for item in items.drain(..) {
            match item {
                Item::Join(id, waiting) => {
                    self.players.insert(id, Player::new(waiting));
                    game.handle(Input::Join(id));
                }
                Item::Packet(id, head) => {
                    let (payload, rest) = payloads.split_at(head.payload_bytes as usize);
                    payloads = rest;
                    self.take_packet(id, Packet::new(head.id, payload), game);
                }
                Item::Login(id, answer) => self.take_held(id, Held::Login(answer), game),
                Item::Message(id, posted) => self.take_held(id, Held::Message(posted), game),
                Item::Leave(id, reason) => self.take_held(id, Held::Leave(reason), game),
                Item::Moved(id) => {
                    if let Some(mut player) = self.players.remove(&id)
                        && let Some((wish, held)) = player.travel.take()
                    {
                        game.depart(Traveller { wish, player, held });
                    }
                }
            }
            self.begin_moves(game);
        }
        batch.joins = 0;
        batch.items = items;
        clear(&mut batch.items, used_items);
        let used_bytes = batch.payloads.len();
        clear(&mut batch.payloads, used_bytes);
    }

    /// Takes in a player from another room, with all that has waited of it.
    pub fn arrive(&mut self, traveller: Traveller, game: &mut impl Receiver) {
        let Traveller {
            wish,
            mut player,
            held,
        } = traveller;
        let id = wish.player;
        let leaves = player.leaves.take();
        self.players.insert(
            id,
            Player {
                tick: 0,
                handled: 0,
                ..player
            },
        );
        game.handle(Input::Arrive(id, wish.state));
        self.begin_moves(game);
        if let Some(player) = self.players.get_mut(&id) {
            player.handle_rest(id, self.tick, self.packets_per_tick, game);
            if player.is_behind() {
                // A packet below lists a player that is not behind.
                self.behind.push(id);
            }
            self.begin_moves(game);
        }
        let early = self.early.remove(&id).unwrap_or_default();
        let leaves = leaves.map(Held::Leave);
        for held in held.into_iter().chain(early).chain(leaves) {
            self.take_held(id, held, game);
            self.begin_moves(game);
        }
    }

    /// Begins the moves that the game has asked for. A second move of a player that is on its way is dropped, and so is
    /// the move of a player that has left.
    pub fn begin_moves(&mut self, game: &mut impl Receiver) {
        for wish in game.take_moves() {
            let (id, to) = (wish.player, wish.to);
            if let Some(player) = self.players.get_mut(&id)
                && player.travel.is_none()
            {
                player.travel = Some((wish, Vec::new()));
                game.with_batch(id, |batch| batch.moved(id, &player.waiting, to));
            }
        }
    }

    fn take_packet(&mut self, id: SessionId, packet: Packet<'_>, game: &mut impl Receiver) {
        let Some(player) = self.players.get_mut(&id) else {
            let early = Held::Packet(packet.id(), packet.payload().into());
            self.early.entry(id).or_default().push(early);
            return;
        };
        let was_behind = player.is_behind();
        player.take(id, packet, self.tick, self.packets_per_tick, game);
        if !was_behind && player.is_behind() {
            self.behind.push(id);
        }
    }

    fn take_held(&mut self, id: SessionId, held: Held, game: &mut impl Receiver) {
        if let Held::Packet(packet_id, payload) = held {
            self.take_packet(id, Packet::new(packet_id, &payload), game);
            return;
        }
        let Some(player) = self.players.get_mut(&id) else {
            self.early.entry(id).or_default().push(held);
            return;
        };
        if let Some((_, of_travel)) = &mut player.travel {
            of_travel.push(held);
            return;
        }
        match held {
            Held::Login(answer) => {
                player.count_out(id, 0, game);
                if !player.is_kicked {
                    game.handle(Input::Login(id, answer));
                }
            }
            Held::Message(posted) if !player.is_kicked => {
                game.handle(Input::Message(id, posted.message));
            }
            Held::Leave(reason) => {
                if player.is_behind() && reason == DisconnectReason::PeerClosed {
                    player.leaves = Some(reason);
                } else {
                    // Its entry in `behind` goes in the next tick.
                    self.players.remove(&id);
                    game.handle(Input::Leave(id, reason));
                }
            }
            Held::Message(_) | Held::Packet(..) => {}
        }
    }

    /// Whether packets of any player wait for a later tick.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// The players that have joined and not left.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn players(&self) -> usize {
        self.players.len()
    }
}

impl Player {
    fn new(waiting: Arc<Waiting>) -> Self {
        Self {
            waiting,
            tick: 0,
            handled: 0,
            rest: Vec::new(),
            rest_start: 0,
            leaves: None,
            is_kicked: false,
            travel: None,
        }
    }

    fn is_behind(&self) -> bool {
        self.rest_start < self.rest.len()
    }

    /// Whether the share of this tick has room for one more packet, which is counted then.
    fn has_share(&mut self, tick: u64, packets_per_tick: u32) -> bool {
        if self.tick != tick {
            self.tick = tick;
            self.handled = 0;
        }
        let has_share = self.handled < packets_per_tick;
        self.handled += u32::from(has_share);
        has_share
    }

    /// A packet of this player waits no more.
    fn count_out(&self, id: SessionId, payload_bytes: usize, game: &mut impl Receiver) {
        if self.waiting.sub(payload_bytes) {
            game.handle(Input::Resume(id));
        }
    }

    fn take(
        &mut self,
        id: SessionId,
        packet: Packet<'_>,
        tick: u64,
        packets_per_tick: u32,
        game: &mut impl Receiver,
    ) {
        if self.is_kicked {
            self.count_out(id, packet.payload().len(), game);
        } else if self.travel.is_some()
            || self.is_behind()
            || !self.has_share(tick, packets_per_tick)
        {
            PacketHead::of(&packet).write(&mut self.rest);
            self.rest.extend_from_slice(packet.payload());
        } else {
            self.count_out(id, packet.payload().len(), game);
            self.is_kicked = !game.handle(Input::Packet(id, packet));
        }
    }

    fn handle_rest(
        &mut self,
        id: SessionId,
        tick: u64,
        packets_per_tick: u32,
        game: &mut impl Receiver,
    ) {
        while self.is_behind()
            && self.travel.is_none()
            && !game.moves(id)
            && (self.is_kicked || self.has_share(tick, packets_per_tick))
        {
            let Some(packet) = (self.rest.get(self.rest_start..)).and_then(PacketHead::read) else {
                debug_assert!(false, "the rest ends with a packet");
                self.rest_start = self.rest.len();
                break;
            };
            let payload_bytes = packet.payload().len();
            if self.waiting.sub(payload_bytes) {
                game.handle(Input::Resume(id));
            }
            if !self.is_kicked {
                self.is_kicked = !game.handle(Input::Packet(id, packet));
            }
            self.rest_start += PacketHead::BYTES + payload_bytes;
        }
        if !self.is_behind() {
            self.rest_start = 0;
            let used = self.rest.len();
            clear(&mut self.rest, used);
        } else if self.rest_start > self.rest.len() / 2 {
            self.rest.drain(..self.rest_start);
            self.rest_start = 0;
        }
    }
}

/// Clears a buffer for its next use. Memory that only a flood has needed goes back.
fn clear<T>(buffer: &mut Vec<T>, used: usize) {
    let used = used.max(KEPT_BYTES / size_of::<T>());
    buffer.clear();
    if buffer.capacity() / 8 > used {
        buffer.shrink_to(2 * used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::reason::Kick;
    use crate::session::message::MessageBytes;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// Packets of one player in one tick.
    const SHARE: u32 = 3;
    const LIMIT_BYTES: usize = 600;
    const PLAYERS: usize = 5;
    const WORKERS: usize = 2;

    #[derive(Clone, Debug)]
    enum Step {
        Join(usize),
        /// With this many bytes behind its number. The game kicks for a packet of 13 bytes.
        Packet(usize, usize),
        Post(usize),
        Login(usize, bool),
        Leave(usize, bool),
        Tick,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (0..PLAYERS).prop_map(Step::Join),
            20 => (0..PLAYERS, 0_usize..40).prop_map(|(player, bytes)| Step::Packet(player, bytes)),
            // A flood of the first player.
            10 => (0_usize..12).prop_map(|bytes| Step::Packet(0, bytes)),
            3 => (0..PLAYERS).prop_map(Step::Post),
            2 => (0..PLAYERS, any::<bool>()).prop_map(|(player, is_new)| Step::Login(player, is_new)),
            1 => (0..PLAYERS, any::<bool>()).prop_map(|(player, closes)| Step::Leave(player, closes)),
            4 => Just(Step::Tick),
        ]
    }

    /// What one session has sent, and what the game has seen of it.
    #[derive(Debug, Default)]
    struct Model {
        waiting: Arc<Waiting>,
        sent: u32,
        /// The payloads that its worker has not read, and whether a FIN is behind them.
        socket: VecDeque<Vec<u8>>,
        has_sent_fin: bool,
        is_paused: bool,
        /// Packets that its worker has read.
        read: u32,
        kicks_at: Option<u32>,
        left: Option<DisconnectReason>,
        seen: u32,
        seen_in_tick: u32,
        has_joined: bool,
        is_gone: bool,
        posted: u32,
        messages: u32,
        logins: VecDeque<LoginAnswer>,
    }

    impl Model {
        fn is_kicked(&self) -> bool {
            self.kicks_at.is_some_and(|at| self.seen > at)
        }

        /// Packets that the game has to see in a tick that begins now.
        fn due(&self) -> u32 {
            let is_dropped = self
                .left
                .is_some_and(|why| why != DisconnectReason::PeerClosed);
            // The packet of the kick is the last.
            let last = self.kicks_at.map_or(self.read, |at| self.read.min(at + 1));
            if is_dropped || self.is_gone {
                0
            } else {
                (last - self.seen.min(last)).min(SHARE)
            }
        }
    }

    #[derive(Default)]
    struct Rig {
        batches: [Batch; WORKERS],
        models: HashMap<SessionId, Model>,
        /// The session of each player that is connected.
        connected: [Option<SessionId>; PLAYERS],
        generation: u32,
        message_bytes: MessageBytes,
    }

    impl Rig {
        fn batch(&mut self, id: SessionId) -> &mut Batch {
            &mut self.batches[id.worker()]
        }

        fn join(&mut self, player: usize) {
            if self.connected[player].is_some() {
                return;
            }
            self.generation += 1;
            let worker = (player % WORKERS) as u8;
            let id = SessionId::new(self.generation, worker, player as u32);
            let model = Model::default();
            assert!(self.batch(id).join(id, Arc::clone(&model.waiting)));
            self.models.insert(id, model);
            self.connected[player] = Some(id);
        }

        fn packet(&mut self, player: usize, bytes: usize) {
            let Some(id) = self.connected[player] else {
                return;
            };
            let model = self.models.get_mut(&id).unwrap();
            let mut payload = model.sent.to_le_bytes().to_vec();
            payload.resize(payload.len() + bytes, 7);
            if bytes == 13 && model.kicks_at.is_none() {
                model.kicks_at = Some(model.sent);
            }
            model.sent += 1;
            model.socket.push_back(payload);
            self.read(id);
        }

        /// Its worker reads a player until nothing is left, or until it pauses.
        fn read(&mut self, id: SessionId) {
            let model = self.models.get_mut(&id).unwrap();
            while !model.is_paused && !model.socket.is_empty() {
                let mut room = model.waiting.room(LIMIT_BYTES);
                model.is_paused = room == 0;
                // A read may end within a packet, and the next one brings the rest.
                while room > 0
                    && let Some(payload) = model.socket.pop_front()
                {
                    room = room.saturating_sub(payload.len() + 4);
                    model.waiting.add(payload.len());
                    model.read += 1;
                    self.batches[id.worker()].packet(id, &Packet::new(7, &payload));
                }
                let most = MIN_READ_BYTES * MAX_CHARGE_PER_BYTE + PACKET_BYTES + 44;
                assert!(model.waiting.bytes() <= LIMIT_BYTES + most);
            }
            if model.has_sent_fin && model.socket.is_empty() && model.left.is_none() {
                model.left = Some(DisconnectReason::PeerClosed);
                self.batch(id).leave(id, DisconnectReason::PeerClosed);
            }
        }

        fn post(&mut self, player: usize) {
            let room = self.message_bytes.reserve(100, usize::MAX);
            if let Some(id) = self.connected[player] {
                let model = self.models.get_mut(&id).unwrap();
                let number = model.posted;
                model.posted += 1;
                self.batch(id).message(id, Box::new(number), room);
            }
        }

        fn login(&mut self, player: usize, is_new: bool) {
            if let Some(id) = self.connected[player] {
                let answer = if is_new {
                    LoginAnswer::Granted
                } else {
                    LoginAnswer::Replaced
                };
                let model = self.models.get_mut(&id).unwrap();
                model.waiting.add_login();
                model.logins.push_back(answer);
                self.batch(id).login(id, answer);
            }
        }

        fn leave(&mut self, player: usize, closes: bool) {
            let Some(id) = self.connected[player].take() else {
                return;
            };
            let model = self.models.get_mut(&id).unwrap();
            if closes {
                model.has_sent_fin = true;
                self.read(id);
            } else {
                let reason = Kick::BadPayload.into();
                model.left = Some(reason);
                model.socket.clear();
                self.batch(id).leave(id, reason);
            }
        }

        fn tick(&mut self, inbox: &mut Inbox) {
            for model in self.models.values_mut() {
                model.seen_in_tick = 0;
            }
            let due: Vec<(SessionId, u32)> = (self.models.iter())
                .map(|(id, model)| (*id, model.due()))
                .collect();
            let (models, mut resumed) = (&mut self.models, Vec::new());
            let mut handle = |input: Input<'_>| match input {
                Input::Join(id) => {
                    let model = models.get_mut(&id).unwrap();
                    assert!(!std::mem::replace(&mut model.has_joined, true));
                    true
                }
                Input::Packet(id, packet) => {
                    let model = models.get_mut(&id).unwrap();
                    assert!(model.has_joined && !model.is_gone && !model.is_kicked());
                    let (number, rest) = packet.payload().split_first_chunk().unwrap();
                    assert_eq!(u32::from_le_bytes(*number), model.seen, "in order, once");
                    assert!(packet.id() == 7 && rest.iter().all(|byte| *byte == 7));
                    model.seen += 1;
                    model.seen_in_tick += 1;
                    !model.is_kicked()
                }
                Input::Message(id, message) => {
                    let model = models.get_mut(&id).unwrap();
                    assert!(model.has_joined && !model.is_gone && !model.is_kicked());
                    assert_eq!(*message.downcast::<u32>().unwrap(), model.messages);
                    model.messages += 1;
                    true
                }
                Input::Login(id, answer) => {
                    let model = models.get_mut(&id).unwrap();
                    assert!(model.has_joined && !model.is_gone && !model.is_kicked());
                    assert_eq!(Some(answer), model.logins.pop_front());
                    true
                }
                Input::Arrive(id, _) => panic!("{id} moves"),
                Input::Resume(id) => {
                    let model = &models[&id];
                    assert!(model.is_paused && model.waiting.bytes() == 0);
                    resumed.push(id);
                    true
                }
                Input::Leave(id, reason) => {
                    let model = models.get_mut(&id).unwrap();
                    assert!(model.has_joined && !model.is_gone);
                    assert_eq!(Some(reason), model.left);
                    model.is_gone = true;
                    true
                }
            };
            inbox.begin_tick(&mut handle);
            for batch in &mut self.batches {
                inbox.take(batch, &mut handle);
            }
            for (id, due) in due {
                let model = &self.models[&id];
                let is_dropped = model
                    .left
                    .is_some_and(|why| why != DisconnectReason::PeerClosed);
                // However much the others send. Of a player that was thrown out, packets in the batch
                // before its end may still be seen.
                assert!(model.seen_in_tick == due || is_dropped && model.seen_in_tick <= SHARE);
                assert!(model.has_joined);
                let is_done = model.seen == model.read || model.is_kicked();
                assert_eq!(
                    model.is_gone,
                    model.left.is_some() && (is_dropped || is_done)
                );
                if is_done && !is_dropped {
                    assert_eq!(model.waiting.bytes(), 0);
                }
                if !model.is_kicked() {
                    // Behind no packet that waits.
                    assert_eq!((model.messages, model.logins.len()), (model.posted, 0));
                }
            }
            assert_eq!(self.message_bytes.get(), 0, "the rooms are given back");
            let here = self.models.values().filter(|model| !model.is_gone).count();
            assert_eq!(inbox.players(), here);
            for id in resumed {
                let model = self.models.get_mut(&id).unwrap();
                assert!(std::mem::take(&mut model.is_paused), "once for each pause");
                self.read(id);
            }
        }
    }

    proptest! {
        #[test]
        fn each_player_has_its_share_in_order_whatever_the_others_send(
            steps in prop::collection::vec(step(), 0..400),
        ) {
            let (mut rig, mut inbox) = (Rig::default(), Inbox::new(SHARE));
            for step in steps {
                match step {
                    Step::Join(player) => rig.join(player),
                    Step::Packet(player, bytes) => rig.packet(player, bytes),
                    Step::Post(player) => rig.post(player),
                    Step::Login(player, is_new) => rig.login(player, is_new),
                    Step::Leave(player, closes) => rig.leave(player, closes),
                    Step::Tick => rig.tick(&mut inbox),
                }
            }
            (0..PLAYERS).for_each(|player| rig.leave(player, true));
            // As many as one player has sent.
            for _ in 0..400 {
                rig.tick(&mut inbox);
            }
            prop_assert_eq!((inbox.players(), inbox.behind.len()), (0, 0));
            for model in rig.models.values() {
                let is_whole = model.left == Some(DisconnectReason::PeerClosed) && model.kicks_at.is_none();
                prop_assert!(!is_whole || model.seen == model.sent, "no packet is lost");
            }
        }
    }

    #[test]
    fn memory_of_a_flood_goes_back_and_that_of_steady_use_stays() {
        let clear = |buffer: &mut Vec<u8>| clear(buffer, buffer.len());
        let mut buffer = vec![0; 1 << 20];
        clear(&mut buffer);
        assert!(buffer.capacity() >= 1 << 20, "as much may come again");
        for _ in 0..3 {
            buffer.resize(10_000, 0);
            clear(&mut buffer);
        }
        assert!(
            (10_000..=20_000).contains(&buffer.capacity()),
            "{}",
            buffer.capacity()
        );
        let memory = buffer.as_ptr();
        for _ in 0..100 {
            buffer.resize(10_000, 0);
            clear(&mut buffer);
            assert_eq!(buffer.as_ptr(), memory);
        }
    }

    #[test]
    fn players_that_come_and_go_while_the_game_stands_still_are_bounded() {
        let mut batch = Batch::default();
        let ids = (1..).map(|generation| SessionId::new(generation, 0, 0));
        let joined = ids.take_while(|id| {
            let has_joined = batch.join(*id, Arc::default());
            if has_joined {
                batch.leave(*id, DisconnectReason::PeerClosed);
            }
            has_joined
        });
        assert_eq!(joined.count(), MAX_JOINS);
        let (mut inbox, mut left) = (Inbox::new(1), 0);
        inbox.take(&mut batch, &mut |input: Input<'_>| {
            left += usize::from(matches!(input, Input::Leave(..)));
            true
        });
        assert_eq!((left, inbox.players()), (MAX_JOINS, 0));
        assert!(batch.join(SessionId::new(1, 0, 1), Arc::default()));
    }

    #[test]
    fn player_that_has_left_counts_until_its_last_packet_is_handled() {
        let (mut batch, mut inbox) = (Batch::default(), Inbox::new(1));
        let (id, players) = (SessionId::new(1, 0, 0), Arc::default());
        let waiting = Arc::new(Waiting::new(&players));
        assert!(batch.join(id, Arc::clone(&waiting)));
        for _ in 0..3 {
            waiting.add(0);
            batch.packet(id, &Packet::new(7, &[]));
        }
        batch.leave(id, DisconnectReason::PeerClosed);
        drop(waiting);
        inbox.take(&mut batch, &mut |_: Input<'_>| true);
        let mut counts = vec![players.load(Ordering::Relaxed)];
        for _ in 0..2 {
            inbox.begin_tick(&mut |_: Input<'_>| true);
            counts.push(players.load(Ordering::Relaxed));
        }
        assert_eq!(counts, [1, 1, 0]);
    }

    /// Rooms of one game, over one worker each: what the batches and the players between the rooms have.
    mod rooms {
        use super::*;

        const ROOMS: usize = 3;
        const PLAYERS: usize = 4;

        /// What one session has sent, and what the rooms have seen of it.
        #[derive(Debug, Default)]
        struct Walker {
            waiting: Arc<Waiting>,
            sent: u32,
            posted: u32,
            seen: u32,
            messages: u32,
            /// The room whose game has it. `None`: before it has joined, on its way, or after its end.
            room: Option<usize>,
            joins: u32,
            leaves: u32,
            has_closed: bool,
        }

        #[derive(Default)]
        struct World {
            batches: [Batch; ROOMS],
            arrivals: [Vec<Traveller>; ROOMS],
            walkers: HashMap<SessionId, Walker>,
            travelling: usize,
        }

        /// The game of a room: a packet whose payload ends with a number of a room moves its player there.
        struct Game<'a> {
            room: usize,
            world: &'a mut World,
            moves: Vec<Move>,
        }

        impl Game<'_> {
            fn walker(&mut self, id: SessionId) -> &mut Walker {
                let walker = self.world.walkers.get_mut(&id).unwrap();
                assert_eq!(walker.room, Some(self.room), "an event in another room");
                walker
            }

            fn move_player(&mut self, player: SessionId, to: usize) {
                let state = Box::new((player, to));
                self.moves.push(Move { player, to, state });
                self.walker(player).room = None;
            }
        }

        impl Receiver for Game<'_> {
            fn handle(&mut self, input: Input<'_>) -> bool {
                match input {
                    Input::Join(id) => {
                        let walker = self.world.walkers.get_mut(&id).unwrap();
                        assert_eq!((walker.joins, walker.room, self.room), (0, None, 0));
                        (walker.joins, walker.room) = (1, Some(self.room));
                    }
                    Input::Arrive(id, state) => {
                        assert_eq!(
                            *state.downcast::<(SessionId, usize)>().unwrap(),
                            (id, self.room)
                        );
                        let walker = self.world.walkers.get_mut(&id).unwrap();
                        assert_eq!((walker.joins, walker.room), (1, None));
                        walker.room = Some(self.room);
                    }
                    Input::Packet(id, packet) => {
                        let walker = self.walker(id);
                        let (number, rest) = packet.payload().split_first_chunk().unwrap();
                        assert_eq!(u32::from_le_bytes(*number), walker.seen, "in order, once");
                        walker.seen += 1;
                        if let [to] = rest {
                            self.move_player(id, (*to).into());
                        }
                    }
                    Input::Message(id, message) => {
                        let walker = self.walker(id);
                        assert_eq!(*message.downcast::<u32>().unwrap(), walker.messages);
                        walker.messages += 1;
                    }
                    Input::Leave(id, _) => {
                        let walker = self.walker(id);
                        walker.leaves += 1;
                        walker.room = None;
                    }
                    Input::Login(..) | Input::Resume(_) => {}
                }
                true
            }

            fn moves(&self, player: SessionId) -> bool {
                self.moves.iter().any(|wish| wish.player == player)
            }

            fn take_moves(&mut self) -> Vec<Move> {
                std::mem::take(&mut self.moves)
            }

            fn with_batch(&mut self, _: SessionId, change: impl FnOnce(&mut Batch)) {
                self.world.travelling += 1;
                change(&mut self.world.batches[self.room]);
            }

            fn depart(&mut self, traveller: Traveller) {
                self.world.arrivals[traveller.to()].push(traveller);
            }
        }

        fn turn(
            world: &mut World,
            inboxes: &mut [Inbox],
            room: usize,
            moves: Option<(SessionId, usize)>,
        ) {
            let (inbox, arrivals) = (
                &mut inboxes[room],
                std::mem::take(&mut world.arrivals[room]),
            );
            let mut batch = std::mem::take(&mut world.batches[room]);
            world.travelling -= arrivals.len();
            let mut game = Game {
                room,
                world,
                moves: Vec::new(),
            };
            inbox.begin_tick(&mut game);
            for traveller in arrivals {
                inbox.arrive(traveller, &mut game);
            }
            inbox.take(&mut batch, &mut game);
            let listed: std::collections::HashSet<_> = inbox.behind.iter().collect();
            assert_eq!(listed.len(), inbox.behind.len(), "listed once");
            // As from `on_tick`.
            if let Some((player, to)) = moves
                && game.world.walkers[&player].room == Some(room)
            {
                game.move_player(player, to);
            }
            inbox.begin_moves(&mut game);
        }

        #[derive(Clone, Debug)]
        enum Step {
            Join(usize),
            /// With the room to move to, if there is one.
            Packet(usize, Option<u8>),
            Post(usize),
            Leave(usize, bool),
            Turn(usize),
            /// A turn whose tick moves a player.
            TurnAndMove(usize, usize, usize),
        }

        fn step() -> impl Strategy<Value = Step> {
            let room = 0..ROOMS;
            prop_oneof![
                2 => (0..PLAYERS).prop_map(Step::Join),
                12 => (0..PLAYERS).prop_map(|player| Step::Packet(player, None)),
                3 => (0..PLAYERS, 0..ROOMS as u8).prop_map(|(player, to)| Step::Packet(player, Some(to))),
                3 => (0..PLAYERS).prop_map(Step::Post),
                1 => (0..PLAYERS, any::<bool>()).prop_map(|(player, closes)| Step::Leave(player, closes)),
                6 => room.clone().prop_map(Step::Turn),
                2 => (room.clone(), 0..PLAYERS, room).prop_map(|(at, player, to)| Step::TurnAndMove(at, player, to)),
            ]
        }

        proptest! {
            #[test]
            fn player_that_moves_loses_no_packet_and_has_each_event_in_one_room(
                steps in prop::collection::vec(step(), 0..400),
            ) {
                let mut world = World::default();
                let mut inboxes: Vec<_> = (0..ROOMS).map(|_| Inbox::new(SHARE)).collect();
                let mut connected: [Option<SessionId>; PLAYERS] = [None; PLAYERS];
                let mut generation = 0;
                for step in steps {
                    // The worker of a session puts each item into the batch of the player's place.
                    match step {
                        Step::Join(player) if connected[player].is_none() => {
                            generation += 1;
                            let id = SessionId::new(generation, 0, player as u32);
                            let walker = Walker::default();
                            world.batches[0].join(id, Arc::clone(&walker.waiting));
                            world.walkers.insert(id, walker);
                            connected[player] = Some(id);
                        }
                        Step::Packet(player, to) => if let Some(id) = connected[player] {
                            let walker = world.walkers.get_mut(&id).unwrap();
                            let mut payload = walker.sent.to_le_bytes().to_vec();
                            payload.extend(to);
                            walker.sent += 1;
                            walker.waiting.add(payload.len());
                            world.batches[walker.waiting.place()].packet(id, &Packet::new(7, &payload));
                        },
                        Step::Post(player) => if let Some(id) = connected[player] {
                            let walker = world.walkers.get_mut(&id).unwrap();
                            world.batches[walker.waiting.place()].message(id, Box::new(walker.posted), None);
                            walker.posted += 1;
                        },
                        Step::Leave(player, closes) => if let Some(id) = connected[player].take() {
                            let walker = world.walkers.get_mut(&id).unwrap();
                            walker.has_closed = closes;
                            let reason = if closes { DisconnectReason::PeerClosed } else { Kick::BadPayload.into() };
                            world.batches[walker.waiting.place()].leave(id, reason);
                        },
                        Step::Turn(room) => turn(&mut world, &mut inboxes, room, None),
                        Step::TurnAndMove(room, player, to) => {
                            let wish = connected[player].map(|id| (id, to));
                            turn(&mut world, &mut inboxes, room, wish);
                        }
                        Step::Join(_) => {}
                    }
                }
                for id in connected.into_iter().flatten() {
                    let walker = world.walkers.get_mut(&id).unwrap();
                    walker.has_closed = true;
                    world.batches[walker.waiting.place()].leave(id, DisconnectReason::PeerClosed);
                }
                for _ in 0..400 {
                    (0..ROOMS).for_each(|room| turn(&mut world, &mut inboxes, room, None));
                }
                for walker in world.walkers.values() {
                    prop_assert_eq!((walker.joins, walker.leaves, walker.room), (1, 1, None));
                    prop_assert_eq!(walker.messages, walker.posted);
                    if walker.has_closed {
                        prop_assert_eq!((walker.seen, walker.waiting.bytes()), (walker.sent, 0));
                    }
                }
                prop_assert_eq!(world.travelling, 0);
                for inbox in &inboxes {
                    prop_assert_eq!((inbox.players(), inbox.behind.len(), inbox.early.len()), (0, 0, 0));
                }
            }
        }
    }
}
