//! Echo requests on a fixed schedule, and what their answers have to be.

use std::time::{Duration, Instant};

/// One session's echoes: the n-th is due at `start + n * period`, however late the one before was
/// answered (an open loop), and carries bytes that only it has.
#[derive(Debug)]
pub struct EchoPlan {
    start: Instant,
    period: Duration,
    payload_bytes: usize,
    seed: u64,
    sent: u64,
    answered: u64,
}

impl EchoPlan {
    /// A plan of its own for each seed. The first echo is due within the first period, so that
    /// many sessions spread over it.
    pub fn new(now: Instant, period: Duration, payload_bytes: usize, seed: u64) -> Self {
        let phase = fastrand::Rng::with_seed(seed).f64();
        Self {
            start: now + period.mul_f64(phase),
            period,
            payload_bytes,
            seed,
            sent: 0,
            answered: 0,
        }
    }

    /// When the next one is due.
    pub fn next_at(&self) -> Instant {
        self.due(self.sent)
    }

    /// The payload of the next one, if it is due, and when it was.
    pub fn poll(&mut self, now: Instant) -> Option<(Vec<u8>, Instant)> {
        let due = self.next_at();
        if due > now {
            return None;
        }
        self.sent += 1;
        Some((self.payload(self.sent), due))
    }

    /// Takes an answer. If it is the one that has to come next, returns when that one was due:
    /// its time counts from there, however late it was sent.
    pub fn answer(&mut self, payload: &[u8]) -> Option<Instant> {
        if self.answered == self.sent {
            return None;
        }
        let due = self.due(self.answered);
        self.answered += 1;
        (self.payload(self.answered) == payload).then_some(due)
    }

    /// Sent and not answered.
    pub fn outstanding(&self) -> u64 {
        self.sent - self.answered
    }

    fn due(&self, before: u64) -> Instant {
        self.start + self.period.mul_f64(before as f64)
    }

    fn payload(&self, number: u64) -> Vec<u8> {
        let mut payload = vec![0; self.payload_bytes];
        fastrand::Rng::with_seed(self.seed ^ number.rotate_left(32)).fill(&mut payload);
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(10);

    #[test]
    fn the_schedule_does_not_wait_for_answers() {
        let start = Instant::now();
        let mut plan = EchoPlan::new(start, PERIOD, 8, 7);
        let late = start + PERIOD * 11;
        let due = std::iter::from_fn(|| plan.poll(late)).count();
        assert!((10..=11).contains(&due), "{due}");
        assert_eq!(plan.outstanding(), due as u64);
        assert!(plan.next_at() > late);
    }

    #[test]
    fn answers_have_to_come_in_order_and_whole() {
        let start = Instant::now();
        let mut plan = EchoPlan::new(start, PERIOD, 8, 7);
        let sent: Vec<_> = std::iter::from_fn(|| plan.poll(start + PERIOD * 5))
            .map(|(payload, _)| payload)
            .collect();
        assert_eq!(plan.answer(&sent[0]), Some(plan.start));
        assert!(plan.answer(&sent[2]).is_none(), "one was left out");
        assert!(plan.answer(&sent[2]).is_some(), "counted from there on");
        for payload in &sent[3..] {
            assert!(plan.answer(payload).is_some());
        }
        assert!(plan.answer(&sent[0]).is_none(), "nothing was asked");
        assert_eq!(plan.outstanding(), 0);
    }

    #[test]
    fn two_sessions_send_different_bytes() {
        let now = Instant::now();
        let payload = |seed| {
            let first = EchoPlan::new(now, PERIOD, 16, seed).poll(now + PERIOD);
            first.map(|(payload, _)| payload)
        };
        assert_eq!(payload(1), payload(1));
        assert_ne!(payload(1), payload(2));
    }
}
