//! The other nodes as their heartbeats tell: presence, counts and sequence numbers.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use super::envelope::{Heartbeat, Incarnation};
use crate::groups::id::GroupId;
use crate::routing::link::Audience;
use std::collections::HashMap;
use std::mem;
use std::time::{Duration, Instant};

/// A node without a message for this time has ended.
pub const LEASE: Duration = Duration::from_secs(5);
/// The part of [`LEASE`] that a probe has to prove: the silence was not our own.
const PROVEN: Duration = Duration::from_secs(4);
/// Nodes in the picture, at most. Messages of further nodes are ignored and counted.
pub const MAX_NODES: usize = 256;

/// All other nodes that have sent a message.
#[derive(Debug, Default)]
pub struct Picture {
    nodes: HashMap<Incarnation, Node>,
}

/// One other node.
#[derive(Debug)]
pub struct Node {
    heard_at: Instant,
    /// No silence before this instant counts: this node had no link.
    forgiven_until: Instant,
    /// A node that has ended stays here, for its sequence numbers, as long as there is room.
    state: State,
    /// Empty before the first heartbeat.
    pub name: Box<str>,
    /// Connected sessions.
    pub sessions: u32,
    /// Whether the node shuts down.
    pub is_draining: bool,
    groups: Vec<(GroupId, u32)>,
    /// The last number of each audience.
    seqs: HashMap<Audience, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its heartbeats arrive.
    Present,
    /// Without a heartbeat yet, or silent for too long.
    Absent,
    /// It has said that it leaves. Its later messages are late ones.
    Left,
}

/// What a sequence number tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The packet is the next one, or the first that is seen.
    Next,
    /// Packets are missing in front of this one.
    Gap(u64),
    /// The packet came before.
    Duplicate,
}

impl Picture {
    /// Notes a message of a node. `None` if the picture has no room for another node.
    pub fn hear(&mut self, from: Incarnation, now: Instant) -> Option<&mut Node> {
        if !self.nodes.contains_key(&from) && self.nodes.len() >= MAX_NODES {
            let absent = (self.nodes.iter()).filter(|(_, node)| !node.is_present());
            let oldest = absent.min_by_key(|(_, node)| node.heard_at);
            let oldest = oldest.map(|(incarnation, _)| *incarnation)?;
            self.nodes.remove(&oldest);
        }
        let node = self.nodes.entry(from).or_insert_with(|| Node {
            heard_at: now,
            forgiven_until: now,
            state: State::Absent,
            name: Box::default(),
            sessions: 0,
            is_draining: false,
            groups: Vec::new(),
            seqs: HashMap::new(),
        });
        node.heard_at = node.heard_at.max(now);
        Some(node)
    }

    /// Ends the nodes that are silent for [`LEASE`], as far as a probe has proven that messages would have
    /// arrived: `proven_until` is when the last probe that came back was sent. Returns whether a node ended.
    pub fn expire(&mut self, proven_until: Instant, now: Instant) -> bool {
        let mut any = false;
        for node in self.nodes.values_mut().filter(|node| node.is_present()) {
            let silent_since = node.silent_since();
            let is_silent = now.saturating_duration_since(silent_since) >= LEASE;
            if is_silent && proven_until >= silent_since + PROVEN {
                node.state = State::Absent;
                any = true;
            }
        }
        any
    }

    /// When [`expire`](Self::expire) may end the next node.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        let expiries = self.present().map(|(_, node)| node.silent_since() + LEASE);
        expiries.min()
    }

    /// Nothing was heard before `now` because this node had no link: no silence counts.
    pub fn forgive_silence(&mut self, now: Instant) {
        for node in self.nodes.values_mut() {
            node.forgiven_until = node.forgiven_until.max(now);
        }
    }

    /// The nodes that are present.
    pub fn present(&self) -> impl Iterator<Item = (Incarnation, &Node)> {
        let nodes = self.nodes.iter().map(|(from, node)| (*from, node));
        nodes.filter(|(_, node)| node.is_present())
    }

    /// Whether a node is present.
    #[must_use]
    pub fn is_present(&self, incarnation: Incarnation) -> bool {
        (self.nodes.get(&incarnation)).is_some_and(Node::is_present)
    }

    /// Whether a node is present, and was heard since the link of this node is back.
    #[must_use]
    pub fn is_heard(&self, incarnation: Incarnation) -> bool {
        let is_heard = |node: &Node| node.is_present() && node.heard_at >= node.forgiven_until;
        self.nodes.get(&incarnation).is_some_and(is_heard)
    }

    /// The sessions of this group on other nodes, and the number of those nodes.
    #[must_use]
    pub fn members(&self, group: GroupId) -> (u64, usize) {
        let counts = self.present().filter_map(|(_, node)| {
            let at = node
                .groups
                .binary_search_by_key(&group, |(group, _)| *group);
            Some(u64::from(node.groups[at.ok()?].1))
        });
        counts.fold((0, 0), |(sessions, nodes), count| {
            (sessions + count, nodes + 1)
        })
    }

    /// Forgets the numbers of an audience whose packets are not received any more.
    pub fn forget_series(&mut self, audience: Audience) {
        for node in self.nodes.values_mut() {
            node.seqs.remove(&audience);
        }
    }
}

impl Node {
    /// Whether heartbeats of this node arrive.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.state == State::Present
    }

    fn silent_since(&self) -> Instant {
        self.heard_at.max(self.forgiven_until)
    }

    /// When the last message arrived.
    #[must_use]
    pub fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// Takes a heartbeat.
    pub fn update(&mut self, heartbeat: Heartbeat<'_>) {
        if self.state == State::Left {
            return;
        }
        self.state = State::Present;
        if *self.name != *heartbeat.name {
            self.name = heartbeat.name.into();
        }
        self.sessions = heartbeat.sessions;
        self.is_draining = heartbeat.is_draining;
        if let Some(groups) = heartbeat.groups {
            self.groups = groups;
        }
    }

    /// The node has left. Returns whether it was present.
    pub fn leave(&mut self) -> bool {
        mem::replace(&mut self.state, State::Left) == State::Present
    }

    /// Takes the number of a packet.
    pub fn order(&mut self, audience: Audience, seq: u64, is_first: bool) -> Order {
        match self.seqs.insert(audience, seq) {
            Some(last) if seq <= last => {
                self.seqs.insert(audience, last);
                Order::Duplicate
            }
            Some(last) if seq - last > 1 && !is_first => Order::Gap(seq - last - 1),
            _ => Order::Next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: Incarnation = Incarnation(1);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn silent_node_ends_after_the_lease_and_only_if_the_silence_is_proven() {
        let (mut picture, now) = (Picture::default(), Instant::now());
        picture.hear(NODE, now).unwrap().update(Heartbeat {
            sessions: 3,
            ..Heartbeat::default()
        });
        picture.expire(now + seconds(3), now + seconds(60));
        assert!(picture.is_present(NODE), "this node heard nothing itself");
        picture.expire(
            now + seconds(4),
            now + seconds(5) - Duration::from_millis(1),
        );
        assert!(picture.is_present(NODE));
        picture.expire(now + seconds(4), now + seconds(5));
        assert!(!picture.is_present(NODE));
        picture
            .hear(NODE, now + seconds(9))
            .unwrap()
            .update(Heartbeat::default());
        assert!(picture.is_present(NODE), "a paused node comes back");
    }

    #[test]
    fn silence_without_a_link_is_forgiven_and_stays_in_the_age() {
        let (mut picture, now) = (Picture::default(), Instant::now());
        let node = picture.hear(NODE, now).unwrap();
        node.update(Heartbeat::default());
        picture.forgive_silence(now + seconds(60));
        picture.expire(now + seconds(64), now + seconds(64));
        let (_, node) = picture.present().next().expect("it has 5 s more");
        assert_eq!(node.heard_at(), now);
        picture.expire(now + seconds(65), now + seconds(65));
        assert!(!picture.is_present(NODE));
    }

    #[test]
    fn node_that_has_left_stays_away_and_late_messages_change_nothing() {
        let (mut picture, now) = (Picture::default(), Instant::now());
        picture
            .hear(NODE, now)
            .unwrap()
            .update(Heartbeat::default());
        assert!(picture.hear(NODE, now).unwrap().leave());
        picture
            .hear(NODE, now)
            .unwrap()
            .update(Heartbeat::default());
        assert_eq!(picture.present().count(), 0);
        assert!(!picture.hear(NODE, now).unwrap().leave(), "it has left");
    }

    #[test]
    fn counts_are_sums_over_present_nodes() {
        let (mut picture, now) = (Picture::default(), Instant::now());
        let zone = GroupId::new(1, 1);
        for (number, members) in [(1, 3), (2, 4)] {
            let groups = Some(vec![(zone, members)]);
            let heartbeat = Heartbeat {
                groups,
                ..Heartbeat::default()
            };
            picture
                .hear(Incarnation(number), now)
                .unwrap()
                .update(heartbeat);
        }
        assert_eq!(picture.members(zone), (7, 2));
        // The counts of the last heartbeat that had any.
        picture
            .hear(NODE, now)
            .unwrap()
            .update(Heartbeat::default());
        assert_eq!(picture.members(zone), (7, 2));
        picture.hear(NODE, now).unwrap().leave();
        assert_eq!(picture.members(zone), (4, 1));
    }

    #[test]
    fn numbers_tell_gaps_and_duplicates() {
        let (mut picture, now) = (Picture::default(), Instant::now());
        let node = picture.hear(NODE, now).unwrap();
        let mut order = |seq, is_first| node.order(Audience::All, seq, is_first);
        assert_eq!(order(7, false), Order::Next, "the first that is seen");
        assert_eq!(order(8, false), Order::Next);
        assert_eq!(order(8, false), Order::Duplicate);
        assert_eq!(order(11, false), Order::Gap(2));
        assert_eq!(order(9, false), Order::Duplicate);
        assert_eq!(order(50, true), Order::Next);
        assert_eq!(order(51, false), Order::Next);
    }

    #[test]
    fn picture_is_bounded_and_keeps_the_nodes_that_are_present() {
        let (mut picture, now) = (Picture::default(), Instant::now());
        for number in 0..MAX_NODES as u64 {
            let node = picture.hear(Incarnation(number), now).unwrap();
            if number != 5 {
                node.update(Heartbeat::default());
            }
        }
        let other = Incarnation(1000);
        assert!(
            picture.hear(other, now).is_some(),
            "in place of the absent one"
        );
        picture
            .hear(other, now)
            .unwrap()
            .update(Heartbeat::default());
        assert!(picture.hear(Incarnation(1001), now).is_none());
    }
}
