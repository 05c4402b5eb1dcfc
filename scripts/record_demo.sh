#!/usr/bin/env bash
# Draws scripts/demo.svg, the README's picture, from a real run of demo.sh. Times and module names
# of the log lines are left out for width; nothing else is changed.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
run="$(mktemp)"
trap 'rm -f "$run"' EXIT
"$here/demo.sh" >"$run"
sed -E -e 's/^\[[^ ]+ +([A-Z]+) +[^]]*\] /\1 /' -e 's/, queued .*$/, .../' "$run" | awk '
    { gsub(/&/, "\\&amp;"); gsub(/</, "\\&lt;"); gsub(/>/, "\\&gt;"); line[NR] = $0 }
    END {
        height = NR * 18 + 70
        printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 940 %d\" role=\"img\" aria-label=\"A run of scripts/demo.sh\">\n", height
        printf "<rect width=\"940\" height=\"%d\" rx=\"10\" fill=\"#14181f\"/>\n", height
        print "<circle cx=\"22\" cy=\"20\" r=\"6\" fill=\"#ff5f57\"/><circle cx=\"42\" cy=\"20\" r=\"6\" fill=\"#febc2e\"/><circle cx=\"62\" cy=\"20\" r=\"6\" fill=\"#28c840\"/>"
        print "<g font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace\" font-size=\"13\" fill=\"#c9d3e0\" xml:space=\"preserve\">"
        print "<text x=\"20\" y=\"52\" fill=\"#7ee787\">$ ./scripts/demo.sh</text>"
        for (n = 1; n <= NR; n++) {
            colour = ""
            if (line[n] ~ /^== /) colour = " fill=\"#79c0ff\" font-weight=\"bold\""
            if (line[n] ~ /^verdict   ok|^PASS$/) colour = " fill=\"#7ee787\""
            if (line[n] ~ /^INFO|^WARN/) colour = " fill=\"#8b96a5\""
            if (line[n] != "") printf "<text x=\"20\" y=\"%d\"%s>%s</text>\n", 52 + n * 18, colour, line[n]
        }
        print "</g></svg>"
    }' >"$here/demo.svg"
printf 'drew %s\n' "$here/demo.svg"
