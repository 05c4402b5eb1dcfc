//! The sessions of the simulation. Each acts at random, and a book records what it did.

use super::groups::GroupBook;
use bytemuck::{Pod, Zeroable};
use server_core::wire::{U16Le, U64Le};
use server_core::{
    Context, DisconnectReason, GroupId, Kick, Packet, PacketHead, Peer, Session, SessionId,
};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub const C_ECHO: u16 = 10;
pub const C_BAD_PAYLOAD: u16 = 11;

/// The source of a packet, and the place of the packet among the packets of its source.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Stamp {
    /// The number of a worker, or [`OUTSIDE`].
    pub source: U16Le,
    /// Rises with each packet of that source.
    pub stamp: U64Le,
    /// Rises by one with each packet of that source and kind (and receiver, if it has one). For a packet to
    /// a group, this is its number in the [`GroupBook`].
    pub seq: U64Le,
}

macro_rules! packets {
    ($($name:ident($field:ty) = $id:literal;)*) => {$(
        #[derive(Clone, Copy, Debug, Pod, Zeroable)]
        #[repr(transparent)]
        pub struct $name(pub $field);
        impl PacketHead for $name {
            const ID: u16 = $id;
        }
    )*};
}

packets! {
    SBroadcast(Stamp) = 1;
    SDirect(Stamp) = 2;
    SEcho(U64Le) = 3;
    SCast(Stamp) = 4;
    SBye(U16Le) = 6;
}

/// A number of packets that no peer sends in its life.
const MOST_PACKETS: u64 = 5_000;
/// Added to the number of the worker: the source of packets that a session sends to itself.
const OWN: usize = 500;
/// The source of packets that no worker sends.
pub const OUTSIDE: usize = 999;

/// The events of one session.
#[derive(Debug, Default)]
pub struct Record {
    /// The address of the peer: that of its client, behind a proxy.
    pub addr: Option<SocketAddr>,
    pub connected: u32,
    pub disconnected: u32,
    pub reason: Option<DisconnectReason>,
    /// The number of broadcasts of its worker before it connected.
    pub own_seq_at_start: u64,
    pub close_was_asked: bool,
    pub has_panicked: bool,
    pub echoes: u64,
    pub packets: u64,
    pub timer_at: Option<Instant>,
    /// The queue length of the open request for `on_drained`.
    pub drained_below: Option<usize>,
    /// Whether the queue was longer than `drained_below` when the session made the request.
    has_to_wait: bool,
    pub requires_login: bool,
    pub connected_at: Option<Instant>,
    pub disconnected_at: Option<Instant>,
    pub admitted_at: Option<Instant>,
}

impl Record {
    /// Since when the session is connected and unadmitted. `None` if it is not.
    pub fn unadmitted_since(&self) -> Option<Instant> {
        let waits = self.requires_login && self.admitted_at.is_none() && self.disconnected == 0;
        self.connected_at.filter(|_| waits)
    }
}

#[derive(Debug)]
pub struct World {
    pub rng: fastrand::Rng,
    pub sessions: HashMap<SessionId, Record>,
    pub ids: Vec<SessionId>,
    pub offences: Vec<String>,
    pub packets_handled: u64,
    /// Calls of `on_drained`; calls of `on_drained` whose request had to wait for the peer.
    pub drained: u64,
    pub drained_later: u64,
    stamps: HashMap<usize, u64>,
    pub broadcasts: HashMap<usize, u64>,
    pub groups: GroupBook,
    directs: HashMap<(usize, SessionId), u64>,
    /// The number of bytes that may still be sent: a bound on how far a healthy reader can be behind.
    pub budget: usize,
    pub panics_one_in: u32,
    pub actions_one_in: u32,
    pub handlers_close: bool,
    /// The percentage of sessions that require a login.
    pub logins: u32,
    pub quiet: bool,
}

#[derive(Clone, Debug)]
pub struct SharedWorld(pub Arc<Mutex<World>>);

/// A request that a handler has decided to make.
enum Action {
    Broadcast(SBroadcast, Vec<u8>),
    Direct(SessionId, SDirect, Vec<u8>),
    /// A packet to a group. `true`: the sender does not get it.
    Cast(GroupId, bool, SCast, Vec<u8>),
    Join(GroupId),
    Leave(GroupId),
    Close(SessionId),
    Timer(Duration),
    ClearTimer,
    NotifyDrained(usize),
}

impl SharedWorld {
    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    pub fn new(rng: fastrand::Rng) -> Self {
        Self {
            rng,
            sessions: HashMap::new(),
            ids: Vec::new(),
            offences: Vec::new(),
            packets_handled: 0,
            drained: 0,
            drained_later: 0,
            stamps: HashMap::new(),
            broadcasts: HashMap::new(),
            groups: GroupBook::default(),
            directs: HashMap::new(),
            budget: 400 << 10,
            panics_one_in: u32::MAX,
            actions_one_in: 3,
            handlers_close: true,
            logins: 0,
            quiet: false,
        }
    }

    pub fn live(&self) -> usize {
        let is_live = |record: &&Record| record.connected > record.disconnected;
        self.sessions.values().filter(is_live).count()
    }

    pub fn broadcast(&mut self, source: usize) -> (SBroadcast, Vec<u8>) {
        let seq = self.broadcasts.entry(source).or_default();
        *seq += 1;
        let seq = *seq;
        let stamp = self.stamp(source, seq);
        (SBroadcast(stamp), self.filler(stamp))
    }

    pub fn direct(&mut self, source: usize, to: SessionId) -> (SDirect, Vec<u8>) {
        let seq = self.directs.entry((source, to)).or_default();
        *seq += 1;
        let seq = *seq;
        let stamp = self.stamp(source, seq);
        (SDirect(stamp), self.filler(stamp))
    }

    /// A packet to a group, perhaps with the exception of one session.
    pub fn cast(
        &mut self,
        source: usize,
        group: GroupId,
        except: Option<SessionId>,
    ) -> (SCast, Vec<u8>) {
        let number = self.groups.ask(group, except);
        let stamp = self.stamp(source, number);
        (SCast(stamp), self.filler(stamp))
    }

    fn stamp(&mut self, source: usize, seq: u64) -> Stamp {
        let stamp = self.stamps.entry(source).or_default();
        *stamp += 1;
        Stamp {
            source: (source as u16).into(),
            stamp: (*stamp).into(),
            seq: seq.into(),
        }
    }

    fn filler(&mut self, stamp: Stamp) -> Vec<u8> {
        let bytes = match self.rng.u32(..100) {
            0 => self.rng.usize(..20_000),
            1..10 => self.rng.usize(..1_500),
            _ => self.rng.usize(..40),
        };
        let bytes = bytes.min(self.budget / 4);
        self.budget -= bytes.min(self.budget);
        vec![filler_byte(stamp); bytes]
    }

    pub fn some_id(&mut self) -> Option<SessionId> {
        (!self.ids.is_empty()).then(|| self.ids[self.rng.usize(..self.ids.len())])
    }

    fn act(&mut self, own: SessionId) -> Option<Action> {
        if self.quiet || self.rng.u32(..self.actions_one_in) > 0 {
            return None;
        }
        let source = own.worker();
        match self.rng.u32(..31) {
            0..8 if self.budget > 0 => {
                let (head, tail) = self.broadcast(source);
                Some(Action::Broadcast(head, tail))
            }
            8..13 if self.budget > 0 => {
                let to = self.some_id()?;
                // A packet to the sender's own session may overtake packets that wait for other receivers.
                let source = source + if to == own { OWN } else { 0 };
                let (head, tail) = self.direct(source, to);
                Some(Action::Direct(to, head, tail))
            }
            13 if self.handlers_close => {
                let id = if self.rng.bool() {
                    own
                } else {
                    self.some_id()?
                };
                if let Some(record) = self.sessions.get_mut(&id) {
                    record.close_was_asked = true;
                }
                Some(Action::Close(id))
            }
            14..18 => Some(Action::Timer(Duration::from_millis(self.rng.u64(..1_500)))),
            18 => Some(Action::ClearTimer),
            19..22 => Some(Action::Join(self.groups.some(&mut self.rng))),
            22..24 => Some(Action::Leave(self.groups.some(&mut self.rng))),
            24..28 if self.budget > 0 => {
                let (group, to_others) = (self.groups.some(&mut self.rng), self.rng.bool());
                let (head, tail) = self.cast(source, group, to_others.then_some(own));
                Some(Action::Cast(group, to_others, head, tail))
            }
            28..31 => Some(Action::NotifyDrained(match self.rng.u32(..4) {
                0 => 0,
                1 => usize::MAX,
                _ => self.rng.usize(..4_000),
            })),
            _ => None,
        }
    }
}

pub fn filler_byte(stamp: Stamp) -> u8 {
    (stamp.stamp.get() as u8).wrapping_mul(17) ^ stamp.source.get() as u8
}

/// A session of the simulation.
#[derive(Debug)]
pub struct SimSession {
    world: SharedWorld,
    id: SessionId,
    requires_login: bool,
}

impl SimSession {
    pub fn new(peer: Peer, world: &SharedWorld) -> Self {
        let mut book = world.lock();
        if book.ids.contains(&peer.id) {
            book.offences.push(format!("{:?} was used before", peer.id));
        }
        book.ids.push(peer.id);
        // An outgoing session requires no login, whatever `requires_login` returns.
        let requires_login = book.rng.u32(..100) < book.logins;
        let record = Record {
            requires_login: requires_login && peer.tag.is_none(),
            addr: Some(peer.addr),
            ..Record::default()
        };
        book.sessions.insert(peer.id, record);
        drop(book);
        Self {
            world: world.clone(),
            id: peer.id,
            requires_login,
        }
    }

    /// Completes the login, one time in `one_in`.
    fn log_in(&mut self, ctx: &mut Context<'_>, one_in: u32) {
        let mut book = self.world.lock();
        let admits = book.rng.u32(..one_in) == 0;
        self.check_login(&mut book, ctx);
        if admits {
            ctx.admit();
            if let Some(record) = book.sessions.get_mut(&self.id) {
                record.admitted_at.get_or_insert(ctx.now());
            }
        }
        self.check_login(&mut book, ctx);
    }

    fn check_login(&self, book: &mut World, ctx: &Context<'_>) {
        let record = &book.sessions[&self.id];
        let should_be = !record.requires_login || record.admitted_at.is_some();
        if ctx.is_admitted() != should_be {
            let text = format!("{}: is_admitted is not {should_be}: {record:?}", self.id);
            book.offences.push(text);
        }
    }

    /// Makes up to three random requests, and perhaps panics.
    fn act(&mut self, ctx: &mut Context<'_>) {
        for _ in 0..3 {
            let mut book = self.world.lock();
            let Some(action) = book.act(self.id) else {
                break;
            };
            let queued_bytes = ctx.queued_bytes();
            let mut own_bytes = 0;
            let mut timer = |at| {
                if let Some(record) = book.sessions.get_mut(&self.id) {
                    record.timer_at = at;
                }
            };
            match action {
                Action::Broadcast(head, tail) => ctx.broadcast(&head, tail),
                Action::Direct(to, head, tail) => {
                    let is_own = to == self.id;
                    own_bytes = (4 + size_of::<SDirect>() + tail.len()) * usize::from(is_own);
                    ctx.send_to(to, &head, tail);
                }
                Action::Cast(group, false, head, tail) => ctx.broadcast_to(group, &head, tail),
                Action::Cast(group, true, head, tail) => {
                    ctx.broadcast_to_others(group, &head, tail);
                }
                Action::Join(group) => {
                    let is_in = ctx.join(group).is_ok();
                    let wrong = book.groups.joined(self.id, group, is_in);
                    book.offences.extend(wrong);
                }
                Action::Leave(group) => {
                    let was_in = ctx.leave(group);
                    let wrong = book.groups.left(self.id, group, was_in);
                    book.offences.extend(wrong);
                }
                Action::Close(id) => ctx.close_session(id),
                Action::Timer(after) => {
                    timer(Some(ctx.now() + after));
                    ctx.set_timer(ctx.now() + after);
                }
                Action::ClearTimer => {
                    timer(None);
                    ctx.clear_timer();
                }
                Action::NotifyDrained(below) => {
                    if let Some(record) = book.sessions.get_mut(&self.id) {
                        record.drained_below = Some(below);
                        record.has_to_wait = queued_bytes > below;
                    }
                    ctx.notify_drained(below);
                }
            }
            if ctx.queued_bytes() != queued_bytes + own_bytes {
                let text = format!(
                    "{}: {queued_bytes} and {own_bytes} queued bytes are not",
                    self.id
                );
                book.offences
                    .push(text + &format!(" {}", ctx.queued_bytes()));
            }
        }
        let mut book = self.world.lock();
        let one_in = book.panics_one_in;
        if !book.quiet && book.rng.u32(..one_in) == 0 {
            if let Some(record) = book.sessions.get_mut(&self.id) {
                record.has_panicked = true;
            }
            drop(book);
            // This panic does not call the hook: thousands of reports would fill the screen.
            std::panic::resume_unwind(Box::new("a bug in the handler"));
        }
    }

    fn note(&self, what: &str, change: impl FnOnce(&mut Record) -> bool) {
        let mut book = self.world.lock();
        let fine = book.sessions.get_mut(&self.id).is_some_and(change);
        if !fine {
            book.offences.push(format!("{}: {what}", self.id));
        }
    }
}

impl Session for SimSession {
    fn requires_login(&self) -> bool {
        self.requires_login
    }

    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        let own = self.id.worker();
        let seq = {
            let mut book = self.world.lock();
            book.groups.connected(self.id);
            book.broadcasts.get(&own).copied()
        };
        self.note("connected twice, or late", |record| {
            record.connected += 1;
            record.connected_at = Some(ctx.now());
            record.own_seq_at_start = seq.unwrap_or_default();
            record.connected == 1 && record.disconnected == 0
        });
        self.log_in(ctx, 10);
        self.act(ctx);
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        self.world.lock().packets_handled += 1;
        let mut goes_round = false;
        self.note(
            "a packet before its connect or after its disconnect",
            |record| {
                record.packets += 1;
                goes_round = record.packets > MOST_PACKETS;
                record.connected == 1 && record.disconnected == 0 && !record.has_panicked
            },
        );
        if goes_round {
            self.note("the same packet round and round", |_| false);
            return Err(Kick::BadPayload);
        }
        match packet.id() {
            C_ECHO => {
                let mut seq = 0;
                self.note("echo", |record| {
                    record.echoes += 1;
                    seq = record.echoes;
                    true
                });
                ctx.send(&SEcho(seq.into()), packet.payload());
                self.log_in(ctx, 4);
                self.act(ctx);
                Ok(())
            }
            C_BAD_PAYLOAD => Err(Kick::BadPayload),
            _ => Err(Kick::UnknownId),
        }
    }

    fn on_timer(&mut self, ctx: &mut Context<'_>) {
        self.note("a timer that was not set, or too early", |record| {
            let due = record.timer_at.take().is_some_and(|at| at <= ctx.now());
            due && record.connected == 1 && record.disconnected == 0 && !record.has_panicked
        });
        self.log_in(ctx, 4);
        self.act(ctx);
    }

    fn on_drained(&mut self, ctx: &mut Context<'_>) {
        let mut has_waited = false;
        self.note("drained without a request, or too early", |record| {
            has_waited = record.has_to_wait;
            let below = record.drained_below.take();
            let is_drained = below.is_some_and(|below| ctx.queued_bytes() <= below);
            is_drained && record.connected == 1 && record.disconnected == 0 && !record.has_panicked
        });
        let mut book = self.world.lock();
        book.drained += 1;
        book.drained_later += u64::from(has_waited);
        drop(book);
        self.act(ctx);
    }

    fn on_disconnected(&mut self, ctx: &mut Context<'_>, reason: DisconnectReason) {
        {
            let mut book = self.world.lock();
            let wrong = book.groups.disconnected(self.id, &ctx.groups());
            book.offences.extend(wrong);
        }
        self.note("disconnected twice", |record| {
            record.disconnected += 1;
            record.reason = Some(reason);
            record.disconnected_at = Some(ctx.now());
            record.disconnected == 1
        });
        self.check_login(&mut self.world.lock(), ctx);
        self.act(ctx);
    }
}
