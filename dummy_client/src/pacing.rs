//! Requests on a fixed schedule that does not wait for answers.

use crate::context::BotContext;
use crate::metrics::RequestSeries;
use std::time::{Duration, Instant};

/// The n-th request is due at `start + n * period`, however late the answer before came (an open loop): a slow
/// server gets no pause from it, and its slowness shows in full.
#[derive(Clone, Debug)]
pub struct OpenLoop {
    start: Instant,
    period: Duration,
    sent: u64,
}

impl OpenLoop {
    /// The first request is due within the first period, at `phase` of it (0 to 1), so that many users spread
    /// over it.
    #[must_use]
    pub fn new(now: Instant, period: Duration, phase: f64) -> Self {
        Self {
            start: now + period.mul_f64(phase.clamp(0.0, 1.0)),
            period,
            sent: 0,
        }
    }

    /// When the next request is due.
    #[must_use]
    pub fn next_at(&self) -> Instant {
        self.due(self.sent)
    }

    /// The number (0, 1, 2 ...) of the next request, if it is due.
    pub fn poll(&mut self, now: Instant) -> Option<u64> {
        if self.next_at() > now {
            return None;
        }
        self.sent += 1;
        Some(self.sent - 1)
    }

    /// Number of requests from `first` on that were handed out and due by `at`.
    #[must_use]
    pub fn due_by(&self, first: u64, at: Instant) -> u64 {
        let in_flight = (first..self.sent).take_while(|number| self.due(*number) <= at);
        in_flight.count() as u64
    }

    /// Number of requests that were handed out.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// When a request was due.
    #[must_use]
    pub fn due(&self, number: u64) -> Instant {
        self.start + self.period.mul_f64(number as f64)
    }
}

/// Requests of one bot, answered in their order, with the metrics of a [`RequestSeries`].
///
/// The time of an answer is measured from the moment at which its request was due, so a bot or a server that is
/// late shows it (this corrects for coordinated omission). The bot calls [`send_due`](Self::send_due) in
/// `on_connected` (in a scenario with a login, when the user is logged in) and in `on_timer`, [`answered`](Self::answered) for each answer, and
/// [`disconnected`](Self::disconnected) in `on_disconnected`.
#[derive(Clone, Debug)]
pub struct PacedRequests {
    schedule: OpenLoop,
    series: RequestSeries,
    answered: u64,
    max_in_flight: u64,
    /// Requests are late because the server owes too many answers: that is not the client's lateness.
    is_held_back: bool,
}

/// Requests of one callback; then the other sessions have their turn.
const MAX_SENDS_PER_CALLBACK: usize = 256;
const MIN_WAIT: Duration = Duration::from_micros(100);
/// A request unanswered for this long counts as lost.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// A server that answers nothing must not fill the client's memory with requests.
const MAX_IN_FLIGHT_BYTES: usize = 4 << 20;

impl PacedRequests {
    /// A request each period. The seed gives the phase. Of `payload_bytes` each, at most 4 MiB (and at least 16
    /// requests) are in flight; the others wait here, and their times count from when they were due.
    #[must_use]
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

    /// Sends what is due by `send`, which gets the number of the request (0, 1, 2 ...). Returns when to call
    /// again, for the bot's timer; `None` when the run ends.
    pub fn send_due(
        &mut self,
        ctx: &mut BotContext<'_, '_>,
        mut send: impl FnMut(&mut BotContext<'_, '_>, u64),
    ) -> Option<Instant> {
        let now = ctx.now();
        let mut left = MAX_SENDS_PER_CALLBACK;
        while self.schedule.next_at() <= now && left > 0 {
            if self.in_flight() >= self.max_in_flight {
                self.is_held_back = true;
                break;
            }
            if !ctx.may_send(self.series.sent) {
                return None;
            }
            left -= 1;
            if let Some(number) = self.schedule.poll(now) {
                send(ctx, number);
                if !self.is_held_back {
                    ctx.sent_late(now.saturating_duration_since(self.schedule.due(number)));
                }
            }
        }
        let next_at = self.schedule.next_at();
        self.is_held_back &= next_at <= now;
        Some(next_at.max(now + MIN_WAIT))
    }

    /// Takes the next answer of a server that answers in order. `is_right` gets the number of the request that the
    /// answer must belong to. Returns the time of a right answer.
    pub fn answered(
        &mut self,
        ctx: &mut BotContext<'_, '_>,
        is_right: impl FnOnce(u64) -> bool,
    ) -> Option<Duration> {
        let number = self.answered;
        self.answered_number(ctx, number, || is_right(number))
    }

    /// Takes the answer of the request with this number, of a protocol whose answers name their request. The
    /// requests between the answer before and this one are lost. Returns the time of a right answer.
    pub fn answered_number(
        &mut self,
        ctx: &mut BotContext<'_, '_>,
        number: u64,
        is_right: impl FnOnce() -> bool,
    ) -> Option<Duration> {
        let Some(skipped) = self.take_answer(number) else {
            // An answer without a request: it must not make up for one that is missing.
            ctx.fail(self.series.corrupted, 1);
            return None;
        };
        ctx.fail(self.series.lost, skipped);
        ctx.add(self.series.answered, 1);
        if !is_right() {
            ctx.fail(self.series.corrupted, 1);
            return None;
        }
        let time = ctx
            .now()
            .saturating_duration_since(self.schedule.due(number));
        ctx.record(self.series.time, time);
        Some(time)
    }

    /// The number of requests that this answer leaves out. `None`: no request with this number is in flight.
    fn take_answer(&mut self, number: u64) -> Option<u64> {
        if !(self.answered..self.schedule.sent()).contains(&number) {
            return None;
        }
        let skipped = number - self.answered;
        self.answered = number + 1;
        Some(skipped)
    }

    /// The connection has ended: requests that were due more than 2 s ago are lost, the others were waiting.
    pub fn disconnected(&mut self, ctx: &mut BotContext<'_, '_>) {
        let long_ago = ctx.now().checked_sub(RESPONSE_TIMEOUT);
        let lost = long_ago.map_or(0, |at| self.schedule.due_by(self.answered, at));
        ctx.fail(self.series.lost, lost);
        ctx.add(self.series.waiting, self.in_flight() - lost);
        self.answered = self.schedule.sent();
    }

    /// Requests without an answer.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.schedule.sent() - self.answered
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
        let sent = requests.schedule.sent();
        assert_eq!(requests.take_answer(0), Some(0));
        assert_eq!(requests.take_answer(3), Some(2));
        assert_eq!(requests.take_answer(3), None, "it is answered");
        assert_eq!(requests.take_answer(sent), None, "it is not sent");
        assert_eq!(requests.in_flight(), sent - 4);
    }
}
