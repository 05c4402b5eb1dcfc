//! Token buckets by address: a budget that survives a reconnect, in bounded memory.

use crate::base::rate_limiter::RateLimiter;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A [`RateLimiter`] for each address, shared by all threads.
///
/// A bucket keeps its state when its peer reconnects. The 2^64 addresses of one IPv6 network
/// share one bucket. An IPv4 address that is written as IPv6 counts as the IPv4 address.
///
/// Memory is bounded: 65,536 addresses ([`with_capacity`](Self::with_capacity) takes another number)
/// at about 45 bytes each, 3 MB in all, allocated when addresses come. The table consists of sets of
/// eight buckets. A keyed hash of the address selects the set, so a peer cannot choose it. A full
/// bucket holds no information and gives its place to the next address. If all eight buckets are in
/// debt, the next address does not displace one of them: the address draws from the overflow bucket of
/// the set. So a peer with many addresses cannot reset a budget by a change of address,
/// and all addresses together get at most 9/8 of `capacity` times the rate.
///
/// ```
/// # use server_core::AddressBudgets;
/// # use std::{net::IpAddr, time::Instant};
/// let (budgets, now) = (AddressBudgets::new(10), Instant::now());
/// let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
/// let taken = (0..100).filter(|_| budgets.take(one, now)).count();
/// assert_eq!(taken, 20, "a burst of twice the rate");
/// assert!(budgets.take(other, now), "another address has its own bucket");
/// ```
pub struct AddressBudgets {
    rate_per_sec: u32,
    hasher: RandomState,
    stripes: Box<[Mutex<Stripe>]>,
}

/// The sets behind one lock.
type Stripe = Box<[Option<Box<Set>>]>;

#[derive(Default)]
struct Set {
    places: [Option<(IpAddr, RateLimiter)>; PLACES],
    /// For addresses without a place.
    overflow: RateLimiter,
}

/// Buckets of one set.
const PLACES: usize = 8;
/// Locks of one table: two threads seldom want the same lock.
const STRIPES: usize = 64;
const DEFAULT_CAPACITY: usize = 65_536;

impl AddressBudgets {
    /// `rate_per_sec` events a second for each of 65,536 addresses, with a burst of twice that.
    ///
    /// A rate of zero never has a token.
    #[must_use]
    pub fn new(rate_per_sec: u32) -> Self {
        Self::with_capacity(rate_per_sec, DEFAULT_CAPACITY)
    }

    /// Like [`new`](Self::new), for another number of addresses, rounded up to a multiple of 512.
    #[must_use]
    pub fn with_capacity(rate_per_sec: u32, addresses: usize) -> Self {
        let sets = addresses.div_ceil(STRIPES * PLACES).max(1);
        let stripe = || Mutex::new((0..sets).map(|_| None).collect());
        Self {
            rate_per_sec,
            hasher: RandomState::new(),
            stripes: (0..STRIPES).map(|_| stripe()).collect(),
        }
    }

    /// The maximum number of addresses with a bucket of their own at a time.
    #[must_use]
    pub fn capacity(&self) -> usize {
        let stripe = self.stripes[0].lock();
        self.stripes.len() * stripe.unwrap_or_else(PoisonError::into_inner).len() * PLACES
    }

    /// Takes one token of the address's bucket, or returns `false` if the bucket is empty.
    pub fn take(&self, ip: IpAddr, now: Instant) -> bool {
        self.book(ip, Duration::ZERO, now).is_some()
    }

    /// Takes one token, or books the next token if it comes within `longest_wait`. Returns the time until
    /// the token comes. See [`RateLimiter::book`].
    pub fn book(&self, ip: IpAddr, longest_wait: Duration, now: Instant) -> Option<Duration> {
        let owner = owner_of(ip);
        let hash = self.hasher.hash_one(owner) as usize;
        let stripe = &self.stripes[hash % STRIPES];
        // Every change of a set is one assignment: a panic elsewhere cannot have torn it.
        let mut sets = stripe.lock().unwrap_or_else(PoisonError::into_inner);
        let set = hash / STRIPES % sets.len();
        let bucket = sets[set].get_or_insert_default().bucket_of(owner, now);
        bucket.book(self.rate_per_sec, longest_wait, now)
    }
}

impl Set {
    fn bucket_of(&mut self, owner: IpAddr, now: Instant) -> &mut RateLimiter {
        let is_its = |place: &Option<(IpAddr, _)>| place.is_some_and(|(ip, _)| ip == owner);
        let is_free =
            |place: &Option<(_, RateLimiter)>| place.is_none_or(|(_, bucket)| bucket.is_full(now));
        let places = &self.places;
        let index = (places.iter().position(is_its)).or_else(|| places.iter().position(is_free));
        let Some(index) = index else {
            return &mut self.overflow;
        };
        let place = &mut self.places[index];
        if !is_its(place) {
            *place = None;
        }
        &mut place.get_or_insert((owner, RateLimiter::default())).1
    }
}

impl fmt::Debug for AddressBudgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressBudgets")
            .field("rate_per_sec", &self.rate_per_sec)
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

/// The address by which a limit counts a peer: the first 64 bits of an IPv6 address. A customer has all
/// addresses with the same first 64 bits, and could use another address for each connection.
#[must_use]
pub fn owner_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const RATE: u32 = 5;
    const BURST: usize = 10;

    fn taken(budgets: &AddressBudgets, ip: &str, now: Instant) -> usize {
        let ip = ip.parse().unwrap();
        (0..100).filter(|_| budgets.take(ip, now)).count()
    }

    #[test]
    fn one_network_of_ipv6_has_one_budget_and_a_mapped_address_that_of_ipv4() {
        let (budgets, now) = (AddressBudgets::new(RATE), Instant::now());
        assert_eq!(taken(&budgets, "2001:db8:1:2::1", now), BURST);
        assert_eq!(taken(&budgets, "2001:db8:1:2:ffff::7", now), 0);
        assert_eq!(taken(&budgets, "2001:db8:1:3::1", now), BURST);
        assert_eq!(taken(&budgets, "10.0.0.1", now), BURST);
        assert_eq!(taken(&budgets, "::ffff:10.0.0.1", now), 0);
        assert_eq!(taken(&budgets, "::ffff:10.0.0.2", now), BURST);
        let later = now + Duration::from_secs(1);
        assert_eq!(taken(&budgets, "2001:db8:1:2::99", later), RATE as usize);
    }

    /// A million addresses in debt: no address gets its budget back, the first address included, and the
    /// table does not grow.
    #[test]
    fn many_addresses_neither_reset_a_budget_nor_exceed_the_table() {
        let (budgets, now) = (AddressBudgets::with_capacity(RATE, 1_000), Instant::now());
        assert_eq!(budgets.capacity(), 1_024);
        assert_eq!(taken(&budgets, "192.0.2.1", now), BURST);
        let mut total = 0;
        for bits in 0..1_000_000_u32 {
            let ip = Ipv4Addr::from_bits(0x0a00_0000 | bits).into();
            total += usize::from(budgets.take(ip, now));
        }
        let buckets = budgets.capacity() / PLACES * (PLACES + 1);
        assert!(total <= buckets * BURST, "{total} tokens");
        assert!(total > budgets.capacity(), "{total} tokens");
        assert_eq!(taken(&budgets, "192.0.2.1", now), 0);
        // Two seconds later every bucket is full again, and a new address gets a place.
        let later = now + Duration::from_secs(2);
        assert_eq!(taken(&budgets, "192.0.2.7", later), BURST);
        assert_eq!(taken(&budgets, "192.0.2.1", later), BURST);
    }

    #[test]
    fn threads_share_one_budget() {
        let (budgets, now) = (AddressBudgets::new(RATE), Instant::now());
        let total: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| taken(&budgets, "192.0.2.1", now)))
                .collect();
            threads.into_iter().map(|one| one.join().unwrap()).sum()
        });
        assert_eq!(total, BURST);
    }

    #[test]
    fn an_address_costs_no_more_than_the_documentation_says() {
        assert!(size_of::<Set>() / PLACES <= 45, "{}", size_of::<Set>());
    }
}
