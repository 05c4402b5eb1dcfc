#!/usr/bin/env bash
# Checks the dependencies: known vulnerabilities, licences, bans, sources. The check for vulnerabilities
# downloads the database of advisories. Needs cargo-deny:
#
#   cargo install cargo-deny --locked     # seven minutes on two cores
#
# Arguments select checks: ./scripts/deny.sh licenses bans sources
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! cargo deny --version >/dev/null 2>&1; then
    echo "cargo-deny is not installed: cargo install cargo-deny --locked" >&2
    exit 1
fi
exec cargo deny --config .deny.toml check "$@"
