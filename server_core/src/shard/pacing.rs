//! Pacing: packets that readers cannot take, although they keep up, wait where they were caused.
//!
//! A session whose queue is longer than 128 KiB (or half of its limit, if that is less), and whose peer takes 512 KiB a second or more,
//! *paces*: while there is one on any worker, packets to others leave a worker's callbacks at the paced rate
//! rate only. The rest waits in the list of deferred effects, and a session that caused some of it is not
//! read. The paced rate is what a reader that keeps up takes anyway, so a reader that lies about its speed
//! slows the others down to the paced rate and no further.

use super::Shard;
use super::input::MIN_READ_BYTES;
use crate::base::id::SessionId;
use crate::session::Session;
use crate::transport::Transport;
use std::time::{Duration, Instant};

/// Bytes a second to one receiver that all workers and the link together may cause while a session paces. Below
/// the 1 MiB/s of a reader that keeps up, so that its queue shrinks meanwhile.
const PACED_BYTES_PER_SEC: u32 = 768 << 10;
/// The part of the paced rate for packets of other nodes, if the server has a cluster.
#[cfg(feature = "cluster")]
const LINK_BYTES_PER_SEC: u32 = 256 << 10;
/// The divisor of the paced rate that gives what callbacks have beside ticks which take all of it.
const LEAST_PART: u32 = 8;
/// The most that is owed to the paced rate, besides one packet: an hour of ticks is over a second later.
const MAX_DEBT: Duration = Duration::from_secs(1);
/// The paced rate may be used in bursts of this length.
const PACED_BURST: Duration = Duration::from_millis(10);
/// What waits for another worker to catch up is tried again after this time.
const POLL: Duration = Duration::from_millis(5);
/// Bytes of deferred packets above which no session is read, divided by the number of workers, as the
/// paced rate is.
const MAX_DEFERRED_BYTES: usize = 256 << 10;
/// A part of the paced rate, and how much of it is used.
#[derive(Debug)]
pub(crate) struct PacedRate {
    bytes_per_sec: u32,
    /// The next packet is due then (the generic cell rate algorithm).
    next_at: Option<Instant>,
}

/// Which sessions pace this worker, and the worker's part of the paced rate.
#[derive(Debug)]
pub(super) struct Pacing {
    sessions: Vec<SessionId>,
    /// What is left beside the ticks.
    rate: PacedRate,
    /// What ticks leave in any case.
    least: PacedRate,
}

impl PacedRate {
    fn new(bytes_per_sec: u32) -> Self {
        Self {
            bytes_per_sec: bytes_per_sec.max(1),
            next_at: None,
        }
    }

    /// The part for packets of other nodes.
    #[cfg(feature = "cluster")]
    pub fn of_link() -> Self {
        Self::new(LINK_BYTES_PER_SEC)
    }

    /// Whether there is room in the paced rate.
    pub fn has_room(&self, now: Instant) -> bool {
        self.next_at.is_none_or(|at| at <= now + PACED_BURST)
    }

    /// Takes `bytes` of the paced rate, whatever room there is.
    pub fn charge(&mut self, bytes: usize, now: Instant) {
        let next_at = self.next_at.map_or(now, |at| at.max(now));
        let cost = Duration::from_secs(1) * bytes as u32 / self.bytes_per_sec;
        self.next_at = Some((next_at + cost).min(now + cost.max(MAX_DEBT)));
    }
}

impl Pacing {
    pub fn new(workers: usize) -> Self {
        let (rate, least) = Self::rates(PACED_BYTES_PER_SEC / workers as u32);
        Self {
            sessions: Vec::new(),
            rate,
            least,
        }
    }

    fn rates(bytes_per_sec: u32) -> (PacedRate, PacedRate) {
        let least = PacedRate::new(bytes_per_sec / LEAST_PART);
        (PacedRate::new(bytes_per_sec), least)
    }

    /// Leaves a part of the paced rate to the packets of other nodes, or takes it back.
    #[cfg(feature = "cluster")]
    pub fn share_with_link(&mut self, is_shared: bool, workers: usize) {
        let of_link = if is_shared { LINK_BYTES_PER_SEC } else { 0 };
        let bytes_per_sec = (PACED_BYTES_PER_SEC - of_link) / workers as u32;
        (self.rate, self.least) = Self::rates(bytes_per_sec);
    }

    /// Takes `bytes` for a packet of a callback, if there is room.
    pub fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let has_room = self.rate.has_room(now) || self.least.has_room(now);
        if has_room {
            self.rate.charge(bytes, now);
            self.least.charge(bytes, now);
        }
        has_room
    }

    /// A tick takes `bytes`, whatever room there is.
    pub fn charge_tick(&mut self, bytes: usize, now: Instant) {
        self.rate.charge(bytes, now);
    }

    /// When to try again what there is no room for.
    pub fn retry_at(&self, now: Instant) -> Instant {
        let next_at = self.rate.next_at.min(self.least.next_at);
        let room_at = next_at.map_or(now, |at| at - PACED_BURST);
        room_at.clamp(now + Duration::from_millis(1), now + POLL)
    }

    pub fn add(&mut self, id: SessionId) -> bool {
        self.sessions.push(id);
        self.sessions.len() == 1
    }

    /// Whether any session paces.
    pub fn is_active(&self) -> bool {
        !self.sessions.is_empty()
    }

    /// When to look again whether the sessions still pace.
    pub fn check_at(&self, now: Instant) -> Option<Instant> {
        self.is_active().then(|| now + POLL)
    }
}

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    /// Whether a packet of `bytes` bytes to others may be queued now: no session paces, or the paced rate has
    /// room.
    pub(super) fn may_fan_out(&mut self, bytes: usize, now: Instant) -> bool {
        bytes == 0
            || !self.shared.router.is_congested()
            || self.shutdown_next.is_some()
            || self.pacing.take(bytes, now)
    }

    /// Bytes to read from one session in this turn.
    pub(super) fn read_budget(&self) -> usize {
        let budget_bytes = self.shared.config.read_budget_bytes;
        if self.deferred.is_empty() && !self.shared.router.is_congested() {
            budget_bytes
        } else {
            budget_bytes.min(MIN_READ_BYTES)
        }
    }

    /// Whether reading may go on although effects wait: the paced rate is what they wait for, and there are
    /// few of them.
    pub(super) fn may_read_while_paced(&self) -> bool {
        let max_bytes = MAX_DEFERRED_BYTES / self.shared.router.workers();
        self.paced_until.is_some()
            && self.shutdown_next.is_none()
            && self.deferred_bytes < max_bytes
    }

    /// This session paces from now on.
    pub(super) fn start_pacing(&mut self, id: SessionId) {
        if self.pacing.add(id) {
            self.shared.router.congest();
        }
    }

    /// The end of a turn: takes out the sessions that have caught up, have left, or take too little.
    pub(super) fn review_pacing(&mut self, now: Instant) {
        if !self.pacing.is_active() {
            return;
        }
        let (table, low) = (&mut self.table, self.shared.config.crowded_bytes());
        self.pacing.sessions.retain(|id| {
            let paces = table.visit(*id, |connection| {
                connection.is_pacing = connection.paces(low, now);
                connection.is_pacing
            });
            paces == Some(true)
        });
        if !self.pacing.is_active() {
            self.shared.router.relieve();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paced_rate_is_shared_by_the_workers() {
        for workers in [1, 2, 7] {
            let mut pacing = Pacing::new(workers);
            let bytes_per_sec = PACED_BYTES_PER_SEC / workers as u32;
            assert_is_rate(|now| pacing.take(520, now), bytes_per_sec);
        }
    }

    #[test]
    fn ticks_that_take_all_of_the_paced_rate_leave_callbacks_an_eighth() {
        let (mut pacing, start) = (Pacing::new(1), Instant::now());
        let tick = Duration::from_millis(50);
        let mut ticks = 0;
        let mut take = |now: Instant| {
            while start + tick * ticks <= now {
                pacing.charge_tick(50_000, start + tick * ticks);
                ticks += 1;
            }
            pacing.take(520, now)
        };
        // An hour of ticks of 1 MB/s. Then a reader is behind for the first time.
        let hour = Duration::from_secs(3600);
        take(start + hour);
        let behind = |now: Instant| take(now + hour + MAX_DEBT);
        assert_is_rate_from(start, behind, PACED_BYTES_PER_SEC / LEAST_PART);
    }

    #[cfg(feature = "cluster")]
    #[test]
    fn workers_and_link_together_have_the_paced_rate() {
        let mut link = PacedRate::of_link();
        let take = |now| {
            let has_room = link.has_room(now);
            if has_room {
                link.charge(520, now);
            }
            has_room
        };
        assert_is_rate(take, 256 << 10);
        for workers in [1, 2, 7] {
            let mut pacing = Pacing::new(workers);
            for (is_shared, bytes_per_sec) in [(true, 512 << 10), (false, 768 << 10)] {
                pacing.share_with_link(is_shared, workers);
                assert_is_rate(|now| pacing.take(520, now), bytes_per_sec / workers as u32);
            }
        }
    }

    fn assert_is_rate(take: impl FnMut(Instant) -> bool, bytes_per_sec: u32) {
        assert_is_rate_from(Instant::now(), take, bytes_per_sec);
    }

    fn assert_is_rate_from(
        start: Instant,
        mut take: impl FnMut(Instant) -> bool,
        bytes_per_sec: u32,
    ) {
        let mut taken = 0_u64;
        for millis in 0..10_000 {
            while take(start + Duration::from_millis(millis)) {
                taken += 520;
            }
        }
        let expected = 10 * u64::from(bytes_per_sec);
        assert!(
            taken.abs_diff(expected) < expected / 50,
            "{taken} of {expected}"
        );
    }
}
