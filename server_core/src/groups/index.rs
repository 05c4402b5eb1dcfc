//! The workers with members of each group. A broadcast to a group posts to these workers.

use crate::base::id::SessionId;
use crate::groups::id::GroupId;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The workers of every group that has members.
///
/// A worker holds one [`Subscription`] to a group while it has members of the group. A join command holds
/// another one until the worker takes it. A join or leave writes nothing here while its worker has other
/// members of the group.
#[derive(Debug, Default)]
pub struct GroupIndex {
    /// Several locks, so that two workers rarely want the same lock.
    stripes: [RwLock<Stripe>; STRIPES],
    hasher: std::hash::RandomState,
}

type Stripe = HashMap<GroupId, Vec<WorkerSubscriptions>>;

/// The number of subscriptions of one worker to a group, 1 at least.
#[derive(Debug)]
struct WorkerSubscriptions {
    worker: u8,
    count: usize,
}

/// States that a worker has, or is about to have, members of a group. Its drop ends that.
#[derive(Debug)]
pub struct Subscription {
    group_index: Arc<GroupIndex>,
    group: GroupId,
    worker: u8,
}

/// A set of workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerSet([u64; WORDS]);

const STRIPES: usize = 16;
const WORDS: usize = SessionId::MAX_WORKERS / u64::BITS as usize;

impl GroupIndex {
    /// Subscribes `worker` to the packets of this group.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>, group: GroupId, worker: usize) -> Subscription {
        debug_assert!(worker < SessionId::MAX_WORKERS);
        let worker = worker as u8;
        let mut stripe = self.write(group);
        let subscriptions = stripe.entry(group).or_default();
        match subscriptions
            .iter_mut()
            .find(|subscriptions| subscriptions.worker == worker)
        {
            Some(subscriptions) => subscriptions.count += 1,
            None => subscriptions.push(WorkerSubscriptions { worker, count: 1 }),
        }
        drop(stripe);
        Subscription {
            group_index: Arc::clone(self),
            group,
            worker,
        }
    }

    /// The workers with a subscription to this group.
    #[must_use]
    pub fn workers(&self, group: GroupId) -> WorkerSet {
        let mut workers = WorkerSet::default();
        for subscriptions in self.read(group).get(&group).into_iter().flatten() {
            workers.insert(subscriptions.worker);
        }
        workers
    }

    /// The number of groups with a subscription.
    #[must_use]
    pub fn groups(&self) -> usize {
        let stripes = self.stripes.iter();
        stripes
            .map(|stripe| stripe.read().unwrap_or_else(PoisonError::into_inner).len())
            .sum()
    }

    fn release(&self, group: GroupId, worker: u8) {
        let mut stripe = self.write(group);
        let Some(subscriptions) = stripe.get_mut(&group) else {
            return;
        };
        if let Some(at) = subscriptions
            .iter()
            .position(|subscriptions| subscriptions.worker == worker)
        {
            subscriptions[at].count -= 1;
            if subscriptions[at].count == 0 {
                subscriptions.swap_remove(at);
            }
        }
        if subscriptions.is_empty() {
            stripe.remove(&group);
        }
    }

    // Each change is one step: a panic elsewhere cannot leave a stripe half changed.

    fn read(&self, group: GroupId) -> RwLockReadGuard<'_, Stripe> {
        let stripe = &self.stripes[self.place(group)];
        stripe.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, group: GroupId) -> RwLockWriteGuard<'_, Stripe> {
        let stripe = &self.stripes[self.place(group)];
        stripe.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stripe of a group. Peers may influence the numbers of groups, so the stripe is hard to guess.
    fn place(&self, group: GroupId) -> usize {
        self.hasher.hash_one(group) as usize % STRIPES
    }
}

impl Subscription {
    /// The group of the subscription.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.group
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.group_index.release(self.group, self.worker);
    }
}

impl WorkerSet {
    /// The first `count` workers.
    #[must_use]
    pub fn first(count: usize) -> Self {
        let bits = u64::BITS as usize;
        Self(std::array::from_fn(|word| {
            match count.saturating_sub(word * bits) {
                0 => 0,
                left => u64::MAX >> bits.saturating_sub(left),
            }
        }))
    }

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

    /// Whether the set has no worker.
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

    fn workers(group_index: &GroupIndex, group: GroupId) -> Vec<usize> {
        group_index.workers(group).iter().collect()
    }

    #[test]
    fn a_worker_is_in_the_index_while_it_has_a_subscription() {
        let group_index = Arc::new(GroupIndex::default());
        let (room, other) = (GroupId::new(1, 7), GroupId::new(2, 7));
        assert!(group_index.workers(room).is_empty());
        let subscriptions = [255, 0, 63, 64, 0].map(|worker| group_index.subscribe(room, worker));
        assert_eq!(workers(&group_index, room), [0, 63, 64, 255]);
        assert!(group_index.workers(other).is_empty());
        let [last, one, third, fourth, two] = subscriptions;
        drop((last, one, third, fourth));
        assert_eq!(workers(&group_index, room), [0], "one of its two is left");
        assert_eq!(group_index.groups(), 1);
        drop(two);
        assert_eq!(group_index.groups(), 0, "nothing is left of an empty group");
    }

    #[test]
    fn threads_that_subscribe_and_release_leave_nothing_behind() {
        let group_index = Arc::new(GroupIndex::default());
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let group_index = &group_index;
                scope.spawn(move || {
                    for n in 0..2_000 {
                        let group = GroupId::from_u64(n % 5);
                        let subscription = group_index.subscribe(group, worker);
                        assert!(workers(group_index, group).contains(&worker));
                        drop(subscription);
                        assert!(!workers(group_index, group).contains(&worker));
                    }
                });
            }
        });
        assert_eq!(group_index.groups(), 0);
    }

    #[test]
    fn first_workers_are_counted_across_words() {
        for count in [0, 1, 63, 64, 65, 255, 256] {
            assert!(WorkerSet::first(count).iter().eq(0..count), "{count}");
        }
    }
}
