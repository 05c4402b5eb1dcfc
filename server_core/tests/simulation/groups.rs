//! Who was in which group when, as far as that can be known from outside of the workers, and what was
//! sent to the groups meanwhile.
//!
//! A packet to a group is queued some time after it was asked for, and before everybody next rests.
//! Who is a member all that time gets it, who is none in all that time does not, and nobody gets it twice.

use server_core::{GroupId, SessionId};
use std::collections::{HashMap, HashSet};

/// So few that they meet.
const GROUPS: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Out,
    In,
    /// Another thread has asked for something that its worker may have done by now.
    Unsure,
}

/// One packet to a group.
#[derive(Debug)]
struct Cast {
    group: GroupId,
    except: Option<SessionId>,
    asked_at: u64,
    /// When all rested for the first time since.
    done_by: Option<u64>,
}

/// What is known. Its clock counts what happens.
#[derive(Debug, Default)]
pub struct GroupBook {
    pub max_per_session: usize,
    /// Joins that a callback was refused.
    pub refused: u64,
    clock: u64,
    turn_began: u64,
    casts: Vec<Cast>,
    /// How many of them are done.
    done: usize,
    connected_at: HashMap<SessionId, u64>,
    gone: HashSet<SessionId>,
    /// From when on what was so. `Out` before the first entry.
    lives: HashMap<(SessionId, GroupId), Vec<(u64, State)>>,
    /// Of whom other threads have asked something since all rested.
    asked_for: HashSet<(SessionId, GroupId)>,
}

/// How one session's packets compare with what they should be.
#[derive(Debug, Default)]
pub struct Verdict {
    pub offences: Vec<String>,
    /// Packets that it had to get.
    pub owed: u64,
    /// Packets that it must not get.
    pub denied: u64,
}

pub fn all() -> impl Iterator<Item = GroupId> {
    (0..GROUPS).map(|number| GroupId::new(1, number))
}

impl GroupBook {
    pub fn some(&self, rng: &mut fastrand::Rng) -> GroupId {
        GroupId::new(1, rng.u32(..GROUPS))
    }

    /// A packet to a group is asked for. Returns its number.
    pub fn ask(&mut self, group: GroupId, except: Option<SessionId>) -> u64 {
        let asked_at = self.tick();
        self.casts.push(Cast {
            group,
            except,
            asked_at,
            done_by: None,
        });
        self.casts.len() as u64 - 1
    }

    pub fn begin_turn(&mut self) {
        self.turn_began = self.tick();
    }

    pub fn connected(&mut self, id: SessionId) {
        let now = self.tick();
        self.connected_at.insert(id, now);
    }

    /// A callback has asked to join. Returns what is wrong with the answer.
    pub fn joined(&mut self, id: SessionId, group: GroupId, is_in: bool) -> Option<String> {
        self.refused += u64::from(!is_in);
        if self.gone.contains(&id) {
            return None; // Too late, and without consequence.
        }
        let states: Vec<State> = all().map(|group| self.state(id, group)).collect();
        let count = states.iter().filter(|state| **state == State::In).count();
        let is_sure = !states.contains(&State::Unsure)
            && all().all(|group| !self.asked_for.contains(&(id, group)));
        let before = self.state(id, group);
        let expected = before == State::In || count < self.max_per_session;
        if is_in {
            self.change(id, group, State::In);
        }
        (is_sure && is_in != expected)
            .then(|| format!("{id} in {count} groups, one more: {is_in}, and not {expected}"))
    }

    /// A callback has asked to leave. Returns what is wrong with the answer.
    pub fn left(&mut self, id: SessionId, group: GroupId, was_in: bool) -> Option<String> {
        if self.gone.contains(&id) {
            return None;
        }
        let before = self.state(id, group);
        let is_sure = before != State::Unsure && !self.asked_for.contains(&(id, group));
        self.change(id, group, State::Out);
        (is_sure && was_in != (before == State::In))
            .then(|| format!("{id} was {before:?} {group}, and left it: {was_in}"))
    }

    /// Another thread posts a join or a leave.
    pub fn asked_from_outside(&mut self, id: SessionId, group: GroupId, wanted_in: bool) {
        if self.gone.contains(&id) {
            return;
        }
        self.asked_for.insert((id, group));
        let changes_nothing = match wanted_in {
            true => State::In,
            false => State::Out,
        };
        if self.state(id, group) != changes_nothing {
            self.change(id, group, State::Unsure);
        }
    }

    /// A session has left, and says which groups it was in. Returns what is wrong with that.
    pub fn disconnected(&mut self, id: SessionId, said: &[GroupId]) -> Option<String> {
        let mut wrong = None;
        for group in all() {
            let state = self.state(id, group);
            let is_sure = state != State::Unsure && !self.asked_for.contains(&(id, group));
            if is_sure && said.contains(&group) != (state == State::In) {
                wrong = Some(format!("{id} left {state:?} {group}, and says {said:?}"));
            }
            // That it has to leave was decided at some time in this turn.
            let turn_began = self.turn_began;
            let at_start = self.state_at(id, group, turn_began);
            let life = self.lives.entry((id, group)).or_default();
            let behind = life.partition_point(|(since, _)| *since <= turn_began);
            for (_, state) in life[behind..]
                .iter_mut()
                .filter(|(_, state)| *state == State::In)
            {
                *state = State::Unsure;
            }
            if at_start == State::In {
                life.insert(behind, (turn_began, State::Unsure));
            }
            let now = self.tick();
            self.lives
                .entry((id, group))
                .or_default()
                .push((now, State::Out));
        }
        self.gone.insert(id);
        wrong
    }

    /// Everybody rests: all that was asked for is done. `is_in` tells what is so now. Returns what is
    /// wrong with that.
    pub fn rest(&mut self, is_in: impl Fn(SessionId, GroupId) -> bool) -> Vec<String> {
        let now = self.tick();
        for cast in &mut self.casts[self.done..] {
            cast.done_by = Some(now);
        }
        self.done = self.casts.len();
        self.asked_for.clear();
        let mut offences = Vec::new();
        for ((id, group), life) in &mut self.lives {
            let is_in = is_in(*id, *group);
            let state = life.last().map_or(State::Out, |(_, state)| *state);
            let truth = if is_in { State::In } else { State::Out };
            match state {
                State::Unsure => life.push((now, truth)),
                _ if state == truth => {}
                _ => offences.push(format!(
                    "{id} is {truth:?} {group}, and should be {state:?}"
                )),
            }
        }
        offences
    }

    /// How many are in a group, when all rest.
    pub fn members(&self, group: GroupId) -> usize {
        let lives = self.lives.iter().filter(|((_, of), _)| *of == group);
        let is_in = |life: &&Vec<(u64, State)>| life.last().is_some_and(|last| last.1 == State::In);
        lives.map(|(_, life)| life).filter(is_in).count()
    }

    /// What one session got, as numbers of packets, against what it should have got.
    pub fn judge(&self, id: SessionId, got: &[u64], has_to_arrive: bool) -> Verdict {
        let mut verdict = Verdict::default();
        let got: HashSet<u64> = got.iter().copied().collect();
        let connected_at = self.connected_at.get(&id).copied().unwrap_or(u64::MAX);
        for (number, cast) in self.casts.iter().enumerate() {
            let has_it = got.contains(&(number as u64));
            let is_excepted = cast.except == Some(id);
            let until = cast.done_by.unwrap_or(u64::MAX);
            let state = self.state_between(id, cast.group, cast.asked_at, until);
            if is_excepted || state == State::Out {
                verdict.denied += 1;
                if has_it {
                    let life = self.lives.get(&(id, cast.group));
                    let text =
                        format!("{id} got {number}, {cast:?}, which was not for it: {life:?}");
                    verdict.offences.push(text);
                }
            } else if state == State::In && has_to_arrive && connected_at < cast.asked_at {
                verdict.owed += 1;
                if !has_it {
                    let life = self.lives.get(&(id, cast.group));
                    let text = format!("{id} did not get {number}, {cast:?}: {life:?}");
                    verdict.offences.push(text);
                }
            }
        }
        verdict
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn change(&mut self, id: SessionId, group: GroupId, to: State) {
        let now = self.tick();
        // What another thread asked for may yet come, and turn it round.
        let to = match self.asked_for.contains(&(id, group)) {
            true => State::Unsure,
            false => to,
        };
        self.lives.entry((id, group)).or_default().push((now, to));
    }

    fn state(&self, id: SessionId, group: GroupId) -> State {
        self.state_at(id, group, u64::MAX)
    }

    fn state_at(&self, id: SessionId, group: GroupId, at: u64) -> State {
        self.state_between(id, group, at, at)
    }

    /// `Unsure` if it was not the same all the time.
    fn state_between(&self, id: SessionId, group: GroupId, from: u64, until: u64) -> State {
        let life = self.lives.get(&(id, group)).map_or(&[][..], Vec::as_slice);
        let behind = life.partition_point(|(since, _)| *since <= from);
        let first = behind.checked_sub(1).map_or(State::Out, |at| life[at].1);
        let mut later = life[behind..]
            .iter()
            .take_while(|(since, _)| *since <= until);
        match later.all(|(_, state)| *state == first) {
            true => first,
            false => State::Unsure,
        }
    }
}
