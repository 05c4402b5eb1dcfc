//! The groups of one worker's sessions, and their members.

use crate::base::id::SessionId;
use crate::groups::id::GroupId;
use crate::groups::index::{GroupIndex, Subscription};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// The members of each group among this worker's sessions.
///
/// * A session without groups and a group without members take no memory here.
/// * A join or leave costs a step for each group of the session, whatever the number of members: each
///   session stores its place in its groups, and the last member moves to a place that becomes free.
/// * The [`GroupIndex`] that all workers share changes with the first member and with the last one.
#[derive(Debug)]
pub struct Groups {
    worker: usize,
    max_per_session: usize,
    group_index: Arc<GroupIndex>,
    groups: HashMap<GroupId, Group>,
    #[cfg(feature = "cluster")]
    watch: Option<MemberWatch>,
    /// The places of each session: `groups[place.group].members[place.index]` is the session.
    places: HashMap<SessionId, Vec<Place>>,
}

/// Takes each join (`true`) and leave of a session of a worker.
#[cfg(feature = "cluster")]
#[derive(Clone)]
pub struct MemberWatch(pub Arc<dyn Fn(GroupId, bool) + Send + Sync>);

#[cfg(feature = "cluster")]
impl fmt::Debug for MemberWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemberWatch")
    }
}

/// A group that has members.
#[derive(Debug)]
struct Group {
    members: Vec<SessionId>,
    _subscription: Subscription,
}

#[derive(Debug)]
struct Place {
    group: GroupId,
    index: u32,
}

/// The session is in the maximum number of groups: see
/// [`Config::max_groups_per_session`](crate::Config::max_groups_per_session).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TooManyGroups;

impl fmt::Display for TooManyGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the session is in the maximum number of groups")
    }
}

impl std::error::Error for TooManyGroups {}

/// A list of members with no more than this number of places is not shrunk.
const KEPT_MEMBERS: usize = 64;

impl Groups {
    /// No groups. `group_index` gets the subscriptions of `worker`.
    #[must_use]
    pub fn new(worker: usize, group_index: Arc<GroupIndex>, max_per_session: usize) -> Self {
        Self {
            worker,
            max_per_session,
            group_index,
            groups: HashMap::new(),
            #[cfg(feature = "cluster")]
            watch: None,
            places: HashMap::new(),
        }
    }

    /// Makes a session a member. A member stays a member.
    ///
    /// # Errors
    /// [`TooManyGroups`], and nothing has changed.
    pub fn join(&mut self, id: SessionId, group: GroupId) -> Result<(), TooManyGroups> {
        self.enter(id, group, None)
    }

    /// Like [`join`](Self::join), for a join command that holds a subscription to its group.
    ///
    /// # Errors
    /// [`TooManyGroups`], and nothing has changed.
    pub fn join_subscribed(
        &mut self,
        id: SessionId,
        subscription: Subscription,
    ) -> Result<(), TooManyGroups> {
        self.enter(id, subscription.group(), Some(subscription))
    }

    fn enter(
        &mut self,
        id: SessionId,
        group: GroupId,
        subscription: Option<Subscription>,
    ) -> Result<(), TooManyGroups> {
        if self.is_in(id, group) {
            return Ok(());
        }
        if self.places_of(id).len() >= self.max_per_session {
            return Err(TooManyGroups);
        }
        let (group_index, worker) = (&self.group_index, self.worker);
        let entered = self.groups.entry(group).or_insert_with(|| Group {
            members: Vec::new(),
            _subscription: subscription.unwrap_or_else(|| group_index.subscribe(group, worker)),
        });
        // A worker has 2^24 sessions at most.
        let index = entered.members.len() as u32;
        entered.members.push(id);
        let places = self.places.entry(id).or_default();
        places.push(Place { group, index });
        #[cfg(feature = "cluster")]
        self.report(group, true);
        Ok(())
    }

    /// Ends a membership. Returns whether the session was a member.
    pub fn leave(&mut self, id: SessionId, group: GroupId) -> bool {
        let Some(places) = self.places.get_mut(&id) else {
            return false;
        };
        let Some(at) = places.iter().position(|place| place.group == group) else {
            return false;
        };
        let place = places.swap_remove(at);
        if places.is_empty() {
            self.places.remove(&id);
        }
        self.vacate(&place);
        true
    }

    /// Ends all memberships of a session.
    pub fn leave_all(&mut self, id: SessionId) {
        for place in self.places.remove(&id).into_iter().flatten() {
            self.vacate(&place);
        }
    }

    /// The members of a group on this worker, in an arbitrary order.
    #[must_use]
    pub fn members(&self, group: GroupId) -> &[SessionId] {
        (self.groups.get(&group)).map_or(&[], |group| &group.members)
    }

    /// Whether a session is a member.
    #[must_use]
    pub fn is_in(&self, id: SessionId, group: GroupId) -> bool {
        (self.places_of(id).iter()).any(|place| place.group == group)
    }

    /// The groups that a session is in.
    pub fn groups_of(&self, id: SessionId) -> impl Iterator<Item = GroupId> + '_ {
        self.places_of(id).iter().map(|place| place.group)
    }

    /// The number of groups with members on this worker.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether no group has members on this worker.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    fn places_of(&self, id: SessionId) -> &[Place] {
        self.places.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Reports each member from now on: those that are there first. `None`: reports no more.
    #[cfg(feature = "cluster")]
    pub fn watch(&mut self, watch: Option<MemberWatch>) {
        self.watch = watch;
        for (group, members) in &self.groups {
            for _ in &members.members {
                self.report(*group, true);
            }
        }
    }

    #[cfg(feature = "cluster")]
    fn report(&self, group: GroupId, is_join: bool) {
        if let Some(MemberWatch(watch)) = &self.watch {
            watch(group, is_join);
        }
    }

    /// Frees a place. The last member moves there.
    fn vacate(&mut self, place: &Place) {
        #[cfg(feature = "cluster")]
        self.report(place.group, false);
        let Some(group) = self.groups.get_mut(&place.group) else {
            return;
        };
        let members = &mut group.members;
        members.swap_remove(place.index as usize);
        if members.is_empty() {
            self.groups.remove(&place.group);
            return;
        }
        if members.capacity() > KEPT_MEMBERS.max(4 * members.len()) {
            members.shrink_to(2 * members.len());
        }
        if let Some(moved) = members.get(place.index as usize)
            && let Some(places) = self.places.get_mut(moved)
            && let Some(its) = places.iter_mut().find(|its| its.group == place.group)
        {
            its.index = place.index;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: GroupId = GroupId::new(1, 1);
    const ZONE: GroupId = GroupId::new(2, 1);

    fn groups(max_per_session: usize) -> (Groups, Arc<GroupIndex>) {
        let group_index = Arc::new(GroupIndex::default());
        let groups = Groups::new(3, Arc::clone(&group_index), max_per_session);
        (groups, group_index)
    }

    fn id(slot: u32) -> SessionId {
        SessionId::new(1, 3, slot)
    }

    fn sorted(groups: &Groups, group: GroupId) -> Vec<SessionId> {
        let mut members = groups.members(group).to_vec();
        members.sort();
        members
    }

    #[test]
    fn members_come_and_go() {
        let (mut groups, group_index) = groups(4);
        for slot in 0..3 {
            assert_eq!(groups.join(id(slot), ROOM), Ok(()));
        }
        assert_eq!(groups.join(id(1), ROOM), Ok(()), "once more is no more");
        assert_eq!(groups.join(id(1), ZONE), Ok(()));
        assert_eq!(sorted(&groups, ROOM), [id(0), id(1), id(2)]);
        assert_eq!(groups.members(ZONE), [id(1)]);
        assert!(groups.leave(id(0), ROOM) && !groups.leave(id(0), ROOM));
        assert!(!groups.leave(id(2), ZONE) && !groups.leave(id(9), ROOM));
        assert_eq!(sorted(&groups, ROOM), [id(1), id(2)]);
        assert_eq!(group_index.workers(ROOM).iter().collect::<Vec<_>>(), [3]);
        groups.leave_all(id(1));
        groups.leave_all(id(2));
        assert!(groups.is_empty() && groups.places.is_empty());
        assert_eq!(group_index.groups(), 0);
    }

    #[test]
    fn a_limit_refuses_and_changes_nothing() {
        let (mut groups, group_index) = groups(1);
        assert_eq!(groups.join(id(0), ROOM), Ok(()));
        assert_eq!(groups.join(id(0), ZONE), Err(TooManyGroups));
        let subscription = group_index.subscribe(ZONE, 3);
        assert_eq!(
            groups.join_subscribed(id(0), subscription),
            Err(TooManyGroups)
        );
        assert!(
            group_index.workers(ZONE).is_empty(),
            "the subscription went back"
        );
        assert_eq!(groups.join(id(0), ROOM), Ok(()), "in there it is already");
        assert!(groups.leave(id(0), ROOM));
        assert_eq!(groups.join(id(0), ZONE), Ok(()));
    }

    #[test]
    fn the_subscription_of_a_join_command_serves_the_group() {
        let (mut groups, group_index) = groups(4);
        for slot in 0..2 {
            let subscription = group_index.subscribe(ROOM, 3);
            assert_eq!(groups.join_subscribed(id(slot), subscription), Ok(()));
        }
        assert!(groups.leave(id(0), ROOM));
        assert!(!group_index.workers(ROOM).is_empty());
        assert!(groups.leave(id(1), ROOM));
        assert!(group_index.workers(ROOM).is_empty());
    }

    #[test]
    fn the_memory_of_a_group_follows_its_members() {
        let (mut groups, _) = groups(4);
        for slot in 0..10_000 {
            groups.join(id(slot), ROOM).unwrap();
        }
        for slot in 0..9_990 {
            groups.leave(id(slot), ROOM);
        }
        assert_eq!(
            sorted(&groups, ROOM),
            (9_990..10_000).map(id).collect::<Vec<_>>()
        );
        assert!(groups.groups[&ROOM].members.capacity() <= KEPT_MEMBERS);
    }
}
