//! The peer's end of a fake connection, and what the simulation keeps beside it.

use server_core::SessionId;
use server_core::testing::{Edges, FakePeer, FakeStream};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The peer's end of a connection. Clones share one connection.
#[derive(Clone, Debug)]
pub struct PeerEnd {
    peer: FakePeer,
    notes: Arc<Mutex<Notes>>,
}

/// What the simulation knows of a connection, and the connection itself does not.
#[derive(Debug, Default)]
pub struct Notes {
    pub id: Option<SessionId>,
    /// Edges that no poll has delivered.
    pub edges: Edges,
    pub offences: Vec<String>,
    /// The number of ends of the server's side that were pending.
    pub pending_closes: u64,
}

impl PeerEnd {
    /// Both ends of a connection that has no room for a write.
    pub fn pair() -> (FakeStream, Self) {
        let (stream, peer) = FakeStream::pair();
        peer.state().room = 0;
        let notes = Arc::default();
        (stream, Self { peer, notes })
    }

    pub fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn id(&self) -> Option<SessionId> {
        self.notes().id
    }

    /// Registers the connection as `epoll_ctl(ADD)` does: a direction that is ready now gets an edge.
    pub fn register(&self, id: SessionId) {
        self.notes().id = Some(id);
        self.watch();
    }

    /// Registers the connection with the poll of the listener.
    pub fn watch(&self) {
        self.notes().edges = Edges::default();
        self.rearm(Edges {
            readable: true,
            writable: true,
        });
        self.raise_edges();
    }

    /// Raises the edges of the present state.
    pub fn raise_edges(&self) {
        let raised = self.take_edges();
        let edges = &mut self.notes().edges;
        edges.readable |= raised.readable;
        edges.writable |= raised.writable;
    }

    /// Drops the pending edges: they are never delivered. The server has not learned the change that an edge
    /// announced, so the next change of the same direction is an edge again. Returns whether there were any.
    pub fn lose_edges(&self) -> bool {
        let lost = std::mem::take(&mut self.notes().edges);
        self.rearm(lost);
        lost != Edges::default()
    }
}

impl Deref for PeerEnd {
    type Target = FakePeer;

    fn deref(&self) -> &FakePeer {
        &self.peer
    }
}
