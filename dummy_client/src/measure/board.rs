//! What the bots have seen, where the conductor can read it.

use crate::measure::recorder::Recorder;
use crossbeam_channel::{Receiver, Sender};
use server_core::DisconnectReason;
use server_core::metrics::Counter;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

/// A first tick so far behind the newest is that of another server.
const ANEW: u64 = 16;

/// Shared by all bots of a run.
pub struct Board {
    counters: Box<[Counters]>,
    last_ticks: Box<[AtomicU64]>,
    recorders: Box<[Recorder]>,
    /// The newest tick that anybody has seen, of the server that runs now.
    newest_tick: AtomicU64,
    epoch: AtomicU64,
    /// When the connection of each session was begun, in nanoseconds since `started_at`.
    connects_began: Box<[AtomicU64]>,
    started_at: Instant,
    hello_tail: OnceLock<Box<[u8]>>,
    is_stopping: AtomicBool,
    events: Sender<Event>,
}

/// The counters of one event loop, on cache lines of their own.
#[derive(Default)]
#[repr(align(128))]
pub struct Counters {
    pub packets: Counter,
    pub bytes: Counter,
    pub ticks: Counter,
    /// Ticks that never came although a later one did.
    pub missing_ticks: Counter,
    pub gaps: Counter,
    pub repeats: Counter,
    pub reordered: Counter,
    pub wrong_texts: Counter,
    /// Packets that no server of this game sends like that.
    pub malformed: Counter,
    pub unknown_ids: Counter,
    pub chats: Counter,
    pub echoes_sent: Counter,
    pub echoes_answered: Counter,
    pub wrong_echoes: Counter,
    /// Echoes that were not answered when their session ended.
    pub echoes_lost: Counter,
}

/// What the conductor has to know at once.
pub enum Event {
    /// A session stands.
    Connected(usize),
    /// A session that stood has ended.
    Lost(usize, DisconnectReason),
    /// A connection could not be made.
    Failed(usize, String),
    /// The server has told a session at once that it is full.
    Refused(usize),
    /// The server has said why it ends a session.
    Bye(u16, String),
}

impl Board {
    /// An empty board for so many sessions on so many event loops.
    pub fn new(sessions: usize, threads: usize) -> (Self, Receiver<Event>) {
        let (events, receiver) = crossbeam_channel::unbounded();
        let board = Self {
            counters: (0..threads).map(|_| Counters::default()).collect(),
            last_ticks: (0..sessions).map(|_| AtomicU64::new(0)).collect(),
            recorders: (0..threads).map(|_| Recorder::default()).collect(),
            newest_tick: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            connects_began: (0..sessions).map(|_| AtomicU64::new(0)).collect(),
            started_at: Instant::now(),
            hello_tail: OnceLock::new(),
            is_stopping: AtomicBool::new(false),
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

    /// A session has seen its first tick. Returns the epoch that it belongs to: one more than
    /// before if this tick is far behind what others have seen, as the server has started anew.
    pub fn epoch_of_first_tick(&self, tick: u64) -> u64 {
        let newest = self.newest_tick.load(Ordering::SeqCst);
        if tick + ANEW < newest
            && (self.newest_tick)
                .compare_exchange(newest, tick, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        {
            self.epoch.fetch_add(1, Ordering::SeqCst);
        }
        self.epoch.load(Ordering::SeqCst)
    }

    /// A session has seen this tick.
    pub fn saw_tick(&self, tick: u64) {
        if self.newest_tick.load(Ordering::Relaxed) < tick {
            self.newest_tick.fetch_max(tick, Ordering::Relaxed);
        }
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

    /// One counter, summed over the event loops.
    pub fn sum(&self, of: impl Fn(&Counters) -> &Counter) -> u64 {
        self.counters
            .iter()
            .map(|counters| of(counters).get())
            .fold(0, u64::saturating_add)
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

    /// Whether the run is about to end.
    pub fn is_stopping(&self) -> bool {
        fence(Ordering::SeqCst);
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Tells the conductor.
    pub fn tell(&self, event: Event) {
        // At the very end nobody listens any more.
        let _ = self.events.send(event);
    }
}
