//! The plots of the page.

use super::axis::Axis;
use super::format::{grouped, ms, words};
use super::plot::{Ink, Line, Plot};
use crate::report::{Point, PointTrend, Report, TrendValue};

/// One plot, its title and its key.
pub struct Figure {
    pub title: String,
    pub unit: &'static str,
    /// For a reader who does not see the plot.
    pub description: String,
    pub keys: Vec<(Ink, String)>,
    pub svg: String,
}

const QUANTILES: [(Ink, &str); 3] = [(Ink::Main, "p50"), (Ink::High, "p99"), (Ink::Max, "max")];

/// Sessions and packets over time.
pub fn load(report: &Report) -> Vec<Figure> {
    if report.timeline.is_empty() {
        return Vec::new();
    }
    let mut sessions = area(report, "sessions", "connected", |point| {
        point.sessions as f64
    });
    let lost = points(report, |point| Some(point.sessions_lost as f64));
    if let Some(&(_, Some(lost_at_end))) = lost.last()
        && lost_at_end > 0.0
    {
        let line = Line {
            ink: Ink::High,
            is_area: false,
            points: lost,
        };
        sessions.1.y = Axis::whole(highest(&sessions.1.lines[0].points).max(lost_at_end));
        sessions.1.lines.push(line);
        sessions.0.keys = vec![
            (Ink::Main, "connected".into()),
            (Ink::High, "lost since the start".into()),
        ];
        let lost = grouped(lost_at_end as u64);
        sessions.0.description += &format!(" Lost since the start: {lost}.");
    }
    let packets = area(report, "packets received", "per second", |point| {
        point.packets_per_sec
    });
    [sessions, packets]
        .map(|(figure, plot)| Figure {
            svg: plot.to_svg(),
            ..figure
        })
        .into()
}

fn area(
    report: &Report,
    title: &str,
    unit: &'static str,
    of: impl Fn(&Point) -> f64,
) -> (Figure, Plot) {
    let elapsed = report.run.elapsed_secs;
    let points = points(report, |point| Some(of(point)));
    let most = highest(&points);
    let values = points.iter().filter_map(|point| point.1);
    let least = values.fold(most, f64::min);
    let figure = Figure {
        title: title.into(),
        unit,
        description: format!(
            "{title}, {unit}, over {elapsed:.0} seconds: from {least:.0} to {most:.0}."
        ),
        keys: Vec::new(),
        svg: String::new(),
    };
    let line = Line {
        ink: Ink::Main,
        is_area: true,
        points,
    };
    let plot = Plot {
        x: Axis::time(elapsed),
        y: Axis::whole(most),
        bars: Vec::new(),
        lines: vec![line],
        marks: Vec::new(),
    };
    (figure, plot)
}

/// A trend over time and its distribution, as far as the run has samples.
pub fn of_trend(report: &Report, name: &str, trend: &TrendValue) -> Vec<Figure> {
    let figures = [over_time(report, name), distribution(name, trend)];
    figures.into_iter().flatten().collect()
}

fn over_time(report: &Report, name: &str) -> Option<Figure> {
    let statistics: [fn(&PointTrend) -> f64; 3] =
        [|trend| trend.p50, |trend| trend.p99, |trend| trend.max];
    let series = statistics.map(|of| points(report, |point| point.trends.get(name).map(of)));
    let values = series.iter().flatten().filter_map(|point| point.1);
    values.clone().next()?;
    let (title, elapsed) = (words(name), report.run.elapsed_secs);
    let worst = ms(values.clone().fold(0.0, f64::max));
    let y = Axis::log(values);
    // The median is drawn last, on top of the others.
    let lines = QUANTILES.into_iter().zip(series).rev();
    let lines = lines.map(|((ink, _), points)| Line {
        ink,
        is_area: false,
        points,
    });
    let plot = Plot {
        x: Axis::time(elapsed),
        y,
        bars: Vec::new(),
        lines: lines.collect(),
        marks: Vec::new(),
    };
    Some(Figure {
        description: format!(
            "{title} of each second: p50, p99 and max over {elapsed:.0} seconds. The maximum is {worst}."
        ),
        title: "over time".into(),
        unit: "ms, logarithmic",
        keys: QUANTILES.map(|(ink, name)| (ink, name.into())).into(),
        svg: plot.to_svg(),
    })
}

/// Bars of a distribution; each is as wide as the others on the logarithmic axis.
const BARS: usize = 60;

fn distribution(name: &str, trend: &TrendValue) -> Option<Figure> {
    let bounds = trend
        .histogram
        .iter()
        .map(|&(micros, _)| micros as f64 / 1e3);
    let x = Axis::log(bounds);
    let mut counts = [0.0; BARS];
    for &(micros, count) in &trend.histogram {
        let place = x.place(micros as f64 / 1e3) * BARS as f64;
        // A bucket belongs to the bar in which its upper bound lies.
        let bar = (place - 1e-9).ceil().max(1.0) as usize - 1;
        counts[bar.min(BARS - 1)] += count as f64;
    }
    let total: f64 = counts.iter().sum();
    if total == 0.0 {
        return None;
    }
    let shares = counts.map(|count| count * 100.0 / total);
    let marks = [trend.p50, trend.p99, trend.max];
    let bound = |bar: usize| x.value_at(bar as f64 / BARS as f64);
    let bars = shares.iter().enumerate().filter(|(_, share)| **share > 0.0);
    let bars = bars.map(|(bar, share)| (bound(bar), bound(bar + 1), *share));
    let plot = Plot {
        y: Axis::linear(shares.iter().copied().fold(0.0, f64::max), " %"),
        bars: bars.collect(),
        lines: Vec::new(),
        marks: marks
            .into_iter()
            .zip(QUANTILES)
            .map(|(at, (ink, _))| (at, ink))
            .rev()
            .collect(),
        x,
    };
    let [half, most, all] = marks.map(ms);
    Some(Figure {
        title: "distribution".into(),
        unit: "share of samples, by ms",
        description: format!(
            "{}: {} samples. Half of them are at most {half}, 99 % at most {most}, all at most {all}.",
            words(name),
            grouped(trend.count),
        ),
        keys: QUANTILES
            .into_iter()
            .zip(marks)
            .map(|((ink, name), at)| (ink, format!("{name} {}", ms(at))))
            .collect(),
        svg: plot.to_svg(),
    })
}

fn points(report: &Report, of: impl Fn(&Point) -> Option<f64>) -> Vec<(f64, Option<f64>)> {
    let points = report.timeline.iter();
    points.map(|point| (point.at_secs, of(point))).collect()
}

fn highest(points: &[(f64, Option<f64>)]) -> f64 {
    let values = points.iter().filter_map(|point| point.1);
    values.fold(0.0, f64::max)
}
