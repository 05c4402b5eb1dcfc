//! Delays between retries.

use std::time::Duration;

/// Retry delays that double up to a cap. Each delay is drawn at random between zero and its bound
/// ("full jitter"), so a thousand peers that were lost together do not reconnect together.
///
/// ```
/// # use {server_core::backoff::Backoff, std::time::Duration};
/// let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
/// assert_eq!(backoff.next_delay(u32::MAX), Duration::from_millis(100));
/// assert_eq!(backoff.next_delay(u32::MAX), Duration::from_millis(200));
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    tries: u32,
}

impl Backoff {
    /// Starts with a bound of `base`. No delay is longer than `cap`.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            tries: 0,
        }
    }

    /// The next delay. `random` selects a value between zero (0) and the bound (`u32::MAX`).
    #[must_use]
    pub fn next_delay(&mut self, random: u32) -> Duration {
        let factor = 1_u32.checked_shl(self.tries).unwrap_or(u32::MAX);
        let bound = self.base.saturating_mul(factor).min(self.cap);
        self.tries = (self.tries + 1).min(u32::BITS);
        bound.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Starts from `base` again, after a success.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
        let waits: Vec<u128> = (0..100)
            .map(|_| backoff.next_delay(u32::MAX).as_millis())
            .collect();
        assert_eq!(waits[..5], [50, 100, 200, 400, 500]);
        assert!(waits[5..].iter().all(|&wait| wait == 500));
        backoff.reset();
        assert_eq!(backoff.next_delay(0), Duration::ZERO);
        assert_eq!(backoff.next_delay(u32::MAX).as_millis(), 100);
    }
}
