#!/usr/bin/env bash
# Connects more clients than one address has ports: 2,000 clients in a network namespace of its own that
# has 500 ports. Each command that --check prints has to change the setting that it names. Then a client whose
# churn uses up its ports, and a client that waits for a server at a port that it may take itself.
#
# Needs the right to make a network namespace (root, or user namespaces). Without that right the script
# prints SKIPPED and succeeds.
#
#   PORTS=500 COUNT=2000 ./scripts/few_ports.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
ports=${PORTS:-500}
count=${COUNT:-2000}

skip() {
    # The first turn was possible.
    [ -z "${SECOND_TURN:-}" ] || fail "the second turn cannot start: $*"
    say "SKIPPED: $*"
    exit 0
}

if [ -z "${FEW_PORTS_BIN:-}" ]; then
    for tool in unshare ip sysctl; do
        command -v "$tool" >/dev/null || skip "$tool is not installed"
    done
    for flags in "--net" "--net --map-root-user"; do
        # shellcheck disable=SC2086 # Two flags are two words.
        if unshare $flags sh -c 'ip link set lo up && sysctl -qw net.core.somaxconn=128' 2>/dev/null; then
            build
            FEW_PORTS_BIN=$bin unshare $flags "${BASH_SOURCE[0]}"
            exit
        fi
    done
    skip "network namespaces are not permitted here"
fi

bin=$FEW_PORTS_BIN
unset FEW_PORTS_BIN # A second turn has a network namespace of its own.
ip link set lo up
narrow() { sysctl -qw net.ipv4.ip_local_port_range="40000 $((40000 + ports - 1))"; }

# check STATUS PROGRAM ARGS...: runs the program with --check, and sets $table to its output.
check() {
    local expected=$1 status=0
    shift
    table=$("$bin/$1" --check "${@:2}" 2>&1) || status=$?
    printf '%s\n' "$table"
    [ "$status" = "$expected" ] || fail "--check ended with status $status, not $expected"
}
has() { grep -q -- "$1" <<<"$table" || fail "--check did not print: $1"; }
apply_fix() {
    local command
    command=$(sed -n 's/^ *fix: //p' <<<"$table" | head -n 1)
    say "the command of --check: $command"
    sh -c "$command" || fail "the command does not work"
}

# has_ipv6 WHAT: whether ::1 is an address here; if not, WHAT is not run.
has_ipv6() {
    say "$1"
    [[ $(ip -6 addr show dev lo) == *'inet6 ::1/'* ]] || { echo "NOT RUN: no IPv6 here" && false; }
}

narrow
if has_ipv6 "a target without siblings: the check fails, and its command helps"; then
    check 2 dummy_client --addr '[::1]:7777' --count "$count"
    has '^FAIL *ports'
    apply_fix
    check 0 dummy_client --addr '[::1]:7777' --count "$count"
    has '^ok *ports'
    narrow
fi

say "a backlog that the kernel cuts: a warning, and its command helps"
sysctl -qw net.core.somaxconn=128
check 0 game_server --addr 127.0.0.1:0
has '^warn *backlog'
start_server cut
[ "$(grep -c 'WARN.*backlog' "$server_log")" = 1 ] || fail "the server does not say once that its backlog is cut"
kill_hard "$server_pid"
apply_fix
check 0 game_server --addr 127.0.0.1:0
has '^ok *backlog'

say "$count clients where one address has $ports ports"
check 0 dummy_client --count "$count"
has "^ok *ports *$ports on each of"
# A client that receives no tick fails, so the tick period is short.
start_server server --stats-interval-secs 0.2 --tick-ms 20
! grep -q WARN "$server_log" || fail "the server warns of a backlog that is not cut"
start_client clients --count "$count" --log-sessions 0 --json "$work/clients.json"
until_true 20 "all clients to connect" sessions_are "$count"
# Counts the connections of each source address. /proc/net/tcp writes the server's port in hexadecimal, in
# the column of the remote end.
port=$(printf '%04X' "${addr##*:}")
awk -v port=":$port" 'index($3, port) && $4 == "01" { split($2, end, ":"); print end[1] }' \
    /proc/net/tcp | sort | uniq -c | tee "$work/sources"
[ "$(awk '{ sum += $1 } END { print sum }' "$work/sources")" = "$count" ] || fail "not all have a source address"
awk -v ports="$ports" '$1 > ports { exit 1 }' "$work/sources" || fail "an address has more connections than ports"
kill -INT "$client_pid"
good_end 60 clients "$client_pid"
cat "$work/clients.out"
for figure in connected connected_at_end; do
    [ "$(figure clients sessions "$figure")" = "$count" ] || fail "not all clients were connected to the end"
done
[ "$(figure clients sessions lost)" = 0 ] || fail "a session was lost"
[ "$(figure clients machine ephemeral_ports)" = "$ports" ] || fail "the report does not name the number of ports"

say "and $count more at once: the ports of the first ones wait in TIME_WAIT"
grep 'TCP:' /proc/net/sockstat
# The newest line of the log may count the first clients.
until_true 20 "the first clients to leave" sessions_are 0
start_client again --count "$count" --log-sessions 0 --json "$work/again.json"
until_true 20 "all clients to connect again" sessions_are "$count"
kill -INT "$client_pid"
good_end 60 again "$client_pid"
cat "$work/again.out"
[ "$(figure again sessions connected)" = "$count" ] || fail "not all clients connected again"
kill -TERM "$server_pid"
end_of 60 "$server_pid" || fail "the server did not exit with status 0"

if has_ipv6 "churn that uses up the ports: the client is the bottleneck, and the server is not blamed"; then
    sysctl -qw net.ipv4.ip_local_port_range="40000 40099" net.ipv4.tcp_tw_reuse=0
    addr='[::1]:7777'
    "$bin/game_server" --addr "$addr" --stats-interval-secs 0 2>"$work/six.log" &
    server_pid=$!
    pids+=("$server_pid")
    until_true 10 "the server to listen" grep -q 'listening on' "$work/six.log"
    start_client limited --count 30 --churn-ms 50..100 --duration-secs 5 --log-sessions 0 --json "$work/limited.json"
    status=0
    end_of 60 "$client_pid" || status=$?
    cat "$work/limited.out"
    grep -q '^  "verdict": "client_limited",' "$work/limited.json" || fail "the verdict blames the server"
    [ "$(figure limited client own_limits)" -gt 0 ] || fail "no connect found the ports used up"
    printf 'status %s, %s connects without a port\n' "$status" "$(figure limited client own_limits)"
    kill -TERM "$server_pid"
    end_of 60 "$server_pid" || fail "the server did not exit with status 0"
fi

# The port of the server is among those that the system gives to clients: without a listener, a socket may connect
# to itself. It must not count as a session, and must not keep the port from the server.
say "a server that starts after its clients, at a port of theirs"
sysctl -qw net.ipv4.ip_local_port_range="40000 40999"
addr=127.0.0.1:40500
start_client early --count 300 --reconnect --duration-secs 15 --log-sessions 0 --json "$work/early.json"
sleep 5
[ -z "$(ss -Htn state established '( sport = :40500 )')" ] || fail "a socket is connected to itself"
"$bin/game_server" --addr "$addr" --stats-interval-secs 0 2>"$work/late.log" &
server_pid=$!
pids+=("$server_pid")
until_true 10 "the server to listen" grep -q 'listening on' "$work/late.log"
good_end 60 early "$client_pid"
[ "$(figure early sessions connected)" = 300 ] || fail "not all clients connected"
kill -TERM "$server_pid"
end_of 60 "$server_pid" || fail "the server did not exit with status 0"
