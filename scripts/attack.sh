#!/usr/bin/env bash
# Runs the attacks: 200 healthy sessions and 12 neighbours that read every 10 to 50 ms beside the
# attackers, one attack after the other, each with a new server. An attack fails if a healthy session or
# a neighbour is lost or loses a tick, if the p99 tick delay rises by more than 20 ms, or if the server does
# not kick an attacker that it should kick. If the client was too busy to measure the tick delay, the attack
# is inconclusive and does not fail.
#
#   ./scripts/attack.sh                      all nineteen, about eleven minutes
#   ./scripts/attack.sh zero-size no-read    these two
#   HEALTHY=200 ATTACKERS=20 SECS=30 ./scripts/attack.sh
#
# Without ATTACKERS each attack has its own number: 20, 150 (chat-burst), 200 (drip-login) or 1,000
# (ask-and-not-read, silent-flood).
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
healthy=${HEALTHY:-200}
attackers=(${ATTACKERS:+--attackers "$ATTACKERS"})
secs=${SECS:-30}
attacks=("$@")
if [ ${#attacks[@]} = 0 ]; then
    attacks=(zero-size short-size huge-size unknown-id server-id id-sweep bad-utf8 slowloris no-read
        echo-flood chat-flood rst-storm half-close connect-flood garbage chat-churn chat-burst
        ask-and-not-read silent-flood drip-login proxy-lies)
fi

build
say "$healthy healthy sessions and 12 neighbours beside ${ATTACKERS:-the default number of} attackers, $secs s each"
printf '%-16s %-9s %5s %10s %12s %12s  %s\n' attack verdict lost neighbours 'p99 without' 'p99 with' \
    'attackers'
failed=() inconclusive=()
for attack in "${attacks[@]}"; do
    start_server "server-$attack" --stats-interval-secs 0
    status=0
    start_client "$attack" --count "$healthy" --attack "$attack" "${attackers[@]}" \
        --duration-secs "$secs" --log-sessions 0 --json "$work/$attack.json"
    end_of $((secs + 60)) "$client_pid" || status=$?
    out="$work/$attack.out"
    verdict=$(sed -n 's/^  "verdict": "\([a-z_]*\)".*/\1/p' "$work/$attack.json")
    missing=$(figure "$attack" ticks_missing value)
    before="$(figure "$attack" baseline p99_ms | cut -c 1-6) ms"
    during="$(figure "$attack" during p99_ms | cut -c 1-6) ms"
    neighbours=$(figure "$attack" neighbours lost)
    kicked="$(figure "$attack" stats connections) connections, kicked:$(
        awk '/"kicked": {/ { on = 1; sub(/.*{/, "") } on && /}/ { print; exit } on' "$work/$attack.json" |
            tr -d '"{},\n' | tr -s ' '
    )"
    printf '%-16s %-9s %5s %10s %12s %12s  %s\n' \
        "$attack" "$verdict" "$missing" "$neighbours" "$before" "$during" "$kicked"
    if grep -q '"newcomers": {' "$work/$attack.json"; then
        printf '                 newcomers: %s tried, %s not served, longest wait %s ms\n' \
            "$(figure "$attack" newcomers tried)" "$(figure "$attack" newcomers not_served)" \
            "$(figure "$attack" newcomers longest_wait_ms)"
    fi
    if [ "$status" != 0 ]; then
        failed+=("$attack")
        sed -n 's/^\(failed .*\)/                 \1/p' "$out"
    elif [ "$verdict" != ok ]; then
        inconclusive+=("$attack")
        sed -n 's/^\(limited .*\)/                 \1/p' "$out"
    fi
    is_running "$server_pid" || fail "$attack: the server has died"
    kill -TERM "$server_pid"
    end_of 60 "$server_pid" || fail "$attack: the server did not exit with status 0"
    rm -f "$work/$attack".* "$work/server-$attack.log"
done
[ ${#failed[@]} = 0 ] || fail "attacks failed: ${failed[*]}"
if [ ${#inconclusive[@]} = 0 ]; then
    printf '\nPASS\n'
else
    printf '\nINCONCLUSIVE: no tick was lost; the tick delay is unknown for: %s\n' "${inconclusive[*]}"
    printf 'The client was the bottleneck: repeat these attacks on an idle machine.\n'
fi
