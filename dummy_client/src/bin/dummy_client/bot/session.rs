//! One session of the load client: checks every packet that it gets.

use super::chat::{ChatPlan, Heard};
use super::echo::EchoPlan;
use super::open_loop::Plan;
use crate::measure::board::{Board, Counters, Event};
use crate::measure::recorder::{Arrived, Recorder};
use game_server::packets::{CChat, CEcho, SBye, SChat, SEcho, SHello};
use server_core::metrics::Counter;
use server_core::{Context, DisconnectReason, Kick, Packet, Peer, Session};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What all bots have in common.
pub struct BotSettings {
    /// Where they report.
    pub board: Arc<Board>,
    /// How many of them log each packet.
    pub log_sessions: usize,
    /// What they send.
    pub requests: Requests,
}

/// What each session sends, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Requests {
    /// From one echo request to the next.
    pub echo_period: Option<Duration>,
    /// From one chat to the next.
    pub chat_period: Option<Duration>,
    /// The size of both.
    pub payload_bytes: usize,
    /// For what is in them.
    pub seed: u64,
}

impl Requests {
    /// So many may wait for their answers; more wait here, and are charged from when they were due.
    /// A server that answers nothing must not fill our memory with what it is asked.
    fn most_outstanding(&self) -> u64 {
        (MAX_OUTSTANDING_BYTES / (self.payload_bytes + 64)).max(16) as u64
    }
}

const MAX_OUTSTANDING_BYTES: usize = 4 << 20;
/// Requests of one callback; then the other sessions have their turn.
const AT_A_TIME: usize = 256;
const MIN_WAIT: Duration = Duration::from_micros(100);
/// An answer that is not there after this is not there.
const OVERDUE: Duration = Duration::from_secs(2);

/// One of the load client's sessions.
pub struct Bot {
    settings: Arc<BotSettings>,
    index: usize,
    thread: usize,
    /// 0 before the first one.
    last_tick: u64,
    /// Of the ticks; `None` before the first one.
    epoch: Option<u64>,
    echo: Option<EchoPlan>,
    chat: Option<ChatPlan>,
    /// Requests are late because the server owes too many answers: that is not our lateness.
    is_held_back: bool,
    is_connected: bool,
    has_received: bool,
    was_refused: bool,
}

impl Bot {
    /// The bot for this connection; its tag is the bot's index.
    pub fn new(settings: Arc<BotSettings>, peer: Peer) -> Self {
        Self {
            settings,
            index: peer.tag.unwrap_or_default() as usize,
            thread: peer.id.worker(),
            last_tick: 0,
            epoch: None,
            echo: None,
            chat: None,
            is_held_back: false,
            is_connected: false,
            has_received: false,
            was_refused: false,
        }
    }

    fn counters(&self) -> &Counters {
        self.settings.board.counters(self.thread)
    }

    /// Comes back when the next request is due. What is due already and may not be sent yet comes a
    /// little later: it waits for answers, or for its turn.
    fn set_timer(&mut self, ctx: &mut Context<'_>) {
        let echo_at = self.echo.as_ref().map(EchoPlan::next_at);
        let chat_at = self.chat.as_ref().map(ChatPlan::next_at);
        if let Some(at) = echo_at.into_iter().chain(chat_at).min() {
            self.is_held_back &= at <= ctx.now();
            ctx.set_timer(at.max(ctx.now() + MIN_WAIT));
        }
    }

    fn log_packet(&self, packet: Packet<'_>, text: Option<&[u8]>) {
        if self.index >= self.settings.log_sessions {
            return;
        }
        // Numbered from 1, as people count.
        let (number, id, size) = (self.index + 1, packet.id(), packet.size());
        match text {
            Some(text) => log::info!("session {number}: id {id} size {size} {}", quoted(text)),
            None => log::info!("session {number}: id {id} size {size}"),
        }
    }

    fn on_hello(&mut self, packet: Packet<'_>, now: Instant) -> Result<(), Kick> {
        let (hello, tail) = packet.parse::<SHello>()?;
        self.log_packet(packet, Some(tail));
        let (tick, last) = (hello.tick.get(), self.last_tick);
        let board = &self.settings.board;
        let (epoch, arrived) = match self.epoch {
            None => (board.epoch_of_first_tick(self.index, tick), Arrived::First),
            Some(epoch) if tick > last => (epoch, Arrived::Next),
            Some(epoch) => (epoch, Arrived::Again),
        };
        self.epoch = Some(epoch);
        board.recorder(self.thread).tick(epoch, tick, now, arrived);
        let counters = board.counters(self.thread);
        counters.ticks.add(1);
        if !board.is_expected_tail(tail) {
            counters.wrong_texts.add(1);
        }
        if last != 0 && tick == last {
            counters.repeats.add(1);
        } else if tick < last {
            counters.reordered.add(1);
        } else if last != 0 && tick > last + 1 {
            counters.gaps.add(1);
            // A server that sends any number must not be able to overflow the sum.
            counters
                .missing_ticks
                .add((tick - last - 1).min(u64::from(u32::MAX)));
        }
        self.last_tick = last.max(tick);
        self.settings
            .board
            .set_last_tick(self.index, self.last_tick);
        Ok(())
    }

    fn on_echo(&mut self, packet: Packet<'_>, now: Instant) {
        self.log_packet(packet, None);
        let due = self
            .echo
            .as_mut()
            .and_then(|echo| echo.answer(packet.payload()));
        let counters = self.counters();
        counters.echoes_answered.add(1);
        counters.wrong_echoes.add(u64::from(due.is_none()));
        if let Some(due) = due {
            let recorder = self.settings.board.recorder(self.thread);
            recorder.round_trip(now.saturating_duration_since(due));
        }
    }

    fn on_chat(&mut self, packet: Packet<'_>, now: Instant) -> Result<(), Kick> {
        let (_, text) = packet.parse::<SChat>()?;
        self.log_packet(packet, Some(text));
        let heard = self.chat.as_mut().and_then(|chat| chat.hear(text));
        let counters = self.counters();
        counters.chats.add(1);
        match heard {
            None => {}
            Some(Heard::Wrong) => {
                counters.chats_heard.add(1);
                counters.wrong_chats.add(1);
            }
            Some(Heard::InOrder(due)) => {
                counters.chats_heard.add(1);
                let recorder = self.settings.board.recorder(self.thread);
                recorder.chat_heard(now.saturating_duration_since(due));
            }
        }
        Ok(())
    }

    fn on_bye(&mut self, packet: Packet<'_>) -> Result<(), Kick> {
        let (bye, text) = packet.parse::<SBye>()?;
        self.log_packet(packet, Some(text));
        // The text is the peer's: the summary keeps so much of it, and no more.
        let text = String::from_utf8_lossy(text);
        let text = text.chars().take(MAX_KEPT_CHARS).collect();
        let is_full = DisconnectReason::ServerFull.code() == Some(bye.reason.get());
        self.was_refused = is_full && !self.has_received;
        self.settings.board.count_bye(bye.reason.get(), text);
        Ok(())
    }
}

impl Session for Bot {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        let settings = &self.settings;
        self.is_connected = true;
        let began = settings.board.connect_began(self.index);
        let recorder = settings.board.recorder(self.thread);
        recorder.connected(ctx.now().saturating_duration_since(began));
        settings.board.join(self.index);
        settings.board.tell(Event::Connected(self.index, ctx.id()));
        let Requests {
            echo_period,
            chat_period,
            payload_bytes,
            seed,
        } = settings.requests;
        let seed = seed ^ ctx.id().to_u64().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.echo = echo_period.map(|period| EchoPlan::new(ctx.now(), period, payload_bytes, seed));
        self.chat = chat_period.map(|period| ChatPlan::new(ctx.now(), period, payload_bytes, seed));
        self.set_timer(ctx);
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        self.counters().packets.add(1);
        self.counters().bytes.add(packet.size() as u64);
        let checked = match packet.id() {
            SHello::ID => self.on_hello(packet, ctx.now()),
            SEcho::ID => {
                self.on_echo(packet, ctx.now());
                Ok(())
            }
            SChat::ID => self.on_chat(packet, ctx.now()),
            SBye::ID => self.on_bye(packet),
            // Only known ids are read as what they are.
            _ => {
                self.log_packet(packet, None);
                self.counters().unknown_ids.add(1);
                Ok(())
            }
        };
        self.has_received = true;
        if checked.is_err() {
            self.counters().malformed.add(1);
        }
        Ok(())
    }

    fn on_timer(&mut self, ctx: &mut Context<'_>) {
        let settings = Arc::clone(&self.settings);
        let (board, counters) = (&settings.board, settings.board.counters(self.thread));
        let mut turn = Turn {
            board,
            recorder: board.recorder(self.thread),
            most_outstanding: settings.requests.most_outstanding(),
            now: ctx.now(),
            left: AT_A_TIME,
            is_held_back: self.is_held_back,
        };
        let goes_on = self.echo.as_mut().is_none_or(|echo| {
            turn.send(echo, &counters.echoes_sent, |echo| {
                ctx.send(&CEcho {}, echo)
            })
        }) && self.chat.as_mut().is_none_or(|chat| {
            turn.send(chat, &counters.chats_sent, |chat| ctx.send(&CChat {}, chat))
        });
        self.is_held_back = turn.is_held_back;
        if goes_on {
            self.set_timer(ctx);
        }
    }

    fn on_disconnected(&mut self, ctx: &mut Context<'_>, reason: DisconnectReason) {
        let board = &self.settings.board;
        if self.is_connected {
            let was_lost = reason != DisconnectReason::Closed && !self.was_refused;
            board.leave(self.index, was_lost);
        }
        if let Some(epoch) = self.epoch {
            board.recorder(self.thread).left(epoch);
        }
        let echoes = self.echo.as_ref().map_or(0, EchoPlan::outstanding);
        let chats = self.chat.as_ref().map_or(0, ChatPlan::outstanding);
        let counters = self.counters();
        counters.echoes_lost.add(echoes);
        counters.chats_lost.add(chats);
        if let Some(long_ago) = ctx.now().checked_sub(OVERDUE) {
            let echoes = self
                .echo
                .as_ref()
                .map(|echo| echo.outstanding_since(long_ago));
            let chats = self
                .chat
                .as_ref()
                .map(|chat| chat.outstanding_since(long_ago));
            counters.echoes_overdue.add(echoes.unwrap_or(0));
            counters.chats_overdue.add(chats.unwrap_or(0));
        }
        board.tell(match self.is_connected {
            true if self.was_refused => Event::Refused(self.index),
            true => Event::Lost(self.index, reason),
            false => Event::Failed(self.index, reason.to_string()),
        });
    }
}

/// Requests that are due, sent in one callback.
struct Turn<'a> {
    board: &'a Board,
    recorder: &'a Recorder,
    most_outstanding: u64,
    now: Instant,
    /// So many more, and then the other sessions have their turn.
    left: usize,
    is_held_back: bool,
}

impl Turn<'_> {
    /// Sends what this plan has due. False: the run ends, and nothing more is to be sent.
    fn send<P: Plan>(
        &mut self,
        plan: &mut P,
        sent: &Counter,
        mut send: impl FnMut(P::Request),
    ) -> bool {
        while plan.next_at() <= self.now && self.left > 0 {
            if plan.outstanding() >= self.most_outstanding {
                self.is_held_back = true;
                break;
            }
            if !self.board.may_send(sent) {
                return false;
            }
            self.left -= 1;
            if let Some((request, due)) = plan.poll(self.now) {
                send(request);
                if !self.is_held_back {
                    let late = self.now.saturating_duration_since(due);
                    self.recorder.sent_late(late);
                }
            }
        }
        true
    }
}

/// A server's text for the log: without its padding, without control characters, and not too long.
fn quoted(text: &[u8]) -> String {
    let end = text
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1);
    let text = String::from_utf8_lossy(&text[..end]);
    let shown: String = text.chars().take(MAX_LOGGED_CHARS).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    format!("{shown:?}{more}")
}

const MAX_LOGGED_CHARS: usize = 80;
const MAX_KEPT_CHARS: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_the_log_is_short_and_harmless() {
        assert_eq!(quoted(b"Hello World\0\0\0"), r#""Hello World""#);
        assert_eq!(quoted(b"\x1b[31m\n"), r#""\u{1b}[31m\n""#);
        assert_eq!(quoted(&[b'a'; 100]), format!("\"{}\"…", "a".repeat(80)));
        assert_eq!(quoted(b"\0\0"), r#""""#);
    }
}
