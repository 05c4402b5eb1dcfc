//! What the bots have seen, where the conductor can read it.

use super::epochs::Epochs;
use super::groups::Groups;
use super::recorder::Recorder;
use crossbeam_channel::{Receiver, Sender};
use server_core::metrics::Counter;
use server_core::{DisconnectReason, SessionId};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Shared by all bots of a run.
pub struct Board {
    counters: Box<[Counters]>,
    last_ticks: Box<[AtomicU64]>,
    recorders: Box<[Recorder]>,
    epochs: Mutex<Epochs>,
    /// When the connection of each session was begun, in nanoseconds since `started_at`.
    connects_began: Box<[AtomicU64]>,
    started_at: Instant,
    hello_tail: OnceLock<Box<[u8]>>,
    is_stopping: AtomicBool,
    /// What the server has said to sessions that it ended, by code and text. Not an event each: a
    /// server may say it a million times.
    byes: Mutex<Groups<(u16, String)>>,
    events: Sender<Event>,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of one event loop, on cache lines of their own.
        #[derive(Default)]
        #[repr(align(128))]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        /// The same, summed over the event loops at one moment.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Counts {
            $(pub $name: u64,)*
        }

        impl Board {
            /// All counters, summed over the event loops.
            pub fn counts(&self) -> Counts {
                let mut counts = Counts::default();
                for counters in &self.counters {
                    $(counts.$name = counts.$name.saturating_add(counters.$name.get());)*
                }
                counts
            }
        }

        impl Counts {
            /// What has come since an earlier moment.
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($name: self.$name.saturating_sub(earlier.$name),)* }
            }
        }
    };
}

counters! {
    packets,
    bytes,
    ticks,
    /// Ticks that never came although a later one did.
    missing_ticks,
    gaps,
    repeats,
    reordered,
    wrong_texts,
    /// Packets that no server of this game sends like that.
    malformed,
    unknown_ids,
    /// Chats of anybody.
    chats,
    echoes_sent,
    echoes_answered,
    wrong_echoes,
    /// Echoes that were not answered when their session ended.
    echoes_lost,
    /// Those among them that had been waiting for so long that no end excuses it.
    echoes_overdue,
    chats_sent,
    /// Chats that came back to the session that sent them.
    chats_heard,
    wrong_chats,
    /// Chats that had not come back when their session ended.
    chats_lost,
    /// Those among them that had been waiting for so long that no end excuses it.
    chats_overdue,
}

impl Counts {
    /// Echoes and chats that may still come back.
    pub fn under_way(&self) -> u64 {
        self.echoes_under_way() + self.chats_under_way()
    }

    /// Echoes that may still be answered.
    pub fn echoes_under_way(&self) -> u64 {
        (self.echoes_sent).saturating_sub(self.echoes_answered + self.echoes_lost)
    }

    /// Chats that their senders may still hear.
    pub fn chats_under_way(&self) -> u64 {
        (self.chats_sent).saturating_sub(self.chats_heard + self.chats_lost)
    }
}

/// What the conductor has to know at once.
pub enum Event {
    /// A session stands.
    Connected(usize, SessionId),
    /// A session that stood has ended.
    Lost(usize, DisconnectReason),
    /// A connection could not be made.
    Failed(usize, String),
    /// The server has told a session at once that it is full.
    Refused(usize),
}

impl Board {
    /// An empty board for so many sessions on so many event loops.
    pub fn new(sessions: usize, threads: usize) -> (Self, Receiver<Event>) {
        let (events, receiver) = crossbeam_channel::unbounded();
        let board = Self {
            counters: (0..threads).map(|_| Counters::default()).collect(),
            last_ticks: (0..sessions).map(|_| AtomicU64::new(0)).collect(),
            recorders: (0..threads).map(|_| Recorder::default()).collect(),
            epochs: Mutex::new(Epochs::new(sessions)),
            connects_began: (0..sessions).map(|_| AtomicU64::new(0)).collect(),
            started_at: Instant::now(),
            hello_tail: OnceLock::new(),
            is_stopping: AtomicBool::new(false),
            byes: Mutex::default(),
            events,
        };
        (board, receiver)
    }

    /// The counters of one event loop.
    pub fn counters(&self, thread: usize) -> &Counters {
        &self.counters[thread]
    }

    /// The measurements of one event loop.
    pub fn recorder(&self, thread: usize) -> &Recorder {
        &self.recorders[thread]
    }

    /// The measurements of all event loops.
    pub fn recorders(&self) -> &[Recorder] {
        &self.recorders
    }

    /// A session stands, and has seen no tick yet.
    pub fn join(&self, session: usize) {
        self.set_last_tick(session, 0);
        self.epochs().join(session);
    }

    /// A session has seen the first tick of its connection. Returns the epoch that it belongs to:
    /// one more than before if the server has begun anew.
    pub fn epoch_of_first_tick(&self, session: usize, tick: u64) -> u64 {
        self.epochs().first_tick(session, tick)
    }

    /// A session that stood has ended.
    pub fn leave(&self, session: usize, was_lost: bool) {
        let newest_tick = self.last_tick(session);
        self.epochs().leave(session, newest_tick, was_lost);
    }

    fn epochs(&self) -> MutexGuard<'_, Epochs> {
        // Only numbers that are whole after each call: a panic elsewhere cannot have torn them.
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection of a session begins.
    pub fn begin_connect(&self, session: usize, now: Instant) {
        let nanos = now.saturating_duration_since(self.started_at).as_nanos() as u64;
        self.connects_began[session].store(nanos, Ordering::Relaxed);
    }

    /// When the connection of a session began.
    pub fn connect_began(&self, session: usize) -> Instant {
        let nanos = self.connects_began[session].load(Ordering::Relaxed);
        self.started_at + Duration::from_nanos(nanos)
    }

    /// The newest tick that a session has seen; 0 before its first.
    pub fn last_tick(&self, session: usize) -> u64 {
        self.last_ticks[session].load(Ordering::Relaxed)
    }

    /// Remembers the newest tick of a session.
    pub fn set_last_tick(&self, session: usize, tick: u64) {
        self.last_ticks[session].store(tick, Ordering::Relaxed);
    }

    /// What stands behind the tick number is the same in every hello of a run: the first one sets
    /// it.
    pub fn is_expected_tail(&self, tail: &[u8]) -> bool {
        **self.hello_tail.get_or_init(|| tail.into()) == *tail
    }

    /// The run is about to end: send nothing new.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Counts a request that is about to be sent, unless the run is about to end. Counted before
    /// the look: either this sees that the run is about to end, or the conductor, which looks the
    /// other way round, sees one more answer to wait for.
    pub fn may_send(&self, sent: &Counter) -> bool {
        sent.add(1);
        fence(Ordering::SeqCst);
        let may_send = !self.is_stopping.load(Ordering::SeqCst);
        if !may_send {
            sent.sub(1);
        }
        may_send
    }

    /// The server has said why it ends a session.
    pub fn count_bye(&self, code: u16, text: String) {
        self.byes().add((code, text));
    }

    /// Takes all goodbyes that were counted.
    pub fn take_byes(&self) -> Groups<(u16, String)> {
        std::mem::take(&mut *self.byes())
    }

    fn byes(&self) -> MutexGuard<'_, Groups<(u16, String)>> {
        // Counts alone, whole after each call: a panic elsewhere cannot have torn them.
        self.byes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the conductor.
    pub fn tell(&self, event: Event) {
        // At the very end nobody listens any more.
        let _ = self.events.send(event);
    }
}
