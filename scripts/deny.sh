#!/usr/bin/env bash
# Checks the dependencies: known vulnerabilities, licences, sources. Needs the network for the
# first (the database of advisories), and cargo-deny:
#
#   cargo install cargo-deny --locked     # seven minutes on two cores
#
# Words choose checks: ./scripts/deny.sh licenses bans sources
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! cargo deny --version >/dev/null 2>&1; then
    echo "cargo-deny is not installed: cargo install cargo-deny --locked" >&2
    exit 1
fi
exec cargo deny --config .deny.toml check "$@"
