#!/usr/bin/env bash
# Runs three loads at once for a bounded time: a healthy group with echoes and chats that must lose
# nothing, a group with churn, and one attack after the other. The server's memory in the second half must
# be within 10 % + 4 MiB of the first half. At the end the server must not hold more descriptors than after
# the warm-up, nor more than four live chunks.
#
#   ./scripts/soak.sh            ten minutes
#   SECS=60 ./scripts/soak.sh    a short turn
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
secs=${SECS:-600}
attacks=(zero-size short-size huge-size unknown-id server-id id-sweep bad-utf8 slowloris no-read
    echo-flood chat-flood rst-storm half-close connect-flood garbage chat-churn chat-burst
    ask-and-not-read silent-flood)

build
# The attackers have an address of their own, and the budget of the healthy address is enough for its 10 chats a second.
start_server server --stats-interval-secs 0.5 --tick-ms 100
chunks() { sed -n 's/.* chunks live \([0-9]*\) .*/\1/p' "$server_log" | tail -n 1; }

# The warm-up brings memory to its working size before the first comparison.
start_client warm-up --count 300 --echo-hz 5 --duration-secs 3 --log-sessions 0
end_of 60 "$client_pid" || fail "the client of the warm-up failed"
until_true 20 "the warm-up to disconnect" sessions_are 0
resting_descriptors=$(descriptors_of "$server_pid")

say "100 healthy sessions, 100 that come and go, and attacks in turn, for $secs s"
start_client healthy --count 100 --echo-hz 5 --chat-hz 0.1 --log-sessions 0 --duration-secs "$secs" \
    --assert 'lost==0'
healthy_pid=$client_pid
start_client churning --count 100 --echo-hz 5 --churn-ms 100..3000 --log-sessions 0 \
    --duration-secs "$secs"
churning_pid=$client_pid
started=$SECONDS
first_half_kib=0 second_half_kib=0 most_chunks=0 turn=0
while ((SECONDS - started < secs - 8)); do
    attack=${attacks[$((turn++ % ${#attacks[@]}))]}
    # The exit status of the attack is ignored: scripts/attack.sh tests the verdicts.
    start_client "attack" --count 1 --attack "$attack" --duration-secs 8 --log-sessions 0
    attack_pid=$client_pid
    while is_running "$attack_pid"; do
        sleep 0.5
        is_running "$server_pid" || fail "the server has died under $attack"
        kib=$(kib_of "$server_pid")
        elapsed=$((SECONDS - started))
        if ((elapsed < secs / 2)); then
            ((kib > first_half_kib)) && first_half_kib=$kib
        else
            ((kib > second_half_kib)) && second_half_kib=$kib
            live=$(chunks)
            ((live > most_chunks)) && most_chunks=$live
        fi
    done
    printf '\r%4d of %d s, %s MB, %s chunks live, %-14s' "$((SECONDS - started))" "$secs" \
        "$(($(kib_of "$server_pid") / 1024))" "$(chunks)" "$attack"
done
printf '\n'
for group in healthy churning; do
    pid_name="${group}_pid"
    status=0
    end_of 60 "${!pid_name}" || status=$?
    say "$group"
    cat "$work/$group.out"
    [ "$status" = 0 ] || fail "the $group group ended with status $status"
done
until_true 30 "all sessions to disconnect" sessions_are 0
printf '\nmost memory: %s KiB in the first half, %s in the second; most chunks live: %s, %s now; descriptors %s, %s before\n' \
    "$first_half_kib" "$second_half_kib" "$most_chunks" "$(chunks)" \
    "$(descriptors_of "$server_pid")" "$resting_descriptors"
[ "$second_half_kib" -le $((first_half_kib + first_half_kib / 10 + 4096)) ] || fail "memory grows"
back() { [ "$(descriptors_of "$server_pid")" -le "$resting_descriptors" ]; }
until_true 10 "the descriptors to be closed" back
[ "$(chunks)" -le 4 ] || fail "live chunks leak"
kill -TERM "$server_pid"
end_of 60 "$server_pid" || fail "the server did not exit with status 0"
printf '\nPASS\n'
