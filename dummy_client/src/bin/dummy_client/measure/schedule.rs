//! The ticks of one server: who got each of them when, and what that says about the server.

use super::phase::{Arrival, Judged, Phase, strided};
use super::recorder::TickRun;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Where the findings go.
pub trait Book {
    /// So many sessions got a tick so late.
    fn delay(&mut self, due: Instant, delay: Duration, sessions: u64);
    /// So many sessions waited so long for a slot that stayed empty.
    fn charge(&mut self, due: Instant, delay: Duration, sessions: u64);
    /// So many slots, all due about then, stayed empty.
    fn skip(&mut self, due: Instant, slots: u64);
    /// From the first session that a tick reached to the last.
    fn spread(&mut self, due: Instant, spread: Duration);
    /// From the first arrival of a tick to that of the next one.
    fn gap(&mut self, from: Instant, to: Instant);
}

/// One server's ticks, from the first to the last.
#[derive(Debug, Default)]
pub struct Schedule {
    phase: Phase,
    /// Ticks that are not judged yet, by number.
    open: BTreeMap<u64, OpenTick>,
    /// The latest judged ticks, for those who get them late.
    dues: BTreeMap<u64, Due>,
    /// The same, of numbers that have no place in the schedule.
    strays: BTreeMap<u64, Due>,
    /// Judged ticks that some sessions may still get, oldest first.
    spreading: VecDeque<u64>,
    /// Sessions that have had a tick and still stand.
    standing: u64,
    /// The latest tick in the schedule, with its number.
    latest: Option<(u64, Due)>,
    /// The first arrival of the latest tick of all.
    latest_first_at: Option<Instant>,
    /// The latest arrival.
    latest_at: Option<Instant>,
}

/// A time without ticks that has not ended.
#[derive(Debug)]
pub struct Silence {
    /// When the latest tick came.
    pub since: Instant,
    /// Sessions that wait.
    pub sessions: u64,
    /// When slots were due that are certainly late by now, and how many at each time.
    pub slots: Vec<(Instant, u64)>,
}

#[derive(Debug)]
struct OpenTick {
    first_at: Instant,
    runs: Vec<TickRun>,
    /// In the phase's hands already; later arrivals still count.
    is_pushed: bool,
}

/// What has to be known of a judged tick.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Instant,
    period: Duration,
    /// Empty slots before it that those who waited for it are charged for.
    charged: u64,
    first_at: Instant,
    last_at: Instant,
    /// Sessions that have got it.
    sessions: u64,
    /// Those of them that had got one before.
    waited: u64,
}

/// A tick's first arrival is known when it is this old: every loop has handed in what it had.
pub const FIRST_KNOWN: Duration = Duration::from_millis(100);
/// A session that has not got a tick by now is not waited for with the tick's spread.
pub const MAX_SPREAD: Duration = Duration::from_secs(10);
/// Judged ticks that stragglers can still be measured by exactly.
const MAX_DUES: usize = 50_000;

impl Schedule {
    /// Sessions got a tick.
    pub fn take(&mut self, run: TickRun, started_at: Instant, book: &mut impl Book) {
        self.standing = self.standing.saturating_add(run.first);
        self.latest_at = self.latest_at.max(Some(run.at));
        if let Some(open) = self.open.get_mut(&run.tick) {
            if !open.is_pushed {
                open.first_at = open.first_at.min(run.at);
            }
            open.runs.push(run);
            return;
        }
        let known = match self.dues.get_mut(&run.tick) {
            Some(due) => Some(due),
            None => self.strays.get_mut(&run.tick),
        };
        if let Some(due) = known {
            due.take(run, book);
        } else if let Some((later, due)) = self.dues.range(run.tick..).next() {
            // Nobody got this one in time, or it was too long ago.
            let back = due.period.as_secs_f64() * (later - run.tick) as f64;
            let back = Duration::try_from_secs_f64(back).unwrap_or(Duration::MAX);
            let at = due.at.checked_sub(back).unwrap_or(started_at);
            let at = at.max(started_at);
            book.delay(at, run.at.saturating_duration_since(at), run.sessions);
        } else {
            let open = OpenTick {
                first_at: run.at,
                runs: vec![run],
                is_pushed: false,
            };
            self.open.insert(run.tick, open);
        }
    }

    /// Sessions that had a tick stand no more.
    pub fn leave(&mut self, sessions: u64) {
        self.standing = self.standing.saturating_sub(sessions);
    }

    /// Judges the ticks that can be judged by now, or `all`.
    pub fn judge(&mut self, now: Instant, started_at: Instant, all: bool, book: &mut impl Book) {
        for (&tick, open) in self.open.iter_mut().filter(|(_, open)| !open.is_pushed) {
            if !all && now.saturating_duration_since(open.first_at) < FIRST_KNOWN {
                continue;
            }
            open.is_pushed = true;
            let has_waited = open.runs.iter().any(|run| run.waited > 0);
            if let Some(before) = self.latest_first_at.filter(|_| has_waited) {
                book.gap(before, open.first_at);
            }
            self.latest_first_at = self.latest_first_at.max(Some(open.first_at));
            self.phase.push(Arrival {
                tick,
                at: open
                    .first_at
                    .saturating_duration_since(started_at)
                    .as_secs_f64(),
            });
        }
        for judged in self.phase.judge(all) {
            let Some(open) = self.open.remove(&judged.tick) else {
                continue;
            };
            let mut due = Due::new(&judged, &open, started_at);
            for (at, slots) in due.slots(judged.skipped) {
                book.skip(at, slots);
            }
            for missed in &judged.missed {
                // Whoever has waited for the tick that came then.
                if let Some(next) = self.dues.get(&missed.until_tick) {
                    let at = instant(missed.due, started_at).min(next.first_at);
                    let delay = next.first_at.saturating_duration_since(at);
                    book.charge(at, delay, next.waited.saturating_mul(missed.slots));
                }
            }
            for run in open.runs {
                due.take(run, book);
            }
            let dues = match judged.is_stray {
                true => &mut self.strays,
                false => &mut self.dues,
            };
            dues.insert(judged.tick, due);
            if dues.len() > MAX_DUES {
                dues.pop_first();
            }
            if !judged.is_stray {
                self.latest = Some((judged.tick, due));
            }
            self.spreading.push_back(judged.tick);
        }
    }

    /// Hands out the spreads of the ticks that every session has by now, or that are too old to
    /// wait for; or of `all`.
    pub fn settle(&mut self, now: Instant, all: bool, book: &mut impl Book) {
        let (dues, strays, standing) = (&self.dues, &self.strays, self.standing);
        self.spreading.retain(|tick| {
            let Some(due) = dues.get(tick).or_else(|| strays.get(tick)) else {
                return false;
            };
            let is_old = now.saturating_duration_since(due.first_at) > MAX_SPREAD;
            let is_settled = all || is_old || due.sessions >= standing;
            if is_settled {
                book.spread(due.at, due.spread());
            }
            !is_settled
        });
    }

    /// The spreads, so far, of the ticks that are not settled, and when those were due.
    pub fn unsettled(&self) -> impl Iterator<Item = (Instant, Duration)> + '_ {
        let known = |tick| self.dues.get(tick).or_else(|| self.strays.get(tick));
        let dues = self.spreading.iter().filter_map(known);
        dues.map(|due| (due.at, due.spread()))
    }

    /// The silence that lasts until this moment, if somebody has to bear it.
    pub fn silence(&self, until: Instant) -> Option<Silence> {
        let since = self.latest_first_at.filter(|_| self.standing > 0)?;
        let mut slots = Vec::new();
        if let Some((_, latest)) = self.latest.filter(|(_, due)| !due.period.is_zero()) {
            // The next one may be as late as this one was, and is then not missed yet.
            let silent = until.saturating_duration_since(latest.first_at);
            let missed = (silent.as_secs_f64() / latest.period.as_secs_f64()).floor() as u64;
            let missed = missed.saturating_sub(1);
            let next = Due {
                at: latest.after(missed.saturating_add(1)).unwrap_or(until),
                ..latest
            };
            slots = next.slots(missed).collect();
        }
        Some(Silence {
            since,
            sessions: self.standing,
            slots,
        })
    }

    /// The period of the server's tick, as far as it is known.
    pub fn period(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.phase.period()?).ok()
    }

    /// When the latest tick came.
    pub fn latest_at(&self) -> Option<Instant> {
        self.latest_at
    }

    /// When the oldest tick came that is not judged.
    pub fn oldest_open_at(&self) -> Option<Instant> {
        self.open.values().map(|open| open.first_at).min()
    }

    /// Whether no session that had a tick stands any more.
    pub fn is_deserted(&self) -> bool {
        self.standing == 0
    }
}

impl Due {
    fn new(judged: &Judged, open: &OpenTick, started_at: Instant) -> Self {
        Self {
            at: instant(judged.due, started_at).min(open.first_at),
            period: Duration::try_from_secs_f64(judged.period).unwrap_or_default(),
            charged: judged.charged,
            first_at: open.first_at,
            last_at: open.first_at,
            sessions: 0,
            waited: 0,
        }
    }

    /// Sessions have got it: so late are they, and so long have they waited for the slots before.
    fn take(&mut self, run: TickRun, book: &mut impl Book) {
        self.first_at = self.first_at.min(run.at);
        self.last_at = self.last_at.max(run.at);
        self.sessions = self.sessions.saturating_add(run.first + run.waited);
        self.waited = self.waited.saturating_add(run.waited);
        let delay = run.at.saturating_duration_since(self.at);
        book.delay(self.at, delay, run.sessions);
        if run.waited > 0 {
            for (at, slots) in self.slots(self.charged) {
                let delay = run.at.saturating_duration_since(at);
                book.charge(at, delay, run.waited.saturating_mul(slots));
            }
        }
    }

    /// When the slots right before it were due, the latest first, and how many about then.
    fn slots(&self, count: u64) -> impl Iterator<Item = (Instant, u64)> + use<> {
        let (at, period) = (self.at, self.period.as_secs_f64());
        strided(1, count).map(move |(place, slots)| {
            let back = Duration::try_from_secs_f64(period * place as f64);
            let slot = at.checked_sub(back.unwrap_or(Duration::MAX));
            (slot.unwrap_or(at), slots)
        })
    }

    /// When the slot so many behind it is due.
    fn after(&self, slots: u64) -> Option<Instant> {
        let ahead = self.period.as_secs_f64() * slots as f64;
        self.at
            .checked_add(Duration::try_from_secs_f64(ahead).ok()?)
    }

    fn spread(&self) -> Duration {
        self.last_at.saturating_duration_since(self.first_at)
    }
}

/// So many seconds after the start, and not before it.
fn instant(secs: f64, started_at: Instant) -> Instant {
    let secs = Duration::try_from_secs_f64(secs.max(0.0)).unwrap_or_default();
    started_at.checked_add(secs).unwrap_or(started_at)
}
