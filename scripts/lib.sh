# Functions of all scripts: start and stop programs, wait for conditions. To be sourced.
#
# When a script ends, by an error or a signal too, `cleanup` stops every process of the script by its pid.
# Traffic stays on 127.0.0.1; the system chooses the ports.

set -euo pipefail

# The scripts read the logs, so the environment must change neither the logs nor the flags.
unset RUST_LOG
for name in $(compgen -e); do
    case $name in GAME_SERVER_* | DUMMY_CLIENT_*) unset "$name" ;; esac
done

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
work="$(mktemp -d)"
pids=()
arguments=("$@")

stop_all() {
    local pid
    for pid in "${pids[@]}"; do
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    # The children of a killed browser write for a moment after it has ended.
    local tries=50
    until rm -rf "$work" 2>/dev/null || [ "$((tries -= 1))" = 0 ]; do
        sleep 0.1
    done
}
cleanup() {
    local status=$?
    stop_all
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '\n== %s\n' "$*"; }
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    local log
    for log in "$work"/*.log; do
        [ -e "$log" ] || continue
        printf -- '--- the end of %s\n' "$(basename "$log")" >&2
        tail -n 20 "$log" >&2
    done
    exit 1
}

# until_true SECONDS WHAT COMMAND...: waits until the command succeeds.
until_true() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || fail "waited too long for: $what"
        sleep 0.05
    done
}

# build ARGS...: builds both programs; profile from PROFILE (release by default), further arguments for cargo. Builds
# nothing if PROGRAMS names a folder with the programs.
build() {
    # `profile` and `target` are not local: scripts build other programs in the same folder.
    profile=${PROFILE:-release}
    [ -z "${PROGRAMS:-}" ] || { bin=$PROGRAMS && return; }
    say "building ($profile)"
    target="$(realpath -m "${CARGO_TARGET_DIR:-$repo/target}")"
    # An explicit --target-dir overrides cargo's configuration, so $bin is where cargo puts the programs.
    (cd "$repo" && cargo build --quiet --profile "$profile" --target-dir "$target" \
        -p game_server -p dummy_client "$@")
    local folder=$profile
    [ "$profile" = dev ] && folder=debug
    bin="$target/$folder"
}

# start_server NAME ARGS...: sets server_pid, server_log and addr. Listens on $listen_on, or on a free port.
start_server() {
    local name=$1
    shift
    server_log="$work/$name.log"
    : >"$server_log" # The waits must not read the log of an earlier server of this name.
    "$bin/game_server" --addr "${listen_on:-127.0.0.1:0}" "$@" 2>"$server_log" &
    server_pid=$!
    pids+=("$server_pid")
    until_true 10 "the server to listen" grep -q 'listening on' "$server_log"
    addr=$(sed -n 's/.*listening on //p' "$server_log" | head -n 1)
}

# start_client NAME ARGS...: sets client_pid and client_log; standard output goes to NAME.out.
start_client() {
    local name=$1
    shift
    client_log="$work/$name.log"
    : >"$work/$name.out"
    : >"$client_log"
    "$bin/dummy_client" --addr "$addr" "$@" >"$work/$name.out" 2>"$client_log" &
    client_pid=$!
    pids+=("$client_pid")
}

# Installs redis-server if it is missing.
need_redis() {
    command -v redis-server >/dev/null && return
    say "installing redis-server"
    local as_root=
    [ "$(id -u)" = 0 ] || as_root=sudo
    if ! $as_root apt-get install -y --no-install-recommends redis-server >"$work/apt.log" 2>&1; then
        echo "NOT RUN: redis-server could not be installed" >&2
        exit 69 # EX_UNAVAILABLE
    fi
}
# start_redis: starts Redis on the Unix socket $socket, and sets redis_pid.
start_redis() {
    redis-server --port 0 --unixsocket "$socket" --save "" --appendonly no --daemonize no >"$work/redis.log" 2>&1 &
    redis_pid=$!
    pids+=("$redis_pid")
    until_true 10 "Redis to answer" redis_answers
}
redis_answers() { [ "$(redis-cli -s "$socket" ping 2>/dev/null)" = PONG ]; }

is_running() { kill -0 "$1" 2>/dev/null; }
has_ended() { ! is_running "$1"; }

# end_of SECONDS PID: waits until a process of this script has ended, and returns its status.
end_of() {
    until_true "$1" "process $2 to end" has_ended "$2"
    wait "$2"
}

# good_end SECONDS NAME PID: waits until the client NAME has ended with status 0. Not for a subshell.
good_end() {
    local status=0
    end_of "$1" "$3" || status=$?
    [ "$status" != 0 ] || return 0
    cat "$work/$2.out"
    fail_client "$2" "the client $2 ended with status $status"
}
# fail_client NAME TEXT: fails. If the machine stopped the client (verdict client_limited), the failure says nothing of the
# server: the script starts again from its beginning, once. A caller that sets CALLER_REPEATS starts it, after status 75.
fail_client() {
    if [ -z "${SECOND_TURN:-}" ] && grep -Eq '^verdict +client_limited|"verdict": "client_limited"' "$work/$1.out"; then
        printf '%s, and the machine stopped the client: again from the beginning\n' "$2" >&2
        [ -z "${CALLER_REPEATS:-}" ] || exit 75 # EX_TEMPFAIL: the caller starts the script with a limit of its own.
        stop_all
        SECOND_TURN=1 exec "$0" "${arguments[@]}"
    fi
    fail "$2"
}

# Prints a number or a text of a client's JSON report: figure NAME OBJECT KEY, the first KEY in the first OBJECT
# of NAME.json.
figure() {
    awk -v object="\"$2\":" -v key="\"$3\":" '
        $1 == object { inside = 1 }
        inside && $1 == key { gsub(/^"|"?,?$/, "", $2); print $2; exit }
    ' "$work/$1.json"
}

# Prints the newest number of sessions in the server's log.
sessions() { sed -n 's/.*stats: sessions \([0-9]*\),.*/\1/p' "$server_log" | tail -n 1; }
sessions_are() { [ "$(sessions)" = "$1" ]; }

# Kills a process of this script with SIGKILL, without the shell's own line about it.
kill_hard() {
    kill -KILL "$1"
    wait "$1" 2>/dev/null || true
}

# remember_usage: sets memory and descriptors to what the server holds now.
remember_usage() { memory=$(kib_of "$server_pid") descriptors=$(descriptors_of "$server_pid"); }
# usage_is_back WHEN: waits until the server holds no more descriptors than WHEN, and at most 10 % + 4 MiB more memory. The
# allocator gives the memory of a peak back after 3 s.
usage_is_back() {
    printf 'memory %s KiB %s, %s KiB at the end; descriptors %s and %s\n' \
        "$memory" "$1" "$(kib_of "$server_pid")" "$descriptors" "$(descriptors_of "$server_pid")"
    until_true 10 "no more memory than $1" has_memory_of_before
    until_true 10 "no more descriptors than $1" has_descriptors_of_before
}
has_memory_of_before() { [ "$(kib_of "$server_pid")" -le $((memory + memory / 10 + 4096)) ]; }
has_descriptors_of_before() { [ "$(descriptors_of "$server_pid")" -le "$descriptors" ]; }

kib_of() { awk '/^VmRSS/ { print $2 }' "/proc/$1/status"; }
descriptors_of() { ls "/proc/$1/fd" | wc -l; }
