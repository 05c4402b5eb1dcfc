//! A session table, compared with a list of names.

use server_core::shard::table::SessionTable;
use server_core::{DisconnectReason, Kick, SessionId};
use std::collections::{HashMap, HashSet, VecDeque};

#[derive(Clone, Debug)]
pub enum Step {
    Insert,
    InsertFails,
    Close(usize, bool),
    TryVisit(usize, bool),
    Pop,
    Visit(usize),
    VisitAll,
    CloseAll,
}

/// A table, and the sessions that should be in it.
pub struct Machine {
    worker: u8,
    table: SessionTable<u64>,
    ever: Vec<SessionId>,
    unique: HashSet<SessionId>,
    open: HashMap<SessionId, u64>,
    /// The closing sessions, each with the first reason that it got.
    closing: VecDeque<(SessionId, DisconnectReason, u64)>,
}

impl Machine {
    pub fn new(worker: u8) -> Self {
        Self {
            worker,
            table: SessionTable::new(worker),
            ever: Vec::new(),
            unique: HashSet::new(),
            open: HashMap::new(),
            closing: VecDeque::new(),
        }
    }

    pub fn step(&mut self, step: Step) {
        match step {
            Step::Insert => self.insert(),
            Step::InsertFails => {
                assert_eq!(self.table.insert(|_| Err("no")), Err(Some("no")));
            }
            Step::Close(n, kick) => {
                let Some(id) = self.pick(n) else { return };
                let reason = if kick {
                    Kick::BadSize.into()
                } else {
                    DisconnectReason::Closed
                };
                let name = self.open.remove(&id);
                assert_eq!(self.table.close(id, reason), name.is_some());
                self.closing.extend(name.map(|name| (id, reason, name)));
            }
            Step::TryVisit(n, ok) => {
                let Some(id) = self.pick(n) else { return };
                let answer = self.table.try_visit(id, |name| {
                    if ok {
                        Ok(*name)
                    } else {
                        Err(DisconnectReason::Idle)
                    }
                });
                assert_eq!(answer, self.open.get(&id).copied().filter(|_| ok));
                if !ok && let Some(name) = self.open.remove(&id) {
                    (self.closing).push_back((id, DisconnectReason::Idle, name));
                }
            }
            Step::Pop => assert_eq!(self.table.pop_closing(), self.closing.pop_front()),
            Step::Visit(n) => {
                let Some(id) = self.pick(n) else { return };
                let expected = self.open.get(&id).copied();
                assert_eq!(self.table.visit(id, |name| *name), expected);
            }
            Step::VisitAll => {
                let mut seen = HashMap::new();
                self.table.visit_all(|id, name| {
                    assert!(seen.insert(id, *name).is_none(), "shown twice");
                });
                assert_eq!(seen, self.open);
            }
            Step::CloseAll => self.close_all(),
        }
        assert_eq!(self.table.len(), self.open.len() + self.closing.len());
        let is_empty = self.open.is_empty() && self.closing.is_empty();
        assert_eq!(self.table.is_empty(), is_empty);
    }

    fn pick(&self, n: usize) -> Option<SessionId> {
        (!self.ever.is_empty()).then(|| self.ever[n % self.ever.len()])
    }

    fn insert(&mut self) {
        let (name, worker) = (self.ever.len() as u64, usize::from(self.worker));
        let id = self.table.insert(|id| {
            assert_eq!(id.worker(), worker);
            Ok::<_, ()>(name)
        });
        let id = id.unwrap();
        assert!(self.unique.insert(id), "{id:?} was given a second time");
        assert!(id.to_u64() >= 1 << 32, "a small token");
        self.ever.push(id);
        self.open.insert(id, name);
    }

    fn close_all(&mut self) {
        self.table.close_all(DisconnectReason::Shutdown);
        while let Some(front) = self.closing.pop_front() {
            assert_eq!(self.table.pop_closing(), Some(front));
        }
        // The table chooses the order, so the test compares sets.
        let mut left = std::mem::take(&mut self.open);
        while let Some((id, reason, name)) = self.table.pop_closing() {
            assert_eq!(reason, DisconnectReason::Shutdown);
            assert_eq!(left.remove(&id), Some(name));
        }
        assert!(left.is_empty());
    }

    /// Checks that no session is visited by the id of another session, nor after its end.
    pub fn finish(mut self) {
        for id in self.ever {
            let expected = self.open.get(&id).copied();
            assert_eq!(self.table.visit(id, |name| *name), expected);
        }
    }
}
