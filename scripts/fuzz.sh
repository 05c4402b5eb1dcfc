#!/usr/bin/env bash
# Fuzzes the framer, the translation of other framings, WebSocket, the TLS driver, the parser of PROXY headers, the
# link to the broker of a cluster, the send queue, the session table, the chunk pool and a whole connection of
# server_core under libFuzzer, each target for a bounded time. A target begins with the seeds in
# server_core/fuzz/seeds and with the inputs that earlier runs have found
# (server_core/fuzz/corpus, which is not committed).
#
#   ./scripts/fuzz.sh [SECONDS per target, 60]
#   ./scripts/fuzz.sh build                           builds the targets, and runs none
#   TARGETS="framer connection" ./scripts/fuzz.sh 600
#
# The script installs cargo-fuzz if it is missing. A stable toolchain is enough.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../server_core"

seconds=${1:-60}
targets=${TARGETS:-framer framing websocket tls_driver proxy_header cluster_link send_queue session_table chunk_pool
    connection}

# libFuzzer and the sanitizers need unstable flags of the compiler, and no other unstable feature: the
# toolchain that builds the server builds the targets too.
export RUSTC_BOOTSTRAP=1

if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "installing cargo-fuzz"
    if ! cargo install cargo-fuzz --locked --quiet; then
        echo "NOT FUZZED: cargo-fuzz could not be installed" >&2
        exit 69 # EX_UNAVAILABLE: no target ran.
    fi
fi

# An outdated lock file is an error here; cargo-fuzz would update the file without a message.
cargo fetch --locked --quiet --manifest-path fuzz/Cargo.toml

sanitizer=address
if ! cargo fuzz build --sanitizer "$sanitizer"; then
    echo "AddressSanitizer does not work here: fuzzing without it" >&2
    sanitizer=none
    cargo fuzz build --sanitizer "$sanitizer"
fi

[ "$seconds" != build ] || exit 0

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
export seconds sanitizer logs
# fuzz TARGET: fuzzes one target, and prints its figures.
fuzz() {
    local target=$1 log=$logs/$1 input
    mkdir -p "fuzz/corpus/$target"
    if ! cargo fuzz run --sanitizer "$sanitizer" "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1; then
        cat "$log" >&2
        input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        input=${input#"$PWD/"}
        printf 'FAILED: %s\n' "$target" >&2
        printf 'repeat with: (cd server_core && RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer %s %s %s)\n' \
            "$sanitizer" "$target" "${input:-fuzz/artifacts/$target/...}" >&2
        return 1
    fi
    printf '\n== %s for %s s\n' "$target" "$seconds"
    grep -E '^(Done|stat::(number_of_executed_units|average_exec_per_sec|peak_rss_mb)|#[0-9]+.DONE)' "$log"
}
export -f fuzz
# A target uses one processor.
# shellcheck disable=SC2086 # The targets are words.
printf '%s\n' $targets | xargs -P "$(getconf _NPROCESSORS_ONLN)" -I {} bash -c 'set -eo pipefail; fuzz {}'
printf '\nno target found a fault (%s s each, sanitizer %s)\n' "$seconds" "$sanitizer"
