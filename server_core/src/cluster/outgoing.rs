//! The packets for other nodes that wait for the broker, bounded in bytes and in age.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use super::envelope::{Body, Envelope, HEAD_BYTES, Incarnation};
use crate::routing::link::Audience;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The bound of the queue, in bytes.
pub const MAX_QUEUE_BYTES: usize = 4 << 20;
/// The bound of the queue, in age: an older packet is dropped, never sent late.
pub const MAX_QUEUE_AGE: Duration = Duration::from_secs(1);

/// The charge for a packet beside its bytes.
const OVERHEAD_BYTES: usize = 64;
/// Audiences with a number of their own. Above this all series begin anew.
const MAX_SERIES: usize = 1 << 16;

/// Numbers packets by audience and holds them until the broker takes them. A dropped packet keeps its number: the
/// receivers see the gap.
#[derive(Debug)]
pub struct Outgoing {
    from: Incarnation,
    queue: VecDeque<Waiting>,
    /// Bytes of `queue`, and the bytes that [`reserve`](Self::reserve) has taken.
    bytes: usize,
    series: HashMap<Audience, u64>,
    /// The largest number of any series.
    largest_seq: u64,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    audience: Audience,
    message: Vec<u8>,
}

impl Outgoing {
    /// An empty queue of this sender.
    #[must_use]
    pub fn new(from: Incarnation) -> Self {
        Self {
            from,
            queue: VecDeque::new(),
            bytes: 0,
            series: HashMap::new(),
            largest_seq: 0,
        }
    }

    /// Numbers a packet, and queues it. Returns whether the queue had room.
    pub fn push(&mut self, audience: Audience, packet: &[u8], now: Instant) -> bool {
        let (seq, is_first) = self.next_seq(audience);
        if !self.reserve(HEAD_BYTES + packet.len()) {
            if is_first {
                // The next packet begins the series, above this number.
                self.series.remove(&audience);
            }
            return false;
        }
        let body = Body::Packet { is_first, packet };
        let from = self.from;
        self.queue.push_back(Waiting {
            since: now,
            audience,
            message: Envelope { from, seq, body }.encode(),
        });
        true
    }

    /// Takes a part of the bound for bytes that wait elsewhere. Returns whether there was room.
    pub fn reserve(&mut self, bytes: usize) -> bool {
        let charge = bytes + OVERHEAD_BYTES;
        let has_room = self.bytes + charge <= MAX_QUEUE_BYTES;
        if has_room {
            self.bytes += charge;
        }
        has_room
    }

    /// Gives back a part that [`reserve`](Self::reserve) has taken.
    pub fn release(&mut self, bytes: usize) {
        self.bytes -= bytes + OVERHEAD_BYTES;
    }

    /// The next message. The caller has dropped the messages that are too old.
    pub fn pop(&mut self) -> Option<(Audience, Vec<u8>)> {
        let Waiting {
            audience, message, ..
        } = self.queue.pop_front()?;
        self.release(message.len());
        if self.queue.is_empty() && self.queue.capacity() > 4096 {
            self.queue = VecDeque::new();
        }
        Some((audience, message))
    }

    /// Drops the next message if it is too old. Returns whether it was.
    pub fn drop_old(&mut self, now: Instant) -> bool {
        let is_old = self.next_drop_at().is_some_and(|at| at <= now);
        if is_old {
            self.pop();
        }
        is_old
    }

    /// When the next message is too old.
    #[must_use]
    pub fn next_drop_at(&self) -> Option<Instant> {
        self.queue.front().map(|next| next.since + MAX_QUEUE_AGE)
    }

    /// Bytes that wait.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn next_seq(&mut self, audience: Audience) -> (u64, bool) {
        if self.series.len() >= MAX_SERIES && !self.series.contains_key(&audience) {
            self.series.clear();
        }
        let mut is_first = false;
        let seq = self.series.entry(audience).or_insert_with(|| {
            is_first = true;
            self.largest_seq
        });
        *seq += 1;
        self.largest_seq = self.largest_seq.max(*seq);
        (*seq, is_first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::id::GroupId;

    fn seq(message: &[u8]) -> (u64, bool) {
        match Envelope::decode(message) {
            Ok(Envelope {
                seq,
                body: Body::Packet { is_first, .. },
                ..
            }) => (seq, is_first),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn queue_is_bounded_and_a_refused_packet_keeps_its_number() {
        let (mut outgoing, now) = (Outgoing::new(Incarnation(1)), Instant::now());
        let packet = [0xff, 0xff, 7, 0].into_iter().chain(std::iter::repeat(0));
        let packet: Vec<u8> = packet.take(65_535).collect();
        let mut taken = 0;
        while outgoing.push(Audience::All, &packet, now) {
            taken += 1;
        }
        assert!(outgoing.bytes() <= MAX_QUEUE_BYTES && outgoing.bytes() > MAX_QUEUE_BYTES - 66_000);
        for number in 1..=taken {
            let (_, message) = outgoing.pop().unwrap();
            assert_eq!(seq(&message), (number, number == 1));
        }
        assert_eq!(outgoing.bytes(), 0);
        assert!(outgoing.push(Audience::All, &packet, now));
        assert_eq!(seq(&outgoing.pop().unwrap().1), (taken + 2, false));
    }

    #[test]
    fn series_whose_first_packet_was_refused_begins_with_the_next() {
        let (mut outgoing, now) = (Outgoing::new(Incarnation(1)), Instant::now());
        assert!(outgoing.reserve(MAX_QUEUE_BYTES - 2 * OVERHEAD_BYTES));
        let packet = [4, 0, 7, 0];
        assert!(!outgoing.push(Audience::All, &packet, now));
        outgoing.release(MAX_QUEUE_BYTES - 2 * OVERHEAD_BYTES);
        for number in [2, 3] {
            assert!(outgoing.push(Audience::All, &packet, now));
            assert_eq!(seq(&outgoing.pop().unwrap().1), (number, number == 2));
        }
    }

    #[test]
    fn old_packets_are_dropped_in_order() {
        let (mut outgoing, now) = (Outgoing::new(Incarnation(1)), Instant::now());
        for ms in [0, 400] {
            outgoing.push(
                Audience::All,
                &[4, 0, 7, 0],
                now + Duration::from_millis(ms),
            );
        }
        assert!(!outgoing.drop_old(now + Duration::from_millis(999)));
        assert!(outgoing.drop_old(now + Duration::from_millis(1000)));
        assert!(!outgoing.drop_old(now + Duration::from_millis(1399)));
        assert_eq!(seq(&outgoing.pop().unwrap().1), (2, false));
    }

    #[test]
    fn series_that_begins_anew_is_above_each_earlier_number() {
        let (mut outgoing, now) = (Outgoing::new(Incarnation(1)), Instant::now());
        let mut last = 0;
        for number in 0..MAX_SERIES as u32 + 2 {
            let audience = Audience::Group(GroupId::new(1, number % (MAX_SERIES as u32 + 1)));
            assert!(outgoing.push(audience, &[4, 0, 7, 0], now));
            let (seq, is_first) = seq(&outgoing.pop().unwrap().1);
            assert!(seq > last && is_first);
            last = seq;
        }
    }
}
