//! What a person sees while the run goes on: one status line on a terminal, a log line a second elsewhere.

use crate::report::Progress;
use crossbeam_channel::Sender;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use server_core::start;
use std::io::{self, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Shows how the run goes, on standard error. A thread of its own draws: a terminal that is stopped (Ctrl-S) does not
/// stop the run.
#[derive(Clone, Debug)]
pub struct StatusLine {
    bar: ProgressBar,
    /// To the thread that draws. Not set: no line is shown.
    lines: Arc<OnceLock<Sender<String>>>,
}

/// The figures of the last second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Status {
    /// Since the start of the run.
    pub elapsed: Duration,
    /// The length of the run, if it is known.
    pub duration: Option<Duration>,
    /// Connected sessions.
    pub sessions: usize,
    /// Sessions that the run asks for at this time.
    pub target: usize,
    /// The sum of the losses so far.
    pub lost: u64,
    /// Connects that failed so far.
    pub failed_connects: u64,
    /// The 99th percentile of the first trend of the scenario; `None`: no sample.
    pub p99_ms: Option<f64>,
    /// Received packets; `None`: the run has no whole second yet.
    pub packets_per_sec: Option<f64>,
}

impl From<&Progress<'_>> for Status {
    fn from(progress: &Progress<'_>) -> Self {
        let point = &progress.point;
        let main_trend = progress.main_trend.and_then(|name| point.trends.get(name));
        Self {
            elapsed: progress.elapsed,
            duration: progress.ends_after,
            sessions: progress.sessions,
            target: progress.target,
            lost: progress.lost,
            failed_connects: progress.failed_connects,
            p99_ms: main_trend.map(|trend| trend.p99),
            packets_per_sec: Some(point.packets_per_sec),
        }
    }
}

/// Log lines on their way to standard error. The status line makes room for each. A write waits for the terminal.
#[derive(Debug)]
pub struct LogWriter(StatusLine);

/// The columns of a terminal that every terminal has.
const WIDTH: usize = 80;

impl Default for StatusLine {
    fn default() -> Self {
        Self::new()
    }
}

impl StatusLine {
    /// A line that is not shown yet: a log line before the run does not draw an empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            lines: Arc::default(),
        }
    }

    /// A writer for the logger.
    #[must_use]
    pub fn log_writer(&self) -> LogWriter {
        LogWriter(self.clone())
    }

    /// Shows the line from now on, if standard error is a terminal.
    pub fn begin(&self) {
        let target = ProgressDrawTarget::stderr_with_hz(4);
        if target.is_hidden() {
            return;
        }
        // A line that waits is replaced in a second by the next one.
        let (sender, lines) = crossbeam_channel::bounded(1);
        let bar = self.bar.clone();
        let draw = move || {
            // The template is a constant that indicatif accepts.
            if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
                bar.set_style(style);
            }
            bar.set_message("connecting");
            bar.set_draw_target(target);
            for line in lines {
                bar.set_message(line);
            }
        };
        // Without the thread, the log has the figures.
        if start::spawn("status", draw).is_ok() {
            let _ = self.lines.set(sender);
        }
    }

    /// Shows the figures of the last second. Call it once a second.
    pub fn show(&self, status: &Status) {
        let line = status.to_line();
        match self.lines.get() {
            // A terminal that is stopped has no room for the line.
            Some(lines) => {
                let _ = lines.try_send(line);
            }
            None => log::info!("{line}"),
        }
    }

    /// Removes the line. Waits for a terminal that is stopped.
    pub fn end(&self) {
        if self.lines.get().is_some() {
            self.bar.finish_and_clear();
        }
    }
}

impl Status {
    /// The most important figures first, in at most 80 columns. A figure that was not measured is `-`.
    #[must_use]
    pub fn to_line(&self) -> String {
        let elapsed = self.elapsed.as_secs();
        let time = match self.duration {
            Some(duration) => format!("{elapsed}/{:.0} s", duration.as_secs_f64().ceil()),
            None => format!("{elapsed} s"),
        };
        let p99 = match self.p99_ms {
            Some(p99) if p99 >= 10_000.0 => format!("{:.1} s", p99 / 1e3),
            Some(p99) => format!("{p99:.1} ms"),
            None => "-".into(),
        };
        let packets = match self.packets_per_sec {
            Some(rate) if rate >= 100_000.0 => format!("{:.0}k", rate / 1e3),
            Some(rate) => format!("{rate:.0}"),
            None => "-".into(),
        };
        let mut parts = vec![
            format!("{time}, {}/{} sessions", self.sessions, self.target),
            format!("lost {}", self.lost),
            format!("p99 {p99}"),
            format!("{packets} packets/s"),
        ];
        if self.failed_connects > 0 {
            parts.push(format!("{} failed connects", self.failed_connects));
        }
        let mut line = String::new();
        for part in parts {
            let separator = if line.is_empty() { "" } else { ", " };
            if line.len() + separator.len() + part.len() < WIDTH {
                line += separator;
                line += &part;
            }
        }
        line
    }
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let write = || io::stderr().write(bytes);
        if self.0.lines.get().is_some() {
            self.0.bar.suspend(write)
        } else {
            // The lock of the bar would be held while the reader is slow.
            write()
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_fits_80_columns_and_keeps_the_important_figures() {
        let status = Status {
            elapsed: Duration::from_secs(86_399),
            duration: Some(Duration::from_secs(86_400)),
            sessions: 100_000,
            target: 100_000,
            lost: 100_000,
            failed_connects: 1_000_000,
            p99_ms: Some(12_345.67),
            packets_per_sec: Some(1_234_567.0),
        };
        let line = status.to_line();
        assert_eq!(
            line,
            "86399/86400 s, 100000/100000 sessions, lost 100000, p99 12.3 s, 1235k packets/s"
        );
        assert!(line.chars().count() < WIDTH, "{line}");
        let usual = Status {
            sessions: 10_000,
            target: 10_000,
            failed_connects: 3,
            p99_ms: Some(12.34),
            packets_per_sec: Some(40_000.0),
            elapsed: Duration::from_secs(7),
            duration: Some(Duration::from_secs_f64(59.5)),
            lost: 0,
        };
        assert_eq!(
            usual.to_line(),
            "7/60 s, 10000/10000 sessions, lost 0, p99 12.3 ms, 40000 packets/s"
        );
    }

    #[test]
    fn a_figure_that_was_not_measured_is_a_dash() {
        let line = Status::default().to_line();
        assert_eq!(line, "0 s, 0/0 sessions, lost 0, p99 -, - packets/s");
    }
}
