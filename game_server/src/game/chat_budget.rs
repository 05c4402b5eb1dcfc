//! The chats of one address: a budget that survives a reconnect.

use server_core::AddressBudgets;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Chats a second by address, shared by all sessions.
///
/// A chat over it is delayed, in the order of arrival, by up to two seconds; one that would wait longer
/// is dropped. Its session stays, and its other packets are handled at once. Behind one address there may
/// be many players: a kick, or a pause of their input, would make each of them pay for a neighbour's
/// flood. A session that floods is found by its own budget.
#[derive(Debug)]
pub struct ChatBudget {
    budgets: AddressBudgets,
    dropped: AtomicU64,
    log: Mutex<DropLog>,
}

#[derive(Debug, Default)]
struct DropLog {
    /// Dropped chats that a line has told of.
    told: u64,
    next_line_at: Option<Instant>,
}

/// Longest delay of a chat: with twice a second's worth booked, an address holds as much as its burst.
const LONGEST_DELAY: Duration = Duration::from_secs(2);
/// One log line about dropped chats in this time, at most.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

impl ChatBudget {
    /// `max_per_sec` chats a second from each address, with a burst of twice that.
    #[must_use]
    pub fn new(max_per_sec: u32) -> Self {
        Self {
            budgets: AddressBudgets::new(max_per_sec),
            dropped: AtomicU64::new(0),
            log: Mutex::default(),
        }
    }

    /// Chats that were over the budget of their address, those included whose session left while they
    /// waited.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The time that a chat from there has to wait. `None`: it is dropped, and counted.
    pub fn book(&self, peer: SocketAddr, now: Instant) -> Option<Duration> {
        let wait = self.budgets.book(peer.ip(), LONGEST_DELAY, now);
        if wait.is_none() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(chats) = self.untold(dropped, now) {
                log::warn!(
                    "chats over --max-chats-per-ip-per-sec: {chats} dropped, the last from {}",
                    peer.ip()
                );
            }
        }
        wait
    }

    /// These chats wait no more: their session has left. Said now, they would come faster than the budget.
    pub fn forget(&self, chats: usize) {
        self.dropped.fetch_add(chats as u64, Ordering::Relaxed);
    }

    /// The chats dropped since the last line, if the next line is due.
    fn untold(&self, dropped: u64, now: Instant) -> Option<u64> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.next_line_at.is_some_and(|at| now < at) {
            return None;
        }
        log.next_line_at = Some(now + LOG_INTERVAL);
        // Another thread may have told of more already.
        let before = log.told;
        log.told = before.max(dropped);
        Some(dropped.saturating_sub(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_chats_are_counted_and_logged_once_in_a_while() {
        let (budget, now) = (ChatBudget::new(2), Instant::now());
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let waits: Vec<_> = (0..14).filter_map(|_| budget.book(peer, now)).collect();
        let delays = [0, 0, 0, 0, 500, 1000, 1500, 2000].map(Duration::from_millis);
        assert_eq!(waits, delays);
        assert_eq!(budget.dropped(), 6);
        assert_eq!(budget.untold(6, now), None);
        assert_eq!(budget.untold(6, now + LOG_INTERVAL), Some(5));
    }
}
