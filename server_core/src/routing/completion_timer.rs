//! How long something takes that several threads do a share of. Knows no clock and no thread: each
//! share brings the time of its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Measures many things at a time, each from its begin to the end of its last share, in memory
/// that was taken once: a broadcast that is measured allocates no more than one that is not.
///
/// ```
/// # use {server_core::routing::completion_timer::CompletionTimer, std::sync::Arc, std::time::{Duration, Instant}};
/// let stopwatch = Arc::new(CompletionTimer::new(64));
/// let start = Instant::now();
/// let mut laps = stopwatch.start(start, 2);
/// let (first, second) = (laps.next().expect("a slot is free"), laps.next().expect("likewise"));
/// assert_eq!(second.end(start + Duration::from_millis(1)), None);
/// assert_eq!(first.end(start + Duration::from_millis(3)), Some(Duration::from_millis(3)));
/// ```
#[derive(Debug)]
pub struct CompletionTimer {
    /// The shares that have not ended yet of what is measured in each slot; 0: the slot is free.
    shares_left: Box<[AtomicUsize]>,
    /// Where to look for a free slot first.
    next: AtomicUsize,
}

/// One share. Dropped without an end it counts as ended, but tells nothing.
#[derive(Debug)]
pub struct Share {
    stopwatch: Arc<CompletionTimer>,
    slot: Option<usize>,
    since: Instant,
}

impl CompletionTimer {
    /// A stopwatch that can measure so many things at a time.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self {
            shares_left: (0..slots).map(|_| AtomicUsize::new(0)).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// Begins to measure something that has so many shares, and hands them out: take them all. It
    /// hands out none if everything it can measure is under way already.
    pub fn start(
        self: &Arc<Self>,
        since: Instant,
        shares: usize,
    ) -> impl Iterator<Item = Share> + use<> {
        let slot = (shares > 0).then(|| self.take_slot(shares)).flatten();
        let stopwatch = Arc::clone(self);
        slot.into_iter()
            .flat_map(move |slot| std::iter::repeat_n(slot, shares))
            .map(move |slot| Share {
                stopwatch: Arc::clone(&stopwatch),
                slot: Some(slot),
                since,
            })
    }

    fn take_slot(&self, shares: usize) -> Option<usize> {
        let slots = self.shares_left.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        (0..slots)
            .map(|offset| first.wrapping_add(offset) % slots)
            .find(|slot| {
                self.shares_left[*slot]
                    .compare_exchange(0, shares, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
            })
    }
}

impl Share {
    /// This share has ended. The last one learns how long the whole took.
    #[must_use]
    pub fn end(mut self, now: Instant) -> Option<Duration> {
        self.leave()
            .then(|| now.saturating_duration_since(self.since))
    }

    /// Returns whether this was the last share.
    fn leave(&mut self) -> bool {
        self.slot.take().is_some_and(|slot| {
            self.stopwatch.shares_left[slot].fetch_sub(1, Ordering::AcqRel) == 1
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn the_last_share_tells() {
        let stopwatch = Arc::new(CompletionTimer::new(4));
        let start = Instant::now();
        let (one, two): (Vec<_>, Vec<_>) = (
            stopwatch.start(start, 3).collect(),
            stopwatch.start(start + millis(10), 2).collect(),
        );
        let told: Vec<_> = one
            .into_iter()
            .zip([30, 20, 40])
            .map(|(share, at)| share.end(start + millis(at)))
            .collect();
        assert_eq!(told, [None, None, Some(millis(40))]);
        let told: Vec<_> = two
            .into_iter()
            .map(|share| share.end(start + millis(15)))
            .collect();
        assert_eq!(told, [None, Some(millis(5))]);
    }

    #[test]
    fn a_lost_share_keeps_no_slot() {
        let stopwatch = Arc::new(CompletionTimer::new(1));
        let start = Instant::now();
        for _ in 0..10 {
            let mut shares: Vec<_> = stopwatch.start(start, 2).collect();
            assert_eq!(shares.len(), 2);
            assert_eq!(stopwatch.start(start, 2).count(), 0, "no slot is free");
            drop(shares.pop());
            assert_eq!(
                shares.pop().unwrap().end(start + millis(1)),
                Some(millis(1)),
                "the other one is the last"
            );
        }
        assert_eq!(stopwatch.start(start, 0).count(), 0);
        assert_eq!(stopwatch.start(start, 1).count(), 1);
    }

    #[test]
    fn threads_that_end_at_once_agree_on_the_last_one() {
        let stopwatch = Arc::new(CompletionTimer::new(8));
        let start = Instant::now();
        for _ in 0..300 {
            let threads: Vec<_> = stopwatch
                .start(start, 4)
                .map(|share| thread::spawn(move || share.end(start + millis(7))))
                .collect();
            let told: Vec<_> = threads
                .into_iter()
                .filter_map(|thread| thread.join().unwrap())
                .collect();
            assert_eq!(told, [millis(7)]);
        }
    }
}
