//! HOST:PORT from a command line.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};

/// HOST:PORT from a command line, and its addresses. A name may have several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    text: String,
    /// At least one.
    addrs: Vec<SocketAddr>,
}

impl Addresses {
    /// All addresses, in the order in which a program tries them.
    #[must_use]
    pub fn all(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The first address.
    #[must_use]
    pub fn first(&self) -> SocketAddr {
        self.addrs[0]
    }

    /// Whether the name has more than one address.
    #[must_use]
    pub fn are_several(&self) -> bool {
        self.addrs.len() > 1
    }

    /// Moves this address to the front.
    pub fn prefer(&mut self, addr: SocketAddr) {
        self.addrs.retain(|other| *other != addr);
        self.addrs.insert(0, addr);
    }
}

/// One address.
impl From<SocketAddr> for Addresses {
    fn from(addr: SocketAddr) -> Self {
        Self {
            text: addr.to_string(),
            addrs: vec![addr],
        }
    }
}

/// The text of the command line, followed by the addresses of a name that has several.
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

/// Reads HOST:PORT from the command line and looks up a name.
///
/// # Errors
/// The text is not HOST:PORT, or the name has no address. The message is for the user.
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
    if addrs.is_empty() {
        return Err("the name has no address".into());
    }
    Ok(Addresses {
        text: text.into(),
        addrs,
    })
}

/// Like [`parse_addrs`], and takes the first address of a name.
///
/// # Errors
/// Errors of [`parse_addrs`].
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
