//! The frames of WebSocket (RFC 6455), as a [`Codec`]. [`upgrade`](super::upgrade) comes before the first.
//!
//! The payloads of the binary messages, joined, are the byte stream of packets. A message holds any piece of
//! it: many packets, or a part of one. So a fragment needs no buffer, and a length is a claim that reserves
//! nothing.

use super::codec::{Codec, Decoded};
use crate::base::reason::{DisconnectReason, Kick};
use std::hash::{BuildHasher, RandomState};

/// One end of a WebSocket connection, behind its upgrade.
///
/// | a frame | the peer gets |
/// |---|---|
/// | text | [`Kick::BadPayload`], close code 1008 |
/// | without a mask from a client, with one from a server | [`Kick::BadPayload`], close code 1002 |
/// | with a reserved bit, a reserved opcode, a length that is not in its shortest form | the same |
/// | of a control opcode, in fragments or above 125 bytes | the same |
/// | out of place: a continuation without a beginning, a new message in another | the same |
/// | close, with a code that may not be sent or a reason that is not UTF-8 | the same |
/// | ping | a pong, one for all pings that wait for their pong (section 5.5.3) |
#[derive(Debug)]
pub struct WebSocket {
    role: Role,
    /// The header of the present frame, as far as it has come.
    header: [u8; MAX_HEADER_BYTES],
    header_len: u8,
    /// The header is complete, and `left` bytes of its payload are not.
    is_in_payload: bool,
    /// A message has begun, and its last frame has not come.
    is_in_message: bool,
    mask: Mask,
    left: u64,
    /// The payload of the present control frame, as far as it has come.
    control: Vec<u8>,
    /// The code of the peer's close.
    peer_code: Option<u16>,
    /// The peer has broken a rule of the protocol itself.
    is_protocol_error: bool,
}

#[derive(Debug)]
enum Role {
    Server,
    /// Masks what it sends: with a keyed hash of the number of the frame.
    Client {
        keys: RandomState,
        frames: u64,
        /// The mask of the present run.
        run: Mask,
    },
}

/// A mask, turned so that its first byte is for the next byte of the payload.
#[derive(Clone, Copy, Debug, Default)]
struct Mask([u8; 4]);

/// Two bytes, a length of eight, a mask of four.
const MAX_HEADER_BYTES: usize = 14;
/// The longest payload of a control frame.
const MAX_CONTROL_BYTES: usize = 125;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
/// The bit of the opcodes of control frames.
const CONTROL: u8 = 0x8;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// Close codes (section 7.4.1).
const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;
const PROTOCOL_ERROR: u16 = 1002;
const POLICY_VIOLATION: u16 = 1008;
const TOO_BIG: u16 = 1009;
const INTERNAL_ERROR: u16 = 1011;

/// A rule that the peer has broken. Both are [`Kick::BadPayload`].
enum Violation {
    /// A rule of the protocol.
    Protocol,
    /// A message that packets cannot be in.
    Text,
}

impl WebSocket {
    /// The end of a server: the frames of the peer are masked.
    #[must_use]
    pub fn server() -> Self {
        Self::new(Role::Server)
    }

    /// The end of a client: its own frames are masked, with masks that the peer cannot foresee.
    #[must_use]
    pub fn client() -> Self {
        Self::new(Role::Client {
            keys: RandomState::new(),
            frames: 0,
            run: Mask::default(),
        })
    }

    fn new(role: Role) -> Self {
        Self {
            role,
            header: [0; MAX_HEADER_BYTES],
            header_len: 0,
            is_in_payload: false,
            is_in_message: false,
            mask: Mask::default(),
            left: 0,
            control: Vec::new(),
            peer_code: None,
            is_protocol_error: false,
        }
    }

    fn opcode(&self) -> u8 {
        self.header[0] & 0xf
    }

    fn is_control(&self) -> bool {
        self.opcode() & CONTROL != 0
    }

    /// Checks the first two bytes of a header, and returns how many bytes the header has.
    fn header_bytes(&self) -> Result<usize, Violation> {
        let [first, second, ..] = self.header;
        let must_be_masked = matches!(self.role, Role::Server);
        let is_fin = first & FIN != 0;
        let length = second & !MASKED;
        let is_in_place = match self.opcode() {
            CONTINUATION => self.is_in_message,
            TEXT | BINARY => !self.is_in_message,
            CLOSE | PING | PONG => is_fin && usize::from(length) <= MAX_CONTROL_BYTES,
            _ => false,
        };
        if first & RESERVED != 0 || (second & MASKED != 0) != must_be_masked || !is_in_place {
            return Err(Violation::Protocol);
        }
        if self.opcode() == TEXT {
            return Err(Violation::Text);
        }
        Ok(2 + length_bytes(length) + if must_be_masked { 4 } else { 0 })
    }

    /// The header is complete: its payload begins.
    fn begin_payload(&mut self) -> Result<(), Violation> {
        let length = self.header[1] & !MASKED;
        let extended = &self.header[2..2 + length_bytes(length)];
        let is_shortest;
        (self.left, is_shortest) = match *extended {
            [] => (u64::from(length), true),
            [a, b] => {
                let length = u16::from_be_bytes([a, b]);
                (u64::from(length), length > 125)
            }
            _ => {
                let length =
                    (extended.iter()).fold(0, |length, byte| length << 8 | u64::from(*byte));
                (length, length > 0xffff && length <= u64::MAX >> 1)
            }
        };
        if !is_shortest {
            return Err(Violation::Protocol);
        }
        let at = 2 + extended.len();
        self.mask = match self.role {
            Role::Server => Mask::of(&self.header[at..at + 4]),
            Role::Client { .. } => Mask::default(),
        };
        if !self.is_control() {
            self.is_in_message = self.header[0] & FIN == 0;
        }
        (self.header_len, self.is_in_payload) = (0, true);
        Ok(())
    }

    /// The payload of a control frame is complete. Returns whether it is a close.
    fn take_control(&mut self, replies: &mut Vec<u8>) -> Result<bool, Violation> {
        let payload = std::mem::take(&mut self.control);
        match self.opcode() {
            PING => {
                // Pongs that wait answer older pings.
                replies.clear();
                self.put_frame(PONG, &payload, replies);
                Ok(false)
            }
            CLOSE => {
                self.peer_code = match *payload {
                    [] => None,
                    [a, b, ref reason @ ..] => {
                        let code = u16::from_be_bytes([a, b]);
                        if !may_be_sent(code) || std::str::from_utf8(reason).is_err() {
                            return Err(Violation::Protocol);
                        }
                        Some(code)
                    }
                    [_] => return Err(Violation::Protocol),
                };
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Appends a whole control frame.
    fn put_frame(&mut self, opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
        debug_assert!(payload.len() <= MAX_CONTROL_BYTES);
        let mask = self.put_header(opcode, payload.len(), out);
        let at = out.len();
        out.extend_from_slice(payload);
        mask.apply(&mut out[at..]);
    }

    /// Appends a header, and returns the mask of its payload.
    fn put_header(&mut self, opcode: u8, bytes: usize, out: &mut Vec<u8>) -> Mask {
        let mask = match &mut self.role {
            Role::Server => None,
            Role::Client { keys, frames, .. } => {
                *frames += 1;
                let [a, b, c, d, ..] = keys.hash_one(*frames).to_le_bytes();
                Some([a, b, c, d])
            }
        };
        let is_masked = if mask.is_some() { MASKED } else { 0 };
        // A run has at most 65,535 bytes.
        let length = (bytes as u16).to_be_bytes();
        if bytes <= MAX_CONTROL_BYTES {
            out.extend([FIN | opcode, is_masked | length[1]]);
        } else {
            out.extend([FIN | opcode, is_masked | 126, length[0], length[1]]);
        }
        out.extend(mask.iter().flatten());
        Mask(mask.unwrap_or_default())
    }

    fn decode_frames(
        &mut self,
        input: &mut [u8],
        replies: &mut Vec<u8>,
        decoded: &mut Decoded,
    ) -> Result<(), Violation> {
        let mut at = 0;
        loop {
            while !self.is_in_payload {
                let Some(byte) = input.get(at) else {
                    return Ok(());
                };
                self.header[usize::from(self.header_len)] = *byte;
                self.header_len += 1;
                at += 1;
                if self.header_len >= 2 && self.header_bytes()? == usize::from(self.header_len) {
                    self.begin_payload()?;
                    decoded.empty_frames += usize::from(self.is_control() || self.left == 0);
                }
            }
            let here = input.len() - at;
            let count = usize::try_from(self.left).map_or(here, |left| left.min(here));
            if self.is_control() {
                let from = self.control.len();
                self.control.extend_from_slice(&input[at..at + count]);
                self.mask = self.mask.apply(&mut self.control[from..]);
            } else {
                input.copy_within(at..at + count, decoded.bytes);
                let payload = &mut input[decoded.bytes..decoded.bytes + count];
                self.mask = self.mask.apply(payload);
                decoded.bytes += count;
            }
            at += count;
            self.left -= count as u64;
            if self.left > 0 {
                return Ok(());
            }
            self.is_in_payload = false;
            if self.is_control() && self.take_control(replies)? {
                decoded.end = Some(Ok(()));
                return Ok(());
            }
        }
    }
}

impl Codec for WebSocket {
    /// The most that a header of four bytes counts.
    const MAX_RUN_BYTES: usize = 0xffff;

    fn decode(&mut self, input: &mut [u8], replies: &mut Vec<u8>) -> Decoded {
        let mut decoded = Decoded::default();
        if let Err(violation) = self.decode_frames(input, replies, &mut decoded) {
            self.is_protocol_error = matches!(violation, Violation::Protocol);
            decoded.end = Some(Err(Kick::BadPayload));
        }
        decoded
    }

    fn begin_run(&mut self, bytes: usize, out: &mut Vec<u8>) {
        let mask = self.put_header(BINARY, bytes, out);
        if let Role::Client { run, .. } = &mut self.role {
            *run = mask;
        }
    }

    fn masks_runs(&self) -> bool {
        matches!(self.role, Role::Client { .. })
    }

    fn mask(&self, at: usize, bytes: &mut [u8]) {
        if let Role::Client { run, .. } = &self.role {
            run.turned(at).apply(bytes);
        }
    }

    /// The reason that the frame gives is the label, for a page that does not read the last packet.
    fn close(&mut self, reason: DisconnectReason, out: &mut Vec<u8>) {
        let code = match reason {
            DisconnectReason::PeerClosed => self.peer_code.unwrap_or(NORMAL),
            DisconnectReason::Kicked(Kick::BadPayload) if self.is_protocol_error => PROTOCOL_ERROR,
            other => close_code(other),
        };
        let label = match reason {
            DisconnectReason::PeerClosed => "",
            other => other.label(),
        };
        // The label of a game may be longer, and stays UTF-8.
        let mut end = label.len().min(MAX_CONTROL_BYTES - 2);
        while !label.is_char_boundary(end) {
            end -= 1;
        }
        let payload = [&code.to_be_bytes(), &label.as_bytes()[..end]].concat();
        self.put_frame(CLOSE, &payload, out);
    }
}

impl Mask {
    fn of(bytes: &[u8]) -> Self {
        let mut mask = [0; 4];
        mask.copy_from_slice(bytes);
        Self(mask)
    }

    /// The mask for the bytes from position `at` on.
    fn turned(mut self, at: usize) -> Self {
        self.0.rotate_left(at % 4);
        self
    }

    /// Masks `bytes`, or takes the mask off. Returns the mask for the bytes behind them.
    fn apply(self, bytes: &mut [u8]) -> Self {
        let [a, b, c, d] = self.0;
        let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
        let (words, rest) = bytes.as_chunks_mut::<8>();
        for word in words {
            *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
        }
        for (byte, mask) in rest.iter_mut().zip(self.0.iter().cycle()) {
            *byte ^= mask;
        }
        self.turned(bytes.len())
    }
}

/// The bytes of the extended length.
fn length_bytes(length: u8) -> usize {
    match length {
        126 => 2,
        127 => 8,
        _ => 0,
    }
}

/// Whether a close frame may have this code (section 7.4).
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The close code for the end of a session.
fn close_code(reason: DisconnectReason) -> u16 {
    match reason {
        DisconnectReason::Closed => NORMAL,
        DisconnectReason::Shutdown => GOING_AWAY,
        DisconnectReason::Kicked(Kick::TooLarge) => TOO_BIG,
        DisconnectReason::HandlerPanicked => INTERNAL_ERROR,
        _ => POLICY_VIOLATION,
    }
}
