#!/usr/bin/env bash
# game_server beside other servers of the same protocol: CPU time for each delivered packet, and more.
# Builds everything, runs the cases in turn (A B A B), prints Markdown.
#
#   ./scripts/bench.sh                  the main cases, about three minutes
#   ./scripts/bench.sh full             every case, about half an hour, for a quiet machine
#   ./scripts/bench.sh smoke            only whether it works
#   ./scripts/bench.sh full --list      the names of the cases
#   BENCH_CASES="echo;saturate" ROUNDS=5 BENCH_JSON=bench.json ./scripts/bench.sh full
#
# What the programs in scripts/bench/ are, and why this is fair: the first lines of each.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

PROFILE=release build
rivals="$target/bench"
(cd "$repo/scripts/bench" && cargo build --quiet --release --locked --target-dir "$rivals")
"$rivals/release/bench" --programs "$bin" --rivals "$rivals/release" "$@"
