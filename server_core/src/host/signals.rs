//! Signals that end a program.

use crate::base::start;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;

/// Calls `stop` for the first SIGINT or SIGTERM, on a thread of its own. A second one ends the process at
/// once, with status 128 plus its number. SIGHUP keeps its default, which ends the process.
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
    handle(&[SIGINT, SIGTERM], stop, || {})
}

/// Like [`on_stop`], and calls `hangup` for each SIGHUP, which then does not end the process.
///
/// # Errors
/// Errors of [`on_stop`].
pub fn on_stop_and_hangup(
    stop: impl FnOnce(i32) + Send + 'static,
    hangup: impl FnMut() + Send + 'static,
) -> io::Result<()> {
    handle(&[SIGINT, SIGTERM, SIGHUP], stop, hangup)
}

fn handle(
    signals: &[i32],
    stop: impl FnOnce(i32) + Send + 'static,
    mut hangup: impl FnMut() + Send + 'static,
) -> io::Result<()> {
    let mut signals = Signals::new(signals)
        .map_err(|error| start::failed("cannot install the signal handlers", error))?;
    let mut stop = Some(stop);
    start::spawn("signals", move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                hangup();
            } else if let Some(stop) = stop.take() {
                stop(signal);
            } else {
                std::process::exit(128 + signal);
            }
        }
    })?;
    Ok(())
}
