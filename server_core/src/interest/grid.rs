//! The entities in each other's sight, by position: what enters and leaves a sight in a tick.

use std::fmt;

/// Identifies an entity of an [`InterestGrid`]. The id of a removed entity matches no later entity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityId {
    index: u32,
    generation: u32,
}

impl EntityId {
    /// The place of the entity among all of its grid, from 0. No two entities have the same place at a time, and
    /// places are used again: an index for a game's own tables.
    #[must_use]
    pub const fn index(self) -> usize {
        self.index as usize
    }

    /// The number for the wire: `generation << 32 | index`.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    /// Reads an id back from its number. Any number is accepted.
    #[must_use]
    pub const fn from_u64(value: u64) -> Self {
        Self {
            index: value as u32,
            generation: (value >> 32) as u32,
        }
    }
}

/// `index-generation`.
impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.index, self.generation)
    }
}

impl fmt::Debug for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntityId({self})")
    }
}

/// When an entity is in the sight of an observer. Lengths have the unit of the positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sight {
    /// By distance. Between the two radii an entity stays as it is: one that walks along a border does not enter
    /// and leave in each tick.
    Radius {
        /// An entity at this distance or nearer enters.
        enter: f32,
        /// An entity that is further away leaves. Raised to `enter`.
        leave: f32,
    },
    /// By cells of a grid: an entity is in sight where its cell is. [`InterestGrid::cell_at`] is then also the
    /// number of a [group](crate::GroupId), for packets that are the same for all observers of a cell.
    Cells {
        /// The side of a cell.
        size: f32,
        /// The cells in sight in each direction: 1 for the 3 x 3 cells around the observer.
        reach: u16,
    },
}

/// A change of the sight of one observer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterestEvent {
    /// An entity has come into sight.
    Enter(EntityId),
    /// An entity has gone out of sight, or was removed.
    Leave(EntityId),
}

/// Finds the entities that enter and leave the sight of each observer: interest management by a grid.
///
/// The area is `0..=width` by `0..=height`, in any unit. A position outside of it is moved to its border, and a
/// coordinate that is not a number is 0. All observers have the same [`Sight`]. No entity is in its own sight.
///
/// A tick costs one step for each entity, for each entity in sight, for each entity in the cells around each
/// observer (where the sight is a radius, 3 x 3 cells of its size), and one for each cell of the grid. It allocates
/// nothing once its lists have grown. An observer has up to [`max_visible`](Self::max_visible) entities in sight, 4 bytes each. The grid has
/// up to 262,144 cells: in a larger area, the cells are larger.
///
/// ```
/// use server_core::{InterestEvent, InterestGrid, PlayerView, Sight, ViewChange};
///
/// // 1,000 x 1,000 metres; a player sees 50 metres far, and loses sight at 55 metres.
/// let mut grid = InterestGrid::new([1000.0, 1000.0], Sight::Radius { enter: 50.0, leave: 55.0 });
/// let player = grid.insert_observer([100.0, 100.0]);
/// let tree = grid.insert([130.0, 100.0]);
/// let mut view = PlayerView::default();
///
/// // Each tick:
/// grid.update(|observer, event| {
///     assert_eq!(observer, player);
///     match event {
///         InterestEvent::Enter(entity) => view.enter(entity),
///         InterestEvent::Leave(entity) => view.leave(entity),
///     }
/// });
/// let mut snapshot = Vec::new();
/// let number = view.build(
///     1200, // bytes
///     &mut snapshot,
///     |_entity| (1, 1), // its version, and its weight
///     |change, snapshot| match change {
///         ViewChange::Enter(entity) | ViewChange::Update(entity) => {
///             snapshot.extend(entity.to_u64().to_le_bytes()); // and its state
///         }
///         ViewChange::Leave(entity) => snapshot.extend(entity.to_u64().to_le_bytes()),
///     },
/// );
/// assert_eq!(number, Some(1));
/// assert_eq!(snapshot, tree.to_u64().to_le_bytes());
/// ```
#[derive(Debug)]
pub struct InterestGrid {
    size: [f32; 2],
    cell: f32,
    columns: u32,
    rows: u32,
    sight: Sight,
    max_visible: usize,
    entities: Vec<Entity>,
    /// Places without an entity.
    free: Vec<u32>,
    /// Removed entities that observers may have in sight until the next update.
    removed: Vec<u32>,
    /// The entities in the order of their cells; those of a cell begin at its start.
    placed: Vec<Placed>,
    starts: Vec<u32>,
    /// By entity: the last observer that has had it in sight, as its number among all observers of all ticks.
    seen_by: Vec<u64>,
    observers: u64,
}

#[derive(Debug)]
struct Entity {
    position: [f32; 2],
    generation: u32,
    is_present: bool,
    is_observer: bool,
    visible: Vec<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Placed {
    position: [f32; 2],
    index: u32,
}

const MAX_CELLS: f64 = (1 << 18) as f64;
const DEFAULT_MAX_VISIBLE: usize = 256;

impl InterestGrid {
    /// An empty area of this width and height. A size that is not a positive number is 1.
    #[must_use]
    pub fn new(size: [f32; 2], sight: Sight) -> Self {
        let positive = |length: f32| {
            if length.is_finite() && length > 0.0 {
                length
            } else {
                1.0
            }
        };
        let size = size.map(positive);
        let (sight, wanted) = match sight {
            Sight::Radius { enter, leave } => {
                let enter = positive(enter);
                let leave = leave.max(enter);
                // Larger than the radius by more than the rounding of a position's column.
                (Sight::Radius { enter, leave }, enter * 1.0625)
            }
            Sight::Cells { size, .. } => (sight, positive(size)),
        };
        let mut cell = wanted;
        let count = |length: f32, cell: f32| (f64::from(length) / f64::from(cell)).floor() + 1.0;
        while count(size[0], cell) * count(size[1], cell) > MAX_CELLS {
            cell *= 2.0;
        }
        let [columns, rows] = size.map(|length| count(length, cell) as u32);
        Self {
            size,
            cell,
            columns,
            rows,
            sight,
            max_visible: DEFAULT_MAX_VISIBLE,
            entities: Vec::new(),
            free: Vec::new(),
            removed: Vec::new(),
            placed: Vec::new(),
            starts: vec![0; columns as usize * rows as usize + 1],
            seen_by: Vec::new(),
            observers: 0,
        }
    }

    /// Entities in the sight of one observer at a time. Beyond it, an entity enters when another one has left.
    /// Default: 256.
    #[must_use]
    pub fn max_visible(mut self, entities: usize) -> Self {
        self.max_visible = entities;
        self
    }

    /// Adds an entity that sees nothing.
    pub fn insert(&mut self, position: [f32; 2]) -> EntityId {
        self.add(position, false)
    }

    /// Adds an entity that sees others.
    pub fn insert_observer(&mut self, position: [f32; 2]) -> EntityId {
        self.add(position, true)
    }

    fn add(&mut self, position: [f32; 2], is_observer: bool) -> EntityId {
        let position = self.within(position);
        let index = self.free.pop().unwrap_or_else(|| {
            self.entities.push(Entity {
                position,
                generation: 0,
                is_present: false,
                is_observer,
                visible: Vec::new(),
            });
            self.seen_by.push(0);
            self.entities.len() as u32 - 1
        });
        let entity = &mut self.entities[index as usize];
        entity.position = position;
        entity.generation = entity.generation.wrapping_add(1);
        entity.is_present = true;
        entity.is_observer = is_observer;
        EntityId {
            index,
            generation: entity.generation,
        }
    }

    /// Moves an entity. Returns whether it is in the grid.
    pub fn move_to(&mut self, id: EntityId, position: [f32; 2]) -> bool {
        let position = self.within(position);
        let entity = self.get_mut(id);
        entity.map(|entity| entity.position = position).is_some()
    }

    /// Removes an entity. It leaves all sights in the next [`update`](Self::update). An observer's own sight ends
    /// without an event. Returns whether the entity was in the grid.
    pub fn remove(&mut self, id: EntityId) -> bool {
        let Some(entity) = self.get_mut(id) else {
            return false;
        };
        entity.is_present = false;
        entity.visible.clear();
        self.removed.push(id.index);
        true
    }

    /// The position of an entity, within the area.
    #[must_use]
    pub fn position(&self, id: EntityId) -> Option<[f32; 2]> {
        self.get(id).map(|entity| entity.position)
    }

    /// The entities in the sight of an observer as of the last [`update`](Self::update), in no order.
    pub fn visible(&self, observer: EntityId) -> impl Iterator<Item = EntityId> {
        let visible = self.get(observer).map(|entity| entity.visible.as_slice());
        visible
            .unwrap_or_default()
            .iter()
            .map(|index| self.id(*index))
    }

    /// The number of entities.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entities.len() - self.free.len() - self.removed.len()
    }

    /// Whether the grid has no entity.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of the cell at a position: `row * columns + column`.
    #[must_use]
    pub fn cell_at(&self, position: [f32; 2]) -> u32 {
        let [column, row] = self.column_and_row(self.within(position));
        row * self.columns + column
    }

    /// Ends a tick: calls `on_event` with each observer and each change of its sight since the last call. The
    /// leaves of an observer come before its enters.
    pub fn update(&mut self, mut on_event: impl FnMut(EntityId, InterestEvent)) {
        self.place();
        for index in 0..self.entities.len() as u32 {
            let observer = &mut self.entities[index as usize];
            if !observer.is_present || !observer.is_observer {
                continue;
            }
            self.observers += 1;
            let mut visible = std::mem::take(&mut observer.visible);
            self.seen_by[index as usize] = self.observers;
            self.look(index, &mut visible, &mut on_event);
            self.entities[index as usize].visible = visible;
        }
        self.free.append(&mut self.removed);
    }

    fn look(
        &mut self,
        index: u32,
        visible: &mut Vec<u32>,
        on_event: &mut impl FnMut(EntityId, InterestEvent),
    ) {
        let observer = self.id(index);
        let at = self.entities[index as usize].position;
        visible.retain(|seen| {
            let entity = &self.entities[*seen as usize];
            let stays = entity.is_present && self.is_in_sight(at, entity.position, true);
            if stays {
                self.seen_by[*seen as usize] = self.observers;
            } else {
                on_event(observer, InterestEvent::Leave(self.id(*seen)));
            }
            stays
        });
        let [column, row] = self.column_and_row(at);
        let reach = match self.sight {
            Sight::Radius { .. } => 1,
            Sight::Cells { reach, .. } => u32::from(reach),
        };
        let columns = column.saturating_sub(reach)..=(column + reach).min(self.columns - 1);
        for row in row.saturating_sub(reach)..=(row + reach).min(self.rows - 1) {
            let first_cell = (row * self.columns + columns.start()) as usize;
            let last_cell = (row * self.columns + columns.end()) as usize;
            // The cells of a row are side by side.
            for at_place in self.starts[first_cell]..self.starts[last_cell + 1] {
                if visible.len() >= self.max_visible {
                    return;
                }
                let placed = self.placed[at_place as usize];
                let is_new = self.seen_by[placed.index as usize] != self.observers;
                if is_new && self.is_in_sight(at, placed.position, false) {
                    visible.push(placed.index);
                    on_event(observer, InterestEvent::Enter(self.id(placed.index)));
                }
            }
        }
    }

    fn is_in_sight(&self, observer: [f32; 2], entity: [f32; 2], was_in_sight: bool) -> bool {
        match self.sight {
            Sight::Radius { enter, leave } => {
                let [x, y] = [0, 1].map(|axis| observer[axis] - entity[axis]);
                let radius = if was_in_sight { leave } else { enter };
                x * x + y * y <= radius * radius
            }
            Sight::Cells { reach, .. } => {
                let [here, there] = [observer, entity].map(|at| self.column_and_row(at));
                (0..2).all(|axis| here[axis].abs_diff(there[axis]) <= u32::from(reach))
            }
        }
    }

    /// Sorts the entities by cell, in the order of their places: a counting sort.
    fn place(&mut self) {
        self.starts.fill(0);
        let mut present = 0;
        for at in 0..self.entities.len() {
            if self.entities[at].is_present {
                let cell = self.cell_at(self.entities[at].position);
                self.starts[cell as usize] += 1;
                present += 1;
            }
        }
        let mut end = 0;
        for start in &mut self.starts {
            end += *start;
            *start = end; // The end of the cell. Each entity moves it one towards the start.
        }
        self.placed.resize(present, Placed::default());
        for at in (0..self.entities.len()).rev() {
            let Entity {
                position,
                is_present,
                ..
            } = self.entities[at];
            if is_present {
                let cell = self.cell_at(position) as usize;
                self.starts[cell] -= 1;
                let index = at as u32;
                self.placed[self.starts[cell] as usize] = Placed { position, index };
            }
        }
    }

    fn column_and_row(&self, position: [f32; 2]) -> [u32; 2] {
        let [column, row] = position.map(|along| (along / self.cell) as u32);
        // The quotient is rounded: the far border must not be a cell of its own.
        [column.min(self.columns - 1), row.min(self.rows - 1)]
    }

    fn within(&self, position: [f32; 2]) -> [f32; 2] {
        // Not `clamp`, which keeps what is not a number.
        [0, 1].map(|axis| position[axis].max(0.0).min(self.size[axis]))
    }

    fn id(&self, index: u32) -> EntityId {
        EntityId {
            index,
            generation: self.entities[index as usize].generation,
        }
    }

    fn get(&self, id: EntityId) -> Option<&Entity> {
        let entity = self.entities.get(id.index())?;
        (entity.is_present && entity.generation == id.generation).then_some(entity)
    }

    fn get_mut(&mut self, id: EntityId) -> Option<&mut Entity> {
        let entity = self.entities.get_mut(id.index())?;
        (entity.is_present && entity.generation == id.generation).then_some(entity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const SIZE: [f32; 2] = [100.0, 60.0];

    #[derive(Clone, Debug)]
    enum Step {
        Insert([f32; 2], bool),
        /// Of the entity at this place among those that were ever inserted.
        Move(usize, [f32; 2]),
        Remove(usize),
        Update,
    }

    fn position() -> impl Strategy<Value = [f32; 2]> {
        let odd = prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(-1.0), Just(0.0)];
        let along = |end: f32| prop_oneof![1 => odd.clone(), 20 => 0.0..end * 1.1, 3 => Just(end)];
        (along(SIZE[0]), along(SIZE[1])).prop_map(|(x, y)| [x, y])
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (position(), any::<bool>()).prop_map(|(at, sees)| Step::Insert(at, sees)),
            12 => (any::<prop::sample::Index>(), position())
                .prop_map(|(which, to)| Step::Move(which.index(64), to)),
            2 => any::<prop::sample::Index>().prop_map(|which| Step::Remove(which.index(64))),
            4 => Just(Step::Update),
        ]
    }

    fn sight() -> impl Strategy<Value = Sight> {
        prop_oneof![
            (0.1_f32..80.0, 0.0_f32..20.0).prop_map(|(enter, more)| Sight::Radius {
                enter,
                leave: enter + more
            }),
            (0.5_f32..70.0, 0_u16..4).prop_map(|(size, reach)| Sight::Cells { size, reach }),
        ]
    }

    /// An entity of the model, and what it has in sight.
    #[derive(Clone, Debug)]
    struct Thing {
        at: [f32; 2],
        sees: Option<BTreeSet<EntityId>>,
    }

    /// By a look at all pairs.
    fn is_in_sight(sight: Sight, here: [f32; 2], there: [f32; 2], was_in_sight: bool) -> bool {
        match sight {
            Sight::Radius { enter, leave } => {
                let radius = if was_in_sight { leave } else { enter };
                let [x, y] = [here[0] - there[0], here[1] - there[1]];
                x * x + y * y <= radius * radius
            }
            Sight::Cells { size, reach } => (0..2).all(|axis| {
                let last = (SIZE[axis] / size).floor();
                let cell = |at: [f32; 2]| (at[axis] / size).floor().min(last);
                (cell(here) - cell(there)).abs() <= f32::from(reach)
            }),
        }
    }

    fn within(at: [f32; 2]) -> [f32; 2] {
        [0, 1].map(|axis| {
            if at[axis].is_nan() {
                0.0
            } else {
                at[axis].clamp(0.0, SIZE[axis])
            }
        })
    }

    proptest! {
        #[test]
        fn the_events_are_those_of_a_look_at_all_pairs(
            sight in sight(),
            steps in prop::collection::vec(step(), 1..100),
        ) {
            let mut grid = InterestGrid::new(SIZE, sight);
            let mut ids = Vec::new();
            let mut model: BTreeMap<EntityId, Thing> = BTreeMap::new();
            for step in steps.into_iter().chain([Step::Update]) {
                match step {
                    Step::Insert(at, sees) => {
                        let id = if sees { grid.insert_observer(at) } else { grid.insert(at) };
                        prop_assert!(!ids.contains(&id), "an id comes once");
                        ids.push(id);
                        let sees = sees.then(BTreeSet::new);
                        model.insert(id, Thing { at: within(at), sees });
                    }
                    Step::Move(which, to) => {
                        let Some(id) = ids.get(which % ids.len().max(1)) else { continue };
                        let thing = model.get_mut(id);
                        prop_assert_eq!(grid.move_to(*id, to), thing.is_some());
                        if let Some(thing) = thing {
                            thing.at = within(to);
                        }
                        prop_assert_eq!(grid.position(*id), model.get(id).map(|thing| thing.at));
                    }
                    Step::Remove(which) => {
                        let Some(id) = ids.get(which % ids.len().max(1)) else { continue };
                        prop_assert_eq!(grid.remove(*id), model.remove(id).is_some());
                    }
                    Step::Update => {
                        let mut events = Vec::new();
                        grid.update(|observer, event| events.push((observer, event)));
                        let mut seen = events.clone();
                        seen.sort_by_key(|(observer, event)| match event {
                            InterestEvent::Leave(entity) => (*observer, false, *entity),
                            InterestEvent::Enter(entity) => (*observer, true, *entity),
                        });
                        let mut expected = Vec::new();
                        let places: Vec<(EntityId, [f32; 2])> =
                            model.iter().map(|(id, thing)| (*id, thing.at)).collect();
                        for (id, thing) in &mut model {
                            let Some(sees) = &mut thing.sees else { continue };
                            let now: BTreeSet<EntityId> = places
                                .iter()
                                .filter(|(other, at)| {
                                    other != id
                                        && is_in_sight(sight, thing.at, *at, sees.contains(other))
                                })
                                .map(|(other, _)| *other)
                                .collect();
                            let left = sees.difference(&now).map(|one| InterestEvent::Leave(*one));
                            let come = now.difference(sees).map(|one| InterestEvent::Enter(*one));
                            expected.extend(left.chain(come).map(|event| (*id, event)));
                            *sees = now;
                            let visible: BTreeSet<EntityId> = grid.visible(*id).collect();
                            prop_assert_eq!(&visible, &*sees);
                        }
                        prop_assert_eq!(seen, expected);
                    }
                }
                prop_assert_eq!(grid.len(), model.len());
            }
        }

        #[test]
        fn a_crowd_fills_each_sight_to_its_limit_and_no_further(
            moves in prop::collection::vec((0_usize..40, position()), 1..30),
            max_visible in 0_usize..12,
        ) {
            let sight = Sight::Radius { enter: 30.0, leave: 40.0 };
            let mut grid = InterestGrid::new(SIZE, sight).max_visible(max_visible);
            let ids: Vec<EntityId> = (0..40).map(|_| grid.insert_observer([50.0, 30.0])).collect();
            let mut sees: BTreeMap<EntityId, BTreeSet<EntityId>> = BTreeMap::new();
            for (which, to) in moves {
                grid.move_to(ids[which], to);
                grid.update(|observer, event| {
                    let seen = sees.entry(observer).or_default();
                    assert!(match event {
                        InterestEvent::Enter(entity) => seen.insert(entity),
                        InterestEvent::Leave(entity) => seen.remove(&entity),
                    });
                });
                for id in &ids {
                    let here = grid.position(*id).unwrap();
                    let grid = &grid;
                    let near = |radius: f32| {
                        ids.iter().filter(move |other| {
                            let there = grid.position(**other).unwrap();
                            let [x, y] = [here[0] - there[0], here[1] - there[1]];
                            *other != id && x * x + y * y <= radius * radius
                        })
                    };
                    let seen = sees.entry(*id).or_default();
                    prop_assert!(seen.len() <= max_visible);
                    prop_assert!(seen.len() >= max_visible.min(near(30.0).count()));
                    let near: BTreeSet<EntityId> = near(40.0).copied().collect();
                    prop_assert!(seen.is_subset(&near));
                }
            }
        }
    }

    #[test]
    fn odd_sizes_make_a_grid_that_works() {
        let odd = [
            f32::NAN,
            -1.0,
            0.0,
            f32::INFINITY,
            f32::MIN_POSITIVE,
            f32::MAX,
            1.0,
        ];
        for (width, length) in odd.iter().flat_map(|a| odd.iter().map(move |b| (*a, *b))) {
            let sights = [
                Sight::Radius {
                    enter: length,
                    leave: f32::NAN,
                },
                Sight::Cells {
                    size: length,
                    reach: u16::MAX,
                },
            ];
            for sight in sights {
                let mut grid = InterestGrid::new([width, 3.0], sight);
                let ids = [f32::NAN, f32::MAX, 0.0].map(|x| grid.insert_observer([x, x]));
                let mut events = 0;
                grid.update(|_, _| events += 1);
                assert!(events >= 2, "{width} {sight:?}: two are in one place");
                for id in ids {
                    assert!(grid.remove(id) && !grid.remove(id));
                }
                assert!(grid.is_empty());
            }
        }
    }
}
