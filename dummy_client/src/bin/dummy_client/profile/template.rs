//! A payload with places for numbers.

use std::iter;

/// A payload: bytes, with places for the number of the user and of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Bytes(Vec<u8>),
    User,
    Sequence,
}

const HEX: &str = "hex:";
const USER: &str = "{n}";
const SEQUENCE: &str = "{seq}";
/// The digits of the largest number.
const NUMBER_BYTES: usize = 20;

impl Template {
    /// A text with `{n}` and `{seq}`, or `hex:` and hexadecimal digits.
    ///
    /// # Errors
    /// A sentence about digits that are not hexadecimal, or not in pairs.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with(HEX) {
            let pieces = vec![Piece::Bytes(bytes(text)?)];
            return Ok(Self { pieces });
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let places = [(USER, Piece::User), (SEQUENCE, Piece::Sequence)];
            let next = places
                .into_iter()
                .filter_map(|(name, piece)| Some((rest.find(name)?, name, piece)))
                .min_by_key(|(at, ..)| *at);
            let (text, after, place) = match next {
                Some((at, name, piece)) => (&rest[..at], &rest[at + name.len()..], Some(piece)),
                None => (rest, "", None),
            };
            if !text.is_empty() {
                pieces.push(Piece::Bytes(text.into()));
            }
            pieces.extend(place);
            rest = after;
        }
        Ok(Self { pieces })
    }

    /// Whether a place for the number of the request is in it.
    pub fn has_sequence(&self) -> bool {
        self.pieces.contains(&Piece::Sequence)
    }

    /// The most bytes that [`write`](Self::write) appends.
    pub fn max_bytes(&self) -> usize {
        let bytes = self.pieces.iter().map(|piece| match piece {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::User | Piece::Sequence => NUMBER_BYTES,
        });
        bytes.sum()
    }

    /// Appends the payload of this user and this request.
    pub fn write(&self, user: usize, sequence: u64, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Bytes(bytes) => out.extend(bytes),
                Piece::User => out.extend(user.to_string().bytes()),
                Piece::Sequence => out.extend(sequence.to_string().bytes()),
            }
        }
    }
}

/// The bytes of a text without places for numbers, or of `hex:` and hexadecimal digits.
///
/// # Errors
/// A sentence about digits that are not hexadecimal, or not in pairs.
pub fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let Some(digits) = text.strip_prefix(HEX) else {
        return Ok(text.into());
    };
    let mut digits = digits.chars().filter(|digit| *digit != ' ');
    let mut number = || {
        let value = |digit: Option<char>| digit.and_then(|digit| digit.to_digit(16));
        digits.next().map(|first| {
            let pair = value(Some(first)).zip(value(digits.next()));
            pair.map(|(high, low)| (high * 16 + low) as u8)
        })
    };
    let bytes: Option<Vec<u8>> = iter::from_fn(&mut number).collect();
    bytes.ok_or_else(|| "\"hex:\" needs pairs of hexadecimal digits".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let template = Template::parse(text).unwrap();
        template.write(7, 12, &mut out);
        assert!(out.len() <= template.max_bytes());
        out
    }

    #[test]
    fn numbers_take_their_places_and_other_braces_stay() {
        assert_eq!(
            written("{\"user\": {n}, \"x\": {seq}}"),
            b"{\"user\": 7, \"x\": 12}"
        );
        assert_eq!(written("{n}{n}-{seq}"), b"77-12");
        assert_eq!(written(""), b"");
        assert_eq!(written("{name}"), b"{name}");
    }

    #[test]
    fn hexadecimal_digits_come_in_pairs() {
        assert_eq!(written("hex:00 ff7B"), [0, 255, 0x7b]);
        for bad in ["hex:0", "hex:0g", "hex:é0"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
