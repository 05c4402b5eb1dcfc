//! Which plots there are, and what they show.

use super::axis::Axis;
use super::format::{grouped, ms};
use super::plot::{Ink, Line, Plot};
use crate::measure::distribution::Bucket;
use crate::measure::meter::Second;
use crate::result::summary::{Quantiles, Summary};

/// One plot with what stands around it.
pub struct Figure {
    pub title: &'static str,
    pub unit: &'static str,
    /// For those who do not see it.
    pub description: String,
    pub keys: Vec<(Ink, String)>,
    pub svg: String,
}

type Of = fn(&Second) -> f64;

/// What each second brought.
pub fn over_time(summary: &Summary) -> Result<Vec<Figure>, String> {
    let timeline = &summary.timeline;
    if timeline.is_empty() {
        return Ok(Vec::new());
    }
    let mut figures = vec![
        area(summary, "Sessions", "connected", |second| {
            second.sessions as f64
        })?,
        area(summary, "Packets received", "per second", |second| {
            second.packets_per_sec
        })?,
    ];
    let delays: [Of; 3] = [
        |second| second.tick_delay_p50_ms,
        |second| second.tick_delay_p99_ms,
        |second| second.tick_delay_max_ms,
    ];
    figures.push(quantile_lines(summary, "Tick delay", delays)?);
    if timeline.iter().any(|second| second.rtt_max_ms > 0.0) {
        let round_trips: [Of; 3] = [
            |second| second.rtt_p50_ms,
            |second| second.rtt_p99_ms,
            |second| second.rtt_max_ms,
        ];
        figures.push(quantile_lines(summary, "Echo round trip", round_trips)?);
    }
    Ok(figures)
}

fn area(
    summary: &Summary,
    title: &'static str,
    unit: &'static str,
    of: Of,
) -> Result<Figure, String> {
    let points = points(summary, of);
    let values = points.iter().map(|point| point.1);
    let most = values.clone().fold(0.0, f64::max);
    let least = values.fold(most, f64::min);
    let plot = Plot {
        x: Axis::time(summary.elapsed_secs),
        y: Axis::whole(most),
        bars: Vec::new(),
        lines: vec![Line {
            ink: Ink::Main,
            is_area: true,
            points,
        }],
        marks: Vec::new(),
    };
    Ok(Figure {
        title,
        unit,
        description: format!(
            "{title}, {unit}, over {:.0} seconds: from {least:.0} to {most:.0}.",
            summary.elapsed_secs
        ),
        keys: Vec::new(),
        svg: plot.to_svg()?,
    })
}

const QUANTILES: [(Ink, &str); 3] = [(Ink::Main, "p50"), (Ink::High, "p99"), (Ink::Max, "max")];

fn quantile_lines(summary: &Summary, title: &'static str, of: [Of; 3]) -> Result<Figure, String> {
    let series = of.map(|of| points(summary, of));
    let y = Axis::log(series.iter().flatten().map(|point| point.1), "");
    let most = series
        .iter()
        .flatten()
        .map(|point| point.1)
        .fold(0.0, f64::max);
    // The slowest lie at the back: where lines meet, the middle is seen.
    let lines = QUANTILES.into_iter().zip(series).rev();
    let plot = Plot {
        x: Axis::time(summary.elapsed_secs),
        y,
        bars: Vec::new(),
        lines: lines
            .map(|((ink, _), points)| Line {
                ink,
                is_area: false,
                points,
            })
            .collect(),
        marks: Vec::new(),
    };
    Ok(Figure {
        title,
        unit: "ms, logarithmic",
        description: format!(
            "{title} of each second: p50, p99 and max over {:.0} seconds; the worst is {}.",
            summary.elapsed_secs,
            ms(most)
        ),
        keys: QUANTILES.map(|(ink, name)| (ink, name.into())).into(),
        svg: plot.to_svg()?,
    })
}

fn points(summary: &Summary, of: Of) -> Vec<(f64, f64)> {
    summary
        .timeline
        .iter()
        .map(|second| (second.at_secs, of(second)))
        .collect()
}

/// How the measured values spread.
pub fn distributions(summary: &Summary) -> Result<Vec<Figure>, String> {
    let all = &summary.distributions;
    let rows = [
        (
            "How late ticks were",
            "share of ticks received, by ms",
            &all.tick_delay,
            &summary.tick_delay_ms,
        ),
        (
            "Fairness: spread of one tick",
            "share of ticks, by ms",
            &all.tick_spread,
            &summary.tick_spread_ms,
        ),
        (
            "How long echoes took",
            "share of echoes, by ms",
            &all.rtt,
            &summary.rtt_ms,
        ),
    ];
    let rows = rows
        .into_iter()
        .filter(|(_, _, buckets, _)| !buckets.is_empty());
    rows.map(|(title, unit, buckets, of)| bars(title, unit, buckets, of))
        .collect()
}

fn bars(
    title: &'static str,
    unit: &'static str,
    buckets: &[Bucket],
    of: &Quantiles,
) -> Result<Figure, String> {
    let total: u64 = buckets.iter().map(|bucket| bucket.count).sum();
    let share = |bucket: &Bucket| bucket.count as f64 * 100.0 / total as f64;
    let most = buckets.iter().map(share).fold(0.0, f64::max);
    // A bucket begins where the one before it ends; before the first one nothing is said.
    let ends = buckets.iter().map(|bucket| bucket.up_to_ms);
    let begin = ends.clone().next().map(|end| end / FIRST_BUCKET);
    let begins = begin.into_iter().chain(ends.clone());
    let marks = [of.p50, of.p99, of.max];
    let plot = Plot {
        x: Axis::log(begin.into_iter().chain(ends), ""),
        y: Axis::linear(most, " %"),
        bars: buckets
            .iter()
            .zip(begins)
            .map(|(bucket, begin)| (begin, bucket.up_to_ms, share(bucket)))
            .collect(),
        lines: Vec::new(),
        marks: marks
            .into_iter()
            .zip(QUANTILES)
            .map(|(at, (ink, _))| (at, ink))
            .rev()
            .collect(),
    };
    Ok(Figure {
        title,
        unit,
        description: format!(
            "{title}: {} measurements; half of them up to {}, 99 % up to {}, all up to {}.",
            grouped(total),
            ms(of.p50),
            ms(of.p99),
            ms(of.max)
        ),
        keys: QUANTILES
            .into_iter()
            .zip(marks)
            .map(|((ink, name), at)| (ink, format!("{name} {}", ms(at))))
            .collect(),
        svg: plot.to_svg()?,
    })
}

/// The factor from the begin of the first bucket to its end.
const FIRST_BUCKET: f64 = 1.25;
