#!/usr/bin/env bash
# Runs the clients through a real HAProxy, with version 2 and with version 1 of the PROXY protocol. The server
# has to see the address of each client and not the one of the proxy: in /sessions, in --max-sessions-per-ip,
# and in the ban file.
#
#   COUNT=50 SECS=10 ./scripts/proxy.sh
#
# apt-get installs HAProxy if it is missing. HAProxy connects to the server from 127.0.0.9. Needs Python 3.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
count=${COUNT:-50}
secs=${SECS:-10}
proxy=127.0.0.9

if ! command -v haproxy >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends haproxy >/dev/null
fi
haproxy -v | sed -n 1p
build

# start_haproxy: one frontend for each version, in front of $addr. Sets v2_addr, v1_addr and haproxy_pid. The
# listening sockets come from outside, so the system chooses the ports.
start_haproxy() {
    cat >"$work/haproxy.cfg" <<END
global
    maxconn 1000
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
frontend version2
    bind fd@\${V2_FD}
    default_backend version2
frontend version1
    bind fd@\${V1_FD}
    default_backend version1
backend version2
    source $proxy
    server game $addr send-proxy-v2 check inter 500ms
backend version1
    source $proxy
    server game $addr send-proxy check inter 500ms
END
    python3 - "$work/haproxy.cfg" "$work/ports" 2>"$work/haproxy.log" <<'END' &
import os, socket, sys
listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
for name, listener in zip(("V2_FD", "V1_FD"), listeners):
    os.set_inheritable(listener.fileno(), True)
    os.environ[name] = str(listener.fileno())
with open(sys.argv[2] + ".new", "w") as file:
    file.write(" ".join(str(listener.getsockname()[1]) for listener in listeners) + "\n")
os.rename(sys.argv[2] + ".new", sys.argv[2])
os.execvp("haproxy", ["haproxy", "-db", "-f", sys.argv[1]])
END
    haproxy_pid=$!
    pids+=("$haproxy_pid")
    until_true 10 "the ports of HAProxy" test -e "$work/ports"
    local ports
    read -r -a ports <"$work/ports"
    v2_addr=127.0.0.1:${ports[0]}
    v1_addr=127.0.0.1:${ports[1]}
}

# served SOURCE ADDR [HEADER]: whether a connection from SOURCE gets a hello.
served() {
    python3 - "$@" <<'END'
import socket, sys
source, (host, port) = sys.argv[1], sys.argv[2].split(":")
try:
    client = socket.create_connection((host, int(port)), 10, (source, 0))
    client.sendall("".join(sys.argv[3:]).encode().decode("unicode_escape").encode("latin-1"))
    head = client.recv(4)
except ConnectionError:
    head = b""
# The id of S_HELLO is 1; a refused client reads S_BYE or nothing.
sys.exit(0 if head[2:4] == b"\x01\x00" else 1)
END
}
refused() { ! served "$@"; }

# peers: the addresses in /sessions, one a line, without those of health checks.
peers() {
    python3 - "$metrics" <<'END'
import json, sys, urllib.request
sessions = json.load(urllib.request.urlopen(f"http://{sys.argv[1]}/sessions"))
for session in sessions:
    print(session["peer"])
END
}
# peers_are SOURCE COUNT: whether /sessions has this number of addresses of SOURCE. Sets $listed to all addresses. An
# answer of 503 has none.
peers_are() { listed=$(peers 2>"$work/peers.log") && [ "$(grep -c "^$1:" <<<"$listed")" = "$2" ]; }

# through ADDR NAME ARGS...: the clients through HAProxy, while the server lists their addresses.
through() {
    local to=$1 name=$2
    shift 2
    addr=$to start_client "$name" --count "$count" --echo-hz 5 --assert 'lost==0' "$@"
    until_true 20 "$count sessions with the address of a client" peers_are 127.0.0.1 "$count"
    sort -u <<<"$listed" | sed -n 1,3p
    [ "$(sort -u <<<"$listed" | grep -c '^127.0.0.1:')" = "$count" ] || fail "two clients have one address"
    sleep "$secs" # Of ticks and echoes.
    kill -INT "$client_pid"
    good_end 60 "$name" "$client_pid"
    until_true 10 "the clients to leave" peers_are 127.0.0.1 0
}

say "the server behind HAProxy"
: >"$work/bans"
start_server server --tick-ms 50 --trusted-proxy "$proxy/32" --ban-file "$work/bans" --metrics-addr 127.0.0.1:0
metrics=$(sed -n 's/.*metrics on //p' "$server_log" | head -n 1)
server_addr=$addr
start_haproxy

say "$count clients through send-proxy-v2 for $secs s"
through "$v2_addr" version2
say "$count clients through send-proxy for $secs s"
through "$v1_addr" version1

say "a connection from the address of the proxy without a header is refused, and others need none"
refused "$proxy" "$server_addr" 'GET / HTTP/1.1\r\n\r\n' || fail "no header, and served"
served 127.0.0.1 "$server_addr" || fail "a direct client is not served"
# Its first tick may come before its first byte is read.
served 127.0.0.1 "$server_addr" 'PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n' || true
until_true 10 "the end of a client that names itself" \
    grep -q 'of 127.0.0.1:[0-9]* left: bad_size' "$server_log"
grep 'without a valid PROXY header' "$server_log" | head -n 1

say "a ban and SIGHUP: the banned client is refused through both, the other one is served"
printf '127.0.0.2 # banned by proxy.sh\n' >"$work/bans"
kill -HUP "$server_pid"
until_true 10 "the ban" grep -q 'SIGHUP: bans read from .*: 1$' "$server_log"
for to in "$v2_addr" "$v1_addr"; do
    refused 127.0.0.2 "$to" || fail "a banned client is served through $to"
    served 127.0.0.1 "$to" || fail "a client that is not banned is not served through $to"
done
: >"$work/bans"
kill -HUP "$server_pid"
until_true 10 "the end of the ban" grep -q 'SIGHUP: bans read from .*: 0$' "$server_log"
served 127.0.0.2 "$v2_addr" || fail "the client is banned still"
kill_hard "$haproxy_pid"
kill_hard "$server_pid"

say "--max-sessions-per-ip counts clients, and not the proxy"
rm "$work/ports"
start_server limited --tick-ms 50 --trusted-proxy "$proxy" --max-sessions-per-ip 3 --metrics-addr 127.0.0.1:0
metrics=$(sed -n 's/.*metrics on //p' "$server_log" | head -n 1)
start_haproxy
addr=$v2_addr start_client three --count 3
until_true 10 "three sessions" peers_are 127.0.0.1 3
refused 127.0.0.1 "$v2_addr" || fail "a fourth session of 127.0.0.1"
refused 127.0.0.1 "$v1_addr" || fail "a fourth session of 127.0.0.1 through version 1"
served 127.0.0.2 "$v2_addr" || fail "the first session of 127.0.0.2 is refused"
grep 'rejected: server_full' "$server_log" | head -n 1
printf '\nPASS\n'
