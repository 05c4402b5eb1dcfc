//! Who left and why, in a bounded number of log lines.

use crate::id::SessionId;
use crate::reason::DisconnectReason;
use log::Level;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The first few departures of each reason get a line of their own; the rest of that window is
/// summed up in one ("1284 more bad_size from 3 addresses"). While a flood goes on, each further
/// window is its summary alone. The counters in [`metrics`](crate::metrics) stay exact.
///
/// A peer can be made to leave a million times; it must not be able to fill the disk with that.
#[derive(Debug, Default)]
pub struct DepartureLog {
    windows: Mutex<[Window; DisconnectReason::COUNT]>,
}

#[derive(Debug, Default)]
struct Window {
    ends_at: Option<Instant>,
    lines_left: u32,
    suppressed: u64,
    addresses: HashSet<IpAddr>,
    level: Option<Level>,
}

const WINDOW: Duration = Duration::from_secs(3);
const LINES_PER_WINDOW: u32 = 3;
/// Addresses that a summary tells apart; the set must not grow with the attack.
const MAX_ADDRESSES: usize = 1024;

impl DepartureLog {
    /// Tells of one departure. If it was only counted, returns when its summary is due.
    pub fn note(
        &self,
        id: SessionId,
        peer: SocketAddr,
        reason: DisconnectReason,
        now: Instant,
    ) -> Option<Instant> {
        let mut windows = self.windows();
        let window = &mut windows[reason.index()];
        let summary = window.close_if_over(reason.label(), now);
        let ends_at = *window.ends_at.get_or_insert_with(|| {
            window.lines_left = LINES_PER_WINDOW;
            now + WINDOW
        });
        window.level = Some(level_of(reason));
        let has_line = window.lines_left > 0;
        if has_line {
            window.lines_left -= 1;
        } else {
            window.suppressed += 1;
            if window.addresses.len() < MAX_ADDRESSES {
                window.addresses.insert(peer.ip());
            }
        }
        // A log that blocks must not hold the lock that other workers need.
        drop(windows);
        write(summary);
        if has_line {
            let label = reason.label();
            log::log!(
                level_of(reason),
                "session {id} of {peer} left: {label} ({reason})"
            );
        }
        (!has_line).then_some(ends_at)
    }

    /// Writes the summaries of windows that are over, and tells when the next one is.
    pub fn flush(&self, now: Instant) -> Option<Instant> {
        let mut windows = self.windows();
        let summaries: Vec<Summary> = (windows.iter_mut())
            .zip(DisconnectReason::LABELS)
            .filter_map(|(window, label)| window.close_if_over(label, now))
            .collect();
        let next_at = (windows.iter())
            .filter(|window| window.suppressed > 0)
            .filter_map(|window| window.ends_at)
            .min();
        drop(windows);
        write(summaries);
        next_at
    }

    /// Writes every summary now: the end of the process.
    pub fn finish(&self) {
        let summaries: Vec<Summary> = (self.windows().iter_mut())
            .zip(DisconnectReason::LABELS)
            .filter_map(|(window, label)| window.summarize(label))
            .collect();
        write(summaries);
    }

    fn windows(&self) -> MutexGuard<'_, [Window; DisconnectReason::COUNT]> {
        // Only counts and lines: a panic elsewhere leaves nothing here that could be wrong.
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line that is still to be written.
type Summary = (Level, String);

fn write(summaries: impl IntoIterator<Item = Summary>) {
    for (level, line) in summaries {
        log::log!(level, "{line}");
    }
}

impl Window {
    fn close_if_over(&mut self, label: &str, now: Instant) -> Option<Summary> {
        if self.ends_at.is_none_or(|at| now < at) {
            return None;
        }
        let summary = self.summarize(label);
        self.ends_at = summary.as_ref().map(|_| now + WINDOW);
        self.lines_left = 0;
        summary
    }

    fn summarize(&mut self, label: &str) -> Option<Summary> {
        let count = std::mem::take(&mut self.suppressed);
        let addresses = std::mem::take(&mut self.addresses).len();
        if count == 0 {
            return None;
        }
        let more = if addresses == MAX_ADDRESSES {
            "or more "
        } else {
            ""
        };
        let plural = if addresses == 1 { "" } else { "es" };
        let level = self.level.unwrap_or(Level::Info);
        Some((
            level,
            format!("{count} more {label} from {addresses} {more}address{plural}"),
        ))
    }
}

fn level_of(reason: DisconnectReason) -> Level {
    match reason {
        DisconnectReason::Kicked(_) | DisconnectReason::IoError(_) => Level::Warn,
        _ => Level::Info,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Kick;

    #[test]
    fn a_flood_is_three_lines_and_a_summary_per_window() {
        let log = DepartureLog::default();
        let start = Instant::now();
        let note = |n: u64, now| {
            let peer = SocketAddr::from(([127, 0, 0, (n % 3) as u8], 1));
            log.note(SessionId::new(1, 0, 0), peer, Kick::BadSize.into(), now)
        };
        let own_lines = (0..10_000).filter(|&n| note(n, start).is_none()).count();
        assert_eq!(own_lines, 3);
        {
            let windows = log.windows();
            assert_eq!(
                (windows[0].suppressed, windows[0].addresses.len()),
                (9_997, 3)
            );
        }
        assert_eq!(log.flush(start), Some(start + WINDOW));
        assert_eq!(log.flush(start + WINDOW), None);
        let still = start + WINDOW + Duration::from_millis(1);
        assert!(
            note(0, still).is_some(),
            "a flood that goes on is summed up alone"
        );
        let calm = start + WINDOW * 10;
        log.flush(calm);
        log.flush(calm + WINDOW * 2);
        assert!(
            note(0, calm + WINDOW * 3).is_none(),
            "after a rest: lines again"
        );
    }
}
