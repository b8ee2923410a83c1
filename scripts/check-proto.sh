#!/usr/bin/env bash
# The wire contracts: style, format, and that nothing breaks callers of the commit before. Where there is no commit before
# (a shallow clone, a tarball) or it had no contracts, the last check says so and passes.
set -euo pipefail
cd "$(dirname "$0")/.."
buf=node_modules/.bin/buf

"$buf" lint
"$buf" format --diff --exit-code

# Committed work is compared with its parent, work in progress with the last commit.
before=HEAD
if git diff --quiet HEAD -- proto buf.yaml 2>/dev/null; then before=HEAD~1; fi
if ! git cat-file -e "$before:buf.yaml" 2>/dev/null; then
  echo "check-proto: no earlier contracts to compare with"
  exit 0
fi
old=$(mktemp -d)
trap 'rm -rf "$old"' EXIT
git archive "$before" proto buf.yaml | tar -x -C "$old"
"$buf" breaking --against "$old"
