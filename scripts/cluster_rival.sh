#!/usr/bin/env bash
# The chat of a cluster beside the same in Node.js: socket.io with its Redis adapter. Three nodes of each on one Redis,
# the same clients over WebSocket, the same machine; the two take turns at each rate. Prints Markdown.
#
#   ./scripts/cluster_rival.sh        CLIENTS=100 RATES="10 50 100 200 400" SECS=5 ./scripts/cluster_rival.sh
#
# CLIENTS is the number on each node, and RATES are chats a second from one client of the first node: each reaches all
# clients of all nodes. Needs node; npm installs the packages in a temporary folder.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
clients=${CLIENTS:-100}
seconds=${SECS:-5}
rates=${RATES:-10 50 100 200 400}
programs="$repo/scripts/cluster_rival"

need_redis
say "the packages"
npm install --silent --no-audit --no-fund --prefix "$work/node" socket.io socket.io-client @socket.io/redis-adapter redis ws
export NODE_PATH="$work/node/node_modules"
node -p '"socket.io " + require("socket.io/package.json").version + ", Node.js " + process.version'
build --all-features

say "three nodes of each"
socket="$work/redis.sock"
start_redis
declare -A of_nodes urls
for node in a b c; do
    start_server "$node" --workers 1 --tick-ms 1000 --ws-addr 127.0.0.1:0 --stats-interval-secs 0 \
        --max-chats-per-sec 0 --max-chats-per-ip-per-sec 0 --cluster "unix://$socket" --node "$node"
    until_true 10 "the listener for WebSocket" grep -q '] websocket on ' "$server_log"
    of_nodes[ours]+="$server_pid,"
    urls[ours]+="ws://$(sed -n 's/.*\] websocket on //p' "$server_log")/ "

    node "$programs/socket_io_node.mjs" "$socket" >"$work/$node.port" 2>"$work/$node.rival" &
    pids+=($!)
    of_nodes[socket.io]+="$!,"
    until_true 10 "socket.io to listen" grep -q . "$work/$node.port"
    urls[socket.io]+="http://127.0.0.1:$(cat "$work/$node.port")/ "
done

say "a chat to 3 x $clients clients, for $seconds s at each rate"
echo "| server | chats a second | packets delivered a second | of all | p50, ms | p99, ms | CPU of nodes and Redis a packet, us |"
echo "|---|---:|---:|---:|---:|---:|---:|"
for rate in $rates; do
    for server in ours socket.io; do
        # shellcheck disable=SC2086 # The URLs are words.
        timeout 120 node "$programs/clients.mjs" "$server" "$clients" "$rate" "$seconds" \
            "${of_nodes[$server]}$redis_pid" ${urls[$server]}
    done
done
printf '\nPASS\n'
