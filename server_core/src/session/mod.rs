//! What the user of this library writes: one object per peer, and what it may ask for.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod content;
mod context;
mod effect;
pub mod handlers;

pub use context::Context;
pub use effect::Effect;

use crate::base::id::SessionId;
use crate::base::reason::{DisconnectReason, Kick};
use crate::protocol::packet::Packet;
use std::net::SocketAddr;

/// One peer. Made when it comes, called on its worker's thread only, dropped when it has left.
///
/// There is no hook for raw bytes: whoever writes a session cannot bypass the framing, neither by
/// intent nor by mistake. The lecture seals `OnRecv` for the same reason (rows 22, 23 and 28), so that
/// code which tried to would stop compiling:
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
    /// Whether an accepted peer has to log in: the session is unadmitted until
    /// [`Context::admit`] is called. Asked once, when the session is made.
    ///
    /// An unadmitted session is ended after [`login_timeout`](crate::Config::login_timeout), or when
    /// it is the oldest of too many ([`max_unadmitted`](crate::Config::max_unadmitted)), so peers that
    /// connect and say nothing cannot take all places. An outgoing session is always admitted.
    fn requires_login(&self) -> bool {
        false
    }

    /// The connection stands. Not called for an outgoing connection that could not be made.
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        let _ = ctx;
    }

    /// One whole packet has come.
    ///
    /// # Errors
    /// Return the [`Kick`] that says what the peer did wrong, and it is ended: told why, after
    /// what was queued for it before, and with nothing handled of what it sent behind this
    /// packet.
    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick>;

    /// The instant has come that [`Context::set_timer`] asked for.
    fn on_timer(&mut self, ctx: &mut Context<'_>) {
        let _ = ctx;
    }

    /// The queue of this session has fallen as far as [`Context::notify_drained`] asked for.
    fn on_drained(&mut self, ctx: &mut Context<'_>) {
        let _ = ctx;
    }

    /// The session has left; it is in no list any more, and nothing reaches its peer. Others may
    /// be told.
    fn on_disconnected(&mut self, ctx: &mut Context<'_>, reason: DisconnectReason) {
        let _ = (ctx, reason);
    }
}

/// Whom a session is for, known before the session is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Peer {
    /// The id that the session will have.
    pub id: SessionId,
    /// The other end.
    pub addr: SocketAddr,
    /// For an outgoing connection, the number that its maker gave to `connect`.
    pub tag: Option<u64>,
}

impl Peer {
    /// Describes a peer.
    #[must_use]
    pub const fn new(id: SessionId, addr: SocketAddr, tag: Option<u64>) -> Self {
        Self { id, addr, tag }
    }
}
