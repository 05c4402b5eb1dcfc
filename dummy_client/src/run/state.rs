//! The users of a run and what is measured of them. Knows no clock and no socket.

use super::values;
use super::watch::Watch;
use crate::collector::{Collector, UserEvent};
use crate::measurement::{Measurement, Samples};
use crate::metrics::{Counter, TickSeries};
use crate::report::{Metrics, Point};
use crate::users::{Endpoint, Left, Users};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Users, measurements, and the ticks that did not come.
pub(super) struct RunState {
    pub collector: Arc<Collector>,
    pub users: Users,
    pub measurement: Measurement,
    /// Users without the newest tick, and users without any tick, by series.
    pub lagging: Vec<(u64, u64)>,
    /// The longest silence of the server.
    pub silent: Duration,
    /// The newest tick of each series at the start of the drain.
    newest: Vec<Option<u64>>,
}

impl RunState {
    pub fn new(collector: Arc<Collector>, users: Users, now: Instant) -> Self {
        let registry = &collector.registry;
        Self {
            measurement: Measurement::new(registry, now),
            lagging: vec![(0, 0); registry.ticks().len()],
            newest: Vec::new(),
            silent: Duration::ZERO,
            users,
            collector,
        }
    }

    /// Takes an event of a user.
    pub fn on_event(&mut self, event: UserEvent, now: Instant, endpoint: &mut impl Endpoint) {
        // Before the users handle the event: the next connection of this user begins in there, and resets its ticks.
        let without: Vec<TickSeries> = match event {
            UserEvent::Lost(user, _) => {
                let newest = |series: TickSeries| self.collector.newest_tick(series, user);
                self.series()
                    .filter(|series| newest(*series).is_none())
                    .collect()
            }
            _ => Vec::new(),
        };
        let left = self.users.on_event(event, now, endpoint);
        if let Some(Left::Closed { since }) = left {
            for series in without {
                let is_owed = self.watch().is_owed_a_tick(series, since, now);
                self.lagging[series.0].1 += u64::from(is_owed);
            }
        }
    }

    /// Takes what the threads and the users have recorded.
    pub fn measure(&mut self, now: Instant, is_end: bool) {
        let (collector, registry) = (&self.collector, &self.collector.registry);
        for outage in self.users.outages.drain(..) {
            collector
                .own_recorder()
                .record(collector.engine.outage, outage);
        }
        for recorder in collector.recorders() {
            self.measurement.collect(registry, recorder);
        }
        self.measurement.evaluate(registry, now, is_end);
    }

    /// No user waits for a packet from now on. `lag`: see [`Watch::silence`].
    pub fn note_silence(&mut self, now: Instant, lag: Duration) {
        let silence = self.watch().silence(now, lag);
        self.silent = self.silent.max(silence.unwrap_or_default());
    }

    /// A silence that is over before the end counts too.
    pub fn note_present_silence(&mut self, now: Instant, lag: Duration) {
        let silence = self.watch().present_silence(now, lag);
        self.silent = self.silent.max(silence.unwrap_or_default());
    }

    /// The run sends nothing new from now on.
    pub fn begin_drain(&mut self, now: Instant, lag: Duration) {
        self.note_silence(now, lag);
        for series in self.series() {
            // Sessions that connect later have waited for less.
            self.lagging[series.0].1 += self.watch().count_without_tick(series, now);
            self.newest.push(self.watch().newest_tick(series));
        }
    }

    /// Whether the answers and ticks of the drain have come.
    pub fn is_drained(&self) -> bool {
        let is_complete = || {
            let counts = self.collector.counts();
            self.collector.in_flight(&counts) == 0 && self.count_lagging().all(|count| count == 0)
        };
        let is_alone = self.users.sessions.connected_at_end == 0;
        !self.users.is_connecting() && (is_alone || is_complete())
    }

    /// The run is over. The end of a session after this call counts as neither a gap nor an outage.
    pub fn end_drain(&mut self, now: Instant) {
        let lagging: Vec<u64> = self.count_lagging().collect();
        for (sum, lagging) in self.lagging.iter_mut().zip(lagging) {
            sum.0 = lagging;
        }
        self.users.finish();
        self.measure(now, true);
    }

    /// The counters of the whole run. The event loops have ended: requests without an answer are lost.
    pub fn final_counts(&self) -> Vec<u64> {
        let mut counts = self.collector.counts();
        for series in self.collector.registry.requests() {
            let of = |counter: Counter| counts[counter.0];
            let done = of(series.answered) + of(series.waiting) + of(series.lost.0);
            counts[series.lost.0.0] += of(series.sent).saturating_sub(done);
        }
        counts
    }

    /// The metrics of these counters and samples. `lagging`: users without the newest tick, and without any.
    pub fn metrics(&self, counts: &[u64], samples: &Samples, lagging: &[(u64, u64)]) -> Metrics {
        let registry = &self.collector.registry;
        values::metrics(registry, &self.measurement, counts, samples, lagging)
    }

    /// The failures of a run that received packets, and nothing that it expected. The run is over.
    pub fn nothing_checked(&self, counts: &[u64]) -> Vec<String> {
        let collector = &self.collector;
        if counts[collector.engine.packets.0] == 0 {
            return Vec::new();
        }
        values::nothing_checked(
            &collector.registry,
            collector.engine.definitions,
            counts,
            &self.measurement.run,
            collector.has_checked(),
        )
    }

    /// A point a second. The run is over.
    pub fn into_timeline(self) -> Vec<Point> {
        let names = values::trend_names(&self.collector.registry);
        let points = self.measurement.into_points();
        let points = points.iter().map(|second| values::point(second, &names));
        points.collect()
    }

    pub fn watch(&self) -> Watch<'_> {
        Watch {
            users: &self.users,
            collector: &self.collector,
            measurement: &self.measurement,
        }
    }

    pub fn series(&self) -> impl Iterator<Item = TickSeries> + use<> {
        (0..self.lagging.len()).map(TickSeries)
    }

    /// Sessions without the newest tick of the start of the drain, by series.
    fn count_lagging(&self) -> impl Iterator<Item = u64> + '_ {
        let newest = self.series().zip(&self.newest);
        newest.map(|(series, newest)| self.watch().count_lagging(series, *newest))
    }
}
