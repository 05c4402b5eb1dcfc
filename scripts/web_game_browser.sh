#!/usr/bin/env bash
# Tests the example `web` of server_core in a real browser: a server with 64 bots over TCP, and two pages over
# WebSocket. The pages must see each other and their neighbours alone, by the steps of keys; a line of chat must
# reach the other page and a bot, as text and not as markup. A page that moves faster than the rules allow must be
# held to them. After a kill of the server both pages must say so, and must be back when a server is there again.
# The page must fit a phone, write nothing on the console, and send no request to another host.
#
#   ./scripts/web_game_browser.sh             SHOTS=folder ./scripts/web_game_browser.sh
#
# SHOTS keeps the screenshots. Needs Chromium: see browser.sh.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$(dirname "${BASH_SOURCE[0]}")/browser.sh"
shots=${SHOTS:-$work/shots}
mkdir -p "$shots"

bots=64
# start_world NAME TCP_ADDR WEB_ADDR: sets world_pid, tcp and web.
start_world() {
    "$program" --addr "$2" --web-addr "$3" --bots "$bots" --stay >"$work/$1.out" 2>"$work/$1.log" &
    world_pid=$!
    pids+=("$world_pid")
    until_true 20 "the world to listen" grep -q '^listening on' "$work/$1.out"
    tcp=$(sed -n 's/^listening on //p' "$work/$1.out")
    web=$(sed -n 's|^in the browser: http://\(.*\)/|\1|p' "$work/$1.out")
}

# key down|up CODE: a key of the keyboard, for the page.
key() {
    local type=keyUp
    [ "$1" = down ] && type=rawKeyDown
    call Input.dispatchKeyEvent "{\"type\":\"$type\",\"code\":\"$2\",\"key\":\"$2\"}"
}
# type_line TEXT: chats by the keyboard alone.
type_line() {
    key down Enter
    key up Enter
    is_true 'document.activeElement === input'
    call Input.insertText "{\"text\":\"$1\"}"
    call Input.dispatchKeyEvent '{"type":"keyDown","code":"Enter","key":"Enter","windowsVirtualKeyCode":13,"text":"\r"}'
    key up Enter
    is_true 'input.value === ""'
    key down Escape
    is_true 'document.activeElement !== input'
}

# get NAME EXPRESSION: sets a variable to a value of the page. Not for a subshell, which would lose the number of
# the call.
get() {
    evaluate "String($2)"
    printf -v "$1" '%s' "$value"
}
# get_place [STATE]: sets x and y to where the page's player is.
get_place() {
    get x "game.${1:-place}.x"
    get y "game.${1:-place}.y"
}

open_game() {
    open_page "http://$web/"
    # Two pages of one browser: both count as the page in front, so both are drawn and have their timers.
    call Emulation.setFocusEmulationEnabled '{"enabled":true}'
    set_screen 1200 700 dark
    wait_for 20 live 'document.querySelector("#state").textContent'
}

# Functions of the page for the checks below.
checks='
    window.strangers = 0;
    const onSeen = handlers[ID.seen];
    handlers[ID.seen] = reader => {
        onSeen(reader);
        if (!isInSight(game.players.get(new Reader(reader.bytes).session()))) window.strangers++;
    };
    window.others = () => game.players.size - 1;
    "ready"'

# wait_until_seen WHO X Y: waits until the page has this player at this place.
wait_until_seen() {
    is_true "(() => { const it = game.players.get(\"$1\"); return it && it.x === $2 && it.y === $3; })()"
}

# walk CODE STEPS: holds a key until the server has moved the page's player by this number of cells, and has answered each
# step. The server refuses a step that comes too early, behind a stall for example.
walk() {
    local x y
    get_place confirmed
    key down "$1"
    is_true "(([dx, dy]) => (game.confirmed.x - $x) * dx + (game.confirmed.y - $y) * dy >= $2)(DIRECTIONS.$1)"
    key up "$1"
    is_true 'game.pending.length === 0'
}

build_example() {
    local profile=${PROFILE:-release} target
    say "building ($profile)"
    target="$(realpath -m "${CARGO_TARGET_DIR:-$repo/target}")"
    (cd "$repo" && cargo build --quiet --profile "$profile" --target-dir "$target" \
        -p server_core --features websocket --example web)
    [ "$profile" = dev ] && profile=debug
    program="$target/$profile/examples/web"
}
if [ -n "${PROGRAMS:-}" ]; then program="$PROGRAMS/web"; else build_example; fi

say "$bots bots, two pages"
start_world world 127.0.0.1:0 127.0.0.1:0
start_browser
one=$page
open_game
evaluate "$checks"
get me_one game.me
new_page
two=$page
open_game
evaluate "$checks"
get me_two game.me
wait_for 20 $((bots + 2)) 'String(game.inWorld)'
get_place
page=$one
wait_until_seen "$me_two" "$x" "$y"
get_place
page=$two
wait_until_seen "$me_one" "$x" "$y"
page=$one
is_true 'game.latency > 0 && /^[\d.]+ ms$/.test(document.querySelector("#ping span").textContent)'
get text "\`\${nameOf(game.me)} and \${nameOf(\"$me_two\")}; latency \${game.latency.toFixed(1)} ms\`"
printf 'the pages are %s\n' "$text"

say "a page moves by its keys, the other one sees it"
get_place
before="$x $y"
walk KeyD 3
walk ArrowUp 2
get_place confirmed
[ "$x" -ge $((${before% *} + 3)) ] && [ "$y" -le $((${before#* } - 2)) ] ||
    fail "from $before three steps right and two up to $x $y"
page=$two
wait_until_seen "$me_one" "$x" "$y"
printf 'at %s,%s\n' "$x" "$y"

say "a key that is held in the chat is text"
page=$one
key down Enter
is_true 'document.activeElement === input'
get before game.steps
key down KeyD
key up KeyD
key down Escape
shows "$before" 'String(game.steps)' || fail "the player walks while its user types"

say "chat: to the other page and to a bot, and back"
# The bots near the first cells answer a greeting that begins with "hello".
said() { printf 'game.lines.some(line => line.who %s && line.text.includes("%s"))' "$1" "$2"; }
type_line 'hello <b>there</b> <img src=x onerror=document.title=1> \u202eevil'
is_true "$(said "=== \"$me_one\"" '<b>there</b>')"
page=$two
is_true "$(said "=== \"$me_one\"" '<b>there</b>')"
is_true 'document.querySelectorAll("#log bdi b, #log img").length === 0 && document.title === "Zones"'
is_true '!document.querySelector("#log").textContent.includes("\u202e")'
type_line 'hello too'
is_true "$(said "=== \"$me_two\"" 'hello too')"
page=$one
is_true "$(said "=== \"$me_two\"" 'hello too')"
# A bot answers within earshot: the page goes where one is, and greets again.
greeted=0
bot_has_answered() {
    evaluate "String(game.lines.some(line => line.who && line.who !== \"$me_one\" && line.who !== \"$me_two\"))"
    [ "$value" = true ] && return
    if [ $((SECONDS - greeted)) -ge 2 ]; then
        greeted=$SECONDS
        type_line 'hello bots'
    fi
    return 1
}
until_true 40 "an answer of a bot" bot_has_answered
evaluate "game.lines.findLast(line => line.who && line.who !== \"$me_one\" && line.who !== \"$me_two\").text"
printf 'a bot: %s\n' "$value"

say "neighbours only"
for page in "$one" "$two"; do
    is_true 'others() > 0'
    evaluate '(() => {
        const far = [...game.players.values()].filter(player => !isInSight(player)).length;
        return `${far} ${window.strangers} ${others()} ${game.inWorld}`;
    })()'
    read -r far strangers others in_world <<<"$value"
    [ "$far $strangers" = "0 0" ] || fail "the page has seen players out of sight: $value"
    [ "$others" -lt "$in_world" ] || fail "the page sees all players"
    printf '%s of %s players in sight, %s ever out of sight\n' "$others" "$in_world" "$strangers"
done

say "out of sight and back"
page=$one
walk ArrowLeft 30
page=$two
is_true "!game.players.has(\"$me_one\")"
page=$one
is_true "!game.players.has(\"$me_two\")"
walk ArrowRight 28
is_true "game.players.has(\"$me_two\")"
page=$two
is_true "game.players.has(\"$me_one\")"

say "the server holds a page to its speed"
page=$one
get before game.confirmed.x
evaluate '(() => {
    const onHere = handlers[ID.here], sentAt = performance.now();
    handlers[ID.here] = reader => {
        onHere(reader);
        window.answeredMs = Math.round(performance.now() - sentAt);
    };
    for (let step = 0; step < 15; step++) takeStep(-1, 0);
    return "sent";
})()'
is_true 'game.pending.length === 0'
# Two ticks of 50 ms a step, four ticks early: a burst of three steps, and one more for each 100 ms until the last answer.
get x game.confirmed.x
get ms window.answeredMs
moved=$((before - x)) most=$((4 + ms / 100))
[ "$moved" -ge 1 ] && [ "$moved" -le "$most" ] || fail "of 15 steps at once, $moved were taken in $ms ms"
is_true 'game.place.x === game.confirmed.x && game.place.y === game.confirmed.y'
printf 'of 15 steps at once, %s were taken in %s ms\n' "$moved" "$ms"

say "what no server of ours sends ends the connection, and the page is back"
for bytes in '3, 0, 5, 0' '6, 0, 6, 0, 1, 2' '14, 0, 6, 0, 1, 0, 0, 0, 0, 0, 0, 0, 255, 255' \
    '13, 0, 8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 255'; do
    evaluate "connection.socket.onmessage({ data: new Uint8Array([$bytes]).buffer });
        game.state + \": \" + game.reason"
    [[ "$value" == "lost: The server sent "* ]] || fail "the page goes on after $bytes: $value"
    printf '%s\n' "${value#*: }"
    wait_for 30 live 'game.state'
done
evaluate 'connection.socket.onmessage({ data: "text" }); game.state'
[ "$value" = lost ] || fail "the page takes a text message"
wait_for 30 live 'game.state'
get me_one game.me
# Packets in pieces of one byte, and one of an id that the page does not know.
evaluate '(() => {
    for (const byte of [5, 0, 99, 0, 1, 8, 0, 10, 0, 77, 0, 0, 0])
        connection.socket.onmessage({ data: new Uint8Array([byte]).buffer });
    return game.state + " " + game.inWorld;
})()'
[ "$value" = "live 77" ] || fail "packets in pieces: $value"

say "the page draws each player, and itself in the middle"
# The colours that the picture must have: the ring of the own player, and a neighbour's.
evaluate '(() => {
    const canvas = document.querySelector("#map");
    const draw = canvas.getContext("2d");
    const { width, height } = canvas;
    const near = draw.getImageData(width / 2 - 60, height / 2 - 60, 120, 120).data;
    let ring = 0;
    for (let at = 0; at < near.length; at += 4) ring += near[at] === 116 && near[at + 1] === 171 && near[at + 2] === 255;
    const mini = document.querySelector("#minimap");
    const dots = mini.getContext("2d").getImageData(0, 0, mini.width, mini.height).data;
    let white = 0;
    for (let at = 0; at < dots.length; at += 4) white += dots[at] === 255 && dots[at + 1] === 255 && dots[at + 2] === 255;
    return `${ring > 20} ${white > 2}`;
})()'
[ "$value" = "true true" ] || fail "the drawing has no own player: $value"

say "screenshots"
type_line 'What a lovely day for a walk.'
page=$two
type_line 'hello, anyone here?'
page=$one
sleep 1 # For the looks: the bots answer. No check depends on it.
screenshot "$shots/web_game.png"
set_screen 390 780 dark
call Emulation.setTouchEmulationEnabled '{"enabled":true}'
is_true 'document.documentElement.scrollWidth <= 390'
is_true 'matchMedia("(pointer: coarse)").matches && getComputedStyle(pad).display === "block"'

say "the touch pad moves"
evaluate '(() => { const box = pad.getBoundingClientRect(); return [box.left + box.width * 0.88, box.top + box.height / 2].map(Math.round).join(); })()'
touch="{\"type\":\"touchStart\",\"touchPoints\":[{\"x\":${value%,*},\"y\":${value#*,}}]}"
get x game.place.x
call Input.dispatchTouchEvent "$touch"
is_true "game.place.x > $x"
screenshot "$shots/web_game_phone.png"
call Input.dispatchTouchEvent '{"type":"touchEnd","touchPoints":[]}'
is_true 'padDirection.join() === "0,0"'
call Emulation.setTouchEmulationEnabled '{"enabled":false}'
fits 'the game' '320 390 721 1400' 700 'header, aside, #chat, form button' \
    'box.top < -0.5 || box.bottom > innerHeight + 0.5
        || element.tagName === "ASIDE" && (head => head.right > box.left && head.bottom > box.top)(
            document.querySelector("header").getBoundingClientRect())' dark
set_screen 1200 700 dark
[ -z "$(complaints 1)" ] || fail "on the console: $(complaints 1 | cut -c 1-300)"

say "the server is killed"
alive=$(wc -l <"$messages")
kill_hard "$world_pid"
for page in "$one" "$two"; do
    wait_for 20 'no contact' 'document.querySelector("#state").textContent'
    is_true '!document.querySelector("#over").hidden'
done
page=$one
is_true 'connection.attempts >= 4' 60
screenshot "$shots/web_game_lost.png"

say "a server on the same ports again"
start_world world_again "$tcp" "$web"
for page in "$one" "$two"; do
    wait_for 40 live 'game.state'
    wait_for 20 $((bots + 2)) 'String(game.inWorld)'
    is_true 'document.querySelector("#over").hidden && others() > 0'
done
get me_two game.me
page=$one
get me_one game.me
is_true "game.players.has(\"$me_two\")"
walk KeyA 2
get_place confirmed
page=$two
wait_until_seen "$me_one" "$x" "$y"
printf 'both pages are back, and see each other\n'

unexpected=$(complaints "$((alive + 1))" | grep -v ERR_CONNECTION_REFUSED || true)
[ -z "$unexpected" ] || fail "on the console: ${unexpected:0:500}"
elsewhere=$(requests | grep -Fxv -e "http://$web/" -e 'data:,' || true)
[ -z "$elsewhere" ] || fail "requests: $elsewhere"
sockets=$(sed -n 's/.*"method":"Network.webSocketCreated","params":{"requestId":"[^"]*","url":"\([^"]*\)".*/\1/p' "$messages" | sort -u)
[ "$sockets" = "ws://$web/" ] || fail "sockets: $sockets"

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
evaluate 'game.players.set("1", newPlayer("1", 0, 0)); String([...game.players.values()].every(isInSight))'
[ "$value" = false ] || fail "a player in the far corner counts as a neighbour"
is_running "$world_pid" || fail "the world has ended: $(tail -n 1 "$work/world_again.out")"

say "screenshots in $shots"
ls -l "$shots" | awk 'NR > 1 { print $5, $9 }'
printf '\nPASS\n'
