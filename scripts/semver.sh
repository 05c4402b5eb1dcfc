#!/usr/bin/env bash
# Compares the API of server_core, as its documentation shows it, with an earlier one: does what has
# changed break anybody? To be run before a release, whose version has to say so.
#
#   ./scripts/semver.sh             against the newest tag v*
#   ./scripts/semver.sh REVISION    against any other commit
#
# Needs cargo-semver-checks:
#
#   cargo install cargo-semver-checks --locked     # seven minutes of processor time
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! cargo semver-checks --version >/dev/null 2>&1; then
    echo "cargo-semver-checks is not installed: cargo install cargo-semver-checks --locked" >&2
    exit 69 # EX_UNAVAILABLE: nothing was compared.
fi
if ! baseline=${1:-$(git describe --tags --match 'v*' --abbrev=0 2>/dev/null)}; then
    echo "nothing has been released yet: name a commit to compare with" >&2
    exit 2
fi
exec cargo semver-checks -p server_core --baseline-rev "$baseline"
