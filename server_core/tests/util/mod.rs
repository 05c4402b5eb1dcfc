//! What several test files need.
#![allow(dead_code)] // Each test file uses a part of it.

pub mod chat;
pub mod recorder;

/// The seed of a random test: `TEST_SEED` if it is set, else a new one. It is printed, and shown
/// when the test fails.
pub fn seed(test: &str) -> u64 {
    let given = std::env::var("TEST_SEED").ok();
    let seed = given.map_or_else(
        || fastrand::u64(..),
        |text| text.parse().expect("TEST_SEED is a number"),
    );
    println!("{test}: replay with TEST_SEED={seed}");
    seed
}
