//! The PROXY protocol, versions 1 and 2: the header with which a proxy names the client of a connection.
//!
//! A load balancer connects to the server itself, so every client would have the address of the balancer. The
//! header is the first bytes of such a connection, before all bytes of the client.
//! The specification is `proxy-protocol.txt` of HAProxy.

use crate::base::cidr::canonical;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Reads one header, wherever the reads have split it, and takes no byte behind it.
///
/// Its memory follows the bytes that it received: none before the first,
/// [`MAX_BYTES`](ProxyHeader::MAX_BYTES) at most.
///
/// ```
/// # use server_core::protocol::proxy_header::{ProxyHeader, ProxiedPeer};
/// let mut header = ProxyHeader::default();
/// let mut input: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 7777\r\n\x04\0\x02\0";
/// let client = "192.0.2.7:50000".parse().unwrap();
/// assert_eq!(header.push(&mut input), Ok(Some(ProxiedPeer::Client(client))));
/// assert_eq!(input, b"\x04\0\x02\0");
/// ```
#[derive(Debug, Default)]
pub struct ProxyHeader {
    bytes: Vec<u8>,
}

/// The peer of a connection with a complete header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxiedPeer {
    /// The client that the header names. An IPv4 address that is written as IPv6 is IPv4.
    Client(SocketAddr),
    /// The proxy itself, for example for a health check (`LOCAL`), or a client without an IP address or TCP
    /// (`UNKNOWN`, `UNSPEC`, UNIX sockets, datagrams).
    Proxy,
}

/// Why bytes are not a header. The message is for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeaderError {
    /// The first bytes are not those of a header.
    NotAHeader,
    /// A field has a value that the specification does not permit.
    Malformed(&'static str),
    /// The header is longer than [`ProxyHeader::MAX_BYTES`], or than the 107 bytes of version 1.
    TooLong,
}

/// Whether bytes are the beginning of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureMatch {
    /// No header begins with these bytes.
    None,
    /// The first bytes of a signature.
    Partial,
    /// A complete signature.
    Complete,
}

const SIGNATURE_V1: &[u8] = b"PROXY ";
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, its end included.
const MAX_BYTES_V1: usize = 107;
/// `PROXY UNKNOWN`, and the end of the line.
const MIN_BYTES_V1: usize = 15;
/// Signature, version and command, family, length.
const FIXED_BYTES_V2: usize = 16;

impl ProxyHeader {
    /// The longest header in bytes: the specification's least size of one segment.
    pub const MAX_BYTES: usize = 536;

    /// Takes the next bytes of the header off `input`. Returns the peer once the header is complete; `input`
    /// then begins with the first byte behind the header. `None` means that all of `input` was taken.
    ///
    /// # Errors
    /// As soon as the bytes cannot become a header any more.
    pub fn push(&mut self, input: &mut &[u8]) -> Result<Option<ProxiedPeer>, ProxyHeaderError> {
        while !input.is_empty() {
            let (taken, rest) = input.split_at(self.missing_bytes().min(input.len()));
            self.bytes.extend_from_slice(taken);
            *input = rest;
            let peer = self.evaluate()?;
            if peer.is_some() {
                return Ok(peer);
            }
        }
        Ok(None)
    }

    /// Bytes that belong to the header for certain, at least one before it is complete: a read of no more bytes
    /// leaves those behind the header in the socket.
    #[must_use]
    pub fn missing_bytes(&self) -> usize {
        let count = self.bytes.len();
        match (
            self.bytes.first(),
            self.bytes.get(FIXED_BYTES_V2 - 2..FIXED_BYTES_V2),
        ) {
            (Some(b'P') | None, _) if count < MIN_BYTES_V1 => MIN_BYTES_V1 - count,
            (Some(b'P'), _) if self.bytes.last() == Some(&b'\r') => 1,
            (Some(b'P'), _) => MAX_BYTES_V1.saturating_sub(count).clamp(1, 2),
            (_, None) => FIXED_BYTES_V2 - count,
            // At least one byte, also if the header is complete.
            (_, Some(length)) => (FIXED_BYTES_V2 + length_of(length))
                .saturating_sub(count)
                .max(1),
        }
    }

    /// Bytes of memory that the header holds.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn reserved_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    fn evaluate(&self) -> Result<Option<ProxiedPeer>, ProxyHeaderError> {
        let bytes = &self.bytes[..];
        if signature_match(bytes, &[]) == SignatureMatch::None {
            return Err(ProxyHeaderError::NotAHeader);
        }
        if bytes.first() != Some(&b'P') {
            return evaluate_v2(bytes);
        }
        let line = match bytes.iter().position(|byte| *byte == b'\n') {
            None if bytes.len() >= MAX_BYTES_V1 => return Err(ProxyHeaderError::TooLong),
            None => return Ok(None),
            Some(end) if end + 1 == bytes.len() => bytes[..end].strip_suffix(b"\r"),
            Some(_) => None,
        };
        let line = line.and_then(|line| line.strip_prefix(SIGNATURE_V1));
        let line = line.ok_or(ProxyHeaderError::Malformed("the end of the line"))?;
        client_of_line(line).map(Some)
    }
}

/// Whether the bytes of `first` and then `second` are the beginning of a header.
#[must_use]
pub fn signature_match(first: &[u8], second: &[u8]) -> SignatureMatch {
    let count = first.len() + second.len();
    let matches = |signature: &&[u8]| {
        let bytes = first.iter().chain(second);
        bytes
            .zip(*signature)
            .all(|(byte, expected)| byte == expected)
    };
    match [SIGNATURE_V1, SIGNATURE_V2]
        .iter()
        .find(|signature| matches(signature))
    {
        None => SignatureMatch::None,
        Some(signature) if count < signature.len() => SignatureMatch::Partial,
        Some(_) => SignatureMatch::Complete,
    }
}

fn length_of(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .fold(0, |length, byte| length << 8 | usize::from(*byte))
}

/// The part of a line of version 1 between `PROXY ` and the end of the line.
fn client_of_line(line: &[u8]) -> Result<ProxiedPeer, ProxyHeaderError> {
    use ProxyHeaderError::Malformed;
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(ProxiedPeer::Proxy);
    }
    let line = str::from_utf8(line).map_err(|_| Malformed("a byte that is not ASCII"))?;
    let mut fields = line.split(' ');
    let is_ipv4 = match fields.next() {
        Some("TCP4") => true,
        Some("TCP6") => false,
        _ => return Err(Malformed("the protocol")),
    };
    let mut ip = || -> Option<IpAddr> {
        let text = fields.next()?;
        if is_ipv4 {
            text.parse::<Ipv4Addr>().ok().map(Into::into)
        } else {
            text.parse::<Ipv6Addr>().ok().map(Into::into)
        }
    };
    let source = ip().ok_or(Malformed("the source address"))?;
    ip().ok_or(Malformed("the destination address"))?;
    let mut port = || {
        let text = fields.next()?;
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit())
            && (text == "0" || !text.starts_with('0'));
        text.parse::<u16>().ok().filter(|_| is_plain)
    };
    let source_port = port().ok_or(Malformed("the source port"))?;
    port().ok_or(Malformed("the destination port"))?;
    if fields.next().is_some() {
        return Err(Malformed("a field too many"));
    }
    Ok(ProxiedPeer::Client(canonical(SocketAddr::new(
        source,
        source_port,
    ))))
}

fn evaluate_v2(bytes: &[u8]) -> Result<Option<ProxiedPeer>, ProxyHeaderError> {
    use ProxyHeaderError::{Malformed, TooLong};
    let is_local = match bytes.get(12) {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(0x22..=0x2f) => return Err(Malformed("the command")),
        Some(_) => return Err(Malformed("the version")),
    };
    // The bytes of the addresses and ports of both ends.
    let address_bytes = match bytes.get(13) {
        None => return Ok(None),
        // The family of a health check counts as nothing.
        Some(_) if is_local => 0,
        // Unspecified, or datagrams.
        Some(0x00 | 0x12 | 0x22 | 0x32) => 0,
        Some(0x11) => 2 * (4 + 2),
        Some(0x21) => 2 * (16 + 2),
        Some(0x31) => 2 * 108,
        Some(_) => return Err(Malformed("the address family or protocol")),
    };
    let Some(length) = bytes.get(14..FIXED_BYTES_V2).map(length_of) else {
        return Ok(None);
    };
    if FIXED_BYTES_V2 + length > ProxyHeader::MAX_BYTES {
        return Err(TooLong);
    }
    if length < address_bytes {
        return Err(Malformed("the length"));
    }
    // Behind the addresses are TLVs, which the server does not use.
    let Some(rest) = bytes[FIXED_BYTES_V2..].get(..length) else {
        return Ok(None);
    };
    let (ip, port) = match (address_bytes, rest) {
        (12, [a, b, c, d, _, _, _, _, high, low, ..]) => {
            (IpAddr::from([*a, *b, *c, *d]), [*high, *low])
        }
        (36, _) => match (rest.first_chunk::<16>(), rest.get(32..34)) {
            (Some(ip), Some(port)) => (IpAddr::from(*ip), [port[0], port[1]]),
            _ => return Err(Malformed("the length")),
        },
        _ => return Ok(Some(ProxiedPeer::Proxy)),
    };
    let client = SocketAddr::new(ip, u16::from_be_bytes(port));
    Ok(Some(ProxiedPeer::Client(canonical(client))))
}

impl fmt::Display for ProxyHeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAHeader => f.write_str("the connection does not begin with a PROXY header"),
            Self::Malformed(field) => write!(f, "the PROXY header is malformed: {field}"),
            Self::TooLong => write!(
                f,
                "the PROXY header is longer than {} bytes (version 1: {MAX_BYTES_V1})",
                ProxyHeader::MAX_BYTES
            ),
        }
    }
}

impl std::error::Error for ProxyHeaderError {}

#[cfg(test)]
mod tests {
    use super::*;
    use ProxyHeaderError::{Malformed, NotAHeader, TooLong};

    /// Reads a header that is followed by `behind`, in one piece, and checks that `behind` is left.
    fn read(header: &[u8]) -> Result<Option<ProxiedPeer>, ProxyHeaderError> {
        let behind = b"\r\nPROXY ";
        let stream = [header, behind].concat();
        let mut input = &stream[..];
        let peer = ProxyHeader::default().push(&mut input)?;
        assert!(peer.is_none() || input == behind, "{input:?}");
        Ok(peer)
    }

    fn client(addr: &str) -> Result<Option<ProxiedPeer>, ProxyHeaderError> {
        Ok(Some(ProxiedPeer::Client(addr.parse().unwrap())))
    }

    const PROXY: Result<Option<ProxiedPeer>, ProxyHeaderError> = Ok(Some(ProxiedPeer::Proxy));

    /// A header of version 2 with these two bytes behind its signature.
    fn v2(version_and_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [SIGNATURE_V2, &[version_and_command, family], &length, rest].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0xc3, 0x50, 0x1e, 0x61];

    fn ipv6(source: &str) -> Vec<u8> {
        let source: Ipv6Addr = source.parse().unwrap();
        let destination: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let ports = [0xc3, 0x50, 0x1e, 0x61];
        [&source.octets()[..], &destination.octets(), &ports].concat()
    }

    // Section 2.1: the human-readable header, version 1.

    #[test]
    fn v1_names_a_client_of_tcp4_and_tcp6() {
        for (line, addr) in [
            (
                "PROXY TCP4 192.0.2.7 10.0.0.1 50000 7777\r\n",
                "192.0.2.7:50000",
            ),
            (
                "PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n",
                "0.0.0.0:0",
            ),
            (
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
                "255.255.255.255:65535",
            ),
            ("PROXY TCP6 2001:DB8::7 ::1 1 2\r\n", "[2001:db8::7]:1"),
            (
                "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            ),
            (
                "PROXY TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1 50000 7777\r\n",
                "192.0.2.7:50000",
            ),
            (
                "PROXY TCP6 ::ffff:c000:207 ::1 50000 7777\r\n",
                "192.0.2.7:50000",
            ),
        ] {
            assert_eq!(read(line.as_bytes()), client(addr), "{line}");
        }
    }

    #[test]
    fn v1_unknown_ends_with_its_line_whatever_that_holds() {
        for line in [
            &b"PROXY UNKNOWN\r\n"[..],
            b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
            b"PROXY UNKNOWN \xff\0\r\r\n",
        ] {
            assert_eq!(read(line), PROXY, "{line:?}");
        }
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_BYTES_V1 - 16));
        assert_eq!(longest.len(), MAX_BYTES_V1);
        assert_eq!(read(longest.as_bytes()), PROXY);
        let longer = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_BYTES_V1 - 15));
        assert_eq!(read(longer.as_bytes()), Err(TooLong));
    }

    #[test]
    fn v1_line_that_the_specification_does_not_permit_is_malformed() {
        for (line, field) in [
            ("PROXY TCP5 192.0.2.7 10.0.0.1 1 2\r\n", "the protocol"),
            ("PROXY tcp4 192.0.2.7 10.0.0.1 1 2\r\n", "the protocol"),
            ("PROXY UNKNOWNS 192.0.2.7 1 2\r\n", "the protocol"),
            ("PROXY  TCP4 192.0.2.7 10.0.0.1 1 2\r\n", "the protocol"),
            (
                "PROXY TCP4 2001:db8::7 10.0.0.1 1 2\r\n",
                "the source address",
            ),
            (
                "PROXY TCP4 192.0.2.07 10.0.0.1 1 2\r\n",
                "the source address",
            ),
            (
                "PROXY TCP4 192.0.2.256 10.0.0.1 1 2\r\n",
                "the source address",
            ),
            (
                "PROXY TCP4  192.0.2.7 10.0.0.1 1 2\r\n",
                "the source address",
            ),
            ("PROXY TCP6 192.0.2.7 ::1 1 2\r\n", "the source address"),
            ("PROXY TCP6 ::1%eth0 ::1 1 2\r\n", "the source address"),
            (
                "PROXY TCP4 192.0.2.7 here.example 1 2\r\n",
                "the destination address",
            ),
            (
                "PROXY TCP4 192.0.2.7 10.0.0.1 65536 2\r\n",
                "the source port",
            ),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 +1 2\r\n", "the source port"),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 01 2\r\n", "the source port"),
            (
                "PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n",
                "the destination port",
            ),
            (
                "PROXY TCP4 192.0.2.7 10.0.0.1 1 \r\n",
                "the destination port",
            ),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 1 2 \r\n", "a field too many"),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n", "the end of the line"),
            ("PROXY TCP4\r\nxxxxxx", "the end of the line"),
        ] {
            assert_eq!(read(line.as_bytes()), Err(Malformed(field)), "{line}");
        }
        let line = b"PROXY TCP4 192.0.2.\xff 10.0.0.1 1 2\r\n";
        assert_eq!(read(line), Err(Malformed("a byte that is not ASCII")));
    }

    // Section 2.2: the binary header, version 2.

    #[test]
    fn v2_names_a_client_of_tcp_over_ipv4_and_ipv6() {
        assert_eq!(read(&v2(0x21, 0x11, &IPV4)), client("192.0.2.7:50000"));
        let ipv6_client = client("[2001:db8::7]:50000");
        assert_eq!(read(&v2(0x21, 0x21, &ipv6("2001:db8::7"))), ipv6_client);
        let mapped = v2(0x21, 0x21, &ipv6("::ffff:192.0.2.7"));
        assert_eq!(read(&mapped), client("192.0.2.7:50000"));
    }

    #[test]
    fn v2_local_is_the_proxy_and_its_addresses_are_ignored() {
        assert_eq!(read(&v2(0x20, 0x00, &[])), PROXY);
        assert_eq!(read(&v2(0x20, 0x11, &IPV4)), PROXY);
        assert_eq!(read(&v2(0x20, 0xff, &[1, 2, 3])), PROXY);
    }

    #[test]
    fn v2_unspecified_unix_and_datagrams_are_the_proxy() {
        assert_eq!(read(&v2(0x21, 0x00, &[])), PROXY);
        assert_eq!(read(&v2(0x21, 0x00, &[9; 50])), PROXY);
        assert_eq!(read(&v2(0x21, 0x31, &[b'/'; 216])), PROXY);
        for family in [0x12, 0x22, 0x32] {
            assert_eq!(read(&v2(0x21, family, &[7; 36])), PROXY, "{family:#x}");
        }
    }

    #[test]
    fn v2_tlvs_behind_the_addresses_are_skipped_up_to_536_bytes() {
        for family in [0x11, 0x21] {
            let addresses = if family == 0x11 {
                IPV4.to_vec()
            } else {
                ipv6("2001:db8::7")
            };
            let expected = read(&v2(0x21, family, &addresses));
            // PP2_TYPE_NOOP, of the largest size.
            let room = ProxyHeader::MAX_BYTES - FIXED_BYTES_V2 - addresses.len();
            let tlv = |bytes: usize| {
                let length = (bytes as u16 - 3).to_be_bytes();
                [&[4][..], &length, &vec![0; bytes - 3]].concat()
            };
            let fits = v2(0x21, family, &[addresses.clone(), tlv(room)].concat());
            assert_eq!((fits.len(), read(&fits)), (536, expected));
            let too_long = v2(0x21, family, &[addresses, tlv(room + 1)].concat());
            assert_eq!(read(&too_long), Err(TooLong));
        }
        assert_eq!(
            read(&[SIGNATURE_V2, &[0x20, 0, 0xff, 0xff]].concat()),
            Err(TooLong)
        );
    }

    #[test]
    fn v2_values_that_the_specification_does_not_permit_are_malformed() {
        for byte in 0..=u8::MAX {
            let field = match byte {
                0x20 | 0x21 => continue,
                0x22..=0x2f => "the command",
                _ => "the version",
            };
            assert_eq!(
                read(&v2(byte, 0x11, &IPV4)),
                Err(Malformed(field)),
                "{byte:#x}"
            );
        }
        for byte in 0..=u8::MAX {
            let is_valid = matches!(byte, 0x00 | 0x11 | 0x12 | 0x21 | 0x22 | 0x31 | 0x32);
            let read = read(&v2(0x21, byte, &[0; 216]));
            assert_eq!(read.is_ok(), is_valid, "{byte:#x}");
        }
        for (family, length) in [(0x11, 11), (0x21, 35), (0x31, 215)] {
            let short = v2(0x21, family, &vec![0; length]);
            assert_eq!(read(&short), Err(Malformed("the length")), "{family:#x}");
        }
    }

    #[test]
    fn other_first_bytes_are_not_a_header() {
        for bytes in [
            &b"\x04\0\x02\0"[..],
            b"GET / HTTP/1.1\r\n",
            b"PROXX ",
            b"\r\n\r\n\0\r\nQUIT\r",
            b"\0",
            b"proxy ",
        ] {
            assert_eq!(read(bytes), Err(NotAHeader), "{bytes:?}");
        }
    }

    /// In every split into two pieces, and byte by byte, the result is that of one piece.
    #[test]
    fn every_split_has_the_same_result() {
        let tlvs = v2(
            0x21,
            0x21,
            &[ipv6("2001:db8::7"), vec![4, 0, 2, 0, 0]].concat(),
        );
        for header in [
            b"PROXY TCP4 192.0.2.7 10.0.0.1 50000 7777\r\n".to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 50000 7777\n".to_vec(),
            v2(0x21, 0x11, &IPV4),
            v2(0x20, 0x00, &[]),
            v2(0x21, 0x11, &IPV4[..11]),
            tlvs,
        ] {
            let expected = read(&header);
            for cut in 1..header.len() {
                let mut state = ProxyHeader::default();
                let (mut first, mut second) = header.split_at(cut);
                let peer = match state.push(&mut first) {
                    Ok(None) => state.push(&mut second),
                    other => other,
                };
                assert_eq!(peer, expected, "{header:?} cut at {cut}");
            }
            let mut state = ProxyHeader::default();
            let outcomes = header.iter().map(|byte| state.push(&mut &[*byte][..]));
            let last = outcomes.into_iter().find(|outcome| *outcome != Ok(None));
            assert_eq!(last, Some(expected), "{header:?} byte by byte");
        }
    }

    /// A read of the missing bytes never takes a byte of the client.
    #[test]
    fn reads_of_the_missing_bytes_end_with_the_header() {
        for header in [
            &b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n"[..],
            b"PROXY UNKNOWN\r\n",
            &v2(0x21, 0x11, &IPV4),
            &v2(0x20, 0, &[]),
        ] {
            let (mut state, mut at) = (ProxyHeader::default(), 0);
            assert_eq!(state.reserved_bytes(), 0);
            loop {
                let count = state.missing_bytes();
                assert!(
                    count > 0 && at + count <= header.len(),
                    "{header:?} at {at}"
                );
                let outcome = state.push(&mut &header[at..at + count]).unwrap();
                at += count;
                assert!(state.reserved_bytes() <= 2 * at.max(8));
                if outcome.is_some() {
                    break;
                }
            }
            assert_eq!(at, header.len());
        }
    }

    #[test]
    fn signature_is_found_in_two_pieces() {
        for signature in [SIGNATURE_V1, SIGNATURE_V2] {
            for cut in 0..=signature.len() {
                let (first, second) = signature.split_at(cut);
                assert_eq!(signature_match(first, second), SignatureMatch::Complete);
                let more = [second, b"anything"].concat();
                assert_eq!(signature_match(first, &more), SignatureMatch::Complete);
                let partial = if cut < signature.len() {
                    SignatureMatch::Partial
                } else {
                    SignatureMatch::Complete
                };
                assert_eq!(signature_match(first, &[]), partial);
                assert_eq!(
                    signature_match(first, &[b'?'; 12][..12 - cut]),
                    if cut < signature.len() {
                        SignatureMatch::None
                    } else {
                        SignatureMatch::Complete
                    }
                );
            }
        }
    }
}
