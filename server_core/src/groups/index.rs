//! Which workers have members of which group: a broadcast to a group asks it whom to tell.

use crate::base::id::SessionId;
use crate::groups::id::GroupId;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The workers of every group that has members.
///
/// A worker holds one [`Claim`] on a group as long as it has members of it, and so does each join
/// that is on its way to it. Who joins and leaves where others are writes nothing in here.
#[derive(Debug, Default)]
pub struct GroupDirectory {
    /// Several locks, so that workers rarely meet.
    shelves: [RwLock<Shelf>; SHELVES],
    hasher: std::hash::RandomState,
}

type Shelf = HashMap<GroupId, Vec<Claims>>;

/// How many claims one worker has on a group: never none.
#[derive(Debug)]
struct Claims {
    worker: u8,
    count: usize,
}

/// Says that a worker has, or is about to have, members of a group. Dropping it takes that back.
#[derive(Debug)]
pub struct Claim {
    directory: Arc<GroupDirectory>,
    group: GroupId,
    worker: u8,
}

/// Some of the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerSet([u64; WORDS]);

const SHELVES: usize = 16;
const WORDS: usize = SessionId::MAX_WORKERS / u64::BITS as usize;

impl GroupDirectory {
    /// From now on `worker` is told of what goes to this group.
    #[must_use]
    pub fn claim(self: &Arc<Self>, group: GroupId, worker: usize) -> Claim {
        debug_assert!(worker < SessionId::MAX_WORKERS);
        let worker = worker as u8;
        let mut shelf = self.write(group);
        let claims = shelf.entry(group).or_default();
        match claims.iter_mut().find(|claims| claims.worker == worker) {
            Some(claims) => claims.count += 1,
            None => claims.push(Claims { worker, count: 1 }),
        }
        drop(shelf);
        Claim {
            directory: Arc::clone(self),
            group,
            worker,
        }
    }

    /// The workers to tell of what goes to this group.
    #[must_use]
    pub fn workers(&self, group: GroupId) -> WorkerSet {
        let mut workers = WorkerSet::default();
        for claims in self.read(group).get(&group).into_iter().flatten() {
            workers.insert(claims.worker);
        }
        workers
    }

    /// Groups that somebody has a claim on.
    #[must_use]
    pub fn groups(&self) -> usize {
        let shelves = self.shelves.iter();
        shelves
            .map(|shelf| shelf.read().unwrap_or_else(PoisonError::into_inner).len())
            .sum()
    }

    fn release(&self, group: GroupId, worker: u8) {
        let mut shelf = self.write(group);
        let Some(claims) = shelf.get_mut(&group) else {
            return;
        };
        if let Some(at) = claims.iter().position(|claims| claims.worker == worker) {
            claims[at].count -= 1;
            if claims[at].count == 0 {
                claims.swap_remove(at);
            }
        }
        if claims.is_empty() {
            shelf.remove(&group);
        }
    }

    // Each change is made in one step: a panic elsewhere cannot have torn a shelf.

    fn read(&self, group: GroupId) -> RwLockReadGuard<'_, Shelf> {
        let shelf = &self.shelves[self.place(group)];
        shelf.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, group: GroupId) -> RwLockWriteGuard<'_, Shelf> {
        let shelf = &self.shelves[self.place(group)];
        shelf.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Peers may have a say in the numbers of groups, so which shelf it is must be hard to guess.
    fn place(&self, group: GroupId) -> usize {
        self.hasher.hash_one(group) as usize % SHELVES
    }
}

impl Claim {
    /// On which group.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.group
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.directory.release(self.group, self.worker);
    }
}

impl WorkerSet {
    /// The workers, in their order.
    pub fn iter(self) -> impl Iterator<Item = usize> + Clone {
        self.0.into_iter().enumerate().flat_map(|(word, bits)| {
            let mut left = bits;
            std::iter::from_fn(move || {
                let bit = (left != 0).then_some(left.trailing_zeros())?;
                left ^= 1 << bit;
                Some(word * u64::BITS as usize + bit as usize)
            })
        })
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    fn insert(&mut self, worker: u8) {
        self.0[usize::from(worker) / u64::BITS as usize] |= 1 << (u32::from(worker) % u64::BITS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(directory: &GroupDirectory, group: GroupId) -> Vec<usize> {
        directory.workers(group).iter().collect()
    }

    #[test]
    fn a_worker_is_told_as_long_as_it_has_a_claim() {
        let directory = Arc::new(GroupDirectory::default());
        let (room, other) = (GroupId::new(1, 7), GroupId::new(2, 7));
        assert!(directory.workers(room).is_empty());
        let claims = [255, 0, 63, 64, 0].map(|worker| directory.claim(room, worker));
        assert_eq!(workers(&directory, room), [0, 63, 64, 255]);
        assert!(directory.workers(other).is_empty());
        let [last, one, third, fourth, two] = claims;
        drop((last, one, third, fourth));
        assert_eq!(workers(&directory, room), [0], "one of its two is left");
        assert_eq!(directory.groups(), 1);
        drop(two);
        assert_eq!(directory.groups(), 0, "nothing is left of an empty group");
    }

    #[test]
    fn threads_that_claim_and_release_leave_nothing_behind() {
        let directory = Arc::new(GroupDirectory::default());
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let directory = &directory;
                scope.spawn(move || {
                    for n in 0..2_000 {
                        let group = GroupId::from_u64(n % 5);
                        let claim = directory.claim(group, worker);
                        assert!(workers(directory, group).contains(&worker));
                        drop(claim);
                        assert!(!workers(directory, group).contains(&worker));
                    }
                });
            }
        });
        assert_eq!(directory.groups(), 0);
    }
}
