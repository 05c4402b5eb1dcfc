//! The sessions of one worker, and the one exit.
//!
//! # The lecture's bug (rows 48 to 54), and why it does not compile here
//!
//! A broadcast walks the list of sessions; a send fails; the error handler disconnects; the
//! disconnect removes the session from the list that is being walked; the server crashes. Here a
//! walk borrows the table, and only [`SessionTable::pop_closing`] removes, so removing inside a
//! walk is a borrow error:
//!
//! ```compile_fail,E0499
//! # use server_core::{DisconnectReason, shard::table::SessionTable};
//! let mut table: SessionTable<String> = SessionTable::new(0);
//! table.visit_all(|id, session| {
//!     session.push('!');
//!     table.pop_closing();
//! });
//! ```
//!
//! What is found out during a walk is recorded, and carried out after it. The same program with
//! the removal behind the walk compiles:
//!
//! ```
//! # use server_core::{DisconnectReason, shard::table::SessionTable};
//! let mut table: SessionTable<String> = SessionTable::new(0);
//! table.visit_all(|id, session| {
//!     session.push('!');
//! });
//! table.pop_closing();
//! ```

use crate::base::id::SessionId;
use crate::base::reason::DisconnectReason;
use slab::Slab;
use std::collections::VecDeque;

/// The sessions of one worker, each under an id that is never used twice.
///
/// A session leaves in two steps. The caller that finds a reason records it ([`close`](Self::close) or an
/// `Err` from [`try_visit`](Self::try_visit)); from then on no walk shows that session. Later,
/// when no walk is under way, [`pop_closing`](Self::pop_closing) moves it out, whole.
#[derive(Debug)]
pub struct SessionTable<T> {
    slots: Slab<Slot<T>>,
    /// The generation that each slot's present or latest session has.
    generations: Vec<u32>,
    closing: VecDeque<(SessionId, DisconnectReason)>,
    worker: u8,
    live: usize,
    connected: usize,
}

#[derive(Debug)]
enum Slot<T> {
    Connecting(T),
    Connected(T),
    /// Its id is on the `closing` list.
    Closing(T),
    /// Its generations are used up: taking it again would give an id a second time.
    Retired,
}

impl<T> SessionTable<T> {
    /// An empty table for this worker.
    #[must_use]
    pub fn new(worker: u8) -> Self {
        Self {
            slots: Slab::new(),
            generations: Vec::new(),
            closing: VecDeque::new(),
            worker,
            live: 0,
            connected: 0,
        }
    }

    /// Puts a session in; `make` learns the id that it will have.
    ///
    /// # Errors
    /// Those of `make`, in which case nothing was put in, or `None` in their place if every slot
    /// is taken.
    pub fn insert<E>(
        &mut self,
        make: impl FnOnce(SessionId) -> Result<T, E>,
    ) -> Result<SessionId, Option<E>> {
        let slot = self.slots.vacant_key();
        if slot >= SessionId::MAX_SLOTS {
            return Err(None);
        }
        if slot == self.generations.len() {
            self.generations.push(0);
        }
        let generation = self.generations[slot] + 1;
        let id = SessionId::new(generation, self.worker, slot as u32);
        let session = make(id).map_err(Some)?;
        self.generations[slot] = generation;
        self.slots.insert(Slot::Connecting(session));
        self.live += 1;
        Ok(id)
    }

    /// Counts a session as connected, until it is closed.
    pub fn note_connected(&mut self, id: SessionId) {
        if self.open_slot(id).is_some() {
            let slot = &mut self.slots[id.slot()];
            *slot = match std::mem::replace(slot, Slot::Retired) {
                Slot::Connecting(session) => {
                    self.connected += 1;
                    Slot::Connected(session)
                }
                other => other,
            };
        }
    }

    /// Connected sessions, closing ones excluded.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.connected
    }

    /// Shows one session. `None` if it is not here, or on its way out.
    pub fn visit<R>(&mut self, id: SessionId, visit: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.open_slot(id).map(visit)
    }

    /// Shows every session that is not on its way out.
    pub fn visit_all(&mut self, mut visit: impl FnMut(SessionId, &mut T)) {
        // The slab's own iterator takes more instructions for each session.
        for (slot, &generation) in self.generations.iter().enumerate() {
            let entry = self.slots.get_mut(slot);
            if let Some(Slot::Connecting(session) | Slot::Connected(session)) = entry {
                visit(
                    SessionId::new(generation, self.worker, slot as u32),
                    session,
                );
            }
        }
    }

    /// Shows one session; an `Err` is recorded as its reason to leave.
    pub fn try_visit<R>(
        &mut self,
        id: SessionId,
        try_visit: impl FnOnce(&mut T) -> Result<R, DisconnectReason>,
    ) -> Option<R> {
        match try_visit(self.open_slot(id)?) {
            Ok(answer) => Some(answer),
            Err(reason) => {
                self.close(id, reason);
                None
            }
        }
    }

    /// Records that a session has to leave. The first reason wins; returns whether this was it.
    pub fn close(&mut self, id: SessionId, reason: DisconnectReason) -> bool {
        if self.open_slot(id).is_none() {
            return false;
        }
        let slot = &mut self.slots[id.slot()];
        *slot = match std::mem::replace(slot, Slot::Retired) {
            Slot::Connected(session) => {
                self.connected -= 1;
                Slot::Closing(session)
            }
            Slot::Connecting(session) => Slot::Closing(session),
            other => other,
        };
        self.closing.push_back((id, reason));
        true
    }

    /// Records the same reason for every session.
    pub fn close_all(&mut self, reason: DisconnectReason) {
        let mut ids = Vec::with_capacity(self.live);
        self.visit_all(|id, _| ids.push(id));
        for id in ids {
            self.close(id, reason);
        }
    }

    /// Moves out one session that has to leave: the only way out of this table.
    pub fn pop_closing(&mut self) -> Option<(SessionId, DisconnectReason, T)> {
        let (id, reason) = self.closing.pop_front()?;
        let exhausted = self.generations[id.slot()] == u32::MAX;
        let slot = if exhausted {
            std::mem::replace(&mut self.slots[id.slot()], Slot::Retired)
        } else {
            self.slots.remove(id.slot())
        };
        self.live -= 1;
        match slot {
            Slot::Closing(session) => Some((id, reason, session)),
            Slot::Connecting(_) | Slot::Connected(_) | Slot::Retired => {
                unreachable!("an id on the closing list names a closing slot: only `close` pushes")
            }
        }
    }

    /// Sessions in the table, closing ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether the table has no session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    fn open_slot(&mut self, id: SessionId) -> Option<&mut T> {
        if id.worker() != usize::from(self.worker)
            || self.generations.get(id.slot()) != Some(&id.generation())
        {
            return None;
        }
        match self.slots.get_mut(id.slot()) {
            Some(Slot::Connecting(session) | Slot::Connected(session)) => Some(session),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::reason::Kick;
    use std::convert::Infallible;

    fn table_with(names: &[&'static str]) -> (SessionTable<&'static str>, Vec<SessionId>) {
        let mut table = SessionTable::new(3);
        let ids = names.iter().map(|name| put(&mut table, name)).collect();
        (table, ids)
    }

    fn put(table: &mut SessionTable<&'static str>, name: &'static str) -> SessionId {
        table.insert(|_| Ok::<_, Infallible>(name)).unwrap()
    }

    fn shown(table: &mut SessionTable<&'static str>) -> Vec<&'static str> {
        let mut names = Vec::new();
        table.visit_all(|_, name| names.push(*name));
        names
    }

    #[test]
    fn an_id_of_a_closed_session_finds_nobody() {
        let (mut table, ids) = table_with(&["a"]);
        table.close(ids[0], DisconnectReason::Closed);
        table.pop_closing().unwrap();
        let second = put(&mut table, "b");
        assert_eq!(second.slot(), ids[0].slot());
        assert_ne!(second, ids[0]);
        assert_eq!(table.visit(ids[0], |_| ()), None);
        assert_eq!(table.visit(second, |name| *name), Some("b"));
        assert!(!table.close(ids[0], DisconnectReason::Closed));
    }

    #[test]
    fn lecture_54_a_session_that_leaves_is_shown_to_nobody_and_stays_until_the_walk_is_over() {
        let (mut table, ids) = table_with(&["a", "b", "c"]);
        assert_eq!(
            table.try_visit(ids[1], |_| Err::<(), _>(Kick::BadSize.into())),
            None
        );
        assert_eq!(shown(&mut table), ["a", "c"]);
        assert_eq!(table.visit(ids[1], |_| ()), None);
        assert_eq!(table.len(), 3);
        let (id, reason, name) = table.pop_closing().unwrap();
        assert_eq!((id, reason, name), (ids[1], Kick::BadSize.into(), "b"));
        assert_eq!(table.len(), 2);
        assert!(table.pop_closing().is_none());
    }

    #[test]
    fn the_first_reason_wins() {
        let (mut table, ids) = table_with(&["a"]);
        assert!(table.close(ids[0], DisconnectReason::PeerClosed));
        assert!(!table.close(ids[0], DisconnectReason::Shutdown));
        assert_eq!(table.pop_closing().unwrap().1, DisconnectReason::PeerClosed);
        assert!(table.pop_closing().is_none());
    }

    #[test]
    fn an_id_of_another_worker_finds_nobody() {
        let (mut table, ids) = table_with(&["a"]);
        let stranger = SessionId::new(ids[0].generation(), 4, ids[0].slot() as u32);
        assert_eq!(table.visit(stranger, |_| ()), None);
        assert_eq!(table.visit(SessionId::from_u64(0), |_| ()), None);
        assert_eq!(table.visit(SessionId::from_u64(u64::MAX), |_| ()), None);
    }

    #[test]
    fn a_slot_whose_generations_are_used_up_is_retired() {
        let (mut table, ids) = table_with(&["a"]);
        table.close(ids[0], DisconnectReason::Closed);
        table.pop_closing();
        table.generations[0] = u32::MAX - 1;
        let last = put(&mut table, "last");
        assert_eq!((last.slot(), last.generation()), (0, u32::MAX));
        table.close(last, DisconnectReason::Closed);
        assert_eq!(table.pop_closing().unwrap().2, "last");
        let next = put(&mut table, "next");
        assert_eq!((next.slot(), next.generation()), (1, 1));
        assert_eq!(table.visit(last, |_| ()), None);
        assert_eq!(shown(&mut table), ["next"]);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn sessions_are_counted_from_their_connection_to_their_close() {
        let (mut table, ids) = table_with(&["a", "b", "c"]);
        assert_eq!(table.connected(), 0);
        for id in [ids[0], ids[0], ids[1]] {
            table.note_connected(id);
        }
        assert_eq!(table.connected(), 2);
        for id in [ids[0], ids[0], ids[2]] {
            table.close(id, DisconnectReason::Closed);
            table.note_connected(id);
        }
        assert_eq!((table.connected(), table.len()), (1, 3));
        while table.pop_closing().is_some() {}
        put(&mut table, "d");
        table.note_connected(ids[0]);
        assert_eq!((table.connected(), table.len()), (1, 2));
        table.close_all(DisconnectReason::Shutdown);
        assert_eq!(table.connected(), 0);
    }

    #[test]
    fn a_failed_make_leaves_no_trace() {
        let (mut table, _) = table_with(&[]);
        assert_eq!(table.insert(|_| Err::<&str, _>("no")), Err(Some("no")));
        assert!(table.is_empty());
        assert_eq!(put(&mut table, "a").generation(), 1);
    }
}
