//! HOST:PORT from a command line.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};

/// HOST:PORT from a command line, and its addresses: a name may have several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    text: String,
    /// At least one.
    addrs: Vec<SocketAddr>,
}

impl Addresses {
    /// All of them, in the order in which to try them.
    #[must_use]
    pub fn all(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The first one.
    #[must_use]
    pub fn first(&self) -> SocketAddr {
        self.addrs[0]
    }

    /// Whether the name has more than one.
    #[must_use]
    pub fn are_several(&self) -> bool {
        self.addrs.len() > 1
    }

    /// This one is the first one from now on.
    pub fn prefer(&mut self, addr: SocketAddr) {
        self.addrs.retain(|one| *one != addr);
        self.addrs.insert(0, addr);
    }
}

/// As it was given; a name with its addresses, if there are several.
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if self.are_several() {
            let addrs: Vec<String> = self.addrs.iter().map(SocketAddr::to_string).collect();
            write!(f, " ({})", addrs.join(", "))?;
        }
        Ok(())
    }
}

/// Reads HOST:PORT from the command line. A name is looked up.
///
/// # Errors
/// Why it has no address, in the user's words.
pub fn parse_addrs(text: &str) -> Result<Addresses, String> {
    let mut addrs: Vec<SocketAddr> = Vec::new();
    let found = text
        .to_socket_addrs()
        .map_err(|error| format!("{error}; expected HOST:PORT, for example 127.0.0.1:7777"))?;
    for addr in found {
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    match addrs.is_empty() {
        true => Err("the name has no address".into()),
        false => Ok(Addresses {
            text: text.into(),
            addrs,
        }),
    }
}

/// As [`parse_addrs`], but takes the first address of a name.
///
/// # Errors
/// As there.
pub fn parse_addr(text: &str) -> Result<SocketAddr, String> {
    parse_addrs(text).map(|addrs| addrs.first())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(parse_addr("127.0.0.1:0").map(|addr| addr.port()), Ok(0));
        assert!(parse_addr("[::1]:7777").is_ok());
        for bad in ["", "127.0.0.1", "127.0.0.1:70000", "7777"] {
            assert!(parse_addr(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_preferred_address_comes_first_and_the_others_stay() {
        let [one, two] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut addrs = Addresses {
            text: "name:1".into(),
            addrs: vec![one, two],
        };
        assert_eq!(addrs.to_string(), "name:1 (127.0.0.1:1, 127.0.0.1:2)");
        addrs.prefer(two);
        assert_eq!((addrs.first(), addrs.all()), (two, &[two, one][..]));
        let alone = parse_addrs("127.0.0.1:7").unwrap();
        assert!(!alone.are_several());
        assert_eq!(alone.to_string(), "127.0.0.1:7");
    }
}
