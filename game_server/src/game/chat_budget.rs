//! A budget for the chats of one address. The budget survives a reconnect.

use server_core::AddressBudgets;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Chats a second by address, shared by all sessions.
///
/// A chat over the budget waits for up to 2 s, in the order of arrival; a chat with a longer wait is dropped.
/// The session stays connected, and its other packets are handled at once. Many players may share one
/// address: a kick, or a pause of their input, would punish each of them for a neighbour's flood. The budget
/// of the session ([`CHAT_FLOOD`](super::packets::CHAT_FLOOD)) detects a session that floods.
#[derive(Debug)]
pub struct ChatBudget {
    budgets: AddressBudgets,
    dropped: AtomicU64,
    log: Mutex<DropLog>,
}

#[derive(Debug, Default)]
struct DropLog {
    /// Dropped chats in the lines so far.
    logged: u64,
    next_line_at: Option<Instant>,
}

/// The longest delay of a chat. The chats of 2 s are the burst of an address.
const LONGEST_DELAY: Duration = Duration::from_secs(2);
/// At most one log line about dropped chats in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

impl ChatBudget {
    /// `max_per_sec` chats a second from each address, with a burst of twice `max_per_sec`.
    #[must_use]
    pub fn new(max_per_sec: u32) -> Self {
        Self {
            budgets: AddressBudgets::new(max_per_sec),
            dropped: AtomicU64::new(0),
            log: Mutex::default(),
        }
    }

    /// Chats over the budget of their address, including waiting chats whose session closed.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The wait of a chat from this peer. `None`: the chat is dropped and counted.
    pub fn book(&self, peer: SocketAddr, now: Instant) -> Option<Duration> {
        let wait = self.budgets.book(peer.ip(), LONGEST_DELAY, now);
        if wait.is_none() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(chats) = self.unlogged(dropped, now) {
                log::warn!(
                    "chats over --max-chats-per-ip-per-sec: {chats} dropped, the last from {}",
                    peer.ip()
                );
            }
        }
        wait
    }

    /// Counts the waiting chats of a closed session as dropped. Broadcast now, they would exceed the budget.
    pub fn forget(&self, chats: usize) {
        self.dropped.fetch_add(chats as u64, Ordering::Relaxed);
    }

    /// The chats dropped since the last line, if the next line is due.
    fn unlogged(&self, dropped: u64, now: Instant) -> Option<u64> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.next_line_at.is_some_and(|at| now < at) {
            return None;
        }
        log.next_line_at = Some(now + LOG_INTERVAL);
        // Another thread may have logged a larger number already.
        let before = log.logged;
        log.logged = before.max(dropped);
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
        assert_eq!(budget.unlogged(6, now), None);
        assert_eq!(budget.unlogged(6, now + LOG_INTERVAL), Some(5));
    }
}
