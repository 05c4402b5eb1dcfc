//! Signals that end a program.

use crate::base::start;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;

/// Calls `stop` for the first SIGINT, SIGTERM or SIGHUP, on a thread of its own. A second one [flushes the
/// log](super::flush_logs) and ends the process, with status 128 plus its number. On Linux, a SIGHUP that the process
/// ignores at its start (`nohup`) stays ignored.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let (sender, stopped) = std::sync::mpsc::channel();
/// server_core::host::signals::on_stop(move |signal| {
///     // The receiver is gone only while the process ends.
///     let _ = sender.send(signal);
/// })?;
/// assert!(stopped.try_recv().is_err(), "no signal has arrived");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// The system refuses the handlers or their thread.
pub fn on_stop(stop: impl FnOnce(i32) + Send + 'static) -> io::Result<()> {
    let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    let signals: Vec<i32> = [SIGINT, SIGTERM].into_iter().chain(hangup).collect();
    handle(&signals, stop, None::<fn()>)
}

/// Like [`on_stop`], and calls `hangup` for each SIGHUP, which then does not stop the process.
///
/// # Errors
/// Errors of [`on_stop`].
pub fn on_stop_and_hangup(
    stop: impl FnOnce(i32) + Send + 'static,
    hangup: impl FnMut() + Send + 'static,
) -> io::Result<()> {
    handle(&[SIGINT, SIGTERM, SIGHUP], stop, Some(hangup))
}

fn handle(
    signals: &[i32],
    stop: impl FnOnce(i32) + Send + 'static,
    mut hangup: Option<impl FnMut() + Send + 'static>,
) -> io::Result<()> {
    let mut signals = Signals::new(signals)
        .map_err(|error| start::failed("cannot install the signal handlers", error))?;
    let mut stop = Some(stop);
    start::spawn("signals", move || {
        for signal in signals.forever() {
            if signal == SIGHUP
                && let Some(hangup) = &mut hangup
            {
                hangup();
            } else if let Some(stop) = stop.take() {
                stop(signal);
            } else {
                super::flush_logs();
                std::process::exit(128 + signal);
            }
        }
    })?;
    Ok(())
}

/// Whether the process ignores a signal. False where the system does not tell.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or(0) >> (signal - 1) & 1 == 1
}
