//! Puts together what the event loops have measured: how late, how even, how fast.

use super::phase::{Arrival, Phase, WINDOW};
use super::recorder::{Batch, Micros, Recorder, Samples, TickRun, record};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant};

/// The measurements of a whole run.
pub struct Meter {
    started_at: Instant,
    /// Of the whole run.
    pub run: Samples,
    /// Since [`begin_window`](Self::begin_window): a part of the run that is judged by itself.
    pub window: Samples,
    /// Since the last point of the timeline.
    second: Samples,
    /// One point a second.
    pub timeline: Vec<Second>,
    epoch: u64,
    phase: Phase,
    /// Ticks that are not judged yet, by number.
    open: BTreeMap<u64, TickRecord>,
    /// When the latest judged ticks were due, for those who get them late.
    dues: VecDeque<(u64, Instant)>,
    pushed_up_to: u64,
    latest_at: Option<Instant>,
    spare: Batch,
}

/// What one second brought.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
pub struct Second {
    /// Seconds since the start.
    pub at_secs: f64,
    /// Sessions that stood.
    pub sessions: usize,
    pub packets_per_sec: f64,
    pub bytes_per_sec: f64,
    pub lost: u64,
    pub tick_delay_p50_ms: f64,
    pub tick_delay_p99_ms: f64,
    pub tick_delay_max_ms: f64,
    pub rtt_p50_ms: f64,
    pub rtt_p99_ms: f64,
    pub rtt_max_ms: f64,
}

struct TickRecord {
    first_at: Instant,
    last_at: Instant,
    runs: Vec<(Instant, u64)>,
    /// In the phase's hands already; later arrivals still count.
    is_pushed: bool,
}

/// A tick's first arrival is known when it is this old: every loop has handed in what it had.
const FIRST_KNOWN: Duration = Duration::from_millis(500);
/// Judged ticks that stragglers can still be charged for.
const DUES: usize = 100_000;
/// Points of the timeline; a longer run has coarser ones.
const MAX_POINTS: usize = 2_000;

impl Meter {
    /// Nothing measured yet.
    pub fn new(started_at: Instant) -> Self {
        Self {
            started_at,
            run: Samples::default(),
            window: Samples::default(),
            second: Samples::default(),
            timeline: Vec::new(),
            epoch: 0,
            phase: Phase::default(),
            open: BTreeMap::new(),
            dues: VecDeque::new(),
            pushed_up_to: 0,
            latest_at: None,
            spare: Batch::default(),
        }
    }

    /// Takes what an event loop has measured since the last time.
    pub fn collect(&mut self, recorder: &Recorder) {
        let mut batch = recorder.take(std::mem::take(&mut self.spare));
        for run in &batch.ticks {
            self.take_run(*run);
        }
        for samples in [&mut self.run, &mut self.window, &mut self.second] {
            samples.absorb(&batch.samples);
        }
        batch.clear();
        self.spare = batch;
    }

    /// Judges the ticks that can be judged by now; at the end of a run, all of them can.
    pub fn judge(&mut self, now: Instant, is_end: bool) {
        let since_start = |at: Instant| at.saturating_duration_since(self.started_at).as_secs_f64();
        let not_pushed = (Bound::Excluded(self.pushed_up_to), Bound::Unbounded);
        for (&tick, record) in self.open.range_mut(not_pushed) {
            if !is_end && now.saturating_duration_since(record.first_at) < FIRST_KNOWN {
                break;
            }
            record.is_pushed = true;
            self.pushed_up_to = tick;
            self.phase.push(Arrival {
                tick,
                at: since_start(record.first_at),
            });
        }
        while let Some(judged) = self.phase.pop(is_end) {
            let due = self.started_at + Duration::from_secs_f64(judged.due.max(0.0));
            if self.dues.len() == DUES {
                self.dues.pop_front();
            }
            self.dues.push_back((judged.tick, due));
            if let Some(tick) = self.open.remove(&judged.tick) {
                for samples in [&mut self.run, &mut self.window, &mut self.second] {
                    record(&mut samples.tick_spreads, tick.last_at - tick.first_at, 1);
                }
                for (at, sessions) in tick.runs {
                    self.count_delay(at.saturating_duration_since(due), sessions);
                }
            }
        }
    }

    /// From now on, a part of the run that is judged by itself.
    pub fn begin_window(&mut self) {
        self.window.clear();
    }

    /// The period of the server's tick, as far as it is known.
    pub fn period(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.phase.period()?).ok()
    }

    /// How long it takes at the most until a tick that has come is judged.
    pub fn lag(&self) -> Duration {
        let period = self.period().unwrap_or_default();
        FIRST_KNOWN + period.saturating_mul(WINDOW as u32 + 2)
    }

    /// When the latest tick came, of the server that runs now.
    pub fn latest_tick_at(&self) -> Option<Instant> {
        self.latest_at
    }

    /// Ends a second, and returns its point in the timeline.
    pub fn end_second(&mut self, mut point: Second) -> Second {
        point.tick_delay_p50_ms = quantile_ms(&self.second.tick_delays, 0.5);
        point.tick_delay_p99_ms = quantile_ms(&self.second.tick_delays, 0.99);
        point.tick_delay_max_ms = quantile_ms(&self.second.tick_delays, 1.0);
        point.rtt_p50_ms = quantile_ms(&self.second.round_trips, 0.5);
        point.rtt_p99_ms = quantile_ms(&self.second.round_trips, 0.99);
        point.rtt_max_ms = quantile_ms(&self.second.round_trips, 1.0);
        self.second.clear();
        self.timeline.push(point);
        if self.timeline.len() > MAX_POINTS {
            self.timeline = self.timeline.chunks(2).map(Second::merge).collect();
        }
        point
    }

    fn take_run(&mut self, run: TickRun) {
        if run.epoch != self.epoch {
            if run.epoch < self.epoch {
                return;
            }
            // Another server: it has a schedule of its own, and the old ticks are all there.
            self.judge(run.at, true);
            self.epoch = run.epoch;
            self.phase = Phase::default();
            self.open.clear();
            self.dues.clear();
            self.pushed_up_to = 0;
        }
        self.latest_at = self.latest_at.max(Some(run.at));
        if let Some(record) = self.open.get_mut(&run.tick) {
            record.first_at = match record.is_pushed {
                true => record.first_at,
                false => record.first_at.min(run.at),
            };
            record.last_at = record.last_at.max(run.at);
            record.runs.push((run.at, run.sessions));
        } else if run.tick > self.pushed_up_to {
            let record = TickRecord {
                first_at: run.at,
                last_at: run.at,
                runs: vec![(run.at, run.sessions)],
                is_pushed: false,
            };
            self.open.insert(run.tick, record);
        } else {
            let place = self.dues.binary_search_by_key(&run.tick, |(tick, _)| *tick);
            let due = self.dues.get(place.unwrap_or_else(|place| place));
            if let Some(&(_, due)) = due {
                self.count_delay(run.at.saturating_duration_since(due), run.sessions);
            }
        }
    }

    fn count_delay(&mut self, delay: Duration, sessions: u64) {
        for samples in [&mut self.run, &mut self.window, &mut self.second] {
            record(&mut samples.tick_delays, delay, sessions);
        }
    }
}

impl Second {
    /// One coarser point for two.
    fn merge(points: &[Self]) -> Self {
        let count = points.len().max(1) as f64;
        let last = points.last().copied().unwrap_or_default();
        let mean = |of: fn(&Self) -> f64| points.iter().map(of).sum::<f64>() / count;
        let most = |of: fn(&Self) -> f64| points.iter().map(of).fold(0.0, f64::max);
        Self {
            packets_per_sec: mean(|point| point.packets_per_sec),
            bytes_per_sec: mean(|point| point.bytes_per_sec),
            tick_delay_p50_ms: mean(|point| point.tick_delay_p50_ms),
            tick_delay_p99_ms: most(|point| point.tick_delay_p99_ms),
            tick_delay_max_ms: most(|point| point.tick_delay_max_ms),
            rtt_p50_ms: mean(|point| point.rtt_p50_ms),
            rtt_p99_ms: most(|point| point.rtt_p99_ms),
            rtt_max_ms: most(|point| point.rtt_max_ms),
            ..last
        }
    }
}

/// A quantile in milliseconds; 0 if nothing was counted.
pub fn quantile_ms(histogram: &Micros, quantile: f64) -> f64 {
    match histogram.is_empty() {
        true => 0.0,
        false => histogram.value_at_quantile(quantile) as f64 / 1e3,
    }
}
