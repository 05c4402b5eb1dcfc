//! The framer: bytes in, packets out.

use crate::base::reason::Kick;
use crate::base::wire::{HEADER_BYTES, PacketHeader};
use crate::protocol::packet::Packet;
use std::time::Instant;

/// Cuts the byte stream of one peer into packets, wherever the reads have split the stream.
///
/// A size field is a claim. The framer checks its range and reserves no memory for it: the framer holds
/// only the received bytes of an incomplete packet, and nothing between two packets. A complete packet in
/// the input is returned in place, without a copy.
///
/// ```
/// # use server_core::framer::Framer;
/// let mut framer = Framer::default();
/// let mut input: &[u8] = &[6, 0, 1, 0, b'h', b'i', 5, 0, 2];
/// let packet = framer.next_packet(&mut input, 65_535)?.expect("one is whole");
/// assert_eq!((packet.id(), packet.payload()), (1, b"hi".as_slice()));
/// assert_eq!(framer.next_packet(&mut input, 65_535)?, None);
/// assert!(framer.is_mid_packet());
/// # Ok::<(), server_core::Kick>(())
/// ```
#[derive(Debug, Default)]
pub struct Framer {
    /// Boxed, as most peers have no incomplete packet most of the time.
    rest: Option<Box<Rest>>,
}

/// An incomplete packet, or a complete packet that was returned and is dropped by the next call.
#[derive(Debug, Default)]
struct Rest {
    bytes: Vec<u8>,
    was_shown: bool,
    began_at: Option<Instant>,
}

impl Framer {
    /// Returns the next complete packet of `input`, and moves `input` past the used bytes. `None` means
    /// that all of `input` was used and the next packet is incomplete.
    ///
    /// # Errors
    /// [`Kick::BadSize`] and [`Kick::TooLarge`] as soon as the size field is complete. The stream
    /// has lost its framing then: the bytes behind that point have no meaning, and the framer must
    /// not be used again.
    pub fn next_packet<'a, 'input: 'a>(
        &'a mut self,
        input: &mut &'input [u8],
        max_packet_bytes: usize,
    ) -> Result<Option<Packet<'a>>, Kick> {
        // Freed, not kept for later: an idle session has no receive memory.
        self.rest.take_if(|rest| rest.was_shown);
        if self.rest.is_none() {
            return match claimed_size(input, max_packet_bytes)? {
                Some(size) if size <= input.len() => {
                    let (bytes, after) = input.split_at(size);
                    *input = after;
                    Ok(Some(as_packet(bytes)))
                }
                _ if input.is_empty() => Ok(None),
                _ => {
                    let bytes = take(input, input.len()).to_vec();
                    self.rest = Some(Box::new(Rest {
                        bytes,
                        ..Rest::default()
                    }));
                    Ok(None)
                }
            };
        }
        let rest = self.rest.get_or_insert_default();
        let header_lacks = HEADER_BYTES.saturating_sub(rest.bytes.len());
        rest.bytes.extend_from_slice(take(input, header_lacks));
        let Some(size) = claimed_size(&rest.bytes, max_packet_bytes)? else {
            return Ok(None);
        };
        let body_lacks = size - rest.bytes.len();
        rest.bytes.extend_from_slice(take(input, body_lacks));
        if rest.bytes.len() < size {
            return Ok(None);
        }
        rest.was_shown = true;
        Ok(Some(as_packet(&rest.bytes)))
    }

    /// Whether a packet has begun and is incomplete.
    #[must_use]
    pub fn is_mid_packet(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| !rest.was_shown)
    }

    /// The received bytes of the incomplete packet.
    pub(crate) fn incomplete_bytes(&self) -> &[u8] {
        let rest = self.rest.as_ref().filter(|rest| !rest.was_shown);
        rest.map_or(&[], |rest| &rest.bytes)
    }

    /// Notes the time if a packet has begun since the last call. The later bytes of that packet do not
    /// change it, and a packet that begins after others were complete has its own time.
    pub fn note(&mut self, now: Instant) {
        if let Some(rest) = &mut self.rest {
            rest.began_at.get_or_insert(now);
        }
    }

    /// The noted time at which the incomplete packet began.
    #[must_use]
    pub fn began_at(&self) -> Option<Instant> {
        let rest = self.rest.as_ref().filter(|rest| !rest.was_shown)?;
        rest.began_at
    }

    /// Moves the beginning of an incomplete packet from `noted` to `later`.
    pub fn shift_to(&mut self, noted: Instant, later: Instant) {
        if let Some(rest) = &mut self.rest
            && rest.began_at == Some(noted)
        {
            rest.began_at = Some(later);
        }
    }

    /// Restarts the clock of an incomplete packet at `now`, as the peer was not read until then.
    pub fn restart_clock(&mut self, now: Instant) {
        if let Some(rest) = &mut self.rest
            && rest.began_at.is_some()
        {
            rest.began_at = Some(now);
        }
    }

    /// Bytes of memory that the framer holds.
    #[must_use]
    pub fn reserved_bytes(&self) -> usize {
        self.rest.as_ref().map_or(0, |rest| rest.bytes.capacity())
    }
}

/// The size that a header claims, or `None` for an incomplete header.
fn claimed_size(bytes: &[u8], max_packet_bytes: usize) -> Result<Option<usize>, Kick> {
    let Some(header) = bytes.get(..HEADER_BYTES) else {
        return Ok(None);
    };
    let header: &PacketHeader = bytemuck::from_bytes(header);
    match usize::from(header.size.get()) {
        size if size < HEADER_BYTES => Err(Kick::BadSize),
        size if size > max_packet_bytes => Err(Kick::TooLarge),
        size => Ok(Some(size)),
    }
}

/// Splits one complete packet. `claimed_size` has checked its header.
fn as_packet(bytes: &[u8]) -> Packet<'_> {
    let (header, payload) = bytes.split_at(HEADER_BYTES);
    let header: &PacketHeader = bytemuck::from_bytes(header);
    Packet::new(header.id.get(), payload)
}

/// Takes up to `count` bytes from the front.
fn take<'a>(input: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (front, after) = input.split_at(count.min(input.len()));
    *input = after;
    front
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::packet;

    const MAX: usize = 65_535;

    /// Feeds each piece, and collects the packets up to the first offence.
    fn feed(framer: &mut Framer, pieces: &[&[u8]]) -> (Vec<(u16, Vec<u8>)>, Option<Kick>) {
        let mut seen = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            loop {
                match framer.next_packet(&mut input, MAX) {
                    Ok(Some(packet)) => seen.push((packet.id(), packet.payload().to_vec())),
                    Ok(None) => break,
                    Err(kick) => return (seen, Some(kick)),
                }
            }
            assert!(input.is_empty());
        }
        (seen, None)
    }

    #[test]
    fn lecture_25_arrival_exact() {
        let (seen, kick) = feed(&mut Framer::default(), &[&packet(1, b"abc")]);
        assert_eq!((seen, kick), (vec![(1, b"abc".to_vec())], None));
    }

    #[test]
    fn lecture_25_arrival_partial() {
        let bytes = packet(1, b"abc");
        let mut framer = Framer::default();
        assert_eq!(feed(&mut framer, &[&bytes[..5]]).0, []);
        assert!(framer.is_mid_packet());
        assert_eq!(feed(&mut framer, &[&bytes[5..]]).0, [(1, b"abc".to_vec())]);
        assert!(!framer.is_mid_packet());
    }

    #[test]
    fn lecture_25_arrival_one_and_a_part() {
        let two = [packet(1, b"abc"), packet(2, b"defg")].concat();
        let mut framer = Framer::default();
        assert_eq!(feed(&mut framer, &[&two[..9]]).0, [(1, b"abc".to_vec())]);
        assert_eq!(feed(&mut framer, &[&two[9..]]).0, [(2, b"defg".to_vec())]);
    }

    #[test]
    fn lecture_25_arrival_many() {
        let packets: Vec<_> = (0..100_u16)
            .map(|id| (id, vec![0; usize::from(id)]))
            .collect();
        let bytes: Vec<u8> = packets.iter().flat_map(|(id, p)| packet(*id, p)).collect();
        assert_eq!(feed(&mut Framer::default(), &[&bytes]).0, packets);
    }

    #[test]
    fn lecture_13_one_byte_at_a_time() {
        let bytes = [packet(1, b""), packet(2, b"x"), packet(3, [7_u8; 300])].concat();
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        let (seen, _) = feed(&mut Framer::default(), &pieces);
        assert_eq!(seen, [(1, vec![]), (2, b"x".to_vec()), (3, vec![7; 300])]);
    }

    #[test]
    fn lecture_20_every_cut_in_two_and_in_three() {
        let bytes = [packet(1, b"abc"), packet(2, b""), packet(3, b"defghi")].concat();
        let whole = feed(&mut Framer::default(), &[&bytes]).0;
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(feed(&mut Framer::default(), &pieces).0, whole);
            }
        }
    }

    #[test]
    fn lecture_24_each_way_out_of_the_loop() {
        let whole = packet(1, b"abc");
        let cases: [(&str, &[u8], usize, bool); 4] = [
            ("all was processed", &whole, 1, false),
            (
                "too short for a header",
                &[whole.as_slice(), &[9]].concat(),
                1,
                true,
            ),
            (
                "too short for the body",
                &[&whole[..], &whole[..6]].concat(),
                1,
                true,
            ),
            ("nothing at all", &[], 0, false),
        ];
        for (exit, bytes, packets, has_rest) in cases {
            let mut framer = Framer::default();
            let (seen, kick) = feed(&mut framer, &[bytes]);
            assert_eq!((seen.len(), kick), (packets, None), "{exit}");
            assert_eq!(framer.is_mid_packet(), has_rest, "{exit}");
        }
    }

    #[test]
    fn lecture_26_size_counts_the_header() {
        for size in 0..4 {
            let bytes = [size, 0, 1, 0, 9, 9, 9, 9];
            let (seen, kick) = feed(&mut Framer::default(), &[&bytes]);
            assert_eq!((seen, kick), (vec![], Some(Kick::BadSize)), "size {size}");
        }
        assert_eq!(
            feed(&mut Framer::default(), &[&[4, 0, 1, 0]]).0,
            [(1, vec![])]
        );
    }

    #[test]
    fn the_offence_is_found_with_the_header_however_it_is_cut() {
        for cut in 0..4 {
            let bytes = [3, 0, 1, 0];
            let (seen, kick) = feed(&mut Framer::default(), &[&bytes[..cut], &bytes[cut..]]);
            assert_eq!((seen, kick), (vec![], Some(Kick::BadSize)));
        }
        let mut input: &[u8] = &[101, 0, 1, 0];
        let answer = Framer::default().next_packet(&mut input, 100).map(|_| ());
        assert_eq!(answer, Err(Kick::TooLarge));
    }

    #[test]
    fn what_came_before_an_offence_is_shown_and_nothing_behind_it() {
        let bytes = [packet(1, b"good"), vec![0, 0, 0, 0], packet(2, b"never")].concat();
        let (seen, kick) = feed(&mut Framer::default(), &[&bytes]);
        assert_eq!(
            (seen, kick),
            (vec![(1, b"good".to_vec())], Some(Kick::BadSize))
        );
    }

    #[test]
    fn lecture_15_any_byte_may_be_in_a_payload() {
        let payload: Vec<u8> = (0..=255).cycle().take(65_531).collect();
        let bytes = packet(65_535, &payload);
        assert_eq!(bytes.len(), MAX);
        let (seen, _) = feed(
            &mut Framer::default(),
            &bytes.chunks(1000).collect::<Vec<_>>(),
        );
        assert_eq!(seen, [(65_535, payload)]);
    }

    #[test]
    fn lecture_43_memory_follows_the_bytes_and_not_the_claim() {
        let mut framer = Framer::default();
        feed(&mut framer, &[&[0xff, 0xff, 1, 0, 9]]);
        assert!(framer.is_mid_packet());
        assert!(framer.reserved_bytes() <= 16, "{}", framer.reserved_bytes());
        feed(&mut framer, &[&[0; 1000]]);
        assert!(framer.reserved_bytes() <= 2048);
    }

    #[test]
    fn no_memory_between_packets() {
        let bytes = packet(1, b"abc");
        let mut framer = Framer::default();
        feed(&mut framer, &[&bytes[..5], &bytes[5..]]);
        assert_eq!(framer.reserved_bytes(), 0);
    }
}
