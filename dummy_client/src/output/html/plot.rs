//! Draws a plot as the content of an SVG element. The style of the page sets colours, fonts and widths by class.

use super::axis::Axis;
use std::fmt::Write as _;

/// The role of a line or a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// The single series of a plot, or its median.
    Main,
    /// p99.
    High,
    /// The maximum.
    Max,
}

impl Ink {
    /// The class in the style of the page.
    pub const fn class(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::High => "high",
            Self::Max => "max",
        }
    }
}

/// The content of a plot, from back to front.
#[derive(Debug)]
pub struct Plot {
    pub x: Axis,
    pub y: Axis,
    /// From, to, height.
    pub bars: Vec<(f64, f64, f64)>,
    pub lines: Vec<Line>,
    /// Places on the x axis.
    pub marks: Vec<(f64, Ink)>,
}

/// One series.
#[derive(Debug)]
pub struct Line {
    pub ink: Ink,
    /// The area below the line is filled.
    pub is_area: bool,
    /// Time and value. The line is broken where a value is missing, and at 0 on a logarithmic axis.
    pub points: Vec<(f64, Option<f64>)>,
}

/// Width and height in units of the drawing: about two to a pixel.
pub const SIZE: (i32, i32) = (920, 440);
const LEFT: i32 = 84;
const RIGHT: i32 = SIZE.0 - 24;
const TOP: i32 = 14;
const BOTTOM: i32 = SIZE.1 - 52;
/// Points of a longer line are joined: its highest and its lowest point in this many units stay.
const COLUMN: i32 = 4;

impl Plot {
    /// The content of an SVG element with the view box `0 0` [`SIZE`].
    pub fn to_svg(&self) -> String {
        let mut svg = String::new();
        // Writing to a text cannot fail.
        let _ = self.draw(&mut svg);
        svg
    }

    fn draw(&self, svg: &mut String) -> std::fmt::Result {
        let middle = |y: i32| y + 9;
        for (place, text) in self.y.labels() {
            let y = between(BOTTOM, TOP, place);
            write!(svg, r#"<path class="grid" d="M{LEFT} {y}H{RIGHT}"/>"#)?;
            let (x, y) = (LEFT - 12, middle(y));
            writeln!(svg, r#"<text class="y" x="{x}" y="{y}">{text}</text>"#)?;
        }
        write!(svg, r#"<path class="grid" d="M{LEFT} {BOTTOM}H{RIGHT}"/>"#)?;
        for (place, text) in self.x.labels() {
            let (x, y) = (between(LEFT, RIGHT, place), BOTTOM + 38);
            writeln!(svg, r#"<text class="x" x="{x}" y="{y}">{text}</text>"#)?;
        }
        for &(from, to, height) in &self.bars {
            let [from, to] = [from, to].map(|at| between(LEFT, RIGHT, self.x.place(at)));
            let top = between(BOTTOM, TOP, self.y.place(height));
            let (width, height) = ((to - from - 1).max(1), BOTTOM - top);
            if height > 0 {
                writeln!(
                    svg,
                    r#"<rect x="{from}" y="{top}" width="{width}" height="{height}"/>"#
                )?;
            }
        }
        for line in &self.lines {
            for part in self.parts(line) {
                draw_line(svg, line, &part)?;
            }
        }
        for &(at, ink) in &self.marks {
            let (x, class) = (between(LEFT, RIGHT, self.x.place(at)), ink.class());
            writeln!(svg, r#"<path class="{class}" d="M{x} {BOTTOM}V{TOP}"/>"#)?;
        }
        Ok(())
    }

    /// The unbroken parts of a line, in units of the drawing.
    fn parts(&self, line: &Line) -> Vec<Vec<(i32, i32)>> {
        let has_zero = !self.y.is_log();
        let place = |&(at, value): &(f64, Option<f64>)| {
            let value = value.filter(|value| has_zero || *value > 0.0)?;
            let x = between(LEFT, RIGHT, self.x.place(at));
            Some((x, between(BOTTOM, TOP, self.y.place(value))))
        };
        let places: Vec<_> = line.points.iter().map(place).collect();
        let parts = places.split(Option::is_none);
        parts
            .filter(|part| !part.is_empty())
            .map(|part| joined(part.iter().flatten().copied()))
            .collect()
    }
}

/// Of a long line, the highest and the lowest point of each column, in their order.
fn joined(points: impl Iterator<Item = (i32, i32)>) -> Vec<(i32, i32)> {
    let points: Vec<_> = points.collect();
    if points.len() <= ((RIGHT - LEFT) / COLUMN) as usize {
        return points;
    }
    let mut kept = Vec::new();
    for column in points.chunk_by(|a, b| a.0 / COLUMN == b.0 / COLUMN) {
        let by_height = |at: &usize| column[*at].1;
        let all = 0..column.len();
        let ends = [all.clone().min_by_key(by_height), all.max_by_key(by_height)];
        let mut chosen: Vec<_> = ends.into_iter().flatten().collect();
        chosen.sort_unstable();
        chosen.dedup();
        kept.extend(chosen.into_iter().map(|at| column[at]));
    }
    kept
}

fn draw_line(svg: &mut String, line: &Line, part: &[(i32, i32)]) -> std::fmt::Result {
    let class = line.ink.class();
    let [(first, y), rest @ ..] = part else {
        return Ok(());
    };
    // A line needs two points; a single one is a dot.
    let Some((last, _)) = rest.last() else {
        return writeln!(
            svg,
            r#"<circle class="{class}" cx="{first}" cy="{y}" r="2"/>"#
        );
    };
    let mut path = format!("M{first} {y}l");
    for pair in part.windows(2) {
        if let [from, to] = *pair {
            let space = if path.ends_with('l') { "" } else { " " };
            write!(path, "{space}{} {}", to.0 - from.0, to.1 - from.1)?;
        }
    }
    if line.is_area && first < last {
        writeln!(svg, r#"<path class="soft" d="{path}V{BOTTOM}H{first}z"/>"#)?;
    }
    writeln!(svg, r#"<path class="{class}" d="{path}"/>"#)
}

fn between(from: i32, to: i32, place: f64) -> i32 {
    from + (f64::from(to - from) * place).round() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: &[(f64, f64)]) -> String {
        let values = points.iter().map(|point| point.1);
        let plot = Plot {
            x: Axis::time(10.0),
            y: Axis::log(values),
            bars: Vec::new(),
            lines: vec![Line {
                ink: Ink::High,
                is_area: false,
                points: points
                    .iter()
                    .map(|&(at, value)| (at, Some(value)))
                    .collect(),
            }],
            marks: Vec::new(),
        };
        plot.to_svg()
    }

    fn count(svg: &str, element: &str) -> usize {
        let start = format!("<{element} class=\"high\"");
        svg.matches(&start).count()
    }

    #[test]
    fn a_line_is_broken_where_no_value_was_measured() {
        let svg = plot(&[(1.0, 5.0), (2.0, 6.0), (3.0, 0.0), (4.0, 7.0), (5.0, 0.0)]);
        assert_eq!(
            (count(&svg, "path"), count(&svg, "circle")),
            (1, 1),
            "{svg}"
        );
        let svg = plot(&[(1.0, 0.0)]);
        assert_eq!(
            (count(&svg, "path"), count(&svg, "circle")),
            (0, 0),
            "{svg}"
        );
        assert!(!plot(&[]).contains("high"));
        assert_eq!(count(&plot(&[(1.0, 5.0)]), "circle"), 1);
    }

    #[test]
    fn axes_have_labels_with_units() {
        let svg = plot(&[(1.0, 5.0), (2.0, 60.0)]);
        for label in ["5", "10", "100", "0 s", "10 s"] {
            assert!(
                svg.contains(&format!(">{label}</text>")),
                "{label} in {svg}"
            );
        }
    }

    #[test]
    fn a_long_line_keeps_its_extremes_and_loses_its_length() {
        let peak_at = 7_321;
        let value = |n: i32| match n {
            _ if n == peak_at => 1_000.0,
            _ => 10.0 + f64::from(n % 7),
        };
        let points: Vec<_> = (0..10_000)
            .map(|n| (f64::from(n) / 1e3, value(n)))
            .collect();
        let svg = plot(&points);
        assert!(svg.len() < 8_000, "{}", svg.len());
        let (_, path) = svg.rsplit_once(" d=\"M").unwrap();
        let (start, steps) = path.split_once('l').unwrap();
        let (_, start) = start.split_once(' ').unwrap();
        let steps = steps.split(['"', ' ']).skip(1).step_by(2);
        let mut y: i32 = start.parse().unwrap();
        let mut top = y;
        for step in steps.map_while(|step| step.parse::<i32>().ok()) {
            y += step;
            top = top.min(y);
        }
        assert_eq!(top, TOP, "{svg}");
    }
}
