#!/usr/bin/env bash
# Three nodes over one Redis, with clients on each, and the failures of a cluster one after the other: a broker that
# is stopped (SIGSTOP), killed and started empty, that refuses the password, that is out of memory; a node that is
# paused, killed and ended. Then three nodes over TCP, through a proxy that throttles, that leaves connections half
# open, and that confirms requests and delivers no message; and a rolling restart under clients that reconnect. After
# each the script prints the promise and the measured value, and fails if a promise is broken. Redis listens on a Unix
# socket in a temporary folder; the script installs it if it is missing. Needs python3.
#
#   ./scripts/cluster.sh
#   CLIENTS=50 OUTAGE_SECS=3 PROFILE=dev ./scripts/cluster.sh        shorter
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
clients=${CLIENTS:-300}
chat_hz=${CHAT_HZ:-0.01}
outage_secs=${OUTAGE_SECS:-5}
drain_secs=0.2

if ! command -v python3 >/dev/null; then
    echo "NOT RUN: the proxy in front of Redis needs python3" >&2
    exit 69 # EX_UNAVAILABLE
fi
need_redis

build --all-features

socket="$work/redis.sock"
redis() { redis-cli -s "$socket" "$@" 2>/dev/null; }

# start_node NAME: starts a node and sets its places in the tables. Listens on its addresses in the tables, if any.
declare -A node_pid node_addr node_metrics
broker="unix://$socket"
start_node() {
    listen_on=${node_addr[$1]:-} \
        start_server "$1" --tick-ms 100 --workers 1 --drain-secs "$drain_secs" \
        --metrics-addr "${node_metrics[$1]:-127.0.0.1:0}" --stats-interval-secs 0 \
        --max-chats-per-ip-per-sec 0 --cluster "$broker" --node "$1" --login
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

# Writes a line when this machine has stopped a process that sleeps for 20 ms: the time, and for how long it was stopped,
# from 100 ms on.
watch_stalls() {
    local began late never
    mkfifo "$work/never"
    exec {never}<>"$work/never"
    while :; do
        began=${EPOCHREALTIME//[.,]/}
        read -r -t 0.02 -u "$never" || true # A sleep without a process.
        late=$(((${EPOCHREALTIME//[.,]/} - began) / 1000 - 20))
        [ "$late" -lt 100 ] || echo "${EPOCHREALTIME//[.,]/} $late" >>"$work/stalls"
    done
}
# stalls_since MS MOST: prints for how long this machine has stopped processes since then, in ms; MOST at most, as the nodes
# themselves may stop them.
stalls_since() {
    awk -v since="$1" -v most="$2" '$1 / 1000 > since { sum += $2 } END { print sum < most ? sum + 0 : most }' \
        "$work/stalls"
}
# watch_run_delay PID: writes a line each 100 ms, the tick period: for how long the threads of this process have waited for
# a processor since the last line, in ms.
watch_run_delay() {
    local file delay sum before= never
    exec {never}<>"$work/never"
    : >"$work/run_delay"
    while [ -d "/proc/$1" ]; do
        sum=0
        for file in "/proc/$1"/task/*/schedstat; do
            # A thread may end before it is read.
            { read -r _ delay _ <"$file" && sum=$((sum + delay)); } 2>/dev/null || true
        done
        [ -z "$before" ] || echo $((sum > before ? (sum - before) / 1000000 : 0)) >>"$work/run_delay"
        before=$sum
        read -r -t 0.1 -u "$never" || true # A sleep without a process.
    done
}
# run_delay_p99: prints the p99 of these waits, in ms.
run_delay_p99() { sort -n "$work/run_delay" | awk '{ at[NR] = $1 } END { print at[int((NR * 99 + 99) / 100)] + 0 }'; }
# run_delay_ticks: prints the ticks that these waits have skipped: a wait of 100 ms is one.
run_delay_ticks() { awk '{ sum += int($1 / 100) } END { print sum + 0 }' "$work/run_delay"; }

# within MS PROMISE COMMAND...: waits until the command succeeds, and prints how long that took. The limit does not
# count stalls of this machine.
within() {
    local limit=$1 promise=$2 began
    shift 2
    began=$(now_ms)
    until "$@"; do
        [ $(($(now_ms) - began)) -le "$limit" ] ||
            [ $(($(now_ms) - began)) -le $((limit + $(stalls_since "$began" "$limit"))) ] ||
            fail "$promise: not within $limit ms, and stalls of $(stalls_since "$began" "$limit") ms"
        sleep 0.02
    done
    printf '  %-66s %6d ms (limit %d, stalls %d)\n' "$promise" $(($(now_ms) - began)) "$limit" \
        "$(stalls_since "$began" "$limit")"
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
lost() { echo $(($(dropped "$1" link_down) + $(dropped "$1" too_old) + $(dropped "$1" unconfirmed))); }
lost_more_than() { [ "$(lost "$1")" -gt "$2" ]; }
# login NODE: a session that logs in as ada, on a descriptor of its own.
login() {
    local addr=${node_addr[$1]}
    exec {login_fd}<>"/dev/tcp/${addr%:*}/${addr##*:}"
    printf '\x07\x00\x08\x00ada' >&"$login_fd"
}
# start_clients NODE NAME ARGS...: clients of a node. Sets client_pid.
start_clients() {
    local node=$1 name=$2
    shift 2
    addr=${node_addr[$node]}
    [ "$node" = alone ] || set -- --login "$@"
    start_client "$name" --count "$clients" --chat-hz "$chat_hz" --log-sessions 0 --json "$work/$name.json" "$@"
}
sessions_are_on_all() {
    local node
    for node in "${nodes[@]}"; do metric_is "$node" server_sessions "$1" || return 1; done
}
# calm_p99 NODE NAME: clients on a node for 6 s without a failure. Sets calm_p99, in ms.
calm_p99() {
    start_clients "$1" "$2" --duration-secs 6
    good_end 60 "$2" "$client_pid"
    calm_p99=$(figure "$2" tick_delay p99)
    until_true 10 "the sessions of $2 to end" metric_is "$1" server_sessions 0
}
# start_control NAME: clients of a server outside of the cluster, at the same time: what the machine itself delays.
start_control() {
    start_clients alone "$1" --duration-secs 600
    control_pid=$client_pid
}
# p99_holds NAME CONTROL: the p99 of these clients of node a is at most 20 ms above the one without a failure, or above the
# one of the control if the machine was busier. What node a has waited for a processor counts up to 20 ms: the fault may be
# its own.
p99_holds() {
    local p99 control waited
    waited=$(run_delay_p99)
    kill -INT "$control_pid"
    good_end 60 "$2" "$control_pid"
    p99=$(figure "$1" tick_delay p99) control=$(figure "$2" tick_delay p99)
    promise "tick delay of $1, p99: at most 20 ms above $calm_p99 ms (waits $waited ms), or $control ms outside" "$p99 ms" \
        awk -v p99="$p99" -v calm="$calm_p99" -v control="$control" -v waited="$waited" 'BEGIN {
            calmed = calm + (waited < 20 ? waited : 20)
            most = (control + 0 > calmed ? control : calmed) + 20
            exit !(p99 != "" && calm != "" && control != "" && p99 <= most)
        }'
}
# at ACCOUNT NODE: where an account is logged in, as a node tells: the name of a node, or nothing.
at() {
    local host=${node_metrics[$2]%:*} port=${node_metrics[$2]##*:}
    exec 9<>"/dev/tcp/$host/$port" || return 1
    printf 'GET /sessions?account=%s HTTP/1.0\r\n\r\n' "$1" >&9
    sed -n 's/^\[{.*"node":"\([^"]*\)".*/\1/p' <&9
    exec 9>&-
}
is_at() { [ "$(at "$1" "$2")" = "$3" ]; }
ended_is() { metric_is "$1" "server_disconnects_total{reason=\"logged_in_elsewhere\"}" "$2"; }

# start_watch: watches the run delay of node a.
start_watch() {
    watch_run_delay "${node_pid[a]}" &
    pids+=("$!")
}

: >"$work/stalls"
watch_stalls &
pids+=("$!")
start_redis
nodes=(a b c)
say "3 nodes, $clients clients on each"
for node in "${nodes[@]}"; do start_node "$node"; done
within 3000 "all links up" links_are 1
start_server alone --tick-ms 100 --workers 1 --stats-interval-secs 0 --max-chats-per-ip-per-sec 0 \
    --metrics-addr 127.0.0.1:0
addr_of_alone=$addr
node_addr[alone]=$addr
node_metrics[alone]=$(sed -n 's/.*metrics on //p' "$server_log" | head -n 1)
start_control control
for node in c b a; do
    # The same load as later, but for the failures.
    [ "$node" != a ] || { calm_p99 a calm && start_watch; }
    start_clients "$node" "client-$node" --duration-secs 600
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
within 2000 "ada is on a" is_at ada a a
login b
within 1000 "the older session, on a, ends" ended_is a 1
promise "the newer session, on b, stays" "$(metric b server_sessions) sessions" metric_is b server_sessions $((clients + 1))
for node in "${nodes[@]}"; do within 1000 "/sessions?account=ada on $node names b" is_at ada "$node" b; done

say "Redis stopped (SIGSTOP) for $outage_secs s"
# skipped: prints the ticks that node a has skipped, and two numbers of what the machine itself delays: the ticks that the
# server outside of the cluster has skipped, and those for which node a has waited for a processor.
skipped() {
    echo "$(metric a server_ticks_skipped_total) $(metric alone server_ticks_skipped_total) $(run_delay_ticks)"
}
skipped_before=$(skipped)
lost=$(lost a)
kill -STOP "$redis_pid"
within 2000 "the links notice" links_are 0
within 10000 "losses are counted" lost_more_than a "$lost"
sleep "$outage_secs"
promise "each picture is frozen" "$(metric a cluster_nodes) nodes" metric_is a cluster_nodes 3
kill -CONT "$redis_pid"
within 2000 "the links are back" links_are 1
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
# An S_LOGIN, 21 bytes, id 9: answer 2. A tick may come before it.
cat <&"$login_fd" >"$work/login.out" &
pids+=("$!")
has_answer() {
    answer=$(od -An -v -tx1 "$work/login.out" | tr -d ' \n' | grep -o '15000900..' | head -n 1)
    [ -n "$answer" ]
}
until_true 10 "the answer to the login" has_answer
redis config set maxmemory 0 >/dev/null
promise "a login is granted without the broker" "$answer" [ "$answer" = 1500090002 ]
within 2000 "the older session, on b, ends when there is memory again" ended_is b 1

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
good_end 60 client-b "$b_client"
kill -TERM "${node_pid[b]}"
nodes=(a)
within 2000 "a counts itself alone, within the drain time and 1 s" metric_is a cluster_nodes 1
end_of 60 "${node_pid[b]}" || fail "node b did not exit with status 0"

say "the clients of node a, all the time"
grown=$(($(kib_of "${node_pid[a]}") - memory))
kill -INT "$client_of_a"
good_end 60 client-a "$client_of_a"
skipped_more=$(awk 'NF == 6 { control = $2 - $5; waited = $3 - $6; print $1 - $4 - (control > waited ? control : waited) }' \
    <<<"$(skipped) $skipped_before")
promise "ticks skipped, more than the machine itself delays: 2 at most" "$skipped_more" [ "$skipped_more" -le 2 ]
printf '  %-66s %s\n' "world chats received" "$(figure client-a world_chats_received value)"
p99_holds client-a control
promise "memory of node a grew by less than 4 MiB and 2 MiB of noise" "$grown KiB" [ "$grown" -lt 6144 ]
for why in queue_full too_old link_down unconfirmed refused mailbox_full congested malformed version; do
    printf '  %-66s %s\n' "dropped by a: $why" "$(dropped a "$why")"
done
kill -TERM "${node_pid[a]}"
end_of 60 "${node_pid[a]}" || fail "node a did not exit with status 0"

nodes=(a b c)
say "3 new nodes over TCP, through a proxy; $clients clients on each"
mode() { echo "$1" >"$work/mode.new" && mv "$work/mode.new" "$work/mode"; }
mode pass
python3 "$repo/scripts/broker_proxy.py" "$socket" "$work/mode" >"$work/proxy.port" 2>"$work/proxy.log" &
pids+=("$!")
until_true 10 "the proxy" test -s "$work/proxy.port"
broker="redis://127.0.0.1:$(cat "$work/proxy.port")/"
drain_secs=1
unset node_addr node_metrics
declare -A node_addr node_metrics
node_addr[alone]=$addr_of_alone
for node in "${nodes[@]}"; do start_node "$node"; done
within 3000 "all links up" links_are 1
start_control control-again
for node in b c; do
    start_clients "$node" "again-$node" --duration-secs 600 --reconnect
    declare "client_of_$node=$client_pid"
done
calm_p99 a calm-again
start_watch
start_clients a failures --duration-secs 600
failures_pid=$client_pid
within 10000 "each node counts $((3 * clients)) sessions on 3 nodes" pictures_are 3 $((3 * clients))

say "the broker throttled for $outage_secs s: each 4 KiB take 0.4 s"
mode throttle
sleep "$outage_secs"
promise "no node is declared dead" "$(metric a cluster_nodes) nodes" metric_is a cluster_nodes 3
mode pass
within 2000 "the links are up" links_are 1
within 2500 "the pictures are right" pictures_are 3 $((3 * clients))

say "the connections to the broker half open"
links_of_redis() { redis client list type pubsub | sed -n 's/^id=\([0-9]*\) .*/\1/p' | sort -n; }
newest=$(links_of_redis | tail -n 1)
new_links_are() { [ "$(links_of_redis | awk -v newest="$newest" '$1 > newest' | wc -l)" = "$1" ]; }
mode half_open
within 2000 "each link notices, and has a new connection" new_links_are 3
within 500 "the links are up" links_are 1
within 2500 "the pictures are right" pictures_are 3 $((3 * clients))
received=$(metric b cluster_received_total)
within 20000 "chats arrive again" received_more_than b "$received"

say "a broker that confirms and delivers nothing"
lost=$(lost a)
mode green
within 5000 "the links notice" links_are 0
promise "each picture is frozen" "$(metric a cluster_nodes) nodes" metric_is a cluster_nodes 3
within 10000 "losses are counted" lost_more_than a "$lost"
mode pass
within 2000 "the links are up" links_are 1
within 2500 "the pictures are right" pictures_are 3 $((3 * clients))

kill -INT "$failures_pid"
good_end 60 failures "$failures_pid"
p99_holds failures control-again

say "rolling restart: each node ended (SIGTERM, drain time $drain_secs s) and started, under clients that reconnect"
start_clients a again-a --duration-secs 600 --reconnect
client_of_a=$client_pid
until_true 30 "all sessions on their node" sessions_are_on_all "$clients"
limit=$((drain_secs * 1000 + 10000))
for node in "${nodes[@]}"; do
    declare -A accepted_before=()
    for other in "${nodes[@]}"; do accepted_before[$other]=$(metric "$other" server_accepted_total); done
    began=$(now_ms)
    kill -TERM "${node_pid[$node]}"
    end_of 60 "${node_pid[$node]}" || fail "node $node did not exit with status 0"
    start_node "$node"
    # The connects of the new process, sampled until all are back and for 1 s beyond.
    : >"$work/accepted"
    back_at=
    until [ -n "$back_at" ] && [ "$(now_ms)" -gt $((back_at + 1000)) ]; do
        printf '%s %s\n' "$(now_ms)" "$(metric "$node" server_accepted_total)" >>"$work/accepted"
        [ -n "$back_at" ] || ! metric_is "$node" server_sessions "$clients" || back_at=$(now_ms)
        [ $(($(now_ms) - began)) -le $((limit + 2000)) ] || break
        sleep 0.02
    done
    [ -n "$back_at" ] || fail "$(metric "$node" server_sessions) of $clients clients are back on node $node"
    promise "all clients of node $node are back: ms (limit $limit)" "$((back_at - began))" \
        [ $((back_at - began)) -le "$limit" ]
    most=$(awk '
        { at[NR] = $1; count[NR] = $2 }
        END {
            for (first = last = 1; last <= NR; last++) {
                while (at[last] - at[first] > 1000) first++
                # All connects before the first sample are in its second.
                new = count[last] - (first == 1 ? 0 : count[first])
                if (new > most) most = new
            }
            print most + 0
        }' "$work/accepted")
    promise "connects in one second on node $node: its share of $clients at most" "$most" \
        [ "$most" -gt 0 -a "$most" -le "$clients" ]
    for other in "${nodes[@]}"; do
        [ "$other" = "$node" ] && continue
        promise "no client of node $other connects anew" \
            "$(($(metric "$other" server_accepted_total) - accepted_before[$other]))" \
            metric_is "$other" server_accepted_total "${accepted_before[$other]}"
    done
    within 3000 "the pictures are right" pictures_are 3 $((3 * clients))
done
for node in "${nodes[@]}"; do
    client_of="client_of_$node"
    kill -INT "${!client_of}"
    good_end 60 "again-$node" "${!client_of}"
    promise "each client of node $node came back once" "$(figure "again-$node" sessions reconnected)" \
        [ "$(figure "again-$node" sessions reconnected)" = "$clients" ]
done
printf 'every promise was kept\n'
