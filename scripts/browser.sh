# Functions that find and start a headless Chromium, and drive a page in it over the debugging pipe. To be
# sourced after lib.sh. Needs Chromium (Debian: apt-get install chromium), or CHROMIUM=path.

chromium=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
[ -n "$chromium" ] || fail "no Chromium: install it, or set CHROMIUM"

# The resolver rule lets the browser reach 127.0.0.1 alone: the browser's requests to its vendor fail, and
# no traffic leaves this machine.
browser_flags=(--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
    --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars
    --host-resolver-rules='MAP * ~NOTFOUND, EXCLUDE 127.0.0.1')

# new_profile: a folder for one start of the browser.
new_profile() { mktemp -d "$work/profile.XXXXXX"; }

# ---- the page -----------------------------------------------------------------------------------

# start_browser: starts a browser with an empty page. The file $messages gets one line for each message of
# the browser: the answers to calls, and the events of the page.
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
    new_page
}

# new_page: opens an empty page in a window of its own, and sets $page: the later calls are for it.
new_page() {
    page=
    call Target.createTarget '{"url":"about:blank","newWindow":true}'
    call Target.attachToTarget "{\"targetId\":\"$(field targetId)\",\"flatten\":true}"
    page=$(field sessionId)
    local domain
    for domain in Page Runtime Log Network; do
        call "$domain.enable" '{}'
    done
}

# call METHOD PARAMS: calls a method of the page, or of the browser while no page is attached, and waits
# for the $answer.
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

# field NAME: prints a text field of the answer; the text must hold no escapes.
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" <<<"$answer"; }

# evaluate SCRIPT: runs the script in the page and sets $value to its result, which must be a text of
# letters, digits and signs that JSON does not escape.
evaluate() {
    local script
    script=$(sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' <<<"$1" | tr '\n' ' ')
    call Runtime.evaluate "{\"expression\":\"$script\",\"returnByValue\":true,\"awaitPromise\":true}"
    value=$(sed -n 's/.*"result":{"type":"string","value":"\(.*\)"}},"sessionId.*/\1/p' <<<"$answer")
}

# open_page URL: loads the page with all its elements, and fails if the browser cannot load it.
open_page() {
    call Page.navigate "{\"url\":\"$1\"}"
    [ -z "$(field errorText)" ] || fail "$1: $(field errorText)"
    is_true 'document.readyState === "complete"'
}

# set_screen WIDTH HEIGHT [light|dark] [SCALE]: sets the size in CSS pixels, the colour scheme and the scale.
set_screen() {
    call Emulation.setDeviceMetricsOverride \
        "{\"width\":$1,\"height\":$2,\"deviceScaleFactor\":${4:-1},\"mobile\":false}"
    call Emulation.setEmulatedMedia \
        "{\"features\":[{\"name\":\"prefers-color-scheme\",\"value\":\"${3:-light}\"}]}"
}

# screenshot FILE.png: saves what the screen shows.
screenshot() {
    call Page.captureScreenshot '{"format":"png"}'
    field data | base64 --decode >"$1"
    [ -s "$1" ] || fail "no screenshot $1"
}

# ---- conditions of the page ------------------------------------------------------------------------

# shows TEXT SCRIPT: succeeds if the script returns this text.
shows() {
    evaluate "$2"
    [ "$value" = "$1" ]
}
# wait_for SECONDS TEXT SCRIPT: waits until the script returns this text.
wait_for() {
    until_true "$1" "the page to show $2 at $3" shows "$2" "$3"
}
# is_true SCRIPT [SECONDS]: waits until the script returns true.
is_true() { wait_for "${2:-20}" true "String($1)"; }

# fits WHAT WIDTHS HEIGHT SELECTOR SCRIPT [light|dark]: fails if the page or an element is wider than the screen, or if
# the script is true for the `element` and its `box`, at each of these widths.
fits() {
    local width
    for width in $2; do
        set_screen "$width" "$3" "${6:-light}"
        evaluate "(() => {
            const root = document.documentElement;
            const found = [];
            if (root.scrollWidth > root.clientWidth) found.push(\`the page is \${root.scrollWidth} px wide\`);
            for (const element of document.querySelectorAll('$4')) {
                const box = element.getBoundingClientRect();
                if (box.left < -0.5 || box.right > root.clientWidth + 0.5 || ($5))
                    found.push(\`\${element.tagName}.\${element.className}#\${element.id} \${Math.round(box.left)} \${Math.round(box.right)}\`);
            }
            return found.length ? found.slice(0, 5).join('; ') : 'fits';
        })()"
        [ "$value" = fits ] || fail "$1 at $width px: $value"
    done
}

# ---- messages of the browser --------------------------------------------------------------------

# complaints N: prints the console entries and the uncaught exceptions, from the N-th message on.
complaints() {
    tail -n "+$1" "$messages" |
        { grep -E '"method":"(Log.entryAdded|Runtime.consoleAPICalled|Runtime.exceptionThrown)"' || true; }
}
# Prints the URL of each request.
requests() {
    sed -n 's/.*"method":"Network.requestWillBeSent".*"request":{"url":"\([^"]*\)".*/\1/p' "$messages"
}
