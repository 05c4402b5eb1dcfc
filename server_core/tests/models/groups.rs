//! The groups of several workers and the index that they share, compared with a set of pairs.

use server_core::groups::index::{GroupIndex, Subscription};
use server_core::groups::members::Groups;
use server_core::{GroupId, SessionId};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// Few workers, slots and groups, so that sessions meet in groups.
const WORKERS: usize = 3;
const SLOTS: usize = 6;
const GROUPS: usize = 5;

/// A step. Its sessions and groups are any numbers.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Join(usize, usize),
    /// A join that another thread posts.
    Post(usize, usize),
    /// The oldest posted join reaches its worker.
    Deliver,
    /// The oldest posted join is lost, as in a mailbox that is closed.
    Lose,
    Leave(usize, usize),
    /// The session leaves the server, and another session gets its slot.
    Replace(usize),
}

/// Three workers, and the groups that each session should be in.
pub struct Machine {
    max_per_session: usize,
    directory: Arc<GroupIndex>,
    workers: Vec<Groups>,
    generations: [u32; WORKERS * SLOTS],
    posted: VecDeque<(SessionId, Subscription)>,
    members: BTreeSet<(GroupId, SessionId)>,
}

impl Machine {
    pub fn new(max_per_session: usize) -> Self {
        let directory = Arc::new(GroupIndex::default());
        let workers =
            (0..WORKERS).map(|worker| Groups::new(worker, Arc::clone(&directory), max_per_session));
        Self {
            max_per_session,
            workers: workers.collect(),
            directory,
            generations: [1; WORKERS * SLOTS],
            posted: VecDeque::new(),
            members: BTreeSet::new(),
        }
    }

    pub fn step(&mut self, step: Step) {
        match step {
            Step::Join(session, group) => {
                let (id, group) = (self.session(session), group_of(group));
                let expected = self.join(id, group);
                let joined = self.workers[id.worker()].join(id, group);
                assert_eq!(joined.is_ok(), expected);
            }
            Step::Post(session, group) => {
                let (id, group) = (self.session(session), group_of(group));
                let subscribe = self.directory.subscribe(group, id.worker());
                self.posted.push_back((id, subscribe));
            }
            Step::Deliver => {
                // The worker checks whether the session has left meanwhile.
                let Some((id, subscribe)) = self.posted.pop_front() else {
                    return;
                };
                if self.session(place_of(id)) == id {
                    let expected = self.join(id, subscribe.group());
                    let joined = self.workers[id.worker()].join_subscribed(id, subscribe);
                    assert_eq!(joined.is_ok(), expected);
                }
            }
            Step::Lose => drop(self.posted.pop_front()),
            Step::Leave(session, group) => {
                let (id, group) = (self.session(session), group_of(group));
                let was_in = self.members.remove(&(group, id));
                assert_eq!(self.workers[id.worker()].leave(id, group), was_in);
            }
            Step::Replace(session) => {
                let id = self.session(session);
                self.workers[id.worker()].leave_all(id);
                self.members.retain(|(_, member)| *member != id);
                self.generations[place_of(id)] += 1;
            }
        }
        self.check();
    }

    fn session(&self, session: usize) -> SessionId {
        let place = session % (WORKERS * SLOTS);
        let (worker, slot) = ((place / SLOTS) as u8, (place % SLOTS) as u32);
        SessionId::new(self.generations[place], worker, slot)
    }

    /// Makes the session a member, if it may have one more group. Returns whether it is a member now.
    fn join(&mut self, id: SessionId, group: GroupId) -> bool {
        let its = self.members.iter().filter(|(_, member)| *member == id);
        if its.count() < self.max_per_session {
            self.members.insert((group, id));
        }
        self.members.contains(&(group, id))
    }

    fn check(&self) {
        for group in (0..GROUPS).map(group_of) {
            let mut told = BTreeSet::new();
            for (worker, groups) in self.workers.iter().enumerate() {
                let mut members = groups.members(group).to_vec();
                members.sort();
                let its = self
                    .members
                    .iter()
                    .filter(|(of, id)| *of == group && id.worker() == worker);
                let expected: Vec<SessionId> = its.map(|(_, id)| *id).collect();
                assert_eq!(members, expected, "{group} on worker {worker}");
                let mut posted = self.posted.iter();
                let is_awaited = posted
                    .any(|(id, subscribe)| subscribe.group() == group && id.worker() == worker);
                if is_awaited || !members.is_empty() {
                    told.insert(worker);
                }
            }
            let workers: BTreeSet<usize> = self.directory.workers(group).iter().collect();
            assert_eq!(workers, told, "the workers of {group}");
        }
        for id in (0..WORKERS * SLOTS).map(|session| self.session(session)) {
            let groups = &self.workers[id.worker()];
            let its: BTreeSet<GroupId> = groups.groups_of(id).collect();
            let expected = self.members.iter().filter(|(_, member)| *member == id);
            assert_eq!(its, expected.map(|(group, _)| *group).collect());
            assert_eq!(groups.groups_of(id).count(), its.len(), "each group once");
            assert!(
                (0..GROUPS)
                    .map(group_of)
                    .all(|group| groups.is_in(id, group) == its.contains(&group))
            );
        }
    }

    /// Checks that the index and the groups are empty when all sessions have left.
    pub fn finish(mut self) {
        for session in 0..WORKERS * SLOTS {
            self.step(Step::Replace(session));
        }
        self.posted.clear();
        assert!(self.workers.iter().all(Groups::is_empty));
        assert_eq!(self.directory.groups(), 0);
    }
}

fn group_of(number: usize) -> GroupId {
    GroupId::from_u64((number % GROUPS) as u64)
}

fn place_of(id: SessionId) -> usize {
    id.worker() * SLOTS + id.slot()
}
