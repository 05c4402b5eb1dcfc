//! The messages between nodes, as bytes on a channel of the broker.
//!
//! ```text
//!  u8 version | u8 kind | u64 incarnation of the sender | u64 sequence number | body
//! ```
//!
//! All numbers are little-endian. Anyone with access to the broker can write any bytes: [`Envelope::decode`]
//! checks all of them, and reserves memory for received bytes only.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use crate::base::id::SessionId;
use crate::base::wire::{HEADER_BYTES, MAX_PACKET_BYTES};
use crate::groups::id::GroupId;

/// The version of this layout. A receiver ignores and counts each other version.
pub const VERSION: u8 = 1;
/// The bytes in front of the body.
pub const HEAD_BYTES: usize = 18;
/// Groups in one heartbeat, at most. The counts of further groups are not announced.
pub const MAX_GROUPS: usize = 4096;
/// The longest name of an account or a node, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// One run of a node's process. The upper half is the node's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The sender.
    pub from: Incarnation,
    /// The number of a packet on its channel. Zero for the other kinds.
    pub seq: u64,
    /// The content.
    pub body: Body<'a>,
}

/// The content of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// A packet for an audience, as it is on the wire of the sessions.
    Packet {
        /// The number begins a series: the packet does not tell how many came before.
        is_first: bool,
        /// Header and payload.
        packet: &'a [u8],
    },
    /// The state of the sender, once a second.
    Heartbeat(Heartbeat<'a>),
    /// Sent by a node to itself.
    Probe(u64),
    /// Ends a session of this node, if it is logged in to this account by an older login.
    Kick {
        /// The session.
        session: SessionId,
        /// The stamp of the newer login. The kick is void for a login with a later stamp.
        stamp: u64,
        /// Whether an operator or the game ends the session, and not a newer login.
        is_by_request: bool,
        /// The account.
        account: &'a str,
    },
    /// A packet for the session of an account on this node.
    Tell {
        /// The session.
        session: SessionId,
        /// The account.
        account: &'a str,
        /// Header and payload.
        packet: &'a [u8],
    },
    /// The sender has left the cluster.
    Leave,
}

/// The state of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat<'a> {
    /// Connected sessions.
    pub sessions: u32,
    /// Whether the node shuts down.
    pub is_draining: bool,
    /// The name of the node.
    pub name: &'a str,
    /// The members of each world group on the node. `None`: as in the last heartbeat.
    pub groups: Option<Vec<(GroupId, u32)>>,
}

/// The reason for which a message is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Another version of the envelope.
    Version,
    /// A kind of message that this version does not have.
    UnknownKind,
    /// The bytes do not have the layout of their kind.
    Malformed,
}

const FIRST_PACKET: u8 = 1;
const PACKET: u8 = 2;
const HEARTBEAT: u8 = 3;
const PROBE: u8 = 4;
const KICK: u8 = 5;
const TELL: u8 = 6;
const LEAVE: u8 = 7;

const DRAINING: u8 = 1;
const WITH_GROUPS: u8 = 2;

impl<'a> Envelope<'a> {
    /// The bytes of this message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + 64);
        let kind = match &self.body {
            Body::Packet { is_first: true, .. } => FIRST_PACKET,
            Body::Packet { .. } => PACKET,
            Body::Heartbeat(_) => HEARTBEAT,
            Body::Probe(_) => PROBE,
            Body::Kick { .. } => KICK,
            Body::Tell { .. } => TELL,
            Body::Leave => LEAVE,
        };
        bytes.extend([VERSION, kind]);
        bytes.extend(self.from.0.to_le_bytes());
        bytes.extend(self.seq.to_le_bytes());
        match &self.body {
            Body::Packet { packet, .. } => bytes.extend_from_slice(packet),
            Body::Heartbeat(heartbeat) => heartbeat.encode(&mut bytes),
            Body::Probe(nonce) => bytes.extend(nonce.to_le_bytes()),
            Body::Kick {
                session,
                stamp,
                is_by_request,
                account,
            } => {
                bytes.extend(session.to_u64().to_le_bytes());
                bytes.extend(stamp.to_le_bytes());
                bytes.push((*is_by_request).into());
                put_name(&mut bytes, account);
            }
            Body::Tell {
                session,
                account,
                packet,
            } => {
                bytes.extend(session.to_u64().to_le_bytes());
                put_name(&mut bytes, account);
                bytes.extend_from_slice(packet);
            }
            Body::Leave => {}
        }
        bytes
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`DecodeError`] for bytes that are not a message of this version.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut left = Left(bytes);
        let [version] = left.take().ok_or(DecodeError::Malformed)?;
        if version != VERSION {
            return Err(DecodeError::Version);
        }
        let [kind] = left.take().ok_or(DecodeError::Malformed)?;
        if !(FIRST_PACKET..=LEAVE).contains(&kind) {
            return Err(DecodeError::UnknownKind);
        }
        left.envelope(kind).ok_or(DecodeError::Malformed)
    }
}

impl Heartbeat<'_> {
    fn encode(&self, bytes: &mut Vec<u8>) {
        let groups = self.groups.as_ref();
        let flags =
            u8::from(self.is_draining) * DRAINING + u8::from(groups.is_some()) * WITH_GROUPS;
        bytes.extend(self.sessions.to_le_bytes());
        bytes.push(flags);
        put_name(bytes, self.name);
        for (group, members) in groups.into_iter().flatten().take(MAX_GROUPS) {
            bytes.extend(group.to_u64().to_le_bytes());
            bytes.extend(members.to_le_bytes());
        }
    }
}

/// A name up to its last complete character within [`MAX_NAME_BYTES`].
#[must_use]
pub fn cut_name(name: &str) -> &str {
    crate::base::reason::cut(name, MAX_NAME_BYTES)
}

fn put_name(bytes: &mut Vec<u8>, name: &str) {
    let name = cut_name(name);
    bytes.push(name.len() as u8);
    bytes.extend_from_slice(name.as_bytes());
}

/// The bytes that are not read yet.
struct Left<'a>(&'a [u8]);

impl<'a> Left<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn session(&mut self) -> Option<SessionId> {
        self.u64().map(SessionId::from_u64)
    }

    fn name(&mut self) -> Option<&'a str> {
        let [bytes] = self.take()?;
        let bytes = usize::from(bytes);
        let (name, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        std::str::from_utf8(name)
            .ok()
            .filter(|_| bytes <= MAX_NAME_BYTES)
    }

    /// All bytes that are left, as one packet.
    fn packet(&mut self) -> Option<&'a [u8]> {
        let packet = std::mem::take(&mut self.0);
        let size = u16::from_le_bytes(*packet.first_chunk()?);
        let is_whole = usize::from(size) == packet.len();
        (is_whole && (HEADER_BYTES..=MAX_PACKET_BYTES).contains(&packet.len())).then_some(packet)
    }

    fn heartbeat(&mut self) -> Option<Heartbeat<'a>> {
        let sessions = u32::from_le_bytes(self.take()?);
        let [flags] = self.take()?;
        let name = self.name()?;
        let groups = if flags & WITH_GROUPS != 0 {
            let mut groups = Vec::new();
            while !self.0.is_empty() && groups.len() < MAX_GROUPS {
                let group = GroupId::from_u64(self.u64()?);
                groups.push((group, u32::from_le_bytes(self.take()?)));
            }
            groups.sort_unstable();
            groups.dedup_by_key(|(group, _)| *group);
            Some(groups)
        } else {
            None
        };
        Some(Heartbeat {
            sessions,
            is_draining: flags & DRAINING != 0,
            name,
            groups,
        })
    }

    fn envelope(&mut self, kind: u8) -> Option<Envelope<'a>> {
        let (from, seq) = (Incarnation(self.u64()?), self.u64()?);
        let body = match kind {
            FIRST_PACKET | PACKET => Body::Packet {
                is_first: kind == FIRST_PACKET,
                packet: self.packet()?,
            },
            HEARTBEAT => Body::Heartbeat(self.heartbeat()?),
            PROBE => Body::Probe(self.u64()?),
            KICK => Body::Kick {
                session: self.session()?,
                stamp: self.u64()?,
                is_by_request: self.take()? != [0],
                account: self.name()?,
            },
            TELL => Body::Tell {
                session: self.session()?,
                account: self.name()?,
                packet: self.packet()?,
            },
            _ => Body::Leave,
        };
        self.0.is_empty().then_some(Envelope { from, seq, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(body: Body<'_>) -> Envelope<'_> {
        Envelope {
            from: Incarnation(7 << 32 | 9),
            seq: 3,
            body,
        }
    }

    #[test]
    fn each_kind_comes_back_out_and_each_shorter_or_longer_one_is_malformed() {
        let (session, account) = (SessionId::new(2, 1, 4), "ada");
        let packet = &[5, 0, 7, 0, 1][..];
        let groups = Some(vec![(GroupId::new(1, 2), 3), (GroupId::new(2, 2), 1)]);
        let heartbeat = Heartbeat {
            sessions: 300,
            is_draining: true,
            name: "eu-1",
            groups,
        };
        let bodies = [
            Body::Packet {
                is_first: true,
                packet,
            },
            Body::Packet {
                is_first: false,
                packet,
            },
            Body::Heartbeat(heartbeat.clone()),
            Body::Heartbeat(Heartbeat {
                groups: None,
                ..heartbeat
            }),
            Body::Probe(u64::MAX),
            Body::Kick {
                session,
                stamp: 5,
                is_by_request: true,
                account,
            },
            Body::Tell {
                session,
                account,
                packet,
            },
            Body::Leave,
        ];
        for body in bodies {
            let sent = envelope(body);
            let mut bytes = sent.encode();
            assert_eq!(Envelope::decode(&bytes).as_ref(), Ok(&sent));
            for end in 0..bytes.len() {
                let cut = Envelope::decode(&bytes[..end]);
                // A heartbeat may end behind each of its groups.
                let is_shorter_list = matches!(
                    &cut,
                    Ok(Envelope {
                        body: Body::Heartbeat(_),
                        ..
                    })
                );
                assert!(
                    is_shorter_list || cut == Err(DecodeError::Malformed),
                    "{end} of {bytes:?}"
                );
            }
            bytes.push(0);
            assert_eq!(Envelope::decode(&bytes), Err(DecodeError::Malformed));
        }
    }

    #[test]
    fn other_versions_and_kinds_are_told_apart_from_broken_bytes() {
        let mut bytes = envelope(Body::Leave).encode();
        bytes[1] = 200;
        assert_eq!(Envelope::decode(&bytes), Err(DecodeError::UnknownKind));
        bytes[0] = VERSION + 1;
        assert_eq!(Envelope::decode(&bytes), Err(DecodeError::Version));
        assert_eq!(Envelope::decode(&[]), Err(DecodeError::Malformed));
    }

    #[test]
    fn packet_of_another_length_than_its_size_field_is_malformed() {
        for packet in [&[6, 0, 7, 0, 1][..], &[4, 0, 7, 0, 1], &[3, 0, 7]] {
            let bytes = envelope(Body::Packet {
                is_first: false,
                packet,
            })
            .encode();
            assert_eq!(Envelope::decode(&bytes), Err(DecodeError::Malformed));
        }
    }

    #[test]
    fn long_name_is_cut_at_a_character() {
        let name = "ä".repeat(40);
        assert_eq!(cut_name(&name), "ä".repeat(32));
        assert_eq!(cut_name(&name[..62]), &name[..62]);
    }
}
