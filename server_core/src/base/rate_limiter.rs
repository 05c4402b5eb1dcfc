//! A token bucket in 16 bytes.

use std::time::{Duration, Instant};

/// Allows `rate` events a second on average, with a burst of twice `rate`.
///
/// The state is one instant, at which the bucket would be full again (the generic cell rate
/// algorithm). So a session pays for one `Instant`, and no timer refills the bucket.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimiter {
    full_at: Option<Instant>,
}

impl RateLimiter {
    /// Takes one token of a bucket that refills with `rate_per_sec`. Returns `false` if the bucket is empty.
    ///
    /// A rate of zero never has a token.
    #[must_use]
    pub fn take(&mut self, rate_per_sec: u32, now: Instant) -> bool {
        self.book(rate_per_sec, Duration::ZERO, now).is_some()
    }

    /// Takes one token, or books the next token if it comes within `longest_wait`. Returns the time until
    /// the token comes. Bookings are served in the order of the calls. Returns `None`, and takes nothing,
    /// if no token comes within `longest_wait`.
    #[must_use]
    pub fn book(
        &mut self,
        rate_per_sec: u32,
        longest_wait: Duration,
        now: Instant,
    ) -> Option<Duration> {
        let cost = Duration::from_secs(1).checked_div(rate_per_sec)?;
        let depth = cost * BURST_FACTOR * rate_per_sec;
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + cost;
        let wait = full_at.saturating_duration_since(now + depth);
        (wait <= longest_wait).then(|| {
            self.full_at = Some(full_at);
            wait
        })
    }

    /// Whether the bucket is full, as a new bucket is.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }
}

/// A burst is the events of this number of seconds.
const BURST_FACTOR: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_twice_the_rate_then_the_rate() {
        let start = Instant::now();
        let mut limiter = RateLimiter::default();
        let burst = (0..100).filter(|_| limiter.take(10, start)).count();
        assert_eq!(burst, 20);
        let mut taken = 0;
        for millis in 1..=10_000 {
            taken += usize::from(limiter.take(10, start + Duration::from_millis(millis)));
        }
        assert_eq!(taken, 100);
    }

    #[test]
    fn a_rest_refills_to_the_burst_and_no_further() {
        let start = Instant::now();
        let mut limiter = RateLimiter::default();
        while limiter.take(5, start) {}
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| limiter.take(5, later)).count(), 10);
    }

    #[test]
    fn bookings_come_at_the_rate_in_order_and_no_later_than_allowed() {
        let now = Instant::now();
        let mut limiter = RateLimiter::default();
        while limiter.take(10, now) {}
        let second = Duration::from_secs(1);
        let waits: Vec<_> = (0..100)
            .map_while(|_| limiter.book(10, second, now))
            .collect();
        let expected: Vec<_> = (1..=10).map(|n| n * second / 10).collect();
        assert_eq!(waits, expected);
        assert!(!limiter.take(10, now + second));
        assert!(limiter.take(10, now + second + second / 10));
    }

    #[test]
    fn odd_rates_do_not_lose_tokens() {
        for rate in [1, 3, 7, 999, 1_000_003] {
            let mut limiter = RateLimiter::default();
            let now = Instant::now();
            let burst = (0..rate * 2 + 5)
                .filter(|_| limiter.take(rate, now))
                .count();
            assert_eq!(burst, rate as usize * 2);
        }
        assert!(!RateLimiter::default().take(0, Instant::now()));
    }
}
