//! The hosts for which the admin port answers. Knows no socket.
//!
//! A page on another site can make its own name resolve to this port's address (DNS rebinding), and
//! a browser then lets that page read the responses. The `Host` of such a request is the name of the
//! other site: the port refuses every name that it does not know.

use std::borrow::Cow;
use std::net::IpAddr;
use std::str::FromStr;

/// The host of a URL, for example `metrics.example.org` or `10.0.0.1`.
///
/// Parsing brings it into the form in which two hosts are compared: without port, brackets and final dot,
/// in lower case.
///
/// ```
/// use server_core::admin::Host;
/// let host: Host = "Metrics.Example.org.:9100".parse().expect("a host");
/// assert_eq!(host, Host::Name("metrics.example.org".into()));
/// assert!("http://metrics.example.org/".parse::<Host>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address. An IPv4 address within IPv6 is stored as IPv4.
    Ip(IpAddr),
    /// A name.
    Name(String),
}

impl FromStr for Host {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a name or an address, for example metrics.example.org";
        let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(rest) = text.strip_prefix('[') {
            let (ip, port) = rest.split_once(']').ok_or(EXPECTED)?;
            let ip: IpAddr = ip.parse().map_err(|_| EXPECTED)?;
            let port = port.strip_prefix(':').or(port.is_empty().then_some(""));
            return match port {
                Some(port) if ip.is_ipv6() && is_port(port) => Ok(Self::Ip(ip.to_canonical())),
                _ => Err(EXPECTED),
            };
        }
        let (name, port) = text.split_once(':').unwrap_or((text, ""));
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_name) || !is_port(port) {
            return Err(EXPECTED);
        }
        Ok(match name.parse::<IpAddr>() {
            Ok(ip) => Self::Ip(ip),
            Err(_) => Self::Name(name.to_ascii_lowercase()),
        })
    }
}

/// The hosts that a request may name.
#[derive(Debug, Default)]
pub struct AllowedHosts {
    /// The hosts beside the port's own address and the loopback names.
    pub hosts: Vec<Host>,
    /// How the user of the program allows a host: the end of the refusal's text.
    pub hint: Cow<'static, str>,
}

impl AllowedHosts {
    /// Whether the port answers for `host`: for its own address (`local`, of the accepted connection), a
    /// loopback name, and the hosts in the list. The port number does not matter: a tunnel changes it,
    /// and a page on another site cannot choose a name by it.
    pub fn contains(&self, host: &Host, local: Option<IpAddr>) -> bool {
        let is_own = match host {
            Host::Ip(ip) => ip.is_loopback() || local.is_some_and(|own| own.to_canonical() == *ip),
            Host::Name(name) => name == "localhost",
        };
        is_own || self.hosts.contains(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_allowed(text: &str) -> bool {
        let local = "::ffff:10.1.2.3".parse().unwrap();
        let hosts = ["Metrics.Example.org.", "10.9.9.9", "[fe80::1]"];
        let allowed = AllowedHosts {
            hosts: hosts.map(|host| host.parse().unwrap()).into(),
            ..AllowedHosts::default()
        };
        let host = text.parse().unwrap_or_else(|why| panic!("{text}: {why}"));
        allowed.contains(&host, Some(local))
    }

    #[test]
    fn own_address_loopback_and_listed_hosts_are_allowed() {
        for host in [
            "10.1.2.3",
            "10.1.2.3:9100",
            "[::ffff:10.1.2.3]",
            "localhost",
            "LocalHost:1",
            "localhost.",
            "localhost.:9100",
            "127.0.0.1",
            "127.255.1.2:80",
            "[::1]",
            "[::1]:9100",
            "[0:0:0:0:0:0:0:1]",
            "metrics.example.org",
            "METRICS.example.ORG.:443",
            "10.9.9.9",
            "[fe80::1]:9100",
        ] {
            assert!(is_allowed(host), "{host}");
        }
    }

    #[test]
    fn other_hosts_are_not_allowed() {
        for host in [
            "evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "127.0.0.1.evil.example",
            "10.1.2.4",
            "0.0.0.0",
            "[::]",
            "[fe80::2]",
            "example.org",
        ] {
            assert!(!is_allowed(host), "{host}");
        }
    }

    #[test]
    fn text_that_is_not_a_host_is_an_error() {
        for text in [
            "",
            ".",
            ":9100",
            "::1",
            "[::1",
            "[::1]x",
            "[::1]80",
            "[127.0.0.1]",
            "[x]",
            "a b",
            "a,b",
            "a:b",
            "localhost:1:2",
            "user@localhost",
            "localhost/",
            "안녕",
        ] {
            assert!(text.parse::<Host>().is_err(), "{text:?}");
        }
    }
}
