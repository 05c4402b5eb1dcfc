#!/usr/bin/env bash
# Compares the public API of server_core with the API of an earlier commit, and fails if a change breaks
# users. Run it before a release: the version of a release has to announce such a change.
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
    exit 69 # EX_UNAVAILABLE: no comparison ran.
fi
if ! baseline=${1:-$(git describe --tags --match 'v*' --abbrev=0 2>/dev/null)}; then
    echo "nothing has been released yet: name a commit to compare with" >&2
    exit 2
fi
exec cargo semver-checks -p server_core --baseline-rev "$baseline"
