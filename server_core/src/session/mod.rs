//! The session of a game: the trait that a game implements, its context, effects, handlers and content.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod content;
mod context;
mod effect;
pub mod handlers;
pub mod login;
pub mod message;

pub use context::Context;
pub use effect::Effect;

use crate::base::id::SessionId;
use crate::base::reason::{DisconnectReason, Kick};
use crate::protocol::packet::Packet;
use std::any::Any;
use std::net::SocketAddr;

/// The game's object for one peer. It is made when the peer connects, called on its worker's thread only,
/// and dropped after the disconnect.
///
/// The trait has no hook for raw bytes: a session cannot bypass the framing, neither by intent nor by
/// mistake (lecture rows 22, 23 and 28). Code that tries it does not compile:
///
/// ```compile_fail,E0407
/// # use server_core::{Context, Kick, Packet, Session};
/// struct Sneaky;
/// impl Session for Sneaky {
///     fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
///         Ok(())
///     }
///     fn on_recv(&mut self, bytes: &[u8]) -> usize {
///         bytes.len()
///     }
/// }
/// ```
///
/// Without that method it compiles:
///
/// ```
/// # use server_core::{Context, Kick, Packet, Session};
/// struct Honest;
/// impl Session for Honest {
///     fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
///         Ok(())
///     }
/// }
/// ```
pub trait Session: 'static {
    /// Whether an accepted peer has to log in: the session is unadmitted until it calls
    /// [`Context::admit`]. Called once, when the session is made.
    ///
    /// An unadmitted session ends after [`login_timeout`](crate::Config::login_timeout), or when it is the
    /// oldest of too many ([`max_unadmitted`](crate::Config::max_unadmitted)). So peers that connect and
    /// stay silent cannot take all places. An outgoing session is always admitted.
    fn requires_login(&self) -> bool {
        false
    }

    /// The session is connected. Not called for an outgoing connection that failed, nor for a session whose
    /// handshake failed.
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        let _ = ctx;
    }

    /// A complete packet was received.
    ///
    /// # Errors
    /// Return the [`Kick`] that names the peer's offence to end the session. The peer gets the reason, and the
    /// text of [`Kick::with_text`], behind the packets that are queued already. Its later packets are not handled.
    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick>;

    /// The number of bytes to read from the peer before the next call, at most. Called before each read. 0 pauses
    /// the session: what the peer sends waits in its socket, and the timeouts for its input stop, until a call of
    /// [`ServerHandle::resume_reading`](crate::ServerHandle::resume_reading).
    ///
    /// For a session that hands its packets to another thread: it pauses while that thread is behind. The thread
    /// changes what this method looks at first, and resumes then. [`GameLoop`](crate::GameLoop) does both.
    fn max_read_bytes(&mut self) -> usize {
        usize::MAX
    }

    /// Whether the [`login_timeout`](crate::Config::login_timeout) of an unadmitted session waits. Called when the
    /// time is up, and again every 100 ms while it returns `true`.
    ///
    /// For a session that hands its packets to another thread: the timeout waits while that thread takes none. A
    /// session that returns `true` whatever its peer does has no login timeout. [`GameLoop`](crate::GameLoop) returns
    /// `true` until the game has had three turns since the first packet of the player, in the room of that packet.
    fn defers_login_timeout(&self) -> bool {
        false
    }

    /// The instant of [`Context::set_timer`] has come.
    fn on_timer(&mut self, ctx: &mut Context<'_>) {
        let _ = ctx;
    }

    /// The instant of [`Context::set_keyed_timer`] with this key has come.
    fn on_keyed_timer(&mut self, ctx: &mut Context<'_>, key: u8) {
        let _ = (ctx, key);
    }

    /// A value that another thread has [posted](crate::ServerHandle::post) to this session, between
    /// [`on_connected`](Self::on_connected) and the end. `downcast` returns the value by its type.
    fn on_message(&mut self, ctx: &mut Context<'_>, message: Box<dyn Any + Send>) {
        let _ = (ctx, message);
    }

    /// The queue of this session has fallen to the length given to [`Context::notify_drained`].
    fn on_drained(&mut self, ctx: &mut Context<'_>) {
        let _ = ctx;
    }

    /// A [login](crate::ServerHandle::login) of this session is answered.
    fn on_login(&mut self, ctx: &mut Context<'_>, answer: LoginAnswer) {
        let _ = (ctx, answer);
    }

    /// The session has ended. It is in no list, and no packet reaches its peer. The callback may send to
    /// other sessions. A session that was never connected gets this callback alone.
    fn on_disconnected(&mut self, ctx: &mut Context<'_>, reason: DisconnectReason) {
        let _ = (ctx, reason);
    }
}

/// The answer to a login: see [`ServerHandle::login`](crate::ServerHandle::login).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoginAnswer {
    /// The session is the only one of its account.
    Granted,
    /// As `Granted`, and another session of the account ends.
    Replaced,
    /// Another session of the account is connected, and stays: [`LoginPolicy::OldestStays`](crate::LoginPolicy).
    Refused,
    /// The broker has not answered within 1 s, or cannot be reached: another session of the account may be on
    /// another node. The older of the two ends when the link is back.
    Unsure,
}

/// Id, address and tag of a peer, known before its session is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Peer {
    /// The id that the session will have.
    pub id: SessionId,
    /// Address of the peer.
    pub addr: SocketAddr,
    /// For an outgoing connection, the number that was given to `connect`.
    pub tag: Option<u64>,
}

impl Peer {
    /// A peer with this id, address and tag.
    #[must_use]
    pub const fn new(id: SessionId, addr: SocketAddr, tag: Option<u64>) -> Self {
        Self { id, addr, tag }
    }
}
