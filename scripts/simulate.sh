#!/usr/bin/env bash
# Simulates whole servers over fake connections, a fake listener and a fake clock, one per seed:
# partial reads and writes, resets in every call, no descriptors left, lost and spurious events,
# clock jumps, handlers that do everything from every callback, a shutdown at any moment.
#
#   ./scripts/simulate.sh [SEEDS, 100000]
#   TEST_SEED=7 ./scripts/simulate.sh           seed 7 alone
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export SIM_SEEDS=${1:-100000}
# A release build with debug assertions: it needs a target folder of its own.
export CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true
cargo test --release --locked --target-dir target/simulation \
    -p server_core --test simulation any_seed -- --nocapture
