#!/usr/bin/env bash
# Shows the server's main job in one command: the server sends ticks to 1,000 clients, SIGKILL ends their
# process while ticks go out, and the server serves a new client. Takes about 20 seconds after the build.
#
#   ./scripts/demo.sh            COUNT=5000 ./scripts/demo.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
count=${COUNT:-1000}

build
say "the server, on a free port"
start_server server --stats-interval-secs 1
sed -n '/listening on/p' "$server_log"

say "$count clients for ten seconds: each checks every tick"
start_client clients --count "$count" --duration-secs 10 --log-sessions 2
until_true 20 "the clients' first ticks" grep -q 'Hello World' "$client_log"
grep 'Hello World' "$client_log" | head -n 4
good_end 60 clients "$client_pid"
cat "$work/clients.out"

say "$count clients again, and kill -9 to their process while ticks go out"
until_true 10 "the first clients to leave" sessions_are 0
until_true 10 "the disconnect summary in the log" grep -q ' more peer_closed' "$server_log"
start_client victims --count "$count" --log-sessions 0
until_true 20 "$count sessions" sessions_are "$count"
mark=$(wc -l <"$server_log")
kill_hard "$client_pid"
since_kill() { tail -n "+$((mark + 1))" "$server_log"; }
says_why() { since_kill | grep -Eq ' more peer_[a-z]+ from'; }
until_true 20 "the sessions to fall to 0" sessions_are 0
until_true 20 "the disconnect reasons in the log" says_why
is_running "$server_pid" || fail "the server has died"
since_kill | grep -E 'left:| more |sessions 0,'

say "a new client is served"
start_client survivor --count 1 --duration-secs 2
good_end 60 survivor "$client_pid"
cat "$work/survivor.out"

say "SIGTERM: the server closes its sessions and ends"
kill -TERM "$server_pid"
status=0
end_of 60 "$server_pid" || status=$?
[ "$status" = 0 ] || fail "the server ended with status $status"
grep 'shutting down' "$server_log"
printf '\nPASS\n'
