//! Ticks that do not come: of the whole server, and of single sessions.

use crate::collector::Collector;
use crate::measurement::Measurement;
use crate::metrics::TickSeries;
use crate::users::Users;
use std::time::{Duration, Instant};

/// A server that sends no packet for this long is silent; so is one that sends no tick while the period of its ticks
/// is not known.
const MAX_SILENCE: Duration = Duration::from_secs(5);
/// No tick for this number of periods, and for at least this long, is a server that hangs.
const MAX_MISSED: (u32, Duration) = (4, Duration::from_secs(1));
/// A session without a tick for this number of periods, and for at least this long, was forgotten.
const MAX_UNSEEN: (u32, Duration) = (3, Duration::from_millis(500));

/// A look at what a run has received so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch<'a> {
    pub users: &'a Users,
    pub collector: &'a Collector,
    pub measurement: &'a Measurement,
}

impl Watch<'_> {
    /// The time for which the whole server has been silent, if that is too long. A server that hangs repeats
    /// and omits nothing: its silence is all that can be found. `lag` is the client's own part of the silence: packets of
    /// this time may wait to be read.
    pub fn silence(self, now: Instant, lag: Duration) -> Option<Duration> {
        self.silence_since(self.users.first_connected_at?, now, lag)
    }

    /// The same in the middle of a run, for the sessions that are connected: a time without a session is an outage,
    /// and not a silence.
    pub fn present_silence(self, now: Instant, lag: Duration) -> Option<Duration> {
        let oldest = self.users.connected().map(|(_, since)| since).min();
        self.silence_since(oldest?, now, lag)
    }

    fn silence_since(
        self,
        first_connected_at: Instant,
        now: Instant,
        lag: Duration,
    ) -> Option<Duration> {
        let of = |since: Instant, limit: Duration| {
            let silence = now.saturating_duration_since(since.max(first_connected_at));
            let silence = silence.saturating_sub(lag);
            (silence > limit).then_some(silence)
        };
        let series = (0..self.collector.registry.ticks().len()).map(TickSeries);
        let ticks = series.filter_map(|series| {
            // Before the first tick, the whole run is the silence: a scenario with a series expects its ticks.
            let at = self.measurement.latest_tick_at(series);
            let period = self.measurement.period(series);
            // With one tick the period is not known.
            let limit = period.map_or(MAX_SILENCE, |period| {
                period.saturating_mul(MAX_MISSED.0).max(MAX_MISSED.1)
            });
            of(at.unwrap_or(first_connected_at), limit)
        });
        let has_received = self.collector.counts()[self.collector.engine.packets.0] > 0;
        if has_received {
            return ticks.max();
        }
        of(first_connected_at, MAX_SILENCE)
    }

    /// Sessions without a tick that are old enough to have one.
    pub fn count_without_tick(self, series: TickSeries, now: Instant) -> u64 {
        let connected = self.users.connected();
        let without = connected.filter(|&(user, since)| self.has_no_tick(series, user, since, now));
        without.count() as u64
    }

    /// Whether a session has no tick and is old enough to have one.
    pub fn has_no_tick(
        self,
        series: TickSeries,
        user: usize,
        since: Instant,
        now: Instant,
    ) -> bool {
        let newest = self.collector.newest_tick(series, user);
        newest.is_none() && self.is_owed_a_tick(series, since, now)
    }

    /// Whether a session of this age has a tick, if the server sends it what others get.
    pub fn is_owed_a_tick(self, series: TickSeries, since: Instant, now: Instant) -> bool {
        let Some(period) = self.measurement.period(series) else {
            return false;
        };
        let limit = (period * MAX_UNSEEN.0).max(MAX_UNSEEN.1);
        let others_have =
            (self.measurement.latest_tick_at(series)).is_some_and(|at| at > since + period);
        // Where no session has received a tick lately, the server is silent.
        now.saturating_duration_since(since) > limit && others_have
    }

    /// The newest tick over all sessions.
    pub fn newest_tick(self, series: TickSeries) -> Option<u64> {
        self.newest_ticks(series).max()
    }

    /// Sessions whose newest tick is older than this one, without those that have none.
    pub fn count_lagging(self, series: TickSeries, newest: Option<u64>) -> u64 {
        let ticks = self.newest_ticks(series);
        ticks.filter(|tick| Some(*tick) < newest).count() as u64
    }

    /// The newest tick of each session, without those that have none.
    fn newest_ticks(self, series: TickSeries) -> impl Iterator<Item = u64> {
        let users = self.users.connected();
        users.filter_map(move |(user, _)| self.collector.newest_tick(series, user))
    }
}
