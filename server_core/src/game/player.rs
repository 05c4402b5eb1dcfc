//! The session of a player: forwards what comes to the game thread.

use super::inbox::{Batch, Waiting};
use crate::base::id::SessionId;
use crate::base::reason::{DisconnectReason, Kick};
use crate::buffer::SendBuffer;
use crate::protocol::packet::Packet;
use crate::session::message::Message;
use crate::session::{Context, LoginAnswer, Session};
use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The session of a player of a [`GameLoop`](super::GameLoop). It knows nothing of the world.
pub struct GamePlayer {
    shared: Arc<Shared>,
    waiting: Arc<Waiting>,
    has_joined: bool,
    /// The room of the first packet, and the turns there that had ended at the first packet.
    first_packet_at: Option<(usize, u64)>,
    paced: VecDeque<PacedPackets>,
    /// Since this instant the packets of more than [`MAX_PACED`] calls have waited, without a break.
    behind_since: Option<Instant>,
}

/// Packets that a player gets as fast as it reads.
#[derive(Debug)]
pub(super) struct PacedPackets {
    packets: Arc<[SendBuffer]>,
    next: usize,
}

/// Calls of `send_paced` whose packets may wait for one player for any time.
const MAX_PACED: usize = 64;
/// Calls whose packets may wait at all: five seconds of 200 calls a second.
const MAX_PACED_AT_ONCE: usize = 1000;

/// Turns of the game until the answer to the first packet of a player has come: a turn that runs already may miss the
/// packet, the next turn handles it, and during a further turn the worker takes the answer.
const TURNS_TO_ANSWER: u64 = 3;

/// Queue length of a player up to which paced packets are added.
const WINDOW_BYTES: usize = 64 << 10;

impl PacedPackets {
    pub fn new(packets: Arc<[SendBuffer]>) -> Self {
        Self { packets, next: 0 }
    }
}

impl Message for PacedPackets {}

/// What all sessions and the game thread share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub max_waiting_bytes: usize,
    pub max_total_waiting_bytes: usize,
    pub requires_login: bool,
    /// By room and worker. A worker's callbacks lock their own for one packet, the thread of the room once a tick.
    inboxes: Arc<[WorkerInbox]>,
    players: Arc<AtomicUsize>,
    /// By room: the turns that have ended.
    pub turns: Arc<[AtomicU64]>,
}

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct WorkerInbox(Mutex<Batch>);

impl WorkerInbox {
    pub fn lock(&self) -> MutexGuard<'_, Batch> {
        // A panic elsewhere cannot leave a batch half changed: no code of a game runs under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            max_waiting_bytes: 64 << 10,
            max_total_waiting_bytes: 64 << 20,
            requires_login: false,
            inboxes: inboxes(1),
            players: Arc::default(),
            turns: turns(1),
        }
    }
}

fn inboxes(rooms: usize) -> Arc<[WorkerInbox]> {
    let inboxes = (0..rooms * SessionId::MAX_WORKERS).map(|_| WorkerInbox::default());
    inboxes.collect()
}

fn turns(rooms: usize) -> Arc<[AtomicU64]> {
    (0..rooms).map(|_| AtomicU64::new(0)).collect()
}

impl Shared {
    pub fn set_rooms(&mut self, rooms: usize) {
        self.inboxes = inboxes(rooms);
        self.turns = turns(rooms);
    }

    pub fn rooms(&self) -> usize {
        self.inboxes.len() / SessionId::MAX_WORKERS
    }

    pub fn inbox(&self, room: usize, worker: usize) -> &WorkerInbox {
        &self.inboxes[room * SessionId::MAX_WORKERS + worker]
    }

    /// The turns of a room that have ended.
    fn ended_turns(&self, room: usize) -> u64 {
        self.turns[room].load(Ordering::Acquire)
    }
}

impl GamePlayer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            waiting: Arc::new(Waiting::new(&shared.players)),
            shared,
            has_joined: false,
            first_packet_at: None,
            paced: VecDeque::new(),
            behind_since: None,
        }
    }

    fn batch(&self, id: SessionId) -> MutexGuard<'_, Batch> {
        self.room_and_batch(id).1
    }

    /// The room of the player, and the batch there.
    fn room_and_batch(&self, id: SessionId) -> (usize, MutexGuard<'_, Batch>) {
        loop {
            let room = self.waiting.place();
            let batch = self.shared.inbox(room, id.worker()).lock();
            // A move changes the room under this lock.
            if self.waiting.place() == room {
                return (room, batch);
            }
        }
    }

    /// Sends paced packets until the window is full: a player with a longer queue is not read, and would make the
    /// server congested. A packet larger than the window waits for an empty queue.
    fn pump(&mut self, ctx: &mut Context<'_>) {
        let window_bytes = WINDOW_BYTES.min(ctx.crowded_bytes);
        while let Some(paced) = self.paced.front_mut() {
            let Some(packet) = paced.packets.get(paced.next) else {
                self.paced.pop_front();
                continue;
            };
            let most_before = window_bytes.saturating_sub(packet.len());
            if ctx.queued_bytes() > most_before && ctx.queued_bytes() > 0 {
                // Not a length that the queue has already: the call would come again at once.
                ctx.notify_drained(most_before.min(window_bytes / 2));
                return;
            }
            ctx.send_buffer(ctx.id(), packet.clone());
            paced.next += 1;
        }
    }

    /// Whether the packets of too many calls wait, or those of many calls for too long. Called for each call.
    fn is_slow(&mut self, ctx: &Context<'_>) -> bool {
        if self.paced.len() <= MAX_PACED {
            self.behind_since = None;
            return false;
        }
        let since = *self.behind_since.get_or_insert(ctx.now());
        let is_late = (ctx.max_send_lag).is_some_and(|lag| since + lag <= ctx.now());
        is_late || self.paced.len() > MAX_PACED_AT_ONCE
    }

    /// The bytes of packets of this player that may wait before it pauses.
    fn limit_bytes(&self) -> usize {
        let players = self.shared.players.load(Ordering::Relaxed).max(1);
        let share_bytes = self.shared.max_total_waiting_bytes / players;
        self.shared.max_waiting_bytes.min(share_bytes)
    }
}

impl Session for GamePlayer {
    fn requires_login(&self) -> bool {
        self.shared.requires_login
    }

    fn defers_login_timeout(&self) -> bool {
        (self.first_packet_at)
            .is_some_and(|(room, first)| self.shared.ended_turns(room) < first + TURNS_TO_ANSWER)
    }

    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        let waiting = Arc::clone(&self.waiting);
        let has_joined = self.batch(ctx.id()).join(ctx.id(), waiting);
        self.has_joined = has_joined;
        if !has_joined {
            let reason = DisconnectReason::ServerFull;
            ctx.close_for(ctx.id(), reason, "the game is behind");
        }
    }

    fn max_read_bytes(&mut self) -> usize {
        self.waiting.room(self.limit_bytes())
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        self.waiting.add(packet.payload().len());
        let (room, mut batch) = self.room_and_batch(ctx.id());
        let first = (self.first_packet_at).unwrap_or_else(|| (room, self.shared.ended_turns(room)));
        batch.packet(ctx.id(), &packet);
        drop(batch);
        self.first_packet_at = Some(first);
        Ok(())
    }

    fn on_login(&mut self, ctx: &mut Context<'_>, answer: LoginAnswer) {
        if self.has_joined {
            self.waiting.add_login();
            self.batch(ctx.id()).login(ctx.id(), answer);
        }
    }

    fn on_message(&mut self, ctx: &mut Context<'_>, message: Box<dyn Any + Send>) {
        let message = match message.downcast::<PacedPackets>() {
            Ok(packets) => {
                self.paced.push_back(*packets);
                self.pump(ctx);
                if self.is_slow(ctx) {
                    self.paced.clear();
                    ctx.close_with(Kick::SlowConsumer, "its paced packets wait");
                }
                return;
            }
            Err(message) => message,
        };
        if self.has_joined {
            let room = ctx.message_room.take();
            self.batch(ctx.id()).message(ctx.id(), message, room);
        }
    }

    fn on_drained(&mut self, ctx: &mut Context<'_>) {
        self.pump(ctx);
    }

    fn on_disconnected(&mut self, ctx: &mut Context<'_>, reason: DisconnectReason) {
        if self.has_joined {
            self.batch(ctx.id()).leave(ctx.id(), reason);
        }
    }
}

impl fmt::Debug for GamePlayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GamePlayer")
            .field("waiting_bytes", &self.waiting.bytes())
            .finish_non_exhaustive()
    }
}
