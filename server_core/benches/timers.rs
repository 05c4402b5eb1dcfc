//! The cost of timers by key: 10,000 sessions with 4 timers each, 40,000 items a row.
//!
//! A session sets and cancels in the callback of a message. `messages_alone` is the cost of these 10,000 messages,
//! which the rows `set`, `replace` and `cancel` include.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use rig::{Rig, session};
use server_core::{Context, Kick, Message, Packet, Session};
use std::any::Any;
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[path = "util/rig.rs"]
mod rig;

const SESSIONS: usize = 10_000;
const TIMERS: u8 = 4;
const ALL_TIMERS: usize = SESSIONS * TIMERS as usize;
/// The timers come due within this time.
const SPREAD: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(50);

fn main() {
    divan::main();
}

/// The messages, without a timer.
#[divan::bench(sample_size = 1)]
fn messages_alone(bencher: Bencher<'_, '_>) {
    bench(bencher, |_| {}, |timers| timers.order(Order::Nothing));
}

/// Sets 4 timers of each session that has none.
#[divan::bench(sample_size = 1)]
fn set(bencher: Bencher<'_, '_>) {
    let forget = |timers: &mut Timers| {
        timers.order(Order::Cancel);
        // The entries of cancelled timers come due.
        timers.rig.now += SPREAD * 2;
        timers.rig.turn();
    };
    bench(bencher, forget, |timers| timers.order(Order::Set));
}

/// Sets 4 timers of each session to another instant.
#[divan::bench(sample_size = 1)]
fn replace(bencher: Bencher<'_, '_>) {
    let set = |timers: &mut Timers| {
        timers.order(Order::Set);
        timers.rig.now += Duration::from_millis(1);
    };
    bench(bencher, set, |timers| timers.order(Order::Set));
}

/// Cancels 4 timers of each session.
#[divan::bench(sample_size = 1)]
fn cancel(bencher: Bencher<'_, '_>) {
    let set = |timers: &mut Timers| timers.order(Order::Set);
    bench(bencher, set, |timers| timers.order(Order::Cancel));
}

/// Calls 4 timers of each session, in turns of 50 ms.
#[divan::bench(sample_size = 1)]
fn expire(bencher: Bencher<'_, '_>) {
    let set = |timers: &mut Timers| timers.order(Order::Set);
    bench(bencher, set, Timers::expire);
}

fn bench(bencher: Bencher<'_, '_>, prepare: fn(&mut Timers), measured: fn(&mut Timers)) {
    let timers = RefCell::new(Timers {
        rig: Rig::new(SESSIONS, |_| Timed),
    });
    bencher
        .counter(ItemsCount::new(ALL_TIMERS))
        .with_inputs(|| prepare(&mut timers.borrow_mut()))
        .bench_local_values(|()| measured(&mut timers.borrow_mut()));
}

struct Timers {
    rig: Rig<Timed>,
}

impl Timers {
    /// Each session carries the order out.
    fn order(&mut self, order: Order) {
        for slot in 0..SESSIONS {
            let posted = self.rig.shared.router.post_message(session(slot), order);
            assert!(posted.is_ok(), "the messages of all sessions have room");
        }
        self.turn_until_called(SESSIONS, Duration::ZERO);
    }

    fn expire(&mut self) {
        self.turn_until_called(ALL_TIMERS, STEP);
    }

    fn turn_until_called(&mut self, calls: usize, step: Duration) {
        CALLS.store(0, Ordering::Relaxed);
        while CALLS.load(Ordering::Relaxed) < calls {
            self.rig.now += step;
            self.rig.turn();
        }
        assert_eq!(CALLS.load(Ordering::Relaxed), calls);
    }
}

/// The callbacks of all sessions.
static CALLS: AtomicUsize = AtomicUsize::new(0);

#[derive(Clone, Copy)]
enum Order {
    Nothing,
    Set,
    Cancel,
}

impl Message for Order {}

struct Timed;

impl Session for Timed {
    fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
        Ok(())
    }

    fn on_message(&mut self, ctx: &mut Context<'_>, message: Box<dyn Any + Send>) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        let order = message
            .downcast::<Order>()
            .expect("all messages are orders");
        for key in 0..TIMERS {
            let number = ctx.id().to_u64() * u64::from(TIMERS) + u64::from(key);
            let after = Duration::from_millis(number * 7919 % SPREAD.as_millis() as u64);
            match *order {
                Order::Nothing => {}
                Order::Set => ctx.set_keyed_timer(key, ctx.now() + STEP + after),
                Order::Cancel => ctx.clear_keyed_timer(key),
            }
        }
    }

    fn on_keyed_timer(&mut self, _: &mut Context<'_>, key: u8) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        black_box(key);
    }
}
