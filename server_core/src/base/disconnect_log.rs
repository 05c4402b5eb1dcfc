//! Who left and why, in a bounded number of log lines.

use crate::base::id::SessionId;
use crate::base::reason::{DisconnectReason, MAX_CUSTOM_LABELS};
use log::Level;
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// In a window the first departure of each reason gets a line of its own, and so do a few more of
/// any reason; the rest is summed up in one line for all ("1284 more bad_size from 3 addresses; 2
/// more unknown_id from 1 address"). While a flood goes on, its reasons get no lines of their own
/// any more, and the windows become longer. The counters in [`metrics`](crate::base::metrics) stay exact.
///
/// A peer can be made to leave a million times, for a different reason each time; it must not be
/// able to fill the disk with that. Clones are the same log.
#[derive(Clone, Debug, Default)]
pub struct DisconnectLog {
    window: Arc<Mutex<Window>>,
}

#[derive(Debug)]
struct Window {
    ends_at: Option<Instant>,
    length: Duration,
    /// Lines that any reason may have beyond its first one.
    spare_lines: u32,
    /// By label. The number of labels is bounded: beyond it, a label of the game is counted as `custom`.
    tallies: BTreeMap<&'static str, Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    /// Its first line of this window is written, or it is a flood that needs none.
    is_known: bool,
    suppressed: u64,
    addresses: HashSet<IpAddr>,
    level: Option<Level>,
}

const SHORTEST_WINDOW: Duration = Duration::from_secs(3);
const LONGEST_WINDOW: Duration = Duration::from_secs(30);
const SPARE_LINES: u32 = 8;
/// Addresses that a summary tells apart; the set must not grow with the attack.
const MAX_ADDRESSES: usize = 1024;

impl DisconnectLog {
    /// Tells of one departure; a connection that was turned away never had an id. If it was only
    /// counted, returns when its summary is due.
    pub fn note(
        &self,
        id: Option<SessionId>,
        peer: SocketAddr,
        reason: DisconnectReason,
        now: Instant,
    ) -> Option<Instant> {
        let mut window = self.window();
        let summary = window.close_if_over(now);
        let (has_line, ends_at) = window.count(peer.ip(), reason, now);
        // A log that blocks must not hold the lock that other workers need.
        drop(window);
        write(summary);
        if has_line {
            let (level, label) = (level_of(reason), reason.label());
            match id {
                Some(id) => log::log!(level, "session {id} of {peer} left: {label} ({reason})"),
                None => log::log!(level, "{peer} was turned away: {label} ({reason})"),
            }
        }
        (!has_line).then_some(ends_at)
    }

    /// Writes the summary of a window that is over, and tells when the next one is.
    pub fn flush(&self, now: Instant) -> Option<Instant> {
        let mut window = self.window();
        let summary = window.close_if_over(now);
        let next_at = window.ends_at.filter(|_| window.has_suppressed());
        drop(window);
        write(summary);
        next_at
    }

    /// Writes the summary now: the end of the process.
    pub fn finish(&self) {
        let summary = self.window().summarize();
        write(summary);
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        // Only counts and lines: a panic elsewhere leaves nothing here that could be wrong.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line that is still to be written.
type Summary = (Level, String);

fn write(summary: Option<Summary>) {
    if let Some((level, line)) = summary {
        log::log!(level, "{line}");
    }
}

impl Default for Window {
    fn default() -> Self {
        Self {
            ends_at: None,
            length: SHORTEST_WINDOW,
            spare_lines: SPARE_LINES,
            tallies: BTreeMap::new(),
        }
    }
}

impl Window {
    /// Returns whether it gets a line of its own, and when this window ends.
    fn count(&mut self, ip: IpAddr, reason: DisconnectReason, now: Instant) -> (bool, Instant) {
        let ends_at = *self.ends_at.get_or_insert(now + self.length);
        let has_room = self.tallies.len() < DisconnectReason::COUNT + MAX_CUSTOM_LABELS;
        let label = match self.tallies.contains_key(reason.label()) || has_room {
            true => reason.label(),
            false => DisconnectReason::LABELS[reason.index()],
        };
        let tally = self.tallies.entry(label).or_default();
        tally.level = Some(level_of(reason));
        let is_first = !std::mem::replace(&mut tally.is_known, true);
        if is_first {
            return (true, ends_at);
        }
        if self.spare_lines > 0 {
            self.spare_lines -= 1;
            return (true, ends_at);
        }
        tally.suppressed += 1;
        if tally.addresses.len() < MAX_ADDRESSES {
            tally.addresses.insert(ip);
        }
        (false, ends_at)
    }

    fn close_if_over(&mut self, now: Instant) -> Option<Summary> {
        if self.ends_at.is_none_or(|at| now < at) {
            return None;
        }
        if !self.has_suppressed() {
            *self = Self::default();
            return None;
        }
        for tally in self.tallies.values_mut() {
            tally.is_known = tally.suppressed > 0;
        }
        self.spare_lines = 0;
        self.length = (self.length * 2).min(LONGEST_WINDOW);
        self.ends_at = Some(now + self.length);
        self.summarize()
    }

    fn has_suppressed(&self) -> bool {
        self.tallies.values().any(|tally| tally.suppressed > 0)
    }

    /// One line for all reasons, the most frequent first.
    fn summarize(&mut self) -> Option<Summary> {
        let mut parts: Vec<(u64, Level, String)> = (self.tallies.iter_mut())
            .filter_map(|(label, tally)| tally.summarize(label))
            .collect();
        parts.sort_by_key(|(count, ..)| std::cmp::Reverse(*count));
        // `Error` is the smallest level, `Trace` the largest.
        let level = parts.iter().map(|(_, level, _)| *level).min()?;
        let texts: Vec<String> = parts.into_iter().map(|(.., text)| text).collect();
        Some((level, texts.join("; ")))
    }
}

impl Tally {
    fn summarize(&mut self, label: &str) -> Option<(u64, Level, String)> {
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
        let text = format!("{count} more {label} from {addresses} {more}address{plural}");
        Some((count, level, text))
    }
}

fn level_of(reason: DisconnectReason) -> Level {
    match reason {
        DisconnectReason::Kicked(_)
        | DisconnectReason::IoError(_)
        | DisconnectReason::ServerFull => Level::Warn,
        _ => Level::Info,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::reason::Kick;

    fn note(log: &DisconnectLog, n: u64, reason: Kick, now: Instant) -> Option<Instant> {
        let peer = SocketAddr::from(([127, 0, 0, (n % 3) as u8], 1));
        log.note(Some(SessionId::new(1, 0, 0)), peer, reason.into(), now)
    }

    #[test]
    fn a_flood_is_a_few_lines_and_a_summary_per_window() {
        let log = DisconnectLog::default();
        let start = Instant::now();
        let own_lines = (0..10_000)
            .filter(|&n| note(&log, n, Kick::BadSize, start).is_none())
            .count();
        assert_eq!(own_lines, 9);
        assert_eq!(log.flush(start), Some(start + SHORTEST_WINDOW));
        let summary = log.window().summarize();
        let expected = "9991 more bad_size from 3 addresses".to_owned();
        assert_eq!(summary, Some((Level::Warn, expected)));

        note(&log, 0, Kick::BadSize, start);
        assert_eq!(log.flush(start + SHORTEST_WINDOW), None);
        let still = start + SHORTEST_WINDOW + Duration::from_millis(1);
        assert!(
            note(&log, 0, Kick::BadSize, still).is_some(),
            "a flood that goes on is summed up alone"
        );
        assert!(
            note(&log, 0, Kick::UnknownId, still).is_none(),
            "and hides no other reason"
        );
        let calm = start + LONGEST_WINDOW * 10;
        log.flush(calm);
        log.flush(calm + LONGEST_WINDOW * 2);
        assert!(
            note(&log, 0, Kick::BadSize, calm + LONGEST_WINDOW * 3).is_none(),
            "after a rest: lines again"
        );
    }

    #[test]
    fn a_flood_of_every_reason_in_turn_is_no_more_than_twenty_lines_a_minute() {
        const KICKS: [Kick; 8] = [
            Kick::BadSize,
            Kick::TooLarge,
            Kick::UnknownId,
            Kick::BadPayload,
            Kick::PacketTimeout,
            Kick::SlowConsumer,
            Kick::RateLimit,
            Kick::Custom(1_000, "chat_flood"),
        ];
        let log = DisconnectLog::default();
        let start = Instant::now();
        let (mut lines, mut summary_at) = (0, None);
        for n in 0..10_000_u32 {
            let now = start + Duration::from_millis(6) * n;
            if summary_at.is_some_and(|at| at <= now) {
                summary_at = log.flush(now);
                lines += 1;
            }
            match note(&log, n.into(), KICKS[n as usize % KICKS.len()], now) {
                Some(at) => summary_at = Some(at),
                None => lines += 1,
            }
        }
        // One for each reason, the spare ones, and a summary after 3, 9, 21 and 45 s.
        assert_eq!(lines, 8 + SPARE_LINES + 4);
    }

    #[test]
    fn labels_of_a_game_are_bounded_and_named_in_the_summary() {
        let log = DisconnectLog::default();
        let start = Instant::now();
        for number in 0..1_000 {
            let label = Box::leak(format!("label_{number:03}").into_boxed_str());
            for n in 0..2 {
                note(&log, n, Kick::Custom(1_000, label), start);
            }
        }
        note(&log, 0, Kick::BadSize, start);
        let mut window = log.window();
        assert!(window.tallies.len() <= DisconnectReason::COUNT + MAX_CUSTOM_LABELS + 2);
        let (_, summary) = window.summarize().unwrap();
        assert!(summary.contains("more custom from"), "{summary}");
        assert!(
            summary.contains("1 more label_020 from 1 address"),
            "{summary}"
        );
    }
}
