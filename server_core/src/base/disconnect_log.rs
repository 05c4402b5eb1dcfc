//! Log lines about disconnects, in a bounded number.

use crate::base::id::SessionId;
use crate::base::reason::{DisconnectReason, MAX_CUSTOM_LABELS};
use log::Level;
use std::collections::{BTreeMap, HashSet};
use std::mem::take;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Logs the first disconnect of each reason in a window, and one summary of the others at its end
/// ("1284 more bad_size from 3 addresses; 2 more unknown_id from 1 address").
///
/// A peer can be made to disconnect a million times, for another reason each time. The bound of the
/// lines keeps a peer from filling the disk. While a flood goes on (more than 9 disconnects of a reason in a
/// window), its reasons get no line of their own, and the windows grow from 3 s to 24 s. The counts of the summaries are exact, as are the
/// [`metrics`](crate::base::metrics). Clones share one log.
#[derive(Clone, Debug, Default)]
pub struct DisconnectLog {
    limiter: Arc<Mutex<LogLimiter>>,
}

#[derive(Debug, Default)]
struct LogLimiter {
    window_ends_at: Option<Instant>,
    /// Windows with a summary, one directly behind the other.
    flood_windows: u32,
    has_warning: bool,
    /// By label. Beyond [`MAX_LABELS`] a label of the game counts as `custom`.
    reasons: BTreeMap<&'static str, Suppressed>,
}

/// The disconnects of one reason that have no line of their own.
#[derive(Debug, Default)]
struct Suppressed {
    /// The line of this window is written, or the reason is that of a flood and gets none.
    had_line: bool,
    count: u64,
    addresses: HashSet<IpAddr>,
}

const SHORTEST_WINDOW: Duration = Duration::from_secs(3);
const MAX_DOUBLINGS: u32 = 3;
/// Addresses that a summary counts. The set does not grow with the attack.
const MAX_ADDRESSES: usize = 1024;
/// With more suppressed disconnects in a window a reason is that of a flood.
const MAX_CALM: u64 = 8;
const MAX_LABELS: usize = DisconnectReason::COUNT + MAX_CUSTOM_LABELS;

impl DisconnectLog {
    /// Logs or counts one disconnect. A rejected connection has no id. Returns the instant at which the
    /// summary is due if the disconnect was only counted.
    pub fn note(
        &self,
        id: Option<SessionId>,
        peer: SocketAddr,
        reason: DisconnectReason,
        now: Instant,
    ) -> Option<Instant> {
        self.note_with_text(id, peer, reason, None, now)
    }

    /// Like [`note`](Self::note), with the text that the game gave as the reason.
    pub fn note_with_text(
        &self,
        id: Option<SessionId>,
        peer: SocketAddr,
        reason: DisconnectReason,
        text: Option<&str>,
        now: Instant,
    ) -> Option<Instant> {
        let mut limiter = self.limiter();
        let summary = limiter.end_window(now);
        let summary_at = limiter.count(peer.ip(), reason, now);
        // A log that blocks must not hold the lock that other workers need.
        drop(limiter);
        write(summary);
        if summary_at.is_none() {
            log::log!(level_of(reason), "{}", line_of(id, peer, reason, text));
        }
        summary_at
    }

    /// Writes the summary of a window that is over. Returns the instant at which the next one is due.
    pub fn flush(&self, now: Instant) -> Option<Instant> {
        let mut limiter = self.limiter();
        let summary = limiter.end_window(now);
        let is_pending = limiter.reasons.values().any(|reason| reason.count > 0);
        let next_at = limiter.window_ends_at.filter(|_| is_pending);
        drop(limiter);
        write(summary);
        next_at
    }

    /// Writes the summary at once: the process ends.
    pub fn finish(&self) {
        let summary = self.limiter().summarize();
        write(summary);
    }

    fn limiter(&self) -> MutexGuard<'_, LogLimiter> {
        // The limiter holds only counts: a panic elsewhere leaves nothing wrong in it.
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The line of one disconnect. A text of the game may have words of a peer in it: no control character of
/// theirs reaches the log.
fn line_of(
    id: Option<SessionId>,
    peer: SocketAddr,
    reason: DisconnectReason,
    text: Option<&str>,
) -> String {
    let label = reason.label();
    match (id, text) {
        (Some(id), Some(text)) => format!("session {id} of {peer} left: {label} ({text:?})"),
        (Some(id), None) => format!("session {id} of {peer} left: {label} ({reason})"),
        (None, _) => format!("connection of {peer} rejected: {label} ({reason})"),
    }
}

fn write(summary: Option<(Level, String)>) {
    if let Some((level, line)) = summary {
        log::log!(level, "{line}");
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

impl LogLimiter {
    /// Returns the end of the window, or `None` for a disconnect that gets a line of its own.
    fn count(&mut self, ip: IpAddr, reason: DisconnectReason, now: Instant) -> Option<Instant> {
        let ends_at = *self.window_ends_at.get_or_insert(now + SHORTEST_WINDOW);
        let has_room = self.reasons.len() < MAX_LABELS;
        let label = if has_room || self.reasons.contains_key(reason.label()) {
            reason.label()
        } else {
            DisconnectReason::LABELS[reason.index()]
        };
        let suppressed = self.reasons.entry(label).or_default();
        if !std::mem::replace(&mut suppressed.had_line, true) {
            return None;
        }
        suppressed.count += 1;
        if suppressed.addresses.len() < MAX_ADDRESSES {
            suppressed.addresses.insert(ip);
        }
        self.has_warning |= level_of(reason) == Level::Warn;
        Some(ends_at)
    }

    fn end_window(&mut self, now: Instant) -> Option<(Level, String)> {
        self.window_ends_at.filter(|at| *at <= now)?;
        for reason in self.reasons.values_mut() {
            reason.had_line = reason.count > MAX_CALM;
        }
        let is_calm = !self.reasons.values().any(|reason| reason.had_line);
        let summary = self.summarize();
        if is_calm {
            *self = Self::default();
            return summary;
        }
        self.flood_windows += 1;
        let window = SHORTEST_WINDOW * (1 << self.flood_windows.min(MAX_DOUBLINGS));
        self.window_ends_at = Some(now + window);
        summary
    }

    /// One line for all reasons, the most frequent first.
    fn summarize(&mut self) -> Option<(Level, String)> {
        let mut parts: Vec<(u64, String)> = (self.reasons.iter_mut())
            .filter(|(_, reason)| reason.count > 0)
            .map(|(label, reason)| reason.take(label))
            .collect();
        parts.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        let texts: Vec<String> = parts.into_iter().map(|(_, text)| text).collect();
        let level = if take(&mut self.has_warning) {
            Level::Warn
        } else {
            Level::Info
        };
        (!texts.is_empty()).then(|| (level, texts.join("; ")))
    }
}

impl Suppressed {
    fn take(&mut self, label: &str) -> (u64, String) {
        let count = take(&mut self.count);
        let addresses = match take(&mut self.addresses).len() {
            1 => "1 address".to_owned(),
            MAX_ADDRESSES => format!("{MAX_ADDRESSES} or more addresses"),
            addresses => format!("{addresses} addresses"),
        };
        (count, format!("{count} more {label} from {addresses}"))
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
    fn line_has_label_and_text_without_control_characters() {
        let id = SessionId::new(1, 0, 0);
        let peer = SocketAddr::from(([127, 0, 0, 1], 7));
        let reason = Kick::custom(1_001, "name_taken").into();
        let text = Some("a\u{1b}[31mb\nc is taken");
        assert_eq!(
            line_of(Some(id), peer, reason, text),
            format!("session {id} of {peer} left: name_taken (\"a\\u{{1b}}[31mb\\nc is taken\")"),
        );
        assert_eq!(
            line_of(Some(id), peer, reason, None),
            format!("session {id} of {peer} left: name_taken (a rule of the game: name_taken)"),
        );
    }

    #[test]
    fn a_flood_is_one_line_and_a_summary_per_window() {
        let (log, start) = (DisconnectLog::default(), Instant::now());
        let own_lines = (0..10_000).filter(|&n| note(&log, n, Kick::BadSize, start).is_none());
        assert_eq!(own_lines.count(), 1);
        assert_eq!(log.flush(start), Some(start + SHORTEST_WINDOW));
        let others = (0..2).filter(|_| note(&log, 0, Kick::UnknownId, start).is_none());
        assert_eq!(others.count(), 1);
        let summary = log.limiter().summarize();
        let expected = "9999 more bad_size from 3 addresses; 1 more unknown_id from 1 address";
        assert_eq!(summary, Some((Level::Warn, expected.to_owned())));

        for _ in 0..=MAX_CALM {
            note(&log, 0, Kick::BadSize, start);
        }
        let next = start + SHORTEST_WINDOW;
        assert_eq!(log.flush(next), None);
        let goes_on = note(&log, 0, Kick::BadSize, next);
        let second_end = next + SHORTEST_WINDOW * 2;
        assert_eq!(goes_on, Some(second_end), "in the summary alone");
        let other = note(&log, 0, Kick::UnknownId, next);
        assert_eq!(other, None, "the flood hides no other reason");
        assert_eq!(log.flush(second_end), None);
        let calm = second_end + SHORTEST_WINDOW * 4;
        let rested = (0..2).map(|_| note(&log, 0, Kick::BadSize, calm));
        let expected = [None, Some(calm + SHORTEST_WINDOW)];
        assert!(rested.eq(expected), "a line again after a quiet window");
    }

    #[test]
    fn a_flood_of_every_reason_in_turn_is_twelve_lines_a_minute() {
        let (log, start) = (DisconnectLog::default(), Instant::now());
        let kicks = [
            Kick::BadSize,
            Kick::TooLarge,
            Kick::UnknownId,
            Kick::BadPayload,
            Kick::PacketTimeout,
            Kick::SlowConsumer,
            Kick::RateLimit,
            Kick::Custom(1_000, "chat_flood"),
        ];
        let (mut lines, mut summary_at) = (0, None);
        for n in 0..10_000_u32 {
            let now = start + Duration::from_millis(6) * n;
            if summary_at.is_some_and(|at| at <= now) {
                summary_at = log.flush(now);
                lines += 1;
            }
            match note(&log, n.into(), kicks[n as usize % kicks.len()], now) {
                Some(at) => summary_at = Some(at),
                None => lines += 1,
            }
        }
        // One for each reason, and a summary after 3, 9, 21 and 45 s.
        assert_eq!(lines, 8 + 4);
    }

    #[test]
    fn labels_of_a_game_are_bounded_and_named_in_the_summary() {
        let (log, start) = (DisconnectLog::default(), Instant::now());
        for number in 0..1_000 {
            let label = Box::leak(format!("label_{number:03}").into_boxed_str());
            for n in 0..2 {
                note(&log, n, Kick::Custom(1_000, label), start);
            }
        }
        note(&log, 0, Kick::BadSize, start);
        // A library's own label is always named.
        assert!(log.limiter().reasons.len() <= MAX_LABELS + DisconnectReason::COUNT);
        let (_, summary) = log.limiter().summarize().unwrap();
        assert!(summary.contains("more custom from"), "{summary}");
        let first = "1 more label_020 from 1 address";
        assert!(summary.contains(first), "{summary}");
    }

    #[test]
    fn a_few_disconnects_in_each_window_are_no_flood() {
        let (log, start) = (DisconnectLog::default(), Instant::now());
        for window in 0..10 {
            let now = start + SHORTEST_WINDOW * window;
            log.flush(now);
            let first = note(&log, 0, Kick::BadSize, now);
            assert_eq!(first, None, "a line in each window");
            for _ in 0..MAX_CALM {
                let summary_at = note(&log, 0, Kick::BadSize, now);
                assert_eq!(summary_at, Some(now + SHORTEST_WINDOW));
            }
        }
    }
}
