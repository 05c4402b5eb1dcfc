//! When each tick was due, and which ticks were skipped, told from the ticks themselves.

use super::line::{Line, lags, median, quantile};
use std::collections::VecDeque;

/// The schedule `t0 + n * period` of a server that nobody tells us, found from the moments at
/// which its ticks arrived.
///
/// Each tick is measured against one line for all of them, and not against the one before it, so a
/// server that is late is late in the figures for as long as it lasts (this is what corrects for
/// coordinated omission).
///
/// A server that was stopped may skip ticks: its numbers still rise by one, but it has left slots
/// of its schedule empty, and all that comes later is whole periods late. That is told from ticks
/// that are merely late by the ticks behind it and by the lateness itself: only one of a whole
/// number of periods, or little more, is a skip, and what it is more stays lateness. So does
/// everything else. Slots that were skipped are handed out with the tick that came next, to be
/// counted and charged.
#[derive(Debug, Default)]
pub struct Phase {
    /// Arrivals that have no place in the schedule yet, oldest first.
    waiting: VecDeque<Arrival>,
    /// Arrivals that have one, and are due to be judged.
    placed: Vec<Placed>,
    judged: Vec<Judged>,
    /// Once enough ticks have come to tell it.
    line: Option<Line>,
    /// The tick in slot 0.
    origin: u64,
    /// Slots since then that no tick came for.
    skipped: i128,
    /// Slots before the tick that waits first, found empty when the line had to begin anew.
    owed: f64,
    /// The latest tick that has a place, or was judged without one.
    latest: Option<Arrival>,
    /// The latest of those, oldest first.
    recent: VecDeque<Arrival>,
    /// How late the latest ones were.
    lateness: VecDeque<f64>,
}

/// The first arrival of one tick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// The tick's number.
    pub tick: u64,
    /// Seconds since some beginning.
    pub at: f64,
}

/// One tick, judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The tick's number.
    pub tick: u64,
    /// When it was due, in seconds since the same beginning.
    pub due: f64,
    /// The period at that time; 0 if it is not known.
    pub period: f64,
    /// Slots right before its own that the server left empty.
    pub skipped: u64,
    /// How many of them were due when the tick before had come: who got both has waited for them.
    pub charged: u64,
    /// The others, which had been due before and were not known to be empty.
    pub missed: Vec<Missed>,
    /// Its number has no place in the schedule: it came long before its time.
    pub is_stray: bool,
}

/// Slots that were found to be empty when more ticks had come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Missed {
    /// When they were due.
    pub due: f64,
    /// How many about then.
    pub slots: u64,
    /// The first tick that came after that.
    pub until_tick: u64,
}

#[derive(Debug)]
struct Placed {
    arrival: Arrival,
    /// `None` if it has none.
    slot: Option<f64>,
    is_stray: bool,
    skipped: f64,
    latest_at: Option<f64>,
}

/// What is known of the tick that waits first.
enum Place {
    /// Right behind the slots that were skipped.
    After(f64),
    /// Nowhere.
    Stray,
    /// So many slots were skipped that the line cannot tell where it is.
    Anew(f64),
    /// The ticks behind it have to tell.
    NotYet,
}

/// How far a lateness may be below a whole number of periods and still be one.
struct Slack {
    below: f64,
    /// The line is not known well enough to tell.
    is_unsure: bool,
}

/// Ticks that come before the first is judged. A line through fewer runs through late ones, and
/// finds them punctual.
const HOLD: usize = 20;
/// A server whose ticks all come at once is judged without a schedule after so many.
const MAX_HELD: usize = 1000;
/// Ticks that must stand behind a late one before it is taken for one after a skip: so many that
/// they take this many seconds, within these. A server that has just come back may be busy.
const FOLLOWED_SECS: f64 = 0.25;
const FOLLOWERS: (usize, usize) = (4, 16);
/// The lateness of so many ticks tells how late a server is anyway.
const LEVEL: usize = 4;
/// Empty slots in a row that are told apart; more are put together.
const MAX_SLOTS: u64 = 1000;
/// Arrivals that slots which were found empty only later can have waited for.
const MAX_RECENT: usize = 64;
/// No server ticks faster; ticks this close came in one burst.
const MIN_PERIOD: f64 = 250e-6;
/// How far a lateness may be below a whole number of periods besides the jitter, in periods.
const SLACK: f64 = 0.02;
/// How far it may be above, and by how many periods a place may be uncertain.
const MAX_SLACK: f64 = 0.25;

impl Phase {
    /// Takes the first arrival of another tick, in the order of their numbers if that is possible.
    pub fn push(&mut self, arrival: Arrival) {
        self.waiting.push_back(arrival);
    }

    /// Judges the ticks that can be judged by now, all of them by the line through all of them;
    /// `all`: those, too, that had better wait for the ticks behind them.
    pub fn judge(&mut self, all: bool) -> impl Iterator<Item = Judged> + '_ {
        while !self.waiting.is_empty() {
            if self.line.is_none() && !self.begin(all) {
                break;
            }
            match self.place(all) {
                Place::NotYet => break,
                Place::Stray => self.accept(None, 0.0, true),
                Place::After(skipped) => self.accept(self.front_slot(skipped), skipped, false),
                Place::Anew(skipped) => {
                    self.judge_placed();
                    self.line = None;
                    self.owed = skipped;
                }
            }
        }
        self.judge_placed();
        self.judged.drain(..)
    }

    /// The period, once two ticks have told it.
    pub fn period(&self) -> Option<f64> {
        match &self.line {
            Some(line) => Some(line.slope()),
            None => starting_period(&self.waiting),
        }
    }

    /// Begins the line, if enough is known. Returns whether there is one, and something to place.
    fn begin(&mut self, all: bool) -> bool {
        let is_forced = all || self.waiting.len() >= MAX_HELD;
        if self.waiting.len() < HOLD && !is_forced {
            return false;
        }
        let Some(period) = starting_period(&self.waiting) else {
            if is_forced {
                // One tick, or all at once: there is nothing that they could be late against.
                while !self.waiting.is_empty() {
                    self.accept(None, 0.0, false);
                }
            }
            return false;
        };
        self.lateness.clear();
        self.skipped = 0;
        // First the one to count from: a number that does not belong there would cost all others
        // their last digits.
        self.origin = self.waiting.front().map_or(0, |arrival| arrival.tick);
        self.origin = self
            .most_punctual(period)
            .map_or(self.origin, |(tick, _)| tick);
        let base = self.most_punctual(period).map_or(0.0, |(_, base)| base);
        let steps = steps(&self.waiting).map(|step| (step - period).abs());
        self.line = Some(Line::new(period, base, steps));
        true
    }

    /// The tick that is least late among those that wait, and the line's base to go with it. One
    /// that is alone with that is a stray.
    fn most_punctual(&self, period: f64) -> Option<(u64, f64)> {
        let base = |arrival: &Arrival| arrival.at - period * self.slot(arrival.tick);
        let mut bases: Vec<(u64, f64)> = (self.waiting.iter())
            .map(|arrival| (arrival.tick, base(arrival)))
            .collect();
        bases.sort_unstable_by(|a, b| a.1.total_cmp(&b.1));
        let mut pairs = bases.windows(2);
        let supported = pairs.find(|pair| pair[1].1 - pair[0].1 <= period / 2.0);
        supported.map(|pair| pair[0]).or(bases.first().copied())
    }

    /// Finds the place of the tick that waits first.
    fn place(&self, all: bool) -> Place {
        let (Some(line), Some(&front)) = (&self.line, self.waiting.front()) else {
            return Place::NotYet;
        };
        let period = line.slope();
        let late = |arrival: Arrival| arrival.at - line.at(self.slot(arrival.tick));
        let needed = (FOLLOWED_SECS / period).ceil() as usize;
        let needed = needed.clamp(FOLLOWERS.0, FOLLOWERS.1);
        let behind = self.waiting.iter().skip(1).take(needed).copied();
        let is_complete = all || behind.len() == needed;
        let is_newer = (self.latest).is_none_or(|latest| latest.tick < front.tick);
        // Early by this much is none of the schedule.
        let is_early = |late: f64| late < -period / 2.0;
        let first = late(front);
        if is_early(first) {
            return match is_complete {
                true => self.place_early(line, front, behind.map(late).all(is_early)),
                false => Place::NotYet,
            };
        }
        let slack = Slack::of(line, first);
        if first + slack.below < period || line.count() == 0 || !is_newer {
            return Place::After(0.0);
        }
        if !is_complete {
            return Place::NotYet;
        }
        let behind = behind.filter(|arrival| arrival.tick > front.tick);
        let behind: Vec<f64> = behind.map(late).filter(|late| !is_early(*late)).collect();
        self.place_late(front, first, &behind, period, &slack)
    }

    /// The place of a tick that came long before its time. `all_are_early`: so did those behind it.
    fn place_early(&self, line: &Line, front: Arrival, all_are_early: bool) -> Place {
        let is_next = |latest: Arrival| latest.tick.checked_add(1) == Some(front.tick);
        match self.latest {
            _ if self.waiting.len() == 1 || !all_are_early => Place::Stray,
            // Numbers were left out. The first tick of a line cannot be told from that.
            Some(latest) if !is_next(latest) && line.count() > 0 => Place::Anew(0.0),
            _ => Place::After(0.0),
        }
    }

    /// The place of a tick that is late by a period and more, as those `behind` it are late.
    fn place_late(
        &self,
        front: Arrival,
        first: f64,
        behind: &[f64],
        period: f64,
        slack: &Slack,
    ) -> Place {
        let level = self.lateness.iter().copied().reduce(f64::min);
        let level = level.unwrap_or(0.0).max(0.0);
        // Against the schedule; or, if it was late before, against that. The last tick of all has
        // nothing behind it: there is only how late those before it were.
        let against = [if behind.is_empty() { level } else { 0.0 }, level];
        for level in against {
            let slots = |late: &f64| ((late - level + slack.below) / period).floor();
            let off = |late: &f64| late - level - slots(late) * period;
            let skipped = behind.iter().map(slots).fold(slots(&first), f64::min);
            // Owed ticks that come in one burst, or faster than they should, are each late by less.
            let is_paced = behind.is_sorted_by(|a, b| slots(a) <= slots(b));
            let lower = |place: usize| behind[place - 1].min(behind[place]);
            let falls = match behind.len() {
                0..4 => 0.0,
                count => lower((count - 1) / 2) - lower(count - 1),
            };
            // No server can have skipped more than there was time for.
            let is_possible = skipped >= 1.0 && skipped * period <= front.at;
            if !is_possible || !is_paced || falls > period * MAX_SLACK {
                continue;
            }
            if slack.is_unsure {
                return Place::Anew(skipped);
            }
            let nearest = behind.iter().map(off).fold(off(&first), f64::min);
            if nearest <= period * MAX_SLACK || behind.is_empty() {
                return Place::After(skipped);
            }
        }
        Place::After(0.0)
    }

    /// The first one that waits goes to its slot.
    fn accept(&mut self, slot: Option<f64>, skipped: f64, is_stray: bool) {
        let Some(arrival) = self.waiting.pop_front() else {
            return;
        };
        let is_newer = (self.latest).is_none_or(|latest| latest.tick < arrival.tick);
        // A number from before tells when that was due, and nothing about the schedule.
        if let (Some(line), Some(slot), true) = (&mut self.line, slot, is_newer) {
            self.skipped = self.skipped.saturating_add(skipped as i128);
            line.add(slot, arrival.at);
            if self.lateness.len() == LEVEL {
                self.lateness.pop_front();
            }
            self.lateness.push_back(arrival.at - line.at(slot));
        }
        let latest_at = self.latest.map(|latest| latest.at);
        let placed = Placed {
            arrival,
            slot,
            is_stray,
            skipped: skipped + std::mem::take(&mut self.owed),
            latest_at,
        };
        self.placed.push(placed);
        if !is_stray && is_newer {
            self.latest = Some(arrival);
        }
        if self.line.is_none() {
            self.judge_placed();
        }
    }

    /// Judges what has a place by the line through all that have one.
    fn judge_placed(&mut self) {
        if let Some(line) = &mut self.line {
            line.fit();
        }
        for placed in self.placed.drain(..) {
            let Placed {
                arrival,
                slot,
                is_stray,
                skipped,
                latest_at,
            } = placed;
            let Arrival { tick, at } = arrival;
            let period = self.line.as_ref().map_or(0.0, Line::slope);
            let due = match (&self.line, slot) {
                (Some(line), Some(slot)) => line.at(slot).min(at),
                _ => at,
            };
            let since = latest_at.map_or(0.0, |latest_at| (due - latest_at).max(0.0));
            let charged = match period > 0.0 {
                true => ((since / period).ceil() - 1.0).clamp(0.0, skipped),
                false => 0.0,
            };
            let (skipped, charged) = (skipped as u64, charged as u64);
            let missed = strided(charged + 1, skipped).filter_map(|(place, slots)| {
                let due = due - period * place as f64;
                let next = self.recent.iter().find(|arrival| due < arrival.at)?;
                Some(Missed {
                    due,
                    slots,
                    until_tick: next.tick,
                })
            });
            self.judged.push(Judged {
                tick,
                due,
                period,
                skipped,
                charged,
                missed: missed.collect(),
                is_stray,
            });
            if slot.is_some() {
                if self.recent.len() == MAX_RECENT {
                    self.recent.pop_front();
                }
                self.recent.push_back(arrival);
            }
        }
    }

    /// Where the first one that waits belongs if so many slots before it were skipped.
    fn front_slot(&self, skipped: f64) -> Option<f64> {
        Some(self.slot(self.waiting.front()?.tick) + skipped)
    }

    /// The place of a tick in the schedule. A server may send any number, so the difference is
    /// taken where it cannot overflow, and before it could lose its last digits.
    fn slot(&self, tick: u64) -> f64 {
        (i128::from(tick) - i128::from(self.origin)).saturating_add(self.skipped) as f64
    }
}

impl Slack {
    /// The longer a stall, the less is known of where the line is behind it.
    fn of(line: &Line, late: f64) -> Self {
        let period = line.slope();
        let span = (line.count() as f64).max(HOLD as f64);
        let slots = (late / period + 0.5).floor().max(1.0);
        let below = period * SLACK + line.jitter() * slots / span;
        Self {
            below: below.min(period * MAX_SLACK),
            is_unsure: below > period * MAX_SLACK,
        }
    }
}

/// Places from one to another with how many each stands for: no more than a thousand of them, and
/// none left out.
pub fn strided(first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> {
    let stride = (last + 1).saturating_sub(first).div_ceil(MAX_SLOTS).max(1);
    let places = (first..=last).step_by(usize::try_from(stride).unwrap_or(usize::MAX));
    places.map(move |place| (place, stride.min(last - place + 1)))
}

/// The time from tick to tick, where the numbers rise.
fn steps(arrivals: &VecDeque<Arrival>) -> impl Iterator<Item = f64> + '_ {
    steps_over(arrivals, 1)
}

/// The same, from each arrival to the one so many behind it.
fn steps_over(arrivals: &VecDeque<Arrival>, lag: usize) -> impl Iterator<Item = f64> + '_ {
    let pairs = arrivals.iter().zip(arrivals.iter().skip(lag));
    pairs.filter_map(|(a, b)| {
        let ticks = b.tick.checked_sub(a.tick).filter(|ticks| *ticks > 0)?;
        Some((b.at - a.at) / ticks as f64)
    })
}

/// The usual time from tick to tick: robust against a stall among them, against ticks that came in
/// bursts, and against numbers that do not belong there.
fn starting_period(arrivals: &VecDeque<Arrival>) -> Option<f64> {
    let usual = quantile(steps(arrivals), 4)?;
    let paced = steps(arrivals).filter(|step| *step > usual * 0.3);
    let rough = median(paced).filter(|period| *period > MIN_PERIOD)?;
    // One whose next one came right behind it was owed: it tells nothing.
    let next_at = arrivals.iter().skip(1).map(|next| next.at);
    let pairs = arrivals.iter().zip(next_at.chain([f64::INFINITY]));
    let paced = pairs.filter(|(arrival, next_at)| next_at - arrival.at > rough * 0.3);
    let paced: VecDeque<Arrival> = paced.map(|(arrival, _)| *arrival).collect();
    let slopes = lags(paced.len()).flat_map(|lag| steps_over(&paced, lag));
    median(slopes).filter(|period| *period > MIN_PERIOD)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a run came to.
    #[derive(Debug, Default)]
    struct Found {
        delays_ms: Vec<f64>,
        /// Of the slots that a session that got every tick is charged for.
        charged_ms: Vec<f64>,
        skipped: u64,
        strays: u64,
        period_ms: f64,
    }

    impl Found {
        /// Of everything that a session waited for.
        fn quantile(&self, quantile: f64) -> f64 {
            let mut all = [&self.delays_ms[..], &self.charged_ms].concat();
            all.sort_unstable_by(f64::total_cmp);
            all[((all.len() - 1) as f64 * quantile) as usize]
        }
    }

    /// Feeds arrivals and judges whenever this much time has passed.
    fn judge(arrivals: impl IntoIterator<Item = (u64, f64)>, every: f64) -> Found {
        let (mut phase, mut found, mut next) = (Phase::default(), Found::default(), 0.0);
        let mut at = std::collections::HashMap::new();
        let mut take = |phase: &mut Phase, at: &std::collections::HashMap<u64, f64>, all| {
            for judged in phase.judge(all) {
                let delay = at[&judged.tick] - judged.due;
                assert!(delay >= 0.0 && delay.is_finite(), "{judged:?}");
                assert!(judged.charged <= judged.skipped, "{judged:?}");
                assert!(judged.skipped < 1 << 40, "{judged:?}");
                found.delays_ms.push(delay * 1e3);
                let slots = 1..=judged.charged;
                let charged = slots.map(|slot| (delay + slot as f64 * judged.period) * 1e3);
                found.charged_ms.extend(charged);
                for missed in &judged.missed {
                    let charged = (at[&missed.until_tick] - missed.due) * 1e3;
                    assert!(charged > 0.0, "{judged:?}");
                    let slots = missed.slots as usize;
                    found.charged_ms.extend(std::iter::repeat_n(charged, slots));
                }
                found.skipped += judged.skipped;
                found.strays += u64::from(judged.is_stray);
            }
        };
        for (tick, seconds) in arrivals {
            at.insert(tick, seconds);
            phase.push(Arrival { tick, at: seconds });
            if seconds >= next {
                next = seconds + every;
                take(&mut phase, &at, false);
            }
        }
        take(&mut phase, &at, true);
        found.period_ms = phase.period().unwrap_or(0.0) * 1e3;
        assert_eq!(found.delays_ms.len(), at.len());
        found
    }

    /// How late each was found to be, in milliseconds.
    fn delays_ms(arrivals: impl IntoIterator<Item = (u64, f64)>) -> Vec<f64> {
        let arrivals: Vec<_> = arrivals.into_iter().collect();
        let found = judge(arrivals.clone(), 1.0);
        assert_eq!((found.skipped, found.strays), (0, 0));
        // How often it is looked at makes no great difference.
        let at_once = judge(arrivals, 0.0).delays_ms;
        assert_eq!(at_once.len(), found.delays_ms.len());
        found.delays_ms
    }

    /// Uniform jitter from 0 to `ms`, the same every time.
    fn jitter(ms: f64) -> impl FnMut() -> f64 {
        let mut rng = fastrand::Rng::with_seed(7);
        move || rng.f64() * ms * 1e-3
    }

    #[test]
    fn a_punctual_server_is_punctual_whatever_its_phase() {
        for phase in [0.0, 0.1, 123.456] {
            let delays = delays_ms((7..200).map(|n| (n, phase + n as f64 * 0.25)));
            assert!(delays.iter().all(|delay| delay.abs() < 1e-6), "{delays:?}");
        }
    }

    #[test]
    fn jitter_is_measured_from_the_most_punctual() {
        let jitter = |n: u64| {
            if n.is_multiple_of(10) {
                0.0
            } else {
                (n % 7) as f64 * 1e-3
            }
        };
        let delays = delays_ms((1..=1000).map(|n| (n, n as f64 * 0.05 + jitter(n))));
        for (index, delay) in delays.iter().enumerate().skip(50) {
            let expected = jitter(index as u64 + 1) * 1e3;
            assert!(
                (delay - expected).abs() < 0.7,
                "tick {}: {delay} {expected}",
                index + 1
            );
        }
    }

    /// A line through the first few runs through late ones.
    #[test]
    fn the_first_ticks_are_not_found_too_punctual() {
        for (ticks, most_off) in [(8, 40.0), (20, 25.0), (48, 15.0), (240, 10.0)] {
            let mut jitter = jitter(120.0);
            let late: Vec<f64> = (0..ticks).map(|_| jitter()).collect();
            let found = judge(
                (0..ticks).map(|n| (n, n as f64 * 0.25 + late[n as usize])),
                1.0,
            );
            let p50 = found.quantile(0.5);
            let expected = median(late.iter().copied()).unwrap() * 1e3;
            assert!(
                (p50 - expected).abs() < most_off,
                "{ticks} ticks: {p50} and not {expected}"
            );
            assert_eq!(found.skipped, 0);
        }
    }

    #[test]
    fn owed_ticks_that_come_in_a_burst_are_late_each_by_what_it_is() {
        // Stopped from tick 100 on for 1 s; the ticks 101 to 104 come together, then on schedule.
        let late = |n: u64| match n {
            101..=104 => (105 - n) as f64 * 0.25,
            _ => 0.0,
        };
        let delays = delays_ms((1..=200).map(|n| (n, n as f64 * 0.25 + late(n))));
        assert!((delays[100] - 1000.0).abs() < 1.0, "{}", delays[100]);
        assert!((delays[103] - 250.0).abs() < 1.0, "{}", delays[103]);
        assert!(delays[104..].iter().all(|delay| delay.abs() < 1.0));
    }

    #[test]
    fn a_long_burst_of_owed_ticks_is_not_taken_for_skipped_ones() {
        for first in [5, 101] {
            let late = |n: u64| {
                if (first..first + 12).contains(&n) {
                    (first + 12 - n) as f64 * 0.25
                } else {
                    0.0
                }
            };
            let delays = delays_ms((1..=200).map(|n| (n, n as f64 * 0.25 + late(n))));
            let stalled = first as usize - 1;
            assert!(
                (delays[stalled] - 3000.0).abs() < 1.0,
                "{}",
                delays[stalled]
            );
            assert!(delays[stalled + 12..].iter().all(|delay| delay.abs() < 1.0));
        }
    }

    #[test]
    fn owed_ticks_that_come_faster_than_they_should_are_late() {
        for pace in [0.5, 0.8] {
            let at = |n: u64| {
                f64::max(
                    n as f64 * 0.25,
                    28.0 + (n - 101.min(n)) as f64 * 0.25 * pace,
                )
            };
            let delays = delays_ms((1..=300).map(|n| {
                let at = if n <= 100 { n as f64 * 0.25 } else { at(n) };
                (n, at)
            }));
            assert!(
                (delays[100] - 2750.0).abs() < 5.0,
                "{pace}: {}",
                delays[100]
            );
            assert!(delays[250..].iter().all(|delay| *delay < 5.0), "{pace}");
        }
    }

    #[test]
    fn a_client_that_was_stopped_at_the_start_finds_many_ticks_in_one_moment() {
        let delays = delays_ms((1..=200).map(|n| (n, f64::max(n as f64 * 0.02, 0.4))));
        assert!((delays[0] - 380.0).abs() < 1.0, "{}", delays[0]);
        let late = delays[20..].iter().filter(|delay| **delay > 1.0).count();
        assert_eq!(late, 0, "{delays:?}");
    }

    #[test]
    fn ticks_that_all_came_in_one_moment_have_no_schedule() {
        for ticks in [1, 5, 100, 3000] {
            let found = judge((1..=ticks).map(|n| (n, 5.0)), 0.0);
            assert!(found.delays_ms.iter().all(|delay| *delay == 0.0));
            assert_eq!((found.skipped, found.strays, found.period_ms), (0, 0, 0.0));
        }
    }

    /// Stopped for 3 s: the next tick comes 40 ms behind its slot, 11 slots on.
    #[test]
    fn skipped_ticks_are_counted_and_charged_and_not_owed_for_ever() {
        for (last, jitter_ms, total) in [
            (100, 0.0, 200),
            (12, 1.0, 36),
            (12, 1.0, 200),
            (5, 1.0, 40),
            (3, 0.0, 40),
            (100, 5.0, 200),
            (100, 40.0, 400),
        ] {
            let mut jitter = jitter(jitter_ms);
            let arrivals = (1..=total).map(|n| {
                let slot = if n <= last { n } else { n + 11 };
                let late = if n == last + 1 { 0.04 } else { jitter() };
                (n, slot as f64 * 0.25 + late)
            });
            let found = judge(arrivals, 1.0);
            let case = format!("{last} {jitter_ms} {total}: {found:?}");
            let near = jitter_ms * 1.3 + 2.0;
            assert_eq!((found.skipped, found.charged_ms.len()), (11, 11), "{case}");
            for (place, charged) in found.charged_ms.iter().enumerate() {
                let expected = 290.0 + place as f64 * 250.0;
                assert!(
                    (charged - expected).abs() < near,
                    "{charged} {expected} {case}"
                );
            }
            let others = found.delays_ms.iter().filter(|delay| **delay > near);
            assert!(others.count() <= 1, "{case}");
            assert!((found.period_ms - 250.0).abs() < 1.0, "{case}");
        }
    }

    /// A server that has just come back is busy: it is late by no whole number of periods at first.
    #[test]
    fn a_skip_that_is_told_late_is_charged_all_the_same() {
        for busy in [1, 5, 30] {
            let late = |n: u64| match n {
                100.. if n < 100 + busy => 0.008,
                _ => 0.0,
            };
            let slot = |n: u64| if n < 100 { n } else { n + 49 };
            let at = |n: u64| slot(n) as f64 * 0.02 + late(n);
            let found = judge((0..400).map(|n| (n, at(n))), 1.0);
            assert_eq!((found.skipped, found.charged_ms.len()), (49, 49), "{busy}");
            // 49 slots from 20 ms to 980 ms, and what it was busy. Told after many ticks, it is more.
            let all = found.charged_ms.iter().chain(&found.delays_ms);
            let sum: f64 = all.sum::<f64>() / (49.0 * 508.0);
            let most = if busy < 30 { 1.02 } else { 1.4 };
            assert!((0.98..most).contains(&sum), "{busy}: {sum}");
            assert!(found.delays_ms[170..].iter().all(|delay| *delay < 0.1));
        }
    }

    #[test]
    fn a_tick_that_was_skipped_at_the_very_end_is_counted() {
        for behind in 0..6 {
            let at = |n: u64| (if n <= 50 { n } else { n + 12 }) as f64 * 0.25;
            let found = judge((1..=51 + behind).map(|n| (n, at(n) + 0.0001)), 1.0);
            assert_eq!(
                (found.skipped, found.charged_ms.len()),
                (12, 12),
                "{behind}"
            );
            assert!((found.quantile(1.0) - 3000.0).abs() < 1.0);
        }
    }

    #[test]
    fn a_server_at_half_rate_leaves_every_second_slot_empty() {
        for jitter_ms in [0.0, 2.0] {
            let mut jitter = jitter(jitter_ms);
            // 20 Hz, and 10 Hz from 4 s to 12 s.
            let at = |n: u64| 0.05 * if n <= 80 { n } else { 2 * n - 80 } as f64;
            let found = judge((1..=160).map(|n| (n, at(n) + jitter())), 1.0);
            assert_eq!((found.skipped, found.charged_ms.len()), (80, 80));
            let near = 1.0 + jitter_ms;
            assert!((found.quantile(0.9) - 50.0).abs() < near, "{found:?}");
            assert!(found.quantile(0.3) < near, "{found:?}");
            assert!((found.period_ms - 50.0).abs() < 0.5, "{found:?}");
        }
    }

    /// Late by a part of a period from 4 s on: never a skip, and never on time again.
    #[test]
    fn a_lateness_that_stays_is_late_for_as_long_as_it_lasts() {
        for part in [0.3, 0.6, 0.9, 1.3, 2.5] {
            for (jitter_ms, every) in [(0.0, 1.0), (1.0, 0.0), (2.0, 1.0)] {
                let mut jitter = jitter(jitter_ms);
                let late = |n: u64| if n < 80 { 0.0 } else { part * 0.05 };
                let arrivals = (0..240).map(|n| (n, n as f64 * 0.05 + late(n) + jitter()));
                let found = judge(arrivals, every);
                let case = format!("{part} with {jitter_ms}: {found:?}");
                assert_eq!(found.skipped, 0, "{case}");
                let p50 = found.quantile(0.5);
                assert!((p50 - part * 50.0).abs() < 2.0 + jitter_ms, "{p50}, {case}");
                assert!(found.quantile(0.25) < 2.0 + jitter_ms, "{case}");
                let least = found.delays_ms[80..]
                    .iter()
                    .copied()
                    .reduce(f64::min)
                    .unwrap();
                assert!(least > part * 50.0 - 3.0, "{least}, {case}");
            }
        }
    }

    #[test]
    fn a_stall_of_a_server_that_is_late_anyway_is_a_skip_all_the_same() {
        let late = |n: u64| if n < 80 { 0.0 } else { 0.02 };
        let slot = |n: u64| if n < 160 { n } else { n + 20 };
        let found = judge((0..240).map(|n| (n, slot(n) as f64 * 0.05 + late(n))), 1.0);
        assert_eq!(
            (found.skipped, found.charged_ms.len()),
            (20, 20),
            "{found:?}"
        );
        assert!((found.delays_ms[239] - 20.0).abs() < 1.0, "{found:?}");
    }

    /// Each tick takes a third more than there is time for.
    #[test]
    fn a_server_that_cannot_keep_up_does_not_fall_behind_for_ever() {
        let mut next = 0.0f64;
        let arrivals = (0..400).map(|n| {
            next = match n {
                0..100 => n as f64 * 0.05,
                // Due slots that have passed are skipped.
                _ => f64::max(next + 0.065, (next / 0.05 + 0.99).floor() * 0.05),
            };
            (n, next)
        });
        let found = judge(arrivals, 1.0);
        assert!((60..=100).contains(&found.skipped), "{}", found.skipped);
        assert!(found.quantile(1.0) < 500.0, "{found:?}");
        assert!(found.quantile(0.5) > 20.0, "{found:?}");
    }

    #[test]
    fn a_period_is_found_though_most_steps_are_shorter() {
        // Two of three ticks come 24 ms sooner after the one before, and each third 37 ms later.
        let late = |n: u64| (n * 37 % 61) as f64 * 1e-3;
        for ticks in [20, 21, 50, 200] {
            let found = judge((1..=ticks).map(|n| (n, n as f64 * 0.1 + late(n))), 1.0);
            assert!((found.period_ms - 100.0).abs() < 3.0, "{found:?}");
            assert!((found.quantile(0.5) - 30.0).abs() < 12.0, "{found:?}");
            assert_eq!(found.skipped, 0, "{found:?}");
        }
    }

    /// Longer than a line through so few points can tell to the period.
    #[test]
    fn after_a_very_long_stall_the_schedule_is_found_anew() {
        let mut jitter = jitter(1.0);
        let at = |n: u64| {
            if n < 100 {
                n as f64 * 0.001
            } else {
                60.0004 + n as f64 * 0.001
            }
        };
        let found = judge((0..5000).map(|n| (n, at(n) + jitter())), 0.1);
        assert!(found.skipped.abs_diff(60_000) < 3000, "{}", found.skipped);
        let late = found.delays_ms[200..].iter().filter(|delay| **delay > 3.0);
        assert_eq!(late.count(), 0);
    }

    #[test]
    fn numbers_that_jump_are_no_lateness() {
        // From tick 100 on, numbers go on a million higher; no slot is left empty.
        for jump in [7, 1_000_000, u64::MAX - 300] {
            let number = |n: u64| if n < 100 { n } else { n + jump };
            let found = judge((1..=300).map(|n| (number(n), n as f64 * 0.05)), 1.0);
            assert_eq!((found.skipped, found.strays), (0, 0), "{jump}");
            assert!(found.quantile(1.0) < 1.0, "{jump}: {found:?}");
        }
    }

    #[test]
    fn one_number_that_does_not_belong_there_spoils_no_other() {
        for (before, stray) in [(5, 7000), (5, u64::MAX), (150, 7000), (150, u64::MAX)] {
            let arrivals = (1..=300).flat_map(|n| {
                let at = n as f64 * 0.05;
                let stray = (n == before).then_some((stray, at));
                stray.into_iter().chain([(n, at)])
            });
            let found = judge(arrivals, 1.0);
            assert_eq!((found.skipped, found.strays), (0, 1), "{before} {stray}");
            assert!(found.quantile(1.0) < 1.0, "{before} {stray}: {found:?}");
        }
    }

    #[test]
    fn the_highest_numbers_are_told_apart() {
        let found = judge((0..300).map(|n| (u64::MAX - 299 + n, n as f64 * 0.05)), 1.0);
        assert!(found.quantile(1.0) < 1.0, "{found:?}");
        assert!((found.period_ms - 50.0).abs() < 0.1, "{found:?}");
    }

    #[test]
    fn any_numbers_at_any_time_are_survived() {
        let ends = [(7, 1.75), (u64::MAX - 1, 30.0), (u64::MAX, 35.0)];
        judge((1..=6).map(|n| (n, n as f64 * 0.25)).chain(ends), 1.0);
        assert_eq!(judge([(u64::MAX, 1.0)], 1.0).delays_ms, [0.0]);
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut at, mut tick, mut seen) = (0.0, 0u64, std::collections::HashSet::new());
            let ticks: Vec<_> = (0..rng.usize(1..400))
                .map(|_| {
                    at += match rng.u8(..8) {
                        0 => 0.0,
                        1 => rng.f64() * 1e4,
                        2 => rng.f64() * 1e-6,
                        _ => 0.05,
                    };
                    tick = match rng.u8(..8) {
                        0 => rng.u64(..),
                        1 => u64::MAX - u64::from(rng.u8(..)),
                        2 => tick.wrapping_sub(u64::from(rng.u8(..))),
                        _ => tick.wrapping_add(1),
                    };
                    (tick, at)
                })
                .filter(|(tick, _)| seen.insert(*tick))
                .collect();
            judge(ticks, rng.f64());
        }
    }
}
