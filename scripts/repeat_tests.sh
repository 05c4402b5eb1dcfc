#!/usr/bin/env bash
# Runs the whole test suite 20 times by default: a test that fails in one of twenty runs is a fault, in the
# test or in the code under test. Several suites at once find more faults, because each suite gets less
# processor time.
#
#   ./scripts/repeat_tests.sh [RUNS, 20] [AT ONCE, 1]
#
# A run that fails leaves its whole output in target/repeat_tests/, seeds included.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
runs=${1:-20} at_once=${2:-1}
export logs=$PWD/target/repeat_tests
rm -rf "$logs"
mkdir -p "$logs"

cargo test --workspace --no-run --quiet

one_run() {
    local log=$logs/run_$1.log began=$SECONDS outcome=ok
    cargo test --workspace >"$log" 2>&1 || outcome=FAILED
    printf 'run %2d  %-6s  %3d s  load %s\n' "$1" "$outcome" $((SECONDS - began)) \
        "$(cut -d ' ' -f 1 /proc/loadavg 2>/dev/null || echo '?')"
    if [ "$outcome" = ok ]; then
        rm "$log"
    else
        grep -E '^test .* FAILED$|panicked at' "$log" || tail -n 5 "$log"
    fi
}
export -f one_run
seq "$runs" | xargs -P "$at_once" -I {} bash -c 'one_run {}'

failed=$(find "$logs" -name 'run_*.log' | wc -l)
printf '%d of %d runs failed\n' "$failed" "$runs"
[ "$failed" = 0 ]
