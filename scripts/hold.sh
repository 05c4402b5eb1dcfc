#!/usr/bin/env bash
# Measures the figures that the server has to hold (memory, time, processor) on the release build, from
# outside, and prints a table. Takes about four minutes on an idle machine. Arguments select measurements by
# name: ./scripts/hold.sh flood period
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec cargo bench --quiet --locked -p game_server --bench hold -- "$@"
