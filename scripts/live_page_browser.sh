#!/usr/bin/env bash
# Tests the live page of the admin port in a real browser and with a real server: without sessions, with
# 200 clients, and with peers that do not read. The page must show the values of /metrics and the counts of
# the clients. It must say that the server cannot be reached, and must go on when a server is there again.
# It must fit 320 to 1400 px, in light and in dark, write nothing on the console, and send no request to
# another host.
#
#   ./scripts/live_page_browser.sh            SHOTS=folder ./scripts/live_page_browser.sh
#
# Then with two servers of a cluster: the page lists both.
#
# SHOTS keeps the screenshots. Needs Chromium: see browser.sh. Installs redis-server if it is missing.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$(dirname "${BASH_SOURCE[0]}")/browser.sh"
shots=${SHOTS:-$work/shots}
mkdir -p "$shots"

# ---- figures of the server and the clients ------------------------------------------------------

# answer_of PATH: prints the response of the admin port, head and body.
answer_of() {
    local stream
    exec {stream}<>"/dev/tcp/${metrics%:*}/${metrics##*:}"
    printf 'GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n' "$1" >&"$stream"
    cat <&"$stream"
    exec {stream}>&-
}
# metric SERIES: prints the current value of the series.
metric() { answer_of /metrics | awk -v series="$1" '$1 == series { print $2 }'; }

# ---- what the page shows ------------------------------------------------------------------------

# Functions in the page that read the texts a user sees: tiles by their title, rows by their first cell.
reader='
    window.text = selector => document.querySelector(selector).textContent;
    window.number = text => String(parseFloat(text.replace(/,/g, "")));
    window.tile = title => [...document.querySelectorAll(".tile")]
        .find(tile => tile.querySelector(".title").textContent === title);
    window.value = title => number(tile(title).querySelector(".value").textContent);
    window.detail = title => number(tile(title).querySelector(".detail").textContent);
    window.total = reason => number([...document.querySelectorAll("table.reasons tbody tr")]
        .find(row => row.querySelector(".name").textContent === reason).cells[2].textContent);
    window.slowest = () => [...document.querySelectorAll("table.slowest tbody tr")];
    "ready"'
open_live_page() {
    open_page "http://$metrics/"
    wait_for 20 live 'document.querySelector("h1").textContent'
    evaluate "$reader"
}

# ---- messages of the browser --------------------------------------------------------------------

# Prints the highest number of fetches that were in flight at the same time. The load of the page does not
# count: its script fetches before the browser reports the page as loaded.
most_requests_at_a_time() {
    awk '
        { id = id_in($0) }
        /"method":"Network.requestWillBeSent"/ && /"type":"Fetch"/ { open[id]; if (length(open) > most) most = length(open) }
        /"method":"Network.(loadingFinished|loadingFailed)"/ { delete open[id] }
        END { print most + 0 }
        function id_in(line) { sub(/.*"requestId":"/, "", line); sub(/".*/, "", line); return line }
    ' "$messages"
}

# page_fits WHAT: fails if an element is wider than the screen, at each of eight widths.
page_fits() {
    fits "$1" '320 390 640 641 860 861 1024 1400' 900 'body *:not(.unseen, template, script, path)' \
        'element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).display !== "inline"
            && !element.closest(".drawing")'
    set_screen 1200 1000
}

# ---- the run ------------------------------------------------------------------------------------

need_redis
# The servers before the last step are started without --cluster. `cluster.sh` has the same build.
build --all-features
say "no session"
flags=(--tick-ms 100 --payload-bytes 400 --stats-interval-secs 0)
start_server server "${flags[@]}" --metrics-addr 127.0.0.1:0
metrics=$(sed -n 's/.*metrics on //p' "$server_log")
start_browser
set_screen 1200 1000
open_live_page
wait_for 20 0 'value("Sessions")'
wait_for 20 'No session is connected.' 'text(".empty")'
is_true 'document.querySelector("table.slowest").hidden'
is_true 'document.querySelector(".cluster").hidden'
page_fits "the empty page"
# A short run does not have percentiles that are known in advance.
evaluate '(() => {
    const bucket = (bound, count) => [`h_bucket{le="${bound}"}`, count];
    const span = new Span(
        { at: 0, values: new Map([bucket("1.0", 5), bucket("2.0", 5), bucket("4.0", 5), bucket("+Inf", 5)]) },
        { at: 1000, values: new Map([bucket("1.0", 6), bucket("2.0", 8), bucket("4.0", 8), bucket("+Inf", 8)]) });
    return [span.quantile("h", 0.5), span.quantile("h", 1), span.worst("h"), span.quantile("other", 0.5)].join(" ");
})()'
[ "$value" = "1.25 2 2 " ] || fail "the percentiles are $value"
shows "$metrics" 'text(".address").replace("at ", "")' || fail "the page calls the server $value"

say "200 clients"
# The clients stay until the page has shown each figure: on a busy machine that takes longer than on a
# quiet one.
start_client healthy --seed 1 --count 200 --echo-hz 1 --log-sessions 0 --json "$work/healthy.json"
wait_for 20 200 'value("Sessions")'
wait_for 20 "$(metric server_sessions)" 'value("Sessions")'
# Each client gets ten ticks and one echo a second. One tick more or less in five seconds is 2 %.
is_true 'Math.abs(value("Packets out") / 2200 - 1) < 0.1' 60
is_true 'Math.abs(value("Packets in") / 200 - 1) < 0.2' 60
is_true 'value("Tick period") === "100"' 60
kill -INT "$client_pid"
good_end 60 healthy "$client_pid"
wait_for 20 0 'value("Sessions")'
wait_for 20 200 'total("peer_closed")'
# The clients take their final count before they disconnect. A tick between the two is a packet that the
# server counts and the clients do not: that run is repeated.
run=healthy attempt=1 sent_before=0
counts_match() {
    received=$(figure "$run" packets_received value)
    sent=$(($(metric server_packets_sent_total) - sent_before))
    [ "$received" -le "$sent" ] || fail "the clients have counted $received packets, the server $sent"
    [ "$received" = "$sent" ]
}
no_session() { [ "$(metric server_sessions)" = 0 ]; }
until counts_match; do
    attempt=$((attempt + 1))
    [ "$attempt" -le 5 ] || fail "no run has counted every packet that the server has sent"
    printf 'a tick after the final count: %s packets counted, %s sent\n' "$received" "$sent"
    run=healthy_$attempt sent_before=$(metric server_packets_sent_total)
    start_client "$run" --seed 1 --count 50 --echo-hz 1 --duration-secs 2 --log-sessions 0 \
        --json "$work/$run.json"
    good_end 60 "$run" "$client_pid"
    until_true 20 "the sessions of the clients to end" no_session
done
wait_for 20 $((sent_before + received)) 'detail("Packets out")'
wait_for 20 "$(metric server_packets_sent_total)" 'detail("Packets out")'
wait_for 20 "$(metric server_packets_received_total)" 'detail("Packets in")'
wait_for 20 "$(metric server_ticks_skipped_total)" \
    'number(tile("Ticks skipped").querySelector(".detail").textContent.split(",")[1])'
wait_for 20 "$(metric server_send_chunks_live) $(metric server_send_chunks_pooled) 0" \
    '[value("Chunks live"), detail("Chunks live"), value("Queued")].join(" ")'
is_true 'value("Tick lag, p99") > 0 && value("Broadcast, p99") > 0'
printf 'the clients have counted %s packets, and so has the page\n' "$received"

say "200 clients, three peers that do not read, three peers that send a size of 0"
start_client steady --seed 2 --count 200 --log-sessions 0
start_client deaf --seed 3 --count 1 --attack no-read --attackers 3 --log-sessions 0
start_client zero --seed 4 --count 1 --attack zero-size --attackers 3 --duration-secs 9 \
    --log-sessions 0 --json "$work/zero.json"
is_true 'slowest().length > 0 && slowest().length <= 20' 60
is_true 'value("Queued") > 0 && tile("Queued").querySelector(".detail").textContent !== "most for one session: 0 B"'
# The page must show an id and an address exactly as /sessions does.
known_row() {
    evaluate 'slowest().slice(0, 1).map(row => [0, 1].map(cell => row.cells[cell].textContent).join(" ")).join()'
    local id=${value% *} peer=${value#* }
    [ -n "$value" ] && [[ "$(answer_of /sessions)" == *"\"id\":\"$id\",\"peer\":\"$peer\","* ]]
}
until_true 30 "the slowest session of the page to be one of the server" known_row
is_true 'total("slow_consumer") > 0' 60
# Status 1 is the client's verdict on delayed ticks, which attack.sh tests and this script does not.
end_of 60 "$client_pid" || [ $? = 1 ] || fail "the client with the sizes of 0 failed"
kicked=$(figure zero kicked bad_size)
[ "$kicked" -gt 0 ] || fail "no client was kicked"
bad_sizes=$(metric 'server_disconnects_total{reason="bad_size"}')
# A client that disconnects at the end of the run may not receive the reason of its kick.
[ "$bad_sizes" -ge "$kicked" ] || fail "the clients have seen $kicked kicks, the server $bad_sizes"
wait_for 20 "$bad_sizes" 'total("bad_size")'
kicks_agree() {
    local before after
    before=$(metric 'server_disconnects_total{reason="slow_consumer"}')
    evaluate 'total("slow_consumer") + " " + value("Kicked")'
    after=$(metric 'server_disconnects_total{reason="slow_consumer"}')
    [ "$before $((before + bad_sizes))" = "$value" ] && [ "$before" = "$after" ]
}
until_true 30 "the page's kicks to be those of the server" kicks_agree
printf '%s kicks for a size of 0, of which the clients have seen %s\n' "$bad_sizes" "$kicked"
page_fits "the full page"

say "accessibility: table roles and the tab key"
set_screen 320 900
is_true 'slowest().length > 0' 60
call Accessibility.getFullAXTree '{}'
tables=$(grep -o '"role":{"type":"role","value":"table"}' <<<"$answer" | wc -l)
[ "$tables" = 3 ] || fail "$tables of 3 tables are tables at 320 px"
for path in /metrics /sessions /healthz; do
    call Input.dispatchKeyEvent '{"type":"keyDown","key":"Tab","code":"Tab","windowsVirtualKeyCode":9}'
    call Input.dispatchKeyEvent '{"type":"keyUp","key":"Tab","code":"Tab","windowsVirtualKeyCode":9}'
    shows "$path true" 'document.activeElement.getAttribute("href") + " " + document.activeElement.matches(":focus-visible")' ||
        fail "the tab key leads to $value in place of $path"
done

evaluate 'document.activeElement.blur(); "done"'

say "in light and in dark"
# shoot NAME WIDTH [light|dark] [SCALE]: saves a screenshot of the whole page, with at least three rows of
# slow sessions, and sets $value to the background colour.
shoot() {
    set_screen "$2" 900 "${3:-light}"
    is_true 'slowest().length >= 3' 60
    evaluate 'window.scrollTo(0, 0); String(document.documentElement.scrollHeight)'
    set_screen "$2" "$value" "${3:-light}" "${4:-1}"
    screenshot "$shots/$1.png"
    evaluate 'getComputedStyle(document.body).backgroundColor.match(/\d+/g).join(" ")'
}
shoot live_light 960 light 0.9
ground=$value
shoot live_dark 960 dark 0.9
[ "$value" != "$ground" ] || fail "dark looks like light"
shoot live_phone 390
set_screen 1200 1000
alive=$(wc -l <"$messages")
[ -z "$(complaints 1)" ] || fail "on the console: $(complaints 1 | cut -c 1-300)"

say "the server is killed"
asked=$(requests | wc -l)
since=$SECONDS
kill_hard "$server_pid"
wait_for 20 "no contact" 'document.querySelector("h1").textContent'
is_true 'text(".says").includes("it cannot be reached")'
is_true 'document.title.startsWith("no contact") && document.querySelector("main").matches(".stale")'
is_true 'parseFloat(text(".says").split("for ")[1]) >= 8'
attempts=$(($(requests | wc -l) - asked))
# The page sends a request every second at first, and then every two to five seconds.
[ "$attempts" -le $(((SECONDS - since) / 2 + 3)) ] || fail "$attempts attempts in $((SECONDS - since)) s"
page_fits "the page without contact"
set_screen 1120 700
screenshot "$shots/live_lost.png"
unexpected=$(complaints "$((alive + 1))" | grep -v ERR_CONNECTION_REFUSED || true)
[ -z "$unexpected" ] || fail "on the console: ${unexpected:0:500}"

say "a server on the same port again"
start_server server_again "${flags[@]}" --metrics-addr "$metrics"
wait_for 20 live 'document.querySelector("h1").textContent'
again=$(wc -l <"$messages")
is_true '!document.querySelector("main").matches(".stale")'
start_client again --seed 5 --count 50 --log-sessions 0
wait_for 20 "50 50 0" '[value("Sessions"), detail("Sessions"), value("Kicked")].join(" ")'
is_true 'tile("Sessions").querySelector(".line").getAttribute("d").split("M").length > 2'
[ -z "$(complaints "$again")" ] || fail "on the console: $(complaints "$again" | cut -c 1-300)"

elsewhere=$(requests | grep -Fxv -e "http://$metrics/" -e "http://$metrics/metrics" \
    -e "http://$metrics/sessions?slowest=20" -e 'data:,' || true)
[ -z "$elsewhere" ] || fail "requests: $elsewhere"
[ "$(most_requests_at_a_time)" = 1 ] || fail "$(most_requests_at_a_time) requests at a time"
printf '%s requests, one at a time, none to another host, nothing on the console\n' "$(requests | wc -l)"

say "each check of this script finds its violation"
for offence in \
    'try { document.body.innerHTML = "<b>markup</b>"; "done" } catch { "caught" }' \
    'fetch("http://127.0.0.1:9/").then(() => "done", () => "caught")' \
    'console.error("a word"); "caught"'; do
    before=$(wc -l <"$messages")
    evaluate "$offence"
    [ "$value" = caught ] || fail "the page may do this: $offence"
    complained() { [ -n "$(complaints "$((before + 1))")" ]; }
    until_true 10 "a console entry for: $offence" complained
done
evaluate 'Promise.all([fetch("/healthz"), fetch("/healthz?twice")]).then(() => "done")'
finds_both() { requests | grep -Fq '/healthz?twice' && [ "$(most_requests_at_a_time)" -ge 2 ]; }
until_true 10 "two requests at a time to be noticed" finds_both
evaluate 'document.querySelector(".says").style.cssText = "width:500px;display:block"; "done"'
if (page_fits "a page that is too wide") 2>/dev/null; then
    fail "a page that is too wide is not found"
fi

say "two servers of a cluster"
socket="$work/redis.sock"
start_redis
in_cluster=(--tick-ms 100 --stats-interval-secs 0 --cluster "unix://$socket")
start_server node_b "${in_cluster[@]}" --node b
start_client of_b --count 7 --log-sessions 0
node_b=$server_pid
start_server node_a "${in_cluster[@]}" --node a --metrics-addr 127.0.0.1:0
start_client of_a --count 5 --log-sessions 0
metrics=$(sed -n 's/.*metrics on //p' "$server_log")
open_live_page
node_rows='[...document.querySelectorAll("table.nodes tbody tr")]
    .map(row => [0, 1, 3].map(cell => row.cells[cell].textContent).join(" ")).join(", ")'
wait_for 20 'a (this node) 5 serving, b 7 serving' "$node_rows"
is_true 'document.querySelectorAll("table.nodes tr.self").length === 1'
# The age of the other node's last message: a heartbeat comes each second.
is_true '/^[0-9.]+ (ms|s)$/.test(document.querySelector("table.nodes tbody").rows[1].cells[2].textContent)'
page_fits "the page with nodes"
kill -STOP "$redis_pid"
is_true 'text(".link").startsWith("The link to the broker is down.")'
wait_for 20 'a (this node) 5 serving, b 7 serving' "$node_rows"
kill -CONT "$redis_pid"
wait_for 20 "" 'text(".link")'
kill_hard "$node_b"
wait_for 20 'a (this node) 5 serving' "$node_rows"

say "screenshots in $shots"
ls -l "$shots" | awk 'NR > 1 { print $5, $9 }'
printf '\nPASS\n'
