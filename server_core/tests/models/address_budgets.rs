//! The budgets of addresses, compared with a map of rate limiters.

use server_core::AddressBudgets;
use server_core::rate_limiter::RateLimiter;
use server_core::testing::FakeClock;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// An owner takes a token, from any of its addresses.
    Take(usize, u64),
    /// This number of milliseconds passes.
    Pass(u64),
}

/// The budgets, and the rate limiter that each owner should have.
pub struct Machine {
    budgets: AddressBudgets,
    rate: u32,
    owners: usize,
    model: HashMap<usize, RateLimiter>,
    /// The number of tokens that each owner has got.
    taken: HashMap<usize, u64>,
    clock: FakeClock,
}

/// Up to this number of owners, each has a place in any set.
const FEW: usize = 8;

impl Machine {
    pub fn new(rate: u32, owners: usize) -> Self {
        Self {
            budgets: AddressBudgets::with_capacity(rate, 1),
            rate,
            owners,
            model: HashMap::new(),
            taken: HashMap::new(),
            clock: FakeClock::new(),
        }
    }

    pub fn step(&mut self, step: Step) {
        match step {
            Step::Pass(millis) => self.clock.advance(Duration::from_millis(millis)),
            Step::Take(owner, host) => {
                let owner = owner % self.owners;
                let taken = self.budgets.take(address_of(owner, host), self.clock.now());
                if self.owners <= FEW {
                    let limiter = self.model.entry(owner).or_default();
                    assert_eq!(
                        taken,
                        limiter.take(self.rate, self.clock.now()),
                        "owner {owner}"
                    );
                }
                let count = self.taken.entry(owner).or_default();
                *count += u64::from(taken);
                // The owner's bucket, and the bucket that owners without a place share.
                let seconds = self.clock.elapsed().as_secs_f64();
                let allowed = 2.0 * f64::from(self.rate) * (2.0 + seconds);
                assert!(*count as f64 <= allowed, "owner {owner} got {count}");
            }
        }
    }
}

/// Every third owner has an IPv4 address. Each other owner has an IPv6 network.
fn address_of(owner: usize, host: u64) -> IpAddr {
    match owner % 3 {
        0 => {
            let ip = Ipv4Addr::from_bits(owner as u32);
            match host % 2 {
                0 => ip.into(),
                _ => ip.to_ipv6_mapped().into(),
            }
        }
        _ => Ipv6Addr::from_bits((0x2001_0db8 << 96) | ((owner as u128) << 64) | u128::from(host))
            .into(),
    }
}
