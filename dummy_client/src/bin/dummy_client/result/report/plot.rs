//! Draws a plot as SVG. Colours, fonts and widths are the page's: each ink is a colour that nobody
//! would choose, and the page's style says what it looks like, in light and in dark.

use super::axis::Axis;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;
use std::io;

/// What draws a line or fills a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// The one series of a plot, or its middle.
    Main,
    /// The slow ones.
    High,
    /// The slowest one.
    Max,
    /// The area below a line.
    Soft,
    Bar,
    Grid,
}

impl Ink {
    /// The page's style finds it by this.
    fn colour(self) -> RGBColor {
        RGBColor(0, 0, self as u8 + 1)
    }

    /// The same, for the key beside a plot.
    pub fn class(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::High => "high",
            Self::Max => "max",
            Self::Soft => "soft",
            Self::Bar => "bar",
            Self::Grid => "grid",
        }
    }
}

/// What is drawn, from back to front.
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

/// One series. It is broken where there is nothing: at values that are not above zero, on a
/// logarithmic axis.
#[derive(Debug)]
pub struct Line {
    pub ink: Ink,
    /// The area below it is filled.
    pub is_area: bool,
    pub points: Vec<(f64, f64)>,
}

/// Width and height in units of the drawing: whole numbers, so four to a pixel.
pub const SIZE: (u32, u32) = (1_840, 920);
const MARGIN: u32 = 24;
const X_LABELS: u32 = 100;
const Y_LABELS: u32 = 180;
const LABEL_GAP: u32 = 20;
const DOT: i32 = 10;

type Failed = DrawingAreaErrorKind<io::Error>;

impl Plot {
    /// The plot as an SVG element.
    ///
    /// # Errors
    /// The library's; drawing to memory gives it no reason for one.
    pub fn to_svg(&self) -> Result<String, String> {
        let mut svg = String::new();
        self.draw(&mut svg)
            .map_err(|error| format!("a plot cannot be drawn: {error}"))?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String) -> Result<(), Failed> {
        let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let floor = self.y.range().start;
        let mut chart = ChartBuilder::on(&area)
            .margin(MARGIN)
            .margin_right(3 * MARGIN)
            .x_label_area_size(X_LABELS)
            .y_label_area_size(Y_LABELS)
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .axis_style(TRANSPARENT)
            .set_all_tick_mark_size(LABEL_GAP)
            .bold_line_style(Ink::Grid.colour())
            .light_line_style(TRANSPARENT)
            .draw()?;
        // The ticks of a logarithmic axis need not begin at its end.
        let base = [self.x.range().start, self.x.range().end].map(|at| (at, floor));
        chart.draw_series(LineSeries::new(base, Ink::Grid.colour()))?;
        chart.draw_series(self.bars.iter().map(|&(from, to, height)| {
            let corners = [(from, floor), (to, height)];
            let mut bar = Rectangle::new(corners, Ink::Bar.colour().filled());
            bar.set_margin(0, 0, 2, 2);
            bar
        }))?;
        for line in &self.lines {
            for part in self.parts(line) {
                if let ([(first, _), .., (last, _)], true) = (part, line.is_area) {
                    let corners = [part, &[(*last, floor), (*first, floor)]].concat();
                    chart.draw_series([Polygon::new(corners, Ink::Soft.colour())])?;
                }
                let points = part.iter().copied();
                // A line needs two points; a single one is a dot.
                if let [point] = *part {
                    chart.draw_series([Circle::new(point, DOT, line.ink.colour().filled())])?;
                } else {
                    chart.draw_series(LineSeries::new(points, line.ink.colour()))?;
                }
            }
        }
        for &(at, ink) in &self.marks {
            let ends = [(at, floor), (at, self.y.range().end)];
            chart.draw_series(LineSeries::new(ends, ink.colour()))?;
        }
        area.present()
    }

    /// The line's unbroken parts.
    fn parts<'a>(&self, line: &'a Line) -> impl Iterator<Item = &'a [(f64, f64)]> {
        let has_zero = !self.y.is_log();
        line.points
            .split(move |&(_, value)| value <= 0.0 && !has_zero)
            .filter(|part| !part.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: &[(f64, f64)]) -> String {
        let values = points.iter().map(|point| point.1);
        let plot = Plot {
            x: Axis::time(10.0),
            y: Axis::log(values, " ms"),
            bars: Vec::new(),
            lines: vec![Line {
                ink: Ink::High,
                is_area: false,
                points: points.to_vec(),
            }],
            marks: Vec::new(),
        };
        plot.to_svg().unwrap()
    }

    #[test]
    fn a_line_is_broken_where_nothing_was_measured() {
        let of_high = |svg: &str, element: &str| {
            let is_it = |line: &&str| line.starts_with(element) && line.contains("#000002");
            svg.lines().filter(is_it).count()
        };
        let svg = plot(&[(1.0, 5.0), (2.0, 6.0), (3.0, 0.0), (4.0, 7.0), (5.0, 0.0)]);
        assert_eq!(
            (of_high(&svg, "<polyline"), of_high(&svg, "<circle")),
            (1, 1),
            "{svg}"
        );
        let svg = plot(&[(1.0, 0.0)]);
        assert_eq!(
            (of_high(&svg, "<polyline"), of_high(&svg, "<circle")),
            (0, 0),
            "{svg}"
        );
        assert_eq!(of_high(&plot(&[]), "<"), 0);
        assert_eq!(of_high(&plot(&[(1.0, 5.0)]), "<circle"), 1);
    }

    #[test]
    fn axes_have_labels_with_units() {
        let svg = plot(&[(1.0, 5.0), (2.0, 60.0)]);
        for label in ["5 ms", "10 ms", "100 ms", "0 s", "10 s"] {
            assert!(svg.lines().any(|line| line == label), "{label} in {svg}");
        }
    }
}
