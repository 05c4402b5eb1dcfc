#!/usr/bin/env bash
# Three nodes over one Redis, with clients on each, and the failures of a cluster one after the other: a broker that
# is stopped (SIGSTOP), killed and started empty, that refuses the password, that is out of memory; a node that is
# paused, killed and ended. After each the script prints the promise and the measured value, and fails if a promise
# is broken. Redis listens on a Unix socket in a temporary folder; the script installs it if it is missing.
#
#   ./scripts/cluster.sh
#   CLIENTS=50 OUTAGE_SECS=3 PROFILE=dev ./scripts/cluster.sh        shorter
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
clients=${CLIENTS:-300}
chat_hz=${CHAT_HZ:-0.01}
outage_secs=${OUTAGE_SECS:-5}

if ! command -v redis-server >/dev/null; then
    say "installing redis-server"
    as_root=
    [ "$(id -u)" = 0 ] || as_root=sudo
    if ! $as_root apt-get install -y --no-install-recommends redis-server >"$work/apt.log" 2>&1; then
        echo "NOT RUN: redis-server could not be installed" >&2
        exit 69 # EX_UNAVAILABLE
    fi
fi

build --all-features

socket="$work/redis.sock"
start_redis() {
    redis-server --port 0 --unixsocket "$socket" --save "" --appendonly no --daemonize no >"$work/redis.log" 2>&1 &
    redis_pid=$!
    pids+=("$redis_pid")
    until_true 10 "Redis to answer" redis_answers
}
redis_answers() { [ "$(redis-cli -s "$socket" ping 2>/dev/null)" = PONG ]; }
redis() { redis-cli -s "$socket" "$@" 2>/dev/null; }

# start_node NAME: starts a node and sets its places in the tables.
declare -A node_pid node_addr node_metrics
start_node() {
    start_server "$1" --tick-ms 100 --workers 1 --drain-secs 0.2 --metrics-addr 127.0.0.1:0 --stats-interval-secs 0 \
        --max-chats-per-ip-per-sec 0 --cluster "unix://$socket" --node "$1" --login
    until_true 10 "the metrics of $1" grep -q 'metrics on' "$server_log"
    node_pid[$1]=$server_pid
    node_addr[$1]=$addr
    node_metrics[$1]=$(sed -n 's/.*metrics on //p' "$server_log" | head -n 1)
}

# metric NODE NAME: prints the value of a metric, as an integer.
metric() {
    local host=${node_metrics[$1]%:*} port=${node_metrics[$1]##*:}
    exec 9<>"/dev/tcp/$host/$port" || return 1
    printf 'GET /metrics HTTP/1.0\r\n\r\n' >&9
    awk -v name="$2" '$1 == name { printf "%d\n", $2 }' <&9
    exec 9>&-
}
metric_is() { [ "$(metric "$1" "$2")" = "$3" ]; }
dropped() { metric "$1" "cluster_dropped_total{why=\"$2\"}"; }
now_ms() { date +%s%3N; }

# within MS PROMISE COMMAND...: waits until the command succeeds, and prints how long that took.
within() {
    local limit=$1 promise=$2 began
    shift 2
    began=$(now_ms)
    until "$@"; do
        [ $(($(now_ms) - began)) -le "$limit" ] || fail "$promise: not within $limit ms"
        sleep 0.02
    done
    printf '  %-66s %6d ms (limit %d)\n' "$promise" $(($(now_ms) - began)) "$limit"
}
# promise TEXT VALUE CONDITION...: checks, and prints the value.
promise() {
    local text=$1 value=$2
    shift 2
    "$@" || fail "$text: $value"
    printf '  %-66s %s\n' "$text" "$value"
}
links_are() {
    local node
    for node in "${nodes[@]}"; do metric_is "$node" cluster_link_up "$1" || return 1; done
}
pictures_are() {
    local node
    for node in "${nodes[@]}"; do
        metric_is "$node" cluster_nodes "$1" && metric_is "$node" cluster_sessions "$2" || return 1
    done
}
received_more_than() { [ "$(metric "$1" cluster_received_total)" -gt "$2" ]; }
dropped_more_than() { [ "$(($(dropped "$1" link_down) + $(dropped "$1" too_old) + $(dropped "$1" unconfirmed)))" -gt "$2" ]; }
# login NODE: a session that logs in as ada, on a descriptor of its own.
login() {
    local addr=${node_addr[$1]}
    exec {login_fd}<>"/dev/tcp/${addr%:*}/${addr##*:}"
    printf '\x07\x00\x08\x00ada' >&"$login_fd"
}
ended_is() { metric_is "$1" "server_disconnects_total{reason=\"logged_in_elsewhere\"}" "$2"; }

start_redis
nodes=(a b c)
say "3 nodes, $clients clients on each"
for node in "${nodes[@]}"; do start_node "$node"; done
within 3000 "all links up" links_are 1
for node in "${nodes[@]}"; do
    addr=${node_addr[$node]}
    start_client "client-$node" --login --count "$clients" --chat-hz "$chat_hz" --log-sessions 0 --duration-secs 600 \
        --json "$work/client-$node.json"
    declare "client_of_$node=$client_pid"
done
until_true 30 "all sessions on their node" eval '[ "$(($(metric a server_sessions) + $(metric b server_sessions) + $(metric c server_sessions)))" = $((3 * clients)) ]'
within 2000 "each node counts $((3 * clients)) sessions on 3 nodes" pictures_are 3 $((3 * clients))
within 20000 "chats of other nodes arrive" received_more_than a 3
promise "no gap" "$(metric a cluster_gaps_total)" metric_is a cluster_gaps_total 0
memory=$(kib_of "${node_pid[a]}")

say "one login each: ada logs in on a, then on b"
login a
within 2000 "the session is there" metric_is a server_sessions $((clients + 1))
sleep 0.3
login b
within 1000 "the older session, on a, ends" ended_is a 1
promise "the newer session, on b, stays" "$(metric b server_sessions) sessions" metric_is b server_sessions $((clients + 1))

say "Redis stopped (SIGSTOP) for $outage_secs s"
skipped=$(metric a server_ticks_skipped_total)
kill -STOP "$redis_pid"
within 5000 "the links notice" links_are 0
within 10000 "losses are counted" dropped_more_than a 0
sleep "$outage_secs"
promise "each picture is frozen" "$(metric a cluster_nodes) nodes" metric_is a cluster_nodes 3
kill -CONT "$redis_pid"
within 2500 "the links are back" links_are 1
within 2500 "the pictures are right" pictures_are 3 $((3 * clients + 1))
received=$(metric b cluster_received_total)
within 20000 "chats arrive again" received_more_than b "$received"

say "Redis killed, and started empty after $outage_secs s"
kill_hard "$redis_pid"
within 1000 "the links notice" links_are 0
sleep "$outage_secs"
start_redis
within 2000 "the links are back" links_are 1
within 2000 "the pictures are right" pictures_are 3 $((3 * clients + 1))
promise "the login of ada is announced anew" "$(redis exists gs1:login:ada)" [ "$(redis exists gs1:login:ada)" = 1 ]

say "Redis refuses the password"
redis config set requirepass secret >/dev/null
redis -a secret client kill type pubsub >/dev/null
within 2000 "the links notice" links_are 0
sleep 1
redis -a secret config set requirepass "" >/dev/null
within 2000 "the links are back" links_are 1

say "Redis out of memory"
redis config set maxmemory 1 >/dev/null
received=$(metric b cluster_received_total)
sleep 6
promise "the links stay up, and no node is declared dead" "$(metric a cluster_nodes) nodes" pictures_are 3 $((3 * clients + 1))
within 20000 "chats arrive" received_more_than b "$received"
login c
sleep 1.5
redis config set maxmemory 0 >/dev/null
promise "a login is granted without the broker" "$(metric c server_sessions) sessions" metric_is c server_sessions $((clients + 1))
within 7000 "the older session, on b, ends when there is memory again" ended_is b 1

say "node c paused for 8 s"
kill -STOP "${node_pid[c]}"
nodes=(a b)
within 6000 "the others count it no more" pictures_are 2 $((2 * clients))
sleep 2
kill -CONT "${node_pid[c]}"
nodes=(a b c)
within 3000 "it is back by itself" eval 'metric_is a cluster_nodes 3 && metric_is c cluster_nodes 3'

say "node c killed (SIGKILL)"
kill_hard "${node_pid[c]}"
nodes=(a b)
within 6000 "the others count it no more" pictures_are 2 $((2 * clients))

say "node b ended (SIGTERM)"
b_client=$client_of_b
kill -INT "$b_client"
end_of 60 "$b_client" || fail "a client of node b was not served"
kill -TERM "${node_pid[b]}"
nodes=(a)
within 2000 "a counts itself alone, within the drain time and 1 s" metric_is a cluster_nodes 1
end_of 60 "${node_pid[b]}" || fail "node b did not exit with status 0"

say "the clients of node a, all the time"
grown=$(($(kib_of "${node_pid[a]}") - memory))
kill -INT "$client_of_a"
end_of 60 "$client_of_a" || fail "a client of node a was not served"
promise "no tick skipped" "$(($(metric a server_ticks_skipped_total) - skipped))" \
    [ "$(metric a server_ticks_skipped_total)" = "$skipped" ]
printf '  %-66s %s\n' "world chats received" "$(figure client-a world_chats_received value)"
printf '  %-66s %s\n' "tick delay, p99" "$(figure client-a tick_delay p99) ms"
promise "memory of node a grew by less than 4 MiB and 2 MiB of noise" "$grown KiB" [ "$grown" -lt 6144 ]
for why in queue_full too_old link_down unconfirmed refused mailbox_full malformed version; do
    printf '  %-66s %s\n' "dropped by a: $why" "$(dropped a "$why")"
done
printf 'every promise was kept\n'
