//! The session of a player: handles the packets of a peer.

use super::chat_budget::ChatBudget;
use super::packets::{CChat, CEcho, CHAT_FLOOD, SChat, SEcho};
#[cfg(feature = "cluster")]
use super::{packets::CLogin, world::World};
use server_core::rate_limiter::RateLimiter;
use server_core::{Context, DisconnectReason, Handlers, Kick, Packet, Session};
use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// The packets that a player may send.
static HANDLERS: LazyLock<Handlers<GameSession>> = LazyLock::new(|| {
    Handlers::new()
        .on::<CEcho>(GameSession::on_echo)
        .on::<CChat>(GameSession::on_chat)
});

/// The packets that a player may send with `--login`.
#[cfg(feature = "cluster")]
static HANDLERS_WITH_LOGIN: LazyLock<Handlers<GameSession>> = LazyLock::new(|| {
    Handlers::new()
        .on::<CEcho>(GameSession::on_echo)
        .on::<CChat>(GameSession::on_chat)
        .on_login::<CLogin>(GameSession::on_login_packet)
});

/// Logins of one session a second, with a burst of twice that: each login costs the broker two requests.
#[cfg(feature = "cluster")]
pub const MAX_LOGINS_PER_SEC: u32 = 2;
/// A login that comes before the server is in the cluster is tried again after this time.
#[cfg(feature = "cluster")]
const LOGIN_RETRY: Duration = Duration::from_millis(20);

/// One player. The session returns an echo to its player and sends a chat to all sessions.
#[derive(Debug)]
pub struct GameSession {
    max_chats_per_sec: Option<u32>,
    chats: RateLimiter,
    chats_of_address: Option<Arc<ChatBudget>>,
    /// Chats that wait for the budget of their address, each with the end of its wait. An address has at most
    /// its burst of waiting chats.
    delayed_chats: VecDeque<(Instant, Box<str>)>,
    requires_login: bool,
    #[cfg(feature = "cluster")]
    world: Option<Arc<World>>,
    #[cfg(feature = "cluster")]
    logins: RateLimiter,
    /// The name of a login that waits until the server is in the cluster.
    #[cfg(feature = "cluster")]
    held_login: Option<Box<str>>,
}

impl GameSession {
    /// A player with this budget for chats and a burst of twice the budget. A packet that fans out to all
    /// sessions needs a separate budget: each chat costs the server one packet per session.
    #[must_use]
    pub fn new(max_chats_per_sec: Option<u32>) -> Self {
        Self {
            max_chats_per_sec,
            chats: RateLimiter::default(),
            chats_of_address: None,
            delayed_chats: VecDeque::new(),
            requires_login: false,
            #[cfg(feature = "cluster")]
            world: None,
            #[cfg(feature = "cluster")]
            logins: RateLimiter::default(),
            #[cfg(feature = "cluster")]
            held_login: None,
        }
    }

    /// Shares a budget with the other sessions of the address. A chat over the budget waits, or is dropped: see
    /// [`ChatBudget`].
    #[must_use]
    pub fn with_chats_of_address(mut self, budget: Option<Arc<ChatBudget>>) -> Self {
        self.chats_of_address = budget;
        self
    }

    /// Makes the first valid packet the player's login. A session without a login ends.
    #[must_use]
    pub fn with_login(mut self, requires_login: bool) -> Self {
        self.requires_login = requires_login;
        self
    }

    /// Sends the chats of this player to the other nodes of a cluster, too.
    #[cfg(feature = "cluster")]
    #[must_use]
    pub fn in_world(mut self, world: Option<Arc<World>>) -> Self {
        self.world = world;
        self
    }

    fn on_echo(&mut self, ctx: &mut Context<'_>, bytes: &[u8]) -> Result<(), Kick> {
        ctx.send(&SEcho, bytes);
        Ok(())
    }

    fn on_chat(&mut self, ctx: &mut Context<'_>, text: &str) -> Result<(), Kick> {
        let allowed = self
            .max_chats_per_sec
            .is_none_or(|rate| self.chats.take(rate, ctx.now()));
        if !allowed {
            return Err(CHAT_FLOOD.with_text("too many chat messages per second"));
        }
        let wait = match &self.chats_of_address {
            Some(budget) => budget.book(ctx.peer_addr(), ctx.now()),
            None => Some(Duration::ZERO),
        };
        match wait {
            None => {}
            Some(Duration::ZERO) if self.delayed_chats.is_empty() => self.broadcast_chat(ctx, text),
            Some(wait) => {
                let at = ctx.now() + wait;
                if self.delayed_chats.is_empty() {
                    ctx.set_timer(at);
                }
                self.delayed_chats.push_back((at, text.into()));
            }
        }
        Ok(())
    }

    #[cfg(feature = "cluster")]
    fn on_login_packet(&mut self, ctx: &mut Context<'_>, name: &str) -> Result<(), Kick> {
        if !self.logins.take(MAX_LOGINS_PER_SEC, ctx.now()) {
            return Err(Kick::RateLimit);
        }
        self.log_in(ctx, name);
        Ok(())
    }

    #[cfg(feature = "cluster")]
    fn log_in(&mut self, ctx: &mut Context<'_>, name: &str) {
        let world = self.world.as_ref();
        if !world.is_some_and(|world| world.log_in(ctx.id(), name)) {
            self.held_login = Some(name.into());
            ctx.set_timer(ctx.now() + LOGIN_RETRY);
        }
    }

    fn broadcast_chat(&self, ctx: &mut Context<'_>, text: &str) {
        ctx.broadcast(&SChat::from(ctx.id()), text);
        #[cfg(feature = "cluster")]
        if let Some(world) = &self.world {
            world.chat(ctx, text);
        }
    }
}

impl Session for GameSession {
    fn on_timer(&mut self, ctx: &mut Context<'_>) {
        // A session with a login that waits has no chats: it is not admitted.
        #[cfg(feature = "cluster")]
        if let Some(name) = self.held_login.take() {
            return self.log_in(ctx, &name);
        }
        while let Some((at, text)) = self.delayed_chats.front() {
            if *at > ctx.now() {
                ctx.set_timer(*at);
                break;
            }
            self.broadcast_chat(ctx, text);
            self.delayed_chats.pop_front();
        }
    }

    fn on_disconnected(&mut self, _: &mut Context<'_>, _: DisconnectReason) {
        if let Some(budget) = &self.chats_of_address {
            budget.forget(self.delayed_chats.len());
        }
    }

    fn requires_login(&self) -> bool {
        self.requires_login
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        log::trace!(
            "session {}: id {} size {}",
            ctx.id(),
            packet.id(),
            packet.size()
        );
        #[cfg(feature = "cluster")]
        if self.world.as_ref().is_some_and(|world| world.has_login()) {
            return HANDLERS_WITH_LOGIN.dispatch(self, ctx, packet);
        }
        HANDLERS.dispatch(self, ctx, packet)?;
        ctx.admit();
        Ok(())
    }

    #[cfg(feature = "cluster")]
    fn on_login(&mut self, ctx: &mut Context<'_>, answer: server_core::cluster::LoginAnswer) {
        World::on_login(ctx, answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn players_may_send_two_packets() {
        assert!(HANDLERS.ids().eq([CEcho::ID, CChat::ID]));
    }
}
