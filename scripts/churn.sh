#!/usr/bin/env bash
# Runs waves of clients that connect, send echoes for a second and disconnect. Every other wave ends by
# SIGKILL, the other waves end in order. A healthy group stays connected and must not miss a tick. At the
# end the server's memory must be within 10 % + 4 MiB of its value after wave 2, and the server must not
# hold more descriptors than after wave 2.
#
#   WAVES=20 COUNT=500 ./scripts/churn.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
waves=${WAVES:-20}
count=${COUNT:-500}

build
start_server server --tick-ms 50 --stats-interval-secs 0.2
say "100 clients that stay, and $waves waves of $count that come and go"
start_client healthy --count 100 --log-sessions 0 --echo-hz 2
healthy_pid=$client_pid
until_true 20 "the healthy group" sessions_are 100

wave() {
    start_client "wave-$1" --count "$count" --log-sessions 0 --echo-hz 5
    until_true 20 "wave $1" sessions_are $((count + 100))
    if (($1 % 2)); then
        sleep 1 # Of echoes.
        kill -INT "$client_pid"
        good_end 60 "wave-$1" "$client_pid"
    else
        kill_hard "$client_pid"
    fi
    until_true 20 "wave $1 to disconnect" sessions_are 100
    rm -f "$work/wave-$1".*
    printf '\rwave %d of %d' "$1" "$waves"
}

# In the first two waves the server's memory grows to its working size.
wave 1
wave 2
remember_usage
for ((n = 3; n <= waves; n++)); do
    wave "$n"
done
printf '\n'
usage_is_back "after wave 2"

kill -INT "$healthy_pid"
good_end 60 healthy "$healthy_pid"
cat "$work/healthy.out"
kill -TERM "$server_pid"
end_of 60 "$server_pid" || fail "the server did not exit with status 0"
