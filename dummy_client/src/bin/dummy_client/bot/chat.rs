//! Chats on a fixed schedule, and what comes back of them.

use super::open_loop::{OpenLoop, Plan};
use game_server::packets::MAX_CHAT_BYTES;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// One session's chats. Everybody gets each of them; the one that sent them recognises its own, and
/// demands all of them in their order.
#[derive(Debug)]
pub struct ChatPlan {
    schedule: OpenLoop,
    /// What all chats of this session begin with, and no other ones.
    mark: String,
    text_bytes: usize,
    heard: u64,
}

/// A chat of one's own that has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The one that had to come next: when it was due.
    InOrder(Instant),
    /// Another one, or not what was sent.
    Wrong,
}

impl ChatPlan {
    /// A plan of its own for each seed. A text is at least as long as its mark and its number.
    pub fn new(now: Instant, period: Duration, payload_bytes: usize, seed: u64) -> Self {
        let phase = fastrand::Rng::with_seed(!seed).f64();
        Self {
            schedule: OpenLoop::new(now, period, phase),
            mark: format!("{seed:016x} "),
            text_bytes: payload_bytes.min(MAX_CHAT_BYTES),
            heard: 0,
        }
    }

    /// Takes a chat that has come; `None` if it is somebody else's.
    pub fn hear(&mut self, text: &[u8]) -> Option<Heard> {
        if !text.starts_with(self.mark.as_bytes()) {
            return None;
        }
        if self.outstanding() == 0 {
            return Some(Heard::Wrong);
        }
        let number = self.heard;
        self.heard += 1;
        Some(match self.text(number).as_bytes() == text {
            true => Heard::InOrder(self.schedule.due(number)),
            false => Heard::Wrong,
        })
    }

    /// Not heard, and due by then.
    pub fn outstanding_since(&self, at: Instant) -> u64 {
        self.schedule.due_by(self.heard, at)
    }

    fn text(&self, number: u64) -> String {
        let mut text = self.mark.clone();
        // Writing to a string cannot fail.
        let _ = write!(text, "{number}");
        let missing = self.text_bytes.saturating_sub(text.len());
        text.extend(std::iter::repeat_n('.', missing));
        text
    }
}

impl Plan for ChatPlan {
    type Request = String;

    fn next_at(&self) -> Instant {
        self.schedule.next_at()
    }

    fn poll(&mut self, now: Instant) -> Option<(String, Instant)> {
        let number = self.schedule.poll(now)?;
        Some((self.text(number), self.schedule.due(number)))
    }

    fn outstanding(&self) -> u64 {
        self.schedule.sent() - self.heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(10);

    #[test]
    fn only_its_own_chats_count_and_all_of_them_in_order() {
        let now = Instant::now();
        let (mut mine, mut other) = (
            ChatPlan::new(now, PERIOD, 64, 1),
            ChatPlan::new(now, PERIOD, 64, 2),
        );
        let late = now + PERIOD * 4;
        let due = mine.next_at();
        let texts: Vec<String> = std::iter::from_fn(|| mine.poll(late))
            .map(|(text, _)| text)
            .collect();
        assert!(texts.iter().all(|text| text.len() == 64));
        let (foreign, _) = other.poll(late).unwrap();
        assert_eq!(mine.hear(foreign.as_bytes()), None);
        assert_eq!(mine.hear(texts[0].as_bytes()), Some(Heard::InOrder(due)));
        assert_eq!(mine.hear(texts[2].as_bytes()), Some(Heard::Wrong));
        let cut = &texts[2].as_bytes()[..63];
        assert_eq!(mine.hear(cut), Some(Heard::Wrong));
        assert_eq!(other.hear(texts[0].as_bytes()), None);
    }

    #[test]
    fn a_chat_that_nobody_sent_is_wrong() {
        let mut plan = ChatPlan::new(Instant::now(), PERIOD, 8, 1);
        let text = plan.text(0);
        assert_eq!(plan.hear(text.as_bytes()), Some(Heard::Wrong));
    }
}
