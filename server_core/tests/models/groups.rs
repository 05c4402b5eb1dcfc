//! The groups of several workers, and the directory that they share, beside a set of pairs.

use server_core::groups::index::{GroupIndex, Subscription};
use server_core::groups::members::Groups;
use server_core::{GroupId, SessionId};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// Few of each, so that they meet.
const WORKERS: usize = 3;
const SLOTS: usize = 6;
const GROUPS: usize = 5;

/// Sessions and groups are any numbers.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Join(usize, usize),
    /// A join that another thread posts.
    Post(usize, usize),
    /// The oldest posted join reaches its worker.
    Deliver,
    /// The oldest posted join is lost, as with a mailbox that is closed.
    Lose,
    Leave(usize, usize),
    /// The session leaves the server, and another session has its slot.
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
            Step::Join(who, group) => {
                let (id, group) = (self.session(who), group_of(group));
                let expected = self.join(id, group);
                let joined = self.workers[id.worker()].join(id, group);
                assert_eq!(joined.is_ok(), expected);
            }
            Step::Post(who, group) => {
                let (id, group) = (self.session(who), group_of(group));
                let subscribe = self.directory.subscribe(group, id.worker());
                self.posted.push_back((id, subscribe));
            }
            Step::Deliver => {
                // The worker itself sees that a session has left meanwhile.
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
            Step::Leave(who, group) => {
                let (id, group) = (self.session(who), group_of(group));
                let was_in = self.members.remove(&(group, id));
                assert_eq!(self.workers[id.worker()].leave(id, group), was_in);
            }
            Step::Replace(who) => {
                let id = self.session(who);
                self.workers[id.worker()].leave_all(id);
                self.members.retain(|(_, member)| *member != id);
                self.generations[place_of(id)] += 1;
            }
        }
        self.check();
    }

    fn session(&self, who: usize) -> SessionId {
        let place = who % (WORKERS * SLOTS);
        let (worker, slot) = ((place / SLOTS) as u8, (place % SLOTS) as u32);
        SessionId::new(self.generations[place], worker, slot)
    }

    /// Returns whether it is a member with that.
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
            assert_eq!(workers, told, "who is told of {group}");
        }
        for id in (0..WORKERS * SLOTS).map(|who| self.session(who)) {
            let groups = &self.workers[id.worker()];
            let its: BTreeSet<GroupId> = groups.groups_of(id).collect();
            let expected = self.members.iter().filter(|(_, member)| *member == id);
            assert_eq!(its, expected.map(|(group, _)| *group).collect());
            assert_eq!(groups.groups_of(id).count(), its.len(), "each once");
            assert!(
                (0..GROUPS)
                    .map(group_of)
                    .all(|group| groups.is_in(id, group) == its.contains(&group))
            );
        }
    }

    /// When all have left, nothing is left.
    pub fn finish(mut self) {
        for who in 0..WORKERS * SLOTS {
            self.step(Step::Replace(who));
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
