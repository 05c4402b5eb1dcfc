//! What a game may do in a callback.

use super::player::PacedPackets;
use crate::base::id::SessionId;
use crate::buffer::SendBuffer;
use crate::protocol::packet::PacketHead;
use crate::routing::mailbox::MailboxFull;
use crate::server::ServerHandle;
use std::sync::Arc;

/// The server of a [`Game`](super::Game), and a buffer for packets that the game builds.
#[derive(Debug)]
pub struct GameContext<'a> {
    server: &'a ServerHandle,
    tail: &'a mut Vec<u8>,
}

impl<'a> GameContext<'a> {
    pub(super) fn new(server: &'a ServerHandle, tail: &'a mut Vec<u8>) -> Self {
        Self { server, tail }
    }

    /// The handle of the server: sends, groups, closes. A send waits while a worker's mailbox is full.
    #[must_use]
    pub fn server(&self) -> &'a ServerHandle {
        self.server
    }

    /// Sends a packet to one player. See [`ServerHandle::send_to`].
    pub fn send<H: PacketHead>(&self, player: SessionId, head: &H, tail: impl AsRef<[u8]>) {
        self.server.send_to(player, head, tail);
    }

    /// Sends a packet whose tail `build` writes into a buffer, which is empty, and used again for each
    /// packet: for snapshots of a player's surroundings.
    ///
    /// A packet that does not fit its size field is not sent, and an error is logged.
    pub fn send_built<H: PacketHead>(
        &mut self,
        player: SessionId,
        head: &H,
        build: impl FnOnce(&mut Vec<u8>),
    ) {
        self.tail.clear();
        build(self.tail);
        self.server.send_to(player, head, &*self.tail);
    }

    /// Like [`send_built`](Self::send_built), to all players: built once, and written once.
    pub fn broadcast_built<H: PacketHead>(&mut self, head: &H, build: impl FnOnce(&mut Vec<u8>)) {
        self.tail.clear();
        build(self.tail);
        self.server.broadcast(head, &*self.tail);
    }

    /// Sends these packets to a player in their order, as fast as it reads: 64 KiB wait in its queue at a time. For
    /// a world or another content of many packets.
    ///
    /// A tick does not wait for it. The packets are encoded once ([`ServerHandle::encode`]), and all players share
    /// their bytes. Other packets to the player go between them. A further call adds its packets behind them.
    ///
    /// # Errors
    /// [`MailboxFull`] as for [`ServerHandle::post`]: no packet is sent.
    pub fn send_paced(
        &self,
        player: SessionId,
        packets: &Arc<[SendBuffer]>,
    ) -> Result<(), MailboxFull> {
        let message = PacedPackets::new(Arc::clone(packets));
        (self.server.post(player, message)).map_err(|_| MailboxFull(()))
    }

    /// Admits a player: its login is complete. See [`ServerHandle::admit`].
    pub fn admit(&self, player: SessionId) {
        self.server.admit(player);
    }
}
