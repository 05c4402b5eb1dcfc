//! Networks of addresses, as ban files and command lines name them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// A network of IP addresses: `192.0.2.0/24`, `2001:db8::/32`, or one address without a prefix length.
///
/// An IPv4 address that is written as IPv6 (`::ffff:192.0.2.7`) is the IPv4 address, in a network and in
/// [`contains`](Self::contains). A network of IPv6 contains no IPv4 address: `::/0` is all of IPv6.
///
/// ```
/// use server_core::Cidr;
/// let network: Cidr = "192.0.2.0/24".parse()?;
/// assert!(network.contains("192.0.2.7".parse().unwrap()));
/// assert!(network.contains("::ffff:192.0.2.7".parse().unwrap()));
/// assert!(!network.contains("192.0.3.7".parse().unwrap()));
/// # Ok::<(), server_core::InvalidCidr>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// The first address.
    first: IpAddr,
    prefix: u8,
}

/// Why a text is not a network. The message is for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidCidr(String);

/// Bits of `::ffff:0:0/96`, the network of IPv4 addresses that are written as IPv6.
const MAPPED_BITS: u8 = 96;

impl Cidr {
    /// Whether the address is in the network.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.first, ip.to_canonical()) {
            (IpAddr::V4(_), IpAddr::V4(ip)) => self.bits().contains(&ip.to_bits().into()),
            (IpAddr::V6(_), IpAddr::V6(ip)) => self.bits().contains(&ip.to_bits()),
            _ => false,
        }
    }

    /// Whether the network is one of IPv4.
    pub(crate) fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    /// The first and the last address, as numbers.
    pub(crate) fn bits(&self) -> RangeInclusive<u128> {
        let (first, host_bits) = match self.first {
            IpAddr::V4(ip) => (ip.to_bits().into(), 32 - u32::from(self.prefix)),
            IpAddr::V6(ip) => (ip.to_bits(), 128 - u32::from(self.prefix)),
        };
        first..=first | host_mask(host_bits)
    }
}

/// The network of one address.
impl From<IpAddr> for Cidr {
    fn from(ip: IpAddr) -> Self {
        let first = ip.to_canonical();
        let prefix = if first.is_ipv4() { 32 } else { 128 };
        Self { first, prefix }
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let invalid = |why: fmt::Arguments<'_>| InvalidCidr(format!("\"{text}\" {why}"));
        let (ip, prefix) = match text.split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix)),
            None => (text, None),
        };
        let ip: IpAddr = (ip.parse()).map_err(|_| {
            invalid(format_args!(
                "is not a network: expected an address or CIDR, for example 192.0.2.0/24"
            ))
        })?;
        let Some(prefix) = prefix else {
            return Ok(ip.into());
        };
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let is_number =
            (1..=3).contains(&prefix.len()) && prefix.bytes().all(|c| c.is_ascii_digit());
        let prefix = (prefix.parse::<u8>().ok()).filter(|prefix| is_number && *prefix <= bits);
        let prefix = prefix
            .ok_or_else(|| invalid(format_args!("has no prefix length between 0 and {bits}")))?;
        let (first, prefix) = match (ip, ip.to_canonical()) {
            (IpAddr::V6(_), IpAddr::V4(ip)) if prefix >= MAPPED_BITS => {
                (IpAddr::V4(ip), prefix - MAPPED_BITS)
            }
            _ => (ip, prefix),
        };
        let network = match first {
            IpAddr::V4(ip) => {
                let mask = host_mask(32 - u32::from(prefix)) as u32;
                IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & !mask))
            }
            IpAddr::V6(ip) => {
                let mask = host_mask(128 - u32::from(prefix));
                IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !mask))
            }
        };
        if network != first {
            return Err(invalid(format_args!(
                "has address bits behind its prefix length: did you mean {network}/{prefix}?"
            )));
        }
        Ok(Self { first, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl fmt::Display for InvalidCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidCidr {}

/// The address of a peer as all limits and logs name it: an IPv4 address that is written as IPv6 is IPv4.
#[must_use]
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, addr.port()),
        // Keeps the zone of a link-local address.
        IpAddr::V6(_) => addr,
    }
}

fn host_mask(bits: u32) -> u128 {
    u128::MAX.checked_shr(128 - bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, ip: &str) -> bool {
        let network: Cidr = network.parse().unwrap();
        network.contains(ip.parse().unwrap())
    }

    #[test]
    fn network_contains_its_first_and_last_address_and_no_neighbour() {
        for (network, first, last, before, after) in [
            (
                "10.0.0.0/8",
                "10.0.0.0",
                "10.255.255.255",
                "9.255.255.255",
                "11.0.0.0",
            ),
            (
                "192.0.2.4/31",
                "192.0.2.4",
                "192.0.2.5",
                "192.0.2.3",
                "192.0.2.6",
            ),
            (
                "192.0.2.4",
                "192.0.2.4",
                "192.0.2.4",
                "192.0.2.3",
                "192.0.2.5",
            ),
            (
                "2001:db8::/32",
                "2001:db8::",
                "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:db7::",
                "2001:db9::",
            ),
            (
                "2001:db8::7/128",
                "2001:db8::7",
                "2001:db8::7",
                "2001:db8::6",
                "2001:db8::8",
            ),
        ] {
            assert!(
                contains(network, first) && contains(network, last),
                "{network}"
            );
            assert!(
                !contains(network, before) && !contains(network, after),
                "{network}"
            );
        }
        assert!(contains("0.0.0.0/0", "255.255.255.255") && contains("::/0", "2001:db8::1"));
    }

    #[test]
    fn mapped_address_is_ipv4_in_networks_and_in_questions() {
        assert!(contains("192.0.2.0/24", "::ffff:192.0.2.9"));
        assert!(contains("::ffff:192.0.2.0/120", "192.0.2.9"));
        assert!(contains("::ffff:192.0.2.9", "192.0.2.9"));
        assert!(!contains("::/0", "192.0.2.9") && !contains("::/0", "::ffff:192.0.2.9"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"));
        let mapped: Cidr = "::ffff:192.0.2.0/120".parse().unwrap();
        assert_eq!(mapped.to_string(), "192.0.2.0/24");
        let whole: Cidr = "::ffff:0.0.0.0/96".parse().unwrap();
        assert_eq!(whole.to_string(), "0.0.0.0/0");
    }

    #[test]
    fn text_that_is_not_a_network_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "is not a network"),
            ("localhost", "is not a network"),
            ("10.0.0", "is not a network"),
            ("010.0.0.1", "is not a network"),
            ("10.0.0.1:80", "is not a network"),
            ("10.0.0.0/", "no prefix length between 0 and 32"),
            ("10.0.0.0/33", "no prefix length between 0 and 32"),
            ("10.0.0.0/+8", "no prefix length between 0 and 32"),
            ("10.0.0.0/8/8", "no prefix length between 0 and 32"),
            ("::/129", "no prefix length between 0 and 128"),
            ("10.0.0.1/8", "did you mean 10.0.0.0/8?"),
            ("2001:db8::1/64", "did you mean 2001:db8::/64?"),
        ] {
            let error = text.parse::<Cidr>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn peer_with_a_mapped_address_is_a_peer_of_ipv4() {
        let canon = |text: &str| canonical(text.parse().unwrap()).to_string();
        assert_eq!(canon("[::ffff:192.0.2.1]:7"), "192.0.2.1:7");
        assert_eq!(canon("[2001:db8::1]:7"), "[2001:db8::1]:7");
        assert_eq!(canon("[fe80::1%3]:7"), "[fe80::1%3]:7");
        assert_eq!(canon("192.0.2.1:7"), "192.0.2.1:7");
    }
}
