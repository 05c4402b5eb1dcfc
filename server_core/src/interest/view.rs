//! One player's knowledge of the entities in its sight: what its next snapshot contains.

use crate::base::reason::Kick;
use std::cmp::Reverse;

/// A record of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewChange<K> {
    /// The player does not know the entity: its whole state. After a [`rewind`](PlayerView::rewind) the player may
    /// know it already.
    Enter(K),
    /// The player knows an older version of the entity.
    Update(K),
    /// The entity is out of sight. After a [`rewind`](PlayerView::rewind) the player may not know it.
    Leave(K),
}

/// Chooses the records of one player's snapshots: what has changed since what the player has, within a byte budget,
/// the most urgent first.
///
/// The view holds a row for each entity in sight (up to 64 bytes with keys of 8 bytes), and no state of an entity.
/// Snapshots are numbered from 1. The player sends the number of the last snapshot that it has handled, and
/// [`acknowledge`](Self::acknowledge) takes it. A snapshot that is on its way to a player counts as known: it
/// comes, in order. Two things need the acknowledgement:
///
/// * A player with [`max_in_flight`](Self::max_in_flight) unacknowledged snapshots gets no snapshot. Its next one has
///   the newest state, so a slow player skips states and no queue grows.
/// * After a lost connection, [`rewind`](Self::rewind) makes the view send again what was not acknowledged.
///
/// A game whose packets have no acknowledgement calls `acknowledge` itself, after each snapshot that it sends.
///
/// **Order.** In each snapshot, leaves come first. Each other entity that waits for its record collects its weight,
/// and the largest sum is next: `weight` times the number of snapshots for which it has waited. So no entity waits
/// for ever. With `n` entities in sight that always change, a record in each snapshot, and a weight that is the
/// `r`-th part of the largest weight, an entity waits for at most `2 * n * (r + 1)` snapshots
/// besides those that leaves fill.
///
/// **Memory.** Rows: the entities in sight, and those that have left since the player was told of them. A player
/// that acknowledges nothing is told of no more than `max_in_flight` snapshots contain.
///
/// See [`InterestGrid`](crate::InterestGrid) for an example.
#[derive(Debug)]
pub struct PlayerView<K> {
    /// Sorted by key.
    rows: Vec<Row<K>>,
    /// What the next snapshot may contain: urgency, place of the row, version. Only `build` uses it.
    due: Vec<(Reverse<u64>, u32, u64)>,
    last: u64,
    acknowledged: u64,
    max_in_flight: u64,
}

#[derive(Clone, Copy, Debug)]
struct Row<K> {
    key: K,
    phase: Phase,
    /// The sum of its weights in the snapshots for which it has waited.
    urgency: u64,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// In sight, and the player is to be told.
    Entering(Held),
    /// In sight, and the player was told.
    Known(Told),
    /// Out of sight, and the player is to be told. After a rewind it is not known what the player has.
    Leaving(Option<Told>),
    /// Out of sight: the player was told in the snapshot of this number.
    Left(u64),
}

/// The last version of an entity that the player was told of, and the number of that snapshot.
#[derive(Clone, Copy, Debug)]
struct Told {
    version: u64,
    number: u64,
}

/// Whether the player has an older state of an entity that enters.
#[derive(Clone, Copy, Debug)]
enum Held {
    No,
    /// The snapshot that tells of its end has this number.
    UntilLeft(u64),
    Maybe,
}

const DEFAULT_MAX_IN_FLIGHT: u64 = 64;

impl<K> Default for PlayerView<K> {
    /// Nothing is in sight.
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            due: Vec::new(),
            last: 0,
            acknowledged: 0,
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
        }
    }
}

impl<K: Copy + Ord> PlayerView<K> {
    /// Snapshots that may be unacknowledged, 1 or more. Default: 64.
    #[must_use]
    pub fn max_in_flight(mut self, snapshots: u32) -> Self {
        self.max_in_flight = u64::from(snapshots.max(1));
        self
    }

    /// An entity comes into sight. Nothing happens if it is in sight.
    pub fn enter(&mut self, entity: K) {
        match self.rows.binary_search_by_key(&entity, |row| row.key) {
            Err(at) => {
                let row = Row {
                    key: entity,
                    phase: Phase::Entering(Held::No),
                    urgency: 0,
                };
                self.rows.insert(at, row);
            }
            Ok(at) => {
                let row = &mut self.rows[at];
                row.phase = match row.phase {
                    Phase::Leaving(Some(told)) => Phase::Known(told),
                    Phase::Leaving(None) => Phase::Entering(Held::Maybe),
                    Phase::Left(number) => Phase::Entering(Held::UntilLeft(number)),
                    in_sight => in_sight,
                };
            }
        }
    }

    /// An entity goes out of sight. Nothing happens if it is not in sight.
    pub fn leave(&mut self, entity: K) {
        let Ok(at) = self.rows.binary_search_by_key(&entity, |row| row.key) else {
            return;
        };
        let row = &mut self.rows[at];
        row.urgency = 0;
        row.phase = match row.phase {
            Phase::Entering(Held::UntilLeft(number)) if number > self.acknowledged => {
                Phase::Left(number)
            }
            Phase::Entering(Held::Maybe) => Phase::Leaving(None),
            Phase::Entering(_) => {
                self.rows.remove(at);
                return;
            }
            Phase::Known(told) => Phase::Leaving(Some(told)),
            out_of_sight => out_of_sight,
        };
    }

    /// Appends the next snapshot to `out`, and returns its number. Returns `None` if the player knows everything, or
    /// if [`max_in_flight`](Self::max_in_flight) snapshots are unacknowledged.
    ///
    /// `state` returns the version of an entity in sight, which is another one after each change (for example the
    /// tick of the change), and its weight, 1 or more. `write` appends a record; the view takes a record back that
    /// goes beyond `budget_bytes`, and the snapshot ends there. A single record above the budget is a snapshot of
    /// its own.
    pub fn build(
        &mut self,
        budget_bytes: usize,
        out: &mut Vec<u8>,
        mut state: impl FnMut(K) -> (u64, u32),
        mut write: impl FnMut(ViewChange<K>, &mut Vec<u8>),
    ) -> Option<u64> {
        let acknowledged = self.acknowledged;
        (self.rows)
            .retain(|row| !matches!(row.phase, Phase::Left(number) if number <= acknowledged));
        if self.in_flight() >= self.max_in_flight {
            return None;
        }
        self.due.clear();
        for (at, row) in self.rows.iter_mut().enumerate() {
            let (urgency, version) = match row.phase {
                Phase::Left(_) => continue,
                Phase::Leaving(_) => (u64::MAX, 0),
                Phase::Entering(_) | Phase::Known(_) => {
                    let (version, weight) = state(row.key);
                    if matches!(row.phase, Phase::Known(told) if told.version == version) {
                        row.urgency = 0;
                        continue;
                    }
                    row.urgency = row.urgency.saturating_add(u64::from(weight.max(1)));
                    (row.urgency, version)
                }
            };
            self.due.push((Reverse(urgency), at as u32, version));
        }
        self.due.sort_unstable();
        let number = self.last + 1;
        let start = out.len();
        for (_, at, version) in &self.due {
            let row = &mut self.rows[*at as usize];
            let told = Told {
                version: *version,
                number,
            };
            let (change, next) = match row.phase {
                Phase::Entering(_) => (ViewChange::Enter(row.key), Phase::Known(told)),
                Phase::Known(_) => (ViewChange::Update(row.key), Phase::Known(told)),
                Phase::Leaving(_) | Phase::Left(_) => {
                    (ViewChange::Leave(row.key), Phase::Left(number))
                }
            };
            let before = out.len();
            write(change, out);
            if out.len() - start > budget_bytes && self.last == number {
                out.truncate(before);
                break;
            }
            row.phase = next;
            row.urgency = 0;
            self.last = number;
        }
        (self.last == number).then_some(number)
    }

    /// The player has handled all snapshots up to this number. A number that was acknowledged before changes
    /// nothing. Any number costs a comparison.
    ///
    /// # Errors
    /// [`Kick::BadPayload`] for a number that no snapshot has.
    pub fn acknowledge(&mut self, number: u64) -> Result<(), Kick> {
        if number > self.last {
            return Err(Kick::BadPayload);
        }
        self.acknowledged = self.acknowledged.max(number);
        Ok(())
    }

    /// The connection is lost: the next snapshots contain again what was not acknowledged. Snapshot numbers go on.
    pub fn rewind(&mut self) {
        let acknowledged = self.acknowledged;
        for row in &mut self.rows {
            row.phase = match row.phase {
                Phase::Known(told) if told.number > acknowledged => Phase::Entering(Held::Maybe),
                Phase::Entering(Held::UntilLeft(number)) if number > acknowledged => {
                    Phase::Entering(Held::Maybe)
                }
                Phase::Leaving(Some(told)) if told.number > acknowledged => Phase::Leaving(None),
                Phase::Left(number) if number > acknowledged => Phase::Leaving(None),
                unchanged => unchanged,
            };
        }
        self.acknowledged = self.last;
    }

    /// Snapshots that are not acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.last - self.acknowledged
    }

    /// The number of the last snapshot; 0 before the first one.
    #[must_use]
    pub fn last_number(&self) -> u64 {
        self.last
    }

    /// Rows that the view holds: the entities in sight, and those whose leave is not acknowledged.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet, VecDeque};

    const ENTITIES: u8 = 12;

    #[derive(Clone, Debug)]
    enum Step {
        Enter(u8),
        Leave(u8),
        Change(u8),
        /// With a budget of this number of bytes.
        Build(usize),
        /// The player handles a snapshot, and acknowledges it or not.
        Deliver(bool),
        /// An old acknowledgement, or one from the future.
        OddAck(u64),
        /// The connection is lost.
        Lose,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..ENTITIES).prop_map(Step::Enter),
            5 => (0..ENTITIES).prop_map(Step::Leave),
            8 => (0..ENTITIES).prop_map(Step::Change),
            8 => (0_usize..40).prop_map(Step::Build),
            6 => any::<bool>().prop_map(Step::Deliver),
            2 => prop_oneof![0_u64..30, Just(u64::MAX)].prop_map(Step::OddAck),
            1 => Just(Step::Lose),
        ]
    }

    /// The world, and what the player has of it.
    #[derive(Debug, Default)]
    struct Model {
        versions: [u64; ENTITIES as usize],
        in_sight: BTreeSet<u8>,
        /// By number.
        on_the_way: VecDeque<(u64, Vec<u8>)>,
        /// The number of the last snapshot that the player has handled.
        handled: u64,
        player: BTreeMap<u8, u64>,
        /// The connection was lost before.
        has_lost: bool,
    }

    /// A record: kind, entity, version, and some bytes of state.
    const RECORD_BYTES: usize = 6;

    impl Model {
        fn build(&self, view: &mut PlayerView<u8>, budget: usize) -> Option<(u64, Vec<u8>)> {
            let mut out = vec![0xaa]; // The view appends.
            let number = view.build(
                budget,
                &mut out,
                |entity| {
                    assert!(
                        self.in_sight.contains(&entity),
                        "asked for one out of sight"
                    );
                    (self.versions[usize::from(entity)], u32::from(entity) * 100)
                },
                |change, out| {
                    let (kind, entity) = match change {
                        ViewChange::Enter(entity) => (1, entity),
                        ViewChange::Update(entity) => (2, entity),
                        ViewChange::Leave(entity) => (3, entity),
                    };
                    let version = self.versions[usize::from(entity)] as u32;
                    out.extend([kind, entity]);
                    out.extend(version.to_le_bytes());
                },
            );
            assert_eq!(out.remove(0), 0xaa);
            assert!(out.len() <= budget.max(RECORD_BYTES), "within the budget");
            assert_eq!(number.is_some(), !out.is_empty());
            number.map(|number| (number, out))
        }

        /// The player handles the next snapshot.
        fn deliver(&mut self) -> Option<u64> {
            let (number, snapshot) = self.on_the_way.pop_front()?;
            for record in snapshot.chunks(RECORD_BYTES) {
                let version = u32::from_le_bytes(record[2..].try_into().unwrap()).into();
                let before = match record[0] {
                    3 => self.player.remove(&record[1]),
                    _ => self.player.insert(record[1], version),
                };
                let is_needed = match record[0] {
                    1 => before.is_none(),
                    2 => before.is_some_and(|before| before != version),
                    _ => before.is_some(),
                };
                assert!(is_needed || self.has_lost, "{record:?} over {before:?}");
                assert!(record[0] != 2 || before.is_some(), "an update of nothing");
            }
            self.handled = number;
            Some(number)
        }
    }

    proptest! {
        #[test]
        fn the_player_has_the_world_in_its_sight_once_all_is_delivered(
            steps in prop::collection::vec(step(), 1..150),
            max_in_flight in 1_u32..6,
        ) {
            let mut view = PlayerView::default().max_in_flight(max_in_flight);
            let mut model = Model::default();
            for step in steps {
                match step {
                    Step::Enter(entity) => {
                        view.enter(entity);
                        model.in_sight.insert(entity);
                    }
                    Step::Leave(entity) => {
                        view.leave(entity);
                        model.in_sight.remove(&entity);
                    }
                    Step::Change(entity) => model.versions[usize::from(entity)] += 1,
                    Step::Build(budget) => {
                        let is_full = view.in_flight() >= max_in_flight.into();
                        let snapshot = model.build(&mut view, budget);
                        prop_assert!(!is_full || snapshot.is_none());
                        if let Some((number, _)) = &snapshot {
                            prop_assert_eq!(*number, view.last_number());
                        }
                        model.on_the_way.extend(snapshot);
                    }
                    Step::Deliver(acknowledges) => {
                        if let Some(number) = model.deliver() && acknowledges {
                            prop_assert_eq!(view.acknowledge(number), Ok(()));
                        }
                    }
                    Step::OddAck(number) => {
                        // Acknowledging what it has not handled yet would harm the player alone.
                        if number <= model.handled {
                            prop_assert_eq!(view.acknowledge(number), Ok(()));
                        } else if number > view.last_number() {
                            prop_assert_eq!(view.acknowledge(number), Err(Kick::BadPayload));
                        }
                    }
                    Step::Lose => {
                        model.on_the_way.clear();
                        model.has_lost = true;
                        view.rewind();
                        prop_assert_eq!(view.in_flight(), 0);
                    }
                }
                prop_assert!(view.rows() <= usize::from(ENTITIES));
            }
            for _ in 0..8 * usize::from(ENTITIES) {
                while model.deliver().is_some() {}
                prop_assert_eq!(view.acknowledge(model.handled), Ok(()));
                let snapshot = model.build(&mut view, RECORD_BYTES);
                model.on_the_way.extend(snapshot);
            }
            let has = |entity: &u8| (*entity, model.versions[usize::from(*entity)]);
            let expected: BTreeMap<u8, u64> = model.in_sight.iter().map(has).collect();
            prop_assert_eq!(model.player, expected);
            prop_assert_eq!(view.rows(), model.in_sight.len());
        }

        #[test]
        fn no_entity_waits_beyond_the_bound_whatever_the_weights(
            weights in prop::collection::vec(1_u32..9, 1..11),
            records in 1_usize..4,
        ) {
            let mut view = PlayerView::default();
            (0..weights.len()).for_each(|entity| view.enter(entity));
            let largest = *weights.iter().max().unwrap();
            let mut last_told = vec![0; weights.len()];
            for snapshot in 1..=400_u64 {
                let number = view.build(
                    records,
                    &mut Vec::new(),
                    |entity| (snapshot, weights[entity]), // Each changes in each tick.
                    |change, out| {
                        let (ViewChange::Enter(entity) | ViewChange::Update(entity)) = change else {
                            panic!("none leaves");
                        };
                        // The view may take the last record back.
                        if out.len() < records {
                            last_told[entity] = snapshot;
                        }
                        out.push(0);
                    },
                );
                prop_assert_eq!(number, Some(snapshot));
                prop_assert_eq!(view.acknowledge(snapshot), Ok(()));
                for (weight, told) in weights.iter().zip(&last_told) {
                    let parts = u64::from(largest.div_ceil(*weight));
                    let bound = 2 * weights.len() as u64 * (parts + 1);
                    prop_assert!(snapshot - told <= bound, "{weight} of {largest}: {bound}");
                }
            }
        }
    }

    /// Builds a snapshot of empty states without a limit.
    fn build(view: &mut PlayerView<u64>, version: u64) -> Option<u64> {
        let write = |_, out: &mut Vec<u8>| out.push(0);
        view.build(usize::MAX, &mut Vec::new(), |_| (version, 1), write)
    }

    #[test]
    fn a_player_that_acknowledges_nothing_holds_no_memory_beyond_what_it_was_told() {
        let mut view = PlayerView::default().max_in_flight(8);
        for entity in 0..10_000 {
            view.enter(entity);
            let number = build(&mut view, entity);
            assert_eq!(number.is_some(), entity < 8);
            view.leave(entity);
            assert!(view.rows() <= 8, "{} rows", view.rows());
        }
        for _ in 0..100_000 {
            assert_eq!(view.acknowledge(9), Err(Kick::BadPayload));
            assert_eq!(view.acknowledge(u64::MAX), Err(Kick::BadPayload));
            assert_eq!(view.acknowledge(0), Ok(()));
        }
        assert_eq!(view.acknowledge(8), Ok(()));
        assert_eq!(build(&mut view, 0), Some(9), "the last leave");
        assert_eq!(view.acknowledge(9), Ok(()));
        assert_eq!((build(&mut view, 0), view.rows()), (None, 0));
    }

    /// A build without a snapshot counts as no snapshot: "heavy" would collect more in each of them.
    #[test]
    fn entity_waits_for_snapshots_and_not_for_builds() {
        let mut view = PlayerView::default().max_in_flight(1);
        let mut told = Vec::new();
        let mut build = |view: &mut PlayerView<&'static str>, version| {
            let write = |change, out: &mut Vec<u8>| {
                if out.is_empty() {
                    told.push(change);
                }
                out.push(0);
            };
            let weight = |entity| if entity == "heavy" { 3 } else { 2 };
            let state = |entity| (version, weight(entity));
            view.build(1, &mut Vec::new(), state, write)
        };
        view.enter("heavy");
        view.enter("light");
        assert_eq!(build(&mut view, 1), Some(1));
        for version in 2..10 {
            assert_eq!(build(&mut view, version), None);
        }
        assert_eq!(view.acknowledge(1), Ok(()));
        assert_eq!(build(&mut view, 10), Some(2));
        assert_eq!(
            told,
            [ViewChange::Enter("heavy"), ViewChange::Enter("light")]
        );
    }

    #[test]
    fn weights_near_the_largest_number_starve_nobody() {
        let mut view = PlayerView::default();
        (0..4).for_each(|entity| view.enter(entity));
        let mut told = BTreeSet::new();
        for snapshot in 1..=4 {
            let write = |change, out: &mut Vec<u8>| {
                if let (ViewChange::Enter(entity), true) = (change, out.is_empty()) {
                    told.insert(entity);
                }
                out.push(0);
            };
            view.build(1, &mut Vec::new(), |_: u64| (snapshot, u32::MAX), write);
        }
        assert_eq!(told.len(), 4);
    }
}
