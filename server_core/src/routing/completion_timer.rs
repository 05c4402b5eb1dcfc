//! The time from a start to the end of the last share of a task that several threads have shares of.
//! No clock and no thread: each share brings the instant of its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Count-down latches with a clock, one for each task that is under way. [`new`](Self::new) takes all
/// memory: a measured broadcast allocates as little as another one. The value of a slot is the number of
/// shares that have not ended; 0 is a free slot.
#[derive(Debug)]
pub struct CompletionTimer(Box<[AtomicUsize]>);

/// One share of a task: its timer, its slot and the start of the task, until it has ended. A share that is
/// dropped has ended, but returns no duration.
#[derive(Debug)]
pub struct Share(Option<(Arc<CompletionTimer>, usize, Instant)>);

impl CompletionTimer {
    /// A timer of this many tasks at a time.
    #[must_use]
    pub fn new(tasks: usize) -> Self {
        Self((0..tasks).map(|_| AtomicUsize::new(0)).collect())
    }

    /// Starts a task of this many shares, and returns all of them. Returns none if no slot is free. The
    /// caller takes each share: a share that is not taken never ends.
    pub fn start(
        self: &Arc<Self>,
        started: Instant,
        shares: usize,
    ) -> impl Iterator<Item = Share> + use<> {
        let take = |slot: &AtomicUsize| {
            // The load keeps the slots of other tasks in the caches of their workers.
            slot.load(Ordering::Relaxed) == 0
                && (slot.compare_exchange(0, shares, Ordering::AcqRel, Ordering::Relaxed)).is_ok()
        };
        let (timer, slot) = (Arc::clone(self), self.0.iter().position(take));
        let slots = slot.into_iter().cycle().take(shares);
        slots.map(move |slot| Share(Some((Arc::clone(&timer), slot, started))))
    }

    /// Returns whether this was the last share of the slot.
    fn count_down(&self, slot: usize) -> bool {
        self.0[slot].fetch_sub(1, Ordering::AcqRel) == 1
    }
}

impl Share {
    /// Ends this share. The last share returns the duration of the task.
    #[must_use]
    pub fn end(mut self, now: Instant) -> Option<Duration> {
        let (timer, slot, started) = self.0.take()?;
        (timer.count_down(slot)).then(|| now.saturating_duration_since(started))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some((timer, slot, _)) = self.0.take() {
            timer.count_down(slot);
        }
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
    fn last_share_returns_duration() {
        let timer = Arc::new(CompletionTimer::new(4));
        let start = Instant::now();
        let (one, two): (Vec<_>, Vec<_>) = (
            timer.start(start, 3).collect(),
            timer.start(start + millis(10), 2).collect(),
        );
        let ends = |shares: Vec<Share>, at: &[u64]| -> Vec<_> {
            let ends = shares.into_iter().zip(at);
            ends.map(|(share, at)| share.end(start + millis(*at)))
                .collect()
        };
        assert_eq!(ends(one, &[30, 20, 40]), [None, None, Some(millis(40))]);
        assert_eq!(ends(two, &[15, 15]), [None, Some(millis(5))]);
    }

    #[test]
    fn dropped_share_frees_its_slot() {
        let timer = Arc::new(CompletionTimer::new(1));
        let start = Instant::now();
        for _ in 0..10 {
            let mut shares: Vec<_> = timer.start(start, 2).collect();
            assert_eq!(shares.len(), 2);
            assert_eq!(timer.start(start, 2).count(), 0, "no slot is free");
            drop(shares.pop());
            let last = shares.pop().unwrap().end(start + millis(1));
            assert_eq!(last, Some(millis(1)), "the other share is the last");
        }
        assert_eq!(timer.start(start, 0).count(), 0);
        assert_eq!(timer.start(start, 1).count(), 1);
    }

    #[test]
    fn one_of_the_threads_that_end_at_once_is_the_last() {
        let timer = Arc::new(CompletionTimer::new(8));
        let start = Instant::now();
        for _ in 0..300 {
            let threads: Vec<_> = timer
                .start(start, 4)
                .map(|share| thread::spawn(move || share.end(start + millis(7))))
                .collect();
            let durations: Vec<_> = threads
                .into_iter()
                .filter_map(|thread| thread.join().unwrap())
                .collect();
            assert_eq!(durations, [millis(7)]);
        }
    }
}
