//! The packets that one peer has seen, checked packet by packet.

use crate::world::{SBroadcast, SBye, SCast, SDirect, SEcho, Stamp, filler_byte};
use bytemuck::from_bytes;
use server_core::{PacketHead, SessionId};
use std::collections::HashMap;

#[derive(Debug, Default)]
pub struct Seen {
    pub packets: u64,
    /// Bytes of whole packets; bytes that came behind the last whole packet.
    pub read_bytes: usize,
    pub torn_bytes: usize,
    /// Whether the check has found something wrong in the output, and has reported it.
    pub is_wrong: bool,
    pub has_bye: bool,
    pub echoes: u64,
    /// The last number of each source, for broadcasts, direct packets and stamps.
    pub broadcasts: HashMap<usize, u64>,
    pub directs: HashMap<usize, u64>,
    pub stamps: HashMap<usize, u64>,
    /// The numbers of the packets to groups.
    pub casts: Vec<u64>,
}

impl Seen {
    pub fn is_complete(&self) -> bool {
        self.torn_bytes == 0
    }

    /// Reads the new part of `output`, which is everything that one peer was sent.
    ///
    /// # Errors
    ///
    /// What is wrong with the new part. Later calls return `Ok`.
    pub fn read_on(
        &mut self,
        output: &[u8],
        own_seq_at_start: u64,
        id: SessionId,
    ) -> Result<(), String> {
        if self.is_wrong || output.len() == self.read_bytes + self.torn_bytes {
            return Ok(());
        }
        let mut bytes = &output[self.read_bytes..];
        let outcome = loop {
            let [low, high, id_low, id_high, ..] = *bytes else {
                break Ok(());
            };
            let size = usize::from(u16::from_le_bytes([low, high]));
            if size < 4 {
                break Err(format!("not a packet: size {size} after {self:?}"));
            }
            let Some((packet, after)) = bytes.split_at_checked(size) else {
                break Ok(());
            };
            if self.has_bye {
                break Err("a packet follows the close message".into());
            }
            self.packets += 1;
            let packet_id = u16::from_le_bytes([id_low, id_high]);
            if let Err(offence) = self.packet(packet_id, &packet[4..], own_seq_at_start, id) {
                break Err(offence);
            }
            bytes = after;
        };
        self.is_wrong = outcome.is_err();
        self.read_bytes = output.len() - bytes.len();
        self.torn_bytes = bytes.len();
        outcome
    }

    pub fn packet(
        &mut self,
        packet_id: u16,
        payload: &[u8],
        own_start: u64,
        id: SessionId,
    ) -> Result<(), String> {
        match packet_id {
            SBroadcast::ID => {
                let stamp = self.stamp(payload)?;
                let (source, seq) = (usize::from(stamp.source.get()), stamp.seq.get());
                let before = self.broadcasts.insert(source, seq);
                // A session gets all broadcasts that its own worker sends after it connected. It may
                // also get earlier broadcasts, which an earlier turn had no room for.
                let is_first_own = before.is_none() && source == id.worker();
                let is_next = match before {
                    Some(before) => seq == before + 1,
                    None => !is_first_own || seq <= own_start + 1,
                };
                if !is_next {
                    return Err(format!("broadcast {seq} of {source} after {before:?}"));
                }
            }
            SDirect::ID => {
                let stamp = self.stamp(payload)?;
                let (source, seq) = (usize::from(stamp.source.get()), stamp.seq.get());
                let before = self.directs.insert(source, seq).unwrap_or_default();
                if seq != before + 1 {
                    return Err(format!("direct packet {seq} of {source} after {before}"));
                }
            }
            // The check of stamps shows that each packet comes only once, and in order.
            SCast::ID => {
                let stamp = self.stamp(payload)?;
                self.casts.push(stamp.seq.get());
            }
            SEcho::ID => {
                let seq = u64::from_le_bytes(payload[..8].try_into().unwrap());
                self.echoes += 1;
                if seq != self.echoes {
                    return Err(format!("echo {seq} in place of {}", self.echoes));
                }
            }
            SBye::ID => self.has_bye = true,
            _ => return Err(format!("a packet of id {packet_id}, which was never sent")),
        }
        Ok(())
    }

    pub fn stamp(&mut self, payload: &[u8]) -> Result<Stamp, String> {
        let (stamp, filler) = payload.split_at(size_of::<Stamp>());
        let stamp: Stamp = *from_bytes(stamp);
        if filler.iter().any(|byte| *byte != filler_byte(stamp)) {
            return Err(format!("wrong filler bytes in {stamp:?}"));
        }
        let before = self
            .stamps
            .insert(usize::from(stamp.source.get()), stamp.stamp.get());
        if before >= Some(stamp.stamp.get()) {
            return Err(format!("{stamp:?} was overtaken by {before:?}"));
        }
        Ok(stamp)
    }
}
