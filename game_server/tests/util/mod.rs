//! The helpers of the tests: the server as a child process, and clients that know bytes alone.
//!
//! A helper uses nothing of `game_server`, and of `server_core` only `testing`, which shares no type with
//! the framer: a framing bug on both sides would cancel out.

// The benchmark `hold` includes this module too, and uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod admin;
mod client;
mod server;

pub use client::*;
pub use server::*;
pub use server_core::testing::{DEADLINE, RawClient, RawPacket, header, packet};

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

/// Every disconnect reason of the contract.
pub const REASONS: &[&str] = &[
    "bad_size",
    "too_large",
    "unknown_id",
    "bad_payload",
    "packet_timeout",
    "slow_consumer",
    "rate_limit",
    "chat_flood",
    "server_full",
    "shutdown",
    "peer_closed",
    "peer_reset",
    "io_error",
    "idle",
    "login_timeout",
    "handshake",
    "logged_in_elsewhere",
    "kicked",
];

/// Waits until a condition holds. Fails if it does not within `deadline`.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    let give_up_at = Instant::now() + deadline;
    while !holds() {
        assert!(Instant::now() < give_up_at, "timed out waiting for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a socket can listen for IPv6 and IPv4 together. Otherwise prints that the test is not run.
pub fn has_ipv6() -> bool {
    let bound = TcpListener::bind("[::]:0");
    if let Err(error) = &bound {
        eprintln!("NOT RUN: IPv6: {error}");
    }
    bound.is_ok()
}

/// Random numbers from a printed seed. `TEST_SEED` sets the seed.
pub fn random() -> fastrand::Rng {
    let seed = match std::env::var("TEST_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => fastrand::u64(..),
    };
    println!("TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

pub fn random_bytes(random: &mut fastrand::Rng, count: usize) -> Vec<u8> {
    std::iter::repeat_with(|| random.u8(..))
        .take(count)
        .collect()
}
