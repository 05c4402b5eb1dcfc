#!/usr/bin/env bash
# Runs the attacks: 200 healthy sessions and 12 neighbours that read every 10 to 50 ms beside the
# attackers, one attack after the other, each with a new server. An attack fails if a healthy session or
# a neighbour is lost or loses a tick, if the p99 tick delay rises by more than 20 ms, or if the server does
# not kick an attacker that it should kick. If the client was too busy to measure the tick delay, the attack
# is inconclusive and does not fail.
#
#   ./scripts/attack.sh                      all twenty-one, about twelve minutes
#   ./scripts/attack.sh zero-size no-read    these two
#   HEALTHY=200 ATTACKERS=20 SECS=30 ./scripts/attack.sh
#   TRANSPORT=tls ./scripts/attack.sh        over TLS, with the attacks on TLS; ws: over WebSocket;
#                                            all: over plain TCP, TLS and WebSocket, one after the other
#
# Without ATTACKERS each attack has its own number: 20, 150 (chat-burst), 200 (drip-login) or 1,000
# (ask-and-not-read, silent-flood).
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
healthy=${HEALTHY:-200}
attackers=(${ATTACKERS:+--attackers "$ATTACKERS"})
secs=${SECS:-30}
case ${TRANSPORT:-tcp} in
    tcp | tls | ws) transport=${TRANSPORT:-tcp} ;;
    all)
        status=0
        for transport in tcp tls ws; do
            TRANSPORT=$transport "${BASH_SOURCE[0]}" "$@" || status=$?
        done
        exit "$status"
        ;;
    *) fail "TRANSPORT is tcp, tls, ws or all, not $TRANSPORT" ;;
esac
attacks=("$@")
if [ ${#attacks[@]} = 0 ]; then
    attacks=(zero-size short-size huge-size unknown-id server-id id-sweep bad-utf8 slowloris no-read
        echo-flood chat-flood rst-storm half-close connect-flood garbage chat-churn chat-burst
        ask-and-not-read silent-flood drip-login proxy-lies)
    case $transport in
        tls) attacks+=(tls-garbage tls-handshake-flood tls-renegotiate tls-key-updates tls-tiny-records) ;;
        ws) attacks+=(ws-bad-upgrade ws-unmasked ws-fragments ws-ping-flood) ;;
    esac
fi
# The flags of the server, what its log says of the listener, and the flags of the client.
listen=() listener='listening on' connect=()
case $transport in
    tcp) build ;;
    tls)
        build --all-features
        # A certificate of its own, which is not marked as that of an authority.
        printf '[req]\ndistinguished_name=dn\n[dn]\n' >"$work/req.cnf"
        openssl req -x509 -config "$work/req.cnf" -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
            -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=CA:FALSE \
            -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
        listen=(--tls-addr 127.0.0.1:0 --tls-cert "$work/cert.pem" --tls-key "$work/key.pem")
        listener='tls on' connect=(--tls --ca "$work/cert.pem")
        ;;
    ws)
        build --all-features
        listen=(--ws-addr 127.0.0.1:0)
        listener='websocket on' connect=(--ws)
        ;;
esac
say "$transport: $healthy healthy sessions and 12 neighbours beside ${ATTACKERS:-the default number of} attackers, $secs s each"
printf '%-20s %-9s %5s %10s %12s %12s  %s\n' attack verdict lost neighbours 'p99 without' 'p99 with' \
    'attackers'
failed=() inconclusive=()
for attack in "${attacks[@]}"; do
    start_server "server-$attack" --stats-interval-secs 0 "${listen[@]}"
    until_true 10 "$listener" grep -q "$listener" "$server_log"
    addr=$(sed -n "s/.*$listener //p" "$server_log" | head -n 1)
    status=0
    start_client "$attack" "${connect[@]}" --count "$healthy" --attack "$attack" "${attackers[@]}" \
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
    printf '%-20s %-9s %5s %10s %12s %12s  %s\n' \
        "$attack" "$verdict" "$missing" "$neighbours" "$before" "$during" "$kicked"
    if grep -q '"newcomers": {' "$work/$attack.json"; then
        printf '                     newcomers: %s tried, %s not served, longest wait %s ms\n' \
            "$(figure "$attack" newcomers tried)" "$(figure "$attack" newcomers not_served)" \
            "$(figure "$attack" newcomers longest_wait_ms)"
    fi
    if [ "$status" != 0 ]; then
        failed+=("$attack")
        sed -n 's/^\(failed .*\)/                     \1/p' "$out"
    elif [ "$verdict" != ok ]; then
        inconclusive+=("$attack")
        sed -n 's/^\(limited .*\)/                     \1/p' "$out"
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
