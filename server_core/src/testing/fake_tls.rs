//! TLS without cryptography, for the tests of what is around it.

use crate::transport::{Records, TlsBroken, TlsEngine};
use std::sync::{Arc, Mutex, PoisonError};

/// An engine of TLS whose records hide nothing.
///
/// A record is its kind, the length of its body, and the body, each byte with the bits of a key
/// turned. Two records of the handshake complete the handshake; each later one is an update. Each of them is
/// answered with a record of the handshake. Any other record breaks the protocol.
#[derive(Debug)]
pub struct FakeTls {
    handshakes_left: usize,
    is_peer_closed: bool,
    is_broken: bool,
    is_closed: bool,
    /// Records of plaintext that it seals yet: its keys are used up then.
    records_left: usize,
    records: Records,
    signing_cost: usize,
    sealed: Arc<Mutex<Vec<u8>>>,
}

impl FakeTls {
    /// The kind of a record of plaintext.
    pub const DATA: u8 = b'd';
    /// The kind of a record of the handshake. The body of a valid one is [`STEP`](Self::STEP).
    pub const HANDSHAKE: u8 = b'h';
    /// The kind of the record that ends a side.
    pub const END: u8 = b'e';
    /// The kind of the last record of a side whose peer has broken the protocol.
    pub const ALERT: u8 = b'a';
    /// The body of a record of the handshake that a peer sends.
    pub const STEP: &[u8] = b"step";
    /// The bytes of an answer: more than some sockets take in one write.
    pub const ANSWER_BYTES: usize = HEADER_BYTES + ANSWER.len();
    /// The most plaintext in a record.
    pub const MAX_RECORD_BYTES: usize = 16 << 10;
    /// Differs from zero, so that no body is its own plaintext.
    const KEY: u8 = 0x5a;

    /// The end of a connection before its handshake. It shows the plaintext of the last record that it has sealed in
    /// `sealed`.
    #[must_use]
    pub fn new(sealed: Arc<Mutex<Vec<u8>>>) -> Self {
        Self {
            handshakes_left: 2,
            is_peer_closed: false,
            is_broken: false,
            is_closed: false,
            records_left: usize::MAX,
            records: Records::default(),
            signing_cost: 0,
            sealed,
        }
    }

    /// The end of a connection behind its handshake, with keys for this number of records of plaintext.
    #[must_use]
    pub fn established(records: usize) -> Self {
        Self {
            handshakes_left: 0,
            records_left: records,
            ..Self::new(Arc::default())
        }
    }

    /// The signature that the first record of the handshake asks for costs this number of bytes of a turn's input.
    #[must_use]
    pub fn with_signing_cost(mut self, bytes: usize) -> Self {
        self.signing_cost = bytes;
        self
    }

    /// The bytes of a record.
    #[must_use]
    pub fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        let [low, high] = (body.len() as u16).to_le_bytes();
        let mut record = vec![kind, low, high];
        record.extend(body.iter().map(|byte| byte ^ Self::KEY));
        record
    }

    /// The kind and the body of the first record, and the bytes behind it. `None`: it is not complete.
    #[must_use]
    pub fn next_record(bytes: &[u8]) -> Option<(u8, Vec<u8>, &[u8])> {
        let ([kind, low, high], rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let (body, rest) = rest.split_at_checked(length)?;
        let body = body.iter().map(|byte| byte ^ Self::KEY).collect();
        Some((*kind, body, rest))
    }
}

const HEADER_BYTES: usize = 3;
const ANSWER: [u8; 700] = [b'w'; 700];

impl TlsEngine for FakeTls {
    fn read(
        &mut self,
        input: &mut [u8],
        plaintext: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<usize, TlsBroken> {
        assert!(
            !self.is_broken && !self.is_peer_closed,
            "a read behind the end"
        );
        let mut rest = &input[..];
        while !self.is_peer_closed
            && let Some((kind, body, behind)) = Self::next_record(rest)
        {
            rest = behind;
            match kind {
                Self::HANDSHAKE if body == Self::STEP => {
                    self.handshakes_left = self.handshakes_left.saturating_sub(1);
                    self.records.empty += 1;
                    self.records.signing_cost += std::mem::take(&mut self.signing_cost);
                    output.extend(Self::record(Self::HANDSHAKE, &ANSWER));
                }
                Self::DATA if !self.is_handshaking() => {
                    let count = match body.is_empty() {
                        true => &mut self.records.empty,
                        false => &mut self.records.filled,
                    };
                    *count += 1;
                    plaintext.extend(body);
                }
                Self::END if !self.is_handshaking() => self.is_peer_closed = true,
                _ => {
                    self.is_broken = true;
                    output.extend(Self::record(Self::ALERT, b""));
                    return Err(TlsBroken(format!("a record of kind {kind}")));
                }
            }
        }
        Ok(input.len() - rest.len())
    }

    fn write(
        &mut self,
        incomplete: &mut [u8],
        plaintext: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), TlsBroken> {
        assert!(
            !self.is_handshaking() && !self.is_closed && !self.is_broken && output.is_empty(),
            "packets out of place: {self:?}"
        );
        assert!((1..=Self::MAX_RECORD_BYTES).contains(&plaintext.len()));
        assert!(
            self.is_peer_closed || Self::next_record(incomplete).is_none(),
            "a complete record waits for the next read"
        );
        let left = self.records_left.checked_sub(1);
        self.records_left = left.ok_or_else(|| TlsBroken("the keys are used up".into()))?;
        *self.sealed.lock().unwrap_or_else(PoisonError::into_inner) = plaintext.to_vec();
        output.extend(Self::record(Self::DATA, plaintext));
        Ok(())
    }

    fn close(&mut self, _: &mut [u8], output: &mut Vec<u8>) {
        assert!(
            !std::mem::replace(&mut self.is_closed, true),
            "closed twice"
        );
        output.extend(Self::record(Self::END, b""));
    }

    fn take_records(&mut self) -> Records {
        std::mem::take(&mut self.records)
    }

    fn is_handshaking(&self) -> bool {
        self.handshakes_left > 0
    }

    fn is_peer_closed(&self) -> bool {
        self.is_peer_closed
    }

    fn is_resumed(&self) -> bool {
        false
    }
}
