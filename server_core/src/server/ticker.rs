//! A tick loop that waits, skips and counts, in place of a loop with `sleep`.

use crate::base::metrics::{Counter, Histogram};
use crate::server::ServerHandle;
use crate::server::schedule::{Tick, TickSchedule};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Calls a function on a fixed schedule, on the thread that calls `run`.
///
/// The n-th tick is due at `start + n * period`, whatever the duration of the function: ticks do not drift.
/// A tick whose whole period passes while the function runs, or while the process is stopped, is
/// skipped and counted. [`TickSchedule`] is the same without a clock.
///
/// ```
/// use server_core::{Context, Kick, Packet, Server, Session, Ticker};
/// use std::time::Duration;
///
/// server_core::packets! {
///     /// Sent to all on every tick.
///     server 1 => pub SHello {
///         /// 1 for the first tick, and 1 more for each further tick.
///         tick: u64,
///     } + text;
/// }
///
/// struct Player;
/// impl Session for Player {
///     fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
///         Err(Kick::UnknownId)
///     }
/// }
///
/// let server = Server::builder().workers(1).start("127.0.0.1:0", |_peer| Player)?;
/// let ticker = Ticker::new(Duration::from_millis(5)).for_server(&server.handle());
/// let (metrics, stopper) = (ticker.metrics(), ticker.stopper());
/// ticker.run(|tick| {
///     server.broadcast(&SHello::new(tick.number), "Hello World");
///     if tick.number == 3 {
///         stopper.stop(); // from here, or from any other thread
///     }
/// });
/// assert_eq!(metrics.ticks.get(), 3);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "no tick comes before `run`"]
pub struct Ticker {
    period: Duration,
    server: Option<ServerHandle>,
    metrics: Arc<TickMetrics>,
    stopper: TickStopper,
}

/// Ends the loop of a [`Ticker`] from any thread.
#[derive(Clone, Debug, Default)]
pub struct TickStopper(Arc<Stop>);

/// The stop flag, with a condition variable. A channel would spin before it waits, at each tick.
#[derive(Debug, Default)]
struct Stop {
    was_asked: Mutex<bool>,
    asked: Condvar,
}

/// Counters of the ticks of a [`Ticker`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct TickMetrics {
    /// Ticks on which the function was called.
    pub ticks: Counter,
    /// Ticks that were skipped, as their whole period had passed.
    pub skipped: Counter,
    /// Time from the instant of each tick to the call of the function.
    pub lag: Histogram,
    /// Time that the function takes.
    pub duration: Histogram,
}

/// Interval at which the loop checks that the server runs, where ticks are further apart.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

impl Ticker {
    /// A loop that has not started.
    pub fn new(period: Duration) -> Self {
        Self {
            period,
            server: None,
            metrics: Arc::default(),
            stopper: TickStopper::default(),
        }
    }

    /// Ends the loop when this server ends, for any reason.
    pub fn for_server(mut self, server: &ServerHandle) -> Self {
        self.server = Some(server.clone());
        self
    }

    /// The period of the ticks.
    #[must_use]
    pub fn period(&self) -> Duration {
        self.period
    }

    /// A stopper of the loop, for any thread.
    #[must_use]
    pub fn stopper(&self) -> TickStopper {
        self.stopper.clone()
    }

    /// The counters, which the loop updates while it runs.
    #[must_use]
    pub fn metrics(&self) -> Arc<TickMetrics> {
        Arc::clone(&self.metrics)
    }

    /// Calls `on_tick` at each tick, the first time one period from now. Returns when the loop is stopped,
    /// or when the server has ended.
    pub fn run(self, mut on_tick: impl FnMut(Tick)) {
        let mut schedule = TickSchedule::new(Instant::now(), self.period);
        while !self.server_has_ended() {
            let check_at = (self.server.as_ref()).map(|_| Instant::now() + CHECK_INTERVAL);
            let next_at = schedule.next_at();
            let wake_at = check_at.map_or(next_at, |at| at.min(next_at));
            if self.stopper.0.is_asked_by(wake_at) {
                return;
            }
            if let Some(tick) = schedule.poll(Instant::now()) {
                // Counted first: a reader that has seen a tick finds it in the metrics.
                self.metrics.count(tick);
                let began = Instant::now();
                on_tick(tick);
                self.metrics.duration.record(began.elapsed());
            }
        }
    }

    /// The schedule of the ticks, from `now` on: for a caller in place of [`run`](Self::run).
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn schedule(&self, now: Instant) -> TickSchedule {
        TickSchedule::new(now, self.period)
    }

    /// Whether the loop is stopped.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn is_stopped(&self) -> bool {
        *self.stopper.0.lock()
    }

    fn server_has_ended(&self) -> bool {
        self.server
            .as_ref()
            .is_some_and(ServerHandle::is_shutting_down)
    }
}

impl TickStopper {
    /// Ends the loop before its next tick, or before it begins. A second call changes nothing.
    pub fn stop(&self) {
        *self.0.lock() = true;
        self.0.asked.notify_all();
    }
}

impl Stop {
    /// Waits until `at` or until the stop. Returns whether the loop is stopped.
    fn is_asked_by(&self, at: Instant) -> bool {
        let wait = at.saturating_duration_since(Instant::now());
        let waited = (self.asked).wait_timeout_while(self.lock(), wait, |was_asked| !*was_asked);
        let (was_asked, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *was_asked
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        // The flag is set in one step: a panic elsewhere cannot leave it half changed.
        self.was_asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl TickMetrics {
    /// Counts one tick.
    pub fn count(&self, tick: Tick) {
        self.ticks.add(1);
        self.skipped.add(tick.skipped);
        self.lag.record(tick.lag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const PERIOD: Duration = Duration::from_millis(5);
    /// Longer than any test.
    const LONG_PERIOD: Duration = Duration::from_secs(100_000);

    /// Runs the loop on a thread of its own. A loop that does not end fails the test.
    fn ends(ticker: Ticker) {
        let (tell, told) = crossbeam_channel::bounded(1);
        thread::spawn(move || {
            ticker.run(|_| ());
            tell.send(()).unwrap();
        });
        told.recv_timeout(Duration::from_secs(30)).unwrap();
    }

    #[test]
    fn each_tick_has_the_next_number_and_is_counted_before_it_is_seen() {
        let ticker = Ticker::new(PERIOD);
        let (metrics, stopper) = (ticker.metrics(), ticker.stopper());
        let began = Instant::now();
        let mut seen = Vec::new();
        ticker.run(|tick| {
            seen.push(tick);
            assert_eq!(metrics.ticks.get(), tick.number);
            if tick.number == 10 {
                stopper.stop();
            }
        });
        assert!(seen.iter().map(|tick| tick.number).eq(1..=10));
        let skipped: u64 = seen.iter().map(|tick| tick.skipped).sum();
        assert_eq!(metrics.skipped.get(), skipped);
        assert_eq!(metrics.lag.count(), 10);
        assert!(
            began.elapsed() >= PERIOD * (10 + skipped as u32),
            "never early"
        );
    }

    #[test]
    fn a_long_round_is_skipped_over_and_counted() {
        let ticker = Ticker::new(PERIOD);
        let (metrics, stopper) = (ticker.metrics(), ticker.stopper());
        let mut skipped = Vec::new();
        ticker.run(|tick| {
            skipped.push(tick.skipped);
            match tick.number {
                1 => thread::sleep(PERIOD * 6),
                _ => stopper.stop(),
            }
        });
        // Six ticks were due in between. The last of them may be the next tick.
        assert!(skipped[1] >= 5, "{skipped:?}");
        assert_eq!(metrics.skipped.get(), skipped.iter().sum::<u64>());
    }

    #[test]
    fn another_thread_stops_it_before_its_next_tick() {
        let ticker = Ticker::new(LONG_PERIOD);
        let stopper = ticker.stopper();
        let other = thread::spawn(move || {
            stopper.stop();
            stopper.stop();
        });
        ends(ticker);
        other.join().unwrap();
    }

    #[test]
    fn a_loop_that_is_stopped_before_its_start_does_nothing() {
        let ticker = Ticker::new(Duration::ZERO);
        ticker.stopper().stop();
        ticker.run(|tick| panic!("{tick:?}"));
    }

    #[test]
    fn a_stopper_outlives_its_loop() {
        let ticker = Ticker::new(PERIOD);
        let stopper = ticker.stopper();
        drop(ticker);
        stopper.stop();
    }

    #[test]
    fn no_period_is_too_long() {
        let ticker = Ticker::new(Duration::MAX);
        let stopper = ticker.stopper();
        stopper.stop();
        ends(ticker);
    }
}
