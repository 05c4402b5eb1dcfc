//! What this game does with a peer's packets.

use crate::packets::{C_CHAT, C_ECHO, SChat, SEcho, chat_text};
use server_core::rate_limiter::RateLimiter;
use server_core::{Context, Kick, Packet, Session};

/// One player: echoes to it alone, chat to everybody.
#[derive(Debug)]
pub struct GameSession {
    max_chats_per_sec: Option<u32>,
    chats: RateLimiter,
}

impl GameSession {
    /// A player who may chat that often, with a burst of twice that. A packet that fans out to
    /// everybody needs a budget of its own: it costs the server a packet per session.
    #[must_use]
    pub fn new(max_chats_per_sec: Option<u32>) -> Self {
        Self {
            max_chats_per_sec,
            chats: RateLimiter::default(),
        }
    }
}

impl Session for GameSession {
    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        log::trace!(
            "session {}: id {} size {}",
            ctx.id(),
            packet.id(),
            packet.size()
        );
        match packet.id() {
            C_ECHO => ctx.send(&SEcho {}, packet.payload()),
            C_CHAT => {
                let text = chat_text(packet)?;
                let allowed = self
                    .max_chats_per_sec
                    .is_none_or(|rate| self.chats.take(rate, ctx.now()));
                if !allowed {
                    return Err(Kick::ChatFlood);
                }
                ctx.broadcast(&SChat::from(ctx.id()), text);
            }
            _ => return Err(Kick::UnknownId),
        }
        Ok(())
    }
}
