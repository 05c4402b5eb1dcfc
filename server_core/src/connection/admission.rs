//! Admission of connections, and the choice of their workers. Dropping a permit gives its place back.

use crate::base::address_budgets::owner_of;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts the sessions of a server: in all, by worker and, if asked to, by address.
#[derive(Debug)]
pub struct Admission {
    total: AtomicUsize,
    max_total: usize,
    /// Admitted, and not yet taken over by a worker.
    in_transit: AtomicUsize,
    by_worker: Box<[AtomicUsize]>,
    by_ip: Option<ByIp>,
}

#[derive(Debug)]
struct ByIp {
    max: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// The right of one connection to a place. The listener takes it at accept, it travels with the connection,
/// and dropping it gives the place back, on every path.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    slot: Slot,
}

/// The address of the peer, and the worker. Every session has a slot: the long address is elsewhere.
#[derive(Debug)]
enum Slot {
    V4(SocketAddrV4, u8),
    V6(Box<SocketAddrV6>, u8),
}

impl Admission {
    /// Room for `max_total` sessions, `max_per_ip` of each address.
    ///
    /// # Panics
    /// If there are no workers, or more than a [`SessionId`](crate::base::id::SessionId) can name.
    #[must_use]
    pub fn new(workers: usize, max_total: Option<usize>, max_per_ip: Option<usize>) -> Self {
        assert!((1..=crate::base::id::SessionId::MAX_WORKERS).contains(&workers));
        Self {
            total: AtomicUsize::new(0),
            max_total: max_total.unwrap_or(usize::MAX),
            in_transit: AtomicUsize::new(0),
            by_worker: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            by_ip: max_per_ip.map(|max| ByIp {
                max,
                counts: Mutex::default(),
            }),
        }
    }

    /// A place on the worker with the fewest sessions, or `None` if the server is full for this
    /// peer.
    #[must_use]
    pub fn admit(self: &Arc<Self>, peer: SocketAddr) -> Option<Permit> {
        self.total
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |total| {
                (total < self.max_total).then_some(total + 1)
            })
            .ok()?;
        if let Some(by_ip) = &self.by_ip
            && !by_ip.enter(peer.ip())
        {
            self.total.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        self.in_transit.fetch_add(1, Ordering::AcqRel);
        Some(self.slot(peer))
    }

    /// A worker has taken over this many connections, and has ended the sessions that had to
    /// give way.
    pub fn settle(&self, connections: usize) {
        self.in_transit.fetch_sub(connections, Ordering::AcqRel);
    }

    /// Whether all places are taken and a worker may be about to free some of them.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.free() == 0 && self.in_transit.load(Ordering::Acquire) > 0
    }

    /// A place that no limit can refuse: for connections that we ourselves make.
    #[must_use]
    pub fn admit_outgoing(self: &Arc<Self>, peer: SocketAddr) -> Permit {
        self.total.fetch_add(1, Ordering::AcqRel);
        if let Some(by_ip) = &self.by_ip {
            *by_ip.counts().entry(owner_of(peer.ip())).or_default() += 1;
        }
        self.slot(peer)
    }

    /// Permits that are out.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total.load(Ordering::Acquire)
    }

    /// Places that are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.max_total.saturating_sub(self.total())
    }

    fn slot(self: &Arc<Self>, peer: SocketAddr) -> Permit {
        let (worker, load) = self
            .by_worker
            .iter()
            .enumerate()
            .min_by_key(|(_, load)| load.load(Ordering::Acquire))
            .expect("there is at least one worker: `new` asserts it");
        load.fetch_add(1, Ordering::AcqRel);
        Permit {
            admission: Arc::clone(self),
            slot: match peer {
                SocketAddr::V4(addr) => Slot::V4(addr, worker as u8),
                SocketAddr::V6(addr) => Slot::V6(Box::new(addr), worker as u8),
            },
        }
    }
}

impl ByIp {
    fn enter(&self, ip: IpAddr) -> bool {
        let (mut counts, ip) = (self.counts(), owner_of(ip));
        let count = counts.entry(ip).or_default();
        let welcome = *count < self.max;
        *count += usize::from(welcome);
        if *count == 0 {
            counts.remove(&ip);
        }
        welcome
    }

    fn leave(&self, ip: IpAddr) {
        let (mut counts, ip) = (self.counts(), owner_of(ip));
        if let Some(count) = counts.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&ip);
            }
        }
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Counts are changed in one step each: a panic elsewhere cannot have torn them.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// The address of the peer.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        match &self.slot {
            Slot::V4(addr, _) => (*addr).into(),
            Slot::V6(addr, _) => (**addr).into(),
        }
    }

    /// The admission that has given the permit.
    #[must_use]
    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// The worker on which the place is.
    #[must_use]
    pub fn worker(&self) -> usize {
        let (Slot::V4(_, worker) | Slot::V6(_, worker)) = &self.slot;
        usize::from(*worker)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(by_ip) = &self.admission.by_ip {
            by_ip.leave(self.peer().ip());
        }
        self.admission.by_worker[self.worker()].fetch_sub(1, Ordering::AcqRel);
        self.admission.total.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], 1))
    }

    #[test]
    fn full_until_a_permit_is_dropped() {
        let admission = Arc::new(Admission::new(2, Some(2), None));
        let first = admission.admit(peer(1)).unwrap();
        let _second = admission.admit(peer(1)).unwrap();
        assert!(admission.admit(peer(2)).is_none());
        drop(first);
        assert!(admission.admit(peer(2)).is_some());
        assert_eq!(admission.total(), 1);
    }

    #[test]
    fn one_address_cannot_take_all() {
        let admission = Arc::new(Admission::new(1, None, Some(2)));
        let taken: Vec<_> = (0..5).filter_map(|_| admission.admit(peer(1))).collect();
        assert_eq!(taken.len(), 2);
        assert!(admission.admit(peer(2)).is_some());
        drop(taken);
        assert_eq!(admission.total(), 0);
        assert!(admission.admit(peer(1)).is_some());
    }

    #[test]
    fn one_network_of_ipv6_is_one_address() {
        let admission = Arc::new(Admission::new(1, None, Some(2)));
        let admit = |ip: &str| admission.admit(SocketAddr::new(ip.parse().unwrap(), 1));
        let first = admit("2001:db8:1:2::1").unwrap();
        let _second = admit("2001:db8:1:2:ffff::7").unwrap();
        assert!(admit("2001:db8:1:2:aaaa:bbbb:cccc:dddd").is_none());
        let _neighbour = admit("2001:db8:1:3::1").unwrap();
        drop(first);
        let _third = admit("2001:db8:1:2::9").unwrap();
        // Where one socket listens for both, IPv4 comes in the clothes of IPv6.
        let _mapped = [admit("::ffff:10.0.0.1"), admit("::ffff:10.0.0.2")].map(Option::unwrap);
        let _same = admit("10.0.0.1").unwrap();
        assert!(admit("::ffff:10.0.0.1").is_none());
        assert!(admit("::1").is_some());
    }

    #[test]
    fn the_least_loaded_worker_is_next() {
        let admission = Arc::new(Admission::new(3, None, None));
        let permits: Vec<_> = (0..6).map(|_| admission.admit(peer(1)).unwrap()).collect();
        let workers: Vec<usize> = permits.iter().map(Permit::worker).collect();
        assert_eq!(workers, [0, 1, 2, 0, 1, 2]);
        let mut permits = permits;
        permits.remove(1);
        assert_eq!(admission.admit(peer(1)).unwrap().worker(), 1);
    }
}
