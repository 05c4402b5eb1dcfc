#!/usr/bin/env bash
# Compares game_server with other servers of the same protocol: CPU time for each delivered packet,
# throughput, latency and memory. Builds all programs, runs the servers of a case in turn (A B A B), and
# prints Markdown.
#
#   ./scripts/bench.sh                  the main cases, about three minutes
#   ./scripts/bench.sh full             every case, about half an hour, for a quiet machine
#   ./scripts/bench.sh smoke            a check that the benchmark works; its figures mean nothing
#   ./scripts/bench.sh full --list      the names of the cases
#   PROFILE=dev ./scripts/bench.sh smoke   the same without optimization, for a short build
#   PROGRAMS=folder ./scripts/bench.sh smoke   the same with all programs from this folder
#   BENCH_CASES="echo;saturate" ROUNDS=5 BENCH_JSON=bench.json ./scripts/bench.sh full
#
# The first lines of each program in scripts/bench/ say what the program does and why the comparison is fair.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

build
# In the same folder: the dependencies of both workspaces are built once.
[ -n "${PROGRAMS:-}" ] ||
    (cd "$repo/scripts/bench" && cargo build --quiet --profile "$profile" --locked --target-dir "$target")
"$bin/bench" --programs "$bin" --rivals "$bin" "$@"
