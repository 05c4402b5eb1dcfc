//! Puts together what the event loops have recorded: for the whole run, for one window, and for each second.

use crate::analysis::{MeasurementWindow, TickAnalysis, TickSink};
use crate::metrics::recorder::{Batch, Recorder};
use crate::metrics::series::{Second, TimeSeries, point_trend};
use crate::metrics::{Histogram, Registry, TickSeries};
use std::time::{Duration, Instant};

/// The measurements of a run.
#[derive(Debug)]
pub(crate) struct Measurement {
    /// Of the whole run.
    pub run: Samples,
    /// Of a part of the run that is evaluated by itself.
    pub window: Samples,
    bounds: MeasurementWindow,
    /// Of the present second. The trends of tick series are not in it.
    second: Samples,
    series: Vec<TickAnalysis>,
    time_series: TimeSeries,
    started_at: Instant,
    spare: Batch,
    has_ended: bool,
}

/// Samples of one span of time.
#[derive(Clone, Debug)]
pub(crate) struct Samples {
    /// By trend.
    pub trends: Vec<Histogram>,
    /// By tick series.
    pub ticks: Vec<TickTotals>,
    pub worst_late_send: Duration,
    /// Ticks that were received and not evaluated.
    pub dropped_ticks: u64,
}

/// What a span has of one tick series besides its trends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TickTotals {
    /// Slots of the schedule without a tick.
    pub skipped: u64,
    /// Samples for these slots: one for each slot and each session that waited.
    pub synthetic: u64,
    /// The longest time without a tick.
    pub longest_gap: Duration,
}

impl Samples {
    fn new(registry: &Registry) -> Self {
        Self {
            trends: vec![Histogram::default(); registry.trends()],
            ticks: vec![TickTotals::default(); registry.ticks().len()],
            worst_late_send: Duration::ZERO,
            dropped_ticks: 0,
        }
    }

    fn clear(&mut self) {
        self.trends.iter_mut().for_each(Histogram::clear);
        self.ticks.fill(TickTotals::default());
        self.worst_late_send = Duration::ZERO;
        self.dropped_ticks = 0;
    }

    fn add(&mut self, batch: &Batch) {
        for (sum, part) in self.trends.iter_mut().zip(&batch.trends) {
            if !part.is_empty() {
                sum.add(part);
            }
        }
        self.worst_late_send = self.worst_late_send.max(batch.worst_late_send);
        self.dropped_ticks += batch.dropped_ticks;
    }

    fn add_synthetic(&mut self, at: Place, delay: Duration, sessions: u64) {
        self.trends[at.delay].record(delay, sessions);
        let synthetic = &mut self.ticks[at.series].synthetic;
        *synthetic = synthetic.saturating_add(sessions);
    }

    fn add_skipped(&mut self, at: Place, slots: u64) {
        let skipped = &mut self.ticks[at.series].skipped;
        *skipped = skipped.saturating_add(slots);
    }

    fn add_gap(&mut self, at: Place, gap: Duration) {
        let longest = &mut self.ticks[at.series].longest_gap;
        *longest = gap.max(*longest);
    }
}

/// Where the results of a tick series belong.
#[derive(Clone, Copy, Debug)]
struct Place {
    series: usize,
    delay: usize,
    spread: usize,
}

impl Measurement {
    pub fn new(registry: &Registry, started_at: Instant) -> Self {
        let series = registry.ticks().iter();
        Self {
            run: Samples::new(registry),
            window: Samples::new(registry),
            bounds: MeasurementWindow {
                from: started_at,
                until: None,
            },
            second: Samples::new(registry),
            series: series.map(|_| TickAnalysis::new(started_at)).collect(),
            time_series: TimeSeries::new(started_at),
            started_at,
            spare: Batch::new(registry),
            has_ended: false,
        }
    }

    /// Takes what a thread has recorded since the last call.
    pub fn collect(&mut self, registry: &Registry, recorder: &Recorder) {
        let empty = std::mem::take(&mut self.spare);
        let mut batch = recorder.take(empty);
        self.each_series(registry, |analysis, series, sink| {
            analysis.collect(&batch.ticks[series], &batch.leaves[series], sink);
        });
        self.run.add(&batch);
        self.second.add(&batch);
        if self.bounds.until.is_none() {
            self.window.add(&batch);
        }
        batch.clear();
        self.spare = batch;
    }

    /// Evaluates the ticks that can be evaluated by now; at the end of the run, all of them.
    pub fn evaluate(&mut self, registry: &Registry, now: Instant, is_end: bool) {
        self.has_ended |= is_end;
        self.each_series(registry, |analysis, _, sink| {
            analysis.evaluate(now, is_end, sink);
        });
        self.close_seconds();
    }

    /// From now on, a part of the run that is evaluated by itself. What was due before is not in it.
    pub fn begin_window(&mut self, now: Instant) {
        self.window.clear();
        self.bounds = MeasurementWindow {
            from: now,
            until: None,
        };
    }

    /// The window ends: what was due in it and is known by now belongs to it, open slots included.
    pub fn end_window(&mut self, registry: &Registry, now: Instant) {
        self.bounds.until.get_or_insert(now);
        self.each_series(registry, |analysis, _, sink| {
            analysis.evaluate_all(now, sink);
        });
        let bounds = self.bounds;
        for (series, analysis) in self.series.iter().enumerate() {
            let mut sink = WindowSink {
                at: place(registry, series),
                samples: &mut self.window,
                bounds,
            };
            analysis.report_open(now, &mut sink);
        }
        self.close_seconds();
    }

    /// Ends a second, and returns its point as far as it is known.
    pub fn end_second(&mut self, mut point: Second) -> Second {
        for (trend, histogram) in self.second.trends.iter().enumerate() {
            if !histogram.is_empty() {
                point.trends.insert(trend, point_trend(histogram));
            }
        }
        self.second.clear();
        let point = self.time_series.end_second(point);
        self.close_seconds();
        point
    }

    /// The period of a tick series, if it is known.
    pub fn period(&self, series: TickSeries) -> Option<Duration> {
        self.series[series.0].period()
    }

    /// The longest time from the arrival of a tick to its evaluation.
    pub fn lag(&self) -> Duration {
        let lags = self.series.iter().map(TickAnalysis::lag);
        lags.max().unwrap_or_default()
    }

    /// When the latest tick of a series arrived.
    pub fn latest_tick_at(&self, series: TickSeries) -> Option<Instant> {
        self.series[series.0].latest_tick_at()
    }

    pub fn into_points(self) -> Vec<Second> {
        self.time_series.into_points()
    }

    fn close_seconds(&mut self) {
        let evaluated = self.series.iter().map(|analysis| {
            let up_to = analysis.evaluated_up_to().unwrap_or(self.started_at);
            // While no tick arrives, the samples of that time are still open.
            analysis.latest_tick_at().map_or(up_to, |at| at.min(up_to))
        });
        let evaluated = evaluated.min().unwrap_or(self.started_at);
        self.time_series.close(evaluated, self.has_ended);
    }

    fn each_series(
        &mut self,
        registry: &Registry,
        mut act: impl FnMut(&mut TickAnalysis, usize, &mut RunSink<'_>),
    ) {
        for (series, analysis) in self.series.iter_mut().enumerate() {
            let mut sink = RunSink {
                at: place(registry, series),
                run: &mut self.run,
                window: &mut self.window,
                bounds: self.bounds,
                time_series: &mut self.time_series,
            };
            act(analysis, series, &mut sink);
        }
    }
}

fn place(registry: &Registry, series: usize) -> Place {
    let metrics = &registry.ticks()[series];
    Place {
        series,
        delay: metrics.delay.0,
        spread: metrics.spread.0,
    }
}

/// Results of the run, of its window, and of its seconds.
struct RunSink<'a> {
    at: Place,
    run: &'a mut Samples,
    window: &'a mut Samples,
    bounds: MeasurementWindow,
    time_series: &'a mut TimeSeries,
}

impl RunSink<'_> {
    /// The window, if it has what was due then.
    fn window(&mut self, due: Instant) -> Option<&mut Samples> {
        self.bounds.contains(due).then_some(&mut *self.window)
    }
}

impl TickSink for RunSink<'_> {
    fn delay(&mut self, due: Instant, delay: Duration, sessions: u64) {
        let at = self.at;
        self.run.trends[at.delay].record(delay, sessions);
        if let Some(window) = self.window(due) {
            window.trends[at.delay].record(delay, sessions);
        }
        let trend = crate::metrics::Trend(at.delay);
        self.time_series.delay(trend, due, delay, sessions);
    }

    fn synthetic(&mut self, due: Instant, delay: Duration, sessions: u64) {
        let at = self.at;
        self.run.add_synthetic(at, delay, sessions);
        if let Some(window) = self.window(due) {
            window.add_synthetic(at, delay, sessions);
        }
        let trend = crate::metrics::Trend(at.delay);
        self.time_series.delay(trend, due, delay, sessions);
    }

    fn skipped(&mut self, due: Instant, slots: u64) {
        let at = self.at;
        self.run.add_skipped(at, slots);
        if let Some(window) = self.window(due) {
            window.add_skipped(at, slots);
        }
    }

    fn spread(&mut self, due: Instant, spread: Duration) {
        let at = self.at;
        self.run.trends[at.spread].record(spread, 1);
        if let Some(window) = self.window(due) {
            window.trends[at.spread].record(spread, 1);
        }
    }

    fn dropped(&mut self, at: Instant, sessions: u64) {
        self.run.dropped_ticks += sessions;
        if let Some(window) = self.window(at) {
            window.dropped_ticks += sessions;
        }
    }

    fn gap(&mut self, from: Instant, to: Instant) {
        let at = self.at;
        self.run.add_gap(at, to.saturating_duration_since(from));
        self.window.add_gap(at, self.bounds.overlap(from, to));
    }
}

/// Results of a window that are open at its end.
struct WindowSink<'a> {
    at: Place,
    samples: &'a mut Samples,
    bounds: MeasurementWindow,
}

impl TickSink for WindowSink<'_> {
    fn delay(&mut self, due: Instant, delay: Duration, sessions: u64) {
        if self.bounds.contains(due) {
            self.samples.trends[self.at.delay].record(delay, sessions);
        }
    }

    fn synthetic(&mut self, due: Instant, delay: Duration, sessions: u64) {
        if self.bounds.contains(due) {
            self.samples.add_synthetic(self.at, delay, sessions);
        }
    }

    fn skipped(&mut self, due: Instant, slots: u64) {
        if self.bounds.contains(due) {
            self.samples.add_skipped(self.at, slots);
        }
    }

    fn spread(&mut self, due: Instant, spread: Duration) {
        if self.bounds.contains(due) {
            self.samples.trends[self.at.spread].record(spread, 1);
        }
    }

    fn gap(&mut self, from: Instant, to: Instant) {
        self.samples.add_gap(self.at, self.bounds.overlap(from, to));
    }
}
