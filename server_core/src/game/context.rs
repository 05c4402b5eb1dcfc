//! What a game may do in a callback.

use super::player::PacedPackets;
use crate::base::id::SessionId;
use crate::base::reason::Kick;
use crate::buffer::SendBuffer;
use crate::game::inbox::Move;
use crate::groups::id::GroupId;
use crate::protocol::packet::{PacketHead, PacketTooLarge};
use crate::protocol::writer::OutgoingPacket;
use crate::routing::mailbox::MailboxFull;
use crate::server::ServerHandle;
use std::any::Any;
use std::sync::Arc;

/// The server of a [`Game`](super::Game), and the room of the game.
#[derive(Debug)]
pub struct GameContext<'a> {
    server: &'a ServerHandle,
    room: usize,
    rooms: usize,
    pub(super) moves: Vec<Move>,
}

impl<'a> GameContext<'a> {
    pub(super) fn new(server: &'a ServerHandle, (room, rooms): (usize, usize)) -> Self {
        Self {
            server,
            room,
            rooms,
            moves: Vec::new(),
        }
    }

    /// The number of the room of this game, 0 without [rooms](crate::GameLoop::rooms).
    #[must_use]
    pub fn room(&self) -> usize {
        self.room
    }

    /// Moves a player to another room: the game there gets a call of [`Game::on_arrive`](crate::Game::on_arrive) with
    /// `state`, after the next tick of this room at the latest. The game here gets no further call for the player, and
    /// drops what it has of it. No packet of the player is lost or overtakes another.
    ///
    /// A move of a player that has left, or that is on its way, is dropped. So is a move to a room that does not exist,
    /// which is logged.
    pub fn move_player(&mut self, player: SessionId, room: usize, state: impl Any + Send) {
        if room < self.rooms {
            let state = Box::new(state);
            self.moves.push(Move {
                player,
                to: room,
                state,
            });
        } else {
            log::error!("player {player} stays: room {room} does not exist");
        }
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

    /// Sends a packet without a separate tail to one player. See [`ServerHandle::send_packet_to`].
    pub fn send_packet<P: OutgoingPacket>(&self, player: SessionId, packet: &P) {
        self.server.send_packet_to(player, packet);
    }

    /// Sends a packet without a separate tail to all players. See [`ServerHandle::broadcast_packet`].
    pub fn broadcast_packet<P: OutgoingPacket>(&self, packet: &P) {
        self.server.broadcast_packet(packet);
    }

    /// Sends a packet without a separate tail to every member of a group. See [`ServerHandle::broadcast_packet_to`].
    pub fn broadcast_packet_to<P: OutgoingPacket>(&self, group: GroupId, packet: &P) {
        self.server.broadcast_packet_to(group, packet);
    }

    /// Encodes a packet once, for [`send_paced`](Self::send_paced) for example. See [`ServerHandle::encode`].
    ///
    /// # Errors
    /// [`PacketTooLarge`] if the packet does not fit its size field.
    pub fn encode<H: PacketHead>(
        &self,
        head: &H,
        tail: impl AsRef<[u8]>,
    ) -> Result<SendBuffer, PacketTooLarge> {
        self.server.encode(head, tail)
    }

    /// Makes a player a member of a group. See [`ServerHandle::join`].
    pub fn join(&self, player: SessionId, group: GroupId) {
        self.server.join(player, group);
    }

    /// Removes a player from a group. See [`ServerHandle::leave`].
    pub fn leave(&self, player: SessionId, group: GroupId) {
        self.server.leave(player, group);
    }

    /// Sends a packet whose tail `build` writes into a buffer, which is empty, and used again for each
    /// packet: for snapshots of a player's surroundings. See [`ServerHandle::send_built`].
    ///
    /// A packet that does not fit its size field is not sent, and an error is logged.
    pub fn send_built<H: PacketHead>(
        &self,
        player: SessionId,
        head: &H,
        build: impl FnOnce(&mut Vec<u8>),
    ) {
        self.server.send_built(player, head, build);
    }

    /// Like [`send_built`](Self::send_built), to all players: built once, and written once.
    pub fn broadcast_built<H: PacketHead>(&self, head: &H, build: impl FnOnce(&mut Vec<u8>)) {
        self.server.broadcast_built(head, build);
    }

    /// Like [`send_built`](Self::send_built), to every member of a group: built once, and written once.
    pub fn broadcast_built_to<H: PacketHead>(
        &self,
        group: GroupId,
        head: &H,
        build: impl FnOnce(&mut Vec<u8>),
    ) {
        self.server.broadcast_built_to(group, head, build);
    }

    /// Like [`broadcast_built_to`](Self::broadcast_built_to), to every member but one player.
    pub fn broadcast_built_to_others<H: PacketHead>(
        &self,
        group: GroupId,
        except: SessionId,
        head: &H,
        build: impl FnOnce(&mut Vec<u8>),
    ) {
        (self.server).broadcast_built_to_others(group, except, head, build);
    }

    /// Sends these packets to a player in their order, as fast as it reads: up to 64 KiB wait in its queue at a time,
    /// or a quarter of [`max_send_queue_bytes`](crate::Config::max_send_queue_bytes) if that is less. A larger packet
    /// waits for an empty queue. For a world or another content of many packets.
    ///
    /// A tick does not wait for it. The packets are encoded once ([`ServerHandle::encode`]), and all players share
    /// their bytes. Other packets to the player go between them. A further call adds its packets behind them.
    ///
    /// A player for which the packets of more than 64 calls have waited for
    /// [`max_send_lag`](crate::Config::max_send_lag) without a break is a slow consumer at the next call, and is
    /// closed. So is a player for which the packets of more than 1,000 calls wait.
    ///
    /// Until the last packet of a call is sent to all of its players, the call keeps the memory of its packets: the
    /// chunks ([`chunk_bytes`](crate::Config::chunk_bytes)) in which they were encoded, with all other packets there.
    /// No limit of the server counts these bytes, so encode a content once for all players.
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

    /// Ends the session of a player for a reason of the game, with a text. See [`ServerHandle::close_with`].
    pub fn close_with(&self, player: SessionId, kick: Kick, text: &str) {
        self.server.close_with(player, kick, text);
    }
}
