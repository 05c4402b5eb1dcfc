#!/usr/bin/env bash
# Checks memory and concurrency. loom explores every interleaving of the threads in the chunk pool and the
# mailbox. AddressSanitizer checks the send buffer's tests, the property tests of the chunk pool, the send
# queue and the connection, and the simulation. Miri checks the send buffer's tests, if the toolchain has
# Miri.
#
#   ./scripts/sanitize.sh [loom|address|miri ...]     all of them by default
#   SIM_SEEDS=2000 ./scripts/sanitize.sh address
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=$(rustc -vV | sed -n 's/^host: //p')
[ $# -gt 0 ] || set -- loom address miri

loom() {
    RUSTFLAGS="--cfg loom" cargo test --locked -p server_core --features testing --test loom --target-dir target/loom
}

# The sanitizers are unstable flags of a stable compiler.
address() {
    export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address
    local cargo_test=(cargo test --locked -p server_core --target "$target" --target-dir target/address)
    "${cargo_test[@]}" --lib send_
    "${cargo_test[@]}" --test properties -- chunk_pool send_queue connection
    SIM_SEEDS=${SIM_SEEDS:-500} "${cargo_test[@]}" --test simulation
}

miri() {
    if ! cargo miri --version >/dev/null 2>&1; then
        echo "this toolchain has no Miri: skipped"
        return
    fi
    RUSTC_BOOTSTRAP=1 cargo miri test -p server_core --lib send_buffer
}

for check in "$@"; do
    printf '\n== %s\n' "$check"
    # Each check runs in a subshell, so that its flags do not reach the next check.
    (case $check in
        loom | address | miri) "$check" ;;
        *) echo "no such check: $check" >&2 && exit 2 ;;
    esac)
done
