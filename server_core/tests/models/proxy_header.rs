//! A PROXY header that comes in pieces, compared with a parser of the whole header.

use server_core::protocol::proxy_header::{ProxiedPeer, ProxyHeader, ProxyHeaderError};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

pub type Outcome = Result<Option<(ProxiedPeer, usize)>, ProxyHeaderError>;

/// Feeds `stream` in pieces of these sizes, which are repeated. Returns the peer and the length of the header.
pub fn feed(stream: &[u8], cuts: &[usize]) -> Outcome {
    let (mut header, mut fed) = (ProxyHeader::default(), 0);
    let mut cuts = cuts.iter().cycle();
    while fed < stream.len() {
        let end = stream.len().min(fed + cuts.next().unwrap());
        let mut input = &stream[fed..end];
        let peer = header.push(&mut input);
        fed = end;
        let taken = fed - input.len();
        assert!(
            header.reserved_bytes() <= (2 * taken).max(16),
            "memory beyond what came"
        );
        match peer? {
            Some(peer) => return Ok(Some((peer, taken))),
            None => assert!(input.is_empty() && header.missing_bytes() > 0),
        }
    }
    Ok(None)
}

/// The peer and the length of the header at the beginning of `stream`, if a complete one is there.
pub fn by_the_book(stream: &[u8]) -> Option<(ProxiedPeer, usize)> {
    let v2 = [13, 10, 13, 10, 0, 13, 10, 81, 85, 73, 84, 10];
    if let Some(rest) = stream.strip_prefix(&v2) {
        let [version, family, high, low, ..] = *rest else {
            return None;
        };
        let length = usize::from(high) * 256 + usize::from(low);
        let block = rest[4..].get(..length).filter(|_| length <= 520)?;
        let peer = match (version, family) {
            (0x20, _) | (0x21, 0 | 0x12 | 0x22 | 0x32) => ProxiedPeer::Proxy,
            (0x21, 0x11) if length >= 12 => {
                let ip = format!("{}.{}.{}.{}", block[0], block[1], block[2], block[3]);
                client(
                    ip.parse().unwrap(),
                    usize::from(block[8]) * 256 + usize::from(block[9]),
                )
            }
            (0x21, 0x21) if length >= 36 => {
                let ip: [u8; 16] = block[..16].try_into().unwrap();
                let port = usize::from(block[32]) * 256 + usize::from(block[33]);
                client(Ipv6Addr::from(ip).into(), port)
            }
            (0x21, 0x31) if length >= 216 => ProxiedPeer::Proxy,
            _ => return None,
        };
        return Some((peer, 16 + length));
    }
    let end = stream.iter().take(107).position(|byte| *byte == b'\n')?;
    let line = stream[..end].strip_suffix(b"\r")?;
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    if fields[0] != b"PROXY" {
        return None;
    }
    let text = |field: &[u8]| String::from_utf8(field.to_vec()).ok();
    let peer = match *fields.get(1)? {
        b"UNKNOWN" => ProxiedPeer::Proxy,
        protocol @ (b"TCP4" | b"TCP6") if fields.len() == 6 => {
            let ip = |field| -> Option<IpAddr> {
                let ip: IpAddr = text(field)?.parse().ok()?;
                (ip.is_ipv4() == (protocol == b"TCP4")).then_some(ip)
            };
            let port = |field| -> Option<usize> {
                let field = text(field)?;
                let port: usize = field.parse().ok()?;
                (port < 65_536 && port.to_string() == field).then_some(port)
            };
            ip(fields[3])?;
            port(fields[5])?;
            client(ip(fields[2])?, port(fields[4])?)
        }
        _ => return None,
    };
    Some((peer, end + 1))
}

fn client(ip: IpAddr, port: usize) -> ProxiedPeer {
    let ip = match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    };
    ProxiedPeer::Client(SocketAddr::new(ip, port as u16))
}

/// Checks that the pieces and the whole have the same result, and that it is that of the model.
pub fn check(stream: &[u8], cuts: &[usize]) {
    let outcome = feed(stream, cuts);
    // The text of an error names what was found first, and that depends on the pieces.
    let by_bytes = feed(stream, &[1]);
    assert_eq!(outcome.as_ref().ok(), by_bytes.as_ref().ok(), "{stream:?}");
    let expected = by_the_book(stream);
    assert_eq!(outcome.ok().flatten(), expected, "{stream:?}");
    // Reads of the missing bytes end with the header.
    if let Some((_, length)) = expected {
        let (mut header, mut fed) = (ProxyHeader::default(), 0);
        while fed < length {
            let end = fed + header.missing_bytes();
            assert!(end <= length, "a read beyond the header: {stream:?}");
            let outcome = header.push(&mut &stream[fed..end]).unwrap();
            fed = end;
            assert_eq!(outcome.is_some(), fed == length);
        }
    }
}
