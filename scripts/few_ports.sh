#!/usr/bin/env bash
# Connects more clients than one address has ports: 2,000 clients in a network namespace of its own that
# has 500 ports. Each command that --check prints has to change the setting that it names.
#
# Needs the right to make a network namespace (root, or user namespaces). Without that right the script
# prints SKIPPED and succeeds.
#
#   PORTS=500 COUNT=2000 ./scripts/few_ports.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
ports=${PORTS:-500}
count=${COUNT:-2000}

skip() {
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

say "a target without siblings: the check fails, and its command helps"
narrow
check 2 dummy_client --addr '[::1]:7777' --count "$count"
has '^FAIL *ports'
apply_fix
check 0 dummy_client --addr '[::1]:7777' --count "$count"
has '^ok *ports'
narrow

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
wait "$client_pid" || fail "the clients ended with status $?"
cat "$work/clients.out"
grep -q "^sessions  $count of $count connected, $count live at the end, 0 lost" "$work/clients.out" ||
    fail "not all clients were connected to the end"
grep -q "\"ephemeral_ports\": $ports" "$work/clients.json" || fail "the summary does not name the number of ports"

say "and $count more at once: the ports of the first ones wait in TIME_WAIT"
grep 'TCP:' /proc/net/sockstat
start_client again --count "$count" --log-sessions 0
until_true 20 "all clients to connect again" grep -q "live $count of" "$client_log"
kill -INT "$client_pid"
wait "$client_pid" || fail "the clients ended with status $?"
cat "$work/again.out"
grep -q "^sessions  $count of $count connected" "$work/again.out" || fail "not all clients connected again"
kill -TERM "$server_pid"
wait "$server_pid" || fail "the server did not exit with status 0"
