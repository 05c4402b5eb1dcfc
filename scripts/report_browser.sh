#!/usr/bin/env bash
# Tests the report in a real browser: headless Chromium renders the reports of two real runs, an ok run and
# a run whose server shuts down in the middle. A report must render without a console entry and without a
# request, with all its plots, in light and in dark, and on a phone without horizontal scrolling.
#
#   ./scripts/report_browser.sh            SHOTS=folder ./scripts/report_browser.sh
#   ./scripts/report_browser.sh A.json B.json ...
#
# With JSON reports as arguments, checks the pages of these reports and starts no run. SHOTS keeps the
# screenshots. Needs Chromium: see browser.sh.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$(dirname "${BASH_SOURCE[0]}")/browser.sh"
shots=${SHOTS:-$work/shots}
mkdir -p "$shots"

# browse NAME ARGS...: starts the browser with a profile of its own; standard error goes to NAME.browser.
browse() {
    local name=$1
    shift
    timeout 60 "$chromium" "${browser_flags[@]}" \
        --enable-logging=stderr --v=0 --user-data-dir="$(new_profile)" \
        "$@" 2>"$work/$name.browser" || fail "$chromium could not render $name"
}

# render NAME FILE: renders the page; its DOM goes to NAME.dom, its network log to NAME.net.
render() { browse "$1" --log-net-log="$work/$1.net" --dump-dom "file://$2" >"$work/$1.dom"; }
console() { grep CONSOLE "$work/$1.browser" || true; }
# Prints the requests of the page, without the browser's own requests.
requests() {
    { grep -o '"initiator":"[^"]*"' "$work/$1.net" || true; } | { grep -v 'not an origin' || true; }
}

# shoot NAME WIDTH HEIGHT FILE ARGS...: saves a screenshot of the page as NAME.png.
shoot() {
    local name=$1 width=$2 height=$3 file=$4
    shift 4
    browse "$name" --window-size="$width,$height" --screenshot="$shots/$name.png" "$@" "file://$file"
    [ -s "$shots/$name.png" ] || fail "no screenshot $name.png"
}
dark=--blink-settings=preferredColorScheme=0

# framed WIDTH HEIGHT REPORT: prints a frame of that size with the report in it, as on a phone. A window of
# Chromium cannot be narrower than 500 px; a frame can.
framed() {
    printf '<iframe style="border:0;width:%spx;height:%spx" srcdoc="' "$1" "$2"
    sed -e 's/&/\&amp;/g' -e 's/"/\&quot;/g' "$3"
    printf '"></iframe>'
}

# measured NAME WIDTH REPORT: prints "fits", or the elements that are too wide, and the number of visible plots.
measured() {
    {
        printf '<!doctype html><meta charset="utf-8">'
        framed "$2" 800 "$3"
        cat <<'HTML'
<pre id="measured"></pre>
<script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  const root = page.documentElement;
  const found = [];
  if (root.scrollWidth > root.clientWidth) found.push(`the page is ${root.scrollWidth} px wide`);
  for (const element of page.querySelectorAll("main *:not(.unseen)")) {
    const box = element.getBoundingClientRect();
    if (box.left < -0.5 || box.right > root.clientWidth + 0.5)
      found.push(`${element.tagName} ${element.textContent.trim().slice(0, 20)} ${box.left} ${box.right}`);
  }
  const seen = [...page.querySelectorAll("svg.plot")].filter(plot => {
    const box = plot.getBoundingClientRect();
    const drawn = plot.querySelectorAll("path:not(.grid), rect, circle").length;
    const styled = [...plot.querySelectorAll("path:not(.soft)")].every(line => {
      const style = page.defaultView.getComputedStyle(line);
      return style.stroke !== "none" && parseFloat(style.strokeWidth) >= 2;
    });
    return box.width > 200 && box.height > 100 && drawn > 1 && styled;
  });
  document.querySelector("#measured").textContent =
    `${found.length ? found.join("; ") : "fits"}, ${seen.length} plots`;
};
</script>
HTML
    } >"$work/$1.html"
    render "$1" "$work/$1.html"
    sed -n 's/.*<pre id="measured">\(.*\)<\/pre>.*/\1/p' "$work/$1.dom"
}

# check NAME VERDICT PLOTS: fails unless the report renders as the head of this file says, with all its plots
# and at least this number of them.
check() {
    local name=$1 verdict=$2 least=$3 plots
    render "$name" "$work/$name.html"
    [ -z "$(console "$name")" ] || fail "$name: on the console: $(console "$name")"
    [ -z "$(requests "$name")" ] || fail "$name: the page sent requests: $(requests "$name")"
    grep -q "<header class=\"verdict $verdict\">" "$work/$name.dom" || fail "$name: no verdict"
    grep -q '<script type="application/json" id="summary">{' "$work/$name.dom" || fail "$name: no summary"
    plots=$(grep -c '<svg class="plot"' "$work/$name.html") || true
    [ "$plots" -ge "$least" ] || fail "$name: $plots plots"
    local width found
    for width in 320 390 1200; do
        found=$(measured "${name}_$width" "$width" "$work/$name.html")
        [ "$found" = "fits, $plots plots" ] || fail "$name at $width px: $found, of $plots plots"
    done
    printf '%s: %s, %s plots, %s bytes, no request, nothing on the console, fits 320 to 1200 px\n' \
        "$name" "$verdict" "$plots" "$(stat -c %s "$work/$name.html")"
}

build
if [ "$#" -gt 0 ]; then
    say "the pages of JSON reports"
    for json in "$@"; do
        name=$(basename "$json" .json)
        "$bin/dummy_client" report "$json" --out "$work/$name.html"
        check "$name" "$(sed -n 's/.*"verdict": *"\([a-z_]*\)".*/\1/p' "$json" | head -n 1)" 0
        shoot "$name" 1160 1800 "$work/$name.html"
    done
    printf '\nPASS\n'
    exit 0
fi

say "an ok run, with echoes"
start_server server --tick-ms 100 --stats-interval-secs 0
start_client ok --seed 1 --count 500 --ramp-per-sec 100 --echo-hz 1 --duration-secs "${SECONDS_OK:-10}" \
    --log-sessions 0 --report "$work/ok.html"
good_end $((${SECONDS_OK:-10} + 60)) ok "$client_pid"
tail -n 1 "$work/ok.out"

say "a run whose server shuts down in the middle"
start_client failed --count 200 --log-sessions 0 --report "$work/failed.html"
two_seconds() { [ "$(grep -c ' 200/200 sessions' "$client_log")" -ge 2 ]; }
until_true 20 "two seconds of the run" two_seconds
kill -TERM "$server_pid"
status=0
end_of $((${SECONDS_OK:-10} + 60)) "$client_pid" || status=$?
[ "$status" = 1 ] || fail "the client ended with status $status"
tail -n 1 "$work/failed.out"

say "each check of this script finds its violation"
# The page gets an inline script and an image of another host. The policy of the page blocks both, and the
# console has an entry for each.
sed 's#<main>#<main><script>1</script><img src="http://127.0.0.1:9/x.png">#' "$work/ok.html" \
    >"$work/bad.html"
render bad "$work/bad.html"
[ "$(console bad | wc -l)" -ge 2 ] || fail "two violations are not on the console"
[ -z "$(requests bad)" ] || fail "the policy lets an image load"
# Without the policy the page sends the request.
sed '/Content-Security-Policy/d' "$work/bad.html" >"$work/worse.html"
render worse "$work/worse.html"
[ -n "$(requests worse)" ] || fail "a request is not found"
sed 's#<main>#<main><p style="width:500px">wide</p>#' "$work/ok.html" >"$work/wide.html"
case $(measured wide_390 390 "$work/wide.html") in
    fits*) fail "a page that is too wide is not found" ;;
esac

verdict_of() { sed -n 's/^verdict *\([a-z_]*\) .*/\1/p' "$work/$1.out"; }
say "the reports"
check ok "$(verdict_of ok)" 7
check failed "$(verdict_of failed)" 5
grep -q '10 shutdown: ' "$work/failed.dom" || fail "the server's disconnect reason is not in the report"

say "screenshots in $shots"
shoot report_light 1000 2340 "$work/ok.html"
shoot report_dark 1000 2340 "$work/ok.html" "$dark"
shoot report_failed 1000 1480 "$work/failed.html"
{
    printf '<!doctype html><meta charset="utf-8"><body style="margin:0;display:flex;gap:20px">'
    framed 390 844 "$work/ok.html"
    framed 390 844 "$work/ok.html"
    cat <<'HTML'
<script>
onload = () =>
  document.querySelectorAll("iframe")[1].contentDocument.querySelector(".plots").scrollIntoView();
</script>
HTML
} >"$work/phone.html"
shoot report_phone 800 844 "$work/phone.html"
# Equal screenshots mean that the dark scheme has no effect.
cmp -s "$shots/report_light.png" "$shots/report_dark.png" && fail "dark looks like light"
ls -l "$shots" | awk 'NR > 1 { print $5, $9 }'
printf '\nPASS\n'
