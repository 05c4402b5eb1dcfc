#!/usr/bin/env bash
# Type-checks what users build, the libraries and the programs with all features, with the oldest Rust that Cargo.toml
# names (rust-version). Tests, examples and benchmarks need crates of their own, which may need a newer Rust.
# Installs that toolchain with rustup if it is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
oldest=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml).0
if ! cargo "+$oldest" --version 2>/dev/null &&
    ! rustup toolchain install "$oldest" --profile minimal --no-self-update; then
    echo "NOT CHECKED: Rust $oldest could not be installed" >&2
    exit 69 # EX_UNAVAILABLE: no check ran.
fi
cargo "+$oldest" check --workspace --lib --bins --all-features --locked --target-dir target/msrv
