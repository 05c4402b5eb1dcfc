//! Estimates when each tick was due, from the arrivals of the ticks alone.

use super::estimator::TheilSenLine;
use std::collections::VecDeque;

/// The schedule `t0 + n * period` of a server, estimated from the first arrivals of its ticks.
///
/// One line for all ticks is the reference of each delay, and not the tick before. A server that falls behind
/// stays delayed in the figures for as long as that lasts (correction for coordinated omission).
///
/// A server that was stopped may skip ticks: the numbers still rise by one, and each later tick is whole
/// periods late. A tick that is n periods late (up to 25 % over) counts as n skipped ticks if the ticks behind
/// it are as late. Everything else is a delay: a lateness between two periods, a lateness that shrinks, and a
/// last tick with no tick behind it.
#[derive(Debug, Default)]
pub(super) struct ScheduleEstimator {
    /// First arrivals without a place: number, and seconds since the start of the run.
    waiting: VecDeque<(u64, f64)>,
    line: Option<TheilSenLine>,
    /// The tick of slot 0.
    origin: u64,
    /// Slots since `origin` that stayed empty.
    skipped: i128,
    /// Empty slots before a schedule that begins again.
    skipped_before: u64,
    /// The lateness of the latest ticks: how late the server is anyway.
    recent: [f64; RECENT],
    /// The newest tick, outliers excluded.
    latest: Option<(u64, f64)>,
}

/// One tick and its place in the schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Evaluated {
    /// The number of the tick.
    pub tick: u64,
    /// When the tick was due, in seconds since the start of the run; not after its arrival.
    pub due: f64,
    /// The period in seconds; 0 for an outlier, and without a schedule.
    pub period: f64,
    /// Slots right before its own that stayed empty.
    pub skipped: u64,
    /// The latest of them, due after the arrival of the tick before: each gives a synthetic delay sample. The
    /// delays of earlier ticks already include the others.
    pub synthetic: u64,
}

/// The place of the tick that waits first.
enum Place {
    /// In the schedule, behind this number of skipped slots.
    OnSchedule(u64),
    /// Not in the schedule: the number belongs to a much later time.
    Outlier,
    /// The schedule begins again, behind about this number of skipped slots.
    Restart(u64),
    /// The ticks behind it decide.
    Undecided,
}

/// Ticks that the first estimate needs. With fewer, delayed ticks look punctual.
const HOLD: usize = 20;
/// A line of this number of ticks is fitted to every 32nd tick, and no longer to each: a fit costs about as much as
/// 1,000 ticks, and a server may send 100,000 ticks a second.
const YOUNG: u64 = 256;
const FIT_EVERY: u64 = 32;
/// Bounds `waiting`: this number of ticks in one moment is evaluated without a schedule.
const MAX_HELD: usize = 1000;
/// Ticks behind a late tick that decide between skip and delay.
pub(super) const FOLLOWERS: usize = 12;
/// Ticks that show how late a server is anyway.
const RECENT: usize = 4;
/// How far a skip's lateness may be below whole periods, besides the error of the slope; in periods.
const BELOW: f64 = 0.02;
/// How far it may be above, and how far the lateness may shrink; in periods.
const ABOVE: f64 = 0.25;

impl ScheduleEstimator {
    /// Adds the first arrival of another tick, in the order of the numbers where that is possible. Returns the
    /// ticks that are decided by that.
    pub(super) fn push(&mut self, tick: u64, at: f64) -> Vec<Evaluated> {
        self.waiting.push_back((tick, at));
        self.evaluate(false)
    }

    /// Returns all ticks that are left: the undecided ones are delays.
    pub(super) fn flush(&mut self) -> Vec<Evaluated> {
        self.evaluate(true)
    }

    fn evaluate(&mut self, all: bool) -> Vec<Evaluated> {
        let mut evaluated = Vec::new();
        let is_forced = all || self.waiting.len() >= MAX_HELD;
        while self.line.is_some() || is_forced || self.waiting.len() >= HOLD {
            if self.line.is_none() {
                (self.skipped, self.recent) = (0, [0.0; RECENT]);
                if let Some((origin, line)) = self.guess() {
                    (self.origin, self.line) = (origin, Some(line));
                }
            }
            match self.place(all) {
                Place::OnSchedule(skipped) => evaluated.extend(self.accept(true, skipped)),
                Place::Outlier if self.line.is_some() || is_forced => {
                    evaluated.extend(self.accept(false, 0));
                }
                Place::Restart(skipped) => {
                    self.line = None;
                    self.skipped_before = skipped;
                }
                _ => break,
            }
        }
        evaluated
    }

    /// The period in seconds, as soon as two ticks show one.
    pub(super) fn period(&self) -> Option<f64> {
        let guess = || self.guess().map(|(_, line)| line.slope());
        self.line.as_ref().map(TheilSenLine::slope).or_else(guess)
    }

    /// A line through the waiting ticks. Its origin is the median of their numbers: with an outlier as the
    /// origin, all others would lose their last digits.
    fn guess(&self) -> Option<(u64, TheilSenLine)> {
        let mut ticks: Vec<u64> = self.waiting.iter().map(|(tick, _)| *tick).collect();
        ticks.sort_unstable();
        let origin = *ticks.get(ticks.len() / 2)?;
        let x = |tick: u64| (i128::from(tick) - i128::from(origin)) as f64;
        let points = self.waiting.iter().map(|&(tick, at)| (x(tick), at));
        let line = TheilSenLine::through(&points.collect::<Vec<_>>())?;
        Some((origin, line))
    }

    /// The place of the tick that waits first.
    fn place(&self, all: bool) -> Place {
        let Some(&(tick, at)) = self.waiting.front() else {
            return Place::Undecided;
        };
        let Some(line) = &self.line else {
            return Place::Outlier;
        };
        let (period, is_first) = (line.slope(), line.count() == 0);
        let late = self.waiting.iter().take(1 + FOLLOWERS);
        let late = late.map(|(tick, at)| at - line.at(self.slot(*tick)));
        let mut late: Vec<f64> = late.collect();
        let slack = period * BELOW + line.slope_error() * (late[0] / period).max(1.0);
        let is_early = |late: &f64| *late < -period / 2.0;
        let is_late = late[0] + slack.min(period * ABOVE) >= period;
        if !is_early(&late[0]) && (!is_late || is_first || !self.is_newest(tick)) {
            return Place::OnSchedule(0);
        }
        if !all && late.len() <= FOLLOWERS {
            return Place::Undecided;
        }
        if is_late {
            late.retain(|late| !is_early(late));
            return self.place_late(&late, period, slack, at);
        }
        let is_next = |(latest, _): (u64, f64)| latest.checked_add(1) == Some(tick);
        match late.len() == 1 || !late.iter().all(is_early) {
            true => Place::Outlier,
            // The server left numbers out, and no slot.
            false if !is_first && !self.latest.is_some_and(is_next) => Place::Restart(0),
            false => Place::OnSchedule(0),
        }
    }

    /// The place of a tick that is a period late or more. `late` has its lateness and those of its followers,
    /// and `slack` is how far the lateness of a skip may be below whole periods.
    fn place_late(&self, late: &[f64], period: f64, slack: f64, at: f64) -> Place {
        let least = |late: &[f64]| late.iter().copied().fold(f64::INFINITY, f64::min);
        // Delayed ticks that catch up are less late from tick to tick.
        let (first, second) = late.split_at(late.len().div_ceil(2));
        if second.is_empty() || least(first) - least(second) > period * ABOVE {
            return Place::OnSchedule(0);
        }
        // Against the schedule; or else, if the server was late before, against that.
        for late in [least(late), least(late) - least(&self.recent)] {
            let skipped = ((late + slack.min(period * ABOVE)) / period).floor();
            // A server cannot skip more slots than the time of the run has.
            let is_possible = skipped >= 1.0 && skipped * period <= at;
            if is_possible && slack > period * ABOVE {
                // After this long a stall, the error of the slope is too large to tell the slot.
                return Place::Restart(skipped as u64);
            }
            if is_possible && late - skipped * period <= period * ABOVE {
                return Place::OnSchedule(skipped as u64);
            }
        }
        Place::OnSchedule(0)
    }

    /// Moves the tick that waits first to its slot, or out of the schedule.
    fn accept(&mut self, has_slot: bool, skipped: u64) -> Option<Evaluated> {
        let (tick, at) = self.waiting.pop_front()?;
        let slot = self.slot(tick) + skipped as f64;
        let (is_newest, latest) = (self.is_newest(tick), self.latest);
        let mut evaluated = Evaluated {
            tick,
            due: at,
            period: 0.0,
            skipped: skipped + std::mem::take(&mut self.skipped_before),
            synthetic: 0,
        };
        if is_newest && (has_slot || self.line.is_none()) {
            self.latest = Some((tick, at));
        }
        if let Some(line) = self.line.as_mut().filter(|_| has_slot) {
            // A tick behind a newer one shows nothing about the schedule.
            if is_newest {
                line.add(slot, at);
                let is_young = line.count() < YOUNG && line.count() >= HOLD as u64;
                if is_young || line.count().is_multiple_of(FIT_EVERY) {
                    line.fit();
                }
                self.skipped = self.skipped.saturating_add(skipped.into());
                self.recent.rotate_left(1);
                self.recent[RECENT - 1] = at - line.at(slot);
            }
            (evaluated.due, evaluated.period) = (line.at(slot).min(at), line.slope());
            let since = latest.map_or(0.0, |(_, at)| evaluated.due - at);
            let slots = (since / evaluated.period).ceil() as u64;
            evaluated.synthetic = slots.saturating_sub(1).min(evaluated.skipped);
        }
        Some(evaluated)
    }

    fn is_newest(&self, tick: u64) -> bool {
        self.latest.is_none_or(|(latest, _)| latest < tick)
    }

    /// The slot of a tick. A server may send any number: the difference cannot overflow, and keeps its digits.
    fn slot(&self, tick: u64) -> f64 {
        (i128::from(tick) - i128::from(self.origin)).saturating_add(self.skipped) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// What was found in the ticks of a run.
    #[derive(Debug, Default)]
    struct Found {
        delays_ms: Vec<f64>,
        /// Of a session that received every tick.
        synthetic_ms: Vec<f64>,
        skipped: u64,
        outliers: u64,
        period_ms: f64,
    }

    impl Found {
        /// Of all delays, synthetic ones included.
        fn quantile(&self, part: f64) -> f64 {
            let mut all = [&self.delays_ms[..], &self.synthetic_ms].concat();
            all.sort_unstable_by(f64::total_cmp);
            all[((all.len() - 1) as f64 * part) as usize]
        }
    }

    fn evaluate(arrivals: impl IntoIterator<Item = (u64, f64)>) -> Found {
        let (mut estimator, mut found) = (ScheduleEstimator::default(), Found::default());
        let mut at = HashMap::new();
        let mut take = |evaluated: Evaluated, at: &HashMap<u64, f64>, has_schedule: bool| {
            let delay = at[&evaluated.tick] - evaluated.due;
            assert!(delay >= 0.0 && delay.is_finite(), "{evaluated:?}");
            assert!(evaluated.synthetic <= evaluated.skipped, "{evaluated:?}");
            assert!(evaluated.skipped < 1 << 40, "{evaluated:?}");
            found.delays_ms.push(delay * 1e3);
            let slots = 1..=evaluated.synthetic;
            let delays = slots.map(|slot| (delay + slot as f64 * evaluated.period) * 1e3);
            found.synthetic_ms.extend(delays);
            found.skipped += evaluated.skipped;
            found.outliers += u64::from(has_schedule && evaluated.period == 0.0);
        };
        for (tick, seconds) in arrivals {
            at.insert(tick, seconds);
            for evaluated in estimator.push(tick, seconds) {
                take(evaluated, &at, estimator.line.is_some());
            }
        }
        for evaluated in estimator.flush() {
            take(evaluated, &at, estimator.line.is_some());
        }
        found.period_ms = estimator.period().unwrap_or(0.0) * 1e3;
        assert_eq!(found.delays_ms.len(), at.len());
        found
    }

    /// The delays in milliseconds of a run in which no slot was skipped.
    fn delays_ms(arrivals: impl IntoIterator<Item = (u64, f64)>) -> Vec<f64> {
        let found = evaluate(arrivals);
        assert_eq!((found.skipped, found.outliers), (0, 0));
        found.delays_ms
    }

    /// Uniform jitter from 0 to `ms`, the same in each run.
    fn jitter(ms: f64) -> impl FnMut() -> f64 {
        let mut rng = fastrand::Rng::with_seed(7);
        move || rng.f64() * ms * 1e-3
    }

    #[test]
    fn punctual_server_has_no_delay_whatever_its_phase() {
        for phase in [0.0, 0.1, 123.456] {
            let delays = delays_ms((7..200).map(|n| (n, phase + n as f64 * 0.25)));
            assert!(delays.iter().all(|delay| delay.abs() < 1e-6), "{delays:?}");
        }
    }

    #[test]
    fn jitter_is_measured_from_the_most_punctual_tick() {
        let jitter = |n: u64| match n.is_multiple_of(10) {
            true => 0.0,
            false => (n % 7) as f64 * 1e-3,
        };
        let delays = delays_ms((1..=1000).map(|n| (n, n as f64 * 0.05 + jitter(n))));
        for (n, delay) in (1..).zip(delays).skip(50) {
            let expected = jitter(n) * 1e3;
            assert!(
                (delay - expected).abs() < 0.7,
                "tick {n}: {delay} {expected}"
            );
        }
    }

    /// A line through the first few ticks goes through delayed ones.
    #[test]
    fn first_ticks_have_their_jitter() {
        for (ticks, most_off) in [(8, 40.0), (20, 25.0), (48, 15.0), (240, 10.0)] {
            let mut jitter = jitter(120.0);
            let mut late: Vec<f64> = (0..ticks).map(|_| jitter()).collect();
            let found = evaluate((0..ticks).map(|n| (n, n as f64 * 0.25 + late[n as usize])));
            late.sort_unstable_by(f64::total_cmp);
            let (p50, expected) = (found.quantile(0.5), late[(ticks as usize - 1) / 2] * 1e3);
            assert!(
                (p50 - expected).abs() < most_off,
                "{ticks} ticks: {p50}, not {expected}"
            );
            assert_eq!(found.skipped, 0);
        }
    }

    #[test]
    fn burst_of_delayed_ticks_has_the_delay_of_each() {
        // Stopped for 1 s from tick 100 on; the ticks 101 to 104 arrive together.
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
    fn long_burst_of_delayed_ticks_is_not_skipped() {
        for first in [5, 101] {
            let late = |n: u64| match (first..first + 12).contains(&n) {
                true => (first + 12 - n) as f64 * 0.25,
                false => 0.0,
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
    fn ticks_that_catch_up_slowly_are_delayed_and_not_skipped() {
        for pace in [0.5, 0.8] {
            let at = |n: u64| match n {
                ..=100 => n as f64 * 0.25,
                _ => f64::max(n as f64 * 0.25, 28.0 + (n - 101) as f64 * 0.25 * pace),
            };
            let delays = delays_ms((1..=300).map(|n| (n, at(n))));
            assert!(
                (delays[100] - 2750.0).abs() < 5.0,
                "{pace}: {}",
                delays[100]
            );
            assert!(delays[250..].iter().all(|delay| *delay < 5.0), "{pace}");
        }
    }

    #[test]
    fn stopped_client_finds_the_first_ticks_in_one_moment() {
        let delays = delays_ms((1..=200).map(|n| (n, f64::max(n as f64 * 0.02, 0.4))));
        assert!((delays[0] - 380.0).abs() < 1.0, "{}", delays[0]);
        let late = delays[20..].iter().filter(|delay| **delay > 1.0).count();
        assert_eq!(late, 0, "{delays:?}");
    }

    #[test]
    fn ticks_in_one_moment_have_no_schedule() {
        for ticks in [1, 5, 100, 3000] {
            let found = evaluate((1..=ticks).map(|n| (n, 5.0)));
            assert!(found.delays_ms.iter().all(|delay| *delay == 0.0));
            assert_eq!(
                (found.skipped, found.outliers, found.period_ms),
                (0, 0, 0.0)
            );
        }
    }

    /// The server stops for 3 s. The next tick arrives 40 ms behind its slot, 11 slots later.
    #[test]
    fn stall_counts_skipped_slots_with_synthetic_delays_and_ends() {
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
            let found = evaluate(arrivals);
            let case = format!("{last} {jitter_ms} {total}: {found:?}");
            let near = jitter_ms * 1.3 + 2.0;
            assert_eq!(
                (found.skipped, found.synthetic_ms.len()),
                (11, 11),
                "{case}"
            );
            for (place, delay) in found.synthetic_ms.iter().enumerate() {
                let expected = 290.0 + place as f64 * 250.0;
                assert!((delay - expected).abs() < near, "{delay} {expected} {case}");
            }
            let others = found.delays_ms.iter().filter(|delay| **delay > near);
            assert!(others.count() <= 1, "{case}");
            assert!((found.period_ms - 250.0).abs() < 1.0, "{case}");
        }
    }

    /// A server is busy after a stall: its first ticks are between two slots. With few such ticks, the stall is
    /// synthetic delays. With more of them it is ambiguous, and is the delay of each of these ticks, until the
    /// ticks are on the slots again.
    #[test]
    fn skip_before_ticks_between_two_slots_is_found() {
        for (busy, is_ambiguous) in [(1, false), (5, false), (30, true)] {
            let late = |n: u64| {
                if (100..100 + busy).contains(&n) {
                    0.008
                } else {
                    0.0
                }
            };
            let slot = |n: u64| if n < 100 { n } else { n + 49 };
            let found = evaluate((0..400).map(|n| (n, slot(n) as f64 * 0.02 + late(n))));
            assert_eq!(found.skipped, 49, "{busy}");
            let synthetic = if is_ambiguous { 0 } else { 49 };
            assert_eq!(found.synthetic_ms.len(), synthetic, "{busy}");
            assert!(
                (found.quantile(1.0) - 988.0).abs() < 2.0,
                "{busy}: {found:?}"
            );
            assert!(found.delays_ms[170..].iter().all(|delay| *delay < 0.1));
        }
    }

    /// A last tick with no tick behind it is ambiguous: it may be skipped slots, or the first of a burst.
    #[test]
    fn stall_before_the_last_ticks_is_skipped_slots_or_one_delay() {
        for behind in 0..6 {
            let at = |n: u64| (if n <= 50 { n } else { n + 12 }) as f64 * 0.25;
            let found = evaluate((1..=51 + behind).map(|n| (n, at(n) + 0.0001)));
            let skipped = if behind == 0 { 0 } else { 12 };
            let counts = (found.skipped, found.synthetic_ms.len() as u64);
            assert_eq!(counts, (skipped, skipped), "{behind}");
            assert!((found.quantile(1.0) - 3000.0).abs() < 1.0);
        }
    }

    #[test]
    fn half_tick_rate_skips_each_second_slot() {
        for jitter_ms in [0.0, 2.0] {
            let mut jitter = jitter(jitter_ms);
            // 20 Hz, and 10 Hz from 4 s to 12 s.
            let at = |n: u64| 0.05 * if n <= 80 { n } else { 2 * n - 80 } as f64;
            let found = evaluate((1..=160).map(|n| (n, at(n) + jitter())));
            // The last tick, with no tick behind it, is a delay.
            assert_eq!((found.skipped, found.synthetic_ms.len()), (79, 79));
            let near = 1.0 + jitter_ms;
            assert!((found.quantile(0.9) - 50.0).abs() < near, "{found:?}");
            assert!(found.quantile(0.3) < near, "{found:?}");
            assert!((found.period_ms - 50.0).abs() < 0.5, "{found:?}");
        }
    }

    /// From 4 s on, each tick is late by this part of a period.
    #[test]
    fn lasting_delay_is_measured_for_as_long_as_it_lasts() {
        for part in [0.3, 0.6, 0.9, 1.3, 2.5] {
            for jitter_ms in [0.0, 1.0, 2.0] {
                let mut jitter = jitter(jitter_ms);
                let late = |n: u64| if n < 80 { 0.0 } else { part * 0.05 };
                let arrivals = (0..240).map(|n| (n, n as f64 * 0.05 + late(n) + jitter()));
                let found = evaluate(arrivals);
                let case = format!("{part} with {jitter_ms}: {found:?}");
                assert_eq!(found.skipped, 0, "{case}");
                let p50 = found.quantile(0.5);
                assert!((p50 - part * 50.0).abs() < 2.0 + jitter_ms, "{p50}, {case}");
                assert!(found.quantile(0.25) < 2.0 + jitter_ms, "{case}");
                let least = found.delays_ms[80..].iter().copied().reduce(f64::min);
                assert!(least.unwrap() > part * 50.0 - 3.0, "{case}");
            }
        }
    }

    #[test]
    fn stall_of_a_delayed_server_is_skipped_slots() {
        let late = |n: u64| if n < 80 { 0.0 } else { 0.02 };
        let slot = |n: u64| if n < 160 { n } else { n + 20 };
        let found = evaluate((0..240).map(|n| (n, slot(n) as f64 * 0.05 + late(n))));
        assert_eq!(
            (found.skipped, found.synthetic_ms.len()),
            (20, 20),
            "{found:?}"
        );
        assert!((found.delays_ms[239] - 20.0).abs() < 1.0, "{found:?}");
    }

    /// From 5 s on, each tick takes 30 % longer than a period, and slots that have passed are skipped.
    #[test]
    fn overloaded_server_skips_and_does_not_fall_behind_for_ever() {
        let mut next = 0.0f64;
        let arrivals = (0..400).map(|n| {
            next = match n {
                0..100 => n as f64 * 0.05,
                _ => f64::max(next + 0.065, (next / 0.05 + 0.99).floor() * 0.05),
            };
            (n, next)
        });
        let found = evaluate(arrivals);
        assert!((60..=100).contains(&found.skipped), "{}", found.skipped);
        assert!(found.quantile(1.0) < 500.0, "{found:?}");
        assert!(found.quantile(0.5) > 20.0, "{found:?}");
    }

    #[test]
    fn period_is_found_though_most_steps_are_shorter() {
        // Two of three ticks arrive 24 ms sooner after the one before, and each third 37 ms later.
        let late = |n: u64| (n * 37 % 61) as f64 * 1e-3;
        for ticks in [20, 21, 50, 200] {
            let found = evaluate((1..=ticks).map(|n| (n, n as f64 * 0.1 + late(n))));
            assert!((found.period_ms - 100.0).abs() < 3.0, "{found:?}");
            assert!((found.quantile(0.5) - 30.0).abs() < 12.0, "{found:?}");
            assert_eq!(found.skipped, 0, "{found:?}");
        }
    }

    /// The stall is longer than the line of the ticks before it can tell to the period.
    #[test]
    fn schedule_restarts_after_a_very_long_stall() {
        let mut jitter = jitter(1.0);
        let at = |n: u64| n as f64 * 0.001 + if n < 100 { 0.0 } else { 60.0004 };
        let found = evaluate((0..5000).map(|n| (n, at(n) + jitter())));
        assert!(found.skipped.abs_diff(60_000) < 3000, "{}", found.skipped);
        let late = found.delays_ms[200..].iter().filter(|delay| **delay > 3.0);
        assert_eq!(late.count(), 0);
    }

    #[test]
    fn numbers_left_out_are_no_delay() {
        // From tick 100 on, the numbers are higher; no slot stays empty.
        for jump in [7, 1_000_000, u64::MAX - 300] {
            let number = |n: u64| if n < 100 { n } else { n + jump };
            let found = evaluate((1..=300).map(|n| (number(n), n as f64 * 0.05)));
            assert_eq!((found.skipped, found.outliers), (0, 0), "{jump}");
            assert!(found.quantile(1.0) < 1.0, "{jump}: {found:?}");
        }
    }

    #[test]
    fn outlier_changes_no_other_tick() {
        for (before, outlier) in [(5, 7000), (5, u64::MAX), (150, 7000), (150, u64::MAX)] {
            let arrivals = (1..=300).flat_map(|n| {
                let at = n as f64 * 0.05;
                let outlier = (n == before).then_some((outlier, at));
                outlier.into_iter().chain([(n, at)])
            });
            let found = evaluate(arrivals);
            assert_eq!(
                (found.skipped, found.outliers),
                (0, 1),
                "{before} {outlier}"
            );
            assert!(found.quantile(1.0) < 1.0, "{before} {outlier}: {found:?}");
        }
    }

    #[test]
    fn highest_numbers_are_told_apart() {
        let found = evaluate((0..300).map(|n| (u64::MAX - 299 + n, n as f64 * 0.05)));
        assert!(found.quantile(1.0) < 1.0, "{found:?}");
        assert!((found.period_ms - 50.0).abs() < 0.1, "{found:?}");
    }

    #[test]
    fn any_numbers_at_any_time_are_evaluated() {
        let ends = [(7, 1.75), (u64::MAX - 1, 30.0), (u64::MAX, 35.0)];
        evaluate((1..=6).map(|n| (n, n as f64 * 0.25)).chain(ends));
        assert_eq!(evaluate([(u64::MAX, 1.0)]).delays_ms, [0.0]);
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
            evaluate(ticks);
        }
    }
}
