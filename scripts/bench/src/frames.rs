//! Cuts a stream into packets with the simplest correct code.

use crate::wire::HEADER_BYTES;

/// The bytes of a peer's incomplete packet.
#[derive(Debug, Default)]
pub struct Frames(Vec<u8>);

/// The size field was below four: the stream has lost its framing.
#[derive(Debug)]
pub struct BadSize;

impl Frames {
    /// Calls the function with the id and the payload of each packet that these bytes complete.
    ///
    /// # Errors
    /// [`BadSize`]: the caller has to close the connection.
    pub fn feed(&mut self, bytes: &[u8], mut show: impl FnMut(u16, &[u8])) -> Result<(), BadSize> {
        if self.0.is_empty() {
            let rest = cut(bytes, &mut show)?;
            self.0.extend_from_slice(rest);
            return Ok(());
        }
        self.0.extend_from_slice(bytes);
        let rest = cut(&self.0, &mut show)?.len();
        self.0.drain(..self.0.len() - rest);
        Ok(())
    }
}

fn cut<'a>(mut bytes: &'a [u8], show: &mut impl FnMut(u16, &[u8])) -> Result<&'a [u8], BadSize> {
    while let [a, b, c, d, ..] = *bytes {
        let size = usize::from(u16::from_le_bytes([a, b]));
        if size < HEADER_BYTES {
            return Err(BadSize);
        }
        let Some((packet, rest)) = bytes.split_at_checked(size) else {
            break;
        };
        show(u16::from_le_bytes([c, d]), &packet[HEADER_BYTES..]);
        bytes = rest;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::packet;

    #[test]
    fn every_cut_in_two() {
        let bytes = [
            packet(1, b"abc", b"de"),
            packet(2, b"", b""),
            packet(3, b"f", b""),
        ]
        .concat();
        for cut in 0..=bytes.len() {
            let (mut frames, mut seen) = (Frames::default(), Vec::new());
            for part in [&bytes[..cut], &bytes[cut..]] {
                let fed = frames.feed(part, |id, payload| seen.push((id, payload.to_vec())));
                assert!(fed.is_ok());
            }
            assert_eq!(
                seen,
                [(1, b"abcde".to_vec()), (2, vec![]), (3, b"f".to_vec())]
            );
            assert!(frames.0.is_empty());
        }
        assert!(Frames::default().feed(&[3, 0, 1, 0], |_, _| ()).is_err());
    }
}
