//! A content that a sender pumps through a queue, and a receiver of any pieces, compared with a simple model.

use server_core::buffer::{ChunkPool, SendBuffer, SendBufferManager};
use server_core::groups::members::Groups;
use server_core::session::Effect;
use server_core::{Content, ContentReceiver, ContentSender, Context, Peer, SessionId};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

server_core::packets! {
    server 9 => SPiece + bytes;
}

/// Sends `bytes` with this window. `takes` are the numbers of bytes that the peer takes at a time, `others`
/// the sizes of the session's other packets in between; both are repeated. Checks the queue, and returns the
/// payloads that the peer got.
pub fn send(bytes: &[u8], window: usize, takes: &[usize], others: &[usize]) -> Vec<Vec<u8>> {
    let buffers = SendBufferManager::new(ChunkPool::new(64 << 10, 8));
    let peer = Peer::new(SessionId::new(1, 0, 0), ([127, 0, 0, 1], 1).into(), None);
    let mut groups = Groups::new(0, Arc::default(), 1);
    let mut sender = ContentSender::<SPiece, _>::new(3, bytes).window_bytes(window);
    // The unsent bytes of each packet, and its payload if it is a piece.
    let mut queue: VecDeque<(usize, Option<SendBuffer>)> = VecDeque::new();
    let mut came = Vec::new();
    let (mut below, mut is_done) = (Some(usize::MAX), false);
    let (mut takes, mut others) = (takes.iter().cycle(), others.iter().cycle());
    while !is_done || !queue.is_empty() {
        let mut queued: usize = queue.iter().map(|(left, _)| left).sum();
        if below.take_if(|below| queued <= *below).is_some() {
            let mut effects = Vec::new();
            let mut ctx = Context::new(
                peer,
                Instant::now(),
                &buffers,
                &mut effects,
                &mut groups,
                queued,
            );
            is_done = sender.pump(&mut ctx);
            for effect in effects {
                match effect {
                    Effect::Send(_, packet) => {
                        queued += packet.len();
                        assert!(queued <= window, "{queued} bytes in a window of {window}");
                        queue.push_back((packet.len(), Some(packet)));
                    }
                    Effect::NotifyDrained(_, bytes) => below = Some(bytes),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(
            is_done || below.is_some(),
            "nothing would call the sender again"
        );
        assert!(
            is_done || !queue.is_empty(),
            "the sender waits for an empty queue to drain"
        );
        let other = *others.next().unwrap();
        if !is_done && other > 0 && queued < window {
            queue.push_back((other, None));
        }
        // The peer takes more bytes than the other packets add, or the queue would never drain.
        let mut take = (*takes.next().unwrap()).max(1) + other;
        while let Some((left, packet)) = queue.front_mut() {
            let taken = take.min(*left);
            (*left, take) = (*left - taken, take - taken);
            if *left > 0 {
                break;
            }
            came.extend(packet.take().map(|packet| packet[4..].to_vec()));
            queue.pop_front();
        }
    }
    assert_eq!(sender.remaining_bytes(), 0);
    came
}

/// One piece, with numbers of any kind.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub id: u32,
    pub total: u64,
    pub offset: u64,
    pub bytes: usize,
    /// The number of bytes that are missing at the end of the payload.
    pub cut: usize,
}

/// Pushes these pieces, and checks every answer and the memory after each.
pub fn receive(pieces: &[Piece], limit: usize) {
    let mut receiver = ContentReceiver::new(limit);
    let mut model: Option<(u32, u64, Vec<u8>)> = None;
    for piece in pieces {
        let mut payload = piece.id.to_le_bytes().to_vec();
        payload.extend(piece.total.to_le_bytes());
        payload.extend(piece.offset.to_le_bytes());
        payload.extend((0..piece.bytes).map(|n| n as u8));
        payload.truncate(payload.len().saturating_sub(piece.cut));
        let answer = receiver.push(&payload);
        match by_the_book(&mut model, &payload, limit) {
            Some(complete) => assert_eq!(answer, Ok(complete)),
            None => assert!(answer.is_err(), "{piece:?} was accepted"),
        }
        let received = model.as_ref().map_or(0, |(_, _, bytes)| bytes.len());
        assert_eq!(receiver.received_bytes(), received);
        assert!(receiver.reserved_bytes() <= 2 * received);
    }
}

/// The content that this payload ends, if it ends one. `None` if the payload is wrong: the model is then empty.
fn by_the_book(
    model: &mut Option<(u32, u64, Vec<u8>)>,
    payload: &[u8],
    limit: usize,
) -> Option<Option<Content>> {
    let before = model.take();
    let (head, bytes) = payload.split_at_checked(20)?;
    let id = u32::from_le_bytes(head[..4].try_into().unwrap());
    let total = u64::from_le_bytes(head[4..12].try_into().unwrap());
    let offset = u64::from_le_bytes(head[12..].try_into().unwrap());
    let (its_id, its_total, mut so_far) = before.unwrap_or((id, total, Vec::new()));
    let is_right = (its_id, its_total) == (id, total)
        && total <= limit as u64
        && offset == so_far.len() as u64
        && bytes.len() as u64 <= total - offset
        && bytes.is_empty() == (total == 0);
    if !is_right {
        return None;
    }
    so_far.extend(bytes);
    if so_far.len() as u64 == total {
        return Some(complete(id, so_far));
    }
    *model = Some((id, total, so_far));
    Some(None)
}

/// A content as a receiver returns it. Only a receiver makes one.
fn complete(id: u32, bytes: Vec<u8>) -> Option<Content> {
    let mut receiver = ContentReceiver::new(bytes.len());
    let total = (bytes.len() as u64).to_le_bytes();
    let payload = [&id.to_le_bytes()[..], &total, &[0; 8], &bytes].concat();
    let content = receiver.push(&payload).unwrap();
    assert_eq!(content.as_ref().unwrap().bytes, bytes);
    content
}
