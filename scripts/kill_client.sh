#!/usr/bin/env bash
# Provokes the lecture's crash: SIGKILL ends the process of 1,000 clients in the middle of a broadcast, in
# 50 rounds. After each round the server must be alive, must have 0 sessions, and must serve a new client
# without a missing tick. At the end the server's memory must be within 10 % + 4 MiB of its value after
# round 3, and the server must not hold more descriptors than after round 3.
#
#   ROUNDS=50 COUNT=1000 TICK_MS=20 ./scripts/kill_client.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
rounds=${ROUNDS:-50}
count=${COUNT:-1000}
tick_ms=${TICK_MS:-20}

has_ticks() { [ "$(grep -c 'Hello World' "$client_log")" -ge 10 ]; }

build
start_server server --tick-ms "$tick_ms" --stats-interval-secs 0.2
say "$rounds rounds: $count clients, a tick every $tick_ms ms, kill -9"
for ((round = 1; round <= rounds; round++)); do
    start_client "victims-$round" --count "$count" --log-sessions 0
    until_true 20 "round $round: $count sessions" sessions_are "$count"
    # A different moment of the tick in each round.
    sleep "0.0$((RANDOM % 90 + 10))"
    kill_hard "$client_pid"
    until_true 20 "round $round: 0 sessions" sessions_are 0
    is_running "$server_pid" || fail "round $round: the server has died"
    start_client "survivor-$round" --count 1
    until_true 20 "round $round: ticks of a new client" has_ticks
    kill -INT "$client_pid"
    good_end 60 "survivor-$round" "$client_pid"
    if [ "$round" = 3 ]; then
        remember_usage
    fi
    rm -f "$work"/victims-* "$work"/survivor-*
    printf '\r%d of %d rounds' "$round" "$rounds"
done
printf '\n'
if [ "$rounds" -gt 3 ]; then
    usage_is_back "after round 3"
fi
kill -TERM "$server_pid"
end_of 60 "$server_pid" || fail "the server did not exit with status 0"
printf '%d of %d rounds survived\n' "$rounds" "$rounds"
