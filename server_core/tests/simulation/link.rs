//! A fake link to other nodes. The link delivers packets at random, and checks the packets that it is given.
//!
//! The link gets each packet of this node for an audience that spans the nodes once, in the order of its
//! source. The link does not get back a packet that it has delivered. The peers check that each member gets
//! a delivered packet once.

use super::transport::SimStream;
use super::world::{SBroadcast, SCast, SharedWorld, Stamp};
use bytemuck::pod_read_unaligned;
use server_core::PacketHead;
use server_core::buffer::{SendBuffer, SendBufferManager};
use server_core::routing::link::{Audience, Link};
use server_core::routing::router::Router;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The source of the packets that the link delivers.
const OTHER_NODES: usize = 998;

#[derive(Clone, Debug, Default)]
pub struct FakeLink(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    delivered: u64,
    published: u64,
    /// The last stamp of each source; the number of packets to all of each source.
    stamps: HashMap<usize, u64>,
    broadcasts: HashMap<usize, u64>,
    offences: Vec<String>,
}

impl Link for FakeLink {
    /// The audience of all sessions spans the nodes, and a group with an even number does. A group with an odd
    /// number is local.
    fn spans(&self, audience: Audience) -> bool {
        match audience {
            Audience::All => true,
            Audience::Group(group) => group.number() % 2 == 0,
        }
    }

    fn publish(&self, audience: Audience, packet: &SendBuffer) {
        let mut book = self.0.lock().unwrap();
        let (head, payload) = packet.split_at(4);
        let stamp: Stamp = pod_read_unaligned(&payload[..size_of::<Stamp>()]);
        let (source, seq) = (usize::from(stamp.source.get()), stamp.seq.get());
        let id = u16::from_le_bytes([head[2], head[3]]);
        let should_be = match audience {
            Audience::All => SBroadcast::ID,
            Audience::Group(_) => SCast::ID,
        };
        let before = book.stamps.insert(source, stamp.stamp.get());
        let sent = book.broadcasts.entry(source).or_default();
        *sent += u64::from(audience == Audience::All);
        let is_next = audience != Audience::All || seq == *sent;
        if source == OTHER_NODES {
            let text = format!("a packet from the link goes out again: {audience:?} {stamp:?}");
            book.offences.push(text);
        } else if id != should_be || before >= Some(stamp.stamp.get()) || !is_next {
            let text = format!("link: {id} to {audience:?}, {stamp:?} after {before:?}");
            book.offences.push(text);
        }
        if !self.spans(audience) {
            let text = format!("the link is given a packet to a local audience: {audience:?}");
            book.offences.push(text);
        }
        book.published += 1;
    }
}

impl FakeLink {
    pub fn attach(router: &Router<SimStream>) -> Self {
        let link = Self::default();
        assert!(router.attach_link(Box::new(link.clone())).is_some());
        link
    }

    /// Delivers a packet of another node, to all or to a group.
    pub fn deliver(
        &self,
        world: &SharedWorld,
        buffers: &SendBufferManager,
        router: &Arc<Router<SimStream>>,
    ) {
        let mut world = world.lock();
        if world.quiet || world.budget == 0 {
            return;
        }
        let (audience, packet) = if world.rng.bool() {
            let (head, tail) = world.broadcast(OTHER_NODES);
            (Audience::All, buffers.encode(&head, &tail))
        } else {
            let mut rng = world.rng.fork();
            let group = world.groups.some(&mut rng);
            let (head, tail) = world.cast(OTHER_NODES, group, None);
            (Audience::Group(group), buffers.encode(&head, &tail))
        };
        router.deliver(audience, &packet.unwrap());
        self.0.lock().unwrap().delivered += 1;
    }

    /// Checks, when all rest, that the link got each packet to all. `sent` has the number of packets of each
    /// source.
    pub fn check_complete(&self, sent: &HashMap<usize, u64>) -> Vec<String> {
        let book = self.0.lock().unwrap();
        let sent = sent.iter().filter(|(source, _)| **source != OTHER_NODES);
        let is_short = |(source, sent): (&usize, &u64)| {
            let got = book.broadcasts.get(source).copied().unwrap_or_default();
            (got != *sent).then(|| format!("the link got {got} of {sent} broadcasts of {source}"))
        };
        sent.filter_map(is_short).collect()
    }

    /// The number of packets that the link has delivered, and of packets that it was given.
    pub fn counts(&self) -> (u64, u64) {
        let book = self.0.lock().unwrap();
        (book.delivered, book.published)
    }

    pub fn take_offences(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().offences)
    }
}
