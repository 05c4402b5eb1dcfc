//! What the bots have seen, where the conductor can read it.

use crossbeam_channel::{Receiver, Sender};
use server_core::DisconnectReason;
use server_core::metrics::Counter;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Shared by all bots of a run.
pub struct Board {
    counters: Box<[Counters]>,
    last_ticks: Box<[AtomicU64]>,
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

    /// One counter, summed over the event loops.
    pub fn sum(&self, of: impl Fn(&Counters) -> &Counter) -> u64 {
        self.counters
            .iter()
            .map(|counters| of(counters).get())
            .sum()
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
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the run is about to end.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Tells the conductor.
    pub fn tell(&self, event: Event) {
        // At the very end nobody listens any more.
        let _ = self.events.send(event);
    }
}
