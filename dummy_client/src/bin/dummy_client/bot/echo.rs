//! Echo requests on a fixed schedule, and what their answers have to be.

use super::open_loop::{OpenLoop, Plan};
use std::time::{Duration, Instant};

/// One session's echoes. Each carries bytes that only it has.
#[derive(Debug)]
pub struct EchoPlan {
    schedule: OpenLoop,
    payload_bytes: usize,
    seed: u64,
    answered: u64,
}

impl EchoPlan {
    /// A plan of its own for each seed.
    pub fn new(now: Instant, period: Duration, payload_bytes: usize, seed: u64) -> Self {
        let phase = fastrand::Rng::with_seed(seed).f64();
        Self {
            schedule: OpenLoop::new(now, period, phase),
            payload_bytes,
            seed,
            answered: 0,
        }
    }

    /// Takes an answer. If it is the one that has to come next, returns when that one was due:
    /// its time counts from there, however late it was sent.
    pub fn answer(&mut self, payload: &[u8]) -> Option<Instant> {
        if self.outstanding() == 0 {
            return None;
        }
        let number = self.answered;
        self.answered += 1;
        (self.payload(number) == payload).then(|| self.schedule.due(number))
    }

    /// Not answered, and due by then.
    pub fn outstanding_since(&self, at: Instant) -> u64 {
        self.schedule.due_by(self.answered, at)
    }

    fn payload(&self, number: u64) -> Vec<u8> {
        let mut payload = vec![0; self.payload_bytes];
        fastrand::Rng::with_seed(self.seed ^ (number + 1).rotate_left(32)).fill(&mut payload);
        payload
    }
}

impl Plan for EchoPlan {
    type Request = Vec<u8>;

    fn next_at(&self) -> Instant {
        self.schedule.next_at()
    }

    fn poll(&mut self, now: Instant) -> Option<(Vec<u8>, Instant)> {
        let number = self.schedule.poll(now)?;
        Some((self.payload(number), self.schedule.due(number)))
    }

    fn outstanding(&self) -> u64 {
        self.schedule.sent() - self.answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(10);

    #[test]
    fn answers_have_to_come_in_order_and_whole() {
        let start = Instant::now();
        let mut plan = EchoPlan::new(start, PERIOD, 8, 7);
        let first_at = plan.next_at();
        let sent: Vec<_> = std::iter::from_fn(|| plan.poll(start + PERIOD * 5))
            .map(|(payload, _)| payload)
            .collect();
        assert_eq!(plan.answer(&sent[0]), Some(first_at));
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
