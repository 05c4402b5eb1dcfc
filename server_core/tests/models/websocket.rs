//! The frames of WebSocket, compared with a simple model.

use server_core::Kick;
use server_core::protocol::codec::{Codec, Decoded};
use server_core::protocol::websocket::WebSocket;
use server_core::testing::FakeStream;
use server_core::transport::{Framed, Transport};
use std::io::{ErrorKind, IoSlice};

/// A frame of a client.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: FrameKind,
    pub mask: [u8; 4],
    pub payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// A piece of the stream. With `is_last` it ends its message.
    Data {
        is_last: bool,
    },
    Ping,
    Pong,
}

/// What a server makes of bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub packets: Vec<u8>,
    /// The pong that waits.
    pub pong: Vec<u8>,
    pub empty_frames: usize,
    pub end: Option<Result<(), Kick>>,
}

/// The bytes of frames. Control payloads are cut to 125 bytes.
pub fn on_the_wire(frames: &[Frame]) -> Vec<u8> {
    let (mut bytes, mut is_in_message) = (Vec::new(), false);
    for frame in frames {
        let (first, most) = match frame.kind {
            FrameKind::Data { is_last } => {
                let opcode = if is_in_message { 0 } else { 2 };
                is_in_message = !is_last;
                (opcode | u8::from(is_last) << 7, usize::MAX)
            }
            FrameKind::Ping => (0x89, 125),
            FrameKind::Pong => (0x8a, 125),
        };
        let payload = &frame.payload[..frame.payload.len().min(most)];
        bytes.push(first);
        match payload.len() {
            len @ 0..=125 => bytes.push(0x80 | len as u8),
            len @ 126..=65_535 => {
                bytes.push(0xfe);
                bytes.extend((len as u16).to_be_bytes());
            }
            len => {
                bytes.push(0xff);
                bytes.extend((len as u64).to_be_bytes());
            }
        }
        bytes.extend(frame.mask);
        bytes.extend(
            payload
                .iter()
                .enumerate()
                .map(|(at, byte)| byte ^ frame.mask[at % 4]),
        );
    }
    bytes
}

/// The stream of the frames, and the pong for the last ping.
pub fn meaning_of(frames: &[Frame]) -> Outcome {
    let mut outcome = Outcome::default();
    for frame in frames {
        match frame.kind {
            FrameKind::Data { .. } => {
                outcome.packets.extend(&frame.payload);
                outcome.empty_frames += usize::from(frame.payload.is_empty());
            }
            FrameKind::Ping => {
                let payload = &frame.payload[..frame.payload.len().min(125)];
                outcome.pong = [&[0x8a, payload.len() as u8], payload].concat();
                outcome.empty_frames += 1;
            }
            FrameKind::Pong => outcome.empty_frames += 1,
        }
    }
    outcome
}

/// The model of a server's input: it reads all bytes at once, by index.
pub fn by_the_book(bytes: &[u8]) -> Outcome {
    let (mut outcome, mut at, mut is_in_message) = (Outcome::default(), 0, false);
    while let [first, second, ..] = bytes[at..] {
        let (is_fin, opcode, short) = (first >= 0x80, first & 15, usize::from(second & 127));
        let is_control = opcode >= 8;
        let is_valid = first & 0x70 == 0
            && second >= 0x80
            && match opcode {
                0 => is_in_message,
                1 | 2 => !is_in_message,
                8..=10 => is_fin && short <= 125,
                _ => false,
            };
        if !is_valid || opcode == 1 {
            outcome.end = Some(Err(Kick::BadPayload));
            return outcome;
        }
        let length_bytes = [0, 2, 8][usize::from(short > 125) + usize::from(short > 126)];
        let payload_at = at + 2 + length_bytes + 4;
        if payload_at > bytes.len() {
            return outcome;
        }
        let long = bytes[at + 2..at + 2 + length_bytes].iter();
        let long = long.fold(0_u128, |all, byte| all * 256 + u128::from(*byte));
        let (length, least) = match length_bytes {
            0 => (short as u128, 0),
            2 => (long, 126),
            _ => (long, 65_536),
        };
        if length < least || length >= 1 << 63 {
            outcome.end = Some(Err(Kick::BadPayload));
            return outcome;
        }
        let mask = &bytes[payload_at - 4..payload_at];
        let end = bytes.len().min(payload_at.saturating_add(length as usize));
        let payload: Vec<u8> = bytes[payload_at..end]
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask)
            .collect();
        let is_whole = payload.len() as u128 == length;
        outcome.empty_frames += usize::from(is_control || length == 0);
        match opcode {
            9 if is_whole => outcome.pong = [&[0x8a, payload.len() as u8], &payload[..]].concat(),
            8 if is_whole => {
                let is_valid = match payload[..] {
                    [] => true,
                    [_] => false,
                    [a, b, ..] => {
                        let code = u16::from(a) << 8 | u16::from(b);
                        let is_known = (1000..1015).contains(&code) || (3000..5000).contains(&code);
                        is_known
                            && ![1004, 1005, 1006].contains(&code)
                            && String::from_utf8(payload[2..].to_vec()).is_ok()
                    }
                };
                outcome.end = Some(is_valid.then_some(()).ok_or(Kick::BadPayload));
                return outcome;
            }
            0 | 2 => {
                outcome.packets.extend(payload);
                is_in_message = !is_fin;
            }
            _ => {}
        }
        at = end;
    }
    outcome
}

/// Decodes `bytes`, which come in pieces of the sizes `cuts`, which repeat. Checks the packets, the pong, the
/// number of empty frames and the end, and that no answer grows.
pub fn check_input(bytes: &[u8], cuts: &[usize]) {
    let (mut codec, mut cuts) = (WebSocket::server(), cuts.iter().cycle());
    let (mut outcome, mut rest) = (Outcome::default(), bytes);
    while !rest.is_empty() && outcome.end.is_none() {
        let (piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
        let mut piece = piece.to_vec();
        let Decoded {
            bytes,
            empty_frames,
            end,
        } = codec.decode(&mut piece, &mut outcome.pong);
        outcome.packets.extend(&piece[..bytes]);
        outcome.empty_frames += empty_frames;
        outcome.end = end;
        assert!(outcome.pong.len() <= 127);
        rest = after;
    }
    assert_eq!(outcome, by_the_book(bytes));
}

/// Writes `bytes` to a socket that takes `takes` bytes before it blocks. A write is offered `offers` bytes, in
/// slices of `slices` bytes. All three repeat. Checks that the other side reads the same bytes.
pub fn check_output(
    bytes: &[u8],
    offers: &[usize],
    slices: &[usize],
    takes: &[usize],
    is_client: bool,
) {
    let (socket, peer) = FakeStream::pair();
    peer.state().room = 0;
    let mut ends = [WebSocket::server(), WebSocket::client()];
    if is_client {
        ends.reverse();
    }
    let [own, mut other] = ends;
    let mut stream = Framed::new(socket, own);
    let (mut offers, mut takes) = (offers.iter().cycle(), takes.iter().cycle());
    let mut sent = 0;
    while sent < bytes.len() {
        let offered = &bytes[sent..bytes.len().min(sent + offers.next().unwrap())];
        let (mut pieces, mut rest, mut sizes) = (Vec::new(), offered, slices.iter().cycle());
        // A gathered write has 64 slices at most.
        while !rest.is_empty() && pieces.len() < 64 {
            let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            pieces.push(IoSlice::new(piece));
            rest = after;
        }
        match stream.write_vectored(&pieces) {
            Ok(count) => {
                assert!(count > 0, "a write without progress");
                sent += count;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                peer.add_room(*takes.next().unwrap());
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(stream.buffered_bytes(), 0);
    let mut frames = peer.take_output(usize::MAX);
    let decoded = other.decode(&mut frames, &mut Vec::new());
    assert_eq!(decoded.end, None);
    assert!(frames[..decoded.bytes] == *bytes, "other bytes came out");
}
