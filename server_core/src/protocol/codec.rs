//! Framing between the byte stream of packets and the bytes of a connection: WebSocket's, for example.
//!
//! A plain TCP connection has no codec: its bytes are the stream of packets. The queue of a session holds
//! packets alone, whatever its codec: the bytes of a broadcast are the same for all sessions, and the ends of
//! packets are counted where they were before.

use crate::base::reason::{DisconnectReason, Kick};

/// Takes framing out of what comes, and says what has to be put before what goes out. No socket, no clock.
pub trait Codec {
    /// The most bytes of packets behind one prefix.
    const MAX_RUN_BYTES: usize;

    /// Decodes `input` in place: the bytes of packets end up at its front, in order. The codec keeps what is
    /// needed of incomplete framing, and appends its answers (a pong) to `replies`. It may replace answers that
    /// still wait there.
    ///
    /// Each call is the next piece of the stream; nothing follows an [`end`](Decoded::end).
    fn decode(&mut self, input: &mut [u8], replies: &mut Vec<u8>) -> Decoded;

    /// Appends the prefix of a run of `bytes` bytes to `out`. A run is what one write has to offer, any
    /// number of packets or a part of one, and nothing else comes between its bytes.
    fn begin_run(&mut self, bytes: usize, out: &mut Vec<u8>);

    /// Whether the bytes of a run go out in another form than that of the queue. Then they are copied, and
    /// [`mask`](Self::mask) is called.
    fn masks_runs(&self) -> bool {
        false
    }

    /// Changes bytes of the present run, from the position `at` on, into the form in which they go out. A
    /// second call for the same bytes gives the same result.
    fn mask(&self, _at: usize, _bytes: &mut [u8]) {}

    /// Appends the message that ends the stream for `reason` to `out`. No run follows it.
    fn close(&mut self, reason: DisconnectReason, out: &mut Vec<u8>);
}

/// The result of decoding one piece of input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of packets at the front of the input.
    pub bytes: usize,
    /// Frames in the input that carry no byte of a packet. The peer has a budget for them.
    pub empty_frames: usize,
    /// Set if nothing behind these bytes counts: the peer has ended the stream, or has broken a rule.
    pub end: Option<Result<(), Kick>>,
}
