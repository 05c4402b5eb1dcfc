//! A schedule of requests that waits for no answer.

use std::time::{Duration, Instant};

/// One kind of request of one session, on such a schedule.
pub trait Plan {
    /// What is sent.
    type Request;

    /// When the next one is due.
    fn next_at(&self) -> Instant;

    /// The next one, if it is due, and when it was.
    fn poll(&mut self, now: Instant) -> Option<(Self::Request, Instant)>;

    /// Sent, and not come back.
    fn outstanding(&self) -> u64;
}

/// The n-th request is due at `start + n * period`, however late the one before was answered (an
/// open loop): a server that is slow gets no rest from it, and its slowness shows in full.
#[derive(Debug)]
pub struct OpenLoop {
    start: Instant,
    period: Duration,
    sent: u64,
}

impl OpenLoop {
    /// The first request is due within the first period, at `phase` of it (0 to 1), so that many
    /// sessions spread over it.
    pub fn new(now: Instant, period: Duration, phase: f64) -> Self {
        Self {
            start: now + period.mul_f64(phase),
            period,
            sent: 0,
        }
    }

    /// When the next one is due.
    pub fn next_at(&self) -> Instant {
        self.due(self.sent)
    }

    /// The number (0, 1, 2 …) of the next one, if it is due.
    pub fn poll(&mut self, now: Instant) -> Option<u64> {
        if self.next_at() > now {
            return None;
        }
        self.sent += 1;
        Some(self.sent - 1)
    }

    /// How many of those from `first` on were handed out and due by `at`.
    pub fn due_by(&self, first: u64, at: Instant) -> u64 {
        let waiting = (first..self.sent).take_while(|number| self.due(*number) <= at);
        waiting.count() as u64
    }

    /// How many were handed out.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// When a request was due.
    pub fn due(&self, number: u64) -> Instant {
        self.start + self.period.mul_f64(number as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_does_not_wait_for_answers() {
        let (start, period) = (Instant::now(), Duration::from_millis(10));
        let mut schedule = OpenLoop::new(start, period, 0.5);
        let late = start + period * 11;
        let due: Vec<_> = std::iter::from_fn(|| schedule.poll(late)).collect();
        assert_eq!(due, (0..11).collect::<Vec<_>>());
        assert_eq!(schedule.due(3), start + period.mul_f64(3.5));
        assert!(schedule.next_at() > late);
    }
}
