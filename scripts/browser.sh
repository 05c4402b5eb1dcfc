# A headless Chromium for scripts: where it is, how it starts, and how a page in it is driven over
# its debugging pipe. To be sourced after lib.sh. Needs Chromium (Debian: apt-get install
# chromium), or CHROMIUM=path.

chromium=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
[ -n "$chromium" ] || fail "no Chromium: install it, or set CHROMIUM"

# The browser's own calls home find no host; nothing leaves this machine.
browser_flags=(--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
    --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars
    --host-resolver-rules='MAP * ~NOTFOUND, EXCLUDE 127.0.0.1')

# new_profile: a folder for one start of the browser.
new_profile() { mktemp -d "$work/profile.XXXXXX"; }

# ---- a page that is driven ----------------------------------------------------------------------

# start_browser: starts one with an empty page. All that it says is in $messages, one message a
# line: the answers to what it was asked, and what happens in the page meanwhile.
start_browser() {
    messages="$work/browser.messages"
    message_id=0
    page=
    : >"$messages"
    mkfifo "$work/to_browser" "$work/from_browser"
    "$chromium" "${browser_flags[@]}" --remote-debugging-pipe --user-data-dir="$(new_profile)" \
        3<"$work/to_browser" 4>"$work/from_browser" 2> >(grep -v dbus >"$work/browser.log") &
    browser_pid=$!
    pids+=("$browser_pid")
    stdbuf -oL tr '\0' '\n' <"$work/from_browser" >>"$messages" &
    pids+=("$!")
    exec {to_browser}>"$work/to_browser"
    call Target.createTarget '{"url":"about:blank"}'
    call Target.attachToTarget "{\"targetId\":\"$(field targetId)\",\"flatten\":true}"
    page=$(field sessionId)
    local domain
    for domain in Page Runtime Log Network; do
        call "$domain.enable" '{}'
    done
}

# call METHOD PARAMS: asks the browser, or the page once there is one, and waits for the $answer.
call() {
    message_id=$((message_id + 1))
    printf '{"id":%d,"method":"%s","params":%s%s}\0' "$message_id" "$1" "$2" \
        "${page:+,\"sessionId\":\"$page\"}" >&"$to_browser"
    until_true 60 "the browser's answer to $1" grep -q "^{\"id\":$message_id," "$messages"
    answer=$(grep "^{\"id\":$message_id," "$messages")
    case $answer in
        *'"error":{'* | *'"exceptionDetails":{'*) fail "$1: ${answer:0:500}" ;;
    esac
}

# field NAME: a text of the answer in which nothing is escaped.
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" <<<"$answer"; }

# evaluate SCRIPT: the text that the script makes in the page, of letters, digits and simple signs.
evaluate() {
    local script
    script=$(sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' <<<"$1" | tr '\n' ' ')
    call Runtime.evaluate "{\"expression\":\"$script\",\"returnByValue\":true,\"awaitPromise\":true}"
    value=$(sed -n 's/.*"result":{"type":"string","value":"\(.*\)"}},"sessionId.*/\1/p' <<<"$answer")
}

# open_page URL
open_page() {
    call Page.navigate "{\"url\":\"$1\"}"
    [ -z "$(field errorText)" ] || fail "$1: $(field errorText)"
}

# set_screen WIDTH HEIGHT [light|dark] [SCALE]: of so many pixels at a scale of 1.
set_screen() {
    call Emulation.setDeviceMetricsOverride \
        "{\"width\":$1,\"height\":$2,\"deviceScaleFactor\":${4:-1},\"mobile\":false}"
    call Emulation.setEmulatedMedia \
        "{\"features\":[{\"name\":\"prefers-color-scheme\",\"value\":\"${3:-light}\"}]}"
}

# screenshot FILE.png: what is on the screen.
screenshot() {
    call Page.captureScreenshot '{"format":"png"}'
    field data | base64 --decode >"$1"
    [ -s "$1" ] || fail "no screenshot $1"
}
