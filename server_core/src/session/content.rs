//! Content of more than one packet: cut into pieces, paced by the queue, reassembled by the receiver.
//!
//! Each piece is the payload of one packet:
//!
//! ```text
//!  u32 content id | u64 bytes of the whole content | u64 offset of this piece | the bytes of this piece
//! ```
//!
//! All numbers are little-endian. Pieces are in order: each piece begins at the end of the last one and
//! has at least one byte. An empty content is one piece without bytes.

use crate::base::reason::Kick;
use crate::base::wire::{HEADER_BYTES, MAX_PACKET_BYTES, U32Le, U64Le};
use crate::protocol::packet::PacketHead;
use crate::protocol::writer::{OutgoingPacket, PacketWriter, WritePart};
use crate::session::Context;
use bytemuck::{Pod, Zeroable};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// The fixed part of each piece.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct PieceHead {
    content: U32Le,
    total_bytes: U64Le,
    offset: U64Le,
}

/// Bytes of a packet besides those of the piece.
const OVERHEAD_BYTES: usize = HEADER_BYTES + size_of::<PieceHead>();
/// Bytes of one piece, at most.
const MAX_PIECE_BYTES: usize = MAX_PACKET_BYTES - OVERHEAD_BYTES;
/// No piece is sent while the free part of the window is smaller than this fraction of it.
const SMALLEST_PIECE: usize = 4;

/// Sends one content of any size to one session, as packets `P`, within a window of its queue.
///
/// A session holds the sender and calls [`pump`](Self::pump) in two places: at the start of the content,
/// and in [`on_drained`](crate::Session::on_drained). The pieces of the content and the other packets of
/// the session share one queue. So a packet waits behind one window of content at most, and behind the
/// bytes in the two sockets: at 250 kB/s the default window of 64 KiB lasts 0.26 s.
///
/// `P` is a packet of the game's table with a tail of bytes and no fields. `B` holds the content. All
/// sessions that receive the same content can share an `Arc<[u8]>`.
///
/// ```
/// use server_core::{ContentSender, Context, Kick, Packet, Session};
/// use std::sync::Arc;
///
/// server_core::packets! {
///     /// A piece of the world.
///     server 4 => pub SWorld + bytes;
/// }
///
/// struct Player {
///     world: ContentSender<SWorld>,
/// }
///
/// impl Player {
///     fn new(world: &Arc<[u8]>) -> Self {
///         Self { world: ContentSender::new(1, Arc::clone(world)) }
///     }
/// }
///
/// impl Session for Player {
///     fn on_connected(&mut self, ctx: &mut Context<'_>) {
///         self.world.pump(ctx);
///     }
///
///     fn on_drained(&mut self, ctx: &mut Context<'_>) {
///         self.world.pump(ctx);
///     }
///
///     fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
///         Err(Kick::UnknownId)
///     }
/// }
/// ```
///
/// [`ContentReceiver`] reassembles the pieces. It takes one content after the other, so a session
/// begins the next content when `pump` has returned `true` for the last one.
pub struct ContentSender<P, B = Arc<[u8]>> {
    content: u32,
    bytes: B,
    /// Offset of the next piece. `None` when all pieces are queued.
    next: Option<usize>,
    window_bytes: usize,
    packet: PhantomData<fn() -> P>,
}

impl<P: PacketHead, B: AsRef<[u8]>> ContentSender<P, B> {
    /// Queue length up to which [`pump`](Self::pump) adds pieces: 64 KiB.
    pub const DEFAULT_WINDOW_BYTES: usize = 64 << 10;

    /// A sender of `bytes`. `content` is a number of the game, which the receiver gets with the bytes.
    #[must_use]
    pub fn new(content: u32, bytes: B) -> Self {
        const { assert!(size_of::<P>() == 0, "a packet of pieces has no fields") }
        Self {
            content,
            bytes,
            next: Some(0),
            window_bytes: Self::DEFAULT_WINDOW_BYTES,
            packet: PhantomData,
        }
    }

    /// Sets the window, 1 KiB or more. A larger window keeps a fast and distant reader busy. A smaller
    /// window sends the other packets of a slow reader sooner. Half of
    /// [`max_send_queue_bytes`](crate::Config::max_send_queue_bytes) is too much: a session with a longer
    /// queue is not read for [`read_pause`](crate::Config::read_pause).
    #[must_use]
    pub fn window_bytes(mut self, window_bytes: usize) -> Self {
        self.window_bytes = window_bytes.max(1 << 10);
        self
    }

    /// Queues pieces for this session until its queue fills the window, and requests
    /// [`on_drained`](crate::Session::on_drained) at half of the window. The request replaces an earlier
    /// request of the session. Returns whether all pieces are queued.
    pub fn pump(&mut self, ctx: &mut Context<'_>) -> bool {
        let bytes = self.bytes.as_ref();
        while let Some(offset) = self.next {
            let used_bytes = ctx.queued_bytes().saturating_add(OVERHEAD_BYTES);
            let room = self.window_bytes.saturating_sub(used_bytes);
            let left = bytes.len().saturating_sub(offset);
            if room < left.min(self.window_bytes / SMALLEST_PIECE) {
                ctx.notify_drained(self.window_bytes / 2);
                return false;
            }
            let end = offset + left.min(room).min(MAX_PIECE_BYTES);
            ctx.send_packet(&Piece::<P> {
                head: PieceHead {
                    content: self.content.into(),
                    total_bytes: (bytes.len() as u64).into(),
                    offset: (offset as u64).into(),
                },
                bytes: bytes.get(offset..end).unwrap_or_default(),
                packet: PhantomData,
            });
            self.next = (end < bytes.len()).then_some(end);
        }
        true
    }

    /// Bytes of the content that are not queued yet.
    #[must_use]
    pub fn remaining_bytes(&self) -> usize {
        let bytes = self.bytes.as_ref().len();
        self.next.map_or(0, |next| bytes.saturating_sub(next))
    }
}

/// Shows the numbers only.
impl<P, B> fmt::Debug for ContentSender<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentSender")
            .field("content", &self.content)
            .field("next", &self.next)
            .field("window_bytes", &self.window_bytes)
            .finish_non_exhaustive()
    }
}

/// One packet `P`.
struct Piece<'a, P> {
    head: PieceHead,
    bytes: &'a [u8],
    packet: PhantomData<fn() -> P>,
}

impl<P> WritePart for Piece<'_, P> {
    fn write(&self, writer: &mut PacketWriter<'_>) {
        writer.put(bytemuck::bytes_of(&self.head));
        writer.put(self.bytes);
    }
}

impl<P: PacketHead> OutgoingPacket for Piece<'_, P> {
    const ID: u16 = P::ID;
}

/// Reassembles one content after the other from pieces: the counterpart of [`ContentSender`].
///
/// Every piece is checked, as a peer can send anything. The total is a claim that reserves no memory:
/// the memory is at most twice the received bytes, and at most the limit. The duration of a content has
/// no limit here.
///
/// ```
/// use server_core::ContentReceiver;
///
/// let mut receiver = ContentReceiver::new(1 << 20);
/// // The content 7, of two bytes, in two pieces: the payloads of two packets.
/// let head = [7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
/// let first = [&head[..], &[0; 8], b"h"].concat();
/// let second = [&head[..], &[1, 0, 0, 0, 0, 0, 0, 0], b"i"].concat();
/// assert_eq!(receiver.push(&first), Ok(None));
/// let content = receiver.push(&second)?.expect("it is complete");
/// assert_eq!((content.id, &content.bytes[..]), (7, &b"hi"[..]));
/// # Ok::<(), server_core::ContentError>(())
/// ```
pub struct ContentReceiver {
    limit_bytes: usize,
    current: Option<Partial>,
}

/// A content that is received in part.
struct Partial {
    id: u32,
    total_bytes: usize,
    bytes: Vec<u8>,
}

/// A complete content.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Content {
    /// The number that was given to [`ContentSender::new`].
    pub id: u32,
    /// The bytes of the content.
    pub bytes: Vec<u8>,
}

/// An invalid piece. A handler returns it with `?`, as [`Kick::BadPayload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContentError {
    /// The payload is shorter than the numbers of a piece, or has no bytes behind them.
    Malformed,
    /// The content claims a size above the limit of the receiver.
    TooLarge {
        /// The bytes of the whole content.
        total_bytes: u64,
    },
    /// The piece does not begin at the end of the last piece.
    OutOfOrder {
        /// End of the last piece.
        expected: u64,
        /// Beginning of this piece.
        offset: u64,
    },
    /// The piece reaches beyond the end of its content.
    BeyondTheEnd,
    /// The piece belongs to another content than the incomplete one, or claims another total.
    Interleaved,
}

impl ContentReceiver {
    /// A receiver of contents of up to `limit_bytes` each.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            current: None,
        }
    }

    /// Takes the payload of one packet. Returns the content with its last piece.
    ///
    /// # Errors
    /// [`ContentError`]. The incomplete content is dropped.
    pub fn push(&mut self, payload: &[u8]) -> Result<Option<Content>, ContentError> {
        let (head, piece) = (payload.split_at_checked(size_of::<PieceHead>()))
            .map(|(head, piece)| (bytemuck::pod_read_unaligned::<PieceHead>(head), piece))
            .ok_or(ContentError::Malformed)
            .inspect_err(|_| self.current = None)?;
        // Stored again only if the piece fits and further pieces are missing.
        let mut partial = self.begin_or_continue(&head)?;
        let left = partial.total_bytes - partial.bytes.len();
        if piece.len() > left {
            return Err(ContentError::BeyondTheEnd);
        }
        if piece.is_empty() && partial.total_bytes > 0 {
            return Err(ContentError::Malformed);
        }
        partial.append(piece);
        if partial.bytes.len() == partial.total_bytes {
            let Partial { id, bytes, .. } = partial;
            return Ok(Some(Content { id, bytes }));
        }
        self.current = Some(partial);
        Ok(None)
    }

    /// Received bytes of the incomplete content.
    #[must_use]
    pub fn received_bytes(&self) -> usize {
        (self.current.as_ref()).map_or(0, |partial| partial.bytes.len())
    }

    /// Bytes of memory for the incomplete content.
    #[must_use]
    pub fn reserved_bytes(&self) -> usize {
        (self.current.as_ref()).map_or(0, |partial| partial.bytes.capacity())
    }

    /// Takes the content of a piece out of this receiver, or begins it.
    fn begin_or_continue(&mut self, head: &PieceHead) -> Result<Partial, ContentError> {
        let (id, total_bytes) = (head.content.get(), head.total_bytes.get());
        let offset = head.offset.get();
        let partial = match self.current.take() {
            Some(partial) if (partial.id, partial.total_bytes as u64) != (id, total_bytes) => {
                return Err(ContentError::Interleaved);
            }
            Some(partial) => partial,
            None => Partial {
                id,
                total_bytes: usize::try_from(total_bytes)
                    .ok()
                    .filter(|bytes| *bytes <= self.limit_bytes)
                    .ok_or(ContentError::TooLarge { total_bytes })?,
                bytes: Vec::new(),
            },
        };
        let expected = partial.bytes.len() as u64;
        if offset == expected {
            Ok(partial)
        } else {
            Err(ContentError::OutOfOrder { expected, offset })
        }
    }
}

impl Partial {
    fn append(&mut self, piece: &[u8]) {
        let needed = self.bytes.len() + piece.len();
        if needed > self.bytes.capacity() {
            // A vector that doubles by itself would end with up to twice the size of the content.
            let doubled = (self.bytes.capacity() * 2).clamp(needed, self.total_bytes);
            self.bytes.reserve_exact(doubled - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
    }
}

/// Shows the numbers only: the bytes are the peer's and do not belong in a log.
impl fmt::Debug for ContentReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentReceiver")
            .field("limit_bytes", &self.limit_bytes)
            .field("received_bytes", &self.received_bytes())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for ContentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the payload is not a piece of a content"),
            Self::TooLarge { total_bytes } => {
                write!(f, "a content of {total_bytes} bytes is above the limit")
            }
            Self::OutOfOrder { expected, offset } => {
                write!(f, "the piece begins at {offset}, and not at {expected}")
            }
            Self::BeyondTheEnd => f.write_str("the piece reaches beyond the end of its content"),
            Self::Interleaved => f.write_str("another content is incomplete"),
        }
    }
}

impl std::error::Error for ContentError {}

impl From<ContentError> for Kick {
    fn from(_: ContentError) -> Self {
        Self::BadPayload
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::SessionId;
    use crate::buffer::{ChunkPool, SendBuffer, SendBufferManager};
    use crate::groups::members::Groups;
    use crate::session::{Effect, Peer};
    use std::time::Instant;

    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct SPiece;
    impl PacketHead for SPiece {
        const ID: u16 = 0x0102;
    }

    /// The packets of one `pump` with these bytes in the queue, its drain request, and its result.
    fn pump<B: AsRef<[u8]>>(
        sender: &mut ContentSender<SPiece, B>,
        queued_bytes: usize,
    ) -> (Vec<SendBuffer>, Option<usize>, bool) {
        let buffers = SendBufferManager::new(ChunkPool::new(64 << 10, 8));
        let peer = Peer::new(SessionId::new(1, 0, 0), ([127, 0, 0, 1], 1).into(), None);
        let (mut effects, mut groups) = (Vec::new(), Groups::new(0, Arc::default(), 1));
        let now = Instant::now();
        let mut ctx = Context::new(peer, now, &buffers, &mut effects, &mut groups, queued_bytes);
        let is_done = sender.pump(&mut ctx);
        let (mut packets, mut below) = (Vec::new(), None);
        for effect in effects {
            match effect {
                Effect::Send(to, packet) if to == peer.id => packets.push(packet),
                Effect::NotifyDrained(id, bytes) if id == peer.id => below = Some(bytes),
                other => panic!("{other:?}"),
            }
        }
        (packets, below, is_done)
    }

    fn piece(content: u32, total_bytes: u64, offset: u64, bytes: &[u8]) -> Vec<u8> {
        let head = PieceHead {
            content: content.into(),
            total_bytes: total_bytes.into(),
            offset: offset.into(),
        };
        [bytemuck::bytes_of(&head), bytes].concat()
    }

    #[test]
    fn golden_bytes() {
        let mut sender = ContentSender::new(0x0a0b_0c0d, b"hi");
        let (packets, below, is_done) = pump(&mut sender, 0);
        let golden = b"\x1a\0\x02\x01\x0d\x0c\x0b\x0a\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0hi";
        assert_eq!(packets.len(), 1);
        assert_eq!(&*packets[0], golden);
        assert_eq!((below, is_done), (None, true));
        let content = ContentReceiver::new(2).push(&golden[4..]).unwrap().unwrap();
        assert_eq!((content.id, &content.bytes[..]), (0x0a0b_0c0d, &b"hi"[..]));
    }

    #[test]
    fn an_empty_content_is_one_piece_without_bytes() {
        let mut sender = ContentSender::new(1, b"");
        let (packets, _, is_done) = pump(&mut sender, usize::MAX);
        assert!(is_done && packets.len() == 1);
        let content = ContentReceiver::new(0).push(&packets[0][4..]).unwrap();
        assert_eq!(content.unwrap().bytes, b"");
        let (packets, below, is_done) = pump(&mut sender, 0);
        assert!(packets.is_empty() && below.is_none() && is_done);
    }

    #[test]
    fn pieces_fill_the_window_and_never_more() {
        let window = ContentSender::<SPiece>::DEFAULT_WINDOW_BYTES;
        let mut sender = ContentSender::new(1, vec![7; 1 << 20]);
        for queued_bytes in [0, window / 2, 1_000, window * 3 / 4 - OVERHEAD_BYTES] {
            let left = sender.remaining_bytes();
            let (packets, below, is_done) = pump(&mut sender, queued_bytes);
            let bytes: usize = packets.iter().map(|packet| packet.len()).sum();
            let unused = window - queued_bytes - bytes;
            assert!(unused < window / SMALLEST_PIECE, "{unused} of the window");
            assert_eq!((below, is_done), (Some(window / 2), false));
            let taken = left - sender.remaining_bytes();
            assert_eq!(taken, bytes - packets.len() * OVERHEAD_BYTES);
        }
        // No piece is sent into less than a quarter of the window.
        for queued_bytes in [window * 3 / 4, window, usize::MAX] {
            let (packets, below, _) = pump(&mut sender, queued_bytes);
            assert_eq!((packets.len(), below), (0, Some(window / 2)));
        }
    }

    #[test]
    fn a_large_window_is_filled_with_packets_of_the_largest_size() {
        let mut sender = ContentSender::new(1, vec![7; 150_000]).window_bytes(1 << 20);
        let (packets, _, is_done) = pump(&mut sender, 0);
        let sizes: Vec<usize> = packets.iter().map(|packet| packet.len()).collect();
        let rest = 150_000 - 2 * MAX_PIECE_BYTES + OVERHEAD_BYTES;
        assert_eq!(sizes, [MAX_PACKET_BYTES, MAX_PACKET_BYTES, rest]);
        assert!(is_done);
    }

    #[test]
    fn an_invalid_piece_is_an_error_and_drops_the_content() {
        use ContentError as Wrong;
        let too_large = Wrong::TooLarge { total_bytes: 11 };
        let out_of_order = |offset| Wrong::OutOfOrder {
            expected: 4,
            offset,
        };
        for (wrong, error) in [
            (piece(1, 10, 0, b"abcd"), out_of_order(0)),
            (piece(1, 10, 3, b"d"), out_of_order(3)),
            (piece(1, 10, 5, b"f"), out_of_order(5)),
            (piece(2, 10, 4, b"e"), Wrong::Interleaved),
            (piece(1, 9, 4, b"e"), Wrong::Interleaved),
            (piece(1, 10, 4, b"efghijk"), Wrong::BeyondTheEnd),
            (piece(1, 10, 4, b""), Wrong::Malformed),
            (piece(1, 10, 4, b"")[..19].to_vec(), Wrong::Malformed),
            (Vec::new(), Wrong::Malformed),
        ] {
            let mut receiver = ContentReceiver::new(10);
            assert_eq!(receiver.push(&piece(1, 10, 0, b"abcd")), Ok(None));
            assert_eq!(receiver.received_bytes(), 4);
            assert_eq!(receiver.push(&wrong), Err(error));
            assert_eq!(receiver.reserved_bytes(), 0, "{error}");
        }
        for (first, error) in [
            (piece(1, 11, 0, b"abcd"), too_large),
            (
                piece(1, 10, 4, b"e"),
                Wrong::OutOfOrder {
                    expected: 0,
                    offset: 4,
                },
            ),
            (piece(1, 0, 0, b"a"), Wrong::BeyondTheEnd),
        ] {
            assert_eq!(ContentReceiver::new(10).push(&first), Err(error));
        }
        let most = u64::MAX;
        let claim = ContentReceiver::new(usize::MAX).push(&piece(1, most, most, b"a"));
        assert!(claim.is_err());
    }

    #[test]
    fn a_claim_reserves_no_memory() {
        let mut receiver = ContentReceiver::new(1 << 40);
        for offset in 0..100 {
            assert_eq!(receiver.push(&piece(1, 1 << 40, offset, b"a")), Ok(None));
            let received = receiver.received_bytes();
            assert_eq!(received as u64, offset + 1);
            assert!(receiver.reserved_bytes() <= 2 * received);
        }
    }

    #[test]
    fn one_content_after_the_other() {
        let mut receiver = ContentReceiver::new(4);
        for id in [1, 2, 2] {
            assert_eq!(receiver.push(&piece(id, 4, 0, b"ab")), Ok(None));
            let content = receiver.push(&piece(id, 4, 2, b"cd")).unwrap();
            let bytes = b"abcd".to_vec();
            assert_eq!(content, Some(Content { id, bytes }));
        }
    }
}
