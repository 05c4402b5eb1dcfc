//! A game on one thread: sessions forward their packets, and the game handles them in each tick.
//!
//! ```text
//!  worker threads                                           game thread
//! +--------------------+  a batch of inputs per worker    +------------------------------+
//! | GamePlayer:        | -------------------------------> | each tick:                   |
//! |  connect, packets, |  exchanged once a tick           |   Inbox: a share per player  |
//! |  disconnect        |                                  |   Game::on_join, on_packet,  |
//! +--------------------+                                  |   on_leave, then on_tick     |
//!           ^                                             +---------------+--------------+
//!           +-------------- ServerHandle: packets, closes, messages ------+
//! ```

mod context;
pub mod inbox;
mod player;

pub use context::GameContext;
pub use player::GamePlayer;

use crate::base::id::SessionId;
use crate::base::reason::{DisconnectReason, Kick};
use crate::protocol::packet::Packet;
use crate::server::ServerHandle;
use crate::server::schedule::Tick;
use crate::server::ticker::{TickMetrics, TickStopper, Ticker};
use crate::session::{LoginAnswer, Peer};
use inbox::{Batch, Inbox, Input, Move, Receiver, Traveller};
use player::Shared;
use std::any::Any;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// A game whose whole world belongs to one thread. [`GameLoop`] calls it; no method runs beside another.
///
/// A method delays all players: keep it short against the period of the ticks.
pub trait Game {
    /// A session has connected. Comes before the player's packets.
    fn on_join(&mut self, ctx: &mut GameContext<'_>, player: SessionId) {
        let _ = (ctx, player);
    }

    /// A packet of a player, before the tick that follows its arrival.
    ///
    /// # Errors
    /// Return the [`Kick`] that names the player's offence to end its session. Its later packets are not
    /// handled. The text of [`Kick::with_text`] reaches the player. For a text that is made at run time, call
    /// [`close_with`](ServerHandle::close_with) first and return the same kick: the first reason of an end counts.
    fn on_packet(
        &mut self,
        ctx: &mut GameContext<'_>,
        player: SessionId,
        packet: Packet<'_>,
    ) -> Result<(), Kick>;

    /// The login of a player is answered. The answers of a player come in order, before the next tick.
    fn on_login(&mut self, ctx: &mut GameContext<'_>, player: SessionId, answer: LoginAnswer) {
        let _ = (ctx, player, answer);
    }

    /// A message that a thread has [posted](crate::ServerHandle::post) to the session of a player, before the next
    /// tick: for example the player's data from a database. `downcast` returns the value by its type.
    ///
    /// Messages of one thread to one player arrive in their order. A message may overtake packets of the player
    /// that wait for a later tick. Until this call returns, the bytes of the message count in the limit of
    /// [`post`](crate::ServerHandle::post): while the game is behind, a post returns an error.
    fn on_message(
        &mut self,
        ctx: &mut GameContext<'_>,
        player: SessionId,
        message: Box<dyn Any + Send>,
    ) {
        let _ = (ctx, player, message);
    }

    /// A player has come from another room, with the state of
    /// [`GameContext::move_player`]. The default calls [`on_join`](Self::on_join).
    fn on_arrive(
        &mut self,
        ctx: &mut GameContext<'_>,
        player: SessionId,
        state: Box<dyn Any + Send>,
    ) {
        let _ = state;
        self.on_join(ctx, player);
    }

    /// The session of a player has ended: called once for each [`on_join`](Self::on_join), in the room of the player. No packet
    /// reaches the player any more.
    ///
    /// The packets of a player that closed its connection are handled before. Waiting packets of a player that
    /// left in another way are dropped.
    fn on_leave(&mut self, ctx: &mut GameContext<'_>, player: SessionId, reason: DisconnectReason) {
        let _ = (ctx, player, reason);
    }

    /// A tick, after the packets that have arrived.
    fn on_tick(&mut self, ctx: &mut GameContext<'_>, tick: Tick);
}

/// Runs a [`Game`] on the thread that calls [`run`](Self::run), at a fixed period.
///
/// The sessions of the server forward their packets to the game. A player that sends more than its share
/// delays itself: each tick handles up to [`packets_per_tick`](Self::packets_per_tick) packets of each
/// player, and the rest waits, in order. A player with more than
/// [`max_waiting_bytes`](Self::max_waiting_bytes) of waiting packets, or more than an equal share of
/// [`max_total_waiting_bytes`](Self::max_total_waiting_bytes), is not read until the game has handled these packets:
/// what it sends meanwhile waits in its socket. A worker never waits for the game.
///
/// While the game is behind, or does not run, what a player has sent waits, and the
/// [`login_timeout`](crate::Config::login_timeout) waits for the player's first packet: until the game of the room
/// that the packet came to has had three turns since. Four limits remain, also while the game is behind:
///
/// - A player that is not admitted ends as the oldest of more than
///   [`max_unadmitted`](crate::Config::max_unadmitted).
/// - A player ends as `server_full` at its join while 16,384 joins of its worker wait.
/// - The login timeout waits for no second packet. A login of several packets has to be complete in time, for example
///   a challenge and its response. Nor does the timeout wait for a first packet that goes to another room with its
///   player.
/// - The [`idle_timeout`](crate::Config::idle_timeout) counts from the last byte of the player: it ends a player that
///   is silent until the game answers.
///
/// ```
/// use server_core::{Game, GameContext, GameLoop, Kick, Packet, Server, SessionId, tick::Tick};
/// use std::collections::HashMap;
/// use std::time::Duration;
/// # use std::io::{Read, Write};
///
/// server_core::packets! {
///     client 1 => CStep { dx: i16 };
///     /// The tick, and for each player its id and its position.
///     server 2 => SWorld { tick: u64 } + bytes;
/// }
///
/// /// Plain data: one thread owns it.
/// #[derive(Default)]
/// struct World {
///     positions: HashMap<SessionId, i64>,
/// }
///
/// impl Game for World {
///     fn on_join(&mut self, _: &mut GameContext<'_>, player: SessionId) {
///         self.positions.insert(player, 0);
///     }
///
///     fn on_packet(
///         &mut self,
///         _: &mut GameContext<'_>,
///         player: SessionId,
///         packet: Packet<'_>,
///     ) -> Result<(), Kick> {
///         let step = packet.decode::<CStep>()?;
///         *self.positions.entry(player).or_default() += i64::from(step.dx());
///         Ok(())
///     }
///
///     fn on_leave(&mut self, _: &mut GameContext<'_>, player: SessionId, _: server_core::DisconnectReason) {
///         self.positions.remove(&player);
///     }
///
///     fn on_tick(&mut self, ctx: &mut GameContext<'_>, tick: Tick) {
///         ctx.broadcast_built(&SWorld::new(tick.number), |snapshot| {
///             for (player, x) in &self.positions {
///                 snapshot.extend(player.to_u64().to_le_bytes());
///                 snapshot.extend(x.to_le_bytes());
///             }
///         });
///         # if self.positions.values().any(|x| *x == 7) { ctx.server().shutdown(Duration::from_secs(1)) }
///     }
/// }
///
/// let game = GameLoop::new(Duration::from_millis(50));
/// let server = Server::builder().start("127.0.0.1:0", game.players())?;
/// # let mut client = std::net::TcpStream::connect(server.local_addr())?;
/// # client.write_all(&[6, 0, 1, 0, 7, 0])?;
/// game.run(&server.handle(), World::default()); // until the server ends
/// # let mut packets = Vec::new();
/// # client.read_to_end(&mut packets)?;
/// # assert!(packets.ends_with(&[7, 0, 0, 0, 0, 0, 0, 0]), "{packets:?}");
/// server.join()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "no tick comes before `run`"]
pub struct GameLoop {
    ticker: Ticker,
    packets_per_tick: u32,
    shared: Shared,
}

impl GameLoop {
    /// A loop with this period that has not started.
    pub fn new(period: Duration) -> Self {
        Self {
            ticker: Ticker::new(period),
            packets_per_tick: 32,
            shared: Shared::default(),
        }
    }

    /// Packets of one player that one tick handles, 1 or more. Default: 32.
    pub fn packets_per_tick(mut self, packets: u32) -> Self {
        self.packets_per_tick = packets.max(1);
        self
    }

    /// Bytes of waiting packets of one player, 32 for each packet besides its payload, above which the player is not
    /// read. The read before that may bring one packet and 2 KiB more. Default: 64 KiB.
    pub fn max_waiting_bytes(mut self, bytes: usize) -> Self {
        self.shared.max_waiting_bytes = bytes;
        self
    }

    /// Bytes of waiting packets of all players. Each player has an equal share. A player that has left counts until
    /// its last packet is handled. Bytes that wait already stay when the shares get smaller: 16 times as many players
    /// as have a full share may hold four times this number. Default: 64 MiB.
    pub fn max_total_waiting_bytes(mut self, bytes: usize) -> Self {
        self.shared.max_total_waiting_bytes = bytes;
        self
    }

    /// Whether players have to log in: a session is unadmitted until the game calls
    /// [`GameContext::admit`]. See [`Session::requires_login`](crate::Session::requires_login). Default:
    /// `false`.
    pub fn requires_login(mut self, requires_login: bool) -> Self {
        self.shared.requires_login = requires_login;
        self
    }

    #[cfg(feature = "app")]
    pub(crate) fn has_login(&self) -> bool {
        self.shared.requires_login
    }

    /// The number of rooms, for [`run_rooms`](Self::run_rooms): 1 to 256. Call it before [`players`](Self::players).
    /// Default: 1.
    pub fn rooms(mut self, rooms: usize) -> Self {
        self.shared.set_rooms(rooms.clamp(1, MAX_ROOMS));
        self
    }

    /// Makes the sessions of the server: for [`ServerBuilder::start`](crate::ServerBuilder::start). Call it
    /// after the limits are set.
    pub fn players(&self) -> impl Fn(Peer) -> GamePlayer + Send + Sync + 'static {
        let shared = Arc::new(self.shared.clone());
        move |_| GamePlayer::new(Arc::clone(&shared))
    }

    /// The period of the ticks.
    #[must_use]
    pub fn period(&self) -> Duration {
        self.ticker.period()
    }

    /// The counters of the ticks, for example for the admin port. The loop updates them while it runs.
    #[must_use]
    pub fn metrics(&self) -> Arc<TickMetrics> {
        self.ticker.metrics()
    }

    /// Ends the loop from any thread, or from the game. The server goes on, and players leave without a call of
    /// the game. Follow it with [`ServerHandle::shutdown`]: no packet is handled any more, and a player with too many
    /// waiting packets is not read, so that its end is not seen either.
    #[must_use]
    pub fn stopper(&self) -> TickStopper {
        self.ticker.stopper()
    }

    /// The loop without its ticker: the caller decides when a tick comes.
    pub(crate) fn begin<G: Game>(self, server: &ServerHandle, game: G) -> (Ticker, GameTurns<G>) {
        let rooms = Arc::new(Rooms::new(1));
        let turns = self.turns(server, game, 0, &rooms);
        (self.ticker, turns)
    }

    fn turns<G: Game>(
        &self,
        server: &ServerHandle,
        game: G,
        room: usize,
        rooms: &Arc<Rooms>,
    ) -> GameTurns<G> {
        GameTurns {
            server: server.clone(),
            game,
            room,
            rooms: Arc::clone(rooms),
            shared: self.shared.clone(),
            inbox: Inbox::new(self.packets_per_tick),
            batch: Batch::default(),
            arrived: 0,
        }
    }

    /// Runs one game for each of the [`rooms`](Self::rooms), each on a thread of its own: room 0 on this thread. A
    /// player joins in room 0, and [`GameContext::move_player`] moves it. `make_game` makes the game of a room.
    ///
    /// A room is what one core has to do in a tick: put several small places of the world into one. Each room counts
    /// its ticks in the [`metrics`](Self::metrics). Otherwise as [`run`](Self::run): a panic of one game ends the
    /// server, and with it all rooms.
    ///
    /// # Errors
    /// The system starts no further thread. The server ends then.
    pub fn run_rooms<G: Game + Send>(
        self,
        server: &ServerHandle,
        make_game: impl Fn(usize) -> G,
    ) -> io::Result<()> {
        let rooms = Arc::new(Rooms::new(self.shared.rooms()));
        thread::scope(|scope| {
            let _end_after_panic = EndAfterPanic(server, Arc::clone(&rooms));
            for room in 1..self.shared.rooms() {
                let turns = self.turns(server, make_game(room), room, &rooms);
                let ticker = self.ticker.clone();
                let run = move || turns.run(ticker);
                let name = format!("room-{room}");
                if let Err(error) = thread::Builder::new().name(name).spawn_scoped(scope, run) {
                    rooms.has_failed.store(true, Ordering::Release);
                    server.shutdown(Duration::ZERO);
                    return Err(error);
                }
            }
            self.turns(server, make_game(0), 0, &rooms)
                .run(self.ticker.clone());
            Ok(())
        })
    }

    /// Calls the game until the server ends or the loop is stopped. A panic of the game ends the server. The game has
    /// one room, whatever the number of [`rooms`](Self::rooms).
    ///
    /// Where the server ends, the loop waits for its sessions, and calls [`Game::on_leave`] for each player
    /// before it returns. No tick comes meanwhile.
    pub fn run(self, server: &ServerHandle, game: impl Game) {
        let (ticker, turns) = self.begin(server, game);
        turns.run(ticker);
    }
}

/// Rooms of one game.
const MAX_ROOMS: usize = 256;

/// What the rooms share.
#[derive(Debug)]
pub(crate) struct Rooms {
    /// Players on their way to each room.
    arrivals: Box<[Mutex<Vec<Traveller>>]>,
    /// Rooms that may get an input in a server that ends, and players whose move has begun and has not ended. One
    /// number: a room that takes a player in counts before the player does not.
    busy: AtomicUsize,
    /// A room is missing or stopped: no other one waits for it.
    has_failed: AtomicBool,
}

impl Rooms {
    fn new(rooms: usize) -> Self {
        Self {
            arrivals: (0..rooms).map(|_| Mutex::default()).collect(),
            busy: AtomicUsize::new(rooms),
            has_failed: AtomicBool::new(false),
        }
    }

    fn arrivals(&self, room: usize) -> MutexGuard<'_, Vec<Traveller>> {
        // No code of a game runs under this lock.
        (self.arrivals[room].lock()).unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no room gets an input any more.
    fn are_done(&self) -> bool {
        self.has_failed.load(Ordering::SeqCst) || self.busy.load(Ordering::SeqCst) == 0
    }
}

/// A game and its inputs, without a clock.
#[derive(Debug)]
pub(crate) struct GameTurns<G> {
    server: ServerHandle,
    game: G,
    room: usize,
    rooms: Arc<Rooms>,
    shared: Shared,
    inbox: Inbox,
    batch: Batch,
    /// Players that have arrived and still count as travelling.
    arrived: usize,
}

impl<G: Game> GameTurns<G> {
    /// Turns at each tick, until the server ends or the loop is stopped.
    fn run(mut self, ticker: Ticker) {
        let server = self.server.clone();
        let _end_after_panic = EndAfterPanic(&server, Arc::clone(&self.rooms));
        ticker.for_server(&server).run(|tick| {
            self.turn(Some(tick));
        });
        let mut is_done = false;
        while server.is_shutting_down() {
            // Read first: the ends of the last players are in the batches then. A worker that has failed tells
            // of no end, so the loop does not wait for its players.
            let is_over = server.has_ended();
            let was_done = std::mem::replace(&mut is_done, self.turn(None) && is_over);
            match (was_done, is_done) {
                (false, true) => drop(self.rooms.busy.fetch_sub(1, Ordering::SeqCst)),
                (true, false) => drop(self.rooms.busy.fetch_add(1, Ordering::SeqCst)),
                _ => {}
            }
            let arrived = std::mem::take(&mut self.arrived);
            self.rooms.busy.fetch_sub(arrived, Ordering::SeqCst);
            if is_done && self.rooms.are_done() {
                break;
            }
            if !is_over || is_done {
                thread::sleep(END_POLL);
            }
        }
        if !self.rooms.are_done() {
            // The loop is stopped: this room ends no player of another one that sees the end of the server.
            self.rooms.has_failed.store(true, Ordering::SeqCst);
        }
    }

    /// Hands the inputs to the game, and then the tick, if there is one. Returns whether no input waits.
    pub(crate) fn turn(&mut self, tick: Option<Tick>) -> bool {
        let place = (self.room, self.rooms.arrivals.len());
        let mut room = Room {
            game: &mut self.game,
            ctx: GameContext::new(&self.server, place),
            shared: &self.shared,
            rooms: &self.rooms,
        };
        self.inbox.begin_tick(&mut room);
        let arrivals = std::mem::take(&mut *self.rooms.arrivals(self.room));
        let mut is_idle = arrivals.is_empty();
        self.arrived += arrivals.len();
        for traveller in arrivals {
            self.inbox.arrive(traveller, &mut room);
        }
        for worker in 0..self.server.workers() {
            // Exchanged: the lock is held for no callback of the game.
            let inbox = self.shared.inbox(self.room, worker);
            std::mem::swap(&mut *inbox.lock(), &mut self.batch);
            is_idle &= self.batch.is_empty();
            self.inbox.take(&mut self.batch, &mut room);
        }
        if let Some(tick) = tick {
            room.game.on_tick(&mut room.ctx, tick);
            self.inbox.begin_moves(&mut room);
        }
        self.shared.turns[self.room].fetch_add(1, Ordering::Release);
        is_idle && !self.inbox.is_behind()
    }
}

/// The game of one room during a turn.
struct Room<'a, G> {
    game: &'a mut G,
    ctx: GameContext<'a>,
    shared: &'a Shared,
    rooms: &'a Rooms,
}

impl<G: Game> Receiver for Room<'_, G> {
    fn handle(&mut self, input: Input<'_>) -> bool {
        let (game, ctx) = (&mut *self.game, &mut self.ctx);
        match input {
            Input::Join(player) => game.on_join(ctx, player),
            Input::Leave(player, reason) => game.on_leave(ctx, player, reason),
            Input::Resume(player) => ctx.server().resume_reading(player),
            Input::Login(player, answer) => game.on_login(ctx, player, answer),
            Input::Message(player, message) => game.on_message(ctx, player, message),
            Input::Arrive(player, state) => game.on_arrive(ctx, player, state),
            Input::Packet(player, packet) => {
                if let Err(kick) = game.on_packet(ctx, player, packet) {
                    ctx.server().close_for(player, kick);
                    return false;
                }
            }
        }
        true
    }

    fn moves(&self, player: SessionId) -> bool {
        self.ctx.moves.iter().any(|wish| wish.player == player)
    }

    fn take_moves(&mut self) -> Vec<Move> {
        std::mem::take(&mut self.ctx.moves)
    }

    fn with_batch(&mut self, player: SessionId, change: impl FnOnce(&mut Batch)) {
        self.rooms.busy.fetch_add(1, Ordering::SeqCst);
        change(&mut self.shared.inbox(self.ctx.room(), player.worker()).lock());
    }

    fn depart(&mut self, traveller: Traveller) {
        self.rooms.arrivals(traveller.to()).push(traveller);
    }
}

/// Interval at which the loop takes the last inputs of a server that ends.
pub(crate) const END_POLL: Duration = Duration::from_millis(5);

struct EndAfterPanic<'a>(&'a ServerHandle, Arc<Rooms>);

impl Drop for EndAfterPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            log::error!("the game has panicked: the server ends");
            self.1.has_failed.store(true, Ordering::SeqCst);
            self.0.shutdown(Duration::ZERO);
        }
    }
}
