//! Signals that end a program.

use crate::base::start;
use crossbeam_channel::Receiver;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;

/// The first SIGINT or SIGTERM arrives in the channel, and `notify` is called; a second one ends the
/// process at once.
///
/// # Errors
/// If the handlers cannot be installed, or their thread cannot be started.
pub fn stop_signals(notify: impl Fn() + Send + 'static) -> io::Result<Receiver<i32>> {
    stop_signals_of(&[SIGINT, SIGTERM], notify)
}

/// The same, and SIGHUP, which ends a process by default, is logged and changes nothing: there is
/// nothing to reload.
///
/// # Errors
/// As there.
pub fn stop_signals_but_hangup(notify: impl Fn() + Send + 'static) -> io::Result<Receiver<i32>> {
    stop_signals_of(&[SIGINT, SIGTERM, SIGHUP], notify)
}

fn stop_signals_of(
    signals: &[i32],
    notify: impl Fn() + Send + 'static,
) -> io::Result<Receiver<i32>> {
    let mut signals = Signals::new(signals)
        .map_err(|error| start::failed("cannot install the signal handlers", error))?;
    let (sender, receiver) = crossbeam_channel::bounded(1);
    start::spawn("signals", move || {
        let mut is_first = true;
        for signal in signals.forever() {
            if signal == SIGHUP {
                log::info!("SIGHUP ignored: there is nothing to reload");
                continue;
            }
            if !std::mem::take(&mut is_first) {
                std::process::exit(128 + signal);
            }
            // Nobody listens any more: then the process is about to end anyway.
            let _ = sender.send(signal);
            notify();
        }
    })?;
    Ok(receiver)
}
