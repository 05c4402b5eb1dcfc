//! The members of each group over time, as far as code outside of the workers can know them, and the
//! packets that were sent to the groups meanwhile.
//!
//! A worker queues a packet to a group at some time between the request for it and the next moment when
//! all rest. A session that is a member for all of that time gets the packet once. A session that is not
//! a member at any moment of that time does not get it. No session gets it twice.

use server_core::{GroupId, SessionId};
use std::collections::{HashMap, HashSet};

/// Few groups, so that sessions meet in them.
const GROUPS: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Out,
    In,
    /// Another thread has posted a change, and the worker may have made it by now.
    Unsure,
}

/// One packet to a group.
#[derive(Debug)]
struct Cast {
    group: GroupId,
    except: Option<SessionId>,
    asked_at: u64,
    /// When all rested for the first time since the request.
    done_by: Option<u64>,
}

/// The members that are known, and the packets. The clock of the book counts events.
#[derive(Debug, Default)]
pub struct GroupBook {
    pub max_per_session: usize,
    /// Joins of callbacks that were refused.
    pub refused: u64,
    clock: u64,
    turn_began: u64,
    casts: Vec<Cast>,
    /// The number of `casts` that are done: all have rested since.
    done: usize,
    connected_at: HashMap<SessionId, u64>,
    gone: HashSet<SessionId>,
    /// The states of each session in each group, with the time when each began. `Out` before the first entry.
    lives: HashMap<(SessionId, GroupId), Vec<(u64, State)>>,
    /// The sessions and groups for which another thread has posted a change since all rested.
    asked_for: HashSet<(SessionId, GroupId)>,
}

/// The comparison of one session's packets with the packets that it should have got.
#[derive(Debug, Default)]
pub struct Verdict {
    pub offences: Vec<String>,
    /// Packets that the session had to get.
    pub owed: u64,
    /// Packets that the session must not get.
    pub denied: u64,
}

pub fn all() -> impl Iterator<Item = GroupId> {
    (0..GROUPS).map(|number| GroupId::new(1, number))
}

impl GroupBook {
    pub fn some(&self, rng: &mut fastrand::Rng) -> GroupId {
        GroupId::new(1, rng.u32(..GROUPS))
    }

    /// Records a request for a packet to a group. Returns the number of the packet.
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

    /// Records a join by a callback. Returns what is wrong with the answer.
    pub fn joined(&mut self, id: SessionId, group: GroupId, is_in: bool) -> Option<String> {
        self.refused += u64::from(!is_in);
        if self.gone.contains(&id) {
            return None; // The session has left: its join has no effect.
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

    /// Records a leave by a callback. Returns what is wrong with the answer.
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

    /// Records a join or a leave that another thread posts.
    pub fn asked_from_outside(&mut self, id: SessionId, group: GroupId, wanted_in: bool) {
        if self.gone.contains(&id) {
            return;
        }
        self.asked_for.insert((id, group));
        let changes_nothing = if wanted_in { State::In } else { State::Out };
        if self.state(id, group) != changes_nothing {
            self.change(id, group, State::Unsure);
        }
    }

    /// Records that a session has left the server, and compares `said`, the groups that it was in. Returns
    /// what is wrong with `said`.
    pub fn disconnected(&mut self, id: SessionId, said: &[GroupId]) -> Option<String> {
        let mut wrong = None;
        for group in all() {
            let state = self.state(id, group);
            let is_sure = state != State::Unsure && !self.asked_for.contains(&(id, group));
            if is_sure && said.contains(&group) != (state == State::In) {
                wrong = Some(format!("{id} left {state:?} {group}, and says {said:?}"));
            }
            // The worker decided the end of the session at some time in this turn.
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

    /// All rest: every request is done. `is_in` tells which session is in which group now. Returns what is
    /// wrong with its answers.
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

    /// The number of members of a group, when all rest.
    pub fn members(&self, group: GroupId) -> usize {
        let lives = self.lives.iter().filter(|((_, of), _)| *of == group);
        let is_in = |life: &&Vec<(u64, State)>| life.last().is_some_and(|last| last.1 == State::In);
        lives.map(|(_, life)| life).filter(is_in).count()
    }

    /// Checks the numbers of the packets that one session got against the packets that it should have got.
    pub fn check(&self, id: SessionId, got: &[u64], has_to_arrive: bool) -> Verdict {
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
                    let text = format!(
                        "{id} got {number}, {cast:?}, which was not meant for it: {life:?}"
                    );
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
        // The change that another thread has posted may still come and undo this change.
        let to = if self.asked_for.contains(&(id, group)) {
            State::Unsure
        } else {
            to
        };
        self.lives.entry((id, group)).or_default().push((now, to));
    }

    fn state(&self, id: SessionId, group: GroupId) -> State {
        self.state_at(id, group, u64::MAX)
    }

    fn state_at(&self, id: SessionId, group: GroupId, at: u64) -> State {
        self.state_between(id, group, at, at)
    }

    /// The state in all of that time. `Unsure` if the state changed.
    fn state_between(&self, id: SessionId, group: GroupId, from: u64, until: u64) -> State {
        let life = self.lives.get(&(id, group)).map_or(&[][..], Vec::as_slice);
        let behind = life.partition_point(|(since, _)| *since <= from);
        let first = behind.checked_sub(1).map_or(State::Out, |at| life[at].1);
        let mut later = life[behind..]
            .iter()
            .take_while(|(since, _)| *since <= until);
        if later.all(|(_, state)| *state == first) {
            first
        } else {
            State::Unsure
        }
    }
}
