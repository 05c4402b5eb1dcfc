#!/usr/bin/env bash
# Runs foreign TLS clients against the server: openssl s_client and Python's ssl, with TLS 1.3 and 1.2. Certificates
# change while sessions are connected, tickets stay valid over a restart, 1,000 clients are killed, and
# 200 full handshakes a second come beside 200 clients, which must lose no tick.
#
#   CROWD=1000 SECS=30 ./scripts/tls.sh
#   CROWD=10000 ./scripts/tls.sh               checks the memory of a TLS session, too: 4,096 bytes at most
#   SKIP_FLOOD=1 ./scripts/tls.sh              what reads no clock
#
# Needs OpenSSL 1.1.1 or newer and Python 3.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
crowd=${CROWD:-1000}
secs=${SECS:-30}
tls_client="$repo/scripts/tls_client.py"
build --all-features

# certificate NAME: a self-signed certificate with an ECDSA key.
certificate() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=CA:FALSE \
        -keyout "$work/$1.key" -out "$work/$1.pem" 2>/dev/null
}
# use NAME: the server's certificate and key become those of NAME.
use() {
    cp "$work/$1.pem" "$work/cert.pem"
    cp "$work/$1.key" "$work/key.pem"
}
# start_tls NAME ARGS...: a server with a TLS listener. Sets tls_addr and metrics.
start_tls() {
    start_server "$@" --tls-addr 127.0.0.1:0 --tls-cert "$work/cert.pem" --tls-key "$work/key.pem" \
        --metrics-addr 127.0.0.1:0
    until_true 10 "the TLS listener" grep -q 'tls on' "$server_log"
    tls_addr=$(sed -n 's/.*tls on //p' "$server_log" | head -n 1)
    metrics=$(sed -n 's/.*metrics on //p' "$server_log" | head -n 1)
}
# metric NAME: the value of a series.
metric() {
    python3 -c '
import sys, urllib.request
text = urllib.request.urlopen(f"http://{sys.argv[1]}/metrics").read().decode()
print(next(line.rsplit(" ", 1)[1] for line in text.splitlines() if line.rsplit(" ", 1)[0] == sys.argv[2]))
' "$metrics" "$1"
}
metric_is() { [ "$(metric "$1")" = "$2" ]; }
# Not for the background: the process there has to be Python itself, which is killed.
python_client() { python3 "$tls_client" "$@"; }
tls_sessions='server_sessions{transport="tls"}'

certificate first
certificate second
use first
start_tls server --tick-ms 50 --workers 2

say "openssl s_client and Python's ssl, TLS 1.3 and 1.2"
mkfifo "$work/to_s_client"
has_head() { [ "$(stat -c %s "$work/hello")" -ge 4 ]; }
for version in 1_3 1_2; do
    python_client echo "$tls_addr" "$work/first.pem" "TLSv$version"
    # The first packet is a hello: its id is 1. The client ends when its standard input ends.
    : >"$work/hello"
    timeout 20 openssl s_client -connect "$tls_addr" "-tls$version" -quiet -verify_return_error \
        -CAfile "$work/first.pem" <"$work/to_s_client" >"$work/hello" 2>"$work/s_client.log" &
    s_client_pid=$!
    pids+=("$s_client_pid")
    exec 6>"$work/to_s_client"
    until_true 20 "the hello" has_head
    exec 6>&-
    wait "$s_client_pid" || true
    [ "$(od -An -tu2 -j2 -N2 "$work/hello" | tr -d ' ')" = 1 ] || fail "openssl s_client read no hello"
done
until_true 10 "the clients to leave" metric_is "$tls_sessions" 0

say "a chat over TLS reaches a client without TLS"
python3 - "$addr" >"$work/plain.out" <<'END' &
import socket, sys
host, port = sys.argv[1].rsplit(":", 1)
client = socket.create_connection((host, int(port)), 60)
seen = b""
while b"chat over TLSv1_3" not in seen:
    more = client.recv(65_536)
    assert more
    seen += more
print("read")
END
plain_pid=$!
pids+=("$plain_pid")
until_true 10 "the client without TLS" metric_is 'server_sessions{transport="tcp"}' 1
python_client echo "$tls_addr" "$work/first.pem" TLSv1_3 >/dev/null
end_of 60 "$plain_pid" || fail "the chat did not arrive"
grep -q read "$work/plain.out"

say "a client that asks for renegotiation (TLS 1.2) ends, and no other does"
mkfifo "$work/to_watcher"
python3 "$tls_client" watch "$tls_addr" "$work/first.pem" <"$work/to_watcher" >"$work/watch.out" 2>"$work/watch.log" &
watch_pid=$!
pids+=("$watch_pid")
exec 7>"$work/to_watcher"
until_true 20 "the watching client" grep -q watching "$work/watch.out"
# A line of the one letter R asks for renegotiation.
timeout 60 openssl s_client -connect "$tls_addr" -tls1_2 -CAfile "$work/first.pem" <"$work/to_s_client" \
    >"$work/renegotiate.out" 2>&1 &
s_client_pid=$!
pids+=("$s_client_pid")
exec 6>"$work/to_s_client"
until_true 20 "the handshake" grep -aq 'Verify return code' "$work/renegotiate.out"
echo R >&6
until_true 20 "the answer to R" grep -aqi 'no renegotiation' "$work/renegotiate.out"
exec 6>&-
wait "$s_client_pid" || true
grep -aq RENEGOTIATING "$work/renegotiate.out" || fail "s_client did not ask for renegotiation"
grep -ai 'no renegotiation' "$work/renegotiate.out" | head -n 1 || fail "renegotiation was not refused"
until_true 10 "the client to leave" metric_is "$tls_sessions" 1

say "SIGHUP: a wrong pair changes nothing, the next pair is for new connections, and a session goes on"
before=$(python_client fingerprint "$tls_addr" "$work/first.pem")
cp "$work/second.pem" "$work/cert.pem"
kill -HUP "$server_pid"
until_true 10 "the error" grep -q 'SIGHUP: certificate and key stay as they are' "$server_log"
[ "$(python_client fingerprint "$tls_addr" "$work/first.pem")" = "$before" ] || fail "the wrong pair was taken"
use second
kill -HUP "$server_pid"
until_true 10 "the reload" grep -q 'SIGHUP: certificate and key read again' "$server_log"
[ "$(python_client fingerprint "$tls_addr" "$work/second.pem")" != "$before" ] || fail "the old certificate"
echo >&7
end_of 60 "$watch_pid" || fail "the session of the old certificate did not go on"
grep alive "$work/watch.out"
kill_hard "$server_pid"

say "tickets after a restart, with the key file and without"
# resumed ARGS...: the number of 50 clients that continue their sessions with a server that was started again.
resumed() {
    rm -f "$work/to_client"
    : >"$work/resume.out" # As in start_server: this runs twice.
    mkfifo "$work/to_client"
    start_tls tickets --tick-ms 50 "$@"
    python3 "$tls_client" resume "$tls_addr" "$work/second.pem" 50 "$work/reused" <"$work/to_client" \
        >"$work/resume.out" 2>"$work/resume.log" &
    local pid=$!
    pids+=("$pid")
    exec 8>"$work/to_client"
    until_true 60 "the first handshakes" grep -q ready "$work/resume.out"
    kill_hard "$server_pid"
    start_tls tickets_again --tick-ms 50 "$@"
    echo "$tls_addr" >&8
    end_of 60 "$pid" || fail "a client failed"
    kill_hard "$server_pid"
}
resumed --tls-ticket-keys "$work/ticket-keys"
printf 'with the file: %s of 50 resumed\n' "$(cat "$work/reused")"
[ "$(cat "$work/reused")" -ge 45 ] || fail "more than a tenth of the clients paid a full handshake"
[ "$(stat -c %a "$work/ticket-keys")" = 600 ] || fail "others can read the ticket keys"
resumed
printf 'without: %s of 50 resumed\n' "$(cat "$work/reused")"
[ "$(cat "$work/reused")" = 0 ] || fail "a ticket of another secret was accepted"

say "kill -9 of $crowd TLS clients beside 100 clients without TLS"
start_tls crowd --tick-ms 50
start_client healthy --count 100 --echo-hz 2 --assert 'lost==0'
until_true 20 "the clients without TLS" metric_is server_sessions 100
before=$(kib_of "$server_pid")
python3 "$tls_client" crowd "$tls_addr" "$work/second.pem" "$crowd" >"$work/crowd.out" 2>"$work/crowd_clients.log" &
crowd_pid=$!
pids+=("$crowd_pid")
until_true $((120 + crowd / 20)) "$crowd TLS clients" grep -q "connected $crowd" "$work/crowd.out"
after=$(kib_of "$server_pid")
each=$(((after - before) * 1024 / crowd))
printf '%s sessions, RSS %s KiB, %s bytes for each TLS session\n' "$(metric server_sessions)" "$after" "$each"
# The memory of the process itself, such as its read buffers, hides the cost of fewer sessions.
[ "$crowd" -lt 10000 ] || [ "$each" -le 4096 ] || fail "a TLS session costs more than 4,096 bytes"
kill_hard "$crowd_pid"
until_true 20 "the TLS clients to leave" metric_is "$tls_sessions" 0
kill -INT "$client_pid"
good_end 60 healthy "$client_pid"
python_client echo "$tls_addr" "$work/second.pem" TLSv1_3
kill_hard "$server_pid"

if [ -n "${SKIP_FLOOD:-}" ]; then
    printf '\nPASS, without the flood\n'
    exit 0
fi
say "200 full handshakes a second beside 200 clients over TLS, ticks of 50 ms, $secs s with the baseline"
start_tls flood --tick-ms 50
addr=$tls_addr start_client flood_clients --tls --ca "$work/second.pem" --count 200 --attack tls-handshake-flood \
    --duration-secs "$secs" --log-sessions 0 --json "$work/flood.json" --assert 'lost==0' \
    --assert 'ticks_missing==0'
status=0
end_of "$((secs + 60))" "$client_pid" || status=$?
[ "$status" = 0 ] || fail "the clients beside the flood ended with status $status"
attempted=$(figure flood stats attempted)
flood_secs=$(figure flood attack elapsed_secs)
handshakes=$(metric 'server_handshakes_total{transport="tls",outcome="full"}')
printf '%s handshakes in %s s, load average %s\n' "$attempted" "$flood_secs" "$(cut -d ' ' -f 1 /proc/loadavg)"
printf 'p99 of the tick delay: %s ms without, %s ms with; verdict %s\n' "$(figure flood baseline p99_ms)" \
    "$(figure flood during p99_ms)" "$(sed -n 's/^  "verdict": "\([a-z_]*\)".*/\1/p' "$work/flood.json")"
# The last 100 connections are closed at the end, whether the server has read them or not.
[ $((handshakes + 100)) -ge "$attempted" ] || fail "the server has counted $handshakes full handshakes"
awk -v done="$attempted" -v secs="$flood_secs" 'BEGIN { exit !(done >= 0.9 * 200 * secs) }' ||
    fail "the flood was not as fast as 200 a second"
metric_is server_ticks_skipped_total 0 || fail "the server skipped a tick"
printf '\nPASS\n'
