//! The users of `game_server`: they check every hello, and send echoes and chats.

use dummy_client::metrics::{Check, Counter, RequestSeries, TickSeries, Unit};
use dummy_client::{Bot, BotContext, BotResult, Registry, Scenario, UserId, Violation};
use game_server::packets::{
    CChat, CEcho, CLogin, MAX_CHAT_BYTES, SBye, SChat, SEcho, SHello, SLogin, SWorldChat,
};
use server_core::{DisconnectReason, Packet};
use std::fmt::Write;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// What each user sends.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// From one echo request to the next.
    pub echo_period: Option<Duration>,
    /// From one chat to the next.
    pub chat_period: Option<Duration>,
    /// Each session logs in first, by a name that no other session has.
    pub logs_in: bool,
    /// Of echo requests, and of chats as far as a chat can be as long.
    pub payload_bytes: usize,
}

/// The users of `game_server`.
#[derive(Debug)]
pub struct GameScenario {
    workload: Workload,
    /// Set by [`Scenario::register`].
    metrics: Option<GameMetrics>,
    /// All hellos of a run have the same bytes behind the tick: the first hello sets them.
    hello_tail: Arc<OnceLock<Box<[u8]>>>,
}

#[derive(Clone, Copy, Debug)]
struct GameMetrics {
    ticks: TickSeries,
    wrong_texts: Check,
    echoes: RequestSeries,
    chats: RequestSeries,
    chats_received: Counter,
    world_chats_received: Counter,
}

/// One connection of a user.
#[derive(Debug)]
pub struct GameBot {
    metrics: GameMetrics,
    hello_tail: Arc<OnceLock<Box<[u8]>>>,
    workload: Workload,
    seed: u64,
    /// All chats of this session begin with it, and no other session's.
    chat_mark: String,
}

impl GameScenario {
    /// Users with this workload.
    pub fn new(workload: Workload) -> Self {
        Self {
            workload,
            metrics: None,
            hello_tail: Arc::default(),
        }
    }
}

impl Scenario for GameScenario {
    type Bot = GameBot;

    fn name(&self) -> &str {
        "game_server"
    }

    fn register(&mut self, metrics: &mut Registry) {
        for (id, name) in [
            (SHello::ID, "S_HELLO"),
            (SEcho::ID, "S_ECHO"),
            (SChat::ID, "S_CHAT"),
            (SBye::ID, "S_BYE"),
            (SWorldChat::ID, "S_WORLD_CHAT"),
            (SLogin::ID, "S_LOGIN"),
        ] {
            metrics.packet(id, name);
        }
        self.metrics = Some(GameMetrics {
            ticks: metrics.tick_series("tick"),
            wrong_texts: metrics.check("hello_texts_wrong", "hellos had a wrong text"),
            echoes: metrics.request_series(
                "echoes",
                "answered",
                "rtt",
                "echo, from the due time to the answer",
            ),
            chats: metrics.request_series(
                "chats",
                "delivered",
                "chat_delay",
                "chat, from the due time to the delivery to its sender",
            ),
            chats_received: metrics.counter("chats_received", Unit::Count),
            world_chats_received: metrics.counter("world_chats_received", Unit::Count),
        });
    }

    fn has_login(&self) -> bool {
        self.workload.logs_in
    }

    fn bot(&self, _: UserId, seed: u64) -> GameBot {
        GameBot {
            metrics: self.metrics.expect("a run registers the metrics first"),
            hello_tail: Arc::clone(&self.hello_tail),
            workload: self.workload,
            seed,
            chat_mark: format!("{seed:016x} "),
        }
    }

    fn text<'a>(&self, packet: &Packet<'a>) -> Option<&'a [u8]> {
        match packet.id() {
            SHello::ID => packet.parse::<SHello>().ok().map(|(_, text)| text),
            SChat::ID => packet.parse::<SChat>().ok().map(|(_, text)| text),
            SWorldChat::ID => packet.parse::<SWorldChat>().ok().map(|(_, text)| text),
            SBye::ID => packet.parse::<SBye>().ok().map(|(_, text)| text),
            _ => None,
        }
    }
}

impl GameBot {
    fn start(&self, ctx: &mut BotContext<'_, '_>) {
        let bytes = self.workload.payload_bytes;
        if let Some(period) = self.workload.echo_period {
            ctx.start_requests(self.metrics.echoes, period, bytes);
        }
        if let Some(period) = self.workload.chat_period {
            ctx.start_requests(self.metrics.chats, period, bytes.min(MAX_CHAT_BYTES));
        }
    }
}

impl Bot for GameBot {
    fn on_connected(&mut self, ctx: &mut BotContext<'_, '_>) {
        if self.workload.logs_in {
            ctx.send(&CLogin {}, format!("user-{:016x}", self.seed));
        } else {
            self.start(ctx);
        }
    }

    fn on_packet(&mut self, ctx: &mut BotContext<'_, '_>, packet: Packet<'_>) -> BotResult {
        match packet.id() {
            SHello::ID => {
                let (hello, tail) = packet.parse::<SHello>()?;
                ctx.tick(self.metrics.ticks, hello.tick.get());
                let expected = self.hello_tail.get_or_init(|| tail.into());
                ctx.check(self.metrics.wrong_texts, **expected == *tail);
            }
            SEcho::ID => {
                let (seed, bytes) = (self.seed, self.workload.payload_bytes);
                let is_right = |number| packet.payload() == echo_payload(seed, number, bytes);
                ctx.answered(self.metrics.echoes, is_right);
            }
            SChat::ID => {
                let (_, text) = packet.parse::<SChat>()?;
                ctx.add(self.metrics.chats_received, 1);
                let (mark, bytes) = (&self.chat_mark, self.workload.payload_bytes);
                if text.starts_with(mark.as_bytes()) {
                    ctx.answered(self.metrics.chats, |number| {
                        chat_text(mark, number, bytes).as_bytes() == text
                    });
                }
            }
            SWorldChat::ID => {
                packet.parse::<SWorldChat>()?;
                ctx.add(self.metrics.world_chats_received, 1);
            }
            SLogin::ID if self.workload.logs_in => {
                packet.parse::<SLogin>()?;
                ctx.logged_in();
                self.start(ctx);
            }
            SBye::ID => {
                let (bye, text) = packet.parse::<SBye>()?;
                let code = bye.reason.get();
                ctx.close_message(code, text);
                if DisconnectReason::ServerFull.code() == Some(code) {
                    ctx.refused();
                }
            }
            _ => return Err(Violation::UnknownId),
        }
        Ok(())
    }

    fn on_request(&mut self, ctx: &mut BotContext<'_, '_>, series: RequestSeries, number: u64) {
        let (seed, bytes) = (self.seed, self.workload.payload_bytes);
        if series == self.metrics.echoes {
            ctx.send(&CEcho {}, echo_payload(seed, number, bytes));
        } else {
            ctx.send(&CChat {}, chat_text(&self.chat_mark, number, bytes));
        }
    }
}

/// Bytes that no other session and no other request has.
fn echo_payload(seed: u64, number: u64, bytes: usize) -> Vec<u8> {
    let mut payload = vec![0; bytes];
    fastrand::Rng::with_seed(seed ^ (number + 1).rotate_left(32)).fill(&mut payload);
    payload
}

/// The text has at least its mark and its number.
fn chat_text(mark: &str, number: u64, bytes: usize) -> String {
    let mut text = mark.to_string();
    // Writing to a string cannot fail.
    let _ = write!(text, "{number}");
    let missing = bytes.min(MAX_CHAT_BYTES).saturating_sub(text.len());
    text.extend(std::iter::repeat_n('.', missing));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sessions_send_different_echoes() {
        assert_eq!(echo_payload(1, 0, 16), echo_payload(1, 0, 16));
        assert_ne!(echo_payload(1, 0, 16), echo_payload(2, 0, 16));
        assert_ne!(echo_payload(1, 0, 16), echo_payload(1, 1, 16));
    }

    #[test]
    fn a_chat_has_its_mark_its_number_and_its_length() {
        let mark = "0000000000000001 ";
        assert_eq!(chat_text(mark, 7, 64).len(), 64);
        assert_eq!(chat_text(mark, 7, 0), "0000000000000001 7");
        assert_eq!(chat_text(mark, 7, 5000).len(), MAX_CHAT_BYTES);
    }
}
