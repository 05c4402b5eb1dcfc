//! The chats of one address: a budget that survives a reconnect.

use server_core::AddressBudgets;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Chats a second by address, shared by all sessions.
///
/// A chat over it is dropped, and its session stays. Behind one address there may be many players:
/// a kick, or a pause of their input, would make each of them pay for a neighbour's flood. Who
/// floods is found by the session's own budget.
#[derive(Debug)]
pub struct ChatBudget {
    budgets: AddressBudgets,
    dropped: Mutex<Dropped>,
}

#[derive(Debug, Default)]
struct Dropped {
    chats: u64,
    next_line_at: Option<Instant>,
}

/// One log line about dropped chats in this time, at most.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

impl ChatBudget {
    /// `max_per_sec` chats a second from each address, with a burst of twice that.
    #[must_use]
    pub fn new(max_per_sec: u32) -> Self {
        Self {
            budgets: AddressBudgets::new(max_per_sec),
            dropped: Mutex::default(),
        }
    }

    /// Whether a chat from there is within the budget. If not, it is counted for the log.
    pub fn take(&self, peer: SocketAddr, now: Instant) -> bool {
        let allowed = self.budgets.take(peer.ip(), now);
        if !allowed && let Some(chats) = self.count_dropped(now) {
            log::warn!(
                "chats over --max-chats-per-ip-per-sec: {chats} dropped, the last from {}",
                peer.ip()
            );
        }
        allowed
    }

    /// Returns how many were dropped since the last line, if it is time for the next one.
    fn count_dropped(&self, now: Instant) -> Option<u64> {
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        dropped.chats += 1;
        if dropped.next_line_at.is_some_and(|at| now < at) {
            return None;
        }
        dropped.next_line_at = Some(now + LOG_INTERVAL);
        Some(std::mem::take(&mut dropped.chats))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_chats_are_counted_and_logged_once_in_a_while() {
        let (budget, now) = (ChatBudget::new(2), Instant::now());
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!((0..10).filter(|_| budget.take(peer, now)).count(), 4);
        assert_eq!(budget.count_dropped(now), None);
        assert_eq!(budget.count_dropped(now + LOG_INTERVAL), Some(7));
    }
}
