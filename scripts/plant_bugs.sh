#!/usr/bin/env bash
# Plants bugs, one after the other, in a copy of this tree: those of the lecture, and those that its
# limits once had. Demands that the simulation, or a test of pacing or of the outbox, finds each and
# says what is wrong. A machine that searches for faults is worth what it finds.
#
#   ./scripts/plant_bugs.sh [SEEDS, 1500]
#
# The bugs are the patches in server_core/tests/planted/. One that no longer applies is a failure:
# move it to where the code has gone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repo=$PWD
planted=$repo/server_core/tests/planted
export SIM_SEEDS=${1:-1500}
export CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true
# The cause is in the report; a trace of each panic would only bury it.
export RUST_BACKTRACE=0
unset TEST_SEED

work=$(mktemp -d)
clean_up() {
    git -C "$repo" worktree remove --force "$work/tree" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    tail -n 30 "$work/log" >&2 || true
    exit 1
}

# What stands here now, committed or not.
commit=$(git stash create)
git worktree add --quiet --detach "$work/tree" "${commit:-HEAD}"

# A folder of its own: cargo tells trees apart by the age of their files, so what was built here with a
# bug would be taken for scripts/simulate.sh's.
simulate() {
    (cd "$work/tree" && timeout 600 cargo test --release --locked --target-dir "$repo/target/planted" \
        --no-fail-fast -p server_core --test simulation --test pacing --test outbox -- --skip a_seed_gives) >"$work/log" 2>&1
}

# find_bug BUG PATTERN: plants it, and looks for the pattern in what is said.
find_bug() {
    local bug=$1 pattern=$2 status=0
    git -C "$work/tree" apply "$planted/$bug.patch" || fail "$bug.patch does not apply any more"
    simulate || status=$?
    git -C "$work/tree" apply --reverse "$planted/$bug.patch"
    [ "$status" != 0 ] || fail "$bug was planted, and not found"
    [ "$status" != 124 ] || fail "$bug: no answer within ten minutes"
    grep -qE "$pattern" "$work/log" || fail "$bug: something failed, but nothing says '$pattern'"
    printf '%-30s %s\n' "$bug" "$(grep -oE '[0-9]+ of [0-9]+ seeds failed' "$work/log" || (grep -q 'error\[E' "$work/log" && echo 'does not compile') || echo 'found')"
    printf '%-30s   %s\n' '' "$(grep -E "$pattern" "$work/log" | head -n 1 | sed 's/^ *//' | cut -c 1-110)"
}

simulate || fail "it fails with nothing planted"
printf '%-30s passes\n' "nothing planted"

# Rows 48 to 54: a callback that may remove runs while the list of those to flush is walked. As the
# lecture has it, a removal inside the walk itself, it does not compile.
find_bug erase_in_the_walk 'while a list was walked'
find_bug erase_in_the_walk_literally 'error\[E0(499|500|501|502|503|506)\]'
# Row 41 and the neighbouring pieces: no lower check of the size.
find_bug size_0 'BadSize: |round and round'
find_bug id_reuse 'SessionId.* was used before'
# The mark is cleared after the look at the mailbox, and not before it.
find_bug lost_wake 'worker [0-9]+ sleeps on [0-9]+ bytes of mail'
# Row 57: a queue that holds its chunks.
find_bug leaked_chunk '[0-9]+ chunks are held while everybody rests'
# Somebody leaves the server and stays in its groups.
find_bug stale_member 'is In [0-9:]+, and should be Out|[0-9]+ members of '
# A mailbox of 4 MiB of which a worker may fill a sixteenth; a callback that posts whatever is in it.
find_bug unbounded_post 'a mailbox of [0-9]+ bytes holds [0-9]+'
# A queue over its limit ends the session in the turn that has filled it.
find_bug early_judge 'was ended|[0-9]+ pieces'
# The bytes of a session that is ended stay in the count of all that wait.
find_bug leaked_total 'send_queue_bytes gauge'
# A packet that came from the link to other nodes is given to the link.
find_bug link_echo 'a packet from the link goes out again'
# The flush forgets the bytes that the transport itself holds.
find_bug unflushed_transport 'sent [0-9]+ pings, got [0-9]+|has not got its ticket'
# An end of the stream that is pending counts as done.
find_bug cut_close 'was not told in band that the stream ends'
# A codec's prefix goes before each packet, and not before what one write has to offer.
find_bug split_run 'a prefix for [0-9]+ bytes splits a run of [0-9]+'
printf 'each of them was found\n'
