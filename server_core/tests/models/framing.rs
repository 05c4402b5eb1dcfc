//! The translation of another framing, compared with a simple model.

use server_core::testing::{FakeStream, packet};
use server_core::transport::{ReadOutcome, Translated, Transport};
use server_core::{ByteOrder, DisconnectReason, Framing, IdField, Kick, LengthCounts, LengthField};
use std::io::{ErrorKind, IoSlice};

const MAX_PAYLOAD_BYTES: usize = 65_531;

/// Every combination of the fields, with this limit.
pub fn framings(max_frame_bytes: u32) -> Vec<Framing> {
    let mut framings = Vec::new();
    for length in [LengthField::U16, LengthField::U32] {
        for byte_order in [ByteOrder::LittleEndian, ByteOrder::BigEndian] {
            for length_counts in [
                LengthCounts::Frame,
                LengthCounts::IdAndPayload,
                LengthCounts::Payload,
            ] {
                for id in [IdField::None, IdField::U8, IdField::U16] {
                    framings.push(Framing {
                        length,
                        byte_order,
                        length_counts,
                        id,
                        max_frame_bytes,
                    });
                }
            }
        }
    }
    framings
}

fn length_bytes(framing: &Framing) -> usize {
    if framing.length == LengthField::U16 {
        2
    } else {
        4
    }
}

fn id_bytes(framing: &Framing) -> usize {
    match framing.id {
        IdField::None => 0,
        IdField::U8 => 1,
        IdField::U16 => 2,
    }
}

fn uncounted_bytes(framing: &Framing) -> usize {
    match framing.length_counts {
        LengthCounts::Frame => 0,
        LengthCounts::IdAndPayload => length_bytes(framing),
        LengthCounts::Payload => length_bytes(framing) + id_bytes(framing),
    }
}

/// A frame as the other program writes it.
pub fn frame(framing: &Framing, id: u16, payload: &[u8]) -> Vec<u8> {
    let is_big = framing.byte_order == ByteOrder::BigEndian;
    let all = length_bytes(framing) + id_bytes(framing) + payload.len();
    let length = all - uncounted_bytes(framing);
    let length = match (framing.length, is_big) {
        (LengthField::U16, true) => u16::try_from(length).unwrap().to_be_bytes().to_vec(),
        (LengthField::U16, false) => u16::try_from(length).unwrap().to_le_bytes().to_vec(),
        (LengthField::U32, true) => u32::try_from(length).unwrap().to_be_bytes().to_vec(),
        (LengthField::U32, false) => u32::try_from(length).unwrap().to_le_bytes().to_vec(),
    };
    let id = match (framing.id, is_big) {
        (IdField::None, _) => vec![],
        (IdField::U8, _) => vec![id as u8],
        (IdField::U16, true) => id.to_be_bytes().to_vec(),
        (IdField::U16, false) => id.to_le_bytes().to_vec(),
    };
    [&length, &id, payload].concat()
}

/// The id with which a frame of this framing arrives.
pub fn id_of(framing: &Framing, id: u16) -> u16 {
    match framing.id {
        IdField::None => 0,
        IdField::U8 => id & 255,
        IdField::U16 => id,
    }
}

/// The model of the input: it reads all bytes at once, by index. Returns the bytes of packets.
pub fn by_the_book(bytes: &[u8], framing: &Framing) -> (Vec<u8>, Option<Kick>) {
    let (mut packets, mut at) = (Vec::new(), 0);
    let (lengths, ids) = (length_bytes(framing), id_bytes(framing));
    let number = |at: usize, count: usize| {
        let mut field = bytes[at..at + count].to_vec();
        if framing.byte_order == ByteOrder::LittleEndian {
            field.reverse();
        }
        field
            .iter()
            .fold(0_usize, |all, byte| all * 256 + usize::from(*byte))
    };
    while at + lengths + ids <= bytes.len() {
        let claimed = number(at, lengths);
        if claimed > framing.max_frame_bytes as usize {
            return (packets, Some(Kick::TooLarge));
        }
        let end = at + claimed + uncounted_bytes(framing);
        let begin = at + lengths + ids;
        if end < begin {
            return (packets, Some(Kick::BadSize));
        }
        let shown = (end - begin).min(MAX_PAYLOAD_BYTES);
        packets.extend(((shown + 4) as u16).to_le_bytes());
        packets.extend((number(at + lengths, ids) as u16).to_le_bytes());
        packets.extend(&bytes[begin..bytes.len().min(begin + shown)]);
        at = end;
    }
    (packets, None)
}

/// Reads `bytes`, which come in pieces of the sizes `cuts`, into memory of the sizes `rooms`; both repeat.
/// Checks the bytes of packets, the first offence, and that each byte is charged to a turn.
pub fn check_input(bytes: &[u8], framing: &Framing, cuts: &[usize], rooms: &[usize]) {
    let (stream, peer) = FakeStream::pair();
    let mut stream = Translated::new(stream, *framing);
    let (mut cuts, mut rooms) = (cuts.iter().cycle(), rooms.iter().cycle());
    let (mut packets, mut kick, mut charged, mut sent) = (Vec::<u8>::new(), None, 0, 0);
    let mut memory = vec![0; 70_000];
    while kick.is_none() {
        let room = &mut memory[..*rooms.next().unwrap()];
        let outcome = stream.read(room);
        charged += stream.overhead_bytes();
        match outcome {
            Ok(ReadOutcome::Bytes(count)) => {
                assert!(
                    count + stream.overhead_bytes() > 0,
                    "a read without progress"
                );
                charged += count;
                packets.extend(&room[..count]);
            }
            Ok(ReadOutcome::Blocked) if sent < bytes.len() => {
                let end = bytes.len().min(sent + cuts.next().unwrap());
                peer.send(&bytes[sent..end]);
                sent = end;
            }
            Ok(ReadOutcome::Blocked) => break,
            Err(DisconnectReason::Kicked(offence)) => kick = Some(offence),
            other => panic!("{other:?}"),
        }
        assert!(
            charged >= peer.state().read_bytes,
            "a byte that no turn pays for"
        );
    }
    let expected = by_the_book(bytes, framing);
    assert_eq!(kick, expected.1, "{framing:?}");
    assert!(packets == expected.0, "{framing:?}: other packets came out");
    assert_eq!(stream.buffered_bytes(), 0);
}

/// Writes packets to a socket that takes `takes` bytes before it blocks. A write is offered `offers` bytes,
/// in slices of `slices` bytes. All three repeat. Checks the frames, and that no packet counts as sent
/// before its frame has gone.
pub fn check_output(
    packets: &[(u16, Vec<u8>)],
    framing: &Framing,
    offers: &[usize],
    slices: &[usize],
    takes: &[usize],
) {
    let (stream, peer) = FakeStream::pair();
    peer.state().room = 0;
    let mut stream = Translated::new(stream, *framing);
    let (mut bytes, mut frames, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for (id, payload) in packets {
        bytes.extend(packet(*id, payload));
        frames.extend(frame(framing, *id, payload));
        ends.push((bytes.len(), frames.len()));
    }
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
                assert!(count > 0 && count <= offered.len(), "{count} bytes sent");
                sent += count;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                peer.add_room(*takes.next().unwrap());
            }
            Err(error) => panic!("{error}"),
        }
        let written = peer.state().written_bytes;
        let complete = ends.iter().rfind(|(end, _)| *end <= sent);
        assert!(
            complete.is_none_or(|(_, end)| *end <= written),
            "{framing:?}"
        );
    }
    assert!(
        peer.state().output == frames,
        "{framing:?}: other frames came out"
    );
    assert_eq!(stream.buffered_bytes(), 0);
    assert!(peer.state().misuses.is_empty());
}
