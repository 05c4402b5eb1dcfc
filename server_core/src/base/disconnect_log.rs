//! Log lines about disconnects, in a bounded number.

use crate::base::id::SessionId;
use crate::base::reason::{DisconnectReason, MAX_CUSTOM_LABELS};
use log::Level;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Logs the first disconnect of each reason in a window of 5 s, and one summary of the others at its end
/// ("1284 more bad_size from 3 addresses; 2 more unknown_id from 1 address").
///
/// A peer can be made to disconnect a million times, for another reason each time. The bound of the
/// lines keeps a peer from filling the disk. The counts of the summaries are exact, as are the
/// [`metrics`](crate::base::metrics). Clones share one log.
#[derive(Clone, Debug, Default)]
pub struct DisconnectLog {
    window: Arc<Mutex<Window>>,
}

#[derive(Debug, Default)]
struct Window {
    ends_at: Option<Instant>,
    /// By label. Beyond [`MAX_LABELS`] a label of the game counts as `custom`.
    reasons: BTreeMap<&'static str, Suppressed>,
}

/// The disconnects of one reason that have no line of their own.
#[derive(Debug)]
struct Suppressed {
    level: Level,
    count: u64,
    addresses: HashSet<IpAddr>,
}

const WINDOW: Duration = Duration::from_secs(5);
/// Addresses that a summary counts. The set does not grow with the attack.
const MAX_ADDRESSES: usize = 1024;
const MAX_LABELS: usize = DisconnectReason::COUNT + MAX_CUSTOM_LABELS;

impl DisconnectLog {
    /// Logs or counts one disconnect. A rejected connection has no id; `text` is what the game gave as the reason.
    /// Returns the instant at which the summary is due if the disconnect was only counted.
    pub fn note(
        &self,
        id: Option<SessionId>,
        peer: SocketAddr,
        reason: DisconnectReason,
        text: Option<&str>,
        now: Instant,
    ) -> Option<Instant> {
        self.flush(now);
        let summary_at = self.window().count(peer.ip(), reason, now);
        if summary_at.is_none() {
            log::log!(level_of(reason), "{}", line_of(id, peer, reason, text));
        }
        summary_at
    }

    /// Writes the summary of a window that is over. Returns the instant at which the next one is due.
    pub fn flush(&self, now: Instant) -> Option<Instant> {
        let mut window = self.window();
        if window.ends_at.is_none_or(|at| at > now) {
            let is_due = window.reasons.values().any(|reason| reason.count > 0);
            return window.ends_at.filter(|_| is_due);
        }
        let over = std::mem::take(&mut *window);
        // A log that blocks must not hold the lock that other workers need.
        drop(window);
        over.write_summary();
        None
    }

    /// Writes the summary at once: the process ends.
    pub fn finish(&self) {
        let last = std::mem::take(&mut *self.window());
        last.write_summary();
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        // The window holds only counts: a panic elsewhere leaves nothing wrong in it.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
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

fn level_of(reason: DisconnectReason) -> Level {
    match reason {
        DisconnectReason::Kicked(_)
        | DisconnectReason::IoError(_)
        | DisconnectReason::ServerFull => Level::Warn,
        _ => Level::Info,
    }
}

impl Window {
    /// Returns the end of the window, or `None` for a disconnect that gets a line of its own.
    fn count(&mut self, ip: IpAddr, reason: DisconnectReason, now: Instant) -> Option<Instant> {
        let ends_at = *self.ends_at.get_or_insert(now + WINDOW);
        let mut label = reason.label();
        if self.reasons.len() >= MAX_LABELS && !self.reasons.contains_key(label) {
            label = DisconnectReason::LABELS[reason.index()];
        }
        let Some(suppressed) = self.reasons.get_mut(label) else {
            let suppressed = Suppressed {
                level: level_of(reason),
                count: 0,
                addresses: HashSet::new(),
            };
            self.reasons.insert(label, suppressed);
            return None;
        };
        suppressed.count += 1;
        if suppressed.addresses.len() < MAX_ADDRESSES {
            suppressed.addresses.insert(ip);
        }
        Some(ends_at)
    }

    fn write_summary(self) {
        if let Some((level, line)) = self.summary() {
            log::log!(level, "{line}");
        }
    }

    /// One line for all reasons, the most frequent first.
    fn summary(self) -> Option<(Level, String)> {
        let mut reasons: Vec<_> = self.reasons.into_iter().collect();
        reasons.retain(|(_, reason)| reason.count > 0);
        reasons.sort_by_key(|(_, reason)| Reverse(reason.count));
        let level = reasons.iter().map(|(_, reason)| reason.level).min()?;
        let parts = reasons.iter().map(|(label, reason)| {
            let addresses = match reason.addresses.len() {
                1 => "1 address".to_owned(),
                MAX_ADDRESSES => format!("{MAX_ADDRESSES} or more addresses"),
                addresses => format!("{addresses} addresses"),
            };
            format!("{} more {label} from {addresses}", reason.count)
        });
        Some((level, parts.collect::<Vec<_>>().join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::reason::Kick;

    fn note(log: &DisconnectLog, n: u64, reason: Kick, now: Instant) -> Option<Instant> {
        let peer = SocketAddr::from(([127, 0, 0, (n % 3) as u8], 1));
        log.note(
            Some(SessionId::new(1, 0, 0)),
            peer,
            reason.into(),
            None,
            now,
        )
    }

    fn summary(log: &DisconnectLog) -> (Level, String) {
        std::mem::take(&mut *log.window()).summary().unwrap()
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
        for window in 0..3 {
            let now = start + WINDOW * window;
            let own_lines = (0..10_000).filter(|&n| note(&log, n, Kick::BadSize, now).is_none());
            assert_eq!(own_lines.count(), 1);
            assert_eq!(log.flush(now), Some(now + WINDOW));
        }
        let others =
            (0..2).filter(|_| note(&log, 0, Kick::UnknownId, start + WINDOW * 2).is_none());
        assert_eq!(others.count(), 1);
        let expected = "9999 more bad_size from 3 addresses; 1 more unknown_id from 1 address";
        assert_eq!(summary(&log), (Level::Warn, expected.to_owned()));
        note(&log, 0, Kick::BadSize, start);
        assert_eq!(
            log.flush(start + WINDOW),
            None,
            "no summary without a suppressed disconnect"
        );
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
        assert!(log.window().reasons.len() <= MAX_LABELS + DisconnectReason::COUNT);
        let (_, summary) = summary(&log);
        assert!(summary.contains("more custom from"), "{summary}");
        assert!(
            summary.contains("1 more label_020 from 1 address"),
            "{summary}"
        );
    }
}
