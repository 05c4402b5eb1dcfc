//! What a person sees while the run goes on: one status line on a terminal, a log line a second
//! elsewhere.

use super::capacity::Step;
use crate::measure::meter::Second;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use server_core::host::human_bytes;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// Shows how the run goes.
pub struct Live {
    bar: ProgressBar,
}

/// What is shown once a second.
pub struct Status {
    pub wanted: usize,
    pub failed_connects: u64,
    pub missing_ticks: u64,
    pub elapsed: Duration,
    /// What the last second brought.
    pub second: Second,
}

/// Log lines on their way to standard error; the status line makes room for each.
#[derive(Debug)]
pub struct LogWriter(pub ProgressBar);

/// The status line, not to be seen yet: log lines before the run must not draw an empty one.
pub fn status_bar() -> ProgressBar {
    ProgressBar::hidden()
}

impl Live {
    /// Shows the line on standard error, and only if that is a terminal; with a bar if it is known
    /// when the run ends.
    pub fn new(bar: ProgressBar, ends_in: Option<Duration>) -> Self {
        let template = match ends_in {
            Some(_) => "[{bar:20}] {elapsed} of {prefix} | {wide_msg}",
            None => "{spinner} {elapsed} | {wide_msg}",
        };
        // A constant that indicatif takes; should it ever not, its own style will do.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        if let Some(end) = ends_in {
            bar.set_length(end.as_millis() as u64);
            let whole_millis = Duration::from_millis(end.as_millis() as u64);
            bar.set_prefix(humantime::format_duration(whole_millis).to_string());
        }
        bar.set_message("connecting");
        if io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
        }
        Self { bar }
    }

    /// Shows the latest numbers.
    pub fn show(&self, status: &Status) {
        let second = &status.second;
        let line = format!(
            "live {} of {}, lost {}, failed {}, missing ticks {}, tick delay p50 {:.1} p99 {:.1} ms, \
             {:.0} packets/s, {}/s",
            second.sessions,
            status.wanted,
            second.sessions_lost,
            status.failed_connects,
            status.missing_ticks,
            second.tick_delay_p50_ms,
            second.tick_delay_p99_ms,
            second.packets_per_sec,
            human_bytes(second.bytes_per_sec),
        );
        if self.bar.is_hidden() {
            log::info!("{line}");
        } else {
            self.bar.set_position(status.elapsed.as_millis() as u64);
            self.bar.set_message(line);
        }
    }

    /// Tells how a step of the search for the capacity went.
    pub fn say(&self, step: &Step) {
        let outcome = match (step.client_limited, step.holds) {
            (true, _) => "the client is the bottleneck".into(),
            (false, true) => "holds".into(),
            (false, false) => format!("breaks: {}", step.broken.join("; ")),
        };
        log::info!(
            "{} sessions: {outcome} (tick delay p99 {:.1} ms, {:.0} packets/s)",
            step.sessions,
            step.tick_delay_p99_ms,
            step.packets_per_sec
        );
    }

    /// Takes the line away: the result comes.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
