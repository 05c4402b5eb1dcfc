#!/usr/bin/env bash
# Plants bugs in a copy of this tree, one bug at a time: the bugs of the lecture, and bugs that the limits
# of the server once had. Fails unless a simulation, or a test of pacing or of the outbox, finds each bug
# and prints its cause. A simulation that misses a known bug does not prove that other bugs are absent.
#
#   ./scripts/plant_bugs.sh [SEEDS, 1500] [BUG...]      all bugs by default
#
# The bugs are the patches in server_core/tests/planted/. A patch that no longer applies is a failure: move
# the patch to where the code is now.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repo=$PWD
planted=$repo/server_core/tests/planted
export SIM_SEEDS=${1:-1500}
only=" ${*:2} "
export CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true
# The report names the cause; a backtrace of each panic would only hide it.
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

# The current state of the tree, with changes that are not committed.
commit=$(git stash create)
git worktree add --quiet --detach "$work/tree" "${commit:-HEAD}"

# The target folder is not the folder of scripts/simulate.sh: cargo detects changes by the age of the files,
# so simulate.sh could run a program that was built with a bug.
simulate() {
    (cd "$work/tree" && timeout 600 cargo test --release --locked --target-dir "$repo/target/planted" \
        --no-fail-fast -p server_core --test simulation --test cluster --test pacing --test outbox -- --skip a_seed_gives) >"$work/log" 2>&1
}

# find_bug BUG PATTERN: plants the bug, runs the tests, and searches their output for the pattern.
find_bug() {
    local bug=$1 pattern=$2 status=0
    [ -z "${only// /}" ] || [[ $only == *" $bug "* ]] || return 0
    git -C "$work/tree" apply "$planted/$bug.patch" || fail "$bug.patch does not apply any more"
    simulate || status=$?
    git -C "$work/tree" apply --reverse "$planted/$bug.patch"
    [ "$status" != 0 ] || fail "no test found $bug"
    [ "$status" != 124 ] || fail "$bug: no answer within ten minutes"
    grep -qE "$pattern" "$work/log" || fail "$bug: a test failed, but no line matches '$pattern'"
    printf '%-30s %s\n' "$bug" "$(grep -oE '[0-9]+ of [0-9]+ seeds failed' "$work/log" || (grep -q 'error\[E' "$work/log" && echo 'does not compile') || echo 'found')"
    printf '%-30s   %s\n' '' "$(grep -E "$pattern" "$work/log" | head -n 1 | sed 's/^ *//' | cut -c 1-110)"
}

simulate || fail "a test fails without a planted bug"
printf '%-30s passes\n' "nothing planted"

# Rows 48 to 54: a callback that may remove sessions runs while the server iterates over the list of
# sessions to flush. The lecture's own form, a removal inside the loop, does not compile.
find_bug erase_in_the_walk 'while a list was walked'
find_bug erase_in_the_walk_literally 'error\[E0(499|500|501|502|503|506)\]'
# Row 41 and the neighbouring code: the check for the smallest size is missing.
find_bug size_0 'BadSize: |round and round'
find_bug id_reuse 'SessionId.* was used before'
# The worker clears the mark after it reads the mailbox, and not before.
find_bug lost_wake 'worker [0-9#]+ sleeps on [0-9#]+ bytes of mail'
# Row 57: a queue keeps its chunks.
find_bug leaked_chunk '[0-9#]+ chunks are held while everybody rests'
# A session leaves the server and stays in its groups.
find_bug stale_member 'is In [0-9#:]+, and should be Out|[0-9#]+ members of '
# A worker may fill a sixteenth of a mailbox of 4 MiB. With the bug a callback posts without that limit.
find_bug unbounded_post 'a mailbox of [0-9#]+ bytes holds [0-9#]+'
# The server ends a session in the turn that puts its queue over the limit.
find_bug early_judge 'was ended|[0-9#]+ pieces'
# The bytes of an ended session stay in the count of all queued bytes.
find_bug leaked_total 'send_queue_bytes gauge'
# The server sends a packet from the link to other nodes back to the link.
find_bug link_echo 'a packet from the link goes out again'
# A flush ignores the bytes that the transport itself holds.
find_bug unflushed_transport 'sent [0-9#]+ pings, got [0-9#]+|has not got its ticket'
# An end of the stream that is pending counts as done.
find_bug cut_close 'was not told in band that the stream ends'
# The TLS driver forgets that the packets in the rest of a record are sealed, and seals them again.
find_bug double_seal 'was overtaken by|broadcast [0-9#]+ of [0-9#]+ after|direct packet [0-9#]+ of|echo [0-9#]+ in place'
# The prefix of a codec goes before each packet, and not before all bytes of one write.
find_bug split_run 'a prefix for [0-9#]+ bytes splits a run of [0-9#]+'
# The mask of a WebSocket frame begins anew with each piece of the frame.
find_bug restarted_mask 'left for a reason that nothing in the run explains'
# The read of a PROXY header takes bytes of the client, too.
find_bug greedy_header 'left for a reason that nothing in the run explains|sent [0-9#]+ echoes, got'
# A session has the address of its proxy, and not the address of its client.
find_bug address_of_the_proxy 'has another address than'
# A node that is cut off, or was paused, declares others dead by its own silence.
find_bug hasty_death 'declares .* dead'
# A kick ends a session that is newer than the login that the kick is for.
find_bug late_kick 'late_kick_ends_no_newer_login'
# A connection is lost between the login and the kick of the older session.
find_bug forgotten_doubt 'has [0-9#]+ sessions|login_whose_answer_is_lost.*FAILED'
# A link that connects again does not subscribe to its groups again.
find_bug forgotten_subscriptions 'listens to [0-9#]+ groups of [0-9#]+'
printf 'every planted bug was found\n'
