//! The ticks of one pushed stream: which session received each of them when.

use super::schedule::{Evaluated, FOLLOWERS, ScheduleEstimator};
use super::{LeaveRun, TickRun, TickSink};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// The analysis of one pushed stream, from the first tick to the last.
///
/// Each received tick that is not [dropped](TickSink::dropped) is one delay of each session, whatever its number. Each
/// slot that stayed empty adds one synthetic delay for each session that waited for it.
#[derive(Debug)]
pub struct TickAnalysis {
    started_at: Instant,
    /// By epoch: the last one is the server that runs now.
    servers: BTreeMap<u64, ServerTicks>,
    latest_at: Option<Instant>,
    evaluated_at: Option<Instant>,
    has_ended: bool,
}

/// The ticks of one server.
#[derive(Debug, Default)]
struct ServerTicks {
    estimator: ScheduleEstimator,
    /// Ticks without a place in the schedule, by number.
    open: BTreeMap<u64, OpenTick>,
    /// The newest ticks with a place, for late sessions.
    placed: BTreeMap<u64, PlacedTick>,
    /// Placed ticks that some sessions may still receive, oldest first.
    spreading: VecDeque<u64>,
    /// Connected sessions with a tick.
    connected: u64,
    /// When the last session left whose user goes on waiting for ticks.
    awaits_since: Option<Instant>,
    /// When the last session received its first tick.
    joined_at: Option<Instant>,
    /// The newest tick on the schedule.
    latest: Option<PlacedTick>,
    /// The first arrival of the newest tick, or of the last tick of the server before.
    latest_first_at: Option<Instant>,
    /// This server replaced another one while sessions waited; `latest_first_at` is from there.
    ends_outage: bool,
    latest_at: Option<Instant>,
}

#[derive(Debug)]
struct OpenTick {
    first_at: Instant,
    runs: Vec<TickRun>,
    /// The estimator has it; later arrivals still count.
    is_pushed: bool,
}

#[derive(Clone, Copy, Debug)]
struct PlacedTick {
    due: Instant,
    /// Zero for an outlier, and without a schedule.
    period: Duration,
    /// Empty slots before it that give synthetic delays.
    synthetic: u64,
    first_at: Instant,
    last_at: Instant,
    /// Sessions that have received it.
    sessions: u64,
}

/// The age at which the first arrival of a tick is known: each event loop has reported by then.
const FIRST_KNOWN: Duration = Duration::from_millis(100);
/// A tick's spread does not wait longer for its last session, and a server without sessions is kept this long.
const MAX_SPREAD: Duration = Duration::from_secs(10);
/// Bounds the arrivals of one tick that are kept apart while its place is unknown.
const MAX_RUNS: usize = 64;
/// Bounds the placed ticks that are kept for late sessions.
const MAX_PLACED: usize = 50_000;
/// Bounds the ticks without a place, and so the time of one evaluation. A server at the shortest period that the
/// schedule knows sends this number in 5 s.
const MAX_OPEN: usize = 20_000;
/// Bounds the reports of one row of empty slots; a longer row is reported in groups.
const MAX_SLOTS: u64 = 1000;

impl TickAnalysis {
    /// An analysis without ticks.
    pub fn new(started_at: Instant) -> Self {
        Self {
            started_at,
            servers: BTreeMap::new(),
            latest_at: None,
            evaluated_at: None,
            has_ended: false,
        }
    }

    /// Takes what an event loop has recorded since the last call. While 20,000 ticks have no place in the schedule,
    /// further ones are [dropped](TickSink::dropped).
    pub fn collect(&mut self, ticks: &[TickRun], leaves: &[LeaveRun], sink: &mut impl TickSink) {
        let open = self.servers.values().map(|server| server.open.len());
        let mut room = MAX_OPEN.saturating_sub(open.sum());
        for run in ticks {
            self.latest_at = self.latest_at.max(Some(run.at));
            if !self.servers.contains_key(&run.epoch) {
                let before = self.servers.range(..run.epoch).next_back();
                let outage_since = before.and_then(|(_, server)| server.waits_since());
                let server = ServerTicks {
                    latest_first_at: outage_since,
                    ends_outage: outage_since.is_some(),
                    ..ServerTicks::default()
                };
                self.servers.insert(run.epoch, server);
            }
            let server = self.servers.entry(run.epoch).or_default();
            server.note(run);
            if room == 0 {
                sink.dropped(run.at, run.sessions);
                continue;
            }
            room -= usize::from(server.take(*run, sink));
        }
        for leave in leaves {
            let server = self.servers.entry(leave.epoch).or_default();
            server.connected = server.connected.saturating_sub(leave.sessions);
            if leave.awaits_ticks {
                server.awaits_since = server.awaits_since.max(Some(leave.at));
            }
        }
    }

    /// Evaluates the ticks that are decided by now. At the end of the run, all ticks are, and everything open is
    /// [reported](Self::report_open) once.
    pub fn evaluate(&mut self, now: Instant, is_end: bool, sink: &mut impl TickSink) {
        self.evaluate_ticks(now, is_end, sink);
        if is_end && !std::mem::replace(&mut self.has_ended, true) {
            self.report_open(now, sink);
            let servers = self.servers.values_mut();
            servers.for_each(|server| server.spreading.clear());
        }
    }

    /// Evaluates all ticks, at the end of a window. A late tick whose followers are missing counts as a delay.
    pub fn evaluate_all(&mut self, now: Instant, sink: &mut impl TickSink) {
        self.evaluate_ticks(now, true, sink);
    }

    /// Reports what is still open as if it ended now, and changes nothing: spreads of ticks that some sessions
    /// may still receive, and the time without ticks that lasts, with the slots that are a period late or more.
    pub fn report_open(&self, now: Instant, sink: &mut impl TickSink) {
        let newest = self.servers.keys().next_back();
        for (epoch, server) in &self.servers {
            let spreading = server.spreading.iter();
            for placed in spreading.filter_map(|tick| server.placed.get(tick)) {
                sink.spread(placed.due, placed.spread());
            }
            let is_current = server.connected > 0 || Some(epoch) == newest;
            if let Some(since) = server.waits_since().filter(|_| is_current) {
                sink.gap(since, now);
                server.report_empty_slots(now, sink);
            }
        }
    }

    /// All ticks that arrived until then are evaluated; `None` before the first evaluation.
    pub fn evaluated_up_to(&self) -> Option<Instant> {
        let evaluated_at = self.evaluated_at?;
        let known = evaluated_at.checked_sub(FIRST_KNOWN);
        let known = known.unwrap_or(evaluated_at);
        let servers = self.servers.values();
        let open = servers.flat_map(|server| server.open.values());
        Some(open.map(|open| open.first_at).fold(known, Instant::min))
    }

    /// The estimated period of the server's ticks.
    pub fn period(&self) -> Option<Duration> {
        let mut servers = self.servers.values().rev();
        let period = servers.find_map(|server| server.estimator.period())?;
        Duration::try_from_secs_f64(period).ok()
    }

    /// The time from the arrival of a late tick to its evaluation.
    pub fn lag(&self) -> Duration {
        FIRST_KNOWN + self.period().unwrap_or_default() * FOLLOWERS as u32
    }

    /// When the latest tick arrived.
    pub fn latest_tick_at(&self) -> Option<Instant> {
        self.latest_at
    }

    fn evaluate_ticks(&mut self, now: Instant, all: bool, sink: &mut impl TickSink) {
        self.evaluated_at = self.evaluated_at.max(Some(now));
        let newest = self.servers.keys().next_back().copied();
        self.servers.retain(|&epoch, server| {
            let is_over = Some(epoch) != newest && server.connected == 0;
            let age = |at| now.saturating_duration_since(at);
            let is_forgotten = is_over && server.latest_at.is_none_or(|at| age(at) >= MAX_SPREAD);
            let started_at = self.started_at;
            server.evaluate(now, started_at, all || is_over, self.has_ended, sink);
            server.settle(now, is_forgotten, sink);
            !is_forgotten
        });
    }
}

impl ServerTicks {
    /// Counts the sessions of a run.
    fn note(&mut self, run: &TickRun) {
        self.connected = self.connected.saturating_add(run.first);
        if run.first > 0 {
            self.joined_at = self.joined_at.max(Some(run.at));
        }
        self.latest_at = self.latest_at.max(Some(run.at));
    }

    /// Takes the ticks of a run. Returns whether their number is a new one.
    fn take(&mut self, run: TickRun, sink: &mut impl TickSink) -> bool {
        if let Some(open) = self.open.get_mut(&run.tick) {
            if !open.is_pushed {
                open.first_at = open.first_at.min(run.at);
            }
            open.add(run);
        } else if let Some(placed) = self.placed.get_mut(&run.tick) {
            placed.deliver(run, sink);
        } else {
            let open = OpenTick {
                first_at: run.at,
                runs: vec![run],
                is_pushed: false,
            };
            self.open.insert(run.tick, open);
            return true;
        }
        false
    }

    /// Since when sessions wait for the next tick.
    fn waits_since(&self) -> Option<Instant> {
        let open = self.open.values().map(|open| open.first_at).max();
        open.max(self.latest_first_at)
            .filter(|_| self.connected > 0 || self.awaits_since > self.joined_at)
    }

    fn evaluate(
        &mut self,
        now: Instant,
        started_at: Instant,
        all: bool,
        has_ended: bool,
        sink: &mut impl TickSink,
    ) {
        let mut evaluated = Vec::new();
        for (&tick, open) in self.open.iter_mut().filter(|(_, open)| !open.is_pushed) {
            let age = now.saturating_duration_since(open.first_at);
            if !all && age < FIRST_KNOWN {
                continue;
            }
            open.is_pushed = true;
            let has_waited =
                std::mem::take(&mut self.ends_outage) || open.runs.iter().any(|run| run.waited > 0);
            if let Some(before) = self.latest_first_at.filter(|_| has_waited) {
                sink.gap(before, open.first_at);
            }
            self.latest_first_at = self.latest_first_at.max(Some(open.first_at));
            let at = open.first_at.saturating_duration_since(started_at);
            evaluated.extend(self.estimator.push(tick, at.as_secs_f64()));
        }
        if all {
            evaluated.extend(self.estimator.flush());
        }
        for mut evaluated in evaluated {
            if has_ended {
                // The end of the run has reported the empty slots.
                (evaluated.skipped, evaluated.synthetic) = (0, 0);
            }
            let Some(open) = self.open.remove(&evaluated.tick) else {
                continue;
            };
            let mut placed = PlacedTick::new(&evaluated, open.first_at, started_at);
            for (due, slots) in placed.slots_before(evaluated.skipped) {
                sink.skipped(due, slots);
            }
            for run in open.runs {
                placed.deliver(run, sink);
            }
            if !placed.period.is_zero() {
                self.latest = Some(placed);
            }
            self.placed.insert(evaluated.tick, placed);
            if self.placed.len() > MAX_PLACED {
                self.placed.pop_first();
            }
            self.spreading.push_back(evaluated.tick);
        }
    }

    /// Reports the spreads of the ticks that each session has received, or that are too old to wait for.
    fn settle(&mut self, now: Instant, all: bool, sink: &mut impl TickSink) {
        let (placed, connected) = (&self.placed, self.connected);
        self.spreading.retain(|tick| {
            let Some(placed) = placed.get(tick) else {
                return false;
            };
            let is_old = now.saturating_duration_since(placed.first_at) > MAX_SPREAD;
            let is_settled = all || is_old || placed.sessions >= connected;
            if is_settled {
                sink.spread(placed.due, placed.spread());
            }
            !is_settled
        });
    }

    /// Reports the slots behind the latest tick that are late by a period and more.
    fn report_empty_slots(&self, now: Instant, sink: &mut impl TickSink) {
        let Some(latest) = self.latest.filter(|_| self.connected > 0) else {
            return;
        };
        // The next tick may be as late as the latest one was.
        let silence = now.saturating_duration_since(latest.first_at).as_secs_f64();
        let slots = (silence / latest.period.as_secs_f64()) as u64;
        let due = latest.due + latest.period.mul_f64(slots as f64);
        let next = PlacedTick { due, ..latest };
        for (due, slots) in next.slots_before(slots.saturating_sub(1)) {
            sink.skipped(due, slots);
            let delay = now.saturating_duration_since(due);
            sink.synthetic(due, delay, self.connected.saturating_mul(slots));
        }
    }
}

impl OpenTick {
    /// Sessions received it. A server may repeat one tick at any rate: behind the first runs, its repeats count with
    /// the last one.
    fn add(&mut self, run: TickRun) {
        let is_again = run.first == 0 && run.waited == 0;
        let is_full = self.runs.len() >= MAX_RUNS;
        match self.runs.last_mut() {
            Some(last) if is_again && is_full => {
                last.sessions = last.sessions.saturating_add(run.sessions);
                last.last_at = last.last_at.max(run.last_at);
            }
            _ => self.runs.push(run),
        }
    }
}

impl PlacedTick {
    fn new(evaluated: &Evaluated, first_at: Instant, started_at: Instant) -> Self {
        let duration = |secs: f64| Duration::try_from_secs_f64(secs).unwrap_or_default();
        let due = started_at.checked_add(duration(evaluated.due));
        Self {
            due: due.map_or(first_at, |due| due.min(first_at)),
            period: duration(evaluated.period),
            synthetic: evaluated.synthetic,
            first_at,
            last_at: first_at,
            sessions: 0,
        }
    }

    /// Sessions received it: reports their delays, and those of the empty slots before it.
    fn deliver(&mut self, run: TickRun, sink: &mut impl TickSink) {
        self.first_at = self.first_at.min(run.at);
        self.last_at = self.last_at.max(run.last_at);
        self.sessions = self.sessions.saturating_add(run.first + run.waited);
        let late_by = |due| run.at.saturating_duration_since(due);
        sink.delay(self.due, late_by(self.due), run.sessions);
        for (due, slots) in self.slots_before(self.synthetic).filter(|_| run.waited > 0) {
            sink.synthetic(due, late_by(due), run.waited.saturating_mul(slots));
        }
    }

    /// When the `count` slots right before it were due, the latest first, and how many about then.
    fn slots_before(&self, count: u64) -> impl Iterator<Item = (Instant, u64)> + use<> {
        let (due, period) = (self.due, self.period.as_secs_f64());
        let group = count.div_ceil(MAX_SLOTS).max(1);
        let groups = (0..count).step_by(usize::try_from(group).unwrap_or(usize::MAX));
        groups.map(move |slots| {
            let back = Duration::try_from_secs_f64(period * (slots + 1) as f64);
            let slot = due.checked_sub(back.unwrap_or(Duration::MAX));
            (slot.unwrap_or(due), group.min(count - slots))
        })
    }

    fn spread(&self) -> Duration {
        self.last_at.saturating_duration_since(self.first_at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::{FAULTS, Found, Planted};
    use super::super::{Arrived, MeasurementWindow};
    use super::*;
    use std::collections::HashMap;

    /// What the analysis has reported.
    #[derive(Debug, Default)]
    struct Log {
        /// When due, milliseconds, sessions.
        delays: Vec<(Instant, f64, u64)>,
        spreads: Vec<(Instant, f64)>,
        skipped: Vec<(Instant, u64)>,
        gaps: Vec<(Instant, Instant)>,
        synthetic: u64,
        dropped: u64,
    }

    impl TickSink for Log {
        fn delay(&mut self, due: Instant, delay: Duration, sessions: u64) {
            self.delays.push((due, ms(delay), sessions));
        }

        fn synthetic(&mut self, due: Instant, delay: Duration, sessions: u64) {
            self.synthetic += sessions;
            self.delay(due, delay, sessions);
        }

        fn skipped(&mut self, due: Instant, slots: u64) {
            self.skipped.push((due, slots));
        }

        fn spread(&mut self, due: Instant, spread: Duration) {
            self.spreads.push((due, ms(spread)));
        }

        fn dropped(&mut self, _: Instant, sessions: u64) {
            self.dropped += sessions;
        }

        fn gap(&mut self, from: Instant, to: Instant) {
            self.gaps.push((from, to));
        }
    }

    impl Log {
        fn count(&self) -> u64 {
            self.delays.iter().map(|(_, _, sessions)| sessions).sum()
        }

        fn skipped(&self) -> u64 {
            self.skipped.iter().map(|(_, slots)| slots).sum()
        }

        fn delay_ms(&self, part: f64) -> f64 {
            let mut delays = self.delays.clone();
            delays.sort_unstable_by(|a, b| a.1.total_cmp(&b.1));
            let mut left = ((self.count() - 1) as f64 * part) as u64 + 1;
            let found = delays.iter().find(|(_, _, sessions)| {
                left = left.saturating_sub(*sessions);
                left == 0
            });
            found.unwrap().1
        }

        fn spread_ms(&self, part: f64) -> f64 {
            let mut spreads: Vec<f64> = self.spreads.iter().map(|(_, ms)| *ms).collect();
            spreads.sort_unstable_by(f64::total_cmp);
            spreads[((spreads.len() - 1) as f64 * part) as usize]
        }

        fn longest_gap(&self) -> Duration {
            self.gap_in(|from, to| to - from)
        }

        fn gap_in(&self, length: impl Fn(Instant, Instant) -> Duration) -> Duration {
            let gaps = self.gaps.iter().map(|(from, to)| length(*from, *to));
            gaps.max().unwrap_or_default()
        }

        /// The part that is due in the window.
        fn within(&self, window: MeasurementWindow) -> Self {
            let (delays, spreads) = (self.delays.iter(), self.spreads.iter());
            let skipped = self.skipped.iter();
            Self {
                delays: delays
                    .filter(|one| window.contains(one.0))
                    .copied()
                    .collect(),
                spreads: spreads
                    .filter(|one| window.contains(one.0))
                    .copied()
                    .collect(),
                skipped: skipped
                    .filter(|one| window.contains(one.0))
                    .copied()
                    .collect(),
                ..Self::default()
            }
        }
    }

    fn ms(duration: Duration) -> f64 {
        duration.as_secs_f64() * 1e3
    }

    /// Sessions on some event loops, and an analysis that is evaluated each second.
    struct Run {
        start: Instant,
        loops: Vec<(Vec<TickRun>, Vec<LeaveRun>)>,
        analysis: TickAnalysis,
        log: Log,
        next_second: f64,
        /// The time of the last arrival.
        now: f64,
        received: u64,
    }

    /// One arrival: seconds, session, epoch, tick.
    type Arrival = (f64, usize, u64, u64);

    impl Run {
        fn new(loops: usize) -> Self {
            let start = Instant::now();
            Self {
                start,
                loops: vec![Default::default(); loops],
                analysis: TickAnalysis::new(start),
                log: Log::default(),
                next_second: 1.0,
                now: 0.0,
                received: 0,
            }
        }

        fn at(&self, secs: f64) -> Instant {
            self.start + Duration::from_secs_f64(secs)
        }

        fn tick(&mut self, (secs, session, epoch, tick): Arrival, arrived: Arrived) {
            self.now = self.now.max(secs);
            let (at, loops) = (self.at(secs), self.loops.len());
            let runs = &mut self.loops[session % loops].0;
            TickRun::record(runs, (epoch, tick), arrived, at, || at);
            self.received += 1;
        }

        fn leave(&mut self, sessions: u64, awaits_ticks: bool) {
            let at = self.at(self.now);
            self.loops[0].1.push(LeaveRun {
                epoch: 0,
                sessions,
                awaits_ticks,
                at,
            });
        }

        fn evaluate(&mut self, secs: f64, is_end: bool) {
            let now = self.at(secs);
            for (ticks, leaves) in &mut self.loops {
                self.analysis.collect(ticks, leaves, &mut self.log);
                ticks.clear();
                leaves.clear();
            }
            self.analysis.evaluate(now, is_end, &mut self.log);
        }

        fn pass(&mut self, secs: f64) {
            while self.next_second <= secs {
                self.evaluate(self.next_second, false);
                self.next_second += 1.0;
            }
        }

        fn feed(&mut self, mut arrivals: Vec<Arrival>) {
            arrivals.sort_by(|a, b| a.0.total_cmp(&b.0));
            let mut newest = HashMap::new();
            for arrival in arrivals {
                let (secs, session, epoch, tick) = arrival;
                self.pass(secs);
                let arrived = match newest.get(&(session, epoch)) {
                    None => Arrived::First,
                    Some(newest) if *newest < tick => Arrived::Next,
                    Some(_) => Arrived::Again,
                };
                let newest = newest.entry((session, epoch)).or_insert(tick);
                *newest = tick.max(*newest);
                self.tick(arrival, arrived);
            }
        }

        /// Ends the run. Each received tick that was not dropped and each synthetic sample is one delay.
        fn end(mut self, secs: f64) -> Log {
            self.pass(secs);
            self.evaluate(secs, true);
            let received = self.received - self.log.dropped;
            assert_eq!(self.log.count(), received + self.log.synthetic);
            self.log
        }
    }

    /// Each session receives each tick when it is due, and this much later.
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

    /// 4 Hz.
    fn slot(n: u64) -> f64 {
        n as f64 * 0.25
    }

    #[test]
    fn stall_is_synthetic_delays_of_the_sessions_that_waited() {
        let mut run = Run::new(2);
        // Stopped from 5 s to 8 s.
        let due = |n| slot(if n <= 20 { n } else { n + 11 });
        let mut arrivals = ticks(0..4, 1..37, due, |_, _| 0.0);
        // One more session connects during the stall, and has not waited.
        arrivals.extend(ticks(4..5, 21..37, due, |_, _| 0.0));
        run.feed(arrivals);
        let period = run.analysis.period().unwrap();
        assert!(period.abs_diff(Duration::from_millis(250)) < Duration::from_millis(1));
        let (five, six, eight) = (run.at(4.99), run.at(5.99), run.at(7.99));
        let log = run.end(11.8);
        assert_eq!((log.skipped(), log.synthetic), (11, 4 * 11));
        assert_eq!(log.longest_gap(), Duration::from_secs(3));
        assert!((log.delay_ms(1.0) - 2750.0).abs() < 5.0);
        assert!(log.delay_ms(0.5) < 1.0);
        // The delays are in the second of their slots.
        let within = |from, until| {
            let until = Some(until);
            log.within(MeasurementWindow { from, until }).delay_ms(0.5)
        };
        assert!((2000.0..2800.0).contains(&within(five, six)), "{log:?}");
        assert!((250.0..2000.0).contains(&within(six, eight)), "{log:?}");
        assert!(
            within(eight, eight + Duration::from_secs(1)) < 1.0,
            "{log:?}"
        );
    }

    #[test]
    fn stall_until_the_end_is_synthetic_delays_of_the_connected_sessions() {
        let mut run = Run::new(1);
        run.feed(ticks(0..3, 1..25, slot, |_, _| 0.0));
        run.leave(1, false);
        let log = run.end(9.1);
        // Slots from 6.25 s to 8.75 s; later ones are not a whole period late.
        assert_eq!((log.skipped(), log.synthetic), (11, 2 * 11));
        assert_eq!(log.longest_gap(), Duration::from_millis(3100));
        assert!((log.delay_ms(1.0) - 2850.0).abs() < 5.0);
    }

    #[test]
    fn closed_sessions_wait_for_nothing_and_lost_ones_have_the_gap() {
        for (awaits_ticks, gap_ms) in [(false, 250), (true, 14_000)] {
            let mut run = Run::new(1);
            run.feed(ticks(0..3, 1..25, slot, |_, _| 0.0));
            run.leave(3, awaits_ticks);
            let log = run.end(20.0);
            assert_eq!((log.skipped(), log.synthetic), (0, 0));
            assert_eq!(log.longest_gap(), Duration::from_millis(gap_ms));
        }
    }

    #[test]
    fn delayed_session_shows_in_delay_and_spread() {
        let mut run = Run::new(2);
        let due = |n: u64| n as f64 * 0.02;
        let mut arrivals = ticks(0..5, 1..520, due, |_, _| 0.0);
        arrivals.extend(ticks(5..6, 100..500, due, |_, _| 0.4));
        run.feed(arrivals);
        let log = run.end(10.4);
        assert_eq!(log.count(), 519 * 5 + 400);
        assert!(log.delay_ms(0.85) < 1.0);
        assert!((log.delay_ms(0.87) - 400.0).abs() < 2.0);
        assert_eq!(log.spreads.len(), 519);
        assert!(log.spread_ms(0.22) < 1.0);
        assert!((log.spread_ms(0.24) - 400.0).abs() < 2.0);
    }

    #[test]
    fn late_arrival_counts_in_the_spread_after_the_evaluation() {
        let mut run = Run::new(2);
        let late = |session, n| if (session, n) == (1, 50) { 4.0 } else { 0.0 };
        run.feed(ticks(0..2, 1..600, |n| n as f64 * 0.02, late));
        let log = run.end(12.0);
        assert_eq!((log.spreads.len(), log.skipped()), (599, 0));
        assert!((log.spread_ms(1.0) - 4000.0).abs() < 5.0);
        assert!((log.delay_ms(1.0) - 4000.0).abs() < 5.0);
    }

    /// A turn that handles two sessions takes 3 ms.
    #[test]
    fn sessions_of_one_turn_have_the_spread_of_the_turn() {
        let mut run = Run::new(1);
        for n in 1..40 {
            let (woke_at, arrived) = (run.at(slot(n)), [Arrived::First, Arrived::Next]);
            let arrived = arrived[usize::from(n > 1)];
            let sessions = if n <= 30 { 2 } else { 1 };
            for turn_ms in [1, 3].into_iter().take(sessions) {
                let handled_at = woke_at + Duration::from_millis(turn_ms);
                TickRun::record(&mut run.loops[0].0, (0, n), arrived, woke_at, || handled_at);
                run.received += 1;
            }
        }
        assert_eq!(run.loops[0].0.len(), 39);
        let log = run.end(10.0);
        let spreads: Vec<f64> = log.spreads.iter().map(|(_, ms)| *ms).collect();
        assert_eq!(spreads, [&[3.0; 30][..], &[0.0; 9]].concat());
        assert!(log.delay_ms(1.0) < 1.0, "delays count to the wake-up");
    }

    #[test]
    fn replaced_server_has_its_own_schedule_and_the_outage_is_a_gap() {
        for (away, awaits_ticks, gap_ms) in
            [(1.63, true, 1880), (14.0, true, 14_250), (1.63, false, 250)]
        {
            let mut run = Run::new(2);
            run.feed(ticks(0..2, 1..11, slot, |_, _| 0.0));
            run.leave(2, awaits_ticks);
            let again = ticks(0..2, 1..31, |n| 2.5 + away + slot(n), |_, _| 0.0);
            let again = again
                .into_iter()
                .map(|(at, session, _, n)| (at, session, 1, n));
            run.feed(again.collect());
            // A busy event loop reports last.
            for tick in 1..11 {
                let late = Arrived::Again;
                run.tick((slot(tick), 1, 0, tick), late);
            }
            let log = run.end(2.5 + away + 7.6);
            assert!(log.delay_ms(1.0) < 1.0, "{log:?}");
            assert_eq!(log.skipped(), 0);
            assert_eq!(log.longest_gap(), Duration::from_millis(gap_ms), "{away}");
        }
    }

    /// The losses of the old server are reported after the first tick of the new one.
    #[test]
    fn outage_is_a_gap_though_its_losses_are_noticed_late() {
        let mut run = Run::new(1);
        run.feed(ticks(0..2, 1..11, slot, |_, _| 0.0));
        run.feed(vec![(5.0, 0, 1, 1), (5.25, 0, 1, 2), (5.5, 0, 1, 3)]);
        run.leave(2, true);
        let log = run.end(5.7);
        assert_eq!(log.longest_gap(), Duration::from_millis(2500));
        assert_eq!((log.skipped(), log.synthetic), (0, 0));
    }

    /// Two of three sessions are lost, and the third one leaves by plan: the two wait for the next server.
    #[test]
    fn outage_is_a_gap_though_a_session_leaves_by_plan() {
        for by_plan_first in [false, true] {
            let mut run = Run::new(1);
            run.feed(ticks(0..3, 1..11, slot, |_, _| 0.0));
            run.now += 0.01;
            let mut leaves = [(2, true), (1, false)];
            if by_plan_first {
                leaves.reverse();
            }
            leaves
                .into_iter()
                .for_each(|(sessions, awaits)| run.leave(sessions, awaits));
            run.feed(vec![(5.0, 0, 1, 1), (5.25, 0, 1, 2), (5.5, 0, 1, 3)]);
            let log = run.end(5.7);
            assert_eq!(log.longest_gap(), Duration::from_millis(2500));
        }
    }

    /// A lost session is back at once; later, all sessions leave by plan.
    #[test]
    fn time_without_sessions_is_no_gap_after_a_loss_long_ago() {
        let mut run = Run::new(1);
        run.feed(ticks(0..2, 1..11, slot, |_, _| 0.0));
        run.now += 0.01;
        run.leave(1, true);
        run.feed(ticks(2..3, 11..21, slot, |_, _| 0.0));
        run.leave(2, false);
        let log = run.end(30.0);
        assert_eq!(log.longest_gap(), Duration::from_millis(250));
    }

    #[test]
    fn late_tick_of_a_forgotten_server_counts() {
        let mut run = Run::new(1);
        run.feed(ticks(0..1, 1..11, slot, |_, _| 0.0));
        run.leave(1, true);
        let again = ticks(1..2, 1..80, |n| 4.0 + slot(n), |_, _| 0.0).into_iter();
        run.feed(
            again
                .map(|(at, session, _, n)| (at, session, 1, n))
                .collect(),
        );
        assert_eq!(run.analysis.servers.len(), 1);
        run.tick((2.6, 0, 0, 10), Arrived::Again);
        let log = run.end(24.0);
        assert!(log.delay_ms(1.0) < 1.0);
    }

    #[test]
    fn run_with_very_few_ticks_reports_each() {
        for count in 0..5 {
            let mut run = Run::new(1);
            run.feed(ticks(0..2, 1..count + 1, slot, |_, _| 0.0));
            run.evaluate(slot(count) + 0.1, true);
            assert_eq!(run.analysis.period().is_some(), count > 1);
            let log = run.end(slot(count) + 0.1);
            assert_eq!(log.spreads.len() as u64, count);
        }
    }

    /// Two event loops, each of which reports the tick of the other one again and again.
    #[test]
    fn repeats_of_one_tick_do_not_fill_the_memory() {
        let mut run = Run::new(2);
        run.feed(vec![(0.0, 0, 0, 5), (0.0, 1, 0, 5)]);
        for n in 1..50_000 {
            let at = f64::from(n) * 1e-4;
            run.pass(at);
            run.tick((at, n as usize, 0, 5), Arrived::Again);
        }
        let server = &run.analysis.servers[&0];
        let runs = server.open.values().map(|open| open.runs.len());
        // One more is the first tick of the session on the second event loop.
        assert!(runs.sum::<usize>() <= MAX_RUNS + 1);
        let log = run.end(5.0);
        assert_eq!(log.count(), 50_001);
    }

    #[test]
    fn any_tick_numbers_are_counted() {
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
            run.end(end);
        }
    }

    #[test]
    fn window_has_what_was_due_in_it() {
        let mut run = Run::new(1);
        // Late by 400 ms up to 5 s, and by 100 ms in one tick behind the window.
        let late = |session: usize, n: u64| match n {
            ..100 if session == 1 => 0.4,
            242 => 0.1,
            _ => 0.0,
        };
        let all = ticks(0..2, 0..280, |n| n as f64 * 0.05, late);
        let (before, after): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.0 <= 12.01);
        run.feed(before);
        run.evaluate(12.01, false);
        let window = MeasurementWindow {
            from: run.at(5.01),
            until: Some(run.at(12.01)),
        };
        assert!(run.analysis.evaluated_up_to() < window.until);
        for arrival in after {
            run.pass(arrival.0);
            run.tick(arrival, Arrived::Next);
        }
        assert!(run.analysis.evaluated_up_to() > window.until);
        // Ticks 101 to 240, of both.
        let log = run.end(14.0);
        let within = log.within(window);
        assert_eq!((within.count(), within.spreads.len()), (140 * 2, 140));
        assert!(within.delay_ms(1.0) < 1.0);
        assert!(log.delay_ms(1.0) > 390.0);
    }

    #[test]
    fn open_stall_counts_in_a_window_as_far_as_it_lies_in_it() {
        let mut run = Run::new(1);
        // Stopped from 6 s on. The window is 5 s to 8 s, and is closed at 8.5 s.
        run.feed(ticks(0..3, 0..121, |n| n as f64 * 0.05, |_, _| 0.0));
        run.evaluate(8.5, false);
        let (window, now) = (run.at(4.99)..run.at(8.0), run.at(8.5));
        let window = MeasurementWindow {
            from: window.start,
            until: Some(window.end),
        };
        let mut log = Log::default();
        run.analysis.report_open(now, &mut log);
        let gap = log.gap_in(|from, to| window.overlap(from, to));
        assert_eq!(gap, Duration::from_secs(2));
        let within = log.within(window);
        assert_eq!(within.skipped(), 39, "from 6.05 s to 7.95 s");
        assert_eq!(within.count(), 39 * 3);
        assert!((within.delay_ms(1.0) - 2450.0).abs() < 5.0);
        assert_eq!(run.log.skipped(), 0, "the stall may still end");
    }

    #[test]
    fn punctual_ticks_are_evaluated_soon() {
        let mut run = Run::new(1);
        run.feed(ticks(0..3, 0..121, |n| n as f64 * 0.05, |_, _| 0.0));
        run.evaluate(6.0, false);
        let lag = run.at(6.0) - run.analysis.evaluated_up_to().unwrap();
        assert!(lag <= FIRST_KNOWN, "{lag:?}");
        assert!(run.log.count() >= 118 * 3);
    }

    /// Each fault begins when the schedule is known: a fault in the first ticks can look like a schedule.
    #[test]
    fn planted_fault_is_found_and_none_is_invented() {
        const SESSIONS: usize = 3;
        for (fault, seed) in FAULTS
            .into_iter()
            .flat_map(|fault| (0..8).map(move |seed| (fault, seed)))
        {
            let planted = Planted::new(fault, seed, 20);
            let mut run = Run::new(2);
            let sessions = |&(epoch, tick, at): &(u64, u64, f64)| {
                (0..SESSIONS).map(move |session| (at, session, epoch, tick))
            };
            let (before, after): (Vec<_>, _) = planted.ticks.iter().partition(|tick| tick.0 == 0);
            run.feed(before.into_iter().flat_map(sessions).collect());
            if !after.is_empty() {
                run.leave(SESSIONS as u64, true);
            }
            run.feed(after.into_iter().flat_map(sessions).collect());
            let log = run.end(planted.end);
            let delays = log
                .delays
                .iter()
                .map(|(_, ms, sessions)| ms * *sessions as f64);
            let found = Found {
                skipped: log.skipped(),
                delay_sum: delays.sum::<f64>() / 1e3 / SESSIONS as f64,
                longest_delay: log.delay_ms(1.0) / 1e3,
                longest_gap: log.longest_gap().as_secs_f64(),
            };
            let case = format!("{fault:?} of seed {seed}: {found:?} {planted:?}");
            assert!(planted.is_found(&found), "not found: {case}");
            assert!(!planted.is_invented(&found), "invented: {case}");
        }
    }
}
