#!/usr/bin/env bash
# Load-tests two servers that are not ours, each with its file of dummy_client/profiles: one of Python with a
# length of four bytes, big-endian, and no id; one of Node.js with a length and an id of two bytes each,
# little-endian. Both need a login, push ticks and answer requests. Without a fault the client must exit with 0
# and count every login, tick and answer. With a planted fault it must exit with 1 and name the fault.
#
# Needs python3 (3.8 or newer) and node (14 or newer).
#
#   COUNT=20 SECONDS_EACH=4 ./scripts/profiles.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
count=${COUNT:-20}
seconds=${SECONDS_EACH:-4}
rate_hz=5 # In both profiles.

for tool in python3 node; do
    command -v "$tool" >/dev/null || fail "$tool is not installed: apt-get install python3 nodejs"
done

# load NAME STATUS COMMAND...: starts a server that prints its port, runs the client, which has to end with this
# status, and stops the server, whose second line is what it has counted.
load() {
    local name=$1 expected=$2 status=0
    shift 2
    : >"$work/$name.server" # The wait below may come before the shell opens the file for the server.
    "$@" >"$work/$name.server" 2>"$work/$name-server.log" &
    server_pid=$!
    pids+=("$server_pid")
    until_true 20 "$name to listen" grep -q . "$work/$name.server"
    addr="127.0.0.1:$(head -n 1 "$work/$name.server")"
    start_client "$name" --profile "$profile" --count "$count" --duration-secs "$seconds" --log-sessions 0 \
        --json -
    end_of $((seconds + 60)) "$client_pid" || status=$?
    [ "$status" = "$expected" ] || {
        cat "$work/$name.out"
        fail_client "$name" "$name: the client ended with status $status, not $expected"
    }
    kill -TERM "$server_pid"
    end_of 60 "$server_pid" || fail "$name: the server ended with status $?"
}

# holds NAME EXPRESSION: checks an expression of the client's report, of `value`, which returns the number of a
# metric, and of `server`, which is what the server has counted.
holds() {
    python3 - "$work/$1.out" "$2" "$work/$1.server" <<'PYTHON' || fail_client "$1" "$1: not so: $2"
import json
import sys

report = json.load(open(sys.argv[1]))
server = json.loads(open(sys.argv[3]).read().splitlines()[1])


def value(name):
    metric = report["metrics"][name]
    return metric["count"] if metric["type"] == "trend" else metric["value"]


holds = eval(sys.argv[2], {"value": value, "server": server, **report})
numbers = {name: value(name) for name in report["metrics"]}
if not holds:
    print(numbers, report["failures"], server, file=sys.stderr)
    sys.exit(1)
print(f"holds: {sys.argv[2]}")
PYTHON
}

# try_server NAME PROFILE COMMAND...: a run without a fault, then one for each fault.
try_server() {
    local name=$1
    profile="$repo/dummy_client/profiles/$2.toml"
    shift 2
    say "$name: no fault"
    load "$name" 0 "$@"
    holds "$name" "value('login_time') == sessions['connected'] == server['logins'] == $count"
    holds "$name" "$count <= value('requests_sent') == server['answers'] <= $count * ($rate_hz * $seconds + 1)"
    holds "$name" "value('requests_answered') == value('rtt') == server['answers']"
    # The last ticks may find a connection that the client has closed.
    holds "$name" "$count <= value('ticks_received') <= server['ticks'] and value('ticks_missing') == 0"
    holds "$name" "value('packets_unknown') == value('packets_malformed') == sessions['lost'] == 0"

    say "$name: one tick number is skipped"
    load "$name-skip" 1 "$@" skip "$count"
    holds "$name-skip" "value('ticks_missing') == $count and len(failures) == 1"

    say "$name: one answer is wrong"
    load "$name-wrong" 1 "$@" wrong
    holds "$name-wrong" "value('requests_corrupted') == 1 and len(failures) == 1"

    say "$name: no login is answered"
    load "$name-deaf" 1 "$@" deaf
    holds "$name-deaf" "value('login_time') == sessions['connected'] == value('ticks_received') == 0"
}

build
try_server python u32_big_endian_without_id python3 "$repo/scripts/profiles/asyncio_server.py"
try_server node u16_little_endian_with_id node "$repo/scripts/profiles/node_server.mjs"
printf '\nPASS\n'
