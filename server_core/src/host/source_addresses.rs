//! Local addresses of the connections to one target.

use std::net::{IpAddr, Ipv4Addr};

/// Spreads connections over enough source addresses for their ports.
///
/// Both addresses and both ports identify a connection, so one source address has one connection to one
/// target for each ephemeral port. All of 127.0.0.0/8 is the loopback interface: for a target in this
/// network, each of 127.0.0.2, 127.0.0.3 and so on has as many ports as 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceAddresses {
    pub(super) target: IpAddr,
    pub(super) connections: usize,
    /// Addresses in use at a time.
    pub(super) addresses: u32,
    /// Number of calls of `rotate`, modulo `rounds`.
    round: u32,
    rounds: u32,
}

/// 127.0.0.1 to 127.255.255.254.
const LOOPBACK_ADDRESSES: u32 = (1 << 24) - 2;
/// A port waits in TIME_WAIT for a minute at most, so the ports of an earlier round are free again when
/// the round returns.
const ROUNDS: u32 = 16;

impl SourceAddresses {
    /// Plans for this number of connections at a time and this number of ports on one address.
    #[must_use]
    pub fn plan(target: IpAddr, connections: usize, ports: Option<u64>) -> Self {
        let (addresses, rounds) = match (target, ports) {
            (IpAddr::V4(ip), Some(ports)) if ip.is_loopback() => {
                let addresses = (connections as u64).div_ceil(comfortable(ports).max(1));
                let most = u64::from(LOOPBACK_ADDRESSES / ROUNDS);
                (addresses.clamp(1, most) as u32, ROUNDS)
            }
            // A system that does not tell its ports may not have all of 127.0.0.0/8 either.
            _ => (1, 1),
        };
        Self {
            target,
            connections,
            addresses,
            round: 0,
            rounds,
        }
    }

    /// The address to bind for the connection of this number. `None`: the system chooses.
    #[must_use]
    pub fn source(&self, index: usize) -> Option<IpAddr> {
        let offset = (index % self.addresses as usize) as u32 + self.round * self.addresses;
        (offset > 0).then(|| nth_loopback(offset).into())
    }

    /// Takes the next addresses, after one of the present addresses had no free port, whichever program holds
    /// the ports. Returns the number of rounds after which the same addresses return.
    pub fn rotate(&mut self) -> u32 {
        self.round = (self.round + 1) % self.rounds;
        self.rounds
    }

    /// The last of the addresses, if there are several.
    #[must_use]
    pub fn last_address(&self) -> Option<Ipv4Addr> {
        (self.addresses > 1).then(|| nth_loopback(self.addresses - 1))
    }
}

/// The ports to count on, nine tenths. The rest is for other programs, for listeners within the range, and
/// for connections in TIME_WAIT.
#[must_use]
pub fn comfortable(ports: u64) -> u64 {
    ports - ports / 10
}

fn nth_loopback(offset: u32) -> Ipv4Addr {
    (u32::from(Ipv4Addr::LOCALHOST) + offset).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};
    use std::net::Ipv6Addr;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn few_connections_are_left_to_the_system() {
        let sources = SourceAddresses::plan(HERE, 450, Some(500));
        assert_eq!((sources.addresses, sources.last_address()), (1, None));
        assert!((0..450).all(|index| sources.source(index).is_none()));
    }

    #[test]
    fn many_are_spread_and_no_address_has_more_than_its_ports() {
        for (connections, ports) in [(451, 500), (2000, 500), (100_000, 28_232), (1000, 1)] {
            let sources = SourceAddresses::plan(HERE, connections, Some(ports));
            let mut loads = HashMap::new();
            for index in 0..connections {
                *loads.entry(sources.source(index)).or_insert(0) += 1;
            }
            assert_eq!(loads.len(), sources.addresses as usize);
            assert!(loads.values().all(|load| *load <= comfortable(ports)));
        }
        let sources = SourceAddresses::plan(HERE, 2000, Some(500));
        assert_eq!(sources.source(0), None);
        assert_eq!(sources.source(1), Some([127, 0, 0, 2].into()));
        assert_eq!(sources.source(4), Some([127, 0, 0, 5].into()));
        assert_eq!(sources.source(5), None);
        assert_eq!(sources.last_address(), Some([127, 0, 0, 5].into()));
    }

    #[test]
    fn addresses_without_ports_are_left_for_others_and_come_again() {
        let mut sources = SourceAddresses::plan(HERE, 2000, Some(500));
        let planned: Vec<_> = (0..2000).map(|index| sources.source(index)).collect();
        let mut seen: HashSet<_> = planned.iter().copied().collect();
        for _ in 1..sources.rotate() {
            let others: HashSet<_> = (0..2000).map(|index| sources.source(index)).collect();
            assert!(seen.is_disjoint(&others));
            seen.extend(others);
            sources.rotate();
        }
        assert!((0..2000).map(|index| sources.source(index)).eq(planned));
        let mut alone = SourceAddresses::plan([10, 0, 0, 1].into(), 2000, Some(500));
        assert_eq!((alone.rotate(), alone.source(7)), (1, None));
    }

    #[test]
    fn others_have_one_address() {
        for target in [IpAddr::V6(Ipv6Addr::LOCALHOST), [10, 0, 0, 1].into()] {
            assert_eq!(SourceAddresses::plan(target, 2000, Some(500)).addresses, 1);
        }
        assert_eq!(SourceAddresses::plan(HERE, 2000, None).addresses, 1);
    }

    #[test]
    fn every_address_lies_in_the_loopback_net() {
        let mut sources = SourceAddresses::plan(HERE, usize::MAX, Some(0));
        for _ in 0..sources.rotate() {
            let last = sources.addresses as usize - 1;
            assert!(sources.source(last).is_none_or(|ip| ip.is_loopback()));
            assert!(sources.source(usize::MAX).is_none_or(|ip| ip.is_loopback()));
            sources.rotate();
        }
    }
}
