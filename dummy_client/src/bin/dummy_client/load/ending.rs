//! What a run, or one step of a search, has come to.

use super::capacity::Step;
use super::conductor::{Conductor, Plan, SECOND};
use super::life::State;
use crate::measure::board::Counts;
use crate::measure::groups::Groups;
use crate::result::summary::{Outcome, Summary};
use std::time::{Duration, Instant};

/// How long the last answers may take at the end.
const SETTLE: Duration = Duration::from_secs(2);
/// A rest of the last second that is shorter than this is no point of the timeline.
const MIN_POINT: Duration = Duration::from_millis(200);
/// A run in which nothing at all is received for this long proves nothing.
const MAX_SILENCE: Duration = Duration::from_secs(5);
/// No tick for this many periods, and no shorter than this, is a server that hangs.
const MAX_MISSED: (u32, Duration) = (4, Duration::from_secs(1));
/// A session that stands for so many periods, and this long, without a tick was forgotten.
const MAX_UNSEEN: (u32, Duration) = (3, Duration::from_millis(500));

impl Conductor<'_> {
    /// Judges the window that ends now, as if it were a run of its own.
    pub(super) fn judge_step(&mut self, now: Instant) -> Step {
        let window = std::mem::take(&mut self.window);
        let counts = self.board.counts().since(&window.counts);
        let mut sessions = self.tally.since(&window.tally);
        sessions.asked = self.wanted;
        sessions.connected = self.tally.live;
        sessions.never_connected = self.wanted.saturating_sub(self.tally.live);
        sessions.server_silent_secs = self.silence(now).map_or(0.0, |silent| silent.as_secs_f64());
        sessions.silent = self.count_silent(now);
        let elapsed = now.duration_since(window.began_at.unwrap_or(self.started_at));
        let summary = Summary::new(
            self.args,
            Outcome {
                elapsed,
                sessions,
                counts,
                unanswered: older_than(&window.counts, &self.board.counts()),
                losses: Groups::default(),
                byes: Groups::default(),
                findings: window.findings,
                machine: (&self.machine).into(),
                samples: &self.meter.window,
                period: self.meter.period(),
                timeline: Vec::new(),
                capacity: None,
                attack: None,
            },
        );
        summary.as_step(self.wanted)
    }

    /// Sends nothing new, and gives what is under way a last chance: the answers to echoes, and
    /// the newest tick on those sessions that do not have it yet.
    pub fn settle(&mut self) {
        self.live.end();
        self.is_ending = true;
        self.end_siege(Instant::now());
        self.board.stop();
        let now = Instant::now();
        self.measure(now);
        self.note_silence(now);
        // Judged by now: who came later than this has waited for less.
        self.tally.silent += self.count_silent(now);
        let give_up_at = Instant::now() + SETTLE;
        let newest = self.live_ticks().max().unwrap_or(0);
        while Instant::now() < give_up_at {
            self.handle_some();
            let is_behind = self.live_ticks().any(|tick| tick != 0 && tick < newest);
            let under_way = self.board.counts().under_way();
            let is_settled = self.tally.live == 0 || !is_behind && under_way == 0;
            if self.connecting == 0 && is_settled {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.tally.behind = self
            .live_ticks()
            .filter(|&tick| tick != 0 && tick < newest)
            .count();
        self.final_counts = self.board.counts();
        self.ended_at = Instant::now();
        // What comes now is the goodbye to all sessions: no packet waits for that.
        self.look(self.ended_at);
    }

    /// Remembers for how long the server has been silent, if that is too long.
    pub(super) fn note_silence(&mut self, now: Instant) {
        let silent_secs = self.silence(now).map_or(0.0, |silent| silent.as_secs_f64());
        self.tally.server_silent_secs = self.tally.server_silent_secs.max(silent_secs);
    }

    /// For how long the server as a whole has been silent, if that is too long. One that hangs
    /// repeats and omits nothing: its silence is all that can be found.
    fn silence(&self, now: Instant) -> Option<Duration> {
        let someone_since = self.someone_since?;
        let (since, limit) = match (self.meter.latest_tick_at(), self.meter.period()) {
            (Some(at), Some(period)) => (at, (period * MAX_MISSED.0).max(MAX_MISSED.1)),
            // With one tick the period is not known.
            (Some(_), None) => return None,
            _ if self.board.counts().packets > 0 => return None,
            _ => (someone_since, MAX_SILENCE),
        };
        Some(now.saturating_duration_since(since.max(someone_since)))
            .filter(|silence| *silence > limit)
    }

    fn live_ticks(&self) -> impl Iterator<Item = u64> + '_ {
        self.live_sessions()
            .map(|(index, _)| self.board.last_tick(index))
    }

    fn live_sessions(&self) -> impl Iterator<Item = (usize, Instant)> + '_ {
        let lives = self.lives.iter().enumerate();
        lives.filter_map(|(index, life)| match life.state {
            State::Live { since, .. } => Some((index, since)),
            _ => None,
        })
    }

    /// Sessions that have stood for some periods of the tick without one, while others had some.
    fn count_silent(&self, now: Instant) -> usize {
        let sessions = self.live_sessions();
        sessions
            .filter(|&(index, since)| self.has_missed_ticks(index, since, now))
            .count()
    }

    /// Whether this session has had no tick, although it stands long enough.
    pub(super) fn has_missed_ticks(&self, index: usize, since: Instant, now: Instant) -> bool {
        let Some(period) = self.meter.period() else {
            return false;
        };
        let patience = (period * MAX_UNSEEN.0).max(MAX_UNSEEN.1);
        let was_forgotten =
            self.board.last_tick(index) == 0 && now.duration_since(since) > patience;
        // Where nobody has had one lately, it is the server that is silent.
        was_forgotten && (self.meter.latest_tick_at()).is_some_and(|at| at > since + period)
    }

    /// Puts everything together. Nothing may be counted any more.
    pub fn summarize(mut self) -> Summary {
        let now = self.ended_at;
        self.collect(now, true);
        if now + SECOND > self.next_second_at + MIN_POINT {
            self.end_second(now);
        }
        let lives = self.lives.iter();
        self.tally.never_connected = self.tally.asked.saturating_sub(self.tally.connected);
        self.tally.gone = lives
            .filter(|life| matches!(life.state, State::Gone | State::Waiting))
            .count();
        self.tally.missing = self.lives.iter().filter(|life| life.is_missing()).count();
        Summary::new(
            self.args,
            Outcome {
                elapsed: self.ended_at - self.started_at,
                sessions: self.tally,
                counts: self.board.counts(),
                unanswered: self.final_counts,
                losses: self.losses,
                byes: self.board.take_byes(),
                findings: self.findings,
                machine: (&self.machine).into(),
                samples: &self.meter.run,
                period: self.meter.period(),
                timeline: self.meter.timeline.clone(),
                capacity: match self.plan {
                    Plan::Search(search) => Some(search.into_report()),
                    Plan::Shape(_) => None,
                },
                attack: self
                    .besieged
                    .map(|besieged| besieged.with_delays(&self.meter.window.tick_delays)),
            },
        )
    }
}

/// What was sent before the first of these moments, and is not back at the second.
fn older_than(before: &Counts, now: &Counts) -> Counts {
    Counts {
        echoes_sent: before.echoes_sent,
        chats_sent: before.chats_sent,
        echoes_overdue: now.echoes_overdue - before.echoes_overdue,
        chats_overdue: now.chats_overdue - before.chats_overdue,
        ..*now
    }
}
