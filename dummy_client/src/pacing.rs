//! Requests on a fixed schedule that does not wait for answers.

use crate::metrics::RequestSeries;
use std::time::{Duration, Instant};

/// The n-th request is due at `start + n * period`, however late the answer before came (an open loop): a slow
/// server gets no pause from it, and its slowness shows in full.
#[derive(Clone, Debug)]
struct OpenLoop {
    start: Instant,
    period: Duration,
    sent: u64,
}

impl OpenLoop {
    /// The first request is due within the first period, at `phase` of it (0 to 1), so that many users spread
    /// over it.
    fn new(now: Instant, period: Duration, phase: f64) -> Self {
        Self {
            start: now + period.mul_f64(phase.clamp(0.0, 1.0)),
            period,
            sent: 0,
        }
    }

    fn next_at(&self) -> Instant {
        self.due(self.sent)
    }

    /// The number (0, 1, 2 ...) of the next request, if it is due.
    fn poll(&mut self, now: Instant) -> Option<u64> {
        if self.next_at() > now {
            return None;
        }
        self.sent += 1;
        Some(self.sent - 1)
    }

    /// Number of requests from `first` on that were handed out and due by `at`.
    fn due_by(&self, first: u64, at: Instant) -> u64 {
        let in_flight = (first..self.sent).take_while(|number| self.due(*number) <= at);
        in_flight.count() as u64
    }

    fn due(&self, number: u64) -> Instant {
        self.start + self.period.mul_f64(number as f64)
    }
}

/// The requests of one series of one connection, answered in their order.
#[derive(Clone, Debug)]
pub(crate) struct PacedRequests {
    pub series: RequestSeries,
    schedule: OpenLoop,
    answered: u64,
    max_in_flight: u64,
    /// Requests are late because the server owes too many answers: that is not the client's lateness.
    is_held_back: bool,
}

/// Requests of one callback; then the other sessions have their turn.
pub(crate) const MAX_SENDS_PER_CALLBACK: usize = 256;
const MIN_WAIT: Duration = Duration::from_micros(100);
/// A request unanswered for this long counts as lost.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// A server that answers nothing must not fill the client's memory with requests.
const MAX_IN_FLIGHT_BYTES: usize = 4 << 20;

impl PacedRequests {
    /// A request each period. The seed gives the phase.
    pub fn new(
        series: RequestSeries,
        now: Instant,
        period: Duration,
        payload_bytes: usize,
        seed: u64,
    ) -> Self {
        let phase = fastrand::Rng::with_seed(seed).f64();
        Self {
            schedule: OpenLoop::new(now, period, phase),
            series,
            answered: 0,
            max_in_flight: (MAX_IN_FLIGHT_BYTES / (payload_bytes + 64)).max(16) as u64,
            is_held_back: false,
        }
    }

    /// Whether a request is due and may be sent: not too many are in flight.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.schedule.next_at() <= now;
        if is_due && self.in_flight() >= self.max_in_flight {
            self.is_held_back = true;
            return false;
        }
        is_due
    }

    /// Takes the number of the request that is due, and how late the client is with it.
    pub fn take_due(&mut self, now: Instant) -> Option<(u64, Duration)> {
        let number = self.schedule.poll(now)?;
        let late = now.saturating_duration_since(self.schedule.due(number));
        let late = if self.is_held_back {
            Duration::ZERO
        } else {
            late
        };
        Some((number, late))
    }

    /// When to look for the next request, behind those that were due.
    pub fn next_at(&mut self, now: Instant) -> Instant {
        let next_at = self.schedule.next_at();
        self.is_held_back &= next_at <= now;
        next_at.max(now + MIN_WAIT)
    }

    /// The number of the request whose answer comes next.
    pub fn next_answer(&self) -> u64 {
        self.answered
    }

    /// The number of requests that this answer leaves out, and when its request was due. `None`: no request with this
    /// number is in flight.
    pub fn take_answer(&mut self, number: u64) -> Option<(u64, Instant)> {
        if !(self.answered..self.schedule.sent).contains(&number) {
            return None;
        }
        let skipped = number - self.answered;
        self.answered = number + 1;
        Some((skipped, self.schedule.due(number)))
    }

    /// The connection has ended. Returns the requests that were due more than 2 s ago, and the others in flight.
    pub fn disconnected(&mut self, now: Instant) -> (u64, u64) {
        let long_ago = now.checked_sub(RESPONSE_TIMEOUT);
        let lost = long_ago.map_or(0, |at| self.schedule.due_by(self.answered, at));
        let waiting = self.in_flight() - lost;
        self.answered = self.schedule.sent;
        (lost, waiting)
    }

    fn in_flight(&self) -> u64 {
        self.schedule.sent - self.answered
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
        assert_eq!(schedule.due_by(9, late), 2);
    }

    #[test]
    fn an_answer_with_a_number_leaves_out_the_requests_before_it() {
        let mut registry = crate::Registry::default();
        let series = registry.request_series("moves", "answered", "move_rtt", "");
        let (start, period) = (Instant::now(), Duration::from_millis(10));
        let mut requests = PacedRequests::new(series, start, period, 8, 1);
        assert_eq!(requests.take_answer(0), None, "no request is in flight");
        while requests.schedule.poll(start + period * 20).is_some() {}
        let sent = requests.schedule.sent;
        let skipped = |answer: Option<(u64, Instant)>| answer.map(|(skipped, _)| skipped);
        assert_eq!(skipped(requests.take_answer(0)), Some(0));
        assert_eq!(skipped(requests.take_answer(3)), Some(2));
        assert_eq!(requests.take_answer(3), None, "it is answered");
        assert_eq!(requests.take_answer(sent), None, "it is not sent");
        assert_eq!(requests.in_flight(), sent - 4);
    }
}
