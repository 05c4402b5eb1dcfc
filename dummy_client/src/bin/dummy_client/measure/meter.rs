//! Puts together what the event loops have measured: how late, how even, how fast.

use super::recorder::{Batch, Recorder, Samples, record};
use super::schedule::{Book, FIRST_KNOWN, MAX_SPREAD, Schedule};
use super::timeline::Timeline;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub use super::recorder::quantile_ms;
pub use super::timeline::Second;

/// The measurements of a whole run.
///
/// Every tick that came is one delay, and every slot that was charged to a session is one more:
/// `tick_delays.len() == ticks received + delays_charged`, once the run has ended.
pub struct Meter {
    started_at: Instant,
    /// Of the whole run.
    pub run: Samples,
    /// Of what was due since [`begin_window`](Self::begin_window): a part of the run that is judged
    /// by itself.
    pub window: Samples,
    span: Span,
    /// What came since the last point of the timeline, besides ticks.
    second: Samples,
    /// One point a second, as far as they are complete: all of them when the run has ended.
    pub timeline: Vec<Second>,
    seconds: Timeline,
    /// Of each server there was: the last one is that which runs now.
    schedules: BTreeMap<u64, Schedule>,
    latest_at: Option<Instant>,
    /// The last period that was known.
    period: Option<Duration>,
    /// Until when everything was looked at.
    looked_at: Option<Instant>,
    has_ended: bool,
    spare: Batch,
}

/// From when until when something has to be due to be in the window.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: Instant,
    until: Option<Instant>,
}

/// A server that is gone is forgotten after this time; what comes later still counts.
const MAX_KEPT: Duration = MAX_SPREAD;

impl Meter {
    /// Nothing measured yet.
    pub fn new(started_at: Instant) -> Self {
        Self {
            started_at,
            run: Samples::default(),
            window: Samples::default(),
            span: Span {
                from: started_at,
                until: None,
            },
            second: Samples::default(),
            timeline: Vec::new(),
            seconds: Timeline::new(started_at),
            schedules: BTreeMap::new(),
            latest_at: None,
            period: None,
            looked_at: None,
            has_ended: false,
            spare: Batch::default(),
        }
    }

    /// Takes what an event loop has measured since the last time.
    pub fn collect(&mut self, recorder: &Recorder) {
        let mut batch = recorder.take(std::mem::take(&mut self.spare));
        let started_at = self.started_at;
        self.with_schedules(|schedules, meter| {
            for run in &batch.ticks {
                meter.latest_at = meter.latest_at.max(Some(run.at));
                let schedule = schedules.entry(run.epoch).or_default();
                schedule.take(*run, started_at, meter);
            }
            for leave in &batch.leaves {
                schedules
                    .entry(leave.epoch)
                    .or_default()
                    .leave(leave.sessions);
            }
        });
        for samples in [&mut self.run, &mut self.second] {
            samples.absorb(&batch.samples);
        }
        if self.span.until.is_none() {
            self.window.absorb(&batch.samples);
        }
        batch.clear();
        self.spare = batch;
    }

    /// Judges the ticks that can be judged by now; at the end of a run, all of them can, and a
    /// silence that lasts until then is charged.
    pub fn judge(&mut self, now: Instant, is_end: bool) {
        let ends = is_end && !std::mem::replace(&mut self.has_ended, true);
        self.judge_ticks(now, is_end);
        if ends {
            self.with_schedules(|schedules, meter| {
                for silence in schedules.values().filter_map(|one| one.silence(now)) {
                    meter.gap(silence.since, now);
                    for (due, slots) in silence.slots {
                        meter.skip(due, slots);
                        let delay = now.saturating_duration_since(due);
                        meter.charge(due, delay, silence.sessions.saturating_mul(slots));
                    }
                }
            });
        }
        self.close_seconds();
    }

    /// Judges all that has come, even what had better wait for more: it may be found punctual
    /// because too little is known of the schedule.
    pub fn judge_all(&mut self, now: Instant) {
        self.judge_ticks(now, true);
        self.close_seconds();
    }

    /// From now on, a part of the run that is judged by itself: what is due after the last call of
    /// [`judge`](Self::judge). What was due before is not in it, however late it comes.
    pub fn begin_window(&mut self) {
        self.window.clear();
        self.span = Span {
            from: self.looked_at.unwrap_or(self.started_at),
            until: None,
        };
    }

    /// The window ends: what is due from then on is not in it. What was due before still comes in:
    /// wait until that is [judged](Self::judged_up_to).
    pub fn end_window(&mut self, at: Instant) {
        self.span.until.get_or_insert(at);
    }

    /// What is still open when the window has ended is counted as far as it is known by now: slots
    /// that wait for a tick, and ticks that are still spreading. For the window alone, and once:
    /// the next thing that is done with it is to begin anew.
    pub fn settle_window(&mut self, now: Instant) {
        let span = self.span;
        let end = span.until.map_or(now, |until| until.min(now));
        for schedule in self.schedules.values() {
            for (_, spread) in schedule.unsettled().filter(|(due, _)| span.holds(*due)) {
                record(&mut self.window.tick_spreads, spread, 1);
            }
            let Some(silence) = schedule.silence(now) else {
                continue;
            };
            let gap = end.saturating_duration_since(silence.since.max(span.from));
            self.window.longest_tick_gap = self.window.longest_tick_gap.max(gap);
            for (due, slots) in silence.slots {
                if span.holds(due) {
                    let count = silence.sessions.saturating_mul(slots);
                    self.window.ticks_skipped = self.window.ticks_skipped.saturating_add(slots);
                    charge(&mut self.window, now.saturating_duration_since(due), count);
                }
            }
        }
    }

    /// All that has come until then is judged.
    pub fn judged_up_to(&self) -> Option<Instant> {
        let looked_at = self.looked_at?;
        // A loop may be busy with what came just before.
        let known = looked_at.checked_sub(FIRST_KNOWN).unwrap_or(looked_at);
        let open = self.schedules.values().filter_map(Schedule::oldest_open_at);
        Some(open.fold(known, Instant::min))
    }

    /// The period of the server's tick, as far as it is known.
    pub fn period(&self) -> Option<Duration> {
        let newest = self.schedules.values().next_back();
        newest.and_then(Schedule::period).or(self.period)
    }

    /// How long it usually takes until a tick that has come is judged.
    pub fn lag(&self) -> Duration {
        FIRST_KNOWN + self.period().unwrap_or_default() * 4
    }

    /// When the latest tick came.
    pub fn latest_tick_at(&self) -> Option<Instant> {
        self.latest_at
    }

    /// Ends a second, and returns what is known of it by now. Delays of ticks that were due in it
    /// are added to its point in the timeline when they come.
    pub fn end_second(&mut self, mut point: Second) -> Second {
        point.rtt_count = self.second.round_trips.len();
        point.rtt_p50_ms = quantile_ms(&self.second.round_trips, 0.5);
        point.rtt_p99_ms = quantile_ms(&self.second.round_trips, 0.99);
        point.rtt_max_ms = quantile_ms(&self.second.round_trips, 1.0);
        self.second.clear();
        let point = self.seconds.end_second(point);
        self.close_seconds();
        point
    }

    fn judge_ticks(&mut self, now: Instant, all: bool) {
        self.looked_at = self.looked_at.max(Some(now));
        let (started_at, period) = (self.started_at, self.period());
        self.period = period;
        self.with_schedules(|schedules, meter| {
            let newest = schedules.keys().next_back().copied();
            schedules.retain(|&epoch, schedule| {
                let is_over = Some(epoch) != newest && schedule.is_deserted();
                let age = (schedule.latest_at())
                    .map_or(MAX_KEPT, |latest| now.saturating_duration_since(latest));
                // Nothing more will come of it, but for what another loop has still to hand in.
                let all = all || is_over && age >= FIRST_KNOWN;
                schedule.judge(now, started_at, all, meter);
                let is_forgotten = is_over && age >= MAX_KEPT;
                schedule.settle(now, meter.has_ended || is_forgotten, meter);
                !is_forgotten
            });
        });
    }

    fn close_seconds(&mut self) {
        let judged_up_to = self.judged_up_to().unwrap_or(self.started_at);
        // While nothing comes, what will be charged for that is still open.
        let judged_up_to = self
            .latest_at
            .map_or(judged_up_to, |at| at.min(judged_up_to));
        self.seconds
            .close(judged_up_to, self.has_ended, &mut self.timeline);
    }

    /// The schedules write into the meter that owns them.
    fn with_schedules(&mut self, act: impl FnOnce(&mut BTreeMap<u64, Schedule>, &mut Self)) {
        let mut schedules = std::mem::take(&mut self.schedules);
        act(&mut schedules, self);
        self.schedules = schedules;
    }
}

impl Book for Meter {
    fn delay(&mut self, due: Instant, delay: Duration, sessions: u64) {
        record(&mut self.run.tick_delays, delay, sessions);
        if self.span.holds(due) {
            record(&mut self.window.tick_delays, delay, sessions);
        }
        self.seconds.delay(due, delay, sessions, &mut self.timeline);
    }

    fn charge(&mut self, due: Instant, delay: Duration, sessions: u64) {
        charge(&mut self.run, delay, sessions);
        if self.span.holds(due) {
            charge(&mut self.window, delay, sessions);
        }
        self.seconds.delay(due, delay, sessions, &mut self.timeline);
    }

    fn skip(&mut self, due: Instant, slots: u64) {
        self.run.ticks_skipped = self.run.ticks_skipped.saturating_add(slots);
        if self.span.holds(due) {
            self.window.ticks_skipped = self.window.ticks_skipped.saturating_add(slots);
        }
    }

    fn spread(&mut self, due: Instant, spread: Duration) {
        record(&mut self.run.tick_spreads, spread, 1);
        if self.span.holds(due) {
            record(&mut self.window.tick_spreads, spread, 1);
        }
    }

    fn gap(&mut self, from: Instant, to: Instant) {
        let gap = to.saturating_duration_since(from);
        self.run.longest_tick_gap = self.run.longest_tick_gap.max(gap);
        // Of a gap that began before the window, or ends after it, the part within.
        let until = self.span.until.map_or(to, |until| until.min(to));
        let gap = until.saturating_duration_since(from.max(self.span.from));
        self.window.longest_tick_gap = self.window.longest_tick_gap.max(gap);
    }
}

impl Span {
    fn holds(&self, due: Instant) -> bool {
        self.from <= due && self.until.is_none_or(|until| due < until)
    }
}

fn charge(samples: &mut Samples, delay: Duration, sessions: u64) {
    record(&mut samples.tick_delays, delay, sessions);
    samples.delays_charged = samples.delays_charged.saturating_add(sessions);
}

#[cfg(test)]
mod tests {
    use super::super::recorder::Arrived;
    use super::*;

    /// Sessions on some event loops, and a meter that looks at them every second.
    struct Run {
        start: Instant,
        recorders: Vec<Recorder>,
        meter: Meter,
        next_second: f64,
        received: u64,
    }

    /// One arrival: when, at which session of which epoch, which tick.
    type Arrival = (f64, usize, u64, u64);

    impl Run {
        fn new(loops: usize) -> Self {
            let start = Instant::now();
            Self {
                start,
                recorders: (0..loops).map(|_| Recorder::default()).collect(),
                meter: Meter::new(start),
                next_second: 1.0,
                received: 0,
            }
        }

        fn at(&self, secs: f64) -> Instant {
            self.start + Duration::from_secs_f64(secs)
        }

        fn recorder(&self, session: usize) -> &Recorder {
            &self.recorders[session % self.recorders.len()]
        }

        fn measure(&mut self, secs: f64) {
            for recorder in &self.recorders {
                self.meter.collect(recorder);
            }
            self.meter.judge(self.at(secs), false);
        }

        /// Seconds end until this moment.
        fn pass(&mut self, secs: f64) {
            while self.next_second <= secs {
                self.measure(self.next_second);
                self.end_second(self.next_second);
                self.next_second += 1.0;
            }
        }

        fn end_second(&mut self, at_secs: f64) {
            self.meter.end_second(Second {
                at_secs,
                ..Second::default()
            });
        }

        /// Arrivals in any order. Sessions know what they have.
        fn feed(&mut self, mut arrivals: Vec<Arrival>) {
            arrivals.sort_by(|a, b| a.0.total_cmp(&b.0));
            let mut latest = std::collections::HashMap::new();
            for (secs, session, epoch, tick) in arrivals {
                self.pass(secs);
                let arrived = match latest.get(&(session, epoch)) {
                    None => Arrived::First,
                    Some(latest) if *latest < tick => Arrived::Next,
                    Some(_) => Arrived::Again,
                };
                let newest = latest.entry((session, epoch)).or_insert(tick);
                *newest = tick.max(*newest);
                let at = self.at(secs);
                self.recorder(session).tick(epoch, tick, at, arrived);
                self.received += 1;
            }
        }

        /// The run ends; what has to hold for every run is looked at.
        fn end(self, secs: f64) -> Meter {
            let meter = self.end_with_latecomers(secs);
            let seconds = meter.timeline.iter();
            let in_seconds: u64 = seconds.map(|second| second.tick_delay_count).sum();
            assert_eq!(in_seconds, meter.run.tick_delays.len());
            meter
        }

        /// The same, if something came when its second was closed.
        fn end_with_latecomers(mut self, secs: f64) -> Meter {
            self.pass(secs);
            self.measure(secs);
            self.meter.judge(self.at(secs), true);
            self.end_second(secs);
            let run = &self.meter.run;
            let delays = run.tick_delays.len();
            assert_eq!(delays, self.received + run.delays_charged);
            self.meter
        }
    }

    /// Every session gets a tick when it is due, and so much later.
    fn ticks(
        sessions: std::ops::Range<usize>,
        numbers: std::ops::Range<u64>,
        due: impl Fn(u64) -> f64,
        late: impl Fn(usize, u64) -> f64,
    ) -> Vec<Arrival> {
        numbers
            .flat_map(|n| sessions.clone().map(move |session| (session, n)))
            .map(|(session, n)| (due(n) + late(session, n), session, 0, n))
            .collect()
    }

    fn delay_ms(samples: &Samples, quantile: f64) -> f64 {
        quantile_ms(&samples.tick_delays, quantile)
    }

    #[test]
    fn a_freeze_is_counted_and_charged_to_everybody_who_waited() {
        let mut run = Run::new(2);
        // Frozen from 5 s to 8 s.
        let due = |n| (if n <= 20 { n } else { n + 11 }) as f64 * 0.25;
        let mut arrivals = ticks(0..4, 1..37, due, |_, _| 0.0);
        // One more comes during the freeze, and has waited for nothing.
        arrivals.extend(ticks(4..5, 21..37, due, |_, _| 0.0));
        run.feed(arrivals);
        let meter = run.end(11.8);
        assert_eq!(meter.run.ticks_skipped, 11);
        assert_eq!(meter.run.delays_charged, 4 * 11);
        assert_eq!(meter.run.longest_tick_gap, Duration::from_secs(3));
        assert!((delay_ms(&meter.run, 1.0) - 2750.0).abs() < 5.0);
        assert!(delay_ms(&meter.run, 0.5) < 1.0);
        // Each in the second in which it was due, and so is the median of that second.
        let p50 = |place: usize| meter.timeline[place].tick_delay_p50_ms;
        assert!(p50(4) < 1.0 && p50(8) < 1.0, "{:?}", meter.timeline);
        assert!((2000.0..2800.0).contains(&p50(5)), "{:?}", meter.timeline);
        assert!((1000.0..2000.0).contains(&p50(6)), "{:?}", meter.timeline);
        let period = meter.period().unwrap();
        assert!(period.abs_diff(Duration::from_millis(250)) < Duration::from_millis(1));
    }

    #[test]
    fn a_freeze_that_lasts_until_the_end_is_charged_to_those_who_are_there() {
        let mut run = Run::new(1);
        run.feed(ticks(0..3, 1..25, |n| n as f64 * 0.25, |_, _| 0.0));
        // One has gone: it waits for nothing.
        run.recorders[0].left(0);
        let meter = run.end(9.1);
        // Slots at 6.25 s to 8 s; those after are not yet a whole period late.
        assert_eq!(meter.run.ticks_skipped, 11);
        assert_eq!(meter.run.delays_charged, 2 * 11);
        assert_eq!(meter.run.longest_tick_gap, Duration::from_millis(3100));
        assert!((delay_ms(&meter.run, 1.0) - 2850.0).abs() < 5.0);
    }

    #[test]
    fn a_server_that_all_have_lost_owes_nobody_anything() {
        let mut run = Run::new(1);
        run.feed(ticks(0..3, 1..25, |n| n as f64 * 0.25, |_, _| 0.0));
        (0..3).for_each(|_| run.recorders[0].left(0));
        let meter = run.end(20.0);
        assert_eq!((meter.run.ticks_skipped, meter.run.delays_charged), (0, 0));
        assert_eq!(meter.run.longest_tick_gap, Duration::from_millis(250));
    }

    #[test]
    fn a_session_that_is_late_throughout_is_late_and_the_others_are_not() {
        let mut run = Run::new(2);
        let due = |n: u64| n as f64 * 0.02;
        let mut arrivals = ticks(0..5, 1..520, due, |_, _| 0.0);
        arrivals.extend(ticks(5..6, 100..500, due, |_, _| 0.4));
        run.feed(arrivals);
        let meter = run.end(10.4);
        assert_eq!(meter.run.tick_delays.len(), 519 * 5 + 400);
        assert!(delay_ms(&meter.run, 0.85) < 1.0);
        assert!((delay_ms(&meter.run, 0.87) - 400.0).abs() < 2.0);
        // … and so are the spreads of those ticks that it got.
        let spreads = &meter.run.tick_spreads;
        assert_eq!(spreads.len(), 519);
        assert!(quantile_ms(spreads, 0.22) < 1.0);
        assert!((quantile_ms(spreads, 0.24) - 400.0).abs() < 2.0);
    }

    #[test]
    fn a_straggler_counts_in_the_spread_long_after_the_tick_was_judged() {
        let mut run = Run::new(2);
        let late = |session, n| if (session, n) == (1, 50) { 4.0 } else { 0.0 };
        run.feed(ticks(0..2, 1..600, |n| n as f64 * 0.02, late));
        let meter = run.end(12.0);
        assert_eq!(meter.run.tick_spreads.len(), 599);
        assert!((quantile_ms(&meter.run.tick_spreads, 1.0) - 4000.0).abs() < 5.0);
        assert!((delay_ms(&meter.run, 1.0) - 4000.0).abs() < 5.0);
        assert_eq!(meter.run.ticks_skipped, 0);
    }

    #[test]
    fn a_server_that_began_anew_has_a_schedule_of_its_own_and_nothing_is_dropped() {
        let mut run = Run::new(2);
        let due = |n: u64| n as f64 * 0.25;
        run.feed(ticks(0..2, 1..11, due, |_, _| 0.0));
        run.recorders.iter().for_each(|recorder| recorder.left(0));
        let anew = ticks(0..2, 1..31, |n| 4.13 + due(n), |_, _| 0.0).into_iter();
        run.feed(
            anew.map(|(at, session, _, n)| (at, session, 1, n))
                .collect(),
        );
        // What a busy loop hands in last of all is not lost either.
        for tick in 1..11 {
            let at = run.at(due(tick));
            run.recorders[1].tick(0, tick, at, Arrived::Again);
            run.received += 1;
        }
        let meter = run.end(11.7);
        assert!(delay_ms(&meter.run, 1.0) < 1.0, "{:?}", meter.timeline);
        assert_eq!(meter.run.ticks_skipped, 0);
        assert_eq!(meter.run.longest_tick_gap, Duration::from_millis(250));
    }

    #[test]
    fn a_server_that_is_long_gone_is_forgotten_and_its_late_ticks_still_count() {
        let mut run = Run::new(1);
        run.feed(ticks(0..1, 1..11, |n| n as f64 * 0.25, |_, _| 0.0));
        run.recorders[0].left(0);
        let anew = ticks(0..1, 1..80, |n| 4.0 + n as f64 * 0.25, |_, _| 0.0);
        run.feed(
            anew.into_iter()
                .map(|(at, _, _, n)| (at, 1, 1, n))
                .collect(),
        );
        assert_eq!(run.meter.schedules.len(), 1);
        let at = run.at(2.6);
        run.recorders[0].tick(0, 10, at, Arrived::Again);
        run.received += 1;
        let meter = run.end_with_latecomers(24.0);
        assert!(delay_ms(&meter.run, 1.0) < 1.0);
    }

    #[test]
    fn a_run_of_very_few_ticks_has_them_all() {
        for ticks_in_all in 0..5 {
            let mut run = Run::new(1);
            run.feed(ticks(
                0..2,
                1..ticks_in_all + 1,
                |n| n as f64 * 0.25,
                |_, _| 0.0,
            ));
            let meter = run.end(0.25 * ticks_in_all as f64 + 0.1);
            assert_eq!(meter.run.tick_spreads.len(), ticks_in_all);
            assert_eq!(meter.period().is_some(), ticks_in_all > 1);
        }
    }

    #[test]
    fn any_tick_numbers_are_all_counted() {
        for seed in 0..50 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut run = Run::new(2);
            let arrivals = (1..300)
                .flat_map(|n| (0..3).map(move |session| (session, n)))
                .map(|(session, n): (usize, u64)| {
                    let tick = match rng.u8(..20) {
                        0 => rng.u64(..),
                        1 => u64::MAX - n,
                        2 => n.saturating_sub(rng.u64(..200)),
                        _ => n,
                    };
                    let epoch = u64::from(rng.u8(..50) == 0) + n / 100;
                    (n as f64 * 0.05 + rng.f64() * 0.1, session, epoch, tick)
                });
            run.feed(arrivals.collect());
            let end = run.next_second + rng.f64() * 100.0;
            run.end_with_latecomers(end);
        }
    }

    #[test]
    fn a_window_has_what_was_due_in_it_and_nothing_else() {
        let mut run = Run::new(1);
        let due = |n: u64| n as f64 * 0.05;
        // Late by 400 ms up to 5 s, and by 100 ms in one tick behind the end.
        let late = |session: usize, n: u64| match n {
            ..100 if session == 1 => 0.4,
            242 => 0.1,
            _ => 0.0,
        };
        let all = ticks(0..2, 0..280, due, late);
        let until = |secs: f64| move |arrival: &Arrival| arrival.0 <= secs;
        let (before, after): (Vec<_>, Vec<_>) = all.into_iter().partition(until(5.01));
        run.feed(before);
        run.measure(5.01);
        run.meter.begin_window();
        let (within, after): (Vec<_>, Vec<_>) = after.into_iter().partition(until(12.01));
        for arrival in within {
            run.pass(arrival.0);
            let (at, tick) = (run.at(arrival.0), arrival.3);
            run.recorders[0].tick(0, tick, at, Arrived::Next);
            run.received += 1;
        }
        run.measure(12.01);
        run.meter.end_window(run.at(12.01));
        assert!(run.meter.judged_up_to().unwrap() < run.at(12.01));
        for arrival in after {
            run.pass(arrival.0);
            let (at, tick) = (run.at(arrival.0), arrival.3);
            run.recorders[0].tick(0, tick, at, Arrived::Next);
            run.received += 1;
        }
        assert!(run.meter.judged_up_to().unwrap() > run.at(12.01));
        run.meter.settle_window(run.at(13.0));
        // Ticks 101 to 240, of both.
        assert_eq!(run.meter.window.tick_delays.len(), 140 * 2);
        assert_eq!(run.meter.window.tick_spreads.len(), 140);
        assert!(delay_ms(&run.meter.window, 1.0) < 1.0);
        assert!(delay_ms(&run.meter.run, 1.0) > 390.0);
    }

    #[test]
    fn a_freeze_counts_in_a_window_as_far_as_it_lies_in_it() {
        let mut run = Run::new(1);
        // Frozen from 6 s on; the window is 5 s to 8 s, and is settled at 8.5 s.
        run.feed(ticks(0..3, 0..121, |n| n as f64 * 0.05, |_, _| 0.0));
        run.meter.begin_window();
        run.meter.span.from = run.at(4.99);
        run.pass(8.0);
        run.meter.end_window(run.at(8.0));
        run.measure(8.5);
        run.meter.settle_window(run.at(8.5));
        let window = &run.meter.window;
        assert_eq!(window.ticks_skipped, 39, "from 6.05 s to 7.95 s");
        assert_eq!(window.delays_charged, 39 * 3);
        assert_eq!(window.longest_tick_gap, Duration::from_secs(2));
        assert!((delay_ms(window, 1.0) - 2450.0).abs() < 5.0);
        assert_eq!(run.meter.run.ticks_skipped, 0, "it may still end");
    }

    #[test]
    fn ticks_are_judged_soon() {
        let mut run = Run::new(1);
        let ticks = ticks(0..3, 0..121, |n| n as f64 * 0.05, |_, _| 0.0);
        run.feed(ticks);
        run.measure(6.0);
        let lag = run.at(6.0) - run.meter.judged_up_to().unwrap();
        assert!(lag <= FIRST_KNOWN, "{lag:?}");
        assert!(run.meter.run.tick_delays.len() >= 118 * 3);
    }
}
